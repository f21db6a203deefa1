//! One pass: scan the owned blocks, exchange m-sized parcels, reduce them by key, give everyone the result.
//!
//! ```text
//!  scan (one chunk per activation) --exchange by key--> reduce --broadcast--> collect
//! ```
//!
//! While it scans, a worker may lend blocks that it has not begun to one that is done ([`leases`]).
//!
//! A *parcel* is (key, bytes). Parcels travel in fragments of at most [`FRAGMENT_BYTES`]; the worker `key mod peers`
//! owns a key, reassembles its parcels, and feeds them to its [`Reducer`] sorted by (key, sender, serial), so nothing depends on
//! arrival. What reducers return is given to every worker, or to the first of each process.
//!
//! Cost: what the parcels weigh, twice (reduce-scatter, all-gather). Timely has no backpressure: all parcels of a pass
//! may sit in queues at once, so stages count them in their memory plan.

use crate::engine::leases::{self, Desk, Leased, Turn};
use crate::engine::session::Session;
use crate::error::StageError;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::operator::{Operator, source};
use timely::dataflow::operators::probe::Handle as ProbeHandle;

/// Largest payload of one message (engineering notes: throughput falls and slabs grow above 1 MB).
pub const FRAGMENT_BYTES: usize = (1 << 20) - 256;

/// Key of the parcels that carry errors.
const ERROR_KEY: u64 = u64::MAX;

/// What a scan sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Owner and order: parcels of one key meet in one reducer.
    pub key: u64,
    /// Payload.
    pub bytes: Vec<u8>,
}

/// The state of a scan after one call.
pub enum Step {
    /// There is more to read; `rows` rows were handled by this call.
    More {
        /// Rows handled (progress display only).
        rows: u64,
    },
    /// All owned blocks are done.
    Done,
}

/// The work of one worker in a pass.
pub trait Scan {
    /// Handles the next chunk.
    ///
    /// # Errors
    /// Ends the pass on every worker with this error.
    fn step(&mut self) -> Result<Step, StageError>;

    /// What this worker contributes, once its blocks are done.
    ///
    /// # Errors
    /// Ends the pass on every worker with this error.
    fn finish(self) -> Result<Vec<Outgoing>, StageError>;

    /// The blocks that it reads, where others may read some of them for it ([`leases`]): what all contribute must then not depend on who read what, whatever the runs and
    /// their order. Of a pass all workers' scans lend theirs, or none does.
    fn leased(&mut self) -> Option<&mut dyn Leased> {
        None
    }
}

/// A scan without rows: contributes parcels at once.
impl Scan for Vec<Outgoing> {
    fn step(&mut self) -> Result<Step, StageError> {
        Ok(Step::Done)
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(self)
    }
}

/// What a worker met, told to all: a scan that reports a failure, if there was one.
pub(crate) struct Outcome(pub(crate) Option<StageError>);

impl Scan for Outcome {
    fn step(&mut self) -> Result<Step, StageError> {
        self.0.take().map_or(Ok(Step::Done), Err)
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(Vec::new())
    }
}

/// The result of work that may fail in one process alone, such as opening a file: an error of any process ends all of them with it, where the
/// others would wait for a dataflow that the first never builds. Every worker calls this in step.
///
/// ```
/// use nystream_dataflows::StageError;
/// use nystream_dataflows::engine::{Process, SilentProgress, agree, run};
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let results = run(&process, communication, |session| {
///     let opened = session.try_once(|| Err::<u8, _>(StageError::Data("the disk is gone".into())));
///     agree(session, opened)
/// });
/// assert!(results.unwrap().iter().all(|result| result == &Err(StageError::Data("the disk is gone".into()))));
/// ```
///
/// # Errors
/// That of `result`, or of another process.
pub fn agree<T>(session: &mut Session<'_>, result: Result<T, StageError>) -> Result<T, StageError> {
    if session.process.processes() > 1 {
        pass(session, "ready", Outcome(result.as_ref().err().cloned()), Gather::default(), Audience::Everyone)?;
    }
    result
}

/// Ends all processes with an error where they do not hold the same `value`, such as the content of a file that each has read for itself. Every worker
/// calls this in step.
///
/// # Errors
/// [`StageError::Data`] naming `what` differs and two processes, the same everywhere.
pub fn same_everywhere<T: Serialize>(session: &mut Session<'_>, what: &str, value: &T) -> Result<(), StageError> {
    if session.process.processes() == 1 {
        return Ok(());
    }
    let outgoing = if session.is_leader() {
        // Plain numbers: serialisation cannot fail.
        vec![Outgoing { key: 0, bytes: serde_json::to_vec(value).unwrap_or_default() }]
    } else {
        Vec::new()
    };
    let parcels = pass(session, "same", outgoing, Gather::default(), Audience::Everyone)?;
    match parcels.windows(2).position(|pair| pair[0] != pair[1]) {
        None => Ok(()),
        Some(process) => {
            let other = process + 1;
            Err(StageError::Data(format!(
                "{what} differs between process {process} and process {other}: give all processes the same file"
            )))
        }
    }
}

/// Merges the parcels of the keys this worker owns.
///
/// Contract: parcels arrive sorted by (key, sender, serial); the result may depend on them only through a
/// function that is the same for any distribution of the rows over senders (asserted by the digest tests, not here).
pub trait Reducer {
    /// Takes one parcel.
    ///
    /// # Errors
    /// Malformed bytes; ends the pass everywhere.
    fn absorb(&mut self, key: u64, bytes: Vec<u8>) -> Result<(), StageError>;

    /// The merged parcels.
    ///
    /// # Errors
    /// A merge that cannot be completed; ends the pass everywhere.
    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError>;
}

/// Passes every parcel on: an all-gather.
#[derive(Default)]
pub struct Gather(Vec<Outgoing>);

impl Reducer for Gather {
    fn absorb(&mut self, key: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        self.0.push(Outgoing { key, bytes });
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        Ok(std::mem::take(&mut self.0))
    }
}

/// Who receives the result of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every worker.
    Everyone,
    /// The first worker of each process; the others get an empty result.
    Leaders,
    /// The worker that owns the parcel's key: results stay distributed.
    Owners,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Fragment {
    to: u64,
    key: u64,
    from: u64,
    serial: u32,
    part: u32,
    parts: u32,
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

fn fragments(from: u64, serial: u32, parcel: Outgoing) -> Vec<Fragment> {
    let Outgoing { key, bytes } = parcel;
    if bytes.len() <= FRAGMENT_BYTES {
        return vec![Fragment { to: 0, key, from, serial, part: 0, parts: 1, bytes }];
    }
    let parts = bytes.len().div_ceil(FRAGMENT_BYTES) as u32;
    let pieces = bytes.chunks(FRAGMENT_BYTES).enumerate();
    pieces
        .map(|(part, piece)| Fragment { to: 0, key, from, serial, part: part as u32, parts, bytes: piece.to_vec() })
        .collect()
}

/// Fragments waiting for their siblings, in the order in which parcels are handed on.
#[derive(Default)]
struct Reassembly(BTreeMap<(u64, u64, u32), BTreeMap<u32, Fragment>>);

impl Reassembly {
    fn insert(&mut self, fragment: Fragment) {
        let parcel = (fragment.key, fragment.from, fragment.serial);
        self.0.entry(parcel).or_default().insert(fragment.part, fragment);
    }

    /// All parcels sorted by (key, sender, serial).
    fn parcels(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let mut out = Vec::with_capacity(self.0.len());
        for ((key, from, _), parts) in std::mem::take(&mut self.0) {
            let expected = parts.values().next().map_or(0, |f| f.parts as usize);
            if parts.len() != expected {
                return Err(StageError::Internal(format!("a parcel of worker {from} arrived incomplete")));
            }
            let mut parts = parts.into_values();
            let mut bytes = parts.next().map(|f| f.bytes).unwrap_or_default();
            for part in parts {
                bytes.extend_from_slice(&part.bytes);
            }
            out.push(Outgoing { key, bytes });
        }
        Ok(out)
    }
}

fn error_parcel(error: &StageError) -> Outgoing {
    // A StageError is strings and a tag: serde_json cannot fail on it.
    Outgoing { key: ERROR_KEY, bytes: serde_json::to_vec(error).unwrap_or_default() }
}

/// Runs one pass on every worker; see the module documentation.
///
/// `name` shows in timely's logs. The result is sorted by (key, reducer's order) and equal on all workers of the audience, save for
/// [`Audience::Owners`], each of whom has its own keys. Every worker of every process must call this in step. The key `u64::MAX` is taken.
///
/// ```
/// use nystream_dataflows::engine::exchange::Gather;
/// use nystream_dataflows::engine::{Audience, Outgoing, Process, SilentProgress, pass, run};
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let results = run(&process, communication, |session| {
///     let me = session.index() as u8;
///     let parcels = vec![Outgoing { key: 7, bytes: vec![me] }, Outgoing { key: 2, bytes: vec![me] }];
///     pass(session, "example", parcels, Gather::default(), Audience::Everyone)
/// }).unwrap();
/// // By key, then by sender, on both workers: whose parcels arrived first shows nowhere.
/// for result in results {
///     let found: Vec<(u64, u8)> = result.unwrap().iter().map(|parcel| (parcel.key, parcel.bytes[0])).collect();
///     assert_eq!(found, [(2, 0), (2, 1), (7, 0), (7, 1)]);
/// }
/// ```
///
/// # Errors
/// The least error (in the order of [`StageError`]) that any worker met, the same on every worker. The job is over then: after an error in a
/// scan, later passes of the process contribute nothing.
pub fn pass<S, R>(
    session: &mut Session<'_>,
    name: &str,
    scan: S,
    reducer: R,
    audience: Audience,
) -> Result<Vec<Outgoing>, StageError>
where
    S: Scan + 'static,
    R: Reducer + 'static,
{
    let me = session.index() as u64;
    let peers = session.peers() as u64;
    let workers = session.process.workers() as u64;
    let process = session.process.clone();
    let stage = session.stage();
    let scanned = Rc::new(Cell::new(None));
    let handled = session.rows();
    let scans = Rc::clone(&scanned);
    let collected = Rc::new(RefCell::new(Reassembly::default()));
    let collector = Rc::clone(&collected);
    let probe = ProbeHandle::new();
    let watched = probe.clone();
    let mut scan = scan;
    let desk = scan.leased().and_then(|leased| Desk::new(leased, (me as usize, peers as usize), &process));
    let lent = desk.clone();

    session.worker.dataflow_named::<u64, _, _>(name, move |scope| {
        if let Some(desk) = &desk {
            leases::exchange(scope, Rc::clone(desk));
        }
        let parcels =
            source::<_, CapacityContainerBuilder<Vec<Fragment>>, _, _>(scope, "scan", move |capability, info| {
                let activator = scope.activator_for(Rc::clone(&info.address));
                if let Some(desk) = &desk {
                    desk.borrow_mut().scans(scope.activator_for(info.address));
                }
                let mut state = Some((capability, scan));
                move |output| {
                    let Some((capability, mut scan)) = state.take() else { return };
                    let cancelled = process.cancelled.load(Ordering::Relaxed);
                    let next = if cancelled { Ok(Some(Step::Done)) } else { turn(&mut scan, desk.as_deref()) };
                    let outgoing = match next {
                        Ok(Some(Step::More { rows })) => {
                            process.advance(stage, rows);
                            handled.set(handled.get() + rows);
                            // Activations coalesce: ask again after every chunk.
                            activator.activate();
                            state = Some((capability, scan));
                            return;
                        }
                        // Blocks of others are asked for: whoever brings them activates this.
                        Ok(None) => {
                            state = Some((capability, scan));
                            return;
                        }
                        Ok(Some(Step::Done)) if cancelled => Vec::new(),
                        Ok(Some(Step::Done)) => match scan.finish() {
                            Ok(parcels) => parcels,
                            Err(error) => vec![error_parcel(&process.located(error))],
                        },
                        Err(error) => {
                            process.cancelled.store(true, Ordering::Relaxed);
                            vec![error_parcel(&process.located(error))]
                        }
                    };
                    if let Some(desk) = &desk {
                        desk.borrow_mut().finish();
                    }
                    let mut session = output.session(&capability);
                    scans.set(Some(Instant::now()));
                    for (serial, parcel) in outgoing.into_iter().enumerate() {
                        for mut fragment in fragments(me, serial as u32, parcel) {
                            fragment.to = fragment.key % peers;
                            session.give(fragment);
                        }
                    }
                }
            });

        let reduced = parcels.unary_frontier::<CapacityContainerBuilder<Vec<Fragment>>, _, _, _>(
            Exchange::new(|fragment: &Fragment| fragment.to),
            "reduce",
            move |capability, _| {
                let mut waiting = Reassembly::default();
                let mut state = Some((capability, reducer));
                move |(input, frontier), output| {
                    input.for_each(|_, batch: &mut Vec<Fragment>| batch.drain(..).for_each(|f| waiting.insert(f)));
                    if !frontier.is_empty() {
                        return;
                    }
                    let Some((capability, mut reducer)) = state.take() else { return };
                    let outgoing = match waiting.parcels().and_then(|parcels| reduce(parcels, &mut reducer)) {
                        Ok(outgoing) => outgoing,
                        Err(error) => vec![error_parcel(&error)],
                    };
                    let mut session = output.session(&capability);
                    for (serial, parcel) in outgoing.into_iter().enumerate() {
                        let key = parcel.key;
                        let pieces = fragments(me, serial as u32, parcel);
                        // An error must reach every worker, whatever the audience.
                        let hears = |to: u64| match audience {
                            _ if key == ERROR_KEY => true,
                            Audience::Everyone => true,
                            Audience::Leaders => to.is_multiple_of(workers),
                            Audience::Owners => to == key % peers,
                        };
                        for to in (0..peers).filter(|to| hears(*to)) {
                            for piece in &pieces {
                                session.give(Fragment { to, ..piece.clone() });
                            }
                        }
                    }
                }
            },
        );

        reduced
            .unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
                Exchange::new(|fragment: &Fragment| fragment.to),
                "collect",
                move |_, _| {
                    move |input, _output| {
                        let mut collected = collector.borrow_mut();
                        input
                            .for_each(|_, batch: &mut Vec<Fragment>| batch.drain(..).for_each(|f| collected.insert(f)));
                    }
                },
            )
            .probe_with(&probe);
    });
    session.worker.step_or_park_while(None, || !watched.done());
    session.wait_since(scanned.get(), lent.map_or(Duration::ZERO, |desk| desk.borrow().waited()));

    let parcels = collected.borrow_mut().parcels()?;
    let mut results = Vec::with_capacity(parcels.len());
    let mut least: Option<StageError> = None;
    for parcel in parcels {
        if parcel.key != ERROR_KEY {
            results.push(parcel);
            continue;
        }
        let error = serde_json::from_slice(&parcel.bytes)
            .unwrap_or_else(|_| StageError::Internal("a worker failed and its message was damaged".into()));
        if least.as_ref().is_none_or(|known| error < *known) {
            least = Some(error);
        }
    }
    match least {
        Some(error) => Err(error),
        None => Ok(results),
    }
}

/// One call of a scan, and what it owes to other workers where it lends its blocks; `None` while it waits for blocks of theirs.
fn turn<S: Scan>(scan: &mut S, desk: Option<&RefCell<Desk>>) -> Result<Option<Step>, StageError> {
    let Some(desk) = desk else { return scan.step().map(Some) };
    let mut desk = desk.borrow_mut();
    match scan.leased().map_or(Turn::Read, |leased| desk.before(leased)) {
        Turn::Wait => return Ok(None),
        Turn::End => return Ok(Some(Step::Done)),
        Turn::Read => {}
    }
    let step = scan.step()?;
    let Some(leased) = scan.leased() else { return Ok(Some(step)) };
    match step {
        Step::More { .. } => desk.after(leased),
        Step::Done if matches!(desk.done(leased), Turn::Wait) => return Ok(None),
        Step::Done => {}
    }
    Ok(Some(step))
}

fn reduce<R: Reducer>(parcels: Vec<Outgoing>, reducer: &mut R) -> Result<Vec<Outgoing>, StageError> {
    let (errors, parcels): (Vec<_>, Vec<_>) = parcels.into_iter().partition(|p| p.key == ERROR_KEY);
    if !errors.is_empty() {
        return Ok(errors);
    }
    for Outgoing { key, bytes } in parcels {
        reducer.absorb(key, bytes)?;
    }
    reducer.finish()
}
