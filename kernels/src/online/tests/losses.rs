//! Slopes by finite differences; curvature inequalities on grids.

use super::*;

fn grid(clip: f64, points: i32) -> impl Iterator<Item = f64> {
    (-points..=points).map(move |i| clip * f64::from(i) / f64::from(points))
}

fn targets(loss: Loss, clip: f64) -> Vec<f64> {
    if is_label(loss) { vec![-1.0, 1.0] } else { grid(clip, 4).collect() }
}

#[test]
fn slopes_and_curvatures_are_derivatives() {
    for loss in [Loss::Squared, Loss::Logistic, Loss::SquaredHinge, Loss::Huber { delta: 0.4 }] {
        for y in targets(loss, 1.0) {
            // Points off the places where l' or l'' jump.
            for a in grid(3.0, 37).map(|a| a + 0.0123) {
                let h = 1e-5;
                let slope = (loss.value(a + h, y) - loss.value(a - h, y)) / (2.0 * h);
                assert!((slope - loss.slope(a, y)).abs() < 1e-8, "{loss:?} {a} {y}");
                let curvature = (loss.slope(a + h, y) - loss.slope(a - h, y)) / (2.0 * h);
                assert!((curvature - loss.curvature(a, y)).abs() < 1e-8, "{loss:?} {a} {y}");
            }
        }
    }
    // Nothing overflows.
    assert_eq!(Loss::Logistic.value(-1e6, 1.0), 1e6);
    assert_eq!(Loss::Logistic.slope(1e6, 1.0), 0.0);
}

/// sigma is valid on the whole clip range, and no larger one is for squared loss; the published logistic constant is smaller.
#[test]
fn sigma_holds_on_a_grid() {
    for clip in [0.3, 1.0, 2.5, 6.0] {
        for loss in [Loss::Squared, Loss::Logistic, Loss::SquaredHinge] {
            let sigma = loss.sigma(clip).unwrap();
            let (mut least, mut steepest) = (f64::INFINITY, 0.0f64);
            for y in targets(loss, clip) {
                for a in grid(clip, 60) {
                    let g = loss.slope(a, y);
                    steepest = steepest.max(g.abs());
                    for b in grid(clip, 60).filter(|b| (b - a).abs() > 1e-9) {
                        let spare = loss.value(b, y) - loss.value(a, y) - g * (b - a);
                        let needed = 0.5 * sigma * (g * (b - a)).powi(2);
                        assert!(spare >= needed - 1e-12 * (1.0 + needed), "{loss:?} {clip} {a} {b} {y}");
                        if g != 0.0 {
                            least = least.min(2.0 * spare / (g * (b - a)).powi(2));
                        }
                    }
                }
            }
            assert!(least < 1.6 * sigma, "{loss:?} at {clip}: {sigma} where {least} would do");
            if loss == Loss::Squared {
                assert!(least < (1.0 + 1e-9) * sigma);
            }
            assert!(steepest <= loss.lipschitz(clip) * (1.0 + 1e-12));
        }
        assert!(1.0 / (2.0 * (1.0 + clip.exp())) < Loss::Logistic.sigma(clip).unwrap());
    }
    assert_eq!(Loss::Huber { delta: 1.0 }.sigma(1.0), None);
}

/// The adaptive curvature is valid, and the largest that is: some b on the grid has equality.
#[test]
fn adaptive_curvature_is_the_largest_valid_one() {
    for clip in [0.4, 1.0, 3.0] {
        for loss in [Loss::Squared, Loss::Logistic, Loss::SquaredHinge, Loss::Huber { delta: 0.5 }] {
            for y in targets(loss, clip) {
                for a in grid(clip, 41) {
                    let c = loss.valid_curvature(a, y, Some(clip));
                    let mut least = f64::INFINITY;
                    for b in grid(clip, 400).filter(|b| (b - a).abs() > 1e-2 * clip) {
                        let spare = loss.value(b, y) - loss.value(a, y) - loss.slope(a, y) * (b - a);
                        least = least.min(2.0 * spare / (b - a).powi(2));
                    }
                    assert!(least >= c - 1e-9, "{loss:?} {clip} {a} {y}: {c} above {least}");
                    assert!(c >= least.min(loss.curvature(a, y)) - 0.06 * least - 1e-9, "{loss:?} {clip} {a} {y}: {c}");
                    // What a fixed step takes is never more than what is valid.
                    if let Some(sigma) = loss.sigma(clip) {
                        assert!(sigma * loss.slope(a, y).powi(2) <= c + 1e-9, "{loss:?} {clip} {a} {y}");
                    }
                }
            }
        }
    }
}

#[test]
fn losses_refuse_what_they_cannot_use() {
    let fixed = Curvature::Fixed { scale: 1.0 };
    assert!(Loss::Squared.check(fixed, None).is_err());
    assert!(Loss::Logistic.check(Curvature::Adaptive, None).is_err());
    assert!(Loss::Huber { delta: 1.0 }.check(fixed, Some(1.0)).is_err());
    assert!(Loss::Huber { delta: 0.0 }.check(Curvature::Adaptive, Some(1.0)).is_err());
    assert!(Loss::Squared.check(Curvature::Fixed { scale: 1.5 }, Some(1.0)).is_err());
    assert!(Loss::Squared.check(fixed, Some(f64::NAN)).is_err());
    assert!(Loss::Squared.check_target(fixed, Some(1.0), 3, 1.5).is_err());
    assert!(Loss::Squared.check_target(Curvature::Adaptive, Some(1.0), 3, 1.5).is_ok());
    let refused = Loss::Logistic.check_target(fixed, Some(1.0), 3, 0.5);
    assert_eq!(refused, Err(OnlineError::Target { row: 3, target: 0.5, must: "1 or -1" }));
}
