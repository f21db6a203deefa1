//! `nystream online --mode exact --window`: what is published is the fit of the rows that are left, of histories with late labels, windows that slide, restarts, kills and torn logs.
//!
//! A short form of 12 histories always runs; `NYSTREAM_LONG_TESTS=1` makes it 200.

mod common;

use arrow_array::RecordBatch;
use common::killed::draw;
use common::stream::*;
use common::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const MODEL: &str = "--target y --drop key --kernel gaussian --bandwidth 1x --ridge 1e-5 --select rpcholesky --solver gram --centers 24 --split hash:0.1";

fn values(key: u64, version: u64) -> (f64, f64, String, f64) {
    changes::values(key as usize, version as usize)
}

fn rows(list: &[(u64, u64)]) -> RecordBatch {
    changes::rows(&list.iter().map(|(key, version)| (*key as usize, *version as usize)).collect::<Vec<_>>())
}

/// A place with a model `m.nys` whose configuration streams take.
fn begun() -> Place {
    let place = Place::new();
    write(&place.path("d.parquet"), &rows(&(0..1200).map(|i| (i, 1)).collect::<Vec<_>>()));
    place.json(&format!("fit --data d.parquet --out m.nys {MODEL}"));
    place
}

#[derive(Clone, Copy, Debug)]
enum Window {
    None,
    Rows(usize),
    /// Seconds.
    Time(i64),
}

#[derive(Clone, Copy, Debug)]
struct Row {
    version: u64,
    /// Quarters of a second.
    time: i64,
    arrival: u64,
    labelled: bool,
}

/// What a stream should leave, by the plainest means.
#[derive(Clone, Debug)]
struct Reference {
    window: Window,
    seed: u64,
    keys: u64,
    rows: BTreeMap<u64, Row>,
    latest: i64,
    event: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl Reference {
    fn new(window: Window, seed: u64, keys: u64) -> Self {
        let (rows, counts) = (BTreeMap::new(), BTreeMap::new());
        Reference { window, seed, keys, rows, latest: i64::MIN, event: 0, counts }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// The next events, as lines.
    fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> String {
        self.event += 1;
        let at = 1_000_000 * self.seed + self.event;
        let key = draw("key", at, self.keys);
        // Out of order by up to nine seconds, now and then by a minute.
        let late = draw("late", at, 36) as i64 + if draw("very", at, 40) == 0 { 240 } else { 0 };
        let time = 4 * self.event as i64 - late;
        let version = self.event;
        let (a, b, c, y) = values(key, version);
        let labelled = draw("labelled", at, 4) > 0;
        let row = if labelled { json!({"a": a, "b": b, "c": c, "y": y}) } else { json!({"a": a, "b": b, "c": c}) };
        let bring =
            |op: &str| json!({"op": op, "key": format!("k{key}"), "time": time as f64 / 4.0, "row": row}).to_string();
        let brings = Row { version, time, arrival: self.event, labelled };
        // A label may be for a row that is gone.
        if draw("op", at, 10) < 3 {
            let waits: Vec<u64> =
                (0..self.keys).filter(|key| self.rows.get(key).is_none_or(|row| !row.labelled)).collect();
            let Some(&key) = waits.get(draw("which", at, waits.len().max(1) as u64) as usize) else {
                return self.next();
            };
            let version = self.rows.get(&key).map_or(0, |row| row.version);
            let line =
                json!({"op": "label", "key": format!("k{key}"), "row": {"y": values(key, version).3}}).to_string();
            match self.rows.get_mut(&key) {
                Some(row) => {
                    row.labelled = true;
                    let time = row.time;
                    self.count("rows_labelled");
                    self.slide(time);
                }
                None => self.count("rows_rejected"),
            }
            return line;
        }
        match self.rows.get(&key).copied() {
            Some(_) if draw("delete", at, 3) == 0 => {
                self.rows.remove(&key);
                self.count("rows_deleted");
                json!({"op": "delete", "key": format!("k{key}")}).to_string()
            }
            before => {
                let line = bring(if before.is_some() { "update" } else { "insert" });
                if self.outside(time) {
                    self.count("rows_rejected");
                } else {
                    self.count(if before.is_some() { "rows_updated" } else { "rows_inserted" });
                    self.rows.insert(key, brings);
                    self.slide(time);
                }
                line
            }
        }
    }

    fn outside(&self, time: i64) -> bool {
        matches!(self.window, Window::Time(span) if self.latest != i64::MIN && time < self.latest - 4 * span)
    }

    /// A row of `time` came: others leave.
    fn slide(&mut self, time: i64) {
        self.latest = self.latest.max(time);
        let gone: Vec<u64> = match self.window {
            Window::None => return,
            Window::Rows(most) => {
                let mut all: Vec<(u64, u64)> = self.rows.iter().map(|(key, row)| (row.arrival, *key)).collect();
                all.sort_unstable();
                all[..all.len().saturating_sub(most)].iter().map(|(_, key)| *key).collect()
            }
            Window::Time(_) => {
                self.rows.iter().filter(|(_, row)| self.outside(row.time)).map(|(key, _)| *key).collect()
            }
        };
        for key in gone {
            self.rows.remove(&key);
            self.count("rows_expired");
        }
    }

    fn flag(&self) -> String {
        match self.window {
            Window::None => String::new(),
            Window::Rows(rows) => format!("--window rows:{rows}"),
            Window::Time(span) => format!("--window time:{span}s"),
        }
    }

    /// Compares the summary of a run, and its model with the fit of the rows that are left.
    fn compare(&self, place: &Place, report: &Value, told: &str) {
        for what in ["rows_inserted", "rows_updated", "rows_deleted", "rows_labelled", "rows_rejected", "rows_expired"]
        {
            assert_eq!(report[what], self.counts.get(what).copied().unwrap_or(0), "{told}: {what} of {report}");
        }
        let waiting = self.rows.values().filter(|row| !row.labelled).count();
        assert_eq!(
            (&report["rows_surviving"], &report["rows_waiting"]),
            (&json!(self.rows.len()), &json!(waiting)),
            "{told}"
        );
        let left: Vec<(u64, u64)> =
            self.rows.iter().rev().filter(|(_, row)| row.labelled).map(|(key, row)| (*key, row.version)).collect();
        write(&place.path("left.parquet"), &rows(&left));
        let fit = place.solved("fit --data left.parquet --config-from m.nys --id-column key --out again.nys");
        assert_eq!(digest(report), digest(&fit), "{told}: {} rows are left\n{report}", left.len());
    }
}

/// The newest segment of the log of a state.
fn newest_segment(place: &Place, state: &str) -> Option<std::path::PathBuf> {
    let names = std::fs::read_dir(place.path(&format!("{state}/rows/log"))).ok()?;
    names
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .max()
}

/// Whether a snapshot holds events.
fn snapshot_of_events(place: &Place, state: &str) -> bool {
    let records = std::fs::read_dir(place.path(state)).into_iter().flatten().flatten();
    let mut records =
        records.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("snapshot-")?.parse::<u64>().ok());
    records.any(|record| record > 1)
}

#[test]
fn any_history_ends_as_the_fit_of_the_rows_that_are_left() {
    let histories = if long_tests() { 200 } else { 12 };
    let place = begun();
    let (mut expired, mut torn) = (0, 0);
    for seed in 0..histories {
        let window = match seed % 3 {
            0 => Window::Rows(60 + draw("rows", seed, 200) as usize),
            1 => Window::Time(30 + draw("span", seed, 200) as i64),
            _ => Window::None,
        };
        let mut reference = Reference::new(window, seed, 150 + draw("keys", seed, 400));
        let (state, input) = (format!("s{seed}"), format!("in{seed}.jsonl"));
        let publish = ["end", "every:170", "drift:0.6", "drift:1"][(seed % 4) as usize];
        let line = |workers: u64| {
            let window = reference_flag(window);
            format!(
                "--mode exact --config-from m.nys --state {state} --input jsonl:{input} --publish {publish} --workers {workers} {window}"
            )
        };
        let mut lines: Vec<String> = Vec::new();
        for run in 0..3 {
            lines.extend(reference.lines(150 + draw("count", 10 * seed + run, 700) as usize));
            place.lines(&input, &lines);
            let workers = 1 + draw("workers", 10 * seed + run, 3);
            for attempt in 0..draw("kills", 10 * seed + run, 3) {
                let child = place.start_online(&line(workers));
                std::thread::sleep(Duration::from_micros(draw("pause", 100 * seed + 10 * run + attempt, 250_000)));
                kill(child);
                // A write that the end of the machine has cut short, where no snapshot holds what it has.
                if run == 0
                    && attempt == 0
                    && !snapshot_of_events(&place, &state)
                    && let Some(path) = newest_segment(&place, &state)
                {
                    let bytes = std::fs::read(&path).unwrap();
                    let cut = draw("cut", seed, 900) as usize;
                    if bytes.len() > 500 + cut {
                        std::fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
                        torn += 1;
                    }
                }
            }
            let report = place.online(&line(1 + draw("workers after", 10 * seed + run, 3)));
            reference.compare(&place, &report, &format!("seed {seed}, run {run}, {window:?}, --publish {publish}"));
        }
        expired += reference.counts.get("rows_expired").copied().unwrap_or(0);
        assert_eq!(place.online(&format!("verify {state}"))["verified"], true);
    }
    eprintln!("{histories} histories: {expired} rows left their windows, {torn} logs were torn");
    assert!(expired > 50 * histories / 3);
}

fn reference_flag(window: Window) -> String {
    Reference::new(window, 0, 1).flag()
}

#[test]
fn one_event_may_move_a_window_past_all_rows() {
    let place = begun();
    let insert = |key: u64, time: f64| {
        let (a, b, c, y) = values(key, 1);
        json!({"key": format!("k{key}"), "time": time, "row": {"a": a, "b": b, "c": c, "y": y}}).to_string()
    };
    let mut lines: Vec<String> = (0..9000).map(|key| insert(key, key as f64 / 100.0)).collect();
    lines.extend((10_000..10_020).map(|key| insert(key, 1e6)));
    lines.push(insert(1, 5.0));
    lines.push(json!({"key": "timeless", "row": {"a": 1, "b": 1, "c": "level 1", "y": 1}}).to_string());
    place.lines("in.jsonl", &lines);
    let line = "--mode exact --config-from m.nys --input jsonl:in.jsonl --window time:1h --dead-letter dead.jsonl";
    let report = place.online(&format!("{line} --state s"));
    assert_eq!(
        (&report["rows_expired"], &report["rows_surviving"], &report["rows_rejected"]),
        (&json!(9000), &json!(20), &json!(2))
    );
    let dead = place.read_lines("dead.jsonl");
    assert!(dead[0].to_string().contains("outside --window time:3600s"), "{dead:?}");
    assert!(dead[1].to_string().contains("has no time"), "{dead:?}");
    write(&place.path("left.parquet"), &rows(&(10_000..10_020).map(|key| (key, 1)).collect::<Vec<_>>()));
    let fit = place.solved("fit --data left.parquet --config-from m.nys --id-column key --out again.nys");
    assert_eq!(digest(&report), digest(&fit));
    // Killed in the midst of it.
    for pause in [30, 80, 140, 220] {
        let state = format!("k{pause}");
        let child =
            place.start_online(&format!("{} --state {state}", line.replace("dead.jsonl", &format!("{state}.dead"))));
        std::thread::sleep(Duration::from_millis(pause));
        kill(child);
        let report = place.online(&format!("{} --state {state}", line.replace("dead.jsonl", &format!("{state}.dead"))));
        assert_eq!((digest(&report), &report["rows_expired"]), (digest(&fit), &json!(9000)), "killed after {pause} ms");
    }
}

/// In a window that is full each row that comes takes one away: a drift of half of 100 rows is 25 rows, and the 25th is the one that publishes.
#[test]
fn drift_counts_what_leaves_with_what_comes() {
    let place = begun();
    let insert = |key: u64| {
        let (a, b, c, y) = values(key, 1);
        json!({"key": format!("k{key}"), "row": {"a": a, "b": b, "c": c, "y": y}}).to_string()
    };
    place.lines("in.jsonl", &(0..400).map(insert).collect::<Vec<_>>());
    place.online("--mode exact --config-from m.nys --state s --input jsonl:in.jsonl --window rows:100 --publish drift:0.5 --keep-published 6");
    let published = place.json("online inspect s")["published"].clone();
    let points: Vec<u64> = published.as_array().unwrap().iter().map(|kept| kept["changes"].as_u64().unwrap()).collect();
    // The last one is that of the end.
    let between: Vec<u64> = points[..5].windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(between, [25; 4], "{points:?}");
}

#[test]
fn disk_is_bounded_by_the_window() {
    let place = begun();
    let source = "synth:friedman1?rows=60000&d=5&seed=3";
    place.json("fit --data synth:friedman1?rows=800&d=5&seed=2 --target y --out f.nys --centers 16 --solver gram --kernel gaussian --bandwidth 1x --ridge 1e-4");
    let line = "--mode exact --config-from f.nys --snapshot-every 2000 --window rows:300";
    let report = place.online(&format!("{line} --state s --input {source}"));
    assert_eq!((&report["rows_expired"], &report["rows_surviving"]), (&json!(59_700), &json!(300)), "{report}");
    // A segment is the least that goes.
    assert!(number(&report, "/log_bytes") < 70e6, "{report}");
    let whole = std::fs::metadata(place.path("s/rows/index.redb")).unwrap().len();
    assert!(whole < 8 << 20, "the index has {whole} bytes");
}

#[test]
fn windows_are_refused_where_they_cannot_be_kept() {
    let place = begun();
    place.lines("in.jsonl", &[]);
    let refused = |line: &str, part: &str| {
        let output = place.run(&format!("online {line}"));
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(part), "{line}: {error}");
    };
    refused("--config-from m.nys --state s --input jsonl:in.jsonl --window rows:5", "--forgetting");
    assert!(!place.path("s").exists());
    refused("--mode exact --config-from m.nys --state s --input jsonl:in.jsonl --window rows:0", "rows:N");
    refused("--mode kons --config-from m.nys --state s --input jsonl:in.jsonl --publish drift:0.5", "cheap to tell");
    refused("--mode exact --config-from m.nys --state s --input jsonl:in.jsonl --publish drift:2", "drift:X");
    place.online("--mode exact --config-from m.nys --state s --input jsonl:in.jsonl --window rows:5");
    refused("--state s --input jsonl:in.jsonl --window rows:6", "--window rows:6 (was rows:5)");
    place.online("--state s --input jsonl:in.jsonl");
}
