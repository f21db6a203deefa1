//! The evaluation of a fitted function on data with known targets.

use crate::engine::exchange::{Audience, Gather, Outgoing, agree, pass};
use crate::engine::feed::{Feed, RowStore, encoded_blocks};
use crate::engine::session::Session;
use crate::error::StageError;
use crate::evaluate::{Evaluated, Evaluation, evaluate};
use crate::matvec::products::{ProductLimit, ProductReport, ProductTerms, product_terms};
use crate::plan::{MemoryPlan, Reading, Room};
use crate::predict::{Applied, Function};
use crate::profile::{NAMED_BAD_ROWS, refuse_bad_rows};
use nystream_datasets::{BLOCK_ROWS, BadRow, Catalog, Encoder, Role};
use nystream_kernels::gram::Precision;
use nystream_kernels::tile::Entry;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// What was measured and how, and the memory of a process that was planned for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The errors.
    pub evaluation: Evaluation,
    /// The plan.
    pub memory: MemoryPlan,
    /// How products were formed, where sparse ones were considered.
    pub products: Option<ProductReport>,
}

/// Evaluates `function` on all rows of `catalog` that have a target; the result is on every worker, with errors in the units of the target. The split and
/// the weights by class of `encoder` do not apply, since these are other rows than those of the fit. With `tolerance` the sums k(x, Z) alpha may be off as
/// [`PredictOptions`](crate::predict::PredictOptions) has it. What was left out is in
/// [`Process::bad_rows`](crate::engine::Process::bad_rows) and [`Process::skipped_rows`](crate::engine::Process::skipped_rows).
///
/// ```
/// use nystream_dataflows::evaluate::Evaluation;
/// use nystream_dataflows::{job::{Loss, evaluate_model}, matvec::products::ProductLimit};
/// use nystream_dataflows::{plan::Room, predict::Function, targets::TargetCode};
/// use nystream_kernels::{gram::Precision, kernel::{Family, Kernel}, rows::RowBuf, tile::SimdPath};
/// # use nystream_dataflows::engine::{Process, SilentProgress, run};
/// # use nystream_datasets::{Catalog, ColumnSummary, Encoder, EncoderOptions, Sources};
/// # use std::sync::Arc;
/// # let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=1"])?)?;
/// # let summary = |info| ColumnSummary { count: 5000, sd: 0.6, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
/// # let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
/// # let encoder = Arc::new(Encoder::fit(&summaries, &EncoderOptions { targets: vec!["y".into()], ..Default::default() })?);
/// # let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// # let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// // `catalog` and `encoder` are those of the example of `RowStore`: 5,000 rows. The function says 0 everywhere.
/// let function = Arc::new(Function {
///     kernel: Kernel::new(Family::Gaussian, 1.0),
///     centers: RowBuf { numeric: vec![0.0], numeric_width: 1, codes: vec![], code_width: 0 },
///     coefficients: vec![0.0],
///     code: TargetCode { names: vec!["y".into()], classes: vec![], centres: vec![0.0], exponents: vec![3] },
///     loss: Loss::Squared,
///     precision: Precision::Single,
///     simd: SimdPath::detect(),
///     variance: None,
/// });
/// let results = run(&process, communication, move |session| {
///     evaluate_model(session, &catalog, &encoder, &function, ProductLimit::default(), 0, &Room::default()) // No limit on memory.
/// }).unwrap();
/// let Evaluation::Regression(targets) = &results[0].as_ref().unwrap().evaluation else { panic!("{results:?}") };
/// // So its error is the root mean square of the target, and it explains nothing of the spread.
/// assert_eq!(targets[0].rows, 5000);
/// assert!(targets[0].rmse > 0.1 && targets[0].r2 <= 0.0);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Budget`]: a plan that `room` does not hold; [`StageError::Data`]: unreadable data, missing or mistyped columns, no row with a target, more than `max_bad_rows` bad rows, which are named;
/// [`StageError::Numeric`] for a function whose parts do not fit together; [`StageError::Usage`] for a tolerance that its kernel cannot have.
pub fn evaluate_model(
    session: &mut Session<'_>,
    catalog: &Catalog,
    encoder: &Arc<Encoder>,
    function: &Arc<Function>,
    products: ProductLimit,
    max_bad_rows: u64,
    room: &Room,
) -> Result<Measured, StageError> {
    let workers = session.process.workers();
    let planned = reading(catalog, encoder, workers).and_then(|reading| {
        let plan = room.model.evaluating(reading, workers);
        plan.check(room.budget).map(|()| plan)
    });
    // Budgets may differ from process to process.
    let plan = agree(session, planned)?;
    let centers = room.centers(function.centers());
    let terms = product_terms(&function.kernel, products, (catalog.total_rows, centers), true)?;
    room.refuse_sparse(terms.is_some())?;
    let store =
        RowStore::new(catalog, Arc::clone(encoder), session.peers(), session.index(), Arc::clone(&session.process));
    let feed = store.feed(Role::Evaluation);
    if session.is_first() {
        let line = plan.summary(catalog.total_rows, centers, room.budget);
        session.process.progress.say(&line);
    }
    session.process.watch.plan(plan.memory.total());
    session.begin("evaluate", catalog.total_rows);
    let (evaluation, products) = match function.precision {
        Precision::Double => measure::<f64>(session, feed, function, terms, room)?,
        _ => measure::<f32>(session, feed, function, terms, room)?,
    };
    session.end();
    left_out(session, catalog, max_bad_rows)?;
    if evaluation.rows() == 0 {
        return Err(nothing_to_measure(encoder));
    }
    Ok(Measured { evaluation, memory: plan.memory, products })
}

fn measure<T: Entry>(
    session: &mut Session<'_>,
    feed: Feed,
    function: &Arc<Function>,
    terms: Option<ProductTerms>,
    room: &Room,
) -> Result<Evaluated, StageError> {
    let applied = session.try_once(|| match &room.shard {
        Some(shard) => Applied::<T>::shared(function, shard),
        None => Applied::<T>::new(function, terms),
    });
    let applied = agree(session, applied)?;
    if let Some(choice) = applied.choice.filter(|_| session.is_first()) {
        session.process.progress.say(&choice.sentence());
    }
    evaluate(session, "evaluate", feed, function, &applied)
}

/// How a worker reads the rows that are evaluated.
fn reading(catalog: &Catalog, encoder: &Encoder, workers: usize) -> Result<Reading, StageError> {
    let projection = encoder.projection(catalog, Role::Evaluation)?;
    let columns = || projection.iter().map(|index| catalog.column_bytes(*index));
    Ok(Reading {
        rows: Reading::rows_in_hand(encoded_blocks(catalog, encoder) * BLOCK_ROWS, catalog.total_rows, workers),
        decoded: columns().map(|bytes| bytes.value).fold(0, u64::saturating_add),
        pages: columns().map(|bytes| bytes.pages).fold(0, u64::saturating_add),
        fetched: catalog.fetched_bytes(&projection),
        targets: encoder.target_width() as u64,
    })
}

/// Why data without a single target value cannot be used to measure an error.
pub(super) fn nothing_to_measure(encoder: &Encoder) -> StageError {
    let names: Vec<String> = encoder.targets.iter().map(|name| format!("'{name}'")).collect();
    StageError::Data(format!(
        "no row of the data has a value of the target {}: nothing can be measured",
        names.join(", ")
    ))
}

/// Makes the counts of bad and skipped rows those of all processes, and refuses more than `allowed` bad ones.
///
/// # Errors
/// [`StageError::Data`] naming the first bad rows; the same on every worker.
pub(super) fn left_out(session: &mut Session<'_>, catalog: &Catalog, allowed: u64) -> Result<(), StageError> {
    let process = Arc::clone(&session.process);
    if process.processes() > 1 {
        let outgoing = if session.is_leader() {
            let bad = process.bad_rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let counts = (bad.0, bad.1, process.skipped_rows.load(Ordering::Relaxed));
            // Plain data: serialisation cannot fail.
            vec![Outgoing { key: 0, bytes: serde_json::to_vec(&counts).unwrap_or_default() }]
        } else {
            Vec::new()
        };
        let parcels = pass(session, "left out", outgoing, Gather::default(), Audience::Everyone)?;
        session.try_once(|| {
            let (mut count, mut rows, mut skipped) = (0, Vec::new(), 0);
            for parcel in &parcels {
                let (bad, named, without): (u64, Vec<BadRow>, u64) = serde_json::from_slice(&parcel.bytes)
                    .map_err(|e| StageError::Internal(format!("counts arrived damaged: {e}")))?;
                count += bad;
                skipped += without;
                rows.extend(named);
            }
            rows.sort();
            rows.truncate(NAMED_BAD_ROWS);
            *process.bad_rows.lock().unwrap_or_else(PoisonError::into_inner) = (count, rows);
            process.skipped_rows.store(skipped, Ordering::Relaxed);
            Ok(())
        })?;
    }
    let (count, rows) = process.bad_rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
    refuse_bad_rows(catalog, count, &rows, allowed, None)
}
