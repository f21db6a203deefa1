//! Drift: whether the stream is still what was learned, and what is done if not.
//!
//! [`Cusum`] watches the mass outside the dictionary, which needs no label; [`Adwin`] the loss. Both state how often they alarm without a cause. An alarm is acted on at the end
//! of the block in which it came
//! ([`DriftAction`]), so that blocked and row-wise operation do the same.

mod adwin;
mod cusum;
mod pace;

pub use adwin::{Adwin, AdwinParams};
pub use cusum::{Cusum, CusumParams};

use super::OnlineError;
use pace::Pace;
use serde::{Deserialize, Serialize};

/// What an alarm does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftAction {
    /// A = alpha I and w = 0; where the mass outside the dictionary gave the alarm, the dictionary is emptied too.
    Reset,
    /// A <- keep A + (1 - keep) alpha I: old rows weigh `keep` times what they did. w stays.
    Forget {
        /// What old rows keep, in [0, 1).
        keep: f64,
    },
    /// As [`DriftAction::Reset`]; and where alarms come again within 50,000 rows, A forgets at a pace that is set by their spacing, until there is none for long (`pace.rs`).
    Adapt,
    /// Alarms are counted and reported.
    Report,
}

/// What is watched and what is done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftParams {
    /// On the mass outside the dictionary.
    pub mass: Option<CusumParams>,
    /// On the loss.
    pub loss: Option<AdwinParams>,
    /// What an alarm does.
    pub action: DriftAction,
    /// The loss that counts as 1; where `None`, the largest on the clip range, which there must be then.
    pub loss_scale: Option<f64>,
}

impl DriftParams {
    /// Both watched with their defaults.
    pub fn new(action: DriftAction) -> Self {
        DriftParams { mass: Some(CusumParams::default()), loss: Some(AdwinParams::default()), action, loss_scale: None }
    }
}

/// What gave an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alarm {
    /// The mass outside the dictionary rose.
    Mass,
    /// The loss rose.
    Loss,
}

/// An alarm as a row raised it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Raised {
    /// By what.
    pub by: Alarm,
    /// The detector's value: of the mass the cumulative sum, of the loss by how much its mean has risen.
    pub value: f64,
    /// What the value had to exceed.
    pub threshold: f64,
}

/// Both detectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Watch {
    pub action: DriftAction,
    mass: Option<Cusum>,
    loss: Option<Adwin>,
    scale: f64,
    /// Alarms by mass and by loss.
    pub alarms: (u64, u64),
    /// An alarm that has not been acted on.
    pub due: Option<Alarm>,
    /// What the spacing of alarms has A forget, where that is the action.
    #[serde(default)]
    pace: Pace,
}

impl Watch {
    /// `largest`: the largest loss on the clip range.
    pub fn new(params: &DriftParams, largest: Option<f64>) -> Result<Self, OnlineError> {
        if let DriftAction::Forget { keep } = params.action
            && !(0.0..1.0).contains(&keep)
        {
            return Err(OnlineError::Parameter { name: "keep", value: keep, must: "in [0, 1)" });
        }
        let scale = match (params.loss_scale.or(largest), params.loss) {
            (Some(scale), _) => {
                OnlineError::positive("loss_scale", scale)?;
                scale
            }
            (None, None) => 1.0,
            (None, Some(_)) => {
                let must = "given where there is no clip range";
                return Err(OnlineError::Parameter { name: "loss_scale", value: f64::INFINITY, must });
            }
        };
        let mass = params.mass.map(Cusum::new).transpose()?;
        let loss = params.loss.map(Adwin::new).transpose()?;
        Ok(Watch { action: params.action, mass, loss, scale, alarms: (0, 0), due: None, pace: Pace::default() })
    }

    /// A row with this share of its mass outside the dictionary, and this loss.
    pub fn observe(&mut self, share: f64, loss: f64) -> Option<Raised> {
        let mass = self.mass.as_mut().and_then(|cusum| {
            let threshold = cusum.threshold();
            cusum.exceeds(share).map(|value| Raised { by: Alarm::Mass, value, threshold })
        });
        let loss = self.loss.as_mut().and_then(|adwin| adwin.exceeds(loss / self.scale));
        self.alarms.0 += u64::from(mass.is_some());
        self.alarms.1 += u64::from(loss.is_some());
        let loss = loss.map(|(value, threshold)| Raised {
            by: Alarm::Loss,
            value: value * self.scale,
            threshold: threshold * self.scale,
        });
        let raised = mass.or(loss);
        if mass.is_some() || self.due.is_none() {
            self.due = raised.map(|raised| raised.by).or(self.due);
        }
        raised
    }

    /// rho by the spacing of alarms.
    pub fn forgetting(&self) -> f64 {
        self.pace.forgetting()
    }

    /// The end of a block, after so many rows: the alarm that is to be acted on, and how.
    pub fn act(&mut self, rows: u64) -> Option<(Alarm, DriftAction)> {
        let due = self.due.take();
        if self.action == DriftAction::Adapt {
            match due {
                Some(_) => self.pace.alarm(rows),
                None => self.pace.quiet(rows),
            }
        }
        due.map(|alarm| (alarm, self.action))
    }

    /// Both detectors begin anew.
    pub fn reset(&mut self) {
        self.mass.iter_mut().for_each(Cusum::reset);
        self.loss.iter_mut().for_each(Adwin::reset);
    }
}
