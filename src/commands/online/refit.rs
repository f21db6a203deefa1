//! `--refit-encoder`: the frozen configuration of an exact state made anew from the rows that are left.
//!
//! The problem: what `--config-from` or `--init-rows` has decided (how columns are scaled, which levels there are, what targets may be, kernel and ridge) rests on rows that may be long gone, and is the one thing that
//! deleting a row does not unlearn. Here all of it is fitted again, to the rows with a target that are there now, by the job of `fit`; what says how the model is used stays: target, columns and what they are read as, weights,
//! held-out rule, seed and precision unless they are given, and the numbers by which centers are chosen, whatever the rows that are left would make of them: how many are asked for, of which pool or trie, by which law.
//!
//! *Rows* that the new encoder refuses (a weight beyond the new bound, of a row that waits for its label; a class that only held-out rows have) leave the collection and are among the refused ones
//! ([`Session::sift`]): `fit --config-from` takes all that are left.
//!
//! *Once*: the option asks for one. The configuration that was made is on record until the run that was asked for it ends with its source, so that starting it again after an interrupt or a kill fits nothing twice. A run without
//! the option takes the record away.
//!
//! *Atomic*: a snapshot of everything is durable before, the configuration is one file that takes the place of the old one, and each snapshot says by which configuration it was written. Where that is another, its
//! publication, the one part of it that rests on the configuration, is left out, and the next thing that happens is a publication. So a kill leaves the state as it was or with the new configuration, never between.
//!
//! Cost: a fit of the rows, and a pass over them to write them to a Parquet file in the state, which goes away afterwards.

use super::exact::keyed;
use super::init::{Asked, fitted};
use super::open::{CONFIG, Opened};
use super::told::{FITTED, asked};
use crate::cli::OnlineArgs;
use crate::cli::groups::{DictionaryArgs, InputArgs};
use crate::cli::values::{AutoOr, ClassWeight, Count, DictionaryMode, Scale, Select, SplitSpec, Task};
use crate::commands::Context;
use crate::exit;
use crate::exit::Failure;
use crate::fitted::function_of;
use crate::jobs::split_of;
use crate::model::{Model, Precision};
use crate::repeat::rule_of;
use clap::ValueEnum;
use nystream_dataflows::StageError;
use nystream_dataflows::online::encoding::Encoding;
use nystream_dataflows::online::session::Session;
use nystream_dataflows::online::state::State;
use nystream_datasets::events::{Event, StreamSchema};
use nystream_datasets::sink::PredictionWriter;
use nystream_datasets::{ColumnKind, Encoder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The rows that are left, in the folder of the state, while they are fitted.
pub const ROWS_LEFT: &str = "refit.parquet";

/// What was made last, while it is on record.
const RECORD: &str = "refitted.json";

/// Rows with a target without which nothing is fitted.
const LEAST: u64 = 50;
/// Rows written at a time.
const ROWS: usize = 4096;

/// What is on record.
#[derive(PartialEq, Serialize, Deserialize)]
struct Record {
    /// Digest of the configuration that was made.
    configuration: String,
    /// What said how.
    asked: BTreeMap<String, String>,
}

impl Record {
    fn of(args: &OnlineArgs, configuration: String) -> Self {
        let asked =
            asked(args).into_iter().filter(|(flag, _)| FITTED.contains(&flag.as_str()) && args.given.contains(flag));
        Record { configuration, asked: asked.collect() }
    }
}

/// Whether the run is to fit the configuration of `opened` anew: where it is asked to, and has not done so before.
///
/// # Errors
/// A configuration without a digest (1).
pub fn is_due(args: &OnlineArgs, opened: &Opened, context: &Context) -> Result<bool, Failure> {
    if !args.stream.refit_encoder {
        forget(&opened.state);
        return Ok(false);
    }
    let record = std::fs::read(opened.state.path(RECORD)).ok();
    let record: Option<Record> = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let made = record == Some(Record::of(args, opened.model.digest()?));
    if made {
        context.progress.aside(|| {
            exit::say("the configuration was fitted to the rows that were left by this command, which was interrupted later: it goes on by that")
        });
    }
    Ok(!made)
}

/// The configuration of `state` is `fresh` from here on. A snapshot has everything that came by the old one.
///
/// # Errors
/// Files that cannot be written (1): it is the old one then.
pub fn take(args: &OnlineArgs, state: &State, fresh: &Model) -> Result<(), Failure> {
    let record = Record::of(args, fresh.digest()?);
    let bytes = serde_json::to_vec(&record).map_err(|error| Failure::data(error.to_string()))?;
    // First what is of no consequence without the other.
    state.write(RECORD, &bytes)?;
    fresh.save(&state.path(CONFIG))?;
    Ok(())
}

/// What is wrong with what is on record, where something is.
pub fn damaged(state: &State) -> Option<String> {
    let bytes = std::fs::read(state.path(RECORD)).ok()?;
    let error = serde_json::from_slice::<Record>(&bytes).err()?;
    let path = state.path(RECORD);
    Some(format!(
        "'{}' is damaged ({error}): remove it; a --refit-encoder that was interrupted is done again",
        path.display()
    ))
}

/// The next one that is asked for is another.
pub fn forget(state: &State) {
    let _ = std::fs::remove_file(state.path(RECORD));
}

/// The configuration of a fit to the rows of `session`, which was begun by `model`.
///
/// # Errors
/// Too few rows, or rows of which a column that the state stores says nothing any more (1), and what a fit says.
pub fn refitted(
    args: &OnlineArgs,
    session: &mut Session,
    encoding: &Encoding,
    model: &Model,
    folder: &Path,
    context: &Context,
) -> Result<Model, Failure> {
    if model.config.selection.method == "file" {
        return Err(Failure::data(
            "--refit-encoder: the centers of the configuration are given ones (--select file), encoded as the old rows are: nothing was changed. Begin another --state by a fit to other ones",
        ));
    }
    let path = folder.join(ROWS_LEFT);
    let written = write(session, encoding.schema(), &path);
    let made = written.and_then(|()| fit(args, encoding, model, &path, context));
    let _ = std::fs::remove_file(&path);
    let mut made = keyed(&made?)?;
    // Of few rows fewer were asked for.
    made.config.selection.clone_from(&model.config.selection);
    let (encoder, _) = function_of(&made, None)?;
    let (before, now) = (encoding.schema().columns(), StreamSchema::of(&encoder).map_err(StageError::from)?);
    if before != now.columns() {
        let gone: Vec<&str> =
            before.iter().filter(|column| !now.columns().contains(column)).map(|column| column.name.as_str()).collect();
        return Err(Failure::data(format!(
            "--refit-encoder: the rows that are left say nothing of {} (it is constant or empty in them), which the state stores: nothing was changed. Go on without --refit-encoder, or begin another --state with --init-rows",
            gone.join(", ")
        )));
    }
    Ok(made)
}

/// Writes the rows with a target.
fn write(session: &mut Session, schema: &StreamSchema, path: &Path) -> Result<(), Failure> {
    let mut writer = PredictionWriter::create(path)?;
    let (mut events, mut rows): (Vec<Event>, u64) = (Vec::new(), 0);
    let mut take = |events: &mut Vec<Event>| -> Result<(), StageError> {
        for batch in schema.batches(events)? {
            writer.write(&batch).map_err(|error| StageError::Data(error.to_string()))?;
        }
        events.clear();
        Ok(())
    };
    session.for_each(&mut |row| {
        if schema.has_target(&row.event.cells) {
            rows += 1;
            events.push(row.event);
        }
        if events.len() >= ROWS { take(&mut events) } else { Ok(()) }
    })?;
    if !events.is_empty() {
        take(&mut events)?;
    }
    if rows < LEAST {
        return Err(Failure::data(format!(
            "--refit-encoder: {rows} rows with a target are there, and {LEAST} are the least that is fitted: nothing was changed"
        )));
    }
    writer.finish()?;
    Ok(())
}

/// The fit.
fn fit(
    args: &OnlineArgs,
    encoding: &Encoding,
    model: &Model,
    path: &Path,
    context: &Context,
) -> Result<Model, Failure> {
    let (encoder, fixed) = (encoding.encoder(), &model.config);
    let named = |what: &str| Failure::data(format!("the configuration has an unknown {what}"));
    let split: SplitSpec = fixed.split.parse().map_err(|_| named("split"))?;
    let mut sample = args.sample.clone();
    let given = |flag: &str| args.given.iter().any(|name| name == flag);
    if !given("seed") {
        sample.seed = fixed.seed;
    }
    if !given("precision") {
        let precision = if fixed.precision == Precision::F64 { "f64" } else { "f32" };
        sample.precision = ValueEnum::from_str(precision, false).map_err(|_| named("precision"))?;
    }
    let asked = Asked {
        input: input(encoder, encoding.schema(), &fixed.task, path)?,
        split: (split.to_string(), split_of(&split)),
        dictionary: DictionaryArgs {
            centers: fixed.selection.centers.map_or(AutoOr::Auto, |centers| AutoOr::Given(Count(centers))),
            select: Select::Auto,
            dictionary_rows: None,
            dictionary_mode: DictionaryMode::Bernoulli,
        },
        rule: Some(rule_of(&fixed.selection)?),
        sample,
        variance: model.variance.is_some(),
    };
    fitted(args, &asked, true, context)
}

/// How the columns are read: as before.
fn input(encoder: &Encoder, schema: &StreamSchema, task: &str, path: &Path) -> Result<InputArgs, Failure> {
    let scale = match encoder.scale {
        nystream_datasets::Scale::Standard => Scale::Standard,
        nystream_datasets::Scale::Robust => Scale::Robust,
        nystream_datasets::Scale::Quantile => Scale::Quantile,
    };
    let numbers = encoder.categorical.iter().filter(|feature| feature.kind != ColumnKind::Text);
    let feature = |name: &str| {
        encoder.numeric.iter().any(|f| f.column == name) || encoder.categorical.iter().any(|f| f.column == name)
    };
    let others = schema.columns().iter().filter(|column| !column.target && !feature(&column.name));
    let class_weight = match encoder.classes() {
        Some(_) if encoder.balanced => Some(ClassWeight::Balanced),
        Some(classes) if !encoder.class_weights.is_empty() => {
            Some(ClassWeight::Labels(classes.iter().cloned().zip(encoder.class_weights.iter().copied()).collect()))
        }
        _ => None,
    };
    Ok(InputArgs {
        data: vec![path.display().to_string()],
        target: encoder.targets.clone(),
        drop: others.map(|column| column.name.clone()).collect(),
        categorical: numbers.map(|feature| feature.column.clone()).collect(),
        weight: encoder.weight.clone(),
        class_weight,
        id_column: encoder.id_column.clone(),
        cyclic: encoder.numeric.iter().filter(|f| f.cyclic).map(|f| f.column.clone()).collect(),
        scale,
        task: if task == "classification" { Task::Classification } else { Task::Regression },
        max_bad_rows: u64::MAX,
    })
}
