//! Projected, preconditioned stochastic gradients over the workers (EigenPro 3 and 4; the algebra and its sources are in
//! `nystream_kernels::solve::eigenpro`).
//!
//! Every worker runs the iteration in step; those of a process hold the same state: of all centers, or of the process's shard ([`EigenProJob::sharded`], with the
//! same bits). `operator` says how a batch is divided; batches come in the order of the hashed row ids ([`order`]).
//!
//! * Up to [`EXACT_PROJECTION_CENTERS`] centers, K_mm is factored once per process and projections are exact; beyond, they are epochs of
//!   EigenPro 2 over the centers and K_mm is never stored. The number of centers decides, so that no budget changes the model.
//! * The end: with a tolerance, when the true residual of the normal equations, tested every fourth epoch, is within it; nothing else
//!   is convergence then. Without one and with a ridge, when the ridge objective on sample rows has settled: the second half of all epochs
//!   brought less than 0.25 % of it. Ridge 0 is the early-stopped form: it ends when the error on held-out rows has stopped
//!   falling. At the last epoch the walk has not converged, and the note says how far it was still falling.
//! * The true residual is computed at the end and reported.
//! * With shards a process holds packed centers, coefficients, averages, K(Z, .) w and the iterates of an inexact projection for its own blocks of centers alone. Whole in
//!   every process are the centers as they are (f32), the subsamples, a batch, and the coefficients at the end.

mod diagonals;
mod dimension;
mod judges;
mod kept;
mod operator;
pub mod order;
mod outcome;
mod projection;
mod shares;
#[cfg(test)]
mod tests;

pub use dimension::dimension_rows;

use crate::dictionary::pool::Pool;
use crate::engine::agree;
use crate::engine::bytes::{Reader, Writer};
use crate::engine::checkpoint::{Iterates, recall, remember_numbers};
use crate::engine::exchange::{Audience, Outgoing};
use crate::engine::feed::RowStore;
use crate::engine::session::{Process, Session};
use crate::error::StageError;
use crate::matvec::grid::{Shard, gather, over_centers};
use crate::nystrom::{Basis, from_row_major, numeric, row_major};
use crate::plan::Shape;
use crate::solve::pcg::{over_time, solve_error};
use crate::solve::{Solved, estimated_on};
use crate::targets::TargetCode;
use diagonals::largest_diagonals;
use dimension::effective_dimensions;
use faer::Mat;
use judges::{Judges, judges};
use nystream_datasets::Role;
use nystream_hashing::StreamKey;
use nystream_kernels::archive::{decode, encode};
use nystream_kernels::dense::{fixed_parallelism, gemm};
use nystream_kernels::kernel::Kernel;
use nystream_kernels::rows::{RowBuf, Rows};
use nystream_kernels::solve::SolveError;
use nystream_kernels::solve::eigenpro::{
    EigenProParams, EigenProProblem, EigenProState, Measured, Projector, Schedule, Settling, SubsamplePreconditioner,
    Verdict, eigenpro,
};
use nystream_kernels::tile::{Entry, SimdPath, Tiles, kernel_matrix, symmetric_kernel_matrix};
use operator::{Packed, RowOperator, values_at};
use order::{HashedOrder, Place};
use outcome::solved;
use projection::{WhitenedProjector, inner_projector};
use shares::{Shares, generation, recalled};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

/// Centers up to which K_mm is factored.
pub const EXACT_PROJECTION_CENTERS: usize = 20_000;
/// Rows of the subsample at most.
const SUBSAMPLE: usize = 3000;
/// Rows on which the preconditioned eigenvalue is measured, at most.
const PROBES: usize = 1000;
/// Rows of a batch at most.
pub(crate) const LARGEST_BATCH: usize = 10_000;
/// Rows that judge the iterates, at most.
pub(crate) const JUDGES: usize = 4000;
/// A walk whose objective grows to so many times that of its start has diverged; it begins again with a smaller step.
const DIVERGED: f64 = 2.0;
/// So has one whose objective rises to so many times its least value.
const RISEN: f64 = 1.1;
/// What the step is divided by then, and how often.
const STEP_CUT: f64 = 4.0;
const STEP_CUTS: usize = 3;
/// Epochs between tests of the residual, which costs about half an epoch.
pub(crate) const RESIDUAL_EVERY: usize = 4;
/// A walk has settled when the second half of its epochs lowered the objective by no more than this share of it.
const SETTLED_SHARE: f64 = 0.0025;
/// Not before so many epochs and so many batches: where an epoch is a few batches, six have not gone far.
const SETTLED_EPOCHS: usize = 6;
const SETTLED_BATCHES: usize = 200;
/// Epochs at most where `--iterations` says nothing: on few rows as many as make so many batches, but no more than this.
const EPOCHS: usize = 60;
const BATCHES: usize = 4000;
const EPOCHS_OF_FEW_ROWS: usize = 400;
/// Epochs of an inexact projection.
pub(crate) const PROJECTION_EPOCHS: usize = 4;

/// What a solve by stochastic gradients is given.
pub struct EigenProJob<'a, T: Entry> {
    /// The centers.
    pub centers: &'a RowBuf,
    /// Whether the processes share the centers by blocks, rather than have all each.
    pub sharded: bool,
    /// Kernel.
    pub kernel: &'a Kernel,
    /// SIMD path.
    pub simd: SimdPath,
    /// Targets.
    pub code: &'a TargetCode,
    /// Per-sample ridge; 0 is the early-stopped form.
    pub ridge: f64,
    /// Sum of the weights of all training rows.
    pub weight_sum: f64,
    /// Sum of the weights of the rows that have each target: its ridge is per such row.
    pub target_weights: &'a [f64],
    /// Training rows.
    pub rows: u64,
    /// Held-out rows of the split.
    pub held_out: u64,
    /// The hashed sample: subsample, probes and judges.
    pub sample: &'a Arc<Pool>,
    /// Seed of the order of the rows.
    pub seed: u64,
    /// Bound on the true relative residual; none: until the objective has settled.
    pub tolerance: Option<f64>,
    /// Epochs at most.
    pub epochs: Option<usize>,
    /// Coefficients to start from, m x t row-major, in units of the scaled targets.
    pub warm_start: Option<Vec<f64>>,
    /// Seconds of the process after which to stop.
    pub time_limit: Option<f64>,
    /// Bytes of an encoded row.
    pub row_bytes: u64,
    /// Where the rows are kept in hashed order.
    pub place: Place,
    /// Whether K_mm is factored ([`EXACT_PROJECTION_CENTERS`]): by each process, of all centers.
    pub exact: bool,
    /// Precision of the kernel entries.
    pub entries: PhantomData<T>,
}

/// The preconditioner and what was measured of it, once per process.
struct Setup<T: Entry> {
    preconditioner: SubsamplePreconditioner,
    /// K(Z, S) E, m x q, of the shard.
    directions: Mat<f64>,
    measured: Measured,
    /// The shard's centers, and the subsample behind the last.
    packed: Arc<Packed<T>>,
    /// The centers alone, where this process has them all; of a shard the same as `packed`, whose last block is little of it.
    plain: Arc<Packed<T>>,
    /// The subsample alone.
    sample: Arc<Tiles<T>>,
    /// E D^1/2, s x q row-major.
    scaled: Vec<f64>,
}

fn matrix(kernel: &Kernel, a: Rows<'_>, b: Rows<'_>, simd: SimdPath) -> Result<Mat<f64>, StageError> {
    let k = kernel_matrix::<f64>(kernel, a, b, &[], simd).map_err(numeric)?;
    Ok(from_row_major(&k, a.len(), b.len()))
}

/// Centers of an inexact projection's subsample.
pub(crate) fn projection_sample(centers: usize) -> usize {
    SUBSAMPLE.min(centers.div_ceil(2))
}

/// Sample rows taken for the subsample S and for the probes outside it.
pub fn subsample_sizes(sample: usize, centers: usize) -> (usize, usize) {
    let s = centers.clamp(1000, SUBSAMPLE).min(sample.div_ceil(2));
    (s, (sample - s).min(PROBES))
}

/// The preconditioner of the subsample of `job`, and what the probes say of it.
fn preconditioner<T: Entry>(job: &EigenProJob<'_, T>) -> Result<(SubsamplePreconditioner, Measured), StageError> {
    let (s, probes) = subsample_sizes(job.sample.len(), job.centers.len());
    let all = job.sample.rows.view();
    let sample = all.slice(0, s);
    let k_ss = symmetric_kernel_matrix(job.kernel, sample, &[], job.simd).map_err(numeric)?;
    let q = SubsamplePreconditioner::recommended_rank(s);
    // Directions that the ridge holds already are left: flattened further they would be the slowest of all.
    let least = s as f64 * job.ridge;
    let preconditioner = SubsamplePreconditioner::above(k_ss.as_ref(), q, 1.0, least).map_err(numeric)?;
    // One row is its own probe: there is no other.
    let probe = if probes > 0 { s..s + probes } else { 0..s };
    let rows = all.slice(probe.start, probe.end);
    let k_pp = symmetric_kernel_matrix(job.kernel, rows, &[], job.simd).map_err(numeric)?;
    let k_ps = matrix(job.kernel, rows, sample, job.simd)?;
    let mean_weight = job.weight_sum / job.rows as f64;
    let weights: Vec<f64> = job.sample.weights[probe].iter().map(|w| w / mean_weight).collect();
    let measured = preconditioner.measure(k_pp.as_ref(), k_ps.as_ref(), &weights);
    Ok((preconditioner, measured))
}

fn setup<T: Entry>(
    job: &EigenProJob<'_, T>,
    shard: &Shard,
    (preconditioner, measured): (SubsamplePreconditioner, Measured),
) -> Result<Setup<T>, StageError> {
    let sample = job.sample.rows.view().slice(0, preconditioner.sample());
    let own = shard.centers();
    let mut directions = Mat::zeros(own.len(), preconditioner.rank());
    for block in shard.own_blocks() {
        let rows = job.centers.view().slice(own.start + block.start, own.start + block.end);
        let k_zs = matrix(job.kernel, rows, sample, job.simd)?;
        let out = directions.as_mut().subrows_mut(block.start, block.len());
        gemm(out, false, 1.0, k_zs.as_ref(), preconditioner.vectors(), fixed_parallelism());
    }
    let packed = Packed::new(job.kernel, job.centers.view(), Some(sample), shard.clone(), job.simd)?;
    let only = Tiles::new(job.kernel, sample, &[], job.simd).map_err(numeric)?;
    let scaled = row_major(preconditioner.scaled_vectors().as_ref());
    let (packed, sample) = (Arc::new(packed), Arc::new(only));
    let plain = match shard.among() {
        Some(_) => Arc::clone(&packed),
        None => Arc::new(Packed::new(job.kernel, job.centers.view(), None, shard.clone(), job.simd)?),
    };
    Ok(Setup { preconditioner, directions, measured, packed, plain, sample, scaled })
}

/// Solves; the result is the same on every worker. The coefficients are m x t row-major, in units of the scaled targets. A limit of epochs or time is no error:
/// [`Solved::stopped`] tells.
///
/// ```
/// use nystream_dataflows::dictionary::pool::{Columns, PoolRule, gather_pool};
/// use nystream_dataflows::solve::eigenpro::{EigenProJob, order::Place, solve};
/// use nystream_dataflows::targets::TargetCode;
/// use nystream_hashing::StreamKey;
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::RowBuf, solve::Stopped, tile::SimdPath};
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
///     let grid = (-4..=4).map(|k| 0.4 * k as f32).collect();
///     let centers = RowBuf { numeric: grid, numeric_width: 1, codes: vec![], code_width: 0 };
///     let (simd, kernel) = (SimdPath::detect(), Kernel::new(Family::Gaussian, 0.5));
///     let rule = PoolRule::all(StreamKey::new(0, "sample", 0), 1);
///     let sample = gather_pool(session, "sample", store.feed(Role::Training), rule, Columns::All)?;
///     solve::<f64>(session, &store, &EigenProJob {
///         centers: &centers,
///         sharded: false,
///         kernel: &kernel,
///         simd,
///         code: &TargetCode { names: vec!["y".into()], classes: vec![], centres: vec![0.0], exponents: vec![3] },
///         ridge: 1e-4,
///         weight_sum: 5000.0,
///         target_weights: &[5000.0], // Every row has the target.
///         rows: 5000,
///         held_out: 0,
///         sample: &sample,
///         seed: 0,
///         tolerance: None,
///         epochs: Some(2),
///         warm_start: None,
///         time_limit: None,
///         row_bytes: 64,
///         place: Place::Memory(1 << 26),
///         exact: true,
///         entries: std::marker::PhantomData,
///     })
/// }).unwrap();
/// let solved = results[0].clone().unwrap();
/// // Two epochs, and then what was reached.
/// assert_eq!((solved.coefficients.len(), solved.stopped), (9, Stopped::MaxIterations));
/// assert_eq!(solved.coefficients, results[1].clone().unwrap().coefficients);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Data`] for rows that cannot be read or encoded, [`StageError::Numeric`] for a factorisation that fails or a step that would
/// diverge, [`StageError::Budget`] for a full disk, [`StageError::Internal`] for a damaged exchange; the same on every worker.
pub fn solve<T: Entry>(
    session: &mut Session<'_>,
    store: &RowStore,
    job: &EigenProJob<'_, T>,
) -> Result<Solved, StageError> {
    let key = StreamKey::new(job.seed, "eigenpro order", 0);
    let order = HashedOrder::new(session, store.feed(Role::Training), key, job.rows, job.row_bytes, job.place.clone())?;
    let (processes, process) = (session.process.processes(), session.process.index());
    let shard = match job.sharded {
        true => Shard::of(job.centers.len(), processes, process),
        false => Shard::whole(job.centers.len()),
    };
    let (s, _) = subsample_sizes(job.sample.len(), job.centers.len());
    let made = kept::preconditioner(session, "eigenpro preconditioner", s, || preconditioner(job))?;
    // A shard's centers may fail alone.
    let setup = session.try_once(|| setup(job, &shard, (*made).clone()));
    let setup = agree(session, setup)?;
    let judges = judges(session, store, job)?;
    let mean_weight = job.weight_sum / job.rows as f64;
    let feed = store.feed(Role::Training);
    let largest = remember_numbers(session, "eigenpro diagonals", |session| {
        largest_diagonals(session, feed, Arc::clone(&setup.sample), setup.scaled.clone(), mean_weight).map(Vec::from)
    })?;
    let [diagonal, kernel_diagonal] = largest[..] else {
        return Err(StageError::Internal("the stored diagonals are others".into()));
    };
    let measured = Measured {
        diagonal: setup.measured.diagonal.max(diagonal),
        kernel_diagonal: setup.measured.kernel_diagonal.max(kernel_diagonal),
        ..setup.measured
    };
    let shared = RefCell::new(session);
    let formed = (job.kernel, job.simd);
    let packed = (Arc::clone(&setup.packed), Arc::clone(&setup.plain));
    let operator = RowOperator::new(&shared, order, formed, job.code, packed, mean_weight);
    if job.exact {
        let basis = shared.borrow_mut().try_once(|| Basis::new(job.kernel, job.centers.view(), job.simd))?;
        let projector = WhitenedProjector { session: &shared, basis: Arc::clone(&basis), shard };
        let mut solved = walk(&shared, operator, projector, job, &setup, measured, &judges)?;
        let found = shared.borrow_mut().try_once(|| effective_dimensions(job, &basis))?;
        solved.effective_dimension = Some(found.to_vec());
        solved.notes.push(estimated_on(dimension_rows(job.sample.len())));
        Ok(solved)
    } else {
        walk(&shared, operator, inner_projector(&shared, job, &shard)?, job, &setup, measured, &judges)
    }
}

fn walk<'w, T: Entry, P: Projector<Error = StageError> + Clone>(
    shared: &RefCell<&mut Session<'w>>,
    mut operator: RowOperator<'_, '_, 'w, T>,
    mut projector: P,
    job: &EigenProJob<'_, T>,
    setup: &Setup<T>,
    measured: Measured,
    judges: &Judges,
) -> Result<Solved, StageError> {
    let (t, shard) = (job.code.width(), &setup.packed.shard);
    let own = shard.centers();
    let (m, all) = (own.len(), shard.total());
    let shares: Vec<f64> = job.target_weights.iter().map(|own| own / job.weight_sum).collect();
    let problem = EigenProProblem {
        preconditioner: &setup.preconditioner,
        center_directions: setup.directions.as_ref(),
        measured,
        ridge: job.ridge,
        // Weights are relative to their mean, as in the batches.
        weight_sum: job.rows as f64,
        shares: &shares,
    };
    let batch = measured.critical_batch().min(LARGEST_BATCH).min(job.rows as usize).max(1);
    let max_epochs = job.epochs.unwrap_or_else(|| most_epochs(job.rows as usize, batch));
    // A short run averages what it can.
    let from = 3.min(max_epochs.saturating_sub(1));
    let params = EigenProParams {
        batch: Some(batch),
        max_epochs,
        schedule: Schedule::Average { from },
        tolerance: job.tolerance.unwrap_or(0.0),
        residual_every: if job.tolerance.is_some() { RESIDUAL_EVERY } else { 0 },
        settling: settling(job.tolerance, job.ridge),
        ..EigenProParams::default()
    };
    let start = match &job.warm_start {
        Some(warm) => from_row_major(&warm[own.start * t..own.end * t], m, t),
        None => Mat::zeros(m, t),
    };
    let progress = {
        let session = shared.borrow();
        let process = session.is_leader().then(|| Arc::clone(&session.process));
        EpochProgress { process, rows: job.rows, most: max_epochs }
    };
    let mut gram = projector.clone();
    // The objective (or the held-out error) of coefficients.
    let mut objective = |alpha: &Mat<f64>| -> Result<f64, StageError> {
        let mut session = shared.borrow_mut();
        let values = values_at(&mut session, "judges", &setup.plain, &judges.rows, alpha.as_ref())?;
        drop(session);
        let mut loss = judges.loss(&values);
        if job.ridge > 0.0 {
            let smooth = gram.center_gram(alpha.as_ref())?;
            let norms = |block: Range<usize>| {
                let norm = |j: usize| block.clone().map(|i| alpha[(i, j)] * smooth[(i, j)]).sum::<f64>();
                (0..t).map(norm).collect::<Vec<f64>>()
            };
            let blocks = shard.own_blocks().into_iter().map(norms).collect();
            let norms = over_centers(&mut shared.borrow_mut(), shard, blocks, t)?;
            loss += job.ridge * (0..t).map(|j| shares[j] * norms[j]).sum::<f64>();
        }
        Ok(loss)
    };
    let at_start = objective(&start)?;
    let iterates = Iterates::new(&shared.borrow(), GROUP);
    // Of whole centers the first worker stores all, of shared ones each process its own; either serves both.
    let sharing = Shares::new(&shared.borrow(), shard);
    let found = recall(&mut shared.borrow_mut(), GROUP, Audience::Everyone)?;
    let found = found.iter().flatten().next().and_then(|frame| kept(&frame.bytes, all, t));
    let latest = found.as_ref().map(|(attempts, state)| generation(attempts, state));
    let found = found.map(|(attempts, state)| (attempts, state.rows(own.clone())));
    let found = recalled(&mut shared.borrow_mut(), shard, t, latest)?.or(found);
    let (mut attempts, mut resumed) = found.map_or((Vec::new(), None), |(attempts, state)| (attempts, Some(state)));
    loop {
        let step = attempts.last().map(|step: &f64| step / STEP_CUT);
        let (mut failed, mut out_of_time, mut diverged, mut best) = (None, false, false, f64::INFINITY);
        let cold = match resumed.take() {
            None => EigenProState::from_coefficients(start.as_ref()),
            Some(state) => {
                best = state.losses().iter().copied().fold(best, f64::min);
                state
            }
        };
        progress.begin(cold.losses().len());
        let params = EigenProParams { step, ..params };
        let result = eigenpro(&mut operator, &mut projector, &problem, &params, cold, |seen| {
            if sharing.is_none() {
                // Alpha, what is carried, two averages, the best.
                iterates.store(48 * (m * t) as u64, || {
                    let mut out = Writer::default();
                    out.f64s(&attempts);
                    out.bytes(&encode(seen.state));
                    vec![Outgoing { key: 0, bytes: out.0 }]
                });
            }
            let mut judge = || -> Result<Verdict, StageError> {
                if let Some(sharing) = &sharing {
                    sharing.store(&mut shared.borrow_mut(), &attempts, seen.state)?;
                }
                out_of_time = over_time(&mut shared.borrow_mut(), job.time_limit)?;
                if out_of_time {
                    return Ok(Verdict::Stop);
                }
                if !seen.epoch_ended {
                    return Ok(Verdict::Continue);
                }
                progress.end(seen.epoch);
                if seen.epoch < max_epochs {
                    progress.begin(seen.epoch);
                }
                let loss = objective(seen.alpha)?;
                best = best.min(loss);
                // A convex objective does not rise again under steps that are stable.
                let bounded = loss <= DIVERGED * at_start;
                diverged = !bounded || job.ridge > 0.0 && loss > RISEN * best;
                Ok(if diverged { Verdict::Stop } else { Verdict::HeldOut(loss) })
            };
            judge().unwrap_or_else(|error| {
                failed = Some(error);
                Verdict::Stop
            })
        });
        progress.over();
        if let Some(error) = failed {
            return Err(error);
        }
        let last = step.unwrap_or_else(|| measured.step(batch, job.ridge));
        match result {
            Ok((alpha, info)) if !diverged => {
                let session = shared.borrow();
                if session.is_first() {
                    let (s, rows) = (setup.preconditioner.sample() as f64, job.sample.len() as f64);
                    let shape = Shape { rows: job.rows as f64, numeric: 0.0, codes: 0.0, targets: t as f64 };
                    let algebra = shape.eigenpro_algebra(all as f64, s, rows, info.projections as f64);
                    session.process.count_algebra(algebra);
                }
                drop(session);
                let coefficients = gather(&mut shared.borrow_mut(), shard, row_major(alpha.as_ref()))?;
                return Ok(solved(job, setup, judges, coefficients, &info, attempts.len(), out_of_time));
            }
            Ok(_) | Err(SolveError::NotFinite { .. }) if attempts.len() < STEP_CUTS => attempts.push(last),
            Ok(_) | Err(SolveError::NotFinite { .. }) => {
                let finer = if size_of::<T>() < size_of::<f64>() { ", or --precision f64" } else { "" };
                return Err(StageError::Numeric(format!(
                    "eigenpro diverges even with the step {last:.3e}: use --solver pcg or gram{finer}"
                )));
            }
            Err(error) => return Err(solve_error(error)),
        }
    }
}

/// Name of the state in a checkpoint.
const GROUP: &str = "eigenpro";

/// The steps that diverged before and the state of the walk, of so many centers and outputs, that a checkpoint holds.
fn kept(bytes: &[u8], centers: usize, columns: usize) -> Option<(Vec<f64>, EigenProState)> {
    let mut from = Reader(bytes);
    let attempts = from.f64s().ok()?;
    let state: EigenProState = decode(from.bytes().ok()?)?;
    (state.columns() == columns && state.fits(centers * columns) && attempts.len() <= STEP_CUTS)
        .then_some((attempts, state))
}

/// Epochs at most where none are asked for.
pub(crate) fn most_epochs(rows: usize, batch: usize) -> usize {
    BATCHES.div_ceil(rows.div_ceil(batch.max(1)).max(1)).clamp(EPOCHS, EPOCHS_OF_FEW_ROWS)
}

/// When losses end the walk.
fn settling(tolerance: Option<f64>, ridge: f64) -> Settling {
    match tolerance {
        // With a tolerance it only cuts the step.
        _ if ridge > 0.0 => {
            Settling::Halving { share: SETTLED_SHARE, epochs: SETTLED_EPOCHS, batches: SETTLED_BATCHES }
        }
        Some(_) => Settling::Never,
        None => Settling::Patience(3),
    }
}

/// Tells the process's watcher how far the epochs are.
struct EpochProgress {
    process: Option<Arc<Process>>,
    rows: u64,
    most: usize,
}

impl EpochProgress {
    fn begin(&self, epoch: usize) {
        if let Some(process) = &self.process {
            let name = format!("eigenpro, epoch {} of at most {}", epoch + 1, self.most);
            let rows = process.own_rows(self.rows);
            process.watch.begin("eigenpro", rows);
            process.progress.begin(&name, rows);
        }
    }

    fn end(&self, epochs: usize) {
        if let Some(process) = &self.process {
            // What the residual is only a pass of its own would tell.
            process.watch.iterated(epochs as u64, f64::NAN);
        }
        self.over();
    }

    fn over(&self) {
        if let Some(process) = &self.process {
            process.watch.end();
            process.progress.end();
        }
    }
}
