//! Randomly pivoted Cholesky: the law, the algebra, and one answer however it is cut.

use super::*;
use crate::sampling::rpcholesky::{
    Batch, FactorStorage, KnownPivots, Mass, PivotParams, Pivoting, Pivots, PoolBlock, Stop, Window, leaves,
    rp_cholesky_again, sequential,
};
use crate::sampling::{SamplingError, rp_cholesky};
use std::collections::BTreeMap;

fn accelerated(table: &Table, weights: Option<&[f64]>, params: PivotParams) -> Pivots {
    rp_cholesky(table, table.rows(), &table.ids, weights, params).unwrap()
}

/// Probability of every ordered sequence of `k` pivots, by the definition.
fn law(k: &Mat<f64>, weights: &[f64], exponent: f64, picks: usize) -> Vec<(Vec<usize>, f64)> {
    if picks == 0 {
        return vec![(vec![], 1.0)];
    }
    let n = k.nrows();
    let rate = |i: usize| if k[(i, i)] > 1e-9 { weights[i] * k[(i, i)].powf(exponent) } else { 0.0 };
    let mass: f64 = (0..n).map(rate).sum();
    let mut out = Vec::new();
    for s in 0..n {
        let p = rate(s) / mass;
        if p < 1e-9 {
            continue;
        }
        let mut rest = Mat::from_fn(n, n, |i, j| k[(i, j)] - k[(i, s)] * k[(s, j)] / k[(s, s)]);
        for i in 0..n {
            rest[(s, i)] = 0.0;
            rest[(i, s)] = 0.0;
        }
        for (tail, q) in law(&rest, weights, exponent, picks - 1) {
            out.push(([vec![s], tail].concat(), p * q));
        }
    }
    out
}

fn small(n: usize) -> (Table, Vec<f64>) {
    let table = Table::clusters(n, 1.5, 11);
    let weights = (0..n).map(|i| 1.0 + (i % 3) as f64).collect();
    (table, weights)
}

/// Oracles Comparators 1 and RPCholesky 1: frequencies of ordered pivot pairs (n = 6) and of triples (n = 8), over 20,000 seeds,
/// against the definition, for the sequential form and for the accelerated one with windows that hold 1, 3 and 12 proposals on
/// average. chi-square, failure probability 1e-4 each.
#[test]
fn both_forms_have_the_law_of_the_definition() {
    for (n, picks, exponent, batches) in
        [(6, 2, 1.0, vec![0, 1, 3, 12]), (8, 3, 1.0, vec![0, 12]), (8, 3, 0.25, vec![0, 12])]
    {
        let (table, weights) = small(n);
        let law = law(&table.k, &weights, exponent, picks);
        assert!((law.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-9);
        for batch in batches {
            let trials = 20_000;
            let mut observed = vec![0.0; law.len()];
            for seed in 0..trials {
                let params = PivotParams { batch: Batch::Fixed(batch), exponent, ..PivotParams::new(picks, seed) };
                let pivots = if batch == 0 {
                    sequential(&table, table.rows(), &table.ids, Some(&weights), params).unwrap()
                } else {
                    accelerated(&table, Some(&weights), params)
                };
                let cell = law.iter().position(|(pivot, _)| *pivot == pivots.indices).unwrap();
                observed[cell] += 1.0;
            }
            let expected: Vec<f64> = law.iter().map(|(_, p)| p * trials as f64).collect();
            let statistic = chi_square(&observed, &expected);
            assert!(chi_square_passes(statistic), "n {n}, batch {batch}: {statistic:?}");
        }
    }
}

/// Oracle Comparators 5: the first pivot of a race among unequal rates, 20,000 seeds; and the numbers of arrivals in one window are
/// Poisson with the rates as means.
#[test]
fn races_have_the_right_frequencies() {
    let weights: Vec<f64> = (1..=10).map(f64::from).collect();
    let table = Table::new(Mat::from_fn(10, 10, |i, j| if i == j { 2.0 } else { 0.0 }));
    let mut first = vec![0.0; 10];
    let mut arrivals = vec![0.0; 10];
    let trials = 20_000;
    let params = PivotParams::new(1, 0);
    let block = PoolBlock::new(&table, 0, table.rows.clone(), table.ids.clone(), weights.clone(), params);
    for seed in 0..trials {
        let pivots = sequential(&table, table.rows(), &table.ids, Some(&weights), PivotParams::new(1, seed)).unwrap();
        first[pivots.indices[0]] += 1.0;
        let window = Window { seed, round: 0, until: 0.05 };
        let proposals = block.propose(window);
        assert!(proposals.windows(2).all(|p| p[0].time < p[1].time));
        proposals.iter().for_each(|p| arrivals[p.position as usize] += 1.0);
    }
    let expected: Vec<f64> = weights.iter().map(|w| w / 55.0 * trials as f64).collect();
    assert!(chi_square_passes(chi_square(&first, &expected)), "{first:?}");
    // Independent Poisson counts: one more degree of freedom than a multinomial, which only makes the test stricter.
    let expected: Vec<f64> = weights.iter().map(|w| 2.0 * w * 0.05 * trials as f64).collect();
    assert!(chi_square_passes(chi_square(&arrivals, &expected)), "{arrivals:?}");
}

/// Oracles RPCholesky 2 and 3: L is the Cholesky factor of K_PP, the residual is diag(K - F F^T) and nowhere negative, and the trace
/// errors reported are the true ones, weights included.
#[test]
fn the_factor_and_the_residual_are_those_of_dense_algebra() {
    let table = Table::clusters(300, 1.0, 12);
    let weights: Vec<f64> = (0..300).map(|i| 1.0 + (i % 5) as f64).collect();
    for form in 0..2 {
        let params = PivotParams::new(60, 3);
        let pivots = match form {
            0 => accelerated(&table, Some(&weights), params),
            _ => sequential(&table, table.rows(), &table.ids, Some(&weights), params).unwrap(),
        };
        assert_eq!((pivots.indices.len(), pivots.stop), (60, Stop::Reached));
        let mut l = Mat::from_fn(60, 60, |i, j| table.k[(pivots.indices[i], pivots.indices[j])]);
        dense::cholesky(l.as_mut(), dense::SEQUENTIAL).unwrap();
        assert!(largest(&(&l - &pivots.factor)) < 1e-10);
        let mut f = Mat::from_fn(60, 300, |i, j| table.k[(pivots.indices[i], j)]);
        dense::solve_lower(l.as_ref(), f.as_mut(), dense::SEQUENTIAL);
        let residual: Vec<f64> =
            (0..300).map(|j| table.k[(j, j)] - f.col_as_slice(j).iter().map(|v| v * v).sum::<f64>()).collect();
        assert!(residual.iter().all(|d| *d > -1e-12));
        let weighted = |d: &dyn Fn(usize) -> f64| (0..300).map(|i| weights[i] * d(i)).sum::<f64>();
        let trace_error = weighted(&|i| residual[i]) / weighted(&|i| table.k[(i, i)]);
        assert!((trace_error - pivots.trace_error()).abs() < 1e-12, "{trace_error} {}", pivots.trace_error());
        assert!(pivots.trace.windows(2).all(|w| w[1].trace_error <= w[0].trace_error && w[0].centers < w[1].centers));
        for (i, id) in pivots.indices.iter().zip(&pivots.ids) {
            assert_eq!(table.ids[*i], *id);
        }
    }
}

/// Oracle RPCholesky 4: at k = 3 r the mean trace error over 20 seeds is at most 1.5 times that of the best rank r.
#[test]
fn the_trace_error_is_near_the_best() {
    let table = Table::clusters(400, 1.0, 13);
    let (mu, _) = dense::symmetric_eigen(table.k.as_ref(), dense::SEQUENTIAL).unwrap();
    for r in [10, 30] {
        let best: f64 = mu[..400 - r].iter().sum::<f64>() / 400.0;
        let errors: Vec<f64> =
            (0..20).map(|seed| accelerated(&table, None, PivotParams::new(3 * r, seed)).trace_error()).collect();
        let (mean, _) = mean_and_error(&errors);
        assert!(mean <= 1.5 * best, "r {r}: {mean} against {best}");
        let uniform: Vec<f64> = (0..20).map(|seed| projection_trace(&table, &shuffled(400, seed)[..3 * r])).collect();
        assert!(mean < mean_and_error(&uniform).0);
    }
}

/// tr(K - K~) / tr K for the projection on `centers`, through the pseudo-inverse.
fn projection_trace(table: &Table, centers: &[usize]) -> f64 {
    let m = centers.len();
    let k = Mat::from_fn(m, m, |i, j| table.k[(centers[i], centers[j])]);
    let (mu, u) = dense::symmetric_eigen(k.as_ref(), dense::SEQUENTIAL).unwrap();
    let cross = Mat::from_fn(m, table.len(), |i, j| table.k[(centers[i], j)]);
    let whitened = u.transpose() * &cross;
    let floor = 1e-13 * m as f64 * mu[m - 1];
    let explained: f64 = (0..m)
        .filter(|j| mu[*j] > floor)
        .map(|j| (0..table.len()).map(|i| whitened[(j, i)].powi(2)).sum::<f64>() / mu[j])
        .sum();
    let trace: f64 = (0..table.len()).map(|i| table.k[(i, i)]).sum();
    (trace - explained) / trace
}

/// Oracle RPCholesky 5: rank-deficient matrices stop early and say so, zero and duplicate rows included.
#[test]
fn rank_deficiency_stops_early() {
    // Rank 7: 200 rows of 7 features.
    let key = StreamKey::new(5, "test-feature", 0);
    let phi = Mat::from_fn(200, 7, |i, j| key.normal_pair(RowId((i * 7 + j) as u128)).0);
    let table = Table::new(&phi * phi.transpose());
    let zero = Table::new(Mat::zeros(10, 10));
    let ones = Table::new(Mat::ones(500, 500));
    for batch in [Batch::Adaptive, Batch::Fixed(1), Batch::Fixed(40)] {
        let params = PivotParams { batch, ..PivotParams::new(50, 1) };
        for (table, rank) in [(&table, 7), (&zero, 0), (&ones, 1)] {
            let pivots = accelerated(table, None, params);
            assert_eq!((pivots.indices.len(), pivots.stop), (rank, Stop::RankDeficient), "{batch:?}");
            assert!(pivots.trace_error() < 1e-12);
        }
    }
    assert_eq!(sequential(&table, table.rows(), &table.ids, None, PivotParams::new(50, 1)).unwrap().indices.len(), 7);
    // As many pivots as rows: all of them, when the matrix has full rank.
    let full = Table::new(Mat::identity(30, 30));
    let mut indices = accelerated(&full, None, PivotParams::new(30, 1)).indices;
    indices.sort_unstable();
    assert_eq!(indices, (0..30).collect::<Vec<_>>());
    // Rows of weight 0 are never pivots.
    let weights: Vec<f64> = (0..30).map(|i| f64::from(u8::from(i % 2 == 0))).collect();
    let pivots = accelerated(&full, Some(&weights), PivotParams::new(30, 1));
    assert_eq!((pivots.indices.len(), pivots.stop), (15, Stop::RankDeficient));
    assert!(pivots.indices.iter().all(|i| i % 2 == 0));
}

/// Entries rounded to f32: pivoting goes on into the rounding noise without a failure, and L stays the factor of the rounded matrix.
#[test]
fn rounded_entries_do_not_fail() {
    let mut table = Table::clusters(300, 4.0, 14);
    for j in 0..300 {
        for i in 0..300 {
            table.k[(i, j)] = f64::from(table.k[(i, j)] as f32);
        }
    }
    let pivots = accelerated(&table, None, PivotParams::new(250, 2));
    let k = pivots.indices.len();
    let back = &pivots.factor * pivots.factor.transpose();
    let rounded = Mat::from_fn(k, k, |i, j| table.k[(pivots.indices[i], pivots.indices[j])]);
    assert!(largest(&(&back - &rounded)) < 1e-9, "{}", largest(&(&back - &rounded)));
}

/// Law 1: shuffled rows, stored and recomputed factors, and blocks that are handled in any order, late, or from scratch in every
/// round, give the same bits.
#[test]
fn one_answer_however_it_is_cut() {
    let table = Table::clusters(900, 0.8, 15);
    let weights: Vec<f64> = (0..900).map(|i| 1.0 + (i % 4) as f64).collect();
    let params = PivotParams::new(120, 9);
    let reference = accelerated(&table, Some(&weights), params);
    assert!(reference.trace.len() > 3, "one round proves nothing");
    let same = |pivots: &Pivots, label: &str| {
        assert_eq!(pivots.ids, reference.ids, "{label}");
        assert_eq!(pivots.factor, reference.factor, "{label}");
        assert_eq!(pivots.trace, reference.trace, "{label}");
    };
    same(
        &accelerated(&table, Some(&weights), PivotParams { storage: FactorStorage::Recomputed, ..params }),
        "recomputed",
    );
    let order = shuffled(900, 4);
    let (rows, ids) = table.gather(&order);
    let shuffled_weights: Vec<f64> = order.iter().map(|i| weights[*i]).collect();
    let pivots = rp_cholesky(&table, rows.view(), &ids, Some(&shuffled_weights), params).unwrap();
    same(&pivots, "shuffled");
    assert!(pivots.indices.iter().zip(&reference.indices).all(|(a, b)| order[*a] == *b));

    // By hand, the way a dataflow does it: every round from fresh blocks, in reverse order, proposals in reverse order.
    let leaves = leaves(900, &table.ids).unwrap();
    assert_eq!((leaves.len(), leaves.concat().len()), (8, 900));
    let block = |b: usize| {
        let (rows, ids) = table.gather(&leaves[b]);
        let params = PivotParams { storage: FactorStorage::Recomputed, ..params };
        let weights = leaves[b].iter().map(|i| weights[*i]).collect();
        PoolBlock::new(&table, leaves[..b].concat().len() as u64, rows, ids, weights, params)
    };
    let masses = |state: Option<&Pivoting>| {
        let mut masses: Vec<Mass> = (0..8)
            .rev()
            .map(|b| state.map_or_else(|| block(b).mass(), |state| block(b).update(&table, state)))
            .collect();
        masses.reverse();
        Mass::sum(masses)
    };
    let mut state = Pivoting::new(params, 900, 1, 0, masses(None));
    while let Some(window) = state.window() {
        let mut proposals = Vec::new();
        for b in [2, 0, 3, 1, 7, 5, 6, 4] {
            let mut fresh = block(b);
            fresh.update(&table, &state);
            proposals.extend(fresh.propose(window));
        }
        proposals.reverse();
        state.reject(&table, proposals);
        let mass = masses(Some(&state));
        state.observe(mass);
    }
    same(&state.finish(), "by hand");
}

/// 300 pools after one another, each with a few rows come, gone or changed, or with all of them others, against runs that know nothing: the same bits. Most
/// blocks are taken over where few rows change.
#[test]
fn what_is_known_changes_no_bit() {
    let kernel = Kernel::new(Family::Gaussian, 1.0);
    let key = |step: u64, what: &str| StreamKey::new(step, what, 0);
    let (mut taken_over, mut all_updated) = (0, 0);
    for (storage, exponent, batch) in [
        (FactorStorage::Stored, 1.0, Batch::Adaptive),
        (FactorStorage::Recomputed, 0.25, Batch::Adaptive),
        (FactorStorage::Stored, 0.25, Batch::Fixed(5)),
    ] {
        let params = PivotParams { storage, exponent, batch, ..PivotParams::new(24, 5) };
        // The last of these keeps a part of the rounds, which is nothing.
        for limit in [1 << 20, 3000 * 8] {
            let mut known = KnownPivots::new(limit);
            let mut pool: BTreeMap<u128, [f32; 2]> = BTreeMap::new();
            let row = |step: u64, id: u128| {
                let at = |what| key(step, what).uniform(RowId(id)) as f32 * 4.0;
                [at("x"), at("y")]
            };
            pool.extend((0..1500).map(|id| (id, row(0, id))));
            for step in 1..50u64 {
                let draw = |what: &str, below: u128| key(step, what).u128(RowId(0)) % below;
                if step % 17 == 0 {
                    pool.values_mut().zip(0..).for_each(|(x, id)| *x = row(step, id));
                }
                for id in (0..draw("changes", 4)).map(|i| key(step, "which").u128(RowId(i)) % 2000) {
                    match draw("what", 3) {
                        0 => drop(pool.remove(&id)),
                        1 => drop(pool.insert(id, row(step, id))),
                        // One in the midst of others is seldom a pivot.
                        _ => drop(pool.insert(id, [2.0, 2.0])),
                    }
                }
                let values: Vec<f32> = pool.values().flatten().copied().collect();
                let ids: Vec<RowId> = pool.keys().map(|id| RowId(*id)).collect();
                let weights: Vec<f64> = ids.iter().map(|id| 1.0 + (id.0 % 3) as f64).collect();
                // Weights come and go.
                let (rows, weights) = (Rows::new(&values, 2, &[], 0), (step / 8 % 2 == 1).then_some(&weights[..]));
                let found = rp_cholesky_again(&kernel, rows, &ids, weights, params, &mut known).unwrap();
                let fresh = rp_cholesky(&kernel, rows, &ids, weights, params).unwrap();
                assert_eq!((&found.indices, &found.ids, found.stop), (&fresh.indices, &fresh.ids, fresh.stop));
                assert!(found.factor == fresh.factor && found.trace == fresh.trace, "step {step}");
                assert_eq!(found.proposals, fresh.proposals);
                let (blocks, updated) = known.units;
                assert!(blocks == 16 && (step > 1 || updated == 16) && (limit > 24_000 || updated == 16));
                taken_over += u32::from(updated <= 4);
                all_updated += u32::from(updated == 16);
            }
        }
    }
    assert!(taken_over > 30 && all_updated > 30, "{taken_over} {all_updated}");
}

#[test]
fn bad_input_is_refused() {
    let table = Table::clusters(4, 1.0, 16);
    let call = |ids: &[RowId], weights: Option<&[f64]>| {
        rp_cholesky(&table, table.rows(), ids, weights, PivotParams::new(2, 0)).map(|_| ()).unwrap_err()
    };
    assert!(matches!(call(&table.ids[..3], None), SamplingError::Lengths { rows: 4, others: 3, .. }));
    assert!(matches!(call(&[RowId(1); 4], None), SamplingError::DuplicateId { id: RowId(1) }));
    assert!(matches!(call(&table.ids, Some(&[1.0, -1.0, 1.0, 1.0])), SamplingError::BadWeight { row: 1, .. }));
    let infinite = Table::new(Mat::from_fn(4, 4, |i, j| if i == j { f64::INFINITY } else { 0.0 }));
    let error = rp_cholesky(&infinite, infinite.rows(), &infinite.ids, None, PivotParams::new(2, 0)).unwrap_err();
    assert!(matches!(error, SamplingError::NotFinite { .. }));
    // More pivots than rows asked for: memory follows the rows.
    let many = rp_cholesky(&table, table.rows(), &table.ids, None, PivotParams::new(usize::MAX / 2, 0)).unwrap();
    assert_eq!((many.indices.len(), many.stop), (4, Stop::RankDeficient));
    assert!(matches!(call(&table.ids, Some(&[1.0, 1.0, f64::NAN, 1.0])), SamplingError::BadWeight { row: 2, .. }));
}
