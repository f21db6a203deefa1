//! Lower-triangular factors that grow by rows, with columns in one piece for blocked solves.

use super::OnlineError;
use crate::dense::{self, SEQUENTIAL};
use faer::{Mat, MatMut, MatRef};
use serde::{Deserialize, Serialize};

/// A pivot of at most this share of (order) k(x, x) is rounding: the row is a combination of the others. Pivots are never clamped.
pub(super) const DEPENDENT: f64 = 1e-12;

/// A lower triangle (or the lower triangle of a symmetric matrix) that grows. Memory is doubled when full, so that small ones stay small.
///
/// Stored row by row without the zeros: plain numbers, the same bits back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Packed", into = "Packed")]
pub(super) struct Lower {
    columns: Mat<f64>,
    order: usize,
}

impl Default for Lower {
    fn default() -> Self {
        Lower { columns: Mat::new(), order: 0 }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Packed {
    order: usize,
    rows: Vec<f64>,
}

impl From<Lower> for Packed {
    fn from(lower: Lower) -> Self {
        let entries = (0..lower.order).flat_map(|i| (0..=i).map(move |j| (i, j)));
        Packed { order: lower.order, rows: entries.map(|at| lower.columns[at]).collect() }
    }
}

impl TryFrom<Packed> for Lower {
    type Error = OnlineError;

    fn try_from(packed: Packed) -> Result<Self, OnlineError> {
        if packed.order.checked_mul(packed.order + 1).is_none_or(|n| n / 2 != packed.rows.len()) {
            return Err(OnlineError::State { what: "a triangle does not have its number of entries" });
        }
        let mut lower = Lower::default();
        lower.reserve(packed.order);
        lower.order = packed.order;
        let mut entries = packed.rows.into_iter();
        for i in 0..packed.order {
            for (j, entry) in entries.by_ref().take(i + 1).enumerate() {
                lower.columns[(i, j)] = entry;
            }
        }
        Ok(lower)
    }
}

impl Lower {
    /// `scale` times the identity.
    pub fn scaled_identity(order: usize, scale: f64) -> Self {
        let mut lower = Lower::default();
        lower.extend_identity(order, scale);
        lower
    }

    pub fn order(&self) -> usize {
        self.order
    }

    /// Order x order; the strict upper triangle means nothing.
    pub fn view(&self) -> MatRef<'_, f64> {
        self.columns.submatrix(0, 0, self.order, self.order)
    }

    pub fn view_mut(&mut self) -> MatMut<'_, f64> {
        self.columns.as_mut().submatrix_mut(0, 0, self.order, self.order)
    }

    /// Room for `order` rows.
    fn reserve(&mut self, order: usize) {
        if order > self.columns.nrows() {
            let mut grown = Mat::zeros(order, order);
            grown.as_mut().submatrix_mut(0, 0, self.order, self.order).copy_from(self.view());
            self.columns = grown;
        }
    }

    /// Room for one more row, and for as many again.
    fn make_room(&mut self) {
        if self.order == self.columns.nrows() {
            self.reserve((2 * self.order).max(32));
        }
    }

    /// The last entry of the diagonal; 0 of an empty triangle.
    pub fn last(&self) -> f64 {
        self.order.checked_sub(1).map_or(0.0, |i| self.columns[(i, i)])
    }

    /// (largest / least entry of the diagonal)^2: the condition number of L L^T is at least that. 1 for an empty factor.
    pub fn condition(&self) -> f64 {
        let diagonal = (0..self.order).map(|i| self.columns[(i, i)]);
        let (least, most) = diagonal.fold((f64::INFINITY, 0.0f64), |(least, most), d| (least.min(d), most.max(d)));
        if self.order > 0 { (most / least).powi(2) } else { 1.0 }
    }

    /// Adds the row (`row`, `diagonal`).
    pub fn push(&mut self, row: &[f64], diagonal: f64) {
        self.make_room();
        let i = self.order;
        for (j, &x) in row.iter().enumerate() {
            self.columns[(i, j)] = x;
        }
        self.columns[(i, i)] = diagonal;
        self.order += 1;
    }

    /// Grows to `order` by rows of the identity times `scale`.
    pub fn extend_identity(&mut self, order: usize, scale: f64) {
        self.reserve(order);
        for i in self.order..order {
            for j in 0..i {
                self.columns[(i, j)] = 0.0;
            }
            self.columns[(i, i)] = scale;
        }
        self.order = order;
    }

    /// b <- L^-1 b.
    pub fn solve(&self, b: MatMut<'_, f64>) {
        if self.order > 0 {
            dense::solve_lower(self.view(), b, SEQUENTIAL);
        }
    }

    /// b <- L^-1 b for one column.
    pub fn solve_one(&self, b: &mut [f64]) {
        let n = b.len();
        self.solve(MatMut::from_column_major_slice_mut(b, n, 1));
    }

    /// b <- L^-T b for one column.
    pub fn solve_transpose(&self, b: &mut [f64]) {
        if self.order > 0 {
            let n = b.len();
            dense::solve_lower_transpose(self.view(), MatMut::from_column_major_slice_mut(b, n, 1), SEQUENTIAL);
        }
    }

    /// Becomes the Cholesky factor of the symmetric `a`.
    pub fn factor(&mut self, a: &Lower) -> Result<(), OnlineError> {
        self.order = 0;
        self.reserve(a.columns.nrows());
        self.order = a.order;
        self.view_mut().copy_from(a.view());
        Ok(dense::cholesky(self.view_mut(), SEQUENTIAL)?)
    }

    /// The factor of L L^T becomes that of L L^T + diag(`add`), `add` not negative.
    pub fn raise(&mut self, add: &[f64]) -> Result<(), OnlineError> {
        let n = self.order;
        let l = Mat::from_fn(n, n, |i, j| if j <= i { self.columns[(i, j)] } else { 0.0 });
        let mut a = Mat::zeros(n, n);
        dense::gemm_lower(a.as_mut(), false, 1.0, l.as_ref(), l.transpose(), SEQUENTIAL);
        add.iter().enumerate().for_each(|(i, x)| a[(i, i)] += x);
        dense::cholesky(a.as_mut(), SEQUENTIAL)?;
        self.view_mut().copy_from(a.as_ref());
        Ok(())
    }

    /// `by` times every entry, and `add` on the diagonal.
    pub fn scale_and_add(&mut self, by: f64, add: f64) {
        for j in 0..self.order {
            for i in j..self.order {
                self.columns[(i, j)] *= by;
            }
            self.columns[(j, j)] += add;
        }
    }
}
