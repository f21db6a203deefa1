//! [`Tiles`]: centers packed once, and every product of kernel blocks with vectors.

use super::buffer::Buffer;
use super::entry::{Entry, Token};
use super::lanes::{Lanes, Path, Task};
use super::micro::{Sink, sweep};
use super::pack::Form;
use super::products::{Direction, Dot, Entries, Many, PackColumns, Scatter, padded_columns};
use super::{SimdPath, TileError};
use crate::constants::{TILE_BLOCK_BYTES, TILE_BLOCK_ROWS, WIDE_CHUNK};
use crate::kernel::Kernel;
use crate::rows::Rows;

/// A kernel with its centers packed for one dispatch path. Shared between threads; each thread has its own [`TileScratch`].
///
/// ```
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, TileScratch, Tiles}};
/// let kernel = Kernel::new(Family::Gaussian, 1.0);
/// let centers = Rows::new(&[0.0, 1.0, 2.0], 1, &[], 0);
/// let tiles = Tiles::<f64>::new(&kernel, centers, &[], SimdPath::detect())?;
/// let mut kv = [0.0];
/// tiles.k_v(Rows::new(&[0.0], 1, &[], 0), &[1.0, 1.0, 1.0], 1, &mut TileScratch::default(), &mut kv);
/// assert!((kv[0] - (1.0 + (-0.5f64).exp() + (-2f64).exp())).abs() < 1e-14);
/// # Ok::<(), nystream_kernels::tile::TileError>(())
/// ```
#[derive(Debug)]
pub struct Tiles<T: Entry> {
    kernel: Kernel,
    form: Form<T>,
    token: Token,
    simd: SimdPath,
    /// Rows of a register tile.
    height: usize,
    centers: usize,
    stride: usize,
    panels: Buffer<T>,
}

/// Working memory of one thread: reused, grown when needed; its contents mean nothing between calls.
#[derive(Debug, Default)]
pub struct TileScratch<T> {
    rows: Buffer<T>,
    entries: Buffer<T>,
    sums: Buffer<T>,
    narrow: Buffer<T>,
    v: Buffer<f64>,
    u: Buffer<f64>,
    kv: Buffer<f64>,
    acc: Buffer<f64>,
    wide: Buffer<f64>,
}

impl<T: Entry> TileScratch<T> {
    /// No memory yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<T: Entry> Tiles<T> {
    /// Packs `centers` for `kernel` on the dispatch path `simd`.
    ///
    /// `offset` (`numeric_width` values in encoded units, or empty for zeros) is subtracted from rows and centers before distances are
    /// expanded. It must be a constant of the encoder, never of the batch. Dot-product families ignore it.
    ///
    /// # Errors
    /// [`TileError`]: a bandwidth, family parameter, metric or offset that is out of range or of the wrong length, a center that is not
    /// finite, or a path this processor lacks.
    pub fn new(kernel: &Kernel, centers: Rows<'_>, offset: &[f32], simd: SimdPath) -> Result<Self, TileError> {
        let token = Token::of(simd).ok_or(TileError::Unavailable { simd, best: SimdPath::detect() })?;
        let form = Form::new(kernel, centers.numeric_width(), centers.code_width(), offset)?;
        if let Some(at) = centers.all_numeric().iter().position(|x| !x.is_finite()) {
            let (row, column) = (at / centers.numeric_width(), at % centers.numeric_width());
            return Err(TileError::NonFiniteCenter { row, column, value: centers.all_numeric()[at] });
        }
        let mut panels = Buffer::default();
        let (height, lanes) = T::dispatch(token, PackCenters { form: &form, centers, panels: &mut panels });
        let stride = centers.len().next_multiple_of(lanes);
        let centers = centers.len();
        Ok(Tiles { kernel: kernel.clone(), form, token, simd, height, centers, stride, panels })
    }

    /// Number of centers, m.
    pub fn centers(&self) -> usize {
        self.centers
    }

    /// Centers rounded up to whole panels: the row length of [`Tiles::block`].
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The dispatch path.
    pub fn simd(&self) -> SimdPath {
        self.simd
    }

    /// The kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Bytes the packed centers take, at most, on any path (for a full metric, `numeric_width` counts the rows of its map).
    pub fn memory_bytes(centers: usize, numeric_width: usize, code_width: usize) -> usize {
        let widest = 3 * 64 / size_of::<T>();
        (centers.next_multiple_of(widest) * (numeric_width + code_width + 1)) * size_of::<T>() + 64
    }

    fn check(&self, rows: Rows<'_>) {
        assert!(
            self.form.fits(rows),
            "rows have {} numeric and {} categorical columns, which the centers do not",
            rows.numeric_width(),
            rows.code_width()
        );
    }

    /// Rows handled at once, so that their entries stay in the second-level cache. Shapes no sum.
    fn block_rows(&self) -> usize {
        let rows = TILE_BLOCK_BYTES / (self.stride.max(1) * size_of::<T>());
        (rows.min(TILE_BLOCK_ROWS) / self.height).max(1) * self.height
    }

    /// Packs rows into `packed` and returns their groups.
    fn pack<'s>(&self, rows: Rows<'_>, packed: &'s mut Buffer<T>) -> &'s [T] {
        let len = rows.len().next_multiple_of(self.height) * self.form.depth();
        let out = packed.take(len);
        T::dispatch(self.token, PackRows { form: &self.form, rows, out: &mut *out });
        out
    }

    fn panel_len(&self) -> usize {
        self.stride * self.form.depth()
    }

    /// Entries of `rows` with the first `until` centers (rounded up to panels) into `out`, row length `stride`.
    fn fill(&self, rows: Rows<'_>, until: usize, packed: &mut Buffer<T>, out: &mut [T]) {
        let packed = self.pack(rows, packed);
        let task = Fill {
            form: &self.form,
            packed,
            panels: self.panels.get(self.panel_len()),
            rows: rows.len(),
            stride: self.stride,
            centers: self.centers,
            until,
            out,
        };
        T::dispatch(self.token, task);
    }

    /// The kernel entries of `rows`: `out` is `rows.len() x stride`, row-major; columns from [`Tiles::centers`] on are exactly 0.
    ///
    /// # Panics
    /// If the widths of `rows` are not those of the centers, or `out` has another length.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, TileScratch, Tiles}};
    /// let kernel = Kernel::new(Family::Laplace, 1.0);
    /// let centers = Rows::new(&[0.0, 1.0], 1, &[], 0);
    /// let rows = Rows::new(&[0.0, 1.0, 0.0], 1, &[], 0); // K = [1 e; e 1; 1 e], e = 1/e
    /// let tiles = Tiles::<f64>::new(&kernel, centers, &[], SimdPath::detect())?;
    /// let mut scratch = TileScratch::new();
    /// let mut block = vec![0.0; 3 * tiles.stride()];
    /// tiles.block(rows, &mut scratch, &mut block);
    /// let second = &block[tiles.stride()..][..tiles.stride()];
    /// assert!((second[0] - (-1f64).exp()).abs() < 1e-15 && second[1] == 1.0);
    /// assert!(second[tiles.centers()..].iter().all(|padding| *padding == 0.0));
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn block(&self, rows: Rows<'_>, scratch: &mut TileScratch<T>, out: &mut [T]) {
        self.block_until(rows, self.centers, scratch, out);
    }

    /// [`Tiles::block`] for the first `until` centers; what lies beyond their panels is left alone.
    pub(super) fn block_until(&self, rows: Rows<'_>, until: usize, scratch: &mut TileScratch<T>, out: &mut [T]) {
        self.check(rows);
        assert_eq!(out.len(), rows.len() * self.stride, "out must be rows x stride");
        let step = self.block_rows();
        for start in (0..rows.len()).step_by(step) {
            let end = (start + step).min(rows.len());
            let out = &mut out[start * self.stride..end * self.stride];
            self.fill(rows.slice(start, end), until, &mut scratch.rows, out);
        }
    }

    /// k(x, x) of every row, in f64.
    ///
    /// # Panics
    /// If `out` does not have one value a row.
    pub fn diagonal(&self, rows: Rows<'_>, out: &mut [f64]) {
        self.check(rows);
        assert_eq!(out.len(), rows.len(), "out must have one value a row");
        for (i, out) in out.iter_mut().enumerate() {
            *out = self.kernel.diagonal(rows, i);
        }
    }

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
        self.pass(rows, v, t, 0, scratch, &mut [], |i, kv, _| out[i * t..(i + 1) * t].copy_from_slice(kv));
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
        self.pass(rows, &[], 0, t, scratch, acc, |i, _, out| out.copy_from_slice(&u[i * t..(i + 1) * t]));
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
        self.pass(rows, v, t, s, scratch, acc, f);
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
        self.pass(rows, v, t, t, scratch, acc, |i, kv, u| match weights {
            Some(weights) => u.iter_mut().zip(kv).for_each(|(u, kv)| *u = weights[i] * kv),
            None => u.copy_from_slice(kv),
        });
    }

    /// The one loop behind every f64 product. t = 0 leaves out K v, s = 0 leaves out K^T u.
    #[allow(clippy::too_many_arguments)]
    fn pass<F: FnMut(usize, &[f64], &mut [f64])>(
        &self,
        rows: Rows<'_>,
        v: &[f64],
        t: usize,
        s: usize,
        scratch: &mut TileScratch<T>,
        acc: &mut [f64],
        mut f: F,
    ) {
        self.check(rows);
        let (m, stride) = (self.centers, self.stride);
        assert_eq!(v.len(), m * t, "v must be centers x t");
        assert_eq!(acc.len(), m * s, "acc must be centers x s");
        let TileScratch { rows: packed, entries, v: packed_v, u: packed_u, kv, acc: packed_acc, wide, .. } = scratch;
        let (tp, sp) = (self.columns(t), self.columns(s));
        let packed_v = match t {
            0 => &[][..],
            1 => {
                let out = packed_v.take(stride);
                out[..m].copy_from_slice(v);
                out[m..].fill(0.0);
                out
            }
            _ => {
                let out = packed_v.take(m * tp);
                T::dispatch(self.token, PackColumns { v, columns: t, out: &mut *out });
                out
            }
        };
        let packed_acc = packed_acc.take(if s == 1 { stride } else { m * sp });
        packed_acc.fill(0.0);
        copy_columns(acc, s, packed_acc, if s == 1 { 1 } else { sp });
        let step = self.block_rows();
        for start in (0..rows.len()).step_by(step) {
            let end = (start + step).min(rows.len());
            let n = end - start;
            let k = entries.take(n * stride);
            self.fill(rows.slice(start, end), m, packed, k);
            let block = Entries { k: &*k, stride, centers: m };
            let kv = kv.take(n * tp);
            match t {
                0 => {}
                1 => T::dispatch(self.token, Dot { entries: block, v: packed_v, out: &mut *kv }),
                _ => {
                    kv.fill(0.0);
                    let wide = wide.take(n * WIDE_CHUNK);
                    let direction = Direction::Forward;
                    let task =
                        Many { entries: block, direction, rows: n, columns: t, v: packed_v, out: &mut *kv, wide };
                    T::dispatch(self.token, task);
                }
            }
            let u = packed_u.take(n * sp);
            u.fill(0.0);
            for i in 0..n {
                f(start + i, &kv[i * tp..][..t], &mut u[i * sp..][..s]);
            }
            match s {
                0 => {}
                1 => T::dispatch(self.token, Scatter { entries: block, u, acc: &mut *packed_acc }),
                _ => {
                    let wide = wide.take(n * WIDE_CHUNK);
                    let direction = Direction::Transposed;
                    let task =
                        Many { entries: block, direction, rows: n, columns: s, v: u, out: &mut *packed_acc, wide };
                    T::dispatch(self.token, task);
                }
            }
        }
        copy_columns(packed_acc, if s == 1 { 1 } else { sp }, acc, s);
    }

    /// Row length of a padded block of `t` columns: one column is not padded.
    fn columns(&self, t: usize) -> usize {
        if t <= 1 { t } else { T::dispatch(self.token, Columns(t)) }
    }

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
        for (padded, &v) in padded.iter_mut().zip(v) {
            *padded = T::from_f64(f64::from(v));
        }
        padded[self.centers..].fill(T::ZERO);
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
}

/// Copies the common columns of two row-major blocks.
fn copy_columns(from: &[f64], from_columns: usize, to: &mut [f64], to_columns: usize) {
    let columns = from_columns.min(to_columns);
    if columns > 0 {
        for (from, to) in from.chunks_exact(from_columns).zip(to.chunks_exact_mut(to_columns)) {
            to[..columns].copy_from_slice(&from[..columns]);
        }
    }
}

struct Columns(usize);

impl<T> Task<T> for Columns {
    type Output = usize;
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, _p: P) -> usize {
        padded_columns::<T, P>(self.0)
    }
}

struct PackCenters<'a, T> {
    form: &'a Form<T>,
    centers: Rows<'a>,
    panels: &'a mut Buffer<T>,
}

impl<T: Entry> Task<T> for PackCenters<'_, T> {
    type Output = (usize, usize);
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) -> (usize, usize) {
        let lanes = C * P::N;
        let len = self.centers.len().next_multiple_of(lanes) * self.form.depth();
        self.form.pack(p, self.centers, lanes, self.form.center_factor(), self.panels.take(len));
        (R, lanes)
    }
}

struct PackRows<'a, T> {
    form: &'a Form<T>,
    rows: Rows<'a>,
    out: &'a mut [T],
}

impl<T: Entry> Task<T> for PackRows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        self.form.pack(p, self.rows, R, T::ONE, self.out);
    }
}

/// Kernel entries into memory.
struct Fill<'a, T> {
    form: &'a Form<T>,
    packed: &'a [T],
    panels: &'a [T],
    rows: usize,
    stride: usize,
    centers: usize,
    until: usize,
    out: &'a mut [T],
}

struct Store<'a, T, P> {
    p: P,
    rows: usize,
    stride: usize,
    /// Rows from the first of the current tile on, and where that row's entries go.
    left: usize,
    at: usize,
    out: &'a mut [T],
}

impl<T, P: Lanes<T>, const C: usize> Sink<P::V, C> for Store<'_, T, P> {
    #[inline(always)]
    fn begin(&mut self, first_row: usize, panel: usize) {
        self.left = self.rows - first_row;
        self.at = first_row * self.stride + panel * C * P::N;
    }
    #[inline(always)]
    fn put(&mut self, r: usize, entries: [P::V; C]) {
        if r < self.left {
            let to = P::arrays_mut(&mut self.out[self.at + r * self.stride..][..C * P::N]);
            for c in 0..C {
                self.p.store(&mut to[c], entries[c]);
            }
        }
    }
}

impl<T: Entry> Task<T> for Fill<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        let panels = self.until.div_ceil(C * P::N) * C * P::N * self.form.depth();
        let mut sink = Store { p, rows: self.rows, stride: self.stride, left: 0, at: 0, out: &mut *self.out };
        sweep::<T, P, R, C>(p, self.form, self.packed, &self.panels[..panels], &mut sink);
        if self.until == self.centers {
            for row in self.out.chunks_exact_mut(self.stride.max(1)) {
                row[self.centers..].fill(T::ZERO);
            }
        }
    }
}

/// K v with sums in the entries' precision, fused into the tile: each row has C vector accumulators, which take the panels in order;
/// then accumulators, then lanes are added in order.
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
    sums: &'a mut [[P::Array; C]],
    row: usize,
    panel: usize,
    entry: std::marker::PhantomData<T>,
}

impl<T, P: Lanes<T>, const C: usize> Sink<P::V, C> for Accumulate<'_, T, P, C> {
    #[inline(always)]
    fn begin(&mut self, first_row: usize, panel: usize) {
        (self.row, self.panel) = (first_row, panel);
    }
    #[inline(always)]
    fn put(&mut self, r: usize, entries: [P::V; C]) {
        let (sums, v) = (&mut self.sums[self.row + r], &self.v[self.panel]);
        for c in 0..C {
            let total = self.p.mul_add(entries[c], self.p.load(&v[c]), self.p.load(&sums[c]));
            self.p.store(&mut sums[c], total);
        }
    }
}

impl<T: Entry> Task<T> for Narrow<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        let rows = self.out.len().next_multiple_of(R);
        let sums = self.sums.take(rows * C * P::N);
        sums.fill(T::ZERO);
        let sums = P::arrays_mut(sums).as_chunks_mut::<C>().0;
        let v = P::arrays(self.v).as_chunks::<C>().0;
        let mut sink = Accumulate::<T, P, C> { p, v, sums, row: 0, panel: 0, entry: std::marker::PhantomData };
        sweep::<T, P, R, C>(p, self.form, self.packed, self.panels, &mut sink);
        let sums = self.sums.get(rows * C * P::N);
        for (out, sums) in self.out.iter_mut().zip(sums.chunks_exact(C * P::N)) {
            let mut total = p.splat(T::ZERO);
            for part in P::arrays(sums) {
                total = p.add(total, p.load(part));
            }
            let mut lanes = [T::ZERO; 16];
            p.store(&mut P::arrays_mut(&mut lanes)[0], total);
            *out = lanes[1..P::N].iter().fold(lanes[0], |s, &x| s + x).to_f64() as f32;
        }
    }
}
