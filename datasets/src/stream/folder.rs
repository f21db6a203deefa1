//! Parquet files that appear in a folder.
//!
//! Files are taken in the order of their names, each once: a name that was taken is not looked at again while it has the bytes that it had. A file is taken when its footer can be read, which a
//! file that is still being written has not: it waits, and others go before it. Hidden files, and names that end in `.part`, `.tmp` or `.crdownload`, are none. A file that changes after it was taken,
//! or whose pages are damaged, is a rejected item; its rows before that count.
//!
//! *Position*: for each file that is still there, the rows taken of it; what is gone from the folder is forgotten.

use super::{EventSource, Item, More, PIECE_EVENTS, Position, Rejected, SourceError};
use crate::events::{EventError, StreamSchema, arrow};
use crate::scan::guarded;
use arrow_array::RecordBatch;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time between two looks at the folder.
const LOOK: Duration = Duration::from_millis(200);
/// How long a file may be less than whole before that is told.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stands for the rows of a file that was taken whole.
const ALL: u64 = u64::MAX;

/// A source of files.
pub struct Folder {
    name: String,
    folder: PathBuf,
    schema: StreamSchema,
    /// Rows taken and bytes of each file by name.
    taken: BTreeMap<String, (u64, u64)>,
    open: Option<Open>,
    /// Files that are not whole: bytes, since when, and whether that was told.
    partial: BTreeMap<String, (u64, Instant, bool)>,
    looked: Option<Instant>,
}

struct Open {
    name: String,
    reader: ParquetRecordBatchReader,
    /// Rows to pass over: taken before a restart.
    skip: u64,
    rows: u64,
    bytes: u64,
}

impl Folder {
    /// The files of `folder`.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn open(name: &str, folder: &Path, schema: StreamSchema) -> Result<Self, SourceError> {
        let source = Folder {
            name: name.into(),
            folder: folder.to_path_buf(),
            schema,
            taken: BTreeMap::new(),
            open: None,
            partial: BTreeMap::new(),
            looked: None,
        };
        source.names()?;
        Ok(source)
    }

    /// Names and bytes of the files that may be taken.
    fn names(&self) -> Result<BTreeMap<String, u64>, SourceError> {
        let io = |source| SourceError::Io { name: self.name.clone(), source };
        let mut names = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder).map_err(io)? {
            let Ok(name) = entry.map_err(io)?.file_name().into_string() else { continue };
            let unfinished =
                name.starts_with('.') || [".part", ".tmp", ".crdownload"].iter().any(|end| name.ends_with(end));
            // One that goes away meanwhile is none.
            let Ok(found) = std::fs::metadata(self.folder.join(&name)) else { continue };
            if found.is_file() && !unfinished && name.ends_with(".parquet") {
                names.insert(name, found.len());
            }
        }
        Ok(names)
    }

    /// Opens the next file that is whole.
    fn look(&mut self, items: &mut Vec<Item>) -> Result<(), SourceError> {
        let names = self.names()?;
        // What was taken and is gone is forgotten; an empty folder may be one that is not mounted.
        if !names.is_empty() {
            self.taken.retain(|name, _| names.contains_key(name));
        }
        self.partial.retain(|name, _| names.contains_key(name));
        for (name, bytes) in names {
            let before = self.taken.get(&name).copied();
            match before {
                Some((rows, taken)) if rows > 0 && taken != bytes => {
                    let reason = format!(
                        "the file has {bytes} bytes and had {taken} when it was taken: it is not taken again; give it another name"
                    );
                    items.push(Item::Rejected(Rejected { key: None, reason, place: Some(name.clone()), text: None }));
                    self.taken.insert(name, (ALL, bytes));
                    continue;
                }
                Some((ALL, _)) => continue,
                _ => {}
            }
            let file = File::open(self.folder.join(&name));
            let reader = file.map_err(|error| error.to_string()).and_then(|file| {
                let builder =
                    guarded(|| ParquetRecordBatchReaderBuilder::try_new(file))?.map_err(|error| error.to_string())?;
                builder.with_batch_size(PIECE_EVENTS).build().map_err(|error| error.to_string())
            });
            match reader {
                Ok(reader) => {
                    self.partial.remove(&name);
                    let skip = before.map_or(0, |(rows, _)| rows);
                    self.taken.insert(name.clone(), (skip, bytes));
                    self.open = Some(Open { name, reader, skip, rows: 0, bytes });
                    return Ok(());
                }
                Err(reason) => {
                    let seen = self.partial.entry(name.clone()).or_insert((bytes, Instant::now(), false));
                    if seen.0 != bytes {
                        *seen = (bytes, Instant::now(), false);
                    } else if seen.1.elapsed() > PATIENCE && !seen.2 {
                        seen.2 = true;
                        let reason =
                            format!("the file is not whole, or no Parquet file ({reason}); it is taken when it is");
                        items.push(Item::Rejected(Rejected { key: None, reason, place: Some(name), text: None }));
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&self, batch: &RecordBatch, file: &str, first: u64, skip: u64, items: &mut Vec<Item>) {
        let skipped = (skip.saturating_sub(first)).min(batch.num_rows() as u64) as usize;
        let place = |row: usize| format!("{file}, row {}", first + row as u64);
        let events = guarded(|| arrow::events(batch, &self.schema));
        let events = events.unwrap_or_else(|reason| Err(EventError::Malformed { key: None, reason }));
        for row in skipped..batch.num_rows() {
            items.push(match &events {
                Ok(events) => match &events[row] {
                    Ok(event) => Item::Event(event.clone()),
                    Err(error) => Item::Rejected(Rejected::new(error, place(row), None)),
                },
                Err(error) => Item::Rejected(Rejected::new(error, place(row), None)),
            });
        }
    }
}

impl EventSource for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn resume(&mut self, position: &Position) -> Result<(), SourceError> {
        if let Position::Files(files) = position {
            self.taken.clone_from(files);
        }
        Ok(())
    }

    fn next(&mut self, items: &mut Vec<Item>) -> Result<More, SourceError> {
        if self.open.is_none() {
            if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
                std::thread::sleep(LOOK / 4);
                return Ok(More::NotNow);
            }
            self.look(items)?;
            if self.open.is_none() {
                self.looked = Some(Instant::now());
                return Ok(More::NotNow);
            }
        }
        let Some(mut open) = self.open.take() else { return Ok(More::NotNow) };
        let next = guarded(|| open.reader.next());
        let reason = match next {
            Ok(Some(Ok(batch))) => {
                self.take(&batch, &open.name, open.rows, open.skip, items);
                open.rows += batch.num_rows() as u64;
                self.taken.insert(open.name.clone(), (open.rows.max(open.skip), open.bytes));
                self.open = Some(open);
                return Ok(More::Yes);
            }
            Ok(None) => None,
            Ok(Some(Err(error))) => Some(error.to_string()),
            Err(reason) => Some(reason),
        };
        if let Some(reason) = reason {
            let reason = format!("the rest of the file cannot be read: {reason}");
            let place = format!("{}, after row {}", open.name, open.rows);
            items.push(Item::Rejected(Rejected { key: None, reason, place: Some(place), text: None }));
        }
        // All of it: never again.
        self.taken.insert(open.name, (ALL, open.bytes));
        self.looked = None;
        Ok(More::Yes)
    }

    fn position(&self) -> Position {
        Position::Files(self.taken.clone())
    }
}
