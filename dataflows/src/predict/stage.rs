//! The stage: predictions for every row of a data set, in the order of the data, to one Parquet file a process.
//!
//! Each worker reads its own blocks and writes its own row groups; nothing but counts is exchanged. The output appears when all rows are written
//! and the bad ones are within bounds, and its bytes are the same for any number of workers. Of several processes none publishes its part before all have told that theirs are complete
//! and durable; where one cannot publish its part then, the others take theirs back. Only processes that die in the moment between leave some parts without the others. Where files are
//! spread over hosts, a part has the rows that its process reads, in the order of the data, and a row is in one part.
//!
//! Memory of a worker: four decoded batches of at most 8,192 rows, one row group being written, a panel of the variance factor. It is planned
//! from the footers and refused where it does not fit, before anything is read or written.

use super::applied::Applied;
use super::columns::Columns;
use super::function::{Function, VarianceBasis};
use super::layout::{Layout, blocks_per_batch};
use super::scan::{Decode, NAMED_BAD_ROWS, Outputs, PredictScan, Shared};
use crate::engine::bytes::Reader;
use crate::engine::exchange::{Audience, Gather, agree, pass};
use crate::engine::kept_columns;
use crate::engine::session::{Process, Session};
use crate::error::StageError;
use crate::matvec::grid::deal_rows;
use crate::matvec::products::{ProductLimit, ProductReport, ProductTerms, product_terms};
use crate::plan::{ApplyPlan, MemoryPlan, Reading, Room, Writing};
use nystream_datasets::atomic::{SealedFile, commit_all, place};
use nystream_datasets::kept::KeptColumns;
use nystream_datasets::table::TableWriter;
use nystream_datasets::{BLOCK_ROWS, BlockReader, Catalog, ColumnBytes, Encoder, ReadOptions, Role};
use nystream_kernels::gram::Precision;
use nystream_kernels::tile::Entry;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// What is to be predicted besides the rows themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PredictOptions {
    /// Input columns to carry over, in this order; `*` is all.
    pub keep: Vec<String>,
    /// Whether to add predictive variances (numbers only).
    pub variance: bool,
    /// What may be off in the sums K V over all rows, where that saves kernel entries.
    pub products: ProductLimit,
    /// Bad rows allowed; their predictions are null.
    pub max_bad_rows: u64,
    /// The Parquet file to write.
    pub out: PathBuf,
    /// What the process may take.
    pub room: Room,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// Rows written: all rows of the data.
    pub rows: u64,
    /// Those with null predictions.
    pub bad: u64,
    /// Columns written, in order.
    pub columns: Vec<String>,
    /// Memory of a process, as it was planned.
    pub memory: MemoryPlan,
    /// How products were formed, where sparse ones were considered.
    pub products: Option<ProductReport>,
}

/// The file that this process writes: `out` itself, or with several processes a numbered part in the folder `out`.
pub fn part_path(out: &Path, process: &Process) -> PathBuf {
    match process.processes() {
        1 => out.to_owned(),
        _ => out.join(part_name(process.index())),
    }
}

/// The name of the part that process `index` writes.
pub fn part_name(index: usize) -> String {
    format!("part-{index:05}.parquet")
}

/// A kept value in a batch, at least, and what a batch holds for an output. They only shape batches, as do the footers of the data: nothing else does, so that
/// batches are the same everywhere.
const KEPT_BYTES: u64 = 16;
const OUTPUT_BYTES: usize = 24;

/// Predicts every row of `catalog` into `options.out`; all workers call this in step and each gets the result. With several processes
/// `options.out` is a folder, which must be there, and each process writes [`part_path`] in it: the parts in the order of their names hold the rows in the
/// order of the data, or where files are spread over hosts each the rows that its process reads.
///
/// Columns: the kept ones; `prediction`, or `prediction_<target>` for several targets; for classes the label in
/// `prediction` and `probability_<label>` (logistic loss) or `score_<label>` (squared loss); `variance` or `variance_<target>`.
///
/// ```
/// use nystream_dataflows::engine::{Process, SilentProgress, run};
/// use nystream_dataflows::job::Loss;
/// use nystream_dataflows::predict::{Function, PredictOptions, predict};
/// use nystream_dataflows::targets::TargetCode;
/// use nystream_datasets::{Catalog, ColumnSummary, Encoder, EncoderOptions, Sources};
/// use nystream_kernels::{gram::Precision, kernel::{Family, Kernel}, rows::RowBuf, tile::SimdPath};
/// use std::sync::Arc;
///
/// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=1"])?)?;
/// let summary = |info| ColumnSummary { count: 5000, sd: 0.6, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
/// let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
/// let encoder = Encoder::fit(&summaries, &EncoderOptions { targets: vec!["y".into()], ..Default::default() })?;
/// let function = Function {
///     kernel: Kernel::new(Family::Gaussian, 1.0),
///     centers: RowBuf { numeric: vec![-1.0, 1.0], numeric_width: 1, codes: vec![], code_width: 0 },
///     coefficients: vec![0.5, -0.5],
///     code: TargetCode { names: vec!["y".into()], classes: vec![], centres: vec![0.0], exponents: vec![0] },
///     loss: Loss::Squared,
///     precision: Precision::Single,
///     simd: SimdPath::detect(),
///     variance: None,
/// };
/// let folder = tempfile::tempdir().unwrap();
/// let options = PredictOptions { keep: vec!["y".into()], out: folder.path().join("p.parquet"), ..Default::default() };
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let (encoder, function) = (Arc::new(encoder), Arc::new(function));
/// let results = run(&process, communication, move |session| {
///     predict(session, &catalog, &encoder, &function, &options)
/// }).unwrap();
/// let predictions = results[0].clone().unwrap();
/// assert_eq!((predictions.rows, predictions.columns), (5000, vec!["y".to_string(), "prediction".to_string()]));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// * [`StageError::Usage`]: variances of classes or with a tolerance, a tolerance for a kernel that is no function of the distance, an output that is one of the inputs, a kept column with the name of a predicted one;
/// * [`StageError::Budget`]: a plan that `options.room` does not hold;
/// * [`StageError::Data`]: a missing or mistyped column, unreadable data, more than `max_bad_rows` bad rows, an output that cannot be written, a
///   function whose parts do not fit the encoder.
///
/// Nothing is left at `options.out` then.
pub fn predict(
    session: &mut Session<'_>,
    catalog: &Catalog,
    encoder: &Arc<Encoder>,
    function: &Arc<Function>,
    options: &PredictOptions,
) -> Result<Predictions, StageError> {
    let options = &PredictOptions { out: part_path(&options.out, &session.process), ..options.clone() };
    let (workers, processes) = (session.process.workers(), session.process.processes());
    let kept = kept_columns(session, catalog, &options.keep)?;
    let (peers, index) = (session.peers(), session.index());
    let prepared = session.try_once(|| {
        let layout = Layout::new(catalog, peers, index);
        let share =
            if catalog.is_spread() { layout.rows(catalog) } else { catalog.total_rows.div_ceil(processes as u64) };
        prepare(catalog, encoder, function, options, kept, (layout, share, workers))
    });
    let prepared = agree(session, prepared)?;
    if session.is_first() {
        let budget = options.room.budget;
        let centers = options.room.centers(function.centers());
        session.process.progress.say(&prepared.plan.summary(catalog.total_rows, centers, budget));
    }
    session.process.watch.plan(prepared.plan.memory.total());
    session.begin("predict", catalog.total_rows);
    let counts = match function.precision {
        Precision::Double => run_pass::<f64>(session, &prepared, options),
        _ => run_pass::<f32>(session, &prepared, options),
    };
    session.end();
    let take = || std::mem::take(&mut *prepared.shared.outputs.lock().unwrap_or_else(PoisonError::into_inner));
    // Every worker is past the pass: what it left behind goes here on failure, before anyone reports it.
    let Counts { rows, own, bad, named, products } = counts.inspect_err(|_| drop(take()))?;
    if bad > options.max_bad_rows {
        drop(take());
        return Err(StageError::Data(format!(
            "{bad} bad rows, and --max-bad-rows allows {}:\n{}\nmend them, or get null predictions for them with --max-bad-rows {bad}",
            options.max_bad_rows,
            named.join("\n")
        )));
    }
    let sealed = session.try_once(|| {
        let outputs = take();
        let table = outputs.table.ok_or_else(|| StageError::Internal("the output is not open".into()))?;
        let (written, sealed) = table.seal(outputs.parts.into_values().collect())?;
        if written != own || rows != catalog.total_rows {
            let total = catalog.total_rows;
            return Err(StageError::Internal(format!(
                "{written} rows were written of {own} predicted in this process; {rows} of {total} in all"
            )));
        }
        Ok(Mutex::new(sealed))
    });
    publish(session, sealed, &options.out)?;
    let columns = prepared.shared.decode.columns.names();
    Ok(Predictions { rows, bad, columns, memory: prepared.plan.memory.clone(), products })
}

/// Lets the complete output of every process appear, once all are complete.
fn publish(
    session: &mut Session<'_>,
    sealed: Result<Arc<Mutex<Option<SealedFile>>>, StageError>,
    out: &Path,
) -> Result<(), StageError> {
    let sealed = agree(session, sealed)?;
    let placed = session.try_once(|| {
        let sealed = sealed.lock().unwrap_or_else(PoisonError::into_inner).take();
        commit_all(sealed.into_iter().collect()).map_err(|e| StageError::Data(e.to_string()))
    });
    let here = placed.is_ok();
    agree(session, placed).map(drop).inspect_err(|_| {
        if here && session.is_leader() {
            // Another process has no part: what is there already would be taken for all. Nothing better can be done where it cannot be removed.
            let _ = std::fs::remove_file(out);
        }
    })
}

/// What the workers share, and how they read.
struct Prepared {
    shared: Shared,
    projection: Vec<usize>,
    read: ReadOptions,
    plan: ApplyPlan,
    /// Of sparse products, where they are considered.
    terms: Option<ProductTerms>,
}

fn prepare(
    catalog: &Catalog,
    encoder: &Arc<Encoder>,
    function: &Arc<Function>,
    options: &PredictOptions,
    kept: KeptColumns,
    (layout, share, workers): (Layout, u64, usize),
) -> Result<Prepared, StageError> {
    check(encoder, function, options.variance)?;
    let terms = terms(function, options, catalog.total_rows)?;
    let out = place(&options.out);
    if let Some(input) = catalog.files.iter().find(|file| place(&file.path) == out) {
        let path = input.path.display();
        return Err(StageError::Usage(format!("--out would overwrite the data file {path}: name another file")));
    }
    let mut projection = encoder.projection(catalog, Role::Features)?;
    let mut kept_at = Vec::new();
    for index in kept.indices() {
        kept_at.push(projection.iter().position(|known| *known == index).unwrap_or_else(|| {
            projection.push(index);
            projection.len() - 1
        }));
    }
    let indices = kept.indices();
    let total = |indices: &[usize], bytes: &dyn Fn(ColumnBytes) -> u64| {
        indices.iter().map(|index| bytes(catalog.column_bytes(*index))).fold(0, u64::saturating_add)
    };
    let row_bytes = (encoder.numeric_width() * 4 + encoder.code_width() * 2 + function.outputs() * OUTPUT_BYTES) as u64;
    let row_bytes = row_bytes.saturating_add(total(&indices, &|column| column.value.max(KEPT_BYTES)));
    let others: Vec<usize> = projection.iter().copied().filter(|index| !indices.contains(index)).collect();
    let row_bytes = row_bytes.saturating_add(total(&others, &|column| column.text));
    let row_bytes = usize::try_from(row_bytes).unwrap_or(usize::MAX);
    let read = ReadOptions { blocks_per_batch: blocks_per_batch(row_bytes), ..ReadOptions::default() };
    let columns = Columns::new(function, kept, options.variance)?;
    let reading = Reading {
        rows: Reading::rows_in_hand(read.blocks_per_batch * BLOCK_ROWS, catalog.total_rows, workers),
        decoded: total(&projection, &|column| column.value),
        pages: total(&projection, &|column| column.pages),
        fetched: catalog.fetched_bytes(&projection),
        targets: 0,
    };
    let writing = Writing {
        kept: total(&indices, &|column| column.value),
        columns: columns.schema().fields().len() as u64,
        text: total(&indices, &|column| column.text),
        group_rows: layout.group_rows(),
        rows: share,
    };
    let plan = options.room.model.predicting(reading, writing, options.variance, workers);
    plan.check(options.room.budget)?;
    let table = TableWriter::create(&options.out, columns.schema())?;
    let shared = Shared {
        catalog: catalog.clone(),
        function: Arc::clone(function),
        layout: Arc::new(layout),
        decode: Decode { encoder: Arc::clone(encoder), columns: Arc::new(columns), kept_at: kept_at.into() },
        outputs: Arc::new(Mutex::new(Outputs { table: Some(table), ..Outputs::default() })),
        out: options.out.clone(),
    };
    Ok(Prepared { shared, projection, read, plan, terms })
}

/// Why variances are refused where centers are shared.
pub const NO_SHARED_VARIANCE: &str = "--variance needs the whole model in each process, and here the processes share its centers: give more --memory, or --share-centers never";

/// The terms of sparse products, where they are considered: not with variances, which need every entry.
fn terms(function: &Function, options: &PredictOptions, rows: u64) -> Result<Option<ProductTerms>, StageError> {
    if options.variance && options.room.shard.is_some() {
        return Err(StageError::Usage(NO_SHARED_VARIANCE.into()));
    }
    match (options.variance, options.products.tolerance) {
        (true, Some(_)) => Err(StageError::Usage(
            "--variance needs every kernel entry, and --product-tolerance leaves some out: give one of them".into(),
        )),
        (true, None) => Ok(None),
        (false, _) => {
            let centers = options.room.centers(function.centers());
            let terms = product_terms(&function.kernel, options.products, (rows, centers), true)?;
            options.room.refuse_sparse(terms.is_some())?;
            Ok(terms)
        }
    }
}

/// Whether the parts of a function fit together: they come from a file.
fn check(encoder: &Encoder, function: &Function, variance: bool) -> Result<(), StageError> {
    let bad = |what: String| Err(StageError::Data(format!("the model is not usable: {what}")));
    let (numeric, codes) = (encoder.numeric_width(), encoder.code_width());
    let centers = &function.centers;
    if (numeric, codes) != (centers.numeric_width, centers.code_width) {
        return bad(format!(
            "its encoder makes {numeric} numeric and {codes} categorical columns, its centers have {} and {}",
            centers.numeric_width, centers.code_width
        ));
    }
    let (m, t) = (function.centers(), function.code.width());
    if t == 0 || function.coefficients.len() != m * t {
        return bad(format!("{} coefficients for {m} centers and {t} outputs", function.coefficients.len()));
    }
    if !variance {
        return Ok(());
    }
    if function.code.is_classification() {
        return Err(StageError::Usage("--variance: classes have no predictive variance, only numbers do".into()));
    }
    match &function.variance {
        None => Err(StageError::Data("the model was fitted without --variance and holds nothing to compute variances from: fit it again with --variance".into())),
        Some(v) => {
            let VarianceBasis { factor, weights, rank } = &*v.basis;
            match (factor.len(), weights.len(), v.noise.len(), v.signal.len()) == (m * rank, rank * t, t, t) {
                true => Ok(()),
                false => {
                    bad(format!("{} numbers of its variance factor for {m} centers and rank {rank}", factor.len()))
                }
            }
        }
    }
}

/// What all workers counted.
struct Counts {
    rows: u64,
    /// Those of this process.
    own: u64,
    bad: u64,
    named: Vec<String>,
    products: Option<ProductReport>,
}

fn run_pass<T: Entry>(
    session: &mut Session<'_>,
    prepared: &Prepared,
    options: &PredictOptions,
) -> Result<Counts, StageError> {
    let shared = &prepared.shared;
    let applied = session.try_once(|| match &options.room.shard {
        Some(shard) => Applied::<T>::shared(&shared.function, shard),
        None => Applied::<T>::new(&shared.function, prepared.terms),
    });
    let applied = agree(session, applied)?;
    if let Some(choice) = applied.choice.filter(|_| session.is_first()) {
        session.process.progress.say(&choice.sentence());
    }
    let runs = shared.layout.runs(session.index());
    let reader = BlockReader::new(&shared.catalog, runs, &prepared.projection, prepared.read.clone());
    let process = Arc::clone(&session.process);
    let ledger = Rc::default();
    let (used, local) = (Rc::clone(&ledger), session.local_index());
    let mut scan =
        PredictScan::new(shared.clone(), Arc::clone(&applied), used, options.variance, process, local, reader);
    let mut counts = Counts { rows: 0, own: 0, bad: 0, named: Vec::new(), products: None };
    let workers = session.process.workers();
    let here = session.process.index() * workers..(session.process.index() + 1) * workers;
    if let Some(blocks) = applied.share() {
        deal_rows(session, "predict", &blocks.shard, blocks, &mut scan)?;
    }
    let mut named = Vec::new();
    for (worker, parcel) in pass(session, "predict", scan, Gather::default(), Audience::Everyone)?.iter().enumerate() {
        let mut bytes = Reader(&parcel.bytes);
        let rows = bytes.u64()?;
        counts.rows += rows;
        counts.own += if here.contains(&worker) { rows } else { 0 };
        counts.bad += bytes.u64()?;
        for _ in 0..bytes.u64()? {
            let place = (bytes.u64()?, bytes.u64()?);
            named.push((place, String::from_utf8_lossy(bytes.bytes()?).into_owned()));
        }
    }
    named.sort();
    named.truncate(NAMED_BAD_ROWS);
    counts.named = named.into_iter().map(|(_, line)| line).collect();
    let certificate = applied.certificate(session, &shared.function, &ledger.borrow())?;
    counts.products = applied.choice.map(|choice| ProductReport { choice, certificate });
    Ok(counts)
}
