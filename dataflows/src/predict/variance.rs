//! Predictive variances: var(x) = noise + signal (k(x, x) - |F^T k(Z, x)|^2).
//!
//! The factor is used a panel of columns at a time: a panel of m x 256 is what a worker holds, and the kernel entries, which are formed
//! again for each panel, cost little beside its 512 operations an entry. Sums run over the columns of F in ascending order, so the bits
//! do not depend on the batch. What rounding makes negative is 0: the latent variance lies in [0, k(x, x)].
//!
//! Cost: 2 m rank flops a row, and ceil(rank / 256) m kernel entries.

use super::function::VarianceFactor;
use nystream_kernels::rows::Rows;
use nystream_kernels::tile::{Entry, TileScratch, Tiles};

/// Columns of F in one panel.
pub(super) const PANEL: usize = 256;

/// Buffers of one worker.
#[derive(Default)]
pub(super) struct VarianceScratch {
    panel: Vec<f64>,
    explained: Vec<f64>,
}

/// Writes k(x, x) - |F^T k(Z, x)|^2 of every row to `out`.
pub(super) fn latent<T: Entry>(
    tiles: &Tiles<T>,
    rows: Rows<'_>,
    factor: &VarianceFactor,
    tile_scratch: &mut TileScratch<T>,
    scratch: &mut VarianceScratch,
    out: &mut [f64],
) {
    let explained = &mut scratch.explained;
    explained.clear();
    explained.resize(rows.len(), 0.0);
    for start in (0..factor.rank).step_by(PANEL) {
        let end = (start + PANEL).min(factor.rank);
        scratch.panel.clear();
        for row in factor.factor.chunks_exact(factor.rank) {
            scratch.panel.extend_from_slice(&row[start..end]);
        }
        tiles.map_rows(rows, &scratch.panel, end - start, 0, tile_scratch, &mut [], |i, image, _| {
            image.iter().for_each(|value| explained[i] += value * value);
        });
    }
    tiles.diagonal(rows, out);
    for (out, explained) in out.iter_mut().zip(explained) {
        *out = (*out - *explained).max(0.0);
    }
}
