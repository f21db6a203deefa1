//! The log of a run, and the rows that it keeps.
//!
//! Learners that unlearn need every row that is there, in [`KeyedRows`]. Second-order learners keep no row that they have learned: [`Waiting`] has the rows whose label has not come, in memory and in
//! snapshots, and a log that begins at the older of two snapshots: disk is bounded by the dictionary and by what waits ([`Waiting::new`] has the limit). Keys that were learned are forgotten: that one
//! is used again cannot be told.

use crate::error::StageError;
use nystream_datasets::events::{Event, Op, StreamSchema};
use nystream_datasets::journal::{Damage, Journal, JournalOptions, Record, Start};
use nystream_datasets::rows::{Applied, KeyedRows, Refusal, Replayed, RowsError, StoredRow};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// First byte of a record of [`Waiting`].
const EVENT: u8 = 1;
const NOTE: u8 = 2;

/// One record of a log, for whoever replays it.
#[derive(Clone, Debug, PartialEq)]
pub enum Logged {
    /// What an event that was accepted did.
    Applied(Applied),
    /// A note of the runtime's.
    Note(Vec<u8>),
}

/// The log and the rows of a run.
pub trait Store: Send {
    /// The row with this key.
    ///
    /// # Errors
    /// [`RowsError`] where the store cannot be read.
    fn get(&mut self, key: &str) -> Result<Option<Arc<StoredRow>>, RowsError>;

    /// Applies an event and logs it.
    ///
    /// # Errors
    /// [`RowsError`]; the inner error is a change that the rows do not allow, which changes nothing.
    fn apply(&mut self, event: Event) -> Result<Result<Applied, Refusal>, RowsError>;

    /// Time and key of the row that leaves a window first; `None` for stores without one.
    ///
    /// # Errors
    /// [`RowsError`] where the store cannot be read.
    fn first(&mut self) -> Result<Option<(Option<i64>, String)>, RowsError> {
        Ok(None)
    }

    /// Takes away the row of `key`, which left a window, and logs that; `None` for stores without one.
    ///
    /// # Errors
    /// [`RowsError`].
    fn expire(&mut self, _key: &str) -> Result<Option<Applied>, RowsError> {
        Ok(None)
    }

    /// Gives every row that is there to `take`.
    ///
    /// # Errors
    /// [`StageError::Data`] where the store cannot be read, and whatever `take` says.
    fn for_each(&mut self, take: &mut dyn FnMut(StoredRow) -> Result<(), StageError>) -> Result<(), StageError>;

    /// Logs a note.
    ///
    /// # Errors
    /// [`RowsError`].
    fn note(&mut self, bytes: &[u8]) -> Result<u64, RowsError>;

    /// Makes all of it durable; the number of the last record.
    ///
    /// # Errors
    /// [`RowsError`], such as a full disk: nothing is lost, and the next commit tries again.
    fn commit(&mut self) -> Result<u64, RowsError>;

    /// Rows that are there.
    fn rows(&self) -> u64;

    /// Bytes of the log.
    fn log_bytes(&self) -> u64;

    /// Gives every record after `after` to `take`. Stores whose rows are those of the snapshot apply them meanwhile.
    ///
    /// # Errors
    /// [`StageError::Data`] where the log cannot be read, and whatever `take` says.
    fn replay(
        &mut self,
        after: u64,
        take: &mut dyn FnMut(u64, Logged) -> Result<(), StageError>,
    ) -> Result<(), StageError>;

    /// Frees what no restart from a durable snapshot needs; `oldest` of those that are kept.
    ///
    /// # Errors
    /// [`RowsError`]; what was not freed is freed next time.
    fn clean(&mut self, oldest: u64) -> Result<(), RowsError>;

    /// What is wrong with what is beside the log, in a sentence; nothing of stores that have nothing beside it.
    ///
    /// # Errors
    /// [`RowsError`] where it cannot be read.
    fn check(&mut self) -> Result<Option<String>, RowsError> {
        Ok(None)
    }

    /// The rows as a snapshot holds them, where the log alone does not.
    ///
    /// # Errors
    /// [`StageError`].
    fn stored(&self) -> Result<Vec<Vec<u8>>, StageError> {
        Ok(Vec::new())
    }
}

fn unreadable(error: impl std::fmt::Display) -> StageError {
    StageError::Data(error.to_string())
}

/// Rows that wait for their label, and a log.
pub struct Waiting {
    journal: Journal,
    rows: BTreeMap<String, Arc<StoredRow>>,
    limit: usize,
    targets: Vec<usize>,
    schema: StreamSchema,
    /// Entries since the last commit, each behind its length: one record, so that a torn log loses all of a commit or nothing, the events together with how far their source is read.
    group: Vec<u8>,
}

impl Waiting {
    /// Opens the log in `folder`; `rows` are those of the snapshot that holds everything up to record `after`, and `limit` how many may wait. The second value is what the log has lost to damage.
    ///
    /// # Errors
    /// A log that cannot be read or written.
    pub fn new(
        folder: &Path,
        identity: [u8; 16],
        schema: &StreamSchema,
        (after, rows): (u64, &[Vec<u8>]),
        limit: usize,
        options: JournalOptions,
    ) -> Result<(Self, Option<Damage>), StageError> {
        let (journal, recovered) =
            Journal::open(folder, identity, Start::After(after), options, |_| Ok(())).map_err(unreadable)?;
        let targets = schema.columns().iter().enumerate().filter(|(_, column)| column.target).map(|(i, _)| i).collect();
        let mut held = BTreeMap::new();
        for bytes in rows {
            let (arrival, event) =
                bytes.split_first_chunk::<8>().ok_or_else(|| unreadable("a stored row is cut short"))?;
            let event = Event::from_bytes(event).map_err(unreadable)?;
            held.insert(event.key.clone(), Arc::new(StoredRow { event, arrival: u64::from_le_bytes(*arrival) }));
        }
        Ok((
            Waiting { journal, rows: held, limit, targets, schema: schema.clone(), group: Vec::new() },
            recovered.damage,
        ))
    }

    /// Whether the rows allow a change.
    fn refusal(&self, event: &Event) -> Option<Refusal> {
        let waits = self.rows.contains_key(&event.key);
        match event.op {
            Op::Insert if waits => Some(Refusal::Twice),
            Op::Insert if self.rows.len() >= self.limit && !self.schema.has_target(&event.cells) => Some(Refusal::Full),
            Op::Update | Op::Delete | Op::Label if !waits => Some(Refusal::Learned),
            _ => None,
        }
    }

    /// Adds an entry to the group.
    fn enter(&mut self, kind: u8, bytes: &[u8]) {
        self.group.extend_from_slice(&(1 + bytes.len() as u32).to_le_bytes());
        self.group.push(kind);
        self.group.extend_from_slice(bytes);
    }

    fn change(&mut self, mut event: Event, number: u64) -> Applied {
        let removed = self.rows.remove(&event.key);
        if let (Op::Label, Some(row)) = (event.op, &removed) {
            let mut merged = Event { op: Op::Label, ..row.event.clone() };
            for place in &self.targets {
                merged.cells[*place] = event.cells[*place].clone();
            }
            merged.weight = event.weight.or(merged.weight);
            event = merged;
        }
        let arrival = removed.as_ref().map_or(number, |row| row.arrival);
        let added = (event.op != Op::Delete).then(|| Arc::new(StoredRow { event, arrival }));
        if let Some(row) = added.as_ref().filter(|row| !self.schema.has_target(&row.event.cells)) {
            self.rows.insert(row.event.key.clone(), Arc::clone(row));
        }
        Applied { number, removed, added, expired: false }
    }
}

impl Store for Waiting {
    fn get(&mut self, key: &str) -> Result<Option<Arc<StoredRow>>, RowsError> {
        Ok(self.rows.get(key).cloned())
    }

    fn apply(&mut self, event: Event) -> Result<Result<Applied, Refusal>, RowsError> {
        if let Some(refusal) = self.refusal(&event) {
            return Ok(Err(refusal));
        }
        let bytes = event.to_bytes()?;
        self.enter(EVENT, &bytes);
        // Which record brought a row is nobody's business here.
        Ok(Ok(self.change(event, 0)))
    }

    fn for_each(&mut self, take: &mut dyn FnMut(StoredRow) -> Result<(), StageError>) -> Result<(), StageError> {
        self.rows.values().try_for_each(|row| take(StoredRow::clone(row)))
    }

    fn note(&mut self, bytes: &[u8]) -> Result<u64, RowsError> {
        self.enter(NOTE, bytes);
        Ok(0)
    }

    fn commit(&mut self) -> Result<u64, RowsError> {
        if !self.group.is_empty() {
            self.journal.append(&self.group)?;
            self.group.clear();
            self.group.shrink_to(1 << 20);
        }
        Ok(self.journal.commit()?.last)
    }

    fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    fn log_bytes(&self) -> u64 {
        self.journal.bytes()
    }

    fn replay(
        &mut self,
        after: u64,
        take: &mut dyn FnMut(u64, Logged) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        let mut reader = self.journal.reader();
        for segment in self.journal.segments().into_iter().filter(|segment| segment.last > after) {
            let mut failed = None;
            let scanned = reader.scan(segment, |record: Record<'_>| {
                if record.number <= after {
                    return Ok(());
                }
                let mut rest = record.payload;
                while let Some((length, after)) = rest.split_first_chunk::<4>() {
                    let length = u32::from_le_bytes(*length) as usize;
                    let (entry, after) = after.split_at_checked(length).ok_or("an entry is cut short")?;
                    rest = after;
                    let logged = match entry.split_first() {
                        Some((&EVENT, bytes)) => {
                            let event = Event::from_bytes(bytes).map_err(|error| error.to_string())?;
                            if let Some(refusal) = self.refusal(&event) {
                                return Err(format!("'{}': {refusal}", event.key));
                            }
                            Logged::Applied(self.change(event, 0))
                        }
                        Some((&NOTE, bytes)) => Logged::Note(bytes.to_vec()),
                        _ => return Err("an entry of an unknown kind".into()),
                    };
                    take(record.number, logged).map_err(|error| {
                        let reason = error.to_string();
                        failed = Some(error);
                        reason
                    })?;
                }
                if rest.is_empty() { Ok(()) } else { Err("an entry is cut short".into()) }
            });
            if let Some(error) = failed {
                return Err(error);
            }
            scanned.map_err(unreadable)?;
        }
        Ok(())
    }

    fn clean(&mut self, oldest: u64) -> Result<(), RowsError> {
        self.journal.compact(oldest)?;
        Ok(())
    }

    fn stored(&self) -> Result<Vec<Vec<u8>>, StageError> {
        let bytes = |row: &Arc<StoredRow>| {
            let event = row.event.to_bytes().map_err(unreadable)?;
            Ok([&row.arrival.to_le_bytes()[..], &event[..]].concat())
        };
        self.rows.values().map(bytes).collect()
    }
}

/// Nothing but a number of rows: for looking at a snapshot whose log another process holds.
pub struct Closed(u64);

impl Closed {
    /// With so many rows.
    pub fn new(rows: u64) -> Self {
        Closed(rows)
    }

    fn refuse<T>() -> Result<T, RowsError> {
        Err(RowsError::Event(nystream_datasets::events::EventError::Damaged { reason: "the log is not open".into() }))
    }
}

impl Store for Closed {
    fn get(&mut self, _: &str) -> Result<Option<Arc<StoredRow>>, RowsError> {
        Self::refuse()
    }

    fn apply(&mut self, _: Event) -> Result<Result<Applied, Refusal>, RowsError> {
        Self::refuse()
    }

    fn for_each(&mut self, _: &mut dyn FnMut(StoredRow) -> Result<(), StageError>) -> Result<(), StageError> {
        Ok(Self::refuse()?)
    }

    fn note(&mut self, _: &[u8]) -> Result<u64, RowsError> {
        Self::refuse()
    }

    fn commit(&mut self) -> Result<u64, RowsError> {
        Self::refuse()
    }

    fn rows(&self) -> u64 {
        self.0
    }

    fn log_bytes(&self) -> u64 {
        0
    }

    fn replay(&mut self, _: u64, _: &mut dyn FnMut(u64, Logged) -> Result<(), StageError>) -> Result<(), StageError> {
        Ok(Self::refuse()?)
    }

    fn clean(&mut self, _: u64) -> Result<(), RowsError> {
        Self::refuse()
    }
}

/// Every row, by key.
pub struct Keyed(pub KeyedRows);

/// How many records the log may hold for each row that is there.
const RECORDS_A_ROW: f64 = 4.0;

impl Store for Keyed {
    fn get(&mut self, key: &str) -> Result<Option<Arc<StoredRow>>, RowsError> {
        self.0.get(key)
    }

    fn apply(&mut self, event: Event) -> Result<Result<Applied, Refusal>, RowsError> {
        self.0.apply(event)
    }

    fn first(&mut self) -> Result<Option<(Option<i64>, String)>, RowsError> {
        self.0.first()
    }

    fn expire(&mut self, key: &str) -> Result<Option<Applied>, RowsError> {
        self.0.expire(key).map(Some)
    }

    fn for_each(&mut self, take: &mut dyn FnMut(StoredRow) -> Result<(), StageError>) -> Result<(), StageError> {
        self.0.for_each(take)
    }

    fn note(&mut self, bytes: &[u8]) -> Result<u64, RowsError> {
        self.0.note(bytes)
    }

    fn commit(&mut self) -> Result<u64, RowsError> {
        self.0.commit()
    }

    fn rows(&self) -> u64 {
        self.0.rows()
    }

    fn log_bytes(&self) -> u64 {
        self.0.log_bytes()
    }

    fn replay(
        &mut self,
        after: u64,
        take: &mut dyn FnMut(u64, Logged) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        self.0.replay(after, |replayed| match replayed {
            Replayed::Change(applied) => take(applied.number, Logged::Applied(applied)),
            Replayed::Note { number, bytes } => take(number, Logged::Note(bytes)),
        })
    }

    fn clean(&mut self, oldest: u64) -> Result<(), RowsError> {
        self.0.clean(RECORDS_A_ROW, oldest)?;
        Ok(())
    }

    fn check(&mut self) -> Result<Option<String>, RowsError> {
        self.0.check()
    }
}

impl From<RowsError> for StageError {
    fn from(error: RowsError) -> Self {
        StageError::Data(error.to_string())
    }
}
