//! Helpers of the end-to-end tests: a folder with the built binary, clusters on loopback, small Parquet files.
#![allow(dead_code)] // Each test binary uses its own part.

pub mod changes;
pub mod killed;
pub mod stream;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use nystream_hashing::{RowId, StreamKey};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::Value;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Seconds after which a run counts as hung.
const PATIENCE: u64 = 240;

/// A folder in which the binary runs.
pub struct Place {
    folder: tempfile::TempDir,
    /// Variables that the binary is given.
    pub variables: Vec<(String, String)>,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// An empty folder.
    pub fn new() -> Self {
        Place { folder: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    /// The path of `name` in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The binary with the words of `line`, without the variables of whoever runs the tests.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nystream"));
        for (name, _) in std::env::vars_os() {
            let prefixes = ["NYSTREAM_", "AWS_", "GOOGLE_", "AZURE_"];
            if prefixes.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(line.split_whitespace()).current_dir(self.folder.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `line` to its end.
    pub fn run(&self, line: &str) -> Output {
        finish(self.command(line).spawn().unwrap(), line)
    }

    /// Runs `line` with `--format json`, which must succeed, and gives its result.
    pub fn json(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} --format json"));
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{line}\n{error}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{line}: {e}: {}", text(&output.stdout)))
    }

    /// As [`Place::json`], for a solve that may end at its iteration limit: then the exit code is 3 and the report says so.
    pub fn solved(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} --format json"));
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 3)), "{line}: {code:?}\n{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["stopped"].is_string(), code == Some(3), "{line}: {report}");
        report
    }

    /// Runs `line`, which must fail with `code` and one message that holds every part; nothing may be left behind.
    pub fn fails(&self, line: &str, code: i32, parts: &[&str]) {
        let before = self.names();
        let output = self.run(line);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}\n{error}");
        assert!(output.stdout.is_empty(), "{line}: stdout holds {}", text(&output.stdout));
        assert!(!error.contains("panicked") && !error.contains("bug in nystream"), "{line}\n{error}");
        assert_eq!(error.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{line}\n{error}");
        let at = error.find("error: ").unwrap();
        for part in parts {
            assert!(error[at..].contains(part), "{line}: `{part}` is missing from\n{error}");
        }
        assert_eq!(self.names(), before, "{line}: files were left");
    }

    /// Everything in the folder, hidden files included, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Runs `line` as `processes` processes on loopback; all must succeed (a solve may end at its iteration limit), and only the first may print. Gives its result.
    pub fn cluster(&self, line: &str, processes: usize) -> Value {
        let outputs = self.processes(&vec![line.to_owned(); processes]);
        for (index, output) in outputs.iter().enumerate() {
            let code = output.status.code();
            assert!(matches!(code, Some(0 | 3)), "process {index} of {line}: {code:?}\n{}", text(&output.stderr));
            assert!(index == 0 || output.stdout.is_empty(), "process {index} of {line} printed");
        }
        serde_json::from_slice(&outputs[0].stdout).unwrap()
    }

    /// Runs one line for each process of a job on loopback, to their ends.
    pub fn processes(&self, lines: &[String]) -> Vec<Output> {
        // All are bound at once, so that they differ.
        let ports: Vec<TcpListener> = lines.iter().map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<String> = ports.iter().map(|p| p.local_addr().unwrap().to_string()).collect();
        drop(ports);
        let name = format!("hosts.{}", addresses[0].replace(':', "."));
        std::fs::write(self.path(&name), addresses.join("\n")).unwrap();
        let start = |(index, line): (usize, &String)| {
            let line = format!("{line} --format json --hosts {name} --process {index}");
            (self.command(&line).spawn().unwrap(), line)
        };
        let children: Vec<(Child, String)> = lines.iter().enumerate().map(start).collect();
        children.into_iter().map(|(child, line)| finish(child, &line)).collect()
    }
}

/// Waits for `child`, which is ended when it hangs.
pub fn finish(child: Child, line: &str) -> Output {
    let id = child.id();
    let (send, done) = channel();
    std::thread::spawn(move || send.send(child.wait_with_output()));
    match done.recv_timeout(Duration::from_secs(PATIENCE)) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
            panic!("{line} did not end within {PATIENCE} s");
        }
    }
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The digest in a report.
pub fn digest(report: &Value) -> String {
    let digest = report["model_digest"].as_str().unwrap_or_else(|| panic!("no digest in {report}"));
    assert!(digest.len() >= 32, "{digest}");
    digest.to_owned()
}

/// A number in a report.
pub fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} is no number in {report}"))
}

/// A uniform number for (stream, i).
pub fn uniform(stream: &str, i: usize) -> f64 {
    StreamKey::new(11, stream, 0).uniform(RowId(i as u128))
}

/// Writes a Parquet file with row groups of `group` rows.
pub fn write_grouped(path: &Path, batch: &RecordBatch, group: usize) {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// Writes a Parquet file.
pub fn write(path: &Path, batch: &RecordBatch) {
    write_grouped(path, batch, 5000);
}

/// A batch of nullable columns.
pub fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// A column of numbers.
pub fn numbers(values: impl IntoIterator<Item = f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(values))
}

/// A column of text.
pub fn texts(values: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// Numbers a, b, text c and a target y that follows from them, for rows `from..from + rows`.
pub fn table(from: usize, rows: usize) -> Vec<(&'static str, ArrayRef)> {
    let all = || from..from + rows;
    let y = |i: usize| (6.0 * uniform("a", i)).sin() + uniform("b", i) + (uniform("c", i) * 5.0).floor() / 5.0;
    vec![
        ("a", numbers(all().map(|i| uniform("a", i)))),
        ("b", numbers(all().map(|i| uniform("b", i)))),
        ("c", texts(all().map(|i| format!("level {}", (uniform("c", i) * 5.0) as u32)))),
        ("y", numbers(all().map(y))),
    ]
}

/// The folder of the development data, or a line that says it is not there: past the harness, which shows nothing that passing tests print.
pub fn shared_data() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data");
    let root = PathBuf::from(std::env::var("NYSTREAM_SHARED_DATA").unwrap_or_else(|_| beside.into()));
    if !root.is_dir() {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: no development data at {} (set NYSTREAM_SHARED_DATA)",
            root.display()
        );
        return None;
    }
    Some(root)
}

/// Whether the long tests were asked for, or a line that says they were not.
pub fn long_tests() -> bool {
    let asked = std::env::var("NYSTREAM_LONG_TESTS").is_ok_and(|v| v == "1");
    if !asked {
        let _ = writeln!(std::io::stderr(), "skipped: a long test (set NYSTREAM_LONG_TESTS=1)");
    }
    asked
}
