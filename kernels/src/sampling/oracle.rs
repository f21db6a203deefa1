//! Where kernel values come from.

use crate::kernel::Kernel;
use crate::rows::Rows;
use faer::Mat;

/// A source of kernel values.
///
/// An entry's bits must depend on the two rows alone: not on the block it is asked for in, nor on its place there.
/// Entries may come rounded from f32.
///
/// ```
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, sampling::KernelOracle};
/// let kernel = Kernel::new(Family::Gaussian, 1.0);
/// let rows = Rows::new(&[0.0, 1.0, 3.0], 1, &[], 0);
/// assert_eq!(kernel.block(rows, rows.slice(0, 2)).ncols(), 2);
/// assert_eq!(KernelOracle::diagonal(&kernel, rows), vec![1.0; 3]);
/// ```
pub trait KernelOracle: Sync {
    /// K(x, z): `x.len() x z.len()`.
    fn block(&self, x: Rows<'_>, z: Rows<'_>) -> Mat<f64>;

    /// k(x_i, x_i) for every row.
    fn diagonal(&self, x: Rows<'_>) -> Vec<f64>;
}

/// The reference: every entry by [`Kernel::evaluate`].
impl KernelOracle for Kernel {
    fn block(&self, x: Rows<'_>, z: Rows<'_>) -> Mat<f64> {
        Mat::from_fn(x.len(), z.len(), |i, j| self.evaluate(x, i, z, j))
    }

    fn diagonal(&self, x: Rows<'_>) -> Vec<f64> {
        (0..x.len()).map(|i| Kernel::diagonal(self, x, i)).collect()
    }
}
