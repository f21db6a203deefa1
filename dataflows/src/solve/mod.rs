//! Solving for the coefficients: one folder, one report format.

pub mod blockcd;
pub mod eigenpro;
pub mod gram;
pub mod logistic;
pub mod pcg;

use crate::predict::VarianceBasis;
use nystream_kernels::solve::Stopped;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a solve found, whatever the solver.
#[derive(Clone, Debug)]
pub struct Solved {
    /// Coefficients, m x t row-major, in units of the scaled targets.
    pub coefficients: Vec<f64>,
    /// Per-sample ridge of every target.
    pub ridges: Vec<f64>,
    /// True relative residual of every target (DESIGN section 5).
    pub residuals: Vec<f64>,
    /// Degrees of freedom tr K~ (K~ + Lambda I)^-1 of the model fitted, at the ridge of every target: exact from a Gram, otherwise estimated.
    pub effective_dimension: Option<Vec<f64>>,
    /// Relative trace error tr(K - K~) / tr K over all rows, where it is known.
    pub trace_error: Option<f64>,
    /// Residual sum of squares and degrees of freedom of every target in scaled units, where they are known.
    pub fit_quality: Option<Vec<FitQuality>>,
    /// Factor of the predictive variance.
    pub variance: Option<Arc<VarianceBasis>>,
    /// Iterations, for iterative solvers.
    pub iterations: Option<usize>,
    /// Why it stopped.
    pub stopped: Stopped,
    /// Passes over the rows.
    pub passes: u64,
    /// Sentences for the report.
    pub notes: Vec<String>,
}

/// The note beside an effective dimension that is estimated.
pub(crate) fn estimated_on(rows: usize) -> String {
    format!("effective dimension estimated on {rows} sampled rows")
}

/// How well one target is fitted on its training rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitQuality {
    /// Weighted residual sum of squares over the sum of weights.
    pub mean_squared_residual: f64,
    /// Degrees of freedom.
    pub degrees_of_freedom: f64,
}
