//! One candidate: a small Nystrom fit on part of the sample, judged on the rest for every ridge of a path.

use crate::dictionary::pool::Pool;
use crate::targets::TargetCode;
use faer::Mat;
use nystream_kernels::dense::{SEQUENTIAL, gemm};
use nystream_kernels::gram::GramSums;
use nystream_kernels::kernel::{Family, Kernel};
use nystream_kernels::nystrom::{RidgePath, WhitenMethod, Whitener};
use nystream_kernels::rows::Rows;
use nystream_kernels::tile::{SimdPath, kernel_matrix, symmetric_kernel_matrix};
use serde::{Deserialize, Serialize};

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

/// The sample, cut into fitted and judging rows.
pub(super) struct Bench<'a> {
    fitted: Rows<'a>,
    judges: Rows<'a>,
    weights: &'a [f64],
    judge_weights: &'a [f64],
    targets: Vec<f64>,
    judge_targets: Vec<f64>,
    width: usize,
    simd: SimdPath,
}

impl<'a> Bench<'a> {
    pub(super) fn new(sample: &'a Pool, code: &TargetCode, judges: f64, simd: SimdPath) -> Self {
        let n = sample.len();
        let cut = n - ((n as f64 * judges) as usize).clamp(usize::from(n > 1), n);
        let (raw, width) = (sample.target_width, code.width());
        let mut targets = vec![0.0; n * width];
        for i in 0..n {
            code.encode(&sample.targets[i * raw..(i + 1) * raw], &mut targets[i * width..(i + 1) * width]);
        }
        let judge_targets = targets.split_off(cut * width);
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
        }
    }
}

/// Ridges per row that are tried: half decades from 1e-10 to 1.
fn ridges() -> impl Iterator<Item = f64> {
    (-20..=0).map(|k| 10f64.powf(f64::from(k) / 2.0))
}

/// Error and matrix ridge of the best ridge; infinite error when the kernel cannot be fitted.
pub(super) fn evaluate(bench: &Bench<'_>, kernel: &Kernel, centers: usize, rows: usize) -> (f64, f64) {
    fit(bench, kernel, centers, rows).unwrap_or((f64::INFINITY, 0.0))
}

fn fit(bench: &Bench<'_>, kernel: &Kernel, centers: usize, rows: usize) -> Option<(f64, f64)> {
    let rows = rows.min(bench.fitted.len());
    let z = bench.fitted.slice(0, centers.min(rows));
    let x = bench.fitted.slice(0, rows);
    let t = bench.width;
    let kmm = symmetric_kernel_matrix(kernel, z, &[], bench.simd).ok()?;
    let features = |x: Rows<'_>| -> Option<Mat<f64>> {
        let k = kernel_matrix::<f32>(kernel, x, z, &[], bench.simd).ok()?;
        Some(Mat::from_fn(x.len(), z.len(), |i, j| f64::from(k[i * z.len() + j])))
    };
    let mut k = features(x)?;
    // Rows enter with the root of their weight; a null target of one column counts as that column's mean here.
    let mut y = Mat::from_fn(rows, t, |i, j| finite(bench.targets[i * t + j]));
    let mut weight_sum = 0.0;
    for i in 0..rows {
        let weight = bench.weights[i];
        weight_sum += weight;
        if weight != 1.0 {
            let root = weight.sqrt();
            (0..k.ncols()).for_each(|j| k[(i, j)] *= root);
            (0..t).for_each(|j| y[(i, j)] *= root);
        }
    }
    let mut gram = Mat::zeros(z.len(), z.len());
    gemm(gram.as_mut(), false, 1.0, k.transpose(), k.as_ref(), SEQUENTIAL);
    let mut cross = Mat::zeros(z.len(), t);
    gemm(cross.as_mut(), false, 1.0, k.transpose(), y.as_ref(), SEQUENTIAL);
    let squares: Vec<f64> = (0..t).map(|j| y.col(j).iter().map(|v| v * v).sum()).collect();
    let whitener = Whitener::new(kmm.as_ref(), WhitenMethod::Cholesky).ok()?;
    let sums =
        GramSums { gram, cross, target_squares: squares, target_sums: vec![0.0; t], weight_sum, rows: rows as u64 };
    let path = RidgePath::new(&sums, &whitener).ok()?;
    let judge_k = features(bench.judges)?;
    let mut best: Option<(f64, f64)> = None;
    for ridge in ridges() {
        let alpha = path.coefficients(ridge).ok()?;
        let mut f = Mat::zeros(bench.judges.len(), t);
        gemm(f.as_mut(), false, 1.0, judge_k.as_ref(), alpha.as_ref(), SEQUENTIAL);
        let error = standardised_error(bench, &f);
        if error.is_finite() && best.is_none_or(|(known, _)| error < known) {
            best = Some((error, ridge * weight_sum));
        }
    }
    best
}

fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// Root mean squared error over the spread of the target, averaged over targets, weighted by row.
fn standardised_error(bench: &Bench<'_>, f: &Mat<f64>) -> f64 {
    let t = bench.width;
    let mut total = 0.0;
    for j in 0..t {
        let (mut error, mut spread) = (0.0, 0.0);
        for i in 0..bench.judges.len() {
            let y = bench.judge_targets[i * t + j];
            if y.is_finite() {
                error += bench.judge_weights[i] * (y - f[(i, j)]).powi(2);
                spread += bench.judge_weights[i] * y * y;
            }
        }
        total += if spread > 0.0 { (error / spread).sqrt() } else { 0.0 };
    }
    total / t as f64
}
