//! Metrics from sums.

use crate::job::Loss;
use crate::predict::Function;
use crate::solve::logistic::margins_of;
use nystream_kernels::solve::logistic::LogisticLoss;
use serde::{Deserialize, Serialize};

/// Sums kept for a numeric target: rows, squared errors, absolute errors, deviations, squared deviations.
pub(super) const SUMS_PER_TARGET: usize = 5;
/// Sums kept for classes: rows, hits, log losses.
pub(super) const CLASS_SUMS: usize = 3;
/// Least-squares scores are kept this far from 0 and 1 in the log loss: they may leave the unit interval.
const CLIP: f64 = 1e-3;

/// Error of one numeric target, in raw units.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetMetrics {
    /// Rows that have the target.
    pub rows: u64,
    /// Root mean squared error.
    pub rmse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// 1 - SSE / SST, SST around the mean of these rows.
    pub r2: f64,
}

/// Error of class predictions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Rows.
    pub rows: u64,
    /// Share of rows whose best class is right.
    pub accuracy: f64,
    /// Area under the ROC curve; for more than two classes the mean of one against the rest.
    pub auc: Option<f64>,
    /// Mean negative log probability of the true class, nats. Least-squares scores are clipped to [0.001, 0.999]; the probabilities of a
    /// logistic model are taken as they are.
    pub log_loss: f64,
}

/// What an evaluation pass found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evaluation {
    /// One entry a target.
    Regression(Vec<TargetMetrics>),
    /// Classes.
    Classification(ClassMetrics),
}

impl Evaluation {
    /// Rows evaluated (those of the target with most).
    pub fn rows(&self) -> u64 {
        match self {
            Evaluation::Regression(targets) => targets.iter().map(|t| t.rows).max().unwrap_or(0),
            Evaluation::Classification(classes) => classes.rows,
        }
    }
}

pub(super) fn add_number(sums: &mut [f64], truth: f64, predicted: f64, centre: f64) {
    let error = predicted - truth;
    let deviation = truth - centre;
    sums[0] += 1.0;
    sums[1] += error * error;
    sums[2] += error.abs();
    sums[3] += deviation;
    sums[4] += deviation * deviation;
}

pub(super) fn add_class(sums: &mut [f64], outputs: &[f64], class: usize, loss: f64) {
    sums[0] += 1.0;
    sums[1] += f64::from(u8::from(argmax(outputs) == class));
    sums[2] += loss;
}

/// How classes are judged: by what the function was fitted with. `sums` are k(x, Z) alpha, `outputs` what is predicted from them.
#[derive(Clone, Debug)]
pub(super) enum ClassLoss {
    /// Least-squares scores, read as probabilities.
    Score,
    /// Margins: `sums` plus offsets.
    Logistic { loss: LogisticLoss, offsets: Vec<f64> },
}

impl ClassLoss {
    pub fn new(function: &Function) -> Self {
        match function.loss {
            Loss::Squared => ClassLoss::Score,
            Loss::Logistic => {
                let (loss, offsets) = margins_of(&function.code);
                ClassLoss::Logistic { loss, offsets }
            }
        }
    }

    fn margins<'a>(sums: &'a [f64], offsets: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        sums.iter().zip(offsets).map(|(sum, offset)| sum + offset)
    }

    /// Negative log probability of `class`: from the margins, so that it is finite however sure the model is.
    pub fn of(&self, sums: &[f64], outputs: &[f64], class: usize) -> f64 {
        match self {
            ClassLoss::Score => -outputs.get(class).copied().unwrap_or(0.0).clamp(CLIP, 1.0 - CLIP).ln(),
            ClassLoss::Logistic { loss, offsets } => {
                let margins: Vec<f64> = Self::margins(sums, offsets).collect();
                loss.value(&margins, class)
            }
        }
    }

    /// By what rows are ranked for class k: its score, or the log odds of its probability.
    pub fn rank(&self, sums: &[f64], outputs: &[f64], k: usize) -> f64 {
        match self {
            ClassLoss::Score => outputs[k],
            ClassLoss::Logistic { loss: LogisticLoss::Binary, offsets } => sums[0] + offsets[0],
            ClassLoss::Logistic { offsets, .. } => {
                let top = Self::margins(sums, offsets).enumerate().filter(|(j, _)| *j != k);
                let top = top.map(|(_, margin)| margin).fold(f64::NEG_INFINITY, f64::max);
                let others = Self::margins(sums, offsets).enumerate().filter(|(j, _)| *j != k);
                let rest: f64 = others.map(|(_, margin)| (margin - top).exp()).sum();
                sums[k] + offsets[k] - top - rest.ln()
            }
        }
    }
}

/// Index of the largest value, the first among equals.
pub(crate) fn argmax(values: &[f64]) -> usize {
    values.iter().enumerate().fold(0, |best, (k, v)| if *v > values[best] { k } else { best })
}

pub(super) fn summarise(function: &Function, sums: &[f64], area: Option<f64>) -> Evaluation {
    if function.code.is_classification() {
        let rows = sums[0].max(1.0);
        return Evaluation::Classification(ClassMetrics {
            rows: sums[0] as u64,
            accuracy: sums[1] / rows,
            auc: area,
            log_loss: sums[2] / rows,
        });
    }
    let target = |sums: &[f64]| {
        let rows = sums[0].max(1.0);
        let total = sums[4] - sums[3] * sums[3] / rows;
        TargetMetrics {
            rows: sums[0] as u64,
            rmse: (sums[1] / rows).sqrt(),
            mae: sums[2] / rows,
            r2: if total > 0.0 { 1.0 - sums[1] / total } else { 0.0 },
        }
    };
    Evaluation::Regression(sums.chunks_exact(SUMS_PER_TARGET).map(target).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nystream_kernels::solve::logistic::LogisticLoss;

    #[test]
    fn only_least_squares_scores_are_clipped() {
        let clipped = |score: f64| ClassLoss::Score.of(&[], &[1.0 - score, score], 1);
        assert_eq!(clipped(0.5), -(0.5f64.ln()));
        assert_eq!(clipped(-3.0), -(CLIP.ln()));
        assert_eq!(clipped(7.0), -((1.0 - CLIP).ln()));
        let binary = ClassLoss::Logistic { loss: LogisticLoss::Binary, offsets: vec![0.5] };
        // 1e-13 and 40 lie far beyond what clipping would allow.
        assert!((binary.of(&[29.5], &[], 1) / (-30f64).exp() - 1.0).abs() < 1e-9);
        assert!((binary.of(&[-40.5], &[], 1) - 40.0).abs() < 1e-12);
        let softmax = ClassLoss::Logistic { loss: LogisticLoss::Softmax { classes: 3 }, offsets: vec![0.0; 3] };
        assert!((softmax.of(&[0.0, 0.0, -900.0], &[], 2) - 900.0 - 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn log_odds_are_those_of_the_probabilities() {
        let offsets = vec![0.3, -0.2, 0.1];
        let three = ClassLoss::Logistic { loss: LogisticLoss::Softmax { classes: 3 }, offsets: offsets.clone() };
        for sums in [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5], [30.0, 0.0, -30.0], [-700.0, 0.0, 700.0]] {
            let margins: Vec<f64> = sums.iter().zip(&offsets).map(|(s, o)| s + o).collect();
            let mut p = [0.0; 3];
            LogisticLoss::Softmax { classes: 3 }.probabilities(&margins, &mut p);
            for k in 0..3 {
                let others = (0..3).filter(|j| *j != k).map(|j| margins[j]).fold(f64::NEG_INFINITY, f64::max);
                let rest: f64 = (0..3).filter(|j| *j != k).map(|j| (margins[j] - others).exp()).sum();
                let direct = margins[k] - others - rest.ln();
                let odds = three.rank(&sums, &p, k);
                assert!((odds - direct).abs() <= 1e-12 * direct.abs().max(1.0), "{sums:?} {k}: {odds} {direct}");
            }
        }
        let two = ClassLoss::Logistic { loss: LogisticLoss::Binary, offsets: vec![0.5] };
        assert_eq!(two.rank(&[1.0], &[0.2, 0.8], 1), 1.5);
        assert_eq!(ClassLoss::Score.rank(&[1.0], &[0.2, 0.8], 1), 0.8);
    }

    #[test]
    fn ties_go_to_the_first_class() {
        assert_eq!(argmax(&[0.2, 0.5, 0.5]), 1);
        assert_eq!(argmax(&[f64::NAN, 0.5]), 0);
    }
}
