//! From events to encoded rows, and what of them cannot be used.
//!
//! The problem: whether a row can be learned is settled before it is logged, so that a replay needs no second opinion. Rows go through the encoder in batches, with the bits that a file of them would give.

use crate::error::StageError;
use nystream_datasets::events::{Cell, Event, StreamSchema};
use nystream_datasets::{BadReason, Chunk, Encoder, RawBatch, Role};
use nystream_hashing::FileId;
use nystream_kernels::rows::Rows;
use std::sync::Arc;

/// Why a weight is refused that nothing would come of.
const NO_WEIGHTS: &str = "has a weight, and the model has none: begin with one that was fitted with --weight COLUMN";

/// What encodes the rows of a run.
#[derive(Clone, Debug)]
pub struct Encoding {
    encoder: Arc<Encoder>,
    schema: Arc<StreamSchema>,
    file: FileId,
    /// Whether an event's weight counts although the model has no column of weights; if neither, it may be nothing but 1.
    own_weights: bool,
    /// Whether weights are bounded by [`MAX_WEIGHT`].
    bounded: bool,
    /// Whether a row has all targets or none.
    all_targets: bool,
}

/// The largest weight of a row that learners of sums in floating point take: their matrices keep 16 digits.
pub const MAX_WEIGHT: f64 = 1e9;

/// Why a row cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadValue {
    /// The column; empty where it is the row as a whole.
    pub column: String,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for BadValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.column.as_str() {
            "" => write!(f, "the row {}", self.reason),
            column => write!(f, "column '{column}' {}", self.reason),
        }
    }
}

/// Rows of some events, encoded: those with a target as a fit would, and the features of the others.
#[derive(Debug, Default)]
pub struct Encoded {
    /// Rows that are learned from: with a target, not held out. `ordinals` are places among the events.
    pub training: Chunk,
    /// Features of every row that can be used, learned from or not.
    pub features: Chunk,
    /// What is wrong with the others, by place, ascending.
    pub bad: Vec<(usize, BadValue)>,
}

impl Encoded {
    /// The features of the row of event `place`.
    pub fn row(&self, place: usize) -> Option<Rows<'_>> {
        let at = self.features.ordinals.binary_search(&(place as u64)).ok()?;
        Some(rows_of(&self.features).slice(at, at + 1))
    }

    /// What is wrong with the row of event `place`.
    pub fn fault(&self, place: usize) -> Option<&BadValue> {
        let at = self.bad.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        Some(&self.bad[at].1)
    }

    /// Where the row of event `place` stands among those that are learned from.
    pub fn trained(&self, place: usize) -> Option<usize> {
        self.training.ordinals.binary_search(&(place as u64)).ok()
    }
}

/// The rows of a chunk.
pub fn rows_of(chunk: &Chunk) -> Rows<'_> {
    Rows::new(&chunk.numeric, chunk.numeric_width, &chunk.codes, chunk.code_width)
}

/// An empty chunk with the widths of `other`.
pub fn empty_like(other: &Chunk) -> Chunk {
    let mut chunk = Chunk::new();
    (chunk.numeric_width, chunk.code_width, chunk.target_width) =
        (other.numeric_width, other.code_width, other.target_width);
    chunk
}

/// Takes the rows out of a chunk.
pub fn clear(chunk: &mut Chunk) {
    chunk.ids.clear();
    chunk.ordinals.clear();
    chunk.numeric.clear();
    chunk.codes.clear();
    chunk.targets.clear();
    chunk.weights.clear();
    chunk.held_out.clear();
}

/// Appends row `i` of `from` to `to`, of event `ordinal`.
pub fn append(to: &mut Chunk, from: &Chunk, i: usize, ordinal: u64) {
    to.ids.push(from.ids[i]);
    to.ordinals.push(ordinal);
    to.numeric.extend_from_slice(from.numeric_of(i..i + 1));
    to.codes.extend_from_slice(from.codes_of(i..i + 1));
    to.targets.extend_from_slice(from.targets_of(i..i + 1));
    to.weights.push(from.weights[i]);
    to.held_out.push(from.held_out[i]);
}

impl Encoding {
    /// By `encoder`, which must have a column of keys. `own_weights`: an event's weight counts where the encoder has no column of weights, and none may be above [`MAX_WEIGHT`].
    ///
    /// # Errors
    /// [`StageError::Data`] for an encoder that reads one column in two ways.
    pub fn new(encoder: Encoder, own_weights: bool) -> Result<Self, StageError> {
        let schema = StreamSchema::of(&encoder)?;
        let (bounded, own_weights) = (own_weights, own_weights && encoder.weight.is_none());
        let file = FileId::from_relative_path("stream");
        Ok(Encoding {
            encoder: Arc::new(encoder),
            schema: Arc::new(schema),
            file,
            own_weights,
            bounded,
            all_targets: false,
        })
    }

    /// The same, but a row with some of its targets and not all is a bad one: for learners that take them together.
    pub fn with_all_targets(self) -> Self {
        Encoding { all_targets: true, ..self }
    }

    /// The same, with a column that the encoder does not read among the cells of events, as text.
    pub fn with_text(self, column: &str) -> Self {
        let schema = Arc::new(StreamSchema::clone(&self.schema).with_text(column));
        Encoding { schema, ..self }
    }

    /// The same, but a feature that a row does not have is null ([`StreamSchema::with_absent_null`]).
    pub fn with_absent_null(self) -> Self {
        let schema = Arc::new(StreamSchema::clone(&self.schema).with_absent_null());
        Encoding { schema, ..self }
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The columns that are read.
    pub fn schema(&self) -> &StreamSchema {
        &self.schema
    }

    /// Encodes the rows of `events`, all of which bring one.
    ///
    /// # Errors
    /// [`StageError::Data`] for events of another schema.
    pub fn encode(&self, events: &[Event]) -> Result<Encoded, StageError> {
        let mut encoded = Encoded::default();
        self.widths(&mut encoded);
        let (mut first, mut chunk) = (0, Chunk::new());
        for batch in self.schema.batches(events)? {
            let rows = batch.num_rows();
            let raw = RawBatch { file: 0, file_id: self.file, first_ordinal: 0, batch };
            let targets = events[first..first + rows].iter().any(|event| self.schema.has_target(&event.cells));
            let mut bad = Vec::new();
            if targets {
                self.encoder.encode(&raw, Role::Training, &mut chunk)?;
                for i in 0..chunk.rows() {
                    let place = first + chunk.ordinals[i] as usize;
                    append(&mut encoded.training, &chunk, i, place as u64);
                    if self.own_weights {
                        let weight = events[place].weight.unwrap_or(1.0);
                        if let Some(last) = encoded.training.weights.last_mut() {
                            *last *= weight;
                        }
                    }
                }
                take_bad(&chunk, first, &mut bad);
                let of_batch = encoded.training.weights.len() - chunk.rows();
                for (i, weight) in encoded.training.weights[of_batch..].iter().enumerate() {
                    if self.bounded && *weight > MAX_WEIGHT {
                        let column = self.encoder.weight.clone().unwrap_or_else(|| "weight".into());
                        let reason = format!(
                            "is {weight:e}, more than {MAX_WEIGHT:e}: beside it all other rows would be lost in rounding"
                        );
                        bad.push((first + chunk.ordinals[i] as usize, BadValue { column, reason }));
                    }
                }
                if self.all_targets {
                    self.incomplete(&chunk, first, &mut bad);
                }
            }
            self.encoder.encode(&raw, Role::Features, &mut chunk)?;
            take_bad(&chunk, first, &mut bad);
            if !self.own_weights && self.encoder.weight.is_none() {
                for (place, event) in events.iter().enumerate().skip(first).take(rows) {
                    if event.weight.is_some_and(|weight| weight != 1.0) {
                        bad.push((place, BadValue { column: String::new(), reason: NO_WEIGHTS.into() }));
                    }
                }
            } else if self.own_weights {
                for (place, event) in events.iter().enumerate().skip(first).take(rows) {
                    if event.weight.is_some_and(|weight| !(weight.is_finite() && weight >= 0.0)) {
                        bad.push((
                            place,
                            BadValue { column: "weight".into(), reason: "is no weight: a number of at least 0".into() },
                        ));
                    }
                }
            }
            bad.sort_by_key(|(place, _)| *place);
            bad.dedup_by_key(|(place, _)| *place);
            for i in 0..chunk.rows() {
                let place = first + chunk.ordinals[i] as usize;
                if bad.binary_search_by_key(&place, |(place, _)| *place).is_err() {
                    append(&mut encoded.features, &chunk, i, place as u64);
                }
            }
            encoded.bad.append(&mut bad);
            first += rows;
        }
        let bad = &encoded.bad;
        if !bad.is_empty() {
            let mut kept = empty_like(&encoded.training);
            for i in 0..encoded.training.rows() {
                let place = encoded.training.ordinals[i];
                if bad.binary_search_by_key(&(place as usize), |(place, _)| *place).is_err() {
                    append(&mut kept, &encoded.training, i, place);
                }
            }
            encoded.training = kept;
        }
        Ok(encoded)
    }

    /// Rows that lack some of their targets.
    fn incomplete(&self, chunk: &Chunk, first: usize, bad: &mut Vec<(usize, BadValue)>) {
        for i in 0..chunk.rows() {
            if let Some(k) = chunk.targets_of(i..i + 1).iter().position(|y| y.is_nan()) {
                let column = self.encoder.targets.get(k).cloned().unwrap_or_default();
                let reason = "is null, and the other targets of the row are not: they are learned together".into();
                bad.push((first + chunk.ordinals[i] as usize, BadValue { column, reason }));
            }
        }
    }

    fn widths(&self, encoded: &mut Encoded) {
        for chunk in [&mut encoded.training, &mut encoded.features] {
            chunk.numeric_width = self.encoder.numeric_width();
            chunk.code_width = self.encoder.code_width();
        }
        encoded.training.target_width = self.encoder.target_width();
    }

    /// The event of an event's row without its targets, by which a label is merged.
    pub fn labelled(&self, row: &Event, label: &Event) -> Event {
        let mut merged = Event { op: label.op, ..row.clone() };
        for (place, column) in self.schema.columns().iter().enumerate() {
            if column.target {
                merged.cells[place] = label.cells.get(place).cloned().unwrap_or(Cell::Null);
            }
        }
        merged.weight = label.weight.or(merged.weight);
        merged
    }
}

fn take_bad(chunk: &Chunk, first: usize, bad: &mut Vec<(usize, BadValue)>) {
    for row in &chunk.bad {
        let reason = match row.reason {
            BadReason::TargetOutOfRange => "is a target outside the range that is learned".to_owned(),
            reason => reason.to_string(),
        };
        bad.push((first + row.ordinal as usize, BadValue { column: row.column.clone(), reason }));
    }
}
