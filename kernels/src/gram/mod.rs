//! Exact Gram matrices: `K_nm^T W K_nm` and `K_nm^T W y` over any number of rows, in integers.
//!
//! The problem: the Gram matrix of a pass over the data must not depend on how rows are spread over chunks, workers and
//! time (law 1), and rows must leave it as exactly as they entered (online deletion). Floating-point sums can do neither.
//!
//! Kernel entries are scaled into [-1, 1] and rounded once, to multiples of 2^-22 ([`Precision::Single`]: absolute error
//! 2^-23, near that of f32 entries) or of 2^-43 ([`Precision::Double`]). From then on all is exact:
//!
//! * A product of two integers of at most 22 bits and sign, summed over a panel of [`PANEL_ROWS`] = 2^9 rows, is at most
//!   2^(2 * 22 + 9) = 2^53, so an f64 product (`product.rs`) forms it without rounding, in whatever order it sums.
//! * Double entries are `h 2^22 + l` with `|h|, |l| <= 2^21`, so that `h + l` has 22 bits too, and the cross terms
//!   `h_i l_j + l_i h_j = (h + l)_i (h + l)_j - h_i h_j - l_i l_j` cost a third exact product instead of two (Karatsuba and Ofman 1962).
//! * Panels add into a 64-bit tile in cache, and once in [`SLAB_ROWS`] rows into the shared 128-bit tile. Sums of up to
//!   [`MAX_ROWS`] = 2^40 rows stay below 2^(2 * 43 + 40) = 2^126.
//! * Targets, in [-1, 1] too, are always rounded to multiples of 2^-43 and enter as two limbs.
//!
//! Weights enter as `sqrt(w / w_max)` times the entry and the target, before rounding, so the result is the exact
//! Gram of a rounded matrix, hence positive semidefinite.
//!
//! Integer addition is a commutative group: [`ExactGram`] is free of order, mergeable, subtractable, and several threads
//! may add to one at the same time (the tiles are behind locks, held for the short 128-bit additions only).
//!
//! Cost per row: m^2 flops of f64 GEMM (three times that for Double) and 2 m t for the targets; memory 8 m^2 + 16 m t bytes, and
//! [`ExactGram::scratch_bytes`] per worker, independent of m beyond 512 centers.

mod add;
mod columns;
mod pieces;
mod product;
mod quantise;
#[cfg(test)]
mod tests;

pub use add::GramScratch;

use crate::dense;
use faer::Mat;
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// Rows of one exact GEMM panel. *Shape-free*: sums are exact, so this is tuning within `2 * 22 + log2 PANEL_ROWS <= 53`.
pub const PANEL_ROWS: usize = 512;

/// Rows between two additions into the shared 128-bit tiles.
pub const SLAB_ROWS: usize = 2048;

/// Capacity: rows (added minus subtracted) that cannot overflow the 128-bit sums.
pub const MAX_ROWS: u64 = 1 << 40;

/// Centers on a side of a tile: whole strips of every path, and a panel of two operands in a second-level cache of 2 MiB.
const TILE: usize = 192;

/// Bits of an integer operand of an exact product.
const OPERAND_BITS: u32 = 22;

/// Bits of a two-limb number: |x| <= 2^DOUBLE_BITS, in limbs of radix 2^OPERAND_BITS.
const DOUBLE_BITS: u32 = 43;

const _: () = {
    // Exactness of a panel in f64, of a slab in i64, and of all rows in i128.
    assert!(2 * OPERAND_BITS + PANEL_ROWS.ilog2() <= 53 && PANEL_ROWS.is_power_of_two());
    assert!(2 * OPERAND_BITS + SLAB_ROWS.ilog2() < 63 && SLAB_ROWS.is_power_of_two());
    assert!(2 * DOUBLE_BITS + MAX_ROWS.ilog2() < 127);
    // h + l of a two-limb number is an operand: h, l <= 2^(DOUBLE_BITS - OPERAND_BITS).
    assert!(DOUBLE_BITS - OPERAND_BITS < OPERAND_BITS);
};

/// How finely kernel entries are rounded before they are squared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Precision {
    /// Multiples of 2^-22: one exact product.
    #[serde(rename = "f32")]
    Single,
    /// Multiples of 2^-43: three exact products.
    #[serde(rename = "f64")]
    Double,
}

impl Precision {
    /// Entries are integers over 2 to this power.
    pub fn bits(self) -> u32 {
        match self {
            Precision::Single => OPERAND_BITS,
            Precision::Double => DOUBLE_BITS,
        }
    }

    /// Integer operands of an entry: itself, or h, l and h + l.
    fn operands(self) -> usize {
        match self {
            Precision::Single => 1,
            Precision::Double => 3,
        }
    }
}

/// What an [`ExactGram`] is a Gram matrix of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GramShape {
    /// Centers m: columns of the kernel block.
    pub centers: usize,
    /// Targets t.
    pub targets: usize,
    /// Rounding of the entries.
    pub precision: Precision,
    /// Entries over `2^scale_log2` lie in [-1, 1]; 0 for kernels with k(x, x) = 1.
    pub scale_log2: i32,
}

/// What an [`ExactGram`] can report. Rows, centers and targets are numbered from 0 within the call.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum GramError {
    /// A kernel entry is NaN, infinite or beyond the declared bound.
    #[error("kernel entry {value:e} of row {row} with center {center} is not within the bound {bound:e}")]
    EntryOutOfRange {
        /// Row.
        row: usize,
        /// Center.
        center: usize,
        /// The entry.
        value: f64,
        /// 2^scale_log2.
        bound: f64,
    },
    /// A target is NaN or beyond 1 in magnitude.
    #[error("scaled target {target} of row {row} is {value}, not in [-1, 1]")]
    TargetOutOfRange {
        /// Row.
        row: usize,
        /// Target.
        target: usize,
        /// The target's value.
        value: f64,
    },
    /// The root of a relative weight is not in [0, 1].
    #[error("the root of the relative weight of row {row} is {value}, not in [0, 1]")]
    WeightOutOfRange {
        /// Row.
        row: usize,
        /// The value.
        value: f64,
    },
    /// A slice does not have the length that the shape asks for.
    #[error("{what}: expected {expected} values, found {found}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Values expected (at least).
        expected: usize,
        /// Values found.
        found: usize,
    },
    /// More rows than the integers can hold.
    #[error("the Gram matrix holds {rows} rows; {more} more exceed its capacity of {limit}", limit = MAX_ROWS)]
    Capacity {
        /// Rows held.
        rows: u64,
        /// Rows of this call.
        more: u64,
    },
    /// Two Gram matrices of different shapes were combined.
    #[error("shapes differ: {expected:?} and {found:?}")]
    ShapeMismatch {
        /// The receiving shape.
        expected: GramShape,
        /// The other shape.
        found: GramShape,
    },
    /// There is no such piece.
    #[error("piece {piece} does not exist, there are {pieces}")]
    NoSuchPiece {
        /// Piece asked for.
        piece: usize,
        /// Number of pieces.
        pieces: usize,
    },
    /// Bytes are not the canonical form of this piece of a Gram matrix of this shape.
    #[error("bytes are not piece {piece} of a Gram matrix of this shape: {reason}")]
    BadPiece {
        /// The piece.
        piece: usize,
        /// What is wrong with them.
        reason: &'static str,
    },
}

/// The integers of a Gram matrix, shared by the workers of a process.
///
/// ```
/// use nystream_kernels::gram::{ExactGram, GramScratch, GramShape, Precision};
/// let shape = GramShape { centers: 2, targets: 1, precision: Precision::Single, scale_log2: 0 };
/// let gram = ExactGram::new(shape);
/// let mut scratch = GramScratch::default();
/// gram.add(&mut scratch, &[1.0f32, 0.5, 0.25, 1.0], 2, 2, None, &[1.0, -0.5]).unwrap();
/// gram.subtract(&mut scratch, &[0.25f32, 1.0], 2, 1, None, &[-0.5]).unwrap();
/// let sums = gram.finish();
/// assert_eq!(sums.gram, faer::mat![[1.0, 0.5], [0.5, 0.25]]);
/// assert_eq!(sums.cross, faer::mat![[1.0], [0.5]]);
/// assert_eq!((sums.rows, sums.weight_sum), (1, 1.0));
/// ```
#[derive(Debug)]
pub struct ExactGram {
    shape: GramShape,
    /// First the lower-triangle tiles (I >= J, by I then J; column-major, upper triangle of diagonal tiles zero), in units of 2^-2b;
    /// then for each I the products with the targets (column-major, rows of I x targets); then
    /// [rows, weight sum, target squares.., target sums..].
    buffers: Vec<Mutex<Vec<i128>>>,
}

/// The sums of an [`ExactGram`], rounded once to f64. Weights are relative to the largest: `w / w_max`.
#[derive(Clone, Debug, PartialEq)]
pub struct GramSums {
    /// `K_nm^T W K_nm`, m x m, symmetric.
    pub gram: Mat<f64>,
    /// `K_nm^T W y`, m x t, of scaled targets.
    pub cross: Mat<f64>,
    /// `sum w y^2` of each scaled target.
    pub target_squares: Vec<f64>,
    /// `sum w y` of each scaled target.
    pub target_sums: Vec<f64>,
    /// `sum w`.
    pub weight_sum: f64,
    /// Rows.
    pub rows: u64,
}

impl ExactGram {
    /// The Gram matrix of no rows.
    pub fn new(shape: GramShape) -> Self {
        ExactGram { shape, buffers: buffer_lengths(shape).map(|length| Mutex::new(vec![0; length])).collect() }
    }

    /// Its shape.
    pub fn shape(&self) -> GramShape {
        self.shape
    }

    /// Bytes of an [`ExactGram`] of this shape, for the plan.
    pub fn memory_bytes(shape: GramShape) -> usize {
        buffer_lengths(shape).map(|length| length * 16 + size_of::<Mutex<Vec<i128>>>()).sum()
    }

    /// Bytes of the [`GramScratch`] that each worker needs for this shape.
    pub fn scratch_bytes(shape: GramShape) -> usize {
        GramScratch::bytes(shape)
    }

    /// Rows added minus rows subtracted (0 while more were subtracted than added).
    pub fn rows(&self) -> u64 {
        u64::try_from(self.scalars()[0]).unwrap_or(0)
    }

    /// Adds all the rows of `other`.
    ///
    /// # Errors
    /// [`GramError::ShapeMismatch`].
    pub fn merge(&self, other: &ExactGram) -> Result<(), GramError> {
        self.combine(other, i128::wrapping_add)
    }

    /// Subtracts all the rows of `other`: the exact inverse of [`ExactGram::merge`].
    ///
    /// # Errors
    /// [`GramError::ShapeMismatch`].
    pub fn remove(&self, other: &ExactGram) -> Result<(), GramError> {
        self.combine(other, i128::wrapping_sub)
    }

    fn combine(&self, other: &ExactGram, with: fn(i128, i128) -> i128) -> Result<(), GramError> {
        if self.shape != other.shape {
            return Err(GramError::ShapeMismatch { expected: self.shape, found: other.shape });
        }
        for (mine, theirs) in self.buffers.iter().zip(&other.buffers) {
            // A copy, so that two locks are never held at once (and `other` may be `self`).
            let theirs = lock(theirs).clone();
            for (a, b) in lock(mine).iter_mut().zip(theirs) {
                *a = with(*a, b);
            }
        }
        Ok(())
    }

    /// The sums, scaled back and rounded once to f64.
    pub fn finish(&self) -> GramSums {
        let GramShape { centers, targets, precision, scale_log2 } = self.shape;
        let bits = precision.bits() as i32;
        let unit = |value: i128, power: i32| value as f64 * 2f64.powi(power);
        let tiles = tile_count(centers);
        let mut gram = Mat::zeros(centers, centers);
        for i in 0..tiles {
            for j in 0..=i {
                let tile = lock(&self.buffers[tile_index(i, j)]);
                let height = tile_width(centers, i);
                for (column, values) in tile.chunks_exact(height).enumerate() {
                    for (row, value) in values.iter().enumerate() {
                        if i != j || row >= column {
                            gram[(i * TILE + row, j * TILE + column)] = unit(*value, 2 * (scale_log2 - bits));
                        }
                    }
                }
            }
        }
        dense::mirror_lower(gram.as_mut());
        let mut cross = Mat::zeros(centers, targets);
        for i in 0..tiles {
            let block = lock(&self.buffers[cross_index(centers, i)]);
            for (target, values) in block.chunks_exact(tile_width(centers, i)).enumerate() {
                for (row, value) in values.iter().enumerate() {
                    cross[(i * TILE + row, target)] = unit(*value, scale_log2 - bits - DOUBLE_BITS as i32);
                }
            }
        }
        let scalars = self.scalars();
        let squares = -2 * DOUBLE_BITS as i32;
        let target_square = |k: usize| unit(scalars[2 + k], squares);
        GramSums {
            gram,
            cross,
            target_squares: (0..targets).map(target_square).collect(),
            target_sums: (targets..2 * targets).map(target_square).collect(),
            weight_sum: unit(scalars[1], squares),
            rows: u64::try_from(scalars[0]).unwrap_or(0),
        }
    }

    fn scalars(&self) -> MutexGuard<'_, Vec<i128>> {
        lock(&self.buffers[self.buffers.len() - 1])
    }
}

impl GramSums {
    /// The sums of all rows but those of `part` (folds): entrywise differences, each rounded once.
    ///
    /// # Panics
    /// If the shapes differ.
    ///
    /// ```
    /// use nystream_kernels::gram::{ExactGram, GramScratch, GramShape, Precision};
    /// let shape = GramShape { centers: 1, targets: 1, precision: Precision::Single, scale_log2: 0 };
    /// let (all, fold) = (ExactGram::new(shape), ExactGram::new(shape));
    /// let mut scratch = GramScratch::default();
    /// all.add(&mut scratch, &[1.0f32, 0.5], 1, 2, None, &[1.0, -1.0]).unwrap();
    /// fold.add(&mut scratch, &[0.5f32], 1, 1, None, &[-1.0]).unwrap();
    /// let rest = all.finish().without(&fold.finish());
    /// assert_eq!((rest.gram[(0, 0)], rest.cross[(0, 0)], rest.rows), (1.0, 1.0, 1));
    /// ```
    pub fn without(&self, part: &GramSums) -> GramSums {
        let difference = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
        GramSums {
            gram: &self.gram - &part.gram,
            cross: &self.cross - &part.cross,
            target_squares: difference(&self.target_squares, &part.target_squares),
            target_sums: difference(&self.target_sums, &part.target_sums),
            weight_sum: self.weight_sum - part.weight_sum,
            rows: self.rows.saturating_sub(part.rows),
        }
    }
}

/// A panicking worker ends the process (its sums are never used), so a poisoned lock carries no news.
fn lock(buffer: &Mutex<Vec<i128>>) -> MutexGuard<'_, Vec<i128>> {
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tile_count(centers: usize) -> usize {
    centers.div_ceil(TILE)
}

fn tile_width(centers: usize, tile: usize) -> usize {
    (centers - tile * TILE).min(TILE)
}

fn tile_index(i: usize, j: usize) -> usize {
    i * (i + 1) / 2 + j
}

fn cross_index(centers: usize, i: usize) -> usize {
    tile_index(tile_count(centers), 0) + i
}

fn buffer_lengths(shape: GramShape) -> impl Iterator<Item = usize> {
    let GramShape { centers, targets, .. } = shape;
    let tiles = tile_count(centers);
    let lower = (0..tiles).flat_map(move |i| (0..=i).map(move |j| tile_width(centers, i) * tile_width(centers, j)));
    let cross = (0..tiles).map(move |i| tile_width(centers, i) * targets);
    lower.chain(cross).chain([2 + 2 * targets])
}
