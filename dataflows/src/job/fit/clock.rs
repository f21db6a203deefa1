//! How long the stages of a fit take.

use super::FitOutcome;
use crate::engine::session::Session;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Processor seconds of all threads of this process so far, in hundredths; `None` where the system does not say (Linux does).
pub fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in brackets, may hold anything; user and system time are the 12th and 13th field behind it.
    let mut times = stat.rsplit(')').next()?.split_whitespace().skip(11).map(str::parse::<f64>);
    Some((times.next()?.ok()? + times.next()?.ok()?) / 100.0)
}

/// Wall time by stage, how much of it this worker waited, and what the process took of the processors meanwhile. For reports only.
pub(super) struct Clock {
    seconds: BTreeMap<String, f64>,
    last: Instant,
    processor: BTreeMap<String, f64>,
    /// Processor time of the process at the last lap.
    taken: Option<f64>,
    waiting: BTreeMap<String, f64>,
    /// What the worker has waited in all, now and at the last lap.
    waited: (Rc<Cell<Duration>>, Duration),
}

impl Clock {
    pub(super) fn new(session: &Session<'_>) -> Self {
        let waited = (session.waited(), session.waited().get());
        Clock {
            seconds: BTreeMap::new(),
            last: Instant::now(),
            processor: BTreeMap::new(),
            taken: processor_seconds(),
            waiting: BTreeMap::new(),
            waited,
        }
    }

    pub(super) fn lap(&mut self, stage: &str) {
        let now = Instant::now();
        *self.seconds.entry(stage.to_owned()).or_default() += (now - self.last).as_secs_f64();
        self.last = now;
        let waited = self.waited.0.get();
        *self.waiting.entry(stage.to_owned()).or_default() += (waited - self.waited.1).as_secs_f64();
        self.waited.1 = waited;
        let taken = processor_seconds();
        if let (Some(before), Some(now)) = (self.taken, taken) {
            *self.processor.entry(stage.to_owned()).or_default() += now - before;
        }
        self.taken = taken;
    }

    /// The times, into the outcome.
    pub(super) fn write(self, outcome: &mut FitOutcome) {
        (outcome.seconds, outcome.waiting, outcome.processor) = (self.seconds, self.waiting, self.processor);
    }
}
