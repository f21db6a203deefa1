//! Several processes on loopback of which one is killed, stopped, interrupted, ends by a bug, or does not belong to them: how the others end.

#![cfg(unix)]

mod common;

use clap::Parser;
use common::*;
use nystream::cli::{Cli, Command as Line};
use nystream::exit;
use nystream::jobs::{Identity, Workers};
use nystream::progress::Progress;
use nystream_dataflows::StageError;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A fit that takes an hour.
const LONG: &str = "fit --data synth:friedman1?rows=300000000&d=10&seed=1 --target y --out m.nys --kernel gaussian \
                    --bandwidth 1x --ridge 1e-5 --centers 1000 --select uniform --workers 1 --max-flops 1e18";

/// Free addresses, written to the file `hosts`.
fn addresses(place: &Place, processes: usize) -> Vec<String> {
    let ports: Vec<_> = (0..processes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> = ports.iter().map(|p| p.local_addr().unwrap().to_string()).collect();
    std::fs::write(place.path("hosts"), addresses.join("\n")).unwrap();
    addresses
}

/// Waits until `address` answers, or does not any more.
fn until_listening(address: &str, listening: bool) {
    let begun = Instant::now();
    while TcpStream::connect(address).is_ok() != listening {
        assert!(begun.elapsed() < Duration::from_secs(240), "{address} did not come to that");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes that have joined each other: each closes its listener when it has told the others that it is connected to all.
fn joined(addresses: &[String], mut start: impl FnMut(usize) -> Child) -> Vec<Child> {
    let mut children = vec![start(0)];
    until_listening(&addresses[0], true);
    children.extend((1..addresses.len()).map(start));
    addresses.iter().for_each(|address| until_listening(address, false));
    children
}

fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// Of processes in a long fit, what those say that are not `at`, which gets `--signal` and is ended by force later.
fn lose(processes: usize, at: usize, name: &str) -> (Vec<Output>, Output, Vec<String>) {
    let place = Place::new();
    let addresses = addresses(&place, processes);
    let line = format!("{LONG} --hosts hosts --peer-timeout 4s");
    let mut children = joined(&addresses, |index| place.command(&format!("{line} --process {index}")).spawn().unwrap());
    let mut victim = children.remove(at);
    assert!(victim.try_wait().unwrap().is_none(), "the job ended too soon");
    signal(&victim, name);
    let others: Vec<Output> = children.into_iter().map(|child| finish(child, &line)).collect();
    for output in &others {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{error}");
        assert_eq!(error.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{error}");
        assert!(error.contains(&format!("process {at} ({}) was lost: ", addresses[at])), "{error}");
        assert!(!error.contains("panicked") && !error.contains("bug in nystream"), "{error}");
        assert!(output.stdout.is_empty());
    }
    if name == "-STOP" {
        signal(&victim, "-CONT");
    }
    let victim = finish(victim, &line);
    // A killed process cannot remove what it had begun; whoever lives leaves nothing.
    let names = place.names();
    assert!(!names.iter().any(|name| name == "m.nys"), "{names:?}");
    assert!(name == "-KILL" || names == ["hosts"], "{names:?}");
    (others, victim, addresses)
}

#[test]
fn a_killed_process_ends_the_others_with_its_name() {
    for at in [1, 0] {
        let (others, _, _) = lose(2, at, "-KILL");
        assert!(
            text(&others[0].stderr).contains("ended without a farewell")
                || text(&others[0].stderr).contains("the connection broke")
        );
    }
}

/// All others name the one that is stopped, not each other. It learns what happened when it goes on.
#[test]
fn a_stopped_process_is_noticed_by_its_silence() {
    let (others, stopped, _) = lose(3, 1, "-STOP");
    for output in others {
        let error = text(&output.stderr);
        assert!(error.contains("silent for 4 s") || error.contains("read nothing for 4 s"), "{error}");
    }
    let error = text(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(5), "{error}");
    assert!(error.contains("was lost: "), "{error}");
}

#[test]
fn an_interrupted_process_tells_the_others() {
    let (others, interrupted, _) = lose(2, 1, "-INT");
    assert!(text(&others[0].stderr).contains("it was interrupted"), "{}", text(&others[0].stderr));
    assert_eq!(interrupted.status.code(), Some(130), "{}", text(&interrupted.stderr));
}

const PROCESS: &str = "NYSTREAM_TEST_PROCESS";

/// One process of a job in which a worker panics: does nothing unless told which.
#[test]
fn play() {
    let Ok(index) = std::env::var(PROCESS) else { return };
    exit::install_panic_hook(|| false);
    let line = format!("nystream fit --data d --target y --hosts hosts --process {index} --workers 2");
    let Line::Fit(args) = Cli::parse_from(line.split_whitespace()).command else { panic!("no fit") };
    let workers = Workers::start(&args.resources, &Progress::hidden(), &Identity::new("test")).unwrap();
    let end = workers.run(move |session| {
        if session.index() == 3 {
            panic!("a {} cause", "deep");
        }
        // The others have something to do for ever.
        std::thread::sleep(Duration::from_secs(300));
        Ok::<(), StageError>(())
    });
    end.unwrap();
}

#[test]
fn a_bug_in_one_worker_ends_all_processes_with_its_cause() {
    let place = Place::new();
    let addresses = addresses(&place, 2);
    let start = |index: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["play", "--exact", "--nocapture", "--test-threads=1"]).env(PROCESS, index.to_string());
        command.current_dir(place.path("")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let children = joined(&addresses, start);
    let ends: Vec<Output> = children.into_iter().map(|child| finish(child, "play")).collect();
    let [other, broken] = &ends[..] else { panic!("two processes") };
    let error = text(&broken.stderr);
    assert_eq!(broken.status.code(), Some(101), "{error}");
    assert!(error.contains("bug in nystream") && error.contains("a deep cause"), "{error}");
    let error = text(&other.stderr);
    assert_eq!(other.status.code(), Some(5), "{error}");
    assert!(
        error.contains(&format!("process 1 ({}) was lost: a bug ended it (a deep cause)", addresses[1])),
        "{error}"
    );
}

const SHORT: &str = "fit --data synth:sines?rows=3000&d=2&seed=1 --target y --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 20 \
                     --solver pcg --out m.nys";

/// Runs one line for each process with these secrets as the variable.
fn run_with(place: &Place, lines: &[String], secrets: &[&str]) -> Vec<Output> {
    addresses(place, lines.len());
    let start = |(index, line): (usize, &String)| {
        let mut command = place.command(&format!("{line} --format json --hosts hosts --process {index}"));
        command.env("NYSTREAM_SECRET", secrets[index]).spawn().unwrap()
    };
    let children: Vec<Child> = lines.iter().enumerate().map(start).collect();
    children.into_iter().zip(lines).map(|(child, line)| finish(child, line)).collect()
}

#[test]
fn another_secret_keeps_processes_apart() {
    let place = Place::new();
    let lines = vec![format!("{SHORT} --join-timeout 8s"); 2];
    let outputs = run_with(&place, &lines, &["the first long secret", "the other long secret"]);
    let parts = ["does not hold this job's secret", "holds another secret than this process"];
    for (output, part) in outputs.iter().zip(parts) {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{error}");
        assert!(error.lines().any(|line| line.starts_with("error: ") && line.contains(part)), "{error}");
        assert!(!error.contains("long secret") && !error.contains("names no option"), "{error}");
    }
    assert_eq!(place.names(), ["hosts"]);
}

/// The same model however what is sent is protected, by a file or the variable; the file goes before the variable. The report counts what was sent.
#[test]
fn protected_processes_fit_the_same_model() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let alone = digest(&place.json(SHORT));
    std::fs::write(place.path("secret"), "a secret of some length\n").unwrap();
    std::fs::set_permissions(place.path("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    for (more, secrets) in [
        ("", ["a secret of some length"; 3]),
        ("--transport plain", ["a secret of some length"; 3]),
        ("--secret-file secret", ["a secret of some length", "another, which is not used", ""]),
    ] {
        let outputs = run_with(&place, &vec![format!("{SHORT} {more}"); 3], &secrets);
        for output in &outputs {
            assert_eq!(output.status.code(), Some(0), "{more}: {}", text(&output.stderr));
        }
        let report: serde_json::Value = serde_json::from_slice(&outputs[0].stdout).unwrap();
        assert_eq!(digest(&report), alone, "{more}");
        assert!(number(&report, "/network/bytes_sent") > 1000.0 && number(&report, "/network/bytes_received") > 1000.0);
        assert!(number(&report, "/network/seconds_waiting") > 0.0);
    }
}

#[test]
fn unusable_secrets_and_addresses_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    std::fs::write(place.path("hosts"), "127.0.0.1:1\n192.0.2.1:2\n").unwrap();
    std::fs::write(place.path("open"), "a secret of some length\n").unwrap();
    std::fs::write(place.path("short"), "too short\n").unwrap();
    for (name, mode) in [("open", 0o640), ("short", 0o600)] {
        std::fs::set_permissions(place.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let line = format!("{SHORT} --hosts hosts --process 0");
    place.fails(&line, 2, &["192.0.2.1:2 (line 2", "--secret-file"]);
    place.fails(&format!("{line} --secret-file open"), 2, &["mode 640", "chmod 600 open"]);
    place.fails(&format!("{line} --secret-file short"), 2, &["9 bytes"]);
    place.fails(&format!("{line} --secret-file absent"), 2, &["absent"]);
}
