//! Whole kernel matrices, for small row sets and for K_mm.

use super::{Entry, SimdPath, TileError, TileScratch, Tiles};
use crate::kernel::Kernel;
use crate::rows::Rows;
use faer::Mat;

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
    let (m, stride) = (tiles.centers(), tiles.stride());
    let mut scratch = TileScratch::new();
    let mut block = vec![T::default(); MATRIX_ROWS.min(x.len()) * stride];
    let mut out = Vec::with_capacity(x.len() * m);
    for start in (0..x.len()).step_by(MATRIX_ROWS) {
        let rows = x.slice(start, (start + MATRIX_ROWS).min(x.len()));
        let block = &mut block[..rows.len() * stride];
        tiles.block(rows, &mut scratch, block);
        for row in block.chunks_exact(stride.max(1)) {
            out.extend_from_slice(&row[..m]);
        }
    }
    Ok(out)
}

/// K(x, x), n x n, in f64 entries and exactly symmetric: the lower triangle is computed and mirrored (entries are symmetric bit for bit).
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
    let stride = tiles.stride();
    let mut scratch = TileScratch::new();
    let mut block = vec![0.0; MATRIX_ROWS.min(n) * stride];
    let mut out = Mat::zeros(n, n);
    for start in (0..n).step_by(MATRIX_ROWS) {
        let end = (start + MATRIX_ROWS).min(n);
        let block = &mut block[..(end - start) * stride];
        tiles.block_until(x.slice(start, end), end, &mut scratch, block);
        // Column by column, as the matrix lies; the transposed half is written along its columns.
        for j in 0..end {
            for i in start.max(j)..end {
                out[(i, j)] = block[(i - start) * stride + j];
            }
        }
        for i in start..end {
            for j in 0..i {
                out[(j, i)] = block[(i - start) * stride + j];
            }
        }
    }
    Ok(out)
}

/// Rows whose entries are formed at once.
const MATRIX_ROWS: usize = 48;
