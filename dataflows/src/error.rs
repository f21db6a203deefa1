//! What a stage can report. Errors are values that travel: when one worker fails, all workers of all processes end the
//! stage with the same error.

use nystream_datasets::DataError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a stage ended without a result. The variants are the exit codes of a command.
#[derive(Clone, Debug, Error, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum StageError {
    /// The data cannot be used (exit 1): the message names file, row group, row or column and the remedy.
    #[error("{0}")]
    Data(String),
    /// The request cannot be carried out as given (exit 2).
    #[error("{0}")]
    Usage(String),
    /// A budget refused the job before it started (exit 4).
    #[error("{0}")]
    Budget(String),
    /// The numbers failed: which step, with the pivot or residual (exit 1).
    #[error("{0}")]
    Numeric(String),
    /// A worker sent something that cannot be understood: a bug, or damage on the wire.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<DataError> for StageError {
    fn from(error: DataError) -> Self {
        match error {
            // What a cache may take, or can: a budget, whose remedy the message names.
            DataError::DiskBudget { .. } | DataError::MemoryBudget { .. } | DataError::CacheWrite { .. } => {
                StageError::Budget(error.to_string())
            }
            other => StageError::Data(other.to_string()),
        }
    }
}
