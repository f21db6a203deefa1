//! Kernel family, bandwidth and ridge, chosen on the hashed sample.
//!
//! Candidates are fitted on part of the sample with a few hundred centers and judged on the rest; the ridge of each
//! comes from its whole regularisation path. Three rounds of growing size: a log grid from 1/16 to 16 times the
//! median distance over all families, then the best two, then the best one, each time in finer steps around the best so far, since the best bandwidth
//! shrinks as rows and centers grow. Ties go to the earlier candidate.
//!
//! A candidate is one worker's work, results are gathered: the table is the same for any number of workers.
//! Cost: [`TuneBudget`] bounds rows and centers so that all candidates together stay within a share of the
//! fit's planned flops.

mod candidate;
mod law;

pub use candidate::{Candidate, CandidateFit};
pub use law::{LawTrial, TEMPERED, pivot_law};
pub(crate) use law::{trial_bytes, trial_flops, tries_law};

use crate::dictionary::pool::Pool;
use crate::engine::bytes::{Reader, Writer};
use crate::engine::checkpoint::remember;
use crate::engine::exchange::{Audience, Gather, Outgoing, pass};
use crate::engine::session::Session;
use crate::error::StageError;
use crate::plan::{MemoryPlan, Shape, human, program_bytes};
use crate::targets::TargetCode;
use candidate::{Bench, BenchTargets, candidate_bytes, evaluate, target_bytes};
use nystream_kernels::kernel::{Family, Kernel, Metric};
use nystream_kernels::rows::Rows;
use nystream_kernels::tile::SimdPath;
use serde::{Deserialize, Serialize};

/// Share of the planned flops of a fit that tuning may use.
pub const TUNE_SHARE: f64 = 0.25;
/// Flops that tuning may always use: about a second of one core.
pub const TUNE_FLOOR: f64 = 6e10;
/// Families that `--kernel auto` compares.
pub const AUTO_FAMILIES: [Family; 4] = [Family::Gaussian, Family::Matern52, Family::Matern32, Family::Laplace];
/// Bandwidths of the first round: powers of two times the median distance.
const GRID: std::ops::RangeInclusive<i32> = -4..=4;
/// Bandwidths about a leader that a later round tries, and how often it walks on, to both sides, while the best lies at an end.
const STEPS: usize = 4;
const WALKS: usize = 3;
/// Share of the sample that judges.
const JUDGES: f64 = 0.25;
/// Pairs of rows whose distances make the median.
const MEDIAN_ROWS: usize = 1000;

/// What tuning may choose.
#[derive(Clone, Debug)]
pub struct TuneRequest {
    /// The family, when given.
    pub family: Option<Family>,
    /// The bandwidth in encoded units, when given.
    pub bandwidth: Option<f64>,
    /// Metric of all candidates.
    pub metric: Metric,
    /// SIMD path of the tiles.
    pub simd: SimdPath,
    /// Flops in all, about; too few for the smallest candidates count as enough for them.
    pub flops: f64,
    /// Flops beyond which tuning is refused.
    pub max_flops: f64,
    /// Memory of a process in bytes: as many of its workers try candidates side by side as half of it can hold beside the sample's targets.
    pub memory: u64,
}

/// What tuning found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// The kernel.
    pub kernel: Kernel,
    /// Matrix ridge of the best candidate on its rows; a Gaussian process would call it the noise variance over the
    /// signal variance, so it is carried over to all rows as it is.
    pub ridge_matrix: f64,
    /// Every candidate in the order it was tried.
    pub table: Vec<CandidateFit>,
    /// Memory of a process with as many candidates side by side as were tried, as planned.
    pub memory: MemoryPlan,
}

impl Tuned {
    /// Flops that its candidates took on a sample of `sample` rows.
    pub(crate) fn flops(&self, shape: &Shape, sample: usize) -> f64 {
        let judges = sample as f64 * JUDGES;
        self.table.iter().map(|fit| fit.candidate.flops(shape, judges)).sum()
    }
}

/// Rows and centers of each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TuneBudget {
    /// (centers, fitted rows) of the three rounds.
    pub rounds: [(usize, usize); 3],
}

impl TuneBudget {
    /// Sizes for `flops` in all, on a sample of `rows` rows: rounds of about 36, 10 and 8 candidates at m, 2 m and 4 m
    /// centers and 8 m rows each, m at least 64 and at most 512. A quarter of the sample is kept from fitting, to judge.
    ///
    /// ```
    /// use nystream_dataflows::tune::TuneBudget;
    /// assert_eq!(TuneBudget::new(1e9, 20_000).rounds, [(64, 512), (128, 1024), (256, 2048)]);
    /// // Few rows are the limit before flops are.
    /// assert_eq!(TuneBudget::new(1e9, 1000).rounds[2], (256, 750));
    /// ```
    pub fn new(flops: f64, rows: usize) -> Self {
        // One candidate costs about (8 + 12 + 2) m^3; the rounds weigh 36 + 10 * 8 + 8 * 64.
        let unit = (flops / (22.0 * 628.0)).cbrt();
        let base = (unit as usize).clamp(64, 512);
        let fitted = ((rows as f64) * (1.0 - JUDGES)) as usize;
        let round = |scale: usize| {
            let train = (8 * base * scale).min(fitted).max(1);
            ((base * scale).min(train), train)
        };
        TuneBudget { rounds: [round(1), round(2), round(4)] }
    }

    /// Flops of as many candidates as tuning tries at most on a sample of `sample` rows: every family on the whole grid, and walks to their ends.
    pub(crate) fn most_flops(&self, shape: &Shape, sample: usize) -> f64 {
        let walks = 2 * WALKS;
        let counts = [AUTO_FAMILIES.len() * GRID.count(), 2 * STEPS + walks, STEPS + walks];
        let judges = sample as f64 * JUDGES;
        let round = |((m, rows), count): (&(usize, usize), usize)| {
            count as f64 * shape.candidate(*m as f64, *rows as f64, judges)
        };
        self.rounds.iter().zip(counts).map(round).sum()
    }
}

/// Median distance between rows of the sample, after the metric, in encoded units: over all pairs of its first 1,000 rows that differ, the greater
/// of the two in the middle where their number is even. 1 when no two rows differ.
///
/// ```
/// use nystream_dataflows::tune::median_distance;
/// use nystream_kernels::{kernel::Metric, rows::Rows};
/// let rows = Rows::new(&[0.0, 1.0, 4.0, 4.0], 1, &[], 0);
/// // Distances 1, 3, 3, 4, 4, and 0 between the equal rows, which does not count.
/// assert!((median_distance(&Metric::Isotropic, rows) - 3.0).abs() < 1e-12);
/// assert_eq!(median_distance(&Metric::Isotropic, rows.slice(2, 4)), 1.0);
/// ```
pub fn median_distance(metric: &Metric, rows: Rows<'_>) -> f64 {
    let n = rows.len().min(MEDIAN_ROWS);
    let kernel = Kernel { family: Family::Cauchy, bandwidth: 1.0, metric: metric.clone() };
    let mut distances = Vec::with_capacity(n * n.saturating_sub(1) / 2);
    for i in 0..n {
        for j in 0..i {
            // cauchy = 1 / (1 + r^2), so r^2 = 1 / k - 1.
            distances.push((1.0 / kernel.evaluate(rows, i, rows, j) - 1.0).max(0.0).sqrt());
        }
    }
    distances.retain(|d| *d > 0.0);
    if distances.is_empty() {
        return 1.0;
    }
    let middle = distances.len() / 2;
    *distances.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// Chooses the kernel on `sample` (in hash order, with targets and weights); the result is the same on every worker, and for any number of them. The
/// bandwidth is in encoded units, errors are relative to those of the mean.
///
/// ```
/// use nystream_dataflows::dictionary::pool::{Columns, PoolRule, gather_pool};
/// use nystream_dataflows::{targets::TargetCode, tune::{TuneRequest, tune}};
/// use nystream_hashing::StreamKey;
/// use nystream_kernels::{kernel::{Family, Metric}, tile::SimdPath};
/// # use nystream_dataflows::engine::{Process, SilentProgress, feed::RowStore, run};
/// # use nystream_datasets::{Catalog, ColumnSummary, Encoder, EncoderOptions, Role, Sources};
/// # use std::sync::Arc;
/// # let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=1"])?)?;
/// # let summary = |info| ColumnSummary { count: 5000, sd: 0.6, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
/// # let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
/// # let encoder = Arc::new(Encoder::fit(&summaries, &EncoderOptions { targets: vec!["y".into()], ..Default::default() })?);
/// # let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// # let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// // `catalog`, `encoder` and `store` are those of the example of `RowStore`: 5,000 rows.
/// let results = run(&process, communication, move |session| {
/// #   let (peers, index, process) = (session.peers(), session.index(), Arc::clone(&session.process));
/// #   let store = RowStore::new(&catalog, Arc::clone(&encoder), peers, index, process);
///     // The rows whose hash begins with a zero bit: about half of them.
///     let rule = PoolRule::all(StreamKey::new(0, "sample", 0), 1);
///     let sample = gather_pool(session, "sample", store.feed(Role::Training), rule, Columns::All)?;
///     let code = TargetCode { names: vec!["y".into()], classes: vec![], centres: vec![0.0], exponents: vec![3] };
///     let (simd, metric) = (SimdPath::detect(), Metric::Isotropic);
///     let family = Some(Family::Gaussian);
///     tune(session, &sample, &code, &TuneRequest { family, bandwidth: None, metric, simd, flops: 1e9, max_flops: 1e12, memory: 1 << 30 })
/// }).unwrap();
/// let tuned = results[0].clone().unwrap();
/// assert_eq!(tuned.kernel.family, Family::Gaussian);
/// // The best of the last round, and better than half the error of the mean.
/// let last = tuned.table.iter().filter(|fit| fit.candidate.round == 2);
/// let best = last.min_by(|a, b| a.error.total_cmp(&b.error)).unwrap();
/// assert_eq!((best.candidate.bandwidth, best.ridge_matrix), (tuned.kernel.bandwidth, tuned.ridge_matrix));
/// assert!(best.error < 0.5);
/// assert_eq!(results[0], results[1]);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Budget`] when half of the memory does not hold one candidate or the candidates take more than `max_flops`, [`StageError::Numeric`] when every candidate failed,
/// [`StageError::Internal`] for a damaged exchange.
pub fn tune(
    session: &mut Session<'_>,
    sample: &Pool,
    code: &TargetCode,
    request: &TuneRequest,
) -> Result<Tuned, StageError> {
    let median = median_distance(&request.metric, sample.rows.view());
    let budget = TuneBudget::new(request.flops, sample.len());
    let judges = (sample.len() as f64 * JUDGES) as usize;
    let each = budget.rounds.iter().map(|(m, _)| candidate_bytes(*m, code.width(), judges)).max().unwrap_or(1);
    let shared = target_bytes(sample.len(), code.width());
    let resident = program_bytes(session.process.workers()) + sample.bytes();
    let room = (request.memory / 2).min(request.memory.saturating_sub(resident)).saturating_sub(shared);
    if each > room {
        return Err(StageError::Budget(format!(
            "tuning needs {} for each candidate kernel and {} for the {} target column(s) of the sample, which is more than is left of the {} that \
             --memory allows, or than half of it: give more, or give --kernel, --bandwidth and --ridge",
            human(each),
            human(shared),
            code.width(),
            human(request.memory)
        )));
    }
    let lanes = ((room / each) as usize).clamp(1, session.process.workers());
    // One copy for all workers: with many classes it is the larger part.
    let targets = session.once(|| BenchTargets::new(sample, code));
    let bench = Bench::new(sample, &targets, JUDGES, request.simd);
    let families: Vec<Family> = request.family.map_or_else(|| AUTO_FAMILIES.to_vec(), |f| vec![f]);
    let mut table: Vec<CandidateFit> = Vec::new();

    let grid: Vec<f64> = match request.bandwidth {
        Some(sigma) => vec![sigma],
        None => GRID.map(|k| median * 2f64.powi(k)).collect(),
    };
    let candidates: Vec<Candidate> = families
        .iter()
        .flat_map(|family| grid.iter().map(|sigma| Candidate::new(*family, *sigma, budget.rounds[0])))
        .collect();
    // The later rounds at their shortest, so that what cannot end is not begun.
    let few = if request.bandwidth.is_some() { 1 } else { STEPS };
    let later = [(budget.rounds[1], few * families.len().min(2)), (budget.rounds[2], few)];
    let later = later.iter().map(|(size, count)| *count as f64 * bench.flops(&Candidate::new(families[0], 1.0, *size)));
    check_flops(&bench, request, &table, &candidates, later.sum())?;
    run_round(session, &bench, request, lanes, candidates, &mut table)?;

    for (round, keep, steps) in [(1, 2, [-1.0, -0.5, 0.0, 0.5]), (2, 1, [-1.0, -0.5, 0.0, 0.25])] {
        let leaders = best_per_family(&table, round - 1, keep);
        let mut candidates = Vec::new();
        for leader in &leaders {
            let steps: [f64; STEPS] = steps;
            let steps = if request.bandwidth.is_some() { &[0.0][..] } else { &steps };
            for step in steps {
                let sigma = leader.candidate.bandwidth * 2f64.powf(*step);
                candidates.push(Candidate::new(leader.candidate.family, sigma, budget.rounds[round]).in_round(round));
            }
        }
        run_round(session, &bench, request, lanes, candidates, &mut table)?;
        // Walk on while the best lies at an end of what was tried, a few times.
        for _ in 0..WALKS {
            if request.bandwidth.is_some() {
                break;
            }
            let Some(best) = best_per_family(&table, round, 1).into_iter().next() else { break };
            let tried = |sigma: f64| {
                table.iter().any(|fit| {
                    fit.candidate.round == round
                        && fit.candidate.family == best.candidate.family
                        && (fit.candidate.bandwidth / sigma).log2().abs() < 0.2
                })
            };
            let step = if round == 1 { 0.5 } else { 0.25 };
            let next: Vec<Candidate> = [-step, step]
                .iter()
                .map(|s| best.candidate.bandwidth * 2f64.powf(*s))
                .filter(|sigma| !tried(*sigma))
                .map(|sigma| Candidate::new(best.candidate.family, sigma, budget.rounds[round]).in_round(round))
                .collect();
            if next.is_empty() {
                break;
            }
            run_round(session, &bench, request, lanes, next, &mut table)?;
        }
    }
    let best = best_per_family(&table, 2, 1).into_iter().next();
    let best = best.ok_or_else(|| StageError::Numeric("tuning: no kernel could be fitted on the sample, since its values overflow or are all alike. Give --kernel gaussian, or a --bandwidth and a \
             --ridge"
                .into()))?;
    let kernel =
        Kernel { family: best.candidate.family, bandwidth: best.candidate.bandwidth, metric: request.metric.clone() };
    let mut memory = MemoryPlan::default();
    memory.add("program and hashed sample", resident);
    memory.add(format!("{} target column(s) of the sample", code.width()), shared);
    memory.add(format!("{lanes} candidate kernel(s) being tried"), lanes as u64 * each);
    Ok(Tuned { kernel, ridge_matrix: best.ridge_matrix, table, memory })
}

/// The best candidate of each family in `round`, best families first.
fn best_per_family(table: &[CandidateFit], round: usize, keep: usize) -> Vec<CandidateFit> {
    let mut best: Vec<CandidateFit> = Vec::new();
    for fit in table.iter().filter(|fit| fit.candidate.round == round && fit.error.is_finite()) {
        match best.iter_mut().find(|b| b.candidate.family == fit.candidate.family) {
            Some(known) if known.error <= fit.error => {}
            Some(known) => *known = *fit,
            None => best.push(*fit),
        }
    }
    best.sort_by(|a, b| a.error.total_cmp(&b.error));
    best.truncate(keep);
    best
}

/// Refuses candidates that pass the cap after those of `table` and before `later` flops.
fn check_flops(
    bench: &Bench<'_>,
    request: &TuneRequest,
    table: &[CandidateFit],
    candidates: &[Candidate],
    later: f64,
) -> Result<(), StageError> {
    let tried = table.iter().map(|fit| &fit.candidate);
    let flops = later + tried.chain(candidates).map(|candidate| bench.flops(candidate)).sum::<f64>();
    if flops <= request.max_flops {
        return Ok(());
    }
    Err(StageError::Budget(format!(
        "tuning takes at least {flops:.2e} flops and --max-flops allows {:.2e}: raise it, or give --kernel, --bandwidth and --ridge",
        request.max_flops
    )))
}

/// Evaluates candidates, dealt to the first `lanes` workers of every process, and appends the results in order.
fn run_round(
    session: &mut Session<'_>,
    bench: &Bench<'_>,
    request: &TuneRequest,
    lanes: usize,
    candidates: Vec<Candidate>,
    table: &mut Vec<CandidateFit>,
) -> Result<(), StageError> {
    check_flops(bench, request, table, &candidates, 0.0)?;
    let group = format!("tune {}", table.len());
    let parcels = remember(session, &group, Audience::Everyone, |session| {
        let (process, local) = (&session.process, session.local_index());
        // Workers beyond the lanes skip all of them.
        let me = if local < lanes { process.index() * lanes + local } else { candidates.len() };
        let peers = process.processes() * lanes;
        let mut outgoing = Vec::new();
        for (k, candidate) in candidates.iter().enumerate().skip(me).step_by(peers) {
            let kernel =
                Kernel { family: candidate.family, bandwidth: candidate.bandwidth, metric: request.metric.clone() };
            let (error, ridge) = evaluate(bench, &kernel, candidate.centers, candidate.rows);
            let mut bytes = Writer::default();
            bytes.f64s(&[error, ridge]);
            outgoing.push(Outgoing { key: k as u64, bytes: bytes.0 });
        }
        pass(session, "tune", outgoing, Gather::default(), Audience::Everyone)
    })?;
    for (candidate, parcel) in candidates.into_iter().zip(parcels) {
        let values = Reader(&parcel.bytes).f64s()?;
        let [error, ridge_matrix] = values[..] else {
            return Err(StageError::Internal("a tuning result arrived damaged".into()));
        };
        table.push(CandidateFit { candidate, error, ridge_matrix });
    }
    Ok(())
}
