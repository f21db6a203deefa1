//! The threads of an engine: of this process alone, or of several that have joined; and what they may take of the machine.

use super::together;
use super::worker::{AHEAD, Task, serve};
use crate::engine::agree;
use crate::engine::run;
use crate::engine::session::{Process, Session};
use crate::error::StageError;
use crate::job::fit::live::{Fixed, HELD_SHARE};
use crate::job::{FitConfig, Frozen};
use crate::nystrom::gram::panel_rows;
use crate::online::learner::RunEnd;
use crate::online::settle::REPLAY_ROWS;
use crate::plan::{MemoryPlan, program_bytes};
use crate::profile::SAMPLE_ROWS;
use nystream_datasets::{Encoder, RowSlots, SlotLayout};
use nystream_kernels::gram::{ExactGram, Precision};
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use timely::communication::AllocatorBuilder;

/// m x m matrices of f64 that a solve holds beside the Gram.
const SOLVE_MATRICES: u64 = 8;

/// Timely's allocators, one for each worker of this process, and the guard of its network threads.
pub type Communication = (Vec<AllocatorBuilder>, Box<dyn Any + Send>);

/// The threads of an engine.
pub enum Threads {
    /// So many of this process alone.
    Own(usize),
    /// Those of processes that have joined, of which this is the first.
    Joined(Joined),
}

/// Processes that have joined.
pub struct Joined {
    /// This one.
    pub process: Arc<Process>,
    /// How it is connected.
    pub communication: Communication,
    /// What the others make their configuration of ([`follow`]).
    pub told: Vec<u8>,
}

/// Serves the orders of a run whose first process is another: keeps the rows and sums that this one is dealt, and takes its part in publications. `make`: the configuration of what the first process
/// tells ([`Joined::told`]). It returns when the run ends, and says how.
///
/// # Errors
/// What `make` says, [`StageError::Budget`] as [`ExactEngine::new`](super::ExactEngine::new), and what ends the run.
pub fn follow(
    process: &Arc<Process>,
    communication: Communication,
    make: impl Fn(&[u8]) -> Result<(FitConfig, Frozen), StageError> + Send + Sync + 'static,
) -> Result<RunEnd, StageError> {
    let job = move |session: &mut Session<'_>| {
        let told = together::of_first(session, || Ok(Vec::new()))?;
        let (workers, processes) = (session.process.workers(), session.process.processes());
        let made = session.try_once(|| {
            let (config, frozen) = make(&told)?;
            let fixed = check(config, frozen, (workers, processes))?;
            let slots = slots(&fixed, workers)?.into_iter().map(Some).collect::<Vec<_>>();
            Ok((fixed, Mutex::new(slots)))
        });
        let made = agree(session, made)?;
        let slots = made.1.lock().unwrap_or_else(PoisonError::into_inner)[session.local_index()].take();
        let slots = slots.ok_or_else(|| StageError::Internal("a worker was started twice".into()))?;
        serve_as(session, &made.0, Task { slots, ordered: None })
    };
    let ends = run(process, communication, job).map_err(StageError::Internal)?;
    let ends: Vec<RunEnd> = ends.into_iter().collect::<Result<_, _>>()?;
    // All workers hear the same.
    Ok(ends.first().copied().unwrap_or(RunEnd::Failed))
}

/// [`serve`] in the precision of the configuration.
pub(super) fn serve_as(session: &mut Session<'_>, fixed: &Fixed, task: Task) -> Result<RunEnd, StageError> {
    match fixed.config.precision {
        Precision::Single => serve::<f32>(session, fixed, task),
        Precision::Double => serve::<f64>(session, fixed, task),
    }
}

/// Where the rows of so many workers go.
pub(super) fn slots(fixed: &Fixed, workers: usize) -> Result<Vec<RowSlots>, StageError> {
    let (folder, limit) = (&fixed.config.temp_dir, fixed.config.disk_limit / workers as u64);
    let slots = (0..workers).map(|_| RowSlots::new(folder, layout(&fixed.encoder), limit));
    Ok(slots.collect::<Result<_, _>>()?)
}

/// What is fixed of such an engine, whose memory is enough for `workers` workers.
pub(super) fn check(
    config: FitConfig,
    frozen: Frozen,
    (workers, processes): (usize, usize),
) -> Result<Arc<Fixed>, StageError> {
    let fixed = Arc::new(Fixed::new(config, frozen)?);
    let plan = memory(&fixed, workers, processes);
    plan.check_or(fixed.config.memory, "use fewer --workers, or a model with fewer --centers")?;
    Ok(fixed)
}

/// Columns of the rows' slots.
fn layout(encoder: &Encoder) -> SlotLayout {
    SlotLayout { numeric: encoder.numeric_width(), codes: encoder.code_width(), targets: encoder.target_width() }
}

/// What the engine holds whatever the rows are.
pub(super) fn memory(fixed: &Fixed, workers: usize, processes: usize) -> MemoryPlan {
    let mut plan = MemoryPlan::default();
    plan.add("the program", program_bytes(workers));
    let m = fixed.centers(u64::MAX);
    let (shape, layout, workers) = (fixed.gram_shape(m), layout(&fixed.encoder), workers as u64);
    let entry: u64 = if fixed.config.precision == Precision::Double { 8 } else { 4 };
    plan.add(format!("two exact Grams of {m} centers"), 2 * ExactGram::memory_bytes(shape) as u64);
    if processes > 1 {
        // Those of all, and what is on its way.
        plan.add("the sums of all processes", 2 * ExactGram::memory_bytes(shape) as u64);
    }
    let matrix = 8 * (m as u64).pow(2);
    plan.add("the solve", SOLVE_MATRICES * matrix);
    let stride = m.next_multiple_of(64);
    let panel = panel_rows(stride) as u64 * stride as u64 * entry + ExactGram::scratch_bytes(shape) as u64;
    plan.add("panels of the workers", workers * panel);
    let centers = m as u64 * (layout.bytes() as u64 + entry * layout.numeric as u64);
    plan.add("packed centers", 3 * centers);
    let pool = fixed.rule.map_or(0, |rule| match rule.method {
        crate::dictionary::Method::RpCholesky { most: Some(most), .. } => 2 * most * (layout.bytes() + 8 * m) as u64,
        // A window of rows, nodes that are kept, and a Shrink for each worker.
        crate::dictionary::Method::Squeak { atoms, .. } => {
            2 * (fixed.config.memory / HELD_SHARE) + 40 * (atoms * 5 / 4).pow(2) * workers
        }
        _ => 4 * m as u64 * (layout.bytes() as u64 + 80),
    });
    plan.add("choosing centers", pool + fixed.known_bytes());
    // Encoded, and dealt.
    plan.add("batches on their way", 2 * (AHEAD + 1) as u64 * REPLAY_ROWS as u64 * layout.bytes() as u64);
    plan.add("the sample", 2 * SAMPLE_ROWS * layout.bytes() as u64 * 2);
    plan
}
