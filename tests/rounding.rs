//! Where rounding decides: kernels so smooth, and ridges so small, that K_mm is singular to working precision.

mod common;

use common::{Place, batch, number, numbers, uniform, write};
use serde_json::Value;

fn smooth(place: &Place) {
    let all = || 0..3000usize;
    let columns = vec![
        ("a", numbers(all().map(|i| uniform("a", i)))),
        ("b", numbers(all().map(|i| uniform("b", i)))),
        ("y", numbers(all().map(|i| 3.0 * uniform("a", i) - uniform("b", i).powi(2) + 0.1 * uniform("noise", i)))),
    ];
    write(&place.path("d.parquet"), &batch(columns));
}

fn notes(report: &Value) -> String {
    report["notes"].to_string()
}

/// A direct solve cannot end early, but it can fail: its own residual says so, and then the exit code does.
#[test]
fn a_gram_that_rounding_spoils_is_no_success() {
    let place = Place::new();
    let line = "fit --data synth:friedman1?rows=5000&d=5&seed=1&noise=1 --target y --kernel gaussian --bandwidth 4x --centers 300 \
                --select uniform --solver gram --out m.nys";
    let sound = place.json(&format!("{line} --ridge 1e-4"));
    assert!(number(&sound, "/certificate/residual") < 1e-5 && sound.get("stopped").is_none(), "{sound}");
    let output = place.run(&format!("{line} --ridge 1e-11 --format json"));
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let spoiled: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(number(&spoiled, "/certificate/residual") > 1e-3, "{spoiled}");
    assert!(spoiled["stopped"].is_string() && notes(&spoiled).contains("larger --ridge"), "{spoiled}");
    // A number of a hundred digits says nothing.
    assert!(!notes(&spoiled).contains("inf %") && !notes(&spoiled).contains("000000"), "{spoiled}");

    // Left to choose, the solver is another one, under `--config-from` too; what was asked for is kept where nothing is spoiled.
    let auto = line.replace("--solver gram", "--solver auto");
    assert_eq!(place.json(&format!("{auto} --ridge 1e-4"))["solver"], "gram");
    // Where the budget does not hold another solver, the report says what kept this one.
    let plan = place.json(&format!("{auto} --ridge 1e-11 --dry-run"));
    let plan: f64 = plan["flops"].as_object().unwrap().values().map(|flops| flops.as_f64().unwrap()).sum();
    let kept = place.solved(&format!("{auto} --ridge 1e-11 --max-flops {:e}", 1.001 * plan));
    assert!(kept["solver"] == "gram" && notes(&kept).contains("and --max-flops allows"), "{kept}");
    let report = place.solved(&format!("{auto} --ridge 1e-11"));
    assert!(report["solver"] == "pcg" && notes(&report).contains("pcg instead of gram"), "{report}");
    let error = number(&report, "/validation/standardized_rmse");
    assert!(error < 0.1 * number(&spoiled, "/validation/standardized_rmse") && error < 1.0, "{error}");
    let again = "fit --data synth:friedman1?rows=5000&d=5&seed=1&noise=1 --config-from m.nys --out again.nys";
    assert_eq!(place.solved(again)["model_digest"], report["model_digest"]);
}

/// Degrees of freedom are those of the rows, not of what rounding adds to their Gram.
#[test]
fn rounding_has_no_degrees_of_freedom() {
    let place = Place::new();
    let line = "fit --data synth:friedman1?rows=5000&d=5&seed=1&noise=1 --target y --kernel gaussian --bandwidth 4x --centers 300 \
                --select uniform --out m.nys";
    for ridge in ["1e-4", "1e-7"] {
        let dimension = |solver: &str| {
            let report = place.solved(&format!("{line} --ridge {ridge} --solver {solver}"));
            number(&report, "/effective_dimension")
        };
        let (single, double, pcg) =
            (dimension("gram"), dimension("gram --precision f64"), dimension("pcg --precision f64"));
        let close = |a: f64, b: f64| (a / b - 1.0).abs() < 0.15;
        assert!(close(single, double) && close(single, pcg), "{ridge}: {single} {double} {pcg}");
    }
}

/// What cannot be measured of the centers takes nothing from the model.
#[test]
fn a_certificate_that_cannot_be_factored_is_left_out() {
    let place = Place::new();
    smooth(&place);
    let line = "fit --data d.parquet --target y --kernel laplace --bandwidth 1 --centers 40 --out m.nys";
    let report = place.json(&format!("{line} --ridge 1e-4"));
    assert!(report["certificate"]["epsilon"].is_number() && !notes(&report).contains("epsilon"), "{report}");
    let line = line.replace("laplace --bandwidth 1", "gaussian --bandwidth 1");
    let report = place.solved(&format!("{line} --ridge 1e-18"));
    assert!(
        report["certificate"].get("epsilon").is_none() && notes(&report).contains("no dictionary epsilon"),
        "{report}"
    );
}
