//! The rows of a worker, chunk by chunk, from wherever they are cheapest.
//!
//! A [`RowStore`] belongs to one worker and knows its blocks. The first encoded pass decodes them on a prefetch
//! thread; if the plan says so, its chunks are kept, in memory or in a cache file, and later passes
//! read those. What a pass sees does not depend on which (law 1): chunks are the same rows in the same order.
//!
//! Cost: at most [`AHEAD`] chunks are read ahead; buffers go back to the prefetch thread and are used again.

use crate::engine::session::Process;
use crate::error::StageError;
use nystream_datasets::{BlockReader, BlockRun, Catalog, Chunk, ChunkCache, Encoder, RawBatch};
use nystream_kernels::rows::Rows;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Chunks decoded ahead of their use.
const AHEAD: usize = 2;

/// Which rows of the data a pass sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Rows that are fitted.
    Training,
    /// Rows held out by `--split`.
    HeldOut,
    /// All rows.
    All,
}

/// Where encoded chunks are kept after the first pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nowhere: every pass decodes again.
    Nothing,
    /// In memory.
    Memory,
    /// In a file of this folder, of at most so many bytes.
    Disk {
        /// Folder of the cache file.
        folder: PathBuf,
        /// Most bytes of the file.
        limit: u64,
    },
}

/// The encoded view of a chunk.
pub fn view(chunk: &Chunk) -> Rows<'_> {
    Rows::new(&chunk.numeric, chunk.numeric_width, &chunk.codes, chunk.code_width)
}
