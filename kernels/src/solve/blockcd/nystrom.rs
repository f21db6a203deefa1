//! The block's preconditioner: a randomised Nystrom approximation of K_BB, damped.
//!
//! Omega is a hashed Gaussian sketch made orthonormal, K_BB is shifted by eps tr K_BB while it is factored and the shift is taken off the
//! eigenvalues again (Tropp, Yurtsever, Udell, Cevher, NeurIPS 2017, algorithm 3).

use super::super::vectors::{axpy, dot, larger, norm, product};
use crate::dense::{DenseError, SEQUENTIAL, cholesky, gemm, orthonormal, solve_lower, symmetric_eigen};
use faer::{Mat, MatRef};
use nystream_hashing::{RowId, StreamKey};

/// P = U S U^T + rho I for a block.
pub(super) struct BlockPreconditioner {
    /// Orthonormal, b x r.
    u: Mat<f64>,
    values: Vec<f64>,
    rho: f64,
}

impl BlockPreconditioner {
    pub fn new(k: &Mat<f64>, rank: usize, ridge: f64, damped: bool, key: StreamKey) -> Result<Self, DenseError> {
        let b = k.nrows();
        let rank = rank.min(b);
        let omega = orthonormal(sketch(b, rank, key).as_ref(), SEQUENTIAL);
        let trace: f64 = (0..b).map(|i| k[(i, i)]).sum();
        let shift = f64::EPSILON * trace;
        let mut y = &omega * faer::Scale(shift);
        gemm(y.as_mut(), true, 1.0, k.as_ref(), omega.as_ref(), SEQUENTIAL);
        let core = product(omega.transpose(), y.as_ref());
        // Directions in which K_BB is zero to rounding would make the factorisation fail; they hold nothing to keep.
        let (omega_values, omega_vectors) = symmetric_eigen(core.as_ref(), SEQUENTIAL)?;
        let r = omega_values.len();
        let floor = b as f64 * f64::EPSILON * omega_values[r - 1].max(shift);
        let kept: Vec<usize> = (0..r).filter(|&i| omega_values[i] > floor).collect();
        let basis = Mat::from_fn(r, kept.len(), |i, j| omega_vectors[(i, kept[j])]);
        let rotated = product(y.as_ref(), basis.as_ref());
        let mut core = Mat::zeros(kept.len(), kept.len());
        for (j, &i) in kept.iter().enumerate() {
            core[(j, j)] = omega_values[i];
        }
        cholesky(core.as_mut(), SEQUENTIAL)?;
        let mut f = rotated.transpose().to_owned();
        solve_lower(core.as_ref(), f.as_mut(), SEQUENTIAL);
        let f = f.transpose().to_owned();
        // F = Q T; the eigenvectors of T T^T turn Q into U without squaring F over b rows.
        let q = orthonormal(f.as_ref(), SEQUENTIAL);
        let small = product(q.transpose(), f.as_ref());
        let (values, vectors) = symmetric_eigen(product(small.as_ref(), small.transpose()).as_ref(), SEQUENTIAL)?;
        let values: Vec<f64> = values.iter().map(|v| (v - shift).max(0.0)).collect();
        // With r = b nothing is left out, and the damping stands for what is.
        let least = if damped && rank < b { values.first().copied().unwrap_or(0.0) } else { 0.0 };
        Ok(BlockPreconditioner { u: product(q.as_ref(), vectors.as_ref()), values, rho: ridge + least })
    }

    /// P^-1 g.
    pub fn apply(&self, g: MatRef<'_, f64>) -> Mat<f64> {
        let mut projected = product(self.u.transpose(), g);
        for j in 0..g.ncols() {
            for (x, s) in projected.col_as_slice_mut(j).iter_mut().zip(&self.values) {
                // 1/(s + rho) - 1/rho, without cancellation.
                *x *= -s / (self.rho * (s + self.rho));
            }
        }
        let mut out = g * faer::Scale(1.0 / self.rho);
        gemm(out.as_mut(), true, 1.0, self.u.as_ref(), projected.as_ref(), SEQUENTIAL);
        out
    }

    /// Top eigenvalue of P^-1 (K_BB + ridge I) by at least 10 power iterations, more (to 40) while it still grows by 1 %.
    ///
    /// Rayleigh quotients of the pencil (K_BB + ridge I, P) approach it from below.
    pub fn step_constant(&self, k: &Mat<f64>, ridge: f64, key: StreamKey) -> f64 {
        let mut x = Mat::from_fn(k.nrows(), 1, |i, _| key.normal_pair(RowId(i as u128)).1);
        let mut estimate = 0.0f64;
        for step in 0..40 {
            let mut image = &x * faer::Scale(ridge);
            gemm(image.as_mut(), true, 1.0, k.as_ref(), x.as_ref(), SEQUENTIAL);
            let now = dot(x.col_as_slice(0), image.col_as_slice(0)) / dot(&self.times(&x), x.col_as_slice(0));
            let settled = now <= 1.01 * estimate;
            estimate = larger(estimate, now);
            if step >= 9 && settled {
                break;
            }
            x = self.apply(image.as_ref());
            let scale = 1.0 / norm(x.col_as_slice(0));
            x *= faer::Scale(scale);
        }
        estimate
    }

    /// P x for one column.
    fn times(&self, x: &Mat<f64>) -> Vec<f64> {
        let projected = product(self.u.transpose(), x.as_ref());
        let mut out: Vec<f64> = x.col_as_slice(0).iter().map(|v| self.rho * v).collect();
        for (j, s) in self.values.iter().enumerate() {
            axpy(&mut out, s * projected[(j, 0)], self.u.col_as_slice(j));
        }
        out
    }
}

/// A hashed b x r sketch of independent standard normals.
fn sketch(b: usize, r: usize, key: StreamKey) -> Mat<f64> {
    let pairs = (0..(b * r).div_ceil(2)).map(|i| key.normal_pair(RowId(i as u128)));
    let normals: Vec<f64> = pairs.flat_map(|(x, y)| [x, y]).collect();
    MatRef::from_column_major_slice(&normals[..b * r], b, r).to_owned()
}
