//! What prediction and evaluation are planned from: the sizes of the model, of what is read and of what is written.

use crate::error::StageError;
use crate::matvec::grid::Shard;
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
    /// Processes that share the centers; 1 where each has all.
    pub shared_by: u64,
}

impl ModelSize {
    /// Centers of the largest share.
    pub(super) fn own(&self) -> u64 {
        let processes = usize::try_from(self.shared_by).unwrap_or(usize::MAX);
        Shard::largest(usize::try_from(self.centers).unwrap_or(usize::MAX), processes) as u64
    }
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
            shared_by: 1,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes, `--memory`.
    pub budget: u64,
    /// The model.
    pub model: ModelSize,
    /// The centers that this process has, where the processes share them.
    pub shard: Option<Shard>,
}

impl Room {
    /// Centers of the model, of which a process holds `held`.
    pub(crate) fn centers(&self, held: usize) -> usize {
        self.shard.as_ref().map_or(held, Shard::total)
    }

    /// Refuses products that leave out entries where centers are shared: which blocks they leave out is judged by all centers.
    ///
    /// # Errors
    /// [`StageError::Usage`].
    pub(crate) fn refuse_sparse(&self, sparse: bool) -> Result<(), StageError> {
        match sparse && self.shard.is_some() {
            false => Ok(()),
            true => Err(StageError::Usage(
                "products that leave out kernel entries (--product-tolerance, or a kernel of compact support) need all centers in each process, and here the processes \
                 share them: give more --memory or --share-centers never, or leave out --product-tolerance"
                    .into(),
            )),
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        Room { budget: u64::MAX, model: ModelSize::default(), shard: None }
    }
}
