//! Events in JSON, one a line.
//!
//! The row is read straight into cells, each column as its own kind: no tree of values is built. Cost: about a microsecond a row of ten columns.

use super::schema::{Given, instant_micros, micros};
use super::{Cell, Event, EventError, MAX_KEY_BYTES, Op, StreamSchema};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// Reads one event.
///
/// ```
/// use nystream_datasets::events::{Cell, Op, StreamSchema, json};
/// # use nystream_datasets::{ColumnInfo, ColumnKind, ColumnSummary, Encoder, EncoderOptions};
/// # let info = |name: &str| ColumnInfo { name: name.into(), kind: ColumnKind::Numeric, integer: false, data_type: "Float64".into() };
/// # let summary = |name| ColumnSummary { count: 3, sd: 2.0, max: 4.0, ..ColumnSummary::empty(&info(name)) };
/// # let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
/// # let encoder = Encoder::fit(&[summary("x"), summary("y")], &options)?;
/// let schema = StreamSchema::of(&encoder)?;
/// let event = json::event(br#"{"op": "update", "key": "a", "row": {"x": 0.5}}"#, &schema).unwrap();
/// assert_eq!((event.op, event.cells), (Op::Update, vec![Cell::Number(0.5), Cell::Null]));
/// let error = json::event(br#"{"key": "b", "row": {"x": "much"}}"#, &schema).unwrap_err();
/// assert_eq!((error.key(), error.to_string().as_str()), (Some("b"), "column 'x' is the text 'much' but a number is needed"));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`EventError::Malformed`] for what is no JSON, no event, or lacks what its operation needs; [`EventError::Type`] for a value of another kind than its column's.
pub fn event(line: &[u8], schema: &StreamSchema) -> Result<Event, EventError> {
    let mut partial = Partial::default();
    let mut reader = serde_json::Deserializer::from_slice(line);
    let read = EventSeed { schema, partial: &mut partial }.deserialize(&mut reader).and_then(|()| reader.end());
    let key = partial.key.take();
    if let Some(error) = partial.refused {
        // Named with the key, wherever the key stands in the line.
        return Err(match error {
            EventError::Type { column, found, expected, .. } => EventError::Type { key, column, found, expected },
            EventError::Malformed { reason, .. } => EventError::Malformed { key, reason },
            error => error,
        });
    }
    let malformed = |key, reason: String| Err(EventError::Malformed { key, reason });
    if let Err(error) = read {
        return malformed(key, error.to_string());
    }
    let Some(key) = key else { return malformed(None, "the event has no \"key\"".into()) };
    let op = partial.op.unwrap_or(Op::Insert);
    let cells = match (op, partial.cells) {
        // A delete needs the key alone; what else it carries is not looked at.
        (Op::Delete, _) => Vec::new(),
        (_, None) => return malformed(Some(key), "the event has no \"row\"".into()),
        (Op::Label, Some(cells)) if !schema.has_target(&cells) => {
            return malformed(Some(key), "a label needs a target that is not null in its \"row\"".into());
        }
        (Op::Insert | Op::Update, Some(_)) if partial.lacking.is_some() => {
            let column = partial.lacking.unwrap_or_default();
            // Read once more, for the names that are there.
            let names = serde_json::from_slice::<serde_json::Value>(line).ok();
            let row = names.as_ref().and_then(|event| event.get("row")).and_then(serde_json::Value::as_object);
            return Err(EventError::absent(
                Some(key),
                &column,
                row.into_iter().flatten().map(|(name, _)| name.as_str()),
            ));
        }
        (_, Some(cells)) => cells,
    };
    Ok(Event { op, key, time: partial.time, weight: partial.weight, cells })
}

/// What has been read of an event. Kept outside of the visitor, so that an error further on still has the key.
#[derive(Default)]
struct Partial {
    op: Option<Op>,
    key: Option<String>,
    time: Option<i64>,
    weight: Option<f64>,
    cells: Option<Vec<Cell>>,
    /// A column that an inserted row must have, and has not.
    lacking: Option<String>,
    refused: Option<EventError>,
}

impl Partial {
    /// The first refusal counts.
    fn refuse(&mut self, reason: String) {
        self.refused.get_or_insert(EventError::Malformed { key: None, reason });
    }
}

/// An event as a line of JSON that reads back as it: for what was refused later. Instants are seconds since 1970, and lose what lies below a microsecond of them.
pub fn text(event: &Event, schema: &StreamSchema) -> String {
    use crate::{ColumnKind, events::Reads};
    use serde_json::{Map, Value, json};
    let mut row = Map::new();
    for (column, cell) in schema.columns().iter().zip(&event.cells) {
        let seconds = |ticks: i64, per: f64| json!(ticks as f64 / per);
        let value = match cell {
            // A target that is not there is null; of another column that would be another thing.
            Cell::Null if column.target => continue,
            Cell::Null => Value::Null,
            Cell::Number(value) if value.is_finite() => json!(value),
            Cell::Number(value) if value.is_nan() => json!("NaN"),
            Cell::Number(value) => json!(if *value > 0.0 { "Infinity" } else { "-Infinity" }),
            Cell::Flag(value) => json!(value),
            Cell::Text(text) => json!(text),
            Cell::Ticks(days) if column.reads == Reads::Value(ColumnKind::Date) => {
                let day = i32::try_from(*days).ok().and_then(arrow_array::types::Date32Type::to_naive_date_opt);
                day.map_or(Value::Null, |day| json!(day.to_string()))
            }
            Cell::Ticks(ticks) => seconds(*ticks, 1e6),
            Cell::Nanos(ticks) => seconds(*ticks, 1e9),
        };
        row.insert(column.name.clone(), value);
    }
    let op = match event.op {
        Op::Insert => "insert",
        Op::Update => "update",
        Op::Delete => "delete",
        Op::Label => "label",
    };
    let mut line = json!({ "op": op, "key": event.key });
    if let Some(time) = event.time {
        line["time"] = json!(time as f64 / 1e6);
    }
    if let Some(weight) = event.weight.filter(|weight| weight.is_finite()) {
        line["weight"] = json!(weight);
    }
    if event.op != Op::Delete {
        line["row"] = Value::Object(row);
    }
    line.to_string()
}

struct EventSeed<'s> {
    schema: &'s StreamSchema,
    partial: &'s mut Partial,
}

impl<'de> DeserializeSeed<'de> for EventSeed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EventSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event, {\"key\": .., \"row\": {..}}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let EventSeed { schema, partial } = self;
        let mut seen: Vec<Cow<'de, str>> = Vec::new();
        while let Some(field) = map.next_key_seed(TextSeed)? {
            if seen.contains(&field) {
                partial.refuse(format!("the field \"{field}\" stands twice"));
            }
            match field.as_ref() {
                "op" => {
                    let name = map.next_value_seed(Plain(|value: Given<'_>| match value {
                        Given::Text("insert") => Some(Some(Op::Insert)),
                        Given::Text("update") => Some(Some(Op::Update)),
                        Given::Text("delete") => Some(Some(Op::Delete)),
                        Given::Text("label") => Some(Some(Op::Label)),
                        Given::Null => Some(None),
                        _ => None,
                    }))?;
                    match name {
                        Some(op) => partial.op = op,
                        None => partial.refuse("\"op\" must be insert, update, delete or label".into()),
                    }
                }
                "key" => {
                    let key = map.next_value_seed(Plain(|value: Given<'_>| match value {
                        Given::Text(text) if !text.is_empty() && text.len() <= MAX_KEY_BYTES => Some(text.to_owned()),
                        Given::Integer(value) => Some(value.to_string()),
                        Given::Large(value) => Some(value.to_string()),
                        _ => None,
                    }))?;
                    match key {
                        Some(key) => partial.key = Some(key),
                        None => {
                            partial.refuse(format!("\"key\" must be an integer or text of 1 to {MAX_KEY_BYTES} bytes"))
                        }
                    }
                }
                "time" => {
                    let time = map.next_value_seed(Plain(|value: Given<'_>| match value {
                        Given::Null => Some(None),
                        Given::Integer(seconds) => seconds.checked_mul(1_000_000).map(Some),
                        Given::Float(seconds) => micros(seconds).map(Some),
                        Given::Text(text) => instant_micros(text).map(Some),
                        _ => None,
                    }))?;
                    match time {
                        Some(time) => partial.time = time,
                        None => partial.refuse("\"time\" must be seconds since 1970 or an instant in ISO 8601".into()),
                    }
                }
                "weight" => {
                    let weight = map.next_value_seed(Plain(|value: Given<'_>| match value {
                        Given::Null => Some(None),
                        Given::Integer(value) => Some(Some(value as f64)),
                        Given::Large(value) => Some(Some(value as f64)),
                        Given::Float(value) => Some(Some(value)),
                        _ => None,
                    }))?;
                    match weight {
                        Some(weight) => partial.weight = weight,
                        None => partial.refuse("\"weight\" must be a number".into()),
                    }
                }
                "row" => map.next_value_seed(RowSeed { schema, partial: &mut *partial })?,
                other => {
                    partial.refuse(format!(
                        "\"{}\" is no field of an event: op, key, time, weight and row are",
                        crate::shown(other)
                    ));
                    map.next_value::<IgnoredAny>()?;
                }
            }
            seen.push(field);
        }
        Ok(())
    }
}

/// The columns of a row; `null` is no row.
struct RowSeed<'s> {
    schema: &'s StreamSchema,
    partial: &'s mut Partial,
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row, {\"column\": value, ..}")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let RowSeed { schema, partial } = self;
        let mut cells = vec![Cell::Null; schema.columns().len()];
        let mut given = vec![false; cells.len()];
        while let Some(name) = map.next_key_seed(TextSeed)? {
            let Some(place) = schema.place(&name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let column = &schema.columns()[place];
            match map.next_value_seed(Plain(|value: Given<'_>| Some(column.cell(value))))? {
                _ if std::mem::replace(&mut given[place], true) => {
                    partial.refuse(format!("the column '{name}' stands twice"));
                }
                Some(Ok(cell)) => cells[place] = cell,
                Some(Err(error)) => {
                    partial.refused.get_or_insert(error);
                }
                None => partial.refuse(format!("column '{name}' holds a list or an object")),
            }
        }
        partial.lacking = schema.lacking(|place| given[place]).map(str::to_owned);
        partial.cells = Some(cells);
        Ok(())
    }
}

/// The name of a field, borrowed where the line has it as it is.
struct TextSeed;

impl<'de> DeserializeSeed<'de> for TextSeed {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for TextSeed {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// A value that is no list and no object, given to a function; lists and objects are `None`.
struct Plain<F>(F);

impl<'de, T, F: FnOnce(Given<'_>) -> Option<T>> DeserializeSeed<'de> for Plain<F> {
    type Value = Option<T>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T, F: FnOnce(Given<'_>) -> Option<T>> Visitor<'de> for Plain<F> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Option<T>, E> {
        Ok((self.0)(Given::Null))
    }
    fn visit_bool<E>(self, value: bool) -> Result<Option<T>, E> {
        Ok((self.0)(Given::Flag(value)))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Option<T>, E> {
        Ok((self.0)(Given::Integer(value)))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Option<T>, E> {
        Ok((self.0)(i64::try_from(value).map_or(Given::Large(value), Given::Integer)))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Option<T>, E> {
        Ok((self.0)(Given::Float(value)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Option<T>, E> {
        Ok((self.0)(Given::Text(value)))
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Option<T>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<T>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}
