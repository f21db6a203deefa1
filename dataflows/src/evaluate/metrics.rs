//! Metrics from sums.

use super::{Ranks, SCORE_BINS};
use crate::predict::Function;
use serde::{Deserialize, Serialize};

/// Sums kept for a numeric target: rows, squared errors, absolute errors, deviations, squared deviations.
pub(super) const SUMS_PER_TARGET: usize = 5;
/// Sums kept for classes: rows, hits, log losses.
pub(super) const CLASS_SUMS: usize = 3;
/// Probabilities are kept this far from 0 and 1 in the log loss: least-squares scores may leave the unit interval.
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
    /// Mean negative log probability of the true class (probabilities of least-squares scores are clipped to [0.001, 0.999]).
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

pub(super) fn add_class(sums: &mut [f64], probabilities: &[f64], class: usize) {
    let best = argmax(probabilities);
    sums[0] += 1.0;
    sums[1] += f64::from(u8::from(best == class));
    sums[2] -= probabilities.get(class).copied().unwrap_or(0.0).clamp(CLIP, 1.0 - CLIP).ln();
}

/// Index of the largest value, the first among equals.
pub(crate) fn argmax(values: &[f64]) -> usize {
    values.iter().enumerate().fold(0, |best, (k, v)| if *v > values[best] { k } else { best })
}

pub(super) fn summarise(function: &Function, sums: &[f64], ranks: &Ranks) -> Evaluation {
    if function.code.is_classification() {
        let rows = sums[0].max(1.0);
        return Evaluation::Classification(ClassMetrics {
            rows: sums[0] as u64,
            accuracy: sums[1] / rows,
            auc: area(ranks),
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

/// Mean over the ranked classes of the area under the curve; `None` when a class or its complement is absent throughout.
fn area(ranks: &Ranks) -> Option<f64> {
    let classes: std::collections::BTreeSet<u32> = ranks.keys().map(|(class, _)| *class).collect();
    let mut areas = Vec::new();
    for class in classes {
        // Bins ascend: a hit beats every other row below it and half of those in its bin.
        let (mut below, mut wins, mut hits) = (0u64, 0.0, 0u64);
        for (_, (hit, other)) in ranks.range((class, 0)..(class, SCORE_BINS as u32)) {
            wins += *hit as f64 * (below as f64 + 0.5 * *other as f64);
            below += other;
            hits += hit;
        }
        if hits > 0 && below > 0 {
            areas.push(wins / (hits as f64 * below as f64));
        }
    }
    (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn area_counts_pairs() {
        let scores = [(0.1, false), (0.4, true), (0.4, false), (0.7, true), (0.9, false), (0.95, true)];
        let mut ranks = Ranks::new();
        for (score, hit) in scores {
            let count = ranks.entry((1, super::super::bin(score))).or_default();
            if hit { count.0 += 1 } else { count.1 += 1 }
        }
        let mut wins = 0.0;
        for (a, _) in scores.iter().filter(|(_, hit)| *hit) {
            for (b, _) in scores.iter().filter(|(_, hit)| !*hit) {
                wins += if a > b {
                    1.0
                } else if a == b {
                    0.5
                } else {
                    0.0
                };
            }
        }
        assert_eq!(area(&ranks), Some(wins / 9.0));
        assert_eq!(area(&Ranks::new()), None);
    }

    #[test]
    fn ties_go_to_the_first_class() {
        assert_eq!(argmax(&[0.2, 0.5, 0.5]), 1);
        assert_eq!(argmax(&[f64::NAN, 0.5]), 0);
    }
}
