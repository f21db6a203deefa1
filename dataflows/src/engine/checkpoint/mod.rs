//! What a job keeps on disk, and how it goes on from there.
//!
//! The problem: a job that was killed is to end with the bits it would have had, in another number of processes and workers perhaps, without doing again what took long. The program
//! is deterministic, and between stages all workers hold the same values. So a resumed job runs the program again from its beginning, and what was expensive is looked up instead of computed:
//!
//! * [`remember`]: a value that all workers have alike (what a pass found, the centers), by its name;
//! * [`Iterates`], [`recall`]: the state of an iteration, two generations of it;
//! * [`Own`]: what one worker has beside the others, such as dictionaries or its process's centers of an iteration that shares them;
//! * [`Parts`]: what the scan of one worker has of a pass that is under way. A sum over any blocks is exact, or made of nodes of the fixed tree, so parts of one attempt serve in
//!   another with any number of workers: each part goes to one worker, which begins with it, and the blocks that are in no part are dealt anew.
//!
//! Who decides: the first worker of all reads values and states and tells the others, so that all take the same way whatever a disk says to whom; which parts are taken is agreed on. When something is
//! written is a matter of clocks, and shapes nothing. The names of parts contain a digest of what went into the pass: a part is never taken for that of another.
//!
//! Cost: one exchange when a job with checkpoints begins, two for each value that is looked up, one for each pass with parts; nothing without checkpoints.

mod parts;

pub use parts::{Begun, Parts, begin_parts, digest, float_bytes};

use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Gather, Outgoing, agree, pass};
use crate::engine::session::{Process, Session};
use crate::error::StageError;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Names of the entries that are there.
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
    /// Whether what was there is of other data than anybody can tell of, and is not used.
    strange: AtomicBool,
    /// Groups of parts whose pass is over, to be removed once something later is stored.
    over: Mutex<Vec<String>>,
}

impl Checkpoints {
    pub(super) fn new(keeper: Arc<dyn Keeper>) -> Self {
        Checkpoints { keeper, names: OnceLock::new(), strange: AtomicBool::new(false), over: Mutex::new(Vec::new()) }
    }

    fn has(&self, group: &str) -> bool {
        self.members(group).next().is_some()
    }

    fn members(&self, group: &str) -> impl Iterator<Item = &str> {
        let names = self.names.get().filter(|_| !self.strange.load(Ordering::Relaxed));
        let names = names.into_iter().flatten();
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

/// Entry that says of which data a checkpoint is, where that is known only when the processes have met.
const DATA: &str = "data";

/// Has the checkpoint be of the data with this `digest`, which processes find together (`--data-layout local`): written down by the first attempt, compared by those after it. Where that cannot be read any more
/// nothing else is. Every worker calls this in step, after [`open`] and before anything is looked up.
///
/// # Errors
/// [`StageError::Usage`] with both digests where it is of other data; the same on every worker.
pub fn of_data(session: &mut Session<'_>, digest: [u8; 32]) -> Result<(), StageError> {
    let process = Arc::clone(&session.process);
    let Some(checkpoints) = process.checkpoints() else { return Ok(()) };
    let known = read_first(session, checkpoints, DATA).into_iter().flatten();
    let known = pass(session, "checkpoint", known.collect::<Vec<_>>(), Gather::default(), Audience::Everyone)?;
    let Some(known) = known.first() else {
        checkpoints.strange.store(true, Ordering::Relaxed);
        if session.is_first() {
            checkpoints.save(DATA, 1, &[Outgoing { key: 0, bytes: digest.to_vec() }]);
        }
        return Ok(());
    };
    if known.bytes == digest {
        return Ok(());
    }
    let short = |bytes: &[u8]| bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
    Err(StageError::Usage(format!(
        "the --checkpoint folder is of other data: the files of all hosts had the digest {}, and have {} now. Start the processes on hosts that have all of them, or empty the folder",
        short(&known.bytes),
        short(&digest)
    )))
}

/// The frames of the soundest entry of `group`, on the first worker of all.
fn read_first(session: &Session<'_>, checkpoints: &Checkpoints, group: &str) -> Option<Vec<Outgoing>> {
    if !session.is_first() || !checkpoints.has(group) {
        return None;
    }
    let file = checkpoints.keeper.sound((group, ONLY)).next()?;
    let mut read = Vec::new();
    checkpoints.keeper.read(&file, (group, ONLY), &mut |frame| read.push(frame)).then_some(read)
}

/// What is stored under `group`, on every worker of `audience`; `None` on all of them where there is nothing sound. Every worker calls this in step.
///
/// # Errors
/// [`StageError::Internal`] for a damaged exchange.
pub fn recall(session: &mut Session<'_>, group: &str, audience: Audience) -> Result<Option<Vec<Outgoing>>, StageError> {
    let process = Arc::clone(&session.process);
    let Some(checkpoints) = process.checkpoints().filter(|all| all.has(group)) else { return Ok(None) };
    // In their order, whatever their keys.
    let frames = read_first(session, checkpoints, group).map(|frames| {
        checkpoints.keeper.resumed(group);
        let placed = |(place, frame): (usize, Outgoing)| {
            let bytes = [&frame.key.to_le_bytes(), &frame.bytes[..]].concat();
            Outgoing { key: place as u64, bytes }
        };
        frames.into_iter().enumerate().map(placed).collect::<Vec<_>>()
    });
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

/// Forgets what is stored under `group`, and of which data it is: the data was found wanting, and what is made of it next is made of other data. Every worker may call this.
pub fn discard(session: &Session<'_>, group: &str) {
    let process = Arc::clone(&session.process);
    if let Some(checkpoints) = process.checkpoints().filter(|_| session.is_first()) {
        for group in [group, DATA] {
            checkpoints.keeper.forget(group);
        }
        let over = std::mem::take(&mut *checkpoints.over.lock().unwrap_or_else(PoisonError::into_inner));
        over.iter().for_each(|group| checkpoints.keeper.forget(group));
    }
}

/// Forgets all that an attempt has stored that found nothing to go on from: the job was refused, and what mends it makes another job of it, which could use nothing of this and would be refused beside it. What earlier attempts
/// stored stays, since another number of processes or workers may go on from it. Every worker may call this.
pub fn discard_all(session: &Session<'_>) {
    let process = Arc::clone(&session.process);
    let Some(checkpoints) = process.checkpoints().filter(|_| session.is_first()) else { return };
    if checkpoints.names.get().is_some_and(BTreeSet::is_empty) {
        let groups: BTreeSet<String> = checkpoints.keeper.names().into_iter().map(|(group, _)| group).collect();
        groups.iter().for_each(|group| checkpoints.keeper.forget(group));
    }
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

/// Names of the groups that began with `prefix` when the attempt began: the same on every worker.
pub fn groups(session: &Session<'_>, prefix: &str) -> Vec<String> {
    let names =
        session.process.checkpoints().and_then(|all| all.names.get().filter(|_| !all.strange.load(Ordering::Relaxed)));
    let mut groups: Vec<String> =
        names.into_iter().flatten().map(|(group, _)| group.clone()).filter(|group| group.starts_with(prefix)).collect();
    groups.dedup();
    groups
}

/// Hands the frames of every sound file of the entries that workers stored under `group` by [`Own`] to `each`, earlier generations too, with the number of the file; those of one file follow each other.
pub fn each_frame(session: &Session<'_>, group: &str, each: &mut dyn FnMut(usize, Outgoing)) {
    let Some(checkpoints) = session.process.checkpoints() else { return };
    let mut number = 0;
    for member in checkpoints.members(group) {
        for file in checkpoints.keeper.sound((group, member)) {
            checkpoints.keeper.read(&file, (group, member), &mut |frame| each(number, frame));
            number += 1;
        }
    }
}

/// Removes what is stored under `group`, where this is the first worker.
pub fn forget(session: &Session<'_>, group: &str) {
    if let Some(checkpoints) = session.process.checkpoints().filter(|_| session.is_first()) {
        checkpoints.keeper.forget(group);
    }
}

/// The number of this attempt, for names of groups; `None` without checkpoints.
pub fn attempt(session: &Session<'_>) -> Option<String> {
    let own = session.process.checkpoints()?.keeper.own();
    Some(own.split('-').next().unwrap_or_default().to_owned())
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
