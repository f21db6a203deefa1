//! What [`Tiles`](super::Tiles) has done on a dispatch path: packing, and entries into memory.

use super::buffer::Buffer;
use super::entry::Entry;
use super::lanes::{Lanes, Path, Task};
use super::micro::{Sink, sweep};
use super::pack::Form;
use super::products::padded_columns;
use crate::rows::Rows;

/// The row length of a padded block of so many columns.
pub(super) struct Columns(pub(super) usize);

impl<T> Task<T> for Columns {
    type Output = usize;
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, _p: P) -> usize {
        padded_columns::<T, P>(self.0)
    }
}

/// Centers into panels; gives the rows of a register tile and the centers of a panel.
pub(super) struct PackCenters<'a, T> {
    pub(super) form: &'a Form<T>,
    pub(super) centers: Rows<'a>,
    pub(super) panels: &'a mut Buffer<T>,
}

impl<T: Entry> Task<T> for PackCenters<'_, T> {
    type Output = (usize, usize);
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) -> (usize, usize) {
        let lanes = C * P::N;
        let len = self.centers.len().next_multiple_of(lanes) * self.form.depth();
        self.form.pack(p, self.centers, lanes, self.form.center_factor(), self.panels.take(len));
        (R, lanes)
    }
}

/// Rows into groups.
pub(super) struct PackRows<'a, T> {
    pub(super) form: &'a Form<T>,
    pub(super) rows: Rows<'a>,
    pub(super) out: &'a mut [T],
}

impl<T: Entry> Task<T> for PackRows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        self.form.pack(p, self.rows, R, T::ONE, self.out);
    }
}

/// Rows one by one, each whole.
pub(super) struct PackEach<'a, T> {
    pub(super) form: &'a Form<T>,
    pub(super) rows: Rows<'a>,
    pub(super) out: &'a mut [T],
}

impl<T: Entry> Task<T> for PackEach<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        self.form.pack(p, self.rows, 1, T::ONE, self.out);
    }
}

/// Kernel entries into memory.
pub(super) struct Fill<'a, T> {
    pub(super) form: &'a Form<T>,
    pub(super) packed: &'a [T],
    pub(super) panels: &'a [T],
    pub(super) rows: usize,
    pub(super) stride: usize,
    pub(super) centers: usize,
    pub(super) until: usize,
    pub(super) out: &'a mut [T],
}

/// Slopes into memory, as [`Fill`] has entries.
pub(super) struct FillSlopes<'a, T>(pub(super) Fill<'a, T>);

struct Store<'a, T, P, const SLOPES: bool> {
    p: P,
    rows: usize,
    stride: usize,
    /// Rows from the first of the current tile on, and where that row's entries go.
    left: usize,
    at: usize,
    out: &'a mut [T],
}

impl<T, P: Lanes<T>, const SLOPES: bool, const R: usize, const C: usize> Sink<P::V, R, C> for Store<'_, T, P, SLOPES> {
    const SLOPES: bool = SLOPES;
    #[inline(always)]
    fn begin(&mut self, first_row: usize, panel: usize) {
        self.left = self.rows - first_row;
        self.at = first_row * self.stride + panel * C * P::N;
    }
    #[inline(always)]
    fn put(&mut self, r: usize, entries: [P::V; C]) {
        if r < self.left {
            let to = P::arrays_mut(&mut self.out[self.at + r * self.stride..][..C * P::N]);
            for c in 0..C {
                self.p.store(&mut to[c], entries[c]);
            }
        }
    }
}

impl<T: Entry> Task<T> for Fill<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        self.store::<P, R, C, false>(p);
    }
}

impl<T: Entry> Task<T> for FillSlopes<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        self.0.store::<P, R, C, true>(p);
    }
}

impl<T: Entry> Fill<'_, T> {
    #[inline(always)]
    fn store<P: Path<T>, const R: usize, const C: usize, const SLOPES: bool>(self, p: P) {
        let panels = self.until.div_ceil(C * P::N) * C * P::N * self.form.depth();
        let mut sink =
            Store::<T, P, SLOPES> { p, rows: self.rows, stride: self.stride, left: 0, at: 0, out: &mut *self.out };
        sweep::<T, P, R, C>(p, self.form, self.packed, &self.panels[..panels], &mut sink);
        if self.until == self.centers {
            for row in self.out.chunks_exact_mut(self.stride.max(1)) {
                row[self.centers..].fill(T::ZERO);
            }
        }
    }
}
