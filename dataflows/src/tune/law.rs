//! The law by which pivots are drawn, chosen on the hashed sample.
//!
//! The problem: randomly pivoted Cholesky draws centers by w d, d the residual diagonal, and so takes rows that resemble no other. Where those rows
//! carry the function (keggdirected) nothing is better; where they are noise (protein) each covers itself alone, and a flatter law, w d^1/4, predicts
//! better. No property of the kernel tells which. So both are tried at a small scale: centers picked from a part of the sample, fitted on three
//! quarters of it and judged on the rest, by [`DRAWS`] draws of each law: between draws of 400 centers errors differ by about 0.3 % (protein), and one draw
//! told the wrong law in one of three seeds.
//!
//! The papers' law stands unless the judging rows speak against it: the gain of the other must be half a percent of the error, and twice its own standard
//! error, over judging rows (paired: both laws are judged on the same ones) and draws. Where a few rows carry most of the error (keggdirected), a mean
//! alone says what those rows say, and new data has others.
//!
//! A function of sample, kernel and seed alone. Cost: 2 [`DRAWS`] small selections and fits of about 10^10 flops each.

use super::JUDGES;
use super::candidate::{Bench, BenchTargets, Judged, candidate_bytes, judge, target_bytes};
use crate::dictionary::TileOracle;
use crate::dictionary::pool::Pool;
use crate::job::Select;
use crate::plan::Selection;
use crate::targets::TargetCode;
use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::kernel::Kernel;
use nystream_kernels::rows::RowBuf;
use nystream_kernels::sampling::{PivotParams, rp_cholesky};
use nystream_kernels::tile::SimdPath;

/// *Shape.* Centers of the trial fits, at most.
const TRIAL_CENTERS: usize = 400;
/// *Shape.* Rows the trial's centers are picked from, in units of their number.
const TRIAL_POOL: usize = 16;
/// By how much the error of the flatter law must be smaller: differences of less are those between seeds, and the papers' law has the smaller trace error.
const MARGIN: f64 = 0.005;

/// Exponent of the flatter law.
pub const TEMPERED: f64 = 0.25;

/// *Shape.* Draws of each law.
pub const DRAWS: u64 = 3;

/// Standard errors by which the flatter law must be better.
const STANDARD_ERRORS: f64 = 2.0;

/// Errors on the judging rows, relative to the spread of the target, of fits whose centers were drawn by each law.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LawTrial {
    /// By w d: mean over draws; infinite where a fit failed.
    pub papers: f64,
    /// By w d^1/4.
    pub tempered: f64,
    /// Standard error of their difference, over judging rows and draws.
    pub standard_error: f64,
}

impl LawTrial {
    /// From the fits of each law, `None` for one that failed.
    fn new(papers: &[Option<Judged>], tempered: &[Option<Judged>]) -> Self {
        let mean = |fits: &[Option<Judged>]| {
            fits.iter().map(|fit| fit.as_ref().map_or(f64::INFINITY, |fit| fit.error)).sum::<f64>() / fits.len() as f64
        };
        let errors = |fits: &[Option<Judged>]| fits.iter().flatten().map(|fit| fit.error).collect::<Vec<_>>();
        let draws = sum_variance(&errors(papers)) / (papers.len() as f64).powi(2)
            + sum_variance(&errors(tempered)) / (tempered.len() as f64).powi(2);
        let (papers_mean, tempered_mean) = (mean(papers), mean(tempered));
        let (a, b) = (mean_shares(papers), mean_shares(tempered));
        let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        let rows = sum_variance(&differences);
        LawTrial { papers: papers_mean, tempered: tempered_mean, standard_error: (rows + draws).sqrt() }
    }

    /// Whether pivots are to be drawn by w d^1/4: where that is better by half a percent, and by two standard errors.
    ///
    /// ```
    /// use nystream_dataflows::tune::LawTrial;
    /// let trial = LawTrial { papers: 0.5, tempered: 0.49, standard_error: 0.004 };
    /// assert!(trial.prefers_tempered());
    /// assert!(!LawTrial { tempered: 0.499, standard_error: 0.0, ..trial }.prefers_tempered());
    /// assert!(!LawTrial { standard_error: 0.006, ..trial }.prefers_tempered());
    /// ```
    pub fn prefers_tempered(&self) -> bool {
        if self.papers.is_infinite() {
            return self.tempered.is_finite();
        }
        self.papers - self.tempered > (MARGIN * self.papers).max(STANDARD_ERRORS * self.standard_error)
    }
}

/// Mean over the fits of what each row adds to the error; empty when all failed.
fn mean_shares(fits: &[Option<Judged>]) -> Vec<f64> {
    let fits: Vec<&Judged> = fits.iter().flatten().collect();
    let rows = fits.first().map_or(0, |fit| fit.shares.len());
    (0..rows).map(|i| fits.iter().map(|fit| fit.shares[i]).sum::<f64>() / fits.len() as f64).collect()
}

/// Variance of the sum of independent values spread as these.
fn sum_variance(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if n < 2.0 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / n;
    n / (n - 1.0) * values.iter().map(|v| (v - mean).powi(2)).sum::<f64>()
}

/// Whether a fit tries both: where it picks pivots from a pool or among the atoms of a dictionary, and no earlier model says how.
pub(crate) fn tries_law(asked: &Select, selection: Selection) -> bool {
    !matches!(asked, Select::Settled(_))
        && matches!(selection, Selection::RpCholesky { full: false, .. } | Selection::Squeak { .. })
}

/// Tries both laws on `sample` (in hash order, with targets and weights) for a fit of `centers` centers; `None` when the sample is too small to tell.
/// For one thread of a process: m x m algebra and pivoting use its pool.
pub fn pivot_law(
    sample: &Pool,
    code: &TargetCode,
    kernel: &Kernel,
    simd: SimdPath,
    centers: usize,
    seed: u64,
) -> Option<LawTrial> {
    let (m, pool, fitted) = sizes(sample.len(), centers);
    if m < 8 {
        return None;
    }
    let targets = BenchTargets::new(sample, code);
    let bench = Bench::new(sample, &targets, JUDGES, simd);
    let oracle = TileOracle::new(kernel, simd);
    let rows = sample.rows.view().slice(0, pool);
    let draw = |exponent: f64, draw: u64| {
        let seed = StreamKey::new(seed, "trial of the law of pivots", draw).u128(RowId(0)) as u64;
        let params = PivotParams { exponent, ..PivotParams::new(m, seed) };
        let pivots = rp_cholesky(&oracle, rows, &sample.ids[..pool], None, params).ok()?;
        judge(&bench, kernel, RowBuf::gather(rows, &pivots.indices).view(), fitted)
    };
    let draws = |exponent: f64| (0..DRAWS).map(|i| draw(exponent, i)).collect::<Vec<_>>();
    Some(LawTrial::new(&draws(1.0), &draws(TEMPERED)))
}

/// Centers, rows they are picked from and rows fitted of a trial on `sample` rows.
fn sizes(sample: usize, centers: usize) -> (usize, usize, usize) {
    let fitted = sample - (sample as f64 * JUDGES) as usize;
    let m = centers.min(TRIAL_CENTERS).min(fitted / 8);
    (m, (TRIAL_POOL * m).min(fitted), fitted)
}

/// Bytes of a trial, for a plan: the pool's factor and one small fit.
pub(crate) fn trial_bytes(sample: usize, centers: usize, targets: usize) -> u64 {
    let (m, pool, fitted) = sizes(sample, centers);
    8 * (pool * m) as u64 + target_bytes(sample, targets) + candidate_bytes(m, targets, sample - fitted)
}

/// Flops of a trial, for a plan: entries of `entry` flops.
pub(crate) fn trial_flops(sample: usize, centers: usize, entry: f64) -> f64 {
    let (m, pool, fitted) = sizes(sample, centers);
    let m = m as f64;
    2.0 * DRAWS as f64 * (pool as f64 * m * (m + entry) + fitted as f64 * m * (2.0 * m + entry) + 22.0 * m * m * m)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fit whose rows add `squares` to its squared error.
    fn fit(squares: Vec<f64>) -> Option<Judged> {
        let error = squares.iter().sum::<f64>().sqrt();
        Some(Judged { error, ridge_matrix: 1.0, shares: squares.iter().map(|s| s / (2.0 * error)).collect() })
    }

    fn trial(papers: Vec<f64>, tempered: Vec<f64>) -> LawTrial {
        let thrice = |squares: Vec<f64>| [fit(squares.clone()), fit(squares.clone()), fit(squares)];
        LawTrial::new(&thrice(papers), &thrice(tempered))
    }

    /// One gain, spread over all rows or brought by one of them.
    #[test]
    fn one_row_does_not_turn_the_law() {
        let spread = trial(vec![1e-3; 1000], vec![0.96e-3; 1000]);
        assert!(spread.prefers_tempered() && spread.standard_error < 1e-12);
        let mut one = vec![0.96e-3; 1000];
        one[17] += 0.04;
        let carried = trial(one, vec![0.96e-3; 1000]);
        assert!((carried.papers - spread.papers).abs() < 1e-12 && (carried.tempered - spread.tempered).abs() < 1e-12);
        assert!(!carried.prefers_tempered(), "{carried:?}");
    }

    /// The standard error is the spread of the difference over samples of judging rows.
    #[test]
    fn the_standard_error_is_that_of_new_rows() {
        let uniform =
            |i: u64| (StreamKey::new(7, "law test", 0).u128(RowId(u128::from(i))) >> 75) as f64 / 2f64.powi(53);
        let (samples, rows) = (400, 200);
        let mut differences = Vec::new();
        let mut stated = 0.0;
        for sample in 0..samples {
            let at = |i: u64, k: u64| uniform((sample * rows + i) * 2 + k) / rows as f64;
            let papers: Vec<f64> = (0..rows).map(|i| at(i, 0)).collect();
            let tempered = (0..rows).map(|i| 0.5 * at(i, 0) + 0.4 * at(i, 1)).collect();
            let trial = trial(papers, tempered);
            differences.push(trial.papers - trial.tempered);
            stated += trial.standard_error / samples as f64;
        }
        let seen = (sum_variance(&differences) / samples as f64).sqrt();
        assert!((stated / seen - 1.0).abs() < 0.15, "stated {stated:.5}, seen {seen:.5}");
    }

    /// Draws that disagree are a reason to doubt too.
    #[test]
    fn draws_that_differ_add_to_the_standard_error() {
        let draws = |scale: [f64; 3]| scale.map(|s| fit(vec![s * 1e-3; 1000]));
        let agree = LawTrial::new(&draws([1.0; 3]), &draws([0.96; 3]));
        let differ = LawTrial::new(&draws([0.9, 1.0, 1.1]), &draws([0.86, 0.96, 1.06]));
        assert!(agree.prefers_tempered() && !differ.prefers_tempered());
    }

    #[test]
    fn a_law_whose_fit_failed_is_not_chosen() {
        let fine = || [fit(vec![1e-3; 10]), fit(vec![1e-3; 10]), fit(vec![1e-3; 10])];
        let failed = || [fit(vec![1e-3; 10]), None, fit(vec![1e-3; 10])];
        assert!(LawTrial::new(&failed(), &fine()).prefers_tempered());
        assert!(!LawTrial::new(&fine(), &failed()).prefers_tempered());
        assert!(!LawTrial::new(&failed(), &failed()).prefers_tempered());
    }
}
