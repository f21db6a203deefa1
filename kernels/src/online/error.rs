//! What the online learners can refuse.

use crate::dense::DenseError;
use crate::tile::TileError;
use nystream_hashing::RowId;
use thiserror::Error;

/// What an online learner refuses. A call that ends in an error has changed nothing, unless the variant says so.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum OnlineError {
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
    /// A NaN or an infinity in the input, numbered from 0 within the call.
    #[error("{what} of row {row}, column {column}, is {value}")]
    NotFinite {
        /// `feature`, `target` or `weight`.
        what: &'static str,
        /// Row within the call.
        row: usize,
        /// Column within the row.
        column: usize,
        /// The value.
        value: f64,
    },
    /// A negative weight.
    #[error("weight {weight} of row {row} must not be negative")]
    Weight {
        /// Row within the call.
        row: usize,
        /// The weight.
        weight: f64,
    },
    /// A label that the loss does not know, or a target outside the clip range where the curvature rests on it.
    #[error("target {target} of row {row} must be {must}")]
    Target {
        /// Row within the call.
        row: usize,
        /// The target.
        target: f64,
        /// What it has to be.
        must: &'static str,
    },
    /// k(x, x) of a row is negative or not finite.
    #[error("k(x, x) of row {row} (id {:032x}) is {value}", .id.0)]
    Diagonal {
        /// Row within the call.
        row: usize,
        /// Its id.
        id: RowId,
        /// The value.
        value: f64,
    },
    /// State that was stored cannot be that of this learner.
    #[error("the stored state is not sound: {what}")]
    State {
        /// What disagrees.
        what: &'static str,
    },
    /// The learner's state is no longer finite: it must be reset or restored from a snapshot.
    #[error("{what} is no longer finite after {rows} rows; reset the learner or restore a snapshot")]
    Diverged {
        /// Which part.
        what: &'static str,
        /// Rows learned.
        rows: u64,
    },
    /// K + alpha D^-1 over the rows has lost its definiteness to rounding of its entries: what was in A can no longer be told. The learner must be restored, with a larger alpha.
    #[error(
        "after {rows} rows the pivot of row {:032x} is {pivot:e}, and alpha over its curvature alone is {least:e}: alpha = {alpha:e} is lost in the rounding of kernel entries of {bits} bits: \
         a larger alpha{} would not be",
        .id.0,
        if *.bits < 64 { ", or entries of 64 bits," } else { "" }
    )]
    Breakdown {
        /// Rows learned.
        rows: u64,
        /// The row.
        id: RowId,
        /// k(x, x) + alpha / c - k^T (K + alpha D^-1)^-1 k, as computed.
        pivot: f64,
        /// alpha / c, which it is at least.
        least: f64,
        /// alpha.
        alpha: f64,
        /// Of a kernel entry.
        bits: u32,
    },
    /// Kernel, offset, centers or dispatch path cannot be used.
    #[error(transparent)]
    Tile(#[from] TileError),
    /// A factorisation failed.
    #[error(transparent)]
    Dense(#[from] DenseError),
}

impl OnlineError {
    /// Checks a length.
    pub(super) fn check(what: &'static str, expected: usize, found: usize) -> Result<(), Self> {
        if expected == found { Ok(()) } else { Err(OnlineError::Shape { what, expected, found }) }
    }

    /// Checks that a parameter is positive and finite.
    pub(super) fn positive(name: &'static str, value: f64) -> Result<(), Self> {
        let ok = value > 0.0 && value.is_finite();
        if ok { Ok(()) } else { Err(OnlineError::Parameter { name, value, must: "positive and finite" }) }
    }
}
