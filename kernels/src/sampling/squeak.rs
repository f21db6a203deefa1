//! SQUEAK: a dictionary of a stream, in one pass.
//!
//! Expand adds rows exactly (p = 1); Shrink scores every atom within the dictionary, lowers its p to at most its score times the
//! oversampling, and keeps the copies whose fixed hash is still below p (Calandriello, Lazaric and Valko 2017). Adding rows exactly
//! keeps accuracy at plain gamma, so any number of rows may be added before a Shrink.
//!
//! * [`Squeak::blocks`]: Shrink after every block of B rows: about (M + B)^3 / B flops a row.
//! * [`Squeak::filter`], the normal way: rows are scored against a *frozen* dictionary of M atoms (M^2 flops a row) and join with
//!   the p of the score they would have after joining, x / (1 + x), which is at least their score in any larger
//!   dictionary; a full Shrink follows only when the dictionary has doubled, and at the end.
//!
//! E[w_i] = 1 for every row, always: p only falls, and each fall keeps a copy with probability p_new / p_old.

use super::dictionary::{Thresholds, id_order};
use super::leverage::{check_gamma, joint_score, merge_scale};
use super::{Atom, Dictionary, DictionaryMode, KernelOracle, RidgeFactor, SamplingError};
use crate::rows::{RowBuf, Rows};
use nystream_hashing::RowId;
use rayon::prelude::*;

/// *Shape.* Rows scored at a time against the frozen dictionary.
pub const FILTER_ROWS: usize = 128;

/// Chunks of [`FILTER_ROWS`] rows that are scored side by side, at most. Shapes nothing: a Shrink never falls inside such a batch.
const FILTER_BATCH: usize = 16;

/// *Shape.* A dictionary below twice this size is not worth a Shrink.
pub const FILTER_FLOOR: usize = 64;

/// What a dictionary is made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DictionaryParams {
    /// Matrix ridge of the leverage scores. For a pool of a fraction f of the rows, f times that of all rows.
    pub gamma: f64,
    /// How rows are kept.
    pub mode: DictionaryMode,
    /// Seed.
    pub seed: u64,
    /// A dictionary larger than this after a Shrink is an error, never a surprise to the memory budget.
    pub max_atoms: Option<usize>,
}

impl DictionaryParams {
    /// Bernoulli with the default oversampling, without a limit.
    pub fn new(gamma: f64, seed: u64) -> Self {
        DictionaryParams { gamma, mode: DictionaryMode::default(), seed, max_atoms: None }
    }
}

/// How many gammas of error the atoms to be shrunk may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// One accurate dictionary, and rows added exactly.
    One,
    /// The union of two accurate dictionaries.
    Two,
}

/// SQUEAK over one source of kernel values.
///
/// ```
/// use nystream_hashing::RowId;
/// use nystream_kernels::kernel::{Family, Kernel};
/// use nystream_kernels::rows::Rows;
/// use nystream_kernels::sampling::{DictionaryParams, Squeak};
/// let values: Vec<f32> = (0..600).map(|i| (i as f32 * 0.37).sin()).collect();
/// let ids: Vec<RowId> = (0..600).map(RowId).collect();
/// let kernel = Kernel::new(Family::Gaussian, 0.5);
/// let squeak = Squeak::new(&kernel, DictionaryParams::new(1.0, 7)).unwrap();
/// let dictionary = squeak.filter(Rows::new(&values, 1, &[], 0), &ids).unwrap();
/// assert!(dictionary.len() < 150);
/// assert!((dictionary.weights().iter().sum::<f64>() / 600.0 - 1.0).abs() < 0.3);
/// ```
#[derive(Clone, Debug)]
pub struct Squeak<'a, O: ?Sized> {
    oracle: &'a O,
    params: DictionaryParams,
    thresholds: Thresholds,
}

impl<'a, O: KernelOracle + ?Sized> Squeak<'a, O> {
    /// # Errors
    /// [`SamplingError::BadGamma`], or those of [`DictionaryMode::check`].
    pub fn new(oracle: &'a O, params: DictionaryParams) -> Result<Self, SamplingError> {
        check_gamma(params.gamma)?;
        params.mode.check()?;
        Ok(Squeak { oracle, params, thresholds: Thresholds::new(params.seed, params.mode.copies()) })
    }

    /// The parameters.
    pub fn params(&self) -> &DictionaryParams {
        &self.params
    }

    /// No atoms.
    pub fn empty(&self, numeric_width: usize, code_width: usize) -> Dictionary {
        Dictionary::empty(numeric_width, code_width, self.params.gamma, self.params.mode)
    }

    /// Expand: `dictionary` and all of `rows`, exactly. Accuracy is kept.
    ///
    /// # Errors
    /// [`SamplingError::Lengths`], [`SamplingError::DuplicateId`], [`SamplingError::Mismatch`].
    pub fn expand(&self, dictionary: &Dictionary, rows: Rows<'_>, ids: &[RowId]) -> Result<Dictionary, SamplingError> {
        dictionary.union(&Dictionary::exact(rows, ids, self.params.gamma, self.params.mode)?)
    }

    /// Shrink: lowers every p to that of the atom's score within the dictionary, and drops atoms without copies.
    ///
    /// # Errors
    /// [`SamplingError::NotPositive`], [`SamplingError::TooManyAtoms`], [`SamplingError::Mismatch`].
    ///
    /// ```
    /// use nystream_hashing::RowId;
    /// use nystream_kernels::kernel::{Family, Kernel};
    /// use nystream_kernels::rows::Rows;
    /// use nystream_kernels::sampling::{DictionaryParams, Inputs, Squeak};
    /// let values: Vec<f32> = (0..400).map(|i| (i as f32 * 0.37).sin()).collect();
    /// let ids: Vec<RowId> = (0..400).map(RowId).collect();
    /// let kernel = Kernel::new(Family::Gaussian, 0.5);
    /// let squeak = Squeak::new(&kernel, DictionaryParams::new(1.0, 7)).unwrap();
    /// let wide = squeak.expand(&squeak.empty(1, 0), Rows::new(&values, 1, &[], 0), &ids).unwrap();
    /// let narrow = squeak.shrink(&wide, Inputs::One).unwrap();
    /// assert!(wide.len() == 400 && narrow.len() < 150);
    /// assert!(narrow.weights().iter().all(|w| *w >= 1.0));
    /// ```
    pub fn shrink(&self, dictionary: &Dictionary, inputs: Inputs) -> Result<Dictionary, SamplingError> {
        let params = &self.params;
        if dictionary.gamma != params.gamma || dictionary.mode != params.mode {
            return Err(SamplingError::Mismatch { left: dictionary.gamma, right: params.gamma });
        }
        let view = dictionary.rows.view();
        let mut shrunk = self.empty(view.numeric_width(), view.code_width());
        shrunk.jitter = dictionary.jitter;
        if !dictionary.is_empty() {
            let factor = RidgeFactor::new(self.oracle, view, &dictionary.weights(), self.scale(inputs) * params.gamma)?;
            shrunk.jitter = shrunk.jitter.max(factor.jitter());
            for (i, score) in factor.atom_scores().scores.into_iter().enumerate() {
                let Atom { id, p, .. } = dictionary.atoms[i];
                let p = params.mode.probability(score).min(p);
                let q = self.thresholds.survivors(id, p);
                if q > 0 {
                    shrunk.push(view, i, Atom { id, p, q });
                }
            }
        }
        match params.max_atoms {
            Some(limit) if shrunk.len() > limit => Err(SamplingError::TooManyAtoms { atoms: shrunk.len(), limit }),
            _ => Ok(shrunk),
        }
    }

    /// The factor c of the ridge. The Bernoulli mode claims no constants and uses plain gamma throughout.
    fn scale(&self, inputs: Inputs) -> f64 {
        match (inputs, self.params.mode) {
            (Inputs::Two, DictionaryMode::Theorem { eps, .. }) => merge_scale(eps),
            _ => 1.0,
        }
    }

    /// The rows in the order given, with a Shrink after every `block` of them.
    ///
    /// # Errors
    /// Those of [`Squeak::expand`] and [`Squeak::shrink`].
    ///
    /// # Panics
    /// If `block` is 0.
    pub fn blocks(&self, rows: Rows<'_>, ids: &[RowId], block: usize) -> Result<Dictionary, SamplingError> {
        assert!(block > 0, "blocks hold at least one row");
        id_order(rows.len(), ids)?;
        let mut dictionary = self.empty(rows.numeric_width(), rows.code_width());
        for start in (0..rows.len()).step_by(block) {
            let end = (start + block).min(rows.len());
            let wider = self.expand(&dictionary, rows.slice(start, end), &ids[start..end])?;
            dictionary = self.shrink(&wider, Inputs::One)?;
        }
        Ok(dictionary)
    }

    /// The dictionary of a set of rows by the frozen-dictionary filter, in the order of their ids: the same bits
    /// in whatever order they are given.
    ///
    /// # Errors
    /// [`SamplingError::Lengths`], [`SamplingError::DuplicateId`], and those of [`Squeak::shrink`].
    pub fn filter(&self, rows: Rows<'_>, ids: &[RowId]) -> Result<Dictionary, SamplingError> {
        let order = id_order(rows.len(), ids)?;
        let mut dictionary = self.empty(rows.numeric_width(), rows.code_width());
        let mut frozen: Option<RidgeFactor> = None;
        let mut size = FILTER_FLOOR;
        let mut rest = &order[..];
        while !rest.is_empty() {
            // No more rows than there is room for before a Shrink: nothing is scored in vain, and however many are scored together, the
            // Shrink falls behind the same chunk.
            let room = (2 * size).saturating_sub(dictionary.len()) / FILTER_ROWS;
            let (batch, after) = rest.split_at((room.clamp(1, FILTER_BATCH) * FILTER_ROWS).min(rest.len()));
            rest = after;
            let scores = frozen.as_ref().map(|factor| self.scores(factor, rows, batch));
            for (j, i) in batch.iter().enumerate() {
                let p = scores.as_ref().map_or(1.0, |x| self.params.mode.probability(joint_score(x[j])));
                let q = self.thresholds.survivors(ids[*i], p);
                if q > 0 {
                    // Ids ascend, so the atoms stay sorted.
                    dictionary.push(rows, *i, Atom { id: ids[*i], p, q });
                }
            }
            if !rest.is_empty() && dictionary.len() >= 2 * size {
                dictionary = self.shrink(&dictionary, Inputs::One)?;
                size = dictionary.len().max(FILTER_FLOOR);
                let view = dictionary.rows.view();
                let factor = RidgeFactor::new(self.oracle, view, &dictionary.weights(), self.params.gamma)?;
                dictionary.jitter = dictionary.jitter.max(factor.jitter());
                frozen = Some(factor);
            }
        }
        self.shrink(&dictionary, Inputs::One)
    }

    /// Scores of the rows at `indices` against a frozen dictionary, chunk by chunk; a chunk's bits do not depend on who computes it.
    fn scores(&self, frozen: &RidgeFactor, rows: Rows<'_>, indices: &[usize]) -> Vec<f64> {
        indices
            .par_chunks(FILTER_ROWS)
            .map_init(faer::Mat::new, |scratch, chunk| {
                frozen.row_scores_with(self.oracle, RowBuf::gather(rows, chunk).view(), scratch)
            })
            .flatten_iter()
            .collect()
    }

    /// DISQUEAK's merge: the union of two dictionaries, shrunk. One without atoms leaves the other as it is.
    ///
    /// # Errors
    /// [`SamplingError::Mismatch`], [`SamplingError::DuplicateId`], and those of [`Squeak::shrink`].
    ///
    /// ```
    /// use nystream_hashing::RowId;
    /// use nystream_kernels::kernel::{Family, Kernel};
    /// use nystream_kernels::rows::Rows;
    /// use nystream_kernels::sampling::{DictionaryParams, Squeak};
    /// let values: Vec<f32> = (0..800).map(|i| (i as f32 * 0.37).sin()).collect();
    /// let ids: Vec<RowId> = (0..800).map(RowId).collect();
    /// let (rows, kernel) = (Rows::new(&values, 1, &[], 0), Kernel::new(Family::Gaussian, 0.5));
    /// let squeak = Squeak::new(&kernel, DictionaryParams::new(1.0, 7)).unwrap();
    /// let left = squeak.filter(rows.slice(0, 400), &ids[..400]).unwrap();
    /// let right = squeak.filter(rows.slice(400, 800), &ids[400..]).unwrap();
    /// let both = squeak.merge(&left, &right).unwrap();
    /// assert!(both.len() < left.len() + right.len());
    /// assert!((both.weights().iter().sum::<f64>() / 800.0 - 1.0).abs() < 0.3);
    /// ```
    pub fn merge(&self, a: &Dictionary, b: &Dictionary) -> Result<Dictionary, SamplingError> {
        let union = a.union(b)?;
        if a.is_empty() || b.is_empty() { Ok(union) } else { self.shrink(&union, Inputs::Two) }
    }
}
