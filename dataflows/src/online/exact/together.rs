//! Several processes: all workers of all of them serve the same orders in step, and tell each other what they have.
//!
//! The first process is told (by the runtime: it alone has the source, the log and the state) and passes its orders on; the others hold their share of the rows, by the hash of their ids, and what these add to
//! the Gram. A publication is then the fit's own stages, over all workers.

use super::sums;
use super::worker::{Lot, Order};
use crate::engine::exchange::{Audience, Gather, Outgoing, pass};
use crate::engine::session::Session;
use crate::error::StageError;
use crate::online::learner::RunEnd;
use nystream_datasets::Chunk;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// An order on its way to other processes.
#[derive(Serialize, Deserialize)]
enum Call {
    Learn { loading: bool },
    Publish,
    Verify,
    Save,
    Restore(serde_bytes::ByteBuf),
    End(RunEnd),
}

fn damaged(error: impl std::fmt::Display) -> StageError {
    StageError::Internal(format!("what a process told could not be read: {error}"))
}

fn bytes_of<T: Serialize>(value: &T) -> Result<Vec<u8>, StageError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(damaged)?;
    Ok(bytes)
}

/// What each worker of all processes tells, in their order, on all of them. Every worker calls this in step.
///
/// # Errors
/// [`StageError::Internal`] for a damaged exchange, the same on every worker.
pub(super) fn everyone<T>(session: &mut Session<'_>, mine: T) -> Result<Vec<T>, StageError>
where
    T: Serialize + DeserializeOwned + Clone + Any + Send + Sync,
{
    if session.process.processes() == 1 {
        return Ok(session.share(mine).iter().map(|told| T::clone(told)).collect());
    }
    let own = vec![Outgoing { key: session.index() as u64, bytes: bytes_of(&mine)? }];
    let told = pass(session, "exact: told", own, Gather::default(), Audience::Everyone)?;
    told.iter().map(|parcel| ciborium::from_reader(&parcel.bytes[..]).map_err(damaged)).collect()
}

/// Bytes of the first process, in all. Every worker calls this in step; only the first one's `told` counts.
///
/// # Errors
/// As [`everyone`].
pub(super) fn of_first(
    session: &mut Session<'_>,
    told: impl FnOnce() -> Result<Vec<u8>, StageError>,
) -> Result<Vec<u8>, StageError> {
    let own = if session.is_first() { vec![Outgoing { key: 0, bytes: told()? }] } else { Vec::new() };
    let parcels = pass(session, "exact: order", own, Gather::default(), Audience::Everyone)?;
    parcels.into_iter().next().map(|parcel| parcel.bytes).ok_or_else(|| damaged("there is nothing"))
}

/// The next order, the same on every worker of all processes; `None` when there are no more, and nobody has said that the run has come to its end. `orders` are those of this worker, in the first process.
///
/// # Errors
/// As [`everyone`].
pub(super) fn next(session: &mut Session<'_>, orders: Option<&Receiver<Order>>) -> Result<Option<Order>, StageError> {
    let order = orders.and_then(|orders| orders.recv().ok());
    if session.process.processes() == 1 {
        return Ok(order);
    }
    let heard = of_first(session, || bytes_of(&call(order.as_ref())))?;
    if orders.is_some() {
        return Ok(order);
    }
    Ok(match ciborium::from_reader(&heard[..]).map_err(damaged)? {
        Call::Learn { loading } => {
            let lot = Lot { removed: Vec::new(), added: Chunk::new(), which: Vec::new(), loading };
            Some(Order::Learn(Arc::new(lot)))
        }
        Call::Publish => Some(Order::Publish),
        Call::Verify => Some(Order::Verify),
        // The first process alone writes.
        Call::Save => Some(Order::Save(PathBuf::new())),
        Call::Restore(bytes) => Some(Order::Restore(Arc::new(sums::heard(&bytes)?))),
        Call::End(how) => Some(Order::End(how)),
    })
}

fn call(order: Option<&Order>) -> Call {
    match order {
        Some(Order::Learn(lot)) => Call::Learn { loading: lot.loading },
        Some(Order::Publish) => Call::Publish,
        Some(Order::Verify) => Call::Verify,
        Some(Order::Save(_)) => Call::Save,
        Some(Order::Restore(kept)) => Call::Restore(serde_bytes::ByteBuf::from(sums::told(kept))),
        Some(Order::End(how)) => Call::End(*how),
        None => Call::End(RunEnd::Failed),
    }
}
