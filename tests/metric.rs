//! `--metric` from the command line to the fitted function, by identities between runs of the built binary.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const DATA: &str = "synth:friedman1?rows=3000&d=5&seed=3";

fn run(folder: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nystream"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NYSTREAM_") {
            command.env_remove(name);
        }
    }
    command.args(line.split_whitespace()).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

/// Held-out RMSE of a fit with fixed centers, kernel and ridge; `more` adds options.
fn rmse(folder: &Path, more: &str) -> f64 {
    let line = format!(
        "fit --data {DATA} --target y --out m.nys --workers 2 --centers 100 --select uniform --solver gram \
         --precision f64 --ridge 1e-5 --format json {more}"
    );
    let output = run(folder, &line);
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report.pointer("/validation/rmse").and_then(Value::as_f64).unwrap()
}

fn close(a: f64, b: f64, tolerance: f64) {
    assert!((a - b).abs() <= tolerance * b.abs(), "{a} and {b}");
}

#[test]
fn metrics_are_what_they_say() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let file = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let plain = rmse(folder, "--bandwidth 2");

    // The identity, in each form, changes nothing.
    file("identity", "[[1,0,0,0,0],[0,1,0,0,0],[0,0,1,0,0],[0,0,0,1,0],[0,0,0,0,1]]");
    close(rmse(folder, "--bandwidth 2 --metric identity"), plain, 1e-6);
    file("ones", "[1,1,1,1,1]");
    close(rmse(folder, "--bandwidth 2 --metric ones"), plain, 1e-6);

    // The same length for all columns is a bandwidth.
    file("halves", "[0.5,0.5,0.5,0.5,0.5]");
    close(rmse(folder, "--bandwidth 4 --metric halves"), plain, 1e-6);
    // The median distance is measured after the metric.
    close(rmse(folder, "--bandwidth 1x --metric halves"), rmse(folder, "--bandwidth 1x"), 1e-6);

    // A length of one column, by name and as a matrix, is that column divided by it.
    file("named", r#"{"x3": 4}"#);
    file("matrix", "[[1,0,0,0,0],[0,1,0,0,0],[0,0,1,0,0],[0,0,0,0.25,0],[0,0,0,0,1]]");
    let named = rmse(folder, "--bandwidth 2 --metric named");
    close(named, rmse(folder, "--bandwidth 2 --metric matrix"), 1e-6);
    // x3 carries the linear term of the target: its length matters.
    assert!((named - plain).abs() > 1e-3 * plain, "{named} and {plain}");

    // A column too long to matter is a column left out (the centers are the same rows).
    file("long", r#"{"x3": 1e6}"#);
    let dropped = rmse(folder, "--bandwidth 2 --drop x3");
    close(rmse(folder, "--bandwidth 2 --metric long"), dropped, 1e-4);
    assert!(dropped > 1.2 * plain, "{dropped} and {plain}");

    // Tuning sees the metric too: the same bandwidth in other units.
    let tuned = rmse(folder, "--bandwidth auto");
    close(rmse(folder, "--bandwidth auto --metric halves"), tuned, 1e-6);
}

#[test]
fn metrics_that_do_not_fit_the_columns_are_usage_errors() {
    let place = tempfile::tempdir().unwrap();
    for (text, word) in [("[1, 2]", "2 length scales"), (r#"{"x9": 1}"#, "`x9`"), (r#"{"x1": -1}"#, "`x1`")] {
        std::fs::write(place.path().join("metric"), text).unwrap();
        let output = run(place.path(), &format!("fit --data {DATA} --target y --out m.nys --metric metric"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(word) && error.contains("--metric"), "{text}: {error}");
        assert!(!place.path().join("m.nys").exists());
    }
}
