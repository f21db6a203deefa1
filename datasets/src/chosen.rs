//! Rows picked out by their identity, with their original columns: what a file of centers holds.
//!
//! One pass over the raw rows: each of several readers has a [`RowPicker`] for its blocks, and [`picked_rows`] puts together what they found, in the order of the wanted ids. All files give
//! one type to a column ([`KeptColumns`]), so the rows depend neither on who read what nor on which rows were wanted.
//!
//! Memory: one batch and the picked rows, twice where they are put together; batches are not kept alive by the rows taken from them.

use crate::kept::KeptColumns;
use crate::{Catalog, ColumnKind, DataError, RawBatch, TextColumn};
use arrow_array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array, cast::AsArray, types::UInt64Type};
use arrow_ipc::{reader::StreamReader, writer::StreamWriter};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::{concat::concat_batches, take::take_record_batch};
use nystream_hashing::RowId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Picks rows out of some blocks of a data set. Text is plain text.
///
/// Ids are those of [`crate::Encoder::encode`]: of (file, ordinal), or of a key column where one is given.
///
/// ```
/// use nystream_datasets::{BlockReader, Catalog, ReadOptions, RowPicker, Sources, kept::KeptColumns, picked_rows};
/// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=2"])?)?;
/// let ids = [4999, 7, 2048].map(|ordinal| catalog.files[0].id.row(ordinal));
/// let kept = KeptColumns::new(&catalog, &RowPicker::columns(&catalog))?;
/// let mut found = Vec::new();
/// for reader in 0..2 {
///     let mut picker = RowPicker::new(&catalog, kept.clone(), None, &ids)?;
///     for raw in BlockReader::new(&catalog, catalog.partition(2, reader), picker.projection(), ReadOptions::default()) {
///         picker.pick(&raw?)?;
///     }
///     found.push(picker.finish()?);
/// }
/// let rows = picked_rows(&kept, ids.len(), &found)?;
/// assert_eq!((rows.num_rows(), rows.num_columns()), (3, 3));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
pub struct RowPicker {
    kept: KeptColumns,
    projection: Vec<usize>,
    /// The key column: where it is in a batch, and its name.
    key: Option<(usize, String)>,
    wanted: BTreeMap<RowId, usize>,
    positions: Vec<u64>,
    pieces: Vec<RecordBatch>,
}

impl RowPicker {
    /// The columns of `catalog` that a file of rows can have: all but nested and binary ones.
    pub fn columns(catalog: &Catalog) -> Vec<String> {
        catalog.columns.iter().filter(|info| !unsupported(info.kind)).map(|info| info.name.clone()).collect()
    }

    /// Looks for the rows with the given `ids`, of which it takes the columns `kept`.
    ///
    /// # Errors
    /// A key column that is not there.
    pub fn new(
        catalog: &Catalog,
        kept: KeptColumns,
        id_column: Option<&str>,
        ids: &[RowId],
    ) -> Result<Self, DataError> {
        let mut projection = kept.indices();
        let key = match id_column {
            None => None,
            Some(name) => {
                let column = catalog.column(name, "row key")?;
                let at = projection.iter().position(|i| *i == column).unwrap_or_else(|| {
                    projection.push(column);
                    projection.len() - 1
                });
                Some((at, name.to_owned()))
            }
        };
        let wanted = ids.iter().copied().zip(0..).collect();
        Ok(RowPicker { kept, projection, key, wanted, positions: Vec::new(), pieces: Vec::new() })
    }

    /// The columns that [`RowPicker::pick`] needs.
    pub fn projection(&self) -> &[usize] {
        &self.projection
    }

    /// Whether nothing more is wanted.
    pub fn is_done(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Takes the wanted rows of `raw`, which was read with [`RowPicker::projection`].
    ///
    /// # Errors
    /// Keys that are no text; a value that the column's type cannot hold.
    pub fn pick(&mut self, raw: &RawBatch) -> Result<(), DataError> {
        let text = match &self.key {
            Some((at, name)) => Some(TextColumn::new(name, raw.batch.column(*at).as_ref())?),
            None => None,
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
            if let Some(position) = self.wanted.remove(&id) {
                self.positions.push(position as u64);
                picked.push(i as u32);
            }
        }
        if !picked.is_empty() {
            let rows = take_record_batch(&raw.batch, &UInt32Array::from(picked)).map_err(failed)?;
            let columns = rows.columns().iter().take(self.kept.indices().len()).enumerate();
            let columns = columns.map(|(k, array)| self.kept.convert(k, array)).collect::<Result<_, _>>()?;
            self.pieces.push(RecordBatch::try_new(schema(&self.kept), columns).map_err(failed)?);
        }
        Ok(())
    }

    /// What was found, for [`picked_rows`].
    ///
    /// # Errors
    /// [`DataError::Encode`].
    pub fn finish(self) -> Result<Vec<u8>, DataError> {
        let rows = concat_batches(&schema(&self.kept), &self.pieces).map_err(failed)?;
        let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(self.positions))];
        columns.extend(rows.columns().iter().cloned());
        let rows = RecordBatch::try_new(with_positions(&self.kept), columns).map_err(failed)?;
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new(&mut bytes, &rows.schema()).map_err(failed)?;
        writer.write(&rows).and_then(|()| writer.finish()).map_err(failed)?;
        Ok(bytes)
    }
}

/// The rows that all readers found by [`RowPicker::finish`], in the order of the `wanted` ids.
///
/// # Errors
/// An id that no row has (the data changed since it was read); damaged bytes.
pub fn picked_rows(kept: &KeptColumns, wanted: usize, found: &[Vec<u8>]) -> Result<RecordBatch, DataError> {
    let schema = with_positions(kept);
    let mut pieces = Vec::new();
    for bytes in found {
        for piece in StreamReader::try_new(bytes.as_slice(), None).map_err(failed)? {
            pieces.push(piece.map_err(failed)?);
        }
    }
    let all = concat_batches(&schema, &pieces).map_err(failed)?;
    drop(pieces);
    let mut rows: BTreeMap<u64, u32> = BTreeMap::new();
    for (row, position) in (0..).zip(all.column(0).as_primitive::<UInt64Type>().values()) {
        rows.entry(*position).or_insert(row);
    }
    if rows.len() != wanted {
        let gone = wanted.saturating_sub(rows.len());
        return Err(failed(format!("{gone} of {wanted} chosen rows are no longer in the data")));
    }
    let own: Vec<usize> = (1..all.num_columns()).collect();
    let all = all.project(&own).map_err(failed)?;
    take_record_batch(&all, &UInt32Array::from_iter_values(rows.into_values())).map_err(failed)
}

fn schema(kept: &KeptColumns) -> SchemaRef {
    Arc::new(Schema::new(kept.fields()))
}

/// Each row's position among the wanted ids, then its columns.
fn with_positions(kept: &KeptColumns) -> SchemaRef {
    let position = Field::new("position", DataType::UInt64, false);
    Arc::new(Schema::new(std::iter::once(position).chain(kept.fields()).collect::<Vec<_>>()))
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
    use crate::{BlockReader, ReadOptions, Sources, sink::PredictionWriter};
    use arrow_array::{Array, Int32Array, Int64Array, StringArray, types::Int64Type};

    /// As `readers` find them, one after the other.
    fn chosen_rows(
        catalog: &Catalog,
        id_column: Option<&str>,
        ids: &[RowId],
        readers: usize,
    ) -> Result<RecordBatch, DataError> {
        let kept = KeptColumns::new(catalog, &RowPicker::columns(catalog))?;
        let mut found = Vec::new();
        for reader in 0..readers {
            let mut picker = RowPicker::new(catalog, kept.clone(), id_column, ids)?;
            let runs = catalog.partition(readers, reader);
            for raw in BlockReader::new(catalog, runs, picker.projection(), ReadOptions::default()) {
                picker.pick(&raw?)?;
            }
            found.push(picker.finish()?);
        }
        picked_rows(&kept, ids.len(), &found)
    }

    /// Two files that differ in the width of their integers, the narrow one first; the first column is a key.
    fn catalog(folder: &std::path::Path) -> Catalog {
        let text = |from: i64, to: i64| -> ArrayRef {
            Arc::new((from..to).map(|i| (i % 3 > 0).then(|| format!("t{}", i % 7))).collect::<StringArray>())
        };
        let wide: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5000));
        let narrow: ArrayRef = Arc::new(Int32Array::from_iter_values(5000..6000));
        for (name, key, text) in [("b.parquet", wide, text(0, 5000)), ("a.parquet", narrow, text(5000, 6000))] {
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
            0..5000 => catalog.files[1].id.row(*key as u64),
            _ => catalog.files[0].id.row((*key - 5000) as u64),
        };
        let by_position = chosen_rows(&catalog, None, &wanted.each_ref().map(own), 1).unwrap();
        for readers in 1..4 {
            let ids = wanted.map(|key| RowId::from_key(&key.to_string()));
            assert_eq!(by_position, chosen_rows(&catalog, Some("key"), &ids, readers).unwrap(), "{readers} readers");
        }
        let by_key = by_position;
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
        let error = chosen_rows(&catalog(folder.path()), None, &[RowId(1)], 2).unwrap_err().to_string();
        assert!(error.contains("1 of 1 chosen rows"), "{error}");
    }
}
