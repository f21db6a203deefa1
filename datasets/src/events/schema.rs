//! The columns that a model reads of a stream.

use super::{Cell, Event, EventError};
use crate::{ColumnKind, DataError, Encoder, SplitRule, TargetKind};
use arrow_array::types::{Date32Type, Time64NanosecondType};
use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, DurationMicrosecondArray, DurationNanosecondArray, Float64Array, RecordBatch,
    StringArray, Time64MicrosecondArray, Time64NanosecondArray, TimestampMicrosecondArray, TimestampNanosecondArray,
};
use arrow_cast::parse::{Parser, string_to_datetime};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Name of the key column in batches, where the model has none.
const KEY_COLUMN: &str = "key";

/// What a column is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// A value of this kind, none of which is text.
    Value(ColumnKind),
    /// Text; integers in decimal, booleans as `true` and `false`.
    Text,
}

/// A column of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamColumn {
    /// Its name.
    pub name: String,
    /// What it is read as.
    pub reads: Reads,
    /// Whether it is a target.
    pub target: bool,
}

/// The columns that a model reads of a stream, in a fixed order.
///
/// ```
/// use nystream_datasets::events::{StreamSchema, json};
/// use nystream_datasets::{Chunk, ColumnInfo, ColumnKind, ColumnSummary, Encoder, EncoderOptions, Role};
/// # let info = |name: &str| ColumnInfo { name: name.into(), kind: ColumnKind::Numeric, integer: false, data_type: "Float64".into() };
/// # let summary = |name| ColumnSummary { count: 3, sd: 2.0, max: 4.0, ..ColumnSummary::empty(&info(name)) };
/// # let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
/// // A number `x` of mean 0 and standard deviation 2, and a target `y`.
/// let encoder = Encoder::fit(&[summary("x"), summary("y")], &options)?;
/// let schema = StreamSchema::of(&encoder)?;
/// let event = json::event(br#"{"key": 7, "row": {"y": 10, "x": 1, "color": "red"}}"#, &schema).unwrap();
/// let batch = schema.batches(&[event])?.remove(0);
/// # use nystream_datasets::RawBatch;
/// # use nystream_hashing::FileId;
/// let raw = RawBatch { file: 0, file_id: FileId::from_relative_path("stream"), first_ordinal: 0, batch };
/// let mut chunk = Chunk::new();
/// encoder.encode(&raw, Role::Training, &mut chunk)?;
/// assert_eq!((chunk.numeric, chunk.targets), (vec![0.5], vec![10.0]));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct StreamSchema {
    columns: Vec<StreamColumn>,
    /// Which of them a row must have: the features.
    needed: Vec<bool>,
    /// Whether one that is absent is null all the same.
    absent_null: bool,
    places: HashMap<String, usize>,
    key: String,
    weight: Option<String>,
}

impl StreamSchema {
    /// What `encoder` reads for training. The key column and the weights are not among the columns: an event has its own.
    ///
    /// # Errors
    /// [`DataError::RoleConflict`] where one column would be read in two ways.
    pub fn of(encoder: &Encoder) -> Result<Self, DataError> {
        let mut reads: BTreeMap<&str, (Reads, bool)> = BTreeMap::new();
        let mut order = Vec::new();
        let mut add = |name, read: Reads, target| match reads.insert(name, (read, target)) {
            None => {
                order.push(name);
                Ok(())
            }
            Some((before, was_target)) => {
                reads.insert(name, (before, was_target || target));
                // What the split looks at may be a feature too.
                if before == read { Ok(()) } else { Err(conflict(name)) }
            }
        };
        for feature in &encoder.numeric {
            add(feature.column.as_str(), Reads::Value(feature.kind), false)?;
        }
        for feature in &encoder.categorical {
            let read = if feature.kind == ColumnKind::Text { Reads::Text } else { Reads::Value(feature.kind) };
            add(feature.column.as_str(), read, false)?;
        }
        let target = match encoder.target_kind {
            TargetKind::Regression => Reads::Value(ColumnKind::Numeric),
            TargetKind::Classes(_) => Reads::Text,
        };
        for name in &encoder.targets {
            add(name, target, true)?;
        }
        let of_feature = |name: &str| encoder.numeric.iter().find(|f| f.column == name).map(|f| Reads::Value(f.kind));
        for name in &encoder.watched {
            add(name, of_feature(name).unwrap_or(Reads::Value(ColumnKind::Numeric)), false)?;
        }
        match &encoder.split {
            SplitRule::Hash { column: Some(column), .. } => {
                let own = encoder.categorical.iter().any(|f| f.column == *column);
                if !own || of_feature(column).is_some() {
                    add(column, of_feature(column).unwrap_or(Reads::Text), false)?;
                }
            }
            SplitRule::Time { column, .. } => {
                add(column, of_feature(column).unwrap_or(Reads::Value(ColumnKind::Timestamp)), false)?;
            }
            SplitRule::None | SplitRule::Hash { column: None, .. } => {}
        }
        let column = |name: &str| {
            let (reads, target) = reads[name];
            StreamColumn { name: name.to_owned(), reads, target }
        };
        let columns: Vec<StreamColumn> = order.into_iter().map(column).collect();
        let features = encoder.numeric.iter().map(|f| &f.column).chain(encoder.categorical.iter().map(|f| &f.column));
        let needed = columns.iter().map(|column| features.clone().any(|name| *name == column.name)).collect();
        let places = columns.iter().enumerate().map(|(i, column)| (column.name.clone(), i)).collect();
        let key = encoder.id_column.clone().unwrap_or_else(|| KEY_COLUMN.to_owned());
        Ok(StreamSchema { columns, needed, absent_null: false, places, key, weight: encoder.weight.clone() })
    }

    /// The same, but a feature that a row does not have is null: for producers that leave nulls out. Otherwise such a row is none ([`EventError::Absent`]), since its column may be misspelt.
    pub fn with_absent_null(self) -> Self {
        StreamSchema { absent_null: true, ..self }
    }

    /// The first column that a row must have and that is not `given`.
    pub(super) fn lacking(&self, given: impl Fn(usize) -> bool) -> Option<&str> {
        if self.absent_null {
            return None;
        }
        let place = (0..self.columns.len()).find(|place| self.needed[*place] && !given(*place))?;
        Some(&self.columns[place].name)
    }

    /// With the column `name`, read as text, where there is none of that name: for those who run the stream, not for the model.
    pub fn with_text(mut self, name: &str) -> Self {
        if self.place(name).is_none() {
            self.places.insert(name.to_owned(), self.columns.len());
            self.needed.push(false);
            self.columns.push(StreamColumn { name: name.to_owned(), reads: Reads::Text, target: false });
        }
        self
    }

    /// These columns and no others, for tests of what stores rows.
    #[cfg(test)]
    pub(crate) fn from_columns(columns: Vec<StreamColumn>) -> Self {
        let places = columns.iter().enumerate().map(|(i, column)| (column.name.clone(), i)).collect();
        let needed = vec![false; columns.len()];
        StreamSchema { columns, needed, absent_null: false, places, key: KEY_COLUMN.into(), weight: None }
    }

    /// The columns, in the order of an event's cells.
    pub fn columns(&self) -> &[StreamColumn] {
        &self.columns
    }

    /// Where the column `name` is among them.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// Whether a target of the row is not null.
    pub fn has_target(&self, cells: &[Cell]) -> bool {
        self.columns.iter().zip(cells).any(|(column, cell)| column.target && *cell != Cell::Null)
    }

    /// Arrow columns of the rows of `events`, in order: keys, weights where the model has a column for them, and those of the schema. One batch serves all of them, but
    /// where times come now in nanoseconds and now in coarser units.
    ///
    /// # Errors
    /// [`DataError::BadEncoder`] for an event of another schema.
    pub fn batches(&self, events: &[Event]) -> Result<Vec<RecordBatch>, DataError> {
        // A column's unit is that of its last cell that is not null.
        let mut nanos: Vec<Option<bool>> = vec![None; self.columns.len()];
        let (mut batches, mut start) = (Vec::new(), 0);
        for (i, event) in events.iter().enumerate() {
            let unit = |cell: &Cell| match cell {
                Cell::Ticks(_) => Some(false),
                Cell::Nanos(_) => Some(true),
                _ => None,
            };
            let differs = |(held, cell): (&Option<bool>, &Cell)| held.is_some_and(|held| unit(cell) == Some(!held));
            if nanos.iter().zip(&event.cells).any(differs) {
                batches.push(self.batch(&events[start..i])?);
                start = i;
                nanos.fill(None);
            }
            nanos.iter_mut().zip(&event.cells).for_each(|(held, cell)| *held = unit(cell).or(*held));
        }
        if start < events.len() {
            batches.push(self.batch(&events[start..])?);
        }
        Ok(batches)
    }

    /// Rows whose times are of one unit a column.
    fn batch(&self, events: &[Event]) -> Result<RecordBatch, DataError> {
        let damaged = |reason: String| DataError::BadEncoder { reason };
        if let Some(event) = events.iter().find(|event| event.cells.len() != self.columns.len()) {
            let found = event.cells.len();
            return Err(damaged(format!("the row '{}' has {found} columns of {}", event.key, self.columns.len())));
        }
        let mut columns: Vec<(&str, ArrayRef)> = Vec::with_capacity(self.columns.len() + 2);
        // A column of that name that the model reads besides is the model's.
        if self.place(&self.key).is_none() {
            let keys = StringArray::from_iter_values(events.iter().map(|event| event.key.as_str()));
            columns.push((&self.key, Arc::new(keys)));
        }
        if let Some(weight) = self.weight.as_deref().filter(|name| self.place(name).is_none()) {
            let weights = Float64Array::from_iter_values(events.iter().map(|event| event.weight.unwrap_or(1.0)));
            columns.push((weight, Arc::new(weights)));
        }
        for (place, column) in self.columns.iter().enumerate() {
            let cells = events.iter().map(|event| &event.cells[place]);
            let array = array(column.reads, cells).ok_or_else(|| {
                damaged(format!("column '{}' of a stored row has a value of another type", column.name))
            })?;
            columns.push((&column.name, array));
        }
        RecordBatch::try_from_iter(columns).map_err(|error| damaged(error.to_string()))
    }

    /// The column of keys in batches.
    pub fn key_column(&self) -> &str {
        &self.key
    }

    /// The column of weights in batches, where the model has one.
    pub fn weight_column(&self) -> Option<&str> {
        self.weight.as_deref()
    }
}

fn conflict(name: &str) -> DataError {
    DataError::RoleConflict { column: name.into(), first: "a value", second: "text" }
}

/// An Arrow array of the type that the encoder expects; `None` where a cell is of another.
fn array<'a>(reads: Reads, cells: impl Iterator<Item = &'a Cell> + Clone) -> Option<ArrayRef> {
    fn collect<'a, T>(
        cells: impl Iterator<Item = &'a Cell>,
        value: impl Fn(&'a Cell) -> Option<T>,
    ) -> Option<Vec<Option<T>>> {
        let one = |cell: &'a Cell| match cell {
            Cell::Null => Some(None),
            cell => value(cell).map(Some),
        };
        cells.map(one).collect()
    }
    let nanos = cells.clone().any(|cell| matches!(cell, Cell::Nanos(_)));
    let ticks = |cell: &Cell| match cell {
        Cell::Ticks(ticks) if !nanos => Some(*ticks),
        Cell::Nanos(ticks) => Some(*ticks),
        _ => None,
    };
    let number = |cell: &Cell| if let Cell::Number(value) = cell { Some(*value) } else { None };
    let flag = |cell: &Cell| if let Cell::Flag(value) = cell { Some(*value) } else { None };
    Some(match reads {
        Reads::Text => {
            let text = |cell: &'a Cell| if let Cell::Text(text) = cell { Some(text.as_str()) } else { None };
            Arc::new(StringArray::from(collect(cells, text)?))
        }
        Reads::Value(ColumnKind::Boolean) => Arc::new(BooleanArray::from(collect(cells, flag)?)),
        Reads::Value(ColumnKind::Timestamp) => {
            let ticks = collect(cells, ticks)?;
            if nanos {
                Arc::new(TimestampNanosecondArray::from(ticks))
            } else {
                Arc::new(TimestampMicrosecondArray::from(ticks))
            }
        }
        Reads::Value(ColumnKind::Time) => {
            let ticks = collect(cells, ticks)?;
            if nanos {
                Arc::new(Time64NanosecondArray::from(ticks))
            } else {
                Arc::new(Time64MicrosecondArray::from(ticks))
            }
        }
        Reads::Value(ColumnKind::Duration) => {
            let ticks = collect(cells, ticks)?;
            if nanos {
                Arc::new(DurationNanosecondArray::from(ticks))
            } else {
                Arc::new(DurationMicrosecondArray::from(ticks))
            }
        }
        Reads::Value(ColumnKind::Date) => {
            let days = |cell: &Cell| if let Cell::Ticks(days) = cell { i32::try_from(*days).ok() } else { None };
            Arc::new(Date32Array::from(collect(cells, days)?))
        }
        Reads::Value(_) => Arc::new(Float64Array::from(collect(cells, number)?)),
    })
}

/// A value as it stands in a source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Given<'a> {
    Null,
    Flag(bool),
    Integer(i64),
    /// Above the range of `i64`.
    Large(u64),
    Float(f64),
    Text(&'a str),
}

impl Given<'_> {
    fn shown(&self) -> String {
        match self {
            Given::Null => "null".into(),
            Given::Flag(value) => format!("the boolean {value}"),
            Given::Integer(value) => format!("the number {value}"),
            Given::Large(value) => format!("the number {value}"),
            Given::Float(value) => format!("the number {value}"),
            Given::Text(text) => format!("the text '{}'", crate::shown(text)),
        }
    }
}

impl StreamColumn {
    /// The cell of a value that stands in a source.
    pub(super) fn cell(&self, value: Given<'_>) -> Result<Cell, EventError> {
        let wrong =
            |expected| EventError::Type { key: None, column: self.name.clone(), found: value.shown(), expected };
        if value == Given::Null {
            return Ok(Cell::Null);
        }
        let seconds = |value: Given<'_>| match value {
            Given::Integer(seconds) => seconds.checked_mul(1_000_000),
            Given::Float(seconds) => micros(seconds),
            _ => None,
        };
        match self.reads {
            Reads::Text => Ok(Cell::Text(match value {
                Given::Text(text) => text.to_owned(),
                Given::Flag(value) => value.to_string(),
                Given::Integer(value) => value.to_string(),
                Given::Large(value) => value.to_string(),
                Given::Float(value) => value.to_string(),
                Given::Null => return Ok(Cell::Null),
            })),
            Reads::Value(ColumnKind::Boolean) => match value {
                Given::Flag(value) => Ok(Cell::Flag(value)),
                Given::Integer(0) => Ok(Cell::Flag(false)),
                Given::Integer(1) => Ok(Cell::Flag(true)),
                _ => Err(wrong("true or false")),
            },
            Reads::Value(ColumnKind::Timestamp) => match value {
                Given::Text(text) => string_to_datetime(&chrono::Utc, text).ok().and_then(|instant| {
                    // Nanoseconds only where they say more, since they reach from 1677 to 2262 only.
                    match instant.timestamp_subsec_nanos() % 1000 {
                        0 => Some(Cell::Ticks(instant.timestamp_micros())),
                        _ => instant.timestamp_nanos_opt().map(Cell::Nanos),
                    }
                }),
                value => seconds(value).map(Cell::Ticks),
            }
            .ok_or_else(|| wrong("an instant (ISO 8601, or seconds since 1970)")),
            Reads::Value(ColumnKind::Date) => match value {
                Given::Text(text) => Date32Type::parse(text).map(i64::from),
                _ => None,
            }
            .map(Cell::Ticks)
            .ok_or_else(|| wrong("a date such as 2024-02-29")),
            Reads::Value(ColumnKind::Time) => match value {
                Given::Text(text) => Time64NanosecondType::parse(text).map(|nanos| match nanos % 1000 {
                    0 => Cell::Ticks(nanos / 1000),
                    _ => Cell::Nanos(nanos),
                }),
                value => seconds(value).filter(|micros| (0..86_400_000_000).contains(micros)).map(Cell::Ticks),
            }
            .ok_or_else(|| wrong("a time of day such as 13:45:00, or seconds since midnight")),
            Reads::Value(ColumnKind::Duration) => {
                seconds(value).map(Cell::Ticks).ok_or_else(|| wrong("a length of time in seconds"))
            }
            Reads::Value(_) => match value {
                Given::Integer(value) => Ok(Cell::Number(value as f64)),
                Given::Large(value) => Ok(Cell::Number(value as f64)),
                Given::Float(value) => Ok(Cell::Number(value)),
                // JSON has no words for these; they make a bad row later, with its key and column.
                Given::Text("NaN") => Ok(Cell::Number(f64::NAN)),
                Given::Text("Infinity") => Ok(Cell::Number(f64::INFINITY)),
                Given::Text("-Infinity") => Ok(Cell::Number(f64::NEG_INFINITY)),
                _ => Err(wrong("a number")),
            },
        }
    }
}

/// Seconds in microseconds, to the nearest; `None` beyond what 64 bits hold.
pub(super) fn micros(seconds: f64) -> Option<i64> {
    let micros = (seconds * 1e6).round();
    // 2^63 is no i64, though -2^63 is.
    (micros >= i64::MIN as f64 && micros < i64::MAX as f64).then_some(micros as i64)
}

/// Microseconds since 1970 as an instant in ISO 8601, UTC; `None` beyond the calendar.
///
/// ```
/// use nystream_datasets::events::instant_text;
/// assert_eq!(instant_text(1_709_208_000_500_000).as_deref(), Some("2024-02-29T12:00:00.500Z"));
/// ```
pub fn instant_text(micros: i64) -> Option<String> {
    chrono::DateTime::from_timestamp_micros(micros).map(|instant| format!("{:?}Z", instant.naive_utc()))
}

/// An instant in ISO 8601 in microseconds since 1970; without an offset it is UTC.
pub(super) fn instant_micros(text: &str) -> Option<i64> {
    Some(string_to_datetime(&chrono::Utc, text).ok()?.timestamp_micros())
}
