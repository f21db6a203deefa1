//! The loop of a run: read, take, make durable, answer.
//!
//! One thread reads and parses; this one takes pieces of what it gives. A piece is acknowledged when its records and how far the source is read are durable, by one commit; only then do its answers leave.
//! What happens in between is repeated after a crash, to the same bits. A disk that is full holds the loop where it is: nothing is acknowledged, which is said once, and it goes on when there is room.
//!
//! *Snapshots* come after so many changes, which is so much work; after so much time, but not before 33 times what the last one took, so that a stream that trickles into a large state does not spend its time on them; at
//! publications, and at the end. When they come changes nothing else.

use super::answers::Answers;
use super::demand::{Demand, Outcome};
use super::latency::Latency;
use super::learner::{Published, Recovery};
use super::session::{Session, TakeError};
use super::sink::LineFile;
use super::state::State;
use super::tally::DriftAlarm;
use crate::error::StageError;
use nystream_datasets::journal::JournalError;
use nystream_datasets::rows::RowsError;
use nystream_datasets::stream::{EventSource, Item, More, Position, SourceError};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Pieces that are read ahead.
const AHEAD: usize = 1;
/// How often the loop looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);
/// A snapshot by the clock waits for so many times what the last one took, as checkpoints do.
const SHARE: u32 = 33;
/// Time between two attempts to write to a full disk.
const RETRY: Duration = Duration::from_millis(500);

/// How a run is driven.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Changes between two snapshots at most.
    pub snapshot_changes: u64,
    /// Time between two snapshots at most, while there are changes.
    pub snapshot_time: Duration,
    /// Ends the stream when nothing has come for so long.
    pub idle: Option<Duration>,
    /// Time between two publications.
    pub publish_time: Option<Duration>,
    /// Whether the end of the run is one, where anything has changed since the last.
    pub publish_end: bool,
    /// Nothing may be refused.
    pub strict: bool,
}

/// What the loop tells whoever runs it.
pub trait Hooks {
    /// A line for people.
    fn say(&mut self, line: &str);

    /// A model was published, as of so many changes; it must be durable when this returns.
    ///
    /// # Errors
    /// A model that cannot be kept.
    fn published(&mut self, model: Published, changes: u64) -> Result<(), StageError>;

    /// A snapshot was written.
    fn saved(&mut self) {}

    /// An alarm of drift was raised by a row that is durable now.
    fn alarmed(&mut self, _alarm: &DriftAlarm) {}

    /// How long events took to be acknowledged, of this process.
    fn measured(&mut self, _latency: &Latency) {}

    /// What was taken waits for room on a disk, or no longer does.
    fn held_up(&mut self, _held_up: bool) {}

    /// A piece was acknowledged. Called at least every fraction of a second.
    ///
    /// # Errors
    /// [`StageError`] ends the run.
    fn acknowledged(&mut self, _session: &mut Session) -> Result<(), StageError> {
        Ok(())
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The source has ended.
    Source,
    /// It was asked to stop.
    Asked,
}

/// Why a run ended otherwise.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// What was taken.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An output.
    #[error("cannot write '{path}': {source}")]
    Output {
        /// Its path.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl From<StageError> for DriveError {
    fn from(error: StageError) -> Self {
        DriveError::Take(error.into())
    }
}

/// A run.
pub struct Drive<'a> {
    /// Its state.
    pub session: Session,
    /// Its folder.
    pub state: &'a State,
    /// Whose it is.
    pub identity: [u8; 16],
    /// Answers, by name.
    pub output: Option<Answers>,
    /// Rejected events, by name.
    pub dead: Option<(String, LineFile)>,
    /// Asked to stop.
    pub stop: &'a AtomicBool,
    /// Its pace.
    pub pace: Pace,
    /// Asks for publications.
    pub demand: Demand,
    /// Time from reading to acknowledgement of events of this process.
    pub latency: Latency,
    /// Changes at the last snapshot, and when that was.
    pub snapshot: (u64, Instant),
    /// How long it took.
    pub took: Duration,
    /// Whether somebody was told that the disk is full.
    pub held_up: bool,
    /// Why the first event that this run refused was.
    pub refused: Option<String>,
    /// Bytes of files that earlier runs wrote; those that this one does not write stay as they are, for a later one.
    pub files: BTreeMap<String, u64>,
}

enum Read {
    /// Items behind so many others after a position, which were taken before; where the source is then; when they came.
    Piece(Vec<Item>, (Position, u64), Position, Instant),
    /// With what is to be said of that if it stays so.
    Nothing(Option<String>),
    /// With what is to be said of it.
    End(Option<String>),
    Failed(SourceError),
}

/// Reads until the source ends or nobody listens.
fn read(mut source: Box<dyn EventSource>, mut skip: u64, to: &SyncSender<Read>) {
    let mut before = source.position();
    loop {
        let mut items = Vec::new();
        let more = source.next(&mut items);
        let arrived = Instant::now();
        let gone = (items.len() as u64).min(skip);
        items.drain(..gone as usize);
        skip -= gone;
        let after = source.moved();
        if !items.is_empty() || after.is_new(&before) {
            let begun = std::mem::replace(&mut before, after.clone());
            if to.send(Read::Piece(items, (begun, gone), after, arrived)).is_err() {
                return;
            }
        }
        let (said, last) = match more {
            Ok(More::Yes) => continue,
            Ok(More::NotNow) => (Read::Nothing(source.remark()), false),
            Ok(More::End) => (Read::End(source.remark()), true),
            Err(error) => (Read::Failed(error), true),
        };
        if to.send(said).is_err() || last {
            return;
        }
    }
}

impl Drive<'_> {
    /// Writes what a replay has answered, which the files may hold already.
    ///
    /// # Errors
    /// [`DriveError`].
    pub fn begin(&mut self, hooks: &mut dyn Hooks) -> Result<(), DriveError> {
        self.answer(hooks)?;
        // Those of a replay were told before.
        self.session.alarms();
        self.refused = None;
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |source| DriveError::Output { path, source }
        };
        if let Some(answers) = &mut self.output {
            answers.cut().map_err(failed(answers.path()))?;
        }
        if let Some((_, file)) = &mut self.dead {
            file.cut().map_err(failed(file.path()))?;
        }
        self.save(hooks).map(drop)
    }

    /// Takes what the source gives until it ends or the run is asked to stop. A last snapshot is durable when this returns.
    ///
    /// # Errors
    /// [`DriveError`]: what was acknowledged before stays so.
    pub fn run(&mut self, mut source: Box<dyn EventSource>, hooks: &mut dyn Hooks) -> Result<Ended, DriveError> {
        let name = source.name().to_owned();
        let mut skip = 0;
        if let Some((position, taken)) = self.session.tally().sources.get(&name) {
            source.resume(position)?;
            skip = if source.repeats() { *taken } else { 0 };
        }
        if self.session.tally().source.as_deref() != Some(name.as_str()) {
            // Events without a word on how far they are read are of the source that the log named last.
            self.session.progress(&name, &source.position(), skip)?;
        }
        let (to, from) = sync_channel(AHEAD);
        std::thread::Builder::new()
            .name("source".into())
            .spawn(move || read(source, skip, &to))
            .map_err(|error| StageError::Internal(format!("no thread for the source: {error}")))?;
        let ended = self.listen(&name, &from, hooks)?;
        if ended == Ended::Source {
            self.session.flush()?;
            self.acknowledge(hooks)?;
        }
        let tally = self.session.tally();
        if self.pace.publish_end && tally.changes > tally.published {
            self.publish(hooks)?;
        }
        self.save(hooks)?;
        if let Some(answers) = &mut self.output {
            answers
                .end()
                .map_err(|source| DriveError::Output { path: answers.path().display().to_string(), source })?;
        }
        Ok(ended)
    }

    fn listen(&mut self, name: &str, from: &Receiver<Read>, hooks: &mut dyn Hooks) -> Result<Ended, DriveError> {
        let mut heard = Instant::now();
        let mut published = Instant::now();
        // What a source that says nothing had to say last.
        let mut silent = None;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                silent.iter().for_each(|remark: &String| hooks.say(remark));
                return Ok(Ended::Asked);
            }
            match from.recv_timeout(LOOK) {
                Ok(Read::Piece(items, (before, gone), after, arrived)) => {
                    heard = Instant::now();
                    self.piece(name, &items, (&before, gone), &after, hooks)?;
                    self.latency.add(arrived.elapsed(), items.len() as u64);
                }
                Ok(Read::End(remark)) => {
                    remark.iter().for_each(|remark| hooks.say(remark));
                    return Ok(Ended::Source);
                }
                Ok(Read::Failed(error)) => {
                    self.save(hooks)?;
                    return Err(error.into());
                }
                found @ (Ok(Read::Nothing(_)) | Err(RecvTimeoutError::Timeout)) => {
                    if let Ok(Read::Nothing(remark)) = found {
                        silent = remark;
                    }
                    if self.pace.idle.is_some_and(|idle| heard.elapsed() >= idle) {
                        silent.iter().for_each(|remark| hooks.say(remark));
                        return Ok(Ended::Source);
                    }
                }
                // The reader has said why before.
                Err(RecvTimeoutError::Disconnected) => return Ok(Ended::Source),
            }
            let tally = self.session.tally();
            if self.pace.publish_time.is_some_and(|time| published.elapsed() >= time) && tally.changes > tally.published
            {
                self.publish(hooks)?;
                published = Instant::now();
            }
            if let Some(asked) = self.demand.waits() {
                let outcome = self.demanded(hooks)?;
                self.demand.tell(asked, outcome);
                published = Instant::now();
            }
            let since = self.session.tally().changes - self.snapshot.0;
            let age = self.snapshot.1.elapsed();
            let pause = self.pace.snapshot_time.max(SHARE * self.took);
            if since >= self.pace.snapshot_changes || since > 0 && age >= pause {
                self.save(hooks)?;
            }
            hooks.measured(&self.latency);
            hooks.acknowledged(&mut self.session)?;
        }
    }

    /// Takes a piece that begins `begun` items after a position.
    fn piece(
        &mut self,
        name: &str,
        items: &[Item],
        (before, begun): (&Position, u64),
        after: &Position,
        hooks: &mut dyn Hooks,
    ) -> Result<(), DriveError> {
        let mut taken = 0;
        if self.session.publication_is_due() {
            self.publish(hooks)?;
        }
        while taken < items.len() {
            taken += self.session.take(&items[taken..], self.pace.strict)?;
            if taken < items.len() {
                let (place, skip) = before.within(&items[..taken], begun, after);
                self.session.progress(name, &place, skip)?;
                self.acknowledge(hooks)?;
                if self.session.publication_is_due() {
                    self.publish(hooks)?;
                }
            }
        }
        self.session.progress(name, after, 0)?;
        self.acknowledge(hooks)?;
        if self.session.publication_is_due() {
            self.publish(hooks)?;
        }
        Ok(())
    }

    /// A publication that was asked for: as of which change it is.
    fn demanded(&mut self, hooks: &mut dyn Hooks) -> Result<Outcome, DriveError> {
        if self.session.shards().is_some() {
            return Ok(Err("models of shards are written by online export --shard VALUE".into()));
        }
        let none = self.publish(hooks)?;
        Ok(none.map_or(Ok(self.session.tally().changes), Err))
    }

    /// Publishes a model and makes that durable; or why there is none of what is there, which is said.
    ///
    /// # Errors
    /// [`DriveError`].
    pub fn publish(&mut self, hooks: &mut dyn Hooks) -> Result<Option<String>, DriveError> {
        let none = match self.session.publish()? {
            Ok(model) => {
                hooks.published(model, self.session.tally().changes)?;
                None
            }
            Err(reason) => {
                hooks.say(&format!("nothing is published: {reason}"));
                Some(reason)
            }
        };
        self.acknowledge(hooks)?;
        while !self.save(hooks)? && self.session.traits().recovery == Recovery::Rows {
            // What comes after must find the state of the publication again.
            if self.stop.load(Ordering::Relaxed) {
                return Err(StageError::Data("no snapshot could be written after a publication".into()).into());
            }
            std::thread::sleep(RETRY);
        }
        Ok(none)
    }

    /// Makes what was taken durable, and lets its answers go.
    fn acknowledge(&mut self, hooks: &mut dyn Hooks) -> Result<(), DriveError> {
        loop {
            match self.session.commit() {
                Ok(_) => break,
                Err(RowsError::Journal(JournalError::Io { source, path, .. })) if is_full(&source) => {
                    self.wait_for_room(&path.display().to_string(), &source, hooks)?;
                }
                Err(error) => return Err(TakeError::from(error).into()),
            }
        }
        self.answer(hooks)?;
        self.session.alarms().iter().for_each(|alarm| hooks.alarmed(alarm));
        self.room_again(hooks);
        Ok(())
    }

    /// Answers and rejections leave.
    fn answer(&mut self, hooks: &mut dyn Hooks) -> Result<(), DriveError> {
        let (outputs, rejections) = (self.session.outputs(), self.session.rejections());
        if let Some(answers) = &mut self.output {
            answers.push(outputs)?;
        }
        if self.refused.is_none() {
            self.refused = rejections.first().map(|rejected| rejected.reason.clone());
        }
        if let Some((_, file)) = &mut self.dead {
            rejections.iter().for_each(|rejected| file.push_rejected(rejected));
        }
        loop {
            let mut refused = None;
            if let Some(answers) = &mut self.output
                && let Err(source) = answers.write()
            {
                refused = Some((answers.path().display().to_string(), source));
            }
            if let Some((_, file)) = &mut self.dead
                && refused.is_none()
                && let Err(source) = file.write()
            {
                refused = Some((file.path().display().to_string(), source));
            }
            match refused {
                None => return Ok(()),
                Some((path, source)) if is_full(&source) => self.wait_for_room(&path, &source, hooks)?,
                Some((path, source)) => return Err(DriveError::Output { path, source }),
            }
        }
    }

    fn wait_for_room(&mut self, path: &str, why: &io::Error, hooks: &mut dyn Hooks) -> Result<(), DriveError> {
        if !self.held_up {
            self.held_up = true;
            hooks.held_up(true);
            hooks.say(&format!("'{path}' cannot be written ({why}): nothing more is acknowledged until there is room"));
        }
        if self.stop.load(Ordering::Relaxed) {
            let source = io::Error::new(why.kind(), why.to_string());
            return Err(DriveError::Output { path: path.to_owned(), source });
        }
        std::thread::sleep(RETRY);
        Ok(())
    }

    fn room_again(&mut self, hooks: &mut dyn Hooks) {
        if std::mem::take(&mut self.held_up) {
            hooks.held_up(false);
            hooks.say("there is room again: what had come is acknowledged");
        }
    }

    /// Writes a snapshot; whether it could: on a full disk it is left to the next time.
    ///
    /// # Errors
    /// [`DriveError`].
    pub fn save(&mut self, hooks: &mut dyn Hooks) -> Result<bool, DriveError> {
        let record = loop {
            match self.session.commit() {
                Ok(record) => break record,
                Err(RowsError::Journal(JournalError::Io { source, path, .. })) if is_full(&source) => {
                    self.wait_for_room(&path.display().to_string(), &source, hooks)?;
                }
                Err(error) => return Err(TakeError::from(error).into()),
            }
        };
        let mut files = self.files.clone();
        // What the snapshot says is there must be there after a loss of power.
        if let Some(name) = self.output.as_ref().map(|answers| answers.name().to_owned()) {
            let bytes = loop {
                let Some(answers) = &mut self.output else { break 0 };
                let (path, source) = match answers.settle() {
                    Ok(bytes) => break bytes,
                    Err(failed) => failed,
                };
                if !is_full(&source) {
                    return Err(DriveError::Output { path: path.display().to_string(), source });
                }
                self.wait_for_room(&path.display().to_string(), &source, hooks)?;
            };
            self.room_again(hooks);
            files.insert(name, bytes);
        }
        if let Some((name, file)) = &mut self.dead {
            file.sync().map_err(|source| DriveError::Output { path: file.path().display().to_string(), source })?;
            files.insert(name.clone(), file.bytes());
        }
        let begun = Instant::now();
        let mut stored = self.session.stored()?;
        self.session.notes().iter().for_each(|note| hooks.say(note));
        stored.files = files;
        match self.state.save(&self.identity, record, &stored) {
            Ok(oldest) => {
                self.snapshot = (self.session.tally().changes, Instant::now());
                self.took = begun.elapsed();
                hooks.saved();
                if let Err(error) = self.session.clean(oldest) {
                    hooks.say(&format!("what the snapshot makes needless stays for now: {error}"));
                }
                Ok(true)
            }
            Err(error) => {
                // The log has everything since the last one.
                hooks.say(&format!("no snapshot was written: {error}; the log is kept"));
                self.snapshot.1 = Instant::now();
                Ok(false)
            }
        }
    }
}

impl Drive<'_> {
    /// Writes the last snapshot once more, after the run: what [`Session::model`] has made of a learner that rests on rows, its sums, need not be made again. Where that cannot be, it is.
    ///
    /// # Errors
    /// [`DriveError`].
    pub fn save_again(&mut self, hooks: &mut dyn Hooks) -> Result<(), DriveError> {
        let record = self.session.commit().map_err(TakeError::from)?;
        let Ok((Some(last), _)) = self.state.newest(&self.identity) else { return Ok(()) };
        if self.session.traits().recovery != Recovery::Rows || last.record != record {
            return Ok(());
        }
        let mut stored = self.session.stored()?;
        // The files may have got their ends since, which the next run takes away.
        stored.files = last.stored.files;
        if let Err(error) = self.state.save(&self.identity, record, &stored) {
            hooks.say(&format!("the sums of the last model were not stored: {error}; they will be made again"));
        }
        Ok(())
    }
}

/// Whether it is room that lacks.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}
