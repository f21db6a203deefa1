//! Which records are rows that are there: a bit each.

use std::collections::BTreeMap;

/// Bits of one page.
const PAGE: u64 = 1 << 16;

/// Bits by record number, in pages that exist where one was ever set.
#[derive(Default)]
pub(super) struct Live(BTreeMap<u64, Box<[u64]>>);

impl Live {
    /// Whether record `number` is a row that is there.
    pub(super) fn get(&self, number: u64) -> bool {
        let bit = number % PAGE;
        self.0.get(&(number / PAGE)).is_some_and(|page| page[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
    }

    /// Marks record `number`.
    pub(super) fn set(&mut self, number: u64, live: bool) {
        let (bit, page) = (number % PAGE, number / PAGE);
        let word = (bit / 64) as usize;
        if live {
            let page = self.0.entry(page).or_insert_with(|| vec![0; (PAGE / 64) as usize].into());
            page[word] |= 1 << (bit % 64);
        } else if let Some(page) = self.0.get_mut(&page) {
            page[word] &= !(1 << (bit % 64));
        }
    }

    /// Whether any of records `first` to `last` is a row that is there.
    pub(super) fn any(&self, first: u64, last: u64) -> bool {
        let pages = self.0.range(first / PAGE..=last / PAGE);
        pages.into_iter().any(|(page, words)| {
            let begin = page * PAGE;
            words.iter().enumerate().any(|(at, word)| {
                let from = begin + 64 * at as u64;
                // Bits of the word within the range.
                let (low, high) = (first.max(from), last.min(from + 63));
                low <= high && word >> (low - from) << (63 - (high - low)) != 0
            })
        })
    }

    /// Forgets all pages of records `through` and before.
    pub(super) fn forget(&mut self, through: u64) {
        self.0 = self.0.split_off(&((through + 1) / PAGE));
    }

    /// Rows that are there.
    pub(super) fn count(&self) -> u64 {
        self.0.values().flat_map(|page| page.iter()).map(|word| u64::from(word.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_looked_through(set in prop::collection::vec(0..3 * PAGE, 0..6), first in 0..3 * PAGE, length in 0..2 * PAGE) {
            let mut live = Live::default();
            set.iter().for_each(|number| live.set(*number, true));
            for length in [length, length % 130, 0] {
                let last = first + length;
                prop_assert_eq!(live.any(first, last), set.iter().any(|number| (first..=last).contains(number)));
            }
        }
    }
}
