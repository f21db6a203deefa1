//! Slow, obvious references: exact online ridge regression, kernel SGD, batch ridge, and Newton steps in explicit features.

use super::*;
use crate::checks::distance;
use crate::dense::{SEQUENTIAL, cholesky, symmetric_eigen};
use crate::solve::oracle::spd_solve;

/// Predictions of exact online kernel ridge regression, one solve of all rows before each row: O(t^3) a row.
pub(super) fn online_ridge_slow(k: &Mat<f64>, y: &[f64], ridge: f64) -> Vec<f64> {
    (0..y.len())
        .map(|t| {
            let a = Mat::from_fn(t, t, |i, j| k[(i, j)] + if i == j { ridge } else { 0.0 });
            let alpha = spd_solve(&a, &Mat::from_fn(t, 1, |i, _| y[i]));
            (0..t).map(|s| k[(s, t)] * alpha[(s, 0)]).sum()
        })
        .collect()
}

/// The same by one factor of K + ridge I = L L^T: with z = L^-1 y, the prediction of row t is y_t - L_tt z_t, since L_tt z_t = y_t - sum_(s<t) L_ts z_s. O(t^2) a row.
pub(super) fn online_ridge(k: &Mat<f64>, y: &[f64], ridge: f64) -> Vec<f64> {
    let n = y.len();
    let mut l = k.clone();
    (0..n).for_each(|i| l[(i, i)] += ridge);
    cholesky(l.as_mut(), SEQUENTIAL).unwrap();
    let mut z = Mat::from_fn(n, 1, |i, _| y[i]);
    crate::dense::solve_lower(l.as_ref(), z.as_mut(), SEQUENTIAL);
    (0..n).map(|t| y[t] - l[(t, t)] * z[(t, 0)]).collect()
}

/// Functional gradient descent with step `step` / sqrt(t): f <- f - step l'(f(x)) k(x, .) (Kivinen, Smola and Williamson 2004).
pub(super) fn kernel_sgd(k: &Mat<f64>, y: &[f64], loss: Loss, step: f64, decay: bool) -> Vec<f64> {
    let mut b = vec![0.0; y.len()];
    (0..y.len())
        .map(|t| {
            let f: f64 = (0..t).map(|s| b[s] * k[(s, t)]).sum();
            b[t] = -step / if decay { ((t + 1) as f64).sqrt() } else { 1.0 } * loss.slope(f, y[t]);
            f
        })
        .collect()
}

/// min over u of sum (y - u)^2 + ridge ||u||^2: the loss, and ||u||^2.
pub(super) fn batch_ridge(k: &Mat<f64>, y: &[f64], ridge: f64) -> (f64, f64) {
    let n = y.len();
    let a = Mat::from_fn(n, n, |i, j| k[(i, j)] + if i == j { ridge } else { 0.0 });
    let b = spd_solve(&a, &Mat::from_fn(n, 1, |i, _| y[i]));
    let f = k * &b;
    let loss = (0..n).map(|i| (f[(i, 0)] - y[i]).powi(2)).sum();
    (loss, (0..n).map(|i| f[(i, 0)] * b[(i, 0)]).sum())
}

/// KONS in explicit features, by the definition: A whole, solved anew each time. `phi`: one column a row.
pub(super) struct Explicit {
    pub a: Mat<f64>,
    pub w: Mat<f64>,
    pub g: Mat<f64>,
}

impl Explicit {
    pub fn new(width: usize, alpha: f64) -> Self {
        let a = Mat::from_fn(width, width, |i, j| if i == j { alpha } else { 0.0 });
        Explicit { a, w: Mat::zeros(width, 1), g: Mat::zeros(width, 1) }
    }

    /// One round of a row with `phi`; the prediction.
    pub fn round(
        &mut self,
        phi: &Mat<f64>,
        y: f64,
        weight: f64,
        (loss, curvature, clip): (Loss, Curvature, Option<f64>),
    ) -> f64 {
        if phi.nrows() == 0 {
            return 0.0;
        }
        let inner = |a: &Mat<f64>, b: &Mat<f64>| (a.transpose() * b)[(0, 0)];
        let u = &self.w - spd_solve(&self.a, &self.g);
        let z = inner(phi, &u);
        let over = clip.map_or(0.0, |c| z.signum() * (z.abs() - c).max(0.0));
        let back = spd_solve(&self.a, phi);
        self.w = &u - faer::Scale(over / inner(phi, &back)) * back;
        let prediction = inner(phi, &self.w);
        let slope = weight * loss.slope(prediction, y);
        let c = weight * loss.step_curvature(curvature, prediction, y, clip).0;
        self.g = faer::Scale(slope) * phi;
        self.a = &self.a + faer::Scale(c) * (phi * phi.transpose());
        prediction
    }

    /// Takes the pending step, and moves into another embedding by the isometry `q`: w <- Q w, A <- Q A Q^T + alpha (I - Q Q^T).
    pub fn transport(&mut self, q: &Mat<f64>, alpha: f64) {
        let v = &self.w - spd_solve(&self.a, &self.g);
        let width = q.nrows();
        self.w = q * v;
        self.g = Mat::zeros(width, 1);
        let rest = Mat::from_fn(width, width, |i, j| if i == j { alpha } else { 0.0 })
            - faer::Scale(alpha) * (q * q.transpose());
        self.a = q * &self.a * q.transpose() + rest;
    }

    /// A <- keep A + (1 - keep) alpha I, the pending step taken before.
    pub fn forget(&mut self, keep: f64, alpha: f64) {
        self.w = &self.w - spd_solve(&self.a, &self.g);
        let width = self.w.nrows();
        self.g = Mat::zeros(width, 1);
        self.a =
            Mat::from_fn(width, width, |i, j| keep * self.a[(i, j)] + if i == j { (1.0 - keep) * alpha } else { 0.0 });
    }
}

/// The published embedding over the atoms: B = Sigma^-1/2 U^T, phi = B k_I.
pub(super) fn spectral_embedding(k: &Mat<f64>, atoms: &[usize]) -> Mat<f64> {
    let n = atoms.len();
    let kii = Mat::from_fn(n, n, |i, j| k[(atoms[i], atoms[j])]);
    let (values, vectors) = symmetric_eigen(kii.as_ref(), SEQUENTIAL).unwrap();
    Mat::from_fn(n, n, |i, j| vectors[(j, i)] / values[i].sqrt())
}

#[test]
fn fast_and_slow_ridge_agree() {
    let stream = Stream::smooth(1, 60, 3, 0.1);
    let k = stream.kernel_matrix(&Kernel::new(Family::Gaussian, 1.5));
    let (slow, fast) = (online_ridge_slow(&k, &stream.y, 0.3), online_ridge(&k, &stream.y, 0.3));
    assert!(apart(&slow, &fast) < 1e-11);
    // The prediction of the last row is that of ridge regression on the others.
    assert!(distance(&k, &k.transpose().to_owned()) == 0.0);
}
