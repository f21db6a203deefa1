//! The solve of a fit: each solver's job from the fit's configuration, and what it leaves in the outcome.

use super::measure::{certificate, validation};
use super::rows::{keep_rows, row_bytes};
use super::{Clock, FitInputs, FitOutcome, begin, end};
use crate::certify::{Basis, Certificate, exact_pencil};
use crate::dictionary::Centers;
use crate::dictionary::pool::{Pool, feature_key};
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::job::{FitConfig, Loss, Solver};
use crate::predict::{Function, VarianceFactor};
use crate::solve::blockcd::BlockJob;
use crate::solve::eigenpro::order::Place;
use crate::solve::eigenpro::{EXACT_PROJECTION_CENTERS, EigenProJob};
use crate::solve::gram::{GramJob, exact_gram};
use crate::solve::logistic::LogisticJob;
use crate::solve::pcg::PcgJob;
use crate::solve::{Solved, blockcd, eigenpro, gram, logistic, pcg};
use crate::targets::TargetCode;
use faer::Mat;
use nystream_datasets::Role;
use nystream_kernels::gram::{GramShape, Precision};
use nystream_kernels::kernel::Kernel;
use nystream_kernels::nystrom::WhitenMethod;
use nystream_kernels::solve::pcg::PcgParams;
use nystream_kernels::tile::{Entry, kernel_matrix, symmetric_kernel_matrix};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sample rows that judge the ridge of a gram solve, at least.
const JUDGE_ROWS: usize = 4000;

/// The stages whose tiles have the chosen precision.
#[allow(clippy::too_many_arguments)]
pub(super) fn rest<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    inputs: &FitInputs,
    store: &RowStore,
    sample: &Arc<Pool>,
    code: &TargetCode,
    outcome: &mut FitOutcome,
    clock: &mut Clock,
) -> Result<(), StageError> {
    let config = &inputs.config;
    let rows = outcome.profile.rows;
    let centers = Arc::clone(&outcome.centers);
    let mut function = Function {
        kernel: outcome.kernel.clone(),
        centers: centers.rows.clone(),
        coefficients: Vec::new(),
        code: code.clone(),
        loss: config.loss,
        precision: config.precision,
        simd: config.simd,
        variance: None,
    };
    let tiles = session.try_once(|| function.tiles::<T>())?;
    let mut exact = None;
    let solved = match outcome.plan.solver {
        Solver::Gram => {
            let shape = GramShape {
                centers: centers.ids.len(),
                targets: code.width(),
                precision: config.precision,
                scale_log2: kernel_bound(&outcome.kernel, sample)?,
            };
            let weighted = outcome.encoder.weight.is_some() || !outcome.encoder.class_weights.is_empty();
            let job = GramJob { tiles: &tiles, code, shape, weight_max: outcome.weight_max, weighted };
            begin(session, "gram", rows);
            let sums = exact_gram(session, "gram", store.feed(Role::Training), &job)?;
            end(session);
            clock.lap("gram");
            let trace = outcome.kernel.family.is_radial().then_some(sums.weight_sum);
            let solved = session.try_once(|| {
                let kmm = symmetric_kernel_matrix(&outcome.kernel, centers.rows.view(), &[], config.simd)
                    .map_err(|e| StageError::Numeric(e.to_string()))?;
                let view = centers.rows.view();
                let places = (0..view.len()).map(|i| (feature_key(view, i), i)).collect();
                let judges = |range| judges(config, outcome, sample, code, weighted, &places, range);
                let count = judge_count(config, sample, rows);
                // Entries of full precision deserve the better conditioned basis; it costs another 9 m^3.
                let method = match config.precision {
                    Precision::Double => WhitenMethod::Eigen,
                    Precision::Single => WhitenMethod::Cholesky,
                };
                let entry_error = entry_error(config.precision) * 2f64.powi(shape.scale_log2);
                let choice = gram::RidgeChoice { given: config.ridge, count, judges: &judges, entry_error };
                gram::solve(&sums, kmm.as_ref(), method, &choice, trace, config.variance)
            })?;
            clock.lap("solve");
            // Weighted rows have another Gram than the dictionary was sampled for.
            if let Some(atoms) = centers.atoms.as_ref().filter(|_| !weighted) {
                let basis = Basis { kernel: &outcome.kernel, simd: config.simd, centers: centers.rows.view() };
                exact = *session.try_once(|| exact_pencil(basis, atoms, sums.gram.as_ref(), centers.gamma, rows))?;
                clock.lap("certify");
            }
            (*solved).clone()
        }
        Solver::Pcg if config.loss == Loss::Logistic => {
            let job = LogisticJob {
                tiles: &tiles,
                centers: centers.rows.view(),
                kernel: &outcome.kernel,
                simd: config.simd,
                code,
                ridge: outcome.ridge,
                weight_sum: outcome.weight_sum,
                sample,
                tolerance: config.tolerance,
                iterations: config.iterations,
                warm_start: warm_start(config, code, &centers),
                time_limit: config.time_limit,
            };
            let solved = logistic::solve(session, store, &job)?;
            clock.lap("solve");
            solved
        }
        Solver::Pcg => {
            let defaults = PcgParams::default();
            let params = PcgParams {
                tolerance: config.tolerance,
                max_iterations: config.iterations.unwrap_or(defaults.max_iterations),
                ..defaults
            };
            if !code.is_classification() {
                outcome.target_weights = outcome.profile.targets.iter().map(|t| t.weight_sum).collect();
            }
            let job = PcgJob {
                tiles: &tiles,
                centers: centers.rows.view(),
                kernel: &outcome.kernel,
                simd: config.simd,
                code,
                ridge: outcome.ridge,
                weight_sum: outcome.weight_sum,
                target_weights: &outcome.target_weights,
                sample,
                params,
                warm_start: warm_start(config, code, &centers),
                time_limit: config.time_limit,
            };
            let solved = pcg::solve(session, store, &job)?;
            clock.lap("solve");
            solved
        }
        Solver::EigenPro => {
            let solved =
                eigenpro::solve(session, store, &eigenpro_job(session, config, &tiles, code, sample, outcome))?;
            clock.lap("solve");
            solved
        }
        Solver::BlockCd => {
            let job = BlockJob {
                tiles: &tiles,
                centers: &centers.rows,
                kernel: &outcome.kernel,
                simd: config.simd,
                code,
                ridge: outcome.ridge,
                weight_sum: outcome.weight_sum,
                seed: config.seed,
                tolerance: config.tolerance,
                epochs: config.iterations,
                warm_start: warm_start(config, code, &centers),
                time_limit: config.time_limit,
            };
            let solved = blockcd::solve(session, store, &job)?;
            clock.lap("solve");
            solved
        }
        Solver::Auto => return Err(StageError::Internal("the plan named no solver".into())),
    };
    outcome.passes += solved.passes;
    function.coefficients = solved.coefficients.clone();
    if let (Some((factor, rank)), Some(quality)) = (&solved.variance, &solved.fit_quality) {
        function.variance = Some(variance_factor(factor, *rank, quality, &solved, code, outcome));
    }
    let ridge = solved.ridges[0] * outcome.weight_sum;
    let measured = certificate(session, config, sample, ridge, exact.is_none(), outcome)?;
    outcome.certificate = Certificate { pencil: exact.or(measured.pencil), ..*measured };
    clock.lap("certify");

    let function = session.once(|| function.clone());
    outcome.validation = validation(session, inputs, store, &function, &tiles, outcome)?;
    clock.lap("validation");
    outcome.solved = Some(solved);
    outcome.function = Some(function);
    Ok(())
}

pub(super) fn eigenpro_job<'a, T: Entry>(
    session: &Session<'_>,
    config: &'a FitConfig,
    tiles: &'a Arc<nystream_kernels::tile::Tiles<T>>,
    code: &'a TargetCode,
    sample: &'a Arc<Pool>,
    outcome: &'a FitOutcome,
) -> EigenProJob<'a, T> {
    let row_bytes = row_bytes(&outcome.encoder);
    let rows = outcome.profile.rows;
    let place = if keep_rows(config, &outcome.encoder, rows) {
        Place::Memory(config.memory / 3)
    } else {
        Place::Disk(config.temp_dir.clone(), config.disk_limit / session.process.workers() as u64)
    };
    EigenProJob {
        tiles,
        centers: &outcome.centers.rows,
        kernel: &outcome.kernel,
        simd: config.simd,
        code,
        ridge: outcome.ridge,
        weight_sum: outcome.weight_sum,
        rows,
        held_out: outcome.profile.held_out,
        sample,
        seed: config.seed,
        epochs: config.iterations,
        warm_start: warm_start(config, code, &outcome.centers),
        time_limit: config.time_limit,
        row_bytes,
        place,
        exact: outcome.centers.ids.len() <= EXACT_PROJECTION_CENTERS,
    }
}

/// Sample rows that judge the ridge of a gram solve: none when it is given; otherwise as many as cost no more than the Gram.
pub(super) fn judge_count(config: &FitConfig, sample: &Pool, rows: u64) -> usize {
    if config.ridge.is_some() { 0 } else { sample.len().min((rows as usize / 2).max(JUDGE_ROWS)) }
}

/// Rows `range` of the sample, as leave-one-out judges of the ridge.
pub(super) fn judges(
    config: &FitConfig,
    outcome: &FitOutcome,
    sample: &Pool,
    code: &TargetCode,
    weighted: bool,
    places: &BTreeMap<[u8; 32], usize>,
    range: std::ops::Range<usize>,
) -> Result<gram::Judges, StageError> {
    let (m, t, raw) = (outcome.centers.ids.len(), code.width(), sample.target_width);
    let x = sample.rows.view().slice(range.start, range.end);
    let k = kernel_matrix::<f64>(&outcome.kernel, x, outcome.centers.rows.view(), &[], config.simd)
        .map_err(|e| StageError::Numeric(e.to_string()))?;
    let own = (0..x.len()).map(|i| places.get(&feature_key(x, i)).copied()).collect();
    let mut row = vec![0.0; t];
    let mut targets = Mat::zeros(range.len(), t);
    for (at, i) in range.clone().enumerate() {
        code.encode(&sample.targets[i * raw..(i + 1) * raw], &mut row);
        (0..t).for_each(|j| targets[(at, j)] = row[j]);
    }
    let sqrt_weights =
        weighted.then(|| sample.weights[range.clone()].iter().map(|w| (w / outcome.weight_max).sqrt()).collect());
    Ok(gram::Judges { entries: Mat::from_fn(range.len(), m, |i, j| k[i * m + j]), targets, sqrt_weights, own })
}

/// Rounding error of a kernel entry at most 1: that of the exact Gram's grid, which f32 entries nearly reach too.
pub(super) fn entry_error(precision: Precision) -> f64 {
    match precision {
        Precision::Single => 2f64.powi(-22),
        Precision::Double => 2f64.powi(-44),
    }
}

/// Least power of two that bounds the kernel's values on the sample with room to spare; 0 for kernels with k(x, x) = 1.
pub(super) fn kernel_bound(kernel: &Kernel, sample: &Pool) -> Result<i32, StageError> {
    if kernel.family.is_radial() {
        return Ok(0);
    }
    let mut diagonal: Vec<f64> = (0..sample.len()).map(|i| kernel.diagonal(sample.rows.view(), i)).collect();
    diagonal.sort_by(f64::total_cmp);
    let (median, largest) = (diagonal[diagonal.len() / 2], diagonal[diagonal.len() - 1]);
    let bound = (4.0 * largest).max(f64::MIN_POSITIVE);
    if bound > 64.0 * median.max(f64::MIN_POSITIVE) * 4.0 {
        return Err(StageError::Usage(format!(
            "--solver gram cannot hold this kernel exactly: k(x, x) reaches {largest:.3e} where its median is {median:.3e}. Use --solver pcg"
        )));
    }
    Ok(bound.log2().ceil() as i32)
}

/// Coefficients of the earlier model where its centers are among the new ones (by their features).
pub(super) fn warm_start(config: &FitConfig, code: &TargetCode, centers: &Centers) -> Option<Vec<f64>> {
    let warm = config.warm_start.as_ref()?;
    let t = code.width();
    let widths = |rows: &nystream_kernels::rows::RowBuf| (rows.numeric_width, rows.code_width);
    if warm.coefficients.len() != warm.centers.len() * t || widths(&warm.centers) != widths(&centers.rows) {
        return None;
    }
    let features = |rows: &nystream_kernels::rows::RowBuf, i: usize| {
        let view = rows.view();
        (view.numeric(i).iter().map(|v| v.to_bits()).collect::<Vec<_>>(), view.codes(i).to_vec())
    };
    let known: BTreeMap<_, usize> = (0..warm.centers.len()).map(|i| (features(&warm.centers, i), i)).collect();
    let mut out = vec![0.0; centers.ids.len() * t];
    for i in 0..centers.ids.len() {
        if let Some(from) = known.get(&features(&centers.rows, i)) {
            out[i * t..(i + 1) * t].copy_from_slice(&warm.coefficients[from * t..(from + 1) * t]);
        }
    }
    Some(out)
}

pub(super) fn variance_factor(
    factor: &[f64],
    rank: usize,
    quality: &[crate::solve::FitQuality],
    solved: &Solved,
    code: &TargetCode,
    outcome: &FitOutcome,
) -> VarianceFactor {
    let n = outcome.profile.rows as f64;
    let noise: Vec<f64> = quality
        .iter()
        .enumerate()
        .map(|(k, q)| {
            let free = (1.0 - q.degrees_of_freedom / n).max(1.0 / n);
            q.mean_squared_residual / free * code.scale(k).powi(2)
        })
        .collect();
    let signal = noise.iter().zip(&solved.ridges).map(|(v, lambda)| v / (lambda * outcome.weight_sum)).collect();
    VarianceFactor { factor: factor.to_vec(), rank, noise, signal }
}
