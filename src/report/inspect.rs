//! Descriptions of models and data sets.

use super::Report;
use super::fit::Validation;
use super::text::{Pairs, bytes, count, number, plural, table};
use crate::cli::values::KernelName;
use crate::model::{Model, ModelError, VERSION};
use nystream_kernels::kernel::Metric;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `nystream inspect MODEL`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// File.
    pub path: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Always `model`.
    pub kind: String,
    /// Version of the file format.
    pub format_version: u64,
    /// Program that wrote it.
    pub written_by: String,
    /// Seconds since 1970 when it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_unix: Option<u64>,
    /// Digest.
    pub model_digest: String,
    /// Rows fitted to.
    pub rows: u64,
    /// Sum of their weights.
    pub sum_weights: f64,
    /// Numeric encoded columns.
    pub numeric_columns: u64,
    /// Categorical encoded columns.
    pub categorical_columns: u64,
    /// Centers m.
    pub centers: u64,
    /// Kernel, as on the command line.
    pub kernel: String,
    /// sigma, encoded units.
    pub bandwidth: f64,
    /// How distances are measured: `isotropic`, `per_feature` (a length scale for each column) or `full` (a linear map).
    #[serde(default)]
    pub metric: String,
    /// lambda, per sample.
    pub ridge: super::PerTarget,
    /// Task.
    pub task: String,
    /// Loss.
    pub loss: String,
    /// Solver.
    pub solver: String,
    /// Selection.
    pub select: String,
    /// Precision of kernel entries.
    pub precision: String,
    /// Instruction set it was fitted with.
    pub simd: String,
    /// Seed.
    pub seed: u64,
    /// Held-out rule, as on the command line; `none` too where other files were held out.
    #[serde(default)]
    pub split: String,
    /// Held-out error of when it was made, where rows were held out and the file says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// Target columns.
    pub targets: Vec<String>,
    /// Class labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// Whether predictive variances can be computed.
    pub variance: bool,
    /// The encoder.
    #[serde(default)]
    pub encoder: Value,
    /// The fit report.
    #[serde(default)]
    pub report: Value,
}

impl ModelReport {
    /// The description of a model read from `path`, a file of `bytes` bytes.
    ///
    /// # Errors
    /// As [`Model::digest`].
    pub fn new(path: &str, bytes: u64, model: &Model) -> Result<Self, ModelError> {
        let config = &model.config;
        Ok(ModelReport {
            path: path.to_string(),
            bytes,
            kind: "model".to_string(),
            format_version: VERSION,
            written_by: model.info.written_by.clone(),
            created_unix: Some(model.info.created_unix).filter(|&t| t > 0),
            model_digest: model.digest()?,
            rows: config.rows,
            sum_weights: config.sum_weights,
            numeric_columns: config.numeric_width as u64,
            categorical_columns: config.code_width as u64,
            centers: model.centers.len() as u64,
            kernel: KernelName(config.kernel.family).to_string(),
            bandwidth: config.kernel.bandwidth,
            metric: metric_name(&config.kernel.metric).to_string(),
            ridge: config.ridge.clone().into(),
            task: config.task.clone(),
            loss: config.loss.clone(),
            solver: config.solver.clone(),
            select: config.selection.method.clone(),
            precision: format!("{:?}", config.precision).to_lowercase(),
            simd: config.simd.clone(),
            seed: config.seed,
            split: config.split.clone(),
            // A model of another program may have none.
            validation: (model.info.report.get("validation"))
                .and_then(|found| serde_json::from_value(found.clone()).ok()),
            targets: config.targets.iter().map(|t| t.name.clone()).collect(),
            classes: config.classes.clone(),
            variance: model.variance.is_some(),
            encoder: config.encoder.clone(),
            report: model.info.report.clone(),
        })
    }
}

impl Report for ModelReport {
    fn text(&self) -> String {
        let mut pairs = Pairs::default();
        pairs
            .add("model", format!("{} ({})", self.path, bytes(self.bytes)))
            .add("format", format!("version {}, written by {}", self.format_version, self.written_by))
            .add("fitted to", plural(self.rows, "row"))
            .add("targets", self.targets.join(", "))
            .add("task", format!("{}, {} loss", self.task, self.loss));
        if !self.classes.is_empty() {
            pairs.add("classes", self.classes.join(", "));
        }
        pairs
            .add(
                "encoded columns",
                format!("{} numeric, {} categorical", count(self.numeric_columns), count(self.categorical_columns)),
            )
            .add("centers", format!("{} by {}", count(self.centers), self.select))
            .add("kernel", format!("{}, bandwidth {}", self.kernel, number(self.bandwidth)))
            .add("metric", self.metric.replace('_', " "))
            .add("ridge", super::text::per_target(&self.ridge))
            .add("solver", format!("{}, {} entries, {}", self.solver, self.precision, self.simd))
            .add("variance", if self.variance { "yes" } else { "no" })
            .add("seed", self.seed)
            .add("split", &self.split);
        if let Some(validation) = &self.validation {
            pairs.add("held-out rows", count(validation.rows));
            validation.metrics.pairs(&mut pairs);
        }
        pairs.add("digest", &self.model_digest);
        pairs.render()
    }
}

/// The name of the kind of a metric.
fn metric_name(metric: &Metric) -> &'static str {
    match metric {
        Metric::Isotropic => "isotropic",
        Metric::PerFeature { .. } => "per_feature",
        Metric::Full { .. } => "full",
    }
}

/// `nystream inspect DATA`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DatasetReport {
    /// As given.
    pub path: String,
    /// Always `data`.
    pub kind: String,
    /// Files.
    pub files: u64,
    /// Rows in all.
    pub rows: u64,
    /// Row groups in all.
    pub row_groups: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Columns in the order of the first file.
    pub columns: Vec<ColumnReport>,
}

/// One column of a data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ColumnReport {
    /// Name.
    pub name: String,
    /// Type in the file.
    #[serde(rename = "type")]
    pub physical: String,
    /// How it would be encoded: numeric, categorical, timestamp, refused, ...
    pub role: String,
    /// Nulls, where the files' statistics say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nulls: Option<u64>,
    /// Smallest value, where the files' statistics say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<String>,
    /// Largest value, where the files' statistics say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<String>,
}

impl Report for DatasetReport {
    fn text(&self) -> String {
        let mut pairs = Pairs::default();
        pairs
            .add("data", &self.path)
            .add("files", format!("{} ({})", count(self.files), bytes(self.bytes)))
            .add("rows", format!("{} in {}", count(self.rows), plural(self.row_groups, "row group")));
        let cell = |value: &Option<String>| value.clone().unwrap_or_default();
        let rows: Vec<Vec<String>> = (self.columns.iter())
            .map(|c| {
                let nulls = c.nulls.map(count).unwrap_or_default();
                vec![c.name.clone(), c.physical.clone(), c.role.clone(), nulls, cell(&c.min), cell(&c.max)]
            })
            .collect();
        format!("{}{}", pairs.render(), table(&["column", "type", "role", "nulls", "min", "max"], &rows))
    }
}
