//! Which rows keep which blocks: one walk down the tree with lists of rows.
//!
//! A node takes the list of its parent and hands on the rows that are within the radius of its box; the others are told to a function, with their distance, and go no
//! further. What reaches a block is its list. Blocks come in their order, rows of each in theirs; what is told of a row comes in the order of the nodes,
//! whatever other rows there are. Cost: the distances of `tree.rs`, at most two a kept node.

use super::tree::Located;
use super::{SparseScratch, SparseTiles};
use crate::constants::SPARSE_ROWS;
use crate::rows::Rows;
use crate::tile::Entry;

/// The rows of each block that some row keeps.
#[derive(Debug, Default)]
pub struct Kept {
    /// Blocks in their order, with the end of their rows.
    ends: Vec<(usize, usize)>,
    rows: Vec<u32>,
    /// Lists of rows, one a level of the tree.
    lists: Vec<Vec<u32>>,
}

impl Kept {
    /// Blocks with the rows that keep them, both ascending.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, &[u32])> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|&(_, end)| end));
        starts.zip(&self.ends).map(|(start, &(block, end))| (block, &self.rows[start..end]))
    }

    /// Bytes that are in use.
    #[cfg(test)]
    pub fn held_bytes(&self) -> usize {
        let rows = self.rows.len() + self.lists.iter().map(Vec::len).sum::<usize>();
        4 * rows + self.ends.len() * size_of::<(usize, usize)>()
    }
}

/// The walk: rows and what is told of those left out at a node, (row, node, squared distance).
struct Walk<'a, T: Entry, F> {
    tiles: &'a SparseTiles<T>,
    rows: Rows<'a>,
    located: &'a Located,
    left_out: F,
    kept: &'a mut Kept,
}

impl<T: Entry, F: FnMut(usize, usize, f64)> Walk<'_, T, F> {
    fn visit(&mut self, node: usize, level: usize) {
        let tree = &self.tiles.tree;
        let (radius, width) = (self.tiles.decay.radius, tree.width);
        let (above, below) = self.kept.lists.split_at_mut(level + 1);
        let (from, to) = (&above[level], &mut below[0]);
        to.clear();
        for &row in from {
            let i = row as usize;
            let x = &self.located.coordinates[i * width..(i + 1) * width];
            let codes = if tree.codes > 0 { self.rows.codes(i) } else { &[] };
            let distance = tree.squared_distance(node, x, self.located.errors[i], codes, radius);
            if distance > radius {
                (self.left_out)(i, node, distance);
            } else {
                to.push(row);
            }
        }
        if to.is_empty() {
            return;
        }
        let here = tree.nodes[node];
        if here.blocks == 1 {
            self.kept.rows.extend_from_slice(to);
            self.kept.ends.push((here.first, self.kept.rows.len()));
        } else {
            self.visit(node + 1, level + 1);
            self.visit(here.right, level + 1);
        }
    }
}

impl<T: Entry> SparseTiles<T> {
    /// Finds the blocks that `rows` keep.
    pub(super) fn keep(
        &self,
        rows: Rows<'_>,
        located: &mut Located,
        kept: &mut Kept,
        left_out: impl FnMut(usize, usize, f64),
    ) {
        kept.ends.clear();
        kept.rows.clear();
        kept.lists.resize_with(self.tree.height() + 1, Vec::new);
        if self.tree.nodes.is_empty() {
            return;
        }
        located.locate(&self.tiles.form, rows);
        kept.lists[0].clear();
        kept.lists[0].extend(0..rows.len() as u32);
        Walk { tiles: self, rows, located, left_out, kept }.visit(0, 0);
    }

    /// Entries that `rows` keep, of rows x centers: what a product would evaluate, without evaluating any.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, SparseScratch, SparseTiles}};
    /// let z: Vec<f32> = (0..640).map(|j| j as f32).collect();
    /// let (kernel, centers) = (Kernel::new(Family::Wendland { smoothness: 2, dimension: 1 }, 1.0), Rows::new(&z, 1, &[], 0));
    /// let tiles = SparseTiles::<f64>::new(&kernel, centers, &[], SimdPath::detect(), 0.0)?;
    /// // One of ten blocks, none, and the two on both sides of a border.
    /// let rows = Rows::new(&[100.0, 1000.0, 63.5], 1, &[], 0);
    /// assert_eq!(tiles.kept_entries(rows, &mut SparseScratch::new()), 64 + 128);
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn kept_entries(&self, rows: Rows<'_>, scratch: &mut SparseScratch<T>) -> u64 {
        self.tiles.check(rows);
        let mut entries = 0;
        for start in (0..rows.len()).step_by(SPARSE_ROWS) {
            let part = rows.slice(start, (start + SPARSE_ROWS).min(rows.len()));
            self.keep(part, &mut scratch.located, &mut scratch.kept, |_, _, _| {});
            let kept = scratch.kept.blocks().map(|(block, rows)| (rows.len() * self.places(block).len()) as u64);
            entries += kept.sum::<u64>();
        }
        entries
    }

    /// At least sum_j (K - K~)_ij^2 of every row: what is left out, whatever v is. With M the sum over all rows, |K v - K~ v|_2 <= sqrt(M) |v|_2, and as much for K^T u;
    /// K^T K differs from K~^T K~ by at most 2 sqrt(M) |K|_2 + M in norm.
    ///
    /// # Panics
    /// If `out` does not have one value a row.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, SparseScratch, SparseTiles}};
    /// let (kernel, centers) = (Kernel::new(Family::Laplace, 1.0), Rows::new(&[0.0, 0.0], 1, &[], 0));
    /// let tiles = SparseTiles::<f64>::new(&kernel, centers, &[], SimdPath::detect(), 1e-6)?;
    /// let mut missing = [0.0; 2];
    /// tiles.missing(Rows::new(&[1.0, 20.0], 1, &[], 0), &mut SparseScratch::new(), &mut missing);
    /// let exact = 2.0 * (-40f64).exp();
    /// assert!(missing[0] == 0.0 && missing[1] >= exact && missing[1] < 1.5 * exact);
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn missing(&self, rows: Rows<'_>, scratch: &mut SparseScratch<T>, out: &mut [f64]) {
        self.tiles.check(rows);
        assert_eq!(out.len(), rows.len(), "out must have one value a row");
        out.fill(0.0);
        for start in (0..rows.len()).step_by(SPARSE_ROWS) {
            let part = rows.slice(start, (start + SPARSE_ROWS).min(rows.len()));
            self.keep(part, &mut scratch.located, &mut scratch.kept, |i, node, distance| {
                let centers = self.tree.places(node, self.centers()).len() as f64;
                // A half per cent more than any number of roundings.
                out[start + i] += 1.005 * centers * self.decay.bound(distance).powi(2);
            });
        }
    }
}
