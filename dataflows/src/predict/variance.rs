//! Predictive variances: var_k(x) = noise_k + signal_k (k(x, x) - sum_j W[j, k] (F^T k(Z, x))_j^2).
//!
//! The factor is used a panel of columns at a time: a panel of m x 256 is what a worker holds, and the kernel entries, which are formed
//! again for each panel, cost little beside its 512 operations an entry. Sums run over the columns of F in ascending order, so the bits
//! do not depend on the batch. What rounding makes negative is 0: the latent variance lies in [0, k(x, x)].
//!
//! Cost: 2 (m + t) rank flops a row, and ceil(rank / 256) m kernel entries.

use super::function::VarianceBasis;
use nystream_kernels::kernel::Kernel;
use nystream_kernels::rows::Rows;
use nystream_kernels::tile::{BlockScratch, CenterBlocks, Entry};

/// Columns of F in one panel.
pub(crate) const PANEL: usize = 256;

/// Buffers of one worker.
#[derive(Default)]
pub(super) struct VarianceScratch {
    panel: Vec<f64>,
    explained: Vec<f64>,
    diagonal: Vec<f64>,
}

/// Writes k(x, x) - sum_j W[j, k] (F^T k(Z, x))_j^2 of every row and target to `out`, rows x t.
pub(super) fn latent<T: Entry>(
    (kernel, tiles): (&Kernel, &CenterBlocks<T>),
    rows: Rows<'_>,
    basis: &VarianceBasis,
    tile_scratch: &mut BlockScratch<T>,
    scratch: &mut VarianceScratch,
    out: &mut [f64],
) {
    if rows.is_empty() {
        return;
    }
    let t = out.len() / rows.len();
    let VarianceScratch { panel, explained, diagonal } = scratch;
    explained.clear();
    explained.resize(out.len(), 0.0);
    for start in (0..basis.rank).step_by(PANEL) {
        let end = (start + PANEL).min(basis.rank);
        panel.clear();
        for row in basis.factor.chunks_exact(basis.rank) {
            panel.extend_from_slice(&row[start..end]);
        }
        tiles.map_rows(rows, panel, end - start, 0, tile_scratch, &mut [], |i, image, _| {
            let explained = &mut explained[i * t..(i + 1) * t];
            for (value, weights) in image.iter().zip(basis.weights[start * t..end * t].chunks_exact(t)) {
                explained.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight * value * value);
            }
        });
    }
    diagonal.resize(rows.len(), 0.0);
    diagonal.iter_mut().enumerate().for_each(|(i, out)| *out = kernel.diagonal(rows, i));
    for ((out, explained), prior) in out.chunks_exact_mut(t).zip(explained.chunks_exact(t)).zip(diagonal) {
        out.iter_mut().zip(explained).for_each(|(out, explained)| *out = (*prior - explained).max(0.0));
    }
}
