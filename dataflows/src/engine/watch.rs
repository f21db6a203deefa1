//! What a process shows of itself while it works: for metrics and logs, never for a decision.
//!
//! Invariants: nothing here is read by a stage; every figure is one atomic, written where the work is done and read by whoever asks; a figure that does not apply is absent. Cost: an
//! atomic addition a chunk, a lock a stage.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The figures of a process.
///
/// ```
/// use nystream_dataflows::engine::Watch;
/// let watch = Watch::default();
/// watch.begin("gram", 1000);
/// watch.count_rows(400);
/// watch.iterated(3, 0.5);
/// let seen = watch.seen();
/// assert_eq!((seen.rows, seen.stage.as_deref(), seen.stage_rows), (400, Some("gram"), 400));
/// assert_eq!((seen.iteration, seen.residual), (Some(3), Some(0.5)));
/// // No checkpoint was written yet.
/// assert_eq!(seen.checkpoint_age, None);
/// ```
#[derive(Default)]
pub struct Watch {
    rows: AtomicU64,
    stage: Mutex<Option<Stage>>,
    /// Iterations and 1; 0 before the first.
    iteration: AtomicU64,
    /// Bits of the residual.
    residual: AtomicU64,
    ahead: AtomicI64,
    planned: AtomicU64,
    checkpoint: Mutex<Option<Instant>>,
}

struct Stage {
    name: String,
    /// Rows of [`Watch::rows`] when it began.
    before: u64,
    /// Rows that it is expected to see; 0: not known.
    expected: u64,
    begun: Instant,
}

/// The figures at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Rows that passes have handled.
    pub rows: u64,
    /// The stage at work.
    pub stage: Option<String>,
    /// Seconds since it began.
    pub stage_seconds: f64,
    /// Rows that it has handled.
    pub stage_rows: u64,
    /// Rows that this process is expected to handle in it; 0: not known.
    pub stage_rows_expected: u64,
    /// Steps of an iterative solver.
    pub iteration: Option<u64>,
    /// Its relative residual, as it believes; of several columns the largest.
    pub residual: Option<f64>,
    /// Chunks that were read and not yet used.
    pub ahead: u64,
    /// Bytes of memory that the plan of the job gives a process; 0 before there is one.
    pub planned: u64,
    /// Seconds since the last checkpoint was written.
    pub checkpoint_age: Option<f64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// A stage begins, in which this process is expected to handle `rows` rows (0: not known).
    pub fn begin(&self, name: &str, rows: u64) {
        let before = self.rows.load(Ordering::Relaxed);
        *lock(&self.stage) = Some(Stage { name: name.to_owned(), before, expected: rows, begun: Instant::now() });
    }

    /// The stage is expected to see `rows` rows in a pass.
    pub fn expect(&self, rows: u64) {
        lock(&self.stage).iter_mut().for_each(|stage| stage.expected = rows);
    }

    /// It is over.
    pub fn end(&self) {
        *lock(&self.stage) = None;
    }

    /// Rows were handled.
    pub fn count_rows(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// A solver has made so many steps, and has this relative residual; NaN where it does not know.
    pub fn iterated(&self, steps: u64, residual: f64) {
        self.residual.store(residual.to_bits(), Ordering::Relaxed);
        self.iteration.store(steps + 1, Ordering::Relaxed);
    }

    /// The plan gives a process so many bytes.
    pub fn plan(&self, bytes: u64) {
        self.planned.store(bytes, Ordering::Relaxed);
    }

    /// A checkpoint was written.
    pub fn checkpointed(&self) {
        *lock(&self.checkpoint) = Some(Instant::now());
    }

    /// What there is to see now.
    pub fn seen(&self) -> Seen {
        let rows = self.rows.load(Ordering::Relaxed);
        let iteration = self.iteration.load(Ordering::Relaxed).checked_sub(1);
        let residual = f64::from_bits(self.residual.load(Ordering::Relaxed));
        let mut seen = Seen {
            rows,
            iteration,
            residual: iteration.and(Some(residual)).filter(|residual| residual.is_finite()),
            ahead: self.ahead.load(Ordering::Relaxed).max(0) as u64,
            planned: self.planned.load(Ordering::Relaxed),
            checkpoint_age: lock(&self.checkpoint).map(|written| written.elapsed().as_secs_f64()),
            ..Seen::default()
        };
        if let Some(stage) = &*lock(&self.stage) {
            seen.stage = Some(stage.name.clone());
            seen.stage_seconds = stage.begun.elapsed().as_secs_f64();
            seen.stage_rows = rows.saturating_sub(stage.before);
            seen.stage_rows_expected = stage.expected;
        }
        seen
    }
}

/// A chunk that was read ahead, counted while this lives.
pub(crate) struct Ahead(Arc<super::session::Process>);

impl Ahead {
    pub(crate) fn new(process: &Arc<super::session::Process>) -> Self {
        process.watch.ahead.fetch_add(1, Ordering::Relaxed);
        Ahead(Arc::clone(process))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.watch.ahead.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Process, SilentProgress};

    #[test]
    fn stages_count_their_own_rows_and_absent_figures_are_absent() {
        let watch = Watch::default();
        assert_eq!(watch.seen(), Seen::default());
        watch.count_rows(100);
        watch.begin("profile", 50);
        watch.count_rows(20);
        let seen = watch.seen();
        assert_eq!((seen.rows, seen.stage_rows, seen.stage_rows_expected), (120, 20, 50));
        watch.expect(70);
        assert_eq!(watch.seen().stage_rows_expected, 70);
        watch.end();
        watch.expect(80);
        assert_eq!((watch.seen().stage, watch.seen().stage_rows_expected), (None, 0));
        watch.iterated(0, f64::NAN);
        assert_eq!((watch.seen().iteration, watch.seen().residual), (Some(0), None));
        watch.checkpointed();
        assert!(watch.seen().checkpoint_age.is_some_and(|age| age < 60.0));
    }

    #[test]
    fn chunks_are_counted_while_they_wait() {
        let process = Process::new(1, 1, 0, Box::new(SilentProgress));
        let waiting = [Ahead::new(&process), Ahead::new(&process)];
        assert_eq!(process.watch.seen().ahead, 2);
        drop(waiting);
        assert_eq!(process.watch.seen().ahead, 0);
    }
}
