//! Reliability trials: the built binary on hosts of their own (network namespaces), and on loopback behind a relay that stands for the network.
//!
//! Short forms run with the tests. `NYSTREAM_TRIALS=20` runs each trial so many times (RELIABILITY.md records what came of it). Where namespaces cannot be made the trials that need them say so
//! and are skipped; their loopback forms always run.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;
mod nets;
mod relay;

use common::*;
use nets::Nets;
use relay::Relay;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// `--peer-timeout` of the trials.
const PEER_TIMEOUT: u64 = 4;
/// What a process may take beyond it, on a machine that does other things as well.
const MARGIN: u64 = 20;
/// A fit that no trial waits for.
const LONG: &str = "fit --data synth:friedman1?rows=300000000&d=10&seed=1 --target y --out m.nys --kernel gaussian --bandwidth 1x \
                    --ridge 1e-5 --centers 500 --select uniform --workers 1 --max-flops 1e18 --no-progress";

/// How many times each trial runs.
fn trials(short: usize) -> usize {
    std::env::var("NYSTREAM_TRIALS").ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}

/// A word past the harness, which shows nothing that passing tests print.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Trials use most of a machine: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Namespaces, or a line that says why there are none.
fn nets(hosts: usize, trial: &str) -> Option<Nets> {
    Nets::new(hosts).inspect_err(|why| say(&format!("skipped: {trial} between network namespaces: {why}"))).ok()
}

fn place() -> Place {
    let place = Place::new();
    std::fs::write(place.path("secret"), "a secret of the trials\n").unwrap();
    std::fs::set_permissions(place.path("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    place
}

/// The host file of `processes` namespaces.
fn hosts(place: &Place, nets: &Nets, processes: usize) {
    let lines: String = (0..processes).map(|host| format!("{}:4100\n", nets.address(host))).collect();
    std::fs::write(place.path("hosts"), lines).unwrap();
}

/// The binary, in a namespace where there is one.
fn command(place: &Place, nets: Option<&Nets>, host: usize, line: &str) -> Command {
    let plain = place.command(line);
    let Some(nets) = nets else { return plain };
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", &nets.namespace(host)]).arg(plain.get_program()).args(plain.get_args());
    for (name, _) in plain.get_envs().filter(|(_, value)| value.is_none()) {
        inside.env_remove(name);
    }
    inside.current_dir(place.path("")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    inside
}

/// Small data; in the long form real data too, where there is any, and 10 million rows.
#[test]
fn one_model_whatever_the_hosts() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let Some(nets) = nets(4, "one model") else { return };
    let place = place();
    write(&place.path("d.parquet"), &batch(table(0, 25_000)));
    let long = trials(0) > 0;
    let shapes: &[(usize, usize)] = if long { &[(2, 1), (2, 3), (3, 2), (4, 1), (4, 2)] } else { &[(2, 2), (3, 1)] };
    let mut data = vec![("--data d.parquet --target y --centers 60".to_owned(), "pcg", "eigenpro --iterations 4")];
    if long {
        let air = shared_data()
            .map(|root| format!("--data {} --target PM2.5 --centers 500", root.join("beijing_air/train").display()));
        data.extend(air.map(|air| (air, "pcg", "eigenpro --iterations 2")));
        let many = "--data synth:friedman1?rows=10000000&d=5&seed=1 --target y --centers 100 --select uniform --max-flops 1e18";
        data.push((many.to_owned(), "pcg --iterations 4", "eigenpro --iterations 1"));
    }
    for (data, pcg, eigenpro) in data {
        for solver in ["gram", pcg, eigenpro] {
            let fit = format!("fit {data} --kernel gaussian --bandwidth 1x --ridge 1e-5 --out m.nys --solver {solver}");
            let one = digest(&place.solved(&format!("{fit} --workers 1")));
            for &(processes, workers) in shapes {
                hosts(&place, &nets, processes);
                let line = |host| {
                    format!(
                        "{fit} --workers {workers} --format json --hosts hosts --process {host} --secret-file secret"
                    )
                };
                let start = |host| command(&place, Some(&nets), host, &line(host)).spawn().unwrap();
                let children: Vec<Child> = (0..processes).map(start).collect();
                let ends: Vec<_> = children.into_iter().map(|child| finish(child, &fit)).collect();
                for end in &ends {
                    assert!(matches!(end.status.code(), Some(0 | 3)), "{}", text(&end.stderr));
                }
                let report: serde_json::Value = serde_json::from_slice(&ends[0].stdout).unwrap();
                assert_eq!(digest(&report), one, "{fit}: {processes} processes of {workers} workers");
                if long {
                    say(&format!("one model: {fit}: {processes} processes of {workers} workers, the digest of one"));
                }
            }
        }
    }
}

/// A process of a trial: its log is a file.
struct Running {
    child: Child,
    log: std::path::PathBuf,
}

impl Running {
    fn start(place: &Place, nets: Option<&Nets>, host: usize, line: &str) -> Self {
        let log = place.path(&format!("log{host}"));
        let mut command = command(place, nets, host, line);
        command.env("RUST_LOG", "info").stderr(Stdio::from(File::create(&log).unwrap())).stdout(Stdio::null());
        Running { child: command.spawn().unwrap(), log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the job has begun.
    fn begun(&mut self) {
        let since = Instant::now();
        while !self.log().contains("stage begins") {
            assert!(since.elapsed() < Duration::from_secs(120), "no job: {}", self.log());
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}", self.log());
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Waits for its end, within the time after which a loss must be noticed; what it said as its one error.
    fn lost(&mut self, since: Instant) -> String {
        let most = Duration::from_secs(PEER_TIMEOUT + MARGIN);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(since.elapsed() < most, "not noticed within {most:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        };
        let log = self.log();
        assert_eq!(status.code(), Some(5), "{log}");
        let errors: Vec<&str> = log.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && !log.contains("panicked"), "{log}");
        errors[0].to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number in `0..below` for a trial.
fn random(stream: &str, trial: usize, below: f64) -> f64 {
    uniform(stream, trial) * below
}

/// What is done to one of the processes.
#[derive(Clone, Copy, PartialEq)]
enum Harm {
    Partition,
    Stall,
}

/// Runs a long job of three hosts and harms one of them at a random time: all others end with its name, and it ends too.
fn harmed(nets: &Nets, harm: Harm, trial: usize) -> f64 {
    let place = place();
    hosts(&place, nets, 3);
    let line =
        |host| format!("{LONG} --hosts hosts --process {host} --secret-file secret --peer-timeout {PEER_TIMEOUT}s");
    let mut all: Vec<Running> = (0..3).map(|host| Running::start(&place, Some(nets), host, &line(host))).collect();
    all.iter_mut().for_each(Running::begun);
    std::thread::sleep(Duration::from_secs_f64(random("moment", trial, 3.0)));
    let victim = random("victim", trial, 3.0) as usize;
    let since = Instant::now();
    match harm {
        Harm::Partition => nets.cut(victim),
        Harm::Stall => all[victim].signal("-STOP"),
    }
    let mut slowest = 0.0f64;
    for host in (0..3).filter(|host| *host != victim) {
        let error = all[host].lost(since);
        let named = format!("error: process {victim} ({}:4100) was lost: ", nets.address(victim));
        assert!(error.starts_with(&named), "trial {trial}, process {host} of which {victim} was harmed: {error}");
        slowest = slowest.max(since.elapsed().as_secs_f64());
    }
    if harm == Harm::Stall {
        all[victim].signal("-CONT");
    }
    // Cut off it has lost both; woken up it hears that it was given up.
    let own = all[victim].lost(if harm == Harm::Stall { Instant::now() } else { since });
    assert!(own.contains(" was lost: "), "{own}");
    assert!(!place.path("m.nys").exists());
    slowest
}

fn campaign(harm: Harm, name: &str) {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let count = trials(2);
    let mut slowest = 0.0f64;
    for trial in 0..count {
        // A link that was cut stays so: new ones for each.
        let Some(nets) = nets(3, name) else { return };
        slowest = slowest.max(harmed(&nets, harm, trial));
    }
    say(&format!(
        "{name}: {count} of {count} noticed, the slowest after {slowest:.1} s (--peer-timeout {PEER_TIMEOUT}s)"
    ));
}

#[test]
fn a_partition_is_noticed_by_all() {
    campaign(Harm::Partition, "partition");
}

#[test]
fn a_stalled_process_is_noticed_by_all() {
    campaign(Harm::Stall, "stall");
}

/// Two processes on loopback, the second of which reaches the first through `relay`.
fn relayed(place: &Place, relay: &Relay, line: &str) -> [String; 2] {
    let free: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let own: Vec<String> = free.iter().map(|one| one.local_addr().unwrap().to_string()).collect();
    drop(free);
    let through = relay.start(own[0].clone());
    std::fs::write(place.path("hosts0"), format!("{}\n{}\n", own[0], own[1])).unwrap();
    std::fs::write(place.path("hosts1"), format!("{through}\n{}\n", own[1])).unwrap();
    [0, 1].map(|host| format!("{line} --hosts hosts{host} --process {host} --secret-file secret"))
}

/// The loopback form of the partition.
#[test]
fn a_network_that_falls_silent_is_noticed_by_both() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let (place, relay) = (place(), Relay::default());
    let lines = relayed(&place, &relay, &format!("{LONG} --peer-timeout {PEER_TIMEOUT}s"));
    let mut both: Vec<Running> =
        lines.iter().enumerate().map(|(host, line)| Running::start(&place, None, host, line)).collect();
    both.iter_mut().for_each(Running::begun);
    relay.cut();
    let since = Instant::now();
    for (host, one) in both.iter_mut().enumerate() {
        let error = one.lost(since);
        assert!(error.starts_with(&format!("error: process {} (", 1 - host)), "{error}");
    }
}

const SHORT: &str = "fit --data synth:sines?rows=6000&d=2&seed=1 --target y --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 30 \
                     --solver pcg --workers 1 --out m.nys --format json";

/// The seconds that were waited in all stages of a report, for each process.
fn waited(report: &serde_json::Value) -> Vec<f64> {
    let processes = report["per_process"].as_array().unwrap_or_else(|| panic!("no table in {report}"));
    let stages = |process: &serde_json::Value| {
        let stages = process["stages"].as_object().unwrap();
        stages.values().map(|time| time["waiting"].as_f64().unwrap()).sum::<f64>()
    };
    processes.iter().map(stages).collect()
}

/// A job over a slow network is the same job, and its report says where the time went.
fn slow_network_report(report: &serde_json::Value, one: &str, processes: usize) {
    assert_eq!(digest(report), one);
    let waited = waited(report);
    assert_eq!(waited.len(), processes);
    // Each pass crosses the network several times: some 50 ms each.
    assert!(waited.iter().all(|seconds| *seconds > 0.5), "{waited:?}");
}

#[test]
fn a_slow_and_lossy_network_slows_the_job_and_shows_in_its_report() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let place = place();
    let one = digest(&place.solved(&SHORT.replace(" --format json", "")));
    let relay = Relay::slow(Duration::from_millis(50), 100);
    let lines = relayed(&place, &relay, SHORT);
    let children = lines.each_ref().map(|line| place.command(line).spawn().unwrap());
    let ends = children.map(|child| finish(child, "relayed"));
    for end in &ends {
        assert!(matches!(end.status.code(), Some(0 | 3)), "{}", text(&end.stderr));
    }
    slow_network_report(&serde_json::from_slice(&ends[0].stdout).unwrap(), &one, 2);

    let Some(nets) = nets(3, "delay and loss") else { return };
    if let Err(why) = nets.disturb("delay 50ms loss 1%") {
        return say(&format!("skipped: delay and loss between network namespaces: {why}"));
    }
    for _ in 0..trials(1) {
        hosts(&place, &nets, 3);
        let line = |host| format!("{SHORT} --hosts hosts --process {host} --secret-file secret");
        let children: Vec<Child> =
            (0..3).map(|host| command(&place, Some(&nets), host, &line(host)).spawn().unwrap()).collect();
        let ends: Vec<_> = children.into_iter().map(|child| finish(child, "netem")).collect();
        for end in &ends {
            assert!(matches!(end.status.code(), Some(0 | 3)), "{}", text(&end.stderr));
        }
        slow_network_report(&serde_json::from_slice(&ends[0].stdout).unwrap(), &one, 3);
    }
}

/// Connects to `address` until told to stop, each time with another kind of what is no process of the job.
fn besiege(address: &str, recorded: &[u8], stop: &AtomicBool, made: &AtomicUsize) {
    let mut silent = std::collections::VecDeque::new();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // A refused connection is one too: the listener of a running job is closed.
        made.fetch_add(1, Ordering::Relaxed);
        let Ok(mut socket) = TcpStream::connect(address) else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        let noise: Vec<u8> = (0..100).map(|i| (uniform("noise", turn * 128 + i) * 256.0) as u8).collect();
        let bytes = match turn % 5 {
            0 => noise,
            1 => recorded[..recorded.len().min(40)].to_vec(),
            2 => [&recorded[..12], &u16::MAX.to_le_bytes(), &noise].concat(),
            3 => recorded.to_vec(),
            _ => {
                silent.push_back(socket);
                silent.truncate(100);
                continue;
            }
        };
        let _ = socket.write_all(&bytes);
        if turn % 50 == 3 {
            let _ = socket.shutdown(Shutdown::Write);
            let _ = socket.set_read_timeout(Some(Duration::from_millis(200)));
            let _ = socket.read(&mut [0; 64]);
        }
    }
}

/// Hostile connections in the join and during the job change nothing. The long form: `NYSTREAM_TRIALS=20`, 10,000 of them before the second process comes.
#[test]
fn hostile_connections_do_no_harm() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let before = if trials(0) >= 20 { 10_000 } else { 300 };
    let place = place();
    let one = digest(&place.solved(&SHORT.replace(" --format json", "")));
    // An honest job through a relay: what it says is repeated later.
    let relay = Relay::default();
    let lines = relayed(&place, &relay, SHORT);
    let honest = lines.each_ref().map(|line| place.command(line).spawn().unwrap());
    let undisturbed = Instant::now();
    for child in honest {
        assert!(matches!(finish(child, "honest").status.code(), Some(0 | 3)));
    }
    let undisturbed = undisturbed.elapsed();
    let recorded = relay.recorded();
    assert!(recorded.starts_with(b"NYSTREAM") && recorded.len() > 100, "{} bytes", recorded.len());

    let lines = relayed(&place, &Relay::default(), SHORT).map(|line| format!("{line} --join-timeout 10m"));
    let address = std::fs::read_to_string(place.path("hosts0")).unwrap().lines().next().unwrap().to_owned();
    let first = place.command(&lines[0]).spawn().unwrap();
    let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (ends, took) = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| besiege(&address, &recorded, &stop, &made));
        }
        while TcpStream::connect(&address).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        made.store(0, Ordering::Relaxed);
        while made.load(Ordering::Relaxed) < before {
            std::thread::sleep(Duration::from_millis(5));
        }
        // One of the job's own kind, with another secret.
        let wrong = lines[1].replace("--secret-file secret", "").replace("10m", "8s");
        let mut wrong = place.command(&wrong);
        let wrong = finish(wrong.env("NYSTREAM_SECRET", "another secret altogether").spawn().unwrap(), "wrong secret");
        assert_eq!(wrong.status.code(), Some(6), "{}", text(&wrong.stderr));
        let begun = Instant::now();
        let second = place.command(&lines[1]).spawn().unwrap();
        let ends = [first, second].map(|child| finish(child, "besieged"));
        stop.store(true, Ordering::Relaxed);
        (ends, begun.elapsed())
    });
    for end in &ends {
        assert!(matches!(end.status.code(), Some(0 | 3)), "{}", text(&end.stderr));
        assert!(!text(&end.stderr).contains("panicked"));
    }
    assert_eq!(digest(&serde_json::from_slice(&ends[0].stdout).unwrap()), one);
    let (made, took, undisturbed) = (made.into_inner(), took.as_secs_f64(), undisturbed.as_secs_f64());
    say(&format!(
        "{made} hostile connections, none accepted; the job took {took:.1} s, {undisturbed:.1} s without them"
    ));
}
