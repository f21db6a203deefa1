//! Pivots that are chosen, not accepted: of several proposals for each pivot, the one that lowers the trace error most.
//!
//! Randomly pivoted Cholesky proposes rows in proportion to their residual, so it also takes rows that resemble no other: they cover
//! themselves alone. A pivot j lowers the trace error of all rows by `sum_i w_i e_ij^2 / e_jj`, e the residual kernel (Farahat, Ghodsi and
//! Kamel, "A novel greedy algorithm for Nystrom approximation", AISTATS 2011). Taking the best of a few random proposals at every pivot is
//! stochastic greedy selection (Mirzasoleiman et al., "Lazier than lazy greedy", AAAI 2015). The sum over all rows is estimated on the
//! *judges*: the first blocks of the pool, a uniform sample since pools are in the order of their (hashed) ids.
//!
//! With C the proposals of a round, E = K(J, C) - F_J F_C^T their residual columns on the judges, H = K(C, C) - F_C F_C^T and
//! A = E^T W E, a pivot p leaves
//!
//! ```text
//! H' = H - h h^T / H_pp                                              h = H(., p)
//! A' = A - (a h^T + h a^T) / H_pp + A_pp h h^T / H_pp^2              a = A(., p)
//! ```
//!
//! so a round is one product for E, one for A, and |C|^2 flops a pivot. Cost beyond the update of the pool, for J judges and m pivots
//! with c proposals each: c J m^2 flops and c J m kernel values.

use super::block::{PoolBlock, Proposal};
use super::{Pivoting, RESIDUAL_FLOOR};
use crate::dense;
use crate::rows::Rows;
use crate::sampling::KernelOracle;
use faer::{Mat, MatRef};
use rayon::prelude::*;

/// Judges, in units of the pivots wanted.
pub const JUDGES: usize = 4;
/// Blocks of judges whose products are held at once.
const GROUP: usize = 8;

/// Pivots among proposals, and their rows of the Cholesky factor.
pub(super) struct Chosen {
    /// Positions among the proposals, in the order they were picked.
    pub picks: Vec<usize>,
    /// Row i belongs to pick i and has i + 1 entries: those of the columns of this round.
    pub rows: Vec<Vec<f64>>,
}

/// Picks up to `picks` of the candidates, each time the one with the largest A_jj / H_jj; of equals the first. Candidates whose residual
/// is rounding noise beside their `diagonal` are never picked. Both matrices are whole, and are used up.
pub(super) fn greedy(mut h: Mat<f64>, mut a: Mat<f64>, diagonal: &[f64], picks: usize) -> Chosen {
    let count = diagonal.len();
    let mut alive: Vec<bool> = vec![true; count];
    let (mut chosen, mut columns): (Vec<usize>, Vec<Vec<f64>>) = (Vec::new(), Vec::new());
    while chosen.len() < picks {
        let mut best: Option<(usize, f64)> = None;
        for j in (0..count).filter(|j| alive[*j] && h[(*j, *j)] > RESIDUAL_FLOOR * diagonal[*j]) {
            // Differences: what rounding leaves below zero is zero.
            let gain = a[(j, j)].max(0.0) / h[(j, j)];
            if best.is_none_or(|(_, most)| gain > most) {
                best = Some((j, gain));
            }
        }
        let Some((p, _)) = best else { break };
        alive[p] = false;
        let (pivot, mass) = (h[(p, p)], a[(p, p)]);
        let (hp, ap) = (h.col_as_slice(p).to_vec(), a.col_as_slice(p).to_vec());
        for j in (0..count).filter(|j| alive[*j]) {
            let (s, t) = (hp[j] / pivot, (ap[j] - mass * hp[j] / pivot) / pivot);
            for (((h, a), hi), ai) in h.col_as_slice_mut(j).iter_mut().zip(a.col_as_slice_mut(j)).zip(&hp).zip(&ap) {
                *h -= hi * s;
                *a -= ai * s + hi * t;
            }
        }
        let root = pivot.sqrt();
        columns.push(hp.iter().map(|v| v / root).collect());
        chosen.push(p);
    }
    let rows = chosen.iter().enumerate().map(|(i, p)| columns[..=i].iter().map(|c| c[*p]).collect()).collect();
    Chosen { picks: chosen, rows }
}

/// A = E^T W E over all judges, whole. `f` is F of the candidates. Sums run in the order of the blocks.
pub(super) fn residual_products<O: KernelOracle + ?Sized>(
    oracle: &O,
    judges: &[PoolBlock],
    pivoting: &Pivoting,
    candidates: Rows<'_>,
    f: MatRef<'_, f64>,
) -> Mat<f64> {
    let count = candidates.len();
    let mut total = Mat::<f64>::zeros(count, count);
    for group in judges.chunks(GROUP) {
        let parts: Vec<Mat<f64>> =
            group.par_iter().map(|block| block.residual_products(oracle, pivoting, candidates, f)).collect();
        for part in &parts {
            for j in 0..count {
                total.col_as_slice_mut(j)[j..].iter_mut().zip(&part.col_as_slice(j)[j..]).for_each(|(t, p)| *t += p);
            }
        }
    }
    dense::mirror_lower(total.as_mut());
    total
}

/// The first arrival of every row: a second one of the same round is no other candidate.
pub(super) fn candidates(mut proposals: Vec<Proposal>) -> Vec<Proposal> {
    proposals.retain(|proposal| proposal.arrival == 0);
    proposals.sort_unstable_by(Proposal::order);
    proposals
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pick is the best of what is left by the definition: trace of the residual on the judges, computed anew.
    #[test]
    fn picks_are_the_best_by_the_definition() {
        let value = |i: usize| ((i * 7919 % 101) as f64 / 101.0, (i * 104_729 % 97) as f64 / 97.0);
        let kernel = |i: usize, j: usize| {
            let ((a, b), (c, d)) = (value(i), value(j));
            (-3.0 * ((a - c).powi(2) + (b - d).powi(2))).exp()
        };
        let (judges, count) = (60, 12);
        let weight = |i: usize| 1.0 + (i % 4) as f64;
        // Candidates are rows 20..32 of the judges.
        let e = |i: usize, j: usize| kernel(i, 20 + j);
        let h = Mat::from_fn(count, count, |i, j| kernel(20 + i, 20 + j));
        let a = Mat::from_fn(count, count, |i, j| (0..judges).map(|r| weight(r) * e(r, i) * e(r, j)).sum::<f64>());
        let found = greedy(h.clone(), a, &vec![1.0; count], 5);
        assert_eq!(found.picks.len(), 5);
        let mut residual = Mat::from_fn(judges, judges, kernel);
        for (at, pick) in found.picks.iter().enumerate() {
            let gain = |j: usize| -> f64 {
                (0..judges).map(|i| weight(i) * residual[(i, 20 + j)].powi(2)).sum::<f64>() / residual[(20 + j, 20 + j)]
            };
            let left = (0..count).filter(|j| !found.picks[..at].contains(j));
            let best = left.max_by(|x, y| gain(*x).total_cmp(&gain(*y))).unwrap();
            assert_eq!(*pick, best, "pick {at}");
            let p = 20 + pick;
            let (column, pivot): (Vec<f64>, f64) = ((0..judges).map(|i| residual[(i, p)]).collect(), residual[(p, p)]);
            residual = Mat::from_fn(judges, judges, |i, j| residual[(i, j)] - column[i] * column[j] / pivot);
        }
        // The rows are those of the Cholesky factor of the picks.
        for (i, x) in found.picks.iter().enumerate() {
            for (j, y) in found.picks[..=i].iter().enumerate() {
                let product: f64 = found.rows[i].iter().zip(&found.rows[j]).map(|(u, v)| u * v).sum();
                assert!((product - h[(*x, *y)]).abs() < 1e-12);
            }
        }
    }

    /// A copy of a picked candidate is spent, and the picks end where nothing is left.
    #[test]
    fn copies_are_not_picked_twice() {
        let h = Mat::from_fn(4, 4, |i, j| if i / 2 == j / 2 { 1.0 } else { 0.0 });
        assert_eq!(greedy(h.clone(), h, &[1.0; 4], 4).picks, [0, 2]);
    }
}
