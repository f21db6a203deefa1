//! `--config-from MODEL`: the configuration of a model, for other rows.
//!
//! Taken over are encoder, target centre, scale and range, the bound on weights, kernel, ridges, the number of centers and the rule that chooses them,
//! solver with its tolerances and iterations, task, loss, split, precision, seed and instruction set. The same data then gives the same model, bit for bit; new rows
//! give one whose configuration differs in n and sum w alone. Budgets and `--max-bad-rows` stay those of the command line.
//! A flag on the command line that would change what the model fixes is refused; variables and settings files, which flags overrule anyway, are not looked at.

use crate::cli::values::{AllOr, AutoOr, Bandwidth, ClassWeight, KernelName, Select as SelectArg, Simd};
use crate::cli::{FitArgs, ResourceArgs};
use crate::exit::{ExitCode, Failure};
use crate::fitted::function_of;
use crate::model::{Model, Precision as ModelPrecision, Selection};
use crate::report::text;
use clap::ValueEnum;
use nystream_dataflows::dictionary::pool::{expected_bits, pool_bits, pool_rows};
use nystream_dataflows::dictionary::rows_of_file;
use nystream_dataflows::job::{
    Bandwidth as Sigma, FitConfig, Frozen, Method, MetricRequest, Select, SelectionRule, Solver, Task,
};
use nystream_dataflows::matvec::products::{ProductLimit, ProductMode};
use nystream_dataflows::online::settings::Mode;
use nystream_datasets::{ColumnKind, Encoder, Role, Scale};
use nystream_kernels::sampling::DictionaryMode;
use nystream_kernels::tile::SimdPath;

/// Puts the configuration of `model` into `config`, and gives the rest of what it fixes.
///
/// # Errors
/// Flags of `args` that contradict it (2), and a model whose configuration does not fit together (1).
pub fn take_over(model: &Model, args: &FitArgs, config: &mut FitConfig) -> Result<Frozen, Failure> {
    let (encoder, _) = function_of(model, Some(config.simd))?;
    refuse_contradictions(model, &encoder, args, config)?;
    let mut frozen = frozen(model, config)?;
    // Rows that had no key of their own may get one: it says which row is which, not what is done with it.
    if frozen.encoder.id_column.is_none() {
        frozen.encoder.id_column.clone_from(&args.input.id_column);
    }
    Ok(frozen)
}

/// [`take_over`] without a command line that could contradict it.
///
/// # Errors
/// A model whose configuration does not fit together (1).
pub fn frozen(model: &Model, config: &mut FitConfig) -> Result<Frozen, Failure> {
    let (encoder, function) = function_of(model, Some(config.simd))?;
    let fixed = &model.config;
    config.task = Some(if fixed.classes.is_empty() { Task::Regression } else { Task::Classification });
    config.loss = function.loss;
    config.family = Some(function.kernel.family);
    config.bandwidth = Sigma::Absolute(function.kernel.bandwidth);
    config.metric = MetricRequest::Given(function.kernel.metric.clone());
    config.ridges = Some(fixed.ridge.clone());
    config.precision = function.precision;
    config.seed = fixed.seed;
    config.solver = solver_of(&fixed.solver)?;
    config.centers = fixed.selection.centers.map(|m| m as usize);
    config.select = match fixed.selection.method.as_str() {
        "all" => Select::Auto,
        "file" => Select::Rows(model.centers.clone()),
        _ => Select::Settled(rule_of(&fixed.selection)?),
    };
    config.variance |= model.variance.is_some();
    if config.variance && config.solver != Solver::Gram {
        return Err(Failure::usage(format!(
            "--variance comes from the gram solver, and --config-from fixes --solver {}: leave out --variance",
            fixed.solver
        )));
    }
    if config.solver != Solver::Gram {
        config.tolerance = setting(model, "tolerance")?;
        config.iterations = setting(model, "iterations")?;
    }
    config.preconditioning = setting(model, "preconditioner")?.unwrap_or_default();
    config.products = ProductLimit { tolerance: setting(model, "product_tolerance")?, mode: product_mode(model)? };
    Ok(Frozen {
        encoder,
        code: function.code,
        deviations: fixed.targets.iter().map(|target| target.deviation.unwrap_or_default()).collect(),
        kernel: function.kernel,
        kernel_log2: fixed.exact.as_ref().map(|exact| exact.kernel_log2),
    })
}

/// The machine options of a fit by the configuration of `model`: those of `args`, with the instruction set of the model, without which the same rows would
/// give other last bits.
///
/// # Errors
/// An instruction set that this machine does not have (2), and one that no nystream knows (1).
pub fn resources_of(model: &Model, args: &FitArgs) -> Result<ResourceArgs, Failure> {
    let name = &model.config.simd;
    let simd = Simd::from_str(name, false).map_err(|_| unusable(format!("its instruction set `{name}` is unknown")))?;
    let available: Vec<String> = SimdPath::available().iter().map(ToString::to_string).collect();
    if !available.contains(name) {
        return Err(Failure::usage(format!(
            "--config-from fixes --simd {name}, with which the model was fitted, and this machine has {}: fit where there is {name}, or without --config-from",
            available.join(", ")
        )));
    }
    Ok(ResourceArgs { simd, ..args.resources.clone() })
}

/// The median distance that `--bandwidth 1x` of `model` was, where the file states it: encoded units.
pub fn median_distance(model: &Model) -> Option<f64> {
    model.info.report.get("median_distance").and_then(serde_json::Value::as_f64)
}

fn unusable(what: impl std::fmt::Display) -> Failure {
    Failure::data(format!("--config-from: the model cannot be repeated: {what}"))
}

/// A setting of the solver, `None` where it has none or its default.
fn setting<T: serde::de::DeserializeOwned>(model: &Model, name: &str) -> Result<Option<T>, Failure> {
    match model.config.settings.get(name).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(value) => T::deserialize(value).map(Some).map_err(|e| unusable(format!("its setting `{name}`: {e}"))),
    }
}

/// How the products of `model` keep their tolerance: certified where it does not say.
fn product_mode(model: &Model) -> Result<ProductMode, Failure> {
    Ok(setting(model, "product_mode")?.unwrap_or_default())
}

fn solver_of(name: &str) -> Result<Solver, Failure> {
    let learned = [Mode::ConKons, Mode::ProsNKons, Mode::Kons, Mode::SketchedKons, Mode::Recursive];
    if learned.iter().any(|mode| mode.name() == name) {
        return Err(unusable(format!(
            "it was learned row by row from a stream, by online --mode {name}, and there is no fit to repeat. Name the model that the learner began with, or any that `nystream fit` has written; \
             to go on from this one, online --from it"
        )));
    }
    let known = [Solver::Gram, Solver::Pcg, Solver::EigenPro, Solver::BlockCd];
    known
        .into_iter()
        .find(|solver| solver.name() == name)
        .ok_or_else(|| unusable(format!("its solver `{name}` is unknown")))
}

/// The rule that a model records.
///
/// # Errors
/// A selection that lacks what its method needs (1).
pub(crate) fn rule_of(selection: &Selection) -> Result<SelectionRule, Failure> {
    let lacks = |what: &str| unusable(format!("its selection `{}` lacks {what}", selection.method));
    let mode = || -> Result<DictionaryMode, Failure> {
        match selection.mode.as_deref() {
            Some("theorem") => Ok(DictionaryMode::Theorem {
                eps: selection.epsilon.ok_or_else(|| lacks("`epsilon`"))?,
                delta: selection.delta.ok_or_else(|| lacks("`delta`"))?,
                qbar: selection.copies.ok_or_else(|| lacks("`copies`"))?,
            }),
            _ => Ok(DictionaryMode::Bernoulli { beta: selection.beta.ok_or_else(|| lacks("`beta`"))? }),
        }
    };
    let method = match selection.method.as_str() {
        name @ ("squeak" | "squeak:tempered") => Method::Squeak {
            tempered: name != "squeak",
            atoms: selection.capacity.ok_or_else(|| lacks("`capacity`"))?,
            leaf_rows: selection.leaf_rows.ok_or_else(|| lacks("`leaf_rows`"))?,
            gamma: selection.gamma.ok_or_else(|| lacks("`gamma`"))?,
            mode: mode()?,
        },
        "rpcholesky" => Method::RpCholesky { full: false, tempered: false, most: selection.pool_rows },
        "rpcholesky:tempered" => Method::RpCholesky { full: false, tempered: true, most: selection.pool_rows },
        "rpcholesky:full" => Method::RpCholesky { full: true, tempered: false, most: None },
        "uniform" => Method::Uniform,
        other => return Err(unusable(format!("its selection `{other}` is unknown"))),
    };
    if selection.centers.is_none() {
        return Err(lacks("`centers`"));
    }
    Ok(SelectionRule { method, pool_bits: selection.pool_bits.unwrap_or(0) })
}

/// What a model records of a rule: its method by name, the number of centers decided on, and the numbers that repeat the choice on other rows.
///
/// ```
/// use nystream::repeat::selection_of;
/// use nystream_dataflows::job::{Method, SelectionRule};
/// // 500 pivots of the tempered law, on the first 20,000 by hash of the rows whose hash begins with three zero bits.
/// let method = Method::RpCholesky { full: false, tempered: true, most: Some(20_000) };
/// let selection = selection_of(&SelectionRule { method, pool_bits: 3 }, 500);
/// assert_eq!((selection.method.as_str(), selection.centers), ("rpcholesky:tempered", Some(500)));
/// assert_eq!((selection.pool_bits, selection.pool_rows), (Some(3), Some(20_000)));
/// // What does not apply is absent from the file.
/// assert_eq!(serde_json::to_value(&selection).unwrap().as_object().unwrap().len(), 4);
/// ```
pub fn selection_of(rule: &SelectionRule, centers: usize) -> Selection {
    let pool_bits = (rule.pool_bits > 0).then_some(rule.pool_bits);
    let named = |method: &str| Selection {
        method: method.into(),
        centers: Some(centers as u64),
        pool_bits,
        ..Selection::default()
    };
    match rule.method {
        Method::Squeak { atoms, leaf_rows, gamma, mode, tempered } => {
            let name = named(if tempered { "squeak:tempered" } else { "squeak" });
            let squeak = Selection { capacity: Some(atoms), leaf_rows: Some(leaf_rows), gamma: Some(gamma), ..name };
            match mode {
                DictionaryMode::Bernoulli { beta } => {
                    Selection { mode: Some("bernoulli".into()), beta: Some(beta), ..squeak }
                }
                DictionaryMode::Theorem { eps, delta, qbar } => Selection {
                    mode: Some("theorem".into()),
                    epsilon: Some(eps),
                    delta: Some(delta),
                    copies: Some(qbar),
                    ..squeak
                },
            }
        }
        Method::RpCholesky { full: true, .. } => named("rpcholesky:full"),
        Method::RpCholesky { tempered, most, .. } => {
            Selection { pool_rows: most, ..named(if tempered { "rpcholesky:tempered" } else { "rpcholesky" }) }
        }
        Method::Uniform => named("uniform"),
        Method::File => named("file"),
    }
}

/// Refuses flags of the command line that would change what the model fixes, all of them by name.
fn refuse_contradictions(model: &Model, encoder: &Encoder, args: &FitArgs, config: &FitConfig) -> Result<(), Failure> {
    let (fixed, input) = (&model.config, &args.input);
    let given = |flag: &str| args.given.iter().any(|name| name == flag);
    let mut refused: Vec<String> = Vec::new();
    let mut check = |flag: &str, same: bool, value: String| {
        if given(flag) && !same {
            refused.push(format!("--{flag} (the model has {value})"));
        }
    };
    let or_none = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".into());

    check("target", input.target == encoder.targets, encoder.targets.join(", "));
    let used: Vec<&str> = encoder.columns(Role::All);
    // A column may be no feature and still split the rows, weigh them or be their key.
    let learned = |name: &String| {
        encoder.targets.contains(name)
            || encoder.numeric.iter().any(|feature| feature.column == *name)
            || encoder.categorical.iter().any(|feature| feature.column == *name)
    };
    let dropped = input.drop.iter().find(|name| learned(name));
    check("drop", dropped.is_none(), format!("column '{}' in use", dropped.cloned().unwrap_or_default()));
    let number = |name: &&String| encoder.numeric.iter().any(|feature| feature.column == **name);
    let numeric = input.categorical.iter().find(number);
    check("categorical", numeric.is_none(), format!("'{}' as a number", numeric.cloned().unwrap_or_default()));
    check("weight", input.weight == encoder.weight, or_none(&encoder.weight));
    check("class-weight", same_class_weights(input.class_weight.as_ref(), encoder), "its own".into());
    let free_key = |key: &String| encoder.id_column.is_none() && !used.contains(&key.as_str());
    let same_key = input.id_column == encoder.id_column || input.id_column.as_ref().is_some_and(free_key);
    check("id-column", same_key, or_none(&encoder.id_column));
    let plain = |name: &str| {
        encoder.numeric.iter().any(|f| {
            (name == "*" || f.column == name) && matches!(f.kind, ColumnKind::Timestamp | ColumnKind::Date) && !f.cyclic
        })
    };
    check("cyclic", !input.cyclic.iter().any(|name| plain(name)), "no cyclic parts of them".into());
    let scale = match encoder.scale {
        Scale::Standard => "standard",
        Scale::Robust => "robust",
        Scale::Quantile => "quantile",
    };
    check("scale", input.scale.as_str() == scale, scale.into());
    check("task", ["auto", &fixed.task].contains(&input.task.as_str()), fixed.task.clone());
    let split = args.holdout.split.as_ref().is_none_or(|split| split.to_string() == fixed.split);
    check("split", split, fixed.split.clone());

    let kernel = &fixed.kernel;
    let family = args.kernel.kernel.given().is_none_or(|name| name.0 == kernel.family);
    check("kernel", family, KernelName(kernel.family).to_string());
    // A multiple is one of the median distance that the model was fitted with: that of the new rows would be another number.
    let sigma = match args.kernel.bandwidth {
        Bandwidth::Auto => true,
        Bandwidth::Absolute(sigma) => sigma == kernel.bandwidth,
        Bandwidth::TimesMedian(times) => {
            median_distance(model).is_some_and(|median| (times * median / kernel.bandwidth - 1.0).abs() < 1e-12)
        }
    };
    let multiple = median_distance(model)
        .map(|median| format!(", {}x the median distance", text::number(kernel.bandwidth / median)));
    check("bandwidth", sigma, format!("{}{}", kernel.bandwidth, multiple.unwrap_or_default()));
    let ridge = args.kernel.ridge.given().is_none_or(|ridge| fixed.ridge.iter().all(|lambda| *lambda == ridge.0));
    check("ridge", ridge, format!("{:?}", fixed.ridge));
    let metric = config.metric.resolve(encoder).is_ok_and(|metric| metric == kernel.metric);
    check("metric", metric, "another".into());

    let selection = &fixed.selection;
    let centers = match args.dictionary.centers {
        AutoOr::Auto => true,
        // More than there were rows: as many as there were.
        AutoOr::Given(count) => selection.centers.is_some_and(|m| m == count.0 || m == fixed.rows && m < count.0),
    };
    check("centers", centers, selection.centers.map_or_else(|| "every row".into(), |m| m.to_string()));
    // Which law draws the pivots is no part of the option.
    let method = selection.method.trim_end_matches(":tempered");
    // Where every row was to be a center there was nothing to choose.
    let every_row = method == "uniform" && selection.centers == Some(fixed.rows);
    let select = match (&args.dictionary.select, &config.select) {
        (SelectArg::Auto, _) => true,
        (SelectArg::File(_), Select::File(catalog)) if method == "file" => {
            rows_of_file(encoder, catalog)?.0 == model.centers
        }
        (SelectArg::File(_), _) => false,
        // Given all rows, pivoting passes over them.
        (SelectArg::RpCholesky { full: false }, _) if args.dictionary.dictionary_rows == Some(AllOr::All) => {
            every_row || ["rpcholesky", "rpcholesky:full"].contains(&method)
        }
        (other, _) => every_row || other.to_string() == method,
    };
    let its_own = if method == "file" { "other centers of a file" } else { method };
    check("select", select, its_own.into());
    let open = args.dictionary.select == SelectArg::Auto;
    let pool = args.dictionary.dictionary_rows.is_none_or(|rows| every_row || same_pool(rows, open, model));
    check("dictionary-rows", pool, "its own pool".into());
    let mode = selection.mode.as_deref().unwrap_or("bernoulli");
    check("dictionary-mode", args.dictionary.dictionary_mode.as_str() == mode, mode.into());

    check("solver", ["auto", &fixed.solver].contains(&args.solve.solver.as_str()), fixed.solver.clone());
    check("loss", args.solve.loss.as_str() == fixed.loss, fixed.loss.clone());
    if fixed.solver != Solver::Gram.name() {
        let tolerance = setting::<f64>(model, "tolerance")?;
        let own = tolerance.map_or_else(|| "the solver's own".into(), |t| t.to_string());
        check("tolerance", args.solve.tolerance.is_none_or(|t| Some(t.0) == tolerance), own);
        let iterations = setting::<u64>(model, "iterations")?;
        let same = args.solve.iterations.map(|count| count.0) == iterations;
        check("iterations", same, iterations.map_or_else(|| "the solver's own".into(), |count| count.to_string()));
    }
    let preconditioner = setting::<String>(model, "preconditioner")?.unwrap_or_else(|| "auto".into());
    let asked = args.solve.preconditioner.as_str();
    check("preconditioner", ["auto", &preconditioner].contains(&asked), preconditioner);
    let tolerance = setting::<f64>(model, "product_tolerance")?;
    let own = tolerance.map_or_else(|| "none".into(), |t| t.to_string());
    let given = args.products.limit();
    check("product-tolerance", given.tolerance == tolerance, own);
    let mode = product_mode(model)?;
    let own = if mode == ProductMode::Sampled { "sampled" } else { "certified" };
    check("product-mode", given.mode == mode, own.into());
    check("simd", ["auto", &fixed.simd].contains(&args.resources.simd.as_str()), fixed.simd.clone());
    check("seed", args.sample.seed == fixed.seed, fixed.seed.to_string());
    let precision = match fixed.precision {
        ModelPrecision::F64 => "f64",
        ModelPrecision::F32 => "f32",
    };
    check("precision", args.sample.precision.as_str() == precision, precision.into());
    if refused.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::Usage,
        format!(
            "--config-from fixes what these flags would change: {}. Leave them out, or fit without --config-from",
            refused.join(", ")
        ),
    ))
}

/// Whether `rows` of a selection by the model's method are the pool that the model records. `open`: the method was left to `auto`, which takes a pool
/// whether or not all rows are allowed.
fn same_pool(rows: AllOr, open: bool, model: &Model) -> bool {
    let (fixed, fitted) = (&model.config.selection, model.config.rows);
    let bits = fixed.pool_bits.unwrap_or(0);
    match (fixed.method.trim_end_matches(":tempered"), rows) {
        // Given `all`, pivoting passes over all rows.
        ("rpcholesky:full", rows) => rows == AllOr::All,
        ("squeak", AllOr::All) => bits == 0,
        ("squeak", AllOr::Count(count)) => {
            expected_bits(fitted, pool_rows(fitted, pool_bits(fitted, count.min(fitted)))) == bits
        }
        ("rpcholesky", AllOr::Count(count)) => {
            fixed.pool_rows.map_or(bits == 0 && count >= fitted, |rows| rows == count)
        }
        ("rpcholesky", AllOr::All) => open,
        // Nothing is scored.
        ("uniform" | "file" | "all", AllOr::All) => true,
        _ => false,
    }
}

/// Whether the given class weights are those of the encoder. `balanced` is, where the model's were balanced: they stay as they are.
fn same_class_weights(given: Option<&ClassWeight>, encoder: &Encoder) -> bool {
    let weight = |pairs: &[(String, f64)], class: &String| {
        pairs.iter().find(|(label, _)| label == class).map_or(1.0, |(_, weight)| *weight)
    };
    match (given, encoder.classes()) {
        (None, _) => true,
        (Some(ClassWeight::Balanced), _) => encoder.balanced,
        (Some(ClassWeight::Labels(pairs)), Some(classes)) => {
            classes.iter().map(|class| weight(pairs, class)).collect::<Vec<_>>() == encoder.class_weights
        }
        _ => false,
    }
}
