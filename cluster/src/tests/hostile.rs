//! Whoever does not belong here: bytes that are no handshake, transcripts that are repeated, connections that say nothing, and many of them.

use super::*;
use crate::greeting::{Hello, Member};
use crate::handshake::{Link, MESSAGE, Party, Refusal, preamble};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

fn party(secret: Secret, index: usize) -> Party {
    let member =
        Member { index, processes: 3, transport: Transport::Noise, patience_millis: 30_000, identity: identity(1) };
    Party { secret, transport: Transport::Noise, hello: Hello::Joins(member.clone()), member: Some(member) }
}

/// What process 0, which listens, makes of a connection at whose other end `visitor` is.
fn heard(patience: Duration, visitor: impl FnOnce(TcpStream) + Send) -> Result<Link, Refusal> {
    let [connecting, listening] = sockets();
    std::thread::scope(|scope| {
        scope.spawn(move || visitor(connecting));
        let link = party(secret(1), 0).accept(listening, Instant::now() + patience, &|_| Ok(()))?;
        Ok(link.expect("it takes part"))
    })
}

/// Sends these bytes and no more, and takes whatever comes.
fn say(bytes: &[u8]) -> impl FnOnce(TcpStream) + Send {
    move |mut socket| {
        let _ = socket.write_all(bytes);
        let _ = socket.shutdown(Shutdown::Write);
        let _ = socket.read_to_end(&mut Vec::new());
    }
}

fn refusal(end: Result<Link, Refusal>) -> String {
    match end {
        Err(Refusal::Stranger(reason)) => reason,
        Err(other) => panic!("{other:?}"),
        Ok(link) => panic!("process {} was let in", link.member.index),
    }
}

/// The first two things that the connecting end with this secret says.
fn opening(secret: &Secret) -> Vec<u8> {
    let mut message = [0; MESSAGE];
    noise(secret, true).unwrap().write_message(&[], &mut message).unwrap();
    [&preamble()[..], &(MESSAGE as u16).to_le_bytes(), &message].concat()
}

/// All that a connecting end says in a whole handshake, as somebody on the network between sees it.
fn transcript() -> Vec<u8> {
    let ([connecting, between], [beyond, listening]) = (sockets(), sockets());
    std::thread::scope(|scope| {
        let recorded = scope.spawn(|| {
            let back = (beyond.try_clone().unwrap(), between.try_clone().unwrap());
            let other = scope.spawn(move || std::io::copy(&mut &back.0, &mut &back.1));
            let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(read @ 1..) = (&between).read(&mut buffer) {
                all.extend_from_slice(&buffer[..read]);
                (&beyond).write_all(&buffer[..read]).unwrap();
            }
            beyond.shutdown(Shutdown::Both).unwrap();
            let _ = other.join().unwrap();
            all
        });
        let until = Instant::now() + AMPLE;
        let accepted = scope.spawn(move || party(secret(1), 0).accept(listening, until, &|_| Ok(())).is_ok());
        let link = party(secret(1), 1).connect(connecting, 0, until).unwrap().unwrap();
        assert!(accepted.join().unwrap());
        drop(link);
        recorded.join().unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The handshake under random input: random bytes after any whole part of an honest opening, the opening with a byte changed or cut off.
    #[test]
    fn nothing_but_a_handshake_is_let_in(
        bytes in prop::collection::vec(any::<u8>(), 0..300), keep in prop::sample::select(vec![0, 8, 12, 14, 14 + MESSAGE]),
        at in 0..14 + MESSAGE, flip in 1..=255u8,
    ) {
        let honest = opening(&secret(1));
        let mut changed = honest.clone();
        changed[at] ^= flip;
        for bytes in [[&honest[..keep], &bytes].concat(), changed, honest[..at].to_vec()] {
            let reason = refusal(heard(AMPLE, say(&bytes)));
            prop_assert!(!reason.is_empty());
        }
    }

    /// The same at the other end: a listener that sends anything is no process of the job.
    #[test]
    fn no_listener_but_one_with_the_secret_is_believed(
        bytes in prop::collection::vec(any::<u8>(), 0..300), keep in prop::sample::select(vec![0, 8, 12, 14]),
    ) {
        let [connecting, listening] = sockets();
        let answer = [&preamble()[..], &(MESSAGE as u16).to_le_bytes()].concat();
        let bytes = [&answer[..keep], &bytes].concat();
        let end = std::thread::scope(|scope| {
            scope.spawn(move || say(&bytes)(listening));
            party(secret(1), 1).connect(connecting, 0, Instant::now() + AMPLE)
        });
        prop_assert!(matches!(end, Err(Refusal::Stranger(_) | Refusal::Secret)));
    }
}

#[test]
fn a_transcript_cannot_be_repeated() {
    let recorded = transcript();
    assert!(recorded.starts_with(&preamble()) && recorded.len() > 14 + MESSAGE + 100, "{} bytes", recorded.len());
    for end in [recorded.len(), 14 + MESSAGE] {
        let reason = refusal(heard(AMPLE, say(&recorded[..end])));
        assert!(reason.contains("does not verify") || reason.contains("closed"), "{reason}");
    }
}

#[test]
fn the_reason_of_a_refusal_is_told() {
    let mut other_protocol = opening(&secret(1));
    other_protocol[8] = 99;
    let mut too_long = opening(&secret(1));
    too_long[12..14].copy_from_slice(&u16::MAX.to_le_bytes());
    for (bytes, wanted) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "does not speak nystream's protocol"),
        (other_protocol, "protocol 99"),
        (too_long, "wrong length"),
        (opening(&secret(2)), "does not hold this job's secret"),
        (opening(&Secret::none()), "does not hold this job's secret"),
        (opening(&secret(1))[..20].to_vec(), "closed the connection"),
    ] {
        let reason = refusal(heard(AMPLE, say(&bytes)));
        assert!(reason.contains(wanted), "{reason}");
    }
}

/// However slowly bytes come, all of a handshake has one deadline.
#[test]
fn a_slow_visitor_has_no_more_time_than_a_silent_one() {
    for pause in [Duration::from_millis(20), AMPLE] {
        let over = AtomicBool::new(false);
        let reason = std::thread::scope(|scope| {
            let over = &over;
            let [connecting, listening] = sockets();
            scope.spawn(move || {
                for byte in opening(&secret(1)) {
                    if pause == AMPLE || over.load(Ordering::Relaxed) || (&connecting).write_all(&[byte]).is_err() {
                        break;
                    }
                    std::thread::sleep(pause);
                }
                while !over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            // 62 bytes take longer.
            let end = party(secret(1), 0).accept(listening, Instant::now() + Duration::from_millis(300), &|_| Ok(()));
            over.store(true, Ordering::Relaxed);
            refusal(end.map(|link| link.expect("it takes part")))
        });
        assert!(reason.contains("in time"), "{reason}");
    }
}

/// What visitors do to a listener until they are told to stop, or `most` times: each kind in its turn.
fn besiege(address: std::net::SocketAddr, recorded: &[u8], most: usize, stop: &AtomicBool, done: &AtomicUsize) {
    // Kept open, to take the room of others.
    let mut silent = std::collections::VecDeque::new();
    for turn in 0..most {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut socket) = TcpStream::connect(address) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        done.fetch_add(1, Ordering::Relaxed);
        let mut random = [0; 100];
        blake3::Hasher::new().update(&turn.to_le_bytes()).finalize_xof().fill(&mut random);
        let bytes = match turn % 6 {
            0 => random.to_vec(),
            1 => opening(&secret(1))[..40].to_vec(),
            2 => [&preamble()[..], &u16::MAX.to_le_bytes(), &random].concat(),
            3 => opening(&secret(2)),
            4 => recorded.to_vec(),
            _ => {
                silent.push_back(socket);
                // A process may have only so many files open.
                silent.truncate(100);
                continue;
            }
        };
        let _ = socket.write_all(&bytes);
    }
}

/// Runs a job of two processes, the second of which comes only after `before` hostile connections; they go on until the job is done. Gives how many there were.
fn job_under_siege(before: usize, most: usize) -> usize {
    let recorded = transcript();
    let hosts = free_hosts(2);
    let address = hosts.resolve(0).unwrap()[0];
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| besiege(address, &recorded, most, &stop, &done));
        }
        let run = |me| join_as(&hosts, me, 1, &options(secret(1), AMPLE)).map(run_job);
        let first = scope.spawn(move || run(0));
        while done.load(Ordering::Relaxed) < before {
            std::thread::sleep(Duration::from_millis(1));
        }
        let second = run(1);
        stop.store(true, Ordering::Relaxed);
        let ends = [first.join().unwrap(), second].map(|end| end.unwrap_or_else(|e| panic!("{e}")));
        assert_eq!(ends.iter().sum::<u64>(), 2 * 3 * (0..NUMBERS).sum::<u64>());
    });
    done.into_inner()
}

#[test]
fn hundreds_of_hostile_connections_do_not_keep_a_job_from_running() {
    assert!(job_under_siege(400, usize::MAX) >= 400);
}

/// The long form. Run with `cargo test --release -p nystream-cluster -- --ignored --nocapture ten_thousand`.
#[test]
#[ignore = "takes minutes"]
fn ten_thousand_hostile_connections_do_not_keep_a_job_from_running() {
    let begun = Instant::now();
    let count = job_under_siege(10_000, usize::MAX);
    assert!(count >= 10_000);
    eprintln!("{count} hostile connections, none let in, {:.1} s", begun.elapsed().as_secs_f64());
}
