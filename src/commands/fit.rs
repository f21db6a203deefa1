//! `nystream fit`.

use super::Context;
use super::figures::of_processes;
use super::measured::{metrics, products};
use crate::atomic::AtomicFile;
use crate::checkpoint::Checkpoints;
use crate::cli::FitArgs;
use crate::cli::checks::Check;
use crate::cli::groups::CheckpointArgs;
use crate::cli::values::KernelName;
use crate::exit::{self, ExitCode, Failure};
use crate::fitted::{function_of, loss_name, model_of, solver_name};
use crate::jobs::{Data, Workers, fit_config, identity, select_file, split};
use crate::model::Model;
use crate::output::write_json_into;
use crate::overwrite::Inputs;
use crate::repeat::{median_distance, resources_of, take_over};
use crate::report::{
    Certificate, ConsideredSolver, Consumer, DictionaryReport, FitReport, Flops, NetworkReport, PerTarget, PlanReport,
    Predicted, ProcessReport, Report, Validation,
};
use nystream_cluster::Traffic;
use nystream_dataflows::StageError;
use nystream_dataflows::engine::checkpoint;
use nystream_dataflows::engine::{Process, Session};
use nystream_dataflows::job::{FitConfig, FitInputs, FitOutcome, Loss, WarmStart, fit};
use nystream_dataflows::plan::Selection;
use nystream_dataflows::predict::Function;
use nystream_dataflows::targets::TargetCode;
use nystream_kernels::solve::Stopped;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Fits a model and reports on it.
///
/// # Errors
/// Contradicting options (2), bad data (1), a plan over budget (4).
pub fn run(args: FitArgs, context: &Context) -> Result<ExitCode, Failure> {
    args.check()?;
    let begun = Instant::now();
    let plan_only = args.explain || args.dry_run;
    let first = args.resources.is_first();
    // Outputs are opened before the work, by the process that writes them: an unwritable place costs no hours.
    let model_file = args.out.as_deref().filter(|_| first && !plan_only).map(AtomicFile::create).transpose()?;
    let report_file = args.report.as_deref().filter(|_| first).map(AtomicFile::create).transpose()?;
    let from = args.from.as_deref().map(Model::load).transpose()?;
    let config_from = args.config_from.as_deref().map(Model::load).transpose()?;
    // What a model fixes of the machine is settled first: all processes agree on it.
    let resources = match &config_from {
        Some(model) => resources_of(model, &args)?,
        None => args.resources.clone(),
    };
    let data = Data::open(&args.input.data, &resources)?;
    let validation = match args.holdout.validation.as_slice() {
        [] => None,
        paths => Some(Data::open(paths, &resources)?),
    };
    let inputs = Inputs::default()
        .files_of("--data", &data)
        .file("--select", select_file(&args.dictionary))
        .file("--metric", args.kernel.metric.as_deref());
    let inputs = validation.iter().fold(inputs, |inputs, data| inputs.files_of("--validation", data));
    // A model may take the place of the one it started from; a report may not.
    inputs.spared_by(&[("--out", args.out.as_deref()), ("--report", args.report.as_deref())])?;
    let models =
        Inputs::default().file("--from", args.from.as_deref()).file("--config-from", args.config_from.as_deref());
    models.spared_by(&[("--report", args.report.as_deref())])?;
    let (mut split_text, split) = split(&args.holdout);
    let mut config =
        fit_config(&args.input, split, &args.kernel, &args.dictionary, Some(&args.solve), &args.sample, &resources)?;
    config.variance = args.variance;
    config.products = args.products.limit();
    let all_data: Vec<_> = std::iter::once(&data).chain(&validation).collect();
    let starts = [&from, &config_from].map(|model| model.as_ref().map(Model::digest));
    let identity = identity(
        "fit",
        &all_data,
        &args.input,
        &resources,
        &[
            ("--split", &split_text),
            ("--kernel, --bandwidth, --ridge or --metric", &args.kernel),
            ("--centers, --select or another option of the centers", &args.dictionary),
            (
                "--solver, --loss, --tolerance, --product-tolerance, --product-mode, --preconditioner, --iterations or --time-limit",
                &(&args.solve, &args.products),
            ),
            ("--seed, --precision or --max-flops", &args.sample),
            ("--variance, --dry-run or --explain", &(args.variance, plan_only)),
            (
                "the model of --from or --config-from",
                &starts.map(|digest| digest.transpose()).into_iter().collect::<Result<Vec<_>, _>>()?,
            ),
        ],
    )?;
    if let Some(model) = &from {
        config.warm_start = Some(warm_start(model)?);
    }
    let frozen = match &config_from {
        Some(model) => {
            split_text.clone_from(&model.config.split);
            Some(take_over(model, &args, &mut config)?)
        }
        None => None,
    };
    let median = config_from.as_ref().map(median_distance);
    drop((from, config_from));
    let wanted = CheckpointArgs {
        checkpoint: args.checkpoint.checkpoint.clone().filter(|_| !plan_only),
        ..args.checkpoint.clone()
    };
    // The join compares these by itself, where both are read.
    let kept = identity
        .clone()
        .with("the file of --metric", &contents(args.kernel.metric.as_deref()))
        .with("the file of centers (--select)", &contents(select_file(&args.dictionary)));
    let mut checkpoints = if first { Checkpoints::lead(&wanted, &kept, begun, context.quiet)? } else { None };
    let job = identity.clone().with("--checkpoint or --resume", &(wanted.checkpoint.is_some(), wanted.resume));
    let workers = Workers::start(&resources, &context.progress, &job)?;
    let process = Arc::clone(&workers.process);
    let network = workers.network.clone();
    let mut opened = Ok(());
    if !first {
        match Checkpoints::follow(&wanted, &kept, process.index(), begun, context.quiet) {
            Ok(found) => checkpoints = found,
            Err(error) => opened = Err(error),
        }
    }
    if let Some(checkpoints) = &checkpoints {
        checkpoints.serve(&process);
    }
    let kept_by_first = checkpoints.clone().filter(|_| first);
    let rest = Mutex::new(Some((config.clone(), frozen)));
    let peers = network.clone();
    let job = move |session: &mut Session<'_>| {
        checkpoint::open(session, opened.clone())?;
        let catalog = data.catalog(session)?;
        let validation = validation.as_ref().map(|data| data.catalog(session)).transpose()?;
        if let Data::Spread(..) = &data {
            // Else the identity of the job has it.
            let prints = std::iter::once(&catalog).chain(&validation).map(|catalog| &catalog.fingerprint[..]);
            checkpoint::of_data(session, *blake3::hash(&prints.collect::<Vec<_>>().concat()).as_bytes())?;
        }
        // Once a process: a model to start from may be large.
        let inputs = session.try_once(|| {
            let rest = rest.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (config, frozen) = rest.ok_or_else(|| StageError::Internal("the job has begun before".into()))?;
            Ok(FitInputs { catalog, validation, config, frozen, plan_only })
        })?;
        let outcome = fit(session, &inputs)?;
        let processes = of_processes(session, &outcome, peers.as_ref())?;
        Ok((outcome, processes))
    };
    let told = args.clone();
    // While the processes are together: where the first cannot save the model, no other takes the fit for done.
    let save = move |found: &(FitOutcome, Vec<ProcessReport>)| {
        let (outcome, processes) = found;
        if plan_only {
            let report = plan_report(outcome, &config, &process, &told);
            report_file.map(|file| write_json_into(file, &report)).transpose()?;
            return Ok(Found::Plan(Box::new(report)));
        }
        let mut model = model_of(outcome, &config, &split_text)?;
        let digest = model.digest()?;
        let total = begun.elapsed().as_secs_f64();
        let mut report = fit_report(outcome, &config, &process, &told, &digest, total);
        report.network = network.map(|network| {
            let Traffic { bytes_sent, bytes_received } = network.traffic();
            NetworkReport { bytes_sent, bytes_received, seconds_waiting: process.seconds_waiting() }
        });
        report.set_processes(processes.clone());
        report.resumed_from = checkpoints.as_ref().and_then(|all| all.resumed_from());
        report.checkpoints = checkpoints.as_ref().map(|all| all.report());
        if let Some(median) = median {
            report.median_distance = median;
        }
        if first {
            model.info.report = report.json();
            model.info.created_unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            model_file.map(|file| model.save_into(file)).transpose()?;
            report_file.map(|file| write_json_into(file, &report)).transpose()?;
            if let Some(checkpoints) = &checkpoints {
                checkpoints.clear();
            }
        }
        Ok(Found::Fit(Box::new(report)))
    };
    let done = workers.run_and_save(job, save).inspect_err(|_| {
        // Of an attempt that got nowhere nothing is left either.
        if let Some(checkpoints) = kept_by_first.filter(|checkpoints| checkpoints.is_empty()) {
            checkpoints.clear();
        }
    });
    let report = match done?.1 {
        Found::Plan(report) => {
            if first {
                context.output.report(&*report)?;
            }
            return Ok(ExitCode::Done);
        }
        Found::Fit(report) => report,
    };
    let code = if report.stopped.is_some() { ExitCode::Stopped } else { ExitCode::Done };
    if first {
        context.output.report(&*report)?;
    }
    if let Some(why) = &report.stopped {
        // No exit code but 0 is silent, however quiet.
        let saved = args.out.as_ref().filter(|_| first).map(|out| {
            let out = out.display().to_string();
            // As a shell takes it.
            let plain = out.chars().all(|c| c.is_ascii_alphanumeric() || "._-/+=:@".contains(c));
            let word = if plain { out.clone() } else { format!("'{}'", out.replace('\'', "'\\''")) };
            let on = match report.iterations {
                Some(_) => format!(" (--config-from {word} --from {word} goes on from there)"),
                None => String::new(),
            };
            format!("; the model is saved in {out}{on}")
        });
        exit::say(&format!("stopped: {why}{}", saved.unwrap_or_default()));
    }
    Ok(code)
}

/// What was found and saved.
enum Found {
    Plan(Box<PlanReport>),
    Fit(Box<FitReport>),
}

/// What `--from` brings along.
fn warm_start(model: &Model) -> Result<WarmStart, Failure> {
    let (encoder, function) = function_of(model, None)?;
    let Function { kernel, centers, coefficients, code, .. } = function;
    Ok(WarmStart { encoder, code, kernel, centers, coefficients })
}

/// A value of every solver column by target. The columns of classes are one target: their ridges and effective dimensions are
/// equal, of their residuals the largest counts.
fn by_target(values: &[f64], code: Option<&TargetCode>) -> PerTarget {
    match code.is_some_and(TargetCode::is_classification) {
        true => values.iter().copied().fold(0.0, f64::max).into(),
        false => values.to_vec().into(),
    }
}

fn stopped_name(stopped: Stopped) -> Option<String> {
    match stopped {
        Stopped::Converged => None,
        Stopped::Stagnated => Some("stagnated: the residual is the attainable one at this precision".into()),
        Stopped::MaxIterations => Some("iteration limit".into()),
        Stopped::Asked => Some("time limit".into()),
    }
}

fn fit_report(
    outcome: &FitOutcome,
    config: &FitConfig,
    process: &Process,
    args: &FitArgs,
    digest: &str,
    total: f64,
) -> FitReport {
    let solved = outcome.solved.as_ref();
    let code = outcome.function.as_ref().map(|function| &function.code);
    let ridges = solved.map(|s| s.ridges.clone()).unwrap_or_default();
    let matrix: Vec<f64> = ridges.iter().zip(&outcome.target_weights).map(|(r, sum)| r * sum).collect();
    let mut seconds = outcome.seconds.clone();
    seconds.insert("total".to_owned(), total);
    let mut notes = outcome.encoder.notes.clone();
    notes.extend(outcome.plan.reasons.iter().cloned());
    notes.extend(outcome.centers.notes.iter().cloned());
    notes.extend(solved.iter().flat_map(|s| s.notes.iter().cloned()));
    let deviations: Vec<Option<f64>> = outcome.profile.targets.iter().map(|t| Some(t.sd)).collect();
    let classes = code.is_some_and(TargetCode::is_classification);
    FitReport {
        targets: outcome.encoder.targets.clone(),
        task: if classes { "classification" } else { "regression" }.into(),
        loss: loss_name(config.loss).into(),
        seed: config.seed,
        rows: outcome.rows,
        rows_skipped_null_target: outcome.profile.skipped_null_target,
        rows_bad: outcome.profile.bad,
        features_encoded: (outcome.encoder.numeric_width() + outcome.encoder.code_width()) as u64,
        centers: outcome.centers.ids.len() as u64,
        kernel: KernelName(outcome.kernel.family).to_string(),
        bandwidth: outcome.kernel.bandwidth,
        median_distance: Some(outcome.median_distance),
        ridge: by_target(&ridges, code),
        ridge_matrix: by_target(&matrix, code),
        solver: solver_name(outcome.plan.solver).into(),
        select: outcome.plan.selection.name().into(),
        select_file: select_file(&args.dictionary).map(|path| path.display().to_string()),
        // Given centers are no sample of the rows.
        dictionary: (outcome.plan.selection != Selection::File).then_some(DictionaryReport {
            rows_scored: outcome.centers.rows_scored,
            gamma: outcome.centers.gamma,
            beta: outcome.centers.beta,
            size: outcome.centers.size as u64,
        }),
        effective_dimension: solved.and_then(|s| s.effective_dimension.as_ref()).map(|d| by_target(d, code)),
        certificate: Certificate {
            epsilon: outcome.certificate.epsilon,
            pencil: outcome.certificate.pencil.map(Into::into),
            trace_error: solved.and_then(|s| s.trace_error).or(outcome.certificate.sampled_trace_error),
            residual: solved.map(|s| by_target(&s.residuals, code)),
        },
        validation: outcome
            .validation
            .as_ref()
            .map(|evaluation| Validation { rows: evaluation.rows(), metrics: metrics(evaluation, &deviations) }),
        products: solved
            .and_then(|s| s.products.as_ref())
            .zip(code)
            .map(|(made, code)| products(made, code, outcome.centers.ids.len())),
        passes: outcome.passes,
        bytes_read: outcome.counters.bytes_read,
        kernel_entries: outcome.counters.kernel_entries,
        flops: Flops { predicted: outcome.plan.total_flops(), achieved: outcome.counters.flops as f64 },
        predicted: Predicted {
            passes: outcome.plan.passes,
            bytes_read: outcome.plan.bytes,
            memory_bytes: outcome.plan.memory.total(),
            seconds: outcome.plan.seconds(process.workers() * process.processes()),
        },
        seconds,
        peak_rss_bytes: crate::resources::peak_rss_bytes(),
        network: None,
        resumed_from: None,
        checkpoints: None,
        per_process: Vec::new(),
        imbalance: BTreeMap::new(),
        workers: process.workers() as u64,
        processes: process.processes() as u64,
        simd: outcome.function.as_ref().map(|f| f.simd.to_string()).unwrap_or_default(),
        model_digest: digest.to_owned(),
        iterations: solved.and_then(|s| s.iterations).map(|i| i as u64),
        stopped: solved.and_then(|s| stopped_name(s.stopped)),
        notes,
        files: args.out.iter().chain(&args.report).map(|p| p.display().to_string()).collect(),
    }
}

fn plan_report(outcome: &FitOutcome, config: &FitConfig, process: &Process, args: &FitArgs) -> PlanReport {
    let plan = &outcome.plan;
    let mut reasons = if args.explain { plan.reasons.clone() } else { Vec::new() };
    if args.explain && config.loss == Loss::Logistic {
        reasons.push("logistic loss".into());
    }
    let considered = plan.considered.iter().filter(|_| args.explain).map(|other| ConsideredSolver {
        solver: solver_name(other.solver).into(),
        flops: other.flops,
        passes: other.passes,
        memory_bytes: other.memory,
        verdict: other.verdict.clone(),
    });
    PlanReport {
        rows: plan.rows,
        features_encoded: Some((outcome.encoder.numeric_width() + outcome.encoder.code_width()) as u64),
        centers: plan.centers as u64,
        solver: solver_name(plan.solver).into(),
        select: plan.selection.name().into(),
        reasons,
        considered: considered.collect(),
        flops: plan.flops.iter().cloned().collect(),
        max_flops: config.max_flops,
        passes: plan.passes,
        bytes_read: plan.bytes,
        memory_limit: args.resources.memory.0,
        memory: plan.memory.consumers.iter().map(|c| Consumer { name: c.name.clone(), bytes: c.bytes }).collect(),
        seconds: Some(plan.seconds(process.workers() * process.processes())),
    }
}

/// A digest of what a file of options holds; `None` where there is none, or it cannot be read, which is told when it is.
fn contents(path: Option<&Path>) -> Option<blake3::Hash> {
    let file = std::fs::File::open(path?).ok()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).ok()?;
    Some(hasher.finalize())
}
