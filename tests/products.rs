//! `--product-tolerance` through the built binary: what is left out is within what reports certify, on any number of workers.

mod common;
#[path = "common/read.rs"]
mod read;

use common::*;
use serde_json::Value;

/// Points in a cube, with a target of much detail.
fn cube(place: &Place, name: &str, rows: usize) {
    let column = |k: &'static str| (0..rows).map(move |i| uniform(k, i));
    let y = (0..rows).map(|i| (12.0 * uniform("a", i)).sin() * (9.0 * uniform("b", i)).cos() + uniform("c", i));
    let columns =
        vec![("a", numbers(column("a"))), ("b", numbers(column("b"))), ("c", numbers(column("c"))), ("y", numbers(y))];
    write(&place.path(name), &batch(columns));
}

/// Much narrower than the data, which spread by 3.5 in encoded units.
const FIT: &str =
    "fit --data d.parquet --target y --centers 3000 --select uniform --ridge 1e-4 --split none --iterations 30";

fn predictions(place: &Place, line: &str) -> (Value, Vec<f64>) {
    let report = place.json(&format!("predict --data d.parquet --out p.parquet {line}"));
    (report, read::numbers(&place.path("p.parquet"), "prediction"))
}

#[test]
fn predictions_are_within_their_certificate() {
    let place = Place::new();
    cube(&place, "d.parquet", 12_000);
    place.solved(&format!("{FIT} --kernel gaussian --bandwidth 0.15 --solver pcg --out m.nys"));
    let (plain, dense) = predictions(&place, "--model m.nys");
    assert!(plain.get("products").is_none(), "{plain}");
    let mut first = None;
    for workers in [1, 2, 3] {
        let (report, sparse) =
            predictions(&place, &format!("--model m.nys --product-tolerance 1e-2 --workers {workers}"));
        let made = report["products"].clone();
        let (bound, share) = (number(&made, "/error_bound"), number(&made, "/entries_share"));
        assert_eq!((&made["kind"], &made["tolerance"]), (&"sparse".into(), &0.01.into()));
        assert!(share < 0.25 && (share / number(&made, "/expected_share") - 1.0).abs() < 0.5, "{made}");
        assert!(number(&made, "/relative_bound") <= 0.01, "{made}");
        assert_eq!(number(&made, "/cutoff"), 0.01 / (12_000.0f64 * 3000.0).sqrt());
        let error = dense.iter().zip(&sparse).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        // Much is left out, and what is left out is within the bound, which is not idle.
        assert!(1e-9 < error && error <= bound + 1e-9 && bound < 0.05, "error {error:e}, {made}");
        let bytes = std::fs::read(place.path("p.parquet")).unwrap();
        assert!(*first.get_or_insert((made.clone(), bytes.clone())) == (made, bytes), "{workers} workers");
    }
    let text =
        text(&place.run("predict --model m.nys --data d.parquet --out p.parquet --product-tolerance 1e-2").stdout);
    assert!(text.contains("sparse (tolerance 0.01000, cutoff"), "{text}");
    // Errors on known targets are those of these predictions.
    let [dense, sparse] = ["", "--product-tolerance 1e-2"]
        .map(|more| place.json(&format!("evaluate --model m.nys --data d.parquet {more}")));
    let moved = (number(&dense, "/rmse") - number(&sparse, "/rmse")).abs();
    let made = &first.as_ref().unwrap().0;
    assert!(moved > 0.0 && moved <= number(made, "/error_bound") && dense.get("products").is_none(), "{moved:e}");
    assert_eq!(&sparse["products"], made);
}

#[test]
fn much_left_out_is_said() {
    let place = Place::new();
    cube(&place, "d.parquet", 6000);
    place.solved(&format!("{FIT} --kernel gaussian --bandwidth 0.15 --solver pcg --out m.nys"));
    for (tolerance, much) in [("100", true), ("1e-4", false)] {
        let done = place
            .run(&format!("predict --model m.nys --data d.parquet --out p.parquet --product-tolerance {tolerance}"));
        let told = text(&done.stderr);
        assert_eq!(told.contains("may be left out of a prediction"), much, "{tolerance}: {told}");
    }
}

#[test]
fn processes_certify_the_same() {
    let place = Place::new();
    cube(&place, "d.parquet", 9000);
    place.solved(&format!("{FIT} --kernel gaussian --bandwidth 0.15 --solver pcg --out m.nys"));
    let line = "evaluate --model m.nys --data d.parquet --product-tolerance 1e-2";
    let (alone, two) = (place.json(line), place.cluster(&format!("{line} --workers 1"), 2));
    assert_eq!((&alone["products"], &alone["rmse"]), (&two["products"], &two["rmse"]));
    assert_eq!(alone["products"]["kind"], "sparse");
}

/// Rows draw by their identity: the same predictions on any workers and processes, within what the report says, with fewer entries.
#[test]
fn sampled_predictions_are_within_their_certificate() {
    let place = Place::new();
    cube(&place, "d.parquet", 12_000);
    place.solved(&format!("{FIT} --kernel laplace --bandwidth 0.3 --solver pcg --out m.nys"));
    let (_, dense) = predictions(&place, "--model m.nys");
    let line = "--model m.nys --product-tolerance 80";
    let certified = place.json(&format!("evaluate --data d.parquet {line}"));
    let mut first = None;
    for workers in [1, 2, 3] {
        let (report, sampled) = predictions(&place, &format!("{line} --product-mode sampled --workers {workers}"));
        let made = report["products"].clone();
        assert_eq!((&made["kind"], &made["mode"]), (&"sparse".into(), &"sampled".into()), "{made}");
        assert_eq!(number(&made, "/probability"), 0.999);
        assert!(number(&made, "/relative_bound") <= 80.0, "{made}");
        let error = dense.iter().zip(&sampled).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(1e-9 < error && error <= number(&made, "/error_bound"), "error {error:e}, {made}");
        let bytes = std::fs::read(place.path("p.parquet")).unwrap();
        assert!(*first.get_or_insert((made.clone(), bytes.clone())) == (made, bytes), "{workers} workers");
    }
    let made = &first.as_ref().unwrap().0;
    let share = number(made, "/entries_share");
    assert!(share < 0.8 * number(&certified["products"], "/expected_share"), "{made}, {certified}");
    let line = format!("evaluate --data d.parquet {line} --product-mode sampled");
    let (alone, two) = (place.json(&line), place.cluster(&format!("{line} --workers 1"), 2));
    assert_eq!((&alone["products"], &alone["rmse"]), (&two["products"], &two["rmse"]));
    assert_eq!(&alone["products"], made);
    let text = text(&place.run(&line).stdout);
    assert!(text.contains("sparse (sampled, tolerance") && text.contains("with probability 0.999"), "{text}");
}

/// Zeros are left out without being asked.
#[test]
fn kernels_of_compact_support_need_no_tolerance() {
    let place = Place::new();
    cube(&place, "d.parquet", 9000);
    place.solved(&format!("{FIT} --kernel wendland2 --bandwidth 0.4 --solver pcg --precision f64 --out m.nys"));
    let mut first = None;
    for workers in [1, 3] {
        let (report, found) = predictions(&place, &format!("--model m.nys --workers {workers}"));
        let made = &report["products"];
        assert_eq!(
            (&made["kind"], number(made, "/error_bound"), number(made, "/cutoff")),
            (&"sparse".into(), 0.0, 0.0)
        );
        assert!(made.get("tolerance").is_none() && number(made, "/entries_share") < 0.25, "{made}");
        assert!(*first.get_or_insert(found.clone()) == found, "{workers} workers");
    }
    // Samples are of no use to them: they stay certified.
    let (report, found) = predictions(&place, "--model m.nys --product-mode sampled --product-tolerance 1e-3");
    assert!(report["products"].get("mode").is_none() && report["products"]["kind"] == "sparse", "{report}");
    assert!(first.is_some_and(|exact| exact.iter().zip(&found).all(|(a, b)| (a - b).abs() < 0.1)));
    // A wide one gains nothing.
    place.solved(&format!("{FIT} --kernel wendland2 --bandwidth 9 --solver pcg --out wide.nys"));
    let (report, _) = predictions(&place, "--model wide.nys");
    assert_eq!(report["products"]["kind"], "dense");
    assert!(report["products"].get("error_bound").is_none());
}

#[test]
fn nothing_is_left_out_where_nothing_is_gained() {
    let place = Place::new();
    cube(&place, "d.parquet", 5000);
    place.solved(
        "fit --data d.parquet --target y --centers 300 --kernel gaussian --bandwidth 1x --ridge 1e-4 --out m.nys",
    );
    let (_, dense) = predictions(&place, "--model m.nys");
    let (report, same) = predictions(&place, "--model m.nys --product-tolerance 1e-6");
    assert_eq!((&report["products"]["kind"], dense), (&"dense".into(), same));
    let text = text(&place.run("evaluate --model m.nys --data d.parquet --product-tolerance 1e-6").stdout);
    assert!(text.contains("dense (tolerance") && text.contains("would keep 100.0 % of the entries"), "{text}");
}

#[test]
fn what_cannot_be_left_out_is_refused() {
    let place = Place::new();
    cube(&place, "d.parquet", 2000);
    let fit = "fit --data d.parquet --target y --centers 50 --ridge 1e-3";
    place.solved(&format!("{fit} --kernel polynomial:2 --bandwidth 1 --out p.nys"));
    place.solved(&format!("{fit} --kernel gaussian --bandwidth 1x --variance --solver gram --out g.nys"));
    for command in ["predict --out o.parquet", "evaluate"] {
        let line = |more: &str| format!("{command} --data d.parquet {more}");
        place.fails(&line("--model p.nys --product-tolerance 1e-3"), 2, &["--product-tolerance", "polynomial"]);
        place.fails(&line("--model g.nys --product-tolerance 1e9"), 2, &["2000 rows", "give less than 316.2"]);
        place.fails(&line("--model g.nys --product-mode sampled"), 2, &["--product-mode", "--product-tolerance"]);
        let sampled = "--product-mode sampled --product-tolerance 1e-3";
        place.fails(&line(&format!("--model p.nys {sampled}")), 2, &["--product-tolerance", "polynomial"]);
        for tolerance in ["0", "-1", "nan", "much"] {
            let output = place.run(&line(&format!("--model g.nys --product-tolerance={tolerance}")));
            assert_eq!(output.status.code(), Some(2), "{tolerance}");
        }
    }
    let both = "predict --model g.nys --data d.parquet --out o.parquet --variance --product-tolerance 1e-3";
    place.fails(both, 2, &["--variance", "--product-tolerance"]);
}

/// Conjugate gradients on the entries that matter find the solution of all of them, on any number of workers, and again under `--config-from`.
#[test]
fn conjugate_gradients_take_the_entries_that_matter() {
    let place = Place::new();
    cube(&place, "d.parquet", 12_000);
    let base = "--data d.parquet --target y --centers 2000 --select uniform --ridge 1e-4 --split none --kernel gaussian --bandwidth 0.07";
    let fit = |more: &str| place.json(&format!("fit {base} --solver pcg --tolerance 1e-7 {more}"));
    let plain = fit("--out dense.nys");
    let (_, dense) = predictions(&place, "--model dense.nys");
    let mut before = None;
    for workers in [1, 2, 3] {
        let report = fit(&format!("--product-tolerance 1e-5 --workers {workers} --out m.nys"));
        let made = &report["products"];
        assert_eq!((&made["kind"], &made["tolerance"]), (&"sparse".into(), &1e-5.into()));
        assert!(made.get("error_bound").is_none(), "{made}");
        let (bound, share) = (number(made, "/relative_bound"), number(made, "/entries_share"));
        assert!(0.0 < bound && bound <= 1e-5 && share < 0.25, "{made}");
        assert!(number(&report, "/kernel_entries") < 0.4 * number(&plain, "/kernel_entries"), "{report}");
        let flops = number(&report, "/flops/achieved") / number(&report, "/flops/predicted");
        assert!((0.3..1.3).contains(&flops), "{flops}");
        let same = (digest(&report), made.clone(), report["certificate"].clone());
        assert!(*before.get_or_insert(same.clone()) == same, "{workers} workers: {same:?}");
    }
    let (own, made, _) = before.unwrap();
    assert_ne!(own, digest(&plain));
    let (_, sparse) = predictions(&place, "--model m.nys");
    let error = dense.iter().zip(&sparse).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(1e-12 < error && error < 1e-2, "{error:e}");
    let again = place.json("fit --data d.parquet --config-from m.nys --out again.nys");
    assert_eq!((digest(&again), &again["products"]), (own, &made));
    let other = "fit --data d.parquet --config-from m.nys --product-tolerance 1e-3 --out again.nys";
    place.fails(other, 2, &["--product-tolerance (the model has 0.00001)"]);
    let none = "fit --data d.parquet --config-from dense.nys --product-tolerance 1e-3 --out again.nys";
    place.fails(none, 2, &["--product-tolerance (the model has none)"]);
    place.fails(&format!("fit {base} --solver gram --product-tolerance 1e-3 --out g.nys"), 2, &["--solver pcg"]);

    // By budgets of rows: fewer entries within the same bound, for certain, and recorded with the model.
    let mut before = None;
    for workers in [1, 3] {
        let report = fit(&format!("--product-tolerance 1e-5 --product-mode sampled --workers {workers} --out s.nys"));
        let found = &report["products"];
        assert_eq!((&found["kind"], &found["mode"]), (&"sparse".into(), &"sampled".into()));
        assert!(found.get("probability").is_none() && number(found, "/relative_bound") <= 1e-5, "{found}");
        assert!(number(found, "/entries_share") < 0.97 * number(&made, "/entries_share"), "{found} {made}");
        let same = (digest(&report), found.clone());
        assert!(*before.get_or_insert(same.clone()) == same, "{workers} workers: {same:?}");
    }
    let again = place.json("fit --data d.parquet --config-from s.nys --out again.nys");
    assert_eq!((digest(&again), again["products"].clone()), before.unwrap());
    let other = "fit --data d.parquet --config-from m.nys --product-mode sampled --product-tolerance 1e-5 --out o.nys";
    place.fails(other, 2, &["--product-mode (the model has certified)"]);
    place.fails(&format!("fit {base} --solver pcg --product-mode sampled --out g.nys"), 2, &["--product-tolerance"]);

    // The plan counts what is left out.
    let plan = |more: &str| place.json(&format!("fit {base} --solver pcg --explain {more}"));
    let [all, some] = [plan(""), plan("--product-tolerance 1e-5")];
    let left = number(&all, "/flops/solve") - number(&some, "/flops/solve");
    // 26 passes of 30 flops an entry, of which at least three quarters go.
    assert!(left > 0.7 * 26.0 * 30.0 * 12_000.0 * 2000.0, "{some}");
    assert!(some["reasons"].to_string().contains("sparse products: sampled rows keep"), "{some}");
}

#[test]
fn solves_with_kernels_of_compact_support_leave_out_zeros() {
    let place = Place::new();
    cube(&place, "d.parquet", 9000);
    let line = format!("{FIT} --kernel wendland2 --bandwidth 0.4 --solver pcg --out m.nys");
    let mut before = None;
    for workers in [1, 3] {
        let report = place.solved(&format!("{line} --workers {workers}"));
        let made = &report["products"];
        assert_eq!((&made["kind"], number(made, "/relative_bound")), (&"sparse".into(), 0.0));
        assert!(made.get("tolerance").is_none() && number(made, "/entries_share") < 0.25, "{made}");
        assert!(*before.get_or_insert(digest(&report)) == digest(&report), "{workers} workers");
    }
    // Every entry, for the same problem: in one Gram.
    let (_, sparse) = predictions(&place, "--model m.nys");
    place.solved(&format!("{FIT} --kernel wendland2 --bandwidth 0.4 --solver gram --out gram.nys"));
    let (_, gram) = predictions(&place, "--model gram.nys");
    let error = gram.iter().zip(&sparse).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(error < 1e-2, "{error:e}");
}

#[test]
fn a_tolerance_that_changes_nothing_says_so() {
    let place = Place::new();
    cube(&place, "d.parquet", 4000);
    let fit = "fit --data d.parquet --target y --centers 300 --kernel gaussian --bandwidth 1x --ridge 1e-4 --product-tolerance 1e-6";
    let report = place.solved(&format!("{fit} --solver pcg --out m.nys"));
    assert_eq!(report["products"]["kind"], "dense");
    let report = place.solved(&format!("{fit} --out m.nys"));
    assert_eq!(report["solver"], "gram");
    assert!(report["notes"].to_string().contains("--product-tolerance has no effect: gram"), "{report}");
    // So the model is that of a fit without it.
    let plain = place.solved(&format!("{} --out m.nys", fit.replace("--product-tolerance 1e-6", "")));
    assert_eq!(digest(&plain), digest(&report));
}
