//! Ends that come from outside, at any moment of any job: interrupts, and disks that fill up. One message, the documented code, nothing left behind.

#![cfg(unix)]

mod common;

use common::*;
use std::process::{Command, Stdio};
use std::time::Duration;

const FIT: &str = "--target y --kernel gaussian --bandwidth 1x --ridge 1e-6 --split none --workers 2 --out m.nys --temp-dir t --max-flops 1e18";

/// Jobs that take longer than the latest interrupt, whatever the machine.
fn jobs() -> Vec<(&'static str, String)> {
    let rows = |rows: &str, d: u32| format!("--data synth:friedman1?rows={rows}&d={d}&seed=1");
    let small = "--select uniform --memory 256MiB";
    vec![
        ("profile and gram", format!("fit {} {FIT} --centers 1000 --select uniform --solver gram", rows("2e8", 10))),
        ("tuning", format!("fit {} --target y --out m.nys --temp-dir t --centers 4000", rows("60000", 20))),
        (
            "a pool",
            format!("fit {} {FIT} --centers 3000 --select rpcholesky --dictionary-rows 100000", rows("2e5", 10)),
        ),
        (
            "conjugate gradients from disk",
            format!(
                "fit {} {FIT} {small} --centers 500 --solver pcg --tolerance 1e-15 --iterations 4000",
                rows("1e6", 60)
            ),
        ),
        (
            "eigenpro in hashed order",
            format!(
                "fit {} {FIT} {small} --centers 500 --solver eigenpro --iterations 4000 --ridge 0",
                rows("1e6", 60)
            )
            .replacen("--ridge 1e-6 ", "", 1),
        ),
        ("blocks", format!("fit {} {FIT} --solver blockcd --tolerance 1e-15 --iterations 4000", rows("30000", 10))),
        ("predictions", format!("predict --model start.nys {} --out p.parquet --keep * --workers 2", rows("4e8", 10))),
    ]
}

#[test]
fn an_interrupt_at_any_moment_leaves_nothing() {
    let place = Place::new();
    place.json("fit --data synth:friedman1?rows=5000&d=10&seed=1 --target y --out start.nys --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 300");
    std::fs::create_dir(place.path("t")).unwrap();
    let before = place.names();
    for (name, line) in jobs() {
        for milliseconds in [150, 900, 3500] {
            let child = place.command(&line).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(milliseconds));
            Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
            let output = finish(child, &line);
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(130), "{name} after {milliseconds} ms\n{error}");
            assert!(output.stdout.is_empty() && error.contains("interrupted: nothing was written"), "{name}\n{error}");
            assert_eq!(place.names(), before, "{name} after {milliseconds} ms left files");
            let spilled: Vec<_> = std::fs::read_dir(place.path("t")).unwrap().collect();
            assert!(spilled.is_empty(), "{name} after {milliseconds} ms left {spilled:?}");
        }
    }
}

/// The folders that the job made go too, and no others.
#[test]
fn an_interrupt_while_data_is_made_leaves_no_folder() {
    let place = Place::new();
    std::fs::create_dir(place.path("mine")).unwrap();
    for folder in ["new/deep", "mine", "mine/inner"] {
        let line = format!("datasets make synth:friedman1?rows=4e9&d=10 --out {folder} --disk-limit 1TiB");
        let mut child = place.command(&line).spawn().unwrap();
        while !place.path(folder).is_dir() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        let output = finish(child, &line);
        assert_eq!(output.status.code(), Some(130), "{folder}\n{}", text(&output.stderr));
        assert_eq!(place.names(), ["mine"], "{folder}");
        assert_eq!(std::fs::read_dir(place.path("mine")).unwrap().count(), 0, "{folder}");
    }
}

/// A limit on the size of files meets outputs as well: the signal that comes with it does not end the program.
#[test]
fn an_output_that_grows_too_large_is_one_message() {
    let place = Place::new();
    let line = "datasets make 'synth:friedman1?rows=200000&d=10' --out made";
    let script = format!("ulimit -f 100; exec {} {line}", env!("CARGO_BIN_EXE_nystream"));
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(place.path(".")).stdin(Stdio::null());
    let output = finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), line);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("made/part-00000.parquet") && error.contains("nothing was left"), "{error}");
    assert!(place.names().is_empty(), "{:?}", place.names());
}

/// Whether files can be without a name where the tests run; elsewhere a killed process leaves its temporary ones.
fn nameless(place: &Place) -> bool {
    let _open = nystream_datasets::atomic::AtomicFile::create(&place.path("probe")).unwrap();
    place.names().iter().all(|name| !name.contains("probe"))
}

/// kill -9 runs no handler: what is not complete has no name yet.
#[test]
fn a_killed_process_leaves_nothing() {
    let place = Place::new();
    place.json("fit --data synth:friedman1?rows=5000&d=10&seed=1 --target y --out start.nys --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 300");
    std::fs::create_dir(place.path("t")).unwrap();
    if !nameless(&place) {
        return;
    }
    std::fs::write(place.path("p.parquet"), "an earlier output").unwrap();
    let before = place.names();
    let make = "datasets make synth:friedman1?rows=4e9&d=10 --out t --disk-limit 1TiB".to_owned();
    let lines =
        jobs().into_iter().filter(|(name, _)| ["profile and gram", "predictions"].contains(name)).map(|job| job.1);
    for line in lines.chain([make]) {
        for milliseconds in [300, 2000] {
            let mut child = place.command(&line).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(milliseconds));
            assert!(child.try_wait().unwrap().is_none(), "{line} ended too soon");
            Command::new("kill").args(["-9", &child.id().to_string()]).status().unwrap();
            child.wait().unwrap();
            assert_eq!(place.names(), before, "{line} after {milliseconds} ms left files");
            assert_eq!(std::fs::read_dir(place.path("t")).unwrap().count(), 0, "{line} after {milliseconds} ms");
        }
    }
    assert_eq!(std::fs::read(place.path("p.parquet")).unwrap(), b"an earlier output");
}

/// A limit on the size of files stands for a disk that fills up while rows are spilled.
#[test]
fn a_disk_that_fills_up_during_a_spill_is_one_message() {
    let place = Place::new();
    std::fs::create_dir(place.path("t")).unwrap();
    let data = "--data 'synth:friedman1?rows=300000&d=60&seed=1'";
    for solver in ["pcg --iterations 6", "eigenpro --iterations 2"] {
        let line = format!("fit {data} {FIT} --select uniform --centers 100 --memory 224MiB --solver {solver}");
        let program = env!("CARGO_BIN_EXE_nystream");
        // The limit's signal would end the program without a word, unless it is ready for it.
        let script = format!("ulimit -f 2000; exec {program} {line}");
        let mut command = Command::new("bash");
        command.args(["-c", &script]).current_dir(place.path(".")).stdin(Stdio::null());
        let output = finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), &line);
        let error = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 4)), "{solver}: {:?}\n{error}", output.status.code());
        assert_eq!(error.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{solver}\n{error}");
        assert!(error.contains("--temp-dir") || error.contains("--disk-limit"), "{solver}\n{error}");
        assert_eq!(place.names(), ["t"], "{solver}");
        assert_eq!(std::fs::read_dir(place.path("t")).unwrap().count(), 0, "{solver} left its spill");
    }
}
