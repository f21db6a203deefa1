//! The best ridge comparator in hindsight, on a hashed sample of the stream's rows.
//!
//! **Problem.** Regret is against the u that minimises sum w l(u(x)) + (alpha / 2) ||u||^2 over *all* rows, which no bounded memory can find. [`HindsightSample`] keeps the rows
//! with the least
//! hashes (a function of the set of rows and the seed), with the losses that the learner had on them; with T / S = total over sampled weight, the comparator minimises (T / S)
//! sum_S w l + (alpha / 2) ||u||^2 by Newton steps on
//! its S x S kernel matrix, one for squared loss.
//!
//! Two measurements ([`Hindsight`]), both scaled by T / S: against the u fitted to the whole sample (*the* best comparator where the sample is the whole stream; optimistic for u
//! otherwise, so that regret comes out larger than
//! it is), and by halves, u fitted to either and measured on the other, an unbiased measurement of the regret against that u.
//!
//! **Cost.** S (d + 4) numbers while learning; S^2 entries and S^3 / 3 flops a Newton step when asked.

use super::entries::EntryParams;
use super::{Loss, OnlineError};
use crate::dense::{self, SEQUENTIAL};
use crate::rows::{RowBuf, Rows};
use crate::sampling::leverage::dot;
use faer::{Mat, MatRef};
use nystream_hashing::{RowId, StreamKey};
use serde::{Deserialize, Serialize};

/// Newton steps at most, and the fall of the objective (relative) at which they end.
const STEPS: (usize, f64) = (60, 1e-12);

/// Rows of least hash, with their losses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HindsightSample {
    seed: u64,
    size: usize,
    /// Hashes from here up are no longer candidates.
    limit: u64,
    rows: RowBuf,
    entries: Vec<Sampled>,
    total: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Sampled {
    hash: u64,
    id: RowId,
    target: f64,
    weight: f64,
    loss: f64,
}

/// What [`HindsightSample::measure`] found; losses and regrets are sums over the whole stream, estimated from the sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hindsight {
    /// Rows of the sample.
    pub rows: usize,
    /// The learner's loss less that of the best comparator on the sample.
    pub regret: f64,
    /// The best comparator's loss.
    pub comparator_loss: f64,
    /// Its squared norm.
    pub norm2: f64,
    /// Rows of the sample on which it leaves the clip range, where theory does not take it for a comparator.
    pub infeasible: usize,
    /// The learner's loss less that of comparators fitted to the other half; `None` for fewer than 4 rows.
    pub held_out_regret: Option<f64>,
}

impl HindsightSample {
    /// At most `size` rows.
    pub(super) fn new(size: usize, seed: u64, numeric_width: usize, code_width: usize) -> Self {
        let rows = RowBuf::new(numeric_width, code_width);
        HindsightSample { seed, size, limit: u64::MAX, rows, entries: Vec::new(), total: 0.0 }
    }

    /// Row `i` of `rows` was predicted with `loss`.
    pub(super) fn add(&mut self, (rows, i): (Rows<'_>, usize), id: RowId, target: f64, weight: f64, loss: f64) {
        self.total += weight;
        let hash = StreamKey::new(self.seed, "hindsight", 0).u64(id);
        if self.size == 0 || weight == 0.0 || hash >= self.limit {
            return;
        }
        self.rows.push(rows, i);
        self.entries.push(Sampled { hash, id, target, weight, loss });
        if self.entries.len() >= 2 * self.size {
            self.keep_least();
        }
    }

    /// Drops all but the `size` rows of least hash.
    fn keep_least(&mut self) {
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_key(|&i| (self.entries[i].hash, self.entries[i].id));
        if let Some(&first) = order.get(self.size) {
            self.limit = self.entries[first].hash;
        }
        order.truncate(self.size);
        self.rows = RowBuf::gather(self.rows.view(), &order);
        self.entries = order.iter().map(|&i| self.entries[i]).collect();
    }

    /// Fits the comparators and measures regret against them. `None` without a row.
    ///
    /// # Errors
    /// [`OnlineError::Tile`]; [`OnlineError::Dense`] where the objective's Hessian cannot be factored.
    pub fn measure(
        &self,
        entries: &EntryParams,
        loss: Loss,
        alpha: f64,
        clip: Option<f64>,
    ) -> Result<Option<Hindsight>, OnlineError> {
        let mut sample = self.clone();
        sample.keep_least();
        let n = sample.entries.len();
        if n == 0 {
            return Ok(None);
        }
        let mut k = Mat::zeros(n, n);
        entries.columns(sample.rows.view(), sample.rows.view(), k.as_mut())?;
        let all: Vec<usize> = (0..n).collect();
        let weight: f64 = sample.entries.iter().map(|s| s.weight).sum();
        let scale = sample.total / weight;
        let (learned, fitted) = (sample.learner_loss(&all), sample.fit(&k, &all, loss, alpha / scale)?);
        let f = sample.values(&k, &all, &all, &fitted);
        let comparator_loss = scale * sample.loss_of(&all, loss, &f);
        let norm2 = dot(&fitted, &f);
        let infeasible = clip.map_or(0, |c| f.iter().filter(|f| f.abs() > c).count());
        let held_out_regret = match n {
            0..4 => None,
            _ => {
                let halves: [Vec<usize>; 2] = [0, 1].map(|first| (first..n).step_by(2).collect());
                let mut regret = 0.0;
                for (fit, measure) in [(&halves[0], &halves[1]), (&halves[1], &halves[0])] {
                    let part: f64 = fit.iter().map(|&i| sample.entries[i].weight).sum();
                    let b = sample.fit(&k, fit, loss, alpha * part / sample.total)?;
                    let f = sample.values(&k, measure, fit, &b);
                    regret += sample.learner_loss(measure) - sample.loss_of(measure, loss, &f);
                }
                Some(scale * regret)
            }
        };
        let regret = scale * learned - comparator_loss;
        Ok(Some(Hindsight { rows: n, regret, comparator_loss, norm2, infeasible, held_out_regret }))
    }

    fn learner_loss(&self, rows: &[usize]) -> f64 {
        rows.iter().map(|&i| self.entries[i].weight * self.entries[i].loss).sum()
    }

    fn loss_of(&self, rows: &[usize], loss: Loss, f: &[f64]) -> f64 {
        rows.iter().zip(f).map(|(&i, f)| self.entries[i].weight * loss.value(*f, self.entries[i].target)).sum()
    }

    /// u at `rows`, u = sum b_i k(x_i, .) over `atoms`.
    fn values(&self, k: &Mat<f64>, rows: &[usize], atoms: &[usize], b: &[f64]) -> Vec<f64> {
        rows.iter().map(|&i| atoms.iter().zip(b).map(|(&j, b)| b * k[(j, i)]).sum()).collect()
    }

    /// b that minimises sum w l(f) + (alpha / 2) b^T K b, f = K b, over the rows `chosen`.
    fn fit(&self, k: &Mat<f64>, chosen: &[usize], loss: Loss, alpha: f64) -> Result<Vec<f64>, OnlineError> {
        let n = chosen.len();
        let k = Mat::from_fn(n, n, |i, j| k[(chosen[i], chosen[j])]);
        let rows: Vec<(f64, f64)> = chosen.iter().map(|&i| (self.entries[i].weight, self.entries[i].target)).collect();
        let objective = |b: &[f64], f: &[f64]| {
            rows.iter().zip(f).map(|((w, y), f)| w * loss.value(*f, *y)).sum::<f64>() + 0.5 * alpha * dot(b, f)
        };
        let (mut b, mut f) = (vec![0.0; n], vec![0.0; n]);
        let mut value = objective(&b, &f);
        for _ in 0..STEPS.0 {
            let target = newton_step(&k, &rows, &f, loss, alpha)?;
            let reached = times(k.as_ref(), &target);
            // A whole step, or as much of it as lowers the objective: losses with straight parts need that.
            let mut share = 1.0;
            let mut best: Option<(f64, Vec<f64>, Vec<f64>)> = None;
            for _ in 0..30 {
                let mix = |from: &[f64], to: &[f64]| -> Vec<f64> {
                    from.iter().zip(to).map(|(from, to)| from + share * (to - from)).collect()
                };
                let (b, f) = (mix(&b, &target), mix(&f, &reached));
                let value = objective(&b, &f);
                if best.as_ref().is_none_or(|(least, ..)| value < *least) {
                    best = Some((value, b, f));
                } else {
                    break;
                }
                share *= 0.5;
            }
            let Some((next, new_b, new_f)) = best else { break };
            if next >= value || next.is_nan() {
                break;
            }
            let fall = value - next;
            (value, b, f) = (next, new_b, new_f);
            if fall <= STEPS.1 * value.abs() {
                break;
            }
        }
        Ok(b)
    }
}

/// The minimiser of the quadratic model at f: b = (rhs - R s) / alpha, (alpha I + R K R) s = R K rhs, R = diag(sqrt(w l'')), rhs = w l'' f - w l'.
fn newton_step(k: &Mat<f64>, rows: &[(f64, f64)], f: &[f64], loss: Loss, alpha: f64) -> Result<Vec<f64>, OnlineError> {
    let n = rows.len();
    let root: Vec<f64> = rows.iter().zip(f).map(|((w, y), f)| (w * loss.curvature(*f, *y)).sqrt()).collect();
    let rhs: Vec<f64> =
        rows.iter().zip(f).zip(&root).map(|(((w, y), f), r)| r * r * f - w * loss.slope(*f, *y)).collect();
    let mut system = Mat::from_fn(n, n, |i, j| root[i] * k[(i, j)] * root[j]);
    (0..n).for_each(|i| system[(i, i)] += alpha);
    dense::cholesky(system.as_mut(), SEQUENTIAL)?;
    let k_rhs = times(k.as_ref(), &rhs);
    let mut s = Mat::from_fn(n, 1, |i, _| root[i] * k_rhs[i]);
    dense::solve_lower(system.as_ref(), s.as_mut(), SEQUENTIAL);
    dense::solve_lower_transpose(system.as_ref(), s.as_mut(), SEQUENTIAL);
    Ok((0..n).map(|i| (rhs[i] - root[i] * s[(i, 0)]) / alpha).collect())
}

/// K b for the symmetric K.
fn times(k: MatRef<'_, f64>, b: &[f64]) -> Vec<f64> {
    let mut out = Mat::zeros(b.len(), 1);
    dense::gemm(out.as_mut(), false, 1.0, k, MatRef::from_column_major_slice(b, b.len(), 1), SEQUENTIAL);
    out.col_as_slice(0).to_vec()
}
