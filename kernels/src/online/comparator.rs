//! The best ridge comparator in hindsight, on a hashed sample of the stream's rows.
//!
//! **Problem.** Regret is against the u that minimises sum w l(u(x)) + (alpha / 2) ||u||^2 over *all* rows, which no bounded memory can find. Regret against *any* u that was not
//! chosen by the rows it is measured on is estimated without bias by a uniform sample: T / S = total over sampled weight times the sum over it. (Trap: a u fitted to the 1,000 rows
//! it is then measured on knows their noise; 200,000 rows of a target with noise 0.04 gave it a loss of 0.0175 a row, and a regret of 6,000 that was not there.)
//! [`HindsightSample`] keeps the rows with the least hashes (a function of the set of rows and the seed), with the losses that the learner had on them. Comparators
//! ([`Comparator`]), of which the one counts whose objective, and one standard error of that, is least; an estimate that says little is not the best for it:
//! * *whole*: where the sample is the whole stream, *the* minimiser, by Newton steps on its kernel matrix (one for squared loss). Nothing is estimated.
//! * *own*: the learner's last function, which all rows have taught: with adaptive squared loss and no clip in effect the minimiser in the span of the dictionary. A sample says
//!   without bias what it loses on all of them, but a uniform one says it badly: losses differ by what the learner did not know yet, on few early rows by much (1,000,000 rows, 1,000
//!   sampled: 860 with a standard error of 610). A second sample of as many rows draws by priority (Duffield, Lund and Thorup, Journal of the ACM 54, 2007): those with the largest
//!   v / hash are kept, tau is the largest of the others, and a row stands for max(1, tau / v) rows. v = |l'| s + s^2 is the size of the difference to be expected, s = R sqrt(q),
//!   R the root mean square of l' so far. Any v is unbiased; a good one makes the error small.
//! * *halves*: u fitted to either half of the sample and measured on the other, the mean of both; with the best of 5 ridges from alpha S / T (that of the problem, too little for
//!   so few rows) up to alpha. It may leave the dictionary's span.
//! * *zero*: the function 0, whose loss on all rows is summed as they come. It is feasible, has no norm, and nothing of it is estimated. It counts where its objective is less than that of the best of the others, even of one that leaves the clip range and of which theory says nothing: fixed curvature on heavy rows
//!   can leave a learner with a last function that is many times worse than nothing (4,000 rows with weights from 0.01 to 100: a loss of 479,000 where 0 has 40,000), and a regret against that says nothing.
//!
//! *Two estimates.* The learner's loss on all rows is known. Its difference to the comparator's is what the sample is asked for, since both share the noise; but where the learner is much the worse (the same 4,000 rows), nearly all of the
//! difference is its own loss, of which a sample says little, and the comparator's loss is better estimated by itself. Of functions of halves that is done where its standard error is less than half of the difference's. The rows drawn by priority
//! are drawn for the difference alone, and say nothing of the other.
//!
//! *No loss is negative.* A difference of losses that is estimated can be more than all of the learner's loss, where few rows carry most of the weight: the comparator's loss counts as 0 then, which is nearer to
//! the truth whatever that is.
//!
//! The sample's kernel matrix has f64 entries, whatever the learner's: rounding of f32 is as large as alpha S / T and would be fitted.
//!
//! **Cost.** 4 S (d + 5) numbers at most while learning; S^2 entries and S^3 / 3 flops a Newton step when asked (5 S^3 / 12 for halves).

use super::entries::EntryParams;
use super::{Loss, OnlineError};
use crate::dense::{self, SEQUENTIAL};
use crate::gram::Precision;
use crate::rows::{RowBuf, Rows};
use crate::sampling::leverage::dot;
use faer::{Mat, MatRef};
use nystream_hashing::{RowId, StreamKey};
use serde::{Deserialize, Serialize};

/// Newton steps at most, and the fall of the objective (relative) at which they end.
const STEPS: (usize, f64) = (60, 1e-12);
/// Ridges that halves are fitted with.
const RIDGES: i32 = 5;

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
    /// Rows of positive weight seen.
    seen: u64,
    /// The sample by priority: `hash` is the priority's bits, largest first once settled.
    drawn: RowBuf,
    draws: Vec<Sampled>,
    /// v of each draw.
    sizes: Vec<f64>,
    /// The largest priority that was not kept; 0 where all were.
    tau: f64,
    /// Sum of weights times l'^2.
    slopes: f64,
    /// Sum of weights times the loss of the function 0; none in states of before, which did not look.
    #[serde(default)]
    zero: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Sampled {
    hash: u64,
    id: RowId,
    target: f64,
    weight: f64,
    loss: f64,
}

/// What the learner had of a row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub loss: f64,
    /// The loss of the prediction 0.
    pub zero: f64,
    pub slope: f64,
    /// q, in the span of the dictionary.
    pub leverage: f64,
}

/// Which function the learner was compared with (module docs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparator {
    /// The minimiser over all rows.
    Whole,
    /// The learner's last function.
    Own,
    /// Functions fitted to halves of the sample.
    Halves,
    /// The function 0.
    Zero,
    /// Of several learners together ([`Hindsight::and`]), which had different ones.
    Mixed,
}

/// The learner's last function: its values at the rows drawn by priority, and its squared norm.
#[derive(Clone, Debug)]
pub(super) struct OwnFunction {
    pub values: Vec<f64>,
    pub norm2: f64,
}

/// What was measured; losses and regrets are sums over the whole stream, estimated from the sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hindsight {
    /// Rows that it rests on: those of the sample; of the function 0 all.
    pub rows: usize,
    /// Which comparator this is.
    pub comparator: Comparator,
    /// The learner's loss less that of the comparator.
    pub regret: f64,
    /// One standard error of `regret` by the sample's being one; 0 where it is the whole stream.
    pub error: f64,
    /// The comparator's loss.
    pub comparator_loss: f64,
    /// Its norm (of halves: the mean of both).
    pub norm: f64,
    /// Its squared norm (of halves: the mean of both).
    pub norm2: f64,
    /// Rows of the sample on which it leaves the clip range, where theory does not take it for a comparator.
    pub infeasible: usize,
}

impl Hindsight {
    /// What is measured of two learners of different rows together, whose comparators are independent.
    pub fn and(&self, other: &Self) -> Self {
        let norm2 = self.norm2 + other.norm2;
        Hindsight {
            rows: self.rows + other.rows,
            comparator: if self.comparator == other.comparator { self.comparator } else { Comparator::Mixed },
            regret: self.regret + other.regret,
            error: self.error.hypot(other.error),
            comparator_loss: self.comparator_loss + other.comparator_loss,
            norm: norm2.sqrt(),
            norm2,
            infeasible: self.infeasible + other.infeasible,
        }
    }

    /// What the best comparator has least of: as much of its objective as there may be by one standard error.
    fn objective(&self, alpha: f64) -> f64 {
        self.comparator_loss + self.error + 0.5 * alpha * self.norm2
    }
}

impl HindsightSample {
    /// At most `size` rows.
    pub(super) fn new(size: usize, seed: u64, numeric_width: usize, code_width: usize) -> Self {
        let rows = RowBuf::new(numeric_width, code_width);
        HindsightSample {
            seed,
            size,
            limit: u64::MAX,
            drawn: rows.clone(),
            rows,
            entries: Vec::new(),
            total: 0.0,
            seen: 0,
            draws: Vec::new(),
            sizes: Vec::new(),
            tau: 0.0,
            slopes: 0.0,
            zero: Some(0.0),
        }
    }

    /// Row `i` of `rows` was predicted with `loss`, whose slope was `slope`, and with leverage `q`.
    pub(super) fn add(&mut self, (rows, i): (Rows<'_>, usize), id: RowId, target: f64, weight: f64, told: Told) {
        if self.size == 0 || weight <= 0.0 {
            return;
        }
        let Told { loss, zero, slope, leverage } = told;
        self.total += weight;
        self.zero.iter_mut().for_each(|sum| *sum += weight * zero);
        self.seen += 1;
        self.slopes += weight * slope * slope;
        let key = StreamKey::new(self.seed, "hindsight", 0);
        let hash = key.u64(id);
        if hash < self.limit {
            self.rows.push(rows, i);
            self.entries.push(Sampled { hash, id, target, weight, loss });
            if self.entries.len() >= 2 * self.size {
                self.keep_least();
            }
        }
        let expected = (self.slopes / self.total * leverage.min(1.0)).sqrt();
        let size = weight * (slope.abs() * expected + expected * expected).max(f64::MIN_POSITIVE);
        let uniform = StreamKey::new(self.seed, "hindsight", 1).uniform(id).max(f64::EPSILON);
        let priority = size / uniform;
        if priority > self.tau {
            self.drawn.push(rows, i);
            // Positive numbers are in the order of their bits.
            self.draws.push(Sampled { hash: priority.to_bits(), id, target, weight, loss });
            self.sizes.push(size);
            if self.draws.len() >= 2 * self.size {
                self.keep_largest();
            }
        }
    }

    /// Drops all but the `size` rows of largest priority.
    fn keep_largest(&mut self) {
        let mut order: Vec<usize> = (0..self.draws.len()).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(self.draws[i].hash), self.draws[i].id));
        if let Some(&first) = order.get(self.size) {
            self.tau = f64::from_bits(self.draws[first].hash);
        }
        order.truncate(self.size);
        self.drawn = RowBuf::gather(self.drawn.view(), &order);
        self.draws = order.iter().map(|&i| self.draws[i]).collect();
        self.sizes = order.iter().map(|&i| self.sizes[i]).collect();
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

    /// The rows of least hash alone, in the order of their hashes.
    pub(super) fn settled(&self) -> Self {
        let mut sample = self.clone();
        sample.keep_least();
        sample.keep_largest();
        sample
    }

    /// The rows drawn by priority.
    pub(super) fn drawn(&self) -> Rows<'_> {
        self.drawn.view()
    }

    /// Measures regret against the best of the comparators; `own` has a value for each of [`HindsightSample::drawn`] of this settled sample, `learned` is the learner's loss on all
    /// rows. `None` without a row, or where no comparator can be had.
    ///
    /// # Errors
    /// [`OnlineError::Tile`]; [`OnlineError::Dense`] where the objective's Hessian cannot be factored.
    pub(super) fn measure(
        &self,
        entries: &EntryParams,
        loss: Loss,
        alpha: f64,
        clip: Option<f64>,
        learned: f64,
        own: Option<&OwnFunction>,
    ) -> Result<Option<Hindsight>, OnlineError> {
        let n = self.entries.len();
        if n == 0 {
            return Ok(None);
        }
        let mut k = Mat::zeros(n, n);
        let wide = EntryParams { precision: Precision::Double, ..entries.clone() };
        wide.columns(self.rows.view(), self.rows.view(), k.as_mut())?;
        let all: Vec<usize> = (0..n).collect();
        if self.seen == n as u64 {
            let b = self.fit(&k, &all, loss, alpha)?;
            let f = values(&k, &all, &all, &b);
            return Ok(Some(self.compare(Comparator::Whole, loss, clip, learned, &f, &[dot(&b, &f)])));
        }
        let mut found: Vec<Hindsight> = Vec::new();
        if let Some(own) = own {
            found.push(self.own(own, loss, clip, learned));
        }
        if n >= 4 {
            found.extend(self.halves(&k, loss, alpha, clip, learned)?);
        }
        // Those that theory knows first, then the best; the first of equals.
        found.sort_by(|a, b| {
            (a.infeasible > 0).cmp(&(b.infeasible > 0)).then(a.objective(alpha).total_cmp(&b.objective(alpha)))
        });
        let best = found.into_iter().next();
        let zero = self.zero.map(|zero| self.nothing(zero, learned));
        Ok(match (best, zero) {
            (Some(best), Some(zero)) if zero.objective(alpha) < best.objective(alpha) => Some(zero),
            (None, zero) => zero,
            (best, _) => best,
        })
    }

    /// The function 0.
    fn nothing(&self, zero: f64, learned: f64) -> Hindsight {
        Hindsight {
            rows: usize::try_from(self.seen).unwrap_or(usize::MAX),
            comparator: Comparator::Zero,
            regret: learned - zero,
            error: 0.0,
            comparator_loss: zero,
            norm: 0.0,
            norm2: 0.0,
            infeasible: 0,
        }
    }

    /// Comparators fitted to one half and measured on the other, for every ridge.
    fn halves(
        &self,
        k: &Mat<f64>,
        loss: Loss,
        alpha: f64,
        clip: Option<f64>,
        learned: f64,
    ) -> Result<Vec<Hindsight>, OnlineError> {
        let n = self.entries.len();
        let halves: [Vec<usize>; 2] = [0, 1].map(|first| (first..n).step_by(2).collect());
        let mut found = Vec::new();
        for step in 0..RIDGES {
            let mut f = vec![0.0; n];
            let mut norms = [0.0; 2];
            for (half, norm2) in norms.iter_mut().enumerate() {
                let (fit, measured) = (&halves[half], &halves[1 - half]);
                let part: f64 = fit.iter().map(|&i| self.entries[i].weight).sum();
                let up = f64::from(step) / f64::from(RIDGES - 1);
                let b = self.fit(k, fit, loss, alpha * (part / self.total).powf(1.0 - up))?;
                *norm2 = dot(&b, &values(k, fit, fit, &b));
                measured.iter().zip(values(k, measured, fit, &b)).for_each(|(&i, value)| f[i] = value);
            }
            found.push(self.compare(Comparator::Halves, loss, clip, learned, &f, &norms));
        }
        Ok(found)
    }

    /// The learner beside its last function, by the rows drawn.
    pub(super) fn own(&self, own: &OwnFunction, loss: Loss, clip: Option<f64>, learned: f64) -> Hindsight {
        let (mut regret, mut variance) = (0.0, 0.0);
        for ((s, size), f) in self.draws.iter().zip(&self.sizes).zip(&own.values) {
            let share = (size / self.tau).min(1.0);
            let stands_for = s.weight * (s.loss - loss.value(*f, s.target)) / share;
            regret += stands_for;
            variance += stands_for * stands_for * (1.0 - share);
        }
        let regret = regret.min(learned);
        Hindsight {
            rows: self.draws.len(),
            comparator: Comparator::Own,
            regret,
            error: variance.sqrt(),
            comparator_loss: learned - regret,
            norm: own.norm2.max(0.0).sqrt(),
            norm2: own.norm2.max(0.0),
            infeasible: clip.map_or(0, |c| own.values.iter().filter(|f| f.abs() > c).count()),
        }
    }

    /// The learner beside a function with values `f` at the uniform sample's rows, of these squared norms (one, or those of functions that share the rows evenly).
    pub(super) fn compare(
        &self,
        comparator: Comparator,
        loss: Loss,
        clip: Option<f64>,
        learned: f64,
        f: &[f64],
        norms: &[f64],
    ) -> Hindsight {
        let n = self.entries.len();
        let weight: f64 = self.entries.iter().map(|s| s.weight).sum();
        let scale = self.total / weight;
        let theirs: Vec<f64> = self.entries.iter().zip(f).map(|(s, f)| s.weight * loss.value(*f, s.target)).collect();
        let apart: Vec<f64> = self.entries.iter().zip(&theirs).map(|(s, l)| s.weight * s.loss - l).collect();
        let left_out = (1.0 - n as f64 / self.seen.max(1) as f64).max(0.0);
        let estimate = |values: &[f64]| {
            let sum: f64 = values.iter().sum();
            let mean = sum / n as f64;
            let spread: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
            let variance = match n {
                0 | 1 => f64::INFINITY,
                _ => spread * n as f64 / (n as f64 - 1.0) * left_out,
            };
            Estimate { sum: scale * sum, variance: scale * scale * variance }
        };
        let count = norms.len() as f64;
        // Of all rows nothing is estimated.
        let (regret, error) = match comparator {
            Comparator::Whole => (learned - theirs.iter().sum::<f64>(), 0.0),
            _ => the_surer(estimate(&apart), estimate(&theirs), learned),
        };
        Hindsight {
            rows: n,
            comparator,
            regret,
            error,
            comparator_loss: learned - regret,
            // Squares of a positive form: what is below 0 is rounding.
            norm: norms.iter().map(|norm2| norm2.max(0.0).sqrt()).sum::<f64>() / count,
            norm2: norms.iter().map(|norm2| norm2.max(0.0)).sum::<f64>() / count,
            infeasible: clip.map_or(0, |c| f.iter().filter(|f| f.abs() > c).count()),
        }
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

/// A sum over all rows as a sample has it.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    sum: f64,
    variance: f64,
}

/// Regret and its standard error by the difference of losses, or by the comparator's loss `alone` beside the one that is known, where that is much the surer (module docs).
fn the_surer(apart: Estimate, alone: Estimate, learned: f64) -> (f64, f64) {
    let (regret, variance) = match alone.variance < 0.25 * apart.variance {
        true => (learned - alone.sum, alone.variance),
        false => (apart.sum, apart.variance),
    };
    (regret.min(learned), variance.sqrt())
}

/// u at `rows`, u = sum b_i k(x_i, .) over `atoms`.
fn values(k: &Mat<f64>, rows: &[usize], atoms: &[usize], b: &[f64]) -> Vec<f64> {
    rows.iter().map(|&i| atoms.iter().zip(b).map(|(&j, b)| b * k[(j, i)]).sum()).collect()
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
