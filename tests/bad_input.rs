//! Bad input through the built binary: every case ends with its documented exit code and one message that names what
//! is wrong, or is harmless and gives a model with finite numbers. Nothing panics, prints half a result or leaves files.

mod common;

use arrow_array::builder::{Int32Builder, ListBuilder};
use arrow_array::{ArrayRef, BinaryArray, Float64Array, Int64Array, StringArray};
use common::*;
use serde_json::Value;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A quick fit of whatever `d.parquet` holds.
const FIT: &str =
    "fit --data d.parquet --target y --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 40";
const ANY: &str = "fit --data d.parquet --target y --out m.nys";

/// A place with `columns` in `d.parquet`.
fn with(columns: Vec<(&str, ArrayRef)>) -> Place {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(columns));
    place
}

/// The columns of [`table`], some replaced or added.
fn but(rows: usize, changes: Vec<(&'static str, ArrayRef)>) -> Vec<(&'static str, ArrayRef)> {
    let mut columns = table(0, rows);
    for (name, array) in changes {
        match columns.iter_mut().find(|(known, _)| *known == name) {
            Some(column) => column.1 = array,
            None => columns.insert(0, (name, array)),
        }
    }
    columns
}

/// Values u(name, i), with `value` in row `at`.
fn marred(name: &str, rows: usize, at: usize, value: f64) -> ArrayRef {
    numbers((0..rows).map(|i| if i == at { value } else { uniform(name, i) }))
}

/// The fit works and its held-out error is a number.
fn fine(place: &Place, line: &str) -> Value {
    let report = place.json(line);
    let measured = report.pointer("/validation/rmse").or_else(|| report.pointer("/validation/log_loss"));
    let measured = measured.and_then(Value::as_f64).unwrap_or_else(|| panic!("{line}: no held-out error in {report}"));
    assert!(measured.is_finite() && measured < 1e6, "{line}: {report}");
    assert!(place.path("m.nys").exists());
    digest(&report);
    report
}

// ---- Files ----

#[test]
fn missing_empty_and_foreign_files() {
    let place = Place::new();
    std::fs::create_dir(place.path("folder")).unwrap();
    std::fs::write(place.path("empty.parquet"), b"").unwrap();
    std::fs::write(place.path("text.parquet"), b"a,b\n1,2\n3,4\n5,6\n").unwrap();
    for command in ["fit --target y --out m.nys", "tune --target y"] {
        for (data, parts) in [
            ("absent.parquet", ["absent.parquet", "does not exist"]),
            ("folder", ["folder", "no Parquet file"]),
            ("none*.parquet", ["none*.parquet", "no Parquet file"]),
            ("empty.parquet", ["empty.parquet", "is empty"]),
            ("text.parquet", ["text.parquet", "not a Parquet file"]),
        ] {
            place.fails(&format!("{command} --data {data}"), 1, &parts);
        }
        // What no data set could be is a matter of usage.
        for (data, parts) in [
            ("ftp://host/key", ["ftp://host/key", "only paths"]),
            ("synth:sinus?rows=10", ["synth:sinus", "sines"]),
            ("synth:sines?rows=ten", ["synth:sines", "rows"]),
        ] {
            place.fails(&format!("{command} --data {data}"), 2, &parts);
        }
    }
    place.fails(
        "fit --target y --out m.nys --data synth:sines?rows=3000 --validation absent.parquet",
        1,
        &["absent.parquet"],
    );
    place.fails(
        "fit --target y --out m.nys --data synth:sines?rows=3000 --select file:absent.parquet",
        1,
        &["absent.parquet"],
    );
}

#[test]
fn truncated_and_corrupt_files() {
    let place = with(table(0, 12_000));
    let bytes = std::fs::read(place.path("d.parquet")).unwrap();
    for (length, part) in [(bytes.len() - 1, "cut short"), (bytes.len() / 2, "cut short"), (7, "cut short")] {
        std::fs::write(place.path("d.parquet"), &bytes[..length]).unwrap();
        place.fails(FIT, 1, &["d.parquet", part]);
    }
    let mut footer = bytes.clone();
    let end = footer.len();
    footer[end - 60..end - 8].fill(0xA5);
    std::fs::write(place.path("d.parquet"), &footer).unwrap();
    place.fails(FIT, 1, &["d.parquet", "corrupt"]);
    let mut page = bytes.clone();
    page[4..60].fill(0xFF);
    std::fs::write(place.path("d.parquet"), &page).unwrap();
    for workers in [1, 3] {
        place.fails(&format!("{FIT} --workers {workers}"), 1, &["d.parquet", "row group 0", "'a'"]);
    }
}

#[test]
fn schemas_that_disagree() {
    let place = Place::new();
    std::fs::create_dir(place.path("d")).unwrap();
    write(&place.path("d/1.parquet"), &batch(table(0, 100)));
    write(&place.path("d/2.parquet"), &batch(but(100, vec![("b", texts((0..100).map(|i| i.to_string())))])));
    let line = FIT.replace("d.parquet", "d");
    place.fails(&line, 1, &["'b'", "1.parquet", "2.parquet"]);
    write(&place.path("d/2.parquet"), &batch(table(0, 100).into_iter().skip(1).collect()));
    place.fails(&line, 1, &["'a'", "1.parquet", "2.parquet"]);
    place.fails(&line.replace("--data d", "--data d/1.parquet --data d/1.parquet"), 1, &["listed twice"]);
}

// ---- Targets ----

#[test]
fn targets_that_teach_nothing() {
    let nothing = || Arc::new(Float64Array::from(vec![None; 500])) as ArrayRef;
    let place = with(but(500, vec![("y", nothing())]));
    place.fails(FIT, 1, &["'y'", "null in all"]);
    place.fails(&FIT.replace("--target y", "--target z"), 1, &["'z'", "the columns are 'a', 'b', 'c', 'y'"]);
    let place = with(but(500, vec![("y", numbers(vec![4.5; 500]))]));
    place.fails(FIT, 1, &["'y'", "constant", "4.5"]);
    let place = with(but(500, vec![("y", texts(vec!["same".to_owned(); 500]))]));
    place.fails(FIT, 1, &["'y'", "constant", "same"]);
    let place = with(table(0, 500));
    place.fails(&format!("{FIT} --target c"), 1, &["one target"]);
    place.fails(&format!("{FIT} --loss logistic"), 2, &["logistic"]);
    place.fails(&format!("{FIT} --weight c"), 1, &["'c'"]);
    place.fails(&format!("{FIT} --drop nothing"), 1, &["'nothing'"]);
    place.fails(&format!("{FIT} --split time:nothing:0.1"), 1, &["'nothing'"]);
    place.fails("tune --data d.parquet --target Y", 1, &["'Y'", "did you mean 'y'?"]);
}

// ---- Columns ----

#[test]
fn nested_and_binary_columns() {
    let mut list = ListBuilder::new(Int32Builder::new());
    (0..300).for_each(|i| list.append_value([Some(i), None]));
    let bytes: BinaryArray = (0..300).map(|_| Some(b"raw".as_slice())).collect();
    let place = with(but(300, vec![("raw", Arc::new(bytes)), ("nest", Arc::new(list.finish()))]));
    place.fails(FIT, 1, &["'nest'", "List", "--drop 'nest'"]);
    place.fails(&format!("{FIT} --drop nest"), 1, &["'raw'", "Binary", "--drop 'raw'"]);
    fine(&place, &format!("{FIT} --drop nest --drop raw"));
}

#[test]
fn null_and_constant_features() {
    let nothing = || Arc::new(Float64Array::from(vec![None; 400])) as ArrayRef;
    let place = with(but(400, vec![("n", nothing()), ("k", numbers(vec![7.0; 400]))]));
    let report = fine(&place, FIT);
    let notes = report["notes"].to_string();
    assert!(notes.contains("'n'") && notes.contains("'k'"), "{notes}");
    let place = with(vec![("n", nothing()), ("k", numbers(vec![7.0; 400])), ("y", numbers((0..400).map(f64::from)))]);
    place.fails(FIT, 1, &["no usable feature", "'n'", "'k'"]);
    let place = with(vec![("y", numbers((0..400).map(f64::from)))]);
    place.fails(FIT, 1, &["no usable feature"]);
    // Half of the values null: the centre and an indicator column take their place.
    let half: Float64Array = (0..400).map(|i| (i % 2 == 0).then(|| uniform("h", i))).collect();
    let with_half = with(but(400, vec![("h", Arc::new(half))]));
    let plain = number(&fine(&with(table(0, 400)), FIT), "/features_encoded");
    assert_eq!(number(&fine(&with_half, FIT), "/features_encoded"), plain + 2.0);
}

#[test]
fn ten_thousand_columns() {
    let names: Vec<String> = (0..10_000).map(|j| format!("f{j}")).collect();
    let column = |name: &str| numbers((0..60).map(|i| uniform(name, i)));
    let mut columns: Vec<(&str, ArrayRef)> = names.iter().map(|name| (name.as_str(), column(name))).collect();
    columns.push(("y", numbers((0..60).map(|i| uniform("f0", i) + uniform("f9999", i)))));
    let report = fine(&with(columns), FIT);
    assert_eq!(number(&report, "/features_encoded"), 10_000.0);
}

#[test]
fn too_many_levels() {
    let place = with(but(80_000, vec![("id", texts((0..80_000).map(|i| format!("id {i}"))))]));
    // Training rows of one worker alone hold fewer than the limit.
    place.fails(&format!("{FIT} --workers 2"), 1, &["'id'", "65536", "--drop 'id'"]);
    let report = fine(&place, &format!("{FIT} --drop id"));
    assert!(number(&report, "/rows") > 70_000.0);
    // Many, but countable: the rare ones are pooled.
    let place = with(but(30_000, vec![("id", texts((0..30_000).map(|i| format!("id {}", i / 2))))]));
    fine(&place, FIT);
}

// ---- Rows ----

#[test]
fn none_one_and_few_rows() {
    let place = with(table(0, 0));
    place.fails(FIT, 1, &["no rows", "d.parquet"]);
    place.fails("tune --data d.parquet --target y", 1, &["no rows", "d.parquet"]);
    for line in [ANY, FIT] {
        // Whether the split keeps it or holds it out.
        for seed in 0..4 {
            with(table(seed, 1)).fails(&format!("{line} --seed {seed}"), 1, &[]);
        }
        with(table(0, 1)).fails(&format!("{line} --split none"), 1, &["'y'", "constant"]);
    }
    // Two rows and up are a model, with whatever number of centers was asked for, and on auto.
    for rows in [2, 3, 5, 17, 64] {
        let place = with(table(0, rows));
        for line in [FIT, ANY] {
            let report = place.json(&format!("{line} --split none"));
            assert!(number(&report, "/centers") <= rows as f64, "{report}");
            let residual = number(&report, "/certificate/residual");
            assert!(residual.is_finite() && residual >= 0.0, "{rows} rows, {line}: {report}");
            let score = place.json("evaluate --model m.nys --data d.parquet");
            assert!(number(&score, "/rmse") < 3.0, "{rows} rows, {line}: {score}");
        }
    }
}

#[test]
fn more_centers_than_rows() {
    let place = with(table(0, 30));
    for select in ["auto", "uniform", "rpcholesky", "squeak"] {
        for solver in ["gram", "pcg"] {
            let line = FIT.replace("--centers 40", "--centers 1000");
            let report = place.json(&format!("{line} --split none --select {select} --solver {solver}"));
            let centers = number(&report, "/centers");
            assert!((1.0..=30.0).contains(&centers), "{select} {solver}: {report}");
            let score = place.json("evaluate --model m.nys --data d.parquet");
            assert!(number(&score, "/rmse") < 0.5, "{select} {solver}: {score}");
        }
    }
}

#[test]
fn duplicate_rows_only() {
    // Five different rows, again and again: K_mm of 40 centers has rank 5.
    let five = |name: &'static str| numbers((0..2000).map(move |i| uniform(name, i % 5)));
    let columns = || vec![("a", five("a")), ("b", five("b")), ("y", five("y"))];
    let place = with(columns());
    for select in ["auto", "uniform", "rpcholesky", "squeak"] {
        for solver in ["gram", "pcg", "auto"] {
            let report = fine(&place, &format!("{FIT} --select {select} --solver {solver}"));
            // Five values can be told apart exactly, but for the ridge.
            assert!(number(&report, "/validation/standardized_rmse") < 0.1, "{select} {solver}: {report}");
        }
    }
    fine(&place, ANY);
    place.json("tune --data d.parquet --target y");
    // One row, again and again, is a constant target.
    let one = |name: &'static str| numbers((0..2000).map(move |_| uniform(name, 0)));
    with(vec![("a", one("a")), ("y", one("y"))]).fails(FIT, 1, &["'y'", "constant"]);
    // One point with many targets has no feature left.
    with(vec![("a", one("a")), ("y", five("y"))]).fails(FIT, 1, &["no usable feature", "'a'"]);
}

#[test]
fn bad_values_name_file_row_and_column() {
    for (value, word) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "inf")] {
        for column in ["a", "y"] {
            let place = with(but(6000, vec![(column, marred(column, 6000, 4321, value))]));
            let name = format!("'{column}'");
            for workers in [1, 3] {
                let line = format!("{FIT} --workers {workers}");
                place.fails(&line, 1, &["1 bad row", "d.parquet", "row 4321", &name, word, "--max-bad-rows"]);
            }
            let report = fine(&place, &format!("{FIT} --max-bad-rows 1"));
            assert_eq!(number(&report, "/rows_bad"), 1.0);
            assert_eq!(number(&report, "/rows") + number(&report, "/validation/rows"), 5999.0);
        }
    }
    let place = with(but(3000, vec![("a", numbers(vec![f64::NAN; 3000]))]));
    place.fails(FIT, 1, &["3000 bad rows", "row 0", "'a'"]);
    place.fails(&format!("{FIT} --max-bad-rows 3000"), 1, &[]);
    let place = with(but(3000, vec![("w", marred("w", 3000, 17, -1.0))]));
    place.fails(&format!("{FIT} --weight w"), 1, &["row 17", "'w'"]);
}

#[test]
fn huge_and_tiny_values() {
    for (scale, name) in [(1e300, "huge"), (1e150, "large"), (1e-300, "small"), (1e-310, "denormal")] {
        for column in ["a", "y"] {
            let place = with(but(2000, vec![(column, numbers((0..2000).map(|i| scale * uniform(column, i))))]));
            let output = place.run(&format!("{FIT} --format json"));
            let error = text(&output.stderr);
            match output.status.code() {
                // Where the spread of the column is within reach, the model is as good as on the plain column.
                Some(0) => {
                    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
                    let notes = report["notes"].to_string();
                    let ignored = column == "a" && notes.contains("'a'");
                    let limit = if column == "y" {
                        1.2
                    } else if ignored {
                        1.1
                    } else {
                        0.7
                    };
                    let measured = number(&report, "/validation/standardized_rmse");
                    assert!(measured < limit, "{name} {column}: {report}");
                }
                Some(1) => assert!(error.contains(&format!("'{column}'")) && output.stdout.is_empty(), "{error}"),
                other => panic!("{name} {column}: {other:?} {error}"),
            }
            assert!(!error.contains("panicked") && !error.contains("bug"), "{name} {column}: {error}");
        }
    }
    // A single huge value among ordinary ones ends in a message or a usable model.
    let place = with(but(2000, vec![("a", marred("a", 2000, 99, 1e308))]));
    let output = place.run(FIT);
    let error = text(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)) && !error.contains("bug"), "{error}");
    assert!(output.status.code() == Some(0) || error.contains("'a'"), "{error}");
}

// ---- Options ----

#[test]
fn budgets_and_options_that_cannot_be() {
    let place = with(table(0, 3000));
    let fit = "fit --data d.parquet --target y --out m.nys";
    place.fails(&format!("{fit} --ridge 0"), 2, &["--ridge 0"]);
    place.fails(&format!("{fit} --ridge=-1"), 2, &["--ridge"]);
    place.fails(&format!("{fit} --bandwidth 0"), 2, &["positive"]);
    place.fails(&format!("{fit} --bandwidth 0x"), 2, &["positive"]);
    place.fails(&format!("{fit} --metric absent.json"), 1, &["absent.json"]);
    place.fails(&format!("{fit} --config-from absent.nys"), 1, &["absent.nys"]);
    place.fails(&format!("{fit} --hosts absent --process 0"), 2, &["absent"]);
    place.fails(&format!("{fit} --memory 1MiB"), 4, &["--memory", "1.0 MiB"]);
    let large = "fit --data synth:sines?rows=1e6 --target y --out m.nys --ridge 1e-6 --bandwidth 1x";
    place.fails(&format!("{large} --centers 100000 --solver gram"), 4, &["100000 centers", "--memory"]);
    // A ridge so small that K_mm is singular to working precision still ends in a model or one message.
    let line = FIT.replace("1e-4", "1e-300").replace("40", "400");
    for solver in ["gram", "pcg"] {
        let output = place.run(&format!("{line} --solver {solver}"));
        let error = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{error}");
        assert!(!error.contains("bug in nystream"), "{error}");
    }
}

#[test]
fn unwritable_outputs() {
    let place = with(table(0, 500));
    place.fails(&FIT.replace("m.nys", "absent/m.nys"), 1, &["absent/m.nys"]);
    place.fails(&FIT.replace("m.nys", "."), 1, &["cannot write"]);
    place.fails(&format!("{FIT} --report absent/r.json"), 1, &["absent/r.json"]);
    place.fails("tune --data d.parquet --target y --report absent/r.json", 1, &["absent/r.json"]);
    fine(&place, FIT);
    place.fails("evaluate --model m.nys --data d.parquet --report absent/r.json", 1, &["absent/r.json"]);
}

/// Outputs replace what was there: never what the command reads, however it is spelled.
#[test]
fn inputs_are_not_overwritten() {
    let place = with(table(0, 500));
    fine(&place, FIT);
    place.json("dictionary --data d.parquet --target y --centers 20 --out z.parquet");
    std::os::unix::fs::symlink(place.path("d.parquet"), place.path("link.parquet")).unwrap();
    let fit = FIT.replace(" --out m.nys", "");
    let before: Vec<_> = place.names().iter().map(|name| std::fs::read(place.path(name)).unwrap()).collect();
    for line in [
        format!("{fit} --out d.parquet"),
        format!("{fit} --out ./d.parquet"),
        format!("{fit} --out link.parquet"),
        format!("{fit} --out n.nys --report d.parquet"),
        format!("{fit} --out n.nys --report ./n.nys"),
        format!("{fit} --out n.nys --from m.nys --solver pcg --report m.nys"),
        format!("{} --select file:z.parquet --out z.parquet", fit.replace("--centers 40", "")),
        "dictionary --data d.parquet --target y --centers 20 --out link.parquet".into(),
        "dictionary --data d.parquet --target y --centers 20 --out c.parquet --report c.parquet".into(),
        "tune --data d.parquet --target y --report d.parquet".into(),
        "evaluate --model m.nys --data d.parquet --report ./d.parquet".into(),
        "evaluate --model m.nys --data d.parquet --report m.nys".into(),
        "predict --model m.nys --data d.parquet --out ./m.nys".into(),
        "predict --model m.nys --data d.parquet --out link.parquet".into(),
    ] {
        place.fails(&line, 2, &["--"]);
        let now: Vec<_> = place.names().iter().map(|name| std::fs::read(place.path(name)).unwrap()).collect();
        assert!(before == now, "{line}");
    }
    // A model may take the place of the one it started from.
    fine(&place, &format!("{FIT} --from m.nys --solver pcg"));
}

/// Weights that are all 0 leave nothing to learn from, with any solver.
#[test]
fn weights_of_nothing() {
    let place = with(but(500, vec![("w", numbers((0..500).map(|_| 0.0)))]));
    for solver in ["auto", "gram", "pcg", "eigenpro", "blockcd"] {
        let line = if solver == "blockcd" { FIT.replace("--centers 40", "") } else { FIT.to_owned() };
        place.fails(&format!("{line} --weight w --solver {solver}"), 1, &["'w'", "0 in every training row"]);
    }
}

/// A failed fit leaves the model that was there before.
#[test]
fn failures_keep_earlier_outputs() {
    let place = with(table(0, 500));
    fine(&place, FIT);
    let before = std::fs::read(place.path("m.nys")).unwrap();
    write(&place.path("d.parquet"), &batch(but(500, vec![("a", marred("a", 500, 3, f64::NAN))])));
    place.fails(FIT, 1, &["row 3"]);
    assert_eq!(std::fs::read(place.path("m.nys")).unwrap(), before);
}

// ---- Models ----

#[test]
fn damaged_models() {
    let place = with(table(0, 1000));
    fine(&place, FIT);
    let bytes = std::fs::read(place.path("m.nys")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let damage = |name: &str, bytes: &[u8]| std::fs::write(place.path(name), bytes).unwrap();
    let flipped = |at: usize| {
        let mut copy = bytes.clone();
        copy[at] ^= 4;
        copy
    };
    damage("short.nys", &bytes[..bytes.len() - 5]);
    damage("half.nys", &bytes[..bytes.len() / 2]);
    damage("stub.nys", &bytes[..5]);
    damage("none.nys", b"");
    damage("length.nys", &flipped(6));
    damage("value.nys", &flipped(bytes.len() - 20));
    damage("first.nys", &flipped(header + 9));
    damage("header.nys", &flipped(8 + header / 2));
    let version = br#"\"version\":"#;
    let at = bytes[..8 + header].windows(version.len()).rposition(|window| window == version).unwrap();
    let mut newer = bytes.clone();
    newer[at + version.len()] = b'9';
    damage("newer.nys", &newer);
    place.fails("inspect newer.nys", 1, &["newer.nys", "format 9"]);
    let models = ["newer", "short", "half", "stub", "none", "length", "value", "first", "header"];
    for name in models {
        let file = format!("{name}.nys");
        for line in [
            format!("inspect {file}"),
            format!("evaluate --model {file} --data d.parquet"),
            format!("predict --model {file} --data d.parquet --out p.parquet"),
            format!("{FIT} --from {file}").replace("m.nys", "new.nys"),
            format!("{FIT} --config-from {file}").replace("m.nys", "new.nys"),
        ] {
            place.fails(&line, 1, &[&file]);
        }
    }
    // Any flipped bit is noticed.
    for trial in 0..60 {
        damage("any.nys", &flipped((uniform("flip", trial) * bytes.len() as f64) as usize));
        place.fails("inspect any.nys", 1, &["any.nys"]);
    }
}

#[test]
fn data_that_does_not_fit_the_model() {
    let place = with(table(0, 1000));
    fine(&place, FIT);
    let all = || batch(table(0, 50));
    let keep = |wanted: &[&str]| batch(table(0, 50).into_iter().filter(|(name, _)| wanted.contains(name)).collect());
    let number_c: ArrayRef = Arc::new(Int64Array::from_iter_values(0..50));
    let cases = [
        (keep(&["a", "c", "y"]), vec!["'b'"]),
        (keep(&["a", "b", "y"]), vec!["'c'"]),
        (keep(&["a", "b", "c"]), vec!["'y'"]),
        (batch(but(50, vec![("a", texts((0..50).map(|i| i.to_string())))])), vec!["'a'"]),
        (batch(but(50, vec![("y", texts((0..50).map(|i| i.to_string())))])), vec!["'y'"]),
        (batch(but(50, vec![("c", Arc::new(BinaryArray::from_iter_values((0..50).map(|_| b"x"))))])), vec!["'c'"]),
        (batch(but(50, vec![("b", marred("b", 50, 7, f64::NAN))])), vec!["row 7", "'b'", "other.parquet"]),
    ];
    for (other, parts) in cases {
        write(&place.path("other.parquet"), &other);
        for workers in [1, 2] {
            let line = format!("evaluate --model m.nys --data other.parquet --workers {workers}");
            place.fails(&line, 1, &parts);
        }
        place.fails(
            &FIT.replace("m.nys", "n.nys").replace("--kernel", "--validation other.parquet --kernel"),
            1,
            &parts,
        );
    }
    write(&place.path("other.parquet"), &all());
    assert_eq!(number(&place.json("evaluate --model m.nys --data other.parquet"), "/rows"), 50.0);
    // Numbers where levels were read: their text is a level, here one that was not seen.
    write(&place.path("other.parquet"), &batch(but(50, vec![("c", number_c)])));
    let output = place.run("evaluate --model m.nys --data other.parquet");
    let error = text(&output.stderr);
    assert!(output.status.code() == Some(0) || error.contains("'c'"), "{error}");
    assert!(!error.contains("bug in nystream"), "{error}");
    // New levels and nulls are ordinary data.
    let unseen: ArrayRef = Arc::new(StringArray::from_iter((0..50).map(|i| (i % 3 > 0).then_some("never seen"))));
    let nulls: Float64Array = (0..50).map(|i| (i % 2 == 0).then_some(0.5)).collect();
    write(&place.path("other.parquet"), &batch(but(50, vec![("c", unseen), ("a", Arc::new(nulls))])));
    assert!(number(&place.json("evaluate --model m.nys --data other.parquet"), "/rmse").is_finite());
    // A target that is null everywhere leaves nothing to measure.
    let nothing: ArrayRef = Arc::new(Float64Array::from(vec![None; 50]));
    write(&place.path("other.parquet"), &batch(but(50, vec![("y", nothing)])));
    place.fails("evaluate --model m.nys --data other.parquet", 1, &["'y'"]);
    write(&place.path("other.parquet"), &batch(table(0, 0)));
    place.fails("evaluate --model m.nys --data other.parquet", 1, &["no rows", "other.parquet"]);
}

// ---- Interrupts ----

/// Whether the process has a handler for SIGINT (elsewhere than on Linux: whether it had a second to install one).
#[cfg(unix)]
fn catches_interrupts(process: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{process}/status")) else {
        std::thread::sleep(Duration::from_secs(1));
        return true;
    };
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 2 != 0)
}

/// Starts a long fit, sends `signal` after `wait`, and gives how it ended.
#[cfg(unix)]
fn interrupted(place: &Place, line: &str, signal: &str, wait: Duration) -> Output {
    let child = place.command(line).spawn().unwrap();
    let begun = Instant::now();
    // Not before the handler is there: before, the signal would be the system's to handle.
    while !catches_interrupts(child.id()) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{line} did not start");
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(wait);
    let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    finish(child, line)
}

#[cfg(unix)]
#[test]
fn interrupts_at_any_moment() {
    let long = "fit --data synth:sines?rows=4e6&d=5 --target y --out m.nys --ridge 1e-6 --centers 300";
    for (index, wait) in [0, 40, 150, 400, 900].into_iter().enumerate() {
        let (signal, solver) = [("INT", "gram"), ("TERM", "pcg")][index % 2];
        let place = Place::new();
        std::fs::write(place.path("m.nys"), "earlier").unwrap();
        let line = format!("{long} --solver {solver} --workers {}", 1 + index % 3);
        let output = interrupted(&place, &line, signal, Duration::from_millis(wait));
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{signal} after {wait} ms: {error}");
        assert!(error.contains("interrupted") && !error.contains("bug"), "{error}");
        assert!(output.stdout.is_empty());
        assert_eq!(place.names(), ["m.nys"], "{signal} after {wait} ms");
        assert_eq!(std::fs::read(place.path("m.nys")).unwrap(), b"earlier");
    }
}
