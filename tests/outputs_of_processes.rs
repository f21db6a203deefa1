//! Of several processes one writes and prints: the others leave nothing behind, however they end.

mod common;

use common::*;
use std::time::{Duration, Instant};

const LINE: &str =
    "fit --data synth:sines?rows=3000&d=2&seed=1 --target y --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 20";

#[test]
fn only_the_first_process_prints_a_plan() {
    let place = Place::new();
    for flags in ["--dry-run", "--explain --report plan.json"] {
        let plan = place.cluster(&format!("{LINE} {flags}"), 2);
        assert_eq!(number(&plan, "/centers"), 20.0);
    }
    assert!(place.names().contains(&"plan.json".to_owned()));
}

/// A process that is not the first waits for a first one that never comes, and is killed: no output was begun.
#[test]
fn other_processes_begin_no_outputs() {
    let place = Place::new();
    std::fs::write(place.path("hosts"), "127.0.0.1:1\n127.0.0.1:2\n").unwrap();
    let line = format!("{LINE} --out m.nys --report r.json --hosts hosts --process 1");
    let mut child = place.command(&line).spawn().unwrap();
    let begun = Instant::now();
    // Outputs are begun before the processes meet.
    while begun.elapsed() < Duration::from_millis(1500) && child.try_wait().unwrap().is_none() {
        assert_eq!(place.names(), ["hosts"]);
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(place.names(), ["hosts"]);
}

const PREDICT: &str = "predict --model m.nys --data synth:sines?rows=3000&d=2&seed=2 --out parts";

fn fitted() -> Place {
    let place = Place::new();
    place.json(&format!("{LINE} --split none --out m.nys"));
    place
}

/// What one process cannot do ends all of them, with its reason.
#[test]
fn a_part_that_cannot_be_written_is_told_to_all() {
    let place = fitted();
    std::fs::create_dir_all(place.path("parts/part-00001.parquet")).unwrap();
    for output in place.processes(&[PREDICT.to_owned(), PREDICT.to_owned()]) {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("part-00001.parquet") && !error.contains("was lost"), "{error}");
    }
    assert_eq!(std::fs::read_dir(place.path("parts")).unwrap().count(), 1);
}

/// Processes that are told to write other columns do not meet.
#[test]
fn processes_predict_alike_or_not_at_all() {
    let place = fitted();
    for output in place.processes(&[PREDICT.to_owned(), format!("{PREDICT} --keep x0")]) {
        assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    }
    assert!(!place.path("parts").exists());
}

/// A column that is not there is no reason to wait for ever.
#[test]
fn failures_before_the_pass_end_all_processes() {
    let place = fitted();
    let line = format!("{PREDICT} --keep zzz");
    for output in place.processes(&[line.clone(), line]) {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("zzz"), "{error}");
    }
}

/// Parts of an earlier run with more processes would be read together with the new ones.
#[test]
fn parts_of_more_processes_are_not_mixed_in() {
    let place = fitted();
    assert_eq!(number(&place.cluster(PREDICT, 3), "/rows"), 3000.0);
    for output in place.processes(&[PREDICT.to_owned(), PREDICT.to_owned()]) {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("part-00002.parquet"), "{error}");
    }
    assert_eq!(number(&place.cluster(PREDICT, 3), "/rows"), 3000.0);
}
