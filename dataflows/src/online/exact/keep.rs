//! The rows of one worker: in slots on disk, found by their ids in the arrangement.
//!
//! A batch of changes is netted before it comes: each id is taken away, or brought, once. Whatever row an id had before is looked up and goes.
//!
//! Several batches may be under way: a later one is applied while the sums, or another worker, are at an earlier one. The arrangement has an earlier one only when all workers are done with it, so what
//! such batches did is looked up first in a list of their own ([`UnderWay`]).

use crate::dictionary::known::KnownNodes;
use crate::dictionary::pool::{Pool, PoolRule, in_pool};
use crate::engine::bytes::{Reader, Writer};
use crate::error::StageError;
use crate::job::fit::live::Fixed;
use differential_dataflow::operators::arrange::TraceAgent;
use differential_dataflow::trace::TraceReader;
use differential_dataflow::trace::cursor::{Cursor, cursor_list};
use differential_dataflow::trace::implementations::ValSpine;
use nystream_datasets::{Chunk, RowSlots, SlotReader};
use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::exact_sum::ExactSum;
use nystream_kernels::sampling::rpcholesky::KnownPivots;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use timely::progress::frontier::{Antichain, AntichainRef};

/// Where each id's row lies.
pub(super) type Places = TraceAgent<ValSpine<RowId, u64, u64, isize>>;

/// A row that came (+1) to its slot, or went (-1).
pub(super) type Placed = ((RowId, u64), isize);

/// What the rows that are there add up to.
#[derive(Clone, Default)]
pub(super) struct Tally {
    pub rows: u64,
    pub weight_sum: ExactSum,
    /// Rows of which some targets are null.
    pub incomplete: u64,
}

impl Tally {
    pub(super) fn merge(&mut self, other: &Tally) {
        self.rows += other.rows;
        self.incomplete += other.incomplete;
        self.weight_sum.merge(&other.weight_sum);
    }
}

/// Whether all targets of row `i` are there. Chunks hold rows with at least one.
pub(super) fn complete(chunk: &Chunk, i: usize) -> bool {
    chunk.targets_of(i..i + 1).iter().all(|y| !y.is_nan())
}

/// What a worker has.
pub(super) struct Keep {
    pub slots: RowSlots,
    pub tally: Tally,
    /// Whether a row of the pool that centers are chosen from has come or gone since they were chosen.
    pub dirty: bool,
    /// Whether the rows that come were there when the centers were chosen: those of a restart.
    pub loading: bool,
    /// The first error of a batch: the worker's rows are not what they should be from then on.
    pub error: Option<StageError>,
    /// Nodes of the trie, where centers are chosen by one. Taken out while it is at work.
    pub nodes: Option<KnownNodes>,
    /// Pivots on the pool as they were chosen last, of this process.
    pub pivots: Arc<Mutex<KnownPivots>>,
    pool: Option<PoolRule>,
    /// The key that the sample is drawn by.
    sample: StreamKey,
    /// Leading zeros of the hashes of the row in each slot, for the sample and for the pool: whether it is in one of any bits.
    zeros: Vec<[u8; 2]>,
    places: Option<Places>,
    /// Batches that are applied and not over, oldest first.
    under_way: VecDeque<UnderWay>,
    /// Rows after the batches that are over.
    rows: u64,
    chunk: Chunk,
}

/// What a batch did that other workers, or the sums, may still be at.
struct UnderWay {
    time: u64,
    /// Where the rows of its ids are after it, ascending by id.
    places: Vec<(RowId, Option<u64>)>,
    /// Slots whose rows have gone with it: the Gram still reads them.
    freed: Vec<u64>,
    /// Rows after it.
    rows: u64,
}

impl UnderWay {
    /// Where it has left the row of `id`, if that is one of its ids.
    fn place(&self, id: &RowId) -> Option<Option<u64>> {
        let at = self.places.binary_search_by_key(id, |place| place.0).ok()?;
        Some(self.places[at].1)
    }
}

/// Changes for one worker, as bytes.
pub(super) fn letter(removed: &[RowId], added: &Pool) -> Vec<u8> {
    let mut out = Writer::default();
    out.ids(removed);
    out.bytes(&added.to_bytes());
    out.0
}

fn read_letter(bytes: &[u8]) -> Result<(Vec<RowId>, Pool), StageError> {
    let mut from = Reader(bytes);
    Ok((from.ids()?, Pool::from_bytes(from.bytes()?)?))
}

impl Keep {
    pub(super) fn new(slots: RowSlots, fixed: &Fixed, workers: usize, pivots: Arc<Mutex<KnownPivots>>) -> Self {
        Keep {
            slots,
            tally: Tally::default(),
            dirty: true,
            loading: false,
            error: None,
            nodes: fixed.nodes(workers),
            pivots,
            pool: fixed.pool(),
            sample: fixed.sample_key(),
            zeros: Vec::new(),
            places: None,
            under_way: VecDeque::new(),
            rows: 0,
            chunk: Chunk::default(),
        }
    }

    /// The arrangement that this worker's updates go into.
    pub(super) fn arranged(&mut self, places: Places) {
        self.places = Some(places);
    }

    /// The batches before `time` are over: the arrangement may merge them, and slots may be used again. Rows after them.
    pub(super) fn settle(&mut self, time: u64) -> u64 {
        if let Some(places) = &mut self.places {
            places.set_logical_compaction(AntichainRef::new(&[time]));
            places.set_physical_compaction(AntichainRef::new(&[time]));
        }
        while self.under_way.front().is_some_and(|batch| batch.time < time) {
            let Some(batch) = self.under_way.pop_front() else { break };
            self.slots.release(&batch.freed);
            self.rows = batch.rows;
        }
        self.rows
    }

    /// Ends the arrangement.
    pub(super) fn close(&mut self) {
        self.places = None;
    }

    /// Applies the letters of the batch of `time` and gives the updates of the collection. Batches come in the order of their times.
    pub(super) fn apply(&mut self, time: u64, letters: Vec<Vec<u8>>) -> Vec<Placed> {
        if self.error.is_some() {
            // What the rows are is not known any more.
            return Vec::new();
        }
        match self.try_apply(time, letters) {
            Ok(updates) => updates,
            Err(error) => {
                self.error.get_or_insert(error);
                Vec::new()
            }
        }
    }

    fn try_apply(&mut self, time: u64, letters: Vec<Vec<u8>>) -> Result<Vec<Placed>, StageError> {
        let (mut gone, mut added) = (Vec::new(), Vec::new());
        for letter in &letters {
            let (removed, pool) = read_letter(letter)?;
            gone.extend(removed);
            gone.extend_from_slice(&pool.ids);
            added.push(pool);
        }
        gone.sort_unstable();
        gone.dedup();
        let mut old = self.find(&gone)?;
        // Neighbouring slots are read together.
        old.sort_unstable_by_key(|(_, slot)| *slot);
        let mut updates: Vec<Placed> = old.iter().map(|place| (*place, -1)).collect();
        let slots: Vec<u64> = old.iter().map(|(_, slot)| *slot).collect();
        let mut chunk = std::mem::take(&mut self.chunk);
        self.slots.read(&slots, &mut chunk)?;
        let freed = slots;
        let leaving = self.under_way.iter().map(|batch| batch.freed.len() as u64).sum();
        self.count(&chunk, false);
        let mut places: Vec<(RowId, Option<u64>)> = gone.into_iter().map(|id| (id, None)).collect();
        for pool in added.into_iter().filter(|pool| !pool.is_empty()) {
            into_chunk(pool, &mut chunk);
            let all: Vec<usize> = (0..chunk.rows()).collect();
            let slots = self.slots.insert(&chunk, &all, leaving)?;
            self.count(&chunk, true);
            self.rank(&chunk.ids, &slots);
            for (id, slot) in chunk.ids.iter().zip(&slots) {
                if let Ok(at) = places.binary_search_by_key(id, |place| place.0) {
                    places[at].1 = Some(*slot);
                }
            }
            updates.extend(chunk.ids.iter().copied().zip(slots).map(|place| (place, 1)));
        }
        self.chunk = chunk;
        self.under_way.push_back(UnderWay { time, places, freed, rows: self.tally.rows });
        Ok(updates)
    }

    /// Rows have come, or gone.
    fn count(&mut self, chunk: &Chunk, came: bool) {
        for i in 0..chunk.rows() {
            let incomplete = u64::from(!complete(chunk, i));
            if came {
                self.tally.rows += 1;
                self.tally.incomplete += incomplete;
                self.tally.weight_sum.add(chunk.weights[i]);
            } else {
                self.tally.rows -= 1;
                self.tally.incomplete -= incomplete;
                self.tally.weight_sum.remove(chunk.weights[i]);
            }
        }
        if !self.loading {
            self.touch(&chunk.ids);
        }
    }

    /// Rows with these ids are in these slots now.
    fn rank(&mut self, ids: &[RowId], slots: &[u64]) {
        let zeros = |key: StreamKey, id: RowId| key.u128(id).leading_zeros() as u8;
        for (id, slot) in ids.iter().zip(slots) {
            let slot = *slot as usize;
            if slot >= self.zeros.len() {
                self.zeros.resize(slot + 1, [0; 2]);
            }
            self.zeros[slot] = [zeros(self.sample, *id), self.pool.map_or(0, |pool| zeros(pool.key, *id))];
        }
    }

    /// The rows of the sample of so many bits.
    pub(super) fn sampled(&self, bits: u32) -> SlotReader {
        self.slots.reader_of(|slot| u32::from(self.zeros[slot as usize][0]) >= bits)
    }

    /// The rows of the pool, of so many bits.
    pub(super) fn pooled(&self, bits: u32) -> SlotReader {
        self.slots.reader_of(|slot| u32::from(self.zeros[slot as usize][1]) >= bits)
    }

    /// Rows with these ids have come or gone since the centers were chosen.
    pub(super) fn touch(&mut self, ids: &[RowId]) {
        let Some(PoolRule { key, bits, .. }) = self.pool else { return };
        self.dirty = self.dirty || ids.iter().any(|id| in_pool(key.u128(*id), bits));
    }

    /// The slots of those of `ids`, ascending, that have a row.
    fn find(&mut self, ids: &[RowId]) -> Result<Vec<(RowId, u64)>, StageError> {
        let internal = || StageError::Internal("the rows' arrangement cannot be read".into());
        let places = self.places.as_mut().ok_or_else(internal)?;
        let batches = places.batches_through(Antichain::new().borrow()).ok_or_else(internal)?;
        let (mut cursor, storage) = cursor_list(batches);
        let mut found = Vec::new();
        for id in ids {
            // The last word is that of the latest batch.
            if let Some(place) = self.under_way.iter().rev().find_map(|batch| batch.place(id)) {
                found.extend(place.map(|slot| (*id, slot)));
                continue;
            }
            cursor.seek_key(&storage, id);
            if cursor.get_key(&storage) != Some(id) {
                continue;
            }
            while let Some(slot) = cursor.get_val(&storage) {
                let slot = *slot;
                let mut times = 0;
                cursor.map_times(&storage, |_, count| times += *count);
                if times > 0 {
                    found.push((*id, slot));
                }
                cursor.step_val(&storage);
            }
        }
        Ok(found)
    }
}

/// Rows as slots take them.
fn into_chunk(pool: Pool, chunk: &mut Chunk) {
    chunk.clear();
    let rows = pool.len();
    (chunk.numeric_width, chunk.code_width) = (pool.rows.numeric_width, pool.rows.code_width);
    chunk.target_width = pool.target_width;
    (chunk.numeric, chunk.codes) = (pool.rows.numeric, pool.rows.codes);
    (chunk.ids, chunk.targets, chunk.weights) = (pool.ids, pool.targets, pool.weights);
    chunk.ordinals.extend(0..rows as u64);
    chunk.held_out.resize(rows, false);
    chunk.block_starts.extend([0, rows as u32]);
}
