//! The exact mode in several processes: the published model is that of one, and of the fit, whoever keeps the rows; a process that is killed ends the others, and any number of them goes on.

#![cfg(unix)]

mod common;

use arrow_array::RecordBatch;
use common::changes::{changes, left};
use common::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

const MODEL: &str =
    "--target y --drop key --weight w --kernel gaussian --bandwidth 1x --ridge 1e-5 --solver gram --split hash:0.1";
const POOL: &str = "--centers 40 --select rpcholesky --dictionary-rows 200 --variance";
const TRIE: &str = "--centers 8 --select squeak";
const LINE: &str = "online --mode exact --config-from m.nys --peer-timeout 10s";

fn values(key: usize, version: usize) -> (f64, String, f64, f64) {
    let at = 1000 * key + version;
    let (a, c) = (uniform("a", at), uniform("c", at));
    (a, format!("level {}", (c * 5.0) as u32), (6.0 * a).sin() + 0.1 * uniform("noise", at), 0.1 + uniform("w", at))
}

fn rows(list: &[(usize, usize)]) -> RecordBatch {
    let all: Vec<_> = list.iter().map(|(key, version)| values(*key, *version)).collect();
    batch(vec![
        ("a", numbers(all.iter().map(|row| row.0))),
        ("c", texts(all.iter().map(|row| row.1.clone()))),
        ("y", numbers(all.iter().map(|row| row.2))),
        ("w", numbers(all.iter().map(|row| row.3))),
        ("key", texts(list.iter().map(|(key, _)| format!("k{key}")))),
    ])
}

/// Events `from` and on, and what is left of them in `held`.
fn stream(from: usize, count: usize, keys: usize, held: &mut BTreeMap<usize, usize>) -> String {
    changes(from, count, keys, held, |key, version| {
        let (a, c, y, w) = values(key, version);
        format!(r#""weight": {w:?}, "row": {{"a": {a:?}, "c": "{c}", "y": {y:?}}}"#)
    })
}

fn begun(select: &str) -> Place {
    let place = Place::new();
    write(&place.path("d.parquet"), &rows(&(0..3000).map(|i| (i, 1)).collect::<Vec<_>>()));
    place.json(&format!("fit --data d.parquet --out m.nys {MODEL} {select}"));
    place
}

/// The digest of the fit of the rows that are left.
fn fitted(place: &Place, held: &BTreeMap<usize, usize>) -> String {
    write(&place.path("left.parquet"), &rows(&left(held)));
    digest(&place.solved("fit --data left.parquet --config-from m.nys --id-column key --out again.nys"))
}

fn last_line(output: &Output) -> Value {
    let all = text(&output.stdout);
    let last = all.lines().last().unwrap_or_else(|| panic!("nothing was printed: {}", text(&output.stderr)));
    serde_json::from_str(last).unwrap()
}

/// The line in so many processes to its end: the summary.
fn online(place: &Place, line: &str, processes: usize) -> Value {
    let line = format!("{LINE} {line}");
    if processes == 1 {
        let output = place.run(&format!("{line} --format json"));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        return last_line(&output);
    }
    let outputs = place.processes(&vec![line; processes]);
    for (index, output) in outputs.iter().enumerate() {
        assert_eq!(output.status.code(), Some(0), "process {index}: {}", text(&output.stderr));
        assert!(index == 0 || output.stdout.is_empty(), "process {index} printed");
    }
    last_line(&outputs[0])
}

/// Waits until a run answers.
fn answering(place: &Place) {
    let since = Instant::now();
    while std::fs::metadata(place.path("out.jsonl")).map_or(0, |found| found.len()) < 20_000 {
        assert!(since.elapsed() < Duration::from_secs(60), "nothing was answered");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn any_processes_publish_the_model_of_the_fit() {
    for select in [POOL, TRIE] {
        let place = begun(select);
        let (mut held, mut lines, mut events) = (BTreeMap::new(), String::new(), 0);
        // One state, which other processes take up each time.
        for (processes, workers) in [(2, 1), (1, 2), (3, 1), (2, 2)] {
            lines += &stream(events, 900, 1800, &mut held);
            events += 900;
            std::fs::write(place.path("in.jsonl"), &lines).unwrap();
            let line = format!("--state s --input jsonl:in.jsonl --publish every:350 --workers {workers}");
            let report = online(&place, &line, processes);
            assert_eq!(digest(&report), fitted(&place, &held), "{processes} processes of {workers}: {report}");
            assert_eq!(report["rows_surviving"], held.len());
        }
        // From nothing, in one run, and checked from scratch.
        let report = online(&place, "--state t --input jsonl:in.jsonl --workers 1 --publish every:350", 2);
        assert_eq!(digest(&report), fitted(&place, &held));
        for state in ["s", "t"] {
            let output = place.run(&format!("online verify {state} --format json"));
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(found["verified"], true, "{found}");
        }
    }
}

/// Starts the line in so many processes.
fn started(place: &Place, line: &str, processes: usize) -> Vec<Child> {
    let ports: Vec<TcpListener> = (0..processes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> = ports.iter().map(|port| port.local_addr().unwrap().to_string()).collect();
    drop(ports);
    let name = format!("hosts.{}", addresses[0].replace(':', "."));
    std::fs::write(place.path(&name), addresses.join("\n")).unwrap();
    let start =
        |index: usize| place.command(&format!("{LINE} {line} --hosts {name} --process {index}")).spawn().unwrap();
    (0..processes).map(start).collect()
}

#[test]
fn a_killed_process_ends_the_others_and_any_number_goes_on() {
    let place = begun(POOL);
    let mut held = BTreeMap::new();
    std::fs::write(place.path("in.jsonl"), stream(0, 30_000, 9000, &mut held)).unwrap();
    let run = "--state s --input jsonl:in.jsonl --publish every:2000 --output jsonl:out.jsonl --snapshot-every 1500";
    let length = || std::fs::metadata(place.path("out.jsonl")).map_or(0, |found| found.len());
    for (processes, victim) in [(2, 1), (3, 2), (2, 0)] {
        let before = length();
        let mut children = started(&place, &format!("{run} --workers 1"), processes);
        let since = Instant::now();
        while length() < before + 20_000 && since.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut killed = children.remove(victim);
        killed.kill().unwrap();
        killed.wait().unwrap();
        for child in children {
            let output = finish(child, run);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(5), "victim {victim} of {processes}: {said}");
            assert!(said.contains(&format!("process {victim}")), "victim {victim} of {processes}: {said}");
        }
    }
    let report = online(&place, &format!("{run} --workers 2"), 2);
    assert_eq!(digest(&report), fitted(&place, &held));
    // Nothing was lost, counted twice or answered otherwise.
    let undisturbed = online(&place, &run.replace(" s ", " u ").replace("out.jsonl", "u.jsonl"), 1);
    for name in ["rows_inserted", "rows_deleted", "rows_updated", "predictions", "publications", "model_digest"] {
        assert_eq!(report[name], undisturbed[name], "{name}");
    }
    assert!(std::fs::read(place.path("out.jsonl")).unwrap() == std::fs::read(place.path("u.jsonl")).unwrap());
}

#[test]
fn the_launcher_starts_them_and_other_modes_refuse() {
    let place = begun(POOL);
    let mut held = BTreeMap::new();
    std::fs::write(place.path("in.jsonl"), stream(0, 800, 500, &mut held)).unwrap();
    let line = "online --mode exact --config-from m.nys --state s --input jsonl:in.jsonl --workers 1 --format json";
    let output = place.run(&format!("cluster run --processes 2 -- {line}"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(digest(&last_line(&output)), fitted(&place, &held));
    std::fs::write(place.path("hosts"), "127.0.0.1:4001\n127.0.0.1:4002\n").unwrap();
    let others = "--state o --input jsonl:in.jsonl --hosts hosts --process 0 --config-from m.nys";
    for mode in ["con-kons", "recursive"] {
        place.fails(&format!("online --mode {mode} {others}"), 2, &["--hosts", "--mode exact"]);
    }
}

/// Rows that leave a window leave it in every process: the model is that of the rows that are left, the answers those of one process.
#[test]
fn windows_slide_alike_in_any_processes() {
    let place = begun(POOL);
    let line = |i: usize| {
        let (a, c, y, w) = values(i, 1);
        format!(r#"{{"key": "k{i}", "time": {i}, "weight": {w:?}, "row": {{"a": {a:?}, "c": "{c}", "y": {y:?}}}}}"#)
            + "\n"
    };
    for (name, window, from) in [("r", "rows:500", 1000), ("t", "time:400s", 1099)] {
        for rows in [700, 1500] {
            let lines: String = (0..rows).map(line).collect();
            std::fs::write(place.path(&format!("{name}.jsonl")), lines).unwrap();
            let mut reports = Vec::new();
            for processes in [1, 2] {
                let state = format!("{name}{processes}");
                let run = format!(
                    "--state {state} --input jsonl:{name}.jsonl --window {window} --publish every:300 --output jsonl:{state}.jsonl --workers 1"
                );
                reports.push(online(&place, &run, processes));
            }
            for what in ["model_digest", "rows_expired", "rows_surviving", "predictions", "publications", "prequential"]
            {
                assert_eq!(reports[0][what], reports[1][what], "{window}: {what}");
            }
            let answers = |processes: usize| std::fs::read(place.path(&format!("{name}{processes}.jsonl"))).unwrap();
            assert!(answers(1) == answers(2), "{window}: the answers differ");
            if rows == 1500 {
                let held: BTreeMap<usize, usize> = (from..1500).map(|i| (i, 1)).collect();
                assert_eq!(digest(&reports[1]), fitted(&place, &held), "{window}");
                assert_eq!(number(&reports[1], "/rows_expired") as usize, from, "{window}");
            }
        }
    }
}

/// A signal to all ends the run with a last snapshot, and the same line goes on.
#[test]
fn interrupted_processes_end_together_and_go_on() {
    let place = begun(POOL);
    let mut held = BTreeMap::new();
    std::fs::write(place.path("in.jsonl"), stream(0, 30_000, 9000, &mut held)).unwrap();
    let run = "--state s --input jsonl:in.jsonl --output jsonl:out.jsonl --publish every:2000 --workers 1";
    let children = started(&place, run, 2);
    answering(&place);
    // First to the one that only takes part.
    for child in children.iter().rev() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::SIGINT).unwrap();
    }
    let mut codes = Vec::new();
    for (index, child) in children.into_iter().enumerate() {
        let output = finish(child, run);
        let said = text(&output.stderr);
        // It may have come to its end before; all end alike.
        assert!(matches!(output.status.code(), Some(0 | 130)), "process {index}: {said}");
        assert!(!said.contains("lost"), "process {index}: {said}");
        codes.push(output.status.code());
    }
    assert_eq!(codes[0], codes[1]);
    assert_eq!(digest(&online(&place, run, 2)), fitted(&place, &held));
}

/// Who takes part ends as the run does: a failure of the first process after the join is no success of the others, a signal to one of them no end of the run.
#[test]
fn who_takes_part_ends_as_the_run_does() {
    let place = begun(POOL);
    let mut held = BTreeMap::new();
    std::fs::write(place.path("in.jsonl"), stream(0, 20_000, 9000, &mut held)).unwrap();
    std::fs::write(place.path("bad.jsonl"), stream(0, 3000, 900, &mut BTreeMap::new()) + "no event\n").unwrap();
    let run = "--state f --input jsonl:bad.jsonl --strict --workers 1";
    let outputs: Vec<Output> = started(&place, run, 3).into_iter().map(|child| finish(child, run)).collect();
    let said: Vec<String> = outputs.iter().map(|output| text(&output.stderr)).collect();
    assert_eq!(outputs[0].status.code(), Some(1), "{}", said[0]);
    for index in 1..3 {
        assert_eq!(outputs[index].status.code(), Some(5), "process {index}: {}", said[index]);
        assert!(said[index].contains("error: process 0 was lost: "), "process {index}: {}", said[index]);
    }
    let run = "--state s --input jsonl:in.jsonl --output jsonl:out.jsonl --publish every:2000 --workers 1";
    let children = started(&place, run, 2);
    answering(&place);
    // Again and again, as a launcher does that stops all.
    for _ in 0..3 {
        let id = nix::unistd::Pid::from_raw(children[1].id() as i32);
        nix::sys::signal::kill(id, nix::sys::signal::SIGTERM).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
    let outputs: Vec<Output> = children.into_iter().map(|child| finish(child, run)).collect();
    for (index, output) in outputs.iter().enumerate() {
        assert_eq!(output.status.code(), Some(0), "process {index}: {}", text(&output.stderr));
    }
    assert!(text(&outputs[1].stderr).contains("this process ends with the run"), "{}", text(&outputs[1].stderr));
    assert_eq!(digest(&online(&place, run, 1)), fitted(&place, &held));
    // A state says that it is an exact one; a new one has to be told.
    for (state, code) in [("s", 0), ("new", 2)] {
        let line = format!("online --config-from m.nys --state {state} --input jsonl:in.jsonl --workers 1");
        let outputs = place.processes(&[line.clone(), line]);
        assert_eq!(outputs[0].status.code(), Some(code), "{}", text(&outputs[0].stderr));
    }
}

/// What can be known to fail is not found out when the processes have met: the first one ends before it joins, says so to the others, and leaves nothing.
#[test]
fn what_is_wrong_with_outputs_and_addresses_shows_before_the_join() {
    let place = begun(POOL);
    let mut held = BTreeMap::new();
    std::fs::write(place.path("in.jsonl"), stream(0, 500, 400, &mut held)).unwrap();
    std::fs::write(place.path("other.jsonl"), "not ours\n").unwrap();
    std::fs::create_dir(place.path("full")).unwrap();
    std::fs::write(place.path("full/other"), "not ours\n").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = |state: &str, more: &str| {
        format!("{LINE} --state {state} --input jsonl:in.jsonl --workers 1 --join-timeout 10m {more}")
    };
    let refused = |state: &str, more: &str, code: i32, part: &str| {
        let outputs = place.processes(&[line(state, more), line(state, "")]);
        let [first, second] = [0, 1].map(|index| text(&outputs[index].stderr));
        assert_eq!(outputs[0].status.code(), Some(code), "{first}");
        assert!(first.lines().any(|line| line.starts_with("error: ") && line.contains(part)), "{more}: {first}");
        assert_eq!(outputs[1].status.code(), Some(6), "{more}: {second}");
        assert!(second.contains("process 0 failed before it joined: "), "{more}: {second}");
    };
    for (more, code, part) in [
        ("--output jsonl:other.jsonl", 1, "--output jsonl: other.jsonl: it has something in it"),
        ("--output ipc:absent/out.ipc", 1, "absent/out.ipc: cannot be written"),
        ("--output parquet:full", 1, "--output parquet:full: it has something in it"),
        ("--dead-letter other.jsonl --output jsonl:fine.jsonl", 1, "--dead-letter other.jsonl: it has something in it"),
        (&format!("--listen {}", taken.local_addr().unwrap()), 2, "--listen"),
        ("--listen 127.0.0.1:0 --token-file absent", 2, "--token-file absent"),
    ] {
        refused("s", more, code, part);
        assert!(!place.path("s").exists() && !place.path("fine.jsonl").exists(), "{more}: {:?}", place.names());
    }
    // One that has begun: options that cannot change, and a file that is not as it was left.
    let report =
        online(&place, "--state t --input jsonl:in.jsonl --output jsonl:out.jsonl --publish every:100 --workers 1", 2);
    assert_eq!(digest(&report), fitted(&place, &held));
    refused("t", "--output jsonl:out.jsonl --publish every:100 --window rows:10", 2, "--window");
    std::fs::write(place.path("out.jsonl"), "").unwrap();
    refused("t", "--output jsonl:out.jsonl --publish every:100", 1, "the state has written");
}

/// An interrupt while the others are waited for ends the process: nothing has been learned.
#[test]
fn an_interrupt_before_the_join_ends_the_first_process() {
    let place = begun(POOL);
    std::fs::write(place.path("in.jsonl"), stream(0, 500, 400, &mut BTreeMap::new())).unwrap();
    let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = ports.map(|port| port.local_addr().unwrap().to_string());
    std::fs::write(place.path("hosts"), addresses.join("\n")).unwrap();
    let line = "--state u --input jsonl:in.jsonl --workers 1 --join-timeout 10m --hosts hosts --process 0";
    let child = place.command(&format!("{LINE} {line}")).spawn().unwrap();
    let since = Instant::now();
    while std::net::TcpStream::connect(&addresses[0]).is_err() {
        assert!(since.elapsed() < Duration::from_secs(60), "nobody listens");
        std::thread::sleep(Duration::from_millis(10));
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::SIGTERM).unwrap();
    let output = finish(child, line);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(130) && said.contains("interrupted: "), "{said}");
}
