//! What all processes did, for the report: added up, or each for itself.

use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Gather, Outgoing, pass};
use crate::engine::session::Session;
use crate::error::StageError;
use std::sync::atomic::Ordering;

/// Counts over all processes of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes read from files, caches included.
    pub bytes_read: u64,
    /// Kernel entries evaluated.
    pub kernel_entries: u64,
    /// Floating-point operations, by the cost model's count.
    pub flops: u64,
}

/// The counts so far of all processes, on every worker. One exchange of 24 bytes a process.
///
/// ```
/// use nystream_dataflows::engine::{Process, SilentProgress, counters, run};
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let results = run(&process, communication, |session| {
///     if session.is_leader() {
///         // Workers count in what their process shares: 1,000 entries here, and 500 flops done with them.
///         session.process.count(1000, 500);
///     }
///     counters(session)
/// });
/// for total in results.unwrap() {
///     let total = total.unwrap();
///     assert_eq!((total.kernel_entries, total.flops, total.bytes_read), (1000, 500, 0));
/// }
/// ```
///
/// # Errors
/// [`StageError::Internal`] for a damaged exchange.
pub fn counters(session: &mut Session<'_>) -> Result<Counters, StageError> {
    let process = &session.process;
    let own = [&process.bytes_read, &process.kernel_entries, &process.flops].map(|c| c.load(Ordering::Relaxed));
    let outgoing = if session.is_leader() {
        let mut bytes = Writer::default();
        own.iter().for_each(|value| bytes.u64(*value));
        vec![Outgoing { key: 0, bytes: bytes.0 }]
    } else {
        Vec::new()
    };
    let mut total = Counters::default();
    for parcel in pass(session, "counters", outgoing, Gather::default(), Audience::Everyone)? {
        let mut bytes = Reader(&parcel.bytes);
        total.bytes_read += bytes.u64()?;
        total.kernel_entries += bytes.u64()?;
        total.flops += bytes.u64()?;
    }
    Ok(total)
}

/// What every worker has to say, in the order of the workers, on every worker: an exchange of small things, such as the figures of a report.
///
/// ```
/// use nystream_dataflows::engine::{Process, SilentProgress, of_workers, run};
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let results = run(&process, communication, |session| {
///     let own = vec![session.index() as u8; session.index()];
///     of_workers(session, own)
/// });
/// assert!(results.unwrap().into_iter().all(|all| all.unwrap() == [vec![], vec![1]]));
/// ```
///
/// # Errors
/// [`StageError::Internal`] for a damaged exchange.
pub fn of_workers(session: &mut Session<'_>, own: Vec<u8>) -> Result<Vec<Vec<u8>>, StageError> {
    let outgoing = vec![Outgoing { key: 0, bytes: own }];
    let parcels = pass(session, "figures", outgoing, Gather::default(), Audience::Everyone)?;
    Ok(parcels.into_iter().map(|parcel| parcel.bytes).collect())
}
