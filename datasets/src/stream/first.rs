//! The first rows of a stream of lines as a table, before any model says what their columns are.
//!
//! Where a row without a column is refused later, it is none of the first ones either: columns are those that more than half of the rows have (one that fewer have is misspelt, or not for a model that needs all), and rows without
//! one of them are left out.
//!
//! A column holds numbers where every value is one, true or false where every value is that, and text otherwise; columns stand in the order in which they first appear, and the key is none of them.

use super::{MAX_LINE, SourceError};
use crate::events::lines::{Line, next_line};
use arrow_array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::{Field, Schema};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

/// At most `most` rows of the file `path` that have all `targets`; with `whole`, of those the ones that have all columns that most of them have. Lines that are no event are left to whoever reads the stream itself. And what was left
/// out, in words.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("a.jsonl");
/// std::fs::write(&path, r#"{"key": 1, "row": {"x": 2, "color": "red", "y": 0.5}}
/// {"key": 2, "row": {"x": 3, "color": 7}}
/// {"key": 3, "row": {"color": null, "ok": true, "y": "NaN"}}"#)?;
/// let first_rows = nystream_datasets::stream::first::first_rows;
/// let (rows, _) = first_rows(path.to_str().unwrap(), 10, &["y".into()], false).unwrap();
/// let kinds: Vec<_> = rows.schema().fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
/// assert_eq!((rows.num_rows(), kinds.join(", ").as_str()), (2, "color Utf8, x Float64, y Float64, ok Boolean"));
/// // What one of two has is nothing that most have.
/// let (rows, left) = first_rows(path.to_str().unwrap(), 10, &["y".into()], true).unwrap();
/// assert_eq!((rows.num_rows(), rows.num_columns()), (2, 2));
/// assert_eq!(left.unwrap(), "columns that half of the first rows or fewer have are left out (ok, x)");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// A file that cannot be read.
pub fn first_rows(
    path: &str,
    most: usize,
    targets: &[String],
    whole: bool,
) -> Result<(RecordBatch, Option<String>), SourceError> {
    let mut rows = objects(path, most, targets)?;
    let left = if whole { keep_whole(&mut rows) } else { None };
    let table = table(&rows).map_err(|error| SourceError::Spec(format!("{path}: {error}")))?;
    Ok((table, left))
}

/// Leaves out columns that half of the rows or fewer have, and then rows without one of the others; what was left out.
fn keep_whole(rows: &mut Vec<Map<String, Value>>) -> Option<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in rows.iter().flat_map(Map::keys) {
        match counts.get_mut(name) {
            Some(count) => *count += 1,
            None => drop(counts.insert(name.clone(), 1)),
        }
    }
    let all = rows.len();
    let (kept, rare): (BTreeMap<String, usize>, BTreeMap<String, usize>) =
        counts.into_iter().partition(|(_, count)| 2 * count > all);
    rows.retain(|row| kept.keys().all(|name| row.contains_key(name)));
    for row in rows.iter_mut() {
        row.retain(|name, _| kept.contains_key(name));
    }
    let mut left = Vec::new();
    if !rare.is_empty() {
        let names: Vec<&str> = rare.keys().map(String::as_str).take(10).collect();
        left.push(format!("columns that half of the first rows or fewer have are left out ({})", names.join(", ")));
    }
    if rows.len() < all {
        left.push(format!("{} of the first {all} rows are without a column that most have", all - rows.len()));
    }
    (!left.is_empty()).then(|| left.join("; "))
}

fn objects(path: &str, most: usize, targets: &[String]) -> Result<Vec<Map<String, Value>>, SourceError> {
    let io = |source| SourceError::Io { name: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let (mut line, mut read, mut rows) = (Vec::new(), 0, Vec::new());
    while rows.len() < most {
        match next_line(&mut reader, MAX_LINE, &mut line, &mut read).map_err(io)? {
            Line::End => break,
            Line::TooLong { .. } => {}
            Line::Whole | Line::Last => {
                let Ok(Value::Object(mut event)) = serde_json::from_slice(&line) else { continue };
                let insert = event.get("op").is_none_or(|op| op == "insert") && event.contains_key("key");
                let (true, Some(Value::Object(row))) = (insert, event.remove("row")) else { continue };
                let there = |target: &String| row.get(target).is_some_and(|value| !value.is_null());
                if targets.iter().all(there) {
                    rows.push(row);
                }
            }
        }
    }
    Ok(rows)
}

fn table(rows: &[Map<String, Value>]) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let mut names: Vec<&str> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for name in rows.iter().flat_map(Map::keys) {
        places.entry(name).or_insert_with(|| {
            names.push(name);
            names.len() - 1
        });
    }
    let values = |name: &str| rows.iter().map(|row| row.get(name).unwrap_or(&Value::Null)).collect::<Vec<_>>();
    let columns: Vec<ArrayRef> = names.iter().map(|name| column(&values(name))).collect();
    let fields: Vec<Field> =
        names.iter().zip(&columns).map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

fn column(values: &[&Value]) -> ArrayRef {
    let all = |is: fn(&Value) -> bool| values.iter().all(|value| value.is_null() || is(value));
    let number = |value: &Value| value.is_number() || matches!(value.as_str(), Some("NaN" | "Infinity" | "-Infinity"));
    if all(number) {
        let numbers = values.iter().map(|value| value.as_f64().or_else(|| value.as_str()?.parse().ok()));
        return Arc::new(numbers.collect::<Float64Array>());
    }
    if all(Value::is_boolean) {
        return Arc::new(values.iter().map(|value| value.as_bool()).collect::<BooleanArray>());
    }
    let text = |value: &&Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    Arc::new(values.iter().map(text).collect::<StringArray>())
}
