//! `--mode exact` behind the command: the engine by a model's configuration, the rows that it rests on, and its models as `fit` would write them.

use super::open::{CONFIG, Opened, reopen};
use super::states::report_of;
use super::told::Told;
use crate::cli::ResourceArgs;
use crate::commands::Context;
use crate::exit::{ExitCode, Failure};
use crate::fitted::{function_of, variance_of};
use crate::model::Model;
use crate::repeat::frozen;
use nystream_dataflows::engine::SilentProgress;
use nystream_dataflows::job::{Bandwidth, DictionaryRule, FitConfig, Loss as FitLoss, MetricRequest, Select, Solver};
use nystream_dataflows::online::encoding::Encoding;
use nystream_dataflows::online::exact::{ExactEngine, ExactSetup};
use nystream_dataflows::online::learner::{Learner, Published};
use nystream_dataflows::online::session::Stored;
use nystream_dataflows::online::settings::{Mode, Settings};
use nystream_dataflows::online::state::State;
use nystream_dataflows::predict::Function;
use nystream_datasets::EncoderOptions;
use nystream_kernels::gram::Precision;
use nystream_kernels::online::{Curvature, Loss};
use nystream_kernels::rows::RowBuf;
use nystream_kernels::tile::SimdPath;
use std::path::PathBuf;

/// The column of keys where a model has none.
const KEY: &str = "key";

/// What the engine may take of the machine.
#[derive(Clone, Debug)]
pub struct Machine {
    workers: usize,
    memory: u64,
    disk_limit: u64,
    temp_dir: PathBuf,
}

impl Machine {
    /// As the options say.
    pub fn of(resources: &ResourceArgs) -> Self {
        Machine {
            workers: resources.worker_threads(),
            memory: resources.memory.0,
            disk_limit: resources.disk_limit.0,
            temp_dir: resources.temporary_folder(),
        }
    }

    /// Where a command has no such options: one worker, 8 GiB of memory, and as much disk as there is.
    pub fn plain() -> Self {
        Machine { workers: 1, memory: 8 << 30, disk_limit: u64::MAX, temp_dir: std::env::temp_dir() }
    }
}

/// What is stored of the learner's options: there are none but the model's.
fn settings(model: &Model) -> Settings {
    Settings {
        mode: Mode::Exact,
        loss: Loss::Squared,
        curvature: Curvature::Adaptive,
        alpha: 0.0,
        gamma: 0.0,
        spread: false,
        beta: 0.0,
        cap: 0,
        clip: None,
        forgetting: 1.0,
        block: 1,
        window: 0,
        hindsight: 0,
        drift: None,
        least: 0.0,
        seed: model.config.seed,
    }
}

/// The configuration of `source` for rows with keys: all else, its split too, stays.
fn keyed(source: &Model) -> Result<Model, Failure> {
    let (mut encoder, _) = function_of(source, None)?;
    encoder.id_column.get_or_insert_with(|| KEY.to_owned());
    let mut model = source.clone();
    model.config.encoder = crate::model::json::faithful(&encoder).map_err(Failure::data)?;
    Ok(model)
}

/// Begins a run in `state` by the configuration of `source`.
///
/// # Errors
/// A configuration that the engine cannot keep (2), or that does not fit the machine (4).
pub fn begin(
    state: State,
    source: &Model,
    whole: bool,
    told: impl FnOnce(Settings) -> Told,
    machine: &Machine,
) -> Result<Opened, Failure> {
    if whole {
        return Err(Failure::usage(
            "--mode exact rests on rows, and a function has none: give --config-from MODEL, and the rows as a stream",
        ));
    }
    let model = keyed(source)?;
    let mut told = told(settings(&model));
    told.source = source.digest()?;
    // What the engine refuses leaves no state behind.
    let (_, mut engine, _) = self::engine(&model, machine)?;
    let learned = engine.snapshot()?;
    drop(engine);
    model.save(&state.path(CONFIG))?;
    let stored = Stored::begun(learned, told.rules.loss_window);
    state.save(&told.identity()?, 0, &stored)?;
    state.tell(&told.bytes()?)?;
    reopen(state, machine)
}

/// The engine, what encodes its rows, and what it predicts.
///
/// # Errors
/// As [`begin`].
pub fn engine(model: &Model, machine: &Machine) -> Result<(Encoding, Box<dyn Learner>, Function), Failure> {
    let (_, function) = function_of(model, None)?;
    let simd: SimdPath = function.simd;
    let mut config = FitConfig {
        encoder: EncoderOptions::default(),
        task: None,
        loss: FitLoss::Squared,
        family: None,
        bandwidth: Bandwidth::Auto,
        metric: MetricRequest::default(),
        ridges: None,
        centers: None,
        select: Select::Auto,
        dictionary_rows: None,
        dictionary_rule: DictionaryRule::default(),
        solver: Solver::Gram,
        precision: Precision::Single,
        seed: model.config.seed,
        simd,
        memory: machine.memory,
        disk_limit: machine.disk_limit,
        temp_dir: machine.temp_dir.clone(),
        max_flops: f64::INFINITY,
        tolerance: None,
        products: Default::default(),
        iterations: None,
        preconditioning: Default::default(),
        time_limit: None,
        max_bad_rows: 0,
        dictionary_only: false,
        variance: false,
        warm_start: None,
        sharding: Default::default(),
    };
    let frozen = frozen(model, &mut config)?;
    let setup = ExactSetup { config, frozen, workers: machine.workers, progress: Box::new(SilentProgress) };
    let engine = ExactEngine::new(setup)?;
    // Weights are a column of the model, or there are none: so has it the fit.
    let encoding = Encoding::new((**engine.encoder()).clone(), false)?;
    let template = Function {
        centers: RowBuf::new(function.centers.numeric_width, function.centers.code_width),
        coefficients: Vec::new(),
        variance: None,
        ..function
    };
    Ok((encoding, Box::new(engine), template))
}

/// The model of what was published: that of `fit --config-from` on the same rows, digest and all.
pub fn model_of(source: &Model, published: Published) -> Model {
    let Published { function, rows, sum_weights, .. } = published;
    let mut config = source.config.clone();
    (config.rows, config.sum_weights) = (rows, sum_weights);
    // Fewer rows than centers: as many as there are rows were asked for.
    config.selection.centers = config.selection.centers.map(|centers| centers.min(rows).max(1));
    let code = &function.code;
    let t = code.width();
    let coefficients = function.coefficients.iter().enumerate().map(|(i, c)| c * code.scale(i % t)).collect();
    let variance = variance_of(&function);
    let mut model = Model::new(config, function.centers, coefficients, code.centres.clone());
    model.variance = variance;
    model
}

/// Makes the model of the rows of a state from scratch and compares it with the one that was published last.
///
/// # Errors
/// A state that cannot be used (1).
pub fn verify(mut opened: Opened, context: &Context) -> Result<ExitCode, Failure> {
    let mut report = report_of(&mut opened)?;
    let path = opened.state.path("model.nys");
    let (published, made) = (path.exists().then(|| Model::load(&path)).transpose()?, report.model_digest.clone());
    let published = published.map(|model| model.digest()).transpose()?;
    let verified = made.is_some() && made == published;
    report.notes.push(match (&made, &published) {
        (Some(_), Some(_)) if verified => "the rows of the log, summed and solved from scratch, give the published model to the bit".into(),
        (Some(_), Some(_)) => {
            "the rows of the log give another model than the published one: rows have come or gone since, or one of them is damaged".into()
        }
        (Some(_), None) => "no model was published yet".into(),
        (None, _) => "there are no rows to make a model of".into(),
    });
    report.verified = Some(verified);
    context.output.report(&report)?;
    Ok(if verified { ExitCode::Done } else { ExitCode::Data })
}
