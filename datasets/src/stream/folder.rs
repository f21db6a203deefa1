//! Parquet files that appear in a folder.
//!
//! Files are taken in the order of their names, each once; those that appear meanwhile behind the ones that were there when the folder was listed last, so that a folder of n files is not listed n times. A file is taken
//! when its footer can be read, which a file that is still being written has not: it waits, and others go before it. Hidden files, and names that end in `.part`, `.tmp` or `.crdownload`, are none.
//!
//! *Which file it is* is decided by its name and by what it holds: its bytes, its footer and 16 pieces of the rest, by which data files are told apart elsewhere too ([`crate::Catalog`]). One that was taken, goes away and
//! comes back is not taken again, nor is one that is copied over with the same bytes; one that has taken the name of another that was taken, whatever its size and whenever that went, is a rejected item: names are not
//! used twice. The first stays the one of the name: when it comes back it is known again, and goes on where it was left. Of files that are gone the last `GONE` are known again. A file is looked at again only where the
//! system says that it changed (its size, time or number).
//!
//! *What cannot be read* is a rejected item: at the second look where no more writing would make it a Parquet file (its first or last bytes are others, its footer is damaged), after `PATIENCE` without a change where it
//! is cut short; it is taken when it is whole all the same. A run that ends before that says so ([`EventSource::remark`]). Of a file whose pages are damaged the rows before that count.
//!
//! *Position*: of each file the rows taken, its bytes and its digest; after a piece, of the files that it changed ([`Position::Moved`]).

use super::{EventSource, Item, More, PIECE_EVENTS, Place, Position, Rejected, SourceError, Taken};
use crate::DataError;
use crate::catalog::sampled;
use crate::events::{EventError, StreamSchema, arrow};
use crate::footer::read_footer;
use crate::ranged::RangeFile;
use crate::scan::guarded;
use arrow_array::RecordBatch;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Time between two looks at the folder.
const LOOK: Duration = Duration::from_millis(200);
/// How long a file may be less than whole before that is told.
const PATIENCE: Duration = Duration::from_secs(3);
/// Files that are gone and known again when they come back.
const GONE: usize = 1024;
/// Refused files of one name that are known again.
const OTHERS: usize = 16;

/// Stands for the rows of a file that was taken whole.
const ALL: u64 = u64::MAX;

/// What the system says of a file: as long as it is this, what the file holds is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    changed: Option<SystemTime>,
    number: u64,
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        #[cfg(unix)]
        let number = std::os::unix::fs::MetadataExt::ino(found);
        #[cfg(not(unix))]
        let number = 0;
        Stamp { bytes: found.len(), changed: found.modified().ok(), number }
    }
}

/// A file that is not whole.
struct Partial {
    stamp: Stamp,
    since: Instant,
    told: bool,
    reason: String,
}

/// A source of files.
pub struct Folder {
    name: String,
    folder: PathBuf,
    schema: StreamSchema,
    /// What was taken, by name.
    taken: BTreeMap<String, Taken>,
    /// Names whose entry there is another since [`EventSource::moved`] was asked.
    touched: BTreeSet<String>,
    /// Names of the last listing that were not looked at.
    waiting: VecDeque<String>,
    open: Option<Open>,
    /// Files that are what was taken, as of this.
    known: BTreeMap<String, Stamp>,
    partial: BTreeMap<String, Partial>,
    looked: Option<Instant>,
}

struct Open {
    name: String,
    reader: ParquetRecordBatchReader,
    /// Rows to pass over: taken before a restart.
    skip: u64,
    rows: u64,
    /// Rows that it has.
    all: u64,
}

/// Why a file cannot be taken.
struct Unreadable {
    reason: String,
    /// Whether it may be one that is being written.
    cut: bool,
}

/// What a file holds, in a digest.
fn digest(path: &Path) -> Result<String, Unreadable> {
    let read = || -> Result<String, DataError> {
        let file = RangeFile::local(path, Default::default())?;
        let footer = read_footer(path, &file)?.digest;
        let hash = blake3::hash(&[&footer[..], sampled(path, &file)?.as_bytes()].concat());
        Ok(hash.to_hex()[..32].to_owned())
    };
    read().map_err(|error| Unreadable {
        cut: matches!(error, DataError::Truncated { .. } | DataError::EmptyFile { .. }),
        reason: error.to_string(),
    })
}

/// The rows of a file, and how many there are.
fn reader(path: &Path) -> Result<(ParquetRecordBatchReader, u64), Unreadable> {
    let read = || {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let builder = guarded(|| ParquetRecordBatchReaderBuilder::try_new(file))?.map_err(|error| error.to_string())?;
        // By the row groups, which are what is read.
        let rows = builder.metadata().row_groups().iter().map(|group| group.num_rows().max(0)).sum::<i64>();
        let reader = builder.with_batch_size(PIECE_EVENTS).build().map_err(|error| error.to_string())?;
        Ok((reader, u64::try_from(rows).unwrap_or(0)))
    };
    read().map_err(|reason| Unreadable { reason, cut: false })
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
            touched: BTreeSet::new(),
            waiting: VecDeque::new(),
            open: None,
            known: BTreeMap::new(),
            partial: BTreeMap::new(),
            looked: None,
        };
        source.names()?;
        Ok(source)
    }

    /// The files that may be taken, by name.
    fn names(&self) -> Result<BTreeMap<String, Stamp>, SourceError> {
        let io = |source| SourceError::Io { name: self.name.clone(), source };
        let mut names = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder).map_err(io)? {
            let Ok(name) = entry.map_err(io)?.file_name().into_string() else { continue };
            let unfinished =
                name.starts_with('.') || [".part", ".tmp", ".crdownload"].iter().any(|end| name.ends_with(end));
            // One that goes away meanwhile is none.
            let Ok(found) = std::fs::metadata(self.folder.join(&name)) else { continue };
            if found.is_file() && !unfinished && name.ends_with(".parquet") {
                names.insert(name, Stamp::of(&found));
            }
        }
        Ok(names)
    }

    /// Lists the folder: what there is to look at, and what is gone.
    fn list(&mut self) -> Result<(), SourceError> {
        let names = self.names()?;
        self.mark_gone(&names);
        self.known.retain(|name, _| names.contains_key(name));
        self.partial.retain(|name, _| names.contains_key(name));
        let known = &self.known;
        self.waiting
            .extend(names.into_iter().filter(|(name, stamp)| known.get(name) != Some(stamp)).map(|(name, _)| name));
        Ok(())
    }

    /// Opens the next file that is whole.
    fn look(&mut self, items: &mut Vec<Item>) -> Result<(), SourceError> {
        if self.waiting.is_empty() {
            self.list()?;
        }
        while let Some(name) = self.waiting.pop_front() {
            let path = self.folder.join(&name);
            // What it is now; one that went away since is none.
            let Ok(stamp) = std::fs::metadata(&path).map(|found| Stamp::of(&found)) else { continue };
            if self.known.get(&name) == Some(&stamp) {
                continue;
            }
            let before = self.taken.get(&name).cloned().filter(|taken| taken.rows > 0);
            let found = digest(&path).and_then(|digest| {
                let same = before.as_ref().is_none_or(|taken| {
                    taken.bytes == stamp.bytes && taken.digest.as_ref().is_none_or(|own| *own == digest)
                });
                let skip = before.as_ref().map_or(0, |taken| taken.rows);
                // What was taken is not read again.
                let rest = if same && skip < ALL { Some(reader(&path)?) } else { None };
                Ok((digest, same, skip, rest))
            });
            let (digest, same, skip, rest) = match found {
                Ok(found) => found,
                Err(unreadable) => {
                    items.extend(self.waits(name, stamp, unreadable));
                    continue;
                }
            };
            self.partial.remove(&name);
            self.known.insert(name.clone(), stamp);
            let own = match before {
                // The first of this name stays what it is known as.
                Some(mut own) if !same => {
                    if own.others.contains(&digest) {
                        continue;
                    }
                    let reason = format!(
                        "the file is another than the one of {} bytes that was taken by this name: it is not taken; give it another name",
                        own.bytes
                    );
                    items.push(Item::Rejected(Rejected { key: None, reason, place: Some(name.clone()), text: None }));
                    let most = own.others.len().saturating_sub(OTHERS - 1);
                    own.others.drain(..most);
                    own.others.push(digest);
                    own
                }
                own => Taken {
                    rows: skip,
                    bytes: stamp.bytes,
                    digest: Some(digest),
                    gone: None,
                    others: own.map_or_else(Vec::new, |own| own.others),
                },
            };
            if self.taken.get(&name) != Some(&own) {
                self.touched.insert(name.clone());
                self.taken.insert(name.clone(), own);
            }
            if let Some((reader, all)) = rest {
                self.open = Some(Open { name, reader, skip, rows: 0, all });
                return Ok(());
            }
        }
        Ok(())
    }

    /// Remembers which of the files that were taken are gone, up to so many; an empty folder may be one that is not mounted.
    fn mark_gone(&mut self, names: &BTreeMap<String, Stamp>) {
        if names.is_empty() {
            return;
        }
        let mut next = self.taken.values().filter_map(|taken| taken.gone).max().map_or(0, |last| last + 1);
        for (name, taken) in &mut self.taken {
            match (names.contains_key(name), taken.gone) {
                (true, Some(_)) => taken.gone = None,
                (false, None) => {
                    taken.gone = Some(next);
                    next += 1;
                }
                _ => continue,
            }
            self.touched.insert(name.clone());
        }
        let mut gone: Vec<u64> = self.taken.values().filter_map(|taken| taken.gone).collect();
        if gone.len() > GONE {
            gone.sort_unstable();
            let oldest = gone[gone.len() - GONE];
            let touched = &mut self.touched;
            self.taken.retain(|name, taken| {
                let stays = taken.gone.is_none_or(|gone| gone >= oldest);
                if !stays {
                    touched.insert(name.clone());
                }
                stays
            });
        }
    }

    /// A file that is not whole waits; what is to be told of it by now.
    fn waits(&mut self, name: String, stamp: Stamp, Unreadable { reason, cut }: Unreadable) -> Option<Item> {
        let now = Instant::now();
        let seen = self.partial.entry(name.clone()).or_insert_with(|| Partial {
            stamp,
            since: now,
            told: false,
            reason: String::new(),
        });
        if seen.stamp != stamp {
            *seen = Partial { stamp, since: now, told: false, reason: String::new() };
        }
        seen.reason.clone_from(&reason);
        let patience = if cut { PATIENCE } else { LOOK };
        if seen.told || seen.since.elapsed() < patience {
            return None;
        }
        seen.told = true;
        let reason = format!("the file is not whole, or no Parquet file ({reason}); it is taken when it is");
        Some(Item::Rejected(Rejected { key: None, reason, place: Some(name), text: None }))
    }

    /// So many rows of a file are taken.
    fn took(&mut self, name: &str, rows: u64) {
        if let Some(taken) = self.taken.get_mut(name) {
            taken.rows = rows;
            self.touched.insert(name.to_owned());
        }
    }

    fn take(&self, batch: &RecordBatch, file: &str, first: u64, skip: u64, items: &mut Vec<Item>) {
        let skipped = (skip.saturating_sub(first)).min(batch.num_rows() as u64) as usize;
        let part: Arc<str> = file.into();
        let place = |row: usize| Place::row(first + row as u64).of(&part);
        let events = guarded(|| arrow::events(batch, &self.schema));
        let events = events.unwrap_or_else(|reason| Err(EventError::Malformed { key: None, reason }));
        for row in skipped..batch.num_rows() {
            items.push(match &events {
                Ok(events) => match &events[row] {
                    Ok(event) => Item::Event(event.clone(), place(row)),
                    Err(error) => Item::Rejected(Rejected::new(error, place(row).to_string(), None)),
                },
                Err(error) => Item::Rejected(Rejected::new(error, place(row).to_string(), None)),
            });
        }
    }
}

impl EventSource for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn resume(&mut self, position: &Position) -> Result<(), SourceError> {
        match position {
            Position::Folder(files) => self.taken.clone_from(files),
            Position::Files(files) => self.taken = Taken::of_before(files),
            _ => {}
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
                if open.rows < open.all {
                    self.took(&open.name, open.rows.max(open.skip));
                    self.open = Some(open);
                    return Ok(More::Yes);
                }
                // That was the last: its end is no piece of its own.
                None
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
        self.took(&open.name, ALL);
        self.looked = None;
        Ok(More::Yes)
    }

    fn remark(&self) -> Option<String> {
        let untold = self.partial.iter().filter(|(_, partial)| !partial.told);
        let all: Vec<String> = untold.map(|(name, partial)| format!("{name} ({})", partial.reason)).collect();
        (!all.is_empty()).then(|| format!("{}: not taken, since not whole yet: {}", self.name, all.join(", ")))
    }

    fn position(&self) -> Position {
        Position::Folder(self.taken.clone())
    }

    fn moved(&mut self) -> Position {
        let (mut changed, mut forgotten) = (BTreeMap::new(), Vec::new());
        for name in std::mem::take(&mut self.touched) {
            match self.taken.get(&name) {
                Some(taken) => drop(changed.insert(name, taken.clone())),
                None => forgotten.push(name),
            }
        }
        Position::Moved { changed, forgotten }
    }
}
