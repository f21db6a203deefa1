//! Joins that fail: all hear of it, those too that come later; and connections that die or fall silent before the job begins.

use super::*;
use crate::arrivals::{Event, Seats, Shared, receive};
use crate::frames::Kind;
use crate::greeting::{Hello, Member};
use crate::handshake::{Party, preamble, send};
use crate::listener::Visitor;
use crate::{decline, gathering::LINGER};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::time::Instant;

/// The process and the words of a failure that was told.
fn told(end: Result<Joined, JoinError>) -> (usize, u8, String) {
    match end.err().expect("it failed") {
        JoinError::Failed { process, code, message } => (process, code, message),
        other => panic!("{other:?}"),
    }
}

/// Joins, and says when it begins to fail.
fn join_and_say(hosts: &Hosts, index: usize, tag: u8, failing: &dyn Fn()) -> Result<Joined, JoinError> {
    join_as(hosts, index, tag, &JoinOptions { failing: &|_| failing(), ..options(secret(1), AMPLE) })
}

#[test]
fn a_mismatch_is_told_to_who_comes_later() {
    let hosts = free_hosts(3);
    let (say, failing) = channel();
    std::thread::scope(|scope| {
        let hosts = &hosts;
        let [first, second] = [1, 2].map(|tag| {
            let say = say.clone();
            scope.spawn(move || join_and_say(hosts, tag as usize - 1, tag, &|| say.send(()).unwrap()))
        });
        failing.recv().unwrap();
        failing.recv().unwrap();
        let begun = Instant::now();
        let (process, code, message) = told(join_as(hosts, 2, 1, &options(secret(1), AMPLE)));
        assert!(process < 2 && code == 6 && message.contains("--seed or --precision differs"), "{process}: {message}");
        assert!(begun.elapsed() < AMPLE / 2, "it waited");
        for end in [first, second] {
            let end = end.join().unwrap().err().unwrap();
            assert!(matches!(end, JoinError::Mismatch { .. }), "{end:?}");
        }
    });
}

/// Nobody else comes: the others are told for some seconds and no longer.
#[test]
fn a_failed_join_ends() {
    let hosts = free_hosts(3);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for index in 0..2 {
            let hosts = &hosts;
            scope.spawn(move || join_as(hosts, index, index as u8, &options(secret(1), AMPLE)).err().unwrap());
        }
    });
    assert!(begun.elapsed() >= LINGER && begun.elapsed() < AMPLE, "{:?}", begun.elapsed());
}

#[test]
fn an_address_in_use_is_told_to_all() {
    for at in 0..3 {
        let hosts = free_hosts(3);
        let taken = TcpListener::bind(&hosts.resolve(at).unwrap()[..]).unwrap();
        std::thread::scope(|scope| {
            let hosts = &hosts;
            let join = move |index| join_as(hosts, index, 1, &options(secret(1), AMPLE));
            let others: Vec<_> =
                (0..3).filter(|index| *index != at).map(|index| scope.spawn(move || join(index))).collect();
            // Whether they come before it or after.
            std::thread::sleep(Duration::from_millis(100 * at as u64));
            assert!(matches!(join(at), Err(JoinError::Listen { process, .. }) if process == at));
            for other in others {
                let (process, code, message) = told(other.join().unwrap());
                assert!(process == at && code == 6 && message.contains("cannot listen on"), "{process}: {message}");
            }
        });
        drop(taken);
    }
}

#[test]
fn a_stop_ends_the_join_and_all_others() {
    let hosts = free_hosts(4);
    std::thread::scope(|scope| {
        let hosts = &hosts;
        let (tell, there) = channel();
        let stop = JoinStop::default();
        let stopped = stop.clone();
        let second = scope.spawn(move || {
            let waiting = move |_: usize, _: &str| tell.send(()).unwrap_or_default();
            join_as(hosts, 1, 1, &JoinOptions { stop: stopped, waiting: &waiting, ..options(secret(1), AMPLE) })
        });
        let first = scope.spawn(move || join_as(hosts, 0, 1, &options(secret(1), AMPLE)));
        there.recv().unwrap();
        // One that is connected, one that comes while the others are told; nobody waits for the fourth.
        let third = scope.spawn(move || join_as(hosts, 2, 1, &options(secret(1), AMPLE)));
        assert!(stop.end(130, "it was interrupted"));
        assert!(!stop.end(130, "twice"), "the join is over");
        assert!(matches!(second.join().unwrap(), Err(JoinError::Stopped { code: 130, .. })));
        for other in [first, third] {
            assert_eq!(told(other.join().unwrap()), (1, 130, "it was interrupted".to_owned()));
        }
    });
}

/// A second process of an index that fails is none of the others' business.
#[test]
fn the_failure_of_a_twin_does_no_harm() {
    let hosts = free_hosts(3);
    std::thread::scope(|scope| {
        let hosts = &hosts;
        let run = move |index| join_as(hosts, index, 1, &options(secret(1), AMPLE)).map(run_job).unwrap();
        let first = scope.spawn(move || run(0));
        let (tell, there) = channel();
        let second = scope.spawn(move || {
            let waiting = move |missing: usize, _: &str| tell.send(missing).unwrap_or_default();
            join_as(hosts, 1, 1, &JoinOptions { waiting: &waiting, ..options(secret(1), AMPLE) }).map(run_job).unwrap()
        });
        while there.recv().unwrap() != 2 {}
        decline(hosts, 1, &secret(1), 1, "no such file", Duration::from_millis(500));
        let third = run(2);
        assert_eq!(first.join().unwrap() + second.join().unwrap() + third, 3 * 6 * (0..NUMBERS).sum::<u64>());
    });
}

fn member(index: usize, processes: usize, patience: Duration) -> Member {
    let patience_millis = patience.as_millis() as u64;
    Member { index, processes, transport: Transport::Noise, patience_millis, identity: identity(1) }
}

/// A connection of process 1 that has its welcome and says nothing any more.
fn vanished(hosts: &Hosts, patience: Duration) -> TcpStream {
    let member = member(1, hosts.len(), patience);
    let hello = Hello::Joins(member.clone());
    let party = Party { secret: secret(1), transport: Transport::Noise, hello, member: Some(member) };
    loop {
        let Ok(socket) = TcpStream::connect(&hosts.resolve(0).unwrap()[..]) else { continue };
        break party.connect(socket, 0, Instant::now() + AMPLE).unwrap().unwrap().socket;
    }
}

/// A machine that vanishes after its welcome holds its seat for `peer_timeout`, not for the join.
#[test]
fn a_silent_connection_loses_its_seat() {
    let hosts = free_hosts(3);
    let patience = Duration::from_secs(1);
    std::thread::scope(|scope| {
        let hosts = &hosts;
        let options = move || JoinOptions { peer_timeout: patience, ..options(secret(1), Duration::from_secs(8)) };
        let first = scope.spawn(move || join_as(hosts, 0, 1, &options()).err().unwrap());
        let socket = vanished(hosts, patience);
        let end = first.join().unwrap();
        assert!(matches!(end, JoinError::Timeout { missing: 1, .. }), "{end:?}");
        assert!(end.to_string().contains("silent for 1 s"), "{end}");
        drop(socket);
    });
}

/// And where it is back sooner it takes the seat itself.
#[test]
fn a_process_that_comes_again_takes_the_place_of_its_silent_connection() {
    let hosts = free_hosts(3);
    std::thread::scope(|scope| {
        let hosts = &hosts;
        let run = move |index, waiting: &dyn Fn(usize, &str)| {
            join_as(hosts, index, 1, &JoinOptions { waiting, ..options(secret(1), AMPLE) }).map(run_job).unwrap()
        };
        let first = scope.spawn(move || run(0, &|_, _| {}));
        let socket = vanished(hosts, AMPLE);
        let (tell, there) = channel();
        let second = scope.spawn(move || run(1, &move |missing, _| tell.send(missing).unwrap_or_default()));
        // It has its seat when it waits for the third.
        while there.recv().unwrap() != 2 {}
        let third = run(2, &|_, _| {});
        assert_eq!(first.join().unwrap() + second.join().unwrap() + third, 3 * 6 * (0..NUMBERS).sum::<u64>());
        drop(socket);
    });
}

/// And one that only waits, for longer than `peer_timeout`, keeps it.
#[test]
fn who_waits_is_not_taken_for_silent() {
    let hosts = free_hosts(3);
    std::thread::scope(|scope| {
        let hosts = &hosts;
        let run = move |index| {
            let heard = std::cell::RefCell::new(Vec::new());
            let waiting = |missing: usize, _: &str| heard.borrow_mut().push(missing);
            let patient = JoinOptions {
                peer_timeout: Duration::from_secs(2),
                waiting: &waiting,
                lost: Arc::new(|lost| panic!("{lost}")),
                ..options(secret(1), AMPLE)
            };
            let sum = join_as(hosts, index, 1, &patient).map(run_job).unwrap();
            (sum, heard.into_inner())
        };
        let waiting = [0, 1].map(|index| scope.spawn(move || run(index)));
        std::thread::sleep(Duration::from_secs(7));
        let (third, _) = run(2);
        let ends = waiting.map(|end| end.join().unwrap());
        for (_, heard) in &ends {
            assert!(heard.iter().all(|missing| *missing == 2), "somebody went away: {heard:?}");
        }
        assert_eq!(ends.iter().map(|(sum, _)| sum).sum::<u64>() + third, 3 * 6 * (0..NUMBERS).sum::<u64>());
    });
}

/// A process that dies between its greeting and its welcome frees its seat: the listener takes it for the greeting, and then cannot say welcome.
#[test]
fn a_death_between_greeting_and_welcome_frees_the_seat() {
    let hosts = free_hosts(3);
    let own = member(0, 3, AMPLE);
    let party =
        Party { secret: secret(1), transport: Transport::Noise, hello: Hello::Joins(own.clone()), member: Some(own) };
    let (events, heard) = channel();
    let shared = Shared {
        hosts,
        index: 0,
        party,
        until: Instant::now() + AMPLE,
        over: AtomicBool::new(false),
        seats: Seats::of(3),
        events,
    };
    let [visitor, listening] = sockets();
    let broken = listening.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut visitor = visitor;
            let secret = secret(1);
            let mut state = noise(&secret, true).unwrap();
            let mut message = [0; 48];
            state.write_message(&[], &mut message).unwrap();
            visitor.write_all(&[&preamble()[..], &48u16.to_le_bytes(), &message].concat()).unwrap();
            let mut answer = [0; 12 + 2 + 48];
            visitor.read_exact(&mut answer).unwrap();
            state.read_message(&answer[14..], &mut []).unwrap();
            let (mut sealer, mut opener) = directions(state.into_stateless_transport_mode().unwrap());
            assert_eq!(opener.next(&mut visitor).unwrap(), Some(Kind::Hello));
            // From here on the listener can say nothing more, as to one whose machine has refused what it sent last.
            broken.shutdown(Shutdown::Write).unwrap();
            let hello = Hello::Joins(member(2, 3, AMPLE)).to_bytes();
            send(&visitor, &mut sealer, Kind::Hello, &hello, Instant::now() + AMPLE).unwrap();
            assert_eq!(opener.next(&mut visitor).unwrap(), None);
        });
        receive(&shared, Visitor::alone(listening));
    });
    assert!(matches!(heard.try_recv(), Ok(Event::Refused(_, what)) if what.contains("broke")), "it was refused");
    assert!(!shared.seats.is_taken(2), "its seat is still taken");
}
