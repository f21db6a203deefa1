//! Metrics of a running process, in Prometheus' text format (`--metrics-addr`).
//!
//! Names follow Prometheus' conventions: `nystream_`, base units (`_seconds`, `_bytes`, `_ratio`), `_total` for counters, `_info` for labels alone. What does not apply (no iterative
//! solver, no other process, no checkpoint yet) is absent. Counters are of this process since it began; each process serves its own.
//!
//! The server (`server`) is our own: one page for a few readers at a time is 150 lines over the standard library, where the servers of crates bring an asynchronous runtime or are no
//! longer kept.

pub mod online;
mod server;

use crate::exit::Failure;
use crate::resources::resident_bytes;
use nystream_cluster::{Network, PeerState};
use nystream_dataflows::engine::{Process, Seen};
use std::fmt::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// What is served: the process, and its connections, as soon as there are any.
#[derive(Default)]
struct Source {
    process: OnceLock<Arc<Process>>,
    network: OnceLock<Network>,
}

/// The metrics of this process, served until it ends.
pub struct Metrics {
    source: Arc<Source>,
    address: SocketAddr,
}

impl Metrics {
    /// Serves on `address`, from now on.
    ///
    /// # Errors
    /// An address that is in use or not this machine's (2).
    pub fn serve(address: &str) -> Result<Self, Failure> {
        let failed = |e: std::io::Error| {
            Failure::usage(format!("--metrics-addr {address}: cannot listen there: {e}; port 0 takes any free one"))
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let own = listener.local_addr().map_err(failed)?;
        let source = Arc::new(Source::default());
        let served = Arc::clone(&source);
        server::start(listener, move || served.page()).map_err(failed)?;
        Ok(Metrics { source, address: own })
    }

    /// Where they are.
    pub fn url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }

    /// From now on the figures of `process`, and of its connections, are shown.
    pub fn watch(&self, process: &Arc<Process>, network: Option<&Network>) {
        let _ = self.source.process.set(Arc::clone(process));
        if let Some(network) = network {
            let _ = self.source.network.set(network.clone());
        }
    }
}

impl Source {
    fn page(&self) -> String {
        let figures = self.process.get().map(|process| Figures {
            index: process.index(),
            processes: process.processes(),
            workers: process.workers(),
            seen: process.watch.seen(),
            bytes_read: process.bytes_read.load(Ordering::Relaxed),
            kernel_entries: process.kernel_entries.load(Ordering::Relaxed),
            flops: process.flops.load(Ordering::Relaxed),
            waiting: process.seconds_waiting(),
            elapsed: process.elapsed(),
        });
        let peers = self.network.get().map(Network::peers).unwrap_or_default();
        page(figures.as_ref(), &peers, resident_bytes())
    }
}

/// What a process has to show.
struct Figures {
    index: usize,
    processes: usize,
    workers: usize,
    seen: Seen,
    bytes_read: u64,
    kernel_entries: u64,
    flops: u64,
    waiting: f64,
    elapsed: f64,
}

/// The page: before the job has begun `figures` are absent and the stage is `joining`.
fn page(figures: Option<&Figures>, peers: &[PeerState], resident: Option<u64>) -> String {
    let mut page = Page::default();
    page.one("build_info", "gauge", "Version of nystream.", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    if let Some(bytes) = resident {
        page.one("resident_memory_bytes", "gauge", "Resident memory of the process.", &[], bytes as f64);
    }
    let stage = "Stage at work, as a label: joining, the name of a stage, or idle between stages.";
    let Some(own) = figures else {
        page.one("stage_info", "gauge", stage, &[("stage", "joining")], 1.0);
        return page.0;
    };
    let (index, processes, workers) = (own.index.to_string(), own.processes.to_string(), own.workers.to_string());
    let labels = [("process", index.as_str()), ("processes", &processes), ("workers", &workers)];
    page.one("process_info", "gauge", "Which process of the job this is.", &labels, 1.0);
    let seen = &own.seen;
    page.one("stage_info", "gauge", stage, &[("stage", seen.stage.as_deref().unwrap_or("idle"))], 1.0);
    page.one("stage_elapsed_seconds", "gauge", "Time since the stage began.", &[], seen.stage_seconds);
    page.one("stage_rows", "gauge", "Rows that this process has handled in the stage.", &[], seen.stage_rows as f64);
    if seen.stage_rows_expected > 0 {
        let help = "Rows that this process is expected to handle in the stage, or in a pass of it where the number of passes is open.";
        page.one("stage_expected_rows", "gauge", help, &[], seen.stage_rows_expected as f64);
    }
    page.one("elapsed_seconds", "gauge", "Time since the job began.", &[], own.elapsed);
    page.one("rows_total", "counter", "Rows handled in passes.", &[], seen.rows as f64);
    page.one("read_bytes_total", "counter", "Bytes read from files, caches included.", &[], own.bytes_read as f64);
    page.one("kernel_entries_total", "counter", "Kernel entries evaluated.", &[], own.kernel_entries as f64);
    let help = "Floating-point operations, by the cost model's count.";
    page.one("flops_total", "counter", help, &[], own.flops as f64);
    let help = "Time that a worker has waited in passes, on the average, for other workers, results and the network.";
    page.one("waiting_seconds_total", "counter", help, &[], own.waiting);
    page.one("chunks_read_ahead", "gauge", "Chunks of rows that were read and not yet used.", &[], seen.ahead as f64);
    if seen.planned > 0 {
        let help = "Memory that the plan gives the process.";
        page.one("planned_memory_bytes", "gauge", help, &[], seen.planned as f64);
    }
    if let Some(iteration) = seen.iteration {
        page.one("solver_iteration", "gauge", "Steps that the iterative solver has made.", &[], iteration as f64);
    }
    if let Some(residual) = seen.residual {
        let help = "Relative residual as the solver believes, of several columns the largest.";
        page.one("solver_residual_ratio", "gauge", help, &[], residual);
    }
    if let Some(age) = seen.checkpoint_age {
        page.one("checkpoint_age_seconds", "gauge", "Time since the last checkpoint was written.", &[], age);
    }
    page.peers("peer_silence_seconds", "gauge", "Time since another process was last heard.", peers, |peer| {
        peer.silent.map(|silent| silent.as_secs_f64())
    });
    page.peers("peer_sent_bytes_total", "counter", "Bytes sent to another process.", peers, |peer| {
        Some(peer.traffic.bytes_sent as f64)
    });
    page.peers("peer_received_bytes_total", "counter", "Bytes received from another process.", peers, |peer| {
        Some(peer.traffic.bytes_received as f64)
    });
    page.0
}

/// A page under way.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP nystream_{name} {help}\n# TYPE nystream_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let braces = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "nystream_{name}{braces} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.head(name, kind, help);
        self.sample(name, labels, value);
    }

    /// A family with a sample for each other process that has a value.
    fn peers(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        peers: &[PeerState],
        value: impl Fn(&PeerState) -> Option<f64>,
    ) {
        let found: Vec<_> = peers.iter().filter_map(|peer| Some((peer, value(peer)?))).collect();
        if found.is_empty() {
            return;
        }
        self.head(name, kind, help);
        for (peer, value) in found {
            self.sample(name, &[("peer", &peer.process.to_string()), ("address", &peer.address)], value);
        }
    }
}

/// A label's value, as the format has it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use nystream_cluster::Traffic;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn figures() -> Figures {
        let seen = Seen {
            rows: 7,
            stage: Some("odd \"name\"\\ of\na stage".into()),
            stage_rows_expected: 10,
            iteration: Some(3),
            residual: Some(1e-9),
            planned: 1 << 40,
            checkpoint_age: Some(0.5),
            ..Seen::default()
        };
        Figures {
            index: 1,
            processes: 3,
            workers: 2,
            seen,
            bytes_read: 1,
            kernel_entries: u64::MAX,
            flops: 3,
            waiting: 0.25,
            elapsed: 9.0,
        }
    }

    fn peers() -> Vec<PeerState> {
        let peer = |process: usize, silent| PeerState {
            process,
            address: format!("host-{process}:4100"),
            silent,
            traffic: Traffic { bytes_sent: 5, bytes_received: 6 },
        };
        vec![peer(0, Some(Duration::from_millis(1500))), peer(2, None)]
    }

    /// Every line is a HELP, then its TYPE, then samples of that family alone; names and values are of the format, and names by its conventions.
    pub(super) fn check(page: &str) -> BTreeSet<String> {
        let name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                && !text.starts_with(|c: char| c.is_ascii_digit())
        };
        assert!(page.ends_with('\n'));
        let (mut families, mut now, mut kind) = (BTreeSet::new(), String::new(), String::new());
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (family, help) = rest.split_once(' ').expect("a help");
                assert!(name(family) && help.ends_with('.') && family.starts_with("nystream_"), "{line}");
                assert!(families.insert(family.to_owned()), "{family} twice");
                (now, kind) = (family.to_owned(), String::new());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (family, of) = rest.split_once(' ').expect("a type");
                assert!(family == now && kind.is_empty() && ["gauge", "counter"].contains(&of), "{line}");
                assert_eq!(of == "counter", family.ends_with("_total"), "{line}");
                kind = of.to_owned();
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                assert!(!kind.is_empty() && value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
                let (family, labels) = match series.split_once('{') {
                    Some((family, labels)) => (family, labels.strip_suffix('}').expect("a brace")),
                    None => (series, ""),
                };
                assert_eq!(family, now, "{line}");
                let mut rest = labels;
                while !rest.is_empty() {
                    let (label, text) = rest.split_once("=\"").expect("a label");
                    assert!(name(label), "{line}");
                    let mut end = 0;
                    let bytes = text.as_bytes();
                    while bytes[end] != b'"' {
                        end += if bytes[end] == b'\\' { 2 } else { 1 };
                    }
                    rest = text[end + 1..].strip_prefix(',').unwrap_or(&text[end + 1..]);
                }
            }
        }
        families
    }

    #[test]
    fn pages_are_of_the_format_whatever_they_show() {
        let full = page(Some(&figures()), &peers(), Some(12_345));
        let families = check(&full);
        for wanted in [
            "rows_total",
            "read_bytes_total",
            "kernel_entries_total",
            "flops_total",
            "stage_info",
            "solver_iteration",
            "solver_residual_ratio",
            "chunks_read_ahead",
            "peer_silence_seconds",
            "peer_sent_bytes_total",
            "peer_received_bytes_total",
            "checkpoint_age_seconds",
            "resident_memory_bytes",
            "planned_memory_bytes",
        ] {
            assert!(families.contains(&format!("nystream_{wanted}")), "{wanted} is missing");
        }
        assert!(full.contains("nystream_stage_info{stage=\"odd \\\"name\\\"\\\\ of\\na stage\"} 1\n"), "{full}");
        assert!(full.contains("nystream_peer_silence_seconds{peer=\"0\",address=\"host-0:4100\"} 1.5\n"), "{full}");
        // One that has said farewell is not silent.
        assert!(!full.contains("silence_seconds{peer=\"2\""), "{full}");
        let bare = Figures { seen: Seen::default(), ..figures() };
        let families = check(&page(Some(&bare), &[], None));
        for absent in ["solver_iteration", "checkpoint_age_seconds", "peer_silence_seconds", "planned_memory_bytes"] {
            assert!(!families.contains(&format!("nystream_{absent}")), "{absent}");
        }
        let before = page(None, &[], Some(1));
        check(&before);
        assert!(before.contains("stage=\"joining\""));
    }
}
