//! One pass of the exact Gram: K_nm^T W K_nm and K_nm^T W y in integers, order-free.
//!
//! The workers of a process add into one shared accumulator; processes then exchange its pieces: each piece is
//! summed by its owner and given to the first worker of every process. Cost: n m^2 flops, 16 m^2 / 2 bytes a process, and the same over the
//! network when there are several.

use crate::engine::checkpoint::{Parts, begin_parts, digest, over};
use crate::engine::exchange::{Audience, Outgoing, Reducer, Scan, Step, pass};
use crate::engine::feed::{Feed, view};
use crate::engine::leases::Leased;
use crate::engine::session::{Process, Session};
use crate::error::StageError;
use crate::targets::TargetCode;
use nystream_datasets::Chunk;
use nystream_kernels::gram::{ExactGram, GramScratch, GramShape, GramSums};
use nystream_kernels::tile::{Entry, TileScratch, Tiles};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// What the workers of a process have of the pass together: one part, since they add into one Gram.
struct Shared {
    /// Held to read while a worker adds a chunk, and to write while the sums are stored: they are then those of the blocks that are done.
    adding: RwLock<()>,
    parts: Mutex<Option<Parts>>,
}

impl Shared {
    /// A chunk of these blocks is done.
    fn mark(&self, blocks: std::ops::Range<u64>) {
        if let Some(parts) = &mut *self.parts.lock().unwrap_or_else(PoisonError::into_inner) {
            parts.done(blocks);
        }
    }

    /// Stores what there is, when that is due.
    fn store(&self, gram: &ExactGram) {
        let due = || {
            let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
            parts.as_ref().is_some_and(|parts| parts.due(stored_bytes(gram)))
        };
        if !due() {
            return;
        }
        let _nobody_adds = self.adding.write().unwrap_or_else(PoisonError::into_inner);
        // Another worker may just have done so.
        if due()
            && let Some(parts) = &*self.parts.lock().unwrap_or_else(PoisonError::into_inner)
        {
            write(parts, gram);
        }
    }

    /// The pass is over: what this process has is stored where it took long enough.
    fn over(&self, gram: &ExactGram) {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(parts) = parts.filter(|parts| parts.worth(stored_bytes(gram))) {
            write(&parts, gram);
        }
    }
}

/// About what a stored Gram takes: seven of the sixteen bytes of an integer.
fn stored_bytes(gram: &ExactGram) -> u64 {
    ExactGram::memory_bytes(gram.shape()) as u64 / 16 * 7
}

fn write(parts: &Parts, gram: &ExactGram) {
    let pieces = gram.pieces();
    // A piece that cannot be exported leaves the entry too short, which is then not written.
    let mut frames =
        (0..pieces).map_while(|piece| gram.export(piece).ok().map(|bytes| Outgoing { key: piece as u64, bytes }));
    parts.save(pieces as u32, &mut frames);
}

/// How rows become what an exact Gram takes: kernel entries, scaled targets, roots of relative weights.
#[derive(Clone)]
pub(crate) struct PanelJob<T: Entry> {
    /// Packed centers.
    pub tiles: Arc<Tiles<T>>,
    /// Targets.
    pub code: TargetCode,
    /// Bound of the weights, positive.
    pub weight_max: f64,
    /// Whether rows carry weights other than one.
    pub weighted: bool,
}

/// What is done with rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// They are added.
    Add,
    /// They are taken away again, bit for bit.
    Subtract,
    /// They are added to the sums of the first so many centers alone ([`ExactGram::add_columns`]).
    Columns(usize),
}

/// The working memory of one worker for [`PanelJob`]s.
pub(crate) struct Panels<T: Entry> {
    pub job: PanelJob<T>,
    tile_scratch: TileScratch<T>,
    gram_scratch: GramScratch,
    panel: Vec<T>,
    targets: Vec<f64>,
    roots: Vec<f64>,
}

impl<T: Entry + Into<f64> + Default> Panels<T> {
    pub(crate) fn new(job: PanelJob<T>) -> Self {
        let (tile_scratch, gram_scratch) = (TileScratch::default(), GramScratch::default());
        Panels { job, tile_scratch, gram_scratch, panel: Vec::new(), targets: Vec::new(), roots: Vec::new() }
    }

    /// Adds the rows of `chunk` to `gram`, or takes them away.
    ///
    /// # Errors
    /// [`StageError::Numeric`] for a kernel entry or a target beyond its range.
    pub(crate) fn apply(&mut self, gram: &ExactGram, chunk: &Chunk, change: Change) -> Result<(), StageError> {
        let PanelJob { tiles, code, weight_max, weighted } = &self.job;
        let (stride, t) = (tiles.stride(), code.width());
        let (rows, raw, step) = (chunk.rows(), chunk.target_width, panel_rows(stride));
        for start in (0..rows).step_by(step) {
            let end = (start + step).min(rows);
            let count = end - start;
            self.panel.resize(count * stride, T::default());
            tiles.block(view(chunk).slice(start, end), &mut self.tile_scratch, &mut self.panel);
            self.targets.resize(count * t, 0.0);
            for i in 0..count {
                let row = &chunk.targets[(start + i) * raw..(start + i + 1) * raw];
                code.encode(row, &mut self.targets[i * t..(i + 1) * t]);
            }
            // Into the fixed point's range, see `unscaled`.
            let headroom = 2f64.powi(-code.headroom_log2());
            self.targets.iter_mut().for_each(|y| *y *= headroom);
            let roots = weighted.then(|| {
                self.roots.clear();
                self.roots.extend(chunk.weights[start..end].iter().map(|w| (w / weight_max).sqrt()));
                self.roots.as_slice()
            });
            let (scratch, panel, targets) = (&mut self.gram_scratch, &self.panel, &self.targets);
            match change {
                Change::Add => gram.add(scratch, panel, stride, count, roots, targets),
                Change::Subtract => gram.subtract(scratch, panel, stride, count, roots, targets),
                Change::Columns(columns) => gram.add_columns(scratch, panel, stride, count, roots, targets, columns),
            }
            .map_err(|e| StageError::Numeric(e.to_string()))?;
        }
        Ok(())
    }
}

struct GramScan<T: Entry> {
    feed: Feed,
    chunk: Chunk,
    panels: Panels<T>,
    gram: Arc<ExactGram>,
    process: Arc<Process>,
    /// Seconds of the process after which this worker reads no more.
    time_limit: Option<f64>,
    begun: bool,
    shared: Arc<Shared>,
}

impl<T: Entry + Into<f64> + Default> Scan for GramScan<T> {
    fn step(&mut self) -> Result<Step, StageError> {
        // Some rows are always summed, so that there is a model to save.
        let late = self.begun && self.time_limit.is_some_and(|limit| self.process.elapsed() > limit);
        if late || !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        self.begun = true;
        let adding = self.shared.adding.read().unwrap_or_else(PoisonError::into_inner);
        self.panels.apply(&self.gram, &self.chunk, Change::Add)?;
        let (rows, m, t) = (self.chunk.rows(), self.panels.job.tiles.centers(), self.panels.job.code.width());
        self.process.count((rows * m) as u64, (rows * m * (m + 2 * t)) as u64);
        let blocks = self.feed.blocks(&self.chunk);
        // The sums and the blocks that are done change together.
        self.shared.mark(blocks);
        drop(adding);
        self.shared.store(&self.gram);
        Ok(Step::More { rows: rows as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(Vec::new())
    }

    fn leased(&mut self) -> Option<&mut dyn Leased> {
        Some(&mut self.feed)
    }
}

/// Sums the rows of `feed` into `gram`, in this process, as `change` says: every worker calls this in step with the same ones but for its own feed.
///
/// # Errors
/// [`StageError::Data`] for rows that cannot be read; [`StageError::Numeric`] as for [`exact_gram`]; the same on every worker.
pub(crate) fn sum_rows<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    name: &str,
    feed: Feed,
    job: PanelJob<T>,
    gram: &Arc<ExactGram>,
    change: Change,
) -> Result<(), StageError> {
    let (panels, gram, process) = (Panels::new(job), Arc::clone(gram), Arc::clone(&session.process));
    let scan = RowScan { feed, chunk: Chunk::default(), panels, gram, change, process };
    pass(session, name, scan, crate::engine::exchange::Gather::default(), Audience::Everyone).map(|_| ())
}

struct RowScan<T: Entry> {
    feed: Feed,
    chunk: Chunk,
    panels: Panels<T>,
    gram: Arc<ExactGram>,
    change: Change,
    process: Arc<Process>,
}

impl<T: Entry + Into<f64> + Default> Scan for RowScan<T> {
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        self.panels.apply(&self.gram, &self.chunk, self.change)?;
        let (rows, m, t) = (self.chunk.rows(), self.panels.job.tiles.centers(), self.panels.job.code.width());
        let columns = if let Change::Columns(columns) = self.change { columns } else { m };
        let pairs = columns * (2 * m - columns) + 2 * columns * t;
        self.process.count((rows * m) as u64, (rows * pairs) as u64);
        Ok(Step::More { rows: rows as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(Vec::new())
    }
}

/// Sums the pieces of all processes.
#[derive(Default)]
struct PieceReducer {
    pieces: BTreeMap<u64, Vec<Vec<u8>>>,
}

impl Reducer for PieceReducer {
    fn absorb(&mut self, key: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        self.pieces.entry(key).or_default().push(bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let mut out = Vec::new();
        for (key, parts) in std::mem::take(&mut self.pieces) {
            let sum = ExactGram::sum_pieces(key as usize, &parts).map_err(internal)?;
            out.push(Outgoing { key, bytes: sum });
        }
        Ok(out)
    }
}

fn internal(error: impl std::fmt::Display) -> StageError {
    StageError::Internal(error.to_string())
}

/// What a Gram pass is made of.
pub struct GramJob<'a, T: Entry> {
    /// Packed centers.
    pub tiles: &'a Arc<Tiles<T>>,
    /// Targets.
    pub code: &'a TargetCode,
    /// Shape of the accumulator.
    pub shape: GramShape,
    /// Bound of the weights, positive; entries carry sqrt(w / w_max).
    pub weight_max: f64,
    /// Whether rows carry weights other than one.
    pub weighted: bool,
    /// Seconds of the process after which workers stop reading: the sums are then those of the rows they have seen.
    pub time_limit: Option<f64>,
}

/// Runs the pass over `feed`; the sums are on every worker (shared per process): K_nm^T W K_nm, m x m, and K_nm^T W y', m x t, of the scaled
/// targets of [`GramJob::code`]. Weights in the sums are relative to `weight_max`. No target may be null.
///
/// ```
/// use nystream_dataflows::{nystrom::{GramJob, exact_gram}, targets::TargetCode};
/// use nystream_kernels::gram::{GramShape, Precision};
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::RowBuf, tile::{SimdPath, Tiles}};
/// # use nystream_dataflows::engine::{Process, SilentProgress, feed::RowStore, run};
/// # use nystream_datasets::{Catalog, ColumnSummary, Encoder, EncoderOptions, Role, Sources};
/// # use std::sync::Arc;
/// # let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=1"])?)?;
/// # let summary = |info| ColumnSummary { count: 5000, sd: 0.6, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
/// # let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
/// # let encoder = Arc::new(Encoder::fit(&summaries, &EncoderOptions { targets: vec!["y".into()], ..Default::default() })?);
/// let gram = move |workers| {
/// #   let (catalog, encoder) = (catalog.clone(), Arc::clone(&encoder));
/// #   let process = Process::new(workers, 1, 0, Box::new(SilentProgress));
/// #   let communication = timely::CommunicationConfig::Process(workers).try_build().unwrap();
///     // `catalog`, `encoder` and `store` are those of the example of `RowStore`: 5,000 rows.
///     let results = run(&process, communication, move |session| {
/// #       let (peers, index, process) = (session.peers(), session.index(), Arc::clone(&session.process));
/// #       let store = RowStore::new(&catalog, Arc::clone(&encoder), peers, index, process);
///         let centers = RowBuf { numeric: vec![-1.0, 0.0, 1.0], numeric_width: 1, codes: vec![], code_width: 0 };
///         let kernel = Kernel::new(Family::Gaussian, 0.5);
///         let tiles = session.once(|| Tiles::<f32>::new(&kernel, centers.view(), &[], SimdPath::detect()).unwrap());
///         // y' = y / 8
///         let code = TargetCode { names: vec!["y".into()], classes: vec![], centres: vec![0.0], exponents: vec![3] };
///         let shape = GramShape { centers: 3, targets: 1, precision: Precision::Single, scale_log2: 0 };
///         let job = GramJob { tiles: &tiles, code: &code, shape, weight_max: 1.0, weighted: false, time_limit: None };
///         exact_gram(session, "gram", store.feed(Role::Training), &job)
///     });
///     results.unwrap()[0].clone().unwrap()
/// };
/// let sums = gram(1);
/// assert_eq!((sums.gram.nrows(), sums.cross.ncols(), sums.rows), (3, 1, 5000));
/// assert_eq!(sums.gram[(0, 1)], sums.gram[(1, 0)]);
/// // Integers have no order: not a bit depends on who summed what.
/// assert_eq!(sums, gram(2));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Data`] for rows that cannot be read or encoded; [`StageError::Numeric`] for a kernel entry beyond 2^`scale_log2` or a target
/// beyond the headroom of its code; the same on every worker.
pub fn exact_gram<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    name: &str,
    feed: Feed,
    job: &GramJob<'_, T>,
) -> Result<Arc<GramSums>, StageError> {
    let gram = session.once(|| ExactGram::new(job.shape));
    let shape = serde_json::to_vec(&job.shape).unwrap_or_default();
    let digest = digest(session, &[&shape]);
    // Pieces come in their order.
    let mut piece = 0;
    let begun = begin_parts(session, (name, &digest), feed.catalog(), true, &mut |frame| {
        gram.import_add(piece, &frame.bytes).map_err(internal)?;
        piece = (piece + 1) % gram.pieces();
        Ok(())
    })?;
    let feed = begun.feed(feed);
    let (group, mut parts) = (begun.group, begun.parts);
    let shared = session.once(|| Shared { adding: RwLock::new(()), parts: Mutex::new(parts.take()) });
    let panels = Panels::new(PanelJob {
        tiles: Arc::clone(job.tiles),
        code: job.code.clone(),
        weight_max: job.weight_max,
        weighted: job.weighted,
    });
    let scan = GramScan {
        shared: Arc::clone(&shared),
        feed,
        chunk: Chunk::default(),
        panels,
        gram: Arc::clone(&gram),
        process: Arc::clone(&session.process),
        time_limit: job.time_limit,
        begun: false,
    };
    pass(session, name, scan, crate::engine::exchange::Gather::default(), Audience::Everyone)?;
    if session.is_leader() {
        shared.over(&gram);
    }
    over(session, group);
    let total = total(session, &gram)?;
    Ok(session.once(|| unscaled(total.finish(), job.code)))
}

/// The sums of all processes, of which each has `gram`, shared by its workers, who are done with it: each piece is summed by its owner and given to all. Every worker calls this in step.
///
/// # Errors
/// [`StageError::Internal`] for a damaged exchange, the same on every worker.
pub(crate) fn total(session: &mut Session<'_>, gram: &Arc<ExactGram>) -> Result<Arc<ExactGram>, StageError> {
    if session.process.processes() == 1 {
        return Ok(Arc::clone(gram));
    }
    let outgoing = if session.is_leader() {
        (0..gram.pieces())
            .map(|piece| Ok(Outgoing { key: piece as u64, bytes: gram.export(piece).map_err(internal)? }))
            .collect::<Result<Vec<_>, StageError>>()?
    } else {
        Vec::new()
    };
    let sums = pass(session, "gram: exchange", outgoing, PieceReducer::default(), Audience::Leaders)?;
    session.try_once(|| {
        let total = ExactGram::new(gram.shape());
        for piece in &sums {
            total.import_add(piece.key as usize, &piece.bytes).map_err(internal)?;
        }
        Ok(total)
    })
}

/// The sums of the scaled targets: the fixed point holds them divided by 2^headroom. Powers of two lose no bits.
pub(crate) fn unscaled(mut sums: GramSums, code: &TargetCode) -> GramSums {
    let scale = 2f64.powi(code.headroom_log2());
    sums.cross *= faer::Scale(scale);
    sums.target_sums.iter_mut().for_each(|sum| *sum *= scale);
    sums.target_squares.iter_mut().for_each(|sum| *sum *= scale * scale);
    sums
}

/// Rows of a kernel panel of `stride` entries a row: as many as fit in 32 MiB of f32, between 512 and 2,048, in whole exact panels. Sums are
/// exact, so this shapes nothing.
///
/// ```
/// use nystream_dataflows::nystrom::gram::panel_rows;
/// assert_eq!([100, 8192, 100_000].map(panel_rows), [2048, 1024, 512]);
/// ```
pub fn panel_rows(stride: usize) -> usize {
    let fit = (32 << 20) / (4 * stride.max(1));
    (fit / 512 * 512).clamp(512, 2048)
}
