//! How the program ends: exit codes, failures, panics, interrupts.
//!
//! Invariants: stdout carries results only; a failure is one message on stderr with a documented code; nothing that
//! ends the process early leaves a half-written output behind (see [`crate::atomic`]); a reader that closes our
//! stdout has what it wants, and that is exit code 0.

use nystream_cluster::PeerLost;
use nystream_datasets::atomic::{NoOutputs, remove_pending};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The documented exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// The data, a file or the quality of a result is not good enough.
    Data = 1,
    /// The command line or the settings are wrong.
    Usage = 2,
    /// Stopped before convergence or at a limit; the model is saved.
    Stopped = 3,
    /// Does not fit the memory or disk budget.
    Budget = 4,
    /// Another process of the cluster died or stalled.
    PeerLost = 5,
    /// The cluster refused this process, or did not come together in time.
    JoinRefused = 6,
    /// A bug in nystream.
    Bug = 101,
    /// Interrupted by a signal.
    Interrupted = 130,
}

impl ExitCode {
    /// The documented code of this number.
    ///
    /// ```
    /// use nystream::exit::ExitCode;
    /// assert_eq!(ExitCode::of_number(5), Some(ExitCode::PeerLost));
    /// assert_eq!(ExitCode::of_number(77), None);
    /// ```
    pub fn of_number(number: u8) -> Option<Self> {
        use ExitCode::*;
        let all = [Done, Data, Usage, Stopped, Budget, PeerLost, JoinRefused, Bug, Interrupted];
        all.into_iter().find(|code| *code as u8 == number)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code as u8)
    }
}

/// Why a command ended without its result: a message for people, and the exit code.
///
/// ```
/// use nystream::exit::{ExitCode, Failure};
/// let failure = Failure::budget("the plan needs 3GiB, --memory allows 1GiB");
/// assert_eq!(failure.code, ExitCode::Budget);
/// ```
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: ExitCode,
    message: String,
    causes: Vec<String>,
}

impl Failure {
    /// A failure with a code of choice.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), causes: Vec::new() }
    }

    /// Data or quality failure (exit 1).
    pub fn data(message: impl Into<String>) -> Self {
        Failure::new(ExitCode::Data, message)
    }

    /// Wrong options or settings (exit 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Failure::new(ExitCode::Usage, message)
    }

    /// Memory or disk budget refused (exit 4).
    pub fn budget(message: impl Into<String>) -> Self {
        Failure::new(ExitCode::Budget, message)
    }

    /// An error of a library with the code it stands for; its causes are printed after it.
    ///
    /// ```
    /// use nystream::exit::{ExitCode, Failure};
    /// use nystream_datasets::Sources;
    /// let error = Sources::parse(&["absent.parquet"]).unwrap_err();
    /// let failure = Failure::caused(ExitCode::Data, error);
    /// assert!(failure.to_string().contains("'absent.parquet' does not exist"));
    /// ```
    pub fn caused(code: ExitCode, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        let causes = std::iter::successors(error.source(), |cause| cause.source()).map(|c| c.to_string()).collect();
        Failure { code, message: error.to_string(), causes }
    }

    /// The reader of stdout went away: nothing to say, nothing wrong.
    pub fn closed_pipe() -> Self {
        Failure::new(ExitCode::Done, "")
    }

    /// A failure to write results to stdout: exit 1, but for a reader that went away.
    ///
    /// ```
    /// use nystream::exit::{ExitCode, Failure};
    /// use std::io::{Error, ErrorKind};
    /// assert_eq!(Failure::stdout(Error::from(ErrorKind::StorageFull)).code, ExitCode::Data);
    /// assert_eq!(Failure::stdout(Error::from(ErrorKind::BrokenPipe)).code, ExitCode::Done);
    /// ```
    pub fn stdout(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::closed_pipe(),
            _ => Failure::data(format!("cannot write to standard output: {error}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        // Libraries that print their source inside their own message need no echo.
        for cause in self.causes.iter().filter(|cause| !self.message.contains(cause.as_str())) {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Errors whose exit code is known by their type, however deep in their causes; anything else is a data failure (exit 1).
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let error = match error.downcast::<Failure>() {
            Ok(failure) => return failure,
            Err(error) => error,
        };
        let code = error.chain().find_map(code_of).unwrap_or(ExitCode::Data);
        Failure::new(code, format!("{error:#}"))
    }
}

/// The exit code an error type stands for.
fn code_of(error: &(dyn std::error::Error + 'static)) -> Option<ExitCode> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(failure.code);
    }
    if error.is::<clap::Error>() {
        return Some(ExitCode::Usage);
    }
    if error.is::<crate::model::ModelError>() {
        return Some(ExitCode::Data);
    }
    None
}

impl From<crate::model::ModelError> for Failure {
    fn from(error: crate::model::ModelError) -> Self {
        Failure::caused(ExitCode::Data, error)
    }
}

impl From<crate::atomic::OutputError> for Failure {
    fn from(error: crate::atomic::OutputError) -> Self {
        Failure::caused(ExitCode::Data, error)
    }
}

/// Prints one line for people on stderr.
pub fn say(line: &str) {
    // One write, so that lines of several processes do not run together. Nothing can be done about a closed stderr.
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// Prints the failure, if it has anything to say, and gives its exit code. What the process still does then, such as telling others, an interrupt ends at once, with this code.
pub fn report(failure: &Failure) -> ExitCode {
    let text = failure.to_string();
    if !text.is_empty() {
        say(&format!("error: {text}"));
    }
    let _ = REPORTED.set(failure.code);
    failure.code
}

/// The code of the failure that was reported, which is how the process ends.
static REPORTED: OnceLock<ExitCode> = OnceLock::new();

static STAGE: Mutex<Option<String>> = Mutex::new(None);

/// Names the stage at work, for the message of a panic.
pub fn set_stage(stage: Option<&str>) {
    *lock(&STAGE) = stage.map(str::to_string);
}

/// Ends the process with code 101 and one message when any thread panics: a worker that dies alone would leave its
/// siblings waiting for ever.
///
/// `tolerated` says, on the panicking thread, whether its panic is caught on purpose (a decoder of damaged files);
/// such panics are neither printed nor fatal.
pub fn install_panic_hook(tolerated: fn() -> bool) {
    std::panic::set_hook(Box::new(move |info| {
        if tolerated() {
            return;
        }
        // Print before anything that may block.
        let _first = lock(&ENDING);
        let thread = std::thread::current();
        let payload = info.payload();
        let cause = payload
            .downcast_ref::<&str>()
            .map(|s| s.to_string())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "unknown cause".to_string());
        let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        let stage = STAGE.try_lock().ok().and_then(|s| s.clone());
        let stage = stage.map(|s| format!(" in stage `{s}`")).unwrap_or_default();
        let name = thread.name().unwrap_or("unnamed");
        let _ = writeln!(
            io::stderr().lock(),
            "error: bug in nystream (thread `{name}`{stage}{place}): {cause}\n\
             Please report it with this message and the command line."
        );
        end(ExitCode::Bug, &Early::Panic(&cause), remove_pending())
    }));
}

/// Held by the first cause that ends the process; the others wait for its end and stay silent.
static ENDING: Mutex<()> = Mutex::new(());

/// An interrupt waits for a checkpoint, after which it ends the process.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends the process with code 5 and one message that names the process that was lost, on whatever thread that was noticed.
///
/// Where an interrupt is being served the loss is no news: processes that were interrupted together do not come to their boundaries together, and one that has written its
/// checkpoint must not keep the others from theirs.
pub fn peer_lost(lost: &PeerLost) -> ! {
    if INTERRUPTED.load(Ordering::Acquire) {
        CHECKPOINT.get().iter().for_each(|checkpoint| (checkpoint.alone)());
        loop {
            std::thread::park();
        }
    }
    let _first = lock(&ENDING);
    let stage = STAGE.try_lock().ok().and_then(|s| s.clone());
    let stage = stage.map(|s| format!(" (stage `{s}`)")).unwrap_or_default();
    let checkpoint = CHECKPOINT.get().map(|checkpoint| format!(": {}", (checkpoint.last)()));
    say(&format!("error: {lost}{stage}. Start all processes again{}", checkpoint.unwrap_or_default()));
    end(ExitCode::PeerLost, &Early::Lost(lost), remove_pending())
}

/// What ends the process before its time.
#[derive(Clone, Copy, Debug)]
pub enum Early<'a> {
    /// A signal.
    Interrupt,
    /// A panic, with this message.
    Panic(&'a str),
    /// Another process of the job is gone.
    Lost(&'a PeerLost),
}

type Hook = Box<dyn Fn(&Early<'_>) + Send>;
static AT_END: Mutex<Vec<Hook>> = Mutex::new(Vec::new());

/// Runs `hook` when a signal, a panic or the loss of another process ends the process: to remove temporary files, to write a checkpoint.
/// It must not wait for other threads.
pub fn at_early_end(hook: impl Fn(&Early<'_>) + Send + 'static) {
    lock(&AT_END).push(Box::new(hook));
}

/// What checkpoints have to say at the end.
struct AtCheckpoint {
    /// Asks for one, waits for it, and says what there is.
    ask: Box<dyn Fn() -> String + Send + Sync>,
    /// Names the last one.
    last: Box<dyn Fn() -> String + Send + Sync>,
    /// Another process is gone while `ask` waits: no pass will come to its end.
    alone: Box<dyn Fn() + Send + Sync>,
}

static CHECKPOINT: OnceLock<AtCheckpoint> = OnceLock::new();

/// The job keeps checkpoints: an interrupt calls `ask` before it ends the process, and the loss of another process names the last one by `last`, or tells `ask` by `alone` while that waits.
pub fn set_checkpoint(
    ask: Box<dyn Fn() -> String + Send + Sync>,
    last: Box<dyn Fn() -> String + Send + Sync>,
    alone: Box<dyn Fn() + Send + Sync>,
) {
    let _ = CHECKPOINT.set(AtCheckpoint { ask, last, alone });
}

static TAKEN: OnceLock<Box<dyn Fn() -> bool + Send + Sync>> = OnceLock::new();

/// From now on an interrupt or a termination signal runs `instead` and does not end the process, unless that gives false: a command that has others to end first does that itself. The first
/// such command of a process has the say.
pub fn take_interrupts(instead: impl Fn() -> bool + Send + Sync + 'static) {
    let _ = TAKEN.set(Box::new(instead));
}

/// Ends the process with code 130 and `message`, without partial output: for a command that takes its interrupts ([`take_interrupts`]) and has nothing to end first.
pub fn interrupted(message: &str) -> ! {
    let _first = lock(&ENDING);
    let outputs = remove_pending();
    say(message);
    end(ExitCode::Interrupted, &Early::Interrupt, outputs)
}

/// Ends the process with code 130 on the first interrupt or termination signal, without partial output; says which outputs are whole.
pub fn install_interrupt_handler() -> Result<(), Failure> {
    ctrlc::set_handler(|| {
        if TAKEN.get().is_some_and(|instead| instead()) {
            return;
        }
        if let Some(code) = REPORTED.get() {
            let _first = lock(&ENDING);
            let _outputs = remove_pending();
            std::process::exit(*code as i32);
        }
        let ask = |checkpoint: &AtCheckpoint| {
            INTERRUPTED.store(true, Ordering::Release);
            format!("; {}", (checkpoint.ask)())
        };
        let checkpoint = CHECKPOINT.get().map(ask).unwrap_or_default();
        let _first = lock(&ENDING);
        let outputs = remove_pending();
        let whole: Vec<String> = outputs.written().iter().map(|path| path.display().to_string()).collect();
        let what = match whole.as_slice() {
            [] => "nothing was written".to_owned(),
            whole => format!("{} was written before, nothing else", whole.join(", ")),
        };
        // Behind what a terminal shows of the key that was pressed.
        let apart = if io::stderr().is_terminal() { "\n" } else { "" };
        let _ = writeln!(io::stderr().lock(), "{apart}interrupted: {what}{checkpoint}");
        end(ExitCode::Interrupted, &Early::Interrupt, outputs)
    })
    .map_err(|e| Failure::new(ExitCode::Bug, format!("cannot handle interrupts: {e}")))
}

/// Lets writes beyond a limit on the size of files (`ulimit -f`) fail like those on a full disk, with a message and nothing left behind, instead of
/// ending the process by a signal. Called before there are other threads, which inherit it.
#[cfg(unix)]
pub fn outlive_file_size_limits() {
    use nix::sys::signal::{SigSet, Signal};
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGXFSZ);
    // Without it only the message is lost.
    let _ = blocked.thread_block();
}

/// No such signal there.
#[cfg(not(unix))]
pub fn outlive_file_size_limits() {}

/// Runs the hooks and ends the process. `_outputs` is held for good: no thread can finish or start an output meanwhile.
fn end(code: ExitCode, why: &Early<'_>, _outputs: NoOutputs) -> ! {
    if let Ok(hooks) = AT_END.try_lock() {
        hooks.iter().for_each(|hook| hook(why));
    }
    std::process::exit(code as i32)
}

/// Locks, ignoring poison: the data behind these locks is valid at every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelError;

    #[test]
    fn codes_follow_error_types_through_anyhow() {
        let model = ModelError::NotAModel { path: "x.nys".into(), reason: "empty".into() };
        let failure = Failure::from(anyhow::Error::new(model).context("reading the model"));
        assert_eq!(failure.code, ExitCode::Data);
        assert!(failure.to_string().contains("x.nys"), "{failure}");
        let budget = anyhow::Error::new(Failure::budget("too large"));
        assert_eq!(Failure::from(budget).code, ExitCode::Budget);
        let wrapped = anyhow::Error::new(Failure::budget("too large")).context("planning");
        assert_eq!(Failure::from(wrapped).code, ExitCode::Budget);
        assert_eq!(Failure::from(anyhow::anyhow!("other")).code, ExitCode::Data);
    }

    #[test]
    fn a_closed_pipe_is_success() {
        let closed = Failure::stdout(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((closed.code, closed.to_string().as_str()), (ExitCode::Done, ""));
        assert_eq!(Failure::stdout(io::Error::from(io::ErrorKind::StorageFull)).code, ExitCode::Data);
    }
}
