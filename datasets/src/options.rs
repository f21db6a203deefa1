//! What the user asks of the encoder, and the plan of which column plays which part.

use crate::{ColumnInfo, ColumnKind, DataError, TextColumn};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::str::FromStr;

/// How numeric features are centred and scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Mean and standard deviation.
    #[default]
    Standard,
    /// Median and interquartile range over 1.349 (the range of a standard normal), from the sample.
    Robust,
    /// A monotone map through the sample quantiles to a standard normal.
    Quantile,
}

/// What is learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Classification when the one target is text, boolean, or an integer with two values; else regression.
    #[default]
    Auto,
    /// Numeric targets.
    Regression,
    /// One target whose distinct values are classes.
    Classification,
}

/// Weights by class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeight {
    /// All classes count as they are.
    #[default]
    None,
    /// rows / (classes x rows of the class).
    Balanced,
    /// These, by label; 1 for classes not named.
    Given(Vec<(String, f64)>),
}

/// Which rows are held out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// None.
    #[default]
    None,
    /// Rows whose hash falls below `fraction`; whole groups with equal `column` when one is named.
    Hash {
        /// Share of rows (or groups) held out, in (0, 1).
        fraction: f64,
        /// Column whose value is hashed in place of the row id.
        column: Option<String>,
    },
    /// The rows with the greatest values of `column`: a share `fraction` of those that have one and a target, and all that tie with the
    /// least of them. Nulls are not held out.
    Time {
        /// A numeric, date or timestamp column.
        column: String,
        /// Share of rows held out, in (0, 1).
        fraction: f64,
    },
}

impl FromStr for Split {
    type Err = DataError;

    /// `none`, `hash:0.1`, `hash:0.1:COLUMN` or `time:COLUMN:0.1`. Column names may contain colons.
    ///
    /// ```
    /// use nystream_datasets::Split;
    /// assert_eq!("hash:0.1".parse::<Split>()?, Split::Hash { fraction: 0.1, column: None });
    /// assert_eq!("time:a:b:0.2".parse::<Split>()?, Split::Time { column: "a:b".into(), fraction: 0.2 });
    /// assert!("hash:1".parse::<Split>().is_err());
    /// # Ok::<(), nystream_datasets::DataError>(())
    /// ```
    ///
    /// # Errors
    /// [`DataError::BadSplit`] for another form, or a fraction that is not between 0 and 1.
    fn from_str(text: &str) -> Result<Self, DataError> {
        let bad = |reason: &str| DataError::BadSplit {
            reason: format!("'{text}' {reason}; write none, hash:0.1, hash:0.1:COLUMN or time:COLUMN:0.1"),
        };
        let fraction = |text: &str| {
            text.parse::<f64>()
                .ok()
                .filter(|f| *f > 0.0 && *f < 1.0)
                .ok_or_else(|| bad("has no fraction between 0 and 1"))
        };
        match text.split_once(':') {
            None if text == "none" => Ok(Split::None),
            Some(("hash", rest)) => match rest.split_once(':') {
                None => Ok(Split::Hash { fraction: fraction(rest)?, column: None }),
                Some((_, "")) => Err(bad("has an empty column name")),
                Some((share, column)) => Ok(Split::Hash { fraction: fraction(share)?, column: Some(column.into()) }),
            },
            Some(("time", rest)) => match rest.rsplit_once(':') {
                Some((column, share)) if !column.is_empty() => {
                    Ok(Split::Time { column: column.into(), fraction: fraction(share)? })
                }
                _ => Err(bad("names no column")),
            },
            _ => Err(bad("is not a split")),
        }
    }
}

/// What the user asks of the encoder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EncoderOptions {
    /// Target columns.
    pub targets: Vec<String>,
    /// Columns that are not features.
    pub drop: Vec<String>,
    /// Columns to treat as categorical although they are numbers or booleans.
    pub categorical: Vec<String>,
    /// Column of non-negative row weights.
    pub weight: Option<String>,
    /// Weights by class.
    pub class_weight: ClassWeight,
    /// Column of unique row keys (text or integers).
    pub id_column: Option<String>,
    /// Scaling of numeric features.
    pub scale: Scale,
    /// Timestamp and date columns that get cyclic parts as well; `*` means all of them.
    pub cyclic: Vec<String>,
    /// Rows held out.
    pub split: Split,
    /// What is learned.
    pub task: Task,
    /// Seed of the hash split.
    pub seed: u64,
}

/// How the levels of a column are to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LevelCount {
    /// Not at all.
    None,
    /// Exactly; too many refuse the column.
    Required,
    /// Exactly while they are few; too many mean `levels: None`.
    Optional,
}

/// One column that has to be read, and why. A column can have several uses.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedColumn {
    /// Index into the catalog's columns.
    pub index: usize,
    /// The column.
    pub info: ColumnInfo,
    /// Whether it is a feature.
    pub feature: bool,
    /// Position among the targets.
    pub target: Option<usize>,
    /// Whether it holds row weights.
    pub weight: bool,
    /// Whether it holds row keys.
    pub id: bool,
    /// Whether it decides the split.
    pub split: bool,
    /// Whether it is read as a categorical feature.
    pub categorical: bool,
    /// Whether the profile needs moments, range and quantiles.
    pub numeric: bool,
    /// Whether the profile needs its levels.
    pub levels: LevelCount,
}

/// The columns to read, in catalog order, each with its uses.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnPlan {
    /// Columns with at least one use.
    pub columns: Vec<PlannedColumn>,
}

impl ColumnPlan {
    /// Indices to project, ascending.
    pub fn projection(&self) -> Vec<usize> {
        self.columns.iter().map(|column| column.index).collect()
    }
}

impl EncoderOptions {
    /// Decides what each column of a data set is used for, and checks every option that names one.
    ///
    /// ```
    /// use nystream_datasets::{Catalog, EncoderOptions, Sources};
    /// let catalog = Catalog::open(&Sources::parse(&["synth:friedman1?rows=10"])?)?;
    /// let options = EncoderOptions { targets: vec!["y".into()], drop: vec!["x9".into()], ..Default::default() };
    /// let plan = options.plan(&catalog.columns)?;
    /// assert_eq!(plan.columns.len(), 10);
    /// assert_eq!(plan.columns[9].target, Some(0));
    /// # Ok::<(), nystream_datasets::DataError>(())
    /// ```
    ///
    /// # Errors
    /// Columns that are named and absent, of an unsuitable type, or used for two things; nested and binary features.
    pub fn plan(&self, columns: &[ColumnInfo]) -> Result<ColumnPlan, DataError> {
        let index: HashMap<&str, usize> = columns.iter().enumerate().map(|(i, info)| (info.name.as_str(), i)).collect();
        let find = |name: &str, role: &'static str| {
            index
                .get(name)
                .copied()
                .ok_or_else(|| DataError::missing(name, role, columns.iter().map(|info| info.name.as_str())))
        };
        for name in &self.drop {
            find(name, "--drop")?;
        }
        self.plan_present(columns, find)
    }

    /// The plan for columns of which dropped ones may be gone already.
    pub(crate) fn plan_present(
        &self,
        columns: &[ColumnInfo],
        find: impl Fn(&str, &'static str) -> Result<usize, DataError>,
    ) -> Result<ColumnPlan, DataError> {
        if self.targets.is_empty() {
            return Err(DataError::NoTarget);
        }
        self.check_conflicts()?;
        let mut planned: Vec<PlannedColumn> = columns
            .iter()
            .enumerate()
            .map(|(index, info)| PlannedColumn {
                index,
                info: info.clone(),
                feature: true,
                target: None,
                weight: false,
                id: false,
                split: false,
                categorical: info.kind == ColumnKind::Text,
                numeric: false,
                levels: LevelCount::None,
            })
            .collect();
        for column in &mut planned {
            column.feature = !self.drop.contains(&column.info.name);
        }
        for name in &self.categorical {
            let column = &mut planned[find(name, "--categorical")?];
            require(column, TextColumn::accepts(column.info.kind), "text, a boolean or a number", "--categorical")?;
            column.categorical = true;
        }
        for name in self.cyclic.iter().filter(|name| *name != "*") {
            let column = &planned[find(name, "--cyclic")?];
            let instant = matches!(column.info.kind, ColumnKind::Timestamp | ColumnKind::Date);
            require(column, instant, "a timestamp or date", "--cyclic")?;
        }
        for (position, name) in self.targets.iter().enumerate() {
            self.plan_target(&mut planned[find(name, "target")?], position)?;
        }
        if let Some(name) = &self.weight {
            let column = &mut planned[find(name, "--weight")?];
            let number = matches!(column.info.kind, ColumnKind::Numeric | ColumnKind::Boolean | ColumnKind::Duration);
            require(column, number, "a number", "--weight")?;
            (column.weight, column.feature, column.numeric) = (true, false, true);
        }
        if let Some(name) = &self.id_column {
            let column = &mut planned[find(name, "--id-column")?];
            let key = column.info.kind == ColumnKind::Text || column.info.integer;
            require(column, key, "text or an integer", "--id-column")?;
            (column.id, column.feature) = (true, false);
        }
        match &self.split {
            Split::None | Split::Hash { column: None, .. } => {}
            Split::Hash { column: Some(name), .. } => {
                let column = &mut planned[find(name, "--split")?];
                require(column, TextColumn::accepts(column.info.kind), "text, a boolean or a number", "--split hash")?;
                column.split = true;
            }
            Split::Time { column: name, .. } => {
                let column = &mut planned[find(name, "--split")?];
                let ordered = column.info.kind.is_number() && column.info.kind != ColumnKind::Boolean;
                require(column, ordered, "a number, date or timestamp", "--split time")?;
                (column.split, column.numeric) = (true, true);
            }
        }
        for column in planned.iter_mut().filter(|column| column.feature) {
            if !column.info.kind.is_usable() {
                return Err(DataError::RefusedColumn {
                    column: column.info.name.clone(),
                    kind: column.info.kind,
                    found: column.info.data_type.clone(),
                });
            }
            if column.categorical {
                column.levels = LevelCount::Required;
            } else {
                column.numeric = true;
            }
        }
        planned
            .retain(|column| column.feature || column.target.is_some() || column.weight || column.id || column.split);
        Ok(ColumnPlan { columns: planned })
    }

    fn plan_target(&self, column: &mut PlannedColumn, position: usize) -> Result<(), DataError> {
        let kind = column.info.kind;
        (column.target, column.feature) = (Some(position), false);
        match self.task {
            Task::Regression => require(column, kind.is_number(), "a number", "target of a regression")?,
            Task::Classification => {
                require(
                    column,
                    TextColumn::accepts(kind),
                    "text, a boolean or a number",
                    "target of a classification",
                )?;
            }
            Task::Auto => require(column, kind.is_usable(), "a number, boolean or text", "target")?,
        }
        let labels = matches!(kind, ColumnKind::Text | ColumnKind::Boolean);
        let classes = self.task == Task::Classification || (self.task == Task::Auto && labels);
        if classes && self.targets.len() > 1 {
            return Err(DataError::SeveralClassTargets { count: self.targets.len() });
        }
        column.numeric = kind.is_number();
        column.levels = match self.task {
            _ if classes => LevelCount::Required,
            Task::Auto if column.info.integer && self.targets.len() == 1 => LevelCount::Optional,
            _ => LevelCount::None,
        };
        Ok(())
    }

    fn check_conflicts(&self) -> Result<(), DataError> {
        let mut uses: Vec<(&str, &'static str)> = Vec::new();
        uses.extend(self.targets.iter().map(|name| (name.as_str(), "a target")));
        uses.extend(self.weight.iter().map(|name| (name.as_str(), "the weight")));
        uses.extend(self.id_column.iter().map(|name| (name.as_str(), "the id column")));
        uses.extend(self.drop.iter().map(|name| (name.as_str(), "dropped")));
        uses.extend(self.categorical.iter().map(|name| (name.as_str(), "a categorical feature")));
        for (i, (column, second)) in uses.iter().enumerate() {
            let clash = uses[..i].iter().find(|(name, first)| {
                // Dropping an id or naming a dropped column categorical contradicts nothing.
                name == column
                    && !(*second == "dropped" && *first == "the id column")
                    && !(*second == "a categorical feature"
                        && matches!(*first, "dropped" | "the id column" | "a categorical feature"))
                    && !(*second == "dropped" && *first == "dropped")
            });
            if let Some((_, first)) = clash {
                let column = (*column).to_string();
                return Err(DataError::RoleConflict { column, first, second });
            }
        }
        Ok(())
    }
}

fn require(column: &PlannedColumn, ok: bool, expected: &'static str, role: &'static str) -> Result<(), DataError> {
    // A column that is null in every file can stand for any type; what it lacks is reported with its values.
    if ok || column.info.kind == ColumnKind::Null {
        return Ok(());
    }
    Err(DataError::ColumnType {
        column: column.info.name.clone(),
        found: format!("{} ({})", column.info.kind, column.info.data_type),
        expected,
        role,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, kind: ColumnKind, integer: bool) -> ColumnInfo {
        ColumnInfo { name: name.into(), kind, integer, data_type: "T".into() }
    }

    fn columns() -> Vec<ColumnInfo> {
        vec![
            info("a", ColumnKind::Numeric, false),
            info("n", ColumnKind::Numeric, true),
            info("t", ColumnKind::Text, false),
            info("when", ColumnKind::Timestamp, false),
            info("list", ColumnKind::Nested, false),
        ]
    }

    fn base() -> EncoderOptions {
        EncoderOptions { targets: vec!["a".into()], drop: vec!["list".into()], ..Default::default() }
    }

    #[test]
    fn uses_are_assigned() {
        let options = EncoderOptions {
            categorical: vec!["n".into()],
            split: "time:when:0.2".parse().unwrap(),
            id_column: Some("t".into()),
            ..base()
        };
        let plan = options.plan(&columns()).unwrap();
        assert_eq!(plan.projection(), [0, 1, 2, 3]);
        assert_eq!(plan.columns[0].target, Some(0));
        assert!(plan.columns[1].categorical && plan.columns[1].levels == LevelCount::Required);
        assert!(plan.columns[2].id && !plan.columns[2].feature);
        assert!(plan.columns[3].split && plan.columns[3].feature && plan.columns[3].numeric);
    }

    #[test]
    fn refusals() {
        let plan = |change: &dyn Fn(&mut EncoderOptions)| {
            let mut options = base();
            change(&mut options);
            options.plan(&columns()).unwrap_err().to_string()
        };
        for (text, part) in [
            (plan(&|o| o.targets.clear()), "--target"),
            (plan(&|o| o.targets = vec!["b".into()]), "no column 'b'"),
            (plan(&|o| o.drop.push("zz".into())), "no column 'zz'"),
            (plan(&|o| o.drop.clear()), "--drop 'list'"),
            (plan(&|o| o.weight = Some("t".into())), "--weight"),
            (plan(&|o| o.weight = Some("a".into())), "both a target and the weight"),
            (plan(&|o| o.drop.push("a".into())), "both a target and dropped"),
            (plan(&|o| o.id_column = Some("when".into())), "--id-column"),
            (plan(&|o| o.cyclic.push("n".into())), "--cyclic"),
            (plan(&|o| o.categorical.push("when".into())), "--categorical"),
            (plan(&|o| o.targets = vec!["t".into(), "a".into()]), "one target"),
            (plan(&|o| o.targets = vec!["a".into(), "a".into()]), "both a target and a target"),
            (plan(&|o| (o.task, o.targets) = (Task::Regression, vec!["t".into()])), "target of a regression"),
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn splits_parse() {
        let hash = |fraction, column: Option<&str>| Split::Hash { fraction, column: column.map(Into::into) };
        assert_eq!("hash:0.1".parse::<Split>().unwrap(), hash(0.1, None));
        assert_eq!("hash:0.1:a:b".parse::<Split>().unwrap(), hash(0.1, Some("a:b")));
        assert_eq!("time:a:b:0.5".parse::<Split>().unwrap(), Split::Time { column: "a:b".into(), fraction: 0.5 });
        assert_eq!("none".parse::<Split>().unwrap(), Split::None);
        for text in ["hash", "hash:1", "hash:0", "hash:x", "hash:0.1:", "time:0.1", "time::0.1", "random:0.1"] {
            assert!(text.parse::<Split>().is_err(), "{text}");
        }
    }
}
