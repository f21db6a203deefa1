//! The replicated state of accelerated RPCholesky: pivots, their Cholesky factor, and the rejection step.

use super::block::{Mass, POOL_BLOCK_ROWS, Proposal, extend, extend_bytes, tempered};
use super::{Batch, PivotParams, Pivots, RESIDUAL_FLOOR, Stop, TRACE_FLOOR, TraceStep};
use crate::dense;
use crate::rows::{RowBuf, Rows};
use crate::sampling::leverage::dot;
use crate::sampling::{KernelOracle, parallelism};
use faer::{Mat, MatRef};
use nystream_hashing::{RowId, StreamKey};
use rayon::prelude::*;
use std::ops::Range;

/// Rounds in a row that propose but accept nothing before the residual is taken for rounding noise. The first proposal of
/// a round is accepted for certain but for rounding, so even one such round is a sign.
const FRUITLESS_ROUNDS: u32 = 4;

/// Kernel evaluation in flops an entry, for the batch rule: a constant of the rule, not a measurement.
const ENTRY_FLOPS: f64 = 40.0;

/// One round's window of time, the same for all blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Seed.
    pub seed: u64,
    /// Number of the round.
    pub round: u64,
    /// Arrivals before this time are proposals.
    pub until: f64,
}

impl Window {
    /// The key of the `arrival`-th gaps between arrivals.
    pub(super) fn arrival_key(&self, arrival: u32) -> StreamKey {
        StreamKey::new(self.seed, "rpcholesky", self.round << 32 | u64::from(arrival))
    }

    fn judge_key(&self, arrival: u32) -> StreamKey {
        StreamKey::new(self.seed, "rpcholesky-judge", self.round << 32 | u64::from(arrival))
    }
}

/// Pivots so far and their factor: equal on every worker that saw the same proposals.
///
/// ```
/// use nystream_hashing::RowId;
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::{RowBuf, Rows}};
/// use nystream_kernels::sampling::PivotParams;
/// use nystream_kernels::sampling::rpcholesky::{Mass, Pivoting, PoolBlock, Stop};
/// let kernel = Kernel::new(Family::Laplace, 1.0);
/// let values: Vec<f32> = (0..40).map(|i| i as f32).collect();
/// let rows = RowBuf::gather(Rows::new(&values, 1, &[], 0), &(0..40).collect::<Vec<_>>());
/// let params = PivotParams::new(8, 3);
/// let mut block = PoolBlock::new(&kernel, 0, rows, (0..40).map(RowId).collect(), vec![1.0; 40], params);
/// let mut pivoting = Pivoting::new(params, 40, 1, 0, Mass::sum([block.mass()]));
/// while let Some(window) = pivoting.window() {
///     pivoting.reject(&kernel, block.propose(window)); // of all blocks
///     let mass = block.update(&kernel, &pivoting);
///     pivoting.observe(Mass::sum([mass]));
/// }
/// let pivots = pivoting.finish();
/// assert_eq!((pivots.indices.len(), pivots.stop), (8, Stop::Reached));
/// assert!(pivots.trace_error() < 0.9);
/// ```
#[derive(Clone, Debug)]
pub struct Pivoting {
    params: PivotParams,
    pool_rows: u64,
    rows: RowBuf,
    ids: Vec<RowId>,
    positions: Vec<u64>,
    /// L in the leading corner of a matrix with room for all pivots.
    l: Mat<f64>,
    /// First pivot of every round that accepted any, and the end.
    spans: Vec<usize>,
    round: u64,
    batch: f64,
    fruitless: u32,
    proposals: u64,
    mass: Mass,
    trace: Vec<TraceStep>,
}

impl Pivoting {
    /// No pivots yet, for a pool of `pool_rows` rows of the given widths with sums `mass` over all blocks.
    pub fn new(params: PivotParams, pool_rows: u64, numeric_width: usize, code_width: usize, mass: Mass) -> Self {
        let capacity = params.centers.min(usize::try_from(pool_rows).unwrap_or(usize::MAX));
        let batch = match params.batch {
            Batch::Adaptive => (capacity as f64 / 10.0).max(10.0),
            Batch::Fixed(batch) => batch.max(1) as f64,
        };
        Pivoting {
            params,
            pool_rows,
            rows: RowBuf::new(numeric_width, code_width),
            ids: Vec::new(),
            positions: Vec::new(),
            l: Mat::zeros(capacity, capacity),
            spans: vec![0],
            round: 0,
            batch,
            fruitless: 0,
            proposals: 0,
            mass,
            trace: vec![TraceStep { centers: 0, trace_error: if mass.total > 0.0 { 1.0 } else { 0.0 } }],
        }
    }

    /// Pivots so far.
    pub fn centers(&self) -> usize {
        self.ids.len()
    }

    /// Rounds that accepted pivots.
    pub(super) fn rounds(&self) -> usize {
        self.spans.len() - 1
    }

    /// Pivots accepted in such a round.
    pub(super) fn span(&self, round: usize) -> Range<usize> {
        self.spans[round]..self.spans[round + 1]
    }

    /// What tells the pivots of such a round from any others: a hash of the rows, their ids and their part of L.
    pub(super) fn fingerprint(&self, round: usize) -> [u8; 32] {
        let span = self.span(round);
        let mut bytes = span.start.to_le_bytes().to_vec();
        bytes.extend(self.ids[span.clone()].iter().flat_map(|id| id.0.to_le_bytes()));
        extend_bytes(&mut bytes, self.rows.view().slice(span.start, span.end));
        for column in 0..span.end {
            bytes.extend(span.clone().flat_map(|row| self.l[(row, column)].to_le_bytes()));
        }
        *blake3::hash(&bytes).as_bytes()
    }

    pub(super) fn factor(&self) -> MatRef<'_, f64> {
        self.l.as_ref()
    }

    /// The pivot rows, in order.
    pub fn pivots(&self) -> Rows<'_> {
        self.rows.view()
    }

    fn stop(&self) -> Option<Stop> {
        if self.centers() >= self.params.centers {
            return Some(Stop::Reached);
        }
        // Also stops on a NaN, which compares as neither.
        let alive = self.mass.live > 0.0 && self.mass.live.is_finite();
        let exhausted = !alive || self.mass.residual <= TRACE_FLOOR * self.mass.total;
        (exhausted || self.fruitless >= FRUITLESS_ROUNDS).then_some(Stop::RankDeficient)
    }

    /// The next round's window, or `None` when pivoting has ended.
    pub fn window(&self) -> Option<Window> {
        match self.stop() {
            Some(_) => None,
            // Expected arrivals = window length times the total rate.
            None => Some(Window { seed: self.params.seed, round: self.round, until: self.batch / self.mass.live }),
        }
    }

    /// Judges the proposals of all blocks (in any order) and appends the accepted ones as pivots; returns their number.
    pub fn reject<O: KernelOracle + ?Sized>(&mut self, oracle: &O, mut proposals: Vec<Proposal>) -> usize {
        let Some(window) = self.window() else { return 0 };
        proposals.sort_unstable_by(Proposal::order);
        let known = self.centers();
        let count = proposals.len();
        self.proposals += count as u64;
        self.round += 1;
        if count == 0 {
            return 0;
        }
        let mut rows = RowBuf::new(self.rows.numeric_width, self.rows.code_width);
        for proposal in &proposals {
            rows.numeric.extend_from_slice(&proposal.numeric);
            rows.codes.extend_from_slice(&proposal.codes);
        }
        let (f, h) = self.residual_block(oracle, rows.view());
        let diagonal = oracle.diagonal(rows.view());

        // Row-wise Cholesky of H over the accepted proposals only. `g[i]` holds row i's entries so far.
        let mut current: Vec<f64> = (0..count).map(|i| h[(i, i)]).collect();
        let mut g: Vec<Vec<f64>> = vec![Vec::new(); count];
        let mut accepted = Vec::new();
        let law = |residual: f64| tempered(residual, self.params.exponent);
        for j in 0..count {
            if known + accepted.len() == self.params.centers {
                break;
            }
            let proposal = &proposals[j];
            let u = window.judge_key(proposal.arrival).uniform(proposal.id);
            if current[j] <= RESIDUAL_FLOOR * diagonal[j] || u * law(proposal.residual) >= law(current[j]) {
                continue;
            }
            let root = current[j].sqrt();
            let (head, tail) = g.split_at_mut(j + 1);
            for (i, row) in tail.iter_mut().enumerate() {
                let i = i + j + 1;
                let v = (h[(i, j)] - dot(row, &head[j])) / root;
                row.push(v);
                current[i] -= v * v;
            }
            head[j].push(root);
            accepted.push(j);
        }

        for (a, &j) in accepted.iter().enumerate() {
            let row = known + a;
            for k in 0..known {
                self.l[(row, k)] = f[(j, k)];
            }
            for (k, v) in g[j].iter().enumerate() {
                self.l[(row, known + k)] = *v;
            }
            self.rows.push(rows.view(), j);
            self.ids.push(proposals[j].id);
            self.positions.push(proposals[j].position);
        }
        if accepted.is_empty() {
            self.fruitless += 1;
        } else {
            self.fruitless = 0;
            self.spans.push(self.centers());
        }
        self.adapt(count, accepted.len());
        accepted.len()
    }

    /// F of the proposals over the pivots so far, and the residual block H = K - F F^T (lower triangle).
    fn residual_block<O: KernelOracle + ?Sized>(&self, oracle: &O, rows: Rows<'_>) -> (Mat<f64>, Mat<f64>) {
        let (count, known) = (rows.len(), self.centers());
        let mut f = Mat::zeros(count, known);
        // Pieces are independent of each other, so their bits do not depend on how many threads take them.
        f.as_mut().par_row_chunks_mut(POOL_BLOCK_ROWS).enumerate().for_each(|(piece, f)| {
            let start = piece * POOL_BLOCK_ROWS;
            extend(oracle, rows.slice(start, start + f.nrows()), self, 0, f);
        });
        let mut h = oracle.block(rows, rows);
        dense::gemm_lower(h.as_mut(), true, -1.0, f.as_ref(), f.transpose(), parallelism(count));
        for i in 0..count {
            // The residual of a pivot, or of a copy of one, is rounding noise of either sign.
            h[(i, i)] = h[(i, i)].max(0.0);
        }
        (f, h)
    }

    /// Moves the batch so that rejection takes about a quarter of the update's flops (both counted, none timed), within
    /// a third of the pivots, and not beyond what the remaining pivots need at this round's acceptance.
    fn adapt(&mut self, proposed: usize, accepted: usize) {
        if self.params.batch != Batch::Adaptive {
            return;
        }
        let (m, k) = (self.l.nrows() as f64, self.centers() as f64);
        let (b, a, n) = (proposed as f64, accepted as f64, self.pool_rows as f64);
        let entry = ENTRY_FLOPS + 2.0 * (self.rows.numeric_width + self.rows.code_width) as f64;
        let update = n * a * (2.0 * k + a + entry);
        let reject = b * (k * k + b * k + a * a + (k + b) * entry);
        let share = (update / (4.0 * reject)).clamp(1.0 / 3.0, 1.5);
        let needed = 1.1 * (m - k) * b / a.max(1.0) + 10.0;
        self.batch = (self.batch * share).min(m / 3.0).min(needed).max(10.0);
    }

    /// Takes note of the sums over all blocks after their update.
    pub fn observe(&mut self, mass: Mass) {
        self.mass = mass;
        let trace_error = if mass.total > 0.0 { mass.residual / mass.total } else { 0.0 };
        match self.trace.last_mut() {
            Some(last) if last.centers == self.ids.len() => last.trace_error = trace_error,
            _ => self.trace.push(TraceStep { centers: self.ids.len(), trace_error }),
        }
    }

    /// The pivots, as positions in the pool.
    pub fn finish(self) -> Pivots {
        let k = self.centers();
        Pivots {
            stop: self.stop().unwrap_or(Stop::RankDeficient),
            indices: self.positions.iter().map(|p| *p as usize).collect(),
            factor: self.l.as_ref().submatrix(0, 0, k, k).to_owned(),
            ids: self.ids,
            trace: self.trace,
            proposals: self.proposals,
        }
    }
}
