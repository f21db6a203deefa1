//! Solving for the coefficients: one folder, one report format.

pub mod blockcd;
pub mod eigenpro;
pub mod gram;
pub mod logistic;
pub mod pcg;

use crate::matvec::products::ProductReport;
use crate::predict::VarianceBasis;
use nystream_kernels::nystrom::Calibration;
use nystream_kernels::solve::Stopped;
use std::sync::Arc;

/// What a solve found, whatever the solver.
#[derive(Clone, Debug)]
pub struct Solved {
    /// Coefficients, m x t row-major, in units of the scaled targets.
    pub coefficients: Vec<f64>,
    /// Per-sample ridge of every target.
    pub ridges: Vec<f64>,
    /// True relative residual of every target.
    pub residuals: Vec<f64>,
    /// Degrees of freedom tr K~ (K~ + Lambda I)^-1 of the model fitted, at the ridge of every target: exact from a Gram, otherwise estimated.
    pub effective_dimension: Option<Vec<f64>>,
    /// Relative trace error tr(K - K~) / tr K over all rows, where it is known.
    pub trace_error: Option<f64>,
    /// What predictive variances need, where they were asked for.
    pub variance: Option<Variances>,
    /// Iterations, for iterative solvers.
    pub iterations: Option<usize>,
    /// What share the rounding of kernel entries adds to the root mean squared error at these ridges, for the worst target; 0 where nothing tells.
    pub rounding: f64,
    /// Why it stopped.
    pub stopped: Stopped,
    /// Passes over the rows.
    pub passes: u64,
    /// How products were formed, where sparse ones were considered.
    pub products: Option<ProductReport>,
    /// Sentences for the report.
    pub notes: Vec<String>,
}

/// What predictive variances need, from a solve.
#[derive(Clone, Debug)]
pub struct Variances {
    /// Factor of the latent variance.
    pub basis: Arc<VarianceBasis>,
    /// Noise and signal of every target, in squared scaled units.
    pub scales: Vec<Scales>,
}

/// Scales of one target's variances.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scales {
    /// Those that explain the errors of rows left out.
    Calibrated(Calibration),
    /// Too few rows to calibrate by: the noise from the residuals, and the signal that makes noise over signal the matrix ridge.
    Assumed {
        /// Residual sum of squares over its degrees of freedom.
        noise: f64,
        /// Noise over the matrix ridge.
        signal: f64,
    },
}

impl Scales {
    /// (noise, signal).
    pub fn values(&self) -> (f64, f64) {
        match *self {
            Scales::Calibrated(Calibration { noise, signal, .. }) => (noise, signal),
            Scales::Assumed { noise, signal } => (noise, signal),
        }
    }
}

/// The note beside an effective dimension that is estimated.
pub(crate) fn estimated_on(rows: usize) -> String {
    format!("effective dimension estimated on {rows} sampled rows")
}
