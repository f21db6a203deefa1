//! Small fits on the development data, against held-out files: errors within bounds that a broken stage would break,
//! and solvers that agree: conjugate gradients to 1 % and stochastic gradients, which settle on all of them, to 3 %. Runs where the data is, and says so where it is not.

mod common;

use common::*;
use std::path::Path;

/// Fits with the same 300 centers by gram, pcg and eigenpro, evaluates on the test files; gives the values of `metric`, and whether eigenpro
/// says that it has converged.
fn all(root: &Path, train: &str, test: &str, options: &str, metric: &str) -> ([f64; 3], bool) {
    let place = Place::new();
    let path = |name: &str| root.join(name).display().to_string();
    let mut settled = false;
    // Left to `auto` each solver would choose from a pool of a size that its own cost allows.
    place.json(&format!("dictionary --data {} --out z.parquet --centers 300 {options}", path(train)));
    let mut dimensions = Vec::new();
    let scores = ["gram", "pcg", "eigenpro"].map(|solver| {
        let line = format!("fit --data {} --out m.nys --select file:z.parquet --split none", path(train));
        let line = format!("{line} {options} --solver {solver}");
        // Whether stochastic gradients ended at their epochs is asserted with the scores.
        let report = if solver == "eigenpro" { place.solved(&line) } else { place.json(&line) };
        settled = report["stopped"].is_null();
        assert_eq!(number(&report, "/rows_bad"), 0.0);
        assert!(number(&report, "/certificate/trace_error") < 0.9, "{train}: {report}");
        dimensions.push(number(&report, "/effective_dimension"));
        let score = place.json(&format!("evaluate --model m.nys --data {}", path(test)));
        number(&score, &format!("/{metric}"))
    });
    // One meaning: degrees of freedom of the model fitted.
    for other in &dimensions[1..] {
        assert!((other / dimensions[0] - 1.0).abs() < 0.1, "{train}: {dimensions:?}");
    }
    (scores, settled)
}

fn agree(name: &str, [gram, pcg, eigenpro]: [f64; 3], settled: bool) {
    assert!((gram - pcg).abs() <= 0.01 * gram.abs(), "{name}: gram {gram}, pcg {pcg}");
    assert!(settled, "{name}: {eigenpro}");
    assert!((gram - eigenpro).abs() <= 0.03 * gram.abs(), "{name}: gram {gram}, eigenpro {eigenpro}");
}

fn regression(name: &str, train: &str, test: &str, target: &str, bound: f64) {
    let Some(root) = shared_data() else { return };
    let options = format!("--target {target} --ridge 1e-6 --bandwidth 1x");
    let (errors, settled) = all(&root, train, test, &options, "standardized_rmse");
    eprintln!("{name}: {errors:?}");
    agree(name, errors, settled);
    assert!(errors[0] > 0.01 && errors[0] < bound, "{name}: {errors:?}");
}

#[test]
fn kin40k() {
    regression("kin40k", "kin40k.train.parquet", "kin40k.test.parquet", "y", 0.75);
}

#[test]
fn protein() {
    regression("protein", "protein.train.parquet", "protein.test.parquet", "log1p_rmsd", 0.85);
}

#[test]
fn keggdirected() {
    regression("keggdirected", "keggdirected.train.parquet", "keggdirected.test.parquet", "y", 0.25);
}

#[test]
fn beijing_air() {
    regression("beijing_air", "beijing_air/train", "beijing_air/test", "PM2.5", 0.45);
}

#[test]
fn acs_income() {
    let Some(root) = shared_data() else { return };
    let options = "--target income_gt_50k --task classification --ridge 1e-5 --bandwidth 1x";
    let (train, test) = ("acs_income.train.parquet", "acs_income.test.parquet");
    let (accuracy, settled) = all(&root, train, test, options, "accuracy");
    eprintln!("acs_income: {accuracy:?}");
    agree("acs_income", accuracy, settled);
    assert!(accuracy[0] > 0.76 && accuracy[0] < 0.83, "{accuracy:?}");
}

/// Chosen bandwidth, ridge and number of centers are no worse than plain ones.
#[test]
fn kin40k_on_auto() {
    let Some(root) = shared_data() else { return };
    let place = Place::new();
    let train = root.join("kin40k.train.parquet").display().to_string();
    let run = |options: &str| {
        let report = place.json(&format!("fit --data {train} --target y --out m.nys --centers 300 {options}"));
        number(&report, "/validation/standardized_rmse")
    };
    let (plain, auto) = (run("--bandwidth 1x --ridge 1e-4"), run(""));
    assert!(auto < 1.02 * plain, "auto {auto}, plain {plain}");
}

/// Rounded entries keep the ridge of a Gram up here; conjugate gradients at the tuned ridge do better, and `auto` goes on to them.
#[test]
fn keggdirected_on_auto() {
    let Some(root) = shared_data() else { return };
    let place = Place::new();
    let path = |name: &str| root.join(name).display().to_string();
    let error = |solver: &str| {
        let line = format!(
            "fit --data {} --target y --out m.nys --centers 800 --split none",
            path("keggdirected.train.parquet")
        );
        let report = place.solved(&format!("{line} --dictionary-rows 20000 --solver {solver}"));
        let score = place.json(&format!("evaluate --model m.nys --data {}", path("keggdirected.test.parquet")));
        (number(&score, "/standardized_rmse"), report)
    };
    let ((gram, own), (auto, report)) = (error("gram"), error("auto"));
    assert_eq!(report["solver"], "pcg", "{report}");
    assert!(report["notes"].to_string().contains("pcg at the tuned ridge"), "{report}");
    assert!(auto < gram, "{auto} {gram}");
    // The Gram stands beside it: its pass counts.
    assert!(number(&report, "/passes") > number(&own, "/passes"), "{report}");
}
