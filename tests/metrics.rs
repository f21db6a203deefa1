//! `--metrics-addr`: what a running process serves.

#![cfg(target_os = "linux")]

mod common;

use common::*;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

const LONG: &str = "fit --data synth:friedman1?rows=300000000&d=10&seed=1 --target y --kernel gaussian --bandwidth 1x --ridge 1e-5 \
                    --centers 500 --select uniform --workers 1 --max-flops 1e18 --no-progress --out m.nys";

/// A job that is ended when it is dropped.
struct Job(Child);

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a process says that its metrics are.
fn address(job: &mut Job) -> String {
    let mut lines = BufReader::new(job.0.stderr.take().unwrap()).lines();
    let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("metrics: "))).unwrap().unwrap();
    // What else it says must not fill the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    line.strip_prefix("metrics: http://").and_then(|rest| rest.strip_suffix("/metrics")).unwrap().to_owned()
}

/// The samples of a page, by series.
fn scrape(address: &str) -> BTreeMap<String, f64> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("version=0.0.4"), "{head}");
    let mut typed = Vec::new();
    let mut found = BTreeMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            typed.push(rest.split(' ').next().unwrap().to_owned());
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let family = series.split('{').next().unwrap();
            assert_eq!(typed.last().map(String::as_str), Some(family), "{page}");
            assert!(found.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{series} twice");
        }
    }
    found
}

/// Scrapes until the page is as wanted.
fn until(address: &str, what: &str, wanted: impl Fn(&BTreeMap<String, f64>) -> bool) -> BTreeMap<String, f64> {
    let begun = Instant::now();
    loop {
        let page = scrape(address);
        if wanted(&page) {
            return page;
        }
        assert!(begun.elapsed() < Duration::from_secs(180), "{what} did not show: {page:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_running_fit_shows_how_far_it_is() {
    let place = Place::new();
    let mut job = Job(place.command(&format!("{LONG} --metrics-addr 0")).spawn().unwrap());
    let address = address(&mut job);
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let first = until(&address, "rows", |page| page.get("nystream_rows_total").is_some_and(|rows| *rows > 0.0));
    let later = until(&address, "more rows", |page| page["nystream_rows_total"] > first["nystream_rows_total"]);
    assert_eq!(later["nystream_stage_info{stage=\"profile\"}"], 1.0);
    assert_eq!(later["nystream_stage_expected_rows"], 300_000_000.0);
    assert!(later["nystream_resident_memory_bytes"] > 1e6);
    assert!(!later.keys().any(|series| series.contains("peer_") || series.contains("checkpoint")), "{later:?}");
    // One that asks for nothing does not keep the next from its answer.
    let silent = TcpStream::connect(&address).unwrap();
    scrape(&address);
    drop(silent);
}

/// The iterations of a solver, the plan, and the other process.
#[test]
fn processes_show_their_solver_and_each_other() {
    let place = Place::new();
    let free: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let hosts: Vec<String> = free.iter().map(|one| one.local_addr().unwrap().to_string()).collect();
    drop(free);
    std::fs::write(place.path("hosts"), hosts.join("\n")).unwrap();
    let line = "fit --data synth:friedman1?rows=60000&d=10&seed=1 --target y --kernel gaussian --bandwidth 1x --ridge 1e-9 --centers 100 \
                --select uniform --workers 1 --solver pcg --tolerance 1e-15 --iterations 100000 --out m.nys --no-progress --max-flops 1e18";
    let mut jobs = [0, 1].map(|process| {
        let line = format!("{line} --hosts hosts --process {process} --metrics-addr 127.0.0.1:0");
        Job(place.command(&line).spawn().unwrap())
    });
    let addresses = jobs.each_mut().map(address);
    for (process, address) in addresses.iter().enumerate() {
        let page = until(address, "iterations", |page| {
            page.get("nystream_solver_iteration").is_some_and(|steps| *steps > 1.0)
        });
        let peer = format!("{{peer=\"{}\",address=\"{}\"}}", 1 - process, hosts[1 - process]);
        assert!(page["nystream_solver_residual_ratio"] > 0.0 && page["nystream_planned_memory_bytes"] > 1e6);
        assert!(page[&format!("nystream_peer_silence_seconds{peer}")] < 60.0);
        assert!(page[&format!("nystream_peer_sent_bytes_total{peer}")] > 1000.0);
        assert!(page[&format!("nystream_peer_received_bytes_total{peer}")] > 1000.0);
        assert_eq!(page[&format!("nystream_process_info{{process=\"{process}\",processes=\"2\",workers=\"1\"}}")], 1.0);
    }
}

#[test]
fn addresses_that_cannot_be_served_are_usage_errors() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let fit = "fit --data synth:sines?rows=3000 --target y --out m.nys";
    place.fails(&format!("{fit} --metrics-addr {address}"), 2, &["--metrics-addr", &address.to_string()]);
    place.fails(&format!("{fit} --metrics-addr 192.0.2.1:0"), 2, &["--metrics-addr 192.0.2.1:0"]);
    for wrong in ["nonsense", "host:", "1:2:3", "127.0.0.1:99999"] {
        place.fails(&format!("{fit} --metrics-addr {wrong}"), 2, &["--metrics-addr"]);
    }
}

/// One JSON object a line, with the fields of each stage and of the connections.
#[test]
fn logs_have_fields() {
    let place = Place::new();
    let ports: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let hosts: Vec<String> = ports.iter().map(|one| one.local_addr().unwrap().to_string()).collect();
    drop(ports);
    std::fs::write(place.path("hosts"), hosts.join("\n")).unwrap();
    let fit = "fit --data synth:sines?rows=9000 --target y --out m.nys --centers 20 --kernel gaussian --bandwidth 1x --ridge 1e-4 --workers 2";
    let start = |process: usize| {
        let line = format!("--log-format json --no-progress {fit} --hosts hosts --process {process}");
        place.command(&line).env("RUST_LOG", "info").spawn().unwrap()
    };
    let children = [start(0), start(1)];
    for (process, child) in children.into_iter().enumerate() {
        let output = finish(child, fit);
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{log}");
        let lines: Vec<serde_json::Value> =
            log.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
        let fields = |message: &str| {
            let of = lines.iter().map(|line| &line["fields"]).filter(|fields| fields["message"] == message);
            of.cloned().collect::<Vec<_>>()
        };
        let ends = fields("stage ends");
        let profile: Vec<_> = ends.iter().filter(|fields| fields["stage"] == "profile").collect();
        // A line for each worker; together the rows of this process.
        assert_eq!(profile.len(), 2, "{log}");
        for line in &profile {
            assert_eq!(line["process"], process);
            assert!(line["worker"].as_u64().unwrap() / 2 == process as u64);
            assert!(line["seconds"].as_f64().unwrap() >= line["waiting"].as_f64().unwrap(), "{line}");
        }
        assert!(profile.iter().map(|line| line["rows"].as_u64().unwrap()).sum::<u64>() > 1000, "{log}");
        assert!(fields("connected").iter().any(|fields| fields["peer"] == 1 - process), "{log}");
    }
}

/// What each process did stands in the report, and adds up.
#[test]
fn reports_of_several_processes_have_a_table() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, 30_000)));
    let line = "fit --data d.parquet --target y --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 50 --solver pcg --workers 2";
    let report = place.cluster(line, 3);
    let processes = report["per_process"].as_array().unwrap();
    assert_eq!(processes.len(), 3);
    let sum = |name: &str| processes.iter().map(|process| process[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("kernel_entries"), report["kernel_entries"].as_u64().unwrap());
    assert_eq!(sum("bytes_read"), report["bytes_read"].as_u64().unwrap());
    assert!(sum("rows") >= report["rows"].as_u64().unwrap() * report["passes"].as_u64().unwrap() / 2);
    for (index, process) in processes.iter().enumerate() {
        assert_eq!(process["process"], index);
        assert!(process["host"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert!(
            process["bytes_sent"].as_u64().unwrap() > 1000 && process["peak_rss_bytes"].as_u64().unwrap() > 1_000_000
        );
        let stages = process["stages"].as_object().unwrap();
        assert!(["profile", "dictionary", "solve"].iter().all(|stage| stages.contains_key(*stage)), "{process}");
        for time in stages.values() {
            let (seconds, waiting) = (time["seconds"].as_f64().unwrap(), time["waiting"].as_f64().unwrap());
            assert!(waiting >= 0.0 && waiting <= seconds + 0.5, "{process}");
        }
    }
    let imbalance = report["imbalance"].as_object().unwrap();
    assert!(imbalance.values().all(|ratio| (1.0..=3.0001).contains(&ratio.as_f64().unwrap())), "{report}");
    let alone = place.json(line);
    assert!(alone.get("per_process").is_none() && alone.get("imbalance").is_none());
}
