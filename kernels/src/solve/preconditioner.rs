//! Preconditioners in whitened coordinates: cheap stand-ins P for R^T K_nm^T W K_nm R + Lambda I.
//!
//! All forms keep Lambda I exact, so nothing added for the sake of a factorisation touches the equations that are solved:
//! a preconditioner changes the number of iterations, never the solution (solvers.md section 2, trap 1).
//!
//! * *rows*: P = Phi^T diag(omega) Phi + Lambda I for the whitened features Phi = K_sm R of a few rows. With a hashed uniform sample
//!   it fits any choice of centers (trap 4); with the centers themselves it is Falkon's preconditioner
//!   (Rudi, Carratino, Rosasco, NeurIPS 2017), T T^T / m + lambda I, with the weights of trap 2 in the right place; with the centers, each weighted by the rows
//!   around it, and a sample, mixed ([`strata_weights`]), it is what the fits use.
//! * *spectral*: the top q eigenpairs of the same matrix are kept and the rest is replaced by the (q+1)-th value
//!   (Ma and Belkin, 2019, "Kernel machines that adapt to GPUs for effective large batch training").
//!
//! Fits use [`Preconditioner::from_gram`] and [`Preconditioner::from_rows`]; `falkon`, `sampled` and `spectral` are the published forms that tests
//! compare them with.
//!
//! Cost: s r^2 + r^3/3 to build the first (the features of the centers are a triangle: r^3/3 of them), in r x r memory beside blocks of rows ([`WeightedGram`]), about 9 r^3 for the second;
//! r^2 and 2 q r flops a column to apply.

use super::whitening::Whitening;
use crate::constants::{CENTER_SHARE, EXACT_TRACE, GRAM_BLOCK, TRACE_PROBES};
use crate::dense::{
    DenseError, NEGLIGIBLE, cholesky, each_columns, fixed_parallelism, flush, gemm, gemm_lower, inverse_diagonal,
    scaled_lower, solve_lower, solve_lower_transpose, symmetric_eigen, weighted_rows,
};
use faer::{Mat, MatRef};
use nystream_hashing::{RowId, StreamKey};

/// Weights of the rows that stand for all rows, whose weights sum to `total_weight`: the centers, each for the rows around it, and rows sampled uniformly, of weights
/// `sample_weights`. `masses[j]` is the sum over the rows nearest to center j of weight times share ([`Nearest`](crate::tile::Nearest)). Returns the weights of the centers and
/// those of the sampled rows.
///
/// Both estimate the same matrix: a sample of as many rows as there are centers is right on the average and knows nothing of most directions; centers with their masses know all of
/// them, and weigh those too much in which rows around a center differ from it. Of the centers' estimate [`CENTER_SHARE`] is taken, of the sample's the rest. (kin40k and
/// protein, m = 1,200, uniform and RPCholesky centers, iterations to a residual of 1e-6: 33, 31, 27, 31 with m sampled rows; without the centers' masses 78, 108, 75, 99, and with 3 m
/// rows 26, 35, 25, 36.)
///
/// ```
/// use nystream_kernels::{constants::CENTER_SHARE, solve::strata_weights};
/// // Ten rows of weight 1, of which two were sampled; the centers stand for nine of them.
/// let (centers, sample) = strata_weights(&[6.0, 3.0], &[1.0, 1.0], 10.0);
/// assert_eq!(centers, [CENTER_SHARE * 6.0, CENTER_SHARE * 3.0]);
/// assert!((sample[0] - (1.0 - CENTER_SHARE) * 5.0).abs() < 1e-15);
/// // One of them alone has to do for both.
/// assert_eq!(strata_weights(&[6.0, 3.0], &[], 10.0), (vec![6.0, 3.0], vec![]));
/// assert_eq!(strata_weights(&[0.0, 0.0], &[1.0, 1.0], 10.0), (vec![0.0, 0.0], vec![5.0, 5.0]));
/// ```
pub fn strata_weights(masses: &[f64], sample_weights: &[f64], total_weight: f64) -> (Vec<f64>, Vec<f64>) {
    let own: f64 = masses.iter().sum();
    let sum: f64 = sample_weights.iter().sum();
    let share = match (own > 0.0, sum > 0.0) {
        (true, true) => CENTER_SHARE,
        (known, _) => f64::from(u8::from(known)),
    };
    let scale = if sum > 0.0 { (1.0 - share) * total_weight / sum } else { 0.0 };
    let times = |weights: &[f64], by: f64| weights.iter().map(|w| by * w).collect();
    (times(masses, share), times(sample_weights, scale))
}

/// The degrees of freedom of all rows, from what a sample says, `all`, and half of it, `few`; the sample lacks the share `missing` of the rows that it stands for.
///
/// They are concave in the Gram, so that a sample of s of N rows is low by about b (1 / s - 1 / N): `all - few` is b / s. (6,000 rows, m = 300, gaussian and laplace, 1 to 8 dimensions, ridges
/// 1e-7 to 1e-2, s = m: mostly within 3 %, where all alone is 3 to 15 % low; 20 % low where a gaussian has more directions than either sees.) What would pass the `rank` falls short of it by as many
/// times less than `all` as that does than `few`.
///
/// ```
/// use nystream_kernels::solve::extrapolated_dimension;
/// assert_eq!(extrapolated_dimension(80.0, 70.0, 1.0, 200.0), 90.0);
/// // All rows were sampled.
/// assert_eq!(extrapolated_dimension(80.0, 70.0, 0.0, 200.0), 80.0);
/// // 100 and then 10 are missing of 200.
/// assert!((extrapolated_dimension(190.0, 100.0, 1.0, 200.0) - 199.0).abs() < 1e-12);
/// ```
pub fn extrapolated_dimension(all: f64, few: f64, missing: f64, rank: f64) -> f64 {
    let linear = all + missing * (all - few).max(0.0);
    if linear < rank {
        return linear;
    }
    let (before, after) = (rank - few, (rank - all).max(0.0));
    if before > 0.0 { rank - after * (after / before).powf(missing) } else { rank }
}

/// Phi^T diag(w) Phi (r x r, lower triangle) of rows that come in blocks: nothing larger than r x r is held.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::solve::{Preconditioner, WeightedGram};
/// let mut gram = WeightedGram::new(2);
/// gram.add(mat![[1.0, 0.0], [0.0, 1.0]].as_ref(), &[1.0, 1.0]);
/// gram.add(mat![[0.5, 0.0]].as_ref(), &[8.0]);
/// let p = Preconditioner::from_gram(gram.into_lower(), 1.0).unwrap(); // diag(1 + 8 / 4 + 1, 1 + 1)
/// let x = p.apply(mat![[4.0], [4.0]].as_ref());
/// assert!((x[(0, 0)] - 1.0).abs() < 1e-14 && (x[(1, 0)] - 2.0).abs() < 1e-14);
/// ```
#[derive(Clone, Debug)]
pub struct WeightedGram {
    lower: Mat<f64>,
}

impl WeightedGram {
    /// No rows yet, of `rank` features.
    pub fn new(rank: usize) -> Self {
        WeightedGram { lower: Mat::zeros(rank, rank) }
    }

    /// Adds rows with `features` (s x k, k <= r: the coordinates beyond are 0) and `weights` (s); works on at most [`GRAM_BLOCK`] rows at a time. s k^2 flops.
    ///
    /// # Panics
    /// If there are not as many weights as rows, or more features than r.
    ///
    /// [`GRAM_BLOCK`]: crate::constants::GRAM_BLOCK
    pub fn add(&mut self, features: MatRef<'_, f64>, weights: &[f64]) {
        let (s, k) = (features.nrows(), features.ncols());
        assert_eq!(s, weights.len(), "one weight per feature row");
        for (block, weights) in weights.chunks(GRAM_BLOCK).enumerate() {
            let rows = features.subrows(block * GRAM_BLOCK, weights.len());
            let weighted = weighted_rows(rows, weights);
            let leading = self.lower.as_mut().submatrix_mut(0, 0, k, k);
            gemm_lower(leading, true, 1.0, rows.transpose(), weighted.as_ref(), fixed_parallelism());
        }
    }

    /// The sum times `by`.
    pub fn scaled(&self, by: f64) -> Self {
        WeightedGram { lower: scaled_lower(self.lower.as_ref(), by) }
    }

    /// The sum: r x r, of which the lower triangle counts.
    pub fn into_lower(self) -> Mat<f64> {
        self.lower
    }
}

/// K_mm R, m x r: the whitened features of the centers.
fn center_features(whitening: &(impl Whitening + ?Sized)) -> Mat<f64> {
    let r = whitening.rank();
    whitening.center_gram(whitening.apply(Mat::<f64>::identity(r, r).as_ref()).as_ref())
}

/// An approximation of R^T K_nm^T W K_nm R + Lambda I (r x r) that is cheap to invert.
#[derive(Clone, Debug)]
pub struct Preconditioner {
    form: Form,
    /// What is added to the diagonal: the ridge and the damping.
    shift: f64,
    damping: f64,
}

#[derive(Clone, Debug)]
enum Form {
    Identity,
    Cholesky { factor: Mat<f64> },
    Spectral { vectors: Mat<f64>, gains: Vec<f64>, tail: f64 },
}

impl Preconditioner {
    /// No preconditioning beyond the whitening itself.
    pub fn identity() -> Self {
        Preconditioner { form: Form::Identity, shift: 0.0, damping: 0.0 }
    }

    /// Phi^T diag(`weights`) Phi + `ridge` I from whitened features Phi (s x r), one row per sampled row.
    ///
    /// `weights[i]` is the number of (weighted) data rows that row i stands for. With ridge 0 and s < r the matrix is singular:
    /// the ridge used *here* is therefore at least r eps trace, reported by [`Preconditioner::damping`].
    ///
    /// # Errors
    /// [`DenseError`] when the features are not finite or a weight is negative.
    ///
    /// ```
    /// use faer::mat;
    /// use nystream_kernels::solve::Preconditioner;
    /// let p = Preconditioner::from_rows(mat![[1.0, 0.0], [0.0, 1.0]].as_ref(), &[3.0, 1.0], 1.0).unwrap();
    /// let x = p.apply(mat![[4.0], [4.0]].as_ref());
    /// assert!((x[(0, 0)] - 1.0).abs() < 1e-14 && (x[(1, 0)] - 2.0).abs() < 1e-14);
    /// ```
    pub fn from_rows(features: MatRef<'_, f64>, weights: &[f64], ridge: f64) -> Result<Self, DenseError> {
        Self::from_gram(weighted_gram(features, weights), ridge)
    }

    /// `gram` + `ridge` I, for a Gram in whitened coordinates (r x r, only the lower triangle is read) summed elsewhere.
    ///
    /// # Errors
    /// [`DenseError`] when the matrix is not positive definite.
    ///
    /// ```
    /// use faer::mat;
    /// use nystream_kernels::solve::Preconditioner;
    /// let p = Preconditioner::from_gram(mat![[3.0, 0.0], [0.0, 1.0]], 1.0).unwrap();
    /// let x = p.apply(mat![[4.0], [4.0]].as_ref());
    /// assert!((x[(0, 0)] - 1.0).abs() < 1e-14 && (x[(1, 0)] - 2.0).abs() < 1e-14);
    /// ```
    pub fn from_gram(mut gram: Mat<f64>, ridge: f64) -> Result<Self, DenseError> {
        let damping = damping(&gram, ridge);
        for i in 0..gram.nrows() {
            gram[(i, i)] += ridge + damping;
        }
        let smallest = (0..gram.nrows()).map(|i| gram[(i, i)]).fold(f64::INFINITY, f64::min);
        flush(gram.as_mut(), NEGLIGIBLE * smallest.max(0.0));
        cholesky(gram.as_mut(), fixed_parallelism())?;
        Ok(Preconditioner { form: Form::Cholesky { factor: gram }, shift: ridge + damping, damping })
    }

    /// A uniform sample of s rows with weights w_i stands for all rows, whose weights sum to `total_weight`:
    /// P = Phi^T W_s Phi (sum w / sum w_s) + Lambda I.
    ///
    /// # Errors
    /// As [`Preconditioner::from_rows`].
    ///
    /// ```
    /// use faer::mat;
    /// use nystream_kernels::solve::Preconditioner;
    /// // One row of weight 2 stands for rows of weight 6.
    /// let p = Preconditioner::sampled(mat![[1.0, 0.0]].as_ref(), &[2.0], 6.0, 2.0).unwrap();
    /// let x = p.apply(mat![[8.0], [8.0]].as_ref());
    /// assert!((x[(0, 0)] - 1.0).abs() < 1e-14 && (x[(1, 0)] - 4.0).abs() < 1e-14);
    /// ```
    pub fn sampled(
        features: MatRef<'_, f64>,
        sample_weights: &[f64],
        total_weight: f64,
        ridge: f64,
    ) -> Result<Self, DenseError> {
        Self::from_rows(features, &scaled(sample_weights, total_weight), ridge)
    }

    /// Falkon's preconditioner from K_mm alone: the centers stand for the rows.
    ///
    /// `center_weights[j]` is the sample weight of center j, divided by its selection probability when centers were not chosen
    /// uniformly; only their ratios matter. P = (sum w / sum w_z) R^T K_mm W_z K_mm R + Lambda I.
    ///
    /// # Errors
    /// As [`Preconditioner::from_rows`].
    pub fn falkon(
        whitening: &(impl Whitening + ?Sized),
        center_weights: &[f64],
        total_weight: f64,
        ridge: f64,
    ) -> Result<Self, DenseError> {
        Self::from_rows(center_features(whitening).as_ref(), &scaled(center_weights, total_weight), ridge)
    }

    /// The spectral form: the top `q` eigenpairs of Phi^T diag(`weights`) Phi, the (q+1)-th value for the rest, plus `ridge` I.
    ///
    /// # Errors
    /// [`DenseError::NoConvergence`] from the eigensolver.
    ///
    /// ```
    /// use faer::mat;
    /// use nystream_kernels::solve::Preconditioner;
    /// let features = mat![[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.5]];
    /// let p = Preconditioner::spectral(features.as_ref(), &[1.0; 3], 1.0, 1).unwrap();
    /// // The eigenvalue 4 is kept; 1 stands for itself and for 1/4.
    /// let x = p.apply(mat![[5.0], [2.0], [2.0]].as_ref());
    /// assert!([0, 1, 2].iter().all(|i| (x[(*i, 0)] - 1.0).abs() < 1e-14));
    /// ```
    pub fn spectral(features: MatRef<'_, f64>, weights: &[f64], ridge: f64, q: usize) -> Result<Self, DenseError> {
        let gram = weighted_gram(features, weights);
        let damping = damping(&gram, ridge);
        let r = gram.nrows();
        let (values, all) = symmetric_eigen(gram.as_ref(), fixed_parallelism())?;
        let q = q.min(r);
        let ridge = ridge + damping;
        let tail = 1.0 / (if q < r { values[r - 1 - q].max(0.0) } else { 0.0 } + ridge);
        let gains = (0..q).map(|i| 1.0 / (values[r - 1 - i].max(0.0) + ridge) - tail).collect();
        let vectors = Mat::from_fn(r, q, |i, j| all[(i, r - 1 - j)]);
        Ok(Preconditioner { form: Form::Spectral { vectors, gains, tail }, shift: ridge, damping })
    }

    /// P^-1 v for v (r x t).
    pub fn apply(&self, v: MatRef<'_, f64>) -> Mat<f64> {
        let mut out = v.to_owned();
        match &self.form {
            Form::Identity => {}
            Form::Cholesky { factor } => {
                solve_lower(factor.as_ref(), out.as_mut(), fixed_parallelism());
                solve_lower_transpose(factor.as_ref(), out.as_mut(), fixed_parallelism());
            }
            Form::Spectral { vectors, gains, tail } => {
                let mut projected = Mat::zeros(vectors.ncols(), v.ncols());
                gemm(projected.as_mut(), false, 1.0, vectors.transpose(), v, fixed_parallelism());
                for j in 0..v.ncols() {
                    projected.col_as_slice_mut(j).iter_mut().zip(gains).for_each(|(x, g)| *x *= g);
                    out.col_as_slice_mut(j).iter_mut().for_each(|x| *x *= tail);
                }
                gemm(out.as_mut(), true, 1.0, vectors.as_ref(), projected.as_ref(), fixed_parallelism());
            }
        }
        out
    }

    /// tr(G (G + Lambda I)^-1) = r - Lambda tr(P^-1) of the Gram G that the preconditioner was made from: the degrees of freedom of the model
    /// fitted, as far as its rows stand for all. `None` without a Gram. r^3 / 3 flops; of a factor of more than [`EXACT_TRACE`] rows by [`TRACE_PROBES`] hashed probes, r^2 flops
    /// each, with a standard error of at most (2 min(d, r - d) / probes)^1/2 where d is the trace.
    ///
    /// ```
    /// use faer::mat;
    /// use nystream_kernels::solve::Preconditioner;
    /// let p = Preconditioner::from_gram(mat![[3.0, 0.0], [0.0, 1.0]], 1.0).unwrap();
    /// assert!((p.effective_dimension().unwrap() - (3.0 / 4.0 + 1.0 / 2.0)).abs() < 1e-14);
    /// ```
    ///
    /// [`EXACT_TRACE`]: crate::constants::EXACT_TRACE
    /// [`TRACE_PROBES`]: crate::constants::TRACE_PROBES
    pub fn effective_dimension(&self) -> Option<f64> {
        let (rank, inverse_trace) = match &self.form {
            Form::Identity => return None,
            Form::Cholesky { factor } if factor.nrows() > EXACT_TRACE => {
                (factor.nrows(), probed_inverse_trace(factor.as_ref()))
            }
            Form::Cholesky { factor } => {
                let diagonal = inverse_diagonal(factor.as_ref(), fixed_parallelism());
                (factor.nrows(), diagonal.iter().sum::<f64>())
            }
            Form::Spectral { vectors, gains, tail } => {
                let rank = vectors.nrows();
                (rank, rank as f64 * tail + gains.iter().sum::<f64>())
            }
        };
        Some((rank as f64 - self.shift * inverse_trace).clamp(0.0, rank as f64))
    }

    /// What was added to the diagonal inside the preconditioner beyond the ridge: 0 unless the ridge is below r eps trace.
    pub fn damping(&self) -> f64 {
        self.damping
    }
}

fn scaled(weights: &[f64], total: f64) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w * total / sum).collect()
}

/// tr((L L^T)^-1) as the mean of |L^-1 g|^2 over vectors g of hashed signs (Hutchinson, 1989). The signs are those of row and probe alone: traces of two factors err alike.
fn probed_inverse_trace(l: MatRef<'_, f64>) -> f64 {
    let key = StreamKey::new(0, "trace probes", 0);
    let mut probes = Mat::zeros(l.nrows(), TRACE_PROBES);
    each_columns(probes.as_mut(), SIGNS, true, |mut columns, first| {
        for i in 0..columns.nrows() {
            let id = (i * TRACE_PROBES + first) as u128;
            let signs = key.u128(RowId(id));
            for j in 0..columns.ncols() {
                columns[(i, j)] = if signs >> j & 1 == 1 { 1.0 } else { -1.0 };
            }
        }
    });
    solve_lower(l, probes.as_mut(), fixed_parallelism());
    let squares = (0..TRACE_PROBES).map(|j| probes.col_as_slice(j).iter().map(|x| x * x).sum::<f64>());
    squares.sum::<f64>() / TRACE_PROBES as f64
}

/// Signs of one hash.
const SIGNS: usize = 128;

/// Lower triangle of Phi^T diag(w) Phi.
fn weighted_gram(features: MatRef<'_, f64>, weights: &[f64]) -> Mat<f64> {
    let mut gram = WeightedGram::new(features.ncols());
    gram.add(features, weights);
    gram.into_lower()
}

/// The degrees of freedom tr(G (G + `ridge` I)^-1) of all rows' Gram in whitened coordinates, from the features (s x r) of a uniform sample that holds
/// the share `fraction` of all weight, each row times the root of its weight. At most r; exact when the sample is all rows.
///
/// A row's leverage among all rows lies between `fraction` times that in the sample, where it meets itself more often than it should, and what is left when
/// it meets itself no oftener: the geometric mean of both is taken. About s r min(s, r) flops and 2 min(s, r)^2 numbers.
///
/// # Errors
/// [`DenseError`] when features or ridge are not finite, or the ridge is 0 and rows repeat.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::solve::sampled_dimension;
/// let rows = mat![[2.0, 0.0], [0.0, 1.0]];
/// assert!((sampled_dimension(rows.as_ref(), 1.0, 1.0).unwrap() - (4.0 / 5.0 + 1.0 / 2.0)).abs() < 1e-14);
/// // Twice the second row: its direction holds 2.
/// let rows = mat![[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]];
/// assert!((sampled_dimension(rows.as_ref(), 1.0, 1.0).unwrap() - (4.0 / 5.0 + 2.0 / 3.0)).abs() < 1e-14);
/// ```
pub fn sampled_dimension(features: MatRef<'_, f64>, ridge: f64, fraction: f64) -> Result<f64, DenseError> {
    let leverages = match features.nrows() > features.ncols() {
        true => leverages_by_columns(features, ridge * fraction)?,
        false => leverages_by_rows(features, ridge * fraction)?,
    };
    let full = |inside: f64| inside / (1.0 - inside + fraction * inside).max(f64::MIN_POSITIVE).sqrt();
    let sum: f64 = leverages.into_iter().map(|leverage| full(leverage.clamp(0.0, 1.0))).sum();
    Ok(sum.min(features.ncols() as f64))
}

/// Diagonal of F F^T (F F^T + ridge I)^-1 = 1 - ridge (F F^T + ridge I)^-1, for F (s x r) with s <= r.
fn leverages_by_rows(features: MatRef<'_, f64>, ridge: f64) -> Result<Vec<f64>, DenseError> {
    let s = features.nrows();
    let mut gram = Mat::zeros(s, s);
    gemm_lower(gram.as_mut(), false, 1.0, features, features.transpose(), fixed_parallelism());
    let shift = ridge + damping(&gram, ridge);
    (0..s).for_each(|i| gram[(i, i)] += shift);
    cholesky(gram.as_mut(), fixed_parallelism())?;
    Ok(inverse_diagonal(gram.as_ref(), fixed_parallelism()).into_iter().map(|inverse| 1.0 - shift * inverse).collect())
}

/// The same as f^T (F^T F + ridge I)^-1 f of each row f, for s > r: r x r matrices, and [`GRAM_BLOCK`] rows at a time.
fn leverages_by_columns(features: MatRef<'_, f64>, ridge: f64) -> Result<Vec<f64>, DenseError> {
    let (s, r) = (features.nrows(), features.ncols());
    let mut gram = Mat::zeros(r, r);
    gemm_lower(gram.as_mut(), false, 1.0, features.transpose(), features, fixed_parallelism());
    let shift = ridge + damping(&gram, ridge);
    (0..r).for_each(|i| gram[(i, i)] += shift);
    cholesky(gram.as_mut(), fixed_parallelism())?;
    let mut leverages = Vec::with_capacity(s);
    for start in (0..s).step_by(GRAM_BLOCK) {
        let mut block = features.subrows(start, (s - start).min(GRAM_BLOCK)).transpose().to_owned();
        solve_lower(gram.as_ref(), block.as_mut(), fixed_parallelism());
        leverages.extend((0..block.ncols()).map(|i| block.col(i).iter().map(|v| v * v).sum::<f64>()));
    }
    Ok(leverages)
}

/// r eps trace, minus what the ridge already supplies.
fn damping(gram: &Mat<f64>, ridge: f64) -> f64 {
    let r = gram.nrows();
    let trace: f64 = (0..r).map(|i| gram[(i, i)]).sum();
    (r as f64 * f64::EPSILON * trace - ridge).max(0.0)
}
