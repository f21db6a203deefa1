//! What every process of a fit has done, brought together for the report.

use crate::report::{ProcessReport, StageTime};
use nystream_cluster::Network;
use nystream_dataflows::StageError;
use nystream_dataflows::engine::{Session, of_workers};
use nystream_dataflows::job::FitOutcome;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// What a worker says of itself; the first of a process says the rest for all.
#[derive(Serialize, Deserialize)]
struct Figures {
    process: u64,
    waiting: BTreeMap<String, f64>,
    of_process: Option<ProcessReport>,
}

/// A report of each process, on every worker; none without other processes. Every worker calls this in step.
pub(super) fn of_processes(
    session: &mut Session<'_>,
    outcome: &FitOutcome,
    network: Option<&Network>,
) -> Result<Vec<ProcessReport>, StageError> {
    let Some(network) = network else { return Ok(Vec::new()) };
    let process = session.process.index() as u64;
    let of_process = session.is_leader().then(|| {
        let (own, traffic) = (&session.process, network.traffic());
        ProcessReport {
            process,
            host: network.address().to_owned(),
            stages: outcome.seconds.iter().map(|(stage, seconds)| (stage.clone(), time(*seconds))).collect(),
            rows: own.watch.seen().rows,
            bytes_read: own.bytes_read.load(Ordering::Relaxed),
            kernel_entries: own.kernel_entries.load(Ordering::Relaxed),
            blocks_taken: own.blocks_taken.load(Ordering::Relaxed),
            blocks_given: own.blocks_given.load(Ordering::Relaxed),
            bytes_sent: traffic.bytes_sent,
            bytes_received: traffic.bytes_received,
            peak_rss_bytes: crate::resources::peak_rss_bytes(),
        }
    });
    let figures = Figures { process, waiting: outcome.waiting.clone(), of_process };
    let own = serde_json::to_vec(&figures).map_err(|e| StageError::Internal(e.to_string()))?;
    let mut reports: Vec<ProcessReport> = Vec::new();
    let workers = session.process.workers() as f64;
    // In the order of the workers, whose first says what its process did.
    for bytes in of_workers(session, own)? {
        let figures: Figures = serde_json::from_slice(&bytes).map_err(|e| StageError::Internal(e.to_string()))?;
        reports.extend(figures.of_process);
        let Some(report) = reports.last_mut().filter(|report| report.process == figures.process) else {
            return Err(StageError::Internal("figures of a process are missing".into()));
        };
        for (stage, waiting) in figures.waiting {
            report.stages.entry(stage).or_default().waiting += waiting / workers;
        }
    }
    Ok(reports)
}

fn time(seconds: f64) -> StageTime {
    StageTime { seconds, waiting: 0.0 }
}
