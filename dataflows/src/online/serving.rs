//! Predictions by the newest model, while others are learned.
//!
//! A [`Serving`] is a model as of a point of the stream, packed and never changed; [`Newest`] holds the newest one. Whoever answers takes it, and is not held up by learning, nor learning by answers. Its
//! predictions are those of the model file of that point, by the same tiles. Of shards each has its model, and a row goes to that of its own.

use super::encoding::{BadValue, Encoding, rows_of};
use super::learner::{Prediction, Published};
use super::sharded::Router;
use crate::error::StageError;
use crate::predict::{Function, RowPredictor};
use nystream_datasets::events::Event;
use nystream_kernels::rows::RowBuf;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// A model that is packed.
#[derive(Clone)]
pub struct Packed(Arc<RowPredictor>);

impl Packed {
    /// Packs a model; values are answered alone.
    ///
    /// # Errors
    /// [`StageError::Numeric`] where kernel and centers do not fit together.
    pub fn new(published: Published) -> Result<Self, StageError> {
        let function = Function { variance: None, ..published.function };
        Ok(Packed(Arc::new(RowPredictor::new(Arc::new(function))?)))
    }
}

/// Models of shards, by name.
pub type ByShard = BTreeMap<Arc<str>, Packed>;

enum Models {
    One(Packed),
    Shards(Router, ByShard),
}

/// A model that answers.
pub struct Serving {
    encoding: Encoding,
    /// What is predicted, without centers.
    template: Function,
    models: Models,
    /// Changes that the stream had brought when it was made.
    pub changes: u64,
}

impl Serving {
    /// Packs a model; `changes`: as of which.
    ///
    /// # Errors
    /// [`StageError::Numeric`] where kernel and centers do not fit together.
    pub fn new(encoding: &Encoding, published: Published, changes: u64) -> Result<Self, StageError> {
        let packed = Packed::new(published)?;
        let function = packed.0.function();
        let template = Function {
            centers: RowBuf::new(function.centers.numeric_width, function.centers.code_width),
            coefficients: Vec::new(),
            ..Function::clone(function)
        };
        Ok(Serving { encoding: encoding.clone(), template, models: Models::One(packed), changes })
    }

    /// The models of shards; `template`: what they predict, without centers.
    pub fn shards(encoding: &Encoding, template: &Function, router: &Router, all: ByShard, changes: u64) -> Self {
        let models = Models::Shards(router.clone(), all);
        Serving { encoding: encoding.clone(), template: template.clone(), models, changes }
    }

    /// What encodes rows.
    pub fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// What is predicted; without centers.
    pub fn function(&self) -> &Function {
        &self.template
    }

    /// Centers, of all models.
    pub fn centers(&self) -> usize {
        match &self.models {
            Models::One(packed) => packed.0.function().centers(),
            Models::Shards(_, all) => all.values().map(|packed| packed.0.function().centers()).sum(),
        }
    }

    /// How many shards have a model; `None` where there is one for all rows.
    pub fn count(&self) -> Option<usize> {
        match &self.models {
            Models::One(_) => None,
            Models::Shards(_, all) => Some(all.len()),
        }
    }

    /// What predicts the row of an event, or why nothing does.
    fn packed(&self, event: &Event) -> Result<&Packed, BadValue> {
        let (router, all) = match &self.models {
            Models::One(packed) => return Ok(packed),
            Models::Shards(router, all) => (router, all),
        };
        let bad = |reason: String| BadValue { column: String::new(), reason };
        let name = router.shard(event).ok_or_else(|| bad(format!("has no shard: {}", router.missing())))?;
        all.get(&name).ok_or_else(|| bad(format!("is of shard '{name}', of which no row has been learned")))
    }

    /// The predictions of the rows of `events`, or what is wrong with them.
    ///
    /// # Errors
    /// [`StageError::Data`] for events of another schema.
    pub fn predict(&self, events: &[Event]) -> Result<Vec<Result<Prediction, BadValue>>, StageError> {
        let encoded = self.encoding.encode(events)?;
        let outputs = self.function().outputs();
        let rows = rows_of(&encoded.features);
        if let Models::One(packed) = &self.models {
            let predicted = packed.0.predict(rows)?;
            let mut at = 0;
            let answer = |place: usize| match encoded.fault(place) {
                Some(fault) => Err(fault.clone()),
                None => {
                    let values = predicted.values[at * outputs..(at + 1) * outputs].to_vec();
                    at += 1;
                    Ok(Prediction { values, variances: None })
                }
            };
            return Ok((0..events.len()).map(answer).collect());
        }
        let mut answers: Vec<Result<Prediction, BadValue>> = Vec::with_capacity(events.len());
        for (place, event) in events.iter().enumerate() {
            let found = match (encoded.fault(place), encoded.row(place)) {
                (Some(fault), _) => Err(fault.clone()),
                (None, Some(row)) => match self.packed(event) {
                    Ok(packed) => Ok(Prediction { values: packed.0.predict(row)?.values, variances: None }),
                    Err(bad) => Err(bad),
                },
                (None, None) => Err(BadValue { column: String::new(), reason: "cannot be encoded".into() }),
            };
            answers.push(found);
        }
        Ok(answers)
    }
}

/// The newest model, where there is one.
#[derive(Clone, Default)]
pub struct Newest(Arc<RwLock<Option<Arc<Serving>>>>);

impl Newest {
    /// The newest model.
    pub fn get(&self) -> Option<Arc<Serving>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this is the newest.
    pub fn set(&self, serving: Serving) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(serving));
    }
}
