//! What a job keeps on disk, and how it goes on from there.
//!
//! The problem: a job that was killed is to end with the bits it would have had, in another number of processes and workers perhaps, without doing again what took long. The program
//! is deterministic, and between stages all workers hold the same values. So a resumed job runs the program again from its beginning, and what was expensive is looked up instead of computed:
//!
//! * [`remember`]: a value that all workers have alike (what a pass found, the centers), by its name;
//! * [`Iterates`], [`recall`]: the state of an iteration, two generations of it;
//! * [`Parts`]: what the scan of one worker has of a pass that is under way. A sum over any blocks is exact, or made of nodes of the fixed tree, so parts of one attempt serve in
//!   another with any number of workers: each part goes to one worker, which begins with it, and the blocks that are in no part are dealt anew.
//!
//! Who decides: the first worker of all reads values and states and tells the others, so that all take the same way whatever a disk says to whom; which parts are taken is agreed on. When something is
//! written is a matter of clocks, and shapes nothing. The names of parts contain a digest of what went into the pass: a part is never taken for that of another.
//!
//! Cost: one exchange when a job with checkpoints begins, two for each value that is looked up, one for each pass with parts; nothing without checkpoints.

use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Gather, Outgoing, agree, pass};
use crate::engine::feed::Feed;
use crate::engine::session::{Process, Session};
use crate::error::StageError;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Member of a group that has one entry.
const ONLY: &str = "state";
/// Generations of the state of an iteration, and of a part.
const GENERATIONS: usize = 2;

/// Where entries are kept: named `(group, member)`, each of several frames. Its methods are called from worker threads.
pub trait Keeper: Send + Sync {
    /// What all processes have in common that see one place.
    fn nonce(&self) -> [u8; 16];
    /// Names of the entries that were there when the attempt began.
    fn names(&self) -> Vec<(String, String)>;
    /// The sound files of an entry, the newest first, each of which was read and found right when it is asked for.
    fn sound<'a>(&'a self, name: (&str, &str)) -> Box<dyn Iterator<Item = String> + 'a>;
    /// Hands the frames of such a file to `each`; whether all were there.
    fn read(&self, file: &str, name: (&str, &str), each: &mut dyn FnMut(Outgoing)) -> bool;
    /// Writes an entry of `count` frames, beside `generations` - 1 earlier ones; whether it is written. Tells of failures itself.
    fn save(
        &self,
        name: (&str, &str),
        generations: usize,
        count: u32,
        frames: &mut dyn Iterator<Item = Outgoing>,
    ) -> bool;
    /// Removes the entries of a group.
    fn forget(&self, group: &str);
    /// Whether what has gone on since `since` is to be written now, in about `bytes`.
    fn due(&self, name: (&str, &str), since: Instant, bytes: u64) -> bool;
    /// Whether a value of `bytes` that took so long is worth its write.
    fn worth(&self, bytes: u64, took: Duration) -> bool;
    /// Prefix of the names of what this process alone writes in this attempt; later attempts sort behind earlier ones.
    fn own(&self) -> String;
    /// One more, or one less, of the process's scans that could write parts.
    fn scans(&self, one_more: bool);
    /// Something was taken from the checkpoint.
    fn resumed(&self, what: &str);
}

/// The checkpoints of a process.
pub(super) struct Checkpoints {
    keeper: Arc<dyn Keeper>,
    /// As the first process saw them.
    names: OnceLock<BTreeSet<(String, String)>>,
    /// Groups of parts whose pass is over, to be removed once something later is stored.
    over: Mutex<Vec<String>>,
}

impl Checkpoints {
    pub(super) fn new(keeper: Arc<dyn Keeper>) -> Self {
        Checkpoints { keeper, names: OnceLock::new(), over: Mutex::new(Vec::new()) }
    }

    fn has(&self, group: &str) -> bool {
        self.members(group).next().is_some()
    }

    fn members(&self, group: &str) -> impl Iterator<Item = &str> {
        let names = self.names.get().into_iter().flatten();
        names.filter(move |(own, _)| own == group).map(|(_, member)| member.as_str())
    }

    /// Writes an entry of the first worker, after which what came before is not needed any more.
    fn save(&self, group: &str, generations: usize, frames: &[Outgoing]) -> bool {
        let saved = self.keeper.save((group, ONLY), generations, frames.len() as u32, &mut frames.iter().cloned());
        if saved {
            let over = std::mem::take(&mut *self.over.lock().unwrap_or_else(PoisonError::into_inner));
            over.iter().for_each(|group| self.keeper.forget(group));
        }
        saved
    }
}

/// Begins a job with checkpoints, in step on every worker: `opened` is how opening them went in this process. Without a keeper it does nothing.
///
/// # Errors
/// That of `opened`, on every worker; [`StageError::Usage`] where processes see different places.
pub fn open(session: &mut Session<'_>, opened: Result<(), StageError>) -> Result<(), StageError> {
    agree(session, opened)?;
    let process = Arc::clone(&session.process);
    let Some(checkpoints) = process.checkpoints() else { return Ok(()) };
    let outgoing = if session.is_first() {
        let mut out = Writer::default();
        out.bytes(&checkpoints.keeper.nonce());
        for (group, member) in checkpoints.keeper.names() {
            out.bytes(group.as_bytes());
            out.bytes(member.as_bytes());
        }
        vec![Outgoing { key: 0, bytes: out.0 }]
    } else {
        Vec::new()
    };
    let parcels = pass(session, "checkpoint", outgoing, Gather::default(), Audience::Everyone)?;
    let bytes = parcels.into_iter().next().map(|parcel| parcel.bytes).unwrap_or_default();
    let mut from = Reader(&bytes);
    let same = from.bytes()? == checkpoints.keeper.nonce();
    let mut names = BTreeSet::new();
    while !from.is_empty() {
        let mut name = || from.bytes().map(|name| String::from_utf8_lossy(name).into_owned());
        names.insert((name()?, name()?));
    }
    let result = if same {
        Ok(())
    } else {
        Err(StageError::Usage(format!(
            "process {} sees another --checkpoint folder than process 0: it must be on a file system that all processes share",
            process.index()
        )))
    };
    agree(session, result)?;
    let _ = checkpoints.names.set(names);
    Ok(())
}

/// What is stored under `group`, on every worker of `audience`; `None` on all of them where there is nothing sound. Every worker calls this in step.
///
/// # Errors
/// [`StageError::Internal`] for a damaged exchange.
pub fn recall(session: &mut Session<'_>, group: &str, audience: Audience) -> Result<Option<Vec<Outgoing>>, StageError> {
    let process = Arc::clone(&session.process);
    let Some(checkpoints) = process.checkpoints().filter(|all| all.has(group)) else { return Ok(None) };
    let mut frames = None;
    if session.is_first() {
        let keeper = &checkpoints.keeper;
        if let Some(file) = keeper.sound((group, ONLY)).next() {
            let mut read = Vec::new();
            let whole = keeper.read(&file, (group, ONLY), &mut |frame: Outgoing| {
                let mut bytes = frame.key.to_le_bytes().to_vec();
                bytes.extend(frame.bytes);
                read.push(Outgoing { key: read.len() as u64, bytes });
            });
            frames = Some(read).filter(|_| whole);
        }
        if frames.is_some() {
            keeper.resumed(group);
        }
    }
    let word = frames.iter().map(|_| Outgoing { key: 0, bytes: Vec::new() }).collect::<Vec<_>>();
    if pass(session, "checkpoint", word, Gather::default(), Audience::Everyone)?.is_empty() {
        return Ok(None);
    }
    let parcels = pass(session, "checkpoint", frames.unwrap_or_default(), Gather::default(), audience)?;
    let parcel = |parcel: Outgoing| {
        let (key, bytes) = parcel.bytes.split_first_chunk::<8>().ok_or_else(|| internal("a stored value"))?;
        Ok(Outgoing { key: u64::from_le_bytes(*key), bytes: bytes.to_vec() })
    };
    parcels.into_iter().map(parcel).collect::<Result<Vec<_>, _>>().map(Some)
}

fn internal(what: &str) -> StageError {
    StageError::Internal(format!("{what} arrived damaged"))
}

/// What `work` finds, the same on all workers of `audience`, or what it found before: stored under `group` when it took so long that this is worth it. Every worker calls this in step.
///
/// # Errors
/// Those of `work`.
pub fn remember(
    session: &mut Session<'_>,
    group: &str,
    audience: Audience,
    work: impl FnOnce(&mut Session<'_>) -> Result<Vec<Outgoing>, StageError>,
) -> Result<Vec<Outgoing>, StageError> {
    if let Some(found) = recall(session, group, audience)? {
        return Ok(found);
    }
    let begun = Instant::now();
    let found = work(session)?;
    keep(session, group, begun, || found.clone());
    Ok(found)
}

/// Stores a value that took since `begun` under `group`, where that is worth it. Other workers than the first do nothing.
pub fn keep(session: &Session<'_>, group: &str, begun: Instant, value: impl FnOnce() -> Vec<Outgoing>) {
    let Some(checkpoints) = session.process.checkpoints().filter(|_| session.is_first()) else { return };
    let took = begun.elapsed();
    if checkpoints.keeper.worth(0, took) {
        let value = value();
        let bytes = value.iter().map(|frame| frame.bytes.len() as u64).sum();
        if checkpoints.keeper.worth(bytes, took) {
            checkpoints.save(group, 1, &value);
        }
    }
}

/// [`remember`] of numbers.
///
/// # Errors
/// Those of `work`.
pub fn remember_numbers(
    session: &mut Session<'_>,
    group: &str,
    work: impl FnOnce(&mut Session<'_>) -> Result<Vec<f64>, StageError>,
) -> Result<Vec<f64>, StageError> {
    if session.process.checkpoints().is_none() {
        return work(session);
    }
    let frames = remember(session, group, Audience::Everyone, |session| {
        let mut out = Writer::default();
        out.f64s(&work(session)?);
        Ok(vec![Outgoing { key: 0, bytes: out.0 }])
    })?;
    let frame = frames.first().ok_or_else(|| internal("a stored value"))?;
    Reader(&frame.bytes).f64s()
}

/// The states of one iteration, of which the first worker of all stores one now and then.
#[derive(Clone)]
pub struct Iterates {
    /// None where nothing is stored.
    process: Option<Arc<Process>>,
    group: String,
}

impl Iterates {
    /// Of the iteration `group`, as this worker sees it.
    pub fn new(session: &Session<'_>, group: &str) -> Self {
        let writes = session.is_first() && session.process.checkpoints().is_some();
        Iterates { process: writes.then(|| Arc::clone(&session.process)), group: group.to_owned() }
    }

    /// Whether this worker is the one that stores.
    pub fn writes(&self) -> bool {
        self.process.is_some()
    }

    /// Stores the state, of about `bytes`, when that is due.
    pub fn store(&self, bytes: u64, state: impl FnOnce() -> Vec<Outgoing>) {
        let Some(process) = &self.process else { return };
        let Some(checkpoints) = process.checkpoints() else { return };
        if checkpoints.keeper.due((&self.group, ONLY), process.begun(), bytes) {
            checkpoints.save(&self.group, GENERATIONS, &state());
        }
    }
}

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

/// What one worker stores beside the others, in an entry of its own.
pub struct Own {
    keeper: Arc<dyn Keeper>,
    group: String,
    member: String,
    since: Instant,
}

impl Own {
    /// An entry `what` of this worker under `group`; `None` without checkpoints.
    pub fn new(session: &Session<'_>, group: &str, what: &str) -> Option<Self> {
        let keeper = Arc::clone(&session.process.checkpoints()?.keeper);
        let member = format!("{}-{:04}-{what}", keeper.own(), session.local_index());
        keeper.scans(true);
        Some(Own { keeper, group: group.to_owned(), member, since: session.process.begun() })
    }

    /// Whether it is to be written, in about `bytes`.
    pub fn due(&self, bytes: u64) -> bool {
        self.keeper.due((&self.group, &self.member), self.since, bytes)
    }

    /// Writes it.
    pub fn save(&self, count: u32, frames: &mut dyn Iterator<Item = Outgoing>) -> bool {
        self.keeper.save((&self.group, &self.member), GENERATIONS, count, frames)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.keeper.scans(false);
    }
}

/// All that workers stored under `group` by [`Own`] in earlier attempts, earlier generations too: each entry on the first worker of one process.
pub fn left_over(session: &Session<'_>, group: &str) -> Vec<Outgoing> {
    let process = &session.process;
    let Some(checkpoints) = process.checkpoints().filter(|_| session.is_leader()) else { return Vec::new() };
    let mut frames = Vec::new();
    for member in checkpoints.members(group).skip(process.index()).step_by(process.processes()) {
        for file in checkpoints.keeper.sound((group, member)) {
            checkpoints.keeper.read(&file, (group, member), &mut |frame| frames.push(frame));
        }
    }
    frames
}

/// Tells that something of `what` was taken from the checkpoint.
pub fn resumed(session: &Session<'_>, what: &str) {
    if let Some(checkpoints) = session.process.checkpoints().filter(|_| session.is_first()) {
        checkpoints.keeper.resumed(what);
    }
}

/// Whether the job keeps checkpoints.
pub fn active(session: &Session<'_>) -> bool {
    session.process.checkpoints().is_some()
}

/// What was stored under `group` is not needed once something later is. Call it after the pass that all workers are through with.
pub fn over(session: &Session<'_>, group: String) {
    let Some(checkpoints) = session.process.checkpoints().filter(|_| session.is_first()) else { return };
    checkpoints.over.lock().unwrap_or_else(PoisonError::into_inner).push(group);
}

/// A pass with parts as it begins.
#[derive(Default)]
pub struct Begun {
    /// The global blocks that this worker is to read, where they are not its own ones.
    pub blocks: Option<Vec<Range<u64>>>,
    /// Where it stores what it has, with checkpoints; with one part a process on its first worker alone.
    pub parts: Option<Parts>,
    /// Name of its parts, for [`over`].
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

/// Begins the pass `name` over `total` blocks, whose inputs have this [`digest`]: takes over the parts of earlier attempts, each by one worker (with `one_part`, by the first of a process), which
/// is given its frames, and deals the other blocks. Every worker calls this in step.
///
/// # Errors
/// Those of `adopt`, [`StageError::Data`] for a part that cannot be read a second time; the same everywhere.
pub fn begin_parts(
    session: &mut Session<'_>,
    (name, digest): (&str, &str),
    total: u64,
    one_part: bool,
    adopt: &mut dyn FnMut(Outgoing) -> Result<(), StageError>,
) -> Result<Begun, StageError> {
    let process: Arc<Process> = Arc::clone(&session.process);
    let Some(checkpoints) = process.checkpoints() else { return Ok(Begun::default()) };
    let group = format!("{name} {digest}");
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
            open = Some(share(&all, total, session.peers() as u64, session.index() as u64));
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
    let outcome = crate::engine::exchange::Outcome(result.err());
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

/// The share of worker `index` of `peers` in the blocks of `0..total` outside of `held`.
fn share(held: &[Range<u64>], total: u64, peers: u64, index: u64) -> Vec<Range<u64>> {
    let mut free = Vec::new();
    let mut at = 0;
    for range in held.iter().cloned().chain(std::iter::once(total..total)) {
        if at < range.start {
            free.push(at..range.start);
        }
        at = range.end;
    }
    let left: u64 = free.iter().map(|range| range.end - range.start).sum();
    let cut = |i: u64| (u128::from(left) * u128::from(i) / u128::from(peers.max(1))) as u64;
    let (first, end) = (cut(index), cut(index + 1));
    let mut passed = 0;
    let mut own = Vec::new();
    for range in free {
        let length = range.end - range.start;
        let (lo, hi) = (first.max(passed), end.min(passed + length));
        if lo < hi {
            own.push(range.start + lo - passed..range.start + hi - passed);
        }
        passed += length;
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_are_every_free_block_once(cuts in proptest::collection::vec(0u64..200, 0..8), peers in 1u64..6, total in 0u64..220) {
            let mut held = Vec::new();
            for pair in cuts.chunks_exact(2) {
                join(&mut held, pair[0].min(pair[1]).min(total)..pair[0].max(pair[1]).min(total));
            }
            prop_assert!(held.windows(2).all(|pair| pair[0].end < pair[1].start));
            let mut seen = vec![0; total as usize];
            let all = (0..peers).flat_map(|index| share(&held, total, peers, index)).chain(held.clone());
            all.for_each(|range| range.for_each(|block| seen[block as usize] += 1));
            prop_assert!(seen.iter().all(|count| *count == 1), "{:?}", seen);
            let counts: Vec<u64> = (0..peers).map(|i| share(&held, total, peers, i).iter().map(|r| r.end - r.start).sum()).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
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
