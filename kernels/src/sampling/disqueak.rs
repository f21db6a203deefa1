//! DISQUEAK over a trie: dictionaries merged along a tree whose shape depends on the set of rows alone.
//!
//! Rows are ordered by a hash H of their ids. A node is a prefix of H; one with more than B rows splits on the next bit, the
//! others are leaves. A leaf runs the frozen-dictionary filter over its rows in the order of their ids; an inner node merges its two
//! children. So the tree, and every bit of every node, is a function of the set of rows: of no arrival order, of no worker,
//! of no history of insertions and deletions. Accuracy holds for any tree: each atom's weight is one martingale along its path to
//! the root, and errors do not add with depth.
//!
//! Cost: log2(n / B) levels; a changed row makes the nodes on its path dirty and no others.

use super::{Dictionary, KernelOracle, SamplingError, Squeak};
use crate::rows::{RowBuf, Rows};
use nystream_hashing::{RowId, StreamKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// A node of the trie: the leading `depth` bits of H.
///
/// ```
/// use nystream_kernels::sampling::Prefix;
/// let node = Prefix::ROOT.child(true).child(false);
/// assert!(node.contains(0b10 << 126) && !node.contains(0b11 << 126));
/// assert_eq!(node.parent(), Some(Prefix::ROOT.child(true)));
/// assert_eq!(node.to_string(), "10");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Prefix {
    /// The bits, left-aligned; those beyond `depth` are zero.
    bits: u128,
    /// Number of bits, at most 128.
    depth: u32,
}

impl Prefix {
    /// All rows.
    pub const ROOT: Prefix = Prefix { bits: 0, depth: 0 };

    /// The prefix of `depth` bits of `hash`.
    ///
    /// # Panics
    /// If `depth` is above 128.
    pub fn of(hash: u128, depth: u32) -> Self {
        assert!(depth <= 128, "hashes have 128 bits");
        Prefix { bits: if depth == 0 { 0 } else { hash >> (128 - depth) << (128 - depth) }, depth }
    }

    /// Number of bits.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// The bits, left-aligned: the smallest hash within the prefix.
    pub fn bits(&self) -> u128 {
        self.bits
    }

    /// The node below, on the side of `bit`.
    ///
    /// # Panics
    /// If the prefix is a whole hash.
    pub fn child(&self, bit: bool) -> Self {
        assert!(self.depth < 128, "hashes have 128 bits");
        Prefix { bits: self.bits | u128::from(bit) << (127 - self.depth), depth: self.depth + 1 }
    }

    /// The node above.
    pub fn parent(&self) -> Option<Self> {
        self.depth.checked_sub(1).map(|depth| Prefix::of(self.bits, depth))
    }

    /// Whether `hash` starts with these bits.
    pub fn contains(&self, hash: u128) -> bool {
        Prefix::of(hash, self.depth).bits == self.bits
    }

    /// Whether `other` is this node or below it.
    fn covers(&self, other: &Prefix) -> bool {
        other.depth >= self.depth && self.contains(other.bits)
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (0..self.depth).try_for_each(|i| write!(f, "{}", self.bits >> (127 - i) & 1))
    }
}

/// Where the trie splits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrieShape {
    /// H: the leading bits of this stream's hash of the row id.
    pub hash: StreamKey,
    /// B: a node with more rows than this splits.
    pub capacity: usize,
}

impl TrieShape {
    /// The leaves over `hashes` (ascending): their prefixes and ranges, left to right, empty ones included.
    ///
    /// ```
    /// use nystream_hashing::StreamKey;
    /// use nystream_kernels::sampling::TrieShape;
    /// let shape = TrieShape { hash: StreamKey::new(0, "order", 0), capacity: 2 };
    /// let hashes = [0, 1 << 125, 1 << 126, 1 << 127, 3 << 126];
    /// let leaves: Vec<String> = shape.leaves(&hashes).iter().map(|(p, r)| format!("{p}:{r:?}")).collect();
    /// assert_eq!(leaves, ["00:0..2", "01:2..3", "1:3..5"]);
    /// ```
    pub fn leaves(&self, hashes: &[u128]) -> Vec<(Prefix, Range<usize>)> {
        let mut leaves = Vec::new();
        let mut stack = vec![(Prefix::ROOT, 0..hashes.len())];
        while let Some((prefix, range)) = stack.pop() {
            if self.splits(prefix, range.len() as u64) {
                let [left, right] = halves(prefix, hashes, &range);
                stack.push((prefix.child(true), right));
                stack.push((prefix.child(false), left));
            } else {
                leaves.push((prefix, range));
            }
        }
        leaves
    }

    /// The leaves, given how many rows have each prefix of some number of bits (`counts`: 2^bits numbers, in the order of the
    /// prefixes): what a dataflow needs before any row has moved.
    ///
    /// # Errors
    /// [`SamplingError::CountsTooCoarse`] when a prefix of that many bits still splits; [`SamplingError::BadParameter`] when the
    /// number of counts is not a power of two.
    pub fn leaves_from_counts(&self, counts: &[u64]) -> Result<Vec<(Prefix, u64)>, SamplingError> {
        if !counts.len().is_power_of_two() {
            let value = counts.len() as f64;
            return Err(SamplingError::BadParameter { name: "counts", value, expected: "a power of two" });
        }
        let mut leaves = Vec::new();
        let mut stack = vec![(Prefix::ROOT, counts)];
        while let Some((prefix, counts)) = stack.pop() {
            let rows = counts.iter().sum();
            if !self.splits(prefix, rows) {
                leaves.push((prefix, rows));
            } else if counts.len() == 1 {
                return Err(SamplingError::CountsTooCoarse { depth: prefix.depth, rows, capacity: self.capacity });
            } else {
                let (left, right) = counts.split_at(counts.len() / 2);
                stack.push((prefix.child(true), right));
                stack.push((prefix.child(false), left));
            }
        }
        Ok(leaves)
    }

    /// Whether a node with this many rows splits.
    pub fn splits(&self, prefix: Prefix, rows: u64) -> bool {
        rows > self.capacity.max(1) as u64 && prefix.depth < 128
    }
}

/// The two halves of a node's range of ascending hashes.
fn halves(prefix: Prefix, hashes: &[u128], range: &Range<usize>) -> [Range<usize>; 2] {
    let middle = prefix.child(true).bits;
    let cut = range.start + hashes[range.clone()].partition_point(|hash| *hash < middle);
    [range.start..cut, cut..range.end]
}

/// All nodes of a trie, in memory; nodes are kept so that a change recomputes only the paths it touches.
///
/// ```
/// use nystream_hashing::{RowId, StreamKey};
/// use nystream_kernels::kernel::{Family, Kernel};
/// use nystream_kernels::rows::Rows;
/// use nystream_kernels::sampling::{DictionaryParams, DictionaryTrie, Squeak, TrieShape};
/// let values: Vec<f32> = (0..500).map(|i| (i as f32 * 0.37).sin()).collect();
/// let ids: Vec<RowId> = (0..500).map(RowId).collect();
/// let kernel = Kernel::new(Family::Gaussian, 0.5);
/// let squeak = Squeak::new(&kernel, DictionaryParams::new(1.0, 7)).unwrap();
/// let shape = TrieShape { hash: StreamKey::new(7, "order", 0), capacity: 150 };
/// let trie = DictionaryTrie::build(&squeak, shape, Rows::new(&values, 1, &[], 0), &ids).unwrap();
/// assert!(trie.nodes().len() >= 7);
/// assert!(trie.root().len() < 200);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DictionaryTrie {
    shape: TrieShape,
    nodes: BTreeMap<Prefix, Dictionary>,
}

impl DictionaryTrie {
    /// The trie of the set of `rows`.
    ///
    /// # Errors
    /// Those of [`Squeak::filter`] and [`Squeak::merge`].
    pub fn build<O: KernelOracle + ?Sized>(
        squeak: &Squeak<'_, O>,
        shape: TrieShape,
        rows: Rows<'_>,
        ids: &[RowId],
    ) -> Result<Self, SamplingError> {
        let mut trie = DictionaryTrie { shape, nodes: BTreeMap::new() };
        trie.update(squeak, rows, ids, &[])?;
        Ok(trie)
    }

    /// The dictionary of all rows.
    pub fn root(&self) -> &Dictionary {
        // `build` and `update` always compute the root.
        &self.nodes[&Prefix::ROOT]
    }

    /// All nodes, by prefix.
    pub fn nodes(&self) -> &BTreeMap<Prefix, Dictionary> {
        &self.nodes
    }

    /// Brings the trie to the set of `rows` (all that are left), where `changed` are the ids inserted, deleted or replaced
    /// since. Only nodes on their paths are computed; the result equals [`DictionaryTrie::build`] bit for bit. Returns the
    /// number of nodes computed. After an error the trie is as before.
    ///
    /// # Errors
    /// Those of [`Squeak::filter`] and [`Squeak::merge`].
    pub fn update<O: KernelOracle + ?Sized>(
        &mut self,
        squeak: &Squeak<'_, O>,
        rows: Rows<'_>,
        ids: &[RowId],
        changed: &[RowId],
    ) -> Result<usize, SamplingError> {
        let by_id = super::dictionary::id_order(rows.len(), ids)?;
        let mut sorted: Vec<(u128, usize)> = by_id.iter().map(|i| (self.shape.hash.u128(ids[*i]), *i)).collect();
        sorted.sort_unstable();
        let mut dirty: Vec<u128> = changed.iter().map(|id| self.shape.hash.u128(*id)).collect();
        dirty.sort_unstable();
        let job = Update {
            squeak,
            shape: self.shape,
            rows,
            ids,
            hashes: sorted.iter().map(|(hash, _)| *hash).collect(),
            order: sorted.iter().map(|(_, i)| *i).collect(),
            dirty,
            old: &self.nodes,
        };
        let mut fresh = BTreeMap::new();
        let mut live = Vec::new();
        job.node(Prefix::ROOT, 0..job.hashes.len(), &mut fresh, &mut live)?;
        let computed = fresh.len();
        // `live` are kept subtrees; everything else that was not computed is gone.
        let mut nodes = fresh;
        for (prefix, dictionary) in std::mem::take(&mut self.nodes) {
            if live.iter().any(|kept: &Prefix| kept.covers(&prefix)) {
                nodes.insert(prefix, dictionary);
            }
        }
        self.nodes = nodes;
        Ok(computed)
    }
}

struct Update<'a, 'o, O: ?Sized> {
    squeak: &'a Squeak<'o, O>,
    shape: TrieShape,
    rows: Rows<'a>,
    ids: &'a [RowId],
    hashes: Vec<u128>,
    order: Vec<usize>,
    dirty: Vec<u128>,
    old: &'a BTreeMap<Prefix, Dictionary>,
}

impl<O: KernelOracle + ?Sized> Update<'_, '_, O> {
    /// Computes the node at `prefix` into `fresh`, unless it is kept; returns its dictionary.
    fn node(
        &self,
        prefix: Prefix,
        range: Range<usize>,
        fresh: &mut BTreeMap<Prefix, Dictionary>,
        live: &mut Vec<Prefix>,
    ) -> Result<Dictionary, SamplingError> {
        let first = self.dirty.partition_point(|hash| *hash < prefix.bits);
        let clean = !self.dirty.get(first).is_some_and(|hash| prefix.contains(*hash));
        if let Some(dictionary) = self.old.get(&prefix).filter(|_| clean) {
            live.push(prefix);
            return Ok(dictionary.clone());
        }
        let dictionary = if self.shape.splits(prefix, range.len() as u64) {
            let [left, right] = halves(prefix, &self.hashes, &range);
            let a = self.node(prefix.child(false), left, fresh, live)?;
            let b = self.node(prefix.child(true), right, fresh, live)?;
            self.squeak.merge(&a, &b)?
        } else {
            let chosen = &self.order[range];
            let ids: Vec<RowId> = chosen.iter().map(|i| self.ids[*i]).collect();
            self.squeak.filter(RowBuf::gather(self.rows, chosen).view(), &ids)?
        };
        fresh.insert(prefix, dictionary.clone());
        Ok(dictionary)
    }
}
