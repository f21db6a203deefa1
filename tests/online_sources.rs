//! `nystream online`: every source and sink end to end, bad input of every kind, and predictions while learning.

mod common;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use arrow_array::{ArrayRef, RecordBatch};
use common::stream::*;
use common::*;
use nystream_datasets::stream::ipc::{batches, stream_of};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::time::{Duration, Instant};

/// Rows of the stream as a batch with keys.
fn rows(from: usize, count: usize) -> RecordBatch {
    let keys = texts((from..from + count).map(|i| format!("k{i}")));
    let all = || from..from + count;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("key", keys),
        ("a", numbers(all().map(|i| uniform("a", i)))),
        ("b", numbers(all().map(|i| uniform("b", i)))),
        ("c", texts(all().map(|i| format!("level {}", (uniform("c", i) * 5.0) as u32)))),
        ("y", numbers(all().map(target))),
    ];
    batch(columns)
}

/// Reads standard error until a line holds `part`, and gives what follows it.
fn told(child: &mut Child, part: &str) -> String {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let found =
        lines.by_ref().map_while(Result::ok).find_map(|line| line.split_once(part).map(|(_, rest)| rest.to_owned()));
    // The rest is read away, so that the child never waits.
    std::thread::spawn(move || lines.for_each(drop));
    found.unwrap_or_else(|| panic!("nothing said {part}"))
}

/// A run ends in the midst of a piece, behind a publication. What comes next is taken, unless it is what was taken: whatever a folder holds by then, and another stream on standard input. A file that was replaced is refused,
/// one whose bad line was mended goes on.
#[test]
fn what_comes_next_is_not_taken_for_what_was() {
    let place = Place::new();
    place.model("m.nys");
    let begin = "--config-from m.nys --cap 60 --publish every:100 --strict";
    let run = |state: &str, input: &str, stdin: Option<&str>| {
        let line = format!("online {begin} --state {state} --input {input} --idle-exit 1s --format json");
        let mut command = place.command(&line);
        if let Some(name) = stdin {
            command.stdin(std::fs::File::open(place.path(name)).unwrap());
        }
        command.output().unwrap()
    };
    let ends = |output: &std::process::Output| {
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    };
    let has = |output: &std::process::Output, rows: f64| {
        assert_eq!(number(&summary(output, ""), "/rows_inserted"), rows, "{}", text(&output.stderr));
    };
    let mut first: Vec<String> = (0..500).map(insert).collect();
    first[350] = "no event".into();
    place.lines("first.jsonl", &first);
    place.lines("second.jsonl", &(1000..1500).map(insert).collect::<Vec<_>>());

    // A folder: the half-read file goes, one comes before it by name.
    std::fs::create_dir(place.path("in")).unwrap();
    let whole = rows(0, 500);
    let bad = numbers((0..500).map(|i| if i == 350 { f64::NAN } else { target(i) }));
    let mut columns = whole.columns().to_vec();
    columns[4] = bad;
    let names: Vec<String> = whole.schema().fields().iter().map(|field| field.name().clone()).collect();
    let torn = batch(names.iter().map(String::as_str).zip(columns).collect());
    write(&place.path("in/m.parquet"), &torn);
    ends(&run("folder", "watch:in", None));
    std::fs::rename(place.path("in/m.parquet"), place.path("m.parquet")).unwrap();
    write(&place.path("in/a.parquet"), &rows(1000, 500));
    has(&run("folder", "watch:in", None), 800.0);

    // Standard input: what comes is taken.
    ends(&run("stdin", "jsonl:-", Some("first.jsonl")));
    has(&run("stdin", "jsonl:-", Some("second.jsonl")), 800.0);

    // Files.
    std::fs::copy(place.path("first.jsonl"), place.path("in.jsonl")).unwrap();
    ends(&run("file", "jsonl:in.jsonl", None));
    std::fs::copy(place.path("second.jsonl"), place.path("in.jsonl")).unwrap();
    let output = run("file", "jsonl:in.jsonl", None);
    ends(&output);
    assert!(text(&output.stderr).contains("is not the file that was read before"), "{}", text(&output.stderr));
    first[350] = insert(350);
    place.lines("in.jsonl", &first);
    has(&run("file", "jsonl:in.jsonl", None), 500.0);
}

/// The same rows from a file of lines, an IPC file, connections and a folder give one model.
#[test]
fn sources_agree() {
    let place = Place::new();
    place.model("m.nys");
    let begin = "--config-from m.nys --cap 60";
    place.lines("in.jsonl", &(0..600).map(insert).collect::<Vec<_>>());
    let expected = digest(&place.online(&format!("{begin} --state lines --input jsonl:in.jsonl")));
    std::fs::write(place.path("in.arrows"), stream_of(&rows(0, 600)).unwrap()).unwrap();
    assert_eq!(digest(&place.online(&format!("{begin} --state ipc --input ipc:in.arrows"))), expected);
    std::fs::create_dir(place.path("in")).unwrap();
    write(&place.path("in/1.parquet"), &rows(0, 350));
    write(&place.path("in/2.parquet"), &rows(350, 250));
    let line = format!("{begin} --state watch --input watch:in --idle-exit 1s");
    assert_eq!(digest(&place.online(&line)), expected);
    assert_eq!(number(&place.online(&line), "/rows_inserted"), 600.0, "each file once");
    for (state, input) in
        [("tcp", "tcp:127.0.0.1:0".to_owned()), ("unix", format!("unix:{}", place.path("sock").display()))]
    {
        let line = format!("{begin} --state {state} --input {input} --idle-exit 2s");
        let mut child = place.start_online(&line);
        let send = |bytes: &[u8], address: &str| match state {
            "tcp" => TcpStream::connect(address).unwrap().write_all(bytes).unwrap(),
            _ => {
                #[cfg(unix)]
                std::os::unix::net::UnixStream::connect(address).unwrap().write_all(bytes).unwrap();
            }
        };
        let address = match state {
            "tcp" => told(&mut child, "listening: tcp:"),
            _ => {
                let begun = Instant::now();
                while !place.path("sock").exists() && begun.elapsed() < Duration::from_secs(60) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                place.path("sock").display().to_string()
            }
        };
        send(&stream_of(&rows(0, 350)).unwrap(), &address);
        send(b"this is no stream of frames", &address);
        // A frame of 10 GB, and one that ends half-way.
        send(&[&u32::MAX.to_le_bytes()[..], &0x7fff_fff0u32.to_le_bytes(), b"x"].concat(), &address);
        send(&stream_of(&rows(350, 250)).unwrap(), &address);
        let report = summary(&finish(child, &line), &line);
        assert_eq!((digest(&report), number(&report, "/rows_rejected")), (expected.clone(), 2.0), "{state}");
    }
}

/// Answers as lines, as a stream and as parts are the same, over a restart.
#[test]
fn sinks_agree() {
    let place = Place::new();
    place.model("m.nys");
    for (state, sink) in [("l", "jsonl:out.jsonl"), ("i", "ipc:out.arrows"), ("p", "parquet:parts")] {
        let line = format!(
            "--config-from m.nys --cap 60 --state {state} --input jsonl:in.jsonl --output {sink} --snapshot-every 300"
        );
        for rows in [500, 900] {
            place.lines("in.jsonl", &(0..rows).map(insert).collect::<Vec<_>>());
            place.online(&line);
        }
    }
    let lines = place.read_lines("out.jsonl");
    let stream = batches(&std::fs::read(place.path("out.arrows")).unwrap()).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(place.path("parts")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(names.len() >= 3, "{names:?}");
    let open = |path: &std::path::PathBuf| {
        let file = std::fs::File::open(path).unwrap();
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap()
            .map(Result::unwrap)
    };
    let parts: Vec<RecordBatch> = names.iter().flat_map(open).collect();
    for (name, tables) in [("stream", stream), ("parts", parts)] {
        let mut row = 0;
        for table in tables {
            let column = |name: &str| table.column_by_name(name).unwrap().clone();
            let (seq, value, variance) = (column("seq"), column("prediction"), column("variance"));
            let keys = column("key");
            for i in 0..table.num_rows() {
                let line = &lines[row];
                assert_eq!(seq.as_primitive::<UInt64Type>().value(i), line["seq"].as_u64().unwrap(), "{name}");
                assert_eq!(keys.as_string::<i32>().value(i), line["key"], "{name}");
                assert_eq!(
                    value.as_primitive::<Float64Type>().value(i),
                    line["prediction"].as_f64().unwrap(),
                    "{name}"
                );
                let variance = variance.as_primitive::<Float64Type>();
                assert_eq!(
                    arrow_array::Array::is_valid(variance, i).then(|| variance.value(i)),
                    line["variance"].as_f64(),
                    "{name}"
                );
                row += 1;
            }
        }
        assert_eq!(row, 900, "{name}");
    }
}

/// Each bad event is counted, told with its key, kept with its text, and stops nothing; with --strict it ends the run.
#[test]
fn bad_events_are_refused_and_told() {
    let place = Place::new();
    place.model("m.nys");
    let good = |key: &str| json!({ "key": key, "row": labelled(1) });
    let with = |key: &str, column: &str, value: Value| {
        let mut event = good(key);
        event["row"][column] = value;
        event.to_string()
    };
    let mut timed = good("now");
    timed["time"] = json!("2026-01-02T00:00:00Z");
    let mut late = good("late");
    late["time"] = json!("2026-01-01T00:00:00Z");
    let mut weighed = good("weighed");
    weighed["weight"] = json!(-1.0);
    let mut misspelt = good("misspelt");
    misspelt["wieght"] = json!(1.0);
    let waits = json!({ "key": "waits", "row": row(2) }).to_string();
    let label = |key: &str, value: Value| json!({ "op": "label", "key": key, "row": { "y": value } }).to_string();
    /// A line, and what is said of it where it is refused: its key, and part of the reason.
    type Case<'a> = (String, Option<(Option<&'a str>, &'a str)>);
    let events: Vec<Case<'_>> = vec![
        (good("first").to_string(), None),
        (json!({ "op": "delete", "key": "never" }).to_string(), Some((Some("never"), "waits for its label"))),
        (
            json!({ "op": "update", "key": "never", "row": row(1) }).to_string(),
            Some((Some("never"), "waits for its label")),
        ),
        (label("never", json!(1)), Some((Some("never"), "waits for its label"))),
        (waits.clone(), None),
        (waits, Some((Some("waits"), "there already"))),
        (label("waits", json!("NaN")), Some((Some("waits"), "is not a number"))),
        (label("waits", json!(1e9)), Some((Some("waits"), "outside the range"))),
        (label("waits", Value::Null), Some((Some("waits"), "needs a target"))),
        (with("nan", "a", json!("NaN")), Some((Some("nan"), "column 'a' is not a number"))),
        (with("inf", "b", json!("-Infinity")), Some((Some("inf"), "column 'b' is infinite"))),
        (with("far", "y", json!(1e6)), Some((Some("far"), "outside the range"))),
        (with("text", "a", json!("much")), Some((Some("text"), "a number is needed"))),
        (with("list", "a", json!([1])), Some((Some("list"), "column 'a'"))),
        (timed.to_string(), None),
        (late.to_string(), Some((Some("late"), "--lateness"))),
        (weighed.to_string(), Some((Some("weighed"), "no weight"))),
        (misspelt.to_string(), Some((Some("misspelt"), "wieght"))),
        (
            json!({ "op": "upsert", "key": "op", "row": row(1) }).to_string(),
            Some((Some("op"), "insert, update, delete or label")),
        ),
        ("{\"row\": {}}".into(), Some((None, "no \"key\""))),
        ("neither json".into(), Some((None, "expected"))),
        (good("").to_string(), Some((None, "key"))),
        // Columns that the model does not read are none of this, nor are nulls; ones that are missing may be misspelt.
        (with("more", "extra", json!(1)), None),
        (
            with("more and bad", "extra", json!("kept")).replace("\"a\":", "\"a\": \"NaN\", \"z\":"),
            Some((Some("more and bad"), "column 'a'")),
        ),
        (
            json!({ "key": "less", "row": { "a": 0.5, "B": 1, "c": "level 1", "y": 1.0 } }).to_string(),
            Some((Some("less"), "no column 'b' (there is 'B')")),
        ),
        (with("null", "c", Value::Null), None),
        (label("waits", json!(target(2))), None),
    ];
    place.lines("in.jsonl", &events.iter().map(|(line, _)| line.clone()).collect::<Vec<_>>());
    let line = "--config-from m.nys --state s --cap 60 --input jsonl:in.jsonl --lateness 1h --dead-letter dead.jsonl --output jsonl:out.jsonl";
    let report = place.online(line);
    let dead = place.read_lines("dead.jsonl");
    let refused: Vec<_> = events.iter().filter_map(|(line, refused)| refused.map(|refused| (line, refused))).collect();
    assert_eq!((dead.len(), number(&report, "/rows_rejected")), (refused.len(), refused.len() as f64));
    for (found, (line, (key, part))) in dead.iter().zip(&refused) {
        assert_eq!(found["key"].as_str(), *key, "{line}: {found}");
        assert!(found["reason"].as_str().unwrap().contains(part), "{line}: {found}");
        // As it stands there, columns that no model reads and all.
        assert_eq!(found["text"].as_str(), Some(line.as_str()), "{found}");
    }
    let good: Vec<_> = events.iter().filter(|(_, refused)| refused.is_none()).collect();
    assert_eq!(number(&report, "/rows_inserted") + number(&report, "/rows_labelled"), good.len() as f64);
    for (at, (line, (_, part))) in refused.iter().enumerate() {
        // With what makes it refused before it.
        let before = events.iter().position(|(other, _)| other == *line).unwrap();
        let rest: Vec<String> = events[..before]
            .iter()
            .filter(|(_, refused)| refused.is_none())
            .map(|(line, _)| line.clone())
            .chain([(*line).clone()])
            .collect();
        place.lines("strict.jsonl", &rest);
        let output = place.run(&format!(
            "online --config-from m.nys --state strict{at} --input jsonl:strict.jsonl --lateness 1h --strict"
        ));
        let error = text(&output.stderr);
        if *part == "there already" {
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{line}: {error}");
        assert!(error.contains("--strict") && error.contains(part), "{line}: {error}");
    }
}

#[test]
fn one_process_holds_a_state() {
    let place = Place::new();
    place.model("m.nys");
    std::fs::create_dir(place.path("in")).unwrap();
    let line = "--config-from m.nys --state s --input watch:in";
    let child = place.start_online(line);
    let begun = Instant::now();
    while !place.path("s/online.json").exists() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = place.run(&format!("online {line} --format json"));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("in use by another process"), "{}", text(&output.stderr));
    // Looking is allowed.
    assert_eq!(number(&place.online("inspect s"), "/rows_inserted"), 0.0);
    kill(child);
    assert_eq!(place.online("verify s")["verified"], true);
}

/// A request with a body of Arrow: its first line, a header, and the name of one that takes what `ask` adds to the line.
const ARROW: &str = "POST /predict HTTP/1.1\r\nContent-Type: application/vnd.apache.arrow.stream\r\nX:";

/// What a request is answered: status and body.
fn ask(address: &str, head: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!("{head} HTTP/1.1\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    socket.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    socket.write_all(body).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let status = text(&answer[..end]).split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_off(end))
}

#[cfg(unix)]
#[test]
fn predictions_are_served_while_learning() {
    let place = Place::new();
    place.model("m.nys");
    std::fs::create_dir(place.path("in")).unwrap();
    write(&place.path("in/1.parquet"), &rows(0, 500));
    let line = "--config-from m.nys --cap 60 --state s --clip none --input watch:in --listen 0";
    let mut child = place.start_online(line);
    let address = told(&mut child, "predictions: http://");
    let address = address.split_once('/').unwrap().0.to_owned();
    let begun = Instant::now();
    let ready = loop {
        let (status, body) = ask(&address, "GET /health", b"");
        if status == 200 {
            let health: Value = serde_json::from_slice(&body).unwrap();
            if health["changes"] == 500 {
                break health;
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{status} {}", text(&body));
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(number(&ready, "/centers") > 5.0, "{ready}");
    let asked = json!({ "rows": [row(7000), { "a": "much" }, row(7001)] }).to_string();
    let (status, body) = ask(&address, "POST /predict", asked.as_bytes());
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, answer["changes"].as_u64()), (200, Some(500)));
    assert!(answer["predictions"][1]["error"].as_str().unwrap().contains("a number is needed"), "{answer}");
    let (status, body) = ask(&address, ARROW, &stream_of(&rows(7000, 2)).unwrap());
    assert_eq!(status, 200, "{}", text(&body));
    let table = batches(&body).unwrap().remove(0);
    let values = table.column_by_name("prediction").unwrap().as_primitive::<Float64Type>().clone();
    for (i, at) in [(0, 0), (1, 2)] {
        assert_eq!(values.value(i), answer["predictions"][at]["prediction"].as_f64().unwrap());
        assert!((values.value(i) - target(7000 + i)).abs() < 0.5, "{} {}", values.value(i), target(7000 + i));
    }
    // Whoever asks without a column that the model needs is told its name, and the one that may be meant.
    let lacking = json!({ "rows": [row(1), { "a": 0.5, "B": 0.5, "c": "level 1" }] }).to_string();
    let (status, body) = ask(&address, "POST /predict", lacking.as_bytes());
    assert!(
        status == 400 && text(&body).contains("row 1: the row has no column 'b' (there is 'B')"),
        "{}",
        text(&body)
    );
    let without = rows(7000, 2).project(&[0, 2]).unwrap();
    let (status, body) = ask(&address, ARROW, &stream_of(&without).unwrap());
    assert!(status == 400 && text(&body).contains("the row has no column '"), "{}", text(&body));
    for (head, body, status) in [
        ("POST /predict", &b"{"[..], 400),
        ("POST /predict", b"{\"rows\": 3}", 400),
        ("GET /predict", b"", 405),
        ("GET /other", b"", 404),
        (ARROW, b"garbage", 400),
    ] {
        assert_eq!(ask(&address, head, body).0, status, "{head}");
    }
    let output = interrupt(child, line);
    assert_eq!(output.status.code(), Some(130));
    // What was served is the model of the state.
    place.online("export s --out e.nys");
    write(&place.path("probe.parquet"), &rows(7000, 2));
    place.json("predict --model e.nys --data probe.parquet --out p.parquet");
    let file = std::fs::File::open(place.path("p.parquet")).unwrap();
    let mut reader =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let predicted = reader.next().unwrap().unwrap();
    let predicted = predicted.column_by_name("prediction").unwrap().as_primitive::<Float64Type>().clone();
    assert_eq!(predicted.value(0), values.value(0));
}
