//! Exact sums of the row weights of each class.

use crate::error::StageError;
use nystream_datasets::{MAX_LEVEL_BYTES, TextColumn};
use nystream_kernels::exact_sum::ExactSum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes of a label's sum and its place, beside its text.
const SUM_BYTES: u64 = std::mem::size_of::<ExactSum>() as u64 + 96;

/// Sums by label while there are at most `limit` labels of at most [`MAX_LEVEL_BYTES`] of text; beyond that nothing is known, and nothing kept.
///
/// The same for any order of rows and merges: labels only ever grow in number.
#[derive(Clone, Debug, Default)]
pub(super) struct ClassSums {
    limit: usize,
    overflow: bool,
    /// Bytes of text in the labels.
    text: u64,
    sums: BTreeMap<String, ExactSum>,
}

/// [`ClassSums`] on the wire.
#[derive(Serialize, Deserialize)]
pub(super) struct ClassWire {
    limit: usize,
    overflow: bool,
    sums: Vec<(String, Vec<u8>)>,
}

impl ClassSums {
    pub(super) fn new(limit: usize) -> Self {
        ClassSums { limit, ..Default::default() }
    }

    /// Whether sums are wanted at all.
    pub(super) fn wanted(&self) -> bool {
        self.limit > 0 && !self.overflow
    }

    /// Adds `weight(i)` to the sum of row i's label, for all rows that have both.
    pub(super) fn add(&mut self, labels: &TextColumn<'_>, weight: impl Fn(usize) -> Option<f64>) {
        let mut batch: BTreeMap<usize, ExactSum> = BTreeMap::new();
        for i in 0..labels.len() {
            if let (Some(key), Some(weight)) = (labels.key(i), weight(i)) {
                batch.entry(key).or_default().add(weight);
            }
        }
        for (key, sum) in batch {
            self.merge_label(&labels.levels()[key], &sum);
        }
    }

    fn merge_label(&mut self, label: &str, sum: &ExactSum) {
        if self.overflow {
            return;
        }
        if let Some(known) = self.sums.get_mut(label) {
            known.merge(sum);
            return;
        }
        let text = self.text + label.len() as u64;
        if self.sums.len() == self.limit || text > MAX_LEVEL_BYTES {
            self.give_up();
            return;
        }
        self.text = text;
        self.sums.entry(label.to_owned()).or_default().merge(sum);
    }

    fn give_up(&mut self) {
        *self = ClassSums { limit: self.limit, overflow: true, ..Default::default() };
    }

    /// Bytes that the sums take, at most.
    pub(super) fn memory(&self) -> u64 {
        self.text + SUM_BYTES * self.sums.len() as u64
    }

    pub(super) fn merge(&mut self, other: ClassSums) {
        if other.overflow {
            self.give_up();
        }
        for (label, sum) in other.sums {
            self.merge_label(&label, &sum);
        }
    }

    /// The sums, rounded once, by label.
    pub(super) fn finish(self) -> Vec<(String, f64)> {
        self.sums.into_iter().map(|(label, sum)| (label, sum.round())).collect()
    }

    pub(super) fn to_wire(&self) -> ClassWire {
        let sums = self.sums.iter().map(|(label, sum)| (label.clone(), sum.to_bytes())).collect();
        ClassWire { limit: self.limit, overflow: self.overflow, sums }
    }

    pub(super) fn from_wire(wire: ClassWire) -> Result<Self, StageError> {
        let damaged = |e| StageError::Internal(format!("sums of classes arrived damaged: {e}"));
        let sum = |(label, bytes): (String, Vec<u8>)| ExactSum::from_bytes(&bytes).map(|sum| (label, sum));
        let sums: BTreeMap<_, _> = wire.sums.into_iter().map(sum).collect::<Result<_, _>>().map_err(damaged)?;
        let text = sums.keys().map(|label| label.len() as u64).sum();
        Ok(ClassSums { limit: wire.limit, overflow: wire.overflow, text, sums })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::StringArray;

    #[test]
    fn sums_are_exact_in_any_order_and_given_up_beyond_the_limit() {
        let array = StringArray::from(vec![Some("b"), Some("a"), None, Some("b"), Some("c")]);
        let labels = TextColumn::new("y", &array).unwrap();
        let weights = [1e16, 0.1, 5.0, 1.0, 2.0];
        let part = |rows: std::ops::Range<usize>, limit: usize| {
            let mut sums = ClassSums::new(limit);
            sums.add(&labels, |i| rows.contains(&i).then(|| weights[i]));
            ClassSums::from_wire(sums.to_wire()).unwrap()
        };
        let merged = |limit: usize, order: [std::ops::Range<usize>; 3]| {
            let mut total = ClassSums::new(limit);
            order.into_iter().for_each(|rows| total.merge(part(rows, limit)));
            (total.wanted(), total.finish())
        };
        let all = vec![("a".to_string(), 0.1), ("b".to_string(), 1e16), ("c".to_string(), 2.0)];
        assert_eq!(merged(3, [0..2, 2..4, 4..5]), (true, all.clone()));
        assert_eq!(merged(3, [4..5, 2..4, 0..2]), (true, all));
        assert_eq!(merged(2, [0..2, 2..4, 4..5]), (false, Vec::new()));
        assert_eq!(merged(2, [4..5, 2..4, 0..2]), (false, Vec::new()));
        assert!(!ClassSums::new(0).wanted());
    }
}
