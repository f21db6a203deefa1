//! `nystream inspect`.

use super::Context;
use crate::cli::InspectArgs;
use crate::exit::{ExitCode, Failure};
use crate::model::Model;
use crate::report::{DatasetReport, ModelReport, Report};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// What `inspect` says of one path.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Description {
    /// A model.
    Model(Box<ModelReport>),
    /// Data.
    Data(DatasetReport),
}

impl Report for Description {
    fn text(&self) -> String {
        match self {
            Description::Model(report) => report.text(),
            Description::Data(report) => report.text(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Description::Model(report) => report.json(),
            Description::Data(report) => report.json(),
        }
    }
}

/// Describes models and data, in the order given.
///
/// # Errors
/// The first path that cannot be read (1).
pub fn run(args: InspectArgs, context: &Context) -> Result<ExitCode, Failure> {
    let described = args.paths.iter().map(|path| describe(path)).collect::<Result<Vec<_>, Failure>>()?;
    context.output.reports(&described)?;
    Ok(ExitCode::Done)
}

fn describe(path: &str) -> Result<Description, Failure> {
    let file = Path::new(path);
    let named_so = file.extension().is_some_and(|e| e == "nys" || e == "safetensors");
    if named_so || Model::is_model_file(file) {
        let model = Model::load(file)?;
        let bytes = std::fs::metadata(file).map_or(0, |m| m.len());
        return Ok(Description::Model(Box::new(ModelReport::new(path, bytes, &model)?)));
    }
    describe_data(path).map(Description::Data)
}

/// Describes a data set from its footers.
pub(super) fn describe_data(path: &str) -> Result<DatasetReport, Failure> {
    Err(Failure::new(ExitCode::Bug, format!("data sets are not part of this build ({path})")))
}
