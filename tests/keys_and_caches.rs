//! Repeated row keys are found whatever the memory; where encoded rows are kept changes no bit.

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use nystream_datasets::sink::PredictionWriter;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

fn run(folder: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nystream"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NYSTREAM_") {
            command.env_remove(name);
        }
    }
    command.args(line.split_whitespace()).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

fn report(folder: &Path, line: &str) -> Value {
    let output = run(folder, &format!("{line} --format json"));
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A file with the given keys.
fn write(path: &Path, keys: Vec<Option<i64>>) {
    let x: Vec<f64> = (0..keys.len()).map(|i| (i as f64 * 0.37).sin()).collect();
    let y: Vec<f64> = x.iter().map(|v| v * v).collect();
    let batch = RecordBatch::try_from_iter([
        ("key", Arc::new(Int64Array::from(keys)) as ArrayRef),
        ("x", Arc::new(Float64Array::from(x)) as ArrayRef),
        ("y", Arc::new(Float64Array::from(y)) as ArrayRef),
    ])
    .unwrap();
    let mut writer = PredictionWriter::create(path).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
}

#[test]
fn a_repeated_key_is_named_whatever_the_workers_and_files() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    std::fs::create_dir(folder.join("data")).unwrap();
    let fit = "fit --data data --target y --id-column key --out m.nys --centers 20 --bandwidth 1 --ridge 1e-4";
    let keys = |from: i64, to: i64| (from..to).map(Some).collect::<Vec<_>>();
    write(&folder.join("data/a.parquet"), keys(0, 6000));
    write(&folder.join("data/b.parquet"), keys(6000, 9000));
    let good = report(folder, &format!("{fit} --workers 2"));
    assert_eq!(good["rows"].as_u64().unwrap() + good.pointer("/validation/rows").unwrap().as_u64().unwrap(), 9000);

    // Key 41 once more, in the other file.
    let mut second = keys(6000, 9000);
    second[2500] = Some(41);
    write(&folder.join("data/b.parquet"), second);
    std::fs::remove_file(folder.join("m.nys")).unwrap();
    for workers in 1..=3 {
        let output = run(folder, &format!("{fit} --workers {workers}"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        for part in ["--id-column 'key'", "'41' in row 41 of", "a.parquet", "'41' in row 2500 of", "b.parquet"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!folder.join("m.nys").exists());
    }
}

/// Of several repeated keys the same one is named, in one pass over the keys and in several.
#[test]
fn little_memory_takes_more_passes_to_the_same_answer() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    // A quarter of 105 MiB holds 286,000 keys: three ranges.
    let mut keys: Vec<Option<i64>> = (0..600_000).map(Some).collect();
    for i in 0..20usize {
        keys[599_000 + 7 * i] = Some(i as i64 * 1000);
    }
    write(&folder.join("data.parquet"), keys);
    let fit = "fit --data data.parquet --target y --id-column key --out m.nys --centers 20 --bandwidth 1 --ridge 1e-4";
    let messages =
        ["--memory 1GiB --workers 1", "--memory 105MiB --workers 1", "--memory 105MiB --workers 3"].map(|more| {
            let output = run(folder, &format!("{fit} {more}"));
            assert_eq!(output.status.code(), Some(1));
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            error.lines().find(|line| line.contains("does not identify rows")).expect(&error).to_owned()
        });
    assert!(messages.iter().all(|message| *message == messages[0]), "{messages:?}");
}

#[test]
fn memory_disk_and_decoding_again_give_the_same_model() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let temp = folder.join("spill");
    std::fs::create_dir(&temp).unwrap();
    // 405,000 training rows of 96 bytes: 39 MB, more than a third of 105 MiB.
    let fit = "fit --data synth:friedman1?rows=450000&d=10&seed=2 --target y --out m.nys --solver pcg --centers 30 --select uniform \
               --bandwidth 3 --ridge 1e-4 --workers 2 --tolerance 1e-3 --temp-dir spill";
    let note = |report: &Value| report["notes"].to_string();
    let memory = report(folder, &format!("{fit} --memory 1GiB"));
    assert!(!note(&memory).contains("encoded rows"), "{memory}");
    let disk = report(folder, &format!("{fit} --memory 105MiB"));
    assert!(note(&disk).contains("kept on disk"), "{disk}");
    // Reading the cache is counted; a synthetic source reads no bytes.
    assert!(disk["bytes_read"].as_u64().unwrap() > 38_000_000 && memory["bytes_read"] == 0, "{disk}");
    let again = report(folder, &format!("{fit} --memory 105MiB --disk-limit 1MiB"));
    assert!(note(&again).contains("decoded again") && again["bytes_read"] == 0, "{again}");
    assert_eq!(memory["model_digest"], disk["model_digest"]);
    assert_eq!(memory["model_digest"], again["model_digest"]);
    assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 0);

    // A folder that is not there, whether it is needed or not.
    for memory in ["105MiB", "1GiB"] {
        let output =
            run(folder, &format!("{} --memory {memory}", fit.replace("--temp-dir spill", "--temp-dir absent")));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("--temp-dir absent does not exist"), "{error}");
    }
}
