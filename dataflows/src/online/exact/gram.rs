//! The Gram of the rows over the current centers, as one worker keeps it: its own rows go into the integers that all workers share.
//!
//! Rows wait until they fill a panel ([`PANEL_ROWS`]), so that changes that come one by one cost no more than those of a batch; a publication takes what
//! waits. Nobody sees the difference: the sums are asked for at publications alone.

use super::keep::complete;
use crate::dictionary::Centers;
use crate::error::StageError;
use crate::nystrom::gram::{Change, Panels};
use nystream_datasets::{Chunk, RowSlots};
use nystream_kernels::gram::{ExactGram, PANEL_ROWS};
use nystream_kernels::tile::Entry;
use std::sync::Arc;

/// The centers, in the order in which the Gram has them, and the sums.
pub(super) struct Current<T: Entry> {
    /// How many centers were asked for when they were chosen.
    pub asked: usize,
    /// The centers as they were chosen.
    pub centers: Arc<Centers>,
    /// The place of each center of the Gram among those.
    pub order: Arc<Vec<usize>>,
    /// The sums of the rows of all workers.
    pub gram: Arc<ExactGram>,
    pub panels: Panels<T>,
}

/// What a worker has of it.
pub(super) struct GramState<T: Entry> {
    /// Nothing before the first publication.
    pub current: Option<Current<T>>,
    added: Chunk,
    removed: Chunk,
    read: Chunk,
    slots: Vec<u64>,
    /// Whether the rows that come are in the sums already: those of a restart.
    pub loading: bool,
}

impl<T: Entry + Into<f64> + Default> GramState<T> {
    pub(super) fn new() -> Self {
        GramState {
            current: None,
            added: Chunk::default(),
            removed: Chunk::default(),
            read: Chunk::default(),
            slots: Vec::new(),
            loading: false,
        }
    }

    /// Takes in updates of the collection: the slots of rows that came (+1) or went (-1), of any batches that are not over, so that the slots still hold what they held.
    pub(super) fn update(&mut self, slots: &mut RowSlots, updates: &[(u64, isize)]) -> Result<(), StageError> {
        // Without centers there are no sums: the first publication makes them of all rows.
        if self.current.is_none() || self.loading {
            return Ok(());
        }
        for (waiting, sign) in [(&mut self.removed, -1), (&mut self.added, 1)] {
            self.slots.clear();
            self.slots.extend(updates.iter().filter(|(_, diff)| diff.signum() == sign).map(|(slot, _)| *slot));
            if self.slots.is_empty() {
                continue;
            }
            self.slots.sort_unstable();
            slots.read(&self.slots, &mut self.read)?;
            (0..self.read.rows()).filter(|i| complete(&self.read, *i)).for_each(|i| waiting.push(&self.read, i));
        }
        self.flush(PANEL_ROWS)
    }

    /// Sums what waits, where that is at least `least` rows.
    pub(super) fn flush(&mut self, least: usize) -> Result<(), StageError> {
        let Some(Current { gram, panels, .. }) = &mut self.current else { return Ok(()) };
        for (waiting, change) in [(&mut self.added, Change::Add), (&mut self.removed, Change::Subtract)] {
            if waiting.rows() >= least.max(1) {
                panels.apply(gram, waiting, change)?;
                waiting.clear();
            }
        }
        Ok(())
    }
}
