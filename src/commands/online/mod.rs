//! `nystream online`.

mod exact;
mod init;
mod interrupts;
mod kept;
mod open;
mod refit;
mod served;
mod states;
mod told;
mod verify;
mod worse;

use super::Context;
use crate::cli::checks::Check;
use crate::cli::values::Format;
use crate::cli::values::online::{Endpoint, Publish, Sink};
use crate::cli::{OnlineArgs, OnlineCommand};
use crate::exit::{self, ExitCode, Failure};
use crate::metrics::online::Run;
use crate::model::Model;
use crate::progress::Progress;
use crate::report::{LatencyReport, OnlineReport, Prequential, Report};
use interrupts::Interrupts;
use kept::Kept;
use nystream_dataflows::StageError;
use nystream_dataflows::online::answers::{Answers, Form};
use nystream_dataflows::online::drive::{Drive, DriveError, Ended, Hooks, Pace};
use nystream_dataflows::online::encoding::Encoding;
use nystream_dataflows::online::latency::Latency;
use nystream_dataflows::online::learner::{Published, RunEnd, Shards};
use nystream_dataflows::online::serving::{Newest, Packed, Serving};
use nystream_dataflows::online::session::Session;
use nystream_dataflows::online::settings::Mode;
use nystream_dataflows::online::sink::{LineFile, Shape};
use nystream_dataflows::online::tally::DriftAlarm;
use nystream_dataflows::predict::Function;
use nystream_datasets::events::StreamSchema;
use nystream_datasets::stream::{EventSource, SourceError, folder::Folder, ipc::Ipc, jsonl::JsonLines, made::Made};
use open::Opened;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use worse::Worse;

/// Time between two snapshots at most.
const SNAPSHOT_TIME: Duration = Duration::from_secs(60);
/// Time between two models that are served at least.
const SERVE: Duration = Duration::from_millis(250);

/// Learns from a stream, or does something with a state.
///
/// # Errors
/// Contradicting options (2), a source, state or model that cannot be used (1).
pub fn run(args: OnlineArgs, context: &Context) -> Result<ExitCode, Failure> {
    match &args.action {
        Some(OnlineCommand::Inspect(of)) => return states::inspect(&of.state, context),
        Some(OnlineCommand::Export(of)) => return states::export(of, context),
        Some(OnlineCommand::Import(of)) => return states::import(of, context),
        Some(OnlineCommand::Verify(of)) => return verify::verify(&of.state, context),
        None => {}
    }
    args.check()?;
    if args.resources.hosts.is_some() && args.resources.process.is_some_and(|process| process > 0) {
        return exact::follow(&args, context);
    }
    check_source(&args)?;
    let interrupts = Interrupts::take(&args);
    let begun = Instant::now();
    let newest = args.stream.listen.as_ref().map(|_| Newest::default());
    // What was published last is answered by while the rows are read again.
    let early = newest.as_ref().and_then(|newest| Some((newest, served::last_published(&args)?)));
    // Learners that are served before they are open are exact ones.
    let run = early.is_some().then(|| Run::new(Mode::Exact.name()));
    if let (Some((newest, last)), Some(run)) = (early, &run) {
        newest.set(last);
        served::listen(&args, context, newest, served::past(&args, true), run)?;
    } else if args.resources.hosts.is_some() {
        served::check(&args)?;
    }
    let opened = open::open(&args, context)?;
    opened.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let refit = refit::is_due(&args, &opened, context)?;
    learn(&args, context, opened, (newest, run), &interrupts, begun, refit)
}

/// Whether the file or folder of the source is there: a run that has nothing to read begins no state.
fn check_source(args: &OnlineArgs) -> Result<(), Failure> {
    let Some(input) = &args.stream.input else { return Ok(()) };
    let (Endpoint::Lines(path) | Endpoint::Ipc(path) | Endpoint::Watch(path)) = input else { return Ok(()) };
    if path == "-" {
        return Ok(());
    }
    let found = std::fs::metadata(path).map(drop);
    found.map_err(|source| failed_source(SourceError::Io { name: input.to_string(), source }))
}

/// The source of `input`.
fn source_of(input: &Endpoint, schema: StreamSchema, progress: &Progress) -> Result<Box<dyn EventSource>, SourceError> {
    let name = input.to_string();
    Ok(match input {
        Endpoint::Lines(path) => Box::new(JsonLines::open(&name, path, schema)?),
        Endpoint::Ipc(path) => Box::new(Ipc::open(&name, path, schema)?),
        Endpoint::Tcp(address) => {
            let told = |address: String| progress.aside(|| exit::say(&format!("listening: tcp:{address}")));
            Box::new(Ipc::tcp(&name, address, schema, told)?)
        }
        #[cfg(unix)]
        Endpoint::Unix(path) => Box::new(Ipc::unix(&name, path, schema)?),
        #[cfg(not(unix))]
        Endpoint::Unix(_) => return Err(SourceError::Spec("unix: sockets need a Unix system".into())),
        Endpoint::Watch(folder) => Box::new(Folder::open(&name, Path::new(folder), schema)?),
        Endpoint::Synth(spec) => Box::new(Made::open(spec, schema)?),
    })
}

/// How the answers to `sink` are written.
fn form_of(sink: &Sink) -> Form {
    match sink {
        Sink::Lines(path) => Form::Lines(path.clone()),
        Sink::Ipc(path) => Form::Ipc(path.clone()),
        Sink::Parquet(folder) => Form::Parquet(folder.into()),
    }
}

/// Whether answers by this name go to standard output.
fn is_standard(name: &str) -> bool {
    name.ends_with(":-")
}

/// What snapshots call the file of what was refused.
fn dead_letter(path: &Path) -> String {
    format!("dead-letter {}", path.display())
}

/// Whether the files of `args` can be written on, of which the last snapshot has `files`: what is wrong with them shows before other processes are waited for.
///
/// # Errors
/// As they are opened (1).
fn check_files(args: &OnlineArgs, files: &BTreeMap<String, u64>) -> Result<(), Failure> {
    if let Some(sink) = &args.stream.output {
        Answers::check(&form_of(sink), files.get(&sink.to_string()).copied())?;
    }
    if let Some(path) = &args.stream.dead_letter {
        LineFile::check(&path.to_string_lossy(), files.get(&dead_letter(path)).copied(), "--dead-letter")?;
    }
    Ok(())
}

fn learn(
    args: &OnlineArgs,
    context: &Context,
    opened: Opened,
    (newest, run): (Option<Newest>, Option<Run>),
    interrupts: &Interrupts,
    begun: Instant,
    refit: bool,
) -> Result<ExitCode, Failure> {
    let Opened { state, told, identity, model, template, encoding, mut session, files, replayed, .. } = opened;
    let encoding = served::meaning(args.stream.absent, encoding);
    // Of a fit that was killed.
    interrupts::remove_fitted(state.folder());
    let Some(input) = &args.stream.input else { return Err(Failure::usage("--input SOURCE is missing")) };
    let source = source_of(input, encoding.schema().clone(), &context.progress).map_err(failed_source)?;
    let output = args.stream.output.as_ref().map(|sink| {
        let name = sink.to_string();
        Answers::open(&name, &form_of(sink), Shape::new(&template), files.get(&name).copied())
    });
    let dead = args.stream.dead_letter.as_ref().map(|path| {
        let name = dead_letter(path);
        let file = LineFile::open(&path.to_string_lossy(), files.get(&name).copied(), "--dead-letter")?;
        Ok::<_, StageError>((name, file))
    });
    let (output, dead) = (output.transpose()?, dead.transpose()?);
    // What was answered since the snapshot went to the files of then, not to ones that are new.
    if output.as_ref().is_some_and(|answers| !files.contains_key(answers.name())) {
        session.outputs();
    }
    if dead.as_ref().is_some_and(|(name, _)| !files.contains_key(name)) {
        session.rejections();
    }
    let now = [output.as_ref().map(Answers::name), dead.as_ref().map(|(name, _)| name.as_str())];
    // Standard output is another one each time.
    for name in files.keys().filter(|name| !now.contains(&Some(name.as_str())) && !is_standard(name)) {
        tracing::warn!(
            "this run writes nothing to {name}, which earlier ones wrote; what it would have had is not added later"
        );
    }
    let before = session.tally().clone();
    let changes = before.changes;
    let unlearns = session.traits().unlearns;
    let kept = Kept::open(&state, args.stream.keep_published.map(|count| count.0), changes, unlearns)?;
    let served = run.is_some();
    let run = run.unwrap_or_else(|| Run::new(told.settings.mode.name()));
    if let Some(newest) = newest.as_ref().filter(|_| !served) {
        served::listen(args, context, newest, served::past(args, unlearns), &run)?;
    }
    let mut hooks = Told {
        model: &model,
        settings: &told.settings,
        kept: kept.clone(),
        progress: &context.progress,
        encoding: &encoding,
        newest: newest.clone(),
        template: &template,
        run: run.clone(),
        packed: None,
        shards: BTreeMap::new(),
        worse: Worse::new(&told.settings, !template.code.is_classification(), changes),
        last: None,
    };
    // What the snapshot has of the last publication, where its file is gone.
    // Of a learner that takes rows back, not where none is left.
    let some = !unlearns || session.tally().learnable > 0;
    if let (Some(newest), Some(published)) = (newest.as_ref().filter(|_| !served && some), session.last()) {
        newest.set(Serving::new(&encoding, published, session.tally().published)?);
    }
    // A learner that answers does so at once, whether or not anything comes.
    if session.traits().answers {
        hooks.acknowledged(&mut session)?;
    }
    let mut drive = Drive {
        session,
        state: &state,
        identity,
        output,
        dead,
        stop: interrupts.asked(),
        pace: Pace {
            snapshot_changes: args.stream.snapshot_every.0,
            snapshot_time: SNAPSHOT_TIME,
            idle: args.stream.idle_exit.map(|time| Duration::from_secs_f64(time.0.min(1e9))),
            publish_time: match args.stream.publish {
                Publish::Seconds(time) => Some(Duration::from_secs_f64(time.min(1e9))),
                Publish::End | Publish::Changes(_) | Publish::Drift(_) => None,
            },
            // Schedules by the events know of no runs.
            publish_end: told.shards.is_none()
                && told.rules.publish_every.is_none()
                && told.rules.publish_drift.is_none(),
            strict: args.stream.strict,
        },
        demand: run.demand(),
        latency: Latency::default(),
        snapshot: (changes, Instant::now()),
        took: Duration::ZERO,
        held_up: false,
        refused: None,
        files: files.clone(),
    };
    drive.begin(&mut hooks).map_err(|error| ended_by(error, &mut drive.session))?;
    if refit {
        let fresh = refit::refitted(args, &mut drive.session, &encoding, &model, state.folder(), context)?;
        drop((drive, source));
        refit::take(args, &state, &fresh)?;
        context.progress.aside(|| exit::say("the configuration is fitted to the rows that are left"));
        let opened = open::reopen(state, &exact::Machine::of(&args.resources, &context.progress))?;
        opened.notes.iter().for_each(|note| tracing::warn!("{note}"));
        return learn(args, context, opened, (newest, Some(run)), interrupts, begun, false);
    }
    if drive.session.publication_is_due() {
        drive.publish(&mut hooks).map_err(|error| ended_by(error, &mut drive.session))?;
    }
    interrupts.learn();
    let learning = Instant::now();
    let ended = drive.run(source, &mut hooks).map_err(|error| ended_by(error, &mut drive.session))?;
    let seconds = learning.elapsed().as_secs_f64();
    let tally = drive.session.tally().clone();
    if tally.rejected > before.rejected && args.stream.dead_letter.is_none() {
        tracing::warn!(
            "{} events were refused{}; --dead-letter FILE keeps them with their reasons",
            tally.rejected - before.rejected,
            drive.refused.as_ref().map(|reason| format!(" (the first: {reason})")).unwrap_or_default()
        );
    }
    let mut centers = None;
    // What comes behind the last change, such as the end of a block, is no matter of rows that are kept.
    let last = hooks.last.take().filter(|last| last.changes == tally.changes && unlearns);
    let digest = match last.map_or_else(|| drive.session.model().map(Ok), |last| Ok(Err(last))) {
        _ if told.shards.is_some() => told::digest_of_shards(&mut drive.session, &model, &told.settings)?,
        // That was the last thing that happened.
        Ok(Err(last)) => {
            centers = Some(last.centers);
            Some(last.digest)
        }
        Ok(Ok(published)) => {
            // Those of the exact mode say what the publication took, which has been said.
            let notes = published.notes.iter().filter(|_| !unlearns);
            notes.for_each(|note| context.progress.aside(|| exit::say(note)));
            let present = told::model_of(&model, &told.settings, published);
            centers = Some(present.centers.len() as u64);
            let digest = kept.publish(present, tally.changes)?;
            // With the sums that this model was made of.
            drive.save_again(&mut hooks).map_err(failed)?;
            Some(digest)
        }
        // No rows, or none that a model can be made of: what was there before is no model of them.
        Err(nystream_dataflows::StageError::Data(reason)) => {
            // Where the end of the run was to be a publication, that has said so.
            if !(drive.pace.publish_end && tally.published > before.published) {
                context.progress.aside(|| exit::say(&format!("there is no model: {reason}")));
            }
            kept.nothing();
            None
        }
        Err(error) => return Err(Failure::from(error)),
    };
    // The stream has been learned whatever can be said of it in hindsight.
    let regret = drive.session.regret().unwrap_or_else(|error| {
        context.progress.aside(|| exit::say(&format!("warning: the regret cannot be told: {error}")));
        None
    });
    let how = match ended {
        Ended::Source => RunEnd::Done,
        Ended::Asked => RunEnd::Interrupted,
    };
    drive.session.end(how);
    let info = drive.session.info();
    hooks.worse.look(&info, None, &context.progress);
    let events = (tally.changes + tally.rejected) - (before.changes + before.rejected);
    let report = OnlineReport {
        mode: told.settings.mode.name().into(),
        rows_inserted: tally.inserted,
        rows_deleted: tally.deleted,
        rows_updated: tally.updated,
        rows_labelled: tally.labelled,
        rows_rejected: tally.rejected,
        rows_expired: tally.expired,
        rows_surviving: tally.inserted.saturating_sub(tally.deleted + tally.expired),
        rows_waiting: drive.session.waiting(),
        // Of the model that was just made, where the learner is not one all the time.
        dictionary: if drive.session.traits().answers { info.dictionary } else { centers.unwrap_or(0) },
        online_dimension: info.online_dimension,
        prequential: Prequential { rows: info.rows, mean_loss: info.mean_loss, window_loss: info.window_loss },
        regret: regret.map(told::regret),
        shards: told::shards_report(&drive.session),
        drift_alarms: info.mass_alarms + info.loss_alarms,
        alarms: tally.alarms.iter().map(told::alarm).collect(),
        restarts: info.restarts,
        predictions: tally.answers,
        publications: tally.publications,
        records_replayed: replayed,
        rows_per_second: if seconds > 0.0 { events as f64 / seconds } else { 0.0 },
        latency_ms: LatencyReport { p50: drive.latency.quantile(0.5), p99: drive.latency.quantile(0.99) },
        seconds: begun.elapsed().as_secs_f64(),
        log_bytes: drive.session.log_bytes(),
        peak_rss_bytes: crate::resources::peak_rss_bytes(),
        model_digest: digest,
        state: state.folder().display().to_string(),
    };
    match context.output.format {
        // One line: the last one on standard output, behind the answers that may be there.
        Format::Json => context.output.raw(&format!("{}\n", report.json()))?,
        // Answers for another program are not followed by a table for people.
        Format::Text if args.stream.output.as_ref().is_some_and(|sink| is_standard(&sink.to_string())) => {
            context.progress.aside(|| exit::say(report.text().trim_end()));
        }
        Format::Text => context.output.report(&report)?,
    }
    Ok(match ended {
        Ended::Source => {
            // The last thing that is done: a process that is killed before has not ended, and is started again.
            drop((drive, hooks));
            refit::forget(&state);
            ExitCode::Done
        }
        Ended::Asked => {
            exit::say(&interrupts::said(state.folder()));
            ExitCode::Interrupted
        }
    })
}

fn failed_source(error: SourceError) -> Failure {
    match error {
        SourceError::Spec(reason) => Failure::usage(format!("--input: {reason}")),
        other => Failure::data(format!("--input: {other}")),
    }
}

fn failed(error: DriveError) -> Failure {
    use nystream_dataflows::online::session::TakeError;
    match error {
        DriveError::Source(error) => failed_source(error),
        DriveError::Output { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => Failure::closed_pipe(),
        DriveError::Take(TakeError::Stage(error)) => error.into(),
        other => Failure::data(other.to_string()),
    }
}

/// The same, told to those who take part: a reader that went away has what it wants, which is no failure.
fn ended_by(error: DriveError, session: &mut Session) -> Failure {
    let failure = failed(error);
    if failure.code == ExitCode::Done {
        session.end(RunEnd::Done);
    }
    failure
}

/// What the loop tells the command.
struct Told<'a> {
    model: &'a Model,
    settings: &'a nystream_dataflows::online::settings::Settings,
    kept: Kept,
    progress: &'a Progress,
    encoding: &'a Encoding,
    newest: Option<Newest>,
    template: &'a Function,
    /// What is shown of the run.
    run: Run,
    /// Changes of the model that is served, and when the next may be.
    packed: Option<(u64, Instant)>,
    /// Models of shards, and of how many rows.
    shards: BTreeMap<Arc<str>, (u64, Packed)>,
    /// Whether it predicts worse than the mean.
    worse: Worse,
    /// What was published last.
    last: Option<Last>,
}

/// A publication.
struct Last {
    changes: u64,
    digest: String,
    centers: u64,
}

impl Told<'_> {
    /// What is served of shards: those that have learned since are packed anew.
    fn pack(&mut self, session: &mut Session, shards: &Shards, changes: u64) -> Result<Serving, StageError> {
        for (name, info) in &shards.all {
            if self.shards.get(name).is_some_and(|(rows, _)| *rows == info.rows) {
                continue;
            }
            match session.shard(name) {
                Ok(published) => {
                    self.shards.insert(Arc::clone(name), (info.rows, Packed::new(published)?));
                }
                // Its first block is not complete.
                Err(StageError::Data(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let all = self.shards.iter().map(|(name, (_, packed))| (Arc::clone(name), packed.clone())).collect();
        Ok(Serving::shards(self.encoding, self.template, &shards.router, all, changes))
    }
}

impl Hooks for Told<'_> {
    fn say(&mut self, line: &str) {
        self.progress.aside(|| exit::say(line));
    }

    fn saved(&mut self) {
        self.run.saved();
    }

    fn alarmed(&mut self, alarm: &DriftAlarm) {
        self.progress.aside(|| exit::say(&told::alarm(alarm).sentence()));
    }

    fn measured(&mut self, latency: &Latency) {
        self.run.measured(latency);
    }

    fn held_up(&mut self, held_up: bool) {
        self.run.held_up(held_up);
    }

    fn published(&mut self, model: Published, changes: u64) -> Result<(), StageError> {
        // A learner that answers is served as it is at any moment.
        if let Some(newest) = self.newest.as_ref().filter(|_| self.settings.mode == Mode::Exact) {
            newest.set(Serving::new(self.encoding, model.clone(), changes)?);
        }
        let model = told::model_of(self.model, self.settings, model);
        let centers = model.centers.len() as u64;
        let digest = self.kept.publish(model, changes).map_err(|error| StageError::Data(error.to_string()))?;
        self.last = Some(Last { changes, digest, centers });
        Ok(())
    }

    fn acknowledged(&mut self, session: &mut Session) -> Result<(), StageError> {
        let changes = session.tally().changes;
        if self.worse.is_due(changes) {
            self.worse.look(&session.info(), Some(changes), self.progress);
        }
        let Some(newest) = &self.newest else { return Ok(()) };
        self.run.seen(session);
        let begun = Instant::now();
        let old = self.packed.is_none_or(|(packed, next)| packed != changes && begun >= next);
        // A learner that answers has a model at every moment; what others publish is served when they do.
        if !old || !session.traits().answers {
            return Ok(());
        }
        let newest = newest.clone();
        let serving = match session.shards() {
            Some(shards) => self.pack(session, &shards, changes)?,
            None => match session.model() {
                Ok(model) => Serving::new(self.encoding, model, changes)?,
                // No row has been learned.
                Err(StageError::Data(_)) => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        if serving.count() != Some(0) {
            newest.set(serving);
        }
        // A fifth of the time at most.
        self.packed = Some((changes, Instant::now() + SERVE.max(4 * begun.elapsed())));
        Ok(())
    }
}
