//! `--preconditioner` through the built binary: what stands for the rows decides the iterations, never the answer.

mod common;

use common::*;

/// A target of two features.
fn waves(place: &Place, rows: usize) {
    let column = |k: &'static str| (0..rows).map(move |i| uniform(k, i));
    let y = (0..rows).map(|i| (7.0 * uniform("a", i)).sin() + (5.0 * uniform("b", i)).cos());
    write(
        &place.path("d.parquet"),
        &batch(vec![("a", numbers(column("a"))), ("b", numbers(column("b"))), ("y", numbers(y))]),
    );
}

const FIT: &str = "fit --data d.parquet --target y --centers 300 --select uniform --kernel matern32 --bandwidth 0.5x \
                   --ridge 1e-6 --split none --solver pcg --tolerance 1e-7";

#[test]
fn it_changes_the_iterations_and_not_the_function() {
    let place = Place::new();
    waves(&place, 6000);
    let [mixed, centers] = ["mixed", "centers"].map(|choice| {
        let report = place.json(&format!("{FIT} --precision f64 --preconditioner {choice} --out {choice}.nys"));
        assert!(number(&report, "/certificate/residual") <= 1e-7, "{report}");
        report
    });
    assert!(number(&mixed, "/iterations") < number(&centers, "/iterations"), "{mixed} {centers}");
    // A mixture has the degrees of freedom of the model; those of the whole kernel are no fewer.
    assert!(number(&mixed, "/effective_dimension") <= 1.02 * number(&centers, "/effective_dimension"));
    let [mixed, centers] = ["mixed", "centers"]
        .map(|choice| number(&place.json(&format!("evaluate --model {choice}.nys --data d.parquet")), "/rmse"));
    assert!((mixed / centers - 1.0).abs() < 1e-5, "{mixed} {centers}");
}

#[test]
fn models_repeat_theirs_on_any_number_of_workers() {
    let place = Place::new();
    waves(&place, 6000);
    let fit = |line: &str| place.json(line)["model_digest"].clone();
    let one = fit(&format!("{FIT} --preconditioner centers --workers 1 --out one.nys"));
    assert_eq!(one, fit(&format!("{FIT} --preconditioner centers --workers 3 --out three.nys")));
    assert_ne!(one, fit(&format!("{FIT} --preconditioner mixed --out mixed.nys")));
    // It is part of a model's configuration.
    assert_eq!(one, fit("fit --config-from one.nys --data d.parquet --out again.nys"));
    assert_eq!(one, fit("fit --config-from one.nys --data d.parquet --preconditioner centers --out again.nys"));
    let refused = place.run("fit --config-from one.nys --data d.parquet --preconditioner mixed --out again.nys");
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("--preconditioner (the model has centers)"), "{}", text(&refused.stderr));
}

#[test]
fn other_solvers_have_none() {
    let place = Place::new();
    waves(&place, 3000);
    let auto = FIT.replace("--solver pcg", "").replace("--ridge 1e-6", "");
    let report = place.json(&format!("{auto} --preconditioner centers --out m.nys"));
    assert_eq!(report["solver"], "gram");
    let notes = report["notes"].to_string();
    assert!(notes.contains("--preconditioner has no effect"), "{notes}");
}

/// Where K_mm is nearly singular the rounding of entries keeps conjugate gradients from converging: `auto` does not take them for being cheap.
#[test]
fn auto_expects_convergence_of_rough_kernels_alone() {
    let place = Place::new();
    waves(&place, 6000);
    let plan = |kernel: &str| {
        let line = format!(
            "fit --data d.parquet --target y --centers 1000 --select uniform {kernel} --ridge 1e-7 --split none --dry-run --explain"
        );
        let report = place.json(&line);
        (report["solver"].clone(), report["reasons"].to_string())
    };
    let (solver, reasons) = plan("--kernel gaussian --bandwidth 0.3x");
    assert!(
        solver == "gram" && reasons.contains("degrees of freedom of the kernel do not promise"),
        "{solver} {reasons}"
    );
    let (solver, reasons) = plan("--kernel laplace --bandwidth 0.3x");
    assert!(solver == "pcg" && !reasons.contains("do not promise"), "{solver} {reasons}");
}
