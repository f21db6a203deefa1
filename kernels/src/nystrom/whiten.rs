//! Whitening: a basis in which the kernel matrix of the centers is the identity.

use super::{NystromError, expect_finite, expect_shape};
use crate::dense::{self, fixed_parallelism, gemm};
use faer::{Mat, MatRef, Par};
use serde::{Deserialize, Serialize};

/// How a [`Whitener`] is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhitenMethod {
    /// `R = U mu^-1/2` over the eigenvalues `mu >= m eps mu_1`: best conditioned, 9 m^3 flops.
    Eigen,
    /// `R = L^-T` over the centers whose pivot exceeds `1e-12 m k(z, z)` in the given order: m^3 / 3 flops. Centers that depend on
    /// earlier ones leave the basis (sampling_and_online section 3). Good for features and preconditioners; where `K_mm` is nearly
    /// singular it amplifies the rounding of a Gram matrix more than [`WhitenMethod::Eigen`], which the ridge path should use.
    Cholesky,
}

/// Columns of `K_mm` that a block of the Cholesky factorisation takes at once.
const CHOLESKY_BLOCK: usize = 128;

/// Pivots at or below this times `m k(z, z)` are dependence on the earlier centers, not information.
const PIVOT_THRESHOLD: f64 = 1e-12;

/// `R` (m x r) with `R^T K_mm R = I`.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::nystrom::{WhitenMethod, Whitener};
/// let k = mat![[4.0, 2.0, 4.0], [2.0, 5.0, 2.0], [4.0, 2.0, 4.0]]; // the third center repeats the first
/// let whitener = Whitener::new(k.as_ref(), WhitenMethod::Cholesky).unwrap();
/// assert_eq!((whitener.rank(), whitener.dropped()), (2, &[2][..]));
/// let identity = whitener.congruence(k.as_ref()).unwrap();
/// assert!((identity - mat![[1.0, 0.0], [0.0, 1.0]]).norm_l2() < 2e-15);
/// ```
#[derive(Clone, Debug)]
pub struct Whitener {
    centers: usize,
    basis: Basis,
    dropped: Vec<usize>,
    scale: Scale,
}

/// The sizes that entries and features have at most, k(z, z')^2 <= k(z, z) k(z', z'), beside which others are negligible.
#[derive(Clone, Debug)]
struct Scale {
    /// k(z, z)^1/2 of every center.
    roots: Vec<f64>,
    /// The largest.
    largest: f64,
}

impl Scale {
    fn of(k_mm: MatRef<'_, f64>) -> Self {
        let roots: Vec<f64> = (0..k_mm.nrows()).map(|i| k_mm[(i, i)].max(0.0).sqrt()).collect();
        Scale { largest: roots.iter().copied().fold(0.0, f64::max), roots }
    }

    /// Entries of centers i and j below this count as 0.
    fn entry(&self, i: usize, j: usize) -> f64 {
        dense::NEGLIGIBLE * self.roots[i] * self.roots[j]
    }

    /// Features of center i below this count as 0.
    fn feature(&self, i: usize) -> f64 {
        dense::NEGLIGIBLE * self.roots[i]
    }
}

#[derive(Clone, Debug)]
enum Basis {
    /// `map` = R itself, columns by falling eigenvalue; `values`: all eigenvalues of K_mm, falling.
    Eigen { map: Mat<f64>, values: Vec<f64> },
    /// K[kept, kept] = factor factor^T.
    Cholesky { factor: Mat<f64>, kept: Vec<usize> },
}

impl Whitener {
    /// The whitener of the kernel matrix of the centers (m x m; only its lower triangle is read).
    ///
    /// # Errors
    /// [`NystromError`] if the matrix is not square, not finite, or of numerical rank 0.
    pub fn new(k_mm: MatRef<'_, f64>, method: WhitenMethod) -> Result<Self, NystromError> {
        let centers = k_mm.nrows();
        expect_shape("K_mm", k_mm, centers, centers)?;
        expect_finite("K_mm", k_mm)?;
        let scale = Scale::of(k_mm);
        let (basis, dropped, largest) = match method {
            WhitenMethod::Eigen => {
                let (basis, largest) = eigen_basis(k_mm)?;
                (basis, Vec::new(), largest)
            }
            WhitenMethod::Cholesky => {
                let largest = (0..centers).map(|i| k_mm[(i, i)]).fold(f64::NEG_INFINITY, f64::max);
                let whole = cholesky_of_all(k_mm, &scale);
                let whole = whole.map(|factor| (factor, (0..centers).collect(), Vec::new()));
                let (mut factor, kept, dropped) = whole.unwrap_or_else(|| cholesky_with_drops(k_mm, &scale));
                // Its rows are the features of the centers.
                dense::flush_below(factor.as_mut(), |i, _| scale.feature(kept[i]));
                (Basis::Cholesky { factor, kept }, dropped, largest)
            }
        };
        let whitener = Whitener { centers, basis, dropped, scale };
        if whitener.rank() == 0 { Err(NystromError::NoRank { centers, largest }) } else { Ok(whitener) }
    }

    /// Centers m.
    pub fn centers(&self) -> usize {
        self.centers
    }

    /// Rank r.
    pub fn rank(&self) -> usize {
        match &self.basis {
            Basis::Eigen { map, .. } => map.ncols(),
            Basis::Cholesky { kept, .. } => kept.len(),
        }
    }

    /// Centers outside the basis, ascending ([`WhitenMethod::Cholesky`]; the eigenvalue form drops directions, not centers).
    pub fn dropped(&self) -> &[usize] {
        &self.dropped
    }

    /// L (r x r, lower triangular) of the centers in the basis, K[kept, kept] = L L^T, and which centers those are ([`WhitenMethod::Cholesky`] only). Row i of L is
    /// the features of center `kept[i]`: they need no solve.
    ///
    /// ```
    /// use faer::mat;
    /// use nystream_kernels::nystrom::{WhitenMethod, Whitener};
    /// let k = mat![[4.0, 4.0, 2.0], [4.0, 4.0, 2.0], [2.0, 2.0, 5.0]]; // the second center repeats the first
    /// let whitener = Whitener::new(k.as_ref(), WhitenMethod::Cholesky).unwrap();
    /// let (factor, kept) = whitener.factor().unwrap();
    /// assert_eq!((factor.to_owned(), kept), (mat![[2.0, 0.0], [1.0, 2.0]], &[0, 2][..]));
    /// let features = whitener.features(k.as_ref()).unwrap(); // a column for each center
    /// assert_eq!(features.col(2).to_owned(), factor.row(1).transpose().to_owned());
    /// ```
    pub fn factor(&self) -> Option<(MatRef<'_, f64>, &[usize])> {
        match &self.basis {
            Basis::Eigen { .. } => None,
            Basis::Cholesky { factor, kept } => Some((factor.as_ref(), kept)),
        }
    }

    /// Eigenvalues of `K_mm`, falling ([`WhitenMethod::Eigen`] only).
    pub fn spectrum(&self) -> Option<&[f64]> {
        match &self.basis {
            Basis::Eigen { values, .. } => Some(values),
            Basis::Cholesky { .. } => None,
        }
    }

    /// `R z` (m x k) for `z` (r x k).
    ///
    /// # Errors
    /// [`NystromError::Shape`].
    pub fn apply(&self, z: MatRef<'_, f64>) -> Result<Mat<f64>, NystromError> {
        expect_shape("whitened block", z, self.rank(), z.ncols())?;
        let mut out = Mat::zeros(self.centers, z.ncols());
        match &self.basis {
            Basis::Eigen { map, .. } => gemm(out.as_mut(), false, 1.0, map.as_ref(), z, fixed_parallelism()),
            Basis::Cholesky { factor, kept } => {
                let mut solved = z.to_owned();
                dense::solve_lower_transpose(factor.as_ref(), solved.as_mut(), fixed_parallelism());
                for column in 0..z.ncols() {
                    for (row, &center) in kept.iter().enumerate() {
                        out[(center, column)] = solved[(row, column)];
                    }
                }
            }
        }
        Ok(out)
    }

    /// `K_mm R z` (m x k) for `z` (r x k), the values at the centers of functions in the basis: L z, m^2 flops a column. `None` unless all centers are in the basis of a
    /// [`WhitenMethod::Cholesky`].
    ///
    /// ```
    /// use faer::mat;
    /// use nystream_kernels::nystrom::{WhitenMethod, Whitener};
    /// let whitener = Whitener::new(mat![[4.0, 2.0], [2.0, 5.0]].as_ref(), WhitenMethod::Cholesky).unwrap();
    /// assert_eq!(whitener.values_at_centers(mat![[1.0], [1.0]].as_ref()), Some(mat![[2.0], [3.0]]));
    /// assert_eq!(whitener.center_gram(mat![[1.0], [1.0]].as_ref()), Some(mat![[6.0], [7.0]]));
    /// ```
    pub fn values_at_centers(&self, z: MatRef<'_, f64>) -> Option<Mat<f64>> {
        Some(dense::lower_times(self.whole_factor()?, z, fixed_parallelism()))
    }

    /// `K_mm alpha` (m x k) for `alpha` (m x k) without K_mm: L (L^T alpha). `None` where [`Whitener::values_at_centers`] is.
    pub fn center_gram(&self, alpha: MatRef<'_, f64>) -> Option<Mat<f64>> {
        let z = dense::lower_transpose_times(self.whole_factor()?, alpha, fixed_parallelism());
        self.values_at_centers(z.as_ref())
    }

    /// L, if K_mm = L L^T whole: the centers kept are then all, in their order.
    fn whole_factor(&self) -> Option<MatRef<'_, f64>> {
        self.factor().and_then(|(factor, kept)| (kept.len() == self.centers).then_some(factor))
    }

    /// `R^T v` (r x k) for `v` (m x k).
    ///
    /// # Errors
    /// [`NystromError::Shape`].
    pub fn apply_transpose(&self, v: MatRef<'_, f64>) -> Result<Mat<f64>, NystromError> {
        expect_shape("block of center coordinates", v, self.centers, v.ncols())?;
        Ok(self.transpose_times(v, 0.0, fixed_parallelism()))
    }

    /// The features of a block of rows: `R^T K_Bm^T` (r x B, a column for each row) for their kernel entries `K_Bm` (B x m). In a [`WhitenMethod::Cholesky`] entries and
    /// features below [`NEGLIGIBLE`](dense::NEGLIGIBLE) times what those of the centers are at most count as 0, as in its factor.
    ///
    /// # Errors
    /// [`NystromError::Shape`].
    pub fn features(&self, k_bm: MatRef<'_, f64>) -> Result<Mat<f64>, NystromError> {
        expect_shape("kernel block", k_bm, k_bm.nrows(), self.centers)?;
        Ok(self.transpose_times(k_bm.transpose(), dense::NEGLIGIBLE * self.scale.largest, fixed_parallelism()))
    }

    /// `R^T G R` (r x r, symmetric) of a symmetric `G` (m x m).
    ///
    /// # Errors
    /// [`NystromError::Shape`].
    pub fn congruence(&self, g: MatRef<'_, f64>) -> Result<Mat<f64>, NystromError> {
        expect_shape("Gram matrix", g, self.centers, self.centers)?;
        let half = self.apply_transpose(g)?;
        let mut out = self.apply_transpose(half.as_ref().transpose())?;
        dense::mirror_lower(out.as_mut());
        Ok(out)
    }

    /// `|R e_j|^2` of each coordinate j, r of them: what an error of 1 in the entries of a row is magnified by in `f_j`, squared.
    ///
    /// # Errors
    /// [`NystromError::Shape`], never in fact.
    pub fn squared_norms(&self) -> Result<Vec<f64>, NystromError> {
        let r = self.rank();
        let mut norms = Vec::with_capacity(r);
        for start in (0..r).step_by(CHOLESKY_BLOCK) {
            let unit = Mat::from_fn(r, CHOLESKY_BLOCK.min(r - start), |i, j| f64::from(u8::from(i == start + j)));
            let columns = self.apply(unit.as_ref())?;
            norms.extend((0..columns.ncols()).map(|j| columns.col_as_slice(j).iter().map(|v| v * v).sum::<f64>()));
        }
        Ok(norms)
    }

    /// `R^T v`, where features below `negligible` count as 0, and numbers of v below that times k(z, z)^1/2.
    fn transpose_times(&self, v: MatRef<'_, f64>, negligible: f64, par: Par) -> Mat<f64> {
        match &self.basis {
            Basis::Eigen { map, .. } => {
                let mut out = Mat::zeros(map.ncols(), v.ncols());
                gemm(out.as_mut(), false, 1.0, map.as_ref().transpose(), v, par);
                out
            }
            Basis::Cholesky { factor, kept } => {
                let mut out = match self.dropped.is_empty() {
                    true => v.to_owned(),
                    false => Mat::from_fn(kept.len(), v.ncols(), |i, j| v[(kept[i], j)]),
                };
                if negligible > 0.0 {
                    dense::flush_below(out.as_mut(), |i, _| negligible * self.scale.roots[kept[i]]);
                }
                dense::solve_lower(factor.as_ref(), out.as_mut(), par);
                if negligible > 0.0 {
                    dense::flush(out.as_mut(), negligible);
                }
                out
            }
        }
    }
}

/// The eigenvalue form, and the largest eigenvalue.
fn eigen_basis(k_mm: MatRef<'_, f64>) -> Result<(Basis, f64), NystromError> {
    let centers = k_mm.nrows();
    let (rising, vectors) = dense::symmetric_eigen(k_mm, fixed_parallelism())?;
    let largest = rising.last().copied().unwrap_or(0.0);
    let threshold = centers as f64 * f64::EPSILON * largest;
    let rank = rising.iter().filter(|&&mu| mu > 0.0 && mu >= threshold).count();
    let scale: Vec<f64> = rising.iter().rev().take(rank).map(|mu| 1.0 / mu.sqrt()).collect();
    let map = Mat::from_fn(centers, rank, |i, j| vectors[(i, centers - 1 - j)] * scale[j]);
    Ok((Basis::Eigen { map, values: rising.into_iter().rev().collect() }, largest))
}

/// The factor where every pivot counts, in place: with K_mm itself 0.5 s at m = 4,000, where looking for those that do not takes 0.8 (Xeon, two cores, November 2026).
fn cholesky_of_all(k: MatRef<'_, f64>, scale: &Scale) -> Option<Mat<f64>> {
    let m = k.nrows();
    let mut factor = k.to_owned();
    dense::flush_below(factor.as_mut(), |i, j| scale.entry(i, j));
    dense::cholesky(factor.as_mut(), fixed_parallelism()).ok()?;
    (0..m).all(|j| factor[(j, j)].powi(2) > PIVOT_THRESHOLD * m as f64 * k[(j, j)]).then_some(factor)
}

/// Left-looking blocked Cholesky in the given order; returns the factor, the centers kept and those dropped.
fn cholesky_with_drops(k: MatRef<'_, f64>, scale: &Scale) -> (Mat<f64>, Vec<usize>, Vec<usize>) {
    let m = k.nrows();
    let entry = |i: usize, j: usize| {
        let value = if i >= j { k[(i, j)] } else { k[(j, i)] };
        if value.abs() < scale.entry(i, j) { 0.0 } else { value }
    };
    let (mut kept, mut dropped) = (Vec::with_capacity(m), Vec::new());
    let mut l = Mat::zeros(m, m);
    for start in (0..m).step_by(CHOLESKY_BLOCK) {
        let width = (m - start).min(CHOLESKY_BLOCK);
        let rank = kept.len();
        let mut v = Mat::from_fn(rank, width, |i, j| entry(start + j, kept[i]));
        dense::solve_lower(l.as_ref().submatrix(0, 0, rank, rank), v.as_mut(), fixed_parallelism());
        let mut s = Mat::from_fn(width, width, |i, j| entry(start + i, start + j));
        dense::gemm_lower(s.as_mut(), true, -1.0, v.as_ref().transpose(), v.as_ref(), fixed_parallelism());
        let mut accepted: Vec<usize> = Vec::with_capacity(width);
        for j in 0..width {
            let pivot = s[(j, j)];
            if pivot <= PIVOT_THRESHOLD * m as f64 * entry(start + j, start + j) || pivot <= 0.0 {
                dropped.push(start + j);
                continue;
            }
            let root = pivot.sqrt();
            s[(j, j)] = root;
            for i in j + 1..width {
                s[(i, j)] /= root;
            }
            for column in j + 1..width {
                let factor = s[(column, j)];
                for i in column..width {
                    s[(i, column)] -= factor * s[(i, j)];
                }
            }
            let row = kept.len();
            for i in 0..rank {
                l[(row, i)] = v[(i, j)];
            }
            accepted.push(j);
            for (i, &column) in accepted.iter().enumerate() {
                l[(row, rank + i)] = s[(j, column)];
            }
            kept.push(start + j);
        }
    }
    let rank = kept.len();
    let factor = l.submatrix(0, 0, rank, rank).to_owned();
    (factor, kept, dropped)
}
