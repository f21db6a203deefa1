//! `--refit-encoder` and what interrupts it: the numbers of the configuration stay, rows that it refuses leave, it is done once, and an interrupt ends a fit at once.

#![cfg(unix)]

mod common;

use common::stream::*;
use common::*;
use nystream::model::{FrozenConfig, Model};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

const KERNEL: &str = "--kernel gaussian --bandwidth 1x --ridge 1e-5";

/// The fit of rows `list` by the configuration of the state.
fn fitted(place: &Place, list: &[usize]) -> String {
    left(place, list);
    digest(&place.solved("fit --data left.parquet --config-from s/config.nys --id-column key --out again.nys"))
}

fn configuration(place: &Place, name: &str) -> FrozenConfig {
    Model::load(&place.path(name)).unwrap().config
}

/// Fewer rows than centers are left when it is done, and more come later: by then it is the choice that was asked for.
#[test]
fn few_rows_do_not_change_how_centers_are_chosen() {
    for select in ["--select squeak", "--select rpcholesky --dictionary-rows 500", "--select uniform"] {
        let place = Place::new();
        write(&place.path("d.parquet"), &batch(table(1_000_000, 1200)));
        let rest = format!("{KERNEL} --solver gram --centers 200 --split hash:0.1 {select}");
        place.json(&format!("fit --data d.parquet --target y --out m.nys {rest}"));
        let mut lines: Vec<String> = (0..500).map(insert).collect();
        lines.extend((150..500).map(|i| json!({"op": "delete", "key": format!("k{i}")}).to_string()));
        place.lines("in.jsonl", &lines);
        place.online("--mode exact --config-from m.nys --state s --input jsonl:in.jsonl");
        let few = place.online(&format!("--state s --input jsonl:in.jsonl --refit-encoder {KERNEL}"));
        let (before, after) = (configuration(&place, "m.nys"), configuration(&place, "s/config.nys"));
        assert_eq!(after.selection, before.selection, "{select}");
        assert_ne!(after.encoder, before.encoder, "{select}");
        let mut list: Vec<usize> = (0..150).collect();
        assert_eq!(digest(&few), fitted(&place, &list), "{select}");
        lines.extend((1000..1700).map(insert));
        list.extend(1000..1700);
        place.lines("in.jsonl", &lines);
        let more = place.online("--state s --input jsonl:in.jsonl");
        assert_eq!(digest(&more), fitted(&place, &list), "{select}");
        assert_eq!(number(&more, "/dictionary"), 200.0, "{select}: {more}");
    }
}

/// A row that the old encoder took and the new one cannot use is a refused one, and gone.
#[test]
fn rows_that_the_new_encoder_refuses_leave() {
    let place = Place::new();
    // Of a scale beside which those of the stream are next to nothing.
    let mut columns = table(1_000_000, 1200);
    columns[0].1 = numbers((0..1200).map(|i| 1e36 * uniform("a", i)));
    write(&place.path("d.parquet"), &batch(columns));
    let rest = "--select rpcholesky --solver gram --centers 24 --split none";
    place.json(&format!("fit --data d.parquet --target y --out m.nys {KERNEL} {rest}"));
    let mut far = row(7);
    far["a"] = 1e39.into();
    let mut lines: Vec<String> = (0..200).map(insert).collect();
    lines.push(json!({"key": "far", "row": far}).to_string());
    lines.push(json!({"key": "waits", "row": row(8)}).to_string());
    place.lines("in.jsonl", &lines);
    let begun = place.online("--mode exact --config-from m.nys --state s --input jsonl:in.jsonl");
    assert_eq!((number(&begun, "/rows_waiting"), number(&begun, "/rows_rejected")), (2.0, 0.0), "{begun}");
    let refit = format!("--state s --input jsonl:in.jsonl --dead-letter dead.jsonl --refit-encoder {KERNEL}");
    let report = place.online(&refit);
    let counts = ["/rows_rejected", "/rows_expired", "/rows_waiting", "/rows_surviving", "/rows_inserted"];
    assert_eq!(counts.map(|name| number(&report, name)), [1.0, 1.0, 1.0, 201.0, 202.0], "{report}");
    let dead = place.read_lines("dead.jsonl");
    assert_eq!((dead.len(), &dead[0]["key"]), (1, &json!("far")), "{dead:?}");
    let list: Vec<usize> = (0..200).collect();
    assert_eq!(digest(&report), fitted(&place, &list));
    assert_eq!(place.online("verify s")["verified"], true);
    // It is gone for good, and what the source has is not read twice for it.
    lines.push(json!({"op": "label", "key": "far", "row": {"y": 1.0}}).to_string());
    lines.push(json!({"op": "label", "key": "waits", "row": {"y": target(8)}}).to_string());
    place.lines("in.jsonl", &lines);
    let report = place.online("--state s --input jsonl:in.jsonl --dead-letter dead.jsonl");
    assert_eq!(counts.map(|name| number(&report, name)), [2.0, 1.0, 0.0, 201.0, 202.0], "{report}");
    assert_eq!(place.online("verify s")["verified"], true);
}

/// Waits until `is`.
fn until(is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(120), "it never came to that");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An interrupt in the midst of a fit ends it, whatever is left of it; nothing has changed, and the same command does it then.
#[test]
fn an_interrupted_fit_has_not_happened() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(1_000_000, 3000)));
    // Seconds of work.
    let rest = "--select rpcholesky --solver gram --centers 1200 --split none";
    place.json(&format!("fit --data d.parquet --target y --out m.nys {KERNEL} {rest}"));
    place.lines("in.jsonl", &(0..2500).map(insert).collect::<Vec<_>>());
    let init = "--mode exact --init-rows 2500 --target y --state i --input jsonl:in.jsonl";
    let child = place.start_online(init);
    until(|| place.path("i/init.parquet").exists());
    let output = interrupt(child, init);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("nothing has begun") && !place.path("i").exists(), "{said}");
    let before = place.online("--mode exact --config-from m.nys --state s --input jsonl:in.jsonl");
    let config = std::fs::read(place.path("s/config.nys")).unwrap();
    let refit = format!("--state s --input jsonl:in.jsonl --refit-encoder {KERNEL}");
    let child = place.start_online(&refit);
    until(|| place.path("s/refit.parquet").exists());
    let output = interrupt(child, &refit);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("the same command goes on") && !said.contains("is fitted to the rows"), "{said}");
    assert!(std::fs::read(place.path("s/config.nys")).unwrap() == config, "the configuration is another");
    assert!(!place.path("s/refit.parquet").exists(), "deleted rows may be in it");
    assert_eq!(digest(&place.online("--state s --input jsonl:in.jsonl")), digest(&before));
    let after = place.online(&refit);
    let list: Vec<usize> = (0..2500).collect();
    assert_eq!(digest(&after), fitted(&place, &list));
    assert_ne!(digest(&after), digest(&before));
}

/// A run that is started again does not fit again; one that was asked for anew does.
#[test]
fn one_is_done_for_each_time_that_it_is_asked_for() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(1_000_000, 600)));
    let rest = "--select rpcholesky --solver gram --centers 24 --split none";
    place.json(&format!("fit --data d.parquet --target y --out m.nys {KERNEL} {rest}"));
    std::fs::create_dir(place.path("in")).unwrap();
    let file = |name: &str, first: usize, rows: usize| {
        let mut columns = table(first, rows);
        columns.push(("key", texts((first..first + rows).map(|i| format!("k{i}")))));
        write(&place.path(name), &batch(columns));
    };
    file("in/1.parquet", 0, 300);
    let run = |line: &str| -> (Value, String) {
        let output = place.run(&format!("online --state s --input watch:in --idle-exit 1s {line} --format json"));
        (summary(&output, line), text(&output.stderr))
    };
    run("--mode exact --config-from m.nys");
    let config = || {
        let config = configuration(&place, "s/config.nys");
        (config.encoder, config.kernel)
    };
    let done = "is fitted to the rows that are left";
    // A service, which a signal ends.
    let line = format!("--state s --input watch:in --refit-encoder {KERNEL}");
    let restart = || {
        let mut child = place.start_online(&line);
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let tells = |line: &String| line.contains(done) || line.contains("by this command");
        let told = said.by_ref().map_while(Result::ok).find(tells).unwrap();
        // The rest is read away, so that the child never waits.
        std::thread::spawn(move || said.for_each(drop));
        assert_eq!(interrupt(child, &line).status.code(), Some(130), "{told}");
        told
    };
    assert!(restart().contains(done));
    let fresh = config();
    file("in/2.parquet", 300, 200);
    let said = restart();
    assert!(!said.contains(done) && said.contains("by this command"), "{said}");
    assert_eq!(config(), fresh);
    // Other numbers are another wish.
    let (_, said) = run("--refit-encoder --kernel gaussian --bandwidth 2x --ridge 1e-5");
    assert!(said.contains(done), "{said}");
    assert_ne!(config(), fresh);
    // That run has ended with its source: asked for again, it is done again.
    let (_, said) = run(&format!("--refit-encoder {KERNEL}"));
    assert!(said.contains(done), "{said}");
    assert!(!place.path("s/refitted.json").exists());
    assert_eq!(place.online("verify s")["verified"], true);
}
