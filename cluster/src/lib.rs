//! Processes: who takes part in a job, and the sockets between them.
//!
//! * [`Hosts`]: the list of processes, one `host:port` a line;
//! * [`join`]: opens the sockets, checks that both ends run the same job, and hands them to timely; [`decline`] tells the others that a process will not come;
//! * [`launch`] (Unix): starts the processes of a job, here or by ssh, and ends them together.
//!
//! The sockets are not authenticated or encrypted yet, so only loopback addresses are accepted ([`Hosts::parse`]).

mod hosts;
mod join;
#[cfg(unix)]
pub mod launch;

pub use hosts::{Hosts, HostsError};
pub use join::{Communication, JobIdentity, JoinError, PARTS, decline, join, single_process};
