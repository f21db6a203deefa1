//! What a fit settles before it chooses centers: weights, kernel, effective dimension.

use super::{begin, end};
use crate::dictionary::TileOracle;
use crate::dictionary::pool::Pool;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::job::{Bandwidth, FitConfig, Loss, Select, Solver, Task};
use crate::matvec::products::{product_terms, sampled_share};
use crate::plan::Shape;
use crate::targets::TargetCode;
use crate::tune::{TUNE_FLOOR, TUNE_SHARE, TuneBudget, TuneRequest, Tuned, tune};
use nystream_datasets::Encoder;
use nystream_kernels::kernel::{Family, Kernel, Metric};
use nystream_kernels::rows::RowBuf;
use nystream_kernels::sampling::RidgeFactor;

/// Sample rows from which the effective dimension is estimated.
pub(crate) const DIMENSION_ROWS: usize = 2000;
/// Those from which it is estimated where it only tells whether conjugate gradients would converge soon.
pub(crate) const CONVERGENCE_ROWS: usize = 500;
/// Centers for which rows of the sample stand where their number is open.
const SHARE_CENTERS: usize = 2000;
/// Bandwidth when the kernel is not a function of the distance and none was given.
const PLAIN_BANDWIDTH: f64 = 1.0;

pub(super) fn check_task(config: &FitConfig, code: &TargetCode) -> Result<(), StageError> {
    if config.loss == Loss::Logistic && !code.is_classification() {
        return Err(StageError::Usage(
            "--loss logistic needs classes: give --task classification, or a text target".into(),
        ));
    }
    if config.task == Some(Task::Classification) && !code.is_classification() {
        return Err(StageError::Usage("--task classification needs one target of classes".into()));
    }
    if config.variance && code.is_classification() {
        return Err(StageError::Usage(format!(
            "--variance: the target '{}' is of classes, which have no predictive variance: leave it out, or give --task regression",
            code.names[0]
        )));
    }
    Ok(())
}

/// Refuses a family that is not positive definite in as many dimensions as encoded rows have: a categorical column of L codes takes L - 1.
pub(super) fn check_dimensions(config: &FitConfig, encoder: &Encoder, metric: &Metric) -> Result<(), StageError> {
    let Some((family, most)) = config.family.and_then(|family| Some((family, family.most_dimensions()?))) else {
        return Ok(());
    };
    let numeric = match metric {
        Metric::Full { rows, .. } => encoder.numeric_width().min(*rows),
        _ => encoder.numeric_width(),
    };
    let needed = numeric + encoder.one_hot_width() - encoder.numeric_width() - encoder.code_width();
    if needed <= most as usize {
        return Ok(());
    }
    let (name, remedy) = match family {
        Family::Wendland { smoothness, dimension } => {
            (format!("wendland{smoothness}:{dimension}"), format!("give --kernel wendland{smoothness}:{needed}, "))
        }
        other => (format!("{other:?}"), String::new()),
    };
    Err(StageError::Usage(format!(
        "--kernel {name} is a kernel in up to {most} dimensions, and the encoded rows have {needed} (a category of L levels, the pooled \
         and the null one included, takes L - 1): {remedy}drop columns, or choose another kernel"
    )))
}

/// The ridges of a fit: lambda of its objective, and the matrix ridge by which centers are selected and measured. There every row of the kernel counts
/// once, so that weights enter by their ratios alone.
///
/// What was tuned, too, is brought to lambda first: a fit that is given that lambda is the same to the bit. The logistic
/// loss has at most a quarter of the squared loss's curvature, so its lambda stands for a least-squares ridge of four times itself.
pub(super) fn ridges(config: &FitConfig, tuned: Option<&Tuned>, weight_sum: f64, rows: u64) -> (f64, f64) {
    let share = ridge_share(config.loss);
    let lambda = match (config.ridge(), tuned) {
        (Some(lambda), _) => lambda,
        // The matrix ridge is a ratio of variances, so it does not grow with the rows.
        (None, Some(tuned)) => share * tuned.ridge_matrix / weight_sum,
        (None, None) => share * 1e-6,
    };
    (lambda, lambda / share * rows as f64)
}

/// Lambda of the loss over that of the squared loss with the same curvature at p = 1/2: a power of two.
///
/// ```
/// use nystream_dataflows::job::{Loss, ridge_share};
/// assert_eq!((ridge_share(Loss::Squared), ridge_share(Loss::Logistic)), (1.0, 0.25));
/// ```
pub fn ridge_share(loss: Loss) -> f64 {
    match loss {
        Loss::Squared => 1.0,
        Loss::Logistic => 0.25,
    }
}

pub(super) fn tune_if_asked(
    session: &mut Session<'_>,
    config: &FitConfig,
    metric: &Metric,
    sample: &Pool,
    code: &TargetCode,
    shape: &Shape,
    median: f64,
) -> Result<Option<Tuned>, StageError> {
    let bandwidth = match config.bandwidth {
        Bandwidth::Auto => None,
        Bandwidth::Absolute(sigma) => Some(sigma),
        Bandwidth::TimesMedian(times) => Some(times * median),
    };
    let ridge_needed = config.ridges.is_none();
    if config.family.is_some() && bandwidth.is_some() && !ridge_needed {
        return Ok(None);
    }
    let request = TuneRequest {
        family: config.family,
        bandwidth,
        metric: metric.clone(),
        simd: config.simd,
        flops: tune_flops(config, shape),
        max_flops: config.max_flops,
        memory: config.memory,
    };
    begin(session, "tune", 0);
    let tuned = tune(session, sample, code, &request)?;
    end(session);
    Ok(Some(tuned))
}

/// Flops that tuning aims at: a share of the planned fit's.
fn tune_flops(config: &FitConfig, shape: &Shape) -> f64 {
    // Once the number of centers is given no budget shapes the model; before, tuning leaves most of `--max-flops` to the fit.
    let (m, most) = match given_centers(config) {
        Some(m) => (m as f64, f64::INFINITY),
        None => ((shape.rows.sqrt() * 10.0).min(2000.0), TUNE_SHARE * config.max_flops),
    };
    (TUNE_SHARE * shape.gram(m.min(shape.rows)).flops).max(TUNE_FLOOR).min(most)
}

/// Flops that tuning may take on a sample of `sample` rows, whatever is left to tune: a fit that is given what an earlier one
/// tuned has as many centers.
pub(super) fn tune_reserve(config: &FitConfig, shape: &Shape, sample: usize) -> f64 {
    TuneBudget::new(tune_flops(config, shape), sample).most_flops(shape, sample)
}

pub(super) fn kernel(config: &FitConfig, metric: &Metric, tuned: Option<&Tuned>, median: f64) -> Kernel {
    if let Some(tuned) = tuned {
        return tuned.kernel.clone();
    }
    let family = config.family.unwrap_or(Family::Gaussian);
    let bandwidth = match config.bandwidth {
        Bandwidth::Absolute(sigma) => sigma,
        Bandwidth::TimesMedian(times) => times * median,
        Bandwidth::Auto if family.is_radial() => median,
        Bandwidth::Auto => PLAIN_BANDWIDTH,
    };
    Kernel { family, bandwidth, metric: metric.clone() }
}

/// The share of the entries that sparse products keep by the sample, where conjugate gradients may have them.
pub(super) fn product_share(
    session: &mut Session<'_>,
    config: &FitConfig,
    kernel: &Kernel,
    sample: &Pool,
    rows: u64,
) -> Result<Option<f64>, StageError> {
    if !matches!(config.solver, Solver::Auto | Solver::Pcg) || config.loss == Loss::Logistic || config.dictionary_only {
        return Ok(None);
    }
    let m = given_centers(config).unwrap_or(SHARE_CENTERS).min(rows as usize);
    let Some(terms) = product_terms(kernel, config.products, (rows, m), false)? else { return Ok(None) };
    let share = session.try_once(|| sampled_share(kernel, sample.rows.view(), m, config.simd, terms))?;
    Ok(Some(*share))
}

pub(super) fn given_centers(config: &FitConfig) -> Option<usize> {
    match &config.select {
        Select::File(catalog) => Some(catalog.total_rows as usize),
        Select::Rows(rows) => Some(rows.len()),
        _ => config.centers,
    }
}

/// d_eff(n lambda) of the kernel matrix, from scores of at most so many of the sample's rows; with the mean weight of all rows, of W^1/2 K W^1/2.
pub(super) fn effective_dimension(
    config: &FitConfig,
    kernel: &Kernel,
    sample: &Pool,
    (mean_weight, most): (Option<f64>, usize),
    rows: u64,
    ridge_matrix: f64,
) -> Result<f64, StageError> {
    let s = sample.len().min(most);
    let weight = |i: usize| mean_weight.map_or(1.0, |mean| sample.weights[i] / mean);
    // A row without weight has no score.
    let counted: Vec<usize> = (0..s).filter(|i| weight(*i) > 0.0).collect();
    if counted.is_empty() {
        return Ok(0.0);
    }
    let weights: Vec<f64> = counted.iter().map(|i| weight(*i)).collect();
    let oracle = TileOracle::new(kernel, config.simd);
    let head = RowBuf::gather(sample.rows.view(), &counted);
    let numeric = |e: nystream_kernels::sampling::SamplingError| StageError::Numeric(e.to_string());
    let gamma = ridge_matrix.max(1e-9 * rows as f64);
    let fraction = (weights.iter().sum::<f64>() / rows.max(s as u64) as f64).min(1.0);
    // One ridge needs no eigenvectors: scores within the sample by one Cholesky, then the bracket of `ScoreSample`.
    let factor = RidgeFactor::new(&oracle, head.view(), &weights, gamma * fraction).map_err(numeric)?;
    let full = |(tau, weight): (&f64, &f64)| {
        let inside = (tau * weight).min(1.0);
        let (low, high) = (fraction * inside, fraction * inside / (1.0 - inside + fraction * inside));
        (low * high).sqrt()
    };
    Ok(factor.atom_scores().scores.iter().zip(&weights).map(full).sum::<f64>() / fraction)
}
