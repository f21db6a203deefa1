//! Losses of predictions that were given before their targets, for learners that keep none themselves.

use crate::targets::TargetCode;
use serde::{Deserialize, Serialize};

/// Mean loss of all rows and of the last ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meter {
    rows: u64,
    sum: f64,
    window: Vec<f64>,
    next: usize,
    size: usize,
}

impl Meter {
    /// Nothing yet; `size`: rows of the window.
    pub fn new(size: usize) -> Self {
        Meter { size: size.max(1), ..Meter::default() }
    }

    /// A row was predicted with this loss.
    pub fn add(&mut self, loss: f64) {
        self.rows += 1;
        self.sum += loss;
        if self.window.len() < self.size {
            self.window.push(loss);
        } else if let Some(oldest) = self.window.get_mut(self.next) {
            *oldest = loss;
        }
        self.next = (self.next + 1) % self.size;
    }

    /// Rows predicted.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Mean of all.
    pub fn mean(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.sum / self.rows as f64)
    }

    /// Mean of the last ones, summed anew.
    pub fn window(&self) -> Option<f64> {
        (!self.window.is_empty()).then(|| self.window.iter().sum::<f64>() / self.window.len() as f64)
    }
}

/// The loss of a prediction: squared error of standardised numbers, mean over the targets that are there; of classes (1 - p)^2, p that of the class.
///
/// ```
/// use nystream_dataflows::{online::meter::loss_of, targets::TargetCode};
/// let code = TargetCode { names: vec!["y".into()], classes: vec![], centres: vec![3.0], exponents: vec![4] };
/// assert_eq!(loss_of(&code, &[2.0], &[5.0], &[1.0]), Some(4.0));
/// assert_eq!(loss_of(&code, &[2.0], &[5.0], &[f64::NAN]), None);
/// ```
pub fn loss_of(code: &TargetCode, deviations: &[f64], predicted: &[f64], targets: &[f64]) -> Option<f64> {
    if code.is_classification() {
        let p = predicted.get(*targets.first()? as usize)?;
        return Some((1.0 - p) * (1.0 - p));
    }
    let (mut sum, mut count) = (0.0, 0.0);
    for (k, (p, y)) in predicted.iter().zip(targets).enumerate() {
        let scale = deviations.get(k).copied().filter(|sd| *sd > 0.0).unwrap_or_else(|| code.scale(k));
        if y.is_finite() {
            sum += ((p - y) / scale).powi(2);
            count += 1.0;
        }
    }
    (count > 0.0).then(|| sum / count)
}
