//! What a record of the log says.

use super::{Place, StoredRow};
use crate::events::{Event, EventError, Op};
use rkyv::rancor;
use rkyv::util::AlignedVec;

/// First byte of a record: what follows.
const CHANGE: u8 = 1;
const NOTE: u8 = 2;
/// A delete because the row left a window.
const EXPIRED: u8 = 3;

/// Where the row lies that a change takes away.
#[derive(Clone, Copy, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) enum Old {
    /// Anywhere in the log.
    At { number: u64, offset: u64, time: Option<i64> },
    /// So many bytes before the change itself: both came with one commit, whose place was not known.
    Back { number: u64, distance: u64, time: Option<i64> },
}

impl Old {
    /// Its number.
    pub(super) fn number(self) -> u64 {
        match self {
            Old::At { number, .. } | Old::Back { number, .. } => number,
        }
    }

    /// Its place, where the change lies at `offset`.
    pub(super) fn place(self, offset: u64) -> Place {
        match self {
            Old::At { number, offset, .. } => Place { number, offset },
            Old::Back { number, distance, .. } => Place { number, offset: offset.saturating_sub(distance) },
        }
    }
}

/// A change of one key. Its event has the whole row that is there afterwards.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) struct Change {
    pub event: Event,
    pub old: Option<Old>,
    /// The arrival of the key, where this is not it.
    pub arrival: Option<u64>,
    /// The same row again, so that an old segment can go.
    pub carried: bool,
    /// The row left a window: said by the first byte of the record.
    #[rkyv(with = rkyv::with::Skip)]
    pub expired: bool,
}

impl Change {
    /// Whether a row is there afterwards.
    pub(super) fn brings(&self) -> bool {
        self.event.op != Op::Delete
    }

    /// The record of the row that a replay of it reads; it passes over those that carry rows.
    pub(super) fn takes(&self) -> Option<u64> {
        self.old.filter(|_| !self.carried).map(Old::number)
    }

    /// The row, of a change that is record `number`.
    pub(super) fn into_row(self, number: u64) -> StoredRow {
        StoredRow { arrival: self.arrival.unwrap_or(number), event: self.event }
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry {
    Change(Change),
    Note(Vec<u8>),
}

impl Entry {
    pub(super) fn bytes_of_change(change: &Change) -> Result<Vec<u8>, EventError> {
        let damaged = |error: rancor::Error| EventError::Damaged { reason: error.to_string() };
        let archive = rkyv::to_bytes::<rancor::Error>(change).map_err(damaged)?;
        let mut bytes = Vec::with_capacity(1 + archive.len());
        bytes.push(if change.expired { EXPIRED } else { CHANGE });
        bytes.extend_from_slice(&archive);
        Ok(bytes)
    }

    pub(super) fn bytes_of_note(note: &[u8]) -> Vec<u8> {
        let mut bytes = vec![NOTE];
        bytes.extend_from_slice(note);
        bytes
    }

    /// Reads a record; its bytes are not trusted.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, EventError> {
        let damaged = |reason: String| EventError::Damaged { reason };
        match bytes.split_first() {
            Some((&NOTE, note)) => Ok(Entry::Note(note.to_vec())),
            Some((&kind @ (CHANGE | EXPIRED), archive)) => {
                let mut aligned = AlignedVec::<16>::with_capacity(archive.len());
                aligned.extend_from_slice(archive);
                let change = rkyv::from_bytes::<Change, rancor::Error>(&aligned);
                let change = change.map_err(|error| damaged(error.to_string()))?;
                Ok(Entry::Change(Change { expired: kind == EXPIRED, ..change }))
            }
            Some((kind, _)) => Err(damaged(format!("a record of the unknown kind {kind}"))),
            None => Err(damaged("an empty record".into())),
        }
    }
}
