//! Exact counts of the levels of one column, in bounded memory.
//!
//! A level is kept whole, once. A column of more than [`MAX_LEVELS`] levels, or with more than [`MAX_LEVEL_BYTES`] of text in them all, is given up,
//! and what was kept is dropped. Both are properties of the set of levels: a set that is too large stays so with whatever is added,
//! so the same rows give the same result in any order, however they are shared out and merged.

use crate::{DataError, TextColumn};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Distinct levels that are counted exactly; one more and the column is refused.
pub const MAX_LEVELS: usize = 65_536;
/// Bytes of text in all levels of a column together; one more and the column is refused.
pub const MAX_LEVEL_BYTES: u64 = 16 << 20;
/// Bytes of a level beside its text: its place in a table that may be about to double, and what the heap adds.
const LEVEL_BYTES: u64 = 80;
/// Characters of a value that messages show.
const SHOWN: usize = 60;

/// Exact counts of the levels of one column.
///
/// ```
/// use arrow_array::StringArray;
/// use nystream_datasets::{LevelCounter, TextColumn};
/// let mut counter = LevelCounter::default();
/// let array = StringArray::from(vec!["b", "a", "b"]);
/// counter.add(&TextColumn::new("c", &array)?, |_| true);
/// assert_eq!(counter.finish("c")?, [("b".to_string(), 2), ("a".to_string(), 1)]);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LevelCounter {
    counts: HashMap<Box<str>, u64>,
    /// Bytes of text in `counts`.
    text: u64,
    overflow: bool,
}

impl LevelCounter {
    /// Counts the rows of `column` for which `keep` holds; nulls are not levels here.
    pub fn add(&mut self, column: &TextColumn<'_>, keep: impl Fn(usize) -> bool) {
        if self.overflow {
            return;
        }
        let mut tally = vec![0u64; column.levels().len()];
        for i in 0..column.len() {
            if let Some(key) = column.key(i)
                && keep(i)
            {
                tally[key] += 1;
            }
        }
        for (level, count) in column.levels().iter().zip(tally) {
            if count > 0 {
                self.count(level, count);
            }
        }
    }

    /// Counts `count` more rows of `level`.
    pub fn count(&mut self, level: &str, count: u64) {
        if self.overflow {
            return;
        }
        if let Some(total) = self.counts.get_mut(level) {
            *total += count;
            return;
        }
        let text = self.text.saturating_add(level.len() as u64);
        // Looked at before the level is copied: no single value is ever kept that is longer than all may be.
        if self.counts.len() == MAX_LEVELS || text > MAX_LEVEL_BYTES {
            self.give_up();
            return;
        }
        self.text = text;
        self.counts.insert(level.into(), count);
    }

    /// Nothing is known any more, and nothing need be kept.
    fn give_up(&mut self) {
        *self = LevelCounter { overflow: true, ..LevelCounter::default() };
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: LevelCounter) {
        if other.overflow {
            self.give_up();
        }
        for (level, count) in other.counts {
            self.count(&level, count);
        }
    }

    /// Whether more than [`MAX_LEVELS`] or [`MAX_LEVEL_BYTES`] were seen.
    pub fn overflowed(&self) -> bool {
        self.overflow
    }

    /// Bytes that the levels take, at most.
    pub fn memory(&self) -> u64 {
        self.text + LEVEL_BYTES * self.counts.len() as u64
    }

    /// The levels by count descending, then bytewise.
    ///
    /// # Errors
    /// [`DataError::TooManyLevels`] naming `column`.
    pub fn finish(self, column: &str) -> Result<Vec<(String, u64)>, DataError> {
        if self.overflow {
            return Err(DataError::TooManyLevels { column: column.into(), limit: MAX_LEVELS, bytes: MAX_LEVEL_BYTES });
        }
        let mut levels: Vec<(String, u64)> =
            self.counts.into_iter().map(|(level, count)| (String::from(level), count)).collect();
        levels.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(levels)
    }
}

/// A value as messages show it: its beginning, where it is long.
///
/// ```
/// use nystream_datasets::shown;
/// assert_eq!(shown("north"), "north");
/// assert_eq!(shown(&"x".repeat(100_000)).chars().count(), 63);
/// ```
pub fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &value[..end]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::StringArray;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn counted(levels: &[(String, u64)]) -> LevelCounter {
        let mut counter = LevelCounter::default();
        levels.iter().for_each(|(level, count)| counter.count(level, *count));
        counter
    }

    #[test]
    fn counters_merge_in_any_order() {
        let part = |part: u64| {
            let levels: Vec<_> = (0..40).map(|i| (format!("l{}", (i * part) % 7), i)).collect();
            counted(&levels)
        };
        let total = |order: &[u64]| {
            let mut sum = LevelCounter::default();
            order.iter().for_each(|i| sum.merge(part(*i)));
            sum
        };
        assert_eq!(total(&[0, 1, 2, 3, 4]), total(&[4, 2, 0, 3, 1]));
        assert_eq!(total(&[0, 1, 2, 3, 4]).finish("c").unwrap(), total(&[3, 4, 1, 2, 0]).finish("c").unwrap());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Levels of up to 3 MiB each, so that some sets are too large and some are not.
        #[test]
        fn what_is_given_up_is_a_property_of_the_set(lengths in vec(0u64..3 << 20, 1..16), cut in 0usize..16, turn in 0usize..16) {
            let level = |(i, length): (u64, &u64)| (format!("{i:02}{}", "x".repeat(*length as usize)), i + 1);
            let levels: Vec<(String, u64)> = (0..).zip(&lengths).map(level).collect();
            let (cut, turn) = (cut % levels.len(), turn % levels.len());
            let whole = counted(&levels);
            let mut turned = levels.clone();
            turned.rotate_left(turn);
            prop_assert_eq!(&counted(&turned), &whole);
            let (mut left, mut right) = (counted(&levels[..cut]), counted(&levels[cut..]));
            let (first, second) = (left.clone(), right.clone());
            left.merge(second);
            right.merge(first);
            prop_assert_eq!(&left, &whole);
            prop_assert_eq!(&right, &whole);
            let text: u64 = levels.iter().map(|(level, _)| level.len() as u64).sum();
            prop_assert_eq!(whole.overflowed(), text > MAX_LEVEL_BYTES);
        }
    }

    #[test]
    fn one_level_too_many_is_refused_by_name() {
        let mut counter = LevelCounter::default();
        for i in 0..MAX_LEVELS {
            counter.count(&i.to_string(), 1);
        }
        assert_eq!(counter.clone().finish("zip").unwrap().len(), MAX_LEVELS);
        counter.count("0", 1);
        assert!(!counter.overflowed());
        counter.count("one more", 1);
        assert_eq!(counter.memory(), 0);
        let mut other = LevelCounter::default();
        other.merge(counter.clone());
        assert!(other.overflowed());
        let error = counter.finish("zip").unwrap_err().to_string();
        assert!(error.contains("'zip'") && error.contains("65536"), "{error}");
    }

    #[test]
    fn one_byte_too_many_is_refused_by_name() {
        let long = "x".repeat(MAX_LEVEL_BYTES as usize);
        let mut counter = LevelCounter::default();
        counter.count(&long, 1);
        counter.count("", 1);
        counter.count(&long, 1);
        assert!(!counter.overflowed() && counter.memory() >= MAX_LEVEL_BYTES);
        counter.count("y", 1);
        let error = counter.finish("note").unwrap_err().to_string();
        assert!(error.contains("'note'") && error.contains("16 MiB") && error.contains("--drop 'note'"), "{error}");
    }

    #[test]
    fn rows_that_do_not_count_are_not_copied() {
        let array = StringArray::from(vec![Some("x".repeat(2 * MAX_LEVEL_BYTES as usize).as_str()), Some("a"), None]);
        let mut counter = LevelCounter::default();
        counter.add(&TextColumn::new("c", &array).unwrap(), |i| i > 0);
        assert_eq!((counter.text, counter.finish("c").unwrap()), (1, vec![("a".to_string(), 1)]));
    }

    #[test]
    fn long_values_are_shown_by_their_beginning() {
        let accents = "\u{e9}".repeat(SHOWN + 1);
        assert_eq!(shown(&accents), format!("{}...", "\u{e9}".repeat(SHOWN)));
        assert_eq!(shown(&"a".repeat(SHOWN)), "a".repeat(SHOWN));
    }
}
