//! What a model would say of training rows that it had not seen, from the path of the model that saw them.
//!
//! The matrix ridge L is held when a row is left out. Where the row is a center too, row and center are left out together: a new row is no
//! center, and a basis function whose row is gone is held by the ridge alone, which would speak for too large a ridge (protein, m = 4,000:
//! by a factor of 5).
//!
//! With A = (K_nm^T W K_nm + L K_mm)^-1, k the entries of the row with the centers, h = w k^T A k, r = y - k^T alpha and g = k^T A e_c, leaving
//! the row out is a rank-one change, A' = A + w A k k^T A / (1 - h), and leaving center c out the linear constraint alpha'_c = 0:
//!
//! * residual `r/(1-h)`, and with the center `r/(1-h) + g/(1-h) alpha'_c / A'_cc`, `alpha'_c = alpha_c - w g r/(1-h)`, `A'_cc = A_cc + w g^2/(1-h)`;
//! * latent variance `k(x, x) - k^T K_mm^-1 k + L k^T A' k`, `k^T A' k = k^T A k / (1-h)`, and with the center
//!   `1/(K_mm^-1)_cc + L (k^T A' k - (g/(1-h))^2 / A'_cc)`: the first term is the Schur complement of K_mm without c.
//!
//! Cost: 2 m r flops a row for its projection, then r for each ridge and row.

use super::{NystromError, RidgePath, expect_shape};
use crate::dense::{fixed_parallelism, gemm};
use faer::{ColRef, Mat, MatRef};
use std::collections::BTreeMap;

/// What leaving each row out would do, from [`RidgePath::leave_one_out`].
#[derive(Clone, Debug, PartialEq)]
pub struct LeaveOneOut {
    /// Diagonal of the hat matrix for each row of the block, in [0, 1].
    pub leverages: Vec<f64>,
    /// `y_i - f_without_i(x_i)`, B x t.
    pub residuals: Mat<f64>,
}

/// A block of B training rows to be left out one at a time.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Kernel entries with the centers, B x m.
    pub entries: MatRef<'a, f64>,
    /// Targets, B x t.
    pub targets: MatRef<'a, f64>,
    /// Roots of the weights relative to the largest; `None` when all are one.
    pub sqrt_weights: Option<&'a [f64]>,
    /// The center that a row is, where it is one.
    pub own: &'a [Option<usize>],
}

/// What a model without each row of a block says of it, for one target; from [`RidgePath::left_out`].
#[derive(Clone, Debug, PartialEq)]
pub struct LeftOut {
    /// `y_i - f_without_i(x_i)`; infinite where the row's leverage is 1 to working precision.
    pub residuals: Vec<f64>,
    /// Variance of the latent function at the row, in units of the kernel; not negative.
    pub latents: Vec<f64>,
}

/// A block projected on the basis of the path.
struct Projected<'a> {
    path: &'a RidgePath,
    block: Block<'a>,
    /// K_bm T, B x r.
    z: Mat<f64>,
}

/// A projected block at one ridge.
struct AtRidge<'a> {
    projected: &'a Projected<'a>,
    /// k^T A k of each row.
    images: Vec<f64>,
    /// y - k^T alpha, B x t.
    residuals: Mat<f64>,
    alpha: Mat<f64>,
    /// (c, g, A_cc) of the rows that are centers.
    tied: BTreeMap<usize, Tied>,
}

#[derive(Clone, Copy)]
struct Tied {
    center: usize,
    cross: f64,
    own: f64,
}

impl<'a> Projected<'a> {
    fn new(path: &'a RidgePath, block: Block<'a>) -> Result<Self, NystromError> {
        let b = block.entries.nrows();
        expect_shape("kernel block", block.entries, b, path.basis.nrows())?;
        expect_shape("targets", block.targets, b, path.projections.ncols())?;
        let mut z = Mat::zeros(b, path.values.len());
        gemm(z.as_mut(), false, 1.0, block.entries, path.basis.as_ref(), fixed_parallelism());
        Ok(Projected { path, block, z })
    }

    fn rows(&self) -> usize {
        self.z.nrows()
    }

    fn weight(&self, i: usize) -> f64 {
        self.block.sqrt_weights.map_or(1.0, |roots| roots[i] * roots[i])
    }

    fn at(&'a self, lambda: f64) -> Result<AtRidge<'a>, NystromError> {
        let (path, z) = (self.path, &self.z);
        let inverses = path.inverses(path.matrix_ridge(lambda))?;
        let mut images = vec![0.0; self.rows()];
        for (j, v) in inverses.iter().enumerate() {
            images.iter_mut().zip(z.col_as_slice(j)).for_each(|(a, z)| *a += z * z * v);
        }
        let mut residuals = self.block.targets.to_owned();
        let q = path.shrunk(lambda)?;
        gemm(residuals.as_mut(), true, -1.0, z.as_ref(), q.as_ref(), fixed_parallelism());
        let centers = || self.block.own.iter().enumerate().filter_map(|(i, c)| c.map(|c| (i, c)));
        let alpha = if centers().next().is_none() { Mat::zeros(0, q.ncols()) } else { path.coefficients(lambda)? };
        let mut tied = BTreeMap::new();
        for (i, center) in centers() {
            let (mut cross, mut own) = (0.0, 0.0);
            for (j, v) in inverses.iter().enumerate() {
                cross += z[(i, j)] * v * path.basis[(center, j)];
                own += path.basis[(center, j)] * v * path.basis[(center, j)];
            }
            // A center outside the span of the basis carries no weight and changes nothing.
            if own > 0.0 {
                tied.insert(i, Tied { center, cross, own });
            }
        }
        Ok(AtRidge { projected: self, images, residuals, alpha, tied })
    }
}

impl AtRidge<'_> {
    /// 1 - h of row i.
    fn left(&self, i: usize) -> f64 {
        1.0 - self.projected.weight(i) * self.images[i]
    }

    fn residual(&self, i: usize, target: usize) -> f64 {
        let (w, left) = (self.projected.weight(i), self.left(i));
        if left <= 0.0 {
            return f64::INFINITY;
        }
        let r = self.residuals[(i, target)] / left;
        let more = self.tied.get(&i).map_or(0.0, |Tied { center, cross: g, own }| {
            g / left * (self.alpha[(*center, target)] - w * g * r) / (own + w * g * g / left)
        });
        r + more
    }

    /// `explained` is k^T K_mm^-1 k.
    fn latent(&self, i: usize, ridge: f64, diagonal: f64, explained: f64) -> f64 {
        let (w, left) = (self.projected.weight(i), self.left(i));
        if left <= 0.0 {
            return diagonal;
        }
        let image = self.images[i] / left;
        let variance = match self.tied.get(&i) {
            None => diagonal - explained + ridge * image,
            Some(Tied { center, cross: g, own }) => {
                let basis = &self.projected.path.basis;
                let precision: f64 = (0..basis.ncols()).map(|j| basis[(*center, j)].powi(2)).sum();
                1.0 / precision + ridge * (image - (g / left).powi(2) / (own + w * g * g / left)).max(0.0)
            }
        };
        variance.clamp(0.0, diagonal)
    }
}

impl RidgePath {
    /// Leverages and leave-one-out residuals of a block of training rows: kernel entries `k_bm` (B x m), targets `y` (B x t), roots
    /// of relative weights. The matrix ridge is held when a row is left out, and no center is.
    ///
    /// # Errors
    /// [`NystromError`] for bad ridges or shapes.
    pub fn leave_one_out(
        &self,
        k_bm: MatRef<'_, f64>,
        y: MatRef<'_, f64>,
        sqrt_weights: Option<&[f64]>,
        lambda: f64,
    ) -> Result<LeaveOneOut, NystromError> {
        let projected = Projected::new(self, Block { entries: k_bm, targets: y, sqrt_weights, own: &[] })?;
        let rows = projected.at(lambda)?;
        Ok(LeaveOneOut {
            leverages: (0..projected.rows()).map(|i| projected.weight(i) * rows.images[i]).collect(),
            residuals: Mat::from_fn(projected.rows(), y.ncols(), |i, target| rows.residual(i, target)),
        })
    }

    /// Mean squared leave-one-out errors of a block of training rows (grid x t, weighted) for every ridge of `grid`, the block projected
    /// once; rows that are centers go with their centers. A row whose leverage is 1 to working precision is predicted by itself alone: its error is
    /// infinite. Unlike generalised cross-validation this sees single rows of high leverage.
    ///
    /// # Errors
    /// [`NystromError`] for bad ridges or shapes.
    pub fn leave_one_out_errors(&self, block: Block<'_>, grid: &[f64]) -> Result<Mat<f64>, NystromError> {
        let projected = Projected::new(self, block)?;
        let (b, t) = (projected.rows(), self.projections.ncols());
        let total: f64 = (0..b).map(|i| projected.weight(i)).sum();
        let mut errors = Mat::zeros(grid.len(), t);
        for (at, &lambda) in grid.iter().enumerate() {
            let rows = projected.at(lambda)?;
            for target in 0..t {
                let square = |i: usize| match rows.residual(i, target) {
                    r if r.is_infinite() => f64::INFINITY,
                    r => projected.weight(i) * r.powi(2),
                };
                errors[(at, target)] = (0..b).map(square).sum::<f64>() / total;
            }
        }
        Ok(errors)
    }

    /// What the model says of each row of a block (whose `diagonal` holds k(x, x)) when it has not seen it, target j at the ridge `lambdas[j]`:
    /// residual and latent variance, the figures by which variances are calibrated ([`LeftOutRows`](super::LeftOutRows)).
    ///
    /// # Errors
    /// [`NystromError`] for bad ridges or shapes.
    pub fn left_out(&self, block: Block<'_>, diagonal: &[f64], lambdas: &[f64]) -> Result<Vec<LeftOut>, NystromError> {
        let projected = Projected::new(self, block)?;
        let b = projected.rows();
        let diagonal = ColRef::from_slice(diagonal);
        expect_shape("k(x, x)", diagonal.as_mat(), b, 1)?;
        expect_shape("ridges, one a target", ColRef::from_slice(lambdas).as_mat(), self.projections.ncols(), 1)?;
        let mut explained = vec![0.0; b];
        for j in 0..self.values.len() {
            explained.iter_mut().zip(projected.z.col_as_slice(j)).for_each(|(sum, z)| *sum += z * z);
        }
        let mut known: Option<(f64, AtRidge<'_>)> = None;
        let mut all = Vec::with_capacity(lambdas.len());
        for (target, &lambda) in lambdas.iter().enumerate() {
            let rows = match known.take() {
                Some((same, rows)) if same == lambda => rows,
                _ => projected.at(lambda)?,
            };
            let ridge = self.matrix_ridge(lambda);
            all.push(LeftOut {
                residuals: (0..b).map(|i| rows.residual(i, target)).collect(),
                latents: (0..b).map(|i| rows.latent(i, ridge, diagonal[i], explained[i])).collect(),
            });
            known = Some((lambda, rows));
        }
        Ok(all)
    }
}
