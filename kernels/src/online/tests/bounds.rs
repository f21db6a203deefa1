//! Regret against the best comparator in hindsight, below the bound; the hindsight sample.

use super::references::batch_ridge;
use super::*;
use crate::checks::larger;
use crate::online::comparator::{OwnFunction, Told};
use crate::solve::oracle::spd_solve;

/// Oracle 4: regret of the three learners, all losses, IID and sign-flipping streams, is below the empirical bound against the best ridge comparator of all rows.
#[test]
fn regret_is_below_the_bound() {
    let (mut tightest, mut compared, mut published) = (0.0f64, 0, 0);
    for (seed, (loss, curvature, clip)) in kinds().into_iter().enumerate() {
        for flipping in [false, true] {
            let mut stream = Stream::smooth(80 + seed as u64, 250, 2, 0.3);
            if is_label(loss) {
                stream = stream.labels();
            }
            if flipping {
                stream = stream.flipping(40);
            }
            let alpha = 0.5;
            for (growth, forgetting) in
                [(Growth::Carry, 1.0), (Growth::CarryAfter, 1.0), (Growth::Restart, 1.0), (Growth::Carry, 0.98)]
            {
                let base = ProjectedParams::new(gaussian(1.2), dictionary(0.05, 60, 2), alpha);
                let params =
                    ProjectedParams { loss, curvature, clip, growth, forgetting, block: 32, hindsight: 250, ..base };
                let mut learner = ProjectedKons::new(params.clone(), 2, 0).unwrap();
                learner.learn(&stream.batch()).unwrap();
                learner.flush().unwrap();
                let found = learner.regret().unwrap().unwrap();
                assert_eq!((found.rows, found.comparator, found.error), (250, Comparator::Whole, 0.0));
                let bound = learner.ledger().bound(alpha, &found, loss, clip).map(|bound| bound.total());
                if let Some(bound) = bound
                    && found.infeasible == 0
                {
                    compared += 1;
                    assert!(
                        found.regret <= bound,
                        "{loss:?} {growth:?} {forgetting} {flipping}: {} {bound}",
                        found.regret
                    );
                } else {
                    // Targets of 0.99 make comparators leave a clip range of 0.5: theory does not know those.
                    assert!(clip.is_none() || found.infeasible > 0);
                }
            }
            // KONS: no mass is outside, so that the bound needs no Lipschitz constant.
            let params = KonsParams { loss, curvature, clip, hindsight: 250, ..KonsParams::new(gaussian(1.2), alpha) };
            let mut kons = Kons::new(params.clone(), 2, 0).unwrap();
            kons.learn(&stream.batch()).unwrap();
            let found = kons.regret().unwrap().unwrap();
            if let (Curvature::Fixed { scale: 1.0 }, Some(clip), Some(sigma)) =
                (curvature, clip, clip.and_then(|c| loss.sigma(c)))
                && found.infeasible == 0
            {
                // The published bound, with the exact effective dimension.
                let lipschitz = loss.lipschitz(clip);
                let k = stream.kernel_matrix(&params.entries.kernel);
                let ridge = alpha / (sigma * lipschitz * lipschitz);
                let scores = crate::sampling::leverage::exact_scores(k.as_ref(), ridge).unwrap();
                let terms = PublishedTerms {
                    alpha,
                    norm2: found.norm2,
                    sigma,
                    lipschitz,
                    clip,
                    weight: 1.0,
                    rows: 250.0,
                    effective_dimension: scores.iter().sum(),
                    starts: 1.0,
                    gamma: 0.05,
                    eps: 0.5,
                    least_probability: 1.0,
                };
                assert!(found.regret <= published_bound(PublishedBound::Kons, &terms));
                published += 1;
            }
            if let Some(bound) = kons.ledger().bound(alpha, &found, loss, clip).map(|bound| bound.total())
                && found.infeasible == 0
            {
                assert!(found.regret <= bound * (1.0 + 1e-9), "{loss:?} {flipping}: {} {bound}", found.regret);
                tightest = tightest.max(found.regret / bound);
            }
        }
    }
    assert!(compared >= 20, "{compared} runs had a feasible comparator");
    assert!(published >= 2, "{published} published bounds");
    // The bound is one that can be reached: adaptive squared loss does.
    assert!(tightest > 0.999, "{tightest}");
}

/// The sums of the ledger by their definitions: newton, dimension, outside, and outside up to the last atom. Inner products of the projected rows are
/// M_st = k_s^T K_I^-1 k_t over the atoms I that row s found (nested spans), and q_t = (M_tt - m_t^T (alpha D^-1 + M)^-1 m_t) / alpha.
fn slow_terms(params: &ProjectedParams, stream: &Stream, outcomes: &[Outcome]) -> [f64; 4] {
    let k = stream.kernel_matrix(&params.entries.kernel);
    let n = stream.len();
    let (mut atoms, mut m, mut d) = (Vec::new(), Mat::<f64>::zeros(n, n), Vec::<f64>::new());
    let [mut newton, mut dimension, mut outside, mut spanned] = [0.0; 4];
    for t in 0..n {
        if outcomes[t].grown {
            atoms.push(t);
        }
        let kii = Mat::from_fn(atoms.len(), atoms.len(), |i, j| k[(atoms[i], atoms[j])]);
        let coefficients = spd_solve(&kii, &Mat::from_fn(atoms.len(), 1, |i, _| k[(atoms[i], t)]));
        for s in t..n {
            m[(t, s)] = (0..atoms.len()).map(|i| coefficients[(i, 0)] * k[(atoms[i], s)]).sum();
            m[(s, t)] = m[(t, s)];
        }
        // Rows without curvature are not in A.
        let inside: Vec<usize> = (0..t).filter(|&s| d[s] > 0.0).collect();
        let taken = if inside.is_empty() {
            0.0
        } else {
            let diagonal = |i: usize, j: usize| if i == j { params.alpha / d[inside[i]] } else { 0.0 };
            let before = Mat::from_fn(inside.len(), inside.len(), |i, j| m[(inside[i], inside[j])] + diagonal(i, j));
            let column = Mat::from_fn(inside.len(), 1, |i, _| m[(inside[i], t)]);
            (column.transpose() * spd_solve(&before, &column))[(0, 0)]
        };
        let q = (m[(t, t)] - taken) / params.alpha;
        let (prediction, y) = (outcomes[t].prediction, stream.y[t]);
        let c = params.loss.step_curvature(params.curvature, prediction, y, params.clip).0;
        d.push(c);
        newton += 0.5 * params.loss.slope(prediction, y).powi(2) * q / (1.0 + c * q);
        dimension += c * q / (1.0 + c * q);
        outside += if outcomes[t].grown { 0.0 } else { (k[(t, t)] - m[(t, t)]).max(0.0).sqrt() };
        if outcomes[t].grown {
            spanned = outside;
        }
    }
    [newton, dimension, outside, spanned]
}

/// Every term of the bound is what its definition says, and the online dimension is at most that of as many coordinates.
#[test]
fn the_terms_are_those_of_the_definition() {
    for (seed, (loss, curvature, clip)) in kinds().into_iter().enumerate() {
        let mut stream = Stream::smooth(110 + seed as u64, 140, 2, 0.2);
        if is_label(loss) {
            stream = stream.labels();
        }
        for cap in [6, 25] {
            let base = ProjectedParams::new(gaussian(1.2), dictionary(0.1, cap, 5), 0.3);
            let params = ProjectedParams { loss, curvature, clip, block: 16, hindsight: 60, ..base };
            let mut learner = ProjectedKons::new(params.clone(), 2, 0).unwrap();
            let mut outcomes = learner.learn(&stream.batch()).unwrap();
            outcomes.extend(learner.flush().unwrap());
            let ledger = learner.ledger();
            let expected = slow_terms(&params, &stream, &outcomes);
            let found = [ledger.newton, ledger.dimension, ledger.outside, ledger.spanned];
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-6 * (1.0 + expected), "{loss:?} {cap}: {found} {expected}");
            }
            let m = learner.info().width as f64;
            let curvatures: f64 = outcomes
                .iter()
                .zip(&stream.y)
                .map(|(o, y)| loss.step_curvature(curvature, o.prediction, *y, clip).0)
                .sum();
            let most = m * (1.0 + curvatures / (m * params.alpha)).ln();
            assert!(ledger.dimension <= most && ledger.dimension > 0.0, "{} {most}", ledger.dimension);
        }
    }
}

/// Streams of which the sample is a part: estimates of the regret against the learner's own last function lie about the true one, and both below the bound. Among the streams are
/// a dictionary that is full early, kernels of finite rank where the bound is reached, signs that flip, and the case of a wide kernel with a ridge of the size of f32 rounding,
/// where a comparator fitted to the rows it was measured on gave regrets far above it.
#[test]
fn sampled_regret_is_below_the_bound() {
    let single = |entries: EntryParams| EntryParams { precision: crate::gram::Precision::Single, ..entries };
    let quadratic = EntryParams::new(Kernel::new(Family::Polynomial { degree: 2, offset: 1.0 }, 1.5));
    let cases = [
        ("narrow", single(gaussian(1.2)), 0.3, 40, 3, false, 1.0),
        ("full early", gaussian(1.5), 0.1, 12, 3, false, 1.0),
        ("wide, f32", single(gaussian(6.6)), 4.7e-4, 120, 8, false, 1.0),
        ("finite rank", quadratic.clone(), 0.2, 60, 3, false, 1.0),
        ("finite rank, f32", single(quadratic), 0.2, 60, 3, false, 1.0),
        ("flipping", gaussian(1.5), 0.2, 50, 3, true, 1.0),
        ("flipping, forgetting", gaussian(1.5), 0.2, 50, 3, true, 0.99),
    ];
    let (mut worst, mut compared) = (0.0f64, 0);
    for (seed, (name, entries, alpha, cap, d, flips, forgetting)) in cases.into_iter().enumerate() {
        for (loss, clip) in [(Loss::Squared, 3.0), (Loss::Logistic, 4.0), (Loss::Huber { delta: 0.5 }, 3.0)] {
            let mut stream = Stream::smooth(130 + seed as u64, 2500, d, 0.2);
            if is_label(loss) {
                stream = stream.labels();
            }
            if flips {
                stream = stream.flipping(400);
            }
            let base = ProjectedParams::new(entries.clone(), dictionary(0.5 * alpha, cap, 3), alpha);
            let params = ProjectedParams { loss, clip: Some(clip), hindsight: 250, forgetting, ..base };
            let mut learner = ProjectedKons::new(params, d, 0).unwrap();
            learner.learn(&stream.batch()).unwrap();
            learner.flush().unwrap();
            let found = learner.regret().unwrap().unwrap();
            let bound = learner.ledger().bound(alpha, &found, loss, Some(clip)).unwrap();
            let text = format!("{name} {loss:?}: {found:?} {bound:?}");
            // Of a sign that flips the function 0 may be the best, of which nothing is estimated.
            match found.comparator {
                Comparator::Zero => assert!(flips && found.rows == 2500 && found.error == 0.0, "{text}"),
                _ => assert!(found.rows == 250 && found.error > 0.0, "{text}"),
            }
            if found.infeasible > 0 {
                continue;
            }
            compared += 1;
            assert!(found.regret <= bound.total() + 4.0 * found.error, "{text}");
            // The true one, against the same function.
            if found.comparator == Comparator::Own {
                let values = learner.predict(stream.rows.view()).unwrap();
                let own: f64 = values.iter().zip(&stream.y).map(|(f, y)| loss.value(*f, *y)).sum();
                let regret = learner.ledger().loss - own;
                // Predictions are clamped: with one at the end of the range the function is not the comparator.
                if values.iter().any(|f| f.abs() >= clip) {
                    continue;
                }
                assert!(regret <= bound.total() * (1.0 + 1e-9), "{text}: {regret}");
                worst = worst.max((found.regret - regret).abs() / found.error);
                assert!((found.regret - regret).abs() < 4.5 * found.error, "{text}: {regret}");
            }
        }
    }
    // The errors are neither far too large nor too small.
    assert!(worst > 1.0 && compared > 14, "{worst} {compared}");
}

/// The comparator of squared loss is ridge regression of ridge alpha / 2; those of other losses are stationary: alpha b = -w l'(K b).
#[test]
fn comparators_minimise_their_objective() {
    let stream = Stream::smooth(100, 80, 2, 0.3);
    let entries = gaussian(1.0);
    let k = stream.kernel_matrix(&entries.kernel);
    let sample = |stream: &Stream, size| {
        let mut sample = HindsightSample::new(size, 0, 2, 0);
        let told = Told { loss: 0.5, zero: 1e3, slope: 1.0, leverage: 0.1 };
        (0..stream.len()).for_each(|i| sample.add((stream.rows.view(), i), stream.ids[i], stream.y[i], 1.0, told));
        sample
    };
    let measure = |sample: &HindsightSample, loss, alpha| {
        sample.settled().measure(&entries, loss, alpha, None, 40.0, None).unwrap().unwrap()
    };
    let found = measure(&sample(&stream, 100), Loss::Squared, 0.6);
    let (loss, norm2) = batch_ridge(&k, &stream.y, 0.3);
    assert!((found.comparator_loss - loss).abs() < 1e-9 * loss && (found.norm2 - norm2).abs() < 1e-9 * norm2);
    assert!((found.regret - (40.0 - loss)).abs() < 1e-9);
    // The comparator fitted to all rows knows them: its loss is below that of halves measured on what they were not fitted to.
    let part = measure(&sample(&stream, 79), Loss::Squared, 0.6);
    assert!(part.comparator == Comparator::Halves && part.regret < found.regret, "{part:?} {found:?}");
    let labels = stream.labels();
    for loss in [Loss::Logistic, Loss::SquaredHinge, Loss::Huber { delta: 0.2 }] {
        let value = |scale: f64| {
            let found = measure(&sample(&labels, 100), loss, 0.6 * scale);
            (found.comparator_loss, found.norm2)
        };
        // The derivative of the least objective in alpha is ||u||^2 / 2 (envelope theorem): wrong minimisers fail it.
        let (h, (l0, n0), (l1, n1)) = (1e-4, value(1.0 - 1e-4), value(1.0 + 1e-4));
        let slope = ((l1 + 0.3 * (1.0 + h) * n1) - (l0 + 0.3 * (1.0 - h) * n0)) / (2.0 * h * 0.6);
        let (_, norm2) = value(1.0);
        assert!((slope - 0.5 * norm2).abs() < 1e-4 * norm2, "{loss:?}: {slope} {norm2}");
    }
}

/// The sample is a function of the set of rows: the least hashes, whatever the order; scaled losses are unbiased over seeds.
#[test]
fn the_sample_has_no_order() {
    let stream = Stream::smooth(101, 500, 2, 0.3);
    let learned: f64 = stream.y.iter().map(|y| y.abs()).sum();
    let build = |order: &[usize], seed| {
        let mut sample = HindsightSample::new(50, seed, 2, 0);
        for &i in order {
            // A leverage that falls as it does in a stream, and with it how probable a row is.
            let told = Told { loss: stream.y[i].abs(), zero: 1e3, slope: 1.0, leverage: 1.0 / (1.0 + i as f64) };
            sample.add((stream.rows.view(), i), stream.ids[i], stream.y[i], 1.0, told);
        }
        let own = OwnFunction { values: vec![0.3; 50], norm2: 0.0 };
        let settled = sample.settled();
        let draws = settled.own(&own, Loss::Squared, Some(1.0), learned);
        (settled.measure(&gaussian(1.0), Loss::Squared, 1.0, Some(1.0), learned, None).unwrap().unwrap(), draws)
    };
    let forward: Vec<usize> = (0..500).collect();
    let backward: Vec<usize> = (0..500).rev().collect();
    let ((a, draws), (b, _)) = (build(&forward, 0), build(&backward, 0));
    assert_eq!((a.rows, a.comparator_loss, a.norm2), (50, b.comparator_loss, b.norm2));
    assert!((a.regret - b.regret).abs() < 1e-9 && a.infeasible == b.infeasible);
    assert!(build(&forward, 1).0.regret != a.regret && draws.rows == 50 && draws.error > 0.0);
    // Sums over the rows drawn are unbiased: their mean over seeds is the true sum within 4 standard errors, and their spread is the error that each states.
    let own: Vec<Hindsight> = (0..200).map(|seed| build(&forward, seed).1).collect();
    let (mean, error) = crate::checks::mean_and_error(&own.iter().map(|h| h.regret).collect::<Vec<_>>());
    let truth: f64 = stream.y.iter().map(|y| y.abs() - (y - 0.3) * (y - 0.3)).sum();
    assert!((mean - truth).abs() < 4.0 * error, "{mean} +- {error}, {truth}");
    let stated = (own.iter().map(|h| h.error * h.error).sum::<f64>() / 200.0 / 200.0).sqrt();
    assert!((stated / error - 1.0).abs() < 0.3, "{stated} {error}");
    let nothing = HindsightSample::new(10, 0, 2, 0).settled();
    assert!(nothing.measure(&gaussian(1.0), Loss::Squared, 1.0, None, 0.0, None).unwrap().is_none());
}

/// Window and mean losses are those of the outcomes.
#[test]
fn the_ledger_adds_up() {
    let stream = Stream::smooth(102, 300, 2, 0.2);
    let weights: Vec<f64> = (0..300).map(|i| 0.5 + (i % 3) as f64).collect();
    let base = ProjectedParams::new(gaussian(1.0), dictionary(0.5, 50, 0), 1.0);
    let mut learner = ProjectedKons::new(ProjectedParams { window: 70, block: 10, ..base }, 2, 0).unwrap();
    let outcomes = learner.learn(&Batch { weights: Some(&weights), ..stream.batch() }).unwrap();
    let mean = |from: usize| {
        let loss: f64 = (from..300).map(|i| weights[i] * outcomes[i].loss).sum();
        loss / weights[from..].iter().sum::<f64>()
    };
    let info = learner.info();
    let worst = larger((info.mean_loss.unwrap() - mean(0)).abs(), (info.window_loss.unwrap() - mean(230)).abs());
    assert!(worst < 1e-13, "{worst:e}");
    assert!(outcomes.iter().zip(&stream.y).all(|(o, y)| o.loss == (o.prediction - y).powi(2)));
}

/// Learners that may do worse than nothing, with weights over four decades: a comparator is never farther from the best than the function 0, whose loss is what it is over all rows, and of the others the loss is what they have on all
/// rows within the errors stated.
#[test]
fn no_comparator_is_worse_than_nothing() {
    let (n, alpha, clip) = (1500, 1e-3, 3.0);
    let weights: Vec<f64> = normals(141, n, 1).col_as_slice(0).iter().map(|x| 10f64.powf(x.clamp(-2.0, 2.0))).collect();
    let mut met = [0; 3];
    for (seed, curvature) in [(0, Curvature::Fixed { scale: 1.0 }), (1, Curvature::Adaptive)] {
        let stream = Stream::smooth(140 + seed, n, 3, 0.2);
        let k = stream.kernel_matrix(&gaussian(1.0).kernel);
        let batch = Batch { weights: Some(&weights), ..stream.batch() };
        let zero: f64 = stream.y.iter().zip(&weights).map(|(y, w)| w * y * y).sum();
        for hindsight in [3, 100] {
            let mut found = Vec::new();
            for share in [1.0, 0.2] {
                let sketch = Some(Sketch { least: share, gamma: 0.5 * alpha, eps: 0.5, beta: 1.0, seed: 1 });
                let clip = Some(clip);
                let params = KonsParams { curvature, clip, sketch, hindsight, ..KonsParams::new(gaussian(1.0), alpha) };
                let mut kons = Kons::new(params, 3, 0).unwrap();
                kons.learn(&batch).unwrap();
                found.push((kons.regret().unwrap().unwrap(), kons.expansion(), kons.ledger().loss));
            }
            let base = ProjectedParams::new(gaussian(1.0), dictionary(0.5 * alpha, 200, 3), alpha);
            let params = ProjectedParams { curvature, clip: Some(clip), hindsight, ..base };
            let mut learner = ProjectedKons::new(params, 3, 0).unwrap();
            learner.learn(&batch).unwrap();
            learner.flush().unwrap();
            found.push((learner.regret().unwrap().unwrap(), learner.expansion(), learner.ledger().loss));
            for (h, own, learned) in found {
                let text = format!("{curvature:?} {hindsight}: {h:?}, learner {learned}, zero {zero}");
                assert!(h.comparator_loss + h.error + 0.5 * alpha * h.norm2 <= zero * (1.0 + 1e-12), "{text}");
                assert!((learned - h.regret - h.comparator_loss).abs() <= 1e-9 * learned, "{text}");
                met[match h.comparator {
                    Comparator::Zero => {
                        assert!((h.comparator_loss - zero).abs() < 1e-9 * zero, "{text}");
                        assert!(h.error == 0.0 && h.norm == 0.0 && h.rows == n, "{text}");
                        0
                    }
                    Comparator::Own => {
                        let at: Vec<usize> =
                            own.ids.iter().map(|id| stream.ids.iter().position(|i| i == id).unwrap()).collect();
                        let f =
                            |i: usize| -> f64 { at.iter().zip(&own.coefficients).map(|(&j, c)| c * k[(j, i)]).sum() };
                        let loss: f64 = (0..n).map(|i| weights[i] * (f(i) - stream.y[i]).powi(2)).sum();
                        // Three rows say little of their own error.
                        let errors = if hindsight == 3 { 20.0 } else { 5.0 };
                        assert!((h.comparator_loss - loss).abs() <= errors * h.error, "{text}, own {loss}");
                        1
                    }
                    // Noise of 0.2 is what no function takes away.
                    _ => {
                        assert!(h.comparator_loss > 0.01 * weights.iter().sum::<f64>(), "{text}");
                        2
                    }
                }] += 1;
            }
        }
    }
    assert!(met[0] > 0 && met[1] > 0 && met[2] > 0, "{met:?}");
}

/// A learner whose losses are far above the comparator's, and jump: the comparator's loss is estimated by itself, unbiased, and better by far than its difference to the learner's.
#[test]
fn the_surer_estimate_is_taken() {
    let stream = Stream::smooth(142, 600, 2, 0.3);
    let learned = |i: usize| if i % 5 == 2 { 100.0 } else { 1.0 };
    let all: f64 = (0..600).map(learned).sum();
    let truth: f64 = stream.y.iter().map(|y| (y - 0.3) * (y - 0.3)).sum();
    let found: Vec<Hindsight> = (0..100)
        .map(|seed| {
            let mut sample = HindsightSample::new(60, seed, 2, 0);
            for i in 0..600 {
                let told = Told { loss: learned(i), zero: 0.0, slope: 1.0, leverage: 0.1 };
                sample.add((stream.rows.view(), i), stream.ids[i], stream.y[i], 1.0, told);
            }
            sample.settled().compare(Comparator::Halves, Loss::Squared, None, all, &[0.3; 60], &[0.0])
        })
        .collect();
    let (mean, error) = crate::checks::mean_and_error(&found.iter().map(|h| h.comparator_loss).collect::<Vec<_>>());
    assert!((mean - truth).abs() < 4.0 * error && error < 0.05 * truth, "{mean} +- {error}, {truth}");
    let stated = (found.iter().map(|h| h.error * h.error).sum::<f64>() / 100.0 / 100.0).sqrt();
    assert!((stated / error - 1.0).abs() < 0.3 && found.iter().all(|h| h.error < truth), "{stated} {error}");
}
