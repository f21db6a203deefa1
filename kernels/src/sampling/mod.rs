//! Choosing centers: streamed ridge leverage scores (SQUEAK, DISQUEAK), randomly pivoted Cholesky, and comparators.
//!
//! The problem: from n rows that are seen once, keep a weighted handful whose sum of outer products stands for the
//! whole, `|M - A| <= eps (A + gamma I)`, A = sum phi phi^T, M = sum w phi phi^T ([`Dictionary`]); then pick m centers
//! among the survivors ([`rp_cholesky`]).
//!
//! * [`leverage`]: ridge leverage scores, exact, from a dictionary, and of new rows; the ridge that yields a given size.
//! * [`Squeak`]: Expand and Shrink by blocks, and the frozen-dictionary filter (Calandriello, Lazaric and Valko,
//!   "Distributed adaptive sampling for kernel matrix approximation", AISTATS 2017).
//! * [`DictionaryTrie`]: DISQUEAK merges over a trie on a hash of the row ids, whose shape has no history.
//! * [`rpcholesky`]: Chen, Epperly, Tropp and Webber, "Randomly pivoted Cholesky" (2022), in the accelerated form of
//!   Epperly, Tropp and Webber, "Embrace rejection" (2024).
//! * [`comparators`]: KORS, BLESS, recursive leverage scores.
//!
//! Invariants: every random choice is a hash of (seed, stage, row id), so results depend on the *set* of rows and
//! nothing else; every matrix is f64; gamma is a matrix ridge and never a per-sample one.

pub mod comparators;
mod dictionary;
mod disqueak;
mod error;
mod gamma;
pub mod leverage;
mod oracle;
pub mod rpcholesky;
mod squeak;
#[cfg(test)]
mod tests;

pub use dictionary::{Atom, Dictionary, DictionaryMode};
pub use disqueak::{DictionaryTrie, Prefix, TrieShape};
pub use error::SamplingError;
pub use gamma::{GammaForSize, ScoreSample};
pub use leverage::RidgeFactor;
pub use oracle::KernelOracle;
pub use rpcholesky::{FactorStorage, PivotParams, Pivots, rp_cholesky};
pub use squeak::{DictionaryParams, Inputs, Squeak};

use faer::Par;

/// *Shape.* Matrices of at least this order are factored with the fixed logical parallelism, smaller ones
/// sequentially. The rule sees the order alone, so the bits do not depend on where a node is computed.
const PARALLEL_ORDER: usize = 1024;

fn parallelism(order: usize) -> Par {
    if order < PARALLEL_ORDER { crate::dense::SEQUENTIAL } else { crate::dense::fixed_parallelism() }
}
