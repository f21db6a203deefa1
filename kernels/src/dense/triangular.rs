//! Cholesky factors and triangular solves by halves: nearly all of their work is one large product at each level.
//!
//! Halving is by order alone, so that results depend on no thread. Blocks of at most [`FACTOR_BLOCK`] rows are faer's, sequential over as many columns as a task takes.

use super::DenseError;
use super::product::{Part, each_columns, multiply, tile_width};
use crate::constants::{FACTOR_BLOCK, TASK_COLUMNS};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{BlockStructure, matmul as triangular_matmul};
use faer::prelude::{Reborrow, ReborrowMut};
use faer::{Accum, Mat, MatMut, MatRef, Par};

/// Where a matrix of order `m` is cut: whole blocks on the left.
fn half(m: usize) -> usize {
    (m / 2).next_multiple_of(FACTOR_BLOCK)
}

/// `a` = L L^T in its lower triangle; `first` is the index of its first pivot in the whole matrix, of `order`.
pub(super) fn factor(mut a: MatMut<'_, f64>, (first, order): (usize, usize), parallel: bool) -> Result<(), DenseError> {
    let m = a.nrows();
    if m <= 2 * FACTOR_BLOCK {
        let scratch = llt::factor::cholesky_in_place_scratch::<f64>(m, Par::Seq, Default::default());
        let mut buffer = MemBuffer::new(scratch);
        let done = llt::factor::cholesky_in_place(
            a.rb_mut(),
            Default::default(),
            Par::Seq,
            MemStack::new(&mut buffer),
            Default::default(),
        );
        let name = |index| DenseError::NonPositivePivot { index: first + index, order };
        done.map_err(|llt::factor::LltError::NonPositivePivot { index }| name(index))?;
        // A NaN pivot compares as neither positive nor negative; do not let it pass as success.
        return (0..m).find(|&i| a[(i, i)].is_nan() || a[(i, i)] <= 0.0).map_or(Ok(()), |index| Err(name(index)));
    }
    let h = half(m);
    let (mut top, _, mut below, mut rest) = a.split_at_mut(h, h);
    factor(top.rb_mut(), (first, order), parallel)?;
    solve(top.rb(), below.rb_mut().transpose_mut(), parallel);
    multiply(rest.rb_mut(), Part::Lower, true, -1.0, below.rb(), below.rb().transpose(), parallel);
    factor(rest, (first + h, order), parallel)
}

/// `b <- L^-1 b` for the lower triangle of `l`.
pub(super) fn solve(l: MatRef<'_, f64>, b: MatMut<'_, f64>, parallel: bool) {
    let m = l.nrows();
    if m <= FACTOR_BLOCK {
        return each_columns(b, TASK_COLUMNS, parallel, |b, _| {
            faer::linalg::triangular_solve::solve_lower_triangular_in_place(l, b, Par::Seq);
        });
    }
    let h = half(m);
    let (mut top, mut rest) = b.split_at_row_mut(h);
    solve(l.submatrix(0, 0, h, h), top.rb_mut(), parallel);
    multiply(rest.rb_mut(), Part::All, true, -1.0, l.submatrix(h, 0, m - h, h), top.rb(), parallel);
    solve(l.submatrix(h, h, m - h, m - h), rest, parallel);
}

/// `b <- L^-T b` for the lower triangle of `l`.
pub(super) fn solve_transpose(l: MatRef<'_, f64>, b: MatMut<'_, f64>, parallel: bool) {
    let m = l.nrows();
    if m <= FACTOR_BLOCK {
        return each_columns(b, TASK_COLUMNS, parallel, |b, _| {
            faer::linalg::triangular_solve::solve_upper_triangular_in_place(l.transpose(), b, Par::Seq);
        });
    }
    let h = half(m);
    let (mut top, mut rest) = b.split_at_row_mut(h);
    solve_transpose(l.submatrix(h, h, m - h, m - h), rest.rb_mut(), parallel);
    multiply(top.rb_mut(), Part::All, true, -1.0, l.submatrix(h, 0, m - h, h).transpose(), rest.rb(), parallel);
    solve_transpose(l.submatrix(0, 0, h, h), top, parallel);
}

/// L x for the lower triangle of `l`: a tile of rows a task.
pub(super) fn times(l: MatRef<'_, f64>, x: MatRef<'_, f64>, parallel: bool) -> Mat<f64> {
    let mut out = Mat::zeros(l.nrows(), x.ncols());
    each_tile(out.as_mut(), parallel, |mut out, start| {
        let (height, after) = (out.nrows(), start + out.nrows());
        let left = l.submatrix(start, 0, height, start);
        matmul(out.rb_mut(), Accum::Replace, left, x.subrows(0, start), 1.0, Par::Seq);
        let corner = (l.submatrix(start, start, height, height), BlockStructure::TriangularLower);
        add_triangle(out, corner, x.subrows(start, after - start));
    });
    out
}

/// L^T x for the lower triangle of `l`.
pub(super) fn transpose_times(l: MatRef<'_, f64>, x: MatRef<'_, f64>, parallel: bool) -> Mat<f64> {
    let m = l.nrows();
    let mut out = Mat::zeros(m, x.ncols());
    each_tile(out.as_mut(), parallel, |mut out, start| {
        let (width, after) = (out.nrows(), start + out.nrows());
        let below = l.submatrix(after, start, m - after, width).transpose();
        matmul(out.rb_mut(), Accum::Replace, below, x.subrows(after, m - after), 1.0, Par::Seq);
        let corner = (l.submatrix(start, start, width, width).transpose(), BlockStructure::TriangularUpper);
        add_triangle(out, corner, x.subrows(start, width));
    });
    out
}

/// `out += t x` for a triangle of `t`.
fn add_triangle(out: MatMut<'_, f64>, (t, shape): (MatRef<'_, f64>, BlockStructure), x: MatRef<'_, f64>) {
    let whole = BlockStructure::Rectangular;
    triangular_matmul(out, whole, Accum::Add, t, shape, x, whole, 1.0, Par::Seq);
}

/// Calls `work` with the rows of each tile and the first of them.
fn each_tile(out: MatMut<'_, f64>, parallel: bool, work: impl Fn(MatMut<'_, f64>, usize) + Send + Sync) {
    let tile = tile_width(out.nrows(), out.nrows());
    each_columns(out.transpose_mut(), tile, parallel, |rows, start| work(rows.transpose_mut(), start));
}
