//! `nystream predict`.

use super::Context;
use super::measured::{products, warn_of_much_left_out};
use crate::atomic::AtomicFile;
use crate::cli::PredictArgs;
use crate::cli::checks::Check;
use crate::exit::{ExitCode, Failure};
use crate::fitted::into_function;
use crate::jobs::{Data, Identity, Workers, share_of, simd};
use crate::model::Model;
use crate::overwrite::Inputs;
use crate::report::{PlannedMemory, PredictReport};
use nystream_dataflows::StageError;
use nystream_dataflows::engine::agree;
use nystream_dataflows::matvec::grid::Shard;
use nystream_dataflows::plan::{ModelSize, Reading, Room, Writing};
use nystream_dataflows::predict::{NO_SHARED_VARIANCE, PredictOptions, part_name, predict};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, atomic::Ordering};
use std::time::Instant;

/// Predicts every row of the data.
///
/// # Errors
/// Contradicting options (2), a damaged model or bad data (1), a plan over budget (4).
pub fn run(args: PredictArgs, context: &Context) -> Result<ExitCode, Failure> {
    args.check()?;
    let begun = Instant::now();
    let budget = args.resources.memory.0;
    let limit = args.products.limit();
    let mut size = Model::outline(&args.model)?;
    size.sparse |= limit.tolerance.is_some();
    // What the model alone needs: the columns of the data are not known yet.
    let threads = args.resources.worker_threads();
    let plan = |size: &ModelSize| size.predicting(Reading::default(), Writing::default(), args.variance, threads);
    let shard = share_of(&args.resources, &size, plan(&size).check(budget).is_ok())?;
    size.shared_by = shard.as_ref().and_then(Shard::among).map_or(1, |(_, processes)| processes as u64);
    plan(&size).check(budget)?;
    if args.variance && shard.is_some() {
        return Err(Failure::usage(NO_SHARED_VARIANCE));
    }
    let (mut model, digest) = match &shard {
        Some(shard) => Model::load_share(&args.model, shard.centers())?,
        None => {
            let model = Model::load(&args.model)?;
            let digest = model.digest()?;
            (model, digest)
        }
    };
    if args.variance && model.variance.is_none() {
        let model_file = args.model.display();
        return Err(match model.config.classes.is_empty() {
            true => Failure::data(format!(
                "{model_file} was fitted without --variance and holds nothing to compute variances from: fit it again with --variance \
                 (solver gram), or leave out --variance"
            )),
            false => Failure::data(format!(
                "{model_file} is a classifier, and only models of numbers have predictive variances: leave out --variance. How sure a \
                 classifier is, its predicted probabilities tell (--loss logistic)"
            )),
        });
    }
    // Opened before the work and held through it: an unwritable place costs no hours.
    let alone = args.resources.hosts.is_none();
    let reserved = if alone { Some(AtomicFile::create(&args.out)?) } else { None };
    let deviations: Vec<Option<f64>> = model.config.targets.iter().map(|target| target.deviation).collect();
    if !args.variance {
        model.variance = None;
    }
    let (encoder, function) = into_function(model, simd(&args.resources)?)?;
    // Without rows there is nothing to predict, and nothing wrong.
    let data = Data::open_any(&args.data, &args.resources)?;
    let inputs = Inputs::default().files_of("--data", &data).file("--model", Some(&args.model));
    inputs.spared_by(&[("--out", Some(&args.out))])?;
    // Processes that were told otherwise would write parts that do not fit together.
    let told = (
        (&args.keep, args.variance, args.max_bad_rows, args.out.file_name()),
        (limit.tolerance, args.products.product_mode.as_str()),
    );
    let identity = Identity::new("predict")
        .with("the model", &digest)
        .with("--data-layout", &args.resources.data_layout)
        .with("what the files of --data hold", &data.fingerprint())
        .with("--keep, --variance, --product-tolerance, --product-mode, --max-bad-rows or --out", &told)
        .with("--share-centers, or --memory, by which auto decides", &shard.is_some());
    let workers = Workers::start(&args.resources, &context.progress, &identity)?;
    let process = Arc::clone(&workers.process);
    let (encoder, function) = (Arc::new(encoder), Arc::new(function));
    let (code, centers) = (function.code.clone(), shard.as_ref().map_or(function.centers(), Shard::total));
    let options = PredictOptions {
        keep: args.keep.clone(),
        variance: args.variance,
        products: limit,
        max_bad_rows: args.max_bad_rows,
        out: args.out.clone(),
        room: Room { budget, model: size, shard },
    };
    let parts = (process.processes() > 1).then(|| (inputs, args.out.clone(), process.processes()));
    let predictions = workers.run(move |session| {
        let catalog = data.catalog_any(session)?;
        // A process that cannot write its part says so to all.
        let part = session.process.index();
        let ready =
            session.try_once(|| parts.as_ref().map(|(inputs, out, all)| reserve(inputs, out, part, *all)).transpose());
        let part_file = agree(session, ready)?;
        let predictions = predict(session, &catalog, &encoder, &function, &options);
        drop(part_file);
        predictions
    });
    drop(reserved);
    let predictions = predictions.inspect_err(|_| {
        if process.processes() > 1 {
            // Only an empty folder goes.
            let _ = std::fs::remove_dir(&args.out);
        }
    })?;
    if process.index() > 0 {
        return Ok(ExitCode::Done);
    }
    let made = predictions.products.map(|made| products(&made, &code, centers));
    if let Some(made) = &made {
        warn_of_much_left_out(made, &deviations);
    }
    context.output.report(&PredictReport {
        rows: predictions.rows,
        rows_bad: predictions.bad,
        columns: predictions.columns,
        out: args.out.display().to_string(),
        bytes_read: process.bytes_read.load(Ordering::Relaxed),
        seconds: BTreeMap::from([("total".to_owned(), begun.elapsed().as_secs_f64())]),
        peak_rss_bytes: crate::resources::peak_rss_bytes(),
        predicted: PlannedMemory { memory_bytes: predictions.memory.total() },
        products: made,
        model_digest: digest,
    })?;
    Ok(ExitCode::Done)
}

/// The folder of parts, with the place of this process in it: held open while the rows are predicted.
fn reserve(inputs: &Inputs, out: &Path, part: usize, processes: usize) -> Result<AtomicFile, StageError> {
    let shown = out.display();
    std::fs::create_dir_all(out).map_err(|e| {
        StageError::Data(format!(
            "--out {shown}: with several processes it is a folder of parts, which cannot be made: {e}"
        ))
    })?;
    // Parts of an earlier run with more processes would be read as part of this one.
    for entry in std::fs::read_dir(out).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix("part-").and_then(|rest| rest.strip_suffix(".parquet")?.parse::<usize>().ok());
        if number.is_some_and(|number| number >= processes) {
            return Err(StageError::Usage(format!(
                "--out {shown} holds {name}, of a run with more processes: remove it or name another folder"
            )));
        }
    }
    let path = out.join(part_name(part));
    inputs.spared_by(&[("--out", Some(&path))]).map_err(|e| StageError::Usage(e.to_string()))?;
    AtomicFile::create(&path).map_err(|e| StageError::Data(e.to_string()))
}
