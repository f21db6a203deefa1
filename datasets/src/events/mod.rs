//! Rows that arrive one by one: inserted, corrected, labelled later, deleted.
//!
//! An [`Event`] is what a stream says about one key. Its row holds a [`Cell`] for each column of a [`StreamSchema`], which comes of an encoder: what the
//! model reads, in one order, whatever the source calls or omits besides. [`json`] reads events from JSON lines; [`StreamSchema::batches`] makes Arrow columns of
//! them that the encoder takes as it takes those of a file, so that a row has the same bits whichever way it came.
//!
//! Contract of JSON lines: `{"op": "insert"|"update"|"delete"|"label", "key": .., "time": .., "weight": .., "row": {column: value, ..}}`, in any order. `op` is
//! `insert` where it is not given; `key` is text or an integer; `time` is seconds since 1970 or ISO 8601; `weight` is 1 where it is not given. A delete needs the key alone.
//! Columns that the model does not read are ignored. One that is a feature must be there: it may be null, but a row without it is refused, for it would be a misspelt one
//! ([`StreamSchema::with_absent_null`] takes it for null); targets and weights may be absent. A field that is not one of these five is refused likewise.

pub mod arrow;
pub mod json;
pub mod lines;
mod schema;
#[cfg(test)]
mod tests;

pub use schema::{Reads, StreamColumn, StreamSchema, instant_text};

use rkyv::rancor;
use rkyv::util::AlignedVec;
use thiserror::Error;

/// Bytes that a key may have.
pub const MAX_KEY_BYTES: usize = 1 << 16;

/// What happens to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Op {
    /// A new row.
    Insert,
    /// Another row in the place of the one that is there.
    Update,
    /// The row is taken back.
    Delete,
    /// The targets of a row that came without.
    Label,
}

/// A value of one column.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Cell {
    /// None.
    Null,
    /// A number.
    Number(f64),
    /// True or false.
    Flag(bool),
    /// An instant, a time of day or a length of time in microseconds; a date in days.
    Ticks(i64),
    /// The same in nanoseconds, where the source has those: in seconds they round otherwise.
    Nanos(i64),
    /// Text.
    Text(String),
}

/// What a stream says about one key.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Event {
    /// What happens.
    pub op: Op,
    /// To which row.
    pub key: String,
    /// When it happened, in microseconds since 1970, where the stream says so.
    pub time: Option<i64>,
    /// Weight of the row, where the stream says so.
    pub weight: Option<f64>,
    /// The columns of the schema; empty for deletes.
    pub cells: Vec<Cell>,
}

/// Why a line or message is no event.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EventError {
    /// It does not parse, or not as an event.
    #[error("{reason}")]
    Malformed {
        /// The key, where it was read before.
        key: Option<String>,
        /// What is wrong, and where.
        reason: String,
    },
    /// A value of another type than the column's.
    #[error("column '{column}' is {found} but {expected} is needed")]
    Type {
        /// The key, where it was read before.
        key: Option<String>,
        /// The column.
        column: String,
        /// What is there.
        found: String,
        /// What the model reads there.
        expected: &'static str,
    },
    /// A row without a column that the model needs.
    #[error("the row has no column '{column}'{}; a value that is not known is null (--absent null takes absent columns for that)", hint(.near))]
    Absent {
        /// The key, where it was read before.
        key: Option<String>,
        /// The column.
        column: String,
        /// Names that the row has, near to it.
        near: Vec<String>,
    },
    /// A stored event that does not read back.
    #[error("a stored event is damaged: {reason}")]
    Damaged {
        /// What is wrong.
        reason: String,
    },
}

/// What a misspelt column may be.
fn hint(near: &[String]) -> String {
    match near.first() {
        Some(name) => format!(" (there is '{}')", crate::shown(name)),
        None => String::new(),
    }
}

impl EventError {
    /// [`EventError::Absent`] of a row that has the columns `names`.
    fn absent<'a>(key: Option<String>, column: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        let near = match crate::DataError::missing(column, "the model needs it", names) {
            crate::DataError::MissingColumn { suggestions, .. } => suggestions,
            _ => Vec::new(),
        };
        EventError::Absent { key, column: column.to_owned(), near }
    }

    /// The key of the event, where it could be read.
    pub fn key(&self) -> Option<&str> {
        match self {
            EventError::Malformed { key, .. } | EventError::Type { key, .. } | EventError::Absent { key, .. } => {
                key.as_deref()
            }
            EventError::Damaged { .. } => None,
        }
    }
}

impl Event {
    /// The event as bytes, for a log.
    ///
    /// ```
    /// use nystream_datasets::events::{Cell, Event, Op};
    /// let event = Event { op: Op::Insert, key: "a".into(), time: None, weight: None, cells: vec![Cell::Number(0.1), Cell::Null] };
    /// assert_eq!(Event::from_bytes(&event.to_bytes()?)?, event);
    /// # Ok::<(), nystream_datasets::events::EventError>(())
    /// ```
    ///
    /// # Errors
    /// [`EventError::Damaged`] for an event too large to archive (4 GiB).
    pub fn to_bytes(&self) -> Result<AlignedVec, EventError> {
        rkyv::to_bytes::<rancor::Error>(self).map_err(|error| EventError::Damaged { reason: error.to_string() })
    }

    /// The event that [`Event::to_bytes`] made these bytes of. They need no alignment and are not trusted.
    ///
    /// # Errors
    /// [`EventError::Damaged`] for any others that are no event.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EventError> {
        let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        rkyv::from_bytes::<Event, rancor::Error>(&aligned)
            .map_err(|error| EventError::Damaged { reason: error.to_string() })
    }
}
