//! Beginning a run, and going on with one.

use super::exact::{self, Machine};
use super::told::{self, ShardsTold, Told, deviation, encoder_of, for_stream};
use crate::cli::OnlineArgs;
use crate::cli::online::{LearnerArgs, ONE_PROCESS};
use crate::cli::values::online::{Endpoint, Mode as ModeName};
use crate::commands::Context;
use crate::exit::Failure;
use crate::fitted::function_of;
use crate::model::{Model, Precision};
use crate::report::text::bytes;
use nystream_dataflows::StageError;
use nystream_dataflows::online::encoding::Encoding;
use nystream_dataflows::online::learner::{Learner, Traits};
use nystream_dataflows::online::recursive::{self, Recursive};
use nystream_dataflows::online::second::{Beginning, SecondOrder};
use nystream_dataflows::online::session::{Session, Stored};
use nystream_dataflows::online::settings::{Mode, Settings};
use nystream_dataflows::online::sharded::{Make, Router, Sharded};
use nystream_dataflows::online::state::{Snapshot, State};
use nystream_dataflows::online::store::{Keyed, Store, Waiting};
use nystream_dataflows::online::units::Units;
use nystream_dataflows::online::window::Window;
use nystream_dataflows::predict::Function;
use nystream_datasets::events::StreamSchema;
use nystream_datasets::journal::{Damage, JournalOptions};
use nystream_datasets::rows::{KeyedRows, RowsOptions};
use nystream_datasets::stream::{ipc::columns, made::generator};
use nystream_kernels::rows::RowBuf;
use std::collections::BTreeMap;
use std::path::Path;

/// The file of the frozen configuration.
pub(super) const CONFIG: &str = "config.nys";

/// Bytes of a segment of the log.
const SEGMENT: u64 = 8 << 20;

/// A run that is open.
pub struct Opened {
    /// Its folder.
    pub state: State,
    /// What it was told.
    pub told: Told,
    /// Whose it is.
    pub identity: [u8; 16],
    /// The frozen configuration.
    pub model: Model,
    /// What it predicts, without centers.
    pub template: Function,
    /// Rows and what encodes them.
    pub encoding: Encoding,
    /// The state.
    pub session: Session,
    /// Bytes of each file that the last snapshot has.
    pub files: BTreeMap<String, u64>,
    /// Records that were taken from the log.
    pub replayed: u64,
    /// What was found damaged and mended, in sentences.
    pub notes: Vec<String>,
    /// Whether what is told of it has damage in it.
    pub damaged: bool,
    /// Whether it is a look at a snapshot, without its log, while another process runs it.
    pub looked: bool,
}

/// Begins a run in its folder, or goes on with the one that is there.
///
/// # Errors
/// Options that contradict the state (2), a state or a model that cannot be used (1).
pub fn open(args: &OnlineArgs, context: &Context) -> Result<Opened, Failure> {
    let Some(folder) = &args.stream.state else { return Err(Failure::usage("--state FOLDER is missing")) };
    let state = State::hold(folder)?;
    let machine = Machine::of(&args.resources, &context.progress);
    if args.resources.hosts.is_some()
        && let Err(failure) = check_before_join(args, &state)
    {
        drop(state);
        State::abandon(folder);
        return Err(failure);
    }
    if state.told()?.is_some() {
        let opened = reopen(state, &machine)?;
        told::refuse_changes(&opened.told, args)?;
        for (flag, path) in [("--config-from", &args.learner.config_from), ("--from", &args.learner.from)] {
            // A model that is gone is not needed any more.
            let Some(path) = path.as_ref().filter(|path| path.exists()) else { continue };
            if Model::load(path)?.digest()? != opened.told.source {
                return Err(Failure::usage(format!(
                    "{flag} {} is not the model that the state was begun with: leave it out to go on, or begin in another --state",
                    path.display()
                )));
            }
        }
        refuse_targets(&args.stream.target, &opened.model)?;
        if args.stream.keep_published.is_some() && opened.told.shards.is_some() {
            return Err(Failure::usage("models of shards are not published: leave out --keep-published"));
        }
        if args.stream.refit_encoder && opened.told.settings.mode != Mode::Exact {
            return Err(Failure::usage(
                "--refit-encoder is for --mode exact: other modes keep no rows that a configuration could be fitted to",
            ));
        }
        return Ok(opened);
    }
    let begun = fresh(args, context, state, folder, &machine);
    if begun.is_err() {
        State::abandon(folder);
    }
    begun
}

/// What would otherwise show only when the processes have met, and end them all.
fn check_before_join(args: &OnlineArgs, state: &State) -> Result<(), Failure> {
    let mut files = BTreeMap::new();
    let mut exact = args.learner.mode == ModeName::Exact;
    if state.told()?.is_some() {
        let (told, identity, _) = read(state)?;
        told::refuse_changes(&told, args)?;
        exact = told.settings.mode == Mode::Exact;
        if let (Some(Snapshot { stored, .. }), _) = state.newest(&identity)? {
            files = stored.files;
        }
    }
    if !exact {
        return Err(Failure::usage(ONE_PROCESS));
    }
    super::check_files(args, &files)
}

/// Begins a run.
fn fresh(
    args: &OnlineArgs,
    context: &Context,
    state: State,
    folder: &Path,
    machine: &Machine,
) -> Result<Opened, Failure> {
    let learner = &args.learner;
    if args.stream.refit_encoder {
        return Err(Failure::usage(
            "--refit-encoder fits the configuration anew to the rows of a state, and this one is empty: leave it out",
        ));
    }
    if learner.max_shards.given().is_some() && learner.shard_by.is_none() {
        return Err(Failure::usage("--max-shards bounds the shards of --shard-by: give both, or neither"));
    }
    if args.stream.window.is_some() && learner.mode != ModeName::Exact {
        return Err(Failure::usage(
            "--window is for --mode exact, which can take rows back; other modes forget by --forgetting RHO",
        ));
    }
    let source = match (&learner.config_from, &learner.from, learner.init_rows) {
        (Some(path), None, None) | (None, Some(path), None) => Model::load(path)?,
        (None, None, Some(rows)) => {
            let Some(input) = &args.stream.input else { return Err(Failure::usage("--input SOURCE is missing")) };
            super::init::tuned(args, input, rows.0, folder, context)?
        }
        (None, None, None) => {
            return Err(Failure::usage(
                "the state is empty: give --config-from MODEL (a fitted model's configuration), --from MODEL (and its function) or --init-rows N (tune on the first rows)",
            ));
        }
        _ => {
            return Err(Failure::usage(
                "--config-from, --from and --init-rows all say what to begin with: give one of them",
            ));
        }
    };
    refuse_targets(&args.stream.target, &source)?;
    if let (Some(by), Some(input)) = (&learner.shard_by, &args.stream.input) {
        refuse_absent(by, input, &source)?;
    }
    let told = |settings, rules| Told {
        version: 1,
        asked: told::asked(args),
        settings,
        rules,
        max_waiting: args.stream.max_waiting.0,
        source: String::new(),
        shards: None,
    };
    let (rules, whole) = (told::rules(args, &source), learner.from.is_some());
    if learner.config_from.is_some() || whole {
        refuse_fixed(args, &source)?;
    }
    if learner.mode == ModeName::Exact {
        return exact::begin(state, &source, whole, |settings| told(settings, rules), machine);
    }
    let given = args.given.iter().any(|flag| flag == "precision");
    let precision =
        given.then(|| if args.sample.precision.as_str() == "f64" { Precision::F64 } else { Precision::F32 });
    let sample = (args.sample.seed, precision);
    begin(state, &source, learner, sample, whole, args.resources.memory.0, |settings| told(settings, rules))
}

/// What a model fixes is not to be had otherwise beside it.
fn refuse_fixed(args: &OnlineArgs, source: &Model) -> Result<(), Failure> {
    let exact = args.learner.mode == ModeName::Exact;
    let own = if source.config.precision == Precision::F64 { "f64" } else { "f32" };
    let fixed = |flag: &str| match flag {
        "kernel" | "bandwidth" | "ridge" | "metric" => true,
        "precision" => exact && args.sample.precision.as_str() != own,
        _ => false,
    };
    match args.given.iter().find(|flag| fixed(flag.as_str())) {
        None => Ok(()),
        Some(flag) => Err(Failure::usage(format!(
            "--{flag} is what the model of --config-from or --from fixes: leave it out, or tune with --init-rows"
        ))),
    }
}

/// Begins a run by the configuration of `source`, and with its function if `whole`; with another precision of entries where one is given.
///
/// # Errors
/// As [`open`].
pub fn begin(
    state: State,
    source: &Model,
    learner: &LearnerArgs,
    (seed, precision): (u64, Option<Precision>),
    whole: bool,
    memory: u64,
    told: impl FnOnce(Settings) -> Told,
) -> Result<Opened, Failure> {
    let mut model = for_stream(source)?;
    model.config.precision = told::precision(learner.mode, precision, &model)?;
    let (_, function) = function_of(&model, None)?;
    refuse_path(&model)?;
    let settings = if learner.mode == ModeName::Recursive {
        let (centers, targets) = (model.centers.len() as u64, model.outputs() as u64);
        let needed = recursive::bytes(centers, targets, learner.block.0);
        if needed > memory {
            return Err(Failure::budget(format!(
                "{targets} targets on {centers} centers in blocks of {} may need {}, and --memory allows {}: lower --block, or give a model of fewer centers",
                learner.block,
                bytes(needed),
                bytes(memory)
            )));
        }
        told::recursive_settings(learner, &model, seed)?
    } else {
        told::settings(learner, &model, &function, seed)?.0
    };
    let shards = told::shards(learner, &settings, &model, whole, memory)?;
    let mut told = told(settings);
    told.shards = shards;
    told.source = source.digest()?;
    // Settings that the learner refuses leave no state behind.
    let (_, mut engine, _) = learner_of(&told, &model, whole)?;
    if told.rules.publish_drift.is_some() && engine.mark().is_none() {
        return Err(Failure::usage(format!(
            "--publish drift:X is for exact, con-kons and pros-n-kons, whose drift is cheap to tell; with --mode {} publish every:ROWS",
            told.settings.mode.name()
        )));
    }
    let learned = engine.snapshot()?;
    // What says that it has begun comes last: whatever is interrupted before begins again.
    model.save(&state.path(CONFIG))?;
    let stored = Stored::begun(learned, told.rules.loss_window);
    state.save(&told.identity()?, 0, &stored)?;
    state.tell(&told.bytes()?)?;
    reopen(state, &Machine::plain())
}

/// Opens the run that is in `state`.
///
/// # Errors
/// A state that cannot be used (1).
pub fn reopen(state: State, machine: &Machine) -> Result<Opened, Failure> {
    let (told, identity, model) = read(&state)?;
    let (found, bad) = state.newest(&identity)?;
    let mut notes: Vec<String> = bad
        .into_iter()
        .map(|bad| format!("the snapshot '{}' cannot be used ({}): an older one was", bad.path.display(), bad.reason))
        .collect();
    let Some(Snapshot { record, mut stored }) = found else {
        return Err(Failure::data(format!(
            "'{}' has no snapshot. Where no run of it has ever begun, remove the folder and begin again; otherwise its snapshots are lost: put the folder back from a copy",
            state.folder().display()
        )));
    };
    let (encoding, engine, template) = engine(&told, &model, &machine.of_state(&state))?;
    let (store, damage) =
        store_of(&state, &told, identity, encoding.schema(), engine.traits(), (record, &stored.rows()))?;
    let mut damaged = !notes.is_empty();
    if let Some(damage) = damage {
        damaged |= !damage.torn;
        notes.push(format!(
            "the log '{}' is damaged from record {} on ({}): {} bytes were cut off and kept aside; events after that are read again where the source has them",
            damage.file.display(),
            damage.record,
            damage.reason,
            damage.bytes
        ));
    }
    let configuration = model.digest()?;
    let renewed = stored.configured(&configuration);
    let files = stored.files.clone();
    let mut session =
        Session::new(encoding.clone(), template.code.clone(), engine, store, told.rules.clone(), Some(stored))?;
    let replayed = session.replay(record)?;
    notes.extend(session.notes());
    if renewed {
        let gone = session.sift().map_err(StageError::from)?;
        if gone > 0 {
            notes.push(format!("{gone} rows cannot be used by the configuration that was made anew: they are among the refused ones, and no longer there"));
        }
    }
    Ok(Opened {
        state,
        told,
        identity,
        model,
        template,
        encoding,
        session,
        files,
        replayed,
        notes,
        damaged,
        looked: false,
    })
}

/// The rows of a run and its log: every row for a learner that unlearns, those that wait for their label for others. `begun`: a record, and the rows of its snapshot. And what the log has lost.
///
/// # Errors
/// A log that cannot be used (1).
pub fn store_of(
    state: &State,
    told: &Told,
    identity: [u8; 16],
    schema: &StreamSchema,
    traits: Traits,
    begun: (u64, &[Vec<u8>]),
) -> Result<(Box<dyn Store>, Option<Damage>), Failure> {
    if traits.unlearns {
        let options = RowsOptions { order: told.rules.window.map(Window::order), ..RowsOptions::default() };
        let (rows, damage) =
            KeyedRows::open(&state.path("rows"), identity, schema, options).map_err(StageError::from)?;
        if rows.durable() < begun.0 {
            let why = damage.as_ref().map_or_else(String::new, |damage| {
                format!(
                    " ('{}' is damaged from record {} on: {}; what was cut off is kept beside it)",
                    damage.file.display(),
                    damage.record,
                    damage.reason
                )
            });
            return Err(Failure::data(format!(
                "the log in '{}' ends at record {}, before the snapshot of record {}{why}: rows that were acknowledged are lost. Put the folder back from a copy, or begin again in another",
                state.path("rows").display(),
                rows.durable(),
                begun.0
            )));
        }
        return Ok((Box::new(Keyed(rows)), damage));
    }
    let limit = usize::try_from(told.max_waiting).unwrap_or(usize::MAX);
    // Whole segments are what a snapshot frees.
    let options = JournalOptions { segment_bytes: SEGMENT, ..JournalOptions::default() };
    let (waiting, damage) = Waiting::new(&state.path("log"), identity, schema, begun, limit, options)?;
    Ok((Box::new(waiting), damage))
}

/// What a state was told, and its configuration.
pub fn read(state: &State) -> Result<(Told, [u8; 16], Model), Failure> {
    let shown = state.folder().display();
    let bytes = state.told()?.ok_or_else(|| Failure::data(format!("'{shown}' holds no state of nystream online")))?;
    let told: Told = serde_json::from_slice(&bytes).map_err(|error| {
        Failure::data(format!(
            "'{shown}/online.json' cannot be read: {error}; put back a copy of the folder, or begin again in another"
        ))
    })?;
    let identity = told.identity()?;
    let model = Model::load(&state.path(CONFIG)).map_err(|error| {
        let failure = Failure::from(error);
        Failure::new(
            failure.code,
            format!(
                "{failure}: nothing else has what is in it; put back a copy of the folder, or begin again in another"
            ),
        )
    })?;
    refuse_path(&model)?;
    Ok((told, identity, model))
}

/// The learner of a run that has learned nothing, and what encodes its rows.
pub fn engine(
    told: &Told,
    model: &Model,
    machine: &Machine,
) -> Result<(Encoding, Box<dyn Learner>, Function), Failure> {
    if told.settings.mode == Mode::Exact {
        return exact::engine(model, machine);
    }
    learner_of(told, model, false)
}

/// The learner of a run that keeps no rows, or those of its shards; with `whole` it begins with the model's function.
fn learner_of(told: &Told, model: &Model, whole: bool) -> Result<(Encoding, Box<dyn Learner>, Function), Failure> {
    let (encoder, function) = function_of(model, None)?;
    let settings = told.settings.clone();
    let whole = whole || told.shards.as_ref().is_some_and(|shards| shards.whole);
    let (encoding, make, template): (Encoding, Make, Function) = if settings.mode == Mode::Recursive {
        let template = Function {
            centers: RowBuf::new(function.centers.numeric_width, function.centers.code_width),
            coefficients: Vec::new(),
            variance: None,
            ..function.clone()
        };
        let deviations = told::deviations(model);
        let make = move || {
            let learner = Recursive::new(&settings, &function, deviations.clone(), whole)?;
            Ok(Box::new(learner) as Box<dyn Learner>)
        };
        (Encoding::new(encoder, true)?.with_all_targets(), Box::new(make), template)
    } else {
        let units = Units::new(&function, deviation(model), settings.loss)?;
        if whole && !units.is_number() {
            return Err(Failure::usage(
                "--from begins with a function of numbers; the model's is one of classes: use --config-from",
            ));
        }
        let (encoder, template) = (encoder_of(encoder, &settings, &units), units.template().clone());
        let beginning = whole.then_some(Beginning { atoms: function.centers, coefficients: function.coefficients });
        let make = move || {
            let learner = SecondOrder::new(settings.clone(), units.clone(), beginning.as_ref())?;
            Ok(Box::new(learner) as Box<dyn Learner>)
        };
        (Encoding::new(encoder, true)?, Box::new(make), template)
    };
    let Some(ShardsTold { by, most, .. }) = &told.shards else { return Ok((encoding, make()?, template)) };
    if encoding.schema().weight_column() == Some(by) {
        return Err(Failure::usage(format!("--shard-by {by}: it is the model's column of weights")));
    }
    let encoding = if Router::is_key(by, encoding.schema()) { encoding } else { encoding.with_text(by) };
    let router = Router::new(by, encoding.schema())?;
    let most = usize::try_from(*most).unwrap_or(usize::MAX);
    let window = told.rules.loss_window;
    Ok((encoding, Box::new(Sharded::new(router, most, window, make)?), template))
}

/// Another instruction set would give other bits.
pub(super) fn refuse_path(model: &Model) -> Result<(), Failure> {
    use nystream_kernels::tile::SimdPath;
    let name = &model.config.simd;
    let available: Vec<String> = SimdPath::available().iter().map(ToString::to_string).collect();
    if available.contains(name) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "the configuration fixes the instruction set {name}, and this machine has {}: go on where there is {name}",
        available.join(", ")
    )))
}

/// Refuses to deal rows by a column that their source has not, where it says which it has.
fn refuse_absent(by: &str, input: &Endpoint, source: &Model) -> Result<(), Failure> {
    let columns: Option<Vec<String>> = match input {
        Endpoint::Synth(spec) => {
            let (_, generator) = generator(spec)?;
            Some(generator.schema().fields().iter().map(|field| field.name().clone()).collect())
        }
        Endpoint::Ipc(path) if path != "-" => columns(path),
        _ => None,
    };
    let Some(columns) = columns else { return Ok(()) };
    let (encoder, _) = function_of(source, None)?;
    if by == told::KEY || encoder.id_column.as_deref() == Some(by) || columns.iter().any(|column| column == by) {
        return Ok(());
    }
    Err(Failure::usage(format!("--shard-by {by}: {input} has no such column; it has {}", columns.join(", "))))
}

fn refuse_targets(given: &[String], model: &Model) -> Result<(), Failure> {
    let own: Vec<&str> = model.config.targets.iter().map(|target| target.name.as_str()).collect();
    if given.is_empty() || given == own.as_slice() {
        return Ok(());
    }
    Err(Failure::usage(format!("--target {}: the configuration predicts {}", given.join(", "), own.join(", "))))
}

/// Opens a state that may be in use: held and brought up to date where it can be, as of its newest snapshot otherwise.
///
/// # Errors
/// A folder without a state, or one that cannot be used (1).
pub fn open_or_look(folder: &Path) -> Result<Opened, Failure> {
    State::look(folder)?;
    match State::hold(folder) {
        Ok(state) => reopen(state, &Machine::plain()),
        Err(StageError::Data(reason)) if reason.contains("in use") => look(State::look(folder)?),
        Err(error) => Err(error.into()),
    }
}

/// The run of a folder as of its newest snapshot, without its log.
fn look(state: State) -> Result<Opened, Failure> {
    let (told, identity, model) = read(&state)?;
    let (Some(Snapshot { record, stored }), _) = state.newest(&identity)? else {
        return Err(Failure::data(format!("'{}' has no snapshot yet", state.folder().display())));
    };
    let (encoding, engine, template) = engine(&told, &model, &Machine::plain())?;
    let files = stored.files.clone();
    let store: Box<dyn Store> = Box::new(nystream_dataflows::online::store::Closed::new(stored.rows().len() as u64));
    let session =
        Session::new(encoding.clone(), template.code.clone(), engine, store, told.rules.clone(), Some(stored))?;
    let notes = vec![format!("another process runs it: this is the snapshot of record {record}")];
    Ok(Opened {
        state,
        told,
        identity,
        model,
        template,
        encoding,
        session,
        files,
        replayed: 0,
        notes,
        damaged: false,
        looked: true,
    })
}
