//! Reports: what commands say on stdout and in `--report` files.
//!
//! JSON documents are snake_case, their keys in alphabetical order, `schema_version` among them; that version changes when a field changes its meaning
//! or goes away, not when one is added. A quantity with one value per target is a number for one target and an array
//! for several. What does not apply is absent, never null. The text form says the same, for people.

mod fit;
mod inspect;
mod metrics;
mod online;
mod processes;
mod tables;
pub mod text;

pub use fit::{Certificate, DictionaryReport, FitReport, Flops, NetworkReport, PencilReport, Predicted, Validation};
pub use inspect::{ColumnReport, DatasetReport, ModelReport};
pub use metrics::{EvaluateReport, Metrics, PlannedMemory, PredictReport, Products};
pub use online::{
    AlarmReport, BoundTerms, LatencyReport, OnlineReport, Prequential, PublishedReport, RegretReport, ShardReport,
    ShardsReport, StateReport,
};
pub use processes::{ProcessReport, StageTime};
pub use tables::{
    ConsideredSolver, Consumer, DictionaryStageReport, MakeReport, PlanReport, SourceEntry, SourcesReport, TuneReport,
    TuneRow,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of every JSON document.
pub const SCHEMA_VERSION: u32 = 1;

/// A result with a JSON and a text form.
///
/// ```
/// use nystream::report::{EvaluateReport, Metrics, Report};
/// let metrics = Metrics { rmse: Some(0.25.into()), mae: Some(f64::NAN.into()), ..Metrics::default() };
/// let report = EvaluateReport { rows: 1000, metrics, ..EvaluateReport::default() };
/// let json = report.json();
/// assert_eq!((&json["schema_version"], &json["rmse"]), (&1.into(), &0.25.into()));
/// // What does not apply, or is no number, is absent.
/// assert!(json.get("accuracy").is_none() && json.get("mae").is_none());
/// assert!(report.text().contains("1,000"));
/// ```
pub trait Report: Serialize {
    /// The text form, ending with a line break.
    fn text(&self) -> String;

    /// The JSON document: the fields, and `schema_version`.
    fn json(&self) -> Value {
        let mut document = serde_json::to_value(self).unwrap_or_else(|error| {
            // Reports are plain structs: only a map with keys that are not text could fail.
            serde_json::json!({ "error": error.to_string() })
        });
        if let Value::Object(fields) = &mut document {
            remove_nulls(fields);
            fields.insert("schema_version".to_string(), SCHEMA_VERSION.into());
        }
        document
    }
}

/// Numbers that are not finite have no JSON; they are absent like everything that does not apply.
fn remove_nulls(fields: &mut serde_json::Map<String, Value>) {
    fields.retain(|_, value| !value.is_null());
    for value in fields.values_mut() {
        if let Value::Object(inner) = value {
            remove_nulls(inner);
        }
    }
}

/// A value for each target: one number, or an array for several targets.
///
/// ```
/// use nystream::report::PerTarget;
/// let json = |values: &[f64]| serde_json::to_string(&PerTarget::from(values.to_vec())).unwrap();
/// assert_eq!(json(&[0.5]), "0.5");
/// assert_eq!(json(&[0.5, 1.5]), "[0.5,1.5]");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerTarget {
    /// One target.
    One(f64),
    /// Several targets, in their order.
    Many(Vec<f64>),
}

impl From<Vec<f64>> for PerTarget {
    fn from(values: Vec<f64>) -> Self {
        match values.as_slice() {
            [one] => PerTarget::One(*one),
            _ => PerTarget::Many(values),
        }
    }
}

impl From<f64> for PerTarget {
    fn from(value: f64) -> Self {
        PerTarget::One(value)
    }
}

impl PerTarget {
    /// The values, one per target.
    pub fn values(&self) -> &[f64] {
        match self {
            PerTarget::One(value) => std::slice::from_ref(value),
            PerTarget::Many(values) => values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_target_is_a_number_and_several_are_an_array() {
        assert_eq!(PerTarget::from(vec![1.0]).values(), &[1.0]);
        assert_eq!(PerTarget::from(vec![1.0, 2.0]).values(), &[1.0, 2.0]);
        let one: PerTarget = serde_json::from_str("3.5").unwrap();
        let many: PerTarget = serde_json::from_str("[3.5,4]").unwrap();
        assert_eq!((one, many), (PerTarget::One(3.5), PerTarget::Many(vec![3.5, 4.0])));
    }
}
