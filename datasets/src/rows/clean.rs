//! Keeping the log as short as its rows.
//!
//! Two steps, apart from each other. Where the log is too long for its rows, the live rows of its oldest segment are logged again: from then on no change takes away a row that lies there. A segment without live rows is
//! removed once no replay reads it: when it is older than the oldest snapshot that is kept, and no change after that names a row in it ([`super::needed`]). So the second step follows the first by as many snapshots as are
//! kept, and a damaged snapshot always has a way back from the one before.

use super::change::Entry;
use super::{KeyedRows, Place, RowsError, Whence, Why};
use crate::journal::Segment;
use std::sync::Arc;

impl KeyedRows {
    /// Logs the live rows of the oldest segments again, while the log holds more than `factor` records (at least 1) for each live row beside segments in which none lives, and removes such segments from the
    /// beginning of the log. Returns the bytes freed.
    ///
    /// `held` is the record of the oldest snapshot from which a learner may go on: nothing is removed that is no older, or that a change after it takes away, since a replay reads that. It commits and makes the index
    /// durable itself.
    ///
    /// # Errors
    /// [`RowsError`]; what was not removed is removed next time.
    pub fn clean(&mut self, factor: f64, held: u64) -> Result<u64, RowsError> {
        // Below 1 it would carry rows for ever.
        let factor = factor.max(1.0);
        self.commit()?;
        loop {
            let segments = self.journal.segments();
            let records = |segment: &Segment| segment.last + 1 - segment.first;
            // What waits for its removal is no reason to carry more.
            let empty = segments.iter().take_while(|segment| !self.live.any(segment.first, segment.last)).count();
            let left: u64 = segments[empty..].iter().map(records).sum();
            match segments[empty..] {
                [oldest, _, ..] if left as f64 > factor * self.rows.max(1) as f64 => self.carry(oldest)?,
                _ => break,
            }
        }
        let needed = self.needed.oldest(held).min(held.saturating_add(1));
        let segments = self.journal.segments();
        let gone = segments.iter().take(segments.len().saturating_sub(1));
        let gone: Vec<Segment> = gone
            .take_while(|segment| segment.last < needed && !self.live.any(segment.first, segment.last))
            .copied()
            .collect();
        let Some(last) = gone.last() else { return Ok(0) };
        // The index must not point into a segment that is gone.
        self.flush()?;
        let freed = self.journal.compact(last.last)?;
        gone.iter().for_each(|segment| self.reader.forget(*segment));
        self.live.forget(last.last);
        Ok(freed)
    }

    /// Logs the live rows of a segment again.
    fn carry(&mut self, segment: Segment) -> Result<(), RowsError> {
        let mut rows = Vec::new();
        let live = &self.live;
        self.reader.scan(segment, |record| {
            if live.get(record.number) {
                rows.push((Place { number: record.number, offset: record.offset }, record.payload.to_vec()));
            }
            Ok(())
        })?;
        for (place, payload) in rows {
            if let Entry::Change(change) = Entry::read(&payload)? {
                let row = Arc::new(change.into_row(place.number));
                self.log(row.event.clone(), Some((row, Whence::Durable(place))), Why::Carried)?;
            }
        }
        self.commit().map(drop)
    }
}
