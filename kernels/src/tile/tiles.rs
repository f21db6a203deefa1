//! [`Tiles`]: centers packed once, and their kernel entries with rows.

use super::buffer::Buffer;
use super::entry::{Entry, Token};
use super::pack::Form;
use super::tasks::{Fill, PackCenters, PackRows};
use super::{SimdPath, TileError};
use crate::constants::{TILE_BLOCK_BYTES, TILE_BLOCK_ROWS};
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
    pub(super) form: Form<T>,
    pub(super) token: Token,
    simd: SimdPath,
    /// Rows of a register tile.
    pub(super) height: usize,
    /// Centers of a panel.
    pub(super) lanes: usize,
    pub(super) centers: usize,
    pub(super) stride: usize,
    pub(super) panels: Buffer<T>,
    /// k(z, z)^-1/2 of every center, 0 beyond them and where k(z, z) is 0.
    pub(super) roots: Buffer<T>,
}

/// Working memory of one thread: reused, grown when needed; its contents mean nothing between calls.
#[derive(Debug, Default)]
pub struct TileScratch<T> {
    pub(super) rows: Buffer<T>,
    pub(super) entries: Buffer<T>,
    pub(super) sums: Buffer<T>,
    pub(super) narrow: Buffer<T>,
    pub(super) v: Buffer<f64>,
    pub(super) u: Buffer<f64>,
    pub(super) kv: Buffer<f64>,
    pub(super) acc: Buffer<f64>,
    pub(super) wide: Buffer<f64>,
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
        let mut roots = Buffer::default();
        let places = roots.take(stride);
        places.fill(T::ZERO);
        for (j, root) in places[..centers.len()].iter_mut().enumerate() {
            let norm = kernel.diagonal(centers, j);
            *root = if norm > 0.0 { T::from_f64(1.0 / norm.sqrt()) } else { T::ZERO };
        }
        let centers = centers.len();
        Ok(Tiles { kernel: kernel.clone(), form, token, simd, height, lanes, centers, stride, panels, roots })
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
        let widest = 4 * 64 / size_of::<T>();
        (centers.next_multiple_of(widest) * (numeric_width + code_width + 3)) * size_of::<T>() + 128
    }

    pub(super) fn check(&self, rows: Rows<'_>) {
        assert!(
            self.form.fits(rows),
            "rows have {} numeric and {} categorical columns, which the centers do not",
            rows.numeric_width(),
            rows.code_width()
        );
    }

    /// Rows handled at once, so that their entries stay in the second-level cache. Shapes no sum.
    pub(super) fn block_rows(&self) -> usize {
        let rows = TILE_BLOCK_BYTES / (self.stride.max(1) * size_of::<T>());
        (rows.min(TILE_BLOCK_ROWS) / self.height).max(1) * self.height
    }

    /// Packs rows into `packed` and returns their groups.
    pub(super) fn pack<'s>(&self, rows: Rows<'_>, packed: &'s mut Buffer<T>) -> &'s [T] {
        let len = rows.len().next_multiple_of(self.height) * self.form.depth();
        let out = packed.take(len);
        T::dispatch(self.token, PackRows { form: &self.form, rows, out: &mut *out });
        out
    }

    pub(super) fn panel_len(&self) -> usize {
        self.stride * self.form.depth()
    }

    /// Entries of `rows` with the first `until` centers (rounded up to panels) into `out`, row length `stride`.
    pub(super) fn fill(&self, rows: Rows<'_>, until: usize, packed: &mut Buffer<T>, out: &mut [T]) {
        let packed = self.pack(rows, packed);
        T::dispatch(self.token, self.fill_task(packed, rows.len(), until, out));
    }

    /// What [`Tiles::fill`] does with packed rows.
    pub(super) fn fill_task<'a>(&'a self, packed: &'a [T], rows: usize, until: usize, out: &'a mut [T]) -> Fill<'a, T> {
        let panels = self.panels.get(self.panel_len());
        Fill { form: &self.form, packed, panels, rows, stride: self.stride, centers: self.centers, until, out }
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
        self.check(rows);
        assert_eq!(out.len(), rows.len() * self.stride, "out must be rows x stride");
        let step = self.block_rows();
        for start in (0..rows.len()).step_by(step) {
            let end = (start + step).min(rows.len());
            let out = &mut out[start * self.stride..end * self.stride];
            self.fill(rows.slice(start, end), self.centers, &mut scratch.rows, out);
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
}
