//! Slow, obvious references on stored matrices, shared by the solvers' tests.

use super::pcg::NormalOperator;
use super::vectors::product;
use super::whitening::Whitening;
pub(crate) use crate::checks::distance;
use crate::dense::{SEQUENTIAL, cholesky, solve_lower, solve_lower_transpose, symmetric_eigen};
use crate::kernel::{Family, Kernel};
use crate::rows::{RowBuf, Rows};
use faer::{Mat, MatRef};
use nystream_hashing::{RowId, StreamKey};
use std::convert::Infallible;

/// Standard normals by hash, `rows x columns`.
pub(crate) fn normals(seed: u64, rows: usize, columns: usize) -> Mat<f64> {
    let key = StreamKey::new(seed, "solve oracle", 0);
    Mat::from_fn(rows, columns, |i, j| key.normal_pair(RowId((i * columns + j) as u128)).0)
}

/// `n` rows of `d` standard normals.
pub(crate) fn normal_rows(seed: u64, n: usize, d: usize) -> RowBuf {
    let x = normals(seed, n, d);
    let mut rows = RowBuf::new(d, 0);
    rows.numeric = (0..n * d).map(|k| x[(k / d, k % d)] as f32).collect();
    rows
}

/// k(x_i, z_j) by the definition.
pub(crate) fn kernel_matrix(kernel: &Kernel, x: Rows<'_>, z: Rows<'_>) -> Mat<f64> {
    Mat::from_fn(x.len(), z.len(), |i, j| kernel.evaluate(x, i, z, j))
}

/// A regression problem: rows, centers among them (the first m), kernel matrices, `t` noisy targets of a smooth function, weights.
pub(crate) struct Problem {
    pub x: RowBuf,
    pub knm: Mat<f64>,
    pub kmm: Mat<f64>,
    pub y: Mat<f64>,
    pub weights: Vec<f64>,
}

impl Problem {
    pub fn new(seed: u64, n: usize, m: usize, d: usize, t: usize, bandwidth: f64, noise: f64) -> Self {
        let kernel = Kernel::new(Family::Gaussian, bandwidth);
        let x = normal_rows(seed, n, d);
        let centers = x.view().slice(0, m);
        let knm = kernel_matrix(&kernel, x.view(), centers);
        let kmm = kernel_matrix(&kernel, centers, centers);
        let eps = normals(seed + 1, n, t);
        let y = Mat::from_fn(n, t, |i, j| {
            let row = x.view().numeric(i);
            let phase = 1.0 + 0.7 * j as f64;
            let signal: f64 = row.iter().enumerate().map(|(k, v)| (f64::from(*v) * phase + k as f64).sin()).sum();
            signal + noise * eps[(i, j)]
        });
        Problem { x, knm, kmm, y, weights: vec![1.0; n] }
    }

    pub fn n(&self) -> usize {
        self.knm.nrows()
    }

    pub fn m(&self) -> usize {
        self.knm.ncols()
    }

    pub fn weight_sum(&self) -> f64 {
        self.weights.iter().sum()
    }

    /// diag(w) a.
    pub fn weigh(&self, a: &Mat<f64>) -> Mat<f64> {
        Mat::from_fn(a.nrows(), a.ncols(), |i, j| self.weights[i] * a[(i, j)])
    }

    /// K_nm^T W y.
    pub fn rhs(&self) -> Mat<f64> {
        self.knm.transpose() * self.weigh(&self.y)
    }

    /// K_nm^T W K_nm + ridge K_mm.
    pub fn normal_matrix(&self, ridge: f64) -> Mat<f64> {
        self.knm.transpose() * self.weigh(&self.knm) + faer::Scale(ridge) * &self.kmm
    }

    /// The dense solution in whitened coordinates, by Cholesky.
    pub fn direct(&self, ridge: f64) -> Mat<f64> {
        let w = CholeskyWhitening::new(&self.kmm);
        let phi = w.features(&self.knm);
        let mut a = phi.transpose() * self.weigh(&phi);
        for i in 0..a.nrows() {
            a[(i, i)] += ridge;
        }
        let z = spd_solve(&a, &(phi.transpose() * self.weigh(&self.y)));
        w.apply(z.as_ref())
    }

    pub fn rmse(&self, alpha: &Mat<f64>) -> f64 {
        let e = &self.knm * alpha - &self.y;
        (super::vectors::squares(&e) / (e.nrows() * e.ncols()) as f64).sqrt()
    }

    pub fn relative_residual(&self, ridge: f64, alpha: &Mat<f64>, j: usize) -> f64 {
        let b = self.rhs();
        let r = &b - self.normal_matrix(ridge) * alpha;
        super::vectors::norm(r.col_as_slice(j)) / super::vectors::norm(b.col_as_slice(j))
    }
}

impl NormalOperator for Problem {
    type Error = Infallible;
    fn centers(&self) -> usize {
        self.m()
    }
    fn apply(&mut self, v: MatRef<'_, f64>) -> Result<Mat<f64>, Infallible> {
        Ok(product(self.knm.transpose(), self.weigh(&product(self.knm.as_ref(), v)).as_ref()))
    }
}

/// Solves a x = b for symmetric positive definite a.
pub(crate) fn spd_solve(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    let mut l = a.clone();
    cholesky(l.as_mut(), SEQUENTIAL).expect("positive definite");
    let mut x = b.clone();
    solve_lower(l.as_ref(), x.as_mut(), SEQUENTIAL);
    solve_lower_transpose(l.as_ref(), x.as_mut(), SEQUENTIAL);
    x
}

/// R = L^-T with K_mm = L L^T.
pub(crate) struct CholeskyWhitening {
    l: Mat<f64>,
}

impl CholeskyWhitening {
    pub fn new(kmm: &Mat<f64>) -> Self {
        let mut l = kmm.clone();
        cholesky(l.as_mut(), SEQUENTIAL).expect("positive definite");
        CholeskyWhitening { l }
    }

    /// K R for k (n x m): the whitened features.
    pub fn features(&self, k: &Mat<f64>) -> Mat<f64> {
        let mut out = k.transpose().to_owned();
        solve_lower(self.l.as_ref(), out.as_mut(), SEQUENTIAL);
        out.transpose().to_owned()
    }
}

impl Whitening for CholeskyWhitening {
    fn centers(&self) -> usize {
        self.l.nrows()
    }
    fn rank(&self) -> usize {
        self.l.nrows()
    }
    fn apply(&self, z: MatRef<'_, f64>) -> Mat<f64> {
        let mut out = z.to_owned();
        solve_lower_transpose(self.l.as_ref(), out.as_mut(), SEQUENTIAL);
        out
    }
    fn apply_transpose(&self, v: MatRef<'_, f64>) -> Mat<f64> {
        let mut out = v.to_owned();
        solve_lower(self.l.as_ref(), out.as_mut(), SEQUENTIAL);
        out
    }
    fn center_gram(&self, alpha: MatRef<'_, f64>) -> Mat<f64> {
        product(self.l.as_ref(), product(self.l.transpose(), alpha).as_ref())
    }
    fn coordinates(&self, alpha: MatRef<'_, f64>) -> Mat<f64> {
        product(self.l.transpose(), alpha)
    }
}

/// R = U D^-1/2 over the eigenvalues above m eps mu_1.
pub(crate) struct EigenWhitening {
    kmm: Mat<f64>,
    r: Mat<f64>,
}

impl EigenWhitening {
    pub fn new(kmm: &Mat<f64>) -> Self {
        let m = kmm.nrows();
        let (values, vectors) = symmetric_eigen(kmm.as_ref(), SEQUENTIAL).expect("finite");
        let first = values.iter().position(|v| *v > m as f64 * f64::EPSILON * values[m - 1]).expect("not zero");
        let r = Mat::from_fn(m, m - first, |i, j| vectors[(i, first + j)] / values[first + j].sqrt());
        EigenWhitening { kmm: kmm.clone(), r }
    }
}

impl Whitening for EigenWhitening {
    fn centers(&self) -> usize {
        self.r.nrows()
    }
    fn rank(&self) -> usize {
        self.r.ncols()
    }
    fn apply(&self, z: MatRef<'_, f64>) -> Mat<f64> {
        &self.r * z
    }
    fn apply_transpose(&self, v: MatRef<'_, f64>) -> Mat<f64> {
        self.r.transpose() * v
    }
    fn center_gram(&self, alpha: MatRef<'_, f64>) -> Mat<f64> {
        &self.kmm * alpha
    }
}
