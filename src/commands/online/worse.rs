//! Whether a learner is worse than no learner.
//!
//! Losses are in units of the configuration's spread of the target, so that what predicting its mean loses is known without another pass. It is said once a run, after so many changes of the stream or at the end: what
//! the stream brought decides that, and no clock.

use super::told;
use crate::exit;
use crate::progress::Progress;
use crate::report::text::number;
use nystream_dataflows::online::learner::Info;
use nystream_dataflows::online::settings::Settings;
use nystream_kernels::online::Curvature;

/// Changes between two looks.
const EVERY: u64 = 10_000;
/// Rows before which nothing is said.
const FEW: u64 = 200;
/// By how much it has to be worse: the stream's spread is not quite the configuration's.
const BY: f64 = 1.2;

/// A learner that predicts worse than the mean of its targets is told of once.
pub struct Worse {
    /// What the mean loses, where that can be said.
    baseline: Option<f64>,
    /// Changes after which it is looked at again.
    next: u64,
    /// What may be the matter.
    advice: &'static str,
}

impl Worse {
    /// Of a run whose stream has brought so many changes; `numbers`: whether targets are.
    pub fn new(settings: &Settings, numbers: bool, changes: u64) -> Self {
        let forgets = settings.forgetting < 1.0;
        let advice = match settings.curvature {
            Curvature::Fixed { .. } if forgets => {
                "fixed curvature and --forgetting leave little but --alpha to hold the steps: leave out one of them, or raise --alpha"
            }
            Curvature::Fixed { .. } => "--curvature adaptive, or a larger --alpha, takes smaller steps",
            Curvature::Adaptive => {
                "look at --alpha, --forgetting and the configuration's kernel, or at whether the stream is still of its kind (--drift)"
            }
        };
        Worse { baseline: told::baseline(settings, numbers), next: changes + EVERY, advice }
    }

    /// Whether it is time to look again.
    pub fn is_due(&self, changes: u64) -> bool {
        self.baseline.is_some() && changes >= self.next
    }

    /// Looks at the losses, as of so many changes or of the end.
    pub fn look(&mut self, info: &Info, changes: Option<u64>, progress: &Progress) {
        self.next = changes.map_or(u64::MAX, |changes| changes + EVERY);
        let (Some(baseline), Some(loss)) = (self.baseline, info.window_loss) else { return };
        if info.rows >= FEW && loss > BY * baseline {
            self.baseline = None;
            let (loss, baseline, advice) = (number(loss), number(baseline), self.advice);
            let line = format!(
                "warning: the mean loss of the last rows is {loss}, and predicting the mean has about {baseline}: {advice}"
            );
            progress.aside(|| exit::say(&line));
        }
    }
}
