//! The fit: profile, sample, tune, plan, dictionary, solve, certify, evaluate.
//!
//! Every worker runs this function and holds the same values after each stage, so every decision is taken by all of them alike.

mod clock;
pub(crate) mod live;
mod measure;
mod rows;
mod settings;
mod solve;
mod start;
mod warm;

pub use clock::processor_seconds;
pub use settings::ridge_share;
pub(crate) use settings::{CONVERGENCE_ROWS, DIMENSION_ROWS};

use crate::certify::Certificate;
use crate::dictionary::pool::{Pool, PoolRule, pool_bits};
use crate::dictionary::stored::{remembered_centers, remembered_pool};
use crate::dictionary::{Centers, LEAF_ROWS, SelectJob, select};
use crate::engine::checkpoint::{discard_all, remember_numbers};
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::engine::{Counters, agree, counters, same_everywhere};
use crate::error::StageError;
use crate::evaluate::Evaluation;
use crate::job::{DictionaryRule, FitConfig, Loss, Select, Solver};
use crate::nystrom::range::{expressible, kernel_log2, largest_diagonal};
use crate::plan::{ChosenRows, FitPlan, PlanRequest, SHRINK_ALGEBRA, Selection, Shape, preflight};
use crate::predict::Function;
use crate::profile::{Profile, SAMPLE_ROWS};
use crate::solve::Solved;
use crate::targets::TargetCode;
use crate::tune::{LawTrial, Tuned, median_distance, pivot_law, trial_flops, tries_law};
use clock::Clock;
use measure::certificate;
use nystream_datasets::{Catalog, Encoder, Role};
use nystream_hashing::StreamKey;
use nystream_kernels::gram::Precision;
use nystream_kernels::kernel::Kernel;
use rows::{keep_on_disk, keep_rows, row_bytes};
use settings::{
    check_dimensions, check_task, effective_dimension, given_centers, kernel, product_share, ridges, tune_if_asked,
    tune_reserve,
};
use solve::rest;
use start::{Start, decoding, start};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a fit reads.
pub struct FitInputs {
    /// Training data.
    pub catalog: Catalog,
    /// Data to evaluate on, besides held-out rows.
    pub validation: Option<Catalog>,
    /// What is asked for.
    pub config: FitConfig,
    /// What `--config-from` fixes besides `config`.
    pub frozen: Option<Frozen>,
    /// Stop after tuning and planning.
    pub plan_only: bool,
}

/// What `--config-from` fixes besides the configuration.
#[derive(Clone)]
pub struct Frozen {
    /// The encoder.
    pub encoder: Encoder,
    /// Centre, scale and classes of the targets.
    pub code: TargetCode,
    /// Standard deviation of each numeric target when the model was made: the unit of its errors.
    pub deviations: Vec<f64>,
    /// The kernel.
    pub kernel: Kernel,
    /// Power of two that bounds the kernel's values in an exact Gram, where the solver is one.
    pub kernel_log2: Option<i32>,
}

/// What a fit found.
pub struct FitOutcome {
    /// The fitted function; `None` when only planned.
    pub function: Option<Arc<Function>>,
    /// The encoder.
    pub encoder: Arc<Encoder>,
    /// The profile.
    pub profile: Profile,
    /// Its size.
    pub shape: Shape,
    /// Rows fitted to: the training rows, or those that were read within the time limit.
    pub rows: u64,
    /// Sum of the weights of these rows, class weights included.
    pub weight_sum: f64,
    /// The sum that makes each solver column's matrix ridge of its lambda: over the rows that have the target, where the solver can tell.
    pub target_weights: Vec<f64>,
    /// Per-sample ridge lambda that the solver is given; `gram` with `--ridge auto` chooses its own from the whole path.
    pub ridge: f64,
    /// What tuning found, when it ran.
    pub tuned: Option<Tuned>,
    /// Median distance between sample rows.
    pub median_distance: f64,
    /// Rows of the sample.
    pub sample_rows: u64,
    /// The kernel.
    pub kernel: Kernel,
    /// The plan.
    pub plan: FitPlan,
    /// The centers.
    pub centers: Arc<Centers>,
    /// The solution.
    pub solved: Option<Solved>,
    /// The certificate.
    pub certificate: Certificate,
    /// Error on held-out rows or the validation data.
    pub validation: Option<Evaluation>,
    /// Seconds by stage.
    pub seconds: BTreeMap<String, f64>,
    /// Those of them that this worker waited in passes for other workers, their results and the network.
    pub waiting: BTreeMap<String, f64>,
    /// Processor seconds of this process by stage, of all its threads; empty where the system does not say.
    pub processor: BTreeMap<String, f64>,
    /// Passes over the rows.
    pub passes: u64,
    /// Declared bound of the weights, class weights included.
    pub weight_max: f64,
    /// What all processes did.
    pub counters: Counters,
    /// Power of two that bounds the kernel's values in an exact Gram.
    pub kernel_log2: i32,
}

/// What rows weigh, class weights included.
#[derive(Clone, Copy)]
struct Weights {
    sum: f64,
    /// Declared bound.
    max: f64,
}

impl FitOutcome {
    /// Of a fit that has a plan and has found nothing, not even by tuning. With the plan: what it is of; the ridge with its kernel and the power of two that bounds it.
    fn planned(
        encoder: &Arc<Encoder>,
        profile: Profile,
        plan: FitPlan,
        (shape, targets): (Shape, usize),
        weights: Weights,
        (ridge, kernel, kernel_log2): (f64, &Kernel, i32),
    ) -> Self {
        FitOutcome {
            function: None,
            encoder: Arc::clone(encoder),
            rows: profile.rows,
            profile,
            shape,
            weight_sum: weights.sum,
            target_weights: vec![weights.sum; targets],
            ridge,
            tuned: None,
            median_distance: 0.0,
            sample_rows: 0,
            kernel: kernel.clone(),
            plan,
            centers: Arc::new(Centers::default()),
            solved: None,
            certificate: Certificate::default(),
            validation: None,
            seconds: BTreeMap::new(),
            waiting: BTreeMap::new(),
            processor: BTreeMap::new(),
            passes: 0,
            weight_max: weights.max,
            counters: Counters::default(),
            kernel_log2,
        }
    }
}

/// Runs a fit: every worker calls this in step, and each gets the same outcome.
///
/// Coefficients are in units of the scaled targets ([`TargetCode`]), ridges per sample, errors of the validation in the units of the
/// target.
///
/// ```
/// use nystream_dataflows::StageError;
/// use nystream_dataflows::engine::{Process, SilentProgress, run};
/// use nystream_dataflows::evaluate::Evaluation;
/// use nystream_dataflows::job::{FitInputs, fit};
/// use nystream_dataflows::job::{Bandwidth, DictionaryRule, FitConfig, Loss, MetricRequest, Select, Solver};
/// use nystream_datasets::{Catalog, EncoderOptions, Sources, Split};
/// use nystream_kernels::{gram::Precision, kernel::Family, tile::SimdPath};
///
/// let catalog = Catalog::open(&Sources::parse(&["synth:friedman1?rows=2000&d=5"])?)?;
/// // About 200 rows are held out, to measure the error on.
/// let split = Split::Hash { fraction: 0.1, column: None };
/// let config = FitConfig {
///     encoder: EncoderOptions { targets: vec!["y".into()], split, ..Default::default() },
///     task: None,
///     loss: Loss::Squared,
///     family: Some(Family::Gaussian),
///     // The median distance of the sample.
///     bandwidth: Bandwidth::TimesMedian(1.0),
///     metric: MetricRequest::default(),
///     // Of the mean loss: 1,800 rows make a matrix ridge of 1.8e-3.
///     ridges: Some(vec![1e-6]),
///     centers: Some(200),
///     select: Select::Auto,
///     dictionary_rows: None,
///     dictionary_rule: DictionaryRule::default(),
///     solver: Solver::Auto,
///     precision: Precision::Single,
///     seed: 0,
///     simd: SimdPath::detect(),
///     memory: 1 << 30,
///     disk_limit: 1 << 30,
///     temp_dir: std::env::temp_dir(),
///     max_flops: 1e12,
///     tolerance: None,
///     products: Default::default(),
///     iterations: None,
///     preconditioning: Default::default(),
///     time_limit: None,
///     max_bad_rows: 0,
///     dictionary_only: false,
///     variance: false,
///     warm_start: None,
///     sharding: Default::default(),
/// };
/// let inputs = FitInputs { catalog, validation: None, config, frozen: None, plan_only: false };
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let results = run(&process, communication, move |session| fit(session, &inputs)).unwrap();
///
/// let outcomes = results.into_iter().collect::<Result<Vec<_>, StageError>>()?;
/// let function = outcomes[0].function.as_ref().unwrap();
/// assert_eq!((function.centers(), function.coefficients.len()), (200, 200));
/// assert_eq!(function.coefficients, outcomes[1].function.as_ref().unwrap().coefficients);
/// // The target's noise is 1, its standard deviation about 5.
/// let Some(Evaluation::Regression(targets)) = &outcomes[0].validation else { panic!("regression was asked for") };
/// assert_eq!(targets[0].rows + outcomes[0].profile.rows, 2000);
/// assert!(targets[0].r2 > 0.85, "{targets:?}");
/// # Ok::<(), StageError>(())
/// ```
///
/// # Errors
/// The same on every worker:
/// * [`StageError::Usage`]: options that contradict each other or the data;
/// * [`StageError::Budget`]: a plan beyond memory, disk or flops, before the work where the footers tell;
/// * [`StageError::Data`]: what cannot be read or encoded, too many bad rows, nothing to learn from;
/// * [`StageError::Numeric`]: a factorisation that fails.
///
/// A solver that ends at its limit of iterations or time is no error: see [`Solved::stopped`].
pub fn fit(session: &mut Session<'_>, inputs: &FitInputs) -> Result<FitOutcome, StageError> {
    let mut planned = false;
    let done = fitted(session, inputs, &mut planned);
    if !planned && matches!(done, Err(StageError::Usage(_) | StageError::Budget(_))) {
        // What mends it makes another job of it.
        discard_all(session);
    }
    done
}

/// [`fit`], which says when nothing can be refused any more.
fn fitted(session: &mut Session<'_>, inputs: &FitInputs, planned: &mut bool) -> Result<FitOutcome, StageError> {
    let config = &inputs.config;
    let mut clock = Clock::new(session);
    preflight(&inputs.catalog, config, session.process.workers(), session.process.processes())?;
    let Start { profile, encoder, code, weight_sum, weight_max, passes } = start(session, inputs)?;
    if let Some(column) = encoder.weight.as_ref().filter(|_| weight_sum <= 0.0) {
        return Err(StageError::Data(format!(
            "the weights in column '{column}' are 0 in every training row: nothing can be learned from them"
        )));
    }
    check_task(config, &code)?;
    let metric = agree(session, config.metric.resolve(&encoder))?;
    same_everywhere(session, "the file of --metric", &metric)?;
    check_dimensions(config, &encoder, &metric)?;
    let bytes_per_pass = counters(session)?.bytes_read / passes.max(1);
    clock.lap("profile");

    let store = RowStore::new(
        &inputs.catalog,
        Arc::clone(&encoder),
        session.peers(),
        session.index(),
        Arc::clone(&session.process),
    );
    let mut kept = 0;
    if keep_rows(config, &encoder, profile.rows) {
        store.keep_in_memory();
        kept = profile.rows.div_ceil(session.process.processes() as u64) * row_bytes(&encoder);
    }
    let sample_key = StreamKey::new(config.seed, "sample", 0);
    let bits = pool_bits(profile.rows, SAMPLE_ROWS);
    begin(session, "sample", profile.rows);
    let sample = remembered_pool(session, "sample", store.feed(Role::Training), PoolRule::all(sample_key, bits))?;
    end(session);
    clock.lap("sample");

    let shape = Shape {
        rows: profile.rows as f64,
        numeric: encoder.numeric_width() as f64,
        codes: encoder.code_width() as f64,
        targets: code.width() as f64,
    };
    session.process.entry_flops.store(shape.entry() as u64, Ordering::Relaxed);
    let median = *session.once(|| median_distance(&metric, sample.rows.view()));
    let tuned = tune_if_asked(session, config, &metric, &sample, &code, &shape, median)?;
    let kernel = kernel(config, &metric, tuned.as_ref(), median);
    session.try_once(|| expressible(&kernel, sample.rows.view(), config.precision))?;
    if let Some(tuned) = tuned.as_ref().filter(|_| session.is_first()) {
        session.process.count_algebra(tuned.flops(&shape, sample.len()));
    }
    clock.lap("tune");

    let (ridge, ridge_matrix) = ridges(config, tuned.as_ref(), weight_sum, profile.rows);
    // `--centers auto` asks for it, and `--solver auto` with the ridge given, which fewer rows answer.
    let dimension = session.try_once(|| {
        let most = match given_centers(config) {
            None => DIMENSION_ROWS,
            Some(_) if config.solver == Solver::Auto && config.ridges.is_some() => CONVERGENCE_ROWS,
            Some(_) => return Ok(0.0),
        };
        effective_dimension(config, &kernel, &sample, (None, most), profile.rows, ridge_matrix)
    })?;
    let mut range = match inputs.frozen.as_ref().and_then(|frozen| frozen.kernel_log2) {
        Some(declared) => Ok(declared),
        None => kernel_log2(&kernel, sample.rows.view(), 0.0),
    };
    // What the sample may have missed. Solvers without a fixed point need not know.
    let ranged = range.is_ok() && inputs.frozen.is_none() && bits > 0 && !kernel.family.is_radial();
    let ranged = ranged && matches!(config.solver, Solver::Auto | Solver::Gram);
    if ranged {
        let largest = largest_diagonal(session, store.feed(Role::Training), &kernel)?;
        range = kernel_log2(&kernel, sample.rows.view(), largest);
    }
    let same_nulls = profile.targets.iter().all(|t| t.count == profile.rows) || code.is_classification();
    let no_gram_reason = if !same_nulls {
        Some("targets are null in different rows".to_owned())
    } else if config.loss == Loss::Logistic {
        Some("the loss is logistic".to_owned())
    } else {
        range.as_ref().err().cloned()
    };
    let product_share = product_share(session, config, &kernel, &sample, profile.rows)?;
    let workers = session.process.workers();
    let mut text = decoding(&inputs.catalog, &encoder, Role::All, workers)?;
    if let Some(validation) = &inputs.validation {
        text = text.larger(decoding(validation, &encoder, Role::Evaluation, workers)?);
    }
    let request = PlanRequest {
        text,
        label_bytes: code.classes.iter().map(|label| label.len() as u64).sum(),
        chosen: config.dictionary_only.then(|| {
            let key = config.encoder.id_column.as_deref();
            ChosenRows::new(&inputs.catalog, key, session.process.workers())
        }),
        before: tuned.iter().fold(profile.memory.clone(), |before, tuned| before.larger(tuned.memory.clone())),
        shape,
        centers: given_centers(config),
        solver: config.solver,
        from_model: inputs.frozen.is_some(),
        select: config.select.clone(),
        dictionary_rows: config.dictionary_rows,
        precision: config.precision,
        effective_dimension: *dimension,
        max_flops: config.max_flops,
        memory: config.memory,
        workers: session.process.workers(),
        processes: session.process.processes(),
        checkpoints: crate::engine::checkpoint::active(session),
        sharding: config.sharding,
        iterations: config.iterations,
        preconditioning: config.preconditioning,
        residual_tests: config.tolerance.is_some(),
        product_share,
        one_gram: no_gram_reason.is_none(),
        nulls_differ: !same_nulls,
        logistic: config.loss == Loss::Logistic,
        no_gram_reason: no_gram_reason.unwrap_or_default(),
        variance: config.variance,
        sample_rows: sample.len() as u64,
        bytes_per_pass,
        held_out: inputs.validation.as_ref().map_or(profile.held_out, |catalog| catalog.total_rows),
        evaluated: inputs.validation.is_some() || !matches!(encoder.split, nystream_datasets::SplitRule::None),
        tuning: tuned.as_ref().map_or(0.0, |tuned| tuned.flops(&shape, sample.len())),
        tuning_reserve: tune_reserve(config, &shape, sample.len()),
        dictionary_only: config.dictionary_only,
        passes_made: passes + 1,
        judges: solve::judge_count(config, &sample, profile.rows) as u64,
        judges_reserve: solve::most_judges(&sample, profile.rows) as u64,
        ridge,
        ridge_given: config.ridges.is_some(),
        kept_bytes: kept,
        theorem: matches!(config.dictionary_rule, DictionaryRule::Theorem { .. }),
        classes: code.classes.len(),
    };
    if request.centers.is_none() && session.is_first() {
        session.process.count_algebra(request.dimension_flops());
    }
    let mut plan = request.plan()?;
    let more = config.centers.filter(|asked| *asked as u64 > profile.rows);
    if let Some(asked) = more.filter(|_| !matches!(plan.selection, Selection::File)) {
        let who = if inputs.frozen.is_some() { "the model has" } else { "--centers asks for" };
        plan.reasons.push(format!("{who} {asked} centers, and there are no more than {} training rows", profile.rows));
    }
    let unequal = encoder.weight.is_some() || !encoder.class_weights.is_empty() || !same_nulls;
    if plan.solver == Solver::Pcg && unequal && !config.dictionary_only {
        // What the centers weigh.
        plan.passes += 1;
        plan.bytes += if kept == 0 { bytes_per_pass } else { 0 };
    }
    if kept > 0 && !plan.rows_kept {
        store.release();
        plan.reasons.push("encoded rows are decoded again in every pass: the memory is needed otherwise".into());
    }
    clock.lap("plan");
    let weights = Weights { sum: weight_sum, max: weight_max };
    let mut outcome = FitOutcome {
        tuned,
        median_distance: median,
        sample_rows: sample.len() as u64,
        passes: passes + 1 + u64::from(ranged),
        ..FitOutcome::planned(
            &encoder,
            profile,
            plan,
            (shape, code.width()),
            weights,
            (ridge, &kernel, range.unwrap_or(0)),
        )
    };
    session.process.watch.plan(outcome.plan.memory.total());
    keep_on_disk(session, config, &store, &mut outcome)?;
    *planned = true;
    if session.is_first() {
        let workers = session.peers();
        session.process.progress.say(&outcome.plan.summary(config.memory, workers));
    }
    if inputs.plan_only {
        clock.write(&mut outcome);
        return Ok(outcome);
    }
    choose_centers(session, config, &store, &sample, &code, ridge_matrix, &mut outcome, &mut clock)?;
    if config.dictionary_only {
        outcome.certificate = *certificate(session, config, &sample, ridge_matrix, true, &outcome)?;
        outcome.counters = counters(session)?;
        clock.lap("certify");
        clock.write(&mut outcome);
        return Ok(outcome);
    }
    match config.precision {
        Precision::Single => rest::<f32>(session, inputs, &store, &sample, &code, &mut outcome, &mut clock)?,
        Precision::Double => rest::<f64>(session, inputs, &store, &sample, &code, &mut outcome, &mut clock)?,
    }
    outcome.counters = counters(session)?;
    clock.write(&mut outcome);
    Ok(outcome)
}

/// Counts what choosing the centers took; passes over all rows count themselves.
fn count_selection(session: &Session<'_>, selection: Selection, centers: &Centers) {
    if !session.is_first() {
        return;
    }
    let (scored, m) = (centers.rows_scored, centers.ids.len() as u64);
    match selection {
        Selection::RpCholesky { full: false, .. } => session.process.count(scored * m, scored * m * m),
        Selection::Squeak { .. } => {
            let atoms = centers.size as u64;
            let leaves = (scored as f64 / (LEAF_ROWS as u64 * atoms).max(1) as f64).max(1.0).log2().ceil().exp2();
            session.process.count(scored * atoms, scored * atoms * atoms);
            session.process.count_algebra(SHRINK_ALGEBRA * (2.0 * leaves - 1.0) * (atoms as f64).powi(3));
        }
        _ => {}
    }
}

/// Chooses the centers.
#[allow(clippy::too_many_arguments)]
fn choose_centers(
    session: &mut Session<'_>,
    config: &FitConfig,
    store: &RowStore,
    sample: &Arc<Pool>,
    code: &TargetCode,
    ridge_matrix: f64,
    outcome: &mut FitOutcome,
    clock: &mut Clock,
) -> Result<(), StageError> {
    let rows = outcome.profile.rows;
    // Left open, the law of the pivots is the one that predicts better on the sample.
    let open = tries_law(&config.select, outcome.plan.selection);
    let trial = match open {
        true => {
            begin(session, "law of the pivots", 0);
            let (kernel, centers) = (&outcome.kernel, outcome.plan.centers);
            let found = remembered_law(session, || pivot_law(sample, code, kernel, config.simd, centers, config.seed))?;
            end(session);
            found
        }
        false => None,
    };
    let job = SelectJob {
        tempered: open && trial.is_some_and(|trial| trial.prefers_tempered()),
        kernel: outcome.kernel.clone(),
        simd: config.simd,
        seed: config.seed,
        centers: outcome.plan.centers,
        selection: outcome.plan.selection,
        given: config.select.clone(),
        rule: config.dictionary_rule,
        ridge_matrix,
        rows,
        work: outcome.plan.dictionary,
    };
    begin(session, "dictionary", rows * outcome.plan.dictionary.passes);
    let mut centers = remembered_centers(session, "centers", |session| select(session, store, sample, &job))?;
    end(session);
    let left_open = matches!((&config.select, outcome.plan.selection), (Select::Auto, Selection::Squeak { .. }));
    if centers.ids.is_empty() && left_open {
        // The choice of `auto`, so `auto` makes another.
        outcome.passes += centers.passes.max(1);
        outcome.plan.selection = Selection::Uniform;
        outcome.plan.reasons.push(format!(
            "centers by hash: at the ridge {:e} no training row has a leverage worth keeping. A smaller --ridge may predict better",
            outcome.ridge
        ));
        begin(session, "dictionary", rows);
        centers = select(session, store, sample, &SelectJob { selection: Selection::Uniform, ..job })?;
        end(session);
    }
    if centers.ids.is_empty() {
        return Err(StageError::Data(match outcome.plan.selection {
            Selection::Squeak { .. } => format!(
                "no centers: at the ridge {:e} no training row has a leverage worth keeping. Give a smaller --ridge, or --select rpcholesky",
                outcome.ridge
            ),
            _ => "no centers: the training rows hold no usable row".into(),
        }));
    }
    count_selection(session, outcome.plan.selection, &centers);
    if !matches!(outcome.plan.selection, Selection::File) {
        outcome.passes += centers.passes.max(1);
    }
    if let Some(trial) = trial {
        if session.is_first() {
            let flops = trial_flops(
                sample.len(),
                outcome.plan.centers,
                session.process.entry_flops.load(Ordering::Relaxed) as f64,
            );
            session.process.count_algebra(flops);
        }
        let law = if trial.prefers_tempered() { "w d^1/4" } else { "w d" };
        outcome.plan.reasons.push(format!(
            "pivots drawn by {law}: on the sample centers drawn by w d leave an error of {:.4}, by w d^1/4 {:.4} (standard error of the difference {:.4})",
            trial.papers, trial.tempered, trial.standard_error
        ));
    }
    outcome.centers = centers;
    clock.lap("dictionary");
    Ok(())
}

/// What `judge` finds, or found before.
fn remembered_law(
    session: &mut Session<'_>,
    judge: impl FnOnce() -> Option<LawTrial>,
) -> Result<Option<LawTrial>, StageError> {
    let numbers = remember_numbers(session, "law of the pivots", |session| {
        let found = *session.once(judge);
        Ok(found.iter().flat_map(|trial| [trial.papers, trial.tempered, trial.standard_error]).collect())
    })?;
    Ok(match numbers[..] {
        [papers, tempered, standard_error] => Some(LawTrial { papers, tempered, standard_error }),
        _ => None,
    })
}

/// A stage begins, on every worker in step.
fn begin(session: &mut Session<'_>, name: &str, rows: u64) {
    session.begin(name, rows);
}

/// It is over.
fn end(session: &mut Session<'_>) {
    session.end();
}
