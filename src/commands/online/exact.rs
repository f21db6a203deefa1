//! `--mode exact` behind the command: the engine by a model's configuration, the rows that it rests on, and its models as `fit` would write them.

use super::open::{CONFIG, Opened, refuse_path, reopen};
use super::told::Told;
use crate::cli::{OnlineArgs, ResourceArgs};
use crate::commands::Context;
use crate::exit::{self, ExitCode, Failure};
use crate::fitted::{function_of, variance_of};
use crate::jobs::{Identity, Workers, stage_error};
use crate::model::Model;
use crate::progress::Progress;
use crate::repeat::frozen;
use nystream_dataflows::engine::SilentProgress;
use nystream_dataflows::job::{FitConfig, Frozen, Solver};
use nystream_dataflows::online::encoding::Encoding;
use nystream_dataflows::online::exact::{ExactEngine, ExactSetup, Joined, Threads};
use nystream_dataflows::online::learner::{Learner, Published, RunEnd};
use nystream_dataflows::online::session::Stored;
use nystream_dataflows::online::settings::{Mode, Settings};
use nystream_dataflows::online::state::State;
use nystream_dataflows::predict::Function;
use nystream_datasets::EncoderOptions;
use nystream_kernels::rows::RowBuf;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The column of keys where a model has none.
const KEY: &str = "key";

/// What the engine may take of the machine.
#[derive(Clone, Debug)]
pub struct Machine {
    workers: usize,
    memory: u64,
    disk_limit: u64,
    temp_dir: PathBuf,
    /// Whether a restart goes on from the stored sums.
    sums: bool,
    /// Where they are.
    folder: Option<PathBuf>,
    /// The processes that it is to run in, where there are several: those of these options.
    hosts: Option<(ResourceArgs, Progress)>,
}

/// How long a process that takes part waits for the end of the run before a further signal ends it: longer than a launcher gives it.
const PATIENCE: Duration = Duration::from_secs(15);

/// The folder of the sums in that of the state.
pub(super) const SUMS: &str = "exact";

impl Machine {
    /// As the options say.
    pub fn of(resources: &ResourceArgs, progress: &Progress) -> Self {
        Machine {
            workers: resources.worker_threads(),
            memory: resources.memory.0,
            disk_limit: resources.disk_limit.0,
            temp_dir: resources.temporary_folder(),
            sums: true,
            folder: None,
            hosts: resources.hosts.as_ref().map(|_| (resources.clone(), progress.clone())),
        }
    }

    /// Where a command has no such options: one worker, 8 GiB of memory, and as much disk as there is.
    pub fn plain() -> Self {
        let (workers, memory, temp_dir) = (1, 8 << 30, std::env::temp_dir());
        Machine { workers, memory, disk_limit: u64::MAX, temp_dir, sums: true, folder: None, hosts: None }
    }

    /// For a run that is to sum all of its rows anew.
    pub fn from_scratch() -> Self {
        Machine { sums: false, ..Machine::plain() }
    }

    /// The same, where the run in `state` is opened.
    pub fn of_state(&self, state: &State) -> Self {
        Machine { folder: self.sums.then(|| state.path(SUMS)), ..self.clone() }
    }
}

/// The configuration of `source` for rows with keys: all else, its split too, stays.
pub fn keyed(source: &Model) -> Result<Model, Failure> {
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
    let mut told = told(Settings::bare(Mode::Exact, model.config.seed));
    told.source = source.digest()?;
    // What the engine refuses leaves no state behind.
    let (config, frozen) = taken(&model, machine)?;
    ExactEngine::can_be_made(config, frozen, machine.workers)?;
    let learned = Vec::new();
    model.save(&state.path(CONFIG))?;
    let stored = Stored::begun(learned, told.rules.loss_window);
    state.save(&told.identity()?, 0, &stored)?;
    state.tell(&told.bytes()?)?;
    reopen(state, machine)
}

/// What the engine takes over of `model`.
fn taken(model: &Model, machine: &Machine) -> Result<(FitConfig, Frozen), Failure> {
    let (_, function) = function_of(model, None)?;
    let mut config = FitConfig {
        solver: Solver::Gram,
        seed: model.config.seed,
        simd: function.simd,
        memory: machine.memory,
        disk_limit: machine.disk_limit,
        temp_dir: machine.temp_dir.clone(),
        max_flops: f64::INFINITY,
        ..FitConfig::of_columns(EncoderOptions::default())
    };
    let frozen = frozen(model, &mut config)?;
    Ok((config, frozen))
}

/// Takes part in a run whose first process is another, until it ends; what this process was asked meanwhile changes nothing about how it does.
///
/// # Errors
/// Processes that do not come together (6), what this one cannot keep of the configuration (2, 4), a run that ended before its end (5).
pub fn follow(args: &OnlineArgs, context: &Context) -> Result<ExitCode, Failure> {
    let machine = Machine::of(&args.resources, &context.progress);
    let (process, communication) = joined(&args.resources, &context.progress)?.into_parts();
    let make = move |told: &[u8]| {
        let made = Model::from_bytes(told, Path::new(CONFIG)).map_err(Failure::from).and_then(|model| {
            refuse_path(&model)?;
            taken(&model, &machine)
        });
        made.map_err(stage_error)
    };
    // The first process ends the run, after a last snapshot. A launcher that stops all asks each second, to no end: only who still asks after a while does not want to wait for it.
    let asked = OnceLock::new();
    exit::take_interrupts(move || {
        let Some(first) = asked.get() else {
            let _ = asked.set(Instant::now());
            exit::say(&format!(
                "interrupted: this process ends with the run, which the same signal to its first process ends; a signal {} s later ends it alone",
                PATIENCE.as_secs()
            ));
            return true;
        };
        if Instant::elapsed(first) >= PATIENCE {
            exit::interrupted(
                "interrupted again: this process ends at once, and the others lose it (code 5); what was acknowledged is in the state",
            );
        }
        true
    });
    match nystream_dataflows::online::exact::follow(&process, communication, make)? {
        RunEnd::Done => Ok(ExitCode::Done),
        // All are to be started again.
        RunEnd::Interrupted => {
            exit::say("interrupted: a signal to process 0 ended the run; the same command in all processes goes on");
            Ok(ExitCode::Interrupted)
        }
        RunEnd::Failed => Err(Failure::new(
            ExitCode::PeerLost,
            "process 0 was lost: it failed, and its own message says why. Start all processes again: the run goes on where its state is",
        )),
    }
}

/// The workers of the processes of `resources`. The first alone has the state: what it is told, the others hear.
fn joined(resources: &ResourceArgs, progress: &Progress) -> Result<Workers, Failure> {
    let identity = Identity::new("online --mode exact")
        .with("--memory or --disk-limit", &(resources.memory, resources.disk_limit));
    Workers::start(resources, progress, &identity)
}

/// The engine, what encodes its rows, and what it predicts.
///
/// # Errors
/// As [`begin`]; processes that do not come together (6).
pub fn engine(model: &Model, machine: &Machine) -> Result<(Encoding, Box<dyn Learner>, Function), Failure> {
    let (_, function) = function_of(model, None)?;
    let (config, frozen) = taken(model, machine)?;
    let threads = match &machine.hosts {
        None => Threads::Own(machine.workers),
        Some((resources, progress)) => {
            let told = model.to_bytes()?;
            let (process, communication) = joined(resources, progress)?.into_parts();
            Threads::Joined(Joined { process, communication, told })
        }
    };
    let (folder, progress) = (machine.folder.clone(), Box::new(SilentProgress));
    let setup = ExactSetup { config, frozen, threads, folder, progress };
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
