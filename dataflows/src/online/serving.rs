//! Predictions by the newest model, while others are learned.
//!
//! A [`Serving`] is a model as of a point of the stream, packed and never changed; [`Newest`] holds the newest one. Whoever answers takes it, and is not held up by learning, nor learning by answers. Its
//! predictions are those of the model file of that point, by the same tiles.

use super::encoding::{BadValue, Encoding, rows_of};
use super::learner::{Prediction, Published};
use crate::error::StageError;
use crate::predict::{Applied, AppliedScratch, Function};
use nystream_datasets::events::Event;
use nystream_kernels::gram::Precision;
use nystream_kernels::tile::{DrawnRows, Entry};
use std::sync::{Arc, PoisonError, RwLock};

/// A model that answers.
pub struct Serving {
    encoding: Encoding,
    function: Function,
    packed: Packed,
    /// Changes that the stream had brought when it was made.
    pub changes: u64,
}

enum Packed {
    Single(Applied<f32>),
    Double(Applied<f64>),
}

impl Serving {
    /// Packs a model; `changes`: as of which.
    ///
    /// # Errors
    /// [`StageError::Numeric`] where kernel and centers do not fit together.
    pub fn new(encoding: &Encoding, published: Published, changes: u64) -> Result<Self, StageError> {
        let function = published.function;
        let packed = match function.precision {
            Precision::Double => Packed::Double(Applied::new(&function, None)?),
            Precision::Single => Packed::Single(Applied::new(&function, None)?),
        };
        Ok(Serving { encoding: encoding.clone(), function, packed, changes })
    }

    /// What encodes rows.
    pub fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// The function.
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// The predictions of the rows of `events`, or what is wrong with them.
    ///
    /// # Errors
    /// [`StageError::Data`] for events of another schema.
    pub fn predict(&self, events: &[Event]) -> Result<Vec<Result<Prediction, BadValue>>, StageError> {
        let encoded = self.encoding.encode(events)?;
        let rows = rows_of(&encoded.features);
        let mut sums = vec![0.0; rows.len() * self.function.code.width()];
        let drawn = DrawnRows { rows, ids: &encoded.features.ids };
        match &self.packed {
            Packed::Single(applied) => self.sums(applied, drawn, &mut sums),
            Packed::Double(applied) => self.sums(applied, drawn, &mut sums),
        }
        let (t, outputs) = (self.function.code.width(), self.function.outputs());
        let mut answers: Vec<Result<Prediction, BadValue>> = Vec::with_capacity(events.len());
        let mut at = 0;
        for place in 0..events.len() {
            if let Some(fault) = encoded.fault(place) {
                answers.push(Err(fault.clone()));
                continue;
            }
            let mut values = vec![0.0; outputs];
            self.function.outputs_of(&sums[at * t..(at + 1) * t], &mut values);
            at += 1;
            answers.push(Ok(Prediction { values, variances: None }));
        }
        Ok(answers)
    }

    fn sums<T: Entry>(&self, applied: &Applied<T>, rows: DrawnRows<'_>, out: &mut [f64]) {
        applied.sums(rows, &self.function, &mut AppliedScratch::default(), out);
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
