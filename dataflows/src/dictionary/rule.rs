//! How centers were chosen, settled: what a model records, and what is repeated on other rows.
//!
//! `auto`, shares of a budget, and quantities estimated on a sample have become numbers here. With the number of centers, the kernel and the seed
//! a rule makes the choice a function of the set of rows, whatever n is.

use nystream_kernels::sampling::DictionaryMode;
use serde::{Deserialize, Serialize};

/// The rule of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelectionRule {
    /// The method with its settled numbers.
    pub method: Method,
    /// L: candidates are the rows whose hash has L leading zero bits.
    pub pool_bits: u32,
}

/// How centers are chosen among the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Method {
    /// SQUEAK, DISQUEAK and refinement.
    Squeak {
        /// M: size that the dictionary aims at.
        atoms: u64,
        /// B: rows above which a leaf of the trie splits.
        leaf_rows: u64,
        /// Matrix ridge of the leverage scores, on all rows.
        gamma: f64,
        /// Inclusion probabilities.
        mode: DictionaryMode,
        /// Whether refinement draws pivots by w d^1/4 instead of w d.
        tempered: bool,
    },
    /// Randomly pivoted Cholesky.
    RpCholesky {
        /// Whether every round scans all rows.
        full: bool,
        /// Whether pivots are drawn by w d^1/4 instead of w d.
        tempered: bool,
        /// Of the rows with L leading zero bits, the first so many by hash are candidates; none = all of them.
        most: Option<u64>,
    },
    /// The first by hash.
    Uniform,
    /// Given ones.
    File,
}

impl Default for SelectionRule {
    fn default() -> Self {
        SelectionRule { method: Method::Uniform, pool_bits: 0 }
    }
}
