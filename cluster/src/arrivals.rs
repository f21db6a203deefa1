//! The threads of a join: those that connect to other processes, and what is done with whoever connects to this one.
//!
//! A connection whose handshake is over is heard until the process at its other end is ready, fails, goes away, or falls silent for the time after which a job would take it for lost
//! (each end sends a sign of life until the job begins): then its seat is free, and it may come again.

use crate::frames::{Kind, Opener, Sealer};
use crate::greeting::{Ending, Member};
use crate::handshake::{Link, Party, Refusal};
use crate::hosts::Hosts;
use crate::join::JoinError;
use crate::listener::Visitor;
use crate::peers::waits;
use std::cell::Cell;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const RETRY: Duration = Duration::from_millis(50);
/// Longest time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest time for a handshake at the end that connects: more than the end that listens has, which so never welcomes a process that has given up.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A process that is refused for so long takes it for an answer: until then an older job may still be going away.
const REFUSED: Duration = Duration::from_secs(3);

/// After so long without a sign of life, of which there is one a second, a connection makes room for another: less than [`REFUSED`].
const STALE: Duration = Duration::from_secs(2);

/// What the threads tell.
pub(crate) enum Event {
    /// There is a connection to a process of this job.
    Linked(Outgoing),
    /// That process is connected to all; what it says next is in the opener.
    Ready(usize, Opener),
    /// Its connection ended before that: how.
    Broke(usize, String),
    /// What was heard from the address of a process.
    Heard(usize, String),
    /// A connection from there was refused, and why.
    Refused(SocketAddr, String),
    /// It was told that this process has failed.
    Told(usize),
    /// The join has failed; who said so, unless it was found here.
    Failed(JoinError, Option<usize>),
    /// This process is to end, and why: the others are told, then the sender.
    Stop(Ending, Sender<()>),
}

/// The half of a connection that is for sending.
pub(crate) struct Outgoing {
    pub socket: TcpStream,
    pub sealer: Sealer,
    pub member: Member,
}

/// What the threads share.
pub(crate) struct Shared {
    pub hosts: Hosts,
    pub index: usize,
    pub party: Party,
    pub until: Instant,
    /// Whether the join is over.
    pub over: AtomicBool,
    /// Those that are connected.
    pub seats: Seats,
    pub events: Sender<Event>,
}

impl Shared {
    fn say(&self, event: Event) {
        // Nobody listens any more when the join is over.
        let _ = self.events.send(event);
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || Instant::now() >= self.until
    }
}

/// The connections of a join, a seat for each process. One that has been silent for [`STALE`] makes room for a process that comes in its place: a machine that vanished and is back
/// says so long before its old connection is given up.
pub(crate) struct Seats(Mutex<Vec<Option<Seat>>>);

struct Seat {
    heard: Instant,
    socket: Option<TcpStream>,
}

impl Seats {
    pub(crate) fn of(processes: usize) -> Self {
        Seats(Mutex::new((0..processes).map(|_| None).collect()))
    }

    fn with<T>(&self, peer: usize, act: impl FnOnce(&mut Option<Seat>) -> T) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(peer).map(act)
    }

    /// Takes the seat of `peer`, unless it is taken.
    fn take(&self, peer: usize, socket: Option<TcpStream>) -> bool {
        let taken = self.with(peer, |seat| match seat {
            Some(Seat { heard, socket }) => {
                if let Some(socket) = socket.as_ref().filter(|_| heard.elapsed() >= STALE) {
                    // The thread that reads it frees the seat, and whoever asks for it asks again.
                    let _ = socket.shutdown(Shutdown::Both);
                }
                false
            }
            None => {
                *seat = Some(Seat { heard: Instant::now(), socket });
                true
            }
        });
        taken.unwrap_or_default()
    }

    fn free(&self, peer: usize) {
        self.with(peer, |seat| *seat = None);
    }

    /// There was a sign of life.
    fn heard(&self, peer: usize) {
        self.with(peer, |seat| seat.iter_mut().for_each(|seat| seat.heard = Instant::now()));
    }

    pub(crate) fn is_taken(&self, peer: usize) -> bool {
        self.with(peer, |seat| seat.is_some()).unwrap_or_default()
    }
}

/// Connects to process `peer` until that succeeds or the join is over.
pub(crate) fn connect(shared: &Shared, peer: usize) {
    let mut refused: Option<Instant> = None;
    while !shared.over() {
        let outcome = reach(shared, peer)
            .map_err(Refusal::Stranger)
            .and_then(|socket| shared.party.connect(socket, peer, shared.until.min(Instant::now() + HANDSHAKE)));
        let told = match outcome {
            Ok(Some(link)) => {
                refused = None;
                shared.seats.take(peer, None);
                if split(link).is_ok_and(|halves| watch(shared, halves)) {
                    return;
                }
                shared.seats.free(peer);
                // What happened was told.
                std::thread::sleep(RETRY);
                continue;
            }
            Ok(None) => return shared.say(Event::Told(peer)),
            Err(Refusal::Failed(sender, ending)) => return shared.say(Event::Failed(failed(ending), Some(sender))),
            Err(Refusal::Differs(process, reason)) => {
                return shared.say(Event::Failed(JoinError::Mismatch { process, reason }, None));
            }
            Err(Refusal::Stranger(what)) => {
                refused = None;
                what
            }
            Err(refusal @ (Refusal::Secret | Refusal::Refused(_))) => {
                let address = shared.hosts.addresses()[peer].clone();
                let error = match refusal {
                    Refusal::Refused(reason) => JoinError::Refused { process: peer, reason },
                    _ => JoinError::Secret { process: peer, address },
                };
                if refused.get_or_insert_with(Instant::now).elapsed() >= REFUSED && shared.party.member.is_some() {
                    return shared.say(Event::Failed(error, None));
                }
                error.to_string()
            }
        };
        shared.say(Event::Heard(peer, told));
        std::thread::sleep(RETRY);
    }
}

/// A new connection to process `peer`.
fn reach(shared: &Shared, peer: usize) -> Result<TcpStream, String> {
    let found = shared.hosts.resolve(peer).map_err(|e| format!("its name cannot be resolved ({e})"))?;
    let mut last = "it cannot be reached".to_owned();
    // Without a secret no name leads away from this machine.
    for address in found.iter().filter(|a| shared.party.secret.is_shared() || a.ip().is_loopback()) {
        let patience = shared.until.saturating_duration_since(Instant::now()).min(CONNECT);
        match TcpStream::connect_timeout(address, patience.max(Duration::from_millis(1))) {
            Ok(socket) => {
                let _ = socket.set_nodelay(true);
                return Ok(socket);
            }
            Err(error) => last = format!("it cannot be reached ({error})"),
        }
    }
    Err(last)
}

/// Hears somebody who connected.
pub(crate) fn receive(shared: &Shared, visitor: Visitor) {
    let card = visitor.card();
    let Visitor { socket, from, until, .. } = visitor;
    // Whose seat this connection has taken, until it is heard from.
    let (seat, own) = (Cell::new(None), Cell::new(socket.try_clone().ok()));
    let welcome = |member: &Member| {
        card.settle();
        let peer = member.index;
        if peer <= shared.index {
            return Err("a process with a lower number does not connect to this one".to_owned());
        }
        if !shared.seats.take(peer, own.take()) {
            return Err("there is such a process already: each needs a --process of its own".to_owned());
        }
        seat.set(Some(peer));
        Ok(())
    };
    let strange = |reason: String| {
        card.refused(&reason);
        shared.say(Event::Refused(from, reason));
    };
    let accepted = shared.party.accept(socket, shared.until.min(until), &welcome);
    if let (Err(_), Some(peer)) = (&accepted, seat.get()) {
        // It went away before it had its welcome: it may come again.
        shared.seats.free(peer);
    }
    match accepted {
        Ok(Ok(link)) => {
            let peer = link.member.index;
            let there = split(link).is_ok_and(|halves| watch(shared, halves));
            if !there {
                shared.seats.free(peer);
            }
        }
        Ok(Err(told)) if told < shared.hosts.len() => shared.say(Event::Told(told)),
        Ok(Err(_)) => {}
        Err(Refusal::Differs(process, reason)) => {
            card.refused(&reason);
            shared.say(Event::Failed(JoinError::Mismatch { process, reason }, None));
        }
        // A second process of an index that is here, and well: what becomes of it is its own affair.
        Err(Refusal::Failed(sender, ending)) if shared.seats.is_taken(sender) => {
            strange(format!("it calls itself process {sender}, which is here already, and failed: {}", ending.message));
        }
        Err(Refusal::Failed(sender, ending)) => shared.say(Event::Failed(failed(ending), Some(sender))),
        Err(Refusal::Stranger(reason)) => strange(reason),
        // Ends that listen say these, and do not hear them.
        Err(Refusal::Secret | Refusal::Refused(_)) => strange("it refused this process".into()),
    }
}

fn failed(ending: Ending) -> JoinError {
    JoinError::Failed { process: ending.process, code: ending.code, message: ending.message }
}

fn split(link: Link) -> io::Result<(Outgoing, TcpStream, Opener)> {
    let Link { socket, sealer, opener, member } = link;
    let reading = socket.try_clone()?;
    Ok((Outgoing { socket, sealer, member }, reading, opener))
}

/// Reads until the process at the other end is ready, or fails, or goes away or falls silent: then it gives false, and another connection may take the place of this one.
fn watch(shared: &Shared, (outgoing, socket, mut opener): (Outgoing, TcpStream, Opener)) -> bool {
    let peer = outgoing.member.index;
    let patience = shared.party.member.as_ref().map_or(0, |member| member.patience_millis);
    shared.say(Event::Linked(outgoing));
    if shared.over() {
        // Nobody may have taken it any more: the other end is to come again, and hears why.
        let _ = socket.shutdown(Shutdown::Both);
        return false;
    }
    let said = hear(&socket, &mut opener, Duration::from_millis(patience), &|| shared.seats.heard(peer));
    let ending = Ending::from_bytes(opener.payload()).filter(|_| matches!(said, Ok(Some(Kind::Ended))));
    let (there, event) = match (said, ending) {
        (Ok(Some(Kind::Ready)), _) => (true, Event::Ready(peer, opener)),
        (_, Some(ending)) => (true, Event::Failed(failed(ending), Some(peer))),
        (Err(silence), _) => {
            // The other end, if it lives, is to notice and come again.
            let _ = socket.shutdown(Shutdown::Both);
            (false, Event::Broke(peer, silence))
        }
        _ => (false, Event::Broke(peer, "it was there and went away".into())),
    };
    shared.say(event);
    there
}

/// The next frame but signs of life; none at the end of the connection, and words for a silence of `patience`. Silence is counted in reads that found nothing, as in a job.
fn hear(socket: &TcpStream, opener: &mut Opener, patience: Duration, alive: &dyn Fn()) -> Result<Option<Kind>, String> {
    let tick = (patience / 20).clamp(Duration::from_millis(5), Duration::from_secs(1));
    if socket.set_read_timeout(Some(tick)).is_err() {
        return Ok(None);
    }
    let mut silent = Duration::ZERO;
    loop {
        let before = opener.arrived;
        match opener.next(&mut &*socket) {
            Ok(Some(Kind::Heartbeat)) => {
                silent = Duration::ZERO;
                alive();
            }
            Ok(said) => return Ok(said),
            Err(error) if waits(&error) => {
                silent = if opener.arrived > before { Duration::ZERO } else { silent + tick };
                if silent >= patience {
                    let seconds = patience.as_secs_f64();
                    return Err(format!(
                        "it was there and has been silent for {seconds} s (--peer-timeout): it is stopped, overloaded or cut off"
                    ));
                }
            }
            Err(_) => return Ok(None),
        }
    }
}
