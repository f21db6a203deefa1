//! `nystream online inspect|export|import`.

use super::kept;
use super::open::{self, Opened};
use super::told::{self, Told};
use crate::atomic::AtomicFile;
use crate::cli::online::{OnlineExportArgs, OnlineImportArgs};
use crate::commands::Context;
use crate::exit::{ExitCode, Failure};
use crate::model::Model;
use crate::report::{Prequential, StateReport};
use nystream_dataflows::StageError;
use nystream_dataflows::online::session::Rules;
use nystream_dataflows::online::settings::Mode;
use nystream_dataflows::online::state::State;
use nystream_datasets::stream::Position;
use std::path::Path;

/// What a state that is imported may take of the memory of the runs that go on with it.
const MEMORY: u64 = 8 << 30;

/// Says what is in a state.
pub fn inspect(folder: &Path, context: &Context) -> Result<ExitCode, Failure> {
    let mut opened = open::open_or_look(folder)?;
    let report = report_of(&mut opened)?;
    context.output.report(&report)?;
    Ok(ExitCode::Done)
}

pub(super) fn report_of(opened: &mut Opened) -> Result<StateReport, Failure> {
    let mut notes = opened.notes.clone();
    // Rows that the state rests on are in the log, which another process holds: what it published is what can be told.
    let exact = opened.told.settings.mode == Mode::Exact;
    let model = match (opened.looked && exact).then(|| kept::newest(opened.state.folder())) {
        // What is wrong with it is told below.
        Some(newest) => newest.ok().flatten().map(|(_, model)| model),
        None => {
            match opened.session.model() {
                Ok(published) => {
                    notes.extend(published.notes.iter().filter(|_| !exact).cloned());
                    Some(told::model_of(&opened.model, &opened.told.settings, published))
                }
                // There is none of what is there; of nothing that goes without saying.
                Err(StageError::Data(reason)) => {
                    notes.extend((exact && opened.session.rows() > 0).then(|| format!("there is no model: {reason}")));
                    None
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    let digest = match opened.told.shards.is_some() {
        true => told::digest_of_shards(&mut opened.session, &opened.model, &opened.told.settings)?,
        false => model.as_ref().map(Model::digest).transpose()?,
    };
    let centers = model.map_or(0, |model| model.centers.len() as u64);
    let (published, damaged) = kept::told(opened.state.folder());
    opened.damaged |= !damaged.is_empty();
    notes.extend(damaged);
    if exact {
        notes.push(format!("not unlearned with deleted rows: {}", kept::NOT_UNLEARNED));
    }
    let tally = opened.session.tally().clone();
    let info = opened.session.info();
    let sources = tally.sources.iter().map(|(name, (position, skip))| {
        let more = if *skip > 0 { format!(" and {skip} items") } else { String::new() };
        let place = match position {
            Position::Lines { bytes, lines, .. } => format!("{lines} lines, {bytes} bytes{more}"),
            Position::Frames { rows, bytes, .. } => format!("{rows} rows, {bytes} bytes{more}"),
            Position::Rows(rows) => format!("{rows} rows{more}"),
            Position::Files(files) => format!("{} files{more}", files.len()),
            Position::Moved { changed, .. } => format!("{} files{more}", changed.len()),
            Position::Folder(files) => {
                let gone = files.values().filter(|file| file.gone.is_some()).count();
                let gone = if gone > 0 { format!(", {gone} more that are gone") } else { String::new() };
                format!("{} files{gone}{more}", files.values().filter(|file| file.gone.is_none()).count())
            }
        };
        (name.clone(), place)
    });
    Ok(StateReport {
        state: opened.state.folder().display().to_string(),
        mode: opened.told.settings.mode.name().into(),
        options: opened.told.asked.clone(),
        snapshots: opened.state.snapshots()?,
        rows_inserted: tally.inserted,
        rows_deleted: tally.deleted,
        rows_updated: tally.updated,
        rows_rejected: tally.rejected,
        rows_expired: tally.expired,
        rows_surviving: tally.inserted.saturating_sub(tally.deleted + tally.expired),
        changes: tally.changes,
        rows_waiting: opened.session.waiting(),
        dictionary: if exact { centers } else { info.dictionary },
        prequential: Prequential { rows: info.rows, mean_loss: info.mean_loss, window_loss: info.window_loss },
        shards: told::shards_report(&opened.session),
        sources: sources.collect(),
        files: opened.files.clone(),
        model_digest: digest,
        published,
        verified: None,
        notes,
    })
}

/// Writes the present model, or one that was published.
pub fn export(args: &OnlineExportArgs, context: &Context) -> Result<ExitCode, Failure> {
    let (folder, out) = (&args.state, args.out.as_path());
    let place = nystream_datasets::atomic::place;
    if place(out).starts_with(place(folder)) {
        return Err(Failure::usage(format!(
            "--out {} lies in the state, whose files are its own: name one elsewhere",
            out.display()
        )));
    }
    if args.as_of.is_some() && args.shard.is_some() {
        return Err(Failure::usage("--as-of: models of shards are not published; leave it out, or leave out --shard"));
    }
    let file = AtomicFile::create(out)?;
    let mut opened = open::open_or_look(folder)?;
    let mut report = report_of(&mut opened)?;
    let published = match args.as_of {
        Some(changes) => Some(kept::as_of(folder, changes)?),
        None if opened.looked && opened.told.settings.mode == Mode::Exact => {
            let newest = kept::newest(folder)?.ok_or_else(|| {
                Failure::data(format!(
                    "another process runs {} and has published no model: let it (--publish every:ROWS), or end it first",
                    folder.display()
                ))
            })?;
            Some((newest.0.unwrap_or_default(), newest.1))
        }
        None => None,
    };
    let mut model = match published {
        Some((changes, model)) => {
            report.notes.push(format!("the model is that published as of change {changes}"));
            report.model_digest = Some(model.digest()?);
            model
        }
        None => {
            let present = match &args.shard {
                None => opened.session.model(),
                Some(shard) => opened.session.shard(shard),
            };
            let published = present.map_err(|error| match error {
                StageError::Data(reason) => {
                    Failure::data(format!("there is no model of what is in {}: {reason}", folder.display()))
                }
                other => other.into(),
            })?;
            let model = told::model_of(&opened.model, &opened.told.settings, published);
            report.model_digest = Some(model.digest()?);
            model
        }
    };
    report.notes.push(format!("written to {}", out.display()));
    model.info.report = serde_json::to_value(&report).unwrap_or_default();
    if opened.told.settings.mode == Mode::Exact {
        model.info.report["not_unlearned"] = kept::NOT_UNLEARNED.into();
    }
    model.save_into(file)?;
    context.output.report(&report)?;
    Ok(ExitCode::Done)
}

/// Makes a state that begins with the function of a fitted model.
pub fn import(args: &OnlineImportArgs, context: &Context) -> Result<ExitCode, Failure> {
    let source = Model::load(&args.from)?;
    let imported = imported(args, &source, State::hold(&args.state)?, context);
    if imported.is_err() {
        State::abandon(&args.state);
    }
    imported
}

fn imported(args: &OnlineImportArgs, source: &Model, state: State, context: &Context) -> Result<ExitCode, Failure> {
    if state.told()?.is_some() {
        return Err(Failure::usage(format!("{} holds a state already: name another folder", args.state.display())));
    }
    let learner = &args.learner;
    if learner.config_from.is_some() || learner.init_rows.is_some() {
        return Err(Failure::usage("import begins with the model of --from: leave out --config-from and --init-rows"));
    }
    let mut opened = open::begin(state, source, learner, (source.config.seed, None), true, MEMORY, |settings| Told {
        version: 1,
        asked: told::of_learner(learner),
        settings,
        rules: Rules {
            loss_window: usize::try_from(learner.loss_window.0).unwrap_or(usize::MAX),
            deviations: source.config.targets.iter().map(|target| target.deviation.unwrap_or(0.0)).collect(),
            ..Rules::default()
        },
        max_waiting: 1_000_000,
        source: String::new(),
        shards: None,
    })?;
    context.output.report(&report_of(&mut opened)?)?;
    Ok(ExitCode::Done)
}
