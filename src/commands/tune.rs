//! `nystream tune`.

use super::Context;
use crate::atomic::AtomicFile;
use crate::cli::TuneArgs;
use crate::cli::checks::Check;
use crate::cli::values::KernelName;
use crate::exit::{ExitCode, Failure};
use crate::jobs::{Data, Workers, fit_config, identity, select_file, split};
use crate::output::write_json_into;
use crate::overwrite::Inputs;
use crate::report::{TuneReport, TuneRow};
use nystream_dataflows::engine::Session;
use nystream_dataflows::job::{FitInputs, FitOutcome, Solver, fit, ridge_share};
use nystream_dataflows::tune::CandidateFit;
use std::fmt::Debug;
use std::time::Instant;

/// Chooses kernel, bandwidth and ridge on the sample, and prints the table it saw.
///
/// # Errors
/// Contradicting options (2), bad data (1), a plan over budget (4).
pub fn run(args: TuneArgs, context: &Context) -> Result<ExitCode, Failure> {
    args.check()?;
    let begun = Instant::now();
    let first = args.resources.is_first();
    let output = args.report.as_deref().filter(|_| first).map(AtomicFile::create).transpose()?;
    let data = Data::open(&args.input.data, &args.resources)?;
    Inputs::default()
        .files_of("--data", &data)
        .file("--select", select_file(&args.dictionary))
        .file("--metric", args.kernel.metric.as_deref())
        .spared_by(&[("--report", args.report.as_deref())])?;
    let (split_text, split) = split(&args.holdout);
    let config = fit_config(
        &args.input,
        split,
        &args.kernel,
        &args.dictionary,
        Some(&args.solve),
        &args.sample,
        &args.resources,
    )?;
    let told: [(&'static str, &dyn Debug); 5] = [
        ("--split", &split_text),
        ("--kernel, --bandwidth, --ridge or --metric", &args.kernel),
        ("--centers, --select or another option of the centers", &args.dictionary),
        ("--solver, --loss, --tolerance, --preconditioner, --iterations or --time-limit", &args.solve),
        ("--seed, --precision or --max-flops", &args.sample),
    ];
    let identity = identity("tune", &[&data], &args.input, &args.resources, &told)?;
    let workers = Workers::start(&args.resources, &context.progress, &identity)?;
    let first = workers.process.index() == 0;
    let (share, ridge_given) = (ridge_share(config.loss), config.ridges.is_some());
    let save = move |outcome: &FitOutcome| {
        let Some(tuned) = &outcome.tuned else {
            return Err(Failure::usage("kernel, bandwidth and ridge are all given: there is nothing to tune"));
        };
        let row = |fit: &CandidateFit| TuneRow {
            kernel: KernelName(fit.candidate.family).to_string(),
            bandwidth: fit.candidate.bandwidth,
            // In the units of a fit on all rows, to which the matrix ridge is carried over as it is.
            ridge: share * fit.ridge_matrix / outcome.weight_sum,
            centers: fit.candidate.centers as u64,
            score: fit.error,
        };
        let chosen = tuned.table.iter().rev().find(|fit| {
            fit.candidate.family == tuned.kernel.family && fit.candidate.bandwidth == tuned.kernel.bandwidth
        });
        let mut notes = Vec::new();
        if outcome.plan.solver == Solver::Gram && !ridge_given {
            notes
                .push("a fit with these centers takes solver gram, which chooses --ridge auto anew on all rows".into());
        }
        let planned = outcome.plan.centers;
        if let Some(fit) = chosen.filter(|fit| fit.candidate.centers < planned) {
            notes.push(format!(
            "scores compare kernels on fits of at most {} centers to {} rows: a fit with {planned} centers to all rows should predict better",
            fit.candidate.centers, fit.candidate.rows
        ));
        }
        let mut seconds = outcome.seconds.clone();
        seconds.insert("total".to_owned(), begun.elapsed().as_secs_f64());
        let report = TuneReport {
            rows: outcome.profile.rows,
            sample_rows: outcome.sample_rows,
            median_distance: outcome.median_distance,
            criterion: "held_out_rmse".into(),
            table: tuned.table.iter().map(row).collect(),
            // What a fit would use: its own ridge where that was given.
            chosen: TuneRow { ridge: outcome.ridge, ..chosen.map(row).unwrap_or_default() },
            notes,
            seconds,
        };
        output.map(|output| write_json_into(output, &report)).transpose()?;
        Ok(report)
    };
    let job = move |session: &mut Session<'_>| {
        let catalog = data.catalog(session)?;
        fit(session, &FitInputs { catalog, validation: None, config: config.clone(), frozen: None, plan_only: true })
    };
    let (_, report) = workers.run_and_save(job, save)?;
    if first {
        context.output.report(&report)?;
    }
    Ok(ExitCode::Done)
}
