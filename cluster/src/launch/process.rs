//! The shell of one process, on this machine or behind ssh: its input is what keeps the process alive.

use super::JOINED;
use super::end::{End, blamed, differs};
use super::lines::Log;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// How long the log of a process that has ended is waited for: something that left its process group may hold the stream.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A shell under way.
pub struct Process {
    child: Child,
    /// While it is there, the shell's input stays open.
    hold: Option<Sender<()>>,
    /// Ends when all of the log was read.
    logged: Receiver<()>,
    /// The process that its message of failure names; `usize::MAX` for none.
    blames: Arc<AtomicUsize>,
    /// Whether it has said that it has met the others, and that one of them holds another secret.
    joined: Arc<AtomicBool>,
    differs: Arc<AtomicBool>,
    ssh: bool,
}

/// A thread beside `child`; a child that cannot have it is ended.
fn helper(name: &str, child: &mut Child, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let made = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    made.map(drop).inspect_err(|_| {
        let _ = child.kill();
        let _ = child.wait();
    })
}

impl Process {
    /// Starts `shell` in a process group of its own and gives it `script`. Its log goes to `log` behind `prefix`; its standard output is this program's when `prints`, and nowhere otherwise.
    pub fn start(
        mut shell: Command,
        script: Vec<u8>,
        log: &Log,
        prefix: String,
        prints: bool,
        ssh: bool,
    ) -> std::io::Result<Self> {
        let out = if prints { Stdio::inherit() } else { Stdio::null() };
        shell.stdin(Stdio::piped()).stdout(out).stderr(Stdio::piped()).process_group(0);
        let mut child = shell.spawn()?;
        let (hold, released) = channel::<()>();
        if let Some(mut input) = child.stdin.take() {
            // On a thread: a host that does not answer takes nothing.
            helper("input", &mut child, move || {
                if input.write_all(&script).and_then(|()| input.flush()).is_ok() {
                    let _ = released.recv();
                }
            })?;
        }
        let (tell, logged) = channel::<()>();
        let blames = Arc::new(AtomicUsize::new(usize::MAX));
        let [joined, differ] = std::array::from_fn(|_| Arc::new(AtomicBool::new(false)));
        if let Some(stream) = child.stderr.take() {
            let (log, blames, joined, differ) =
                (log.clone(), Arc::clone(&blames), Arc::clone(&joined), Arc::clone(&differ));
            helper("log", &mut child, move || {
                let see = |line: &[u8]| {
                    if let Some(process) = blamed(line) {
                        blames.store(process, Ordering::Relaxed);
                        differ.store(differs(line), Ordering::Relaxed);
                    }
                    // Behind what a shell has said without ending its line, too.
                    if line.ends_with(JOINED.as_bytes()) {
                        joined.store(true, Ordering::Relaxed);
                    }
                    line != JOINED.as_bytes()
                };
                log.follow(&prefix, stream, &see);
                drop(tell);
            })?;
        }
        Ok(Process { child, hold: Some(hold), logged, blames, joined, differs: differ, ssh })
    }

    /// The shell's process id here.
    #[cfg(test)]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks the process to end; the shell kills what does not.
    pub fn stop(&mut self) {
        self.hold = None;
    }

    /// Whether it was asked to end.
    pub fn stopped(&self) -> bool {
        self.hold.is_none()
    }

    /// Kills the shell and everything in its group on this machine. Behind ssh, the shell there sees the end of its input.
    pub fn kill(&mut self) {
        self.stop();
        self.sweep();
    }

    fn sweep(&self) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            // It may be gone already.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }

    /// The process that it named as the one at fault, once it has ended.
    pub fn blames(&self) -> Option<usize> {
        Some(self.blames.load(Ordering::Relaxed)).filter(|process| *process != usize::MAX)
    }

    /// Whether it named that one for another secret.
    pub fn differs(&self) -> bool {
        self.differs.load(Ordering::Relaxed)
    }

    /// Whether it has said that it has met the others.
    pub fn joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// How it ended, once it has and its log is written. Nothing of its group on this machine is left then.
    pub fn ended(&mut self) -> Option<End> {
        let status = self.child.try_wait().ok().flatten()?;
        self.sweep();
        let _ = self.logged.recv_timeout(LAST_WORDS);
        Some(End::of(status, self.ssh))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            self.kill();
            let _ = self.child.wait();
        }
    }
}
