//! Centers by `nystream dictionary`, by `--select file:` and by `--select rpcholesky:full`, through the built binary.

use nystream::model::Model;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const DATA: &str = "synth:mixtures?rows=9000&d=4&seed=5";
const KERNEL: &str = "--target y --kernel gaussian --bandwidth 1.5 --ridge 1e-6";

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

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} in {report}"))
}

/// What `dictionary` writes is what `fit` would have chosen: the two models differ in the name of the selection and in nothing else.
#[test]
fn a_file_of_centers_gives_the_model_of_the_fit_that_chose_them() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    for select in ["rpcholesky", "squeak"] {
        let choose = format!("--data {DATA} {KERNEL} --centers 80 --select {select}");
        let chosen = report(folder, &format!("dictionary {choose} --workers 2 --out centers.parquet --report r.json"));
        assert_eq!((number(&chosen, "/rows"), number(&chosen, "/centers")), (9000.0, 80.0));
        assert_eq!(chosen["select"], select);
        assert!(number(&chosen, "/certificate/trace_error") < 0.5 && number(&chosen, "/rows_scored") >= 320.0);
        assert!(folder.join("r.json").exists());

        let own = report(folder, &format!("fit {choose} --split none --workers 1 --out own.nys"));
        let given = report(
            folder,
            &format!(
                "fit --data {DATA} {KERNEL} --split none --select file:centers.parquet --workers 2 --out given.nys"
            ),
        );
        assert_eq!((number(&own, "/centers"), number(&given, "/centers")), (80.0, 80.0));
        let own = Model::load(&folder.join("own.nys")).unwrap();
        let mut given = Model::load(&folder.join("given.nys")).unwrap();
        // The name may end in the law of the pivots, which the sample tells.
        let name = own.config.selection.method.split(':').next();
        assert_eq!((name, given.config.selection.method.as_str()), (Some(select), "file"));
        given.config.selection = own.config.selection.clone();
        assert_eq!(own.centers, given.centers);
        assert_eq!(own.digest().unwrap(), given.digest().unwrap(), "{select}");
    }
}

#[test]
fn a_dictionary_needs_a_target_and_leaves_nothing_when_it_fails() {
    let place = tempfile::tempdir().unwrap();
    let output = run(place.path(), &format!("dictionary --data {DATA} --out c.parquet"));
    assert_eq!(output.status.code(), Some(2));
    let output = run(place.path(), &format!("dictionary --data {DATA} --target absent --out c.parquet"));
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn full_pivoting_sees_every_row_and_no_worker() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let fit = format!("fit --data {DATA} {KERNEL} --out m.nys --centers 60");
    let full: Vec<Value> =
        (1..=3).map(|workers| report(folder, &format!("{fit} --select rpcholesky:full --workers {workers}"))).collect();
    for other in &full[1..] {
        assert_eq!(full[0]["model_digest"], other["model_digest"]);
    }
    // All training rows took part, in several passes.
    assert_eq!(number(&full[0], "/dictionary/rows_scored"), number(&full[0], "/rows"));
    assert!(number(&full[0], "/passes") > 6.0);
    let uniform = report(folder, &format!("{fit} --select uniform"));
    let pool = report(folder, &format!("{fit} --select rpcholesky"));
    let trace = |report: &Value| number(report, "/certificate/trace_error");
    assert!(trace(&full[0]) < 0.8 * trace(&uniform), "{} and {}", trace(&full[0]), trace(&uniform));
    // The same law on a sample of the rows: about the same quality.
    assert!(trace(&full[0]) < 1.15 * trace(&pool), "{} and {}", trace(&full[0]), trace(&pool));
    let output = run(folder, &format!("{fit} --select rpcholesky:full --max-flops 1e8"));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{error}");
    assert!(error.contains("rpcholesky:full") && error.contains("--max-flops"), "{error}");
}

/// Rows that span less than asked for end the pivoting, with fewer centers.
#[test]
fn full_pivoting_ends_when_the_rows_are_spanned() {
    let place = tempfile::tempdir().unwrap();
    // A linear kernel on 4 columns and a constant has rank 5 whatever the rows.
    let line = format!(
        "fit --data {DATA} --target y --out m.nys --kernel polynomial:1:1 --bandwidth 1 --ridge 1e-6 --centers 40 \
         --select rpcholesky:full --solver pcg --workers 2"
    );
    let report = report(place.path(), &line);
    let numeric = number(&report, "/features_encoded");
    let centers = number(&report, "/centers");
    assert!(centers > numeric && centers <= numeric + 2.0, "{centers} of {numeric} columns");
}
