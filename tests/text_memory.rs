//! Long text and many distinct values: what does not fit the memory is refused by name before it is read, what fits stays within its plan, and memory never
//! changes an answer.

mod common;

use arrow_array::{ArrayRef, DurationSecondArray, Int64Array, Time32SecondArray};
use common::*;
use serde_json::Value;
use std::sync::Arc;

const FIT: &str =
    "fit --data d.parquet --target y --out m.nys --centers 50 --kernel gaussian --bandwidth 1x --ridge 1e-5";

/// A folder with the table of `rows` rows and `more` columns.
fn with(rows: usize, more: Vec<(&'static str, ArrayRef)>) -> Place {
    let place = Place::new();
    let mut columns = table(0, rows);
    columns.extend(more);
    write_grouped(&place.path("d.parquet"), &batch(columns), 1500);
    place
}

/// Text of some `length` bytes, another in each row.
fn long(rows: usize, length: usize) -> ArrayRef {
    texts((0..rows).map(|i| format!("{i} ").repeat(length / 5)))
}

/// Its peak, which is within its plan.
fn peak(report: &Value) -> f64 {
    let (peak, planned) = (number(report, "/peak_rss_bytes"), number(report, "/predicted/memory_bytes"));
    assert!(peak <= planned, "{peak} of {planned}: {report}");
    peak
}

/// 4,000 values of 20,000 bytes: one batch of them, twice, is more than there is.
#[cfg(target_os = "linux")]
#[test]
fn long_text_is_planned_for_whatever_it_is_used_as() {
    let place = with(4000, vec![("note", long(4000, 20_000))]);
    for (more, remedy) in [
        ("", "--drop 'note'"),
        ("--id-column note", "leave out --id-column"),
        ("--drop note --split hash:0.1:note", "split by another column than 'note'"),
    ] {
        let line = format!("{FIT} {more} --workers 2");
        place.fails(&format!("{line} --memory 128MiB"), 4, &["'note'", "a row", "--memory allows 128.0 MiB", remedy]);
        // As a feature it is more text than is counted, whatever the memory.
        if more.is_empty() {
            place.fails(&line, 1, &["'note'", "16 MiB of text", "--drop 'note'"]);
            continue;
        }
        let report = place.json(&line);
        let (used, planned) = (peak(&report), number(&report, "/predicted/memory_bytes"));
        assert!(used > 128e6 && planned < 4.0 * used, "{more}: {used} of {planned}");
        let bound = place.json(&format!("{line} --memory {planned}"));
        assert!(peak(&bound) <= planned);
        assert_eq!(digest(&bound), digest(&report));
    }
    // Labels: 3,600 of them in as many rows are no classes.
    let labels = FIT.replace("--target y", "--target note");
    place.fails(&format!("{labels} --memory 128MiB"), 4, &["target 'note'", "--memory allows 128.0 MiB"]);
    place.fails(&labels, 1, &["target 'note'", "too many to be classes"]);
    // Without the column nothing is counted for it, neither in a fit nor where its model is applied.
    let report = place.json(&format!("{FIT} --drop note --memory 128MiB"));
    assert!(peak(&report) < 128e6);
    let apply = "predict --model m.nys --data d.parquet --out p.parquet --workers 2";
    assert!(peak(&place.json(&format!("{apply} --memory 128MiB"))) < 128e6);
    std::fs::remove_file(place.path("p.parquet")).unwrap();
    place.fails(&format!("{apply} --keep note --memory 128MiB"), 4, &["--keep"]);
    peak(&place.json(&format!("{apply} --keep note")));
}

/// Twenty columns of 25,000 keys each: what the budget does not hold is refused during the profile by every number of workers, and the rest is planned.
#[cfg(target_os = "linux")]
#[test]
fn many_short_keys_are_planned_for() {
    const ROWS: usize = 25_000;
    const NAMES: [&str; 20] = [
        "k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7", "k8", "k9", "k10", "k11", "k12", "k13", "k14", "k15", "k16",
        "k17", "k18", "k19",
    ];
    let keys = |c: usize| texts((0..ROWS).map(|i| format!("{:08}", (i * (10 * c + 7)) % ROWS + 100 * c)));
    let place = with(ROWS, NAMES.iter().enumerate().map(|(c, name)| (*name, keys(c))).collect());
    for workers in [1, 2, 3] {
        let line = format!("{FIT} --workers {workers}");
        place.fails(
            &format!("{line} --memory 112MiB"),
            4,
            &["distinct values", "column 'k0'", "--drop 'k0'", "--memory"],
        );
        let report = place.json(&line);
        let planned = number(&report, "/predicted/memory_bytes");
        let used = peak(&report);
        assert!(used > 50e6 && planned < 4.0 * used, "{report}");
        // Workers have their own shares of the budget, and not all have as many rows.
        let bound = place.json(&format!("{line} --memory {}", 1.25 * planned));
        assert!(peak(&bound) <= planned);
        assert_eq!(digest(&bound), digest(&report));
    }
    // Each alone is left out of the model with a note that counts all of its levels.
    let report = place.json(FIT);
    assert!(report["notes"].to_string().contains("levels, none with 20 rows: left out"), "{report}");
}

/// A few long labels are classes like any others, and messages show their beginnings.
#[test]
fn long_values_that_are_few_are_levels() {
    let label = |i: usize| format!("{}{}", i % 3, "x".repeat(3000));
    let place = with(3000, vec![("label", texts((0..3000).map(label)))]);
    let report = place.json(&FIT.replace("--target y", "--target label --drop y"));
    assert!(number(&report, "/peak_rss_bytes") > 0.0);
    let place = with(3000, vec![("label", texts((0..3000).map(|_| label(0))))]);
    let output = place.run(&FIT.replace("--target y", "--target label"));
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("constant (0xxx") && error.len() < 1000, "{error}");
    // A key that occurs twice.
    let output = place.run(&format!("{FIT} --id-column label"));
    let error = text(&output.stderr);
    assert!(error.contains("does not identify rows: '0xxx") && error.len() < 1000, "{error}");
}

#[test]
fn numbers_of_too_many_values_are_no_classes() {
    let n = 5000;
    let place = with(n, vec![("n", Arc::new(Int64Array::from_iter_values((0..n as i64).map(|i| i / 4))) as ArrayRef)]);
    // With kernel and ridge given and without: nothing is tuned before the refusal.
    for line in [FIT, "fit --data d.parquet --target y --out m.nys", "tune --data d.parquet --target y"] {
        let line = format!("{line} --task classification");
        place.fails(&line, 1, &["target 'y'", "distinct values", "too many to be classes", "--task regression"]);
        if line.contains("--centers") {
            // Integers that occur again and again may be labels, however many they are.
            place.solved(&line.replace("--target y", "--target n"));
        }
    }
}

/// What was a length of time when the model was fitted must be one when it is applied; its unit may be another.
#[test]
fn durations_and_times_of_day_are_no_plain_numbers() {
    let n = 2000;
    let seconds = || (0..n as i64).map(|i| (i * 7919) % 86_400);
    let lasts = || Arc::new(DurationSecondArray::from_iter_values(seconds())) as ArrayRef;
    let at = || Arc::new(Time32SecondArray::from_iter_values(seconds().map(|s| (s % 7001) as i32))) as ArrayRef;
    let whole = || Arc::new(Int64Array::from_iter_values(seconds())) as ArrayRef;
    let place = with(n, vec![("lasts", lasts()), ("at", at())]);
    let report = place.json(FIT);
    assert_eq!(number(&report, "/features_encoded"), 5.0, "{report}");
    let apply = |more: Vec<(&'static str, ArrayRef)>, parts: &[&str]| {
        let mut columns = table(0, n);
        columns.extend(more);
        write(&place.path("other.parquet"), &batch(columns));
        for line in [
            "predict --model m.nys --data other.parquet --out p.parquet",
            "evaluate --model m.nys --data other.parquet",
        ] {
            match parts {
                [] => drop(place.json(line)),
                parts => place.fails(line, 1, parts),
            }
        }
    };
    apply(vec![("lasts", whole()), ("at", at())], &["'lasts'", "numeric (Int64)", "a duration"]);
    apply(vec![("lasts", lasts()), ("at", whole())], &["'at'", "numeric (Int64)", "a time of day"]);
    apply(vec![("lasts", at()), ("at", at())], &["'lasts'", "time of day", "a duration"]);
    let milliseconds = arrow_array::DurationMillisecondArray::from_iter_values(seconds().map(|s| 1000 * s));
    apply(vec![("lasts", Arc::new(milliseconds)), ("at", at())], &[]);
    // The other way round, and files of one data set that disagree.
    write(&place.path("d.parquet"), &batch([table(0, n), vec![("lasts", whole()), ("at", at())]].concat()));
    place.json(FIT);
    apply(vec![("lasts", lasts()), ("at", at())], &["'lasts'", "duration", "a number"]);
    place.fails(&FIT.replace("--data d.parquet", "--data d.parquet --data other.parquet"), 1, &["'lasts'", "duration"]);
}

/// Tuning holds the columns of all classes on the sample: it is in the plan, and refuses before it is made.
#[cfg(target_os = "linux")]
#[test]
fn tuning_of_many_classes_is_planned_for() {
    let classes = 150;
    let place = with(6000, vec![("class", texts((0..6000).map(|i| format!("class {}", (i * 37) % classes))))]);
    let line =
        "fit --data d.parquet --target class --out m.nys --centers 60 --kernel gaussian --ridge 1e-3 --workers 2";
    let report = place.solved(line);
    assert!(peak(&report) > 0.0);
    let small = format!("{line} --memory 100MiB");
    place.fails(&small, 4, &["tuning needs", "150 target column(s)", "--bandwidth"]);
}
