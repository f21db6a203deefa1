//! The encoder: from raw rows to encoded ones, frozen at fit and part of the model.
//!
//! It is self-contained. Prediction takes raw rows with columns in any order; extra columns are ignored, and a
//! missing or mistyped one is an error that names it.
//!
//! # The encoding
//!
//! * A **number** x becomes `(x - center) / scale`, computed in `f64` and rounded once to `f32`. A null becomes 0 (the centre), and
//!   when the training column had nulls an indicator column follows: 1 for null, else 0, so that null and not null are at unit distance like
//!   two levels of a categorical. `--scale robust` uses the median and the interquartile range over 1.349. `--scale quantile` maps x through the
//!   sample quantiles q_i to standard normal quantiles z_i, linearly between them and constant beyond the ends;
//!   the z of a run of equal q_i is their mean.
//! * A **boolean** becomes 0 or 1, uncentred (null: the share of ones, plus the indicator).
//! * A **timestamp or date** is a number of seconds; with `--cyclic`, sine and cosine of hour of the day (timestamps only), day of the week and day
//!   of the year follow, in UTC, 0 for null.
//! * A **categorical** becomes a `u16` code. 0 is the pool: levels that were rare in training or unseen. Kept levels are 1, 2, .. by training count
//!   descending, then bytewise; null has the last code if training had nulls, else it is pooled.
//! * **Left out**, each with a note: columns that are null or constant throughout (a constant column with nulls keeps its indicator), and
//!   columns equal to an earlier one in every row. A value that makes a row bad does so there too: which rows are learned from is settled before
//!   what is learned of them ([`Encoder::watched`]).
//!
//! # The layout
//!
//! Numeric columns come in column order of the training data: for each, the value, the cyclic parts, the indicator. Categorical columns likewise.
//! Nothing else is subtracted or scaled afterwards: the encoder's centre is the constant offset of all distances.

mod bounds;
mod calendar;
mod encode;
mod fit;
mod normal;
#[cfg(test)]
mod tests;

pub use bounds::{Bounds, RowTest, TargetRange};
pub(crate) use calendar::instant;

use crate::{ColumnKind, Scale};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

/// What the targets are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// Numbers, one column each.
    Regression,
    /// One column of labels: the classes in order (integers by value, text bytewise); the encoded target is the index.
    Classes(Vec<String>),
}

/// How the value of a numeric feature is mapped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// `(x - center) / scale`.
    Affine {
        /// In the units of the column.
        center: f64,
        /// In the units of the column, positive.
        scale: f64,
    },
    /// Piecewise linear through (`values`, `z`), constant beyond the ends.
    Quantile {
        /// Strictly ascending, at least two.
        values: Vec<f64>,
        /// Ascending, in standard normal units.
        z: Vec<f64>,
    },
    /// x itself, 0 or 1.
    Boolean {
        /// The share of ones, which null becomes.
        center: f64,
    },
    /// No value column: only the null indicator says anything.
    Constant,
}

/// One numeric feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NumericFeature {
    /// Column of the data.
    pub column: String,
    /// Its kind.
    pub kind: ColumnKind,
    /// How its value is mapped.
    pub transform: Transform,
    /// Whether the cyclic parts follow.
    pub cyclic: bool,
    /// Whether a null indicator follows.
    pub indicator: bool,
}

/// One categorical feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CategoricalFeature {
    /// Column of the data.
    pub column: String,
    /// Its kind.
    pub kind: ColumnKind,
    /// Kept levels: level i has code i + 1.
    pub levels: Vec<String>,
    /// Whether null has a code of its own, `levels.len() + 1`.
    pub null_level: bool,
}

impl CategoricalFeature {
    /// The code of `level`, `None` being null.
    fn code(&self, lookup: &HashMap<String, u16>, level: Option<&str>) -> u16 {
        match level {
            Some(level) => lookup.get(level).copied().unwrap_or(0),
            None => self.null_code(),
        }
    }

    /// The code of null.
    pub fn null_code(&self) -> u16 {
        if self.null_level { self.levels.len() as u16 + 1 } else { 0 }
    }

    /// Number of codes, the pool included.
    pub fn codes(&self) -> usize {
        self.levels.len() + 1 + usize::from(self.null_level)
    }
}

/// What one encoded numeric column holds of its source column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The mapped value.
    Value,
    /// Sine of the hour of the day.
    HourSin,
    /// Cosine of the hour of the day.
    HourCos,
    /// Sine of the day of the week.
    WeekdaySin,
    /// Cosine of the day of the week.
    WeekdayCos,
    /// Sine of the day of the year.
    YearSin,
    /// Cosine of the day of the year.
    YearCos,
    /// 1 for null, else 0.
    Null,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Value => "value",
            Part::HourSin => "hour sin",
            Part::HourCos => "hour cos",
            Part::WeekdaySin => "weekday sin",
            Part::WeekdayCos => "weekday cos",
            Part::YearSin => "year sin",
            Part::YearCos => "year cos",
            Part::Null => "is null",
        })
    }
}

impl NumericFeature {
    /// The encoded columns of this feature, in order.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        if self.transform != Transform::Constant {
            parts.push(Part::Value);
        }
        if self.cyclic {
            if self.kind == ColumnKind::Timestamp {
                parts.extend([Part::HourSin, Part::HourCos]);
            }
            parts.extend([Part::WeekdaySin, Part::WeekdayCos, Part::YearSin, Part::YearCos]);
        }
        if self.indicator {
            parts.push(Part::Null);
        }
        parts
    }
}

/// How held-out rows are told, resolved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitRule {
    /// No row is held out.
    #[default]
    None,
    /// Rows whose uniform hash lies below `fraction`.
    Hash {
        /// In (0, 1).
        fraction: f64,
        /// Column whose text is hashed; a null there falls back on the row id.
        column: Option<String>,
        /// Seed of the hash.
        seed: u64,
    },
    /// Rows with a value of at least `cut`; nulls are not held out.
    Time {
        /// The column.
        column: String,
        /// In its units, seconds for instants.
        cut: f64,
    },
}

/// The frozen encoding; see the module. Made by [`Encoder::fit`], stored as JSON in the model.
///
/// ```
/// use nystream_datasets::{Chunk, ColumnInfo, ColumnKind, ColumnSummary, Encoder, EncoderOptions, RawBatch, Role};
/// use arrow_array::{ArrayRef, Float64Array, RecordBatch};
/// use nystream_hashing::FileId;
/// use std::sync::Arc;
///
/// let info = |name: &str| ColumnInfo { name: name.into(), kind: ColumnKind::Numeric, integer: false, data_type: "Float64".into() };
/// let x = ColumnSummary { count: 3, mean: 2.0, sd: 2.0, max: 4.0, ..ColumnSummary::empty(&info("x")) };
/// let y = ColumnSummary { count: 3, mean: 1.0, sd: 1.0, max: 2.0, ..ColumnSummary::empty(&info("y")) };
/// let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
/// let encoder = Encoder::fit(&[x, y], &options)?;
///
/// let column = |v: Vec<f64>| Arc::new(Float64Array::from(v)) as ArrayRef;
/// let batch = RecordBatch::try_from_iter([("y", column(vec![0.0, 2.0])), ("x", column(vec![0.0, 4.0]))]).unwrap();
/// let raw = RawBatch { file: 0, file_id: FileId::from_relative_path("a"), first_ordinal: 0, batch };
/// let mut chunk = Chunk::new();
/// encoder.encode(&raw, Role::All, &mut chunk)?;
/// assert_eq!((chunk.numeric, chunk.targets), (vec![-1.0, 1.0], vec![0.0, 2.0]));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Encoder {
    /// Target columns.
    pub targets: Vec<String>,
    /// What they are.
    pub target_kind: TargetKind,
    /// Scaling asked for.
    pub scale: Scale,
    /// Numeric features in column order.
    pub numeric: Vec<NumericFeature>,
    /// Categorical features in column order.
    pub categorical: Vec<CategoricalFeature>,
    /// Column of row weights.
    pub weight: Option<String>,
    /// Factor on the weight of each class; empty without class weights.
    pub class_weights: Vec<f64>,
    /// Whether these were asked for as `balanced`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub balanced: bool,
    /// Column of row keys.
    pub id_column: Option<String>,
    /// Rows held out.
    pub split: SplitRule,
    /// What targets and weights may be; `None` until the targets are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Bounds>,
    /// Columns that are left out but held bad values: rows that are bad for them are so in every pass, as they were in the profile. Data
    /// without these columns has no such rows, and prediction does not look at them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watched: Vec<String>,
    /// Everything that was left out, pooled or decided, in sentences.
    pub notes: Vec<String>,
    #[serde(skip)]
    test: bounds::Test,
    #[serde(skip)]
    lookup: Lookup,
}

impl Encoder {
    /// Makes rows that fail `test` bad rows of training data, with [`crate::BadReason::KernelOutOfRange`]. It is not stored with the encoder.
    pub fn set_row_test(&mut self, test: std::sync::Arc<dyn RowTest>) {
        self.test = bounds::Test(Some(test));
    }

    /// Encoded numeric columns.
    pub fn numeric_width(&self) -> usize {
        self.numeric.iter().map(|feature| feature.parts().len()).sum()
    }

    /// Encoded categorical columns.
    pub fn code_width(&self) -> usize {
        self.categorical.len()
    }

    /// Width if every categorical were written out one-hot.
    pub fn one_hot_width(&self) -> usize {
        self.numeric_width() + self.categorical.iter().map(CategoricalFeature::codes).sum::<usize>()
    }

    /// Target columns of a chunk: one per target (for classes, the one index).
    pub fn target_width(&self) -> usize {
        self.targets.len()
    }

    /// The classes, if the target is labels.
    pub fn classes(&self) -> Option<&[String]> {
        match &self.target_kind {
            TargetKind::Regression => None,
            TargetKind::Classes(classes) => Some(classes),
        }
    }

    /// Source column and part of each encoded numeric column.
    pub fn numeric_columns(&self) -> Vec<(&str, Part)> {
        self.numeric
            .iter()
            .flat_map(|feature| feature.parts().into_iter().map(|part| (feature.column.as_str(), part)))
            .collect()
    }

    /// The columns that [`Encoder::encode`] reads for `role`, without repetition.
    pub fn columns(&self, role: crate::Role) -> Vec<&str> {
        use crate::Role;
        let mut names: Vec<&str> = self.numeric.iter().map(|feature| feature.column.as_str()).collect();
        names.extend(self.categorical.iter().map(|feature| feature.column.as_str()));
        names.extend(self.id_column.as_deref());
        if role != Role::Features {
            names.extend(self.targets.iter().map(String::as_str));
            names.extend(self.weight.as_deref());
        }
        if !matches!(role, Role::Features | Role::Evaluation) {
            names.extend(self.watched.iter().map(String::as_str));
            match &self.split {
                SplitRule::None | SplitRule::Hash { column: None, .. } => {}
                SplitRule::Hash { column: Some(column), .. } | SplitRule::Time { column, .. } => names.push(column),
            }
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(*name));
        names
    }

    /// Indices of those columns in `catalog`, for [`crate::BlockReader::new`].
    ///
    /// # Errors
    /// A column that is missing or of another type, by name. A row key may be missing except in training, and a weight in evaluation.
    pub fn projection(&self, catalog: &crate::Catalog, role: crate::Role) -> Result<Vec<usize>, crate::DataError> {
        use crate::{DataError, Role};
        let index: HashMap<&str, usize> =
            catalog.columns.iter().enumerate().map(|(i, info)| (info.name.as_str(), i)).collect();
        let mut projection = Vec::new();
        for name in self.columns(role) {
            let optional = match role {
                Role::Features => self.id_column.as_deref() == Some(name),
                Role::Evaluation => self.id_column.as_deref() == Some(name) || self.weight.as_deref() == Some(name),
                _ => false,
            };
            let optional = optional || self.watched.iter().any(|watched| watched == name);
            match index.get(name) {
                Some(i) => projection.push(*i),
                None if optional => {}
                None => {
                    let known = catalog.columns.iter().map(|info| info.name.as_str());
                    return Err(DataError::missing(name, "the model needs it", known));
                }
            }
        }
        let kinds = self.numeric.iter().map(|f| (&f.column, f.kind));
        for (name, kind) in kinds.chain(self.categorical.iter().map(|f| (&f.column, f.kind))) {
            if let Some(i) = index.get(name.as_str()) {
                encode::check_kind(name, kind, catalog.columns[*i].kind, &catalog.columns[*i].data_type)?;
            }
        }
        Ok(projection)
    }

    fn lookup(&self) -> &Tables {
        self.lookup.0.get_or_init(|| Tables {
            levels: self.categorical.iter().map(|feature| numbered(&feature.levels, 1)).collect(),
            classes: self.classes().map(|classes| numbered(classes, 0)).unwrap_or_default(),
        })
    }
}

fn numbered(levels: &[String], first: u16) -> HashMap<String, u16> {
    levels.iter().zip(first..).map(|(level, code)| (level.clone(), code)).collect()
}

/// Hash tables derived from the encoder; no part of its value.
#[derive(Debug, Default)]
struct Lookup(OnceLock<Tables>);

#[derive(Debug)]
struct Tables {
    levels: Vec<HashMap<String, u16>>,
    classes: HashMap<String, u16>,
}

impl Clone for Lookup {
    fn clone(&self) -> Self {
        Lookup::default()
    }
}

impl PartialEq for Lookup {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
