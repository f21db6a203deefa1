//! PROS-N-KONS and its restart-free form CON-KONS: online Newton steps in the span of a dictionary that grows with the stream.
//!
//! **Problem.** Predict every row of a stream, then learn it, at a cost that does not grow with the stream, with regret of second order: logarithmic in T times the effective
//! dimension. Round t, phi = L^-1 k_I(x) in R^m
//! (Calandriello, Lazaric and Valko, ICML and NeurIPS 2017):
//!
//! ```text
//! u = w - A^-1 g;  w <- u - h(phi.u) / (phi^T A^-1 phi) A^-1 phi;  yhat = phi.w;  g = l'(yhat) phi;  A <- A + c phi phi^T
//! ```
//!
//! h(z) = sign(z) max(|z| - C, 0): projection in the norm of A onto the slab |phi.w| <= C. c is the step's curvature ([`Curvature`](super::Curvature)). A row that becomes an atom
//! ([`DictionaryParams`](super::DictionaryParams)) changes the embedding ([`Growth`]):
//! * [`Growth::Restart`], PROS-N-KONS as published: after its own step, A = alpha I and w = 0.
//! * [`Growth::CarryAfter`], CON-KONS as published: after its own step, w <- (w, 0), A <- blockdiag(A, alpha), which in Cholesky coordinates is the published transport. (Trap: a
//!   public version adds alpha twice.)
//! * [`Growth::Carry`], the default: the same before its own step. w is 0 in the new coordinate, so that the prediction is the same; but the row teaches its own coordinate, where
//!   the published order learns nothing at a new
//!   place before the second visit (1,200 rows in 3 dimensions, 400 atoms: loss 1.5 times that of exact ridge regression). With every row an atom this is exact KONS. The bound of
//!   [`Ledger`] holds for it, with no mass outside for
//!   the atoms' own rows.
//!
//! **Blocks.** [`Operation::Blocks`] takes `block` rows at a time: entries of all with all atoms by one tile call, features by one triangular solve, Newton steps through the
//! rows' own Gram (`pending.rs`), atoms that were accepted in the
//! block by the entries between its rows. *Staleness: none.* It is the recursion of [`Operation::Rows`] in another order of the same sums: both differ by rounding (1e-12 or so),
//! which could flip an acceptance once in 1e12 rows. Rows wait until their block is complete: [`ProjectedKons::learn`] holds them (they are part of the state) and answers for
//! whole blocks;
//! [`ProjectedKons::predict`] answers at once, from the last complete block. Blocks end after so many rows learned, wherever calls end: **results are a function of the rows in
//! their order, not of how they were cut into calls.**
//! [`ProjectedKons::flush`] ends a block early and does change later bits (to rounding): a program calls it at points of the stream that have a meaning of their own, such as its end.
//!
//! **At the end of a block** (both operations): A takes the block's rows and is factored anew; forgetting, A <- rho^b A + (1 - rho^b) alpha I for its b rows; alarms are acted on, which may
//! set another rho for the blocks to come ([`DriftAction::Adapt`]).
//!
//! **Invariants.** |yhat| <= C up to rounding. A >= alpha I is a sum of positive terms and never an updated inverse. No jitter, no clamped pivot. State is plain numbers;
//! restored, it goes on to the same bits.
//!
//! **Cost** a row (m atoms, b rows a block): m entries; flops m^2 features, m^2 score, m^2 half, m^2 A, m^3 / 3 b its factor, 4 m b + b^2 within the block. Memory: four triangles
//! of m^2 f64 (capacity doubles), 2 m b f64.

mod block;
mod params;

pub use params::{Expansion, Growth, Operation, Outcome, ProjectedInfo, ProjectedParams};

use super::comparator::{OwnFunction, Told};
use super::dictionary::{Dictionary, Offer, Seen};
use super::drift::{Alarm, DriftAction, Watch};
use super::entries::{Batch, Packed, check_rows};
use super::loss::overshoot;
use super::pending::{Folded, Look, Pending};
use super::regret::{Entry, Ledger};
use super::{Hindsight, HindsightSample, OnlineError};
use crate::dense::{self, SEQUENTIAL};
use crate::rows::Rows;
use crate::sampling::leverage::dot;
use block::{Added, Block, Waiting, add_coordinates};
use faer::Mat;
use nystream_hashing::RowId;
use serde::{Deserialize, Serialize};

/// The learner; see the module docs.
///
/// ```
/// use nystream_hashing::RowId;
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows};
/// use nystream_kernels::online::{Batch, DictionaryParams, EntryParams, ProjectedKons, ProjectedParams};
/// let kernel = Kernel::new(Family::Gaussian, 1.0);
/// let mut learner = ProjectedKons::new(ProjectedParams::new(EntryParams::new(kernel), DictionaryParams::new(0.01, 50), 0.01), 1, 0)?;
/// let x: Vec<f32> = (0..600).map(|i| (i as f32 * 0.37).sin() * 2.0).collect();
/// let y: Vec<f64> = x.iter().map(|x| f64::from(x.cos())).collect();
/// let ids: Vec<RowId> = (0..600).map(RowId).collect();
/// learner.learn(&Batch::new(Rows::new(&x, 1, &[], 0), &ids, &y))?;
/// learner.flush()?;
/// let f = learner.predict(Rows::new(&[0.5], 1, &[], 0))?[0];
/// assert!((f - 0.5f64.cos()).abs() < 1e-3);
/// assert!(learner.info().dictionary <= 50 && learner.info().rows == 600);
/// # Ok::<(), nystream_kernels::online::OnlineError>(())
/// ```
#[derive(Debug, Serialize, Deserialize)]
pub struct ProjectedKons {
    params: ProjectedParams,
    pub(super) dictionary: Dictionary,
    folded: Folded,
    pending: Pending,
    /// Rows that wait for their block.
    waiting: Waiting,
    ledger: Ledger,
    hindsight: Option<HindsightSample>,
    watch: Option<Watch>,
    #[serde(skip)]
    packed: Packed,
}

impl ProjectedKons {
    /// A learner that has seen nothing, of rows with these widths.
    ///
    /// # Errors
    /// [`OnlineError::Parameter`].
    pub fn new(params: ProjectedParams, numeric_width: usize, code_width: usize) -> Result<Self, OnlineError> {
        params.check()?;
        let largest = params.clip.map(|c| params.loss.largest(c));
        let watch = params.drift.as_ref().map(|drift| Watch::new(drift, largest)).transpose()?;
        let hindsight = (params.hindsight > 0)
            .then(|| HindsightSample::new(params.hindsight, params.dictionary.seed, numeric_width, code_width));
        Ok(ProjectedKons {
            dictionary: Dictionary::new(params.dictionary, numeric_width, code_width),
            folded: Folded::new(params.alpha),
            pending: Pending::default(),
            waiting: Waiting::new(numeric_width, code_width),
            ledger: Ledger::new(params.window),
            hindsight,
            watch,
            packed: Packed::default(),
            params,
        })
    }

    /// A learner that begins with these atoms, of probability 1, and with the function sum coefficients_j k(z_j, .), or 0: what a fitted model starts from. Rows are accepted
    /// beyond them up to the cap.
    ///
    /// # Errors
    /// As [`ProjectedKons::new`]; lengths that differ, coefficients and features that are not finite, more atoms than the cap, and [`OnlineError::Tile`].
    pub fn with_atoms(
        params: ProjectedParams,
        atoms: Rows<'_>,
        ids: &[RowId],
        coefficients: Option<&[f64]>,
    ) -> Result<Self, OnlineError> {
        let mut learner = Self::new(params, atoms.numeric_width(), atoms.code_width())?;
        let m = atoms.len();
        OnlineError::check("ids of the atoms", m, ids.len())?;
        check_rows(atoms, learner.widths())?;
        if m > learner.params.dictionary.cap {
            let must = "at least the number of atoms given";
            return Err(OnlineError::Parameter { name: "cap", value: learner.params.dictionary.cap as f64, must });
        }
        learner.dictionary.start(&learner.params.entries, atoms, ids)?;
        learner.folded.reset(learner.dictionary.width());
        if let Some(coefficients) = coefficients {
            OnlineError::check("coefficients", m, coefficients.len())?;
            if let Some(row) = coefficients.iter().position(|c| !c.is_finite()) {
                return Err(OnlineError::NotFinite { what: "coefficient", row, column: 0, value: coefficients[row] });
            }
            // w = sum c_j phi(z_j), which for the basis itself is L^T c.
            let mut k = Mat::zeros(m, m);
            learner.params.entries.columns(atoms, atoms, k.as_mut())?;
            let phi = learner.dictionary.features(&k);
            for (c, j) in coefficients.iter().zip(0..m) {
                learner.folded.w.iter_mut().zip(phi.col_as_slice(j)).for_each(|(w, phi)| *w += c * phi);
            }
            learner.ledger.begun = dot(&learner.folded.w, &learner.folded.w).sqrt();
        }
        Ok(learner)
    }

    /// Checks a state that was stored: lengths and orders, not values.
    ///
    /// # Errors
    /// [`OnlineError::State`], [`OnlineError::Parameter`].
    pub fn check(&self) -> Result<(), OnlineError> {
        self.params.check()?;
        self.dictionary.check()?;
        self.folded.check(self.dictionary.width())?;
        self.pending.check(&self.folded)?;
        self.ledger.check()?;
        let waiting = self.waiting.ids.len();
        let lengths = [self.waiting.rows.len(), self.waiting.targets.len(), self.waiting.weights.len()];
        if lengths == [waiting; 3] && waiting < self.params.block {
            Ok(())
        } else {
            Err(OnlineError::State { what: "the waiting rows' parts differ in length" })
        }
    }

    /// The configuration.
    pub fn params(&self) -> &ProjectedParams {
        &self.params
    }

    /// Losses and the terms of the bound.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The hindsight sample, if one is kept.
    pub fn hindsight(&self) -> Option<&HindsightSample> {
        self.hindsight.as_ref()
    }

    /// Regret against the best comparator in hindsight, rows that wait left out; `None` where no sample is kept or nothing was learned.
    ///
    /// # Errors
    /// [`OnlineError::Tile`]; [`OnlineError::Dense`] where a comparator's objective cannot be minimised.
    pub fn regret(&self) -> Result<Option<Hindsight>, OnlineError> {
        let Some(sample) = &self.hindsight else { return Ok(None) };
        let ProjectedParams { loss, alpha, clip, ref entries, .. } = self.params;
        let sample = sample.settled();
        let w = self.pending.weights(&self.folded, self.dictionary.width());
        let mut values = Vec::with_capacity(sample.drawn().len());
        // In pieces: entries of all rows with all atoms need not be in memory at once.
        for from in (0..sample.drawn().len()).step_by(128) {
            let rows = sample.drawn().slice(from, (from + 128).min(sample.drawn().len()));
            let mut k = Mat::zeros(self.dictionary.len(), rows.len());
            entries.columns(self.dictionary.rows.view(), rows, k.as_mut())?;
            let phi = self.dictionary.features(&k);
            values.extend((0..rows.len()).map(|i| dot(phi.col_as_slice(i), &w)));
        }
        let own = OwnFunction { values, norm2: dot(&w, &w) };
        sample.measure(entries, loss, alpha, clip, self.ledger.loss, Some(&own))
    }

    /// Figures.
    pub fn info(&self) -> ProjectedInfo {
        let (mass_alarms, loss_alarms) = self.watch.as_ref().map_or((0, 0), |watch| watch.alarms);
        ProjectedInfo {
            rows: self.ledger.rows,
            waiting: self.waiting.ids.len(),
            dictionary: self.dictionary.len(),
            width: self.dictionary.width(),
            online_dimension: self.ledger.dimension,
            refused: self.dictionary.refused,
            basis_condition: self.dictionary.basis.condition(),
            metric_condition: self.folded.l.condition(),
            mean_loss: self.ledger.mean_loss(),
            window_loss: self.ledger.window_loss(),
            starts: self.ledger.starts,
            mass_alarms,
            loss_alarms,
        }
    }

    fn widths(&self) -> (usize, usize) {
        (self.dictionary.rows.numeric_width, self.dictionary.rows.code_width)
    }

    /// Takes rows in their order: each is predicted, then learned. Answers for rows whose block is complete, in order; the others wait ([`Operation::Blocks`]).
    ///
    /// # Errors
    /// Input that is refused, naming its row ([`OnlineError::NotFinite`] and others): nothing was taken. [`OnlineError::Diverged`] and [`OnlineError::Dense`]: numbers left the range
    /// of f64; rows before were taken, and the learner must be reset or restored.
    pub fn learn(&mut self, batch: &Batch<'_>) -> Result<Vec<Outcome>, OnlineError> {
        batch.check(&self.params.entries, self.widths())?;
        for (row, &y) in batch.targets.iter().enumerate() {
            self.params.loss.check_target(self.params.curvature, self.params.clip, row, y)?;
        }
        let mut outcomes = Vec::new();
        for i in 0..batch.rows.len() {
            self.waiting.push(batch, i);
            let enough = match self.params.operation {
                Operation::Rows => 1,
                Operation::Blocks => self.params.block,
            };
            if self.waiting.ids.len() == enough {
                self.take(&mut outcomes)?;
            }
            if self.pending.visited() >= self.params.block {
                self.fold()?;
            }
        }
        Ok(outcomes)
    }

    /// Ends the block: takes the rows that wait and answers for them.
    ///
    /// # Errors
    /// As [`ProjectedKons::learn`].
    pub fn flush(&mut self) -> Result<Vec<Outcome>, OnlineError> {
        let mut outcomes = Vec::new();
        if !self.waiting.ids.is_empty() {
            self.take(&mut outcomes)?;
        }
        if self.pending.visited() > 0 {
            self.fold()?;
        }
        Ok(outcomes)
    }

    /// A = alpha I and w = 0, and no atoms if `dictionary`. Rows that wait are learned afterwards.
    pub fn reset(&mut self, dictionary: bool) {
        if dictionary {
            self.dictionary.clear();
            self.ledger.span_changed();
            self.packed.forget();
        }
        self.pending = Pending::default();
        self.folded.reset(self.dictionary.width());
        self.ledger.starts += 1;
        self.watch.iter_mut().for_each(Watch::reset);
    }

    /// Predictions by what has been learned, rows that wait left out. A row of a kernel's own is clamped to the clip range.
    ///
    /// # Errors
    /// Widths that differ, or a feature that is not finite.
    pub fn predict(&mut self, rows: Rows<'_>) -> Result<Vec<f64>, OnlineError> {
        Ok(self.predict_with_leverage(rows)?.into_iter().map(|(f, _)| f).collect())
    }

    /// Predictions, each with its leverage ([`Outcome::leverage`]).
    ///
    /// # Errors
    /// As [`ProjectedKons::predict`].
    pub fn predict_with_leverage(&mut self, rows: Rows<'_>) -> Result<Vec<(f64, f64)>, OnlineError> {
        check_rows(rows, self.widths())?;
        let mut k = Mat::zeros(self.dictionary.len(), rows.len());
        self.packed.fill(&self.params.entries, self.dictionary.rows.view(), rows, k.as_mut())?;
        let phi = self.dictionary.features(&k);
        let mut look = Look::default();
        let clip = self.params.clip;
        (0..rows.len())
            .map(|i| {
                let phi = phi.col_as_slice(i);
                self.pending.look(&self.folded, phi, None, &mut look)?;
                let outside = (self.params.entries.kernel.diagonal(rows, i) - dot(phi, phi)).max(0.0);
                Ok((look.margin - overshoot(look.margin, clip), look.leverage + outside / self.params.alpha))
            })
            .collect()
    }

    /// w: coordinates of the present function, in which its norm in the kernel's space is their Euclidean one; a new atom adds one behind the others.
    pub fn weights(&self) -> Vec<f64> {
        self.pending.weights(&self.folded, self.dictionary.width())
    }

    /// The present function as an expansion over the atoms: L^-T w.
    pub fn expansion(&self) -> Expansion {
        let mut coefficients = self.weights();
        self.dictionary.basis.solve_transpose(&mut coefficients);
        let (atoms, ids) = self.dictionary.members();
        Expansion { atoms, ids, coefficients, clip: self.params.clip }
    }

    /// Takes the waiting rows.
    fn take(&mut self, outcomes: &mut Vec<Outcome>) -> Result<(), OnlineError> {
        let (numeric, codes) = self.widths();
        let waiting = std::mem::replace(&mut self.waiting, Waiting::new(numeric, codes));
        if self.pending.visited() == 0 {
            // No atom is added but by a row of the block.
            let most = self.params.dictionary.cap.min(self.dictionary.len() + self.params.block);
            self.pending.begin(most);
        }
        let mut block = self.prepare(waiting.rows.view())?;
        let mut look = Look::default();
        let (mut phi, mut scored) = (Vec::new(), Vec::new());
        for i in 0..waiting.ids.len() {
            phi.clear();
            phi.extend_from_slice(block.phi.col_as_slice(i));
            scored.clear();
            scored.extend_from_slice(block.scored.col_as_slice(i));
            add_coordinates(&block, i, &mut phi, &mut scored);
            let seen = (phi.clone(), scored.clone());
            let outcome = self.visit(&waiting, i, &block, (&mut phi, &scored), &mut look)?;
            if outcome.accepted {
                let (basis, ridge) = (self.dictionary.basis.last(), self.dictionary.ridge.last());
                let phi = outcome.grown.then_some((seen.0, basis));
                block.accepted.push(Added { row: i, phi, scored: (seen.1, ridge) });
            }
            if outcome.grown && self.params.growth == Growth::Restart {
                self.pending.restart();
                self.ledger.starts += 1;
            }
            outcomes.push(outcome);
        }
        Ok(())
    }

    /// Entries, features and Gram of a block's rows with the atoms as they are.
    fn prepare(&mut self, rows: Rows<'_>) -> Result<Block, OnlineError> {
        let len = rows.len();
        let mut scored = Mat::zeros(self.dictionary.len(), len);
        self.packed.fill(&self.params.entries, self.dictionary.rows.view(), rows, scored.as_mut())?;
        let phi = self.dictionary.features(&scored);
        self.dictionary.ridge.solve(scored.as_mut());
        // Where a block is taken whole nothing is pending, and A covers every atom.
        let half = if len > 1 && self.pending.len() == 0 && self.folded.order() == self.dictionary.width() {
            let mut half = phi.clone();
            self.folded.l.solve(half.as_mut());
            let mut gram = Mat::zeros(len, len);
            if half.nrows() > 0 {
                dense::gemm_lower(gram.as_mut(), false, 1.0, half.transpose(), half.as_ref(), SEQUENTIAL);
                dense::mirror_lower(gram.as_mut());
            }
            Some((half, gram))
        } else {
            None
        };
        let between = if len > 1 && !self.dictionary.is_full() {
            let mut between = Mat::zeros(len, len);
            self.params.entries.columns(rows, rows, between.as_mut())?;
            Some(between)
        } else {
            None
        };
        Ok(Block { key: self.dictionary.key(), phi, scored, half, between, accepted: Vec::new() })
    }

    /// Predicts and learns row `i` of the waiting rows, and offers it to the dictionary. `phi` gains a coordinate where that comes before the step.
    fn visit(
        &mut self,
        waiting: &Waiting,
        i: usize,
        block: &Block,
        (phi, scored): (&mut Vec<f64>, &[f64]),
        look: &mut Look,
    ) -> Result<Outcome, OnlineError> {
        let ProjectedParams { loss, curvature, clip, alpha, growth, .. } = self.params;
        let (id, y, weight, rows) = (waiting.ids[i], waiting.targets[i], waiting.weights[i], waiting.rows.view());
        let known = block.half.as_ref().map(|(half, gram)| (half.col_as_slice(i), gram.col_as_slice(i)));
        let rows_before = self.ledger.rows;
        let diverged = |error| match error {
            OnlineError::Diverged { what, .. } => OnlineError::Diverged { what, rows: rows_before },
            other => other,
        };
        self.pending.look(&self.folded, phi, known, look).map_err(diverged)?;
        let diagonal = self.params.entries.kernel.diagonal(rows, i);
        let outside = diagonal - dot(phi, phi);
        let leverage = look.leverage + outside.max(0.0) / alpha;
        let share = if diagonal > 0.0 { (outside / diagonal).clamp(0.0, 1.0) } else { 0.0 };
        let seen = Seen { diagonal, outside, phi: &phi[..], scored };
        let offer = match weight > 0.0 {
            true => self.dictionary.offer(block.key, (rows, i), id, seen, self.params.entries.rounding()),
            false => Offer::default(),
        };
        let mut left = outside.max(self.params.entries.rounding() * diagonal);
        if offer.grown && growth == Growth::Carry {
            let coordinate = self.dictionary.basis.last();
            self.pending.extend(&self.folded, look, coordinate);
            phi.push(coordinate);
            left = 0.0;
        }
        let q = look.leverage;
        let over = overshoot(look.margin, clip);
        let prediction = look.margin - over;
        let projection = if over != 0.0 && q > 0.0 && weight > 0.0 { over / q } else { 0.0 };
        let value = loss.value(prediction, y);
        let slope = weight * loss.slope(prediction, y);
        let (c, excess) = loss.step_curvature(curvature, prediction, y, clip);
        let c = weight * c;
        self.pending.push(phi, look, c, projection + slope / (1.0 + c * q));
        let newton = slope * slope * q / (1.0 + c * q);
        self.ledger.add(Entry {
            weight,
            loss: value,
            newton,
            excess,
            outside: left,
            dimension: c * q / (1.0 + c * q),
            grown: offer.grown,
        });
        if let Some(sample) = &mut self.hindsight {
            let slope = loss.slope(prediction, y);
            sample.add((rows, i), id, y, weight, Told { loss: value, zero: loss.value(0.0, y), slope, leverage: q });
        }
        let alarm = self.watch.as_mut().and_then(|watch| watch.observe(share, value));
        let Offer { accepted, grown } = offer;
        Ok(Outcome { id, prediction, loss: value, leverage, outside: share, accepted, grown, alarm })
    }

    /// Ends the block: A takes its rows; alarms are acted on.
    fn fold(&mut self) -> Result<(), OnlineError> {
        let order = self.dictionary.width();
        let paced = self.watch.as_ref().map_or(1.0, Watch::forgetting);
        self.pending.fold(&mut self.folded, order, self.params.forgetting.min(paced))?;
        self.dictionary.spread()?;
        if self.folded.w.iter().any(|w| !w.is_finite()) {
            return Err(OnlineError::Diverged { what: "the weight vector", rows: self.ledger.rows });
        }
        let rows = self.ledger.rows;
        match self.watch.as_mut().and_then(|watch| watch.act(rows)) {
            Some((alarm, DriftAction::Reset | DriftAction::Adapt)) => self.reset(alarm == Alarm::Mass),
            Some((_, DriftAction::Forget { keep })) => self.folded.forget(keep)?,
            Some((_, DriftAction::Report)) | None => {}
        }
        Ok(())
    }
}
