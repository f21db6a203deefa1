//! Preconditioned conjugate gradients on the whitened normal equations, many outputs at once.
//!
//! Problem: (K_nm^T W K_nm + Lambda K_mm) alpha = b with b = K_nm^T W y. With alpha = R z this is
//! A z = R^T b, A = R^T K_nm^T W K_nm R + Lambda I: the condition number no longer holds that of K_mm, and Lambda I is exact.
//! A preconditioner P of A ([`Preconditioner`]) makes it Falkon (Rudi, Carratino, Rosasco 2017) or its spectral cousin.
//!
//! Invariants
//! * Columns do not mix: each has its own scalars, and the iterates of a block are those of single solves (to rounding of products).
//! * The stopping test is the *true* relative residual, ||b - K_nm^T W K_nm alpha - Lambda K_mm alpha|| / ||b||,
//!   computed from an application of the operator to alpha itself. The recursion is only believed enough to decide when to look
//!   (solvers.md section 2, trap 3: recursive 1e-3 while true 0.3).
//! * The z-recursion subtracts Lambda p, not Lambda R^T K_mm R p: the round trip would lose cond(K_mm) eps.
//! * Passes are few: looking at one column shares the pass that steps the others, and every `restart_every` passes a column that
//!   steps is looked at in the same pass (twice the columns, no further kernel entry), its residual being replaced by the true one
//!   (van der Vorst and Ye, SIAM J. Sci. Comput. 22, 2000).
//!
//! Cost: one pass an iteration, plus one to look at the end, plus one for a warm start; per pass and column about
//! m^2 flops for each of R, R^T, K_mm R and P^-1, and for K_mm of an iterate that is looked at. State: 5 vectors a column.
//!
//! [`Pcg`] is the state machine, replicated on every worker; [`pcg`] drives it with a [`NormalOperator`].

mod column;
mod lanczos;
mod report;
#[cfg(test)]
mod tests;

use super::vectors::{axpy, column, dot, from_columns, norm};
use super::{Preconditioner, SolveError, Stopped, Whitening};
use column::{Action, Column};
use faer::{Mat, MatRef};
pub use report::{PcgInfo, PcgParams, PcgProgress};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// The data side of the normal equations.
pub trait NormalOperator {
    /// What a pass can fail with.
    type Error;
    /// Number of centers m.
    fn centers(&self) -> usize;
    /// K_nm^T W K_nm v for v (m x k): one pass over the data, summed in f64.
    fn apply(&mut self, v: MatRef<'_, f64>) -> Result<Mat<f64>, Self::Error>;
    /// The same where W depends on the output: column c of `v` belongs to output `outputs[c]`. An output may occur twice.
    ///
    /// Override this when targets are missing in different rows.
    fn apply_columns(&mut self, outputs: &[usize], v: MatRef<'_, f64>) -> Result<Mat<f64>, Self::Error> {
        let _ = outputs;
        self.apply(v)
    }
}

/// The whole state of a solve, for checkpoints: [`Pcg::restore`] continues to the same bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct PcgSnapshot {
    columns: Vec<Column>,
    iterations: usize,
    applications: usize,
    columns_applied: usize,
    asked: bool,
}

/// The state machine of the solve: ask for a [`Pcg::block`], multiply it, [`Pcg::advance`].
///
/// ```
/// use faer::{Mat, MatRef, mat};
/// use nystream_kernels::solve::{Preconditioner, Stopped, Whitening, pcg::{Pcg, PcgParams}};
/// use std::convert::Infallible;
///
/// struct Identity; // K_mm = I
/// impl Whitening for Identity {
///     fn centers(&self) -> usize { 2 }
///     fn rank(&self) -> usize { 2 }
///     fn apply(&self, z: MatRef<'_, f64>) -> Mat<f64> { z.to_owned() }
///     fn apply_transpose(&self, v: MatRef<'_, f64>) -> Mat<f64> { v.to_owned() }
///     fn center_gram(&self, alpha: MatRef<'_, f64>) -> Mat<f64> { alpha.to_owned() }
/// }
/// let (a, p) = (mat![[2.0, 1.0], [1.0, 3.0]], Preconditioner::identity());
/// let rhs = mat![[3.0], [4.0]];
/// let new = || Pcg::new::<Infallible>(&Identity, &p, rhs.as_ref(), 0.0, PcgParams::default(), None);
/// let mut state = new()?;
/// while let Some((_, block)) = state.block() {
///     state.advance::<Infallible>(block.as_ref(), (&a * &block).as_ref())?;
///     // Killed here, another machine goes on to the same bits.
///     let stored = state.snapshot().clone();
///     state = new()?;
///     state.restore::<Infallible>(stored)?;
/// }
/// assert!((state.alpha()[(0, 0)] - 1.0).abs() < 1e-12 && (state.alpha()[(1, 0)] - 1.0).abs() < 1e-12);
/// assert_eq!(state.info().stopped, Stopped::Converged);
/// # Ok::<(), nystream_kernels::solve::SolveError<Infallible>>(())
/// ```
pub struct Pcg<'a, W: ?Sized> {
    whitening: &'a W,
    preconditioner: &'a Preconditioner,
    rhs: Mat<f64>,
    ridge: f64,
    params: PcgParams,
    state: PcgSnapshot,
}

impl<'a, W: Whitening + ?Sized> Pcg<'a, W> {
    /// Starts from zero, or from the coefficients `warm_start` (m x t) of a nearby problem.
    ///
    /// # Errors
    /// Shapes that disagree, parameters out of range, or a right-hand side that is not finite.
    pub fn new<E>(
        whitening: &'a W,
        preconditioner: &'a Preconditioner,
        rhs: MatRef<'_, f64>,
        ridge: f64,
        params: PcgParams,
        warm_start: Option<MatRef<'_, f64>>,
    ) -> Result<Self, SolveError<E>> {
        let (m, t) = (whitening.centers(), rhs.ncols());
        SolveError::check("rows of the right-hand side", m, rhs.nrows())?;
        if params.tolerance.is_nan() || params.tolerance < 0.0 {
            return Err(SolveError::Parameter { name: "tolerance", value: params.tolerance, must: "at least 0" });
        }
        if !(ridge >= 0.0 && ridge.is_finite()) {
            return Err(SolveError::Parameter { name: "ridge", value: ridge, must: "finite and at least 0" });
        }
        if params.restart_every == 0 {
            return Err(SolveError::Parameter { name: "restart_every", value: 0.0, must: "at least 1" });
        }
        let start = match warm_start {
            Some(alpha) => {
                SolveError::check("rows of the warm start", m, alpha.nrows())?;
                SolveError::check("columns of the warm start", t, alpha.ncols())?;
                Some((alpha, whitening.coordinates(alpha)))
            }
            None => None,
        };
        let whitened = whitening.apply_transpose(rhs);
        let first = preconditioner.apply(whitened.as_ref());
        let mut columns = Vec::with_capacity(t);
        for j in 0..t {
            let (rho, r) = (column(rhs, j), column(whitened.as_ref(), j));
            if !norm(&rho).is_finite() {
                return Err(SolveError::NotFinite { what: "the right-hand side", iteration: 0, column: j });
            }
            let begin = start.as_ref().map(|(alpha, z)| (column(*alpha, j), column(z.as_ref(), j)));
            let c = Column::new(m, rho, r, column(first.as_ref(), j), begin);
            check_preconditioner(&c, 0, j)?;
            columns.push(c);
        }
        let state = PcgSnapshot { columns, iterations: 0, applications: 0, columns_applied: 0, asked: false };
        let mut this = Pcg { whitening, preconditioner, rhs: rhs.to_owned(), ridge, params, state };
        this.enforce_limits();
        Ok(this)
    }

    /// The state, to be stored.
    pub fn snapshot(&self) -> &PcgSnapshot {
        &self.state
    }

    /// Continues from a stored state; the other arguments of [`Pcg::new`] must be those of the first run.
    ///
    /// # Errors
    /// A snapshot of another number of centers or outputs.
    pub fn restore<E>(&mut self, snapshot: PcgSnapshot) -> Result<(), SolveError<E>> {
        SolveError::check("columns of the snapshot", self.rhs.ncols(), snapshot.columns.len())?;
        for c in &snapshot.columns {
            SolveError::check("rows of the snapshot", self.rhs.nrows(), c.alpha.len())?;
            SolveError::check("residuals of the snapshot", self.rhs.nrows(), c.rho.len())?;
            for part in [&c.z, &c.r, &c.p, &c.whitened_rhs] {
                SolveError::check("coordinates of the snapshot", self.whitening.rank(), part.len())?;
            }
        }
        self.state = snapshot;
        Ok(())
    }

    /// The next block to multiply by K_nm^T W K_nm, and the output each of its columns belongs to; `None` when done.
    pub fn block(&self) -> Option<(Vec<usize>, Mat<f64>)> {
        let stepping = self.with(Action::steps);
        let looking = self.with(Action::looks);
        if stepping.is_empty() && looking.is_empty() {
            return None;
        }
        let directions = self.gather(self.whitening.rank(), &stepping, |c| &c.p);
        let directions = self.whitening.apply(directions.as_ref());
        let mut columns: Vec<&[f64]> = (0..stepping.len()).map(|c| directions.col_as_slice(c)).collect();
        columns.extend(looking.iter().map(|&j| self.state.columns[j].alpha.as_slice()));
        let block = from_columns(self.whitening.centers(), &columns);
        Some((stepping.into_iter().chain(looking).collect(), block))
    }

    /// Takes K_nm^T W K_nm times the `block` of the last [`Pcg::block`] (both m x k).
    ///
    /// # Errors
    /// A product that is not finite, or curvature that is not positive.
    pub fn advance<E>(&mut self, block: MatRef<'_, f64>, products: MatRef<'_, f64>) -> Result<(), SolveError<E>> {
        let stepping = self.with(Action::steps);
        let looking = self.with(Action::looks);
        let m = self.whitening.centers();
        let k = stepping.len() + looking.len();
        SolveError::check("rows of the products", m, products.nrows())?;
        SolveError::check("columns of the products", k, products.ncols())?;
        SolveError::check("columns of the block", k, block.ncols())?;
        self.state.applications += 1;
        self.state.columns_applied += k;
        let directions = self.gather(self.whitening.rank(), &stepping, |c| &c.p);
        let along = self.whitening.values_at_centers(directions.as_ref());
        let at_iterates = self.whitening.center_gram(block.subcols(stepping.len(), looking.len()));
        let whitened = self.whitening.apply_transpose(products);

        for (slot, &j) in looking.iter().enumerate() {
            let values = column(at_iterates.as_ref(), slot);
            self.look(j, products, &values, whitened.as_ref(), stepping.len() + slot)?;
        }
        let mut moved = Vec::new();
        for (slot, &j) in stepping.iter().enumerate() {
            if self.state.columns[j].next.is_done() {
                continue; // The look in this very pass ended it: the iterate stays.
            }
            let direction = column(block, slot);
            let image = column(products, slot);
            if self.step(j, &direction, &image, &column(along.as_ref(), slot), &column(whitened.as_ref(), slot))? {
                moved.push(j);
            }
        }
        self.state.iterations += usize::from(!moved.is_empty());
        self.redirect(&moved, &looking)?;
        self.enforce_limits();
        Ok(())
    }

    /// Replaces the residuals of output `j` by those of an application to its iterate, and tests for the end.
    fn look<E>(
        &mut self,
        j: usize,
        products: MatRef<'_, f64>,
        smooth: &[f64],
        whitened: MatRef<'_, f64>,
        slot: usize,
    ) -> Result<(), SolveError<E>> {
        let (ridge, tolerance) = (self.ridge, self.params.tolerance);
        let iteration = self.state.iterations;
        let b = column(self.rhs.as_ref(), j);
        let c = &mut self.state.columns[j];
        let rho: Vec<f64> = (0..b.len()).map(|i| b[i] - products[(i, slot)] - ridge * smooth[i]).collect();
        let r: Vec<f64> = (0..c.z.len()).map(|i| c.whitened_rhs[i] - whitened[(i, slot)] - ridge * c.z[i]).collect();
        if !norm(&rho).is_finite() || !norm(&r).is_finite() {
            return Err(SolveError::NotFinite { what: "the residual", iteration, column: j });
        }
        c.look(rho, r, tolerance);
        Ok(())
    }

    /// One conjugate-gradient step of output `j`; false when rounding leaves no step to take.
    fn step<E>(
        &mut self,
        j: usize,
        direction: &[f64],
        image: &[f64],
        smooth: &[f64],
        whitened: &[f64],
    ) -> Result<bool, SolveError<E>> {
        let ridge = self.ridge;
        let iteration = self.state.iterations;
        let c = &mut self.state.columns[j];
        let mut q = whitened.to_vec();
        axpy(&mut q, ridge, &c.p);
        let (curvature, slope) = (dot(&c.p, &q), dot(&c.p, &c.r));
        if !curvature.is_finite() {
            return Err(SolveError::NotFinite { what: "the curvature", iteration, column: j });
        }
        if curvature <= 0.0 {
            // At the rounding floor the direction is noise; anywhere else the operator is broken.
            if c.at_floor(curvature) {
                c.finish(Stopped::Stagnated);
                return Ok(false);
            }
            let residual = c.residual;
            return Err(SolveError::Indefinite { what: "the operator", iteration, column: j, curvature, residual });
        }
        let a = slope / curvature;
        let p = std::mem::take(&mut c.p);
        axpy(&mut c.z, a, &p);
        axpy(&mut c.alpha, a, direction);
        axpy(&mut c.rho, -a, image);
        axpy(&mut c.rho, -a * ridge, smooth);
        axpy(&mut c.r, -a, &q);
        c.p = p;
        c.stepped(a, a * slope, curvature);
        c.residual = norm(&c.rho) / c.norm_rhs;
        Ok(true)
    }

    /// New directions for the outputs that stepped or were looked at, and what they do in the next pass.
    fn redirect<E>(&mut self, moved: &[usize], looked: &[usize]) -> Result<(), SolveError<E>> {
        let iteration = self.state.iterations;
        let touched: Vec<usize> = (0..self.state.columns.len())
            .filter(|j| (moved.contains(j) || looked.contains(j)) && !self.state.columns[*j].next.is_ending())
            .collect();
        if touched.is_empty() {
            return Ok(());
        }
        let residuals = self.gather(self.whitening.rank(), &touched, |c| &c.r);
        let preconditioned = self.preconditioner.apply(residuals.as_ref());
        for (slot, &j) in touched.iter().enumerate() {
            let c = &mut self.state.columns[j];
            c.redirect(preconditioned.col_as_slice(slot), moved.contains(&j));
            check_preconditioner(c, iteration, j)?;
            c.plan(self.params.tolerance, self.params.restart_every);
        }
        Ok(())
    }

    /// After the last permitted step, or when asked, columns that still move are looked at once and then rest.
    fn enforce_limits(&mut self) {
        let why = if self.state.asked {
            Stopped::Asked
        } else if self.state.iterations >= self.params.max_iterations {
            Stopped::MaxIterations
        } else {
            return;
        };
        for c in &mut self.state.columns {
            if !c.next.is_done() {
                c.finish(why);
            }
        }
    }

    /// Ends the solve after one more look at the columns that have moved since the last.
    pub fn stop(&mut self) {
        self.state.asked = true;
        self.enforce_limits();
    }

    /// Steps so far.
    pub fn iterations(&self) -> usize {
        self.state.iterations
    }

    /// Current coefficients, m x t.
    pub fn alpha(&self) -> Mat<f64> {
        let all: Vec<usize> = (0..self.state.columns.len()).collect();
        self.gather(self.whitening.centers(), &all, |c| &c.alpha)
    }

    /// Relative residual of each column: the recursion's, or the true one where it was just looked at.
    pub fn residuals(&self) -> Vec<f64> {
        self.state.columns.iter().map(|c| c.residual).collect()
    }

    /// The report; residuals are meaningful once [`Pcg::block`] has returned `None`.
    pub fn info(&self) -> PcgInfo {
        let s = &self.state;
        let columns: Vec<Stopped> = s.columns.iter().map(Column::stopped).collect();
        PcgInfo {
            iterations: s.iterations,
            residuals: s.columns.iter().map(|c| c.verified.unwrap_or(c.residual)).collect(),
            recursive_residuals: s.columns.iter().map(|c| c.believed).collect(),
            whitened_residuals: s.columns.iter().map(|c| c.whitened).collect(),
            condition_estimate: s.columns.iter().map(|c| lanczos::condition(c.longest())).fold(1.0, f64::max),
            applications: s.applications,
            columns_applied: s.columns_applied,
            stopped: columns.iter().copied().max().unwrap_or(Stopped::Converged),
            columns,
        }
    }

    fn with(&self, test: impl Fn(Action) -> bool) -> Vec<usize> {
        (0..self.state.columns.len()).filter(|&j| test(self.state.columns[j].next)).collect()
    }

    fn gather(&self, rows: usize, which: &[usize], part: impl Fn(&Column) -> &Vec<f64>) -> Mat<f64> {
        let parts: Vec<&[f64]> = which.iter().map(|&j| part(&self.state.columns[j]).as_slice()).collect();
        from_columns(rows, &parts)
    }
}

fn check_preconditioner<E>(c: &Column, iteration: usize, column: usize) -> Result<(), SolveError<E>> {
    if c.rz.is_finite() && c.rz >= 0.0 {
        return Ok(());
    }
    Err(SolveError::Indefinite { what: "the preconditioner", iteration, column, curvature: c.rz, residual: c.residual })
}

/// Solves (K_nm^T W K_nm + `ridge` K_mm) alpha = `rhs` and returns alpha (m x t) and what was done.
///
/// `ridge` is the matrix ridge. `observe` is called after every pass and may stop the solve (one more pass then
/// measures the residual). The answer does not depend on how the columns are grouped into calls, to rounding.
///
/// # Errors
/// The operator's error, shapes that disagree, non-finite values, or an operator that is not positive definite.
///
/// ```
/// use faer::{Mat, MatRef, mat};
/// use nystream_kernels::solve::{Preconditioner, Whitening, pcg::*};
/// use std::{convert::Infallible, ops::ControlFlow};
///
/// struct Identity; // K_mm = I
/// impl Whitening for Identity {
///     fn centers(&self) -> usize { 2 }
///     fn rank(&self) -> usize { 2 }
///     fn apply(&self, z: MatRef<'_, f64>) -> Mat<f64> { z.to_owned() }
///     fn apply_transpose(&self, v: MatRef<'_, f64>) -> Mat<f64> { v.to_owned() }
///     fn center_gram(&self, alpha: MatRef<'_, f64>) -> Mat<f64> { alpha.to_owned() }
/// }
/// struct Data(Mat<f64>);
/// impl NormalOperator for Data {
///     type Error = Infallible;
///     fn centers(&self) -> usize { 2 }
///     fn apply(&mut self, v: MatRef<'_, f64>) -> Result<Mat<f64>, Infallible> { Ok(self.0.transpose() * (&self.0 * v)) }
/// }
/// let mut data = Data(mat![[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]);
/// let rhs = data.0.transpose() * mat![[1.0], [2.0], [2.0]];
/// let (alpha, info) =
///     pcg(&mut data, &Identity, &Preconditioner::identity(), rhs.as_ref(), 0.0, PcgParams::default(), None, |_| {
///         ControlFlow::Continue(())
///     })
///     .unwrap();
/// assert!((alpha[(0, 0)] - 1.0).abs() < 1e-9 && (alpha[(1, 0)] - 1.0).abs() < 1e-9);
/// assert!(info.iterations <= 2 && info.residuals[0] < 1e-12);
/// ```
#[allow(clippy::too_many_arguments)] // One argument per part of the problem; a struct would only rename them.
pub fn pcg<O: NormalOperator>(
    operator: &mut O,
    whitening: &(impl Whitening + ?Sized),
    preconditioner: &Preconditioner,
    rhs: MatRef<'_, f64>,
    ridge: f64,
    params: PcgParams,
    warm_start: Option<MatRef<'_, f64>>,
    mut observe: impl FnMut(&PcgProgress<'_>) -> ControlFlow<()>,
) -> Result<(Mat<f64>, PcgInfo), SolveError<O::Error>> {
    SolveError::check("centers of the operator", whitening.centers(), operator.centers())?;
    let mut state = Pcg::new(whitening, preconditioner, rhs, ridge, params, warm_start)?;
    while let Some((outputs, block)) = state.block() {
        let products = operator.apply_columns(&outputs, block.as_ref()).map_err(SolveError::Operator)?;
        state.advance(block.as_ref(), products.as_ref())?;
        let (alpha, residuals) = (state.alpha(), state.residuals());
        let progress = PcgProgress {
            iteration: state.state.iterations,
            applications: state.state.applications,
            alpha: &alpha,
            residuals: &residuals,
        };
        if observe(&progress).is_break() && !state.state.asked {
            state.stop();
        }
    }
    Ok((state.alpha(), state.info()))
}
