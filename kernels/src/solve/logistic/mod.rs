//! Kernel logistic regression, binary or softmax, by truncated Newton in whitened coordinates.
//!
//! Problem: minimise J(f) = (1/sum w) sum_i w_i l(f(x_i) + offset, y_i) + (lambda/2) ||f||^2 over the span of the centers. Times
//! sum w and with alpha = R z, F(z) = sum w l + (Lambda/2) |z|^2, Lambda = lambda sum w; gradient R^T K_nm^T W l' + Lambda z, Hessian
//! R^T K_nm^T W l'' K_nm R + Lambda I with the full coupling between the classes of a row.
//!
//! Scheme (Marteau-Ferey, Bach, Rudi, NeurIPS 2019, "Globally convergent Newton methods for ill-conditioned generalized self-concordant
//! losses"): Newton steps along a falling sequence of ridges, each started from the last, then at the target until the gradient norm is small.
//! Unlike the published scheme every step is checked: the step is halved until the objective falls enough (Armijo), and the end is
//! a test on a gradient that was computed.
//!
//! Newton systems are solved by conjugate gradients with one preconditioner block an output (for softmax among margins that sum to zero, since it has no
//! curvature along their common shift), from a replicated sample of rows whose
//! curvature p (1 - p) is that of the current iterate, or its bound ([`SampleCurvature`]).
//!
//! Cost: one pass for each Hessian product, one for each accepted step (whose gradient the next step uses), one for each halving.

mod loss;
#[cfg(test)]
mod tests;

use super::vectors::squares;
use super::{Preconditioner, SolveError, Stopped, Whitening, extrapolated_dimension};
use crate::dense::{DenseError, fixed_parallelism, gemm};
use faer::{Mat, MatRef};
pub use loss::LogisticLoss;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// The data side: margins are K_nm alpha plus the fixed offset, weights w_i are applied inside.
pub trait LogisticOperator {
    /// What a pass can fail with.
    type Error;
    /// Number of centers m.
    fn centers(&self) -> usize;
    /// Number of margins t.
    fn outputs(&self) -> usize;
    /// sum_i w_i l_i and K_nm^T W l' (m x t) at `alpha` (m x t): one pass.
    fn gradient(&mut self, alpha: MatRef<'_, f64>) -> Result<(f64, Mat<f64>), Self::Error>;
    /// K_nm^T W l''(K_nm alpha) K_nm v (m x t), the classes of a row coupled: one pass for margins and directions together.
    fn hessian(&mut self, alpha: MatRef<'_, f64>, v: MatRef<'_, f64>) -> Result<Mat<f64>, Self::Error>;
    /// Whether to end with what there is ([`Stopped::Asked`]): asked before every Newton step and within it before every
    /// Hessian product but the first, so that a long step is cut short too.
    ///
    /// # Errors
    /// As of a pass.
    fn stop(&mut self) -> Result<bool, Self::Error> {
        Ok(false)
    }
}

/// Limits and tests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogisticParams {
    /// Bound on the gradient norm in whitened coordinates, relative to that at f = 0.
    pub tolerance: f64,
    /// Newton steps at most at the target ridge.
    pub max_newton: usize,
    /// Conjugate-gradient steps at most in a Newton step at the target.
    pub max_inner: usize,
    /// Per-sample ridges before the target, falling, all above it; see [`ridge_path`].
    pub path: Vec<f64>,
    /// Newton steps at each of them.
    pub path_newton: usize,
    /// Conjugate-gradient steps at most in each of those.
    pub path_inner: usize,
}

impl Default for LogisticParams {
    fn default() -> Self {
        LogisticParams {
            tolerance: 1e-6,
            max_newton: 50,
            max_inner: 30,
            path: Vec::new(),
            path_newton: 1,
            path_inner: 5,
        }
    }
}

/// Per-sample ridges from `first` down by `factor` > 1, all at least `factor` times above `target`.
///
/// ```
/// use nystream_kernels::solve::logistic::ridge_path;
/// assert_eq!(ridge_path(1e-6, 1e-1, 100.0).len(), 2);
/// assert!(ridge_path(1.0, 1e-1, 100.0).is_empty());
/// ```
pub fn ridge_path(target: f64, first: f64, factor: f64) -> Vec<f64> {
    let mut path = Vec::new();
    let mut ridge = first;
    while factor > 1.0 && target > 0.0 && ridge >= 0.999 * factor * target {
        path.push(ridge);
        ridge /= factor;
    }
    path
}

/// Other weights of the rows of a [`SampleCurvature`], under which they stand for all rows on the average: for degrees of freedom, by [`extrapolated_dimension`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unmixed {
    /// All of them.
    pub all: Vec<f64>,
    /// With half of the sampled rows.
    pub half: Vec<f64>,
    /// Share of the rows that they stand for, and are not.
    pub missing: f64,
}

/// A replicated uniform sample of rows from which the preconditioner's curvature is taken.
#[derive(Clone, Debug)]
pub struct SampleCurvature {
    /// Whitened features K_sm R, s x r.
    pub features: Mat<f64>,
    /// Weight each sampled row stands for: w_i sum w / sum w_s.
    pub weights: Vec<f64>,
    /// Fixed margin offset, one entry an output.
    pub offset: Vec<f64>,
    /// The loss.
    pub loss: LogisticLoss,
    /// p (1 - p) of the iterate, renewed at every Newton step (true), or its bound 1/4, renewed only when the ridge changes.
    pub local: bool,
    /// Weights for the degrees of freedom, where those above are no plain sample's.
    pub unmixed: Option<Unmixed>,
}

impl SampleCurvature {
    /// One preconditioner an output at coordinates `z` (r x t); one for all when the bound is used.
    fn at(&self, z: &Mat<f64>, ridge: f64) -> Result<Vec<Preconditioner>, DenseError> {
        self.with(&self.weights, z, ridge)
    }

    /// Degrees of freedom of every output at `z`, or one for all.
    fn dimensions(&self, z: &Mat<f64>, ridge: f64) -> Result<Vec<f64>, DenseError> {
        let of = |weights: &[f64]| -> Result<Vec<f64>, DenseError> {
            let found = self.with(weights, z, ridge)?;
            Ok(found.iter().map(|p| p.effective_dimension().unwrap_or(0.0)).collect())
        };
        match &self.unmixed {
            None => of(&self.weights),
            Some(Unmixed { all, missing, .. }) if *missing == 0.0 => of(all),
            Some(Unmixed { all, half, missing }) => {
                let rank = self.features.ncols() as f64;
                let both = of(all)?.into_iter().zip(of(half)?);
                Ok(both.map(|(all, few)| extrapolated_dimension(all, few, *missing, rank)).collect())
            }
        }
    }

    fn with(&self, sample: &[f64], z: &Mat<f64>, ridge: f64) -> Result<Vec<Preconditioner>, DenseError> {
        let (s, t) = (self.features.nrows(), z.ncols());
        if !self.local {
            let quarter: Vec<f64> = sample.iter().map(|w| 0.25 * w).collect();
            return Ok(vec![Preconditioner::from_rows(self.features.as_ref(), &quarter, ridge)?]);
        }
        let mut margins = Mat::zeros(s, t);
        gemm(margins.as_mut(), false, 1.0, self.features.as_ref(), z.as_ref(), fixed_parallelism());
        let mut curvature = Mat::<f64>::zeros(t, s);
        let mut row = vec![0.0; t];
        for i in 0..s {
            for k in 0..t {
                row[k] = margins[(i, k)] + self.offset[k];
            }
            let out = curvature.col_as_slice_mut(i);
            self.loss.curvature(&row, out);
            out.iter_mut().for_each(|c| *c *= sample[i]);
        }
        (0..t)
            .map(|k| {
                let weights: Vec<f64> = (0..s).map(|i| curvature[(k, i)]).collect();
                Preconditioner::from_rows(self.features.as_ref(), &weights, ridge)
            })
            .collect()
    }
}

/// One Newton step, as reported.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct NewtonStep {
    /// Per-sample ridge of the step.
    pub ridge: f64,
    /// Mean loss after the step, (1/sum w) sum w l.
    pub loss: f64,
    /// Objective after the step, at this ridge.
    pub objective: f64,
    /// Relative whitened gradient norm after the step, at this ridge.
    pub gradient: f64,
    /// Length taken, 1 for a full step.
    pub length: f64,
    /// Conjugate-gradient steps.
    pub inner: usize,
}

/// What a solve did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogisticInfo {
    /// Every Newton step, in order.
    pub steps: Vec<NewtonStep>,
    /// Relative whitened gradient norm at the coefficients returned, computed from a pass.
    pub gradient: f64,
    /// ||K_nm^T W l' + Lambda K_mm alpha|| / ||K_nm^T W l'(0)||: the unwhitened form, from the same pass.
    pub residual: f64,
    /// Mean loss at the coefficients returned.
    pub loss: f64,
    /// Of each margin, tr(H (H + Lambda I)^-1): H the curvature of the sample's rows at the solution (its bound, where the preconditioner takes that).
    pub effective_dimension: Vec<f64>,
    /// Passes over the data.
    pub applications: usize,
    /// Why it ended.
    pub stopped: Stopped,
}

/// The state between Newton steps, for checkpoints and warm starts: continuing from it gives the same bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct LogisticState {
    /// Coordinates, r x t, column by column.
    coordinates: Vec<f64>,
    outputs: usize,
    /// Ridges of the path already left behind.
    stage: usize,
    /// Newton steps done at the current ridge.
    within: usize,
    steps: Vec<NewtonStep>,
    applications: usize,
    /// Whitened and plain gradient norms at f = 0.
    reference: Option<(f64, f64)>,
}

/// A stage after all ridges of the path, in 32 bits, which is what archives hold.
const BEYOND_THE_PATH: usize = u32::MAX as usize;

impl LogisticInfo {
    /// Newton steps at `ridge`, the target's: what [`LogisticParams::max_newton`] bounds. Those on the path are further up.
    pub fn steps_at(&self, ridge: f64) -> usize {
        self.steps.iter().filter(|step| step.ridge == ridge).count()
    }
}

impl LogisticState {
    /// Starts at the target ridge from coefficients of a nearby problem (m x t).
    pub fn warm(whitening: &(impl Whitening + ?Sized), alpha: MatRef<'_, f64>) -> Self {
        let z = whitening.coordinates(alpha);
        LogisticState { stage: BEYOND_THE_PATH, ..LogisticState::at(&z) }
    }

    fn at(z: &Mat<f64>) -> Self {
        let coordinates = (0..z.ncols()).flat_map(|j| z.col_as_slice(j).to_vec()).collect();
        LogisticState {
            coordinates,
            outputs: z.ncols(),
            stage: 0,
            within: 0,
            steps: Vec::new(),
            applications: 0,
            reference: None,
        }
    }

    /// Whether it has so many coordinates and outputs: it may have been read from a file.
    pub fn fits(&self, coordinates: usize, outputs: usize) -> bool {
        self.outputs == outputs && self.coordinates.len() == coordinates * outputs
    }

    /// Every Newton step so far.
    pub fn steps(&self) -> &[NewtonStep] {
        &self.steps
    }
}

/// Minimises (1/sum w) sum w l + (`ridge`/2) ||f||^2 and returns alpha (m x t) and what was done.
///
/// `ridge` is the per-sample lambda, positive; `weight_sum` is sum w. `observe` sees the coefficients and the state after every Newton
/// step, may store it, and may stop the solve.
///
/// # Errors
/// The operator's error, shapes that disagree, parameters out of range, non-finite values or non-positive curvature.
///
/// ```
/// use faer::{Mat, MatRef, mat};
/// use nystream_kernels::solve::{Stopped, Whitening, logistic::*};
/// use std::{convert::Infallible, ops::ControlFlow};
///
/// struct One; // A single center with k(z, z) = 1.
/// impl Whitening for One {
///     fn centers(&self) -> usize { 1 }
///     fn rank(&self) -> usize { 1 }
///     fn apply(&self, z: MatRef<'_, f64>) -> Mat<f64> { z.to_owned() }
///     fn apply_transpose(&self, v: MatRef<'_, f64>) -> Mat<f64> { v.to_owned() }
///     fn center_gram(&self, alpha: MatRef<'_, f64>) -> Mat<f64> { alpha.to_owned() }
/// }
/// struct Rows; // Three rows with kernel value 1, of classes 1, 1, 0.
/// const LOSS: LogisticLoss = LogisticLoss::Binary;
/// impl LogisticOperator for Rows {
///     type Error = Infallible;
///     fn centers(&self) -> usize { 1 }
///     fn outputs(&self) -> usize { 1 }
///     fn gradient(&mut self, alpha: MatRef<'_, f64>) -> Result<(f64, Mat<f64>), Infallible> {
///         let (mut loss, mut sum, mut g) = (0.0, 0.0, [0.0]);
///         for label in [1, 1, 0] {
///             loss += LOSS.gradient(&[alpha[(0, 0)]], label, &mut g);
///             sum += g[0];
///         }
///         Ok((loss, mat![[sum]]))
///     }
///     fn hessian(&mut self, alpha: MatRef<'_, f64>, v: MatRef<'_, f64>) -> Result<Mat<f64>, Infallible> {
///         let mut h = [0.0];
///         LOSS.hessian_times(&[alpha[(0, 0)]], &[v[(0, 0)]], &mut h);
///         Ok(mat![[3.0 * h[0]]])
///     }
/// }
/// let sample = SampleCurvature {
///     features: mat![[1.0]], weights: vec![3.0], offset: vec![0.0], loss: LOSS, local: true, unmixed: None,
/// };
/// let params = LogisticParams::default();
/// let (alpha, info) =
///     logistic(&mut Rows, &One, &sample, 3.0, 1e-9, &params, None, |_, _| ControlFlow::Continue(())).unwrap();
/// assert_eq!(info.stopped, Stopped::Converged);
/// assert!((alpha[(0, 0)] - 2f64.ln()).abs() < 1e-5); // Odds 2 : 1.
/// ```
#[allow(clippy::too_many_arguments)] // One argument per part of the problem; a struct would only rename them.
pub fn logistic<O: LogisticOperator>(
    operator: &mut O,
    whitening: &(impl Whitening + ?Sized),
    curvature: &SampleCurvature,
    weight_sum: f64,
    ridge: f64,
    params: &LogisticParams,
    start: Option<LogisticState>,
    mut observe: impl FnMut(&Mat<f64>, &LogisticState) -> ControlFlow<()>,
) -> Result<(Mat<f64>, LogisticInfo), SolveError<O::Error>> {
    let (r, t) = (whitening.rank(), operator.outputs());
    SolveError::check("centers of the operator", whitening.centers(), operator.centers())?;
    SolveError::check("margins of the loss", t, curvature.loss.outputs())?;
    SolveError::check("entries of the offset", t, curvature.offset.len())?;
    SolveError::check("coordinates of the sample", r, curvature.features.ncols())?;
    SolveError::check("weights of the sample", curvature.features.nrows(), curvature.weights.len())?;
    for (name, value) in [("ridge", ridge), ("weight_sum", weight_sum)] {
        if value <= 0.0 || !value.is_finite() {
            return Err(SolveError::Parameter { name, value, must: "finite and above 0" });
        }
    }
    let mut state = start.unwrap_or_else(|| LogisticState::at(&Mat::zeros(r, t)));
    SolveError::check("outputs of the start", t, state.outputs)?;
    SolveError::check("coordinates of the start", r * t, state.coordinates.len())?;
    let shift_free = matches!(curvature.loss, LogisticLoss::Softmax { .. });
    let mut newton = Newton { operator, shift_free, whitening, weight_sum, passes: state.applications };

    let mut z = Mat::from_fn(r, t, |i, j| state.coordinates[j * r + i]);
    if shift_free && state.reference.is_none() {
        centre(&mut z);
    }
    let mut point = newton.evaluate(&z)?;
    let (reference, plain_reference) = match state.reference {
        Some(both) => {
            // The pass that found this point again was paid for before the interruption.
            newton.passes -= 1;
            both
        }
        None => {
            let zero = if squares(&z) == 0.0 { point.clone() } else { newton.evaluate(&Mat::zeros(r, t))? };
            (squares(&zero.whitened).sqrt(), squares(&zero.gradient).sqrt())
        }
    };
    state.reference = Some((reference, plain_reference));
    let relative = |x: f64, reference: f64| if reference > 0.0 { x / reference } else { 0.0 };

    let mut cached: Option<(f64, Vec<Preconditioner>)> = None;
    let mut stopped = None;
    while stopped.is_none() {
        let on_path = state.stage < params.path.len();
        let lambda = if on_path { params.path[state.stage] } else { ridge };
        let matrix_ridge = lambda * weight_sum;
        let gradient = point.with_ridge(matrix_ridge, &z);
        let norm = relative(squares(&gradient).sqrt(), reference);
        let (limit, inner) =
            if on_path { (params.path_newton, params.path_inner) } else { (params.max_newton, params.max_inner) };
        if norm <= params.tolerance || state.within >= limit {
            if on_path {
                (state.stage, state.within) = (state.stage + 1, 0);
                continue;
            }
            stopped = Some(if norm <= params.tolerance { Stopped::Converged } else { Stopped::MaxIterations });
            continue;
        }
        if newton.operator.stop().map_err(SolveError::Operator)? {
            stopped = Some(Stopped::Asked);
            continue;
        }
        if curvature.local || cached.as_ref().is_none_or(|(at, _)| *at != lambda) {
            drop(cached.take()); // The old factors are freed before the new ones are made.
            cached = Some((lambda, curvature.at(&z, matrix_ridge)?));
        }
        let blocks = cached.as_ref().map_or(&[][..], |(_, blocks)| blocks);
        // Forcing term: superlinear in the end, cheap far from it (Eisenstat and Walker 1996).
        let forcing = norm.sqrt().min(0.1);
        let (direction, inner) =
            newton.direction(&point, &gradient, matrix_ridge, blocks, forcing, inner, state.steps.len())?;
        let Some((next, length)) = newton.search(&z, &point, &gradient, &direction, matrix_ridge)? else {
            if on_path {
                (state.stage, state.within) = (state.stage + 1, 0);
                continue;
            }
            stopped = Some(Stopped::Stagnated);
            continue;
        };
        (z, point) = next;
        state.within += 1;
        state.applications = newton.passes;
        state.coordinates = (0..t).flat_map(|j| z.col_as_slice(j).to_vec()).collect();
        state.steps.push(NewtonStep {
            ridge: lambda,
            loss: point.loss / weight_sum,
            objective: point.objective(matrix_ridge, &z) / weight_sum,
            gradient: relative(squares(&point.with_ridge(matrix_ridge, &z)).sqrt(), reference),
            length,
            inner,
        });
        if observe(&point.alpha, &state).is_break() {
            stopped = Some(Stopped::Asked);
        }
    }
    let matrix_ridge = ridge * weight_sum;
    drop(cached.take());
    let found = curvature.dimensions(&z, matrix_ridge)?;
    let dimension = |k: usize| found.get(k).or(found.first()).copied();
    let smooth = whitening.center_gram(point.alpha.as_ref());
    let plain = &point.gradient + faer::Scale(matrix_ridge) * smooth;
    let info = LogisticInfo {
        steps: state.steps,
        gradient: relative(squares(&point.with_ridge(matrix_ridge, &z)).sqrt(), reference),
        residual: relative(squares(&plain).sqrt(), plain_reference),
        loss: point.loss / weight_sum,
        effective_dimension: (0..t).map(|k| dimension(k).unwrap_or(0.0)).collect(),
        applications: newton.passes,
        stopped: stopped.unwrap_or(Stopped::MaxIterations),
    };
    Ok((point.alpha, info))
}

/// Everything a pass says about one point.
#[derive(Clone)]
struct Point {
    alpha: Mat<f64>,
    loss: f64,
    /// K_nm^T W l', m x t.
    gradient: Mat<f64>,
    /// R^T of it, r x t.
    whitened: Mat<f64>,
}

impl Point {
    fn with_ridge(&self, ridge: f64, z: &Mat<f64>) -> Mat<f64> {
        &self.whitened + faer::Scale(ridge) * z
    }

    fn objective(&self, ridge: f64, z: &Mat<f64>) -> f64 {
        self.loss + 0.5 * ridge * squares(z)
    }
}

struct Newton<'a, O, W: ?Sized> {
    operator: &'a mut O,
    /// Whether the loss sees differences of margins alone.
    shift_free: bool,
    whitening: &'a W,
    weight_sum: f64,
    passes: usize,
}

/// Share of the predicted decrease that a step must achieve (Armijo 1966).
const ARMIJO: f64 = 1e-4;
/// Halvings before a direction is given up.
const HALVINGS: usize = 30;

impl<O: LogisticOperator, W: Whitening + ?Sized> Newton<'_, O, W> {
    fn evaluate(&mut self, z: &Mat<f64>) -> Result<Point, SolveError<O::Error>> {
        let alpha = self.whitening.apply(z.as_ref());
        self.passes += 1;
        let (loss, gradient) = self.operator.gradient(alpha.as_ref()).map_err(SolveError::Operator)?;
        SolveError::check("rows of the gradient", self.whitening.centers(), gradient.nrows())?;
        SolveError::check("columns of the gradient", z.ncols(), gradient.ncols())?;
        let whitened = self.whitening.apply_transpose(gradient.as_ref());
        for j in 0..z.ncols() {
            let finite = loss.is_finite() && whitened.col_as_slice(j).iter().all(|v| v.is_finite());
            if !finite {
                return Err(SolveError::NotFinite { what: "the gradient", iteration: self.passes - 1, column: j });
            }
        }
        Ok(Point { alpha, loss, gradient, whitened })
    }

    /// Solves H d = -g to a relative residual of `forcing` in the norm of the preconditioner.
    #[allow(clippy::too_many_arguments)]
    fn direction(
        &mut self,
        point: &Point,
        gradient: &Mat<f64>,
        ridge: f64,
        blocks: &[Preconditioner],
        forcing: f64,
        limit: usize,
        iteration: usize,
    ) -> Result<(Mat<f64>, usize), SolveError<O::Error>> {
        let (rank, t) = (gradient.nrows(), gradient.ncols());
        let precondition = |r: &Mat<f64>| {
            if let [one] = blocks {
                return one.apply(r.as_ref());
            }
            let mut out = Mat::zeros(rank, t);
            for (k, block) in blocks.iter().enumerate() {
                out.col_mut(k).copy_from(block.apply(r.as_ref().subcols(k, 1)).col(0));
            }
            // Blocks that differ would lead where the loss is flat and they are not: Lambda against sum p (1 - p), for which conjugate gradients pay.
            if self.shift_free {
                centre(&mut out);
            }
            out
        };
        let mut d = Mat::<f64>::zeros(rank, t);
        let mut r = faer::Scale(-1.0) * gradient;
        let mut p = precondition(&r);
        let mut rz = inner(&r, &p);
        let start = rz;
        let mut done = 0;
        while done < limit.max(1) && rz > forcing * forcing * start {
            // What was found so far is a direction of descent.
            if done > 0 && self.operator.stop().map_err(SolveError::Operator)? {
                break;
            }
            let direction = self.whitening.apply(p.as_ref());
            self.passes += 1;
            let image =
                self.operator.hessian(point.alpha.as_ref(), direction.as_ref()).map_err(SolveError::Operator)?;
            let q = self.whitening.apply_transpose(image.as_ref()) + faer::Scale(ridge) * &p;
            let curvature = inner(&p, &q);
            if curvature.is_nan() || curvature <= 0.0 {
                let residual = (rz / start).sqrt();
                return Err(SolveError::Indefinite { what: "the Hessian", iteration, column: 0, curvature, residual });
            }
            let a = rz / curvature;
            d += faer::Scale(a) * &p;
            r -= faer::Scale(a) * &q;
            let z = precondition(&r);
            let before = std::mem::replace(&mut rz, inner(&r, &z));
            p = z + faer::Scale(rz / before) * &p;
            done += 1;
        }
        Ok((d, done))
    }

    /// Halves the step until the objective falls enough; `None` when rounding leaves no such step.
    #[allow(clippy::type_complexity)]
    fn search(
        &mut self,
        z: &Mat<f64>,
        point: &Point,
        gradient: &Mat<f64>,
        direction: &Mat<f64>,
        ridge: f64,
    ) -> Result<Option<((Mat<f64>, Point), f64)>, SolveError<O::Error>> {
        let slope = inner(gradient, direction);
        let here = point.objective(ridge, z);
        let norm = squares(gradient);
        // Below this the objective cannot tell two points apart, and the gradient decides.
        let rounding = 16.0 * f64::EPSILON * here.abs().max(f64::MIN_POSITIVE * self.weight_sum);
        let mut length = 1.0;
        for _ in 0..HALVINGS {
            let trial = z + faer::Scale(length) * direction;
            let next = self.evaluate(&trial)?;
            let there = next.objective(ridge, &trial);
            let falls = there <= here + ARMIJO * length * slope;
            let level = there <= here + rounding && squares(&next.with_ridge(ridge, &trial)) < 0.9 * norm;
            if falls && there < here - rounding || level {
                return Ok(Some(((trial, next), length)));
            }
            if -length * slope < rounding {
                break;
            }
            length *= 0.5;
        }
        Ok(None)
    }
}

/// Takes the mean over the margins off each coordinate. Softmax sees no common shift of its margins, and the ridge lets none stand: iterates, gradients and
/// directions all sum to nothing.
fn centre(z: &mut Mat<f64>) {
    let t = z.ncols();
    for i in 0..z.nrows() {
        let mean = (0..t).map(|j| z[(i, j)]).sum::<f64>() / t as f64;
        (0..t).for_each(|j| z[(i, j)] -= mean);
    }
}

fn inner(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    (0..a.ncols()).map(|j| super::vectors::dot(a.col_as_slice(j), b.col_as_slice(j))).sum()
}
