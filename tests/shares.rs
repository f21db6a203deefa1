//! Centers shared by processes: the same model and the same predictions as of one process, and each process holds its share.

mod common;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{ArrayRef, Float64Array};
use common::*;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Two targets, one of them null in a third of the rows, and weights.
fn data(place: &Place, rows: usize) {
    let mut columns = table(0, rows);
    let z = (0..rows).map(|i| (!i.is_multiple_of(3)).then(|| uniform("a", i) * uniform("b", i)));
    columns.push(("z", Arc::new(Float64Array::from_iter(z)) as ArrayRef));
    columns.push(("w", numbers((0..rows).map(|i| 0.5 + uniform("w", i)))));
    write(&place.path("d.parquet"), &batch(columns));
}

/// The columns of a Parquet file, or of the parts in a folder.
fn column(path: &Path, name: &str) -> Vec<u64> {
    let mut files = vec![path.to_path_buf()];
    if path.is_dir() {
        files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
    }
    let mut values = Vec::new();
    for file in files {
        let file = std::fs::File::open(file).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let column = batch.column_by_name(name).unwrap().as_primitive::<Float64Type>().values();
            values.extend(column.iter().map(|value| value.to_bits()));
        }
    }
    values
}

const FIT: &str = "fit --data d.parquet --target y --target z --weight w --kernel laplace --bandwidth 1x --ridge 1e-5 \
                   --select uniform --solver eigenpro --iterations 1 --split hash:0.1";

/// Just above and at one block of 4,096 centers: with one block nothing is shared, with two a third and a fourth process have none.
#[test]
fn models_and_predictions_do_not_depend_on_who_has_the_centers() {
    let place = Place::new();
    data(&place, 5000);
    for (centers, processes) in [(4097, &[2, 3, 4][..]), (4096, &[2])] {
        let line = format!("{FIT} --centers {centers} --out m.nys");
        let alone = place.solved(&format!("{line} --workers 2"));
        for processes in processes {
            let shared = place.cluster(&format!("{line} --workers 1 --share-centers always"), *processes);
            assert_eq!(digest(&shared), digest(&alone), "{centers} centers, {processes} processes");
            // What is reported, too: residuals and errors.
            assert_eq!(shared["certificate"]["residual"], alone["certificate"]["residual"]);
            assert!(alone["validation"].is_object() && alone["certificate"]["residual"].is_array(), "{alone}");
            assert_eq!(shared["validation"], alone["validation"], "{centers} centers, {processes} processes");
            assert_eq!(shared["notes"].to_string().contains("share the centers"), centers > 4096, "{shared}");
        }
        place.json("predict --model m.nys --data d.parquet --out one.parquet");
        let measured = place.json("evaluate --model m.nys --data d.parquet");
        for processes in processes {
            let always = "--model m.nys --data d.parquet --workers 1 --share-centers always";
            let out = format!("parts{processes}.{centers}");
            let report = place.cluster(&format!("predict {always} --out {out}"), *processes);
            assert_eq!(number(&report, "/rows"), 5000.0);
            for name in ["prediction_y", "prediction_z"] {
                let (one, parts) = (column(&place.path("one.parquet"), name), column(&place.path(&out), name));
                assert!(one == parts, "{name}, {centers} centers, {processes} processes");
            }
            let shared = place.cluster(&format!("evaluate {always}"), *processes);
            for name in ["rmse", "mae", "r2"] {
                assert!(measured[name].is_array(), "{measured}");
                assert_eq!(shared[name], measured[name], "{name}, {centers} centers, {processes} processes");
            }
        }
    }
}

/// What cannot be shared is refused, and so are processes that were told otherwise.
#[test]
fn what_cannot_be_shared_is_refused() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, 4200)));
    place.solved(
        "fit --data d.parquet --target y --kernel laplace --bandwidth 1x --ridge 1e-3 --centers 4097 --select uniform --split none \
         --solver pcg --iterations 1 --preconditioner centers --tolerance 0.9 --out m.nys",
    );
    let line = "predict --model m.nys --data d.parquet --out p --workers 1";
    for (more, part) in [("--variance", "--share-centers never"), ("--product-tolerance 1e-3", "--share-centers never")]
    {
        for output in place.processes(&vec![format!("{line} --share-centers always {more}"); 2]) {
            let error = text(&output.stderr);
            assert!(output.status.code() == Some(2) && error.contains(part), "{more}: {error}");
        }
    }
    let lines = ["always", "never"].map(|when| format!("{line} --share-centers {when}"));
    for output in place.processes(&lines) {
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(6) && error.contains("--share-centers"), "{error}");
    }
}

/// The largest resident memory of process `id` while it runs.
fn watch(id: u32) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut peak = 0;
        while let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status")) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let Some(now) = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()) else {
                break;
            };
            peak = peak.max(now << 10);
            std::thread::sleep(Duration::from_millis(50));
        }
        peak
    })
}

/// More centers than a process has memory for: four processes train with each within its plan, which one process alone is refused.
#[test]
#[cfg(target_os = "linux")]
fn four_processes_train_what_one_cannot_hold() {
    if !long_tests() {
        return;
    }
    let of = |name: &str, otherwise: usize| std::env::var(name).map_or(otherwise, |v| v.parse().unwrap());
    let centers = of("NYSTREAM_LONG_CENTERS", 200_000);
    let rows = centers * 11 / 10;
    let place = Place::new();
    let line = format!(
        "fit --data synth:friedman1?rows={rows}&d=30 --target y --kernel laplace --bandwidth 1x --ridge 1e-6 --centers {centers} --select uniform \
         --split none --solver eigenpro --iterations 1 --max-flops 1e18 --workers 1 --out m.nys"
    );
    // What one process would need, and each of four.
    let refused = place.run(&format!("{line} --memory 64MiB"));
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    let hosts: Vec<String> =
        (0..4).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()).collect();
    std::fs::write(place.path("hosts"), hosts.join("\n")).unwrap();
    let start = |index: usize| {
        let child = place
            .command(&format!("{line} --memory 4GiB --format json --hosts hosts --process {index}"))
            .spawn()
            .unwrap();
        let peak = watch(child.id());
        (child, peak)
    };
    let begun = std::time::Instant::now();
    let running: Vec<_> = (0..4).map(start).collect();
    let mut peaks = Vec::new();
    let mut report = None;
    for (index, (child, peak)) in running.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 3)), "process {index}: {}", text(&output.stderr));
        peaks.push(peak.join().unwrap());
        if index == 0 {
            report = serde_json::from_slice::<serde_json::Value>(&output.stdout).ok();
        }
    }
    let report = report.unwrap();
    let planned = number(&report, "/predicted/memory_bytes");
    eprintln!(
        "{centers} centers: peaks {peaks:?} of {planned} planned, {:.0} s, {report}",
        begun.elapsed().as_secs_f64()
    );
    let square = 8.0 * (centers as f64).powi(2);
    for peak in peaks {
        assert!(peak as f64 <= planned && planned < square / 16.0, "{peak} of {planned} planned; K_mm takes {square}");
    }
}
