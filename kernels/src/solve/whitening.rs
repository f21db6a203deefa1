//! Whitened coordinates of the space spanned by the centers.

use faer::{Mat, MatRef};

/// R (m x r) with R^T K_mm R = I: coordinates in which the norm of a function is the Euclidean norm of its coordinates.
///
/// r < m when centers are linearly dependent to working precision; iterates then stay in the range of R.
/// Each method costs m^2 flops a column (twice that for a dense R).
///
/// ```
/// use faer::{Mat, MatRef, mat};
/// use nystream_kernels::solve::Whitening;
///
/// struct Diagonal([f64; 2]); // K_mm = diag(d): R = diag(d)^-1/2.
/// impl Diagonal {
///     fn times(&self, power: f64, a: MatRef<'_, f64>) -> Mat<f64> {
///         Mat::from_fn(2, a.ncols(), |i, j| self.0[i].powf(power) * a[(i, j)])
///     }
/// }
/// impl Whitening for Diagonal {
///     fn centers(&self) -> usize { 2 }
///     fn rank(&self) -> usize { 2 }
///     fn apply(&self, z: MatRef<'_, f64>) -> Mat<f64> { self.times(-0.5, z) }
///     fn apply_transpose(&self, v: MatRef<'_, f64>) -> Mat<f64> { self.times(-0.5, v) }
///     fn center_gram(&self, alpha: MatRef<'_, f64>) -> Mat<f64> { self.times(1.0, alpha) }
/// }
/// let w = Diagonal([4.0, 9.0]);
/// let z = mat![[2.0], [3.0]];
/// let alpha = w.apply(z.as_ref());
/// assert_eq!((&alpha, &w.coordinates(alpha.as_ref())), (&mat![[1.0], [1.0]], &z));
/// // ||f||^2 = alpha^T K_mm alpha = |z|^2.
/// assert_eq!((alpha.transpose() * w.center_gram(alpha.as_ref()))[(0, 0)], 13.0);
/// ```
pub trait Whitening {
    /// Number of centers m.
    fn centers(&self) -> usize;
    /// Number of coordinates r.
    fn rank(&self) -> usize;
    /// R z, r x t to m x t.
    fn apply(&self, z: MatRef<'_, f64>) -> Mat<f64>;
    /// R^T v, m x t to r x t.
    fn apply_transpose(&self, v: MatRef<'_, f64>) -> Mat<f64>;
    /// K_mm alpha, m x t to m x t.
    fn center_gram(&self, alpha: MatRef<'_, f64>) -> Mat<f64>;
    /// K_mm R z, r x t to m x t: the values at the centers of the functions of coordinates z.
    ///
    /// An implementation that knows a factor should override this: with K_mm = L L^T and R = L^-T it is L z, half of the flops.
    fn values_at_centers(&self, z: MatRef<'_, f64>) -> Mat<f64> {
        self.center_gram(self.apply(z).as_ref())
    }
    /// R^T K_mm alpha, m x t to r x t: the coordinates of alpha (the inverse of [`Whitening::apply`] on its range).
    ///
    /// An implementation that knows a factor should override this: with K_mm = L L^T and R = L^-T it is L^T alpha,
    /// which loses no digits to the condition of K_mm.
    fn coordinates(&self, alpha: MatRef<'_, f64>) -> Mat<f64> {
        self.apply_transpose(self.center_gram(alpha).as_ref())
    }
}
