//! Dense f64 linear algebra: the one door to faer.
//!
//! Two rules keep one answer for any machine size (law 1):
//! * inside dataflow workers every product is sequential ([`SEQUENTIAL`]);
//! * m x m algebra, computed while workers rest, uses all threads ([`fixed_parallelism`]): products in tiles (`product.rs`), factors and solves by halves (`triangular.rs`), cut by
//!   shapes alone, so that neither threads nor the choice between the two changes a bit; products and solves of a few columns, eigensystems and orthonormal bases with one *logical*
//!   parallelism whatever the thread pool holds, since faer gives other bits for another `Par`.
//!
//! Everything heavy is instantiated here once, behind non-generic functions, so that faer is compiled once.
//! Cost: m^3/3 flops for [`cholesky`], about 9 m^3 for [`symmetric_eigen`], m^2 k for solves. Products reach 133 to 145 Gflop/s on two cores of 89 each (m = 4,000; Xeon, AVX-512, November
//! 2026), where faer's own division over threads reached 111 to 115.

mod product;
#[cfg(test)]
mod tests;
mod triangular;

use crate::constants::{FEW_COLUMNS, TASK_COLUMNS};
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd;
use faer::linalg::householder;
use faer::linalg::qr::no_pivoting::factor as qr;
use faer::prelude::ReborrowMut;
use faer::{Accum, Conj, Mat, MatMut, MatRef, Par};
use product::Part;
pub(crate) use product::each_columns;
use thiserror::Error;

/// What [`cholesky`] and [`symmetric_eigen`] can report.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum DenseError {
    /// The matrix is not positive definite to working precision.
    #[error("matrix of order {order} is not positive definite: pivot {index} is not positive")]
    NonPositivePivot {
        /// Index of the first pivot that failed.
        index: usize,
        /// Order of the matrix.
        order: usize,
    },
    /// The eigensolver did not converge, or the input holds a NaN or an infinity.
    #[error("the symmetric eigensolver failed on a matrix of order {order}: its entries are too large, or not numbers")]
    NoConvergence {
        /// Order of the matrix.
        order: usize,
    },
}

/// Parallelism inside dataflow workers.
pub const SEQUENTIAL: Par = Par::Seq;

/// All threads of the pool; where the number of tasks decides bits, as many as if there were a fixed number of threads (law 1): a constant, never a core count.
pub fn fixed_parallelism() -> Par {
    Par::rayon(crate::constants::LOGICAL_PARALLELISM)
}

/// `dst = beta dst + alpha a b`, with `accumulate` choosing beta in {0, 1}.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::dense::{SEQUENTIAL, gemm};
/// let mut c = mat![[1.0], [1.0]];
/// gemm(c.as_mut(), true, 2.0, mat![[1.0, 2.0], [3.0, 4.0]].as_ref(), mat![[1.0], [1.0]].as_ref(), SEQUENTIAL);
/// assert_eq!(c, mat![[7.0], [15.0]]);
/// ```
pub fn gemm(dst: MatMut<'_, f64>, accumulate: bool, alpha: f64, a: MatRef<'_, f64>, b: MatRef<'_, f64>, par: Par) {
    if dst.ncols() < FEW_COLUMNS {
        return faer::linalg::matmul::matmul(dst, accum(accumulate), a, b, alpha, par);
    }
    product::multiply(dst, Part::All, accumulate, alpha, a, b, parallel(par));
}

/// Lower triangle (with the diagonal) of `dst = beta dst + alpha a b`; the strict upper triangle is left alone.
///
/// ```
/// use faer::{Mat, mat};
/// use nystream_kernels::dense::{SEQUENTIAL, gemm_lower, mirror_lower};
/// let a = mat![[1.0, 2.0], [0.0, 3.0]];
/// let mut gram = Mat::zeros(2, 2);
/// gemm_lower(gram.as_mut(), false, 1.0, a.transpose(), a.as_ref(), SEQUENTIAL);
/// assert_eq!(gram, mat![[1.0, 0.0], [2.0, 13.0]]);
/// mirror_lower(gram.as_mut());
/// assert_eq!(gram, mat![[1.0, 2.0], [2.0, 13.0]]);
/// ```
pub fn gemm_lower(
    dst: MatMut<'_, f64>,
    accumulate: bool,
    alpha: f64,
    a: MatRef<'_, f64>,
    b: MatRef<'_, f64>,
    par: Par,
) {
    product::multiply(dst, Part::Lower, accumulate, alpha, a, b, parallel(par));
}

fn parallel(par: Par) -> bool {
    !matches!(par, Par::Seq)
}

fn accum(accumulate: bool) -> Accum {
    if accumulate { Accum::Add } else { Accum::Replace }
}

/// Replaces the lower triangle of the symmetric positive definite `a` (m x m, only its lower triangle is read)
/// by its Cholesky factor L, a = L L^T, and zeroes the strict upper triangle. No jitter is ever added.
///
/// # Errors
/// [`DenseError::NonPositivePivot`] with the failing pivot; `a` then holds no meaningful value.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::dense::{SEQUENTIAL, cholesky};
/// let mut a = mat![[4.0, 0.0], [2.0, 5.0]];
/// cholesky(a.as_mut(), SEQUENTIAL).unwrap();
/// assert_eq!(a, mat![[2.0, 0.0], [1.0, 2.0]]);
/// ```
pub fn cholesky(mut a: MatMut<'_, f64>, par: Par) -> Result<(), DenseError> {
    let order = a.nrows();
    triangular::factor(a.rb_mut(), (0, order), parallel(par))?;
    for j in 1..order {
        a.rb_mut().col_mut(j).subrows_mut(0, j).fill(0.0);
    }
    Ok(())
}

/// `b <- L^-1 b` for lower-triangular `l` (m x m) and `b` (m x k).
///
/// ```
/// use faer::mat;
/// use nystream_kernels::dense::{SEQUENTIAL, solve_lower, solve_lower_transpose};
/// let l = mat![[2.0, 0.0], [1.0, 2.0]];
/// let mut x = mat![[8.0], [14.0]]; // (L L^T) x
/// solve_lower(l.as_ref(), x.as_mut(), SEQUENTIAL);
/// solve_lower_transpose(l.as_ref(), x.as_mut(), SEQUENTIAL);
/// assert_eq!(x, mat![[0.75], [2.5]]);
/// ```
pub fn solve_lower(l: MatRef<'_, f64>, b: MatMut<'_, f64>, par: Par) {
    if b.ncols() < FEW_COLUMNS {
        return faer::linalg::triangular_solve::solve_lower_triangular_in_place(l, b, par);
    }
    triangular::solve(l, b, parallel(par));
}

/// `b <- L^-T b` for lower-triangular `l` (m x m) and `b` (m x k).
pub fn solve_lower_transpose(l: MatRef<'_, f64>, b: MatMut<'_, f64>, par: Par) {
    if b.ncols() < FEW_COLUMNS {
        return faer::linalg::triangular_solve::solve_upper_triangular_in_place(l.transpose(), b, par);
    }
    triangular::solve_transpose(l, b, parallel(par));
}

/// L x for lower-triangular `l` (m x m) and `x` (m x k).
///
/// ```
/// use faer::mat;
/// use nystream_kernels::dense::{SEQUENTIAL, lower_times, lower_transpose_times};
/// let (l, x) = (mat![[2.0, 0.0], [1.0, 2.0]], mat![[1.0], [3.0]]);
/// assert_eq!(lower_times(l.as_ref(), x.as_ref(), SEQUENTIAL), mat![[2.0], [7.0]]);
/// assert_eq!(lower_transpose_times(l.as_ref(), x.as_ref(), SEQUENTIAL), mat![[5.0], [6.0]]);
/// ```
pub fn lower_times(l: MatRef<'_, f64>, x: MatRef<'_, f64>, par: Par) -> Mat<f64> {
    triangular::times(l, x, parallel(par))
}

/// L^T x for lower-triangular `l` (m x m) and `x` (m x k).
pub fn lower_transpose_times(l: MatRef<'_, f64>, x: MatRef<'_, f64>, par: Par) -> Mat<f64> {
    triangular::transpose_times(l, x, parallel(par))
}

/// The diagonal of (L L^T)^-1 for a lower-triangular `l` (m x m): squared column norms of L^-1, in m^3 / 3 flops and blocks of [`GRAM_BLOCK`] columns.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::dense::{SEQUENTIAL, inverse_diagonal};
/// let l = mat![[2.0, 0.0], [1.0, 2.0]]; // L L^T = [4 2; 2 5], of determinant 16.
/// let diagonal = inverse_diagonal(l.as_ref(), SEQUENTIAL);
/// assert!((diagonal[0] - 5.0 / 16.0).abs() < 1e-15 && (diagonal[1] - 4.0 / 16.0).abs() < 1e-15);
/// ```
///
/// [`GRAM_BLOCK`]: crate::constants::GRAM_BLOCK
pub fn inverse_diagonal(l: MatRef<'_, f64>, par: Par) -> Vec<f64> {
    let m = l.nrows();
    let mut diagonal = Vec::with_capacity(m);
    for start in (0..m).step_by(crate::constants::GRAM_BLOCK) {
        let width = crate::constants::GRAM_BLOCK.min(m - start);
        // Above their own row the columns of L^-1 are zero.
        let mut columns = Mat::from_fn(m - start, width, |i, j| if i == j { 1.0 } else { 0.0 });
        solve_lower(l.submatrix(start, start, m - start, m - start), columns.as_mut(), par);
        diagonal.extend((0..width).map(|j| columns.col_as_slice(j).iter().map(|x| x * x).sum::<f64>()));
    }
    diagonal
}

/// Eigenvalues (ascending) and eigenvectors (columns) of the symmetric `a` (only its lower triangle is read).
///
/// # Errors
/// [`DenseError::NoConvergence`], also for input that is not finite.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::dense::{SEQUENTIAL, symmetric_eigen};
/// let (values, vectors) = symmetric_eigen(mat![[2.0, 0.0], [1.0, 2.0]].as_ref(), SEQUENTIAL).unwrap();
/// assert!((values[0] - 1.0).abs() < 1e-14 && (values[1] - 3.0).abs() < 1e-14);
/// assert!((vectors[(0, 1)] - vectors[(1, 1)]).abs() < 1e-14);
/// ```
pub fn symmetric_eigen(a: MatRef<'_, f64>, par: Par) -> Result<(Vec<f64>, Mat<f64>), DenseError> {
    let order = a.nrows();
    // What is no number is not turned away by the solver itself: it iterates to its limit.
    if !(0..order).all(|j| a.col(j).iter().skip(j).all(|x| x.is_finite())) {
        return Err(DenseError::NoConvergence { order });
    }
    let mut values = Diag::<f64>::zeros(order);
    let mut vectors = Mat::<f64>::zeros(order, order);
    let scratch = evd::self_adjoint_evd_scratch::<f64>(order, evd::ComputeEigenvectors::Yes, par, Default::default());
    let mut buffer = MemBuffer::new(scratch);
    evd::self_adjoint_evd(
        a,
        values.as_mut(),
        Some(vectors.as_mut()),
        par,
        MemStack::new(&mut buffer),
        Default::default(),
    )
    .map_err(|_| DenseError::NoConvergence { order })?;
    let values: Vec<f64> = values.column_vector().iter().copied().collect();
    if values.iter().any(|v| !v.is_finite()) {
        return Err(DenseError::NoConvergence { order });
    }
    Ok((values, vectors))
}

/// Orthonormal columns whose span contains that of `a` (rows x columns, at least as many rows as columns), by Householder reflections: as many as
/// `a` has, also where its own depend on each other. About 4 rows columns^2 flops.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::dense::{SEQUENTIAL, orthonormal};
/// let q = orthonormal(mat![[3.0], [4.0]].as_ref(), SEQUENTIAL);
/// assert!((q[(0, 0)].abs() - 0.6).abs() < 1e-15 && (q[(1, 0)].abs() - 0.8).abs() < 1e-15);
/// ```
pub fn orthonormal(a: MatRef<'_, f64>, par: Par) -> Mat<f64> {
    let (rows, columns) = a.shape();
    let block = qr::recommended_block_size::<f64>(rows, columns);
    let mut basis = a.to_owned();
    let mut coefficients = Mat::zeros(block, columns);
    let scratch = qr::qr_in_place_scratch::<f64>(rows, columns, block, par, Default::default());
    let stack = &mut MemBuffer::new(scratch);
    qr::qr_in_place(basis.as_mut(), coefficients.as_mut(), par, MemStack::new(stack), Default::default());
    let mut q = Mat::identity(rows, columns);
    let scratch =
        householder::apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(rows, block, columns);
    householder::apply_block_householder_sequence_on_the_left_in_place_with_conj(
        basis.as_ref(),
        coefficients.as_ref(),
        Conj::No,
        q.as_mut(),
        par,
        MemStack::new(&mut MemBuffer::new(scratch)),
    );
    q
}

/// diag(`weights`) `rows` (s x k), column-major whatever the rows are: what the second operand of a product should be. On all threads.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::dense::weighted_rows;
/// assert_eq!(weighted_rows(mat![[1.0, 2.0], [3.0, 4.0]].as_ref(), &[1.0, 0.5]), mat![[1.0, 2.0], [1.5, 2.0]]);
/// ```
///
/// # Panics
/// If there are not as many weights as rows.
pub fn weighted_rows(rows: MatRef<'_, f64>, weights: &[f64]) -> Mat<f64> {
    assert_eq!(rows.nrows(), weights.len(), "one weight a row");
    /// Rows of a column-major transpose that are read at once: whole cache lines are written.
    const LINE: usize = 8;
    let mut out = Mat::zeros(rows.nrows(), rows.ncols());
    each_columns(out.as_mut(), TASK_COLUMNS, true, |mut out, first| {
        for start in (0..weights.len()).step_by(LINE) {
            let end = weights.len().min(start + LINE);
            for j in 0..out.ncols() {
                for i in start..end {
                    out[(i, j)] = weights[i] * rows[(i, first + j)];
                }
            }
        }
    });
    out
}

/// `by` times the lower triangle of a square matrix, zeros above. On all threads.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::dense::scaled_lower;
/// assert_eq!(scaled_lower(mat![[1.0, 7.0], [2.0, 3.0]].as_ref(), 2.0), mat![[2.0, 0.0], [4.0, 6.0]]);
/// ```
pub fn scaled_lower(a: MatRef<'_, f64>, by: f64) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), a.ncols());
    each_columns(out.as_mut(), TASK_COLUMNS, true, |mut out, first| {
        for j in 0..out.ncols() {
            let from = a.col(first + j).iter().skip(first + j);
            out.rb_mut().col_mut(j).iter_mut().skip(first + j).zip(from).for_each(|(out, a)| *out = by * a);
        }
    });
    out
}

/// What is smaller than this, beside the largest numbers of a matrix, is no more than the rounding of a rounding, and may count as 0 ([`flush`]).
pub const NEGLIGIBLE: f64 = f64::EPSILON * f64::EPSILON;

/// Numbers whose size is below `negligible` become 0.
///
/// Kernels that are narrow beside the data have tiny entries; products of those underflow, and arithmetic with such numbers is a hundred times slower (60,000 rows in 3 dimensions,
/// m = 1,000, gaussian, conjugate gradients: 9.6 seconds of processor time with bandwidth 0.03 where 0.3 took 1.4; Xeon, November 2026).
///
/// ```
/// use faer::mat;
/// use nystream_kernels::dense::{NEGLIGIBLE, flush};
/// let mut a = mat![[1.0, -1e-40], [2.0 * NEGLIGIBLE, f64::NAN]];
/// flush(a.as_mut(), NEGLIGIBLE);
/// assert!(a[(0, 1)] == 0.0 && a[(1, 0)] > 0.0 && a[(1, 1)].is_nan());
/// ```
pub fn flush(matrix: MatMut<'_, f64>, negligible: f64) {
    flush_below(matrix, |_, _| negligible);
}

/// [`flush`] where what is negligible depends on row and column.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::dense::flush_below;
/// let mut a = mat![[1.0, 1e-5], [1e-5, 1.0]];
/// flush_below(a.as_mut(), |i, _| if i == 0 { 1e-4 } else { 1e-6 });
/// assert_eq!(a, mat![[1.0, 0.0], [1e-5, 1.0]]);
/// ```
pub fn flush_below(matrix: MatMut<'_, f64>, negligible: impl Fn(usize, usize) -> f64 + Send + Sync) {
    each_columns(matrix, TASK_COLUMNS, true, |mut columns, first| {
        for j in 0..columns.ncols() {
            let column = columns.rb_mut().col_mut(j);
            for (i, x) in column.iter_mut().enumerate() {
                *x = if x.abs() < negligible(i, first + j) { 0.0 } else { *x };
            }
        }
    });
}

/// Copies the lower triangle of a square matrix onto its upper triangle.
pub fn mirror_lower(mut a: MatMut<'_, f64>) {
    for j in 0..a.ncols() {
        for i in 0..j {
            a[(i, j)] = a[(j, i)];
        }
    }
}
