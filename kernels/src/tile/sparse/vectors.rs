//! Vectors in the order of the blocks, with what bounds need of them.
//!
//! A block's values lie together, packed as the products of `products.rs` in the parent folder read them; |v| is summed inside each box of the tree, upwards, so that the sum is over by its
//! rounding at most. Cost: O(m t) once a vector, not once a call.

use super::SparseTiles;
use crate::constants::SPARSE_BLOCK;
use crate::tile::Entry;
use crate::tile::products::PackColumns;
use crate::tile::tasks::Columns;

/// Vectors v, m x t, in the order of the blocks, with the sizes that bounds need: made once for many calls, on any thread.
#[derive(Clone, Debug)]
pub struct SparseVectors {
    pub(super) t: usize,
    /// Of the tree whose order they are in.
    pub(super) mark: u64,
    /// Values of a block: `SPARSE_BLOCK` times the padded columns.
    pub(super) packed: Vec<f64>,
    /// nodes x t: at least the sum of |v| inside.
    pub(super) sizes: Vec<f64>,
    /// |v| of each column.
    pub(super) norms: Vec<f64>,
}

impl SparseVectors {
    /// |v|_2 of each column.
    pub fn norms(&self) -> &[f64] {
        &self.norms
    }

    /// At least the sum of |v| inside `node`, relative to |v|_2, in each column.
    pub(super) fn share(&self, node: usize) -> f64 {
        let sizes = self.sizes[node * self.t..(node + 1) * self.t].iter().zip(&self.norms);
        // More than the roundings of the norm.
        sizes.map(|(size, norm)| if *size > 0.0 { size / norm * (1.0 + 1e-9) } else { 0.0 }).fold(0.0, f64::max)
    }
}

impl<T: Entry> SparseTiles<T> {
    /// Packs `v` (m x t, row-major), for [`SparseTiles::k_v`] and [`SparseTiles::map_rows`].
    ///
    /// # Panics
    /// If `v` has another length.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, SparseScratch, SparseTiles}};
    /// let kernel = Kernel::new(Family::Wendland { smoothness: 2, dimension: 1 }, 1.0);
    /// let rows = Rows::new(&[0.0, 5.0], 1, &[], 0);
    /// let tiles = SparseTiles::<f64>::new(&kernel, rows, &[], SimdPath::detect(), 0.0)?;
    /// let v = tiles.vectors(&[1.0, 10.0, 2.0, 20.0], 2);
    /// let (mut kv, mut bounds) = ([0.0; 4], [1.0; 4]);
    /// tiles.k_v(rows, &v, &mut SparseScratch::new(), &mut kv, &mut bounds);
    /// assert_eq!((kv, bounds), ([1.0, 10.0, 2.0, 20.0], [0.0; 4]));
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn vectors(&self, v: &[f64], t: usize) -> SparseVectors {
        assert_eq!(v.len(), self.centers() * t, "v must be centers x t");
        let (blocks, columns) = (self.centers().div_ceil(SPARSE_BLOCK), self.columns(t));
        let mut packed = vec![0.0; blocks * SPARSE_BLOCK * columns];
        let mut block_v = Vec::with_capacity(SPARSE_BLOCK * t);
        for (block, packed) in packed.chunks_exact_mut((SPARSE_BLOCK * columns).max(1)).enumerate() {
            let order = &self.tree.order[self.places(block)];
            block_v.clear();
            order.iter().for_each(|&j| block_v.extend_from_slice(&v[j * t..(j + 1) * t]));
            if t == 1 {
                packed[..order.len()].copy_from_slice(&block_v);
            } else {
                let out = &mut packed[..order.len() * columns];
                T::dispatch(self.tiles.token, PackColumns { v: &block_v, columns: t, out });
            }
        }
        let nodes = &self.tree.nodes;
        let mut sizes = vec![0.0; nodes.len() * t];
        // Children come after their parents.
        for node in (0..nodes.len()).rev() {
            for c in 0..t {
                let size = if nodes[node].blocks == 1 {
                    let order = &self.tree.order[self.tree.places(node, self.centers())];
                    // Rounding of at most so many additions, of these and of the nodes above.
                    order.iter().map(|&j| v[j * t + c].abs()).sum::<f64>() * (1.0 + 1e-12)
                } else {
                    sizes[(node + 1) * t + c] + sizes[nodes[node].right * t + c]
                };
                sizes[node * t + c] = size;
            }
        }
        let norm = |c: usize| (0..self.centers()).map(|j| v[j * t + c] * v[j * t + c]).sum::<f64>().sqrt();
        SparseVectors { t, mark: self.tree.mark, packed, sizes, norms: (0..t).map(norm).collect() }
    }

    /// Row length of a padded block of `t` columns: one column is not padded.
    pub(super) fn columns(&self, t: usize) -> usize {
        if t <= 1 { t } else { T::dispatch(self.tiles.token, Columns(t)) }
    }
}
