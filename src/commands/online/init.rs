//! `--init-rows N`: encoder, kernel and ridge tuned on the first rows of the stream, by the job of `fit`.
//!
//! The rows are written to a Parquet file beside the state, which goes away afterwards; the stream itself is then read from its beginning.

use crate::cli::OnlineArgs;
use crate::cli::groups::{DictionaryArgs, InputArgs, SampleArgs};
use crate::cli::values::online::{Absent, Endpoint, Mode};
use crate::cli::values::{AutoOr, Count, DictionaryMode, Scale, Select, Task};
use crate::commands::Context;
use crate::exit::{self, Failure};
use crate::fitted::model_of;
use crate::jobs::{Identity, Workers, fit_config};
use crate::model::Model;
use nystream_dataflows::job::{FitInputs, Select as Choice, SelectionRule, Solver, fit};
use nystream_datasets::sink::PredictionWriter;
use nystream_datasets::stream::first::first_rows;
use nystream_datasets::{Catalog, Sources, Split};
use std::path::Path;
use std::sync::Arc;

/// The first rows, in the folder of the state, while they are fitted.
pub const FIRST_ROWS: &str = "init.parquet";
/// Rows of which nothing can be tuned.
const LEAST: usize = 50;

/// The model of a fit to the first `rows` rows of the input.
///
/// # Errors
/// A source that cannot be read twice (2), too few rows (1), and what a fit says.
pub fn tuned(
    args: &OnlineArgs,
    input: &Endpoint,
    rows: u64,
    folder: &Path,
    context: &Context,
) -> Result<Model, Failure> {
    let targets = args.stream.target.as_slice();
    match targets {
        [_] => {}
        [_, _, ..] if args.learner.mode == Mode::Recursive => {}
        _ => return Err(Failure::usage("--init-rows needs --target COLUMN: name the column to predict")),
    }
    let path = folder.join(FIRST_ROWS);
    let data = match input {
        Endpoint::Lines(file) if file != "-" => {
            let most = usize::try_from(rows).unwrap_or(usize::MAX);
            // The stream refuses rows without a column, unless that is a null: so do these.
            let whole = args.stream.absent == Absent::Reject;
            let found = first_rows(file, most, targets, whole).map_err(|error| Failure::data(error.to_string()))?;
            let (found, left) = found;
            if let Some(left) = left {
                context.progress.aside(|| {
                    exit::say(&format!(
                        "--init-rows: {left}: they are not tuned on; --absent null takes what is absent for null"
                    ));
                });
            }
            if found.num_rows() < most.clamp(2, LEAST) {
                return Err(Failure::data(format!(
                    "--init-rows {rows}: {file} has {} rows with '{}', too few to tune on",
                    found.num_rows(),
                    targets.join("', '")
                )));
            }
            let mut writer = PredictionWriter::create(&path)?;
            writer.write(&found)?;
            writer.finish()?;
            path.display().to_string()
        }
        Endpoint::Synth(name) => {
            let (spec, generator) = nystream_datasets::stream::made::generator(name)?;
            let all: Vec<usize> = (0..generator.schema().fields().len()).collect();
            let batch = generator
                .batch(0, usize::try_from(rows.min(spec.rows)).unwrap_or(usize::MAX), &all)
                .map_err(|error| Failure::data(error.to_string()))?;
            let mut writer = PredictionWriter::create(&path)?;
            writer.write(&batch)?;
            writer.finish()?;
            path.display().to_string()
        }
        other => {
            return Err(Failure::usage(format!(
                "--init-rows reads the first rows before the stream, which {other} cannot give twice: fit a model to some rows and give it by --config-from"
            )));
        }
    };
    let asked = Asked {
        input: input_of(targets, data),
        split: ("none".into(), Split::None),
        dictionary: DictionaryArgs {
            centers: match args.given.iter().any(|flag| flag == "cap") && args.learner.mode == Mode::Recursive {
                true => AutoOr::Given(Count(args.learner.cap.0.min(rows))),
                false => AutoOr::Auto,
            },
            select: Select::Auto,
            dictionary_rows: None,
            dictionary_mode: DictionaryMode::Bernoulli,
        },
        rule: None,
        sample: args.sample.clone(),
        variance: false,
    };
    // The exact mode sums a Gram, whatever a fit of so many rows would do.
    let made = fitted(args, &asked, args.learner.mode == Mode::Exact, context);
    let _ = std::fs::remove_file(&path);
    made
}

fn input_of(targets: &[String], data: String) -> InputArgs {
    InputArgs {
        data: vec![data],
        target: targets.to_vec(),
        drop: Vec::new(),
        categorical: Vec::new(),
        weight: None,
        class_weight: None,
        id_column: None,
        cyclic: Vec::new(),
        scale: Scale::Standard,
        task: Task::Auto,
        max_bad_rows: u64::MAX,
    }
}

/// A fit.
pub struct Asked {
    /// Of which rows.
    pub input: InputArgs,
    /// Which of them are held out, as text and for the encoder.
    pub split: (String, Split),
    /// Centers.
    pub dictionary: DictionaryArgs,
    /// How they are chosen, where that is settled.
    pub rule: Option<SelectionRule>,
    /// Seed and precision.
    pub sample: SampleArgs,
    /// Whether the model has variances.
    pub variance: bool,
}

/// Its model; by a Gram if `gram`.
///
/// # Errors
/// What the fit says.
pub fn fitted(args: &OnlineArgs, asked: &Asked, gram: bool, context: &Context) -> Result<Model, Failure> {
    let Asked { input, split: (written, split), dictionary, rule, sample, variance } = asked;
    let mut config = fit_config(input, split.clone(), &args.kernel, dictionary, None, sample, &args.resources)?;
    if gram {
        config.solver = Solver::Gram;
    }
    if let Some(rule) = rule {
        config.select = Choice::Settled(*rule);
    }
    config.variance = *variance;
    let catalog = Catalog::open(&Sources::parse(&input.data)?)?;
    let workers = Workers::start(&args.resources, &context.progress, &Identity::new("online"))?;
    let (asked, catalog) = (config.clone(), Arc::new(catalog));
    let outcome = workers.run(move |session| {
        let inputs = session.try_once(|| {
            Ok(FitInputs {
                catalog: Catalog::clone(&catalog),
                validation: None,
                config: asked.clone(),
                frozen: None,
                plan_only: false,
            })
        })?;
        fit(session, &inputs)
    })?;
    model_of(&outcome, &config, written)
}
