//! Checkpoints of a fit: what is resumed, what is refused, and what a folder that cannot be used does.

#![cfg(unix)]

mod common;

use common::killed::*;
use common::*;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const LONGEST: Duration = Duration::from_secs(200);
const ONE: Size = Size { processes: 1, workers: 1 };
const TWO: Size = Size { processes: 2, workers: 1 };
const WIDE: Size = Size { processes: 1, workers: 3 };

/// A fit that stores what it can within 3 % of its time.
fn fit(rows: u32, options: &str) -> String {
    format!(
        "fit --data synth:friedman1?rows={rows}&d=8&seed=5 --target y --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-6 --split none \
         --checkpoint c --checkpoint-every 0.02s --max-flops 1e18 {options}"
    )
}

/// A fit that stores everything.
fn eager(rows: u32, options: &str) -> String {
    fit(rows, options).replace("--checkpoint-every 0.02s", "--checkpoint-every 0")
}

/// The undisturbed run, in a folder of its own.
fn undisturbed(line: &str) -> Value {
    Place::new().start(line, ONE).report()
}

/// Kills a run as soon as `count` entries of its group `starts` are there.
fn killed_with(place: &Place, line: &str, size: Size, group: &str, count: usize) {
    let mut running = place.start(line, size);
    let own = blake3_of(group);
    let there =
        || place.entries().iter().filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&own)).count();
    assert!(running.wait(LONGEST, || there() >= count), "{line} ended before {group} was stored");
    running.signal(size.processes - 1, "-9");
    running.ends();
}

/// Entries named by a prefix of what they are, whose names contain a digest: any that is not `known`.
fn killed_with_parts(place: &Place, line: &str, size: Size, known: &[&str]) {
    let mut running = place.start(line, size);
    let known: Vec<String> = known.iter().map(|group| blake3_of(group)).collect();
    let parts = || {
        let other =
            |path: &PathBuf| !known.iter().any(|own| path.file_name().unwrap().to_str().unwrap().starts_with(own));
        place.entries().iter().filter(|path| other(path)).count()
    };
    assert!(
        running.wait(LONGEST, || parts() >= size.processes * size.workers),
        "{line} ended before parts were stored"
    );
    running.signal(0, "-9");
    running.ends();
}

/// What is stored before the Gram.
const VALUES: [&str; 4] = ["profile", "profile ", "sample", "centers"];

#[test]
fn a_gram_goes_on_from_its_parts_in_any_number() {
    let line = fit(400_000, "--centers 600 --select uniform --solver gram");
    let whole = undisturbed(&line);
    for (first, then) in [(ONE, TWO), (TWO, WIDE), (WIDE, ONE)] {
        let place = Place::new();
        // One part a process.
        let one_part = Size { workers: 1, ..first };
        let mut running = place.start(&line, first);
        let known: Vec<String> = VALUES.iter().map(|group| blake3_of(group)).collect();
        let parts = || {
            let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            place.entries().iter().filter(|path| !known.iter().any(|own| name(path).starts_with(own))).count()
        };
        assert!(running.wait(LONGEST, || parts() >= one_part.processes), "the gram ended before its parts were stored");
        running.signal(first.processes - 1, "-9");
        running.ends();
        let report = place.start(&format!("{line} --resume"), then).report();
        assert_eq!(digest(&report), digest(&whole), "{first:?} then {then:?}");
        let from = report["resumed_from"].as_str().unwrap_or_else(|| panic!("{report}"));
        assert!(from.starts_with("gram: ") && from.ends_with(" blocks"), "{from}");
        // What is resumed is not done again.
        let (done, all) = (number(&report, "/kernel_entries"), number(&whole, "/kernel_entries"));
        assert!(done < all, "{done} of {all}");
    }
}

#[test]
fn conjugate_gradients_go_on_from_an_iterate() {
    let line = eager(100_000, "--centers 300 --select uniform --solver pcg --tolerance 1e-12 --iterations 40");
    let whole = undisturbed(&line);
    for (first, then) in [(ONE, TWO), (TWO, WIDE)] {
        let place = Place::new();
        killed_with(&place, &line, first, "conjugate gradients", 2);
        let report = place.start(&format!("{line} --resume"), then).report();
        assert_eq!(digest(&report), digest(&whole), "{first:?} then {then:?}");
        assert!(
            report["resumed_from"].as_str().is_some_and(|from| from.starts_with("conjugate gradients")),
            "{report}"
        );
        assert_eq!(number(&report, "/passes"), number(&whole, "/passes"));
        assert_eq!(number(&report, "/iterations"), number(&whole, "/iterations"));
        assert!(number(&report, "/kernel_entries") < number(&whole, "/kernel_entries"));
    }
}

#[test]
fn eigenpro_goes_on_from_its_state() {
    let line = eager(60_000, "--centers 200 --select uniform --solver eigenpro --iterations 5");
    let whole = undisturbed(&line);
    for (first, then) in [(ONE, TWO), (TWO, ONE)] {
        let place = Place::new();
        killed_with(&place, &line, first, "eigenpro", 2);
        let report = place.start(&format!("{line} --resume"), then).report();
        assert_eq!(digest(&report), digest(&whole), "{first:?} then {then:?}");
        assert_eq!(report["resumed_from"], "eigenpro");
        assert_eq!(number(&report, "/iterations"), number(&whole, "/iterations"));
        assert!(number(&report, "/kernel_entries") < number(&whole, "/kernel_entries"));
    }
}

/// What is dear before its first batch is read, and made again where it is damaged.
#[test]
fn the_preconditioner_of_eigenpro_is_not_made_again() {
    let line = eager(60_000, "--centers 200 --select uniform --solver eigenpro --iterations 5");
    let whole = undisturbed(&line);
    let own = blake3_of("eigenpro preconditioner");
    for (damaged, then) in [(false, TWO), (true, TWO), (false, ONE)] {
        let place = Place::new();
        killed_with(&place, &line, ONE, "eigenpro", 1);
        let stored: Vec<PathBuf> = place
            .entries()
            .into_iter()
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&own))
            .collect();
        assert_eq!(stored.len(), 1);
        if damaged {
            let mut bytes = std::fs::read(&stored[0]).unwrap();
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            std::fs::write(&stored[0], bytes).unwrap();
        }
        let output = place.start(&format!("{line} --resume"), then).ends().remove(0);
        let error = text(&output.stderr);
        let taken =
            |what: &str| error.lines().any(|line| line.ends_with(&format!("taken from the checkpoint: {what}")));
        assert_eq!(taken("eigenpro preconditioner"), !damaged, "{error}");
        assert!(taken("eigenpro diagonals") && taken("eigenpro"), "{error}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(digest(&report), digest(&whole), "damaged: {damaged}, {then:?}");
    }
}

/// Shared centers, two blocks: of three processes one has none. Each stores its blocks, of which any number of processes makes the state, one that has all centers too; and the other way round.
#[test]
fn a_walk_of_shared_centers_goes_on_in_any_number() {
    let line = eager(
        4_400,
        "--centers 4097 --select uniform --kernel laplace --solver eigenpro --iterations 8 --share-centers always --memory 6GiB",
    )
    .replace("--kernel gaussian ", "");
    let whole = undisturbed(&line);
    let three = Size { processes: 3, workers: 1 };
    for (first, then, group) in
        [(TWO, three, "eigenpro shares 000001"), (three, ONE, "eigenpro shares 000001"), (ONE, TWO, "eigenpro")]
    {
        let place = Place::new();
        // Two generations of each process.
        killed_with(&place, &line, first, group, 2 * first.processes);
        let report = place.start(&format!("{line} --resume"), then).report();
        assert_eq!(digest(&report), digest(&whole), "{first:?} then {then:?}");
        assert_eq!(report["resumed_from"], "eigenpro", "{first:?} then {then:?}");
        assert_eq!(number(&report, "/iterations"), number(&whole, "/iterations"));
        assert_eq!(report["certificate"]["residual"], whole["certificate"]["residual"]);
        assert!(place.entries().is_empty(), "{:?}", place.entries());
    }
}

/// One process's part is gone, or damaged: then the generation before, or the beginning; never parts of two.
#[test]
fn shared_centers_of_which_a_part_is_damaged_begin_earlier() {
    let line = eager(
        4_400,
        "--centers 4097 --select uniform --kernel laplace --solver eigenpro --iterations 8 --share-centers always --memory 6GiB",
    )
    .replace("--kernel gaussian ", "");
    let whole = undisturbed(&line);
    let own = blake3_of("eigenpro shares 000001");
    for damaged in [1, 4] {
        let place = Place::new();
        killed_with(&place, &line, TWO, "eigenpro shares 000001", 4);
        let mut states: Vec<PathBuf> = place.entries();
        states.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&own));
        for path in states.iter().rev().take(damaged) {
            let mut bytes = std::fs::read(path).unwrap();
            let at = bytes.len() / 2;
            bytes[at] ^= 64;
            std::fs::write(path, bytes).unwrap();
        }
        let report = place.start(&format!("{line} --resume"), TWO).report();
        assert_eq!(digest(&report), digest(&whole), "{damaged} damaged");
        assert_eq!(report["resumed_from"] == "eigenpro", damaged == 1, "{report}");
    }
}

#[test]
fn logistic_loss_goes_on_within_a_newton_step() {
    let line = eager(80_000, "--centers 200 --select uniform --loss logistic").replace("friedman1", "twoclass");
    let whole = undisturbed(&line);
    let place = Place::new();
    killed_with(&place, &line, ONE, "logistic", 2);
    let report = place.start(&format!("{line} --resume"), TWO).report();
    assert_eq!(digest(&report), digest(&whole));
    assert_eq!(
        report["resumed_from"].as_str().map(|from| from.starts_with("logistic") || from.contains(" blocks")),
        Some(true)
    );
    assert_eq!(number(&report, "/passes"), number(&whole, "/passes"));
    assert!(number(&report, "/kernel_entries") < number(&whole, "/kernel_entries"));
}

#[test]
fn block_coordinate_descent_goes_on_from_its_state() {
    let line = eager(6_000, "--solver blockcd --iterations 4 --tolerance 1e-12");
    let whole = undisturbed(&line);
    let place = Place::new();
    killed_with(&place, &line, ONE, "block coordinate descent", 2);
    let report = place.start(&format!("{line} --resume"), TWO).report();
    assert_eq!(digest(&report), digest(&whole));
    assert_eq!(report["resumed_from"], "block coordinate descent");
    assert!(number(&report, "/kernel_entries") < number(&whole, "/kernel_entries"));
}

#[test]
fn the_nodes_of_a_dictionary_are_not_computed_again() {
    let line = fit(150_000, "--centers 120 --select squeak --solver gram");
    let whole = undisturbed(&line);
    for (first, then) in [(ONE, TWO), (TWO, WIDE)] {
        let place = Place::new();
        killed_with_parts(&place, &line, first, &["profile", "profile ", "sample", "law of the pivots"]);
        let report = place.start(&format!("{line} --resume"), then).report();
        assert_eq!(digest(&report), digest(&whole), "{first:?} then {then:?}");
        assert!(report["resumed_from"].is_string(), "{report}");
    }
}

/// Of a damaged iterate the one before it is used; of all damaged, none.
#[test]
fn damaged_checkpoints_give_way_to_earlier_ones() {
    let line = eager(100_000, "--centers 300 --select uniform --solver pcg --tolerance 1e-12 --iterations 40");
    let whole = undisturbed(&line);
    let own = blake3_of("conjugate gradients");
    for damage in ["newest flipped", "newest cut", "all"] {
        let place = Place::new();
        killed_with(&place, &line, ONE, "conjugate gradients", 2);
        let states: Vec<PathBuf> = place
            .entries()
            .into_iter()
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&own))
            .collect();
        assert_eq!(states.len(), 2);
        let targets = if damage == "all" { place.entries() } else { states[1..].to_vec() };
        for path in targets {
            let mut bytes = std::fs::read(&path).unwrap();
            let at = bytes.len() / 2;
            bytes[at] ^= 64;
            if damage == "newest cut" {
                bytes.truncate(at);
            }
            std::fs::write(&path, bytes).unwrap();
        }
        let mut outputs = place.start(&format!("{line} --resume"), ONE).ends();
        let output = outputs.remove(0);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), whole["stopped"].as_str().map_or(Some(0), |_| Some(3)), "{error}");
        assert!(error.contains("is damaged"), "{damage}: {error}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(digest(&report), digest(&whole), "{damage}");
        let from = report["resumed_from"].as_str().unwrap_or_default();
        assert_eq!(from.starts_with("conjugate gradients"), damage != "all", "{damage}: {from}");
    }
}

#[test]
fn folders_are_of_one_job_and_of_one_at_a_time() {
    let line = eager(100_000, "--centers 300 --select uniform --solver pcg --tolerance 1e-12 --iterations 40");
    let place = Place::new();
    place.fails(
        &line.replace("--checkpoint c", "").replace("--split none", "--resume"),
        2,
        &["--resume", "--checkpoint"],
    );
    // Another job is at it.
    let mut running = place.start(&line, ONE);
    assert!(running.wait(LONGEST, || !place.entries().is_empty()));
    place.fails(&format!("{line} --workers 1"), 2, &["is in use by process", "folder of its own"]);
    running.signal(0, "-9");
    running.ends();
    place.fails(&format!("{line} --workers 1"), 2, &["holds a checkpoint of this job", "--resume"]);
    for resume in ["", " --resume"] {
        let other = line.replace("--ridge 1e-6", "--ridge 1e-5");
        place.fails(
            &format!("{other} --workers 1{resume}"),
            2,
            &["of another job", "this job's", "--ridge or --metric differ"],
        );
    }
    // A file in its place, and one that nobody may write.
    std::fs::write(place.path("file"), "x").unwrap();
    place.fails(
        &format!("{} --workers 1", line.replace("--checkpoint c", "--checkpoint file")),
        1,
        &["cannot keep checkpoints in file"],
    );
    place.fails(
        &format!("{} --workers 1", line.replace("--checkpoint c", "--checkpoint /proc/none")),
        1,
        &["cannot keep checkpoints in /proc/none"],
    );
    // Nothing to resume.
    let output = place.run(&format!(
        "{} --workers 1 --resume --centers 50 --iterations 3",
        fit(3_000, "--select uniform --solver pcg").replace("--checkpoint c", "--checkpoint new")
    ));
    assert!(text(&output.stderr).contains("nothing to resume in new"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_dir(place.path("new")).unwrap().count(), 0);
}

/// What was found of data that must be mended is of no use afterwards: nothing of it keeps the next fit from the folder.
#[test]
fn data_that_is_refused_leaves_no_checkpoint() {
    let place = Place::new();
    let line = "fit --data d.parquet --target y --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 20 --checkpoint c \
                --checkpoint-every 0";
    let mut bad = table(0, 20_000);
    bad[0].1 = numbers((0..20_000).map(|i| if i == 7 { f64::INFINITY } else { uniform("a", i) }));
    for (data, good) in [(bad, false), (table(0, 20_000), true)] {
        write(&place.path("d.parquet"), &batch(data));
        let output = place.run(line);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(!good)), "{error}");
        assert!(good || error.contains("1 bad rows"), "{error}");
        assert_eq!(std::fs::read_dir(place.path("c")).unwrap().count(), 0);
    }
}

/// A job that the plan refuses is mended by what makes another job of it: nothing of the refused one keeps that from the folder.
#[test]
fn a_job_that_is_refused_leaves_no_checkpoint() {
    let place = Place::new();
    // 400 classes, of which the footers do not tell.
    let mut rows = table(0, 20_000);
    rows[3].1 = texts((0..20_000).map(|i| format!("class {}", i % 400)));
    write(&place.path("d.parquet"), &batch(rows));
    let line = |more: &str| {
        format!(
            "fit --data d.parquet --target y --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 600 --select uniform \
             --split none --workers 1 --checkpoint c --checkpoint-every 0 --max-flops 1e18 {more}"
        )
    };
    let refused = |more: &str, code: i32, part: &str| {
        let output = place.run(&line(more));
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains("profile: ") && error.contains(part), "after the profile: {error}");
        assert_eq!(std::fs::read_dir(place.path("c")).unwrap().count(), 0, "{error}");
    };
    refused("--solver pcg --memory 150MiB", 4, "--memory allows 150.0 MiB");
    refused("--solver gram --variance", 2, "have no predictive variance");
    let output = place.run(&line("--solver pcg --iterations 1"));
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_dir(place.path("c")).unwrap().count(), 0);
}

/// Processes that see different folders are told so.
#[test]
fn processes_share_one_folder() {
    let place = Place::new();
    let line = fit(3_000, "--centers 50 --select uniform --solver gram --workers 1");
    let lines = [line.clone(), line.replace("--checkpoint c", "--checkpoint d")];
    for output in place.processes(&lines) {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("file system that all processes share"), "{error}");
    }
}

/// A limit on the size of files stands for a disk that fills up.
#[test]
fn a_disk_that_fills_up_is_told_once_and_the_fit_goes_on() {
    let options = "--centers 900 --select uniform --solver gram";
    let whole = undisturbed(&fit(120_000, options));
    let place = Place::new();
    let line = format!(
        "{} --workers 1 --format json",
        fit(120_000, options).replace("synth:", "'synth:").replace("seed=5", "seed=5'")
    );
    // The Gram is larger than the limit, the model is not.
    let script = format!("ulimit -f 500; exec {} {line}", env!("CARGO_BIN_EXE_nystream"));
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(place.path(".")).stdin(Stdio::null());
    let output = finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), &line);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert_eq!(error.matches("a checkpoint cannot be written").count(), 1, "{error}");
    assert!(error.contains("The job goes on"), "{error}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(digest(&report), digest(&whole));
    assert!(report["checkpoints"]["failed"].is_string(), "{report}");
}

/// An interrupt waits for a checkpoint, which is resumed.
#[test]
fn an_interrupt_writes_a_checkpoint() {
    let line = fit(400_000, "--centers 600 --select uniform --solver gram")
        .replace("--checkpoint-every 0.02s", "--checkpoint-every 1h");
    let whole = undisturbed(&line);
    let place = Place::new();
    let mut running = place.start(&line, ONE);
    // In the middle of the Gram, more or less.
    let middle =
        number(&whole, "/seconds/profile") + number(&whole, "/seconds/sample") + 0.5 * number(&whole, "/seconds/gram");
    assert!(running.wait(Duration::from_secs_f64(middle + 0.3), || false), "the fit ended too soon");
    running.signal(0, "-INT");
    let output = running.ends().remove(0);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(
        error.contains("interrupted: nothing was written; checkpoint written") && error.contains("--resume"),
        "{error}"
    );
    assert!(!place.entries().is_empty());
    let report = place.start(&format!("{line} --resume"), TWO).report();
    assert_eq!(digest(&report), digest(&whole));
    assert!(report["resumed_from"].as_str().is_some_and(|from| from.starts_with("gram: ")), "{report}");
}

/// Processes that are interrupted together each write what they have, though one is done with it before the other.
#[test]
fn an_interrupt_of_all_processes_writes_what_each_has() {
    let line = fit(400_000, "--centers 600 --select uniform --solver gram")
        .replace("--checkpoint-every 0.02s", "--checkpoint-every 1h");
    let whole = undisturbed(&line);
    let place = Place::new();
    let mut running = place.start(&line, TWO);
    let middle =
        number(&whole, "/seconds/profile") + number(&whole, "/seconds/sample") + 0.5 * number(&whole, "/seconds/gram");
    assert!(running.wait(Duration::from_secs_f64(middle + 0.3), || false), "the fit ended too soon");
    running.signal(0, "-INT");
    running.signal(1, "-INT");
    for output in running.ends() {
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(130) && error.contains("checkpoint written"), "{error}");
    }
    // The profile, the sample and the centers may be there too.
    let values: Vec<String> = VALUES.iter().map(|group| blake3_of(group)).collect();
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let parts = place.entries().iter().filter(|path| !values.iter().any(|own| name(path).starts_with(own))).count();
    assert_eq!(parts, 2, "{:?}", place.entries());
    let report = place.start(&format!("{line} --resume"), WIDE).report();
    assert_eq!(digest(&report), digest(&whole));
}

/// What is left when a process is lost is named beside it.
#[test]
fn the_loss_of_a_process_names_the_last_checkpoint() {
    let line = eager(100_000, "--centers 300 --select uniform --solver pcg --tolerance 1e-12 --iterations 40");
    let place = Place::new();
    let mut running = place.start(&line, TWO);
    assert!(running.wait(LONGEST, || !place.entries().is_empty()), "nothing was stored");
    running.signal(1, "-9");
    let output = running.ends().remove(0);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{error}");
    assert!(error.contains("process 1") && error.contains("the last checkpoint in c is"), "{error}");
    assert!(error.contains("--resume goes on from there"), "{error}");
}

/// Files of each host (`--data-layout local`): parts and values serve any processes that have the files together; other files are refused.
#[test]
fn a_job_over_files_of_hosts_goes_on() {
    let place = Place::new();
    let made = place.run("datasets make synth:friedman1?rows=520000&d=8&seed=5 --files 4 --out all");
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let hold = |file: usize, hosts: &[&str]| {
        for host in hosts {
            std::fs::create_dir_all(place.path(host)).unwrap();
            let name = format!("part-{file:05}.parquet");
            std::fs::copy(place.path("all").join(&name), place.path(host).join(&name)).unwrap();
        }
    };
    [&["h0", "few"][..], &["h1"], &["h0", "h1"], &["h2"]]
        .iter()
        .enumerate()
        .for_each(|(file, hosts)| hold(file, hosts));
    let line = |host: &str| {
        format!(
            "fit --data {host} --data-layout local --target y --out m.nys --kernel gaussian --bandwidth 1x --ridge 1e-6 --split none --checkpoint c \
             --checkpoint-every 0.02s --max-flops 1e18 --centers 600 --select uniform --solver gram"
        )
    };
    let lines = |hosts: &[&str], more: &str| hosts.iter().map(|host| line(host) + more).collect::<Vec<_>>();
    let other =
        line("all").replace(" --checkpoint c", "").replace(" --checkpoint-every 0.02s", "").replace("m.nys", "one.nys");
    let whole = place.start(&other.replace(" --data-layout local", ""), ONE).report();
    let known: Vec<String> = VALUES.iter().chain(&["data"]).map(|group| blake3_of(group)).collect();
    let kill = |hosts: &[&str]| {
        let mut running = place.start_each(&lines(hosts, ""), 1);
        let parts = || {
            let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            place.entries().iter().filter(|path| !known.iter().any(|own| name(path).starts_with(own))).count()
        };
        assert!(running.wait(LONGEST, || parts() >= hosts.len()), "the gram ended before its parts were stored");
        running.signal(hosts.len() - 1, "-9");
        running.ends();
    };
    for (first, then, workers) in [
        (&["h0", "h1", "h2"][..], &["all"][..], 3),
        (&["all"], &["h2", "h1", "h0"], 1),
        (&["h0", "h1", "h2"], &["h0", "h1", "h2"], 2),
    ] {
        kill(first);
        // A host that has other files, or one too few: nothing is mixed, and what is there stays.
        for output in place.start_each(&lines(&["few", "h1"], " --resume"), 1).ends() {
            let error = text(&output.stderr);
            assert!(output.status.code() == Some(2) && error.contains("is of other data"), "{error}");
        }
        let report = place.start_each(&lines(then, " --resume"), workers).report();
        assert_eq!(digest(&report), digest(&whole), "{first:?} then {then:?}");
        let from = report["resumed_from"].as_str().unwrap_or_else(|| panic!("{report}"));
        assert!(from.starts_with("gram: ") && from.ends_with(" blocks"), "{from}");
        assert!(number(&report, "/kernel_entries") < number(&whole, "/kernel_entries"));
        assert!(place.entries().is_empty(), "{:?}", place.entries());
        std::fs::remove_file(place.path("m.nys")).unwrap();
    }
}
