//! `nystream online`: the summary and the answers, by the library driven directly; restarts, late labels, ways of reading; states.

mod common;

use common::stream::*;
use common::*;
use nystream::fitted::function_of;
use nystream::model::Model;
use nystream_dataflows::online::encoding::{Encoding, rows_of};
use nystream_dataflows::online::settings::Settings;
use nystream_dataflows::online::units::Units;
use nystream_datasets::events::{Event, json};
use nystream_hashing::RowId;
use nystream_kernels::online::{Batch, DictionaryParams, EntryParams, Loss, ProjectedKons, ProjectedParams};
use serde_json::Value;
use std::io::Write;

const BEGIN: &str = "--config-from m.nys --state s --output jsonl:out.jsonl --cap 60";

/// The reference: the rows of the stream encoded, in one call to the library.
fn direct(place: &Place, rows: usize) -> (Vec<f64>, f64, usize) {
    let told: Value = serde_json::from_slice(&std::fs::read(place.path("s/online.json")).unwrap()).unwrap();
    let settings: Settings = serde_json::from_value(told["settings"].clone()).unwrap();
    let model = Model::load(&place.path("s/config.nys")).unwrap();
    let (encoder, function) = function_of(&model, None).unwrap();
    let units = Units::new(&function, model.config.targets[0].deviation, Loss::Squared).unwrap();
    let encoding = Encoding::new(encoder, true).unwrap();
    let events: Vec<Event> = (0..rows).map(|i| json::event(insert(i).as_bytes(), encoding.schema()).unwrap()).collect();
    let encoded = encoding.encode(&events).unwrap().training;
    let entries = EntryParams {
        kernel: function.kernel.clone(),
        offset: vec![],
        precision: function.precision,
        simd: function.simd,
    };
    let dictionary = DictionaryParams {
        beta: settings.beta,
        seed: settings.seed,
        spread: settings.spread,
        ..DictionaryParams::new(settings.gamma, settings.cap)
    };
    let params = ProjectedParams {
        clip: settings.clip,
        block: settings.block,
        window: settings.window,
        ..ProjectedParams::new(entries, dictionary, settings.alpha)
    };
    let mut learner = ProjectedKons::new(params, encoded.numeric_width, encoded.code_width).unwrap();
    let targets: Vec<f64> = encoded.targets.iter().map(|y| units.target(*y)).collect();
    let ids: Vec<RowId> = (0..rows).map(|i| RowId::from_key(&format!("k{i}"))).collect();
    let mut outcomes = learner.learn(&Batch::new(rows_of(&encoded), &ids, &targets)).unwrap();
    outcomes.extend(learner.flush().unwrap());
    let predictions = outcomes.iter().map(|outcome| units.values(outcome.prediction)[0]).collect();
    (predictions, learner.info().mean_loss.unwrap(), learner.info().dictionary)
}

#[test]
fn con_kons_is_the_library() {
    let place = Place::new();
    place.model("m.nys");
    let rows = 1500;
    place.lines("in.jsonl", &(0..rows).map(insert).collect::<Vec<_>>());
    let report = place.online(&format!("{BEGIN} --input jsonl:in.jsonl"));
    let (predictions, loss, atoms) = direct(&place, rows);
    let answers = place.read_lines("out.jsonl");
    assert_eq!(answers.len(), rows);
    for (i, (answer, expected)) in answers.iter().zip(&predictions).enumerate() {
        assert_eq!((answer["seq"].as_u64(), answer["key"].as_str()), (Some(i as u64), Some(format!("k{i}").as_str())));
        assert_eq!(answer["prediction"].as_f64().unwrap().to_bits(), expected.to_bits(), "row {i}");
        assert_eq!(answer["variance"].is_f64(), i >= 16, "row {i}: {answer}");
    }
    // Everything that the contract names.
    for name in [
        "rows_inserted",
        "rows_deleted",
        "rows_updated",
        "rows_rejected",
        "rows_surviving",
        "dictionary",
        "drift_alarms",
    ] {
        assert!(report[name].is_u64(), "{name}: {report}");
    }
    assert_eq!((number(&report, "/rows_inserted"), number(&report, "/dictionary")), (rows as f64, atoms as f64));
    assert_eq!(number(&report, "/prequential/mean_loss").to_bits(), loss.to_bits());
    assert_eq!(number(&report, "/prequential/rows"), rows as f64);
    assert!(number(&report, "/prequential/window_loss") < 0.1 && loss < 0.2, "{report}");
    let (measured, bound) = (number(&report, "/regret/measured"), number(&report, "/regret/bound"));
    assert!(measured < bound && number(&report, "/regret/comparator_loss") > 0.0, "{report}");
    assert!(
        number(&report, "/rows_per_second") > 0.0
            && number(&report, "/latency_ms/p99") >= number(&report, "/latency_ms/p50")
    );
    assert_eq!(digest(&report).len(), 64);
}

/// What a run does not write stays as it is, and a later one goes on behind it.
#[test]
fn files_wait_for_runs_that_write_them() {
    let place = Place::new();
    place.model("m.nys");
    for (name, from) in [("a", 0), ("b", 300), ("c", 600)] {
        place.lines(&format!("{name}.jsonl"), &(from..from + 300).map(insert).collect::<Vec<_>>());
    }
    place.online(&format!("{BEGIN} --input jsonl:a.jsonl"));
    let first = place.read_lines("out.jsonl");
    place.online("--state s --input jsonl:b.jsonl");
    assert_eq!(place.read_lines("out.jsonl"), first);
    place.online("--state s --input jsonl:c.jsonl --output jsonl:out.jsonl");
    let all = place.read_lines("out.jsonl");
    assert_eq!((all.len(), &all[..300]), (600, &first[..]));
    assert_eq!((all[300]["seq"].as_u64(), all[599]["seq"].as_u64()), (Some(600), Some(899)));
}

/// One weight beside which all other rows are lost in rounding is refused, and stops nothing.
#[test]
fn weights_are_bounded() {
    let place = Place::new();
    place.model("m.nys");
    let weighted = |i: usize, weight: f64| insert(i).replacen('{', &format!("{{\"weight\": {weight:e}, "), 1);
    let mut lines: Vec<String> = (0..600).map(insert).collect();
    lines[300] = weighted(300, 1e18);
    lines[301] = weighted(301, 1e9);
    place.lines("in.jsonl", &lines);
    let report = place.online(&format!("{BEGIN} --input jsonl:in.jsonl --dead-letter dead.jsonl"));
    assert_eq!((number(&report, "/rows_inserted"), number(&report, "/rows_rejected")), (599.0, 1.0));
    let dead = place.read_lines("dead.jsonl");
    assert!(dead[0]["key"] == "k300" && dead[0]["reason"].as_str().unwrap().contains("weight"), "{dead:?}");
}

/// The same events by a file, in one piece and in many through standard input, and in two runs of which the first is cut short: one state, one digest, one file of answers.
#[test]
fn how_a_stream_is_cut_does_not_matter() {
    let place = Place::new();
    place.model("m.nys");
    let lines = mixed(700);
    place.lines("in.jsonl", &lines);
    let whole = place.online(&format!("{BEGIN} --input jsonl:in.jsonl --dead-letter dead.jsonl"));
    let answers = std::fs::read(place.path("out.jsonl")).unwrap();
    assert!(
        number(&whole, "/rows_labelled") > 10.0
            && number(&whole, "/rows_updated") > 1.0
            && number(&whole, "/rows_deleted") > 1.0
    );
    assert_eq!(place.read_lines("dead.jsonl").len() as f64, number(&whole, "/rows_rejected"));
    for (turn, piece) in [1usize, 37, 5000].into_iter().enumerate() {
        let line = format!(
            "online --config-from m.nys --state p{turn} --output jsonl:p{turn}.jsonl --cap 60 --input jsonl:- --format json"
        );
        let mut command = place.command(&line);
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes();
        let writer = std::thread::spawn(move || {
            for chunk in bytes.chunks(piece * 40) {
                stdin.write_all(chunk).unwrap();
                stdin.flush().unwrap();
            }
        });
        let report = summary(&finish(child, &line), &line);
        writer.join().unwrap();
        assert_eq!(digest(&report), digest(&whole), "pieces of {piece}");
        assert_eq!(std::fs::read(place.path(&format!("p{turn}.jsonl"))).unwrap(), answers, "pieces of {piece}");
    }
    // Nothing new: nothing changes.
    let again = place.online(&format!("{BEGIN} --input jsonl:in.jsonl --dead-letter dead.jsonl"));
    assert_eq!((digest(&again), number(&again, "/rows_rejected")), (digest(&whole), number(&whole, "/rows_rejected")));
    assert_eq!(std::fs::read(place.path("out.jsonl")).unwrap(), answers);
    assert_eq!(place.online("verify s")["verified"], true);
}

#[test]
fn rows_without_labels_are_answered_at_once_and_learned_when_they_come() {
    let place = Place::new();
    place.model("m.nys");
    let mut lines: Vec<String> = (0..200).map(insert).collect();
    lines.push(serde_json::json!({ "key": "late", "row": row(900) }).to_string());
    place.lines("in.jsonl", &lines);
    let before = place.online(&format!("{BEGIN} --input jsonl:in.jsonl"));
    assert_eq!(number(&before, "/rows_waiting"), 1.0);
    let answers = place.read_lines("out.jsonl");
    // By the first block, since the second is not complete: its answers follow at the end.
    assert_eq!(answers[128]["key"], "late");
    assert_eq!(answers.len(), 201);
    place.lines(
        "more.jsonl",
        &[serde_json::json!({ "op": "label", "key": "late", "row": { "y": target(900) } }).to_string()],
    );
    let after = place.online(&format!("{BEGIN} --input jsonl:more.jsonl"));
    assert_eq!((number(&after, "/rows_waiting"), number(&after, "/prequential/rows")), (0.0, 201.0));
    assert_ne!(digest(&after), digest(&before));
    assert_eq!(place.read_lines("out.jsonl").len(), 201, "a row is answered once");
}

#[test]
fn exported_models_predict_what_the_learner_says() {
    let place = Place::new();
    place.model("m.nys");
    let mut lines: Vec<String> = (0..600).map(insert).collect();
    place.lines("in.jsonl", &lines);
    let report = place.online(&format!("{BEGIN} --input jsonl:in.jsonl --clip none"));
    let exported = place.online("export s --out e.nys");
    assert_eq!(digest(&exported), digest(&report));
    assert_eq!(digest(&place.json("inspect e.nys")), digest(&report));
    assert_eq!(digest(&place.online("inspect s")), digest(&report));
    write(&place.path("probe.parquet"), &batch(table(5000, 100)));
    place.json("predict --model e.nys --data probe.parquet --out p.parquet");
    let file = std::fs::File::open(place.path("p.parquet")).unwrap();
    let mut reader =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let predicted = reader.next().unwrap().unwrap();
    let predicted = predicted
        .column_by_name("prediction")
        .unwrap()
        .as_any()
        .downcast_ref::<arrow_array::Float64Array>()
        .unwrap()
        .clone();
    lines = (5000..5100).map(|i| serde_json::json!({ "key": format!("k{i}"), "row": row(i) }).to_string()).collect();
    place.lines("probe.jsonl", &lines);
    place.online(&format!("{BEGIN} --input jsonl:probe.jsonl"));
    for (i, answer) in place.read_lines("out.jsonl")[600..].iter().enumerate() {
        let (a, b) = (answer["prediction"].as_f64().unwrap(), predicted.value(i));
        assert!((a - b).abs() < 1e-4, "row {i}: {a} and {b}");
    }
    // A state that begins with that model answers the same from the first row on.
    place.online("import t --from e.nys --clip none");
    // Before any row it has that model's function.
    place.online("export t --out begun.nys");
    place.online("--state t --input jsonl:probe.jsonl --output jsonl:t.jsonl");
    for (i, answer) in place.read_lines("t.jsonl").iter().enumerate() {
        assert!((answer["prediction"].as_f64().unwrap() - predicted.value(i)).abs() < 1e-4, "row {i}: {answer}");
    }
}

#[test]
fn every_learner_and_loss_runs() {
    let place = Place::new();
    place.model("m.nys");
    let lines: Vec<String> = (0..300).map(insert).collect();
    place.lines("in.jsonl", &lines);
    for (turn, options) in [
        "--mode kons",
        "--mode sketched-kons",
        "--mode pros-n-kons",
        "--loss huber:0.5",
        "--forgetting 0.999",
        "--drift report",
        "--drift reset",
        "--drift adapt",
        "--drift forget",
        "--curvature fixed",
        "--block 1",
    ]
    .iter()
    .enumerate()
    {
        let report =
            place.online(&format!("--config-from m.nys --state s{turn} --cap 60 --input jsonl:in.jsonl {options}"));
        assert!(number(&report, "/prequential/mean_loss") < 1.5, "{options}: {report}");
        assert_eq!(place.online(&format!("verify s{turn}"))["verified"], true, "{options}");
    }
    // Two classes.
    let classes: Vec<String> = (0..400)
        .map(|i| serde_json::json!({ "key": i, "row": { "x": uniform("a", i), "z": uniform("b", i), "y": if uniform("a", i) > uniform("b", i) { "yes" } else { "no" } } }).to_string())
        .collect();
    place.lines("classes.jsonl", &classes);
    for (turn, loss) in ["squared", "logistic", "squared-hinge", "huber"].iter().enumerate() {
        let report = place.online(&format!(
            "--init-rows 200 --target y --state c{turn} --cap 60 --input jsonl:classes.jsonl --output jsonl:c{turn}.jsonl --loss {loss} --kernel gaussian"
        ));
        assert_eq!(number(&report, "/rows_inserted"), 400.0);
        let answers = place.read_lines(&format!("c{turn}.jsonl"));
        let right = answers[200..].iter().filter(|answer| {
            let i: usize = answer["key"].as_str().unwrap().parse().unwrap();
            (answer["prediction"] == "yes") == (uniform("a", i) > uniform("b", i))
        });
        let right = right.count();
        assert!(right > 170, "{loss}: {right} of 200");
        let sums = if *loss == "logistic" { "probabilities" } else { "scores" };
        assert!(
            (answers[300][sums]["yes"].as_f64().unwrap() + answers[300][sums]["no"].as_f64().unwrap() - 1.0).abs()
                < 1e-12
        );
    }
}

#[test]
fn a_state_keeps_what_it_was_told() {
    let place = Place::new();
    place.model("m.nys");
    place.lines("in.jsonl", &(0..50).map(insert).collect::<Vec<_>>());
    place.online("--config-from m.nys --state s --cap 60 --input jsonl:in.jsonl");
    place.fails("online --state s --input jsonl:in.jsonl --cap 70", 2, &["--cap 70 (was 60)"]);
    place.fails("online --state s --input jsonl:in.jsonl --target z", 2, &["predicts y"]);
    place.fails(
        "online --state s --input jsonl:in.jsonl --output jsonl:in.jsonl",
        2,
        &["--output would be written over --input"],
    );
    place.fails("online --input jsonl:in.jsonl", 2, &["--state"]);
    place.fails("online --state n --config-from m.nys --init-rows 9 --input jsonl:in.jsonl", 2, &["give one of them"]);
    place.fails("online --state s --input jsonl:absent.jsonl", 1, &["absent.jsonl"]);
    place.fails("online --state s --input jsonl:in.jsonl --listen 0.0.0.0:0", 2, &["--token-file"]);
    place.fails("online inspect absent", 1, &["absent"]);
    // Without them it goes on.
    assert_eq!(number(&place.online("--state s --input jsonl:in.jsonl"), "/rows_inserted"), 50.0);
    // Another file under the name of one that was read.
    place.lines("in.jsonl", &(1000..1060).map(insert).collect::<Vec<_>>());
    place.fails("online --state s --input jsonl:in.jsonl", 1, &["is not the file that was read before"]);
}
