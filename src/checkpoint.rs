//! The checkpoints of a job: what the stages ask to keep ([`Keeper`]), in the folder that was named ([`Store`]), at the pace that is allowed ([`Pace`]).
//!
//! A folder that fills up or is taken away on the way does not end the job: that is said once, and in the report. An interrupt is a wish for a checkpoint: it waits, for `PATIENCE` at
//! most, until whoever is at work has come to a boundary and written what it has.

use crate::cli::groups::CheckpointArgs;
use crate::exit::{self, ExitCode, Failure, lock};
use crate::jobs::Identity;
use nystream_cluster::checkpoint::{CheckpointError, Frame, Pace, Store, Written};
use nystream_dataflows::StageError;
use nystream_dataflows::engine::checkpoint::Keeper;
use nystream_dataflows::engine::{Outgoing, Process};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

/// How long an interrupt waits for a checkpoint: less than the ten seconds after which a launcher kills.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long an attempt that resumes waits for the lock of the one before it, whose end it may be quicker than.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);
/// Member of entries of the first worker.
const FIRST: &str = "state";

/// What was written, for the report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckpointReport {
    /// Entries written by this process.
    pub count: u64,
    /// Seconds that took.
    pub seconds: f64,
    /// Bytes.
    pub bytes: u64,
    /// Why the last attempt to write failed, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// What an interrupt waits for.
#[derive(Default)]
struct Asked {
    now: bool,
    /// Another process is gone: what needs it does not come.
    alone: bool,
    /// Scans that could write a part.
    scans: usize,
    /// What was written since.
    written: BTreeSet<(String, String)>,
}

impl Asked {
    fn answered(&self) -> bool {
        let all = (self.scans > 0 || self.alone) && self.written.len() >= self.scans;
        all || self.written.iter().any(|(_, member)| member == FIRST)
    }
}

/// The checkpoints of one process.
pub struct Checkpoints {
    store: Store,
    index: usize,
    quiet: bool,
    pace: Mutex<Pace>,
    resumed: Mutex<Option<String>>,
    failed: Mutex<Option<String>>,
    asked: Mutex<Asked>,
    answered: Condvar,
    /// Where the metrics look.
    watch: OnceLock<Weak<Process>>,
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        let code = match error {
            CheckpointError::Unusable { .. } => ExitCode::Data,
            _ => ExitCode::Usage,
        };
        Failure::caused(code, error)
    }
}

fn warn(line: &str) {
    exit::say(&format!("warning: {line}"));
}

impl Checkpoints {
    /// Opens the folder of `args` for process 0 of the job of `identity`, before it joins the others; says what is found, unless `quiet`. `None` where no folder is named.
    ///
    /// # Errors
    /// A folder that cannot be used (1), or must not be (2).
    pub fn lead(
        args: &CheckpointArgs,
        identity: &Identity,
        begun: Instant,
        quiet: bool,
    ) -> Result<Option<Arc<Self>>, Failure> {
        let Some(folder) = &args.checkpoint else { return Ok(None) };
        let patience = if args.resume { LOCK_PATIENCE } else { Duration::ZERO };
        let (store, found) = Store::lead(folder, &identity.job_key(), args.resume, patience, Box::new(warn))?;
        if args.resume && !found.checkpoint && !quiet {
            exit::say(&format!("there is nothing to resume in {}: the job begins anew", folder.display()));
        }
        Ok(Some(Self::of(store, args, (0, quiet), begun)))
    }

    /// Opens it for another process, after it has joined process 0.
    ///
    /// # Errors
    /// What is wrong with the folder.
    pub fn follow(
        args: &CheckpointArgs,
        identity: &Identity,
        index: usize,
        begun: Instant,
        quiet: bool,
    ) -> Result<Option<Arc<Self>>, StageError> {
        let Some(folder) = &args.checkpoint else { return Ok(None) };
        let store = Store::follow(folder, &identity.job_key(), Box::new(warn)).map_err(|e| match e {
            CheckpointError::Unusable { .. } => StageError::Data(e.to_string()),
            other => StageError::Usage(format!("process {index}: {other}")),
        })?;
        Ok(Some(Self::of(store, args, (index, quiet), begun)))
    }

    fn of(store: Store, args: &CheckpointArgs, (index, quiet): (usize, bool), begun: Instant) -> Arc<Self> {
        let every = Duration::from_secs_f64(args.checkpoint_every.0);
        // One slow write is no measure of the disk.
        let least = store.least().min(Duration::from_millis(50));
        let this = Arc::new(Checkpoints {
            store,
            index,
            quiet,
            pace: Mutex::new(Pace::new(begun, every, least)),
            resumed: Mutex::default(),
            failed: Mutex::default(),
            asked: Mutex::default(),
            answered: Condvar::new(),
            watch: OnceLock::new(),
        });
        let (asked, last, lost) = (Arc::clone(&this), Arc::clone(&this), Arc::clone(&this));
        let alone = move || {
            lock(&lost.asked).alone = true;
            lost.answered.notify_all();
        };
        exit::set_checkpoint(Box::new(move || asked.interrupted()), Box::new(move || last.remedy()), Box::new(alone));
        this
    }

    /// Serves `process`: its stages ask it to keep what they have, and its metrics tell of it.
    pub fn serve(self: &Arc<Self>, process: &Arc<Process>) {
        let _ = self.watch.set(Arc::downgrade(process));
        process.keep(Arc::clone(self) as Arc<dyn Keeper>);
    }

    /// What was taken from the checkpoint last; `None` where the job began anew.
    pub fn resumed_from(&self) -> Option<String> {
        lock(&self.resumed).clone()
    }

    /// What was written so far.
    pub fn report(&self) -> CheckpointReport {
        let Written { count, seconds, bytes } = lock(&self.pace).total;
        CheckpointReport { count, seconds, bytes, failed: lock(&self.failed).clone() }
    }

    /// Whether nothing is kept that a job could go on from.
    pub fn is_empty(&self) -> bool {
        self.store.latest().is_none()
    }

    /// Empties the folder: the job is done.
    pub fn clear(&self) {
        if self.index == 0 {
            self.store.clear();
        }
    }

    /// Waits for a checkpoint; says what there is.
    fn interrupted(&self) -> String {
        let until = Instant::now() + PATIENCE;
        let mut asked = lock(&self.asked);
        asked.now = true;
        while !asked.answered() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let line = format!("no boundary came within {} s; ", PATIENCE.as_secs());
                return line + &self.remedy();
            }
            asked = self.answered.wait_timeout(asked, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let own = !asked.written.is_empty();
        drop(asked);
        if own { format!("checkpoint written; {}", self.remedy()) } else { self.remedy() }
    }

    /// What the last checkpoint is, and how to go on from it.
    fn remedy(&self) -> String {
        let folder = self.store.folder().display();
        match self.store.latest().map(|at| SystemTime::now().duration_since(at).unwrap_or_default().as_secs()) {
            Some(age) => format!("the last checkpoint in {folder} is {age} s old: --resume goes on from there"),
            None => format!("there is no checkpoint in {folder} yet"),
        }
    }

    fn wrote(&self, name: (&str, &str), result: std::io::Result<u64>, start: Instant) -> bool {
        let key = format!("{} {}", name.0, name.1);
        let end = Instant::now();
        let written = match &result {
            Ok(bytes) => {
                lock(&self.pace).wrote(&key, *bytes, start, end);
                if let Some(process) = self.watch.get().and_then(Weak::upgrade) {
                    process.watch.checkpointed();
                }
                true
            }
            Err(error) => {
                lock(&self.pace).failed(&key, start, end);
                let reason = format!("{}: {error}", self.store.folder().display());
                if lock(&self.failed).replace(reason.clone()).is_none() {
                    warn(&format!("a checkpoint cannot be written to {reason}. The job goes on"));
                }
                false
            }
        };
        let mut asked = lock(&self.asked);
        if asked.now {
            asked.written.insert((name.0.to_owned(), name.1.to_owned()));
            self.answered.notify_all();
        }
        written
    }
}

impl Keeper for Checkpoints {
    fn nonce(&self) -> [u8; 16] {
        self.store.nonce()
    }

    fn names(&self) -> Vec<(String, String)> {
        self.store.names()
    }

    fn sound<'a>(&'a self, name: (&str, &str)) -> Box<dyn Iterator<Item = String> + 'a> {
        let paths: Vec<PathBuf> = self.store.sound(name);
        Box::new(paths.into_iter().map(|path| path.display().to_string()))
    }

    fn read(&self, file: &str, name: (&str, &str), each: &mut dyn FnMut(Outgoing)) -> bool {
        let mut hand = |frame: Frame| {
            each(Outgoing { key: frame.key, bytes: frame.bytes });
            Ok(())
        };
        self.store.each(Path::new(file), name, &mut hand).is_ok()
    }

    fn save(
        &self,
        name: (&str, &str),
        generations: usize,
        count: u32,
        frames: &mut dyn Iterator<Item = Outgoing>,
    ) -> bool {
        let start = Instant::now();
        let mut frames = frames.map(|frame| Frame { key: frame.key, bytes: frame.bytes });
        let result = self.store.save(name, generations, count, &mut frames);
        self.wrote(name, result, start)
    }

    fn forget(&self, group: &str) {
        self.store.forget(group);
    }

    fn due(&self, name: (&str, &str), since: Instant, bytes: u64) -> bool {
        {
            let asked = lock(&self.asked);
            if asked.now {
                return !asked.written.contains(&(name.0.to_owned(), name.1.to_owned()));
            }
        }
        lock(&self.pace).due(&format!("{} {}", name.0, name.1), since, bytes, Instant::now())
    }

    fn worth(&self, bytes: u64, took: Duration) -> bool {
        let pace = lock(&self.pace);
        pace.worth(bytes, took) && pace.affords(bytes, Instant::now())
    }

    fn own(&self) -> String {
        format!("{:06}-{:04}", self.store.attempt(), self.index)
    }

    fn scans(&self, one_more: bool) {
        let mut asked = lock(&self.asked);
        asked.scans = if one_more { asked.scans + 1 } else { asked.scans.saturating_sub(1) };
        self.answered.notify_all();
    }

    fn resumed(&self, what: &str) {
        if !self.quiet {
            exit::say(&format!("taken from the checkpoint: {what}"));
        }
        *lock(&self.resumed) = Some(what.to_owned());
    }
}
