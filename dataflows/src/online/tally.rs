//! Counters of a run, and what drift has raised: all of it a function of the log's records in their order, and in every snapshot.

use nystream_datasets::stream::Position;
use nystream_kernels::online::drift::Raised;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What has happened since the run began, restarts included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Rows inserted.
    pub inserted: u64,
    /// Rows corrected.
    pub updated: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Labels that came later.
    pub labelled: u64,
    /// What was refused.
    pub rejected: u64,
    /// Answers given.
    pub answers: u64,
    /// Changes applied.
    pub changes: u64,
    /// Changes at the last publication.
    pub published: u64,
    /// Publications.
    pub publications: u64,
    /// The latest time of a row, microseconds since 1970.
    pub latest: Option<i64>,
    /// Rows that left a window, or that another configuration refused; they are none of the deleted ones, nor are they changes.
    #[serde(default)]
    pub expired: u64,
    /// Rows with a target that are there, in stores that keep rows.
    #[serde(default)]
    pub learnable: u64,
    /// Rows with a target that came or went since the last publication, and that were there then.
    #[serde(default)]
    pub moved: u64,
    /// See `moved`.
    #[serde(default)]
    pub moved_of: u64,
    /// Rows learned from, whatever became of them, and how many there were when drift was looked at.
    #[serde(default)]
    pub trained: u64,
    /// See `trained`.
    #[serde(default)]
    pub looked: u64,
    /// Whether drift asks for a publication.
    #[serde(default)]
    pub due: bool,
    /// The last [`ALARMS`] alarms of drift, oldest first.
    #[serde(default)]
    pub alarms: Vec<DriftAlarm>,
    /// The source that events are of, and how many of its items the log has behind what it says of how far that is read: a write that a crash has torn.
    #[serde(default)]
    pub source: Option<String>,
    /// See `source`.
    #[serde(default)]
    pub ahead: u64,
    /// How far each source is read: to a position, and so many items after it.
    pub sources: BTreeMap<String, (Position, u64)>,
}

/// Alarms that are remembered.
pub const ALARMS: usize = 100;

/// An alarm of drift, and the row that raised it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftAlarm {
    /// Events that had been accepted with it: the point of the stream.
    pub changes: u64,
    /// Its key.
    pub key: String,
    /// When it happened, microseconds since 1970, where the stream says so.
    pub time: Option<i64>,
    /// By what, and how far beyond what.
    pub raised: Raised,
}
