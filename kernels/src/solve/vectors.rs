//! Sums over replicated vectors in one fixed shape (law 1): eight interleaved lanes, added in a fixed order.

use crate::dense::{fixed_parallelism, gemm};
use faer::{Mat, MatRef};

/// x . y.
pub(crate) fn dot(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len(), "vectors of one length");
    let mut lanes = [0.0f64; 8];
    let (xs, ys) = (x.chunks_exact(8), y.chunks_exact(8));
    let tail: f64 = xs.remainder().iter().zip(ys.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in xs.zip(ys) {
        for l in 0..8 {
            lanes[l] += a[l] * b[l];
        }
    }
    ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7])) + tail
}

/// Euclidean norm.
pub(crate) fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

/// The larger of two numbers, NaN if either is one (`f64::max` would take the other).
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// y += a x.
pub(crate) fn axpy(y: &mut [f64], a: f64, x: &[f64]) {
    assert_eq!(x.len(), y.len(), "vectors of one length");
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// Column `j` as an owned vector.
pub(crate) fn column(a: MatRef<'_, f64>, j: usize) -> Vec<f64> {
    (0..a.nrows()).map(|i| a[(i, j)]).collect()
}

/// A matrix of the given columns, all of length `rows`.
pub(crate) fn from_columns(rows: usize, columns: &[&[f64]]) -> Mat<f64> {
    let mut out = Mat::zeros(rows, columns.len());
    for (j, c) in columns.iter().enumerate() {
        out.col_as_slice_mut(j).copy_from_slice(c);
    }
    out
}

/// Sum of squares of a whole matrix, column by column.
pub(crate) fn squares(a: &Mat<f64>) -> f64 {
    (0..a.ncols()).map(|j| dot(a.col_as_slice(j), a.col_as_slice(j))).sum()
}

/// a b, in the fixed parallelism (faer's `*` would take the host's).
pub(crate) fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    gemm(out.as_mut(), false, 1.0, a, b, fixed_parallelism());
    out
}
