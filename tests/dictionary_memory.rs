//! The dictionary keeps to `--memory`, and what it has changes how the centers are found, never which.

mod common;

use common::*;
use serde_json::Value;

const FIXED: &str = "--target y --out m.nys --kernel gaussian --bandwidth 1.5x --ridge 1e-6 --split none";
const MEBIBYTE: f64 = 1048576.0;

fn fit(source: &str, options: &str) -> String {
    format!("fit --data {source} {FIXED} {options}")
}

fn peak(report: &Value) -> f64 {
    number(report, "/peak_rss_bytes") / MEBIBYTE
}

/// Two million rows of 56 bytes are 107 MiB: they do not fit beside the rest, and take several windows.
#[test]
fn squeak_over_all_rows_keeps_its_promise() {
    let place = Place::new();
    let line = fit("synth:friedman1?rows=2000000&d=10&seed=3", "--centers 20 --select squeak --solver gram");
    let large = place.json(&format!("{line} --workers 2 --memory 2GiB"));
    assert!(peak(&large) > 200.0, "{large}");
    for (workers, mebibytes) in [(1, 176), (2, 192), (3, 208)] {
        let small = place.json(&format!("{line} --workers {workers} --memory {mebibytes}MiB"));
        assert_eq!(digest(&small), digest(&large), "{workers} workers");
        assert!(peak(&small) <= f64::from(mebibytes), "{} MiB of {mebibytes}", peak(&small));
        assert!(number(&small, "/passes") > number(&large, "/passes"), "{small}");
        assert_eq!(number(&small, "/dictionary/rows_scored"), 2e6);
    }
}

/// Memory of a process is for a process: three of them hold a third of the windows each.
#[test]
fn processes_share_the_windows() {
    let place = Place::new();
    let line = fit("synth:friedman1?rows=600000&d=30&seed=3", "--centers 16 --select squeak --solver gram --workers 1");
    let large = place.json(&format!("{line} --memory 1GiB"));
    let small = place.json(&format!("{line} --memory 176MiB"));
    let shared = place.cluster(&format!("{line} --memory 176MiB"), 3);
    assert_eq!([digest(&small), digest(&shared)], [digest(&large), digest(&large)]);
    assert!(number(&small, "/passes") > number(&shared, "/passes"), "{small}\n{shared}");
    for report in [&small, &shared] {
        assert!(peak(report) <= 176.0, "{report}");
    }
}

/// The pool, its blocks and the pivots' factor count; with little memory the factor is made again in every round.
#[test]
fn rpcholesky_keeps_its_promise() {
    let place = Place::new();
    let line = fit(
        "synth:friedman1?rows=100000&d=200&seed=3",
        "--centers 400 --select rpcholesky --dictionary-rows 15000 --solver gram --workers 2",
    );
    let large = place.json(&format!("{line} --memory 2GiB"));
    let small = place.json(&format!("{line} --memory 224MiB"));
    assert_eq!(digest(&small), digest(&large));
    assert!(peak(&small) <= 224.0 && peak(&large) > peak(&small) + 20.0, "{} {}", peak(&small), peak(&large));
}

/// A pool that the plan cut to size holds exactly the rows that were asked for, whatever fraction of the rows was gathered for it.
#[test]
fn a_pool_holds_the_rows_that_were_counted() {
    let place = Place::new();
    let options = "--centers 100 --select rpcholesky --solver gram";
    for (rows, asked) in [(40_000, 3_000), (70_000, 3_000), (90_000, 5_000)] {
        let source = format!("synth:friedman1?rows={rows}&d=5&seed=3");
        let report = place.json(&fit(&source, &format!("{options} --dictionary-rows {asked}")));
        assert_eq!(number(&report, "/dictionary/rows_scored"), f64::from(asked), "{report}");
        // On auto, 50 rows a center.
        let report = place.json(&fit(&source, options));
        assert_eq!(number(&report, "/dictionary/rows_scored"), 5_000.0, "{report}");
    }
}

/// The preconditioner of conjugate gradients is summed in blocks: three m x m matrices, not fifteen.
#[test]
fn pcg_keeps_its_promise() {
    let place = Place::new();
    let options = "--centers 2500 --select uniform --solver pcg --iterations 2 --workers 2 --memory 400MiB";
    let report = place.solved(&fit("synth:friedman1?rows=20000&d=10&seed=3", options));
    assert!(peak(&report) <= 400.0, "{report}");
    let logistic = options.replace("--centers 2500", "--centers 1200 --loss logistic --time-limit 20");
    let report = place.solved(&fit("synth:twoclass?rows=20000&d=10&seed=3", &logistic));
    assert!(peak(&report) <= 400.0, "{report}");
}

/// Nothing is bent to fit once the number of centers is given: the job is refused, and the rows or the dictionaries named.
#[test]
fn what_does_not_fit_is_refused() {
    let place = Place::new();
    let source = "synth:friedman1?rows=400000&d=10&seed=3";
    let rows = "rows the dictionary is chosen from";
    place.fails(
        &fit(source, "--centers 500 --select squeak --memory 192MiB --workers 1"),
        4,
        &["dictionaries of 2000 atoms", "--memory"],
    );
    place.fails(
        &fit(source, "--centers 40 --select rpcholesky --dictionary-rows 400000 --memory 120MiB --workers 1"),
        4,
        &[rows, "--memory", "--dictionary-rows"],
    );
    let wide = "synth:friedman1?rows=40000&d=600&seed=3";
    place.fails(&fit(wide, "--centers 2000 --select rpcholesky --memory 300MiB --workers 1"), 4, &["--memory"]);
}

/// Left to itself, the fit chooses what fits.
#[test]
fn auto_stays_within_the_memory() {
    let place = Place::new();
    for (source, mebibytes) in [("friedman1?rows=300000&d=10&seed=3", 224), ("friedman1?rows=30000&d=300&seed=3", 352)]
    {
        let line = fit(&format!("synth:{source}"), &format!("--memory {mebibytes}MiB --workers 1"));
        let report = place.solved(&line);
        assert!(peak(&report) <= f64::from(mebibytes), "{} MiB: {report}", peak(&report));
        assert!(number(&report, "/centers") >= 16.0, "{report}");
    }
}

/// Asked for all rows by name, RPCholesky passes over all of them.
#[test]
fn all_rows_are_all_rows() {
    let place = Place::new();
    let source = "synth:friedman1?rows=20000&d=6&seed=3";
    let run = |more: &str| place.json(&fit(source, &format!("--centers 60 {more}")));
    let full = run("--select rpcholesky:full");
    let all = run("--select rpcholesky --dictionary-rows all");
    let pool = run("--select rpcholesky");
    assert_eq!(digest(&all), digest(&full));
    assert_ne!(digest(&pool), digest(&full));
    for report in [&all, &full] {
        assert_eq!(report["select"], "rpcholesky");
        assert!(report["notes"].to_string().contains("pivots from all 20000 rows in"), "{report}");
    }
    assert!(!pool["notes"].to_string().contains("pivots from all"));
    let squeak = run("--select squeak");
    assert_eq!(digest(&run("--select squeak --dictionary-rows all")), digest(&squeak));
}

/// Eigenpro's rows in hashed order come first on the disk, the cache of rows takes what is left, and too little is refused.
#[test]
fn the_disk_is_shared() {
    let place = Place::new();
    // 800,000 rows of 96 bytes are 73 MiB: more than a third of the memory.
    let line = fit(
        "synth:friedman1?rows=800000&d=10&seed=2",
        "--select uniform --centers 20 --solver eigenpro --iterations 2 --workers 2 --memory 200MiB",
    );
    let (ordered, cached) = ("hashed order are kept on disk", "encoded rows are kept on disk");
    let notes = |limit: &str| {
        let report = place.solved(&format!("{line} --disk-limit {limit}"));
        (digest(&report), report["notes"].to_string())
    };
    let (both, note) = notes("1GiB");
    assert!(note.contains(ordered) && note.contains(cached), "{note}");
    let (one, note) = notes("120MiB");
    assert!(note.contains(ordered) && !note.contains(cached) && note.contains("decoded again"), "{note}");
    assert_eq!(one, both);
    place.fails(&format!("{line} --disk-limit 20MiB"), 4, &["--disk-limit", "hashed order"]);
    let plan = place.run(&format!("{line} --explain").replace("--out m.nys", ""));
    assert!(text(&plan.stdout).contains(ordered), "{}", text(&plan.stdout));
}

/// The chosen rows are written with all columns of the data, those too that nothing is chosen by: the plan of `dictionary` counts them, that of a fit does not.
#[test]
fn chosen_rows_count_with_all_columns() {
    let place = Place::new();
    let mut rows = table(0, 3000);
    rows.push(("note", texts((0..3000).map(|i| format!("{i:040000}")))));
    write_grouped(&place.path("d.parquet"), &batch(rows), 1500);
    let options = "--data d.parquet --target y --drop note --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 300 --select uniform --workers 1";
    place.solved(&format!("fit {options} --split none --solver gram --out m.nys --memory 200MiB"));
    let line = format!("dictionary {options} --out o.parquet");
    place.fails(
        &format!("{line} --memory 200MiB"),
        4,
        &["the 300 chosen rows, with all columns of the data", "'note'"],
    );
    let output = place.run(&format!("{line} --memory 400MiB"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
