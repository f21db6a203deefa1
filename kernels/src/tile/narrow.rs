//! Products with one f32 vector and sums in the precision of the entries: the fastest forms, fused into the tile.
//!
//! For work that forgives rounding: predictions, epochs of stochastic gradients, power iterations. A solve to a small residual needs the f64 sums of `vectors.rs`.
//!
//! The shapes of the sums, which are part of the answer:
//! * K v: each row has one vector accumulator, which takes the vectors of the panels in order; then lanes are added in order.
//! * K^T(K v): each output is one chain of multiply-adds in ascending row order, starting from what the accumulator holds. Rounding errors of such a chain grow with the
//!   number of rows, to 2^-24 n of the sum of its terms' sizes in the worst case: callers add chains of a sum block (2,048 rows) in f64.
//!
//! **How K^T(K v) evaluates each entry once.** The entries of a block of rows are needed twice: for (K v)_i and, when that sum is complete, for K^T. They wait in the second-level
//! cache, in the order in which tiles make them; each tile of the next block takes in what lies at its place, and is laid over it. So loads from that cache
//! pass behind arithmetic, stores find their lines near, and the second product costs one multiply-add an entry.

use super::buffer::Buffer;
use super::entry::Entry;
use super::lanes::{Lanes, Path, Task};
use super::micro::{Sink, sweep};
use super::pack::Form;
use super::{TileScratch, Tiles};
use crate::constants::TILE_BLOCK_ROWS;
use crate::rows::Rows;

/// K v of a block of rows.
struct Narrow<'a, T> {
    form: &'a Form<T>,
    packed: &'a [T],
    panels: &'a [T],
    v: &'a [T],
    sums: &'a mut Buffer<T>,
    out: &'a mut [f32],
}

struct Accumulate<'a, T, P: Lanes<T>, const C: usize> {
    p: P,
    v: &'a [[P::Array; C]],
    sums: &'a mut [P::Array],
    row: usize,
    panel: usize,
    entry: std::marker::PhantomData<T>,
}

impl<T, P: Lanes<T>, const R: usize, const C: usize> Sink<P::V, R, C> for Accumulate<'_, T, P, C> {
    #[inline(always)]
    fn begin(&mut self, first_row: usize, panel: usize) {
        (self.row, self.panel) = (first_row, panel);
    }
    #[inline(always)]
    fn put(&mut self, r: usize, entries: [P::V; C]) {
        let (sum, v) = (&mut self.sums[self.row + r], &self.v[self.panel]);
        let mut total = self.p.load(sum);
        for c in 0..C {
            total = self.p.mul_add(entries[c], self.p.load(&v[c]), total);
        }
        self.p.store(sum, total);
    }
}

impl<T: Entry> Task<T> for Narrow<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        let rows = self.out.len().next_multiple_of(R);
        let sums = self.sums.take(rows * P::N);
        sums.fill(T::ZERO);
        let sums = P::arrays_mut(sums);
        let v = P::arrays(self.v).as_chunks::<C>().0;
        let mut sink = Accumulate::<T, P, C> { p, v, sums, row: 0, panel: 0, entry: std::marker::PhantomData };
        sweep::<T, P, R, C>(p, self.form, self.packed, self.panels, &mut sink);
        let sums = self.sums.get(rows * P::N);
        for (out, lanes) in self.out.iter_mut().zip(sums.chunks_exact(P::N)) {
            *out = lanes[1..].iter().fold(lanes[0], |s, &x| s + x).to_f64() as f32;
        }
    }
}

/// One block of K^T(K v): its entries and products, while those of the block before go into `acc`.
struct Both<'a, T> {
    form: &'a Form<T>,
    packed: &'a [T],
    panels: &'a [T],
    v: &'a [T],
    sums: &'a mut Buffer<T>,
    /// Entries of a block in the order of its tiles: panels outside, groups of R rows inside, as many as the largest block has. Each tile replaces that of the block before.
    entries: &'a mut [T],
    /// (K v) of the block's rows.
    kv: &'a mut [T],
    /// The weights of the rows before.
    u: &'a [T],
    acc: &'a mut [T],
}

struct Relay<'a, T, P: Lanes<T>, const R: usize, const C: usize> {
    p: P,
    v: &'a [[P::Array; C]],
    sums: &'a mut [P::Array],
    entries: &'a mut [[[P::Array; C]; R]],
    u: &'a [T],
    acc: &'a mut [[P::Array; C]],
    groups: usize,
    row: usize,
    panel: usize,
    /// Where the tile lies, and the sums of its panel.
    tile: usize,
    totals: [P::V; C],
}

impl<T: Entry, P: Lanes<T>, const R: usize, const C: usize> Sink<P::V, R, C> for Relay<'_, T, P, R, C> {
    #[inline(always)]
    fn begin(&mut self, first_row: usize, panel: usize) {
        (self.row, self.panel) = (first_row, panel);
        self.tile = panel * self.groups + first_row / R;
        for c in 0..C {
            self.totals[c] = self.p.load(&self.acc[panel][c]);
        }
    }
    // By index, as in the register tile.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn put(&mut self, r: usize, entries: [P::V; C]) {
        let (sum, v, at) = (&mut self.sums[self.row + r], &self.v[self.panel], &mut self.entries[self.tile][r]);
        let mut total = self.p.load(sum);
        // Padding of the last group has no weight: what its entries are, which need not be finite, goes nowhere.
        if let Some(&u) = self.u.get(self.row + r) {
            let u = self.p.splat(u);
            for c in 0..C {
                self.totals[c] = self.p.mul_add(u, self.p.load(&at[c]), self.totals[c]);
            }
        }
        for c in 0..C {
            self.p.store(&mut at[c], entries[c]);
            total = self.p.mul_add(entries[c], self.p.load(&v[c]), total);
        }
        self.p.store(sum, total);
    }
    #[inline(always)]
    fn end(&mut self) {
        for c in 0..C {
            self.p.store(&mut self.acc[self.panel][c], self.totals[c]);
        }
    }
}

impl<T: Entry> Task<T> for Both<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        let rows = self.kv.len().next_multiple_of(R);
        let sums = self.sums.take(rows * P::N);
        sums.fill(T::ZERO);
        let (v, acc) = (P::arrays(self.v).as_chunks::<C>().0, P::arrays_mut(self.acc).as_chunks_mut::<C>().0);
        let entries = P::arrays_mut(self.entries).as_chunks_mut::<C>().0.as_chunks_mut::<R>().0;
        let groups = entries.len() / acc.len().max(1);
        let mut sink = Relay::<T, P, R, C> {
            p,
            v,
            sums: P::arrays_mut(sums),
            entries,
            u: self.u,
            acc,
            groups,
            row: 0,
            panel: 0,
            tile: 0,
            totals: [p.splat(T::ZERO); C],
        };
        sweep::<T, P, R, C>(p, self.form, self.packed, self.panels, &mut sink);
        let sums = self.sums.get(rows * P::N);
        for (out, lanes) in self.kv.iter_mut().zip(sums.chunks_exact(P::N)) {
            *out = lanes[1..].iter().fold(lanes[0], |s, &x| s + x);
        }
    }
}

/// acc += K^T u for what a block has left, from its row `from` (a multiple of R) on.
struct Finish<'a, T> {
    entries: &'a [T],
    u: &'a [T],
    from: usize,
    acc: &'a mut [T],
}

impl<T: Entry> Task<T> for Finish<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        let acc = P::arrays_mut(self.acc).as_chunks_mut::<C>().0;
        let rows = P::arrays(self.entries).as_chunks::<C>().0;
        let all = rows.len() / acc.len().max(1);
        for (acc, rows) in acc.iter_mut().zip(rows.chunks_exact(all.max(1))) {
            for (u, row) in self.u.iter().zip(rows).skip(self.from) {
                for c in 0..C {
                    let sum = p.mul_add(p.splat(*u), p.load(&row[c]), p.load(&acc[c]));
                    p.store(&mut acc[c], sum);
                }
            }
        }
    }
}

impl<T: Entry> Tiles<T> {
    /// `out` (n) = K v for one column with sums in the precision of the entries (f32 for f32 entries): the fastest form, for
    /// prediction-like work; a solve needs [`Tiles::k_v`]. For f64 entries the sums are f64 and rounded once.
    ///
    /// # Panics
    /// If the lengths do not agree.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, TileScratch, Tiles}};
    /// let kernel = Kernel::new(Family::Laplace, 1.0);
    /// let centers = Rows::new(&[0.0, 1.0], 1, &[], 0);
    /// let rows = Rows::new(&[0.0, 1.0, 0.0], 1, &[], 0); // K = [1 e; e 1; 1 e], e = 1/e
    /// let tiles = Tiles::<f64>::new(&kernel, centers, &[], SimdPath::detect())?;
    /// let mut scratch = TileScratch::new();
    /// let mut out = [0f32; 3];
    /// tiles.k_v_f32(rows, &[1.0, 0.0], &mut scratch, &mut out);
    /// assert!(out[0] == 1.0 && (out[1] - (-1f32).exp()).abs() < 1e-7 && out[2] == 1.0);
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn k_v_f32(&self, rows: Rows<'_>, v: &[f32], scratch: &mut TileScratch<T>, out: &mut [f32]) {
        self.check(rows);
        assert_eq!(v.len(), self.centers, "v must have one value a center");
        assert_eq!(out.len(), rows.len(), "out must have one value a row");
        let TileScratch { rows: packed, sums, narrow, .. } = scratch;
        let padded = narrow.take(self.stride);
        widen(v, padded);
        for start in (0..rows.len()).step_by(TILE_BLOCK_ROWS) {
            let end = (start + TILE_BLOCK_ROWS).min(rows.len());
            let packed = self.pack(rows.slice(start, end), packed);
            let task = Narrow {
                form: &self.form,
                packed,
                panels: self.panels.get(self.panel_len()),
                v: &*padded,
                sums,
                out: &mut out[start..end],
            };
            T::dispatch(self.token, task);
        }
    }

    /// `acc` (m) += K^T W (K v) for one column with sums in the precision of the entries, each entry evaluated once; `weights` has one value a row, or
    /// stands for ones. For f64 entries the sums are f64 and rounded once a call.
    ///
    /// Every output is one chain over the rows that starts from `acc`: with f32 entries, calls on consecutive runs of rows give the bits of one call on all of them.
    ///
    /// # Panics
    /// If the lengths do not agree.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, TileScratch, Tiles}};
    /// let kernel = Kernel::new(Family::Laplace, 1.0);
    /// let centers = Rows::new(&[0.0, 1.0], 1, &[], 0);
    /// let rows = Rows::new(&[0.0, 1.0, 0.0], 1, &[], 0); // K = [1 e; e 1; 1 e], e = 1/e
    /// let tiles = Tiles::<f32>::new(&kernel, centers, &[], SimdPath::detect())?;
    /// let mut acc = [0f32; 2];
    /// // Only the second row weighs anything: v picks its entry with the first center.
    /// tiles.kt_kv_f32(rows, Some(&[0.0, 2.0, 0.0]), &[1.0, 0.0], &mut TileScratch::new(), &mut acc);
    /// assert!((acc[0] - 2.0 * (-2f32).exp()).abs() < 1e-7 && (acc[1] - 2.0 * (-1f32).exp()).abs() < 1e-7);
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn kt_kv_f32(
        &self,
        rows: Rows<'_>,
        weights: Option<&[f32]>,
        v: &[f32],
        scratch: &mut TileScratch<T>,
        acc: &mut [f32],
    ) {
        self.check(rows);
        assert_eq!(v.len(), self.centers, "v must have one value a center");
        assert_eq!(acc.len(), self.centers, "acc must have one value a center");
        if let Some(weights) = weights {
            assert_eq!(weights.len(), rows.len(), "one weight a row");
        }
        let TileScratch { rows: packed, entries, sums, narrow, .. } = scratch;
        let (stride, step) = (self.stride, self.block_rows());
        let step = step.min(rows.len().next_multiple_of(self.height)).max(self.height);
        // v, acc, and the weights of two blocks.
        let (padded_v, rest) = narrow.take(2 * stride + 2 * step).split_at_mut(stride);
        let (padded_acc, rest) = rest.split_at_mut(stride);
        let (mut u, mut before) = rest.split_at_mut(step);
        let entries = entries.take(step * stride);
        widen(v, padded_v);
        widen(acc, padded_acc);
        let mut n_before = 0;
        for start in (0..rows.len()).step_by(step) {
            let end = (start + step).min(rows.len());
            let n = end - start;
            let packed = self.pack(rows.slice(start, end), packed);
            let task = Both {
                form: &self.form,
                packed,
                panels: self.panels.get(self.panel_len()),
                v: &*padded_v,
                sums,
                entries: &mut *entries,
                kv: &mut u[..n],
                u: &before[..n_before],
                acc: &mut *padded_acc,
            };
            T::dispatch(self.token, task);
            // The last block may have fewer groups than the one before it.
            let from = n.next_multiple_of(self.height);
            if from < n_before {
                let u = &before[..n_before];
                T::dispatch(self.token, Finish { entries: &*entries, u, from, acc: &mut *padded_acc });
            }
            if let Some(weights) = weights {
                u[..n].iter_mut().zip(&weights[start..end]).for_each(|(u, &w)| *u = T::from_f64(f64::from(w)) * *u);
            }
            std::mem::swap(&mut u, &mut before);
            n_before = n;
        }
        let u = &before[..n_before];
        T::dispatch(self.token, Finish { entries: &*entries, u, from: 0, acc: &mut *padded_acc });
        acc.iter_mut().zip(&*padded_acc).for_each(|(acc, sum)| *acc = sum.to_f64() as f32);
    }
}

/// `from` in the precision of the entries, and zeros.
fn widen<T: Entry>(from: &[f32], to: &mut [T]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = T::from_f64(f64::from(from)));
    to[from.len()..].fill(T::ZERO);
}
