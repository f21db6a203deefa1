//! Of several processes one writes and prints: the others leave nothing behind, however they end.

mod common;

use common::*;
use nystream_kernels::tile::SimdPath;
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
    let mut cases = vec![("--keep x0", "--keep")];
    // On a machine that has no other path the two are alike.
    cases.extend((SimdPath::detect() != SimdPath::Portable).then_some(("--simd portable", "--simd")));
    for (other, named) in cases {
        for output in place.processes(&[PREDICT.to_owned(), format!("{PREDICT} {other}")]) {
            let error = text(&output.stderr);
            assert!(output.status.code() == Some(6) && error.contains(named), "{error}");
        }
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

/// All parts or none: the whole ones wait for the last.
#[cfg(unix)]
#[test]
fn parts_appear_together() {
    let place = fitted();
    let ports: Vec<_> = (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let lines: Vec<String> = ports.iter().map(|port| port.local_addr().unwrap().to_string()).collect();
    drop(ports);
    std::fs::write(place.path("hosts"), lines.join("\n")).unwrap();
    let line = |process| format!("{PREDICT} --workers 1 --hosts hosts --process {process}");
    let whole = place.command(&line(0)).spawn().unwrap();
    // The second may not write a file of more than a block, which shows when its part is finished.
    let command = place.command(&line(1));
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -f 1; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    limited.current_dir(place.path("")).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    for output in [whole, limited.spawn().unwrap()].map(|child| finish(child, PREDICT)) {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("part-00001.parquet") && !error.contains("was lost"), "{error}");
    }
    assert!(!place.path("parts").exists(), "{:?}", place.names());
}

/// Where the first process cannot save, no other takes the fit for done.
#[cfg(target_os = "linux")]
#[test]
fn a_model_that_cannot_be_saved_ends_all_processes() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, 3000)));
    place
        .json("fit --data d.parquet --target y --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 20 --out m.nys");
    let fit = "fit --data d.parquet --target y --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 20";
    for line in [
        format!("{fit} --out /dev/full"),
        format!("{fit} --out n.nys --report /dev/full"),
        "evaluate --model m.nys --data d.parquet --report /dev/full".to_owned(),
    ] {
        for output in place.processes(&vec![line.clone(); 2]) {
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{line}: {error}");
            assert!(error.contains("/dev/full") && !error.contains("was lost"), "{line}: {error}");
            assert!(output.stdout.is_empty());
        }
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
