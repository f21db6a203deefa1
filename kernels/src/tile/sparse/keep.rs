//! Which rows keep which blocks: one walk down the tree with lists of rows.
//!
//! A node takes the list of its parent and hands on the rows that are within the radius of its box; the others are told to a function, with their distance, and go no
//! further. What reaches a block is its list. Blocks come in their order, rows of each in theirs; what is told of a row comes in the order of the nodes,
//! whatever other rows there are. With a budget (`budget.rs`) rows then go through their lists once more, and give up what it allows.
//! Cost: the distances of `tree.rs`, at most two a kept node.

use super::budget::{Budget, DrawnRows, Plans};
use super::tree::Located;
use super::{SparseScratch, SparseTiles};
use crate::constants::{SPARSE_ROWS, SUM_BLOCK_ROWS};
use crate::rows::Rows;
use crate::tile::Entry;

/// A block that some row keeps, and the end of its rows.
#[derive(Clone, Copy, Debug)]
struct KeptBlock {
    block: usize,
    end: usize,
}

/// The rows of each block that some row keeps.
#[derive(Debug, Default)]
pub struct Kept {
    /// In their order.
    ends: Vec<KeptBlock>,
    rows: Vec<u32>,
    /// With a budget, of each of those rows: the bits of the share that the block takes, then with how many chances it was drawn.
    marks: Vec<u32>,
    /// Lists of rows, one a level of the tree.
    lists: Vec<Vec<u32>>,
}

impl Kept {
    /// Blocks with the rows that keep them, both ascending.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, &[u32])> {
        self.drawn_blocks().map(|(block, rows, _)| (block, rows))
    }

    /// Those, with what [`weight`](super::budget::weight) takes of each row; nothing where none draws.
    pub fn drawn_blocks(&self) -> impl Iterator<Item = (usize, &[u32], &[u32])> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|kept| kept.end));
        starts.zip(&self.ends).map(|(start, kept)| {
            let marks = if self.marks.is_empty() { &[] } else { &self.marks[start..kept.end] };
            (kept.block, &self.rows[start..kept.end], marks)
        })
    }

    /// Keeps of each block the rows whose plans say so.
    fn spend(&mut self, budget: &Budget, plans: &mut Plans) {
        let (mut from, mut to) = (0, 0);
        for kept in &mut self.ends {
            for at in from..kept.end {
                let (row, share) = (self.rows[at], f32::from_bits(self.marks[at]));
                let (keeps, draws) = plans.keeps(row as usize, share);
                (self.rows[to], self.marks[to]) = (row, 0);
                to += usize::from(keeps);
                if draws
                    && !keeps
                    && let Some(chances) = plans.draw(budget, row as usize, kept.block, share)
                {
                    self.marks[to] = chances;
                    to += 1;
                }
            }
            (from, kept.end) = (kept.end, to);
        }
        self.rows.truncate(to);
        self.marks.truncate(if budget.draws() { to } else { 0 });
    }

    /// Bytes that are in use.
    #[cfg(test)]
    pub fn held_bytes(&self) -> usize {
        let rows = self.rows.len() + self.marks.len() + self.lists.iter().map(Vec::len).sum::<usize>();
        4 * rows + self.ends.len() * size_of::<KeptBlock>()
    }
}

/// The walk: rows and what is told of those left out at a node, (row, node, bound of its entries).
struct Walk<'a, T: Entry, F> {
    tiles: &'a SparseTiles<T>,
    rows: Rows<'a>,
    located: &'a Located,
    left_out: &'a mut F,
    kept: &'a mut Kept,
    plans: &'a mut Plans,
}

impl<T: Entry, F: FnMut(usize, usize, f64)> Walk<'_, T, F> {
    fn visit(&mut self, node: usize, level: usize) {
        let tree = &self.tiles.tree;
        let (radius, width) = (self.tiles.decay.radius, tree.width);
        let (above, below) = self.kept.lists.split_at_mut(level + 1);
        let (from, to) = (&above[level], &mut below[0]);
        let budget = self.tiles.budget.as_ref();
        let block = budget.filter(|_| tree.nodes[node].blocks == 1);
        let shares = block.map(|budget| budget.near_shares(node));
        to.clear();
        for &row in from {
            let i = row as usize;
            let x = &self.located.coordinates[i * width..(i + 1) * width];
            let codes = if tree.codes > 0 { self.rows.codes(i) } else { &[] };
            let distance = tree.squared_distance(node, x, self.located.errors[i], codes, radius);
            if distance > radius {
                let bound = self.tiles.decay.bound(distance);
                (self.left_out)(i, node, bound);
                if let Some(budget) = budget {
                    self.plans.beyond(budget, i, node, bound);
                }
                continue;
            }
            to.push(row);
            if let Some(share) = &shares {
                let share = share(distance);
                self.plans.candidate(i, share);
                self.kept.marks.push(share.to_bits());
            }
        }
        if to.is_empty() {
            return;
        }
        let here = tree.nodes[node];
        if here.blocks == 1 {
            self.kept.rows.extend_from_slice(to);
            self.kept.ends.push(KeptBlock { block: here.first, end: self.kept.rows.len() });
        } else {
            self.visit(node + 1, level + 1);
            self.visit(here.right, level + 1);
        }
    }
}

impl<T: Entry> SparseTiles<T> {
    /// Rows whose blocks are found together: with a budget no more than have their sums in the second-level cache.
    pub(super) fn rows_at_once(&self) -> usize {
        if self.budget.is_some() { SUM_BLOCK_ROWS } else { SPARSE_ROWS }
    }

    /// Finds the blocks that `rows` keep, and tells of those beyond the cutoff: (row, node, bound of its entries). What rows leave out besides, the plans say.
    pub(super) fn keep(
        &self,
        DrawnRows { rows, ids }: DrawnRows<'_>,
        (located, kept, plans): (&mut Located, &mut Kept, &mut Plans),
        mut left_out: impl FnMut(usize, usize, f64),
    ) {
        kept.ends.clear();
        kept.rows.clear();
        kept.marks.clear();
        kept.lists.resize_with(self.tree.height() + 1, Vec::new);
        if self.tree.nodes.is_empty() {
            return;
        }
        located.locate(&self.tiles.form, rows);
        kept.lists[0].clear();
        kept.lists[0].extend(0..rows.len() as u32);
        if self.budget.is_some() {
            plans.clear(rows.len());
        }
        Walk { tiles: self, rows, located, left_out: &mut left_out, kept, plans }.visit(0, 0);
        if let Some(budget) = &self.budget {
            plans.plan(budget, ids);
            kept.spend(budget, plans);
        }
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
    pub fn kept_entries<'a>(&self, rows: impl Into<DrawnRows<'a>>, scratch: &mut SparseScratch<T>) -> u64 {
        let rows = rows.into();
        self.tiles.check(rows.rows);
        let (mut entries, n, step) = (0, rows.rows.len(), self.rows_at_once());
        for start in (0..n).step_by(step) {
            let part = rows.slice(start, (start + step).min(n));
            self.keep(part, scratch.parts(), |_, _, _| {});
            let kept = scratch.kept.blocks().map(|(block, rows)| (rows.len() * self.places(block).len()) as u64);
            entries += kept.sum::<u64>();
        }
        entries
    }

    /// At least sum_j (K - K~)_ij^2 of every row: what is left out, whatever v is. With M the sum over all rows, |K v - K~ v|_2 <= sqrt(M) |v|_2, and as much for K^T u;
    /// K^T K differs from K~^T K~ by at most 2 sqrt(M) |K|_2 + M in norm.
    ///
    /// # Panics
    /// If `out` does not have one value a row, or the tiles have a budget of known vectors.
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
        assert!(self.budget.as_ref().is_none_or(Budget::any), "a budget of known vectors says nothing of others");
        out.fill(0.0);
        for start in (0..rows.len()).step_by(self.rows_at_once()) {
            let part = rows.slice(start, (start + self.rows_at_once()).min(rows.len()));
            self.keep(part.into(), scratch.parts(), |i, node, bound| {
                let centers = self.tree.places(node, self.centers()).len() as f64;
                // A half per cent more than any number of roundings.
                out[start + i] += 1.005 * centers * bound.powi(2);
            });
            if self.budget.is_some() {
                out[start..]
                    .iter_mut()
                    .zip(&scratch.plans.left_out)
                    .for_each(|(out, left)| *out += 1.005 * left * left);
            }
        }
    }
}
