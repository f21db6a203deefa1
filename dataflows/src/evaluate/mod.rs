//! Held-out error: one pass that predicts and compares.
//!
//! Sums of errors go over the fixed tree like every floating-point sum; the area under the ROC curve comes from counts of scores in bins,
//! of which all classes together have 2^18.
//! Cost: n m entries, n t values, and the counts of ranks: [`RANK_BYTES`] a worker, and [`RANK_PARCEL_BYTES`] for each peer.

mod metrics;
mod ranks;

pub(crate) use metrics::argmax;
pub use metrics::{ClassMetrics, Evaluation, TargetMetrics};
pub use ranks::{RANK_BYTES, RANK_PARCEL_BYTES};

use crate::engine::exchange::{Audience, Outgoing, Scan, Step, pass};
use crate::engine::feed::{Feed, drawn, view};
use crate::engine::leases::Leased;
use crate::engine::session::{Process, Session};
use crate::engine::sums::{TreeReducer, assemble, node_parcels};
use crate::error::StageError;
use crate::matvec::grid::{Dealt, deal_rows};
use crate::matvec::products::{Ledger, ProductReport};
use crate::predict::{Applied, AppliedScratch, Function};
use metrics::{ClassLoss, SUMS_PER_TARGET, summarise};
use nystream_datasets::Chunk;
use nystream_kernels::rows::Rows;
use nystream_kernels::tile::Entry;
use nystream_kernels::tree::SumTree;
use ranks::Ranks;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

struct EvaluateScan<T: Entry> {
    feed: Feed,
    chunk: Chunk,
    function: Arc<Function>,
    applied: Arc<Applied<T>>,
    scratch: AppliedScratch<T>,
    /// What sparse products left out, when the pass is over.
    ledger: Rc<RefCell<Ledger>>,
    tree: SumTree,
    loss: ClassLoss,
    ranks: Rc<RefCell<Ranks>>,
    process: Arc<Process>,
    /// Whether all rows have been taken, where centers are shared.
    done: bool,
}

impl<T: Entry> EvaluateScan<T> {
    /// The next chunk, where there is one.
    fn next(&mut self) -> Result<bool, StageError> {
        let more = self.feed.next(&mut self.chunk)?;
        if more {
            self.process.note_left_out(&self.chunk);
        }
        Ok(more)
    }

    /// Takes the chunk with the sums of its rows.
    fn add(&mut self, scores: &[f64]) -> Result<(), StageError> {
        let code = &self.function.code;
        let (t, raw) = (code.width(), self.chunk.target_width);
        let mut ranks = self.ranks.borrow_mut();
        let mut outputs = vec![0.0; self.function.outputs()];
        for block in 0..self.chunk.blocks() {
            let range = self.chunk.block(block);
            let index = self.feed.global_block(&self.chunk, block);
            if range.is_empty() {
                self.tree.insert_empty(0, index).map_err(internal)?;
                continue;
            }
            let mut sums = vec![0.0; length(&self.function)];
            for i in range {
                let predicted = &scores[i * t..(i + 1) * t];
                self.function.outputs_of(predicted, &mut outputs);
                let truth = &self.chunk.targets[i * raw..(i + 1) * raw];
                if code.is_classification() {
                    let class = truth[0] as usize;
                    metrics::add_class(&mut sums, &outputs, class, self.loss.of(predicted, &outputs, class));
                    for k in ranks.classes.clone() {
                        ranks.count(k, self.loss.rank(predicted, &outputs, k), class == k);
                    }
                } else {
                    for (k, y) in truth.iter().enumerate().filter(|(_, y)| y.is_finite()) {
                        let sums = &mut sums[k * SUMS_PER_TARGET..(k + 1) * SUMS_PER_TARGET];
                        metrics::add_number(sums, *y, outputs[k], code.centres[k]);
                    }
                }
            }
            self.tree.insert(0, index, sums).map_err(internal)?;
        }
        Ok(())
    }
}

impl<T: Entry> Dealt for EvaluateScan<T> {
    fn read(&mut self) -> Result<bool, StageError> {
        self.done = self.done || !self.next()?;
        Ok(!self.done)
    }

    fn rows(&self) -> Rows<'_> {
        view(&self.chunk)
    }

    fn take(&mut self, sums: Vec<f64>) -> Result<(), StageError> {
        self.add(&sums)
    }
}

impl<T: Entry> Scan for EvaluateScan<T> {
    fn step(&mut self) -> Result<Step, StageError> {
        if self.done || !self.next()? {
            return Ok(Step::Done);
        }
        let (t, rows) = (self.function.code.width(), self.chunk.rows());
        let mut scores = vec![0.0; rows * t];
        let entries = self.applied.sums(drawn(&self.chunk), &self.function, &mut self.scratch, &mut scores);
        self.process.count(entries, entries * 2 * t as u64);
        self.add(&scores)?;
        Ok(Step::More { rows: rows as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        let length = length(&self.function);
        self.ledger.replace(self.scratch.ledger);
        Ok(node_parcels(self.tree.into_nodes(), length))
    }

    fn leased(&mut self) -> Option<&mut dyn Leased> {
        // Rows that are dealt to shared centers go by rounds of all workers.
        self.applied.share().is_none().then_some(&mut self.feed as &mut dyn Leased)
    }
}

fn internal(error: impl std::fmt::Display) -> StageError {
    StageError::Internal(error.to_string())
}

fn length(function: &Function) -> usize {
    if function.code.is_classification() { metrics::CLASS_SUMS } else { function.code.width() * SUMS_PER_TARGET }
}

/// What a pass found, and how its products were formed where sparse ones were considered.
pub type Evaluated = (Evaluation, Option<ProductReport>);

/// Evaluates `function` on the rows of `feed`; the result is on every worker. Errors are in the units of the target, each row counts once whatever
/// its weight, and a row counts for the targets that it has. `applied` is of `function`, `name` shows in timely's logs.
///
/// ```
/// use nystream_dataflows::evaluate::{Evaluation, evaluate};
/// use nystream_dataflows::{job::Loss, predict::{Applied, Function}, targets::TargetCode};
/// use nystream_datasets::Split;
/// use nystream_kernels::{gram::Precision, kernel::{Family, Kernel}, rows::RowBuf, tile::SimdPath};
/// # use nystream_dataflows::engine::{Process, SilentProgress, feed::RowStore, run};
/// # use nystream_datasets::{Catalog, ColumnSummary, Encoder, EncoderOptions, Role, Sources};
/// # use std::sync::Arc;
/// # let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=1"])?)?;
/// # let summary = |info| ColumnSummary { count: 5000, sd: 0.6, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
/// # let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
/// let split = Split::Hash { fraction: 0.2, column: None };
/// let options = EncoderOptions { targets: vec!["y".into()], split, ..Default::default() };
/// # let encoder = Arc::new(Encoder::fit(&summaries, &options)?);
/// # let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// # let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// // It says 0 everywhere.
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
/// // `catalog` and `store` are those of the example of `RowStore`: 5,000 rows, now with a split.
/// let results = run(&process, communication, move |session| {
/// #   let (peers, index, process) = (session.peers(), session.index(), Arc::clone(&session.process));
/// #   let store = RowStore::new(&catalog, Arc::clone(&encoder), peers, index, process);
///     let applied = session.try_once(|| Applied::<f32>::new(&function, None))?;
///     evaluate(session, "evaluate", store.feed(Role::HeldOut), &function, &applied)
/// }).unwrap();
/// let Ok((Evaluation::Regression(targets), None)) = &results[0] else { panic!("{results:?}") };
/// // About a fifth of the rows is held out.
/// assert!((900..1100).contains(&targets[0].rows));
/// // A constant explains nothing of the spread.
/// assert!(targets[0].r2 <= 0.0 && targets[0].rmse > 0.1);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Data`] for rows that cannot be read or encoded, [`StageError::Internal`] for a damaged exchange; the same on every worker. No
/// row at all is no error here: see [`Evaluation::rows`].
pub fn evaluate<T: Entry>(
    session: &mut Session<'_>,
    name: &str,
    feed: Feed,
    function: &Arc<Function>,
    applied: &Arc<Applied<T>>,
) -> Result<Evaluated, StageError> {
    let loss = ClassLoss::new(function);
    let ranks = Rc::new(RefCell::new(Ranks::new(function.code.classes.len())));
    let ledger = Rc::default();
    let blocks = feed.total_blocks();
    let mut scan = EvaluateScan {
        done: false,
        feed,
        chunk: Chunk::default(),
        function: Arc::clone(function),
        applied: Arc::clone(applied),
        scratch: AppliedScratch::default(),
        ledger: Rc::clone(&ledger),
        tree: SumTree::new(blocks),
        loss,
        ranks: Rc::clone(&ranks),
        process: Arc::clone(&session.process),
    };
    if let Some(shared) = applied.share() {
        deal_rows(session, name, &shared.shard, shared, &mut scan)?;
    }
    let length = length(function);
    let parcels = pass(session, name, scan, TreeReducer::new(blocks, length), Audience::Everyone)?;
    let sums = assemble(parcels, length)?;
    let ranks = ranks.replace(Ranks::new(0));
    let area = if function.code.is_classification() { ranks.area(session)? } else { None };
    let certificate = applied.certificate(session, function, &ledger.borrow())?;
    let products = applied.choice.map(|choice| ProductReport { choice, certificate });
    Ok((summarise(function, &sums, area), products))
}
