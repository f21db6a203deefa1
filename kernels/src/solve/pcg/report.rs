//! When a solve stops, what it shows meanwhile, and what it reports.

use super::super::Stopped;
use faer::Mat;
use serde::{Deserialize, Serialize};

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PcgParams {
    /// Bound on the true relative residual of every column.
    pub tolerance: f64,
    /// Steps at most (passes that move a column).
    pub max_iterations: usize,
    /// Steps between replacements of the recursive residual by the true one.
    pub restart_every: usize,
}

impl Default for PcgParams {
    fn default() -> Self {
        PcgParams { tolerance: 1e-6, max_iterations: 300, restart_every: 20 }
    }
}

/// What a solve did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PcgInfo {
    /// Passes in which at least one column moved.
    pub iterations: usize,
    /// True relative residual of each column, from an application of the operator to the coefficients returned.
    pub residuals: Vec<f64>,
    /// What the recursion believed at the same point.
    pub recursive_residuals: Vec<f64>,
    /// ||R^T b - A z|| / ||R^T b|| of each column, from the same application.
    pub whitened_residuals: Vec<f64>,
    /// Condition number of P^-1 A as the Lanczos process saw it (a lower bound), the largest over columns.
    pub condition_estimate: f64,
    /// Passes over the data.
    pub applications: usize,
    /// Columns multiplied in all passes together.
    pub columns_applied: usize,
    /// The worst of `columns`.
    pub stopped: Stopped,
    /// Why each column ended.
    pub columns: Vec<Stopped>,
}

/// What the observer sees after every pass.
#[derive(Debug)]
pub struct PcgProgress<'a> {
    /// Steps so far.
    pub iteration: usize,
    /// Passes so far.
    pub applications: usize,
    /// Current coefficients, m x t.
    pub alpha: &'a Mat<f64>,
    /// Relative residual of each column by the recursion (the true one where it was just looked at).
    pub residuals: &'a [f64],
}
