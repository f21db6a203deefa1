//! `nystream online --shard-by`: each shard is a run on its own rows; labels, restarts, limits, models, predictions.

mod common;

use common::stream::*;
use common::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const SHARDS: usize = 4;

fn shop(i: usize) -> String {
    format!("shop {}", (i * i / 3 + i / 5) % SHARDS)
}

/// An event of row `i`; without its label for some, which comes later.
fn event(i: usize, labelled: bool) -> Value {
    let mut row = if labelled { common::stream::labelled(i) } else { row(i) };
    row["shop"] = shop(i).into();
    json!({ "key": format!("k{i}"), "row": row })
}

fn lines(rows: usize, own: impl Fn(usize) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    for i in 0..rows {
        if own(i) {
            lines.push(event(i, i % 9 != 4).to_string());
        }
        if i % 9 == 8 && own(i - 4) {
            lines.push(
                json!({ "op": "label", "key": format!("k{}", i - 4), "row": { "y": target(i - 4) } }).to_string(),
            );
        }
    }
    lines
}

/// The answers of each shard, and its model, are those of a run on its rows alone; a kill on the way changes nothing.
#[test]
fn shards_are_runs_of_their_own() {
    let place = Place::new();
    place.model("m.nys");
    for (mode, options) in
        [("con-kons", "--cap 40 --hindsight 50 --block 16"), ("recursive", "--block 16"), ("kons", "")]
    {
        let begin = format!("--mode {mode} {options} --config-from m.nys");
        let rows = if mode == "kons" { 300 } else { 900 };
        place.lines("in.jsonl", &lines(rows, |_| true));
        let line = |state: &str| {
            format!(
                "{begin} --shard-by shop --state {mode}-{state} --input jsonl:in.jsonl --output jsonl:{mode}-{state}.jsonl --snapshot-every 200"
            )
        };
        let child = place.start_online(&line("s"));
        let begun = Instant::now();
        let seen = || std::fs::metadata(place.path(&format!("{mode}-s.jsonl"))).map_or(0, |found| found.len());
        while seen() == 0 && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(child);
        let report = place.online(&line("s"));
        let undisturbed = place.online(&line("t"));
        assert_eq!(digest(&report), digest(&undisturbed));
        let answers = std::fs::read(place.path(&format!("{mode}-s.jsonl"))).unwrap();
        assert_eq!(answers, std::fs::read(place.path(&format!("{mode}-t.jsonl"))).unwrap());
        assert_eq!(number(&report, "/shards/count"), SHARDS as f64, "{report}");
        assert_eq!(
            (number(&report, "/prequential/rows"), number(&report, "/rows_rejected")),
            (rows as f64, 0.0),
            "{report}"
        );
        assert!(
            number(&report, "/prequential/window_loss") < 1.0
                && number(&report, "/shards/largest/rows") > rows as f64 / 8.0
        );
        let all = place.read_lines(&format!("{mode}-s.jsonl"));
        assert!(all.iter().enumerate().all(|(i, answer)| answer["seq"] == i));
        let mut dictionaries = 0.0;
        for of in 0..SHARDS {
            let own = |i: usize| shop(i) == format!("shop {of}");
            place.lines("own.jsonl", &lines(rows, own));
            let alone = place.online(&format!(
                "{begin} --state {mode}-{of} --input jsonl:own.jsonl --output jsonl:{mode}-{of}.jsonl"
            ));
            let key = |answer: &Value| answer["key"].as_str().unwrap()[1..].parse::<usize>().unwrap();
            let strip = |answer: &Value| {
                let mut answer = answer.clone();
                answer["seq"] = Value::Null;
                answer
            };
            let found: Vec<Value> = all.iter().filter(|answer| own(key(answer))).map(strip).collect();
            let expected: Vec<Value> = place.read_lines(&format!("{mode}-{of}.jsonl")).iter().map(strip).collect();
            // Rows without a label are answered between blocks, at other places of the order: by key they are the same.
            assert_eq!(sorted(found), sorted(expected), "{mode}, shop {of}");
            let mut export = place.command(&format!("online export {mode}-s --out e.nys --format json"));
            export.args(["--shard", &format!("shop {of}")]);
            let exported = summary(&finish(export.spawn().unwrap(), "export"), "export");
            assert_eq!(digest(&place.json("inspect e.nys")), digest(&alone), "{mode}, shop {of}: {exported}");
            dictionaries += number(&alone, "/dictionary");
        }
        assert_eq!(number(&report, "/dictionary"), dictionaries);
        let inspected = place.online(&format!("inspect {mode}-s"));
        assert_eq!((digest(&inspected), &inspected["shards"]), (digest(&report), &report["shards"]));
        assert_eq!(place.online(&format!("verify {mode}-s"))["verified"], true);
        place.fails(&format!("online export {mode}-s --out x.nys"), 1, &["--shard"]);
        place.fails(&format!("online export {mode}-s --out x.nys --shard nowhere"), 1, &["'nowhere'"]);
    }
}

fn sorted(mut answers: Vec<Value>) -> Vec<Value> {
    answers.sort_by_key(|answer| answer["key"].as_str().unwrap().to_owned());
    answers
}

#[test]
fn further_shards_are_dead_letters() {
    let place = Place::new();
    place.model("m.nys");
    let mut all = lines(300, |_| true);
    all.push(json!({ "key": "none", "row": labelled(1) }).to_string());
    place.lines("in.jsonl", &all);
    let begin = "--config-from m.nys --cap 40 --input jsonl:in.jsonl";
    let report = place.online(&format!("{begin} --state s --shard-by shop --max-shards 2 --dead-letter dead.jsonl"));
    assert_eq!((number(&report, "/shards/count"), number(&report, "/shards/max")), (2.0, 2.0));
    let dead = place.read_lines("dead.jsonl");
    assert!(number(&report, "/rows_rejected") == dead.len() as f64 && dead.len() > 100, "{report}");
    assert!(dead[0]["reason"].as_str().unwrap().contains("--max-shards"), "{}", dead[0]);
    assert!(dead.last().unwrap()["reason"].as_str().unwrap().contains("column 'shop'"), "{:?}", dead.last());
    // By key: as many as rows with a label.
    let report = place.online(&format!("{begin} --state k --shard-by key --max-shards 1000"));
    assert_eq!(number(&report, "/shards/count"), number(&report, "/rows_inserted"));
    // By a column that the model reads, and by numbers.
    let report = place.online(&format!("{begin} --state c --shard-by c"));
    assert!((2.0..=5.0).contains(&number(&report, "/shards/count")), "{report}");
    for (options, code, part) in [
        ("--shard-by y", 2, "target"),
        ("--shard-by shop --mode exact", 2, "--mode exact"),
        ("--shard-by shop --publish every:10", 2, "--publish"),
        ("--max-shards 3", 2, "--shard-by"),
        ("--shard-by=", 2, "names no column"),
        ("--shard-by shop --keep-published 3", 2, "--keep-published"),
        ("--shard-by shop --max-shards 1000000 --memory 1GiB", 4, "--max-shards"),
    ] {
        let output = place.run(&format!("online {begin} --state n {options}"));
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(code) && error.contains(part), "{options}: {error}");
        assert!(!place.path("n/online.json").exists());
    }
    place.fails("online --state c --input jsonl:in.jsonl --shard-by shop", 2, &["--shard-by shop (was c)"]);
    place.fails("online --state s --input jsonl:in.jsonl --max-shards 3", 2, &["--max-shards 3 (was 2)"]);
    place.fails("online --state s --input jsonl:in.jsonl --keep-published 3", 2, &["--keep-published"]);
    // Where the source says what it has, a column that is absent is told before it is read.
    let line = "online --config-from m.nys --state n --shard-by shops --input synth:friedman1?rows=100&d=5";
    place.fails(line, 2, &["--shard-by shops", "no such column", "x0, x1, x2"]);
}

/// What a request is answered.
fn ask(address: &str, head: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(socket, "{head} HTTP/1.1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Requests go to the model of their shard; figures are shown; a termination signal leaves a snapshot of all of it.
#[cfg(unix)]
#[test]
fn requests_go_to_their_shard() {
    let place = Place::new();
    place.model("m.nys");
    let mut command = place.command("online --config-from m.nys --cap 40 --clip none --shard-by shop --state s --input jsonl:- --listen 0 --format json");
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = said.by_ref().map_while(Result::ok).find_map(|line| {
        line.split_once("predictions: http://").map(|(_, rest)| rest.trim_end_matches("/predict").to_owned())
    });
    let address = address.unwrap();
    std::thread::spawn(move || said.for_each(drop));
    let all = lines(1200, |_| true);
    stdin.write_all(all.iter().map(|line| format!("{line}\n")).collect::<String>().as_bytes()).unwrap();
    stdin.flush().unwrap();
    let begun = Instant::now();
    while !ask(&address, "GET /health", "").contains(&format!("\"changes\":{}", all.len())) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", ask(&address, "GET /health", ""));
        std::thread::sleep(Duration::from_millis(20));
    }
    let rows: Vec<Value> = (0..SHARDS)
        .map(|of| {
            let mut row = row(7000);
            row["shop"] = format!("shop {of}").into();
            row
        })
        .chain([json!({ "a": 0.5, "b": 0.5, "c": null, "shop": "elsewhere" }), row(7000)])
        .collect();
    let answer: Value =
        serde_json::from_str(&ask(&address, "POST /predict", &json!({ "rows": rows }).to_string())).unwrap();
    let served: Vec<Option<f64>> = (0..SHARDS + 2).map(|i| answer["predictions"][i]["prediction"].as_f64()).collect();
    assert!(answer["predictions"][SHARDS]["error"].as_str().unwrap().contains("'elsewhere'"), "{answer}");
    assert!(answer["predictions"][SHARDS + 1]["error"].as_str().unwrap().contains("column 'shop'"), "{answer}");
    // The figures are those of a moment ago.
    let metrics = loop {
        let metrics = ask(&address, "GET /metrics", "");
        if metrics.contains("nystream_online_rows_total{op=\"insert\"} 1200\n") {
            break metrics;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{metrics}");
        std::thread::sleep(Duration::from_millis(20));
    };
    for line in ["nystream_online_shards 4", "nystream_online_info{mode=\"con-kons\"} 1"] {
        assert!(metrics.lines().any(|own| own == line), "{line}: {metrics}");
    }
    assert!(
        metrics.contains("nystream_requests_total{status=\"200\"}")
            && metrics.contains("nystream_online_snapshot_age_seconds")
    );
    let id = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = finish(child, "online");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    drop(stdin);
    // A snapshot of all that was acknowledged: nothing of the log is to be taken again.
    place.lines("none.jsonl", &[]);
    let report = place.online("--state s --input jsonl:none.jsonl");
    assert_eq!(number(&report, "/records_replayed"), 0.0, "{report}");
    assert_eq!(number(&report, "/rows_inserted"), 1200.0);
    write(&place.path("probe.parquet"), &batch(table(7000, 1)));
    for (of, value) in served.iter().take(SHARDS).enumerate() {
        let mut export = place.command("online export s --out e.nys --format json");
        export.args(["--shard", &format!("shop {of}")]);
        summary(&finish(export.spawn().unwrap(), "export"), "export");
        place.json("predict --model e.nys --data probe.parquet --out p.parquet");
        let file = std::fs::File::open(place.path("p.parquet")).unwrap();
        let mut reader =
            parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let table = reader.next().unwrap().unwrap();
        let column = table.column_by_name("prediction").unwrap().clone();
        let expected = column.as_any().downcast_ref::<arrow_array::Float64Array>().unwrap().value(0);
        // The run has ended, and with it the blocks that were not complete.
        assert!((value.unwrap() - expected).abs() < 0.5, "{value:?} {expected}");
    }
}
