//! Products of kernel blocks with vectors: one loop in which each entry is evaluated once.

use super::buffer::Buffer;
use super::entry::Entry;
use super::nearest::{self, Find};
use super::products::{Direction, Dot, Entries, Many, PackColumns, Scatter};
use super::tasks::Columns;
use super::{TileScratch, Tiles};
use crate::constants::WIDE_CHUNK;
use crate::rows::Rows;

/// What a pass shows of a row's entries.
pub(super) enum Reads<'a> {
    Nothing,
    /// Products with v, m x t.
    Product(&'a [f64], usize),
    /// The nearest center.
    Nearest,
}

impl<T: Entry> Tiles<T> {
    /// `out` (n x t) = K v with `v` (m x t), both row-major; sums in f64.
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
    /// let mut out = [0.0; 3];
    /// tiles.k_v(rows, &[1.0, 0.0], 1, &mut scratch, &mut out);
    /// assert!(out[0] == 1.0 && (out[1] - (-1f64).exp()).abs() < 1e-15 && out[2] == 1.0);
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn k_v(&self, rows: Rows<'_>, v: &[f64], t: usize, scratch: &mut TileScratch<T>, out: &mut [f64]) {
        assert_eq!(out.len(), rows.len() * t, "out must be rows x t");
        self.pass(rows, Reads::Product(v, t), 0, scratch, &mut [], |i, kv, _| {
            out[i * t..(i + 1) * t].copy_from_slice(kv)
        });
    }

    /// `acc` (m x t) += K^T u with `u` (n x t), both row-major; sums in f64, rows in ascending order.
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
    /// let mut acc = [10.0, 0.0]; // added to
    /// tiles.kt_u(rows, &[1.0, 0.0, 1.0], 1, &mut scratch, &mut acc);
    /// assert!(acc[0] == 12.0 && (acc[1] - 2.0 * (-1f64).exp()).abs() < 1e-15);
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn kt_u(&self, rows: Rows<'_>, u: &[f64], t: usize, scratch: &mut TileScratch<T>, acc: &mut [f64]) {
        assert_eq!(u.len(), rows.len() * t, "u must be rows x t");
        self.pass(rows, Reads::Nothing, t, scratch, acc, |i, _, out| out.copy_from_slice(&u[i * t..(i + 1) * t]));
    }

    /// For every row i: `f(i, kv, u)` reads (K v)_i (t values) and writes u_i (s values); then `acc` (m x s) += K^T u.
    /// Each kernel entry is evaluated once. `v` is m x t; all blocks are row-major; sums in f64, over rows in ascending order.
    ///
    /// Every output of the transposed product is one chain of multiply-adds over the rows that starts from `acc`: calls on consecutive runs of rows with the
    /// same `acc` give the bits of one call on all of them.
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
    /// // K^T (K v - y) in one evaluation of K: a gradient.
    /// let y = [1.0, (-1f64).exp(), 0.0];
    /// let mut gradient = [0.0; 2];
    /// tiles.map_rows(rows, &[1.0, 0.0], 1, 1, &mut scratch, &mut gradient, |i, f, g| g[0] = f[0] - y[i]);
    /// assert!((gradient[0] - 1.0).abs() < 1e-15 && (gradient[1] - (-1f64).exp()).abs() < 1e-15);
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    #[allow(clippy::too_many_arguments)]
    pub fn map_rows<F: FnMut(usize, &[f64], &mut [f64])>(
        &self,
        rows: Rows<'_>,
        v: &[f64],
        t: usize,
        s: usize,
        scratch: &mut TileScratch<T>,
        acc: &mut [f64],
        f: F,
    ) {
        self.pass(rows, Reads::Product(v, t), s, scratch, acc, f);
    }

    /// `acc` (m x t) += K^T W (K v): [`Tiles::map_rows`] with row weights `weights` (or ones).
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
    /// let mut acc = [0.0; 2];
    /// // Only the second row weighs anything: v picks its entry with the first center.
    /// tiles.kt_kv(rows, Some(&[0.0, 2.0, 0.0]), &[1.0, 0.0], 1, &mut scratch, &mut acc);
    /// assert!((acc[0] - 2.0 * (-2f64).exp()).abs() < 1e-15 && (acc[1] - 2.0 * (-1f64).exp()).abs() < 1e-15);
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn kt_kv(
        &self,
        rows: Rows<'_>,
        weights: Option<&[f64]>,
        v: &[f64],
        t: usize,
        scratch: &mut TileScratch<T>,
        acc: &mut [f64],
    ) {
        if let Some(weights) = weights {
            assert_eq!(weights.len(), rows.len(), "one weight a row");
        }
        self.pass(rows, Reads::Product(v, t), t, scratch, acc, |i, kv, u| match weights {
            Some(weights) => u.iter_mut().zip(kv).for_each(|(u, kv)| *u = weights[i] * kv),
            None => u.copy_from_slice(kv),
        });
    }

    /// The one loop behind every f64 product. `f` is shown what `reads` says; s = 0 leaves out K^T u.
    pub(super) fn pass<F: FnMut(usize, &[f64], &mut [f64])>(
        &self,
        rows: Rows<'_>,
        reads: Reads<'_>,
        s: usize,
        scratch: &mut TileScratch<T>,
        acc: &mut [f64],
        mut f: F,
    ) {
        self.check(rows);
        let (m, stride) = (self.centers, self.stride);
        let (v, t) = match reads {
            Reads::Product(v, t) => (v, t),
            Reads::Nothing | Reads::Nearest => (&[][..], 0),
        };
        assert_eq!(v.len(), m * t, "v must be centers x t");
        assert_eq!(acc.len(), m * s, "acc must be centers x s");
        let TileScratch { rows: packed, entries, v: packed_v, u: packed_u, kv, acc: packed_acc, wide, .. } = scratch;
        let (t_padded, sp) = (self.columns(t), self.columns(s));
        let packed_v = self.packed_vectors(v, t, packed_v);
        let packed_acc = packed_acc.take(if s == 1 { stride } else { m * sp });
        packed_acc.fill(0.0);
        copy_columns(acc, s, packed_acc, if s == 1 { 1 } else { sp });
        // Values of a row that `f` reads, and their places.
        let (shown, tp) = match reads {
            Reads::Nearest => (nearest::COLUMNS, nearest::COLUMNS),
            _ => (t, t_padded),
        };
        let step = self.block_rows();
        for start in (0..rows.len()).step_by(step) {
            let end = (start + step).min(rows.len());
            let n = end - start;
            let k = entries.take(n * stride);
            self.fill(rows.slice(start, end), m, packed, k);
            let block = Entries { k: &*k, stride, centers: m };
            let kv = kv.take(n * tp);
            match &reads {
                Reads::Nearest => {
                    T::dispatch(self.token, Find { entries: block, roots: self.roots.get(stride), out: &mut *kv });
                }
                _ => self.forward(block, n, packed_v, t, kv, wide),
            }
            let u = packed_u.take(n * sp);
            u.fill(0.0);
            for i in 0..n {
                f(start + i, &kv[i * tp..][..shown], &mut u[i * sp..][..s]);
            }
            self.transposed(block, n, u, s, packed_acc, wide);
        }
        copy_columns(packed_acc, if s == 1 { 1 } else { sp }, acc, s);
    }

    /// V as [`Tiles::forward`] takes it.
    pub(super) fn packed_vectors<'s>(&self, v: &[f64], t: usize, out: &'s mut Buffer<f64>) -> &'s [f64] {
        let m = self.centers;
        match t {
            0 => &[],
            1 => {
                let out = out.take(self.stride);
                out[..m].copy_from_slice(v);
                out[m..].fill(0.0);
                out
            }
            _ => {
                let out = out.take(m * self.columns(t));
                T::dispatch(self.token, PackColumns { v, columns: t, out: &mut *out });
                out
            }
        }
    }

    /// out (n x padded columns) = K V of `n` rows of entries.
    pub(super) fn forward(
        &self,
        entries: Entries<'_, T>,
        n: usize,
        v: &[f64],
        t: usize,
        out: &mut [f64],
        wide: &mut Buffer<f64>,
    ) {
        match t {
            0 => {}
            1 => T::dispatch(self.token, Dot { entries, v, out }),
            _ => {
                out.fill(0.0);
                let (direction, wide) = (Direction::Forward, wide.take(n * WIDE_CHUNK));
                T::dispatch(self.token, Many { entries, direction, rows: n, columns: t, v, out, wide });
            }
        }
    }

    /// acc (padded columns) += K^T U of `n` rows of entries.
    pub(super) fn transposed(
        &self,
        entries: Entries<'_, T>,
        n: usize,
        u: &[f64],
        s: usize,
        acc: &mut [f64],
        wide: &mut Buffer<f64>,
    ) {
        match s {
            0 => {}
            1 => T::dispatch(self.token, Scatter { entries, u, acc }),
            _ => {
                let (direction, wide) = (Direction::Transposed, wide.take(n * WIDE_CHUNK));
                T::dispatch(self.token, Many { entries, direction, rows: n, columns: s, v: u, out: acc, wide });
            }
        }
    }

    /// Row length of a padded block of `t` columns: one column is not padded.
    pub(super) fn columns(&self, t: usize) -> usize {
        if t <= 1 { t } else { T::dispatch(self.token, Columns(t)) }
    }
}

/// Copies the common columns of two row-major blocks.
pub(super) fn copy_columns(from: &[f64], from_columns: usize, to: &mut [f64], to_columns: usize) {
    let columns = from_columns.min(to_columns);
    if columns > 0 {
        for (from, to) in from.chunks_exact(from_columns).zip(to.chunks_exact_mut(to_columns)) {
            to[..columns].copy_from_slice(&from[..columns]);
        }
    }
}
