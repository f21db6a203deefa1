//! Published models by the point of the stream at which they were: `--keep-published N`, `export --as-of`.
//!
//! ```text
//!  STATE/model.nys               the newest
//!  STATE/published/<changes>.nys the last N, the newest among them, where N is more than 1
//!  STATE/published/keep          N
//! ```
//!
//! The point is the number of changes (events that were accepted) that the stream had brought, which its file says too, outside of its digest; with the same events it is the same for any run. A publication of
//! a point that a crash takes back is made again, of the same rows. Each file appears whole or not at all, the one in `published` first.
//!
//! A file counts by its name where what is inside says the same: a copy under another name is no model of then, takes nobody's place and is left alone. The newest publication lies in two files, of which one is enough.

use crate::exit::Failure;
use crate::model::{Model, ModelError};
use crate::report::PublishedReport;
use nystream_dataflows::online::state::State;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What deleting a row does not take back in the exact mode: it was decided before. Every model that is published says so.
pub const NOT_UNLEARNED: &str = "encoder, target centre, scale and range, bound on weights, kernel, bandwidth and ridge: of the rows of --config-from, --init-rows or, where there was one, the last --refit-encoder; number of centers and the rule that chooses them: of the rows of --config-from or --init-rows";

/// Names in the folder of a state.
const NEWEST: &str = "model.nys";
const FOLDER: &str = "published";
const KEEP: &str = "keep";

/// The published models of a state.
#[derive(Clone, Debug)]
pub struct Kept {
    folder: PathBuf,
    keep: u64,
    /// Whether rows can be deleted.
    unlearns: bool,
    /// Files that are none of the points of their names, as of the beginning of the run.
    foreign: Arc<BTreeSet<PathBuf>>,
}

impl Kept {
    /// Those of `state`: `given` of them are kept from now on, or as many as before. Those of a point after `changes`, which a damaged log has lost, are no more.
    ///
    /// # Errors
    /// A folder that cannot be read or written (1).
    pub fn open(state: &State, given: Option<u64>, changes: u64, unlearns: bool) -> Result<Self, Failure> {
        let own = state.path(FOLDER);
        let failed = |error: std::io::Error| Failure::data(format!("--keep-published: '{}': {error}", own.display()));
        let keep = match given {
            Some(keep) => {
                if keep > 1 || own.exists() {
                    std::fs::create_dir_all(&own).map_err(failed)?;
                    crate::atomic::write(&own.join(KEEP), keep.to_string().as_bytes())?;
                }
                keep
            }
            None => match std::fs::read_to_string(own.join(KEEP)).map(|text| text.trim().parse()) {
                Ok(Ok(keep)) => keep,
                // A state that keeps more than one has the folder, and the file in it.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !own.exists() => 1,
                // Nothing goes because of that.
                _ => {
                    tracing::warn!(
                        "'{}' is damaged or gone: no published model is removed; give --keep-published N again",
                        own.join(KEEP).display()
                    );
                    u64::MAX
                }
            },
        };
        let named = listed(state.folder());
        let foreign = named.into_iter().filter_map(|(point, path)| {
            let told = foreign(&path, point)?;
            tracing::warn!("{told}");
            Some(path)
        });
        let foreign = Arc::new(foreign.collect());
        let kept = Kept { folder: state.folder().to_path_buf(), keep: keep.max(1), unlearns, foreign };
        for (point, path) in listed(&kept.folder) {
            if point > changes && !kept.foreign.contains(&path) {
                std::fs::remove_file(path).map_err(failed)?;
            }
        }
        kept.prune();
        Ok(kept)
    }

    /// Keeps a model as of `changes`; its digest.
    ///
    /// # Errors
    /// A file that cannot be written: those before are as they were.
    pub fn publish(&self, mut model: Model, changes: u64) -> Result<String, ModelError> {
        model.info.report = json!({ "published": { "changes": changes } });
        if self.unlearns {
            model.info.report["not_unlearned"] = NOT_UNLEARNED.into();
        }
        if self.keep > 1 {
            model.save(&self.folder.join(FOLDER).join(named(changes)))?;
        }
        let digest = model.save(&self.folder.join(NEWEST))?;
        self.prune();
        Ok(digest)
    }

    /// There is no model of the rows that are there: what was the newest is none of them.
    pub fn nothing(&self) {
        let _ = std::fs::remove_file(self.folder.join(NEWEST));
    }

    /// Removes what is too old; what cannot be removed is next time.
    fn prune(&self) {
        let mut all = listed(&self.folder);
        all.retain(|(_, path)| !self.foreign.contains(path));
        let most = if self.keep > 1 { usize::try_from(self.keep).unwrap_or(usize::MAX) } else { 0 };
        for (_, path) in &all[..all.len().saturating_sub(most)] {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The files of the folder, by the points of their names, ascending.
fn listed(state: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(state.join(FOLDER)).into_iter().flatten().flatten();
    let mut all: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.path();
            let name = path.file_name()?.to_str()?;
            let point = name.strip_suffix(".nys")?.parse().ok()?;
            (name == named(point)).then_some((point, path))
        })
        .collect();
    all.sort_unstable();
    all
}

/// The point of a model as its report says it.
fn point_of(report: &Value) -> Option<u64> {
    report.pointer("/published/changes").and_then(Value::as_u64)
}

/// What is to be told of a file that is whole as far as its header goes, and none of the point of its name.
fn foreign(path: &Path, point: u64) -> Option<String> {
    let own = point_of(&Model::report_of(path)?);
    (own != Some(point)).then(|| misnamed(path, own))
}

fn misnamed(path: &Path, own: Option<u64>) -> String {
    let which = own.map_or_else(
        || "holds a model that was not published here".to_owned(),
        |own| format!("holds the model published as of change {own}, by another name"),
    );
    format!("'{}' {which}: it counts for nothing; remove it", path.display())
}

/// The newest published model and its point, where its file says so.
///
/// # Errors
/// A file that cannot be read (1).
pub fn newest(state: &Path) -> Result<Option<(Option<u64>, Model)>, Failure> {
    let path = state.join(NEWEST);
    if !path.exists() {
        return Ok(None);
    }
    let model = Model::load(&path)?;
    let point = point_of(&model.info.report);
    Ok(Some((point, model)))
}

/// The newest one of those that are kept by their points.
pub fn last(state: &Path) -> Option<(u64, Model)> {
    listed(state).into_iter().rev().find_map(|(point, _)| Some((point, of_point(state, point).ok()?)))
}

/// What is told of the models that are there; and, in sentences, of what is damaged.
pub fn told(state: &Path) -> (Vec<PublishedReport>, Vec<String>) {
    let (mut told, mut damaged) = (Vec::new(), Vec::new());
    let newest = newest(state);
    let mut points = Vec::new();
    for (point, path) in listed(state) {
        let found = load(&path, point).and_then(|model| match model.digest() {
            Ok(digest) => Ok(PublishedReport { changes: point, rows: model.config.rows, model_digest: digest }),
            Err(error) => Err(Bad::Damaged(error.to_string())),
        });
        match found {
            Ok(report) => {
                points.push((point, path));
                told.push(report);
            }
            Err(Bad::Foreign(own)) => damaged.push(misnamed(&path, own)),
            // It went away meanwhile.
            Err(Bad::Gone) => {}
            Err(Bad::Damaged(reason)) => damaged.push(format!(
                "{}: {}",
                unusable(&path, Some(point), &reason),
                match &newest {
                    Ok(Some((Some(own), _))) if *own == point => "model.nys is the same one, copy it there",
                    _ => "put back a copy, or remove it, and --as-of takes the one before",
                }
            )),
        }
    }
    match newest {
        Ok(Some((Some(point), model))) if points.last().is_none_or(|(last, _)| *last < point) => match model.digest() {
            Ok(model_digest) => told.push(PublishedReport { changes: point, rows: model.config.rows, model_digest }),
            Err(error) => damaged.push(unusable(&state.join(NEWEST), Some(point), &error)),
        },
        Ok(_) => {}
        Err(failure) => damaged.push(format!(
            "the newest published model cannot be used: {failure}: {}the next run that ends writes it anew",
            points.last().map_or_else(String::new, |(point, path)| format!(
                "'{}' is the last one that is kept, as of change {point}; ",
                path.display()
            ))
        )),
    }
    let keep = state.join(FOLDER).join(KEEP);
    let wrong = match std::fs::read(&keep) {
        Ok(text) => std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse::<u64>().ok()).is_none(),
        Err(_) => state.join(FOLDER).exists(),
    };
    if wrong {
        damaged.push(format!("'{}' holds no number: give --keep-published N to the next run", keep.display()));
    }
    (told, damaged)
}

/// A model that cannot be used.
fn unusable(path: &Path, point: Option<u64>, error: &dyn std::fmt::Display) -> String {
    let which = point
        .map_or_else(|| "newest published model".to_owned(), |point| format!("model published as of change {point}"));
    format!("the {which} cannot be used: '{}': {error}", path.display())
}

/// Why a file is not the model of its name.
enum Bad {
    /// There is none, or there is none any more.
    Gone,
    /// It is of another point, where it says of which.
    Foreign(Option<u64>),
    Damaged(String),
}

/// The model in `path`, which is to be the one of `point`.
fn load(path: &Path, point: u64) -> Result<Model, Bad> {
    let model = Model::load(path).map_err(|error| match error {
        ModelError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Bad::Gone,
        other => Bad::Damaged(other.to_string()),
    })?;
    match point_of(&model.info.report) {
        Some(own) if own == point => Ok(model),
        own => Err(Bad::Foreign(own)),
    }
}

/// The point of the newest model of `changes` or before that is kept by its point, or of `newest`, the newest of all, where that is one. [`of_point`] says whether it can be used.
///
/// # Errors
/// There is none.
pub fn point(state: &Path, changes: u64, newest: Option<u64>) -> Result<u64, Absent> {
    let points = listed(state).into_iter().map(|(point, _)| point).chain(newest);
    points.filter(|point| *point <= changes).max().ok_or_else(|| absent(state, newest))
}

/// None of then is kept.
fn absent(state: &Path, newest: Option<u64>) -> Absent {
    let own = listed(state).into_iter().filter(|(point, path)| foreign(path, *point).is_none());
    let points: BTreeSet<u64> = own.map(|(point, _)| point).chain(newest).collect();
    Absent::Kept(points.into_iter().collect())
}

/// The model that is kept by its point.
///
/// # Errors
/// It is gone, or cannot be used.
pub fn of_point(state: &Path, point: u64) -> Result<Model, Absent> {
    let path = state.join(FOLDER).join(named(point));
    load(&path, point).or_else(|bad| match newest(state) {
        // The newest lies in two files.
        Ok(Some((Some(own), model))) if own == point => Ok(model),
        _ => Err(match bad {
            Bad::Gone | Bad::Foreign(_) => Absent::Gone,
            Bad::Damaged(reason) => Absent::Damaged(unusable(&path, Some(point), &reason)),
        }),
    })
}

fn named(point: u64) -> String {
    format!("{point:020}.nys")
}

/// Why there is no model of a point.
#[derive(Debug)]
pub enum Absent {
    /// None of then is kept: these points are.
    Kept(Vec<u64>),
    /// The one of then is not there, or no longer.
    Gone,
    /// The one of then cannot be used.
    Damaged(String),
}

/// The newest model that was published at `changes` or before, and its point. Others are not looked at.
///
/// # Errors
/// There is none.
pub fn find(state: &Path, changes: u64) -> Result<(u64, Model), Absent> {
    let own = newest(state).ok().flatten().and_then(|(point, _)| point);
    let mut until = changes;
    loop {
        let point = point(state, until, own)?;
        match of_point(state, point) {
            Ok(model) => return Ok((point, model)),
            Err(Absent::Gone) if point > 0 => until = point - 1,
            Err(Absent::Gone) => return Err(absent(state, own)),
            Err(other) => return Err(other),
        }
    }
}

impl Absent {
    /// In words, of a request for the model as of `changes`.
    pub fn reason(&self, changes: u64) -> String {
        match self {
            Absent::Damaged(reason) => reason.clone(),
            Absent::Gone => "it is no longer kept".into(),
            Absent::Kept(points) if points.is_empty() => "no model was published yet".into(),
            Absent::Kept(points) => {
                let points: Vec<String> = points.iter().map(u64::to_string).collect();
                format!(
                    "no model of change {changes} or before is kept: there are those as of change {} (--keep-published N keeps more)",
                    points.join(", ")
                )
            }
        }
    }
}

/// [`find`] for `export`.
///
/// # Errors
/// A folder without a state, and no such model (1): the message says which are there.
pub fn as_of(state: &Path, changes: u64) -> Result<(u64, Model), Failure> {
    State::look(state)?;
    let absent =
        |absent: Absent| Failure::data(format!("--as-of {changes}: {}: {}", state.display(), absent.reason(changes)));
    find(state, changes).map_err(absent)
}
