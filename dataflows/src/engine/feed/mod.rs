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
//! Of a pass that is under way, blocks may move to another worker ([`leases`](crate::engine::leases)): who takes them over decodes them from their source, since what is kept belongs to a worker, and keeps
//! them nowhere. Those that moved in the pass that filled the store are decoded by their owner in later ones.
//!
//! Cost: at most [`AHEAD`] chunks are read ahead; buffers go back to the prefetch thread and are used again.

mod reading;

pub use reading::Feed;

use crate::engine::session::Process;
use nystream_datasets::{BLOCK_ROWS, BlockRun, Catalog, Chunk, ChunkCache, Encoder, Role, SlotReader};
use nystream_kernels::rows::Rows;
use nystream_kernels::tile::DrawnRows;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    decoded: Arc<Decoded>,
}

/// What decoding and encoding have taken so far.
#[derive(Default)]
struct Decoded {
    nanos: AtomicU64,
    blocks: AtomicU64,
}

impl Decoded {
    /// Nanoseconds for a block, on the average; 0 where nothing is known.
    fn pace(&self) -> u64 {
        self.nanos.load(Ordering::Relaxed) / self.blocks.load(Ordering::Relaxed).max(1)
    }
}

enum Kept {
    /// Nothing will be kept.
    Never,
    /// To be filled by the next pass over the training rows.
    Wanted,
    /// To be filled by the next pass, in a file in this folder of at most so many bytes.
    DiskWanted { folder: PathBuf, limit: u64 },
    /// Filled, in memory.
    Memory(Arc<Vec<Chunk>>, Arc<Filled>),
    /// Filled, on disk.
    Disk(Arc<ChunkCache>, Arc<Filled>),
    /// Rows that a learner has.
    Slots(Arc<SlotReader>),
}

/// Which blocks are kept.
#[derive(Clone, Default)]
struct Filled {
    /// Of each chunk, in their order.
    chunks: Vec<BlockRun>,
    /// This worker's too, and not kept: others read them in the pass that filled the store.
    moved: Vec<BlockRun>,
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
            decoded: Arc::default(),
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
            decoded: Arc::default(),
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
    /// already. A pass that cannot write there, or would pass the limit, ends with [`StageError::Budget`](crate::StageError::Budget).
    pub fn keep_on_disk(&self, folder: &Path, limit: u64) {
        let mut kept = self.kept.borrow_mut();
        if matches!(*kept, Kept::Never) {
            *kept = Kept::DiskWanted { folder: folder.to_path_buf(), limit };
        }
    }

    /// Frees what is kept in memory: later passes decode again. What they see is the same.
    pub fn release(&self) {
        let mut kept = self.kept.borrow_mut();
        if matches!(*kept, Kept::Memory(..) | Kept::Wanted) {
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
        Feed::new(self, role)
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
