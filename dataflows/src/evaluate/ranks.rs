//! Ranks of scores, for the area under the ROC curve: counts in equal bins, for rows of a class and for the others.
//!
//! Least-squares scores are binned over [-1/2, 3/2]. Probabilities are binned by their log odds over [-32, 32], so that rare classes, whose
//! probabilities are all small, are told apart as well. Rows of one bin count as tied: the area errs by at most half the share of pairs that meet in a bin.
//!
//! All classes together have [`CELLS`] bins, so memory does not grow with rows or classes. The counts are integers: free of order. They
//! are exchanged in pieces that different workers sum.

use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Outgoing, Reducer, pass};
use crate::engine::session::Session;
use crate::error::StageError;
use std::collections::BTreeMap;

/// Bins of all classes together.
pub(super) const CELLS: usize = 1 << 18;
/// Most classes that are ranked.
const RANKED_CLASSES: usize = 32;
/// Bins that are exchanged together.
const PIECE: usize = 1 << 12;
/// Bytes of a bin on its way: its place and two counts.
const CELL_BYTES: u64 = 24;
/// Memory that ranks may take in a worker: its counts, what it sends, what it receives to sum, and what it hears.
pub const RANK_BYTES: u64 = CELLS as u64 * (16 + 3 * CELL_BYTES + 16);

/// What scores are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Least-squares scores, around [0, 1].
    Score,
    /// Log odds.
    LogOdds,
}

impl Scale {
    /// Where the score lies in the binned range, in [0, 1].
    fn position(self, score: f64) -> f64 {
        let position = match self {
            Scale::Score => (score + 0.5) / 2.0,
            Scale::LogOdds => (score + 32.0) / 64.0,
        };
        position.clamp(0.0, 1.0)
    }
}

/// Counts of one data set's scores: by class and bin, (rows of the class, others).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ranks {
    scale: Scale,
    bins: usize,
    /// The classes that are ranked: the second of two, each of more, none of very many.
    pub classes: std::ops::Range<usize>,
    counts: Vec<[u64; 2]>,
}

impl Ranks {
    pub fn new(classes: usize, scale: Scale) -> Self {
        let classes = match classes {
            0 => 0..0,
            2 => 1..2,
            many if many > RANKED_CLASSES => 0..0,
            few => 0..few,
        };
        let bins = CELLS / classes.len().max(1).next_power_of_two();
        let counts = vec![[0; 2]; bins * classes.len()];
        Ranks { scale, bins, classes, counts }
    }

    /// What its scores are.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Counts a row that has `score` for `class` and belongs to it, or not.
    pub fn count(&mut self, class: usize, score: f64, member: bool) {
        let bin = (self.scale.position(score) * (self.bins - 1) as f64) as usize;
        self.counts[(class - self.classes.start) * self.bins + bin][usize::from(!member)] += 1;
    }

    /// Mean over the ranked classes of the area under the curve; `None` when each class or its complement is absent.
    pub fn area(&self) -> Option<f64> {
        let mut areas = Vec::new();
        for class in self.counts.chunks_exact(self.bins) {
            // Bins ascend: a member beats every other row below it and half of those in its bin.
            let (mut below, mut wins, mut members) = (0u64, 0.0, 0u64);
            for [member, other] in class {
                wins += *member as f64 * (below as f64 + 0.5 * *other as f64);
                below += other;
                members += member;
            }
            if members > 0 && below > 0 {
                areas.push(wins / (members as f64 * below as f64));
            }
        }
        (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
    }

    /// The sum over all workers, on every worker.
    ///
    /// # Errors
    /// A damaged exchange.
    pub fn exchange(mut self, session: &mut Session<'_>) -> Result<Self, StageError> {
        let mut outgoing = Vec::new();
        for (key, piece) in (0..).zip(self.counts.chunks(PIECE)) {
            let bytes = to_bytes(piece);
            if !bytes.is_empty() {
                outgoing.push(Outgoing { key, bytes });
            }
        }
        self.counts.fill([0; 2]);
        for parcel in pass(session, "ranks", outgoing, Pieces::default(), Audience::Everyone)? {
            let start = (parcel.key as usize).saturating_mul(PIECE).min(self.counts.len());
            add_bytes(&mut self.counts[start..], &parcel.bytes)?;
        }
        Ok(self)
    }
}

fn to_bytes(counts: &[[u64; 2]]) -> Vec<u8> {
    let mut out = Writer::default();
    for (place, [member, other]) in (0..).zip(counts).filter(|(_, count)| **count != [0, 0]) {
        [place, *member, *other].into_iter().for_each(|word| out.u64(word));
    }
    out.0
}

fn add_bytes(counts: &mut [[u64; 2]], bytes: &[u8]) -> Result<(), StageError> {
    let mut from = Reader(bytes);
    while !from.is_empty() {
        let place = from.u64()? as usize;
        let count =
            counts.get_mut(place).ok_or_else(|| StageError::Internal("counts of ranks arrived damaged".into()))?;
        count[0] += from.u64()?;
        count[1] += from.u64()?;
    }
    Ok(())
}

/// Sums pieces.
#[derive(Default)]
struct Pieces(BTreeMap<u64, Vec<[u64; 2]>>);

impl Reducer for Pieces {
    fn absorb(&mut self, key: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        add_bytes(self.0.entry(key).or_insert_with(|| vec![[0; 2]; PIECE]), &bytes)
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let pieces = std::mem::take(&mut self.0);
        Ok(pieces.into_iter().map(|(key, counts)| Outgoing { key, bytes: to_bytes(&counts) }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn area_counts_pairs() {
        let scores = [(0.1, false), (0.4, true), (0.4, false), (0.7, true), (0.9, false), (0.95, true)];
        let mut ranks = Ranks::new(2, Scale::Score);
        scores.iter().for_each(|(score, member)| ranks.count(1, *score, *member));
        assert_eq!(ranks.area(), Some(pairs(&scores)));
        assert_eq!(Ranks::new(2, Scale::Score).area(), None);
        assert_eq!(Ranks::new(33, Scale::Score).area(), None);
        // A class without members has no area; the mean is over the others.
        let mut three = Ranks::new(3, Scale::Score);
        scores.iter().for_each(|(score, member)| three.count(2, *score, *member));
        three.count(0, 0.5, false);
        assert_eq!(three.area(), Some(pairs(&scores)));
    }

    #[test]
    fn small_probabilities_are_told_apart() {
        // Probabilities around 1e-6, half of whose order says something.
        let scores: Vec<(f64, bool)> =
            (0..400).map(|i| (-14.0 + 0.01 * f64::from(i * 37 % 400), i * 37 % 400 > 200 || i % 5 == 0)).collect();
        let mut ranks = Ranks::new(2, Scale::LogOdds);
        scores.iter().for_each(|(score, member)| ranks.count(1, *score, *member));
        assert!((ranks.area().unwrap() - pairs(&scores)).abs() < 1e-12);
    }

    #[test]
    fn memory_is_bounded_for_any_number_of_classes() {
        for classes in 0..100 {
            assert!(Ranks::new(classes, Scale::Score).counts.len() <= CELLS);
        }
        let mut ranks = Ranks::new(32, Scale::LogOdds);
        ranks.count(31, f64::INFINITY, true);
        ranks.count(0, -1e300, false);
        let mut copy = vec![[0; 2]; ranks.counts.len()];
        add_bytes(&mut copy, &to_bytes(&ranks.counts)).unwrap();
        assert_eq!(copy, ranks.counts);
        assert!(add_bytes(&mut copy[..5], &to_bytes(&ranks.counts)).is_err());
    }
}
