//! What the other processes of a job are told when this one ends early: before it joins them, while it does, and in the job.
//!
//! Invariants: whatever ends a process of `--hosts` (a failure, an interrupt, a panic), those that wait for it or work with it hear why, if they can be reached; each end is told once, by the
//! means of the moment (`Phase`).

use crate::cli::groups::{JoinArgs, ResourceArgs};
use crate::config::SECRET;
use crate::exit::{self, Early, ExitCode, Failure, at_early_end, lock};
use nystream_cluster::{Hosts, JoinStop, Network, Secret, SecretError};
use std::sync::{Mutex, Once};
use std::time::Duration;

/// How long a process that fails before it has joined the others tries to tell them.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one does that is interrupted.
const LEAVE: Duration = Duration::from_secs(2);

/// How far this process is.
#[derive(Clone)]
enum Phase {
    /// It has no others, or they know already.
    Alone,
    /// It will join the processes of these options.
    Before(Box<ResourceArgs>),
    Joining(JoinStop),
    /// In the job, as the process of this index.
    Joined(Network, usize),
}

static PHASE: Mutex<Phase> = Mutex::new(Phase::Alone);

fn enter(phase: Phase) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| at_early_end(tell));
    *lock(&PHASE) = phase;
}

/// This process is to join the others of `resources`, where there are others.
pub fn before(resources: &ResourceArgs) {
    if resources.hosts.is_some() {
        enter(Phase::Before(Box::new(resources.clone())));
    }
}

/// Whether others are still waited for.
pub(crate) fn waits() -> bool {
    matches!(*lock(&PHASE), Phase::Before(_) | Phase::Joining(_))
}

/// The join begins, which `stop` ends.
pub(crate) fn joining(stop: JoinStop) {
    enter(Phase::Joining(stop));
}

/// The job begins.
pub(crate) fn joined(network: Network, index: usize) {
    enter(Phase::Joined(network, index));
}

/// There is nobody else, or all were told.
pub(crate) fn alone() {
    enter(Phase::Alone);
}

/// Tells the others of an early end of this process.
fn tell(end: &Early<'_>) {
    let (code, message) = match end {
        Early::Interrupt => (ExitCode::Interrupted, "it was interrupted".to_owned()),
        Early::Panic(cause) => (ExitCode::Bug, format!("a bug ended it ({cause}); its own message says more")),
        Early::Lost(lost) => (ExitCode::PeerLost, lost.reason.clone()),
    };
    let phase = lock(&PHASE).clone();
    match phase {
        Phase::Alone => {}
        Phase::Before(resources) => tell_all(&resources, code, &message, LEAVE),
        Phase::Joining(stop) => {
            stop.end(code as u8, &message);
        }
        Phase::Joined(network, index) => {
            let process = if let Early::Lost(lost) = end { lost.process } else { index };
            network.announce(process, code as u8, &message);
        }
    }
}

/// Tells the other processes of `resources` why this one ends before it has joined them, so that they end too. Without `--hosts`, or later, it does nothing: in a join and in a job they
/// are told by other means.
pub fn decline(failure: &Failure) {
    let phase = lock(&PHASE).clone();
    if let Phase::Before(resources) = phase {
        tell_all(&resources, failure.code, &failure.to_string(), PATIENCE);
    }
}

fn tell_all(resources: &ResourceArgs, code: ExitCode, message: &str, patience: Duration) {
    let Some(hosts) = resources.hosts.as_ref().and_then(|path| Hosts::read(path).ok()) else { return };
    let Some(secret) = secret_for_telling(&resources.join) else { return };
    let Some(index) = resources.process.map(|index| index as usize).filter(|index| *index < hosts.len()) else {
        return;
    };
    if patience == PATIENCE && hosts.len() > 1 {
        let seconds = PATIENCE.as_secs();
        exit::say(&format!(
            "the other processes are told of it, for {seconds} s at most: an interrupt ends that at once"
        ));
    }
    nystream_cluster::decline(&hosts, index, &secret, code as u8, message, patience);
}

/// The secret of the processes of a job: of `--secret-file`, else of `NYSTREAM_SECRET`, else none.
///
/// # Errors
/// One that cannot be read, is too short, is somebody else's or is open to others (2).
pub fn secret(args: &JoinArgs) -> Result<Secret, Failure> {
    read(args).map_err(|e| Failure::caused(ExitCode::Usage, e))
}

fn read(args: &JoinArgs) -> Result<Secret, SecretError> {
    match (&args.secret_file, std::env::var_os(SECRET)) {
        (Some(path), _) => Secret::read(path),
        (None, Some(text)) if !text.is_empty() => {
            Secret::new(text.as_encoded_bytes(), &format!("the variable {SECRET}"))
        }
        _ => Ok(Secret::none()),
    }
}

/// The same; a file that is refused only because of who could read it may be the right one, and the others are to hear that it was refused.
fn secret_for_telling(args: &JoinArgs) -> Option<Secret> {
    match (read(args), &args.secret_file) {
        (Ok(secret), _) => Some(secret),
        (Err(SecretError::Permissions { .. } | SecretError::Owner { .. }), Some(path)) => {
            Secret::read_refused(path).ok()
        }
        (Err(_), _) => None,
    }
}
