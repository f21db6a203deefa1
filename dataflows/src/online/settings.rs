//! What a run of a second-order learner is told, with every default resolved: part of its state.

use nystream_kernels::online::drift::DriftParams;
use nystream_kernels::online::{Curvature, Loss};
use serde::{Deserialize, Serialize};

/// Which learner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Exact fits of the rows that are there.
    Exact,
    /// Online Newton steps in the span of a dictionary that grows; what was learned is carried over.
    ConKons,
    /// The same as published: each new atom begins anew.
    ProsNKons,
    /// Online Newton steps in the whole space of the kernel.
    Kons,
    /// The same with rows sampled into the second-order term.
    SketchedKons,
    /// Recursive least squares of many targets on centers that stay.
    Recursive,
}

impl Mode {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Exact => "exact",
            Mode::ConKons => "con-kons",
            Mode::ProsNKons => "pros-n-kons",
            Mode::Kons => "kons",
            Mode::SketchedKons => "sketched-kons",
            Mode::Recursive => "recursive",
        }
    }
}

/// The settings of a second-order learner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Which one.
    pub mode: Mode,
    /// Its loss.
    pub loss: Loss,
    /// Curvature of its steps.
    pub curvature: Curvature,
    /// alpha of A_0: twice the matrix ridge.
    pub alpha: f64,
    /// Matrix ridge of the dictionary's scores.
    pub gamma: f64,
    /// Whether gamma rises as the dictionary fills.
    #[serde(default)]
    pub spread: bool,
    /// Oversampling of the dictionary.
    pub beta: f64,
    /// Most atoms.
    pub cap: usize,
    /// Clip range, learner's units.
    pub clip: Option<f64>,
    /// What A keeps a row.
    pub forgetting: f64,
    /// Rows of a block.
    pub block: usize,
    /// Rows of the windowed loss.
    pub window: usize,
    /// Rows of the hindsight sample.
    pub hindsight: usize,
    /// Drift.
    pub drift: Option<DriftParams>,
    /// Least probability of Sketched-KONS.
    pub least: f64,
    /// Seed.
    pub seed: u64,
}

impl Settings {
    /// Those of `mode` with squared loss, nothing forgotten, blocks of one row, and neither dictionary, clip range, sample nor watch: what modes without such things have of them.
    ///
    /// ```
    /// use nystream_dataflows::online::settings::{Mode, Settings};
    /// let settings = Settings { alpha: 0.1, ..Settings::bare(Mode::Recursive, 7) };
    /// assert_eq!((settings.block, settings.cap, settings.forgetting), (1, 0, 1.0));
    /// ```
    pub fn bare(mode: Mode, seed: u64) -> Self {
        Settings {
            mode,
            loss: Loss::Squared,
            curvature: Curvature::Adaptive,
            alpha: 0.0,
            gamma: 0.0,
            spread: false,
            beta: 0.0,
            cap: 0,
            clip: None,
            forgetting: 1.0,
            block: 1,
            window: 0,
            hindsight: 0,
            drift: None,
            least: 0.0,
            seed,
        }
    }
}
