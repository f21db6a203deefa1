//! Arrow and Parquet in and out, encoding, blocks, row ids, cache, synthetic sources.
//!
//! The way of a row: [`Sources`] name files, a [`Catalog`] reads their footers and lays out sum blocks, a
//! [`BlockReader`] decodes whole blocks into [`RawBatch`]es, and the [`Encoder`] turns those into
//! [`Chunk`]s of plain numbers. Predictions and generated data go out through [`sink`]; every output is [`atomic`].
//!
//! This crate knows nothing of kernels or of the dataflow engine; a chunk is plain row-major slices.

pub mod atomic;
mod cache;
mod catalog;
pub mod catalogue;
mod chosen;
mod chunk;
mod column;
mod encoder;
mod error;
pub mod events;
mod footer;
pub mod journal;
pub mod kept;
mod levels;
pub mod make;
mod options;
mod pread;
mod ranged;
mod remaining;
pub mod rows;
mod scan;
pub mod sink;
mod slots;
mod source;
mod spread;
mod statistics;
mod store;
pub mod stream;
mod summary;
pub mod synth;
pub mod table;
mod unread;
mod width;

pub use cache::ChunkCache;
pub use catalog::{BLOCK_ROWS, BlockRun, Catalog, CatalogFile};
pub use chosen::{RowPicker, picked_rows};
pub use chunk::{BadReason, BadRow, Chunk, Role};
pub use column::{ColumnInfo, ColumnKind, NumericColumn, TextColumn};
pub use encoder::{
    Bounds, CategoricalFeature, Encoder, NumericFeature, Part, RowTest, SplitRule, TargetKind, TargetRange, Transform,
};
pub use error::DataError;
pub use levels::{LevelCounter, MAX_LEVEL_BYTES, MAX_LEVELS, shown};
pub use options::{ClassWeight, ColumnPlan, EncoderOptions, LevelCount, PlannedColumn, Scale, Split, Task};
pub use pread::PreadFile;
pub use scan::{BlockReader, RawBatch, ReadOptions, is_decoding};
pub use slots::{RowSlots, SlotLayout, SlotReader};
pub use source::{Origin, SourceFile, Sources};
pub use spread::HostFiles;
pub use statistics::{ColumnStatistics, statistics};
pub use store::{Address, Object, Scheme, patience, set_patience};
pub use summary::{ColumnSummary, ContentHash, KEPT_LEVELS, MIN_LEVEL_ROWS};
pub use synth::SynthSpec;
pub use unread::{Claim, Unread};
pub use width::{ColumnBytes, PAGE_BYTES};
