//! One Parquet file written by several threads.
//!
//! Every thread owns a run of row groups. The first writes into the output itself, each other one into a *part*: an unnamed temporary file in the
//! folder of the output, which the system removes whatever happens. [`TableWriter::finish`] then copies the row groups
//! of the parts behind its own without decoding them.
//!
//! **Invariant**: the bytes of the output depend on the batches and on the calls of `end_group` alone, never on how the row groups were shared
//! out, as long as each thread's run begins at a group.
//!
//! **Cost**: the bytes of the parts, written and read once more; memory for one row group of at most 131,072 rows or 32 MB a writer.

use crate::DataError;
use crate::atomic::{AtomicFile, SealedFile, commit_all};
use crate::sink::{GROUP_BYTES, GROUP_ROWS, Shared, write_error};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Rows of one row group of a table, at most.
pub const TABLE_GROUP_ROWS: u64 = GROUP_ROWS as u64;
/// Encoded bytes after which a row group ends with the batch that passed them.
pub const TABLE_GROUP_BYTES: u64 = GROUP_BYTES as u64;

/// The output itself; it appears when [`TableWriter::finish`] succeeds. See the [module](self).
///
/// ```
/// use arrow_array::{Float64Array, RecordBatch};
/// use nystream_datasets::table::{PartWriter, TableWriter};
/// use std::sync::Arc;
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("out.parquet");
/// let rows = |v: Vec<f64>| RecordBatch::try_from_iter([("y", Arc::new(Float64Array::from(v)) as _)]).unwrap();
/// let first = rows(vec![1.0, 2.0]);
/// let mut table = TableWriter::create(&path, first.schema())?;
/// let mut part = PartWriter::create(&path, first.schema())?;
/// table.write(&first)?;
/// part.write(&rows(vec![3.0]))?;
/// assert_eq!(table.finish(vec![part.finish()?])?, 3);
/// assert!(path.exists());
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
pub struct TableWriter {
    path: PathBuf,
    writer: ArrowWriter<Shared>,
    file: Arc<Mutex<Option<AtomicFile>>>,
    rows: u64,
}

impl TableWriter {
    /// Starts the file that is to appear at `path`; fails now if it cannot be written.
    ///
    /// # Errors
    /// A place that cannot be written; [`DataError::Encode`] for a type that Parquet does not have.
    pub fn create(path: &Path, schema: SchemaRef) -> Result<Self, DataError> {
        let file = Arc::new(Mutex::new(Some(AtomicFile::create(path)?)));
        let writer = open(Shared(Arc::clone(&file)), schema).map_err(|e| write_error(path, e))?;
        Ok(TableWriter { path: path.to_path_buf(), writer, file, rows: 0 })
    }

    /// Appends the rows of `batch`.
    ///
    /// # Errors
    /// A disk that refuses; [`DataError::Encode`] for another schema.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), DataError> {
        self.rows += batch.num_rows() as u64;
        append(&mut self.writer, batch).map_err(|e| write_error(&self.path, e))
    }

    /// Ends the row group; does nothing when it is empty. Without it groups end at [`TABLE_GROUP_ROWS`] rows or 32 MiB.
    ///
    /// ```
    /// use arrow_array::{Int32Array, RecordBatch};
    /// use nystream_datasets::{Catalog, Sources, table::TableWriter};
    /// use std::sync::Arc;
    /// let folder = tempfile::tempdir().unwrap();
    /// let path = folder.path().join("out.parquet");
    /// let rows = RecordBatch::try_from_iter([("n", Arc::new(Int32Array::from(vec![1, 2, 3])) as _)]).unwrap();
    /// let mut table = TableWriter::create(&path, rows.schema())?;
    /// table.write(&rows)?;
    /// table.end_group()?;
    /// table.write(&rows)?;
    /// // Nothing is there until everything is.
    /// assert!(!path.exists());
    /// assert_eq!(table.finish(vec![])?, 6);
    /// let catalog = Catalog::open(&Sources::parse(&[path.to_str().unwrap()])?)?;
    /// assert_eq!(catalog.files[0].row_groups, [0, 3, 6]);
    /// # Ok::<(), nystream_datasets::DataError>(())
    /// ```
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn end_group(&mut self) -> Result<(), DataError> {
        self.writer.flush().map_err(|e| write_error(&self.path, e))
    }

    /// Appends the row groups of `parts` in the order given, and moves the file to its destination; returns its rows.
    ///
    /// # Errors
    /// A disk that refuses; nothing is left behind then.
    pub fn finish(self, parts: Vec<Part>) -> Result<u64, DataError> {
        let (rows, sealed) = self.seal(parts)?;
        commit_all(sealed.into_iter().collect())?;
        Ok(rows)
    }

    /// [`TableWriter::finish`] without the last step: the file is complete and durable, and appears with [`commit_all`]. For outputs of which all or none are to appear.
    ///
    /// # Errors
    /// A disk that refuses; nothing is left behind then.
    pub fn seal(self, parts: Vec<Part>) -> Result<(u64, Option<SealedFile>), DataError> {
        let TableWriter { path, writer, file, mut rows } = self;
        let join = || -> ParquetResult<u64> {
            let (mut writer, _) = writer.into_serialized_writer()?;
            for part in &parts {
                copy_groups(&mut writer, part)?;
                rows += part.rows;
            }
            writer.finish()?;
            Ok(rows)
        };
        let rows = join().map_err(|e| write_error(&path, e))?;
        let file = file.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok((rows, file.map(AtomicFile::seal).transpose()?))
    }
}

/// Row groups that will be part of the output at a path.
pub struct PartWriter {
    path: PathBuf,
    writer: ArrowWriter<BufWriter<File>>,
    rows: u64,
}

/// Finished row groups; dropping them removes them.
pub struct Part {
    file: File,
    metadata: ParquetMetaData,
    rows: u64,
}

impl PartWriter {
    /// Starts a part of the output that is to appear at `path`.
    ///
    /// # Errors
    /// As [`TableWriter::create`].
    pub fn create(path: &Path, schema: SchemaRef) -> Result<Self, DataError> {
        let file = tempfile::tempfile_in(part_folder(path)).map_err(|e| write_error(path, e.into()))?;
        let writer = open(BufWriter::new(file), schema).map_err(|e| write_error(path, e))?;
        Ok(PartWriter { path: path.to_path_buf(), writer, rows: 0 })
    }

    /// As [`TableWriter::write`].
    ///
    /// # Errors
    /// As there.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), DataError> {
        self.rows += batch.num_rows() as u64;
        append(&mut self.writer, batch).map_err(|e| write_error(&self.path, e))
    }

    /// As [`TableWriter::end_group`].
    ///
    /// # Errors
    /// As there.
    pub fn end_group(&mut self) -> Result<(), DataError> {
        self.writer.flush().map_err(|e| write_error(&self.path, e))
    }

    /// Completes the part.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn finish(self) -> Result<Part, DataError> {
        let PartWriter { path, mut writer, rows } = self;
        let mut complete = || -> ParquetResult<Part> {
            let metadata = writer.finish()?;
            let buffer = writer.inner_mut();
            buffer.flush()?;
            let file = buffer.get_ref().try_clone()?;
            Ok(Part { file, metadata, rows })
        };
        complete().map_err(|e| write_error(&path, e))
    }
}

/// Where the parts of an output go: beside it, or in the system's temporary folder when it is a device or pipe.
fn part_folder(path: &Path) -> PathBuf {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    match std::fs::metadata(&real) {
        Ok(metadata) if !metadata.is_file() => std::env::temp_dir(),
        _ => real.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf(),
    }
}

fn open<W: Write + Send>(file: W, schema: SchemaRef) -> ParquetResult<ArrowWriter<W>> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    ArrowWriter::try_new_with_options(file, schema, ArrowWriterOptions::new().with_properties(properties))
}

fn append<W: Write + Send>(writer: &mut ArrowWriter<W>, batch: &RecordBatch) -> ParquetResult<()> {
    writer.write(batch)?;
    // What is in progress is that of this row group alone: where it ends early does not depend on earlier groups.
    if writer.in_progress_size() > GROUP_BYTES { writer.flush() } else { Ok(()) }
}

/// Appends the encoded row groups of `part`.
fn copy_groups<W: Write + Send>(out: &mut SerializedFileWriter<W>, part: &Part) -> ParquetResult<()> {
    for (g, group) in part.metadata.row_groups().iter().enumerate() {
        let pages = part.metadata.page_index_for_row_group(g);
        let mut out = out.next_row_group()?;
        for (c, column) in group.columns().iter().enumerate() {
            let close = ColumnCloseResult {
                bytes_written: column.compressed_size() as u64,
                rows_written: group.num_rows() as u64,
                metadata: column.clone(),
                bloom_filter: None,
                column_index: pages.column_index(c).cloned(),
                offset_index: pages.offset_index(c).cloned(),
            };
            out.append_column(&part.file, close)?;
        }
        out.close()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockReader, Catalog, NumericColumn, ReadOptions, Sources, TextColumn};
    use arrow_array::{ArrayRef, Float64Array, StringArray};

    /// Rows `first..first + len` of a fixed table with nulls and repeated text.
    fn rows(first: usize, len: usize) -> RecordBatch {
        let range = first..first + len;
        let x = Float64Array::from_iter(range.clone().map(|i| (i % 7 != 3).then(|| (i as f64 * 0.37).sin())));
        let text = StringArray::from_iter(range.map(|i| (i % 5 != 1).then(|| format!("level {}", i % 11))));
        let columns = [("x", Arc::new(x) as ArrayRef, true), ("text", Arc::new(text) as ArrayRef, true)];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    /// Groups 0..5 of 3 batches each, groups from `cuts[k]` on by writer k.
    fn written(path: &Path, cuts: &[usize]) -> Vec<u8> {
        let schema = rows(0, 0).schema();
        let mut table = TableWriter::create(path, schema.clone()).unwrap();
        let mut parts: Vec<PartWriter> =
            cuts[1..].iter().map(|_| PartWriter::create(path, schema.clone()).unwrap()).collect();
        for group in 0..5 {
            let owner = cuts.iter().rposition(|cut| *cut <= group).unwrap();
            for batch in 0..3 {
                let batch = rows((group * 3 + batch) * 1000, 1000);
                match owner {
                    0 => table.write(&batch).unwrap(),
                    k => parts[k - 1].write(&batch).unwrap(),
                }
            }
            match owner {
                0 => table.end_group().unwrap(),
                k => parts[k - 1].end_group().unwrap(),
            }
        }
        let parts = parts.into_iter().map(|part| part.finish().unwrap()).collect();
        assert_eq!(table.finish(parts).unwrap(), 15_000);
        std::fs::read(path).unwrap()
    }

    #[test]
    fn bytes_do_not_depend_on_the_sharing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let alone = written(&path, &[0]);
        for cuts in [&[0, 1][..], &[0, 2, 4], &[0, 0, 3, 5], &[0, 1, 2, 3, 4]] {
            assert!(written(&path, cuts) == alone, "{cuts:?}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        // And they are the rows.
        let catalog = Catalog::open(&Sources::parse(&[path.to_str().unwrap()]).unwrap()).unwrap();
        assert_eq!(catalog.files[0].row_groups, [0, 3000, 6000, 9000, 12_000, 15_000]);
        let mut next = 0;
        for batch in BlockReader::new(&catalog, catalog.partition(1, 0), &[0, 1], ReadOptions::default()) {
            let batch = batch.unwrap().batch;
            let expected = rows(next, batch.num_rows());
            let numbers = |b: &RecordBatch| NumericColumn::new("x", b.column(0)).unwrap().iter().collect::<Vec<_>>();
            assert_eq!(numbers(&batch), numbers(&expected));
            let (a, b) = (batch.column(1), expected.column(1));
            let (a, b) = (TextColumn::new("t", a).unwrap(), TextColumn::new("t", b).unwrap());
            assert!((0..a.len()).all(|i| a.get(i) == b.get(i)));
            next += batch.num_rows();
        }
        assert_eq!(next, 15_000);
    }

    #[test]
    fn no_rows_make_a_file_with_the_schema() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let schema = rows(0, 0).schema();
        let part = PartWriter::create(&path, schema.clone()).unwrap().finish().unwrap();
        assert_eq!(TableWriter::create(&path, schema).unwrap().finish(vec![part]).unwrap(), 0);
        let catalog = Catalog::open_any(&Sources::parse(&[path.to_str().unwrap()]).unwrap()).unwrap();
        assert_eq!((catalog.total_rows, catalog.columns.len(), catalog.blocks()), (0, 2, 0));
    }

    #[test]
    fn what_is_not_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let mut table = TableWriter::create(&path, rows(0, 0).schema()).unwrap();
        let mut part = PartWriter::create(&path, rows(0, 0).schema()).unwrap();
        table.write(&rows(0, 10)).unwrap();
        part.write(&rows(10, 10)).unwrap();
        let part = part.finish().unwrap();
        drop((table, part));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_reported() {
        let path = Path::new("/dev/full");
        let mut table = TableWriter::create(path, rows(0, 0).schema()).unwrap();
        let mut part = PartWriter::create(path, rows(0, 0).schema()).unwrap();
        part.write(&rows(0, 10)).unwrap();
        let outcome = table.write(&rows(0, 10)).and_then(|()| table.finish(vec![part.finish()?]));
        let text = outcome.unwrap_err().to_string();
        assert!(text.contains("/dev/full") && text.contains("space"), "{text}");
    }
}
