//! `--data-layout local`: files spread over hosts give the model of all of them in one place.

mod common;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Int32Array, Int64Array};
use arrow_schema::DataType;
use common::*;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FIT: &str =
    "--target y --id-column k --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 40 --workers 2 --quiet";

/// The usual table, with keys.
fn keyed(from: usize, rows: usize) -> Vec<(&'static str, arrow_array::ArrayRef)> {
    let mut columns = table(from, rows);
    columns.push(("k", texts((from..from + rows).map(|i| format!("row {i}")))));
    columns
}

/// The files of all hosts in `all`; `host0` to `host2` have some each, two of them the same one, `host3` has none.
fn spread() -> Place {
    let place = Place::new();
    let files = [
        ("a.parquet", 30_000, &["host0"][..]),
        ("b.parquet", 9_000, &["host1"]),
        ("c/d.parquet", 22_000, &["host0", "host1"]),
        ("e.parquet", 2_500, &["host2"]),
        ("f.parquet", 100, &["host1"]),
    ];
    for (index, (name, rows, hosts)) in files.iter().enumerate() {
        let rows = batch(keyed(index * 40_000, *rows));
        for folder in hosts.iter().chain(&["all"]) {
            let path = place.path(folder).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_grouped(&path, &rows, 5000);
        }
    }
    std::fs::create_dir(place.path("host3")).unwrap();
    place
}

fn lines(command: &str, hosts: usize) -> Vec<String> {
    (0..hosts).map(|host| format!("{command} --data host{host} --data-layout local")).collect()
}

fn all_end(outputs: &[Output], code: i32, parts: &[&str]) {
    for (index, output) in outputs.iter().enumerate() {
        let error = text(&output.stderr);
        // One that failed before it joined has told the others.
        let code = if error.contains("failed before it joined") { 6 } else { code };
        assert_eq!(output.status.code(), Some(code), "process {index}: {error}");
        for part in parts {
            assert!(error.contains(part), "process {index}: `{part}` is missing from {error}");
        }
    }
}

#[test]
fn the_model_is_that_of_one_place() {
    let place = spread();
    for options in [
        "--solver gram --select uniform",
        "--solver pcg --select rpcholesky --tolerance 1e-4",
        "--solver gram --select squeak --split time:a:0.1",
        "--solver eigenpro --select uniform --iterations 3",
    ] {
        let one = digest(&place.solved(&format!("fit --data all {FIT} {options} --out one.nys")));
        for hosts in [3, 4] {
            let outputs = place.processes(&lines(&format!("fit {FIT} {options} --out m.nys"), hosts));
            for (index, output) in outputs.iter().enumerate() {
                assert!(matches!(output.status.code(), Some(0 | 3)), "process {index}: {}", text(&output.stderr));
            }
            let report: serde_json::Value = serde_json::from_slice(&outputs[0].stdout).unwrap();
            assert_eq!(digest(&report), one, "{options}, {hosts} processes");
        }
    }
    // One process alone is a host as well.
    let alone =
        place.json(&format!("fit --data all --data-layout local {FIT} --solver gram --select uniform --out l.nys"));
    let one = place.json(&format!("fit --data all {FIT} --solver gram --select uniform --out one.nys"));
    assert_eq!(digest(&alone), digest(&one));
    // Evaluation and tuning.
    let shared = place.json("evaluate --model one.nys --data all");
    let outputs = place.processes(&lines("evaluate --model one.nys", 3));
    all_end(&outputs, 0, &[]);
    let spread: serde_json::Value = serde_json::from_slice(&outputs[0].stdout).unwrap();
    assert_eq!((&shared["rmse"], &shared["rows"]), (&spread["rmse"], &spread["rows"]));
    let tune = "tune --target y --id-column k --kernel gaussian --workers 1";
    let shared = place.json(&format!("{tune} --data all"));
    let outputs = place.processes(
        &lines(tune, 2).into_iter().chain([format!("{tune} --data host2 --data-layout local")]).collect::<Vec<_>>(),
    );
    all_end(&outputs, 0, &[]);
    let spread: serde_json::Value = serde_json::from_slice(&outputs[0].stdout).unwrap();
    assert_eq!(shared["rows"], spread["rows"]);
    assert_eq!((&shared["table"], &shared["chosen"]), (&spread["table"], &spread["chosen"]));
}

#[test]
fn hosts_that_contradict_each_other_are_refused() {
    let place = spread();
    let fit = format!("fit {FIT} --out m.nys --join-timeout 20s");
    // As long, and with the same rows but one.
    let rows = batch(keyed(80_001, 22_000));
    write_grouped(&place.path("host1/c/d.parquet"), &rows, 5000);
    all_end(&place.processes(&lines(&fit, 3)), 1, &["'c/d.parquet'", "process 0 (127.0.0.1:", "process 1 (127.0.0.1:"]);
    // Files of different columns.
    let place = spread();
    write(&place.path("host2/e.parquet"), &batch(keyed(0, 100)[1..].to_vec()));
    all_end(&place.processes(&lines(&fit, 3)), 1, &["'a'", "e.parquet"]);
    // Nothing anywhere.
    let nothing = vec![format!("{fit} --data host3 --data-layout local"); 2];
    all_end(&place.processes(&nothing), 1, &["no data"]);
    // A folder that is not there is a mistake; the others hear of it.
    let lines =
        vec![format!("{fit} --data host0 --data-layout local"), format!("{fit} --data host9 --data-layout local")];
    all_end(&place.processes(&lines), 1, &["'host9' does not exist"]);
    // Both layouts.
    let lines = vec![format!("{fit} --data host0 --data-layout local"), format!("{fit} --data host0")];
    all_end(&place.processes(&lines), 6, &["--data-layout"]);
}

/// Keys and predictions of the rows of a file, in their order.
fn predicted(path: &Path) -> Vec<(String, u64)> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap().build().unwrap();
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let keys = batch.column_by_name("k").unwrap().as_string::<i32>();
        let values = batch.column_by_name("prediction").unwrap().as_primitive::<Float64Type>();
        rows.extend(keys.iter().zip(values.iter()).map(|(k, v)| (k.unwrap().to_owned(), v.unwrap().to_bits())));
    }
    rows
}

/// Every row once, with the bits of one place, in the part of a host that has it, in the order of the data; the bytes are those of any number of workers.
#[test]
fn predictions_are_those_of_one_place() {
    let place = spread();
    place.json(&format!("fit --data all {FIT} --solver gram --select uniform --out m.nys"));
    let predict = "predict --model m.nys --keep k";
    place.json(&format!("{predict} --data all --out one.parquet"));
    let all = predicted(&place.path("one.parquet"));
    assert_eq!(all.len(), 63_600);
    // A process alone writes a file, the file of the shared layout.
    place.json(&format!("{predict} --data all --data-layout local --workers 3 --out alone.parquet"));
    let bytes = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert!(bytes("alone.parquet") == bytes("one.parquet"));
    let at: BTreeMap<&String, usize> = all.iter().enumerate().map(|(i, (key, _))| (key, i)).collect();
    for (hosts, options) in [(2, ""), (3, ""), (4, ""), (3, "--share-centers always")] {
        let mut parts: Vec<Vec<Vec<u8>>> = Vec::new();
        for workers in [1, 2] {
            // Each host has a folder of its own.
            let line = |host| {
                let place = format!("--data host{host} --data-layout local --out out{workers}.{hosts}/{host}/p");
                format!("{predict} {options} {place} --workers {workers}")
            };
            let outputs = place.processes(&(0..hosts).map(line).collect::<Vec<_>>());
            all_end(&outputs, 0, &[]);
            let report: serde_json::Value = serde_json::from_slice(&outputs[0].stdout).unwrap();
            let part = |host| place.path(&format!("out{workers}.{hosts}/{host}/p/part-{host:05}.parquet"));
            let rows: Vec<Vec<(String, u64)>> = (0..hosts).map(|host| predicted(&part(host))).collect();
            let total: usize = rows.iter().map(Vec::len).sum();
            assert_eq!(number(&report, "/rows"), total as f64);
            assert_eq!(total, if hosts == 2 { 61_100 } else { 63_600 });
            for (host, rows) in rows.iter().enumerate() {
                let places: Vec<usize> = rows.iter().map(|(key, _)| at[key]).collect();
                assert!(places.is_sorted(), "part {host} of {hosts}");
                for ((key, bits), place) in rows.iter().zip(places) {
                    assert_eq!(*bits, all[place].1, "{key}");
                    // The files of `spread` begin at multiples of 40,000.
                    let file = key[4..].parse::<usize>().unwrap() / 40_000;
                    assert!([&[0, 2][..], &[1, 2, 4], &[3], &[]][host].contains(&file), "{key} in part {host}");
                }
            }
            let keys: BTreeSet<&String> = rows.iter().flatten().map(|(key, _)| key).collect();
            assert_eq!(keys.len(), total, "a row is in two parts");
            parts.push((0..hosts).map(|host| std::fs::read(part(host)).unwrap()).collect());
            // Nothing else is there.
            for host in 0..hosts {
                assert_eq!(std::fs::read_dir(part(host).parent().unwrap()).unwrap().count(), 1);
            }
        }
        assert!(parts[0] == parts[1], "{hosts} hosts: bytes depend on the workers");
    }
}

/// Kept columns have one type on all hosts, whichever has the file that says more; what cannot be predicted ends all and leaves nothing.
#[test]
fn processes_of_hosts_predict_alike_or_not_at_all() {
    let place = Place::new();
    for host in 0..2 {
        let mut columns = table(host * 5000, 5000);
        let ids = host * 5000..(host + 1) * 5000;
        columns.push(match host {
            0 => ("id", Arc::new(Int32Array::from_iter_values(ids.map(|i| i as i32)))),
            _ => ("id", Arc::new(Int64Array::from_iter_values(ids.map(|i| i as i64)))),
        });
        std::fs::create_dir(place.path(&format!("host{host}"))).unwrap();
        write(&place.path(&format!("host{host}/{host}.parquet")), &batch(columns));
    }
    place.json(
        "fit --data host0 --target y --drop id --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 20 --out m.nys",
    );
    let line = "predict --model m.nys --keep id --out p";
    all_end(&place.processes(&lines(line, 2)), 0, &[]);
    for host in 0..2 {
        let file = std::fs::File::open(place.path(&format!("p/part-{host:05}.parquet"))).unwrap();
        let schema = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().schema().clone();
        assert_eq!(schema.field(0).data_type(), &DataType::Int64);
    }
    // Once more into the folder that both share.
    all_end(&place.processes(&lines(line, 2)), 0, &[]);
    std::fs::remove_dir_all(place.path("p")).unwrap();
    // Each has its own: once more, and then in another order, where a part would stay that nobody replaces.
    let each = |folders: [&str; 2]| -> Vec<String> {
        lines("predict --model m.nys", 2)
            .iter()
            .zip(folders)
            .map(|(line, own)| format!("{line} --out {own}/p"))
            .collect()
    };
    for _ in 0..2 {
        all_end(&place.processes(&each(["x", "y"])), 0, &[]);
    }
    all_end(&place.processes(&each(["y", "x"])), 2, &["part-0000", "of process 0", "another place"]);
    // Bad rows, by the hosts that have them, in the order of the data.
    for (host, row) in [(0, 7), (1, 4999)] {
        let mut columns = table(host * 5000, 5000);
        columns[0].1 = numbers((0..5000).map(|i| if i == row { f64::INFINITY } else { uniform("a", i) }));
        write(&place.path(&format!("host{host}/{host}.parquet")), &batch(columns));
    }
    let outputs = place.processes(&lines("predict --model m.nys --out p", 2));
    all_end(&outputs, 1, &["2 bad rows", "0.parquet on process 0 (127.0.0.1:", "1.parquet on process 1 (127.0.0.1:"]);
    let error = text(&outputs[0].stderr);
    assert!(error.find("row 7:").unwrap() < error.find("row 4999:").unwrap(), "{error}");
    assert!(!place.path("p").exists());
    // A column that one of them lacks.
    write(&place.path("host1/1.parquet"), &batch(table(0, 100)[1..].to_vec()));
    all_end(&place.processes(&lines("predict --model m.nys --out p", 2)), 1, &["'a'", "1.parquet"]);
    // No rows are nothing wrong; no files are.
    write(&place.path("host0/0.parquet"), &batch(table(0, 0)));
    std::fs::remove_file(place.path("host1/1.parquet")).unwrap();
    let outputs = place.processes(&lines("predict --model m.nys --out none", 2));
    all_end(&outputs, 0, &[]);
    std::fs::remove_file(place.path("host0/0.parquet")).unwrap();
    all_end(&place.processes(&lines("predict --model m.nys --out p", 2)), 1, &["no data"]);
}

/// The file of centers is that of one place, byte for byte, whoever has the rows.
#[test]
fn the_dictionary_is_that_of_one_place() {
    let place = spread();
    for options in ["--select squeak --id-column k", "--select uniform", "--select rpcholesky --drop k"] {
        let line = format!("dictionary --target y --kernel gaussian --bandwidth 1x --centers 40 --workers 2 {options}");
        let one = place.json(&format!("{line} --data all --out one.parquet --quiet"));
        let bytes = |name: &str| std::fs::read(place.path(name)).unwrap();
        for hosts in [1, 3, 4] {
            let outputs = match hosts {
                1 => vec![place.run(&format!("{line} --data all --data-layout local --out c.parquet --format json"))],
                _ => place.processes(&lines(&format!("{line} --out c.parquet"), hosts)),
            };
            all_end(&outputs, 0, &[]);
            let report: serde_json::Value = serde_json::from_slice(&outputs[0].stdout).unwrap();
            assert_eq!((&report["centers"], &report["rows"]), (&one["centers"], &one["rows"]));
            assert!(bytes("c.parquet") == bytes("one.parquet"), "{options}, {hosts} hosts");
            std::fs::remove_file(place.path("c.parquet")).unwrap();
        }
        // Several processes of one place, too.
        place.cluster(&format!("{line} --data all --out c.parquet"), 2);
        assert!(bytes("c.parquet") == bytes("one.parquet"), "{options}");
    }
}

/// A file that its owner has lost since it was listed ends all with its name.
#[test]
fn a_lost_file_ends_the_job() {
    let place = spread();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::fs::write(place.path("hosts"), format!("127.0.0.1:{port}\n127.0.0.1:{other}\n")).unwrap();
    let line = |host: usize| {
        format!("fit {FIT} --out m.nys --data host{host} --data-layout local --hosts hosts --process {host}")
    };
    let first = place.command(&line(0)).spawn().unwrap();
    // It listens once it has listed its files.
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "process 0 does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::remove_file(place.path("host0/a.parquet")).unwrap();
    let second = place.command(&line(1)).spawn().unwrap();
    let outputs = [finish(first, "process 0"), finish(second, "process 1")];
    all_end(&outputs, 1, &["process 0 (127.0.0.1:", "a.parquet", "does not exist"]);
}
