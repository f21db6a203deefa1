//! The state of one output of a block solve.

use super::super::Stopped;
use super::super::vectors::{axpy, dot, norm};
use serde::{Deserialize, Serialize};

/// What a column does in the next pass.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub(super) enum Action {
    /// Move along the direction.
    Step,
    /// Move, and replace the residual by the true one in the same pass.
    StepAndLook,
    /// Compute the true residual only: the recursion says the tolerance is met, or the start is a warm one.
    Look,
    /// Compute the true residual, then rest for this reason.
    Final(Stopped),
    /// At rest.
    Done(Stopped),
}

impl Action {
    pub(super) fn steps(self) -> bool {
        matches!(self, Action::Step | Action::StepAndLook)
    }

    pub(super) fn looks(self) -> bool {
        matches!(self, Action::StepAndLook | Action::Look | Action::Final(_))
    }

    pub(super) fn is_done(self) -> bool {
        matches!(self, Action::Done(_))
    }

    pub(super) fn is_ending(self) -> bool {
        matches!(self, Action::Done(_) | Action::Final(_))
    }
}

/// Share of the whitened residual by which recursion and truth may differ before the direction is restarted.
const DRIFT: f64 = 0.1;
/// The recursion must be this far below the tolerance before a pass is spent on looking.
const MARGIN: f64 = 0.95;
/// A restart that does not at least halve the true residual ends the column.
const PROGRESS: f64 = 0.5;
/// Steps kept for the condition estimate.
const RUN: usize = 400;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) struct Column {
    /// Coefficients, m.
    pub alpha: Vec<f64>,
    /// Their coordinates, r.
    pub z: Vec<f64>,
    /// b - K_nm^T W K_nm alpha - Lambda K_mm alpha, m.
    pub rho: Vec<f64>,
    /// R^T b - A z, r.
    pub r: Vec<f64>,
    /// Direction, r.
    pub p: Vec<f64>,
    /// R^T b.
    pub whitened_rhs: Vec<f64>,
    pub norm_rhs: f64,
    norm_whitened: f64,
    /// r . P^-1 r.
    pub rz: f64,
    pub next: Action,
    /// Relative residual: recursive, or true when just looked at.
    pub residual: f64,
    /// What the recursion said at the last look.
    pub believed: f64,
    /// True relative residual at the last look.
    pub verified: Option<f64>,
    /// Whitened relative residual at the last look.
    pub whitened: f64,
    /// Nothing moved since the last look.
    clean: bool,
    drifted: bool,
    since_look: usize,
    /// Sum of the energy-norm decreases ||e_k||_A^2 - ||e_k+1||_A^2 (Hestenes and Stiefel 1952).
    energy: f64,
    flat: usize,
    /// True residual at the last look that disagreed with the recursion.
    failed: Option<f64>,
    /// Largest Rayleigh quotient p^T A p / p^T p seen.
    top: f64,
    step: f64,
    run: Vec<(f64, f64)>,
    longest: Vec<(f64, f64)>,
}

impl Column {
    /// A column for right-hand side `b` (m) with whitened form `wb` (r) and P^-1 wb; `begin` = (alpha, z) of a warm start.
    pub(super) fn new(
        m: usize,
        b: Vec<f64>,
        wb: Vec<f64>,
        first: Vec<f64>,
        begin: Option<(Vec<f64>, Vec<f64>)>,
    ) -> Self {
        let (norm_rhs, norm_whitened) = (norm(&b), norm(&wb));
        let rz = dot(&wb, &first);
        let r = wb.len();
        let mut c = Column {
            alpha: vec![0.0; m],
            z: vec![0.0; r],
            rho: b,
            r: wb.clone(),
            p: first,
            whitened_rhs: wb,
            norm_rhs,
            norm_whitened,
            rz,
            next: Action::Step,
            residual: 1.0,
            believed: 1.0,
            verified: Some(1.0),
            whitened: 1.0,
            clean: true,
            drifted: false,
            since_look: 0,
            energy: 0.0,
            flat: 0,
            failed: None,
            top: 0.0,
            step: 0.0,
            run: Vec::new(),
            longest: Vec::new(),
        };
        if norm_rhs == 0.0 {
            // The solution is zero, whatever the start.
            (c.residual, c.believed, c.whitened, c.verified) = (0.0, 0.0, 0.0, Some(0.0));
            c.next = Action::Done(Stopped::Converged);
        } else if let Some((alpha, z)) = begin {
            (c.alpha, c.z) = (alpha, z);
            c.p = Vec::new();
            c.verified = None;
            c.clean = false;
            c.next = Action::Look;
        }
        c
    }

    pub(super) fn stopped(&self) -> Stopped {
        match self.next {
            Action::Done(why) | Action::Final(why) => why,
            _ => Stopped::MaxIterations,
        }
    }

    /// Ends the column, after a look if it has moved since the last.
    pub(super) fn finish(&mut self, why: Stopped) {
        if self.next.is_ending() {
            return;
        }
        self.next = if self.clean { Action::Done(why) } else { Action::Final(why) };
    }

    /// Takes the true residuals of the current iterate.
    pub(super) fn look(&mut self, rho: Vec<f64>, r: Vec<f64>, tolerance: f64) {
        let first = self.p.is_empty();
        let mut difference = r.clone();
        axpy(&mut difference, -1.0, &self.r);
        self.drifted = norm(&difference) > DRIFT * norm(&r);
        self.rho = rho;
        self.r = r;
        let truth = norm(&self.rho) / self.norm_rhs;
        self.believed = if first { truth } else { self.residual };
        self.residual = truth;
        self.verified = Some(truth);
        self.whitened = if self.norm_whitened > 0.0 { norm(&self.r) / self.norm_whitened } else { 0.0 };
        self.clean = true;
        self.since_look = 0;
        if truth <= tolerance {
            self.next = Action::Done(Stopped::Converged);
        } else if let Action::Final(why) = self.next {
            self.next = Action::Done(why);
        } else if !first && (self.drifted || self.next == Action::Look) {
            if self.failed.is_some_and(|before| truth > PROGRESS * before) {
                self.next = Action::Done(Stopped::Stagnated);
            }
            self.failed = Some(truth);
        }
    }

    /// Whether a quadratic form `curvature` of the direction is zero to rounding, or the residual is.
    pub(super) fn at_floor(&self, curvature: f64) -> bool {
        let r = self.r.len() as f64;
        self.rz == 0.0
            || norm(&self.r) <= r * f64::EPSILON * self.norm_whitened
            || curvature.abs() <= r * f64::EPSILON * self.top * dot(&self.p, &self.p)
    }

    /// Books a step of length `a` that lowered the squared energy norm of the error by `decrease`.
    pub(super) fn stepped(&mut self, a: f64, decrease: f64, curvature: f64) {
        self.step = a;
        self.clean = false;
        self.since_look += 1;
        self.energy += decrease;
        self.top = self.top.max(curvature / dot(&self.p, &self.p));
        // Below eps in the energy norm, not merely in its square, further steps change nothing.
        self.flat = if decrease <= 16.0 * f64::EPSILON * f64::EPSILON * self.energy { self.flat + 1 } else { 0 };
        if self.flat >= 3 {
            self.finish(Stopped::Stagnated);
        }
    }

    /// The next direction from z = P^-1 r. Conjugacy is kept unless the recursion had drifted.
    pub(super) fn redirect(&mut self, z: &[f64], moved: bool) {
        let before = std::mem::replace(&mut self.rz, dot(&self.r, z));
        let beta = if moved && !self.drifted && before > 0.0 { self.rz / before } else { 0.0 };
        if moved && self.run.len() < RUN {
            self.run.push((self.step, beta));
        }
        if !moved && !self.drifted && !self.p.is_empty() {
            return; // Looked at and found as believed: the direction stands.
        }
        if beta == 0.0 {
            self.p = z.to_vec();
            let run = std::mem::take(&mut self.run);
            if run.len() > self.longest.len() {
                self.longest = run;
            }
        } else {
            for (p, z) in self.p.iter_mut().zip(z) {
                *p = z + beta * *p;
            }
        }
        self.drifted = false;
    }

    /// What to do in the next pass.
    pub(super) fn plan(&mut self, tolerance: f64, restart_every: usize) {
        self.next = if !self.clean && self.residual <= MARGIN * tolerance {
            Action::Look
        } else if self.since_look >= restart_every {
            Action::StepAndLook
        } else {
            Action::Step
        };
    }

    /// The longest run of steps without a restart, as (step, beta).
    pub(super) fn longest(&self) -> &[(f64, f64)] {
        if self.run.len() > self.longest.len() { &self.run } else { &self.longest }
    }
}
