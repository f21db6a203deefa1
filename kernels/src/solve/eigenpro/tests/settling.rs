//! Ends of a walk: the rules on losses, a walk that follows them, and averages that do not lag behind it.

use super::*;

/// Objective of gradient descent on a quadratic whose eigenvalues fall like 1 / i^2, after each of `epochs` steps: slow without end.
fn slow_descent(epochs: usize, floor: f64) -> Vec<f64> {
    let part = |i: f64, e: usize| i.powf(-1.2) * (1.0 - 1.0 / (i * i)).powi(2 * e as i32);
    (1..=epochs).map(|e| floor + (2..2000).map(|i| part(f64::from(i), e)).sum::<f64>()).collect()
}

#[test]
fn a_slow_walk_has_not_settled() {
    let floor = 0.05;
    let losses = slow_descent(4000, floor);
    let end = |rule: Settling, batches: usize| (1..=losses.len()).find(|e| rule.settled(&losses[..*e], batches));
    // "No fall of 0.1 % in three epochs" calls it settled at a fifth above what is reached later, and later again.
    let early = end(Settling::Patience(3), 10).unwrap();
    assert!(losses[early - 1] > 1.2 * losses[3999], "{early}: {} {}", losses[early - 1], losses[3999]);
    // The halving rule does not, while the second half of the walk still brings more than its share.
    let rule = Settling::Halving { share: 0.0025, epochs: 6, batches: 200 };
    for e in 6..=losses.len() {
        let (half, last) = (losses[e / 2 - 1], losses[e - 1]);
        assert_eq!(rule.settled(&losses[..e], 1000), half <= 1.0025 * last, "{e}");
    }
    assert!(end(rule, 10).is_none_or(|e| e > 4 * early));
    // A fast one settles after no fewer epochs and batches than are asked for.
    let fast: Vec<f64> = (0..400).map(|e| floor + 0.1f64.powi(e)).collect();
    let end = |batches: usize| (1..=fast.len()).find(|e| rule.settled(&fast[..*e], batches));
    assert_eq!((end(1000), end(10), end(1)), (Some(10), Some(20), Some(200)));
}

#[test]
fn a_walk_that_settles_is_near_the_minimum_and_one_cut_short_says_so() {
    let (n, ridge) = (300, 1e-4);
    let mut stored = Stored::new(laplace(1.0), n, 6, 80, 1, 0.3);
    let p = stored.preconditioner(4, 1.0);
    let directions = stored.directions(&p);
    let problem = EigenProProblem {
        preconditioner: &p,
        center_directions: directions.as_ref(),
        measured: stored.measured(&p),
        ridge,
        weight_sum: n as f64,
        shares: &[],
    };
    let kmm = pick(&stored.k, &stored.centers, &stored.centers);
    let knm = pick(&stored.k, &stored.all(), &stored.centers);
    let y = stored.y.clone();
    let objective = |alpha: &Mat<f64>| {
        squares(&(&knm * alpha - &y)) / n as f64 + ridge * (alpha.transpose() * &kmm * alpha)[(0, 0)]
    };
    let least = objective(&stored.direct(ridge));
    let mut run = |max_epochs: usize| {
        let settling = Settling::Halving { share: 0.0025, epochs: 6, batches: 200 };
        let params = EigenProParams { max_epochs, settling, ..Default::default() };
        let (start, mut projector) = (stored.zero(), stored.projector());
        let (alpha, info) = eigenpro(&mut stored, &mut projector, &problem, &params, start, |seen| {
            if seen.epoch_ended { Verdict::HeldOut(objective(seen.alpha)) } else { Verdict::Continue }
        })
        .unwrap();
        (objective(&alpha), info)
    };
    let (reached, info) = run(2000);
    assert_eq!(info.stopped, Stopped::Stagnated, "{info:?}");
    assert!(reached < 1.01 * least, "{reached} {least} {info:?}");
    assert!(info.cuts > 0, "one step's noise was taken for the end: {info:?}");
    let epochs = info.epochs;
    let (_, info) = run(epochs - 1);
    assert_eq!((info.stopped, info.epochs), (Stopped::MaxIterations, epochs - 1));
}

#[test]
fn averages_forget_the_first_half() {
    let mut state = EigenProState::from_coefficients(Mat::zeros(1, 1).as_ref());
    for epoch in 0..40 {
        state.epoch = epoch;
        // Two projections an epoch.
        for half in [0.0, 0.5] {
            state.alpha = vec![epoch as f64 + half];
            state.average(3);
        }
        let since = match epoch {
            0..3 => epoch,
            3..12 => 3,
            12..24 => 6,
            _ => 12,
        };
        let mean = if epoch < 3 { epoch as f64 + 0.5 } else { (since + epoch) as f64 / 2.0 + 0.25 };
        assert!((state.output(1)[(0, 0)] - mean).abs() < 1e-12, "{epoch}");
    }
}
