//! Declared bounds of what a model learns from.
//!
//! An exact Gram holds targets and weights in fixed point, whose range is fixed with the model: rows that come later
//! (`--config-from`) and lie beyond it cannot be held. They are bad rows, whatever the solver, so that one configuration means one
//! set of rows. Rows that are only measured (held out, evaluated) need no bound.

use super::{Encoder, TargetKind};
use serde::{Deserialize, Serialize};

/// What the targets and weights of rows that are learned from may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// The range of each numeric target; empty for classes.
    pub targets: Vec<TargetRange>,
    /// Largest value of the weight column, before class weights.
    pub weight: f64,
}

/// Values within `reach` of `centre`, target units.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetRange {
    /// The middle.
    pub centre: f64,
    /// Largest distance from it.
    pub reach: f64,
}

impl TargetRange {
    /// Whether the range holds `y`; NaN (null) asks for nothing.
    pub fn holds(&self, y: f64) -> bool {
        y.is_nan() || (y - self.centre).abs() <= self.reach
    }
}

impl Bounds {
    /// What is wrong with bounds that were read from a file.
    pub(super) fn fault(&self, encoder: &Encoder) -> Option<String> {
        let numbers = match encoder.target_kind {
            TargetKind::Regression => encoder.targets.len(),
            TargetKind::Classes(_) => 0,
        };
        if self.targets.len() != numbers {
            return Some(format!("it has ranges for {} of {numbers} numeric targets", self.targets.len()));
        }
        let sound = |range: &TargetRange| range.centre.is_finite() && range.reach.is_finite() && range.reach > 0.0;
        if !self.targets.iter().all(sound) || !(self.weight.is_finite() && self.weight > 0.0) {
            return Some("its bounds on targets and weights are not positive numbers".into());
        }
        None
    }
}
