//! Predictions of rows in JSON.

use super::http::Response;
use super::{By, most_rows, without_targets};
use nystream_dataflows::online::serving::Serving;
use nystream_dataflows::online::session::Output;
use nystream_dataflows::online::sink::Shape;
use nystream_datasets::events::{Event, EventError, json};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use std::fmt;

/// What is asked.
#[derive(Deserialize)]
struct Asked {
    row: Option<Row>,
    rows: Option<Vec<Row>>,
    as_of: Option<u64>,
}

/// A row as it was written, and a column that it has twice: [`Value`] would keep the last of two.
struct Row {
    value: Value,
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;
        impl<'de> Visitor<'de> for Columns {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row, {\"column\": value, ..}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let (mut columns, mut twice) = (Map::new(), None);
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if columns.insert(name.clone(), value).is_some() {
                        twice.get_or_insert(name);
                    }
                }
                Ok(Row { value: Value::Object(columns), twice })
            }
        }
        deserializer.deserialize_map(Columns)
    }
}

/// Answers rows in their order.
pub fn predict(by: &By<'_>, body: &[u8]) -> Response {
    let asked: Asked = match serde_json::from_slice(body) {
        Ok(asked) => asked,
        Err(error) if error.is_data() => return Response::error(400, &format!("the body is no request: {error}")),
        Err(error) => return Response::error(400, &format!("the body is no JSON: {error}")),
    };
    let rows = match (asked.row, asked.rows) {
        (Some(row), None) => vec![row],
        (None, Some(rows)) => rows,
        _ => return Response::error(400, "give {\"row\": {..}} or {\"rows\": [{..}, ..]}"),
    };
    by.answer(asked.as_of, |serving| answer(serving, &rows))
}

fn answer(serving: &Serving, rows: &[Row]) -> Response {
    let most = most_rows(serving);
    if rows.len() > most {
        return Response::error(413, &format!("{} rows, and at most {most} are answered at once", rows.len()));
    }
    // As events, so that a row is read as the stream's are.
    let mut events: Vec<Result<Event, String>> = Vec::with_capacity(rows.len());
    for (i, Row { value, twice }) in rows.iter().enumerate() {
        if let Some(name) = twice {
            events.push(Err(format!("the column '{name}' stands twice")));
            continue;
        }
        let event = json!({ "key": "row", "row": value }).to_string();
        let event = json::event(event.as_bytes(), serving.encoding().schema());
        // Whoever asks so does so for every row: it is the request that is wrong.
        if let Err(error @ EventError::Absent { .. }) = &event {
            return Response::error(400, &format!("row {i}: {error}"));
        }
        events.push(event.map(|event| without_targets(serving, event)).map_err(|error| error.to_string()));
    }
    let good: Vec<Event> = events.iter().flatten().cloned().collect();
    let mut predicted = match serving.predict(&good) {
        Ok(predicted) => predicted.into_iter(),
        Err(error) => return Response::error(500, &error.to_string()),
    };
    let shape = Shape::new(serving.function());
    let line = |event: &Result<Event, String>| {
        let found = match event {
            Err(reason) => Err(reason.clone()),
            Ok(_) => predicted
                .next()
                .map_or(Err("not predicted".to_owned()), |found| found.map_err(|fault| fault.to_string())),
        };
        match found {
            Err(reason) => json!({ "error": reason }),
            Ok(prediction) => {
                let mut row = shape.json(&Output { seq: 0, key: String::new(), prediction });
                if let Value::Object(fields) = &mut row {
                    fields.retain(|name, _| name != "seq" && name != "key");
                }
                row
            }
        }
    };
    let lines: Vec<Value> = events.iter().map(line).collect();
    Response::json(&json!({ "changes": serving.changes, "predictions": lines }))
}
