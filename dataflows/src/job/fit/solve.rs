//! The solve of a fit: each solver's job from the fit's configuration, and what it leaves in the outcome.

use super::measure::{certificate, validation};
use super::rows::{hashed_order, row_bytes};
use super::settings::{effective_dimension, ridge_share};
use super::warm::warm_start;
use super::{Clock, FitInputs, FitOutcome, begin, end};
use crate::certify::{Basis, Certificate, PencilCertificate, TRACE_ROWS, exact_pencil};
use crate::dictionary::pool::{Pool, feature_key};
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::job::{FitConfig, Loss, Solver};
use crate::matvec::products::{Products, product_terms};
use crate::nystrom::range::{largest_of, least_log2};
use crate::nystrom::{GramJob, exact_gram, weight_scale};
use crate::plan::{GRAM_ALGEBRA, Preconditioning, certified, human};
use crate::predict::{Function, VarianceFactor};
use crate::solve::blockcd::BlockJob;
use crate::solve::eigenpro::{EXACT_PROJECTION_CENTERS, EigenProJob};
use crate::solve::logistic::LogisticJob;
use crate::solve::pcg::PcgJob;
use crate::solve::{Scales, Solved, Variances, blockcd, eigenpro, gram, logistic, pcg};
use crate::targets::TargetCode;
use faer::Mat;
use nystream_datasets::Role;
use nystream_kernels::gram::{GramShape, GramSums, Precision};
use nystream_kernels::nystrom::WhitenMethod;
use nystream_kernels::solve::Stopped;
use nystream_kernels::solve::pcg::PcgParams;
use nystream_kernels::tile::{Entry, Tiles, kernel_matrix, symmetric_kernel_matrix};
use std::collections::BTreeMap;
use std::marker::PhantomData;
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
    // eigenpro packs its own, which may be a share of them.
    let packed = match outcome.plan.solver {
        Solver::EigenPro => None,
        _ => Some(session.try_once(|| {
            Tiles::<T>::new(&outcome.kernel, centers.rows.view(), &[], config.simd)
                .map_err(|e| StageError::Numeric(e.to_string()))
        })?),
    };
    let tiles = || packed.as_ref().ok_or_else(|| StageError::Internal("no centers are packed".into()));
    let mut exact = None;
    let warm = warm_start(session, config, code, outcome)?;
    let (weighted, weight_scale) = (is_weighted(outcome), weight_scale(outcome.weight_max));
    let mut solved = match outcome.plan.solver {
        Solver::Gram => {
            let solved = gram_solve(session, inputs, store, tiles()?, sample, code, outcome, clock, &mut exact)?;
            // Nothing is begun for which no time is left.
            let late = pcg::over_time(session, config.time_limit)?;
            match gives_way(config, outcome, &solved).filter(|_| !late || solved.stopped == Stopped::Stagnated) {
                None => solved,
                Some((None, note)) => {
                    let mut solved = solved;
                    solved.notes.push(note);
                    solved
                }
                Some((Some(ridge), note)) => {
                    let start = warm.coefficients.clone();
                    let (solver, tuned) = (outcome.plan.solver, outcome.ridge);
                    (outcome.plan.solver, outcome.ridge) = (Solver::Pcg, ridge);
                    outcome.passes += solved.passes;
                    let mut other = pcg_solve(session, config, store, tiles()?, sample, code, start, outcome, clock)?;
                    // A Gram that is sound is given up for nothing that is not.
                    if solved.stopped == Stopped::Converged && other.stopped != Stopped::Converged {
                        (outcome.plan.solver, outcome.ridge) = (solver, tuned);
                        let mut solved = solved;
                        solved.notes.push(format!("{note}: it did not converge, and gram's model is kept"));
                        solved.passes = other.passes;
                        solved
                    } else {
                        exact = None;
                        other.notes.insert(0, note);
                        other
                    }
                }
            }
        }
        Solver::Pcg if config.loss == Loss::Logistic => {
            let job = LogisticJob {
                tiles: tiles()?,
                centers: centers.rows.view(),
                kernel: &outcome.kernel,
                simd: config.simd,
                code,
                ridge: outcome.ridge,
                weight_scale,
                rows,
                weight_sum: weight_scale * outcome.weight_sum,
                sample,
                tolerance: config.tolerance(),
                iterations: config.iterations,
                warm_start: warm.coefficients.clone(),
                time_limit: config.time_limit,
            };
            // The number of passes is not known: rows are counted as they go by.
            session.begin_passes("logistic", outcome.profile.rows);
            let solved = logistic::solve(session, store, &job)?;
            end(session);
            clock.lap("solve");
            solved
        }
        Solver::Pcg => {
            pcg_solve(session, config, store, tiles()?, sample, code, warm.coefficients.clone(), outcome, clock)?
        }
        Solver::EigenPro => {
            let start = warm.coefficients.clone();
            own_weights(code, outcome);
            let solved = eigenpro::solve(
                session,
                store,
                &eigenpro_job::<T>(session, config, store, code, start, sample, outcome),
            )?;
            clock.lap("solve");
            solved
        }
        Solver::BlockCd => {
            let job = BlockJob {
                tiles: tiles()?,
                centers: &centers.rows,
                kernel: &outcome.kernel,
                simd: config.simd,
                code,
                ridge: outcome.ridge,
                weight_scale,
                weight_sum: weight_scale * outcome.weight_sum,
                seed: config.seed,
                tolerance: config.tolerance(),
                epochs: config.iterations,
                warm_start: warm.coefficients.clone(),
                time_limit: config.time_limit,
            };
            session.begin_passes("block coordinate descent", outcome.profile.rows);
            let solved = blockcd::solve(session, store, &job)?;
            end(session);
            clock.lap("solve");
            solved
        }
        Solver::Auto => return Err(StageError::Internal("the plan named no solver".into())),
    };
    solved.notes.extend(warm.note.clone());
    let solver = outcome.plan.solver.name();
    if config.preconditioning != Preconditioning::Auto && outcome.plan.solver != Solver::Pcg {
        solved.notes.push(format!("--preconditioner has no effect: it is that of pcg, and {solver} solved this"));
    }
    if config.products.tolerance.is_some() && solved.products.is_none() {
        solved.notes.push(format!(
            "--product-tolerance has no effect: {solver} forms every kernel entry, pcg may leave some out"
        ));
    }
    // Of the least-squares problem with this curvature, every row of the kernel counting once.
    let solved_ridge = solved.ridges[0] / ridge_share(config.loss) * rows as f64;
    if solved.effective_dimension.is_none() {
        // Of the whole kernel, which for all rows as centers is the model's; no model has more degrees of freedom than centers.
        let mean = weighted.then(|| outcome.weight_sum / rows as f64);
        let found = session.try_once(|| {
            effective_dimension(config, &outcome.kernel, sample, (mean, super::DIMENSION_ROWS), rows, solved_ridge)
        })?;
        solved.effective_dimension = Some(vec![found.min(centers.ids.len() as f64); code.width()]);
        solved.notes.push(crate::solve::estimated_on(sample.len().min(super::DIMENSION_ROWS)));
    }
    outcome.passes += solved.passes;
    if let Some(variances) = &solved.variance {
        solved.notes.extend(variances.scales.iter().enumerate().map(|(k, scales)| variance_note(code, k, scales)));
    }
    let measured = certificate(session, config, sample, solved_ridge, exact.is_none(), outcome)?;
    let measurable = certified(outcome.plan.solver, centers.ids.len());
    if session.is_first() && measurable {
        let sampled = sample.len().min(TRACE_ROWS) as f64;
        let few = sampled.min(crate::certify::HELD_OUT_ROWS as f64);
        session.process.count_algebra(outcome.shape.certificate(centers.ids.len() as f64, sampled, few));
    }
    if measurable && solved_ridge > 0.0 && measured.epsilon.is_none() {
        solved.notes.push(
            "no dictionary epsilon: at this ridge the kernel matrix of sampled rows is singular to working precision"
                .into(),
        );
    }
    outcome.certificate = Certificate { pencil: exact.or(measured.pencil), ..*measured };
    clock.lap("certify");

    drop(packed);
    let function = session.once(|| function(config, code, outcome, &solved));
    outcome.validation = validation::<T>(session, inputs, store, &function, outcome)?;
    clock.lap("validation");
    outcome.solved = Some(solved);
    outcome.function = Some(function);
    Ok(())
}

/// One exact Gram and its ridge path. `exact` is the pencil of the dictionary's guarantee, where the Gram gives it.
#[allow(clippy::too_many_arguments)]
fn gram_solve<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    inputs: &FitInputs,
    store: &RowStore,
    tiles: &Arc<Tiles<T>>,
    sample: &Arc<Pool>,
    code: &TargetCode,
    outcome: &mut FitOutcome,
    clock: &mut Clock,
    exact: &mut Option<PencilCertificate>,
) -> Result<Solved, StageError> {
    let (config, rows) = (&inputs.config, outcome.profile.rows);
    let centers = Arc::clone(&outcome.centers);
    if inputs.frozen.is_none() {
        // Centers of a file are no rows: they may lie further out.
        let largest = largest_of(&outcome.kernel, centers.rows.view());
        outcome.kernel_log2 = outcome.kernel_log2.max(least_log2(largest).map_err(StageError::Usage)?);
    }
    let shape = GramShape {
        centers: centers.ids.len(),
        targets: code.width(),
        precision: config.precision,
        scale_log2: outcome.kernel_log2,
    };
    let weighted = is_weighted(outcome);
    let job = GramJob { tiles, code, shape, weight_max: outcome.weight_max, weighted, time_limit: config.time_limit };
    begin(session, "gram", rows);
    let sums = exact_gram(session, "gram", store.feed(Role::Training), &job)?;
    end(session);
    clock.lap("gram");
    let mut solved = solve_sums::<T>(session, config, sample, code, outcome, &sums, shape)?;
    if config.tolerance.is_some() || config.iterations.is_some() {
        solved.notes.push("--tolerance and --iterations have no effect: gram solves without iterating".into());
    }
    if sums.rows < rows {
        solved.stopped = Stopped::Asked;
        outcome.rows = sums.rows;
        outcome.weight_sum = sums.weight_sum * if weighted { outcome.weight_max } else { 1.0 };
        outcome.target_weights.fill(outcome.weight_sum);
        solved.notes.push(format!(
            "time limit: the Gram holds {} of {rows} training rows, the first that were read, not a sample of all",
            sums.rows
        ));
    }
    clock.lap("solve");
    // Weighted rows have another Gram than the dictionary was sampled for.
    if let Some(atoms) = centers.atoms.as_ref().filter(|_| !weighted) {
        let basis = Basis { kernel: &outcome.kernel, simd: config.simd, centers: centers.rows.view() };
        *exact = *session.try_once(|| exact_pencil(basis, atoms, sums.gram.as_ref(), centers.gamma, rows))?;
        clock.lap("certify");
    }
    Ok(solved)
}

/// From the sums of one exact Gram over the rows of `outcome` to coefficients: what [`gram_solve`] does with a pass, and a learner with sums that it keeps.
pub(super) fn solve_sums<T: Entry + Into<f64>>(
    session: &mut Session<'_>,
    config: &FitConfig,
    sample: &Arc<Pool>,
    code: &TargetCode,
    outcome: &FitOutcome,
    sums: &GramSums,
    shape: GramShape,
) -> Result<Solved, StageError> {
    let (rows, weighted, centers) = (outcome.profile.rows, is_weighted(outcome), Arc::clone(&outcome.centers));
    let radial = outcome.kernel.family.is_radial();
    session.step("factorisation and ridge path", centers.ids.len());
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
        let given = config.ridges.clone();
        let shared = code.is_classification();
        let calibrating = config.variance.then_some(sample.len().min(JUDGE_ROWS));
        // Rows that the Gram has not seen say nothing of it.
        let checked = if sums.rows < rows { 0 } else { sample.len().min(TRACE_ROWS) };
        let (names, judges) = (code.column_names(), &judges);
        let full_precision = config.precision == Precision::Double;
        let choice = gram::RidgeChoice {
            given,
            shared,
            count,
            checked,
            calibrating,
            judges,
            entry_error,
            full_precision,
            names: &names,
        };
        let rows = |range| trace_rows::<T>(config, outcome, sample, weighted, shape, range);
        let trace = gram::KernelTrace { total: sums.weight_sum, count: sample.len().min(TRACE_ROWS), rows: &rows };
        gram::solve(sums, kmm.as_ref(), method, &choice, radial.then_some(&trace))
    })?;
    if session.is_first() {
        let m = centers.ids.len() as f64;
        let judged = outcome.shape.leave_one_out(judge_count(config, sample, rows) as f64, m);
        session.process.count_algebra(GRAM_ALGEBRA * m.powi(3) + judged);
    }
    Ok((*solved).clone())
}

/// The fitted function.
pub(super) fn function(config: &FitConfig, code: &TargetCode, outcome: &FitOutcome, solved: &Solved) -> Function {
    Function {
        kernel: outcome.kernel.clone(),
        centers: outcome.centers.rows.clone(),
        coefficients: solved.coefficients.clone(),
        code: code.clone(),
        loss: config.loss,
        precision: config.precision,
        simd: config.simd,
        variance: solved.variance.as_ref().map(|variances| variance_factor(variances, code)),
    }
}

/// By how many times the rounding of entries may keep the ridge of a Gram above the tuned one, which is known to a factor of two or so, before `auto` goes on. (keggdirected: matern32, m = 1,000
/// and 4,000, 27 and 80 times, test errors 0.0922 and 0.0987, where conjugate gradients at the tuned ridge reach 0.0907 and 0.0888; gaussian, m = 1,000, 5 times, 0.0975 for 0.0917. On kin40k, protein,
/// beijing_air and acs_income the Gram's ridge is below the tuned one.)
const RIDGE_KEPT_UP: f64 = 3.0;

/// Why `auto` goes on to conjugate gradients after a Gram, and at which ridge. The Gram cannot be solved at this ridge in this precision, and gives a model worse than none, where
/// conjugate gradients that stop early are sound; or the rounding of its entries keeps its ridge far above the tuned one. Not where only a Gram will do; where memory or flops do not hold both
/// there is no ridge, and the note says what keeps it from that.
fn gives_way(config: &FitConfig, outcome: &FitOutcome, solved: &Solved) -> Option<(Option<f64>, String)> {
    let plan = &outcome.plan;
    let pcg = plan.considered.iter().find(|other| other.solver == Solver::Pcg)?;
    let one_ridge = solved.ridges.iter().all(|ridge| *ridge == solved.ridges[0]);
    if config.solver != Solver::Auto || config.variance || !one_ridge {
        return None;
    }
    let (ridge, tuned) = (solved.ridges[0], outcome.ridge);
    let kept_up = config.ridges.is_none() && solved.rounding > gram::ROUNDING_MOVES && ridge > RIDGE_KEPT_UP * tuned;
    let (goes_on_at, does, although) = match solved.stopped {
        Stopped::Stagnated => (
            ridge,
            format!("pcg instead of gram, whose sums rounding spoils at the ridge {ridge:e}: K_mm is nearly singular"),
            format!("although rounding spoils its sums at the ridge {ridge:e} (K_mm is nearly singular)"),
        ),
        Stopped::Converged if kept_up => (
            tuned,
            format!(
                "pcg at the tuned ridge {tuned:e} instead of gram, whose ridge the rounding of kernel entries keeps at {ridge:e}"
            ),
            format!("although the rounding of kernel entries keeps its ridge at {ridge:e}, above the tuned {tuned:e}"),
        ),
        _ => return None,
    };
    let flops = plan.total_flops();
    let kept_by = if pcg.memory > config.memory {
        format!(
            "conjugate gradients would take {} of memory, and --memory allows {}",
            human(pcg.memory),
            human(config.memory)
        )
    } else if flops + pcg.flops > config.max_flops {
        format!(
            "conjugate gradients would take {:.2e} flops beside the {flops:.2e} of the plan, and --max-flops allows {:.2e}",
            pcg.flops, config.max_flops
        )
    } else {
        return Some((Some(goes_on_at), does));
    };
    Some((None, format!("gram is kept {although}: {kept_by}")))
}

#[allow(clippy::too_many_arguments)]
fn pcg_solve<T: Entry>(
    session: &mut Session<'_>,
    config: &FitConfig,
    store: &RowStore,
    tiles: &Arc<Tiles<T>>,
    sample: &Arc<Pool>,
    code: &TargetCode,
    warm_start: Option<Vec<f64>>,
    outcome: &mut FitOutcome,
    clock: &mut Clock,
) -> Result<Solved, StageError> {
    let centers = Arc::clone(&outcome.centers);
    let defaults = PcgParams::default();
    let params = PcgParams {
        tolerance: config.tolerance(),
        max_iterations: config.iterations.unwrap_or(defaults.max_iterations),
        ..defaults
    };
    own_weights(code, outcome);
    let weight_scale = weight_scale(outcome.weight_max);
    let target_weights: Vec<f64> = outcome.target_weights.iter().map(|own| weight_scale * own).collect();
    // The sample stands for the rows: what it keeps decides, on the centers themselves.
    let sizes = (outcome.profile.rows, centers.rows.len());
    let (products, choice) = match product_terms(&outcome.kernel, config.products, sizes, false)? {
        None => (Products::from(tiles), None),
        Some(terms) => {
            let parts = (&outcome.kernel, centers.rows.view(), config.simd);
            // The iterations' vectors come of these products: rows leave out, and draw nothing.
            let made = session
                .try_once(|| Products::choose(parts, terms, None, sample.rows.view(), || Ok(Arc::clone(tiles))))?;
            (made.0.clone(), Some(made.1))
        }
    };
    if let Some(choice) = choice.filter(|_| session.is_first()) {
        session.process.progress.say(&choice.sentence());
    }
    let job = PcgJob {
        tiles,
        products: &products,
        choice,
        centers: centers.rows.view(),
        kernel: &outcome.kernel,
        simd: config.simd,
        code,
        ridge: outcome.ridge,
        weight_scale,
        rows: outcome.profile.rows,
        weight_sum: weight_scale * outcome.weight_sum,
        target_weights: &target_weights,
        sample,
        preconditioning: config.preconditioning,
        params,
        warm_start,
        time_limit: config.time_limit,
    };
    session.begin_passes("conjugate gradients", outcome.profile.rows);
    let solved = pcg::solve(session, store, &job)?;
    end(session);
    clock.lap("solve");
    Ok(solved)
}

/// Whether rows have weights of their own, or by their classes.
pub(super) fn is_weighted(outcome: &FitOutcome) -> bool {
    outcome.encoder.weight.is_some() || !outcome.encoder.class_weights.is_empty()
}

/// Numeric targets may be null in rows of their own: the ridge of each is per row that has it.
fn own_weights(code: &TargetCode, outcome: &mut FitOutcome) {
    if !code.is_classification() {
        outcome.target_weights = outcome.profile.targets.iter().map(|t| t.weight_sum).collect();
    }
}

#[allow(clippy::too_many_arguments)]
fn eigenpro_job<'a, T: Entry>(
    session: &Session<'_>,
    config: &'a FitConfig,
    store: &RowStore,
    code: &'a TargetCode,
    warm_start: Option<Vec<f64>>,
    sample: &'a Arc<Pool>,
    outcome: &'a FitOutcome,
) -> EigenProJob<'a, T> {
    let row_bytes = row_bytes(&outcome.encoder);
    let rows = outcome.profile.rows;
    let place = hashed_order(session, config, store, outcome);
    EigenProJob {
        centers: &outcome.centers.rows,
        sharded: outcome.plan.sharded,
        kernel: &outcome.kernel,
        simd: config.simd,
        code,
        ridge: outcome.ridge,
        weight_sum: outcome.weight_sum,
        target_weights: &outcome.target_weights,
        rows,
        held_out: outcome.profile.held_out,
        sample,
        seed: config.seed,
        tolerance: config.tolerance,
        epochs: config.iterations,
        warm_start,
        time_limit: config.time_limit,
        row_bytes,
        place,
        exact: outcome.centers.ids.len() <= EXACT_PROJECTION_CENTERS,
        entries: PhantomData,
    }
}

/// Sample rows that judge the ridge of a gram solve: none when it is given; otherwise as many as cost no more than the Gram.
pub(super) fn judge_count(config: &FitConfig, sample: &Pool, rows: u64) -> usize {
    if config.ridges.is_some() { 0 } else { most_judges(sample, rows) }
}

/// The same where the ridge is not given.
pub(super) fn most_judges(sample: &Pool, rows: u64) -> usize {
    sample.len().min((rows as usize / 2).max(JUDGE_ROWS))
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
    let diagonal = (0..x.len()).map(|i| outcome.kernel.diagonal(x, i)).collect();
    Ok(gram::Judges {
        entries: Mat::from_fn(range.len(), m, |i, j| k[i * m + j]),
        targets,
        sqrt_weights,
        own,
        diagonal,
    })
}

/// Entries of sample rows with the centers as the exact Gram of shape `shape` sums them, and in f64. For kernels with k(x, x) = 1.
fn trace_rows<T: Entry + Into<f64>>(
    config: &FitConfig,
    outcome: &FitOutcome,
    sample: &Pool,
    weighted: bool,
    shape: GramShape,
    range: std::ops::Range<usize>,
) -> Result<gram::TraceRows, StageError> {
    let numeric = |e: nystream_kernels::tile::TileError| StageError::Numeric(e.to_string());
    let (x, centers) = (sample.rows.view().slice(range.start, range.end), outcome.centers.rows.view());
    let summed = kernel_matrix::<T>(&outcome.kernel, x, centers, &[], config.simd).map_err(numeric)?;
    let exact = kernel_matrix::<f64>(&outcome.kernel, x, centers, &[], config.simd).map_err(numeric)?;
    let root = |i: usize| if weighted { (sample.weights[range.start + i] / outcome.weight_max).sqrt() } else { 1.0 };
    let m = centers.len();
    Ok(gram::TraceRows {
        rounded: Mat::from_fn(x.len(), m, |i, j| shape.rounded(summed[i * m + j].into(), root(i))),
        exact: Mat::from_fn(x.len(), m, |i, j| exact[i * m + j] * root(i)),
        total: (0..x.len()).map(|i| root(i) * root(i)).sum(),
    })
}

/// Rounding error of a kernel entry at most 1: that of the exact Gram's grid, which f32 entries nearly reach too.
pub(super) fn entry_error(precision: Precision) -> f64 {
    match precision {
        Precision::Single => 2f64.powi(-22),
        Precision::Double => 2f64.powi(-44),
    }
}

/// The variance factor with the scales of each target in raw units.
fn variance_factor(variances: &Variances, code: &TargetCode) -> VarianceFactor {
    let raw = |k: usize, value: f64| value * code.scale(k).powi(2);
    let scales = variances.scales.iter().map(Scales::values).enumerate();
    let (noise, signal) = scales.map(|(k, (noise, signal))| (raw(k, noise), raw(k, signal))).unzip();
    VarianceFactor { basis: Arc::clone(&variances.basis), noise, signal }
}

fn variance_note(code: &TargetCode, k: usize, scales: &Scales) -> String {
    let (name, square) = (&code.names[k], code.scale(k).powi(2));
    match scales {
        Scales::Calibrated(c) => format!(
            "variance of {name}: noise {:.4e}, signal {:.4e}, by the likelihood of {} sampled training rows when they are left out; {:.1} % \
             of their weight lie within 1.96 standard deviations",
            c.noise * square,
            c.signal * square,
            c.rows,
            100.0 * c.within_95
        ),
        Scales::Assumed { noise, signal } => format!(
            "variance of {name}: noise {:.4e} from the residuals, signal {:.4e} as the ridge has it, since too few rows tell more",
            noise * square,
            signal * square
        ),
    }
}
