//! The products: rows are taken some thousands at a time, their blocks found, and what is kept multiplied.
//!
//! Where both products are wanted of one evaluation, the entries of those rows are held between them; rows are halved until they fit [`SPARSE_BYTES`]. Neither shapes
//! a sum: a row's is over its own blocks, a center's one chain over its rows in order (`blocks.rs`).

use super::budget::{Budget, DrawnRows, Plans, Spread};
use super::keep::Kept;
use super::tree::Located;
use super::{SparseTiles, SparseVectors};
use crate::constants::{SPARSE_BLOCK, SPARSE_BYTES, SPARSE_ROWS, SUM_BLOCK_ROWS, TILE_BLOCK_ROWS, WIDE_CHUNK};
use crate::tile::Entry;
use crate::tile::buffer::Buffer;
use crate::tile::tasks::PackEach;

/// Columns are padded to a multiple of this at most.
const LANES: usize = 8;
/// Alignment of the buffers.
const SLACK: usize = 16 * 64;

/// What the products of a row may lack, besides the rounding of entries.
#[derive(Clone, Copy, Debug)]
pub struct Missing<'a> {
    /// Of each column: the error is at most this, and what is drawn ([`Missing::spread`]).
    pub bounds: &'a [f64],
    /// What comes of draws: nothing without them.
    pub spread: Spread,
}

/// Working memory of one thread: reused, grown when needed; its contents mean nothing between calls.
#[derive(Debug, Default)]
pub struct SparseScratch<T> {
    pub(super) located: Located,
    pub(super) kept: Kept,
    pub(super) plans: Plans,
    /// Rows whose entries fitted together; 0: not known.
    pub(super) step: usize,
    pub(super) packed: Buffer<T>,
    pub(super) gathered: Buffer<T>,
    pub(super) entries: Buffer<T>,
    pub(super) sums: Buffer<f64>,
    pub(super) kv: Buffer<f64>,
    pub(super) bounds: Buffer<f64>,
    pub(super) u: Buffer<f64>,
    pub(super) part: Buffer<f64>,
    pub(super) acc: Buffer<f64>,
    pub(super) wide: Buffer<f64>,
}

impl<T: Entry> SparseScratch<T> {
    /// No memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the walk works with.
    pub(super) fn parts(&mut self) -> (&mut Located, &mut Kept, &mut Plans) {
        (&mut self.located, &mut self.kept, &mut self.plans)
    }

    /// Bytes that products take at most, of calls of `rows` rows with t = `input` columns before and s = `output` after them. Where a row keeps few blocks it is
    /// far less: the largest part are the rows of each block, of which there are rows x centers / 64 at most.
    ///
    /// ```
    /// use nystream_kernels::tile::SparseScratch;
    /// let bytes = |centers| SparseScratch::<f32>::memory_bytes(8192, centers, 3, 0, 1, 0);
    /// assert!(bytes(10_000) < 8 << 20 && bytes(100_000) < 64 << 20);
    /// ```
    pub fn memory_bytes(
        rows: usize,
        centers: usize,
        numeric_width: usize,
        code_width: usize,
        input: usize,
        output: usize,
    ) -> usize {
        let (rows, blocks, entry) = (rows.min(SPARSE_ROWS), centers.div_ceil(SPARSE_BLOCK), size_of::<T>());
        let padded = |columns: usize| if columns > 1 { columns.next_multiple_of(LANES) } else { columns };
        let (tp, sp, depth) = (padded(input), padded(output), numeric_width + code_width + 3);
        let located = rows * 8 * (numeric_width + 1);
        let levels = blocks.next_power_of_two().trailing_zeros() as usize + 2;
        let lists = |rows: usize, each: usize| 4 * rows * (each * blocks + levels);
        // With a budget fewer rows at once, and a mark for each of a block.
        let within = rows.min(SUM_BLOCK_ROWS);
        let kept = 48 * blocks + lists(rows, 1).max(lists(within, 2) + Budget::plan_bytes(within));
        let tile = TILE_BLOCK_ROWS * (depth + SPARSE_BLOCK) * entry;
        let held = if input > 0 && output > 0 { SPARSE_BYTES.max(blocks * SPARSE_BLOCK * entry) } else { 0 };
        let of_rows = rows * (depth * entry + 8 * (tp + input + sp));
        let of_blocks = 8 * (TILE_BLOCK_ROWS * (tp + sp + WIDE_CHUNK) + SPARSE_BLOCK * sp);
        located + kept + tile + held + of_rows + of_blocks + SLACK
    }

    /// Bytes that are in use.
    #[cfg(test)]
    pub(in crate::tile) fn held_bytes(&self) -> usize {
        let located = self.located.coordinates.len() + self.located.errors.len();
        let entries: usize = [&self.packed, &self.gathered, &self.entries].iter().map(|buffer| buffer.len()).sum();
        let sums = [&self.sums, &self.kv, &self.bounds, &self.u, &self.part, &self.acc, &self.wide];
        let sums: usize = sums.iter().map(|buffer| buffer.len()).sum();
        8 * (located + sums) + size_of::<T>() * entries + self.kept.held_bytes()
    }
}

impl<T: Entry> SparseTiles<T> {
    /// `out` (n x t) = K~ v, and `bounds` (n x t): |(K v)_ic - out_ic| is at most bounds_ic, besides the rounding of the entries that are kept. Gives the number of
    /// entries evaluated. Sums in f64.
    ///
    /// # Panics
    /// If the lengths do not agree, or `v` is of other tiles.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, SparseScratch, SparseTiles}};
    /// // Two clusters of 64 centers: a row at one of them does without the other.
    /// let z: Vec<f32> = (0..128).map(|j| if j < 64 { 0.0 } else { 20.0 }).collect();
    /// let (kernel, centers) = (Kernel::new(Family::Laplace, 1.0), Rows::new(&z, 1, &[], 0));
    /// let tiles = SparseTiles::<f32>::new(&kernel, centers, &[], SimdPath::detect(), 1e-6)?;
    /// let (mut kv, mut bound) = ([0.0], [0.0]);
    /// let v = tiles.vectors(&[1.0; 128], 1);
    /// assert_eq!(tiles.k_v(Rows::new(&[0.0], 1, &[], 0), &v, &mut SparseScratch::new(), &mut kv, &mut bound), 64);
    /// let dropped = 64.0 * (-20f64).exp();
    /// assert!(kv[0] == 64.0 && bound[0] >= dropped && bound[0] < 1.2 * dropped);
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn k_v<'a>(
        &self,
        rows: impl Into<DrawnRows<'a>>,
        v: &SparseVectors,
        scratch: &mut SparseScratch<T>,
        out: &mut [f64],
        bounds: &mut [f64],
    ) -> u64 {
        let (t, rows) = (v.t, rows.into());
        let n = rows.rows.len();
        assert_eq!((out.len(), bounds.len()), (n * t, n * t), "out and bounds must be rows x t");
        self.map_rows(rows, Some(v), 0, scratch, &mut [], |i, kv, missing, _| {
            out[i * t..(i + 1) * t].copy_from_slice(kv);
            bounds[i * t..(i + 1) * t].copy_from_slice(missing.bounds);
        })
    }

    /// `acc` (m x s) += K~^T u with `u` (n x s), both row-major; sums in f64, rows in ascending order. Gives the number of entries evaluated.
    ///
    /// # Panics
    /// If the lengths do not agree.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, SparseScratch, SparseTiles}};
    /// let (kernel, centers) = (Kernel::new(Family::Laplace, 1.0), Rows::new(&[0.0], 1, &[], 0));
    /// let tiles = SparseTiles::<f64>::new(&kernel, centers, &[], SimdPath::detect(), 1e-6)?;
    /// let mut acc = [0.5]; // added to
    /// let entries = tiles.kt_u(Rows::new(&[0.0, 20.0], 1, &[], 0), &[1.0, 1.0], 1, &mut SparseScratch::new(), &mut acc);
    /// assert_eq!((entries, acc), (1, [1.5]));
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn kt_u<'a>(
        &self,
        rows: impl Into<DrawnRows<'a>>,
        u: &[f64],
        s: usize,
        scratch: &mut SparseScratch<T>,
        acc: &mut [f64],
    ) -> u64 {
        let rows = rows.into();
        assert_eq!(u.len(), rows.rows.len() * s, "u must be rows x s");
        self.map_rows(rows, None, s, scratch, acc, |i, _, _, out| out.copy_from_slice(&u[i * s..(i + 1) * s]))
    }

    /// For every row i, in order: `f(i, kv, missing, u)` reads (K~ v)_i (t values, none without `v`) and what that may lack, and writes u_i (s values, zero before); then `acc`
    /// (m x s, row-major) += K~^T u. Each kept entry is evaluated once; gives their number. Sums in f64.
    ///
    /// As of [`Tiles::map_rows`](crate::tile::Tiles::map_rows), calls on consecutive runs of rows with the same `acc` give the bits of one call on all of them.
    ///
    /// # Panics
    /// If the lengths do not agree, or `v` is of other tiles.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, SparseScratch, SparseTiles}};
    /// let kernel = Kernel::new(Family::Wendland { smoothness: 2, dimension: 1 }, 4.0);
    /// let rows = Rows::new(&[0.0, 1.0, 9.0], 1, &[], 0);
    /// let tiles = SparseTiles::<f64>::new(&kernel, rows, &[], SimdPath::detect(), 0.0)?;
    /// // K^T (K v) in one evaluation of K.
    /// let (v, mut acc) = (tiles.vectors(&[1.0, 0.0, 1.0], 1), [0.0; 3]);
    /// tiles.map_rows(rows, Some(&v), 1, &mut SparseScratch::new(), &mut acc, |_, kv, _, u| u[0] = kv[0]);
    /// let k = kernel.evaluate(rows, 0, rows, 1);
    /// assert!((acc[0] - (1.0 + k * k)).abs() < 1e-15 && (acc[1] - 2.0 * k).abs() < 1e-15 && acc[2] == 1.0);
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn map_rows<'a, F: FnMut(usize, &[f64], Missing<'_>, &mut [f64])>(
        &self,
        rows: impl Into<DrawnRows<'a>>,
        v: Option<&SparseVectors>,
        s: usize,
        scratch: &mut SparseScratch<T>,
        acc: &mut [f64],
        mut f: F,
    ) -> u64 {
        let all = rows.into();
        let rows = all.rows;
        self.tiles.check(rows);
        assert_eq!(acc.len(), self.centers() * s, "acc must be centers x s");
        let (v, t) = (v.filter(|v| v.t > 0), v.map_or(0, |v| v.t));
        assert!(v.is_none_or(|v| v.mark == self.tree.mark), "v must be of these tiles");
        let (tp, sp) = (self.columns(t), self.columns(s));
        let hold = t > 0 && s > 0;
        // As many rows as fitted last time: the walk is not for nothing then.
        let most = self.rows_at_once();
        let last = if hold && scratch.step > 0 { scratch.step } else { most };
        let (mut start, mut step, mut evaluated) = (0, last.min(most), 0);
        while start < rows.len() {
            let end = (start + step).min(rows.len());
            let (part, n) = (rows.slice(start, end), end - start);
            let bounds = scratch.bounds.take(n * t);
            bounds.fill(0.0);
            let parts = (&mut scratch.located, &mut scratch.kept, &mut scratch.plans);
            self.keep(all.slice(start, end), parts, |i, node, bound| {
                if let Some(v) = v {
                    let sizes = &v.sizes[node * t..(node + 1) * t];
                    bounds[i * t..(i + 1) * t].iter_mut().zip(sizes).for_each(|(b, size)| *b += bound * size);
                }
            });
            let held: usize = scratch.kept.blocks().map(|(block, list)| list.len() * self.block_stride(block)).sum();
            if hold && held * size_of::<T>() > SPARSE_BYTES && n > 1 {
                // Fewer rows at once: what the walk found is found again.
                step = n.div_ceil(2);
                scratch.step = step;
                continue;
            }
            if let (Some(v), Some(_)) = (v, &self.budget) {
                let Plans { left_out, spreads, .. } = &scratch.plans;
                for ((bounds, left), spread) in bounds.chunks_exact_mut(t).zip(left_out).zip(spreads) {
                    for (bound, norm) in bounds.iter_mut().zip(&v.norms) {
                        // Both are bounds: of the values beyond the cutoff and the budget's of the rest, and the budget's of all.
                        *bound = (*bound + left * norm).min(spread.left_out * norm) * (1.0 + 1e-9);
                    }
                }
            }
            let packed = scratch.packed.take(n * self.tiles.form.depth());
            T::dispatch(self.tiles.token, PackEach { form: &self.tiles.form, rows: part, out: packed });
            let kv = scratch.kv.take(n * tp);
            kv.fill(0.0);
            scratch.entries.take(if hold { held } else { TILE_BLOCK_ROWS * SPARSE_BLOCK });
            scratch.u.take(n * sp).fill(0.0);
            if let Some(v) = v {
                evaluated += self.forward(v, hold, scratch);
            }
            let (kv, bounds, u) = (scratch.kv.get(n * tp), scratch.bounds.get(n * t), scratch.u.take(n * sp));
            for i in 0..n {
                // Without centers nothing was planned.
                let planned = scratch.plans.spreads.get(i).filter(|_| self.budget.is_some());
                let spread = planned.copied().unwrap_or_default();
                let missing = Missing { bounds: &bounds[i * t..][..t], spread };
                f(start + i, &kv[i * tp..][..t], missing, &mut u[i * sp..][..s]);
            }
            if s > 0 {
                let entries = self.transposed(s, hold, scratch, acc);
                evaluated += if hold { 0 } else { entries };
            }
            start = end;
        }
        evaluated
    }
}
