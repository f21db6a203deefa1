//! Requests to `--listen` while rows are learned: `as_of`, by which published models of before answer, and the figures of `GET /metrics`.

#![cfg(unix)]

mod common;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use common::stream::*;
use common::*;
use nystream_datasets::stream::ipc::{batches, message_of, stream_of};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const ARROW: &str = "\r\nContent-Type: application/vnd.apache.arrow.stream";

/// What a prediction is answered: status and body.
fn ask(address: &str, header: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!("POST /predict HTTP/1.1\r\nContent-Length: {}\r\nConnection: close{header}\r\n\r\n", body.len());
    socket.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let status = text(&answer[..end]).split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_off(end))
}

/// The first row's prediction and the change of its model.
fn json_of(address: &str, as_of: Option<u64>) -> (u16, Value) {
    let mut body = json!({ "rows": [row(7000), row(7001)] });
    if let Some(as_of) = as_of {
        body["as_of"] = as_of.into();
    }
    let (status, body) = ask(address, "", body.to_string().as_bytes());
    (status, serde_json::from_slice(&body).unwrap())
}

fn arrow_of(address: &str, as_of: &str) -> (u16, Vec<u8>) {
    let mut columns = table(7000, 2);
    columns.pop();
    let batch = batch(columns);
    let told = HashMap::from([("as_of".to_owned(), as_of.to_owned())]);
    let schema = batch.schema().as_ref().clone().with_metadata(told);
    let batch = RecordBatch::try_new(schema.into(), batch.columns().to_vec()).unwrap();
    ask(address, ARROW, &stream_of(&batch).unwrap())
}

/// The same, of a stream that has a schema and no batch.
fn empty_of(address: &str, as_of: &str) -> (u16, Vec<u8>) {
    let mut columns = table(7000, 1);
    columns.pop();
    let told = HashMap::from([("as_of".to_owned(), as_of.to_owned())]);
    let batch = batch(columns);
    let schema = batch.schema().as_ref().clone().with_metadata(told);
    let batch = RecordBatch::try_new(schema.into(), batch.columns().to_vec()).unwrap();
    let end = [255, 255, 255, 255, 0, 0, 0, 0];
    ask(address, ARROW, &[&message_of(&batch).unwrap().0[..], &end].concat())
}

/// A run that reads lines from its standard input, and where it listens.
fn started(place: &Place, line: &str) -> (Child, String) {
    let mut command = place.command(&format!("online {line} --input jsonl:- --listen 0"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let found = said.by_ref().map_while(Result::ok).find_map(|line| {
        line.split_once("predictions: http://").map(|(_, rest)| rest.trim_end_matches("/predict").to_owned())
    });
    // The rest is read away, so that the child never waits.
    std::thread::spawn(move || said.for_each(drop));
    (child, found.unwrap())
}

/// What the model that `export --as-of` writes predicts of the rows that are asked for.
fn exported(place: &Place, state: &str, as_of: u64) -> Vec<f64> {
    place.online(&format!("export {state} --as-of {as_of} --out then.nys"));
    write(&place.path("asked.parquet"), &batch(table(7000, 2)));
    place.json("predict --model then.nys --data asked.parquet --out p.parquet");
    let file = std::fs::File::open(place.path("p.parquet")).unwrap();
    let builder = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let predicted = builder.build().unwrap().next().unwrap().unwrap();
    let column = predicted.schema().fields().iter().position(|field| field.name().contains("prediction")).unwrap();
    predicted.column(column).as_primitive::<Float64Type>().values().to_vec()
}

#[test]
fn requests_reach_published_models_of_before() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(1_000_000, 1200)));
    let model = "--kernel gaussian --bandwidth 1x --ridge 1e-5 --select rpcholesky --solver gram --centers 24";
    place.json(&format!("fit --data d.parquet --target y --out m.nys {model}"));
    for (state, learner) in [("e", "--mode exact"), ("s", "--cap 60 --block 50")] {
        let line = format!("--config-from m.nys {learner} --state {state} --publish every:300 --keep-published 3");
        let (mut child, address) = started(&place, &line);
        let mut stdin = child.stdin.take().unwrap();
        let lines: String = (0..1250).map(|i| insert(i) + "\n").collect();
        stdin.write_all(lines.as_bytes()).unwrap();
        stdin.flush().unwrap();
        // Its last publication.
        let kept = place.path(&format!("{state}/published/{:020}.nys", 1200));
        let begun = Instant::now();
        while !kept.exists() || json_of(&address, None).1["changes"].as_u64() < Some(1200) {
            assert!(begun.elapsed() < Duration::from_secs(120), "{}", json_of(&address, None).1);
            std::thread::sleep(Duration::from_millis(10));
        }
        for (asked, there) in [(600, 600), (1199, 900), (600, 600), (1200, 1200), (1 << 40, 1200), (899, 600)] {
            let (status, found) = json_of(&address, Some(asked));
            assert_eq!((status, found["changes"].as_u64()), (200, Some(there)), "{state}, {asked}: {found}");
            let expected = exported(&place, state, asked);
            let told: Vec<f64> = (0..2).map(|i| number(&found, &format!("/predictions/{i}/prediction"))).collect();
            assert_eq!(told, expected, "{state} as of {asked}");
            let (status, body) = arrow_of(&address, &asked.to_string());
            assert_eq!(status, 200, "{}", text(&body));
            let answer = batches(&body).unwrap().remove(0);
            assert_eq!(answer.schema().metadata()["changes"], there.to_string());
            assert_eq!(answer.column(0).as_primitive::<Float64Type>().values().to_vec(), expected);
        }
        let (status, found) = json_of(&address, Some(599));
        assert!(status == 404 && found["error"].as_str().unwrap().contains("600, 900, 1200"), "{found}");
        assert_eq!(arrow_of(&address, "599").0, 404);
        assert_eq!(arrow_of(&address, "soon").0, 400);
        // A schema without a batch asks for a model all the same.
        for (asked, status) in [("599", 404), ("soon", 400), ("600", 200)] {
            let (found, body) = empty_of(&address, asked);
            assert_eq!(found, status, "{asked}: {}", text(&body));
            if found == 200 {
                let answer = batches(&body).unwrap();
                assert_eq!(answer[0].schema().metadata()["changes"], "600");
                assert_eq!(answer.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
            }
        }
        let (status, body) = ask(&address, "", br#"{"row": {"a": 1}, "as_of": -4}"#);
        assert_eq!(status, 400, "{}", text(&body));
        // A column that stands twice is no matter of which comes last.
        let (status, body) =
            ask(&address, "", br#"{"rows": [{"a": 1, "b": 2, "a": 3}, {"a": 1, "b": 2, "c": null}], "as_of": 600}"#);
        let found: Value = serde_json::from_slice(&body).unwrap();
        assert!(status == 200 && found["predictions"][1]["prediction"].is_number(), "{found}");
        assert_eq!(found["predictions"][0]["error"], "the column 'a' stands twice");
        // A file that is damaged is no answer, and no end.
        let name = format!("{state}/published/{:020}.nys", 900);
        std::fs::write(place.path(&name), b"nothing").unwrap();
        let (status, found) = json_of(&address, Some(900));
        assert!(status == 500 && found["error"].as_str().unwrap().contains("00900.nys"), "{found}");
        assert_eq!(json_of(&address, Some(600)).0, 200);
        assert_eq!(json_of(&address, None).0, 200);
        drop(stdin);
        let output = finish(child, &line);
        assert_eq!(output.status.code(), Some(0));
    }
}

/// `POST /publish`.
fn publish(address: &str) -> (u16, Value) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    socket.write_all(b"POST /publish HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

/// A model is published when somebody asks for it, as of what has come by then, and a restart has it at the same place.
#[test]
fn publications_on_demand() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(1_000_000, 1200)));
    let model = "--kernel gaussian --bandwidth 1x --ridge 1e-5 --select rpcholesky --solver gram --centers 24";
    place.json(&format!("fit --data d.parquet --target y --out m.nys {model}"));
    for (state, learner) in [("e", "--mode exact"), ("s", "--cap 60 --block 50")] {
        let line = format!(
            "--config-from m.nys {learner} --state {state} --publish every:100000 --keep-published 9 --format json"
        );
        let (mut child, address) = started(&place, &line);
        // There is nothing to make a model of.
        let (status, answer) = publish(&address);
        assert!(status == 409 && answer["error"].is_string(), "{state}: {status} {answer}");
        let mut stdin = child.stdin.take().unwrap();
        let mut counted = 0;
        for part in 0..3usize {
            let lines: Vec<String> = (part * 200..part * 200 + 200).map(insert).collect();
            stdin.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
            stdin.flush().unwrap();
            counted += 200;
            let begun = Instant::now();
            while figures(&address).get("nystream_online_rows_total{op=\"insert\"}") != Some(&f64::from(counted)) {
                assert!(begun.elapsed() < Duration::from_secs(60));
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(publish(&address), (200, json!({ "changes": counted })), "{state}");
            let (status, answer) = json_of(&address, None);
            assert_eq!((status, &answer["changes"]), (200, &json!(counted)), "{state}: {answer}");
        }
        drop(stdin);
        summary(&finish(child, &line), &line);
        let inspected = place.online(&format!("inspect {state}"));
        let points: Vec<u64> =
            inspected["published"].as_array().unwrap().iter().filter_map(|kept| kept["changes"].as_u64()).collect();
        assert_eq!(points, [200, 400, 600], "{inspected}");
        assert_eq!(place.online(&format!("verify {state}"))["verified"], true);
    }
}

/// The samples of `GET /metrics`.
fn figures(address: &str) -> BTreeMap<String, f64> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let samples = answer.lines().filter(|line| line.starts_with("nystream_"));
    let sample = |line: &str| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
    samples.filter_map(sample).collect()
}

/// All that the page counts is what the summary counts in the end.
#[test]
fn figures_are_those_of_the_summary() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(1_000_000, 1200)));
    let model = "--kernel gaussian --bandwidth 1x --ridge 1e-5 --select rpcholesky --solver gram --centers 24";
    place.json(&format!("fit --data d.parquet --target y --out m.nys {model}"));
    // Blocks are complete when the source ends, and nothing is published by the end.
    let mut lines: Vec<String> = (0..699).map(insert).collect();
    lines.extend(["no event".into(), json!({"key": "w", "row": row(800)}).to_string()]);
    lines.push(json!({"key": "v", "row": row(801)}).to_string());
    lines.push(json!({"op": "label", "key": "v", "row": {"y": 0.5}}).to_string());
    lines.extend(["k690", "absent"].map(|key| json!({"op": "delete", "key": key}).to_string()));
    lines.push(json!({"op": "update", "key": "k680", "row": labelled(680)}).to_string());
    for (state, learner) in [("e", "--mode exact --window rows:400"), ("s", "--cap 60 --block 50 --drift report")] {
        let line = format!("--config-from m.nys {learner} --state {state} --publish every:300");
        let (mut child, address) = started(&place, &format!("{line} --output jsonl:{state}.jsonl --format json"));
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
        stdin.flush().unwrap();
        let refused = if state == "e" { 2.0 } else { 4.0 };
        let begun = Instant::now();
        let mut page = figures(&address);
        let all = |page: &BTreeMap<String, f64>| {
            let rows = |op: &str| page.get(&format!("nystream_online_rows_total{{op=\"{op}\"}}")).copied();
            (rows("insert"), page.get("nystream_online_rejected_total").copied()) == (Some(701.0), Some(refused))
        };
        while !all(&page) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{page:?}");
            std::thread::sleep(Duration::from_millis(20));
            page = figures(&address);
        }
        // The last update of the page is of what came last.
        std::thread::sleep(Duration::from_millis(600));
        page = figures(&address);
        drop(stdin);
        let report = summary(&finish(child, &line), &line);
        for (name, told) in [
            ("rows_total{op=\"insert\"}", "/rows_inserted"),
            ("rows_total{op=\"update\"}", "/rows_updated"),
            ("rows_total{op=\"delete\"}", "/rows_deleted"),
            ("rows_total{op=\"label\"}", "/rows_labelled"),
            ("expired_total", "/rows_expired"),
            ("rejected_total", "/rows_rejected"),
            ("surviving_rows", "/rows_surviving"),
            ("waiting_rows", "/rows_waiting"),
            ("predictions_total", "/predictions"),
            ("publications_total", "/publications"),
            ("restarts_total", "/restarts"),
            ("dictionary_atoms", "/dictionary"),
            ("mean_loss", "/prequential/mean_loss"),
            ("window_loss", "/prequential/window_loss"),
        ] {
            let found = page.get(&format!("nystream_online_{name}")).copied();
            assert_eq!(found, Some(number(&report, told)), "{state}: {name}: {report}");
        }
        let alarms =
            ["mass", "loss"].map(|kind| page[&format!("nystream_online_drift_alarms_total{{kind=\"{kind}\"}}")]);
        assert_eq!(alarms.iter().sum::<f64>(), number(&report, "/drift_alarms"), "{state}");
        for (quantile, told) in [("0.5", "/latency_ms/p50"), ("0.99", "/latency_ms/p99")] {
            let found = page[&format!("nystream_online_acknowledgement_seconds{{quantile=\"{quantile}\"}}")] * 1e3;
            let told = number(&report, told);
            assert!((found - told).abs() <= 1e-9 * told, "{state}: {quantile}: {found} {told}");
        }
        assert!(number(&report, "/rows_expired") > 0.0 || state == "s", "{report}");
    }
}

/// A model of no centers is one: a server that finds it in its state answers with the mean at once, and says as of which change.
#[test]
fn no_centers_answer_the_mean() {
    let place = Place::new();
    place.model("m.nys");
    place.lines("in.jsonl", &(0..200).map(insert).collect::<Vec<_>>());
    // Such a gamma takes no row.
    let report = place.online("--config-from m.nys --state s --gamma 1e12 --input jsonl:in.jsonl");
    assert_eq!((number(&report, "/dictionary"), number(&report, "/rows_surviving")), (0.0, 200.0));
    let mean = place.json("inspect m.nys")["encoder"]["bounds"]["targets"][0]["centre"].as_f64().unwrap();
    let (child, address) = started(&place, "--state s");
    let begun = Instant::now();
    // It listens before its state has been read.
    let (mut status, mut answer) = json_of(&address, None);
    while status == 503 && begun.elapsed() < Duration::from_secs(60) {
        (status, answer) = json_of(&address, None);
    }
    kill(child);
    assert_eq!((status, &answer["changes"]), (200, &json!(200)), "{answer}");
    let predictions = answer["predictions"].as_array().unwrap();
    assert!(
        predictions.len() == 2 && predictions.iter().all(|found| found["prediction"].as_f64() == Some(mean)),
        "{answer}"
    );
}
