//! The law by which pivots are drawn, chosen on the hashed sample.
//!
//! The problem: randomly pivoted Cholesky draws centers by w d, d the residual diagonal, and so takes rows that resemble no other. Where those rows
//! carry the function (keggdirected) nothing is better; where they are noise (protein) each covers itself alone, and a flatter law, w d^1/4, predicts
//! better. No property of the kernel tells which. So both are tried at a small scale: centers picked from a part of the sample, fitted on three
//! quarters of it and judged on the rest, by [`DRAWS`] draws of each law: between draws of 400 centers errors differ by about 0.3 % (protein), and one draw
//! told the wrong law in one of three seeds.
//!
//! A function of sample, kernel and seed alone. Cost: 2 [`DRAWS`] small selections and fits of about 10^10 flops each.

use super::JUDGES;
use super::candidate::{Bench, BenchTargets, candidate_bytes, evaluate_with, target_bytes};
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

/// Mean errors on the judging rows, relative to the spread of the target, of fits whose centers were drawn by each law.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LawTrial {
    /// By w d.
    pub papers: f64,
    /// By w d^1/4.
    pub tempered: f64,
}

impl LawTrial {
    /// Whether pivots are to be drawn by w d^1/4: where that is better by half a percent.
    ///
    /// ```
    /// use nystream_dataflows::tune::LawTrial;
    /// assert!(LawTrial { papers: 0.5, tempered: 0.49 }.prefers_tempered());
    /// assert!(!LawTrial { papers: 0.5, tempered: 0.499 }.prefers_tempered());
    /// ```
    pub fn prefers_tempered(&self) -> bool {
        // A fit that failed has an infinite error.
        self.tempered < (1.0 - MARGIN) * self.papers
    }
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
        let Ok(pivots) = rp_cholesky(&oracle, rows, &sample.ids[..pool], None, params) else { return f64::INFINITY };
        evaluate_with(&bench, kernel, RowBuf::gather(rows, &pivots.indices).view(), fitted).0
    };
    let error = |exponent: f64| (0..DRAWS).map(|i| draw(exponent, i)).sum::<f64>() / DRAWS as f64;
    Some(LawTrial { papers: error(1.0), tempered: error(TEMPERED) })
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
