//! Products with only those entries of a kernel matrix that can matter: sub-quadratic where the kernel is narrow beside the data.
//!
//! **Problem.** K v over all rows and centers costs n m entries, though with a bandwidth of 1 % of the data's extent nearly all of them are nearly 0. Here centers are
//! ordered into compact blocks, and a block too far from a row is left out, with a proof of what that may have cost. In the setting of Indyk, Kapralov, Sheth and
//! Wagner, "Improved algorithms for kernel matrix-vector multiplication under sparsity assumptions" (2025): entries that add up to O(n) instead of n m.
//!
//! **What is kept.** Centers are split recursively at the median of their widest coordinate (after metric and bandwidth; `tree.rs`), down to blocks of
//! [`SPARSE_BLOCK`] centers. A row keeps a block unless k at the distance from the row to the block's box, or to a box around it, is at most the *cutoff* tau: every entry left out is at most tau. So the
//! matrix in use, K~, is fixed by kernel, centers and cutoff: 0 <= K - K~ <= tau entry by entry, whatever v is, and K~^T K~ is symmetric: conjugate gradients may use it.
//! * Each row: |(K v - K~ v)_i| <= tau |v|_1: tau = eps / |v|_1 holds every row to eps.
//! * All n rows: |K v - K~ v|_2 <= tau sqrt(n m) |v|_2 ([`norm_cutoff`]).
//! * Wendland's kernels need no cutoff: with tau = 0 what is left out is exactly 0.
//!
//! With a [`Budget`] rows give up more: each the blocks that matter least to it, as many as its own part of the tolerance allows, and of a known V it may draw blocks with weights (`budget.rs`). K~ is then
//! fixed by the budget and the rows' identities too.
//!
//! What a product returns beside its values is tighter: each row's sum over the boxes left out of k(distance to the box) times the sum of |v| inside (`bound.rs`).
//! [`SparseTiles::missing`] bounds the squared Frobenius norm of K - K~, row by row, which holds for every v and for both products.
//! Distances here are of f64 coordinates, with their rounding counted against them; what is certified is the kernel as defined, and kept entries have the errors of [`Tiles`].
//!
//! **Invariants** (law 1): what a row keeps is a function of the row alone, and the bits of its product of the row and v: rows may be cut anywhere. A row's sum runs
//! over its blocks in the order of the tree, each a product of fixed shape ([`Tiles`]); every output of the transposed product is one chain over its rows in their order.
//! Kept entries have the bits of [`Tiles`]. Nothing is sorted by row: rows that keep a block are gathered for its tile (`keep.rs`), so that no row pays for another's neighbourhood.
//!
//! What a row draws is a function of its identity, so the same holds of it.
//!
//! **Cost.** With b blocks kept of m / 64 a row: 64 b entries, and about 4 b + 2 log2(m / 64) distances to boxes. Where nothing can be left out the walk adds 2 m / 64
//! distances a row to the dense product. Memory: packed centers and their boxes; entries of at most [`SPARSE_BYTES`] a thread, where both products are wanted of one evaluation.

mod blocks;
mod bound;
mod budget;
mod keep;
mod products;
mod tree;
mod vectors;

pub use budget::{Budget, DrawnRows, Spread};
pub use products::{Missing, SparseScratch};
pub use vectors::SparseVectors;

use super::{Entry, SimdPath, TileError, Tiles};
use crate::constants::SPARSE_BLOCK;
use crate::kernel::Kernel;
use crate::rows::{RowBuf, Rows};
use bound::Decay;
use tree::Tree;

/// A kernel with its centers ordered into blocks and packed: [`Tiles`] without the entries that are at most a cutoff. Shared between threads; each has its own
/// [`SparseScratch`].
///
/// ```
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, SparseScratch, SparseTiles}};
/// let z: Vec<f32> = (0..1000).map(|j| j as f32).collect();
/// let (kernel, centers) = (Kernel::new(Family::Gaussian, 1.0), Rows::new(&z, 1, &[], 0));
/// let tiles = SparseTiles::<f64>::new(&kernel, centers, &[], SimdPath::detect(), 1e-9)?;
/// let v = tiles.vectors(&[1.0; 1000], 1);
/// let (mut kv, mut bound) = ([0.0], [0.0]);
/// let entries = tiles.k_v(Rows::new(&[500.0], 1, &[], 0), &v, &mut SparseScratch::new(), &mut kv, &mut bound);
/// // A row of a thousand entries is a few blocks; its sum is that of the integers' Gaussians, sqrt(2 pi).
/// assert!(entries <= 192 && bound[0] <= 1e-9 * 1000.0);
/// assert!((kv[0] - (2.0 * std::f64::consts::PI).sqrt()).abs() < bound[0] + 1e-7);
/// # Ok::<(), nystream_kernels::tile::TileError>(())
/// ```
#[derive(Debug)]
pub struct SparseTiles<T: Entry> {
    tiles: Tiles<T>,
    tree: Tree,
    decay: Decay,
    cutoff: f64,
    budget: Option<Budget>,
}

/// The cutoff with which |K v - K~ v|_2 <= epsilon |v|_2 for any v, over `rows` rows and `centers` centers.
///
/// The largest singular value of K - K~ is at most its Frobenius norm, of n m entries none of which is above the cutoff.
///
/// ```
/// use nystream_kernels::tile::norm_cutoff;
/// assert!((norm_cutoff(1e-3, 1_000_000, 10_000) - 1e-8).abs() < 1e-20);
/// ```
pub fn norm_cutoff(epsilon: f64, rows: u64, centers: usize) -> f64 {
    epsilon / (rows.max(1) as f64 * centers.max(1) as f64).sqrt()
}

impl<T: Entry> SparseTiles<T> {
    /// Orders and packs `centers`; see [`Tiles::new`] for the first four arguments. Entries of at most `cutoff` may be left out: 0 leaves out what is exactly 0.
    ///
    /// # Errors
    /// As [`Tiles::new`]; [`TileError::Cutoff`] for a cutoff outside [0, 1), [`TileError::NotRadial`] for a kernel that is no function of the distance.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, SparseTiles, TileError}};
    /// let rows = Rows::new(&[0.0, 1.0], 1, &[], 0);
    /// let new = |family, cutoff| SparseTiles::<f32>::new(&Kernel::new(family, 1.0), rows, &[], SimdPath::detect(), cutoff);
    /// assert_eq!(new(Family::Ntk { depth: 1 }, 1e-6).unwrap_err(), TileError::NotRadial);
    /// assert_eq!(new(Family::Laplace, 1.0).unwrap_err(), TileError::Cutoff { cutoff: 1.0 });
    /// ```
    pub fn new(
        kernel: &Kernel,
        centers: Rows<'_>,
        offset: &[f32],
        simd: SimdPath,
        cutoff: f64,
    ) -> Result<Self, TileError> {
        if !(0.0..1.0).contains(&cutoff) {
            return Err(TileError::Cutoff { cutoff });
        }
        if !kernel.family.is_radial() {
            return Err(TileError::NotRadial);
        }
        // No centers: what is checked of the others is checked here, before coordinates are formed.
        let none = Tiles::<T>::new(kernel, centers.slice(0, 0), offset, simd)?;
        let tree = Tree::new(&none.form, kernel, centers);
        let ordered = RowBuf::gather(centers, &tree.order);
        let tiles = Tiles::new(kernel, ordered.view(), offset, simd).map_err(|error| match error {
            TileError::NonFiniteCenter { row, column, value } => {
                TileError::NonFiniteCenter { row: tree.order[row], column, value }
            }
            other => other,
        })?;
        Ok(SparseTiles { tiles, tree, decay: Decay::new(kernel.family, cutoff), cutoff, budget: None })
    }

    /// These tiles, with rows that do without more blocks: as many as `budget` allows, which must be of these. Where that is of known vectors, bounds are for products with those.
    ///
    /// # Panics
    /// If it is of other tiles.
    #[must_use]
    pub fn within(mut self, budget: Budget) -> Self {
        assert_eq!(budget.nodes(), self.tree.nodes.len(), "the budget must be of these tiles");
        self.budget = Some(budget);
        self
    }

    /// What rows may do without, beyond the cutoff.
    pub fn budget(&self) -> Option<&Budget> {
        self.budget.as_ref()
    }

    /// Number of centers, m.
    pub fn centers(&self) -> usize {
        self.tiles.centers()
    }

    /// Bytes the packed centers and their tree take, at most, on any path, with what is held while they are made (for a full metric, `numeric_width` counts the rows of its
    /// map, or the columns, whichever are more).
    ///
    /// ```
    /// use nystream_kernels::tile::{SparseTiles, Tiles};
    /// let (sparse, dense) = (SparseTiles::<f32>::memory_bytes(100_000, 3, 0), Tiles::<f32>::memory_bytes(100_000, 3, 0));
    /// assert!(sparse > dense && sparse < 5 * dense);
    /// ```
    pub fn memory_bytes(centers: usize, numeric_width: usize, code_width: usize) -> usize {
        let ordered = 4 * numeric_width + 2 * code_width;
        let coordinates = 8 * (numeric_width + 1);
        let held = Tiles::<T>::memory_bytes(centers, numeric_width, code_width) + Decay::memory_bytes();
        // One in use and one that is made.
        let budget = 2 * Budget::memory_bytes(Tree::most_nodes(centers));
        held + budget + Tree::memory_bytes(centers, numeric_width, code_width) + centers * (ordered + coordinates)
    }

    /// Bytes that these tiles hold.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.tree.held_bytes() + self.tiles.panel_len() * size_of::<T>() + Decay::memory_bytes()
    }

    /// The kernel.
    pub fn kernel(&self) -> &Kernel {
        self.tiles.kernel()
    }

    /// The dispatch path.
    pub fn simd(&self) -> SimdPath {
        self.tiles.simd()
    }

    /// The cutoff: no entry above it is left out.
    pub fn cutoff(&self) -> f64 {
        self.cutoff
    }

    /// The center at each place of the blocks, [`SPARSE_BLOCK`] a block.
    pub fn order(&self) -> &[usize] {
        &self.tree.order
    }

    /// Places of block `block` in the order of the tree.
    fn places(&self, block: usize) -> std::ops::Range<usize> {
        block * SPARSE_BLOCK..((block + 1) * SPARSE_BLOCK).min(self.centers())
    }

    /// Row length of a block's entries: whole panels.
    fn block_stride(&self, block: usize) -> usize {
        SPARSE_BLOCK.min(self.tiles.stride - block * SPARSE_BLOCK)
    }
}
