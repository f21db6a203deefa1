//! Events in Arrow batches, one a row.
//!
//! Columns: the key (the model's key column, or `key`), and where they are there `op` (text), `time` (an instant, or seconds since 1970) and the weight (the model's
//! weight column, or `weight`); all others are those of the row. Where the model reads a column of one of these names, it is the model's. Rows without a column of a feature are none
//! ([`EventError::Absent`]), unless the schema takes it for null; other absent columns are null.

use super::{Cell, Event, EventError, MAX_KEY_BYTES, Op, Reads, StreamColumn, StreamSchema};
use crate::{ColumnKind, NumericColumn, TextColumn};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::cast;
use arrow_schema::{DataType, TimeUnit};
use std::collections::HashSet;

/// The events of a batch, in order. A row that is no event is an error among the others.
///
/// # Errors
/// A batch without keys, with two columns of one name that is read, or with a column of another kind than the model's: none of its rows can be read.
pub fn events(batch: &RecordBatch, schema: &StreamSchema) -> Result<Vec<Result<Event, EventError>>, EventError> {
    let rows = batch.num_rows();
    twice(batch, schema)?;
    let own = |name: &str| batch.column_by_name(name).filter(|_| schema.place(name).is_none());
    let key_name = schema.key_column();
    let keys = batch
        .column_by_name(key_name)
        .ok_or_else(|| malformed(format!("the batch has no column '{key_name}' of keys")))?;
    let keys = text(key_name, keys, "a key (text or an integer)")?;
    let operations = own("op").map(|array| text("op", array, "insert, update, delete or label")).transpose()?;
    let times = own("time").map(|array| times("time", array)).transpose()?;
    let weight_name = schema.weight_column().unwrap_or("weight");
    let weights = own(weight_name).map(|array| numbers(weight_name, array)).transpose()?;
    let columns: Vec<Option<Vec<Cell>>> = schema
        .columns()
        .iter()
        .map(|column| batch.column_by_name(&column.name).map(|array| cells(column, array)).transpose())
        .collect::<Result<_, _>>()?;
    let lacking = schema.lacking(|place| columns[place].is_some()).map(|column| {
        let there = batch.schema();
        EventError::absent(None, column, there.fields().iter().map(|field| field.name().as_str()))
    });
    let row = |i: usize| {
        let key = match keys.get(i) {
            Some(key) if !key.is_empty() && key.len() <= MAX_KEY_BYTES => key.to_owned(),
            _ => return Err(malformed(format!("row {i} of the batch has no key of 1 to {MAX_KEY_BYTES} bytes"))),
        };
        let op = match operations.as_ref().and_then(|column| column.get(i)) {
            None | Some("insert") => Op::Insert,
            Some("update") => Op::Update,
            Some("delete") => Op::Delete,
            Some("label") => Op::Label,
            Some(_) => {
                let reason = "'op' must be insert, update, delete or label".into();
                return Err(EventError::Malformed { key: Some(key), reason });
            }
        };
        if let (Op::Insert | Op::Update, Some(EventError::Absent { column, near, .. })) = (op, &lacking) {
            return Err(EventError::Absent { key: Some(key), column: column.clone(), near: near.clone() });
        }
        let cell = |column: &Option<Vec<Cell>>| column.as_ref().map_or(Cell::Null, |cells| cells[i].clone());
        let cells: Vec<Cell> = if op == Op::Delete { Vec::new() } else { columns.iter().map(cell).collect() };
        if op == Op::Label && !schema.has_target(&cells) {
            let reason = "a label needs a target that is not null".into();
            return Err(EventError::Malformed { key: Some(key), reason });
        }
        let time = times.as_ref().and_then(|times| times[i]);
        let weight = weights.as_ref().and_then(|weights| weights.get(i));
        Ok(Event { op, key, time, weight, cells })
    };
    Ok((0..rows).map(row).collect())
}

/// A column that would be read must be there once: which of two is meant cannot be told.
fn twice(batch: &RecordBatch, schema: &StreamSchema) -> Result<(), EventError> {
    let mut seen = HashSet::new();
    let columns = batch.schema();
    let reserved = ["op", "time", schema.weight_column().unwrap_or("weight"), schema.key_column()];
    for field in columns.fields() {
        let name = field.name().as_str();
        if (schema.place(name).is_some() || reserved.contains(&name)) && !seen.insert(name) {
            return Err(malformed(format!("the batch has two columns '{name}'")));
        }
    }
    Ok(())
}

fn malformed(reason: String) -> EventError {
    EventError::Malformed { key: None, reason }
}

fn wrong(name: &str, array: &dyn Array, expected: &'static str) -> EventError {
    EventError::Type { key: None, column: name.into(), found: array.data_type().to_string(), expected }
}

fn text<'a>(name: &str, array: &'a ArrayRef, expected: &'static str) -> Result<TextColumn<'a>, EventError> {
    let kind = ColumnKind::of(array.data_type());
    let fits = match name {
        // An integer is no operation.
        "op" => kind == ColumnKind::Text || kind == ColumnKind::Null,
        _ => TextColumn::accepts(kind),
    };
    if !fits {
        return Err(wrong(name, array, expected));
    }
    TextColumn::new(name, array).map_err(|_| wrong(name, array, expected))
}

fn numbers<'a>(name: &str, array: &'a ArrayRef) -> Result<NumericColumn<'a>, EventError> {
    match ColumnKind::of(array.data_type()) {
        ColumnKind::Numeric | ColumnKind::Null => {
            NumericColumn::new(name, array).map_err(|_| wrong(name, array, "a number"))
        }
        _ => Err(wrong(name, array, "a number")),
    }
}

/// Microseconds since 1970.
fn times(name: &str, array: &ArrayRef) -> Result<Vec<Option<i64>>, EventError> {
    let expected = "an instant, or seconds since 1970";
    match ColumnKind::of(array.data_type()) {
        ColumnKind::Timestamp => {
            let micros = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, None));
            let micros =
                micros.and_then(|array| cast(&array, &DataType::Int64)).map_err(|_| wrong(name, array, expected))?;
            Ok(micros.as_primitive::<Int64Type>().iter().collect())
        }
        ColumnKind::Numeric | ColumnKind::Null => {
            let seconds = numbers(name, array)?;
            Ok((0..array.len()).map(|i| seconds.get(i).and_then(super::schema::micros)).collect())
        }
        _ => Err(wrong(name, array, expected)),
    }
}

/// The cells of a column; its kind must be what the model reads.
fn cells(column: &StreamColumn, array: &ArrayRef) -> Result<Vec<Cell>, EventError> {
    let name = column.name.as_str();
    let kind = ColumnKind::of(array.data_type());
    if kind == ColumnKind::Null {
        return Ok(vec![Cell::Null; array.len()]);
    }
    let Reads::Value(expected) = column.reads else {
        let column = text(name, array, "text, a boolean or an integer")?;
        return Ok((0..array.len())
            .map(|i| column.get(i).map_or(Cell::Null, |text| Cell::Text(text.into())))
            .collect());
    };
    let words = match expected {
        ColumnKind::Boolean => "true or false",
        ColumnKind::Timestamp => "an instant",
        ColumnKind::Date => "a date",
        ColumnKind::Time => "a time of day",
        ColumnKind::Duration => "a length of time",
        _ => "a number",
    };
    if kind != expected {
        return Err(wrong(name, array, words));
    }
    let failed = |_| wrong(name, array, words);
    let whole = |to: DataType, wrap: fn(i64) -> Cell| -> Result<Vec<Cell>, EventError> {
        let ticks = cast(array, &to).and_then(|array| cast(&array, &DataType::Int64)).map_err(failed)?;
        let ticks = ticks.as_primitive::<Int64Type>();
        // What overflows becomes null in a cast; nulls stay null.
        if ticks.null_count() > array.logical_null_count() {
            return Err(wrong(name, array, words));
        }
        Ok(ticks.iter().map(|value| value.map_or(Cell::Null, wrap)).collect())
    };
    use DataType as D;
    match array.data_type() {
        D::Boolean => Ok(array.as_boolean().iter().map(|value| value.map_or(Cell::Null, Cell::Flag)).collect()),
        D::Timestamp(TimeUnit::Nanosecond, _) | D::Time64(TimeUnit::Nanosecond) | D::Duration(TimeUnit::Nanosecond) => {
            whole(array.data_type().clone(), Cell::Nanos)
        }
        D::Timestamp(..) => whole(D::Timestamp(TimeUnit::Microsecond, None), Cell::Ticks),
        D::Time32(_) | D::Time64(_) => whole(D::Time64(TimeUnit::Microsecond), Cell::Ticks),
        D::Duration(_) => whole(D::Duration(TimeUnit::Microsecond), Cell::Ticks),
        D::Date32 => whole(D::Date32, Cell::Ticks),
        // Milliseconds, which Arrow demands to be whole days.
        D::Date64 => whole(D::Date32, Cell::Ticks),
        _ => {
            let numbers = numbers(name, array)?;
            Ok(numbers.iter().map(|value| value.map_or(Cell::Null, Cell::Number)).collect())
        }
    }
}
