//! Weighted atoms that stand for all rows seen, and how they are kept.

use super::SamplingError;
use super::leverage::check_gamma;
use crate::rows::{RowBuf, Rows};
use nystream_hashing::{RowId, StreamKey};
use serde::{Deserialize, Serialize};

/// How rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DictionaryMode {
    /// One copy a row, kept with p = min(1, beta tau), weight 1/p: rows of score at least 1/beta stay with weight 1 and no
    /// variance. Weights are never below 1.
    Bernoulli {
        /// Oversampling; 8 gives an accuracy of about 0.5 at the dictionary's gamma.
        beta: f64,
    },
    /// qbar copies a row, each kept with p = (1 - eps) tau, weight q / (qbar p), with the constants of the SQUEAK theorem.
    Theorem {
        /// Accuracy, in (0, 1/2]; 0 gives plain Binomial sampling without the safety factor of the theorem.
        eps: f64,
        /// Probability of failure.
        delta: f64,
        /// Copies a row; see [`DictionaryMode::theorem`].
        qbar: u32,
    },
}

impl Default for DictionaryMode {
    fn default() -> Self {
        DictionaryMode::Bernoulli { beta: 8.0 }
    }
}

impl DictionaryMode {
    /// The theorem's mode for `rows` rows: qbar = 39 alpha ln(2n / delta) / eps^2, with the alpha = (1 + 3 eps) / (1 - eps) of
    /// merge trees (Calandriello, Lazaric and Valko 2017); with probability 1 - delta every dictionary is then eps-accurate and
    /// holds at most 3 qbar d_eff atoms.
    ///
    /// # Errors
    /// [`SamplingError::TheoremTooLarge`] when the expected size, about sum_i 1 - (1 - tau_i)^qbar over the `scores` (those of a
    /// uniform sample of the rows), is not below the number of rows or above `budget` atoms;
    /// [`SamplingError::BadParameter`] for eps outside (0, 1/2] or delta outside (0, 1).
    ///
    /// ```
    /// use nystream_kernels::sampling::DictionaryMode;
    /// // A million rows of effective dimension 10: 13,112 copies of each, some 63,000 atoms.
    /// let mode = DictionaryMode::theorem(0.5, 0.1, 1_000_000, &[1e-5; 100], 200_000).unwrap();
    /// assert!(matches!(mode, DictionaryMode::Theorem { qbar, .. } if (13_000..14_000).contains(&qbar)));
    /// assert!(DictionaryMode::theorem(0.5, 0.1, 2_000, &[0.015; 100], 200_000).is_err());
    /// ```
    pub fn theorem(eps: f64, delta: f64, rows: u64, scores: &[f64], budget: usize) -> Result<Self, SamplingError> {
        if !(eps > 0.0 && eps <= 0.5) {
            return Err(SamplingError::BadParameter { name: "eps", value: eps, expected: "in (0, 0.5]" });
        }
        if !(delta > 0.0 && delta < 1.0) {
            return Err(SamplingError::BadParameter { name: "delta", value: delta, expected: "in (0, 1)" });
        }
        let alpha = (1.0 + 3.0 * eps) / (1.0 - eps);
        let copies = 39.0 * alpha * (2.0 * rows as f64 / delta).ln() / (eps * eps);
        let qbar = copies.ceil().min(f64::from(u32::MAX)) as u32;
        let scale = rows as f64 / scores.len().max(1) as f64;
        let kept = |tau: &f64| 1.0 - (1.0 - ((1.0 - eps) * tau).clamp(0.0, 1.0)).powf(f64::from(qbar));
        let expected = scale * scores.iter().map(kept).sum::<f64>();
        // An expectation within half a row of n keeps every row.
        if expected >= rows as f64 - 0.5 || expected > budget as f64 {
            let effective_dimension = scale * scores.iter().sum::<f64>();
            return Err(SamplingError::TheoremTooLarge { copies: qbar, effective_dimension, expected, rows, budget });
        }
        Ok(DictionaryMode::Theorem { eps, delta, qbar })
    }

    /// Checks the parameters.
    ///
    /// # Errors
    /// [`SamplingError::BadParameter`].
    pub fn check(&self) -> Result<(), SamplingError> {
        let (name, value, ok, expected) = match *self {
            DictionaryMode::Bernoulli { beta } => ("beta", beta, beta > 0.0 && beta.is_finite(), "positive and finite"),
            DictionaryMode::Theorem { eps, .. } if !(0.0..=0.5).contains(&eps) => ("eps", eps, false, "in [0, 0.5]"),
            DictionaryMode::Theorem { qbar, .. } => ("qbar", f64::from(qbar), qbar > 0, "at least 1"),
        };
        if ok { Ok(()) } else { Err(SamplingError::BadParameter { name, value, expected }) }
    }

    /// Copies of each row.
    pub fn copies(&self) -> u32 {
        match *self {
            DictionaryMode::Bernoulli { .. } => 1,
            DictionaryMode::Theorem { qbar, .. } => qbar,
        }
    }

    /// The inclusion probability of a score, before the minimum with the old one: c tau, at most 1.
    pub(super) fn probability(&self, score: f64) -> f64 {
        let factor = match *self {
            DictionaryMode::Bernoulli { beta } => beta,
            DictionaryMode::Theorem { eps, .. } => 1.0 - eps,
        };
        (factor * score).min(1.0)
    }
}

/// One atom of a dictionary: a row that survived.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Atom {
    /// The row.
    pub id: RowId,
    /// Probability with which each of its copies has been kept so far; never grows.
    pub p: f64,
    /// Copies left, at least 1.
    pub q: u32,
}

/// Weighted atoms, sorted by id, that stand for all rows they were chosen from.
#[derive(Clone, Debug, PartialEq)]
pub struct Dictionary {
    /// The atoms' rows, in the order of `atoms`.
    pub rows: RowBuf,
    /// The atoms, by ascending id.
    pub atoms: Vec<Atom>,
    /// Matrix ridge of the leverage scores (of the pool's scale, when the rows are a pool).
    pub gamma: f64,
    /// How the atoms were kept.
    pub mode: DictionaryMode,
    /// Largest jitter any factorisation on the way needed: 0 unless gamma is below the rounding of the kernel entries.
    pub jitter: f64,
}

impl Dictionary {
    /// No atoms, of the given widths.
    pub fn empty(numeric_width: usize, code_width: usize, gamma: f64, mode: DictionaryMode) -> Self {
        Dictionary { rows: RowBuf::new(numeric_width, code_width), atoms: Vec::new(), gamma, mode, jitter: 0.0 }
    }

    /// Rows taken as they are: every atom has p = 1 and weight 1.
    ///
    /// # Errors
    /// [`SamplingError::Lengths`], [`SamplingError::DuplicateId`], [`SamplingError::BadGamma`], or those of [`DictionaryMode::check`].
    pub fn exact(rows: Rows<'_>, ids: &[RowId], gamma: f64, mode: DictionaryMode) -> Result<Self, SamplingError> {
        check_gamma(gamma)?;
        mode.check()?;
        let order = id_order(rows.len(), ids)?;
        let atoms = order.iter().map(|i| Atom { id: ids[*i], p: 1.0, q: mode.copies() }).collect();
        Ok(Dictionary { rows: RowBuf::gather(rows, &order), atoms, gamma, mode, jitter: 0.0 })
    }

    /// Number of atoms.
    pub fn len(&self) -> usize {
        self.atoms.len()
    }

    /// Whether there are no atoms.
    pub fn is_empty(&self) -> bool {
        self.atoms.is_empty()
    }

    /// Weight of atom `i`: q / (copies p), whose mean over seeds is 1 for every row (0 once dropped).
    pub fn weight(&self, i: usize) -> f64 {
        let atom = self.atoms[i];
        f64::from(atom.q) / (f64::from(self.mode.copies()) * atom.p)
    }

    /// All weights.
    pub fn weights(&self) -> Vec<f64> {
        (0..self.len()).map(|i| self.weight(i)).collect()
    }

    /// All ids, ascending.
    pub fn ids(&self) -> Vec<RowId> {
        self.atoms.iter().map(|atom| atom.id).collect()
    }

    /// Both sets of atoms, unchanged: accurate for all rows of both at the sum of their ridges.
    ///
    /// # Errors
    /// [`SamplingError::Mismatch`], [`SamplingError::DuplicateId`].
    ///
    /// ```
    /// use nystream_hashing::RowId;
    /// use nystream_kernels::rows::Rows;
    /// use nystream_kernels::sampling::{Dictionary, DictionaryMode};
    /// let rows = Rows::new(&[0.0, 1.0, 2.0], 1, &[], 0);
    /// let exact = |from, to, ids: &[RowId]| {
    ///     Dictionary::exact(rows.slice(from, to), ids, 1.0, DictionaryMode::default()).unwrap()
    /// };
    /// let (odd, even) = (exact(0, 1, &[RowId(5)]), exact(1, 3, &[RowId(2), RowId(8)]));
    /// let union = odd.union(&even).unwrap();
    /// assert_eq!(union.ids(), [RowId(2), RowId(5), RowId(8)]);
    /// assert_eq!((union.weights(), &union.rows.numeric), (vec![1.0; 3], &vec![1.0, 0.0, 2.0]));
    /// assert!(union.union(&odd).is_err());
    /// ```
    pub fn union(&self, other: &Dictionary) -> Result<Dictionary, SamplingError> {
        if self.gamma != other.gamma || self.mode != other.mode {
            return Err(SamplingError::Mismatch { left: self.gamma, right: other.gamma });
        }
        let mut union = Dictionary::empty(self.rows.numeric_width, self.rows.code_width, self.gamma, self.mode);
        union.jitter = self.jitter.max(other.jitter);
        let (mut i, mut j) = (0, 0);
        while i < self.len() || j < other.len() {
            let left = match (self.atoms.get(i), other.atoms.get(j)) {
                (Some(a), Some(b)) if a.id == b.id => return Err(SamplingError::DuplicateId { id: a.id }),
                (Some(a), Some(b)) => a.id < b.id,
                (a, _) => a.is_some(),
            };
            let (from, at) = if left { (self, i) } else { (other, j) };
            union.push(from.rows.view(), at, from.atoms[at]);
            if left { i += 1 } else { j += 1 }
        }
        Ok(union)
    }

    pub(super) fn push(&mut self, rows: Rows<'_>, i: usize, atom: Atom) {
        self.rows.push(rows, i);
        self.atoms.push(atom);
    }
}

/// The order that sorts `ids`; they must be as many as the rows, and distinct.
pub(super) fn id_order(rows: usize, ids: &[RowId]) -> Result<Vec<usize>, SamplingError> {
    if ids.len() != rows {
        return Err(SamplingError::Lengths { rows, others: ids.len(), what: "ids" });
    }
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_unstable_by_key(|i| ids[*i]);
    match order.windows(2).find(|pair| ids[pair[0]] == ids[pair[1]]) {
        Some(pair) => Err(SamplingError::DuplicateId { id: ids[pair[0]] }),
        None => Ok(order),
    }
}

/// The fixed uniforms u_ij of row i and copy j: copy j is in the dictionary as long as u_ij < p_i.
///
/// Given that u < p it is uniform on [0, p], so lowering p to p' keeps a copy with probability p'/p: the law of drawing again,
/// with no generator state, and the same however often it is done.
#[derive(Clone, Debug)]
pub(super) struct Thresholds(Vec<StreamKey>);

impl Thresholds {
    pub(super) fn new(seed: u64, copies: u32) -> Self {
        Thresholds((0..u64::from(copies)).map(|copy| StreamKey::new(seed, "squeak", copy)).collect())
    }

    /// Copies of `id` with a uniform below `p`.
    pub(super) fn survivors(&self, id: RowId, p: f64) -> u32 {
        if p >= 1.0 {
            return self.0.len() as u32;
        }
        self.0.iter().map(|key| u32::from(key.uniform(id) < p)).sum()
    }
}
