//! The session of a worker and the state shared by the workers of a process.
//!
//! A worker that panics leaves its siblings waiting in [`Session::once`] or in a pass: a program must end on any panic, as `nystream` does.

use crate::engine::checkpoint::{Checkpoints, Keeper};
use crate::engine::watch::Watch;
use crate::error::StageError;
use crate::profile::NAMED_BAD_ROWS;
use nystream_datasets::BadRow;
use std::any::Any;
use std::cell::Cell;
use std::cmp::Ordering as Place;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use timely::worker::Worker;

/// Where a pass tells how far it is. Called from worker threads, about once per chunk.
pub trait Progress: Send + Sync {
    /// A pass named `name` begins, in which this process handles about `rows` rows; 0: not known.
    fn begin(&self, name: &str, rows: u64);
    /// `rows` more rows are done.
    fn advance(&self, rows: u64);
    /// The pass is over.
    fn end(&self);
    /// Long algebra with matrices of `order` begins. Within a stage it is part of it; otherwise the next `begin` or `end` ends it.
    fn step(&self, _what: &str, _order: usize) {}
    /// A line for people, such as the plan.
    fn say(&self, _line: &str) {}
}

/// Order of a matrix from which its algebra takes long enough to be shown.
const SHOWN_ORDER: usize = 1000;

/// Which stage the first worker has begun, and rows that faster workers counted in stages it has not reached. Display only.
#[derive(Default)]
struct Stages {
    begun: u64,
    early: BTreeMap<u64, u64>,
}

/// Progress that nobody watches.
pub struct SilentProgress;

impl Progress for SilentProgress {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

type Shared = Arc<dyn Any + Send + Sync>;

/// What a process has of files that are spread over hosts.
pub(super) struct Here {
    /// How messages name the host.
    pub host: String,
    /// The files, as messages show them.
    pub paths: Vec<String>,
    /// Rows that the process reads, of all; `None` where nobody else has any.
    pub share: Option<(u64, u64)>,
}

impl Here {
    fn names_a_file(&self, text: &str) -> bool {
        !text.contains(&self.host) && self.paths.iter().any(|path| text.contains(path))
    }
}

/// What the worker threads of one process share.
pub struct Process {
    workers: usize,
    processes: usize,
    index: usize,
    slots: Mutex<BTreeMap<u64, (Shared, usize)>>,
    filled: Condvar,
    stages: Mutex<Stages>,
    /// Set when a worker of this process met an error: its siblings stop reading early.
    pub cancelled: AtomicBool,
    /// Bytes read from files.
    pub bytes_read: AtomicU64,
    /// Kernel entries evaluated.
    pub kernel_entries: AtomicU64,
    /// Floating-point operations, by the cost model's count: those of kernel entries, of products, and of m x m algebra.
    pub flops: AtomicU64,
    /// Floating-point operations that one kernel entry counts for ([`Process::count`]).
    pub entry_flops: AtomicU64,
    /// Blocks that workers of this process took over from others in passes, and that they gave up ([`leases`](crate::engine::leases)). Reports only.
    pub blocks_taken: AtomicU64,
    /// See there.
    pub blocks_given: AtomicU64,
    /// Bad rows met by passes over data that was not profiled, and the first of them by name.
    pub bad_rows: Mutex<(u64, Vec<BadRow>)>,
    /// Rows without a target met by such passes.
    pub skipped_rows: AtomicU64,
    /// Nanoseconds that workers waited in exchanges, added up over the workers. Display only.
    waited: AtomicU64,
    /// Watches the passes.
    pub progress: Box<dyn Progress>,
    checkpoints: OnceLock<Checkpoints>,
    /// Where files are spread over hosts.
    here: Mutex<Option<Here>>,
    /// What the process shows of itself.
    pub watch: Watch,
    started: Instant,
}

impl Process {
    /// The shared state of process `index` of `processes`, with `workers` threads each.
    pub fn new(workers: usize, processes: usize, index: usize, progress: Box<dyn Progress>) -> Arc<Self> {
        Arc::new(Process {
            workers,
            processes,
            index,
            slots: Mutex::new(BTreeMap::new()),
            filled: Condvar::new(),
            stages: Mutex::new(Stages::default()),
            cancelled: AtomicBool::new(false),
            bytes_read: AtomicU64::new(0),
            kernel_entries: AtomicU64::new(0),
            flops: AtomicU64::new(0),
            entry_flops: AtomicU64::new(0),
            blocks_taken: AtomicU64::new(0),
            blocks_given: AtomicU64::new(0),
            bad_rows: Mutex::new((0, Vec::new())),
            skipped_rows: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            progress,
            checkpoints: OnceLock::new(),
            here: Mutex::new(None),
            watch: Watch::default(),
            started: Instant::now(),
        })
    }

    /// Worker threads of each process.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Number of processes.
    pub fn processes(&self) -> usize {
        self.processes
    }

    /// This process's index.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Files are spread over hosts, and this process has those of `here`, beside those that it was told of before: of these it has the same share of rows, or about.
    pub(super) fn has(&self, here: Here) {
        match &mut *self.here.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(known) => known.paths.extend(here.paths),
            unknown => *unknown = Some(here),
        }
    }

    /// Of `rows` rows of all processes, about those that this one handles. Display only.
    pub fn own_rows(&self, rows: u64) -> u64 {
        let here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        match here.as_ref().and_then(|here| here.share) {
            Some((own, all)) => (u128::from(rows) * u128::from(own)).div_ceil(u128::from(all.max(1))) as u64,
            None => rows.div_ceil(self.processes as u64),
        }
    }

    /// `error` with the host that it is of, where its message names a file that other hosts may have under the same path.
    pub(super) fn located(&self, error: StageError) -> StageError {
        match (error, &*self.here.lock().unwrap_or_else(PoisonError::into_inner)) {
            (StageError::Data(text), Some(here)) if here.names_a_file(&text) => {
                StageError::Data(format!("{}: {text}", here.host))
            }
            (error, _) => error,
        }
    }

    /// Leaves `value` under `ticket` for the other workers of this process.
    fn hand_out(&self, ticket: u64, value: &Shared) {
        if self.workers > 1 {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.insert(ticket, (Arc::clone(value), self.workers - 1));
            self.filled.notify_all();
        }
    }

    /// Waits for what another worker leaves under `ticket`.
    fn receive(&self, ticket: u64) -> Shared {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some((value, waiting)) = slots.get_mut(&ticket) {
                let value = Arc::clone(value);
                *waiting -= 1;
                if *waiting == 0 {
                    slots.remove(&ticket);
                }
                return value;
            }
            slots = self.filled.wait(slots).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds kernel entries, with [`Process::entry_flops`] each, and the `flops` of what was done with them.
    pub fn count(&self, kernel_entries: u64, flops: u64) {
        self.kernel_entries.fetch_add(kernel_entries, Ordering::Relaxed);
        let each = self.entry_flops.load(Ordering::Relaxed);
        self.flops.fetch_add(flops + kernel_entries * each, Ordering::Relaxed);
    }

    /// The first worker reaches `stage`: what the others counted in it before is told with `show`.
    fn reach(&self, stage: u64, show: impl FnOnce()) {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.begun = stage;
        let early = stages.early.remove(&stage).unwrap_or_default();
        stages.early.retain(|later, _| *later > stage);
        show();
        if early > 0 {
            self.progress.advance(early);
        }
    }

    /// Rows were handled outside of a pass, in a stage that all workers are in.
    pub(crate) fn handled(&self, rows: u64) {
        self.watch.count_rows(rows);
        self.progress.advance(rows);
    }

    /// Shows rows done in `stage`, now or when the first worker gets there. Rows of a stage that is over are not shown.
    pub(super) fn advance(&self, stage: u64, rows: u64) {
        self.watch.count_rows(rows);
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        match stage.cmp(&stages.begun) {
            Place::Less => {}
            Place::Equal => self.progress.advance(rows),
            Place::Greater => *stages.early.entry(stage).or_default() += rows,
        }
    }

    /// Adds the flops of algebra without kernel entries.
    pub fn count_algebra(&self, flops: f64) {
        self.flops.fetch_add(flops as u64, Ordering::Relaxed);
    }

    /// Records what a chunk left out.
    pub fn note_left_out(&self, chunk: &nystream_datasets::Chunk) {
        self.skipped_rows.fetch_add(chunk.skipped_null_target, Ordering::Relaxed);
        if !chunk.bad.is_empty() {
            let mut bad = self.bad_rows.lock().unwrap_or_else(PoisonError::into_inner);
            bad.0 += chunk.bad.len() as u64;
            bad.1.extend_from_slice(&chunk.bad);
            // The first in file order, whichever worker met them first.
            bad.1.sort();
            bad.1.truncate(NAMED_BAD_ROWS);
        }
    }

    /// Seconds that a worker of this process spent, on the average, between the end of its own share of a pass and the end of the pass: for other workers, their
    /// results, and the network. Reports only.
    pub fn seconds_waiting(&self) -> f64 {
        self.waited.load(Ordering::Relaxed) as f64 * 1e-9 / self.workers as f64
    }

    /// Has the job keep checkpoints with `keeper`, before its workers run; [`open`](crate::engine::checkpoint::open) is then the first thing they do.
    pub fn keep(&self, keeper: Arc<dyn Keeper>) {
        let _ = self.checkpoints.set(Checkpoints::new(keeper));
    }

    /// What keeps its checkpoints.
    pub(super) fn checkpoints(&self) -> Option<&Checkpoints> {
        self.checkpoints.get()
    }

    /// When the process's session began.
    pub(super) fn begun(&self) -> Instant {
        self.started
    }

    /// Seconds since the process's session began. Reports and `--time-limit` only: never a decision about the model.
    pub fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// One worker's view of a running job.
pub struct Session<'w> {
    /// The timely worker.
    pub worker: &'w mut Worker,
    /// What the process's workers share.
    pub process: Arc<Process>,
    ticket: u64,
    /// Stages begun and ended by this worker: all workers count alike.
    stage: u64,
    /// The stage that is told of in the log: its name, and when it began.
    told: Option<Told>,
    /// Time that this worker waited in passes.
    waited: Rc<Cell<Duration>>,
    /// Rows that it handled in them.
    rows: Rc<Cell<u64>>,
}

/// A stage of one worker, for the log.
struct Told {
    name: String,
    begun: Instant,
    waited: Duration,
    rows: u64,
}

impl<'w> Session<'w> {
    /// The session of `worker` in `process`.
    pub fn new(worker: &'w mut Worker, process: Arc<Process>) -> Self {
        Session { worker, process, ticket: 0, stage: 0, told: None, waited: Rc::default(), rows: Rc::default() }
    }

    /// Global index of this worker.
    pub fn index(&self) -> usize {
        self.worker.index()
    }

    /// Number of workers over all processes.
    pub fn peers(&self) -> usize {
        self.worker.peers()
    }

    /// Index of this worker within its process.
    pub fn local_index(&self) -> usize {
        self.worker.index() % self.process.workers
    }

    /// Whether this worker computes for its process.
    pub fn is_leader(&self) -> bool {
        self.local_index() == 0
    }

    /// Whether this worker is the first of all: the one that prints and writes.
    pub fn is_first(&self) -> bool {
        self.worker.index() == 0
    }

    /// A stage named `name` over `rows` rows begins (0: not known). Every worker calls this in step, though not at the same moment: rows that one counts
    /// before the first worker gets here are shown with the others.
    pub fn begin(&mut self, name: &str, rows: u64) {
        self.stage += 1;
        self.tell_end();
        self.told = Some(Told {
            name: name.to_owned(),
            begun: Instant::now(),
            waited: self.waited.get(),
            rows: self.rows.get(),
        });
        if self.is_leader() {
            let own = self.process.own_rows(rows);
            self.process.watch.begin(name, own);
            tracing::info!(stage = name, process = self.process.index, rows_of_all = rows, "stage begins");
            self.process.reach(self.stage, || self.process.progress.begin(name, own));
        }
    }

    /// [`Session::begin`] of a stage whose passes, of which nobody knows the number yet, are over `rows` rows each.
    pub fn begin_passes(&mut self, name: &str, rows: u64) {
        self.begin(name, 0);
        if self.is_leader() {
            self.process.watch.expect(self.process.own_rows(rows));
        }
    }

    /// Logs what became of the stage in this worker.
    fn tell_end(&mut self) {
        let Some(Told { name: stage, begun, waited, rows }) = self.told.take() else { return };
        let (process, worker) = (self.process.index, self.worker.index());
        let (rows, seconds) = (self.rows.get() - rows, begun.elapsed().as_secs_f64());
        let waiting = (self.waited.get() - waited).as_secs_f64();
        tracing::info!(stage, process, worker, rows, seconds, waiting, "stage ends");
    }

    /// Time that this worker has waited in passes so far; whoever keeps it sees it grow.
    pub fn waited(&self) -> Rc<Cell<Duration>> {
        Rc::clone(&self.waited)
    }

    /// Where a scan of this worker counts its rows.
    pub(super) fn rows(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.rows)
    }

    /// Adds the time since `scanned`, when this worker had done its share of a pass, and what it `waited` for blocks of others before, to what is waited.
    pub(super) fn wait_since(&mut self, scanned: Option<Instant>, waited: Duration) {
        let waited = waited + scanned.map_or(Duration::ZERO, |scanned| scanned.elapsed());
        self.waited.set(self.waited.get() + waited);
        self.process.waited.fetch_add(waited.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The stage, or [`Session::step`], is over. Every worker calls this in step, after the last pass of the stage.
    pub fn end(&mut self) {
        self.stage += 1;
        self.tell_end();
        if self.is_leader() {
            self.process.watch.end();
            self.process.reach(self.stage, || self.process.progress.end());
        }
    }

    /// Tells that algebra with matrices of `order` begins, where it takes long enough to be told. Within a stage it is part of it; otherwise
    /// [`Session::end`] ends it.
    pub fn step(&self, what: &str, order: usize) {
        if self.is_leader() && order >= SHOWN_ORDER {
            self.process.progress.step(what, order);
        }
    }

    /// The number of the stage, for what is counted in it.
    pub(super) fn stage(&self) -> u64 {
        self.stage
    }

    /// Computes `work` once in this process, on its first worker, and hands the value to all its workers.
    ///
    /// Every worker of the process must call this in the same order. The waiting workers sleep, so `work` may use all the
    /// process's threads.
    ///
    /// ```
    /// use nystream_dataflows::engine::{Process, SilentProgress, run};
    /// let process = Process::new(3, 1, 0, Box::new(SilentProgress));
    /// let communication = timely::CommunicationConfig::Process(3).try_build().unwrap();
    /// let values = run(&process, communication, |session| {
    ///     let index = session.index();
    ///     *session.once(|| 10 + index)
    /// });
    /// assert_eq!(values.unwrap(), [10, 10, 10]);
    /// ```
    pub fn once<T, F>(&mut self, work: F) -> Arc<T>
    where
        T: Any + Send + Sync,
        F: FnOnce() -> T,
    {
        let ticket = self.ticket;
        self.ticket += 1;
        let shared: Shared = if self.is_leader() {
            let value: Shared = Arc::new(work());
            self.process.hand_out(ticket, &value);
            value
        } else {
            self.process.receive(ticket)
        };
        // All workers run the same program, so ticket k has one type everywhere.
        shared.downcast::<T>().unwrap_or_else(|_| unreachable!("workers of a process fell out of step"))
    }

    /// What each worker of this process gives, in their order, to all of them. Every worker of the process must call this in step.
    ///
    /// ```
    /// use nystream_dataflows::engine::{Process, SilentProgress, run};
    /// let process = Process::new(3, 1, 0, Box::new(SilentProgress));
    /// let communication = timely::CommunicationConfig::Process(3).try_build().unwrap();
    /// let values = run(&process, communication, |session| {
    ///     let index = session.index();
    ///     session.share(10 + index).iter().map(|value| **value).collect::<Vec<_>>()
    /// });
    /// assert_eq!(values.unwrap(), [[10, 11, 12], [10, 11, 12], [10, 11, 12]]);
    /// ```
    pub fn share<T: Any + Send + Sync>(&mut self, mine: T) -> Vec<Arc<T>> {
        let (first, workers, own) = (self.ticket, self.process.workers, self.local_index());
        self.ticket += workers as u64;
        let mine: Shared = Arc::new(mine);
        self.process.hand_out(first + own as u64, &mine);
        let take = |worker: usize| match worker == own {
            true => Arc::clone(&mine),
            false => self.process.receive(first + worker as u64),
        };
        let values = (0..workers).map(take);
        values.map(|v| v.downcast().unwrap_or_else(|_| unreachable!("workers of a process fell out of step"))).collect()
    }

    /// [`Session::once`] for work that can fail; every worker of the process gets the same error. Other processes do not hear of it:
    /// there the work must fail alike, or the error travel with a [`pass`](crate::engine::pass).
    ///
    /// ```
    /// use nystream_dataflows::StageError;
    /// use nystream_dataflows::engine::{Process, SilentProgress, run};
    /// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
    /// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
    /// let results = run(&process, communication, |session| {
    ///     session.try_once(|| Err::<f64, _>(StageError::Numeric("pivot 3 is negative".into())))
    /// });
    /// for result in results.unwrap() {
    ///     assert_eq!(result, Err(StageError::Numeric("pivot 3 is negative".into())));
    /// }
    /// ```
    ///
    /// # Errors
    /// The error of `work`.
    pub fn try_once<T, F>(&mut self, work: F) -> Result<Arc<T>, StageError>
    where
        T: Any + Send + Sync,
        F: FnOnce() -> Result<T, StageError>,
    {
        let result = self.once(|| work().map(Arc::new));
        match &*result {
            Ok(value) => Ok(Arc::clone(value)),
            Err(error) => Err(error.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process shows, a line a call.
    #[derive(Clone, Default)]
    struct Shown(Arc<Mutex<Vec<String>>>);

    impl Progress for Shown {
        fn begin(&self, name: &str, rows: u64) {
            self.0.lock().unwrap().push(format!("{name} of {rows}"));
        }
        fn advance(&self, rows: u64) {
            self.0.lock().unwrap().push(format!("+{rows}"));
        }
        fn end(&self) {
            self.0.lock().unwrap().push("end".into());
        }
    }

    #[test]
    fn rows_are_shown_in_the_stage_they_were_counted_in() {
        let shown = Shown::default();
        let process = Process::new(2, 1, 0, Box::new(shown.clone()));
        // The second worker is ahead of the first: in its stage, and then in the pass after it.
        process.advance(1, 7);
        process.advance(1, 1);
        process.advance(2, 100);
        process.reach(1, || process.progress.begin("profile", 10));
        process.advance(1, 2);
        process.reach(2, || process.progress.end());
        // One that comes late shows nothing any more.
        process.advance(1, 1000);
        process.reach(3, || process.progress.begin("sample", 5));
        process.advance(3, 5);
        let lines = shown.0.lock().unwrap().clone();
        assert_eq!(lines, ["profile of 10", "+8", "+2", "end", "+100", "sample of 5", "+5"]);
    }
}
