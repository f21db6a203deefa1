//! `nystream online`: what second-order learners say of themselves. Precision, regret, drift, forgetting, variances, and columns that are not there.

mod common;

use arrow_array::cast::AsArray;
use common::stream::*;
use common::*;
use serde_json::{Value, json};

fn stderr(place: &Place, line: &str) -> (Option<i32>, String) {
    let output = place.run(&format!("online {line}"));
    (output.status.code(), text(&output.stderr))
}

/// KONS has f64 entries whatever the configuration: its regret is what theory says at ridges far below the rounding of f32. Other learners take the precision that is asked for, and what a model fixes is not had otherwise.
#[test]
fn kons_is_exact_at_small_ridges() {
    let place = Place::new();
    place.model("m.nys");
    place.lines("in.jsonl", &(0..600).map(insert).collect::<Vec<_>>());
    for (turn, alpha) in ["auto", "1e-4", "1e-6", "1e-8"].into_iter().enumerate() {
        let line = format!(
            "--mode kons --config-from m.nys --state k{turn} --input jsonl:in.jsonl --clip none --alpha {alpha}"
        );
        let report = place.online(&line);
        assert_eq!((&report["regret"]["comparator"], number(&report, "/dictionary")), (&json!("whole"), 600.0));
        let (measured, bound) = (number(&report, "/regret/measured"), number(&report, "/regret/bound"));
        assert!((measured / bound - 1.0).abs() < 1e-7, "alpha {alpha}: {measured} {bound}");
        assert!(number(&report, "/prequential/mean_loss") < 0.5, "{report}");
        let model = place.json(&format!("inspect k{turn}/model.nys"));
        assert_eq!(model["precision"], "f64", "{model}");
    }
    let given = |precision: &str, state: &str| {
        let line = format!("--config-from m.nys --cap 60 --input jsonl:in.jsonl {precision} --state {state}");
        (digest(&place.online(&line)), place.json(&format!("inspect {state}/model.nys"))["precision"].clone())
    };
    let (own, wide) = (given("", "o"), given("--precision f64", "w"));
    assert_eq!((&own.1, &wide.1), (&json!("f32"), &json!("f64")));
    assert_ne!(own.0, wide.0);
    for (options, part) in [
        ("--mode kons --precision f32", "f64 entries"),
        ("--mode sketched-kons --precision f32", "f64 entries"),
        ("--mode exact --precision f64", "--precision is what the model"),
        ("--bandwidth 2x", "--bandwidth is what the model"),
        ("--ridge 1e-3", "--ridge is what the model"),
    ] {
        let line = format!("--config-from m.nys --input jsonl:in.jsonl --state n {options}");
        let (code, error) = stderr(&place, &line);
        assert!(code == Some(2) && error.contains(part) && !place.path("n").exists(), "{options}: {error}");
    }
}

/// Weights over four decades: no loss is negative, and the bound stands.
#[test]
fn regret_bears_weights() {
    let place = Place::new();
    place.model("m.nys");
    let weighted = |i: usize| {
        let weight = 10f64.powf(4.0 * uniform("weight", i) - 2.0);
        json!({ "key": format!("k{i}"), "weight": weight, "row": labelled(i) }).to_string()
    };
    place.lines("in.jsonl", &(0..1500).map(weighted).collect::<Vec<_>>());
    for (turn, mode) in ["kons", "sketched-kons", "con-kons --cap 80"].into_iter().enumerate() {
        let line = format!("--mode {mode} --config-from m.nys --state s{turn} --input jsonl:in.jsonl --hindsight 100");
        let report = place.online(&line);
        let [measured, error, bound, published, loss] =
            ["measured", "error", "bound", "published_bound", "comparator_loss"]
                .map(|name| number(&report, &format!("/regret/{name}")));
        assert!(loss >= 0.0 && measured <= bound + 4.0 * error && bound <= published, "{mode}: {report}");
        assert!(number(&report, "/prequential/mean_loss") < 0.2, "{mode}: {report}");
    }
}

/// A stream that changes its sign at row 1,500.
fn turning(i: usize) -> String {
    let mut row = labelled(i);
    if i >= 1500 {
        row["y"] = json!(3.0 - target(i));
    }
    json!({ "key": format!("k{i}"), "time": 1_700_000_000 + i, "row": row }).to_string()
}

/// What is only reported changes nothing, and says when and by which row.
#[test]
fn drift_is_reported_with_its_row() {
    let place = Place::new();
    place.model("m.nys");
    place.lines("in.jsonl", &(0..2500).map(turning).collect::<Vec<_>>());
    let line = "--config-from m.nys --cap 60 --input jsonl:in.jsonl --format json";
    let plain = place.online(&format!("{} --state p", line.replace(" --format json", "")));
    assert!(plain.get("alarms").is_none() && number(&plain, "/drift_alarms") == 0.0, "{plain}");
    let output = place.run(&format!("online {line} --state r --drift report --hindsight 50 --loss-window 30"));
    let report = summary(&output, line);
    assert_eq!(digest(&report), digest(&plain));
    let alarms = report["alarms"].as_array().unwrap();
    assert_eq!(alarms.len() as f64, number(&report, "/drift_alarms"));
    let first = &alarms[0];
    let changes = first["changes"].as_u64().unwrap();
    assert!((1501..1700).contains(&changes), "{first}");
    assert_eq!((&first["by"], &first["key"]), (&json!("loss"), &json!(format!("k{}", changes - 1))));
    // Row k0 is of 2023-11-14T22:13:20Z.
    let seconds = 22 * 3600 + 13 * 60 + 20 + (changes - 1);
    let time = format!("2023-11-14T{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60);
    assert_eq!(first["time"].as_str(), Some(time.as_str()), "{first}");
    assert!(
        first["value"].as_f64() > first["threshold"].as_f64() && first["threshold"].as_f64() > Some(0.0),
        "{first}"
    );
    let said = text(&output.stderr);
    let sentence = format!("(key 'k{}' of {time}): the mean loss has risen by", changes - 1);
    assert!(said.lines().any(|line| line.starts_with("drift, at event") && line.contains(&sentence)), "{said}");
    // A restart remembers them, and tells nobody twice.
    let again = place.run(&format!("online {line} --state r"));
    assert_eq!(summary(&again, line)["alarms"], report["alarms"]);
    assert!(!text(&again.stderr).contains("drift, at event"), "{}", text(&again.stderr));
}

/// A learner that is worse than the mean says so; one that is not says nothing.
#[test]
fn worse_than_the_mean_is_told() {
    let place = Place::new();
    place.model("m.nys");
    place.lines("in.jsonl", &(0..1200).map(insert).collect::<Vec<_>>());
    for (turn, options) in ["--forgetting 0.9 --curvature fixed", "--forgetting 0.999", ""].into_iter().enumerate() {
        let line =
            format!("--config-from m.nys --cap 60 --input jsonl:in.jsonl --state s{turn} --format json {options}");
        let output = place.run(&format!("online {line}"));
        let (report, said) = (summary(&output, &line), text(&output.stderr));
        let loss = number(&report, "/prequential/window_loss");
        assert_eq!(said.contains("predicting the mean has about 1"), loss > 1.2, "{loss}: {said}");
        assert_eq!(loss > 1.2, turn == 0, "{options}: {loss}");
        assert_eq!(said.contains("raise --alpha"), turn == 0, "{said}");
    }
}

/// A row that lacks a column that the model needs is refused by name, and the run with --strict; a null is a null; --absent null takes both for one.
#[test]
fn absent_columns_are_no_nulls() {
    let place = Place::new();
    place.model("m.nys");
    let lacks = |i: usize, column: &str, other: Option<&str>| {
        let mut row = labelled(i);
        let value = row.as_object_mut().unwrap().remove(column).unwrap();
        if let Some(other) = other {
            row[other] = value;
        }
        json!({ "key": format!("k{i}"), "row": row }).to_string()
    };
    let mut lines: Vec<String> = (0..200).map(insert).collect();
    lines[20] = lacks(20, "c", Some("C"));
    lines[30] = lacks(30, "b", None);
    let null = |i: usize, column: &str| {
        let mut row = labelled(i);
        row[column] = Value::Null;
        json!({ "key": format!("k{i}"), "row": row }).to_string()
    };
    lines[40] = null(40, "c");
    place.lines("in.jsonl", &lines);
    let line = "--config-from m.nys --cap 40 --input jsonl:in.jsonl --dead-letter dead.jsonl";
    let report = place.online(&format!("{line} --state s"));
    assert_eq!((number(&report, "/rows_inserted"), number(&report, "/rows_rejected")), (198.0, 2.0), "{report}");
    let dead = place.read_lines("dead.jsonl");
    let reason = |i: usize| dead[i]["reason"].as_str().unwrap();
    assert!(dead[0]["key"] == "k20" && reason(0).contains("no column 'c' (there is 'C')"), "{dead:?}");
    assert!(dead[1]["key"] == "k30" && reason(1).contains("no column 'b'"), "{dead:?}");
    let (code, error) = stderr(&place, "--config-from m.nys --cap 40 --input jsonl:in.jsonl --state t --strict");
    assert!(code == Some(1) && error.contains("no column 'c'") && error.contains("line 21"), "{error}");
    // The same rows with nulls written out.
    lines[20] = null(20, "c");
    lines[30] = null(30, "b");
    place.lines("nulls.jsonl", &lines);
    let written = place.online("--config-from m.nys --cap 40 --input jsonl:nulls.jsonl --state w");
    let absent = place.online("--config-from m.nys --cap 40 --input jsonl:in.jsonl --state a --absent null");
    assert_eq!(
        (digest(&absent), number(&absent, "/rows_rejected")),
        (digest(&written), number(&written, "/rows_rejected"))
    );
}

/// Rows that say nothing beside the mean: a dictionary of no atoms is a model of no centers, which is exported, predicts the mean, answers requests, and is the same after a restart.
#[test]
fn no_atoms_are_the_mean() {
    let place = Place::new();
    place.model("m.nys");
    let noise = |i: usize| {
        let mut row = labelled(i);
        row["y"] = json!(uniform("y", i));
        json!({ "key": format!("k{i}"), "row": row }).to_string()
    };
    place.lines("in.jsonl", &(0..300).map(noise).collect::<Vec<_>>());
    place.lines("more.jsonl", &(300..400).map(noise).collect::<Vec<_>>());
    // A dictionary that takes nothing.
    let line = "--config-from m.nys --state s --gamma 1e12 --output jsonl:out.jsonl --input";
    let output = place.run(&format!("online {line} jsonl:in.jsonl --format json"));
    let report = summary(&output, line);
    assert_eq!((number(&report, "/dictionary"), number(&report, "/rows_surviving")), (0.0, 300.0));
    assert!(text(&output.stderr).contains("the dictionary is empty, and the model is the mean"), "{report}");
    let mean = place.json("inspect m.nys")["encoder"]["bounds"]["targets"][0]["centre"].as_f64().unwrap();
    let answers = place.read_lines("out.jsonl");
    assert!(answers.len() == 300 && answers.iter().all(|answer| answer["prediction"].as_f64() == Some(mean)));
    // The model file, by every reader.
    let inspected = place.online("inspect s");
    assert_eq!(inspected["model_digest"], report["model_digest"]);
    assert!(inspected["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains("is empty")));
    assert_eq!(place.online("verify s")["verified"], true);
    assert_eq!(digest(&place.online("export s --out none.nys")), digest(&report));
    assert_eq!(place.json("inspect none.nys")["centers"], 0);
    place.json("predict --model none.nys --data train.parquet --out p.parquet");
    let file = std::fs::File::open(place.path("p.parquet")).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let mut rows = 0;
    for batch in reader {
        let batch = batch.unwrap();
        let column = batch.column_by_name("prediction").unwrap().as_primitive::<arrow_array::types::Float64Type>();
        assert!(column.values().iter().all(|value| *value == mean), "{column:?}");
        rows += batch.num_rows();
    }
    assert_eq!(rows, 2000);
    // The target's mean, of the rows that the configuration was fitted to, explains nothing of them.
    for products in ["", " --product-tolerance 1e-3", " --product-tolerance 1e-3 --product-mode sampled"] {
        let score = place.json(&format!("evaluate --model none.nys --data train.parquet{products}"));
        assert!(number(&score, "/r2").abs() < 1e-6, "{score}");
    }
    // A restart goes on from it, and another state begins with it and finds centers.
    assert_eq!(number(&place.online(&format!("{line} jsonl:more.jsonl")), "/prequential/rows"), 400.0);
    assert!(number(&place.online("--from none.nys --state t --input jsonl:in.jsonl --cap 50"), "/dictionary") > 0.0);
}

/// What cannot be is refused in words of the command line, with what to do instead.
#[test]
fn refusals_say_what_to_do() {
    let place = Place::new();
    place.model("m.nys");
    place.lines("in.jsonl", &(0..200).map(insert).collect::<Vec<_>>());
    let line = "--config-from m.nys --input jsonl:in.jsonl --state n";
    for (options, part) in [
        ("--curvature fixed --loss huber", "leave out --curvature"),
        ("--curvature fixed --clip none", "Leave out --clip"),
        ("--mode recursive --forgetting 0.8", "--block 82 or fewer"),
        ("--mode recursive --forgetting 1e-9 --block 1", "give --forgetting 0.0001 or more"),
        ("--drift never", "adapt"),
        ("--mode sketched-kons --drift reset", "forget nothing"),
        ("--mode kons --forgetting 0.99", "forget nothing"),
    ] {
        let (code, error) = stderr(&place, &format!("{line} {options}"));
        assert!(code == Some(2) && error.contains(part) && !place.path("n").exists(), "{options}: {error}");
    }
    place.online("--config-from m.nys --input jsonl:in.jsonl --state s --cap 40");
    place.online("export s --out learned.nys");
    for (line, code) in [
        ("online --mode exact --config-from learned.nys --input jsonl:in.jsonl --state n", 1),
        ("fit --data train.parquet --config-from learned.nys --out n.nys", 1),
    ] {
        place.fails(line, code, &["online --mode con-kons", "--from"]);
    }
    assert_eq!(place.run(&format!("online {line} --mode recursive --forgetting 0.87")).status.code(), Some(0));
}
