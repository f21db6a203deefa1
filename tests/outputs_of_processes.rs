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
