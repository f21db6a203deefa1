//! A write-ahead log: records in the order they were appended, durable once committed.
//!
//! Problem: a learner may tell its source that a row is taken only when no crash can lose it, and must say so thousands of times a second. Records are
//! appended to memory, and one [`Journal::commit`] makes all of them durable with one write and one `fdatasync` (group commit).
//!
//! ```text
//!  folder/00000000000000000001.log   header, record 1, record 2, ..
//!  folder/00000000000000070211.log   header, record 70211, ..
//! ```
//!
//! Invariants
//! * Record numbers count from 1 without gaps. A segment is named for its first record, and a record holds for its own number only: its checksum (64 bits of
//!   BLAKE3, keyed with the identity of the log) covers number and payload, so that bytes of another log, another place or another time are no record.
//! * What [`Journal::commit`] has acknowledged is on disk. What it has not may be there or not after a crash, always a prefix of what was appended.
//! * A commit that fails acknowledges nothing and forgets nothing: its records stay in memory and the next commit writes them to a *new* segment, since
//!   after a failed `fsync` nobody knows what the old one holds. Where two segments hold a record of one number, the later one counts, and none goes before
//!   the one in front of it has lost what it held beyond it.
//! * What cannot be read ends the log there: the rest is cut off, kept aside under another name unless it is empty space, and told ([`Damage`]).
//!
//! Cost: 12 bytes a record, one hash of each record (about 1 GB/s) when it is appended and when it is read; memory is what was appended since the last commit.

mod reader;
mod recover;
mod storage;
#[cfg(test)]
mod tests;

pub use reader::JournalReader;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use storage::{Disk, Storage, Tape};
use thiserror::Error;

/// First bytes of a segment: what it is, and the version of its format.
const MAGIC: &[u8; 8] = b"NYSLOG\0\x01";
/// Magic, identity, first record, checksum.
const HEADER: usize = 8 + 16 + 8 + 8;
/// Length and checksum of a record.
const RECORD_HEADER: usize = 4 + 8;
/// Largest payload of a record.
pub const MAX_RECORD: usize = 64 << 20;

/// When a commit counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// When the disk says that it has it (`fdatasync`): survives loss of power.
    Disk,
    /// When the system has it: survives the end of the process, not of the machine.
    System,
}

/// From where on a log is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From its oldest segment, whichever that is.
    Oldest,
    /// After this record, which a snapshot holds with all before it: segments of such records are not read, and where the log ends before it, new
    /// records go on from it.
    After(u64),
}

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// Bytes from which a segment is full. Whole segments are what [`Journal::compact`] removes.
    pub segment_bytes: u64,
    /// When a commit counts as durable.
    pub sync: SyncPolicy,
}

impl Default for JournalOptions {
    /// Segments of 64 MiB, durable on disk.
    fn default() -> Self {
        JournalOptions { segment_bytes: 64 << 20, sync: SyncPolicy::Disk }
    }
}

/// Why the log cannot go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The system refused to read, write or list.
    #[error("cannot {action} '{}': {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The segment or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A segment of another log, or not of a log at all.
    #[error("'{}' is not a segment of this log ({reason}): move it away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Records that a snapshot does not hold are gone, and later ones are there.
    #[error(
        "records {first} to {last} are missing in the log '{}': a segment was removed; put it back, or begin again from a copy of the whole folder",
        folder.display()
    )]
    Missing {
        /// The log.
        folder: PathBuf,
        /// First missing record.
        first: u64,
        /// Last missing record.
        last: u64,
    },
    /// A record that is empty or too large.
    #[error("a record of {bytes} bytes cannot be logged: 1 to {MAX_RECORD} are possible")]
    RecordSize {
        /// Its bytes.
        bytes: usize,
    },
    /// A record that was durable does not read back.
    #[error("record {number} of the log '{}' cannot be read: {reason}; the disk has damaged it", folder.display())]
    Unreadable {
        /// The log.
        folder: PathBuf,
        /// The record.
        number: u64,
        /// What is wrong.
        reason: String,
    },
    /// Whoever replays the log refused a record.
    #[error("record {number} of the log '{}' cannot be used: {reason}", folder.display())]
    Refused {
        /// The log.
        folder: PathBuf,
        /// The record.
        number: u64,
        /// Why.
        reason: String,
    },
}

/// A record where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number.
    pub number: u64,
    /// Where it begins in its segment, for [`JournalReader::read`].
    pub offset: u64,
    /// What was appended.
    pub payload: &'a [u8],
}

/// A record that is not durable yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its number.
    pub number: u64,
    /// Where it begins among the records of its commit.
    pub within: u64,
}

/// What a commit made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The last record.
    pub last: u64,
    /// Where its first record begins in its segment: record `ticket` begins at `offset + ticket.within`.
    pub offset: u64,
}

/// What was cut off because it could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub file: PathBuf,
    /// Where its last good record ends.
    pub offset: u64,
    /// The first record that is not there any more.
    pub record: u64,
    /// Bytes cut off, later segments included.
    pub bytes: u64,
    /// What is wrong with them.
    pub reason: String,
    /// Files that hold what was cut off.
    pub kept: Vec<PathBuf>,
    /// Whether it is the end of the log alone, cut short: what a write leaves that a kill has ended, of which nothing was acknowledged.
    pub torn: bool,
}

/// What [`Journal::open`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Records replayed.
    pub records: u64,
    /// The last record of the log; that of the snapshot where the log has none after it.
    pub last: u64,
    /// What could not be read.
    pub damage: Option<Damage>,
}

/// A segment that is complete, or the part of one that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its first record.
    pub first: u64,
    /// Its last record.
    pub last: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// The segment that is written to.
struct Active {
    tape: Box<dyn Tape>,
    first: u64,
    /// Bytes that are durable.
    end: u64,
    /// A write or sync failed: nothing more is written to it.
    suspect: bool,
}

impl Active {
    /// What of it is durable, up to record `durable`.
    fn segment(&self, durable: u64) -> Segment {
        Segment { first: self.first, last: durable, bytes: self.end }
    }
}

/// A write-ahead log; see the module documentation.
///
/// ```
/// use nystream_datasets::journal::{Journal, JournalOptions, Start};
/// let folder = tempfile::tempdir().unwrap();
/// let identity = [7; 16];
/// let (mut journal, _) = Journal::open(folder.path(), identity, Start::Oldest, JournalOptions::default(), |_| Ok(()))?;
/// journal.append(b"one")?;
/// let two = journal.append(b"two")?;
/// // Neither is durable before this.
/// let group = journal.commit()?;
/// assert_eq!((two.number, group.last), (2, 2));
/// let segment = journal.segment_of(2).unwrap();
/// assert_eq!(journal.reader().read(segment, 2, group.offset + two.within)?, b"two");
/// journal.append(b"three")?;
/// drop(journal);
///
/// // After a crash, from a snapshot that holds record 1.
/// let mut seen = Vec::new();
/// let (journal, recovered) = Journal::open(folder.path(), identity, Start::After(1), JournalOptions::default(), |record| {
///     seen.push((record.number, record.payload.to_vec()));
///     Ok(())
/// })?;
/// assert_eq!(seen, [(2, b"two".to_vec())]);
/// assert_eq!((recovered.last, recovered.damage, journal.durable()), (2, None, 2));
/// # Ok::<(), nystream_datasets::journal::JournalError>(())
/// ```
pub struct Journal {
    storage: Box<dyn Storage>,
    identity: [u8; 16],
    options: JournalOptions,
    /// By first record, without the active one.
    segments: BTreeMap<u64, Segment>,
    active: Option<Active>,
    /// Encoded records after `durable`.
    pending: Vec<u8>,
    next: u64,
    durable: u64,
}

impl Journal {
    /// Opens the log in `folder`, which is made where it is not there, and gives `replay` each record from `start` on, in order.
    ///
    /// `identity` tells logs apart.
    ///
    /// Only one process may have a log open: the caller holds a lock.
    ///
    /// # Errors
    /// [`JournalError::Foreign`] for files of another log, [`JournalError::Missing`] for a gap, [`JournalError::Refused`] with what `replay` says,
    /// [`JournalError::Io`]. Damage is no error: it is told in the second value.
    pub fn open(
        folder: &Path,
        identity: [u8; 16],
        start: Start,
        options: JournalOptions,
        replay: impl FnMut(Record<'_>) -> Result<(), String>,
    ) -> Result<(Self, Recovered), JournalError> {
        let storage = Disk::open(folder).map_err(|source| JournalError::Io {
            action: "use",
            path: folder.to_path_buf(),
            source,
        })?;
        Self::open_in(Box::new(storage), identity, start, options, replay)
    }

    fn open_in(
        mut storage: Box<dyn Storage>,
        identity: [u8; 16],
        start: Start,
        options: JournalOptions,
        replay: impl FnMut(Record<'_>) -> Result<(), String>,
    ) -> Result<(Self, Recovered), JournalError> {
        let found = recover::recover(storage.as_mut(), &identity, start, replay)?;
        let last = found.recovered.last;
        let journal = Journal {
            storage,
            identity,
            options,
            segments: found.segments,
            active: None,
            pending: Vec::new(),
            next: last + 1,
            durable: last,
        };
        Ok((journal, found.recovered))
    }

    /// The last record that is durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum::<u64>() + self.active.as_ref().map_or(0, |a| a.end)
    }

    /// The segments with durable records, oldest first.
    pub fn segments(&self) -> Vec<Segment> {
        let mut all: Vec<Segment> = self.segments.values().copied().collect();
        all.extend(self.active.as_ref().map(|active| active.segment(self.durable)).filter(|s| s.last >= s.first));
        all
    }

    /// Bytes of the records that the next commit writes.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Adds a record. It is durable after the next [`Journal::commit`].
    ///
    /// # Errors
    /// [`JournalError::RecordSize`]; nothing was added.
    pub fn append(&mut self, payload: &[u8]) -> Result<Ticket, JournalError> {
        if payload.is_empty() || payload.len() > MAX_RECORD {
            return Err(JournalError::RecordSize { bytes: payload.len() });
        }
        let ticket = Ticket { number: self.next, within: self.pending.len() as u64 };
        self.pending.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.pending.extend_from_slice(&record_check(&self.identity, ticket.number, payload));
        self.pending.extend_from_slice(payload);
        self.next += 1;
        Ok(ticket)
    }

    /// Makes all records durable, in one segment. Without any it says where the next would begin, which means nothing.
    ///
    /// # Errors
    /// [`JournalError::Io`], such as a full disk: nothing was acknowledged, nothing is lost, and the next commit tries again.
    pub fn commit(&mut self) -> Result<Group, JournalError> {
        let nothing = Group { last: self.durable, offset: self.active.as_ref().map_or(0, |active| active.end) };
        if self.pending.is_empty() {
            return Ok(nothing);
        }
        let fits = |active: &Active| !active.suspect && active.end < self.options.segment_bytes;
        if !self.active.as_ref().is_some_and(fits) {
            self.begin_segment()?;
        }
        let sync = self.options.sync == SyncPolicy::Disk;
        let path = self.storage.path(&segment_name(self.active.as_ref().map_or(self.next, |active| active.first)));
        let Some(active) = &mut self.active else { return Ok(nothing) };
        let written = active.tape.write_all_at(&self.pending, active.end);
        if let Err(source) = written.and_then(|()| if sync { active.tape.sync() } else { Ok(()) }) {
            active.suspect = true;
            // Frees what room was taken; where it fails, the records are those that the next segment will have.
            let _ = active.tape.set_len(active.end);
            return Err(JournalError::Io { action: "write to", path, source });
        }
        let offset = active.end;
        active.end += self.pending.len() as u64;
        self.pending.clear();
        // A burst is not kept.
        self.pending.shrink_to(1 << 20);
        self.durable = self.next - 1;
        Ok(Group { last: self.durable, offset })
    }

    /// What reads durable records while others are appended.
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(self.storage.again(), self.identity)
    }

    /// The segment of a durable record.
    pub fn segment_of(&self, number: u64) -> Option<Segment> {
        let active = self.active.as_ref().filter(|active| active.first <= number);
        let segment = match active {
            Some(active) => active.segment(self.durable),
            None => *self.segments.range(..=number).next_back()?.1,
        };
        (number <= segment.last).then_some(segment)
    }

    /// Closes the active segment and begins one whose first record is the next to become durable.
    fn begin_segment(&mut self) -> Result<(), JournalError> {
        let first = self.durable + 1;
        let name = segment_name(first);
        let path = self.storage.path(&name);
        let io = |source| JournalError::Io { action: "write to", path: path.clone(), source };
        // One that never got a record is written over: it has the same name.
        let mut tape = self.storage.create(&name).map_err(io)?;
        tape.write_all_at(&header(&self.identity, first), 0).map_err(io)?;
        if self.options.sync == SyncPolicy::Disk {
            tape.sync().and_then(|()| self.storage.sync_folder()).map_err(io)?;
        }
        if let Some(old) = self.active.take().filter(|old| old.first < first) {
            self.segments.insert(old.first, old.segment(self.durable));
        }
        self.active = Some(Active { tape, first, end: HEADER as u64, suspect: false });
        Ok(())
    }

    /// Removes the segments all of whose records are `through` or before, which a snapshot that is durable holds. Returns the bytes freed.
    ///
    /// # Errors
    /// [`JournalError::Io`]; what was not removed is removed next time.
    pub fn compact(&mut self, through: u64) -> Result<u64, JournalError> {
        let through = through.min(self.durable);
        let used_up = |active: &Active| active.end > HEADER as u64 && self.durable <= through;
        if let Some(old) = self.active.take_if(|active| used_up(active)) {
            self.segments.insert(old.first, old.segment(self.durable));
        }
        let mut freed = 0;
        while let Some((first, segment)) = self.segments.first_key_value().map(|(first, segment)| (*first, *segment)) {
            if segment.last > through {
                break;
            }
            let name = segment_name(first);
            let path = self.storage.path(&name);
            // In this order on the disk, too: without the next segment, what was never acknowledged at the end of one would count.
            let removed = self.storage.remove(&name).and_then(|()| match self.options.sync {
                SyncPolicy::Disk => self.storage.sync_folder(),
                SyncPolicy::System => Ok(()),
            });
            removed.map_err(|source| JournalError::Io { action: "remove", path, source })?;
            self.segments.remove(&first);
            freed += segment.bytes;
        }
        Ok(freed)
    }
}

/// The file of the segment whose first record is `first`.
fn segment_name(first: u64) -> String {
    format!("{first:020}.log")
}

/// The first record of the segment in the file `name`.
fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 20)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn header(identity: &[u8; 16], first: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..24].copy_from_slice(identity);
    bytes[24..32].copy_from_slice(&first.to_le_bytes());
    let check = check(identity, &[&bytes[..32]]);
    bytes[32..].copy_from_slice(&check);
    bytes
}

/// Length of the payload and its checksum.
fn record_header(bytes: &[u8]) -> (usize, [u8; 8]) {
    let length = u32::from_le_bytes(std::array::from_fn(|i| bytes[i]));
    (length as usize, std::array::from_fn(|i| bytes[4 + i]))
}

fn record_check(identity: &[u8; 16], number: u64, payload: &[u8]) -> [u8; 8] {
    check(identity, &[&number.to_le_bytes(), payload])
}

/// BLAKE3, keyed with the identity of the log.
fn hasher(identity: &[u8; 16]) -> blake3::Hasher {
    let mut key = [0; 32];
    key[..16].copy_from_slice(identity);
    blake3::Hasher::new_keyed(&key)
}

/// The first 64 bits of the keyed BLAKE3.
fn check(identity: &[u8; 16], parts: &[&[u8]]) -> [u8; 8] {
    let mut hasher = hasher(identity);
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    let hash = hasher.finalize();
    std::array::from_fn(|i| hash.as_bytes()[i])
}
