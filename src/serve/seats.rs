//! How many may be served at a time, and who has to leave for the next.
//!
//! *Seats* are connections, each with a thread. A connection that says nothing keeps its seat only while nobody else needs it: when all are taken, the one that has been waited for longest is closed. So idle
//! clients, however many, hold up nobody. *Permits* bound what requests take at a time, processors and bytes.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    seats: BTreeMap<u64, Place>,
}

#[derive(Debug)]
struct Place {
    socket: TcpStream,
    /// Since when its client is waited for; `None` while it is answered.
    quiet: Option<Instant>,
    asked_to_leave: bool,
}

/// Seats for connections.
#[derive(Debug)]
pub struct Seats {
    most: usize,
    held: Mutex<Held>,
    freed: Condvar,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    of: Arc<Seats>,
    number: u64,
}

impl Seats {
    /// So many.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Seats { most, held: Mutex::default(), freed: Condvar::new() })
    }

    /// How many are taken.
    #[cfg(test)]
    pub fn taken(&self) -> usize {
        lock(&self.held).seats.len()
    }

    /// A seat for `socket`, as soon as there is one.
    ///
    /// # Errors
    /// A socket that is gone.
    pub fn take(self: &Arc<Self>, socket: &TcpStream) -> std::io::Result<Seat> {
        let socket = socket.try_clone()?;
        let mut held = lock(&self.held);
        while held.seats.len() >= self.most {
            let quiet = held.seats.values_mut().filter(|seat| seat.quiet.is_some() && !seat.asked_to_leave);
            if let Some(seat) = quiet.min_by_key(|seat| seat.quiet) {
                seat.asked_to_leave = true;
                // Its thread reads an end, and leaves.
                let _ = seat.socket.shutdown(Shutdown::Both);
            }
            held = self.freed.wait_timeout(held, Duration::from_millis(50)).unwrap_or_else(PoisonError::into_inner).0;
        }
        let number = held.next;
        held.next += 1;
        held.seats.insert(number, Place { socket, quiet: Some(Instant::now()), asked_to_leave: false });
        Ok(Seat { of: Arc::clone(self), number })
    }
}

impl Seat {
    /// From now on the client is waited for, or is not.
    pub fn waits(&self, waits: bool) {
        if let Some(seat) = lock(&self.of.held).seats.get_mut(&self.number) {
            seat.quiet = waits.then(Instant::now);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.of.held).seats.remove(&self.number);
        self.of.freed.notify_all();
    }
}

/// A number of things that are lent.
#[derive(Debug)]
pub struct Permits {
    all: usize,
    free: Mutex<usize>,
    freed: Condvar,
}

/// Some of them, until they are dropped.
#[derive(Debug)]
pub struct Permit<'a> {
    of: &'a Permits,
    count: usize,
}

impl Permits {
    /// So many.
    pub fn new(all: usize) -> Self {
        Permits { all, free: Mutex::new(all), freed: Condvar::new() }
    }

    /// `count` of them, or all where there are fewer; `None` where they are not free in time.
    pub fn take(&self, count: usize, until: Instant) -> Option<Permit<'_>> {
        let count = count.min(self.all);
        let mut free = lock(&self.free);
        while *free < count {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            free = self.freed.wait_timeout(free, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= count;
        Some(Permit { of: self, count })
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *lock(&self.of.free) += self.count;
        self.of.freed.notify_all();
    }
}
