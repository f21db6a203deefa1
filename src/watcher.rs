//! The passes of a job's workers, shown to people.

use crate::progress::{Pass, Progress};
use crate::report::text::count;
use nystream_dataflows::engine;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shows the passes of the workers.
pub struct Watcher {
    progress: Progress,
    /// Whether other processes share the rows of a pass; each shows its own.
    shares: bool,
    pass: Mutex<Option<Pass>>,
}

impl Watcher {
    /// Over `progress`; `processes` share each pass.
    pub fn new(progress: &Progress, processes: usize) -> Box<Self> {
        Box::new(Watcher { progress: progress.clone(), shares: processes > 1, pass: Mutex::new(None) })
    }

    fn pass(&self) -> MutexGuard<'_, Option<Pass>> {
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl engine::Progress for Watcher {
    fn begin(&self, name: &str, rows: u64) {
        let total = (rows > 0).then_some(rows);
        let unit = if self.shares { "rows of this process" } else { "rows" };
        let mut pass = self.pass();
        // What was shown before ends first, since a new pass names the stage.
        drop(pass.take());
        *pass = Some(self.progress.pass(name, total, unit));
    }

    fn advance(&self, rows: u64) {
        if let Some(pass) = &*self.pass() {
            pass.add(rows);
        }
    }

    fn step(&self, what: &str, order: usize) {
        let order = count(order as u64);
        let what = format!("{what}, {order} x {order}");
        let mut pass = self.pass();
        match &*pass {
            Some(pass) if pass.counts() => pass.step(&what),
            _ => {
                drop(pass.take());
                *pass = Some(self.progress.step(&what));
            }
        }
    }

    fn say(&self, line: &str) {
        self.progress.say(line);
    }

    fn end(&self) {
        if let Some(pass) = self.pass().take() {
            pass.finish();
        }
    }
}
