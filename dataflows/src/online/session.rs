//! The state of a run: what events do to rows, learner, counters and answers.
//!
//! Everything here is a function of the log's records in their order: a restart restores the last snapshot and takes the records after it once more, by the same code, and has the same state, with the same
//! answers. Nothing here waits, reads a clock or writes a file but the log; [`super::drive`] does.
//!
//! *Order of an event*: it is checked and, if it is refused, logged as refused. Otherwise it is logged and applied to the rows. A row without a target is predicted at once; one with a target is given to the
//! learner, in runs of consecutive ones, and answered when the learner says so (second-order learners: when its block is complete), or predicted before (learners that do not answer).

use super::encoding::Encoding;
use super::learner::{Info, Learner, Prediction, Published, Recovery, Regret, RunEnd, Shards, Traits};
use super::meter::Meter;
use super::settle::{Core, REPLAY_ROWS, Run};
use super::store::{Logged, Store};
use super::tally::{DriftAlarm, Tally};
use super::window::Window;
use crate::error::StageError;
use crate::targets::TargetCode;
use nystream_datasets::events::{Event, Op};
use nystream_datasets::rows::{RowsError, StoredRow};
use nystream_datasets::stream::{Item, Position, Rejected};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// What the log holds besides events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// What was refused.
    Rejected(Rejected),
    /// How far a source is read: to `position`, and `skip` items after it.
    Progress {
        /// The source.
        source: String,
        /// Where it was before the piece.
        position: Position,
        /// Items of the piece that are taken.
        skip: u64,
    },
    /// A row that another configuration refuses; that it is gone is a change of its own.
    Unfit(Rejected),
    /// The source ended, and rows that wait are learned.
    Flush,
    /// A model is published.
    Publish,
    /// One was to be, and there is none of what is there.
    Nothing,
}

/// An answer on its way out.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// From 0, without gaps.
    pub seq: u64,
    /// The row's key.
    pub key: String,
    /// What was predicted.
    pub prediction: Prediction,
}

/// A row that the learner has and has not answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Queued {
    pub(super) key: String,
    pub(super) id: u128,
    /// Whether the answer goes out: a row that was predicted when it came without its label is not answered twice.
    pub(super) out: bool,
    /// The learner's queue in which it is.
    #[serde(default)]
    pub(super) queue: u32,
    /// Events accepted with it, and its time.
    #[serde(default)]
    pub(super) changes: u64,
    /// See `changes`.
    #[serde(default)]
    pub(super) time: Option<i64>,
}

/// What a snapshot holds of a session.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// Counters.
    pub tally: Tally,
    /// Bytes of each file that is written, by the name that the user gave.
    pub files: BTreeMap<String, u64>,
    meter: Meter,
    queue: Vec<Queued>,
    #[serde(with = "serde_bytes")]
    learner: Vec<u8>,
    rows: Vec<serde_bytes::ByteBuf>,
    #[serde(default)]
    mark: Vec<f64>,
    /// Digest of the configuration by which it was written.
    #[serde(default)]
    configuration: Option<String>,
}

impl Stored {
    /// Of a run that has taken nothing, whose learner gave `learner`; `window`: rows of the windowed loss.
    pub fn begun(learner: Vec<u8>, window: usize) -> Self {
        let (tally, files, queue, rows) = (Tally::default(), BTreeMap::new(), Vec::new(), Vec::new());
        Stored { tally, files, meter: Meter::new(window), queue, learner, rows, mark: Vec::new(), configuration: None }
    }

    /// The rows that the store is to begin with.
    pub fn rows(&self) -> Vec<Vec<u8>> {
        self.rows.iter().map(|row| row.to_vec()).collect()
    }

    /// The configuration is the one of this digest. Where it was written by another, which exact learners allow, what the learner has published by that is left out, a publication is due, and the rows are to be looked
    /// at again ([`Session::sift`]): whether it was.
    pub fn configured(&mut self, digest: &str) -> bool {
        let renewed = self.configuration.as_ref().is_some_and(|own| own != digest);
        if renewed {
            self.learner.clear();
            self.tally.due = true;
        }
        self.configuration = Some(digest.to_owned());
        renewed
    }

    /// Bytes of the learner's state.
    pub fn learner(&self) -> &[u8] {
        &self.learner
    }
}

/// How events are taken.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Rules {
    /// How far an event's time may lie before the latest one, microseconds.
    pub lateness: Option<i64>,
    /// Changes between two publications.
    pub publish_every: Option<u64>,
    /// Drift at which a model is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_drift: Option<f64>,
    /// Learned rows between two looks at the drift of a second-order learner.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub watch_rows: u64,
    /// Rows that stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Rows of the windowed loss.
    pub loss_window: usize,
    /// Standard deviations of the targets, by which losses are measured.
    pub deviations: Vec<f64>,
}

/// What older states do not have.
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Why events are not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The learner or the encoder.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The store.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// What was refused where nothing may be.
    #[error("--strict: {}{}", described(.0), .0.reason)]
    Strict(Rejected),
}

impl From<TakeError> for StageError {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Stage(error) => error,
            other => StageError::Data(other.to_string()),
        }
    }
}

fn described(rejected: &Rejected) -> String {
    let key = rejected.key.as_ref().map(|key| format!("key '{key}'"));
    let parts: Vec<String> = rejected.place.clone().into_iter().chain(key).collect();
    if parts.is_empty() { String::new() } else { format!("{}: ", parts.join(", ")) }
}

/// The state of a run.
pub struct Session {
    store: Box<dyn Store>,
    core: Core,
    configuration: Option<String>,
}

impl Session {
    /// The session of a run that has just begun, or that goes on from `stored`, which gave `store` its rows. `code`: what targets are.
    ///
    /// # Errors
    /// A learner that cannot be restored.
    pub fn new(
        encoding: Encoding,
        code: TargetCode,
        mut learner: Box<dyn Learner>,
        store: Box<dyn Store>,
        rules: Rules,
        stored: Option<Stored>,
    ) -> Result<Self, StageError> {
        let traits = learner.traits();
        let (mut tally, mut meter) = (Tally::default(), Meter::new(rules.loss_window));
        let mut queue: BTreeMap<u32, VecDeque<Queued>> = BTreeMap::new();
        let (mut mark, mut configuration) = (Vec::new(), None);
        if let Some(stored) = stored {
            learner.restore(&stored.learner)?;
            (tally, meter, mark) = (stored.tally, stored.meter, stored.mark);
            configuration = stored.configuration;
            stored.queue.into_iter().for_each(|queued| queue.entry(queued.queue).or_default().push_back(queued));
        }
        let run = Run::none(&encoding);
        let (outputs, rejections, alarms) = (Vec::new(), Vec::new(), Vec::new());
        let core = Core {
            encoding,
            code,
            learner,
            traits,
            rules,
            tally,
            meter,
            queue,
            run,
            outputs,
            rejections,
            alarms,
            mark,
        };
        Ok(Session { store, core, configuration })
    }

    /// Takes the records after `after`, which the snapshot does not hold; how many there were. What a window was still to let go when the run ended is gone then, in the log too.
    ///
    /// # Errors
    /// A log that cannot be read or written, and what the learner says.
    pub fn replay(&mut self, after: u64) -> Result<u64, StageError> {
        let core = &mut self.core;
        if core.traits.recovery == Recovery::Rows {
            core.rebuild(self.store.as_mut(), after)?;
        }
        let (mut changes, mut records) = (Vec::new(), 0);
        self.store.replay(after, &mut |_, logged| {
            records += 1;
            match logged {
                Logged::Applied(applied) => {
                    changes.push(applied);
                    if changes.len() >= REPLAY_ROWS { core.again(&mut changes) } else { Ok(()) }
                }
                Logged::Note(bytes) => {
                    core.again(&mut changes)?;
                    let note = serde_json::from_slice(&bytes)
                        .map_err(|error| StageError::Data(format!("a note of the log cannot be read: {error}")))?;
                    core.noted(note)
                }
            }
        })?;
        core.again(&mut changes)?;
        // A torn write: the log has events, and not how far their source was read with them.
        let tally = &mut core.tally;
        if let Some((_, taken)) = tally.source.as_ref().and_then(|source| tally.sources.get_mut(source)) {
            *taken += std::mem::take(&mut tally.ahead);
        }
        self.slide()?;
        self.core.learner.complete()?;
        Ok(records)
    }

    /// Takes items in order: all of them, or up to the one after which a model is to be published or a window has moved so far that a commit is to come before more rows leave it. How many were taken.
    ///
    /// # Errors
    /// [`TakeError`]; the run ends, and a restart goes on from what was committed.
    pub fn take(&mut self, items: &[Item], strict: bool) -> Result<usize, TakeError> {
        let core = &mut self.core;
        if !core.expire(self.store.as_mut())? {
            return Ok(0);
        }
        let brings = |item: &Item| matches!(item, Item::Event(Event { op: Op::Insert | Op::Update, .. }, _));
        let events: Vec<Event> = items
            .iter()
            .filter(|item| brings(item))
            .filter_map(|item| if let Item::Event(event, _) = item { Some(event.clone()) } else { None })
            .collect();
        let encoded = core.encoding.encode(&events)?;
        let mut predicted = core.predict_all(&encoded)?;
        let mut place = 0;
        for (taken, item) in items.iter().enumerate() {
            let own = brings(item).then(|| {
                place += 1;
                place - 1
            });
            let rejected = match item {
                Item::Rejected(rejected) => Some(rejected.clone()),
                Item::Event(event, place) => {
                    let refused = core.event(self.store.as_mut(), event, &encoded, own, &mut predicted)?;
                    refused.map(|refused| {
                        // The line itself, where there is one: columns that no model reads are in it.
                        Rejected { place: Some(place.to_string()), text: place.text().or(refused.text), ..refused }
                    })
                }
            };
            if let Some(rejected) = rejected {
                if strict {
                    return Err(TakeError::Strict(rejected));
                }
                self.store.note(&bytes_of(&Note::Rejected(rejected.clone()))?)?;
                core.noted(Note::Rejected(rejected))?;
            }
            if !core.expire(self.store.as_mut())? || core.publication_is_due() {
                core.give()?;
                return Ok(taken + 1);
            }
        }
        core.give()?;
        Ok(items.len())
    }

    /// Whether a model is to be published now.
    pub fn publication_is_due(&self) -> bool {
        self.core.publication_is_due()
    }

    /// Lets all rows go that a window does not hold, with a commit for each lot of them.
    fn slide(&mut self) -> Result<(), StageError> {
        while !self.core.expire(self.store.as_mut()).map_err(StageError::from)? {
            self.store.commit()?;
        }
        self.core.give()
    }

    /// Takes away the rows that the encoder refuses, as if they had left a window, after another configuration has taken the place of the one that they came in by; how many there were. They are refused ones from here on.
    /// Repeated after a crash it takes away those that are left.
    ///
    /// # Errors
    /// [`TakeError`].
    pub fn sift(&mut self) -> Result<u64, TakeError> {
        let mut gone = 0;
        self.store.commit()?;
        loop {
            let unfit = self.core.unfit(self.store.as_mut())?;
            for rejected in &unfit {
                self.store.note(&bytes_of(&Note::Unfit(rejected.clone()))?)?;
                self.core.noted(Note::Unfit(rejected.clone()))?;
                if let Some(applied) = rejected.key.as_ref().map(|key| self.store.expire(key)).transpose()?.flatten() {
                    self.core.left(applied)?;
                }
            }
            self.core.give()?;
            if unfit.is_empty() {
                return Ok(gone);
            }
            self.store.commit()?;
            gone += unfit.len() as u64;
        }
    }

    /// Logs how far a source is read.
    ///
    /// # Errors
    /// [`TakeError::Rows`].
    pub fn progress(&mut self, source: &str, position: &Position, skip: u64) -> Result<(), TakeError> {
        let note = Note::Progress { source: source.to_owned(), position: position.clone(), skip };
        self.store.note(&bytes_of(&note)?)?;
        Ok(self.core.noted(note)?)
    }

    /// Logs that the source has ended, and has the learner answer what waits.
    ///
    /// # Errors
    /// [`TakeError`].
    pub fn flush(&mut self) -> Result<(), TakeError> {
        self.store.note(&bytes_of(&Note::Flush)?)?;
        Ok(self.core.noted(Note::Flush)?)
    }

    /// Publishes a model, or says why there is none of what is there, such as no rows: that is a publication too, after which the next one is due when it would have been. What is published is
    /// logged; where the state rests on rows, nothing may be taken before a snapshot has it.
    ///
    /// # Errors
    /// [`TakeError`].
    pub fn publish(&mut self) -> Result<Result<Published, String>, TakeError> {
        self.slide()?;
        // What is wrong with these is no lack of a model.
        self.core.learner.complete()?;
        let published = match self.core.learner.publish() {
            Ok(published) => Ok(published),
            Err(StageError::Data(reason)) => Err(reason),
            Err(error) => return Err(error.into()),
        };
        self.store.note(&bytes_of(if published.is_ok() { &Note::Publish } else { &Note::Nothing })?)?;
        self.core.published(published.is_ok());
        Ok(published)
    }

    /// The present model, without a publication, of learners for which that is nothing.
    ///
    /// # Errors
    /// No model of no rows.
    pub fn model(&mut self) -> Result<Published, StageError> {
        self.slide()?;
        self.core.learner.model()
    }

    /// What was published last, of learners that predict by that.
    pub fn last(&self) -> Option<Published> {
        self.core.learner.last()
    }

    /// What the learner has to say of a restart or a snapshot.
    pub fn notes(&mut self) -> Vec<String> {
        self.core.learner.notes()
    }

    /// The present model of a shard.
    ///
    /// # Errors
    /// No such shard, or no rows.
    pub fn shard(&mut self, shard: &str) -> Result<Published, StageError> {
        self.core.learner.publish_shard(shard)
    }

    /// Independent learners, where there are such.
    pub fn shards(&self) -> Option<Shards> {
        self.core.learner.shards()
    }

    /// Makes all of it durable; the last record.
    ///
    /// # Errors
    /// [`RowsError`], such as a full disk: nothing is lost, and the next commit tries again.
    pub fn commit(&mut self) -> Result<u64, RowsError> {
        self.store.commit()
    }

    /// Everything that a restart needs, after a commit.
    ///
    /// # Errors
    /// [`StageError`].
    pub fn stored(&mut self) -> Result<Stored, StageError> {
        let core = &mut self.core;
        core.give()?;
        Ok(Stored {
            tally: core.tally.clone(),
            files: BTreeMap::new(),
            meter: core.meter.clone(),
            queue: core.queue.values().flatten().cloned().collect(),
            learner: core.learner.snapshot()?,
            rows: self.store.stored()?.into_iter().map(serde_bytes::ByteBuf::from).collect(),
            mark: core.mark.clone(),
            configuration: self.configuration.clone(),
        })
    }

    /// Frees what durable snapshots make needless.
    ///
    /// # Errors
    /// [`RowsError`]; what was not freed is freed next time.
    pub fn clean(&mut self, oldest: u64) -> Result<(), RowsError> {
        self.store.clean(oldest)
    }

    /// What is wrong with what the rows have beside their log, in a sentence.
    ///
    /// # Errors
    /// [`RowsError`] where it cannot be read.
    pub fn check(&mut self) -> Result<Option<String>, RowsError> {
        self.store.check()
    }

    /// Answers since the last call.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.core.outputs)
    }

    /// Alarms of drift since the last call.
    pub fn alarms(&mut self) -> Vec<DriftAlarm> {
        std::mem::take(&mut self.core.alarms)
    }

    /// What was refused since the last call.
    pub fn rejections(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.core.rejections)
    }

    /// Counters.
    pub fn tally(&self) -> &Tally {
        &self.core.tally
    }

    /// Rows that are there.
    pub fn rows(&self) -> u64 {
        self.store.rows()
    }

    /// Rows that wait for their label.
    pub fn waiting(&self) -> u64 {
        if self.core.traits.unlearns { self.rows().saturating_sub(self.tally().learnable) } else { self.rows() }
    }

    /// Bytes of the log.
    pub fn log_bytes(&self) -> u64 {
        self.store.log_bytes()
    }

    /// The learner's figures, with the losses of the runtime where it keeps none.
    pub fn info(&self) -> Info {
        let mut info = self.core.learner.info();
        info.mean_loss = info.mean_loss.or(self.core.meter.mean());
        info.window_loss = info.window_loss.or(self.core.meter.window());
        if !self.core.traits.answers {
            // The rows behind these losses, not those that the learner rests on.
            info.rows = self.core.meter.rows();
        }
        info
    }

    /// Regret in hindsight.
    ///
    /// # Errors
    /// [`StageError::Numeric`].
    pub fn regret(&self) -> Result<Option<Regret>, StageError> {
        self.core.learner.regret()
    }

    /// The run has come to its end: who takes part in it hears so.
    pub fn end(&mut self, how: RunEnd) {
        self.core.learner.end(how);
    }

    /// What kind of learner there is.
    pub fn traits(&self) -> Traits {
        self.core.traits
    }

    /// Gives every row that is there to `take`.
    ///
    /// # Errors
    /// [`StageError`].
    pub fn for_each(&mut self, take: &mut dyn FnMut(StoredRow) -> Result<(), StageError>) -> Result<(), StageError> {
        self.store.for_each(take)
    }
}

/// A note as the log has it.
fn bytes_of(note: &Note) -> Result<Vec<u8>, StageError> {
    serde_json::to_vec(note).map_err(|error| StageError::Internal(format!("a note cannot be written: {error}")))
}
