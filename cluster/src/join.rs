//! Joining: the sockets between the processes of a job, opened by us and handed to timely.
//!
//! Process i connects to every j < i and accepts a connection from every j > i. Before a byte reaches timely both ends
//! exchange a greeting: protocol, process index, process count and digests of what the job is made of. A mismatch ends the join
//! with a reason; a peer that does not appear within the deadline is named. Cost: one round trip a pair.

use crate::hosts::{Hosts, HostsError};
use std::any::Any;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use thiserror::Error;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::{AllocatorBuilder, Hooks};

const MAGIC: [u8; 8] = *b"NYSTREAM";
const PROTOCOL: u32 = 2;
/// What a job is made of is compared part by part, so that a mismatch can say what differs: so many parts at most.
pub const PARTS: usize = 12;
const DIGEST_BYTES: usize = 8;
const HEAD_BYTES: usize = 8 + 4 + 8 + 8;
const GREETING_BYTES: usize = HEAD_BYTES + PARTS * DIGEST_BYTES;
const RETRY: Duration = Duration::from_millis(50);
/// Time between two words about whom a process waits for.
const NOTICE: Duration = Duration::from_secs(3);

/// What timely needs to start the workers of this process.
pub type Communication = (Vec<AllocatorBuilder>, Box<dyn Any + Send>);

/// What all processes of a job must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobIdentity {
    /// Digests of its parts: version, options, data and so on. Unused ones are zero.
    pub parts: [[u8; DIGEST_BYTES]; PARTS],
    /// What each part is called when it differs.
    pub names: [&'static str; PARTS],
    /// Worker threads per process.
    pub workers: usize,
}

impl JobIdentity {
    /// The identity of a job of `workers` threads a process and these parts, by name.
    ///
    /// # Panics
    /// If there are more than [`PARTS`].
    pub fn new(workers: usize, parts: &[(&'static str, [u8; DIGEST_BYTES])]) -> Self {
        let mut identity = JobIdentity { parts: Default::default(), names: [""; PARTS], workers };
        for (i, (name, digest)) in parts.iter().enumerate() {
            (identity.names[i], identity.parts[i]) = (name, *digest);
        }
        identity
    }

    /// The names of the parts in which another process has other digests.
    fn differences(&self, theirs: &[u8]) -> Vec<&'static str> {
        let pairs = self.parts.iter().zip(theirs.chunks(DIGEST_BYTES)).zip(self.names);
        // A part that only the other process has is none of this command: the command differs too, and is named.
        pairs
            .filter(|((ours, theirs), name)| ours.as_slice() != *theirs && !name.is_empty())
            .map(|(_, name)| name)
            .collect()
    }
}

/// Why a join ended without a job.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The host file does not fit.
    #[error(transparent)]
    Hosts(#[from] HostsError),
    /// This process's own address cannot be listened on.
    #[error("cannot listen on {address} (process {process}): {source}")]
    Listen {
        /// Address of this process.
        address: String,
        /// Index of this process.
        process: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// A process did not appear in time.
    #[error("process {missing} ({address}) did not join within {seconds} s")]
    Timeout {
        /// Index of the first missing process.
        missing: usize,
        /// Its address.
        address: String,
        /// The deadline, whole seconds.
        seconds: u64,
    },
    /// A process runs another job.
    #[error("process {process} was refused: {reason}")]
    Mismatch {
        /// Index the peer gave.
        process: usize,
        /// What differs.
        reason: String,
    },
    /// A process failed before it could join.
    #[error("process {process} failed before it joined: {message}")]
    Failed {
        /// Its index.
        process: usize,
        /// Its exit code.
        code: u8,
        /// Why it failed, in its words.
        message: String,
    },
    /// Timely could not start on the sockets.
    #[error("cannot start the workers: {0}")]
    Start(String),
}

/// Communication of a job of one process with `workers` threads, at least 1: no socket is opened.
///
/// ```
/// use nystream_cluster::single_process;
/// let (allocators, guard) = single_process(2)?;
/// assert_eq!(allocators.len(), 2);
/// let workers = timely::execute::execute_from(allocators, guard, timely::WorkerConfig::default(), |worker| worker.index());
/// let indices: Result<Vec<usize>, String> = workers.unwrap().join().into_iter().collect();
/// assert_eq!(indices, Ok(vec![0, 1]));
/// # Ok::<(), nystream_cluster::JoinError>(())
/// ```
///
/// # Errors
/// [`JoinError::Start`] when timely refuses.
pub fn single_process(workers: usize) -> Result<Communication, JoinError> {
    let config = match workers {
        1 => timely::CommunicationConfig::Thread,
        threads => timely::CommunicationConfig::Process(threads),
    };
    config.try_build().map_err(JoinError::Start)
}

/// Joins process `index` of `hosts` with the others within `deadline`. All must be started by then, in any order. `waiting` is told every few seconds
/// which process is missing, by index and address.
///
/// ```
/// use nystream_cluster::{Hosts, JobIdentity, join};
/// use std::time::Duration;
/// # let free: Vec<_> = (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
/// # let text: String = free.iter().map(|socket| format!("{}\n", socket.local_addr().unwrap())).collect();
/// # drop(free);
/// // `text` names two free ports, `127.0.0.1:PORT` a line.
/// let hosts = Hosts::parse(&text).unwrap();
/// // Two threads stand for two processes of one worker each; what they agree on is hashed part by part.
/// let identity = JobIdentity::new(1, &[("the options", [7; 8])]);
/// let peers = |index| {
///     let hosts = hosts.clone();
///     std::thread::spawn(move || {
///         let (allocators, guard) = join(&hosts, index, identity, Duration::from_secs(20), &|_, _| {}).unwrap();
///         let config = timely::WorkerConfig::default();
///         let workers = timely::execute::execute_from(allocators, guard, config, |worker| worker.peers()).unwrap();
///         workers.join().into_iter().collect::<Result<Vec<usize>, String>>()
///     })
/// };
/// for process in [peers(0), peers(1)] {
///     assert_eq!(process.join().unwrap(), Ok(vec![2]));
/// }
/// ```
///
/// # Errors
/// Nothing is left listening then:
/// * [`JoinError::Hosts`]: no process of this index;
/// * [`JoinError::Listen`]: an address that is in use or not this machine's;
/// * [`JoinError::Timeout`]: a process that did not come, by its index;
/// * [`JoinError::Mismatch`]: a process of another job, version or number of workers;
/// * [`JoinError::Failed`]: a process that [declined](decline);
/// * [`JoinError::Start`]: timely refused the sockets.
pub fn join(
    hosts: &Hosts,
    index: usize,
    identity: JobIdentity,
    deadline: Duration,
    waiting: &dyn Fn(usize, &SocketAddr),
) -> Result<Communication, JoinError> {
    let address = hosts.address(index)?;
    let until = Instant::now() + deadline;
    let processes = hosts.len();
    let late = |missing: usize| JoinError::Timeout {
        missing,
        address: hosts.addresses()[missing].to_string(),
        seconds: deadline.as_secs(),
    };
    let listener = TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| JoinError::Listen { address: address.to_string(), process: index, source })?;
    let mut notices = Notices { next: Instant::now() + NOTICE, tell: &|peer| waiting(peer, &hosts.addresses()[peer]) };
    let mut sockets: Vec<Option<TcpStream>> = (0..processes).map(|_| None).collect();

    for (peer, socket) in sockets.iter_mut().enumerate().take(index) {
        let stream = loop {
            if Instant::now() >= until {
                return Err(late(peer));
            }
            notices.missing(peer);
            match TcpStream::connect_timeout(&hosts.addresses()[peer], RETRY.max(NOTICE.min(until - Instant::now()))) {
                Ok(stream) => break stream,
                Err(_) => std::thread::sleep(RETRY),
            }
        };
        greet(&stream, index, processes, identity, until)
            .and_then(|()| notices.while_silent(&stream, peer, until))
            .and_then(|()| read_greeting(&stream, processes, identity, until))
            .and_then(|found| {
                if found == peer {
                    Ok(())
                } else {
                    Err(Refusal::Differs(found, format!("it answers on the address of process {peer}")))
                }
            })
            .map_err(|refusal| {
                let broken = matches!(&refusal, Refusal::Stranger(reason) if reason != TIMED_OUT);
                let cause =
                    if broken { failure_elsewhere(hosts, index, peer, &listener, identity, until) } else { None };
                cause.unwrap_or_else(|| refusal.into_error(peer, &late))
            })?;
        *socket = Some(stream);
    }
    while let Some(missing) = (index + 1..processes).find(|&peer| sockets[peer].is_none()) {
        if Instant::now() >= until {
            return Err(late(missing));
        }
        notices.missing(missing);
        let Ok((stream, from)) = listener.accept() else {
            std::thread::sleep(RETRY);
            continue;
        };
        match read_greeting(&stream, processes, identity, until.min(Instant::now() + Duration::from_secs(2))) {
            Ok(peer) if peer > index && sockets[peer].is_none() => {
                greet(&stream, index, processes, identity, until).map_err(|r| r.into_error(peer, &late))?;
                sockets[peer] = Some(stream);
            }
            Ok(peer) => tracing::warn!("{from} calls itself process {peer}, which is taken or not expected: refused"),
            Err(Refusal::Stranger(reason)) => tracing::warn!("a connection from {from} was refused: {reason}"),
            Err(Refusal::Failed(failed)) => return Err(*failed),
            Err(Refusal::Differs(process, reason)) => {
                // Answer, so that the other side can say what differs too.
                let _ = greet(&stream, index, processes, identity, until);
                return Err(JoinError::Mismatch { process, reason });
            }
        }
    }
    drop(listener);
    for socket in sockets.iter().flatten() {
        let ready = socket
            .set_nodelay(true)
            .and_then(|()| socket.set_read_timeout(None))
            .and_then(|()| socket.set_write_timeout(None));
        ready.map_err(|e| JoinError::Start(e.to_string()))?;
    }
    let hooks = Hooks::default();
    let local = timely::communication::allocator::ProcessBuilder::new_typed_vector(
        identity.workers,
        hooks.refill.clone(),
        hooks.spill.clone(),
    );
    let (builders, guard) = initialize_networking_from_sockets(local, sockets, index, identity.workers, hooks)
        .map_err(|e| JoinError::Start(e.to_string()))?;
    Ok((builders.into_iter().map(AllocatorBuilder::Tcp).collect(), Box::new(guard)))
}

/// How long a process whose peer broke off listens for the cause.
const AFTERMATH: Duration = Duration::from_secs(2);

/// The failure of a third process, if one [declines](decline) now: `gone` may have ended because it heard of that failure first.
fn failure_elsewhere(
    hosts: &Hosts,
    index: usize,
    gone: usize,
    listener: &TcpListener,
    identity: JobIdentity,
    until: Instant,
) -> Option<JoinError> {
    let processes = hosts.len();
    let until = until.min(Instant::now() + AFTERMATH);
    let heard =
        |stream: &TcpStream| match read_greeting(stream, processes, identity, until.min(Instant::now() + NOTICE / 6)) {
            Err(Refusal::Failed(failed)) => Some(*failed),
            _ => None,
        };
    while Instant::now() < until {
        for peer in (0..index).filter(|peer| *peer != gone) {
            let stream = TcpStream::connect_timeout(&hosts.addresses()[peer], RETRY);
            let told = stream.ok().filter(|s| greet(s, index, processes, identity, until).is_ok());
            if let Some(failed) = told.and_then(|stream| heard(&stream)) {
                return Some(failed);
            }
        }
        if let Some(failed) = listener.accept().ok().and_then(|(stream, _)| heard(&stream)) {
            return Some(failed);
        }
        std::thread::sleep(RETRY);
    }
    None
}

/// Tells now and then who is missing.
struct Notices<'a> {
    next: Instant,
    tell: &'a dyn Fn(usize),
}

impl Notices<'_> {
    fn missing(&mut self, peer: usize) {
        if Instant::now() >= self.next {
            (self.tell)(peer);
            self.next = Instant::now() + NOTICE;
        }
    }

    /// Waits until `peer`, which is connected, says something: it may itself wait for others. What it says is left to be read.
    fn while_silent(&mut self, stream: &TcpStream, peer: usize, until: Instant) -> Result<(), Refusal> {
        loop {
            let patience = remaining(until.min(Instant::now() + NOTICE));
            let heard = stream.set_read_timeout(Some(patience)).and_then(|()| stream.peek(&mut [0]));
            let silent = heard.is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
            if !silent || Instant::now() >= until {
                return Ok(());
            }
            self.missing(peer);
        }
    }
}

/// Why a greeting was not accepted.
enum Refusal {
    /// Not one of ours, or silent.
    Stranger(String),
    /// One of ours, with another job.
    Differs(usize, String),
    /// One of ours that failed.
    Failed(Box<JoinError>),
}

impl Refusal {
    fn into_error(self, peer: usize, late: &dyn Fn(usize) -> JoinError) -> JoinError {
        match self {
            Refusal::Differs(process, reason) => JoinError::Mismatch { process, reason },
            Refusal::Failed(failed) => *failed,
            Refusal::Stranger(reason) if reason == TIMED_OUT => late(peer),
            Refusal::Stranger(reason) => JoinError::Mismatch { process: peer, reason },
        }
    }
}

const TIMED_OUT: &str = "it sent no greeting in time";

fn remaining(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

fn greet(
    mut stream: &TcpStream,
    index: usize,
    processes: usize,
    identity: JobIdentity,
    until: Instant,
) -> Result<(), Refusal> {
    let mut bytes = Vec::with_capacity(GREETING_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&PROTOCOL.to_le_bytes());
    bytes.extend_from_slice(&(index as u64).to_le_bytes());
    bytes.extend_from_slice(&(processes as u64 | (identity.workers as u64) << 32).to_le_bytes());
    identity.parts.iter().for_each(|part| bytes.extend_from_slice(part));
    stream
        .set_write_timeout(Some(remaining(until)))
        .and_then(|()| stream.write_all(&bytes))
        .map_err(|e| Refusal::Stranger(format!("the connection broke: {e}")))
}

fn read_greeting(
    mut stream: &TcpStream,
    processes: usize,
    identity: JobIdentity,
    until: Instant,
) -> Result<usize, Refusal> {
    let mut bytes = [0u8; GREETING_BYTES];
    stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(remaining(until))))
        .and_then(|()| stream.read_exact(&mut bytes))
        .map_err(|e| match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Refusal::Stranger(TIMED_OUT.into()),
            _ => Refusal::Stranger(format!("the connection broke: {e}")),
        })?;
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|k| bytes[at + k]));
    if bytes[..8] != MAGIC {
        return Err(Refusal::Stranger("it does not speak nystream's protocol".into()));
    }
    let index = word(12) as usize;
    let protocol = u32::from_le_bytes(std::array::from_fn(|k| bytes[8 + k]));
    if protocol != PROTOCOL {
        return Err(Refusal::Differs(index, format!("it speaks protocol {protocol}, this process {PROTOCOL}")));
    }
    let counts = word(20);
    let (theirs, workers) = ((counts & 0xffff_ffff) as usize, (counts >> 32) as usize);
    if theirs != processes || index >= processes {
        return Err(Refusal::Differs(index, format!("its host file names {theirs} processes, this one's {processes}")));
    }
    if workers == FAILED {
        return Err(Refusal::Failed(Box::new(read_failure(stream, index)?)));
    }
    if workers != identity.workers {
        return Err(Refusal::Differs(index, format!("it runs --workers {workers}, this process {}", identity.workers)));
    }
    match identity.differences(&bytes[HEAD_BYTES..]).as_slice() {
        [] => Ok(index),
        [one] => Err(Refusal::Differs(index, format!("it runs another job: {one} differs from this process's"))),
        several => {
            let several = several.join("; ");
            Err(Refusal::Differs(
                index,
                format!("it runs another job, which differs from this process's in: {several}"),
            ))
        }
    }
}

/// Instead of a number of workers: a process that failed, whose exit code and reason follow.
const FAILED: usize = 0;
/// Longest reason that is sent, bytes.
const LONGEST: usize = 4096;

fn read_failure(mut stream: &TcpStream, process: usize) -> Result<JoinError, Refusal> {
    let broken = |e: std::io::Error| Refusal::Stranger(format!("the connection broke: {e}"));
    let mut head = [0u8; 5];
    stream.read_exact(&mut head).map_err(broken)?;
    let length = u32::from_le_bytes(std::array::from_fn(|k| head[1 + k])) as usize;
    let mut message = vec![0; length.min(LONGEST)];
    stream.read_exact(&mut message).map_err(broken)?;
    Ok(JoinError::Failed { process, code: head[0], message: String::from_utf8_lossy(&message).into_owned() })
}

/// Tells the processes of `hosts` that process `index` has failed and will not join, with its exit code and reason: they end with
/// [`JoinError::Failed`] instead of waiting for it. Those that do not appear within `patience` are not told.
pub fn decline(hosts: &Hosts, index: usize, code: u8, message: &str, patience: Duration) {
    let until = Instant::now() + patience;
    let processes = hosts.len();
    let tell = |mut stream: &TcpStream| {
        let identity = JobIdentity::new(FAILED, &[]);
        let message = &message.as_bytes()[..message.len().min(LONGEST)];
        let told = greet(stream, index, processes, identity, until).is_ok();
        let body = [&[code], &(message.len() as u32).to_le_bytes()[..], message].concat();
        told && stream.write_all(&body).is_ok()
    };
    let listener = hosts.address(index).ok().and_then(|address| {
        let listener = TcpListener::bind(address).ok()?;
        listener.set_nonblocking(true).ok().map(|()| listener)
    });
    let mut left: Vec<usize> = (0..processes).filter(|peer| *peer != index).collect();
    while !left.is_empty() && Instant::now() < until {
        left.retain(|&peer| {
            let patience = RETRY.max(NOTICE.min(until.saturating_duration_since(Instant::now())));
            peer > index || !TcpStream::connect_timeout(&hosts.addresses()[peer], patience).is_ok_and(|s| tell(&s))
        });
        while let Some((stream, _)) = listener.as_ref().and_then(|listener| listener.accept().ok()) {
            let soon = until.min(Instant::now() + Duration::from_secs(2));
            // What it is asked to agree on does not matter any more, only who it is.
            let mut greeting = [0u8; GREETING_BYTES];
            let heard = stream
                .set_nonblocking(false)
                .and_then(|()| stream.set_read_timeout(Some(remaining(soon))))
                .and_then(|()| (&stream).read_exact(&mut greeting));
            let peer = u64::from_le_bytes(std::array::from_fn(|k| greeting[12 + k])) as usize;
            if heard.is_ok() && greeting[..8] == MAGIC && tell(&stream) {
                left.retain(|waiting| *waiting != peer);
            }
        }
        if !left.is_empty() {
            std::thread::sleep(RETRY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_fails_says_why_to_those_before_and_after_it() {
        let hosts = free_hosts(3);
        std::thread::scope(|scope| {
            let waiting = [0, 2].map(|me| {
                let hosts = &hosts;
                scope.spawn(move || join(hosts, me, identity(1), Duration::from_secs(20), &|_, _| {}).err())
            });
            decline(&hosts, 1, 4, "no such file", Duration::from_secs(20));
            for (process, end) in waiting.into_iter().enumerate() {
                let end = end.join().unwrap();
                let told = matches!(&end, Some(JoinError::Failed { process: 1, code: 4, message }) if message == "no such file");
                assert!(told, "process {process}: {end:?}");
            }
        });
        // Nobody comes: it does not wait for ever.
        let begun = Instant::now();
        decline(&free_hosts(2), 0, 1, "", Duration::from_millis(200));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    fn free_hosts(count: usize) -> Hosts {
        let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let lines: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        drop(listeners);
        Hosts::parse(&lines.join("\n")).unwrap()
    }

    fn identity(tag: u8) -> JobIdentity {
        JobIdentity::new(1, &[("the version", [9; 8]), ("--seed or --precision", [tag; 8])])
    }

    #[test]
    fn a_missing_process_is_named_within_the_deadline() {
        let hosts = free_hosts(2);
        for (me, missing) in [(0, 1), (1, 0)] {
            match join(&hosts, me, identity(1), Duration::from_millis(300), &|_, _| {}) {
                Err(JoinError::Timeout { missing: found, .. }) => assert_eq!(found, missing),
                other => panic!("{:?}", other.err()),
            }
        }
    }

    #[test]
    fn another_job_is_refused_on_both_sides_and_strangers_do_no_harm() {
        let hosts = free_hosts(2);
        let other = hosts.clone();
        let first = std::thread::spawn(move || join(&other, 0, identity(1), Duration::from_secs(20), &|_, _| {}).err());
        std::thread::sleep(Duration::from_millis(100));
        let mut stranger = TcpStream::connect(hosts.addresses()[0]).unwrap();
        stranger.write_all(&[b'x'; GREETING_BYTES]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let second = join(&hosts, 1, identity(2), Duration::from_secs(20), &|_, _| {}).err();
        for error in [first.join().unwrap(), second] {
            let error = error.expect("refused").to_string();
            assert!(error.contains("another job: --seed or --precision differs"), "{error}");
        }
    }

    #[test]
    fn a_wait_says_for_whom() {
        let wait = |hosts: &Hosts, me: usize, missing: usize| {
            let told = std::cell::RefCell::new(Vec::new());
            let tell = |peer: usize, address: &SocketAddr| told.borrow_mut().push((peer, *address));
            let end = join(hosts, me, identity(1), NOTICE + NOTICE / 2, &tell).err();
            assert!(matches!(end, Some(JoinError::Timeout { missing: m, .. }) if m == missing), "{end:?}");
            assert_eq!(told.into_inner(), [(missing, hosts.addresses()[missing])]);
        };
        std::thread::scope(|scope| {
            scope.spawn(|| wait(&free_hosts(2), 0, 1));
            // The first process is there, and says nothing.
            let hosts = free_hosts(2);
            let silent = TcpListener::bind(hosts.addresses()[0]).unwrap();
            wait(&hosts, 1, 0);
            drop(silent);
        });
    }

    #[test]
    fn an_address_in_use_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hosts = Hosts::parse(&format!("{}\n127.0.0.1:1", listener.local_addr().unwrap())).unwrap();
        let message =
            join(&hosts, 0, identity(0), Duration::from_secs(1), &|_, _| {}).err().expect("refused").to_string();
        assert!(message.contains("cannot listen on"), "{message}");
    }
}
