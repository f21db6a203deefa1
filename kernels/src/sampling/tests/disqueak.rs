//! DISQUEAK: merges, and the trie that has no history.

use super::*;
use crate::sampling::leverage::{exact_scores, merge_scale};
use crate::sampling::{
    Atom, Dictionary, DictionaryMode, DictionaryParams, DictionaryTrie, Prefix, RidgeFactor, SamplingError, Squeak,
    TrieShape,
};

fn shape(capacity: usize) -> TrieShape {
    TrieShape { hash: StreamKey::new(0, "test-order", 0), capacity }
}

/// Oracle 1: for the union of two dictionaries of *measured* accuracy eps, tau / alpha <= tau~ <= tau for every atom, with both sets of
/// constants: c = 1 + eps, prefactor 1 - eps, alpha (1 + 3 eps) / (1 - eps); and plain gamma, prefactor 1 - 2 eps, alpha
/// (1 + 2 eps) / (1 - 2 eps). And the first set cannot be improved.
#[test]
fn the_merge_estimate_is_between_its_bounds() {
    let table = Table::clusters(500, 1.5, 31);
    let gamma = 2.0;
    let exact = exact_scores(table.k.as_ref(), gamma).unwrap();
    let mode = DictionaryMode::Theorem { eps: 0.0, delta: 0.1, qbar: 60 };
    let halves: Vec<Vec<usize>> =
        vec![(0..500).filter(|i| i % 2 == 0).collect(), (0..500).filter(|i| i % 2 == 1).collect()];
    let mut checked = 0;
    for seed in 0..12 {
        let squeak = Squeak::new(&table, DictionaryParams { mode, ..DictionaryParams::new(gamma, seed) }).unwrap();
        let mut eps: f64 = 0.0;
        let parts: Vec<Dictionary> = halves
            .iter()
            .map(|half| {
                let (rows, ids) = table.gather(half);
                let dictionary = squeak.filter(rows.view(), &ids).unwrap();
                let k = Mat::from_fn(half.len(), half.len(), |i, j| table.k[(half[i], half[j])]);
                let all = spread_weights(&dictionary, 500);
                let weights: Vec<f64> = half.iter().map(|i| all[*i]).collect();
                eps = eps.max(Whitened::new(k.as_ref(), gamma).eps(&weights));
                dictionary
            })
            .collect();
        let union = parts[0].union(&parts[1]).unwrap();
        assert!(union.len() < 480 && eps > 0.05, "{} atoms, eps {eps}", union.len());
        if eps >= 0.5 {
            continue;
        }
        checked += 1;
        let sets = [
            (merge_scale(eps), 1.0 - eps, (1.0 + 3.0 * eps) / (1.0 - eps)),
            (1.0, 1.0 - 2.0 * eps, (1.0 + 2.0 * eps) / (1.0 - 2.0 * eps)),
        ];
        for (c, prefactor, alpha) in sets {
            let factor = RidgeFactor::new(&table, union.rows.view(), &union.weights(), c * gamma).unwrap();
            for (atom, score) in union.atoms.iter().zip(factor.atom_scores().scores) {
                let (estimate, truth) = (prefactor * score, exact[atom.id.0 as usize]);
                assert!(estimate <= truth * (1.0 + 1e-9), "c {c}: {estimate} above {truth}");
                assert!(estimate >= truth / alpha * (1.0 - 1e-9), "c {c}: {estimate} below {truth} / {alpha}");
            }
        }
    }
    assert!(checked >= 8, "{checked}");
    // One direction, halves of mass a each, both at the lower end of their accuracy: the estimate is tight, so 1 / gamma in place of
    // 1 / ((1 + eps) gamma) would be above tau by 1 + eps.
    let (a, eps) = (50.0, 0.4);
    let one = Table::new(Mat::ones(1, 1));
    let weight = 2.0 * (a - eps * (a + gamma));
    let factor = RidgeFactor::new(&one, one.rows(), &[weight], merge_scale(eps) * gamma).unwrap();
    let estimate = (1.0 - eps) * factor.atom_scores().scores[0];
    assert!((estimate * (2.0 * a + gamma) - 1.0).abs() < 1e-12);
}

/// Oracle 1 of [`Squeak::merge`] itself, in the theorem's mode: where both inputs are *measured* to be eps-accurate, every atom of the merged
/// dictionary has min(p_old, tau / alpha) <= p <= tau for its exact score tau among all rows, alpha = (1 + 3 eps) / (1 - eps).
#[test]
fn merged_probabilities_are_between_their_bounds() {
    let table = Table::clusters(500, 1.5, 36);
    let (gamma, eps) = (2.0, 0.45);
    let alpha = (1.0 + 3.0 * eps) / (1.0 - eps);
    let exact = exact_scores(table.k.as_ref(), gamma).unwrap();
    let mode = DictionaryMode::Theorem { eps, delta: 0.1, qbar: 60 };
    let halves: [Vec<usize>; 2] = [0, 1].map(|half| (half..500).step_by(2).collect());
    let whitened: Vec<Whitened> = halves
        .iter()
        .map(|half| {
            let k = Mat::from_fn(half.len(), half.len(), |i, j| table.k[(half[i], half[j])]);
            Whitened::new(k.as_ref(), gamma)
        })
        .collect();
    let (mut checked, mut lowered) = (0, 0);
    for seed in 0..24 {
        let squeak = Squeak::new(&table, DictionaryParams { mode, ..DictionaryParams::new(gamma, seed) }).unwrap();
        let parts: Vec<Dictionary> = halves
            .iter()
            .map(|half| {
                let (rows, ids) = table.gather(half);
                squeak.filter(rows.view(), &ids).unwrap()
            })
            .collect();
        let accurate = parts.iter().zip(&halves).zip(&whitened).all(|((part, half), whitened)| {
            let all = spread_weights(part, 500);
            whitened.eps(&half.iter().map(|i| all[*i]).collect::<Vec<f64>>()) <= eps
        });
        if !accurate {
            continue;
        }
        checked += 1;
        let merged = squeak.merge(&parts[0], &parts[1]).unwrap();
        let union = parts[0].union(&parts[1]).unwrap();
        assert!(merged.len() < union.len(), "{} atoms of {}", merged.len(), union.len());
        for atom in &merged.atoms {
            let tau = exact[atom.id.0 as usize];
            let old = union.atoms.iter().find(|old| old.id == atom.id).unwrap().p;
            assert!(atom.p <= tau * (1.0 + 1e-9), "seed {seed}: {} above {tau}", atom.p);
            let least = old.min(tau / alpha);
            assert!(atom.p >= least * (1.0 - 1e-9), "seed {seed}: {} below {least}", atom.p);
            assert!(atom.p <= old);
            lowered += usize::from(atom.p < old);
        }
    }
    assert!(checked >= 8, "{checked} of 24 seeds had accurate inputs");
    assert!(lowered > 100 * checked, "{lowered} probabilities fell in {checked} merges");
    // One direction again, now through the merge: halves of mass a, each held by one atom at the lower end of its accuracy, come out at tau
    // itself, so a smaller ridge than (1 + eps) gamma or a larger prefactor than 1 - eps would break the upper bound.
    let (a, qbar) = (50.0, 5000);
    let mode = DictionaryMode::Theorem { eps, delta: 0.1, qbar };
    let ones = Table::new(Mat::ones(2, 2));
    let squeak = Squeak::new(&ones, DictionaryParams { mode, ..DictionaryParams::new(gamma, 0) }).unwrap();
    let [left, right] = [0, 1].map(|i| {
        let p = 1.0 / (a - eps * (a + gamma));
        let (rows, ids) = ones.gather(&[i]);
        Dictionary { rows, atoms: vec![Atom { id: ids[0], p, q: qbar }], gamma, mode, jitter: 0.0 }
    });
    let merged = squeak.merge(&left, &right).unwrap();
    assert_eq!(merged.len(), 2);
    assert!(merged.atoms.iter().all(|atom| (atom.p * (2.0 * a + gamma) - 1.0).abs() < 1e-12), "{:?}", merged.atoms);
}

/// Oracle 2 at array level: shuffled arrival gives the same bits in every node; several leaves; both modes.
#[test]
fn arrival_order_does_not_matter() {
    let table = Table::clusters(900, 1.0, 32);
    for mode in [DictionaryMode::default(), DictionaryMode::Theorem { eps: 0.3, delta: 0.1, qbar: 12 }] {
        let squeak = Squeak::new(&table, DictionaryParams { mode, ..DictionaryParams::new(5.0, 3) }).unwrap();
        let reference = DictionaryTrie::build(&squeak, shape(150), table.rows(), &table.ids).unwrap();
        assert!(reference.nodes().len() >= 15, "{} nodes", reference.nodes().len());
        assert!(reference.root().len() < 700);
        for seed in 0..3 {
            let (rows, ids) = table.gather(&shuffled(900, seed));
            assert_eq!(DictionaryTrie::build(&squeak, shape(150), rows.view(), &ids).unwrap(), reference);
        }
        // A node is the trie of its rows: a worker that holds a subtree computes the same bits.
        let node = Prefix::ROOT.child(true);
        let inside: Vec<usize> = (0..900).filter(|i| node.contains(shape(150).hash.u128(table.ids[*i]))).collect();
        let (rows, ids) = table.gather(&inside);
        let alone = DictionaryTrie::build(&squeak, shape(150), rows.view(), &ids).unwrap();
        assert_eq!(alone.nodes()[&node], reference.nodes()[&node]);
    }
}

/// Merges the leaves from left to right.
fn chain(squeak: &Squeak<'_, Table>, trie: &DictionaryTrie) -> Dictionary {
    let nodes = trie.nodes();
    let leaves: Vec<&Dictionary> = nodes
        .iter()
        .filter(|(p, _)| p.depth() == 128 || !nodes.contains_key(&p.child(false)))
        .map(|(_, d)| d)
        .collect();
    assert!(leaves.len() >= 6, "{} leaves", leaves.len());
    leaves[1..].iter().fold(leaves[0].clone(), |a, b| squeak.merge(&a, b).unwrap())
}

/// Oracles 3 and 7: trie, chain and plain SQUEAK agree in the mean over 24 seeds with each other and with sampling by the exact scores:
/// sizes within 10 %, accuracy within 40 % of the exact-score oracle's and 15 % of each other's.
#[test]
fn trees_agree_with_chains_and_with_the_oracle() {
    let table = Table::clusters(900, 1.5, 33);
    let gamma = 3.0;
    let whitened = Whitened::new(table.k.as_ref(), gamma);
    let exact = exact_scores(table.k.as_ref(), gamma).unwrap();
    let mut sizes = vec![Vec::new(); 4];
    let mut errors = vec![Vec::new(); 4];
    for seed in 0..24 {
        let squeak = Squeak::new(&table, DictionaryParams::new(gamma, seed)).unwrap();
        let trie = DictionaryTrie::build(&squeak, shape(150), table.rows(), &table.ids).unwrap();
        let dictionaries =
            [trie.root().clone(), chain(&squeak, &trie), squeak.filter(table.rows(), &table.ids).unwrap()];
        let key = StreamKey::new(seed, "squeak", 0);
        let oracle: Vec<f64> = (0..900)
            .map(|i| ((8.0 * exact[i]).min(1.0), key.uniform(table.ids[i])))
            .map(|(p, u)| if u < p { 1.0 / p } else { 0.0 })
            .collect();
        for form in 0..4 {
            let weights = dictionaries.get(form).map_or_else(|| oracle.clone(), |d| spread_weights(d, 900));
            sizes[form].push(weights.iter().filter(|w| **w > 0.0).count() as f64);
            errors[form].push(whitened.eps(&weights));
        }
    }
    let size: Vec<f64> = sizes.iter().map(|s| mean_and_error(s).0).collect();
    let eps: Vec<f64> = errors.iter().map(|s| mean_and_error(s).0).collect();
    assert!(size[3] < 500.0, "{size:?}");
    for form in 0..3 {
        assert!((size[form] / size[3] - 1.0).abs() < 0.1, "{size:?}");
        assert!(eps[form] < 1.4 * eps[3], "{eps:?}");
        assert!((eps[form] / eps[2] - 1.0).abs() < 0.15, "{eps:?}");
    }
}

/// Oracle 4: deleting rows and putting them back restores every node bit for bit; in between, the updated trie is the one built from
/// the rows that are left; and an update of one row computes one path.
#[test]
fn the_trie_has_no_history() {
    let table = Table::clusters(800, 1.0, 34);
    let squeak = Squeak::new(&table, DictionaryParams::new(4.0, 2)).unwrap();
    let reference = DictionaryTrie::build(&squeak, shape(100), table.rows(), &table.ids).unwrap();
    for gone in [vec![17], (0..300).collect::<Vec<usize>>(), (0..800).filter(|i| i % 9 == 0).collect()] {
        let changed: Vec<RowId> = gone.iter().map(|i| table.ids[*i]).collect();
        let kept: Vec<usize> = (0..800).filter(|i| !gone.contains(i)).collect();
        let (rows, ids) = table.gather(&kept);
        let mut trie = reference.clone();
        let computed = trie.update(&squeak, rows.view(), &ids, &changed).unwrap();
        assert_eq!(trie, DictionaryTrie::build(&squeak, shape(100), rows.view(), &ids).unwrap());
        assert_ne!(trie, reference);
        if gone.len() == 1 {
            assert!(computed <= 8 && computed < reference.nodes().len() / 2, "{computed} nodes");
        }
        trie.update(&squeak, table.rows(), &table.ids, &changed).unwrap();
        assert_eq!(trie, reference);
    }
    // All rows gone, and back.
    let mut trie = reference.clone();
    let nothing = RowBuf::new(1, 0);
    trie.update(&squeak, nothing.view(), &[], &table.ids).unwrap();
    assert!(trie.root().is_empty() && trie.nodes().len() == 1);
    trie.update(&squeak, table.rows(), &table.ids, &table.ids).unwrap();
    assert_eq!(trie, reference);
    // Nothing changed: nothing is computed.
    assert_eq!(trie.update(&squeak, table.rows(), &table.ids, &[]).unwrap(), 0);
    // An error leaves the trie alone.
    let mut twice = table.ids.clone();
    twice[1] = twice[0];
    assert!(trie.update(&squeak, table.rows(), &twice, &[twice[0]]).is_err());
    assert_eq!(trie, reference);
}

/// Oracle 5: duplicates only, rank-deficient leaves, zero rows, one row, no rows.
#[test]
fn degenerate_leaves_do_not_fail() {
    let build = |table: &Table, gamma: f64| {
        let squeak = Squeak::new(table, DictionaryParams::new(gamma, 1)).unwrap();
        DictionaryTrie::build(&squeak, shape(60), table.rows(), &table.ids).unwrap().root().clone()
    };
    // n copies of one row: A has the one eigenvalue n, and the weights must add up to about n (beta = 8 atoms expected, so the
    // standard deviation of the sum is at most n / sqrt 8).
    let ones = build(&Table::new(Mat::ones(500, 500)), 1.0);
    let sum: f64 = ones.weights().iter().sum();
    assert!(
        !ones.is_empty() && ones.len() < 40 && (sum / 500.0 - 1.0).abs() < 4.0 / 8f64.sqrt(),
        "{} {sum}",
        ones.len()
    );
    // Ridges down to the rounding of the entries.
    let key = StreamKey::new(6, "test-feature", 0);
    let phi = Mat::from_fn(400, 3, |i, j| key.normal_pair(RowId((i * 3 + j) as u128)).0);
    let low_rank = Table::new(&phi * phi.transpose());
    for gamma in [1e-10, 1e-6, 1.0] {
        let dictionary = build(&low_rank, gamma);
        assert!(dictionary.len() >= 3 && dictionary.atoms.iter().all(|a| a.p > 0.0), "{}", dictionary.len());
    }
    assert!(build(&Table::new(Mat::zeros(300, 300)), 1.0).len() <= 300);
    assert_eq!(build(&Table::new(Mat::ones(1, 1)), 0.1).len(), 1);
    assert_eq!(build(&Table::new(Mat::zeros(0, 0)), 0.1).len(), 0);
}

/// Oracle 6: a trie of one leaf is SQUEAK.
#[test]
fn one_leaf_is_squeak() {
    let table = Table::clusters(500, 1.0, 35);
    let squeak = Squeak::new(&table, DictionaryParams::new(3.0, 4)).unwrap();
    let trie = DictionaryTrie::build(&squeak, shape(500), table.rows(), &table.ids).unwrap();
    assert_eq!(trie.nodes().len(), 1);
    assert_eq!(*trie.root(), squeak.filter(table.rows(), &table.ids).unwrap());
}

#[test]
fn leaves_from_counts_are_the_leaves() {
    let shape = shape(50);
    let mut hashes: Vec<u128> = (0..1000).map(|i| shape.hash.u128(RowId(i))).collect();
    hashes.sort_unstable();
    let leaves = shape.leaves(&hashes);
    assert!(leaves.iter().all(|(_, range)| range.len() <= 50));
    assert_eq!(leaves.iter().map(|(_, range)| range.len()).sum::<usize>(), 1000);
    let mut counts = vec![0u64; 1 << 10];
    hashes.iter().for_each(|hash| counts[(hash >> 118) as usize] += 1);
    let counted = shape.leaves_from_counts(&counts).unwrap();
    let expected: Vec<(Prefix, u64)> = leaves.iter().map(|(p, range)| (*p, range.len() as u64)).collect();
    assert_eq!(counted, expected);
    let mut coarse = vec![0u64; 4];
    hashes.iter().for_each(|hash| coarse[(hash >> 126) as usize] += 1);
    assert!(matches!(
        shape.leaves_from_counts(&coarse),
        Err(SamplingError::CountsTooCoarse { depth: 2, capacity: 50, .. })
    ));
    assert!(matches!(shape.leaves_from_counts(&[1, 2, 3]), Err(SamplingError::BadParameter { name: "counts", .. })));
}
