//! `nystream evaluate`.

use super::Context;
use super::measured::metrics;
use crate::atomic::AtomicFile;
use crate::cli::EvaluateArgs;
use crate::cli::checks::Check;
use crate::exit::{ExitCode, Failure};
use crate::fitted::function_of;
use crate::jobs::{Workers, open, simd};
use crate::model::Model;
use crate::output::write_json_into;
use crate::report::EvaluateReport;
use nystream_dataflows::job::evaluate_model;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, atomic::Ordering};
use std::time::Instant;

/// Measures a model's error on data with known targets.
///
/// # Errors
/// Contradicting options (2), a damaged model or bad data (1).
pub fn run(args: EvaluateArgs, context: &Context) -> Result<ExitCode, Failure> {
    args.check()?;
    let begun = Instant::now();
    let model = Model::load(&args.model)?;
    let (encoder, function) = function_of(&model, simd(&args.resources)?)?;
    let catalog = open(&args.data)?;
    let first = args.resources.is_first();
    let output = args.report.as_deref().filter(|_| first).map(AtomicFile::create).transpose()?;
    let digest = model.digest()?;
    let workers =
        Workers::start(&args.resources, &context.progress, &format!("evaluate {digest} {:?}", catalog.fingerprint))?;
    let process = Arc::clone(&workers.process);
    let (encoder, function) = (Arc::new(encoder), Arc::new(function));
    let max_bad_rows = args.max_bad_rows;
    let evaluation =
        workers.run(move |session| evaluate_model(session, &catalog, &encoder, &function, max_bad_rows))?;
    let deviations: Vec<Option<f64>> = model.config.targets.iter().map(|t| t.deviation).collect();
    let report = EvaluateReport {
        rows: evaluation.rows(),
        rows_skipped_null_target: process.skipped_rows.load(Ordering::Relaxed),
        rows_bad: process.bad_rows.lock().unwrap_or_else(PoisonError::into_inner).0,
        metrics: metrics(&evaluation, &deviations),
        bytes_read: process.bytes_read.load(Ordering::Relaxed),
        seconds: BTreeMap::from([("total".to_owned(), begun.elapsed().as_secs_f64())]),
        peak_rss_bytes: crate::resources::peak_rss_bytes(),
        model_digest: digest,
    };
    if first {
        if let Some(output) = output {
            write_json_into(output, &report)?;
        }
        context.output.report(&report)?;
    }
    Ok(ExitCode::Done)
}
