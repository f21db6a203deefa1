//! Logistic and softmax loss by Newton's method over streamed passes (the Falkon scheme): gradient and Hessian products are
//! [`row_sums`] passes, each kernel entry evaluated once; the small algebra is replicated on every worker.
//!
//! Margins are K alpha plus the logarithms of the classes' shares. `--ridge` is lambda of (1/sum w) sum w l + (lambda/2) ||f||^2
//! (DESIGN section 5); `--ridge auto` takes a quarter of the squared-loss ridge, which has the same curvature at p = 1/2.

use crate::dictionary::pool::Pool;
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::matvec::{RowView, Widths, row_sums};
use crate::nystrom::{Basis, StratifiedSample, from_row_major, row_major};
use crate::predict::prior_margin;
use crate::solve::Solved;
use crate::solve::pcg::{over_time, solve_error};
use crate::targets::TargetCode;
use faer::{Mat, MatRef};
use nystream_datasets::Role;
use nystream_kernels::kernel::Kernel;
use nystream_kernels::rows::Rows;
use nystream_kernels::solve::Whitening;
use nystream_kernels::solve::logistic::{
    LogisticLoss, LogisticOperator, LogisticParams, LogisticState, SampleCurvature, logistic, ridge_path,
};
use nystream_kernels::tile::{Entry, SimdPath, Tiles};
use std::ops::ControlFlow;
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// Classes up to which the preconditioner follows the iterate's curvature.
pub(crate) const LOCAL_CLASSES: usize = 10;

/// What a logistic solve is given.
pub struct LogisticJob<'a, T: Entry> {
    /// Packed centers.
    pub tiles: &'a Arc<Tiles<T>>,
    /// The centers.
    pub centers: Rows<'a>,
    /// Kernel.
    pub kernel: &'a Kernel,
    /// SIMD path.
    pub simd: SimdPath,
    /// Targets: classes.
    pub code: &'a TargetCode,
    /// Per-sample ridge lambda of the logistic objective.
    pub ridge: f64,
    /// Sum of the weights of all training rows.
    pub weight_sum: f64,
    /// The hashed sample, from which the preconditioner is made.
    pub sample: &'a Arc<Pool>,
    /// Bound on the relative gradient norm.
    pub tolerance: f64,
    /// Newton steps at most.
    pub iterations: Option<usize>,
    /// Coefficients to start from, m x t row-major.
    pub warm_start: Option<Vec<f64>>,
    /// Seconds of the process after which to stop.
    pub time_limit: Option<f64>,
}

/// The loss of the classes of `code`, and the fixed offset of each of its margins.
pub(crate) fn margins_of(code: &TargetCode) -> (LogisticLoss, Vec<f64>) {
    match code.classes.len() {
        2 => (LogisticLoss::Binary, vec![prior_margin(code, 1) - prior_margin(code, 0)]),
        classes => (LogisticLoss::Softmax { classes }, (0..classes).map(|k| prior_margin(code, k)).collect()),
    }
}

struct Passes<'s, 'w, 'a, T: Entry> {
    session: &'s mut Session<'w>,
    store: &'a RowStore,
    tiles: &'a Arc<Tiles<T>>,
    loss: LogisticLoss,
    offset: Vec<f64>,
    time_limit: Option<f64>,
    passes: u64,
}

impl<T: Entry> LogisticOperator for Passes<'_, '_, '_, T> {
    type Error = StageError;

    fn centers(&self) -> usize {
        self.tiles.centers()
    }

    fn outputs(&self) -> usize {
        self.offset.len()
    }

    fn gradient(&mut self, alpha: MatRef<'_, f64>) -> Result<(f64, Mat<f64>), StageError> {
        let t = self.offset.len();
        let (loss, offset) = (self.loss, self.offset.clone());
        let mut margins = vec![0.0; t];
        self.passes += 1;
        let mut sums = row_sums(
            self.session,
            "gradient",
            self.store.feed(Role::Training),
            self.tiles,
            Arc::new(row_major(alpha)),
            Widths { input: t, output: t, extras: 1 },
            move |row: RowView<'_>, u: &mut [f64], extra: &mut [f64]| {
                margins.iter_mut().zip(row.values).zip(&offset).for_each(|((m, v), o)| *m = v + o);
                let weight = row.chunk.weights[row.row];
                let label = row.chunk.targets[row.row] as usize;
                extra[0] += weight * loss.gradient(&margins, label, u);
                u.iter_mut().for_each(|u| *u *= weight);
            },
        )?;
        let total = sums.pop().unwrap_or_default();
        Ok((total, from_row_major(&sums, self.tiles.centers(), t)))
    }

    fn hessian(&mut self, alpha: MatRef<'_, f64>, v: MatRef<'_, f64>) -> Result<Mat<f64>, StageError> {
        let t = self.offset.len();
        let (loss, offset) = (self.loss, self.offset.clone());
        let mut margins = vec![0.0; t];
        let both = Mat::from_fn(alpha.nrows(), 2 * t, |i, j| if j < t { alpha[(i, j)] } else { v[(i, j - t)] });
        self.passes += 1;
        let sums = row_sums(
            self.session,
            "Newton step",
            self.store.feed(Role::Training),
            self.tiles,
            Arc::new(row_major(both.as_ref())),
            Widths { input: 2 * t, output: t, extras: 0 },
            move |row: RowView<'_>, u: &mut [f64], _: &mut [f64]| {
                margins.iter_mut().zip(row.values).zip(&offset).for_each(|((m, v), o)| *m = v + o);
                loss.hessian_times(&margins, &row.values[t..], u);
                let weight = row.chunk.weights[row.row];
                u.iter_mut().for_each(|u| *u *= weight);
            },
        )?;
        Ok(from_row_major(&sums, self.tiles.centers(), t))
    }

    fn stop(&mut self) -> Result<bool, StageError> {
        over_time(self.session, self.time_limit)
    }
}

/// Solves; the result is the same on every worker.
///
/// # Errors
/// Bad data, a factorisation that fails, or a damaged exchange.
pub fn solve<T: Entry>(
    session: &mut Session<'_>,
    store: &RowStore,
    job: &LogisticJob<'_, T>,
) -> Result<Solved, StageError> {
    let classes = job.code.classes.len();
    let (loss, offset) = margins_of(job.code);
    let basis = session.try_once(|| Basis::new(job.kernel, job.centers, job.simd))?;
    let curvature = session.try_once(|| {
        let sample = StratifiedSample::new(job.centers, job.sample, job.weight_sum);
        let (mut features, mut weights) = (Mat::zeros(sample.len(), basis.rank()), Vec::with_capacity(sample.len()));
        sample.each_block(&basis, job.kernel, job.simd, |block, more| {
            features.as_mut().subrows_mut(weights.len(), more.len()).copy_from(block);
            weights.extend_from_slice(more);
        })?;
        Ok(SampleCurvature { features, weights, offset: offset.clone(), loss, local: classes <= LOCAL_CLASSES })
    })?;
    let params = LogisticParams {
        tolerance: job.tolerance,
        max_newton: job.iterations.unwrap_or(30),
        path: ridge_path(1e-2, job.ridge, 100.0),
        ..LogisticParams::default()
    };
    let t = job.code.width();
    let start = job
        .warm_start
        .as_ref()
        .map(|alpha| LogisticState::warm(&*basis, from_row_major(alpha, job.tiles.centers(), t).as_ref()));
    let mut operator = Passes { session, store, tiles: job.tiles, loss, offset, time_limit: job.time_limit, passes: 0 };
    let (alpha, info) =
        logistic(&mut operator, &*basis, &curvature, job.weight_sum, job.ridge, &params, start, |_, _| {
            ControlFlow::Continue(())
        })
        .map_err(solve_error)?;
    Ok(Solved {
        coefficients: row_major(alpha.as_ref()),
        ridges: vec![job.ridge; t],
        residuals: vec![info.residual; t],
        effective_dimension: None,
        trace_error: None,
        fit_quality: None,
        variance: None,
        iterations: Some(info.steps.len()),
        stopped: info.stopped,
        passes: operator.passes,
        notes: vec![format!(
            "logistic: {} Newton steps, {} passes, mean loss {:.6}, relative gradient {:.1e}",
            info.steps.len(),
            info.applications,
            info.loss,
            info.gradient
        )],
    })
}
