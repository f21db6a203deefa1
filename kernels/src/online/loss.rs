//! Losses of one margin: values, slopes, and the curvature that second-order steps may use.
//!
//! A step's quadratic c (b - a)^2 / 2 must lie below the loss: l(b) >= l(a) + l'(a) (b - a) + (c / 2) (b - a)^2 for all |b| <= C, a the prediction. Then regret is bounded
//! ([`super::regret`]). Three choices ([`Curvature`]):
//! * *fixed*: c = scale sigma l'(a)^2, sigma one number for all a and y. Squared (a - y)^2, |y| <= C: 1 / (8 C^2); logistic: e^-C; squared hinge: 1 / (2 (1 + C)^2), and for C > 1
//!   the lesser of that and (3 C - 1) / (8 C^2 (1 + C)). Tight for squared loss; the papers' constant for logistic, 1 / (2 (1 + e^C)), is smaller (recalled, not checked against
//!   the print).
//!   Huber's has none, since its tails are straight.
//! * *adaptive*: the largest c that is valid at this a and y, min(l''(a), 2 D(C, a) / (C - a)^2, 2 D(-C, a) / (C + a)^2), D(b, a) = l(b) - l(a) - l'(a) (b - a). The ratio
//!   2 D(b, a) / (b - a)^2 averages l'' between a and b, and l'' is unimodal for every loss here: averages of a unimodal function from a fixed point on are unimodal in the other end,
//!   so that the least is at b = a or at an end. Squared loss: c = 2, whatever y and C.
//! * Huber's loss with *adaptive* takes min(1, delta / |a - y|), the weight of iteratively reweighted least squares, which is not below the loss in its tails; what it
//!   exceeds the valid c by is put on the bound.

use super::OnlineError;
use serde::{Deserialize, Serialize};

/// A loss of a prediction and a target.
///
/// ```
/// use nystream_kernels::online::Loss;
/// assert_eq!(Loss::Squared.value(3.0, 1.0), 4.0);
/// assert_eq!(Loss::Squared.slope(3.0, 1.0), 4.0);
/// assert_eq!(Loss::SquaredHinge.value(2.0, 1.0), 0.0);
/// assert_eq!(Loss::Huber { delta: 1.0 }.value(3.0, 0.0), 2.5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// (a - y)^2.
    Squared,
    /// log(1 + exp(-y a)), y = 1 or -1.
    Logistic,
    /// max(0, 1 - y a)^2, y = 1 or -1.
    SquaredHinge,
    /// e^2 / 2 up to |e| = delta and delta |e| - delta^2 / 2 beyond, e = a - y: robust against targets far off.
    Huber {
        /// Where squared becomes absolute; positive.
        delta: f64,
    },
}

/// How much of the loss's curvature a step takes (module docs).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Curvature {
    /// `scale` sigma l'^2 with the loss's sigma for the clip range. 1 for KONS, 1/2 as PROS-N-KONS is published. Old errors weigh less than new ones of the same size: for
    /// drifting streams.
    Fixed {
        /// Factor of sigma, in (0, 1].
        scale: f64,
    },
    /// The largest valid at each step. Squared loss: exact ridge regression.
    Adaptive,
}

impl Loss {
    /// The loss of prediction `a` for target `y`.
    pub fn value(self, a: f64, y: f64) -> f64 {
        match self {
            Loss::Squared => (a - y) * (a - y),
            Loss::Logistic => softplus(-y * a),
            Loss::SquaredHinge => (1.0 - y * a).max(0.0).powi(2),
            Loss::Huber { delta } => {
                let e = (a - y).abs();
                if e <= delta { 0.5 * e * e } else { delta * e - 0.5 * delta * delta }
            }
        }
    }

    /// l'(a).
    pub fn slope(self, a: f64, y: f64) -> f64 {
        match self {
            Loss::Squared => 2.0 * (a - y),
            Loss::Logistic => -y * sigmoid(-y * a),
            Loss::SquaredHinge => -2.0 * y * (1.0 - y * a).max(0.0),
            Loss::Huber { delta } => (a - y).clamp(-delta, delta),
        }
    }

    /// l''(a).
    pub fn curvature(self, a: f64, y: f64) -> f64 {
        match self {
            Loss::Squared => 2.0,
            Loss::Logistic => sigmoid(y * a) * sigmoid(-y * a),
            Loss::SquaredHinge => {
                if y * a < 1.0 {
                    2.0
                } else {
                    0.0
                }
            }
            Loss::Huber { delta } => {
                if (a - y).abs() <= delta {
                    1.0
                } else {
                    0.0
                }
            }
        }
    }

    /// The one sigma that is valid for all |a| <= `clip` (and |y| <= `clip` for squared loss). `None` for Huber's loss, which has none.
    pub fn sigma(self, clip: f64) -> Option<f64> {
        let c = clip;
        match self {
            Loss::Squared => Some(1.0 / (8.0 * c * c)),
            Loss::Logistic => Some((-c).exp()),
            Loss::SquaredHinge => {
                let inside = 1.0 / (2.0 * (1.0 + c) * (1.0 + c));
                Some(if c > 1.0 { inside.min((3.0 * c - 1.0) / (8.0 * c * c * (1.0 + c))) } else { inside })
            }
            Loss::Huber { .. } => None,
        }
    }

    /// The largest |l'(a)| over |a| <= `clip` (and |y| <= `clip`).
    pub fn lipschitz(self, clip: f64) -> f64 {
        match self {
            Loss::Squared => 4.0 * clip,
            Loss::Logistic => 1.0,
            Loss::SquaredHinge => 2.0 * (1.0 + clip),
            Loss::Huber { delta } => delta.min(2.0 * clip),
        }
    }

    /// The largest loss over |a| <= `clip`, |y| <= `clip` (labels of 1 and -1 for logistic and hinge).
    pub fn largest(self, clip: f64) -> f64 {
        match self {
            Loss::Squared | Loss::Huber { .. } => self.value(clip, -clip),
            Loss::Logistic | Loss::SquaredHinge => self.value(clip, -1.0),
        }
    }

    /// The largest c with l(b) >= l(a) + l'(a) (b - a) + (c / 2) (b - a)^2 for all |b| <= `clip`, where |a| <= `clip`.
    pub fn valid_curvature(self, a: f64, y: f64, clip: Option<f64>) -> f64 {
        let here = self.curvature(a, y);
        if matches!(self, Loss::Squared) {
            return here;
        }
        let Some(clip) = clip else { return 0.0 };
        let end = |b: f64| {
            let step = b - a;
            // Near a, D / step^2 is l'' / 2 up to the change of l'' on the way; differences of the losses would be rounding alone.
            if step.abs() < 1e-3 {
                return here.min(self.curvature(b, y));
            }
            2.0 * (self.value(b, y) - self.value(a, y) - self.slope(a, y) * step) / (step * step)
        };
        here.min(end(clip)).min(end(-clip)).max(0.0)
    }

    /// The curvature that a step takes, and by how much that is above what is valid.
    pub(super) fn step_curvature(self, choice: Curvature, a: f64, y: f64, clip: Option<f64>) -> (f64, f64) {
        match (choice, self) {
            (Curvature::Adaptive, Loss::Huber { delta }) => {
                let weight = (delta / (a - y).abs()).min(1.0);
                (weight, (weight - self.valid_curvature(a, y, clip)).max(0.0))
            }
            (Curvature::Adaptive, _) => (self.valid_curvature(a, y, clip), 0.0),
            (Curvature::Fixed { scale }, _) => {
                let sigma = clip.and_then(|c| self.sigma(c)).unwrap_or(0.0);
                (scale * sigma * self.slope(a, y).powi(2), 0.0)
            }
        }
    }

    /// Checks the loss against the curvature and the clip range.
    pub(super) fn check(self, curvature: Curvature, clip: Option<f64>) -> Result<(), OnlineError> {
        if let Some(clip) = clip {
            OnlineError::positive("clip", clip)?;
        } else if !matches!((self, curvature), (Loss::Squared | Loss::Huber { .. }, Curvature::Adaptive)) {
            let must = "finite: only squared and Huber loss with adaptive curvature need no clip range";
            return Err(OnlineError::Parameter { name: "clip", value: f64::INFINITY, must });
        }
        if let Loss::Huber { delta } = self {
            OnlineError::positive("delta", delta)?;
        }
        match curvature {
            Curvature::Fixed { .. } if matches!(self, Loss::Huber { .. }) => Err(OnlineError::Parameter {
                name: "sigma of Huber's loss",
                value: 0.0,
                must: "positive for fixed curvature: its tails are straight, take adaptive curvature",
            }),
            Curvature::Fixed { scale } if !(scale > 0.0 && scale <= 1.0) => {
                Err(OnlineError::Parameter { name: "scale", value: scale, must: "in (0, 1]" })
            }
            _ => Ok(()),
        }
    }

    /// Checks a target: labels are 1 or -1; fixed curvature of squared loss rests on |y| <= C.
    pub(super) fn check_target(
        self,
        curvature: Curvature,
        clip: Option<f64>,
        row: usize,
        y: f64,
    ) -> Result<(), OnlineError> {
        if !y.is_finite() {
            return Err(OnlineError::NotFinite { what: "target", row, column: 0, value: y });
        }
        match self {
            Loss::Logistic | Loss::SquaredHinge if y.abs() != 1.0 => {
                Err(OnlineError::Target { row, target: y, must: "1 or -1" })
            }
            Loss::Squared if curvature != Curvature::Adaptive && clip.is_some_and(|c| y.abs() > c) => {
                Err(OnlineError::Target { row, target: y, must: "within the clip range" })
            }
            _ => Ok(()),
        }
    }
}

/// sign(z) max(|z| - C, 0): by how much z is outside the clip range.
pub(super) fn overshoot(z: f64, clip: Option<f64>) -> f64 {
    clip.map_or(0.0, |c| z - z.clamp(-c, c))
}

/// log(1 + e^x).
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1 / (1 + e^-x), accurate in both tails.
fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}
