//! What a fit proves or measures about its centers, on rows that are not centers.
//!
//! * `epsilon`: the smallest eps with E_RR <= eps (K_RR + gamma |R|/n I), E = K - K~, on held-out sample rows R
//!   (sampling_and_online.md section 5: only the lower side matters for the fit). It *estimates* the smallest eps with
//!   E <= eps (K + gamma I) over all rows: eigenvalues of a uniform sample's matrices are about |R|/n of those of all, so the ridge is too. It is
//!   no bound. With gamma in place of its share it would be a lower bound (vectors that vanish outside R), but of about |R|/n the size.
//! * `pencil`: both sides of the accuracy of a sampled dictionary (see `pencil.rs`).
//! * `trace_error` = tr(K - K~) / tr K: over all rows when the solver has the Gram, otherwise unbiased from R.

mod pencil;
#[cfg(test)]
mod tests;

pub use pencil::{Basis, PencilCertificate, exact_pencil};

use crate::dictionary::Atoms;
use crate::dictionary::pool::{Pool, feature_key};
use crate::error::StageError;
use faer::MatRef;
use nystream_hashing::RowId;
use nystream_kernels::nystrom::{HeldOut, WhitenMethod, Whitener, residual_diagonal};
use nystream_kernels::rows::RowBuf;
use nystream_kernels::tile::{kernel_matrix, symmetric_kernel_matrix};
use std::collections::BTreeSet;

/// Sample rows whose kernel matrix is formed.
pub(crate) const HELD_OUT_ROWS: usize = 500;
/// Sample rows over which the trace error is averaged.
pub(crate) const TRACE_ROWS: usize = 2000;

/// The certificate of a selection.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Certificate {
    /// Lower-side accuracy over all rows, estimated from held-out rows; no bound. `None` when every sample row is a center.
    pub epsilon: Option<f64>,
    /// Relative trace error on held-out rows.
    pub sampled_trace_error: Option<f64>,
    /// Two-sided accuracy of the sampled dictionary, where there was one.
    pub pencil: Option<PencilCertificate>,
}

fn numeric(error: impl std::fmt::Display) -> StageError {
    StageError::Numeric(error.to_string())
}

/// Measures the centers on the rows of `sample` that are not among them, neither by id nor by features; and the dictionary `atoms`, if any, as far
/// as the sample tells ([`exact_pencil`] is for those who have the Gram of all rows). `gamma` is the matrix ridge on all `rows` rows.
///
/// Cost, with R <= 2,000 sample rows: R m kernel entries, m^3 / 3 + R m^2 flops, and the eigenvalues of at most 500 x 500.
///
/// ```
/// use nystream_dataflows::certify::{Basis, certify};
/// use nystream_dataflows::{StageError, dictionary::pool::Pool};
/// use nystream_hashing::RowId;
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::RowBuf, tile::SimdPath};
///
/// // A sample of 100 rows on a line, standing for 10,000.
/// let line = RowBuf { numeric: (0..100).map(|i| 0.05 * i as f32).collect(), numeric_width: 1, codes: vec![], code_width: 0 };
/// let sample = Pool { rows: line, ids: (0..100).map(RowId).collect(), ..Pool::default() };
/// let kernel = Kernel::new(Family::Gaussian, 1.0);
/// let every = |step: usize| {
///     let chosen: Vec<usize> = (0..100).step_by(step).collect();
///     let centers = sample.gather(&chosen);
///     let basis = Basis { kernel: &kernel, simd: SimdPath::detect(), centers: centers.rows.view() };
///     certify(basis, &centers.ids, &sample, None, 1.0, 10_000)
/// };
/// let (few, many) = (every(50)?, every(10)?);
/// assert!(few.sampled_trace_error > many.sampled_trace_error && few.epsilon > many.epsilon);
/// // 10 centers a bandwidth / 2 apart leave next to nothing of the 100 rows.
/// assert!(many.sampled_trace_error.unwrap() < 0.01);
/// // When every sample row is a center there is nothing to measure on.
/// assert_eq!(every(1)?.epsilon, None);
/// # Ok::<(), StageError>(())
/// ```
///
/// # Errors
/// [`StageError::Numeric`] for a factorisation that fails.
pub fn certify(
    basis: Basis<'_>,
    center_ids: &[RowId],
    sample: &Pool,
    atoms: Option<&Atoms>,
    gamma: f64,
    rows: u64,
) -> Result<Certificate, StageError> {
    let Basis { kernel, simd, centers } = basis;
    let pencil = match atoms {
        Some(atoms) if gamma > 0.0 => pencil::sampled_pencil(basis, atoms, sample, gamma, rows)?,
        _ => None,
    };
    let taken: BTreeSet<RowId> = center_ids.iter().copied().collect();
    // Centers from a file may be training rows under other ids: then their features tell.
    let same: BTreeSet<[u8; 32]> = (0..centers.len()).map(|i| feature_key(centers, i)).collect();
    let view = sample.rows.view();
    let is_center = |i: &usize| taken.contains(&sample.ids[*i]) || same.contains(&feature_key(view, *i));
    let free: Vec<usize> = (0..sample.len()).filter(|i| !is_center(i)).take(TRACE_ROWS).collect();
    if free.is_empty() {
        return Ok(Certificate { pencil, ..Certificate::default() });
    }
    let held = RowBuf::gather(sample.rows.view(), &free);
    let kmm = symmetric_kernel_matrix(kernel, centers, &[], simd).map_err(numeric)?;
    let whitener = Whitener::new(kmm.as_ref(), WhitenMethod::Cholesky).map_err(numeric)?;
    let k = kernel_matrix::<f64>(kernel, held.view(), centers, &[], simd).map_err(numeric)?;
    let k = MatRef::from_row_major_slice(&k, held.len(), centers.len());
    let diagonal: Vec<f64> = (0..held.len()).map(|i| kernel.diagonal(held.view(), i)).collect();
    let residual = residual_diagonal(&whitener, k, &diagonal).map_err(numeric)?;
    let few = held.len().min(HELD_OUT_ROWS);
    let krr = symmetric_kernel_matrix(kernel, held.view().slice(0, few), &[], simd).map_err(numeric)?;
    let scaled = gamma * few as f64 / rows.max(1) as f64;
    let population = rows.saturating_sub(center_ids.len() as u64);
    let held_out = HeldOut::new(&whitener, krr.as_ref(), k.subrows(0, few), population).map_err(numeric)?;
    // At ridge 0 there is no such accuracy, and none can be measured where the ridge does not make the matrix positive definite to working precision.
    let epsilon = if scaled > 0.0 { held_out.lower_accuracy(scaled).ok() } else { None };
    let total: f64 = diagonal.iter().sum();
    Ok(Certificate {
        epsilon,
        // Centers have no residual: the rows that are not centers stand for n - m of n.
        sampled_trace_error: (total > 0.0).then(|| {
            let share = population as f64 / rows.max(1) as f64;
            // No residual is negative but by rounding, which single ones keep so that it cancels.
            (residual.iter().sum::<f64>() / total * share).max(0.0)
        }),
        pencil,
    })
}
