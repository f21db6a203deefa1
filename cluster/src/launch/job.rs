//! One attempt at a job: all of its processes, from their start until all have ended.
//!
//! The first failure gives the others [`Times::settle`] to find out themselves and say what they know (they do, within 2 s of a lost connection); then they are stopped. So does an interrupt,
//! at once; a second interrupt kills. Between two starts those that are under way are looked at as well: after a failure or an interrupt nothing more is started, and what was is stopped at once, since
//! the job cannot come together any more. Nor can it where a process has ended as if all were well (a host whose command is another one) without having said that it has met the others ([`super::JOINED`]), and these go on: that
//! is a failure of the join, which need not wait for its deadline. What was stopped has [`Times::grace`] to end, then its shell kills it, and 2 s later the launcher kills the shell.

use super::end::Ended;
pub use super::lines::Log;
use super::process::Process;
use super::script::{BOOT, HostFile, Start, script};
use super::{HostLine, LAUNCHED};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Time between two looks at the processes.
const LOOK: Duration = Duration::from_millis(30);
/// What a shell has beyond [`Times::grace`] to kill its process.
const SHELLS_OWN: Duration = Duration::from_secs(2);
/// Options of ssh unless others are given: never ask, notice a host that is gone.
const SSH_OPTIONS: [&str; 4] = ["BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=6"];

/// Why a job could not be launched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The shell, or ssh, could not be started.
    #[error("cannot start {program} for process {process} ({host}): {source}")]
    Start {
        /// What was to be started.
        program: String,
        /// Index of the process.
        process: usize,
        /// Its line of the host file.
        host: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// This machine has no free ports.
    #[error("cannot find free ports for the processes: {0}")]
    Ports(std::io::Error),
}

/// Where the processes of a job run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// All on this machine.
    Local,
    /// Each on its host, by ssh.
    Ssh {
        /// The ssh program, a path or a name on the PATH.
        program: PathBuf,
        /// `NAME=VALUE` for ssh's `-o`, before its defaults here.
        options: Vec<String>,
    },
}

/// A variable of the processes.
#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    pub(super) name: String,
    pub(super) value: OsString,
}

impl Variable {
    /// `None` where `name` is no name of a variable to a shell.
    ///
    /// ```
    /// use nystream_cluster::launch::Variable;
    /// assert!(Variable::new("NYSTREAM_MEMORY", "1GiB").is_some());
    /// assert!(Variable::new("A; reboot", "").is_none());
    /// // Values may be secrets.
    /// assert!(!format!("{:?}", Variable::new("NYSTREAM_SECRET", "swordfish")).contains("swordfish"));
    /// ```
    pub fn new(name: &str, value: impl Into<OsString>) -> Option<Self> {
        let good = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty();
        (good && !name.as_bytes()[0].is_ascii_digit()).then(|| Variable { name: name.to_owned(), value: value.into() })
    }
}

impl std::fmt::Debug for Variable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Variable({})", self.name)
    }
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From the first failure to the request that the others end.
    pub settle: Duration,
    /// From the request to end to the kill, whole seconds.
    pub grace: Duration,
    /// Before the second attempt; doubled for each one after it, up to a minute.
    pub backoff: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Times { settle: Duration::from_secs(2), grace: Duration::from_secs(10), backoff: Duration::from_secs(1) }
    }
}

/// What all processes have in common.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Where they run.
    pub launcher: Launcher,
    /// The folder they run in.
    pub folder: PathBuf,
    /// The program and its arguments, but for `--hosts` and `--process`.
    pub command: Vec<OsString>,
    /// Variables of every process.
    pub variables: Vec<Variable>,
    /// Variables of every process but the first, whose progress is the one shown.
    pub others: Vec<Variable>,
    /// Where their logs go.
    pub log: Log,
    /// How long things take.
    pub times: Times,
}

/// What became of an attempt.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// The ends of all processes, as they were seen.
    pub ends: Vec<Ended>,
    /// Whether an interrupt ended it.
    pub interrupted: bool,
    /// Whether all processes were started.
    pub whole: bool,
}

/// The processes of an attempt that are under way.
struct Round<'a> {
    times: Times,
    lines: &'a [HostLine],
    interrupts: &'a AtomicUsize,
    say: &'a dyn Fn(&str),
    live: Vec<(usize, Process)>,
    attempt: Attempt,
    /// When each of the ends was seen, and whether the process had met the others.
    seen: Vec<(Instant, bool)>,
    stop_at: Option<Instant>,
    kill_at: Option<Instant>,
}

impl Round<'_> {
    /// Looks at all of them: notes those that have ended, and stops or kills the others where it is time.
    fn look(&mut self) {
        let Round { times, lines, interrupts, say, live, attempt, seen, stop_at, kill_at } = self;
        live.retain_mut(|(index, process)| {
            let Some(end) = process.ended() else { return true };
            let ended = Ended {
                process: *index,
                host: lines[*index].clone(),
                end,
                stopped: process.stopped(),
                blames: process.blames().and_then(|at| Some((at, lines.get(at)?.clone()))),
                differs: process.differs(),
                unjoined: false,
            };
            let joined = process.joined();
            if !end.is_success() && !ended.stopped {
                say(&format!("process {index} ({}) {end}", ended.host));
                stop_at.get_or_insert_with(|| Instant::now() + times.settle);
            }
            attempt.ends.push(ended);
            seen.push((Instant::now(), joined));
            false
        });
        let now = Instant::now();
        // Where one has met them all, so has each.
        let apart = !live.is_empty() && !live.iter().any(|(_, process)| process.joined());
        for (ended, (since, joined)) in attempt.ends.iter_mut().zip(&*seen) {
            let well = ended.end.is_success() && !ended.stopped && !ended.unjoined && !joined;
            if apart && well && now >= *since + times.settle {
                ended.unjoined = true;
                say(&format!("process {} ({}) {} before it joined the others", ended.process, ended.host, ended.end));
                stop_at.get_or_insert(now);
            }
        }
        let asked = interrupts.load(Ordering::SeqCst);
        if asked > 0 && !attempt.interrupted {
            attempt.interrupted = true;
            *stop_at = Some(now);
            if !live.is_empty() {
                say(&format!("interrupted: stopping {} processes", live.len()));
            }
        }
        if kill_at.is_none() && stop_at.is_some_and(|at| now >= at) && !live.is_empty() {
            if !attempt.interrupted {
                say(&format!("stopping the other processes ({})", live.len()));
            }
            live.iter_mut().for_each(|(_, process)| process.stop());
            *kill_at = Some(now + times.grace + SHELLS_OWN);
        }
        if kill_at.is_some_and(|at| now >= at) || asked > 1 {
            live.iter_mut().for_each(|(_, process)| process.kill());
        }
    }

    /// Whether processes from `index` on are to be started: not after a failure or an interrupt.
    fn goes_on(&mut self, index: usize) -> bool {
        if self.stop_at.is_none() {
            return true;
        }
        self.attempt.whole = false;
        self.stop_at = Some(Instant::now());
        let left = self.lines.len() - index;
        (self.say)(&format!("{left} of {} processes are not started", self.lines.len()));
        false
    }
}

impl Launch {
    /// Starts a process for each of `lines` and waits until all have ended. `file` is a host file on this machine with these lines; elsewhere, and without it, shells make their own. `interrupts` counts the requests to end that have come.
    ///
    /// # Errors
    /// A shell or an ssh that cannot be started; what had been started is killed.
    pub(super) fn attempt(
        &self,
        lines: &[HostLine],
        file: Option<&Path>,
        interrupts: &AtomicUsize,
        say: &dyn Fn(&str),
    ) -> Result<Attempt, LaunchError> {
        self.attempt_by(lines, interrupts, say, |index| self.start(lines, index, file))
    }

    /// [`Launch::attempt`], where `start` starts the process of an index.
    pub(super) fn attempt_by(
        &self,
        lines: &[HostLine],
        interrupts: &AtomicUsize,
        say: &dyn Fn(&str),
        mut start: impl FnMut(usize) -> Result<Process, LaunchError>,
    ) -> Result<Attempt, LaunchError> {
        let attempt = Attempt { ends: Vec::new(), interrupted: false, whole: true };
        let (times, live) = (self.times, Vec::new());
        let mut round =
            Round { times, lines, interrupts, say, live, attempt, seen: Vec::new(), stop_at: None, kill_at: None };
        round.look();
        for index in 0..lines.len() {
            if !round.goes_on(index) {
                break;
            }
            round.live.push((index, start(index)?));
            round.look();
        }
        while !round.live.is_empty() {
            round.look();
            std::thread::sleep(LOOK);
        }
        Ok(round.attempt)
    }

    /// The process of `index`, under way.
    pub(super) fn start(&self, lines: &[HostLine], index: usize, file: Option<&Path>) -> Result<Process, LaunchError> {
        let host = &lines[index];
        let others = if index == 0 { &[][..] } else { &self.others };
        let launched = Variable { name: LAUNCHED.into(), value: "1".into() };
        let variables: Vec<&Variable> = self.variables.iter().chain(others).chain([&launched]).collect();
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let shell = match &self.launcher {
            Launcher::Local => local(),
            Launcher::Ssh { program, options } => ssh(program, options, host, BOOT),
        };
        let hosts = match file {
            Some(file) if self.launcher == Launcher::Local => HostFile::At(file),
            _ => HostFile::Copy(&text),
        };
        let start = Start {
            folder: &self.folder,
            command: &self.command,
            variables: &variables,
            hosts,
            process: index,
            grace: self.times.grace.as_secs(),
        };
        let program = shell.get_program().to_string_lossy().into_owned();
        let prefix = format!("[{index} {host}] ");
        Process::start(shell, script(&start), &self.log, prefix, index == 0, self.launcher != Launcher::Local)
            .map_err(|source| LaunchError::Start { program, process: index, host: host.to_string(), source })
    }

    /// Whether each of `lines` answers: always on this machine; behind ssh, where a command can be run, all hosts asked at once. Hosts that need more than
    /// `patience` do not.
    pub(super) fn answer(&self, lines: &[HostLine], patience: Duration) -> Vec<bool> {
        let Launcher::Ssh { program, options } = &self.launcher else { return vec![true; lines.len()] };
        let ask = |host: &HostLine| {
            let mut probe = ssh(program, options, host, "exit 0");
            probe
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null());
            let Ok(mut probe) = probe.spawn() else { return false };
            let until = Instant::now() + patience;
            loop {
                match probe.try_wait() {
                    Ok(Some(status)) => return status.success(),
                    Ok(None) if Instant::now() < until => std::thread::sleep(LOOK),
                    _ => {
                        let _ = probe.kill().and_then(|()| probe.wait().map(drop));
                        return false;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let asked: Vec<_> = lines.iter().map(|host| scope.spawn(move || ask(host))).collect();
            asked.into_iter().map(|answer| answer.join().unwrap_or(false)).collect()
        })
    }
}

fn local() -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", BOOT]);
    // As behind ssh, the variables of nystream are those of the script and no others.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"NYSTREAM_")) {
        shell.env_remove(name);
    }
    shell
}

/// `ssh HOST line`, where the line is one that every login shell reads alike.
fn ssh(program: &Path, options: &[String], host: &HostLine, line: &str) -> Command {
    let mut ssh = Command::new(program);
    ssh.arg("-T");
    // Of several values for an option ssh takes the first.
    for option in options.iter().map(String::as_str).chain(SSH_OPTIONS) {
        ssh.args(["-o", option]);
    }
    ssh.args(["--", host.host(), line]);
    ssh
}
