//! Ends that are not returns: signals and panics. Each test runs this program again as a child that plays one part.

#![cfg(unix)]

use nystream::atomic::AtomicFile;
use nystream::exit;
use nystream::progress::Progress;
use std::cell::Cell;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const PART: &str = "NYSTREAM_TEST_PART";

thread_local!(static CATCHING: Cell<bool> = const { Cell::new(false) });

/// The child's side: does nothing unless told a part.
#[test]
fn play() {
    let Ok(part) = std::env::var(PART) else { return };
    let folder = std::env::var("NYSTREAM_TEST_FOLDER").unwrap();
    exit::install_panic_hook(|| CATCHING.get());
    exit::install_interrupt_handler().unwrap();
    let mut file = AtomicFile::create(&Path::new(&folder).join("model.nys")).unwrap();
    file.write_all(b"half a model").unwrap();
    file.flush().unwrap();
    let hooked = Path::new(&folder).join("hooked");
    exit::at_early_end(move |_| std::fs::write(&hooked, "ran").unwrap());
    match part.as_str() {
        "wait" | "wait after an output" => {
            if part != "wait" {
                nystream::atomic::write(&Path::new(&folder).join("whole.nys"), b"a whole model").unwrap();
            }
            std::fs::write(Path::new(&folder).join("ready"), "").unwrap();
            std::thread::sleep(Duration::from_secs(60));
        }
        "panic" => {
            let _pass = Progress::hidden().pass("gram", None, "rows");
            let worker = std::thread::Builder::new().name("worker 1".into());
            worker.spawn(|| panic!("a {} cause", "deep")).unwrap();
            // A sibling that would wait for ever.
            std::thread::sleep(Duration::from_secs(60));
        }
        "tolerated" => {
            CATCHING.set(true);
            let caught = std::panic::catch_unwind(|| panic!("expected"));
            CATCHING.set(false);
            assert!(caught.is_err());
            file.commit().unwrap();
            std::process::exit(0);
        }
        other => panic!("{other}"),
    }
}

struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Stage { folder: tempfile::tempdir().unwrap() }
    }

    fn spawn(&self, part: &str) -> std::process::Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["play", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(PART, part).env("NYSTREAM_TEST_FOLDER", self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn code_and_error(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn signals_end_with_130_and_no_partial_output() {
    for (signal, part) in [("INT", "wait"), ("TERM", "wait"), ("INT", "wait after an output")] {
        let stage = Stage::new();
        let child = stage.spawn(part);
        let begun = Instant::now();
        while !stage.files().contains(&"ready".to_string()) {
            assert!(begun.elapsed() < Duration::from_secs(30), "the child did not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let (code, error) = code_and_error(&child.wait_with_output().unwrap());
        assert_eq!(code, Some(130), "{signal}: {error}");
        if part == "wait" {
            assert!(error.contains("interrupted: nothing was written"), "{error}");
            assert_eq!(stage.files(), ["hooked", "ready"], "{signal}");
        } else {
            assert!(error.contains("interrupted: ") && error.contains("whole.nys was written before"), "{error}");
            assert_eq!(stage.files(), ["hooked", "ready", "whole.nys"], "{signal}");
        }
    }
}

#[test]
fn a_panic_ends_the_process_with_one_message() {
    let stage = Stage::new();
    let begun = Instant::now();
    let (code, error) = code_and_error(&stage.spawn("panic").wait_with_output().unwrap());
    assert!(begun.elapsed() < Duration::from_secs(30), "siblings were waited for");
    assert_eq!(code, Some(101), "{error}");
    for part in ["worker 1", "stage `gram`", "a deep cause", "early_end.rs"] {
        assert!(error.contains(part), "{part} is missing from {error}");
    }
    assert_eq!(error.matches("bug in nystream").count(), 1, "{error}");
    assert_eq!(stage.files(), ["hooked"]);
}

#[test]
fn panics_caught_on_purpose_are_silent() {
    let stage = Stage::new();
    let (code, error) = code_and_error(&stage.spawn("tolerated").wait_with_output().unwrap());
    assert_eq!(code, Some(0), "{error}");
    assert!(!error.contains("bug"), "{error}");
    assert_eq!(stage.files(), ["model.nys"]);
}
