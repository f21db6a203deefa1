//! Randomly pivoted Cholesky: picks pivots with probability proportional to w_i d_i, d the residual diagonal.
//!
//! Chen, Epperly, Tropp and Webber, "Randomly pivoted Cholesky" (2022). With pivots P and L L^T = K_PP,
//! F = K(., P) L^-T and d = diag(K - F F^T); the expected trace error is near that of the best approximation of the same
//! rank. Weights make w_i d_i the residual mass of the rows that a survivor of a dictionary stands for.
//!
//! **Sequential form** ([`sequential`]): one race per pivot. Row i finishes at -ln(u) / (w_i d_i), u hashed from
//! (seed, round, id); the first to finish is the pivot.
//!
//! **Accelerated form** ([`rp_cholesky`]), after Epperly, Tropp and Webber, "Embrace rejection" (2024), same law: let every
//! row be a Poisson process of rate w_i d_i. All arrivals before a fixed time, in order of time, are proposals; a proposal
//! is accepted with probability (its residual now) / (its residual when the round began), and accepted pivots are eliminated from
//! the others. The accepted ones are a Poisson process whose rate follows the residual, so their order is that of the
//! sequential form, whatever the window; Poisson processes have no memory, so the next round starts afresh. A row's
//! arrivals depend on that row alone: nothing is drawn in common, and there is no "with or without replacement"
//! to get wrong. After a round, one blocked update serves all accepted pivots.
//!
//! **In pieces**: the pool is cut into blocks ([`PoolBlock`]), which propose and update independently; [`Pivoting`] is the small state (pivots and L) that every worker replicates. A round is
//!
//! ```text
//! window = pivoting.window()                        // None: finished
//! proposals = all blocks: block.propose(window)     // gathered to everyone
//! pivoting.reject(proposals)                        // the same on everyone
//! mass = all blocks: block.update(pivoting)         // summed in block order: Mass::sum
//! pivoting.observe(mass)
//! ```
//!
//! A block's bits depend on the block alone, so they do not depend on how blocks are spread. [`rp_cholesky`] puts rows into blocks by a hash of their ids, so
//! that one that comes or goes changes one block, and [`KnownPivots`] of an earlier run save most of the next one's work where its pivots are the same.
//!
//! Cost for n rows and m pivots: n m kernel values and n m^2 flops when F is stored (8 n m bytes); recomputed, the flops grow by
//! about a third of the number of rounds (6 to 12) and the memory shrinks to one block. Plus about 3 m^3 replicated.

mod block;
mod known;
mod pivoting;
mod sequential;

pub use block::{Mass, POOL_BLOCK_ROWS, PoolBlock, Proposal};
pub use known::{KnownPivots, rp_cholesky_again};
pub use pivoting::{Pivoting, Window};
pub use sequential::sequential;

use super::{KernelOracle, SamplingError};
use crate::rows::Rows;
use faer::Mat;
use nystream_hashing::{RowId, StreamKey};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// A row whose residual is at most this times k(x, x) is never a pivot: its residual is rounding noise.
pub const RESIDUAL_FLOOR: f64 = 1e-12;

/// Pivoting stops when the weighted residual trace is at most this times the weighted trace.
pub const TRACE_FLOOR: f64 = 1e-13;

/// *Shape.* Rows of a block of [`rp_cholesky`]'s pool, on average, at least; at most twice as many.
const LEAST_LEAF_ROWS: usize = 64;

/// What becomes of the factor F between rounds. The bits of the result are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactorStorage {
    /// Kept: 8 n m bytes.
    #[default]
    Stored,
    /// Computed again in every round, block by block.
    Recomputed,
}

/// How many proposals a round makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batch {
    /// Starts at m/10 and moves so that rejection takes about a quarter of the flops of the update.
    #[default]
    Adaptive,
    /// On average this many (at least 1).
    Fixed(usize),
}

/// Parameters of [`rp_cholesky`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PivotParams {
    /// Pivots wanted (m).
    pub centers: usize,
    /// Seed.
    pub seed: u64,
    /// Proposals a round.
    pub batch: Batch,
    /// What becomes of F between rounds.
    pub storage: FactorStorage,
    /// Pivots are drawn in proportion to w d^exponent, in (0, 1]: 1 is the law of randomly pivoted Cholesky; towards 0 rows that
    /// resemble no other are drawn less, and pivots are spread like the rows.
    pub exponent: f64,
}

impl PivotParams {
    /// `centers` pivots, adaptive batches, F stored.
    pub fn new(centers: usize, seed: u64) -> Self {
        PivotParams { centers, seed, batch: Batch::default(), storage: FactorStorage::default(), exponent: 1.0 }
    }
}

/// Why pivoting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// As many pivots as asked for.
    Reached,
    /// The residual is zero to working precision: fewer pivots than asked for span everything.
    RankDeficient,
}

/// The residual after a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceStep {
    /// Pivots so far.
    pub centers: usize,
    /// sum w d / sum w k(x, x) over the pool.
    pub trace_error: f64,
}

/// The pivots, in the order they were picked.
#[derive(Clone, Debug)]
pub struct Pivots {
    /// Positions of the pivots in the rows given.
    pub indices: Vec<usize>,
    /// Their ids.
    pub ids: Vec<RowId>,
    /// L, k x k lower triangular: L L^T = K_PP.
    pub factor: Mat<f64>,
    /// Weighted relative trace error after every round, from 1 on.
    pub trace: Vec<TraceStep>,
    /// Proposals made; the accepted share is `indices.len() / proposals`.
    pub proposals: u64,
    /// Why it ended.
    pub stop: Stop,
}

impl Pivots {
    /// Weighted relative trace error of the pool: sum w d / sum w k(x, x).
    pub fn trace_error(&self) -> f64 {
        self.trace.last().map_or(1.0, |step| step.trace_error)
    }
}

/// Accelerated randomly pivoted Cholesky over `rows` with `ids` (unique) and `weights` (not negative; `None` = 1).
///
/// The rows are taken in an order that their ids give, so the pivots do not depend on the order they are given in. Fewer than
/// `params.centers` pivots come back when the kernel matrix has a lower rank ([`Pivots::stop`]).
///
/// # Errors
/// [`SamplingError::Lengths`], [`SamplingError::BadWeight`], [`SamplingError::DuplicateId`], and [`SamplingError::NotFinite`] when a
/// k(x, x), or their weighted sum, is not a finite number.
///
/// ```
/// use nystream_hashing::RowId;
/// use nystream_kernels::kernel::{Family, Kernel};
/// use nystream_kernels::rows::Rows;
/// use nystream_kernels::sampling::{PivotParams, rp_cholesky, rpcholesky::Stop};
/// let values: Vec<f32> = (0..100).map(|i| (i % 10) as f32).collect();
/// let ids: Vec<RowId> = (0..100).map(RowId).collect();
/// let kernel = Kernel::new(Family::Gaussian, 1.0);
/// let pivots = rp_cholesky(&kernel, Rows::new(&values, 1, &[], 0), &ids, None, PivotParams::new(20, 7)).unwrap();
/// // Only ten distinct rows exist.
/// assert_eq!((pivots.indices.len(), pivots.stop), (10, Stop::RankDeficient));
/// ```
pub fn rp_cholesky<O: KernelOracle + ?Sized>(
    oracle: &O,
    rows: Rows<'_>,
    ids: &[RowId],
    weights: Option<&[f64]>,
    params: PivotParams,
) -> Result<Pivots, SamplingError> {
    // What is known afterwards is not kept.
    rp_cholesky_again(oracle, rows, ids, weights, params, &mut KnownPivots::new(0))
}

/// Bits of the hash by which `rows` are put into blocks: as many as leave [`LEAST_LEAF_ROWS`] to twice as many on average.
fn leaf_bits(rows: usize) -> u32 {
    (rows / LEAST_LEAF_ROWS).max(1).ilog2()
}

/// Positions of the rows by leaf of their ids' hashes, those of a leaf in the order of their ids.
pub(super) fn leaves(rows: usize, ids: &[RowId]) -> Result<Vec<Vec<usize>>, SamplingError> {
    let bits = leaf_bits(rows);
    let key = StreamKey::new(0, "rpcholesky leaves", 0);
    let leaf = |i: usize| if bits == 0 { 0 } else { (key.u128(ids[i]) >> (128 - bits)) as usize };
    let mut leaves = vec![Vec::new(); 1 << bits];
    for i in super::dictionary::id_order(rows, ids)? {
        leaves[leaf(i)].push(i);
    }
    Ok(leaves)
}

/// The pool in the order of its leaves, a block of each.
fn pool<O: KernelOracle + ?Sized>(
    oracle: &O,
    rows: Rows<'_>,
    ids: &[RowId],
    weights: Option<&[f64]>,
    params: PivotParams,
) -> Result<(Vec<usize>, Vec<PoolBlock>), SamplingError> {
    if let Some(weights) = weights {
        if weights.len() != rows.len() {
            return Err(SamplingError::Lengths { rows: rows.len(), others: weights.len(), what: "weights" });
        }
        if let Some(row) = weights.iter().position(|w| !(*w >= 0.0 && w.is_finite())) {
            return Err(SamplingError::BadWeight { row, weight: weights[row] });
        }
    }
    let leaves = leaves(rows.len(), ids)?;
    let order = leaves.concat();
    let mut first = 0;
    let placed = leaves.into_iter().map(|leaf| {
        first += leaf.len();
        (first - leaf.len(), leaf)
    });
    let blocks: Vec<PoolBlock> = placed
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|(first, leaf)| {
            let rows = crate::rows::RowBuf::gather(rows, &leaf);
            let block_weights = leaf.iter().map(|i| weights.map_or(1.0, |w| w[*i])).collect();
            let block_ids = leaf.iter().map(|i| ids[*i]).collect();
            PoolBlock::new(oracle, first as u64, rows, block_ids, block_weights, params)
        })
        .collect();
    let total = Mass::sum(blocks.iter().map(PoolBlock::mass)).total;
    if total.is_finite() { Ok((order, blocks)) } else { Err(SamplingError::NotFinite { value: total }) }
}
