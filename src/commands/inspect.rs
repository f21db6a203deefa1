//! `nystream inspect`.

use super::Context;
use crate::cli::InspectArgs;
use crate::exit::{ExitCode, Failure};
use crate::jobs::open;
use crate::model::Model;
use crate::report::{ColumnReport, DatasetReport, ModelReport, Report};
use nystream_datasets::{ColumnKind, statistics};
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
///
/// # Errors
/// Files that are missing, unreadable or disagree (1), a malformed source (2).
pub(super) fn describe_data(path: &str) -> Result<DatasetReport, Failure> {
    let catalog = open(&[path.to_string()])?;
    let columns = catalog.columns.iter().zip(statistics(&catalog)?).map(|(column, stated)| ColumnReport {
        name: column.name.clone(),
        physical: column.data_type.clone(),
        role: role(column.kind).to_string(),
        nulls: stated.nulls,
        min: stated.min,
        max: stated.max,
    });
    Ok(DatasetReport {
        path: path.to_string(),
        kind: "data".to_string(),
        files: catalog.files.len() as u64,
        rows: catalog.total_rows,
        row_groups: catalog.files.iter().map(|file| file.row_groups.len() as u64 - 1).sum(),
        bytes: catalog.files.iter().map(|file| file.bytes).sum(),
        columns: columns.collect(),
    })
}

/// How a column of a kind would be encoded.
fn role(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Numeric | ColumnKind::Boolean | ColumnKind::Time | ColumnKind::Duration => "numeric",
        ColumnKind::Text => "categorical",
        ColumnKind::Timestamp | ColumnKind::Date => "timestamp",
        ColumnKind::Null => "dropped",
        ColumnKind::Nested | ColumnKind::Binary | ColumnKind::Other => "refused",
    }
}
