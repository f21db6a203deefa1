//! Sums over blocks of rows that every worker already holds: iterations on small batches, K_mm times vectors, rows of a full kernel matrix.
//!
//! Units of work are numbered from 0; each worker takes a run of them and their vectors are summed over the fixed tree of all units, so
//! the bits do not depend on who did what. Cost: what the units cost, and O(length log units) values exchanged by each worker.

use crate::engine::exchange::{Outgoing, Scan, Step};
use crate::engine::session::Session;
use crate::engine::sums::{node_parcels, summed};
use crate::error::StageError;
use nystream_kernels::tree::SumTree;
use std::ops::Range;
use std::sync::Arc;

struct Blocks<F> {
    left: Range<u64>,
    length: usize,
    tree: SumTree,
    work: F,
}

impl<F: FnMut(u64) -> Vec<f64>> Scan for Blocks<F> {
    fn step(&mut self) -> Result<Step, StageError> {
        let Some(unit) = self.left.next() else { return Ok(Step::Done) };
        self.tree.insert(0, unit, (self.work)(unit)).map_err(|e| StageError::Internal(e.to_string()))?;
        Ok(Step::More { rows: 0 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(node_parcels(self.tree.into_nodes(), self.length))
    }
}

/// Units of `units` that worker `index` of `peers` takes.
pub(crate) fn share(units: u64, peers: u64, index: u64) -> Range<u64> {
    let cut = |k: u64| (u128::from(units) * u128::from(k) / u128::from(peers)) as u64;
    cut(index)..cut(index + 1)
}

/// The sum over all `units` of `work(unit)`, vectors of `length` values, on every worker. A unit's vector must not depend on who computes it.
///
/// ```
/// use nystream_dataflows::engine::{Process, SilentProgress, run};
/// use nystream_dataflows::matvec::blocks::block_sums;
/// let sum = |workers| {
///     let process = Process::new(workers, 1, 0, Box::new(SilentProgress));
///     let communication = timely::CommunicationConfig::Process(workers).try_build().unwrap();
///     let work = |unit: u64| vec![1.0, 1.0 / (1.0 + unit as f64)];
///     let results = run(&process, communication, move |session| block_sums(session, "example", 100, 2, work));
///     results.unwrap()[0].clone().unwrap()
/// };
/// let sums = sum(1);
/// assert_eq!(sums[0], 100.0);
/// // The same bits, whoever did what.
/// assert_eq!(sums, sum(3));
/// ```
///
/// # Errors
/// [`StageError::Internal`] for vectors of different lengths, or a damaged exchange.
pub fn block_sums<F>(
    session: &mut Session<'_>,
    name: &str,
    units: u64,
    length: usize,
    work: F,
) -> Result<Vec<f64>, StageError>
where
    F: FnMut(u64) -> Vec<f64> + 'static,
{
    let left = share(units, session.peers() as u64, session.index() as u64);
    let scan = Blocks { left, length, tree: SumTree::new(units), work };
    // The last of the process's workers that reads it takes it, the others copy.
    summed(session, name, scan, units, length).map(Arc::unwrap_or_clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_all_units_once() {
        for units in [0, 1, 2, 7, 100, 1 << 40] {
            for peers in [1, 2, 3, 7] {
                let cuts: Vec<Range<u64>> = (0..peers).map(|i| share(units, peers, i)).collect();
                assert_eq!(cuts[0].start, 0);
                assert_eq!(cuts[peers as usize - 1].end, units);
                assert!(cuts.windows(2).all(|w| w[0].end == w[1].start));
            }
        }
    }
}
