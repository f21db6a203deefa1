//! The chosen rows as the data has them: every worker looks in its own blocks, and the first one of all puts together what they found.
//!
//! Rows go to one process and to no other. Cost: one pass over the raw columns; what travels are the chosen rows, which the first process holds twice.

use crate::engine::exchange::{Audience, Gather, Outcome, Outgoing, Scan, Step, pass};
use crate::engine::kept_columns;
use crate::engine::session::{Process, Session};
use crate::error::StageError;
use arrow_array::RecordBatch;
use nystream_datasets::{BlockReader, Catalog, ReadOptions, RowPicker, picked_rows};
use nystream_hashing::RowId;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What one worker finds.
struct ChosenScan {
    reader: BlockReader,
    picker: RowPicker,
    process: Arc<Process>,
    counted: u64,
}

impl Scan for ChosenScan {
    fn step(&mut self) -> Result<Step, StageError> {
        if self.picker.is_done() {
            return Ok(Step::Done);
        }
        let raw = self.reader.next().transpose()?;
        let read = self.reader.bytes_read();
        self.process.bytes_read.fetch_add(read - self.counted, Ordering::Relaxed);
        self.counted = read;
        let Some(raw) = raw else { return Ok(Step::Done) };
        self.picker.pick(&raw)?;
        Ok(Step::More { rows: raw.batch.num_rows() as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        // All to the first worker of the first process.
        Ok(vec![Outgoing { key: 0, bytes: self.picker.finish()? }])
    }
}

/// The rows of `catalog` with the given `ids`, in the order of `ids`, with all columns but nested and binary ones: on the first worker of all, which alone gets them. Every worker calls this in
/// step. Ids are those of [`nystream_datasets::Encoder::encode`]: of (file, ordinal), or of `id_column` where it is given.
///
/// ```
/// use nystream_dataflows::dictionary::chosen_rows;
/// use nystream_dataflows::engine::{Process, SilentProgress, run};
/// use nystream_datasets::{Catalog, Sources};
/// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=2"])?)?;
/// let ids = [4999, 7, 2048].map(|ordinal| catalog.files[0].id.row(ordinal));
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let results = run(&process, communication, move |session| chosen_rows(session, &catalog, None, &ids)).unwrap();
/// let rows = results[0].as_ref().unwrap().as_ref().unwrap();
/// assert_eq!((rows.num_rows(), rows.num_columns()), (3, 3));
/// assert_eq!(results[1], Ok(None));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Data`]: unreadable data, columns whose types differ from file to file, an id that no row has (the data changed since it was read).
pub fn chosen_rows(
    session: &mut Session<'_>,
    catalog: &Catalog,
    id_column: Option<&str>,
    ids: &[RowId],
) -> Result<Option<RecordBatch>, StageError> {
    let kept = kept_columns(session, catalog, &RowPicker::columns(catalog))?;
    let picker = RowPicker::new(catalog, kept.clone(), id_column, ids)?;
    let runs = catalog.partition(session.peers(), session.index());
    // All columns are read, long text among them: few rows at a time.
    let read = ReadOptions { blocks_per_batch: 1, ..ReadOptions::default() };
    let reader = BlockReader::new(catalog, runs, picker.projection(), read);
    let scan = ChosenScan { reader, picker, process: Arc::clone(&session.process), counted: 0 };
    session.begin("chosen rows", catalog.total_rows);
    let found = pass(session, "chosen rows", scan, Gather::default(), Audience::Owners);
    session.end();
    let found: Vec<Vec<u8>> = found?.into_iter().map(|parcel| parcel.bytes).collect();
    let rows = match session.index() {
        0 => picked_rows(&kept, ids.len(), &found).map(Some).map_err(StageError::from),
        _ => Ok(None),
    };
    // One worker knows whether all are there.
    let outcome = Outcome(rows.as_ref().err().cloned());
    pass(session, "chosen rows", outcome, Gather::default(), Audience::Everyone)?;
    rows
}
