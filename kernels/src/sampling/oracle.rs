//! Where kernel values come from.

use super::PARALLEL_ORDER;
use crate::kernel::Kernel;
use crate::rows::Rows;
use faer::{Mat, MatMut};
use rayon::prelude::*;

/// Rows of a piece that one thread fills at a time. Shapes no sum: entries do not depend on the piece they are in.
const PIECE_ROWS: usize = 256;

/// A source of kernel values.
///
/// An entry's bits must depend on the two rows alone: not on the block it is asked for in, nor on its place there, nor on which of the two
/// comes first. Entries may come rounded from f32.
///
/// ```
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, sampling::KernelOracle};
/// let kernel = Kernel::new(Family::Gaussian, 1.0);
/// let rows = Rows::new(&[0.0, 1.0, 3.0], 1, &[], 0);
/// assert_eq!(kernel.block(rows, rows.slice(0, 2)).ncols(), 2);
/// assert_eq!(KernelOracle::diagonal(&kernel, rows), vec![1.0; 3]);
/// ```
pub trait KernelOracle: Sync {
    /// Writes K(x, z), `x.len() x z.len()`, to `out`. Sequential.
    ///
    /// # Panics
    /// If `out` has another shape.
    fn fill(&self, x: Rows<'_>, z: Rows<'_>, out: MatMut<'_, f64>);

    /// k(x_i, x_i) for every row.
    fn diagonal(&self, x: Rows<'_>) -> Vec<f64>;

    /// K(x, z): `x.len() x z.len()`.
    fn block(&self, x: Rows<'_>, z: Rows<'_>) -> Mat<f64> {
        let mut out = Mat::zeros(x.len(), z.len());
        self.fill(x, z, out.as_mut());
        out
    }
}

/// The reference: every entry by [`Kernel::evaluate`].
impl KernelOracle for Kernel {
    fn fill(&self, x: Rows<'_>, z: Rows<'_>, mut out: MatMut<'_, f64>) {
        assert_eq!((out.nrows(), out.ncols()), (x.len(), z.len()), "one entry per pair of rows");
        for j in 0..z.len() {
            for i in 0..x.len() {
                out[(i, j)] = self.evaluate(x, i, z, j);
            }
        }
    }

    fn diagonal(&self, x: Rows<'_>) -> Vec<f64> {
        (0..x.len()).map(|i| Kernel::diagonal(self, x, i)).collect()
    }
}

/// The lower triangle of diag(`scales`) K(x, x) diag(`scales`); of the strict upper triangle, only pieces near the diagonal are written.
///
/// Large ones by all threads: every entry is computed alone, so its bits are the same by one.
pub(super) fn scaled_lower<O: KernelOracle + ?Sized>(oracle: &O, x: Rows<'_>, scales: &[f64]) -> Mat<f64> {
    let n = x.len();
    let mut out = Mat::zeros(n, n);
    let piece = |(start, part): (usize, MatMut<'_, f64>)| {
        let end = start + part.nrows();
        let mut part = part.subcols_mut(0, end);
        for from in (0..end).step_by(PIECE_ROWS) {
            let until = (from + PIECE_ROWS).min(end);
            let mut part = part.as_mut().subcols_mut(from, until - from);
            oracle.fill(x.slice(start, end), x.slice(from, until), part.as_mut());
            for j in from..until {
                for i in start..end {
                    part[(i - start, j - from)] *= scales[i] * scales[j];
                }
            }
        }
    };
    // Later pieces are longer: they are taken first, so that threads end together.
    let parts: Vec<_> = row_pieces(out.as_mut()).into_iter().rev().collect();
    if n < PARALLEL_ORDER {
        parts.into_iter().for_each(piece);
    } else {
        parts.into_par_iter().with_max_len(1).for_each(piece);
    }
    out
}

/// `a` cut into pieces of [`PIECE_ROWS`] rows, with the first row of each.
fn row_pieces(mut a: MatMut<'_, f64>) -> Vec<(usize, MatMut<'_, f64>)> {
    let (mut pieces, mut start) = (Vec::new(), 0);
    while a.nrows() > 0 {
        let rows = PIECE_ROWS.min(a.nrows());
        let (piece, rest) = a.split_at_row_mut(rows);
        pieces.push((start, piece));
        start += rows;
        a = rest;
    }
    pieces
}
