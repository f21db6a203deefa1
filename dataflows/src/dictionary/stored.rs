//! Pools and centers as checkpoints hold them.

use super::pool::{Columns, Pool, PoolRule, gather_pool};
use super::{Atoms, Centers, SelectionRule};
use crate::engine::bytes::{Reader, Writer};
use crate::engine::checkpoint::{active, keep, recall, remember};
use crate::engine::exchange::{Audience, Outgoing};
use crate::engine::feed::Feed;
use crate::engine::session::Session;
use crate::error::StageError;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

/// [`gather_pool`] of all columns, or what it gathered before.
///
/// # Errors
/// As there.
pub(crate) fn remembered_pool(
    session: &mut Session<'_>,
    name: &str,
    feed: Feed,
    rule: PoolRule,
) -> Result<Arc<Pool>, StageError> {
    if !active(session) {
        return gather_pool(session, name, feed, rule, Columns::All);
    }
    let mut made = None;
    let frames = remember(session, name, Audience::Leaders, |session| {
        let pool = gather_pool(session, name, feed, rule, Columns::All)?;
        let bytes = if session.is_first() { vec![Outgoing { key: 0, bytes: pool.to_bytes() }] } else { Vec::new() };
        made = Some(pool);
        Ok(bytes)
    })?;
    match made {
        Some(pool) => Ok(pool),
        None => session
            .try_once(|| Pool::from_bytes(&frames.into_iter().next().map(|frame| frame.bytes).unwrap_or_default())),
    }
}

/// What is known of centers beside their rows.
#[derive(Serialize, Deserialize)]
struct Told {
    rows_scored: u64,
    gamma: f64,
    beta: f64,
    size: usize,
    pool_trace: Option<f64>,
    passes: u64,
    rule: SelectionRule,
    notes: Vec<String>,
}

/// `centers` as one or two frames.
pub(crate) fn frames(centers: &Centers) -> Vec<Outgoing> {
    let Centers { rows_scored, gamma, beta, size, pool_trace, passes, rule, .. } = *centers;
    let told = Told { rows_scored, gamma, beta, size, pool_trace, passes, rule, notes: centers.notes.clone() };
    let mut out = Writer::default();
    // Numbers and names: serialisation cannot fail.
    out.bytes(&serde_json::to_vec(&told).unwrap_or_default());
    out.rows(&centers.rows);
    out.ids(&centers.ids);
    let atoms = centers.atoms.as_ref().map(|atoms| {
        let mut out = Writer::default();
        out.rows(&atoms.rows);
        out.ids(&atoms.ids);
        out.f64s(&atoms.weights);
        Outgoing { key: 1, bytes: out.0 }
    });
    std::iter::once(Outgoing { key: 0, bytes: out.0 }).chain(atoms).collect()
}

/// What [`frames`] wrote; `None` for anything else.
pub(crate) fn read(frames: &[Outgoing]) -> Option<Centers> {
    let (first, rest) = frames.split_first()?;
    let mut from = Reader(&first.bytes);
    let told: Told = serde_json::from_slice(from.bytes().ok()?).ok()?;
    let (rows, ids) = (from.rows().ok()?, from.ids().ok()?);
    let atoms = match rest.first() {
        None => None,
        Some(frame) => {
            let mut from = Reader(&frame.bytes);
            let atoms = Atoms { rows: from.rows().ok()?, ids: from.ids().ok()?, weights: from.f64s().ok()? };
            let n = atoms.ids.len();
            Some(atoms).filter(|atoms| atoms.rows.len() == n && atoms.weights.len() == n)
        }
    };
    let Told { rows_scored, gamma, beta, size, pool_trace, passes, rule, notes } = told;
    let whole = rows.len() == ids.len() && atoms.is_some() != rest.is_empty();
    whole.then_some(Centers { rows, ids, rows_scored, gamma, beta, size, pool_trace, passes, rule, atoms, notes })
}

/// The centers that `choose` chooses, or those that it chose before.
///
/// # Errors
/// Those of `choose`.
pub(crate) fn remembered_centers(
    session: &mut Session<'_>,
    name: &str,
    choose: impl FnOnce(&mut Session<'_>) -> Result<Arc<Centers>, StageError>,
) -> Result<Arc<Centers>, StageError> {
    if !active(session) {
        return choose(session);
    }
    if let Some(stored) = recall(session, name, Audience::Leaders)? {
        let centers = session.once(|| read(&stored).map(Arc::new));
        if let Some(centers) = &*centers {
            return Ok(Arc::clone(centers));
        }
    }
    let begun = Instant::now();
    let centers = choose(session)?;
    keep(session, name, begun, || frames(&centers));
    Ok(centers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nystream_hashing::RowId;
    use nystream_kernels::rows::RowBuf;

    #[test]
    fn centers_are_read_as_they_were_written_and_nothing_else_is() {
        let rows = RowBuf { numeric: vec![1.0, -0.0, 3.5], numeric_width: 1, codes: vec![7, 8, 9], code_width: 1 };
        let ids: Vec<RowId> = (0..3).map(RowId).collect();
        let atoms = Atoms { rows: rows.clone(), ids: ids.clone(), weights: vec![1.0, 2.0, 0.1] };
        for atoms in [None, Some(atoms)] {
            let notes = vec!["a note".to_owned()];
            let centers =
                Centers { rows: rows.clone(), ids: ids.clone(), gamma: 0.1, notes, atoms, ..Centers::default() };
            let stored = frames(&centers);
            assert_eq!(format!("{:?}", read(&stored)), format!("{:?}", Some(&centers)));
            for frame in 0..stored.len() {
                for cut in [0, 8, stored[frame].bytes.len() - 1] {
                    let mut damaged = stored.clone();
                    damaged[frame].bytes.truncate(cut);
                    assert!(read(&damaged).is_none(), "frame {frame} cut at {cut}");
                }
            }
        }
    }
}
