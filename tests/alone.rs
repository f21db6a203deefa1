//! What one process of several meets alone ends all of them with its cause.

#![cfg(unix)]

mod common;

use common::*;
use std::net::TcpListener;
use std::process::Output;
use std::time::{Duration, Instant};

const FIT: &str =
    "fit --data d.parquet --target y --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-5 --workers 2";

/// Two places with the same data and their own further files.
fn places() -> [Place; 2] {
    let places = [Place::new(), Place::new()];
    for place in &places {
        write(&place.path("d.parquet"), &batch(table(0, 6000)));
    }
    places
}

/// Runs `line` in each place as one of two processes.
fn run(places: &[Place; 2], line: &str) -> [Output; 2] {
    let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let hosts = ports.iter().map(|port| port.local_addr().unwrap().to_string()).collect::<Vec<_>>().join("\n");
    drop(ports);
    let begun = Instant::now();
    let children = [0, 1].map(|index| {
        std::fs::write(places[index].path("hosts"), &hosts).unwrap();
        places[index].command(&format!("{line} --hosts hosts --process {index}")).spawn().unwrap()
    });
    let outputs = children.map(|child| finish(child, line));
    assert!(begun.elapsed() < Duration::from_secs(50), "{line} waited for a process that was gone");
    outputs
}

/// The code of each of two processes of which one or both met the cause: that of the cause, or 6 where another has failed before it joined, which one of them must not say.
fn codes(outputs: &[Output], line: &str, code: i32) {
    let told = outputs.iter().map(|output| text(&output.stderr).contains("failed before it joined"));
    let told: Vec<bool> = told.collect();
    assert!(told.contains(&false), "both processes of {line} were told by the other");
    for (index, (output, told)) in outputs.iter().zip(told).enumerate() {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(if told { 6 } else { code }), "process {index} of {line}\n{error}");
    }
}

/// Both end with the cause, whichever of them met it, and its `code`, or 6 where the other met it before the join.
fn both_fail(places: &[Place; 2], line: &str, code: i32, parts: &[&str]) {
    let outputs = run(places, line);
    codes(&outputs, line, code);
    for (index, output) in outputs.iter().enumerate() {
        let error = text(&output.stderr);
        let at = error.find("error: ").unwrap_or_else(|| panic!("process {index} of {line}\n{error}"));
        for part in parts {
            assert!(error[at..].contains(part), "process {index} of {line}: `{part}` is missing from\n{error}");
        }
        assert!(!places[index].path("m.nys").exists());
    }
}

#[test]
fn centers_that_one_process_cannot_read() {
    for alone in [0, 1] {
        let places = places();
        let line = format!("{FIT} --select file:c.parquet");
        write(&places[1 - alone].path("c.parquet"), &batch(table(9000, 40)));
        // Not there at all: it fails before it joins.
        both_fail(&places, &line, 1, &["c.parquet"]);
        // A row that cannot be used, met when the job runs.
        let mut bad = table(9000, 40);
        bad[0].1 = numbers((0..40).map(|i| if i == 7 { f64::NAN } else { uniform("a", i) }));
        write(&places[alone].path("c.parquet"), &batch(bad));
        both_fail(&places, &line, 1, &["row 7", "file of centers", "'a'"]);
        // Other rows: two processes that use different centers would sum what does not belong together.
        write(&places[alone].path("c.parquet"), &batch(table(9001, 40)));
        both_fail(&places, &line, 1, &["the file of centers differs between process 0 and process 1"]);
    }
}

#[test]
fn a_metric_that_one_process_cannot_use() {
    let places = places();
    let line = format!("{FIT} --centers 40 --metric metric");
    std::fs::write(places[0].path("metric"), "[1, 1, 1]").unwrap();
    both_fail(&places, &line, 1, &["metric"]);
    std::fs::write(places[1].path("metric"), "[1, 1]").unwrap();
    both_fail(&places, &line, 2, &["--metric metric", "2 length scales"]);
    std::fs::write(places[1].path("metric"), "[1, 1, 2]").unwrap();
    both_fail(&places, &line, 1, &["the file of --metric differs between process 0 and process 1"]);
}

#[test]
fn a_model_or_a_spill_folder_that_one_process_lacks() {
    let places = places();
    places[0].json(&format!("{FIT} --centers 40"));
    std::fs::rename(places[0].path("m.nys"), places[0].path("old.nys")).unwrap();
    let own = format!("{FIT} --centers 40");
    both_fail(&places, &format!("{own} --from old.nys"), 1, &["old.nys"]);
    both_fail(&places, "fit --data d.parquet --out m.nys --workers 2 --config-from old.nys", 1, &["old.nys"]);
    // Rows that do not fit in memory are spilled; one of the folders is not there.
    std::fs::create_dir(places[1].path("t")).unwrap();
    let line = "fit --data synth:friedman1?rows=200000&d=60&seed=1 --target y --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-5 \
                --centers 100 --select uniform --memory 130MiB --solver pcg --iterations 8 --temp-dir t --workers 1";
    let outputs = run(&places, line);
    codes(&outputs, line, 2);
    for (index, output) in outputs.iter().enumerate() {
        let error = text(&output.stderr);
        assert!(error.contains("--temp-dir t does not exist"), "process {index}\n{error}");
    }
}

#[test]
fn a_job_of_other_options_is_told_which() {
    let places = places();
    let fit = "fit --data d.parquet --target y --out m.nys --kernel gaussian --ridge 1e-5 --workers 2 --centers 40";
    for (ours, theirs, what) in [
        ("--seed 1", "--seed 2", "another job: --seed, --precision or --max-flops differs"),
        ("--bandwidth 2", "--bandwidth 3", "another job: --kernel, --bandwidth, --ridge or --metric differs"),
        ("--memory 1GiB", "--memory 2GiB", "another job: --memory or --disk-limit differs"),
        ("--seed 1 --iterations 3", "--seed 2", "which differs from this process's in: --solver,"),
    ] {
        // Both in one folder: their options alone differ.
        let lines = [ours, theirs].map(|more| format!("{fit} {more}"));
        for output in places[0].processes(&lines) {
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(6), "{error}");
            assert!(error.contains(what), "{what} is missing from\n{error}");
        }
    }
}

/// Budgets are each process's own.
#[test]
fn a_budget_that_one_process_lacks() {
    let places = places();
    places[0].json(&format!("{FIT} --centers 40"));
    std::fs::copy(places[0].path("m.nys"), places[1].path("m.nys")).unwrap();
    let lines =
        ["", " --memory 61MiB"].map(|memory| format!("evaluate --model m.nys --data d.parquet --workers 1{memory}"));
    let outputs = places[0].processes(&lines);
    codes(&outputs, &lines[1], 4);
    for output in outputs {
        let error = text(&output.stderr);
        assert!(error.contains("--memory allows 61.0 MiB"), "{error}");
    }
}
