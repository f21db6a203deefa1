//! Regret against the best comparator in hindsight, below the bound; the hindsight sample.

use super::references::batch_ridge;
use super::*;
use crate::checks::larger;

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
                let found = learner.hindsight().unwrap().measure(&params.entries, loss, alpha, clip).unwrap().unwrap();
                assert_eq!(found.rows, 250);
                let bound = learner.ledger().bound(alpha, found.norm2, loss, clip);
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
            let params = KonsParams { loss, curvature, clip, ..KonsParams::new(gaussian(1.2), alpha) };
            let mut kons = Kons::new(params.clone(), 2, 0).unwrap();
            let outcomes = kons.learn(&stream.batch()).unwrap();
            let mut sample = HindsightSample::new(250, 0, 2, 0);
            for (i, o) in outcomes.iter().enumerate() {
                sample.add((stream.rows.view(), i), o.id, stream.y[i], 1.0, o.loss);
            }
            let found = sample.measure(&params.entries, loss, alpha, clip).unwrap().unwrap();
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
            if let Some(bound) = kons.ledger().bound(alpha, found.norm2, loss, clip)
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

/// The comparator of squared loss is ridge regression of ridge alpha / 2; those of other losses are stationary: alpha b = -w l'(K b).
#[test]
fn comparators_minimise_their_objective() {
    let stream = Stream::smooth(100, 80, 2, 0.3);
    let entries = gaussian(1.0);
    let k = stream.kernel_matrix(&entries.kernel);
    let sample = |stream: &Stream, size| {
        let mut sample = HindsightSample::new(size, 0, 2, 0);
        (0..stream.len()).for_each(|i| sample.add((stream.rows.view(), i), stream.ids[i], stream.y[i], 1.0, 0.5));
        sample
    };
    let found = sample(&stream, 100).measure(&entries, Loss::Squared, 0.6, None).unwrap().unwrap();
    let (loss, norm2) = batch_ridge(&k, &stream.y, 0.3);
    assert!((found.comparator_loss - loss).abs() < 1e-9 * loss && (found.norm2 - norm2).abs() < 1e-9 * norm2);
    assert!((found.regret - (40.0 - loss)).abs() < 1e-9);
    // The comparator fitted to all rows knows them: its loss is below that of the halves'.
    assert!(found.held_out_regret.unwrap() < found.regret);
    let labels = stream.labels();
    for loss in [Loss::Logistic, Loss::SquaredHinge, Loss::Huber { delta: 0.2 }] {
        let value = |scale: f64| {
            let found = sample(&labels, 100).measure(&entries, loss, 0.6 * scale, None).unwrap().unwrap();
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
    let build = |order: &[usize], seed| {
        let mut sample = HindsightSample::new(50, seed, 2, 0);
        for &i in order {
            sample.add((stream.rows.view(), i), stream.ids[i], stream.y[i], 1.0, stream.y[i].abs());
        }
        sample.measure(&gaussian(1.0), Loss::Squared, 1.0, Some(1.0)).unwrap().unwrap()
    };
    let forward: Vec<usize> = (0..500).collect();
    let backward: Vec<usize> = (0..500).rev().collect();
    let (a, b) = (build(&forward, 0), build(&backward, 0));
    assert_eq!((a.rows, a.comparator_loss, a.norm2), (50, b.comparator_loss, b.norm2));
    assert!((a.regret - b.regret).abs() < 1e-9 && a.infeasible == b.infeasible);
    assert!(build(&forward, 1).regret != a.regret);
    // Regret plus the comparator's loss is the learner's loss, scaled: its mean over seeds is the true sum within 4 standard errors.
    let totals: Vec<f64> = (0..100).map(|seed| build(&forward, seed)).map(|h| h.regret + h.comparator_loss).collect();
    let (mean, error) = crate::checks::mean_and_error(&totals);
    let truth: f64 = stream.y.iter().map(|y| y.abs()).sum();
    assert!((mean - truth).abs() < 4.0 * error, "{mean} +- {error}, {truth}");
    assert!(HindsightSample::new(10, 0, 2, 0).measure(&gaussian(1.0), Loss::Squared, 1.0, None).unwrap().is_none());
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
