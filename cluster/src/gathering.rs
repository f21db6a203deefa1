//! How a join goes on: who is waited for, what the others are told, and how it ends.
//!
//! A join that fails goes on as another gathering for some seconds, in which this process listens and connects as before, and tells whoever comes why it has failed
//! ([`Gathering::last_words`]): so all hear of it, those too that were not there yet. Each of those does the same, since the first may not reach them all (a process that cannot listen
//! hears nobody); two that meet so need not tell each other again, and it is over when all have met.

use crate::arrivals::{Event, Outgoing, Seats, Shared, connect, receive};
use crate::frames::{Kind, Opener, Transport};
use crate::greeting::{Ending, Hello};
use crate::handshake::{Link, Party, send};
use crate::hosts::Hosts;
use crate::join::JoinError;
use crate::listener::Listener;
use crate::secret::Secret;
use crate::strangers::Strangers;
use std::net::{Shutdown, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two words about whom a process waits for.
pub(crate) const NOTICE: Duration = Duration::from_secs(3);
/// Longest time between two signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// Longest time to tell a process why this one ends.
const TELL: Duration = Duration::from_millis(500);
/// How long a process whose join has failed tells those who come.
pub(crate) const LINGER: Duration = Duration::from_secs(5);
/// How long one does that ends by an interrupt.
const LEAVE: Duration = Duration::from_secs(2);
/// Exit code of a process that could not join, as the others are told it.
const UNJOINED: u8 = 6;

/// Ends a join from another thread; clones are the same.
///
/// ```
/// use nystream_cluster::JoinStop;
/// // No join is under way: nobody to tell.
/// assert!(!JoinStop::default().end(130, "it was interrupted"));
/// ```
#[derive(Clone, Default)]
pub struct JoinStop(Arc<Mutex<Option<Sender<Event>>>>);

impl JoinStop {
    fn set(&self, events: Option<Sender<Event>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = events;
    }

    /// The join is over.
    pub(crate) fn forget(&self) {
        self.set(None);
    }

    /// Ends the join that is under way, which gives [`JoinError::Stopped`], with the words for the others: that this process ends with exit code `code` because of `message`. Returns when
    /// they were told, after three seconds at most; false where there is no join.
    pub fn end(&self, code: u8, message: &str) -> bool {
        let Some(events) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return false };
        let (tell, told) = channel();
        // The join fills in who it is.
        let ending = Ending { process: 0, code, message: message.to_owned() };
        if events.send(Event::Stop(ending, tell)).is_err() {
            return false;
        }
        drop(events);
        let _ = told.recv_timeout(LEAVE + 2 * TELL);
        true
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
    /// What was last heard from each address, and who was refused.
    heard: Vec<Option<String>>,
    strangers: Strangers,
    /// Whether the others were told that all of them are connected to this process.
    ready: bool,
    /// Who is to be told when the last words were said.
    stopped: Option<Sender<()>>,
}

/// Tells the processes of `hosts`, but for those that were `told`, how process `index` has ended. Takes at most `patience`.
pub(crate) fn last_words(
    hosts: &Hosts,
    index: usize,
    secret: &Secret,
    ending: Ending,
    told: Vec<bool>,
    patience: Duration,
) {
    let hello = Hello::Fails { sender: index, processes: hosts.len(), ending };
    let party = Party { secret: secret.clone(), transport: Transport::Noise, hello, member: None };
    // Nothing more can be done for those that are not told.
    let _ = Gathering::start(hosts, index, party, patience, &|_, _| {}, told).and_then(|mut all| all.run().map(drop));
}

impl<'a> Gathering<'a> {
    /// Starts to listen and to connect: as a process that joins to those before it, as one that has failed to all that were not `told`, and without listening where that is what failed.
    pub(crate) fn start(
        hosts: &Hosts,
        index: usize,
        party: Party,
        deadline: Duration,
        waiting: &'a dyn Fn(usize, &str),
        told: Vec<bool>,
    ) -> Result<Self, JoinError> {
        let address = hosts.address(index)?.to_owned();
        if !party.secret.is_shared() {
            hosts.check_loopback()?;
        }
        let processes = hosts.len();
        let joins = party.member.is_some();
        let (events, received) = channel();
        let shared = Arc::new(Shared {
            hosts: hosts.clone(),
            index,
            party,
            until: Instant::now() + deadline,
            over: AtomicBool::new(false),
            seats: Seats::of(processes),
            events,
        });
        let visited = Arc::clone(&shared);
        let listener = hosts
            .resolve(index)
            .and_then(|own| TcpListener::bind(&own[..]))
            .and_then(|listener| Listener::start(listener, move |visitor| receive(&visited, visitor)));
        let listener = match listener {
            Ok(listener) => Some(listener),
            Err(source) if joins => return Err(JoinError::Listen { address, process: index, source }),
            Err(_) => None,
        };
        let told: Vec<bool> = (0..processes).map(|peer| told.get(peer).copied().unwrap_or_default()).collect();
        for peer in (0..processes).filter(|&peer| if joins { peer < index } else { peer != index && !told[peer] }) {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("connect-{peer}"));
            thread.spawn(move || connect(&shared, peer)).map_err(|e| JoinError::Start(e.to_string()))?;
        }
        Ok(Gathering {
            shared,
            events: received,
            seconds: deadline.as_secs(),
            waiting,
            listener,
            outgoing: (0..processes).map(|_| None).collect(),
            openers: (0..processes).map(|_| None).collect(),
            told,
            heard: vec![None; processes],
            strangers: Strangers::default(),
            ready: false,
            stopped: None,
        })
    }

    /// Lets `stop` end this join.
    pub(crate) fn stopped_by(&self, stop: &JoinStop) {
        stop.set(Some(self.shared.events.clone()));
    }

    /// Waits until all processes are ready, or were told that this one is not. Gives the connections in the order of the processes.
    ///
    /// # Errors
    /// See [`crate::join`]; those that are connected were told.
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
                // Connections that were made meanwhile are told as well; what comes after these sees that it is over.
                while let Ok(event) = self.events.try_recv() {
                    if let Event::Linked(outgoing) = event {
                        let peer = outgoing.member.index;
                        self.outgoing[peer] = Some(outgoing);
                    }
                }
                self.tell(&error);
                Err(error)
            }
        }
    }

    /// After a failed [`Gathering::run`]: tells those who come, for some seconds, unless `error` is this process's own affair or all have waited as long as it did.
    pub(crate) fn last_words(&mut self, error: &JoinError) {
        let patience = match error {
            JoinError::Timeout { .. } | JoinError::Refused { .. } | JoinError::Start(_) | JoinError::Hosts(_) => return,
            JoinError::Stopped { .. } => LEAVE,
            _ => LINGER,
        };
        let Shared { hosts, index, party, .. } = &*self.shared;
        last_words(hosts, *index, &party.secret, ending(error, *index), self.told.clone(), patience);
        if let Some(stopped) = self.stopped.take() {
            let _ = stopped.send(());
        }
    }

    /// The first process that is missing from `list`.
    fn missing<T>(&self, list: &[T], there: impl Fn(&T) -> bool) -> Option<usize> {
        (0..list.len()).find(|&peer| peer != self.shared.index && !there(&list[peer]))
    }

    fn wait(&mut self) -> Result<(), JoinError> {
        let mut notice = Instant::now() + NOTICE;
        let mut beat = Instant::now();
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
            if now >= beat {
                beat = now + self.beat();
            }
            let next = self.shared.until.min(notice).min(beat);
            match self.events.recv_timeout(next.saturating_duration_since(now)) {
                Ok(event) => self.take(event)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(JoinError::Start("the join broke off".into())),
            }
        }
    }

    /// A sign of life to all that are connected; gives the time until the next.
    fn beat(&mut self) -> Duration {
        let mut pause = BEAT;
        for outgoing in self.outgoing.iter_mut().flatten() {
            pause = pause.min(Duration::from_millis(outgoing.member.patience_millis) / 6);
            let sent = send(&outgoing.socket, &mut outgoing.sealer, Kind::Heartbeat, &[], Instant::now() + TELL);
            if sent.is_err() {
                // Half a frame may be on its way. The thread that reads it says what became of it.
                let _ = outgoing.socket.shutdown(Shutdown::Both);
            }
        }
        pause.max(Duration::from_millis(5))
    }

    fn take(&mut self, event: Event) -> Result<(), JoinError> {
        match event {
            Event::Linked(outgoing) => {
                let peer = outgoing.member.index;
                tracing::info!(peer, address = %self.shared.hosts.addresses()[peer], "connected");
                self.outgoing[peer] = Some(outgoing);
            }
            Event::Ready(peer, opener) => self.openers[peer] = Some(opener),
            Event::Broke(peer, how) if self.ready => {
                // It may have begun the job, or not: it cannot come back to it.
                let message =
                    format!("its connection ended when all were there ({how}): it died, or its own message says why");
                return Err(JoinError::Failed { process: peer, code: UNJOINED, message });
            }
            Event::Broke(peer, how) => {
                tracing::info!(peer, "{how}");
                self.outgoing[peer] = None;
                self.heard[peer] = Some(how);
            }
            Event::Heard(peer, what) => self.heard[peer] = Some(what),
            Event::Refused(from, reason) => self.strangers.refused(from.ip(), reason),
            Event::Told(peer) => self.told[peer] = true,
            Event::Failed(error, sender) => {
                let known =
                    [sender, if let JoinError::Failed { process, .. } = &error { Some(*process) } else { None }];
                for peer in known.into_iter().flatten() {
                    if let Some(told) = self.told.get_mut(peer) {
                        *told = true;
                    }
                }
                return Err(error);
            }
            Event::Stop(Ending { code, message, .. }, tell) => {
                self.stopped = Some(tell);
                return Err(JoinError::Stopped { code, message });
            }
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
        let addresses = || {
            let found = self.shared.hosts.resolve(missing).unwrap_or_default();
            found.iter().map(std::net::SocketAddr::ip).collect()
        };
        let detail = connected.or_else(|| self.heard[missing].clone()).or_else(|| self.strangers.about(addresses));
        JoinError::Timeout {
            missing,
            address: self.shared.hosts.addresses()[missing].clone(),
            seconds: self.seconds,
            detail: detail.map(|detail| format!(": {detail}")).unwrap_or_default(),
        }
    }

    /// Tells the connected processes why this one ends, and closes the connections.
    fn tell(&mut self, error: &JoinError) {
        let ending = ending(error, self.shared.index).to_bytes();
        let until = Instant::now() + TELL;
        for (peer, outgoing) in self.outgoing.iter_mut().enumerate() {
            let Some(Outgoing { socket, sealer, .. }) = outgoing else { continue };
            self.told[peer] |= send(socket, sealer, Kind::Ended, &ending, until).is_ok();
            // Nothing is read any more; what was sent is on its way.
            let _ = socket.shutdown(Shutdown::Write);
        }
    }
}

/// What the others are told of a join of process `index` that failed.
pub(crate) fn ending(error: &JoinError, index: usize) -> Ending {
    match error {
        JoinError::Failed { process, code, message } => {
            Ending { process: *process, code: *code, message: message.clone() }
        }
        JoinError::Stopped { code, message } => Ending { process: index, code: *code, message: message.clone() },
        error => Ending { process: index, code: UNJOINED, message: error.to_string() },
    }
}
