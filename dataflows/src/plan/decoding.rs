//! Memory of decoding, from the footers alone.
//!
//! `WORKER_BYTES` holds the pages of a dozen columns and batches of short text. Beyond that counts what long text needs: the batch
//! twice, as its pages had it and as the dictionary that is made of it, and pages and dictionaries of more than 1 MiB.
//!
//! Objects of a store are read ahead of their decoding, which counts whatever the columns are.
//!
//! Footers give the mean length of a row group's values: where the long ones of a group stand together, a batch takes more.

use super::memory::{MemoryPlan, WORKER_BYTES, human, program_bytes};
use super::size::Reading;
use crate::engine::feed::blocks_of;
use crate::error::StageError;
use nystream_datasets::{BLOCK_ROWS, Catalog, ColumnPlan, PAGE_BYTES, PlannedColumn};

/// Bytes of text that a worker decodes without any being planned.
const SHORT_TEXT: u64 = 8 << 20;
/// Bytes of a value that is profiled: decoded, and as `f64`; of text a view of it and its level.
const PROFILED_VALUE: u64 = 16;
const PROFILED_TEXT: u64 = 40;

/// What a worker holds beyond `WORKER_BYTES` while it decodes some columns.
///
/// ```
/// use nystream_dataflows::plan::Decoding;
/// use nystream_datasets::{Catalog, Sources};
/// // Short text is nothing to speak of.
/// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=50000&d=2&categories=2"])?)?;
/// assert_eq!(Decoding::new(&catalog, &[0, 1, 2, 3], 16, 2), Decoding::default());
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoding {
    /// Bytes.
    pub bytes: u64,
    /// Bytes of objects that are fetched ahead; 0 where all files are on a disk.
    pub fetched: u64,
    /// The column that most of the former are of; `None` without any.
    pub column: Option<usize>,
    /// Its name and the length of its values, for messages.
    name: String,
}

impl Decoding {
    /// Of the columns `projection` of `catalog`, in batches of rows that are `row_bytes` wide when encoded.
    pub fn new(catalog: &Catalog, projection: &[usize], row_bytes: usize, workers: usize) -> Self {
        let batch = blocks_of(catalog, projection, row_bytes) * BLOCK_ROWS;
        let rows = Reading::rows_in_hand(batch, catalog.total_rows, workers);
        let bytes_of = |index: usize| {
            let column = catalog.column_bytes(index);
            let pages = if column.text > 0 { column.pages.saturating_sub(3 * PAGE_BYTES) } else { 0 };
            rows.saturating_mul(column.text).saturating_mul(2).saturating_add(pages)
        };
        let bytes = projection.iter().map(|index| bytes_of(*index)).fold(0, u64::saturating_add);
        let bytes = bytes.saturating_sub(SHORT_TEXT);
        let fetched = catalog.fetched_bytes(projection);
        // The first of those that need most.
        let column = projection.iter().copied().max_by_key(|index| (bytes_of(*index), std::cmp::Reverse(*index)));
        match column.filter(|_| bytes > 0) {
            None => Decoding { fetched, ..Decoding::default() },
            Some(index) => {
                let length = human(catalog.column_bytes(index).text);
                let name =
                    format!("decoding text, most of it of column '{}' ({length} a row)", catalog.columns[index].name);
                Decoding { bytes, fetched, column: Some(index), name }
            }
        }
    }

    /// The one of two that needs more: of passes that follow each other, the one that decides.
    pub fn larger(self, other: Decoding) -> Decoding {
        let fetched = self.fetched.max(other.fetched);
        Decoding { fetched, ..if other.bytes > self.bytes { other } else { self } }
    }

    /// Adds it to the plan of a process with `workers` threads, where there is any.
    pub fn add_to(&self, plan: &mut MemoryPlan, workers: usize) {
        if self.bytes > 0 {
            plan.add(self.name.clone(), self.bytes.saturating_mul(workers as u64));
        }
        if self.fetched > 0 {
            plan.add("reading ahead from object stores", self.fetched.saturating_mul(workers as u64));
        }
    }

    /// Refuses a pass that decodes these columns in a process with `workers` threads and needs more than `budget` bytes for that alone.
    ///
    /// # Errors
    /// [`StageError::Budget`] naming the column that needs most.
    pub fn check(&self, budget: u64, workers: usize) -> Result<(), StageError> {
        let mut plan = MemoryPlan::default();
        plan.add("program and Parquet decoding", program_bytes(workers));
        self.add_to(&mut plan, workers);
        plan.check_or(budget, "use fewer --workers, or shorter text in that column")
    }
}

/// Bytes that levels may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LevelRoom {
    /// Those of all workers of a process, or of all rows in the process that merges them.
    pub process: u64,
    /// Those of one worker.
    pub worker: u64,
}

/// The memory of the profile.
pub(crate) struct ProfilePlan {
    memory: MemoryPlan,
    remedy: String,
    workers: u64,
}

impl ProfilePlan {
    /// Of the columns of `plan`.
    pub(crate) fn new(catalog: &Catalog, plan: &ColumnPlan, workers: usize) -> Self {
        let projection = plan.projection();
        let width = profiled_bytes(plan);
        let decoding = Decoding::new(catalog, &projection, width, workers);
        let batch = blocks_of(catalog, &projection, width) * BLOCK_ROWS;
        let rows = Reading::rows_in_hand(batch, catalog.total_rows, workers);
        let texts = projection.iter().filter(|index| catalog.column_bytes(**index).text > 0).count() as u64;
        let row = PROFILED_VALUE * plan.columns.len() as u64 + PROFILED_TEXT * texts;
        let mut memory = MemoryPlan::default();
        memory.add("program and Parquet decoding", program_bytes(workers));
        // A dozen columns are in what every worker has.
        let batch = rows.saturating_mul(row).saturating_sub(WORKER_BYTES / 2);
        memory.add("columns being profiled", batch.saturating_mul(workers as u64));
        decoding.add_to(&mut memory, workers);
        let longest = plan.columns.iter().find(|column| Some(column.index) == decoding.column);
        let less = longest.map(|column| format!("{}, or ", without(column))).unwrap_or_default();
        ProfilePlan { memory, remedy: format!("{less}use fewer --workers"), workers: workers as u64 }
    }

    /// Refuses a profile that does not fit `budget` bytes.
    pub(crate) fn check(&self, budget: u64) -> Result<(), StageError> {
        self.memory.check_or(budget, &self.remedy)
    }

    /// Bytes that the levels of all text columns may take in a process, of `budget`, and in each of its workers: every worker counts its own, and one
    /// merges them, for which it holds them again as they were sent.
    pub(crate) fn level_room(&self, budget: u64) -> LevelRoom {
        let process = budget.saturating_sub(self.memory.total()) / 3 * 2;
        LevelRoom { process, worker: process / self.workers }
    }

    /// The memory of a profile whose workers counted levels of `counted` bytes, of which `different` were left when all were merged.
    pub(crate) fn with_levels(mut self, counted: u64, different: u64) -> MemoryPlan {
        self.memory.add("distinct values of text columns", counted.saturating_add(different / 2));
        self.memory
    }
}

/// Bytes of a row as the profile holds it, by which its batches are sized.
pub(crate) fn profiled_bytes(plan: &ColumnPlan) -> usize {
    plan.columns.len() * 8
}

/// How a fit does without a column.
fn without(column: &PlannedColumn) -> String {
    let name = &column.info.name;
    match column {
        PlannedColumn { id: true, .. } => "leave out --id-column".to_owned(),
        PlannedColumn { target: Some(_), .. } => format!("shorten the values of target '{name}'"),
        PlannedColumn { feature: true, split: false, .. } => format!("leave the column out with --drop '{name}'"),
        _ => format!("split by another column than '{name}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
    use nystream_datasets::sink::PredictionWriter;
    use nystream_datasets::{EncoderOptions, Sources};
    use std::sync::Arc;

    /// 4,096 rows of a number y, a text of 10,000 bytes and one of 4.
    fn catalog(folder: &std::path::Path) -> Catalog {
        let path = folder.join("t.parquet");
        let rows = || 0..4096;
        let columns: [(&str, ArrayRef); 3] = [
            ("long", Arc::new(StringArray::from_iter_values(rows().map(|i| format!("{i:010000}"))))),
            ("short", Arc::new(StringArray::from_iter_values(rows().map(|i| format!("{i:04}"))))),
            ("y", Arc::new(Float64Array::from_iter_values(rows().map(f64::from)))),
        ];
        let mut writer = PredictionWriter::create(&path).unwrap();
        writer.write(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        writer.finish().unwrap();
        Catalog::open(&Sources::parse(&[path.to_str().unwrap()]).unwrap()).unwrap()
    }

    #[test]
    fn long_text_counts_and_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog(folder.path());
        assert_eq!(Decoding::new(&catalog, &[1, 2], 16, 1), Decoding::default());
        let long = Decoding::new(&catalog, &[1, 0, 2], 16, 1);
        // One block of 20 MB of text, twice, and its pages.
        assert!((30 << 20..120 << 20).contains(&long.bytes) && long.column == Some(0), "{long:?}");
        let error = long.check(100 << 20, 4).unwrap_err().to_string();
        assert!(error.contains("'long'") && error.contains("9.8 KiB a row"), "{error}");
        assert_eq!(long.check(1 << 30, 4), Ok(()));
    }

    #[test]
    fn the_profile_says_how_to_do_without_a_column() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog(folder.path());
        let base = EncoderOptions { targets: vec!["y".into()], ..EncoderOptions::default() };
        let plan = |options: &EncoderOptions| ProfilePlan::new(&catalog, &options.plan(&catalog.columns).unwrap(), 2);
        let refused = |options: &EncoderOptions| plan(options).check(80 << 20).unwrap_err().to_string();
        assert!(refused(&base).contains("--drop 'long'"));
        let key = EncoderOptions { id_column: Some("long".into()), ..base.clone() };
        assert!(refused(&key).contains("leave out --id-column"));
        let group =
            EncoderOptions { split: "hash:0.1:long".parse().unwrap(), drop: vec!["long".into()], ..base.clone() };
        assert!(refused(&group).contains("split by another column than 'long'"));
        let labels = EncoderOptions { targets: vec!["long".into()], ..base.clone() };
        assert!(refused(&labels).contains("target 'long'"));
        let none = EncoderOptions { drop: vec!["long".into()], ..base };
        assert_eq!(plan(&none).check(80 << 20), Ok(()));
        // What is left of the budget is for levels; with nothing left there is room for none.
        let room = plan(&none).level_room(80 << 20);
        assert!(room.worker > 1 << 20 && room.process >= 2 * room.worker && room.process < 8 << 20, "{room:?}");
        assert_eq!(plan(&none).level_room(0), LevelRoom { process: 0, worker: 0 });
        // Whatever the levels have in common, what is let through fits.
        let most = plan(&none).with_levels(room.process, room.process).total();
        assert!((79 << 20..=80 << 20).contains(&most), "{most}");
    }
}
