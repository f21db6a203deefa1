//! What the approximation loses, measured (sampling_and_online section 5). With E = K - K~, K~ = F F^T:
//!
//! * trace error: `tr E = sum_i (k_ii - |f_i|^2)`, from the pass that made the Gram matrix ([`ApproximateTrace`]) or blockwise ([`residual_diagonal`]);
//! * held-out rows ([`HeldOut`]): `lambda_max(E_RR) <= |E| <= tr E`, an unbiased trace, and the accuracy of the basis;
//! * pencil certificate of a weighted dictionary ([`pencil`]): the extreme eigenvalue of (G2 - G1, G1 + gamma I) is a lower bound on its true accuracy epsilon.

use super::{NystromError, RidgePath, Whitener, expect_shape};
use crate::dense::{self, SEQUENTIAL, fixed_parallelism, gemm};
use faer::{Mat, MatRef};

/// The trace error of an approximation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceError {
    /// `tr(K - K~)`, not negative.
    pub absolute: f64,
    /// `tr(K - K~) / tr K`.
    pub relative: f64,
}

/// The trace error, from `tr K = sum_i w_i k(x_i, x_i)` and `tr K~` = [`super::RidgePath::trace`] of the same rows and weights.
pub fn trace_error(kernel_trace: f64, approximate_trace: f64) -> TraceError {
    let absolute = (kernel_trace - approximate_trace).max(0.0);
    TraceError { absolute, relative: if kernel_trace > 0.0 { absolute / kernel_trace } else { 0.0 } }
}

/// `k_ii - |f_i|^2` of a block of rows, given `K_Bm` (B x m) and k(x, x); about -1e-12 at worst by rounding, not clamped so that sums stay
/// unbiased.
///
/// # Errors
/// [`NystromError::Shape`].
pub fn residual_diagonal(
    whitener: &Whitener,
    k_bm: MatRef<'_, f64>,
    diagonal: &[f64],
) -> Result<Vec<f64>, NystromError> {
    expect_shape("kernel block", k_bm, diagonal.len(), whitener.centers())?;
    let features = whitener.features(k_bm)?;
    let norm = |i: usize| -> f64 { features.col_as_slice(i).iter().map(|f| f * f).sum() };
    Ok(diagonal.iter().enumerate().map(|(i, k)| k - norm(i)).collect())
}

/// *Shape.* Coordinates in which an error is magnified by more than this, squared, are not summed over all rows. On keggdirected (m = 1,000) the estimate is
/// within 3 % of the truth from 1e8 to 1e9, 10 % off beyond by the rounding of G, and below it varies with the sample (November 2026).
const TRUSTED: f64 = 1e8;

/// `tr K~` from the sums over all rows, where they can be trusted, and from sampled rows where they cannot.
///
/// The problem: in the whitened coordinate j, `sum_i f_ij^2 = (R^T G R)_jj` carries the roundings of entries and of G magnified by `|R e_j|^2`, the inverse of
/// what `K_mm` has in that direction. They add to the trace and do not cancel: with `K_mm` nearly singular by more than the trace error itself
/// (keggdirected, m = 1,000: entries rounded to 2^-22 put it at 0 where it is 8e-5, and with entries of 2^-43 the rounding of G still did).
///
/// * Coordinates with `|R e_j|^2 <= 1e8` come from the sums, less what the rounding of entries added on the sampled rows.
/// * The others hold little: they come from the sampled rows alone, with exact entries.
///
/// Rows that no center resembles, which make a sampled trace error vary, have no part in either.
///
/// Cost: m^3 / 3 flops, and m^2 for each sampled row.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::gram::GramSums;
/// use nystream_kernels::nystrom::{ApproximateTrace, RidgePath, WhitenMethod, Whitener};
/// // Two rows with k = 1 and 0.5 to the only center: tr K~ = 1.25, tr K = 2.
/// let sums = GramSums {
///     gram: mat![[1.25]], cross: mat![[1.0]], target_squares: vec![1.0], target_sums: vec![1.0], weight_sum: 2.0, rows: 2,
/// };
/// let whitener = Whitener::new(mat![[1.0]].as_ref(), WhitenMethod::Eigen).unwrap();
/// let mut trace = ApproximateTrace::new(&whitener, &RidgePath::new(&sums, &whitener).unwrap()).unwrap();
/// trace.sample(&whitener, mat![[0.5]].as_ref(), mat![[0.5]].as_ref(), 1.0).unwrap();
/// assert!((trace.error(2.0).absolute - 0.75).abs() < 1e-15);
/// ```
#[derive(Clone, Debug)]
pub struct ApproximateTrace {
    trusted: Vec<bool>,
    /// Over all rows, in the trusted coordinates.
    summed: f64,
    /// On the sampled rows: what they have in the other coordinates, less what rounding added in the trusted ones.
    correction: f64,
    /// tr K of the sampled rows.
    sampled: f64,
}

impl ApproximateTrace {
    /// No rows sampled yet. The path is that of `whitener`.
    ///
    /// # Errors
    /// [`NystromError::Shape`].
    pub fn new(whitener: &Whitener, path: &RidgePath) -> Result<Self, NystromError> {
        let trusted: Vec<bool> = whitener.squared_norms()?.iter().map(|norm| *norm <= TRUSTED).collect();
        let sums = path.coordinate_sums();
        if sums.len() != trusted.len() {
            let (rows, found_rows) = (trusted.len(), sums.len());
            return Err(NystromError::Shape { what: "whitened sums", rows, columns: 1, found_rows, found_columns: 1 });
        }
        let summed = sums.iter().zip(&trusted).filter(|(_, trusted)| **trusted).map(|(sum, _)| sum).sum();
        Ok(ApproximateTrace { trusted, summed, correction: 0.0, sampled: 0.0 })
    }

    /// Adds sampled rows: their entries as they were summed, `rounded`, and as they are, `exact` (both B x m), with the roots of the rows' weights in
    /// them; `total` = `sum_i w_i k(x_i, x_i)`.
    ///
    /// # Errors
    /// [`NystromError::Shape`].
    pub fn sample(
        &mut self,
        whitener: &Whitener,
        rounded: MatRef<'_, f64>,
        exact: MatRef<'_, f64>,
        total: f64,
    ) -> Result<(), NystromError> {
        expect_shape("rounded block", rounded, exact.nrows(), exact.ncols())?;
        let (r, k) = (whitener.features(rounded)?, whitener.features(exact)?);
        for i in 0..k.ncols() {
            let both = r.col_as_slice(i).iter().zip(k.col_as_slice(i)).zip(&self.trusted);
            self.correction +=
                both.map(|((r, k), trusted)| if *trusted { (k - r) * (k + r) } else { k * k }).sum::<f64>();
        }
        self.sampled += total;
        Ok(())
    }

    /// The trace error, given `tr K = sum_i w_i k(x_i, x_i)` of all rows.
    pub fn error(&self, kernel_trace: f64) -> TraceError {
        let share = if self.sampled > 0.0 { kernel_trace / self.sampled } else { 0.0 };
        trace_error(kernel_trace, self.summed + share * self.correction)
    }
}

/// The error of the approximation on rows R that are not used to make it.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::nystrom::{HeldOut, WhitenMethod, Whitener};
/// let whitener = Whitener::new(mat![[1.0]].as_ref(), WhitenMethod::Eigen).unwrap();
/// let k_rr = mat![[1.0, 0.25], [0.25, 1.0]];
/// let held_out = HeldOut::new(&whitener, k_rr.as_ref(), mat![[0.5], [0.5]].as_ref(), 100).unwrap();
/// assert!((held_out.trace - 1.5).abs() < 1e-15);
/// assert!((held_out.lambda_max - 0.75).abs() < 1e-15);
/// assert_eq!(held_out.trace_estimate, 50.0 * held_out.trace);
/// ```
#[derive(Clone, Debug)]
pub struct HeldOut {
    /// `lambda_max(E_RR)`, a lower bound on |K - K~|.
    pub lambda_max: f64,
    /// `tr E_RR`.
    pub trace: f64,
    /// `(n / |R|) tr E_RR`: unbiased for `tr E` when R is uniform over the n rows.
    pub trace_estimate: f64,
    residual: Mat<f64>,
    kernel: Mat<f64>,
}

impl HeldOut {
    /// From `K_RR` (R x R, symmetric) and `K_Rm` (R x m), for R uniform over a population of n rows (if over the rows that are not centers, give n - m).
    ///
    /// # Errors
    /// [`NystromError`] if shapes do not fit or the eigensolver fails.
    pub fn new(
        whitener: &Whitener,
        k_rr: MatRef<'_, f64>,
        k_rm: MatRef<'_, f64>,
        population: u64,
    ) -> Result<Self, NystromError> {
        let count = k_rm.nrows();
        expect_shape("K_RR", k_rr, count, count)?;
        let features = whitener.features(k_rm)?;
        let mut residual = k_rr.to_owned();
        gemm(residual.as_mut(), true, -1.0, features.as_ref().transpose(), features.as_ref(), fixed_parallelism());
        dense::mirror_lower(residual.as_mut());
        let trace = (0..count).map(|i| residual[(i, i)]).sum();
        let trace_estimate = if count == 0 { 0.0 } else { population as f64 / count as f64 * trace };
        let lambda_max = largest(residual.as_ref())?;
        Ok(HeldOut { lambda_max, trace, trace_estimate, residual, kernel: k_rr.to_owned() })
    }

    /// Lower-side accuracy of the projection basis at the matrix ridge gamma, on R: the largest eigenvalue of
    /// (E_RR, K_RR + gamma I), a lower bound on the same over all rows.
    ///
    /// # Errors
    /// [`NystromError::Ridge`] unless gamma is positive; [`NystromError::Dense`].
    pub fn lower_accuracy(&self, gamma: f64) -> Result<f64, NystromError> {
        let mut whitened = symmetric_pencil(self.residual.clone(), self.kernel.clone(), gamma)?;
        dense::mirror_lower(whitened.as_mut());
        largest(whitened.as_ref())
    }
}

/// Extreme eigenvalues of (G2 - G1, G1 + gamma I).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pencil {
    /// Least eigenvalue: the dictionary misses mass where this is negative.
    pub lowest: f64,
    /// Greatest eigenvalue.
    pub highest: f64,
}

impl Pencil {
    /// The certificate: the larger magnitude of the two.
    pub fn epsilon(&self) -> f64 {
        self.highest.abs().max(self.lowest.abs())
    }
}

/// The pencil certificate at the matrix ridge gamma: `g1 = sum_i f_i f_i^T` over all rows (r x r, [`Whitener::congruence`] of the Gram matrix),
/// `g2 = sum w_i f_i f_i^T` over the atoms of the dictionary ([`weighted_feature_gram`]).
///
/// # Errors
/// [`NystromError`] if shapes do not fit, gamma is not positive, or a factorisation fails.
pub fn pencil(g1: MatRef<'_, f64>, g2: MatRef<'_, f64>, gamma: f64) -> Result<Pencil, NystromError> {
    let r = g1.nrows();
    expect_shape("G1", g1, r, r)?;
    expect_shape("G2", g2, r, r)?;
    let mut difference = symmetric_pencil(g2 - g1, g1.to_owned(), gamma)?;
    dense::mirror_lower(difference.as_mut());
    let (values, _) = dense::symmetric_eigen(difference.as_ref(), fixed_parallelism())?;
    Ok(Pencil { lowest: values.first().copied().unwrap_or(0.0), highest: values.last().copied().unwrap_or(0.0) })
}

/// `F diag(w) F^T` (r x r) of features `F` (r x B, a column for each row).
///
/// # Errors
/// [`NystromError::Shape`] unless there is a weight for each column.
pub fn weighted_feature_gram(features: MatRef<'_, f64>, weights: &[f64]) -> Result<Mat<f64>, NystromError> {
    expect_shape("features", features, features.nrows(), weights.len())?;
    let weighted = Mat::from_fn(features.nrows(), weights.len(), |i, j| features[(i, j)] * weights[j]);
    let mut out = Mat::zeros(features.nrows(), features.nrows());
    gemm(out.as_mut(), false, 1.0, weighted.as_ref(), features.transpose(), SEQUENTIAL);
    dense::mirror_lower(out.as_mut());
    Ok(out)
}

/// `L^-1 a L^-T` with `L L^T = b + gamma I`.
fn symmetric_pencil(mut a: Mat<f64>, mut b: Mat<f64>, gamma: f64) -> Result<Mat<f64>, NystromError> {
    if !(gamma > 0.0 && gamma.is_finite()) {
        return Err(NystromError::Ridge { value: gamma });
    }
    for i in 0..b.nrows() {
        b[(i, i)] += gamma;
    }
    dense::cholesky(b.as_mut(), fixed_parallelism())?;
    dense::solve_lower(b.as_ref(), a.as_mut(), fixed_parallelism());
    let mut out = a.transpose().to_owned();
    dense::solve_lower(b.as_ref(), out.as_mut(), fixed_parallelism());
    Ok(out)
}

fn largest(a: MatRef<'_, f64>) -> Result<f64, NystromError> {
    let (values, _) = dense::symmetric_eigen(a, fixed_parallelism())?;
    Ok(values.last().copied().unwrap_or(0.0))
}
