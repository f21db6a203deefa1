//! Kernel values for sampling, from the tile engine in f64.

use faer::Mat;
use nystream_kernels::kernel::Kernel;
use nystream_kernels::rows::Rows;
use nystream_kernels::sampling::KernelOracle;
use nystream_kernels::tile::{SimdPath, kernel_matrix};

/// A [`KernelOracle`] that evaluates f64 tiles.
#[derive(Clone, Debug)]
pub struct TileOracle {
    kernel: Kernel,
    simd: SimdPath,
}

impl TileOracle {
    /// Values of `kernel` on the given path.
    pub fn new(kernel: &Kernel, simd: SimdPath) -> Self {
        TileOracle { kernel: kernel.clone(), simd }
    }
}

impl KernelOracle for TileOracle {
    fn block(&self, x: Rows<'_>, z: Rows<'_>) -> Mat<f64> {
        // A kernel that was checked when the job began packs any finite rows; NaN shows in every later check if not.
        match kernel_matrix::<f64>(&self.kernel, x, z, &[], self.simd) {
            Ok(values) => Mat::from_fn(x.len(), z.len(), |i, j| values[i * z.len() + j]),
            Err(_) => Mat::full(x.len(), z.len(), f64::NAN),
        }
    }

    fn diagonal(&self, x: Rows<'_>) -> Vec<f64> {
        (0..x.len()).map(|i| self.kernel.diagonal(x, i)).collect()
    }
}
