//! From values at the centers to coefficients: K_ZZ theta = h, exactly or by an inner EigenPro.

use super::super::SolveError;
use super::super::vectors::product;
use super::preconditioner::{Measured, SubsamplePreconditioner};
use crate::dense::{DenseError, cholesky, fixed_parallelism, solve_lower, solve_lower_transpose};
use faer::{Mat, MatRef};
use std::convert::Infallible;
use std::marker::PhantomData;
use std::ops::Range;

/// K_ZZ, as the projection step needs it.
pub trait Projector {
    /// What a pass over the centers can fail with.
    type Error;
    /// theta with K_ZZ theta close to h (both m x t), and what is left, h - K_ZZ theta. What is left is carried into the next
    /// projection, never dropped.
    fn project(&mut self, h: MatRef<'_, f64>) -> Result<(Mat<f64>, Mat<f64>), Self::Error>;
    /// K_ZZ alpha.
    fn center_gram(&mut self, alpha: MatRef<'_, f64>) -> Result<Mat<f64>, Self::Error>;
}

/// Exact projection with a stored f64 Cholesky factor, wherever m^2 fits.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::solve::eigenpro::{CholeskyProjector, Projector};
/// let mut projector: CholeskyProjector = CholeskyProjector::new(mat![[2.0, 0.0], [1.0, 2.0]]).unwrap();
/// let (theta, left) = projector.project(mat![[3.0], [3.0]].as_ref()).unwrap();
/// assert!((theta[(0, 0)] - 1.0).abs() < 1e-14 && (theta[(1, 0)] - 1.0).abs() < 1e-14);
/// assert_eq!(left, mat![[0.0], [0.0]]);
/// ```
#[derive(Clone, Debug)]
pub struct CholeskyProjector<E = Infallible> {
    factor: Mat<f64>,
    error: PhantomData<fn() -> E>,
}

impl<E> CholeskyProjector<E> {
    /// Factors K_ZZ (m x m, its lower triangle is read): m^3/3 flops.
    ///
    /// # Errors
    /// [`DenseError::NonPositivePivot`]: centers are dependent to working precision; nothing is added to the diagonal.
    pub fn new(mut k_zz: Mat<f64>) -> Result<Self, DenseError> {
        cholesky(k_zz.as_mut(), fixed_parallelism())?;
        Ok(CholeskyProjector { factor: k_zz, error: PhantomData })
    }
}

impl<E> Projector for CholeskyProjector<E> {
    type Error = E;

    fn project(&mut self, h: MatRef<'_, f64>) -> Result<(Mat<f64>, Mat<f64>), E> {
        let mut theta = h.to_owned();
        solve_lower(self.factor.as_ref(), theta.as_mut(), fixed_parallelism());
        solve_lower_transpose(self.factor.as_ref(), theta.as_mut(), fixed_parallelism());
        Ok((theta, Mat::zeros(h.nrows(), h.ncols())))
    }

    fn center_gram(&mut self, alpha: MatRef<'_, f64>) -> Result<Mat<f64>, E> {
        Ok(product(self.factor.as_ref(), product(self.factor.transpose(), alpha).as_ref()))
    }
}

/// Products with K_ZZ when it is too large to factor.
pub trait CenterOperator {
    /// What a product can fail with.
    type Error;
    /// Number of centers m.
    fn centers(&self) -> usize;
    /// Those whose values this process has: vectors over the centers have their rows alone.
    fn shard(&self) -> Range<usize> {
        0..self.centers()
    }
    /// K(Z_B, Z) v - h_B for the centers in `block`, whoever has them, b x t; h = 0 where none is given.
    fn block_times(
        &mut self,
        block: Range<usize>,
        v: MatRef<'_, f64>,
        h: Option<MatRef<'_, f64>>,
    ) -> Result<Mat<f64>, Self::Error>;
    /// K(Z_S, Z_B) g for the projector's subsample of the centers, s x t.
    fn sample_times(&mut self, block: Range<usize>, g: MatRef<'_, f64>) -> Result<Mat<f64>, Self::Error>;
}

/// Inexact projection: epochs of EigenPro 2 on K_ZZ theta = h over the centers, from zero.
#[derive(Clone, Debug)]
pub struct InnerProjector<C> {
    operator: C,
    preconditioner: SubsamplePreconditioner,
    sample: Vec<usize>,
    batch: usize,
    step: f64,
    epochs: usize,
}

/// Centers of a batch at most: their values are in every process.
const LARGEST_BATCH: usize = 10_000;

/// The part of `block` that is in `shard`.
fn common(block: &Range<usize>, shard: &Range<usize>) -> Range<usize> {
    let start = block.start.clamp(shard.start, shard.end);
    start..block.end.clamp(start, shard.end)
}

impl<C: CenterOperator> InnerProjector<C> {
    /// `sample` are the positions of the preconditioner's subsample among the centers, `measured` was taken on centers outside it,
    /// `epochs` should be at least 2.
    ///
    /// # Errors
    /// A sample that does not fit the preconditioner, or no epochs.
    pub fn new(
        operator: C,
        preconditioner: SubsamplePreconditioner,
        sample: Vec<usize>,
        measured: Measured,
        epochs: usize,
    ) -> Result<Self, SolveError<C::Error>> {
        SolveError::check("centers of the projection's subsample", preconditioner.sample(), sample.len())?;
        if epochs == 0 {
            return Err(SolveError::Parameter { name: "projection epochs", value: 0.0, must: "at least 1" });
        }
        let batch = measured.critical_batch().min(operator.centers()).clamp(1, LARGEST_BATCH);
        let step = measured.step(batch, 0.0);
        Ok(InnerProjector { operator, preconditioner, sample, batch, step, epochs })
    }
}

impl<C: CenterOperator> Projector for InnerProjector<C> {
    type Error = C::Error;

    fn project(&mut self, h: MatRef<'_, f64>) -> Result<(Mat<f64>, Mat<f64>), C::Error> {
        let (m, t, shard) = (self.operator.centers(), h.ncols(), self.operator.shard());
        let mut theta = Mat::<f64>::zeros(shard.len(), t);
        for _ in 0..self.epochs {
            for start in (0..m).step_by(self.batch) {
                let block = start..(start + self.batch).min(m);
                let g = self.operator.block_times(block.clone(), theta.as_ref(), Some(h))?;
                for j in 0..t {
                    for i in common(&block, &shard) {
                        theta[(i - shard.start, j)] -= self.step * g[(i - start, j)];
                    }
                }
                let correction = self.operator.sample_times(block, g.as_ref())?;
                let correction = self.preconditioner.correction(correction.as_ref());
                for j in 0..t {
                    for (k, i) in self.sample.iter().enumerate().filter(|(_, i)| shard.contains(i)) {
                        theta[(i - shard.start, j)] += self.step * correction[(k, j)];
                    }
                }
            }
        }
        let left = h - self.center_gram(theta.as_ref())?;
        Ok((theta, left))
    }

    fn center_gram(&mut self, alpha: MatRef<'_, f64>) -> Result<Mat<f64>, C::Error> {
        let (m, t, shard) = (self.operator.centers(), alpha.ncols(), self.operator.shard());
        let mut out = Mat::zeros(shard.len(), t);
        for start in (0..m).step_by(self.batch) {
            let block = start..(start + self.batch).min(m);
            let part = self.operator.block_times(block.clone(), alpha, None)?;
            for j in 0..t {
                for i in common(&block, &shard) {
                    out[(i - shard.start, j)] = part[(i - start, j)];
                }
            }
        }
        Ok(out)
    }
}
