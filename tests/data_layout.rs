//! `--data-layout local`: files spread over hosts give the model of all of them in one place.

mod common;

use common::*;
use std::process::Output;
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
    place.fails("predict --model m.nys --data host0 --data-layout local --out p.parquet", 2, &["on each host"]);
    place.fails("dictionary --data host0 --target y --data-layout local --out c.parquet", 2, &["--data-layout local"]);
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
    all_end(&outputs, 1, &["a.parquet", "does not exist"]);
}
