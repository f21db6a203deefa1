//! Choosing centers: uniform by hash, SQUEAK over a trie, randomly pivoted Cholesky on a pool.
//!
//! Every choice is a function of the set of training rows, the kernel and the seed. Kernel values are f64 here:
//! pivots are decided by residuals far below the rounding of f32. The order of centers is the order in which they were picked
//! (RPCholesky) or of their hash (uniform).

mod chosen;
mod full;
pub mod known;
mod oracle;
pub mod pool;
mod rule;
pub(crate) mod stored;
#[cfg(test)]
mod tests;
pub mod trie;
mod units;
mod window;

pub use chosen::chosen_rows;
pub use oracle::TileOracle;
pub use rule::{Method, SelectionRule};

use crate::engine::feed::{RowStore, encoded_blocks};
use crate::engine::session::Session;
use crate::engine::{agree, same_everywhere};
use crate::error::StageError;
use crate::job::{DictionaryRule, Select};
use crate::plan::{DictionaryWork, Selection};
use crate::tune::TEMPERED;
use known::KnownNodes;
use nystream_datasets::{BlockReader, Catalog, Chunk, Encoder, ReadOptions, Role};
use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::kernel::Kernel;
use nystream_kernels::rows::RowBuf;
use nystream_kernels::sampling::rpcholesky::{KnownPivots, rp_cholesky_again};
use nystream_kernels::sampling::{
    Dictionary, DictionaryMode, DictionaryParams, FactorStorage, KernelOracle, PivotParams, ScoreSample, TrieShape,
    rp_cholesky,
};
use nystream_kernels::tile::SimdPath;
use pool::{Columns, Pool, PoolRule, expected_bits, gather_pool, pool_bits};
use std::sync::{Arc, Mutex, PoisonError};
use trie::{TrieJob, squeak_trie};

/// Rows of the sample whose leverage scores set gamma.
pub(crate) const SCORED_SAMPLE: usize = 1500;
/// *Shape.* Most rows of a leaf of the trie, in units of M. A merge of two dictionaries of M atoms costs 16/3 M^3 flops and the filter M^2 a
/// row: with 8 M rows a leaf the merges take about half of the filter's flops, with 2 M twice as many.
pub(crate) const LEAF_ROWS: usize = 8;

/// What selection is asked for.
#[derive(Clone, Debug)]
pub struct SelectJob {
    /// Kernel.
    pub kernel: Kernel,
    /// SIMD path.
    pub simd: SimdPath,
    /// Seed.
    pub seed: u64,
    /// Centers m.
    pub centers: usize,
    /// What the plan decided.
    pub selection: Selection,
    /// Whether pivots on a pool, or among the atoms of a dictionary, are drawn by w d^1/4 ([`crate::tune::pivot_law`]) instead of the papers' w d, where no earlier model says it.
    pub tempered: bool,
    /// As it was asked for: given centers, for [`Selection::File`], or the rule of an earlier model.
    pub given: Select,
    /// Inclusion probabilities.
    pub rule: DictionaryRule,
    /// Matrix ridge n lambda of the solve: gamma is never below it.
    pub ridge_matrix: f64,
    /// Training rows.
    pub rows: u64,
    /// How it is done within the memory; shapes nothing.
    pub work: DictionaryWork,
}

impl SelectJob {
    /// The rule of an earlier model, where it is to be repeated.
    fn settled(&self) -> Option<&SelectionRule> {
        match &self.given {
            Select::Settled(rule) => Some(rule),
            _ => None,
        }
    }

    /// Whether pivots on a pool, or among the atoms of a dictionary, are drawn by the tempered law.
    fn tempered(&self) -> bool {
        match self.settled() {
            Some(SelectionRule {
                method: Method::RpCholesky { tempered, .. } | Method::Squeak { tempered, .. },
                ..
            }) => *tempered,
            _ => self.tempered,
        }
    }

    /// Exponent of the residual diagonal by which pivots are drawn.
    fn exponent(&self) -> f64 {
        if self.tempered() { TEMPERED } else { 1.0 }
    }
}

/// The dictionary that centers were picked from.
#[derive(Clone, Debug, Default)]
pub struct Atoms {
    /// Encoded rows.
    pub rows: RowBuf,
    /// Their ids.
    pub ids: Vec<RowId>,
    /// How many of all training rows each stands for.
    pub weights: Vec<f64>,
}

/// The centers, and what is known about how they were chosen.
#[derive(Clone, Debug, Default)]
pub struct Centers {
    /// m encoded rows.
    pub rows: RowBuf,
    /// Their ids.
    pub ids: Vec<RowId>,
    /// Rows that were scored or pooled.
    pub rows_scored: u64,
    /// Matrix ridge of the leverage scores, on all rows.
    pub gamma: f64,
    /// Oversampling.
    pub beta: f64,
    /// Atoms of the dictionary, before refinement.
    pub size: usize,
    /// Residual trace over the pool or the dictionary's weights, relative: 0 where the centers span all of it, 1 without centers.
    pub pool_trace: Option<f64>,
    /// Passes over the rows, where it was more than one.
    pub passes: u64,
    /// How they were chosen, so that it can be repeated on other rows.
    pub rule: SelectionRule,
    /// The sampled dictionary, where there was one.
    pub atoms: Option<Atoms>,
    /// Sentences for the report.
    pub notes: Vec<String>,
}

fn numeric(error: impl std::fmt::Display) -> StageError {
    StageError::Numeric(error.to_string())
}

/// Chooses the centers, once a process. `sample` is the hashed sample, in hash order; only SQUEAK looks at it. There may be fewer centers than asked for, where the
/// candidates span no more: the notes say so.
///
/// ```
/// use nystream_dataflows::dictionary::{SelectJob, pool::Pool, select};
/// use nystream_dataflows::job::{DictionaryRule, Select};
/// use nystream_dataflows::plan::{DictionaryWork, Selection};
/// use nystream_kernels::{kernel::{Family, Kernel}, tile::SimdPath};
/// # use nystream_dataflows::engine::{Process, SilentProgress, feed::RowStore, run};
/// # use nystream_datasets::{Catalog, ColumnSummary, Encoder, EncoderOptions, Role, Sources};
/// # use std::sync::Arc;
/// # let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=1"])?)?;
/// # let summary = |info| ColumnSummary { count: 5000, sd: 0.6, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
/// # let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
/// # let encoder = Arc::new(Encoder::fit(&summaries, &EncoderOptions { targets: vec!["y".into()], ..Default::default() })?);
/// # let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// # let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let job = SelectJob {
///     kernel: Kernel::new(Family::Gaussian, 0.5),
///     simd: SimdPath::detect(),
///     seed: 0,
///     centers: 10,
///     // Pivots among 1,000 of the 5,000 rows.
///     selection: Selection::RpCholesky { rows: 1000, full: false },
///     tempered: false,
///     given: Select::RpCholesky,
///     rule: DictionaryRule::default(),
///     ridge_matrix: 1.0,
///     rows: 5000,
///     work: DictionaryWork::unbounded(2),
/// };
/// // `catalog`, `encoder` and `store` are those of the example of `RowStore`.
/// let results = run(&process, communication, move |session| {
/// #   let (peers, index, process) = (session.peers(), session.index(), Arc::clone(&session.process));
/// #   let store = RowStore::new(&catalog, Arc::clone(&encoder), peers, index, process);
///     select(session, &store, &Pool::default(), &job)
/// }).unwrap();
/// let centers = results[0].clone().unwrap();
/// assert_eq!((centers.rows.len(), centers.rows_scored), (10, 1000));
/// // Ten pivots carry nearly all of the kernel's trace on a line.
/// assert!(centers.pool_trace.unwrap() < 0.05);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Data`] for rows that cannot be read or encoded, a pool without rows, or a bad row among given centers;
/// [`StageError::Numeric`] for a factorisation that fails; [`StageError::Budget`] for a theorem's dictionary beyond its budget, or one that
/// outgrows [`DictionaryWork::max_atoms`]; the same on every worker.
pub fn select(
    session: &mut Session<'_>,
    store: &RowStore,
    sample: &Pool,
    job: &SelectJob,
) -> Result<Arc<Centers>, StageError> {
    select_again(session, store, sample, job, Known::default())
}

/// What is known of an earlier choice from much the same rows.
#[derive(Default)]
pub(crate) struct Known<'a> {
    /// Nodes of the dictionary's trie, of this worker.
    pub nodes: Option<&'a mut KnownNodes>,
    /// Pivots on a pool, of this process.
    pub pivots: Option<&'a Mutex<KnownPivots>>,
}

/// [`select`], where something may be known of an earlier choice: the same centers, sooner.
///
/// # Errors
/// As there.
pub(crate) fn select_again(
    session: &mut Session<'_>,
    store: &RowStore,
    sample: &Pool,
    job: &SelectJob,
    known: Known<'_>,
) -> Result<Arc<Centers>, StageError> {
    match job.selection {
        Selection::File => {
            let read = session.try_once(|| given(store, job));
            let centers = agree(session, read)?;
            same_everywhere(session, "the file of centers", &(&centers.rows.numeric, &centers.rows.codes))?;
            Ok(centers)
        }
        Selection::Uniform => uniform(session, store, job),
        Selection::RpCholesky { full: true, .. } => full::full_passes(session, store, job),
        Selection::RpCholesky { rows, .. } => {
            let (bits, most) = match job.settled() {
                Some(SelectionRule { method: Method::RpCholesky { most, .. }, pool_bits }) => (*pool_bits, *most),
                // The whole set is no pool: every row is a candidate.
                _ => (pool_bits(job.rows, rows), (rows < job.rows).then_some(rows)),
            };
            let pool = named_pool(session, store, job, "pool", bits, most)?;
            let tempered = job.tempered();
            let rule = SelectionRule { method: Method::RpCholesky { full: false, tempered, most }, pool_bits: bits };
            let scored = Centers { rows_scored: pool.len() as u64, rule, ..Centers::default() };
            session.step("pivoted Cholesky", job.centers);
            session.try_once(|| {
                let mut before = known.pivots.map(|pivots| pivots.lock().unwrap_or_else(PoisonError::into_inner));
                refine(job, &pool, None, (scored, before.as_deref_mut()))
            })
        }
        Selection::Squeak { rows, atoms } => squeak(session, store, sample, job, (rows, atoms), known.nodes),
    }
}

/// All rows of the given data set, encoded; each process reads the file for itself.
fn given(store: &RowStore, job: &SelectJob) -> Result<Centers, StageError> {
    let rule = SelectionRule { method: Method::File, pool_bits: 0 };
    let catalog = match &job.given {
        Select::File(catalog) => catalog,
        // Known by their place: they are rows of no data set.
        Select::Rows(rows) => {
            let ids = (0..rows.len() as u128).map(RowId).collect();
            return Ok(Centers { size: rows.len(), rows: rows.clone(), ids, rule, ..Centers::default() });
        }
        _ => return Err(StageError::Internal("no file of centers was given".into())),
    };
    let (rows, ids) = rows_of_file(store.encoder(), catalog)?;
    Ok(Centers { size: ids.len(), rows, ids, rule, ..Centers::default() })
}

/// The rows of `--select file:PATH`, encoded, and their ids.
///
/// # Errors
/// [`StageError::Data`] for what cannot be read or encoded, and for a bad row.
pub fn rows_of_file(encoder: &Encoder, catalog: &Catalog) -> Result<(RowBuf, Vec<RowId>), StageError> {
    let projection = encoder.projection(catalog, Role::Features)?;
    let mut rows = RowBuf::new(encoder.numeric_width(), encoder.code_width());
    let (mut ids, mut chunk) = (Vec::new(), Chunk::default());
    let read = ReadOptions { blocks_per_batch: encoded_blocks(catalog, encoder), ..ReadOptions::default() };
    for batch in BlockReader::new(catalog, catalog.runs(0, catalog.blocks()), &projection, read) {
        encoder.encode(&batch?, Role::Features, &mut chunk)?;
        if let Some(bad) = chunk.bad.first() {
            return Err(StageError::Data(format!(
                "row {} of the file of centers: column '{}' {}",
                bad.ordinal, bad.column, bad.reason
            )));
        }
        rows.numeric.extend_from_slice(&chunk.numeric);
        rows.codes.extend_from_slice(&chunk.codes);
        ids.extend_from_slice(&chunk.ids);
    }
    Ok((rows, ids))
}

fn named_pool(
    session: &mut Session<'_>,
    store: &RowStore,
    job: &SelectJob,
    stage: &str,
    bits: u32,
    most: Option<u64>,
) -> Result<Arc<Pool>, StageError> {
    let key = StreamKey::new(job.seed, stage, 0);
    let rule = PoolRule { key, bits, most };
    let pool = gather_pool(session, "dictionary: pool", store.feed(Role::Training), rule, Columns::Features)?;
    if pool.is_empty() {
        // A rule that was settled on many rows names few of few.
        return Err(StageError::Data(format!(
            "none of {} rows is among those that centers are chosen from (one in 2^{bits}, by hash{}): more rows are needed, or a model of fewer",
            job.rows,
            if job.settled().is_some() { ", as the configuration settled" } else { "" }
        )));
    }
    Ok(pool)
}

fn uniform(session: &mut Session<'_>, store: &RowStore, job: &SelectJob) -> Result<Arc<Centers>, StageError> {
    let wanted = 2 * job.centers as u64;
    let bits = job.settled().map_or_else(|| pool_bits(job.rows, wanted), |rule| rule.pool_bits);
    let pool = named_pool(session, store, job, "uniform", bits, None)?;
    session.try_once(|| {
        // Equal rows span nothing new: the first of each group stands for it.
        let mut chosen = pool.distinct();
        chosen.truncate(job.centers);
        let mut notes = Vec::new();
        if chosen.len() < job.centers {
            notes.push(format!("{} centers: the pool of {} rows has no more distinct ones", chosen.len(), pool.len()));
        }
        let picked = pool.gather(&chosen);
        Ok(Centers {
            rows_scored: pool.len() as u64,
            size: picked.len(),
            rows: picked.rows,
            ids: picked.ids,
            notes,
            rule: SelectionRule { method: Method::Uniform, pool_bits: bits },
            ..Centers::default()
        })
    })
}

/// Picks m centers among `pool` by randomly pivoted Cholesky, with `weights`: the rest of what is `known` of them, and of an earlier choice.
fn refine(
    job: &SelectJob,
    pool: &Pool,
    weights: Option<&[f64]>,
    (mut known, before): (Centers, Option<&mut KnownPivots>),
) -> Result<Centers, StageError> {
    let oracle = TileOracle::new(&job.kernel, job.simd);
    let base = PivotParams::new(job.centers.min(pool.len()), job.seed);
    let mut params = PivotParams { exponent: job.exponent(), ..base };
    if !job.work.keep_factor {
        params.storage = FactorStorage::Recomputed;
    }
    let (view, ids) = (pool.rows.view(), &pool.ids);
    let pivots = match before {
        Some(before) => rp_cholesky_again(&oracle, view, ids, weights, params, before),
        None => rp_cholesky(&oracle, view, ids, weights, params),
    };
    let pivots = pivots.map_err(numeric)?;
    if pivots.indices.len() < job.centers {
        known.notes.push(format!(
            "{} centers: they span the {} candidates to working precision",
            pivots.indices.len(),
            pool.len()
        ));
    }
    known.rows = RowBuf::gather(pool.rows.view(), &pivots.indices);
    known.ids = pivots.ids.clone();
    known.pool_trace = Some(pivots.trace_error());
    if known.size == 0 {
        known.size = known.ids.len();
    }
    Ok(known)
}

fn squeak(
    session: &mut Session<'_>,
    store: &RowStore,
    sample: &Pool,
    job: &SelectJob,
    (rows, atoms): (u64, u64),
    nodes: Option<&mut KnownNodes>,
) -> Result<Arc<Centers>, StageError> {
    let bits = job.settled().map_or_else(|| expected_bits(job.rows, rows), |rule| rule.pool_bits);
    let fraction = 2f64.powi(-(bits as i32));
    let scored_rows = ((job.rows as f64) * fraction).round().max(1.0) as u64;
    let beta = match (job.settled().map(|rule| &rule.method), job.rule) {
        (Some(Method::Squeak { mode: DictionaryMode::Bernoulli { beta }, .. }), _) => *beta,
        (None, DictionaryRule::Bernoulli { beta }) => beta,
        _ => 1.0,
    };
    let settled = job.settled().and_then(|rule| match rule.method {
        Method::Squeak { gamma, mode, leaf_rows, .. } => Some((gamma * fraction, mode, leaf_rows)),
        _ => None,
    });
    // gamma = max(n lambda, the value at which the dictionary holds M atoms), from the sample; on a pool it shrinks with the pool.
    session.step("leverage scores", sample.len().min(SCORED_SAMPLE));
    let setup = session.try_once(|| {
        if let Some(settled) = settled {
            return Ok(settled);
        }
        let s = sample.len().min(SCORED_SAMPLE).min(scored_rows as usize);
        let oracle = TileOracle::new(&job.kernel, job.simd);
        let head = sample.rows.view().slice(0, s);
        let k = oracle.block(head, head);
        let scores = ScoreSample::new(k.as_ref(), scored_rows).map_err(numeric)?;
        let found = scores.gamma_for_size(atoms as f64, beta).map_err(numeric)?;
        let gamma = found.gamma.max(job.ridge_matrix * fraction);
        let mode = match job.rule {
            DictionaryRule::Bernoulli { beta } => DictionaryMode::Bernoulli { beta },
            DictionaryRule::Theorem { epsilon, delta } => {
                let tau = scores.scores(gamma).map_err(numeric)?;
                let budget = (8 * atoms) as usize;
                DictionaryMode::theorem(epsilon, delta, scored_rows, &tau, budget)
                    .map_err(|e| StageError::Budget(e.to_string()))?
            }
        };
        Ok((gamma, mode, LEAF_ROWS as u64 * atoms))
    })?;
    let (gamma, mode, leaf_rows) = *setup;
    let task = TrieJob {
        oracle: Arc::new(TileOracle::new(&job.kernel, job.simd)),
        params: DictionaryParams { gamma, mode, seed: job.seed, max_atoms: Some(job.work.max_atoms) },
        bits,
        pool_key: StreamKey::new(job.seed, "pool", 0),
        shape: TrieShape { hash: StreamKey::new(job.seed, "trie", 0), capacity: leaf_rows as usize },
        expected_rows: scored_rows,
        work: job.work,
    };
    let root = squeak_trie(session, store, &task, nodes)?;
    session.step("pivoted Cholesky", job.centers);
    session.try_once(|| {
        let Some(dictionary) = &*root.dictionary else {
            return Err(StageError::Data("the dictionary's pool holds no rows".into()));
        };
        let known = Centers {
            rows_scored: root.scored,
            passes: root.passes,
            gamma: gamma / fraction,
            beta,
            size: dictionary.len(),
            rule: SelectionRule {
                method: Method::Squeak { atoms, leaf_rows, gamma: gamma / fraction, mode, tempered: job.tempered() },
                pool_bits: bits,
            },
            atoms: Some(Atoms {
                rows: dictionary.rows.clone(),
                ids: dictionary.ids(),
                weights: dictionary.weights().iter().map(|w| w / fraction).collect(),
            }),
            ..Centers::default()
        };
        let (pool, weights) = survivors(dictionary, 4 * job.centers);
        refine(job, &pool, Some(&weights), (known, None))
    })
}

/// The atoms that refinement sees: all, or the first `most` by hash.
fn survivors(dictionary: &Dictionary, most: usize) -> (Pool, Vec<f64>) {
    let mut pool = Pool { rows: dictionary.rows.clone(), ids: dictionary.ids(), ..Pool::default() };
    let mut weights = dictionary.weights();
    if pool.len() > most {
        // Row ids are uniform bits: the first by id are a uniform choice.
        let mut order: Vec<usize> = (0..pool.len()).collect();
        order.sort_by_key(|i| pool.ids[*i]);
        order.truncate(most);
        pool = Pool {
            rows: RowBuf::gather(pool.rows.view(), &order),
            ids: order.iter().map(|i| pool.ids[*i]).collect(),
            ..Pool::default()
        };
        weights = order.iter().map(|i| weights[*i]).collect();
    }
    (pool, weights)
}
