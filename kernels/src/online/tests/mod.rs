//! Oracles of the online learners, on hashed streams. Tables of speed and loss are in `speed.rs`.

mod bounds;
mod drift;
mod identities;
mod losses;
mod projected;
mod recursive;
mod references;
mod snapshots;
mod speed;

use super::*;
use crate::kernel::{Family, Kernel};
use crate::rows::{RowBuf, Rows};
use crate::solve::oracle::{kernel_matrix, normal_rows, normals};
use faer::Mat;
use nystream_hashing::RowId;

/// A stream: rows, ids, targets.
struct Stream {
    rows: RowBuf,
    ids: Vec<RowId>,
    y: Vec<f64>,
}

impl Stream {
    /// `n` normal rows of `d` features with |y| < 1: a smooth function and noise.
    fn smooth(seed: u64, n: usize, d: usize, noise: f64) -> Self {
        let rows = normal_rows(seed, n, d);
        let eps = normals(seed + 1000, n, 1);
        let value = |i: usize| {
            let x = rows.view().numeric(i);
            let signal: f64 = x.iter().enumerate().map(|(k, v)| (f64::from(*v) + k as f64).sin()).sum();
            (0.8 * signal / (d as f64).sqrt() + noise * eps[(i, 0)]).clamp(-0.99, 0.99)
        };
        let y = (0..n).map(value).collect();
        Stream { rows, ids: (0..n as u128).map(|i| RowId(i + (u128::from(seed) << 64))).collect(), y }
    }

    /// The same with labels 1 and -1.
    fn labels(mut self) -> Self {
        self.y.iter_mut().for_each(|y| *y = if *y > 0.1 { 1.0 } else { -1.0 });
        self
    }

    /// The target's sign changes every `period` rows.
    fn flipping(mut self, period: usize) -> Self {
        self.y.iter_mut().enumerate().for_each(|(i, y)| *y *= if (i / period).is_multiple_of(2) { 1.0 } else { -1.0 });
        self
    }

    fn len(&self) -> usize {
        self.y.len()
    }

    fn batch(&self) -> Batch<'_> {
        self.part(0, self.len())
    }

    fn part(&self, start: usize, end: usize) -> Batch<'_> {
        Batch::new(self.rows.view().slice(start, end), &self.ids[start..end], &self.y[start..end])
    }

    fn kernel_matrix(&self, kernel: &Kernel) -> Mat<f64> {
        kernel_matrix(kernel, self.rows.view(), self.rows.view())
    }
}

fn gaussian(bandwidth: f64) -> EntryParams {
    EntryParams::new(Kernel::new(Family::Gaussian, bandwidth))
}

fn dictionary(gamma: f64, cap: usize, seed: u64) -> DictionaryParams {
    DictionaryParams { seed, ..DictionaryParams::new(gamma, cap) }
}

/// Largest distance of two lists of finite numbers.
#[track_caller]
fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |worst, (a, b)| crate::checks::larger(worst, (a - b).abs()))
}

fn predictions(outcomes: &[Outcome]) -> Vec<f64> {
    outcomes.iter().map(|o| o.prediction).collect()
}

/// Loss, curvature and clip range of every kind.
fn kinds() -> Vec<(Loss, Curvature, Option<f64>)> {
    let huber = Loss::Huber { delta: 0.3 };
    vec![
        (Loss::Squared, Curvature::Adaptive, None),
        (Loss::Squared, Curvature::Adaptive, Some(0.5)),
        (Loss::Squared, Curvature::Fixed { scale: 1.0 }, Some(1.0)),
        (Loss::Squared, Curvature::Fixed { scale: 1.0 }, Some(1.5)),
        (Loss::Logistic, Curvature::Adaptive, Some(3.0)),
        (Loss::Logistic, Curvature::Fixed { scale: 0.5 }, Some(2.0)),
        (Loss::SquaredHinge, Curvature::Adaptive, Some(1.5)),
        (Loss::SquaredHinge, Curvature::Fixed { scale: 1.0 }, Some(0.8)),
        (huber, Curvature::Adaptive, None),
        (huber, Curvature::Adaptive, Some(1.0)),
    ]
}

fn is_label(loss: Loss) -> bool {
    matches!(loss, Loss::Logistic | Loss::SquaredHinge)
}
