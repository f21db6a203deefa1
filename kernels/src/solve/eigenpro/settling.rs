//! When a walk of stochastic gradients is over: what its losses tell after every epoch.
//!
//! A held-out error rises again, and patience ends the walk. An objective falls ever more slowly, and "it no longer falls" is true of any slow
//! walk: it has settled when the second half of the epochs brought next to nothing, and then again with a smaller step.

use super::{EigenProParams, EigenProState};
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::Verdict;
#[cfg(doc)]
use crate::solve::Stopped;

/// A loss that is not below this share of the least one before has not fallen.
const NO_FALL: f64 = 0.999;

/// When the losses told by [`Verdict::HeldOut`] end a walk, as [`Stopped::Stagnated`]; the iterate of the least loss is returned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settling {
    /// Losses end nothing, and the last iterate is returned.
    Never,
    /// So many epochs without a 0.1 % fall: for held-out errors, which rise again.
    Patience(usize),
    /// The second half of the epochs at one step lowered the least loss by no more than `share` of it: for objectives, which fall ever more slowly.
    /// The step is then cut by [`EigenProParams::step_cut`], and the walk has settled when the cut brought no more than `share` either.
    Halving {
        /// Share of the least loss.
        share: f64,
        /// Not before so many epochs
        epochs: usize,
        /// and so many batches.
        batches: usize,
    },
}

impl Settling {
    /// A loss below this share of the least one before makes its iterate the one to return; `None`: losses choose none.
    pub(super) fn better(self) -> Option<f64> {
        match self {
            Settling::Never => None,
            Settling::Patience(_) => Some(NO_FALL),
            Settling::Halving { .. } => Some(1.0),
        }
    }

    /// The rule after a cut of the step: what remains is noise and bias of the larger step, which go sooner.
    fn after_cut(self) -> Settling {
        match self {
            Settling::Halving { share, epochs, .. } => {
                Settling::Halving { share, epochs: epochs.div_ceil(2), batches: 0 }
            }
            other => other,
        }
    }

    /// Whether epochs of `batches` each, all at one step, that left these losses have settled.
    ///
    /// ```
    /// use nystream_kernels::solve::eigenpro::Settling;
    /// let rule = Settling::Halving { share: 0.01, epochs: 4, batches: 40 };
    /// assert!(!rule.settled(&[1.0, 0.5, 0.499], 20)); // Too early to tell.
    /// assert!(rule.settled(&[1.0, 0.5, 0.499, 0.498], 20));
    /// assert!(!rule.settled(&[1.0, 0.5, 0.499, 0.498], 5)); // An epoch is so few batches that four have not gone far.
    /// assert!(!rule.settled(&[0.52, 0.51, 0.505, 0.5], 20)); // Slow, but not there.
    /// // A held-out error that rises: the best was three epochs ago.
    /// assert!(Settling::Patience(3).settled(&[0.5, 0.4, 0.41, 0.42, 0.43], 20));
    /// ```
    pub fn settled(self, losses: &[f64], batches: usize) -> bool {
        let best = |losses: &[f64]| losses.iter().copied().fold(f64::INFINITY, f64::min);
        match self {
            Settling::Never => false,
            Settling::Patience(patience) => losses.len().checked_sub(patience).is_some_and(|earlier| {
                let (before, since) = losses.split_at(earlier);
                best(since) >= best(before) * NO_FALL
            }),
            Settling::Halving { share, epochs, batches: least } => {
                let enough = losses.len() >= epochs && losses.len().saturating_mul(batches) >= least;
                enough && best(&losses[..losses.len() / 2]) <= (1.0 + share) * best(losses)
            }
        }
    }
}

/// Whether the losses have settled.
pub(super) enum Settled {
    No,
    /// And the least of them: a smaller step may bring more.
    AtThisStep(f64),
    Yes,
}

pub(super) fn settled(params: &EigenProParams, state: &EigenProState, batches: usize) -> Settled {
    let losses = &state.held_out[state.since.min(state.held_out.len())..];
    let rule = if state.cuts == 0 { params.settling } else { params.settling.after_cut() };
    if !rule.settled(losses, batches) {
        return Settled::No;
    }
    let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
    match params.settling {
        Settling::Halving { share, .. } if params.step_cut > 1.0 => {
            let brought = state.settled_at > (1.0 + share) * least;
            if brought || params.tolerance > 0.0 { Settled::AtThisStep(least) } else { Settled::Yes }
        }
        Settling::Halving { .. } if params.tolerance > 0.0 => Settled::No,
        _ => Settled::Yes,
    }
}
