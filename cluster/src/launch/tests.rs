//! Jobs of small shell scripts, here and behind an `ssh` that is one too.

use super::*;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A log that is kept.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Kept {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// A folder for a job of shell scripts, and what was said of it.
struct Place {
    folder: tempfile::TempDir,
    log: Kept,
    said: Mutex<Vec<String>>,
    interrupts: AtomicUsize,
}

impl Place {
    fn new() -> Self {
        Place {
            folder: tempfile::tempdir().unwrap(),
            log: Kept::default(),
            said: Mutex::default(),
            interrupts: AtomicUsize::new(0),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A job whose processes run `program`, to which `$process` is the index, `$hosts` the host file and `$again` an argument of later attempts.
    fn job(&self, launcher: Launcher, places: Places, program: &str) -> Job {
        let parse = r#"again=; while [ $# -gt 0 ]; do case $1 in --hosts) hosts=$2; shift;; --process) process=$2; shift;; *) again=$1;; esac; shift; done"#;
        let whole = format!("{parse}\n{program}");
        let launch = Launch {
            launcher,
            folder: self.folder.path().to_owned(),
            command: ["/bin/sh", "-c", &whole, "job"].map(Into::into).into(),
            // A shell that is killed leaves its copy of the host file where these say.
            variables: vec![
                Variable::new("NYSTREAM_SECRET", "sword'fish").unwrap(),
                Variable::new("TMPDIR", self.folder.path()).unwrap(),
            ],
            others: vec![Variable::new("QUIET", "1").unwrap()],
            log: Log::new(self.log.clone()),
            times: Times {
                settle: Duration::from_millis(300),
                grace: Duration::from_secs(1),
                backoff: Duration::from_millis(10),
            },
        };
        Job { launch, places, restarts: 0, spread: false, again: vec!["--resume".into()] }
    }

    fn supervise(&self, job: &mut Job) -> Verdict {
        supervise(job, &self.interrupts, &|line| self.said.lock().unwrap().push(line.to_owned())).unwrap()
    }

    fn run(&self, processes: usize, program: &str) -> Verdict {
        self.supervise(&mut self.job(Launcher::Local, Places::Loopback(processes), program))
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// Lines of a file that the scripts appended to, sorted.
    fn lines(&self, name: &str) -> Vec<String> {
        let mut lines: Vec<String> =
            std::fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// An `ssh` that runs what it is given in a shell of this machine, whatever the host; hosts that are named in the file `away` do not answer.
    fn fake_ssh(&self) -> (Launcher, PathBuf) {
        let script = r#"#!/bin/sh
printf '%s\n' "$*" >>"${0%/*}/asked"
while [ "$1" != -- ]; do shift; done
host=$2
if grep -qx "$host" "${0%/*}/away" 2>/dev/null; then echo "ssh: connect to host $host: No route to host" >&2; exit 255; fi
shift 2
exec /bin/bash -c "$*"
"#;
        let path = self.path("ssh");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (Launcher::Ssh { program: path.clone(), options: vec!["Port=2222".into()] }, path)
    }

    fn hosts(&self, lines: &[&str]) -> Places {
        let path = self.path("hosts");
        std::fs::write(&path, lines.join("\n")).unwrap();
        Places::File { lines: read_hosts(&path).unwrap(), path }
    }
}

/// Whether a process of this machine is alive, not only waited for.
fn alive(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or("").starts_with('Z'))
}

fn wait_for(what: &str, mut true_at_last: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !true_at_last() {
        assert!(Instant::now() < until, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_process_has_its_index_its_hosts_and_its_variables() {
    let place = Place::new();
    let verdict = place.run(
        3,
        r#"echo "$process $NYSTREAM_SECRET ${QUIET-loud} $(wc -l <"$hosts") $(pwd)" >>seen; echo "log $process" >&2"#,
    );
    assert_eq!((verdict.code, verdict.message.as_str()), (0, ""));
    let folder = place.folder.path().canonicalize().unwrap();
    let folder = folder.display();
    let wanted = [
        format!("0 sword'fish loud 3 {folder}"),
        format!("1 sword'fish 1 3 {folder}"),
        format!("2 sword'fish 1 3 {folder}"),
    ];
    assert_eq!(place.lines("seen"), wanted);
    let log = place.log.text();
    for process in 0..3 {
        let line = |line: &&str| {
            line.starts_with(&format!("[{process} 127.0.0.1:")) && line.ends_with(&format!("] log {process}"))
        };
        assert_eq!(log.lines().filter(line).count(), 1, "{log}");
    }
    assert_eq!(log.lines().count(), 3, "{log}");
    assert_eq!(place.said(), "");
}

/// What the others print is for people.
#[test]
fn only_the_first_process_prints() {
    let place = Place::new();
    assert_eq!(place.run(2, r#"[ "$process" = 0 ] || echo "not a result""#).code, 0);
    assert!(
        place.log.text().starts_with("[1 127.0.0.1:") && place.log.text().ends_with("] not a result\n"),
        "{}",
        place.log.text()
    );
}

#[test]
fn a_failure_stops_what_does_not_end_by_itself() {
    let place = Place::new();
    // One goes when it is asked, one when it is killed, with its own child in both cases.
    let program = r#"case $process in
        0) sleep 600 & echo $! >>pids; echo $$ >>pids; wait;;
        1) trap '' TERM; sh -c 'trap "" TERM; echo $$ >>pids; while :; do sleep 1; done' & echo $$ >>pids; while :; do sleep 1; done;;
        2) while [ "$(wc -l <pids)" != 4 ]; do sleep 0.05; done; exit 4;; esac"#;
    let begun = Instant::now();
    let verdict = place.run(3, program);
    assert_eq!(verdict.code, 4, "{verdict:?}");
    assert!(verdict.message.starts_with("process 2 (127.0.0.1:") && !verdict.lost, "{verdict:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let pids = place.lines("pids");
    assert_eq!(pids.len(), 4);
    wait_for("orphans", || !pids.iter().any(|pid| alive(pid)));
    assert!(place.said().contains("ended with code 4\nstopping the other processes (2)"), "{}", place.said());
}

#[test]
fn a_killed_process_is_the_cause_whoever_tells_first() {
    let place = Place::new();
    let program =
        r#"if [ "$process" = 1 ]; then touch there; kill -9 $$; fi; until [ -e there ]; do sleep 0.02; done; exit 5"#;
    let verdict = place.run(2, program);
    assert_eq!((verdict.code, verdict.lost), (5, true));
    assert!(verdict.message.contains("process 1") && verdict.message.contains("SIGKILL"), "{verdict:?}");
}

/// The whole group of a shell, killed as by an impatient operator: its program is not left alone.
#[test]
fn a_killed_shell_leaves_no_program() {
    let place = Place::new();
    let verdict = place.run(1, "echo $$ >>pids; sh -c 'echo $$ >>pids; exec sleep 600' & while [ \"$(wc -l <pids)\" != 2 ]; do sleep 0.05; done; kill -9 $PPID; wait");
    assert_eq!((verdict.code, verdict.lost), (5, true));
    let pids = place.lines("pids");
    wait_for("orphans", || !pids.iter().any(|pid| alive(pid)));
}

#[test]
fn an_interrupt_ends_everything_with_130_and_a_second_one_at_once() {
    for second in [false, true] {
        let place = Place::new();
        let mut job =
            place.job(Launcher::Local, Places::Loopback(2), "trap '' TERM; echo $$ >>pids; while :; do sleep 1; done");
        job.launch.times.grace = Duration::from_secs(if second { 3600 } else { 1 });
        job.restarts = 5;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                wait_for("start", || place.lines("pids").len() == 2);
                place.interrupts.fetch_add(1, Ordering::SeqCst);
                if second {
                    wait_for("stop", || place.said().contains("interrupted: stopping 2"));
                    place.interrupts.fetch_add(1, Ordering::SeqCst);
                }
            });
            let verdict = place.supervise(&mut job);
            assert_eq!((verdict.code, verdict.lost), (130, false), "{verdict:?}");
        });
        let pids = place.lines("pids");
        assert_eq!(pids.len(), 2, "it was restarted");
        wait_for("orphans", || !pids.iter().any(|pid| alive(pid)));
    }
}

#[test]
fn ssh_is_told_nothing_but_where_to_go() {
    let place = Place::new();
    let (launcher, _) = place.fake_ssh();
    let places = place.hosts(&["alpha:4100", "[fe80::1]:4101"]);
    let mut job = place.job(launcher, places, r#"echo "$process $NYSTREAM_SECRET $(printf %s "$odd" | tr '\n' /) $(paste -s "$hosts")" >>seen; [ "$process" = 1 ] || echo "$hosts" >copy"#);
    job.launch.variables.push(Variable::new("odd", "a\nb").unwrap());
    let verdict = place.supervise(&mut job);
    assert_eq!(verdict.code, 0, "{verdict:?} {}", place.log.text());
    assert_eq!(
        place.lines("seen"),
        ["0 sword'fish a/b alpha:4100\t[fe80::1]:4101", "1 sword'fish a/b alpha:4100\t[fe80::1]:4101"]
    );
    let copy = std::fs::read_to_string(place.path("copy")).unwrap();
    assert!(!Path::new(copy.trim()).exists(), "{copy} was left");
    let asked = place.lines("asked");
    assert_eq!(asked.len(), 2);
    for (line, host) in asked.iter().zip(["alpha", "fe80::1"]) {
        assert!(line.starts_with("-T -o Port=2222 -o BatchMode=yes"), "{line}");
        assert!(line.contains(&format!(" -- {host} exec /bin/sh")) && !line.contains("fish"), "{line}");
    }
}

#[test]
fn a_host_that_does_not_answer_is_a_lost_process() {
    let place = Place::new();
    let (launcher, _) = place.fake_ssh();
    std::fs::write(place.path("away"), "beta\n").unwrap();
    let places = place.hosts(&["alpha:1", "beta:2"]);
    let verdict = place.supervise(&mut place.job(launcher, places, "exec sleep 600"));
    assert_eq!((verdict.code, verdict.lost), (5, true));
    assert!(verdict.message.starts_with("process 1 (beta:2) was lost: ssh"), "{verdict:?}");
    assert!(place.log.text().contains("[1 beta:2] ssh: connect to host beta: No route"), "{}", place.log.text());
}

/// A host that fails while the others are being started ends the launch: what is under way is stopped, and what is not is not started.
#[test]
fn a_failure_while_launching_stops_everything() {
    for interrupted in [false, true] {
        let place = Place::new();
        let (launcher, _) = place.fake_ssh();
        if !interrupted {
            std::fs::write(place.path("away"), "beta\n").unwrap();
        }
        let Places::File { lines, path } = place.hosts(&["alpha:1", "beta:2", "gamma:3", "delta:4"]) else { panic!() };
        let program = "trap 'echo $process >>asked_to_end; exit 130' TERM; echo $$ >>pids; while :; do sleep 0.1; done";
        let job = place.job(launcher, Places::Loopback(0), program);
        let say = |line: &str| place.said.lock().unwrap().push(line.to_owned());
        let lost = || place.log.text().contains("[1 beta:2] ssh: connect");
        let ended = std::cell::RefCell::new(None);
        let attempt = job.launch.attempt_by(&lines, &place.interrupts, &say, |index| {
            if index == 2 {
                // Both are started; the second has failed, if it does, before the third is there.
                wait_for("the first two", || {
                    place.lines("pids").len() == 1 && lost() || place.lines("pids").len() == 2
                });
                match interrupted {
                    true => drop(place.interrupts.fetch_add(1, Ordering::SeqCst)),
                    false => wait_for("its end", || !alive(ended.borrow().as_deref().unwrap())),
                }
            }
            let process = job.launch.start(&lines, index, Some(&path))?;
            *ended.borrow_mut() = Some(process.id().to_string());
            Ok(process)
        });
        let attempt = attempt.unwrap();
        assert_eq!((attempt.whole, attempt.interrupted), (false, interrupted));
        let ends: Vec<usize> = attempt.ends.iter().map(|ended| ended.process).collect();
        // The third may have been started before the end of the second was seen.
        assert!(ends.contains(&0) && ends.contains(&1) && !ends.contains(&3), "{ends:?}");
        assert_eq!(ends[0] == 1 && !attempt.ends[0].stopped, !interrupted, "{:?}", attempt.ends);
        assert!(place.lines("asked_to_end").contains(&"0".to_owned()));
        let said = place.said();
        assert!(said.contains(" of 4 processes are not started"), "{said}");
        let pids = place.lines("pids");
        wait_for("orphans", || !pids.iter().any(|pid| alive(pid)));
    }
}

/// The far end watches its input: nothing else tells it that the launcher's machine is gone.
#[test]
fn what_runs_behind_ssh_ends_with_the_connection() {
    let place = Place::new();
    let (launcher, ssh) = place.fake_ssh();
    // The far end is not of the process group that the launcher can kill, as on another machine.
    let far = std::fs::read_to_string(&ssh).unwrap().replace(
        "exec /bin/bash -c \"$*\"",
        "exec 3<&0; setsid /bin/bash -c \"$*\" <&3 3<&- & echo $$ >\"${0%/*}/near.$host\"; wait $!",
    );
    std::fs::write(&ssh, far).unwrap();
    let places = place.hosts(&["alpha:1", "beta:2"]);
    let mut job = place.job(
        launcher,
        places,
        "echo $$ >>pids; trap 'echo $process >>asked_to_end; exit 130' TERM; while :; do sleep 0.1; done",
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for("start", || place.lines("pids").len() == 2);
            let near = std::fs::read_to_string(place.path("near.beta")).unwrap();
            std::process::Command::new("kill").args(["-9", near.trim()]).status().unwrap();
        });
        let verdict = place.supervise(&mut job);
        assert_eq!((verdict.code, verdict.lost), (5, true), "{verdict:?}");
        assert!(verdict.message.contains("process 1 (beta:2) was ended by signal 9"), "{verdict:?}");
    });
    let pids = place.lines("pids");
    wait_for("orphans", || !pids.iter().any(|pid| alive(pid)));
    assert_eq!(place.lines("asked_to_end"), ["0", "1"]);
}

#[test]
fn a_lost_process_restarts_the_job_from_its_checkpoint() {
    let place = Place::new();
    let mut job = place.job(
        Launcher::Local,
        Places::Loopback(2),
        r#"echo "$process $again" >>seen; [ "$process" = 0 ] || [ "$(grep -c ^1 seen)" -gt 2 ] || kill -9 $$"#,
    );
    job.restarts = 4;
    let verdict = place.supervise(&mut job);
    assert_eq!(verdict.code, 0, "{verdict:?}");
    // Two attempts were lost, so there were three; `--resume` is there once, from the second one on.
    let count = |line: &str| place.lines("seen").iter().filter(|seen| *seen == line).count();
    assert_eq!([count("1 "), count("1 --resume")], [1, 2], "{:?}", place.lines("seen"));
    let said = place.said();
    assert!(said.contains("SIGKILL): restart 1 of 4 in 0.0 s") && said.contains("restart 2 of 4"), "{said}");
}

#[test]
fn what_would_fail_again_is_not_tried_again() {
    for code in [0, 1, 2, 3, 4, 6, 101, 130] {
        let place = Place::new();
        let both = r#"echo $process >>seen; while [ "$(wc -l <seen)" -lt 2 ]; do sleep 0.02; done"#;
        let mut job = place.job(Launcher::Local, Places::Loopback(2), &format!("{both}; exit {code}"));
        job.restarts = 3;
        assert_eq!(place.supervise(&mut job).code, code);
        assert_eq!(place.lines("seen"), ["0", "1"], "code {code}");
    }
    let place = Place::new();
    let mut job = place.job(Launcher::Local, Places::Loopback(1), "echo $process >>seen; exit 5");
    job.restarts = 2;
    let verdict = place.supervise(&mut job);
    assert_eq!((verdict.code, place.lines("seen").len()), (5, 3), "restarts are counted");
}

#[test]
fn a_restart_goes_on_with_the_hosts_that_answer() {
    let place = Place::new();
    let (launcher, _) = place.fake_ssh();
    // The first host dies while the job runs, and comes back after the second attempt, which loses another process.
    let program = r#"attempt=$(ls | grep -c '^attempt')
        echo "$process $(paste -s -d ' ' "$hosts")" >>"seen.$attempt"
        wait_all() { while [ "$(wc -l <"seen.$attempt")" != "$1" ]; do sleep 0.05; done; }
        case $attempt in
        0) wait_all 3; if [ "$process" = 0 ]; then echo alpha >away; touch attempt1; kill -9 $$; fi; exit 5;;
        1) wait_all 2; if [ "$process" = 1 ]; then rm away; touch attempt2; kill -9 $$; fi; exit 5;;
        esac"#;
    let mut job = place.job(launcher, place.hosts(&["alpha:1", "beta:2", "gamma:3"]), program);
    job.restarts = 2;
    let verdict = place.supervise(&mut job);
    assert_eq!(verdict.code, 0, "{verdict:?}\n{}\n{}", place.said(), place.log.text());
    let seen: BTreeMap<usize, Vec<String>> =
        (0..3).map(|attempt| (attempt, place.lines(&format!("seen.{attempt}")))).collect();
    let all = "alpha:1 beta:2 gamma:3";
    assert_eq!(seen[&0], [0, 1, 2].map(|process| format!("{process} {all}")));
    assert_eq!(seen[&1], [0, 1].map(|process| format!("{process} beta:2 gamma:3")));
    assert_eq!(seen[&2], seen[&0]);
    assert!(place.said().contains("no answer from alpha:1: 2 of 3 processes are left"), "{}", place.said());
}

/// A model of the files of those that are left would be another one.
#[test]
fn data_that_is_spread_needs_all_hosts() {
    let place = Place::new();
    let (launcher, _) = place.fake_ssh();
    let program = r#"echo $process >>seen; while [ "$(wc -l <seen)" -lt 2 ]; do sleep 0.02; done
        if [ "$process" = 0 ]; then echo alpha >away; kill -9 $$; fi; exit 5"#;
    let mut job = place.job(launcher, place.hosts(&["alpha:1", "beta:2"]), program);
    (job.restarts, job.spread) = (2, true);
    let verdict = place.supervise(&mut job);
    assert!(verdict.code == 5 && verdict.message.contains("process 0 (alpha:1)"), "{verdict:?}");
    assert_eq!(place.lines("seen").len(), 2, "it was started without its first host");
    let said = place.said();
    assert_eq!(
        said.matches("no answer from alpha:1: with --data-layout local all hosts are needed").count(),
        2,
        "{said}"
    );
}

#[test]
fn a_launcher_that_cannot_start_ssh_says_so() {
    let place = Place::new();
    let launcher = Launcher::Ssh { program: place.path("absent"), options: vec![] };
    let mut job = place.job(launcher, place.hosts(&["alpha:1"]), "true");
    let error = supervise(&mut job, &place.interrupts, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("absent for process 0 (alpha:1)"), "{error}");
}

/// A command that has ended well without having met the others, which go on, is told; one that has met them may end before they do.
#[test]
fn a_command_that_ends_before_it_joins_is_told() {
    let place = Place::new();
    let begun = Instant::now();
    let verdict = place.run(2, r#"[ "$process" = 1 ] && exit 3; while :; do sleep 0.2; done"#);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!((verdict.code, verdict.lost), (6, false), "{verdict:?}");
    assert!(verdict.message.starts_with("process 1 (127.0.0.1:"), "{verdict:?}");
    assert!(place.said().contains("ended with code 3 before it joined the others"), "{}", place.said());
    let place = Place::new();
    let joined = r#"[ -n "$NYSTREAM_LAUNCHED" ] && echo "nystream: joined" >&2"#;
    let program = format!(r#"{joined}; [ "$process" = 1 ] || sleep 2"#);
    assert_eq!(place.run(2, &program).code, 0);
    assert_eq!(place.log.text(), "");
}
