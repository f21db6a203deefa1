//! Reading a log back after any end of its writer.

use super::storage::{Storage, Tape};
use super::{
    Damage, HEADER, JournalError, MAGIC, MAX_RECORD, RECORD_HEADER, Record, Recovered, Segment, Start, check, first_of,
    hasher, header, record_check, record_header, segment_name,
};
use std::collections::BTreeMap;
use std::io;

/// Bytes read at a time.
const READ: usize = 1 << 20;

/// What a log holds.
pub(super) struct Found {
    pub segments: BTreeMap<u64, Segment>,
    pub recovered: Recovered,
}

/// How far a segment can be read.
struct Good {
    last: u64,
    end: u64,
    /// Bytes of the file.
    bytes: u64,
    /// Why it ends before its file does.
    broken: Option<String>,
    /// Whether that is what a write leaves that did not come to its end.
    torn: bool,
}

/// Replays the records from `start` on, cuts off what cannot be read, and lists the segments that are left.
pub(super) fn recover(
    storage: &mut dyn Storage,
    identity: &[u8; 16],
    start: Start,
    mut replay: impl FnMut(Record<'_>) -> Result<(), String>,
) -> Result<Found, JournalError> {
    let names = storage.names().map_err(|source| io_error(storage, "list", "", source))?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| first_of(name)).collect();
    firsts.sort_unstable();
    // No record has the number 0.
    firsts.retain(|first| *first > 0);
    let applied = match start {
        Start::After(applied) => applied,
        Start::Oldest => firsts.first().map_or(0, |first| first - 1),
    };
    let mut segments = BTreeMap::new();
    let mut recovered = Recovered { last: applied, ..Recovered::default() };
    for (position, &first) in firsts.iter().enumerate() {
        let following = firsts.get(position + 1).copied();
        let name = segment_name(first);
        if let Some(next) = following.filter(|next| *next <= applied + 1) {
            // The snapshot has all of it.
            let bytes = open(storage, &name)?.len().map_err(|source| io_error(storage, "read", &name, source))?;
            segments.insert(first, Segment { first, last: next - 1, bytes });
            continue;
        }
        if first > recovered.last + 1 {
            let folder = storage.path("");
            return Err(JournalError::Missing { folder, first: recovered.last + 1, last: first - 1 });
        }
        let mut take = |record: Record<'_>| {
            if record.number <= applied {
                return Ok(());
            }
            recovered.records += 1;
            replay(record)
        };
        let good = read_segment(storage, &name, identity, first, following, &mut take)?;
        recovered.last = recovered.last.max(good.last);
        if good.last < first {
            // It goes, and no longer says where the one before it ends.
            shorten(storage, identity, &mut segments, first)?;
        }
        if let Some(reason) = good.broken {
            let gone = Gone { name: &name, good: good.end, bytes: good.bytes, reason, torn: good.torn };
            recovered.damage = cut(storage, gone, recovered.last + 1, &firsts[position + 1..])?;
            if good.last >= first {
                segments.insert(first, Segment { first, last: good.last, bytes: good.end });
            }
            break;
        }
        if good.last < first {
            // Its writer ended before its first record: the next segment may have the same name, and must be the only one of it.
            storage.remove(&name).map_err(|source| io_error(storage, "remove", &name, source))?;
            continue;
        }
        segments.insert(first, Segment { first, last: good.last, bytes: good.end });
    }
    Ok(Found { segments, recovered })
}

/// Gives the records of a segment to `take`; see [`super::JournalReader::scan`].
pub(super) fn scan(
    storage: &mut dyn Storage,
    identity: &[u8; 16],
    segment: Segment,
    mut take: impl FnMut(Record<'_>) -> Result<(), String>,
) -> Result<(), JournalError> {
    let (name, following) = (segment_name(segment.first), Some(segment.last + 1));
    let good = read_segment(storage, &name, identity, segment.first, following, &mut take)?;
    if good.last == segment.last {
        return Ok(());
    }
    let reason = good.broken.unwrap_or_else(|| "its segment ends before it".into());
    Err(JournalError::Unreadable { folder: storage.path(""), number: good.last + 1, reason })
}

/// Takes what was never acknowledged off the end of the last of `segments`: what follows record `next - 1` there. While the segment that begins with `next`
/// is there, it is passed over; without it, records that a recovery did not count would count at the next one.
fn shorten(
    storage: &mut dyn Storage,
    identity: &[u8; 16],
    segments: &mut BTreeMap<u64, Segment>,
    next: u64,
) -> Result<(), JournalError> {
    let Some(segment) = segments.last_entry().map(|entry| entry.into_mut()) else { return Ok(()) };
    let name = segment_name(segment.first);
    let good = read_segment(storage, &name, identity, segment.first, Some(next), &mut |_| Ok(()))?;
    // One that cannot be read so far has nothing after it that could be, either.
    if good.broken.is_none() && good.last + 1 == next && good.end < good.bytes {
        let mut tape = open(storage, &name)?;
        let done = tape.set_len(good.end).and_then(|()| tape.sync());
        done.map_err(|source| io_error(storage, "write to", &name, source))?;
        segment.bytes = good.end;
    }
    Ok(())
}

/// What is cut off: all of `name` after `good`.
struct Gone<'a> {
    name: &'a str,
    good: u64,
    bytes: u64,
    reason: String,
    torn: bool,
}

/// Cuts off the end of a segment and all `later` ones. Empty space (zeros, or no more than a header, at the end of the log) is no damage.
fn cut(storage: &mut dyn Storage, gone: Gone<'_>, record: u64, later: &[u64]) -> Result<Option<Damage>, JournalError> {
    let Gone { name, good, bytes, reason, torn } = gone;
    let mut kept = Vec::new();
    let mut lost = bytes - good;
    let mut tape = open(storage, name)?;
    let rest = read_rest(tape.as_ref(), good, bytes).map_err(|source| io_error(storage, "read", name, source))?;
    let write = |storage: &dyn Storage, source| io_error(storage, "write to", name, source);
    // A header alone, or less, never held a record.
    if bytes > HEADER as u64 && rest.iter().any(|byte| *byte != 0) {
        let aside = format!("{name}.from-{good}.cut");
        let mut copy = storage.create(&aside).map_err(|source| write(storage, source))?;
        copy.write_all_at(&rest, 0).and_then(|()| copy.sync()).map_err(|source| write(storage, source))?;
        kept.push(storage.path(&aside));
    }
    for first in later {
        let name = segment_name(*first);
        lost += open(storage, &name)?.len().unwrap_or_default();
        let aside = format!("{name}.cut");
        storage.rename(&name, &aside).map_err(|source| io_error(storage, "rename", &name, source))?;
        kept.push(storage.path(&aside));
    }
    // After the copies, so that a crash in between loses nothing.
    storage.sync_folder().map_err(|source| write(storage, source))?;
    let done = match good {
        0 => storage.remove(name),
        good => tape.set_len(good).and_then(|()| tape.sync()),
    };
    done.and_then(|()| storage.sync_folder()).map_err(|source| write(storage, source))?;
    let damage = Damage {
        file: storage.path(name),
        offset: good,
        record,
        bytes: lost,
        reason,
        kept,
        torn: torn && later.is_empty(),
    };
    Ok((!damage.kept.is_empty()).then_some(damage))
}

fn read_rest(tape: &dyn Tape, good: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut rest = vec![0; (bytes - good) as usize];
    tape.read_exact_at(&mut rest, good)?;
    Ok(rest)
}

/// Reads the records of a segment in order, up to the first of the `following` segment.
fn read_segment(
    storage: &mut dyn Storage,
    name: &str,
    identity: &[u8; 16],
    first: u64,
    following: Option<u64>,
    take: &mut dyn FnMut(Record<'_>) -> Result<(), String>,
) -> Result<Good, JournalError> {
    let tape = open(storage, name)?;
    let failed = |source| io_error(storage, "read", name, source);
    let bytes = tape.len().map_err(failed)?;
    let mut good = Good { last: first - 1, end: 0, bytes, broken: None, torn: false };
    let mut window = Window { tape: tape.as_ref(), bytes, start: 0, held: Vec::new() };
    let Some(head) = window.get(0, HEADER).map_err(failed)? else {
        good.broken = Some(format!("its header has {bytes} bytes of {HEADER}"));
        return Ok(good);
    };
    let whole = header(identity, first);
    let torn = |at: usize| head[..at] == whole[..at] && head[at..].iter().all(|byte| *byte == 0);
    if bytes == HEADER as u64 && (0..HEADER).any(torn) && *head != whole {
        good.broken = Some("its header was never completed".into());
        return Ok(good);
    }
    if &head[..8] != MAGIC {
        return Err(JournalError::Foreign {
            path: storage.path(name),
            reason: "it does not begin as a segment of this version does".into(),
        });
    }
    if &head[8..24] != identity {
        return Err(JournalError::Foreign { path: storage.path(name), reason: "it belongs to another log".into() });
    }
    if check(identity, &[&head[..32]]) != head[32..] {
        good.broken = Some("its header is damaged".into());
        return Ok(good);
    }
    if head[24..32] != first.to_le_bytes() {
        return Err(JournalError::Foreign { path: storage.path(name), reason: "it was renamed".into() });
    }
    good.end = HEADER as u64;
    while good.end < bytes {
        let number = good.last + 1;
        if following == Some(number) {
            // What follows was never acknowledged; the next segment has it.
            break;
        }
        let Some(head) = window.get(good.end, RECORD_HEADER).map_err(failed)? else {
            good.broken = Some(format!("record {number} is cut short"));
            good.torn = true;
            break;
        };
        let (length, expected) = record_header(head);
        if length == 0 || length > MAX_RECORD {
            good.broken = Some(format!("record {number} has an impossible length of {length} bytes"));
            break;
        }
        let begin = good.end + RECORD_HEADER as u64;
        if begin + length as u64 > bytes {
            let rest = read_rest(tape.as_ref(), begin, bytes).map_err(failed)?;
            match whole_within(identity, number, &rest, expected) {
                Some(own) => {
                    good.broken = Some(format!("record {number} has {own} bytes, and says {length}"));
                }
                None => {
                    good.broken = Some(format!("record {number} is cut short"));
                    good.torn = true;
                }
            }
            break;
        }
        let Some(payload) = window.get(begin, length).map_err(failed)? else { break };
        if record_check(identity, number, payload) != expected {
            good.broken = Some(format!("the checksum of record {number} does not match"));
            break;
        }
        take(Record { number, offset: good.end, payload }).map_err(|reason| JournalError::Refused {
            folder: storage.path(""),
            number,
            reason,
        })?;
        good.last = number;
        good.end += (RECORD_HEADER + length) as u64;
    }
    Ok(good)
}

/// How many bytes of `rest` are the record of this number and checksum, if some beginning of it is: then its length alone is damaged, and what follows it was acknowledged. A write that a kill has ended leaves none.
///
/// A checksum for each byte of `rest`, which is less than [`MAX_RECORD`] and mostly one commit: 0.1 to 0.2 s a MB.
fn whole_within(identity: &[u8; 16], number: u64, rest: &[u8], expected: [u8; 8]) -> Option<usize> {
    let mut so_far = hasher(identity);
    so_far.update(&number.to_le_bytes());
    (0..rest.len()).map(|at| at + 1).find(|length| {
        so_far.update(&rest[length - 1..*length]);
        so_far.finalize().as_bytes()[..8] == expected
    })
}

/// A file read forward through one buffer.
struct Window<'a> {
    tape: &'a dyn Tape,
    bytes: u64,
    start: u64,
    held: Vec<u8>,
}

impl Window<'_> {
    /// `length` bytes at `offset`; `None` where the file ends before. Offsets do not fall.
    fn get(&mut self, offset: u64, length: usize) -> io::Result<Option<&[u8]>> {
        if offset + length as u64 > self.bytes {
            return Ok(None);
        }
        let held_end = self.start + self.held.len() as u64;
        if offset < self.start || offset + length as u64 > held_end {
            let take = (self.bytes - offset).min(length.max(READ) as u64) as usize;
            self.held.resize(take, 0);
            self.tape.read_exact_at(&mut self.held, offset)?;
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(Some(&self.held[from..from + length]))
    }
}

fn open(storage: &mut dyn Storage, name: &str) -> Result<Box<dyn Tape>, JournalError> {
    storage.open(name).map_err(|source| io_error(storage, "read", name, source))
}

fn io_error(storage: &dyn Storage, action: &'static str, name: &str, source: io::Error) -> JournalError {
    JournalError::Io { action, path: storage.path(name), source }
}
