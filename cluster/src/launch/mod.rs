//! Launching: one process for each line of a host file, started, watched and ended together.
//!
//! The problem: a job of several processes is one thing to whoever runs it, with one output, one log, one exit code, and nothing left behind. Its processes run
//! under shells on this machine or behind ssh, fail in any order, and take each other along.
//!
//! * [`HostLine`]: whom to start, and where;
//! * `script`: what a host's shell is told. It comes to the shell on its standard input, so that neither arguments nor the secret are ever on a command line,
//!   and quoting does not depend on the login shell of the host;
//! * `process`: a shell under way: its standard input, its log lines, its end;
//! * [`Launch`]: the processes of one attempt at a job, until all have ended;
//! * [`End`] and [`verdict`]: which of several ends is the cause;
//! * [`supervise`]: attempts, with waits between them, on the hosts that answer.
//!
//! Invariants: every process lives at most as long as the standard input of its shell, which the launcher holds: when the launcher stops a process, is killed, or
//! the connection breaks, the shell sees the end of its input, asks its whole process group to end, and kills it [`Times::grace`] later. No ssh terminal and no
//! parent-death signal is needed, and the same mechanism serves both launchers. Standard output of process 0 is this program's, byte for byte.
//!
//! Cost: a shell and two threads a process on this machine, and a look at every process each 30 ms: 50 processes took 0.04 s of processor time in 18 s, and 11 MiB.

mod end;
mod hosts;
mod job;
mod lines;
mod process;
mod restart;
mod script;

/// Variable of the processes that a launcher has started.
pub const LAUNCHED: &str = "NYSTREAM_LAUNCHED";
/// What these write to their log when they have met the others: for the launcher, which does not show it.
pub const JOINED: &str = "nystream: joined";

pub use end::{End, Ended, Verdict, verdict};
pub use hosts::{HostLine, loopback, read_hosts};
pub use job::{Launch, LaunchError, Launcher, Log, Times, Variable};
pub use restart::{Job, Places, supervise};

// They look processes up in /proc.
#[cfg(all(test, target_os = "linux"))]
mod tests;
