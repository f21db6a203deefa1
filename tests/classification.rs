//! Classes through the built binary: logistic and softmax loss on text and integer labels, what they report, weights, early ends, warm
//! starts, and one digest for any number of workers and processes.

mod common;
#[path = "common/read.rs"]
mod read;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array};
use common::*;
use std::sync::Arc;

const FIXED: &str = "--kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 60 --select uniform --precision f64";
/// Well conditioned: what differs in the last digit stays there.
const LAPLACE: &str = "--kernel laplace --bandwidth 1x --ridge 1e-4 --centers 60 --select uniform --precision f64";
const RPCHOLESKY: &str =
    "--kernel matern52 --bandwidth 2x --ridge 1e-4 --centers 60 --select rpcholesky --precision f32";
/// Bytewise and by value in one order.
const NAMES: [&str; 3] = ["north", "south", "west"];

/// The class of row i: the largest of three noisy smooth functions of a and b.
fn class(i: usize) -> usize {
    let (a, b) = (uniform("a", i), uniform("b", i));
    let scores = [(6.0 * a).sin() + 0.4, 2.0 * b - 0.5, (5.0 * (a + b)).cos()];
    let noisy = |k: usize| scores[k] + 0.5 * uniform("noise", 3 * i + k);
    (0..3).fold(0, |best, k| if noisy(k) > noisy(best) { k } else { best })
}

fn weight(i: usize) -> f64 {
    0.25 + uniform("weight", i)
}

fn features(from: usize, count: usize) -> Vec<(&'static str, ArrayRef)> {
    let all = || from..from + count;
    vec![
        ("a", numbers(all().map(|i| uniform("a", i)))),
        ("b", numbers(all().map(|i| uniform("b", i)))),
        ("w", numbers(all().map(weight))),
    ]
}

fn named(from: usize, count: usize) -> Vec<(&'static str, ArrayRef)> {
    let mut columns = features(from, count);
    columns.push(("y", texts((from..from + count).map(|i| NAMES[class(i)].to_owned()))));
    columns
}

fn numbered(from: usize, count: usize) -> Vec<(&'static str, ArrayRef)> {
    let mut columns = features(from, count);
    let labels = Int64Array::from_iter_values((from..from + count).map(|i| 10 * (class(i) as i64 + 1)));
    columns.push(("y", Arc::new(labels) as ArrayRef));
    columns
}

/// A folder with 3,000 rows to learn from (d.parquet) and 1,000 others (new.parquet), of text labels in text/ and of integers in number/.
fn data() -> Place {
    let place = Place::new();
    for (folder, make) in [("text", named as fn(usize, usize) -> _), ("number", numbered)] {
        std::fs::create_dir(place.path(folder)).unwrap();
        write(&place.path(&format!("{folder}/d.parquet")), &batch(make(0, 3000)));
        write(&place.path(&format!("{folder}/new.parquet")), &batch(make(5000, 1000)));
    }
    place
}

/// Probabilities (rows x classes) that `model` predicts for `data`.
fn probabilities(place: &Place, model: &str, data: &str, labels: &[&str]) -> Vec<Vec<f64>> {
    place.json(&format!("predict --model {model} --data {data} --out p.parquet"));
    let columns: Vec<Vec<f64>> =
        labels.iter().map(|label| read::numbers(&place.path("p.parquet"), &format!("probability_{label}"))).collect();
    (0..columns[0].len()).map(|i| columns.iter().map(|c| c[i]).collect()).collect()
}

/// Share of (row of the class, other row) pairs in which the first has the higher score, ties half.
fn area(scores: &[f64], member: &[bool]) -> f64 {
    let (mut wins, mut count) = (0.0, 0.0);
    for (a, _) in scores.iter().zip(member).filter(|(_, m)| **m) {
        for (b, _) in scores.iter().zip(member).filter(|(_, m)| !**m) {
            wins += if a > b { 1.0 } else { f64::from(u8::from(a == b)) / 2.0 };
            count += 1.0;
        }
    }
    wins / count
}

fn best(p: &[f64]) -> usize {
    (0..p.len()).fold(0, |best, k| if p[k] > p[best] { k } else { best })
}

#[test]
fn softmax_probabilities_and_what_is_reported_of_them() {
    let place = data();
    let fitted =
        place.json(&format!("fit --data text/d.parquet --target y --drop w --loss logistic {FIXED} --out m.nys"));
    assert_eq!((fitted["solver"].as_str(), &fitted["ridge"]), (Some("pcg"), &serde_json::json!(1e-4)));
    for field in ["/validation/rows", "/validation/accuracy", "/validation/auc", "/validation/log_loss"] {
        number(&fitted, field);
    }
    let p = probabilities(&place, "m.nys", "text/new.parquet", &NAMES);
    assert_eq!(p.len(), 1000);
    let written = read::rows(&place.path("p.parquet"));
    let predicted = written.column_by_name("prediction").unwrap().as_string::<i32>();
    let (mut hits, mut loss) = (0.0, 0.0);
    for (k, p) in p.iter().enumerate() {
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12 && p.iter().all(|p| (0.0..=1.0).contains(p)), "{p:?}");
        assert_eq!(predicted.value(k), NAMES[best(p)]);
        let truth = class(5000 + k);
        hits += f64::from(u8::from(best(p) == truth));
        loss -= p[truth].ln();
    }
    let report = place.json("evaluate --model m.nys --data text/new.parquet");
    assert_eq!((number(&report, "/rows"), number(&report, "/accuracy")), (1000.0, hits / 1000.0));
    assert!((number(&report, "/log_loss") / (loss / 1000.0) - 1.0).abs() < 1e-9, "{report}");
    let mean = (0..3)
        .map(|k| {
            let odds: Vec<f64> = p.iter().map(|p| p[k]).collect();
            area(&odds, &(0..1000).map(|i| class(5000 + i) == k).collect::<Vec<_>>())
        })
        .sum::<f64>()
        / 3.0;
    assert!((number(&report, "/auc") - mean).abs() < 1e-4, "{mean} {report}");
    for absent in ["rmse", "mae", "r2", "standardized_rmse"] {
        assert!(report.get(absent).is_none(), "{report}");
    }
    // The three functions can be learned: far better than the most frequent class, and probabilities that say so.
    assert!(number(&report, "/accuracy") > 0.75 && number(&report, "/log_loss") < 0.6, "{report}");

    // Integers in the same order are the same classes.
    place.json(&format!(
        "fit --data number/d.parquet --target y --task classification --drop w --loss logistic {FIXED} --out n.nys"
    ));
    assert_eq!(probabilities(&place, "n.nys", "number/new.parquet", &["10", "20", "30"]), p);
    let written = read::rows(&place.path("p.parquet"));
    let labels = written.column_by_name("prediction").unwrap().as_primitive::<Int64Type>().clone();
    assert!(p.iter().enumerate().all(|(k, p)| labels.value(k) == 10 * (best(p) as i64 + 1)));
    let again = place.json("evaluate --model n.nys --data number/new.parquet");
    for field in ["/rows", "/accuracy", "/auc", "/log_loss"] {
        assert_eq!(number(&again, field), number(&report, field));
    }
}

#[test]
fn one_digest_for_two_and_three_classes() {
    let place = data();
    let cases = [
        format!("fit --data synth:twoclass?rows=6000&d=4&seed=2 --target y --loss logistic {FIXED} --out m.nys"),
        format!("fit --data text/d.parquet --target y --weight w --loss logistic {RPCHOLESKY} --out m.nys"),
    ];
    for line in cases {
        let alone = place.json(&format!("{line} --workers 1"));
        assert_eq!(digest(&place.json(&format!("{line} --workers 2"))), digest(&alone), "{line}");
        let both = place.cluster(&format!("{line} --workers 1"), 2);
        assert_eq!((digest(&both), number(&both, "/processes")), (digest(&alone), 2.0), "{line}");
        for field in ["/validation/rows", "/validation/accuracy", "/validation/auc", "/validation/log_loss"] {
            assert_eq!(number(&both, field), number(&alone, field), "{field}");
        }
    }
}

#[test]
fn least_squares_scores_and_logistic_probabilities_agree_on_who_is_who() {
    let place = Place::new();
    let line = format!("--data synth:twoclass?rows=6000&d=3&seed=4 --target y {FIXED} --split none");
    place.json(&format!("fit {line} --loss logistic --out logistic.nys"));
    place.json(&format!("fit {line} --out squares.nys"));
    let judge = |model: &str| {
        place.json(&format!("evaluate --model {model} --data synth:twoclass?rows=6000&d=3&seed=4&noise=0"))
    };
    let (logistic, squares) = (judge("logistic.nys"), judge("squares.nys"));
    for report in [&logistic, &squares] {
        assert!(number(report, "/accuracy") > 0.9 && number(report, "/auc") > 0.95, "{report}");
    }
    assert!((number(&logistic, "/auc") - number(&squares, "/auc")).abs() < 0.01, "{logistic} {squares}");
    let p = probabilities(&place, "logistic.nys", "synth:twoclass?rows=6000&d=3&seed=4", &["0", "1"]);
    assert!(p.iter().all(|p| (p[0] + p[1] - 1.0).abs() < 1e-12));
}

/// Labels that a straight line tells apart, and a weak ridge: probabilities far beyond what least-squares scores are clipped to.
#[test]
fn sure_models_are_not_clipped() {
    let place = Place::new();
    let a = |i: usize| uniform("a", i) + if i.is_multiple_of(2) { 2.0 } else { 0.0 };
    let make = |from: usize, rows: usize| {
        let all = || from..from + rows;
        let label = |i: usize| if a(i) > 1.5 { "high".to_owned() } else { "low".to_owned() };
        batch(vec![("a", numbers(all().map(a))), ("y", texts(all().map(label)))])
    };
    write(&place.path("d.parquet"), &make(0, 2000));
    write(&place.path("new.parquet"), &make(2000, 500));
    let fit = |loss: &str| {
        place.solved(&format!(
            "fit --data d.parquet --target y --loss {loss} --kernel gaussian --bandwidth 2 --ridge 1e-9 --centers 20 --precision f64 \
             --split none --out m.nys"
        ));
        number(&place.json("evaluate --model m.nys --data new.parquet"), "/log_loss")
    };
    let (logistic, squares) = (fit("logistic"), fit("squared"));
    assert!(logistic < 1e-4 && logistic > 0.0, "{logistic}");
    // -ln(0.999) is the least that scores can have.
    assert!(squares >= 0.0010005 - 1e-9, "{squares}");
}

/// A class weight is a weight of each of its rows: with exact sums the two are one model to the bit.
#[test]
fn class_weights_are_row_weights() {
    let place = Place::new();
    let factor = [2.0, 0.5, 4.0];
    let count = 3000;
    let mut columns = named(0, count);
    // Powers of two: the products are exact.
    columns.push(("heavy", numbers((0..count).map(|i| factor[class(i)]))));
    columns.push(("both", numbers((0..count).map(|i| factor[class(i)] * weight(i)))));
    write(&place.path("d.parquet"), &batch(columns));
    write(&place.path("new.parquet"), &batch(named(5000, 1000)));
    let given = "--class-weight north=2,south=0.5,west=4";
    let ones: f64 = (0..count).map(|i| factor[class(i)]).sum();
    // Summed from small to large, the rounding of 3,000 terms stays far below 1e-12.
    let mut terms: Vec<f64> = (0..count).map(|i| factor[class(i)] * weight(i)).collect();
    terms.sort_by(f64::total_cmp);
    let weighted: f64 = terms.iter().sum();
    let run = |weights: &str, drop: &str, solve: &str| {
        let drop: String = drop.split_whitespace().map(|name| format!(" --drop {name}")).collect();
        let report = place.json(&format!(
            "fit --data d.parquet --target y {weights} {drop} {solve} {LAPLACE} --split none --out m.nys --workers 2"
        ));
        let judged = place.json("evaluate --model m.nys --data new.parquet");
        (number(&report, "/ridge_matrix"), ["/accuracy", "/auc", "/log_loss"].map(|field| number(&judged, field)))
    };
    for solve in ["--loss logistic --tolerance 1e-8", "--solver gram", "--solver pcg --tolerance 1e-12"] {
        let by_class = run(given, "w heavy both", solve);
        assert_eq!(run("--weight heavy", "w both", solve), by_class, "{solve}");
        assert!((by_class.0 / (1e-4 * ones) - 1.0).abs() < 1e-12, "{solve}: {by_class:?}");
        let twice = run(&format!("--weight w {given}"), "heavy both", solve);
        // Sums over classes and over rows are rounded apart.
        let products = run("--weight both", "w heavy", solve);
        for (one, other) in twice.1.iter().zip(&products.1) {
            assert!((one / other - 1.0).abs() < 1e-9, "{solve}: {twice:?} {products:?}");
        }
        assert!((twice.0 / (1e-4 * weighted) - 1.0).abs() < 1e-12, "{solve}: {twice:?}");
        assert_ne!(twice.1, run("", "w heavy both", solve).1, "weights change nothing: {solve}");
    }
    // The Gram takes the sum of weights from its own pass, conjugate gradients from the profile.
    let both = format!("--weight w {given}");
    let (gram, pcg) =
        (run(&both, "heavy both", "--solver gram"), run(&both, "heavy both", "--solver pcg --tolerance 1e-12"));
    assert_eq!(gram.0, pcg.0);
    for k in 0..3 {
        assert!((gram.1[k] / pcg.1[k] - 1.0).abs() < 1e-6, "{gram:?} {pcg:?}");
    }
    // Balanced: as many rows over three times those of the class.
    let counts = [0, 1, 2].map(|k| (0..count).filter(|i| class(*i) == k).count() as f64);
    let balanced = NAMES.iter().zip(counts).map(|(name, n)| format!("{name}={}", count as f64 / 3.0 / n));
    let balanced = balanced.collect::<Vec<_>>().join(",");
    let drop = "w heavy both";
    assert_eq!(
        run("--class-weight balanced", drop, "--loss logistic"),
        run(&format!("--class-weight {balanced}"), drop, "--loss logistic")
    );
}

#[test]
fn a_time_limit_leaves_a_model_and_another_fit_goes_on_from_one() {
    let place = Place::new();
    let line = format!("fit --data synth:twoclass?rows=8000&d=4&seed=7 --target y --loss logistic {FIXED}");
    let full = place.json(&format!("{line} --out full.nys"));
    assert!(number(&full, "/iterations") > 2.0, "{full}");
    for workers in [1, 2] {
        let out = format!("limit{workers}.nys");
        let report = place.run(&format!("{line} --time-limit 0.000001 --workers {workers} --out {out} --format json"));
        assert_eq!(report.status.code(), Some(3), "{}", text(&report.stderr));
        let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
        assert_eq!((report["stopped"].as_str(), number(&report, "/iterations")), (Some("time limit"), 0.0));
        // With no step done every row has the shares of the classes.
        let p = probabilities(&place, &out, "synth:twoclass?rows=100&d=4&seed=8", &["0", "1"]);
        assert!(p.iter().all(|row| *row == p[0] && (row[0] + row[1] - 1.0).abs() < 1e-12), "{p:?}");
    }
    // A limit that is not reached changes nothing.
    let patient = place.json(&format!("{line} --time-limit 1h --workers 2 --out patient.nys"));
    assert_eq!(digest(&patient), digest(&full));

    let again = place.json(&format!("{line} --from full.nys --out again.nys"));
    assert!(number(&again, "/iterations") <= 1.0, "{again}");
    assert!(number(&again, "/passes") < number(&full, "/passes"), "{again}\n{full}");
    let judge = |model: &str| {
        number(
            &place.json(&format!("evaluate --model {model} --data synth:twoclass?rows=2000&d=4&seed=8")),
            "/log_loss",
        )
    };
    assert!((judge("again.nys") / judge("full.nys") - 1.0).abs() < 1e-4);
    // Out of time at once, the earlier model is what is left.
    let early = place.solved(&format!("{line} --iterations 1 --out early.nys"));
    // The steps at the ridge are those that are bounded and counted.
    assert_eq!((early["stopped"].as_str(), number(&early, "/iterations")), (Some("iteration limit"), 1.0));
    assert!(early["notes"].to_string().contains("logistic: 1 Newton step after 1 at larger ridges, "), "{early}");
    let late = place.solved(&format!("{line} --from early.nys --time-limit 0.000001 --out late.nys"));
    assert_eq!((late["stopped"].as_str(), number(&late, "/iterations")), (Some("time limit"), 0.0));
    assert!((judge("late.nys") / judge("early.nys") - 1.0).abs() < 1e-6);
    assert!(judge("early.nys") > judge("full.nys"));
}
