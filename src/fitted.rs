//! Between the model file and the stages: one direction each.
//!
//! The file holds coefficients and intercepts in target units; the stages use the scaled targets y' = (y - c) / 2^e. Powers of
//! two cost no bits, so a round trip predicts bit-identically.

use crate::exit::{ExitCode, Failure};
use crate::model::{self, Exact, FrozenConfig, Model, Selection, Target, VarianceFactor};
use crate::repeat::selection_of;
use nystream_dataflows::StageError;
use nystream_dataflows::job::{FitConfig, FitOutcome, Loss, Solver};
use nystream_dataflows::matvec::products::ProductMode;
use nystream_dataflows::plan::Preconditioning;
use nystream_dataflows::predict::{self, Function};
use nystream_dataflows::targets::TargetCode;
use nystream_datasets::Encoder;
use nystream_kernels::gram::{PANEL_ROWS, Precision};
use nystream_kernels::tile::SimdPath;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

impl From<StageError> for Failure {
    fn from(error: StageError) -> Self {
        let code = match &error {
            StageError::Data(_) | StageError::Numeric(_) => ExitCode::Data,
            StageError::Usage(_) => ExitCode::Usage,
            StageError::Budget(_) => ExitCode::Budget,
            _ => ExitCode::Bug,
        };
        let mut message = error.to_string();
        // Numerics know no options; where a stage does, it has named them.
        if matches!(error, StageError::Numeric(_)) && !message.contains("--") {
            message += ". The kernel matrix is beyond the precision: try a larger --ridge, --bandwidth 1x, another --kernel, or --precision f64";
        }
        Failure::new(code, message)
    }
}

impl From<nystream_datasets::DataError> for Failure {
    fn from(error: nystream_datasets::DataError) -> Self {
        use nystream_datasets::DataError as E;
        let code = match &error {
            E::DiskBudget { .. } | E::MemoryBudget { .. } | E::OutputBudget { .. } => ExitCode::Budget,
            E::BadSynth { .. }
            | E::BadPattern { .. }
            | E::NoSources
            | E::UnsupportedScheme { .. }
            | E::BadAddress { .. }
            | E::MixedPlaces { .. } => ExitCode::Usage,
            _ => ExitCode::Data,
        };
        Failure::caused(code, error)
    }
}

/// The name of a solver in models and reports.
pub fn solver_name(solver: Solver) -> &'static str {
    match solver {
        Solver::Auto => "auto",
        Solver::Gram => "gram",
        Solver::Pcg => "pcg",
        Solver::EigenPro => "eigenpro",
        Solver::BlockCd => "blockcd",
    }
}

/// The name of a loss in models and reports.
pub fn loss_name(loss: Loss) -> &'static str {
    match loss {
        Loss::Squared => "squared",
        Loss::Logistic => "logistic",
    }
}

/// The model of a fit.
///
/// # Errors
/// A fit that was only planned, or numbers that cannot be written.
pub fn model_of(outcome: &FitOutcome, config: &FitConfig, split: &str) -> Result<Model, Failure> {
    let (Some(function), Some(solved)) = (&outcome.function, &outcome.solved) else {
        return Err(Failure::new(ExitCode::Bug, "the fit was planned, not made"));
    };
    let code = &function.code;
    let t = code.width();
    let encoder = model::json::faithful(&*outcome.encoder).map_err(|e| Failure::new(ExitCode::Bug, e))?;
    let targets = if code.is_classification() {
        vec![target(&code.names[0], 0.0, 0, None)]
    } else {
        (0..t)
            .map(|k| target(&code.names[k], code.centres[k], code.exponents[k], Some(outcome.profile.targets[k].sd)))
            .collect()
    };
    let mut settings: BTreeMap<String, Value> = BTreeMap::new();
    if outcome.plan.solver != Solver::Gram {
        // Without one stochastic gradients end by their objective: none is recorded then.
        let own = config.tolerance.or((outcome.plan.solver != Solver::EigenPro).then(|| config.tolerance()));
        settings.insert("tolerance".into(), json!(own));
        settings.insert("iterations".into(), json!(config.iterations));
        if outcome.plan.solver == Solver::Pcg && config.preconditioning != Preconditioning::Auto {
            settings.insert("preconditioner".into(), json!(config.preconditioning));
        }
    }
    // Where no product was sparse for the solver's or the loss's sake it had no effect.
    if let Some((tolerance, made)) = config.products.tolerance.zip(solved.products.as_ref()) {
        settings.insert("product_tolerance".into(), json!(tolerance));
        // That of the products: kernels of compact support are always certified.
        if made.choice.limit.mode == ProductMode::Sampled {
            settings.insert("product_mode".into(), json!(ProductMode::Sampled));
        }
    }
    if code.is_classification() {
        settings.insert("class_centres".into(), json!(code.centres));
    }
    let frozen = FrozenConfig {
        encoder,
        kernel: function.kernel.clone(),
        numeric_width: outcome.encoder.numeric_width(),
        code_width: outcome.encoder.code_width(),
        // The columns of classes share their ridge.
        ridge: if code.is_classification() { vec![solved.ridges[0]] } else { solved.ridges.clone() },
        rows: outcome.rows,
        sum_weights: outcome.weight_sum,
        precision: match function.precision {
            Precision::Double => model::Precision::F64,
            _ => model::Precision::F32,
        },
        simd: function.simd.to_string(),
        seed: config.seed,
        task: if code.is_classification() { "classification" } else { "regression" }.into(),
        loss: loss_name(function.loss).into(),
        solver: solver_name(outcome.plan.solver).into(),
        targets,
        classes: code.classes.clone(),
        selection: match outcome.plan.solver {
            Solver::BlockCd => Selection { method: "all".into(), ..Selection::default() },
            _ => selection_of(&outcome.centers.rule, outcome.plan.centers),
        },
        split: split.into(),
        exact: (outcome.plan.solver == Solver::Gram).then_some(Exact {
            bits: function.precision.bits(),
            kernel_log2: outcome.kernel_log2,
            panel_rows: PANEL_ROWS as u64,
            weight_max: outcome.weight_max,
        }),
        settings,
    };
    let coefficients = function.coefficients.iter().enumerate().map(|(i, c)| c * code.scale(i % t)).collect();
    let mut model = Model::new(frozen, function.centers.clone(), coefficients, code.centres.clone());
    model.variance = variance_of(function);
    Ok(model)
}

/// What a model file holds of a function's variances.
pub(crate) fn variance_of(function: &Function) -> Option<VarianceFactor> {
    function.variance.as_ref().map(|v| VarianceFactor {
        values: v.basis.factor.clone(),
        rank: v.basis.rank,
        weights: v.basis.weights.clone(),
        noise: v.noise.clone(),
        signal: v.signal.clone(),
    })
}

fn target(name: &str, centre: f64, scale_log2: i32, deviation: Option<f64>) -> Target {
    Target { name: name.to_owned(), centre, scale_log2, deviation }
}

/// The encoder and the function of a model. `simd` is the path to use; `None` is the model's own, or this host's best where it lacks that one. The
/// coefficients of the model are in target units, those of the function in units of the scaled target.
///
/// # Errors
/// A model whose parts do not fit together (1).
pub fn function_of(model: &Model, simd: Option<SimdPath>) -> Result<(Encoder, Function), Failure> {
    into_function(model.clone(), simd)
}

/// [`function_of`] a model that is not needed any more: its tensors are moved, not copied.
///
/// # Errors
/// As there.
pub fn into_function(model: Model, simd: Option<SimdPath>) -> Result<(Encoder, Function), Failure> {
    let t = model.outputs();
    let Model { config, centers, coefficients, intercepts, variance, .. } = model;
    let bad = |what: &str| Failure::data(format!("the model is not usable: {what}"));
    let encoder: Encoder = serde_json::from_value(config.encoder).map_err(|e| bad(&format!("its encoder: {e}")))?;
    encoder.validate()?;
    let exponents: Vec<i32> =
        if config.classes.is_empty() { config.targets.iter().map(|t| t.scale_log2).collect() } else { vec![0; t] };
    if exponents.len() != t || intercepts.len() != t {
        return Err(bad("its targets and coefficients differ in number"));
    }
    let code = TargetCode {
        names: config.targets.into_iter().map(|t| t.name).collect(),
        classes: config.classes,
        centres: intercepts,
        exponents,
    };
    let path: SimdPath = match simd {
        Some(path) => path,
        None => config.simd.parse().ok().filter(|p| SimdPath::available().contains(p)).unwrap_or_else(SimdPath::detect),
    };
    let coefficients = coefficients.into_iter().enumerate().map(|(i, c)| c / code.scale(i % t)).collect();
    let variance = variance.map(|v| predict::VarianceFactor {
        basis: Arc::new(predict::VarianceBasis { factor: v.values, weights: v.weights, rank: v.rank }),
        noise: v.noise,
        signal: v.signal,
    });
    let function = Function {
        kernel: config.kernel,
        centers,
        coefficients,
        code,
        loss: if config.loss == "logistic" { Loss::Logistic } else { Loss::Squared },
        precision: match config.precision {
            model::Precision::F64 => Precision::Double,
            _ => Precision::Single,
        },
        simd: path,
        variance,
    };
    Ok((encoder, function))
}
