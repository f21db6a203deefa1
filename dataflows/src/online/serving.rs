//! Predictions by the newest model, while others are learned.
//!
//! A [`Serving`] is a model as of a point of the stream, packed and never changed; [`Newest`] holds the newest one. Whoever answers takes it, and is not held up by learning, nor learning by answers. Its
//! predictions are those of the model file of that point, by the same tiles.

use super::encoding::{BadValue, Encoding, rows_of};
use super::learner::{Prediction, Published};
use crate::error::StageError;
use crate::predict::{Function, RowPredictor};
use nystream_datasets::events::Event;
use std::sync::{Arc, PoisonError, RwLock};

/// A model that answers.
pub struct Serving {
    encoding: Encoding,
    predictor: RowPredictor,
    /// Changes that the stream had brought when it was made.
    pub changes: u64,
}

impl Serving {
    /// Packs a model; `changes`: as of which.
    ///
    /// # Errors
    /// [`StageError::Numeric`] where kernel and centers do not fit together.
    pub fn new(encoding: &Encoding, published: Published, changes: u64) -> Result<Self, StageError> {
        // Values are answered alone.
        let function = Function { variance: None, ..published.function };
        Ok(Serving { encoding: encoding.clone(), predictor: RowPredictor::new(Arc::new(function))?, changes })
    }

    /// What encodes rows.
    pub fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// The function.
    pub fn function(&self) -> &Function {
        self.predictor.function()
    }

    /// The predictions of the rows of `events`, or what is wrong with them.
    ///
    /// # Errors
    /// [`StageError::Data`] for events of another schema.
    pub fn predict(&self, events: &[Event]) -> Result<Vec<Result<Prediction, BadValue>>, StageError> {
        let encoded = self.encoding.encode(events)?;
        let outputs = self.function().outputs();
        let predicted = self.predictor.predict(rows_of(&encoded.features))?;
        let mut answers: Vec<Result<Prediction, BadValue>> = Vec::with_capacity(events.len());
        let mut at = 0;
        for place in 0..events.len() {
            if let Some(fault) = encoded.fault(place) {
                answers.push(Err(fault.clone()));
                continue;
            }
            let values = predicted.values[at * outputs..(at + 1) * outputs].to_vec();
            at += 1;
            answers.push(Ok(Prediction { values, variances: None }));
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
