//! K(Z, Z) V with each entry off the diagonal evaluated once and used twice.
//!
//! **Problem.** Where the rows are the centers, k_ij serves (K v)_i and (K v)_j. A block of rows is multiplied with the centers up to its own last row: entries left of the diagonal and on it
//! go into the sums of their rows, those left of it into the sums of their columns as well.
//!
//! **Shape of the sums.** Each output starts from what `acc` holds; its row's own product with the centers up to itself is added, summed as in [`Tiles::k_v`] with zeros beyond the
//! diagonal; then come the rows after it, one chain of multiply-adds in ascending order. Runs of rows on one accumulator, one after another, give the bits of one run. They are
//! other sums than those of [`Tiles::k_v`], equal to rounding. Where runs go to different accumulators (threads), they are to be fixed runs, added in a fixed order (`tree.rs`), as for every
//! product with K^T.
//!
//! **Cost.** Half the entries of [`Tiles::k_v`] over all centers and the second multiply-add of K^T(K v): 1.5 times the rate at 10 features, 1.6 times at 32, 1.8 times at 90 (m = 4,096; Xeon,
//! AVX-512, November 2026), for one column and f64 sums.

use super::entry::Entry;
use super::products::{Direction, Dot, Entries, Many, PackColumns, Scatter};
use super::tasks::Fill;
use super::vectors::copy_columns;
use super::{TileScratch, Tiles};
use crate::constants::WIDE_CHUNK;
use crate::rows::Rows;

impl<T: Entry> Tiles<T> {
    /// `acc` (m x t) += the part of K(Z, Z) V that centers `first .. first + rows.len()` bring: `rows` are those centers, the rows that the tiles were made of. All runs together
    /// add K V. `v` is m x t; both are row-major; sums in f64.
    ///
    /// # Panics
    /// If the lengths do not agree, or the run is not within the centers.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, TileScratch, Tiles}};
    /// let centers = Rows::new(&[0.0, 1.0, 3.0], 1, &[], 0);
    /// let tiles = Tiles::<f64>::new(&Kernel::new(Family::Laplace, 1.0), centers, &[], SimdPath::detect())?;
    /// let (mut scratch, mut kv) = (TileScratch::new(), [0.0; 3]);
    /// // Two runs, of which the second holds the last center.
    /// tiles.symmetric_k_v(centers.slice(0, 2), 0, &[1.0, 0.0, 2.0], 1, &mut scratch, &mut kv);
    /// tiles.symmetric_k_v(centers.slice(2, 3), 2, &[1.0, 0.0, 2.0], 1, &mut scratch, &mut kv);
    /// assert!((kv[0] - (1.0 + 2.0 * (-3f64).exp())).abs() < 1e-15 && (kv[2] - (2.0 + (-3f64).exp())).abs() < 1e-15);
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn symmetric_k_v(
        &self,
        rows: Rows<'_>,
        first: usize,
        v: &[f64],
        t: usize,
        scratch: &mut TileScratch<T>,
        acc: &mut [f64],
    ) {
        self.check(rows);
        let m = self.centers;
        assert!(first + rows.len() <= m, "the run must be within the centers");
        assert_eq!(v.len(), m * t, "v must be centers x t");
        assert_eq!(acc.len(), m * t, "acc must be centers x t");
        let TileScratch { rows: packed, entries, v: packed_v, u, kv, acc: packed_acc, wide, .. } = scratch;
        let tp = self.columns(t);
        let packed_v = packed_v.take(if t == 1 { self.stride } else { m * tp });
        match t {
            0 => return,
            1 => {
                packed_v[..m].copy_from_slice(v);
                packed_v[m..].fill(0.0);
            }
            _ => T::dispatch(self.token, PackColumns { v, columns: t, out: &mut *packed_v }),
        }
        let packed_acc = packed_acc.take(if t == 1 { self.stride } else { m * tp });
        packed_acc.fill(0.0);
        copy_columns(acc, t, packed_acc, tp);
        let step = self.block_rows();
        for start in (0..rows.len()).step_by(step) {
            let end = (start + step).min(rows.len());
            let (n, until) = (end - start, first + end);
            let stride = until.next_multiple_of(self.lanes);
            let k = entries.take(n * stride);
            let packed = self.pack(rows.slice(start, end), packed);
            let panels = self.panels.get(self.panel_len());
            let task = Fill { form: &self.form, packed, panels, rows: n, stride, centers: m, until, out: &mut *k };
            T::dispatch(self.token, task);
            for (i, row) in k.chunks_exact_mut(stride).enumerate() {
                row[first + start + i + 1..].fill(T::ZERO);
            }
            let kv = kv.take(n * tp);
            if t == 1 {
                T::dispatch(
                    self.token,
                    Dot { entries: Entries { k: &*k, stride, centers: until }, v: &packed_v[..stride], out: &mut *kv },
                );
            } else {
                kv.fill(0.0);
                let (direction, wide) = (Direction::Forward, wide.take(n * WIDE_CHUNK));
                let v = &*packed_v;
                let task = Many {
                    entries: Entries { k: &*k, stride, centers: until },
                    direction,
                    rows: n,
                    columns: t,
                    v,
                    out: &mut *kv,
                    wide,
                };
                T::dispatch(self.token, task);
            }
            // Before the entries below them, in whatever block those lie.
            let own = &mut packed_acc[(first + start) * tp..];
            own.iter_mut().zip(&*kv).for_each(|(acc, kv)| *acc += kv);
            for (i, row) in k.chunks_exact_mut(stride).enumerate() {
                row[first + start + i] = T::ZERO;
            }
            let u = u.take(n * tp);
            u.fill(0.0);
            copy_columns(&v[(first + start) * t..until * t], t, u, tp);
            if t == 1 {
                T::dispatch(
                    self.token,
                    Scatter { entries: Entries { k: &*k, stride, centers: until }, u, acc: &mut packed_acc[..stride] },
                );
            } else {
                let (direction, wide) = (Direction::Transposed, wide.take(n * WIDE_CHUNK));
                let out = &mut packed_acc[..until * tp];
                let task = Many {
                    entries: Entries { k: &*k, stride, centers: until },
                    direction,
                    rows: n,
                    columns: t,
                    v: u,
                    out,
                    wide,
                };
                T::dispatch(self.token, task);
            }
        }
        copy_columns(packed_acc, tp, acc, t);
    }
}
