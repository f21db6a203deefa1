//! Jobs in several processes that are killed on the way, and go on from their checkpoints.

use super::{Place, finish, text};
use nystream_hashing::{RowId, StreamKey};
use serde_json::Value;
use std::net::TcpListener;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

/// A hashed number below `below`.
pub fn draw(stream: &str, number: u64, below: u64) -> u64 {
    (StreamKey::new(4, stream, 0).u128(RowId(u128::from(number))) >> 64) as u64 % below.max(1)
}

/// How many processes, of how many workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub processes: usize,
    pub workers: usize,
}

/// The processes of a job under way.
pub struct Running {
    children: Vec<Child>,
    line: String,
    pub begun: Instant,
}

impl Place {
    /// Starts `line` in processes of its own.
    pub fn start(&self, line: &str, size: Size) -> Running {
        self.start_each(&vec![line.to_owned(); size.processes], size.workers)
    }

    /// Starts a process for each of `lines`, of `workers` workers.
    pub fn start_each(&self, lines: &[String], workers: usize) -> Running {
        let ports: Vec<TcpListener> = lines.iter().map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<String> = ports.iter().map(|p| p.local_addr().unwrap().to_string()).collect();
        drop(ports);
        let name = format!("hosts.{}", addresses[0].replace(':', "."));
        std::fs::write(self.path(&name), addresses.join("\n")).unwrap();
        let own = |(index, line): (usize, &String)| {
            let line = format!("{line} --workers {workers} --format json");
            let line = if lines.len() == 1 { line } else { format!("{line} --hosts {name} --process {index}") };
            self.command(&line).spawn().unwrap()
        };
        let begun = Instant::now();
        Running { children: lines.iter().enumerate().map(own).collect(), line: lines[0].clone(), begun }
    }

    /// Entries of the checkpoint folder `c` beside the one that names the job.
    pub fn entries(&self) -> Vec<std::path::PathBuf> {
        let own = &blake3_of("job")[..16];
        let entries = std::fs::read_dir(self.path("c")).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "nyc"))
            .filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with(own))
            .collect();
        paths.sort();
        paths
    }
}

/// Leading digits of the names of the files of a group.
pub fn blake3_of(group: &str) -> String {
    blake3::hash(group.as_bytes()).to_hex()[..16].to_owned()
}

impl Running {
    /// Waits so long, or until `enough` says so; whether the job is still under way.
    pub fn wait(&mut self, longest: Duration, mut enough: impl FnMut() -> bool) -> bool {
        while self.begun.elapsed() < longest && !enough() {
            if self.children.iter_mut().any(|child| child.try_wait().unwrap().is_some()) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.children.iter_mut().all(|child| child.try_wait().unwrap().is_none())
    }

    /// Sends a signal to one process.
    pub fn signal(&self, index: usize, signal: &str) {
        let _ = Command::new("kill").args([signal, &self.children[index].id().to_string()]).status();
    }

    /// Waits for the ends of all.
    pub fn ends(self) -> Vec<Output> {
        let line = self.line;
        self.children.into_iter().map(|child| finish(child, &line)).collect()
    }

    /// The report of a job that comes to its end.
    pub fn report(self) -> Value {
        let line = self.line.clone();
        let outputs = self.ends();
        for output in &outputs {
            let code = output.status.code();
            assert!(matches!(code, Some(0 | 3)), "{line}: {code:?}\n{}", text(&output.stderr));
        }
        serde_json::from_slice(&outputs[0].stdout).unwrap()
    }
}

/// One run that is killed: what came of it.
#[derive(Debug)]
pub struct Killed {
    /// When, in seconds; `None` where it was done before.
    pub at: Option<f64>,
    /// The report of the attempt that came to an end.
    pub report: Value,
    /// Seconds of that attempt.
    pub seconds: f64,
}

/// Runs `line` as `first`, kills its process `victim` after `at`, and resumes it as `then`.
pub fn kill_and_resume(place: &Place, line: &str, (first, then): (Size, Size), victim: usize, at: Duration) -> Killed {
    let mut running = place.start(line, first);
    let killed = running.wait(at, || false).then(|| running.begun.elapsed().as_secs_f64());
    if killed.is_none() {
        let begun = running.begun;
        let report = running.report();
        return Killed { at: None, report, seconds: begun.elapsed().as_secs_f64() };
    }
    running.signal(victim, "-9");
    for (index, output) in running.ends().iter().enumerate() {
        let code = output.status.code();
        // One that was through already has nobody to lose.
        assert!(index == victim || matches!(code, Some(5 | 0)), "process {index}: {code:?}\n{}", text(&output.stderr));
    }
    // Where process 0 was through, the model is there and the checkpoint is gone.
    let begun = Instant::now();
    let report = place.start(&format!("{line} --resume"), then).report();
    Killed { at: killed, report, seconds: begun.elapsed().as_secs_f64() }
}
