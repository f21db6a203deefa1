//! Page's cumulative sum on the share of a row's mass that the dictionary does not span.
//!
//! **Problem.** Rows that come from elsewhere than before have k(x, x) - |phi~(x)|^2 near k(x, x): a shift of the features, seen without a label. The share x_t is in [0, 1].
//! S_t = max(0, S_(t-1) + x_t - mu - kappa), an alarm where S_t > h (Page, Biometrika 41, 1954).
//!
//! **False alarms.** Suppose rows are independent and of one law. x_t is between 0 and 1, so E exp(theta (x - mean)) <= exp(theta^2 / 8) (Hoeffding), and for theta = 8 kappa the
//! exponentials of the sums from any start are a
//! supermartingale if mu >= mean: a sum from a given row ever passes h with probability at most exp(-8 kappa h) (Ville). h = ln(1 / p) / (8 kappa): at most n p alarms are
//! expected in n rows.
//! mu itself is learned: mean and variance of whole windows of W rows, and mu is the least over the windows of mean + sqrt(2 v ln(2 / q) / W) + 7 ln(2 / q) / (3 (W - 1)) (Maurer
//! and Pontil, COLT 2009, theorem 4), each of which is
//! above the mean with probability 1 - q, q = p: another n p / W. A dictionary that grows lowers every x_t, which only helps. With p = 1e-6: 0.1 false alarms in 100,000 rows.
//! Rows that depend on each
//! other (time series) are outside the statement: their alarms are what they are.
//!
//! **What it finds.** A mean that rises by D above mu + kappa takes some h / D rows: h = 34.5 for kappa = 0.05; 140 rows for a rise of 0.3 above mu. Slow changes within a window
//! pass into the reference, and rises below kappa
//! plus the margin (0.07 and the spread's share for W = 500) are never seen. Before the first window is complete nothing is.

use crate::online::OnlineError;
use serde::{Deserialize, Serialize};

/// Parameters of [`Cusum`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CusumParams {
    /// Rise that is tolerated, kappa.
    pub allowance: f64,
    /// False alarms a row, p.
    pub false_alarms: f64,
    /// Rows of a reference window, W.
    pub window: usize,
}

impl Default for CusumParams {
    /// 0.05, 1e-6, 500.
    fn default() -> Self {
        CusumParams { allowance: 0.05, false_alarms: 1e-6, window: 500 }
    }
}

/// The sum and its reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cusum {
    params: CusumParams,
    sum: f64,
    reference: Option<f64>,
    /// Rows, sum and sum of squares of the window in progress.
    window: (usize, f64, f64),
}

impl Cusum {
    /// Nothing seen.
    ///
    /// # Errors
    /// [`OnlineError::Parameter`].
    pub fn new(params: CusumParams) -> Result<Self, OnlineError> {
        OnlineError::positive("allowance", params.allowance)?;
        if !(params.false_alarms > 0.0 && params.false_alarms < 1.0) {
            let value = params.false_alarms;
            return Err(OnlineError::Parameter { name: "false_alarms", value, must: "in (0, 1)" });
        }
        if params.window < 2 {
            return Err(OnlineError::Parameter { name: "window", value: params.window as f64, must: "at least 2" });
        }
        Ok(Cusum { params, sum: 0.0, reference: None, window: (0, 0.0, 0.0) })
    }

    /// The level h beyond which the sum is an alarm.
    pub fn threshold(&self) -> f64 {
        (1.0 / self.params.false_alarms).ln() / (8.0 * self.params.allowance)
    }

    /// Takes the share of one row, clamped to [0, 1]; true is an alarm, after which everything begins anew.
    pub fn observe(&mut self, share: f64) -> bool {
        self.exceeds(share).is_some()
    }

    /// The same; the sum of an alarm, which is above the threshold.
    pub fn exceeds(&mut self, share: f64) -> Option<f64> {
        let x = share.clamp(0.0, 1.0);
        if let Some(mu) = self.reference {
            self.sum = (self.sum + x - mu - self.params.allowance).max(0.0);
            if self.sum > self.threshold() {
                let sum = self.sum;
                self.reset();
                return Some(sum);
            }
        }
        let (n, sum, squares) = &mut self.window;
        (*n, *sum, *squares) = (*n + 1, *sum + x, *squares + x * x);
        if *n == self.params.window {
            let size = *n as f64;
            let mean = *sum / size;
            let variance = ((*squares - size * mean * mean) / (size - 1.0)).max(0.0);
            let log = (2.0 / self.params.false_alarms).ln();
            let above = mean + (2.0 * variance * log / size).sqrt() + 7.0 * log / (3.0 * (size - 1.0));
            self.reference = Some(self.reference.map_or(above, |mu| mu.min(above)));
            self.window = (0, 0.0, 0.0);
        }
        None
    }

    /// Forgets all.
    pub fn reset(&mut self) {
        (self.sum, self.reference, self.window) = (0.0, None, (0, 0.0, 0.0));
    }
}
