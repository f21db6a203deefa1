//! Which rows are held out, scored or centers, and what classes weigh.

use super::Count;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// All of something, or the first N in hash order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllOr {
    /// All.
    All,
    /// At most this many.
    Count(u64),
}

impl FromStr for AllOr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(AllOr::All);
        }
        Count::from_str(text).map(|c| AllOr::Count(c.0)).map_err(|e| format!("{e} (or `all`)"))
    }
}

impl fmt::Display for AllOr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllOr::All => f.write_str("all"),
            AllOr::Count(n) => n.fmt(f),
        }
    }
}

/// Which rows are held out.
///
/// ```
/// use nystream::cli::values::SplitSpec;
/// let split: SplitSpec = "hash:0.1:station".parse().unwrap();
/// assert_eq!(split, SplitSpec::Hash { fraction: 0.1, column: Some("station".into()) });
/// assert_eq!(split.to_string(), "hash:0.1:station");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum SplitSpec {
    /// No row.
    None,
    /// Rows whose hashed id, or hashed value of `column`, falls below `fraction`.
    Hash {
        /// Share of rows, between 0 and 1.
        fraction: f64,
        /// Column whose equal values stay on one side.
        column: Option<String>,
    },
    /// The last rows in the order of `column`.
    Time {
        /// Column that orders the rows.
        column: String,
        /// Share of rows, between 0 and 1.
        fraction: f64,
    },
}

impl FromStr for SplitSpec {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected hash:FRACTION, hash:FRACTION:COLUMN, time:COLUMN:FRACTION or none";
        let fraction = |text: &str| match text.parse::<f64>() {
            Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
            _ => Err(format!("the fraction `{text}` must be a number between 0 and 1")),
        };
        if text == "none" {
            return Ok(SplitSpec::None);
        }
        if let Some(rest) = text.strip_prefix("hash:") {
            // Column names may hold colons: only the first one separates.
            return match rest.split_once(':') {
                None => Ok(SplitSpec::Hash { fraction: fraction(rest)?, column: None }),
                Some((_, "")) => Err(expected.to_string()),
                Some((share, column)) => {
                    Ok(SplitSpec::Hash { fraction: fraction(share)?, column: Some(column.to_string()) })
                }
            };
        }
        match text.strip_prefix("time:").and_then(|rest| rest.rsplit_once(':')) {
            Some((column, share)) if !column.is_empty() => {
                Ok(SplitSpec::Time { column: column.to_string(), fraction: fraction(share)? })
            }
            _ => Err(expected.to_string()),
        }
    }
}

impl fmt::Display for SplitSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SplitSpec::None => f.write_str("none"),
            SplitSpec::Hash { fraction, column: None } => write!(f, "hash:{fraction}"),
            SplitSpec::Hash { fraction, column: Some(column) } => write!(f, "hash:{fraction}:{column}"),
            SplitSpec::Time { column, fraction } => write!(f, "time:{column}:{fraction}"),
        }
    }
}

/// How the centers are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// SQUEAK where its share of the plan allows it, else RPCholesky on a hashed pool.
    Auto,
    /// Streamed ridge-leverage-score sampling, then RPCholesky on the survivors.
    Squeak,
    /// Accelerated RPCholesky, on a hashed pool or on every row.
    RpCholesky {
        /// Whether every row is a candidate (one pass per block of pivots).
        full: bool,
    },
    /// The m rows with the smallest hashes.
    Uniform,
    /// Rows of a Parquet file.
    File(PathBuf),
}

impl FromStr for Select {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Select::Auto,
            "squeak" => Select::Squeak,
            "rpcholesky" => Select::RpCholesky { full: false },
            "rpcholesky:full" => Select::RpCholesky { full: true },
            "uniform" => Select::Uniform,
            _ => match text.strip_prefix("file:") {
                Some(path) if !path.is_empty() => Select::File(PathBuf::from(path)),
                _ => {
                    return Err("expected auto, squeak, rpcholesky, rpcholesky:full, uniform or file:PATH".to_string());
                }
            },
        })
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Select::Auto => f.write_str("auto"),
            Select::Squeak => f.write_str("squeak"),
            Select::RpCholesky { full: false } => f.write_str("rpcholesky"),
            Select::RpCholesky { full: true } => f.write_str("rpcholesky:full"),
            Select::Uniform => f.write_str("uniform"),
            Select::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Weights of the classes.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassWeight {
    /// n / (classes x rows of the class).
    Balanced,
    /// The given weight of each named label; the others have weight 1.
    Labels(Vec<(String, f64)>),
}

impl FromStr for ClassWeight {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "balanced" {
            return Ok(ClassWeight::Balanced);
        }
        let pairs = text.split(',').map(|pair| {
            let (label, weight) =
                pair.rsplit_once('=').ok_or_else(|| "expected balanced or LABEL=WEIGHT,...".to_string())?;
            match weight.parse::<f64>() {
                Ok(value) if value.is_finite() && value > 0.0 => Ok((label.to_string(), value)),
                _ => Err(format!("the weight `{weight}` of `{label}` must be a positive number")),
            }
        });
        let mut labels = pairs.collect::<Result<Vec<_>, String>>()?;
        labels.sort_by(|a, b| a.0.cmp(&b.0));
        match labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(format!("the label `{}` is named twice", pair[0].0)),
            None => Ok(ClassWeight::Labels(labels)),
        }
    }
}

impl fmt::Display for ClassWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClassWeight::Balanced => f.write_str("balanced"),
            ClassWeight::Labels(labels) => {
                let pairs: Vec<String> = labels.iter().map(|(label, weight)| format!("{label}={weight}")).collect();
                f.write_str(&pairs.join(","))
            }
        }
    }
}
