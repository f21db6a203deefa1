//! The connections of a running job: what timely reads and writes, signs of life, and how a lost process is noticed.
//!
//! Both directions of a connection have a lock, a counter and a buffer of their own, since timely reads and writes from two threads: neither ever waits
//! for the other.
//!
//! * A thread a connection sends a heartbeat at least every sixth of the time after which the other end would take this process for lost, and every five
//!   seconds, between the frames of timely: long algebra is no death. A stopped process sends none.
//! * A connection that breaks or ends without a farewell, silence longer than `peer_timeout`, a full pipe that nobody drains for as long, and a frame that does
//!   not verify each end the job: the handler of the job is called with a [`PeerLost`], which in a program does not return.
//! * A process that ends early says so to the others ([`Network::announce`]), so that all name the process at fault and not the first one that
//!   ended because of it.
//!
//! Silence is counted in reads that found nothing, not by a clock: a process that was stopped itself, or a machine that slept, first reads what has
//! arrived meanwhile.
//!
//! An orderly end is a farewell in each direction, sent when timely has sent all. Only then does a read give 0 bytes.

use crate::frames::{Kind, Opener, PAYLOAD, Sealer};
use crate::greeting::Ending;
use crate::handshake::Link;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};
use timely::communication::allocator::zero_copy::stream::Stream;

/// Longest time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Frames that are sealed before they are written together.
const BATCH: usize = 4;
/// How long a writer whose connection broke waits for the reader, which may hear why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A process that the job has lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLost {
    /// Its index.
    pub process: usize,
    /// Its address, as the host file has it.
    pub address: String,
    /// What happened, in words.
    pub reason: String,
}

impl std::fmt::Display for PeerLost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({}) was lost: {}", self.process, self.address, self.reason)
    }
}

/// What is done when a process is lost. Threads of timely call it, several at once maybe; what it is called for cannot be mended, so a program ends in it.
pub type LostHandler = Arc<dyn Fn(PeerLost) + Send + Sync>;

/// What went over the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent to other processes, frames and heartbeats included.
    pub bytes_sent: u64,
    /// Bytes received from them.
    pub bytes_received: u64,
}

/// What is known of the connection to another process.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerState {
    /// Its index.
    pub process: usize,
    /// Its address, as the host file has it.
    pub address: String,
    /// How long nothing has been heard from it; `None` once it has said farewell.
    pub silent: Option<Duration>,
    /// What went to it and came from it.
    pub traffic: Traffic,
}

/// Counts of one connection.
#[derive(Default)]
struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    /// Milliseconds of the job when something was last heard.
    heard: AtomicU64,
    over: AtomicBool,
}

impl Counters {
    fn traffic(&self) -> Traffic {
        Traffic { bytes_sent: self.sent.load(Ordering::Relaxed), bytes_received: self.received.load(Ordering::Relaxed) }
    }
}

/// What the connections of a job share.
pub(crate) struct Job {
    /// This process.
    pub index: usize,
    pub addresses: Vec<String>,
    pub peer_timeout: Duration,
    pub lost: LostHandler,
    begun: Instant,
    /// By process.
    counters: Vec<Counters>,
}

impl Job {
    pub(crate) fn new(index: usize, addresses: Vec<String>, peer_timeout: Duration, lost: LostHandler) -> Arc<Self> {
        let counters = addresses.iter().map(|_| Counters::default()).collect();
        Arc::new(Job { index, addresses, peer_timeout, lost, begun: Instant::now(), counters })
    }

    /// How long a read or a write waits before it looks again.
    fn tick(&self) -> Duration {
        (self.peer_timeout / 20).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }
}

/// The connections of a job, for whoever watches it.
#[derive(Clone)]
pub struct Network {
    job: Arc<Job>,
    peers: Vec<Weak<Peer>>,
}

impl Network {
    pub(crate) fn new<'a>(job: Arc<Job>, streams: impl Iterator<Item = &'a PeerStream>) -> Self {
        Network { job, peers: streams.map(|stream| Arc::downgrade(&stream.0)).collect() }
    }

    /// What went over the network so far.
    pub fn traffic(&self) -> Traffic {
        let own = self.job.counters.iter().map(Counters::traffic);
        own.fold(Traffic::default(), |sum, one| Traffic {
            bytes_sent: sum.bytes_sent + one.bytes_sent,
            bytes_received: sum.bytes_received + one.bytes_received,
        })
    }

    /// The connections to the other processes, in their order.
    pub fn peers(&self) -> Vec<PeerState> {
        let all = self.job.addresses.iter().zip(&self.job.counters).enumerate();
        all.filter(|(process, _)| *process != self.job.index)
            .map(|(process, (address, counters))| {
                let heard = Duration::from_millis(counters.heard.load(Ordering::Relaxed));
                let silent = self.job.begun.elapsed().saturating_sub(heard);
                PeerState {
                    process,
                    address: address.clone(),
                    silent: Some(silent).filter(|_| !counters.over.load(Ordering::Relaxed)),
                    traffic: counters.traffic(),
                }
            })
            .collect()
    }

    /// The address of this process, as the host file has it.
    pub fn address(&self) -> &str {
        self.job.addresses.get(self.job.index).map_or("", String::as_str)
    }

    /// Tells the other processes that this one ends now with exit code `code`, because of `message`, which happened to `process` (this one, or one that it has
    /// lost). Takes at most half a second; whoever cannot be told by then will see the connection end.
    pub fn announce(&self, process: usize, code: u8, message: &str) {
        let until = Instant::now() + LAST_WORDS;
        let ending = Ending { process, code, message: message.to_owned() }.to_bytes();
        for peer in self.peers.iter().filter_map(Weak::upgrade) {
            let Some(mut sending) = peer.lock_until(until) else { continue };
            if sending.open {
                let _ = peer.send(&mut sending, Kind::Ended, &ending, Some(until));
                sending.open = false;
            }
        }
    }
}

/// A connection to another process.
pub(crate) struct Peer {
    index: usize,
    socket: TcpStream,
    sending: Mutex<Sending>,
    receiving: Mutex<Receiving>,
    job: Arc<Job>,
}

struct Sending {
    sealer: Sealer,
    /// Neither a farewell nor half a frame was sent.
    open: bool,
    bytes: Vec<u8>,
    /// Ends the thread of heartbeats when it goes away.
    alive: Option<Sender<()>>,
}

struct Receiving {
    opener: Opener,
    /// Bytes of the last frame's payload that were handed on; all of them at first.
    taken: usize,
    left: usize,
    over: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    fn counters(&self) -> Option<&Counters> {
        self.job.counters.get(self.index)
    }

    fn lost(&self, process: usize, reason: String) -> io::Error {
        let address = self.job.addresses.get(process).cloned().unwrap_or_default();
        tracing::info!(peer = process, address, reason, "lost");
        let lost = PeerLost { process, address, reason };
        let error = io::Error::new(ErrorKind::ConnectionAborted, lost.to_string());
        (self.job.lost)(lost);
        error
    }

    /// The sending direction, unless somebody holds it until then.
    fn lock_until(&self, until: Instant) -> Option<MutexGuard<'_, Sending>> {
        loop {
            match self.sending.try_lock() {
                Ok(sending) => return Some(sending),
                Err(TryLockError::Poisoned(poison)) => return Some(poison.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Sends `payload` in as many frames of this kind as it takes, one at least.
    fn send(&self, sending: &mut Sending, kind: Kind, payload: &[u8], until: Option<Instant>) -> io::Result<()> {
        sending.bytes.clear();
        let mut bytes = std::mem::take(&mut sending.bytes);
        let (first, rest) = payload.split_at(payload.len().min(PAYLOAD));
        let mut sealed = sending.sealer.seal(kind, first, &mut bytes);
        for piece in rest.chunks(PAYLOAD) {
            sealed = sealed.and_then(|()| sending.sealer.seal(kind, piece, &mut bytes));
        }
        let sent = sealed.and_then(|()| self.push(&bytes, until));
        sending.open &= sent.is_ok();
        sending.bytes = bytes;
        sent
    }

    /// Writes to the socket. A pipe that takes nothing for `peer_timeout`, or until then, is an error of kind `TimedOut`.
    fn push(&self, mut bytes: &[u8], until: Option<Instant>) -> io::Result<()> {
        let tick = self.job.tick();
        let mut full = Duration::ZERO;
        while !bytes.is_empty() {
            match (&self.socket).write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    if let Some(counters) = self.counters() {
                        counters.sent.fetch_add(written as u64, Ordering::Relaxed);
                    }
                    bytes = &bytes[written..];
                    full = Duration::ZERO;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if waits(&error) => {
                    full += tick;
                    if full >= self.job.peer_timeout || until.is_some_and(|until| Instant::now() >= until) {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What a failure to write means for the job.
    fn unwritable(&self, error: &io::Error) -> io::Error {
        if error.kind() == ErrorKind::TimedOut {
            let seconds = self.job.peer_timeout.as_secs_f64();
            return self.lost(
                self.index,
                format!("it has read nothing for {seconds} s: it is stopped, overloaded or cut off"),
            );
        }
        std::thread::sleep(LAST_WORDS);
        self.lost(self.index, format!("the connection broke ({error}): it died, or was killed or cut off"))
    }

    fn beat(&self) -> bool {
        let mut sending = lock(&self.sending);
        if !sending.open {
            return false;
        }
        match self.send(&mut sending, Kind::Heartbeat, &[], None) {
            Ok(()) => true,
            Err(error) => {
                drop(sending);
                self.unwritable(&error);
                false
            }
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut receiving = lock(&self.receiving);
        let receiving = &mut *receiving;
        if receiving.over || buffer.is_empty() {
            return Ok(0);
        }
        while receiving.left == 0 {
            match self.next(&mut receiving.opener)? {
                Kind::Data => {
                    (receiving.taken, receiving.left) = (0, receiving.opener.payload().len());
                }
                Kind::Heartbeat => {}
                Kind::Farewell => {
                    receiving.over = true;
                    if let Some(counters) = self.counters() {
                        counters.over.store(true, Ordering::Relaxed);
                    }
                    return Ok(0);
                }
                Kind::Ended => {
                    return Err(match Ending::from_bytes(receiving.opener.payload()) {
                        Some(ending) if ending.process == self.job.index => {
                            self.lost(self.index, format!("it has given this process up: {}", ending.message))
                        }
                        Some(ending) if ending.process < self.job.addresses.len() => {
                            self.lost(ending.process, ending.message)
                        }
                        _ => self.lost(self.index, "it ended".into()),
                    });
                }
                kind => return Err(self.lost(self.index, format!("it sent what does not belong here ({kind:?})"))),
            }
        }
        let count = receiving.left.min(buffer.len());
        buffer[..count].copy_from_slice(&receiving.opener.payload()[receiving.taken..][..count]);
        (receiving.taken, receiving.left) = (receiving.taken + count, receiving.left - count);
        Ok(count)
    }

    /// The next frame, however long it takes as long as the other end lives.
    fn next(&self, opener: &mut Opener) -> io::Result<Kind> {
        let tick = self.job.tick();
        let mut silent = Duration::ZERO;
        loop {
            let before = opener.arrived;
            let next = opener.next(&mut &self.socket);
            let arrived = opener.arrived - before;
            if arrived > 0 {
                silent = Duration::ZERO;
                if let Some(counters) = self.counters() {
                    counters.received.fetch_add(arrived, Ordering::Relaxed);
                    counters.heard.store(self.job.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
                }
            }
            match next {
                Ok(Some(kind)) => return Ok(kind),
                Err(error) if waits(&error) => {
                    silent += tick;
                    if silent >= self.job.peer_timeout {
                        let seconds = self.job.peer_timeout.as_secs_f64();
                        let reason = format!(
                            "it has been silent for {seconds} s (--peer-timeout): it is stopped, overloaded or cut off"
                        );
                        return Err(self.lost(self.index, reason));
                    }
                }
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    return Err(self.lost(self.index, error.to_string()));
                }
                Ok(None) | Err(_) => {
                    let reason = "its connection ended without a farewell: it died or was killed".to_owned();
                    return Err(self.lost(self.index, reason));
                }
            }
        }
    }
}

/// Whether a read or write only found nothing to do in its time.
pub(crate) fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A connection as timely has it; clones are the same connection.
pub(crate) struct PeerStream(pub Arc<Peer>);

impl PeerStream {
    /// Makes a stream of a connection whose process is ready, and starts its heartbeats.
    ///
    /// # Errors
    /// A socket that cannot be set up, or no thread.
    pub(crate) fn start(link: Link, job: &Arc<Job>) -> io::Result<Self> {
        let Link { socket, sealer, opener, member } = link;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(job.tick()))?;
        socket.set_write_timeout(Some(job.tick()))?;
        let (alive, ended) = channel();
        let peer = Arc::new(Peer {
            index: member.index,
            socket,
            sending: Mutex::new(Sending { sealer, open: true, bytes: Vec::new(), alive: Some(alive) }),
            receiving: Mutex::new(Receiving { opener, taken: 0, left: 0, over: false }),
            job: Arc::clone(job),
        });
        let beating = Arc::downgrade(&peer);
        let pause = Duration::from_millis(member.patience_millis / 6).clamp(Duration::from_millis(1), HEARTBEAT);
        std::thread::Builder::new().name(format!("heartbeat-{}", member.index)).spawn(move || {
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                if !beating.upgrade().is_some_and(|peer| peer.beat()) {
                    break;
                }
            }
        })?;
        Ok(PeerStream(peer))
    }
}

impl Read for PeerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for PeerStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(BATCH * PAYLOAD)];
        if bytes.is_empty() {
            return Ok(0);
        }
        let mut sending = lock(&self.0.sending);
        if !sending.open {
            return Err(ErrorKind::BrokenPipe.into());
        }
        match self.0.send(&mut sending, Kind::Data, bytes, None) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                // Whoever announces the end must not wait for this thread.
                drop(sending);
                Err(self.0.unwritable(&error))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for PeerStream {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(PeerStream(Arc::clone(&self.0)))
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        if nonblocking { Err(ErrorKind::Unsupported.into()) } else { Ok(()) }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            let mut sending = lock(&self.0.sending);
            sending.alive = None;
            if sending.open {
                let sent = self.0.send(&mut sending, Kind::Farewell, &[], None);
                sending.open = false;
                drop(sending);
                sent.map_err(|error| self.0.unwritable(&error))?;
            }
        }
        // The other end may be gone already, farewell in hand.
        let _ = self.0.socket.shutdown(how);
        Ok(())
    }
}
