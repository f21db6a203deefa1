//! The whole ridge path from one eigendecomposition (solvers section 7).
//!
//! With `R^T G R = V diag(s) V^T`, `T = R V` and `c = T^T K_nm^T W y`, at the matrix ridge `L = lambda sum w`:
//!
//! * coefficients `a = T c / (s + L)`; degrees of freedom `sum s / (s + L)`;
//! * residual sum of squares `y^T W y - sum c^2 (s + 2 L) / (s + L)^2`, by subtraction: for accuracy targets are centred;
//! * generalised cross-validation `(RSS / sum w) / (1 - df / n)^2` (Golub, Heath and Wahba 1979);
//! * squared error on other rows with sums (G', b', y'y'): `y'y' - 2 q.(T^T b') + q^T (T^T G' T) q`, `q = c / (s + L)`.

use super::{NystromError, Whitener, expect_finite, expect_shape};
use crate::dense::{self, SEQUENTIAL, fixed_parallelism, gemm};
use crate::gram::GramSums;
use faer::{Mat, MatRef};

/// Relative rounding of a residual sum of squares, as a share of the targets' sum of squares.
const RSS_ROUNDING: f64 = 16.0 * f64::EPSILON;

/// Pairs of ridge and target whose coefficients are held side by side: a budget of memory, not of the answer.
pub(super) const STACKED: usize = 64;

/// All ridge solutions of one problem.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::gram::GramSums;
/// use nystream_kernels::nystrom::{Criterion, RidgePath, WhitenMethod, Whitener};
/// // Two rows, one center with k = 1 and 0.5, targets 1 and 0.
/// let sums = GramSums {
///     gram: mat![[1.25]], cross: mat![[1.0]], target_squares: vec![1.0], target_sums: vec![1.0], weight_sum: 2.0, rows: 2,
/// };
/// let whitener = Whitener::new(mat![[1.0]].as_ref(), WhitenMethod::Eigen).unwrap();
/// let path = RidgePath::new(&sums, &whitener).unwrap();
/// let a = path.coefficients(0.5).unwrap();
/// assert!((a[(0, 0)].abs() - 1.0 / 2.25).abs() < 1e-15);
/// let choice = path.best(&[0.01, 0.1, 1.0], Criterion::Gcv).unwrap();
/// assert!(choice.index < 3);
/// ```
#[derive(Clone, Debug)]
pub struct RidgePath {
    /// T = R V, m x r, columns by falling s.
    pub(super) basis: Mat<f64>,
    /// s, falling, not negative.
    pub(super) values: Vec<f64>,
    /// c, r x t.
    pub(super) projections: Mat<f64>,
    /// Diagonal of R^T G R, before any rotation.
    coordinate_sums: Vec<f64>,
    target_squares: Vec<f64>,
    weight_sum: f64,
    rows: u64,
}

/// What [`RidgePath::best`] minimises, summed over the (scaled) targets.
#[derive(Clone, Copy, Debug)]
pub enum Criterion<'a> {
    /// Generalised cross-validation.
    Gcv,
    /// Mean squared error on rows with these sums, none of them in the path.
    HeldOut(&'a GramSums),
    /// Given errors, grid x t, as from [`fold_errors`].
    Errors(MatRef<'a, f64>),
}

/// The ridge that [`RidgePath::best`] chose.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Position in the grid.
    pub index: usize,
    /// The ridge per sample.
    pub lambda: f64,
    /// Its criterion, for each target.
    pub scores: Vec<f64>,
}

/// Predictive variance of the Nystrom model, from [`RidgePath::variance_factor`]: one basis serves every ridge.
#[derive(Clone, Debug)]
pub struct VarianceFactor<'a> {
    /// T, m x r.
    pub basis: MatRef<'a, f64>,
    /// `s / (s + L)` of each ridge, r x ridges.
    pub weights: Mat<f64>,
}

impl RidgePath {
    /// The path of the problem with these sums in the whitened basis.
    ///
    /// # Errors
    /// [`NystromError`] if shapes do not fit, sums are not finite, or the eigensolver fails.
    pub fn new(sums: &GramSums, whitener: &Whitener) -> Result<Self, NystromError> {
        let (m, t) = (whitener.centers(), sums.target_squares.len());
        expect_shape("K_nm^T W y", sums.cross.as_ref(), m, t)?;
        expect_finite("K_nm^T W K_nm", sums.gram.as_ref())?;
        expect_finite("K_nm^T W y", sums.cross.as_ref())?;
        let whitened = whitener.congruence(sums.gram.as_ref())?;
        let (rising, rotation) = dense::symmetric_eigen(whitened.as_ref(), fixed_parallelism())?;
        let rank = rising.len();
        let falling = Mat::from_fn(rank, rank, |i, j| rotation[(i, rank - 1 - j)]);
        let basis = whitener.apply(falling.as_ref())?;
        let mut projections = Mat::zeros(rank, t);
        let whitened_cross = whitener.apply_transpose(sums.cross.as_ref())?;
        let rotate = falling.as_ref().transpose();
        gemm(projections.as_mut(), false, 1.0, rotate, whitened_cross.as_ref(), fixed_parallelism());
        Ok(RidgePath {
            basis,
            values: rising.into_iter().rev().map(|s| s.max(0.0)).collect(),
            projections,
            coordinate_sums: (0..rank).map(|j| whitened[(j, j)]).collect(),
            target_squares: sums.target_squares.clone(),
            weight_sum: sums.weight_sum,
            rows: sums.rows,
        })
    }

    /// Eigenvalues s of the whitened Gram matrix, falling: those of `K~ W` that are not zero.
    pub fn eigenvalues(&self) -> &[f64] {
        &self.values
    }

    /// `tr(R^T G R)`, the (weighted) trace of the approximate kernel matrix.
    pub fn trace(&self) -> f64 {
        self.values.iter().rev().sum()
    }

    /// `sum_i w_i f_ij^2` of each whitened coordinate j, r of them: their sum is the trace.
    pub fn coordinate_sums(&self) -> &[f64] {
        &self.coordinate_sums
    }

    /// `lambda sum w`.
    pub fn matrix_ridge(&self, lambda: f64) -> f64 {
        lambda * self.weight_sum
    }

    /// Coefficients of the centers, m x t. At ridge 0 directions below working precision get no weight.
    ///
    /// # Errors
    /// [`NystromError::Ridge`] for a negative or non-finite ridge.
    pub fn coefficients(&self, lambda: f64) -> Result<Mat<f64>, NystromError> {
        let q = self.shrunk(lambda)?;
        let mut out = Mat::zeros(self.basis.nrows(), q.ncols());
        gemm(out.as_mut(), false, 1.0, self.basis.as_ref(), q.as_ref(), fixed_parallelism());
        Ok(out)
    }

    /// |a|^2 of every target's coefficients at every ridge of `grid` (grid x t): products of the basis with 64 columns of coefficients, since one
    /// column at a time reads the basis for each.
    ///
    /// # Errors
    /// [`NystromError::Ridge`].
    pub fn coefficient_squares(&self, grid: &[f64]) -> Result<Mat<f64>, NystromError> {
        let (m, t) = (self.basis.nrows(), self.projections.ncols());
        let mut squares = Mat::zeros(grid.len(), t);
        let places: Vec<(usize, usize)> = (0..grid.len()).flat_map(|at| (0..t).map(move |j| (at, j))).collect();
        let inverses: Vec<Vec<f64>> =
            grid.iter().map(|lambda| self.inverses(self.matrix_ridge(*lambda))).collect::<Result<_, _>>()?;
        for places in places.chunks(STACKED) {
            let shrunk = |i: usize, c: usize| self.projections[(i, places[c].1)] * inverses[places[c].0][i];
            let q = Mat::from_fn(self.values.len(), places.len(), shrunk);
            let mut alpha = Mat::zeros(m, places.len());
            gemm(alpha.as_mut(), false, 1.0, self.basis.as_ref(), q.as_ref(), fixed_parallelism());
            for (c, &place) in places.iter().enumerate() {
                squares[place] = alpha.col_as_slice(c).iter().map(|a| a * a).sum();
            }
        }
        Ok(squares)
    }

    /// Effective dimension `sum s / (s + matrix_ridge)` of the approximate kernel.
    ///
    /// # Errors
    /// [`NystromError::Ridge`].
    pub fn effective_dimension(&self, matrix_ridge: f64) -> Result<f64, NystromError> {
        Ok(self.values.iter().zip(self.inverses(matrix_ridge)?).map(|(s, inverse)| s * inverse).sum())
    }

    /// Degrees of freedom: the trace of the hat matrix.
    ///
    /// # Errors
    /// [`NystromError::Ridge`].
    pub fn degrees_of_freedom(&self, lambda: f64) -> Result<f64, NystromError> {
        self.effective_dimension(self.matrix_ridge(lambda))
    }

    /// Weighted residual sum of squares of each target; not negative.
    ///
    /// # Errors
    /// [`NystromError::Ridge`].
    pub fn rss(&self, lambda: f64) -> Result<Vec<f64>, NystromError> {
        let ridge = self.matrix_ridge(lambda);
        let inverses = self.inverses(ridge)?;
        let explained = |target: usize| -> f64 {
            let terms = self.values.iter().zip(&inverses).enumerate();
            terms.map(|(i, (s, v))| (self.projections[(i, target)] * v).powi(2) * (s + 2.0 * ridge)).sum()
        };
        Ok(self.target_squares.iter().enumerate().map(|(target, yy)| (yy - explained(target)).max(0.0)).collect())
    }

    /// Generalised cross-validation of each target; infinite where the degrees of freedom reach the rows.
    ///
    /// # Errors
    /// [`NystromError::Ridge`].
    pub fn gcv(&self, lambda: f64) -> Result<Vec<f64>, NystromError> {
        let left = 1.0 - self.degrees_of_freedom(lambda)? / self.rows as f64;
        // A difference of sums: what is left of it below their rounding is not known to be zero.
        let known = |(rss, squares): (f64, &f64)| rss.max(RSS_ROUNDING * squares);
        let score = |rss: f64| if left > 0.0 { rss / self.weight_sum / (left * left) } else { f64::INFINITY };
        Ok(self.rss(lambda)?.into_iter().zip(&self.target_squares).map(known).map(score).collect())
    }

    /// Mean squared errors (weighted, grid x t) on rows that the path has not seen, given their sums.
    ///
    /// # Errors
    /// [`NystromError`] for bad ridges or shapes.
    pub fn held_out_errors(&self, held_out: &GramSums, grid: &[f64]) -> Result<Mat<f64>, NystromError> {
        let mut errors = self.squared_errors(held_out, grid)?;
        for j in 0..errors.ncols() {
            for i in 0..errors.nrows() {
                errors[(i, j)] /= held_out.weight_sum;
            }
        }
        Ok(errors)
    }

    /// The ridge of the grid with the least criterion, summed over targets; of equals the largest ridge.
    ///
    /// # Errors
    /// [`NystromError::NoCandidate`] for an empty grid or no finite score; [`NystromError`] for bad ridges or shapes.
    pub fn best(&self, grid: &[f64], criterion: Criterion<'_>) -> Result<Choice, NystromError> {
        let t = self.target_squares.len();
        let scores: Vec<Vec<f64>> = match criterion {
            Criterion::Gcv => grid.iter().map(|&lambda| self.gcv(lambda)).collect::<Result<_, _>>()?,
            Criterion::HeldOut(sums) => rows_of(self.held_out_errors(sums, grid)?.as_ref()),
            Criterion::Errors(errors) => {
                expect_shape("errors", errors, grid.len(), t)?;
                rows_of(errors)
            }
        };
        let mut best: Option<(f64, usize)> = None;
        for (index, scores) in scores.iter().enumerate() {
            let total: f64 = scores.iter().sum();
            let better = |&(least, at): &(f64, usize)| total < least || total == least && grid[index] > grid[at];
            if total.is_finite() && best.as_ref().is_none_or(better) {
                best = Some((total, index));
            }
        }
        let (_, index) = best.ok_or(NystromError::NoCandidate { candidates: grid.len() })?;
        Ok(Choice { index, lambda: grid[index], scores: scores[index].clone() })
    }

    /// The factor of the predictive variance at each of these ridges.
    ///
    /// # Errors
    /// [`NystromError::Ridge`].
    pub fn variance_factor(&self, lambdas: &[f64]) -> Result<VarianceFactor<'_>, NystromError> {
        let mut weights = Mat::zeros(self.values.len(), lambdas.len());
        for (j, lambda) in lambdas.iter().enumerate() {
            let inverses = self.inverses(self.matrix_ridge(*lambda))?;
            self.values.iter().zip(inverses).enumerate().for_each(|(i, (s, v))| weights[(i, j)] = s * v);
        }
        Ok(VarianceFactor { basis: self.basis.as_ref(), weights })
    }

    /// 1 / (s + ridge), or 0 where that is not a number of working precision.
    pub(super) fn inverses(&self, ridge: f64) -> Result<Vec<f64>, NystromError> {
        if !(ridge >= 0.0 && ridge.is_finite()) {
            return Err(NystromError::Ridge { value: ridge });
        }
        let largest = self.values.first().copied().unwrap_or(0.0);
        let noise = if ridge > 0.0 { 0.0 } else { self.values.len() as f64 * f64::EPSILON * largest };
        Ok(self.values.iter().map(|s| if s + ridge > noise { 1.0 / (s + ridge) } else { 0.0 }).collect())
    }

    /// q = c / (s + L), r x t.
    pub(super) fn shrunk(&self, lambda: f64) -> Result<Mat<f64>, NystromError> {
        let inverses = self.inverses(self.matrix_ridge(lambda))?;
        Ok(Mat::from_fn(self.projections.nrows(), self.projections.ncols(), |i, j| {
            self.projections[(i, j)] * inverses[i]
        }))
    }

    fn squared_errors(&self, other: &GramSums, grid: &[f64]) -> Result<Mat<f64>, NystromError> {
        let (m, r, t) = (self.basis.nrows(), self.values.len(), self.target_squares.len());
        expect_shape("held-out K_nm^T W K_nm", other.gram.as_ref(), m, m)?;
        expect_shape("held-out K_nm^T W y", other.cross.as_ref(), m, t)?;
        let transpose = self.basis.as_ref().transpose();
        let mut half = Mat::zeros(m, r);
        gemm(half.as_mut(), false, 1.0, other.gram.as_ref(), self.basis.as_ref(), fixed_parallelism());
        let mut gram = Mat::zeros(r, r);
        gemm(gram.as_mut(), false, 1.0, transpose, half.as_ref(), fixed_parallelism());
        let mut cross = Mat::zeros(r, t);
        gemm(cross.as_mut(), false, 1.0, transpose, other.cross.as_ref(), fixed_parallelism());
        let mut errors = Mat::zeros(grid.len(), t);
        for (at, &lambda) in grid.iter().enumerate() {
            let q = self.shrunk(lambda)?;
            let mut gq = Mat::zeros(r, t);
            gemm(gq.as_mut(), false, 1.0, gram.as_ref(), q.as_ref(), fixed_parallelism());
            for target in 0..t {
                let change: f64 = (0..r).map(|i| q[(i, target)] * (gq[(i, target)] - 2.0 * cross[(i, target)])).sum();
                errors[(at, target)] = (other.target_squares[target] + change).max(0.0);
            }
        }
        Ok(errors)
    }
}

impl VarianceFactor<'_> {
    /// Predictive variances of the latent function in units of the kernel (rows x ridges), for rows with kernel entries `k_bm` (B x m) and
    /// `diagonal` k(x, x): `k(x, x) - sum_i weights_i (T^T k_m(x))_i^2`, clamped at 0 (the deterministic training conditional with its full
    /// diagonal: Quinonero-Candela and Rasmussen, JMLR 2005, with noise variance equal to the matrix ridge). Sequential, for use inside workers.
    ///
    /// # Errors
    /// [`NystromError::Shape`].
    pub fn variances(&self, k_bm: MatRef<'_, f64>, diagonal: &[f64]) -> Result<Mat<f64>, NystromError> {
        expect_shape("kernel block", k_bm, diagonal.len(), self.basis.nrows())?;
        let mut z = Mat::zeros(diagonal.len(), self.basis.ncols());
        gemm(z.as_mut(), false, 1.0, k_bm, self.basis, SEQUENTIAL);
        let explained =
            |i: usize, j: usize| -> f64 { (0..z.ncols()).map(|c| self.weights[(c, j)] * z[(i, c)] * z[(i, c)]).sum() };
        Ok(Mat::from_fn(diagonal.len(), self.weights.ncols(), |i, j| (diagonal[i] - explained(i, j)).max(0.0)))
    }
}

/// Exact K-fold cross-validation without another pass: mean squared errors (grid x t, weighted over all rows) of each fold under the
/// path of the other folds. `folds` hold the sums of disjoint sets of rows, `total` those of all. Costs one path per fold.
///
/// # Errors
/// [`NystromError`] as [`RidgePath::new`].
pub fn fold_errors(
    total: &GramSums,
    folds: &[GramSums],
    whitener: &Whitener,
    grid: &[f64],
) -> Result<Mat<f64>, NystromError> {
    let mut errors: Mat<f64> = Mat::zeros(grid.len(), total.target_squares.len());
    let mut weight = 0.0;
    for fold in folds {
        expect_shape("fold", fold.gram.as_ref(), total.gram.nrows(), total.gram.ncols())?;
        let path = RidgePath::new(&total.without(fold), whitener)?;
        errors += path.squared_errors(fold, grid)?;
        weight += fold.weight_sum;
    }
    Ok(Mat::from_fn(errors.nrows(), errors.ncols(), |i, j| errors[(i, j)] / weight))
}

/// The true relative residual `|K_nm^T W (y - K_nm a) - lambda sum w K_mm a| / |K_nm^T W y|` of each column of `a` (m x t); 0 when both vanish.
///
/// # Errors
/// [`NystromError::Shape`].
pub fn normal_residual(
    sums: &GramSums,
    k_mm: MatRef<'_, f64>,
    lambda: f64,
    a: MatRef<'_, f64>,
) -> Result<Vec<f64>, NystromError> {
    let residual = normal_residual_vectors(sums, k_mm, lambda, a)?;
    Ok(relative_norms(residual.as_ref(), sums.cross.as_ref()))
}

/// The whitened form of [`normal_residual`]: both vectors under `R^T`.
///
/// # Errors
/// [`NystromError::Shape`].
pub fn whitened_residual(
    sums: &GramSums,
    k_mm: MatRef<'_, f64>,
    lambda: f64,
    a: MatRef<'_, f64>,
    whitener: &Whitener,
) -> Result<Vec<f64>, NystromError> {
    let residual = whitener.apply_transpose(normal_residual_vectors(sums, k_mm, lambda, a)?.as_ref())?;
    Ok(relative_norms(residual.as_ref(), whitener.apply_transpose(sums.cross.as_ref())?.as_ref()))
}

fn normal_residual_vectors(
    sums: &GramSums,
    k_mm: MatRef<'_, f64>,
    lambda: f64,
    a: MatRef<'_, f64>,
) -> Result<Mat<f64>, NystromError> {
    let (m, t) = (sums.gram.nrows(), sums.cross.ncols());
    expect_shape("K_mm", k_mm, m, m)?;
    expect_shape("coefficients", a, m, t)?;
    let mut residual = sums.cross.clone();
    gemm(residual.as_mut(), true, -1.0, sums.gram.as_ref(), a, fixed_parallelism());
    gemm(residual.as_mut(), true, -lambda * sums.weight_sum, k_mm, a, fixed_parallelism());
    Ok(residual)
}

fn relative_norms(residual: MatRef<'_, f64>, reference: MatRef<'_, f64>) -> Vec<f64> {
    let norm = |a: MatRef<'_, f64>, j: usize| (0..a.nrows()).map(|i| a[(i, j)] * a[(i, j)]).sum::<f64>().sqrt();
    let ratio = |j| {
        let (r, b) = (norm(residual, j), norm(reference, j));
        if r == 0.0 { 0.0 } else { r / b }
    };
    (0..residual.ncols()).map(ratio).collect()
}

fn rows_of(a: MatRef<'_, f64>) -> Vec<Vec<f64>> {
    (0..a.nrows()).map(|i| (0..a.ncols()).map(|j| a[(i, j)]).collect()).collect()
}
