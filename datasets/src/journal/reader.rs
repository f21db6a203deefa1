//! Reading records that are durable, by their place or in order.

use super::storage::{Storage, Tape};
use super::{
    JournalError, MAX_RECORD, RECORD_HEADER, Record, Segment, record_check, record_header, recover, segment_name,
};
use std::collections::BTreeMap;

/// Segments kept open.
const OPEN: usize = 64;

/// Reads the records of a log while it is written; see [`Journal::reader`](super::Journal::reader).
pub struct JournalReader {
    storage: Box<dyn Storage>,
    identity: [u8; 16],
    /// By first record.
    open: BTreeMap<u64, Box<dyn Tape>>,
    payload: Vec<u8>,
}

impl JournalReader {
    pub(super) fn new(storage: Box<dyn Storage>, identity: [u8; 16]) -> Self {
        JournalReader { storage, identity, open: BTreeMap::new(), payload: Vec::new() }
    }

    /// The payload of record `number` of `segment`, which begins at `offset`.
    ///
    /// # Errors
    /// [`JournalError::Unreadable`] where it is not there or does not read back as it was written, [`JournalError::Io`].
    pub fn read(&mut self, segment: Segment, number: u64, offset: u64) -> Result<&[u8], JournalError> {
        let JournalReader { storage, identity, open, payload } = self;
        let name = segment_name(segment.first);
        let folder = storage.path("");
        let path = storage.path(&name);
        let io = |source| JournalError::Io { action: "read", path: path.clone(), source };
        let unreadable =
            |reason: &str| JournalError::Unreadable { folder: folder.clone(), number, reason: reason.into() };
        if !open.contains_key(&segment.first) {
            // The oldest are read least: what is deleted or corrected is mostly new.
            if open.len() >= OPEN {
                open.pop_first();
            }
            open.insert(segment.first, storage.open(&name).map_err(io)?);
        }
        let Some(tape) = open.get(&segment.first) else { return Err(unreadable("its segment is gone")) };
        let inside = |end: u64| (segment.first..=segment.last).contains(&number) && end <= segment.bytes;
        let begin = offset.saturating_add(RECORD_HEADER as u64);
        if !inside(begin) {
            return Err(unreadable("it is beyond the end of its segment"));
        }
        let mut head = [0; RECORD_HEADER];
        tape.read_exact_at(&mut head, offset).map_err(io)?;
        let (length, expected) = record_header(&head);
        if length == 0 || length > MAX_RECORD || !inside(begin + length as u64) {
            return Err(unreadable("no record begins there"));
        }
        payload.resize(length, 0);
        tape.read_exact_at(payload, begin).map_err(io)?;
        match record_check(identity, number, payload) == expected {
            true => Ok(payload),
            false => Err(unreadable("its checksum does not match")),
        }
    }

    /// Gives each record of a segment to `take`, in order.
    ///
    /// # Errors
    /// [`JournalError::Unreadable`] at the first that does not read back, [`JournalError::Refused`] with what `take` says, [`JournalError::Io`].
    pub fn scan(
        &mut self,
        segment: Segment,
        take: impl FnMut(Record<'_>) -> Result<(), String>,
    ) -> Result<(), JournalError> {
        recover::scan(self.storage.as_mut(), &self.identity, segment, take)
    }

    /// Closes a segment that was removed.
    pub fn forget(&mut self, segment: Segment) {
        self.open.remove(&segment.first);
    }
}
