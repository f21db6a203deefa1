//! What stands for a network on loopback: a relay before the address of process 0 that delays what passes, stalls some of it, or lets nothing through.
//!
//! A lost packet shows to TCP's users as a stall of a retransmission: so a share of the pieces waits longer, and all behind it too.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a piece that was lost takes to be sent again: Linux' least retransmission time.
const AGAIN: Duration = Duration::from_millis(200);

/// What happens to what passes.
#[derive(Clone, Default)]
pub struct Relay {
    delay: Duration,
    /// One piece of so many is lost; 0: none.
    loses: usize,
    cut: Arc<AtomicBool>,
    pieces: Arc<AtomicUsize>,
    /// What the connecting end of the first connection said.
    recorded: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    /// One that delays, and loses one piece of `loses`.
    pub fn slow(delay: Duration, loses: usize) -> Self {
        Relay { delay, loses, ..Relay::default() }
    }

    /// Relays to `target`, and gives the address to connect to instead.
    pub fn start(&self, target: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let relay = self.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                // Whoever is not there yet refuses the connection, as it would without a relay.
                let Ok(beyond) = TcpStream::connect(&target) else { continue };
                for (from, to, first) in [(&socket, &beyond, true), (&beyond, &socket, false)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    to.set_nodelay(true).unwrap();
                    relay.direction(from, to, first);
                }
            }
        });
        address
    }

    /// From now on nothing passes, and nobody is told.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// What was recorded of the connecting ends.
    pub fn recorded(&self) -> Vec<u8> {
        self.recorded.lock().unwrap().clone()
    }

    fn direction(&self, mut from: TcpStream, mut to: TcpStream, first: bool) {
        let (send, receive) = channel::<(Instant, Vec<u8>)>();
        let relay = self.clone();
        std::thread::spawn(move || {
            let mut bytes = vec![0; 16 << 10];
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                let number = relay.pieces.fetch_add(1, Ordering::Relaxed) + 1;
                let lost = relay.loses > 0 && number.is_multiple_of(relay.loses);
                let due = Instant::now() + relay.delay + if lost { AGAIN } else { Duration::ZERO };
                if first {
                    let mut recorded = relay.recorded.lock().unwrap();
                    if recorded.len() < 4096 {
                        recorded.extend_from_slice(&bytes[..read]);
                    }
                }
                if send.send((due, bytes[..read].to_vec())).is_err() {
                    break;
                }
            }
        });
        let relay = self.clone();
        std::thread::spawn(move || {
            for (due, bytes) in receive {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                while relay.cut.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(50));
                }
                if to.write_all(&bytes).is_err() {
                    return;
                }
            }
            while relay.cut.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }
}
