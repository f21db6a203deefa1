//! PROS-N-KONS and CON-KONS against the published form in the spectral embedding; blocks against rows; the dictionary.

use super::references::{Explicit, kernel_sgd, online_ridge, spectral_embedding};
use super::*;
use crate::dense::{SEQUENTIAL, cholesky};
use crate::sampling::comparators::Kors;
use proptest::prelude::*;

fn params(seed: u64) -> ProjectedParams {
    ProjectedParams { block: 16, ..ProjectedParams::new(gaussian(1.2), dictionary(0.3, 40, seed), 0.5) }
}

fn run(params: ProjectedParams, stream: &Stream, weights: Option<&[f64]>) -> (ProjectedKons, Vec<Outcome>) {
    let mut learner = ProjectedKons::new(params, stream.rows.numeric_width, 0).unwrap();
    let mut outcomes = learner.learn(&Batch { weights, ..stream.batch() }).unwrap();
    outcomes.extend(learner.flush().unwrap());
    assert_eq!(outcomes.iter().map(|o| o.id).collect::<Vec<_>>(), stream.ids);
    (learner, outcomes)
}

/// The published learner: phi = Sigma^-1/2 U^T k_I by an eigensystem, the published transport (or a restart) where the learner accepted a row, forgetting at the ends of blocks.
fn published(params: &ProjectedParams, stream: &Stream, weights: &[f64], outcomes: &[Outcome]) -> Vec<f64> {
    let k = stream.kernel_matrix(&params.entries.kernel);
    let mut atoms: Vec<usize> = Vec::new();
    let mut b = Mat::zeros(0, 0);
    let mut explicit = Explicit::new(0, params.alpha);
    let column = |atoms: &[usize], b: &Mat<f64>, t: usize| b * Mat::from_fn(atoms.len(), 1, |i, _| k[(atoms[i], t)]);
    (0..stream.len())
        .map(|t| {
            let kind = (params.loss, params.curvature, params.clip);
            let mut prediction = None;
            if outcomes[t].grown {
                if params.growth != Growth::Carry {
                    prediction = Some(explicit.round(&column(&atoms, &b, t), stream.y[t], weights[t], kind));
                }
                let old = atoms.clone();
                atoms.push(t);
                let next = spectral_embedding(&k, &atoms);
                if old.is_empty() || params.growth == Growth::Restart {
                    explicit = Explicit::new(atoms.len(), params.alpha);
                } else {
                    // Q = Sigma'^-1/2 U'^T K_I'I U Sigma^-1/2.
                    let cross = Mat::from_fn(atoms.len(), old.len(), |i, j| k[(atoms[i], old[j])]);
                    explicit.transport(&(&next * cross * b.transpose()), params.alpha);
                }
                b = next;
            }
            let prediction = match prediction {
                Some(prediction) => prediction,
                None => explicit.round(&column(&atoms, &b, t), stream.y[t], weights[t], kind),
            };
            if (t + 1) % params.block == 0 && params.forgetting < 1.0 && !atoms.is_empty() {
                explicit.forget(params.forgetting.powi(params.block as i32), params.alpha);
            }
            prediction
        })
        .collect()
}

/// Oracles 6 and 8: Cholesky coordinates and carried state give the predictions of the spectral embedding and the published transport, for every loss, growth, forgetting, and
/// both operations.
#[test]
fn both_operations_are_the_published_recursion() {
    let mut atoms = 0;
    for (seed, (loss, curvature, clip)) in kinds().into_iter().enumerate() {
        let mut stream = Stream::smooth(50 + seed as u64, 100, 2, 0.2);
        if is_label(loss) {
            stream = stream.labels();
        }
        let weights: Vec<f64> = (0..100).map(|i| [1.0, 0.5, 2.0, 0.0][i % 4]).collect();
        for growth in [Growth::Carry, Growth::CarryAfter, Growth::Restart] {
            for forgetting in [1.0, 0.97] {
                let params = ProjectedParams { loss, curvature, clip, growth, forgetting, ..params(seed as u64) };
                for operation in [Operation::Rows, Operation::Blocks] {
                    let params = ProjectedParams { operation, ..params.clone() };
                    let (learner, outcomes) = run(params.clone(), &stream, Some(&weights));
                    atoms += learner.info().dictionary;
                    let expected = published(&params, &stream, &weights, &outcomes);
                    // A row of weight 0 is predicted and steps nowhere; the reference's projection on it is left out of the comparison of later rows by having no clip there.
                    if clip.is_none() || weights.iter().all(|w| *w > 0.0) {
                        let error = apart(&predictions(&outcomes), &expected);
                        assert!(error < 1e-7, "{loss:?} {curvature:?} {growth:?} {operation:?}: {error:e}");
                    }
                    if let Some(clip) = clip {
                        assert!(outcomes.iter().all(|o| o.prediction.abs() <= clip * (1.0 + 1e-12)));
                    }
                    learner.check().unwrap();
                }
            }
        }
        // With a clip range, and weights that are all positive.
        let weights = vec![1.5; 100];
        for growth in [Growth::Carry, Growth::CarryAfter, Growth::Restart] {
            let params = ProjectedParams { loss, curvature, clip, growth, ..params(seed as u64 + 100) };
            for operation in [Operation::Rows, Operation::Blocks] {
                let params = ProjectedParams { operation, ..params.clone() };
                let (_, outcomes) = run(params.clone(), &stream, Some(&weights));
                let error = apart(&predictions(&outcomes), &published(&params, &stream, &weights, &outcomes));
                assert!(error < 1e-7, "{loss:?} {curvature:?} {growth:?} {operation:?} clip {clip:?}: {error:e}");
            }
        }
    }
    assert!(atoms > 9 * 8 * 10, "{atoms} atoms in all");
}

fn bits(outcomes: &[Outcome]) -> Vec<(u64, u64, bool)> {
    outcomes.iter().map(|o| (o.prediction.to_bits(), o.leverage.to_bits(), o.accepted)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Results are a function of the stream, not of how it is cut into calls; blocks and rows differ by rounding alone.
    #[test]
    fn calls_leave_no_trace(seed in 0u64..1000, block in 1usize..40, cuts in proptest::collection::vec(0usize..160, 0..8), growth in 0usize..3, cap in 1usize..60) {
        let stream = Stream::smooth(seed, 160, 3, 0.1);
        let growth = [Growth::Carry, Growth::CarryAfter, Growth::Restart][growth];
        let base = ProjectedParams { growth, block, dictionary: dictionary(0.2, cap, seed), ..params(seed) };
        let mut by_operation = Vec::new();
        for operation in [Operation::Rows, Operation::Blocks] {
            let params = ProjectedParams { operation, ..base.clone() };
            let (whole, expected) = run(params.clone(), &stream, None);
            let mut learner = ProjectedKons::new(params, 3, 0).unwrap();
            let mut ends = cuts.clone();
            ends.extend([0, 160]);
            ends.sort_unstable();
            let mut outcomes = Vec::new();
            for pair in ends.windows(2) {
                outcomes.extend(learner.learn(&stream.part(pair[0], pair[1])).unwrap());
                // Looking on changes nothing.
                learner.predict(stream.rows.view().slice(0, 5)).unwrap();
                if operation == Operation::Rows {
                    prop_assert_eq!(outcomes.len(), pair[1]);
                }
            }
            outcomes.extend(learner.flush().unwrap());
            prop_assert_eq!(bits(&outcomes), bits(&expected));
            prop_assert_eq!(learner.expansion(), whole.expansion());
            by_operation.push(expected);
        }
        prop_assert!(apart(&predictions(&by_operation[0]), &predictions(&by_operation[1])) < 1e-8);
        let accepted = |outcomes: &[Outcome]| outcomes.iter().map(|o| o.accepted).collect::<Vec<_>>();
        prop_assert_eq!(accepted(&by_operation[0]), accepted(&by_operation[1]));
    }
}

/// Oracle 7: with all rows as atoms from the start, CON and PROS are exact KONS, with sigma or half of it.
#[test]
fn a_full_dictionary_is_kons() {
    let stream = Stream::smooth(60, 50, 3, 0.2);
    for curvature in [Curvature::Fixed { scale: 0.5 }, Curvature::Fixed { scale: 1.0 }, Curvature::Adaptive] {
        let clip = Some(1.0);
        let mut kons = Kons::new(KonsParams { curvature, clip, ..KonsParams::new(gaussian(1.2), 0.5) }, 3, 0).unwrap();
        let expected = kons.learn(&stream.batch()).unwrap();
        for growth in [Growth::Carry, Growth::Restart] {
            let params = ProjectedParams { curvature, clip, growth, dictionary: dictionary(1.0, 50, 0), ..params(0) };
            let mut learner = ProjectedKons::with_atoms(params, stream.rows.view(), &stream.ids, None).unwrap();
            let mut outcomes = learner.learn(&stream.batch()).unwrap();
            outcomes.extend(learner.flush().unwrap());
            assert!(outcomes.iter().all(|o| !o.accepted && o.outside < 1e-9));
            let error = apart(&predictions(&outcomes), &predictions(&expected));
            assert!(error < 1e-7, "{curvature:?}: {error:e}");
            let leverages = |outcomes: &[Outcome]| outcomes.iter().map(|o| o.leverage).collect::<Vec<_>>();
            assert!(apart(&leverages(&outcomes), &leverages(&expected)) < 1e-7);
        }
    }
}

/// With every row an atom before its own step, CON-KONS is exact KONS: online ridge regression, for squared loss.
#[test]
fn every_row_an_atom_is_kons() {
    let stream = Stream::smooth(71, 120, 4, 0.2);
    for (loss, curvature, clip) in
        [(Loss::Squared, Curvature::Adaptive, None), (Loss::Squared, Curvature::Fixed { scale: 1.0 }, Some(1.0))]
    {
        let mut kons =
            Kons::new(KonsParams { loss, curvature, clip, ..KonsParams::new(gaussian(1.2), 0.5) }, 4, 0).unwrap();
        let expected = kons.learn(&stream.batch()).unwrap();
        let dictionary = DictionaryParams { beta: 1e9, ..dictionary(1.0, 120, 0) };
        for operation in [Operation::Rows, Operation::Blocks] {
            let params = ProjectedParams { loss, curvature, clip, operation, dictionary, ..params(0) };
            let (learner, outcomes) = run(params, &stream, None);
            assert_eq!(learner.info().width, 120);
            assert!(apart(&predictions(&outcomes), &predictions(&expected)) < 1e-9);
            let (bound, exact) = (learner.ledger(), kons.ledger());
            assert!((bound.newton - exact.newton).abs() < 1e-9 && bound.outside == 0.0);
        }
    }
}

/// A learner goes on from the expansion of another, and an expansion says what the learner predicts.
#[test]
fn expansions_are_the_function() {
    let stream = Stream::smooth(61, 200, 2, 0.1);
    for operation in [Operation::Rows, Operation::Blocks] {
        let params = ProjectedParams { operation, ..params(4) };
        let mut learner = ProjectedKons::new(params.clone(), 2, 0).unwrap();
        // 200 is no multiple of 16: in rows something is pending, in blocks rows wait.
        learner.learn(&stream.batch()).unwrap();
        let expansion = learner.expansion();
        let k = kernel_matrix(&params.entries.kernel, stream.rows.view(), expansion.atoms.view());
        let by_atoms: Vec<f64> =
            (0..200).map(|i| expansion.coefficients.iter().enumerate().map(|(j, c)| c * k[(i, j)]).sum()).collect();
        let direct = learner.predict(stream.rows.view()).unwrap();
        assert!(apart(&by_atoms, &direct) < 1e-8);
        let mut next =
            ProjectedKons::with_atoms(params, expansion.atoms.view(), &expansion.ids, Some(&expansion.coefficients))
                .unwrap();
        assert!(apart(&next.predict(stream.rows.view()).unwrap(), &direct) < 1e-8);
    }
}

/// Oracle 2 of the comparators: the same decisions as [`Kors`] from the same seed; a cap only cuts them off; d_onl is that of a dense factor where every row is an atom.
#[test]
fn the_dictionary_is_kors_with_a_cap() {
    let stream = Stream::smooth(62, 300, 2, 0.0);
    for (gamma, beta) in [(0.5, 1.0), (0.05, 2.0), (3.0, 4.0)] {
        let dictionary = DictionaryParams { beta, ..dictionary(gamma, 1000, 9) };
        let kernel = Kernel::new(Family::Gaussian, 1.2);
        let mut kors = Kors::new(2, 0, gamma, 0.5, beta, 9).unwrap();
        let expected: Vec<bool> =
            (0..300).map(|i| kors.offer(&kernel, stream.rows.view().slice(i, i + 1), stream.ids[i]).accepted).collect();
        for operation in [Operation::Rows, Operation::Blocks] {
            let (learner, outcomes) = run(ProjectedParams { operation, dictionary, ..params(0) }, &stream, None);
            assert_eq!(outcomes.iter().map(|o| o.accepted).collect::<Vec<_>>(), expected);
            assert_eq!(learner.info().dictionary, kors.len());
            let capped = DictionaryParams { cap: 10, ..dictionary };
            let (learner, outcomes) =
                run(ProjectedParams { operation, dictionary: capped, ..params(0) }, &stream, None);
            let first: Vec<bool> = expected
                .iter()
                .scan(0, |taken, &accepted| {
                    *taken += usize::from(accepted);
                    Some(accepted && *taken <= 10)
                })
                .collect();
            assert_eq!(outcomes.iter().map(|o| o.accepted).collect::<Vec<_>>(), first);
            assert!(learner.info().refused > 0);
        }
    }
}

/// A spread dictionary: gamma rises with its atoms as stated, its ridge factor is that of K + gamma diag(p) at the present gamma, both operations decide alike, and a stream that
/// moves on finds room where one gamma throughout had taken every row.
#[test]
fn a_spread_dictionary_keeps_room() {
    let mut stream = Stream::smooth(67, 600, 2, 0.0);
    for i in 300..600 {
        stream.rows.numeric[2 * i] += 6.0;
    }
    let cap = 64;
    let later = |spread, operation| {
        let dictionary = DictionaryParams { spread, ..dictionary(0.05, cap, 2) };
        let (learner, outcomes) = run(ProjectedParams { operation, dictionary, ..params(0) }, &stream, None);
        let accepted: Vec<usize> = (0..600).filter(|&i| outcomes[i].accepted).collect();
        (accepted, learner)
    };
    let (fixed, _) = later(false, Operation::Blocks);
    let (spread, learner) = later(true, Operation::Blocks);
    assert_eq!(spread, later(true, Operation::Rows).0);
    let moved = |atoms: &[usize]| atoms.iter().filter(|&&i| i >= 300).count();
    assert!(fixed.len() == cap && moved(&fixed) == 0 && spread.len() < cap && moved(&spread) >= 3, "{spread:?}");
    let room = 1.0 - spread.len() as f64 / cap as f64;
    let (gamma, exact) = (learner.dictionary.gamma(), 0.05 * room.powi(-4));
    assert!(gamma <= exact * (1.0 + 1e-9) && gamma > exact * 0.75f64.powi(4), "{gamma} {exact}");
    let l =
        Mat::from_fn(
            spread.len(),
            spread.len(),
            |i, j| if j <= i { learner.dictionary.ridge.view()[(i, j)] } else { 0.0 },
        );
    let k = stream.kernel_matrix(&Kernel::new(Family::Gaussian, 1.2));
    let product = &l * l.transpose();
    for (i, &a) in spread.iter().enumerate() {
        for (j, &b) in spread.iter().enumerate() {
            let off = product[(i, j)] - k[(a, b)];
            // On the diagonal gamma p, 0 < p <= 1.
            assert!(if i == j { off > 0.0 && off <= gamma * (1.0 + 1e-9) } else { off.abs() < 1e-9 * (1.0 + gamma) });
        }
    }
}

/// d_onl: exact where beta keeps every row, within 30 % from a dictionary, and the dictionary is at most 3 beta (1 + eps) of it. A cap only lowers it.
#[test]
fn the_online_dimension_is_estimated() {
    let stream = Stream::smooth(63, 400, 2, 0.0);
    let (gamma, n) = (1.0, 400);
    let mut l = stream.kernel_matrix(&Kernel::new(Family::Gaussian, 1.2));
    (0..n).for_each(|i| l[(i, i)] += gamma);
    cholesky(l.as_mut(), SEQUENTIAL).unwrap();
    let exact: f64 = (0..n).map(|t| 1.0 - gamma / l[(t, t)].powi(2)).sum();
    let estimate = |beta, seed, cap| {
        let dictionary = DictionaryParams { beta, ..dictionary(gamma, cap, seed) };
        let info = run(ProjectedParams { dictionary, alpha: 2.0 * gamma, ..params(0) }, &stream, None).0.info();
        (info.online_dimension, info.dictionary as f64)
    };
    // With beta = 1e6 each row is kept, unless it is spanned to rounding.
    let (all, _) = estimate(1e6, 0, 400);
    assert!((all - exact).abs() < 1e-6 * exact, "{all} {exact}");
    for seed in 0..20 {
        let (dimension, size) = estimate(2.0, seed, 400);
        assert!((dimension / exact - 1.0).abs() < 0.3, "{dimension} {exact}");
        assert!(size <= 3.0 * 2.0 * 1.5 * exact);
        let (capped, _) = estimate(2.0, seed, 8);
        assert!(capped < dimension && capped > 8.0, "{capped} {dimension}");
    }
}

/// A row of weight 2 is the row twice, where the dictionary is given.
#[test]
fn weights_count_rows() {
    let stream = Stream::smooth(64, 60, 2, 0.2);
    let atoms = Stream::smooth(65, 15, 2, 0.0);
    let params = ProjectedParams { dictionary: dictionary(0.5, 15, 0), ..params(0) };
    let start = || ProjectedKons::with_atoms(params.clone(), atoms.rows.view(), &atoms.ids, None).unwrap();
    let (mut heavy, mut twice) = (start(), start());
    heavy.learn(&Batch { weights: Some(&[2.0; 60]), ..stream.batch() }).unwrap();
    for i in 0..60 {
        twice.learn(&stream.part(i, i + 1)).unwrap();
        twice.learn(&stream.part(i, i + 1)).unwrap();
    }
    heavy.flush().unwrap();
    twice.flush().unwrap();
    let f = |learner: &mut ProjectedKons| learner.predict(atoms.rows.view()).unwrap();
    assert!(apart(&f(&mut heavy), &f(&mut twice)) < 1e-10);
}

/// The comparison on a small stream: CON-KONS near exact online ridge regression, and far below first-order kernel SGD with its best step of many.
#[test]
fn con_kons_lies_between_exact_ridge_and_sgd() {
    let stream = Stream::smooth(66, 1200, 3, 0.05);
    let entries = gaussian(1.5);
    let k = stream.kernel_matrix(&entries.kernel);
    let mean = |f: &[f64]| f.iter().zip(&stream.y).map(|(f, y)| (f - y).powi(2)).sum::<f64>() / 1200.0;
    let alpha = 0.1;
    let exact = mean(&online_ridge(&k, &stream.y, alpha / 2.0));
    let steps = [0.03, 0.1, 0.2, 0.4];
    let sgd = steps
        .into_iter()
        .flat_map(|step| [true, false].map(|decay| mean(&kernel_sgd(&k, &stream.y, Loss::Squared, step, decay))))
        .fold(f64::INFINITY, f64::min);
    let run_with = |growth, cap| {
        let dictionary = dictionary(0.02, cap, 1);
        let params = ProjectedParams { growth, block: 64, ..ProjectedParams::new(entries.clone(), dictionary, alpha) };
        run(params, &stream, None).0.info().mean_loss.unwrap()
    };
    let (con, small, pros) =
        (run_with(Growth::Carry, 400), run_with(Growth::Carry, 60), run_with(Growth::Restart, 400));
    assert!(con < 1.2 * exact, "con {con}, exact {exact}");
    assert!(con < 0.7 * sgd, "con {con}, sgd {sgd}");
    assert!(small < pros, "cap 60 {small}, with restarts {pros}");
    // The published order learns a new place at its second visit.
    let after = run_with(Growth::CarryAfter, 400);
    assert!(con < after && after < pros, "con {con}, after {after}, pros {pros}");
}

/// Two learners of f32 and f64 entries stay within what entries differ by.
#[test]
fn single_entries_are_close() {
    let stream = Stream::smooth(67, 500, 4, 0.1);
    let with = |precision| {
        let entries = EntryParams { precision, ..gaussian(1.5) };
        run(ProjectedParams { entries, ..params(3) }, &stream, None).1
    };
    let (single, double) = (with(crate::gram::Precision::Single), with(crate::gram::Precision::Double));
    assert!(apart(&predictions(&single), &predictions(&double)) < 2e-4);
}

#[test]
fn bad_rows_and_parameters_are_refused() {
    let stream = Stream::smooth(68, 40, 2, 0.1);
    let mut learner = ProjectedKons::new(params(0), 2, 0).unwrap();
    learner.learn(&stream.part(0, 20)).unwrap();
    let before = serde_json::to_string(&learner).unwrap();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut y = stream.y.clone();
        y[25] = value;
        let bad = Batch::new(stream.rows.view().slice(20, 40), &stream.ids[20..], &y[20..]);
        assert!(matches!(learner.learn(&bad), Err(OnlineError::NotFinite { what: "target", row: 5, .. })));
        let mut rows = stream.rows.clone();
        rows.numeric[23 * 2] = value as f32;
        let bad = Batch::new(rows.view().slice(20, 40), &stream.ids[20..], &stream.y[20..]);
        assert!(matches!(learner.learn(&bad), Err(OnlineError::NotFinite { what: "feature", row: 3, column: 0, .. })));
        let weights = [1.0, value];
        let bad = Batch { weights: Some(&weights), ..stream.part(20, 22) };
        assert!(matches!(learner.learn(&bad), Err(OnlineError::NotFinite { what: "weight", row: 1, .. })));
    }
    let wide = Stream::smooth(69, 5, 3, 0.1);
    assert!(matches!(learner.learn(&wide.batch()), Err(OnlineError::Shape { expected: 2, found: 3, .. })));
    assert!(matches!(learner.predict(wide.rows.view()), Err(OnlineError::Shape { .. })));
    assert_eq!(serde_json::to_string(&learner).unwrap(), before);
    // A target of any finite size does not end in a NaN or a panic: it is learned, or the learner says that it has diverged.
    let huge = Batch::new(stream.rows.view().slice(20, 40), &stream.ids[20..], &[1e308; 20]);
    match learner.learn(&huge).and_then(|_| learner.flush()) {
        Ok(outcomes) => assert!(outcomes.iter().all(|o| o.prediction.is_finite())),
        Err(error) => assert!(matches!(error, OnlineError::Diverged { .. } | OnlineError::Dense(_)), "{error}"),
    }
    let new = |change: &dyn Fn(&mut ProjectedParams)| {
        let mut params = params(0);
        change(&mut params);
        ProjectedKons::new(params, 2, 0)
    };
    assert!(new(&|_| ()).is_ok());
    assert!(new(&|p| p.alpha = 0.0).is_err() && new(&|p| p.alpha = f64::NAN).is_err());
    assert!(new(&|p| p.block = 0).is_err() && new(&|p| p.forgetting = 0.0).is_err());
    assert!(new(&|p| p.forgetting = 1.01).is_err() && new(&|p| p.dictionary.cap = 0).is_err());
    assert!(new(&|p| p.dictionary.gamma = -1.0).is_err() && new(&|p| p.dictionary.eps = 1.0).is_err());
    assert!(new(&|p| p.loss = Loss::Logistic).is_err());
    // More atoms than the cap.
    let capped = ProjectedParams { dictionary: dictionary(1.0, 2, 0), ..params(0) };
    assert!(ProjectedKons::with_atoms(capped, stream.rows.view(), &stream.ids, None).is_err());
}

/// Rows that repeat, and rows far from all others: no pivot is clamped, no jitter added, nothing fails.
#[test]
fn duplicates_and_outliers_do_not_fail() {
    let mut stream = Stream::smooth(70, 400, 2, 0.1);
    for i in 0..400 {
        if i % 3 == 0 {
            stream.rows.numeric[2 * i..2 * i + 2].copy_from_slice(&[1.0, -1.0]);
        }
        if i % 50 == 7 {
            stream.rows.numeric[2 * i] = 1e6;
        }
    }
    for precision in [crate::gram::Precision::Single, crate::gram::Precision::Double] {
        let entries = EntryParams { precision, ..gaussian(1.2) };
        // Each row would be accepted, but for its pivot.
        let dictionary = DictionaryParams { beta: 1e6, ..dictionary(1e-3, 300, 0) };
        let (learner, outcomes) = run(ProjectedParams { entries, dictionary, ..params(0) }, &stream, None);
        assert!(outcomes.iter().all(|o| o.prediction.is_finite() && o.prediction.abs() < 10.0));
        let info = learner.info();
        assert!(info.basis_condition > 10.0 && info.metric_condition > 10.0, "{info:?}");
        assert!(info.dictionary == 300 && info.width < 300 - 95 && info.refused > 50, "{info:?}");
    }
}
