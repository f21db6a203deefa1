//! The state of a walk between projections: what a checkpoint holds and a restored walk goes on from, to the same bits.

use super::super::vectors::column;
use faer::{Mat, MatRef};
use serde::{Deserialize, Serialize};

/// The mean of some projected iterates, and their number.
#[derive(
    Clone, Debug, Default, PartialEq, Serialize, Deserialize, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub(super) struct Window {
    /// Its first epoch.
    pub(super) since: usize,
    pub(super) count: usize,
    pub(super) mean: Vec<f64>,
}

impl Window {
    pub(super) fn add(&mut self, alpha: &[f64]) {
        self.count += 1;
        if self.count == 1 {
            self.mean = alpha.to_vec();
            return;
        }
        let share = 1.0 / self.count as f64;
        self.mean.iter_mut().zip(alpha).for_each(|(mean, a)| *mean += share * (a - *mean));
    }
}

/// The last of from, 2 from, 4 from, ... that is not after `epoch`, which is at least `from`.
pub(super) fn window_start(from: usize, epoch: usize) -> usize {
    if from == 0 { 0 } else { from << (epoch / from).ilog2() }
}

/// The state after a projection: continuing from it gives the same bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct EigenProState {
    /// t: a shard may have no center.
    pub(super) columns: usize,
    pub(super) alpha: Vec<f64>,
    pub(super) carried: Vec<f64>,
    /// Means of the projected iterates of the window before the last doubling of the epochs, and of that since.
    pub(super) averages: [Window; 2],
    pub(super) epoch: usize,
    /// First row of the next batch.
    pub(super) position: usize,
    pub(super) projections: usize,
    pub(super) held_out: Vec<f64>,
    pub(super) best: Option<(f64, usize, Vec<f64>)>,
    /// What the step is multiplied by, the first epoch at it, and the least loss at the step before.
    pub(super) scale: f64,
    pub(super) since: usize,
    pub(super) settled_at: f64,
    pub(super) cuts: usize,
    /// The last projection is yet to be shown to the observer: states that it stores are from there.
    pub(super) unseen: bool,
}

impl EigenProState {
    /// Losses of the epochs so far, in their order.
    pub fn losses(&self) -> &[f64] {
        &self.held_out
    }

    /// Whether it is one of so many coefficients: it may have been read from a file.
    pub fn fits(&self, coefficients: usize) -> bool {
        let means = self.averages.iter().filter(|window| window.count > 0).map(|window| window.mean.len());
        let best = self.best.iter().map(|(_, _, best)| best.len());
        let parts = [self.alpha.len(), self.carried.len()].into_iter();
        parts.chain(means).chain(best).all(|length| length == coefficients)
    }

    /// Starts from coefficients (m x t), for example of a smaller direct solve.
    pub fn from_coefficients(alpha: MatRef<'_, f64>) -> Self {
        let flat = flatten(alpha);
        EigenProState {
            columns: alpha.ncols(),
            carried: vec![0.0; flat.len()],
            alpha: flat,
            averages: Default::default(),
            epoch: 0,
            position: 0,
            projections: 0,
            held_out: Vec::new(),
            best: None,
            scale: 1.0,
            since: 0,
            settled_at: f64::INFINITY,
            cuts: 0,
            unseen: false,
        }
    }

    /// Goes on from the average with the step divided by `cut`.
    pub(super) fn cut_step(&mut self, m: usize, cut: f64, settled_at: f64) {
        self.alpha = flatten(self.output(m).as_ref());
        self.carried.fill(0.0);
        self.averages = Default::default();
        self.scale /= cut;
        self.since = self.epoch;
        self.settled_at = settled_at;
        self.cuts += 1;
    }

    /// Takes the projected iterate into the averages from epoch `from` on.
    pub(super) fn average(&mut self, from: usize) {
        // After a cut the walk begins at an average: its first epoch counts.
        let (from, epoch) = if self.since == 0 { (from, self.epoch) } else { (1, self.epoch - self.since + 1) };
        if epoch < from {
            return;
        }
        let since = window_start(from, epoch);
        if self.averages[1].count > 0 && self.averages[1].since < since {
            self.averages.swap(0, 1);
            self.averages[1] = Window::default();
        }
        self.averages[1].since = since;
        self.averages[1].add(&self.alpha);
    }

    /// The coefficients that would be returned: the average where there is one.
    pub(super) fn output(&self, m: usize) -> Mat<f64> {
        let [old, new] = &self.averages;
        if new.count == 0 {
            return unflatten(&self.alpha, m, self.columns);
        }
        if old.count == 0 {
            return unflatten(&new.mean, m, self.columns);
        }
        let share = new.count as f64 / (old.count + new.count) as f64;
        let both: Vec<f64> = old.mean.iter().zip(&new.mean).map(|(old, new)| old + share * (new - old)).collect();
        unflatten(&both, m, self.columns)
    }
}

pub(super) fn flatten(a: MatRef<'_, f64>) -> Vec<f64> {
    (0..a.ncols()).flat_map(|j| column(a, j)).collect()
}

pub(super) fn unflatten(a: &[f64], rows: usize, columns: usize) -> Mat<f64> {
    Mat::from_fn(rows, columns, |i, j| a[j * rows + i])
}
