//! Centers shared by processes: a grid of blocks of rows and blocks of centers.
//!
//! A process has a run of whole blocks of [`CENTER_BLOCK`] centers, its [`Shard`], packed once; rows come to every process. A row's sum over centers is formed block by
//! block, and the blocks are added over one tree, whoever has them ([`row_values`]); a center's sum over rows needs no exchange. With [`Shard::whole`] every process has
//! all centers and the rows are divided instead: the bits are the same.
//!
//! Cost of b rows: b t values for each of the O(log blocks) nodes that a process has are sent, and b t received by each process: reduce-scatter with every worker
//! owning an equal run of rows, then all-gather, in fragments of at most 1 MB.

use super::blocks::share;
use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Gather, Outgoing, Reducer, Scan, Step, pass};
use crate::engine::session::Session;
use crate::engine::sums::{node_parcels, read_nodes, summed, write_nodes};
use crate::error::StageError;
use nystream_kernels::rows::{RowBuf, Rows};
use nystream_kernels::solve::eigenpro::{CENTER_BLOCK, center_blocks};
use nystream_kernels::tile::{CenterBlocks, Entry, TileScratch};
use nystream_kernels::tree::SumTree;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The centers that a process has.
///
/// ```
/// use nystream_dataflows::matvec::grid::Shard;
/// let shards: Vec<Shard> = (0..3).map(|process| Shard::of(10_000, 3, process)).collect();
/// assert_eq!(shards.iter().map(|shard| shard.centers()).collect::<Vec<_>>(), [0..4096, 4096..8192, 8192..10_000]);
/// // One block is never divided.
/// assert_eq!(Shard::of(4096, 2, 1), Shard::whole(4096));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    centers: Range<usize>,
    total: usize,
    /// Process and processes, where they share.
    among: Option<(usize, usize)>,
}

impl Shard {
    /// All of `total` centers, in every process.
    pub fn whole(total: usize) -> Self {
        Shard { centers: 0..total, total, among: None }
    }

    /// The share of `process` of `processes`: whole blocks, and none where there are fewer blocks than processes.
    pub fn of(total: usize, processes: usize, process: usize) -> Self {
        if processes <= 1 || total <= CENTER_BLOCK {
            return Self::whole(total);
        }
        let blocks = share(total.div_ceil(CENTER_BLOCK) as u64, processes as u64, process as u64);
        let [start, end] = [blocks.start, blocks.end].map(|block| (block as usize * CENTER_BLOCK).min(total));
        Shard { centers: start..end, total, among: Some((process, processes)) }
    }

    /// The centers of the largest share, for plans.
    pub fn largest(total: usize, processes: usize) -> usize {
        let processes = processes.max(1);
        if processes == 1 || total <= CENTER_BLOCK {
            return total;
        }
        (total.div_ceil(CENTER_BLOCK).div_ceil(processes) * CENTER_BLOCK).min(total)
    }

    /// Its centers.
    pub fn centers(&self) -> Range<usize> {
        self.centers.clone()
    }

    /// All centers.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Process and processes, where they share.
    pub fn among(&self) -> Option<(usize, usize)> {
        self.among
    }

    /// Number of all blocks.
    pub fn blocks(&self) -> u64 {
        self.total.div_ceil(CENTER_BLOCK) as u64
    }

    /// The number of its first block.
    pub fn first_block(&self) -> u64 {
        self.centers.start.div_ceil(CENTER_BLOCK) as u64
    }

    /// Its blocks, counted from its first center.
    pub fn own_blocks(&self) -> Vec<Range<usize>> {
        center_blocks(self.centers.len()).collect()
    }

    /// Whether the last of all centers is here.
    pub fn has_last(&self) -> bool {
        self.centers.end == self.total && !self.centers.is_empty()
    }
}

/// Rows whose products with a block are formed at once.
const SLICE: usize = 256;

/// Rows that each have sums over the leaves of some trees.
struct RowSums<F> {
    /// Segments that are left, and rows of each.
    segments: Range<usize>,
    cut: Cut,
    trees: Vec<u64>,
    columns: usize,
    work: F,
    parcels: Vec<Outgoing>,
}

/// Rows in as many runs as there are workers: where each begins, and the number of all.
#[derive(Clone)]
struct Cut(Arc<Vec<usize>>);

impl Cut {
    /// Equal runs.
    fn equal(rows: usize, peers: usize) -> Self {
        Cut(Arc::new((0..=peers).map(|k| (rows as u128 * k as u128 / peers as u128) as usize).collect()))
    }

    fn rows(&self, segment: usize) -> Range<usize> {
        self.0[segment]..self.0[segment + 1]
    }
}

/// Bytes of numbers that arrived.
fn numbers(bytes: &[u8]) -> impl Iterator<Item = f64> {
    bytes.chunks_exact(8).map(|w| f64::from_le_bytes(std::array::from_fn(|k| w[k])))
}

impl<F: FnMut(Range<usize>, &mut [SumTree]) -> Result<(), StageError>> Scan for RowSums<F> {
    fn step(&mut self) -> Result<Step, StageError> {
        let Some(segment) = self.segments.next() else { return Ok(Step::Done) };
        let rows = self.cut.rows(segment);
        if rows.is_empty() {
            return Ok(Step::More { rows: 0 });
        }
        let mut trees: Vec<SumTree> = self.trees.iter().map(|leaves| SumTree::new(*leaves)).collect();
        let length = rows.len() * self.columns;
        (self.work)(rows, &mut trees)?;
        let mut bytes = Vec::new();
        for tree in trees {
            let nodes = tree.into_nodes();
            bytes.extend_from_slice(&(nodes.len() as u64).to_le_bytes());
            write_nodes(&nodes, 0..length, &mut bytes);
        }
        self.parcels.push(Outgoing { key: segment as u64, bytes });
        Ok(Step::More { rows: 0 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(self.parcels)
    }
}

/// Completes the trees of the segments that this worker owns, and adds their roots in order.
struct Segments {
    cut: Cut,
    trees: Vec<u64>,
    columns: usize,
    sums: BTreeMap<u64, Vec<SumTree>>,
}

fn damaged() -> StageError {
    StageError::Internal("sums of rows arrived damaged".into())
}

impl Reducer for Segments {
    fn absorb(&mut self, key: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        let length = self.cut.rows(key as usize).len() * self.columns;
        let new = || self.trees.iter().map(|leaves| SumTree::new(*leaves)).collect();
        let mut left = bytes.as_slice();
        for tree in self.sums.entry(key).or_insert_with(new) {
            let (nodes, rest) = left.split_first_chunk::<8>().ok_or_else(damaged)?;
            left = rest;
            for _ in 0..u64::from_le_bytes(*nodes) {
                let (head, _) = left.split_at_checked(24).ok_or_else(damaged)?;
                let size = 24 + if head[16] == 0 { 0 } else { 8 * length };
                let (node, rest) = left.split_at_checked(size).ok_or_else(damaged)?;
                read_nodes(node, length, tree)?;
                left = rest;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let mut out = Vec::new();
        for (key, trees) in std::mem::take(&mut self.sums) {
            let mut sum: Vec<f64> = Vec::new();
            for tree in trees {
                let root = tree.finish().map_err(|e| StageError::Internal(e.to_string()))?;
                match sum.is_empty() {
                    true => sum = root,
                    false => sum.iter_mut().zip(&root).for_each(|(sum, value)| *sum += value),
                }
            }
            out.push(Outgoing { key, bytes: sum.iter().flat_map(|v| v.to_le_bytes()).collect() });
        }
        Ok(out)
    }
}

/// `columns` values for each of `rows` rows, row-major, on every worker of every process: the sum of the roots of trees of so many leaves (`trees`).
///
/// `work(range, trees)` inserts for the rows of `range` the leaves that this process has: each leaf of a tree comes from one process. With `shard` whole every process
/// has all leaves, and each range is asked of one worker of all; otherwise of one worker of each process.
///
/// # Errors
/// Those of `work`, and [`StageError::Internal`] for leaves that are missing.
#[allow(clippy::too_many_arguments)]
pub fn row_values<F>(
    session: &mut Session<'_>,
    name: &str,
    shard: &Shard,
    rows: usize,
    columns: usize,
    trees: Vec<u64>,
    work: F,
) -> Result<Arc<Vec<f64>>, StageError>
where
    F: FnMut(Range<usize>, &mut [SumTree]) -> Result<(), StageError> + 'static,
{
    let cut = Cut::equal(rows, session.peers());
    let parcels = segments_of(session, name, shard, &cut, columns, trees, Audience::Leaders, work)?;
    session.try_once(|| {
        let mut values = Vec::with_capacity(rows * columns);
        for parcel in parcels {
            let from = cut.rows(parcel.key as usize).start * columns;
            if values.len() != from {
                return Err(damaged());
            }
            values.extend(numbers(&parcel.bytes));
        }
        if values.len() == rows * columns { Ok(values) } else { Err(damaged()) }
    })
}

/// The sums of the segments of `cut`, each by its owner, for `audience`.
#[allow(clippy::too_many_arguments)]
fn segments_of<F>(
    session: &mut Session<'_>,
    name: &str,
    shard: &Shard,
    cut: &Cut,
    columns: usize,
    trees: Vec<u64>,
    audience: Audience,
    work: F,
) -> Result<Vec<Outgoing>, StageError>
where
    F: FnMut(Range<usize>, &mut [SumTree]) -> Result<(), StageError> + 'static,
{
    let processes = session.process.processes();
    let segments = match shard.among() {
        None => session.index()..session.index() + 1,
        Some(_) => session.local_index() * processes..(session.local_index() + 1) * processes,
    };
    let scan = RowSums { segments, cut: cut.clone(), trees: trees.clone(), columns, work, parcels: Vec::new() };
    let reducer = Segments { cut: cut.clone(), trees, columns, sums: BTreeMap::new() };
    pass(session, name, scan, reducer, audience)
}

/// Rows that come to a worker piece by piece, and what becomes of them once their sums over shared centers are known.
pub(crate) trait Dealt {
    /// Reads the next rows. `false` when there are none.
    ///
    /// # Errors
    /// End the pass everywhere.
    fn read(&mut self) -> Result<bool, StageError>;
    /// Those rows.
    fn rows(&self) -> Rows<'_>;
    /// Their sums, row-major.
    ///
    /// # Errors
    /// End the pass everywhere.
    fn take(&mut self, sums: Vec<f64>) -> Result<(), StageError>;
}

/// What a worker deals in a round, or the error that it met.
struct Dealing(Option<Result<Vec<Outgoing>, StageError>>);

impl Scan for Dealing {
    fn step(&mut self) -> Result<Step, StageError> {
        Ok(Step::Done)
    }

    fn finish(mut self) -> Result<Vec<Outgoing>, StageError> {
        self.0.take().unwrap_or_else(|| Ok(Vec::new()))
    }
}

/// Deals the rows of all workers to all processes, round by round, and gives each worker the sums k(x, Z) alpha of its own: of blocks of centers that the processes share
/// (`blocks`, with the `coefficients` and `columns` of those). Every worker calls this in step.
///
/// A round is the next rows of every worker: they go to each process once, and only their sums come back to who has them.
pub(crate) fn deal_rows<T: Entry, D: Dealt>(
    session: &mut Session<'_>,
    name: &str,
    shard: &Shard,
    shared: &Arc<impl ShardBlocks<T> + Send + Sync + 'static>,
    dealt: &mut D,
) -> Result<(), StageError> {
    let columns = shared.columns();
    let mut met = Ok(());
    loop {
        let read = met.and_then(|()| dealt.read()).map(|more| {
            if !more {
                return Vec::new();
            }
            let rows = dealt.rows();
            let mut bytes = Writer::default();
            bytes.rows(&RowBuf {
                numeric: rows.all_numeric().to_vec(),
                numeric_width: rows.numeric_width(),
                codes: rows.all_codes().to_vec(),
                code_width: rows.code_width(),
            });
            vec![Outgoing { key: session.index() as u64, bytes: bytes.0 }]
        });
        let mine = read.as_ref().is_ok_and(|parcels| !parcels.is_empty());
        let parcels = pass(session, name, Dealing(Some(read)), Gather::default(), Audience::Leaders)?;
        let peers = session.peers();
        let round = session.try_once(|| {
            let mut all: Option<RowBuf> = None;
            let mut starts = vec![0; peers + 1];
            for Outgoing { key, bytes } in parcels {
                let rows = Reader(&bytes).rows()?;
                starts[key as usize + 1] = rows.len();
                match &mut all {
                    None => all = Some(rows),
                    Some(all) => {
                        all.numeric.extend_from_slice(&rows.numeric);
                        all.codes.extend_from_slice(&rows.codes);
                    }
                }
            }
            (1..=peers).for_each(|k| starts[k] += starts[k - 1]);
            Ok((all, Cut(Arc::new(starts))))
        })?;
        if round.0.is_none() {
            return Ok(());
        }
        let cut = round.1.clone();
        let (own, process) = (Arc::clone(shared), Arc::clone(&session.process));
        let (first, mut scratch) = (shard.first_block(), TileScratch::default());
        let work = move |range: Range<usize>, trees: &mut [SumTree]| {
            let Some(rows) = round.0.as_ref() else { return Ok(()) };
            let (blocks, v) = own.parts();
            let mut parts: Vec<Vec<f64>> = blocks.blocks().iter().map(|_| Vec::new()).collect();
            for start in range.clone().step_by(SLICE) {
                let x = rows.view().slice(start, (start + SLICE).min(range.end));
                for ((block, tiles), part) in blocks.blocks().iter().zip(&mut parts) {
                    let at = part.len();
                    part.resize(at + x.len() * columns, 0.0);
                    let v = &v[block.start * columns..block.end * columns];
                    tiles.k_v(x, v, columns, &mut scratch, &mut part[at..]);
                }
            }
            for (number, part) in (first..).zip(parts) {
                trees[0].insert(0, number, part).map_err(|e| StageError::Internal(e.to_string()))?;
            }
            let entries = (range.len() * blocks.centers()) as u64;
            process.count(entries, entries * 2 * columns as u64);
            Ok(())
        };
        let trees = vec![shard.blocks()];
        let sums = segments_of(session, name, shard, &cut, columns, trees, Audience::Owners, work)?;
        let own = sums.iter().find(|parcel| parcel.key == session.index() as u64);
        let sums: Vec<f64> = own.map(|parcel| numbers(&parcel.bytes).collect()).unwrap_or_default();
        met = match mine {
            true => {
                session.process.handled(cut.rows(session.index()).len() as u64);
                dealt.take(sums)
            }
            false => Ok(()),
        };
    }
}

/// Blocks of centers with the coefficients of those.
pub(crate) trait ShardBlocks<T: Entry> {
    /// Both.
    fn parts(&self) -> (&CenterBlocks<T>, &[f64]);
    /// Columns of the coefficients.
    fn columns(&self) -> usize;
}

/// The sum of vectors of `length` values over all blocks of centers, of which this process has `blocks`, on every worker. What the workers of a process give is the same.
///
/// # Errors
/// [`StageError::Internal`] for a damaged exchange.
pub fn over_centers(
    session: &mut Session<'_>,
    shard: &Shard,
    blocks: Vec<Vec<f64>>,
    length: usize,
) -> Result<Vec<f64>, StageError> {
    let internal = |e: nystream_kernels::tree::TreeError| StageError::Internal(e.to_string());
    let mut tree = SumTree::new(shard.blocks());
    for (block, values) in (shard.first_block()..).zip(blocks) {
        tree.insert(0, block, values).map_err(internal)?;
    }
    if shard.among().is_none() {
        let sum = tree.finish().map_err(internal)?;
        return Ok(if sum.is_empty() { vec![0.0; length] } else { sum });
    }
    if length == 0 {
        return Ok(Vec::new());
    }
    let parcels = if session.is_leader() { node_parcels(tree.into_nodes(), length) } else { Vec::new() };
    summed(session, "sums over centers", parcels, shard.blocks(), length).map(Arc::unwrap_or_clone)
}

/// The sum of a vector of each process, in their order, on every worker: where each value is that of one process and 0 in the others, that value.
///
/// # Errors
/// [`StageError::Internal`] for a damaged exchange.
pub fn over_processes(session: &mut Session<'_>, shard: &Shard, mine: Vec<f64>) -> Result<Arc<Vec<f64>>, StageError> {
    let Some((process, processes)) = shard.among() else { return Ok(session.once(|| mine)) };
    let (length, mut tree) = (mine.len(), SumTree::new(processes as u64));
    tree.insert(0, process as u64, mine).map_err(|e| StageError::Internal(e.to_string()))?;
    let parcels = if session.is_leader() { node_parcels(tree.into_nodes(), length) } else { Vec::new() };
    summed(session, "parts of processes", parcels, processes as u64, length)
}

/// What one process has for all, on every worker: `values` of the process that gives some. Others give `None`.
///
/// # Errors
/// [`StageError::Internal`] for a damaged exchange.
pub fn from_one(
    session: &mut Session<'_>,
    name: &str,
    values: Option<Vec<f64>>,
    length: usize,
) -> Result<Arc<Vec<f64>>, StageError> {
    let mut tree = SumTree::new(1);
    if let Some(values) = values.filter(|_| session.is_leader()) {
        tree.insert(0, 0, values).map_err(|e| StageError::Internal(e.to_string()))?;
    }
    summed(session, name, node_parcels(tree.into_nodes(), length), 1, length)
}

/// The rows of all shards, one after the other, of which this process has `mine`: on every worker.
///
/// # Errors
/// [`StageError::Internal`] for a damaged exchange.
pub fn gather(session: &mut Session<'_>, shard: &Shard, mine: Vec<f64>) -> Result<Arc<Vec<f64>>, StageError> {
    let Some((process, _)) = shard.among() else { return Ok(session.once(|| mine)) };
    let mut parcels = Vec::new();
    if session.is_leader() {
        // The first worker of each process owns what it gives.
        let key = (process * session.process.workers()) as u64;
        parcels.push(Outgoing { key, bytes: mine.iter().flat_map(|v| v.to_le_bytes()).collect() });
    }
    drop(mine);
    let parcels = pass(session, "shards", parcels, Gather::default(), Audience::Leaders)?;
    session.try_once(|| Ok(parcels.iter().flat_map(|parcel| numbers(&parcel.bytes)).collect()))
}
