//! The fit: profile, sample, tune, plan, dictionary, solve, certify, evaluate.
//!
//! Every worker runs this function and holds the same values after each stage, so every decision is taken by all of them alike.

mod measure;
mod rows;
mod settings;
mod solve;

pub(crate) use settings::DIMENSION_ROWS;
pub use settings::ridge_share;

use crate::certify::Certificate;
use crate::dictionary::pool::{Pool, gather_pool, pool_bits};
use crate::dictionary::{Centers, SelectJob, select};
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::evaluate::Evaluation;
use crate::job::{FitConfig, Loss};
use crate::plan::{FitPlan, PlanRequest, Selection, Shape};
use crate::predict::Function;
use crate::profile::{Profile, SAMPLE_ROWS, duplicates, profile};
use crate::solve::Solved;
use crate::targets::TargetCode;
use crate::tune::{Tuned, median_distance};
use measure::certificate;
use nystream_datasets::{Catalog, Encoder, Role};
use nystream_hashing::StreamKey;
use nystream_kernels::gram::Precision;
use nystream_kernels::kernel::Kernel;
use rows::{keep_on_disk, keep_rows};
use settings::{check_task, effective_dimension, given_centers, kernel, ridges, tune_if_asked, weights};
use solve::rest;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// What a fit reads.
pub struct FitInputs {
    /// Training data.
    pub catalog: Catalog,
    /// Data to evaluate on, besides held-out rows.
    pub validation: Option<Catalog>,
    /// What is asked for.
    pub config: FitConfig,
    /// Encoder and target code of an earlier model, for `--config-from`.
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
}

/// What a fit found.
pub struct FitOutcome {
    /// The fitted function; `None` when only planned.
    pub function: Option<Arc<Function>>,
    /// The encoder.
    pub encoder: Arc<Encoder>,
    /// The profile.
    pub profile: Profile,
    /// Sum of the training rows' weights, class weights included.
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
    /// Passes over the rows.
    pub passes: u64,
    /// Largest weight, class weights included.
    pub weight_max: f64,
}

/// Wall time by stage. For reports only.
struct Clock {
    seconds: BTreeMap<String, f64>,
    last: Instant,
}

impl Clock {
    fn lap(&mut self, stage: &str) {
        let now = Instant::now();
        *self.seconds.entry(stage.to_owned()).or_default() += (now - self.last).as_secs_f64();
        self.last = now;
    }
}

/// Runs a fit.
///
/// # Errors
/// Whatever ends a stage; the same on every worker.
pub fn fit(session: &mut Session<'_>, inputs: &FitInputs) -> Result<FitOutcome, StageError> {
    let config = &inputs.config;
    let mut clock = Clock { seconds: BTreeMap::new(), last: Instant::now() };
    let columns = config.encoder.plan(&inputs.catalog.columns)?;
    let profile = profile(session, &inputs.catalog, &columns, &config.encoder, config.max_bad_rows)?;
    if profile.rows == 0 && profile.skipped_null_target > 0 && profile.bad + profile.held_out == 0 {
        let names: Vec<String> = config.encoder.targets.iter().map(|name| format!("'{name}'")).collect();
        return Err(StageError::Data(format!(
            "the target {} is null in all {} rows: nothing can be learned from it",
            names.join(", "),
            profile.skipped_null_target
        )));
    }
    let key_passes = match &config.encoder.id_column {
        Some(column) => duplicates::check(session, &inputs.catalog, column, config.memory)?,
        None => 0,
    };
    if profile.rows == 0 {
        return Err(StageError::Data(format!(
            "no training rows: {} rows have no target, {} are bad and {} are held out",
            profile.skipped_null_target, profile.bad, profile.held_out
        )));
    }
    let encoder = match &inputs.frozen {
        Some(frozen) => frozen.encoder.clone(),
        None => Encoder::fit(&profile.columns, &config.encoder)?,
    };
    let encoder = Arc::new(encoder);
    let code = match &inputs.frozen {
        Some(frozen) => frozen.code.clone(),
        None => TargetCode::new(&encoder, &profile)?,
    };
    check_task(config, &code)?;
    let metric = config.metric.resolve(&encoder)?;
    clock.lap("profile");

    let store = RowStore::new(
        &inputs.catalog,
        Arc::clone(&encoder),
        session.peers(),
        session.index(),
        Arc::clone(&session.process),
    );
    if keep_rows(config, &encoder, profile.rows) {
        store.keep_in_memory();
    }
    let sample_key = StreamKey::new(config.seed, "sample", 0);
    let bits = pool_bits(profile.rows, SAMPLE_ROWS);
    begin(session, "sample", profile.rows);
    let sample = gather_pool(session, "sample", store.feed(Role::Training), sample_key, bits)?;
    end(session);
    let (weight_sum, weight_max) = weights(&encoder, &profile);
    clock.lap("sample");

    let shape = Shape {
        rows: profile.rows as f64,
        numeric: encoder.numeric_width() as f64,
        codes: encoder.code_width() as f64,
        targets: code.width() as f64,
    };
    let median = *session.once(|| median_distance(&metric, sample.rows.view()));
    let tuned = tune_if_asked(session, config, &metric, &sample, &code, &shape, median)?;
    let kernel = kernel(config, &metric, tuned.as_ref(), median);
    clock.lap("tune");

    let (ridge, ridge_matrix) = ridges(config, tuned.as_ref(), weight_sum);
    // Only `--centers auto` asks for it.
    let dimension = session.try_once(|| match given_centers(config) {
        Some(_) => Ok(0.0),
        None => effective_dimension(config, &kernel, &sample, profile.rows, ridge_matrix),
    })?;
    let same_nulls = profile.targets.iter().all(|t| t.count == profile.rows) || code.is_classification();
    let request = PlanRequest {
        shape,
        centers: given_centers(config),
        solver: config.solver,
        select: config.select.clone(),
        dictionary_rows: config.dictionary_rows,
        precision: config.precision,
        effective_dimension: *dimension,
        max_flops: config.max_flops,
        memory: config.memory,
        workers: session.process.workers(),
        processes: session.process.processes(),
        iterations: config.iterations,
        one_gram: same_nulls && config.loss == Loss::Squared,
        logistic: config.loss == Loss::Logistic,
        no_gram_reason: if same_nulls { "the loss is logistic" } else { "targets are null in different rows" },
        sample_rows: sample.len() as u64,
        classes: code.classes.len(),
    };
    let plan = request.plan()?;
    clock.lap("plan");
    let mut outcome = FitOutcome {
        function: None,
        encoder: Arc::clone(&encoder),
        weight_sum,
        target_weights: vec![weight_sum; code.width()],
        ridge,
        tuned,
        median_distance: median,
        sample_rows: sample.len() as u64,
        kernel: kernel.clone(),
        plan,
        centers: Arc::new(Centers::default()),
        solved: None,
        certificate: Certificate::default(),
        validation: None,
        seconds: BTreeMap::new(),
        passes: 1 + profile.passes + key_passes,
        weight_max,
        profile,
    };
    if inputs.plan_only {
        outcome.seconds = clock.seconds;
        return Ok(outcome);
    }
    keep_on_disk(session, config, &store, &mut outcome);
    choose_centers(session, config, &store, &sample, ridge_matrix, &mut outcome, &mut clock)?;
    if config.dictionary_only {
        outcome.certificate = *certificate(session, config, &sample, ridge_matrix, true, &outcome)?;
        clock.lap("certify");
        outcome.seconds = clock.seconds;
        return Ok(outcome);
    }
    match config.precision {
        Precision::Single => rest::<f32>(session, inputs, &store, &sample, &code, &mut outcome, &mut clock)?,
        Precision::Double => rest::<f64>(session, inputs, &store, &sample, &code, &mut outcome, &mut clock)?,
    }
    outcome.seconds = clock.seconds;
    Ok(outcome)
}

/// Chooses the centers.
fn choose_centers(
    session: &mut Session<'_>,
    config: &FitConfig,
    store: &RowStore,
    sample: &Arc<Pool>,
    ridge_matrix: f64,
    outcome: &mut FitOutcome,
    clock: &mut Clock,
) -> Result<(), StageError> {
    let rows = outcome.profile.rows;
    let job = SelectJob {
        kernel: outcome.kernel.clone(),
        simd: config.simd,
        seed: config.seed,
        centers: outcome.plan.centers,
        selection: outcome.plan.selection,
        given: config.select.clone(),
        rule: config.dictionary_rule,
        ridge_matrix,
        rows,
        factor_memory: config.memory / 4,
    };
    begin(session, "dictionary", rows);
    let centers = select(session, store, sample, &job)?;
    end(session);
    if centers.ids.is_empty() {
        return Err(StageError::Data("no centers: the training rows hold no usable row".into()));
    }
    if !matches!(outcome.plan.selection, Selection::File) {
        outcome.passes += centers.passes.max(1);
    }
    outcome.centers = centers;
    clock.lap("dictionary");
    Ok(())
}

fn begin(session: &Session<'_>, name: &str, rows: u64) {
    if session.is_leader() {
        session.process.progress.begin(name, rows);
    }
}

fn end(session: &Session<'_>) {
    if session.is_leader() {
        session.process.progress.end();
    }
}
