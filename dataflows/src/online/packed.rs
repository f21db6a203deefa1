//! Learners as bytes: CBOR, which tells types apart as a kernel's parameters need and keeps every bit.

use crate::error::StageError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A learner as bytes.
///
/// # Errors
/// [`StageError::Internal`] for what cannot be written.
pub(super) fn bytes_of(stored: &impl Serialize) -> Result<Vec<u8>, StageError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(stored, &mut bytes)
        .map_err(|error| StageError::Internal(format!("the learner cannot be stored: {error}")))?;
    Ok(bytes)
}

/// The error of stored bytes that are no learner of this configuration.
pub(super) fn damaged(what: impl std::fmt::Display) -> StageError {
    StageError::Data(format!("the stored learner cannot be used: {what}"))
}

/// What [`bytes_of`] wrote; the bytes are not trusted.
///
/// # Errors
/// [`StageError::Data`] for any others.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StageError> {
    ciborium::from_reader(bytes).map_err(damaged)
}
