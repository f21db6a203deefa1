//! Floating-point sums over blocks, the same bits for any distribution of the blocks (law 1).
//!
//! Each block's partial vector enters the worker's [`SumTree`]; what remains after its last block are O(log blocks)
//! nodes. The vector is cut into segments, a segment's nodes meet at one worker, which completes the tree, and
//! each process receives all segments: reduce-scatter and all-gather. With several processes the nodes of a process's workers are merged before they are sent
//! ([`summed`]): a tree has one shape wherever its nodes meet. Cost: O(length log blocks) bytes sent by each process, length received.

use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Gather, Outgoing, Reducer, Scan, Step, pass};
use crate::engine::leases::Leased;
use crate::engine::session::Session;
use crate::error::StageError;
use nystream_kernels::tree::{Node, SumTree};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// Values in one segment (32 KiB): so few that the segments of m-sized sums have many owners. Sums are by element: it shapes none.
const SEGMENT: usize = 1 << 12;

/// The parcels of a worker's pending nodes of a sum of vectors of `length` values.
pub fn node_parcels(nodes: Vec<Node>, length: usize) -> Vec<Outgoing> {
    let mut out = Vec::new();
    for (segment, start) in (0..length.max(1)).step_by(SEGMENT).enumerate() {
        let end = (start + SEGMENT).min(length);
        let mut bytes = Vec::new();
        write_nodes(&nodes, start..end, &mut bytes);
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

/// Adds the values `range` of `nodes` to `bytes`.
pub(crate) fn write_nodes(nodes: &[Node], range: Range<usize>, bytes: &mut Vec<u8>) {
    for node in nodes {
        bytes.extend_from_slice(&u64::from(node.level).to_le_bytes());
        bytes.extend_from_slice(&node.index.to_le_bytes());
        let values = node.values.as_ref().map(|v| &v[range.clone()]);
        bytes.extend_from_slice(&(values.is_some() as u64).to_le_bytes());
        for value in values.unwrap_or(&[]) {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// Inserts what [`write_nodes`] wrote, nodes of `length` values, into `tree`.
pub(crate) fn read_nodes(bytes: &[u8], length: usize, tree: &mut SumTree) -> Result<(), StageError> {
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
        read_nodes(&bytes, length, tree)
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

/// The sum of the nodes that the parcels of a scan hold ([`node_parcels`]), over `blocks` blocks and of `length` values, on every worker. Each process gets it once, and
/// sends what its workers have merged where that is more than a segment.
///
/// # Errors
/// Those of the scan, and [`StageError::Internal`] for a damaged exchange.
pub fn summed<S: Scan + 'static>(
    session: &mut Session<'_>,
    name: &str,
    scan: S,
    blocks: u64,
    length: usize,
) -> Result<Arc<Vec<f64>>, StageError> {
    let reducer = TreeReducer::new(blocks, length);
    let merges = session.process.processes() > 1 && session.process.workers() > 1 && length > SEGMENT;
    let parcels = match merges {
        false => pass(session, name, scan, reducer, Audience::Leaders)?,
        true => {
            let shelf: Rc<RefCell<Vec<Outgoing>>> = Rc::default();
            let kept = Kept { scan, shelf: Rc::clone(&shelf) };
            pass(session, name, kept, Gather::default(), Audience::Leaders)?;
            let all = session.share(shelf.take());
            let merged = merge(&all, session.local_index(), blocks, length);
            drop(all);
            pass(session, name, Merged(Some(merged)), reducer, Audience::Leaders)?
        }
    };
    session.try_once(|| assemble(parcels, length))
}

/// A scan whose parcels stay in the process.
struct Kept<S> {
    scan: S,
    shelf: Rc<RefCell<Vec<Outgoing>>>,
}

impl<S: Scan> Scan for Kept<S> {
    fn step(&mut self) -> Result<Step, StageError> {
        self.scan.step()
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        self.shelf.replace(self.scan.finish()?);
        Ok(Vec::new())
    }

    fn leased(&mut self) -> Option<&mut dyn Leased> {
        self.scan.leased()
    }
}

/// Parcels that were merged, or why they could not be, which ends the pass everywhere.
struct Merged(Option<Result<Vec<Outgoing>, StageError>>);

impl Scan for Merged {
    fn step(&mut self) -> Result<Step, StageError> {
        Ok(Step::Done)
    }

    fn finish(mut self) -> Result<Vec<Outgoing>, StageError> {
        self.0.take().unwrap_or_else(|| Ok(Vec::new()))
    }
}

/// What worker `local` merges of the parcels of all workers of its process: every so many segments.
fn merge(all: &[Arc<Vec<Outgoing>>], local: usize, blocks: u64, length: usize) -> Result<Vec<Outgoing>, StageError> {
    let mut out = Vec::new();
    for segment in (local..length.max(1).div_ceil(SEGMENT)).step_by(all.len()) {
        let start = segment * SEGMENT;
        let size = (start + SEGMENT).min(length) - start;
        let mut tree = SumTree::new(blocks);
        let key = segment as u64;
        for parcel in all.iter().flat_map(|parcels| parcels.iter()).filter(|parcel| parcel.key == key) {
            read_nodes(&parcel.bytes, size, &mut tree)?;
        }
        let mut bytes = Vec::new();
        write_nodes(&tree.into_nodes(), 0..size, &mut bytes);
        out.push(Outgoing { key, bytes });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Process, SilentProgress, run};

    /// Merged within processes or not, of one segment, several or none: the same bits.
    #[test]
    fn sums_do_not_depend_on_where_nodes_are_merged() {
        let sum = |processes: usize, workers: usize, length: usize| {
            let (mut builders, _guard) = timely::CommunicationConfig::Process(processes * workers).try_build().unwrap();
            std::thread::scope(|scope| {
                let start = |index: usize| {
                    let own: Vec<_> = builders.drain(..workers).collect();
                    let process = Process::new(workers, processes, index, Box::new(SilentProgress));
                    let job = move |session: &mut Session<'_>| {
                        let mut tree = SumTree::new(21);
                        for block in (0..21).filter(|block| block % session.peers() == session.index()) {
                            let values = (0..length).map(|i| 1.0 / (1.0 + (i * 31 + block * 7) as f64)).collect();
                            tree.insert(0, block as u64, values).unwrap();
                        }
                        let parcels = node_parcels(tree.into_nodes(), length);
                        summed(session, "test", parcels, 21, length).map(Arc::unwrap_or_clone).unwrap()
                    };
                    scope.spawn(move || run(&process, (own, Box::new(())), job).unwrap())
                };
                let threads: Vec<_> = (0..processes).map(start).collect();
                let results: Vec<Vec<f64>> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
                assert!(results.iter().all(|result| *result == results[0]));
                results[0].clone()
            })
        };
        for length in [0, 5, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 17] {
            let alone = sum(1, 1, length);
            assert_eq!(alone.len(), length);
            for (processes, workers) in [(1, 3), (2, 1), (2, 2), (3, 2)] {
                assert!(sum(processes, workers, length) == alone, "{length}: {processes} x {workers}");
            }
        }
    }
}
