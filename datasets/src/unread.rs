//! Blocks that nobody has begun to read: a reader takes them from the front, a batch at a time, and what it has not come to can be taken from it at the back.
//!
//! Both happen under one lock, so that a block is read by whom it was taken or not read here at all; what a prefetch thread has begun stays with it. Cost: a lock a batch.

use crate::catalog::BlockRun;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Runs in one answer of [`Unread::give_up`], at most: what they take in a message is bounded by it.
const MOST_RUNS: usize = 1024;

/// The runs of a reader. Clones see the same ones.
///
/// ```
/// use nystream_datasets::{BlockRun, Unread};
/// let unread = Unread::new([BlockRun { file: 0, first: 0, end: 10 }, BlockRun { file: 1, first: 0, end: 3 }], 4);
/// // The first batch is begun.
/// assert_eq!(unread.claim().map(|claim| claim.run), Some(BlockRun { file: 0, first: 0, end: 4 }));
/// // About half of the others are taken away; what stays of a run are whole batches.
/// let given = unread.give_up(5, &|_| true);
/// assert_eq!(given, [BlockRun { file: 0, first: 8, end: 10 }, BlockRun { file: 1, first: 0, end: 3 }]);
/// assert_eq!(unread.claim().map(|claim| claim.run), Some(BlockRun { file: 0, first: 4, end: 8 }));
/// assert!(unread.claim().is_none());
/// ```
#[derive(Clone, Debug)]
pub struct Unread {
    runs: Arc<Mutex<Left>>,
    batch: u64,
}

#[derive(Debug)]
struct Left {
    entries: VecDeque<Entry>,
    /// Of all entries.
    blocks: u64,
}

#[derive(Debug)]
struct Entry {
    number: usize,
    run: BlockRun,
}

/// A batch that was taken from the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its blocks.
    pub run: BlockRun,
    /// Where the run ended, of which it is, when it was taken.
    pub run_end: u64,
    /// Which of the runs that is.
    pub number: usize,
}

impl Unread {
    /// All of `runs`, to be read in this order in batches of at most `batch` blocks.
    pub fn new(runs: impl IntoIterator<Item = BlockRun>, batch: u64) -> Self {
        let entries = runs.into_iter().enumerate().filter(|(_, run)| run.first < run.end);
        let entries: VecDeque<Entry> = entries.map(|(number, run)| Entry { number, run }).collect();
        let blocks = entries.iter().map(|entry| entry.run.end - entry.run.first).sum();
        Unread { runs: Arc::new(Mutex::new(Left { entries, blocks })), batch: batch.max(1) }
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks that are left.
    pub fn blocks(&self) -> u64 {
        self.lock().blocks
    }

    /// Takes the next batch: whole blocks of one run.
    pub fn claim(&self) -> Option<Claim> {
        let mut left = self.lock();
        let front = left.entries.front_mut()?;
        let (number, run_end) = (front.number, front.run.end);
        let end = (front.run.first + self.batch).min(run_end);
        let run = BlockRun { end, ..front.run };
        front.run.first = end;
        if end == run_end {
            left.entries.pop_front();
        }
        left.blocks -= run.end - run.first;
        Some(Claim { run, run_end, number })
    }

    /// Takes at most `blocks` blocks from the back, of files of which `may` is true, in order. What is left of a run that was cut is whole batches: a decoder that is at
    /// work on it comes to its end at the end of a batch. Runs of one batch or less are not cut.
    pub fn give_up(&self, blocks: u64, may: &dyn Fn(usize) -> bool) -> Vec<BlockRun> {
        let mut left = self.lock();
        let Left { entries, blocks: all } = &mut *left;
        let (mut wanted, mut at) = (blocks, entries.len());
        let mut given: Vec<BlockRun> = Vec::new();
        while at > 0 && wanted > 0 && given.len() < MOST_RUNS {
            at -= 1;
            let run = entries[at].run;
            if !may(run.file) {
                continue;
            }
            let length = run.end - run.first;
            let stays = length.saturating_sub(wanted).next_multiple_of(self.batch);
            if stays >= length {
                break;
            }
            let first = run.first + stays;
            wanted -= length - stays;
            *all -= length - stays;
            match given.last_mut() {
                Some(last) if last.file == run.file && last.first == run.end => last.first = first,
                _ => given.push(BlockRun { first, ..run }),
            }
            if stays == 0 {
                entries.remove(at);
            } else {
                entries[at].run.end = first;
            }
        }
        given.reverse();
        given
    }

    /// Adds a run behind all others. It has no number of its own.
    pub fn add(&self, run: BlockRun) {
        if run.first < run.end {
            let mut left = self.lock();
            left.blocks += run.end - run.first;
            left.entries.push_back(Entry { number: usize::MAX, run });
        }
    }

    /// Leaves nothing.
    pub fn clear(&self) {
        let mut left = self.lock();
        left.entries.clear();
        left.blocks = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Claims and what is given up, in any order, are every block once; claims of a run follow each other, and all but its last are whole batches.
        #[test]
        fn every_block_goes_once(
            lengths in proptest::collection::vec(0u64..30, 1..6), batch in 1u64..6, steps in proptest::collection::vec((any::<bool>(), 1u64..40, 0usize..6), 0..40),
        ) {
            let runs: Vec<BlockRun> = lengths.iter().enumerate().map(|(file, length)| BlockRun { file, first: 3, end: 3 + length }).collect();
            let total: u64 = lengths.iter().sum();
            let unread = Unread::new(runs.clone(), batch);
            let mut seen: Vec<(usize, u64)> = Vec::new();
            let mut at: Vec<u64> = vec![3; runs.len()];
            let claim = |seen: &mut Vec<(usize, u64)>, at: &mut Vec<u64>| {
                let Some(Claim { run, run_end, number }) = unread.claim() else { return false };
                assert_eq!((run.first, number), (at[run.file], run.file));
                assert!(run.end == run_end || run.end - run.first == batch);
                at[run.file] = run.end;
                seen.extend((run.first..run.end).map(|block| (run.file, block)));
                true
            };
            for (give, most, not) in steps {
                if give {
                    let given = unread.give_up(most, &|file| file != not);
                    prop_assert!(given.iter().map(|run| run.end - run.first).sum::<u64>() <= most);
                    prop_assert!(given.iter().all(|run| run.file != not && run.first < run.end));
                    seen.extend(given.iter().flat_map(|run| (run.first..run.end).map(|block| (run.file, block))));
                } else {
                    claim(&mut seen, &mut at);
                }
                prop_assert_eq!(seen.len() as u64 + unread.blocks(), total);
            }
            while claim(&mut seen, &mut at) {}
            seen.sort_unstable();
            let all: Vec<(usize, u64)> = runs.iter().flat_map(|run| (run.first..run.end).map(|block| (run.file, block))).collect();
            prop_assert_eq!(seen, all);
        }
    }
}
