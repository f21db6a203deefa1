//! Newton steps of many rows in the space of those rows: delayed blocked updates without staleness.
//!
//! **Problem.** A step needs v = A^-1 phi and A <- A + c phi phi^T: 4 m^2 flops bound by memory if done one by one (8 MB of A read and written a row at m = 1,024). But within a
//! block A_t = A_0 + Phi C Phi^T, and
//! predictions need inner products alone. With half_t = L^-1 phi_t, A_0 = L L^T, and v_r = A_(r-1)^-1 phi_r,
//!
//! ```text
//! n_rt = v_r . phi_t = half_r . half_t - sum_(q<r) kappa_q n_qr n_qt,   kappa = c / (1 + c n_tt),
//! phi_t . w_(t-1) = phi_t . w_0 - sum_(r<t) step_r n_rt,
//! ```
//!
//! which is the elimination of the b x b Gram of half: b^2 flops a row. At the end of the block (`fold`) A takes Phi C Phi^T as one product, is factored anew, and w takes
//! A_0^-1 Phi a, (I + N) a = step with N_rt = kappa_r n_rt for r < t.
//!
//! **Invariants.** In exact arithmetic the steps are those of rank-one updates, in order, with nothing delayed: the staleness is 0. A is a sum of positive terms and at least
//! alpha I, and is factored from that sum
//! at every fold: no inverse is carried along, no error accumulates, no refactorisation has a period of its own. A coordinate that the embedding gains on the way is 0 for earlier
//! rows, alpha in A and 0 in w
//! (the transport of the restart-free form), so that it needs no fold; a restart makes A = alpha I and w = 0 and forgets the rows before.
//!
//! **Cost** a row of a block of b, m coordinates: m^2 flops for half, m^2 for A, m^3 / 3 b for its factor, 2 m b for the Gram, b^2 for the elimination. State: 2 m b + b^2 / 2 f64.

use super::OnlineError;
use super::factor::Lower;
use crate::dense::{self, SEQUENTIAL};
use crate::sampling::leverage::dot;
use faer::{Mat, MatRef};
use serde::{Deserialize, Serialize};

/// A and w as of the last fold.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Folded {
    pub alpha: f64,
    /// A, in its lower triangle.
    a: Lower,
    /// Its factor.
    pub l: Lower,
    pub w: Vec<f64>,
}

impl Folded {
    /// A = alpha I of order 0.
    pub fn new(alpha: f64) -> Self {
        Folded { alpha, a: Lower::default(), l: Lower::default(), w: Vec::new() }
    }

    /// A = alpha I, w = 0.
    pub fn reset(&mut self, order: usize) {
        self.a = Lower::scaled_identity(order, self.alpha);
        self.l = Lower::scaled_identity(order, self.alpha.sqrt());
        self.w = vec![0.0; order];
    }

    /// A <- keep A + (1 - keep) alpha I.
    pub fn forget(&mut self, keep: f64) -> Result<(), OnlineError> {
        self.a.scale_and_add(keep, (1.0 - keep) * self.alpha);
        self.l.factor(&self.a)
    }

    pub fn order(&self) -> usize {
        self.w.len()
    }

    pub fn check(&self, most: usize) -> Result<(), OnlineError> {
        let n = self.order();
        if self.a.order() == n && self.l.order() == n && n <= most && self.alpha > 0.0 {
            Ok(())
        } else {
            Err(OnlineError::State { what: "A, its factor and w differ in order" })
        }
    }
}

/// Rows since the last fold (module docs).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Pending {
    /// Room for the coordinates of a row.
    stride: usize,
    /// Features of each row, padded with zeros.
    phi: Vec<f64>,
    /// `half` of each row, padded with zeros.
    half: Vec<f64>,
    /// Coordinates of each row.
    widths: Vec<usize>,
    /// n_rt for r < t, row t after row t - 1.
    eliminated: Vec<f64>,
    kappa: Vec<f64>,
    curvature: Vec<f64>,
    step: Vec<f64>,
    /// Rows visited since the last fold, those before a restart included.
    visited: usize,
    /// A was made alpha I and w 0 since the last fold.
    restarted: bool,
}

/// A row as the rows before it leave it.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    half: Vec<f64>,
    n: Vec<f64>,
    /// phi . w.
    pub margin: f64,
    /// phi^T A^-1 phi.
    pub leverage: f64,
}

impl Pending {
    /// Rows since the last fold or restart.
    pub fn len(&self) -> usize {
        self.kappa.len()
    }

    /// Rows visited since the last fold.
    pub fn visited(&self) -> usize {
        self.visited
    }

    /// Begins a block: no row may come with more than `stride` coordinates.
    pub fn begin(&mut self, stride: usize) {
        *self = Pending { stride, ..Pending::default() };
    }

    /// A = alpha I, w = 0: earlier rows no longer count.
    pub fn restart(&mut self) {
        *self = Pending { stride: self.stride, visited: self.visited, restarted: true, ..Pending::default() };
    }

    /// Coordinates that `folded` covers.
    fn base(&self, folded: &Folded) -> usize {
        if self.restarted { 0 } else { folded.order() }
    }

    /// The row with features `phi`. `known`, if it is: L^-1 of its first coordinates, and the products of that with the same of all pending rows.
    pub fn look(
        &self,
        folded: &Folded,
        phi: &[f64],
        known: Option<(&[f64], &[f64])>,
        look: &mut Look,
    ) -> Result<(), OnlineError> {
        let (base, rows) = (self.base(folded), self.len());
        let root = folded.alpha.sqrt();
        let Look { half: out, n, margin, leverage } = look;
        // After a restart nothing of it holds.
        let known = known.filter(|_| !self.restarted);
        out.clear();
        match known {
            Some((half, _)) => out.extend_from_slice(half),
            _ => {
                out.extend_from_slice(&phi[..base]);
                if base > 0 {
                    folded.l.solve_one(out);
                }
            }
        }
        out.extend(phi[base..].iter().map(|x| x / root));
        n.clear();
        // kn = kappa n, after n in the same buffer.
        let mut kn = Vec::with_capacity(rows);
        let mut at = 0;
        *margin = dot(&phi[..base], if self.restarted { &[] } else { &folded.w });
        for r in 0..rows {
            let other = &self.half[r * self.stride..r * self.stride + self.widths[r]];
            let raw = match known {
                Some((_, gram)) => gram[r] + dot(&other[base..], &out[base..self.widths[r]]),
                _ => dot(other, &out[..self.widths[r]]),
            };
            let entry = raw - dot(&self.eliminated[at..at + r], &kn);
            at += r;
            kn.push(self.kappa[r] * entry);
            n.push(entry);
            *margin -= self.step[r] * entry;
        }
        *leverage = (dot(out, out) - dot(n, &kn)).max(0.0);
        if margin.is_finite() && leverage.is_finite() {
            Ok(())
        } else {
            Err(OnlineError::Diverged { what: "a prediction", rows: 0 })
        }
    }

    /// The row that was looked at gains a coordinate that no earlier row has, alpha in A and 0 in w.
    pub fn extend(&self, folded: &Folded, look: &mut Look, coordinate: f64) {
        look.half.push(coordinate / folded.alpha.sqrt());
        look.leverage += coordinate * coordinate / folded.alpha;
    }

    /// Takes the row that was looked at last: A gains `curvature` phi phi^T and w loses `step` times A^-1 phi, A as it was before.
    pub fn push(&mut self, phi: &[f64], look: &Look, curvature: f64, step: f64) {
        let end = (self.len() + 1) * self.stride;
        self.phi.extend_from_slice(phi);
        self.phi.resize(end, 0.0);
        self.half.extend_from_slice(&look.half);
        self.half.resize(end, 0.0);
        self.widths.push(phi.len());
        self.eliminated.extend_from_slice(&look.n);
        self.kappa.push(curvature / (1.0 + curvature * look.leverage));
        self.curvature.push(curvature);
        self.step.push(step);
        self.visited += 1;
    }

    /// w over `order` coordinates, all pending steps taken.
    pub fn weights(&self, folded: &Folded, order: usize) -> Vec<f64> {
        let (base, rows) = (self.base(folded), self.len());
        let mut w = if self.restarted { Vec::new() } else { folded.w.clone() };
        w.resize(order, 0.0);
        // (I + N) a = step from the last row up; row t of N's transpose is in one piece.
        let mut a = self.step.clone();
        let mut end = self.eliminated.len();
        for t in (0..rows).rev() {
            let n = &self.eliminated[end - t..end];
            end -= t;
            let last = a[t];
            for ((a, n), kappa) in a.iter_mut().zip(n).zip(&self.kappa) {
                *a -= kappa * n * last;
            }
        }
        let mut sum = vec![0.0; order];
        for (r, a) in a.iter().enumerate() {
            let half = &self.half[r * self.stride..r * self.stride + self.widths[r]];
            sum.iter_mut().zip(half).for_each(|(sum, half)| *sum += a * half);
        }
        if base > 0 {
            folded.l.solve_transpose(&mut sum[..base]);
        }
        let root = folded.alpha.sqrt();
        sum[base..].iter_mut().for_each(|x| *x /= root);
        w.iter_mut().zip(&sum).for_each(|(w, x)| *w -= x);
        w
    }

    /// Moves all pending rows into `folded`, of `order` coordinates now; `forgetting`: the factor of A - alpha I for each row visited. Nothing is pending afterwards.
    pub fn fold(&mut self, folded: &mut Folded, order: usize, forgetting: f64) -> Result<(), OnlineError> {
        let rows = self.len();
        let w = self.weights(folded, order);
        if self.restarted {
            folded.reset(order);
        }
        folded.a.extend_identity(order, folded.alpha);
        if rows > 0 && order > 0 {
            let phi = MatRef::from_column_major_slice(&self.phi, self.stride, rows).subrows(0, order);
            let weighted = Mat::from_fn(order, rows, |i, r| self.curvature[r] * phi[(i, r)]);
            dense::gemm_lower(folded.a.view_mut(), true, 1.0, weighted.as_ref(), phi.transpose(), SEQUENTIAL);
        }
        if forgetting < 1.0 && self.visited > 0 {
            let kept = forgetting.powi(self.visited as i32);
            folded.a.scale_and_add(kept, (1.0 - kept) * folded.alpha);
        }
        folded.w = w;
        let Folded { a, l, .. } = folded;
        l.factor(a)?;
        self.begin(0);
        Ok(())
    }

    pub fn check(&self, folded: &Folded) -> Result<(), OnlineError> {
        let n = self.len();
        let sound = self.phi.len() == n * self.stride
            && self.half.len() == n * self.stride
            && self.eliminated.len() == n * n.saturating_sub(1) / 2
            && [self.widths.len(), self.curvature.len(), self.step.len()] == [n; 3]
            && self.widths.iter().all(|&w| self.base(folded) <= w && w <= self.stride);
        if sound { Ok(()) } else { Err(OnlineError::State { what: "the pending rows' parts differ in length" }) }
    }
}
