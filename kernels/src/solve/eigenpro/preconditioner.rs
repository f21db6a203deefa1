//! The subsample's eigensystem, the preconditioned kernel it defines, and what must be measured about it.

use super::super::vectors::{dot, larger, norm, product};
use crate::dense::{DenseError, fixed_parallelism, gemm, symmetric_eigen};
use faer::{Mat, MatRef};
use nystream_hashing::{RowId, StreamKey};
use serde::{Deserialize, Serialize};

/// K_SS = E diag(mu) E^T, the top q eigenpairs kept: k_P(x, z) = k(x, z) - k(x, S) E D E^T k(S, z) with
/// D_i = (1 - (mu_{q+1} / mu_i)^a) / mu_i, which lowers the top q eigenvalues mu_i on S to mu_i (mu_{q+1} / mu_i)^a.
#[derive(Clone, Debug)]
pub struct SubsamplePreconditioner {
    /// E, s x q.
    vectors: Mat<f64>,
    /// mu_1 >= ... >= mu_q.
    values: Vec<f64>,
    tail: f64,
    gains: Vec<f64>,
}

/// What power iterations and a diagonal over probe rows found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Top eigenvalue of the weighted K_P over the probes, divided by their number.
    pub top_eigenvalue: f64,
    /// Largest w k_P(x, x) over the probes.
    pub diagonal: f64,
    /// Largest w k(x, x) over the probes: an upper bound of the former wherever weights agree.
    pub kernel_diagonal: f64,
}

/// Power iterations of a measurement.
const POWER_ITERATIONS: usize = 20;
/// Eigenvalues measured by few iterations on few rows are low; the plan divides by this.
const CAUTION: f64 = 0.9;

impl SubsamplePreconditioner {
    /// From K_SS (s x s, its lower triangle is read), the number of directions q and the damping exponent a (1: full, 0.95: as in EigenPro 2's code).
    ///
    /// q is lowered where mu_{q+1} is below s eps mu_1: such values are rounding.
    ///
    /// # Errors
    /// [`DenseError::NoConvergence`] from the eigensolver.
    ///
    /// ```
    /// use faer::mat;
    /// use nystream_kernels::solve::eigenpro::SubsamplePreconditioner;
    /// let k = mat![[2.0, 0.0], [0.0, 1.0]];
    /// let p = SubsamplePreconditioner::new(k.as_ref(), 1, 1.0).unwrap();
    /// // The top eigenvalue 2 comes down to the next one, 1.
    /// let flat = p.kernel(k.as_ref(), k.as_ref(), k.as_ref());
    /// assert!((flat[(0, 0)] - 1.0).abs() < 1e-12 && (flat[(1, 1)] - 1.0).abs() < 1e-12);
    /// ```
    pub fn new(k_ss: MatRef<'_, f64>, q: usize, exponent: f64) -> Result<Self, DenseError> {
        Self::above(k_ss, q, exponent, 0.0)
    }

    /// As [`SubsamplePreconditioner::new`], and q is lowered where mu_{q+1} is not above `least` too: with s lambda the preconditioned spectrum
    /// does not fall below the ridge, which acts on the directions that are not kept as it is.
    ///
    /// # Errors
    /// [`DenseError::NoConvergence`] from the eigensolver.
    pub fn above(k_ss: MatRef<'_, f64>, q: usize, exponent: f64, least: f64) -> Result<Self, DenseError> {
        let s = k_ss.nrows();
        let (ascending, all) = symmetric_eigen(k_ss, fixed_parallelism())?;
        let value = |i: usize| ascending[s - 1 - i];
        let floor = if s > 0 { (s as f64 * f64::EPSILON * value(0)).max(least) } else { 0.0 };
        let mut q = q.min(s.saturating_sub(1));
        while q > 0 && value(q) <= floor {
            q -= 1;
        }
        let tail = if s > 0 { value(q) } else { 0.0 };
        let values: Vec<f64> = (0..q).map(value).collect();
        let gains = values.iter().map(|mu| (1.0 - (tail / mu).powf(exponent)) / mu).collect();
        let vectors = Mat::from_fn(s, q, |i, j| all[(i, s - 1 - j)]);
        Ok(SubsamplePreconditioner { vectors, values, tail, gains })
    }

    /// Of E, mu, the diagonal of D and mu_{q+1}, which belong together.
    pub(super) fn from_parts((vectors, values, gains, tail): (Mat<f64>, Vec<f64>, Vec<f64>, f64)) -> Self {
        SubsamplePreconditioner { vectors, values, tail, gains }
    }

    /// The largest q at which the subsample's own (q+1)-th value is not far too small for other rows: s / 20.
    pub fn recommended_rank(s: usize) -> usize {
        (s / 20).max(1).min(s.saturating_sub(1))
    }

    /// Rows of the subsample s.
    pub fn sample(&self) -> usize {
        self.vectors.nrows()
    }

    /// Directions kept q.
    pub fn rank(&self) -> usize {
        self.values.len()
    }

    /// mu_{q+1} of K_SS.
    pub fn tail(&self) -> f64 {
        self.tail
    }

    /// E, s x q.
    pub fn vectors(&self) -> MatRef<'_, f64> {
        self.vectors.as_ref()
    }

    /// E D^1/2, s x q: k(x, x) - k_P(x, x) is the squared norm of its transpose times k(S, x).
    pub fn scaled_vectors(&self) -> Mat<f64> {
        Mat::from_fn(self.sample(), self.rank(), |i, j| self.vectors[(i, j)] * self.gains[j].sqrt())
    }

    /// mu_1 ... mu_q.
    pub(super) fn values(&self) -> &[f64] {
        &self.values
    }

    /// The diagonal of D.
    pub(super) fn gains(&self) -> &[f64] {
        &self.gains
    }

    /// C g = E D E^T g for g (s x t).
    pub fn correction(&self, g: MatRef<'_, f64>) -> Mat<f64> {
        let mut projected = self.project(g);
        scale_rows(&mut projected, &self.gains);
        self.expand(&projected)
    }

    /// E^T g.
    pub(super) fn project(&self, g: MatRef<'_, f64>) -> Mat<f64> {
        product(self.vectors.transpose(), g)
    }

    /// E c.
    pub(super) fn expand(&self, c: &Mat<f64>) -> Mat<f64> {
        product(self.vectors.as_ref(), c.as_ref())
    }

    /// k_P between two sets of rows from k(X, Y) (a x b), k(X, S) (a x s) and k(Y, S) (b x s).
    pub fn kernel(&self, k_xy: MatRef<'_, f64>, k_xs: MatRef<'_, f64>, k_ys: MatRef<'_, f64>) -> Mat<f64> {
        let corrected = self.correction(k_ys.transpose());
        let mut out = k_xy.to_owned();
        gemm(out.as_mut(), true, -1.0, k_xs, corrected.as_ref(), fixed_parallelism());
        out
    }

    /// Measures k_P on p probe rows *outside the subsample*, from k(P, P) (p x p), k(P, S) (p x s) and their weights (mean 1).
    ///
    /// On the subsample itself both numbers come out far too small (solvers.md section 1, traps 1 and 2).
    pub fn measure(&self, k_pp: MatRef<'_, f64>, k_ps: MatRef<'_, f64>, weights: &[f64]) -> Measured {
        let p = k_pp.nrows();
        assert_eq!(weights.len(), p, "one weight per probe");
        let preconditioned = self.kernel(k_pp, k_ps, k_ps);
        let root: Vec<f64> = weights.iter().map(|w| w.sqrt()).collect();
        let m = Mat::from_fn(p, p, |i, j| root[i] * preconditioned[(i, j)] * root[j]);
        let key = StreamKey::new(0, "eigenpro power iteration", 0);
        let mut x = Mat::from_fn(p, 1, |i, _| key.normal_pair(RowId(i as u128)).0);
        let mut top = 0.0f64;
        for _ in 0..POWER_ITERATIONS {
            let length = norm(x.col_as_slice(0));
            if length == 0.0 {
                break;
            }
            x *= faer::Scale(1.0 / length);
            let image = product(m.as_ref(), x.as_ref());
            top = larger(top, dot(x.col_as_slice(0), image.col_as_slice(0)));
            x = image;
        }
        let largest = |a: MatRef<'_, f64>| (0..p).map(|i| weights[i] * a[(i, i)]).fold(0.0, larger);
        Measured {
            top_eigenvalue: top / p.max(1) as f64,
            diagonal: largest(preconditioned.as_ref()),
            kernel_diagonal: largest(k_pp),
        }
    }
}

impl Measured {
    /// beta: the largest preconditioned diagonal with a margin, never above the kernel's own.
    pub fn beta(&self) -> f64 {
        (self.diagonal / CAUTION).min(self.kernel_diagonal).max(f64::MIN_POSITIVE)
    }

    /// The batch beyond which larger batches no longer allow proportionally larger steps, beta / lambda_1 (at least 1).
    ///
    /// ```
    /// use nystream_kernels::solve::eigenpro::Measured;
    /// let measured = Measured { top_eigenvalue: 0.009, diagonal: 0.9, kernel_diagonal: 1.0 };
    /// assert_eq!((measured.beta(), measured.critical_batch()), (1.0, 100));
    /// // Up to it the step per row stays 1 / beta, and the iteration is stable; beyond it steps shrink.
    /// assert!((measured.step(100, 0.0) - 1.98 / 1.99).abs() < 1e-14);
    /// assert!(measured.stability(measured.step(100, 0.0), 100, 0.0) < 1.0);
    /// assert!(measured.step(1000, 0.0) < 0.2);
    /// ```
    pub fn critical_batch(&self) -> usize {
        let top = self.top_eigenvalue / CAUTION;
        if top > 0.0 { ((self.beta() / top) as usize).clamp(1, 1 << 30) } else { 1 << 30 }
    }

    /// Step per row for batches of b rows and per-sample ridge lambda: 1/beta below the critical batch, then
    /// 0.99 * 2 / (beta + (b - 1)(lambda_1 + lambda)).
    pub fn step(&self, batch: usize, ridge: f64) -> f64 {
        let top = self.top_eigenvalue / CAUTION + ridge;
        (1.0 / self.beta()).min(1.98 / (self.beta() + (batch as f64 - 1.0) * top))
    }

    /// (lambda_1 + lambda) gamma b: below 2 the mean iteration is stable.
    pub fn stability(&self, step: f64, batch: usize, ridge: f64) -> f64 {
        (self.top_eigenvalue + ridge) * step * batch as f64
    }
}

/// diag(scale) a.
pub(super) fn scale_rows(a: &mut Mat<f64>, scale: &[f64]) {
    for j in 0..a.ncols() {
        a.col_as_slice_mut(j).iter_mut().zip(scale).for_each(|(x, s)| *x *= s);
    }
}
