//! The engine behind [`Learner`]: threads of workers that are told what to do; batches ahead of those that they are at (`crew`).

use super::PLACE_BYTES;
use super::crew::{Crew, Ends};
use super::publish::{Outcome, Work};
use super::snapshot;
use super::sums::{self, Reference};
use super::threads::{Joined, Threads, check, memory, serve_as, slots};
use super::together;
use super::worker::{Lot, Order, Reply, Task};
use crate::engine::agree;
use crate::engine::run;
use crate::engine::session::{Process, Progress, Session};
use crate::error::StageError;
use crate::job::fit::live::Fixed;
use crate::job::{FitConfig, FitOutcome, Frozen};
use crate::online::learner::{Answer, Batch, Info, Learner, Prediction, Published, Recovery, RunEnd, Traits};
use crate::plan::MemoryPlan;
use crate::predict::{Function, RowPredictor};
use nystream_datasets::{Chunk, Encoder};
use nystream_hashing::RowId;
use nystream_kernels::rows::Rows;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// What an engine is made of: what `--config-from` takes over, and the threads.
pub struct ExactSetup {
    /// The configuration; solver gram, ridges and the choice of centers given. Its memory, disk limit and folder for temporary files are the engine's.
    pub config: FitConfig,
    /// The rest of it. The encoder names the column of the keys.
    pub frozen: Frozen,
    /// Worker threads.
    pub threads: Threads,
    /// Where snapshots store the sums; without it a restart sums all rows again.
    pub folder: Option<PathBuf>,
    /// Watches passes over the rows, of threads that the engine starts.
    pub progress: Box<dyn Progress>,
}

/// A learner whose model is that of `fit --config-from` on the rows that are there; see the [module](super).
///
/// ```no_run
/// use nystream_dataflows::StageError;
/// use nystream_dataflows::engine::SilentProgress;
/// use nystream_dataflows::job::{FitConfig, Frozen};
/// use nystream_dataflows::online::exact::{ExactEngine, ExactSetup, Threads};
/// use nystream_dataflows::online::learner::{Batch, Learner};
/// use nystream_datasets::Chunk;
/// # fn example(config: FitConfig, frozen: Frozen, rows: Chunk) -> Result<(), StageError> {
/// // What `--config-from MODEL` takes over, and encoded rows.
/// let mut engine = ExactEngine::new(ExactSetup { config, frozen, threads: Threads::Own(2), folder: None, progress: Box::new(SilentProgress) })?;
/// engine.learn(&Batch { changes: &[], removed: &Chunk::new(), added: &rows })?;
/// let with = engine.publish()?;
/// engine.learn(&Batch { changes: &[], removed: &rows, added: &Chunk::new() })?;
/// // Nothing is left of them.
/// assert!(matches!(engine.publish(), Err(StageError::Data(_))));
/// # Ok(())
/// # }
/// ```
pub struct ExactEngine {
    fixed: Arc<Fixed>,
    crew: Crew,
    processes: usize,
    /// Rows that came or went since the last publication.
    changed: u64,
    /// Memory that does not depend on the rows.
    memory: MemoryPlan,
    last: Option<Last>,
    work: Work,
    /// Where the sums are stored.
    folder: Option<PathBuf>,
    /// The file that has the present ones.
    stored: Option<Reference>,
    notes: Vec<String>,
}

/// The last publication.
struct Last {
    predictor: RowPredictor,
    /// Nothing after a restart.
    outcome: Option<Arc<FitOutcome>>,
    rows: u64,
    sum_weights: f64,
}

impl ExactEngine {
    /// Starts the workers; there are no rows.
    ///
    /// # Errors
    /// [`StageError::Usage`] for a configuration that exact learning cannot keep, [`StageError::Budget`] for one that does not fit the memory or where there can be no file for the rows.
    pub fn new(setup: ExactSetup) -> Result<Self, StageError> {
        let ExactSetup { config, frozen, threads, folder, progress } = setup;
        let start = |e: String| StageError::Internal(format!("cannot start workers: {e}"));
        let Joined { process, communication, told } = match threads {
            Threads::Joined(joined) => joined,
            Threads::Own(workers) => {
                let workers = workers.max(1);
                let communication = timely::CommunicationConfig::Process(workers).try_build().map_err(start)?;
                Joined { process: Process::new(workers, 1, 0, progress), communication, told: Vec::new() }
            }
        };
        let workers = process.workers();
        let processes = process.processes();
        let made = check(config, frozen, (workers, processes));
        let made = made.and_then(|fixed| Ok((slots(&fixed, workers)?, fixed)));
        let (slots, fixed) = match made {
            Ok(made) => made,
            Err(error) => {
                if processes > 1 {
                    // The others wait for the configuration: they end with the same error.
                    let refused = error.clone();
                    let job = move |session: &mut Session<'_>| {
                        together::of_first(session, || Ok(told.clone()))?;
                        agree::<()>(session, Err(refused.clone()))
                    };
                    let _ = run(&process, communication, job);
                }
                return Err(error);
            }
        };
        let memory = memory(&fixed, workers, processes);
        let (mut crew, ordered) = Crew::new(workers);
        let tasks = slots.into_iter().zip(ordered);
        let tasks: Vec<_> = tasks.map(|(slots, ordered)| Some(Task { slots, ordered: Some(ordered) })).collect();
        let (tasks, shared) = (Mutex::new(tasks), Arc::clone(&fixed));
        let job = move |session: &mut Session<'_>| {
            if session.process.processes() > 1 {
                together::of_first(session, || Ok(told.clone()))?;
                agree(session, Ok(()))?;
            }
            let task = tasks.lock().unwrap_or_else(PoisonError::into_inner)[session.local_index()].take();
            let task = task.ok_or_else(|| StageError::Internal("a worker was started twice".into()))?;
            if let (true, Some(ordered)) = (session.process.processes() > 1, &task.ordered) {
                let _ = ordered.replies.send(Reply::Summed(Ok(())));
            }
            serve_as(session, &shared, task)
        };
        let threads = std::thread::Builder::new()
            .name("exact".into())
            .spawn(move || -> Ends { run(&process, communication, job) })
            .map_err(|e| start(e.to_string()))?;
        crew.started(threads);
        let mut engine = ExactEngine {
            fixed,
            crew,
            processes,
            changed: 0,
            memory,
            last: None,
            work: Work::default(),
            folder,
            stored: None,
            notes: Vec::new(),
        };
        if processes > 1 {
            // What the others cannot keep is told before anything is learned.
            engine.crew.replies(summed)?;
        }
        Ok(engine)
    }

    /// Whether an engine of this configuration could be made with `workers` workers a process.
    ///
    /// # Errors
    /// As [`ExactEngine::new`].
    pub fn can_be_made(config: FitConfig, frozen: Frozen, workers: usize) -> Result<(), StageError> {
        let fixed = check(config, frozen, (workers, 1))?;
        slots(&fixed, workers).map(drop)
    }

    /// The encoder of the rows, with the test that they must pass.
    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.fixed.encoder
    }

    /// The last publication as a fit tells of itself, of which a model file is made; `None` before there is any, and after a restart until the next.
    pub fn outcome(&self) -> Option<&Arc<FitOutcome>> {
        self.last.as_ref().and_then(|last| last.outcome.as_ref())
    }

    /// What the last publication did again.
    pub fn work(&self) -> Work {
        self.work
    }

    /// The rows of all workers are summed from scratch, the centers chosen from scratch, and the model compared with the last publication, of which no row may have come or gone since: whether
    /// they are equal to the bit.
    ///
    /// # Errors
    /// As [`Learner::publish`]; [`StageError::Usage`] where there is no publication of the rows that are there.
    pub fn verify(&mut self) -> Result<bool, StageError> {
        let Some(last) = self.last.as_ref().filter(|_| self.changed == 0) else {
            return Err(StageError::Usage("there is no publication of the rows that are there: publish first".into()));
        };
        let (function, rows, sum_weights) = (Arc::clone(last.predictor.function()), last.rows, last.sum_weights);
        let outcome = self.published(&Order::Verify)?.fit;
        let again = outcome.function.ok_or_else(|| StageError::Internal("nothing was fitted".into()))?;
        let same =
            snapshot::bytes(&function, rows, sum_weights) == snapshot::bytes(&again, outcome.rows, outcome.weight_sum);
        Ok(same)
    }

    /// Sends an order to publish or verify.
    fn published(&mut self, order: &Order) -> Result<Box<Outcome>, StageError> {
        let outcomes =
            self.crew.ask(order, |reply| if let Reply::Published(found) = reply { Some(found) } else { None });
        self.stored = None;
        outcomes?.into_iter().flatten().next().ok_or_else(|| StageError::Internal("nobody published".into()))
    }

    /// Applies changes; `loading`: of a restart, which the sums have already where there are any.
    fn apply(&mut self, batch: &Batch<'_>, loading: bool) -> Result<(), StageError> {
        let (removed, which) = net(batch.removed, batch.added);
        let changes = (removed.len() + which.len()) as u64;
        if changes == 0 {
            return Ok(());
        }
        let room = |rows: u64| {
            let mut memory = self.memory.clone();
            memory.add(format!("ids of {rows} rows"), PLACE_BYTES * rows.div_ceil(self.processes as u64));
            memory.check_or(self.fixed.config.memory, "keep fewer rows (--window)")
        };
        if room(self.crew.rows_at_most() + which.len() as u64).is_err() {
            // What batches under way take away makes room.
            room(self.crew.rows()? + which.len() as u64)?;
        }
        self.crew.learn(Lot { removed, added: batch.added.clone(), which, loading })?;
        if !loading {
            (self.stored, self.changed) = (None, self.changed + changes);
        }
        Ok(())
    }

    /// Stores the sums, unless a file has them. Where that fails they are made again after a restart.
    fn store(&mut self) -> Result<Option<Reference>, StageError> {
        let Some(folder) = self.folder.clone().filter(|_| self.stored.is_none()) else { return Ok(self.stored) };
        let saved = |reply| if let Reply::Saved(found) = reply { Some(Ok(found)) } else { None };
        for found in self.crew.ask(&Order::Save(folder), saved)? {
            match found {
                Ok(reference) => self.stored = reference,
                Err(StageError::Data(reason)) => {
                    let note = format!("{reason}: a restart from this snapshot sums all rows again");
                    self.notes.retain(|known| *known != note);
                    self.notes.push(note);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.stored)
    }

    /// Goes on from the sums in the file of `reference`; says so where that cannot be.
    fn restore_sums(&mut self, reference: &Reference) -> Result<(), StageError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        match sums::read(folder, reference, |m| self.fixed.gram_shape(m)) {
            Ok(kept) => {
                let (rows, encoder) = (&kept.centers.rows, &self.fixed.encoder);
                if (rows.numeric_width, rows.code_width) != (encoder.numeric_width(), encoder.code_width()) {
                    return Err(StageError::Data("the stored sums are of another configuration".into()));
                }
                self.crew.ask(&Order::Restore(Arc::new(kept)), summed)?;
                self.stored = Some(*reference);
            }
            Err(reason) => self.notes.push(format!(
                "the sums of the snapshot in '{}' cannot be used ({reason}): all rows are summed again with the next publication",
                folder.display()
            )),
        }
        Ok(())
    }

    /// The model of the rows that are there.
    fn made(&mut self) -> Result<(Published, Last), StageError> {
        let Outcome { fit, work } = *self.published(&Order::Publish)?;
        let function = fit.function.clone().ok_or_else(|| StageError::Internal("nothing was fitted".into()))?;
        let predictor = RowPredictor::new(Arc::clone(&function))?;
        let mut notes = vec![work.sentence()];
        notes.extend(fit.centers.notes.iter().cloned());
        notes.extend(fit.solved.iter().flat_map(|solved| solved.notes.iter().cloned()));
        let (rows, sum_weights) = (fit.rows, fit.weight_sum);
        self.work = work;
        let function = Function::clone(&function);
        // The deviations are those of the configuration: they are the unit of errors, not part of the fit.
        let published = Published { function, rows, sum_weights, deviations: Vec::new(), notes };
        Ok((published, Last { predictor, outcome: Some(Arc::new(fit)), rows, sum_weights }))
    }
}

/// The answer to an order about the sums.
fn summed(reply: Reply) -> Option<Result<(), StageError>> {
    if let Reply::Summed(done) = reply { Some(done) } else { None }
}

/// What is left of the rows of a batch when all of it is applied: the ids that go, and the rows of `added` that come. An id with both comes.
fn net(removed: &Chunk, added: &Chunk) -> (Vec<RowId>, Vec<usize>) {
    let gone = (0..removed.rows()).map(|i| (removed.ids[i], removed.ordinals[i], None));
    let come = (0..added.rows()).map(|i| (added.ids[i], added.ordinals[i], Some(i)));
    // A change first takes away, then brings.
    let mut all: Vec<(RowId, u64, Option<usize>)> = gone.chain(come).collect();
    all.sort_unstable();
    let (mut ids, mut which) = (Vec::new(), Vec::new());
    for (at, (id, _, row)) in all.iter().enumerate() {
        if all.get(at + 1).is_some_and(|next| next.0 == *id) {
            continue;
        }
        match row {
            Some(row) => which.push(*row),
            None => ids.push(*id),
        }
    }
    which.sort_unstable();
    (ids, which)
}

impl Learner for ExactEngine {
    fn traits(&self) -> Traits {
        Traits { unlearns: true, answers: false, recovery: Recovery::Rows }
    }

    fn learn(&mut self, batch: &Batch<'_>) -> Result<Vec<Answer>, StageError> {
        self.apply(batch, false).map(|()| Vec::new())
    }

    fn load(&mut self, batch: &Batch<'_>) -> Result<(), StageError> {
        self.apply(batch, true)
    }

    fn complete(&mut self) -> Result<(), StageError> {
        self.crew.complete()
    }

    fn predict(&mut self, rows: Rows<'_>) -> Result<Vec<Prediction>, StageError> {
        let Some(last) = &mut self.last else { return Ok(vec![Prediction::default(); rows.len()]) };
        let function = Arc::clone(last.predictor.function());
        let (width, t) = (function.outputs(), function.code.width());
        let found = last.predictor.predict(rows)?;
        let row = |i: usize| Prediction {
            values: found.values[i * width..(i + 1) * width].to_vec(),
            variances: found.variances.as_ref().map(|all| all[i * t..(i + 1) * t].to_vec()),
        };
        Ok((0..rows.len()).map(row).collect())
    }

    fn publish(&mut self) -> Result<Published, StageError> {
        let (published, last) = self.made()?;
        (self.last, self.changed) = (Some(last), 0);
        Ok(published)
    }

    fn model(&mut self) -> Result<Published, StageError> {
        self.made().map(|(published, _)| published)
    }

    fn last(&self) -> Option<Published> {
        let last = self.last.as_ref()?;
        let function = Function::clone(last.predictor.function());
        let (rows, sum_weights) = (last.rows, last.sum_weights);
        Some(Published { function, rows, sum_weights, deviations: Vec::new(), notes: Vec::new() })
    }

    fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, StageError> {
        self.crew.complete()?;
        let sums = self.store()?;
        let last = self.last.as_ref();
        let last = last.map(|last| snapshot::bytes(last.predictor.function(), last.rows, last.sum_weights));
        Ok(snapshot::whole(last.transpose()?, self.changed, sums))
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), StageError> {
        let snapshot::Parts { last, changed, sums } = snapshot::split(bytes)?;
        self.changed = changed;
        if let Some(reference) = sums {
            self.restore_sums(&reference)?;
        }
        let Some(last) = last else { return Ok(()) };
        let (function, rows, sum_weights) = snapshot::read(last)?;
        let same = function.kernel == self.fixed.kernel
            && function.code == self.fixed.frozen.code
            && function.centers.numeric_width == self.fixed.encoder.numeric_width()
            && function.centers.code_width == self.fixed.encoder.code_width();
        if !same {
            return Err(StageError::Data("the stored publication is of another configuration".into()));
        }
        let predictor = RowPredictor::new(Arc::new(function))?;
        self.last = Some(Last { predictor, outcome: None, rows, sum_weights });
        Ok(())
    }

    fn end(&mut self, how: RunEnd) {
        if self.processes > 1 {
            // Workers that are gone have told why, with the order that met it.
            let _ = self.crew.complete();
            let _ = self.crew.tell(&Order::End(how));
        }
    }

    fn info(&self) -> Info {
        let centers = self.last.as_ref().map_or(0, |last| last.predictor.function().centers.len());
        let rows = self.crew.rows_known();
        let bytes = self.memory.total() + PLACE_BYTES * rows;
        Info { rows, dictionary: centers as u64, bytes, ..Info::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(rows: &[(u128, u64)]) -> Chunk {
        let mut chunk = Chunk::new();
        chunk.ids = rows.iter().map(|(id, _)| RowId(*id)).collect();
        chunk.ordinals = rows.iter().map(|(_, at)| *at).collect();
        chunk
    }

    #[test]
    fn the_last_change_of_a_key_counts() {
        // 1 comes, is corrected and goes; 2 goes and comes again; 3 is corrected; 4 goes; 5 comes, goes and comes.
        let added = chunk(&[(1, 0), (1, 1), (2, 4), (3, 5), (5, 7), (5, 9)]);
        let removed = chunk(&[(1, 1), (1, 2), (2, 3), (3, 5), (4, 6), (5, 8)]);
        assert_eq!(net(&removed, &added), (vec![RowId(1), RowId(4)], vec![2, 3, 5]));
        assert_eq!(net(&chunk(&[]), &chunk(&[])), (vec![], vec![]));
    }
}
