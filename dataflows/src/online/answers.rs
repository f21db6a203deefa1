//! Answers on their way out: lines of JSON, an Arrow IPC stream, or parts in Parquet.
//!
//! * `jsonl:` and `ipc:` files hold each answer once ([`LineFile`]): a restart goes on where the snapshot says that the file was. Where batches of a stream end is no property of the answers: a restart may cut them otherwise.
//! * `parquet:FOLDER` gets a part for each snapshot, named by the `seq` of its first answer, which appears whole and before the snapshot: one that a crash has left without its snapshot is written anew under its name. Answers
//!   are held until then, as many as changes between two snapshots.

use super::session::Output;
use super::sink::{LineFile, Shape};
use crate::error::StageError;
use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use nystream_datasets::DataError;
use nystream_datasets::atomic::OutputError;
use nystream_datasets::sink::PredictionWriter;
use nystream_datasets::stream::ipc::message_of;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Ends an Arrow IPC stream.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// How answers are written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines of JSON in a file; `-` is standard output.
    Lines(String),
    /// An Arrow IPC stream in a file; `-` is standard output.
    Ipc(String),
    /// Parquet files in a folder.
    Parquet(PathBuf),
}

/// Where answers go.
pub struct Answers {
    name: String,
    shape: Shape,
    target: Target,
}

enum Target {
    Lines(LineFile),
    Ipc(LineFile),
    Parquet { folder: PathBuf, held: Vec<Output>, rows: u64 },
}

fn refused_folder(folder: &Path, reason: &str) -> StageError {
    StageError::Data(format!("--output parquet:{}: {reason}", folder.display()))
}

/// Refuses a folder with something in it that the state has not written.
fn own_folder(folder: &Path, bytes: Option<u64>) -> Result<(), StageError> {
    let mut entries = std::fs::read_dir(folder).map_err(|error| refused_folder(folder, &error.to_string()))?;
    if bytes.is_none() && entries.next().is_some() {
        let reason = "it has something in it that this state did not write: name an empty folder";
        return Err(refused_folder(folder, reason));
    }
    Ok(())
}

impl Answers {
    /// Opens what the user calls `name` to go on after `bytes`; `None` begins anew.
    ///
    /// # Errors
    /// [`StageError::Data`] for what cannot be written, or is not as it was left.
    pub fn open(name: &str, form: &Form, shape: Shape, bytes: Option<u64>) -> Result<Self, StageError> {
        let target = match form {
            Form::Lines(path) => Target::Lines(LineFile::open(path, bytes, "--output jsonl:")?),
            Form::Ipc(path) => Target::Ipc(LineFile::open(path, bytes, "--output ipc:")?),
            Form::Parquet(folder) => {
                std::fs::create_dir_all(folder).map_err(|error| refused_folder(folder, &error.to_string()))?;
                own_folder(folder, bytes)?;
                Target::Parquet { folder: folder.clone(), held: Vec::new(), rows: bytes.unwrap_or(0) }
            }
        };
        Ok(Answers { name: name.into(), shape, target })
    }

    /// What [`Answers::open`] would refuse, found without opening anything for good: what is not there is not there afterwards.
    ///
    /// # Errors
    /// As there.
    pub fn check(form: &Form, bytes: Option<u64>) -> Result<(), StageError> {
        match form {
            Form::Lines(path) => LineFile::check(path, bytes, "--output jsonl:"),
            Form::Ipc(path) => LineFile::check(path, bytes, "--output ipc:"),
            Form::Parquet(folder) if folder.exists() => own_folder(folder, bytes),
            Form::Parquet(_) => Ok(()),
        }
    }

    /// What the user calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds answers.
    ///
    /// # Errors
    /// [`StageError::Internal`] for ones that Arrow cannot hold.
    pub fn push(&mut self, outputs: Vec<Output>) -> Result<(), StageError> {
        match &mut self.target {
            Target::Lines(file) => outputs.iter().for_each(|output| file.push(&self.shape.json(output))),
            Target::Ipc(file) if !outputs.is_empty() => {
                let (head, message) = message_of(&self.shape.table(&outputs)?).map_err(StageError::Internal)?;
                if file.bytes() == 0 {
                    file.push_bytes(&head);
                }
                file.push_bytes(&message);
            }
            Target::Ipc(_) => {}
            Target::Parquet { held, .. } => held.extend(outputs),
        }
        Ok(())
    }

    /// Writes what was added, where that needs no snapshot.
    ///
    /// # Errors
    /// The system's; what is not written stays added.
    pub fn write(&mut self) -> io::Result<()> {
        match &mut self.target {
            Target::Lines(file) | Target::Ipc(file) => file.write(),
            Target::Parquet { .. } => Ok(()),
        }
    }

    /// Makes everything durable for a snapshot, and says what it is to remember.
    ///
    /// # Errors
    /// The system's, with the path.
    pub fn settle(&mut self) -> Result<u64, (PathBuf, io::Error)> {
        match &mut self.target {
            Target::Lines(file) | Target::Ipc(file) => {
                file.sync().map_err(|error| (file.path().to_path_buf(), error))?;
                Ok(file.bytes())
            }
            Target::Parquet { folder, held, rows } => {
                if let Some(first) = held.first().map(|output| output.seq) {
                    let path = folder.join(format!("part-{first:020}.parquet"));
                    let written = self
                        .shape
                        .table(held)
                        .map_err(|error| io::Error::other(error.to_string()))
                        .and_then(|table| part(&path, &table));
                    written.map_err(|error| (path, error))?;
                    *rows += held.len() as u64;
                    held.clear();
                    held.shrink_to(1 << 16);
                }
                Ok(*rows)
            }
        }
    }

    /// Ends a file where what was written ends: after a replay.
    ///
    /// # Errors
    /// The system's.
    pub fn cut(&mut self) -> io::Result<()> {
        match &mut self.target {
            Target::Lines(file) | Target::Ipc(file) => file.cut(),
            Target::Parquet { .. } => Ok(()),
        }
    }

    /// The run ends: a stream gets its end, which the next run takes away again. One without answers is a stream of none, whose columns are those that there would be.
    ///
    /// # Errors
    /// The system's.
    pub fn end(&mut self) -> io::Result<()> {
        match &mut self.target {
            Target::Ipc(file) => {
                if file.bytes() == 0 {
                    let none = self.shape.table(&[]).map_err(io::Error::other)?;
                    file.push_bytes(&message_of(&none).map_err(io::Error::other)?.0);
                }
                file.push_bytes(&END);
                file.write()
            }
            Target::Lines(_) | Target::Parquet { .. } => Ok(()),
        }
    }

    /// Where they go, for messages.
    pub fn path(&self) -> &Path {
        match &self.target {
            Target::Lines(file) | Target::Ipc(file) => file.path(),
            Target::Parquet { folder, .. } => folder,
        }
    }
}

fn part(path: &Path, table: &RecordBatch) -> io::Result<()> {
    let mut writer = PredictionWriter::create(path).map_err(reason)?;
    writer.write(table).map_err(reason)?;
    writer.finish().map(drop).map_err(reason)
}

/// The system's reason keeps its kind: a full disk is waited for.
fn reason(error: DataError) -> io::Error {
    let kind = match &error {
        DataError::Output(OutputError::Create { source, .. } | OutputError::Write { source, .. }) => source.kind(),
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl Shape {
    /// Answers as a table: `seq`, `key`, `prediction` (`prediction_T` for several targets; the label of classes), `variance` or `variance_T`, null where there is none, and `score_C` or `probability_C` of each class.
    ///
    /// # Errors
    /// [`StageError::Internal`] for what Arrow refuses.
    pub fn table(&self, outputs: &[Output]) -> Result<RecordBatch, StageError> {
        let (code, logistic) = self.parts();
        let mut columns: Vec<(String, ArrayRef)> = vec![
            ("seq".into(), Arc::new(UInt64Array::from_iter_values(outputs.iter().map(|output| output.seq)))),
            ("key".into(), Arc::new(StringArray::from_iter_values(outputs.iter().map(|output| output.key.as_str())))),
        ];
        let values = |k: usize| -> ArrayRef {
            Arc::new(outputs.iter().map(|output| output.prediction.values.get(k).copied()).collect::<Float64Array>())
        };
        let named = |stem: &str, k: usize| match code.names.as_slice() {
            [_] => stem.to_owned(),
            names => format!("{stem}_{}", names[k]),
        };
        if code.is_classification() {
            let labels = outputs.iter().map(|output| self.label(&output.prediction.values));
            columns.push(("prediction".into(), Arc::new(labels.collect::<StringArray>())));
            let stem = if logistic { "probability" } else { "score" };
            columns.extend(code.classes.iter().enumerate().map(|(k, class)| (format!("{stem}_{class}"), values(k))));
        } else {
            columns.extend((0..code.width()).map(|k| (named("prediction", k), values(k))));
            columns.extend((0..code.width()).map(|k| {
                let variance =
                    |output: &Output| output.prediction.variances.as_ref().and_then(|all| all.get(k).copied());
                let column: ArrayRef = Arc::new(outputs.iter().map(variance).collect::<Float64Array>());
                (named("variance", k), column)
            }));
        }
        RecordBatch::try_from_iter_with_nullable(
            columns.iter().map(|(name, array)| (name.as_str(), array.clone(), true)),
        )
        .map_err(|error| StageError::Internal(format!("answers cannot be written: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::online::learner::Prediction;
    use crate::predict::Function;
    use crate::targets::TargetCode;
    use nystream_datasets::stream::ipc::batches;
    use nystream_kernels::gram::Precision;
    use nystream_kernels::kernel::{Family, Kernel};
    use nystream_kernels::rows::RowBuf;
    use nystream_kernels::tile::SimdPath;

    fn shape() -> Shape {
        let code = TargetCode { names: vec!["y".into()], classes: vec![], centres: vec![0.0], exponents: vec![0] };
        Shape::new(&Function {
            kernel: Kernel::new(Family::Gaussian, 1.0),
            centers: RowBuf::new(1, 0),
            coefficients: vec![],
            code,
            loss: crate::job::Loss::Squared,
            precision: Precision::Single,
            simd: SimdPath::detect(),
            variance: None,
        })
    }

    fn output(seq: u64) -> Output {
        let prediction = Prediction { values: vec![seq as f64], variances: None };
        Output { seq, key: format!("k{seq}"), prediction }
    }

    /// A stream is whole at the end of each run, be there answers or not, and each run goes on in it.
    #[test]
    fn streams_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.arrows");
        let form = Form::Ipc(path.display().to_string());
        let (mut bytes, mut rows) = (None, 0);
        for answers in [0, 0, 3, 0, 2] {
            let mut sink = Answers::open("ipc", &form, shape(), bytes).unwrap();
            sink.cut().unwrap();
            sink.push((rows..rows + answers).map(output).collect()).unwrap();
            sink.write().unwrap();
            bytes = Some(sink.settle().unwrap());
            sink.end().unwrap();
            rows += answers;
            let stream = std::fs::read(&path).unwrap();
            let found: usize = batches(&stream).unwrap().iter().map(RecordBatch::num_rows).sum();
            assert_eq!(found as u64, rows);
            // Columns and an end, if nothing else.
            let (head, _) = message_of(&shape().table(&[]).unwrap()).unwrap();
            assert!(stream.starts_with(&head) && stream.ends_with(&END) && stream.len() >= head.len() + END.len());
        }
        assert_eq!(bytes, Some(std::fs::metadata(&path).unwrap().len() - END.len() as u64));
    }

    /// A part that finds no room says so by its kind, and its answers stay for the next attempt.
    #[cfg(target_os = "linux")]
    #[test]
    fn parts_keep_the_kind_of_what_went_wrong() {
        let table = shape().table(&[output(0)]).unwrap();
        let full = part(Path::new("/dev/full"), &table).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
        let folder = tempfile::tempdir().unwrap();
        let form = Form::Parquet(folder.path().join("parts"));
        let mut sink = Answers::open("parquet", &form, shape(), None).unwrap();
        sink.push(vec![output(0)]).unwrap();
        std::fs::remove_dir(folder.path().join("parts")).unwrap();
        assert!(sink.settle().is_err());
        std::fs::create_dir(folder.path().join("parts")).unwrap();
        assert_eq!(sink.settle().unwrap(), 1);
        assert!(folder.path().join("parts").join(format!("part-{:020}.parquet", 0)).exists());
    }
}
