//! What the profile pass finds out about each column, and an order-free hash of a column's content.
//!
//! Moments are accumulated elsewhere, in exact sums, and levels in a [`LevelCounter`](crate::LevelCounter); here are the plain results.

use crate::{ColumnInfo, ColumnKind};
use nystream_hashing::RowId;
use serde::{Deserialize, Serialize};

/// Levels of a categorical feature that keep a code of their own.
pub const KEPT_LEVELS: usize = 1024;
/// Rows a level needs to keep a code of its own.
pub const MIN_LEVEL_ROWS: u64 = 20;

/// One column over the training rows. Numbers are those of [`crate::NumericColumn`] (seconds for instants and days).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnSummary {
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: ColumnKind,
    /// Whether the type holds integers only.
    pub integer: bool,
    /// Rows that are not null.
    pub count: u64,
    /// Rows that are null.
    pub nulls: u64,
    /// Rows that are bad for a value of this column, and count nowhere else here.
    pub bad: u64,
    /// Mean of the values; 0 without numbers.
    pub mean: f64,
    /// Standard deviation, ddof 0.
    pub sd: f64,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
    /// Quantiles of the hashed sample at probabilities `i / (len - 1)`, ascending; may be empty.
    pub quantiles: Vec<f64>,
    /// Exact level counts, by count descending, then bytewise; `None` when they were not asked for, or were too many for an optional count.
    pub levels: Option<Vec<(String, u64)>>,
    /// Further levels that were counted and are not in `levels`: too rare for a code of their own.
    pub unlisted: u64,
    /// [`ContentHash`] of all rows, nulls included; 0 when not computed, which equals nothing.
    pub fingerprint: u128,
    /// The least value that a time split by this column holds out: every training row lies below it, or is null.
    pub cut: Option<f64>,
}

impl ColumnSummary {
    /// A summary of no rows.
    pub fn empty(info: &ColumnInfo) -> Self {
        ColumnSummary {
            name: info.name.clone(),
            kind: info.kind,
            integer: info.integer,
            count: 0,
            nulls: 0,
            bad: 0,
            mean: 0.0,
            sd: 0.0,
            min: 0.0,
            max: 0.0,
            quantiles: Vec::new(),
            levels: None,
            unlisted: 0,
            fingerprint: 0,
            cut: None,
        }
    }

    /// The sample quantile at probability `p` (clamped to [0, 1]) in the units of the column, linear between table entries; `None` without a table.
    ///
    /// ```
    /// use nystream_datasets::{ColumnInfo, ColumnKind, ColumnSummary};
    /// let info = ColumnInfo { name: "x".into(), kind: ColumnKind::Numeric, integer: false, data_type: "Float64".into() };
    /// let empty = ColumnSummary::empty(&info);
    /// assert_eq!(empty.quantile(0.5), None);
    /// // Least, median and greatest value.
    /// let summary = ColumnSummary { quantiles: vec![0.0, 1.0, 5.0], ..empty };
    /// assert_eq!([0.25, 0.5, 0.75].map(|p| summary.quantile(p)), [Some(0.5), Some(1.0), Some(3.0)]);
    /// ```
    pub fn quantile(&self, p: f64) -> Option<f64> {
        let last = self.quantiles.len().checked_sub(1)?;
        let position = p.clamp(0.0, 1.0) * last as f64;
        let low = position.floor() as usize;
        let high = (low + 1).min(last);
        let share = position - low as f64;
        // Two products instead of a difference: no overflow between values of opposite sign.
        Some(self.quantiles[low] * (1.0 - share) + self.quantiles[high] * share)
    }
}

/// An order-free 128-bit hash of the content of a column: the wrapping sum over rows of a mix of (row id, value).
///
/// Two columns with equal values in every row have equal hashes; columns that differ anywhere have, but for an accident of
/// about 2^-64, different ones. It is used to find duplicate columns, never against an adversary.
///
/// ```
/// use nystream_datasets::ContentHash;
/// use nystream_hashing::RowId;
/// let (mut a, mut b) = (ContentHash::default(), ContentHash::default());
/// a.number(RowId(1), Some(0.5));
/// a.number(RowId(2), None);
/// b.number(RowId(2), None);
/// b.number(RowId(1), Some(0.5));
/// assert_eq!(a, b);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentHash(pub u128);

impl ContentHash {
    /// Adds a number; 0.0 and -0.0 count as equal.
    #[inline]
    pub fn number(&mut self, row: RowId, value: Option<f64>) {
        self.bits(row, value.map_or(NULL_BITS, |value| (value + 0.0).to_bits()));
    }

    /// Adds the level with [`ContentHash::text_bits`] `bits`, or null.
    #[inline]
    pub fn level(&mut self, row: RowId, bits: Option<u64>) {
        self.bits(row, bits.unwrap_or(NULL_BITS));
    }

    /// 64 bits of a text, to be computed once a level (FNV-1a).
    pub fn text_bits(text: &str) -> u64 {
        text.bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }

    #[inline]
    fn bits(&mut self, row: RowId, bits: u64) {
        // A 64 x 64 -> 128 bit product of row-dependent factors: row ids are already uniform bits.
        let a = (row.0 as u64) ^ bits.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let b = ((row.0 >> 64) as u64) ^ bits.rotate_left(32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        self.0 = self.0.wrapping_add(u128::from(a) * u128::from(b));
    }

    /// Adds the rows of `other`.
    pub fn merge(&mut self, other: ContentHash) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

/// Stands for null: a NaN payload no arithmetic makes.
const NULL_BITS: u64 = 0xFFF7_6E75_6C6C_0001;

#[cfg(test)]
mod tests {
    use super::*;
    use nystream_hashing::FileId;

    #[test]
    fn content_hash_sees_every_change() {
        let file = FileId::from_relative_path("a");
        let hash = |change: Option<(u64, Option<f64>)>| {
            let mut hash = ContentHash::default();
            for i in 0..1000 {
                let value = match change {
                    Some((row, value)) if row == i => value,
                    _ => Some((i % 3) as f64),
                };
                hash.number(file.row(i), value);
            }
            hash
        };
        let base = hash(None);
        assert_eq!(base, hash(None));
        assert_ne!(base, hash(Some((500, Some(7.0)))));
        assert_ne!(base, hash(Some((500, None))));
        assert_eq!(hash(Some((3, Some(0.0)))), hash(Some((3, Some(-0.0)))));
        // A swap of two rows' values is a change.
        let mut swapped = ContentHash::default();
        (0..1000u64).for_each(|i| swapped.number(file.row(i), Some(((i ^ 1) % 3) as f64)));
        assert_ne!(base, swapped);
    }

    #[test]
    fn quantiles_interpolate() {
        let info =
            ColumnInfo { name: "a".into(), kind: ColumnKind::Numeric, integer: false, data_type: "Float64".into() };
        let mut summary = ColumnSummary::empty(&info);
        assert_eq!(summary.quantile(0.5), None);
        summary.quantiles = vec![0.0, 10.0, 40.0];
        assert_eq!(summary.quantile(0.25), Some(5.0));
        assert_eq!(summary.quantile(1.0), Some(40.0));
        assert_eq!(summary.quantile(0.75), Some(25.0));
    }
}
