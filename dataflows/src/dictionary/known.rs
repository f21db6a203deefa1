//! Nodes of the dictionary's trie that are known from earlier rows, and how the rows of a node are told apart.
//!
//! A node is a function of its rows, and which rows these are is told by their number and a sum of their hashes over cells: a node whose sum is what it was is taken over, and only what lies above a change is
//! computed again. Where a node is kept, and whether it is, shapes nothing. Cost: a hash a row that is scored, and the dictionaries that are kept.

use super::pool::feature_key;
use super::units::cells;
use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Outgoing, Reducer};
use crate::engine::feed::view;
use crate::error::StageError;
use nystream_datasets::Chunk;
use nystream_kernels::sampling::{Dictionary, Prefix};
use std::collections::BTreeMap;

/// Nodes of earlier tries over much the same rows, as one worker has them: those whose rows are what they were need not be computed again.
///
/// Which rows a node has is told by their number and a sum of their hashes, over ids and features. Nothing of this shapes a result: a node is a function of its rows.
pub struct KnownNodes {
    pub(super) nodes: BTreeMap<Prefix, KnownNode>,
    bytes: u64,
    limit: u64,
    /// Units of the last trie, and those that were computed for it, over all workers.
    pub units: (u64, u64),
}

pub(super) struct KnownNode {
    pub rows: RowSum,
    pub dictionary: Dictionary,
}

/// Number of rows, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RowSum {
    pub rows: u64,
    pub hashes: u128,
}

impl RowSum {
    pub(super) fn over(sums: &[RowSum]) -> RowSum {
        sums.iter().fold(RowSum::default(), |all, one| RowSum {
            rows: all.rows + one.rows,
            hashes: all.hashes.wrapping_add(one.hashes),
        })
    }

    pub(super) fn add(&mut self, chunk: &Chunk, i: usize) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&chunk.ids[i].0.to_le_bytes());
        hasher.update(&feature_key(view(chunk), i));
        let bytes = *hasher.finalize().as_bytes();
        let hash = u128::from_le_bytes(std::array::from_fn(|k| bytes[k]));
        (self.rows, self.hashes) = (self.rows + 1, self.hashes.wrapping_add(hash));
    }
}

impl KnownNodes {
    /// None yet, and never more than `limit` bytes: what does not fit is computed again.
    pub fn new(limit: u64) -> Self {
        KnownNodes { nodes: BTreeMap::new(), bytes: 0, limit, units: (0, 0) }
    }

    /// Drops the nodes whose rows are others now.
    pub(super) fn keep(&mut self, sums: &[RowSum], bits: u32) {
        let same = |prefix: &Prefix, node: &KnownNode| {
            prefix.depth() <= bits && RowSum::over(&sums[cells(*prefix, bits)]) == node.rows
        };
        self.nodes.retain(|prefix, node| same(prefix, node));
        self.bytes = self.nodes.values().map(|node| size(&node.dictionary)).sum();
    }

    fn insert(&mut self, prefix: Prefix, rows: RowSum, dictionary: &Dictionary) {
        let bytes = size(dictionary);
        if self.bytes + bytes <= self.limit && !self.nodes.contains_key(&prefix) {
            self.bytes += bytes;
            self.nodes.insert(prefix, KnownNode { rows, dictionary: dictionary.clone() });
        }
    }
}

/// Bytes of a dictionary, about.
pub(super) fn size(d: &Dictionary) -> u64 {
    (4 * d.rows.numeric.len() + 2 * d.rows.codes.len() + 32 * d.atoms.len() + 64) as u64
}

/// Where nodes go that are computed.
pub(super) struct Computed<'a> {
    pub known: &'a mut KnownNodes,
    pub sums: &'a [RowSum],
    pub bits: u32,
}

impl Computed<'_> {
    pub(super) fn note(&mut self, prefix: Prefix, dictionary: &Dictionary) {
        if prefix.depth() <= self.bits {
            self.known.insert(prefix, RowSum::over(&self.sums[cells(prefix, self.bits)]), dictionary);
        }
    }
}

/// Counts by cell, 24 bytes each.
pub(super) fn sums_bytes(sums: &[RowSum]) -> Vec<u8> {
    let mut out = Writer::default();
    for sum in sums {
        out.u64(sum.rows);
        out.u64(sum.hashes as u64);
        out.u64((sum.hashes >> 64) as u64);
    }
    out.0
}

/// Sums counts by cell.
pub(super) struct SumCounts(pub Vec<RowSum>);

impl Reducer for SumCounts {
    fn absorb(&mut self, _: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        let mut from = Reader(&bytes);
        for sum in &mut self.0 {
            let (rows, low, high) = (from.u64()?, from.u64()?, from.u64()?);
            *sum = RowSum::over(&[*sum, RowSum { rows, hashes: u128::from(high) << 64 | u128::from(low) }]);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let total: u64 = self.0.iter().map(|sum| sum.rows).sum();
        // Workers that own no parcel have nothing to say.
        Ok(if total == 0 { Vec::new() } else { vec![Outgoing { key: 0, bytes: sums_bytes(&self.0) }] })
    }
}
