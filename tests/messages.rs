//! What is said of settings and data at the edge of what numbers can do: the option or the column, and what is true of it.

mod common;

use arrow_array::{ArrayRef, Int64Array};
use common::*;
use serde_json::Value;
use std::sync::Arc;

const FIT: &str =
    "fit --data d.parquet --target y --out m.nys --kernel gaussian --bandwidth 1x --centers 60 --workers 2";

fn place() -> Place {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, 4000)));
    place
}

fn notes(report: &Value) -> String {
    report["notes"].to_string()
}

#[test]
fn settings_out_of_range_name_their_option_and_range() {
    let place = place();
    let fit = "fit --data d.parquet --target y --out m.nys";
    for (more, parts) in [
        ("--ridge 1e300", ["--ridge", "from 0 to 1e30"]),
        ("--kernel polynomial:60", ["--kernel", "from 1 to 16"]),
        ("--bandwidth 1e-39", ["--bandwidth", "from 1e-15 to 1e15"]),
        ("--bandwidth 1e300x", ["--bandwidth", "from 1e-15 to 1e15"]),
    ] {
        place.fails(&format!("{fit} {more}"), 2, &parts);
    }
    // No row has leverage at such a ridge, which is no reason to speak of rows that cannot be used.
    let huge = format!("{fit} --kernel gaussian --bandwidth 1x --centers 20 --select squeak --ridge 1e30");
    place.fails(&huge, 1, &["no centers", "--ridge", "--select rpcholesky"]);
    // The ends of the ranges work.
    for more in ["--ridge 1e30 --bandwidth 1x", "--bandwidth 1e-15 --ridge 1e-3", "--bandwidth 1e15 --ridge 1e-3"] {
        for solver in ["gram", "pcg"] {
            let report = place
                .solved(&format!("{fit} --kernel gaussian --centers 20 --select uniform --solver {solver} {more}"));
            assert!(number(&report, "/validation/rmse").is_finite(), "{more}: {report}");
        }
    }
}

#[test]
fn a_metric_of_zeros_is_refused() {
    let place = place();
    std::fs::write(place.path("zero"), "[[0, 0]]").unwrap();
    place.fails(&format!("{FIT} --metric zero"), 2, &["--metric zero", "zero everywhere"]);
    // A map is a root of the metric: whatever its signs, distances are squares.
    std::fs::write(place.path("map"), "[[0, 1], [1, 0]]").unwrap();
    std::fs::write(place.path("none"), "[1, 1, 1]").unwrap();
    let error =
        |metric: &str| number(&place.json(&format!("{FIT} --ridge 1e-5 --metric {metric}")), "/validation/rmse");
    assert!((error("map") / error("none") - 1.0).abs() < 1e-3);
}

/// Columns whose values differ are not called constant.
#[test]
fn columns_without_a_spread_are_described_as_they_are() {
    let place = Place::new();
    let mut columns = table(0, 4000);
    columns.push(("tiny", numbers((0..4000).map(|i| 1e-170 * uniform("tiny", i)))));
    let large: ArrayRef = Arc::new(Int64Array::from_iter_values((0..4000).map(|i| (1i64 << 62) + i % 100)));
    columns.push(("large", Arc::clone(&large)));
    columns.push(("same", numbers((0..4000).map(|_| 3.0))));
    write(&place.path("d.parquet"), &batch(columns));
    let notes = notes(&place.json(&format!("{FIT} --ridge 1e-5")));
    for part in [
        "column 'tiny' is constant (0, as which magnitudes below 2^-500 count): left out",
        "column 'large' is 4611686018427388000 throughout to double precision, in which its integers may not differ",
        "column 'same' is constant: left out",
    ] {
        assert!(notes.contains(part), "{part} is missing from {notes}");
    }
    write(&place.path("d.parquet"), &batch(vec![("a", numbers((0..4000).map(|i| uniform("a", i)))), ("y", large)]));
    place.fails(&format!("{FIT} --ridge 1e-5 --task regression"), 1, &["'y'", "to double precision"]);
}

/// Data of one name in folders of their own, which differ in the scale of the weights `w`.
fn weighted() -> Place {
    let place = Place::new();
    let weight = |i: usize| 0.2 + uniform("w", i);
    // Powers of two: whatever is rounded is rounded alike, so that every digit has to agree.
    for (name, scale) in [
        ("small", 2f64.powi(-46)),
        ("one", 1.0),
        ("large", 2f64.powi(40)),
        ("tiny", 2f64.powi(-660)),
        ("huge", 2f64.powi(480)),
    ] {
        let mut columns = table(0, 4000);
        columns.push(("w", numbers((0..4000).map(|i| scale * weight(i)))));
        // Of one name, so that hashes are the same.
        std::fs::create_dir(place.path(name)).unwrap();
        write(&place.path(name).join("d.parquet"), &batch(columns));
    }
    place
}

/// Only ratios of weights matter, where nothing is left to tuning.
#[test]
fn weights_have_no_scale() {
    let place = weighted();
    let solvers = ["gram", "pcg --tolerance 1e-9", "eigenpro --iterations 6", "blockcd --iterations 30"];
    for solver in solvers {
        let centers = if solver.starts_with("blockcd") { "" } else { "--centers 60" };
        let error = |data: &str| {
            let line = format!(
                "fit --data {data} --target y --weight w --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-4 \
                 {centers} --solver {solver} --workers 2"
            );
            number(&place.solved(&line), "/validation/rmse")
        };
        let [small, one, large, tiny, huge] = ["small", "one", "large", "tiny", "huge"].map(error);
        // Coordinate descent ends within its tolerance of the answer, the others on one path.
        let close = if solver.starts_with("blockcd") { 1e-5 } else { 1e-9 };
        assert!(
            [small, large, tiny, huge].iter().all(|scaled| (scaled / one - 1.0).abs() < close),
            "{solver}: {small} {one} {large} {tiny} {huge}"
        );
    }
}

/// Squares of such weights are no numbers any more.
#[test]
fn extreme_weights_of_classes_are_no_zero_model() {
    let place = Place::new();
    let error = |scale: f64| {
        let mut columns = table(0, 3000);
        columns.push(("w", numbers((0..3000).map(|i| scale * (0.2 + uniform("w", i))))));
        columns[3] =
            ("y", texts((0..3000).map(|i| if uniform("a", i) < 0.4 { "no".into() } else { "yes".to_owned() })));
        write(&place.path("d.parquet"), &batch(columns));
        let report = place.solved(&format!("{FIT} --target y --weight w --ridge 1e-4 --loss logistic").replacen(
            "--target y ",
            "",
            1,
        ));
        number(&report, "/validation/log_loss")
    };
    let one = error(1.0);
    assert!(one < 0.3, "{one}");
    for scale in [2f64.powi(-700), 2f64.powi(480)] {
        assert!((error(scale) / one - 1.0).abs() < 1e-9, "{scale:e}: {} {one}", error(scale));
    }
}

#[test]
fn what_has_no_effect_is_noted() {
    let place = place();
    let line = format!("{FIT} --ridge 1e-5 --solver");
    assert!(
        notes(&place.json(&format!("{line} gram --tolerance 1e-9")))
            .contains("--tolerance and --iterations have no effect")
    );
    assert!(notes(&place.json(&format!("{line} gram --iterations 3"))).contains("have no effect"));
    assert!(!notes(&place.json(&format!("{line} pcg --tolerance 1e-4"))).contains("have no effect"));
    let many = line.replace("--centers 60", "--centers 5000 --select uniform --max-flops 1e15");
    let many = place.solved(&format!("{many} pcg --iterations 1"));
    let said =
        format!("--centers asks for 5000 centers, and there are no more than {} training rows", number(&many, "/rows"));
    assert!(notes(&many).contains(&said), "{many}");
}

/// The choice of `auto` must not fail where another choice would not.
#[test]
fn auto_selects_where_no_row_has_leverage() {
    let place = Place::new();
    let line = "fit --data synth:friedman1?rows=100000&d=50&seed=1 --target y --out m.nys --kernel gaussian --bandwidth 1x --centers 50 \
                --solver pcg --split none";
    let chosen = place.json(&format!("{line} --ridge 1e-4"));
    assert_eq!(chosen["select"], "squeak", "auto no longer takes SQUEAK here: the test tests nothing");
    let report = place.json(&format!("{line} --ridge 1e30"));
    assert_eq!((&report["select"], number(&report, "/centers")), (&"uniform".into(), 50.0));
    assert!(notes(&report).contains("at the ridge 1e30 no training row has a leverage"), "{report}");
    let again = place.json("fit --data synth:friedman1?rows=100000&d=50&seed=1 --out again.nys --config-from m.nys");
    assert_eq!(digest(&again), digest(&report));
}

#[test]
fn kernels_that_overflow_say_what_to_change() {
    let place = place();
    let fit = "fit --data d.parquet --target y --out m.nys --centers 60";
    for solver in ["auto", "gram", "pcg", "eigenpro"] {
        let line = format!("{fit} --bandwidth 1 --ridge 1e-3 --solver {solver}");
        place.fails(
            &format!("{line} --kernel polynomial:16:1e300"),
            2,
            &["k(x, x) overflows", "smaller degree", "--bandwidth"],
        );
        place.fails(&format!("{line} --kernel polynomial:3:1e20"), 2, &["k(x, x) reaches 1.0e60", "--precision f64"]);
    }
    place.fails(&format!("{fit} --kernel polynomial:16:1e300"), 1, &["no kernel could be fitted", "--kernel gaussian"]);
    let large = format!("{fit} --kernel polynomial:2:1e20 --bandwidth 1 --ridge 1e-3 --precision f64 --solver pcg");
    assert_ne!(place.run(&large).status.code(), Some(2));
}

/// A classifier has none however it is fitted.
#[test]
fn models_without_variances_say_which_have_them() {
    let place = place();
    place.json(&format!("{FIT} --ridge 1e-5 --solver gram"));
    let predict = "predict --data d.parquet --out p.parquet --variance --model";
    place.fails(&format!("{predict} m.nys"), 1, &["m.nys was fitted without --variance", "solver gram"]);
    let classes = FIT.replace("--target y", "--target c").replace("m.nys", "c.nys");
    place.json(&format!("{classes} --ridge 1e-4 --solver gram"));
    place.fails(&format!("{predict} c.nys"), 1, &["c.nys is a classifier", "leave out --variance"]);
}

#[test]
fn reports_say_what_was_measured_and_tuned() {
    let place = place();
    let fitted = place.json(&format!("{FIT} --ridge 1e-5 --solver gram"));
    let shown = text(&place.run("inspect m.nys").stdout);
    let rmse = nystream::report::text::number(number(&fitted, "/validation/rmse"));
    assert!(shown.lines().any(|line| line.starts_with("rmse ") && line.ends_with(&rmse)), "{rmse}\n{shown}");
    let described = place.json("inspect m.nys");
    assert_eq!(described["validation"], fitted["validation"]);
    assert_eq!((&described["split"], &described["metric"]), (&"hash:0.1".into(), &"isotropic".into()));
    // What was fitted and measured is named.
    let evaluated = place.json("evaluate --model m.nys --data d.parquet");
    for report in [&fitted, &evaluated, &described] {
        let named = (&report["targets"], &report["task"], digest(report));
        assert_eq!(named, (&serde_json::json!(["y"]), &"regression".into(), digest(&fitted)), "{report}");
    }
    assert_eq!((&fitted["loss"], &fitted["seed"]), (&"squared".into(), &0.into()));
    let line = "dictionary --data d.parquet --target y --centers 30 --out c.parquet";
    let report = place.json(line);
    let shown = text(&place.run(line).stdout);
    for (name, value) in [("bandwidth", number(&report, "/bandwidth")), ("ridge", number(&report, "/ridge"))] {
        let value = nystream::report::text::number(value);
        assert!(shown.lines().any(|line| line.contains(name) && line.ends_with(&value)), "{name} {value}\n{shown}");
    }
    // One of a thing is no several.
    let pass = text(&place.run("inspect d.parquet").stdout);
    assert!(pass.contains("4,000 in 1 row group\n"), "{pass}");
    let tune = "tune --data d.parquet --target y --kernel gaussian --bandwidth 1x --centers 2500";
    assert!(notes(&place.json(tune)).contains("a fit with 2500 centers"), "{}", place.json(tune));
}

/// A solve that ends early says so, however quiet.
#[test]
fn code_3_is_never_silent() {
    let place = place();
    let line = format!("{FIT} --ridge 1e-5 --solver pcg --tolerance 1e-12 --iterations 2 --no-config");
    for quiet in ["-q", "--quiet --format json", "--no-progress"] {
        let output = place.run(&format!("{line} {quiet}"));
        assert_eq!(output.status.code(), Some(3));
        let on = "(--config-from m.nys --from m.nys goes on from there)";
        assert_eq!(text(&output.stderr), format!("stopped: iteration limit; the model is saved in m.nys {on}\n"));
    }
    // It does: nearer to the solution after as many steps again.
    let residual = |line: &str| number(&place.solved(line), "/certificate/residual");
    let first = residual(&line);
    let again = format!("{FIT} --config-from m.nys --from m.nys --no-config").replace("--out m.nys", "--out n.nys");
    let second = residual(&again);
    assert!(second < first, "{second} after {first}");
    // The first process writes the model, and only it says so.
    let saved = ["; the model is saved in m.nys (--config-from m.nys --from m.nys goes on from there)", ""];
    for (output, saved) in place.processes(&vec![format!("{line} -q"); 2]).iter().zip(saved) {
        assert_eq!(text(&output.stderr), format!("stopped: iteration limit{saved}\n"));
    }
    // One that converged has nothing to say.
    assert!(place.run(&format!("{FIT} --ridge 1e-5 -q")).stderr.is_empty());
}

/// What may be done about a row follows from what is wrong with it.
#[test]
fn bad_weights_are_not_to_be_dropped() {
    let place = Place::new();
    let mut columns = table(0, 4000);
    columns.push(("w", numbers((0..4000).map(|i| if i == 7 { -1.0 } else { 1.0 }))));
    write(&place.path("d.parquet"), &batch(columns));
    let line = format!("{FIT} --ridge 1e-5 --weight w");
    place.fails(
        &line,
        1,
        &["row 7: column 'w' is a negative weight", "0 for rows that are not to count", "--max-bad-rows 1"],
    );
    assert!(!text(&place.run(&line).stderr).contains("--drop"));
    // As a feature of the model it may be dropped, and has no bad rows.
    place.json(&format!("{FIT} --ridge 1e-5"));
}

#[test]
fn given_centers_are_no_dictionary() {
    let place = place();
    write(&place.path("c.parquet"), &batch(table(5000, 30)));
    let line = "fit --data d.parquet --target y --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-5 --select file:c.parquet";
    let report = place.json(line);
    assert_eq!((&report["select_file"], report.get("dictionary")), (&"c.parquet".into(), None));
    let shown = text(&place.run(line).stdout);
    assert!(shown.contains("30 from c.parquet") && !shown.contains("gamma"), "{shown}");
    assert!(shown.contains(" workers x 1 process, ") || shown.contains("1 worker x 1 process, "), "{shown}");
}

/// Rows that were held out and lie out of all proportion are named, not lost.
#[test]
fn held_out_rows_too_far_out_are_counted() {
    let place = Place::new();
    let rows = 4000;
    let far = |i: usize| if i == rows - 1 { 1e40 } else { uniform("a", i) };
    let mut columns = table(0, rows);
    columns[0].1 = numbers((0..rows).map(far));
    columns.push(("t", numbers((0..rows).map(|i| i as f64))));
    write(&place.path("d.parquet"), &batch(columns));
    for more in ["--workers 1", "--workers 3"] {
        let line = format!("{FIT} --ridge 1e-5 --split time:t:0.1").replace("--workers 2", more);
        let report = place.json(&line);
        assert!(notes(&report).contains("1 held-out rows lie more than 2^50 scale units"), "{report}");
        assert_eq!(number(&report, "/validation/rows"), 399.0);
    }
}

#[test]
fn unknown_variables_are_named() {
    let place = place();
    let mut command = place.command("datasets list");
    command.env("NYSTREAM_MEMROY", "1GiB").env("NYSTREAM_NO_PROGRESS", "1");
    let output = command.output().unwrap();
    let warning = text(&output.stderr);
    assert!(
        output.status.success() && warning.contains("NYSTREAM_MEMROY") && warning.contains("NYSTREAM_MEMORY"),
        "{warning}"
    );
    assert!(!warning.contains("NYSTREAM_NO_PROGRESS"), "{warning}");
}

/// Who follows a refusal is not refused again.
#[test]
fn a_refusal_for_memory_names_enough() {
    let place = Place::new();
    for (solver, select, centers) in
        [("auto", "auto", 3000), ("gram", "rpcholesky", 3000), ("pcg", "squeak", 2000), ("gram", "uniform", 4000)]
    {
        let line = format!(
            "fit --data synth:friedman1?rows=60000&d=30&seed=1 --target y --kernel gaussian --bandwidth 1x --ridge 1e-5 --dry-run \
             --max-flops 1e18 --workers 2 --solver {solver} --select {select} --centers {centers}"
        );
        let refused = place.run(&format!("{line} --memory 150MiB"));
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(4), "{line}\n{error}");
        let figure = error.split("needs about ").nth(1).and_then(|rest| rest.split(" of memory").next()).unwrap();
        let output = place.run(&format!("{line} --memory {}", figure.replace(' ', "")));
        assert!(output.status.success(), "{line} --memory {figure}\n{}", text(&output.stderr));
    }
}

#[test]
fn a_gram_that_ran_out_of_time_reports_the_rows_it_holds() {
    let place = Place::new();
    let line = "fit --data synth:friedman1?rows=4000000&d=10&seed=1 --target y --kernel gaussian --bandwidth 1x --ridge 1e-5 \
                --centers 700 --select uniform --split none --solver gram --out m.nys --time-limit 0.5s";
    let report = place.solved(line);
    let (rows, matrix) = (number(&report, "/rows"), number(&report, "/ridge_matrix"));
    assert!(rows > 0.0 && rows < 4e6, "{report}");
    assert!(notes(&report).contains(&format!("the Gram holds {rows} of 4000000 training rows")), "{report}");
    assert!((matrix / (1e-5 * rows) - 1.0).abs() < 1e-12, "{report}");
}
