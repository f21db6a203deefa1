//! `nystream online --mode recursive`: many targets on the centers of a model, against ridge regression; restarts, states, options.

mod common;

use common::stream::*;
use common::*;
use nystream::fitted::function_of;
use nystream::model::Model;
use nystream_dataflows::online::encoding::{Encoding, rows_of};
use nystream_datasets::events::{Event, json};
use serde_json::{Map, Value, json};

/// Target `k` of row `i`.
fn many(i: usize, k: usize) -> f64 {
    target(i) * (1.0 + (k % 7) as f64) + (k as f64) + uniform("many", i * 4096 + k)
}

fn event(i: usize, targets: usize) -> String {
    let mut row = row(i);
    (0..targets).for_each(|k| row[format!("y{k}")] = many(i, k).into());
    json!({ "key": format!("k{i}"), "row": row }).to_string()
}

/// A model of `targets` targets, fitted to rows that the stream has not.
fn model(place: &Place, targets: usize, centers: usize) -> String {
    let from = 1_000_000;
    let mut columns = table(from, 400);
    columns.pop();
    let names: Vec<String> = (0..targets).map(|k| format!("y{k}")).collect();
    columns.extend(names.iter().enumerate().map(|(k, name)| {
        let name: &'static str = Box::leak(name.clone().into_boxed_str());
        (name, numbers((from..from + 400).map(|i| many(i, k))))
    }));
    write(&place.path("train.parquet"), &batch(columns));
    let targets: String = names.iter().map(|name| format!(" --target {name}")).collect();
    place.json(&format!(
        "fit --data train.parquet{targets} --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers {centers} --precision f64 --split none"
    ));
    targets
}

/// Solves a symmetric positive system for several columns, by its factor.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = a.len();
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = a[i][j] - (0..j).map(|p| a[i][p] * a[j][p]).sum::<f64>();
            a[i][j] = if i == j { sum.sqrt() } else { sum / a[j][j] };
        }
    }
    for column in &mut b {
        for i in 0..n {
            column[i] = (column[i] - (0..i).map(|p| a[i][p] * column[p]).sum::<f64>()) / a[i][i];
        }
        for i in (0..n).rev() {
            column[i] = (column[i] - (i + 1..n).map(|p| a[p][i] * column[p]).sum::<f64>()) / a[i][i];
        }
    }
    b
}

/// The model of a stream's rows is ridge regression on the centers, to 1e-6 of each target's spread; every answer is that of the rows before it, of which the last are checked.
#[test]
fn models_are_ridge_regression_on_the_centers() {
    for (targets, rows) in [(1, 700), (1000, 200)] {
        let place = Place::new();
        model(&place, targets, 40);
        place.lines("in.jsonl", &(0..rows).map(|i| event(i, targets)).collect::<Vec<_>>());
        let begin = "--mode recursive --config-from m.nys --state s --alpha 0.01 --input jsonl:in.jsonl";
        let report = place.online(&format!("{begin} --output jsonl:out.jsonl"));
        assert_eq!(
            (number(&report, "/rows_inserted"), number(&report, "/prequential/rows")),
            (rows as f64, rows as f64)
        );
        assert!(number(&report, "/prequential/mean_loss") > number(&report, "/prequential/window_loss") * 0.5);
        assert_eq!(digest(&place.online("export s --out e.nys")), digest(&report));
        let model = Model::load(&place.path("e.nys")).unwrap();
        let (encoder, function) = function_of(&model, None).unwrap();
        let centers = function.centers.view();
        let m = centers.len();
        assert!(m > 10 && m as f64 == number(&report, "/dictionary"), "{report}");
        let encoding = Encoding::new(encoder, true).unwrap();
        let read = |line: String| -> Event { json::event(line.as_bytes(), encoding.schema()).unwrap() };
        let events: Vec<Event> = (0..rows).map(|i| read(event(i, targets))).collect();
        let encoded = encoding.encode(&events).unwrap().training;
        let x = rows_of(&encoded);
        let k: Vec<Vec<f64>> =
            (0..rows).map(|i| (0..m).map(|j| function.kernel.evaluate(x, i, centers, j)).collect()).collect();
        let some: Vec<usize> = [0, targets / 3, targets - 1].into_iter().collect();
        let ridge = |rows: usize| {
            let a = (0..m).map(|p| {
                let sum = |q: usize| (0..rows).map(|i| k[i][p] * k[i][q]).sum::<f64>();
                (0..m).map(|q| sum(q) + 0.005 * function.kernel.evaluate(centers, p, centers, q)).collect()
            });
            let b = some.iter().map(|&t| {
                let y = |i: usize| many(i, t) - function.code.centres[t];
                (0..m).map(|p| (0..rows).map(|i| k[i][p] * y(i)).sum::<f64>()).collect()
            });
            solve(a.collect(), b.collect())
        };
        let value =
            |c: &[f64], t: usize, i: usize| function.code.centres[t] + (0..m).map(|j| c[j] * k[i][j]).sum::<f64>();
        let after = ridge(rows);
        for (&t, c) in some.iter().zip(&after) {
            let own: Vec<f64> = (0..m).map(|j| model.coefficients[j * targets + t]).collect();
            for i in 0..rows {
                let (found, expected) = (value(&own, t, i), value(c, t, i));
                assert!(
                    (found - expected).abs() < 1e-6 * function.code.scale(t),
                    "{targets}: target {t}, row {i}: {found} {expected}"
                );
            }
        }
        let answers = place.read_lines("out.jsonl");
        assert_eq!(answers.len(), rows);
        for i in [0, rows / 2, rows - 1] {
            let before = ridge(i);
            for (&t, c) in some.iter().zip(&before) {
                let found = &answers[i]["prediction"];
                let found = if targets == 1 { found.as_f64() } else { found[t].as_f64() }.unwrap();
                let expected = value(c, t, i);
                assert!(
                    (found - expected).abs() < 1e-5 * function.code.scale(t),
                    "{targets}: target {t}, row {i}: {found} {expected}"
                );
            }
        }
        assert_eq!(place.online("verify s")["verified"], true);
    }
}

/// The same events in one run and in two with a restart between them, with labels that come later: one state, one file of answers.
#[test]
fn restarts_leave_no_trace() {
    let place = Place::new();
    model(&place, 3, 40);
    let labelled = |op: &str, i: usize| {
        let row: Map<String, Value> = (0..3).map(|k| (format!("y{k}"), many(i, k).into())).collect();
        json!({ "op": op, "key": format!("k{i}"), "row": row }).to_string()
    };
    let mut lines: Vec<String> = Vec::new();
    for i in 0..600 {
        lines.push(if i % 9 == 4 { json!({ "key": format!("k{i}"), "row": row(i) }).to_string() } else { event(i, 3) });
        if i % 9 == 8 {
            lines.push(labelled("label", i - 4));
        }
    }
    place.lines("in.jsonl", &lines);
    let line = |state: &str| {
        format!(
            "--mode recursive --config-from m.nys --state {state} --input jsonl:in.jsonl --output jsonl:{state}.jsonl --block 32 --forgetting 0.999"
        )
    };
    let whole = place.online(&line("s"));
    assert!(number(&whole, "/rows_labelled") > 60.0 && number(&whole, "/rows_rejected") == 0.0, "{whole}");
    let child = place.start_online(&format!("{} --snapshot-every 100", line("t")));
    let begun = std::time::Instant::now();
    let seen = || std::fs::metadata(place.path("t.jsonl")).map_or(0, |found| found.len());
    while seen() == 0 && begun.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    kill(child);
    let again = place.online(&line("t"));
    assert_eq!(digest(&again), digest(&whole));
    assert_eq!(std::fs::read(place.path("s.jsonl")).unwrap(), std::fs::read(place.path("t.jsonl")).unwrap());
    assert_eq!(place.online("verify t")["verified"], true);
    assert_eq!(place.online("inspect t")["mode"], "recursive");
}

#[test]
fn what_means_nothing_is_refused() {
    let place = Place::new();
    let targets = model(&place, 3, 40);
    let mut part: Value = serde_json::from_str(&event(5, 3)).unwrap();
    part["row"]["y1"] = Value::Null;
    let lines: Vec<String> = (0..80).map(|i| if i == 5 { part.to_string() } else { event(i, 3) }).collect();
    place.lines("in.jsonl", &lines);
    let line = "--mode recursive --state s --input jsonl:in.jsonl";
    // A row with some of its targets.
    let report = place.online(&format!("{line} --config-from m.nys --dead-letter dead.jsonl"));
    assert_eq!((number(&report, "/rows_inserted"), number(&report, "/rows_rejected")), (79.0, 1.0));
    let dead = place.read_lines("dead.jsonl");
    assert!(
        dead[0]["key"] == "k5" && dead[0]["reason"].as_str().unwrap().contains("column 'y1' is null"),
        "{}",
        dead[0]
    );
    // With the function of the model, there is one before the first row, and it is the model's.
    place.lines("none.jsonl", &[]);
    let from =
        "online --mode recursive --state f --input jsonl:none.jsonl --from m.nys --output jsonl:f.jsonl --format json";
    summary(&place.run(from), from);
    write(&place.path("probe.parquet"), &batch(table(5000, 30)));
    for (model, out) in [("m.nys", "p.parquet"), ("f/model.nys", "q.parquet")] {
        place.json(&format!("predict --model {model} --data probe.parquet --out {out}"));
    }
    let column = |name: &str| {
        let file = std::fs::File::open(place.path(name)).unwrap();
        let mut reader =
            parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let table = reader.next().unwrap().unwrap();
        let column = table.column_by_name("prediction_y2").unwrap().clone();
        column.as_any().downcast_ref::<arrow_array::Float64Array>().unwrap().values().to_vec()
    };
    for (a, b) in column("p.parquet").iter().zip(column("q.parquet")) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
    // Tuned on the first rows, with as many centers as were asked for.
    let report =
        place.online(&format!("--mode recursive --state i --input jsonl:in.jsonl --init-rows 70 --cap 20{targets}"));
    assert!(number(&report, "/dictionary") <= 20.0 && number(&report, "/prequential/mean_loss") < 2.0, "{report}");
    for (options, code, part) in [
        ("--config-from m.nys --loss huber", 2, "--loss"),
        ("--config-from m.nys --drift reset", 2, "--drift"),
        ("--config-from m.nys --cap 9", 2, "--cap"),
        ("--config-from m.nys --clip 3", 2, "--clip"),
        ("--config-from m.nys --forgetting 0.5", 2, "forgetting"),
        ("--config-from m.nys --block 1000000000 --memory 1GiB", 4, "--memory"),
        ("--config-from m.nys --target y0", 2, "predicts y0, y1, y2"),
    ] {
        let before = place.names();
        let output = place.run(&format!("online --mode recursive --state n --input jsonl:in.jsonl {options}"));
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{options}: {error}");
        assert!(error.contains(part) && !error.contains("panicked"), "{options}: {error}");
        let _ = std::fs::remove_dir_all(place.path("n"));
        assert_eq!(place.names(), before);
    }
}
