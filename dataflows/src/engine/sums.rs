//! Floating-point sums over blocks, the same bits for any distribution of the blocks (law 1).
//!
//! Each block's partial vector enters the worker's [`SumTree`]; what remains after its last block are O(log blocks)
//! nodes. The vector is cut into segments, a segment's nodes meet at one worker, which completes the tree, and
//! everyone receives all segments: reduce-scatter and all-gather. Cost: O(length log blocks) bytes sent by each worker.

use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Outgoing, Reducer};
use crate::error::StageError;
use nystream_kernels::tree::{Node, SumTree};
use std::collections::BTreeMap;

/// Values in one segment (512 KiB).
const SEGMENT: usize = 1 << 16;

/// The parcels of a worker's pending nodes of a sum of vectors of `length` values.
pub fn node_parcels(nodes: Vec<Node>, length: usize) -> Vec<Outgoing> {
    let mut out = Vec::new();
    for (segment, start) in (0..length.max(1)).step_by(SEGMENT).enumerate() {
        let end = (start + SEGMENT).min(length);
        let mut bytes = Vec::new();
        for node in &nodes {
            bytes.extend_from_slice(&u64::from(node.level).to_le_bytes());
            bytes.extend_from_slice(&node.index.to_le_bytes());
            let values = node.values.as_ref().map(|v| &v[start..end]);
            bytes.extend_from_slice(&(values.is_some() as u64).to_le_bytes());
            for value in values.unwrap_or(&[]) {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        out.push(Outgoing { key: segment as u64, bytes });
    }
    out
}

/// A node as a checkpoint holds it.
pub fn node_frame(node: &Node) -> Outgoing {
    let mut out = Writer::default();
    out.u64(u64::from(node.level));
    out.u64(node.index);
    out.u64(u64::from(node.values.is_some()));
    out.f64s(node.values.as_deref().unwrap_or(&[]));
    Outgoing { key: 1, bytes: out.0 }
}

/// Reads what [`node_frame`] wrote, of a sum of vectors of `length` values.
///
/// ```
/// use nystream_dataflows::engine::sums::{node_frame, node_from};
/// use nystream_kernels::tree::Node;
/// let node = Node { level: 3, index: 5, values: Some(vec![0.1, -2.0]) };
/// let bytes = node_frame(&node).bytes;
/// assert_eq!(node_from(&bytes, 2), Ok(node));
/// assert!(node_from(&bytes, 3).is_err() && node_from(&bytes[1..], 2).is_err());
/// ```
///
/// # Errors
/// [`StageError::Internal`] for anything else.
pub fn node_from(bytes: &[u8], length: usize) -> Result<Node, StageError> {
    let mut from = Reader(bytes);
    let level = u32::try_from(from.u64()?).map_err(|_| damaged())?;
    let (index, present, values) = (from.u64()?, from.u64()? != 0, from.f64s()?);
    if !from.is_empty() || values.len() != if present { length } else { 0 } {
        return Err(damaged());
    }
    Ok(Node { level, index, values: present.then_some(values) })
}

/// Completes the trees of the segments this worker owns.
///
/// ```
/// use nystream_dataflows::engine::sums::{TreeReducer, assemble, node_parcels};
/// use nystream_dataflows::engine::{Audience, Process, SilentProgress, pass, run};
/// use nystream_kernels::tree::SumTree;
///
/// let sum = |workers| {
///     let process = Process::new(workers, 1, 0, Box::new(SilentProgress));
///     let communication = timely::CommunicationConfig::Process(workers).try_build().unwrap();
///     let results = run(&process, communication, |session| {
///         // Worker i has every block whose number is i modulo the workers.
///         let mut tree = SumTree::new(10);
///         for block in (session.index() as u64..10).step_by(session.peers()) {
///             tree.insert(0, block, vec![1.0, 0.1 * block as f64]).unwrap();
///         }
///         let parcels = node_parcels(tree.into_nodes(), 2);
///         assemble(pass(session, "sum", parcels, TreeReducer::new(10, 2), Audience::Everyone)?, 2)
///     });
///     results.unwrap()[0].clone().unwrap()
/// };
/// let one = sum(1);
/// assert_eq!(one[0], 10.0);
/// // To the last bit.
/// assert_eq!(one, sum(3));
/// ```
pub struct TreeReducer {
    blocks: u64,
    length: usize,
    trees: BTreeMap<u64, SumTree>,
}

impl TreeReducer {
    /// For sums over `blocks` blocks of vectors of `length` values.
    pub fn new(blocks: u64, length: usize) -> Self {
        TreeReducer { blocks, length, trees: BTreeMap::new() }
    }
}

fn damaged() -> StageError {
    StageError::Internal("a partial sum arrived damaged".into())
}

impl Reducer for TreeReducer {
    fn absorb(&mut self, key: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        let start = key as usize * SEGMENT;
        let length = (start + SEGMENT).min(self.length).saturating_sub(start);
        let tree = self.trees.entry(key).or_insert_with(|| SumTree::new(self.blocks));
        let mut words = bytes.chunks_exact(8).map(|w| u64::from_le_bytes(std::array::from_fn(|k| w[k])));
        while let Some(level) = words.next() {
            let index = words.next().ok_or_else(damaged)?;
            let present = words.next().ok_or_else(damaged)? != 0;
            let values = if present {
                let values: Vec<f64> = words.by_ref().take(length).map(f64::from_bits).collect();
                if values.len() != length {
                    return Err(damaged());
                }
                Some(values)
            } else {
                None
            };
            let level = u32::try_from(level).map_err(|_| damaged())?;
            tree.insert_node(Node { level, index, values }).map_err(|e| StageError::Internal(e.to_string()))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let mut out = Vec::new();
        for (key, tree) in std::mem::take(&mut self.trees) {
            let root = tree.finish().map_err(|e| StageError::Internal(e.to_string()))?;
            let bytes = root.iter().flat_map(|v| v.to_le_bytes()).collect();
            out.push(Outgoing { key, bytes });
        }
        Ok(out)
    }
}

/// The summed vector from the parcels of a pass with [`TreeReducer`]; zeros when no block held a row.
///
/// # Errors
/// [`StageError::Internal`] for a segment of another length than its place in `length` values.
pub fn assemble(parcels: Vec<Outgoing>, length: usize) -> Result<Vec<f64>, StageError> {
    let mut sum = vec![0.0; length];
    for Outgoing { key, bytes } in parcels {
        let start = key as usize * SEGMENT;
        if bytes.is_empty() {
            continue;
        }
        let end = (start + SEGMENT).min(length);
        if start >= end || bytes.len() != (end - start) * 8 {
            return Err(damaged());
        }
        for (slot, word) in sum[start..end].iter_mut().zip(bytes.chunks_exact(8)) {
            *slot = f64::from_le_bytes(std::array::from_fn(|k| word[k]));
        }
    }
    Ok(sum)
}
