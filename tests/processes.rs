//! Several processes on loopback: what they count together, what they write.

mod common;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use common::*;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::path::Path;

/// Bytes, entries and flops are those of all processes, whatever their number.
#[test]
fn counters_cover_all_processes() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, 30_000)));
    let line = "fit --data d.parquet --target y --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 50 --select uniform --solver pcg --workers 1";
    let (one, two) = (place.json(line), place.cluster(line, 2));
    for pointer in ["/kernel_entries", "/flops/achieved", "/flops/predicted"] {
        let (one, two) = (number(&one, pointer), number(&two, pointer));
        assert!((one - two).abs() < 0.02 * one, "{pointer}: {one} and {two}");
    }
    // What the first process reads is about half of it.
    for line in [
        "evaluate --model m.nys --data d.parquet --workers 1",
        "predict --model m.nys --data d.parquet --workers 1 --out",
    ] {
        let out = |name: &str| if line.ends_with("--out") { format!("{line} {name}") } else { line.to_owned() };
        let (one, two) = (place.json(&out("p.parquet")), place.cluster(&out("p"), 2));
        let (one, two) = (number(&one, "/bytes_read"), number(&two, "/bytes_read"));
        assert!(two > 0.9 * one, "{line}: {one} and {two}");
    }
}

/// Rows of the predicted data: several row groups of the output.
const ROWS: usize = 250_000;

/// The column of a Parquet file.
fn column(path: &Path, name: &str) -> Vec<f64> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap().build().unwrap();
    let mut values = Vec::new();
    for batch in reader {
        values.extend_from_slice(batch.unwrap().column_by_name(name).unwrap().as_primitive::<Float64Type>().values());
    }
    values
}

/// Parts in the order of their names are the rows in the order of the data, with the bits of one process.
#[test]
fn predictions_of_several_processes_are_parts_of_one() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, ROWS)));
    place
        .json("fit --data d.parquet --target y --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 30");
    let line = |out: &str| format!("predict --model m.nys --data d.parquet --keep a --out {out}");
    place.json(&line("one.parquet"));
    let report = place.cluster(&format!("{} --workers 2", line("parts")), 3);
    assert_eq!(number(&report, "/rows"), ROWS as f64);
    for name in ["a", "prediction"] {
        let parts: Vec<f64> = (0..3)
            .flat_map(|i| {
                let part = column(&place.path(&format!("parts/part-{i:05}.parquet")), name);
                assert!(part.len() > 5000, "part {i} holds {} rows", part.len());
                part
            })
            .collect();
        assert_eq!(parts, column(&place.path("one.parquet"), name), "{name}");
    }
    // Bad rows end all of them and leave nothing.
    let mut bad = table(0, ROWS);
    bad[0].1 = numbers((0..ROWS).map(|i| if i == 29_000 { f64::NAN } else { uniform("a", i) }));
    write(&place.path("bad.parquet"), &batch(bad));
    let before = place.names();
    for output in place.processes(&vec!["predict --model m.nys --data bad.parquet --out none".to_owned(); 2]) {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("row 29000") && error.contains("'a'"), "{error}");
    }
    assert_eq!(place.names().len(), before.len() + 1, "only the host file is new: {:?}", place.names());
}
