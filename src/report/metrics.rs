//! Errors on rows with known targets.

use super::text::{Pairs, bytes, count, number, per_target, seconds};
use super::{PerTarget, Report};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Measures of error: the first four for regression, the last three for classification.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Root mean squared error, target units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rmse: Option<PerTarget>,
    /// Mean absolute error, target units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mae: Option<PerTarget>,
    /// 1 - (sum of squared errors) / (sum of squared deviations from these rows' mean).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r2: Option<PerTarget>,
    /// Root mean squared error over the standard deviation (ddof 0) of the training target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standardized_rmse: Option<PerTarget>,
    /// Share of rows whose class is predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Area under the ROC curve; the mean over classes, one against the rest, for more than two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auc: Option<f64>,
    /// Mean negative log probability of the true class, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_loss: Option<f64>,
}

impl Metrics {
    pub(super) fn pairs(&self, pairs: &mut Pairs) {
        pairs
            .maybe("rmse", self.rmse.as_ref().map(per_target))
            .maybe("mae", self.mae.as_ref().map(per_target))
            .maybe("r2", self.r2.as_ref().map(per_target))
            .maybe("standardized rmse", self.standardized_rmse.as_ref().map(per_target))
            .maybe("accuracy", self.accuracy.map(number))
            .maybe("auc", self.auc.map(number))
            .maybe("log loss", self.log_loss.map(number));
    }
}

/// The plan's prediction for a command of one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlannedMemory {
    /// Memory of a process.
    pub memory_bytes: u64,
}

impl PlannedMemory {
    /// The pair of what was used and what was planned.
    fn pair(self, peak: Option<u64>, pairs: &mut Pairs) {
        pairs
            .maybe("peak memory", peak.map(|peak| format!("{} ({} predicted)", bytes(peak), bytes(self.memory_bytes))));
    }
}

/// How the products of kernel entries with coefficients were formed: where `--product-tolerance` is given, or the kernel has compact support.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Products {
    /// `sparse`, or `dense` where sparse ones would gain nothing.
    pub kind: String,
    /// `--product-tolerance`; absent for a kernel of compact support without it, which leaves out zeros alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// `sampled` with `--product-mode sampled`; absent where products are certified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// No entry above this is left out; with `mode: sampled` none is left out below it whatever the budget of its row.
    pub cutoff: f64,
    /// Share of the entries that the rows which judged this keep.
    pub expected_share: f64,
    /// Share of the entries that was formed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries_share: Option<f64>,
    /// `predict` and `evaluate`: at most so much was left out of any row's prediction: target units, or of a class its score or, with logistic loss, its margin. Besides the rounding of entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_bound: Option<PerTarget>,
    /// At most |K V - Y| / |V| over all rows: within the tolerance. Of `fit` the worst of all iterations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_bound: Option<f64>,
    /// With what probability `relative_bound` holds, and `error_bound` for all predictions at once, each at least; absent where they hold for certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
}

impl Products {
    /// One line for people.
    pub(super) fn text(&self) -> String {
        let asked = match self.tolerance {
            Some(tolerance) => {
                let mode = self.mode.as_ref().map(|mode| format!("{mode}, ")).unwrap_or_default();
                format!("{mode}tolerance {}, cutoff {}", number(tolerance), number(self.cutoff))
            }
            None => "kernel of compact support".to_owned(),
        };
        let certain = self.probability.map(|p| format!(", with probability {}", number(p))).unwrap_or_default();
        match (&self.error_bound, self.entries_share) {
            (Some(bound), Some(share)) => format!(
                "{} ({asked}): {} % of the entries, at most {} left out of any prediction{certain}",
                self.kind,
                number(100.0 * share),
                per_target(bound)
            ),
            (None, Some(share)) => format!(
                "{} ({asked}): {} % of the entries, |K V - Y| <= {} |V|",
                self.kind,
                number(100.0 * share),
                number(self.relative_bound.unwrap_or(0.0))
            ),
            _ => format!(
                "{} ({asked}): sparse ones would keep {} % of the entries",
                self.kind,
                number(100.0 * self.expected_share)
            ),
        }
    }
}

/// `nystream evaluate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvaluateReport {
    /// Target columns.
    #[serde(default)]
    pub targets: Vec<String>,
    /// `regression` or `classification`.
    #[serde(default)]
    pub task: String,
    /// Rows measured on.
    pub rows: u64,
    /// Rows left out for a null target.
    pub rows_skipped_null_target: u64,
    /// Rows left out as bad.
    pub rows_bad: u64,
    /// Errors.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Bytes read from files.
    pub bytes_read: u64,
    /// Seconds by stage, and `total`.
    pub seconds: BTreeMap<String, f64>,
    /// Peak resident memory of this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// What the plan predicted; beside it stands `peak_rss_bytes`.
    #[serde(default)]
    pub predicted: PlannedMemory,
    /// How products were formed, where that was a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub products: Option<Products>,
    /// Digest of the model.
    pub model_digest: String,
}

impl Report for EvaluateReport {
    fn text(&self) -> String {
        let mut pairs = Pairs::default();
        pairs.add("targets", self.targets.join(", ")).add("task", &self.task).add("rows", count(self.rows));
        if self.rows_skipped_null_target > 0 {
            pairs.add("rows without a target", count(self.rows_skipped_null_target));
        }
        if self.rows_bad > 0 {
            pairs.add("bad rows", count(self.rows_bad));
        }
        self.metrics.pairs(&mut pairs);
        pairs.maybe("products", self.products.as_ref().map(Products::text));
        pairs.maybe("time", self.seconds.get("total").map(|s| seconds(*s)));
        self.predicted.pair(self.peak_rss_bytes, &mut pairs);
        pairs.add("model digest", &self.model_digest);
        pairs.render()
    }
}

/// `nystream predict`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PredictReport {
    /// Rows written.
    pub rows: u64,
    /// Rows whose prediction is null because they are bad.
    pub rows_bad: u64,
    /// Columns written, in order.
    pub columns: Vec<String>,
    /// File written.
    pub out: String,
    /// Bytes read from files.
    pub bytes_read: u64,
    /// Seconds by stage, and `total`.
    pub seconds: BTreeMap<String, f64>,
    /// Peak resident memory of this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// What the plan predicted; beside it stands `peak_rss_bytes`.
    #[serde(default)]
    pub predicted: PlannedMemory,
    /// How products were formed, where that was a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub products: Option<Products>,
    /// Digest of the model.
    pub model_digest: String,
}

impl Report for PredictReport {
    fn text(&self) -> String {
        let mut pairs = Pairs::default();
        pairs.add("rows", count(self.rows));
        if self.rows_bad > 0 {
            pairs.add("bad rows", format!("{} (null predictions)", count(self.rows_bad)));
        }
        pairs.add("columns", self.columns.join(", "));
        pairs.maybe("products", self.products.as_ref().map(Products::text));
        pairs.maybe("time", self.seconds.get("total").map(|s| seconds(*s)));
        self.predicted.pair(self.peak_rss_bytes, &mut pairs);
        pairs.add("wrote", &self.out);
        pairs.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_apply_is_absent() {
        let report = EvaluateReport {
            targets: vec!["a".into(), "b".into()],
            task: "regression".into(),
            rows: 10,
            model_digest: "ab12".into(),
            metrics: Metrics { rmse: Some(vec![0.5, 1.0].into()), mae: Some(f64::NAN.into()), ..Metrics::default() },
            ..EvaluateReport::default()
        };
        let json = report.json();
        assert_eq!(json["schema_version"], 1);
        assert_eq!(json["rmse"], serde_json::json!([0.5, 1.0]));
        assert_eq!((&json["targets"], &json["task"]), (&serde_json::json!(["a", "b"]), &"regression".into()));
        for absent in ["accuracy", "auc", "r2", "mae", "peak_rss_bytes"] {
            assert!(json.get(absent).is_none(), "{absent}: {json}");
        }
        let text = report.text();
        for line in ["targets       a, b", "task          regression", "model digest  ab12"] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing from\n{text}");
        }
        assert!(text.contains("0.5000, 1.000") && !text.contains("accuracy"), "{text}");
    }
}
