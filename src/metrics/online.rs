//! Figures of `nystream online` while it runs: `GET /metrics` of `--listen`.
//!
//! Names as in [`super`]: `nystream_online_` for the run, whose counters are of its state, restarts included, and `nystream_requests_` for what this process has answered. The loop leaves its figures here about
//! every 50 ms; whoever asks takes them, and holds up nothing.

use super::{Page, resident_bytes};
use crate::serve::http::Figures;
use nystream_dataflows::online::demand::Demand;
use nystream_dataflows::online::latency::Latency;
use nystream_dataflows::online::learner::Info;
use nystream_dataflows::online::session::Session;
use nystream_dataflows::online::tally::Tally;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two looks at the shards, of which there may be thousands.
const LOOK: Duration = Duration::from_millis(250);

/// What is shown of a run, and the publications that are asked of it.
#[derive(Clone)]
pub struct Run(Arc<Mutex<State>>, Demand);

#[derive(Default)]
struct State {
    mode: String,
    tally: Tally,
    info: Info,
    waiting: u64,
    log_bytes: u64,
    shards: Option<(u64, u64)>,
    saved: Option<Instant>,
    latency: [Option<f64>; 2],
    held_up: bool,
    looked: Option<Instant>,
}

impl Run {
    /// Of a learner.
    pub fn new(mode: &str) -> Self {
        Run(Arc::new(Mutex::new(State { mode: mode.into(), ..State::default() })), Demand::default())
    }

    /// By which publications are asked for.
    pub fn demand(&self) -> Demand {
        self.1.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the run stands.
    pub fn seen(&self, session: &Session) {
        let mut own = self.lock();
        if own.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        own.looked = Some(Instant::now());
        own.tally = Tally { sources: Default::default(), ..session.tally().clone() };
        own.info = session.info();
        // Of rows that are all gone there is no model.
        if !session.traits().answers && own.tally.learnable == 0 {
            own.info.dictionary = 0;
        }
        own.waiting = session.waiting();
        own.log_bytes = session.log_bytes();
        own.shards = session.shards().map(|shards| (shards.all.len() as u64, shards.most));
    }

    /// A snapshot was written.
    pub fn saved(&self) {
        self.lock().saved = Some(Instant::now());
    }

    /// How long events took, milliseconds.
    pub fn measured(&self, latency: &Latency) {
        self.lock().latency = [0.5, 0.99].map(|q| latency.quantile(q));
    }

    /// Whether a disk is full.
    pub fn held_up(&self, held_up: bool) {
        self.lock().held_up = held_up;
    }
}

/// The page. `served`: as of which change the model is that answers.
pub fn page(run: &Run, requests: &Figures, served: Option<u64>) -> String {
    let own = run.lock();
    let mut page = Page::default();
    page.one("build_info", "gauge", "Version of nystream.", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    if let Some(bytes) = resident_bytes() {
        page.one("resident_memory_bytes", "gauge", "Resident memory of the process.", &[], bytes as f64);
    }
    page.one("online_info", "gauge", "Learner of the run.", &[("mode", &own.mode)], 1.0);
    page.head("online_rows_total", "counter", "Events that were taken.");
    let Tally { inserted, updated, deleted, labelled, .. } = own.tally;
    for (op, rows) in [("insert", inserted), ("update", updated), ("delete", deleted), ("label", labelled)] {
        page.sample("online_rows_total", &[("op", op)], rows as f64);
    }
    let mut count = |name: &str, kind: &str, help: &str, value: u64| page.one(name, kind, help, &[], value as f64);
    count(
        "online_expired_total",
        "counter",
        "Rows that left a window, or that another configuration refused.",
        own.tally.expired,
    );
    count("online_rejected_total", "counter", "Events that were refused.", own.tally.rejected);
    count("online_predictions_total", "counter", "Answers given to rows of the stream.", own.tally.answers);
    count("online_publications_total", "counter", "Models published.", own.tally.publications);
    let surviving = inserted.saturating_sub(deleted + own.tally.expired);
    count("online_surviving_rows", "gauge", "Rows that were inserted, and neither deleted nor expired.", surviving);
    count("online_waiting_rows", "gauge", "Rows that wait for their label.", own.waiting);
    count("online_block_rows", "gauge", "Rows that wait for their block to be complete.", own.info.waiting);
    count("online_dictionary_atoms", "gauge", "Atoms or centers, of all shards.", own.info.dictionary);
    count("online_learner_bytes", "gauge", "Memory that grows with the dictionary.", own.info.bytes);
    count("online_restarts_total", "counter", "Times that the learner began anew.", own.info.restarts);
    count("online_log_bytes", "gauge", "Bytes of the log.", own.log_bytes);
    count("online_held_up", "gauge", "1 while a disk is full and nothing is acknowledged.", u64::from(own.held_up));
    if let Some((shards, most)) = own.shards {
        count("online_shards", "gauge", "Independent learners.", shards);
        count("online_shards_limit", "gauge", "Independent learners that there may be.", most);
    }
    if let Some(changes) = served {
        count("online_served_changes", "gauge", "Changes that the model has which answers requests.", changes);
    }
    page.head("online_drift_alarms_total", "counter", "Alarms of drift.");
    for (kind, alarms) in [("mass", own.info.mass_alarms), ("loss", own.info.loss_alarms)] {
        page.sample("online_drift_alarms_total", &[("kind", kind)], alarms as f64);
    }
    let mean = "Mean loss of rows that were predicted before they were learned, standardised.";
    let window = "The same of the last rows, --loss-window of them.";
    for (name, help, loss) in
        [("online_mean_loss", mean, own.info.mean_loss), ("online_window_loss", window, own.info.window_loss)]
    {
        if let Some(loss) = loss.filter(|loss| loss.is_finite()) {
            page.one(name, "gauge", help, &[], loss);
        }
    }
    if let Some(saved) = own.saved {
        let age = saved.elapsed().as_secs_f64();
        page.one("online_snapshot_age_seconds", "gauge", "Time since the last snapshot was written.", &[], age);
    }
    let quantiles = |page: &mut Page, name: &str, help: &str, found: [Option<f64>; 2]| {
        if let [Some(p50), Some(p99)] = found {
            page.head(name, "gauge", help);
            page.sample(name, &[("quantile", "0.5")], p50 / 1e3);
            page.sample(name, &[("quantile", "0.99")], p99 / 1e3);
        }
    };
    let help = "Time from the reading of an event to its acknowledgement, of this process.";
    quantiles(&mut page, "online_acknowledgement_seconds", help, own.latency);
    page.head("requests_total", "counter", "Requests answered by this process, by status.");
    for (status, answers) in &requests.answers {
        page.sample("requests_total", &[("status", &status.to_string())], *answers as f64);
    }
    let help = "Time from the last byte of requests to that of their answers.";
    page.one("requests_seconds_total", "counter", help, &[], requests.seconds);
    let help = "The same of one request.";
    quantiles(&mut page, "requests_seconds", help, [0.5, 0.99].map(|q| requests.latency.quantile(q)));
    page.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_of_the_format() {
        let run = Run::new("con-kons");
        let empty = super::super::tests::check(&page(&run, &Figures::default(), None));
        assert!(
            !empty.contains("nystream_online_snapshot_age_seconds") && !empty.contains("nystream_online_mean_loss")
        );
        let mut latency = Latency::default();
        latency.add(Duration::from_millis(3), 10);
        run.saved();
        run.measured(&latency);
        run.held_up(true);
        {
            let mut own = run.lock();
            own.shards = Some((3, 8));
            own.tally.inserted = 12;
            own.info.mean_loss = Some(0.25);
            own.info.window_loss = Some(f64::NAN);
        }
        let requests = Figures { answers: [(200, 5), (413, 1)].into(), latency, seconds: 0.5 };
        let shown = page(&run, &requests, Some(7));
        let families = super::super::tests::check(&shown);
        for wanted in ["online_snapshot_age_seconds", "online_shards", "online_served_changes", "requests_seconds"] {
            assert!(families.contains(&format!("nystream_{wanted}")), "{wanted}");
        }
        for line in [
            "nystream_online_info{mode=\"con-kons\"} 1",
            "nystream_online_rows_total{op=\"insert\"} 12",
            "nystream_online_held_up 1",
            "nystream_online_mean_loss 0.25",
            "nystream_requests_total{status=\"413\"} 1",
        ] {
            assert!(shown.lines().any(|own| own == line), "{line} is missing from\n{shown}");
        }
        assert!(!shown.contains("window_loss"), "no number is no sample");
    }
}
