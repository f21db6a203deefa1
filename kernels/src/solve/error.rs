//! What a solver can report.

use crate::dense::DenseError;
use thiserror::Error;

/// Failure of a solve; `E` is the error of the operator that reads the data.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum SolveError<E> {
    /// A pass over the data failed.
    #[error("a pass over the data failed: {0}")]
    Operator(E),
    /// Two operands do not fit together.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// Which length disagrees.
        what: &'static str,
        /// The length required.
        expected: usize,
        /// The length given.
        found: usize,
    },
    /// A parameter is out of its range.
    #[error("{name} is {value}, but must be {must}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it has to be.
        must: &'static str,
    },
    /// A NaN or an infinity appeared.
    #[error("{what} is not finite at iteration {iteration}, output column {column}")]
    NotFinite {
        /// The quantity that is not finite.
        what: &'static str,
        /// Iterations done before.
        iteration: usize,
        /// Output column.
        column: usize,
    },
    /// The operator or the preconditioner is not positive definite.
    #[error(
        "{what} is not positive definite: curvature {curvature:e} at iteration {iteration}, output column {column}, where the \
         relative residual is {residual:e}; raise the ridge or use double precision"
    )]
    Indefinite {
        /// The operator that failed.
        what: &'static str,
        /// Iterations done before.
        iteration: usize,
        /// Output column.
        column: usize,
        /// The non-positive quadratic form.
        curvature: f64,
        /// Relative residual at that point.
        residual: f64,
    },
    /// The step is too long for the measured spectrum: the iteration would diverge.
    #[error(
        "the step is unstable: step {step:e} times batch {batch} times the measured top eigenvalue {eigenvalue:e} is \
         {product}, and must be below 2"
    )]
    Unstable {
        /// Step size per row.
        step: f64,
        /// Rows of a batch.
        batch: usize,
        /// Top eigenvalue of the preconditioned kernel operator, measured on rows outside the subsample.
        eigenvalue: f64,
        /// Their product.
        product: f64,
    },
    /// A factorisation of a replicated matrix failed.
    #[error(transparent)]
    Dense(#[from] DenseError),
}

impl<E> SolveError<E> {
    /// Checks a length.
    pub(crate) fn check(what: &'static str, expected: usize, found: usize) -> Result<(), Self> {
        if expected == found { Ok(()) } else { Err(SolveError::Shape { what, expected, found }) }
    }
}
