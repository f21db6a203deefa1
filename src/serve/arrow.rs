//! Predictions of Arrow IPC streams.

use super::By;
use super::http::Response;
use arrow_array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray};
use nystream_dataflows::online::serving::Serving;
use nystream_datasets::events::{Event, EventError, arrow};
use nystream_datasets::stream::ipc::{contents, stream_of};
use std::collections::HashMap;
use std::sync::Arc;

/// How such bodies are called.
pub const CONTENT_TYPE: &str = "application/vnd.apache.arrow.stream";

/// In the metadata of a schema: as of which change the model is to be, or is.
const AS_OF: &str = "as_of";
const CHANGES: &str = "changes";

/// Answers rows in one batch, in their order; those that cannot be used have nulls, and the reason in the column `error`.
pub fn predict(by: &By<'_>, body: &[u8]) -> Response {
    let refused = |reason: String| Response::error(400, &reason);
    // A stream without a batch has a schema, and asks for a model all the same.
    let (schema, batches) = match contents(body) {
        Ok(contents) => contents,
        Err(reason) => return refused(reason),
    };
    let as_of = schema.as_ref().and_then(|schema| schema.metadata().get(AS_OF));
    let as_of = match as_of.map(|text| text.trim().parse::<u64>()).transpose() {
        Ok(as_of) => as_of,
        Err(_) => return refused(format!("'{AS_OF}' in the metadata of the schema is no number of changes")),
    };
    by.answer(as_of, |serving| match table(serving, batches).and_then(|table| stream_of(&table)) {
        Ok(bytes) => Response::bytes(CONTENT_TYPE, bytes),
        Err(reason) => refused(reason),
    })
}

fn table(serving: &Serving, batches: Vec<RecordBatch>) -> Result<RecordBatch, String> {
    let mut events: Vec<Result<Event, String>> = Vec::new();
    let most = super::most_rows(serving);
    for batch in batches {
        if events.len() + batch.num_rows() > most {
            return Err(format!("more than {most} rows: ask in parts"));
        }
        let keyed = keyed(&batch, serving.encoding().schema().key_column())?;
        let found = arrow::events(&keyed, serving.encoding().schema()).map_err(|error| error.to_string())?;
        if let Some(Err(error @ EventError::Absent { .. })) = found.first() {
            return Err(error.to_string());
        }
        let event = |event: Result<Event, EventError>| {
            event.map(|event| super::without_targets(serving, event)).map_err(|error| error.to_string())
        };
        events.extend(found.into_iter().map(event));
    }
    let good: Vec<Event> = events.iter().flatten().cloned().collect();
    let mut predicted = serving.predict(&good).map_err(|error| error.to_string())?.into_iter();
    let value = |event: &Result<Event, String>| match event {
        Err(reason) => Err(reason.clone()),
        Ok(_) => match predicted.next() {
            Some(found) => found.map(|prediction| prediction.values).map_err(|fault| fault.to_string()),
            None => Err("not predicted".to_owned()),
        },
    };
    let values: Vec<Result<Vec<f64>, String>> = events.iter().map(value).collect();
    let code = &serving.function().code;
    let column = |k: usize| {
        Arc::new(values.iter().map(|row| row.as_ref().ok().map(|row| row[k])).collect::<Float64Array>()) as ArrayRef
    };
    let names: Vec<String> = match (code.is_classification(), code.names.as_slice()) {
        (true, _) => code.classes.iter().map(|class| format!("score_{class}")).collect(),
        (false, [_]) => vec!["prediction".into()],
        (false, names) => names.iter().map(|name| format!("prediction_{name}")).collect(),
    };
    let errors = values.iter().map(|row| row.as_ref().err()).collect::<StringArray>();
    let columns = names.iter().enumerate().map(|(k, name)| (name.as_str(), column(k), true));
    let columns = columns.chain([("error", Arc::new(errors) as ArrayRef, true)]);
    let found = RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| error.to_string())?;
    let told = HashMap::from([(CHANGES.to_owned(), serving.changes.to_string())]);
    let schema = found.schema().as_ref().clone().with_metadata(told);
    found.with_schema(Arc::new(schema)).map_err(|error| error.to_string())
}

/// With a column of keys, which predictions do not need and events have.
fn keyed(batch: &RecordBatch, key: &str) -> Result<RecordBatch, String> {
    if batch.column_by_name(key).is_some_and(|keys| keys.null_count() == 0) {
        return Ok(batch.clone());
    }
    let keys = Arc::new(StringArray::from(vec!["row"; batch.num_rows()])) as ArrayRef;
    let schema = batch.schema();
    let own =
        schema.fields().iter().zip(batch.columns()).filter(|(field, _)| field.name() != key && field.name() != "op");
    let columns = own.map(|(field, array)| (field.name().as_str(), array.clone(), true)).chain([(key, keys, false)]);
    RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| error.to_string())
}
