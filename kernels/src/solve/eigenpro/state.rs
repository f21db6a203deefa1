//! The state of a walk between projections: what a checkpoint holds and a restored walk goes on from, to the same bits.

use super::super::vectors::column;
use faer::{Mat, MatRef};
use serde::{Deserialize, Serialize};
use std::ops::Range;

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

    /// Outputs t.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Projections so far: of two states of one walk the one with more is the later one.
    pub fn projections(&self) -> usize {
        self.projections
    }

    /// The same of some of its centers: what a process has that shares them with others.
    ///
    /// ```
    /// use nystream_kernels::solve::eigenpro::EigenProState;
    /// let state = EigenProState::from_coefficients(faer::mat![[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]].as_ref());
    /// let parts = vec![state.rows(0..2), state.rows(2..3)];
    /// assert_eq!(parts[1], EigenProState::from_coefficients(faer::mat![[3.0, 6.0]].as_ref()));
    /// assert_eq!(EigenProState::joined(parts), Some(state));
    /// ```
    ///
    /// # Panics
    /// If there are no such centers.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let m = self.alpha.len() / self.columns.max(1);
        let cut = |values: &[f64]| -> Vec<f64> {
            values.chunks_exact(m.max(1)).flat_map(|column| column[rows.clone()].iter().copied()).collect()
        };
        self.with(cut)
    }

    /// The state of all centers whose `parts` these are, in order; `None` where they are not of one state.
    pub fn joined(parts: Vec<Self>) -> Option<Self> {
        let first = parts.first()?;
        let bare = |state: &Self| state.with(|_| Vec::new());
        let fit = |state: &Self| state.columns > 0 && state.fits(state.alpha.len());
        if !parts.iter().all(|part| fit(part) && bare(part) == bare(first)) {
            return None;
        }
        let t = first.columns;
        // The values of all parts that `of` finds in each, column by column.
        let join = |of: &dyn Fn(&Self) -> Option<&Vec<f64>>| -> Vec<f64> {
            let values: Vec<&Vec<f64>> = parts.iter().filter_map(of).collect();
            let column = |j: usize| {
                values.iter().flat_map(move |part| part[part.len() / t * j..part.len() / t * (j + 1)].iter().copied())
            };
            (0..t).flat_map(column).collect()
        };
        let mut all = first.clone();
        all.alpha = join(&|part| Some(&part.alpha));
        all.carried = join(&|part| Some(&part.carried));
        for (index, window) in all.averages.iter_mut().enumerate() {
            window.mean = join(&|part| Some(&part.averages[index].mean));
        }
        if let Some((_, _, best)) = &mut all.best {
            *best = join(&|part| part.best.as_ref().map(|(_, _, best)| best));
        }
        Some(all)
    }

    /// The same with `of` all its vectors.
    fn with(&self, of: impl Fn(&[f64]) -> Vec<f64>) -> Self {
        let window = |window: &Window| Window { since: window.since, count: window.count, mean: of(&window.mean) };
        EigenProState {
            columns: self.columns,
            alpha: of(&self.alpha),
            carried: of(&self.carried),
            averages: [window(&self.averages[0]), window(&self.averages[1])],
            epoch: self.epoch,
            position: self.position,
            projections: self.projections,
            held_out: self.held_out.clone(),
            best: self.best.as_ref().map(|(loss, epoch, best)| (*loss, *epoch, of(best))),
            scale: self.scale,
            since: self.since,
            settled_at: self.settled_at,
            cuts: self.cuts,
            unseen: self.unseen,
        }
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
