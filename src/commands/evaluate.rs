//! `nystream evaluate`.

use super::Context;
use super::measured::{metrics, products, warn_of_much_left_out};
use crate::atomic::AtomicFile;
use crate::cli::EvaluateArgs;
use crate::cli::checks::Check;
use crate::exit::{ExitCode, Failure};
use crate::fitted::into_function;
use crate::jobs::{Data, Identity, Workers, share_of, simd};
use crate::model::Model;
use crate::output::write_json_into;
use crate::overwrite::Inputs;
use crate::report::{EvaluateReport, PlannedMemory};
use nystream_dataflows::engine::{Counters, Session, counters};
use nystream_dataflows::job::{Measured, evaluate_model};
use nystream_dataflows::matvec::grid::Shard;
use nystream_dataflows::plan::{ModelSize, Reading, Room};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, atomic::Ordering};
use std::time::Instant;

/// Measures a model's error on data with known targets.
///
/// # Errors
/// Contradicting options (2), a damaged model or bad data (1), a plan over budget (4).
pub fn run(args: EvaluateArgs, context: &Context) -> Result<ExitCode, Failure> {
    args.check()?;
    let begun = Instant::now();
    let limit = args.products.limit();
    let mut room = Room { budget: args.resources.memory.0, model: Model::outline(&args.model)?, shard: None };
    room.model.sparse |= limit.tolerance.is_some();
    // What the model alone needs: the columns of the data are not known yet.
    let plan = |size: &ModelSize| size.evaluating(Reading::default(), args.resources.worker_threads());
    room.shard = share_of(&args.resources, &room.model, plan(&room.model).check(room.budget).is_ok())?;
    room.model.shared_by = room.shard.as_ref().and_then(Shard::among).map_or(1, |(_, processes)| processes as u64);
    plan(&room.model).check(room.budget)?;
    let (mut model, digest) = match &room.shard {
        Some(shard) => Model::load_share(&args.model, shard.centers())?,
        None => {
            let model = Model::load(&args.model)?;
            let digest = model.digest()?;
            (model, digest)
        }
    };
    model.variance = None;
    let targets = model.config.targets.iter().map(|t| t.name.clone()).collect();
    let task = model.config.task.clone();
    let deviations: Vec<Option<f64>> = model.config.targets.iter().map(|t| t.deviation).collect();
    let (encoder, function) = into_function(model, simd(&args.resources)?)?;
    let data = Data::open(&args.data, &args.resources)?;
    Inputs::default()
        .files_of("--data", &data)
        .file("--model", Some(&args.model))
        .spared_by(&[("--report", args.report.as_deref())])?;
    let first = args.resources.is_first();
    let output = args.report.as_deref().filter(|_| first).map(AtomicFile::create).transpose()?;
    let identity = Identity::new("evaluate")
        .with("the model", &digest)
        .with("--data-layout", &args.resources.data_layout)
        .with("what the files of --data hold", &data.fingerprint())
        .with("--product-tolerance or --product-mode", &(limit.tolerance, args.products.product_mode.as_str()))
        .with("--simd, or the SIMD path of the machine", &function.simd)
        .with("--share-centers, or --memory, by which auto decides", &room.shard.is_some());
    let workers = Workers::start(&args.resources, &context.progress, &identity)?;
    let process = Arc::clone(&workers.process);
    let (encoder, function) = (Arc::new(encoder), Arc::new(function));
    let max_bad_rows = args.max_bad_rows;
    let (code, centers) = (function.code.clone(), room.shard.as_ref().map_or(function.centers(), Shard::total));
    let job = move |session: &mut Session<'_>| {
        let catalog = data.catalog(session)?;
        let found = evaluate_model(session, &catalog, &encoder, &function, limit, max_bad_rows, &room)?;
        Ok((found, counters(session)?))
    };
    let save = move |(found, counted): &(Measured, Counters)| {
        let Measured { evaluation, memory, products: made } = found;
        let made = made.as_ref().map(|made| products(made, &code, centers));
        if let Some(made) = made.as_ref().filter(|_| first) {
            warn_of_much_left_out(made, &deviations);
        }
        let report = EvaluateReport {
            targets,
            task,
            rows: evaluation.rows(),
            rows_skipped_null_target: process.skipped_rows.load(Ordering::Relaxed),
            rows_bad: process.bad_rows.lock().unwrap_or_else(PoisonError::into_inner).0,
            metrics: metrics(evaluation, &deviations),
            bytes_read: counted.bytes_read,
            seconds: BTreeMap::from([("total".to_owned(), begun.elapsed().as_secs_f64())]),
            peak_rss_bytes: crate::resources::peak_rss_bytes(),
            predicted: PlannedMemory { memory_bytes: memory.total() },
            products: made,
            model_digest: digest,
        };
        output.map(|output| write_json_into(output, &report)).transpose()?;
        Ok(report)
    };
    let (_, report) = workers.run_and_save(job, save)?;
    if first {
        context.output.report(&report)?;
    }
    Ok(ExitCode::Done)
}
