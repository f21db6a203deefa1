//! Where encoded rows are kept between passes: memory, disk, or nowhere. It never changes what a pass sees.

use super::FitOutcome;
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::job::FitConfig;
use crate::plan::Selection;
use nystream_datasets::Encoder;

/// Planned passes above which encoded rows are kept on disk when they do not fit in memory.
const CACHED_PASSES: u64 = 4;

/// Bytes of an encoded training row in memory or in a cache.
pub(super) fn row_bytes(encoder: &Encoder) -> u64 {
    (4 * encoder.numeric_width() + 2 * encoder.code_width() + 8 * encoder.target_width() + 48) as u64
}

/// Whether encoded training rows fit in a third of the memory budget: then they are decoded once.
pub(super) fn keep_rows(config: &FitConfig, encoder: &Encoder, rows: u64) -> bool {
    rows.saturating_mul(row_bytes(encoder)) <= config.memory / 3
}

/// Has the rows kept on disk where they do not fit in memory, will be read often, and fit the disk budget; says what was done.
/// What the passes see is the same in each case.
pub(super) fn keep_on_disk(session: &Session<'_>, config: &FitConfig, store: &RowStore, outcome: &mut FitOutcome) {
    let full = matches!(outcome.plan.selection, Selection::RpCholesky { full: true, .. });
    let encoder = &outcome.encoder;
    if keep_rows(config, encoder, outcome.profile.rows) || !(full || outcome.plan.passes > CACHED_PASSES) {
        return;
    }
    // Workers own equal numbers of blocks, so an equal share of the budget serves each.
    let limit = config.disk_limit / session.process.workers() as u64;
    let workers = session.peers() as u64;
    let share = store.total_blocks().div_ceil(workers) * nystream_datasets::BLOCK_ROWS * row_bytes(encoder);
    // Archives carry a little more than the rows.
    let needed = share + share / 16 + (1 << 16);
    let size = crate::plan::human(needed * session.process.workers() as u64);
    outcome.plan.reasons.push(if needed <= limit {
        store.keep_on_disk(&config.temp_dir, limit);
        format!("encoded rows are kept on disk, about {size} a process")
    } else {
        format!("encoded rows are decoded again in every pass: a cache would take about {size} of disk a process")
    });
}
