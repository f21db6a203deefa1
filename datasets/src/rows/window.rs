//! Which row leaves a window next, changes that the index does not have yet among them.
//!
//! The index has the rows of the last commit in their order, and a group of changes may take away thousands of them, bring others and ask for the first one each time. So the first ranks of the index
//! are read ahead, in pieces that double; those of keys that have changed since are passed over, and the rows of the group have their own order here. Both are of one group and go with it.

use super::index::Index;
use super::{Order, RowsError, StoredRow};
use std::collections::{BTreeMap, VecDeque};

/// What a row leaves by: time or 0, then arrival.
pub(super) type Rank = (i64, u64);

/// Ranks that are read first, and at most at a time.
const FIRST: usize = 8;
const MOST: usize = 1024;

impl Order {
    /// The rank of a row.
    pub(super) fn rank(self, time: Option<i64>, arrival: u64) -> Rank {
        match self {
            Order::Arrival => (0, arrival),
            Order::Time => (time.unwrap_or(i64::MIN), arrival),
        }
    }

    /// The time of a row of this rank.
    pub(super) fn time(self, rank: Rank) -> Option<i64> {
        (self == Order::Time && rank.0 != i64::MIN).then_some(rank.0)
    }
}

/// The rows that leave first.
#[derive(Default)]
pub(super) struct Front {
    /// Rows of the changes that the index does not have.
    fresh: BTreeMap<Rank, String>,
    /// Rows of the index that were read ahead, ascending.
    ahead: VecDeque<(Rank, String)>,
    /// The last one that was read, and how many were at once.
    read: Option<Rank>,
    size: usize,
    /// The index has no others.
    whole: bool,
}

impl Front {
    /// A change: the row that the group had for its key before, and the one that is there now.
    pub(super) fn changed(&mut self, order: Order, before: Option<&StoredRow>, now: Option<&StoredRow>) {
        let rank = |row: &StoredRow| order.rank(row.event.time, row.arrival);
        if let Some(before) = before {
            self.fresh.remove(&rank(before));
        }
        if let Some(now) = now {
            self.fresh.insert(rank(now), now.event.key.clone());
        }
    }

    /// The index has all changes now.
    pub(super) fn clear(&mut self) {
        *self = Front::default();
    }

    /// The first row of all; `changed` says whether the group has changed a key.
    pub(super) fn first(
        &mut self,
        index: &Index,
        changed: impl Fn(&str) -> bool,
    ) -> Result<Option<(Rank, String)>, RowsError> {
        loop {
            while self.ahead.front().is_some_and(|(_, key)| changed(key)) {
                self.ahead.pop_front();
            }
            if !self.ahead.is_empty() || self.whole {
                break;
            }
            self.size = (2 * self.size).clamp(FIRST, MOST);
            let more = index.ranked(self.read, self.size)?;
            self.whole = more.len() < self.size;
            self.read = more.last().map(|(rank, _)| *rank).or(self.read);
            self.ahead.extend(more);
        }
        let fresh = self.fresh.first_key_value().map(|(rank, key)| (*rank, key.clone()));
        let known = self.ahead.front().cloned();
        Ok(match (fresh, known) {
            (Some(fresh), Some(known)) => Some(fresh.min(known)),
            (fresh, known) => fresh.or(known),
        })
    }
}
