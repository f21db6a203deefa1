//! The Nystrom approximation on m centers: whitening, the ridge path, and certificates.
//!
//! The problem: from the f64 kernel matrix of the centers, `K_mm`, and the sums of one pass ([`GramSums`]), get every
//! regularised solution and an honest account of its quality without another pass.
//!
//! With `R` (m x r) such that `R^T K_mm R = I` ([`Whitener`]), a row's features are `f(x) = R^T k_m(x)`, the projected kernel is
//! `K~ = F F^T`, and the penalty `a^T K_mm a` is the plain norm of the coefficients in these features. One eigendecomposition of
//! `R^T G R = V diag(s) V^T` then gives the whole path ([`RidgePath`]). What this approximation loses is measured by [`HeldOut`],
//! [`trace_error`] and [`pencil`]; what it says of rows it has not seen, and how wide its variances must be, by [`RidgePath::left_out`] and [`LeftOutRows`].
//!
//! Conventions: lambda is the ridge per sample, the matrix ridge is `lambda sum w` (both weights and their sum relative to
//! the largest weight, which changes no solution). `K_mm` is factored in f64 and never gets a jitter: directions below working precision leave the basis and are counted.
//!
//! Accuracy: forming `R^T G R` in f64 perturbs it by about `u |G| / mu` in a direction with eigenvalue mu of `K_mm` (u = 2^-53), so
//! predictions carry a relative error near `u |G| / (lambda sum w)^2` where that ridge is small; [`normal_residual`] measures what was reached.
//!
//! Cost: about 9 m^3 flops for each eigendecomposition, m^3 / 3 for a Cholesky factor, 4 m^3 for a congruence. All m x m algebra runs
//! at the one fixed logical parallelism; products with row blocks are sequential, for use inside workers.

mod calibrate;
mod certify;
mod leave_out;
mod path;
#[cfg(test)]
mod tests;
mod whiten;

pub use calibrate::{Calibration, LeftOutRows};
pub use certify::{
    ApproximateTrace, HeldOut, Pencil, TraceError, pencil, residual_diagonal, trace_error, weighted_feature_gram,
};
pub use leave_out::{Block, LeaveOneOut, LeftOut};
pub use path::{Choice, Criterion, RidgePath, VarianceFactor, fold_errors, normal_residual, whitened_residual};
pub use whiten::{WhitenMethod, Whitener};

use crate::dense::DenseError;
use faer::MatRef;
use thiserror::Error;

#[cfg(doc)]
use crate::gram::GramSums;

/// What the Nystrom algebra can report.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum NystromError {
    /// A factorisation failed.
    #[error(transparent)]
    Dense(#[from] DenseError),
    /// The kernel matrix of the centers has no positive direction.
    #[error("the kernel matrix of {centers} centers has numerical rank 0 (largest eigenvalue or diagonal {largest})")]
    NoRank {
        /// Centers.
        centers: usize,
        /// Largest eigenvalue or diagonal entry.
        largest: f64,
    },
    /// An entry is NaN or infinite.
    #[error("entry ({row}, {column}) of {what} is {value}")]
    NotFinite {
        /// The matrix.
        what: &'static str,
        /// Row.
        row: usize,
        /// Column.
        column: usize,
        /// The entry.
        value: f64,
    },
    /// A matrix or slice has the wrong shape.
    #[error("{what} is {found_rows} x {found_columns}, expected {rows} x {columns}")]
    Shape {
        /// The matrix.
        what: &'static str,
        /// Rows expected.
        rows: usize,
        /// Columns expected.
        columns: usize,
        /// Rows found.
        found_rows: usize,
        /// Columns found.
        found_columns: usize,
    },
    /// A ridge is negative, NaN or infinite (or zero where it must be positive).
    #[error("ridge {value} is not usable here")]
    Ridge {
        /// The ridge.
        value: f64,
    },
    /// The grid of ridges is empty, or no candidate has a finite score.
    #[error("none of {candidates} candidate ridges has a finite score")]
    NoCandidate {
        /// Candidates.
        candidates: usize,
    },
}

fn expect_shape(what: &'static str, a: MatRef<'_, f64>, rows: usize, columns: usize) -> Result<(), NystromError> {
    if (a.nrows(), a.ncols()) == (rows, columns) {
        return Ok(());
    }
    Err(NystromError::Shape { what, rows, columns, found_rows: a.nrows(), found_columns: a.ncols() })
}

fn expect_finite(what: &'static str, a: MatRef<'_, f64>) -> Result<(), NystromError> {
    for column in 0..a.ncols() {
        for row in 0..a.nrows() {
            let value = a[(row, column)];
            if !value.is_finite() {
                return Err(NystromError::NotFinite { what, row, column, value });
            }
        }
    }
    Ok(())
}
