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
use nystream_dataflows::engine::{Session, agree, counters, of_workers};
use nystream_dataflows::matvec::grid::Shard;
use nystream_dataflows::plan::{ModelSize, Reading, Room, Writing};
use nystream_dataflows::predict::{NO_SHARED_VARIANCE, PredictOptions, part_name, predict};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

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
        .with("--simd, or the SIMD path of the machine", &function.simd)
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
        if let (Data::Spread(..), Some((_, out, _))) = (&data, &parts) {
            no_strange_parts(session, out)?;
        }
        let predictions = predict(session, &catalog, &encoder, &function, &options);
        drop(part_file);
        Ok((predictions?, counters(session)?))
    });
    drop(reserved);
    let (predictions, counted) = predictions.inspect_err(|_| {
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
        bytes_read: counted.bytes_read,
        seconds: BTreeMap::from([("total".to_owned(), begun.elapsed().as_secs_f64())]),
        peak_rss_bytes: crate::resources::peak_rss_bytes(),
        predicted: PlannedMemory { memory_bytes: predictions.memory.total() },
        products: made,
        model_digest: digest,
    })?;
    Ok(ExitCode::Done)
}

/// Which process writes the part `name`.
fn part_number(name: &str) -> Option<usize> {
    name.strip_prefix("part-").and_then(|rest| rest.strip_suffix(".parquet")?.parse().ok())
}

/// A part that is in a folder: whose, and what tells it from another of that name (bytes, and when it was written).
type Found = (usize, u64, u128);

/// Refuses a folder with the part of another process that does not see it in a folder of its own, and so will not replace it: hosts have folders of their own, and one may have had another
/// place in an earlier run. Every worker calls this in step.
fn no_strange_parts(session: &mut Session<'_>, out: &Path) -> Result<(), StageError> {
    let found = || -> Vec<Found> {
        let entries = std::fs::read_dir(out).into_iter().flatten().flatten();
        let part = |entry: std::fs::DirEntry| {
            let (number, about) = (part_number(&entry.file_name().to_string_lossy())?, entry.metadata().ok()?);
            let written = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            Some((number, about.len(), written.as_nanos()))
        };
        entries.filter_map(part).collect()
    };
    // Plain numbers: serialisation cannot fail.
    let own = if session.is_leader() { serde_json::to_vec(&found()).unwrap_or_default() } else { Vec::new() };
    let all: Vec<Vec<Found>> = of_workers(session, own)?
        .chunks(session.process.workers())
        .map(|of_process| serde_json::from_slice(&of_process[0]))
        .collect::<Result<_, _>>()
        .map_err(|e| StageError::Internal(format!("a list of parts arrived damaged: {e}")))?;
    // The same list everywhere, and the same answer.
    for (process, parts) in all.iter().enumerate() {
        let strange = |part: &&Found| part.0 != process && !all.get(part.0).is_some_and(|own| own.contains(part));
        if let Some(part) = parts.iter().find(strange) {
            return Err(StageError::Usage(format!(
                "--out {} of process {process} holds {}, of an earlier run in which this host had another place: remove it or name another folder",
                out.display(),
                part_name(part.0)
            )));
        }
    }
    Ok(())
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
        let number = part_number(&name);
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
