//! The connections of a running job: bytes arrive whole, life is told from death, and each end has its words.

use super::*;
use crate::frames::Kind;
use crate::greeting::Member;
use crate::handshake::{Link, send};
use crate::peers::{Job, Network, PeerStream};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Instant;
use timely::communication::allocator::zero_copy::stream::Stream;

/// Both ends of a connection of processes 0 and 1 out of three, before they are streams.
fn links(transport: Transport, patience: Duration) -> [Link; 2] {
    let [first, second] = sockets();
    let [(sealer, opener), (other_sealer, other_opener)] = ends(transport);
    let member = |index| Member {
        index,
        processes: 3,
        transport,
        patience_millis: patience.as_millis() as u64,
        identity: identity(1),
    };
    // Each end names the other.
    [
        Link { socket: first, sealer, opener, member: member(1) },
        Link { socket: second, sealer: other_sealer, opener: other_opener, member: member(0) },
    ]
}

/// Of process 0, or of 1, which does not matter but for what it is told of itself.
fn job(losses: &Losses, patience: Duration) -> Arc<Job> {
    Job::new(0, (0..3).map(|i| format!("host-{i}:1")).collect(), patience, losses.handler())
}

fn streams(losses: &Losses, transport: Transport, patience: Duration) -> [PeerStream; 2] {
    links(transport, patience).map(|link| PeerStream::start(link, &job(losses, patience)).unwrap())
}

fn all(mut stream: PeerStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Both directions at once, whatever the sizes of writes and reads; the end is the farewell's.
    #[test]
    fn bytes_arrive_whole_in_both_directions(
        sizes in prop::collection::vec(prop_oneof![1..100usize, 1..300_000usize], 0..12), reads in 1..100_000usize, plain in any::<bool>(),
    ) {
        let losses = Losses::default();
        let transport = if plain { Transport::Plain } else { Transport::Noise };
        let bytes: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|i| (i * 7 + i / 251) as u8).collect();
        std::thread::scope(|scope| {
            let received: Vec<_> = streams(&losses, transport, AMPLE)
                .map(|stream| {
                    let mut writer = stream.try_clone().unwrap();
                    let (sizes, bytes) = (&sizes, &bytes);
                    scope.spawn(move || {
                        let mut rest = &bytes[..];
                        for size in sizes {
                            writer.write_all(&rest[..*size]).unwrap();
                            rest = &rest[*size..];
                        }
                        writer.shutdown(Shutdown::Write).unwrap();
                    });
                    let mut reader = stream;
                    scope.spawn(move || {
                        let (mut all, mut buffer) = (Vec::new(), vec![0; reads]);
                        loop {
                            match reader.read(&mut buffer).unwrap() {
                                0 => return all,
                                read => all.extend_from_slice(&buffer[..read]),
                            }
                        }
                    })
                })
                .into_iter()
                .collect();
            for received in received {
                assert!(received.join().unwrap() == bytes);
            }
        });
        prop_assert!(losses.all().is_empty());
    }
}

/// More than any socket holds, both ways, each end writing all before the other reads less: a lock for both directions would end here for ever.
#[test]
fn full_pipes_in_both_directions_do_not_deadlock() {
    let losses = Losses::default();
    let bytes: Vec<u8> = (0..48 << 20).map(|i| (i % 253) as u8).collect();
    std::thread::scope(|scope| {
        let ends = streams(&losses, Transport::Noise, AMPLE).map(|stream| {
            let (writer, bytes) = (stream.try_clone().unwrap(), &bytes);
            scope.spawn(move || {
                let mut writer = std::io::BufWriter::with_capacity(1 << 16, writer);
                writer.write_all(bytes).unwrap();
                writer.flush().unwrap();
                writer.get_mut().shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || all(stream))
        });
        for end in ends {
            assert!(end.join().unwrap() == bytes);
        }
    });
    assert!(losses.all().is_empty());
}

/// Nothing is said for twice the time that would be death, but for heartbeats.
#[test]
fn a_busy_process_is_not_taken_for_dead() {
    let losses = Losses::default();
    let patience = Duration::from_secs(3);
    let [mut first, mut second] = streams(&losses, Transport::Noise, patience);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(2 * patience);
            first.write_all(b"done").unwrap();
        });
        let mut bytes = [0; 4];
        second.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"done");
    });
    assert!(losses.all().is_empty(), "{:?}", losses.all());
}

/// The reason for which the end at process 0 loses process 1, whose end `other` has, when it reads.
fn reading(patience: Duration, other: impl FnOnce(Link) -> Option<Link>) -> PeerLost {
    let losses = Losses::default();
    let [ours, theirs] = links(Transport::Noise, patience);
    let mut stream = PeerStream::start(ours, &job(&losses, patience)).unwrap();
    let _held = other(theirs);
    let begun = Instant::now();
    let mut buffer = [0; 100];
    let error = loop {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("an end without a farewell"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(begun.elapsed() < AMPLE);
    let lost = losses.all().first().cloned().expect("nothing was lost");
    assert_eq!(error.to_string(), lost.to_string());
    assert!(lost.to_string().starts_with(&format!("process {0} (host-{0}:1) was lost: ", lost.process)), "{lost}");
    lost
}

#[test]
fn each_end_has_its_words() {
    let say = |link: &mut Link, kind, payload: &[u8]| {
        send(&link.socket, &mut link.sealer, kind, payload, Instant::now() + AMPLE).unwrap();
    };
    // It dies.
    let lost = reading(AMPLE, |_| None);
    assert!(lost.process == 1 && lost.reason.contains("without a farewell"), "{lost}");
    // It dies in the middle of a frame.
    let lost = reading(AMPLE, |link| {
        (&link.socket).write_all(&[40, 0, 1]).unwrap();
        None
    });
    assert!(lost.reason.contains("without a farewell"), "{lost}");
    // It is stopped.
    let lost = reading(Duration::from_millis(200), Some);
    assert!(lost.reason.contains("silent for 0.2 s"), "{lost}");
    // Somebody writes into the connection.
    let lost = reading(AMPLE, |link| {
        (&link.socket).write_all(&[7; 100_000]).unwrap();
        Some(link)
    });
    assert!(lost.reason.contains("does not verify"), "{lost}");
    // It sends what has its place elsewhere.
    let lost = reading(AMPLE, |mut link| {
        say(&mut link, Kind::Data, b"before");
        say(&mut link, Kind::Hello, b"");
        Some(link)
    });
    assert!(lost.reason.contains("Hello"), "{lost}");
    // It says that it has lost the third process: that one is named.
    let lost = reading(AMPLE, |link| {
        let job = job(&Losses::default(), AMPLE);
        let stream = PeerStream::start(link, &job).unwrap();
        Network::new(job, [&stream].into_iter()).announce(2, 5, "it was silent");
        None
    });
    assert_eq!((lost.process, lost.reason.as_str()), (2, "it was silent"));
    // It has lost this very process.
    let lost = reading(AMPLE, |link| {
        let job = job(&Losses::default(), AMPLE);
        let stream = PeerStream::start(link, &job).unwrap();
        Network::new(job, [&stream].into_iter()).announce(0, 5, "it was silent");
        None
    });
    assert_eq!((lost.process, lost.reason.as_str()), (1, "it has given this process up: it was silent"));
    // A process that does not exist is not named.
    let lost = reading(AMPLE, |link| {
        let job = job(&Losses::default(), AMPLE);
        let stream = PeerStream::start(link, &job).unwrap();
        Network::new(job, [&stream].into_iter()).announce(3, 5, "nobody");
        None
    });
    assert_eq!(lost.process, 1);
}

/// The other end is there and reads nothing.
#[test]
fn a_full_pipe_is_a_death() {
    let losses = Losses::default();
    let patience = Duration::from_millis(500);
    let [ours, theirs] = links(Transport::Noise, patience);
    let mut stream = PeerStream::start(ours, &job(&losses, patience)).unwrap();
    let bytes = vec![1; 1 << 20];
    let error = (0..1000).find_map(|_| stream.write_all(&bytes).err()).expect("a pipe without an end");
    drop(theirs);
    assert!(error.to_string().contains("has read nothing for 0.5 s"), "{error}");
    assert_eq!(losses.all()[0].process, 1);
    // What is half sent is not gone on with.
    assert_eq!(stream.write(&bytes).unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

/// After a farewell in one direction the other goes on, and nothing is lost when the connection then ends.
#[test]
fn farewells_are_of_a_direction() {
    let losses = Losses::default();
    let [mut first, second] = streams(&losses, Transport::Noise, AMPLE);
    let mut reader = second.try_clone().unwrap();
    second.shutdown(Shutdown::Write).unwrap();
    second.shutdown(Shutdown::Write).unwrap();
    for _ in 0..2 {
        assert_eq!(first.read(&mut [0; 10]).unwrap(), 0);
    }
    first.write_all(b"later").unwrap();
    first.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"later");
    assert!(first.write(b"more").is_err());
    assert!(first.set_nonblocking(true).is_err());
    drop((first, second, reader));
    assert!(losses.all().is_empty());
}
