//! Reading sum blocks in batches, with bounded memory and errors that say where.
//!
//! A [`BlockReader`] walks runs of whole blocks. Every batch begins at a block boundary and holds whole
//! blocks (the last of a file is ragged), whatever the row groups look like: a batch may cross row groups, and a huge
//! row group is decoded page by page. Memory is one batch, one page a column and one file's footer.
//!
//! Text columns are read as Arrow dictionaries (`Dictionary(Int32, Utf8)`), so that the encoder looks
//! each level up once a batch instead of once a row.
//!
//! Batches are claimed one by one ([`Unread`]), so that another reader may take runs, or ends of runs, that this one has not begun.
//!
//! Damaged pages give [`DataError::Decode`]. The decoder reports most damage itself; where it panics instead, the
//! unwinding stops here and becomes the same error. While it might, [`is_decoding`] is true on that thread, so that a panic
//! hook that ends the process can leave it alone.

use crate::catalog::{BLOCK_ROWS, BlockRun, Catalog, CatalogFile, arrow_metadata};
use crate::column::ColumnKind;
use crate::footer::{chunk_range, read_footer};
use crate::ranged::RangeFile;
use crate::unread::{Claim, Unread};
use crate::{DataError, synth::Generator};
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema};
use nystream_hashing::FileId;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a [`BlockReader`] reads.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Sum blocks in one batch, at least 1.
    pub blocks_per_batch: u64,
    /// Whether text columns come as dictionaries; otherwise with the type of the file.
    pub dictionary_text: bool,
}

impl Default for ReadOptions {
    /// Four blocks (8,192 rows) a batch, text as dictionaries.
    fn default() -> Self {
        ReadOptions { blocks_per_batch: 4, dictionary_text: true }
    }
}

/// Whole sum blocks of one file, as read.
#[derive(Clone, Debug)]
pub struct RawBatch {
    /// Index into [`Catalog::files`].
    pub file: usize,
    /// Identity of that file.
    pub file_id: FileId,
    /// Ordinal of the first row; a multiple of the block size.
    pub first_ordinal: u64,
    /// The rows, with the projected columns in the projected order.
    pub batch: RecordBatch,
}

/// An iterator over the batches of some runs of blocks, in order.
///
/// It is `Send` and owns all it needs, so it can feed a prefetch thread. After an error it ends.
///
/// ```
/// use nystream_datasets::{BlockReader, Catalog, ReadOptions, Sources};
/// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=20000&d=3"])?)?;
/// let runs = catalog.partition(1, 0);
/// let target = catalog.column("y", "target")?;
/// let mut rows = 0;
/// for batch in BlockReader::new(&catalog, runs, &[0, target], ReadOptions::default()) {
///     let batch = batch?;
///     assert_eq!(batch.first_ordinal, rows);
///     rows += batch.batch.num_rows() as u64;
/// }
/// assert_eq!(rows, 20_000);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
pub struct BlockReader {
    catalog: Catalog,
    unread: Unread,
    projection: Arc<[usize]>,
    options: ReadOptions,
    bytes_read: Arc<AtomicU64>,
    current: Option<Current>,
}

/// The run being read.
struct Current {
    file: usize,
    next_row: u64,
    end_row: u64,
    rows: Rows,
}

enum Rows {
    Synth(Box<Generator>),
    Parquet {
        reader: Box<ParquetRecordBatchReader>,
        /// Position in the decoded batch of each projected column.
        order: Vec<usize>,
        opened: Opened,
    },
}

/// A file whose footer is the one the catalog saw.
struct Opened {
    file: RangeFile,
    metadata: ArrowReaderMetadata,
}

impl BlockReader {
    /// Reads `projection` (indices into [`Catalog::columns`], in the order wanted) of `runs`.
    ///
    /// # Panics
    /// If an index is not a column, or a run is not of the catalog.
    pub fn new(
        catalog: &Catalog,
        runs: impl IntoIterator<Item = BlockRun>,
        projection: &[usize],
        options: ReadOptions,
    ) -> Self {
        assert!(projection.iter().all(|i| *i < catalog.columns.len()), "a projected column is not in the catalog");
        BlockReader {
            catalog: catalog.clone(),
            unread: Unread::new(runs, options.blocks_per_batch),
            projection: projection.into(),
            options,
            bytes_read: Arc::new(AtomicU64::new(0)),
            current: None,
        }
    }

    /// What it has not begun to read: others can take of that.
    pub fn unread(&self) -> Unread {
        self.unread.clone()
    }

    /// The same reader of `unread`, of batches of as many blocks.
    pub fn reading(self, unread: Unread) -> Self {
        BlockReader { unread, ..self }
    }

    /// Bytes read from files so far, footers included; 0 for synthetic sources.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// The same count as a handle that outlives the reader.
    pub fn byte_counter(&self) -> Arc<AtomicU64> {
        self.bytes_read.clone()
    }

    fn batch_rows(&self) -> u64 {
        self.options.blocks_per_batch.max(1) * BLOCK_ROWS
    }

    fn open(&self, run: BlockRun) -> Result<Current, DataError> {
        let file = &self.catalog.files[run.file];
        let next_row = run.first * BLOCK_ROWS;
        let end_row = (run.end * BLOCK_ROWS).min(file.rows);
        let rows = match &file.synth {
            Some(spec) => Rows::Synth(Box::new(Generator::new(spec))),
            None => {
                let opened = open_file(file, &self.projection, &self.options, &self.bytes_read)?;
                let roots: Vec<usize> = self.projection.iter().map(|i| file.columns[*i]).collect();
                let reader = build(file, &opened, &roots, next_row, end_row, self.batch_rows())?;
                // The decoder returns columns in file order, each once.
                let mut sorted = roots.clone();
                sorted.sort_unstable();
                sorted.dedup();
                let order = roots.iter().map(|root| sorted.partition_point(|r| r < root)).collect();
                Rows::Parquet { reader: Box::new(reader), order, opened }
            }
        };
        Ok(Current { file: run.file, next_row, end_row, rows })
    }

    fn read(&mut self) -> Option<Result<RawBatch, DataError>> {
        let Some(Claim { run, run_end, .. }) = self.unread.claim() else {
            self.current = None;
            return None;
        };
        let first_ordinal = run.first * BLOCK_ROWS;
        let end = (run.end * BLOCK_ROWS).min(self.catalog.files[run.file].rows);
        let goes_on =
            |current: &Current| current.file == run.file && current.next_row == first_ordinal && end <= current.end_row;
        if !self.current.as_ref().is_some_and(goes_on) {
            // The one before is closed first.
            self.current = None;
            match self.open(BlockRun { end: run_end, ..run }) {
                Ok(current) => self.current = Some(current),
                Err(error) => return Some(Err(error)),
            }
        }
        let current = self.current.as_mut()?;
        let file = &self.catalog.files[current.file];
        let expected = (end - first_ordinal) as usize;
        let batch = match &mut current.rows {
            Rows::Synth(generator) => {
                generator.batch(first_ordinal, expected, &self.projection).map_err(|e| e.to_string())
            }
            Rows::Parquet { reader, order, .. } => {
                decode(reader, expected).and_then(|batch| batch.project(order).map_err(|e| e.to_string()))
            }
        };
        current.next_row = end;
        Some(match batch {
            Ok(batch) => Ok(RawBatch { file: current.file, file_id: file.id, first_ordinal, batch }),
            Err(reason) => Err(match &current.rows {
                Rows::Parquet { opened, .. } => opened
                    .file
                    .failure()
                    .unwrap_or_else(|| diagnose(file, opened, &self.projection, first_ordinal, end, reason)),
                Rows::Synth(_) => DataError::BadSynth { spec: file.name.clone(), reason },
            }),
        })
    }
}

impl Iterator for BlockReader {
    type Item = Result<RawBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.read();
        if matches!(item, Some(Err(_))) {
            self.unread.clear();
            self.current = None;
        }
        item
    }
}

fn open_file(
    file: &CatalogFile,
    projection: &[usize],
    options: &ReadOptions,
    bytes_read: &Arc<AtomicU64>,
) -> Result<Opened, DataError> {
    let path = &file.path;
    let ranged = RangeFile::again(file, bytes_read.clone())?;
    let footer = read_footer(path, &ranged)?;
    if footer.digest != file.digest {
        return Err(DataError::Changed { path: path.clone() });
    }
    let mut metadata = arrow_metadata(path, &footer)?;
    if options.dictionary_text {
        let mut fields: Vec<Arc<Field>> = metadata.schema().fields().iter().cloned().collect();
        for root in projection.iter().map(|i| file.columns[*i]) {
            if ColumnKind::of(fields[root].data_type()) == ColumnKind::Text {
                let text = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
                fields[root] = Arc::new(fields[root].as_ref().clone().with_data_type(text));
            }
        }
        let schema = Arc::new(Schema::new(fields));
        let corrupt = |reason: String| DataError::Footer { path: path.clone(), reason };
        let hint = ArrowReaderOptions::new().with_schema(schema);
        metadata = guarded(|| ArrowReaderMetadata::try_new(footer.metadata.clone(), hint))
            .map_err(corrupt)?
            .map_err(|e| corrupt(e.to_string()))?;
    }
    Ok(Opened { file: ranged, metadata })
}

/// A decoder of rows `first..end` of the file columns `roots`.
fn build(
    file: &CatalogFile,
    opened: &Opened,
    roots: &[usize],
    first: u64,
    end: u64,
    batch_rows: u64,
) -> Result<ParquetRecordBatchReader, DataError> {
    let groups: Vec<usize> = (0..file.row_groups.len() - 1)
        .filter(|g| file.row_groups[*g] < end && file.row_groups[g + 1] > first)
        .collect();
    let skipped = groups.first().map_or(0, |g| first - file.row_groups[*g]);
    let mask = ProjectionMask::roots(opened.metadata.parquet_schema(), roots.iter().copied());
    let corrupt = |reason: String| DataError::Footer { path: file.path.clone(), reason };
    let ranged = opened.file.reading(&chunks(opened, &groups, &mask));
    guarded(|| {
        ParquetRecordBatchReaderBuilder::new_with_metadata(ranged, opened.metadata.clone())
            .with_projection(mask)
            .with_row_groups(groups)
            .with_offset(skipped as usize)
            .with_limit((end - first) as usize)
            .with_batch_size(batch_rows as usize)
            .build()
    })
    .map_err(corrupt)?
    .map_err(|e| corrupt(e.to_string()))
}

/// The bytes of the columns of `mask` in each of `groups`. They lie inside the file: the footer was checked.
fn chunks(opened: &Opened, groups: &[usize], mask: &ProjectionMask) -> Vec<Vec<Range<u64>>> {
    let metadata = opened.metadata.metadata();
    let of_group = |group: &usize| {
        let columns = metadata.row_group(*group).columns().iter().enumerate();
        columns
            .filter(|(leaf, _)| mask.leaf_included(*leaf))
            .map(|(_, column)| {
                let (start, length) = chunk_range(column);
                start as u64..(start + length) as u64
            })
            .collect()
    };
    groups.iter().map(of_group).collect()
}

fn decode(reader: &mut ParquetRecordBatchReader, expected: usize) -> Result<RecordBatch, String> {
    match guarded(|| reader.next())? {
        None => Err("the pages end before the rows do".into()),
        Some(Err(e)) => Err(e.to_string()),
        Some(Ok(batch)) if batch.num_rows() != expected => {
            Err(format!("the pages hold {} rows where {expected} were stated", batch.num_rows()))
        }
        Some(Ok(batch)) => Ok(batch),
    }
}

/// Finds the row group and column at fault by decoding each alone; only ever runs after a failure.
fn diagnose(
    file: &CatalogFile,
    opened: &Opened,
    projection: &[usize],
    first: u64,
    end: u64,
    reason: String,
) -> DataError {
    let groups = file.row_group_of(first)..=file.row_group_of(end - 1);
    let parts = groups.map(|g| (g, file.row_groups[g].max(first), file.row_groups[g + 1].min(end)));
    for (row_group, lo, hi) in parts.filter(|(_, lo, hi)| lo < hi) {
        for &column in projection {
            let root = file.columns[column];
            let outcome = build(file, opened, &[root], lo, hi, hi - lo)
                .map_err(|e| e.to_string())
                .and_then(|mut reader| decode(&mut reader, (hi - lo) as usize));
            if let Err(reason) = outcome {
                let column = Some(opened.metadata.schema().field(root).name().clone());
                let path = file.path.clone();
                return DataError::Decode { path, row_group, column, first_row: lo, end_row: hi, reason };
            }
        }
    }
    DataError::Decode {
        path: file.path.clone(),
        row_group: file.row_group_of(first),
        column: None,
        first_row: first,
        end_row: end,
        reason,
    }
}

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a decoder whose panics become errors.
///
/// A panic hook that ends the process must return quietly when this is true.
pub fn is_decoding() -> bool {
    DECODING.with(Cell::get)
}

/// Runs `f`; a panic inside it becomes `Err` with its message.
pub(crate) fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    let before = DECODING.with(|flag| flag.replace(true));
    let outcome = catch_unwind(AssertUnwindSafe(f));
    DECODING.with(|flag| flag.set(before));
    outcome.map_err(|payload| {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_string())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "unknown".into());
        format!("the decoder failed: {text}")
    })
}
