//! Logistic and softmax losses of one row: values, gradients, curvature. Nothing here overflows.

use serde::{Deserialize, Serialize};

/// Which loss, on how many margins.
///
/// ```
/// use nystream_kernels::solve::logistic::LogisticLoss;
/// let loss = LogisticLoss::Binary;
/// assert!((loss.value(&[0.0], 1) - 2f64.ln()).abs() < 1e-15);
/// assert_eq!(loss.value(&[-1000.0], 1), 1000.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogisticLoss {
    /// One margin f; class 1 is +1 and class 0 is -1; log(1 + exp(-y f)).
    Binary,
    /// One margin for each class; log sum exp f - f_label. The ridge makes the symmetric form unique.
    Softmax {
        /// Number of classes, at least 2.
        classes: usize,
    },
}

impl LogisticLoss {
    /// Number of margins (columns of the coefficients).
    pub fn outputs(self) -> usize {
        match self {
            LogisticLoss::Binary => 1,
            LogisticLoss::Softmax { classes } => classes,
        }
    }

    /// Number of classes.
    pub fn classes(self) -> usize {
        self.outputs().max(2)
    }

    /// Loss of the row; `label` below [`LogisticLoss::classes`].
    pub fn value(self, margins: &[f64], label: usize) -> f64 {
        match self {
            LogisticLoss::Binary => softplus(if label == 1 { -margins[0] } else { margins[0] }),
            LogisticLoss::Softmax { .. } => log_sum_exp(margins) - margins[label],
        }
    }

    /// Writes dl/df to `out` (one entry a margin) and returns the loss.
    ///
    /// ```
    /// use nystream_kernels::solve::logistic::LogisticLoss;
    /// let (loss, mut g, mut h) = (LogisticLoss::Softmax { classes: 2 }, [0.0; 2], [0.0; 2]);
    /// // Equal margins: p = (1/2, 1/2), the gradient is p - e_label, the Hessian diag(p) - p p^T.
    /// assert!((loss.gradient(&[3.0, 3.0], 0, &mut g) - 2f64.ln()).abs() < 1e-15);
    /// assert_eq!(g, [-0.5, 0.5]);
    /// loss.hessian_times(&[3.0, 3.0], &[1.0, 0.0], &mut h);
    /// assert_eq!(h, [0.25, -0.25]);
    /// ```
    pub fn gradient(self, margins: &[f64], label: usize, out: &mut [f64]) -> f64 {
        match self {
            LogisticLoss::Binary => {
                out[0] = if label == 1 { -sigmoid(-margins[0]) } else { sigmoid(margins[0]) };
            }
            LogisticLoss::Softmax { .. } => {
                softmax(margins, out);
                out[label] -= 1.0;
            }
        }
        self.value(margins, label)
    }

    /// Writes the Hessian of the loss in the margins, times `v`, to `out`: p (1 - p) v, or p v - p (p . v).
    pub fn hessian_times(self, margins: &[f64], v: &[f64], out: &mut [f64]) {
        match self {
            LogisticLoss::Binary => out[0] = sigmoid(margins[0]) * sigmoid(-margins[0]) * v[0],
            LogisticLoss::Softmax { .. } => {
                softmax(margins, out);
                let mean: f64 = out.iter().zip(v).map(|(p, v)| p * v).sum();
                out.iter_mut().zip(v).for_each(|(p, v)| *p *= v - mean);
            }
        }
    }

    /// Writes the diagonal of the Hessian in the margins, p_k (1 - p_k), to `out`.
    pub fn curvature(self, margins: &[f64], out: &mut [f64]) {
        match self {
            LogisticLoss::Binary => out[0] = sigmoid(margins[0]) * sigmoid(-margins[0]),
            LogisticLoss::Softmax { .. } => {
                softmax(margins, out);
                out.iter_mut().for_each(|p| *p *= 1.0 - *p);
            }
        }
    }

    /// Writes the probability of every class ([`LogisticLoss::classes`] entries) to `out`.
    pub fn probabilities(self, margins: &[f64], out: &mut [f64]) {
        match self {
            LogisticLoss::Binary => (out[0], out[1]) = (sigmoid(-margins[0]), sigmoid(margins[0])),
            LogisticLoss::Softmax { .. } => softmax(margins, out),
        }
    }

    /// The intercept: margins that reproduce the weighted class shares (clamped to 1e-12) with f = 0; centred for softmax.
    ///
    /// ```
    /// use nystream_kernels::solve::logistic::LogisticLoss;
    /// let (loss, mut p) = (LogisticLoss::Binary, [0.0; 2]);
    /// loss.probabilities(&loss.prior_offsets(&[1.0, 3.0]), &mut p);
    /// assert!((p[0] - 0.25).abs() < 1e-15 && (p[1] - 0.75).abs() < 1e-15);
    /// ```
    pub fn prior_offsets(self, class_weights: &[f64]) -> Vec<f64> {
        let total: f64 = class_weights.iter().sum();
        let logs: Vec<f64> = class_weights.iter().map(|w| (w / total).max(1e-12).ln()).collect();
        match self {
            LogisticLoss::Binary => vec![logs[1] - logs[0]],
            LogisticLoss::Softmax { .. } => {
                let mean = logs.iter().sum::<f64>() / logs.len() as f64;
                logs.iter().map(|l| l - mean).collect()
            }
        }
    }
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

fn log_sum_exp(x: &[f64]) -> f64 {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    top + x.iter().map(|v| (v - top).exp()).sum::<f64>().ln()
}

fn softmax(x: &[f64], out: &mut [f64]) {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    out.iter_mut().zip(x).for_each(|(o, v)| *o = (v - top).exp());
    let sum: f64 = out.iter().sum();
    out.iter_mut().for_each(|o| *o /= sum);
}
