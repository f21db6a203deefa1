//! Ridge leverage scores.
//!
//! tau_i(gamma) = phi_i^T (A + gamma I)^-1 phi_i = [K (K + gamma I)^-1]_ii, A = sum phi phi^T, and their sum is the
//! effective dimension. For a dictionary with weights w, S = diag(sqrt w) and N = S K S + c gamma I:
//! * an atom's score is (1 - c gamma [N^-1]_ii) / w_i: one Cholesky and the diagonal of the inverse, no kernel columns;
//! * any row's score is (k(x, x) - |L^-1 S k(x)|^2) / (c gamma), L L^T = N.
//!
//! Both equal phi^T (M + c gamma I)^-1 phi with M = sum w phi phi^T. c is 1 for one input that is accurate at gamma,
//! and 1 + eps for the union of two ([`merge_scale`]).
//!
//! N is at least c gamma I, so it needs no jitter; kernel entries rounded to f32 can still break that for a tiny
//! ridge. Then a jitter j is put on K (never on N: K + j I only *raises* scores, which is the safe side), grown
//! eightfold until the factor exists, and recorded ([`RidgeFactor::jitter`]).
//!
//! Cost: 2 m^3 / 3 flops for the scores of m atoms; m^2 flops a row, plus kernel values, for other rows.

use super::oracle::scaled_lower;
use super::{KernelOracle, PARALLEL_ORDER, SamplingError, parallelism};
use crate::dense;
use crate::rows::{RowBuf, Rows};
use faer::{Mat, MatMut, MatRef};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// *Shape.* Columns of L^-1 that are solved for at once.
const INVERSE_COLUMNS: usize = 128;

/// Scores are never taken below this: rounding can make the score of a negligible row zero or negative, and
/// overestimating is safe.
pub const SCORE_FLOOR: f64 = 1e-12;

/// The factor c of the ridge when two dictionaries of accuracy `eps` are merged: each brings its own gamma, so
/// M - A is within eps (A + 2 gamma I), and (1 - eps) tau_c <= tau holds from c = 1 + eps on.
pub fn merge_scale(eps: f64) -> f64 {
    1.0 + eps
}

/// All scores of the symmetric `k` (n x n) by its eigendecomposition: the slow reference, about 9 n^3 flops.
///
/// # Errors
/// [`SamplingError::BadGamma`]; [`SamplingError::Dense`] when `k` is not finite.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::sampling::leverage::exact_scores;
/// let tau = exact_scores(mat![[3.0, 0.0], [0.0, 1.0]].as_ref(), 1.0).unwrap();
/// assert!((tau[0] - 0.75).abs() < 1e-14 && (tau[1] - 0.5).abs() < 1e-14);
/// ```
pub fn exact_scores(k: MatRef<'_, f64>, gamma: f64) -> Result<Vec<f64>, SamplingError> {
    check_gamma(gamma)?;
    let (mu, u) = dense::symmetric_eigen(k, parallelism(k.nrows()))?;
    let shrink: Vec<f64> = mu.iter().map(|m| m.max(0.0) / (m.max(0.0) + gamma)).collect();
    Ok((0..k.nrows()).map(|i| (0..mu.len()).map(|j| u[(i, j)] * u[(i, j)] * shrink[j]).sum()).collect())
}

pub(super) fn check_gamma(gamma: f64) -> Result<(), SamplingError> {
    if gamma > 0.0 && gamma.is_finite() { Ok(()) } else { Err(SamplingError::BadGamma { gamma }) }
}

/// The Cholesky factor of N = S K S + ridge I for weighted atoms, ready to score atoms and rows.
///
/// ```
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, sampling::RidgeFactor};
/// let kernel = Kernel::new(Family::Gaussian, 1.0);
/// let atoms = Rows::new(&[0.0, 2.0], 1, &[], 0);
/// let factor = RidgeFactor::new(&kernel, atoms, &[1.0, 3.0], 0.5).unwrap();
/// let (by_atom, by_row) = (factor.atom_scores().scores, factor.row_scores(&kernel, atoms));
/// assert!(by_atom.iter().zip(&by_row).all(|(a, b)| (a - b).abs() < 1e-12));
/// ```
#[derive(Clone, Debug)]
pub struct RidgeFactor {
    atoms: RowBuf,
    roots: Vec<f64>,
    l: Mat<f64>,
    ridge: f64,
    jitter: f64,
}

/// Scores of the atoms of a dictionary.
#[derive(Clone, Debug, PartialEq)]
pub struct AtomScores {
    /// One score per atom, at least [`SCORE_FLOOR`].
    pub scores: Vec<f64>,
    /// sum_i (1 - ridge [N^-1]_ii): the dictionary's estimate of the effective dimension at the ridge.
    pub effective_dimension: f64,
}

impl RidgeFactor {
    /// Factors S K S + `ridge` I for `atoms` of positive `weights` (S = diag(sqrt weights)); `ridge` = c gamma.
    ///
    /// # Errors
    /// [`SamplingError::BadGamma`], [`SamplingError::Lengths`], [`SamplingError::BadWeight`] (zero included), and
    /// [`SamplingError::NotPositive`] when the largest jitter does not help.
    pub fn new<O: KernelOracle + ?Sized>(
        oracle: &O,
        atoms: Rows<'_>,
        weights: &[f64],
        ridge: f64,
    ) -> Result<Self, SamplingError> {
        check_gamma(ridge)?;
        let order = atoms.len();
        if weights.len() != order {
            return Err(SamplingError::Lengths { rows: order, others: weights.len(), what: "weights" });
        }
        if let Some(row) = weights.iter().position(|w| !(*w > 0.0 && w.is_finite())) {
            return Err(SamplingError::BadWeight { row, weight: weights[row] });
        }
        let roots: Vec<f64> = weights.iter().map(|w| w.sqrt()).collect();
        let (l, jitter) = factor(oracle, atoms, &roots, ridge)?;
        let mut buffer = RowBuf::new(atoms.numeric_width(), atoms.code_width());
        buffer.numeric.extend_from_slice(atoms.all_numeric());
        buffer.codes.extend_from_slice(atoms.all_codes());
        Ok(RidgeFactor { atoms: buffer, roots, l, ridge, jitter })
    }

    /// Number of atoms.
    pub fn order(&self) -> usize {
        self.roots.len()
    }

    /// The jitter that had to be put on K; 0 unless the entries' rounding exceeds the ridge.
    pub fn jitter(&self) -> f64 {
        self.jitter
    }

    /// Scores of the atoms themselves: m^3/3 flops.
    pub fn atom_scores(&self) -> AtomScores {
        let mut effective_dimension = 0.0;
        let scores = self
            .inverse_diagonal()
            .into_iter()
            .zip(&self.roots)
            .map(|(diagonal, root)| {
                let part = 1.0 - self.ridge * diagonal;
                effective_dimension += part;
                floored(part / (root * root))
            })
            .collect();
        AtomScores { scores, effective_dimension }
    }

    /// The diagonal of N^-1: [N^-1]_jj = |column j of L^-1|^2, whose first j entries are zero.
    ///
    /// Columns are solved for by panels, each alone: the bits do not depend on how many threads take them, and L^-1 is never held whole.
    fn inverse_diagonal(&self) -> Vec<f64> {
        let order = self.order();
        let panel = |start: usize| {
            let width = INVERSE_COLUMNS.min(order - start);
            let rest = order - start;
            let mut columns = Mat::zeros(rest, width);
            (0..width).for_each(|j| columns[(j, j)] = 1.0);
            dense::solve_lower(self.l.submatrix(start, start, rest, rest), columns.as_mut(), dense::SEQUENTIAL);
            (0..width).map(move |j| squared_norm(&columns.col_as_slice(j)[j..])).collect::<Vec<_>>()
        };
        let starts: Vec<usize> = (0..order).step_by(INVERSE_COLUMNS).collect();
        if order < PARALLEL_ORDER {
            starts.into_iter().flat_map(panel).collect()
        } else {
            starts.into_par_iter().with_max_len(1).flat_map_iter(panel).collect()
        }
    }

    /// x_i = phi_i^T (M + ridge I)^-1 phi_i of any rows, atoms or not: m^2 flops each, and m kernel values.
    ///
    /// For a row that is *not* part of M, its score within M plus itself is x / (1 + x) ([`joint_score`]).
    pub fn row_scores<O: KernelOracle + ?Sized>(&self, oracle: &O, rows: Rows<'_>) -> Vec<f64> {
        self.row_scores_with(oracle, rows, &mut Mat::new())
    }

    /// [`RidgeFactor::row_scores`] with working memory that is kept between calls.
    pub(super) fn row_scores_with<O: KernelOracle + ?Sized>(
        &self,
        oracle: &O,
        rows: Rows<'_>,
        scratch: &mut Mat<f64>,
    ) -> Vec<f64> {
        let order = self.order();
        if scratch.nrows() < order || scratch.ncols() < rows.len() {
            *scratch = Mat::zeros(order, rows.len());
        }
        let mut k = scratch.as_mut().submatrix_mut(0, 0, order, rows.len());
        oracle.fill(self.atoms.view(), rows, k.as_mut());
        for j in 0..rows.len() {
            for (v, s) in column(k.as_mut(), j).iter_mut().zip(&self.roots) {
                *v *= s;
            }
        }
        dense::solve_lower(self.l.as_ref(), k.as_mut(), dense::SEQUENTIAL);
        let diagonal = oracle.diagonal(rows);
        (0..rows.len()).map(|j| floored((diagonal[j] - squared_norm(column(k.as_mut(), j))) / self.ridge)).collect()
    }
}

/// The score of a row within a dictionary that it has just joined with weight 1, from its score `x` against the
/// dictionary without it (Sherman and Morrison).
///
/// ```
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows};
/// use nystream_kernels::sampling::{RidgeFactor, leverage::joint_score};
/// let kernel = Kernel::new(Family::Gaussian, 1.0);
/// let rows = Rows::new(&[0.0, 2.0], 1, &[], 0);
/// let alone = RidgeFactor::new(&kernel, rows.slice(0, 1), &[1.0], 0.5).unwrap();
/// let both = RidgeFactor::new(&kernel, rows, &[1.0, 1.0], 0.5).unwrap();
/// let x = alone.row_scores(&kernel, rows.slice(1, 2))[0];
/// assert!((joint_score(x) - both.atom_scores().scores[1]).abs() < 1e-14);
/// ```
pub fn joint_score(x: f64) -> f64 {
    x / (1.0 + x)
}

/// A score of at least [`SCORE_FLOOR`]. NaN stays: such a row is kept, and the next factorisation names it, where the floor would drop
/// it in silence.
fn floored(score: f64) -> f64 {
    if score.is_nan() { score } else { score.max(SCORE_FLOOR) }
}

/// Column `j` of a column-major matrix.
fn column(a: MatMut<'_, f64>, j: usize) -> &mut [f64] {
    match a.col_mut(j).try_as_col_major_mut() {
        Some(column) => column.as_slice_mut(),
        None => unreachable!("a part of an owned matrix has its columns in one piece"),
    }
}

fn factor<O: KernelOracle + ?Sized>(
    oracle: &O,
    atoms: Rows<'_>,
    roots: &[f64],
    ridge: f64,
) -> Result<(Mat<f64>, f64), SamplingError> {
    let order = roots.len();
    let top = oracle.diagonal(atoms).into_iter().fold(0.0, f64::max);
    let unit = order as f64 * top;
    // Entries rounded to f32 are off by 2^-24 each, so |error|_2 <= order 2^-24 max k: more jitter hides a wrong kernel.
    let largest = (1e-6 * top).max(4.0 * unit * 2f64.powi(-24));
    let mut jitter = 0.0;
    loop {
        // Made anew for a jitter, which is rare, instead of kept.
        let mut n = scaled_lower(oracle, atoms, roots);
        for i in 0..order {
            n[(i, i)] += jitter * roots[i] * roots[i] + ridge;
        }
        match dense::cholesky(n.as_mut(), parallelism(order)) {
            Ok(()) => return Ok((n, jitter)),
            Err(dense::DenseError::NonPositivePivot { index, .. }) => {
                let next = if jitter == 0.0 { 4.0 * unit * f64::EPSILON } else { 8.0 * jitter };
                if !(next <= largest && next > 0.0 && next.is_finite()) {
                    return Err(SamplingError::NotPositive { order, pivot: index, ridge, jitter });
                }
                jitter = next;
            }
            Err(other) => return Err(other.into()),
        }
    }
}

/// A Cholesky factor that grows by one row at a time: m^2 flops a row.
///
/// Used where atoms are only ever added ([`KORS`](super::comparators::Kors), online learners). Deleting an atom means
/// factoring again.
///
/// ```
/// use nystream_kernels::sampling::leverage::{Append, GrowingCholesky};
/// let mut factor = GrowingCholesky::new();
/// assert_eq!(factor.append(&[], 4.0, 0.0), Append::Grown { pivot: 4.0 });
/// assert_eq!(factor.append(&[2.0], 5.0, 0.0), Append::Grown { pivot: 4.0 });
/// // The third row equals the first: nothing is added.
/// assert!(matches!(factor.append(&[4.0, 2.0], 4.0, 0.0), Append::Dependent { .. }));
/// assert_eq!(factor.len(), 2);
/// ```
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GrowingCholesky {
    packed: Vec<f64>,
    len: usize,
}

/// What [`GrowingCholesky::append`] did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Append {
    /// The row was added; `pivot` is the square of the new diagonal entry.
    Grown {
        /// Square of the new diagonal entry.
        pivot: f64,
    },
    /// The row depends on the others to working precision and was left out; the factor is unchanged.
    Dependent {
        /// What would have been the pivot.
        pivot: f64,
    },
}

impl GrowingCholesky {
    /// An empty factor.
    pub fn new() -> Self {
        GrowingCholesky::default()
    }

    /// Order of the factor.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the factor is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Row `i` of L: `i + 1` entries.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.packed[i * (i + 1) / 2..(i + 1) * (i + 2) / 2]
    }

    /// L^-1 `k`.
    ///
    /// # Panics
    /// If `k` does not have [`GrowingCholesky::len`] entries.
    pub fn solve(&self, k: &[f64]) -> Vec<f64> {
        assert_eq!(k.len(), self.len, "one entry per row of the factor");
        let mut x = Vec::with_capacity(self.len);
        for (i, value) in k.iter().enumerate() {
            let row = self.row(i);
            let v = (value - dot(&row[..i], &x)) / row[i];
            x.push(v);
        }
        x
    }

    /// L^-T `x`.
    ///
    /// # Panics
    /// If `x` does not have [`GrowingCholesky::len`] entries.
    ///
    /// ```
    /// use nystream_kernels::sampling::leverage::GrowingCholesky;
    /// let mut factor = GrowingCholesky::new();
    /// factor.append(&[], 4.0, 0.0);
    /// factor.append(&[2.0], 5.0, 0.0); // L = [2 0; 1 2]
    /// assert_eq!(factor.solve_transpose(&[5.0, 6.0]), [1.0, 3.0]);
    /// ```
    pub fn solve_transpose(&self, x: &[f64]) -> Vec<f64> {
        assert_eq!(x.len(), self.len, "one entry per row of the factor");
        let mut x = x.to_vec();
        for i in (0..self.len).rev() {
            let row = self.row(i);
            let v = x[i] / row[i];
            x[i] = v;
            x.iter_mut().zip(&row[..i]).for_each(|(x, l)| *x -= v * l);
        }
        x
    }

    /// Whether the factor is of order `order` and its entries are as many as that makes: what stored state is checked by.
    pub(crate) fn is_sound(&self, order: usize) -> bool {
        self.len == order && self.packed.len() == order * (order + 1) / 2
    }

    /// Appends the row `k` (its kernel values with the rows before it), `diagonal` = k(x, x), and `extra` on the
    /// diagonal (gamma / w for weighted forms, 0 for a projection basis).
    ///
    /// A pivot of at most 1e-12 m k(x, x) is rounding noise: the row is then reported as dependent and not added.
    /// Pivots are never clamped.
    pub fn append(&mut self, k: &[f64], diagonal: f64, extra: f64) -> Append {
        let l = self.solve(k);
        let pivot = diagonal + extra - squared_norm(&l);
        if pivot.is_nan() || pivot <= 1e-12 * (self.len + 1) as f64 * diagonal {
            return Append::Dependent { pivot };
        }
        self.push(&l, pivot);
        Append::Grown { pivot }
    }

    /// Appends a row that is known to have room: `l` = L^-1 k, and its positive pivot.
    pub(crate) fn push(&mut self, l: &[f64], pivot: f64) {
        self.packed.extend_from_slice(l);
        self.packed.push(pivot.sqrt());
        self.len += 1;
    }
}

/// a . b in eight running sums, folded in a fixed order.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7])) + tail
}

pub(super) fn squared_norm(a: &[f64]) -> f64 {
    dot(a, a)
}
