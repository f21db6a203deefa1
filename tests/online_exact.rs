//! `nystream online --mode exact`: the published model is that of `fit --config-from` on the rows that are left, whatever came between, restarts too.

mod common;

use common::changes::*;
use common::*;
use serde_json::Value;
use std::collections::BTreeMap;

const MODEL: &str = "--target y --drop key --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 40 --select rpcholesky --solver gram --split hash:0.1";
const BEGIN: &str = "online --mode exact --config-from m.nys --state s --input";

fn begun() -> Place {
    let place = Place::new();
    write(&place.path("d.parquet"), &rows(&(0..1500).map(|i| (i, 1)).collect::<Vec<_>>()));
    place.json(&format!("fit --data d.parquet --out m.nys {MODEL}"));
    place
}

/// The fit of the rows that are left.
fn fitted(place: &Place, held: &BTreeMap<usize, usize>) -> Value {
    write(&place.path("left.parquet"), &rows(&left(held)));
    place.solved("fit --data left.parquet --config-from m.nys --id-column key --out again.nys")
}

fn online(place: &Place, line: &str) -> Value {
    let output = place.run(&format!("{line} --format json"));
    assert_eq!(output.status.code(), Some(0), "{line}\n{}", text(&output.stderr));
    let last = text(&output.stdout);
    // Summaries of runs are one line behind the answers; reports on states are all there is.
    serde_json::from_str(&last).unwrap_or_else(|_| serde_json::from_str(last.lines().last().unwrap()).unwrap())
}

#[test]
fn the_model_is_that_of_the_rows_that_are_left() {
    let place = begun();
    let mut held = BTreeMap::new();
    // A file that grows, and runs that go on.
    let (mut lines, mut events) = (String::new(), 0);
    for (more, keys, workers) in [(900, 700, 1), (300, 400, 2), (1, 1, 2), (700, 900, 1)] {
        lines += &stream(events, more, keys, &mut held);
        events += more;
        std::fs::write(place.path("in.jsonl"), &lines).unwrap();
        let report = online(&place, &format!("{BEGIN} jsonl:in.jsonl --workers {workers}"));
        let fit = fitted(&place, &held);
        assert_eq!(digest(&report), digest(&fit), "{report}\n{fit}");
        assert_eq!(report["rows_surviving"], held.len());
        assert_eq!(report["rows_rejected"], 0);
    }
    let verified = online(&place, "online verify s");
    assert_eq!(verified["verified"], true, "{verified}");
    online(&place, "online export s --out e.nys");
    assert!(std::fs::read(place.path("e.nys")).unwrap().len() > 1000);
    let inspected = online(&place, "online inspect s");
    assert_eq!(digest(&inspected), digest(&fitted(&place, &held)));
    place.json("predict --model e.nys --data left.parquet --out p.parquet");
}

#[test]
fn publications_on_the_way_change_nothing_and_are_predicted_by() {
    let place = begun();
    let mut held = BTreeMap::new();
    std::fs::write(place.path("in.jsonl"), stream(0, 1500, 800, &mut held)).unwrap();
    let report = online(&place, &format!("{BEGIN} jsonl:in.jsonl --publish every:400 --output jsonl:out.jsonl"));
    assert_eq!(digest(&report), digest(&fitted(&place, &held)));
    assert!(number(&report, "/publications") >= 3.0, "{report}");
    let answers = std::fs::read_to_string(place.path("out.jsonl")).unwrap();
    assert!(answers.lines().count() > 300 && report["predictions"] == answers.lines().count(), "{report}");
    // The same events without publications on the way, by two workers.
    let other = place.path("other.jsonl");
    std::fs::write(&other, stream(0, 1500, 800, &mut BTreeMap::new())).unwrap();
    let again =
        online(&place, "online --mode exact --config-from m.nys --state t --input jsonl:other.jsonl --workers 2");
    assert_eq!(digest(&again), digest(&report));
}

#[test]
fn what_exact_cannot_do_is_refused() {
    let place = begun();
    std::fs::write(place.path("in.jsonl"), "").unwrap();
    place.json("fit --data d.parquet --out p.nys --target y --drop key --centers 20 --solver pcg");
    for (begin, part) in [("--from m.nys", "--config-from"), ("--config-from p.nys", "--solver gram")] {
        let output = place.run(&format!("online --mode exact {begin} --state s --input jsonl:in.jsonl"));
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(part), "{begin}: {error}");
        assert!(!place.path("s/online.json").exists());
    }
}
