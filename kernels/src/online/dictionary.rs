//! The dictionary of the learners: KORS with a cap, and the two factors that grow with it.
//!
//! **Problem.** Decide of every row as it comes, in O(m^2), whether it becomes an atom, and never take a decision back (Calandriello, Lazaric and Valko, ICML 2017).
//! x = (k(x,x) - k^T (K_II + gamma diag(p))^-1 k) / gamma; tau~ = (1 + eps) x / (1 + x); a row is accepted with p = min(1, beta tau~), that is where the hash of its id is below p, and
//! keeps p forever. The weight of an atom is 1/p: S = 1/sqrt(p). (Trap: two public implementations put 1/p into S, weights 1/p^2, and get half of the atoms.)
//! Same decisions as [`Kors`](crate::sampling::comparators::Kors), with a cap beyond which no row is accepted. Weights of rows do not enter.
//!
//! *Spread* over the stream: a small gamma takes every row until the cap is reached, and a stream that moves on finds no room (hourly air quality in order, 5,000 rows, 2,048
//! atoms: 2.3 times the loss of exact ridge regression). With [`DictionaryParams::spread`] gamma rises as room r = 1 - atoms / cap falls, as gamma r^-4, at the ends of blocks and in
//! steps of 3/4 of the room. A dictionary that is accurate at one gamma is so at every larger one, so that gamma may rise and never fall. With rows of like novelty room falls as
//! the inverse cube root of their number: there is some whatever the length of the stream.
//!
//! **Invariants.** Decisions are a function of the rows, their ids and their order. `basis` is the factor of K_II itself: features phi~(x) = L^-1 k_I(x) are coordinates in the span of the
//! atoms, equal to those of an SVD but for a rotation; a new atom appends one coordinate and changes no other. An atom whose pivot is rounding (1e-12 m k(x, x); 2^-20 k(x, x) with f32
//! entries) counts for the scores and stays out of the basis, which spans it: no pivot is ever clamped and no jitter added.
//!
//! **Cost** a row: m kernel entries, m^2 flops for the features and as many for the score; m (m + 1) / 2 f64 each for the two factors.

use super::OnlineError;
use super::entries::EntryParams;
use super::factor::{DEPENDENT, Lower};
use crate::rows::{RowBuf, Rows};
use crate::sampling::leverage::dot;
use faer::Mat;
use nystream_hashing::{RowId, StreamKey};
use serde::{Deserialize, Serialize};

/// How rows are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DictionaryParams {
    /// Matrix ridge of the scores; where they are spread, that of an empty dictionary.
    pub gamma: f64,
    /// Accuracy, in [0, 1): scores are raised by 1 + eps.
    pub eps: f64,
    /// Oversampling; theory: 3 log(T / delta) / eps^2 (recalled), public code: 1.
    pub beta: f64,
    /// Most atoms.
    pub cap: usize,
    /// Seed of the hashed thresholds.
    pub seed: u64,
    /// Whether gamma rises as the dictionary fills (module docs).
    pub spread: bool,
}

/// Share of the room that is left at each step of gamma, and the power of the room.
const STEP: (f64, i32) = (0.75, -4);

impl DictionaryParams {
    /// eps = 0.5, beta = 1, seed 0, one gamma throughout.
    pub fn new(gamma: f64, cap: usize) -> Self {
        DictionaryParams { gamma, eps: 0.5, beta: 1.0, cap, seed: 0, spread: false }
    }

    pub(super) fn check(&self) -> Result<(), OnlineError> {
        OnlineError::positive("gamma", self.gamma)?;
        OnlineError::positive("beta", self.beta)?;
        if !(0.0..1.0).contains(&self.eps) {
            return Err(OnlineError::Parameter { name: "eps", value: self.eps, must: "in [0, 1)" });
        }
        if self.cap == 0 {
            return Err(OnlineError::Parameter { name: "cap", value: 0.0, must: "at least 1" });
        }
        Ok(())
    }
}

/// Accepted rows, in the order of acceptance, and the factors over them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Dictionary {
    pub params: DictionaryParams,
    pub rows: RowBuf,
    pub ids: Vec<RowId>,
    /// Probabilities of acceptance.
    p: Vec<f64>,
    /// Atoms in the basis, ascending.
    members: Vec<usize>,
    /// K over the members = L L^T.
    pub basis: Lower,
    /// K + gamma diag(p) over all atoms = L L^T.
    pub ridge: Lower,
    /// Rows that would have been accepted but for the cap.
    pub refused: u64,
    /// Times that gamma has risen.
    steps: i32,
    /// Times that the dictionary was emptied: later draws are independent of earlier ones.
    generation: u64,
}

/// A row as the atoms see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    /// k(x, x).
    pub diagonal: f64,
    /// k(x, x) - |phi|^2.
    pub outside: f64,
    /// L^-1 k of the basis.
    pub phi: &'a [f64],
    /// The same of the ridge factor.
    pub scored: &'a [f64],
}

/// What became of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Offer {
    /// It is an atom.
    pub accepted: bool,
    /// It is in the basis.
    pub grown: bool,
}

impl Dictionary {
    pub fn new(params: DictionaryParams, numeric_width: usize, code_width: usize) -> Self {
        Dictionary {
            params,
            rows: RowBuf::new(numeric_width, code_width),
            ids: Vec::new(),
            p: Vec::new(),
            members: Vec::new(),
            basis: Lower::default(),
            ridge: Lower::default(),
            refused: 0,
            steps: 0,
            generation: 0,
        }
    }

    /// Matrix ridge of the scores as of now.
    pub fn gamma(&self) -> f64 {
        self.params.gamma * STEP.0.powi(STEP.1 * self.steps)
    }

    /// At the end of a block: gamma is what the room asks for.
    pub fn spread(&mut self) -> Result<(), OnlineError> {
        if !self.params.spread {
            return Ok(());
        }
        let before = self.gamma();
        let room = (self.params.cap - self.len().min(self.params.cap)) as f64;
        // The last atom has no step of its own: there would be none to tell it from a full dictionary.
        while room >= 1.0 && room <= self.params.cap as f64 * STEP.0.powi(self.steps + 1) {
            self.steps += 1;
        }
        let rise = self.gamma() - before;
        if rise > 0.0 {
            let add: Vec<f64> = self.p.iter().map(|p| rise * p).collect();
            self.ridge.raise(&add)?;
        }
        Ok(())
    }

    /// Takes `atoms` with probability 1 into an empty dictionary.
    pub fn start(&mut self, entries: &EntryParams, atoms: Rows<'_>, ids: &[RowId]) -> Result<(), OnlineError> {
        let m = atoms.len();
        let mut k = Mat::zeros(m, m);
        entries.columns(atoms, atoms, k.as_mut())?;
        for (i, &id) in ids.iter().enumerate() {
            let solve = |factor: &Lower, indices: &[usize]| {
                let mut row: Vec<f64> = indices.iter().map(|&j| k[(j, i)]).collect();
                factor.solve_one(&mut row);
                row
            };
            let all: Vec<usize> = (0..i).collect();
            let (phi, scored) = (solve(&self.basis, &self.members), solve(&self.ridge, &all));
            let diagonal = entries.kernel.diagonal(atoms, i);
            let outside = diagonal - dot(&phi, &phi);
            self.take((atoms, i), id, 1.0, Seen { diagonal, outside, phi: &phi, scored: &scored }, entries.rounding());
        }
        Ok(())
    }

    /// Atoms.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Atoms in the basis: coordinates of the embedding.
    pub fn width(&self) -> usize {
        self.members.len()
    }

    pub fn is_full(&self) -> bool {
        self.len() >= self.params.cap
    }

    /// The rows of the basis and their ids.
    pub fn members(&self) -> (RowBuf, Vec<RowId>) {
        let ids = self.members.iter().map(|&i| self.ids[i]).collect();
        (RowBuf::gather(self.rows.view(), &self.members), ids)
    }

    /// Features L^-1 k of rows whose entries with all atoms are `k`, atoms x rows.
    pub fn features(&self, k: &Mat<f64>) -> Mat<f64> {
        let mut phi = match self.members.len() == self.len() {
            true => k.clone(),
            false => Mat::from_fn(self.members.len(), k.ncols(), |i, j| k[(self.members[i], j)]),
        };
        self.basis.solve(phi.as_mut());
        phi
    }

    /// No atoms any more; thresholds are drawn anew.
    pub fn clear(&mut self) {
        let empty = Dictionary::new(self.params, self.rows.numeric_width, self.rows.code_width);
        let (refused, generation) = (self.refused, self.generation + 1);
        *self = Dictionary { refused, generation, ..empty };
    }

    /// The key of the thresholds, that of [`Kors`](crate::sampling::comparators::Kors) in the first generation.
    pub fn key(&self) -> StreamKey {
        StreamKey::new(self.params.seed, "kors", self.generation)
    }

    /// Scores row `i` of `rows` and takes it or not; `rounding`: the share of k(x, x) that is rounding of its entries.
    pub fn offer(&mut self, key: StreamKey, row: (Rows<'_>, usize), id: RowId, seen: Seen<'_>, rounding: f64) -> Offer {
        let DictionaryParams { eps, beta, .. } = self.params;
        let gamma = self.gamma();
        let x = (seen.diagonal - dot(seen.scored, seen.scored)).max(0.0) / gamma;
        let score = x / (1.0 + x);
        let p = (beta * (1.0 + eps) * score).min(1.0);
        if key.uniform(id) >= p {
            return Offer::default();
        }
        if self.is_full() {
            self.refused += 1;
            return Offer::default();
        }
        self.take(row, id, p, seen, rounding)
    }

    /// Takes a row with probability `p`. One that all factors span to rounding, which needs a ridge below rounding, is not taken.
    fn take(&mut self, (rows, i): (Rows<'_>, usize), id: RowId, p: f64, seen: Seen<'_>, rounding: f64) -> Offer {
        let Seen { diagonal, outside, phi, scored } = seen;
        let pivot = diagonal - dot(scored, scored) + self.gamma() * p;
        let least = DEPENDENT * (self.len() + 1) as f64 * diagonal;
        if pivot <= least || pivot.is_nan() {
            return Offer::default();
        }
        self.ridge.push(scored, pivot.sqrt());
        let grown = outside > least.max(rounding * diagonal);
        if grown {
            self.basis.push(phi, outside.sqrt());
            self.members.push(self.ids.len());
        }
        self.rows.push(rows, i);
        self.ids.push(id);
        self.p.push(p);
        Offer { accepted: true, grown }
    }

    /// Checks that a stored dictionary hangs together.
    pub fn check(&self) -> Result<(), OnlineError> {
        self.params.check()?;
        let n = self.len();
        let sound = self.rows.len() == n
            && self.p.len() == n
            && self.ridge.order() == n
            && self.basis.order() == self.members.len()
            && self.members.is_sorted_by(|a, b| a < b)
            && self.members.last().is_none_or(|&last| last < n)
            && n <= self.params.cap;
        if sound { Ok(()) } else { Err(OnlineError::State { what: "the dictionary's parts differ in length" }) }
    }
}
