//! The center that tells most of a row, found while its entries are in cache.
//!
//! phi(x) is nearest to a multiple of phi(z_j) where k(x, z_j)^2 / k(z_j, z_j) is largest: for a radial kernel, at the nearest center in the metric. That multiple is
//! k(x, z_j) / k(z_j, z_j), and its square is the share of the row that the center can stand for ([`Nearest::share`]). Preconditioners let centers stand for the rows around
//! them with these shares (`solve/preconditioner.rs`).
//!
//! Ties go to the center that comes first, whatever the width of the vectors: each lane keeps its first largest, lanes are compared by value and then by place. Cost: six
//! operations an entry's vector, no more memory traffic than a product.

use super::entry::{Entry, Real};
use super::lanes::{Path, Task};
use super::products::Entries;
use super::vectors::Reads;
use super::{TileScratch, Tiles};
use crate::rows::Rows;

/// The center nearest to a row, as [`Tiles::map_nearest`] shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Nearest {
    /// Its index; 0 for a row that no center tells anything of.
    pub center: usize,
    /// (k(x, z) / k(z, z))^2: in [0, 1] for a radial kernel, to rounding.
    pub share: f64,
}

/// Numbers of a row's nearest center where the products of others lie: its index and its share.
pub(super) const COLUMNS: usize = 2;

/// Nearest centers of rows, [`COLUMNS`] values each: `roots` has `stride` values, k(z, z)^-1/2 (0 beyond the centers).
pub(super) struct Find<'a, T> {
    pub(super) entries: Entries<'a, T>,
    pub(super) roots: &'a [T],
    pub(super) out: &'a mut [f64],
}

impl<T: Real> Task<T> for Find<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        let Entries { k, stride, centers } = self.entries;
        let roots = P::arrays(self.roots);
        for (row, out) in k.chunks_exact(stride.max(1)).zip(self.out.as_chunks_mut::<COLUMNS>().0) {
            let (mut best, mut place, mut here) = (p.splat(T::ZERO), p.splat(T::ZERO), p.splat(T::ZERO));
            for (k, root) in P::arrays(row).iter().zip(roots) {
                let scaled = p.mul(p.load(k), p.load(root));
                let score = p.mul(scaled, scaled);
                let better = p.less(best, score);
                best = p.select(better, score, best);
                place = p.select(better, here, place);
                here = p.add(here, p.splat(T::ONE));
            }
            let (mut scores, mut places) = ([T::ZERO; 16], [T::ZERO; 16]);
            if let Some(to) = P::arrays_mut(&mut scores).first_mut() {
                p.store(to, best);
            }
            if let Some(to) = P::arrays_mut(&mut places).first_mut() {
                p.store(to, place);
            }
            // A score of 0 is no center's.
            let mut found = (0.0, 0);
            for lane in 0..P::N {
                let (score, center) = (scores[lane].to_f64(), places[lane].to_f64() as usize * P::N + lane);
                if center < centers && (score > found.0 || score == found.0 && score > 0.0 && center < found.1) {
                    found = (score, center);
                }
            }
            let root = self.roots[found.1].to_f64();
            *out = [found.1 as f64, found.0 * root * root];
        }
    }
}

impl<T: Entry> Tiles<T> {
    /// For every row i: `f(i, nearest, u)` reads its nearest center and writes u_i (s values, zero before); then `acc` (m x s, row-major) += K^T u. Each entry is
    /// evaluated once. Sums are those of [`Tiles::map_rows`].
    ///
    /// # Panics
    /// If the lengths do not agree, or there are no centers.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{Nearest, SimdPath, TileScratch, Tiles}};
    /// let kernel = Kernel::new(Family::Laplace, 1.0);
    /// let centers = Rows::new(&[0.0, 1.0], 1, &[], 0);
    /// let tiles = Tiles::<f64>::new(&kernel, centers, &[], SimdPath::detect())?;
    /// let (mut count, mut mass) = ([0.0; 2], [0.0; 2]);
    /// // How many rows there are, seen from each center; and how much of them each can stand for.
    /// let rows = Rows::new(&[0.0, 1.0, 3.0], 1, &[], 0);
    /// tiles.map_nearest(rows, 1, &mut TileScratch::new(), &mut count, |_, Nearest { center, share }, u| {
    ///     mass[center] += share;
    ///     u[0] = 1.0;
    /// });
    /// assert!((count[1] - (1.0 + (-1f64).exp() + (-2f64).exp())).abs() < 1e-14);
    /// assert!(mass[0] == 1.0 && (mass[1] - (1.0 + (-4f64).exp())).abs() < 1e-14);
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    pub fn map_nearest<F: FnMut(usize, Nearest, &mut [f64])>(
        &self,
        rows: Rows<'_>,
        s: usize,
        scratch: &mut TileScratch<T>,
        acc: &mut [f64],
        mut f: F,
    ) {
        assert!(self.centers() > 0, "there must be a center");
        self.pass(rows, Reads::Nearest, s, scratch, acc, |i, values, u| {
            f(i, Nearest { center: values[0] as usize, share: values[1] }, u)
        });
    }
}
