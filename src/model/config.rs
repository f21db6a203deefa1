//! The frozen configuration: what `--config-from` takes over and what the digest covers.

use nystream_kernels::kernel::Kernel;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Precision of kernel entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single.
    #[default]
    F32,
    /// Double.
    F64,
}

/// One target column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Column name.
    pub name: String,
    /// c in y' = (y - c) / 2^e, target units.
    pub centre: f64,
    /// e in y' = (y - c) / 2^e.
    pub scale_log2: i32,
    /// Standard deviation of the training target (ddof 0, weighted), target units: the unit of `standardized_rmse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f64>,
}

/// How the centers were chosen, as far as it must be repeated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// `squeak`, `squeak:tempered`, `rpcholesky`, `rpcholesky:tempered`, `rpcholesky:full`, `uniform`, `file`, `all`; what `auto` decided, never `auto`.
    pub method: String,
    /// Number of centers m that was decided on; fewer are found where the rows span no more. None = every row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub centers: Option<u64>,
    /// `bernoulli` or `theorem`, where a dictionary was sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Matrix ridge of the leverage scores, on all rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    /// Oversampling (`bernoulli`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// Accuracy (`theorem`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// Probability of failure (`theorem`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Copies a row (`theorem`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<u32>,
    /// Dictionary size M aimed at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// Rows B above which the trie splits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf_rows: Option<u64>,
    /// Leading zero bits L of the hashes of candidate rows; none = every row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_bits: Option<u32>,
    /// Of those, the first so many by hash are candidates; none = all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_rows: Option<u64>,
}

/// The fixed point of an exact Gram matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exact {
    /// Entries are multiples of 2^-bits.
    pub bits: u32,
    /// Power-of-two bound by which kernels with k(x, x) != 1 are scaled: entries are divided by 2^kernel_log2.
    pub kernel_log2: i32,
    /// Rows of an exact panel.
    pub panel_rows: u64,
    /// Declared bound on row weights, class weights included.
    pub weight_max: f64,
}

/// What a model is, apart from its numbers: frozen when it is fitted, taken over by `--config-from`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrozenConfig {
    /// How raw rows become encoded rows.
    pub encoder: Value,
    /// Kernel with bandwidth and metric.
    pub kernel: Kernel,
    /// d, numeric columns of encoded rows.
    pub numeric_width: usize,
    /// c, categorical columns of encoded rows.
    pub code_width: usize,
    /// lambda, per sample; one value, or one for each output.
    pub ridge: Vec<f64>,
    /// n, rows the coefficients were fitted to.
    pub rows: u64,
    /// sum w of those rows.
    pub sum_weights: f64,
    /// Precision of kernel entries.
    pub precision: Precision,
    /// Instruction set of the kernel tiles; another one gives other last bits.
    pub simd: String,
    /// Seed.
    pub seed: u64,
    /// `regression` or `classification`.
    pub task: String,
    /// `squared` or `logistic`.
    pub loss: String,
    /// `gram`, `pcg`, `eigenpro`, `blockcd`.
    pub solver: String,
    /// Target columns.
    pub targets: Vec<Target>,
    /// Labels of a single classified target, in the order of the outputs; empty for regression.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// Centers.
    pub selection: Selection,
    /// Held-out rule, as on the command line.
    pub split: String,
    /// Fixed point of the Gram matrix, where it is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<Exact>,
    /// Settings of one solver or stage that fix its answer (tolerance, iterations, ranks), by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Value>,
}

impl FrozenConfig {
    /// A configuration for `targets` over `numeric_width` + `code_width` encoded columns; all else at its default.
    pub fn new(kernel: Kernel, targets: &[&str], numeric_width: usize, code_width: usize) -> Self {
        let target = |name: &&str| Target { name: name.to_string(), centre: 0.0, scale_log2: 0, deviation: None };
        FrozenConfig {
            encoder: Value::Null,
            kernel,
            numeric_width,
            code_width,
            ridge: vec![0.0],
            rows: 0,
            sum_weights: 0.0,
            precision: Precision::F32,
            simd: "portable".to_string(),
            seed: 0,
            task: "regression".to_string(),
            loss: "squared".to_string(),
            solver: "gram".to_string(),
            targets: targets.iter().map(target).collect(),
            classes: Vec::new(),
            selection: Selection { method: "uniform".to_string(), ..Selection::default() },
            split: "none".to_string(),
            exact: None,
            settings: BTreeMap::new(),
        }
    }

    /// Output columns t: targets, or classes of a single target. Two classes share one column, that of the second.
    pub fn outputs(&self) -> usize {
        match self.classes.len() {
            0 => self.targets.len(),
            2 => 1,
            classes => classes,
        }
    }
}

/// How a model was made. Free to differ between two equal models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Program that wrote the file.
    pub written_by: String,
    /// Seconds since 1970 when the fit ended; 0 where unknown.
    #[serde(default)]
    pub created_unix: u64,
    /// The fit report.
    #[serde(default)]
    pub report: Value,
}

impl Default for ModelInfo {
    fn default() -> Self {
        ModelInfo {
            written_by: concat!("nystream ", env!("CARGO_PKG_VERSION")).to_string(),
            created_unix: 0,
            report: Value::Null,
        }
    }
}
