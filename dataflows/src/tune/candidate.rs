//! One candidate: a small Nystrom fit on part of the sample, judged on the rest for every ridge of a path.

use crate::dictionary::pool::Pool;
use crate::nystrom::weight_scale;
use crate::plan::Shape;
use crate::targets::TargetCode;
use faer::{Mat, MatRef};
use nystream_kernels::dense::{SEQUENTIAL, gemm};
use nystream_kernels::gram::GramSums;
use nystream_kernels::kernel::{Family, Kernel};
use nystream_kernels::nystrom::{RidgePath, WhitenMethod, Whitener};
use nystream_kernels::rows::Rows;
use nystream_kernels::tile::{SimdPath, kernel_matrix, symmetric_kernel_matrix};
use serde::{Deserialize, Serialize};

/// *Shape.* Rows whose entries are in hand at a time.
const PANEL_ROWS: usize = 1024;

/// A kernel to try, and the size at which it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Family.
    pub family: Family,
    /// Bandwidth in encoded units.
    pub bandwidth: f64,
    /// Centers of the small fit.
    pub centers: usize,
    /// Rows it is fitted on.
    pub rows: usize,
    /// Round, from 0.
    pub round: usize,
}

impl Candidate {
    pub(super) fn new(family: Family, bandwidth: f64, (centers, rows): (usize, usize)) -> Self {
        Candidate { family, bandwidth, centers, rows, round: 0 }
    }

    pub(super) fn in_round(self, round: usize) -> Self {
        Candidate { round, ..self }
    }

    /// Flops of its fit, judged on `judges` rows.
    pub(super) fn flops(&self, shape: &Shape, judges: f64) -> f64 {
        shape.candidate(self.centers as f64, self.rows as f64, judges)
    }
}

/// A candidate and how it did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateFit {
    /// What was tried.
    pub candidate: Candidate,
    /// Root mean squared error on the judging rows over that of the mean, averaged over targets; infinite when the fit failed.
    pub error: f64,
    /// Matrix ridge at which it was reached.
    pub ridge_matrix: f64,
}

/// What the columns of a solve are on the rows of the sample: many numbers, where there are many classes.
pub(super) struct BenchTargets {
    values: Vec<f64>,
    width: usize,
}

impl BenchTargets {
    pub(super) fn new(sample: &Pool, code: &TargetCode) -> Self {
        let (n, raw, width) = (sample.len(), sample.target_width, code.width());
        let mut values = vec![0.0; n * width];
        for i in 0..n {
            code.encode(&sample.targets[i * raw..(i + 1) * raw], &mut values[i * width..(i + 1) * width]);
        }
        BenchTargets { values, width }
    }
}

/// Memory of [`BenchTargets`] of `t` columns.
pub(super) fn target_bytes(sample: usize, t: usize) -> u64 {
    8 * sample as u64 * t as u64
}

/// The sample, cut into fitted and judging rows.
pub(super) struct Bench<'a> {
    fitted: Rows<'a>,
    judges: Rows<'a>,
    weights: &'a [f64],
    judge_weights: &'a [f64],
    targets: &'a [f64],
    judge_targets: &'a [f64],
    width: usize,
    simd: SimdPath,
    /// What weights are multiplied by, of which only ratios matter.
    scale: f64,
}

impl<'a> Bench<'a> {
    /// Flops of a candidate here.
    pub(super) fn flops(&self, candidate: &Candidate) -> f64 {
        let shape = Shape {
            rows: self.fitted.len() as f64,
            numeric: self.fitted.numeric_width() as f64,
            codes: self.fitted.code_width() as f64,
            targets: self.width as f64,
        };
        candidate.flops(&shape, self.judges.len() as f64)
    }

    pub(super) fn new(sample: &'a Pool, targets: &'a BenchTargets, judges: f64, simd: SimdPath) -> Self {
        let n = sample.len();
        let cut = n - ((n as f64 * judges) as usize).clamp(usize::from(n > 1), n);
        let width = targets.width;
        let (targets, judge_targets) = targets.values.split_at(cut * width);
        let rows = sample.rows.view();
        Bench {
            fitted: rows.slice(0, cut),
            judges: rows.slice(cut, n),
            weights: &sample.weights[..cut],
            judge_weights: &sample.weights[cut..],
            targets,
            judge_targets,
            width,
            simd,
            scale: weight_scale(sample.weights.iter().copied().fold(0.0, f64::max)),
        }
    }
}

/// Ridges per row that are tried: half decades from 1e-10 to 1.
fn ridges() -> impl Iterator<Item = f64> {
    (-20..=0).map(|k| 10f64.powf(f64::from(k) / 2.0))
}

/// A small fit at the best ridge of the path.
pub(super) struct Judged {
    /// Root mean squared error over the spread of the target, averaged over targets.
    pub error: f64,
    /// The matrix ridge.
    pub ridge_matrix: f64,
    /// By how much the error grows, to first order, with the squared error of each judging row in parts of itself: half the error in sum.
    pub shares: Vec<f64>,
}

/// Error and matrix ridge of the best ridge; infinite error when the kernel cannot be fitted.
pub(super) fn evaluate(bench: &Bench<'_>, kernel: &Kernel, centers: usize, rows: usize) -> (f64, f64) {
    let rows = rows.min(bench.fitted.len());
    judge(bench, kernel, bench.fitted.slice(0, centers.min(rows)), rows)
        .map_or((f64::INFINITY, 0.0), |judged| (judged.error, judged.ridge_matrix))
}

/// Fits `kernel` with centers `z` on the first `rows` fitted rows; `None` when it cannot be fitted.
pub(super) fn judge(bench: &Bench<'_>, kernel: &Kernel, z: Rows<'_>, rows: usize) -> Option<Judged> {
    let x = bench.fitted.slice(0, rows);
    let t = bench.width;
    let kmm = symmetric_kernel_matrix(kernel, z, &[], bench.simd).ok()?;
    let features = |x: Rows<'_>| -> Option<Mat<f64>> {
        let k = kernel_matrix::<f32>(kernel, x, z, &[], bench.simd).ok()?;
        Some(Mat::from_fn(x.len(), z.len(), |i, j| f64::from(k[i * z.len() + j])))
    };
    let mut gram = Mat::zeros(z.len(), z.len());
    let mut cross = Mat::zeros(z.len(), t);
    let mut squares = vec![0.0; t];
    let mut weight_sum = 0.0;
    for start in (0..rows).step_by(PANEL_ROWS) {
        let panel = start..(start + PANEL_ROWS).min(rows);
        let mut k = features(x.slice(panel.start, panel.end))?;
        // Rows enter with the root of their weight; a null target of one column counts as that column's mean here.
        let mut y = Mat::from_fn(panel.len(), t, |i, j| finite(bench.targets[(start + i) * t + j]));
        for (i, weight) in bench.weights[panel].iter().map(|weight| weight * bench.scale).enumerate() {
            weight_sum += weight;
            if weight != 1.0 {
                let root = weight.sqrt();
                (0..k.ncols()).for_each(|j| k[(i, j)] *= root);
                (0..t).for_each(|j| y[(i, j)] *= root);
            }
        }
        gemm(gram.as_mut(), true, 1.0, k.transpose(), k.as_ref(), SEQUENTIAL);
        gemm(cross.as_mut(), true, 1.0, k.transpose(), y.as_ref(), SEQUENTIAL);
        squares.iter_mut().enumerate().for_each(|(j, s)| *s += y.col(j).iter().map(|v| v * v).sum::<f64>());
    }
    let whitener = Whitener::new(kmm.as_ref(), WhitenMethod::Cholesky).ok()?;
    let sums =
        GramSums { gram, cross, target_squares: squares, target_sums: vec![0.0; t], weight_sum, rows: rows as u64 };
    let path = RidgePath::new(&sums, &whitener).ok()?;
    let alphas = ridges().map(|ridge| path.coefficients(ridge).ok()).collect::<Option<Vec<_>>>()?;
    // The coefficients of all ridges side by side, so that an entry of the judges is made once.
    let side = Mat::from_fn(z.len(), alphas.len() * t, |i, j| alphas[j / t][(i, j % t)]);
    let mut f = Mat::zeros(bench.judges.len(), side.ncols());
    for start in (0..bench.judges.len()).step_by(PANEL_ROWS) {
        let count = PANEL_ROWS.min(bench.judges.len() - start);
        let k = features(bench.judges.slice(start, start + count))?;
        gemm(f.as_mut().subrows_mut(start, count), false, 1.0, k.as_ref(), side.as_ref(), SEQUENTIAL);
    }
    let mut best: Option<(f64, usize, f64)> = None;
    for (at, ridge) in ridges().enumerate() {
        let error = standardised_error(bench, f.as_ref().subcols(at * t, t));
        if error.is_finite() && best.is_none_or(|(known, ..)| error < known) {
            best = Some((error, at, ridge * weight_sum / bench.scale));
        }
    }
    let (error, at, ridge_matrix) = best?;
    Some(Judged { error, ridge_matrix, shares: shares(bench, f.as_ref().subcols(at * t, t)) })
}

/// Memory of one candidate of m centers with t targets on a sample with `judges` judging rows: K_mm, the Gram, their factors, eigenvectors
/// and workspace, a panel of entries twice, coefficients and values of all ridges.
pub(super) fn candidate_bytes(m: usize, t: usize, judges: usize) -> u64 {
    let (m, side) = (m as u64, (ridges().count() * t) as u64);
    8 * (6 * m * m + 2 * PANEL_ROWS as u64 * m + side * (2 * m + judges as u64))
}

fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// Root mean squared error over the spread of the target, averaged over targets, weighted by row.
fn standardised_error(bench: &Bench<'_>, f: MatRef<'_, f64>) -> f64 {
    (0..bench.width).map(|j| target_error(bench, f, j).sqrt()).sum::<f64>() / bench.width as f64
}

/// Squared error over spread of target j; 0 where the target does not vary.
fn target_error(bench: &Bench<'_>, f: MatRef<'_, f64>, j: usize) -> f64 {
    let spread = target_spread(bench, j);
    if spread > 0.0 { row_errors(bench, f, j).sum::<f64>() / spread } else { 0.0 }
}

/// Weighted sum of squares of target j.
fn target_spread(bench: &Bench<'_>, j: usize) -> f64 {
    let y = |i: usize| bench.judge_targets[i * bench.width + j];
    (0..bench.judges.len())
        .filter(|&i| y(i).is_finite())
        .map(|i| bench.judge_weights[i] * bench.scale * y(i) * y(i))
        .sum()
}

/// Weighted squared errors of target j, row by row; 0 where it is null.
fn row_errors<'a>(bench: &'a Bench<'_>, f: MatRef<'a, f64>, j: usize) -> impl Iterator<Item = f64> + 'a {
    (0..bench.judges.len()).map(move |i| {
        let y = bench.judge_targets[i * bench.width + j];
        if y.is_finite() { bench.judge_weights[i] * bench.scale * (y - f[(i, j)]).powi(2) } else { 0.0 }
    })
}

/// [`Judged::shares`]: of E = mean over targets j of sqrt(S_j / spread_j), S_j = sum over rows of s_ij, the terms s_ij dE / dS_j.
fn shares(bench: &Bench<'_>, f: MatRef<'_, f64>) -> Vec<f64> {
    let mut shares = vec![0.0; bench.judges.len()];
    for j in 0..bench.width {
        let error = target_error(bench, f, j).sqrt();
        if error > 0.0 {
            let slope = 1.0 / (2.0 * error * target_spread(bench, j) * bench.width as f64);
            shares.iter_mut().zip(row_errors(bench, f, j)).for_each(|(s, e)| *s += e * slope);
        }
    }
    shares
}
