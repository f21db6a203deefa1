//! The life of a state of `nystream online`: models as of a point of the stream, publications by drift, a configuration that is made anew, and what is said where something cannot be done.

mod common;

use arrow_array::cast::AsArray;
use common::killed::draw;
use common::stream::*;
use common::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const KERNEL: &str = "--kernel gaussian --bandwidth 1x --ridge 1e-5";

/// Of any rows, so that the numbers of the choice are the same whatever they are made of.
const CENTERS: &str = "--select rpcholesky --dictionary-rows 2000 --centers 24";

/// A place with a model for the exact mode, `m.nys`.
fn begun() -> Place {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(1_000_000, 1200)));
    let rest = format!("{CENTERS} --solver gram --split hash:0.1");
    place.json(&format!("fit --data d.parquet --target y --out m.nys {KERNEL} {rest}"));
    place
}

/// The fit of rows `list` by the configuration of `model`.
fn fitted(place: &Place, model: &str, list: impl IntoIterator<Item = usize>) -> String {
    left(place, &list.into_iter().collect::<Vec<_>>());
    digest(&place.solved(&format!("fit --data left.parquet --config-from {model} --id-column key --out again.nys")))
}

fn inserts(rows: std::ops::Range<usize>) -> Vec<String> {
    rows.map(insert).collect()
}

fn points(inspected: &Value) -> Vec<u64> {
    inspected["published"].as_array().unwrap().iter().map(|kept| kept["changes"].as_u64().unwrap()).collect()
}

#[test]
fn published_models_are_kept_by_the_change_of_which_they_are() {
    let place = begun();
    place.lines("in.jsonl", &inserts(0..1000));
    let line = "--mode exact --config-from m.nys --state s --input jsonl:in.jsonl --publish every:300";
    place.online(&format!("{line} --keep-published 3"));
    let inspected = place.online("inspect s");
    assert_eq!(points(&inspected), [600, 900, 1000]);
    let export = |change: u64| {
        let report = place.online(&format!("export s --as-of {change} --out then.nys"));
        place.json("predict --model then.nys --data d.parquet --out p.parquet");
        digest(&report)
    };
    for (asked, there) in [(600, 600), (899, 600), (900, 900), (5000, 1000)] {
        assert_eq!(export(asked), fitted(&place, "m.nys", 0..there), "as of {asked}");
    }
    let early = place.run("online export s --as-of 599 --out early.nys");
    assert_eq!(early.status.code(), Some(1));
    assert!(text(&early.stderr).contains("as of change 600, 900, 1000"), "{}", text(&early.stderr));
    assert!(!place.path("early.nys").exists());
    // The number stays, a restart may change it; what is too old goes.
    place.lines("in.jsonl", &inserts(0..1300));
    place.online(line);
    assert_eq!(points(&place.online("inspect s")), [1000, 1200, 1300]);
    place.online(&format!("{line} --keep-published 1"));
    let inspected = place.online("inspect s");
    assert_eq!((points(&inspected), digest(&inspected)), (vec![1300], fitted(&place, "m.nys", 0..1300)));
    assert_eq!(export(1300), digest(&inspected));
    // Learners that keep no rows too.
    let line = "--config-from m.nys --cap 60 --state t --input jsonl:in.jsonl --publish every:500 --keep-published 4";
    let report = place.online(line);
    let inspected = place.online("inspect t");
    assert_eq!(points(&inspected), [500, 1000, 1300]);
    assert_eq!(inspected["published"][2]["model_digest"], digest(&report));
    let first = place.online("export t --as-of 700 --out then.nys");
    assert_eq!(first["model_digest"], inspected["published"][0]["model_digest"]);
    assert_ne!(digest(&first), digest(&report));
}

/// With `--publish end`, which is the default, a run answers by what the one before has published, which counts.
#[test]
fn the_end_of_a_run_is_a_publication() {
    let place = begun();
    place.lines("in.jsonl", &inserts(0..300));
    let line = "--mode exact --config-from m.nys --state s --input jsonl:in.jsonl --output jsonl:out.jsonl";
    let first = place.online(line);
    assert_eq!((number(&first, "/publications"), number(&first, "/predictions")), (1.0, 0.0), "{first}");
    std::fs::copy(place.path("s/model.nys"), place.path("first.nys")).unwrap();
    // Nothing has come since: it is the same one.
    let same = place.online(line);
    assert_eq!((number(&same, "/publications"), digest(&same)), (1.0, digest(&first)), "{same}");
    place.lines("in.jsonl", &inserts(0..400));
    let second = place.online(line);
    assert_eq!((number(&second, "/publications"), number(&second, "/predictions")), (2.0, 100.0), "{second}");
    assert_eq!(digest(&second), fitted(&place, "m.nys", 0..400));
    left(&place, &(300..400).collect::<Vec<_>>());
    place.json("predict --model first.nys --data left.parquet --out p.parquet");
    let file = std::fs::File::open(place.path("p.parquet")).unwrap();
    let builder = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let predicted = builder.build().unwrap().next().unwrap().unwrap();
    let column = predicted.schema().fields().iter().position(|field| field.name().contains("prediction")).unwrap();
    let column = predicted.column(column).as_primitive::<arrow_array::types::Float64Type>().clone();
    let answers = place.read_lines("out.jsonl");
    for (i, answer) in answers.iter().enumerate() {
        assert_eq!(answer["prediction"].as_f64(), Some(column.value(i)), "row {i}");
    }
    // Learners that are models at every moment count theirs too.
    let line = "--config-from m.nys --cap 60 --state t --input jsonl:in.jsonl";
    assert_eq!(number(&place.online(line), "/publications"), 1.0);
    assert_eq!(place.online("verify t")["verified"], true);
    assert_eq!(place.online("verify s")["verified"], true);
}

/// One published model that is damaged is named, and stands in the way of nothing but itself.
#[test]
fn a_damaged_publication_is_named_and_passed_over() {
    let place = begun();
    place.lines("in.jsonl", &inserts(0..1000));
    place.online(
        "--mode exact --config-from m.nys --state s --input jsonl:in.jsonl --publish every:300 --keep-published 4",
    );
    let name = "00000000000000000600.nys";
    let cut = |name: &str| {
        let bytes = std::fs::read(place.path(name)).unwrap();
        std::fs::write(place.path(name), &bytes[..bytes.len() / 2]).unwrap();
    };
    cut(&format!("s/published/{name}"));
    let verified = |state: &str| {
        let output = place.run(&format!("online verify {state} --format json"));
        let report: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
        assert_eq!(output.status.code(), Some(i32::from(report["verified"] != true)), "{report}");
        report
    };
    for report in [place.online("inspect s"), verified("s")] {
        assert_eq!(points(&report), [300, 900, 1000]);
        assert!(report["notes"].to_string().contains(name), "{report}");
    }
    assert_eq!(verified("s")["verified"], false);
    for (asked, there) in [(599, 300), (900, 900), (5000, 1000)] {
        let report = place.online(&format!("export s --as-of {asked} --out then.nys"));
        assert_eq!(digest(&report), fitted(&place, "m.nys", 0..there), "as of {asked}");
    }
    for asked in [600, 899] {
        let output = place.run(&format!("online export s --as-of {asked} --out none.nys"));
        assert!(output.status.code() == Some(1) && text(&output.stderr).contains(name), "{}", text(&output.stderr));
        assert!(!place.path("none.nys").exists());
    }
    // The newest is what verify compares with.
    cut("s/model.nys");
    let report = place.online("inspect s");
    assert!(report["notes"].to_string().contains("model.nys"), "{report}");
    let output = place.run("online verify s");
    assert!(output.status.code() == Some(1) && text(&output.stdout).contains("model.nys"), "{}", text(&output.stdout));
    assert_eq!(digest(&place.online("export s --as-of 1000 --out then.nys")), fitted(&place, "m.nys", 0..1000));
    // It lies in two files, either of which is enough; a run makes it again.
    assert_eq!(number(&place.online("--state s --input jsonl:in.jsonl"), "/rows_surviving"), 1000.0);
    std::fs::remove_file(place.path(&format!("s/published/{name}"))).unwrap();
    assert_eq!(verified("s")["verified"], true);
    cut("s/published/00000000000000001000.nys");
    assert_eq!(digest(&place.online("export s --as-of 1000 --out then.nys")), fitted(&place, "m.nys", 0..1000));
    let report = verified("s");
    assert_eq!((points(&report), &report["verified"]), (vec![300, 900, 1000], &Value::Bool(false)), "{report}");
    assert!(report["notes"].to_string().contains("model.nys is the same one"), "{report}");
    std::fs::copy(place.path("s/model.nys"), place.path("s/published/00000000000000001000.nys")).unwrap();
    // Without the newest the last one that is kept stands for it.
    std::fs::remove_file(place.path("s/model.nys")).unwrap();
    let report = verified("s");
    assert!(report["verified"] == true && report["notes"].to_string().contains("there is no model.nys"), "{report}");
    assert!(!report["notes"].to_string().contains("no model was published yet"), "{report}");
    std::fs::remove_dir_all(place.path("s/published")).unwrap();
    assert!(!verified("s")["notes"].to_string().contains("no model was published yet"));
}

/// A model under another name is none of then, and takes nobody's place.
#[test]
fn a_copy_by_another_name_is_no_publication() {
    let place = begun();
    place.lines("in.jsonl", &inserts(0..1000));
    let line = "--mode exact --config-from m.nys --state s --input jsonl:in.jsonl --publish every:300";
    place.online(&format!("{line} --keep-published 4"));
    let kept = |point: u64| place.path(&format!("s/published/{point:020}.nys"));
    for copy in [450, 5000] {
        std::fs::copy(kept(300), kept(copy)).unwrap();
    }
    let output = place.run("online verify s --format json");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), points(&report)), (Some(1), vec![300, 600, 900, 1000]), "{report}");
    for name in ["00000450.nys", "00005000.nys", "as of change 300, by another name"] {
        assert!(report["notes"].to_string().contains(name), "{report}");
    }
    for (asked, there) in [(500, 300), (6000, 1000)] {
        let report = place.online(&format!("export s --as-of {asked} --out then.nys"));
        assert_eq!(digest(&report), fitted(&place, "m.nys", 0..there), "as of {asked}");
    }
    let early = place.run("online export s --as-of 299 --out early.nys");
    let said = text(&early.stderr);
    assert!(early.status.code() == Some(1) && said.contains("as of change 300, 600, 900, 1000 ("), "{said}");
    // They are not counted among those that are kept, nor removed.
    place.lines("in.jsonl", &inserts(0..1200));
    place.online(line);
    assert_eq!(points(&place.online("inspect s")), [600, 900, 1000, 1200]);
    assert!(kept(450).exists() && kept(5000).exists() && !kept(300).exists());
}

const INDEX_WORN: usize = usize::MAX;
const INDEX_EMPTY: usize = usize::MAX - 1;
const INDEX_GONE: usize = usize::MAX - 2;
const KEEP_GONE: usize = usize::MAX - 3;

/// Whatever of a state is damaged is named with what to do, and ends with code 1.
#[test]
fn verify_looks_at_everything_that_is_kept() {
    let place = begun();
    place.lines("in.jsonl", &inserts(0..1000));
    let exact = "--mode exact --config-from m.nys --state e --input jsonl:in.jsonl --publish every:300";
    place.online(&format!("{exact} --keep-published 2 --snapshot-every 400"));
    place.online("--config-from m.nys --cap 60 --state s --input jsonl:in.jsonl --snapshot-every 400");
    let flip = |path: &std::path::Path, place: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        let place = if place == 0 { bytes.len() / 2 } else { place };
        bytes[place] ^= 16;
        std::fs::write(path, bytes).unwrap();
    };
    let files = |folder: &str, prefix: &str| {
        let all = std::fs::read_dir(place.path(folder)).unwrap().flatten().map(|entry| entry.path());
        let named = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(prefix);
        let mut all: Vec<_> = all.filter(named).collect();
        all.sort_unstable();
        all
    };
    for state in ["e", "s"] {
        assert_eq!(place.online(&format!("verify {state}"))["verified"], true);
    }
    let mut damages = vec![(files("e/exact", "sums-").pop().unwrap(), 0, "the next run sums all rows again")];
    damages.push((place.path("e/published/keep"), 0, "give --keep-published N"));
    damages.push((place.path("e/config.nys"), 0, "put back a copy of the folder"));
    for state in ["e", "s"] {
        let snapshots = files(state, "snapshot-");
        assert_eq!(snapshots.len(), 2, "{state}");
        damages.extend(snapshots.into_iter().map(|path| (path, 0, "the next run goes on without it")));
    }
    for how in [INDEX_WORN, INDEX_EMPTY, INDEX_GONE] {
        damages.push((place.path("e/rows/index.redb"), how, "made anew from the log"));
    }
    damages.push((place.path("e/published/keep"), KEEP_GONE, "give --keep-published N"));
    // The first record of each log: nothing acknowledged is left behind it.
    damages.push((files("s/log", "").remove(0), 100, ""));
    damages.push((files("e/rows/log", "").remove(0), 100, "rows that were acknowledged are lost"));
    for (path, at, remedy) in damages {
        let state = path.strip_prefix(place.path("")).unwrap().components().next().unwrap().as_os_str().to_owned();
        let state = state.to_str().unwrap();
        let kept = std::fs::read(&path).unwrap();
        let whole = place.path("whole");
        let status = std::process::Command::new("cp").arg("-a").arg(place.path(state)).arg(&whole).status().unwrap();
        assert!(status.success());
        match at {
            INDEX_GONE | KEEP_GONE => std::fs::remove_file(&path).unwrap(),
            INDEX_EMPTY => std::fs::write(&path, "").unwrap(),
            // Its header stays; every page is of other bytes.
            INDEX_WORN => {
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[4096..].iter_mut().step_by(7).for_each(|byte| *byte ^= 0x5a);
                std::fs::write(&path, bytes).unwrap()
            }
            _ if path.ends_with("keep") => std::fs::write(&path, "some").unwrap(),
            _ => flip(&path, at),
        }
        let output = place.run(&format!("online verify {state} --format json"));
        let said = text(&output.stdout) + &text(&output.stderr);
        let name = path.file_name().unwrap().to_str().unwrap();
        let named = said.contains(name) || name.is_empty();
        assert!(output.status.code() == Some(1) && named && said.contains(remedy), "{}: {said}", path.display());
        // As it was.
        std::fs::remove_dir_all(place.path(state)).unwrap();
        std::fs::rename(&whole, place.path(state)).unwrap();
        assert!(std::fs::read(&path).unwrap() == kept);
    }
    for state in ["e", "s"] {
        assert_eq!(place.online(&format!("verify {state}"))["verified"], true);
    }
}

/// Publications of a history are the same, however it is cut, and go by the drift.
#[test]
fn drift_publishes_by_the_events_alone() {
    let place = begun();
    let lines = mixed(3000);
    let run = |state: &str, learner: &str, cuts: &[usize], kills: bool| {
        let line =
            format!("--config-from m.nys {learner} --state {state} --input jsonl:{state}.jsonl --keep-published 1000");
        let mut last = Value::Null;
        for cut in cuts {
            place.lines(&format!("{state}.jsonl"), &lines[..*cut]);
            if kills {
                let child = place.start_online(&line);
                std::thread::sleep(Duration::from_millis(draw("drift", *cut as u64, 120)));
                kill(child);
            }
            last = place.online(&line);
        }
        // Each end of a run publishes too, which is none by drift.
        let ends = ends(&lines, &[700, 1900]);
        let mut all = points(&place.online(&format!("inspect {state}")));
        all.retain(|point| !ends.contains(point));
        (last, all)
    };
    for (at, learner) in
        ["--cap 60 --block 64 --publish drift:0.4", "--mode exact --publish drift:0.4"].iter().enumerate()
    {
        let (once, points) = run(&format!("one{at}"), learner, &[lines.len()], false);
        assert!((3..60).contains(&points.len()), "{learner}: {points:?}");
        let (killed, again) = run(&format!("kill{at}"), learner, &[lines.len()], true);
        assert_eq!((digest(&killed), &again), (digest(&once), &points), "{learner}");
        assert_eq!(killed["publications"], once["publications"], "{learner}");
        // A larger drift is met less often.
        let (_, fewer) = run(&format!("few{at}"), &learner.replace("0.4", "0.9"), &[lines.len()], false);
        assert!(fewer.len() < points.len(), "{learner}: {fewer:?} and {points:?}");
        if at == 1 {
            // The end of a source ends the block of a second-order learner: its history is another then.
            let (cut, again) = run("cut", learner, &[700, 1900, lines.len()], true);
            assert_eq!((digest(&cut), again), (digest(&once), points));
        }
    }
}

/// The changes that some prefixes of a stream bring.
fn ends(lines: &[String], cuts: &[usize]) -> Vec<u64> {
    let accepted = |cut: &usize| lines[..*cut].iter().filter(|line| !line.contains("\"bad")).count() as u64;
    cuts.iter().map(accepted).collect()
}

#[test]
fn a_configuration_is_made_anew_from_the_rows_that_are_left() {
    let place = begun();
    // Rows of another scale than those of the configuration.
    let widened = |i: usize| {
        let mut row = labelled(i);
        row["a"] = json!(5.0 + 3.0 * uniform("a", i));
        json!({"key": format!("k{i}"), "row": row}).to_string()
    };
    let mut lines: Vec<String> = (0..900).map(widened).collect();
    lines.extend((0..900).step_by(3).map(|i| json!({"op": "delete", "key": format!("k{i}")}).to_string()));
    place.lines("in.jsonl", &lines);
    let begin = |state: &str| {
        format!("--mode exact --config-from m.nys --state {state} --input jsonl:in.jsonl --publish every:400")
    };
    let before = place.online(&begin("s"));
    let list: Vec<usize> = (0..900).filter(|i| i % 3 != 0).rev().collect();
    let level = |i: &usize| row(*i)["c"].as_str().unwrap().to_owned();
    let batch = batch(vec![
        ("a", numbers(list.iter().map(|i| 5.0 + 3.0 * uniform("a", *i)))),
        ("b", numbers(list.iter().map(|i| uniform("b", *i)))),
        ("c", texts(list.iter().map(level))),
        ("y", numbers(list.iter().map(|i| target(*i)))),
        ("key", texts(list.iter().map(|i| format!("k{i}")))),
    ]);
    write(&place.path("left.parquet"), &batch);
    let rest = format!("{CENTERS} --solver gram --split hash:0.1 --id-column key");
    let whole = digest(&place.solved(&format!("fit --data left.parquet --target y --out whole.nys {KERNEL} {rest}")));
    assert_ne!(digest(&before), whole);
    let refit = |state: &str| format!("--state {state} --input jsonl:in.jsonl --refit-encoder {KERNEL}");
    let after = place.online(&refit("s"));
    assert_eq!(digest(&after), whole, "{after}");
    for what in ["rows_inserted", "rows_deleted", "rows_surviving"] {
        assert_eq!(after[what], before[what], "{what}");
    }
    assert_eq!(place.online("verify s")["verified"], true);
    // It goes on by the new one, and with the same rows it changes nothing.
    assert_eq!(digest(&place.online(&refit("s"))), whole);
    lines.push(insert(2000));
    place.lines("in.jsonl", &lines);
    let more = place.online("--state s --input jsonl:in.jsonl");
    assert_ne!(digest(&more), whole);
    assert_eq!(number(&more, "/rows_surviving"), 601.0);
    place.lines("in.jsonl", &lines[..lines.len() - 1]);
    // Killed in the midst of it: the old configuration or the new one, and the rows either way.
    let (mut old, mut new) = (0, 0);
    place.online(&begin("k"));
    let took = Instant::now();
    place.online(&refit("k"));
    let took = took.elapsed();
    for turn in 0..8u64 {
        let state = format!("k{turn}");
        place.online(&begin(&state));
        let child = place.start_online(&refit(&state));
        std::thread::sleep(took.mul_f64((turn + 1) as f64 / 9.0));
        kill(child);
        let plain = digest(&place.online(&format!("--state {state} --input jsonl:in.jsonl")));
        match plain == whole {
            true => new += 1,
            false => {
                assert_eq!(plain, digest(&before), "turn {turn}");
                old += 1;
            }
        }
        assert_eq!(place.online(&format!("verify {state}"))["verified"], true);
        assert_eq!(digest(&place.online(&refit(&state))), whole, "turn {turn}");
    }
    eprintln!("{old} kills left the old configuration, {new} the new one");
    // A column of which the rows say nothing any more.
    let constant = |i: usize| {
        json!({"key": format!("k{i}"), "row": {"a": 1.0, "b": uniform("b", i), "c": "level 1", "y": target(i)}})
            .to_string()
    };
    place.lines("c.jsonl", &(0..200).map(constant).collect::<Vec<_>>());
    let kept = place.online("--mode exact --config-from m.nys --state c --input jsonl:c.jsonl");
    let output = place.run("online --state c --input jsonl:c.jsonl --refit-encoder");
    assert!(
        output.status.code() == Some(1) && text(&output.stderr).contains("nothing was changed"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(digest(&place.online("--state c --input jsonl:c.jsonl")), digest(&kept));
}

#[test]
fn a_configuration_may_be_tuned_on_the_first_rows_which_stay() {
    let place = Place::new();
    let mut lines = inserts(0..700);
    lines.push(json!({"op": "delete", "key": "k5"}).to_string());
    place.lines("in.jsonl", &lines);
    let report = place.online("--mode exact --init-rows 300 --target y --state s --input jsonl:in.jsonl");
    assert_eq!(number(&report, "/rows_surviving"), 699.0);
    assert_eq!(digest(&report), fitted(&place, "s/config.nys", (0..700).filter(|i| *i != 5)));
}

/// Rows that are all gone have no model: neither centers nor one more publication.
#[test]
fn no_rows_are_no_publication() {
    let place = begun();
    place.lines("in.jsonl", &inserts(0..200));
    let first = place.online("--mode exact --config-from m.nys --state s --input jsonl:in.jsonl");
    assert_eq!((number(&first, "/publications"), number(&first, "/dictionary")), (1.0, 24.0));
    let gone: Vec<String> = (0..200).map(|i| json!({"op": "delete", "key": format!("k{i}")}).to_string()).collect();
    place.lines("gone.jsonl", &gone);
    let line = "--state s --input jsonl:gone.jsonl";
    for report in [place.online(line), place.online(line)] {
        assert_eq!((number(&report, "/publications"), number(&report, "/dictionary")), (1.0, 0.0), "{report}");
        assert_eq!(number(&report, "/rows_surviving"), 0.0);
    }
    place.lines("in.jsonl", &inserts(0..300));
    let back = place.online("--state s --input jsonl:in.jsonl");
    assert_eq!((number(&back, "/publications"), digest(&back)), (2.0, fitted(&place, "m.nys", 200..300)), "{back}");
}

/// A row without a column is refused by the stream, and none that anything is tuned on: a misspelt column is no column.
#[test]
fn first_rows_without_a_column_are_refused_as_later_ones_are() {
    let place = Place::new();
    let misspelt = |i: usize| {
        let mut row = labelled(i);
        let value = row.as_object_mut().unwrap().remove("b").unwrap();
        row["B"] = value;
        json!({"key": format!("k{i}"), "row": row}).to_string()
    };
    let lines: Vec<String> = (0..400).map(|i| if i == 70 { misspelt(i) } else { insert(i) }).collect();
    place.lines("in.jsonl", &lines);
    let line = "--mode exact --init-rows 300 --target y --input jsonl:in.jsonl";
    let output = place.run(&format!("online {line} --state s --dead-letter dead.jsonl --format json"));
    let (report, said) = (summary(&output, line), text(&output.stderr));
    let counts = ["/rows_rejected", "/rows_surviving"].map(|name| number(&report, name));
    assert_eq!(counts, [1.0, 399.0], "{report}");
    assert!(place.read_lines("dead.jsonl")[0]["reason"].as_str().unwrap().contains("no column 'b' (there is 'B')"));
    assert!(said.contains("(B)") && said.contains("1 of the first 300 rows"), "{said}");
    assert_eq!(digest(&report), fitted(&place, "s/config.nys", (0..400).filter(|i| *i != 70)));
    // Told to, it is a null.
    let report = place.online(&format!("{line} --state n --absent null"));
    assert_eq!(number(&report, "/rows_rejected"), 0.0, "{report}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let place = begun();
    let says = |line: &str, code: i32, part: &str| {
        let output = place.run(&format!("online {line}"));
        let error = text(&output.stderr);
        assert!(
            output.status.code() == Some(code) && error.contains(part),
            "{line}: {:?} {error}",
            output.status.code()
        );
    };
    // Nothing has begun, nothing is left behind.
    says("import i --from m.nys --mode exact", 2, "--config-from");
    place.lines("in.jsonl", &[]);
    says("--mode exact --state i --input jsonl:in.jsonl --refit-encoder", 2, "leave it out");
    says("--mode exact --config-from m.nys --state i --input jsonl:absent.jsonl", 1, "absent.jsonl");
    assert!(!place.path("i").exists());
    // A state without rows is what its log says.
    let line = "--mode exact --config-from m.nys --state s --input jsonl:in.jsonl --memory 200MiB";
    place.online(line);
    assert_eq!(place.online("verify s")["verified"], true);
    says("export s --out e.nys", 1, "there is no model of what is in s");
    // Weights of which nothing would come.
    let weighted = |weight: f64| json!({"key": "w", "weight": weight, "row": labelled(1)}).to_string();
    let waiting = json!({"key": "waits", "row": row(3)}).to_string();
    place.lines("in.jsonl", &[inserts(0..200), vec![weighted(2.0), weighted(1.0), waiting]].concat());
    let report = place.online(&format!("{line} --dead-letter dead.jsonl"));
    let counts = ["/rows_rejected", "/rows_surviving", "/rows_waiting"].map(|name| number(&report, name));
    assert_eq!(counts, [1.0, 202.0, 1.0], "{report}");
    assert!(place.read_lines("dead.jsonl")[0].to_string().contains("--weight"));
    let inspected = place.online("inspect s");
    assert_eq!((number(&inspected, "/dictionary"), number(&inspected, "/rows_waiting")), (24.0, 1.0), "{inspected}");
    for file in ["s/model.nys", "s/config.nys", "s/new.nys", "./s/rows/x.nys"] {
        says(&format!("export s --out {file}"), 2, "lies in the state");
    }
    // While another process has it: what was published; after a kill: what is acknowledged.
    let child = place.start_online("--state s --input tcp:127.0.0.1:0");
    let begun = Instant::now();
    // The lock has the process that holds it.
    let holder = || std::fs::read_to_string(place.path("s/lock")).ok().and_then(|id| id.trim().parse().ok());
    while holder() != Some(child.id()) && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(2));
    }
    says("verify s", 1, "verify reads the whole state");
    let exported = place.online("export s --out e.nys");
    assert_eq!(digest(&exported), digest(&report));
    assert!(exported["notes"].to_string().contains("published as of change 202"), "{exported}");
    assert_eq!(digest(&place.online("inspect s")), digest(&report));
    kill(child);
    place.lines("more.jsonl", &inserts(1000..20_000));
    let child = place.start_online("--state s --input jsonl:more.jsonl");
    let begun = Instant::now();
    let log = || {
        std::fs::read_dir(place.path("s/rows/log"))
            .unwrap()
            .flatten()
            .map(|file| file.metadata().map_or(0, |m| m.len()))
            .sum::<u64>()
    };
    let before = log();
    while log() < before + 200_000 && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(child);
    let verified = place.online("verify s");
    assert_eq!(verified["verified"], true, "{verified}");
    let exported = place.online("export s --out e.nys");
    let inserted = number(&exported, "/rows_inserted") as usize;
    let list: BTreeMap<String, usize> = (0..200).chain([1]).map(|i| (format!("k{i}"), i)).collect();
    assert!(inserted > 202 && list.len() == 200, "{exported}");
    assert_eq!(digest(&exported), digest(&verified));
}
