//! Processes whose join fails, or that end before it: all others hear why, also those that come later, long before `--join-timeout`.

#![cfg(unix)]

mod common;

use common::*;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

const FIT: &str = "fit --data synth:sines?rows=3000&d=2&seed=1 --target y --kernel gaussian --bandwidth 1x --ridge 1e-4 --out m.nys \
                   --join-timeout 10m --hosts hosts";

/// Three free addresses in the file `hosts`, and a secret.
fn place() -> (Place, Vec<String>) {
    let place = Place::new();
    let ports: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> = ports.iter().map(|port| port.local_addr().unwrap().to_string()).collect();
    std::fs::write(place.path("hosts"), addresses.join("\n")).unwrap();
    std::fs::write(place.path("secret"), "a secret of some length\n").unwrap();
    std::fs::set_permissions(place.path("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    (place, addresses)
}

fn start(place: &Place, process: usize, more: &str) -> Child {
    place.command(&format!("{FIT} --process {process} --centers 20 --secret-file secret {more}")).spawn().unwrap()
}

/// The code and the one error of an end that came long before the timeout of the join.
fn end(child: Child, code: i32, parts: &[&str]) {
    let begun = Instant::now();
    let Output { status, stderr, .. } = finish(child, FIT);
    let error = text(&stderr);
    assert!(begun.elapsed() < Duration::from_secs(120), "it waited: {error}");
    assert_eq!(status.code(), Some(code), "{error}");
    assert_eq!(error.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{error}");
    for part in parts {
        assert!(error.contains(part), "`{part}` is missing from {error}");
    }
}

/// Waits until somebody listens there.
fn listening(address: &str) {
    let begun = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(120), "nobody listens at {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_mismatch_ends_a_third_process_too() {
    let (place, _) = place();
    let children = [start(&place, 0, ""), start(&place, 1, "--seed 7")];
    let third = start(&place, 2, "");
    for (child, other) in children.into_iter().zip(["process 1", "process 0"]) {
        // One may see it for itself, or be told first.
        end(child, 6, &[" differs"]);
        let _ = other;
    }
    end(third, 6, &["process ", " differs"]);
}

#[test]
fn an_address_in_use_ends_all() {
    let (place, addresses) = place();
    let taken = TcpListener::bind(&addresses[1]).unwrap();
    let others = [start(&place, 0, ""), start(&place, 2, "")];
    end(start(&place, 1, ""), 6, &["cannot listen on", &addresses[1]]);
    others.into_iter().for_each(|child| end(child, 6, &["process 1 failed before it joined: cannot listen on"]));
    drop(taken);
}

#[test]
fn a_refused_secret_file_ends_all() {
    let (place, _) = place();
    std::fs::write(place.path("open"), "a secret of some length\n").unwrap();
    std::fs::set_permissions(place.path("open"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let others = [start(&place, 0, ""), start(&place, 2, "")];
    let line = format!("{FIT} --process 1 --centers 20 --secret-file open");
    end(place.command(&line).spawn().unwrap(), 2, &["chmod 600 open"]);
    for child in others {
        end(child, 6, &["process 1 failed before it joined: the secret file open is open to others"]);
    }
}

/// What went wrong is known: an interrupt while the others are told of it ends that, and says nothing else.
#[test]
fn an_interrupt_after_a_failure_keeps_its_code() {
    let (place, _) = place();
    std::fs::write(place.path("open"), "a secret of some length\n").unwrap();
    std::fs::set_permissions(place.path("open"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut child = place.command(&format!("{FIT} --process 1 --centers 20 --secret-file open")).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().starts_with("error: ")));
    assert!(said.next().unwrap().unwrap().contains("the other processes are told"));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let Output { status, .. } = finish(child, FIT);
    assert_eq!(status.code(), Some(2));
    assert_eq!(said.count(), 0);
}

#[test]
fn an_interrupt_in_the_join_ends_all() {
    let (place, addresses) = place();
    for (signal, waits) in [("-INT", 0), ("-TERM", 2)] {
        let child = start(&place, waits, "");
        listening(&addresses[waits]);
        let other = start(&place, 1, "");
        listening(&addresses[1]);
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let Output { status, stderr, .. } = finish(child, FIT);
        let error = text(&stderr);
        assert!(status.code() == Some(130) && error.contains("interrupted: nothing was written"), "{error}");
        end(other, 6, &[&format!("process {waits} failed before it joined: it was interrupted")]);
    }
    assert_eq!(place.names(), ["hosts", "secret"]);
}
