//! The products of kept blocks, each for the rows gathered there: the tiles and products of [`Tiles`](crate::tile::Tiles) on small matrices.
//!
//! Rows are packed one by one and gathered into the groups of a register tile; entries lie as `rows x block_stride`. A block's rows are taken at most
//! TILE_BLOCK_ROWS at a time, which shapes no sum. Cost besides the entries: copies of a packed row a block, and of a block's sums in and out.

use super::budget::weight;
use super::{SparseScratch, SparseTiles, SparseVectors};
use crate::constants::{SPARSE_BLOCK, TILE_BLOCK_ROWS, WIDE_CHUNK};
use crate::tile::Entry;
use crate::tile::buffer::Buffer;
use crate::tile::products::{Direction, Dot, Entries, Many, Scatter};
use crate::tile::tasks::Fill;

/// Multiplies rows of `columns` values by the weights of their draws.
fn weigh(marks: &[u32], values: &mut [f64], columns: usize) {
    for (&chances, values) in marks.iter().zip(values.chunks_exact_mut(columns)) {
        if chances > 0 {
            let weight = weight(chances);
            values.iter_mut().for_each(|value| *value *= weight);
        }
    }
}

impl<T: Entry> SparseTiles<T> {
    /// kv += the products of all kept blocks; their number of entries.
    pub(super) fn forward(&self, v: &SparseVectors, hold: bool, scratch: &mut SparseScratch<T>) -> u64 {
        let SparseScratch { kept, packed, gathered, entries, sums, kv, wide, .. } = scratch;
        let (t, tp) = (v.t, self.columns(v.t));
        let (mut evaluated, mut at) = (0, 0);
        for (block, list, marks) in kept.drawn_blocks() {
            let (stride, centers) = (self.block_stride(block), self.places(block).len());
            let from = block * SPARSE_BLOCK * tp;
            for (part, list) in list.chunks(TILE_BLOCK_ROWS).enumerate() {
                let n = list.len();
                evaluated += (n * centers) as u64;
                let k = entries.held(at, n * stride);
                self.fill_block(block, list, packed, gathered, k);
                at += if hold { n * stride } else { 0 };
                let block = Entries { k: &*k, stride, centers };
                let sums = sums.take(n * tp);
                if t == 1 {
                    T::dispatch(self.tiles.token, Dot { entries: block, v: &v.packed[from..][..stride], out: sums });
                } else {
                    sums.fill(0.0);
                    let (direction, wide) = (Direction::Forward, wide.take(n * WIDE_CHUNK));
                    let v = &v.packed[from..][..centers * tp];
                    T::dispatch(
                        self.tiles.token,
                        Many { entries: block, direction, rows: n, columns: t, v, out: sums, wide },
                    );
                }
                if !marks.is_empty() {
                    weigh(&marks[part * TILE_BLOCK_ROWS..], sums, tp);
                }
                for (&row, sums) in list.iter().zip(sums.chunks_exact(tp)) {
                    let kv = kv.held(row as usize * tp, tp);
                    kv.iter_mut().zip(sums).for_each(|(kv, sum)| *kv += sum);
                }
            }
        }
        evaluated
    }

    /// acc += the transposed products of all kept blocks, whose entries are held or made; their number.
    pub(super) fn transposed(&self, s: usize, hold: bool, scratch: &mut SparseScratch<T>, acc: &mut [f64]) -> u64 {
        let SparseScratch { kept, packed, gathered, entries, u, part, acc: block_acc, wide, .. } = scratch;
        let sp = self.columns(s);
        let (mut evaluated, mut at) = (0, 0);
        for (block, list, marks) in kept.drawn_blocks() {
            let (stride, order) = (self.block_stride(block), &self.tree.order[self.places(block)]);
            let centers = order.len();
            let sums = block_acc.take(stride * sp);
            sums.fill(0.0);
            for (sums, &j) in sums.chunks_exact_mut(sp).zip(order) {
                sums[..s].copy_from_slice(&acc[j * s..(j + 1) * s]);
            }
            for (from, list) in list.chunks(TILE_BLOCK_ROWS).enumerate() {
                let n = list.len();
                evaluated += (n * centers) as u64;
                let k = entries.held(at, n * stride);
                if hold {
                    at += n * stride;
                } else {
                    self.fill_block(block, list, packed, gathered, k);
                }
                let part = part.take(n * sp);
                for (part, &row) in part.chunks_exact_mut(sp).zip(list) {
                    part.copy_from_slice(u.part(row as usize * sp, sp));
                }
                if !marks.is_empty() {
                    weigh(&marks[from * TILE_BLOCK_ROWS..], part, sp);
                }
                let block = Entries { k: &*k, stride, centers };
                if s == 1 {
                    T::dispatch(self.tiles.token, Scatter { entries: block, u: part, acc: &mut *sums });
                } else {
                    let (direction, wide) = (Direction::Transposed, wide.take(n * WIDE_CHUNK));
                    let out = &mut sums[..centers * sp];
                    T::dispatch(
                        self.tiles.token,
                        Many { entries: block, direction, rows: n, columns: s, v: part, out, wide },
                    );
                }
            }
            for (sums, &j) in sums.chunks_exact(sp).zip(order) {
                acc[j * s..(j + 1) * s].copy_from_slice(&sums[..s]);
            }
        }
        evaluated
    }

    /// The entries of the packed rows in `list` with the centers of a block: `list.len() x block_stride`.
    fn fill_block(&self, block: usize, list: &[u32], packed: &Buffer<T>, gathered: &mut Buffer<T>, out: &mut [T]) {
        let (form, height, depth) = (&self.tiles.form, self.tiles.height, self.tiles.form.depth());
        let groups = gathered.take(list.len().next_multiple_of(height) * depth);
        for (group, rows) in groups.chunks_exact_mut(depth * height).zip(list.chunks(height)) {
            if rows.len() < height {
                group.fill(T::ZERO);
            }
            for (r, &row) in rows.iter().enumerate() {
                let values = packed.part(row as usize * depth, depth);
                values.iter().enumerate().for_each(|(k, value)| group[k * height + r] = *value);
            }
            form.set_least_norm(height, group);
        }
        let (stride, centers) = (self.block_stride(block), self.places(block).len());
        let panels = self.tiles.panels.part(block * SPARSE_BLOCK * depth, stride * depth);
        let rows = list.len();
        T::dispatch(
            self.tiles.token,
            Fill { form, packed: groups, panels, rows, stride, centers, until: centers, out },
        );
    }
}
