//! What jobs promise before they start, and how a fit ends when time runs out.

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
    // Eigenpro, which auto may take, needs no more for so many centers than the rows tell.
    for (solver, memory, allowed) in
        [("gram", "1GiB", "1.0 GiB"), ("pcg", "1GiB", "1.0 GiB"), ("auto", "64MiB", "64.0 MiB")]
    {
        place.fails(
            &line(&format!("--centers 30000 --solver {solver} --memory {memory}")),
            4,
            &["memory in each process", &format!("--memory allows {allowed}"), "--centers"],
        );
        place.fails(&line(&format!("--centers 500 --solver {solver} --max-flops 1e6")), 4, &["flops", "1.00e6"]);
    }
    place.fails(&line("--centers 30000 --memory 64MiB --dry-run"), 4, &["--memory"]);
}

/// `--max-flops` holds for all stages together, tuning and selection included, and with the number of centers left open.
#[test]
fn flops_of_all_stages_are_capped() {
    let place = Place::new();
    let fit = "fit --data synth:friedman1?rows=20000&d=5 --target y --out m.nys";
    let mut before = 0.0f64;
    for cap in ["2e10", "6e10"] {
        let report = place.solved(&format!("{fit} --max-flops {cap}"));
        let achieved = number(&report, "/flops/achieved");
        let allowed: f64 = cap.parse().unwrap();
        assert!(0.75 * allowed < achieved && achieved <= allowed, "{achieved:e} of {cap}");
        assert!(number(&report, "/centers") > before.max(16.0), "{report}");
        before = number(&report, "/centers");
    }
    place.fails(&format!("{fit} --max-flops 1e9"), 4, &["tuning", "1.00e9", "--kernel"]);
    // Enough for tuning, too little for a model.
    place.fails(&format!("{fit} --max-flops 8e9"), 4, &["8.00e9", "effective dimension", "raise --max-flops"]);
    // Given centers are not cut, and do not change tuning.
    place.fails(&format!("{fit} --centers 300 --max-flops 2e10"), 4, &["tuning", "2.00e10"]);
    let given = "--kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 300";
    place.fails(&format!("{fit} {given} --max-flops 5e9"), 4, &["solve", "dictionary", "5.00e9"]);
    // Choosing centers alone does not pay for a solve.
    let dictionary = "dictionary --data synth:friedman1?rows=20000&d=5 --target y --out d.parquet";
    let given = format!("{given} --select uniform");
    place.fails(&format!("{fit} {given} --max-flops 2.5e9"), 4, &["solve"]);
    place.solved(&format!("{dictionary} {given} --max-flops 2.5e9"));
    place.fails(&format!("{dictionary} {given} --max-flops 1e8"), 4, &["certificate"]);
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

/// What the plan counts is what the work counts: the same passes where no iteration decides them, flops within a factor of 1.5.
#[test]
fn predictions_hold_for_every_solver() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, 12_000)));
    write(&place.path("few.parquet"), &batch(table(0, 4000)));
    let numbers = "--target y --kernel gaussian --bandwidth 1x --ridge 1e-5";
    let classes = "--data synth:twoclass?rows=40000&d=5&seed=1 --target y --task classification --loss logistic --kernel gaussian";
    for (line, exact) in [
        ("--data d.parquet --target y --centers 300 --solver gram".to_owned(), true),
        (format!("--data d.parquet {numbers} --centers 300 --solver gram --validation few.parquet"), true),
        (format!("--data d.parquet {numbers} --centers 300 --solver eigenpro --iterations 5"), true),
        (format!("--data few.parquet {numbers} --solver blockcd --iterations 20 --tolerance 1e-15"), true),
        (format!("{classes} --bandwidth 1x --ridge 1e-4 --centers 300"), false),
    ] {
        let report = place.solved(&format!("fit {line} --out m.nys"));
        let share = number(&report, "/flops/predicted") / number(&report, "/flops/achieved");
        assert!((1.0 / 1.5..1.5).contains(&share), "{line}: {share}\n{report}");
        let (planned, made) = (number(&report, "/predicted/passes"), number(&report, "/passes"));
        assert!(
            if exact { planned == made } else { planned < 2.0 * made && made < 2.0 * planned },
            "{line}: {planned} {made}"
        );
    }
}

/// No cap ends a walk of eigenpro: one that does not hold its last epoch is refused, and what `--iterations` brings within it stays there.
#[test]
fn eigenpro_is_planned_to_its_last_epoch() {
    let place = Place::new();
    let fit = "fit --data synth:friedman1?rows=12000&d=5 --target y --kernel gaussian --bandwidth 1x --ridge 1e-6 --centers 300 --select uniform \
               --solver eigenpro";
    let plan = |more: &str| -> f64 {
        let plan = place.json(&format!("{fit} --dry-run {more}"));
        plan["flops"].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).sum()
    };
    let (expected, last) = (plan(""), plan("--iterations 400"));
    assert!(4.0 * expected < last, "{expected:e} {last:e}");
    // Before the first pass where footers tell, by the plan otherwise.
    for cap in [0.2 * last, 0.99 * last] {
        place.fails(&format!("{fit} --out m.nys --max-flops {cap}"), 4, &["up to 400 epochs", "--iterations"]);
    }
    place.json(&format!("{fit} --dry-run --max-flops {}", 1.01 * last));
    for more in ["--iterations 9", "--iterations 9 --tolerance 1e-9"] {
        let cap = 1.001 * plan(more);
        let report = place.solved(&format!("{fit} --out m.nys {more} --max-flops {cap}"));
        let achieved = number(&report, "/flops/achieved");
        assert!(0.6 * cap < achieved && achieved <= cap, "{more}: {achieved:e} of {cap:e}");
        assert_eq!(number(&report, "/predicted/passes"), number(&report, "/passes"), "{more}");
        // Given that it holds, the cap changes no bit.
        let free = place.solved(&format!("{fit} --out m.nys {more}"));
        assert_eq!(report["model_digest"], free["model_digest"]);
    }
}

/// `--dry-run` is the plan, `--explain` the decision with it.
#[test]
fn explain_tells_more_than_a_dry_run() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, 6000)));
    let line = "fit --data d.parquet --target y --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 200";
    let (plan, why) = (place.json(&format!("{line} --dry-run")), place.json(&format!("{line} --explain")));
    for field in ["rows", "centers", "solver", "select", "flops", "passes", "bytes_read", "memory", "seconds"] {
        assert!(!plan[field].is_null(), "{field}: {plan}");
        assert_eq!(plan[field], why[field], "{field}");
    }
    assert!(plan.get("considered").is_none() && plan.get("reasons").is_none(), "{plan}");
    let considered = why["considered"].as_array().unwrap();
    let named: Vec<&str> = considered.iter().map(|one| one["solver"].as_str().unwrap()).collect();
    assert_eq!(named, ["gram", "pcg", "eigenpro", "blockcd"], "{why}");
    for one in considered {
        let verdict = one["verdict"].as_str().unwrap();
        assert_eq!(verdict.starts_with("chosen"), one["solver"] == why["solver"], "{why}");
        assert!(number(one, "/flops") > 1e6 && number(one, "/passes") >= 1.0 && number(one, "/memory_bytes") > 1e6);
    }
    assert!(why["reasons"].to_string().contains("RPCholesky on a pool"), "{why}");
    // Asked for, and what cannot be used.
    let asked = place.json(&format!("{line} --explain --solver pcg"));
    let verdict = |k: usize| asked["considered"][k]["verdict"].as_str().unwrap().to_owned();
    assert_eq!((verdict(1), verdict(0)), ("chosen: asked for".into(), "not chosen: pcg was asked for".into()));
    let said = text(&place.run(&format!("{line} --explain")).stdout);
    assert!(said.contains("eigenpro") && said.contains("core-seconds"), "{said}");
    assert!(!text(&place.run(&format!("{line} --dry-run")).stdout).contains("core-seconds"));
    assert!(!place.names().contains(&"m.nys".to_owned()));
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

/// A model of `data`, quickly made.
fn small_model(place: &Place, data: &str, more: &str) {
    place.solved(&format!(
        "fit --data {data} --target y --out m.nys --kernel gaussian --bandwidth 0.2x --ridge 1e-6 --select uniform --solver gram {more}"
    ));
}

/// The plan of prediction and evaluation holds, is enough, and is the least that is accepted; what it does not change is the answer.
#[test]
fn predictions_and_evaluations_keep_to_their_memory() {
    let place = Place::new();
    small_model(&place, "synth:friedman1?rows=12000&d=10&seed=1", "--centers 1200 --variance");
    let data = "--model m.nys --data synth:friedman1?rows=100000&d=10&seed=2";
    let few = "--model m.nys --data synth:friedman1?rows=10000&d=10&seed=2";
    for (line, workers) in [
        (format!("predict {data} --out p.parquet"), 1),
        (format!("predict {data} --out p.parquet --keep *"), 2),
        (format!("predict {few} --out p.parquet --keep * --variance"), 1),
        (format!("predict {few} --out p.parquet --keep * --variance"), 3),
        (format!("evaluate {data}"), 2),
    ] {
        let line = format!("{line} --workers {workers}");
        let output = || std::fs::read(place.path("p.parquet")).unwrap_or_default();
        let free = place.json(&line);
        let written = output();
        let planned = number(&free, "/predicted/memory_bytes");
        let peak = number(&free, "/peak_rss_bytes");
        assert!(peak <= planned && planned < 4.0 * peak, "{line}: {peak} used, {planned} planned");
        let bound = place.json(&format!("{line} --memory {planned}"));
        assert!(number(&bound, "/peak_rss_bytes") <= planned, "{line}: {bound}");
        assert_eq!(bound.get("rmse"), free.get("rmse"));
        assert!(output() == written, "{line}: the memory changed the output");
        let _ = std::fs::remove_file(place.path("p.parquet"));
        let less = format!("{line} --memory {}", planned - 1.0);
        place.fails(&less, 4, &["memory in each process", "Largest: ", "Give more with --memory"]);
        let said = text(&place.run(&line).stderr);
        assert!(said.contains("plan: ") && said.contains("of 8.0 GiB memory"), "{said}");
        let _ = std::fs::remove_file(place.path("p.parquet"));
    }
}

#[test]
fn a_model_that_does_not_fit_is_not_even_loaded() {
    let place = Place::new();
    unreadable(&place, 50_000);
    write(&place.path("t.parquet"), &batch(table(0, 3000)));
    small_model(&place, "t.parquet", "--centers 1500 --variance");
    // Readable pages would be needed for anything but a refusal, and then readable tensors.
    let lines =
        ["predict --model m.nys --data d.parquet --out p.parquet --keep *", "evaluate --model m.nys --data d.parquet"];
    for line in lines {
        place.fails(line, 1, &["d.parquet"]);
        place.fails(&format!("{line} --memory 64MiB --workers 5"), 4, &["--memory allows 64.0 MiB", "--workers"]);
    }
    let mut bytes = std::fs::read(place.path("m.nys")).unwrap();
    let end = bytes.len();
    bytes[end - 4000..].fill(0x3f);
    std::fs::write(place.path("m.nys"), bytes).unwrap();
    for line in lines {
        place.fails(line, 1, &["m.nys", "damaged"]);
        place.fails(&format!("{line} --memory 70MiB --workers 1"), 4, &["the model file", "--centers", "--variance"]);
        place.fails(&line.replace("m.nys", "t.parquet"), 1, &["Parquet file", "--data"]);
    }
}

/// Long text makes batches shorter, and its bytes count: they are in the footers.
#[test]
fn kept_text_is_planned_for() {
    let place = Place::new();
    let rows = 20_000;
    let mut columns = table(0, rows);
    columns.push(("note", texts((0..rows).map(|i| format!("{i} ").repeat(500)))));
    write(&place.path("d.parquet"), &batch(columns));
    small_model(&place, "d.parquet", "--centers 50 --drop note");
    let run =
        |more: &str| place.json(&format!("predict --model m.nys --data d.parquet --out p.parquet --workers 2 {more}"));
    let (with, without) = (run("--keep note"), run(""));
    for report in [&with, &without] {
        assert!(number(report, "/peak_rss_bytes") <= number(report, "/predicted/memory_bytes"), "{report}");
    }
    assert!(number(&with, "/predicted/memory_bytes") > 2.0 * number(&without, "/predicted/memory_bytes"), "{with}");
    place.fails(
        "predict --model m.nys --data d.parquet --out q.parquet --workers 2 --keep note --memory 128MiB",
        4,
        &["fewer columns with --keep"],
    );
}

/// Ranks are counted in every worker.
#[test]
fn evaluating_classes_keeps_to_its_memory() {
    let place = Place::new();
    small_model(&place, "synth:twoclass?rows=20000&d=3&seed=1", "--centers 60 --task classification");
    let report = place.json("evaluate --model m.nys --data synth:twoclass?rows=2000000&d=3&seed=2 --workers 3");
    let (peak, planned) = (number(&report, "/peak_rss_bytes"), number(&report, "/predicted/memory_bytes"));
    assert!(peak <= planned && number(&report, "/auc") > 0.5, "{report}");
    place.fails(
        "evaluate --model m.nys --data synth:twoclass?rows=2000000&d=3&seed=2 --workers 3 --memory 100MiB",
        4,
        &["ranks of scores", "--workers"],
    );
}

/// The sizes at which allocators keep most: matrices of some 10 MiB, freed by one stage and not found by the next.
#[cfg(target_os = "linux")]
#[test]
fn peaks_stay_within_their_plans() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, 9000)));
    let line = "fit --data d.parquet --target y --kernel gaussian --bandwidth 0.5x --ridge 1e-6 --out m.nys";
    for more in [
        "--centers 1000",
        "--centers 1700",
        "--centers 1700 --variance",
        "--centers 1200 --solver pcg",
        "--centers 1200 --solver pcg --checkpoint c --checkpoint-every 0",
        "--centers 800 --solver eigenpro --iterations 3 --checkpoint c --checkpoint-every 0",
    ] {
        let report = place.solved(&format!("{line} {more}"));
        let (peak, planned) = (number(&report, "/peak_rss_bytes"), number(&report, "/predicted/memory_bytes"));
        assert!(peak <= planned, "{more}: {peak} {planned}");
    }
}
