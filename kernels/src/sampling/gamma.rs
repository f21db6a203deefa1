//! The ridge that gives a dictionary a wanted size, from a sample.
//!
//! With s of n rows sampled uniformly, A is about (n/s) A_s, and with tau the score within the sample at gamma' = gamma s/n a row
//! scores about (s/n) tau among all rows. That is low: it counts the row itself n/s times. Counting it once (Sherman and Morrison,
//! twice) gives y / (1 + y), y = (s/n) tau / (1 - tau), which is high, since the mean of an inverse is above the inverse of the mean. The
//! two bracket the truth and meet at s = n. The geometric mean of the two sums is what is used here: within 12 % of
//! the truth from d_eff = s/4 to 1.5 s, where either alone is off by up to a factor of two.
//!
//! Cost: one eigendecomposition of the sample's kernel matrix (about 9 s^3 flops), then 2 s^2 a ridge.

use super::leverage::check_gamma;
use super::{SamplingError, parallelism};
use crate::dense;
use faer::{Mat, MatRef};

/// Leverage scores of n rows, as estimated from a uniform sample of s of them, at any ridge.
///
/// ```
/// use faer::Mat;
/// use nystream_kernels::sampling::ScoreSample;
/// // All of 30 rows, mutually orthogonal: at ridge g every score is 1 / (1 + g).
/// let sample = ScoreSample::new(Mat::<f64>::identity(30, 30).as_ref(), 30).unwrap();
/// assert!((sample.scores(1.0).unwrap()[0] - 0.5).abs() < 1e-12);
/// let found = sample.gamma_for_size(10.0, 1.0).unwrap();
/// assert!((found.gamma - 2.0).abs() < 1e-6 && found.attained);
/// ```
#[derive(Clone, Debug)]
pub struct ScoreSample {
    /// U o U, s x s: squared eigenvector entries.
    squares: Mat<f64>,
    eigenvalues: Vec<f64>,
    rows: u64,
    mean_diagonal: f64,
}

/// What [`ScoreSample::gamma_for_size`] found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GammaForSize {
    /// The ridge.
    pub gamma: f64,
    /// Expected number of atoms at it.
    pub expected_size: f64,
    /// Effective dimension at it.
    pub effective_dimension: f64,
    /// False when no ridge above rounding noise gives that many atoms; `gamma` is then the smallest sensible one.
    pub attained: bool,
}

impl ScoreSample {
    /// From the kernel matrix `k` (s x s, lower triangle read) of a uniform sample of `rows` rows.
    ///
    /// # Errors
    /// [`SamplingError::Lengths`] when `k` is empty or the sample larger than the data; [`SamplingError::Dense`] when
    /// `k` is not finite.
    pub fn new(k: MatRef<'_, f64>, rows: u64) -> Result<Self, SamplingError> {
        let s = k.nrows();
        if s == 0 || s as u64 > rows {
            return Err(SamplingError::Lengths { rows: rows as usize, others: s, what: "sampled rows" });
        }
        let mean_diagonal = (0..s).map(|i| k[(i, i)]).sum::<f64>() / s as f64;
        let (eigenvalues, mut squares) = dense::symmetric_eigen(k, parallelism(s))?;
        for j in 0..s {
            for v in squares.col_as_slice_mut(j) {
                *v *= *v;
            }
        }
        Ok(ScoreSample { squares, eigenvalues, rows, mean_diagonal })
    }

    /// Scores, among all rows, of the sampled ones: a low and a high estimate (see the module).
    ///
    /// # Errors
    /// [`SamplingError::BadGamma`].
    pub fn bracket(&self, gamma: f64) -> Result<[Vec<f64>; 2], SamplingError> {
        check_gamma(gamma)?;
        let s = self.eigenvalues.len();
        let fraction = s as f64 / self.rows as f64;
        let ridge = gamma * fraction;
        // tau and 1 - tau within the sample, each as a sum of positive terms.
        let (mut inside, mut outside) = (vec![0.0; s], vec![0.0; s]);
        for (j, mu) in self.eigenvalues.iter().enumerate() {
            let mu = mu.max(0.0);
            let (a, b) = (mu / (mu + ridge), ridge / (mu + ridge));
            for (i, v) in self.squares.col_as_slice(j).iter().enumerate() {
                inside[i] += a * v;
                outside[i] += b * v;
            }
        }
        let high = inside.iter().zip(&outside).map(|(a, b)| fraction * a / (b + fraction * a)).collect();
        Ok([inside.iter().map(|a| fraction * a).collect(), high])
    }

    /// Estimated scores, among all rows, of the sampled ones: the geometric means of the bracket.
    ///
    /// # Errors
    /// [`SamplingError::BadGamma`].
    pub fn scores(&self, gamma: f64) -> Result<Vec<f64>, SamplingError> {
        let [low, high] = self.bracket(gamma)?;
        Ok(low.iter().zip(&high).map(|(a, b)| (a * b).sqrt()).collect())
    }

    /// Estimated effective dimension of all rows at `gamma`.
    ///
    /// # Errors
    /// [`SamplingError::BadGamma`].
    pub fn effective_dimension(&self, gamma: f64) -> Result<f64, SamplingError> {
        self.expected_size(gamma, 1.0)
    }

    /// Expected size of a Bernoulli dictionary of all rows: sum_i min(1, beta tau_i(gamma)).
    ///
    /// # Errors
    /// [`SamplingError::BadGamma`].
    pub fn expected_size(&self, gamma: f64, beta: f64) -> Result<f64, SamplingError> {
        let [low, high] =
            self.bracket(gamma)?.map(|scores| scores.iter().map(|tau| (beta * tau).min(1.0)).sum::<f64>());
        Ok((low * high).sqrt() * self.rows as f64 / self.eigenvalues.len() as f64)
    }

    /// The ridge at which a Bernoulli dictionary of all rows is expected to hold `size` atoms, by bisection in
    /// log gamma (the size falls as the ridge grows).
    ///
    /// # Errors
    /// [`SamplingError::BadParameter`] when `size` or `beta` is not positive and finite, or the kernel is zero.
    pub fn gamma_for_size(&self, size: f64, beta: f64) -> Result<GammaForSize, SamplingError> {
        for (name, value) in [("size", size), ("beta", beta), ("mean of k(x, x)", self.mean_diagonal)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(SamplingError::BadParameter { name, value, expected: "positive and finite" });
            }
        }
        // tau_i <= k_ii / gamma, so the size at `high` is at most the wanted one.
        let mut low = self.mean_diagonal * 1e-13;
        let mut high = (beta * self.mean_diagonal * self.rows as f64 / size).max(2.0 * low);
        let attained = self.expected_size(low, beta)? >= size;
        if attained {
            for _ in 0..200 {
                let middle = (low.ln() + (high.ln() - low.ln()) / 2.0).exp();
                if high / low < 1.0 + 1e-10 || middle <= low || middle >= high {
                    break;
                }
                if self.expected_size(middle, beta)? >= size { low = middle } else { high = middle }
            }
        }
        Ok(GammaForSize {
            gamma: low,
            expected_size: self.expected_size(low, beta)?,
            effective_dimension: self.effective_dimension(low)?,
            attained,
        })
    }
}
