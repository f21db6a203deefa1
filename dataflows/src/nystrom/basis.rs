//! The space spanned by the centers: K_mm, its whitening, and the rows that stand for all others in a preconditioner.

use super::{Masses, owned};
use crate::dictionary::pool::{Pool, feature_key};
use crate::error::StageError;
use faer::{Mat, MatRef};
use nystream_kernels::constants::GRAM_BLOCK;
use nystream_kernels::kernel::Kernel;
use nystream_kernels::nystrom::{WhitenMethod, Whitener};
use nystream_kernels::rows::{RowBuf, Rows};
use nystream_kernels::solve::logistic::Unmixed;
use nystream_kernels::solve::{Preconditioner, WeightedGram, Whitening, extrapolated_dimension, strata_weights};
use nystream_kernels::tile::{SimdPath, kernel_matrix, symmetric_kernel_matrix};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::OnceLock;

/// K_mm = L L^T and its whitening, as the solver's algebra wants it.
///
/// Products with K_mm are those with its factor. Where centers are outside the basis it is formed again when it is first multiplied with (m^2 / 2 entries): while a preconditioner is
/// made there are three m x m matrices without it.
pub(crate) struct Basis {
    whitener: Whitener,
    kernel: Kernel,
    centers: RowBuf,
    simd: SimdPath,
    kmm: OnceLock<Mat<f64>>,
}

impl Basis {
    /// The basis of `centers`.
    pub(crate) fn new(kernel: &Kernel, centers: Rows<'_>, simd: SimdPath) -> Result<Self, StageError> {
        let kmm = symmetric_kernel_matrix(kernel, centers, &[], simd).map_err(numeric)?;
        let whitener = Whitener::new(kmm.as_ref(), WhitenMethod::Cholesky).map_err(numeric)?;
        Ok(Basis { whitener, kernel: kernel.clone(), centers: owned(centers), simd, kmm: OnceLock::new() })
    }

    /// Whitened features phi = R^T k of `rows` rows with kernel entries `k` (rows x m, row-major): r x rows.
    pub(crate) fn features(&self, k: &[f64], rows: usize) -> Result<Mat<f64>, StageError> {
        let columns = MatRef::from_column_major_slice(k, self.whitener.centers(), rows);
        self.whitener.features(columns.transpose()).map_err(numeric)
    }
}

impl Whitening for Basis {
    fn centers(&self) -> usize {
        self.whitener.centers()
    }

    fn rank(&self) -> usize {
        self.whitener.rank()
    }

    // The shapes are those of the solver itself, so the whitener's shape errors cannot occur.
    fn apply(&self, z: MatRef<'_, f64>) -> Mat<f64> {
        self.whitener.apply(z).unwrap_or_else(|_| Mat::full(self.centers(), z.ncols(), f64::NAN))
    }

    fn apply_transpose(&self, v: MatRef<'_, f64>) -> Mat<f64> {
        self.whitener.apply_transpose(v).unwrap_or_else(|_| Mat::full(self.rank(), v.ncols(), f64::NAN))
    }

    fn values_at_centers(&self, z: MatRef<'_, f64>) -> Mat<f64> {
        self.whitener.values_at_centers(z).unwrap_or_else(|| self.center_gram(self.apply(z).as_ref()))
    }

    fn center_gram(&self, alpha: MatRef<'_, f64>) -> Mat<f64> {
        if let Some(product) = self.whitener.center_gram(alpha) {
            return product;
        }
        let m = self.centers();
        let kmm = self.kmm.get_or_init(|| {
            // It was formed before, of the same centers.
            let again = symmetric_kernel_matrix(&self.kernel, self.centers.view(), &[], self.simd);
            again.unwrap_or_else(|_| Mat::full(m, m, f64::NAN))
        });
        let mut out = Mat::zeros(m, alpha.ncols());
        let par = nystream_kernels::dense::fixed_parallelism();
        nystream_kernels::dense::gemm(out.as_mut(), false, 1.0, kmm.as_ref(), alpha, par);
        out
    }
}

pub(crate) fn numeric(error: impl std::fmt::Display) -> StageError {
    StageError::Numeric(error.to_string())
}

pub(crate) fn row_major(m: MatRef<'_, f64>) -> Vec<f64> {
    (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)])).collect()
}

pub(crate) fn from_row_major(values: &[f64], rows: usize, columns: usize) -> Mat<f64> {
    Mat::from_fn(rows, columns, |i, j| values[i * columns + j])
}

/// The rows that stand for all: the centers and about as many sampled rows that are not centers, or some times as many.
///
/// * For a preconditioner each center stands for the rows around it (its mass, [`Masses`]), the sample for all rows, and both are mixed ([`strata_weights`]). Centers chosen by leverage
///   include rows that resemble no other; a uniform sample misses them, and each one missed is an eigenvalue of about 1 / Lambda in the preconditioned system (keggdirected, m = 1,000:
///   100 iterations to a residual of 1e-3 without the centers).
/// * For the degrees of freedom each center stands for itself and the sample for all others, which is right on the average.
pub(crate) struct StratifiedSample<'a> {
    basis: &'a Basis,
    kernel: &'a Kernel,
    simd: SimdPath,
    centers: Rows<'a>,
    sample: Rows<'a>,
    /// Indices into the sample, and their weights.
    others: Vec<usize>,
    weights: Vec<f64>,
    /// Share of the rows that are not centers, and count, that the sample lacks.
    missing: f64,
    masses: Masses<'a>,
    weight_sum: f64,
}

impl<'a> StratifiedSample<'a> {
    /// Takes at most `most` m rows of the sample. `weight` is that of a row of it; those of all `rows` are together `weight_sum`, and the centers have `masses` of them.
    pub(crate) fn new(
        (basis, kernel, simd): (&'a Basis, &'a Kernel, SimdPath),
        centers: Rows<'a>,
        masses: Masses<'a>,
        sample: &'a Pool,
        most: f64,
        (rows, weight_sum): (u64, f64),
        weight: impl Fn(usize) -> f64,
    ) -> Self {
        let taken: BTreeSet<[u8; 32]> = (0..centers.len()).map(|i| feature_key(centers, i)).collect();
        let most = (most * centers.len() as f64) as usize;
        let view = sample.rows.view();
        // Rows of weight 0 stand for none.
        let counts = |i: &usize| weight(*i) > 0.0 && !taken.contains(&feature_key(view, *i));
        let mut others: Vec<usize> = (0..sample.len()).filter(counts).collect();
        let population = others.len() as f64 * rows as f64 / sample.len().max(1) as f64;
        others.truncate(most);
        let weights: Vec<f64> = others.iter().map(|i| weight(*i)).collect();
        let missing = 1.0 - (others.len() as f64 / population.max(1.0)).min(1.0);
        StratifiedSample { basis, kernel, simd, centers, sample: view, others, weights, missing, masses, weight_sum }
    }

    /// Rows of both strata.
    pub(crate) fn len(&self) -> usize {
        self.centers.len() + self.others.len()
    }

    /// Hands whitened features (b x k, k <= r: those beyond are 0) and weights of the rows of the mixture to `take`, at most [`GRAM_BLOCK`] at a time: entries of b x m,
    /// never s x m.
    pub(crate) fn each_block(&self, mut take: impl FnMut(MatRef<'_, f64>, &[f64])) -> Result<(), StageError> {
        let (centers, sample) = strata_weights(self.masses.around, &self.weights, self.weight_sum);
        self.each_center(&centers, &mut take)?;
        self.each_sampled(0..sample.len(), &sample, &mut take)
    }

    /// Weights of the rows of [`StratifiedSample::each_block`], in its order, for degrees of freedom.
    pub(crate) fn unmixed(&self) -> Unmixed {
        let whitener = &self.basis.whitener;
        let kept = whitener.factor().map_or(&[][..], |(_, kept)| kept);
        let weights = |count: usize| {
            let centers = kept.iter().chain(whitener.dropped()).map(|center| self.masses.own[*center]);
            let scale = self.scale(count);
            let sampled = self.weights.iter().enumerate().map(|(i, w)| if i < count { scale * w } else { 0.0 });
            centers.chain(sampled).collect()
        };
        let count = self.others.len();
        Unmixed { all: weights(count), half: weights(count / 2), missing: if count < 2 { 0.0 } else { self.missing } }
    }

    /// The preconditioner at the matrix ridge `ridge`, and the degrees of freedom of the model ([`StratifiedSample::dimension`]).
    ///
    /// Cost: s m^2 flops for the features, as much for their Gram, m^3 for either number of the extrapolation, m^3 / 3 and as much for the preconditioner; a matrix of m x m
    /// beside its own.
    pub(crate) fn estimates(&self, ridge: f64) -> Result<(Preconditioner, f64), StageError> {
        let (dimension, sampled) = self.extrapolated(ridge)?;
        let (centers, sample) = strata_weights(self.masses.around, &self.weights, self.weight_sum);
        // All weights of the sample are scaled by one number.
        let (before, after) = (self.weights.iter().sum::<f64>(), sample.iter().sum::<f64>());
        let mut gram = sampled.scaled(if before > 0.0 { after / before } else { 0.0 });
        drop(sampled);
        self.each_center(&centers, |features, weights| gram.add(features, weights))?;
        Ok((Preconditioner::from_gram(gram.into_lower(), ridge).map_err(numeric)?, dimension))
    }

    /// The preconditioner in which the centers stand for all rows: m^3 / 3 flops for their Gram, and as much for its factor.
    pub(crate) fn of_centers(&self, ridge: f64) -> Result<Preconditioner, StageError> {
        let (centers, _) = strata_weights(self.masses.around, &[], self.weight_sum);
        let mut gram = WeightedGram::new(self.basis.rank());
        self.each_center(&centers, |features, weights| gram.add(features, weights))?;
        Preconditioner::from_gram(gram.into_lower(), ridge).map_err(numeric)
    }

    /// The degrees of freedom of the model at the matrix ridge `ridge`, extrapolated from half of the sample and all of it ([`extrapolated_dimension`]).
    pub(crate) fn dimension(&self, ridge: f64) -> Result<f64, StageError> {
        Ok(self.extrapolated(ridge)?.0)
    }

    /// [`StratifiedSample::dimension`], and the Gram of the sampled rows.
    fn extrapolated(&self, ridge: f64) -> Result<(f64, WeightedGram), StageError> {
        let (count, half) = (self.others.len(), self.others.len() / 2);
        let mut sampled = WeightedGram::new(self.basis.rank());
        self.each_sampled(0..half, &self.weights, |features, weights| sampled.add(features, weights))?;
        // Without a sample the centers are all rows.
        let few = if half > 0 { Some(self.dimension_of(&sampled, half, ridge)?) } else { None };
        self.each_sampled(half..count, &self.weights, |features, weights| sampled.add(features, weights))?;
        let all = self.dimension_of(&sampled, count, ridge)?;
        let rank = self.basis.rank() as f64;
        Ok((few.map_or(all, |few| extrapolated_dimension(all, few, self.missing, rank)), sampled))
    }

    /// By what the weights of the first `count` sampled rows are multiplied to stand for all rows that are not centers.
    fn scale(&self, count: usize) -> f64 {
        let weight: f64 = self.weights[..count].iter().sum();
        let others = (self.weight_sum - self.masses.own.iter().sum::<f64>()).max(0.0);
        if weight > 0.0 { others / weight } else { 0.0 }
    }

    /// Degrees of freedom from the centers, each for itself, and the first `count` sampled rows, whose Gram is `sampled`, for all others.
    fn dimension_of(&self, sampled: &WeightedGram, count: usize, ridge: f64) -> Result<f64, StageError> {
        let mut gram = sampled.scaled(self.scale(count));
        self.each_center(self.masses.own, |features, weights| gram.add(features, weights))?;
        let all = Preconditioner::from_gram(gram.into_lower(), ridge).map_err(numeric)?;
        Ok(all.effective_dimension().unwrap_or_default())
    }

    /// The features of the centers are the factor of K_mm; those outside the basis cost m^2 flops a row.
    fn each_center(&self, weights: &[f64], mut take: impl FnMut(MatRef<'_, f64>, &[f64])) -> Result<(), StageError> {
        let whitener = &self.basis.whitener;
        if let Some((factor, kept)) = whitener.factor() {
            for (block, kept) in kept.chunks(GRAM_BLOCK).enumerate() {
                let start = block * GRAM_BLOCK;
                let weights: Vec<f64> = kept.iter().map(|center| weights[*center]).collect();
                take(factor.submatrix(start, 0, kept.len(), start + kept.len()), &weights);
            }
        }
        for outside in whitener.dropped().chunks(GRAM_BLOCK) {
            let weights: Vec<f64> = outside.iter().map(|center| weights[*center]).collect();
            take(self.features(self.centers, outside)?.transpose(), &weights);
        }
        Ok(())
    }

    /// The sampled rows of `range`, with their own of `weights`.
    fn each_sampled(
        &self,
        range: Range<usize>,
        weights: &[f64],
        mut take: impl FnMut(MatRef<'_, f64>, &[f64]),
    ) -> Result<(), StageError> {
        let blocks = self.others[range.clone()].chunks(GRAM_BLOCK);
        for (others, weights) in blocks.zip(weights[range].chunks(GRAM_BLOCK)) {
            take(self.features(self.sample, others)?.transpose(), weights);
        }
        Ok(())
    }

    /// Whitened features of some of `rows`, a column each.
    fn features(&self, rows: Rows<'_>, which: &[usize]) -> Result<Mat<f64>, StageError> {
        let rows = RowBuf::gather(rows, which);
        let k = kernel_matrix::<f64>(self.kernel, rows.view(), self.centers, &[], self.simd).map_err(numeric)?;
        self.basis.features(&k, which.len())
    }
}
