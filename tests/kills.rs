//! `kill -9` of a random process at a random time, resumed: the model is that of an undisturbed run, and little is done twice.
//!
//! A short form always runs; `NYSTREAM_LONG_TESTS=1` makes it 100 runs and prints a line for each (RELIABILITY.md has the figures).

#![cfg(unix)]

mod common;

use common::killed::*;
use common::*;
use std::time::{Duration, Instant};

const DATA: &str = "fit --data synth:friedman1?rows=120000&d=8&seed=5 --target y --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-6 --split none \
                    --checkpoint c --checkpoint-every 0.2s --max-flops 1e18";

/// Jobs of every kind, a few seconds each.
const JOBS: [(&str, &str); 4] = [
    ("gram", "--centers 600 --select uniform --solver gram"),
    ("pcg", "--centers 400 --select uniform --solver pcg --tolerance 1e-9 --iterations 40"),
    ("eigenpro", "--centers 300 --select uniform --solver eigenpro --iterations 6"),
    ("squeak", "--centers 150 --select squeak --solver gram"),
];

const SIZES: [Size; 4] = [
    Size { processes: 1, workers: 1 },
    Size { processes: 2, workers: 1 },
    Size { processes: 1, workers: 2 },
    Size { processes: 3, workers: 1 },
];

#[test]
fn killed_runs_end_with_the_undisturbed_model() {
    let runs = if long_tests() { 100 } else { JOBS.len() as u64 };
    let mut known = Vec::new();
    for (_, options) in JOBS {
        let place = Place::new();
        let begun = Instant::now();
        let report = place.start(&format!("{DATA} {options}"), SIZES[0]).report();
        known.push((report, begun.elapsed().as_secs_f64()));
        assert!(place.entries().is_empty(), "a checkpoint was left: {:?}", place.entries());
    }
    let mut resumed = 0;
    for run in 0..runs {
        let kind = run as usize % JOBS.len();
        let (name, options) = JOBS[kind];
        let (undisturbed, whole) = &known[kind];
        let first = SIZES[draw("size", run, SIZES.len() as u64) as usize];
        // A third of them in another number.
        let then = if run % 3 == 0 { SIZES[draw("other size", run, SIZES.len() as u64) as usize] } else { first };
        let victim = draw("victim", run, first.processes as u64) as usize;
        let at = whole * (0.05 + 0.9 * draw("moment", run, 1000) as f64 / 1000.0);
        let place = Place::new();
        let killed =
            kill_and_resume(&place, &format!("{DATA} {options}"), (first, then), victim, Duration::from_secs_f64(at));
        let report = &killed.report;
        eprintln!(
            "run {run}: {name}, {first:?} then {then:?}, process {victim} killed at {:?} of {whole:.2} s, resumed from {}, {:.2} s after it, same model {}",
            killed.at,
            report["resumed_from"],
            killed.seconds,
            digest(report) == digest(undisturbed)
        );
        assert_eq!(digest(report), digest(undisturbed), "run {run}");
        assert!(
            number(report, "/kernel_entries") <= 1.02 * number(undisturbed, "/kernel_entries"),
            "run {run}: {report}"
        );
        assert!(place.entries().is_empty(), "run {run} left {:?}", place.entries());
        resumed += u64::from(report["resumed_from"].is_string());
    }
    assert!(resumed > 0, "no run resumed anything");
}
