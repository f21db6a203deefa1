//! Training rows by position in the total order of their hash, without ever sorting or holding all of them.
//!
//! One pass files every worker's rows under the leading bits of their hash, in a [`ChunkCache`] (memory or disk); counting the buckets
//! over all workers gives the position at which each begins. A *window* is one bucket: its rows are gathered from all workers, sorted, and
//! held once per process. Positions do not depend on the number of buckets, nor on where a row was stored.
//!
//! Cost: the rows once to the cache, then every row to every process once an epoch (n d values against the n m entries of an epoch).
//! Memory: [`KEPT`] windows of about [`WINDOW_BYTES`], and a buffer of [`FLUSH_BYTES`] for each bucket.

use crate::dictionary::pool::{Columns, Pool};
use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Gather, Outgoing, Scan, Step, pass};
use crate::engine::feed::Feed;
use crate::engine::session::Session;
use crate::error::StageError;
use nystream_datasets::{Chunk, ChunkCache};
use nystream_hashing::StreamKey;
use std::cell::RefCell;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes of the rows of a window.
pub const WINDOW_BYTES: u64 = 8 << 20;
/// Windows held by a process.
pub const KEPT: usize = 3;
/// Bytes of rows that a bucket buffers before they go to the cache.
pub const FLUSH_BYTES: u64 = 32 << 10;
/// Buckets at most, as a power of two.
const MOST_BITS: u32 = 16;

/// Leading bits of the hash that name a row's bucket, for `rows` rows of `row_bytes` each.
pub fn bucket_bits(rows: u64, row_bytes: u64) -> u32 {
    let buckets = (rows.saturating_mul(row_bytes) / WINDOW_BYTES).max(1);
    buckets.next_power_of_two().trailing_zeros().min(MOST_BITS)
}

/// Where a worker's filed rows are kept, and how many bytes of them at most.
#[derive(Clone, Debug)]
pub enum Place {
    /// In memory.
    Memory(u64),
    /// In a file in this folder.
    Disk(PathBuf, u64),
}

impl Place {
    fn open(&self) -> Result<ChunkCache, StageError> {
        Ok(match self {
            Place::Memory(limit) => ChunkCache::in_memory(*limit),
            Place::Disk(folder, limit) => ChunkCache::on_disk(folder, *limit)?,
        })
    }
}

/// A worker's rows, filed by bucket.
struct Filed {
    cache: ChunkCache,
    /// Numbers of the cached chunks of each bucket.
    numbers: Vec<Vec<usize>>,
    counts: Vec<u64>,
}

struct Filing {
    feed: Feed,
    chunk: Chunk,
    key: StreamKey,
    bits: u32,
    row_bytes: u64,
    place: Place,
    /// Opened by the first step, so that a failure ends the pass everywhere.
    filed: Option<Filed>,
    buffers: Vec<Chunk>,
    /// Where the rows are left for the worker.
    shelf: Rc<RefCell<Option<Filed>>>,
}

fn bucket(hash: u128, bits: u32) -> usize {
    if bits == 0 { 0 } else { (hash >> (128 - bits)) as usize }
}

fn add(buffer: &mut Chunk, chunk: &Chunk, i: usize) {
    let (d, c, t) = (chunk.numeric_width, chunk.code_width, chunk.target_width);
    (buffer.numeric_width, buffer.code_width, buffer.target_width) = (d, c, t);
    buffer.ids.push(chunk.ids[i]);
    buffer.numeric.extend_from_slice(&chunk.numeric[i * d..(i + 1) * d]);
    buffer.codes.extend_from_slice(&chunk.codes[i * c..(i + 1) * c]);
    buffer.targets.extend_from_slice(&chunk.targets[i * t..(i + 1) * t]);
    buffer.weights.push(chunk.weights[i]);
}

impl Filed {
    fn open(place: &Place, buckets: usize) -> Result<Self, StageError> {
        Ok(Filed { cache: place.open()?, numbers: vec![Vec::new(); buckets], counts: vec![0; buckets] })
    }

    fn flush(&mut self, bucket: usize, buffer: &mut Chunk) -> Result<(), StageError> {
        if !buffer.ids.is_empty() {
            self.counts[bucket] += buffer.ids.len() as u64;
            self.numbers[bucket].push(self.cache.write(buffer)?);
            buffer.clear();
        }
        Ok(())
    }
}

impl Scan for Filing {
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        let most = (FLUSH_BYTES / self.row_bytes.max(1)).max(1) as usize;
        let filed = match &mut self.filed {
            Some(filed) => filed,
            empty => empty.insert(Filed::open(&self.place, self.buffers.len())?),
        };
        for i in 0..self.chunk.rows() {
            let bucket = bucket(self.key.u128(self.chunk.ids[i]), self.bits);
            add(&mut self.buffers[bucket], &self.chunk, i);
            if self.buffers[bucket].ids.len() >= most {
                filed.flush(bucket, &mut self.buffers[bucket])?;
            }
        }
        Ok(Step::More { rows: self.chunk.rows() as u64 })
    }

    fn finish(mut self) -> Result<Vec<Outgoing>, StageError> {
        let mut filed = match self.filed.take() {
            Some(filed) => filed,
            None => Filed::open(&self.place, self.buffers.len())?,
        };
        for (bucket, buffer) in self.buffers.iter_mut().enumerate() {
            filed.flush(bucket, buffer)?;
        }
        let mut counts = Writer::default();
        filed.counts.iter().for_each(|count| counts.u64(*count));
        *self.shelf.borrow_mut() = Some(filed);
        Ok(vec![Outgoing { key: 0, bytes: counts.0 }])
    }
}

/// All training rows in hashed order: the view of one worker. Its methods are called by all workers in step.
pub struct HashedOrder {
    key: StreamKey,
    filed: Filed,
    /// Position of the first row of each bucket, then n.
    starts: Vec<usize>,
    windows: Vec<(usize, Arc<Pool>)>,
}

impl HashedOrder {
    /// Files the rows of `feed`, of about `row_bytes` bytes each and `rows` in all, in `place`.
    ///
    /// # Errors
    /// Bad data, or a cache that is full.
    pub fn new(
        session: &mut Session<'_>,
        feed: Feed,
        key: StreamKey,
        rows: u64,
        row_bytes: u64,
        place: Place,
    ) -> Result<Self, StageError> {
        let bits = bucket_bits(rows, row_bytes);
        let buckets = 1usize << bits;
        let shelf = Rc::new(RefCell::new(None));
        let scan = Filing {
            feed,
            chunk: Chunk::default(),
            key,
            bits,
            row_bytes,
            place,
            filed: None,
            buffers: vec![Chunk::default(); buckets],
            shelf: Rc::clone(&shelf),
        };
        let parcels = pass(session, "rows in hashed order", scan, Gather::default(), Audience::Everyone)?;
        let mut counts = vec![0u64; buckets];
        for parcel in parcels {
            let mut from = Reader(&parcel.bytes);
            for count in &mut counts {
                *count += from.u64()?;
            }
        }
        let mut starts = vec![0];
        for count in counts {
            starts.push(starts[starts.len() - 1] + count as usize);
        }
        let filed = shelf.borrow_mut().take();
        let filed = filed.ok_or_else(|| StageError::Internal("the rows were not filed".into()))?;
        Ok(HashedOrder { key, filed, starts, windows: Vec::new() })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows at positions `range`, once per process.
    ///
    /// # Errors
    /// A cache or an exchange that is damaged.
    pub fn rows(&mut self, session: &mut Session<'_>, range: Range<usize>) -> Result<Arc<Pool>, StageError> {
        // The last bucket that begins at or before the first position, and all that begin before the end.
        let first = self.starts.partition_point(|start| *start <= range.start).saturating_sub(1);
        let mut parts = Vec::new();
        for bucket in first..self.starts.len() - 1 {
            let (start, end) = (self.starts[bucket].max(range.start), self.starts[bucket + 1].min(range.end));
            if start >= end {
                if self.starts[bucket] >= range.end {
                    break;
                }
                continue;
            }
            parts.push((self.window(session, bucket)?, start - self.starts[bucket]..end - self.starts[bucket]));
        }
        session.try_once(|| {
            let parts = parts.iter().map(|(window, range)| window.gather(&range.clone().collect::<Vec<_>>()));
            Ok(Pool::concat(parts.collect()))
        })
    }

    fn window(&mut self, session: &mut Session<'_>, bucket: usize) -> Result<Arc<Pool>, StageError> {
        if let Some((_, known)) = self.windows.iter().find(|(b, _)| *b == bucket) {
            return Ok(Arc::clone(known));
        }
        let mut mine = Pool::default();
        let mut chunk = Chunk::default();
        let mut outcome = Ok(());
        for number in &self.filed.numbers[bucket] {
            outcome = self.filed.cache.read(*number, &mut chunk).map_err(StageError::from);
            if outcome.is_err() {
                break;
            }
            (0..chunk.ids.len()).for_each(|i| mine.push(&chunk, i, Columns::All));
        }
        let scan = Held(Some(outcome.map(|()| vec![Outgoing { key: 0, bytes: mine.to_bytes() }])));
        let parcels = pass(session, "window", scan, Gather::default(), Audience::Leaders)?;
        let key = self.key;
        let window = session.try_once(move || {
            let parts = parcels.iter().map(|p| Pool::from_bytes(&p.bytes)).collect::<Result<Vec<_>, _>>()?;
            Ok(Pool::concat(parts).sorted(key))
        })?;
        if self.windows.len() >= KEPT {
            self.windows.remove(0);
        }
        self.windows.push((bucket, Arc::clone(&window)));
        Ok(window)
    }
}

/// Parcels, or the error met while they were made, which then ends the pass everywhere.
struct Held(Option<Result<Vec<Outgoing>, StageError>>);

impl Scan for Held {
    fn step(&mut self) -> Result<Step, StageError> {
        Ok(Step::Done)
    }

    fn finish(mut self) -> Result<Vec<Outgoing>, StageError> {
        self.0.take().unwrap_or_else(|| Ok(Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_about_a_window() {
        assert_eq!(bucket_bits(0, 100), 0);
        assert_eq!(bucket_bits(36_000, 100), 0);
        assert_eq!(bucket_bits(1_000_000, 100), 4);
        assert_eq!(bucket_bits(u64::MAX, 1 << 20), MOST_BITS);
        assert_eq!([bucket(u128::MAX, 0), bucket(u128::MAX, 3), bucket(1 << 127, 1)], [0, 7, 1]);
    }
}
