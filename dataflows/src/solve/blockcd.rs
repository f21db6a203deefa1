//! Full kernel ridge regression over the workers by block coordinate descent (ASkotch; the algebra and its source are in
//! `nystream_kernels::solve::blockcd`).
//!
//! Every row is a center, so every process holds all rows: this is the one solver whose memory grows with n, and the plan
//! counts it. Rows with equal features are one center with their weights added and their targets averaged, which is the same problem:
//! sum_i w_i (y_i - f)^2 = (sum_i w_i) (ybar - f)^2 + a constant.
//!
//! With W the weights of the centers the system is (W^1/2 K W^1/2 + Lambda I) v = W^1/2 ybar and alpha = W^1/2 v. K(B, :) z is summed over blocks of
//! [`COLUMN_BLOCK`] centers that the workers divide; the O(n t) vectors and the algebra of a block are replicated.
//!
//! Cost of an epoch: n^2 entries, 2 n^2 t flops; n/b exchanges of b t values.

use crate::dictionary::pool::feature_key;
use crate::engine::bytes::{Reader, Writer};
use crate::engine::checkpoint::{Iterates, recall};
use crate::engine::exchange::{Audience, Gather, Outgoing, Scan, Step, pass};
use crate::engine::feed::{Feed, RowStore, view};
use crate::engine::session::Session;
use crate::error::StageError;
use crate::matvec::blocks::block_sums;
use crate::nystrom::row_major;
use crate::plan::block_algebra;
use crate::solve::Solved;
use crate::solve::pcg::{over_time, solve_error};
use crate::targets::TargetCode;
use faer::{Mat, MatRef};
use nystream_datasets::{Chunk, Role};
use nystream_hashing::RowId;
use nystream_kernels::archive::{decode, encode};
use nystream_kernels::kernel::Kernel;
use nystream_kernels::rows::RowBuf;
use nystream_kernels::solve::blockcd::{BlockOperator, BlockParams, BlockProgress, BlockState, blockcd};
use nystream_kernels::tile::{Entry, SimdPath, TileScratch, Tiles, symmetric_kernel_matrix};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// *Shape.* Centers whose contributions to K(B, :) z are summed together.
pub const COLUMN_BLOCK: usize = 2048;
/// Rows of a coordinate block at least and at most; n / 100 between (solvers.md section 3).
const BLOCK_ROWS: (usize, usize) = (512, 4096);
/// Rank of a block's Nystrom approximation at most. It decides how far 60 epochs come: 3,600 rows of kin40k at ridge 1e-6 end with a relative
/// residual of 2.9e-2 by rank 100, 9.6e-3 by 128, 1e-4 by 200 and 5e-6 by 256 (November 2026).
const RANK: usize = 256;

/// Name of the state in a checkpoint.
const GROUP: &str = "block coordinate descent";

/// What a full solve is given.
pub struct BlockJob<'a, T: Entry> {
    /// All distinct rows, packed.
    pub tiles: &'a Arc<Tiles<T>>,
    /// All distinct rows.
    pub centers: &'a RowBuf,
    /// Kernel.
    pub kernel: &'a Kernel,
    /// SIMD path.
    pub simd: SimdPath,
    /// Targets.
    pub code: &'a TargetCode,
    /// Per-sample ridge.
    pub ridge: f64,
    /// By what the rows' weights are multiplied, a power of two; 1 but for extreme ones.
    pub weight_scale: f64,
    /// Sum of the weights of all training rows, times the scale.
    pub weight_sum: f64,
    /// Seed of the blocks and sketches.
    pub seed: u64,
    /// Bound on the relative residual.
    pub tolerance: f64,
    /// Epochs at most.
    pub epochs: Option<usize>,
    /// Coefficients to start from, n x t row-major, in units of the scaled targets.
    pub warm_start: Option<Vec<f64>>,
    /// Seconds of the process after which to stop.
    pub time_limit: Option<f64>,
}

/// Rows of a coordinate block for `n` rows: a hundredth of them, within bounds.
///
/// ```
/// use nystream_dataflows::solve::blockcd::block_rows;
/// assert!(block_rows(1_000_000) > block_rows(100_000));
/// assert_eq!(block_rows(10), 10);
/// ```
pub fn block_rows(n: usize) -> usize {
    (n / 100).clamp(BLOCK_ROWS.0, BLOCK_ROWS.1).min(n.max(1))
}

/// Rank of a block's Nystrom approximation for `n` rows: at most half the block.
pub fn block_rank(n: usize) -> usize {
    RANK.min(block_rows(n).div_ceil(2))
}

/// Weight and weighted target sums of every row, by its features.
struct TargetScan {
    feed: Feed,
    chunk: Chunk,
    code: TargetCode,
    out: Writer,
}

impl Scan for TargetScan {
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        let (raw, mut y) = (self.chunk.target_width, vec![0.0; self.code.width()]);
        for i in 0..self.chunk.rows() {
            self.code.encode(&self.chunk.targets[i * raw..(i + 1) * raw], &mut y);
            self.out.bytes(&feature_key(view(&self.chunk), i));
            self.out.ids(&self.chunk.ids[i..=i]);
            self.out.f64s(&[self.chunk.weights[i]]);
            self.out.f64s(&y);
        }
        Ok(Step::More { rows: self.chunk.rows() as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(vec![Outgoing { key: 0, bytes: self.out.0 }])
    }
}

/// Square roots of the centers' weights, and W^1/2 ybar (n x t).
struct Targets {
    roots: Vec<f64>,
    scaled: Mat<f64>,
}

/// The targets of the centers: rows of equal features are added in the order of their ids.
fn targets<T: Entry>(
    session: &mut Session<'_>,
    store: &RowStore,
    job: &BlockJob<'_, T>,
) -> Result<Arc<Targets>, StageError> {
    let scan = TargetScan {
        feed: store.feed(Role::Training),
        chunk: Chunk::default(),
        code: job.code.clone(),
        out: Writer::default(),
    };
    let parcels = pass(session, "targets", scan, Gather::default(), Audience::Leaders)?;
    session.try_once(|| {
        let (n, t) = (job.centers.len(), job.code.width());
        let place: BTreeMap<[u8; 32], usize> = (0..n).map(|i| (feature_key(job.centers.view(), i), i)).collect();
        let mut rows: Vec<(usize, RowId, f64, Vec<f64>)> = Vec::new();
        for parcel in &parcels {
            let mut from = Reader(&parcel.bytes);
            while !from.is_empty() {
                let key = <[u8; 32]>::try_from(from.bytes()?).ok();
                let at = key.and_then(|key| place.get(&key).copied());
                let (ids, weight, y) = (from.ids()?, from.f64s()?, from.f64s()?);
                match (at, ids.first(), weight.first()) {
                    (Some(at), Some(id), Some(weight)) if y.len() == t => {
                        rows.push((at, *id, job.weight_scale * weight, y));
                    }
                    _ => return Err(StageError::Internal("a row is not among the centers".into())),
                }
            }
        }
        rows.sort_by_key(|(at, id, _, _)| (*at, *id));
        let (mut weights, mut sums) = (vec![0.0; n], Mat::<f64>::zeros(n, t));
        for (at, _, weight, y) in &rows {
            weights[*at] += weight;
            (0..t).for_each(|c| sums[(*at, c)] += weight * y[c]);
        }
        let roots: Vec<f64> = weights.iter().map(|w| w.sqrt()).collect();
        // W^1/2 ybar = W^-1/2 sum w y; a center without weight has no equation of its own.
        let scaled = Mat::from_fn(n, t, |i, c| if roots[i] > 0.0 { sums[(i, c)] / roots[i] } else { 0.0 });
        Ok(Targets { roots, scaled })
    })
}

struct FullOperator<'a, 'w, T: Entry> {
    session: &'a mut Session<'w>,
    job: &'a BlockJob<'a, T>,
    rows: Arc<RowBuf>,
    /// Every [`COLUMN_BLOCK`] centers packed by themselves.
    columns: Arc<Vec<Tiles<T>>>,
    roots: Arc<Targets>,
    out_of_time: &'a Cell<bool>,
}

impl<T: Entry> BlockOperator for FullOperator<'_, '_, T> {
    type Error = StageError;

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn block_times(&mut self, block: &[usize], z: MatRef<'_, f64>) -> Result<Mat<f64>, StageError> {
        let (b, n, t) = (block.len(), self.rows.len(), z.ncols());
        let mine = Arc::new(RowBuf::gather(self.rows.view(), block));
        let roots = &self.roots.roots;
        let v: Vec<f64> = (0..n).flat_map(|i| (0..t).map(move |j| roots[i] * z[(i, j)])).collect();
        let columns = Arc::clone(&self.columns);
        let process = Arc::clone(&self.session.process);
        let mut scratch = TileScratch::default();
        let sums = block_sums(self.session, "block coordinates", columns.len() as u64, b * t, move |unit| {
            let start = unit as usize * COLUMN_BLOCK;
            let tiles = &columns[unit as usize];
            let mut out = vec![0.0; b * t];
            tiles.k_v(mine.view(), &v[start * t..(start + tiles.centers()) * t], t, &mut scratch, &mut out);
            let entries = (b * tiles.centers()) as u64;
            process.count(entries, entries * 2 * t as u64);
            out
        })?;
        Ok(Mat::from_fn(b, t, |k, j| roots[block[k]] * sums[k * t + j]))
    }

    fn block_matrix(&mut self, block: &[usize]) -> Result<Mat<f64>, StageError> {
        let (job, rows, roots) = (self.job, &self.rows, &self.roots.roots);
        let matrix = self.session.try_once(|| {
            let mine = RowBuf::gather(rows.view(), block);
            let k = symmetric_kernel_matrix(job.kernel, mine.view(), &[], job.simd)
                .map_err(|e| StageError::Numeric(e.to_string()))?;
            Ok(Mat::from_fn(block.len(), block.len(), |i, j| roots[block[i]] * k[(i, j)] * roots[block[j]]))
        })?;
        // One clock decides for all workers.
        self.out_of_time.set(self.out_of_time.get() || over_time(self.session, job.time_limit)?);
        Ok((*matrix).clone())
    }
}

/// Solves; the result is the same on every worker. The coefficients are n x t row-major for n distinct rows, in units of the scaled targets. A limit of epochs
/// or time is no error: [`Solved::stopped`] tells.
///
/// ```
/// use nystream_dataflows::dictionary::pool::{Columns, PoolRule, gather_pool};
/// use nystream_dataflows::{solve::blockcd::{BlockJob, solve}, targets::TargetCode};
/// use nystream_hashing::StreamKey;
/// use nystream_kernels::{kernel::{Family, Kernel}, tile::{SimdPath, Tiles}};
/// # use nystream_dataflows::engine::{Process, SilentProgress, feed::RowStore, run};
/// # use nystream_datasets::{Catalog, ColumnSummary, Encoder, EncoderOptions, Role, Sources};
/// # use std::sync::Arc;
/// # let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=300&d=1"])?)?;
/// # let summary = |info| ColumnSummary { count: 300, sd: 0.6, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
/// # let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
/// # let encoder = Arc::new(Encoder::fit(&summaries, &EncoderOptions { targets: vec!["y".into()], ..Default::default() })?);
/// # let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// # let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// // As in the example of `RowStore`, with 300 rows.
/// let results = run(&process, communication, move |session| {
/// #   let (peers, index, process) = (session.peers(), session.index(), Arc::clone(&session.process));
/// #   let store = RowStore::new(&catalog, Arc::clone(&encoder), peers, index, process);
///     // A pool of no leading zero bits is every row.
///     let rule = PoolRule::all(StreamKey::new(0, "example", 0), 0);
///     let pool = gather_pool(session, "rows", store.feed(Role::Training), rule, Columns::Features)?;
///     let centers = pool.gather(&pool.distinct()).rows;
///     let (simd, kernel) = (SimdPath::detect(), Kernel::new(Family::Matern32, 0.5));
///     let tiles = session.once(|| Tiles::<f64>::new(&kernel, centers.view(), &[], simd).unwrap());
///     let code = TargetCode { names: vec!["y".into()], classes: vec![], centres: vec![0.0], exponents: vec![3] };
///     solve(session, &store, &BlockJob {
///         tiles: &tiles,
///         centers: &centers,
///         kernel: &kernel,
///         simd,
///         code: &code,
///         ridge: 1e-3,
///         weight_scale: 1.0,
///         weight_sum: 300.0,
///         seed: 0,
///         tolerance: 1e-4,
///         epochs: None,
///         warm_start: None,
///         time_limit: None,
///     })
/// }).unwrap();
/// let solved = results[0].clone().unwrap();
/// assert_eq!((solved.coefficients.len(), solved.ridges), (300, vec![1e-3]));
/// assert!(solved.residuals[0] <= 1e-4);
/// assert_eq!(solved.coefficients, results[1].clone().unwrap().coefficients);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Data`] for rows that cannot be read or encoded, [`StageError::Numeric`] for a kernel block that is not positive definite,
/// [`StageError::Internal`] for a damaged exchange; the same on every worker.
pub fn solve<T: Entry>(
    session: &mut Session<'_>,
    store: &RowStore,
    job: &BlockJob<'_, T>,
) -> Result<Solved, StageError> {
    let (n, t) = (job.centers.len(), job.code.width());
    let targets = targets(session, store, job)?;
    let setup = session.try_once(|| {
        let numeric = |e: nystream_kernels::tile::TileError| StageError::Numeric(e.to_string());
        let pack = |start: usize| {
            let rows = job.centers.view().slice(start, (start + COLUMN_BLOCK).min(n));
            Tiles::new(job.kernel, rows, &[], job.simd).map_err(numeric)
        };
        let columns = (0..n).step_by(COLUMN_BLOCK).map(pack).collect::<Result<Vec<_>, _>>()?;
        Ok((Arc::new(job.centers.clone()), Arc::new(columns)))
    })?;
    let ridge_matrix = job.ridge * job.weight_sum;
    let block = block_rows(n);
    let defaults = BlockParams::default();
    let params = BlockParams {
        block,
        rank: block_rank(n),
        tolerance: job.tolerance,
        max_epochs: job.epochs.unwrap_or(defaults.max_epochs),
        seed: job.seed,
        ..defaults
    };
    let roots = &targets.roots;
    let start = job.warm_start.as_ref().map(|alpha| {
        let v = |i: usize, j: usize| if roots[i] > 0.0 { alpha[i * t + j] / roots[i] } else { 0.0 };
        BlockState::from_coefficients(Mat::from_fn(n, t, v).as_ref())
    });
    let iterates = Iterates::new(session, GROUP);
    let found = recall(session, GROUP, Audience::Everyone)?;
    let kept: Option<BlockState> = found.iter().flatten().next().and_then(|frame| decode(&frame.bytes));
    let start = kept.filter(|state| state.fits(n, t)).or(start);
    let out_of_time = Cell::new(false);
    let mut operator = FullOperator {
        session,
        job,
        rows: Arc::clone(&setup.0),
        columns: Arc::clone(&setup.1),
        roots: Arc::clone(&targets),
        out_of_time: &out_of_time,
    };
    let process = Arc::clone(&operator.session.process);
    let watch = |seen: &BlockProgress<'_>| {
        iterates.store(24 * (n * t) as u64, || vec![Outgoing { key: 0, bytes: encode(seen.state) }]);
        process.watch.iterated(seen.iteration as u64, seen.estimates.iter().copied().fold(0.0, f64::max));
        if out_of_time.get() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let y = targets.scaled.as_ref();
    let (v, info) = blockcd(&mut operator, y, ridge_matrix, &params, start, watch).map_err(solve_error)?;
    if operator.session.is_first() {
        let process = &operator.session.process;
        let entry = process.entry_flops.load(Ordering::Relaxed) as f64;
        process.count_algebra(info.iterations as f64 * block_algebra(block as f64, params.rank as f64, entry));
    }
    let residuals = normal_residual(&mut operator, y, v.as_ref(), ridge_matrix, block)?;
    let alpha = Mat::from_fn(n, t, |i, j| roots[i] * v[(i, j)]);
    let own: Vec<String> = info.residuals.iter().map(|r| format!("{r:.2e}")).collect();
    Ok(Solved {
        coefficients: row_major(alpha.as_ref()),
        ridges: vec![job.ridge; t],
        residuals,
        effective_dimension: None,
        // Every row is a center: nothing is approximated.
        trace_error: Some(0.0),
        variance: None,
        rounding: 0.0,
        iterations: Some(info.iterations),
        stopped: info.stopped,
        passes: 1,
        products: None,
        notes: vec![format!(
            "blockcd: {} iterations on blocks of {block} rows, {:.1} epochs of the full kernel matrix, ||(K + Lambda I) w - y|| / ||y|| = {}, which --tolerance bounds",
            info.iterations,
            info.epochs,
            own.join(", ")
        )],
    })
}

/// The residual that every solver reports: ||K^T W (y - K alpha) - Lambda K alpha|| / ||K^T W y||, two more epochs of
/// kernel entries. With K' = W^1/2 K W^1/2 and r = y' - (K' + Lambda) v it is ||W^-1/2 K' r|| / ||W^-1/2 K' y'||.
fn normal_residual<T: Entry>(
    operator: &mut FullOperator<'_, '_, T>,
    y: MatRef<'_, f64>,
    v: MatRef<'_, f64>,
    ridge: f64,
    block: usize,
) -> Result<Vec<f64>, StageError> {
    let (n, t) = (y.nrows(), y.ncols());
    let targets = Arc::clone(&operator.roots);
    let both = Mat::from_fn(n, 2 * t, |i, j| if j < t { v[(i, j)] } else { y[(i, j - t)] });
    let images = full_product(operator, both.as_ref(), block)?;
    let r = Mat::from_fn(n, t, |i, j| y[(i, j)] - images[(i, j)] - ridge * v[(i, j)]);
    let r = full_product(operator, r.as_ref(), block)?;
    let norm = |m: &Mat<f64>, j: usize| {
        let value = |i: usize| if targets.roots[i] > 0.0 { m[(i, j)] / targets.roots[i] } else { 0.0 };
        (0..n).map(|i| value(i).powi(2)).sum::<f64>().sqrt()
    };
    Ok((0..t)
        .map(|j| {
            let reference = norm(&images, t + j);
            if reference > 0.0 { norm(&r, j) / reference } else { norm(&r, j) }
        })
        .collect())
}

fn full_product<T: Entry>(
    operator: &mut FullOperator<'_, '_, T>,
    z: MatRef<'_, f64>,
    block: usize,
) -> Result<Mat<f64>, StageError> {
    let (n, t) = (z.nrows(), z.ncols());
    let mut out = Mat::zeros(n, t);
    for start in (0..n).step_by(block) {
        let rows: Vec<usize> = (start..(start + block).min(n)).collect();
        let part = operator.block_times(&rows, z)?;
        (0..t).for_each(|j| rows.iter().enumerate().for_each(|(k, i)| out[(*i, j)] = part[(k, j)]));
    }
    Ok(out)
}
