//! What prediction and evaluation are planned from: the sizes of the model, of what is read and of what is written.

use nystream_datasets::BLOCK_ROWS;
use nystream_kernels::gram::Precision;

/// The sizes of a model, as its file's header has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelSize {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Of those, bytes of the header, with the configuration.
    pub header_bytes: u64,
    /// Centers m.
    pub centers: u64,
    /// Numeric encoded columns.
    pub numeric: u64,
    /// Numeric columns after the metric.
    pub mapped: u64,
    /// Categorical encoded columns.
    pub codes: u64,
    /// Columns t of the coefficients.
    pub targets: u64,
    /// Classes; 0 for numbers.
    pub classes: u64,
    /// Columns of the variance factor; 0 without.
    pub rank: u64,
    /// Precision of kernel entries.
    pub precision: Precision,
    /// Whether products may leave out blocks of centers: the kernel has compact support, or a tolerance is given.
    pub sparse: bool,
}

impl Default for ModelSize {
    /// Nothing known.
    fn default() -> Self {
        ModelSize {
            file_bytes: 0,
            header_bytes: 0,
            centers: 0,
            numeric: 0,
            mapped: 0,
            codes: 0,
            targets: 0,
            classes: 0,
            rank: 0,
            precision: Precision::Single,
            sparse: false,
        }
    }
}

/// How a worker reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Rows of a batch ([`Reading::rows_in_hand`]).
    pub rows: u64,
    /// Bytes of a decoded row.
    pub decoded: u64,
    /// Pages in hand.
    pub pages: u64,
    /// Bytes of objects that are fetched ahead.
    pub fetched: u64,
    /// Target values of a row that are read.
    pub targets: u64,
}

impl Reading {
    /// Rows that each of `workers` holds of batches of `batch` rows, on the average, when there are `total`: together no more than these, in whole blocks.
    ///
    /// ```
    /// use nystream_dataflows::plan::Reading;
    /// assert_eq!(Reading::rows_in_hand(16_384, 1_000_000, 2), 16_384);
    /// assert_eq!(Reading::rows_in_hand(16_384, 9_000, 3), 3_000 + 2_048);
    /// assert_eq!(Reading::rows_in_hand(16_384, 100, 3), 100);
    /// ```
    pub fn rows_in_hand(batch: u64, total: u64, workers: usize) -> u64 {
        batch.min(total).min(total.div_ceil(workers.max(1) as u64) + BLOCK_ROWS)
    }
}

/// What a worker writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writing {
    /// Bytes of the kept columns of a row.
    pub kept: u64,
    /// Columns of the output.
    pub columns: u64,
    /// Bytes of text in a row of the output.
    pub text: u64,
    /// Rows of a row group, at most.
    pub group_rows: u64,
    /// Rows of the output.
    pub rows: u64,
}

/// What a process may take, and the model it has loaded. The default is without a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes, `--memory`.
    pub budget: u64,
    /// The model.
    pub model: ModelSize,
}

impl Default for Room {
    fn default() -> Self {
        Room { budget: u64::MAX, model: ModelSize::default() }
    }
}
