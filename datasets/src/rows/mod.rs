//! Rows by key, on disk: what a learner holds, in an order that survives everything.
//!
//! Problem: rows come, are corrected and go by their keys alone, nothing acknowledged may be lost, and disk must stay bounded by the rows that are left. The
//! write-ahead log ([`crate::journal`]) is the store itself: a row lies once, in the record that brought it, and an index (redb) tells where each key's row
//! lies.
//!
//! ```text
//!  folder/log/..       changes, each with the whole row that it brings and where the row it takes away lies
//!  folder/index.redb   key -> (record, offset); (time, arrival) -> key and back; the last record that it holds
//! ```
//!
//! Invariants
//! * Only changes that were accepted are logged: a replay applies each without a look at anything else, to the same rows.
//! * [`KeyedRows::apply`] says at once what a change takes away and brings; it is durable after [`KeyedRows::commit`], and only then in the index.
//! * The index may be older than the log, never newer; opening brings it up to date from the record that it holds last. Lost, it is made anew from the log.
//! * A row keeps its *arrival*, the number of the record that brought it, through labels and cleaning; a correction is another row. Windows go by it, or by the times of events
//!   ([`KeyedRows::first`]); what left a window is logged as such.
//! * The live rows in the order of their records are a function of what was applied and when it was cleaned; models do not depend on that order.
//! * Cleaning logs what lives in the oldest segment again, and removes that once no replay of a snapshot that is kept reads it ([`KeyedRows::clean`]): disk is bounded by a multiple of the live rows, and by what came since
//!   the oldest of these snapshots.
//!
//! Cost: a row is written once, and once more each time it is cleaned; a change of a key reads one record. Memory is the changes since the last commit, a bit a record
//! in the log, and the cache of the index.

mod change;
mod check;
mod clean;
mod index;
mod live;
mod needed;
#[cfg(test)]
mod tests;
mod window;

use crate::events::{Event, EventError, Op, StreamSchema};
use crate::journal::{Damage, Journal, JournalError, JournalOptions, JournalReader, Record, Segment, Start, Ticket};
use change::{Change, Entry, Old};
use index::{Edit, Index};
use live::Live;
use needed::Needed;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use window::Front;

/// Changes that opening gives to the index at a time.
const REPLAY_CHANGES: usize = 10_000;

/// Why rows cannot be kept.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RowsError {
    /// The log.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A stored event.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The index.
    #[error("the index '{}' cannot be used: {reason} (where it is damaged, remove it: it is made anew from the log)", path.display())]
    Index {
        /// Its file.
        path: PathBuf,
        /// The store's reason.
        reason: String,
    },
    /// Index and log do not fit together.
    #[error("the row '{key}' is not where the index has it: remove the file '{}', which is then made anew", path.display())]
    Astray {
        /// The key.
        key: String,
        /// The index's file.
        path: PathBuf,
    },
}

/// Why a change was not accepted. The stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// An insert of a key that is there.
    #[error("the key is there already: use update, or delete it first")]
    Twice,
    /// An update, delete or label of a key that is not there.
    #[error("there is no row with this key")]
    Unknown,
    /// A label for a row that has one.
    #[error("the row has a label already: use update")]
    Labelled,
    /// A change of a row that does not wait for its label, of a learner that keeps no other rows.
    #[error(
        "no row with this key waits for its label: there was none, or it was learned, which this learner cannot take back (--mode exact can)"
    )]
    Learned,
    /// A row without a label, where too many wait for theirs.
    #[error("too many rows wait for their labels (--max-waiting)")]
    Full,
}

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    /// Its key, time, weight and cells.
    pub event: Event,
    /// The number of the record that brought it, before labels.
    pub arrival: u64,
}

/// What a change does to the rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Its number in the log.
    pub number: u64,
    /// The row that is no longer there.
    pub removed: Option<Arc<StoredRow>>,
    /// The row that is there now.
    pub added: Option<Arc<StoredRow>>,
    /// Whether the row left a window; nobody asked for it.
    pub expired: bool,
}

/// What a log holds, for a learner that replays it.
#[derive(Clone, Debug, PartialEq)]
pub enum Replayed {
    /// A change of the rows.
    Change(Applied),
    /// A note of the learner's own ([`KeyedRows::note`]).
    Note {
        /// Its number in the log.
        number: u64,
        /// What it says.
        bytes: Vec<u8>,
    },
}

/// Where a row lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    number: u64,
    offset: u64,
}

/// A change that the index does not have yet.
struct Changed {
    ticket: Ticket,
    /// Where its record lies, once that is durable.
    place: Option<Place>,
    /// The row that is there now.
    row: Option<Arc<StoredRow>>,
}

/// How rows are kept.
#[derive(Clone, Copy, Debug)]
pub struct RowsOptions {
    /// How the log is kept.
    pub journal: JournalOptions,
    /// Memory of the index's cache.
    pub cache_bytes: usize,
    /// What [`KeyedRows::first`] goes by; `None` where nobody asks for it.
    pub order: Option<Order>,
}

impl Default for RowsOptions {
    /// A durable log, a cache of 64 MiB, no order.
    fn default() -> Self {
        RowsOptions { journal: JournalOptions::default(), cache_bytes: 64 << 20, order: None }
    }
}

/// Rows by key; see the module documentation.
pub struct KeyedRows {
    folder: PathBuf,
    journal: Journal,
    reader: JournalReader,
    index: Index,
    live: Live,
    /// What changes take away.
    needed: Needed,
    /// Keys whose change the index does not have yet.
    changed: BTreeMap<String, Changed>,
    /// What the index will learn: first what is durable in the log, then what is not.
    edits: Vec<Edit>,
    /// How many of `edits` are durable.
    durable_edits: usize,
    rows: u64,
    /// Whether the log had anything when it was opened.
    begun: bool,
    /// What rows leave by, and which do next.
    order: Option<Order>,
    front: Front,
    /// Places of targets among the cells.
    targets: Vec<usize>,
}

impl KeyedRows {
    /// Opens the rows in `folder`, which is made where it is not there. `identity` tells stores apart; the cells of rows are those of `schema`.
    ///
    /// The second value is what the log has lost to damage, if anything. Only one process may have a store open: the caller holds a lock.
    ///
    /// Cost: the whole log is read and its checksums verified.
    ///
    /// # Errors
    /// [`RowsError`] where log or index cannot be read or written.
    pub fn open(
        folder: &Path,
        identity: [u8; 16],
        schema: &StreamSchema,
        options: RowsOptions,
    ) -> Result<(Self, Option<Damage>), RowsError> {
        std::fs::create_dir_all(folder).map_err(|source| JournalError::Io {
            action: "use",
            path: folder.to_path_buf(),
            source,
        })?;
        let mut index = Index::open(&folder.join("index.redb"), identity, options.order, options.cache_bytes)?;
        let (mut journal, (mut live, mut needed), damage) =
            Self::read_log(folder, identity, options.journal, &mut index)?;
        if index.applied()? > journal.durable() {
            // The log has lost its end: the index is ahead of it and is made anew.
            index.clear()?;
            (journal, (live, needed), _) = Self::read_log(folder, identity, options.journal, &mut index)?;
        }
        let targets = schema.columns().iter().enumerate().filter(|(_, column)| column.target).map(|(i, _)| i);
        let rows = KeyedRows {
            folder: folder.join("log"),
            reader: journal.reader(),
            index,
            rows: live.count(),
            begun: journal.durable() > 0,
            journal,
            live,
            needed,
            changed: BTreeMap::new(),
            edits: Vec::new(),
            durable_edits: 0,
            order: options.order,
            front: Front::default(),
            targets: targets.collect(),
        };
        Ok((rows, damage))
    }

    /// Reads the log, marks what lives and what was taken away, and gives the index what it does not have, unless that is ahead of the log.
    fn read_log(
        folder: &Path,
        identity: [u8; 16],
        options: JournalOptions,
        index: &mut Index,
    ) -> Result<(Journal, Marks, Option<Damage>), RowsError> {
        let applied = index.applied()?;
        let (mut live, mut needed) = (Live::default(), Needed::default());
        let (mut edits, mut failed) = (Vec::new(), None);
        let mut take = |record: Record<'_>| -> Result<(), RowsError> {
            let Entry::Change(change) = Entry::read(record.payload)? else { return Ok(()) };
            let edit = Edit::of(&change, Place { number: record.number, offset: record.offset });
            if let Some(old) = change.takes() {
                needed.add(record.number, old);
            }
            edit.marks(|number, lives| live.set(number, lives));
            if record.number > applied {
                edits.push(edit);
                if edits.len() >= REPLAY_CHANGES {
                    index.apply(&edits, record.number)?;
                    edits.clear();
                }
            }
            Ok(())
        };
        let opened = Journal::open(&folder.join("log"), identity, Start::Oldest, options, |record| {
            take(record).map_err(|error| {
                let reason = error.to_string();
                failed = Some(error);
                reason
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let (journal, recovered) = opened?;
        if applied <= journal.durable() {
            index.apply(&edits, journal.durable())?;
        }
        Ok((journal, (live, needed), recovered.damage))
    }

    /// Rows that are there, those of the next commit included.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The last record that is durable.
    pub fn durable(&self) -> u64 {
        self.journal.durable()
    }

    /// Bytes of the log.
    pub fn log_bytes(&self) -> u64 {
        self.journal.bytes()
    }

    /// The row with this key.
    ///
    /// # Errors
    /// [`RowsError`] where the store cannot be read.
    pub fn get(&mut self, key: &str) -> Result<Option<Arc<StoredRow>>, RowsError> {
        Ok(self.find(key)?.map(|(row, _)| row))
    }

    /// The row with this key and where it lies, before or in the next commit.
    fn find(&mut self, key: &str) -> Result<Option<(Arc<StoredRow>, Whence)>, RowsError> {
        if let Some(changed) = self.changed.get(key) {
            let whence = changed.place.map_or(Whence::Fresh(changed.ticket), Whence::Durable);
            return Ok(changed.row.as_ref().map(|row| (Arc::clone(row), whence)));
        }
        let Some(place) = self.index.place(key)? else { return Ok(None) };
        let row = self.row_at(key, place)?;
        Ok(Some((Arc::new(row), Whence::Durable(place))))
    }

    fn row_at(&mut self, key: &str, place: Place) -> Result<StoredRow, RowsError> {
        let astray = || RowsError::Astray { key: key.to_owned(), path: self.index.path().to_path_buf() };
        let segment = self.journal.segment_of(place.number).ok_or_else(astray)?;
        let payload = self.reader.read(segment, place.number, place.offset)?;
        match Entry::read(payload)? {
            Entry::Change(change) if change.event.key == key && change.brings() => Ok(change.into_row(place.number)),
            _ => Err(astray()),
        }
    }

    /// Applies an event. It is durable after the next [`KeyedRows::commit`].
    ///
    /// A label brings the row that is there with the targets of the label.
    ///
    /// # Errors
    /// [`RowsError`] where the store cannot be read; the inner error is a change that the rows do not allow, which changes nothing.
    pub fn apply(&mut self, event: Event) -> Result<Result<Applied, Refusal>, RowsError> {
        let found = self.find(&event.key)?;
        let (event, found) = match (event.op, found) {
            (Op::Insert, Some(_)) => return Ok(Err(Refusal::Twice)),
            (Op::Update | Op::Delete | Op::Label, None) => return Ok(Err(Refusal::Unknown)),
            (Op::Label, Some((row, whence))) => {
                if self.targets.iter().any(|place| row.event.cells[*place] != crate::events::Cell::Null) {
                    return Ok(Err(Refusal::Labelled));
                }
                let mut merged = Event { op: Op::Label, ..row.event.clone() };
                for place in &self.targets {
                    merged.cells[*place] = event.cells[*place].clone();
                }
                // The row keeps what came with its features.
                merged.weight = event.weight.or(merged.weight);
                (merged, Some((row, whence)))
            }
            (_, found) => (event, found),
        };
        self.log(event, found, Why::Asked).map(Ok)
    }

    /// Logs a change of the row that was `found`.
    fn log(&mut self, event: Event, found: Option<(Arc<StoredRow>, Whence)>, why: Why) -> Result<Applied, RowsError> {
        let within = self.journal.pending() as u64;
        let old = found.as_ref().map(|(row, whence)| match *whence {
            Whence::Durable(place) => Old::At { number: place.number, offset: place.offset, time: row.event.time },
            Whence::Fresh(ticket) => {
                Old::Back { number: ticket.number, distance: within - ticket.within, time: row.event.time }
            }
        });
        // A correction is a row of its own.
        let stays = event.op != Op::Update || why == Why::Carried;
        let arrival = found.as_ref().filter(|_| stays).map(|(row, _)| row.arrival);
        let change = Change { event, old, arrival, carried: why == Why::Carried, expired: why == Why::Expired };
        let ticket = self.journal.append(&Entry::bytes_of_change(&change)?)?;
        self.edits.push(Edit::of(&change, Place { number: ticket.number, offset: ticket.within }));
        if let Some(old) = change.takes() {
            self.needed.add(ticket.number, old);
        }
        let key = change.event.key.clone();
        let added = change.brings().then(|| Arc::new(change.into_row(ticket.number)));
        self.rows = self.rows + u64::from(added.is_some()) - u64::from(found.is_some());
        let before = self.changed.insert(key, Changed { ticket, place: None, row: added.clone() });
        if let Some(order) = self.order {
            self.front.changed(order, before.and_then(|before| before.row).as_deref(), added.as_deref());
        }
        let expired = why == Why::Expired;
        Ok(Applied { number: ticket.number, removed: found.map(|(row, _)| row), added, expired })
    }

    /// Logs bytes of the learner's own, such as how far its source is read. They are replayed with the changes.
    ///
    /// # Errors
    /// [`RowsError::Journal`] for more than a record can hold.
    pub fn note(&mut self, bytes: &[u8]) -> Result<u64, RowsError> {
        Ok(self.journal.append(&Entry::bytes_of_note(bytes))?.number)
    }

    /// Makes all changes and notes durable, and returns the number of the last one.
    ///
    /// # Errors
    /// [`RowsError`], such as a full disk: nothing was acknowledged, nothing is lost, and the next commit tries again.
    pub fn commit(&mut self) -> Result<u64, RowsError> {
        let group = self.journal.commit()?;
        for edit in &mut self.edits[self.durable_edits..] {
            edit.shift(group.offset);
            edit.marks(|number, lives| self.live.set(number, lives));
        }
        for changed in self.changed.values_mut().filter(|changed| changed.place.is_none()) {
            let Ticket { number, within } = changed.ticket;
            changed.place = Some(Place { number, offset: group.offset + within });
        }
        self.durable_edits = self.edits.len();
        // Where this fails, the log has it all, and so has `changed`: the next commit tries again.
        self.index.apply(&self.edits, group.last)?;
        self.edits.clear();
        self.durable_edits = 0;
        self.changed.clear();
        self.front.clear();
        Ok(group.last)
    }

    /// Makes the index durable up to the last commit, so that opening need not replay it.
    ///
    /// # Errors
    /// [`RowsError::Index`].
    pub fn flush(&mut self) -> Result<u64, RowsError> {
        self.index.flush()?;
        self.index.applied()
    }

    /// Gives every change and note after record `after` to `take`, in order: what a learner whose own state holds `after` has missed.
    ///
    /// # Errors
    /// [`JournalError::Missing`] where cleaning has removed some of them, [`RowsError`] where the store cannot be read; whatever `take` says.
    pub fn replay<E: From<RowsError>>(
        &mut self,
        after: u64,
        mut take: impl FnMut(Replayed) -> Result<(), E>,
    ) -> Result<(), E> {
        let segments = self.journal.segments();
        if let Some(oldest) = segments.first().filter(|oldest| oldest.first > after + 1) {
            let (first, last) = (after + 1, oldest.first - 1);
            return Err(RowsError::from(JournalError::Missing { folder: self.folder.clone(), first, last }).into());
        }
        for segment in segments.into_iter().filter(|segment| segment.last > after) {
            let mut next = segment.first.max(after + 1);
            // In pieces, since the rows that records take away lie elsewhere in the log.
            while next <= segment.last {
                let until = (next + REPLAY_CHANGES as u64 - 1).min(segment.last);
                let mut entries = Vec::new();
                let piece = Segment { last: until, ..segment };
                self.reader.scan(piece, |record| collect(record, next, &mut entries)).map_err(RowsError::from)?;
                for (place, entry) in entries {
                    if let Some(replayed) = self.replayed(place, entry)? {
                        take(replayed)?;
                    }
                }
                next = until + 1;
            }
        }
        Ok(())
    }

    /// What a record did; nothing where it carried a row.
    fn replayed(&mut self, place: Place, entry: Entry) -> Result<Option<Replayed>, RowsError> {
        let number = place.number;
        let change = match entry {
            Entry::Note(bytes) => return Ok(Some(Replayed::Note { number, bytes })),
            Entry::Change(change) if change.carried => return Ok(None),
            Entry::Change(change) => change,
        };
        let removed = match change.old {
            None => None,
            Some(old) => Some(Arc::new(self.row_at(&change.event.key, old.place(place.offset))?)),
        };
        let expired = change.expired;
        let added = change.brings().then(|| Arc::new(change.into_row(number)));
        Ok(Some(Replayed::Change(Applied { number, removed, added, expired })))
    }

    /// Gives every durable row to `take`, in the order of their records.
    ///
    /// # Errors
    /// [`RowsError`] where the store cannot be read; whatever `take` says.
    pub fn for_each<E: From<RowsError>>(&mut self, mut take: impl FnMut(StoredRow) -> Result<(), E>) -> Result<(), E> {
        for segment in self.journal.segments() {
            let live = &self.live;
            let mut failed = None;
            let scanned = self.reader.scan(segment, |record| {
                if !live.get(record.number) {
                    return Ok(());
                }
                let row = match Entry::read(record.payload) {
                    Ok(Entry::Change(change)) => take(change.into_row(record.number)),
                    Ok(Entry::Note(_)) => Ok(()),
                    Err(error) => Err(RowsError::from(error).into()),
                };
                row.map_err(|error| {
                    failed.get_or_insert(error);
                    String::new()
                })
            });
            if let Some(error) = failed {
                return Err(error);
            }
            scanned.map_err(|error| E::from(error.into()))?;
        }
        Ok(())
    }

    /// The time and the key of the row that leaves a window first, by [`RowsOptions::order`], with the rows of the next commit; `None` where there is no row, or no order.
    ///
    /// # Errors
    /// [`RowsError`] where the store cannot be read.
    pub fn first(&mut self) -> Result<Option<(Option<i64>, String)>, RowsError> {
        let Some(order) = self.order else { return Ok(None) };
        let first = self.front.first(&self.index, |key| self.changed.contains_key(key))?;
        Ok(first.map(|(rank, key)| (order.time(rank), key)))
    }

    /// Takes away the row of `key` because it left a window. It is durable after the next [`KeyedRows::commit`].
    ///
    /// # Errors
    /// [`RowsError`] where the store cannot be read, or has no such row.
    pub fn expire(&mut self, key: &str) -> Result<Applied, RowsError> {
        let Some(found) = self.find(key)? else {
            return Err(RowsError::Astray { key: key.to_owned(), path: self.index.path().to_path_buf() });
        };
        let event = Event { op: Op::Delete, key: key.to_owned(), time: None, weight: None, cells: Vec::new() };
        self.log(event, Some(found), Why::Expired)
    }
}

/// What the log says of its records: which are rows that are there, and which are taken away.
type Marks = (Live, Needed);

/// Why a change is logged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// An event says so.
    Asked,
    /// Its segment is to go.
    Carried,
    /// It left a window.
    Expired,
}

/// What windows go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// When rows arrived.
    Arrival,
    /// The times that events state; rows without one come first.
    Time,
}

/// Where a row lies.
#[derive(Clone, Copy)]
enum Whence {
    Durable(Place),
    Fresh(Ticket),
}

fn collect(record: Record<'_>, from: u64, entries: &mut Vec<(Place, Entry)>) -> Result<(), String> {
    if record.number >= from {
        let entry = Entry::read(record.payload).map_err(|error| error.to_string())?;
        entries.push((Place { number: record.number, offset: record.offset }, entry));
    }
    Ok(())
}
