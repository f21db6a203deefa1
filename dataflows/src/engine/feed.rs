//! The rows of a worker, chunk by chunk, from wherever they are cheapest.
//!
//! A [`RowStore`] belongs to one worker and knows its blocks. The first encoded pass decodes and encodes them on a prefetch
//! thread; if the plan says so, its chunks are kept, in memory or in a cache file, and later passes
//! read those, a file ahead of the worker too. What a pass sees does not depend on which (law 1): chunks are the same rows in the same order.
//!
//! Rows that a learner keeps current ([`RowStore::of_slots`]) are read from their slots, in no order that means anything: what is made of them must be a function of their set.
//!
//! A cache file lies in the folder for temporary files, has no name there, and belongs to one worker.
//!
//! Cost: at most [`AHEAD`] chunks are read ahead; buffers go back to the prefetch thread and are used again.

use crate::engine::session::Process;
use crate::engine::watch::Ahead;
use crate::error::StageError;
use nystream_datasets::{
    BLOCK_ROWS, BlockReader, BlockRun, Catalog, Chunk, ChunkCache, Encoder, ReadOptions, Role, SlotReader,
};
use nystream_kernels::rows::Rows;
use nystream_kernels::tile::DrawnRows;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Chunks decoded ahead of their use.
pub const AHEAD: usize = 2;

/// The encoded view of a chunk.
pub fn view(chunk: &Chunk) -> Rows<'_> {
    Rows::new(&chunk.numeric, chunk.numeric_width, &chunk.codes, chunk.code_width)
}

/// Those rows, with the identities by which they draw.
pub fn drawn(chunk: &Chunk) -> DrawnRows<'_> {
    DrawnRows { rows: view(chunk), ids: &chunk.ids }
}

/// Blocks of one data set that a worker owns, and how they are encoded. Clones share what is kept.
///
/// ```
/// use nystream_dataflows::StageError;
/// use nystream_dataflows::engine::{Process, SilentProgress, feed::RowStore, run};
/// use nystream_datasets::{Catalog, Chunk, ColumnSummary, Encoder, EncoderOptions, Role, Sources};
/// use std::sync::Arc;
///
/// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=1"])?)?;
/// // A fit finds these with a pass, see `profile`.
/// let summary = |info| ColumnSummary { count: 5000, sd: 0.6, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
/// let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
/// let encoder = Arc::new(Encoder::fit(&summaries, &EncoderOptions { targets: vec!["y".into()], ..Default::default() })?);
///
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let rows = run(&process, communication, move |session| {
///     let (peers, index, process) = (session.peers(), session.index(), Arc::clone(&session.process));
///     let store = RowStore::new(&catalog, Arc::clone(&encoder), peers, index, process);
///     store.keep_in_memory();
///     let mut chunk = Chunk::new();
///     let mut passes = [0, 0];
///     // The second pass decodes nothing, and sees the same.
///     for rows in &mut passes {
///         let mut feed = store.feed(Role::Training);
///         while feed.next(&mut chunk)? {
///             *rows += chunk.rows();
///         }
///     }
///     Ok::<_, StageError>(passes)
/// }).unwrap();
/// // Three blocks of 2,048 rows, the last ragged: one worker has one of them, the other two.
/// assert_eq!(rows, [Ok([2048, 2048]), Ok([2952, 2952])]);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
#[derive(Clone)]
pub struct RowStore {
    catalog: Catalog,
    encoder: Arc<Encoder>,
    runs: Vec<BlockRun>,
    blocks_per_batch: u64,
    process: Arc<Process>,
    kept: Rc<RefCell<Kept>>,
}

enum Kept {
    /// Nothing will be kept.
    Never,
    /// To be filled by the next pass over the training rows.
    Wanted,
    /// To be filled by the next pass, in a file in this folder of at most so many bytes.
    DiskWanted { folder: PathBuf, limit: u64 },
    /// Filled, in memory.
    Memory(Arc<Vec<Chunk>>),
    /// Filled, on disk.
    Disk(Arc<ChunkCache>),
    /// Rows that a learner has.
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

impl RowStore {
    /// The share of worker `index` of `peers` in `catalog`, both over all processes. Nothing is read yet.
    pub fn new(catalog: &Catalog, encoder: Arc<Encoder>, peers: usize, index: usize, process: Arc<Process>) -> Self {
        RowStore {
            runs: catalog.partition(peers, index),
            catalog: catalog.clone(),
            blocks_per_batch: encoded_blocks(catalog, &encoder),
            encoder,
            process,
            kept: Rc::new(RefCell::new(Kept::Never)),
        }
    }

    /// The rows of a worker that are not in files: those of `reader`, all of them training rows. There are no blocks.
    pub fn of_slots(reader: SlotReader, encoder: Arc<Encoder>, process: Arc<Process>) -> Self {
        RowStore {
            catalog: Catalog::of_none(),
            encoder,
            runs: Vec::new(),
            blocks_per_batch: 1,
            process,
            kept: Rc::new(RefCell::new(Kept::Slots(Arc::new(reader)))),
        }
    }

    /// Asks that the training chunks of the next pass be kept in memory for those after it.
    pub fn keep_in_memory(&self) {
        let mut kept = self.kept.borrow_mut();
        if matches!(*kept, Kept::Never) {
            *kept = Kept::Wanted;
        }
    }

    /// Asks that the training chunks of the next pass be kept in a file in `folder`, of at most `limit` bytes, unless they are kept
    /// already. A pass that cannot write there, or would pass the limit, ends with [`StageError::Budget`].
    pub fn keep_on_disk(&self, folder: &Path, limit: u64) {
        let mut kept = self.kept.borrow_mut();
        if matches!(*kept, Kept::Never) {
            *kept = Kept::DiskWanted { folder: folder.to_path_buf(), limit };
        }
    }

    /// Frees what is kept in memory: later passes decode again. What they see is the same.
    pub fn release(&self) {
        let mut kept = self.kept.borrow_mut();
        if matches!(*kept, Kept::Memory(_) | Kept::Wanted) {
            *kept = Kept::Never;
        }
    }

    /// Rows of this worker, as the files have them.
    pub fn raw_rows(&self) -> u64 {
        self.catalog.rows_of(&self.runs)
    }

    /// Blocks of the whole data set.
    pub fn total_blocks(&self) -> u64 {
        self.catalog.blocks()
    }

    /// The encoder.
    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// A pass over the rows of `role`, in the order of the files. Any number of passes may be made, one after the other.
    pub fn feed(&self, role: Role) -> Feed {
        // Only training rows are kept: they are what solvers read again and again.
        let (supply, filling) = match &*self.kept.borrow() {
            Kept::Memory(chunks) if role == Role::Training => {
                (Supply::Memory { chunks: Arc::clone(chunks), next: 0 }, None)
            }
            Kept::Disk(cache) if role == Role::Training => (Supply::Cached(Arc::clone(cache)), None),
            Kept::Slots(reader) if role == Role::Training => (Supply::Slots(Arc::clone(reader)), None),
            Kept::Wanted if role == Role::Training => (Supply::Idle, Some(Filling::Memory(Vec::new()))),
            Kept::DiskWanted { folder, limit } if role == Role::Training => {
                (Supply::Idle, Some(Filling::NewDisk { folder: folder.clone(), limit: *limit }))
            }
            _ => (Supply::Idle, None),
        };
        Feed { store: self.clone(), role, supply, filling }
    }
}

/// Blocks decoded together: four, fewer where rows of `row_bytes` encoded bytes are so wide that a chunk would pass 16 MiB; at least one.
///
/// ```
/// use nystream_dataflows::engine::feed::blocks_per_batch;
/// assert_eq!([400, 4096, 1 << 20].map(blocks_per_batch), [4, 2, 1]);
/// ```
pub fn blocks_per_batch(row_bytes: usize) -> u64 {
    let block = (row_bytes.max(1) as u64) * BLOCK_ROWS;
    ((16 << 20) / block).clamp(1, 4)
}

/// [`blocks_per_batch`] of rows of `row_bytes` encoded bytes that are made of the columns `projection` of `catalog`: their text counts as well.
pub fn blocks_of(catalog: &Catalog, projection: &[usize], row_bytes: usize) -> u64 {
    let text = projection.iter().map(|index| catalog.column_bytes(*index).text).fold(0, u64::saturating_add);
    blocks_per_batch(row_bytes.saturating_add(usize::try_from(text).unwrap_or(usize::MAX)))
}

/// [`blocks_of`] everything that an encoder reads.
pub(crate) fn encoded_blocks(catalog: &Catalog, encoder: &Encoder) -> u64 {
    let read = encoder.columns(Role::All);
    let columns = catalog.columns.iter().enumerate().filter(|(_, info)| read.contains(&info.name.as_str()));
    let projection: Vec<usize> = columns.map(|(index, _)| index).collect();
    blocks_of(catalog, &projection, encoder.numeric_width() * 4 + encoder.code_width() * 2)
}

/// A chunk on its way, counted until it is used.
type Ready = (Result<Chunk, StageError>, Ahead);

enum Supply {
    /// Decoding has not begun.
    Idle,
    /// Nor has reading this cache.
    Cached(Arc<ChunkCache>),
    /// Nor these slots.
    Slots(Arc<SlotReader>),
    /// A prefetch thread decodes or reads.
    Ahead {
        ready: Receiver<Ready>,
        back: Sender<Chunk>,
    },
    Memory {
        chunks: Arc<Vec<Chunk>>,
        next: usize,
    },
    Over,
}

/// One pass over a worker's rows.
pub struct Feed {
    store: RowStore,
    role: Role,
    supply: Supply,
    /// Chunks to be kept, while this pass fills the store.
    filling: Option<Filling>,
}

impl Feed {
    /// The pass over `ranges` of the global blocks instead of the worker's own. They are decoded, and kept nowhere.
    pub fn restricted(self, ranges: &[std::ops::Range<u64>]) -> Feed {
        let runs = ranges.iter().flat_map(|range| self.store.catalog.runs(range.start, range.end)).collect();
        let store = RowStore { runs, kept: Rc::new(RefCell::new(Kept::Never)), ..self.store };
        Feed { store, role: self.role, supply: Supply::Idle, filling: None }
    }

    /// The global blocks of `chunk`.
    pub fn blocks(&self, chunk: &Chunk) -> std::ops::Range<u64> {
        if chunk.file.is_none() {
            return 0..0;
        }
        let first = self.global_block(chunk, 0);
        first..first + chunk.blocks() as u64
    }

    /// Blocks of the whole data set.
    pub fn total_blocks(&self) -> u64 {
        self.store.total_blocks()
    }

    /// Position of block `block` of `chunk` among all blocks of the data set.
    pub fn global_block(&self, chunk: &Chunk, block: usize) -> u64 {
        let file = chunk.file.and_then(|id| self.store.catalog.file_index(id)).unwrap_or_default();
        self.store.catalog.global_block(file, chunk.first_block + block as u64)
    }

    /// Replaces `chunk` by the next one; false when there is none left, and from then on.
    ///
    /// # Errors
    /// [`StageError::Data`] for what cannot be read or encoded, [`StageError::Budget`] for a cache that cannot be written; the pass is then
    /// over. Bad rows are no error: the chunk lists them.
    pub fn next(&mut self, chunk: &mut Chunk) -> Result<bool, StageError> {
        if matches!(self.supply, Supply::Idle) {
            self.supply = self.start()?;
            if let Some(Filling::NewDisk { folder, limit }) = &self.filling {
                self.filling = Some(Filling::Disk(ChunkCache::on_disk(folder, *limit)?));
            }
        }
        if let Supply::Cached(cache) = &self.supply {
            let (cache, process) = (Arc::clone(cache), Arc::clone(&self.store.process));
            self.supply = ahead(move |send, used| read_ahead(&cache, &process, &send, &used))?;
        }
        if let Supply::Slots(reader) = &self.supply {
            let (reader, process) = (Arc::clone(reader), Arc::clone(&self.store.process));
            self.supply = ahead(move |send, used| read_slots(&reader, &process, &send, &used))?;
        }
        let result = match &mut self.supply {
            Supply::Idle | Supply::Cached(_) | Supply::Slots(_) | Supply::Over => Ok(false),
            Supply::Memory { chunks, next } => match chunks.get(*next) {
                Some(kept) => {
                    *next += 1;
                    chunk.clone_from(kept);
                    return Ok(true);
                }
                None => Ok(false),
            },
            Supply::Ahead { ready, back } => match ready.recv() {
                Ok((Ok(next), _)) => {
                    let used = std::mem::replace(chunk, next);
                    match &mut self.filling {
                        Some(Filling::Memory(chunks)) => chunks.push(chunk.clone()),
                        Some(Filling::Disk(cache)) => {
                            cache.write(chunk)?;
                        }
                        Some(Filling::NewDisk { .. }) | None => {}
                    }
                    // The prefetch thread may be done; then the buffer is simply freed.
                    let _ = back.send(used);
                    return Ok(true);
                }
                Ok((Err(error), _)) => Err(error),
                Err(_) => {
                    match self.filling.take() {
                        Some(Filling::Memory(chunks)) => {
                            *self.store.kept.borrow_mut() = Kept::Memory(Arc::new(chunks));
                        }
                        Some(Filling::Disk(cache)) => *self.store.kept.borrow_mut() = Kept::Disk(Arc::new(cache)),
                        Some(Filling::NewDisk { .. }) | None => {}
                    }
                    Ok(false)
                }
            },
        };
        self.supply = Supply::Over;
        result
    }

    fn start(&self) -> Result<Supply, StageError> {
        let store = &self.store;
        let projection = store.encoder.projection(&store.catalog, self.role)?;
        let options = ReadOptions { blocks_per_batch: store.blocks_per_batch, ..ReadOptions::default() };
        let reader = BlockReader::new(&store.catalog, store.runs.clone(), &projection, options);
        let (encoder, role, process) = (Arc::clone(&store.encoder), self.role, Arc::clone(&store.process));
        ahead(move |send, used| prefetch(reader, &encoder, role, &process, &send, &used))
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

/// Reads the chunks of `cache` in their order.
fn read_ahead(cache: &ChunkCache, process: &Arc<Process>, send: &SyncSender<Ready>, used: &Receiver<Chunk>) {
    for number in 0..cache.len() {
        let mut chunk = used.try_recv().unwrap_or_default();
        let result = cache.read(number, &mut chunk).map(|()| chunk).map_err(StageError::from);
        let failed = result.is_err();
        if send.send((result, Ahead::new(process))).is_err() || failed {
            return;
        }
    }
    process.bytes_read.fetch_add(cache.bytes(), Ordering::Relaxed);
}

/// Reads the chunks of `reader`.
fn read_slots(reader: &SlotReader, process: &Arc<Process>, send: &SyncSender<Ready>, used: &Receiver<Chunk>) {
    for number in 0..reader.len() {
        let mut chunk = used.try_recv().unwrap_or_default();
        let result = reader.read(number, &mut chunk).map(|()| chunk).map_err(StageError::from);
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
    process: &Arc<Process>,
    send: &SyncSender<Ready>,
    used: &Receiver<Chunk>,
) {
    let mut counted = 0;
    loop {
        let mut chunk = used.try_recv().unwrap_or_default();
        let result = match reader.next() {
            None => break,
            Some(Ok(batch)) => encoder.encode(&batch, role, &mut chunk).map(|()| chunk).map_err(StageError::from),
            Some(Err(error)) => Err(StageError::from(error)),
        };
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
