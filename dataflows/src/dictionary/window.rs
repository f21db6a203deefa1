//! The rows of a window of the trie: a pass over the data that holds those of some cells, and counts those of all when it is the first.

use super::known::{RowSum, SumCounts, sums_bytes};
use super::pool::{Columns, Pool, in_pool};
use super::trie::TrieJob;
use super::units::cell;
use crate::engine::exchange::{Audience, Gather, Outgoing, Reducer, Scan, Step, pass};
use crate::engine::feed::{Feed, RowStore};
use crate::engine::session::Session;
use crate::error::StageError;
use nystream_datasets::{Chunk, Role};
use nystream_hashing::StreamKey;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// Scans for the pool's rows in some cells and leaves them on a shelf.
struct HoldScan {
    feed: Feed,
    chunk: Chunk,
    pool_key: StreamKey,
    pool_bits: u32,
    trie: StreamKey,
    bits: u32,
    cells: Range<usize>,
    /// Rows of every cell, in the first pass, and whether their hashes are wanted.
    counts: Option<Vec<RowSum>>,
    hashed: bool,
    held: Pool,
    shelf: Rc<RefCell<Pool>>,
}

impl HoldScan {
    fn new<O>(store: &RowStore, job: &TrieJob<O>, bits: u32, cells: Range<usize>, shelf: &Rc<RefCell<Pool>>) -> Self {
        HoldScan {
            feed: store.feed(Role::Training),
            chunk: Chunk::default(),
            pool_key: job.pool_key,
            pool_bits: job.bits,
            trie: job.shape.hash,
            bits,
            cells,
            counts: None,
            hashed: false,
            held: Pool::default(),
            shelf: Rc::clone(shelf),
        }
    }
}

impl Scan for HoldScan {
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        for (i, id) in self.chunk.ids.iter().enumerate() {
            if self.pool_bits > 0 && !in_pool(self.pool_key.u128(*id), self.pool_bits) {
                continue;
            }
            let cell = cell(self.trie.u128(*id), self.bits);
            match &mut self.counts {
                Some(counts) if self.hashed => counts[cell].add(&self.chunk, i),
                Some(counts) => counts[cell].rows += 1,
                None => {}
            }
            if self.cells.contains(&cell) {
                self.held.push(&self.chunk, i, Columns::Features);
            }
        }
        Ok(Step::More { rows: self.chunk.rows() as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        *self.shelf.borrow_mut() = self.held;
        let Some(counts) = self.counts else { return Ok(Vec::new()) };
        Ok(vec![Outgoing { key: 0, bytes: sums_bytes(&counts) }])
    }
}

/// This worker's rows of `cells`.
pub(super) fn hold<O>(
    session: &mut Session<'_>,
    store: &RowStore,
    job: &TrieJob<O>,
    bits: u32,
    cells: Range<usize>,
) -> Result<Pool, StageError> {
    let shelf = Rc::default();
    let scan = HoldScan::new(store, job, bits, cells, &shelf);
    pass(session, "dictionary: window", scan, Gather::default(), Audience::Leaders)?;
    Ok(shelf.take())
}

/// This worker's rows of the cells before `first`, and the counts of all cells over all workers, with the sums of their hashes where these are wanted.
pub(super) fn first_window<O>(
    session: &mut Session<'_>,
    store: &RowStore,
    job: &TrieJob<O>,
    bits: u32,
    first: usize,
    hashed: bool,
) -> Result<(Pool, Vec<RowSum>), StageError> {
    let shelf = Rc::default();
    let mut scan = HoldScan::new(store, job, bits, 0..first, &shelf);
    let none = || vec![RowSum::default(); 1 << bits];
    (scan.counts, scan.hashed) = (Some(none()), hashed);
    let parcels = pass(session, "dictionary: window", scan, SumCounts(none()), Audience::Everyone)?;
    let mut counts = SumCounts(none());
    for parcel in parcels {
        counts.absorb(parcel.key, parcel.bytes)?;
    }
    Ok((shelf.take(), counts.0))
}
