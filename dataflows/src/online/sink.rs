//! Where answers go.
//!
//! A file holds each answer once: a snapshot records how long it is, and a restart writes the answers after that again, the same bytes in the same place. What is written to standard output, or to a
//! pipe, is at least once: `seq` tells repetitions.

use super::session::Output;
use crate::error::StageError;
use crate::job::Loss;
use crate::predict::Function;
use crate::targets::TargetCode;
use nystream_datasets::stream::Rejected;
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// How answers are written.
#[derive(Clone, Debug)]
pub struct Shape {
    code: TargetCode,
    logistic: bool,
}

impl Shape {
    /// For the predictions of `function`.
    pub fn new(function: &Function) -> Self {
        Shape { code: function.code.clone(), logistic: function.loss == Loss::Logistic }
    }

    /// What targets are, and whether values are probabilities.
    pub(super) fn parts(&self) -> (&TargetCode, bool) {
        (&self.code, self.logistic)
    }

    /// The label of the most probable class; of equal ones the first.
    pub(super) fn label(&self, values: &[f64]) -> Option<&str> {
        let best = (0..values.len()).reduce(|a, b| if values[b] > values[a] { b } else { a })?;
        self.code.classes.get(best).map(String::as_str)
    }

    /// An answer as JSON: `seq`, `key`, `prediction` (an array for several targets, the label of the most probable class) and, where there are any, `variance`, and `scores` or `probabilities` by class.
    pub fn json(&self, output: &Output) -> Value {
        let Output { seq, key, prediction } = output;
        let one = |values: &[f64]| if let [value] = values { json!(value) } else { json!(values) };
        let mut row = Map::new();
        row.insert("seq".into(), json!(seq));
        row.insert("key".into(), json!(key));
        if self.code.is_classification() {
            row.insert("prediction".into(), json!(self.label(&prediction.values)));
            let scores: Map<String, Value> = self
                .code
                .classes
                .iter()
                .zip(&prediction.values)
                .map(|(class, score)| (class.clone(), json!(score)))
                .collect();
            row.insert(if self.logistic { "probabilities" } else { "scores" }.into(), Value::Object(scores));
        } else {
            row.insert("prediction".into(), one(&prediction.values));
        }
        if let Some(variances) = &prediction.variances {
            row.insert("variance".into(), one(variances));
        }
        Value::Object(row)
    }
}

/// A file of lines that is written at its end, and that a restart cuts to what it was.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    target: Target,
    /// Bytes that are to be there.
    bytes: u64,
    pending: Vec<u8>,
}

#[derive(Debug)]
enum Target {
    /// A regular file.
    File(File),
    /// A pipe or a device: nothing can be taken back.
    Stream(File),
    Standard,
}

impl LineFile {
    /// Opens `path` (`-` is standard output) to go on after `bytes`; `None` begins a new file.
    ///
    /// # Errors
    /// [`StageError::Data`] for a file that cannot be written, that is shorter than it was, or, where a new one is to begin, that has something in it.
    pub fn open(path: &str, bytes: Option<u64>, option: &str) -> Result<Self, StageError> {
        let data = |reason: String| StageError::Data(format!("{option} {path}: {reason}"));
        if path == "-" {
            return Ok(LineFile {
                path: path.into(),
                target: Target::Standard,
                bytes: bytes.unwrap_or(0),
                pending: Vec::new(),
            });
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = match file {
            Ok(file) => file,
            // A pipe cannot be opened for both.
            Err(_) => OpenOptions::new()
                .write(true)
                .open(path)
                .map_err(|error| data(format!("cannot be written: {error}")))?,
        };
        let found = file.metadata().map_err(|error| data(error.to_string()))?;
        if !found.is_file() {
            return Ok(LineFile {
                path: path.into(),
                target: Target::Stream(file),
                bytes: bytes.unwrap_or(0),
                pending: Vec::new(),
            });
        }
        let length = found.len();
        match bytes {
            None if length > 0 => {
                return Err(data(
                    "it has something in it that this state did not write: remove it, or name another file".into(),
                ));
            }
            Some(bytes) if length < bytes => {
                return Err(data(format!(
                    "the state has written {bytes} bytes to it, and it has {length}: put it back, or name another file, which then has what follows"
                )));
            }
            _ => {}
        }
        Ok(LineFile { path: path.into(), target: Target::File(file), bytes: bytes.unwrap_or(0), pending: Vec::new() })
    }

    /// What [`LineFile::open`] would refuse, found without opening anything for good: a file that is absent is so afterwards, pipes and devices are not touched.
    ///
    /// # Errors
    /// As there.
    pub fn check(path: &str, bytes: Option<u64>, option: &str) -> Result<(), StageError> {
        match std::fs::metadata(path) {
            _ if path == "-" => Ok(()),
            Ok(found) if !found.is_file() && !found.is_dir() => Ok(()),
            Ok(_) => Self::open(path, bytes, option).map(drop),
            Err(_) => {
                let opened = Self::open(path, bytes, option).map(drop);
                // It is empty: what made it was this.
                let _ = std::fs::remove_file(path);
                opened
            }
        }
    }

    /// Bytes that are there, or will be after [`LineFile::write`].
    pub fn bytes(&self) -> u64 {
        self.bytes + self.pending.len() as u64
    }

    /// Adds a line.
    pub fn push(&mut self, line: &Value) {
        self.pending.extend_from_slice(line.to_string().as_bytes());
        self.pending.push(b'\n');
    }

    /// Adds bytes.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Adds what was refused.
    pub fn push_rejected(&mut self, rejected: &Rejected) {
        self.push(&json!(rejected));
    }

    /// Writes what was added.
    ///
    /// # Errors
    /// The system's; what is not written stays added.
    pub fn write(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        match &mut self.target {
            Target::File(file) => {
                file.seek(SeekFrom::Start(self.bytes))?;
                if let Err(error) = file.write_all(&self.pending) {
                    // No half of a line.
                    let _ = file.set_len(self.bytes);
                    return Err(error);
                }
            }
            Target::Stream(file) => file.write_all(&self.pending)?,
            Target::Standard => {
                let mut out = io::stdout().lock();
                out.write_all(&self.pending)?;
                out.flush()?;
            }
        }
        self.bytes += self.pending.len() as u64;
        self.pending.clear();
        self.pending.shrink_to(1 << 20);
        Ok(())
    }

    /// Ends the file where what was written ends: after a replay.
    ///
    /// # Errors
    /// The system's.
    pub fn cut(&mut self) -> io::Result<()> {
        match &self.target {
            Target::File(file) => file.set_len(self.bytes),
            Target::Stream(_) | Target::Standard => Ok(()),
        }
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&mut self) -> io::Result<()> {
        match &self.target {
            Target::File(file) => file.sync_data(),
            Target::Stream(_) | Target::Standard => Ok(()),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what is written can be taken back.
    pub fn is_file(&self) -> bool {
        matches!(self.target, Target::File(_))
    }
}
