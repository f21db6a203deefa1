//! A fit of rows that a learner keeps, by a configuration that is taken over: the steps of [`fit`](super::fit()) that shape the model, and no others.
//!
//! Under `--config-from`, with the exact Gram, a model is a function of the *set* of (id, row): n and sum w are exact, the sample and pools are chosen by hash, the trie has the
//! shape of its rows, the Gram is a sum of integers, and all that follows is algebra of these. So the same steps over the same set give the same bits, wherever the rows lie and
//! whoever has summed them. What [`fit`](super::fit()) does beside (profile, tuning, plan, certificate, validation) decides nothing here: it is left out.
//!
//! `rpcholesky:full` is the exception: its rounds sum over rows in the order of the files. It is refused.

use super::settings::{given_centers, kernel, ridges};
use super::solve::{function, is_weighted, solve_sums};
use super::{Clock, FitOutcome, Frozen, Weights};
use crate::dictionary::known::KnownNodes;
use crate::dictionary::pool::{Columns, PoolRule, gather_pool, pool_bits, pool_rows};
use crate::dictionary::{Centers, Known, Method, SelectJob, SelectionRule, select_again};
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::job::{FitConfig, Loss, Select, Solver};
use crate::nystrom::range::KernelRange;
use crate::plan::{DictionaryWork, FitPlan, MemoryPlan, Selection, Shape};
use crate::profile::{Profile, SAMPLE_ROWS, TargetSummary};
use nystream_datasets::{Encoder, Role};
use nystream_hashing::StreamKey;
use nystream_kernels::gram::{GramShape, GramSums};
use nystream_kernels::kernel::Kernel;
use nystream_kernels::sampling::rpcholesky::KnownPivots;
use nystream_kernels::tile::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Rows of the trie are in hand together up to this share of the memory.
pub(crate) const HELD_SHARE: u64 = 8;
/// Rounds of pivots whose residuals are kept for the next choice: they are 6 to 20.
const KNOWN_ROUNDS: u64 = 64;

/// What is fixed, whatever the rows: made once.
#[derive(Clone)]
pub(crate) struct Fixed {
    pub config: FitConfig,
    pub frozen: Frozen,
    /// The encoder with its test of rows.
    pub encoder: Arc<Encoder>,
    pub kernel: Kernel,
    /// Declared bound of the weights, class weights included.
    pub weight_max: f64,
    /// How centers are chosen, where they are not given.
    pub rule: Option<SelectionRule>,
    pub kernel_log2: i32,
}

impl Fixed {
    /// From what `--config-from` takes over.
    ///
    /// # Errors
    /// [`StageError::Usage`] for a configuration that is not of an exact Gram, or whose centers depend on the order of the rows.
    pub(crate) fn new(config: FitConfig, frozen: Frozen) -> Result<Self, StageError> {
        let usage = |what: String| Err(StageError::Usage(what));
        if config.solver != Solver::Gram || config.loss != Loss::Squared {
            return usage(format!(
                "exact learning keeps an exact Gram up to date, and the model was solved for by {}: fit one with --solver gram",
                config.solver.name()
            ));
        }
        let Some(kernel_log2) = frozen.kernel_log2 else {
            return usage("the model states no range of its kernel: fit one with --solver gram".into());
        };
        if config.ridges.is_none() {
            return Err(StageError::Internal("the ridge is not fixed".into()));
        }
        let rule = match &config.select {
            Select::Settled(rule) => Some(*rule),
            Select::Rows(_) => None,
            _ => return Err(StageError::Internal("the choice of centers is not fixed".into())),
        };
        if rule.is_some_and(|rule| matches!(rule.method, Method::RpCholesky { full: true, .. })) {
            return usage(
                "the model's centers were picked in passes over all rows, whose sums follow the order of the files (--select rpcholesky:full): \
                 no learner can repeat that. Fit one with --select rpcholesky, squeak or uniform"
                    .into(),
            );
        }
        let mut encoder = frozen.encoder.clone();
        if !frozen.kernel.family.is_radial() {
            encoder.set_row_test(Arc::new(KernelRange { kernel: frozen.kernel.clone(), log2: kernel_log2 }));
        }
        let metric = config.metric.resolve(&encoder)?;
        let kernel = kernel(&config, &metric, None, 0.0);
        let weight_max = super::start::weight_bound(&encoder);
        Ok(Fixed { encoder: Arc::new(encoder), kernel, weight_max, rule, kernel_log2, config, frozen })
    }

    /// Whether rows carry weights.
    pub(crate) fn weighted(&self) -> bool {
        self.encoder.weight.is_some() || !self.encoder.class_weights.is_empty()
    }

    /// Shape of the Gram of so many centers.
    pub(crate) fn gram_shape(&self, centers: usize) -> GramShape {
        GramShape {
            centers,
            targets: self.frozen.code.width(),
            precision: self.config.precision,
            scale_log2: self.kernel_log2,
        }
    }

    /// Number of centers that `rows` rows get, where they span them.
    pub(crate) fn centers(&self, rows: u64) -> usize {
        (given_centers(&self.config).unwrap_or(1) as f64).min(rows as f64).max(1.0) as usize
    }

    /// The rule of the pool that centers are chosen from, with the key of its hashes.
    pub(crate) fn pool(&self) -> Option<PoolRule> {
        let rule = self.rule?;
        let (stage, most) = match rule.method {
            Method::RpCholesky { most, .. } => ("pool", most),
            Method::Squeak { .. } => ("pool", None),
            Method::Uniform => ("uniform", None),
            Method::File => return None,
        };
        Some(PoolRule { key: StreamKey::new(self.config.seed, stage, 0), bits: rule.pool_bits, most })
    }

    /// The key of the hashes that the sample is drawn by.
    pub(crate) fn sample_key(&self) -> StreamKey {
        StreamKey::new(self.config.seed, "sample", 0)
    }

    /// The sample of so many rows.
    pub(crate) fn sample(&self, rows: u64) -> PoolRule {
        PoolRule::all(self.sample_key(), pool_bits(rows, SAMPLE_ROWS))
    }

    /// The pool, where it is all that the choice of centers reads.
    pub(crate) fn candidates(&self) -> Option<PoolRule> {
        let squeak = self.rule.is_some_and(|rule| matches!(rule.method, Method::Squeak { .. }));
        self.pool().filter(|_| !squeak)
    }

    /// What a worker of so many keeps of the dictionary's trie, where there is one.
    pub(crate) fn nodes(&self, workers: usize) -> Option<KnownNodes> {
        let limit = self.config.memory / HELD_SHARE / workers as u64;
        self.rule.filter(|rule| matches!(rule.method, Method::Squeak { .. })).map(|_| KnownNodes::new(limit))
    }

    /// Bytes that a process may keep of a choice of pivots for the next one.
    pub(crate) fn known_bytes(&self) -> u64 {
        match self.rule.map(|rule| rule.method) {
            Some(Method::RpCholesky { most, .. }) => {
                8 * KNOWN_ROUNDS * most.unwrap_or(4 * self.centers(u64::MAX) as u64)
            }
            _ => 0,
        }
    }

    /// Pivots on the pool that are kept for the next choice: none yet.
    pub(crate) fn pivots(&self) -> KnownPivots {
        KnownPivots::new(self.known_bytes())
    }

    fn selection(&self, rows: u64) -> Selection {
        let Some(rule) = self.rule else { return Selection::File };
        let pool = pool_rows(rows, rule.pool_bits);
        match rule.method {
            Method::RpCholesky { most, .. } => {
                Selection::RpCholesky { rows: most.map_or(pool, |most| pool.min(most)), full: false }
            }
            Method::Squeak { atoms, .. } => Selection::Squeak { rows: pool, atoms },
            Method::Uniform => Selection::Uniform,
            Method::File => Selection::File,
        }
    }
}

/// The rows that are there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// n.
    pub rows: u64,
    /// sum w, class weights included, rounded once.
    pub weight_sum: f64,
}

/// Where a worker's share of the rows is read.
#[derive(Clone, Copy)]
pub(crate) struct Stores<'a> {
    /// Those of the sample, and perhaps others.
    pub sample: &'a RowStore,
    /// Those that the choice of centers looks at, and perhaps others.
    pub pool: &'a RowStore,
}

/// The model of the rows in `stores`, as `fit --config-from` makes it of the same set; every worker calls this in step. `known` are centers that are still right, and what is known of the choice before; `sums` gives the Gram
/// of the rows over the centers it is told.
///
/// # Errors
/// Those of [`fit`](super::fit()) for such rows.
pub(crate) fn refit<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    fixed: &Fixed,
    stores: Stores<'_>,
    held: Held,
    (known, before): (Option<Arc<Centers>>, Known<'_>),
    sums: impl FnOnce(&mut Session<'_>, &Arc<Centers>) -> Result<Arc<GramSums>, StageError>,
) -> Result<FitOutcome, StageError> {
    let (config, code, rows) = (&fixed.config, &fixed.frozen.code, held.rows);
    let mut clock = Clock::new(session);
    if rows == 0 {
        return Err(StageError::Data("no training rows: there is nothing to make a model of".into()));
    }
    if let Some(column) = fixed.encoder.weight.as_ref().filter(|_| held.weight_sum <= 0.0) {
        return Err(StageError::Data(format!(
            "the weights in column '{column}' are 0 in every row: nothing can be learned from them"
        )));
    }
    let sample = gather_pool(session, "sample", stores.sample.feed(Role::Training), fixed.sample(rows), Columns::All)?;
    clock.lap("sample");
    let (ridge, ridge_matrix) = ridges(config, None, held.weight_sum, rows);
    let selection = fixed.selection(rows);
    let row = 4 * fixed.encoder.numeric_width() + 2 * fixed.encoder.code_width() + 40;
    let work = DictionaryWork {
        rows_held: (config.memory / HELD_SHARE / row as u64).max(1),
        ..DictionaryWork::unbounded(session.process.workers())
    };
    let shape = Shape {
        rows: rows as f64,
        numeric: fixed.encoder.numeric_width() as f64,
        codes: fixed.encoder.code_width() as f64,
        targets: code.width() as f64,
    };
    session.process.entry_flops.store(shape.entry() as u64, Ordering::Relaxed);
    let centers = fixed.centers(rows);
    let profile = Profile {
        rows,
        targets: fixed.frozen.deviations.iter().map(|sd| TargetSummary { sd: *sd, ..Default::default() }).collect(),
        ..Profile::default()
    };
    let weights = Weights { sum: held.weight_sum, max: fixed.weight_max };
    let plan = plan(rows, centers, selection, work);
    let mut outcome = FitOutcome {
        sample_rows: sample.len() as u64,
        ..FitOutcome::planned(
            &fixed.encoder,
            profile,
            plan,
            (shape, code.width()),
            weights,
            (ridge, &fixed.kernel, fixed.kernel_log2),
        )
    };
    outcome.centers = match known {
        Some(centers) => centers,
        None => {
            let job = SelectJob {
                kernel: fixed.kernel.clone(),
                simd: config.simd,
                seed: config.seed,
                centers,
                selection,
                tempered: false,
                given: config.select.clone(),
                rule: config.dictionary_rule,
                ridge_matrix,
                rows,
                work,
            };
            select_again(session, stores.pool, &sample, &job, before)?
        }
    };
    if outcome.centers.ids.is_empty() {
        return Err(StageError::Data(match selection {
            Selection::Squeak { .. } => format!(
                "no centers: at the ridge {ridge:e} no row has a leverage worth keeping. Fit a model with a smaller --ridge, or --select rpcholesky"
            ),
            _ => "no centers: the pool that they are chosen from holds no row".into(),
        }));
    }
    clock.lap("dictionary");
    let sums = sums(session, &outcome.centers)?;
    clock.lap("gram");
    debug_assert_eq!(fixed.weighted(), is_weighted(&outcome));
    let shape = fixed.gram_shape(outcome.centers.ids.len());
    let solved = solve_sums::<T>(session, config, &sample, code, &outcome, &sums, shape)?;
    outcome.function = Some(session.once(|| function(config, code, &outcome, &solved)));
    outcome.solved = Some(solved);
    clock.lap("solve");
    clock.write(&mut outcome);
    Ok(outcome)
}

/// What was decided; nothing is planned.
fn plan(rows: u64, centers: usize, selection: Selection, dictionary: DictionaryWork) -> FitPlan {
    FitPlan {
        rows,
        centers,
        solver: Solver::Gram,
        selection,
        dictionary,
        sharded: false,
        rows_kept: false,
        passes: 0,
        bytes: 0,
        decoded: 0.0,
        flops: Vec::new(),
        memory: MemoryPlan::default(),
        reasons: Vec::new(),
        considered: Vec::new(),
    }
}
