//! Parts: what scans have of a pass that is under way, and how a pass of a later attempt takes them over.

use super::{GENERATIONS, Keeper};
use crate::engine::bytes::Writer;
use crate::engine::exchange::{Audience, Gather, Outcome, Outgoing, pass};
use crate::engine::feed::Feed;
use crate::engine::session::{Process, Session};
use crate::error::StageError;
use nystream_datasets::Catalog;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// A digest of what goes into a pass, for [`Parts`]; empty without checkpoints.
pub fn digest(session: &Session<'_>, parts: &[&[u8]]) -> String {
    if session.process.checkpoints().is_none() {
        return String::new();
    }
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// The bytes of floats.
pub fn float_bytes(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// What a scan has of a pass that is under way: the blocks that are done, by their global numbers, and how they are stored.
pub struct Parts {
    keeper: Arc<dyn Keeper>,
    group: String,
    member: String,
    since: Instant,
    done: Vec<Range<u64>>,
}

impl Parts {
    /// Blocks `range` are done.
    pub fn done(&mut self, range: Range<u64>) {
        join(&mut self.done, range);
    }

    /// Whether the part is to be written, in about `bytes`.
    pub fn due(&self, bytes: u64) -> bool {
        self.keeper.due((&self.group, &self.member), self.since, bytes)
    }

    /// Whether it is worth its write once the pass is over.
    pub fn worth(&self, bytes: u64) -> bool {
        self.keeper.worth(bytes, self.since.elapsed())
    }

    /// Writes it: `count` frames hold what the done blocks add up to.
    pub fn save(&self, count: u32, frames: &mut dyn Iterator<Item = Outgoing>) -> bool {
        let mut out = Writer::default();
        self.done.iter().for_each(|range| {
            out.u64(range.start);
            out.u64(range.end);
        });
        let mut all = std::iter::once(Outgoing { key: 0, bytes: out.0 }).chain(frames);
        self.keeper.save((&self.group, &self.member), GENERATIONS, count + 1, &mut all)
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.keeper.scans(false);
    }
}

/// A pass with parts as it begins.
#[derive(Default)]
pub struct Begun {
    /// The global blocks that this worker is to read, where they are not its own ones.
    pub blocks: Option<Vec<Range<u64>>>,
    /// Where it stores what it has, with checkpoints; with one part a process on its first worker alone.
    pub parts: Option<Parts>,
    /// Name of its parts, for [`over`](super::over).
    pub group: String,
}

impl Begun {
    /// The rows that this worker is to read instead of those of `feed`.
    pub fn feed(&self, feed: Feed) -> Feed {
        match &self.blocks {
            Some(blocks) => feed.restricted(blocks),
            None => feed,
        }
    }
}

/// Begins the pass `name` over the blocks of `catalog`, whose inputs have this [`digest`]: takes over the parts of earlier attempts, each by one worker (with `one_part`, by the first of a process), which
/// is given its frames, and deals the other blocks. Every worker calls this in step.
///
/// # Errors
/// Those of `adopt`, [`StageError::Data`] for a part that cannot be read a second time; the same everywhere.
pub fn begin_parts(
    session: &mut Session<'_>,
    (name, digest): (&str, &str),
    catalog: &Catalog,
    one_part: bool,
    adopt: &mut dyn FnMut(Outgoing) -> Result<(), StageError>,
) -> Result<Begun, StageError> {
    let process: Arc<Process> = Arc::clone(&session.process);
    let Some(checkpoints) = process.checkpoints() else { return Ok(Begun::default()) };
    let (group, total) = (format!("{name} {digest}"), catalog.blocks());
    let keeper = &checkpoints.keeper;
    let writes = !one_part || session.is_leader();
    let mut own = Vec::new();
    let mut open = None;
    if checkpoints.has(&group) {
        let members: Vec<&str> = checkpoints.members(&group).collect();
        let (takers, me) = match one_part {
            true => (process.processes(), process.index()),
            false => (session.peers(), session.index()),
        };
        // Later attempts may hold what earlier ones stored: they come first.
        let order = members.iter().rev().enumerate();
        let mine: Vec<(usize, &str, String)> = order
            .filter(|(place, _)| writes && place % takers == me)
            .filter_map(|(place, member)| keeper.sound((&group, member)).next().map(|file| (place, *member, file)))
            .collect();
        let mut outgoing = Vec::new();
        for (place, member, file) in &mine {
            let mut first = None;
            keeper.read(file, (&group, member), &mut |frame| {
                first.get_or_insert(frame.bytes);
            });
            outgoing.extend(first.map(|bytes| Outgoing { key: *place as u64, bytes }));
        }
        let mut taken: Vec<(usize, Vec<Range<u64>>)> = Vec::new();
        let mut all: Vec<Range<u64>> = Vec::new();
        for parcel in pass(session, "checkpoint", outgoing, Gather::default(), Audience::Everyone)? {
            let Some(ranges) = ranges(&parcel.bytes, total) else { continue };
            let apart = |range: &Range<u64>| all.iter().all(|held| range.end <= held.start || held.end <= range.start);
            if ranges.iter().all(apart) {
                ranges.iter().for_each(|range| join(&mut all, range.clone()));
                taken.push((parcel.key as usize, ranges));
            }
        }
        let mut result = Ok(());
        for (place, member, file) in mine {
            let Some((_, ranges)) = taken.iter().find(|(other, _)| *other == place) else { continue };
            ranges.iter().for_each(|range| join(&mut own, range.clone()));
            let mut first = true;
            let whole = keeper.read(&file, (&group, member), &mut |frame| {
                if !std::mem::take(&mut first) && result.is_ok() {
                    result = adopt(frame);
                }
            });
            if !whole && result.is_ok() {
                result = Err(StageError::Data(format!("the checkpoint {file} changed while it was read")));
            }
        }
        agree_workers(session, result)?;
        if !all.is_empty() {
            let blocks: u64 = all.iter().map(|range| range.end - range.start).sum();
            if session.is_first() {
                keeper.resumed(&format!("{name}: {blocks} of {total} blocks"));
            }
            open = Some(catalog.remaining(&all, session.peers(), session.index()));
        }
    }
    let parts = writes.then(|| {
        keeper.scans(true);
        let worker = if one_part { 0 } else { session.local_index() };
        let member = format!("{}-{worker:04}", keeper.own());
        Parts { keeper: Arc::clone(keeper), group: group.clone(), member, since: Instant::now(), done: own }
    });
    Ok(Begun { blocks: open, parts, group })
}

/// [`agree`] where workers of a process may differ too.
fn agree_workers(session: &mut Session<'_>, result: Result<(), StageError>) -> Result<(), StageError> {
    let outcome = Outcome(result.err());
    pass(session, "ready", outcome, Gather::default(), Audience::Everyone).map(|_| ())
}

/// The ranges of a part; `None` where they are none, or not of so many blocks.
fn ranges(bytes: &[u8], blocks: u64) -> Option<Vec<Range<u64>>> {
    let words: Vec<u64> =
        bytes.chunks_exact(8).map(|word| u64::from_le_bytes(std::array::from_fn(|k| word[k]))).collect();
    let whole = bytes.len().is_multiple_of(16) && !words.is_empty();
    let ranges: Vec<Range<u64>> = words.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
    let sound = ranges.iter().all(|range| range.start < range.end && range.end <= blocks)
        && ranges.windows(2).all(|pair| pair[0].end <= pair[1].start);
    (whole && sound).then_some(ranges)
}

/// Adds a range to sorted ranges that do not meet.
fn join(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    if range.is_empty() {
        return;
    }
    let at = ranges.partition_point(|other| other.start < range.start);
    ranges.insert(at, range);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges.drain(..) {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    *ranges = joined;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn joined_ranges_are_sorted_and_apart(cuts in proptest::collection::vec(0u64..200, 0..12)) {
            let mut held = Vec::new();
            let mut blocks = std::collections::BTreeSet::new();
            for pair in cuts.chunks_exact(2) {
                let range = pair[0].min(pair[1])..pair[0].max(pair[1]);
                blocks.extend(range.clone());
                join(&mut held, range);
            }
            prop_assert!(held.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert!(held.into_iter().flatten().eq(blocks));
        }

        #[test]
        fn only_sound_ranges_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..64), a in 0u64..9, b in 0u64..9) {
            let _ = ranges(&bytes, 10);
            let mut out = Writer::default();
            out.u64(a);
            out.u64(b);
            prop_assert_eq!(ranges(&out.0, 8).is_some(), a < b && b <= 8);
        }
    }
}
