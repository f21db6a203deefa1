//! Synthetic rows as a stream: `synth:NAME?..` with `drift=abrupt:ROW` or `drift=rotating:PERIOD` among its parameters.
//!
//! Row i has the key `i` in decimal. Any row can be made again: a restart goes on at the next one.

use super::{EventSource, Item, More, PIECE_EVENTS, Place, Position, Rejected, SourceError};
use crate::events::{Event, EventError, StreamSchema, arrow};
use crate::synth::{Drift, Generator};
use crate::{DataError, SynthSpec};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use std::sync::Arc;

/// A source that is made.
pub struct Made {
    name: String,
    schema: StreamSchema,
    generator: Generator,
    rows: u64,
    next: u64,
}

/// Takes `drift=..` out of a specification.
///
/// ```
/// use nystream_datasets::{stream::made::parse, synth::Drift};
/// let (spec, drift) = parse("synth:sines?rows=1e6&drift=abrupt:5e5&d=3").unwrap();
/// assert_eq!((spec.rows, spec.d, drift), (1_000_000, 3, Some(Drift::Abrupt(500_000))));
/// assert!(parse("synth:sines?drift=slow").is_err());
/// ```
///
/// # Errors
/// A specification that is none.
pub fn parse(name: &str) -> Result<(SynthSpec, Option<Drift>), DataError> {
    let (head, query) = name.split_once('?').unwrap_or((name, ""));
    let (drift, rest): (Vec<&str>, Vec<&str>) = query.split('&').partition(|pair| pair.starts_with("drift="));
    let spec: SynthSpec = format!("{head}?{}", rest.join("&")).parse()?;
    let drift = match drift.first().and_then(|pair| pair.strip_prefix("drift=")) {
        None => None,
        Some(text) => {
            let bad = || DataError::BadSynth {
                spec: name.into(),
                reason: format!("drift={text} is not abrupt:ROW or rotating:PERIOD"),
            };
            let (kind, rows) = text.split_once(':').ok_or_else(bad)?;
            let rows = rows.parse::<f64>().ok().filter(|rows| *rows >= 1.0 && *rows < 1e15).ok_or_else(bad)? as u64;
            Some(match kind {
                "abrupt" => Drift::Abrupt(rows),
                "rotating" => Drift::Rotating(rows),
                _ => return Err(bad()),
            })
        }
    };
    Ok((spec, drift))
}

/// The generator of a specification.
///
/// # Errors
/// A specification that is none.
pub fn generator(name: &str) -> Result<(SynthSpec, Generator), DataError> {
    let (spec, drift) = parse(name)?;
    let generator = Generator::new(&spec);
    Ok((spec, drift.into_iter().fold(generator, Generator::with_drift)))
}

impl Made {
    /// The rows that `name` specifies.
    ///
    /// # Errors
    /// A specification that is none.
    pub fn open(name: &str, schema: StreamSchema) -> Result<Self, SourceError> {
        let (spec, generator) = generator(name).map_err(|error| SourceError::Spec(error.to_string()))?;
        Ok(Made { name: name.into(), schema, generator, rows: spec.rows, next: 0 })
    }

    fn events(&self, len: usize) -> Result<Vec<Result<Event, EventError>>, EventError> {
        let malformed =
            |error: arrow_schema::ArrowError| EventError::Malformed { key: None, reason: error.to_string() };
        let all: Vec<usize> = (0..self.generator.schema().fields().len()).collect();
        let batch = self.generator.batch(self.next, len, &all).map_err(malformed)?;
        let keys = StringArray::from_iter_values((self.next..self.next + len as u64).map(|row| row.to_string()));
        let names = batch.schema();
        let columns = names.fields().iter().map(|field| field.name().as_str()).zip(batch.columns().iter().cloned());
        let columns = columns.chain([(self.schema.key_column(), Arc::new(keys) as ArrayRef)]);
        arrow::events(&RecordBatch::try_from_iter(columns).map_err(malformed)?, &self.schema)
    }
}

impl EventSource for Made {
    fn name(&self) -> &str {
        &self.name
    }

    fn resume(&mut self, position: &Position) -> Result<(), SourceError> {
        if let Position::Rows(rows) = position {
            self.next = *rows;
        }
        Ok(())
    }

    fn next(&mut self, items: &mut Vec<Item>) -> Result<More, SourceError> {
        let len = (self.rows.saturating_sub(self.next)).min(PIECE_EVENTS as u64) as usize;
        if len == 0 {
            return Ok(More::End);
        }
        let events = self.events(len).map_err(|error| SourceError::Spec(format!("{}: {error}", self.name)))?;
        for (row, event) in (self.next..).zip(events) {
            items.push(match event {
                Ok(event) => Item::Event(event, Place::row(row)),
                Err(error) => Item::Rejected(Rejected::new(&error, Place::row(row).to_string(), None)),
            });
        }
        self.next += len as u64;
        Ok(More::Yes)
    }

    fn position(&self) -> Position {
        Position::Rows(self.next)
    }
}
