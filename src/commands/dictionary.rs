//! `nystream dictionary`.
//!
//! The centers are those that `fit --split none` with the same options would choose; as a file of original columns they can be
//! looked at, edited, and given to other fits by `--select file:PATH`. A target is needed: rows without one are not
//! chosen from, and bandwidth and ridge are tuned on it.

use super::Context;
use crate::atomic::AtomicFile;
use crate::cli::DictionaryCommandArgs;
use crate::cli::checks::Check;
use crate::cli::values::KernelName;
use crate::exit::{ExitCode, Failure};
use crate::jobs::{Data, Workers, fit_config, identity};
use crate::output::write_json_into;
use crate::overwrite::Inputs;
use crate::report::{Certificate, DictionaryStageReport};
use arrow_array::RecordBatch;
use nystream_dataflows::StageError;
use nystream_dataflows::dictionary::chosen_rows;
use nystream_dataflows::engine::Session;
use nystream_dataflows::job::{FitInputs, FitOutcome, fit};
use nystream_datasets::Split;
use nystream_datasets::sink::PredictionWriter;
use std::fmt::Debug;
use std::time::Instant;

/// Chooses centers, certifies them and writes them.
///
/// # Errors
/// Contradicting options (2), bad data (1), a plan over budget (4).
pub fn run(args: DictionaryCommandArgs, context: &Context) -> Result<ExitCode, Failure> {
    args.check()?;
    let begun = Instant::now();
    let first = args.resources.is_first();
    // Refused with the message that all outputs have; the writer makes its own file.
    let output = match first {
        true => {
            drop(AtomicFile::create(&args.out)?);
            Some(PredictionWriter::create(&args.out)?)
        }
        false => None,
    };
    let report_file = args.report.as_deref().filter(|_| first).map(AtomicFile::create).transpose()?;
    let data = Data::open(&args.input.data, &args.resources)?;
    Inputs::default()
        .files_of("--data", &data)
        .file("--metric", args.kernel.metric.as_deref())
        .spared_by(&[("--out", Some(&args.out)), ("--report", args.report.as_deref())])?;
    let mut config =
        fit_config(&args.input, Split::None, &args.kernel, &args.dictionary, None, &args.sample, &args.resources)?;
    config.dictionary_only = true;
    let told: [(&'static str, &dyn Debug); 3] = [
        ("--kernel, --bandwidth, --ridge or --metric", &args.kernel),
        ("--centers, --select or another option of the centers", &args.dictionary),
        ("--seed, --precision or --max-flops", &args.sample),
    ];
    let identity = identity("dictionary", &[&data], &args.input, &args.resources, &told)?;
    let workers = Workers::start(&args.resources, &context.progress, &identity)?;
    let id_column = args.input.id_column.clone();
    let job = move |session: &mut Session<'_>| {
        let catalog = data.catalog(session)?;
        let config = config.clone();
        let inputs = FitInputs { catalog, validation: None, config, frozen: None, plan_only: false };
        let outcome = fit(session, &inputs)?;
        let rows = chosen_rows(session, &inputs.catalog, id_column.as_deref(), &outcome.centers.ids)?;
        Ok::<_, StageError>((outcome, rows))
    };
    let save = move |(outcome, rows): &(FitOutcome, Option<RecordBatch>)| {
        let (Some(mut output), Some(rows)) = (output, rows) else { return Ok(None) };
        output.write(rows)?;
        output.finish()?;
        let mut seconds = outcome.seconds.clone();
        seconds.insert("total".to_owned(), begun.elapsed().as_secs_f64());
        // Nothing is solved here: which solver a fit would take does not matter.
        let solver = outcome.plan.solver.name();
        let reasons = outcome.plan.reasons.iter().filter(|reason| !reason.starts_with(solver));
        let report = DictionaryStageReport {
            rows: outcome.profile.rows,
            rows_scored: outcome.centers.rows_scored,
            gamma: outcome.centers.gamma,
            beta: outcome.centers.beta,
            size: outcome.centers.size as u64,
            centers: outcome.centers.ids.len() as u64,
            select: outcome.plan.selection.name().into(),
            kernel: KernelName(outcome.kernel.family).to_string(),
            bandwidth: outcome.kernel.bandwidth,
            ridge: outcome.ridge,
            notes: reasons.chain(&outcome.centers.notes).cloned().collect(),
            effective_dimension: None,
            certificate: Certificate {
                epsilon: outcome.certificate.epsilon,
                pencil: outcome.certificate.pencil.map(Into::into),
                trace_error: outcome.certificate.sampled_trace_error,
                residual: None,
            },
            seconds,
            out: args.out.display().to_string(),
        };
        report_file.map(|file| write_json_into(file, &report)).transpose()?;
        Ok(Some(report))
    };
    let (_, report) = workers.run_and_save(job, save)?;
    report.map(|report| context.output.report(&report)).transpose()?;
    Ok(ExitCode::Done)
}
