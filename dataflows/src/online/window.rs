//! Sliding windows: rows that leave because others came.
//!
//! A window is a rule by which the events themselves take rows away, as deletes would: after each event that was accepted, rows leave while the rule says so, the one that arrived or happened first before the
//! others. No clock is asked, so that which rows are there is a function of the events in their order. What leaves is logged as such: a replay does not decide again.
//!
//! One event may move a window past any number of rows (an instant far ahead). They leave in lots of `LOT`, each with a commit of its own behind the event and its place in the source, so that memory does
//! not grow with them. A process that ends in between finds by the rows and the latest time that more are to go, and nothing else is taken before they have.

use super::session::TakeError;
use super::settle::{Core, REPLAY_ROWS};
use super::store::Store;
use crate::error::StageError;
use nystream_datasets::events::{Event, Op};
use nystream_datasets::rows::{Applied, Order};
use serde::{Deserialize, Serialize};

/// Rows that leave between two commits.
pub(super) const LOT: usize = 8192;

/// Which rows stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// So many rows: those that arrived last. A correction is a row that arrives, a label is not.
    Rows(u64),
    /// Rows of the last so many microseconds up to the latest time of a row.
    Time(i64),
}

impl Window {
    /// What rows leave by.
    pub fn order(self) -> Order {
        match self {
            Window::Rows(_) => Order::Arrival,
            Window::Time(_) => Order::Time,
        }
    }

    /// Why a row of `time` cannot come in: it would leave at once, or nobody can tell.
    pub(super) fn refusal(self, event: &Event, latest: Option<i64>) -> Option<String> {
        let (Window::Time(span), Op::Insert | Op::Update) = (self, event.op) else { return None };
        let Some(time) = event.time else { return Some("it has no time, and --window time goes by it".into()) };
        let latest = latest.filter(|latest| time < latest.saturating_sub(span))?;
        let behind = (latest as f64 - time as f64) / 1e6;
        Some(format!("its time is {behind} s before the latest one, outside --window time:{}s", span as f64 / 1e6))
    }
}

impl Core {
    /// Takes away rows that the window does not hold, at most [`LOT`] of them; whether all are gone.
    pub(super) fn expire(&mut self, store: &mut dyn Store) -> Result<bool, TakeError> {
        let Some(window) = self.rules.window else { return Ok(true) };
        for _ in 0..LOT {
            let key = match window {
                Window::Rows(most) if store.rows() > most => store.first()?.map(|(_, key)| key),
                Window::Rows(_) => None,
                Window::Time(span) => {
                    let oldest = self.tally.latest.map(|latest| latest.saturating_sub(span));
                    let past = |time: &Option<i64>| oldest.is_some_and(|oldest| time.is_none_or(|time| time < oldest));
                    store.first()?.filter(|(time, _)| past(time)).map(|(_, key)| key)
                }
            };
            let Some(key) = key else { return Ok(true) };
            let Some(applied) = store.expire(&key)? else { return Ok(true) };
            self.left(applied)?;
        }
        Ok(false)
    }

    /// What a row that leaves does to everything but the rows.
    pub(super) fn left(&mut self, applied: Applied) -> Result<(), StageError> {
        self.tally.expired += 1;
        self.moved(&applied);
        self.watch()?;
        if let Some(row) = &applied.removed {
            self.run.removed.push((self.run.changes.len(), row.event.clone()));
        }
        self.run.changes.push(applied);
        // An event may move a window past any number of them.
        if self.run.changes.len() >= REPLAY_ROWS { self.give() } else { Ok(()) }
    }
}
