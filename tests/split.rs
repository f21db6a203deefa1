//! Held-out rows through the built binary: a time split fits exactly the rows before its cut, a hash split by column keeps groups whole.

mod common;
#[path = "common/read.rs"]
mod read;

use arrow_array::{ArrayRef, Int64Array, StringArray, TimestampMillisecondArray};
use common::*;
use nystream_hashing::{RowId, StreamKey};
use std::sync::Arc;

const FIXED: &str = "--kernel gaussian --bandwidth 1.5x --ridge 1e-6 --centers 60 --select uniform --precision f64";

#[test]
fn a_time_split_holds_out_before_anything_is_measured() {
    let place = Place::new();
    let source = "synth:friedman1?rows=5000&d=5&seed=3";
    let line = |solver: &str| {
        format!("fit --data {source} --target y --out m.nys {FIXED} --split time:x0:0.5 --solver {solver}")
    };
    let mut errors = Vec::new();
    for solver in ["gram", "pcg --tolerance 1e-10"] {
        let alone = place.solved(&format!("{} --workers 1", line(solver)));
        assert_eq!((number(&alone, "/rows"), number(&alone, "/validation/rows")), (2500.0, 2500.0));
        let matrix = number(&alone, "/ridge_matrix");
        assert!((matrix / (1e-6 * 2500.0) - 1.0).abs() < 1e-12, "{matrix}");
        let three = place.solved(&format!("{} --workers 3", line(solver)));
        assert_eq!(digest(&three), digest(&alone), "{solver}");
        errors.push(number(&alone, "/validation/standardized_rmse"));
    }
    // Both solve the same problem, which is to reach beyond the training rows along x0.
    assert!((errors[0] / errors[1] - 1.0).abs() < 1e-6, "{errors:?}");
}

/// 3,000 instants, each three times, in no order; a null in every tenth row.
fn when(i: usize) -> Option<i64> {
    (i % 10 != 3).then_some(1_500_000_000_000 + ((i * 7919) % 1000) as i64 * 60_000)
}

/// The target, null in every seventh row and in all of the last 30 instants: rows that are not known yet decide nothing.
fn target(i: usize) -> Option<f64> {
    let late = when(i).is_some_and(|t| t >= 1_500_000_000_000 + 970 * 60_000);
    let y = (6.0 * uniform("a", i)).sin() + uniform("b", i) + ((uniform("c", i) * 3.0).floor() - 1.0);
    (!late && i % 7 != 2).then_some(y)
}

fn columns(rows: &[usize]) -> Vec<(&'static str, ArrayRef)> {
    let text = |i: &usize| format!("level {}", (uniform("c", *i) * 3.0) as u32);
    vec![
        ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|i| *i as i64))) as ArrayRef),
        ("when", Arc::new(TimestampMillisecondArray::from_iter(rows.iter().map(|i| when(*i))))),
        ("a", numbers(rows.iter().map(|i| uniform("a", *i)))),
        ("b", numbers(rows.iter().map(|i| uniform("b", *i)))),
        ("c", texts(rows.iter().map(text))),
        ("y", Arc::new(arrow_array::Float64Array::from_iter(rows.iter().map(|i| target(*i)))) as ArrayRef),
    ]
}

#[test]
fn the_rows_before_the_cut_are_all_that_is_fitted() {
    let place = Place::new();
    let all: Vec<usize> = (0..3000).collect();
    let mut known: Vec<i64> = all.iter().filter(|i| target(**i).is_some()).filter_map(|i| when(*i)).collect();
    known.sort_unstable();
    // A share of the rows with target and instant, and those that tie with the earliest of them.
    let held = (known.len() as f64 * 0.24).round() as usize;
    let cut = known[known.len() - held];
    let tied = known.iter().filter(|t| **t >= cut).count();
    assert!(tied > held, "the case has no ties: {held}");
    let late = |i: &usize| when(*i).is_some_and(|t| t >= cut);
    let (after, before): (Vec<usize>, Vec<usize>) = all.iter().partition(|i| late(i));
    for (name, rows) in [("all", &all), ("before", &before), ("after", &after)] {
        write(&place.path(&format!("{name}.parquet")), &batch(columns(rows)));
    }
    let fit = |data: &str, split: &str, out: &str| {
        place.json(&format!(
            "fit --data {data}.parquet --target y --id-column id --drop when {FIXED} --scale robust --solver gram --split {split} --out {out}"
        ))
    };
    let split = fit("all", "time:when:0.24", "split.nys");
    let plain = fit("before", "none", "plain.nys");
    let trained = before.iter().filter(|i| target(**i).is_some()).count();
    assert_eq!(number(&split, "/rows"), trained as f64);
    assert_eq!(number(&split, "/validation/rows"), tied as f64);
    for field in ["/rows", "/ridge_matrix", "/bandwidth", "/effective_dimension", "/certificate/trace_error"] {
        assert_eq!(number(&split, field), number(&plain, field), "{field}");
    }
    // Gram is free of order, so the two functions are one to the bit, here on rows neither has seen.
    let judge = |model: &str, data: &str| place.json(&format!("evaluate --model {model} --data {data}.parquet"));
    let (ours, theirs) = (judge("split.nys", "after"), judge("plain.nys", "after"));
    for field in ["/rows", "/rmse", "/mae", "/standardized_rmse"] {
        assert_eq!(number(&ours, field), number(&theirs, field), "{field}");
    }
    // What the fit said about them is what evaluating them says.
    assert_eq!(number(&ours, "/rows"), tied as f64);
    let said = number(&split, "/validation/rmse");
    assert!((said / number(&ours, "/rmse") - 1.0).abs() < 1e-12, "{said} {ours}");

    // The model neither needs the column nor leaves rows out by it.
    let bare: Vec<_> = columns(&all).into_iter().filter(|(name, _)| *name != "when").collect();
    write(&place.path("bare.parquet"), &batch(bare));
    let (bare, whole) = (judge("split.nys", "bare"), judge("split.nys", "all"));
    let targets = all.iter().filter(|i| target(**i).is_some()).count();
    assert_eq!((number(&bare, "/rows"), number(&bare, "/rmse")), (targets as f64, number(&whole, "/rmse")));
    place.json("predict --model split.nys --data bare.parquet --out p.parquet");
    assert_eq!(read::numbers(&place.path("p.parquet"), "prediction").len(), 3000);

    // The rule that the model keeps is the one that was applied.
    let text = std::fs::read(place.path("split.nys")).unwrap();
    assert!(text.windows(17).any(|w| w == b"rows with 'when' "), "the model has no note of its split");
}

#[test]
fn time_splits_that_cannot_be_made_are_refused() {
    let place = Place::new();
    let rows: Vec<usize> = (0..200).collect();
    let mut columns = columns(&rows);
    columns.push(("same", numbers(rows.iter().map(|_| 4.5))));
    columns.push(("none", Arc::new(arrow_array::Float64Array::from(vec![None; 200])) as ArrayRef));
    columns.push(("steps", numbers(rows.iter().map(|i| f64::from(u8::from(*i >= 150))))));
    write(&place.path("d.parquet"), &batch(columns));
    let fit = |split: &str| format!("fit --data d.parquet --target y --centers 10 --out m.nys --split {split}");
    place.fails(&fit("time:c:0.2"), 1, &["--split time", "'c'", "number, date or timestamp"]);
    place.fails(&fit("time:when2:0.2"), 1, &["'when2'", "--split"]);
    place.fails(&fit("time:none:0.2"), 1, &["--split", "'none'", "no row"]);
    place.fails(&fit("time:same:0.2"), 1, &["--split", "'same'", "least value, 4.5", "smaller fraction"]);
    // The greatest value alone is 50 rows; more than these reaches down to the least.
    place.fails(&fit("time:steps:0.5"), 1, &["--split", "'steps'", "least value, 0"]);
    let fitted = place.json(&fit("time:steps:0.1"));
    let targets = |range: std::ops::Range<usize>| range.filter(|i| target(*i).is_some()).count() as f64;
    assert_eq!((number(&fitted, "/rows"), number(&fitted, "/validation/rows")), (targets(0..150), targets(150..200)));
}

#[test]
fn instants_of_a_time_split_are_written_out() {
    let place = Place::new();
    let start = 1_704_067_200i64;
    let mut columns = table(0, 1000);
    let at = |i: i64| start + 3600 * i;
    columns.push(("at", Arc::new(arrow_array::TimestampSecondArray::from_iter_values((0..1000).map(at))) as ArrayRef));
    let once = (0..1000).map(|i| at(i64::from(i > 900)));
    columns.push(("once", Arc::new(arrow_array::TimestampSecondArray::from_iter_values(once)) as ArrayRef));
    write(&place.path("d.parquet"), &batch(columns));
    let fit = |split: &str| format!("fit --data d.parquet --target y --centers 20 --out m.nys --split {split}");
    // Hour 900 of 2024.
    let notes = place.json(&fit("time:at:0.1"))["notes"].to_string();
    assert!(notes.contains("rows with 'at' at or above 2024-02-07T12:00:00Z are held out"), "{notes}");
    place.fails(&fit("time:once:0.5"), 1, &["least value, 2024-01-01,"]);
}

#[test]
fn groups_of_a_hash_split_are_on_one_side() {
    let place = Place::new();
    let group = |i: usize| format!("group {}", i / 97);
    let rows = 97 * 40;
    let with = |keep: &dyn Fn(usize) -> bool| {
        let kept: Vec<usize> = (0..rows).filter(|i| keep(*i)).collect();
        let id: ArrayRef = Arc::new(Int64Array::from_iter_values(kept.iter().map(|i| *i as i64)));
        batch(vec![
            ("id", id),
            ("g", Arc::new(StringArray::from_iter_values(kept.iter().map(|i| group(*i)))) as ArrayRef),
            ("a", numbers(kept.iter().map(|i| uniform("a", *i)))),
            ("y", numbers(kept.iter().map(|i| (6.0 * uniform("a", *i)).sin() + 0.1 * uniform("b", *i)))),
        ])
    };
    // The rule of the encoder: the group's text is hashed in place of the row id.
    let key = StreamKey::new(5, "split", 0);
    let held = |i: usize| key.uniform(RowId::from_key(&group(i))) < 0.3;
    let count = (0..rows).filter(|i| held(*i)).count();
    assert!(count > 0 && count < rows && count % 97 == 0);
    write(&place.path("all.parquet"), &with(&|_| true));
    write(&place.path("held.parquet"), &with(&held));
    write(&place.path("rest.parquet"), &with(&|i| !held(i)));
    let fit = |data: &str, split: &str, out: &str| {
        place.json(&format!(
            "fit --data {data}.parquet --target y --id-column id --drop g {FIXED} --seed 5 --solver gram --split {split} --out {out}"
        ))
    };
    let grouped = fit("all", "hash:0.3:g", "grouped.nys");
    assert_eq!(number(&grouped, "/validation/rows"), count as f64);
    assert_eq!(number(&grouped, "/rows"), (rows - count) as f64);
    // By row, groups fall apart.
    let single = fit("all", "hash:0.3", "single.nys");
    assert_ne!(number(&single, "/validation/rows") as usize % 97, 0, "{single}");
    // No row of a held-out group was learned from, and every one was judged.
    fit("rest", "none", "rest.nys");
    let judge = |model: &str| number(&place.json(&format!("evaluate --model {model} --data held.parquet")), "/rmse");
    assert_eq!(judge("grouped.nys"), judge("rest.nys"));
    assert!((number(&grouped, "/validation/rmse") / judge("rest.nys") - 1.0).abs() < 1e-12);
}
