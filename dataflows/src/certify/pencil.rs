//! The pencil certificate of a sampled dictionary (sampling_and_online.md section 5 c): how well its weighted atoms stand for all rows.
//!
//! With f = R^T k_m(x) the features on the centers, G1 = sum f f^T over the rows, G2 = sum w f f^T over the atoms: the extreme
//! eigenvalues of (G2 - G1, G1 + gamma I) are the two sides of the dictionary's accuracy within the span of the centers, so their
//! magnitude is a lower bound on its epsilon at gamma. Below zero the dictionary misses mass, above it has too much.
//!
//! G1 is that of *all training rows* where the solver holds their exact Gram ([`PencilCertificate::exact`]). Elsewhere it is estimated: the atoms themselves
//! count once, and the rows of the hashed sample that are not atoms stand for all the others. The sample's hash is independent of
//! the dictionary's, so this is unbiased for G1; its noise adds to what is measured (about sqrt(r / rows) in r directions), so the
//! figure is then neither an upper nor a lower bound.
//!
//! Cost: 4 m x m^2 flops for the atoms' features, 9 m^3 for the eigenvalues.

use super::numeric;
use crate::dictionary::Atoms;
use crate::dictionary::pool::Pool;
use crate::error::StageError;
use faer::{Mat, MatRef};
use nystream_hashing::RowId;
use nystream_kernels::dense::DenseError;
use nystream_kernels::kernel::Kernel;
use nystream_kernels::nystrom::{NystromError, WhitenMethod, Whitener, pencil, weighted_feature_gram};
use nystream_kernels::rows::{RowBuf, Rows};
use nystream_kernels::tile::{SimdPath, kernel_matrix, symmetric_kernel_matrix};
use std::collections::BTreeSet;

/// Atoms or rows whose features are formed at once.
const PIECE_ROWS: usize = 512;

/// Most sample rows, in units of m (of [`PIECE_ROWS`] where m is less): as many as there are atoms.
const SAMPLE_SHARE: usize = 4;

/// What the pencil of a dictionary and its rows shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PencilCertificate {
    /// Least eigenvalue.
    pub lowest: f64,
    /// Greatest eigenvalue.
    pub highest: f64,
    /// The matrix ridge it refers to, on all rows.
    pub gamma: f64,
    /// Rows that G1 was made from: all of them, or those of the sample.
    pub rows: u64,
    /// Whether G1 is that of all training rows.
    pub exact: bool,
}

impl PencilCertificate {
    /// The larger magnitude of the two sides.
    pub fn epsilon(&self) -> f64 {
        self.highest.abs().max(self.lowest.abs())
    }
}

/// The centers that a dictionary is looked at through.
#[derive(Clone, Copy)]
pub struct Basis<'a> {
    /// Kernel.
    pub kernel: &'a Kernel,
    /// SIMD path.
    pub simd: SimdPath,
    /// Centers.
    pub centers: Rows<'a>,
}

impl Basis<'_> {
    fn whitener(&self) -> Result<Whitener, StageError> {
        let kmm = symmetric_kernel_matrix(self.kernel, self.centers, &[], self.simd).map_err(numeric)?;
        Whitener::new(kmm.as_ref(), WhitenMethod::Cholesky).map_err(numeric)
    }

    /// sum w f f^T over `rows`, in pieces, in order.
    fn feature_gram(&self, whitener: &Whitener, rows: Rows<'_>, weights: &[f64]) -> Result<Mat<f64>, StageError> {
        let mut sum: Option<Mat<f64>> = None;
        for start in (0..rows.len()).step_by(PIECE_ROWS) {
            let end = (start + PIECE_ROWS).min(rows.len());
            let k = kernel_matrix::<f64>(self.kernel, rows.slice(start, end), self.centers, &[], self.simd)
                .map_err(numeric)?;
            let k = MatRef::from_row_major_slice(&k, end - start, self.centers.len());
            let features = whitener.features(k).map_err(numeric)?;
            let part = weighted_feature_gram(features.as_ref(), &weights[start..end]).map_err(numeric)?;
            match &mut sum {
                Some(sum) => *sum += part,
                None => sum = Some(part),
            }
        }
        sum.ok_or_else(|| StageError::Internal("a dictionary without atoms".into()))
    }
}

/// The pencil, or `None` when gamma is below the rounding of G1, which is then not positive: nothing can be said at that gamma.
fn measure(
    g1: MatRef<'_, f64>,
    g2: MatRef<'_, f64>,
    gamma: f64,
    rows: u64,
    exact: bool,
) -> Result<Option<PencilCertificate>, StageError> {
    match pencil(g1, g2, gamma) {
        Ok(found) => Ok(Some(PencilCertificate { lowest: found.lowest, highest: found.highest, gamma, rows, exact })),
        Err(NystromError::Dense(DenseError::NonPositivePivot { .. })) => Ok(None),
        Err(other) => Err(numeric(other)),
    }
}

/// The certificate against `gram` = K_nm^T K_nm of all `rows` training rows, unweighted; `None` when gamma is below its rounding.
///
/// # Errors
/// A factorisation that fails.
pub fn exact_pencil(
    basis: Basis<'_>,
    atoms: &Atoms,
    gram: MatRef<'_, f64>,
    gamma: f64,
    rows: u64,
) -> Result<Option<PencilCertificate>, StageError> {
    let whitener = basis.whitener()?;
    let g1 = whitener.congruence(gram).map_err(numeric)?;
    let g2 = basis.feature_gram(&whitener, atoms.rows.view(), &atoms.weights)?;
    measure(g1.as_ref(), g2.as_ref(), gamma, rows, true)
}

/// The certificate against the atoms and the rows of `sample` that are none, which stand for the rest of all `rows`; `None` when
/// there are none, or gamma is below the rounding of their sums.
///
/// # Errors
/// A factorisation that fails.
pub fn sampled_pencil(
    basis: Basis<'_>,
    atoms: &Atoms,
    sample: &Pool,
    gamma: f64,
    rows: u64,
) -> Result<Option<PencilCertificate>, StageError> {
    let taken: BTreeSet<RowId> = atoms.ids.iter().copied().collect();
    let most = SAMPLE_SHARE * basis.centers.len().max(PIECE_ROWS);
    let free: Vec<usize> = (0..sample.len()).filter(|i| !taken.contains(&sample.ids[*i])).take(most).collect();
    if free.is_empty() {
        return Ok(None);
    }
    let held = RowBuf::gather(sample.rows.view(), &free);
    let share = rows.saturating_sub(atoms.ids.len() as u64) as f64 / free.len() as f64;
    let whitener = basis.whitener()?;
    let g1 = basis.feature_gram(&whitener, held.view(), &vec![share; free.len()])?
        + basis.feature_gram(&whitener, atoms.rows.view(), &vec![1.0; atoms.ids.len()])?;
    let g2 = basis.feature_gram(&whitener, atoms.rows.view(), &atoms.weights)?;
    measure(g1.as_ref(), g2.as_ref(), gamma, free.len() as u64, false)
}
