//! The catalog of data that is spread over hosts (`--data-layout local`): what each process sees, made known to all.

use crate::engine::exchange::{Audience, Gather, Outgoing, agree, pass};
use crate::engine::session::Session;
use crate::error::StageError;
use nystream_datasets::{Catalog, HostFiles};

/// The catalog of the files of all processes, of which this one has `own`; `hosts` is how messages name the processes. All workers call this in step.
///
/// ```
/// use nystream_dataflows::engine::{Process, SilentProgress, run, unite};
/// use nystream_datasets::HostFiles;
/// let own = HostFiles::open(&["synth:sines?rows=5000"])?;
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let results = run(&process, communication, move |session| {
///     Ok::<_, nystream_dataflows::StageError>(unite(session, &own, &["here".into()])?.total_rows)
/// }).unwrap();
/// assert_eq!(results, [Ok(5000), Ok(5000)]);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Data`], the same on every worker: files of one name that differ, naming both hosts; files whose columns differ; no rows.
pub fn unite(session: &mut Session<'_>, own: &HostFiles, hosts: &[String]) -> Result<Catalog, StageError> {
    let (me, processes) = (session.process.index(), session.process.processes());
    let outgoing =
        if session.is_leader() { vec![Outgoing { key: me as u64, bytes: own.to_bytes() }] } else { Vec::new() };
    let mut parts = vec![Vec::new(); processes];
    for Outgoing { key, bytes } in pass(session, "files of all hosts", outgoing, Gather::default(), Audience::Everyone)?
    {
        if let Some(part) = parts.get_mut(key as usize) {
            *part = bytes;
        }
    }
    let united = session.try_once(|| Ok(own.unite(&parts, hosts, me)?));
    Ok(Catalog::clone(&*agree(session, united)?))
}
