//! Independent learners, one for each value of a column or each key, behind the runtime as one.
//!
//! The problem: thousands of streams in one (devices, shops, stations), each with a function of its own. A row goes to the learner of its shard alone, which is made when the first row with a target comes: its
//! dictionary, its losses and its bits are those of a run on the rows of the shard, whatever else the stream holds. Answers of a shard come in order; between shards, in the order in which blocks are complete.
//!
//! *Memory*: at most [`Sharded::most`] learners; rows of further shards are refused before they are logged. What one may hold is the caller's to bound.

use super::learner::{Answer, Batch, Info, Learner, Prediction, Published, Recovery, Regret, Shards, Traits};
use super::meter::Meter;
use super::packed;
use crate::error::StageError;
use nystream_datasets::events::{Cell, Event, StreamSchema};
use nystream_kernels::rows::Rows;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a shard's name at most.
const MAX_NAME: usize = 1024;

/// What tells shards apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// The place of a column among the cells of an event; `None` is the key.
    place: Option<usize>,
    /// What the user calls it.
    name: String,
}

impl Router {
    /// By the column `name` of `schema`; `key`, or the name of the column of keys, is the key where no column is called so.
    ///
    /// # Errors
    /// [`StageError::Usage`] for a column that is not there, or that is a target.
    pub fn new(name: &str, schema: &StreamSchema) -> Result<Self, StageError> {
        let place = schema.place(name);
        if place.is_some_and(|place| schema.columns()[place].target) {
            return Err(StageError::Usage(format!("--shard-by {name}: a target is not known when a row comes")));
        }
        if place.is_none() && name != "key" && name != schema.key_column() {
            return Err(StageError::Usage(format!("--shard-by {name}: the stream is not read with such a column")));
        }
        Ok(Router { place, name: name.to_owned() })
    }

    /// Whether `name` is the key, so that no column of that name is to be read.
    pub fn is_key(name: &str, schema: &StreamSchema) -> bool {
        schema.place(name).is_none() && (name == "key" || name == schema.key_column())
    }

    /// The shard of an event that brings a row: numbers in their shortest form, instants in microseconds; `None` where the column is null or too long.
    ///
    /// ```
    /// # use nystream_datasets::{ColumnInfo, ColumnKind, ColumnSummary, Encoder, EncoderOptions};
    /// # let info = |name: &str| ColumnInfo { name: name.into(), kind: ColumnKind::Numeric, integer: false, data_type: "Float64".into() };
    /// # let summary = |name| ColumnSummary { count: 3, sd: 2.0, max: 4.0, ..ColumnSummary::empty(&info(name)) };
    /// # let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
    /// # let encoder = Encoder::fit(&[summary("x"), summary("y")], &options).unwrap();
    /// use nystream_dataflows::online::sharded::Router;
    /// use nystream_datasets::events::{StreamSchema, json};
    /// let schema = StreamSchema::of(&encoder).unwrap().with_text("shop");
    /// let router = Router::new("shop", &schema).unwrap();
    /// let shard = |line: &str| router.shard(&json::event(line.as_bytes(), &schema).unwrap());
    /// assert_eq!(shard(r#"{"key": "a", "row": {"x": 1, "shop": 17}}"#).as_deref(), Some("17"));
    /// assert_eq!(shard(r#"{"key": "a", "row": {"x": 1}}"#), None);
    /// ```
    pub fn shard(&self, event: &Event) -> Option<Arc<str>> {
        let text = match self.place {
            None => return Some(event.key.as_str().into()).filter(|name: &Arc<str>| name.len() <= MAX_NAME),
            Some(place) => match event.cells.get(place)? {
                Cell::Null => return None,
                // -0 is 0.
                Cell::Number(value) => (value + 0.0).to_string(),
                Cell::Flag(value) => value.to_string(),
                Cell::Ticks(value) | Cell::Nanos(value) => value.to_string(),
                Cell::Text(text) => text.clone(),
            },
        };
        Some(text.into()).filter(|name: &Arc<str>| name.len() <= MAX_NAME)
    }

    /// Why an event has no shard.
    pub fn missing(&self) -> String {
        match self.place {
            None => format!("its key has more than {MAX_NAME} bytes, which is too long for a shard"),
            Some(_) => {
                format!(
                    "column '{}', by which rows are sharded, is null, not there, or has more than {MAX_NAME} bytes",
                    self.name
                )
            }
        }
    }
}

/// Makes the learner of a new shard.
pub type Make = Box<dyn Fn() -> Result<Box<dyn Learner>, StageError> + Send>;

/// Learners by shard.
pub struct Sharded {
    router: Router,
    most: usize,
    make: Make,
    /// Number of each shard, in the order in which they came.
    numbers: BTreeMap<Arc<str>, u32>,
    /// By number.
    shards: Vec<(Arc<str>, Box<dyn Learner>)>,
    /// What predicts rows of shards that are not there.
    fresh: Box<dyn Learner>,
    meter: Meter,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    shards: Vec<(String, serde_bytes::ByteBuf)>,
    meter: Meter,
}

impl Sharded {
    /// No shard yet, and `most` of them; `window`: rows of the windowed loss over all of them.
    ///
    /// # Errors
    /// What `make` says.
    pub fn new(router: Router, most: usize, window: usize, make: Make) -> Result<Self, StageError> {
        let fresh = make()?;
        let traits = fresh.traits();
        if !traits.answers || traits.unlearns || traits.recovery != Recovery::Changes {
            return Err(StageError::Usage("--shard-by is for learners that answer and keep no rows".into()));
        }
        let (numbers, shards, meter) = (BTreeMap::new(), Vec::new(), Meter::new(window));
        Ok(Sharded { router, most, make, numbers, shards, fresh, meter })
    }

    /// Shards that there may be.
    pub fn most(&self) -> usize {
        self.most
    }

    /// The number of a shard, which is made where it is not there.
    fn open(&mut self, name: Arc<str>) -> Result<u32, StageError> {
        if let Some(number) = self.numbers.get(&name) {
            return Ok(*number);
        }
        let number = u32::try_from(self.shards.len())
            .map_err(|_| StageError::Data("there are more shards than can be numbered".into()))?;
        self.shards.push((Arc::clone(&name), (self.make)()?));
        self.numbers.insert(name, number);
        Ok(number)
    }

    fn answered(&mut self, number: u32, found: Vec<Answer>, answers: &mut Vec<Answer>) {
        for answer in found {
            self.meter.add(answer.loss);
            answers.push(Answer { queue: number, ..answer });
        }
    }

    fn stray() -> StageError {
        StageError::Internal("a row of no shard was logged".into())
    }
}

impl Learner for Sharded {
    fn traits(&self) -> Traits {
        self.fresh.traits()
    }

    fn refusal(&self, event: &Event) -> Option<String> {
        let Some(name) = self.router.shard(event) else { return Some(self.router.missing()) };
        (self.shards.len() >= self.most && !self.numbers.contains_key(&name))
            .then(|| format!("it is of shard '{name}', and there are {} already (--max-shards)", self.most))
    }

    fn queue(&mut self, event: &Event) -> Result<u32, StageError> {
        let name = self.router.shard(event).ok_or_else(Self::stray)?;
        self.open(name)
    }

    fn learn(&mut self, batch: &Batch<'_>) -> Result<Vec<Answer>, StageError> {
        let (added, mut answers) = (batch.added, Vec::new());
        let none = super::encoding::empty_like(added);
        let mut own = super::encoding::empty_like(added);
        let mut numbers = Vec::with_capacity(added.rows());
        for ordinal in &added.ordinals {
            let row = batch.changes.get(*ordinal as usize).and_then(|change| change.added.as_ref());
            let name = row.and_then(|row| self.router.shard(&row.event)).ok_or_else(Self::stray)?;
            numbers.push(self.open(name)?);
        }
        // Runs of rows of one shard, in order: where a batch is cut, and what stands between two rows of a shard, leaves no trace in it.
        let mut from = 0;
        while from < numbers.len() {
            let number = numbers[from];
            let to = from + numbers[from..].iter().take_while(|other| **other == number).count();
            super::encoding::clear(&mut own);
            (from..to).for_each(|i| super::encoding::append(&mut own, added, i, added.ordinals[i]));
            let learner = &mut self.shards[number as usize].1;
            let found = learner.learn(&Batch { changes: batch.changes, removed: &none, added: &own });
            // Rows of other shards have been learned: nothing can be taken back.
            let found = found.map_err(|error| match error {
                StageError::Data(reason) | StageError::Usage(reason) if from > 0 => StageError::Internal(reason),
                error => error,
            })?;
            self.answered(number, found, &mut answers);
            from = to;
        }
        Ok(answers)
    }

    fn flush(&mut self) -> Result<Vec<Answer>, StageError> {
        let mut answers = Vec::new();
        for number in 0..self.shards.len() {
            let found = self.shards[number].1.flush()?;
            self.answered(number as u32, found, &mut answers);
        }
        Ok(answers)
    }

    fn predict(&mut self, _rows: Rows<'_>) -> Result<Vec<Prediction>, StageError> {
        Err(StageError::Internal("rows of no shard cannot be predicted".into()))
    }

    fn predict_event(&mut self, event: &Event, row: Rows<'_>) -> Result<Vec<Prediction>, StageError> {
        let name = self.router.shard(event).ok_or_else(Self::stray)?;
        match self.numbers.get(&name) {
            Some(number) => self.shards[*number as usize].1.predict(row),
            None => self.fresh.predict(row),
        }
    }

    fn publish(&mut self) -> Result<Published, StageError> {
        let count = self.shards.len();
        Err(StageError::Data(format!("there are {count} shards, and a model is of one: export --shard VALUE")))
    }

    fn publish_shard(&mut self, shard: &str) -> Result<Published, StageError> {
        match self.numbers.get(shard) {
            Some(number) => self.shards[*number as usize].1.publish(),
            None => Err(StageError::Data(format!("no row of shard '{shard}' has been learned"))),
        }
    }

    fn shards(&self) -> Option<Shards> {
        let own = |(name, number): (&Arc<str>, &u32)| (Arc::clone(name), self.shards[*number as usize].1.info());
        let all = self.numbers.iter().map(own).collect();
        Some(Shards { router: self.router.clone(), most: self.most as u64, all })
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, StageError> {
        let stored = |(name, learner): &mut (Arc<str>, Box<dyn Learner>)| {
            Ok((name.to_string(), serde_bytes::ByteBuf::from(learner.snapshot()?)))
        };
        let shards = self.shards.iter_mut().map(stored).collect::<Result<_, StageError>>()?;
        packed::bytes_of(&Stored { shards, meter: self.meter.clone() })
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), StageError> {
        let stored: Stored = packed::read(bytes)?;
        let mut numbers = BTreeMap::new();
        let mut shards: Vec<(Arc<str>, Box<dyn Learner>)> = Vec::with_capacity(stored.shards.len());
        for (number, (name, bytes)) in stored.shards.into_iter().enumerate() {
            let name: Arc<str> = name.into();
            let mut learner = (self.make)()?;
            learner.restore(&bytes)?;
            if numbers.insert(Arc::clone(&name), number as u32).is_some() {
                return Err(packed::damaged(format!("shard '{name}' is there twice")));
            }
            shards.push((name, learner));
        }
        (self.numbers, self.shards, self.meter) = (numbers, shards, stored.meter);
        Ok(())
    }

    fn info(&self) -> Info {
        let mut sum = Info { mean_loss: self.meter.mean(), window_loss: self.meter.window(), ..Info::default() };
        let plus = |a: Option<u64>, b: Option<u64>| b.map_or(a, |b| Some(a.unwrap_or(0) + b));
        for (_, learner) in &self.shards {
            let info = learner.info();
            sum.rows += info.rows;
            sum.dictionary += info.dictionary;
            sum.refused = plus(sum.refused, info.refused);
            sum.mass_alarms += info.mass_alarms;
            sum.loss_alarms += info.loss_alarms;
            sum.restarts += info.restarts;
            sum.bytes += info.bytes;
            sum.waiting += info.waiting;
        }
        sum
    }

    /// Of all shards in which it is measured: each has a comparator of its own.
    fn regret(&self) -> Result<Option<Regret>, StageError> {
        let mut sum: Option<Regret> = None;
        for (_, learner) in &self.shards {
            let Some(own) = learner.regret()? else { continue };
            sum = Some(match sum {
                None => own,
                Some(sum) => Regret {
                    found: sum.found.and(&own.found),
                    bound: sum.bound.zip(own.bound).map(|(a, b)| a.and(&b)),
                    published_bound: sum.published_bound.zip(own.published_bound).map(|(a, b)| a + b),
                },
            });
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests;
