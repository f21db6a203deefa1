//! `kill -9` of a learner at random counts of progress: every restart goes on, and in the end state, digest and answers are those of an undisturbed run.
//!
//! A short form of 20 kills always runs; `NYSTREAM_LONG_TESTS=1` makes it 200.

#![cfg(unix)]

mod common;

use common::killed::draw;
use common::stream::*;
use common::*;
use std::time::{Duration, Instant};

const RUN: &str = "--config-from m.nys --cap 80 --input jsonl:in.jsonl --snapshot-every 900";

/// Bytes of a file.
fn length(place: &Place, name: &str) -> u64 {
    std::fs::metadata(place.path(name)).map_or(0, |found| found.len())
}

/// So many kills of runs of `run` on `in.jsonl`, in states of this name.
fn killed(place: &Place, name: &str, run: &str, kills: usize) {
    let undisturbed =
        place.online(&format!("{run} --state {name}u --output jsonl:{name}u.jsonl --dead-letter {name}u.dead"));
    let read = |file: &str| std::fs::read(place.path(file)).unwrap();
    let (answers, dead) = (read(&format!("{name}u.jsonl")), read(&format!("{name}u.dead")));
    assert!(!answers.is_empty() && !dead.is_empty());
    let whole = answers.len() as u64;
    let (mut done, mut stream) = (0, 0u64);
    while done < kills {
        // One stream is killed several times on its way.
        let (state, out, letters) =
            (format!("{name}{stream}"), format!("{name}{stream}.jsonl"), format!("{name}{stream}.dead"));
        let line = format!("{run} --state {state} --output jsonl:{out} --dead-letter {letters}");
        let times = 1 + draw("times", stream, 5);
        for kill_number in 0..times {
            let before = length(place, &out);
            let wanted = before + draw("bytes", stream * 10 + kill_number, (whole - before.min(whole)) / 2 + 1);
            let mut child = place.start_online(&line);
            let begun = Instant::now();
            // The end of the process, or of patience, is as good a moment as any.
            while length(place, &out) < wanted
                && begun.elapsed() < Duration::from_secs(60)
                && child.try_wait().unwrap().is_none()
            {
                std::thread::sleep(Duration::from_micros(300));
            }
            std::thread::sleep(Duration::from_micros(draw("pause", stream * 10 + kill_number, 20_000)));
            kill(child);
            done += 1;
        }
        let report = place.online(&line);
        assert_eq!(digest(&report), digest(&undisturbed), "{run}: stream {stream}, {times} kills");
        for name in ["rows_inserted", "rows_deleted", "rows_updated", "rows_labelled", "rows_rejected", "predictions"] {
            assert_eq!(report[name], undisturbed[name], "{run}: stream {stream}: {name}");
        }
        assert_eq!(report["prequential"], undisturbed["prequential"], "{run}: stream {stream}");
        assert!(read(&out) == answers, "{run}: stream {stream}: the answers differ");
        assert!(read(&letters) == dead, "{run}: stream {stream}: the dead letters differ");
        assert_eq!(place.online(&format!("verify {state}"))["verified"], true);
        stream += 1;
    }
    eprintln!("{run}: {done} kills over {stream} streams: all ended as the undisturbed one");
}

#[test]
fn killed_learners_end_as_undisturbed_ones() {
    let place = Place::new();
    place.model("m.nys");
    place.lines("in.jsonl", &mixed(12_000));
    killed(&place, "s", RUN, if long_tests() { 200 } else { 20 });
}

/// Least squares on centers that stay, and independent learners by a column.
#[test]
fn killed_recursive_and_sharded_learners_end_as_undisturbed_ones() {
    let place = Place::new();
    place.model("m.nys");
    place.lines("in.jsonl", &mixed(5000));
    let kills = if long_tests() { 100 } else { 8 };
    for (name, learner) in [
        ("r", "--mode recursive --block 32"),
        ("c", "--shard-by c --cap 40 --hindsight 50 --block 32"),
        ("m", "--mode recursive --shard-by c --block 32"),
    ] {
        let run = format!("--config-from m.nys {learner} --input jsonl:in.jsonl --snapshot-every 700");
        killed(&place, name, &run, kills);
    }
}

/// A signal ends a run with what it has; the same command goes on.
#[test]
fn interrupted_learners_go_on() {
    let place = Place::new();
    place.model("m.nys");
    place.lines("in.jsonl", &mixed(12_000));
    let undisturbed = place.online(&format!("{RUN} --state u --output jsonl:u.jsonl"));
    let line = format!("{RUN} --state s --output jsonl:s.jsonl");
    let child = place.start_online(&line);
    let begun = Instant::now();
    while length(&place, "s.jsonl") < 20_000 && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = interrupt(child, &line);
    // It may have ended before the signal came.
    assert!(matches!(output.status.code(), Some(0 | 130)), "{}", text(&output.stderr));
    if output.status.code() == Some(130) {
        assert!(text(&output.stderr).contains("the same command goes on"), "{}", text(&output.stderr));
    }
    assert_eq!(digest(&place.online(&line)), digest(&undisturbed));
    assert!(std::fs::read(place.path("s.jsonl")).unwrap() == std::fs::read(place.path("u.jsonl")).unwrap());
}

/// The log's end torn or a bit of it flipped, and the newest snapshot damaged: told, cut off, and the stream read again from there.
#[test]
fn damaged_states_are_mended_and_told() {
    let place = Place::new();
    place.model("m.nys");
    place.lines("in.jsonl", &mixed(4000));
    let undisturbed = place.online(&format!("{RUN} --state u --output jsonl:u.jsonl"));
    for turn in 0..6u64 {
        let line = format!("{RUN} --state s{turn} --output jsonl:s{turn}.jsonl");
        let child = place.start_online(&line);
        let begun = Instant::now();
        while length(&place, &format!("s{turn}.jsonl")) < 100_000 && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(child);
        let newest = |folder: &str, is: fn(&str) -> bool| {
            let names = std::fs::read_dir(place.path(folder)).unwrap().map(|entry| entry.unwrap().path());
            let mut names: Vec<_> = names.filter(|path| is(path.file_name().unwrap().to_str().unwrap())).collect();
            names.sort();
            names.pop()
        };
        let victim = match turn {
            0..4 => newest(&format!("s{turn}/log"), |name| name.ends_with(".log")),
            _ => newest(&format!("s{turn}"), |name| name.starts_with("snapshot-")),
        };
        let Some(victim) = victim else { continue };
        let mut bytes = std::fs::read(&victim).unwrap();
        match turn % 2 {
            0 => bytes.truncate(bytes.len() - draw("torn", turn, 60) as usize - 1),
            _ => {
                let at = bytes.len() - 1 - draw("flip", turn, bytes.len() as u64 / 4) as usize;
                bytes[at] ^= 1 << draw("bit", turn, 8);
            }
        }
        std::fs::write(&victim, bytes).unwrap();
        let output = place.run(&format!("online {line} --format json"));
        let report = summary(&output, &line);
        assert_eq!(digest(&report), digest(&undisturbed), "turn {turn}: {}", text(&output.stderr));
        assert!(
            std::fs::read(place.path(&format!("s{turn}.jsonl"))).unwrap()
                == std::fs::read(place.path("u.jsonl")).unwrap(),
            "turn {turn}"
        );
        let told = text(&output.stderr);
        assert!(told.contains("damaged") || told.contains("cannot be used"), "turn {turn}: {told}");
    }
}
