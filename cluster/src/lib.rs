//! Processes: who takes part in a job, the connections between them, and what happens when one is lost.
//!
//! * [`Hosts`]: the list of processes, one `host:port` a line;
//! * [`Secret`]: what they prove to each other; [`Transport`]: how what they send is protected;
//! * [`join`]: connects them, checks that all run the same job, and hands the connections to timely; [`decline`] tells the others that a process will not come;
//! * [`Network`], [`PeerLost`]: the connections of a running job, and the end of one.
//! * [`checkpoint`]: what a job keeps on disk to go on after an end;
//! * [`launch`] (Unix): starts the processes of a job, here or by ssh, and ends them together.
//!
//! Protected are the job and what it sends, against whoever can reach the addresses or sits on the network between them: nobody joins or is heard without the
//! secret, and nothing that was read, changed or repeated on the way is believed. Whoever holds the secret is trusted in everything.
//! Whoever can cut the network can end a job, not change it. Without a secret (loopback addresses only) any program of the machine may join.

mod arrivals;
pub mod checkpoint;
mod frames;
#[cfg(feature = "fuzzing")]
pub mod fuzzed;
mod gathering;
mod greeting;
mod handshake;
mod hosts;
mod join;
#[cfg(unix)]
pub mod launch;
mod listener;
mod peers;
mod secret;
mod strangers;
#[cfg(test)]
mod tests;

pub use frames::Transport;
pub use gathering::JoinStop;
pub use greeting::JobIdentity;
pub use hosts::{Hosts, HostsError};
pub use join::{Communication, JoinError, JoinOptions, Joined, decline, join, single_process};
pub use peers::{LostHandler, Network, PeerLost, PeerState, Traffic};
pub use secret::{Secret, SecretError};
