//! The listener of a join: whoever comes is heard in a thread of its own, and nobody can keep others from being heard.
//!
//! At most [`PENDING`] connections are heard at once, each for at most [`VISIT`]. When one more comes the oldest that has not yet proved that it belongs here is
//! closed: of honest ones, whose handshake takes milliseconds, it takes a flood to close one, and that one tries again. Refused ones are logged, the first
//! few one by one and then at each doubling of their number.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections that are heard at once.
const PENDING: usize = 64;
/// How long a connection has for its handshake.
pub(crate) const VISIT: Duration = Duration::from_secs(5);
/// How often a listener looks for connections.
const LOOK: Duration = Duration::from_millis(5);
/// Refused connections that are logged one by one.
const LOGGED: u64 = 16;

#[derive(Default)]
struct Hall {
    /// Those that have proved nothing yet, oldest first.
    pending: Mutex<VecDeque<(u64, TcpStream)>>,
    refused: Mutex<u64>,
}

/// A connection that somebody made.
pub(crate) struct Visitor {
    pub socket: TcpStream,
    pub from: SocketAddr,
    /// Its handshake must be over by then.
    pub until: Instant,
    number: u64,
    hall: Arc<Hall>,
}

#[cfg(test)]
impl Visitor {
    /// One that came without a listener.
    pub(crate) fn alone(socket: TcpStream) -> Self {
        let from = SocketAddr::from(([127, 0, 0, 1], 1));
        Visitor { socket, from, until: Instant::now() + VISIT, number: 0, hall: Arc::default() }
    }
}

impl Visitor {
    /// The means to say, later and without the visitor, what it is.
    pub(crate) fn card(&self) -> Card {
        Card { from: self.from, number: self.number, hall: Arc::clone(&self.hall) }
    }
}

/// Names a visitor.
pub(crate) struct Card {
    from: SocketAddr,
    number: u64,
    hall: Arc<Hall>,
}

impl Card {
    /// It has proved that it belongs here, or is gone: it is not closed for others.
    pub(crate) fn settle(&self) {
        let mut pending = self.hall.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.retain(|(number, _)| *number != self.number);
    }

    /// Logs that it was refused.
    pub(crate) fn refused(&self, reason: &str) {
        let mut refused = self.hall.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused += 1;
        if *refused <= LOGGED {
            tracing::warn!("a connection from {} was refused: {reason}", self.from);
        } else if refused.is_power_of_two() {
            tracing::warn!("{refused} connections were refused so far, the last one from {}: {reason}", self.from);
        }
    }
}

/// Listens until it is dropped.
pub(crate) struct Listener {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Listener {
    /// Calls `visit` for each connection, in a thread of its own.
    pub(crate) fn start(listener: TcpListener, visit: impl Fn(Visitor) + Send + Sync + 'static) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let hall = Arc::new(Hall::default());
        let visit = Arc::new(visit);
        let thread = std::thread::Builder::new().name("listener".into()).spawn(move || {
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((socket, from)) => {
                        number += 1;
                        let until = Instant::now() + VISIT;
                        let visitor = Visitor { socket, from, until, number, hall: Arc::clone(&hall) };
                        // Without memory or threads for it, it is dropped and tries again.
                        let _ = hear(visitor, Arc::clone(&visit));
                    }
                    // Nobody, or one that went away, or no room for more: none ends the listening.
                    Err(_) => std::thread::sleep(LOOK),
                }
            }
        })?;
        Ok(Listener { thread: Some(thread), stop })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn hear(visitor: Visitor, visit: Arc<impl Fn(Visitor) + Send + Sync + 'static>) -> io::Result<()> {
    visitor.socket.set_nonblocking(false)?;
    visitor.socket.set_nodelay(true)?;
    let card = visitor.card();
    {
        let mut pending = visitor.hall.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() >= PENDING
            && let Some((_, oldest)) = pending.pop_front()
        {
            let _ = oldest.shutdown(Shutdown::Both);
        }
        pending.push_back((visitor.number, visitor.socket.try_clone()?));
    }
    std::thread::Builder::new()
        .name("visitor".into())
        .spawn(move || {
            let card = visitor.card();
            visit(visitor);
            card.settle();
        })
        .map(|_| ())
        .inspect_err(|_| card.settle())
}
