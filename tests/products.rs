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
fn processes_certify_the_same() {
    let place = Place::new();
    cube(&place, "d.parquet", 9000);
    place.solved(&format!("{FIT} --kernel gaussian --bandwidth 0.15 --solver pcg --out m.nys"));
    let line = "evaluate --model m.nys --data d.parquet --product-tolerance 1e-2";
    let (alone, two) = (place.json(line), place.cluster(&format!("{line} --workers 1"), 2));
    assert_eq!((&alone["products"], &alone["rmse"]), (&two["products"], &two["rmse"]));
    assert_eq!(alone["products"]["kind"], "sparse");
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
        for tolerance in ["0", "-1", "nan", "much"] {
            let output = place.run(&line(&format!("--model g.nys --product-tolerance={tolerance}")));
            assert_eq!(output.status.code(), Some(2), "{tolerance}");
        }
    }
    let both = "predict --model g.nys --data d.parquet --out o.parquet --variance --product-tolerance 1e-3";
    place.fails(both, 2, &["--variance", "--product-tolerance"]);
}
