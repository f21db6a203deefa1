//! Targets and features through the built binary: several targets with nulls of their own, categorical and cyclic columns, and the fields
//! that `evaluate` reports.

mod common;
#[path = "common/read.rs"]
mod read;

use arrow_array::{ArrayRef, Float64Array, Int64Array, TimestampSecondArray};
use common::*;
use serde_json::Value;
use std::sync::Arc;

/// Every point three times: with both targets, with the first, with the second. So the encoder of any two of the three parts
/// is the same.
fn both(point: usize, part: usize) -> [Option<f64>; 2] {
    let (a, b) = (uniform("a", point), uniform("b", point));
    let y = (6.0 * a).sin() + b + 0.1 * uniform("noise y", point * 3 + part);
    let z = 100.0 * (4.0 * b).cos() - 30.0 * a + 5.0 * uniform("noise z", point * 3 + part);
    [(part != 2).then_some(y), (part != 1).then_some(z)]
}

fn points(rows: &[usize]) -> Vec<(&'static str, ArrayRef)> {
    let of = |k: usize| Arc::new(Float64Array::from_iter(rows.iter().map(|r| both(r / 3, r % 3)[k]))) as ArrayRef;
    vec![
        ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| *r as i64))) as ArrayRef),
        ("a", numbers(rows.iter().map(|r| uniform("a", r / 3)))),
        ("b", numbers(rows.iter().map(|r| uniform("b", r / 3)))),
        ("y", of(0)),
        ("z", of(1)),
    ]
}

fn list(report: &Value, pointer: &str) -> Vec<f64> {
    let list = report.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("{pointer} in {report}"));
    list.iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn each_of_several_targets_is_its_own_fit() {
    let place = Place::new();
    let rows: Vec<usize> = (0..4500).collect();
    write(&place.path("d.parquet"), &batch(points(&rows)));
    write(&place.path("centers.parquet"), &batch(points(&(0..40).map(|k| k * 99).collect::<Vec<_>>())));
    let fit = |targets: &str, out: &str, workers: usize| {
        place.json(&format!(
            "fit --data d.parquet {targets} --id-column id --kernel gaussian --bandwidth 0.8 --ridge 1e-4 \
             --select file:centers.parquet --precision f64 --solver pcg --tolerance 1e-12 --iterations 500 --split none \
             --workers {workers} --out {out}"
        ))
    };
    let two = fit("--target y --target z", "two.nys", 1);
    assert_eq!(digest(&fit("--target y --target z", "two.nys", 2)), digest(&two));
    assert_eq!((number(&two, "/rows"), number(&two, "/rows_skipped_null_target")), (4500.0, 0.0));
    let predict = |model: &str, column: &str| {
        place.json(&format!("predict --model {model} --data d.parquet --out p.parquet"));
        read::numbers(&place.path("p.parquet"), column)
    };
    let evaluate = |model: &str| place.json(&format!("evaluate --model {model} --data d.parquet"));
    let all = evaluate("two.nys");
    for (k, (name, other)) in [("y", "z"), ("z", "y")].into_iter().enumerate() {
        let one = fit(&format!("--target {name} --drop {other}"), "one.nys", 1);
        assert_eq!((number(&one, "/rows"), number(&one, "/rows_skipped_null_target")), (3000.0, 1500.0));
        assert_eq!(number(&one, "/ridge_matrix"), list(&two, "/ridge_matrix")[k], "{two}");
        let (ours, theirs) = (predict("two.nys", &format!("prediction_{name}")), predict("one.nys", "prediction"));
        let spread = theirs.iter().copied().fold(f64::MIN, f64::max) - theirs.iter().copied().fold(f64::MAX, f64::min);
        let gap = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / spread;
        assert!(gap < 1e-5, "{name}: {gap:e}");
        let alone = evaluate("one.nys");
        assert_eq!((number(&alone, "/rows"), number(&all, "/rows")), (3000.0, 3000.0));
        for field in ["rmse", "mae", "r2", "standardized_rmse"] {
            let (single, several) = (number(&alone, &format!("/{field}")), list(&all, &format!("/{field}"))[k]);
            assert!((single / several - 1.0).abs() < 1e-4, "{name} {field}: {single} {several}");
        }
        assert!(number(&alone, "/r2") > 0.9, "{alone}");
    }
}

/// eigenpro's ridge, too, is per row that has the target: it approaches what pcg finds, and not what it finds with the ridge of all rows.
#[test]
fn eigenpro_takes_the_ridge_of_each_target_per_row_that_has_it() {
    let place = Place::new();
    // All have y, one in six has z.
    let rows: Vec<usize> = (0..6000).collect();
    let of = |k: usize| {
        let value = |r: &usize| if k == 0 { both(*r, 0)[0] } else { both(*r, 0)[1].filter(|_| r.is_multiple_of(6)) };
        Arc::new(Float64Array::from_iter(rows.iter().map(value))) as ArrayRef
    };
    let column = |name: &'static str| (name, numbers(rows.iter().map(|r| uniform(name, *r))));
    write(&place.path("d.parquet"), &batch(vec![column("a"), column("b"), ("y", of(0)), ("z", of(1))]));
    let fit = |solver: &str, ridge: f64| {
        let report = place.solved(&format!(
            "fit --data d.parquet --target y --target z --kernel laplace --bandwidth 1 --ridge {ridge} --centers 60 --select uniform \
             --precision f64 --split none --solver {solver} --out m.nys"
        ));
        place.json("predict --model m.nys --data d.parquet --out p.parquet");
        (report, ["prediction_y", "prediction_z"].map(|name| read::numbers(&place.path("p.parquet"), name)))
    };
    let gap = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let (ours, [y, z]) = fit("eigenpro --iterations 60", 0.05);
    let (theirs, [right_y, right_z]) = fit("pcg --tolerance 1e-10", 0.05);
    let (_, [_, wrong_z]) = fit("pcg --tolerance 1e-10", 0.3);
    assert_eq!(ours["ridge_matrix"], theirs["ridge_matrix"]);
    assert_eq!(list(&ours, "/ridge_matrix"), [300.0, 50.0]);
    let between = gap(&right_z, &wrong_z);
    assert!(gap(&z, &right_z) < 0.1 * between, "{} of {between}", gap(&z, &right_z));
    assert!(gap(&y, &right_y) < 0.02 * gap(&right_y, &vec![0.0; y.len()]));
    assert!(list(&ours, "/certificate/residual").iter().all(|residual| *residual < 0.1), "{ours}");
}

/// Each target's model has the degrees of freedom of its own rows, as when it is fitted alone.
#[test]
fn the_effective_dimension_is_of_the_rows_that_have_the_target() {
    let place = Place::new();
    let rows: Vec<usize> = (0..3000).collect();
    let of = |k: usize| {
        let value = |r: &usize| if k == 0 { both(*r, 0)[0] } else { both(*r, 0)[1].filter(|_| *r < 60) };
        Arc::new(Float64Array::from_iter(rows.iter().map(value))) as ArrayRef
    };
    let column = |name: &'static str| (name, numbers(rows.iter().map(|r| uniform(name, *r))));
    write(&place.path("d.parquet"), &batch(vec![column("a"), column("b"), ("y", of(0)), ("z", of(1))]));
    write(
        &place.path("centers.parquet"),
        &batch(vec![column("a"), column("b"), ("y", of(0)), ("z", of(1))]).slice(0, 200),
    );
    let fit = |targets: &str, solver: &str| {
        place.solved(&format!(
            "fit --data d.parquet {targets} --kernel laplace --bandwidth 0.5 --ridge 1e-5 --select file:centers.parquet --precision f64 \
             --split none --solver {solver} --out m.nys"
        ))
    };
    let alone = ["--target y --drop z", "--target z --drop y"].map(|t| number(&fit(t, "gram"), "/effective_dimension"));
    assert!(alone[1] < 60.0 && alone[0] > 2.0 * alone[1], "{alone:?}");
    for solver in ["pcg", "eigenpro --iterations 3"] {
        let both = list(&fit("--target y --target z", solver), "/effective_dimension");
        for (found, exact) in both.iter().zip(&alone) {
            assert!((found / exact - 1.0).abs() < 0.1, "{solver}: {both:?} {alone:?}");
        }
    }
}

/// The numbers behind the fields, from the predictions.
#[test]
fn evaluate_reports_what_the_predictions_say() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, 3000)));
    write(&place.path("new.parquet"), &batch(table(3000, 1000)));
    let fit = "fit --data d.parquet --target y --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 50 --out m.nys";
    place.json(&format!("{fit} --split none"));
    let report = place.json("evaluate --model m.nys --data new.parquet");
    place.json("predict --model m.nys --data new.parquet --keep y --out p.parquet");
    let (truth, found) =
        (read::numbers(&place.path("p.parquet"), "y"), read::numbers(&place.path("p.parquet"), "prediction"));
    let trained = read::numbers(&place.path("d.parquet"), "y");
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let square = |values: &[f64]| {
        let centre = mean(values);
        mean(&values.iter().map(|v| (v - centre).powi(2)).collect::<Vec<_>>())
    };
    let errors: Vec<f64> = truth.iter().zip(&found).map(|(y, f)| y - f).collect();
    let mse = mean(&errors.iter().map(|e| e * e).collect::<Vec<_>>());
    let mae = mean(&errors.iter().map(|e| e.abs()).collect::<Vec<_>>());
    for (field, expected) in [
        ("/rows", 1000.0),
        ("/rmse", mse.sqrt()),
        ("/mae", mae),
        ("/r2", 1.0 - mse / square(&truth)),
        ("/standardized_rmse", (mse / square(&trained)).sqrt()),
    ] {
        let said = number(&report, field);
        assert!((said / expected - 1.0).abs() < 1e-9, "{field}: {said}, but {expected}");
    }
    for absent in ["accuracy", "auc", "log_loss"] {
        assert!(report.get(absent).is_none(), "{report}");
    }
    assert_eq!((report["schema_version"].as_u64(), report["rows_bad"].as_u64()), (Some(1), Some(0)));
    assert_eq!(digest(&report), digest(&place.json("inspect m.nys")));
}

/// An integer column told to be categorical is the same feature as a column of its decimals.
#[test]
fn categorical_integers_are_levels() {
    let place = Place::new();
    let code = |i: usize| (uniform("code", i) * uniform("code 2", i) * 12.0) as i64;
    // Neighbouring codes have nothing to do with each other.
    let y = |i: usize| uniform("effect", code(i) as usize) * 4.0 + uniform("a", i);
    let make = |as_text: bool, from: usize, rows: usize| {
        let all = || from..from + rows;
        let column: ArrayRef = match as_text {
            true => texts(all().map(|i| code(i).to_string())),
            false => Arc::new(Int64Array::from_iter_values(all().map(code))),
        };
        batch(vec![("code", column), ("a", numbers(all().map(|i| uniform("a", i)))), ("y", numbers(all().map(y)))])
    };
    for (folder, as_text) in [("number", false), ("text", true)] {
        std::fs::create_dir(place.path(folder)).unwrap();
        write(&place.path(&format!("{folder}/d.parquet")), &make(as_text, 0, 3000));
        write(&place.path(&format!("{folder}/new.parquet")), &make(as_text, 5000, 800));
    }
    let fit = |folder: &str, more: &str| {
        place.json(&format!(
            "fit --data {folder}/d.parquet --target y {more} --kernel gaussian --bandwidth 0.5 --ridge 1e-6 --centers 60 \
             --select rpcholesky --solver gram --split none --out {folder}.nys"
        ))
    };
    let judge = |folder: &str| place.json(&format!("evaluate --model {folder}.nys --data {folder}/new.parquet"));
    let levels = fit("number", "--categorical code");
    let categorical = judge("number");
    assert_eq!(number(&levels, "/features_encoded"), 2.0);
    fit("text", "");
    let words = judge("text");
    for field in ["/rmse", "/mae", "/r2", "/standardized_rmse"] {
        assert_eq!(number(&categorical, field), number(&words, field), "{field}");
    }
    assert!(number(&categorical, "/r2") > 0.98, "{categorical}");
    // As a number it is another, worse feature.
    fit("number", "");
    assert!(number(&judge("number"), "/rmse") > 2.0 * number(&categorical, "/rmse"));
}

#[test]
fn cyclic_parts_carry_a_rhythm_beyond_the_training_rows() {
    let place = Place::new();
    // Hourly instants, 3,000 to learn from and the 1,000 after them; the target has the rhythm of the day.
    let make = |from: i64, rows: i64| {
        let hours = || from..from + rows;
        let instants = TimestampSecondArray::from_iter_values(hours().map(|h| 1_500_000_000 + 3600 * h));
        let y = |h: i64| {
            let day = 2.0 * std::f64::consts::PI * (1_500_000_000 + 3600 * h) as f64 / 86_400.0;
            day.sin() + 0.5 * (2.0 * day).cos()
        };
        batch(vec![("when", Arc::new(instants) as ArrayRef), ("y", numbers(hours().map(y)))])
    };
    write(&place.path("d.parquet"), &make(0, 3000));
    write(&place.path("later.parquet"), &make(3000, 1000));
    let fit = |more: &str| {
        let report = place.json(&format!(
            "fit --data d.parquet --target y {more} --kernel gaussian --bandwidth 2 --ridge 1e-8 --centers 200 --split none --out m.nys"
        ));
        let later = place.json("evaluate --model m.nys --data later.parquet");
        (number(&report, "/features_encoded"), number(&later, "/standardized_rmse"))
    };
    // The value, and sine and cosine of hour, weekday and day of the year.
    let (features, error) = fit("--cyclic when");
    assert_eq!(features, 7.0);
    assert!(error < 0.2, "{error}");
    let (features, without) = fit("");
    assert_eq!(features, 1.0);
    assert!(without > 0.8, "{without}");
    place.fails("fit --data d.parquet --target when --cyclic y --out n.nys", 1, &["--cyclic", "'y'", "timestamp"]);
}
