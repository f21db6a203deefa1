//! The exact mode: a model that equals, bit for bit, the one that `fit --config-from` makes of the rows that are there.
//!
//! The problem: rows are inserted, corrected and deleted one by one; a fit from scratch after each is out of the question, and a model that is merely close to it has not forgotten what
//! it was told to forget.
//!
//! What a fit under `--config-from` with the exact Gram makes is a function of the set of (id, row) alone ([`crate::job`]'s `live` says why). So it is enough to keep that set, and the one
//! sum over it that is expensive:
//!
//! ```text
//!  changes --exchange by hash of id--> keep --(id, slot) +1/-1--+--arranged by id: which slot a row has
//!                                      rows in slots on disk    +--Gram: its own integers, fed by the collection's updates
//! ```
//!
//! * The rows are a differential collection of (id -> slot), arranged by id over the workers; the rows themselves lie in slots on local disk
//!   ([`RowSlots`](nystream_datasets::RowSlots)).
//! * The Gram over the current centers is the state of a timely operator that the collection's updates feed: rows are read from their slots, and their kernel entries added or subtracted a panel at a
//!   time, in integers, by all workers into one matrix. As differences of a collection they would be m^2 integers a row.
//! * A publication asks whether a row that came or went could have changed the centers (its hash is in the pool that they are chosen from). If not, they are what they were, and so is the
//!   Gram: what is left is the solve. If so they are chosen again, from the rows as a fit does; rows are read again for those pairs of centers alone of which one is new, and the sums of
//!   all others are carried over ([`ExactGram::carry`](nystream_kernels::gram::ExactGram::carry)).
//! * A snapshot stores the integers with their centers in a file beside the state (`sums`). A restart is given the rows that were there then, which go into their slots alone
//!   ([`Learner::load`](super::learner::Learner::load)), and the changes after it, which are learned as ever: kernel entries are evaluated for these, not for the rows.
//!
//! * Of several processes the first has the runtime, and passes its orders on ([`follow`]); each keeps the rows whose ids hash to its workers, and their part of the integers (`together`).
//!
//! Invariants
//! * No bit depends on the number of workers and processes, on the order or the batches of changes, or on when there were publications: sums are integers, everything else is made anew of the set.
//! * A change of a key is final: what the key had before goes, whether or not the caller says so; taking away what is not there changes nothing.
//! * Rows of which some targets, not all, are null are kept, and while there are any nothing is published, as no single Gram serves them: the refusal is that of the fit.
//!
//! Cost: n m flops a row for entries and m^2 for the Gram, each way. Memory: two Grams (8 m^2 bytes each, two while centers change), packed centers and a panel a worker,
//! [`PLACE_BYTES`] for each row that is there, the pool of a selection, the sample, eight batches on their way. Disk: a slot for each row at most, and one for each
//! that left with the last eight batches, which `--disk-limit` does not count.

mod crew;
mod engine;
mod gram;
mod keep;
mod publish;
mod snapshot;
mod sums;
mod threads;
mod together;
mod worker;

use std::path::{Path, PathBuf};

pub use engine::{ExactEngine, ExactSetup};
pub use publish::Work;
pub use threads::{Communication, Joined, Threads, follow};

/// What a row takes in memory, about: its id and its slot in the arrangement, which holds up to twice of it while batches merge, its share of the slots' bits, and two
/// hashes' leading zeros.
pub const PLACE_BYTES: u64 = 116;

/// Whether the file of sums in `folder` is the one that a snapshot's bytes name, where they name one.
///
/// # Errors
/// The file, and what is wrong with it; `None` where it is not there.
pub fn check_sums(folder: &Path, snapshot: &[u8]) -> Result<(), (PathBuf, Option<String>)> {
    match snapshot::split(snapshot) {
        Ok(snapshot::Parts { sums: Some(reference), .. }) => sums::check(folder, &reference),
        Ok(_) => Ok(()),
        Err(error) => Err((folder.to_path_buf(), Some(error.to_string()))),
    }
}
