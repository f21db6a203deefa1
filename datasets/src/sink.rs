//! Parquet files that appear whole or not at all.
//!
//! [`PredictionWriter`] streams record batches to an [`AtomicFile`] as Parquet (zstd) with bounded memory.

use crate::DataError;
use crate::atomic::{AtomicFile, OutputError, SealedFile, commit_all};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Rows of one row group of an output.
pub(crate) const GROUP_ROWS: usize = 131_072;
/// Bytes of an unfinished row group at which it is written out early.
pub(crate) const GROUP_BYTES: usize = 32 << 20;

/// A Parquet file written batch by batch; it appears when [`PredictionWriter::finish`] succeeds.
///
/// The schema is that of the first batch. Memory: one row group of at most 131,072 rows or 32 MB, encoded.
///
/// ```
/// use arrow_array::{Float64Array, RecordBatch};
/// use nystream_datasets::{Catalog, Sources, sink::PredictionWriter};
/// use std::sync::Arc;
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("p.parquet");
/// let batch = RecordBatch::try_from_iter([("prediction", Arc::new(Float64Array::from(vec![0.5, 1.5])) as _)]).unwrap();
/// let mut writer = PredictionWriter::create(&path)?;
/// writer.write(&batch)?;
/// writer.write(&batch)?;
/// assert_eq!(writer.finish()?, 4);
/// assert_eq!(Catalog::open(&Sources::parse(&[path.to_str().unwrap()])?)?.total_rows, 4);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
pub struct PredictionWriter {
    path: PathBuf,
    state: State,
    rows: u64,
}

enum State {
    /// No batch yet.
    Fresh(AtomicFile),
    Open(Box<ParquetFile>),
    /// A write failed; what was written is gone.
    Failed,
}

impl PredictionWriter {
    /// Starts the file that is to appear at `path`; fails now if it cannot be written.
    ///
    /// # Errors
    /// [`DataError::Output`].
    pub fn create(path: &Path) -> Result<Self, DataError> {
        Ok(PredictionWriter { path: path.to_path_buf(), state: State::Fresh(AtomicFile::create(path)?), rows: 0 })
    }

    /// Appends the rows of `batch`.
    ///
    /// # Errors
    /// [`DataError::Output`] when the disk refuses, [`DataError::Encode`] for another schema than the first batch's.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), DataError> {
        // Whatever fails below leaves the writer failed.
        let mut file = match std::mem::replace(&mut self.state, State::Failed) {
            State::Fresh(file) => {
                let level = ZstdLevel::try_new(3).map_err(|error| write_error(&self.path, error))?;
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(level))
                    .set_max_row_group_row_count(Some(GROUP_ROWS))
                    .build();
                Box::new(ParquetFile::new(file, batch.schema(), ArrowWriterOptions::new().with_properties(properties))?)
            }
            State::Open(file) => file,
            State::Failed => {
                return Err(DataError::Encode { path: self.path.clone(), reason: "an earlier write failed".into() });
            }
        };
        file.write(batch)?;
        self.rows += batch.num_rows() as u64;
        self.state = State::Open(file);
        Ok(())
    }

    /// Completes the file and moves it to its destination; returns its rows.
    ///
    /// # Errors
    /// [`DataError::Output`]; [`DataError::Encode`] when no batch was written or an earlier write failed.
    pub fn finish(self) -> Result<u64, DataError> {
        let path = self.path;
        match self.state {
            State::Open(file) => file.finish().map(|()| self.rows),
            State::Fresh(_) => Err(DataError::Encode { path, reason: "there are no rows to write".into() }),
            State::Failed => Err(DataError::Encode { path, reason: "an earlier write failed".into() }),
        }
    }
}

/// An [`AtomicFile`] behind a Parquet writer, which gives its file back only with the system's reasons lost.
pub(crate) struct Shared(pub(crate) Arc<Mutex<Option<AtomicFile>>>);

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut AtomicFile) -> io::Result<T>) -> io::Result<T> {
        let mut file = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        f(file.as_mut().ok_or_else(|| io::Error::other("the file is finished"))?)
    }
}

impl Write for Shared {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.with(|file| file.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.with(AtomicFile::flush)
    }
}

/// An open Parquet output.
pub(crate) struct ParquetFile {
    path: PathBuf,
    writer: ArrowWriter<Shared>,
    file: Arc<Mutex<Option<AtomicFile>>>,
}

impl ParquetFile {
    fn new(file: AtomicFile, schema: SchemaRef, options: ArrowWriterOptions) -> Result<Self, DataError> {
        let path = file.destination().to_path_buf();
        let file = Arc::new(Mutex::new(Some(file)));
        let writer = ArrowWriter::try_new_with_options(Shared(file.clone()), schema, options)
            .map_err(|error| write_error(&path, error))?;
        Ok(ParquetFile { path, writer, file })
    }

    /// For generated numbers: plain pages, text as dictionaries.
    pub(crate) fn plain(path: &Path, schema: SchemaRef, row_group_rows: usize) -> Result<Self, DataError> {
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_dictionary_enabled(false)
            .set_max_row_group_row_count(Some(row_group_rows));
        for field in schema.fields() {
            if matches!(field.data_type(), DataType::Dictionary(..)) {
                properties = properties.set_column_dictionary_enabled(field.name().as_str().into(), true);
            }
        }
        // Without the Arrow schema other readers see plain strings.
        let options = ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true);
        Self::new(AtomicFile::create(path)?, schema, options)
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), DataError> {
        let mut outcome = self.writer.write(batch);
        if outcome.is_ok() && self.writer.in_progress_size() > GROUP_BYTES {
            outcome = self.writer.flush();
        }
        outcome.map_err(|error| write_error(&self.path, error))
    }

    /// Bytes of the file so far, those of the unfinished row group as estimated by the encoder.
    pub(crate) fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Writes the footer and makes the file durable.
    pub(crate) fn seal(mut self) -> Result<SealedFile, DataError> {
        self.writer.finish().map_err(|error| write_error(&self.path, error))?;
        let file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        let source = || io::Error::other("the file is finished");
        let file = file.ok_or_else(|| OutputError::Write { path: self.path.clone(), source: source() })?;
        Ok(file.seal()?)
    }

    /// Writes the footer and moves the file to its destination.
    pub(crate) fn finish(self) -> Result<(), DataError> {
        Ok(commit_all(vec![self.seal()?])?)
    }
}

/// Tells the disk's refusals from the encoder's.
pub(crate) fn write_error(path: &Path, error: ParquetError) -> DataError {
    let path = path.to_path_buf();
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => OutputError::Write { path, source: *source }.into(),
            Err(other) => DataError::Encode { path, reason: other.to_string() },
        },
        other => DataError::Encode { path, reason: other.to_string() },
    }
}

/// `array` with an Arrow dictionary of text written out; other arrays as they are. For input columns kept beside predictions.
///
/// # Errors
/// [`DataError::ColumnType`] when the dictionary cannot be written out.
pub fn plain_column(name: &str, array: &ArrayRef) -> Result<ArrayRef, DataError> {
    let DataType::Dictionary(_, value) = array.data_type() else { return Ok(array.clone()) };
    arrow_cast::cast(array, value).map_err(|_| DataError::ColumnType {
        column: name.into(),
        found: array.data_type().to_string(),
        expected: "text",
        role: "kept column",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{DictionaryArray, Float64Array, StringArray, types::Int32Type};
    use std::fs::File;

    fn entries(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn unwritable_destinations_are_named() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().join("no/such/a.parquet"), folder.path().to_path_buf()] {
            let error = PredictionWriter::create(&path).err().unwrap();
            assert!(
                matches!(&error, DataError::Output(OutputError::Create { path: named, .. }) if *named == path),
                "{error}"
            );
        }
    }

    #[test]
    fn predictions_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.parquet");
        let city: DictionaryArray<Int32Type> = [Some("a"), None, Some("b")].into_iter().collect();
        let city = plain_column("city", &(Arc::new(city) as ArrayRef)).unwrap();
        assert_eq!(city.as_ref(), &StringArray::from(vec![Some("a"), None, Some("b")]) as &dyn Array);
        let y = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0])) as ArrayRef;
        let batch = RecordBatch::try_from_iter_with_nullable([("city", city, true), ("y", y, true)]).unwrap();
        let mut writer = PredictionWriter::create(&path).unwrap();
        (0..3).for_each(|_| writer.write(&batch).unwrap());
        assert!(!path.exists());
        assert_eq!(writer.finish().unwrap(), 9);
        let file = File::open(&path).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        assert_eq!(reader.build().unwrap().map(|b| b.unwrap().num_rows()).sum::<usize>(), 9);
        assert_eq!(entries(folder.path()), 1);
    }

    #[test]
    fn no_rows_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.parquet");
        assert!(PredictionWriter::create(&path).unwrap().finish().is_err());
        assert_eq!(entries(folder.path()), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_from_a_bad_batch() {
        let mut writer = PredictionWriter::create(Path::new("/dev/full")).unwrap();
        let y = Arc::new(Float64Array::from(vec![1.0])) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("y", y)]).unwrap();
        let error = writer.write(&batch).and_then(|()| writer.finish().map(|_| ())).unwrap_err();
        assert!(
            matches!(&error, DataError::Output(OutputError::Write { source, .. }) if source.kind() == io::ErrorKind::StorageFull),
            "{error}"
        );
    }

    #[test]
    fn another_schema_fails_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.parquet");
        let batch = |name: &str| {
            RecordBatch::try_from_iter([(name, Arc::new(Float64Array::from(vec![1.0])) as ArrayRef)]).unwrap()
        };
        let mut writer = PredictionWriter::create(&path).unwrap();
        writer.write(&batch("a")).unwrap();
        let text = RecordBatch::try_from_iter([("a", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]).unwrap();
        assert!(writer.write(&text).is_err());
        assert!(writer.write(&batch("a")).is_err());
        assert!(writer.finish().is_err());
        assert_eq!(entries(folder.path()), 0);
    }
}
