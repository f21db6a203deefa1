//! What is left of a data set beside blocks that are done, dealt anew.

use crate::catalog::{BlockRun, Catalog};
use std::ops::Range;

impl Catalog {
    /// The share of worker `index` of `peers` in the global blocks outside of `held`, which are sorted and apart: every block that is left is in one share, and of files that are spread over hosts in one of
    /// a process that has the file. Counts differ by at most one, there within a process.
    ///
    /// ```
    /// use nystream_datasets::{Catalog, Sources};
    /// // Ten blocks, of which four are done.
    /// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=20480"])?)?;
    /// assert_eq!(catalog.remaining(&[2..6], 2, 0), [0..2, 6..7]);
    /// assert_eq!(catalog.remaining(&[2..6], 2, 1), [7..10]);
    /// # Ok::<(), nystream_datasets::DataError>(())
    /// ```
    pub fn remaining(&self, held: &[Range<u64>], peers: usize, index: usize) -> Vec<Range<u64>> {
        let (own, parts, part) = self.dealt_among(peers, index);
        let own =
            own.into_iter().map(|run| self.global_block(run.file, run.first)..self.global_block(run.file, run.end));
        let mut free = Vec::new();
        own.for_each(|range| without(range, held, &mut free));
        cut(free, parts as u64, part as u64)
    }

    /// All blocks among which a worker has its share, with how many others, and which of them it is.
    fn dealt_among(&self, peers: usize, index: usize) -> (Vec<BlockRun>, usize, usize) {
        match self.placed_runs(peers, index) {
            Some((runs, workers)) => (runs, workers, index % workers),
            None => (self.runs(0, self.blocks()), peers, index),
        }
    }
}

/// Adds what of `range` is outside of `held`.
fn without(range: Range<u64>, held: &[Range<u64>], free: &mut Vec<Range<u64>>) {
    let mut at = range.start;
    for hole in held.iter().filter(|hole| hole.start < range.end && hole.end > range.start) {
        if at < hole.start {
            free.push(at..hole.start);
        }
        at = at.max(hole.end);
    }
    if at < range.end {
        free.push(at..range.end);
    }
}

/// The part `index` of `parts` of these ranges.
fn cut(free: Vec<Range<u64>>, parts: u64, index: u64) -> Vec<Range<u64>> {
    let left: u64 = free.iter().map(|range| range.end - range.start).sum();
    let at = |i: u64| (u128::from(left) * u128::from(i) / u128::from(parts.max(1))) as u64;
    let (first, end) = (at(index), at(index + 1));
    let mut passed = 0;
    let mut own: Vec<Range<u64>> = Vec::new();
    for range in free {
        let length = range.end - range.start;
        let (lo, hi) = (first.max(passed), end.min(passed + length));
        if lo < hi {
            let (start, end) = (range.start + lo - passed, range.start + hi - passed);
            match own.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => own.push(start..end),
            }
        }
        passed += length;
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sources;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn what_is_left_is_dealt_once(
            cuts in proptest::collection::btree_set(0u64..200, 0..8), peers in 1usize..6, files in proptest::collection::vec(1u64..90, 1..4),
        ) {
            let specs: Vec<String> =
                files.iter().enumerate().map(|(i, blocks)| format!("synth:sines?rows={}&d=2&seed={i}", blocks * 2048 - 1)).collect();
            let catalog = Catalog::open(&Sources::parse(&specs).unwrap()).unwrap();
            let total = catalog.blocks();
            let cuts: Vec<u64> = cuts.into_iter().filter(|cut| *cut <= total).collect();
            let held: Vec<Range<u64>> = cuts.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
            let mut seen = vec![0; total as usize];
            let shares: Vec<Vec<Range<u64>>> = (0..peers).map(|index| catalog.remaining(&held, peers, index)).collect();
            shares.iter().flatten().chain(&held).for_each(|range| range.clone().for_each(|block| seen[block as usize] += 1));
            prop_assert!(seen.iter().all(|count| *count == 1), "{:?}", seen);
            let counts: Vec<u64> = shares.iter().map(|share| share.iter().map(|r| r.end - r.start).sum()).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }
    }
}
