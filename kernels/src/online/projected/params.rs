//! What the learners of the span of a dictionary are told, and what they tell.

use super::super::drift::{DriftParams, Raised};
use super::super::{Curvature, DictionaryParams, EntryParams, Loss, OnlineError};
use crate::rows::RowBuf;
use nystream_hashing::RowId;
use serde::{Deserialize, Serialize};

/// What a new atom does to A and w.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Growth {
    /// CON-KONS: they are carried over, before the atom's own step.
    Carry,
    /// CON-KONS as published: they are carried over after the atom's own step.
    CarryAfter,
    /// PROS-N-KONS: they begin anew.
    Restart,
}

/// How rows are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// One by one: each is answered by the call that brought it. Bound by memory: three triangles are read a row.
    Rows,
    /// A block at a time: see the module docs.
    Blocks,
}

/// The configuration of a [`ProjectedKons`](super::ProjectedKons).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectedParams {
    /// Kernel entries.
    pub entries: EntryParams,
    /// The dictionary.
    pub dictionary: DictionaryParams,
    /// A_0 = alpha I. With adaptive curvature and squared loss: twice the matrix ridge.
    pub alpha: f64,
    /// The loss.
    pub loss: Loss,
    /// Curvature of the steps.
    pub curvature: Curvature,
    /// Predictions are projected onto |yhat| <= C.
    pub clip: Option<f64>,
    /// rho: what A - alpha I keeps a row, in (0, 1]; 1 never forgets.
    pub forgetting: f64,
    /// What a new atom does.
    pub growth: Growth,
    /// How rows are taken.
    pub operation: Operation,
    /// Rows of a block.
    pub block: usize,
    /// Rows of the windowed loss.
    pub window: usize,
    /// Rows of the hindsight sample; 0 for none.
    pub hindsight: usize,
    /// Drift.
    pub drift: Option<DriftParams>,
}

impl ProjectedParams {
    /// CON-KONS with squared loss, adaptive curvature, no clip, blocks of 128 rows, a window of 1,000, no hindsight sample and no drift alarm.
    pub fn new(entries: EntryParams, dictionary: DictionaryParams, alpha: f64) -> Self {
        ProjectedParams {
            entries,
            dictionary,
            alpha,
            loss: Loss::Squared,
            curvature: Curvature::Adaptive,
            clip: None,
            forgetting: 1.0,
            growth: Growth::Carry,
            operation: Operation::Blocks,
            block: 128,
            window: 1000,
            hindsight: 0,
            drift: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), OnlineError> {
        self.dictionary.check()?;
        OnlineError::positive("alpha", self.alpha)?;
        self.loss.check(self.curvature, self.clip)?;
        if !(self.forgetting > 0.0 && self.forgetting <= 1.0) {
            return Err(OnlineError::Parameter { name: "forgetting", value: self.forgetting, must: "in (0, 1]" });
        }
        if self.block == 0 {
            return Err(OnlineError::Parameter { name: "block", value: 0.0, must: "at least 1" });
        }
        Ok(())
    }
}

/// What a row was answered, and what it did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The row.
    pub id: RowId,
    /// The prediction before its target was seen.
    pub prediction: f64,
    /// The loss of that prediction, without the row's weight.
    pub loss: f64,
    /// phi^T A^-1 phi + (k(x, x) - |phi|^2) / alpha: the variance of the prediction where a unit of curvature is a unit of precision.
    pub leverage: f64,
    /// Share of k(x, x) outside the dictionary.
    pub outside: f64,
    /// Whether it became an atom (or, in [`Kons`](crate::online::Kons), entered A).
    pub accepted: bool,
    /// Whether the embedding has a coordinate more for it: atoms that the others span to rounding bring none.
    pub grown: bool,
    /// The alarm that it raised.
    pub alarm: Option<Raised>,
}

/// A learner's state in figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProjectedInfo {
    /// Rows learned.
    pub rows: u64,
    /// Rows that wait for their block to be complete.
    pub waiting: usize,
    /// Atoms.
    pub dictionary: usize,
    /// Coordinates of the embedding: atoms but for those that the others span to rounding.
    pub width: usize,
    /// d_onl of the rows in the span of the dictionary, each by its curvature, at ridge alpha ([`Ledger::dimension`](crate::online::Ledger)); with adaptive squared loss
    /// d_onl(alpha / 2).
    pub online_dimension: f64,
    /// Rows that would have been atoms but for the cap.
    pub refused: u64,
    /// The condition number of the atoms' kernel matrix is at least this.
    pub basis_condition: f64,
    /// The condition number of A, as of the last block, is at least this.
    pub metric_condition: f64,
    /// Mean loss of all rows.
    pub mean_loss: Option<f64>,
    /// Mean loss of the last rows.
    pub window_loss: Option<f64>,
    /// Times A and w began anew, the first included.
    pub starts: u64,
    /// Alarms by the mass outside the dictionary.
    pub mass_alarms: u64,
    /// Alarms by the loss.
    pub loss_alarms: u64,
}

/// A function sum_j coefficients_j k(z_j, .), clamped to |f| <= clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Expansion {
    /// The z_j.
    pub atoms: RowBuf,
    /// Their ids.
    pub ids: Vec<RowId>,
    /// One coefficient an atom.
    pub coefficients: Vec<f64>,
    /// Clip range.
    pub clip: Option<f64>,
}
