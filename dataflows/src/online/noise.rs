//! The variance of the noise, as the stream goes by.
//!
//! A prediction of leverage q has variance v (1 + q), v that of the noise: v is estimated as the mean of loss / (1 + q) with weights that fall by 1 / 2,000 a row. What the dictionary or a wrong kernel cannot express counts as
//! noise. Absent before 16 rows.

use serde::{Deserialize, Serialize};

/// What a row keeps each row.
const KEEP: f64 = 1.0 - 1.0 / 2000.0;
/// Rows before variances are given.
const FIRST: u64 = 16;

/// The estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Noise {
    sum: f64,
    weight: f64,
    rows: u64,
}

impl Noise {
    /// A row that was predicted with this squared error, and this leverage.
    pub fn add(&mut self, loss: f64, leverage: f64) {
        self.sum = KEEP * self.sum + loss / (1.0 + leverage);
        self.weight = KEEP * self.weight + 1.0;
        self.rows += 1;
    }

    /// The variance of a prediction, in units of the squared errors.
    pub fn variance(&self, leverage: f64) -> Option<f64> {
        (self.rows >= FIRST).then(|| self.sum / self.weight * (1.0 + leverage))
    }
}
