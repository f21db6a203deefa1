//! The eigensystem of a subsample in a checkpoint.
//!
//! Every process makes it for itself, of the same rows: some seconds for 3,000 of them. It is written once, where that is worth its write, in 3.6 MB at most (3,000 rows, 150 directions): a constant, and less than
//! what the eigensystem had in memory just before. A resumed job reads it; where it is damaged, or was not written, it is made again.

use crate::engine::agree;
use crate::engine::checkpoint::{keep, recall};
use crate::engine::exchange::{Audience, Outgoing};
use crate::engine::session::Session;
use crate::error::StageError;
use nystream_kernels::archive::{decode, encode};
use nystream_kernels::solve::eigenpro::{Measured, StoredPreconditioner, SubsamplePreconditioner};
use std::sync::Arc;
use std::time::Instant;

/// The preconditioner of a subsample of `sample` rows, as `work` makes it, or as it was stored under `group`. Every worker calls this in step; the same on every worker.
///
/// # Errors
/// That of `work`; [`StageError::Internal`] for a damaged exchange.
pub(super) fn preconditioner(
    session: &mut Session<'_>,
    group: &str,
    sample: usize,
    work: impl FnOnce() -> Result<(SubsamplePreconditioner, Measured), StageError>,
) -> Result<Arc<(SubsamplePreconditioner, Measured)>, StageError> {
    let most = SubsamplePreconditioner::recommended_rank(sample);
    if let Some(frames) = recall(session, group, Audience::Leaders)? {
        // The same bytes in every process: all take it, or none.
        let stored = session.once(|| {
            let state: StoredPreconditioner = decode(&frames.first()?.bytes)?;
            state.restored(sample, most).map(Arc::new)
        });
        if let Some(stored) = &*stored {
            return Ok(Arc::clone(stored));
        }
    }
    let begun = Instant::now();
    let made = session.try_once(work);
    let made = agree(session, made)?;
    keep(session, group, begun, || {
        vec![Outgoing { key: 0, bytes: encode(&StoredPreconditioner::of(&made.0, &made.1)) }]
    });
    Ok(made)
}
