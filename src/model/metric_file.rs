//! The file of `--metric`: length scales of features, or a full linear map.
//!
//! JSON, one of
//! * `[0.5, 2, ...]`: the length scale of every encoded column, numeric columns first, then categorical ones;
//! * `{"temperature": 2.5, "station": 0.5, ...}`: length scales by encoded column name; columns not named have 1. A column
//!   of the data stands for its value or level, `column:part` for what else is made of it (`pm:is null`, `time:hour sin`);
//! * `[[...], ...]`: rows of a map A of the numeric columns, r^2 = |A (x - z)|^2 plus the categorical part. Any map but that of zeros is a
//!   metric; a matrix M with r^2 = (x - z)' M (x - z) has to be given by a root A of it, M = A' A.
//!
//! Scales are in encoded units and positive: a difference is divided by its scale.

use nystream_kernels::kernel::Metric;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A metric file, read but not yet matched with the columns.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum MetricFile {
    /// One scale a column.
    Scales(Vec<f64>),
    /// Scales by name.
    Named(BTreeMap<String, f64>),
    /// Rows of a linear map of the numeric columns.
    Map(Vec<Vec<f64>>),
}

/// Why a metric file cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MetricError {
    /// It cannot be read.
    #[error("cannot read the metric file {}: {source}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// It is not one of the three forms.
    #[error(
        "{} is not a metric: {reason}; write a list of length scales, an object of scales by column, or a list of rows",
        path.display()
    )]
    Form {
        /// File.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A scale is not a positive number.
    #[error("the length scale {value} of column `{column}` must be positive and finite")]
    Scale {
        /// Column.
        column: String,
        /// Scale.
        value: f64,
    },
    /// The sizes do not match.
    #[error("the metric has {found} {what}, the encoded data has {expected}")]
    Size {
        /// What was counted.
        what: &'static str,
        /// In the data.
        expected: usize,
        /// In the file.
        found: usize,
    },
    /// All distances would be 0.
    #[error("the metric's map is zero everywhere: no two rows would differ in their numbers")]
    Zero,
    /// A named column does not exist.
    #[error("the metric names column `{column}`, which is not among the encoded columns")]
    Unknown {
        /// Name.
        column: String,
    },
}

impl MetricFile {
    /// Reads a metric file.
    ///
    /// ```
    /// use nystream::model::metric_file::MetricFile;
    /// let folder = tempfile::tempdir().unwrap();
    /// let path = folder.path().join("metric.json");
    /// std::fs::write(&path, "[0.5, 2]").unwrap();
    /// assert_eq!(MetricFile::read(&path)?, MetricFile::Scales(vec![0.5, 2.0]));
    /// # Ok::<(), nystream::model::metric_file::MetricError>(())
    /// ```
    ///
    /// # Errors
    /// A file that cannot be read or has another form.
    pub fn read(path: &Path) -> Result<Self, MetricError> {
        let text = std::fs::read(path).map_err(|source| MetricError::Read { path: path.to_path_buf(), source })?;
        let form = |e: serde_json::Error| MetricError::Form { path: path.to_path_buf(), reason: e.to_string() };
        // The syntax first: an untagged enum would only say that nothing matches.
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(form)?;
        MetricFile::deserialize(value).map_err(form)
    }

    /// The kernel's metric for encoded columns of these names.
    ///
    /// ```
    /// use nystream::model::metric_file::{MetricError, MetricFile};
    /// use nystream_kernels::kernel::Metric;
    /// let (numeric, categorical) = (["pm".to_string(), "pm:is null".into()], ["station".to_string()]);
    /// let file = MetricFile::Named([("pm".to_string(), 0.5)].into());
    /// // Columns that are not named have scale 1.
    /// let metric = Metric::PerFeature { numeric: vec![0.5, 1.0], categorical: vec![1.0] };
    /// assert_eq!(file.resolve(&numeric, &categorical)?, metric);
    /// // One scale for each of three columns, or none.
    /// let short = MetricFile::Scales(vec![0.5]).resolve(&numeric, &categorical);
    /// assert!(matches!(short, Err(MetricError::Size { expected: 3, found: 1, .. })));
    /// # Ok::<(), MetricError>(())
    /// ```
    ///
    /// # Errors
    /// Sizes and names that do not match, scales that are not positive, a map of zeros.
    pub fn resolve(&self, numeric: &[String], categorical: &[String]) -> Result<Metric, MetricError> {
        let names = || numeric.iter().chain(categorical);
        let total = numeric.len() + categorical.len();
        let scales: Vec<f64> = match self {
            MetricFile::Scales(scales) => {
                if scales.len() != total {
                    return Err(MetricError::Size { what: "length scales", expected: total, found: scales.len() });
                }
                scales.clone()
            }
            MetricFile::Named(scales) => {
                if let Some(column) = scales.keys().find(|column| !names().any(|name| name == *column)) {
                    return Err(MetricError::Unknown { column: column.clone() });
                }
                names().map(|name| scales.get(name).copied().unwrap_or(1.0)).collect()
            }
            MetricFile::Map(rows) => {
                for row in rows {
                    if row.len() != numeric.len() {
                        let (expected, found) = (numeric.len(), row.len());
                        return Err(MetricError::Size { what: "columns in a row", expected, found });
                    }
                    if let Some((column, &value)) = numeric.iter().zip(row).find(|(_, v)| !v.is_finite()) {
                        return Err(MetricError::Scale { column: column.clone(), value });
                    }
                }
                if rows.is_empty() {
                    return Err(MetricError::Size { what: "rows", expected: numeric.len(), found: 0 });
                }
                let map = rows.concat();
                if map.iter().all(|value| *value == 0.0) {
                    return Err(MetricError::Zero);
                }
                return Ok(Metric::Full { map, rows: rows.len(), categorical: vec![1.0; categorical.len()] });
            }
        };
        match names().zip(&scales).find(|(_, v)| !(v.is_finite() && **v > 0.0)) {
            Some((column, &value)) => Err(MetricError::Scale { column: column.clone(), value }),
            None => Ok(Metric::PerFeature {
                numeric: scales[..numeric.len()].to_vec(),
                categorical: scales[numeric.len()..].to_vec(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<MetricFile, MetricError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        MetricFile::read(file.path())
    }

    fn columns() -> (Vec<String>, Vec<String>) {
        (vec!["a".into(), "b".into()], vec!["s".into()])
    }

    #[test]
    fn the_three_forms() {
        let (numeric, categorical) = columns();
        let per_feature = |a, b, s| Metric::PerFeature { numeric: vec![a, b], categorical: vec![s] };
        let resolve = |text: &str| read(text).unwrap().resolve(&numeric, &categorical).unwrap();
        assert_eq!(resolve("[1, 2, 0.5]"), per_feature(1.0, 2.0, 0.5));
        assert_eq!(resolve(r#"{"b": 3, "s": 2}"#), per_feature(1.0, 3.0, 2.0));
        assert_eq!(
            resolve("[[1, 2], [0, 1], [3, 4]]"),
            Metric::Full { map: vec![1.0, 2.0, 0.0, 1.0, 3.0, 4.0], rows: 3, categorical: vec![1.0] }
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let (numeric, categorical) = columns();
        for (text, word) in [
            ("[1, 2]", "2 length scales"),
            ("[1, 2, 0]", "`s`"),
            ("[1, -2, 1]", "`b`"),
            (r#"{"c": 1}"#, "`c`"),
            ("[[1, 2, 3]]", "3 columns"),
            ("[]", "0 length scales"),
            ("[[0, 0], [0, -0.0]]", "zero everywhere"),
        ] {
            let error = read(text).unwrap().resolve(&numeric, &categorical).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        for text in ["", "{", "\"x\"", "[1, \"a\"]", "[[1], 2]"] {
            assert!(matches!(read(text), Err(MetricError::Form { .. })), "{text}");
        }
        assert!(matches!(MetricFile::read(Path::new("absent.json")), Err(MetricError::Read { .. })));
    }
}
