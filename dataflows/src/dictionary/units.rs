//! How the trie over a pool is cut: into cells that are counted, units that one worker computes, windows that are in hand at once.
//!
//! A *cell* is a prefix of H of a fixed number of bits. A *unit* is a leaf of the trie, or the subtree under a cell where cells hold more
//! than a leaf. A *window* is a run of units in the order of their prefixes whose rows fit the memory at hand. Counts of the cells fix the
//! units; which window a unit falls into, and who computes it, shapes nothing.

use nystream_kernels::sampling::{Prefix, TrieShape};
use std::collections::BTreeSet;
use std::ops::Range;

/// Bits beyond the expected depth of the leaves: a leaf is then a run of cells, but for one in 10^19.
const FINER_BITS: u32 = 3;
/// Cells that are always affordable, as a power of two.
const CHEAP_BITS: u32 = 12;
/// Cells at most, as a power of two.
const MOST_BITS: u32 = 20;
/// Cells of a window, at least: windows are filled to within this fraction.
const WINDOW_CELLS: f64 = 16.0;

/// Bits of a cell, for about `expected` rows, leaves of at most `capacity` and windows of at most `window` rows.
pub fn cell_bits(expected: u64, capacity: usize, window: u64) -> u32 {
    let bits = |ratio: f64| ratio.max(1.0).log2().ceil() as u32;
    let leaves = bits(expected as f64 / capacity.max(1) as f64) + FINER_BITS;
    let windows = bits(WINDOW_CELLS * expected as f64 / window.max(1) as f64);
    leaves.min(windows.max(CHEAP_BITS)).min(MOST_BITS)
}

/// The cell of `hash`.
pub fn cell(hash: u128, bits: u32) -> usize {
    if bits == 0 { 0 } else { (hash >> (128 - bits)) as usize }
}

/// A part of the trie that one worker computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its node.
    pub prefix: Prefix,
    /// Its cells.
    pub cells: Range<usize>,
    /// Its rows.
    pub rows: u64,
}

/// The cells under `prefix`.
pub fn cells(prefix: Prefix, bits: u32) -> Range<usize> {
    let first = cell(prefix.bits(), bits);
    first..first + (1 << (bits - prefix.depth()))
}

/// The units over the `counts` of all 2^`bits` cells, left to right.
pub fn units(shape: &TrieShape, counts: &[u64], bits: u32) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut stack = vec![Prefix::ROOT];
    while let Some(prefix) = stack.pop() {
        let cells = cells(prefix, bits);
        let rows = counts[cells.clone()].iter().sum();
        if prefix.depth() < bits && shape.splits(prefix, rows) {
            stack.push(prefix.child(true));
            stack.push(prefix.child(false));
        } else {
            units.push(Unit { prefix, cells, rows });
        }
    }
    units
}

/// The units from `first` on that fit a window of `most` rows: at least one.
pub fn window(units: &[Unit], first: usize, most: u64) -> Range<usize> {
    let mut rows = 0;
    let fits = |unit: &&Unit| {
        rows += unit.rows;
        rows <= most
    };
    let count = units[first..].iter().take_while(fits).count();
    first..(first + count.max(1)).min(units.len())
}

/// The nodes whose dictionaries exist and wait for their siblings: known to all workers alike.
#[derive(Default)]
pub struct Front {
    nodes: BTreeSet<Prefix>,
}

impl Front {
    /// Adds the computed node `prefix`.
    pub fn add(&mut self, prefix: Prefix) {
        self.nodes.insert(prefix);
    }

    /// Depth of the deepest node.
    pub fn depth(&self) -> u32 {
        self.nodes.iter().map(Prefix::depth).max().unwrap_or(0)
    }

    /// Takes the nodes of `level` whose parents hold no row at or beyond cell `done` and replaces them by these parents; gives the parents in order.
    pub fn climb(&mut self, level: u32, done: usize, bits: u32) -> Vec<Prefix> {
        let parent = |prefix: &Prefix| prefix.parent().filter(|p| cells(*p, bits).end <= done);
        let ready: Vec<(Prefix, Prefix)> = self
            .nodes
            .iter()
            .filter(|prefix| prefix.depth() == level)
            .filter_map(|prefix| parent(prefix).map(|parent| (*prefix, parent)))
            .collect();
        let mut parents: Vec<Prefix> = Vec::new();
        for (prefix, parent) in ready {
            self.nodes.remove(&prefix);
            self.nodes.insert(parent);
            if parents.last() != Some(&parent) {
                parents.push(parent);
            }
        }
        parents
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nystream_hashing::StreamKey;

    #[test]
    fn cells_are_as_fine_as_leaves_and_windows_need() {
        assert_eq!(cell_bits(1000, 1000, 1000), 3);
        assert_eq!(cell_bits(64_000, 1000, 64_000), 9);
        // A million leaves: 4,096 cells do, each a subtree, unless windows are smaller.
        assert_eq!(cell_bits(1 << 30, 1 << 10, 1 << 30), 12);
        assert_eq!(cell_bits(1 << 30, 1 << 10, 1 << 20), 14);
        assert_eq!(cell_bits(u64::MAX, 1, 1), 20);
    }

    #[test]
    fn units_are_the_leaves_or_the_cells_above_them() {
        let shape = TrieShape { hash: StreamKey::new(0, "order", 0), capacity: 4 };
        let names = |counts: &[u64], bits| -> Vec<String> {
            units(&shape, counts, bits).iter().map(|u| format!("{}:{}:{:?}", u.prefix, u.rows, u.cells)).collect()
        };
        assert_eq!(names(&[1, 1, 1, 1], 2), [":4:0..4"]);
        assert_eq!(names(&[1, 1, 9, 0], 2), ["0:2:0..2", "10:9:2..3", "11:0:3..4"]);
        let units = units(&shape, &[1, 1, 9, 0], 2);
        assert_eq!([window(&units, 0, 100), window(&units, 0, 2), window(&units, 0, 1)], [0..3, 0..1, 0..1]);
        assert_eq!([window(&units, 1, 9), window(&units, 2, 0)], [1..3, 2..3]);
    }

    #[test]
    fn nodes_climb_once_their_parents_are_whole() {
        let node = |name: &str| name.chars().fold(Prefix::ROOT, |p, c| p.child(c == '1'));
        let mut front = Front::default();
        ["00", "01", "10"].into_iter().for_each(|name| front.add(node(name)));
        assert_eq!(front.depth(), 2);
        // Cells up to 6 of 8 are done: under 1, the cells of 11 are not.
        assert_eq!(front.climb(2, 6, 3), [node("0")]);
        assert_eq!(front.climb(1, 6, 3), []);
        front.add(node("11"));
        assert_eq!(front.climb(2, 8, 3), [node("1")]);
        assert_eq!(front.climb(1, 8, 3), [Prefix::ROOT]);
        assert_eq!(front.depth(), 0);
    }
}
