//! Randomly pivoted Cholesky on all training rows, by passes over them instead of a pool held in memory.
//!
//! A round of `nystream_kernels::sampling::rpcholesky` is one pass. Each sum block is cut into pieces of [`POOL_BLOCK_ROWS`] rows
//! by position; a piece is made anew in every pass, brought up to date from the pivots so far, and proposes. Nothing about a row is
//! remembered between passes, so memory does not grow with n.
//!
//! The length of a round's window comes from the residual mass that the pass before measured, before the last pivots were accepted: the
//! law of the pivots is the same for any window, and a mass that is a round old makes it a little shorter, where a fresh one would
//! take a second pass a round.
//!
//! *Invariant.* A piece's bits depend on its rows alone, masses are summed over the fixed tree, proposals are judged in an
//! order of their own: the pivots do not depend on the workers.
//!
//! Cost: rounds (10 to 20) passes; a pass with k pivots known takes n k kernel values in f64 and n k^2 flops, so about
//! n m^2 / 3 flops a round; 2 m^2 values on every process.

use super::{Centers, Method, SelectJob, SelectionRule, TileOracle, numeric};
use crate::engine::bytes::{Reader, Writer};
use crate::engine::checkpoint::remember;
use crate::engine::exchange::{Audience, Outgoing, Reducer, Scan, Step, pass};
use crate::engine::feed::{Feed, RowStore, view};
use crate::engine::leases::Leased;
use crate::engine::session::{Process, Session};
use crate::engine::sums::{TreeReducer, assemble, node_parcels};
use crate::error::StageError;
use crate::plan::plural;
use nystream_datasets::{Chunk, Role};
use nystream_kernels::rows::RowBuf;
use nystream_kernels::sampling::rpcholesky::{Mass, POOL_BLOCK_ROWS, Pivoting, PoolBlock, Proposal, Window};
use nystream_kernels::sampling::{FactorStorage, PivotParams};
use nystream_kernels::tree::SumTree;
use std::sync::Arc;

/// Key of the mass sums, and of the proposals.
const MASS: u64 = 0;
const PROPOSALS: u64 = 1;

struct RoundScan {
    feed: Feed,
    chunk: Chunk,
    oracle: Arc<TileOracle>,
    params: PivotParams,
    /// Pivots so far and the round's window; `None` in the first pass, which only measures.
    round: Option<(Arc<Pivoting>, Window)>,
    tree: SumTree,
    proposals: Vec<Proposal>,
    process: Arc<Process>,
}

impl RoundScan {
    /// One piece: its mass, and its proposals.
    fn piece(&mut self, start: usize, end: usize) -> Mass {
        let rows = view(&self.chunk).slice(start, end);
        let rows = RowBuf::gather(rows, &(0..end - start).collect::<Vec<_>>());
        let ids = self.chunk.ids[start..end].to_vec();
        let weights = vec![1.0; end - start];
        let mut piece = PoolBlock::new(&*self.oracle, 0, rows, ids, weights, self.params);
        let Some((pivoting, window)) = &self.round else { return piece.mass() };
        let mass = piece.update(&*self.oracle, pivoting);
        self.proposals.extend(piece.propose(*window));
        mass
    }
}

impl Scan for RoundScan {
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        for block in 0..self.chunk.blocks() {
            let range = self.chunk.block(block);
            let index = self.feed.global_block(&self.chunk, block);
            if range.is_empty() {
                self.tree.insert_empty(0, index).map_err(internal)?;
                continue;
            }
            let pieces: Vec<usize> = range.clone().step_by(POOL_BLOCK_ROWS).collect();
            let mass =
                Mass::sum(pieces.into_iter().map(|start| self.piece(start, (start + POOL_BLOCK_ROWS).min(range.end))));
            self.tree.insert(0, index, vec![mass.live, mass.residual, mass.total]).map_err(internal)?;
        }
        let rows = self.chunk.rows() as u64;
        let known = self.round.as_ref().map_or(0, |(pivoting, _)| pivoting.centers()) as u64;
        self.process.count(rows * known, rows * known * known);
        Ok(Step::More { rows })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        let mut out = node_parcels(self.tree.into_nodes(), 3);
        let chunk = &self.chunk;
        out.push(Outgoing { key: PROPOSALS, bytes: to_bytes(&self.proposals, chunk.numeric_width, chunk.code_width) });
        Ok(out)
    }

    fn leased(&mut self) -> Option<&mut dyn Leased> {
        Some(&mut self.feed)
    }
}

fn internal(error: impl std::fmt::Display) -> StageError {
    StageError::Internal(error.to_string())
}

fn to_bytes(proposals: &[Proposal], numeric_width: usize, code_width: usize) -> Vec<u8> {
    let mut rows = RowBuf::new(numeric_width, code_width);
    let mut out = Writer::default();
    out.f64s(&proposals.iter().flat_map(|p| [p.time, p.residual]).collect::<Vec<_>>());
    out.ids(&proposals.iter().map(|p| p.id).collect::<Vec<_>>());
    for proposal in proposals {
        out.u64(u64::from(proposal.arrival));
        rows.numeric.extend_from_slice(&proposal.numeric);
        rows.codes.extend_from_slice(&proposal.codes);
    }
    out.rows(&rows);
    out.0
}

fn from_bytes(bytes: &[u8], into: &mut Vec<Proposal>) -> Result<(), StageError> {
    let mut from = Reader(bytes);
    let numbers = from.f64s()?;
    let ids = from.ids()?;
    let arrivals = ids.iter().map(|_| from.u64()).collect::<Result<Vec<_>, _>>()?;
    let rows = from.rows()?;
    let (d, c, n) = (rows.numeric_width, rows.code_width, ids.len());
    if numbers.len() != 2 * n || rows.numeric.len() != n * d || rows.codes.len() != n * c {
        return Err(StageError::Internal("proposals of pivots arrived damaged".into()));
    }
    into.extend((0..n).map(|i| Proposal {
        time: numbers[2 * i],
        residual: numbers[2 * i + 1],
        id: ids[i],
        arrival: arrivals[i] as u32,
        // Streamed rows have no position: pivots are known by their ids.
        position: 0,
        numeric: rows.numeric[i * d..(i + 1) * d].to_vec(),
        codes: rows.codes[i * c..(i + 1) * c].to_vec(),
    }));
    Ok(())
}

/// Sums the masses and hands the proposals on.
struct RoundReducer {
    masses: TreeReducer,
    proposals: Vec<Outgoing>,
}

impl Reducer for RoundReducer {
    fn absorb(&mut self, key: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        if key == MASS {
            return self.masses.absorb(key, bytes);
        }
        self.proposals.push(Outgoing { key, bytes });
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let mut out = self.masses.finish()?;
        out.append(&mut self.proposals);
        Ok(out)
    }
}

/// What a pass brings: the mass before the round, and the round's proposals.
fn round(
    session: &mut Session<'_>,
    store: &RowStore,
    oracle: &Arc<TileOracle>,
    params: PivotParams,
    (number, round): (u64, Option<(Arc<Pivoting>, Window)>),
) -> Result<Arc<(Mass, Vec<Proposal>)>, StageError> {
    let feed = store.feed(Role::Training);
    let blocks = feed.total_blocks();
    let scan = RoundScan {
        feed,
        chunk: Chunk::default(),
        oracle: Arc::clone(oracle),
        params,
        round,
        tree: SumTree::new(blocks),
        proposals: Vec::new(),
        process: Arc::clone(&session.process),
    };
    let reducer = RoundReducer { masses: TreeReducer::new(blocks, 3), proposals: Vec::new() };
    let parcels = remember(session, &format!("pivots {number}"), Audience::Leaders, |session| {
        pass(session, "dictionary: pivots", scan, reducer, Audience::Leaders)
    })?;
    session.try_once(|| {
        let (masses, others): (Vec<_>, Vec<_>) = parcels.into_iter().partition(|p| p.key == MASS);
        let sums = assemble(masses, 3)?;
        let mut proposals = Vec::new();
        for parcel in others {
            from_bytes(&parcel.bytes, &mut proposals)?;
        }
        Ok((Mass { live: sums[0], residual: sums[1], total: sums[2] }, proposals))
    })
}

/// Picks the centers from all training rows.
///
/// # Errors
/// Bad data, a kernel whose diagonal is not finite, or a damaged exchange.
pub(super) fn full_passes(
    session: &mut Session<'_>,
    store: &RowStore,
    job: &SelectJob,
) -> Result<Arc<Centers>, StageError> {
    let oracle = Arc::new(TileOracle::new(&job.kernel, job.simd));
    let storage = FactorStorage::Recomputed;
    let params = PivotParams { storage, ..PivotParams::new(job.centers, job.seed) };
    let encoder = Arc::clone(store.encoder());
    let first = round(session, store, &oracle, params, (0, None))?;
    if !first.0.total.is_finite() {
        return Err(numeric(format!("the sum of k(x, x) over the rows is {}", first.0.total)));
    }
    let mut pivoting =
        session.once(|| Pivoting::new(params, job.rows, encoder.numeric_width(), encoder.code_width(), first.0));
    let mut passes = 1;
    while let Some(window) = pivoting.window() {
        let found = round(session, store, &oracle, params, (passes, Some((Arc::clone(&pivoting), window))))?;
        passes += 1;
        pivoting = session.once(|| {
            let mut next = (*pivoting).clone();
            next.observe(found.0);
            // When that mass says that the rows are spanned, this accepts nothing and the loop ends.
            next.reject(&*oracle, found.1.clone());
            next
        });
    }
    session.try_once(|| {
        let view = pivoting.pivots();
        let rows = RowBuf::gather(view, &(0..view.len()).collect::<Vec<_>>());
        let pivots = (*pivoting).clone().finish();
        let mut notes = vec![format!("pivots from all {} rows in {}", job.rows, plural(passes, "pass"))];
        if pivots.ids.len() < job.centers {
            notes.push(format!("{} centers: they span all rows to working precision", pivots.ids.len()));
        }
        Ok(Centers {
            rows,
            size: pivots.ids.len(),
            ids: pivots.ids,
            rows_scored: job.rows,
            passes,
            notes,
            rule: SelectionRule {
                method: Method::RpCholesky { full: true, tempered: false, most: None },
                pool_bits: 0,
            },
            ..Centers::default()
        })
    })
}
