//! Data at the edges, with every solver: fewer rows than centers, one row many times, no ridge, columns that are left out, a million levels. Each
//! is a sensible model (code 0, or 3 where the solve ends early) or one message with its exit code.

mod common;

use arrow_array::{ArrayRef, Float64Array, Int64Array};
use common::*;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SOLVERS: [&str; 4] = ["gram", "pcg", "eigenpro", "blockcd"];

/// A fit by `solver`; `--centers` is for those that choose some.
fn fit(solver: &str, centers: usize) -> String {
    let centers = if solver == "blockcd" { String::new() } else { format!("--centers {centers}") };
    format!(
        "fit --data d.parquet --target y --out m.nys --kernel laplace --bandwidth 1x --split none --solver {solver} {centers}"
    )
}

fn with(columns: Vec<(&str, ArrayRef)>) -> Place {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(columns));
    place
}

/// [`table`] with columns added.
fn and(rows: usize, more: Vec<(&'static str, ArrayRef)>) -> Vec<(&'static str, ArrayRef)> {
    more.into_iter().chain(table(0, rows)).collect()
}

/// Fits and evaluates on the same rows: a model that is finite and no worse than the mean.
fn sensible(place: &Place, line: &str) -> (Value, f64) {
    let report = place.solved(line);
    let score = place.json("evaluate --model m.nys --data d.parquet");
    let error = number(&score, "/standardized_rmse");
    assert!(error.is_finite() && error < 1.0, "{line}: {score}\n{report}");
    let residual = number(&report, "/certificate/residual");
    assert!(residual.is_finite() && residual >= 0.0, "{line}: {report}");
    (report, error)
}

// ---- Few rows and little in them ----

#[test]
fn more_centers_than_rows_with_every_solver() {
    let place = with(table(0, 50));
    for solver in SOLVERS {
        let line = format!("{} --ridge 1e-3", fit(solver, 1000));
        let (report, error) = sensible(&place, &line);
        assert!((1.0..=50.0).contains(&number(&report, "/centers")), "{solver}: {report}");
        assert!(error < 0.5, "{solver}: {error}");
        assert_eq!(digest(&place.solved(&format!("{line} --workers 3"))), digest(&report), "{solver}");
    }
    let line = fit("blockcd", 0) + " --ridge 1e-3 --centers 1000";
    std::fs::remove_file(place.path("m.nys")).unwrap();
    place.fails(&line, 2, &["--solver blockcd", "--centers 1000"]);
}

#[test]
fn one_row_and_two_with_every_solver() {
    for solver in SOLVERS {
        with(table(0, 1)).fails(&format!("{} --ridge 1e-3", fit(solver, 10)), 1, &["'y'", "constant"]);
        for rows in [2, 3] {
            sensible(&with(table(0, rows)), &format!("{} --ridge 1e-3", fit(solver, 10)));
        }
        // Several targets: one is not enough to learn from either.
        let two = and(1, vec![("z", numbers([4.0]))]);
        with(two).fails(&format!("{} --ridge 1e-3 --target z", fit(solver, 10)), 1, &["constant"]);
    }
}

#[test]
fn nothing_but_duplicates_with_every_solver() {
    let five = |name: &'static str| numbers((0..2000).map(move |i| uniform(name, i % 5)));
    let place = with(vec![("a", five("a")), ("b", five("b")), ("y", five("y"))]);
    for solver in SOLVERS {
        let (report, error) = sensible(&place, &format!("{} --ridge 1e-4", fit(solver, 40)));
        assert!(number(&report, "/centers") <= 40.0 && error < 0.1, "{solver}: {error}\n{report}");
    }
    // The same point with many targets has no feature left.
    let one = numbers(vec![3.5; 2000]);
    let place = with(vec![("a", one), ("y", five("y"))]);
    for solver in SOLVERS {
        place.fails(&format!("{} --ridge 1e-4", fit(solver, 40)), 1, &["no usable feature", "'a'"]);
    }
}

#[test]
fn no_ridge_with_every_solver() {
    let place = with(table(0, 1500));
    for solver in ["gram", "pcg", "blockcd"] {
        place.fails(&format!("{} --ridge 0", fit(solver, 40)), 2, &["--ridge 0", solver, "--solver eigenpro"]);
    }
    // The early-stopped form, by held-out rows or without.
    for split in ["none", "hash:0.2"] {
        let line = format!("{} --ridge 0", fit("eigenpro", 40)).replace("--split none", &format!("--split {split}"));
        let (report, error) = sensible(&place, &line);
        assert!(error < 0.5, "{split}: {error}\n{report}");
    }
    // Where nothing is left to fit: as many centers as rows, all the same but for the target.
    let five = |name: &'static str| numbers((0..60).map(move |i| uniform(name, i % 5)));
    let place = with(vec![("a", five("a")), ("y", numbers((0..60).map(|i| uniform("y", i))))]);
    sensible(&place, &format!("{} --ridge 0", fit("eigenpro", 60)));
}

/// A smooth kernel in two dimensions has a spectrum that falls below the ridge within the subsample's directions.
#[test]
fn eigenpro_agrees_with_pcg_where_the_spectrum_falls_below_the_ridge() {
    let place = with(table(0, 3000));
    let score = |solver: &str, ridge: &str| {
        let line = fit(solver, 60).replace("laplace --bandwidth 1x", "gaussian --bandwidth 2x");
        let report = place.solved(&format!("{line} --select uniform --ridge {ridge} --drop c"));
        (number(&place.json("evaluate --model m.nys --data d.parquet"), "/standardized_rmse"), report)
    };
    for ridge in ["1e-2", "1e-3", "1e-4"] {
        let ((eigenpro, report), (pcg, _)) = (score("eigenpro", ridge), score("pcg", ridge));
        assert!((eigenpro / pcg - 1.0).abs() < 0.02, "{ridge}: {eigenpro} {pcg}\n{report}");
    }
}

/// There the flattened spectrum once fell far below the ridge: the solve called itself converged at 0.95 standard deviations.
#[test]
fn eigenpro_does_not_call_a_far_solution_converged() {
    let place = Place::new();
    let score = |solver: &str| {
        let report = place.solved(&format!(
            "fit --data synth:sines?rows=2000&d=2 --target y --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 100 \
             --precision f64 --solver {solver}"
        ));
        number(&report, "/validation/standardized_rmse")
    };
    let (eigenpro, pcg) = (score("eigenpro"), score("pcg"));
    assert!((eigenpro / pcg - 1.0).abs() < 0.02, "{eigenpro} {pcg}");
}

/// A tolerance is a promise about the residual: only reaching it is convergence, and it is repeated with the configuration.
#[test]
fn eigenpro_converges_to_the_tolerance_or_says_that_it_has_not() {
    let place = Place::new();
    let base = "fit --data synth:friedman1?rows=3000&d=5&seed=1 --target y --out m.nys --kernel laplace --bandwidth 0.3x --ridge 1e-3 --centers 300 \
                --select uniform --split none --solver eigenpro";
    let settled = place.solved(base);
    assert!(settled["stopped"].is_null() && settled["notes"].to_string().contains("eigenpro: settled"), "{settled}");
    let within = place.solved(&format!("{base} --tolerance 0.03"));
    assert!(within["stopped"].is_null() && number(&within, "/certificate/residual") <= 0.03, "{within}");
    assert!(within["notes"].to_string().contains("converged to the tolerance 3e-2"), "{within}");
    let again = place.solved("fit --data synth:friedman1?rows=3000&d=5&seed=1 --out again.nys --config-from m.nys");
    assert_eq!(digest(&again), digest(&within));
    place.fails(
        "fit --data synth:friedman1?rows=3000&d=5&seed=1 --out again.nys --config-from m.nys --tolerance 0.04",
        2,
        &["--tolerance"],
    );
    // The objective settles as before, and that is no convergence now.
    let missed = place.solved(&format!("{base} --tolerance 1e-9 --iterations 30"));
    assert_eq!((&missed["stopped"], &missed["iterations"]), (&"iteration limit".into(), &30.into()), "{missed}");
    assert!(missed["notes"].to_string().contains("the tolerance 1e-9 was not reached"), "{missed}");
    assert!(number(&missed, "/certificate/residual") > 1e-9, "{missed}");
}

/// Few rows, all of them centers, next to no ridge: epochs are a few batches, and the walk goes on falling slowly for hundreds of them. It ends near
/// gram's solution, or with a note that it was still falling.
#[test]
fn eigenpro_on_few_rows_is_near_gram_or_says_that_it_still_fell() {
    let place = Place::new();
    for kernel in ["laplace", "matern32", "gaussian"] {
        let score = |solver: &str| {
            let data = "--data synth:friedman1?rows=400&d=5&seed=1 --validation synth:friedman1?rows=4000&d=5&seed=2 --target y";
            let line = format!("fit {data} --out m.nys --kernel {kernel} --bandwidth 1x --ridge 1e-6 --centers 400");
            let report = place.solved(&format!("{line} --solver {solver}"));
            (number(&report, "/validation/standardized_rmse"), report)
        };
        let ((gram, _), (eigenpro, report)) = (score("gram"), score("eigenpro"));
        let note = report["notes"].to_string();
        match report["stopped"].is_null() {
            true => assert!((eigenpro / gram - 1.0).abs() < 0.03, "{kernel}: {eigenpro} {gram}\n{report}"),
            false => {
                assert!(note.contains("still falling") && note.contains("--solver gram or pcg"), "{kernel}: {report}")
            }
        }
        // Cut short it never settles.
        let (_, cut) = score("eigenpro --iterations 10");
        assert_eq!(cut["stopped"], "iteration limit", "{kernel}: {cut}");
        assert!(cut["notes"].to_string().contains("still falling"), "{kernel}: {cut}");
    }
}

// ---- Columns that are left out ----

/// What makes a row bad in the profile does in every later pass, also in a column that the encoder leaves out.
#[test]
fn bad_values_in_columns_that_are_left_out() {
    let rows = 4000;
    type Values = dyn Fn(usize) -> Option<f64>;
    let marred = |value: f64, of: &Values| {
        Arc::new(Float64Array::from_iter((0..rows).map(|i| if i == 9 { Some(value) } else { of(i) }))) as ArrayRef
    };
    let cases: [(&str, &Values, &str); 3] = [
        ("constant", &|_| Some(7.0), "constant"),
        ("null", &|_| None, "null in every row"),
        ("copy", &|i| Some(uniform("a", i)), "equals"),
    ];
    let line = format!("{} --ridge 1e-4", fit("gram", 40)).replace("--split none", "--split hash:0.2");
    for (name, of, note) in cases {
        for value in [f64::NAN, f64::NEG_INFINITY, 1e200] {
            let mut columns = table(0, rows);
            columns.push(("x", marred(value, of)));
            let place = with(columns);
            place.fails(&line, 1, &["1 bad row", "d.parquet row 9: column 'x'", "--drop", "--max-bad-rows 1"]);
            let report = place.json(&format!("{line} --max-bad-rows 1"));
            assert!(report["notes"].to_string().contains(note), "{name}: {report}");
            assert_eq!(report["rows_bad"], 1, "{name}: {report}");
            let held = number(&report, "/validation/rows");
            assert_eq!(number(&report, "/rows") + held, (rows - 1) as f64, "{name}: {report}");
            // The census counts by the encoder what the profile counted by the columns.
            let again = "fit --data d.parquet --out again.nys --config-from m.nys --max-bad-rows";
            let repeated = place.json(&format!("{again} 1 --workers 2"));
            assert_eq!(digest(&repeated), digest(&report), "{name} {value}: {repeated}\n{report}");
            assert_eq!((&repeated["rows"], &repeated["rows_bad"]), (&report["rows"], &report["rows_bad"]));
            std::fs::remove_file(place.path("again.nys")).unwrap();
            place.fails(&format!("{again} 0"), 1, &["d.parquet row 9: column 'x'"]);
            // Without the column there is nothing wrong, for other rows and for predictions not even with it.
            assert_eq!(place.json(&format!("{line} --drop x"))["rows_bad"], 0);
            place.json(&format!("{line} --max-bad-rows 1"));
            assert_eq!(number(&place.json("evaluate --model m.nys --data d.parquet"), "/rows"), rows as f64);
            write(&place.path("d.parquet"), &batch(table(0, rows)));
            assert_eq!(place.json(&format!("{again} 0"))["rows_bad"], 0);
        }
    }
}

/// A column that only splits the rows is as bad as any.
#[test]
fn bad_values_in_the_column_of_a_split() {
    let place = with(and(3000, vec![("t", numbers((0..3000).map(|i| if i == 9 { f64::NAN } else { i as f64 })))]));
    let line = format!("{} --ridge 1e-4 --drop t", fit("gram", 40)).replace("--split none", "--split time:t:0.2");
    place.fails(&line, 1, &["row 9", "'t'"]);
    let report = place.json(&format!("{line} --max-bad-rows 1"));
    assert_eq!(number(&report, "/rows") + number(&report, "/validation/rows"), 2999.0, "{report}");
    let again = place.json("fit --data d.parquet --out again.nys --config-from m.nys --max-bad-rows 1");
    assert_eq!(digest(&again), digest(&report));
}

/// Quartiles so close together that another value is beyond any scale of them.
#[test]
fn quartiles_too_close_for_the_rest() {
    let x = |i: usize| if i.is_multiple_of(10) { 1e9 * uniform("far", i) } else { 1e-9 * uniform("near", i) };
    let place = with(and(3000, vec![("x", numbers((0..3000).map(x)))]));
    let line = format!("{} --ridge 1e-4 --scale robust", fit("gram", 40));
    let (report, _) = sensible(&place, &line);
    assert!(report["notes"].to_string().contains("'x' reaches 2^50 times"), "{report}");
    assert_eq!(number(&report, "/rows"), 3000.0);
    let again = place.json("fit --data d.parquet --out again.nys --config-from m.nys");
    assert_eq!(digest(&again), digest(&report));
}

// ---- A million levels ----

const MILLION: usize = 1_000_000;

/// Runs `work`, which must end in good time.
fn timely<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    assert!(begun.elapsed() < Duration::from_secs(20), "{what} took {:?}", begun.elapsed());
    result
}

#[test]
fn a_million_levels() {
    let all = || 0..MILLION;
    let place = with(vec![
        ("id", texts(all().map(|i| format!("level number {i}")))),
        ("n", Arc::new(Int64Array::from_iter_values(all().map(|i| i as i64)))),
        ("a", numbers(all().map(|i| uniform("a", i)))),
        ("y", numbers(all().map(|i| uniform("a", i).sin() + 0.1 * uniform("noise", i)))),
    ]);
    let line = format!("{} --ridge 1e-4", fit("gram", 20));
    for more in ["--drop n", "--drop n --workers 3", "--drop id --categorical n"] {
        let column = if more.contains("drop id") { "'n'" } else { "'id'" };
        timely(more, || place.fails(&format!("{line} {more}"), 1, &[column, "65536", "--drop"]));
    }
    timely("classes", || {
        place.fails(
            &format!("{line} --drop id --target n --task classification").replace("--target y", ""),
            1,
            &["'n'", "65536"],
        );
    });
    // As a key, or left out, it is no feature: within the memory of any such fit.
    let mut peaks = Vec::new();
    for more in ["--drop id --drop n", "--id-column id --drop n"] {
        let report = timely(more, || place.json(&format!("{line} {more} --memory 1GiB")));
        assert_eq!(number(&report, "/rows"), MILLION as f64);
        peaks.push(number(&report, "/peak_rss_bytes"));
    }
    assert!(peaks.iter().all(|peak| *peak < 1.2e9), "{peaks:?}");
    // New data may hold as many levels as it likes: all are pooled.
    write(
        &place.path("few.parquet"),
        &batch(vec![
            ("id", texts((0..3000).map(|i| format!("level number {}", i % 30)))),
            ("a", numbers((0..3000).map(|i| uniform("a", i)))),
            ("y", numbers((0..3000).map(|i| uniform("a", i).sin() + (i % 30) as f64))),
        ]),
    );
    place.json(&line.replace("d.parquet", "few.parquet"));
    let score = timely("evaluate", || place.json("evaluate --model m.nys --data d.parquet"));
    assert_eq!(number(&score, "/rows"), MILLION as f64);
}
