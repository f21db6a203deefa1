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
//! All sums over the basis are products of a block by the inverses or the coefficients of many ridges side by side.
//!
//! Cost: 2 m r flops a row for its projection, then 2 r (1 + t) for each ridge and row, and 2 r (2 + t) more where the row is a center. Beside the projected
//! block one matrix of its size, and 1 KiB for each of the r directions ([`STACKED`]).

use super::path::STACKED;
use super::{NystromError, RidgePath, expect_shape};
use crate::dense::{fixed_parallelism, gemm};
use faer::{ColRef, Mat, MatRef};

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
    /// Rows that are centers, with them.
    tied: Vec<(usize, usize)>,
    /// The place of each row among these.
    place: Vec<Option<usize>>,
}

/// One target at one ridge.
#[derive(Clone, Copy)]
struct Column {
    lambda: f64,
    target: usize,
}

/// A projected block at several columns.
struct AtRidges<'a> {
    projected: &'a Projected<'a>,
    /// The ridge of each column.
    ridges: Vec<usize>,
    /// k^T A k, B x ridges; then k^T K_mm^-1 k.
    images: Mat<f64>,
    /// y - k^T alpha, B x columns.
    residuals: Mat<f64>,
    /// k^T A e_c of the rows that are centers, tied x ridges.
    crosses: Mat<f64>,
    /// A_cc, tied x ridges; then (K_mm^-1)_cc.
    owns: Mat<f64>,
    /// alpha_c, tied x columns.
    alpha: Mat<f64>,
}

fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    gemm(out.as_mut(), false, 1.0, a, b, fixed_parallelism());
    out
}

impl<'a> Projected<'a> {
    fn new(path: &'a RidgePath, block: Block<'a>) -> Result<Self, NystromError> {
        let b = block.entries.nrows();
        expect_shape("kernel block", block.entries, b, path.basis.nrows())?;
        expect_shape("targets", block.targets, b, path.projections.ncols())?;
        let z = product(block.entries, path.basis.as_ref());
        let (mut tied, mut place) = (Vec::new(), vec![None; b]);
        for (i, center) in block.own.iter().enumerate().filter_map(|(i, c)| c.map(|c| (i, c))) {
            place[i] = Some(tied.len());
            tied.push((i, center));
        }
        Ok(Projected { path, block, z, tied, place })
    }

    fn rows(&self) -> usize {
        self.z.nrows()
    }

    fn weight(&self, i: usize) -> f64 {
        self.block.sqrt_weights.map_or(1.0, |roots| roots[i] * roots[i])
    }

    /// Columns with one ridge should be next to each other, and at most [`STACKED`].
    fn at(&'a self, columns: &[Column]) -> Result<AtRidges<'a>, NystromError> {
        let (path, z, basis) = (self.path, self.z.as_ref(), self.path.basis.as_ref());
        let (b, rank) = (z.nrows(), z.ncols());
        let mut lambdas: Vec<f64> = Vec::new();
        let mut ridges = Vec::with_capacity(columns.len());
        for column in columns {
            if lambdas.last() != Some(&column.lambda) {
                lambdas.push(column.lambda);
            }
            ridges.push(lambdas.len() - 1);
        }
        // The last one is K_mm^-1 = T T^T, which has no ridge.
        let mut inverses = Mat::from_fn(rank, lambdas.len() + 1, |_, _| 1.0);
        for (at, lambda) in lambdas.iter().enumerate() {
            inverses.col_as_slice_mut(at).copy_from_slice(&path.inverses(path.matrix_ridge(*lambda))?);
        }
        let shrunk = |i: usize, j: usize| path.projections[(i, columns[j].target)] * inverses[(i, ridges[j])];
        let q = Mat::from_fn(rank, columns.len(), shrunk);
        let mut residuals = Mat::from_fn(b, columns.len(), |i, j| self.block.targets[(i, columns[j].target)]);
        gemm(residuals.as_mut(), true, -1.0, z, q.as_ref(), fixed_parallelism());
        let mut work = Mat::from_fn(b, rank, |i, j| z[(i, j)] * z[(i, j)]);
        let images = product(work.as_ref(), inverses.as_ref());
        // Rows of a column-major basis: column by column, and once for all ridges, since one row at a time misses the cache at every number.
        let mut gathered = |value: &dyn Fn(f64, f64) -> f64, by: MatRef<'_, f64>| {
            let mut work = work.as_mut().subrows_mut(0, self.tied.len());
            for j in 0..rank {
                for (at, (i, center)) in self.tied.iter().enumerate() {
                    work[(at, j)] = value(z[(*i, j)], basis[(*center, j)]);
                }
            }
            product(work.as_ref(), by)
        };
        let crosses = gathered(&|z, t| z * t, inverses.as_ref().subcols(0, lambdas.len()));
        let owns = gathered(&|_, t| t * t, inverses.as_ref());
        let alpha = gathered(&|_, t| t, q.as_ref());
        Ok(AtRidges { projected: self, ridges, images, residuals, crosses, owns, alpha })
    }
}

/// What ties a row to its center, at one column.
struct Tied {
    cross: f64,
    own: f64,
    alpha: f64,
    /// (K_mm^-1)_cc.
    precision: f64,
}

impl AtRidges<'_> {
    /// 1 - h of row i.
    fn left(&self, i: usize, column: usize) -> f64 {
        1.0 - self.projected.weight(i) * self.images[(i, self.ridges[column])]
    }

    fn tied(&self, i: usize, column: usize) -> Option<Tied> {
        let (at, ridge) = (self.projected.place[i]?, self.ridges[column]);
        let (cross, own) = (self.crosses[(at, ridge)], self.owns[(at, ridge)]);
        let precision = self.owns[(at, self.owns.ncols() - 1)];
        // A center outside the span of the basis carries no weight and changes nothing.
        (own > 0.0).then(|| Tied { cross, own, alpha: self.alpha[(at, column)], precision })
    }

    fn residual(&self, i: usize, column: usize) -> f64 {
        let (w, left) = (self.projected.weight(i), self.left(i, column));
        if left <= 0.0 {
            return f64::INFINITY;
        }
        let r = self.residuals[(i, column)] / left;
        let more = self
            .tied(i, column)
            .map_or(0.0, |Tied { cross: g, own, alpha, .. }| g / left * (alpha - w * g * r) / (own + w * g * g / left));
        r + more
    }

    /// At the matrix ridge `ridge`.
    fn latent(&self, i: usize, column: usize, ridge: f64, diagonal: f64) -> f64 {
        let (w, left) = (self.projected.weight(i), self.left(i, column));
        if left <= 0.0 {
            return diagonal;
        }
        let image = self.images[(i, self.ridges[column])] / left;
        let variance = match self.tied(i, column) {
            None => diagonal - self.images[(i, self.images.ncols() - 1)] + ridge * image,
            Some(Tied { cross: g, own, precision, .. }) => {
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
        let b = projected.rows();
        let (mut leverages, mut residuals) = (Vec::new(), Mat::zeros(b, y.ncols()));
        let columns: Vec<Column> = (0..y.ncols()).map(|target| Column { lambda, target }).collect();
        for columns in columns.chunks(STACKED) {
            let rows = projected.at(columns)?;
            for (j, column) in columns.iter().enumerate() {
                (0..b).for_each(|i| residuals[(i, column.target)] = rows.residual(i, j));
            }
            leverages = (0..b).map(|i| projected.weight(i) * rows.images[(i, 0)]).collect();
        }
        Ok(LeaveOneOut { leverages, residuals })
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
        let columns: Vec<(usize, usize)> =
            (0..grid.len()).flat_map(|at| (0..t).map(move |target| (at, target))).collect();
        for places in columns.chunks(STACKED) {
            let columns: Vec<Column> = places.iter().map(|&(at, target)| Column { lambda: grid[at], target }).collect();
            let rows = projected.at(&columns)?;
            for (j, &place) in places.iter().enumerate() {
                let square = |i: usize| match rows.residual(i, j) {
                    r if r.is_infinite() => f64::INFINITY,
                    r => projected.weight(i) * r.powi(2),
                };
                errors[place] = (0..b).map(square).sum::<f64>() / total;
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
        let columns: Vec<Column> =
            lambdas.iter().enumerate().map(|(target, &lambda)| Column { lambda, target }).collect();
        let mut all = Vec::with_capacity(lambdas.len());
        for columns in columns.chunks(STACKED) {
            let rows = projected.at(columns)?;
            for (j, column) in columns.iter().enumerate() {
                let ridge = self.matrix_ridge(column.lambda);
                all.push(LeftOut {
                    residuals: (0..b).map(|i| rows.residual(i, j)).collect(),
                    latents: (0..b).map(|i| rows.latent(i, j, ridge, diagonal[i])).collect(),
                });
            }
        }
        Ok(all)
    }
}
