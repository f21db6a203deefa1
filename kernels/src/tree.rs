//! The fixed binary tree over which floating-point sums of blocks are formed (law 1).
//!
//! The problem: f64 addition is not associative, so a sum over blocks has one answer only if its shape is fixed. Here the
//! shape is a function of the number of blocks alone: node `(level, index)` is the sum of the leaves
//! `index 2^level .. (index + 1) 2^level` that exist, left child + right child, elementwise. A node whose right sibling lies
//! wholly beyond the last block is its own parent, unchanged. Which worker summed which run of blocks, and
//! in which order the nodes arrive, changes nothing.
//!
//! * A worker inserts its blocks as leaves; complete siblings are added and promoted at once. A contiguous run of b blocks
//!   leaves at most 2 log2(b) + 2 pending nodes ([`SumTree::into_nodes`]) to send to the owner of the sum, who inserts them into a tree of the same size.
//! * Empty blocks (no rows) are identities: the sibling is promoted unchanged, not added to zero.
//! * A long vector may be cut into segments, each with a tree of its own on its owner: elementwise sums give the same bits.
//!
//! Cost: one vector addition per pair of non-empty siblings; O(log n) map operations per insertion.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// A pending node: the sum over a complete, aligned run of blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Height above the leaves.
    pub level: u32,
    /// Position within the level.
    pub index: u64,
    /// The sum, or `None` when all its blocks are empty.
    pub values: Option<Vec<f64>>,
}

/// What inserting into or finishing a [`SumTree`] can report.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum TreeError {
    /// The node is not in a tree of this size.
    #[error("node ({level}, {index}) is not in a tree of {total} blocks")]
    OutOfRange {
        /// Level of the node.
        level: u32,
        /// Index of the node.
        index: u64,
        /// Blocks of the tree.
        total: u64,
    },
    /// Some block of the node was inserted before.
    #[error("node ({level}, {index}) holds a block that was already inserted")]
    Duplicate {
        /// Level of the node.
        level: u32,
        /// Index of the node.
        index: u64,
    },
    /// Vectors of one tree have one length.
    #[error("node ({level}, {index}) has {found} values, the tree has vectors of {expected}")]
    Length {
        /// Level of the node.
        level: u32,
        /// Index of the node.
        index: u64,
        /// Length of the earlier vectors.
        expected: usize,
        /// Length of this one.
        found: usize,
    },
    /// The sum was asked for before all blocks were in.
    #[error("{missing} of {total} blocks are missing from the sum")]
    Missing {
        /// Blocks not inserted.
        missing: u64,
        /// Blocks of the tree.
        total: u64,
    },
}

/// A sum of vectors over a fixed number of blocks, in the one shape.
///
/// ```
/// use nystream_kernels::tree::SumTree;
/// let (mut a, mut b) = (SumTree::new(3), SumTree::new(3));
/// a.insert(0, 2, vec![1.0]).unwrap(); // one worker has block 2
/// b.insert(0, 1, vec![1e16]).unwrap(); // another has blocks 0 and 1
/// b.insert(0, 0, vec![1.0]).unwrap();
/// for node in b.into_nodes() {
///     a.insert_node(node).unwrap();
/// }
/// assert_eq!(a.finish().unwrap(), [(1.0 + 1e16) + 1.0]);
/// ```
#[derive(Clone, Debug)]
pub struct SumTree {
    total: u64,
    length: Option<usize>,
    pending: BTreeMap<(u32, u64), Option<Vec<f64>>>,
}

impl SumTree {
    /// A tree over blocks `0..total_blocks` with nothing in it.
    pub fn new(total_blocks: u64) -> Self {
        SumTree { total: total_blocks, length: None, pending: BTreeMap::new() }
    }

    /// Number of blocks.
    pub fn total_blocks(&self) -> u64 {
        self.total
    }

    /// Adds the sum of node `(level, index)`; level 0 is a block.
    ///
    /// # Errors
    /// [`TreeError::OutOfRange`], [`TreeError::Duplicate`], [`TreeError::Length`]; the tree is then unchanged.
    pub fn insert(&mut self, level: u32, index: u64, values: Vec<f64>) -> Result<(), TreeError> {
        self.insert_node(Node { level, index, values: Some(values) })
    }

    /// Marks all blocks of node `(level, index)` as empty.
    ///
    /// # Errors
    /// As [`SumTree::insert`].
    pub fn insert_empty(&mut self, level: u32, index: u64) -> Result<(), TreeError> {
        self.insert_node(Node { level, index, values: None })
    }

    /// Marks the blocks `start..end` as empty, in O(log) nodes.
    ///
    /// # Errors
    /// As [`SumTree::insert`].
    pub fn insert_empty_range(&mut self, start: u64, end: u64) -> Result<(), TreeError> {
        let mut at = start;
        while at < end {
            let aligned = if at == 0 { 63 } else { at.trailing_zeros() };
            let level = aligned.min((end - at).ilog2());
            self.insert_empty(level, at >> level)?;
            at += 1 << level;
        }
        Ok(())
    }

    /// Inserts a node of another tree of the same size.
    ///
    /// # Errors
    /// As [`SumTree::insert`].
    pub fn insert_node(&mut self, node: Node) -> Result<(), TreeError> {
        let Node { mut level, mut index, mut values } = node;
        if level > self.root_level() || self.first_block(level, index) >= self.total {
            return Err(TreeError::OutOfRange { level, index, total: self.total });
        }
        if self.overlaps(level, index) {
            return Err(TreeError::Duplicate { level, index });
        }
        if let Some(found) = values.as_ref().map(Vec::len) {
            let expected = *self.length.get_or_insert(found);
            if found != expected {
                return Err(TreeError::Length { level, index, expected, found });
            }
        }
        while level < self.root_level() {
            let sibling = index ^ 1;
            if self.first_block(level, sibling) < self.total {
                let Some(other) = self.pending.remove(&(level, sibling)) else { break };
                values = if index < sibling { join(values, other) } else { join(other, values) };
            }
            (level, index) = (level + 1, index >> 1);
        }
        self.pending.insert((level, index), values);
        Ok(())
    }

    /// The pending nodes in order of (level, index), to be inserted elsewhere.
    pub fn into_nodes(self) -> Vec<Node> {
        self.pending.into_iter().map(|((level, index), values)| Node { level, index, values }).collect()
    }

    /// A copy of them, for a checkpoint of a sum that goes on.
    pub fn nodes(&self) -> Vec<Node> {
        self.clone().into_nodes()
    }

    /// Blocks not inserted yet.
    pub fn missing(&self) -> u64 {
        let held = |(level, index): &(u32, u64)| {
            let end = u128::from(*index + 1) << level;
            u64::try_from(end).unwrap_or(u64::MAX).min(self.total) - self.first_block(*level, *index)
        };
        self.total - self.pending.keys().map(held).sum::<u64>()
    }

    /// The sum over all blocks; no values when every block was empty.
    ///
    /// # Errors
    /// [`TreeError::Missing`] with the number of missing blocks.
    pub fn finish(mut self) -> Result<Vec<f64>, TreeError> {
        let missing = self.missing();
        if missing > 0 {
            return Err(TreeError::Missing { missing, total: self.total });
        }
        Ok(self.pending.pop_first().and_then(|(_, values)| values).unwrap_or_default())
    }

    /// The level at which one node covers all blocks.
    fn root_level(&self) -> u32 {
        if self.total <= 1 { 0 } else { (self.total - 1).ilog2() + 1 }
    }

    /// First block of a node, saturating.
    fn first_block(&self, level: u32, index: u64) -> u64 {
        u64::try_from(u128::from(index) << level.min(64)).unwrap_or(u64::MAX)
    }

    fn overlaps(&self, level: u32, index: u64) -> bool {
        // Shifts of 64 happen in trees of more than 2^63 blocks.
        let ancestor = |l: u32| index.checked_shr(l - level).unwrap_or(0);
        let above = (level..=self.root_level()).any(|l| self.pending.contains_key(&(l, ancestor(l))));
        let below = (0..level).any(|l| {
            let first = self.first_block(level - l, index);
            let last = first.saturating_add(1u64.checked_shl(level - l).unwrap_or(0).wrapping_sub(1));
            self.pending.range((l, first)..=(l, last)).next().is_some()
        });
        above || below
    }
}

fn join(left: Option<Vec<f64>>, right: Option<Vec<f64>>) -> Option<Vec<f64>> {
    match (left, right) {
        (Some(mut left), Some(right)) => {
            for (a, b) in left.iter_mut().zip(&right) {
                *a += b;
            }
            Some(left)
        }
        (left, right) => left.or(right),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nystream_hashing::{RowId, StreamKey};
    use proptest::prelude::*;

    fn leaf(block: u64, length: usize) -> Option<Vec<f64>> {
        let key = StreamKey::new(3, "tree", block);
        (!key.u64(RowId(1 << 90)).is_multiple_of(4)).then(|| {
            (0..length)
                .map(|i| (key.uniform(RowId(i as u128)) - 0.5) * 10f64.powi((key.u64(RowId(i as u128)) % 16) as i32))
                .collect()
        })
    }

    /// The slow, obvious form of the definition: recursion from the root.
    fn reference(level: u32, index: u64, total: u64, length: usize) -> Option<Vec<f64>> {
        if index << level >= total {
            return None;
        }
        if level == 0 {
            return leaf(index, length);
        }
        let (left, right) =
            (reference(level - 1, 2 * index, total, length), reference(level - 1, 2 * index + 1, total, length));
        match (left, right) {
            (Some(a), Some(b)) => Some(a.iter().zip(&b).map(|(a, b)| a + b).collect()),
            (Some(one), None) | (None, Some(one)) => Some(one),
            (None, None) => None,
        }
    }

    fn insert_leaf(tree: &mut SumTree, block: u64, length: usize) {
        match leaf(block, length) {
            Some(values) => tree.insert(0, block, values).unwrap(),
            None => tree.insert_empty(0, block).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn partition_and_arrival_change_no_bit(
            total in 1u64..150,
            cuts in prop::collection::vec(0u64..150, 0..6),
            order in any::<u64>(),
            length in 1usize..5,
        ) {
            let expected = reference(8, 0, total, length).unwrap_or_default();
            let mut edges: Vec<u64> = cuts.iter().map(|c| c % total).chain([0, total]).collect();
            edges.sort_unstable();
            let key = StreamKey::new(order, "arrival", 0);
            let mut nodes = Vec::new();
            for run in edges.windows(2) {
                let mut blocks: Vec<u64> = (run[0]..run[1]).collect();
                blocks.sort_by_key(|&b| key.u64(RowId(u128::from(b))));
                let mut tree = SumTree::new(total);
                blocks.iter().for_each(|&b| insert_leaf(&mut tree, b, length));
                let pending = tree.into_nodes();
                prop_assert!(pending.len() as u32 <= 2 * (run[1] - run[0]).max(1).ilog2() + 2);
                nodes.extend(pending);
            }
            nodes.sort_by_key(|n| key.u64(RowId(1 << 80 | u128::from(n.index) << 8 | u128::from(n.level))));
            let mut owner = SumTree::new(total);
            for node in nodes.iter().cloned() {
                owner.insert_node(node).unwrap();
            }
            for node in nodes {
                let again = owner.insert_node(node);
                prop_assert!(matches!(again, Err(TreeError::Duplicate { .. })), "got {:?}", again);
            }
            let sum = owner.finish().unwrap();
            prop_assert_eq!(sum.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
                expected.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
            // Segments: every coordinate by itself.
            for at in 0..expected.len() {
                let mut tree = SumTree::new(total);
                for block in (0..total).rev() {
                    let values = leaf(block, length).map(|v| vec![v[at]]);
                    tree.insert_node(Node { level: 0, index: block, values }).unwrap();
                }
                prop_assert_eq!(tree.finish().unwrap()[0].to_bits(), expected[at].to_bits());
            }
        }

        #[test]
        fn empty_ranges_equal_empty_blocks(total in 1u64..200, start in 0u64..200, end in 0u64..200) {
            let (start, end) = (start.min(end) % (total + 1), end.max(start).min(total));
            let mut tree = SumTree::new(total);
            tree.insert_empty_range(start, end).unwrap();
            prop_assert_eq!(tree.missing(), total - end.saturating_sub(start));
            for block in (0..total).filter(|b| !(start..end).contains(b)) {
                tree.insert(0, block, vec![1.0]).unwrap();
            }
            let sum = tree.finish().unwrap();
            let count = total - end.saturating_sub(start);
            prop_assert_eq!(sum, if count == 0 { vec![] } else { vec![count as f64] });
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let mut tree = SumTree::new(5);
        tree.insert(1, 1, vec![1.0, 2.0]).unwrap();
        assert_eq!(tree.insert(0, 5, vec![0.0; 2]), Err(TreeError::OutOfRange { level: 0, index: 5, total: 5 }));
        assert_eq!(tree.insert(9, 0, vec![0.0; 2]), Err(TreeError::OutOfRange { level: 9, index: 0, total: 5 }));
        assert_eq!(tree.insert(0, 3, vec![0.0; 2]), Err(TreeError::Duplicate { level: 0, index: 3 }));
        assert_eq!(tree.insert(2, 0, vec![0.0; 2]), Err(TreeError::Duplicate { level: 2, index: 0 }));
        assert_eq!(tree.insert(0, 0, vec![0.0]), Err(TreeError::Length { level: 0, index: 0, expected: 2, found: 1 }));
        assert_eq!(tree.clone().finish(), Err(TreeError::Missing { missing: 3, total: 5 }));
        tree.insert_empty(1, 0).unwrap();
        tree.insert(0, 4, vec![1.0, 1.0]).unwrap();
        assert_eq!(tree.finish().unwrap(), [2.0, 3.0]);
        assert_eq!(SumTree::new(0).finish().unwrap(), Vec::<f64>::new());
    }

    #[test]
    fn huge_trees_do_not_overflow() {
        let mut tree = SumTree::new(u64::MAX);
        tree.insert_empty_range(1, u64::MAX).unwrap();
        tree.insert(0, 0, vec![-0.0]).unwrap();
        assert_eq!(tree.missing(), 0);
        // Empty blocks are identities: the sign of zero survives.
        assert_eq!(tree.finish().unwrap()[0].to_bits(), (-0.0f64).to_bits());
    }
}
