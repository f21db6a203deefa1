//! `cluster run`: several processes as one command, here and behind an `ssh` that is a script.

// Processes are looked up in /proc.
#![cfg(target_os = "linux")]

mod common;

use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FIT: &str =
    "fit --data d.parquet --target y --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 50 --workers 1";
/// A fit that no test waits for.
const LONG: &str = "fit --data synth:friedman1?rows=300000000&d=10&seed=1 --target y --kernel gaussian --bandwidth 1x \
                    --ridge 1e-5 --centers 1000 --select uniform --workers 1 --max-flops 1e18 --out m.nys";

fn place() -> Place {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, 20_000)));
    place
}

/// An executable script.
fn script(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Processes of this machine that run the program in the folder of `place`, by the index that they were given.
fn processes(place: &Place) -> BTreeMap<usize, i32> {
    let folder = place.path("").canonicalize().unwrap();
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let here = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == folder);
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> = line.split(|byte| *byte == 0).map(text).collect();
        let index = words.iter().position(|word| word == "--process").and_then(|at| words.get(at + 1)?.parse().ok());
        if let Some(index) = index.filter(|_| here && words[0].ends_with("nystream")) {
            found.insert(index, pid);
        }
    }
    found
}

fn wait_for(what: &str, mut at_last: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(120);
    while !at_last() {
        assert!(Instant::now() < until, "{what}: not within two minutes");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until all processes of a long fit have joined: process 0 has begun to count rows, or all are there and some time has passed.
fn joined(place: &Place, count: usize) -> BTreeMap<usize, i32> {
    wait_for("processes", || processes(place).len() == count);
    // Whether they have joined by now or not: either must end well.
    std::thread::sleep(Duration::from_secs(2));
    let running = processes(place);
    assert_eq!(running.len(), count, "the job ended too soon");
    running
}

#[test]
fn several_processes_fit_the_model_of_one_and_print_once() {
    let place = place();
    let one = place.json(&format!("{FIT} --out one.nys"));
    let three = place.run(&format!("cluster run --processes 3 -- {FIT} --out three.nys --format json"));
    let log = text(&three.stderr);
    assert_eq!(three.status.code(), Some(0), "{log}");
    // Standard output is one document, whole.
    let report: serde_json::Value =
        serde_json::from_slice(&three.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&three.stdout)));
    assert_eq!(digest(&report), digest(&one));
    // Every line has the prefix of its process, and progress is that of the first.
    assert!(log.lines().all(|line| line.starts_with("[0 127.0.0.1:")), "{log}");
    assert!(log.lines().any(|line| line.contains("] profile: ") && line.contains("rows of this process in")), "{log}");
    // With a host file, and another command.
    std::fs::write(
        place.path("hosts"),
        nystream_cluster::launch::loopback(2).unwrap().iter().map(|line| format!("{line}\n")).collect::<String>(),
    )
    .unwrap();
    let line =
        "cluster run --hosts hosts --launcher local --quiet -- evaluate --model three.nys --data d.parquet --workers 1";
    let (many, alone) = (place.run(line), place.run("evaluate --model three.nys --data d.parquet"));
    assert_eq!((many.status.code(), text(&many.stderr).as_str()), (Some(0), ""));
    let errors = |output: &[u8]| {
        text(output).lines().filter(|line| line.contains("rmse")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(!errors(&alone.stdout).is_empty(), "{}", text(&alone.stdout));
    assert_eq!(errors(&many.stdout), errors(&alone.stdout));
}

#[test]
fn options_before_the_command_reach_every_process() {
    let place = place();
    let output = place.run(&format!("--format json cluster run --no-progress --processes 2 -- {FIT} --out m.nys"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok(), "{}", text(&output.stdout));
    assert!(!text(&output.stderr).contains("profile"), "{}", text(&output.stderr));
}

#[test]
fn the_exit_code_is_that_of_the_cause() {
    let place = place();
    // Over the budget: every process knows. A file that is absent: one line says which process, its own says what.
    for (line, code, part) in [
        (format!("{FIT} --out m.nys --memory 20MiB"), 4, "ended with code 4"),
        (FIT.replace("d.parquet", "absent.parquet") + " --out m.nys", 1, "ended with code 1"),
        (format!("{FIT} --out m.nys --max-flops 1000"), 4, "ended with code 4"),
    ] {
        let output = place.run(&format!("cluster run --processes 2 --restarts 3 -- {line}"));
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{log}");
        assert!(output.stdout.is_empty() && log.lines().last().unwrap().starts_with("error: process "), "{log}");
        assert!(log.contains(part) && log.contains("] error: ") && !log.contains("restart"), "{log}");
        assert!(!place.path("m.nys").exists());
    }
    let stopped = place.run(&format!("cluster run --processes 2 -- {FIT} --out m.nys --solver pcg --iterations 1"));
    assert_eq!(stopped.status.code(), Some(3), "{}", text(&stopped.stderr));
    assert!(place.path("m.nys").exists() && !stopped.stdout.is_empty());
}

#[test]
fn wrong_lines_start_nothing() {
    let place = place();
    std::fs::write(place.path("hosts"), "a:1\na:1\n").unwrap();
    std::fs::write(place.path("good"), "a:1\n").unwrap();
    std::fs::write(place.path("open"), "a secret that everybody can read\n").unwrap();
    for (line, part) in [
        ("cluster run -- fit --data d --target y --out m", "--hosts"),
        ("cluster run --processes 2", "COMMAND"),
        ("cluster run --processes 257 -- fit --data d --target y --out m", "more than 256 processes"),
        ("cluster run --processes 100000 -- fit --data d --target y --out m", "more than 256 processes"),
        ("cluster run --processes 2 --hosts good -- fit", "--hosts"),
        ("cluster run --processes 2 -- fit --dta d", "--dta"),
        ("cluster run --processes 2 -- inspect d.parquet", "`inspect` does not run in several processes"),
        ("cluster run --processes 2 -- cluster run --processes 2 -- fit", "does not run in several processes"),
        (
            "cluster run --processes 2 -- online --mode exact --config-from m.nys --state s --input jsonl:-",
            "no standard input",
        ),
        ("cluster run --processes 2 -- fit --data d --target y --out m --process 1", "--process after `--`"),
        ("cluster run --processes 2 --launcher ssh -- fit --data d --target y --out m", "--hosts FILE"),
        ("cluster run --processes 2 --ssh-option A=b -- fit --data d --target y --out m", "--ssh-option"),
        ("cluster run --hosts hosts -- fit --data d --target y --out m", "twice (line 2)"),
        ("cluster run --hosts absent -- fit --data d --target y --out m", "absent"),
        ("cluster run --hosts good --secret-file absent -- fit --data d --target y --out m", "secret file absent"),
        ("cluster run --hosts good --secret-file open -- fit --data d --target y --out m", "chmod 600 open"),
    ] {
        place.fails(line, 2, &[part]);
    }
    let help = place.run("cluster run --processes 2 -- fit --help");
    assert!(help.status.success() && text(&help.stdout).contains("--bandwidth"));
}

/// kill -9 of one process ends the job with code 5 and its name; nothing runs on, nothing is written.
#[test]
fn a_killed_process_ends_the_job() {
    let place = place();
    for victim in [0, 1] {
        let child = place.command(&format!("cluster run --processes 3 -- {LONG}")).spawn().unwrap();
        let running = joined(&place, 3);
        kill(Pid::from_raw(running[&victim]), Signal::SIGKILL).unwrap();
        let begun = Instant::now();
        let output = finish(child, LONG);
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{log}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        let last = log.lines().last().unwrap();
        assert!(
            last.starts_with(&format!("error: process {victim} (127.0.0.1:")) && last.contains("signal 9 (SIGKILL)"),
            "{log}"
        );
        assert!(output.stdout.is_empty());
        assert!(processes(&place).is_empty() && !place.path("m.nys").exists(), "{:?}", place.names());
    }
}

/// A process that is stopped says nothing: the others do, and the last line names it, not the one that noticed first.
#[test]
fn a_stopped_process_is_named_by_the_launcher() {
    let place = place();
    let child = place.command(&format!("cluster run --processes 3 -- {LONG} --peer-timeout 3s")).spawn().unwrap();
    let running = joined(&place, 3);
    kill(Pid::from_raw(running[&1]), Signal::SIGSTOP).unwrap();
    let output = finish(child, LONG);
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("error: process 1 (127.0.0.1:") && last.contains("was lost"), "{log}");
    assert!(processes(&place).is_empty());
}

#[test]
fn an_interrupt_ends_every_process_with_130() {
    let place = place();
    let before = place.names();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let child = place.command(&format!("cluster run --processes 2 --restarts 9 -- {LONG}")).spawn().unwrap();
        joined(&place, 2);
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let output = finish(child, LONG);
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{log}");
        assert!(
            log.contains("interrupted: stopping 2 processes")
                && log.ends_with("interrupted: every process was stopped\n"),
            "{log}"
        );
        assert!(log.contains("] interrupted: nothing was written"), "the processes ended by themselves: {log}");
        assert!(processes(&place).is_empty());
        assert_eq!(place.names(), before);
    }
}

/// Nobody is left to tell the processes but the end of their shells' input.
#[test]
fn a_killed_launcher_leaves_no_process() {
    let place = place();
    let before = place.names();
    let mut command = place.command(&format!("cluster run --processes 2 -- {LONG}"));
    let mut child = command.env("TMPDIR", place.path("")).spawn().unwrap();
    joined(&place, 2);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("orphans", || processes(&place).is_empty());
    wait_for("temporary host files", || place.names() == before);
}

/// A program that is killed in its first attempt, when its process is the second, and runs nystream afterwards.
fn mortal(place: &Place) -> PathBuf {
    let program = place.path("mortal");
    let nystream = env!("CARGO_BIN_EXE_nystream");
    script(
        &program,
        &format!(
            "#!/bin/sh\ncase \"$*\" in *--process\\ 1*) if mkdir died 2>/dev/null; then kill -9 $$; fi;; esac\nexec '{nystream}' \"$@\"\n"
        ),
    );
    program
}

#[test]
fn a_lost_process_restarts_the_job() {
    let place = place();
    let one = place.json(&format!("{FIT} --out one.nys"));
    let program = mortal(&place);
    let line = |restarts: u32| {
        format!(
            "cluster run --processes 2 --restarts {restarts} --remote-program {} -- {FIT} --format json --out m.nys",
            program.display()
        )
    };
    let output = place.run(&line(0));
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    std::fs::remove_dir(place.path("died")).unwrap();
    let output = place.run(&line(2));
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(
        log.lines().any(|line| line.starts_with("[cluster] process 1 (") && line.contains("restart 1 of 2")),
        "{log}"
    );
    // Nothing of the lost attempt is in the result.
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(digest(&report), digest(&one));
}

/// With checkpoints the next attempt goes on from them.
#[test]
fn a_lost_process_resumes_the_job() {
    let place = place();
    let line = "fit --data synth:friedman1?rows=300000&d=8&seed=5 --target y --kernel gaussian --bandwidth 1x --ridge 1e-6 --split none --workers 1 \
                --centers 500 --select uniform --solver gram --max-flops 1e18 --out m.nys";
    let one = place.json(&line.replace("m.nys", "one.nys"));
    let command = format!(
        "cluster run --processes 2 --restarts 3 -- {line} --checkpoint c --checkpoint-every 0.02s --format json"
    );
    let child = place.command(&command).spawn().unwrap();
    // What names the job, and some more.
    let entries = || std::fs::read_dir(place.path("c")).map_or(0, |entries| entries.count());
    wait_for("checkpoints", || entries() > 4);
    let victim = *processes(&place).get(&1).unwrap();
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    let output = finish(child, &command);
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("restart 1 of 3"), "{log}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(digest(&report), digest(&one));
    assert!(report["resumed_from"].is_string(), "{report}");
    assert_eq!(entries(), 0);
}

/// A fake ssh on the PATH that runs on this machine what it is given, with another environment and in another folder, as a login elsewhere does.
fn fake_ssh(place: &Place) -> String {
    std::fs::create_dir(place.path("bin")).unwrap();
    let home = place.path("home");
    std::fs::create_dir(&home).unwrap();
    script(
        &place.path("bin/ssh"),
        &format!(
            "#!/bin/sh\nprintf '%s\\n' \"$*\" >>'{}'\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\ncd '{}'\nexec env -i PATH=\"$PATH\" HOME='{1}' /bin/sh -c \"$*\"\n",
            place.path("asked").display(),
            home.display()
        ),
    );
    format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap())
}

#[test]
fn arguments_and_secrets_pass_through_ssh_as_they_are() {
    let place = place();
    let path = fake_ssh(&place);
    // What stands in for the program writes down all it is given.
    script(
        &place.path("bin/nystream"),
        "#!/bin/sh\nfor last; do :; done\nprintf '%s\\0' \"$@\" >\"words.$last\"\nprintf '%s|%s|%s' \"$NYSTREAM_SECRET\" \"${NYSTREAM_SECRET_FILE-none}\" \"$NYSTREAM_MEMORY\" >\"variables.$last\"\necho out $last\necho log $last >&2\n",
    );
    std::fs::write(place.path("hosts"), "# two\nalpha:4100\nbeta:4101\n").unwrap();
    std::fs::write(place.path("secret"), "swordfish and 'chips' $HOME\n").unwrap();
    std::fs::set_permissions(place.path("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let odd = ["it's a \"file\" with $HOME `id`.parquet", "line\nbreak\\n", "ünï→ *?[a] ; & | # ~", " "];
    let mut command =
        place.command("cluster run --hosts hosts --secret-file secret --ssh-option User=me -- fit --target y --out m");
    command.args(odd.iter().flat_map(|word| ["--data", word]));
    command.env("PATH", path).env("NYSTREAM_MEMORY", "3GiB");
    let output = finish(command.spawn().unwrap(), "ssh");
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert_eq!(text(&output.stdout), "out 0\n");
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort();
    assert_eq!(lines, ["[0 alpha:4100] log 0", "[1 beta:4101] log 1", "[1 beta:4101] out 1"]);
    for process in ["0", "1"] {
        let words = std::fs::read_to_string(place.path(&format!("words.{process}"))).unwrap();
        let words: Vec<&str> = words.trim_end_matches('\0').split('\0').collect();
        let mut wanted = vec!["fit", "--target", "y", "--out", "m"];
        odd.iter().for_each(|word| wanted.extend(["--data", word]));
        assert_eq!(words[..wanted.len()], wanted);
        assert_eq!(words[wanted.len()], "--hosts");
        assert_eq!(words[wanted.len() + 2..], ["--process", process]);
        assert!(!Path::new(words[wanted.len() + 1]).exists(), "the copy of the host file was left");
        let variables = std::fs::read_to_string(place.path(&format!("variables.{process}"))).unwrap();
        assert_eq!(variables, "swordfish and 'chips' $HOME|none|3GiB");
    }
    let asked = std::fs::read_to_string(place.path("asked")).unwrap();
    assert_eq!(asked.lines().filter(|line| line.starts_with("-T -o User=me -o BatchMode=yes")).count(), 2, "{asked}");
    assert!(!asked.contains("swordfish") && !log.contains("swordfish"));
}

/// The whole way: two real processes behind the fake ssh, which talk over loopback.
#[test]
fn a_fit_behind_ssh_is_the_fit_of_one_process() {
    let place = place();
    let one = place.json(&format!("{FIT} --out one.nys"));
    let path = fake_ssh(&place);
    let lines: String = nystream_cluster::launch::loopback(2).unwrap().iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(place.path("hosts"), lines).unwrap();
    let program = env!("CARGO_BIN_EXE_nystream");
    let line = format!("cluster run --hosts hosts --remote-program {program} -- {FIT} --out m.nys --format json");
    let mut command = place.command(&line);
    let output = finish(command.env("PATH", path).spawn().unwrap(), &line);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(digest(&report), digest(&one));
    // A program that is not there is one message that says how to name it.
    let line = line.replace(program, "/no/such/nystream");
    let mut command = place.command(&line);
    let output = finish(
        command
            .env("PATH", format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap()))
            .spawn()
            .unwrap(),
        &line,
    );
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{log}");
    assert!(log.lines().last().unwrap().contains("--remote-program"), "{log}");
}

/// A process that is stopped for most of the time gives blocks to the other, which stands in the report; the model is the same.
#[test]
fn a_slow_process_gives_up_blocks() {
    let place = Place::new();
    let line = "fit --data synth:friedman1?rows=600000&d=8&seed=3 --target y --kernel gaussian --bandwidth 1x --ridge 1e-6 --centers 300 --select uniform \
                --solver gram --split none --workers 1 --max-flops 1e18 --format json";
    let one = place.run(&format!("{line} --out one.nys"));
    assert_eq!(one.status.code(), Some(0), "{}", text(&one.stderr));
    let one: serde_json::Value = serde_json::from_slice(&one.stdout).unwrap();
    let mut job =
        place.command(&format!("cluster run --processes 2 --launcher local -- {line} --out two.nys")).spawn().unwrap();
    wait_for("processes", || processes(&place).len() == 2 || job.try_wait().unwrap().is_some());
    let until = Instant::now() + Duration::from_secs(120);
    while job.try_wait().unwrap().is_none() && Instant::now() < until {
        // It may have ended in between.
        let Some(pid) = processes(&place).get(&1).map(|pid| Pid::from_raw(*pid)) else { break };
        let _ = kill(pid, Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(120));
        let _ = kill(pid, Signal::SIGCONT);
        std::thread::sleep(Duration::from_millis(30));
    }
    let two = finish(job, line);
    assert_eq!(two.status.code(), Some(0), "{}", text(&two.stderr));
    let two: serde_json::Value = serde_json::from_slice(&two.stdout).unwrap();
    assert_eq!(digest(&two), digest(&one));
    let table = two["per_process"].as_array().unwrap();
    let moved = |name: &str| table.iter().map(|process| process[name].as_u64().unwrap()).collect::<Vec<_>>();
    let (taken, given) = (moved("blocks_taken"), moved("blocks_given"));
    assert!(taken[0] > 0 && taken[0] + taken[1] == given[0] + given[1], "{taken:?} {given:?}");
}
