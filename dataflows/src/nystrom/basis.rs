//! The space spanned by the centers: K_mm, its whitening, and the rows that stand for all others in a preconditioner.

use super::CenterWeights;
use crate::dictionary::pool::{Pool, feature_key};
use crate::error::StageError;
use faer::{Mat, MatRef};
use nystream_kernels::constants::GRAM_BLOCK;
use nystream_kernels::kernel::Kernel;
use nystream_kernels::nystrom::{WhitenMethod, Whitener};
use nystream_kernels::rows::{RowBuf, Rows};
use nystream_kernels::solve::{Whitening, strata_weights};
use nystream_kernels::tile::{SimdPath, kernel_matrix, symmetric_kernel_matrix};
use std::collections::BTreeSet;

/// K_mm = L L^T and its whitening, as the solver's algebra wants it.
pub(crate) struct Basis {
    whitener: Whitener,
    kmm: Mat<f64>,
}

impl Basis {
    /// The basis of `centers`.
    pub(crate) fn new(kernel: &Kernel, centers: Rows<'_>, simd: SimdPath) -> Result<Self, StageError> {
        let kmm = symmetric_kernel_matrix(kernel, centers, &[], simd).map_err(numeric)?;
        let whitener = Whitener::new(kmm.as_ref(), WhitenMethod::Cholesky).map_err(numeric)?;
        Ok(Basis { whitener, kmm })
    }

    /// Whitened features phi = R^T k of `rows` rows with kernel entries `k` (rows x m, row-major): rows x r.
    pub(crate) fn features(&self, k: &[f64], rows: usize, m: usize) -> Result<Mat<f64>, StageError> {
        let transposed = Mat::from_fn(m, rows, |j, i| k[i * m + j]);
        let phi = self.whitener.apply_transpose(transposed.as_ref()).map_err(numeric)?;
        Ok(phi.transpose().to_owned())
    }
}

impl Whitening for Basis {
    fn centers(&self) -> usize {
        self.whitener.centers()
    }

    fn rank(&self) -> usize {
        self.whitener.rank()
    }

    // The shapes are those of the solver itself, so the whitener's shape errors cannot occur.
    fn apply(&self, z: MatRef<'_, f64>) -> Mat<f64> {
        self.whitener.apply(z).unwrap_or_else(|_| Mat::full(self.centers(), z.ncols(), f64::NAN))
    }

    fn apply_transpose(&self, v: MatRef<'_, f64>) -> Mat<f64> {
        self.whitener.apply_transpose(v).unwrap_or_else(|_| Mat::full(self.rank(), v.ncols(), f64::NAN))
    }

    fn center_gram(&self, alpha: MatRef<'_, f64>) -> Mat<f64> {
        let mut out = Mat::zeros(alpha.nrows(), alpha.ncols());
        let par = nystream_kernels::dense::fixed_parallelism();
        nystream_kernels::dense::gemm(out.as_mut(), false, 1.0, self.kmm.as_ref(), alpha, par);
        out
    }
}

pub(crate) fn numeric(error: impl std::fmt::Display) -> StageError {
    StageError::Numeric(error.to_string())
}

pub(crate) fn row_major(m: MatRef<'_, f64>) -> Vec<f64> {
    (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)])).collect()
}

pub(crate) fn from_row_major(values: &[f64], rows: usize, columns: usize) -> Mat<f64> {
    Mat::from_fn(rows, columns, |i, j| values[i * columns + j])
}

/// The rows from which a preconditioner is made, and the weight that each stands for.
///
/// Two strata: the centers, each for itself, and [`PRECONDITIONER_ROWS`] m sampled rows that are not centers, for all others. Centers chosen by
/// leverage include rows that resemble no other; a uniform sample misses them, and each one missed is an eigenvalue of
/// about 1 / Lambda in the preconditioned system (keggdirected, m = 1,000: 100 iterations to a residual of 1e-3 without the stratum).
///
/// [`PRECONDITIONER_ROWS`]: crate::plan::PRECONDITIONER_ROWS
pub(crate) struct StratifiedSample<'a> {
    centers: Rows<'a>,
    sample: Rows<'a>,
    /// Indices into the sample.
    others: Vec<usize>,
    center_weights: Vec<f64>,
    other_weights: Vec<f64>,
}

impl<'a> StratifiedSample<'a> {
    /// `known` are the centers' weights where rows differ in theirs; without them each weighs the mean. All weights are multiplied by `scale`; together
    /// they are then `weight_sum`.
    pub(crate) fn new(
        centers: Rows<'a>,
        known: Option<&CenterWeights>,
        sample: &'a Pool,
        scale: f64,
        weight_sum: f64,
    ) -> Self {
        let mean = scale * sample.weights.iter().sum::<f64>() / sample.len().max(1) as f64;
        let own = known.map_or_else(|| vec![mean; centers.len()], |known| known.of(None, scale));
        Self::weighted(centers, own, sample, weight_sum, |i| scale * sample.weights[i])
    }

    /// The same of the rows that have numeric target `k` alone.
    pub(crate) fn of_target(
        centers: Rows<'a>,
        known: &CenterWeights,
        sample: &'a Pool,
        k: usize,
        scale: f64,
        weight_sum: f64,
    ) -> Self {
        let has = |i: usize| !sample.targets[i * sample.target_width + k].is_nan();
        let weight = |i: usize| if has(i) { scale * sample.weights[i] } else { 0.0 };
        Self::weighted(centers, known.of(Some(k), scale), sample, weight_sum, weight)
    }

    fn weighted(
        centers: Rows<'a>,
        own: Vec<f64>,
        sample: &'a Pool,
        weight_sum: f64,
        weight: impl Fn(usize) -> f64,
    ) -> Self {
        let m = centers.len();
        let taken: BTreeSet<[u8; 32]> = (0..m).map(|i| feature_key(centers, i)).collect();
        let most = (crate::plan::PRECONDITIONER_ROWS * m as f64) as usize;
        let view = sample.rows.view();
        let others: Vec<usize> =
            (0..sample.len()).filter(|i| !taken.contains(&feature_key(view, *i))).take(most).collect();
        let weights: Vec<f64> = others.iter().map(|i| weight(*i)).collect();
        let (center_weights, other_weights) = strata_weights(&own, &weights, weight_sum);
        StratifiedSample { centers, sample: view, others, center_weights, other_weights }
    }

    /// Rows of both strata.
    pub(crate) fn len(&self) -> usize {
        self.centers.len() + self.others.len()
    }

    /// Hands whitened features (b x r) and weights of [`GRAM_BLOCK`] rows at a time to `take`: their entries are b x m, never s x m.
    pub(crate) fn each_block(
        &self,
        basis: &Basis,
        kernel: &Kernel,
        simd: SimdPath,
        mut take: impl FnMut(MatRef<'_, f64>, &[f64]),
    ) -> Result<(), StageError> {
        let m = self.centers.len();
        let mut block = |rows: Rows<'_>, weights: &[f64]| {
            let k = kernel_matrix::<f64>(kernel, rows, self.centers, &[], simd).map_err(numeric)?;
            take(basis.features(&k, rows.len(), m)?.as_ref(), weights);
            Ok::<(), StageError>(())
        };
        for start in (0..m).step_by(GRAM_BLOCK) {
            let rows = self.centers.slice(start, (start + GRAM_BLOCK).min(m));
            block(rows, &self.center_weights[start..start + rows.len()])?;
        }
        for (others, weights) in self.others.chunks(GRAM_BLOCK).zip(self.other_weights.chunks(GRAM_BLOCK)) {
            block(RowBuf::gather(self.sample, others).view(), weights)?;
        }
        Ok(())
    }
}
