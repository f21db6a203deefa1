//! Ranks of scores, for the area under the ROC curve: counts of the rows of a class and of the others, by score.
//!
//! Every score that differs has a cell of its own, so the area is exact, until a class has more than its share of [`CELLS`]: then scores that agree but
//! for their last bits share one, the same number of bits for all scores and the fewest that suffice. Cells follow the scores: those that crowd into a
//! thousandth, as a weak model's do, are told apart as well as others. Rows of one cell count as tied: the area errs by at most half the share of pairs
//! that meet in one.
//!
//! Invariant: how many bits are dropped, and so the area, is a property of the set of scores. Rows that need a coarser grid need it with whatever is
//! added, so counts may be made in parts and merged in any order. Memory grows with neither rows nor classes. A class is one worker's to merge; areas
//! travel on, not counts.

use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Outgoing, Reducer, pass};
use crate::engine::session::Session;
use crate::error::StageError;
use std::collections::{BTreeMap, HashMap};

/// Cells of all classes together: what a table of 2^18 places holds before it doubles.
const CELLS: usize = 7 << 15;
/// Most classes that are ranked.
const RANKED_CLASSES: usize = 32;
/// Bytes of a cell on its way: its key and two counts.
const CELL_BYTES: u64 = 24;
/// Memory that ranks take in a worker: its own counts and those it merges, each in a table that is at most half empty, sorted and written.
pub const RANK_BYTES: u64 = CELLS as u64 * 2 * (60 + 2 * CELL_BYTES);
/// And what it receives from each of its peers.
pub const RANK_PARCEL_BYTES: u64 = CELLS as u64 * CELL_BYTES;

/// A score as an integer of the same order; no number is below all of them.
fn ordered(score: f64) -> u64 {
    if score.is_nan() {
        return 0;
    }
    // Of both zeros one.
    let bits = (score + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// Counts of one class by score: (rows of the class, others).
#[derive(Clone, Debug, Default, PartialEq)]
struct Cells {
    /// Bits that are dropped of every score.
    dropped: u32,
    counts: HashMap<u64, [u64; 2]>,
}

impl Cells {
    fn add(&mut self, score: u64, count: [u64; 2], most: usize) {
        let cell = self.counts.entry(score.checked_shr(self.dropped).unwrap_or(0)).or_default();
        (0..2).for_each(|i| cell[i] += count[i]);
        if self.counts.len() > most {
            self.coarsen(self.enough(most));
        }
    }

    fn sorted(&self) -> Vec<(u64, [u64; 2])> {
        let mut cells: Vec<_> = self.counts.iter().map(|(key, count)| (*key, *count)).collect();
        cells.sort_unstable_by_key(|(key, _)| *key);
        cells
    }

    /// The fewest dropped bits that leave at most `most` cells.
    fn enough(&self, most: usize) -> u32 {
        // Neighbours meet when the highest bit in which they differ is gone.
        let mut meet = [0usize; 65];
        let sorted = self.sorted();
        sorted.windows(2).for_each(|pair| meet[64 - (pair[0].0 ^ pair[1].0).leading_zeros() as usize] += 1);
        let (mut cells, mut more) = (sorted.len(), 0);
        while cells > most.max(1) {
            more += 1;
            cells -= meet[more];
        }
        self.dropped + more as u32
    }

    fn coarsen(&mut self, dropped: u32) {
        let more = dropped.saturating_sub(self.dropped);
        let counts = std::mem::take(&mut self.counts);
        for (key, count) in counts {
            // All 64 bits may go.
            let cell = self.counts.entry(key.checked_shr(more).unwrap_or(0)).or_default();
            (0..2).for_each(|i| cell[i] += count[i]);
        }
        self.dropped += more;
    }

    /// Area under the curve; `None` when the class or its complement is absent.
    fn area(&self) -> Option<f64> {
        // A member beats every other row below it and half of those in its cell.
        let (mut below, mut wins, mut members) = (0u64, 0.0, 0u64);
        for (_, [member, other]) in self.sorted() {
            wins += member as f64 * (below as f64 + 0.5 * other as f64);
            below += other;
            members += member;
        }
        (members > 0 && below > 0).then(|| wins / (members as f64 * below as f64))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u64(u64::from(self.dropped));
        for (key, [member, other]) in self.sorted() {
            [key, member, other].into_iter().for_each(|word| out.u64(word));
        }
        out.0
    }

    /// Adds what another worker counted.
    fn add_bytes(&mut self, bytes: &[u8], most: usize) -> Result<(), StageError> {
        let mut from = Reader(bytes);
        let dropped = u32::try_from(from.u64()?).ok().filter(|dropped| *dropped <= 64);
        let dropped = dropped.ok_or_else(|| StageError::Internal("counts of ranks arrived damaged".into()))?;
        if dropped > self.dropped {
            self.coarsen(dropped);
        }
        while !from.is_empty() {
            let (key, count) = (from.u64()?, [from.u64()?, from.u64()?]);
            // As the lowest score of its cell.
            self.add(key.checked_shl(dropped).unwrap_or(0), count, most);
        }
        Ok(())
    }
}

/// Counts of one data set's scores.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ranks {
    /// The classes that are ranked: the second of two, each of more, none of very many.
    pub classes: std::ops::Range<usize>,
    cells: Vec<Cells>,
}

impl Ranks {
    pub fn new(classes: usize) -> Self {
        let classes = match classes {
            0 => 0..0,
            2 => 1..2,
            many if many > RANKED_CLASSES => 0..0,
            few => 0..few,
        };
        Ranks { cells: vec![Cells::default(); classes.len()], classes }
    }

    /// Cells that a class may have.
    fn most(&self) -> usize {
        most(self.classes.len())
    }

    /// Counts a row that has `score` for `class` and belongs to it, or not.
    pub fn count(&mut self, class: usize, score: f64, member: bool) {
        let most = self.most();
        let count = if member { [1, 0] } else { [0, 1] };
        self.cells[class - self.classes.start].add(ordered(score), count, most);
    }

    /// The mean over the ranked classes of the area under the curve, of all workers' rows, on every worker; `None` when each class or its complement is absent.
    ///
    /// # Errors
    /// A damaged exchange.
    pub fn area(self, session: &mut Session<'_>) -> Result<Option<f64>, StageError> {
        let classes = self.cells.len();
        let outgoing: Vec<Outgoing> =
            (0..).zip(self.cells).map(|(key, cells)| Outgoing { key, bytes: cells.to_bytes() }).collect();
        let merge = Merge { most: most(classes), classes: BTreeMap::new() };
        let mut areas = Vec::new();
        for parcel in pass(session, "ranks", outgoing, merge, Audience::Everyone)? {
            areas.extend(Reader(&parcel.bytes).f64s()?);
        }
        Ok(mean(&areas))
    }
}

fn most(classes: usize) -> usize {
    CELLS / classes.max(1)
}

fn mean(areas: &[f64]) -> Option<f64> {
    (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
}

/// Merges the counts of classes, and makes areas of them.
struct Merge {
    most: usize,
    classes: BTreeMap<u64, Cells>,
}

impl Reducer for Merge {
    fn absorb(&mut self, key: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        self.classes.entry(key).or_default().add_bytes(&bytes, self.most)
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let classes = std::mem::take(&mut self.classes);
        let area = |(key, cells): (u64, Cells)| {
            let mut out = Writer::default();
            out.f64s(cells.area().as_slice());
            Outgoing { key, bytes: out.0 }
        };
        Ok(classes.into_iter().map(area).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nystream_hashing::{RowId, StreamKey};

    /// Share of (member, other) pairs in which the member scores higher, ties half.
    fn pairs(scores: &[(f64, bool)]) -> f64 {
        let (mut wins, mut count) = (0.0, 0.0);
        for (a, _) in scores.iter().filter(|(_, member)| *member) {
            for (b, _) in scores.iter().filter(|(_, member)| !*member) {
                wins += if a > b { 1.0 } else { f64::from(u8::from(a == b)) / 2.0 };
                count += 1.0;
            }
        }
        wins / count
    }

    fn cells(scores: &[(f64, bool)], most: usize) -> Cells {
        let mut cells = Cells::default();
        scores.iter().for_each(|(s, member)| cells.add(ordered(*s), if *member { [1, 0] } else { [0, 1] }, most));
        cells
    }

    /// Scores of which a third are members, who score higher more often than not, spread around `centre`.
    fn scores(n: usize, centre: f64, spread: f64) -> Vec<(f64, bool)> {
        let key = StreamKey::new(1, "ranks", n as u64);
        let score = |i: usize| {
            let (a, b) = key.normal_pair(RowId(i as u128));
            let member = i.is_multiple_of(3);
            (centre + spread * (a + if member { 0.5 } else { 0.0 } + 0.1 * b), member)
        };
        (0..n).map(score).collect()
    }

    #[test]
    fn integers_keep_the_order_of_scores() {
        let rising = [f64::NAN, f64::NEG_INFINITY, -1e300, -0.5, -1e-310, 0.0, 1e-310, 0.5, 1.0, 1e300, f64::INFINITY];
        let keys = rising.map(ordered);
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "{keys:?}");
        assert_eq!(ordered(-0.0), ordered(0.0));
    }

    /// Exact, ties included, wherever the scores lie and however close.
    #[test]
    fn area_counts_pairs() {
        let few = [(0.1, false), (0.4, true), (0.4, false), (0.7, true), (0.9, false), (0.95, true)];
        assert_eq!(cells(&few, CELLS).area(), Some(pairs(&few)));
        assert_eq!(cells(&few[..1], CELLS).area(), None);
        for (centre, spread) in [(0.5, 0.2), (0.0201, 1e-6), (-14.0, 3.0), (1e6, 1e-4), (0.0, 1e-200)] {
            let scores = scores(600, centre, spread);
            let area = cells(&scores, CELLS).area().unwrap();
            assert!((area - pairs(&scores)).abs() < 1e-12 && area > 0.55, "{centre} {spread}: {area}");
        }
    }

    /// The grid is the finest that the cells allow, for any order of the rows and any way to share them out.
    #[test]
    fn few_cells_are_a_property_of_the_scores() {
        let all = scores(3000, 0.3, 0.2);
        for most in [1, 2, 50, 700] {
            let whole = cells(&all, most);
            assert!(whole.counts.len() <= most && whole.counts.values().flatten().sum::<u64>() == 3000);
            let finer = |dropped: u32| {
                let mut keys: Vec<u64> =
                    all.iter().map(|(s, _)| ordered(*s).checked_shr(dropped).unwrap_or(0)).collect();
                keys.sort_unstable();
                keys.dedup();
                keys.len()
            };
            assert!(finer(whole.dropped) == whole.counts.len() && finer(whole.dropped - 1) > most);
            let mut backwards = all.clone();
            backwards.reverse();
            assert_eq!(cells(&backwards, most), whole);
            let mut merged = cells(&all[..10], most);
            for part in [&all[2000..], &all[10..2000]] {
                merged.add_bytes(&cells(part, most).to_bytes(), most).unwrap();
            }
            assert_eq!(merged, whole);
        }
        // 700 cells for 3,000 scores: few pairs meet in one.
        assert!((cells(&all, 700).area().unwrap() - pairs(&all)).abs() < 2e-3);
        assert!(cells(&all, 700).add_bytes(&[255; 8], 700).is_err());
    }

    #[test]
    fn memory_is_bounded_for_any_number_of_classes() {
        for classes in 0..100 {
            let ranks = Ranks::new(classes);
            assert!(ranks.most() * ranks.classes.len() <= CELLS);
        }
        assert_eq!([Ranks::new(2).classes, Ranks::new(3).classes, Ranks::new(33).classes], [1..2, 0..3, 0..0]);
        assert_eq!((mean(&[]), mean(&[0.5, 1.0])), (None, Some(0.75)));
    }
}
