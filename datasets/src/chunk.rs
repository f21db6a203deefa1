//! Chunks: encoded rows of whole sum blocks, as plain slices.

use nystream_hashing::{FileId, RowId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// Why a row cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadReason {
    /// Not a number.
    NotANumber,
    /// Positive or negative infinity.
    Infinite,
    /// Magnitude of 2^500 or more, whose square cannot be summed.
    TooLarge,
    /// More than 2^50 encoded units from the centre.
    FarOut,
    /// A weight below zero.
    NegativeWeight,
    /// A weight that is null.
    NullWeight,
    /// A label that no training row had.
    UnknownLabel,
    /// A row key that is null.
    NullId,
    /// A target beyond the range that the encoder declares.
    TargetOutOfRange,
    /// A weight above the bound that the encoder declares.
    WeightOutOfRange,
    /// Features so large that the kernel leaves the range that the model declares.
    KernelOutOfRange,
}

impl fmt::Display for BadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadReason::NotANumber => "is not a number (NaN)",
            BadReason::Infinite => "is infinite",
            BadReason::TooLarge => "is 2^500 or more in magnitude",
            BadReason::FarOut => "lies more than 2^50 scale units from the centre",
            BadReason::NegativeWeight => "is a negative weight",
            BadReason::NullWeight => "is a null weight",
            BadReason::UnknownLabel => "is a label that no training row had",
            BadReason::NullId => "is a null row key",
            BadReason::TargetOutOfRange => "is a target beyond the range that the model declares",
            BadReason::WeightOutOfRange => "is a weight above the bound that the model declares",
            BadReason::KernelOutOfRange => "has a kernel value k(x, x) beyond the range that the model declares",
        })
    }
}

/// A row that was left out, and the first column at fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BadRow {
    /// File of the row.
    pub file: FileId,
    /// Ordinal of the row in its file.
    pub ordinal: u64,
    /// Identity of the row.
    pub id: RowId,
    /// The column at fault; empty where the row is as a whole.
    pub column: String,
    /// What is wrong with it.
    pub reason: BadReason,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (row, reason) = (self.ordinal, self.reason);
        match self.column.as_str() {
            "" => write!(f, "row {row} {reason}"),
            column => write!(f, "row {row}: column '{column}' {reason}"),
        }
    }
}

/// Which rows a chunk is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// All rows with a target; `held_out` tells them apart.
    All,
    /// Rows that are not held out.
    Training,
    /// Held-out rows.
    HeldOut,
    /// All rows with a target of another data set: the split and the class weights do not apply, and a missing weight column means 1.
    Evaluation,
    /// All rows; targets, weights and split are not looked at.
    Features,
}

/// Encoded rows of whole consecutive sum blocks of one file.
///
/// `rows()` rows survive; `block_starts[b]..block_starts[b + 1]` are those of block `first_block + b`.
/// Reuse one chunk for many batches: encoding clears it and keeps its capacity.
///
/// ```
/// use nystream_datasets::Chunk;
/// use nystream_hashing::RowId;
/// // Two rows of block 4 and one of block 5 have survived; each has two numbers.
/// let mut chunk = Chunk::new();
/// (chunk.first_block, chunk.block_starts) = (4, vec![0, 2, 3]);
/// (chunk.ids, chunk.numeric_width) = (vec![RowId(1), RowId(2), RowId(3)], 2);
/// chunk.numeric = vec![0.0, 0.1, 1.0, 1.1, 2.0, 2.1];
/// assert_eq!((chunk.rows(), chunk.blocks()), (3, 2));
/// assert_eq!(chunk.block(1), 2..3);
/// assert_eq!(chunk.numeric_of(chunk.block(1)), [2.0, 2.1]);
/// ```
#[derive(Debug, Default, PartialEq)]
pub struct Chunk {
    /// The file.
    pub file: Option<FileId>,
    /// First block, within the file.
    pub first_block: u64,
    /// First surviving row of each block, then the row count.
    pub block_starts: Vec<u32>,
    /// Identities of the rows.
    pub ids: Vec<RowId>,
    /// Ordinals of the rows in the file, ascending.
    pub ordinals: Vec<u64>,
    /// `rows x numeric_width`, row-major, encoded units, finite.
    pub numeric: Vec<f32>,
    /// Numeric columns.
    pub numeric_width: usize,
    /// `rows x code_width`, row-major.
    pub codes: Vec<u16>,
    /// Categorical columns.
    pub code_width: usize,
    /// `rows x target_width`, row-major: target values with NaN for null (some other target is not null), or the class index.
    pub targets: Vec<f64>,
    /// Target columns; 0 for [`Role::Features`].
    pub target_width: usize,
    /// Row weights, at least 0; times the class weight for rows that are not held out.
    pub weights: Vec<f64>,
    /// Whether the split holds the row out.
    pub held_out: Vec<bool>,
    /// Rows left out because something is wrong with them, whatever their role.
    pub bad: Vec<BadRow>,
    /// Rows left out because all their targets are null, whatever their role.
    pub skipped_null_target: u64,
    pub(crate) scratch: Scratch,
}

/// `clone_from` keeps the buffers of the chunk it fills, as passes over kept chunks do: fresh pages are expensive.
impl Clone for Chunk {
    fn clone(&self) -> Self {
        let mut chunk = Chunk::default();
        chunk.clone_from(self);
        chunk
    }

    fn clone_from(&mut self, other: &Self) {
        self.file = other.file;
        self.first_block = other.first_block;
        self.block_starts.clone_from(&other.block_starts);
        self.ids.clone_from(&other.ids);
        self.ordinals.clone_from(&other.ordinals);
        self.numeric.clone_from(&other.numeric);
        self.numeric_width = other.numeric_width;
        self.codes.clone_from(&other.codes);
        self.code_width = other.code_width;
        self.targets.clone_from(&other.targets);
        self.target_width = other.target_width;
        self.weights.clone_from(&other.weights);
        self.held_out.clone_from(&other.held_out);
        self.bad.clone_from(&other.bad);
        self.skipped_null_target = other.skipped_null_target;
    }
}

/// Buffers that live as long as the chunk; no part of its value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    pub status: Vec<Status>,
    pub values: Vec<f64>,
    pub bytes: Vec<u8>,
}

impl PartialEq for Scratch {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What becomes of a row while it is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Kept,
    /// Without a target, bad, or of another role.
    LeftOut,
}

impl Chunk {
    /// An empty chunk.
    pub fn new() -> Self {
        Chunk::default()
    }

    /// Removes all rows and keeps the capacity.
    pub fn clear(&mut self) {
        self.file = None;
        self.first_block = 0;
        self.block_starts.clear();
        self.ids.clear();
        self.ordinals.clear();
        self.numeric.clear();
        self.codes.clear();
        self.targets.clear();
        self.weights.clear();
        self.held_out.clear();
        self.bad.clear();
        self.skipped_null_target = 0;
    }

    /// Appends row `i` of `other`, which has the same columns. What was one run of blocks is one block then.
    ///
    /// # Panics
    /// If the widths differ and neither chunk is empty.
    pub fn push(&mut self, other: &Chunk, i: usize) {
        let widths = |chunk: &Chunk| (chunk.numeric_width, chunk.code_width, chunk.target_width);
        if self.ids.is_empty() {
            (self.numeric_width, self.code_width, self.target_width) = widths(other);
        }
        assert_eq!(widths(self), widths(other), "rows of other columns");
        self.ids.push(other.ids[i]);
        self.ordinals.push(other.ordinals[i]);
        self.numeric.extend_from_slice(other.numeric_of(i..i + 1));
        self.codes.extend_from_slice(other.codes_of(i..i + 1));
        self.targets.extend_from_slice(other.targets_of(i..i + 1));
        self.weights.push(other.weights[i]);
        self.held_out.push(other.held_out[i]);
        self.block_starts.clear();
        self.block_starts.extend([0, self.ids.len() as u32]);
    }

    /// Surviving rows.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// Blocks, also those without a surviving row.
    pub fn blocks(&self) -> usize {
        self.block_starts.len().saturating_sub(1)
    }

    /// The rows of block `first_block + b`.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn block(&self, b: usize) -> Range<usize> {
        self.block_starts[b] as usize..self.block_starts[b + 1] as usize
    }

    /// The numeric part of rows `range`, row-major.
    pub fn numeric_of(&self, range: Range<usize>) -> &[f32] {
        &self.numeric[range.start * self.numeric_width..range.end * self.numeric_width]
    }

    /// The codes of rows `range`, row-major.
    pub fn codes_of(&self, range: Range<usize>) -> &[u16] {
        &self.codes[range.start * self.code_width..range.end * self.code_width]
    }

    /// The targets of rows `range`, row-major.
    pub fn targets_of(&self, range: Range<usize>) -> &[f64] {
        &self.targets[range.start * self.target_width..range.end * self.target_width]
    }

    /// Bytes the buffers hold on to.
    pub fn capacity_bytes(&self) -> usize {
        self.block_starts.capacity() * 4
            + self.ids.capacity() * 16
            + self.ordinals.capacity() * 8
            + self.numeric.capacity() * 4
            + self.codes.capacity() * 2
            + (self.targets.capacity() + self.weights.capacity() + self.scratch.values.capacity()) * 8
            + self.held_out.capacity()
            + self.scratch.status.capacity()
            + self.scratch.bytes.capacity()
    }
}
