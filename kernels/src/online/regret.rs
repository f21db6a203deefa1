//! Accounting of losses and regret, and what theory says it can be.
//!
//! Regret against u: sum w_t l_t(yhat_t) - sum w_t l_t(u(x_t)). With steps that are feasible (|u(x)| <= C) and curvature c_t that is valid ([`super::loss`](super::Loss)),
//!
//! ```text
//! R(u) <= J (alpha / 2) ||u||^2 + (1/2) sum g_t^T A_t^-1 g_t + (1/2) sum excess_t (2 C)^2 + ||u|| sum L_t sqrt(outside_t)          (*)
//! ```
//!
//! Terms, all but the first summed as the stream goes by ([`Ledger`]): J is the number of starts (restarts and resets and one; a start with w_1 instead of 0 has ||u - w_1||); g_t^T A_t^-1 g_t = l'^2 q / (1 + c q) with q =
//! phi^T A_(t-1)^-1 phi; excess_t is what
//! the curvature was above the valid one (0 but for Huber's tails); outside_t = k(x, x) - |phi~(x)|^2 is the mass outside the dictionary, L_t = w_t L with L the Lipschitz
//! constant of the loss on the clip range.
//!
//! *Why.* The second term is the classical one of the online Newton step (Hazan, Agarwal and Kale 2007). A restart-free learner is KONS in the whole space on the projected rows
//! phi~_t = P_t phi_t: a new
//! coordinate is 0 in every earlier phi~, so carrying (w, 0), blockdiag(A, alpha) over changes nothing, and (*) without its last term bounds its regret against u measured on
//! phi~; by convexity and Lipschitz continuity u loses at most
//! L |u . (phi - phi~)| <= L ||u|| sqrt(outside) a row by that. An atom that joins before its own step ([`Growth::Carry`](super::Growth)) is its own phi~. Comparators that leave
//! the clip range
//! ([`Hindsight::infeasible`](super::Hindsight)), and targets that do, are outside the statement. A u in the span of the last dictionary loses nothing by rows that came after its
//! last atom, whose phi~ is phi on that span: for it the last sum ends there. f32 entries tell outside_t to 2^-20 k(x, x), and it counts as no less than that; of a u in the span
//! coordinates are those of the computed phi~, so that nothing is rounded there. Forgetting only lowers A, which lowers the telescoping sum: (*) stays valid,
//! with a larger second term. Derived here, tested on IID and drifting streams.
//!
//! *The papers' bounds* ([`published_bound`]) are of the same shape, with d_eff for the sum and worst-case constants. They were recalled, the prints were not at hand: constants
//! are as there stated and
//! serve as an order of magnitude, not as a gate. They are of losses without weights: w l has sigma / w and w L, so that the heaviest weight takes its place in both. Where they need d_eff(alpha / (sigma L^2)), the caller's estimate is used (d_onl of the dictionary at its own gamma; d_onl >=
//! d_eff at the same ridge; of Sketched-KONS the sum is over all rows, each beside those in A, which is more still).

use super::{Comparator, Hindsight, Loss, OnlineError};
use serde::{Deserialize, Serialize};

/// Running sums of a learner's losses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// Rows predicted.
    pub rows: u64,
    /// Sum of their weights.
    pub weight: f64,
    /// Sum of weighted losses.
    pub loss: f64,
    /// sum g^T A^-1 g / 2.
    pub newton: f64,
    /// sum excess / 2, before the factor (2 C)^2.
    pub excess: f64,
    /// sum w sqrt(k(x, x) - |phi~|^2), before the factor L.
    pub outside: f64,
    /// The same as of the last change of the span.
    pub spanned: f64,
    /// sum c q / (1 + c q): the online effective dimension of the projected rows, each by its curvature, at ridge alpha; with adaptive squared loss d_onl(alpha / 2). At most
    /// m log(1 + sum c k(x, x) / (m alpha)) of m coordinates and one start.
    pub dimension: f64,
    /// The largest weight.
    #[serde(default)]
    pub heaviest: f64,
    /// J: times that A and w began anew, the first included.
    pub starts: u64,
    /// ||w_1|| of the function that the first start began with.
    pub begun: f64,
    /// Loss and weight of the last rows, as a ring.
    window: Vec<(f64, f64)>,
    next: usize,
    size: usize,
}

/// One row's entry in the [`Ledger`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    pub weight: f64,
    pub loss: f64,
    pub newton: f64,
    pub excess: f64,
    pub outside: f64,
    /// c q / (1 + c q).
    pub dimension: f64,
    /// The span of the dictionary grew by this row.
    pub grown: bool,
}

/// The terms of (*) against one comparator.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bound {
    /// J (alpha / 2) ||u||^2.
    pub ridge: f64,
    /// (1/2) sum g^T A^-1 g.
    pub newton: f64,
    /// What the curvature was above the valid one.
    pub excess: f64,
    /// ||u|| sum L sqrt(outside).
    pub outside: f64,
}

impl Bound {
    /// That of two learners of different rows together.
    pub fn and(&self, other: &Self) -> Self {
        Bound {
            ridge: self.ridge + other.ridge,
            newton: self.newton + other.newton,
            excess: self.excess + other.excess,
            outside: self.outside + other.outside,
        }
    }

    /// The bound: their sum.
    pub fn total(&self) -> f64 {
        self.ridge + self.newton + self.excess + self.outside
    }
}

impl Ledger {
    /// Nothing yet; `window`: rows of the windowed loss.
    pub(super) fn new(window: usize) -> Self {
        Ledger {
            rows: 0,
            weight: 0.0,
            loss: 0.0,
            newton: 0.0,
            excess: 0.0,
            outside: 0.0,
            spanned: 0.0,
            dimension: 0.0,
            heaviest: 0.0,
            starts: 1,
            begun: 0.0,
            window: Vec::new(),
            next: 0,
            size: window.max(1),
        }
    }

    pub(super) fn add(&mut self, entry: Entry) {
        let Entry { weight, loss, newton, excess, outside, dimension, grown } = entry;
        self.rows += 1;
        self.weight += weight;
        self.loss += weight * loss;
        self.newton += 0.5 * newton;
        self.excess += 0.5 * weight * excess;
        self.outside += weight * outside.max(0.0).sqrt();
        self.dimension += dimension;
        self.heaviest = self.heaviest.max(weight);
        if grown {
            self.span_changed();
        }
        if self.window.len() < self.size {
            self.window.push((weight * loss, weight));
        } else {
            self.window[self.next] = (weight * loss, weight);
        }
        self.next = (self.next + 1) % self.size;
    }

    /// Mean loss of all rows; `None` before the first of positive weight.
    pub fn mean_loss(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.loss / self.weight)
    }

    /// Mean loss of the last rows, summed anew.
    pub fn window_loss(&self) -> Option<f64> {
        let (loss, weight) = self.window.iter().fold((0.0, 0.0), |(l, w), (loss, weight)| (l + loss, w + weight));
        (weight > 0.0).then(|| loss / weight)
    }

    /// Later rows are seen in another span than those before.
    pub(super) fn span_changed(&mut self) {
        self.spanned = self.outside;
    }

    /// The right-hand side of (*) against the comparator of `found`. `None` where it needs a clip range and there is none.
    pub fn bound(&self, alpha: f64, found: &Hindsight, loss: Loss, clip: Option<f64>) -> Option<Bound> {
        let within = clip.map_or(f64::INFINITY, |c| 4.0 * c * c);
        let lipschitz = clip.map_or(f64::INFINITY, |c| loss.lipschitz(c));
        let outside = if found.comparator == Comparator::Own { self.spanned } else { self.outside };
        let bound = Bound {
            // ||u - w_1|| is at most the sum of the norms.
            ridge: 0.5 * alpha * (self.starts as f64 * found.norm2 + self.begun * (2.0 * found.norm + self.begun)),
            newton: self.newton,
            excess: if self.excess > 0.0 { self.excess * within } else { 0.0 },
            outside: if outside > 0.0 && found.norm > 0.0 { found.norm * lipschitz * outside } else { 0.0 },
        };
        bound.total().is_finite().then_some(bound)
    }

    pub(super) fn check(&self) -> Result<(), OnlineError> {
        let sound = self.window.len() <= self.size && self.next < self.size && self.size > 0;
        if sound { Ok(()) } else { Err(OnlineError::State { what: "the window of losses" }) }
    }
}

/// What the published bounds are functions of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PublishedTerms {
    /// alpha of A_0.
    pub alpha: f64,
    /// ||u||^2 of the comparator.
    pub norm2: f64,
    /// sigma of the loss.
    pub sigma: f64,
    /// Lipschitz constant L.
    pub lipschitz: f64,
    /// Clip range C.
    pub clip: f64,
    /// The heaviest weight of a row.
    pub weight: f64,
    /// Rows T.
    pub rows: f64,
    /// Estimate of d_eff(alpha / (sigma L^2)).
    pub effective_dimension: f64,
    /// Restarts J (PROS-N-KONS), at least 1.
    pub starts: f64,
    /// Ridge of the dictionary (PROS-N-KONS).
    pub gamma: f64,
    /// Accuracy of the dictionary (PROS-N-KONS).
    pub eps: f64,
    /// max(gamma_s, beta tau_min): the least probability with which a row enters A (Sketched-KONS; 1 for KONS).
    pub least_probability: f64,
}

/// The published regret bounds, as recalled (module docs): natural logarithms, sigma and L of [`Loss`] with the heaviest weight.
///
/// * [`PublishedBound::Kons`]: alpha ||u||^2 + 2 d_eff log(2 sigma L^2 T) / (sigma p), p the least probability (Calandriello, Lazaric and Valko, "Second-order kernel online
///   convex optimization
///   with adaptive sketching", ICML 2017).
/// * [`PublishedBound::Pros`]: J (alpha ||u||^2 + (4 / sigma) d_eff log(2 sigma L^2 T / alpha)) + (L^2 / alpha) (T gamma sigma^2 / (4 (1 - eps)) + 1) + 2 J C (the same,
///   "Efficient second-order
///   online kernel learning with adaptive embedding", NeurIPS 2017). The restart-free form has no theorem of its own there; J = 1 is put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishedBound {
    /// KONS and Sketched-KONS.
    Kons,
    /// PROS-N-KONS.
    Pros,
}

/// Evaluates a published bound. Logarithms below 0 (short streams) count as 0.
///
/// ```
/// use nystream_kernels::online::{PublishedBound, PublishedTerms, published_bound};
/// let terms = PublishedTerms { alpha: 1.0, norm2: 4.0, sigma: 0.125, lipschitz: 4.0, clip: 1.0, weight: 1.0, rows: 1000.0, effective_dimension: 10.0,
///     starts: 1.0, gamma: 0.001, eps: 0.5, least_probability: 1.0 };
/// let kons = published_bound(PublishedBound::Kons, &terms);
/// assert!((kons - (4.0 + 160.0 * 4000f64.ln())).abs() < 1e-9);
/// assert!(published_bound(PublishedBound::Pros, &terms) > kons);
/// ```
pub fn published_bound(which: PublishedBound, terms: &PublishedTerms) -> f64 {
    let &PublishedTerms { alpha, norm2, clip, weight, rows, effective_dimension: d, .. } = terms;
    let (sigma, lipschitz) = (terms.sigma / weight, terms.lipschitz * weight);
    let curve = sigma * lipschitz * lipschitz;
    match which {
        PublishedBound::Kons => {
            alpha * norm2 + 2.0 * d * (2.0 * curve * rows).ln().max(0.0) / (sigma * terms.least_probability)
        }
        PublishedBound::Pros => {
            let each = alpha * norm2 + 4.0 / sigma * d * (2.0 * curve * rows / alpha).ln().max(0.0);
            let dictionary = rows * terms.gamma * sigma * sigma / (4.0 * (1.0 - terms.eps)) + 1.0;
            terms.starts * each + lipschitz * lipschitz / alpha * dictionary + 2.0 * terms.starts * clip * weight
        }
    }
}
