//! KONS, exact and sketched: online Newton steps in the whole space of the kernel.
//!
//! **Problem.** A_t = alpha I + sum z_s c_s phi_s phi_s^T, w in the span of all rows seen; the rounds are those of [`ProjectedKons`](super::ProjectedKons) with phi itself. In
//! dual form, D = diag(c_s) over the rows in A,
//! A^-1 v = (v - Phi (alpha D^-1 + K)^-1 Phi^T v) / alpha, with a Cholesky factor of alpha D^-1 + K that grows by a row (rows with c = 0 stay out). w = sum b_s phi_s.
//! * Exact: every row enters A. With squared loss, adaptive curvature and no clip this is online kernel ridge regression of ridge alpha / 2, and cumulative loss less min_u (loss +
//!   (alpha / 2) ||u||^2) is sum g^T A^-1 g / 2 exactly.
//! * *Sketched-KONS*: a row enters A with probability p = max(gamma_s, min(1, beta tau~)), by the hash of its id, unweighted: A is smaller, which the proof allows, and the second
//!   term of the bound grows by what is left out. 1/p weights lose
//!   the proof. tau~ are scores against the rows in A (S = 1/sqrt p). gamma_s = 1 takes every row and is exact KONS bit for bit: the same code.
//!
//! *Weights*: a row of weight w has loss w l, slope w l' and curvature w c, so that A gains w c phi phi^T and scores are those of sqrt(w) phi: x = w (k(x, x) - k^T (K + gamma diag(p / w))^-1 k) / gamma. (Scores of
//! phi alone find a heavy row covered by light ones of its kind, which A hardly holds; skipped, it moves the function by w l' q, q = 1 / w_light.)
//!
//! **Precision.** A pivot is k(x, x) + alpha / c - k^T (K + alpha D^-1)^-1 k >= alpha / c: rounding of entries, some sqrt(t) 2e-8 with f32 and 5e8 times less with f64, has to be small beside alpha / c (alpha / 2 of
//! squared loss and weight 1). Where a computed pivot is less than half of that it is not, and the step is refused ([`OnlineError::Breakdown`]); nothing is clamped or left out. `nystream online` gives f64 entries whatever
//! the configuration: beside 2 s^2 flops they cost nothing.
//!
//! **Cost** a row after t rows, s of them in A: t entries, 2 s^2 flops bound by memory (the packed factor is read twice), t numbers a row stored. For references and short
//! streams: 5,000 rows hold 100 MB of factor.

use super::comparator::{OwnFunction, Told};
use super::entries::{Batch, EntryParams, check_rows};
use super::factor::DEPENDENT;
use super::loss::overshoot;
use super::projected::{Expansion, Outcome};
use super::regret::{Entry, Ledger};
use super::{Curvature, Hindsight, HindsightSample, Loss, OnlineError};
use crate::gram::Precision;
use crate::rows::{RowBuf, Rows};
use crate::sampling::leverage::{GrowingCholesky, dot};
use faer::MatMut;
use nystream_hashing::{RowId, StreamKey};
use serde::{Deserialize, Serialize};

/// How Sketched-KONS draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sketch {
    /// Least probability gamma_s, in (0, 1]; 1 is exact KONS.
    pub least: f64,
    /// Ridge of the scores.
    pub gamma: f64,
    /// Scores are raised by 1 + eps.
    pub eps: f64,
    /// Oversampling.
    pub beta: f64,
    /// Seed.
    pub seed: u64,
}

/// The configuration of a [`Kons`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KonsParams {
    /// Kernel entries.
    pub entries: EntryParams,
    /// alpha of A_0.
    pub alpha: f64,
    /// The loss.
    pub loss: Loss,
    /// Curvature of the steps.
    pub curvature: Curvature,
    /// Clip range C.
    pub clip: Option<f64>,
    /// Sketched-KONS; `None`: exact.
    pub sketch: Option<Sketch>,
    /// Rows of the windowed loss.
    pub window: usize,
    /// Rows of the hindsight sample; 0 for none.
    pub hindsight: usize,
}

impl KonsParams {
    /// Exact, squared loss, adaptive curvature, no clip.
    pub fn new(entries: EntryParams, alpha: f64) -> Self {
        let (loss, curvature) = (Loss::Squared, Curvature::Adaptive);
        KonsParams { entries, alpha, loss, curvature, clip: None, sketch: None, window: 1000, hindsight: 0 }
    }

    fn check(&self) -> Result<(), OnlineError> {
        OnlineError::positive("alpha", self.alpha)?;
        self.loss.check(self.curvature, self.clip)?;
        if let Some(Sketch { least, gamma, eps, beta, .. }) = self.sketch {
            OnlineError::positive("gamma", gamma)?;
            OnlineError::positive("beta", beta)?;
            if !(0.0..1.0).contains(&eps) {
                return Err(OnlineError::Parameter { name: "eps", value: eps, must: "in [0, 1)" });
            }
            if !(least > 0.0 && least <= 1.0) {
                return Err(OnlineError::Parameter { name: "gamma_s", value: least, must: "in (0, 1]" });
            }
        }
        Ok(())
    }
}

/// A learner's state in figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KonsInfo {
    /// Rows stored.
    pub rows: usize,
    /// Rows in A.
    pub sketch: usize,
    /// Mean loss of all rows.
    pub mean_loss: Option<f64>,
    /// Mean loss of the last rows.
    pub window_loss: Option<f64>,
}

/// The learner; see the module docs.
///
/// ```
/// use nystream_hashing::RowId;
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows};
/// use nystream_kernels::online::{Batch, EntryParams, Kons, KonsParams};
/// let entries = EntryParams::new(Kernel::new(Family::Gaussian, 1.0));
/// let mut kons = Kons::new(KonsParams::new(entries, 0.2), 1, 0)?;
/// let rows = Rows::new(&[0.0, 0.0, 0.0], 1, &[], 0);
/// let outcomes = kons.learn(&Batch::new(rows, &[RowId(0), RowId(1), RowId(2)], &[1.0; 3]))?;
/// // Ridge regression of ridge 0.1 on one point: n / (n + 0.1).
/// assert!((outcomes[2].prediction - 2.0 / 2.1).abs() < 1e-12);
/// # Ok::<(), nystream_kernels::online::OnlineError>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kons {
    params: KonsParams,
    rows: RowBuf,
    ids: Vec<RowId>,
    /// Coefficients of w.
    b: Vec<f64>,
    /// Rows in A.
    members: Vec<usize>,
    /// alpha D^-1 + K over the members.
    factor: GrowingCholesky,
    /// K + gamma diag(p / w) over the members, where rows are drawn.
    scores: GrowingCholesky,
    ledger: Ledger,
    hindsight: Option<HindsightSample>,
}

impl Kons {
    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// [`OnlineError::Parameter`].
    pub fn new(params: KonsParams, numeric_width: usize, code_width: usize) -> Result<Self, OnlineError> {
        params.check()?;
        let ledger = Ledger::new(params.window);
        let seed = params.sketch.map_or(0, |sketch| sketch.seed);
        let hindsight =
            (params.hindsight > 0).then(|| HindsightSample::new(params.hindsight, seed, numeric_width, code_width));
        Ok(Kons {
            params,
            rows: RowBuf::new(numeric_width, code_width),
            ids: Vec::new(),
            b: Vec::new(),
            members: Vec::new(),
            factor: GrowingCholesky::new(),
            scores: GrowingCholesky::new(),
            ledger,
            hindsight,
        })
    }

    /// Losses and the terms of the bound.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The hindsight sample, if one is kept.
    pub fn hindsight(&self) -> Option<&HindsightSample> {
        self.hindsight.as_ref()
    }

    /// Regret against the best comparator in hindsight; `None` where no sample is kept or nothing was learned.
    ///
    /// # Errors
    /// As [`ProjectedKons::regret`](super::ProjectedKons::regret).
    pub fn regret(&self) -> Result<Option<Hindsight>, OnlineError> {
        let Some(sample) = &self.hindsight else { return Ok(None) };
        let KonsParams { loss, alpha, clip, ref entries, .. } = self.params;
        let sample = sample.settled();
        let value = |i| Ok(dot(&self.b, &self.entries(sample.drawn(), i)?));
        let values = (0..sample.drawn().len()).map(value).collect::<Result<_, OnlineError>>()?;
        let mut norm2 = 0.0;
        for i in 0..self.ids.len() {
            norm2 += self.b[i] * dot(&self.b, &self.entries(self.rows.view(), i)?);
        }
        sample.measure(entries, loss, alpha, clip, self.ledger.loss, Some(&OwnFunction { values, norm2 }))
    }

    /// Figures.
    pub fn info(&self) -> KonsInfo {
        let (mean_loss, window_loss) = (self.ledger.mean_loss(), self.ledger.window_loss());
        KonsInfo { rows: self.ids.len(), sketch: self.members.len(), mean_loss, window_loss }
    }

    /// The present function as an expansion over all rows.
    pub fn expansion(&self) -> Expansion {
        let (atoms, ids, coefficients) = (self.rows.clone(), self.ids.clone(), self.b.clone());
        Expansion { atoms, ids, coefficients, clip: self.params.clip }
    }

    /// The configuration.
    pub fn params(&self) -> &KonsParams {
        &self.params
    }

    /// Checks a state that was stored.
    ///
    /// # Errors
    /// [`OnlineError::State`], [`OnlineError::Parameter`].
    pub fn check(&self) -> Result<(), OnlineError> {
        self.params.check()?;
        self.ledger.check()?;
        let (n, s) = (self.ids.len(), self.members.len());
        let sound = self.rows.len() == n
            && self.b.len() == n
            && self.factor.is_sound(s)
            && self.scores.is_sound(self.scores.len())
            && [0, s].contains(&self.scores.len())
            && self.members.iter().all(|&i| i < n);
        if sound { Ok(()) } else { Err(OnlineError::State { what: "rows, coefficients and factor differ in length" }) }
    }

    /// Entries of row `i` of `rows` with every row stored.
    fn entries(&self, rows: Rows<'_>, i: usize) -> Result<Vec<f64>, OnlineError> {
        let mut k = vec![0.0; self.ids.len()];
        if !k.is_empty() {
            let n = k.len();
            let out = MatMut::from_column_major_slice_mut(&mut k, n, 1);
            self.params.entries.columns(self.rows.view(), rows.slice(i, i + 1), out)?;
        }
        Ok(k)
    }

    /// Predictions by what has been learned.
    ///
    /// # Errors
    /// Widths that differ, or a feature that is not finite.
    pub fn predict(&self, rows: Rows<'_>) -> Result<Vec<f64>, OnlineError> {
        check_rows(rows, (self.rows.numeric_width, self.rows.code_width))?;
        let predict = |i| {
            let f = dot(&self.b, &self.entries(rows, i)?);
            Ok(f - overshoot(f, self.params.clip))
        };
        (0..rows.len()).map(predict).collect()
    }

    /// Takes rows in their order: each is predicted, then learned.
    ///
    /// # Errors
    /// As [`ProjectedKons::learn`](super::ProjectedKons::learn).
    pub fn learn(&mut self, batch: &Batch<'_>) -> Result<Vec<Outcome>, OnlineError> {
        batch.check(&self.params.entries, (self.rows.numeric_width, self.rows.code_width))?;
        for (row, &y) in batch.targets.iter().enumerate() {
            self.params.loss.check_target(self.params.curvature, self.params.clip, row, y)?;
        }
        (0..batch.rows.len()).map(|i| self.step(batch, i)).collect()
    }

    fn step(&mut self, batch: &Batch<'_>, i: usize) -> Result<Outcome, OnlineError> {
        let KonsParams { loss, curvature, clip, alpha, .. } = self.params;
        let (id, y, weight) = (batch.ids[i], batch.targets[i], batch.weight(i));
        let k = self.entries(batch.rows, i)?;
        let diagonal = self.params.entries.kernel.diagonal(batch.rows, i);
        let inside: Vec<f64> = self.members.iter().map(|&s| k[s]).collect();
        // z = (alpha D^-1 + K)^-1 k, so that A^-1 phi = (phi - Phi z) / alpha.
        let half = self.factor.solve(&inside);
        let z = self.factor.solve_transpose(&half);
        let left = diagonal - dot(&half, &half);
        let q = (left / alpha).max(0.0);
        let margin = dot(&self.b, &k);
        let over = overshoot(margin, clip);
        let prediction = margin - over;
        if !(prediction.is_finite() && q.is_finite()) {
            return Err(OnlineError::Diverged { what: "a prediction", rows: self.ledger.rows });
        }
        let projection = if over != 0.0 && q > 0.0 && weight > 0.0 { over / q } else { 0.0 };
        let value = loss.value(prediction, y);
        let slope = weight * loss.slope(prediction, y);
        let (c, excess) = loss.step_curvature(curvature, prediction, y, clip);
        let (drawn, p) = if weight > 0.0 { self.draw(id, &inside, diagonal, weight) } else { (false, 1.0) };
        // What every row adds to the online dimension, in A or not.
        let whole = weight * c;
        let dimension = whole * q / (1.0 + whole * q);
        let c = if drawn { whole } else { 0.0 };
        let entered = c > 0.0;
        if entered {
            let least = alpha / c;
            let pivot = left + least;
            if pivot.is_nan() || pivot < 0.5 * least {
                let bits = if self.params.entries.precision == Precision::Single { 32 } else { 64 };
                return Err(OnlineError::Breakdown { rows: self.ledger.rows, id, pivot, least, alpha, bits });
            }
            self.factor.push(&half, pivot);
        }
        let step = (projection + slope / (1.0 + c * q)) / alpha;
        self.members.iter().zip(&z).for_each(|(&s, z)| self.b[s] += step * z);
        if entered {
            if let Some(sketch) = self.params.sketch
                && sketch.least < 1.0
            {
                // Grown: `draw` has seen that the pivot is more than rounding.
                self.scores.append(&inside, diagonal, sketch.gamma * p / weight);
            }
            self.members.push(self.ids.len());
        }
        self.rows.push(batch.rows, i);
        self.ids.push(id);
        self.b.push(-step);
        let newton = slope * slope * q / (1.0 + c * q);
        self.ledger.add(Entry { weight, loss: value, newton, excess, outside: 0.0, dimension, grown: false });
        if let Some(sample) = &mut self.hindsight {
            let slope = loss.slope(prediction, y);
            sample.add(
                (batch.rows, i),
                id,
                y,
                weight,
                Told { loss: value, zero: loss.value(0.0, y), slope, leverage: q },
            );
        }
        Ok(Outcome {
            id,
            prediction,
            loss: value,
            leverage: q,
            outside: 0.0,
            accepted: entered,
            grown: entered,
            alarm: None,
        })
    }

    /// Whether the row may enter A, and with what probability it was drawn.
    fn draw(&self, id: RowId, inside: &[f64], diagonal: f64, weight: f64) -> (bool, f64) {
        let Some(Sketch { least, gamma, eps, beta, seed }) = self.params.sketch else { return (true, 1.0) };
        if least >= 1.0 {
            return (true, 1.0);
        }
        let half = self.scores.solve(inside);
        let x = weight * ((diagonal - dot(&half, &half)) / gamma).max(0.0);
        let p = (beta * (1.0 + eps) * x / (1.0 + x)).min(1.0).max(least);
        let ridge = gamma * p / weight;
        let grows = diagonal + ridge - dot(&half, &half) > DEPENDENT * (half.len() + 1) as f64 * diagonal;
        (grows && StreamKey::new(seed, "sketched-kons", 0).uniform(id) < p, p)
    }
}
