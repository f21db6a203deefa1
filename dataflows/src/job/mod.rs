//! Jobs: the stages of a command in order, run in step by every worker.

mod config;
mod evaluate;
pub(crate) mod fit;

pub use crate::dictionary::{Method, SelectionRule};
pub use config::{
    Bandwidth, DictionaryRule, FitConfig, Loss, MetricRequest, ResolveMetric, Select, Sharding, Solver, Task, WarmStart,
};
pub use evaluate::{Measured, evaluate_model};
pub use fit::{FitInputs, FitOutcome, Frozen, fit, processor_seconds, ridge_share};
