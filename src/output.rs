//! Results on stdout, and nothing else there.

use crate::atomic;
use crate::cli::values::Format;
use crate::exit::Failure;
use crate::report::{Report, SCHEMA_VERSION};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::Path;

/// Where and how results are printed.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Text or JSON.
    pub format: Format,
}

impl Output {
    /// Prints one report.
    ///
    /// # Errors
    /// A closed pipe (exit 0, silent) or a full disk.
    pub fn report(&self, report: &impl Report) -> Result<(), Failure> {
        match self.format {
            Format::Text => self.raw(&report.text()),
            Format::Json => self.raw(&format!("{:#}\n", report.json())),
        }
    }

    /// Prints several reports: texts with a blank line between them, or one JSON document with the list `documents`; one report is as [`Output::report`] prints it.
    ///
    /// # Errors
    /// As [`Output::report`].
    pub fn reports<R: Report>(&self, reports: &[R]) -> Result<(), Failure> {
        match (self.format, reports) {
            (_, [one]) => self.report(one),
            (Format::Text, _) => self.raw(&reports.iter().map(Report::text).collect::<Vec<_>>().join("\n")),
            (Format::Json, _) => {
                let files: Vec<Value> = reports.iter().map(Report::json).collect();
                self.raw(&format!("{:#}\n", json!({ "documents": files, "schema_version": SCHEMA_VERSION })))
            }
        }
    }

    /// Prints text as it is.
    ///
    /// # Errors
    /// As [`Output::report`].
    pub fn raw(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::stdout)
    }
}

/// Writes a report as JSON, whole or not at all.
///
/// ```
/// use nystream::{output::write_json, report::PredictReport};
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("report.json");
/// write_json(&path, &PredictReport { rows: 3, ..PredictReport::default() })?;
/// let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
/// assert_eq!((&json["rows"], &json["schema_version"]), (&3.into(), &1.into()));
/// # Ok::<(), nystream::exit::Failure>(())
/// ```
///
/// # Errors
/// A file that cannot be written (1).
pub fn write_json(path: &Path, report: &impl Report) -> Result<(), Failure> {
    Ok(atomic::write(path, format!("{:#}\n", report.json()).as_bytes())?)
}

/// Writes a report as JSON into an output that was opened before the work began.
///
/// # Errors
/// A file that cannot be written.
pub fn write_json_into(mut output: atomic::AtomicFile, report: &impl Report) -> Result<(), Failure> {
    use std::io::Write;
    let path = output.destination().to_path_buf();
    output
        .write_all(format!("{:#}\n", report.json()).as_bytes())
        .map_err(|source| atomic::OutputError::Write { path, source })?;
    Ok(output.commit()?)
}
