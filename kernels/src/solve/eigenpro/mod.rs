//! Projected, preconditioned stochastic gradients: EigenPro 3 with the delayed projections of EigenPro 4
//! (Abedsoltan, Belkin, Pandit, ICML 2023, "Toward large kernel models"; Abedsoltan, Ma, Pandit, Belkin 2024, "Fast training of large kernel
//! models with delayed projections").
//!
//! Problem: minimise (1/sum w) sum_i w_i (f(x_i) - y_i)^2 + lambda ||f||^2 over the span of the centers Z, without a factor of
//! K_nm^T K_nm. For batch B with residuals g_i = w_i (f(x_i) - y_i), weights scaled to mean 1, and step gamma per row,
//! f <- f - gamma P (sum_B g_i k(x_i, .) + |B| lambda f), where P flattens the top q directions of a subsample S:
//! P k(x, .) = k_P(x, .). Between projections f = k(., Z) alpha + sum_batches k(., X_B) w_B + k(., S) E c; every T batches, and at the end of an
//! epoch, f is replaced by the function of the span of Z with the same values on Z.
//!
//! Invariants
//! * Where several processes share the centers, each has m-sized vectors for its own run of blocks of [`CENTER_BLOCK`] alone (its *shard*); what is summed over
//!   centers is summed block by block, and over the blocks in one shape ([`EigenProOperator::over_centers`]), shared or not.
//! * Otherwise what is replicated is m- or q-sized: alpha (m x t), c and u = E^T f(S) (q x t), K(Z, batches) w (m x t), and the weights of the last T
//!   batches. Rows stay where they are: a batch is a range of positions in the total order of the hashed row ids, whatever the storage.
//!   Reduced for each batch: K(Z, B) g and K(S, B) g, summed over [`sub_blocks`] of the batch in a fixed shape.
//! * P acts on the ridge's gradient too (through u, whose recursion needs no kernel entry); otherwise the fixed point would not be the ridge solution.
//! * With `consistent`, P is applied at the projection to the part of the gradient inside the span of Z. EigenPro 3 applies it to the
//!   unprojected gradient, whose part outside the span does not vanish at the solution, so that its fixed point is not the least-squares solution
//!   unless S is among the centers.
//! * The step comes from an eigenvalue measured outside S; a step whose measured stability product reaches 2 is refused ([`SolveError::Unstable`]).
//! * Where m < n a constant step leaves a noise floor: average the projected iterates, or let the step fall ([`Schedule`]).
//! * A slow walk is not one that has arrived: [`Settling::Halving`] compares what the second half of all epochs brought with what there is.
//! * A projection that is not exact hands its remainder to the next one.
//!
//! Cost of an epoch: n (m + s) kernel entries, n T b / 2 for temporaries, and n / (T b) projections.

mod centers;
mod preconditioner;
mod projection;
mod settling;
mod state;
mod stored;
#[cfg(test)]
mod tests;
mod walk;

use super::vectors::squares;
use super::{SolveError, Stopped};
pub use centers::center_blocks;
use centers::{block_sum, center_squares};
use faer::{Mat, MatRef};
pub use preconditioner::{Measured, SubsamplePreconditioner};
pub use projection::{CenterOperator, CholeskyProjector, InnerProjector, Projector};
use serde::{Deserialize, Serialize};
pub use settling::Settling;
use settling::{Settled, settled};
pub use state::EigenProState;
use state::{flatten, unflatten};
use std::ops::Range;
pub use stored::StoredPreconditioner;
use walk::Walk;

/// *Shape.* Rows of a batch that are summed together before the fixed tree over sub-blocks.
pub const SUB_BLOCK_ROWS: usize = 256;

/// *Shape.* Centers whose contributions to K(B, Z) alpha are summed together, whether centers are shared by several processes or not.
pub const CENTER_BLOCK: usize = 4096;

/// The sub-blocks of a batch, in order: their partial sums are combined over a tree of this shape, whoever owns the rows.
///
/// ```
/// use nystream_kernels::solve::eigenpro::sub_blocks;
/// assert_eq!(sub_blocks(100..700).collect::<Vec<_>>(), [100..356, 356..612, 612..700]);
/// ```
pub fn sub_blocks(batch: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = batch.end;
    batch.step_by(SUB_BLOCK_ROWS).map(move |start| start..(start + SUB_BLOCK_ROWS).min(end))
}

/// A batch since the last projection that still carries weights.
#[derive(Clone, Debug)]
pub struct Temporary {
    /// Its positions in the hashed order.
    pub rows: Range<usize>,
    /// Its coefficients, b x t.
    pub weights: Mat<f64>,
}

/// The function a batch is evaluated with: f = k(., Z) alpha + sum over temporaries k(., X) w + k(., S) a.
#[derive(Debug)]
pub struct EigenProModel<'a> {
    /// Coefficients of the centers, m x t.
    pub alpha: MatRef<'a, f64>,
    /// Coefficients of the subsample, s x t.
    pub sample: MatRef<'a, f64>,
    /// Batches since the last projection that this process keeps ([`EigenProOperator::keeps`]).
    pub temporaries: &'a [Temporary],
    /// The first row of the batches since then.
    pub since: usize,
}

/// What one batch contributes.
#[derive(Clone, Debug)]
pub struct BatchPartial {
    /// g = w (f(X_B) - y_B), b x t, weights scaled to mean 1 over the data.
    pub residual: Mat<f64>,
    /// K(Z, B) g, m x t: the rows of the shard.
    pub centers: Mat<f64>,
    /// K(S, B) g, s x t.
    pub sample: Mat<f64>,
}

/// Both halves of the normal equations' residual, from one pass.
#[derive(Clone, Debug)]
pub struct NormalResidual {
    /// K_nm^T W (y - K_nm alpha), m x t, with the weights as given.
    pub data: Mat<f64>,
    /// K_nm^T W y, m x t.
    pub rhs: Mat<f64>,
}

/// The data side.
pub trait EigenProOperator {
    /// What a pass can fail with.
    type Error;
    /// Number of rows n.
    fn rows(&self) -> usize;
    /// Evaluates the model on the rows at these positions of the hashed order, and forms the reductions.
    ///
    /// Values are per row, sums over centers run over blocks of [`CENTER_BLOCK`]; sums over rows over [`sub_blocks`]. The
    /// operator keeps, or reads again, the rows of `model.temporaries`.
    fn batch(&mut self, rows: Range<usize>, model: &EigenProModel<'_>) -> Result<BatchPartial, Self::Error>;
    /// One pass over all rows.
    fn normal_residual(&mut self, alpha: MatRef<'_, f64>) -> Result<NormalResidual, Self::Error>;
    /// All centers, where this process has a shard of them; `None`: it has all.
    fn centers(&self) -> Option<usize> {
        None
    }
    /// Whether this process evaluates the batch of these `rows` until the next projection, and so keeps its weights; `since` is the first row of the batches since
    /// the last one.
    fn keeps(&self, _since: usize, _rows: &Range<usize>) -> bool {
        true
    }
    /// The sum of vectors of `length` values over all blocks of centers ([`center_blocks`]), of which `blocks` are those of this process, over the tree of all
    /// blocks.
    fn over_centers(&mut self, blocks: Vec<Vec<f64>>, length: usize) -> Result<Vec<f64>, Self::Error> {
        Ok(block_sum(blocks, length))
    }
}

/// How the noise of the steps is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Nothing: for interpolation (centers = data).
    Constant,
    /// The mean of the projected iterates of the later half of the epochs or somewhat more, so that the mean does not lag behind: from epoch `from` (0-based)
    /// on, and once epoch 4 `from` begins from 2 `from` on, once 8 `from` begins from 4 `from` on, and so forth.
    Average {
        /// First epoch averaged.
        from: usize,
    },
    /// Step gamma / (e - from + 1) in epoch e >= from.
    Decay {
        /// First epoch counted.
        from: usize,
    },
}

/// Shape of the iteration and when to stop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EigenProParams {
    /// Rows of a batch; `None`: the critical batch, at most 10,000 and n.
    pub batch: Option<usize>,
    /// Step per row; `None`: from the measurement.
    pub step: Option<f64>,
    /// Batches between projections; `None`: as many as put m rows in the temporaries.
    pub projection_every: Option<usize>,
    /// Noise removal.
    pub schedule: Schedule,
    /// Precondition inside the span of the centers at each projection (a second projection solve).
    pub consistent: bool,
    /// Epochs at most.
    pub max_epochs: usize,
    /// Bound on the true relative residual, tested every `residual_every` epochs and at the last; 0 tests nothing.
    pub tolerance: f64,
    /// Epochs between computations of the residual; 0: only at the end.
    pub residual_every: usize,
    /// When losses end the walk. With a tolerance they only cut the step.
    pub settling: Settling,
    /// What the step is divided by where the objective has settled at it ([`Settling::Halving`]): a constant step leaves noise, and a bias since batches come
    /// in the same order every epoch (Bertsekas 2011, section 3: both fall with the step). Not above 1: never.
    pub step_cut: f64,
}

impl Default for EigenProParams {
    fn default() -> Self {
        EigenProParams {
            batch: None,
            step: None,
            projection_every: None,
            schedule: Schedule::Average { from: 3 },
            consistent: true,
            max_epochs: 20,
            tolerance: 0.0,
            residual_every: 0,
            settling: Settling::Patience(3),
            step_cut: 4.0,
        }
    }
}

/// What the observer answers after an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Go on.
    Continue,
    /// End here.
    Stop,
    /// The loss of the iterate shown on held-out rows.
    HeldOut(f64),
}

/// What the observer sees after every projection.
#[derive(Debug)]
pub struct EigenProProgress<'a> {
    /// Epochs completed.
    pub epoch: usize,
    /// Whether an epoch has just ended (otherwise the verdict's loss is not used).
    pub epoch_ended: bool,
    /// The coefficients that would be returned, m x t: the rows of the shard.
    pub alpha: &'a Mat<f64>,
    /// The whole state, to be stored.
    pub state: &'a EigenProState,
}

/// What a solve did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EigenProInfo {
    /// Epochs completed.
    pub epochs: usize,
    /// Rows of a batch.
    pub batch: usize,
    /// Step per row at the start.
    pub step: f64,
    /// (lambda_1 + lambda) gamma b as measured; below 2.
    pub stability: f64,
    /// Batches between projections.
    pub projection_every: usize,
    /// Projections done.
    pub projections: usize,
    /// True relative residual of each column at the coefficients returned.
    pub residuals: Vec<f64>,
    /// Losses, as told.
    pub held_out: Vec<f64>,
    /// How often the step was cut ([`EigenProParams::step_cut`]).
    pub cuts: usize,
    /// Why it ended; `Stagnated` when the losses had settled ([`Settling`]).
    pub stopped: Stopped,
}

/// The preconditioned problem, fixed for a solve.
pub struct EigenProProblem<'a> {
    /// The subsample's preconditioner.
    pub preconditioner: &'a SubsamplePreconditioner,
    /// K(Z, S) E, m x q: the rows of the shard.
    pub center_directions: MatRef<'a, f64>,
    /// Measured on rows outside the subsample.
    pub measured: Measured,
    /// Per-sample ridge lambda; 0 is the early-stopped form.
    pub ridge: f64,
    /// sum w over the data.
    pub weight_sum: f64,
    /// Share of sum w that the rows which have each target hold: its ridge is per such row, lambda times the share for each of all rows. Empty:
    /// every row has every target.
    pub shares: &'a [f64],
}

impl EigenProProblem<'_> {
    /// The ridge of output `j` for each of all rows, at most lambda.
    fn ridge_of(&self, j: usize) -> f64 {
        self.ridge * self.shares.get(j).copied().unwrap_or(1.0)
    }
}

/// Runs the iteration and returns alpha (m x t; the rows of the shard) and what was done.
///
/// `start` holds the coefficients to begin with ([`EigenProState::from_coefficients`] of zeros for a cold start) or a stored state.
/// `observe` is called after every projection.
///
/// # Errors
/// The operators' errors, shapes that disagree, parameters out of range, an unstable step, or values that are not finite.
///
/// ```
/// use faer::{Mat, MatRef, mat};
/// use nystream_kernels::solve::{Stopped, eigenpro::*};
/// use std::{convert::Infallible, ops::Range};
///
/// // Two rows that are the centers too, with an empty subsample: plain gradient descent with exact projections.
/// struct Rows { k: Mat<f64>, y: Mat<f64> }
/// impl EigenProOperator for Rows {
///     type Error = Infallible;
///     fn rows(&self) -> usize { 2 }
///     fn batch(&mut self, rows: Range<usize>, model: &EigenProModel<'_>) -> Result<BatchPartial, Infallible> {
///         let k = self.k.as_ref().subrows(rows.start, rows.len());
///         let mut residual = k * model.alpha - self.y.as_ref().subrows(rows.start, rows.len());
///         for old in model.temporaries {
///             residual += k.subcols(old.rows.start, old.rows.len()) * &old.weights;
///         }
///         Ok(BatchPartial { centers: k.transpose() * &residual, sample: Mat::zeros(0, 1), residual })
///     }
///     fn normal_residual(&mut self, alpha: MatRef<'_, f64>) -> Result<NormalResidual, Infallible> {
///         let data = self.k.transpose() * (&self.y - &self.k * alpha);
///         Ok(NormalResidual { data, rhs: self.k.transpose() * &self.y })
///     }
/// }
/// let k = mat![[1.0, 0.5], [0.5, 1.0]];
/// let mut rows = Rows { k: k.clone(), y: mat![[2.0], [2.5]] };
/// let nothing = Mat::zeros(2, 0);
/// let problem = EigenProProblem {
///     preconditioner: &SubsamplePreconditioner::new(Mat::zeros(0, 0).as_ref(), 0, 1.0).unwrap(),
///     center_directions: nothing.as_ref(),
///     measured: Measured { top_eigenvalue: 0.75, diagonal: 1.0, kernel_diagonal: 1.0 },
///     ridge: 0.0,
///     weight_sum: 2.0,
///     shares: &[],
/// };
/// let params = EigenProParams {
///     schedule: Schedule::Constant, max_epochs: 200, tolerance: 1e-9, residual_every: 1, ..Default::default()
/// };
/// let start = EigenProState::from_coefficients(Mat::zeros(2, 1).as_ref());
/// let mut projector = CholeskyProjector::new(k).unwrap();
/// let (alpha, info) =
///     eigenpro(&mut rows, &mut projector, &problem, &params, start, |_| Verdict::Continue).unwrap();
/// assert_eq!(info.stopped, Stopped::Converged);
/// assert!((alpha[(0, 0)] - 1.0).abs() < 1e-6 && (alpha[(1, 0)] - 2.0).abs() < 1e-6);
/// ```
pub fn eigenpro<O, P>(
    operator: &mut O,
    projector: &mut P,
    problem: &EigenProProblem<'_>,
    params: &EigenProParams,
    start: EigenProState,
    mut observe: impl FnMut(&EigenProProgress<'_>) -> Verdict,
) -> Result<(Mat<f64>, EigenProInfo), SolveError<O::Error>>
where
    O: EigenProOperator,
    P: Projector<Error = O::Error>,
{
    let (n, m) = (operator.rows(), problem.center_directions.nrows());
    let all = operator.centers().unwrap_or(m);
    SolveError::check(
        "columns of the center directions",
        problem.preconditioner.rank(),
        problem.center_directions.ncols(),
    )?;
    for (name, value) in [("rows", n), ("centers", all)] {
        if value == 0 {
            return Err(SolveError::Parameter { name, value: 0.0, must: "at least 1" });
        }
    }
    if start.columns == 0 || start.alpha.len() != m * start.columns {
        return Err(SolveError::Shape { what: "coefficients of the start", expected: m, found: start.alpha.len() });
    }
    if !start.fits(start.alpha.len()) {
        return Err(SolveError::Shape {
            what: "parts of the start",
            expected: start.alpha.len(),
            found: start.carried.len(),
        });
    }
    if problem.ridge < 0.0 || !problem.ridge.is_finite() {
        return Err(SolveError::Parameter { name: "ridge", value: problem.ridge, must: "finite and at least 0" });
    }
    if !problem.shares.is_empty() {
        SolveError::check("shares of the targets", start.columns, problem.shares.len())?;
    }
    if let Some(value) = problem.shares.iter().copied().find(|share| !(0.0..=1.0).contains(share)) {
        return Err(SolveError::Parameter { name: "share of a target", value, must: "between 0 and 1" });
    }
    let batch = params.batch.unwrap_or_else(|| problem.measured.critical_batch().min(10_000)).clamp(1, n);
    let step = params.step.unwrap_or_else(|| problem.measured.step(batch, problem.ridge));
    let stability = problem.measured.stability(step, batch, problem.ridge);
    if stability.is_nan() || stability >= 2.0 || step <= 0.0 {
        let eigenvalue = problem.measured.top_eigenvalue + problem.ridge;
        return Err(SolveError::Unstable { step, batch, eigenvalue, product: stability });
    }
    let every = params.projection_every.unwrap_or(all / batch).max(1);

    let mut state = start;
    let mut walk = Walk::begin(operator, problem, &state, m)?;
    let mut stopped = None;
    let mut residuals = None;
    while stopped.is_none() {
        if !state.unseen {
            if state.epoch >= params.max_epochs {
                stopped = Some(Stopped::MaxIterations);
                break;
            }
            let gamma = match params.schedule {
                Schedule::Decay { from } if state.epoch >= from => step / (state.epoch - from + 1) as f64,
                _ => step,
            } * state.scale;
            for _ in 0..every {
                if state.position >= n {
                    break;
                }
                let rows = state.position..(state.position + batch).min(n);
                state.position = rows.end;
                walk.step(operator, problem, rows, gamma)?;
            }
            let on_centers = center_squares(operator, &[&walk.h]).map_err(SolveError::Operator)?;
            if !squares(&walk.u).is_finite() || !on_centers.iter().sum::<f64>().is_finite() {
                return Err(SolveError::NotFinite { what: "the iterate", iteration: state.epoch, column: 0 });
            }
            let carried =
                walk.project(operator, projector, problem, params.consistent).map_err(SolveError::Operator)?;
            state.projections += 1;
            (state.alpha, state.carried) = (flatten(walk.alpha.as_ref()), flatten(carried.as_ref()));
            if let Schedule::Average { from } = params.schedule {
                state.average(from);
            }
            if state.position >= n {
                (state.position, state.epoch) = (0, state.epoch + 1);
            }
            walk = Walk::begin(operator, problem, &state, m)?;
            residuals = None;
            state.unseen = true;
        }
        // A state at the beginning of its first epoch has not been projected.
        let epoch_ended = state.position == 0;
        let output = state.output(m);
        let verdict = observe(&EigenProProgress { epoch: state.epoch, epoch_ended, alpha: &output, state: &state });
        state.unseen = false;
        match verdict {
            Verdict::Continue => {}
            Verdict::Stop => stopped = Some(Stopped::Asked),
            Verdict::HeldOut(loss) if epoch_ended => {
                state.held_out.push(loss);
                if let Some(share) = params.settling.better()
                    && state.best.as_ref().is_none_or(|(best, _, _)| loss < *best * share)
                {
                    state.best = Some((loss, state.epoch, flatten(output.as_ref())));
                }
                match settled(params, &state, n.div_ceil(batch)) {
                    Settled::No => {}
                    Settled::AtThisStep(least) => {
                        state.cut_step(m, params.step_cut, least);
                        walk = Walk::begin(operator, problem, &state, m)?;
                    }
                    Settled::Yes => stopped = Some(Stopped::Stagnated),
                }
            }
            Verdict::HeldOut(_) => {}
        }
        if epoch_ended && params.residual_every > 0 && state.epoch.is_multiple_of(params.residual_every) {
            let now = true_residual(operator, projector, problem, &output)?;
            if reached(&now, params) {
                stopped = Some(Stopped::Converged);
            }
            residuals = Some(now);
        }
    }
    let mut stopped = stopped.unwrap_or(Stopped::MaxIterations);
    let mut alpha = state.output(m);
    if stopped != Stopped::Converged
        && let Some((_, at, best)) = &state.best
        && *at != state.epoch
    {
        alpha = unflatten(best, m, state.columns);
        residuals = None;
    }
    let residuals = match residuals {
        Some(known) => known,
        None => true_residual(operator, projector, problem, &alpha)?,
    };
    if reached(&residuals, params) {
        stopped = Stopped::Converged;
    }
    let info = EigenProInfo {
        epochs: state.epoch,
        batch,
        step,
        stability,
        projection_every: every,
        projections: state.projections,
        residuals,
        held_out: state.held_out,
        cuts: state.cuts,
        stopped,
    };
    Ok((alpha, info))
}

/// Whether a tolerance is asked for and all residuals are within it.
fn reached(residuals: &[f64], params: &EigenProParams) -> bool {
    params.tolerance > 0.0 && residuals.iter().all(|residual| *residual <= params.tolerance)
}

/// ||K_nm^T W (y - K_nm alpha) - lambda sum w K_mm alpha|| / ||K_nm^T W y|| of each column, over the rows that have its target.
fn true_residual<O, P>(
    operator: &mut O,
    projector: &mut P,
    problem: &EigenProProblem<'_>,
    alpha: &Mat<f64>,
) -> Result<Vec<f64>, SolveError<O::Error>>
where
    O: EigenProOperator,
    P: Projector<Error = O::Error>,
{
    let parts = operator.normal_residual(alpha.as_ref()).map_err(SolveError::Operator)?;
    let smooth = projector.center_gram(alpha.as_ref()).map_err(SolveError::Operator)?;
    let ridges: Vec<f64> = (0..smooth.ncols()).map(|j| problem.ridge_of(j) * problem.weight_sum).collect();
    let r = Mat::from_fn(smooth.nrows(), smooth.ncols(), |i, j| parts.data[(i, j)] - ridges[j] * smooth[(i, j)]);
    let squares = center_squares(operator, &[&r, &parts.rhs]).map_err(SolveError::Operator)?;
    let (found, reference) = squares.split_at(r.ncols());
    let relative = |(found, reference): (&f64, &f64)| {
        if *reference > 0.0 { found.sqrt() / reference.sqrt() } else { found.sqrt() }
    };
    Ok(found.iter().zip(reference).map(relative).collect())
}
