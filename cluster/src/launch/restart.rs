//! Attempts at a job, as long as what ends them is the loss of a process or of its host.
//!
//! A failure that another attempt would meet again (codes 1, 2, 4, 101), an interrupt and a join that failed without a lost process (6) are final. Behind ssh the hosts are asked first, and
//! the attempt is made on those that answer, with fewer processes where some do not: the model does not depend on their number. Where data is spread over the hosts it does depend on who is there,
//! and an attempt needs all of them.

use super::end::{Verdict, verdict};
use super::hosts::{HostLine, loopback};
use super::job::{Launch, LaunchError};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const INTERRUPTED: u8 = 130;
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// How long a host may take to answer before an attempt.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time between two looks for an interrupt while nothing runs.
const LOOK: Duration = Duration::from_millis(30);

/// The processes of a job.
#[derive(Clone, Debug)]
pub enum Places {
    /// Those of a host file.
    File {
        /// The file, on this machine.
        path: PathBuf,
        /// Its lines.
        lines: Vec<HostLine>,
    },
    /// So many on this machine, on ports that are free when an attempt begins.
    Loopback(usize),
}

/// A job under supervision.
#[derive(Debug)]
pub struct Job {
    /// What its processes have in common.
    pub launch: Launch,
    /// Its processes.
    pub places: Places,
    /// Attempts beyond the first.
    pub restarts: u32,
    /// Whether data is spread over the hosts: without one of them the job would be another.
    pub spread: bool,
    /// What is appended to the command of every attempt but the first (`--resume`, where the job has checkpoints).
    pub again: Vec<OsString>,
}

/// Runs a job to its end and gives the verdict on its last attempt. `say` is told of what happens to the processes, a line each.
///
/// ```
/// use nystream_cluster::launch::{Job, Launch, Launcher, Log, Places, Times, supervise};
/// use std::sync::atomic::AtomicUsize;
/// let launch = Launch {
///     launcher: Launcher::Local,
///     folder: "/".into(),
///     // A job of two processes, of which the second fails.
///     command: ["/bin/sh", "-c", "[ \"$4\" = 0 ] || exit 4", "job"].map(Into::into).into(),
///     variables: vec![],
///     others: vec![],
///     log: Log::new(std::io::sink()),
///     times: Times::default(),
/// };
/// let mut job = Job { launch, places: Places::Loopback(2), restarts: 3, spread: false, again: vec![] };
/// let verdict = supervise(&mut job, &AtomicUsize::new(0), &|_| {})?;
/// assert_eq!(verdict.code, 4);
/// assert!(verdict.message.starts_with("process 1 (127.0.0.1:"));
/// # Ok::<(), nystream_cluster::launch::LaunchError>(())
/// ```
///
/// # Errors
/// What keeps an attempt from being made at all.
pub fn supervise(job: &mut Job, interrupts: &AtomicUsize, say: &dyn Fn(&str)) -> Result<Verdict, LaunchError> {
    let mut backoff = job.launch.times.backoff;
    let all = match &job.places {
        Places::File { lines, .. } => lines.clone(),
        Places::Loopback(_) => Vec::new(),
    };
    let mut last = attempt(job, interrupts, say)?;
    for restart in 1..=job.restarts {
        if !last.lost {
            break;
        }
        let wait = backoff.as_secs_f64();
        say(&format!("{}: restart {restart} of {} in {wait:.1} s", last.message, job.restarts));
        if !pause(backoff, interrupts) {
            return Ok(interrupted());
        }
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
        if let Places::File { lines, .. } = &mut job.places {
            // All are asked each time: a host that was away may be back.
            let answers = job.launch.answer(&all, PATIENCE);
            if interrupts.load(Ordering::SeqCst) > 0 {
                return Ok(interrupted());
            }
            let (here, away): (Vec<_>, Vec<_>) = all.iter().cloned().zip(answers).partition(|(_, answers)| *answers);
            if !away.is_empty() {
                let names: Vec<String> = away.iter().map(|(line, _)| line.to_string()).collect();
                let left = match job.spread {
                    true => "with --data-layout local all hosts are needed, for their files".to_owned(),
                    false => format!("{} of {} processes are left", here.len(), all.len()),
                };
                say(&format!("no answer from {}: {left}", names.join(", ")));
            }
            if here.is_empty() || (job.spread && !away.is_empty()) {
                continue;
            }
            *lines = here.into_iter().map(|(line, _)| line).collect();
        }
        job.launch.command.append(&mut job.again);
        last = attempt(job, interrupts, say)?;
    }
    Ok(last)
}

fn attempt(job: &Job, interrupts: &AtomicUsize, say: &dyn Fn(&str)) -> Result<Verdict, LaunchError> {
    let attempt = match &job.places {
        Places::File { path, lines } => job.launch.attempt(lines, Some(path), interrupts, say)?,
        Places::Loopback(processes) => {
            let lines = loopback(*processes).map_err(LaunchError::Ports)?;
            job.launch.attempt(&lines, None, interrupts, say)?
        }
    };
    // A job that was done before the interrupt reached it is done.
    let done = attempt.whole && attempt.ends.iter().all(|ended| ended.end.is_success());
    Ok(if attempt.interrupted && !done { interrupted() } else { verdict(&attempt.ends) })
}

fn interrupted() -> Verdict {
    Verdict { code: INTERRUPTED, lost: false, message: String::new() }
}

/// Waits; `false` when an interrupt came.
fn pause(duration: Duration, interrupts: &AtomicUsize) -> bool {
    let until = Instant::now() + duration;
    while Instant::now() < until && interrupts.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(LOOK);
    }
    interrupts.load(Ordering::SeqCst) == 0
}
