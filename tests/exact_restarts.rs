//! Restarts of the exact mode: the sums are stored with the snapshots, and whatever becomes of them, the model is that of the fit on the rows that are left.

#![cfg(unix)]

mod common;

use arrow_array::cast::AsArray;
use common::changes::*;
use common::killed::draw;
use common::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const MODEL: &str =
    "--target y --drop key --kernel gaussian --bandwidth 1x --ridge 1e-5 --solver gram --split hash:0.1";
const POOL: &str = "--centers 40 --select rpcholesky --dictionary-rows 200";
const TRIE: &str = "--centers 8 --select squeak";

fn begun(select: &str) -> Place {
    let place = Place::new();
    write(&place.path("d.parquet"), &rows(&(0..3000).map(|i| (i, 1)).collect::<Vec<_>>()));
    place.json(&format!("fit --data d.parquet --out m.nys {MODEL} {select}"));
    place
}

/// The fit of the rows that are left.
fn fitted(place: &Place, held: &BTreeMap<usize, usize>) -> Value {
    write(&place.path("left.parquet"), &rows(&left(held)));
    place.solved("fit --data left.parquet --config-from m.nys --id-column key --out again.nys")
}

/// A run to its end: its summary, and what it said.
fn online(place: &Place, line: &str) -> (Value, String) {
    let output = place.run(&format!("online --mode exact --config-from m.nys {line} --format json"));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{line}\n{said}");
    (serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap(), said)
}

/// The files of a folder whose names begin so, in order.
fn files(place: &Place, folder: &str, begin: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place.path(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(begin)).collect();
    files.sort();
    files
}

fn flip(path: &PathBuf) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 16;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn sums_go_on_from_their_file_and_damage_of_it_is_told_and_costs_time_alone() {
    let place = begun(POOL);
    let (mut held, mut lines, mut events) = (BTreeMap::new(), String::new(), 0);
    // What is done to the state between two runs.
    let damages: [(&str, &dyn Fn()); 6] = [
        ("", &|| {}),
        ("", &|| {}),
        ("checksum", &|| files(&place, "s/exact", "sums-").last().iter().for_each(|path| flip(path))),
        ("", &|| {}),
        ("an older one was", &|| files(&place, "s", "snapshot-").last().iter().for_each(|path| flip(path))),
        ("No such file", &|| std::fs::remove_dir_all(place.path("s/exact")).unwrap()),
    ];
    for (turn, (told, damage)) in damages.into_iter().enumerate() {
        damage();
        lines += &stream(events, 700, 1500, &mut held);
        events += 700;
        std::fs::write(place.path("in.jsonl"), &lines).unwrap();
        let line = format!("--state s --input jsonl:in.jsonl --snapshot-every 300 --workers {}", 1 + turn % 3);
        let (report, said) = online(&place, &line);
        assert_eq!(digest(&report), digest(&fitted(&place, &held)), "turn {turn}: {said}");
        let damaged = said.contains("cannot be used");
        assert_eq!(damaged, !told.is_empty(), "turn {turn}: {said}");
        assert!(said.contains(told), "turn {turn}: {said}");
        let stored = files(&place, "s/exact", "sums-");
        assert!((1..=3).contains(&stored.len()), "turn {turn}: {stored:?}");
        assert_eq!(files(&place, "s", "snapshot-").len(), 2);
    }
    // From scratch, without them.
    let output = place.run("online verify s --format json");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["verified"], true);
    assert!(place.run("online export s --out e.nys").status.success());
}

/// The newest snapshot is gone, and behind the one before it there are changes, a publication, and more changes.
#[test]
fn an_older_snapshot_goes_on_past_publications() {
    for (turn, select) in [POOL, TRIE].into_iter().enumerate() {
        let place = begun(select);
        let mut held = BTreeMap::new();
        let first = stream(0, 1100, 700, &mut held);
        std::fs::write(place.path("first.jsonl"), &first).unwrap();
        online(&place, "--state u --input jsonl:first.jsonl --publish every:200 --output jsonl:u.jsonl");
        let run = "online --mode exact --config-from m.nys --state s --input jsonl:- --publish every:200 --output jsonl:s.jsonl";
        let mut command = place.command(run);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(first.as_bytes()).unwrap();
        stdin.flush().unwrap();
        let length = |name: &str| std::fs::metadata(place.path(name)).map_or(0, |found| found.len());
        let since = Instant::now();
        while length("s.jsonl") < length("u.jsonl") && since.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(length("s.jsonl"), length("u.jsonl"));
        let newest = files(&place, "s", "snapshot-").pop().unwrap();
        if turn == 0 {
            flip(&newest)
        } else {
            std::fs::remove_file(&newest).unwrap()
        }
        std::fs::write(place.path("rest.jsonl"), stream(1100, 300, 700, &mut held)).unwrap();
        let (report, said) =
            online(&place, "--state s --input jsonl:rest.jsonl --output jsonl:s.jsonl --publish every:200");
        assert!(number(&report, "/records_replayed") > 200.0, "{report}");
        assert_eq!(digest(&report), digest(&fitted(&place, &held)), "{said}");
        let verified = place.run("online verify s --format json");
        assert_eq!(verified.status.code(), Some(0), "{}", text(&verified.stderr));
        // The answers that a run of the same events gives.
        online(&place, "--state u --input jsonl:rest.jsonl --output jsonl:u.jsonl --publish every:200");
        assert!(std::fs::read(place.path("s.jsonl")).unwrap() == std::fs::read(place.path("u.jsonl")).unwrap());
    }
}

/// Killed with `kill -9` again and again under load, with publications on the way, by one and two workers: in the end the fit's digest, and the answers of an undisturbed run.
#[test]
fn killed_runs_end_as_the_fit_does() {
    for (number, select) in [POOL, TRIE].into_iter().enumerate() {
        let place = begun(select);
        let mut held = BTreeMap::new();
        std::fs::write(place.path("in.jsonl"), stream(0, 6000, 3500, &mut held)).unwrap();
        let run = "--input jsonl:in.jsonl --publish every:700 --snapshot-every 400";
        let (undisturbed, _) = online(&place, &format!("--state u --output jsonl:u.jsonl {run}"));
        assert_eq!(digest(&undisturbed), digest(&fitted(&place, &held)));
        let length = |name: &str| std::fs::metadata(place.path(name)).map_or(0, |found| found.len());
        let kills = if long_tests() { 100 } else { 5 };
        let (mut done, mut state) = (0, 0u64);
        while done < kills {
            let line = format!("--state s{state} --output jsonl:s{state}.jsonl {run}");
            for kill in 0..4u64 {
                let at = 1000 * number as u64 + 10 * state + kill;
                let before = length(&format!("s{state}.jsonl"));
                let wanted = before + draw("bytes", at, length("u.jsonl") / 3);
                let workers = 1 + draw("workers", at, 3);
                let mut command =
                    place.command(&format!("online --mode exact --config-from m.nys {line} --workers {workers}"));
                let mut child =
                    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
                let since = Instant::now();
                while length(&format!("s{state}.jsonl")) < wanted
                    && since.elapsed() < Duration::from_secs(30)
                    && child.try_wait().unwrap().is_none()
                {
                    std::thread::sleep(Duration::from_micros(500));
                }
                std::thread::sleep(Duration::from_micros(draw("pause", at, 30_000)));
                child.kill().unwrap();
                child.wait().unwrap();
                done += 1;
            }
            let (report, said) = online(&place, &format!("{line} --workers 2"));
            assert_eq!(digest(&report), digest(&undisturbed), "{said}");
            assert!(!said.contains("cannot be used"), "{said}");
            for name in ["rows_inserted", "rows_deleted", "rows_updated", "predictions", "publications", "prequential"]
            {
                assert_eq!(report[name], undisturbed[name], "{name}");
            }
            let same = |name: &str| std::fs::read(place.path(name)).unwrap();
            assert!(same(&format!("s{state}.jsonl")) == same("u.jsonl"), "the answers differ");
            state += 1;
        }
    }
}

/// The first line that a process says that begins so, without that.
fn told(child: &mut std::process::Child, begin: &str) -> String {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let found = lines.by_ref().map_while(Result::ok).find_map(|line| Some(line.split_once(begin)?.1.to_owned()));
    // The rest is read away, so that the child never waits.
    std::thread::spawn(move || lines.for_each(drop));
    found.unwrap_or_else(|| panic!("nothing began with '{begin}'"))
}

#[test]
fn a_restart_answers_by_what_was_published_last() {
    let place = begun(POOL);
    let mut held = BTreeMap::new();
    std::fs::write(place.path("in.jsonl"), stream(0, 1200, 900, &mut held)).unwrap();
    online(&place, "--state s --input jsonl:in.jsonl --workers 1");
    std::fs::create_dir(place.path("more")).unwrap();
    let mut child =
        place.command("online --mode exact --state s --input watch:more --listen 0 --workers 1").spawn().unwrap();
    let address = told(&mut child, "predictions: http://");
    let address = address.split_once('/').unwrap().0;
    // Nothing was published since it began, and nothing will be.
    let (a, b, c, _) = values(77_777, 1);
    let body = serde_json::json!({ "rows": [{ "a": a, "b": b, "c": c }] }).to_string();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!("POST /predict HTTP/1.1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    socket.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let found: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    write(&place.path("probe.parquet"), &rows(&[(77_777, 1)]));
    place.json("predict --model s/model.nys --data probe.parquet --out p.parquet");
    let file = std::fs::File::open(place.path("p.parquet")).unwrap();
    let mut reader =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let predicted = reader.next().unwrap().unwrap();
    let column = predicted.schema().fields().iter().position(|field| field.name().contains("prediction")).unwrap();
    let value = predicted.column(column).as_primitive::<arrow_array::types::Float64Type>().value(0);
    assert_eq!(found["predictions"][0]["prediction"].as_f64(), Some(value), "{answer}");
}
