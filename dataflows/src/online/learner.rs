//! What a learner is to the runtime that feeds it.
//!
//! **The runtime** reads events, encodes their rows, rejects what cannot be used, logs what can, and calls a learner from one place, one call at a time. It owns files, sources and sinks,
//! the log, schedules, windows and counters. **The learner** owns numbers: it takes encoded rows, answers and is asked for its model. It may have threads of its own (timely workers), which
//! live as long as it does. What [`Learner::learn`] and [`Learner::load`] begin may go on after the call: it is complete, or fails, by the end of [`Learner::complete`], before anything that depends on
//! it, and nothing that is answered, published or stored shows that it did.
//!
//! Contract, which the tests of each engine hold it to:
//! * What a learner answers, publishes and stores is a function of the batches' rows in their order, its configuration and the SIMD path: not of how they were cut into batches, of
//!   calls to [`Learner::predict`], [`Learner::info`] and [`Learner::snapshot`] in between, of threads or of clocks.
//! * A call that ends in an error has changed nothing, unless the error is [`StageError::Internal`] or [`StageError::Numeric`], or of what an earlier call has begun, which [`Learner::complete`] would give: then the runtime ends, and a restart
//!   goes on from the last snapshot.
//! * [`Learner::snapshot`] and [`Learner::restore`] lose no bit. Learners that [recover from rows](Recovery::Rows) are given every row that was there at the snapshot beside it, in any order.

use super::sharded::Router;
use crate::error::StageError;
use crate::predict::Function;
use nystream_datasets::Chunk;
use nystream_datasets::events::Event;
use nystream_datasets::rows::Applied;
use nystream_hashing::RowId;
use nystream_kernels::online::drift::Raised;
use nystream_kernels::online::{Bound, Hindsight};
use nystream_kernels::rows::Rows;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Changes that the log has accepted, in order, and the rows that they are about, encoded for training.
///
/// A chunk holds the rows that a fit would train on: those with a target that the split does not hold out. Rows without one (their label may come later) are among the changes
/// alone. `ordinals` of a chunk are the places in `changes` of the changes that its rows are of, ascending; `ids` are those that `--id-column` would give their keys.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// What was applied. An update both takes a row away and brings one, with one id; a label takes the row without it.
    pub changes: &'a [Applied],
    /// The rows that are taken away; none for learners that do not [unlearn](Traits::unlearns).
    pub removed: &'a Chunk,
    /// The rows that are new.
    pub added: &'a Chunk,
}

/// What kind of learner it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// Whether rows can be taken away. Where not, the runtime keeps no row that was learned, and refuses updates and deletes of such rows.
    pub unlearns: bool,
    /// Whether [`Learner::learn`] answers for each row that it learns ([`Answer`]). Where not, the runtime predicts rows by [`Learner::predict`] before it gives them to `learn`.
    pub answers: bool,
    /// What it needs after a restart.
    pub recovery: Recovery,
}

/// What a learner needs after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Its snapshot, and the changes after it again, in order.
    Changes,
    /// Its snapshot (which may hold as little as the last publication), every row that was there then, in batches of rows that are added ([`Learner::load`]), and the changes after it again, in order.
    Rows,
}

/// How a run ends, for those who take part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunEnd {
    /// With its source.
    Done,
    /// By a signal, after a last snapshot.
    Interrupted,
    /// Otherwise.
    Failed,
}

/// A value for each output of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prediction {
    /// Predicted values in target units: one a numeric target; of classes one score or probability each.
    pub values: Vec<f64>,
    /// Variance of each value, squared target units, where the learner has them.
    pub variances: Option<Vec<f64>>,
}

/// What a learned row was answered before its target was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The row: answers come in the order in which rows were given, and may come later than the call that gave them.
    pub id: RowId,
    /// The prediction.
    pub prediction: Prediction,
    /// Its loss, in the learner's units (of standardised targets), without the row's weight.
    pub loss: f64,
    /// In which queue the row was ([`Learner::queue`]): answers come in order within one.
    pub queue: u32,
    /// The alarm of drift that it raised.
    pub alarm: Option<Raised>,
}

/// Independent learners behind one.
#[derive(Clone, Debug)]
pub struct Shards {
    /// What tells them apart.
    pub router: Router,
    /// How many there may be.
    pub most: u64,
    /// Figures of each, by name.
    pub all: Vec<(Arc<str>, Info)>,
}

/// A model as of a point of the stream.
///
/// With the frozen configuration of the run, in which only rows, weights and deviations change, it is a model file: its digest is that of the file.
#[derive(Clone, Debug)]
pub struct Published {
    /// Kernel, centers, coefficients, targets.
    pub function: Function,
    /// n: rows that it rests on.
    pub rows: u64,
    /// Sum of their weights.
    pub sum_weights: f64,
    /// Standard deviation of each target among these rows, target units; empty where those of the configuration stay.
    pub deviations: Vec<f64>,
    /// What it took, and what was decided, in sentences.
    pub notes: Vec<String>,
}

/// A learner's state in figures. What does not apply is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Rows learned, less rows taken away.
    pub rows: u64,
    /// Atoms or centers.
    pub dictionary: u64,
    /// Estimate of the online effective dimension d_onl.
    pub online_dimension: Option<f64>,
    /// Rows that would have been atoms but for the cap.
    pub refused: Option<u64>,
    /// Mean loss over all answers, and over the last ones, where the learner keeps them.
    pub mean_loss: Option<f64>,
    /// See `mean_loss`.
    pub window_loss: Option<f64>,
    /// Alarms by the mass outside the dictionary.
    pub mass_alarms: u64,
    /// Alarms by the loss.
    pub loss_alarms: u64,
    /// Times that it began anew after an alarm or with a new atom.
    pub restarts: u64,
    /// Bytes of memory that grow with the dictionary.
    pub bytes: u64,
    /// Rows that wait for their block.
    pub waiting: u64,
}

/// Regret against the best ridge comparator in hindsight, on a sample of the rows: sums over all rows, in the learner's units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Regret {
    /// What was measured, and against whom.
    pub found: Hindsight,
    /// What theory allows, by terms; `None` where it needs a clip range and there is none.
    pub bound: Option<Bound>,
    /// The published worst-case bound, as an order of magnitude.
    pub published_bound: Option<f64>,
}

/// A learner; see the module docs for its contract.
pub trait Learner: Send {
    /// What kind it is; constant.
    fn traits(&self) -> Traits;

    /// Why a row cannot be taken although nothing is wrong with its values: asked before it is logged.
    fn refusal(&self, _event: &Event) -> Option<String> {
        None
    }

    /// A row with a target was logged, and will be given to [`Learner::learn`]: in which queue it is. Asked for each such row, in order.
    ///
    /// # Errors
    /// [`StageError`].
    fn queue(&mut self, _event: &Event) -> Result<u32, StageError> {
        Ok(0)
    }

    /// Takes changes. Answers, for learners that answer, are of rows of this and earlier calls, in order, without gaps.
    ///
    /// # Errors
    /// [`StageError`]; see the module docs.
    fn learn(&mut self, batch: &Batch<'_>) -> Result<Vec<Answer>, StageError>;

    /// Takes rows that were there at the snapshot, after a restart of a learner that [recovers from rows](Recovery::Rows): once each, before anything else but [`Learner::restore`].
    ///
    /// # Errors
    /// As [`Learner::learn`].
    fn load(&mut self, batch: &Batch<'_>) -> Result<(), StageError> {
        self.learn(batch).map(drop)
    }

    /// Waits for what earlier calls have begun.
    ///
    /// # Errors
    /// What they met; every later call that learns, publishes or stores says so too.
    fn complete(&mut self) -> Result<(), StageError> {
        Ok(())
    }

    /// The stream has ended, or pauses where it says so itself: rows that wait are learned and answered. It may change later bits, so the runtime logs it as an event of its own.
    ///
    /// # Errors
    /// As [`Learner::learn`].
    fn flush(&mut self) -> Result<Vec<Answer>, StageError> {
        Ok(Vec::new())
    }

    /// Predicts rows, by what has been learned (learners that answer) or by the last publication; empty values before there is any. A row's bits do not depend on the others.
    ///
    /// # Errors
    /// [`StageError`].
    fn predict(&mut self, rows: Rows<'_>) -> Result<Vec<Prediction>, StageError>;

    /// Predicts the row of an event, of learners that answer.
    ///
    /// # Errors
    /// [`StageError`].
    fn predict_event(&mut self, _event: &Event, row: Rows<'_>) -> Result<Vec<Prediction>, StageError> {
        self.predict(row)
    }

    /// Independent learners in it, where there are such.
    fn shards(&self) -> Option<Shards> {
        None
    }

    /// The model of a shard as of now.
    ///
    /// # Errors
    /// [`StageError::Data`] where there is none.
    fn publish_shard(&mut self, shard: &str) -> Result<Published, StageError> {
        Err(StageError::Data(format!("there are no shards, and so no '{shard}'")))
    }

    /// The model as of now. Learners that do not answer predict by it from here on.
    ///
    /// # Errors
    /// [`StageError::Data`] where there is no model of what is there (no rows); nothing has changed then.
    fn publish(&mut self) -> Result<Published, StageError>;

    /// The model as of now, which is no publication: what is predicted later does not change.
    ///
    /// # Errors
    /// As [`Learner::publish`].
    fn model(&mut self) -> Result<Published, StageError> {
        self.publish()
    }

    /// The last publication, for learners that predict by it.
    fn last(&self) -> Option<Published> {
        None
    }

    /// What people should know of a restart or of a snapshot, in sentences; each is told once.
    fn notes(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// The present function, for [`Learner::drift`]. `None` where that cannot be told cheaply; learners that [unlearn](Traits::unlearns) need not.
    fn mark(&self) -> Option<Vec<f64>> {
        None
    }

    /// How far the present function is from the one that gave `mark` (nothing for none yet), in its norm and relative to it. `None` where it cannot be told cheaply.
    fn drift(&self, _mark: &[f64]) -> Option<f64> {
        None
    }

    /// Everything that [`Learner::restore`] needs.
    ///
    /// # Errors
    /// [`StageError`].
    fn snapshot(&mut self) -> Result<Vec<u8>, StageError>;

    /// Becomes the learner that gave these bytes. Called once, on a learner just made with the same configuration.
    ///
    /// # Errors
    /// [`StageError::Data`] for bytes that are no state of this learner.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), StageError>;

    /// The run has come to its end, and nothing else is asked of this learner but figures: those who take part in it hear so. A learner that is dropped without it has failed.
    fn end(&mut self, _how: RunEnd) {}

    /// Figures, of what is [complete](Learner::complete) at least.
    fn info(&self) -> Info;

    /// Regret in hindsight; `None` where it is not measured.
    ///
    /// # Errors
    /// [`StageError::Numeric`].
    fn regret(&self) -> Result<Option<Regret>, StageError> {
        Ok(None)
    }
}
