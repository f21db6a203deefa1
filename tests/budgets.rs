//! What a fit promises before it starts, and how it ends when time runs out.

mod common;

use common::*;

/// A file whose footer is whole and whose pages are not: whoever reads a page fails with code 1.
fn unreadable(place: &Place, rows: usize) {
    let path = place.path("d.parquet");
    write_grouped(&path, &batch(table(0, rows)), 20_000);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len() - 8;
    let footer = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
    bytes[4..end - footer].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn what_cannot_fit_is_refused_before_the_first_pass() {
    let place = Place::new();
    unreadable(&place, 50_000);
    let line = |more: &str| format!("fit --data d.parquet --target y --out m.nys {more}");
    // Readable rows would be needed for anything but a refusal.
    place.fails(&line("--centers 100"), 1, &["d.parquet"]);
    for solver in ["gram", "pcg", "auto"] {
        place.fails(
            &line(&format!("--centers 30000 --solver {solver} --memory 1GiB")),
            4,
            &["memory in each process", "--memory allows 1.0 GiB", "--centers"],
        );
        place.fails(&line(&format!("--centers 500 --solver {solver} --max-flops 1e6")), 4, &["flops", "1.00e6"]);
    }
    place.fails(&line("--centers 30000 --memory 1GiB --dry-run"), 4, &["--memory"]);
}

#[test]
fn achieved_stands_beside_predicted() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, 30_000)));
    let base =
        "fit --data d.parquet --target y --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 300 --select uniform";
    for (solver, low, high) in [("gram", 0.9, 1.2), ("pcg --iterations 25", 0.2, 1.2)] {
        let plan = place.json(&format!("{base} --solver {solver} --dry-run"));
        let report = place.solved(&format!("{base} --out m.nys --solver {solver}"));
        let total: f64 = plan["flops"].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).sum();
        assert_eq!(number(&report, "/flops/predicted"), total, "{solver}");
        let share = number(&report, "/flops/achieved") / total;
        assert!(low < share && share < high, "{solver}: achieved {share} of the predicted flops");
        assert_eq!(number(&report, "/predicted/bytes_read"), number(&plan, "/bytes_read"));
        let bytes = number(&report, "/bytes_read") / number(&plan, "/bytes_read");
        assert!((0.9..1.1).contains(&bytes), "{solver}: {bytes} of the predicted bytes");
        assert!(number(&report, "/predicted/seconds") > 0.0 && number(&report, "/predicted/memory_bytes") > 1e7);
        assert!(number(&report, "/peak_rss_bytes") < number(&report, "/predicted/memory_bytes"), "{report}");
        assert!(number(&report, "/effective_dimension") > 1.0, "{solver}");
    }
    // The plan is said before the work, and only on stderr.
    let output = place.run(&format!("{base} --out m.nys"));
    let (error, result) = (text(&output.stderr), text(&output.stdout));
    assert!(error.contains("plan: ") && error.contains("flops"), "{error}");
    assert!(!result.contains("plan: "), "{result}");
}

#[test]
fn time_limits_leave_a_model() {
    let place = Place::new();
    let source = "synth:friedman1?rows=4000000&d=10&seed=1";
    let base = format!(
        "fit --data {source} --target y --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 700 --select uniform --split none"
    );
    for solver in ["gram", "pcg"] {
        let line = format!("{base} --out m.nys --solver {solver} --workers 2 --time-limit 0.5s");
        let output = place.run(&format!("{line} --format json"));
        assert_eq!(output.status.code(), Some(3), "{solver}: {}", text(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["stopped"], "time limit", "{solver}");
        place.json("inspect m.nys");
        std::fs::remove_file(place.path("m.nys")).unwrap();
    }
}

/// A kernel without a bound that an exact Gram could hold: `auto` takes another solver, and gram by name is refused.
#[test]
fn auto_leaves_the_gram_where_it_cannot_be_exact() {
    let place = Place::new();
    let x = |i: usize| (1.0 / (1e-3 + uniform("x", i))).powi(2);
    let y = numbers((0..5000).map(|i| uniform("x", i) + 0.1 * uniform("e", i)));
    write(&place.path("d.parquet"), &batch(vec![("x", numbers((0..5000).map(x))), ("y", y)]));
    let base =
        "fit --data d.parquet --target y --out m.nys --kernel polynomial:3:0 --bandwidth 1 --ridge 1e-3 --centers 20";
    place.fails(&format!("{base} --solver gram"), 2, &["exact Gram", "--solver pcg"]);
    let report = place.solved(&format!("{base} --solver auto"));
    assert_eq!(report["solver"], "pcg", "{report}");
    assert!(report["notes"].to_string().contains("an exact Gram cannot hold this kernel"), "{report}");
}
