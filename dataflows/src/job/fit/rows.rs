//! Where encoded rows are kept between passes: memory, disk, or nowhere. It never changes what a pass sees.
//!
//! Two things may lie on disk: the rows in the order of the files, for passes that would decode them again, and with eigenpro the rows in
//! hashed order, which it cannot do without. Together they stay within `--disk-limit`; the first gives way to the second.

use super::FitOutcome;
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::job::{FitConfig, Solver};
use crate::plan::human;
use crate::solve::eigenpro::order::{self, Place};
use nystream_datasets::{BLOCK_ROWS, Encoder};

/// Planned passes above which encoded rows are kept on disk when they do not fit in memory.
const CACHED_PASSES: u64 = 4;
/// Bytes that an archive on disk has beside its rows, at most.
const ARCHIVE_BYTES: u64 = 512;

/// Bytes of an encoded training row in memory or in a cache.
pub(super) fn row_bytes(encoder: &Encoder) -> u64 {
    (4 * encoder.numeric_width() + 2 * encoder.code_width() + 8 * encoder.target_width() + 48) as u64
}

/// Whether encoded training rows fit in a third of the memory budget: then they are decoded once.
pub(super) fn keep_rows(config: &FitConfig, encoder: &Encoder, rows: u64) -> bool {
    rows.saturating_mul(row_bytes(encoder)) <= config.memory / 3
}

/// Bytes on disk, for each worker: all own equal numbers of blocks, so an equal share of the budget serves each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DiskPlan {
    /// What `--disk-limit` allows a worker.
    limit: u64,
    /// Rows in hashed order; 0 where the solver needs none, or holds them in memory.
    ordered: u64,
    /// Rows as they come; 0 where they are decoded again.
    cached: u64,
}

impl DiskPlan {
    /// `share` rows of `row` bytes each belong to a worker, of `rows` in all; `in_memory` says that they stay there.
    fn new(limit: u64, share: u64, row: u64, rows: u64, in_memory: bool, eigenpro: bool, wanted: bool) -> Self {
        // Archives carry a little more than the rows.
        let whole = share * row + share * row / 16 + (1 << 16);
        let archives = share * row / order::FLUSH_BYTES + (1 << order::bucket_bits(rows, row));
        let ordered = if eigenpro && !in_memory { whole + archives * ARCHIVE_BYTES } else { 0 };
        let fits = ordered.saturating_add(whole) <= limit;
        DiskPlan { limit, ordered, cached: if wanted && !in_memory && fits { whole } else { 0 } }
    }

    fn check(&self, workers: u64) -> Result<(), StageError> {
        if self.ordered <= self.limit {
            return Ok(());
        }
        Err(StageError::Budget(format!(
            "--solver eigenpro keeps the training rows on disk in hashed order, about {} in each process, and --disk-limit allows {}. \
             Give more with --disk-limit, so much --memory that the rows fit a third of it, or another --solver",
            human(self.ordered * workers),
            human(self.limit * workers)
        )))
    }
}

fn disk_plan(session: &Session<'_>, config: &FitConfig, blocks: u64, outcome: &FitOutcome) -> DiskPlan {
    let (encoder, rows) = (&outcome.encoder, outcome.profile.rows);
    DiskPlan::new(
        config.disk_limit / session.process.workers() as u64,
        blocks.div_ceil(session.peers() as u64) * BLOCK_ROWS,
        row_bytes(encoder),
        rows,
        keep_rows(config, encoder, rows),
        outcome.plan.solver == Solver::EigenPro && !config.dictionary_only,
        outcome.plan.passes > CACHED_PASSES,
    )
}

/// Has the rows kept on disk where they do not fit in memory, will be read often, and fit the disk budget; says what was done.
/// What the passes see is the same in each case.
///
/// # Errors
/// [`StageError::Budget`] when the solver needs more disk than there is.
pub(super) fn keep_on_disk(
    session: &Session<'_>,
    config: &FitConfig,
    store: &RowStore,
    outcome: &mut FitOutcome,
) -> Result<(), StageError> {
    let disk = disk_plan(session, config, store.total_blocks(), outcome);
    let workers = session.process.workers() as u64;
    disk.check(workers)?;
    if disk.ordered > 0 {
        let size = human(disk.ordered * workers);
        outcome.plan.reasons.push(format!("rows in hashed order are kept on disk, about {size} a process"));
    }
    if keep_rows(config, &outcome.encoder, outcome.profile.rows) || outcome.plan.passes <= CACHED_PASSES {
        return Ok(());
    }
    outcome.plan.reasons.push(if disk.cached > 0 {
        store.keep_on_disk(&config.temp_dir, disk.limit - disk.ordered);
        format!("encoded rows are kept on disk, about {} a process", human(disk.cached * workers))
    } else {
        let rows = outcome.profile.rows.div_ceil(session.process.processes() as u64);
        let size = human(rows * row_bytes(&outcome.encoder) / 16 * 17);
        format!("encoded rows are decoded again in every pass: a cache would take about {size} of disk a process")
    });
    Ok(())
}

/// Where eigenpro's rows in hashed order go: what the cache of the rows leaves of the disk.
pub(super) fn hashed_order(session: &Session<'_>, config: &FitConfig, store: &RowStore, outcome: &FitOutcome) -> Place {
    if keep_rows(config, &outcome.encoder, outcome.profile.rows) {
        return Place::Memory(config.memory / 3);
    }
    let disk = disk_plan(session, config, store.total_blocks(), outcome);
    Place::Disk(config.temp_dir.clone(), disk.limit - disk.cached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_gives_way_to_the_hashed_order_and_both_keep_the_limit() {
        let plan = |limit, eigenpro, wanted| DiskPlan::new(limit, 1 << 20, 100, 2 << 20, false, eigenpro, wanted);
        let [cache, both] = [plan(u64::MAX, false, true), plan(u64::MAX, true, true)];
        assert!(cache.ordered == 0 && cache.cached > 100 << 20 && both.cached == cache.cached);
        assert!(both.ordered > both.cached && both.ordered < 130 << 20, "{both:?}");
        for limit in [both.ordered, both.ordered + both.cached - 1] {
            let tight = plan(limit, true, true);
            assert!(tight.cached == 0 && tight.check(2).is_ok(), "{tight:?}");
        }
        let enough = plan(both.ordered + both.cached, true, true);
        assert_eq!(enough.ordered + enough.cached, enough.limit);
        let error = plan(both.ordered - 1, true, true).check(2).unwrap_err();
        assert!(matches!(&error, StageError::Budget(text) if text.contains("--disk-limit")), "{error}");
        assert_eq!(plan(0, false, true), DiskPlan { limit: 0, ordered: 0, cached: 0 });
        assert_eq!(
            DiskPlan::new(0, 1 << 20, 100, 2 << 20, true, true, true),
            DiskPlan { limit: 0, ordered: 0, cached: 0 }
        );
    }
}
