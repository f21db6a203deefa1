//! Kernel values for sampling, from the tile engine in f64.

use faer::MatMut;
use nystream_kernels::kernel::Kernel;
use nystream_kernels::rows::Rows;
use nystream_kernels::sampling::KernelOracle;
use nystream_kernels::tile::{SimdPath, TileScratch, Tiles};
use std::cell::RefCell;

/// Rows of x that are packed at once, and rows of z whose entries with them are formed at once: 96 KiB of entries, which stay in the
/// second-level cache until they are copied to their columns. Shapes no sum.
const PACKED_ROWS: usize = 256;
const TILE_ROWS: usize = 48;

thread_local! {
    /// Scratch of the thread and its block of entries: allocated once, for blocks are small and many.
    static SCRATCH: RefCell<(TileScratch<f64>, Vec<f64>)> = RefCell::default();
}

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
    fn fill(&self, x: Rows<'_>, z: Rows<'_>, mut out: MatMut<'_, f64>) {
        assert_eq!((out.nrows(), out.ncols()), (x.len(), z.len()), "one entry per pair of rows");
        SCRATCH.with_borrow_mut(|(scratch, block)| {
            for start in (0..x.len()).step_by(PACKED_ROWS) {
                let end = (start + PACKED_ROWS).min(x.len());
                let mut out = out.as_mut().subrows_mut(start, end - start);
                // A kernel that was checked when the job began packs any finite rows; NaN shows in every later check if not.
                // Entries are symmetric to the bit, so x may stand as the centers: a row of tiles is then a column of `out`.
                let Ok(tiles) = Tiles::<f64>::new(&self.kernel, x.slice(start, end), &[], self.simd) else {
                    out.fill(f64::NAN);
                    continue;
                };
                let stride = tiles.stride();
                block.resize(TILE_ROWS * stride, 0.0);
                for from in (0..z.len()).step_by(TILE_ROWS) {
                    let until = (from + TILE_ROWS).min(z.len());
                    let block = &mut block[..(until - from) * stride];
                    tiles.block(z.slice(from, until), scratch, block);
                    for (entries, j) in block.chunks_exact(stride).zip(from..until) {
                        match out.as_mut().col_mut(j).try_as_col_major_mut() {
                            Some(column) => column.as_slice_mut().copy_from_slice(&entries[..end - start]),
                            None => (start..end).zip(entries).for_each(|(i, k)| out[(i - start, j)] = *k),
                        }
                    }
                }
            }
        });
    }

    fn diagonal(&self, x: Rows<'_>) -> Vec<f64> {
        (0..x.len()).map(|i| self.kernel.diagonal(x, i)).collect()
    }
}
