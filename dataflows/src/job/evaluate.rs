//! The evaluation of a fitted function on data with known targets.

use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::evaluate::{Evaluation, evaluate};
use crate::predict::Function;
use nystream_datasets::{Catalog, Encoder, Role};
use nystream_kernels::gram::Precision;
use std::sync::{Arc, PoisonError};

/// Evaluates `function` on all rows of `catalog` that have a target.
///
/// # Errors
/// Unreadable data, missing columns, or more than `max_bad_rows` bad rows (counted in this process).
pub fn evaluate_model(
    session: &mut Session<'_>,
    catalog: &Catalog,
    encoder: &Arc<Encoder>,
    function: &Arc<Function>,
    max_bad_rows: u64,
) -> Result<Evaluation, StageError> {
    let store =
        RowStore::new(catalog, Arc::clone(encoder), session.peers(), session.index(), Arc::clone(&session.process));
    let feed = store.feed(Role::Evaluation);
    if session.is_leader() {
        session.process.progress.begin("evaluate", catalog.total_rows);
    }
    let evaluation = match function.precision {
        Precision::Double => {
            let tiles = session.try_once(|| function.tiles::<f64>())?;
            evaluate(session, "evaluate", feed, function, &tiles)?
        }
        _ => {
            let tiles = session.try_once(|| function.tiles::<f32>())?;
            evaluate(session, "evaluate", feed, function, &tiles)?
        }
    };
    if session.is_leader() {
        session.process.progress.end();
    }
    let (bad, named) = session.process.bad_rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if bad > max_bad_rows {
        return Err(StageError::Data(format!(
            "{bad} bad rows, and --max-bad-rows allows {max_bad_rows}:\n  {}",
            named.join("\n  ")
        )));
    }
    Ok(evaluation)
}
