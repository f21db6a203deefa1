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

    /// Forgets all pages of records `through` and before.
    pub(super) fn forget(&mut self, through: u64) {
        self.0 = self.0.split_off(&((through + 1) / PAGE));
    }

    /// Rows that are there.
    pub(super) fn count(&self) -> u64 {
        self.0.values().flat_map(|page| page.iter()).map(|word| u64::from(word.count_ones())).sum()
    }
}
