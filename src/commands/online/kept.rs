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

use crate::exit::Failure;
use crate::model::{Model, ModelError};
use crate::report::PublishedReport;
use nystream_dataflows::online::state::State;
use serde_json::json;
use std::path::{Path, PathBuf};

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
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => 1,
                // Nothing goes because of that.
                _ => {
                    tracing::warn!(
                        "'{}' is damaged: no published model is removed; give --keep-published N again",
                        own.join(KEEP).display()
                    );
                    u64::MAX
                }
            },
        };
        let kept = Kept { folder: state.folder().to_path_buf(), keep: keep.max(1), unlearns };
        for (point, path) in listed(&kept.folder) {
            if point > changes {
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
        let all = listed(&self.folder);
        let most = if self.keep > 1 { usize::try_from(self.keep).unwrap_or(usize::MAX) } else { 0 };
        for (_, path) in &all[..all.len().saturating_sub(most)] {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The files of the folder, by the points of their models, ascending.
fn listed(state: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(state.join(FOLDER)).into_iter().flatten().flatten();
    let mut all: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.path();
            let point = path.file_name()?.to_str()?.strip_suffix(".nys")?.parse().ok()?;
            Some((point, path))
        })
        .collect();
    all.sort_unstable();
    all
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
    let point = model.info.report.pointer("/published/changes").and_then(serde_json::Value::as_u64);
    Ok(Some((point, model)))
}

/// What is told of the models that are there; and, in sentences, of those that cannot be used.
pub fn told(state: &Path) -> (Vec<PublishedReport>, Vec<String>) {
    let (mut told, mut damaged) = (Vec::new(), Vec::new());
    let mut tell = |changes: u64, model: Result<Model, ModelError>, path: &Path| match model
        .and_then(|model| Ok((model.config.rows, model.digest()?)))
    {
        Ok((rows, model_digest)) => told.push(PublishedReport { changes, rows, model_digest }),
        Err(error) => damaged.push(unusable(path, Some(changes), &error)),
    };
    let all = listed(state);
    for (point, path) in &all {
        tell(*point, Model::load(path), path);
    }
    let path = state.join(NEWEST);
    match newest(state) {
        Ok(Some((Some(point), model))) if all.last().is_none_or(|(last, _)| *last < point) => {
            tell(point, Ok(model), &path);
        }
        Ok(_) => {}
        Err(failure) => damaged.push(format!("the newest published model cannot be used: {failure}")),
    }
    (told, damaged)
}

/// A model that cannot be used.
fn unusable(path: &Path, point: Option<u64>, error: &dyn std::fmt::Display) -> String {
    let which = point
        .map_or_else(|| "newest published model".to_owned(), |point| format!("model published as of change {point}"));
    format!("the {which} cannot be used: '{}': {error}", path.display())
}

/// The point of the newest model of `changes` or before that is kept by its point, or of `newest`, the newest of all, where that is one.
///
/// # Errors
/// There is none.
pub fn point(state: &Path, changes: u64, newest: Option<u64>) -> Result<u64, Absent> {
    let mut points: Vec<u64> = listed(state).into_iter().map(|(point, _)| point).chain(newest).collect();
    points.sort_unstable();
    points.dedup();
    points.iter().rev().find(|point| **point <= changes).copied().ok_or(Absent::Kept(points))
}

/// The model that is kept by its point.
///
/// # Errors
/// It cannot be used.
pub fn of_point(state: &Path, point: u64) -> Result<Model, Absent> {
    let path = state.join(FOLDER).join(named(point));
    Model::load(&path).map_err(|error| Absent::Damaged(unusable(&path, Some(point), &error)))
}

fn named(point: u64) -> String {
    format!("{point:020}.nys")
}

/// Why there is no model of a point.
#[derive(Debug)]
pub enum Absent {
    /// None of then is kept: these points are.
    Kept(Vec<u64>),
    /// The one of then cannot be used.
    Damaged(String),
}

/// The newest model that was published at `changes` or before, and its point. Others are not looked at.
///
/// # Errors
/// There is none.
pub fn find(state: &Path, changes: u64) -> Result<(u64, Model), Absent> {
    let all = listed(state);
    // It may be one of none of the files that are kept by their point.
    if all.last().is_none_or(|(last, _)| *last < changes)
        && let Ok(Some((Some(point), model))) = newest(state)
        && point <= changes
        && all.last().is_none_or(|(last, _)| *last < point)
    {
        return Ok((point, model));
    }
    let Some((point, path)) = all.iter().rev().find(|(point, _)| *point <= changes) else {
        let newest = newest(state).ok().flatten().and_then(|(point, _)| point);
        let mut points: Vec<u64> = all.iter().map(|(point, _)| *point).chain(newest).collect();
        points.sort_unstable();
        points.dedup();
        return Err(Absent::Kept(points));
    };
    match Model::load(path) {
        Ok(model) => Ok((*point, model)),
        Err(error) => Err(Absent::Damaged(unusable(path, Some(*point), &error))),
    }
}

impl Absent {
    /// In words, of a request for the model as of `changes`.
    pub fn reason(&self, changes: u64) -> String {
        match self {
            Absent::Damaged(reason) => reason.clone(),
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
