//! One pass over a worker's rows: legs one after the other, each of blocks that are decoded or of chunks that are kept.

use super::{AHEAD, Decoded, Filled, Kept, RowStore};
use crate::engine::leases::Leased;
use crate::engine::session::Process;
use crate::engine::watch::Ahead;
use crate::error::StageError;
use nystream_datasets::{
    BlockReader, BlockRun, Catalog, Chunk, ChunkCache, Encoder, ReadOptions, Role, SlotReader, Unread,
};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Instant;

/// One pass over a worker's rows.
pub struct Feed {
    store: RowStore,
    role: Role,
    /// The first is the one at work.
    legs: VecDeque<Leg>,
    supply: Supply,
    /// Chunks to be kept, while this pass fills the store, and which they are.
    filling: Option<Filling>,
    filled: Filled,
    /// Blocks handed out.
    handed: u64,
    /// Whether the last call found nothing left.
    over: bool,
}

/// Blocks from one place.
struct Leg {
    source: Source,
    /// Of the store's own blocks: those that a pass keeps that fills it.
    own: bool,
    unread: Unread,
}

enum Source {
    Decoded,
    /// One run a chunk.
    Memory(Arc<Vec<Chunk>>),
    /// One run a chunk.
    Disk(Arc<ChunkCache>),
    /// One run a chunk, of no file.
    Slots(Arc<SlotReader>),
}

/// Chunks on their way into the store.
enum Filling {
    Memory(Vec<Chunk>),
    /// A file that is made when the pass begins.
    NewDisk {
        folder: PathBuf,
        limit: u64,
    },
    Disk(ChunkCache),
}

/// A chunk on its way, counted until it is used.
type Ready = (Result<Chunk, StageError>, Ahead);

/// The first leg at work.
enum Supply {
    /// It has not begun.
    Idle,
    /// A prefetch thread decodes or reads.
    Ahead { ready: Receiver<Ready>, back: Sender<Chunk> },
    /// It is in memory.
    Memory,
}

impl Feed {
    pub(super) fn new(store: &RowStore, role: Role) -> Self {
        let leg = |source, runs: &[BlockRun], own| Leg {
            source,
            own,
            unread: Unread::new(runs.iter().copied(), store.blocks_per_batch),
        };
        // Only training rows are kept: they are what solvers read again and again.
        let (legs, filling) = match &*store.kept.borrow() {
            Kept::Memory(chunks, filled) if role == Role::Training => {
                let kept = leg(Source::Memory(Arc::clone(chunks)), &filled.chunks, true);
                (vec![leg(Source::Decoded, &filled.moved, true), kept], None)
            }
            Kept::Disk(cache, filled) if role == Role::Training => {
                let kept = leg(Source::Disk(Arc::clone(cache)), &filled.chunks, true);
                (vec![leg(Source::Decoded, &filled.moved, true), kept], None)
            }
            Kept::Slots(reader) if role == Role::Training => {
                let chunk = |number: usize| BlockRun { file: 0, first: number as u64, end: number as u64 + 1 };
                let runs: Vec<BlockRun> = (0..reader.len()).map(chunk).collect();
                (vec![leg(Source::Slots(Arc::clone(reader)), &runs, true)], None)
            }
            kept => {
                let filling = match kept {
                    Kept::Wanted if role == Role::Training => Some(Filling::Memory(Vec::new())),
                    Kept::DiskWanted { folder, limit } if role == Role::Training => {
                        Some(Filling::NewDisk { folder: folder.clone(), limit: *limit })
                    }
                    _ => None,
                };
                (vec![leg(Source::Decoded, &store.runs, true)], filling)
            }
        };
        // A leg of nothing needs no thread.
        let legs = legs.into_iter().filter(|leg| filling.is_some() || leg.unread.blocks() > 0).collect();
        Feed {
            store: store.clone(),
            role,
            legs,
            supply: Supply::Idle,
            filling,
            filled: Filled::default(),
            handed: 0,
            over: false,
        }
    }

    /// The pass over `ranges` of the global blocks instead of the worker's own. They are decoded, and kept nowhere.
    pub fn restricted(self, ranges: &[Range<u64>]) -> Feed {
        let runs = ranges.iter().flat_map(|range| self.store.catalog.runs(range.start, range.end)).collect();
        let store = RowStore { runs, kept: Rc::new(RefCell::new(Kept::Never)), ..self.store };
        Feed::new(&store, self.role)
    }

    /// The global blocks of `chunk`.
    pub fn blocks(&self, chunk: &Chunk) -> Range<u64> {
        if chunk.file.is_none() {
            return 0..0;
        }
        let first = self.global_block(chunk, 0);
        first..first + chunk.blocks() as u64
    }

    /// The data set.
    pub fn catalog(&self) -> &Catalog {
        &self.store.catalog
    }

    /// Blocks of the whole data set.
    pub fn total_blocks(&self) -> u64 {
        self.store.total_blocks()
    }

    /// Position of block `block` of `chunk` among all blocks of the data set.
    pub fn global_block(&self, chunk: &Chunk, block: usize) -> u64 {
        self.store.catalog.global_block(self.file_of(chunk), chunk.first_block + block as u64)
    }

    fn file_of(&self, chunk: &Chunk) -> usize {
        chunk.file.and_then(|id| self.store.catalog.file_index(id)).unwrap_or_default()
    }

    /// Replaces `chunk` by the next one; false when there is none left, and from then on, unless more blocks are taken over.
    ///
    /// # Errors
    /// [`StageError::Data`] for what cannot be read or encoded, [`StageError::Budget`] for a cache that cannot be written; the pass is then
    /// over. Bad rows are no error: the chunk lists them.
    pub fn next(&mut self, chunk: &mut Chunk) -> Result<bool, StageError> {
        let result = self.advance(chunk);
        if result.is_err() {
            self.legs.iter().for_each(|leg| leg.unread.clear());
            self.legs.clear();
            (self.supply, self.filling, self.over) = (Supply::Idle, None, true);
        }
        result
    }

    fn advance(&mut self, chunk: &mut Chunk) -> Result<bool, StageError> {
        while let Some(leg) = self.legs.front() {
            if matches!(self.supply, Supply::Idle) {
                self.supply = self.start(leg)?;
                if let Some(Filling::NewDisk { folder, limit }) = self.filling.as_ref().filter(|_| leg.own) {
                    self.filling = Some(Filling::Disk(ChunkCache::on_disk(folder, *limit)?));
                }
            }
            if self.take(chunk)? {
                self.handed += chunk.blocks() as u64;
                return Ok(true);
            }
            self.end_leg();
        }
        self.over = true;
        Ok(false)
    }

    /// The next chunk of the first leg.
    fn take(&mut self, chunk: &mut Chunk) -> Result<bool, StageError> {
        let Some(leg) = self.legs.front() else { return Ok(false) };
        match (&self.supply, &leg.source) {
            (Supply::Memory, Source::Memory(chunks)) => {
                let claim = leg.unread.claim();
                let Some(kept) = claim.and_then(|claim| chunks.get(claim.number)) else { return Ok(false) };
                chunk.clone_from(kept);
                Ok(true)
            }
            (Supply::Ahead { ready, back }, _) => {
                // The prefetch thread is done when it has left.
                let Ok((next, _)) = ready.recv() else { return Ok(false) };
                let used = std::mem::replace(chunk, next?);
                // It may be done with buffers too; then this one is simply freed.
                let _ = back.send(used);
                if leg.own {
                    self.keep(chunk)?;
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Keeps a chunk of the store's own blocks, while the store is filled.
    fn keep(&mut self, chunk: &Chunk) -> Result<(), StageError> {
        match &mut self.filling {
            Some(Filling::Memory(chunks)) => chunks.push(chunk.clone()),
            Some(Filling::Disk(cache)) => {
                cache.write(chunk)?;
            }
            Some(Filling::NewDisk { .. }) | None => return Ok(()),
        }
        let file = self.file_of(chunk);
        let (first, end) = (chunk.first_block, chunk.first_block + chunk.blocks() as u64);
        self.filled.chunks.push(BlockRun { file, first, end });
        Ok(())
    }

    /// The first leg is done.
    fn end_leg(&mut self) {
        self.supply = Supply::Idle;
        let Some(leg) = self.legs.pop_front().filter(|leg| leg.own) else { return };
        debug_assert_eq!(leg.unread.blocks(), 0);
        let mut filled = || Arc::new(std::mem::take(&mut self.filled));
        let kept = match self.filling.take() {
            Some(Filling::Memory(chunks)) => Kept::Memory(Arc::new(chunks), filled()),
            Some(Filling::Disk(cache)) => Kept::Disk(Arc::new(cache), filled()),
            Some(Filling::NewDisk { .. }) | None => return,
        };
        *self.store.kept.borrow_mut() = kept;
    }

    fn start(&self, leg: &Leg) -> Result<Supply, StageError> {
        let (store, unread) = (&self.store, leg.unread.clone());
        let process = Arc::clone(&store.process);
        match &leg.source {
            Source::Memory(_) => Ok(Supply::Memory),
            Source::Disk(cache) => {
                let cache = Arc::clone(cache);
                ahead(move |send, used| read_ahead(&cache, &unread, &process, &send, &used))
            }
            Source::Slots(reader) => {
                let reader = Arc::clone(reader);
                ahead(move |send, used| read_slots(&reader, &unread, &process, &send, &used))
            }
            Source::Decoded => {
                let projection = store.encoder.projection(&store.catalog, self.role)?;
                let options = ReadOptions { blocks_per_batch: store.blocks_per_batch, ..ReadOptions::default() };
                let reader = BlockReader::new(&store.catalog, [], &projection, options).reading(unread);
                let (encoder, role, decoded) = (Arc::clone(&store.encoder), self.role, Arc::clone(&store.decoded));
                ahead(move |send, used| prefetch(reader, &encoder, role, (&process, &decoded), &send, &used))
            }
        }
    }
}

impl Leased for Feed {
    fn catalog(&self) -> &Catalog {
        &self.store.catalog
    }

    fn unread(&self) -> u64 {
        self.legs.iter().map(|leg| leg.unread.blocks()).sum()
    }

    fn handed(&self) -> u64 {
        self.handed
    }

    fn over(&self) -> bool {
        self.over
    }

    fn decoding(&self) -> u64 {
        let kept = matches!(*self.store.kept.borrow(), Kept::Memory(..) | Kept::Disk(..));
        if kept { self.store.decoded.pace() } else { 0 }
    }

    fn give_up(&mut self, blocks: u64, process: usize) -> Vec<BlockRun> {
        let mut given: Vec<BlockRun> = Vec::new();
        let mut wanted = blocks;
        for leg in self.legs.iter().rev() {
            let runs = leg.unread.give_up(wanted, &|file| self.store.catalog.sees(process, file));
            wanted -= runs.iter().map(|run| run.end - run.first).sum::<u64>();
            if leg.own && self.filling.is_some() {
                self.filled.moved.extend(&runs);
            }
            given.extend(runs);
        }
        given
    }

    fn take_over(&mut self, runs: Vec<BlockRun>) {
        let unread = Unread::new(runs, self.store.blocks_per_batch);
        self.legs.push_back(Leg { source: Source::Decoded, own: false, unread });
        self.over = false;
    }
}

/// Runs `work` on a prefetch thread: it sends chunks, at most [`AHEAD`] before they are used, and gets used ones back.
fn ahead(work: impl FnOnce(SyncSender<Ready>, Receiver<Chunk>) + Send + 'static) -> Result<Supply, StageError> {
    let (send, ready) = sync_channel(AHEAD);
    let (back, used) = channel();
    std::thread::Builder::new()
        .name("prefetch".into())
        .spawn(move || work(send, used))
        .map_err(|e| StageError::Internal(format!("cannot start a prefetch thread: {e}")))?;
    Ok(Supply::Ahead { ready, back })
}

/// Reads the chunks of `cache` in their order, as far as they are not taken away.
fn read_ahead(
    cache: &ChunkCache,
    unread: &Unread,
    process: &Arc<Process>,
    send: &SyncSender<Ready>,
    used: &Receiver<Chunk>,
) {
    let mut read = 0;
    while let Some(claim) = unread.claim() {
        let mut chunk = used.try_recv().unwrap_or_default();
        let result = cache.read(claim.number, &mut chunk).map(|()| chunk).map_err(StageError::from);
        let failed = result.is_err();
        if send.send((result, Ahead::new(process))).is_err() || failed {
            return;
        }
        read += 1;
    }
    // Chunks are about alike.
    let bytes = u128::from(cache.bytes()) * read / (cache.len().max(1) as u128);
    process.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// Reads the chunks of `reader`.
fn read_slots(
    reader: &SlotReader,
    unread: &Unread,
    process: &Arc<Process>,
    send: &SyncSender<Ready>,
    used: &Receiver<Chunk>,
) {
    while let Some(claim) = unread.claim() {
        let mut chunk = used.try_recv().unwrap_or_default();
        let result = reader.read(claim.number, &mut chunk).map(|()| chunk).map_err(StageError::from);
        let failed = result.is_err();
        if send.send((result, Ahead::new(process))).is_err() || failed {
            return;
        }
    }
    process.bytes_read.fetch_add(reader.bytes(), Ordering::Relaxed);
}

fn prefetch(
    mut reader: BlockReader,
    encoder: &Encoder,
    role: Role,
    (process, decoded): (&Arc<Process>, &Decoded),
    send: &SyncSender<Ready>,
    used: &Receiver<Chunk>,
) {
    let mut counted = 0;
    loop {
        let mut chunk = used.try_recv().unwrap_or_default();
        let begun = Instant::now();
        let result = match reader.next() {
            None => break,
            Some(Ok(batch)) => encoder.encode(&batch, role, &mut chunk).map(|()| chunk).map_err(StageError::from),
            Some(Err(error)) => Err(StageError::from(error)),
        };
        if let Ok(chunk) = &result {
            decoded.nanos.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
            decoded.blocks.fetch_add(chunk.blocks() as u64, Ordering::Relaxed);
        }
        let read = reader.bytes_read();
        process.bytes_read.fetch_add(read - counted, Ordering::Relaxed);
        counted = read;
        let failed = result.is_err();
        if send.send((result, Ahead::new(process))).is_err() || failed {
            break;
        }
    }
    process.bytes_read.fetch_add(reader.bytes_read() - counted, Ordering::Relaxed);
}
