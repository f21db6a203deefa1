//! The fit: profile, sample, tune, plan, dictionary, solve, certify, evaluate.
//!
//! Every worker runs this function and holds the same values after each stage, so every decision is taken by all of them alike.

use crate::certify::{Basis, Certificate, certify, exact_pencil};
use crate::dictionary::pool::{Pool, feature_key, gather_pool, pool_bits};
use crate::dictionary::{Centers, SelectJob, TileOracle, select};
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::evaluate::{Evaluation, evaluate};
use crate::job::evaluate::{left_out, nothing_to_measure};
use crate::job::{Bandwidth, FitConfig, Loss, Select, Solver, Task};
use crate::plan::{FitPlan, PlanRequest, Selection, Shape};
use crate::predict::{Function, VarianceFactor};
use crate::profile::{Profile, SAMPLE_ROWS, duplicates, profile};
use crate::solve::blockcd::BlockJob;
use crate::solve::eigenpro::order::Place;
use crate::solve::eigenpro::{EXACT_PROJECTION_CENTERS, EigenProJob};
use crate::solve::gram::{GramJob, exact_gram};
use crate::solve::logistic::LogisticJob;
use crate::solve::pcg::PcgJob;
use crate::solve::{Solved, blockcd, eigenpro, gram, logistic, pcg};
use crate::targets::TargetCode;
use crate::tune::{TUNE_FLOOR, TUNE_SHARE, TuneRequest, Tuned, median_distance, tune};
use faer::Mat;
use nystream_datasets::{Catalog, Encoder, Role};
use nystream_hashing::StreamKey;
use nystream_kernels::gram::{GramShape, Precision};
use nystream_kernels::kernel::{Family, Kernel, Metric};
use nystream_kernels::nystrom::WhitenMethod;
use nystream_kernels::sampling::RidgeFactor;
use nystream_kernels::solve::pcg::PcgParams;
use nystream_kernels::tile::{Entry, kernel_matrix, symmetric_kernel_matrix};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Sample rows from which the effective dimension is estimated.
pub(crate) const DIMENSION_ROWS: usize = 2000;
/// Sample rows that judge the ridge of a gram solve, at least.
const JUDGE_ROWS: usize = 4000;
/// Planned passes above which encoded rows are kept on disk when they do not fit in memory.
const CACHED_PASSES: u64 = 4;
/// Family when the kernel is not a function of the distance and no bandwidth was given.
const PLAIN_BANDWIDTH: f64 = 1.0;

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

    let ridge_matrix = match (config.ridge, &tuned) {
        (Some(lambda), _) => lambda * weight_sum,
        // A ratio of variances, so it does not grow with the rows.
        (None, Some(tuned)) => tuned.ridge_matrix,
        (None, None) => 1e-6 * weight_sum,
    };
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
    };
    let plan = request.plan()?;
    clock.lap("plan");
    let mut outcome = FitOutcome {
        function: None,
        encoder: Arc::clone(&encoder),
        weight_sum,
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
        passes: 2 + key_passes,
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
        Precision::Single => {
            rest::<f32>(session, inputs, &store, &sample, &code, ridge_matrix, &mut outcome, &mut clock)?
        }
        Precision::Double => {
            rest::<f64>(session, inputs, &store, &sample, &code, ridge_matrix, &mut outcome, &mut clock)?
        }
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

/// Measures the centers at the matrix ridge of their selection, or at `ridge_matrix` where there was none.
fn certificate(
    session: &mut Session<'_>,
    config: &FitConfig,
    sample: &Pool,
    ridge_matrix: f64,
    sampled_pencil: bool,
    outcome: &FitOutcome,
) -> Result<Arc<Certificate>, StageError> {
    let centers = &outcome.centers;
    if matches!(outcome.plan.solver, Solver::BlockCd) {
        // Every row is a center.
        return Ok(Arc::new(Certificate { epsilon: Some(0.0), sampled_trace_error: Some(0.0), pencil: None }));
    }
    if centers.ids.len() > EXACT_PROJECTION_CENTERS && matches!(outcome.plan.solver, Solver::EigenPro) {
        // K_mm is not factored anywhere in such a fit.
        return Ok(Arc::new(Certificate::default()));
    }
    let gamma = if centers.gamma > 0.0 { centers.gamma } else { ridge_matrix };
    session.try_once(|| {
        let (view, atoms) = (centers.rows.view(), centers.atoms.as_ref().filter(|_| sampled_pencil));
        let basis = Basis { kernel: &outcome.kernel, simd: config.simd, centers: view };
        certify(basis, &centers.ids, sample, atoms, gamma, outcome.profile.rows)
    })
}

/// The stages whose tiles have the chosen precision.
#[allow(clippy::too_many_arguments)]
fn rest<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    inputs: &FitInputs,
    store: &RowStore,
    sample: &Arc<Pool>,
    code: &TargetCode,
    ridge_matrix: f64,
    outcome: &mut FitOutcome,
    clock: &mut Clock,
) -> Result<(), StageError> {
    let config = &inputs.config;
    let rows = outcome.profile.rows;
    let centers = Arc::clone(&outcome.centers);
    let mut function = Function {
        kernel: outcome.kernel.clone(),
        centers: centers.rows.clone(),
        coefficients: Vec::new(),
        code: code.clone(),
        loss: config.loss,
        precision: config.precision,
        simd: config.simd,
        variance: None,
    };
    let tiles = session.try_once(|| function.tiles::<T>())?;
    let mut exact = None;
    let solved = match outcome.plan.solver {
        Solver::Gram => {
            let shape = GramShape {
                centers: centers.ids.len(),
                targets: code.width(),
                precision: config.precision,
                scale_log2: kernel_bound(&outcome.kernel, sample)?,
            };
            let weighted = outcome.encoder.weight.is_some() || !outcome.encoder.class_weights.is_empty();
            let job = GramJob { tiles: &tiles, code, shape, weight_max: outcome.weight_max, weighted };
            begin(session, "gram", rows);
            let sums = exact_gram(session, "gram", store.feed(Role::Training), &job)?;
            end(session);
            clock.lap("gram");
            let trace = outcome.kernel.family.is_radial().then_some(sums.weight_sum);
            let solved = session.try_once(|| {
                let kmm = symmetric_kernel_matrix(&outcome.kernel, centers.rows.view(), &[], config.simd)
                    .map_err(|e| StageError::Numeric(e.to_string()))?;
                let view = centers.rows.view();
                let places = (0..view.len()).map(|i| (feature_key(view, i), i)).collect();
                let judges = |range| judges(config, outcome, sample, code, weighted, &places, range);
                let count = judge_count(config, sample, rows);
                // Entries of full precision deserve the better conditioned basis; it costs another 9 m^3.
                let method = match config.precision {
                    Precision::Double => WhitenMethod::Eigen,
                    Precision::Single => WhitenMethod::Cholesky,
                };
                let entry_error = entry_error(config.precision) * 2f64.powi(shape.scale_log2);
                let choice = gram::RidgeChoice { given: config.ridge, count, judges: &judges, entry_error };
                gram::solve(&sums, kmm.as_ref(), method, &choice, trace, config.variance)
            })?;
            clock.lap("solve");
            // Weighted rows have another Gram than the dictionary was sampled for.
            if let Some(atoms) = centers.atoms.as_ref().filter(|_| !weighted) {
                let basis = Basis { kernel: &outcome.kernel, simd: config.simd, centers: centers.rows.view() };
                exact = *session.try_once(|| exact_pencil(basis, atoms, sums.gram.as_ref(), centers.gamma, rows))?;
                clock.lap("certify");
            }
            (*solved).clone()
        }
        Solver::Pcg if config.loss == Loss::Logistic => {
            let job = LogisticJob {
                tiles: &tiles,
                centers: centers.rows.view(),
                kernel: &outcome.kernel,
                simd: config.simd,
                code,
                // The squared-loss ridge over four has the same curvature at p = 1/2.
                ridge: config.ridge.unwrap_or(ridge_matrix / outcome.weight_sum / 4.0),
                weight_sum: outcome.weight_sum,
                sample,
                tolerance: config.tolerance,
                iterations: config.iterations,
                time_limit: config.time_limit,
            };
            let solved = logistic::solve(session, store, &job)?;
            clock.lap("solve");
            solved
        }
        Solver::Pcg => {
            let defaults = PcgParams::default();
            let params = PcgParams {
                tolerance: config.tolerance,
                max_iterations: config.iterations.unwrap_or(defaults.max_iterations),
                ..defaults
            };
            let job = PcgJob {
                tiles: &tiles,
                centers: centers.rows.view(),
                kernel: &outcome.kernel,
                simd: config.simd,
                code,
                ridge: ridge_matrix / outcome.weight_sum,
                weight_sum: outcome.weight_sum,
                sample,
                params,
                warm_start: warm_start(config, code, &centers),
                time_limit: config.time_limit,
            };
            let solved = pcg::solve(session, store, &job)?;
            clock.lap("solve");
            solved
        }
        Solver::EigenPro => {
            let solved = eigenpro::solve(
                session,
                store,
                &eigenpro_job(session, config, &tiles, code, ridge_matrix, sample, outcome),
            )?;
            clock.lap("solve");
            solved
        }
        Solver::BlockCd => {
            let job = BlockJob {
                tiles: &tiles,
                centers: &centers.rows,
                kernel: &outcome.kernel,
                simd: config.simd,
                code,
                ridge: ridge_matrix / outcome.weight_sum,
                weight_sum: outcome.weight_sum,
                seed: config.seed,
                tolerance: config.tolerance,
                epochs: config.iterations,
                warm_start: warm_start(config, code, &centers),
                time_limit: config.time_limit,
            };
            let solved = blockcd::solve(session, store, &job)?;
            clock.lap("solve");
            solved
        }
        Solver::Auto => return Err(StageError::Internal("the plan named no solver".into())),
    };
    outcome.passes += solved.passes;
    function.coefficients = solved.coefficients.clone();
    if let (Some((factor, rank)), Some(quality)) = (&solved.variance, &solved.fit_quality) {
        function.variance = Some(variance_factor(factor, *rank, quality, &solved, code, outcome));
    }
    let ridge = solved.ridges[0] * outcome.weight_sum;
    let measured = certificate(session, config, sample, ridge, exact.is_none(), outcome)?;
    outcome.certificate = Certificate { pencil: exact.or(measured.pencil), ..*measured };
    clock.lap("certify");

    let function = session.once(|| function.clone());
    outcome.validation = validation(session, inputs, store, &function, &tiles, outcome)?;
    clock.lap("validation");
    outcome.solved = Some(solved);
    outcome.function = Some(function);
    Ok(())
}

fn eigenpro_job<'a, T: Entry>(
    session: &Session<'_>,
    config: &'a FitConfig,
    tiles: &'a Arc<nystream_kernels::tile::Tiles<T>>,
    code: &'a TargetCode,
    ridge_matrix: f64,
    sample: &'a Arc<Pool>,
    outcome: &'a FitOutcome,
) -> EigenProJob<'a, T> {
    let row_bytes = row_bytes(&outcome.encoder);
    let rows = outcome.profile.rows;
    let place = if keep_rows(config, &outcome.encoder, rows) {
        Place::Memory(config.memory / 3)
    } else {
        Place::Disk(config.temp_dir.clone(), config.disk_limit / session.process.workers() as u64)
    };
    EigenProJob {
        tiles,
        centers: &outcome.centers.rows,
        kernel: &outcome.kernel,
        simd: config.simd,
        code,
        ridge: ridge_matrix / outcome.weight_sum,
        weight_sum: outcome.weight_sum,
        rows,
        held_out: outcome.profile.held_out,
        sample,
        seed: config.seed,
        epochs: config.iterations,
        warm_start: warm_start(config, code, &outcome.centers),
        time_limit: config.time_limit,
        row_bytes,
        place,
        exact: outcome.centers.ids.len() <= EXACT_PROJECTION_CENTERS,
    }
}

/// Sample rows that judge the ridge of a gram solve: none when it is given; otherwise as many as cost no more than the Gram.
fn judge_count(config: &FitConfig, sample: &Pool, rows: u64) -> usize {
    if config.ridge.is_some() { 0 } else { sample.len().min((rows as usize / 2).max(JUDGE_ROWS)) }
}

/// Rows `range` of the sample, as leave-one-out judges of the ridge.
fn judges(
    config: &FitConfig,
    outcome: &FitOutcome,
    sample: &Pool,
    code: &TargetCode,
    weighted: bool,
    places: &BTreeMap<[u8; 32], usize>,
    range: std::ops::Range<usize>,
) -> Result<gram::Judges, StageError> {
    let (m, t, raw) = (outcome.centers.ids.len(), code.width(), sample.target_width);
    let x = sample.rows.view().slice(range.start, range.end);
    let k = kernel_matrix::<f64>(&outcome.kernel, x, outcome.centers.rows.view(), &[], config.simd)
        .map_err(|e| StageError::Numeric(e.to_string()))?;
    let own = (0..x.len()).map(|i| places.get(&feature_key(x, i)).copied()).collect();
    let mut row = vec![0.0; t];
    let mut targets = Mat::zeros(range.len(), t);
    for (at, i) in range.clone().enumerate() {
        code.encode(&sample.targets[i * raw..(i + 1) * raw], &mut row);
        (0..t).for_each(|j| targets[(at, j)] = row[j]);
    }
    let sqrt_weights =
        weighted.then(|| sample.weights[range.clone()].iter().map(|w| (w / outcome.weight_max).sqrt()).collect());
    Ok(gram::Judges { entries: Mat::from_fn(range.len(), m, |i, j| k[i * m + j]), targets, sqrt_weights, own })
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

fn check_task(config: &FitConfig, code: &TargetCode) -> Result<(), StageError> {
    if config.loss == Loss::Logistic && !code.is_classification() {
        return Err(StageError::Usage(
            "--loss logistic needs classes: give --task classification, or a text target".into(),
        ));
    }
    if config.task == Some(Task::Classification) && !code.is_classification() {
        return Err(StageError::Usage("--task classification needs one target of classes".into()));
    }
    Ok(())
}

/// Bytes of an encoded training row in memory or in a cache.
fn row_bytes(encoder: &Encoder) -> u64 {
    (4 * encoder.numeric_width() + 2 * encoder.code_width() + 8 * encoder.target_width() + 48) as u64
}

/// Whether encoded training rows fit in a third of the memory budget: then they are decoded once.
fn keep_rows(config: &FitConfig, encoder: &Encoder, rows: u64) -> bool {
    rows.saturating_mul(row_bytes(encoder)) <= config.memory / 3
}

/// Has the rows kept on disk where they do not fit in memory, will be read often, and fit the disk budget; says what was done.
/// What the passes see is the same in each case.
fn keep_on_disk(session: &Session<'_>, config: &FitConfig, store: &RowStore, outcome: &mut FitOutcome) {
    let full = matches!(outcome.plan.selection, Selection::RpCholesky { full: true, .. });
    let encoder = &outcome.encoder;
    if keep_rows(config, encoder, outcome.profile.rows) || !(full || outcome.plan.passes > CACHED_PASSES) {
        return;
    }
    // Workers own equal numbers of blocks, so an equal share of the budget serves each.
    let limit = config.disk_limit / session.process.workers() as u64;
    let workers = session.peers() as u64;
    let share = store.total_blocks().div_ceil(workers) * nystream_datasets::BLOCK_ROWS * row_bytes(encoder);
    // Archives carry a little more than the rows.
    let needed = share + share / 16 + (1 << 16);
    let size = crate::plan::human(needed * session.process.workers() as u64);
    outcome.plan.reasons.push(if needed <= limit {
        store.keep_on_disk(&config.temp_dir, limit);
        format!("encoded rows are kept on disk, about {size} a process")
    } else {
        format!("encoded rows are decoded again in every pass: a cache would take about {size} of disk a process")
    });
}

/// Sum and maximum of the weights with class weights, from the profile alone.
fn weights(encoder: &Encoder, profile: &Profile) -> (f64, f64) {
    if encoder.class_weights.is_empty() {
        return (profile.weight_sum, profile.weight_max.max(f64::MIN_POSITIVE));
    }
    let target = profile.columns.iter().find(|c| c.name == encoder.targets[0]);
    let levels = target.and_then(|t| t.levels.as_ref());
    let classes = encoder.classes().unwrap_or_default();
    let count =
        |class: &String| levels.and_then(|l| l.iter().find(|(name, _)| name == class)).map_or(0.0, |(_, n)| *n as f64);
    // Row weights and class weights together: the mean row weight stands for each class.
    let mean = profile.weight_sum / profile.rows as f64;
    let sum = classes.iter().zip(&encoder.class_weights).map(|(class, w)| w * count(class) * mean).sum();
    let largest = encoder.class_weights.iter().copied().fold(0.0, f64::max);
    (sum, (largest * profile.weight_max).max(f64::MIN_POSITIVE))
}

fn tune_if_asked(
    session: &mut Session<'_>,
    config: &FitConfig,
    metric: &Metric,
    sample: &Pool,
    code: &TargetCode,
    shape: &Shape,
    median: f64,
) -> Result<Option<Tuned>, StageError> {
    let bandwidth = match config.bandwidth {
        Bandwidth::Auto => None,
        Bandwidth::Absolute(sigma) => Some(sigma),
        Bandwidth::TimesMedian(times) => Some(times * median),
    };
    let ridge_needed = config.ridge.is_none();
    if config.family.is_some() && bandwidth.is_some() && !ridge_needed {
        return Ok(None);
    }
    let m = given_centers(config).map_or_else(|| (shape.rows.sqrt() * 10.0).min(2000.0), |m| m as f64);
    let planned = shape.gram(m.min(shape.rows)).flops;
    let request = TuneRequest {
        family: config.family,
        bandwidth,
        metric: metric.clone(),
        simd: config.simd,
        flops: (TUNE_SHARE * planned).max(TUNE_FLOOR),
    };
    begin(session, "tune", 0);
    let tuned = tune(session, sample, code, &request)?;
    end(session);
    Ok(Some(tuned))
}

fn kernel(config: &FitConfig, metric: &Metric, tuned: Option<&Tuned>, median: f64) -> Kernel {
    if let Some(tuned) = tuned {
        return tuned.kernel.clone();
    }
    let family = config.family.unwrap_or(Family::Gaussian);
    let bandwidth = match config.bandwidth {
        Bandwidth::Absolute(sigma) => sigma,
        Bandwidth::TimesMedian(times) => times * median,
        Bandwidth::Auto if family.is_radial() => median,
        Bandwidth::Auto => PLAIN_BANDWIDTH,
    };
    Kernel { family, bandwidth, metric: metric.clone() }
}

fn given_centers(config: &FitConfig) -> Option<usize> {
    match &config.select {
        Select::File(catalog) => Some(catalog.total_rows as usize),
        _ => config.centers,
    }
}

/// d_eff(n lambda), from the eigenvalues of the sample's kernel matrix.
fn effective_dimension(
    config: &FitConfig,
    kernel: &Kernel,
    sample: &Pool,
    rows: u64,
    ridge_matrix: f64,
) -> Result<f64, StageError> {
    let s = sample.len().min(DIMENSION_ROWS);
    let oracle = TileOracle::new(kernel, config.simd);
    let head = sample.rows.view().slice(0, s);
    let numeric = |e: nystream_kernels::sampling::SamplingError| StageError::Numeric(e.to_string());
    let gamma = ridge_matrix.max(1e-9 * rows as f64);
    let fraction = s as f64 / rows.max(s as u64) as f64;
    // One ridge needs no eigenvectors: scores within the sample by one Cholesky, then the bracket of `ScoreSample`.
    let factor = RidgeFactor::new(&oracle, head, &vec![1.0; s], gamma * fraction).map_err(numeric)?;
    let score = |tau: &f64| {
        let inside = tau.min(1.0);
        let (low, high) = (fraction * inside, fraction * inside / (1.0 - inside + fraction * inside));
        (low * high).sqrt()
    };
    Ok(factor.atom_scores().scores.iter().map(score).sum::<f64>() / s.max(1) as f64 * rows as f64)
}

/// Rounding error of a kernel entry at most 1: that of the exact Gram's grid, which f32 entries nearly reach too.
fn entry_error(precision: Precision) -> f64 {
    match precision {
        Precision::Single => 2f64.powi(-22),
        Precision::Double => 2f64.powi(-44),
    }
}

/// Least power of two that bounds the kernel's values on the sample with room to spare; 0 for kernels with k(x, x) = 1.
fn kernel_bound(kernel: &Kernel, sample: &Pool) -> Result<i32, StageError> {
    if kernel.family.is_radial() {
        return Ok(0);
    }
    let mut diagonal: Vec<f64> = (0..sample.len()).map(|i| kernel.diagonal(sample.rows.view(), i)).collect();
    diagonal.sort_by(f64::total_cmp);
    let (median, largest) = (diagonal[diagonal.len() / 2], diagonal[diagonal.len() - 1]);
    let bound = (4.0 * largest).max(f64::MIN_POSITIVE);
    if bound > 64.0 * median.max(f64::MIN_POSITIVE) * 4.0 {
        return Err(StageError::Usage(format!(
            "--solver gram cannot hold this kernel exactly: k(x, x) reaches {largest:.3e} where its median is {median:.3e}. Use --solver pcg"
        )));
    }
    Ok(bound.log2().ceil() as i32)
}

/// Coefficients of the earlier model where its centers are among the new ones (by their features).
fn warm_start(config: &FitConfig, code: &TargetCode, centers: &Centers) -> Option<Vec<f64>> {
    let warm = config.warm_start.as_ref()?;
    let t = code.width();
    let widths = |rows: &nystream_kernels::rows::RowBuf| (rows.numeric_width, rows.code_width);
    if warm.coefficients.len() != warm.centers.len() * t || widths(&warm.centers) != widths(&centers.rows) {
        return None;
    }
    let features = |rows: &nystream_kernels::rows::RowBuf, i: usize| {
        let view = rows.view();
        (view.numeric(i).iter().map(|v| v.to_bits()).collect::<Vec<_>>(), view.codes(i).to_vec())
    };
    let known: BTreeMap<_, usize> = (0..warm.centers.len()).map(|i| (features(&warm.centers, i), i)).collect();
    let mut out = vec![0.0; centers.ids.len() * t];
    for i in 0..centers.ids.len() {
        if let Some(from) = known.get(&features(&centers.rows, i)) {
            out[i * t..(i + 1) * t].copy_from_slice(&warm.coefficients[from * t..(from + 1) * t]);
        }
    }
    Some(out)
}

fn variance_factor(
    factor: &[f64],
    rank: usize,
    quality: &[crate::solve::FitQuality],
    solved: &Solved,
    code: &TargetCode,
    outcome: &FitOutcome,
) -> VarianceFactor {
    let n = outcome.profile.rows as f64;
    let noise: Vec<f64> = quality
        .iter()
        .enumerate()
        .map(|(k, q)| {
            let free = (1.0 - q.degrees_of_freedom / n).max(1.0 / n);
            q.mean_squared_residual / free * code.scale(k).powi(2)
        })
        .collect();
    let signal = noise.iter().zip(&solved.ridges).map(|(v, lambda)| v / (lambda * outcome.weight_sum)).collect();
    VarianceFactor { factor: factor.to_vec(), rank, noise, signal }
}

fn validation<T: Entry>(
    session: &mut Session<'_>,
    inputs: &FitInputs,
    store: &RowStore,
    function: &Arc<Function>,
    tiles: &Arc<nystream_kernels::tile::Tiles<T>>,
    outcome: &mut FitOutcome,
) -> Result<Option<Evaluation>, StageError> {
    let feed = if let Some(catalog) = &inputs.validation {
        let other = RowStore::new(
            catalog,
            Arc::clone(&outcome.encoder),
            session.peers(),
            session.index(),
            Arc::clone(&session.process),
        );
        other.feed(Role::Evaluation)
    } else if matches!(outcome.encoder.split, nystream_datasets::SplitRule::None) {
        return Ok(None);
    } else {
        store.feed(Role::HeldOut)
    };
    outcome.passes += 1;
    begin(session, "validation", outcome.profile.held_out);
    let evaluation = evaluate(session, "validation", feed, function, tiles)?;
    end(session);
    if let Some(catalog) = &inputs.validation {
        left_out(session, catalog, inputs.config.max_bad_rows)?;
        if evaluation.rows() == 0 {
            return Err(nothing_to_measure(&outcome.encoder));
        }
    }
    // A split of few rows may hold none out.
    Ok(Some(evaluation).filter(|evaluation| evaluation.rows() > 0))
}
