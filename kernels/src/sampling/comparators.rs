//! Other ways to choose a dictionary, for comparison; KORS also feeds the online learners.
//!
//! | | passes | keeps | guarantee |
//! |---|---|---|---|
//! | [`Kors`] | one, insert-only | about beta d_onl(gamma), d_onl the sum of scores at arrival | Calandriello, Lazaric and Valko, ICML 2017 |
//! | [`bless`] | one sampled read a level | about b d_eff(gamma) | Rudi, Calandriello, Carratino and Rosasco, NeurIPS 2018 |
//! | [`recursive_scores`] | log n nested | about 16 log(d_eff / delta) 3/2 d_eff(gamma) | Musco and Musco, NeurIPS 2017 |
//!
//! All use hashed uniforms, and all weights are 1/p with p the *total* probability of inclusion. (Two traps of public code:
//! 1/p taken for sqrt(w), and the conditional p of BLESS stored in place of the total one.)

use super::dictionary::id_order;
use super::leverage::{Append, GrowingCholesky, check_gamma, joint_score, squared_norm};
use super::{Atom, Dictionary, DictionaryMode, KernelOracle, RidgeFactor, SamplingError};
use crate::rows::{RowBuf, Rows};
use nystream_hashing::{RowId, StreamKey};

/// *Shape.* Rows scored at a time.
const SCORE_ROWS: usize = 256;

/// Kernel online row sampling: decides on every row as it comes, and never takes a decision back.
///
/// With x = (k(x,x) - k^T S (S K S + gamma I)^-1 S k) / gamma, a row is accepted with p = min(1, beta (1 + eps) x / (1 + x)) and keeps
/// the weight 1/p forever. O(m^2) a row. The size follows d_onl, not d_eff: it pays that the dictionary only grows.
///
/// ```
/// use nystream_hashing::RowId;
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, sampling::comparators::Kors};
/// let kernel = Kernel::new(Family::Gaussian, 0.5);
/// let values: Vec<f32> = (0..200).map(|i| (i as f32 * 0.37).sin()).collect();
/// let mut kors = Kors::new(1, 0, 1.0, 0.5, 4.0, 7).unwrap();
/// let rows = Rows::new(&values, 1, &[], 0);
/// let accepted = (0..200).filter(|i| kors.offer(&kernel, rows.slice(*i, i + 1), RowId(*i as u128)).accepted).count();
/// assert_eq!(accepted, kors.len());
/// assert!(accepted < 100);
/// ```
#[derive(Clone, Debug)]
pub struct Kors {
    gamma: f64,
    eps: f64,
    beta: f64,
    key: StreamKey,
    rows: RowBuf,
    ids: Vec<RowId>,
    p: Vec<f64>,
    factor: GrowingCholesky,
}

/// What [`Kors::offer`] decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// The row's estimated score at arrival, (1 + eps) x / (1 + x).
    pub score: f64,
    /// Probability with which it was accepted.
    pub p: f64,
    /// Whether it was accepted.
    pub accepted: bool,
}

impl Kors {
    /// An empty dictionary at matrix ridge `gamma`, accuracy `eps` and oversampling `beta` (theory: 3 log(T / delta) / eps^2).
    ///
    /// # Errors
    /// [`SamplingError::BadGamma`]; [`SamplingError::BadParameter`] for eps outside [0, 1) or beta that is not positive.
    pub fn new(
        numeric_width: usize,
        code_width: usize,
        gamma: f64,
        eps: f64,
        beta: f64,
        seed: u64,
    ) -> Result<Self, SamplingError> {
        check_gamma(gamma)?;
        if !(0.0..1.0).contains(&eps) {
            return Err(SamplingError::BadParameter { name: "eps", value: eps, expected: "in [0, 1)" });
        }
        if !(beta > 0.0 && beta.is_finite()) {
            return Err(SamplingError::BadParameter { name: "beta", value: beta, expected: "positive and finite" });
        }
        let rows = RowBuf::new(numeric_width, code_width);
        let key = StreamKey::new(seed, "kors", 0);
        Ok(Kors { gamma, eps, beta, key, rows, ids: Vec::new(), p: Vec::new(), factor: GrowingCholesky::new() })
    }

    /// Number of atoms.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no atoms.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The atoms' rows, in the order of acceptance.
    pub fn rows(&self) -> Rows<'_> {
        self.rows.view()
    }

    /// The atoms' ids, in the order of acceptance.
    pub fn ids(&self) -> &[RowId] {
        &self.ids
    }

    /// The atoms' weights 1/p.
    pub fn weights(&self) -> Vec<f64> {
        self.p.iter().map(|p| 1.0 / p).collect()
    }

    /// Scores the one row in `row` and accepts it or not.
    ///
    /// # Panics
    /// If `row` does not hold exactly one row.
    pub fn offer<O: KernelOracle + ?Sized>(&mut self, oracle: &O, row: Rows<'_>, id: RowId) -> Offer {
        assert_eq!(row.len(), 1, "one row at a time");
        let diagonal = oracle.diagonal(row)[0];
        let k: Vec<f64> =
            if self.is_empty() { Vec::new() } else { oracle.block(self.rows.view(), row).col_as_slice(0).to_vec() };
        // S (S K S + gamma I)^-1 S = (K + gamma diag(p))^-1.
        let x = ((diagonal - squared_norm(&self.factor.solve(&k))) / self.gamma).max(0.0);
        let score = (1.0 + self.eps) * joint_score(x);
        let p = (self.beta * score).min(1.0);
        // A row that the others span to rounding (possible only for a ridge below rounding) adds nothing and is not taken.
        let accepted = self.key.uniform(id) < p
            && matches!(self.factor.append(&k, diagonal, self.gamma * p), Append::Grown { .. });
        if accepted {
            self.rows.push(row, 0);
            self.ids.push(id);
            self.p.push(p);
        }
        Offer { score, p, accepted }
    }
}

/// BLESS: a ladder of ridges from n max k(x, x) down to `gamma`, halving. At each level rows are first kept with u = min(1, b k(x,x) /
/// (k(x,x) + gamma_h)), and only those are scored, with the dictionary of the level above; the total probability of inclusion is
/// p = min(b tau, u). Work is about (n / gamma) d_eff^2, whatever n.
///
/// The atoms come with mode `Bernoulli { beta: oversampling }` and weights 1/p.
///
/// # Errors
/// [`SamplingError::Lengths`], [`SamplingError::DuplicateId`], [`SamplingError::BadGamma`], [`SamplingError::BadParameter`],
/// [`SamplingError::NotPositive`].
///
/// ```
/// use nystream_hashing::RowId;
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, sampling::comparators::bless};
/// let values: Vec<f32> = (0..600).map(|i| (i as f32 * 0.37).sin()).collect();
/// let ids: Vec<RowId> = (0..600).map(RowId).collect();
/// let (rows, kernel) = (Rows::new(&values, 1, &[], 0), Kernel::new(Family::Gaussian, 0.5));
/// let dictionary = bless(&kernel, rows, &ids, 1.0, 8.0, 7).unwrap();
/// assert!(!dictionary.is_empty() && dictionary.len() < 300);
/// assert!((dictionary.weights().iter().sum::<f64>() / 600.0 - 1.0).abs() < 0.4);
/// ```
pub fn bless<O: KernelOracle + ?Sized>(
    oracle: &O,
    rows: Rows<'_>,
    ids: &[RowId],
    gamma: f64,
    oversampling: f64,
    seed: u64,
) -> Result<Dictionary, SamplingError> {
    check_gamma(gamma)?;
    let mode = DictionaryMode::Bernoulli { beta: oversampling };
    mode.check()?;
    let order = id_order(rows.len(), ids)?;
    let diagonal = oracle.diagonal(rows);
    let top = diagonal.iter().copied().fold(0.0, f64::max);
    let empty = |gamma| Dictionary::empty(rows.numeric_width(), rows.code_width(), gamma, mode);
    let mut ridge = (rows.len() as f64 * top).max(gamma);
    let mut previous = empty(ridge);
    for level in 0.. {
        let key = StreamKey::new(seed, "bless", level);
        let ceiling = |i: usize| (oversampling * diagonal[i] / (diagonal[i] + ridge)).min(1.0);
        let kept: Vec<usize> = order.iter().copied().filter(|i| key.uniform(ids[*i]) < ceiling(*i)).collect();
        let scores = scores_against(oracle, &previous, ridge, rows, &kept)?;
        let mut next = empty(ridge);
        for (i, tau) in kept.iter().zip(scores) {
            let p = (oversampling * tau).min(ceiling(*i));
            if key.uniform(ids[*i]) < p {
                next.push(rows, *i, Atom { id: ids[*i], p, q: 1 });
            }
        }
        previous = next;
        if ridge <= gamma {
            break;
        }
        ridge = (ridge / 2.0).max(gamma);
    }
    Ok(previous)
}

/// Parameters of [`recursive_scores`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecursiveParams {
    /// Matrix ridge.
    pub gamma: f64,
    /// Oversampling; the published constant is 16.
    pub oversampling: f64,
    /// Probability of failure, in (0, 1).
    pub delta: f64,
    /// Rows below which all are kept.
    pub base: usize,
    /// Seed.
    pub seed: u64,
}

/// Recursive leverage-score sampling: halves the rows down to at most `base` of them, and on the way back scores each level with the
/// dictionary of its half: l = 3/(2 gamma) (k(x,x) - k^T S (S K S + gamma I)^-1 S k), p = min(1, oversampling l log(sum l / delta)).
/// The published constant is 16; smaller ones give smaller dictionaries without the theorem.
///
/// The atoms come with mode `Bernoulli { beta: oversampling }` and weights 1/p. n m kernel values, n m^2 flops.
///
/// # Errors
/// As [`bless`].
///
/// ```
/// use nystream_hashing::RowId;
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, sampling::comparators::{RecursiveParams, recursive_scores}};
/// let values: Vec<f32> = (0..600).map(|i| (i as f32 * 0.37).sin()).collect();
/// let ids: Vec<RowId> = (0..600).map(RowId).collect();
/// let (rows, kernel) = (Rows::new(&values, 1, &[], 0), Kernel::new(Family::Gaussian, 0.5));
/// let params = RecursiveParams { gamma: 1.0, oversampling: 2.0, delta: 0.1, base: 50, seed: 7 };
/// let dictionary = recursive_scores(&kernel, rows, &ids, params).unwrap();
/// assert!(!dictionary.is_empty() && dictionary.len() < 300);
/// assert!((dictionary.weights().iter().sum::<f64>() / 600.0 - 1.0).abs() < 0.4);
/// ```
pub fn recursive_scores<O: KernelOracle + ?Sized>(
    oracle: &O,
    rows: Rows<'_>,
    ids: &[RowId],
    params: RecursiveParams,
) -> Result<Dictionary, SamplingError> {
    let RecursiveParams { gamma, oversampling, delta, base, seed } = params;
    check_gamma(gamma)?;
    let mode = DictionaryMode::Bernoulli { beta: oversampling };
    mode.check()?;
    if !(delta > 0.0 && delta < 1.0) {
        return Err(SamplingError::BadParameter { name: "delta", value: delta, expected: "in (0, 1)" });
    }
    let mut levels = vec![id_order(rows.len(), ids)?];
    while levels[levels.len() - 1].len() > base.max(1) && levels.len() < 64 {
        let coin = StreamKey::new(seed, "recursive-half", levels.len() as u64);
        let half = levels[levels.len() - 1].iter().copied().filter(|i| coin.uniform(ids[*i]) < 0.5).collect();
        levels.push(half);
    }
    let mut dictionary = Dictionary::empty(rows.numeric_width(), rows.code_width(), gamma, mode);
    for (depth, level) in levels.iter().enumerate().rev() {
        let mut next = Dictionary::empty(rows.numeric_width(), rows.code_width(), gamma, mode);
        if depth == levels.len() - 1 {
            level.iter().for_each(|i| next.push(rows, *i, Atom { id: ids[*i], p: 1.0, q: 1 }));
        } else {
            let key = StreamKey::new(seed, "recursive", depth as u64);
            let scores: Vec<f64> =
                scores_against(oracle, &dictionary, gamma, rows, level)?.into_iter().map(|x| 1.5 * x).collect();
            let factor = oversampling * (scores.iter().sum::<f64>() / delta).ln().max(1.0);
            for (i, score) in level.iter().zip(scores) {
                let p = (factor * score).min(1.0);
                if key.uniform(ids[*i]) < p {
                    next.push(rows, *i, Atom { id: ids[*i], p, q: 1 });
                }
            }
        }
        dictionary = next;
    }
    Ok(dictionary)
}

/// (k(x,x) - k^T S (S K S + ridge I)^-1 S k) / ridge of the rows `chosen`.
fn scores_against<O: KernelOracle + ?Sized>(
    oracle: &O,
    dictionary: &Dictionary,
    ridge: f64,
    rows: Rows<'_>,
    chosen: &[usize],
) -> Result<Vec<f64>, SamplingError> {
    let factor = match dictionary.is_empty() {
        true => None,
        false => Some(RidgeFactor::new(oracle, dictionary.rows.view(), &dictionary.weights(), ridge)?),
    };
    Ok(chosen
        .chunks(SCORE_ROWS)
        .flat_map(|chunk| {
            let chunk = RowBuf::gather(rows, chunk);
            match &factor {
                Some(factor) => factor.row_scores(oracle, chunk.view()),
                None => oracle.diagonal(chunk.view()).into_iter().map(|d| d / ridge).collect(),
            }
        })
        .collect())
}
