//! The catalog of data that is spread over hosts (`--data-layout local`): what each process sees, made known to all.

use crate::engine::exchange::{Audience, Gather, Outgoing, agree, pass};
use crate::engine::session::{Here, Session};
use crate::error::StageError;
use nystream_datasets::kept::KeptColumns;
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
/// [`StageError::Data`], the same on every worker: files of one name that differ, naming both hosts; files whose columns differ; no files.
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
    let catalog = Catalog::clone(&*agree(session, united)?);
    if session.is_leader() {
        let runs = catalog.placed_runs(session.peers(), session.index());
        let rows = runs.map_or(0, |(runs, _)| catalog.rows_of(&runs));
        session.process.has(Here {
            host: catalog.host(me),
            paths: own.paths().map(|path| path.display().to_string()).collect(),
            share: (processes > 1).then_some((rows, catalog.total_rows)),
        });
    }
    Ok(catalog)
}

/// The columns `names` of `catalog` with the types that they have in all files, of which a process may see some only. All workers call this in step.
///
/// ```
/// use nystream_dataflows::engine::{Process, SilentProgress, kept_columns, run};
/// use nystream_datasets::{Catalog, Sources};
/// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=2"])?)?;
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let results = run(&process, communication, move |session| {
///     kept_columns(session, &catalog, &["y".into()]).map(|kept| kept.indices())
/// }).unwrap();
/// assert_eq!(results, [Ok(vec![2]), Ok(vec![2])]);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Data`], the same on every worker: a column that is not there, types that cannot be joined, a file that cannot be read.
pub fn kept_columns(session: &mut Session<'_>, catalog: &Catalog, names: &[String]) -> Result<KeptColumns, StageError> {
    let me = session.process.index();
    let found = session.try_once(|| {
        let kept = KeptColumns::of_files(catalog, names, &|file| catalog.sees(me, file))?;
        Ok((kept.to_bytes()?, kept))
    });
    let found = agree(session, found)?;
    let (bytes, own) = &*found;
    if !catalog.is_spread() || names.is_empty() {
        return Ok(own.clone());
    }
    let outgoing = match session.is_leader() {
        true => vec![Outgoing { key: me as u64, bytes: bytes.clone() }],
        false => Vec::new(),
    };
    let parts = pass(session, "types of columns", outgoing, Gather::default(), Audience::Everyone)?;
    let parts = parts.into_iter().map(|part| (part.bytes, catalog.host(part.key as usize)));
    // The same everywhere: all join the same types.
    Ok(own.clone().join(parts)?)
}
