//! Degrees of freedom of the model, estimated on sampled rows.

use super::{EigenProJob, SUBSAMPLE};
use crate::error::StageError;
use crate::nystrom::{Basis, numeric};
use faer::Mat;
use nystream_kernels::constants::GRAM_BLOCK;
use nystream_kernels::solve::{Whitening, sampled_dimension};
use nystream_kernels::tile::{Entry, kernel_matrix};

/// Rows of the sample from which the degrees of freedom are estimated, at most; of all rows where there are no more.
pub fn dimension_rows(sample: usize) -> usize {
    sample.min(SUBSAMPLE)
}

/// Degrees of freedom of the model of each target: those of the sampled rows that have it, at its own ridge.
pub(super) fn effective_dimensions<T: Entry>(job: &EigenProJob<'_, T>, basis: &Basis) -> Result<Vec<f64>, StageError> {
    let weights = &job.sample.weights[..dimension_rows(job.sample.len())];
    let all = effective_dimension(job, basis, weights, job.weight_sum)?;
    let width = job.sample.target_width;
    let of_target = |(k, own): (usize, &f64)| match *own {
        own if own == job.weight_sum => Ok(all),
        // No row, no model.
        own if own <= 0.0 => Ok(0.0),
        own => {
            let of = |(i, weight): (usize, &f64)| match job.sample.targets[i * width + k].is_nan() {
                true => 0.0,
                false => *weight,
            };
            effective_dimension(job, basis, &weights.iter().enumerate().map(of).collect::<Vec<_>>(), own)
        }
    };
    job.target_weights.iter().enumerate().map(of_target).collect()
}

/// Degrees of freedom from the first rows of the sample, which have these `weights`, of rows that weigh `weight_sum` together.
fn effective_dimension<T: Entry>(
    job: &EigenProJob<'_, T>,
    basis: &Basis,
    weights: &[f64],
    weight_sum: f64,
) -> Result<f64, StageError> {
    let s = weights.len();
    let mut features = Mat::zeros(s, basis.rank());
    for start in (0..s).step_by(GRAM_BLOCK) {
        let rows = job.sample.rows.view().slice(start, (start + GRAM_BLOCK).min(s));
        let k = kernel_matrix::<f64>(job.kernel, rows, job.centers.view(), &[], job.simd).map_err(numeric)?;
        let phi = basis.features(&k, rows.len())?;
        let weighted = Mat::from_fn(rows.len(), basis.rank(), |i, j| weights[start + i].sqrt() * phi[(j, i)]);
        features.as_mut().subrows_mut(start, rows.len()).copy_from(&weighted);
    }
    let fraction = (weights.iter().sum::<f64>() / weight_sum).min(1.0);
    sampled_dimension(features.as_ref(), job.ridge * weight_sum, fraction).map_err(numeric)
}
