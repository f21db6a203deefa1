//! The sequential form: one pivot, one race, one column at a time.

use super::block::tempered;
use super::{PivotParams, Pivots, RESIDUAL_FLOOR, Stop, TRACE_FLOOR, TraceStep, pool};
use crate::rows::Rows;
use crate::sampling::{KernelOracle, SamplingError};
use faer::Mat;
use nystream_hashing::{RowId, StreamKey};

/// Randomly pivoted Cholesky by the definition: for every pivot, an exponential race among all rows (the argmin of
/// -ln(u) / (w d), u hashed from the pivot's number and the row id) and one column of F. Same law as
/// [`rp_cholesky`](super::rp_cholesky), other bits; n m kernel values, n m^2 flops, 8 n m bytes.
///
/// # Errors
/// As [`rp_cholesky`](super::rp_cholesky).
///
/// ```
/// use nystream_hashing::RowId;
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows};
/// use nystream_kernels::sampling::{PivotParams, rpcholesky::sequential};
/// let ids: Vec<RowId> = (0..3).map(RowId).collect();
/// let (rows, kernel) = (Rows::new(&[0.0, 0.0, 9.0], 1, &[], 0), Kernel::new(Family::Gaussian, 1.0));
/// let pivots = sequential(&kernel, rows, &ids, None, PivotParams::new(3, 1)).unwrap();
/// // Two rows are the same one: two pivots span all three.
/// assert_eq!(pivots.indices.len(), 2);
/// assert!(pivots.indices.contains(&2) && pivots.trace_error() < 1e-12);
/// ```
pub fn sequential<O: KernelOracle + ?Sized>(
    oracle: &O,
    rows: Rows<'_>,
    ids: &[RowId],
    weights: Option<&[f64]>,
    params: PivotParams,
) -> Result<Pivots, SamplingError> {
    // Checks the input.
    let (order, _) = pool(oracle, rows, ids, weights, PivotParams { centers: 0, ..params })?;
    let weight = |i: usize| weights.map_or(1.0, |w| w[i]);
    let diagonal = oracle.diagonal(rows);
    let mut residual = diagonal.clone();
    let sum = |d: &[f64]| order.iter().map(|&i| weight(i) * d[i]).sum::<f64>();
    let total = sum(&diagonal);
    let mut columns: Vec<Vec<f64>> = Vec::new();
    let mut indices: Vec<usize> = Vec::new();
    let mut trace = vec![TraceStep { centers: 0, trace_error: if total > 0.0 { 1.0 } else { 0.0 } }];
    let mut stop = Stop::Reached;
    while indices.len() < params.centers {
        let key = StreamKey::new(params.seed, "rpcholesky-sequential", indices.len() as u64);
        let rate = |i: usize| {
            if residual[i] > RESIDUAL_FLOOR * diagonal[i] {
                weight(i) * tempered(residual[i], params.exponent)
            } else {
                0.0
            }
        };
        let winner = order
            .iter()
            .filter(|&&i| rate(i) > 0.0)
            .map(|&i| (-key.uniform(ids[i]).ln() / rate(i), i))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((_, pivot)) = winner.filter(|_| sum(&residual) > TRACE_FLOOR * total) else {
            stop = Stop::RankDeficient;
            break;
        };
        let mut column = oracle.block(rows, rows.slice(pivot, pivot + 1)).col_as_slice(0).to_vec();
        for known in &columns {
            let at_pivot = known[pivot];
            for (v, f) in column.iter_mut().zip(known) {
                *v -= f * at_pivot;
            }
        }
        let root = residual[pivot].sqrt();
        for (v, d) in column.iter_mut().zip(&mut residual) {
            *v /= root;
            *d = (*d - *v * *v).max(0.0);
        }
        residual[pivot] = 0.0;
        columns.push(column);
        indices.push(pivot);
        trace.push(TraceStep { centers: indices.len(), trace_error: sum(&residual) / total });
    }
    let k = indices.len();
    let factor = Mat::from_fn(k, k, |i, j| if i >= j { columns[j][indices[i]] } else { 0.0 });
    let ids = indices.iter().map(|i| ids[*i]).collect();
    Ok(Pivots { indices, ids, factor, trace, proposals: k as u64, stop })
}
