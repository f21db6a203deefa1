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
use nystream_dataflows::StageError;
use nystream_dataflows::online::state::State;
use serde_json::json;
use std::path::{Path, PathBuf};

/// What deleting a row does not take back in the exact mode: it was decided before. Every model that is published says so.
pub const NOT_UNLEARNED: &str = "encoder, target centre, scale and range, bound on weights, kernel, bandwidth, ridge, number of centers and the rule that chooses them: of the rows of --config-from, --init-rows or, where there was one, the last --refit-encoder";

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
            None => std::fs::read_to_string(own.join(KEEP)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1),
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
            model.save(&self.folder.join(FOLDER).join(format!("{changes:020}.nys")))?;
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

/// Every published model that is there, by its point, ascending.
fn all(state: &Path) -> Result<Vec<(u64, Model)>, Failure> {
    let mut all = Vec::new();
    for (point, path) in listed(state) {
        all.push((point, Model::load(&path)?));
    }
    if let Some((Some(point), model)) = newest(state)?
        && all.last().is_none_or(|(last, _)| *last < point)
    {
        all.push((point, model));
    }
    Ok(all)
}

/// What is told of the models that are there.
///
/// # Errors
/// A file that cannot be read (1).
pub fn told(state: &Path) -> Result<Vec<PublishedReport>, Failure> {
    let told = |(changes, model): (u64, Model)| {
        Ok(PublishedReport { changes, rows: model.config.rows, model_digest: model.digest()? })
    };
    all(state)?.into_iter().map(told).collect()
}

/// The newest model that was published at `changes` or before, and its point.
///
/// # Errors
/// There is none (1): the message says which are there.
pub fn as_of(state: &Path, changes: u64) -> Result<(u64, Model), Failure> {
    State::look(state)?;
    let all = all(state)?;
    let points: Vec<String> = all.iter().map(|(point, _)| point.to_string()).collect();
    all.into_iter().rev().find(|(point, _)| *point <= changes).ok_or_else(|| {
        Failure::from(StageError::Data(match points.is_empty() {
            true => format!("--as-of {changes}: no model was published in {}", state.display()),
            false => format!(
                "--as-of {changes}: no model of then is kept in {}, which has those as of change {} (--keep-published N keeps more)",
                state.display(),
                points.join(", ")
            ),
        }))
    })
}
