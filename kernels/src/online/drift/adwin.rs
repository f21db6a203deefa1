//! ADWIN: a window over a stream of losses that shrinks where its older part has another mean than its newer one.
//!
//! Bifet and Gavalda, "Learning from time-changing data with adaptive windowing", SDM 2007. For every cut of the window into n0 older and n1 newer values, 1/m = 1/n0 + 1/n1,
//! delta' = delta / ln n, v the window's
//! variance: the oldest values go while |mu0 - mu1| > sqrt((2 / m) v ln(2 / delta')) + (2 / (3 m)) ln(2 / delta').
//! The window is kept as an exponential histogram (their ADWIN2): buckets of 2^i values with sum and squared deviations, at most `per_size` + 1 of a size before the two oldest
//! are merged; cuts are between buckets. With `per_size` as
//! large as the stream every cut between two values is tried, the exact window (what the tests compare with). Cuts are looked for after every `clock` values.
//!
//! *One-sided.* A window shrinks for either sign; an alarm is a shrinking whose newer part is the larger: losses that fall are learning, not drift.
//!
//! **False alarms.** The paper's theorem has delta / n for delta' and no variance: at most delta a test. The rule above is its authors' practical one, normal where the theorem is
//! Hoeffding's. By the nominal rate, delta = 1e-6 and
//! a clock of 32 give 0.003 alarms in 100,000 rows; the tests hold it against uniform, Bernoulli and squared normal losses. Losses of a learner depend on each other by what it
//! has learned meanwhile, which lowers them.
//!
//! **Cost.** O(log n) buckets; some 90 cuts every 32 values.

use crate::online::OnlineError;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Parameters of [`Adwin`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdwinParams {
    /// Confidence of a cut.
    pub delta: f64,
    /// Buckets of a size before two are merged; the paper's M.
    pub per_size: usize,
    /// Values between two searches for a cut.
    pub clock: u32,
    /// Values that either part of a cut must have.
    pub least: u64,
}

impl Default for AdwinParams {
    /// 1e-6, 5, 32, 32.
    fn default() -> Self {
        AdwinParams { delta: 1e-6, per_size: 5, clock: 32, least: 32 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Bucket {
    count: u64,
    sum: f64,
    /// sum (x - mean)^2.
    spread: f64,
}

impl Bucket {
    fn mean(&self) -> f64 {
        if self.count > 0 { self.sum / self.count as f64 } else { 0.0 }
    }

    /// Both together (Chan, Golub and LeVeque 1983).
    fn join(self, other: Bucket) -> Bucket {
        if self.count == 0 || other.count == 0 {
            return if self.count == 0 { other } else { self };
        }
        let (a, b) = (self.count as f64, other.count as f64);
        let apart = self.mean() - other.mean();
        let spread = self.spread + other.spread + apart * apart * a * b / (a + b);
        Bucket { count: self.count + other.count, sum: self.sum + other.sum, spread }
    }
}

/// The window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adwin {
    params: AdwinParams,
    /// Oldest first; counts are powers of two and do not grow towards the end.
    buckets: VecDeque<Bucket>,
    since: u32,
}

impl Adwin {
    /// An empty window.
    ///
    /// # Errors
    /// [`OnlineError::Parameter`].
    pub fn new(params: AdwinParams) -> Result<Self, OnlineError> {
        if !(params.delta > 0.0 && params.delta < 1.0) {
            return Err(OnlineError::Parameter { name: "delta", value: params.delta, must: "in (0, 1)" });
        }
        for (name, value) in
            [("per_size", params.per_size as u64), ("clock", params.clock.into()), ("least", params.least)]
        {
            if value == 0 {
                return Err(OnlineError::Parameter { name, value: 0.0, must: "at least 1" });
            }
        }
        Ok(Adwin { params, buckets: VecDeque::new(), since: 0 })
    }

    /// Values in the window.
    pub fn len(&self) -> u64 {
        self.buckets.iter().map(|b| b.count).sum()
    }

    /// Whether the window is empty.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Mean of the window; 0 for an empty one.
    pub fn mean(&self) -> f64 {
        self.total().mean()
    }

    /// Takes a value, clamped to [0, 1]; true is an alarm: the window has shrunk and what is left has the larger mean.
    pub fn observe(&mut self, value: f64) -> bool {
        self.exceeds(value).is_some()
    }

    /// The same; of an alarm, by how much the newer mean is above the older one at the cut that stands out most, and by how much it had to be.
    pub fn exceeds(&mut self, value: f64) -> Option<(f64, f64)> {
        self.buckets.push_back(Bucket { count: 1, sum: value.clamp(0.0, 1.0), spread: 0.0 });
        self.merge();
        self.since += 1;
        if self.since < self.params.clock {
            return None;
        }
        self.since = 0;
        let mut alarm: Option<(f64, f64)> = None;
        while let Some((rise, least)) = self.cut() {
            self.buckets.pop_front();
            if rise > 0.0 && alarm.is_none_or(|(before, _)| rise > before) {
                alarm = Some((rise, least));
            }
        }
        alarm
    }

    /// An empty window again.
    pub fn reset(&mut self) {
        self.buckets.clear();
        self.since = 0;
    }

    fn total(&self) -> Bucket {
        self.buckets.iter().fold(Bucket::default(), |all, &b| all.join(b))
    }

    /// Merges the two oldest buckets of every size of which there are too many, smallest first.
    fn merge(&mut self) {
        let mut end = self.buckets.len();
        while end > 0 {
            let size = self.buckets[end - 1].count;
            let mut start = end;
            while start > 0 && self.buckets[start - 1].count == size && end - start <= self.params.per_size {
                start -= 1;
            }
            if end - start <= self.params.per_size {
                return;
            }
            // `start` is the oldest of its size: one more than allowed were met, and larger sizes lie before.
            let joined = self.buckets[start].join(self.buckets[start + 1]);
            self.buckets[start] = joined;
            self.buckets.remove(start + 1);
            end = start + 1;
        }
    }

    /// The first cut whose parts differ, from the oldest on: the newer mean less the older one, and what that had to exceed.
    fn cut(&self) -> Option<(f64, f64)> {
        let all = self.total();
        let n = all.count as f64;
        if all.count < 2 * self.params.least {
            return None;
        }
        let variance = all.spread / n;
        let log = (2.0 * n.ln() / self.params.delta).ln();
        let (mut old, mut sum) = (0u64, 0.0);
        for bucket in &self.buckets {
            old += bucket.count;
            sum += bucket.sum;
            let new = all.count - old;
            if new < self.params.least {
                return None;
            }
            if old < self.params.least {
                continue;
            }
            let (n0, n1) = (old as f64, new as f64);
            let inverse = 1.0 / n0 + 1.0 / n1;
            let difference = (all.sum - sum) / n1 - sum / n0;
            let least = (2.0 * inverse * variance * log).sqrt() + 2.0 / 3.0 * inverse * log;
            if difference.abs() > least {
                return Some((difference, least));
            }
        }
        None
    }
}
