//! `--publish drift:X`: how far the learner is from its last publication.
//!
//! *Learners that rest on rows*: rows with a target that came or went since (a correction is both), as a share of those that were there then. Replacing so many of n rows moves a least-squares fit by about
//! that share of itself. *Second-order learners*: |f - p| / |p| in the norm of the kernel's space, f the function now and p the one that was published: by Cauchy-Schwarz no prediction has moved by
//! more than that times |p| sqrt(k(x, x)). Both are of the events in their order: the first is counted, the second is looked at every so many learned rows (those of a block), whatever reads and commits
//! there were. Before the first publication the drift is infinite as soon as there is a function.
//!
//! That a publication is due stays so until there is one, restarts too.

use super::settle::Core;
use crate::error::StageError;
use nystream_datasets::rows::Applied;

impl Core {
    /// Counts the rows of a change that a model rests on.
    pub(super) fn moved(&mut self, applied: &Applied) {
        let schema = self.encoding.schema();
        let with_target = |row: &nystream_datasets::rows::StoredRow| u64::from(schema.has_target(&row.event.cells));
        let came = applied.added.as_deref().map_or(0, with_target);
        let went = applied.removed.as_deref().map_or(0, with_target);
        self.tally.moved += came + went;
        self.tally.learnable = (self.tally.learnable + came).saturating_sub(went);
    }

    /// After each change: whether a model is to be published by now.
    pub(super) fn watch(&mut self) -> Result<(), StageError> {
        let Some(limit) = self.rules.publish_drift.filter(|_| !self.tally.due) else { return Ok(()) };
        if self.traits.unlearns {
            self.tally.due = self.tally.moved > 0 && self.tally.moved as f64 >= limit * self.tally.moved_of as f64;
        } else if self.tally.trained >= self.tally.looked + self.rules.watch_rows.max(1) {
            self.tally.looked = self.tally.trained;
            self.give()?;
            self.tally.due = self.learner.drift(&self.mark).is_some_and(|drift| drift >= limit);
        }
        Ok(())
    }

    /// A model was published, or it was found that there is none, which is none that counts.
    pub(super) fn published(&mut self, made: bool) {
        self.tally.published = self.tally.changes;
        self.tally.publications += u64::from(made);
        (self.tally.due, self.tally.moved, self.tally.moved_of) = (false, 0, self.tally.learnable);
        if self.rules.publish_drift.is_some() {
            self.mark = self.learner.mark().unwrap_or_default();
        }
    }

    pub(super) fn publication_is_due(&self) -> bool {
        self.tally.due
            || self.rules.publish_every.is_some_and(|every| self.tally.changes - self.tally.published >= every)
    }
}
