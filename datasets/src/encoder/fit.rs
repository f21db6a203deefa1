//! Fixing the encoder from the profile.

use super::bounds::Test;
use super::encode::FAR_OUT;
use super::normal::normal_quantile;
use super::{CategoricalFeature, Encoder, Lookup, NumericFeature, SplitRule, TargetKind, Transform};
use crate::options::{ColumnPlan, PlannedColumn};
use crate::{
    ClassWeight, ColumnInfo, ColumnKind, ColumnSummary, DataError, EncoderOptions, KEPT_LEVELS, MIN_LEVEL_ROWS, Scale,
    Split, Task, shown,
};
use std::collections::HashMap;

/// Distinct integers of a target up to which a note says that they are taken for numbers.
const NOTED_INTEGERS: usize = 20;

/// Classes up to which a target of whatever values may have them.
const FEW_CLASSES: usize = 1024;
/// Interquartile range of a standard normal.
const NORMAL_IQR: f64 = 1.349;

impl Encoder {
    /// Fixes the encoding from the summaries of the columns that [`EncoderOptions::plan`] asked for, in catalog order. What was left out or decided is in
    /// [`Encoder::notes`].
    ///
    /// ```
    /// use nystream_datasets::{ColumnInfo, ColumnKind, ColumnSummary, Encoder, EncoderOptions, Transform};
    /// let info = |name: &str| ColumnInfo { name: name.into(), kind: ColumnKind::Numeric, integer: false, data_type: "Float64".into() };
    /// let number = |name: &str, mean: f64, sd: f64, max: f64| {
    ///     ColumnSummary { count: 100, mean, sd, max, ..ColumnSummary::empty(&info(name)) }
    /// };
    /// let flat = ColumnSummary { min: 7.0, ..number("flat", 7.0, 0.0, 7.0) };
    /// let some = ColumnSummary { nulls: 5, ..number("some", 2.0, 0.5, 3.0) };
    /// let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
    /// let encoder = Encoder::fit(&[some, flat, number("y", 1.0, 1.0, 2.0)], &options)?;
    /// // The value and whether it is null: in units of the standard deviation, and 0 or 1. A constant says nothing.
    /// assert_eq!((encoder.numeric.len(), encoder.numeric_width()), (1, 2));
    /// assert_eq!(encoder.numeric[0].transform, Transform::Affine { center: 2.0, scale: 0.5 });
    /// assert!(encoder.notes.iter().any(|note| note.contains("flat")));
    /// # Ok::<(), nystream_datasets::DataError>(())
    /// ```
    ///
    /// # Errors
    /// What `plan` refuses; a target that is constant or null throughout; [`DataError::NoFeatures`] when no feature is left.
    pub fn fit(summaries: &[ColumnSummary], options: &EncoderOptions) -> Result<Encoder, DataError> {
        let plan = plan_of(summaries, options)?;
        let mut notes = Vec::new();
        let target_kind = targets(summaries, &plan, options, &mut notes)?;
        let (numeric, categorical) = features(summaries, &plan, options, &mut notes)?;
        if numeric.is_empty() && categorical.is_empty() {
            let notes = if notes.is_empty() { "the data has no other column".into() } else { notes.join("; ") };
            return Err(DataError::NoFeatures { notes });
        }
        let used = |name: &String| numeric.iter().any(|feature| feature.column == *name);
        let watched = planned(summaries, &plan, |column| column.feature && column.numeric)
            .filter(|(_, summary)| summary.bad > 0 && !used(&summary.name))
            .map(|(_, summary)| summary.name.clone())
            .collect();
        let class_weights = class_weights(summaries, &plan, options, &target_kind)?;
        Ok(Encoder {
            targets: options.targets.clone(),
            target_kind,
            scale: options.scale,
            numeric,
            categorical,
            weight: options.weight.clone(),
            class_weights,
            balanced: matches!(options.class_weight, ClassWeight::Balanced),
            id_column: options.id_column.clone(),
            split: split_rule(summaries, &plan, options, &mut notes)?,
            bounds: None,
            test: Test::default(),
            watched,
            notes,
            lookup: Lookup::default(),
        })
    }

    /// Checks an encoder that was read from a file.
    ///
    /// # Errors
    /// [`DataError::BadEncoder`] for anything [`Encoder::fit`] cannot have made and that would break encoding.
    pub fn validate(&self) -> Result<(), DataError> {
        let bad = |reason: String| Err(DataError::BadEncoder { reason });
        if self.numeric_width() + self.code_width() == 0 {
            return bad("it has no feature".into());
        }
        if self.targets.is_empty() {
            return bad("it has no target".into());
        }
        for feature in &self.numeric {
            let column = &feature.column;
            let fine = match &feature.transform {
                Transform::Affine { center, scale } => center.is_finite() && scale.is_finite() && *scale > 0.0,
                Transform::Quantile { values, z } => {
                    values.len() == z.len()
                        && values.len() >= 2
                        && values.iter().chain(z).all(|v| v.is_finite())
                        && values.windows(2).all(|pair| pair[0] < pair[1])
                }
                Transform::Boolean { center } => center.is_finite(),
                Transform::Constant => feature.indicator || feature.cyclic,
            };
            if !fine {
                return bad(format!("column '{column}' has an impossible transform"));
            }
            if !feature.kind.is_number() {
                return bad(format!("column '{column}' is {}, not a number", feature.kind));
            }
        }
        for feature in &self.categorical {
            if feature.levels.len() > KEPT_LEVELS {
                return bad(format!("column '{}' has {} levels", feature.column, feature.levels.len()));
            }
        }
        if let Some(classes) = self.classes() {
            if classes.len() < 2 || classes.len() > crate::MAX_LEVELS || self.targets.len() != 1 {
                return bad(format!("it has {} classes for {} target(s)", classes.len(), self.targets.len()));
            }
            let weights = &self.class_weights;
            if !weights.is_empty() && weights.len() != classes.len() {
                return bad(format!("it has {} class weights for {} classes", weights.len(), classes.len()));
            }
        } else if !self.class_weights.is_empty() {
            return bad("it has class weights without classes".into());
        }
        if let Some(reason) = self.bounds.as_ref().and_then(|bounds| bounds.fault(self)) {
            return bad(reason);
        }
        if self.class_weights.iter().any(|w| !w.is_finite() || *w < 0.0) {
            return bad("a class weight is not a number of at least 0".into());
        }
        Ok(())
    }
}

fn plan_of(summaries: &[ColumnSummary], options: &EncoderOptions) -> Result<ColumnPlan, DataError> {
    let infos: Vec<ColumnInfo> = summaries
        .iter()
        .map(|summary| ColumnInfo {
            name: summary.name.clone(),
            kind: summary.kind,
            integer: summary.integer,
            data_type: summary.kind.to_string(),
        })
        .collect();
    let index: HashMap<&str, usize> = infos.iter().enumerate().map(|(i, info)| (info.name.as_str(), i)).collect();
    // Dropped columns were not profiled; an option that names one has been checked against the catalog.
    let present = EncoderOptions {
        categorical: options.categorical.iter().filter(|name| index.contains_key(name.as_str())).cloned().collect(),
        cyclic: options
            .cyclic
            .iter()
            .filter(|name| *name == "*" || index.contains_key(name.as_str()))
            .cloned()
            .collect(),
        ..options.clone()
    };
    present.plan_present(&infos, |name, role| {
        let known = infos.iter().map(|info| info.name.as_str());
        index.get(name).copied().ok_or_else(|| DataError::missing(name, role, known))
    })
}

/// The column with a use, and its summary.
fn planned<'a>(
    summaries: &'a [ColumnSummary],
    plan: &'a ColumnPlan,
    is: impl Fn(&PlannedColumn) -> bool + 'a,
) -> impl Iterator<Item = (&'a PlannedColumn, &'a ColumnSummary)> {
    plan.columns.iter().filter(move |column| is(column)).map(|column| (column, &summaries[column.index]))
}

fn targets(
    summaries: &[ColumnSummary],
    plan: &ColumnPlan,
    options: &EncoderOptions,
    notes: &mut Vec<String>,
) -> Result<TargetKind, DataError> {
    let mut kind = TargetKind::Regression;
    for (_, summary) in planned(summaries, plan, |column| column.target.is_some()) {
        let name = &summary.name;
        if summary.count == 0 {
            return Err(DataError::TargetAllNull { column: name.clone(), rows: summary.nulls });
        }
        let labels = matches!(summary.kind, ColumnKind::Text | ColumnKind::Boolean);
        let two_integers = summary.integer
            && options.targets.len() == 1
            && summary.levels.as_ref().is_some_and(|levels| levels.len() == 2);
        let classes = match options.task {
            Task::Classification => true,
            Task::Regression => false,
            Task::Auto => labels || two_integers,
        };
        if classes {
            let levels = summary
                .levels
                .as_ref()
                .ok_or_else(|| DataError::BadEncoder { reason: format!("the labels of '{name}' were not counted") })?;
            if levels.len() < 2 {
                let value = levels.first().map(|(level, _)| shown(level)).unwrap_or_default();
                return Err(DataError::TargetConstant { column: name.clone(), value, rows: summary.count });
            }
            // Fractions are measured, not named; of labels that name something most occur again.
            let fractions = summary.kind == ColumnKind::Numeric && !summary.integer;
            if levels.len() > FEW_CLASSES && (fractions || 2 * levels.len() as u64 > summary.count) {
                let found = format!("{} distinct values in {} rows", levels.len(), summary.count);
                return Err(DataError::too_many_classes(name, summary.kind, found));
            }
            let mut classes: Vec<String> = levels.iter().map(|(level, _)| level.clone()).collect();
            sort_labels(&mut classes);
            if options.task == Task::Auto && two_integers && !labels {
                let (a, b) = (&classes[0], &classes[1]);
                notes.push(format!(
                    "target '{name}' takes the two integers {a} and {b}: classes (--task regression for numbers)"
                ));
            }
            kind = TargetKind::Classes(classes);
        } else if summary.min == summary.max {
            let value = match summary.integer && summary.min.abs() >= INEXACT {
                true => format!("{}, to double precision, in which its integers may not differ", summary.min),
                false => summary.min.to_string(),
            };
            return Err(DataError::TargetConstant { column: name.clone(), value, rows: summary.count });
        } else if options.task == Task::Auto && summary.integer && options.targets.len() == 1 {
            let few = summary.levels.as_ref().map_or(0, |levels| levels.len());
            if (3..=NOTED_INTEGERS).contains(&few) {
                notes
                    .push(format!("target '{name}' takes {few} integers: numbers (--task classification for classes)"));
            }
        }
    }
    Ok(kind)
}

/// Integers by value, anything else bytewise.
fn sort_labels(labels: &mut [String]) {
    let integers: Option<Vec<i128>> = labels.iter().map(|label| label.parse().ok()).collect();
    match integers {
        Some(_) => labels.sort_by_key(|label| (label.parse::<i128>().unwrap_or(0), label.clone())),
        None => labels.sort(),
    }
}

fn class_weights(
    summaries: &[ColumnSummary],
    plan: &ColumnPlan,
    options: &EncoderOptions,
    kind: &TargetKind,
) -> Result<Vec<f64>, DataError> {
    let TargetKind::Classes(classes) = kind else {
        return match &options.class_weight {
            ClassWeight::None => Ok(Vec::new()),
            _ => Err(DataError::ClassWeight {
                class: options.targets.join(", "),
                reason: "the target is a number; class weights need --task classification".into(),
            }),
        };
    };
    match &options.class_weight {
        ClassWeight::None => Ok(Vec::new()),
        ClassWeight::Balanced => {
            let counts: HashMap<&str, u64> = planned(summaries, plan, |column| column.target.is_some())
                .flat_map(|(_, summary)| summary.levels.iter().flatten())
                .map(|(level, count)| (level.as_str(), *count))
                .collect();
            let total: u64 = counts.values().sum();
            let share = total as f64 / classes.len() as f64;
            Ok(classes.iter().map(|class| share / counts.get(class.as_str()).copied().unwrap_or(1) as f64).collect())
        }
        ClassWeight::Given(given) => {
            let mut weights = vec![1.0; classes.len()];
            for (class, weight) in given {
                let error = |reason: String| DataError::ClassWeight { class: class.clone(), reason };
                if !weight.is_finite() || *weight < 0.0 {
                    return Err(error(format!("{weight} is not a number of at least 0")));
                }
                let position = classes.iter().position(|known| known == class).ok_or_else(|| {
                    let known: Vec<String> = classes.iter().take(5).map(|class| shown(class)).collect();
                    error(format!("no such class; the classes begin with {}", known.join(", ")))
                })?;
                weights[position] = *weight;
            }
            Ok(weights)
        }
    }
}

type Features = (Vec<NumericFeature>, Vec<CategoricalFeature>);

fn features(
    summaries: &[ColumnSummary],
    plan: &ColumnPlan,
    options: &EncoderOptions,
    notes: &mut Vec<String>,
) -> Result<Features, DataError> {
    let (mut numeric, mut categorical) = (Vec::new(), Vec::new());
    let mut seen: HashMap<(bool, u128), &str> = HashMap::new();
    for (column, summary) in planned(summaries, plan, |column| column.feature) {
        let name = &summary.name;
        if summary.count == 0 {
            notes.push(format!("column '{name}' is null in every row: left out"));
            continue;
        }
        if summary.fingerprint != 0 {
            if let Some(first) = seen.get(&(column.categorical, summary.fingerprint)) {
                notes.push(format!("column '{name}' equals '{first}' in every row: left out"));
                continue;
            }
            seen.insert((column.categorical, summary.fingerprint), name);
        }
        if column.categorical {
            categorical.extend(categorical_feature(summary, notes)?);
        } else {
            let cyclic = matches!(summary.kind, ColumnKind::Timestamp | ColumnKind::Date)
                && options.cyclic.iter().any(|c| c == "*" || c == name);
            numeric.extend(numeric_feature(summary, options.scale, cyclic, notes));
        }
    }
    Ok((numeric, categorical))
}

/// Integers from here on may differ and be one number in double precision.
const INEXACT: f64 = (1u64 << 53) as f64;

/// What is said of a number column without a spread that can be divided by.
fn flat(summary: &ColumnSummary) -> Option<String> {
    let ColumnSummary { min, max, sd, .. } = *summary;
    if min == max {
        let integer = summary.integer || summary.kind == ColumnKind::Boolean;
        return Some(match integer {
            true if min.abs() >= INEXACT => {
                format!("is {min} throughout to double precision, in which its integers may not differ")
            }
            // The profile squares and sums exactly, which smaller numbers do not allow.
            false if min == 0.0 => "is constant (0, as which magnitudes below 2^-500 count)".into(),
            _ => "is constant".into(),
        });
    }
    // Its square leaves the range of normal numbers.
    (!sd.is_normal()).then(|| format!("spreads from {min:e} to {max:e}, too little to be measured in double precision"))
}

fn numeric_feature(
    summary: &ColumnSummary,
    scale: Scale,
    cyclic: bool,
    notes: &mut Vec<String>,
) -> Option<NumericFeature> {
    let name = &summary.name;
    let indicator = summary.nulls > 0;
    let feature = |transform, cyclic| {
        let (column, kind) = (name.clone(), summary.kind);
        Some(NumericFeature { column, kind, transform, cyclic, indicator })
    };
    if let Some(what) = flat(summary) {
        if indicator {
            notes.push(format!("column '{name}' {what} where it is not null: only the null indicator is kept"));
            return feature(Transform::Constant, false);
        }
        notes.push(format!("column '{name}' {what}: left out"));
        return None;
    }
    if summary.kind == ColumnKind::Boolean {
        return feature(Transform::Boolean { center: summary.mean }, false);
    }
    let standard = Transform::Affine { center: summary.mean, scale: summary.sd };
    let transform = match scale {
        Scale::Standard => standard,
        Scale::Robust => match (summary.quantile(0.25), summary.quantile(0.5), summary.quantile(0.75)) {
            (Some(low), Some(center), Some(high)) if ((high - low) / NORMAL_IQR).is_normal() => {
                let scale = (high - low) / NORMAL_IQR;
                let reach = ((summary.max - center) / scale).max((center - summary.min) / scale);
                if reach <= FAR_OUT {
                    Transform::Affine { center, scale }
                } else {
                    // Rows that the profile counted would be bad.
                    notes.push(format!(
                        "column '{name}' reaches 2^50 times as far as its quartiles: scaled by its standard deviation"
                    ));
                    standard
                }
            }
            _ => {
                notes.push(format!("column '{name}' has no interquartile range: scaled by its standard deviation"));
                standard
            }
        },
        Scale::Quantile => match quantile_map(&summary.quantiles) {
            Some((values, z)) => Transform::Quantile { values, z },
            None => {
                notes.push(format!("column '{name}' has one value in the sample: scaled by its standard deviation"));
                standard
            }
        },
    };
    feature(transform, cyclic)
}

/// The knots of the quantile map: distinct sample quantiles with the mean normal quantile of each run.
///
/// Entry i of K stands for probability `(i + 1/2) / K`: the ends stay finite.
fn quantile_map(quantiles: &[f64]) -> Option<(Vec<f64>, Vec<f64>)> {
    let (mut values, mut z) = (Vec::<f64>::new(), Vec::<f64>::new());
    let mut start = 0;
    while start < quantiles.len() {
        let run = quantiles[start..].iter().take_while(|q| **q == quantiles[start]).count().max(1);
        let sum: f64 = (start..start + run).map(|i| normal_quantile((i as f64 + 0.5) / quantiles.len() as f64)).sum();
        values.push(quantiles[start]);
        z.push(sum / run as f64);
        start += run;
    }
    (values.len() >= 2).then_some((values, z))
}

fn categorical_feature(
    summary: &ColumnSummary,
    notes: &mut Vec<String>,
) -> Result<Option<CategoricalFeature>, DataError> {
    let name = &summary.name;
    let Some(levels) = &summary.levels else {
        return Err(DataError::BadEncoder { reason: format!("the levels of '{name}' were not counted") });
    };
    let kept: Vec<String> = levels
        .iter()
        .filter(|(_, count)| *count >= MIN_LEVEL_ROWS)
        .take(KEPT_LEVELS)
        .map(|(level, _)| level.clone())
        .collect();
    let all = levels.len() + summary.unlisted as usize;
    let pooled = all - kept.len();
    let null_level = summary.nulls > 0;
    let occupied = kept.len() + usize::from(pooled > 0) + usize::from(null_level);
    if occupied < 2 {
        let why = if all == 1 {
            "is constant".into()
        } else {
            format!("has {pooled} levels, none with {MIN_LEVEL_ROWS} rows")
        };
        notes.push(format!("column '{name}' {why}: left out"));
        return Ok(None);
    }
    if pooled > 0 {
        notes.push(format!(
            "column '{name}': {pooled} of {all} levels pooled (fewer than {MIN_LEVEL_ROWS} rows, or beyond the first {KEPT_LEVELS})"
        ));
    }
    Ok(Some(CategoricalFeature { column: name.clone(), kind: summary.kind, levels: kept, null_level }))
}

fn split_rule(
    summaries: &[ColumnSummary],
    plan: &ColumnPlan,
    options: &EncoderOptions,
    notes: &mut Vec<String>,
) -> Result<SplitRule, DataError> {
    let bad_fraction = |fraction: f64| DataError::BadSplit { reason: format!("{fraction} is not between 0 and 1") };
    let proper = |fraction: f64| fraction > 0.0 && fraction < 1.0;
    match &options.split {
        Split::None => Ok(SplitRule::None),
        Split::Hash { fraction, .. } | Split::Time { fraction, .. } if !proper(*fraction) => {
            Err(bad_fraction(*fraction))
        }
        Split::Hash { fraction, column } => {
            Ok(SplitRule::Hash { fraction: *fraction, column: column.clone(), seed: options.seed })
        }
        Split::Time { column, fraction } => {
            let cut = planned(summaries, plan, |planned| planned.split).find_map(|(_, summary)| summary.cut);
            let Some(cut) = cut else {
                return Err(DataError::BadSplit {
                    reason: format!("no value of column '{column}' was found that holds out {fraction} of the rows"),
                });
            };
            let kind = planned(summaries, plan, |planned| planned.split).map(|(_, summary)| summary.kind).next();
            let shown = kind.map_or_else(|| cut.to_string(), |kind| kind.shown(cut));
            notes.push(format!("rows with '{column}' at or above {shown} are held out"));
            Ok(SplitRule::Time { column: column.clone(), cut })
        }
    }
}
