//! Gradients of f(x) = sum_j v_j k(x, z_j) at rows that stream by, and the mean of their outer products.
//!
//! **Problem.** Learning a metric needs, for every row, the sum over centers of the kernel's derivative times the difference: grad f(x_i) in the encoded numeric columns, and
//! M = sum_i w_i grad f(x_i) grad f(x_i)^T (the average gradient outer product; Radhakrishnan, Beaglehole, Pandit and Belkin, Science 383, 2024).
//!
//! **How.** With y the scaled coordinates that the tiles hold and h the slope of the family (`functions.rs`), the gradient in y is
//! -sum_j v_j h_ij (y_i - y_j) = sum_j h_ij (v_j y_j) - y_i sum_j h_ij v_j: one product of the matrix of slopes with the m x (d + 1) block [V o Y, V], for each column of v,
//! by the f64 products of `products.rs`. The chain rule of the map from columns to coordinates follows for each row.
//!
//! **Cancellation.** Where the centers that matter are near the row, the two terms are large beside their difference. Both are made of the same rounded slopes and of the same
//! coordinates, which are exact in f64; so the rounding of slopes is harmless (it changes the weight of a difference, not the difference), and what is lost is the rounding of the f64
//! sums: at most (m + 3) 2^-53 (|y_i| + |y_j|) |v_j| h_ij, summed over j. Tests check that bound. It is far below the rounding of f32 coordinates, 2^-24 (|y_i| + |y_j|) a difference; the offset of
//! [`Tiles`], subtracted before, keeps |y| small for both.
//!
//! **Invariants.** A row's gradient has bits that depend on the row, the centers in their order, v, kernel, offset, precision and dispatch path: each sum is one chain of multiply-adds in ascending
//! center order. Outer products are one chain in ascending order of rows (and of columns of v in a row), starting from what the accumulator holds, so calls may be cut anywhere.
//!
//! **Which kernels.** All radial families, any metric, and polynomials. Categorical columns are constants. Laplace and matern12 have no derivative at x = z_j: that center counts 0 there, as it
//! does where the two agree in the precision of the coordinates. Arc-cosine and tangent kernels are refused.
//!
//! **Cost.** An entry's slope (about that of the entry) and t (d + 1) f64 multiply-adds an entry, in which columns are padded to whole vectors. Memory: t (d + 1) m f64 for the packed
//! block, and slopes of 48 rows or more a thread.

use super::entry::{Entry, Real};
use super::lanes::{Path, Task};
use super::pack::Mode;
use super::products::{Direction, Entries, Many, PackColumns};
use super::tasks::{Columns, FillSlopes};
use super::{TileError, TileScratch, Tiles};
use crate::constants::{GRADIENT_ROWS, WIDE_CHUNK};
use crate::kernel::Family;
use crate::rows::Rows;

/// The gradients of sum_j v_j k(x, z_j), t functions at once. Made once for a v, shared between threads.
///
/// ```
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{Gradients, SimdPath, TileScratch, Tiles}};
/// let kernel = Kernel::new(Family::Gaussian, 1.0);
/// let tiles = Tiles::<f64>::new(&kernel, Rows::new(&[0.0, 0.0], 2, &[], 0), &[], SimdPath::detect())?;
/// let gradients = Gradients::new(&tiles, &[2.0], 1)?;
/// // f = 2 exp(-|x|^2 / 2), grad f = -x f.
/// let (rows, mut scratch) = (Rows::new(&[1.0, -0.5, 0.0, 0.0], 2, &[], 0), TileScratch::new());
/// let mut g = [0.0; 4];
/// gradients.at(rows, &mut scratch, &mut g);
/// let f = 2.0 * (-0.625f64).exp();
/// assert!((g[0] + f).abs() < 1e-14 && (g[1] - 0.5 * f).abs() < 1e-14 && g[2..] == [0.0; 2]);
/// let mut outer = [0.0; 4];
/// gradients.add_outer(rows, None, &mut scratch, &mut outer);
/// assert!((outer[1] + 0.5 * f * f).abs() < 1e-14 && outer[1] == outer[2]);
/// # Ok::<(), nystream_kernels::tile::TileError>(())
/// ```
#[derive(Debug)]
pub struct Gradients<'a, T: Entry> {
    tiles: &'a Tiles<T>,
    /// [V o Y, V] of each column of v, packed for the product.
    packed: Vec<f64>,
    t: usize,
}

impl<'a, T: Entry> Gradients<'a, T> {
    /// The functions whose coefficients are the columns of `v` (m x t, row-major).
    ///
    /// # Errors
    /// [`TileError::NoGradient`]: an arc-cosine or tangent kernel.
    ///
    /// # Panics
    /// If `v` does not have m x t values.
    pub fn new(tiles: &'a Tiles<T>, v: &[f64], t: usize) -> Result<Self, TileError> {
        let family = tiles.kernel().family;
        if matches!(family, Family::ArcCosine { .. } | Family::Ntk { .. }) {
            return Err(TileError::NoGradient { family });
        }
        let (m, d) = (tiles.centers(), tiles.form.width);
        assert_eq!(v.len(), m * t, "v must be centers x t");
        let (lanes, depth) = (tiles.lanes, tiles.form.depth());
        let (panels, factor) = (tiles.panels.get(tiles.panel_len()), tiles.form.center_factor().to_f64());
        // An even number of columns at least: the product of one column has another form.
        let columns = (t * (d + 1)).max(2);
        let mut block = vec![0.0; m * columns];
        for (j, row) in block.chunks_exact_mut(columns).enumerate() {
            let center = &panels[j / lanes * depth * lanes + j % lanes..];
            for (c, out) in row.chunks_exact_mut(d + 1).enumerate().take(t) {
                let v = v[j * t + c];
                // The factor is a power of two: division is exact.
                (0..d).for_each(|k| out[k] = v * (center[k * lanes].to_f64() / factor));
                out[d] = v;
            }
        }
        let mut packed = vec![0.0; m * T::dispatch(tiles.token, Columns(columns))];
        T::dispatch(tiles.token, PackColumns { v: &block, columns, out: &mut packed });
        Ok(Gradients { tiles, packed, t })
    }

    /// `out` (n x t x d, row-major, d numeric columns): the gradient of every function at every row, per encoded unit.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn at(&self, rows: Rows<'_>, scratch: &mut TileScratch<T>, out: &mut [f64]) {
        let width = self.t * rows.numeric_width();
        assert_eq!(out.len(), rows.len() * width, "out must be rows x t x numeric columns");
        self.each(rows, scratch, |i, gradient| out[i * width..(i + 1) * width].copy_from_slice(gradient));
    }

    /// `acc` (d x d, row-major, symmetric) += sum_i w_i sum_c grad f_c(x_i) grad f_c(x_i)^T, with `weights` (one a row) or ones. Only the lower triangle of `acc` is
    /// read; all of it is written.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn add_outer(&self, rows: Rows<'_>, weights: Option<&[f64]>, scratch: &mut TileScratch<T>, acc: &mut [f64]) {
        let d = rows.numeric_width();
        assert_eq!(acc.len(), d * d, "acc must be numeric columns squared");
        assert!(weights.is_none_or(|w| w.len() == rows.len()), "one weight a row");
        let token = self.tiles.token;
        self.each(rows, scratch, |i, gradients| {
            let weight = weights.map_or(1.0, |w| w[i]);
            f64::dispatch(token, Outer { gradients, d, weight, acc: &mut *acc });
        });
        for i in 0..d {
            for j in 0..i {
                acc[j * d + i] = acc[i * d + j];
            }
        }
    }

    /// Shows `f` each row's index and gradients, t x d.
    fn each(&self, rows: Rows<'_>, scratch: &mut TileScratch<T>, mut f: impl FnMut(usize, &[f64])) {
        let tiles = self.tiles;
        tiles.check(rows);
        let (form, stride, m, t) = (&tiles.form, tiles.stride, tiles.centers, self.t);
        let (d, input) = (form.width, form.input_width());
        let columns = (t * (d + 1)).max(2);
        let padded = T::dispatch(tiles.token, Columns(columns));
        let TileScratch { rows: packed, entries, kv, wide, acc: gradient, v: coordinates, .. } = scratch;
        let (gradient, coordinates) = (gradient.take(t * input), coordinates.take(d));
        let step = tiles.block_rows().max(GRADIENT_ROWS / tiles.height * tiles.height);
        for start in (0..rows.len()).step_by(step) {
            let end = (start + step).min(rows.len());
            let n = end - start;
            let groups = tiles.pack(rows.slice(start, end), packed);
            let k = entries.take(n * stride);
            T::dispatch(tiles.token, FillSlopes(tiles.fill_task(groups, n, m, &mut *k)));
            let sums = kv.take(n * padded);
            sums.fill(0.0);
            let task = Many {
                entries: Entries { k: &*k, stride, centers: m },
                direction: Direction::Forward,
                rows: n,
                columns,
                v: &self.packed,
                out: &mut *sums,
                wide: wide.take(n * WIDE_CHUNK),
            };
            T::dispatch(tiles.token, task);
            for (i, sums) in sums.chunks_exact(padded).enumerate() {
                let row = &groups[i / tiles.height * form.depth() * tiles.height + i % tiles.height..];
                for c in 0..t {
                    let (near, total) = sums[c * (d + 1)..][..d + 1].split_at(d);
                    for (q, y) in coordinates.iter_mut().enumerate() {
                        // An inner product has no part of the row's own.
                        let own = if form.mode == Mode::Inner { 0.0 } else { row[q * tiles.height].to_f64() };
                        *y = near[q] - own * total[0];
                    }
                    form.pull_back(coordinates, &mut gradient[c * input..][..input]);
                }
                f(start + i, gradient);
            }
        }
    }
}

/// The lower triangle of `acc` += w g g^T for each of the gradients, in order.
struct Outer<'a> {
    gradients: &'a [f64],
    d: usize,
    weight: f64,
    acc: &'a mut [f64],
}

impl Task<f64> for Outer<'_> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<f64>, const R: usize, const C: usize>(self, p: P) {
        for g in self.gradients.chunks_exact(self.d.max(1)) {
            for (i, row) in self.acc.chunks_exact_mut(self.d.max(1)).enumerate() {
                let (factor, row) = (self.weight * g[i], &mut row[..=i]);
                let splat = p.splat(factor);
                let whole = row.len() / P::N * P::N;
                for (sum, g) in P::arrays_mut(row).iter_mut().zip(P::arrays(g)) {
                    let total = p.mul_add(splat, p.load(g), p.load(sum));
                    p.store(sum, total);
                }
                for (sum, g) in row[whole..].iter_mut().zip(&g[whole..]) {
                    *sum = p.scalar_mul_add(factor, *g, *sum);
                }
            }
        }
    }
}
