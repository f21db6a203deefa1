//! How a join goes on: the threads that connect and listen, and the one that waits for them.

use crate::frames::{Kind, Opener, Sealer};
use crate::greeting::{Ending, Member};
use crate::handshake::{Link, Party, Refusal, send};
use crate::hosts::Hosts;
use crate::join::JoinError;
use crate::listener::{Listener, Visitor};
use std::cell::Cell;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const RETRY: Duration = Duration::from_millis(50);
/// Time between two words about whom a process waits for.
pub(crate) const NOTICE: Duration = Duration::from_secs(3);
/// Longest time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest time for a handshake at the end that connects: more than the end that listens has, which so never welcomes a process that has given up.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A process that is refused for so long takes it for an answer: until then an older job may still be going away.
const REFUSED: Duration = Duration::from_secs(3);
/// Longest time to tell the others why this process ends.
const TELL: Duration = Duration::from_millis(500);
/// Exit code of a process that could not join, as the others are told it.
const UNJOINED: u8 = 6;

/// What the threads tell.
enum Event {
    /// There is a connection to a process of this job.
    Linked(Outgoing),
    /// That process is connected to all; what it says next is in the opener.
    Ready(usize, Opener),
    /// Its connection ended before that.
    Broke(usize),
    /// What was heard from the address of a process, or from somebody.
    Heard(Option<usize>, String),
    /// It was told that this process has failed.
    Told(usize),
    Failed(JoinError),
}

/// The half of a connection that is for sending.
struct Outgoing {
    socket: TcpStream,
    sealer: Sealer,
    member: Member,
}

/// What the threads share.
struct Shared {
    hosts: Hosts,
    index: usize,
    party: Party,
    until: Instant,
    /// Whether the join is over.
    over: AtomicBool,
    /// Processes that connected and still are.
    here: Mutex<Vec<bool>>,
    events: Sender<Event>,
}

impl Shared {
    fn say(&self, event: Event) {
        // Nobody listens any more when the join is over.
        let _ = self.events.send(event);
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || Instant::now() >= self.until
    }

    fn here(&self, peer: usize, here: bool) -> bool {
        let mut all = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut all[peer], here)
    }
}

/// A join under way.
pub(crate) struct Gathering<'a> {
    shared: Arc<Shared>,
    events: Receiver<Event>,
    seconds: u64,
    waiting: &'a dyn Fn(usize, &str),
    listener: Option<Listener>,
    outgoing: Vec<Option<Outgoing>>,
    openers: Vec<Option<Opener>>,
    told: Vec<bool>,
    /// What was last heard from each address, and from strangers.
    heard: Vec<Option<String>>,
    strangers: Option<String>,
    /// Whether the others were told that all of them are connected to this process.
    ready: bool,
}

impl<'a> Gathering<'a> {
    /// Starts to listen and to connect.
    pub(crate) fn start(
        hosts: &Hosts,
        index: usize,
        party: Party,
        deadline: Duration,
        waiting: &'a dyn Fn(usize, &str),
    ) -> Result<Self, JoinError> {
        let address = hosts.address(index)?.to_owned();
        if !party.secret.is_shared() {
            hosts.check_loopback()?;
        }
        let processes = hosts.len();
        let listen = |source| JoinError::Listen { address: address.clone(), process: index, source };
        let listener = hosts.resolve(index).and_then(|own| TcpListener::bind(&own[..])).map_err(listen)?;
        let (events, received) = channel();
        let until = Instant::now() + deadline;
        let here = Mutex::new(vec![false; processes]);
        let shared =
            Arc::new(Shared { hosts: hosts.clone(), index, party, until, over: AtomicBool::new(false), here, events });
        let visited = Arc::clone(&shared);
        let listener = Listener::start(listener, move |visitor| receive(&visited, visitor)).map_err(listen)?;
        for peer in 0..index {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("connect-{peer}"));
            thread.spawn(move || connect(&shared, peer)).map_err(|e| JoinError::Start(e.to_string()))?;
        }
        Ok(Gathering {
            shared,
            events: received,
            seconds: deadline.as_secs(),
            waiting,
            listener: Some(listener),
            outgoing: (0..processes).map(|_| None).collect(),
            openers: (0..processes).map(|_| None).collect(),
            told: vec![false; processes],
            heard: vec![None; processes],
            strangers: None,
            ready: false,
        })
    }

    /// Waits until all processes are ready, or were told that this one is not. Gives the connections in the order of the processes.
    ///
    /// # Errors
    /// See [`crate::join`]; the others were told.
    pub(crate) fn run(&mut self) -> Result<Vec<Link>, JoinError> {
        let end = self.wait();
        self.shared.over.store(true, Ordering::Relaxed);
        self.listener = None;
        match end {
            Ok(()) => {
                let halves = self.outgoing.iter_mut().zip(&mut self.openers);
                let links = halves.filter_map(|(outgoing, opener)| {
                    let Outgoing { socket, sealer, member } = outgoing.take()?;
                    Some(Link { socket, sealer, opener: opener.take()?, member })
                });
                Ok(links.collect())
            }
            Err(error) => {
                self.tell(&error);
                Err(error)
            }
        }
    }

    /// The first process that is missing from `list`.
    fn missing<T>(&self, list: &[T], there: impl Fn(&T) -> bool) -> Option<usize> {
        (0..list.len()).find(|&peer| peer != self.shared.index && !there(&list[peer]))
    }

    fn wait(&mut self) -> Result<(), JoinError> {
        let mut notice = Instant::now() + NOTICE;
        loop {
            let joins = self.shared.party.member.is_some();
            let missing = match joins {
                true => self.missing(&self.outgoing, Option::is_some),
                false => self.missing(&self.told, |told| *told),
            };
            if joins && missing.is_none() && !self.ready {
                self.ready();
            }
            let late = missing.or_else(|| self.missing(&self.openers, Option::is_some)).filter(|_| joins);
            let Some(late) = late.or(missing) else { return Ok(()) };
            let now = Instant::now();
            if now >= self.shared.until {
                return Err(self.timeout(late));
            }
            if now >= notice {
                (self.waiting)(late, &self.shared.hosts.addresses()[late]);
                notice = now + NOTICE;
            }
            match self.events.recv_timeout(self.shared.until.min(notice).saturating_duration_since(now)) {
                Ok(event) => self.take(event)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(JoinError::Start("the join broke off".into())),
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<(), JoinError> {
        match event {
            Event::Linked(outgoing) => {
                let peer = outgoing.member.index;
                self.outgoing[peer] = Some(outgoing);
            }
            Event::Ready(peer, opener) => self.openers[peer] = Some(opener),
            Event::Broke(peer) if self.ready => {
                // It may have begun the job, or not: it cannot come back to it.
                let message = "its connection ended when all were there: it died, or its own message says why".into();
                return Err(JoinError::Failed { process: peer, code: UNJOINED, message });
            }
            Event::Broke(peer) => {
                self.outgoing[peer] = None;
                self.heard[peer] = Some("it was there and went away".into());
            }
            Event::Heard(Some(peer), what) => self.heard[peer] = Some(what),
            Event::Heard(None, what) => self.strangers = Some(what),
            Event::Told(peer) => self.told[peer] = true,
            Event::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Tells the others that this process is connected to all, and stops listening.
    fn ready(&mut self) {
        self.ready = true;
        for outgoing in self.outgoing.iter_mut().flatten() {
            // A connection that broke is noticed by the thread that reads it.
            let _ = send(&outgoing.socket, &mut outgoing.sealer, Kind::Ready, &[], self.shared.until);
        }
        // Last, so that whoever sees it closed knows that the others can begin.
        self.listener = None;
    }

    fn timeout(&self, missing: usize) -> JoinError {
        let connected = self.outgoing[missing].is_some().then(|| "it waits for another process itself".to_owned());
        let detail = connected.or_else(|| self.heard[missing].clone()).or_else(|| self.strangers.clone());
        JoinError::Timeout {
            missing,
            address: self.shared.hosts.addresses()[missing].clone(),
            seconds: self.seconds,
            detail: detail.map(|detail| format!(": {detail}")).unwrap_or_default(),
        }
    }

    /// Tells the connected processes why this one ends, and closes the connections.
    fn tell(&mut self, error: &JoinError) {
        let ending = match error {
            JoinError::Failed { process, code, message } => {
                Ending { process: *process, code: *code, message: message.clone() }
            }
            error => Ending { process: self.shared.index, code: UNJOINED, message: error.to_string() },
        };
        let until = Instant::now() + TELL;
        for outgoing in self.outgoing.iter_mut().flatten() {
            let _ = send(&outgoing.socket, &mut outgoing.sealer, Kind::Ended, &ending.to_bytes(), until);
            // The thread that reads it ends too.
            let _ = outgoing.socket.shutdown(Shutdown::Both);
        }
    }
}

/// Connects to process `peer` until that succeeds or the join is over.
fn connect(shared: &Shared, peer: usize) {
    let mut refused: Option<Instant> = None;
    while !shared.over() {
        let outcome = reach(shared, peer)
            .map_err(Refusal::Stranger)
            .and_then(|socket| shared.party.connect(socket, peer, shared.until.min(Instant::now() + HANDSHAKE)));
        let told = match outcome {
            Ok(Some(link)) => {
                refused = None;
                if split(link).is_ok_and(|halves| watch(shared, halves)) {
                    return;
                }
                "it was there and went away".to_owned()
            }
            Ok(None) => return shared.say(Event::Told(peer)),
            Err(Refusal::Failed(ending)) => return shared.say(Event::Failed(failed(ending))),
            Err(Refusal::Differs(process, reason)) => {
                return shared.say(Event::Failed(JoinError::Mismatch { process, reason }));
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
                if refused.get_or_insert_with(Instant::now).elapsed() >= REFUSED {
                    return shared.say(Event::Failed(error));
                }
                error.to_string()
            }
        };
        shared.say(Event::Heard(Some(peer), told));
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
fn receive(shared: &Shared, visitor: Visitor) {
    let card = visitor.card();
    let Visitor { socket, from, until, .. } = visitor;
    // Whose seat this connection has taken, until it is heard from.
    let seat = Cell::new(None);
    let welcome = |member: &Member| {
        card.settle();
        let peer = member.index;
        if peer <= shared.index {
            return Err("a process with a lower number does not connect to this one".to_owned());
        }
        if shared.here(peer, true) {
            return Err("there is such a process already: each needs a --process of its own".to_owned());
        }
        seat.set(Some(peer));
        Ok(())
    };
    let strange = |reason: String| {
        card.refused(&reason);
        shared.say(Event::Heard(None, format!("a connection from {from} was refused: {reason}")));
    };
    let accepted = shared.party.accept(socket, shared.until.min(until), &welcome);
    if let (Err(_), Some(peer)) = (&accepted, seat.get()) {
        // It went away before it had its welcome: it may come again.
        shared.here(peer, false);
    }
    match accepted {
        Ok(Ok(link)) => {
            let peer = link.member.index;
            let there = split(link).is_ok_and(|halves| watch(shared, halves));
            if !there {
                shared.here(peer, false);
            }
        }
        Ok(Err(told)) if told < shared.hosts.len() => shared.say(Event::Told(told)),
        Ok(Err(_)) => {}
        Err(Refusal::Differs(process, reason)) => {
            card.refused(&reason);
            shared.say(Event::Failed(JoinError::Mismatch { process, reason }));
        }
        Err(Refusal::Failed(ending)) => shared.say(Event::Failed(failed(ending))),
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
    socket.set_read_timeout(None)?;
    let reading = socket.try_clone()?;
    Ok((Outgoing { socket, sealer, member }, reading, opener))
}

/// Reads until the process at the other end is ready, or fails, or goes away: then it gives false, and another connection may take the place of this one.
fn watch(shared: &Shared, (outgoing, socket, mut opener): (Outgoing, TcpStream, Opener)) -> bool {
    let peer = outgoing.member.index;
    shared.say(Event::Linked(outgoing));
    let said = opener.next(&mut &socket).ok().flatten();
    let ending = Ending::from_bytes(opener.payload()).filter(|_| said == Some(Kind::Ended));
    let (there, event) = match (said, ending) {
        (Some(Kind::Ready), _) => (true, Event::Ready(peer, opener)),
        (_, Some(ending)) => (true, Event::Failed(failed(ending))),
        _ => (false, Event::Broke(peer)),
    };
    shared.say(event);
    there
}
