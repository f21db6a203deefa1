//! Held-out error: one pass that predicts and compares.
//!
//! Sums of errors go over the fixed tree like every floating-point sum; ranks (for the AUC) are integer counts of
//! scores in [`SCORE_BINS`] equal bins of [-1/2, 3/2], in which ties count half: an error of at most one bin's share.
//! Cost: n m entries, n t values, and the bins.

mod metrics;

pub(crate) use metrics::argmax;
pub use metrics::{ClassMetrics, Evaluation, TargetMetrics};

use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Outgoing, Reducer, Scan, Step, pass};
use crate::engine::feed::{Feed, view};
use crate::engine::session::{Process, Session};
use crate::engine::sums::{TreeReducer, assemble, node_parcels};
use crate::error::StageError;
use crate::predict::Function;
use metrics::{SUMS_PER_TARGET, summarise};
use nystream_datasets::Chunk;
use nystream_kernels::tile::{Entry, TileScratch, Tiles};
use nystream_kernels::tree::SumTree;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Bins of scores.
pub const SCORE_BINS: usize = 1 << 18;
/// Most classes for which ranks are counted.
const RANKED_CLASSES: usize = 32;

/// Counts of scores by bin, for rows of the class and for the others: (class, bin) -> (of the class, others).
type Ranks = BTreeMap<(u32, u32), (u64, u64)>;

struct EvaluateScan<T: Entry> {
    feed: Feed,
    chunk: Chunk,
    function: Arc<Function>,
    tiles: Arc<Tiles<T>>,
    scratch: TileScratch<T>,
    tree: SumTree,
    ranks: Rc<RefCell<Ranks>>,
    process: Arc<Process>,
}

impl<T: Entry> Scan for EvaluateScan<T> {
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        self.process.note_left_out(&self.chunk);
        let code = &self.function.code;
        let t = code.width();
        let raw = self.chunk.target_width;
        let rows = self.chunk.rows();
        let mut scores = vec![0.0; rows * t];
        self.tiles.k_v(view(&self.chunk), &self.function.coefficients, t, &mut self.scratch, &mut scores);
        let mut ranks = self.ranks.borrow_mut();
        let mut outputs = vec![0.0; self.function.outputs()];
        for block in 0..self.chunk.blocks() {
            let range = self.chunk.block(block);
            let index = self.feed.global_block(&self.chunk, block);
            if range.is_empty() {
                self.tree.insert_empty(0, index).map_err(internal)?;
                continue;
            }
            let mut sums = vec![0.0; length(&self.function)];
            for i in range {
                self.function.outputs_of(&scores[i * t..(i + 1) * t], &mut outputs);
                let truth = &self.chunk.targets[i * raw..(i + 1) * raw];
                if code.is_classification() {
                    let class = truth[0] as usize;
                    metrics::add_class(&mut sums, &outputs, class);
                    if outputs.len() <= RANKED_CLASSES {
                        // Two classes rank one score; more are ranked one against the rest.
                        let ranked = if outputs.len() == 2 { 1..2 } else { 0..outputs.len() };
                        for k in ranked {
                            let count = ranks.entry((k as u32, bin(outputs[k]))).or_default();
                            if class == k { count.0 += 1 } else { count.1 += 1 }
                        }
                    }
                } else {
                    for (k, y) in truth.iter().enumerate().filter(|(_, y)| y.is_finite()) {
                        let sums = &mut sums[k * SUMS_PER_TARGET..(k + 1) * SUMS_PER_TARGET];
                        metrics::add_number(sums, *y, outputs[k], code.centres[k]);
                    }
                }
            }
            self.tree.insert(0, index, sums).map_err(internal)?;
        }
        self.process.count((rows * self.tiles.centers()) as u64, (rows * self.tiles.centers() * 2 * t) as u64);
        Ok(Step::More { rows: rows as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        let length = length(&self.function);
        Ok(node_parcels(self.tree.into_nodes(), length))
    }
}

fn internal(error: impl std::fmt::Display) -> StageError {
    StageError::Internal(error.to_string())
}

fn length(function: &Function) -> usize {
    if function.code.is_classification() { metrics::CLASS_SUMS } else { function.code.width() * SUMS_PER_TARGET }
}

fn bin(score: f64) -> u32 {
    let position = ((score + 0.5) * 0.5).clamp(0.0, 1.0) * (SCORE_BINS - 1) as f64;
    position as u32
}

#[derive(Default)]
struct MergeRanks(Ranks);

fn ranks_bytes(ranks: &Ranks) -> Vec<u8> {
    let mut out = Writer::default();
    for ((class, bin), (hits, others)) in ranks {
        out.u64(u64::from(*class) << 32 | u64::from(*bin));
        out.u64(*hits);
        out.u64(*others);
    }
    out.0
}

fn add_ranks(into: &mut Ranks, bytes: &[u8]) -> Result<(), StageError> {
    let mut from = Reader(bytes);
    while !from.is_empty() {
        let key = from.u64()?;
        let count = into.entry(((key >> 32) as u32, key as u32)).or_default();
        count.0 += from.u64()?;
        count.1 += from.u64()?;
    }
    Ok(())
}

impl Reducer for MergeRanks {
    fn absorb(&mut self, _: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        add_ranks(&mut self.0, &bytes)
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let ranks = std::mem::take(&mut self.0);
        Ok(if ranks.is_empty() { Vec::new() } else { vec![Outgoing { key: 0, bytes: ranks_bytes(&ranks) }] })
    }
}

/// Evaluates `function` on the rows of `feed`; the result is on every worker.
///
/// # Errors
/// Bad data, or a damaged exchange.
pub fn evaluate<T: Entry>(
    session: &mut Session<'_>,
    name: &str,
    feed: Feed,
    function: &Arc<Function>,
    tiles: &Arc<Tiles<T>>,
) -> Result<Evaluation, StageError> {
    let ranks = Rc::new(RefCell::new(Ranks::new()));
    let blocks = feed.total_blocks();
    let scan = EvaluateScan {
        feed,
        chunk: Chunk::default(),
        function: Arc::clone(function),
        tiles: Arc::clone(tiles),
        scratch: TileScratch::default(),
        tree: SumTree::new(blocks),
        ranks: Rc::clone(&ranks),
        process: Arc::clone(&session.process),
    };
    let length = length(function);
    let parcels = pass(session, name, scan, TreeReducer::new(blocks, length), Audience::Everyone)?;
    let sums = assemble(parcels, length)?;
    let mut all = Ranks::new();
    if function.code.is_classification() {
        let outgoing = vec![Outgoing { key: 0, bytes: ranks_bytes(&ranks.borrow()) }];
        for parcel in pass(session, "ranks", outgoing, MergeRanks::default(), Audience::Everyone)? {
            add_ranks(&mut all, &parcel.bytes)?;
        }
    }
    Ok(summarise(function, &sums, &all))
}
