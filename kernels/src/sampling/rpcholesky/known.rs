//! Pivots of a pool that has changed a little since pivots were picked from it.
//!
//! The problem: a model that follows its rows picks its centers again whenever a row of the pool has come, gone or changed, though most often the same ones come of it.
//!
//! While the pivots of a run, and their part of L, are those of the run before to the bit, a block with the same rows has the residuals that it had then: they were kept, round by
//! round, and only the other blocks are updated. Windows, proposals and rejections are as ever. From the first round with another pivot on, every block is updated, from the first
//! pivot: such a run costs what the first did.
//!
//! Invariant: the result is that of [`rp_cholesky`](super::rp_cholesky), to the bit, whatever is known. Cost: 8 n bytes a round, a hash of the pool and of L, and an arrival for every row and
//! round. 31,250 rows, 512 pivots and 31 changed rows take a fifth of the first run.

use super::{KernelOracle, Mass, PivotParams, Pivoting, Pivots, PoolBlock, Proposal, SamplingError, pool};
use crate::rows::Rows;
use nystream_hashing::RowId;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// What is left of a run for the next one. Both must be by the same kernel.
#[derive(Clone, Debug, Default)]
pub struct KnownPivots {
    params: Option<PivotParams>,
    /// Of the pivots of each round that accepted any.
    rounds: Vec<[u8; 32]>,
    /// By a hash of the block: its residuals after each of these rounds.
    blocks: BTreeMap<[u8; 32], Vec<Vec<f64>>>,
    limit: u64,
    /// Blocks of the last run, and those of them that were updated.
    pub units: (u64, u64),
}

impl KnownPivots {
    /// Nothing yet, and never more than about `limit` bytes: what does not fit is not kept.
    pub fn new(limit: u64) -> Self {
        KnownPivots { limit, ..Self::default() }
    }
}

/// A block, and what it was after each round: in the run before, as long as that holds, and in this one.
struct Member {
    key: [u8; 32],
    block: PoolBlock,
    known: Vec<Vec<f64>>,
    residuals: Vec<Vec<f64>>,
    shown: bool,
    updated: bool,
}

impl Member {
    fn update<O: KernelOracle + ?Sized>(&mut self, oracle: &O, pivoting: &Pivoting, same: bool, keep: bool) -> Mass {
        let rounds = pivoting.rounds();
        let known = if same { rounds.checked_sub(1).and_then(|last| self.known.get(last)) } else { None };
        let mass = match known {
            Some(residual) => {
                self.shown = true;
                self.block.show(residual)
            }
            None => {
                if std::mem::take(&mut self.shown) {
                    self.block.forget();
                }
                self.updated |= rounds > 0;
                self.block.update(oracle, pivoting)
            }
        };
        if keep && rounds > self.residuals.len() {
            self.residuals.push(self.block.residual().to_vec());
        }
        mass
    }
}

/// [`rp_cholesky`](super::rp_cholesky), with what is `known` of an earlier run by the same kernel on much the same rows; what is known of this one takes its place.
///
/// # Errors
/// As there; nothing is known then.
///
/// ```
/// use nystream_hashing::RowId;
/// use nystream_kernels::kernel::{Family, Kernel};
/// use nystream_kernels::rows::Rows;
/// use nystream_kernels::sampling::rpcholesky::{KnownPivots, rp_cholesky, rp_cholesky_again};
/// use nystream_kernels::sampling::PivotParams;
/// let mut values: Vec<f32> = (0..1000).map(|i| (i as f32).sin()).collect();
/// let ids: Vec<RowId> = (0..1000).map(RowId).collect();
/// let (kernel, params) = (Kernel::new(Family::Laplace, 1.0), PivotParams::new(20, 7));
/// let mut known = KnownPivots::new(1 << 20);
/// let pivots = rp_cholesky_again(&kernel, Rows::new(&values, 1, &[], 0), &ids, None, params, &mut known).unwrap();
/// // A row that is no pivot changes a little.
/// let other = (0..1000).find(|i| !pivots.indices.contains(i)).unwrap();
/// values[other] += 1e-6;
/// let rows = Rows::new(&values, 1, &[], 0);
/// let again = rp_cholesky_again(&kernel, rows, &ids, None, params, &mut known).unwrap();
/// assert_eq!(again.ids, rp_cholesky(&kernel, rows, &ids, None, params).unwrap().ids);
/// assert!(known.units.1 < known.units.0);
/// ```
pub fn rp_cholesky_again<O: KernelOracle + ?Sized>(
    oracle: &O,
    rows: Rows<'_>,
    ids: &[RowId],
    weights: Option<&[f64]>,
    params: PivotParams,
    known: &mut KnownPivots,
) -> Result<Pivots, SamplingError> {
    let mut before = std::mem::replace(known, KnownPivots::new(known.limit));
    if before.params != Some(params) {
        before = KnownPivots::default();
    }
    let (order, blocks) = pool(oracle, rows, ids, weights, params)?;
    let keys: Vec<[u8; 32]> = match known.limit {
        0 => vec![[0; 32]; blocks.len()],
        _ => blocks.par_iter().map(PoolBlock::fingerprint).collect(),
    };
    let with = |(block, key): (PoolBlock, [u8; 32])| {
        let known = before.blocks.remove(&key).unwrap_or_default();
        Member { key, block, known, residuals: Vec::new(), shown: false, updated: false }
    };
    let mut members: Vec<Member> = blocks.into_iter().zip(keys).map(with).collect();
    let total = Mass::sum(members.iter().map(|member| member.block.mass()));
    let mut pivoting = Pivoting::new(params, rows.len() as u64, rows.numeric_width(), rows.code_width(), total);
    let (mut rounds, mut same, mut keep) = (Vec::new(), true, known.limit > 0);
    while let Some(window) = pivoting.window() {
        let proposals: Vec<Proposal> =
            members.par_iter().flat_map_iter(|member| member.block.propose(window)).collect();
        pivoting.reject(oracle, proposals);
        if keep && pivoting.rounds() > rounds.len() {
            let pivots = pivoting.fingerprint(rounds.len());
            same &= before.rounds.get(rounds.len()) == Some(&pivots);
            rounds.push(pivots);
            keep = 8 * (rows.len() * rounds.len()) as u64 <= known.limit;
        }
        let each = |member: &mut Member| member.update(oracle, &pivoting, same && keep, keep);
        let masses: Vec<Mass> = members.par_iter_mut().map(each).collect();
        pivoting.observe(Mass::sum(masses));
    }
    known.units = (members.len() as u64, members.iter().filter(|member| member.updated).count() as u64);
    if keep {
        known.params = Some(params);
        known.rounds = rounds;
        known.blocks = members.into_iter().map(|member| (member.key, member.residuals)).collect();
    }
    let mut pivots = pivoting.finish();
    for index in &mut pivots.indices {
        *index = order[*index];
    }
    Ok(pivots)
}
