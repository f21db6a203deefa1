//! Whole kernel matrices, for small row sets and for K_mm, on all threads: an entry is a function of its row and center alone, whoever forms it.

use super::{Entry, SimdPath, TileError, TileScratch, Tiles};
use crate::dense::each_columns;
use crate::kernel::Kernel;
use crate::rows::Rows;
use faer::Mat;
use faer::prelude::ReborrowMut;
use rayon::prelude::*;

/// K(x, z), n x m, row-major without padding. See [`Tiles::new`] for the arguments and errors.
///
/// ```
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, kernel_matrix}};
/// let rows = Rows::new(&[0.0, 3.0], 1, &[], 0);
/// let k = kernel_matrix::<f32>(&Kernel::new(Family::Laplace, 1.0), rows, rows, &[], SimdPath::detect())?;
/// assert_eq!((k[0], k[3]), (1.0, 1.0));
/// assert!((k[1] - (-3f32).exp()).abs() < 1e-7);
/// # Ok::<(), nystream_kernels::tile::TileError>(())
/// ```
///
/// # Errors
/// As [`Tiles::new`].
///
/// # Panics
/// If the widths of `x` and `z` differ.
pub fn kernel_matrix<T: Entry>(
    kernel: &Kernel,
    x: Rows<'_>,
    z: Rows<'_>,
    offset: &[f32],
    simd: SimdPath,
) -> Result<Vec<T>, TileError> {
    let tiles = Tiles::<T>::new(kernel, z, offset, simd)?;
    let m = tiles.centers();
    let mut out = vec![T::default(); x.len() * m];
    out.par_chunks_mut((MATRIX_ROWS * m).max(1)).enumerate().for_each_init(
        || Strip::new(&tiles, x.len()),
        |strip, (k, out)| {
            let entries = strip.entries(&tiles, x, k * MATRIX_ROWS);
            out.chunks_exact_mut(m).zip(entries).for_each(|(to, row)| to.copy_from_slice(&row[..m]));
        },
    );
    Ok(out)
}

/// K(x, x), n x n, in f64 entries and exactly symmetric, since entries are symmetric bit for bit. Both triangles are computed: columns are then
/// written as they lie, on all threads, where mirroring one goes across the other's memory (m = 4,000, 8 features: 0.11 s for 0.02).
///
/// # Errors
/// As [`Tiles::new`].
///
/// ```
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, symmetric_kernel_matrix}};
/// let rows = Rows::new(&[0.0, 3.0, 7.0], 1, &[], 0);
/// let k = symmetric_kernel_matrix(&Kernel::new(Family::Laplace, 1.0), rows, &[], SimdPath::detect())?;
/// assert_eq!((k[(1, 1)], k[(0, 2)]), (1.0, k[(2, 0)]));
/// assert!((k[(0, 1)] - (-3f64).exp()).abs() < 1e-15);
/// # Ok::<(), nystream_kernels::tile::TileError>(())
/// ```
pub fn symmetric_kernel_matrix(
    kernel: &Kernel,
    x: Rows<'_>,
    offset: &[f32],
    simd: SimdPath,
) -> Result<Mat<f64>, TileError> {
    let n = x.len();
    let tiles = Tiles::<f64>::new(kernel, x, offset, simd)?;
    let mut out = Mat::zeros(n, n);
    each_columns(out.as_mut(), MATRIX_ROWS, true, |mut columns, first| {
        let mut strip = Strip::new(&tiles, columns.ncols());
        for (j, row) in strip.entries(&tiles, x, first).enumerate() {
            columns.rb_mut().col_mut(j).iter_mut().zip(row).for_each(|(to, entry)| *to = *entry);
        }
    });
    Ok(out)
}

/// Rows whose entries are formed at once.
const MATRIX_ROWS: usize = 48;

/// Room for the entries of a few rows.
struct Strip<T: Entry> {
    scratch: TileScratch<T>,
    block: Vec<T>,
}

impl<T: Entry> Strip<T> {
    /// For at most `rows` rows at a time, and at most [`MATRIX_ROWS`].
    fn new(tiles: &Tiles<T>, rows: usize) -> Self {
        Strip { scratch: TileScratch::new(), block: vec![T::default(); MATRIX_ROWS.min(rows) * tiles.stride()] }
    }

    /// The entries of the rows from `start` on, as many as fit: m and padding for each.
    fn entries(&mut self, tiles: &Tiles<T>, x: Rows<'_>, start: usize) -> impl Iterator<Item = &[T]> {
        let stride = tiles.stride().max(1);
        let end = (start + self.block.len() / stride).min(x.len());
        let block = &mut self.block[..(end - start) * tiles.stride()];
        tiles.block(x.slice(start, end), &mut self.scratch, block);
        block.chunks_exact(stride)
    }
}
