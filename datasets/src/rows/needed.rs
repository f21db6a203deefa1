//! Which records the changes after a snapshot take away: a replay of these changes reads them.
//!
//! What is asked is the oldest record that any change after some other one names. Records are taken together in pages, and of changes that name one page the last counts alone, as does of two changes the later one where
//! it names an older page: so there is an entry a page at most, in the order of changes and of pages alike.

use std::collections::VecDeque;

/// Records of a page.
const PAGE: u64 = 256;

/// What changes take away.
#[derive(Debug, Default)]
pub(super) struct Needed(VecDeque<(u64, u64)>);

impl Needed {
    /// Record `number`, which comes after all before, takes away the row of record `old`.
    pub(super) fn add(&mut self, number: u64, old: u64) {
        let page = old / PAGE;
        while self.0.back().is_some_and(|(_, before)| *before >= page) {
            self.0.pop_back();
        }
        self.0.push_back((number, page));
    }

    /// A record below which no change after `held` takes anything away; changes up to that one are forgotten.
    pub(super) fn oldest(&mut self, held: u64) -> u64 {
        while self.0.front().is_some_and(|(number, _)| *number <= held) {
            self.0.pop_front();
        }
        self.0.front().map_or(u64::MAX, |(_, page)| page * PAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_that_is_needed_lies_below(olds in prop::collection::vec(0..5000u64, 1..300), held in prop::collection::vec(0..300u64, 1..4)) {
            let mut needed = Needed::default();
            for (number, old) in olds.iter().enumerate() {
                needed.add(number as u64, *old);
            }
            prop_assert!(needed.0.len() as u64 <= 5000 / PAGE + 1);
            let mut held = held;
            held.sort_unstable();
            for held in held {
                let plain = olds.iter().skip(held as usize + 1).min().map_or(u64::MAX, |old| old / PAGE * PAGE);
                prop_assert_eq!(needed.oldest(held), plain);
            }
        }
    }
}
