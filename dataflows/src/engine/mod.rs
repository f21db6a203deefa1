//! What every stage stands on: the session of a worker, what the workers of a process share, passes over the
//! rows, and exchanges of m-sized results.
//!
//! A job (`fit`, `predict`, ...) is one program that every worker of every process runs in step. Stages are
//! timely dataflows that the workers build in the same order ([`exchange::pass`]); between stages each worker holds the
//! same values, so decisions need no further messages.
//!
//! Invariants:
//! * chunks never cross a channel: the operator that scans a worker's blocks also forms the tiles and
//!   accumulates; only m-sized partial results, samples and scalars travel, in fragments of at most 1 MB, and the rows that a pool or a
//!   window of the dictionary's trie is made of ([`deal`]), whose number the plan bounds;
//! * a block is read by one worker of a pass, its owner or one that took it over ([`leases`]): which, no result tells;
//! * results are merged in an order fixed by their keys, never by arrival;
//! * m x m algebra is computed once per process, by its first worker with all of the process's threads, while the
//!   others wait ([`Session::once`]).

pub mod bytes;
pub mod checkpoint;
pub mod counters;
pub mod deal;
pub mod exchange;
pub mod feed;
pub mod leases;
pub mod run;
pub mod session;
mod spread;
pub mod sums;
pub mod watch;

pub use counters::{Counters, counters, of_workers};
pub use exchange::{Audience, Outgoing, Reducer, Scan, Step, agree, pass, same_everywhere};
pub use run::run;
pub use session::{Process, Progress, Session, SilentProgress};
pub use spread::{kept_columns, unite};
pub use watch::{Seen, Watch};
