//! Progress on stderr, elsewhere than on a terminal: whole counts, and a word about whatever takes long.

mod common;

use common::*;

const FIT: &str = "fit --data d.parquet --target y --out m.nys --kernel gaussian --bandwidth 1x --split none";

/// The rows that `lines` say `stage` passed over, and what is said after their number.
fn rows_of<'a>(lines: &'a str, stage: &str) -> (u64, &'a str) {
    let line = lines.lines().find_map(|line| line.strip_prefix(&format!("{stage}: ")));
    let line = line.unwrap_or_else(|| panic!("no line of {stage} in\n{lines}"));
    let (rows, rest) = line.split_once(' ').unwrap();
    (rows.replace(',', "").parse().unwrap_or_else(|_| panic!("{line}")), rest)
}

/// Workers do not begin a stage at the same moment; what one has counted before the other began is not lost.
#[test]
fn a_stage_counts_the_rows_of_all_workers() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, 4000)));
    for run in 0..10 {
        let output = place.run(&format!("{FIT} --ridge 1e-5 --centers 50 --workers 2"));
        let lines = text(&output.stderr);
        for stage in ["profile", "sample", "gram"] {
            let (rows, rest) = rows_of(&lines, stage);
            assert!(rows == 4000 && rest.starts_with("rows in "), "run {run}\n{lines}");
        }
    }
    // Of several processes each says what is its own.
    let line = format!("{FIT} --ridge 1e-5 --centers 50 --workers 1");
    let outputs = place.processes(&vec![line; 2]);
    let shares: Vec<u64> = outputs
        .iter()
        .map(|output| {
            let lines = text(&output.stderr);
            let (rows, rest) = rows_of(&lines, "profile");
            assert!(rest.starts_with("rows of this process in "), "{lines}");
            rows
        })
        .collect();
    assert_eq!((shares.iter().sum::<u64>(), shares.len()), (4000, 2), "{shares:?}");
}

#[test]
fn algebra_without_rows_says_what_it_is() {
    let place = Place::new();
    // Ten columns: a thousand rows of them are no combinations of each other.
    let line = FIT.replace("d.parquet", "synth:friedman1?rows=4000&d=10&seed=1");
    let output = place.run(&format!("{line} --centers 1000 --workers 2"));
    let lines = text(&output.stderr);
    for line in ["factorisation and ridge path, 1,000 x 1,000", "certificate, 1,000 x 1,000"] {
        assert!(lines.lines().any(|found| found == line), "{line} is missing from\n{lines}");
    }
    assert!(lines.lines().any(|line| line == "dictionary: pivoted Cholesky, 1,000 x 1,000"), "{lines}");
    // Small fits on the sample, some seconds of them where rows are wide.
    assert!(lines.lines().any(|line| line.starts_with("law of the pivots: ") && !line.contains("rows")), "{lines}");
    // The ridge is tuned on a sample that is in memory: no rows go by.
    assert!(lines.lines().any(|line| line.starts_with("tune: ") && !line.contains("rows")), "{lines}");
}
