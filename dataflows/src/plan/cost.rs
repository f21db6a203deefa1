//! Flop counts of the stages.

use crate::dictionary::LEAF_ROWS;
use crate::solve::eigenpro::{EXACT_PROJECTION_CENTERS, PROJECTION_EPOCHS, projection_sample};
use crate::solve::gram::GRID_RIDGES;
use serde::{Deserialize, Serialize};

/// Flop equivalents of the scalar part of a kernel entry (exponential, norms, rounding).
pub const ENTRY_FLOPS: f64 = 20.0;
/// Flop equivalents of one categorical column in a kernel entry.
pub const CODE_FLOPS: f64 = 3.0;
/// m x m algebra of the gram solver: Cholesky of K_mm, whitening and the symmetric eigensystem, in units of m^3.
pub const GRAM_ALGEBRA: f64 = 12.0;
/// One Shrink of the trie, in units of M^3: a Cholesky factor and the diagonal of its inverse, 2 n^3 / 3 flops at order n of about 1.8 M.
/// (kin40k, 36,000 rows, M = 3,651: 10.3 core seconds where this counts 1.05e12 flops; EPYC with AVX-512, November 2026.)
pub const SHRINK_ALGEBRA: f64 = 4.0;
/// The symmetric eigensystem of a matrix, in units of its order cubed.
pub const EIGEN_ALGEBRA: f64 = 9.0;
/// Ridges that a tuning candidate tries.
const RIDGES: f64 = 20.0;
/// Rows of the sample of a logistic preconditioner, in units of m: their features stay in memory.
pub const PRECONDITIONER_ROWS: f64 = 1.0;
/// Most rows of the sample of conjugate gradients' preconditioner, in units of m.
const MOST_PRECONDITIONER_ROWS: f64 = 3.0;

/// Passes of EigenPro beside its epochs: the hashed order, the worst row, the judges and the residual.
pub const EIGENPRO_PASSES: f64 = 4.0;

/// The algebra of one coordinate block of b rows: its entries of `entry` flops, a sketch of rank r and its orthonormal columns, products with them, two
/// eigensystems, and a dozen power steps.
///
/// ```
/// // Two eigensystems of 9 r^3 outweigh the entries.
/// assert!(nystream_dataflows::plan::block_algebra(512.0, 256.0, 40.0) > 18.0 * 256f64.powi(3));
/// ```
pub fn block_algebra(b: f64, r: f64, entry: f64) -> f64 {
    b * b * entry / 2.0
        + 2.0 * b * b * r
        + 16.0 * b * r * r
        + 2.0 * EIGEN_ALGEBRA * r.powi(3)
        + 24.0 * b * (b + 4.0 * r)
}

/// What stands for the rows in the preconditioner of conjugate gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preconditioning {
    /// What takes the least time to a residual of 1e-6, by the numbers of rows and centers alone.
    #[default]
    Auto,
    /// The centers, each for the rows around it: a quarter of the algebra of a mixture, about twice the iterations.
    Centers,
    /// The centers and sampled rows.
    Mixed,
}

/// Rows of the sample of conjugate gradients' preconditioner, in units of m: one, and up to three where passes over `rows` rows outweigh their algebra; none where a pass is so cheap that
/// the iterations they save take less time than their algebra.
///
/// A second m costs 2 m^3 flops and saves about 8 of 33 iterations, a third 4 more. With the rates of this machine (95 Gflop/s, 4.6 billion entries a second; Xeon, two cores,
/// November 2026) that is worth it from m^2 / 80 rows on, and from twice as many. The first m, with the degrees of freedom that it gives, costs 3.3 m^3 and saves some 30 iterations of n m entries and
/// 1.25 ns m^2 of vectors: worth it from about m^2 / 250 - 6 m rows on. The centers alone take 1.1 to 4.5 times the iterations (two to five features, gaussian and matern32): there must be more to gain.
///
/// ```
/// use nystream_dataflows::plan::{Preconditioning, preconditioner_rows};
/// let auto = |rows| preconditioner_rows(Preconditioning::Auto, rows, 4000.0);
/// assert_eq!([10_000.0, 36_000.0, 200_000.0, 1e6].map(auto), [0.0, 1.0, 2.0, 3.0]);
/// assert_eq!(preconditioner_rows(Preconditioning::Centers, 1e6, 4000.0), 0.0);
/// assert_eq!(preconditioner_rows(Preconditioning::Mixed, 20_000.0, 4000.0), 1.0);
/// ```
pub fn preconditioner_rows(preconditioning: Preconditioning, rows: f64, m: f64) -> f64 {
    match preconditioning {
        Preconditioning::Centers => 0.0,
        Preconditioning::Auto if rows < m * m / 400.0 - 6.0 * m => 0.0,
        _ => (1.0 + (80.0 * rows / (m * m)).floor()).min(MOST_PRECONDITIONER_ROWS),
    }
}

/// Kernel entries of an inexact projection on m centers; none where K_mm is factored.
fn inexact_projection(m: f64) -> f64 {
    if m <= EXACT_PROJECTION_CENTERS as f64 {
        return 0.0;
    }
    let epochs = PROJECTION_EPOCHS as f64;
    epochs * m * (m + projection_sample(m as usize) as f64) + m * m
}

/// The size of a problem.
///
/// ```
/// use nystream_dataflows::plan::Shape;
/// let shape = Shape { rows: 1e6, numeric: 5.0, codes: 1.0, targets: 1.0 };
/// // 2 flops for each number, 3 for a code, 20 for the exponential.
/// assert_eq!(shape.entry(), 33.0);
/// let gram = shape.gram(1000.0);
/// assert_eq!((gram.passes, gram.entries), (1.0, 1e9));
/// // n m^2 outweighs the entries and the algebra: 20 steps of conjugate gradients are cheaper here.
/// assert_eq!(gram.flops, 1e9 * (33.0 + 1000.0 + 2.0) + 12.0 * 1e9);
/// assert!(shape.pcg(1000.0, 20.0).flops < gram.flops);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Training rows n.
    pub rows: f64,
    /// Numeric encoded columns.
    pub numeric: f64,
    /// Categorical encoded columns.
    pub codes: f64,
    /// Target columns t.
    pub targets: f64,
}

/// Predicted cost of one solver on a [`Shape`] with m centers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SolverCost {
    /// Passes over the rows.
    pub passes: f64,
    /// Kernel entries.
    pub entries: f64,
    /// Flops in all.
    pub flops: f64,
}

impl Shape {
    /// Flops of one kernel entry.
    pub fn entry(&self) -> f64 {
        2.0 * self.numeric + CODE_FLOPS * self.codes + ENTRY_FLOPS
    }

    /// One pass of exact Gram and the eigensystem: n m (2d + e) + n m^2 + 2 n m t + 12 m^3.
    pub fn gram(&self, m: f64) -> SolverCost {
        let entries = self.rows * m;
        let algebra = GRAM_ALGEBRA * m.powi(3);
        let flops = entries * (self.entry() + m + 2.0 * self.targets) + algebra;
        SolverCost { passes: 1.0, entries, flops }
    }

    /// `iterations` conjugate-gradient steps: one pass for the right-hand side, one each, one for the final residual,
    /// with a preconditioner of the centers and sampled rows, its own factor and that of K_mm, and the degrees of freedom twice.
    pub fn pcg(&self, m: f64, iterations: f64) -> SolverCost {
        self.sparse_pcg(m, iterations, 1.0, preconditioner_rows(Preconditioning::Auto, self.rows, m))
    }

    /// [`Shape::pcg`] whose products keep a share of the entries, all but those of the right-hand side, with `sampled` m rows in the preconditioner.
    pub fn sparse_pcg(&self, m: f64, iterations: f64, share: f64, sampled: f64) -> SolverCost {
        let passes = iterations + 2.0;
        let sample = sampled * m;
        let entries = self.rows * m * (1.0 + (iterations + 1.0) * share) + sample * m;
        // K_mm's factor, the centers' Gram and its factor; with a sample as much for either number of the extrapolated degrees of freedom.
        let fixed = if sampled > 0.0 { 7.0 / 3.0 } else { 1.0 };
        let algebra = m.powi(3) * fixed + sample * m * m * 2.0 + iterations * 6.0 * m * m * self.targets;
        let flops = entries * (self.entry() + 4.0 * self.targets) + algebra;
        SolverCost { passes, entries, flops }
    }

    /// `steps` Newton steps of logistic loss in `passes` passes, margins and directions side by side, each step with a preconditioner of the centers and m sampled rows for every
    /// margin.
    pub fn logistic(&self, m: f64, steps: f64, passes: f64) -> SolverCost {
        let entries = self.rows * m * passes + PRECONDITIONER_ROWS * m * m;
        let flops = entries * (self.entry() + 6.0 * self.targets) + self.logistic_algebra(m, steps);
        SolverCost { passes, entries, flops }
    }

    /// The m x m algebra of `steps` Newton steps, of the features that they share, and of two more such matrices for the degrees of freedom.
    pub fn logistic_algebra(&self, m: f64, steps: f64) -> f64 {
        let rows = PRECONDITIONER_ROWS + 1.0;
        m.powi(3) * (1.0 / 3.0 + PRECONDITIONER_ROWS + self.targets * (steps + 2.0) * (rows + 1.0 / 3.0))
    }

    /// `epochs` of EigenPro with delayed projection and a subsample of s rows: n (m + s) entries an epoch and n m / 2 for the batches since the last
    /// projection; before it the worst row's diagonal, n s entries with s / 20 directions, and after it one pass for the residual. `judges` rows judge
    /// every epoch. An inexact projection (above 20,000 centers) is four epochs of m rows on m centers, and one pass over them for what it leaves.
    pub fn eigenpro(&self, m: f64, s: f64, judges: f64, epochs: f64) -> SolverCost {
        let n = self.rows;
        // Projections come about every m rows.
        let projections = (epochs * n / m).ceil();
        let entries = epochs * (n * (1.5 * m + s) + judges * m) + n * (s + m) + projections * inexact_projection(m);
        let flops = entries * (self.entry() + 2.0 * self.targets) + n * s * s / 10.0;
        let flops = flops + self.eigenpro_algebra(m, s, judges, projections);
        SolverCost { passes: epochs + EIGENPRO_PASSES, entries, flops }
    }

    /// Its algebra: K_mm's factor, the subsample's eigensystem, the projections, and the degrees of freedom from `rows` rows. Above 20,000 centers there is no
    /// matrix of them: two eigensystems of subsamples, of rows and of centers.
    pub fn eigenpro_algebra(&self, m: f64, s: f64, rows: f64, projections: f64) -> f64 {
        if m > EXACT_PROJECTION_CENTERS as f64 {
            return EIGEN_ALGEBRA * (s.powi(3) + (projection_sample(m as usize) as f64).powi(3));
        }
        let rows = rows.min(3000.0);
        let factors = m.powi(3) / 3.0 + EIGEN_ALGEBRA * s.powi(3);
        factors + projections * 4.0 * m * m * self.targets + rows * m * m + rows * m * rows.min(m) + rows.min(m).powi(3)
    }

    /// `epochs` of block coordinate descent on full kernel ridge regression by blocks of b rows and rank r, n^2 entries each, and three for residuals. The rows are
    /// in memory: one pass.
    pub fn blockcd(&self, b: f64, r: f64, epochs: f64) -> SolverCost {
        let n = self.rows;
        let entries = n * n * (epochs + 3.0);
        let algebra = (epochs * n / b).ceil() * block_algebra(b, r, self.entry());
        SolverCost { passes: 1.0, entries, flops: entries * (self.entry() + 2.0 * self.targets) + algebra }
    }

    /// Leave-one-out errors of `rows` rows at all ridges of the grid: their projection, products with every ridge, three times as many for the rows that are
    /// centers (as many as among all rows); and the coefficients of every ridge once.
    pub fn leave_one_out(&self, rows: f64, m: f64) -> f64 {
        let (ridges, tied) = (GRID_RIDGES as f64, (m / self.rows.max(1.0)).min(1.0));
        let each = 2.0 * ridges * (1.0 + self.targets + tied * (2.0 + self.targets));
        let coefficients = if rows > 0.0 { 2.0 * ridges * m * m * self.targets } else { 0.0 };
        rows * m * (self.entry() + 2.0 * m + each) + coefficients
    }

    /// The certificate of m centers on `rows` sampled rows: a factor of K_mm, their features, and the eigenvalues of `few` of them.
    pub fn certificate(&self, m: f64, rows: f64, few: f64) -> f64 {
        (m / 2.0 + rows) * m * self.entry() + m.powi(3) / 3.0 + rows * m * m + EIGEN_ALGEBRA * few.powi(3)
    }

    /// One candidate of tuning: a fit of `rows` rows with m centers, judged on `judges` rows.
    pub fn candidate(&self, m: f64, rows: f64, judges: f64) -> f64 {
        let entries = (rows + judges + m / 2.0) * m * self.entry();
        entries + 2.0 * rows * m * m + GRAM_ALGEBRA * m.powi(3) + 2.0 * judges * m * RIDGES * self.targets
    }

    /// Errors of `rows` rows.
    pub fn evaluation(&self, rows: f64, m: f64) -> f64 {
        rows * m * (self.entry() + 2.0 * self.targets)
    }

    /// Flops of scoring `rows` of the data with a dictionary of M atoms through the frozen-dictionary filter, M^2 a row, and a Shrink at every
    /// leaf and inner node of the trie.
    pub fn squeak(&self, rows: f64, atoms: f64) -> f64 {
        let leaves = (rows / (LEAF_ROWS as f64 * atoms)).max(1.0).log2().ceil().exp2();
        rows * (atoms * self.entry() + atoms * atoms) + SHRINK_ALGEBRA * (2.0 * leaves - 1.0) * atoms.powi(3)
    }

    /// Flops of one row of a pool of randomly pivoted Cholesky to m centers: m entries and m^2 flops.
    pub fn pivots(&self, m: f64) -> f64 {
        m * self.entry() + m * m
    }

    /// Flops of randomly pivoted Cholesky to m centers on a pool of `rows`.
    pub fn rpcholesky(&self, rows: f64, m: f64) -> f64 {
        rows * self.pivots(m)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Above 20,000 centers nothing cubic in them is done: the walk and its projections, batch by batch.
    #[test]
    fn inexact_projections_are_counted_by_their_entries() {
        let (n, m, s) = (220_000usize, 200_000usize, 3000usize);
        let shape = Shape { rows: n as f64, numeric: 30.0, codes: 0.0, targets: 1.0 };
        let (batch, every) = (500, 400);
        let (mut entries, mut since, mut projections) = (0usize, 0usize, 0usize);
        let project = |entries: &mut usize| {
            for _ in 0..PROJECTION_EPOCHS {
                (0..m).step_by(1000).for_each(|_| *entries += 1000 * (m + s));
            }
            *entries += m * m;
        };
        for b in 0..n / batch {
            // Centers and subsample, and the rows since the last projection: half of a stretch on average.
            entries += batch * (m + s) + batch * since;
            since += batch;
            if (b + 1) % every == 0 {
                project(&mut entries);
                (since, projections) = (0, projections + 1);
            }
        }
        project(&mut entries);
        let planned = shape.eigenpro(m as f64, s as f64, 0.0, 1.0);
        assert_eq!(projections + 1, 2);
        let ratio = planned.entries / (entries + n * (s + m)) as f64;
        assert!((0.95..1.05).contains(&ratio), "{ratio}");
        let algebra = shape.eigenpro_algebra(m as f64, s as f64, 3000.0, 2.0);
        assert_eq!(algebra, 2.0 * EIGEN_ALGEBRA * (s as f64).powi(3));
        // Exact ones: the factor outweighs all else.
        assert!(shape.eigenpro_algebra(20_000.0, s as f64, 3000.0, 2.0) > 20_000f64.powi(3) / 3.0);
    }
}
