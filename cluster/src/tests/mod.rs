//! Tests of the crate on loopback, and what they share.

mod failing;
mod frames;
mod hostile;
mod joins;
mod peers;

use crate::frames::{Opener, PlainKeys, Sealer, Transport, directions, plain};
use crate::handshake::noise;
use crate::{Hosts, JobIdentity, JoinError, JoinOptions, JoinStop, Joined, PeerLost, Secret, join};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longer than anything here takes, however busy the machine is.
const AMPLE: Duration = Duration::from_secs(120);

fn secret(tag: u8) -> Secret {
    Secret::new(&[tag; 20], "the test").unwrap()
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

fn options(secret: Secret, join_timeout: Duration) -> JoinOptions<'static> {
    JoinOptions {
        secret,
        transport: Transport::Noise,
        join_timeout,
        peer_timeout: AMPLE,
        waiting: &|_, _| {},
        failing: &|_| {},
        stop: JoinStop::default(),
        lost: Arc::new(|lost| panic!("{lost}")),
    }
}

/// Joins with one worker.
fn join_as(hosts: &Hosts, index: usize, tag: u8, options: &JoinOptions<'_>) -> Result<Joined, JoinError> {
    join(hosts, index, 1, &identity(tag), options)
}

/// Numbers that a worker of [`run_job`] sends.
const NUMBERS: u64 = 300_000;

/// Each worker sends every number, times its own place counted from 1, to all; each copy is added up by one of them. Gives the sum of this process.
fn run_job(joined: Joined) -> u64 {
    use timely::dataflow::operators::vec::{Broadcast, ToStream};
    use timely::dataflow::operators::{Exchange, Inspect};
    let (allocators, guard) = joined.communication;
    let total = Arc::new(Mutex::new(0));
    let all = Arc::clone(&total);
    let workers = timely::execute::execute_from(allocators, guard, timely::WorkerConfig::default(), move |worker| {
        let times = worker.index() as u64 + 1;
        let all = Arc::clone(&all);
        worker.dataflow::<u64, _, _>(|scope| {
            let numbers = (0..NUMBERS).map(move |number| number * times).to_stream(scope);
            numbers.broadcast().exchange(|number: &u64| *number).inspect(move |number| *all.lock().unwrap() += number);
        });
    });
    workers.unwrap().join().into_iter().for_each(|end| end.unwrap());
    *total.lock().unwrap()
}

/// Both ends of a connection.
fn sockets() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connecting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    [connecting, listener.accept().unwrap().0]
}

/// The frames of both ends of a connection, as a handshake leaves them.
fn ends(transport: Transport) -> [(Sealer, Opener); 2] {
    let secret = secret(1);
    let mut states = [true, false].map(|connecting| noise(&secret, connecting).unwrap());
    for (from, to) in [(0, 1), (1, 0)] {
        let mut message = [0; 48];
        states[from].write_message(&[], &mut message).unwrap();
        states[to].read_message(&message, &mut []).unwrap();
    }
    states.map(|state| {
        let keys = PlainKeys::of(&secret, &state);
        let (mut sealer, mut opener) = directions(state.into_stateless_transport_mode().unwrap());
        if transport == Transport::Plain {
            plain(keys, &mut sealer, &mut opener);
        }
        (sealer, opener)
    })
}

/// A handler that keeps what was lost.
#[derive(Clone, Default)]
struct Losses(Arc<Mutex<Vec<PeerLost>>>);

impl Losses {
    fn handler(&self) -> crate::LostHandler {
        let all = Arc::clone(&self.0);
        Arc::new(move |lost| all.lock().unwrap().push(lost))
    }

    fn all(&self) -> Vec<PeerLost> {
        self.0.lock().unwrap().clone()
    }
}
