//! Solvers as algebra: what is iterated, on which coordinates, and when to stop. Not how data is read.
//!
//! Each solver is generic over an *operator* trait that stands for passes over the data; the dataflow layer implements it by
//! streaming, the tests by a stored matrix. Everything else is replicated m-sized algebra in f64 with fixed shapes, so every
//! worker computes the same bits (law 1).
//!
//! | module | problem | pass of its operator |
//! |---|---|---|
//! | [`pcg`] | (K_nm^T W K_nm + Lambda K_mm) alpha = K_nm^T W y | V -> K_nm^T W K_nm V |
//! | [`logistic`] | logistic or softmax loss plus (lambda/2) \|\|f\|\|^2 | gradient, or Hessian times V |
//! | [`eigenpro`] | squared loss by projected, preconditioned stochastic gradients | one batch |
//! | [`blockcd`] | (K + Lambda I) w = y with centers = data | K(B, :) z |
//!
//! Lambda is the matrix ridge, lambda times the sum of weights. Blocks of vectors are column-major
//! [`faer::Mat`], one column per output.

pub mod blockcd;
pub mod eigenpro;
mod error;
pub mod logistic;
pub mod pcg;
mod preconditioner;
pub(crate) mod vectors;
mod whitening;

#[cfg(test)]
pub(crate) mod oracle;

pub use error::SolveError;
pub use preconditioner::{Preconditioner, WeightedGram, extrapolated_dimension, sampled_dimension, strata_weights};
pub use whitening::Whitening;

use serde::{Deserialize, Serialize};

/// Why a solve, or one of its columns, ended. The order is from best to worst: a block reports its worst column.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// The stopping test holds for a residual (or gradient) that was computed, not recursed.
    Converged,
    /// No further progress is possible at this precision; the reported residual is the attainable one.
    Stagnated,
    /// The iteration limit was reached first.
    MaxIterations,
    /// The observer asked to stop.
    Asked,
}
