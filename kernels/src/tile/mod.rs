//! SIMD kernel tiles: blocks of kernel entries and their products with vectors, each entry evaluated once.
//!
//! **Problem.** K(X, Z) v, K^T(K v) and K^T u for rows that stream by and centers that stay, at a rate near the processor's
//! multiply-add limit, with entries in f32 (or f64) and sums in f64.
//!
//! **Invariants** (law 1): an entry's bits depend only on its row, its center, the kernel, the offset, the precision and the dispatch path: never on
//! its position, the number of rows, or the other centers. Sums have fixed shapes (see `products.rs`) that no cache size alters.
//! k(x, x) = 1 exactly for radial families. Symmetric: k(x, z) = k(z, x) bit for bit.
//!
//! **Parts.** [`Tiles`] packs centers once (`pack.rs`) and walks rows in blocks that fit the second-level cache (`vectors.rs`); `micro.rs` is the register
//! tile; `functions.rs` has the exponential, the arc sine and the families; `lanes.rs` and `x86.rs` hide the instruction sets; `products.rs` multiplies
//! blocks with vectors in f64, `narrow.rs` fuses products in the entries' own precision into the tile, `nearest.rs` finds the center nearest to a row, `gradients.rs` sums slopes times
//! differences, `symmetric.rs` uses entries of K(Z, Z) twice. [`CenterBlocks`] sums over centers by blocks, which may lie in several processes (`blocks.rs`). [`SparseTiles`] leaves out blocks of centers that are too far to matter (`sparse/`).
//!
//! **Cost** per entry: d multiply-adds and about 20 other operations for a radial family (gaussian on AVX-512: 12, of which 9 are the exponential), in lanes of 8 (AVX2, f32)
//! or 16. Vector operations of every kind share the ports of multiply-adds, so an entry of d + 12 operations runs at 1 / (2 (d + 12)) of the peak in flop/s at best: about 0.0227 at d = 10,
//! 0.0114 at 32, 0.0049 at 90. Memory: the packed centers, m (d + codes + 3) entries; a scratch of about 0.5 MB a thread and the padded blocks of vectors.
//!
//! **Accuracy.** f32 radial entries: the argument has an absolute error of about (d + 4) 2^-24 (|x|^2 + |z|^2) (scaled, offset subtracted) where it is expanded, and a relative
//! error of that kind where the rows are near; the functions add 2 ulp. The tangent kernel has an infinite slope at angle 0: its f32 entries near the diagonal are good to 2^-12 |x||z| per layer
//! (on it, exact). Errors of each family's function and slope are stated in `functions.rs`.
//!
//! **A new family.** `docs/adding-a-kernel-family.md` goes through every place with an example. **Unsafe code** is in `x86.rs` alone, which says why it is sound.

mod blocks;
pub(crate) mod buffer;
pub(crate) mod entry;
mod functions;
mod gradients;
pub(crate) mod lanes;
mod matrix;
mod micro;
mod narrow;
mod nearest;
mod pack;
mod probe;
mod products;
mod sparse;
mod symmetric;
mod tasks;
mod tiles;
mod vectors;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86;

#[cfg(test)]
mod tests;

pub use blocks::{BlockScratch, CenterBlocks};
pub use entry::Entry;
pub use gradients::Gradients;
pub use matrix::{kernel_matrix, symmetric_kernel_matrix};
pub use nearest::Nearest;
pub use probe::multiply_adds;
pub use sparse::{Budget, DrawnRows, Missing, SparseScratch, SparseTiles, SparseVectors, Spread, norm_cutoff};
pub use tiles::{TileScratch, Tiles};

use crate::kernel::Family;
use entry::{Real, Token};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Runs `task` on the fastest path of this processor: for work whose result no path changes.
pub(crate) fn on_fastest_path<K: lanes::Task<f64>>(task: K) -> K::Output {
    f64::dispatch(Token::fastest(), task)
}

/// A dispatch path: which instructions form the kernel entries. Part of what determines a model's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SimdPath {
    /// 128-bit arrays without fused operations: the same bits on every processor.
    Portable,
    /// AVX2 and FMA (x86-64).
    Avx2,
    /// AVX-512 F and DQ (x86-64).
    Avx512,
    /// 128-bit vectors with fused operations (aarch64).
    Neon,
}

impl SimdPath {
    /// The fastest path of this processor.
    ///
    /// ```
    /// use nystream_kernels::tile::SimdPath;
    /// assert!(SimdPath::available().contains(&SimdPath::detect()));
    /// assert_eq!("avx2".parse(), Ok(SimdPath::Avx2));
    /// ```
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(SimdPath::Portable)
    }

    /// The paths of this processor, slowest first; [`SimdPath::Portable`] is always there.
    pub fn available() -> Vec<Self> {
        let all = [SimdPath::Portable, SimdPath::Neon, SimdPath::Avx2, SimdPath::Avx512];
        all.into_iter().filter(|&path| Token::of(path).is_some()).collect()
    }
}

impl fmt::Display for SimdPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SimdPath::Portable => "portable",
            SimdPath::Avx2 => "avx2",
            SimdPath::Avx512 => "avx512",
            SimdPath::Neon => "neon",
        })
    }
}

impl FromStr for SimdPath {
    type Err = TileError;

    fn from_str(s: &str) -> Result<Self, TileError> {
        [SimdPath::Portable, SimdPath::Avx2, SimdPath::Avx512, SimdPath::Neon]
            .into_iter()
            .find(|path| path.to_string() == s)
            .ok_or_else(|| TileError::UnknownPath { given: s.to_owned() })
    }
}

/// Why tiles cannot be made.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum TileError {
    /// The bandwidth is not positive and finite, or so small that the scale overflows.
    #[error("bandwidth {bandwidth} is out of range: it must be positive and finite")]
    Bandwidth {
        /// The bandwidth.
        bandwidth: f64,
    },
    /// A family's parameter is out of range.
    #[error("the kernel's {parameter} is {value}, which is out of range")]
    Family {
        /// Its name.
        parameter: &'static str,
        /// Its value.
        value: f64,
    },
    /// A metric has a number of length scales that is not the number of columns.
    #[error("the metric has {given} {part} length scales for {width} {part} columns")]
    ScaleCount {
        /// `numeric` or `categorical`.
        part: &'static str,
        /// Length scales given.
        given: usize,
        /// Columns.
        width: usize,
    },
    /// A length scale is not positive and finite.
    #[error("the metric's length scale of {part} column {column} is {value}: it must be positive and finite")]
    Scale {
        /// `numeric` or `categorical`.
        part: &'static str,
        /// Column.
        column: usize,
        /// The scale.
        value: f64,
    },
    /// A full metric's matrix does not have rows x numeric_width values.
    #[error("the metric's matrix has {given} values, not {rows} x {numeric_width}")]
    MapShape {
        /// Values given.
        given: usize,
        /// Its rows.
        rows: usize,
        /// Numeric columns.
        numeric_width: usize,
    },
    /// A full metric's matrix holds a value that is not finite.
    #[error("value {index} of the metric's matrix is {value}")]
    MapValue {
        /// Row-major index.
        index: usize,
        /// The value.
        value: f64,
    },
    /// The offset has another length than the numeric part.
    #[error("the offset has {given} values for {numeric_width} numeric columns")]
    Offset {
        /// Values given.
        given: usize,
        /// Numeric columns.
        numeric_width: usize,
    },
    /// The offset holds a value that is not finite.
    #[error("the offset of column {column} is {value}")]
    NonFiniteOffset {
        /// Column.
        column: usize,
        /// The value.
        value: f32,
    },
    /// A center holds a value that is not finite.
    #[error("center {row} has {value} in numeric column {column}")]
    NonFiniteCenter {
        /// Center.
        row: usize,
        /// Numeric column.
        column: usize,
        /// The value.
        value: f32,
    },
    /// A cutoff outside [0, 1).
    #[error("the cutoff of kernel entries is {cutoff}: it must be at least 0 and below 1")]
    Cutoff {
        /// The cutoff.
        cutoff: f64,
    },
    /// A kernel that is no function of the distance has no far blocks.
    #[error("entries can only be left out of a kernel that is a function of the distance")]
    NotRadial,
    /// The family has no gradients here.
    #[error(
        "gradients of the {family:?} kernel are not available: it needs to be a function of the distance, or a polynomial"
    )]
    NoGradient {
        /// The family.
        family: Family,
    },
    /// This processor lacks the path.
    #[error("this processor cannot run the {simd} path; the best it has is {best}")]
    Unavailable {
        /// The path asked for.
        simd: SimdPath,
        /// The path this processor detects.
        best: SimdPath,
    },
    /// No path has this name.
    #[error("there is no SIMD path {given:?}: choose portable, avx2, avx512 or neon")]
    UnknownPath {
        /// The name given.
        given: String,
    },
}
