//! Joining: the connections between the processes of a job, made by us and handed to timely.
//!
//! Process i connects to every j < i and accepts a connection from every j > i, all at once. Each connection begins with a
//! [handshake](crate::handshake), in which both ends prove that they hold the secret and compare what the job is made of. A process that is connected to all others
//! tells them so, and starts when all have told it: nobody starts a job that does not come together. Whoever fails until then
//! tells those why that are connected to it, and for some seconds those who come ([`crate::gathering`]); only who comes later still, or cannot be reached, waits until its own deadline.
//! Until the job begins connections carry signs of life, as they do in it: the seat of a machine that vanishes is free again after `peer_timeout`.
//!
//! Strangers cannot hold up a join: handshakes run side by side, each in its own time, and of too many at once the oldest is dropped ([`crate::listener`]); whoever belongs
//! here tries again. They are logged, a few by name and the rest by number, and the message of a join that ends for want of a process says who was refused from its host ([`crate::strangers`]). What ends a join is the deadline, a process that holds the secret and another job, a
//! failure of one's own, or three seconds of being told, at the address of another process, that it holds another secret: whoever has taken that address can say so. The listener is closed when all processes are connected, before this one begins the job.
//!
//! Cost: two round trips a connection and one more for all, and a thread for each connection until the join is over.

use crate::frames::Transport;
use crate::gathering::{Gathering, JoinStop, LINGER, ending, last_words};
use crate::greeting::{Ending, Hello, JobIdentity, Member};
use crate::handshake::Party;
use crate::hosts::{Hosts, HostsError};
use crate::peers::{Job, LostHandler, Network, PeerStream};
use crate::secret::Secret;
use std::any::Any;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::{AllocatorBuilder, Hooks};

/// What timely needs to start the workers of this process.
pub type Communication = (Vec<AllocatorBuilder>, Box<dyn Any + Send>);

/// Why a join ended without a job.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The host file does not fit.
    #[error(transparent)]
    Hosts(#[from] HostsError),
    /// This process's own address cannot be listened on.
    #[error("cannot listen on {address} (process {process}): {source}")]
    Listen {
        /// Address of this process.
        address: String,
        /// Index of this process.
        process: usize,
        /// What the system said.
        source: io::Error,
    },
    /// A process did not appear in time.
    #[error("process {missing} ({address}) did not join within {seconds} s{detail}")]
    Timeout {
        /// Index of the first missing process.
        missing: usize,
        /// Its address.
        address: String,
        /// The deadline, whole seconds.
        seconds: u64,
        /// What was last heard from its address, or of strangers, after a colon; may be empty.
        detail: String,
    },
    /// A process runs another job.
    #[error("process {process} was refused: {reason}")]
    Mismatch {
        /// Index the peer gave.
        process: usize,
        /// What differs.
        reason: String,
    },
    /// A process holds another secret.
    #[error(
        "process {process} ({address}) holds another secret than this process, or one of them none: give all the same --secret-file or NYSTREAM_SECRET"
    )]
    Secret {
        /// Its index.
        process: usize,
        /// Its address.
        address: String,
    },
    /// A process refuses this one.
    #[error("process {process} refused this process: {reason}")]
    Refused {
        /// Its index.
        process: usize,
        /// Why, in its words.
        reason: String,
    },
    /// A process failed before the job began.
    #[error("process {process} failed before it joined: {message}")]
    Failed {
        /// Its index.
        process: usize,
        /// Its exit code.
        code: u8,
        /// Why it failed, in its words.
        message: String,
    },
    /// [`JoinStop::end`] ended the join.
    #[error("the join was ended: {message}")]
    Stopped {
        /// The exit code that the others were told.
        code: u8,
        /// Why, as they were told.
        message: String,
    },
    /// Timely could not start on the sockets.
    #[error("cannot start the workers: {0}")]
    Start(String),
}

/// Communication of a job of one process with `workers` threads, at least 1: no socket is opened.
///
/// ```
/// use nystream_cluster::single_process;
/// let (allocators, guard) = single_process(2)?;
/// assert_eq!(allocators.len(), 2);
/// let workers = timely::execute::execute_from(allocators, guard, timely::WorkerConfig::default(), |worker| worker.index());
/// let indices: Result<Vec<usize>, String> = workers.unwrap().join().into_iter().collect();
/// assert_eq!(indices, Ok(vec![0, 1]));
/// # Ok::<(), nystream_cluster::JoinError>(())
/// ```
///
/// # Errors
/// [`JoinError::Start`] when timely refuses.
pub fn single_process(workers: usize) -> Result<Communication, JoinError> {
    let config = match workers {
        1 => timely::CommunicationConfig::Thread,
        threads => timely::CommunicationConfig::Process(threads),
    };
    config.try_build().map_err(JoinError::Start)
}

/// How a process joins the others.
pub struct JoinOptions<'a> {
    /// Proof of belonging together. Without one ([`Secret::none`]) only loopback addresses are joined.
    pub secret: Secret,
    /// How frames are protected; the same for all processes.
    pub transport: Transport,
    /// All processes must be there by then.
    pub join_timeout: Duration,
    /// Silence, or a full pipe, for so long is taken for the death of a process.
    pub peer_timeout: Duration,
    /// Is told every few seconds which process is missing, by index and address.
    pub waiting: &'a dyn Fn(usize, &str),
    /// Is told why the join fails, before those that are not there yet are: that takes up to five seconds.
    pub failing: &'a dyn Fn(&JoinError),
    /// Ends the join from another thread.
    pub stop: JoinStop,
    /// Is called when a process is lost once the job runs.
    pub lost: LostHandler,
}

/// A process that has joined the others.
pub struct Joined {
    /// For timely, as [`single_process`] gives it.
    pub communication: Communication,
    /// The connections, to watch.
    pub network: Network,
}

/// Joins process `index` of `hosts`, which runs `workers` threads, with the others. All must be started within the deadline, in any order.
///
/// ```
/// use nystream_cluster::{Hosts, JobIdentity, JoinOptions, JoinStop, Secret, Transport, join};
/// use std::{sync::Arc, time::Duration};
/// # let free: Vec<_> = (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
/// # let text: String = free.iter().map(|socket| format!("{}\n", socket.local_addr().unwrap())).collect();
/// # drop(free);
/// // `text` names two free ports, `127.0.0.1:PORT` a line.
/// let hosts = Hosts::parse(&text).unwrap();
/// // Two threads stand for two processes of one worker each; what they agree on is hashed part by part.
/// let peers = |index| {
///     let hosts = hosts.clone();
///     std::thread::spawn(move || {
///         let identity = JobIdentity::new(1, &[("the options", [7; 8])]);
///         let options = JoinOptions {
///             secret: Secret::new(b"correct horse battery staple", "the example").unwrap(),
///             transport: Transport::Noise,
///             join_timeout: Duration::from_secs(20),
///             peer_timeout: Duration::from_secs(30),
///             waiting: &|_, _| {},
///             failing: &|_| {},
///             stop: JoinStop::default(),
///             lost: Arc::new(|lost| panic!("{lost}")),
///         };
///         let joined = join(&hosts, index, 1, &identity, &options).unwrap();
///         let (allocators, guard) = joined.communication;
///         let config = timely::WorkerConfig::default();
///         let workers = timely::execute::execute_from(allocators, guard, config, |worker| worker.peers()).unwrap();
///         let peers = workers.join().into_iter().collect::<Result<Vec<usize>, String>>();
///         (peers, joined.network.traffic().bytes_received > 0)
///     })
/// };
/// for process in [peers(0), peers(1)] {
///     assert_eq!(process.join().unwrap(), (Ok(vec![2]), true));
/// }
/// ```
///
/// # Errors
/// Nothing is left listening then:
/// * [`JoinError::Hosts`]: no process of this index, or an address beyond loopback without a secret;
/// * [`JoinError::Listen`]: an address that is in use or not this machine's;
/// * [`JoinError::Timeout`]: a process that did not come, by its index;
/// * [`JoinError::Mismatch`]: a process of another job, version or number of workers;
/// * [`JoinError::Secret`]: a process that holds another secret;
/// * [`JoinError::Refused`]: a process that refuses this one, since it has another of this index already;
/// * [`JoinError::Failed`]: a process that [declined](decline), or that failed to join itself;
/// * [`JoinError::Stopped`]: an end by [`JoinStop`];
/// * [`JoinError::Start`]: timely refused the sockets.
pub fn join(
    hosts: &Hosts,
    index: usize,
    workers: usize,
    identity: &JobIdentity,
    options: &JoinOptions<'_>,
) -> Result<Joined, JoinError> {
    let member = Member {
        index,
        processes: hosts.len(),
        transport: options.transport,
        patience_millis: options.peer_timeout.as_millis() as u64,
        identity: identity.clone(),
    };
    let party = Party {
        secret: options.secret.clone(),
        transport: options.transport,
        hello: Hello::Joins(member.clone()),
        member: Some(member),
    };
    let secret = party.secret.clone();
    let mut gathering = Gathering::start(hosts, index, party, options.join_timeout, options.waiting, Vec::new())
        .inspect_err(|error| {
            (options.failing)(error);
            if matches!(error, JoinError::Listen { .. }) {
                last_words(hosts, index, &secret, ending(error, index), Vec::new(), LINGER);
            }
        })?;
    gathering.stopped_by(&options.stop);
    let links = gathering.run();
    options.stop.forget();
    let links = links.inspect_err(|error| {
        if !matches!(error, JoinError::Stopped { .. }) {
            (options.failing)(error);
        }
        gathering.last_words(error);
    })?;
    let job = Job::new(index, hosts.addresses().to_vec(), options.peer_timeout, Arc::clone(&options.lost));
    let mut streams: Vec<Option<PeerStream>> = (0..hosts.len()).map(|_| None).collect();
    for link in links {
        let peer = link.member.index;
        streams[peer] = Some(PeerStream::start(link, &job).map_err(|e| JoinError::Start(e.to_string()))?);
    }
    let network = Network::new(job, streams.iter().flatten());
    let hooks = Hooks::default();
    let local = timely::communication::allocator::ProcessBuilder::new_typed_vector(
        workers,
        hooks.refill.clone(),
        hooks.spill.clone(),
    );
    let (builders, guard) = initialize_networking_from_sockets(local, streams, index, workers, hooks)
        .map_err(|e| JoinError::Start(e.to_string()))?;
    let communication: Communication = (builders.into_iter().map(AllocatorBuilder::Tcp).collect(), Box::new(guard));
    Ok(Joined { communication, network })
}

/// Tells the processes of `hosts` that process `index` has failed and will not join, with its exit code and reason: they end with
/// [`JoinError::Failed`] instead of waiting for it. Those that do not appear within `patience`, or that hold another secret, are not told.
pub fn decline(hosts: &Hosts, index: usize, secret: &Secret, code: u8, message: &str, patience: Duration) {
    let ending = Ending { process: index, code, message: message.to_owned() };
    last_words(hosts, index, secret, ending, Vec::new(), patience);
}
