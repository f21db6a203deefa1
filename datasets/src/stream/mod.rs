//! Where events come from: lines, Arrow streams, folders, generators.
//!
//! The problem: give a learner events in an order that a restart can take up again, from sources that may be slow, endless, cut off or hostile, in bounded memory.
//!
//! * [`jsonl`]: lines of JSON from a file or standard input;
//! * [`ipc`]: Arrow IPC streams from a file, standard input or connections;
//! * [`folder`]: Parquet files that appear in a folder;
//! * [`made`]: synthetic rows, with drift.
//!
//! Invariants: a source gives what it has in one order; [`Position`] says how far it was read after each piece, and [`EventSource::resume`] goes on from there. What is no event is an item among
//! the others, with its key where it has one: a source never ends for bad content, but says what it was. No piece is larger than [`PIECE_EVENTS`] events or, by a frame, [`ipc::MAX_FRAME`] bytes.

pub mod first;
pub mod folder;
pub mod ipc;
pub mod jsonl;
pub mod made;
#[cfg(test)]
mod tests;

use crate::events::{Event, EventError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// Events of a piece at most, but for those of one Arrow batch.
pub const PIECE_EVENTS: usize = 1024;
/// Bytes of a line at most; longer ones are rejected.
pub const MAX_LINE: usize = 16 << 20;
/// Bytes of a rejected line that are kept.
pub const MAX_SHOWN: usize = 4096;

/// How far a source was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// A file of lines.
    Lines {
        /// Bytes read, whole lines.
        bytes: u64,
        /// Lines read.
        lines: u64,
        /// BLAKE3 of its first bytes, by which another file is told.
        head: [u8; 16],
        /// How many bytes these are.
        head_bytes: u64,
        /// BLAKE3 of the last bytes that were read, as many as of a head; states of before have none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tail: Option<[u8; 16]>,
    },
    /// A file of Arrow IPC.
    Frames {
        /// Rows read.
        rows: u64,
        /// Bytes of the frames that they were in.
        bytes: u64,
        /// BLAKE3 of the first bytes, and of the last that were read.
        ends: ([u8; 16], [u8; 16]),
    },
    /// Rows of a source that can make any of them again, or that begins anew each time.
    Rows(u64),
    /// Files of a folder by name, each with the rows taken of it and its bytes, in states of before.
    Files(BTreeMap<String, (u64, u64)>),
    /// Files of a folder by name.
    Folder(BTreeMap<String, Taken>),
    /// What is new since the position before, of a folder: how much that is does not depend on how many files there are.
    Moved {
        /// Files of which something was taken, or is known now.
        changed: BTreeMap<String, Taken>,
        /// Files that are no longer remembered.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        forgotten: Vec<String>,
    },
}

impl Position {
    /// Where a source is in the midst of a piece that began here and ended at `after`: behind `first`, the items of it that were taken, `gone` others of the same piece having been left out before them. A place, and how
    /// many items after it are taken, which is more than none where only the source could tell the place: of a file of lines.
    ///
    /// Items are no place where files come, go and are refused: a file of a folder, a frame or a made row is found again by the row.
    ///
    /// ```
    /// use nystream_datasets::stream::Position;
    /// assert_eq!(Position::Rows(100).within(&[], 3, &Position::Rows(200)), (Position::Rows(103), 0));
    /// ```
    pub fn within(&self, first: &[Item], gone: u64, after: &Position) -> (Position, u64) {
        let taken = gone + first.len() as u64;
        match (self, after) {
            (Position::Rows(rows), Position::Rows(_)) => (Position::Rows(rows + taken), 0),
            (Position::Frames { rows, .. }, Position::Frames { bytes, ends, .. }) => {
                (Position::Frames { rows: rows + taken, bytes: *bytes, ends: *ends }, 0)
            }
            (_, Position::Moved { changed: after, .. }) => {
                let mut changed = BTreeMap::new();
                for item in first {
                    let Item::Event(_, Place { number, of: Some(name), .. }) = item else { continue };
                    if let Some(taken) = after.get(&**name) {
                        changed.insert(name.to_string(), Taken { rows: number + 1, ..taken.clone() });
                    }
                }
                (Position::Moved { changed, forgotten: Vec::new() }, 0)
            }
            // By more of the beginning another file is told.
            (&Position::Lines { bytes, lines, tail, .. }, &Position::Lines { head, head_bytes, .. }) => {
                (Position::Lines { bytes, lines, head, head_bytes, tail }, taken)
            }
            _ => (self.clone(), taken),
        }
    }

    /// Whether this is another place than `before`, the last one that the source told.
    pub fn is_new(&self, before: &Position) -> bool {
        match self {
            Position::Moved { changed, forgotten } => !changed.is_empty() || !forgotten.is_empty(),
            whole => whole != before,
        }
    }

    /// The source is at `next` now: that, or what has moved since.
    ///
    /// ```
    /// use nystream_datasets::stream::{Position, Taken};
    /// let taken = |rows| [("a.parquet".to_owned(), Taken { rows, ..Taken::default() })].into();
    /// let mut position = Position::Folder(taken(3));
    /// position.advance(Position::Moved { changed: taken(5), forgotten: vec!["b.parquet".into()] });
    /// assert_eq!(position, Position::Folder(taken(5)));
    /// ```
    pub fn advance(&mut self, next: Position) {
        let Position::Moved { changed, forgotten } = next else {
            *self = next;
            return;
        };
        let mut files = match std::mem::replace(self, Position::Rows(0)) {
            Position::Folder(files) => files,
            Position::Files(files) => Taken::of_before(&files),
            Position::Moved { changed, .. } => changed,
            _ => BTreeMap::new(),
        };
        files.extend(changed);
        forgotten.iter().for_each(|name| drop(files.remove(name)));
        *self = Position::Folder(files);
    }
}

/// A file of a folder of which rows were taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// How many; [`u64::MAX`] stands for all of it.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
    /// BLAKE3 of its footer and of pieces of what it holds, in hexadecimal: by it and its name it is known again. States of before have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// That it is not there any more, and behind how many others it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<u64>,
    /// Digests of others that had its name later and were refused, the last ones: each is told once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
}

impl Taken {
    /// Those of states of before.
    fn of_before(files: &BTreeMap<String, (u64, u64)>) -> BTreeMap<String, Taken> {
        let taken = |(name, (rows, bytes)): (&String, &(u64, u64))| {
            (name.clone(), Taken { rows: *rows, bytes: *bytes, ..Taken::default() })
        };
        files.iter().map(taken).collect()
    }
}

/// Bytes by which the beginning of a file, and what was read of it last, are known again.
const KNOWN: u64 = 4096;

/// The hash of the bytes of a file from `from` to `to`, and how many there are.
fn fingerprint(path: &Path, from: u64, to: u64) -> io::Result<([u8; 16], u64)> {
    let (mut file, mut bytes) = (File::open(path)?, Vec::new());
    file.seek(SeekFrom::Start(from))?;
    file.take(to.saturating_sub(from)).read_to_end(&mut bytes)?;
    let hash = blake3::hash(&bytes);
    Ok((std::array::from_fn(|i| hash.as_bytes()[i]), bytes.len() as u64))
}

/// The hashes of the first bytes of a file of which `bytes` were read, and of the last of these.
fn ends(path: &Path, bytes: u64) -> io::Result<([u8; 16], [u8; 16])> {
    let first = fingerprint(path, 0, bytes.min(KNOWN))?.0;
    Ok((first, fingerprint(path, bytes.saturating_sub(KNOWN), bytes)?.0))
}

/// Something that a source holds, in the place where it holds it.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// An event, and where it stands.
    Event(Event, Place),
    /// No event.
    Rejected(Rejected),
}

/// Where an event stands in its source. Cheap, since nearly all events are taken: as text ([`std::fmt::Display`]) it is what a dead letter has.
///
/// ```
/// use nystream_datasets::stream::Place;
/// assert_eq!(Place::line(7).to_string(), "line 7");
/// assert_eq!(Place::row(7).of(&"a.parquet".into()).to_string(), "a.parquet, row 7");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    unit: &'static str,
    number: u64,
    of: Option<Arc<str>>,
    /// What it was read from, where that is text: bytes of a piece, which its events share.
    text: Option<(Arc<[u8]>, usize, usize)>,
}

impl Place {
    /// Of a line, from 1.
    pub fn line(number: u64) -> Self {
        Place { unit: "line", number, of: None, text: None }
    }

    /// Of a row, from 0.
    pub fn row(number: u64) -> Self {
        Place { unit: "row", number, of: None, text: None }
    }

    /// The same, of a file or a connection.
    #[must_use]
    pub fn of(self, part: &Arc<str>) -> Self {
        Place { of: Some(Arc::clone(part)), ..self }
    }

    /// Read from these bytes of a piece.
    #[must_use]
    pub fn read_from(self, piece: &Arc<[u8]>, bytes: std::ops::Range<usize>) -> Self {
        Place { text: Some((Arc::clone(piece), bytes.start, bytes.end)), ..self }
    }

    /// The text that it was read from, or the first [`MAX_SHOWN`] bytes of it.
    pub fn text(&self) -> Option<String> {
        let (piece, begin, end) = self.text.as_ref()?;
        Some(String::from_utf8_lossy(piece.get(*begin..*end)?).into_owned())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(part) = &self.of {
            write!(f, "{part}, ")?;
        }
        write!(f, "{} {}", self.unit, self.number)
    }
}

/// What was no event, or is refused later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Its key, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Why.
    pub reason: String,
    /// Where it stands: a line, a row of a file, a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Its text, where it is text; the first [`MAX_SHOWN`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Rejected {
    /// Of an error, with the text that it is about.
    pub fn new(error: &EventError, place: String, text: Option<&[u8]>) -> Self {
        let text = text.map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_SHOWN)]).into_owned());
        Rejected { key: error.key().map(str::to_owned), reason: error.to_string(), place: Some(place), text }
    }
}

/// What a source says when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// There may be more.
    Yes,
    /// Nothing now; ask again.
    NotNow,
    /// It has ended.
    End,
}

/// Why a source cannot go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The system refused to read or listen.
    #[error("cannot read {name}: {source}")]
    Io {
        /// The source as the user wrote it.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not the one that was read before.
    #[error(
        "'{}' is not the file that was read before ({reason}): put that back, give the new one another name, or begin with another --state",
        path.display()
    )]
    Another {
        /// The file.
        path: PathBuf,
        /// What shows it.
        reason: String,
    },
    /// A specification that is none.
    #[error("{0}")]
    Spec(String),
}

/// A source of events.
pub trait EventSource: Send {
    /// What positions are stored under: the source as the user wrote it.
    fn name(&self) -> &str;

    /// Goes on after `position`. Called before the first [`EventSource::next`], if at all.
    ///
    /// # Errors
    /// [`SourceError`] where that is not there any more.
    fn resume(&mut self, position: &Position) -> Result<(), SourceError>;

    /// Appends the next items to `items`: what is there without waiting, after the first, and at most [`PIECE_EVENTS`] or one batch. It waits a fraction of a second at most, but sources that
    /// cannot (standard input) wait for ever.
    ///
    /// # Errors
    /// [`SourceError`]: nothing more can be read.
    fn next(&mut self, items: &mut Vec<Item>) -> Result<More, SourceError>;

    /// Whether a restart is given again what comes after a position: not by standard input and sockets, of which each run takes all that comes.
    fn repeats(&self) -> bool {
        true
    }

    /// Something that whoever runs it should hear when it has ended, such as what was left unread.
    fn remark(&self) -> Option<String> {
        None
    }

    /// How far everything that was given reaches.
    fn position(&self) -> Position;

    /// The same after a piece, as it is logged: of sources whose position grows with what they have, what has moved since this was asked last ([`Position::advance`]).
    fn moved(&mut self) -> Position {
        self.position()
    }
}
