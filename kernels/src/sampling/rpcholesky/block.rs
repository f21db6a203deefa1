//! One block of the pool: residuals, proposals, updates.

use super::pivoting::{Pivoting, Window};
use super::{FactorStorage, PivotParams, RESIDUAL_FLOOR};
use crate::dense;
use crate::rows::{RowBuf, Rows};
use crate::sampling::KernelOracle;
use faer::{Mat, MatMut};
use nystream_hashing::{RowId, StreamKey};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// *Shape.* Rows of a block of the pool.
pub const POOL_BLOCK_ROWS: usize = 256;

/// `residual`^`exponent`; the residual itself where that is 1, which is not left to `powf`.
pub(super) fn tempered(residual: f64, exponent: f64) -> f64 {
    if exponent == 1.0 { residual } else { residual.powf(exponent) }
}

/// Sums over a block, or over the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mass {
    /// Sum of the rates w d^exponent over the rows that can still be pivots.
    pub live: f64,
    /// sum w d.
    pub residual: f64,
    /// sum w k(x, x).
    pub total: f64,
}

impl Mass {
    /// Adds the masses of blocks, which must come in block order: the sum's bits depend on it.
    pub fn sum(masses: impl IntoIterator<Item = Mass>) -> Mass {
        masses.into_iter().fold(Mass::default(), |a, b| Mass {
            live: a.live + b.live,
            residual: a.residual + b.residual,
            total: a.total + b.total,
        })
    }
}

/// A row proposed as pivot: everything that another worker needs to know about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// When it arrived within the round's window; proposals are judged in this order.
    pub time: f64,
    /// Id.
    pub id: RowId,
    /// How many times this row arrived before in this round.
    pub arrival: u32,
    /// Position in the pool.
    pub position: u64,
    /// Residual when the round began.
    pub residual: f64,
    /// Numeric part of the row.
    pub numeric: Vec<f32>,
    /// Codes of the row.
    pub codes: Vec<u16>,
}

impl Proposal {
    /// The order in which proposals are judged.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        self.time.total_cmp(&other.time).then(self.id.cmp(&other.id)).then(self.arrival.cmp(&other.arrival))
    }
}

/// Consecutive rows of the pool with their residual diagonal.
#[derive(Clone, Debug)]
pub struct PoolBlock {
    first: u64,
    rows: RowBuf,
    ids: Vec<RowId>,
    weights: Vec<f64>,
    diagonal: Vec<f64>,
    residual: Vec<f64>,
    /// Rates of the rows as Poisson processes, of this residual.
    rates: Vec<f64>,
    /// F, one column per pivot, when stored; allocated by the first update.
    factor: Option<Mat<f64>>,
    exponent: f64,
    rounds: usize,
}

impl PoolBlock {
    /// A block that starts at position `first` of the pool; `weights` are finite and not negative, one per row, like `ids`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn new<O: KernelOracle + ?Sized>(
        oracle: &O,
        first: u64,
        rows: RowBuf,
        ids: Vec<RowId>,
        weights: Vec<f64>,
        params: PivotParams,
    ) -> Self {
        assert!(rows.len() == ids.len() && rows.len() == weights.len(), "one id and one weight per row");
        let diagonal = oracle.diagonal(rows.view());
        let factor = match params.storage {
            FactorStorage::Stored => Some(Mat::new()),
            FactorStorage::Recomputed => None,
        };
        let mut block = PoolBlock {
            first,
            rows,
            ids,
            weights,
            residual: diagonal.clone(),
            rates: Vec::new(),
            diagonal,
            factor,
            exponent: params.exponent,
            rounds: 0,
        };
        block.find_rates();
        block
    }

    /// Residual diagonal of the block's rows.
    pub fn residual(&self) -> &[f64] {
        &self.residual
    }

    /// Rates as Poisson processes: w d^exponent, or 0 when the residual is rounding noise.
    fn find_rates(&mut self) {
        let rate = |((d, k), w): ((&f64, &f64), &f64)| {
            if *d > RESIDUAL_FLOOR * k { w * tempered(*d, self.exponent) } else { 0.0 }
        };
        self.rates = self.residual.iter().zip(&self.diagonal).zip(&self.weights).map(rate).collect();
    }

    /// What tells a block from any other: a hash of its ids, weights and rows.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut bytes = Vec::new();
        for (id, weight) in self.ids.iter().zip(&self.weights) {
            bytes.extend(id.0.to_le_bytes());
            bytes.extend(weight.to_le_bytes());
        }
        extend_bytes(&mut bytes, self.rows.view());
        *blake3::hash(&bytes).as_bytes()
    }

    /// The residuals of a block of the same rows after the same pivots, as it told them.
    pub(super) fn show(&mut self, residual: &[f64]) -> Mass {
        self.residual.copy_from_slice(residual);
        self.find_rates();
        self.mass()
    }

    /// Forgets what was shown: the next update begins with the first pivot.
    pub(super) fn forget(&mut self) {
        self.residual.copy_from_slice(&self.diagonal);
        self.rounds = 0;
    }

    /// The block's sums.
    pub fn mass(&self) -> Mass {
        Mass::sum((0..self.ids.len()).map(|i| Mass {
            live: self.rates[i],
            residual: self.weights[i] * self.residual[i],
            total: self.weights[i] * self.diagonal[i],
        }))
    }

    /// The arrivals of this block's rows within `window`, in order of time.
    pub fn propose(&self, window: Window) -> Vec<Proposal> {
        let first_key = window.arrival_key(0);
        let gap = |key: StreamKey, i: usize| -key.uniform(self.ids[i]).ln() / self.rates[i];
        let mut queue: BinaryHeap<Reverse<Arrival>> = (0..self.ids.len())
            .filter(|i| self.rates[*i] > 0.0)
            .map(|i| Arrival { time: gap(first_key, i), row: i, count: 0 })
            .filter(|arrival| arrival.time < window.until)
            .map(Reverse)
            .collect();
        let mut proposals = Vec::with_capacity(queue.len());
        while let Some(Reverse(arrival)) = queue.pop() {
            let i = arrival.row;
            proposals.push(Proposal {
                time: arrival.time,
                id: self.ids[i],
                arrival: arrival.count,
                position: self.first + i as u64,
                residual: self.residual[i],
                numeric: self.rows.view().numeric(i).to_vec(),
                codes: self.rows.view().codes(i).to_vec(),
            });
            let count = arrival.count + 1;
            let time = arrival.time + gap(window.arrival_key(count), i);
            if time < window.until {
                queue.push(Reverse(Arrival { time, row: i, count }));
            }
        }
        proposals
    }

    /// Takes the pivots accepted since the last update out of the residual, and returns the block's sums.
    ///
    /// A new block is brought up to date in one call, with the same bits as one that followed every round.
    pub fn update<O: KernelOracle + ?Sized>(&mut self, oracle: &O, pivoting: &Pivoting) -> Mass {
        let rounds = pivoting.rounds();
        let columns = pivoting.centers();
        if rounds > self.rounds && !self.ids.is_empty() {
            let mut scratch;
            let (factor, from) = match &mut self.factor {
                Some(factor) => {
                    if factor.ncols() == 0 {
                        *factor = Mat::zeros(self.ids.len(), pivoting.factor().ncols());
                    }
                    (factor, self.rounds)
                }
                None => {
                    scratch = Mat::zeros(self.ids.len(), columns);
                    (&mut scratch, 0)
                }
            };
            extend(oracle, self.rows.view(), pivoting, from, factor.as_mut());
            for round in self.rounds..rounds {
                for j in pivoting.span(round) {
                    for (d, f) in self.residual.iter_mut().zip(factor.col_as_slice(j)) {
                        *d -= f * f;
                    }
                }
                // Rounding can leave -1e-16 where the residual is zero.
                self.residual.iter_mut().for_each(|d| *d = d.max(0.0));
            }
            self.find_rates();
        }
        self.rounds = rounds;
        self.mass()
    }
}

/// Fills the columns of F = K(rows, P) L^-T that belong to the rounds from `from` on; the earlier ones must be there.
///
/// One round is one kernel block, one product and one triangular solve, always of the same shapes: that is
/// what makes stored and recomputed factors equal to the bit.
pub(super) fn extend<O: KernelOracle + ?Sized>(
    oracle: &O,
    rows: Rows<'_>,
    pivoting: &Pivoting,
    from: usize,
    mut f: MatMut<'_, f64>,
) {
    let l = pivoting.factor();
    for round in from..pivoting.rounds() {
        let span = pivoting.span(round);
        let (k, a) = (span.start, span.len());
        if a == 0 {
            continue;
        }
        let (done, rest) = f.as_mut().split_at_col_mut(k);
        let mut new = rest.subcols_mut(0, a);
        oracle.fill(rows, pivoting.pivots().slice(span.start, span.end), new.as_mut());
        let known = l.submatrix(k, 0, a, k);
        dense::gemm(new.as_mut(), true, -1.0, done.as_ref(), known.transpose(), dense::SEQUENTIAL);
        dense::solve_lower(l.submatrix(k, k, a, a), new.transpose_mut(), dense::SEQUENTIAL);
    }
}

/// Adds what `rows` are to what is hashed.
pub(super) fn extend_bytes(bytes: &mut Vec<u8>, rows: Rows<'_>) {
    for i in 0..rows.len() {
        bytes.extend(rows.numeric(i).iter().flat_map(|x| x.to_le_bytes()));
        bytes.extend(rows.codes(i).iter().flat_map(|code| code.to_le_bytes()));
    }
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    time: f64,
    row: usize,
    count: u32,
}

impl Ord for Arrival {
    fn cmp(&self, other: &Self) -> Ordering {
        self.time.total_cmp(&other.time).then(self.row.cmp(&other.row)).then(self.count.cmp(&other.count))
    }
}

impl PartialOrd for Arrival {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Arrival {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Arrival {}
