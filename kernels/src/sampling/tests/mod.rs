//! Oracles for sampling, on arrays: one kernel matrix held in memory and looked up by row number.

mod comparators;
mod disqueak;
mod leverage;
mod rpcholesky;
mod squeak;

use super::KernelOracle;
use crate::checks::{chi_square, chi_square_passes, largest, mean_and_error};
use crate::dense;
use crate::kernel::{Family, Kernel};
use crate::rows::{RowBuf, Rows};
use faer::{Mat, MatMut, MatRef};
use nystream_hashing::{RowId, StreamKey};

/// A kernel matrix as oracle: row i of the data is the number i.
struct Table {
    k: Mat<f64>,
    rows: RowBuf,
    ids: Vec<RowId>,
}

impl KernelOracle for Table {
    fn fill(&self, x: Rows<'_>, z: Rows<'_>, mut out: MatMut<'_, f64>) {
        let at = |rows: Rows<'_>, i: usize| rows.numeric(i)[0] as usize;
        out.copy_from(Mat::from_fn(x.len(), z.len(), |i, j| self.k[(at(x, i), at(z, j))]));
    }

    fn diagonal(&self, x: Rows<'_>) -> Vec<f64> {
        (0..x.len()).map(|i| self.k[(x.numeric(i)[0] as usize, x.numeric(i)[0] as usize)]).collect()
    }
}

impl Table {
    fn new(k: Mat<f64>) -> Self {
        let n = k.nrows();
        let rows =
            RowBuf { numeric: (0..n).map(|i| i as f32).collect(), numeric_width: 1, codes: vec![], code_width: 0 };
        Table { k, rows, ids: (0..n).map(|i| RowId(i as u128)).collect() }
    }

    /// A Gaussian kernel of width `sigma` on `n` hashed points of a 3-d mixture of uneven clusters.
    fn clusters(n: usize, sigma: f64, seed: u64) -> Self {
        let points = clusters(n, seed);
        let rows = points.view();
        let kernel = Kernel::new(Family::Gaussian, sigma);
        Table::new(Mat::from_fn(n, n, |i, j| kernel.evaluate(rows, i.max(j), rows, i.min(j))))
    }

    fn len(&self) -> usize {
        self.k.nrows()
    }

    fn rows(&self) -> Rows<'_> {
        self.rows.view()
    }

    /// The rows in another order.
    fn gather(&self, order: &[usize]) -> (RowBuf, Vec<RowId>) {
        (RowBuf::gather(self.rows(), order), order.iter().map(|i| self.ids[*i]).collect())
    }
}

fn clusters(n: usize, seed: u64) -> RowBuf {
    let mut buffer = RowBuf::new(3, 0);
    for i in 0..n {
        let id = RowId(i as u128);
        let u = StreamKey::new(seed, "test-cluster", 0).uniform(id);
        // Cluster sizes fall as 1/2, 1/4, ...; the rest is spread.
        let cluster = (-u.log2()).floor().min(5.0);
        let spread = if cluster == 5.0 { 3.0 } else { 0.5 };
        for axis in 0..3u64 {
            let (normal, _) = StreamKey::new(seed, "test-point", axis).normal_pair(id);
            let centre = 2.0 * (1.7 * cluster + axis as f64).sin();
            buffer.numeric.push((centre + spread * normal) as f32);
        }
    }
    buffer
}

/// A hashed permutation of 0..n.
fn shuffled(n: usize, seed: u64) -> Vec<usize> {
    let key = StreamKey::new(seed, "test-shuffle", 0);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|i| key.u128(RowId(*i as u128)));
    order
}

/// Psi = (A + gamma I)^-1/2 Phi in the eigenbasis of K (the null space left out), so that a dictionary's accuracy is an eigenvalue.
struct Whitened {
    psi: Mat<f64>,
}

impl Whitened {
    fn new(k: MatRef<'_, f64>, gamma: f64) -> Self {
        let (mu, u) = dense::symmetric_eigen(k, dense::SEQUENTIAL).unwrap();
        let kept: Vec<usize> = (0..mu.len()).filter(|j| mu[*j] > 1e-9 * gamma).collect();
        Whitened {
            psi: Mat::from_fn(kept.len(), k.nrows(), |a, i| {
                u[(i, kept[a])] * (mu[kept[a]] / (mu[kept[a]] + gamma)).sqrt()
            }),
        }
    }

    /// Extreme eigenvalues of (A + gamma)^-1/2 (M - A) (A + gamma)^-1/2 for the weights of all rows (0 = dropped).
    fn accuracy(&self, weights: &[f64]) -> (f64, f64) {
        let scaled = Mat::from_fn(self.psi.nrows(), self.psi.ncols(), |a, i| self.psi[(a, i)] * (weights[i] - 1.0));
        let p = &scaled * self.psi.transpose();
        let (mu, _) = dense::symmetric_eigen(p.as_ref(), dense::SEQUENTIAL).unwrap();
        (mu[0].min(0.0), mu[mu.len() - 1].max(0.0))
    }

    fn eps(&self, weights: &[f64]) -> f64 {
        let (low, high) = self.accuracy(weights);
        high.max(-low)
    }
}

/// The weights of all `n` rows (ids 0..n): 0 where dropped.
fn spread_weights(dictionary: &super::Dictionary, n: usize) -> Vec<f64> {
    let mut weights = vec![0.0; n];
    for (i, atom) in dictionary.atoms.iter().enumerate() {
        weights[atom.id.0 as usize] = dictionary.weight(i);
    }
    weights
}
