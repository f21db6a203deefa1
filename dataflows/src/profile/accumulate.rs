//! The accumulators of the profile pass, their merge and their bytes.

use super::classes::{ClassSums, ClassWire};
use super::split::Cut;
use super::{NAMED_BAD_ROWS, Profile, SAMPLE_ROWS, TargetSummary};
use crate::dictionary::pool::{in_pool, pool_bits};
use crate::error::StageError;
use crate::plan::{MemoryPlan, human};
use nystream_datasets::{
    BadReason, BadRow, ColumnPlan, ColumnSummary, ContentHash, DataError, EncoderOptions, KEPT_LEVELS, LevelCount,
    LevelCounter, MAX_LEVEL_BYTES, MAX_LEVELS, MIN_LEVEL_ROWS, NumericColumn, RawBatch, Scale, Split, TextColumn,
};
use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::exact_sum::ExactSum;
use serde::{Deserialize, Serialize};

/// Magnitude from which a value is bad: its square could not be summed.
pub(super) const TOO_LARGE: f64 = 3.273390607896142e150; // 2^500

/// Magnitude below which a value counts as zero in sums: its square would vanish, and a spread of zero with it.
const TOO_SMALL: f64 = 3.054936363499605e-151; // 2^-500

/// Entries of a quantile table.
const QUANTILES: usize = 1025;

/// Totals of one column.
#[derive(Clone, Debug, Default)]
pub struct ColumnTotals {
    count: u64,
    nulls: u64,
    /// Bad rows whose first fault is here.
    bad: u64,
    sum: ExactSum,
    squares: ExactSum,
    weighted: ExactSum,
    weight: ExactSum,
    min: f64,
    max: f64,
    levels: LevelCounter,
    hash: ContentHash,
    sample: Vec<f64>,
}

/// Totals of a profile, mergeable in any order.
#[derive(Clone, Debug, Default)]
pub struct ProfileTotals {
    rows: u64,
    held_out: u64,
    skipped: u64,
    pub(super) bad: u64,
    /// Bytes of the levels that the workers counted, each its own.
    pub(super) counted: u64,
    pub(super) bad_rows: Vec<BadRow>,
    weight_sum: ExactSum,
    weight_max: f64,
    classes: ClassSums,
    pub(super) columns: Vec<ColumnTotals>,
}

#[derive(Serialize, Deserialize)]
struct ColumnWire {
    count: u64,
    nulls: u64,
    bad: u64,
    sums: [Vec<u8>; 4],
    range: [u64; 2],
    levels: LevelCounter,
    hash: ContentHash,
    sample: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    counts: [u64; 5],
    bad_rows: Vec<BadRow>,
    weight_sum: Vec<u8>,
    weight_max: u64,
    classes: ClassWire,
    columns: Vec<ColumnWire>,
}

fn damaged(error: impl std::fmt::Display) -> StageError {
    StageError::Internal(format!("a profile arrived damaged: {error}"))
}

impl ProfileTotals {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        let column = |c: ColumnTotals| ColumnWire {
            count: c.count,
            nulls: c.nulls,
            bad: c.bad,
            sums: [&c.sum, &c.squares, &c.weighted, &c.weight].map(|s| s.to_bytes().to_vec()),
            range: [c.min.to_bits(), c.max.to_bits()],
            levels: c.levels,
            hash: c.hash,
            sample: c.sample.iter().map(|v| v.to_bits()).collect(),
        };
        let wire = Wire {
            counts: [self.rows, self.held_out, self.skipped, self.bad, self.counted],
            bad_rows: self.bad_rows,
            weight_sum: self.weight_sum.to_bytes().to_vec(),
            weight_max: self.weight_max.to_bits(),
            classes: self.classes.to_wire(),
            columns: self.columns.into_iter().map(column).collect(),
        };
        // Plain data: serialisation cannot fail.
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, StageError> {
        let wire: Wire = serde_json::from_slice(bytes).map_err(damaged)?;
        let sum = |bytes: &[u8]| ExactSum::from_bytes(bytes).map_err(damaged);
        let column = |c: ColumnWire| {
            Ok(ColumnTotals {
                count: c.count,
                nulls: c.nulls,
                bad: c.bad,
                sum: sum(&c.sums[0])?,
                squares: sum(&c.sums[1])?,
                weighted: sum(&c.sums[2])?,
                weight: sum(&c.sums[3])?,
                min: f64::from_bits(c.range[0]),
                max: f64::from_bits(c.range[1]),
                levels: c.levels,
                hash: c.hash,
                sample: c.sample.into_iter().map(f64::from_bits).collect(),
            })
        };
        let [rows, held_out, skipped, bad, counted] = wire.counts;
        Ok(ProfileTotals {
            rows,
            held_out,
            skipped,
            bad,
            counted,
            bad_rows: wire.bad_rows,
            weight_sum: sum(&wire.weight_sum)?,
            weight_max: f64::from_bits(wire.weight_max),
            classes: ClassSums::from_wire(wire.classes)?,
            columns: wire.columns.into_iter().map(column).collect::<Result<_, StageError>>()?,
        })
    }

    pub(super) fn merge(&mut self, other: ProfileTotals) -> Result<(), StageError> {
        if self.columns.is_empty() {
            *self = other;
            return Ok(());
        }
        if self.columns.len() != other.columns.len() {
            return Err(damaged("another number of columns"));
        }
        self.rows += other.rows;
        self.held_out += other.held_out;
        self.skipped += other.skipped;
        self.bad += other.bad;
        self.counted += other.counted;
        self.bad_rows.extend(other.bad_rows);
        self.bad_rows.sort();
        self.bad_rows.truncate(NAMED_BAD_ROWS);
        self.weight_sum.merge(&other.weight_sum);
        self.weight_max = self.weight_max.max(other.weight_max);
        self.classes.merge(other.classes);
        for (mine, theirs) in self.columns.iter_mut().zip(other.columns) {
            mine.merge(theirs);
        }
        Ok(())
    }

    /// Refuses levels of the columns of `plan` that take more than `room` bytes.
    pub(super) fn check_levels(&self, plan: &ColumnPlan, room: u64) -> Result<(), StageError> {
        let total = self.level_bytes();
        if total <= room {
            return Ok(());
        }
        let taken = self.columns.iter().map(|totals| totals.levels.memory());
        let (most, column) = taken.zip(&plan.columns).fold((0, ""), |most, (bytes, column)| {
            if bytes > most.0 { (bytes, column.info.name.as_str()) } else { most }
        });
        Err(StageError::Budget(format!(
            "the distinct values of text columns take more than the {} that --memory leaves for them in one worker; {} are of column \
             '{column}'. Leave such columns out with --drop '{column}' (or --id-column '{column}' where it names rows), use fewer --workers, or \
             give more with --memory",
            human(room),
            human(most)
        )))
    }

    /// Bytes that the levels of all columns take, at most.
    pub(super) fn level_bytes(&self) -> u64 {
        self.columns.iter().map(|totals| totals.levels.memory()).sum::<u64>() + self.classes.memory()
    }

    /// The profile of all rows, held out from `cut` on.
    pub(super) fn summarise(
        self,
        plan: &ColumnPlan,
        options: &EncoderOptions,
        cut: Cut,
    ) -> Result<Profile, StageError> {
        let mut columns = Vec::with_capacity(plan.columns.len());
        let mut targets = vec![TargetSummary::default(); options.targets.len()];
        for (planned, mut totals) in plan.columns.iter().zip(self.columns) {
            let mut summary = ColumnSummary::empty(&planned.info);
            (summary.count, summary.nulls, summary.bad) = (totals.count, totals.nulls, totals.bad);
            if planned.numeric && totals.count > 0 {
                (summary.mean, summary.sd) = totals.moments();
                (summary.min, summary.max) = (totals.min, totals.max);
                totals.sample.sort_by(f64::total_cmp);
                summary.quantiles = quantile_table(&totals.sample);
            }
            let (name, levels) = (&planned.info.name, std::mem::take(&mut totals.levels));
            summary.levels = match planned.levels {
                LevelCount::None => None,
                LevelCount::Required if planned.target.is_some() && levels.overflowed() => {
                    let found = format!(
                        "more than {MAX_LEVELS} distinct values, or more than {} of text in them",
                        human(MAX_LEVEL_BYTES)
                    );
                    return Err(DataError::too_many_classes(name, planned.info.kind, found).into());
                }
                LevelCount::Required => Some(levels.finish(name)?),
                LevelCount::Optional => levels.finish(name).ok(),
            };
            if let Some(levels) = summary.levels.as_mut().filter(|_| planned.target.is_none()) {
                summary.unlisted = leave_rare_out(levels);
            }
            summary.fingerprint = totals.hash.0;
            summary.cut = cut.value.filter(|_| planned.split);
            if let Some(position) = planned.target {
                targets[position] = TargetSummary {
                    count: totals.count,
                    weight_sum: totals.weight.round(),
                    mean: totals.weighted_mean(),
                    sd: summary.sd,
                    min: summary.min,
                    max: summary.max,
                };
            }
            columns.push(summary);
        }
        Ok(Profile {
            rows: self.rows,
            held_out: self.held_out,
            skipped_null_target: self.skipped,
            bad: self.bad,
            bad_rows: self.bad_rows,
            columns,
            targets,
            weight_sum: self.weight_sum.round(),
            weight_max: self.weight_max,
            class_weight_sums: self.classes.finish(),
            passes: 1 + cut.passes,
            memory: MemoryPlan::default(),
        })
    }
}

/// Leaves out the levels of a feature that will have no code of their own; gives how many.
fn leave_rare_out(levels: &mut Vec<(String, u64)>) -> u64 {
    let all = levels.len();
    let common = levels.iter().take(KEPT_LEVELS).take_while(|(_, count)| *count >= MIN_LEVEL_ROWS).count();
    levels.truncate(common);
    levels.shrink_to_fit();
    (all - common) as u64
}

/// `QUANTILES` order statistics of a sorted sample.
fn quantile_table(sorted: &[f64]) -> Vec<f64> {
    let Some(last) = sorted.len().checked_sub(1) else { return Vec::new() };
    let at = |i: usize| sorted[(i * last + (QUANTILES - 1) / 2) / (QUANTILES - 1)];
    (0..QUANTILES).map(at).collect()
}

impl ColumnTotals {
    fn number(&mut self, value: f64) {
        let value = if value.abs() < TOO_SMALL { 0.0 } else { value };
        if self.count == 0 {
            (self.min, self.max) = (value, value);
        }
        self.count += 1;
        self.sum.add(value);
        self.squares.add_product(value, value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Mean and standard deviation. The variance is (n sum x^2 - (sum x)^2) / n^2; its numerator is formed exactly where the
    /// plain difference would cancel.
    fn moments(&self) -> (f64, f64) {
        let n = self.count as f64;
        let mean = self.sum.round() / n;
        // sum (x - mean)^2 = sum x^2 - mean (2 sum x - n mean), one exact sum rounded once.
        let mut centred = self.squares.clone();
        let total = self.sum.round();
        centred.add_product(-mean, 2.0 * total);
        centred.add_product3(mean, mean, n);
        (mean, (centred.round().max(0.0) / n).sqrt())
    }

    fn weighted_mean(&self) -> f64 {
        let weight = self.weight.round();
        if weight > 0.0 { self.weighted.round() / weight } else { 0.0 }
    }

    fn merge(&mut self, other: ColumnTotals) {
        if self.count == 0 {
            (self.min, self.max) = (other.min, other.max);
        } else if other.count > 0 {
            self.min = self.min.min(other.min);
            self.max = self.max.max(other.max);
        }
        self.count += other.count;
        self.nulls += other.nulls;
        self.bad += other.bad;
        self.sum.merge(&other.sum);
        self.squares.merge(&other.squares);
        self.weighted.merge(&other.weighted);
        self.weight.merge(&other.weight);
        self.levels.merge(other.levels);
        self.hash.merge(other.hash);
        self.sample.extend(other.sample);
    }
}

/// Reads batches into totals.
pub(super) struct Accumulator {
    plan: ColumnPlan,
    split: Split,
    split_key: StreamKey,
    cut: Option<f64>,
    sample_key: StreamKey,
    sample_bits: u32,
    /// Columns whose sample quantiles are wanted.
    quantiles: Vec<bool>,
    /// Bytes that the levels of all columns may take.
    level_room: u64,
    totals: ProfileTotals,
}

impl Accumulator {
    pub(super) fn new(plan: &ColumnPlan, options: &EncoderOptions, total_rows: u64, cut: Cut, level_room: u64) -> Self {
        let wants = |c: &nystream_datasets::PlannedColumn| c.numeric && c.feature && options.scale != Scale::Standard;
        // Unweighted classes are counted with the levels; integers that need not be classes are two classes or none.
        let labels = plan.columns.iter().find(|c| c.target.is_some()).map_or(LevelCount::None, |c| c.levels);
        let classes = ClassSums::new(match labels {
            _ if options.weight.is_none() => 0,
            LevelCount::None => 0,
            LevelCount::Required => MAX_LEVELS,
            LevelCount::Optional => 2,
        });
        Accumulator {
            plan: plan.clone(),
            split: options.split.clone(),
            split_key: StreamKey::new(options.seed, "split", 0),
            cut: cut.value,
            sample_key: StreamKey::new(options.seed, "sample", 0),
            sample_bits: pool_bits(total_rows, SAMPLE_ROWS),
            quantiles: plan.columns.iter().map(wants).collect(),
            level_room,
            totals: ProfileTotals {
                columns: vec![ColumnTotals::default(); plan.columns.len()],
                classes,
                ..Default::default()
            },
        }
    }

    /// The totals so far.
    pub(super) fn so_far(&self) -> ProfileTotals {
        self.totals.clone()
    }

    /// About what they take as bytes.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.totals.level_bytes() + 4096 * self.totals.columns.len() as u64
    }

    /// Adds totals of rows that are not read again.
    pub(super) fn take_over(&mut self, totals: ProfileTotals) -> Result<(), StageError> {
        self.totals.merge(totals)
    }

    pub(super) fn finish(self) -> ProfileTotals {
        let counted = self.totals.level_bytes();
        ProfileTotals { counted, ..self.totals }
    }

    pub(super) fn add(&mut self, raw: &RawBatch) -> Result<(), StageError> {
        let rows = raw.batch.num_rows();
        let names: Vec<&str> = self.plan.columns.iter().map(|c| c.info.name.as_str()).collect();
        // Values of all columns that read as numbers, and text views of those that read as levels.
        let mut numbers: Vec<Option<(NumericColumn<'_>, Vec<f64>)>> = Vec::new();
        let mut texts: Vec<Option<TextColumn<'_>>> = Vec::new();
        for (c, planned) in self.plan.columns.iter().enumerate() {
            let array = raw.batch.column(c).as_ref();
            numbers.push(if planned.numeric {
                let column = NumericColumn::new(names[c], array)?;
                let mut values = vec![0.0; rows];
                column.copy(0, &mut values);
                Some((column, values))
            } else {
                None
            });
            let text = planned.levels != LevelCount::None
                || planned.id
                || (planned.split && matches!(self.split, Split::Hash { column: Some(_), .. }));
            texts.push(if text { Some(TextColumn::new(names[c], array)?) } else { None });
        }
        let keep = self.screen(raw, rows, &numbers, &texts);
        let weight = self.plan.columns.iter().position(|c| c.weight);
        let weights = weight.and_then(|c| numbers[c].as_ref()).map(|(_, values)| values);
        let weight_of = |i: usize| weights.map_or(1.0, |w| w[i]);
        for (i, kept) in keep.iter().enumerate() {
            if kept.is_some() {
                self.totals.weight_sum.add(weight_of(i));
                self.totals.weight_max = self.totals.weight_max.max(weight_of(i));
            }
        }
        for (c, planned) in self.plan.columns.iter().enumerate() {
            let totals = &mut self.totals.columns[c];
            if let Some((column, values)) = &numbers[c] {
                for (i, kept) in keep.iter().enumerate() {
                    let Some(id) = kept else { continue };
                    let value = (!column.is_null(i)).then_some(values[i]);
                    if planned.feature {
                        totals.hash.number(*id, value);
                    }
                    let Some(value) = value else {
                        totals.nulls += 1;
                        continue;
                    };
                    totals.number(value);
                    if planned.target.is_some() {
                        totals.weighted.add_product(weight_of(i), value);
                        totals.weight.add(weight_of(i));
                    }
                    if self.quantiles[c] && in_pool(self.sample_key.u128(*id), self.sample_bits) {
                        totals.sample.push(value);
                    }
                }
            }
            if let Some(text) = &texts[c] {
                if planned.target.is_some() && self.totals.classes.wanted() {
                    self.totals.classes.add(text, |i| keep[i].is_some().then(|| weight_of(i)));
                }
                if planned.levels != LevelCount::None {
                    totals.levels.add(text, |i| keep[i].is_some());
                }
                if !planned.numeric {
                    let bits: Vec<u64> = text.levels().iter().map(|level| ContentHash::text_bits(level)).collect();
                    for (i, kept) in keep.iter().enumerate() {
                        let Some(id) = kept else { continue };
                        let key = text.key(i);
                        totals.hash.level(*id, key.map(|k| bits[k]));
                        if key.is_some() { totals.count += 1 } else { totals.nulls += 1 }
                    }
                }
            }
        }
        // A worker reads its rows in order: whether this refuses depends on the data, the workers and the budget alone.
        self.totals.check_levels(&self.plan, self.level_room)
    }

    /// The id of every training row of the batch; counts and names the others.
    fn screen(
        &mut self,
        raw: &RawBatch,
        rows: usize,
        numbers: &[Option<(NumericColumn<'_>, Vec<f64>)>],
        texts: &[Option<TextColumn<'_>>],
    ) -> Vec<Option<RowId>> {
        let plan = &self.plan;
        let position = |test: &dyn Fn(&nystream_datasets::PlannedColumn) -> bool| plan.columns.iter().position(test);
        let (id_column, split_column) = (position(&|c| c.id), position(&|c| c.split));
        let mut keep = Vec::with_capacity(rows);
        'rows: for i in 0..rows {
            let ordinal = raw.first_ordinal + i as u64;
            let own = raw.file_id.row(ordinal);
            let key = id_column.and_then(|c| texts[c].as_ref()).map(|text| text.get(i));
            let id = match key {
                None => own,
                Some(Some(key)) => RowId::from_key(key),
                Some(None) => own,
            };
            let mut bad = match key {
                Some(None) => Some((id_column.unwrap_or(0), BadReason::NullId)),
                _ => None,
            };
            let mut targets = (0, 0);
            for (c, planned) in plan.columns.iter().enumerate() {
                let null = match (&numbers[c], &texts[c]) {
                    (Some((column, _)), _) => column.is_null(i),
                    (_, Some(text)) => text.key(i).is_none(),
                    _ => false,
                };
                if planned.target.is_some() {
                    targets.0 += 1;
                    targets.1 += usize::from(null);
                }
                if bad.is_some() {
                    continue;
                }
                if planned.weight && null {
                    bad = Some((c, BadReason::NullWeight));
                    continue;
                }
                let Some((_, values)) = numbers[c].as_ref().filter(|_| !null) else { continue };
                let value = values[i];
                let reason = if value.is_nan() {
                    BadReason::NotANumber
                } else if value.is_infinite() {
                    BadReason::Infinite
                } else if value.abs() >= TOO_LARGE {
                    BadReason::TooLarge
                } else if planned.weight && value < 0.0 {
                    BadReason::NegativeWeight
                } else {
                    continue;
                };
                bad = Some((c, reason));
            }
            if targets.0 > 0 && targets.0 == targets.1 {
                self.totals.skipped += 1;
                keep.push(None);
                continue 'rows;
            }
            if let Some((column, reason)) = bad {
                self.totals.bad += 1;
                self.totals.columns[column].bad += 1;
                if self.totals.bad_rows.len() < NAMED_BAD_ROWS {
                    let column = plan.columns[column].info.name.clone();
                    self.totals.bad_rows.push(BadRow { file: raw.file_id, ordinal, id, column, reason });
                }
                keep.push(None);
                continue 'rows;
            }
            let held_out = match &self.split {
                Split::Hash { fraction, column } => {
                    let group = column.as_ref().and(split_column).and_then(|c| texts[c].as_ref());
                    // As the encoder: a null group stands alone.
                    let unit = group.and_then(|text| text.get(i)).map_or(id, RowId::from_key);
                    self.split_key.uniform(unit) < *fraction
                }
                // As the encoder: nulls are not held out.
                Split::Time { .. } => split_column
                    .and_then(|c| numbers[c].as_ref())
                    .filter(|(column, _)| !column.is_null(i))
                    .is_some_and(|(_, values)| self.cut.is_some_and(|cut| values[i] >= cut)),
                Split::None => false,
            };
            if held_out {
                self.totals.held_out += 1;
                keep.push(None);
            } else {
                self.totals.rows += 1;
                keep.push(Some(id));
            }
        }
        keep
    }
}
