//! What an interrupt does to a run of `nystream online`.
//!
//! While events are learned it asks the loop to end, which acknowledges what it has, publishes and writes a last snapshot. Before that (a first fit, rows that are read again, a configuration that is made anew) there is
//! nothing to end first: everything that is durable is whole at any instant, as a kill would find it, so the process ends at once. Processes of several end together, which the loop of the first brings about: there it waits
//! for the loop.

use super::{init, refit};
use crate::cli::OnlineArgs;
use crate::exit;
use crate::joining;
use nystream_dataflows::online::state::State;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Interrupts of a run.
#[derive(Clone, Debug)]
pub struct Interrupts {
    asked: Arc<AtomicBool>,
    learning: Arc<AtomicBool>,
}

impl Interrupts {
    /// Takes those of this process from now on.
    pub fn take(args: &OnlineArgs) -> Self {
        let own = Interrupts {
            asked: Arc::new(AtomicBool::new(false)),
            learning: Arc::new(AtomicBool::new(args.resources.hosts.is_some())),
        };
        let (taken, folder) = (own.clone(), args.stream.state.clone());
        exit::take_interrupts(move || {
            // Nothing has been learned while others are waited for: the process ends as any other, and tells them.
            if joining::waits() {
                return false;
            }
            if taken.learning.load(Ordering::Relaxed) {
                taken.asked.store(true, Ordering::Relaxed);
                return true;
            }
            exit::interrupted(&left(folder.as_ref()))
        });
        own
    }

    /// From here on the loop looks whether it was asked to end.
    pub fn learn(&self) {
        self.learning.store(true, Ordering::Relaxed);
    }

    /// Whether it was.
    pub fn asked(&self) -> &AtomicBool {
        &self.asked
    }
}

/// Removes what nobody needs of what was going on in the folder of a state, and says what is left.
fn left(folder: Option<&PathBuf>) -> String {
    let held = folder.filter(|folder| State::is_held_here(folder));
    let Some(folder) = held else { return "interrupted: nothing was written".into() };
    remove_fitted(folder);
    match State::leave(folder) {
        true => "interrupted: nothing has begun; the same command begins".into(),
        false => said(folder),
    }
}

/// What is said of a state that was interrupted.
pub fn said(folder: &Path) -> String {
    format!("interrupted: what was acknowledged is in {}; the same command goes on", folder.display())
}

/// Removes rows that a fit was of, deleted ones among them.
pub fn remove_fitted(folder: &Path) {
    for name in [init::FIRST_ROWS, refit::ROWS_LEFT] {
        let _ = std::fs::remove_file(folder.join(name));
    }
}
