//! Rows picked out by their identity, with their original columns: what a file of centers holds.
//!
//! One pass over the raw rows. Memory: one batch and the picked rows; batches are not kept alive by the rows taken from them.

use crate::{BlockReader, Catalog, ColumnKind, DataError, ReadOptions, TextColumn, sink};
use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::Schema;
use arrow_select::{concat::concat_batches, take::take_record_batch};
use nystream_hashing::RowId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The rows of `catalog` with the given `ids`, in the order of `ids`, with all columns but nested and binary ones. Text is plain text.
///
/// Ids are those of [`crate::Encoder::encode`]: of (file, ordinal), or of `id_column` where it is given.
///
/// ```
/// use nystream_datasets::{Catalog, Sources, chosen_rows};
/// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=2"])?)?;
/// let ids = [4999, 7, 2048].map(|ordinal| catalog.files[0].id.row(ordinal));
/// let rows = chosen_rows(&catalog, None, &ids)?;
/// assert_eq!((rows.num_rows(), rows.num_columns()), (3, 3));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// Unreadable data, or an id that no row has (the data changed since it was read).
pub fn chosen_rows(catalog: &Catalog, id_column: Option<&str>, ids: &[RowId]) -> Result<RecordBatch, DataError> {
    let mut projection: Vec<usize> =
        (0..catalog.columns.len()).filter(|i| !unsupported(catalog.columns[*i].kind)).collect();
    let key = match id_column {
        None => None,
        Some(name) => {
            let column = catalog.column(name, "row key")?;
            Some(projection.iter().position(|i| *i == column).unwrap_or_else(|| {
                projection.push(column);
                projection.len() - 1
            }))
        }
    };
    let mut wanted: BTreeMap<RowId, usize> = ids.iter().copied().zip(0..).collect();
    // Position among `ids` of every row of `pieces`, in order.
    let (mut positions, mut pieces): (Vec<usize>, Vec<RecordBatch>) = Default::default();
    let runs = catalog.runs(0, catalog.blocks());
    // All columns are read, long text among them: few rows at a time.
    let read = ReadOptions { blocks_per_batch: 1, ..ReadOptions::default() };
    for raw in BlockReader::new(catalog, runs, &projection, read) {
        let raw = raw?;
        let text = match (key, id_column) {
            (Some(k), Some(name)) => Some(TextColumn::new(name, raw.batch.column(k).as_ref())?),
            _ => None,
        };
        let mut picked: Vec<u32> = Vec::new();
        for i in 0..raw.batch.num_rows() {
            let id = match &text {
                None => raw.file_id.row(raw.first_ordinal + i as u64),
                Some(text) => match text.get(i) {
                    Some(key) => RowId::from_key(key),
                    None => continue,
                },
            };
            if let Some(position) = wanted.remove(&id) {
                positions.push(position);
                picked.push(i as u32);
            }
        }
        if !picked.is_empty() {
            let rows = take_record_batch(&raw.batch, &UInt32Array::from(picked)).map_err(failed)?;
            pieces.push(like(rows, pieces.first())?);
        }
        if wanted.is_empty() {
            break;
        }
    }
    let (Some(first), true) = (pieces.first(), wanted.is_empty()) else {
        let reason = format!("{} of {} chosen rows are no longer in the data", wanted.len(), ids.len());
        return Err(failed(reason));
    };
    let all = concat_batches(&first.schema(), &pieces).map_err(failed)?;
    let mut order: Vec<u32> = (0..positions.len() as u32).collect();
    order.sort_by_key(|i| positions[*i as usize]);
    take_record_batch(&all, &UInt32Array::from(order)).map_err(failed)
}

/// `rows` with text written out and, files being allowed to differ in width of numbers, the types of `first`.
fn like(rows: RecordBatch, first: Option<&RecordBatch>) -> Result<RecordBatch, DataError> {
    let schema = rows.schema();
    let mut fields = Vec::with_capacity(rows.num_columns());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(rows.num_columns());
    for (k, (field, array)) in schema.fields().iter().zip(rows.columns()).enumerate() {
        let mut array = sink::plain_column(field.name(), array)?;
        if let Some(first) = first {
            array = arrow_cast::cast(&array, first.column(k).data_type()).map_err(failed)?;
        }
        fields.push(field.as_ref().clone().with_data_type(array.data_type().clone()).with_nullable(true));
        columns.push(array);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(failed)
}

fn unsupported(kind: ColumnKind) -> bool {
    matches!(kind, ColumnKind::Nested | ColumnKind::Binary | ColumnKind::Other)
}

fn failed(reason: impl std::fmt::Display) -> DataError {
    DataError::Encode { path: "the chosen rows".into(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sources, sink::PredictionWriter};
    use arrow_array::{Array, Int32Array, Int64Array, StringArray, cast::AsArray, types::Int64Type};

    /// Two files that differ in the width of their integers; the first column is a key.
    fn catalog(folder: &std::path::Path) -> Catalog {
        let text = |from: i64, to: i64| -> ArrayRef {
            Arc::new((from..to).map(|i| (i % 3 > 0).then(|| format!("t{}", i % 7))).collect::<StringArray>())
        };
        let wide: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5000));
        let narrow: ArrayRef = Arc::new(Int32Array::from_iter_values(5000..6000));
        for (name, key, text) in [("a.parquet", wide, text(0, 5000)), ("b.parquet", narrow, text(5000, 6000))] {
            let mut writer = PredictionWriter::create(&folder.join(name)).unwrap();
            writer.write(&RecordBatch::try_from_iter([("key", key), ("text", text)]).unwrap()).unwrap();
            writer.finish().unwrap();
        }
        Catalog::open(&Sources::parse(&[folder.to_str().unwrap()]).unwrap()).unwrap()
    }

    #[test]
    fn rows_come_in_the_order_of_their_ids_by_position_and_by_key() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog(folder.path());
        let wanted = [5999i64, 0, 4097, 5000, 2047, 1];
        let own = |key: &i64| match key {
            0..5000 => catalog.files[0].id.row(*key as u64),
            _ => catalog.files[1].id.row((*key - 5000) as u64),
        };
        let by_position = chosen_rows(&catalog, None, &wanted.each_ref().map(own)).unwrap();
        let by_key = chosen_rows(&catalog, Some("key"), &wanted.map(|key| RowId::from_key(&key.to_string()))).unwrap();
        assert_eq!(by_position, by_key);
        let keys = by_key.column(0).as_primitive::<Int64Type>();
        assert_eq!(keys.values().to_vec(), wanted);
        let text = by_key.column(1).as_string::<i32>();
        for (i, key) in wanted.iter().enumerate() {
            assert_eq!(text.is_valid(i), key % 3 > 0);
            assert!(text.is_null(i) || text.value(i) == format!("t{}", key % 7));
        }
    }

    #[test]
    fn a_row_that_is_gone_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = chosen_rows(&catalog(folder.path()), None, &[RowId(1)]).unwrap_err().to_string();
        assert!(error.contains("1 of 1 chosen rows"), "{error}");
    }
}
