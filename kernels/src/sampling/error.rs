//! What sampling can refuse.

use crate::dense::DenseError;
use nystream_hashing::RowId;
use thiserror::Error;

/// What sampling can refuse; every variant carries the numbers that led to it.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum SamplingError {
    /// The ridge of the leverage scores is not a positive finite number.
    #[error("the ridge of the leverage scores must be positive and finite, not {gamma}")]
    BadGamma {
        /// The ridge given.
        gamma: f64,
    },
    /// The oversampling or accuracy parameters of a dictionary are out of range.
    #[error("{name} = {value} is out of range: {expected}")]
    BadParameter {
        /// Which parameter.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// Two inputs that must have one entry per row do not.
    #[error("{rows} rows, but {others} {what}")]
    Lengths {
        /// Number of rows.
        rows: usize,
        /// Number of the other things.
        others: usize,
        /// What the other things are.
        what: &'static str,
    },
    /// The same row id occurs twice.
    #[error("row id {:032x} occurs twice; ids must be unique", .id.0)]
    DuplicateId {
        /// The id.
        id: RowId,
    },
    /// Two dictionaries made with different ridges or modes cannot be merged.
    #[error("dictionaries of ridges {left} and {right} (or of different modes) cannot be merged")]
    Mismatch {
        /// Ridge of the first.
        left: f64,
        /// Ridge of the second.
        right: f64,
    },
    /// The regularised kernel matrix could not be factored, even with the largest jitter allowed.
    #[error(
        "the regularised kernel matrix of {order} atoms failed at pivot {pivot} with ridge {ridge:e} and jitter \
         {jitter:e}; the ridge is too small for the precision of the kernel entries"
    )]
    NotPositive {
        /// Order of the matrix.
        order: usize,
        /// First pivot that failed.
        pivot: usize,
        /// Ridge on the diagonal.
        ridge: f64,
        /// Largest jitter tried.
        jitter: f64,
    },
    /// A dictionary outgrew its limit.
    #[error("the dictionary holds {atoms} atoms, above its limit of {limit}; raise the ridge or the memory budget")]
    TooManyAtoms {
        /// Atoms.
        atoms: usize,
        /// The limit.
        limit: usize,
    },
    /// The constants of the theorem would keep every row, or more than the budget.
    #[error(
        "the theorem's dictionary ({copies} copies a row, effective dimension {effective_dimension:.1}) is expected to \
         hold {expected:.0} atoms: not below the {rows} rows and the budget of {budget}; use the Bernoulli mode"
    )]
    TheoremTooLarge {
        /// Copies of each row.
        copies: u32,
        /// Effective dimension at gamma.
        effective_dimension: f64,
        /// Expected number of atoms.
        expected: f64,
        /// Rows.
        rows: u64,
        /// Budget of atoms.
        budget: usize,
    },
    /// A row weight is negative or not finite.
    #[error("weight {weight} of row {row} must be finite and not negative")]
    BadWeight {
        /// Row, by its position in the input.
        row: usize,
        /// Its weight.
        weight: f64,
    },
    /// The weighted trace of the kernel matrix is not finite.
    #[error("the weighted trace of the kernel matrix is {value}: some k(x, x) or weight is too large")]
    NotFinite {
        /// The trace.
        value: f64,
    },
    /// A count per prefix is too coarse: a prefix at its last level still has to split.
    #[error("a prefix of {depth} bits holds {rows} rows, above the {capacity} of a leaf: count with more bits")]
    CountsTooCoarse {
        /// Bits of the counts.
        depth: u32,
        /// Rows with that prefix.
        rows: u64,
        /// Rows of a leaf.
        capacity: usize,
    },
    /// A dense factorisation failed.
    #[error(transparent)]
    Dense(#[from] DenseError),
}
