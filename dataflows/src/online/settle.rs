//! What events do to everything but the rows and their log: learner, counters, answers.

use super::encoding::{Encoded, Encoding, append, rows_of};
use super::learner::{Answer, Batch, Learner, Prediction, Traits};
use super::meter::{Meter, loss_of};
use super::session::{Note, Output, Queued, Rules, TakeError};
use super::store::{Logged, Store};
use super::tally::{ALARMS, DriftAlarm, Tally};
use super::window::LOT;
use crate::error::StageError;
use crate::targets::TargetCode;
use nystream_datasets::Chunk;
use nystream_datasets::events::{Event, Op, json};
use nystream_datasets::rows::{Applied, StoredRow};
use nystream_datasets::stream::{MAX_SHOWN, Position, Rejected};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Rows taken at a time in a replay.
pub(super) const REPLAY_ROWS: usize = 1024;

/// All but the rows and their log.
pub(super) struct Core {
    pub(super) encoding: Encoding,
    pub(super) code: TargetCode,
    pub(super) learner: Box<dyn Learner>,
    pub(super) traits: Traits,
    pub(super) rules: Rules,
    pub(super) tally: Tally,
    pub(super) meter: Meter,
    /// Rows that the learner has, by its queues.
    pub(super) queue: BTreeMap<u32, VecDeque<Queued>>,
    pub(super) run: Run,
    pub(super) outputs: Vec<Output>,
    pub(super) rejections: Vec<Rejected>,
    pub(super) alarms: Vec<DriftAlarm>,
    /// The function that was published last, as the learner marks it ([`Learner::mark`]).
    pub(super) mark: Vec<f64>,
}

/// Changes that the learner has not been given.
pub(super) struct Run {
    pub(super) changes: Vec<Applied>,
    pub(super) added: Chunk,
    pub(super) removed: Vec<(usize, Event)>,
}

pub(super) fn empty(encoding: &Encoding) -> Chunk {
    let mut chunk = Chunk::new();
    chunk.numeric_width = encoding.encoder().numeric_width();
    chunk.code_width = encoding.encoder().code_width();
    chunk.target_width = encoding.encoder().target_width();
    chunk
}

impl Run {
    /// No changes.
    pub(super) fn none(encoding: &Encoding) -> Self {
        Run { changes: Vec::new(), added: empty(encoding), removed: Vec::new() }
    }
}

impl Core {
    /// Gives the learner every row that was there after record `after`: the store has those of the log's end, and what each later change took away. So a replay of those changes, publications among them, is
    /// what the run did.
    pub(super) fn rebuild(&mut self, store: &mut dyn Store, after: u64) -> Result<(), StageError> {
        let mut before: BTreeMap<String, Option<Arc<StoredRow>>> = BTreeMap::new();
        store.replay(after, &mut |_, logged| {
            if let Logged::Applied(applied) = logged
                && let Some(row) = applied.removed.as_ref().or(applied.added.as_ref())
            {
                before.entry(row.event.key.clone()).or_insert(applied.removed);
            }
            Ok(())
        })?;
        let mut rows: Vec<StoredRow> = Vec::new();
        store.for_each(&mut |row| {
            if before.contains_key(&row.event.key) {
                return Ok(());
            }
            rows.push(row);
            if rows.len() >= REPLAY_ROWS { self.give_rows(&mut rows) } else { Ok(()) }
        })?;
        for row in before.into_values().flatten() {
            rows.push(Arc::unwrap_or_clone(row));
            if rows.len() >= REPLAY_ROWS {
                self.give_rows(&mut rows)?;
            }
        }
        self.give_rows(&mut rows)
    }

    pub(super) fn give_rows(&mut self, rows: &mut Vec<StoredRow>) -> Result<(), StageError> {
        if rows.is_empty() {
            return Ok(());
        }
        let events: Vec<Event> = rows.iter().map(|row| row.event.clone()).collect();
        let encoded = self.encoding.encode(&events)?;
        let change =
            |row: StoredRow| Applied { number: row.arrival, removed: None, added: Some(Arc::new(row)), expired: false };
        let changes: Vec<Applied> = rows.drain(..).map(change).collect();
        let removed = empty(&self.encoding);
        self.learner.load(&Batch { changes: &changes, removed: &removed, added: &encoded.training })
    }

    /// Takes changes of the log once more.
    pub(super) fn again(&mut self, changes: &mut Vec<Applied>) -> Result<(), StageError> {
        let added = |applied: &Applied| applied.added.as_ref().map(|row| row.event.clone());
        let events: Vec<Event> = changes.iter().filter_map(added).collect();
        let encoded = self.encoding.encode(&events)?;
        let mut predicted = self.predict_all(&encoded)?;
        let mut place = 0;
        for applied in changes.drain(..) {
            if applied.expired {
                self.left(applied)?;
                continue;
            }
            let own = applied.added.as_ref().map(|_| {
                place += 1;
                place - 1
            });
            self.settle(applied, &encoded, own, &mut predicted)?;
            self.watch()?;
        }
        self.give()
    }

    /// Rows of `store` that the encoder refuses, at most [`LOT`] of them.
    pub(super) fn unfit(&mut self, store: &mut dyn Store) -> Result<Vec<Rejected>, StageError> {
        let encoding = self.encoding.clone();
        let (mut events, mut unfit): (Vec<Event>, Vec<Rejected>) = (Vec::new(), Vec::new());
        let mut look = |events: &mut Vec<Event>| -> Result<(), StageError> {
            let encoded = encoding.encode(events)?;
            for (place, event) in events.drain(..).enumerate() {
                if let Some(fault) = encoded.fault(place).filter(|_| unfit.len() < LOT) {
                    unfit.push(refused(&encoding, &event, fault.to_string()));
                }
            }
            Ok(())
        };
        store.for_each(&mut |row| {
            events.push(row.event);
            if events.len() >= REPLAY_ROWS { look(&mut events) } else { Ok(()) }
        })?;
        look(&mut events)?;
        Ok(unfit)
    }

    /// What a note says.
    pub(super) fn noted(&mut self, note: Note) -> Result<(), StageError> {
        match note {
            Note::Rejected(rejected) => {
                self.tally.rejected += 1;
                self.tally.ahead += 1;
                self.rejections.push(rejected);
            }
            Note::Unfit(rejected) => {
                self.tally.rejected += 1;
                self.rejections.push(rejected);
            }
            Note::Progress { source, position, skip } => {
                match self.tally.sources.entry(source.clone()) {
                    Entry::Vacant(place) => {
                        // What has moved has done so since there was nothing.
                        let mut whole = Position::Folder(BTreeMap::new());
                        whole.advance(position);
                        place.insert((whole, skip));
                    }
                    Entry::Occupied(mut place) => {
                        let (known, behind) = place.get_mut();
                        known.advance(position);
                        *behind = skip;
                    }
                }
                (self.tally.source, self.tally.ahead) = (Some(source), 0);
            }
            Note::Flush => {
                self.give()?;
                let answers = self.learner.flush()?;
                self.answered(answers)?;
            }
            note @ (Note::Publish | Note::Nothing) => {
                self.learner.complete()?;
                // There may have been no model of what was there.
                if !self.traits.answers
                    && let Err(error) = self.learner.publish()
                    && !matches!(error, StageError::Data(_))
                {
                    return Err(error);
                }
                self.published(note == Note::Publish);
            }
        }
        Ok(())
    }

    /// Predictions of all rows, of learners that do not answer: they change with publications alone.
    pub(super) fn predict_all(&mut self, encoded: &Encoded) -> Result<Vec<Prediction>, StageError> {
        if self.traits.answers || encoded.features.rows() == 0 {
            return Ok(Vec::new());
        }
        self.learner.predict(rows_of(&encoded.features))
    }

    /// Checks an event, and applies it if nothing is wrong with it; what is, if something is.
    pub(super) fn event(
        &mut self,
        store: &mut dyn Store,
        event: &Event,
        encoded: &Encoded,
        place: Option<usize>,
        predicted: &mut [Prediction],
    ) -> Result<Option<Rejected>, TakeError> {
        let encoding = self.encoding.clone();
        let refused = |reason: String| Ok(Some(refused(&encoding, event, reason)));
        if let (Some(lateness), Some(latest), Some(time)) = (self.rules.lateness, self.tally.latest, event.time)
            && time < latest.saturating_sub(lateness)
        {
            let behind = (latest - time) as f64 / 1e6;
            return refused(format!("its time is {behind} s before the latest one, more than --lateness allows"));
        }
        if let Some(reason) = self.rules.window.and_then(|window| window.refusal(event, self.tally.latest)) {
            return refused(reason);
        }
        if let Some(fault) = place.and_then(|place| encoded.fault(place)) {
            return refused(fault.to_string());
        }
        // A label is checked with the row that it is for.
        let mut own = None;
        if let (Op::Label, Some(row)) = (event.op, store.get(&event.key)?) {
            let merged = self.encoding.encode(&[self.encoding.labelled(&row.event, event)])?;
            if let Some(fault) = merged.fault(0) {
                return refused(fault.to_string());
            }
            if let Some(reason) = self.learner.refusal(&row.event) {
                return refused(reason);
            }
            own = Some(merged);
        }
        if let (Op::Insert | Op::Update, Some(reason)) = (event.op, self.learner.refusal(event)) {
            return refused(reason);
        }
        match store.apply(event.clone())? {
            Err(refusal) => refused(refusal.to_string()),
            Ok(applied) => {
                match &own {
                    Some(merged) => self.settle(applied, merged, Some(0), &mut Vec::new())?,
                    None => self.settle(applied, encoded, place, predicted)?,
                }
                self.watch()?;
                Ok(None)
            }
        }
    }

    /// What a change does to everything but the rows.
    pub(super) fn settle(
        &mut self,
        applied: Applied,
        encoded: &Encoded,
        place: Option<usize>,
        predicted: &mut [Prediction],
    ) -> Result<(), StageError> {
        self.tally.changes += 1;
        self.tally.ahead += 1;
        self.moved(&applied);
        let op = applied.added.as_ref().map_or(Op::Delete, |row| row.event.op);
        match op {
            Op::Insert => self.tally.inserted += 1,
            Op::Update => self.tally.updated += 1,
            Op::Delete => self.tally.deleted += 1,
            Op::Label => self.tally.labelled += 1,
        }
        let at = self.run.changes.len();
        if let Some(row) = applied.removed.as_ref().filter(|_| self.traits.unlearns) {
            self.run.removed.push((at, row.event.clone()));
        }
        if let (Some(row), Some(place)) = (&applied.added, place) {
            let event = &row.event;
            self.tally.latest = self.tally.latest.max(event.time);
            let trained = encoded.trained(place);
            let answers = self.traits.answers && trained.is_some();
            if op != Op::Label && !answers {
                let prediction = match self.traits.answers {
                    false => match encoded.features.ordinals.binary_search(&(place as u64)) {
                        Ok(i) => predicted.get_mut(i).map(std::mem::take),
                        Err(_) => None,
                    },
                    true => {
                        self.give()?;
                        let rows = encoded.row(place).map(|row| self.learner.predict_event(event, row)).transpose()?;
                        rows.and_then(|mut rows| rows.pop())
                    }
                };
                if let Some(prediction) = prediction.filter(|prediction| !prediction.values.is_empty()) {
                    if let Some(i) = trained.filter(|_| !self.traits.answers) {
                        let targets = encoded.training.targets_of(i..i + 1);
                        let loss = loss_of(&self.code, &self.rules.deviations, &prediction.values, targets);
                        loss.into_iter().for_each(|loss| self.meter.add(loss));
                    }
                    self.out(event.key.clone(), prediction);
                }
            }
            if let Some(i) = trained {
                self.tally.trained += 1;
                let ordinal = self.run.changes.len() as u64;
                append(&mut self.run.added, &encoded.training, i, ordinal);
                if answers {
                    let id = encoded.training.ids[i].0;
                    let queue = self.learner.queue(event)?;
                    let (key, changes, time) = (event.key.clone(), self.tally.changes, event.time);
                    let queued = Queued { key, id, out: op != Op::Label, queue, changes, time };
                    self.queue.entry(queue).or_default().push_back(queued);
                }
            }
        }
        self.run.changes.push(applied);
        Ok(())
    }

    pub(super) fn out(&mut self, key: String, prediction: Prediction) {
        self.outputs.push(Output { seq: self.tally.answers, key, prediction });
        self.tally.answers += 1;
    }

    /// Gives the run to the learner.
    pub(super) fn give(&mut self) -> Result<(), StageError> {
        if self.run.changes.is_empty() {
            return Ok(());
        }
        let fresh = Run::none(&self.encoding);
        let run = std::mem::replace(&mut self.run, fresh);
        let mut removed = empty(&self.encoding);
        if !run.removed.is_empty() {
            let events: Vec<Event> = run.removed.iter().map(|(_, event)| event.clone()).collect();
            let encoded = self.encoding.encode(&events)?.training;
            for i in 0..encoded.rows() {
                let at = run.removed[encoded.ordinals[i] as usize].0;
                append(&mut removed, &encoded, i, at as u64);
            }
        }
        let answers = self.learner.learn(&Batch { changes: &run.changes, removed: &removed, added: &run.added })?;
        self.answered(answers)
    }

    /// The learner answers rows that it was given.
    pub(super) fn answered(&mut self, answers: Vec<Answer>) -> Result<(), StageError> {
        for answer in answers {
            let queue = self.queue.get_mut(&answer.queue);
            let queued = queue.and_then(VecDeque::pop_front).filter(|queued| queued.id == answer.id.0);
            let Some(queued) = queued else {
                return Err(StageError::Internal("the learner answers a row that it was not given".into()));
            };
            if let Some(raised) = answer.alarm {
                let (changes, key, time) = (queued.changes, queued.key.clone(), queued.time);
                self.tally.alarms.push(DriftAlarm { changes, key, time, raised });
                let over = self.tally.alarms.len().saturating_sub(ALARMS);
                self.tally.alarms.drain(..over);
                self.alarms.extend(self.tally.alarms.last().cloned());
            }
            if queued.out {
                self.out(queued.key, answer.prediction);
            }
        }
        Ok(())
    }
}

/// An event that is refused for what it means.
fn refused(encoding: &Encoding, event: &Event, reason: String) -> Rejected {
    let mut text = json::text(event, encoding.schema());
    if text.len() > MAX_SHOWN {
        let end = (0..=MAX_SHOWN).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    Rejected { key: Some(event.key.clone()), reason, place: None, text: Some(text) }
}
