//! Full kernel ridge regression (centers = data) by accelerated block coordinate descent: ASkotch
//! (Rathore, Frangella, Yang, Derezinski, Udell 2024, "Have ASkotch: a neat solution for large-scale kernel ridge regression").
//!
//! Problem: (K + Lambda I) w = y, Lambda = lambda n. Sample weights enter as sqrt(w_i) k_ij sqrt(w_j) and sqrt(w_i) y_i, with
//! Lambda = lambda sum w; the operator supplies the scaled kernel.
//!
//! One iteration takes a block B of b rows, g = (K + Lambda I)(B, :) z - y_B, a damped Nystrom approximation P of K_BB + Lambda I of rank r, the
//! step length 1/L with L the top eigenvalue of P^-1 (K_BB + Lambda I), and Nesterov's two sequences around it. n/b iterations read K once.
//!
//! Invariants
//! * Blocks are the consecutive runs of one hashed order of the rows in each epoch; sketches are hashed by iteration. No other randomness.
//! * The strong-convexity parameter is min(Lambda, 1/nu), nu = n/b: beyond that the recursion leaves its domain and loses to the plain form.
//! * Progress is estimated for free, E ||g_B||^2 = (b/n) ||(K + Lambda) z - y||^2, as a moving average; the end is decided by the true residual of w,
//!   which costs an epoch of kernel entries.
//! * The sketch's factor is orthonormalised twice in f64, so P is positive definite whatever the spectrum.
//!
//! Cost of an iteration: n b (2 d + e) + 2 n b t for the product, b^2 r + b r^2 + 20 b^2 for the block. State: 3 n t numbers.

mod nystrom;
#[cfg(test)]
mod tests;

use super::vectors::{dot, larger, norm};
use super::{SolveError, Stopped};
use faer::{Mat, MatRef};
use nystream_hashing::{RowId, StreamKey};
use nystrom::BlockPreconditioner;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// The data side of the full problem.
pub trait BlockOperator {
    /// What a pass can fail with.
    type Error;
    /// Number of rows n.
    fn rows(&self) -> usize;
    /// K(B, :) z for z (n x t), b x t, summed in f64.
    fn block_times(&mut self, block: &[usize], z: MatRef<'_, f64>) -> Result<Mat<f64>, Self::Error>;
    /// K(B, B), b x b.
    fn block_matrix(&mut self, block: &[usize]) -> Result<Mat<f64>, Self::Error>;
}

/// Shape of the iteration and when to stop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockParams {
    /// Rows of a block b, at least 1.
    pub block: usize,
    /// Rank r of the Nystrom approximation, at most b.
    pub rank: usize,
    /// Two sequences (true) or plain block descent.
    pub accelerated: bool,
    /// Damping Lambda + (smallest kept eigenvalue) (true, recommended), or Lambda alone.
    pub damped: bool,
    /// Bound on ||(K + Lambda) w - y|| / ||y|| of every column.
    pub tolerance: f64,
    /// Epochs of n/b iterations at most.
    pub max_epochs: usize,
    /// Seed of blocks and sketches.
    pub seed: u64,
}

impl Default for BlockParams {
    fn default() -> Self {
        BlockParams {
            block: 1024,
            rank: 100,
            accelerated: true,
            damped: true,
            tolerance: 1e-6,
            max_epochs: 100,
            seed: 0,
        }
    }
}

/// What the observer sees after every iteration.
#[derive(Debug)]
pub struct BlockProgress<'a> {
    /// Iterations so far.
    pub iteration: usize,
    /// Epochs so far, a fraction.
    pub epochs: f64,
    /// Moving-average estimate of each column's relative residual.
    pub estimates: &'a [f64],
    /// The whole state, to be stored.
    pub state: &'a BlockState,
}

/// What a solve did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockInfo {
    /// Iterations.
    pub iterations: usize,
    /// Rows of K read, over n: epochs of iterations and of residuals.
    pub epochs: f64,
    /// True relative residual of each column.
    pub residuals: Vec<f64>,
    /// The moving-average estimate at the end.
    pub estimates: Vec<f64>,
    /// Largest measured L.
    pub largest_step_constant: f64,
    /// Why it ended.
    pub stopped: Stopped,
}

/// The state between iterations: continuing from it gives the same bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct BlockState {
    /// Iterate, n x t column by column.
    w: Vec<f64>,
    v: Vec<f64>,
    z: Vec<f64>,
    iteration: usize,
    rows_read: usize,
    /// Moving averages of the squared residual.
    average: Vec<f64>,
    /// Epoch after which the residual is next computed.
    look: usize,
    /// True residuals at the last look, the worst column.
    last: Option<f64>,
    largest: f64,
}

impl BlockState {
    /// Whether it is one of n x t coefficients: it may have been read from a file.
    pub fn fits(&self, n: usize, t: usize) -> bool {
        let whole = [&self.w, &self.v, &self.z].iter().all(|part| part.len() == n * t);
        whole && (self.average.is_empty() || self.average.len() == t)
    }

    /// Starts from w (n x t).
    pub fn from_coefficients(w: MatRef<'_, f64>) -> Self {
        let flat: Vec<f64> = (0..w.ncols()).flat_map(|j| super::vectors::column(w, j)).collect();
        BlockState {
            v: flat.clone(),
            z: flat.clone(),
            w: flat,
            iteration: 0,
            rows_read: 0,
            average: Vec::new(),
            look: 0,
            last: None,
            largest: 0.0,
        }
    }
}

/// Solves (K + `ridge` I) w = `y` and returns w (n x t) and what was done.
///
/// `ridge` is the matrix ridge, positive. `observe` may stop the solve (the residual is then still computed).
///
/// # Errors
/// The operator's error, shapes that disagree, parameters out of range, a kernel block that is not positive definite, or non-finite values.
///
/// ```
/// use faer::{Mat, MatRef, mat};
/// use nystream_kernels::solve::blockcd::*;
/// use std::{convert::Infallible, ops::ControlFlow};
///
/// struct Stored(Mat<f64>);
/// impl BlockOperator for Stored {
///     type Error = Infallible;
///     fn rows(&self) -> usize { self.0.nrows() }
///     fn block_times(&mut self, block: &[usize], z: MatRef<'_, f64>) -> Result<Mat<f64>, Infallible> {
///         Ok(Mat::from_fn(block.len(), self.rows(), |i, j| self.0[(block[i], j)]) * z)
///     }
///     fn block_matrix(&mut self, block: &[usize]) -> Result<Mat<f64>, Infallible> {
///         Ok(Mat::from_fn(block.len(), block.len(), |i, j| self.0[(block[i], block[j])]))
///     }
/// }
/// let mut k = Stored(mat![[1.0, 0.5], [0.5, 1.0]]);
/// let params = BlockParams { block: 1, rank: 1, ..BlockParams::default() };
/// let (w, info) = blockcd(&mut k, mat![[2.5], [2.5]].as_ref(), 1.0, &params, None, |_| ControlFlow::Continue(())).unwrap();
/// assert!((w[(0, 0)] - 1.0).abs() < 1e-5 && info.residuals[0] < 1e-6);
/// ```
pub fn blockcd<O: BlockOperator>(
    operator: &mut O,
    y: MatRef<'_, f64>,
    ridge: f64,
    params: &BlockParams,
    start: Option<BlockState>,
    mut observe: impl FnMut(&BlockProgress<'_>) -> ControlFlow<()>,
) -> Result<(Mat<f64>, BlockInfo), SolveError<O::Error>> {
    let (n, t) = (operator.rows(), y.ncols());
    SolveError::check("rows of the targets", n, y.nrows())?;
    if ridge <= 0.0 || !ridge.is_finite() {
        return Err(SolveError::Parameter { name: "ridge", value: ridge, must: "finite and above 0" });
    }
    for (name, value) in [("block", params.block), ("rank", params.rank), ("rows", n)] {
        if value == 0 {
            return Err(SolveError::Parameter { name, value: 0.0, must: "at least 1" });
        }
    }
    let mut s = start.unwrap_or_else(|| BlockState::from_coefficients(Mat::zeros(n, t).as_ref()));
    SolveError::check("entries of the start", n * t, s.w.len())?;
    if !s.fits(n, t) {
        return Err(SolveError::Shape { what: "parts of the start", expected: n * t, found: s.v.len() });
    }
    let b = params.block.min(n);
    let per_epoch = n.div_ceil(b);
    let norms: Vec<f64> = (0..t).map(|j| norm(&super::vectors::column(y, j)).max(f64::MIN_POSITIVE)).collect();
    let nu = n as f64 / b as f64;
    let mu = ridge.min(1.0 / nu);
    let (tau, c) = (1.0 - (mu / nu).sqrt(), 1.0 / (mu * nu).sqrt());
    let a = 1.0 / (1.0 + c * nu);
    // The average looks back over one epoch.
    let keep = 1.0 - 1.0 / per_epoch as f64;

    let mut order = Vec::new();
    let mut order_of = usize::MAX;
    let relative = |squares: &[f64]| -> Vec<f64> { squares.iter().zip(&norms).map(|(s, n)| s.sqrt() / n).collect() };
    let worst = |values: &[f64]| values.iter().copied().fold(0.0, larger);
    let mut stopped = None;
    let mut residuals = Vec::new();
    loop {
        let (epoch, within) = (s.iteration / per_epoch, s.iteration % per_epoch);
        if stopped.is_none() && within == 0 {
            let estimate = worst(&relative(&s.average));
            if epoch >= params.max_epochs {
                stopped = Some(Stopped::MaxIterations);
            } else if epoch > 0 && epoch >= s.look && estimate <= 0.5 * params.tolerance {
                residuals = residual(operator, y, ridge, &s, b, &norms)?;
                s.rows_read += n;
                let truth = worst(&residuals);
                if truth <= params.tolerance {
                    stopped = Some(Stopped::Converged);
                } else if s.last.is_some_and(|before| truth > 0.98 * before) {
                    stopped = Some(Stopped::Stagnated);
                }
                (s.last, s.look) = (Some(truth), epoch + 2);
            }
        }
        if let Some(why) = stopped {
            if residuals.is_empty() || matches!(why, Stopped::Asked | Stopped::MaxIterations) {
                residuals = residual(operator, y, ridge, &s, b, &norms)?;
                s.rows_read += n;
            }
            let why = if worst(&residuals) <= params.tolerance { Stopped::Converged } else { why };
            let info = BlockInfo {
                iterations: s.iteration,
                epochs: s.rows_read as f64 / n as f64,
                estimates: relative(&s.average),
                residuals,
                largest_step_constant: s.largest,
                stopped: why,
            };
            return Ok((Mat::from_fn(n, t, |i, j| s.w[j * n + i]), info));
        }

        if order_of != epoch {
            (order, order_of) = (epoch_order(params.seed, epoch, n), epoch);
        }
        let block = &order[within * b..((within + 1) * b).min(n)];
        let z = Mat::from_fn(n, t, |i, j| s.z[j * n + i]);
        let mut g = operator.block_times(block, z.as_ref()).map_err(SolveError::Operator)?;
        SolveError::check("rows of a block product", block.len(), g.nrows())?;
        SolveError::check("columns of a block product", t, g.ncols())?;
        let matrix = operator.block_matrix(block).map_err(SolveError::Operator)?;
        SolveError::check("rows of a block matrix", block.len(), matrix.nrows())?;
        for j in 0..t {
            for (k, &i) in block.iter().enumerate() {
                g[(k, j)] += ridge * s.z[j * n + i] - y[(i, j)];
            }
        }
        let squares: Vec<f64> =
            (0..t).map(|j| dot(g.col_as_slice(j), g.col_as_slice(j)) * n as f64 / block.len() as f64).collect();
        if let Some(column) = squares.iter().position(|v| !v.is_finite()) {
            return Err(SolveError::NotFinite { what: "the block residual", iteration: s.iteration, column });
        }
        let key = StreamKey::new(params.seed, "blockcd sketch", s.iteration as u64);
        let p = BlockPreconditioner::new(&matrix, params.rank, ridge, params.damped, key)?;
        let constant = p.step_constant(&matrix, ridge, key);
        s.largest = larger(s.largest, constant);
        let direction = p.apply(g.as_ref());

        let step = 1.0 / constant;
        if params.accelerated {
            s.w.copy_from_slice(&s.z);
            s.v.iter_mut().zip(&s.z).for_each(|(v, z)| *v = tau * *v + (1.0 - tau) * z);
            for j in 0..t {
                for (k, &i) in block.iter().enumerate() {
                    s.w[j * n + i] -= step * direction[(k, j)];
                    s.v[j * n + i] -= c * step * direction[(k, j)];
                }
            }
            s.z.iter_mut().zip(s.v.iter().zip(&s.w)).for_each(|(z, (v, w))| *z = a * v + (1.0 - a) * w);
        } else {
            for j in 0..t {
                for (k, &i) in block.iter().enumerate() {
                    s.w[j * n + i] -= step * direction[(k, j)];
                    s.z[j * n + i] = s.w[j * n + i];
                }
            }
        }
        if s.average.is_empty() {
            s.average = squares;
        } else {
            s.average.iter_mut().zip(&squares).for_each(|(a, q)| *a = keep * *a + (1.0 - keep) * q);
        }
        s.iteration += 1;
        s.rows_read += block.len();
        let estimates = relative(&s.average);
        let progress = BlockProgress {
            iteration: s.iteration,
            epochs: s.rows_read as f64 / n as f64,
            estimates: &estimates,
            state: &s,
        };
        if observe(&progress).is_break() {
            stopped = Some(Stopped::Asked);
        }
    }
}

/// The rows in the hashed order of an epoch.
fn epoch_order(seed: u64, epoch: usize, n: usize) -> Vec<usize> {
    let key = StreamKey::new(seed, "blockcd order", epoch as u64);
    let mut keyed: Vec<(u128, usize)> = (0..n).map(|i| (key.u128(RowId(i as u128)), i)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, i)| i).collect()
}

/// ||(K + ridge) w - y|| / ||y|| of each column, block by block in row order.
fn residual<O: BlockOperator>(
    operator: &mut O,
    y: MatRef<'_, f64>,
    ridge: f64,
    s: &BlockState,
    b: usize,
    norms: &[f64],
) -> Result<Vec<f64>, SolveError<O::Error>> {
    let (n, t) = (operator.rows(), y.ncols());
    let w = Mat::from_fn(n, t, |i, j| s.w[j * n + i]);
    let mut sums = vec![0.0; t];
    for start in (0..n).step_by(b) {
        let block: Vec<usize> = (start..(start + b).min(n)).collect();
        let g = operator.block_times(&block, w.as_ref()).map_err(SolveError::Operator)?;
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum += block
                .iter()
                .enumerate()
                .map(|(k, &i)| (g[(k, j)] + ridge * w[(i, j)] - y[(i, j)]).powi(2))
                .sum::<f64>();
        }
    }
    if let Some(column) = sums.iter().position(|v| !v.is_finite()) {
        return Err(SolveError::NotFinite { what: "the residual", iteration: s.iteration, column });
    }
    Ok(sums.iter().zip(norms).map(|(s, n)| s.sqrt() / n).collect())
}
