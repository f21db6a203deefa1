//! SQUEAK over a pool, as a keyed reduce over the trie (key = prefix).
//!
//! 1. One pass finds the pool's rows and counts them by a fine prefix of H; the counts, known to everyone, fix the trie's leaves.
//! 2. Rows travel to the owner of their leaf, which runs the filter over them in id order.
//! 3. Level by level from the deepest, both children of a node meet at its owner, which merges them.
//!
//! The trie's shape has no history: it is a function of the set of rows. A worker holds its share of the pool and
//! the dictionaries of the nodes it owns; products inside a worker are sequential. Cost: about M^2 flops a row, divided over
//! the workers, and log2(N_p / B) exchanges of dictionaries.

use crate::dictionary::pool::{Pool, PoolScan};
use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Gather, Outgoing, Reducer, Scan, Step, pass};
use crate::engine::feed::Feed;
use crate::engine::session::Session;
use crate::error::StageError;
use nystream_hashing::StreamKey;
use nystream_kernels::sampling::{Atom, Dictionary, DictionaryParams, KernelOracle, Prefix, Squeak, TrieShape};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// What SQUEAK is run on.
pub struct TrieJob<O> {
    /// Kernel values.
    pub oracle: Arc<O>,
    /// gamma (already scaled to the pool), mode, seed.
    pub params: DictionaryParams,
    /// Rows with so many leading zero bits under `pool_key` are scored.
    pub bits: u32,
    /// Hash of the pool.
    pub pool_key: StreamKey,
    /// Hash of the trie and leaf capacity B.
    pub shape: TrieShape,
    /// Expected rows of the pool.
    pub expected_rows: u64,
}

/// The root dictionary of the pool and the number of rows scored; on the first worker of each process only.
///
/// # Errors
/// Bad data, a dictionary that outgrows its limit, or a damaged exchange.
pub fn squeak_trie<O: KernelOracle + Send + Sync + 'static>(
    session: &mut Session<'_>,
    feed: Feed,
    job: &TrieJob<O>,
) -> Result<(Arc<Option<Dictionary>>, u64), StageError> {
    // Fine enough that no leaf is deeper: a leaf has at most B rows; 6 bits beyond the expected depth make a violation
    // a matter of hashing 64 times more rows than expected into one prefix.
    let expected_depth = (job.expected_rows as f64 / job.shape.capacity.max(1) as f64).max(1.0).log2().ceil() as u32;
    let fine = (expected_depth + 6).min(22);
    let held = Rc::new(RefCell::new(Pool::default()));
    let counting = CountScan {
        inner: PoolScan::new(feed, job.pool_key, job.bits),
        trie: job.shape.hash,
        fine,
        held: Rc::clone(&held),
    };
    let parcels = pass(session, "dictionary: rows", counting, SumCounts::default(), Audience::Everyone)?;
    let mut counts = vec![0u64; 1 << fine];
    for parcel in parcels {
        let mut from = Reader(&parcel.bytes);
        while !from.is_empty() {
            let (prefix, count) = (from.u64()? as usize, from.u64()?);
            *counts.get_mut(prefix).ok_or_else(|| StageError::Internal("a count arrived damaged".into()))? += count;
        }
    }
    let scored: u64 = counts.iter().sum();
    let leaves = job.shape.leaves_from_counts(&counts).map_err(numeric)?;
    let depth = leaves.iter().map(|(prefix, _)| prefix.depth()).max().unwrap_or(0);

    // Rows to the owners of their leaves.
    let pool = std::mem::take(&mut *held.borrow_mut());
    let mut by_leaf: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, id) in pool.ids.iter().enumerate() {
        let hash = job.shape.hash.u128(*id);
        let leaf = leaves.partition_point(|(prefix, _)| prefix.bits() <= hash) - 1;
        by_leaf.entry(leaf).or_default().push(i);
    }
    let outgoing: Vec<Outgoing> = by_leaf
        .into_iter()
        .map(|(leaf, indices)| Outgoing { key: leaf as u64, bytes: pool.gather(&indices).to_bytes() })
        .collect();
    drop(pool);
    let filter = Filter { oracle: Arc::clone(&job.oracle), params: job.params, rows: BTreeMap::new() };
    let parcels = pass(session, "dictionary: leaves", outgoing, filter, Audience::Owners)?;
    let mut nodes: BTreeMap<Prefix, Dictionary> = BTreeMap::new();
    for parcel in parcels {
        nodes.insert(leaves[parcel.key as usize].0, dictionary_from(&parcel.bytes, job.params)?.1);
    }

    // Merges, deepest level first; all workers know how many levels there are.
    for level in (1..=depth).rev() {
        let (here, above): (BTreeMap<_, _>, BTreeMap<_, _>) = nodes.into_iter().partition(|(p, _)| p.depth() == level);
        nodes = above;
        let outgoing = here
            .into_iter()
            .filter_map(|(prefix, dictionary)| {
                let parent = prefix.parent()?;
                Some(Outgoing { key: node_key(parent), bytes: dictionary_bytes(prefix, &dictionary) })
            })
            .collect::<Vec<_>>();
        let merge = Merge { oracle: Arc::clone(&job.oracle), params: job.params, nodes: BTreeMap::new() };
        for parcel in pass(session, "dictionary: merges", outgoing, merge, Audience::Owners)? {
            let (prefix, dictionary) = dictionary_from(&parcel.bytes, job.params)?;
            nodes.insert(prefix, dictionary);
        }
    }
    let outgoing: Vec<Outgoing> =
        nodes.iter().map(|(prefix, d)| Outgoing { key: 0, bytes: dictionary_bytes(*prefix, d) }).collect();
    let parcels = pass(session, "dictionary: root", outgoing, Gather::default(), Audience::Leaders)?;
    let root = match parcels.first() {
        Some(parcel) => Some(dictionary_from(&parcel.bytes, job.params)?.1),
        None => None,
    };
    Ok((session.once(move || root), scored))
}

fn numeric(error: impl std::fmt::Display) -> StageError {
    StageError::Numeric(error.to_string())
}

/// Spreads the nodes of one level over the workers.
fn node_key(prefix: Prefix) -> u64 {
    let depth = prefix.depth();
    if depth == 0 { 0 } else { (prefix.bits() >> (128 - depth)) as u64 }
}

fn dictionary_bytes(prefix: Prefix, dictionary: &Dictionary) -> Vec<u8> {
    let mut out = Writer::default();
    out.u64(u64::from(prefix.depth()));
    out.ids(&[nystream_hashing::RowId(prefix.bits())]);
    out.rows(&dictionary.rows);
    out.ids(&dictionary.ids());
    out.f64s(&dictionary.atoms.iter().map(|a| a.p).collect::<Vec<_>>());
    dictionary.atoms.iter().for_each(|a| out.u64(u64::from(a.q)));
    out.f64s(&[dictionary.jitter]);
    out.0
}

fn dictionary_from(bytes: &[u8], params: DictionaryParams) -> Result<(Prefix, Dictionary), StageError> {
    let damaged = || StageError::Internal("a dictionary arrived damaged".into());
    let mut from = Reader(bytes);
    let depth = u32::try_from(from.u64()?).ok().filter(|d| *d <= 128).ok_or_else(damaged)?;
    let bits = from.ids()?.first().ok_or_else(damaged)?.0;
    let rows = from.rows()?;
    let ids = from.ids()?;
    let p = from.f64s()?;
    if p.len() != ids.len() {
        return Err(damaged());
    }
    let mut atoms = Vec::with_capacity(ids.len());
    for (id, p) in ids.into_iter().zip(p) {
        atoms.push(Atom { id, p, q: u32::try_from(from.u64()?).map_err(|_| damaged())? });
    }
    let jitter = from.f64s()?.first().copied().ok_or_else(damaged)?;
    Ok((Prefix::of(bits, depth), Dictionary { rows, atoms, gamma: params.gamma, mode: params.mode, jitter }))
}

struct CountScan {
    inner: PoolScan,
    trie: StreamKey,
    fine: u32,
    held: Rc<RefCell<Pool>>,
}

impl Scan for CountScan {
    fn step(&mut self) -> Result<Step, StageError> {
        self.inner.read()
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for id in &self.inner.pool.ids {
            *counts.entry((self.trie.u128(*id) >> (128 - self.fine)) as u64).or_default() += 1;
        }
        let mut out = Writer::default();
        for (prefix, count) in counts {
            out.u64(prefix);
            out.u64(count);
        }
        *self.held.borrow_mut() = self.inner.pool;
        Ok(vec![Outgoing { key: 0, bytes: out.0 }])
    }
}

#[derive(Default)]
struct SumCounts(BTreeMap<u64, u64>);

impl Reducer for SumCounts {
    fn absorb(&mut self, _: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        let mut from = Reader(&bytes);
        while !from.is_empty() {
            let (prefix, count) = (from.u64()?, from.u64()?);
            *self.0.entry(prefix).or_default() += count;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let mut out = Writer::default();
        for (prefix, count) in std::mem::take(&mut self.0) {
            out.u64(prefix);
            out.u64(count);
        }
        Ok(vec![Outgoing { key: 0, bytes: out.0 }])
    }
}

/// A leaf: SQUEAK's filter over its rows.
struct Filter<O> {
    oracle: Arc<O>,
    params: DictionaryParams,
    rows: BTreeMap<u64, Vec<Pool>>,
}

impl<O: KernelOracle> Reducer for Filter<O> {
    fn absorb(&mut self, key: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        self.rows.entry(key).or_default().push(Pool::from_bytes(&bytes)?);
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let squeak = Squeak::new(&*self.oracle, self.params).map_err(numeric)?;
        let mut out = Vec::new();
        for (key, parts) in std::mem::take(&mut self.rows) {
            let leaf = Pool::concat(parts);
            let dictionary = squeak.filter(leaf.rows.view(), &leaf.ids).map_err(numeric)?;
            // The prefix is known from the key; a root prefix stands in for it on the wire.
            out.push(Outgoing { key, bytes: dictionary_bytes(Prefix::ROOT, &dictionary) });
        }
        Ok(out)
    }
}

/// An inner node: the merge of its children.
struct Merge<O> {
    oracle: Arc<O>,
    params: DictionaryParams,
    nodes: BTreeMap<u64, BTreeMap<Prefix, Dictionary>>,
}

impl<O: KernelOracle> Reducer for Merge<O> {
    fn absorb(&mut self, key: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        let (prefix, dictionary) = dictionary_from(&bytes, self.params)?;
        self.nodes.entry(key).or_default().insert(prefix, dictionary);
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let squeak = Squeak::new(&*self.oracle, self.params).map_err(numeric)?;
        let mut out = Vec::new();
        for (key, children) in std::mem::take(&mut self.nodes) {
            let Some(parent) = children.keys().next().and_then(Prefix::parent) else { continue };
            let mut children = children.into_values();
            let Some(left) = children.next() else { continue };
            // An empty leaf sends nothing: its sibling is the node.
            let merged = match children.next() {
                Some(right) => squeak.merge(&left, &right).map_err(numeric)?,
                None => left,
            };
            out.push(Outgoing { key, bytes: dictionary_bytes(parent, &merged) });
        }
        Ok(out)
    }
}
