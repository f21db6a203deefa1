//! Joins that succeed, and those that end with a reason.

use super::*;
use crate::decline;
use crate::gathering::NOTICE;
use std::io::Write;
use std::time::Instant;

/// Runs a process for each secret and tag, in threads, to the ends of their joins.
fn join_all(hosts: &Hosts, of: &[(Secret, u8)], patience: Duration) -> Vec<Result<Joined, JoinError>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (of.iter().enumerate())
            .map(|(me, (secret, tag))| {
                scope.spawn(move || join_as(hosts, me, *tag, &options(secret.clone(), patience)))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn error(end: Result<Joined, JoinError>) -> JoinError {
    end.err().expect("refused")
}

#[test]
fn processes_join_and_run_with_and_without_a_secret() {
    let mut sums = Vec::new();
    for (secret, transport) in
        [(Secret::none(), Transport::Noise), (secret(1), Transport::Noise), (secret(1), Transport::Plain)]
    {
        let hosts = free_hosts(3);
        let threads: Vec<_> = (0..3)
            .map(|me| {
                let (hosts, secret) = (hosts.clone(), secret.clone());
                std::thread::spawn(move || {
                    let joined = join_as(&hosts, me, 1, &JoinOptions { transport, ..options(secret, AMPLE) }).unwrap();
                    let network = joined.network.clone();
                    let sum = run_job(joined);
                    let traffic = network.traffic();
                    // Two of three copies of what a worker broadcasts leave its process.
                    assert!(traffic.bytes_sent.min(traffic.bytes_received) > 2 * 8 * NUMBERS, "{traffic:?}");
                    sum
                })
            })
            .collect();
        sums.push(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>());
        // Nobody listens any more.
        for index in 0..3 {
            assert!(TcpStream::connect(&hosts.resolve(index).unwrap()[..]).is_err());
        }
    }
    assert_eq!(sums, [3 * 6 * (0..NUMBERS).sum::<u64>(); 3]);
}

#[test]
fn a_process_that_fails_says_why_to_those_before_and_after_it() {
    let hosts = free_hosts(3);
    std::thread::scope(|scope| {
        let waiting = [0, 2].map(|me| {
            let hosts = &hosts;
            scope.spawn(move || join_as(hosts, me, 1, &options(secret(1), AMPLE)).err())
        });
        decline(&hosts, 1, &secret(1), 4, "no such\nfile", AMPLE);
        for (process, end) in waiting.into_iter().enumerate() {
            let end = end.join().unwrap();
            let told =
                matches!(&end, Some(JoinError::Failed { process: 1, code: 4, message }) if message == "no such file");
            assert!(told, "process {process}: {end:?}");
        }
    });
    // Nobody comes: it does not wait for ever.
    let begun = Instant::now();
    decline(&free_hosts(2), 0, &secret(1), 1, "", Duration::from_millis(200));
    assert!(begun.elapsed() < AMPLE);
}

#[test]
fn a_missing_process_is_named_within_the_deadline() {
    let hosts = free_hosts(2);
    for (me, missing) in [(0, 1), (1, 0)] {
        match error(join_as(&hosts, me, 1, &options(secret(1), Duration::from_millis(300)))) {
            JoinError::Timeout { missing: found, detail, .. } => {
                assert_eq!(found, missing);
                assert_eq!(detail.contains("cannot be reached"), me == 1, "{detail}");
            }
            other => panic!("{other:?}"),
        }
    }
    // A name that does not exist is somebody who has not come yet, and the message says so.
    let hosts = Hosts::parse(&format!("no-such-name.invalid:4000\n{}", hosts.addresses()[1])).unwrap();
    let message = error(join_as(&hosts, 1, 1, &options(secret(1), Duration::from_millis(300)))).to_string();
    assert!(message.contains("no-such-name.invalid:4000") && message.contains("cannot be resolved"), "{message}");
}

/// One of three does not come: those that are there both say which.
#[test]
fn all_name_the_process_that_is_missing() {
    let hosts = free_hosts(3);
    let ends = join_all(&hosts, &[(secret(1), 1), (secret(1), 1)], Duration::from_secs(2));
    for end in ends {
        let message = error(end).to_string();
        assert!(message.contains(&format!("process 2 ({}) did not join", hosts.addresses()[2])), "{message}");
    }
}

#[test]
fn another_job_is_refused_on_both_sides_and_strangers_do_no_harm() {
    let hosts = free_hosts(2);
    let other = hosts.clone();
    let first = std::thread::spawn(move || error(join_as(&other, 0, 1, &options(secret(1), AMPLE))));
    let stranger = loop {
        if let Ok(stranger) = TcpStream::connect(&hosts.resolve(0).unwrap()[..]) {
            break stranger;
        }
    };
    (&stranger).write_all(&[b'x'; 100]).unwrap();
    let second = error(join_as(&hosts, 1, 2, &options(secret(1), AMPLE)));
    for error in [first.join().unwrap(), second] {
        let error = error.to_string();
        assert!(error.contains("another job: --seed or --precision differs"), "{error}");
    }
}

#[test]
fn other_workers_transports_and_host_files_are_named() {
    for wanted in ["--workers", "--transport", "host file"] {
        let hosts = free_hosts(2);
        let other = match wanted {
            "host file" => Hosts::parse(&format!("{}\n127.0.0.1:1", hosts.addresses().join("\n"))).unwrap(),
            _ => hosts.clone(),
        };
        let first = std::thread::spawn(move || error(join_as(&hosts, 0, 1, &options(secret(1), AMPLE))));
        let transport = if wanted == "--transport" { Transport::Plain } else { Transport::Noise };
        let workers = if wanted == "--workers" { 2 } else { 1 };
        let identity = JobIdentity::new(workers, &[("the version", [9; 8]), ("--seed or --precision", [1; 8])]);
        let second = join(&other, 1, workers, &identity, &JoinOptions { transport, ..options(secret(1), AMPLE) });
        for error in [first.join().unwrap(), error(second)] {
            assert!(matches!(error, JoinError::Mismatch { .. }) && error.to_string().contains(wanted), "{error}");
        }
    }
}

#[test]
fn a_wrong_secret_is_refused_and_named() {
    for (first, second) in [(secret(1), secret(2)), (Secret::none(), secret(1)), (secret(1), Secret::none())] {
        let ends = join_all(&free_hosts(2), &[(first, 1), (second, 1)], Duration::from_secs(6));
        let [listening, connecting] = <[_; 2]>::try_from(ends).unwrap_or_else(|_| panic!()).map(error);
        // Who listens goes on waiting for the right one: anybody may come with a wrong secret.
        assert!(matches!(listening, JoinError::Timeout { missing: 1, .. }), "{listening}");
        let refused = "a connection from its host (127.0.0.1) was refused, ";
        assert!(listening.to_string().contains(refused), "{listening}");
        assert!(listening.to_string().contains("does not hold this job's secret"), "{listening}");
        assert!(listening.to_string().ends_with("--secret-file or NYSTREAM_SECRET"), "{listening}");
        assert!(matches!(connecting, JoinError::Secret { process: 0, .. }), "{connecting}");
    }
}

/// A second process of the same index, from elsewhere, is refused; the job goes on without it.
#[test]
fn a_second_process_of_an_index_is_refused() {
    let hosts = free_hosts(3);
    let elsewhere = free_hosts(1).addresses()[0].clone();
    let twin = format!("{}\n{elsewhere}\n{}", hosts.addresses()[0], hosts.addresses()[2]);
    let twin = Hosts::parse(&twin).unwrap();
    let (told, there) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| join_as(&hosts, 0, 1, &options(secret(1), AMPLE)).map(run_job).unwrap());
        let second = scope.spawn(|| {
            let waiting = move |missing: usize, _: &str| told.send(missing).unwrap_or_default();
            let options = JoinOptions { waiting: &waiting, ..options(secret(1), AMPLE) };
            join_as(&hosts, 1, 1, &options).map(run_job).unwrap()
        });
        // When it waits for the third, the first has it.
        while there.recv().unwrap() != 2 {}
        let refused = error(join_as(&twin, 1, 1, &options(secret(1), AMPLE)));
        assert!(matches!(refused, JoinError::Refused { process: 0, .. }), "{refused}");
        assert!(refused.to_string().contains("--process of its own"), "{refused}");
        let third = join_as(&hosts, 2, 1, &options(secret(1), AMPLE)).map(run_job).unwrap();
        let sum = first.join().unwrap() + second.join().unwrap() + third;
        assert_eq!(sum, 3 * 6 * (0..NUMBERS).sum::<u64>());
    });
}

#[test]
fn a_wait_says_for_whom() {
    let wait = |hosts: &Hosts, me: usize, missing: usize| {
        let told = std::cell::RefCell::new(Vec::new());
        let tell = |peer: usize, address: &str| told.borrow_mut().push((peer, address.to_owned()));
        let options = JoinOptions { waiting: &tell, ..options(secret(1), NOTICE + NOTICE / 2) };
        let end = error(join_as(hosts, me, 1, &options));
        assert!(matches!(end, JoinError::Timeout { missing: m, .. } if m == missing), "{end:?}");
        assert_eq!(told.into_inner(), [(missing, hosts.addresses()[missing].clone())]);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| wait(&free_hosts(2), 0, 1));
        // The first process is there, and says nothing.
        let hosts = free_hosts(2);
        let silent = TcpListener::bind(&hosts.resolve(0).unwrap()[..]).unwrap();
        wait(&hosts, 1, 0);
        drop(silent);
    });
}

#[test]
fn addresses_in_use_and_beyond_loopback_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hosts = Hosts::parse(&format!("{}\n127.0.0.1:1", listener.local_addr().unwrap())).unwrap();
    let message = error(join_as(&hosts, 0, 1, &options(secret(1), AMPLE))).to_string();
    assert!(message.contains("cannot listen on"), "{message}");
    let hosts = Hosts::parse("127.0.0.1:4000\n192.0.2.1:4000").unwrap();
    let refused = error(join_as(&hosts, 0, 1, &options(Secret::none(), AMPLE)));
    assert!(matches!(refused, JoinError::Hosts(_)) && refused.to_string().contains("line 2"), "{refused}");
    // With a secret it waits for it.
    let hosts = Hosts::parse(&format!("{}\n192.0.2.1:4000", free_hosts(1).addresses()[0])).unwrap();
    let late = error(join_as(&hosts, 0, 1, &options(secret(1), Duration::from_millis(100))));
    assert!(matches!(late, JoinError::Timeout { missing: 1, .. }), "{late}");
}
