//! Input columns carried to an output as they are.
//!
//! All files of a data set need one type for a kept column, which the catalog does not promise (it compares kinds): text becomes plain UTF-8,
//! Arrow dictionaries their values, and where files differ integers become 64-bit, other numbers 64-bit floats, and instants take the finest
//! unit. What cannot be represented is an error that names the column; nothing is rounded silently but integers among floats.

use crate::catalog::{CatalogFile, arrow_metadata};
use crate::column::is_integer;
use crate::footer::read_footer;
use crate::ranged::RangeFile;
use crate::sink::plain_column;
use crate::{Catalog, ColumnKind, DataError};
use arrow_array::ArrayRef;
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, TimeUnit};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The columns that `--keep` names, with their types in the output.
///
/// ```
/// use nystream_datasets::{Catalog, Sources, kept::KeptColumns};
/// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=10&d=2"])?)?;
/// let kept = KeptColumns::new(&catalog, &["y".into()])?;
/// assert_eq!((kept.indices(), kept.fields()[0].name().as_str()), (vec![2], "y"));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct KeptColumns {
    columns: Vec<(usize, Field)>,
}

impl KeptColumns {
    /// Finds `names` in `catalog`; `*` is every column not named before it. A name given twice counts once.
    ///
    /// Cost: the footer of every file, when anything is kept.
    ///
    /// # Errors
    /// A column that is not there, or has types that cannot be joined; a file that can no longer be read.
    pub fn new(catalog: &Catalog, names: &[String]) -> Result<Self, DataError> {
        let mut indices: Vec<usize> = Vec::new();
        for name in names {
            let found = match name.as_str() {
                "*" if !catalog.columns.iter().any(|info| info.name == "*") => (0..catalog.columns.len()).collect(),
                name => vec![catalog.column(name, "--keep")?],
            };
            for index in found {
                if !indices.contains(&index) {
                    indices.push(index);
                }
            }
        }
        let mut types: Vec<DataType> = vec![DataType::Null; indices.len()];
        if !indices.is_empty() {
            for file in catalog.files.iter() {
                for ((joined, found), index) in types.iter_mut().zip(file_types(file, &indices)?).zip(&indices) {
                    *joined = join(joined, &found).ok_or_else(|| DataError::ColumnType {
                        column: catalog.columns[*index].name.clone(),
                        found: format!("{found} in '{}' and {joined} before", file.path.display()),
                        expected: "one type in all files",
                        role: "--keep",
                    })?;
                }
            }
        }
        let field = |(index, data_type): (usize, DataType)| {
            (index, Field::new(catalog.columns[index].name.clone(), data_type, true))
        };
        Ok(KeptColumns { columns: indices.into_iter().zip(types).map(field).collect() })
    }

    /// Indices into [`Catalog::columns`], each once.
    pub fn indices(&self) -> Vec<usize> {
        self.columns.iter().map(|(index, _)| *index).collect()
    }

    /// Names and types in the output, all nullable.
    pub fn fields(&self) -> Vec<Field> {
        self.columns.iter().map(|(_, field)| field.clone()).collect()
    }

    /// Column number `k` of the kept ones as read from some file, in its type in the output.
    ///
    /// ```
    /// use arrow_schema::DataType;
    /// use nystream_datasets::{BlockReader, Catalog, ReadOptions, Sources, kept::KeptColumns};
    /// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=10&d=1&categories=1"])?)?;
    /// let kept = KeptColumns::new(&catalog, &["c0".into()])?;
    /// let runs = catalog.partition(1, 0);
    /// for batch in BlockReader::new(&catalog, runs, &kept.indices(), ReadOptions::default()) {
    ///     let read = batch?.batch.column(0).clone();
    ///     // Text is read as a dictionary, and written as what it says.
    ///     assert!(matches!(read.data_type(), DataType::Dictionary(..)));
    ///     let written = kept.convert(0, &read)?;
    ///     assert_eq!((written.data_type(), written.len()), (kept.fields()[0].data_type(), 10));
    ///     assert_eq!(written.data_type(), &DataType::Utf8);
    /// }
    /// # Ok::<(), nystream_datasets::DataError>(())
    /// ```
    ///
    /// # Errors
    /// [`DataError::ColumnType`] for a value that this type cannot hold.
    ///
    /// # Panics
    /// If there is no such kept column.
    pub fn convert(&self, k: usize, array: &ArrayRef) -> Result<ArrayRef, DataError> {
        let field = &self.columns[k].1;
        let plain = plain_column(field.name(), array)?;
        if plain.data_type() == field.data_type() {
            return Ok(plain);
        }
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(&plain, field.data_type(), &strict).map_err(|error| DataError::ColumnType {
            column: field.name().clone(),
            found: format!("{} in one file and {} in others ({error})", plain.data_type(), field.data_type()),
            expected: "one type in all files",
            role: "--keep",
        })
    }
}

/// The plain types of columns `indices` in `file`.
fn file_types(file: &CatalogFile, indices: &[usize]) -> Result<Vec<DataType>, DataError> {
    let schema = match &file.synth {
        Some(spec) => spec.schema(),
        None => {
            let path = &file.path;
            let ranged = RangeFile::again(file, Arc::new(AtomicU64::new(0)))?;
            let footer = read_footer(path, &ranged)?;
            if footer.digest != file.digest {
                return Err(DataError::Changed { path: path.clone() });
            }
            arrow_metadata(path, &footer)?.schema().clone()
        }
    };
    Ok(indices.iter().map(|index| plain(schema.field(file.columns[*index]).data_type())).collect())
}

fn plain(data_type: &DataType) -> DataType {
    match data_type {
        found if ColumnKind::of(found) == ColumnKind::Text => DataType::Utf8,
        DataType::Dictionary(_, value) => (**value).clone(),
        found => found.clone(),
    }
}

/// A type for the values of both.
fn join(a: &DataType, b: &DataType) -> Option<DataType> {
    let float = |t: &DataType| matches!(t, DataType::Float16 | DataType::Float32 | DataType::Float64);
    match (a, b) {
        _ if a == b => Some(a.clone()),
        (DataType::Null, other) | (other, DataType::Null) => Some(other.clone()),
        _ if is_integer(a) && is_integer(b) => Some(DataType::Int64),
        _ if (is_integer(a) || float(a)) && (is_integer(b) || float(b)) => Some(DataType::Float64),
        (DataType::Timestamp(p, zone), DataType::Timestamp(q, other)) if zone == other => {
            Some(DataType::Timestamp(finer(*p, *q), zone.clone()))
        }
        _ => None,
    }
}

fn finer(a: TimeUnit, b: TimeUnit) -> TimeUnit {
    let rank = |unit: TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    };
    if rank(a) >= rank(b) { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::PredictionWriter;
    use crate::{BlockReader, ReadOptions, Sources};
    use arrow_array::types::Int32Type;
    use arrow_array::{
        Array, BooleanArray, DictionaryArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray,
        TimestampMillisecondArray, TimestampSecondArray, UInt64Array,
    };
    use std::path::Path;

    fn write(folder: &Path, name: &str, columns: Vec<(&str, ArrayRef)>) {
        let columns = columns.into_iter().map(|(name, array)| (name, array, true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let mut writer = PredictionWriter::create(&folder.join(name)).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
    }

    fn open(folder: &Path) -> Catalog {
        Catalog::open(&Sources::parse(&[folder.to_str().unwrap()]).unwrap()).unwrap()
    }

    fn read(catalog: &Catalog, kept: &KeptColumns) -> Result<Vec<Vec<ArrayRef>>, DataError> {
        let reader = BlockReader::new(catalog, catalog.partition(1, 0), &kept.indices(), ReadOptions::default());
        reader
            .map(|raw| raw?.batch.columns().iter().enumerate().map(|(k, array)| kept.convert(k, array)).collect())
            .collect()
    }

    #[test]
    fn files_with_different_types_get_one() {
        let folder = tempfile::tempdir().unwrap();
        let text: DictionaryArray<Int32Type> = [Some("b"), None].into_iter().collect();
        write(
            folder.path(),
            "a.parquet",
            vec![
                ("i", Arc::new(Int32Array::from(vec![Some(-1), None]))),
                ("f", Arc::new(Float32Array::from(vec![0.5, 1.5]))),
                ("t", Arc::new(TimestampSecondArray::from(vec![1, 2]))),
                ("s", Arc::new(StringArray::from(vec![Some("a"), None]))),
                ("flag", Arc::new(BooleanArray::from(vec![true, false]))),
            ],
        );
        write(
            folder.path(),
            "b.parquet",
            vec![
                ("i", Arc::new(UInt64Array::from(vec![7, 8]))),
                ("f", Arc::new(Int64Array::from(vec![3, 4]))),
                ("t", Arc::new(TimestampMillisecondArray::from(vec![2500, 3500]))),
                ("s", Arc::new(text)),
                ("flag", Arc::new(BooleanArray::from(vec![None, Some(true)]))),
            ],
        );
        let catalog = open(folder.path());
        let kept = KeptColumns::new(&catalog, &["s".into(), "*".into(), "f".into()]).unwrap();
        let fields = kept.fields();
        let names: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
        assert_eq!(names, ["s", "i", "f", "t", "flag"]);
        let batches = read(&catalog, &kept).unwrap();
        assert_eq!(batches.len(), 2);
        for batch in &batches {
            for (array, field) in batch.iter().zip(&fields) {
                assert_eq!(array.data_type(), field.data_type());
            }
        }
        let is = |array: &ArrayRef, expected: &dyn Array| assert_eq!(array.as_ref(), expected);
        is(&batches[0][0], &StringArray::from(vec![Some("a"), None]));
        is(&batches[1][0], &StringArray::from(vec![Some("b"), None]));
        is(&batches[0][1], &Int64Array::from(vec![Some(-1), None]));
        is(&batches[1][1], &Int64Array::from(vec![7, 8]));
        is(&batches[1][2], &arrow_array::Float64Array::from(vec![3.0, 4.0]));
        is(&batches[0][3], &TimestampMillisecondArray::from(vec![1000, 2000]));
        is(&batches[1][4], &BooleanArray::from(vec![None, Some(true)]));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a.parquet", vec![("i", Arc::new(Int32Array::from(vec![1])))]);
        write(folder.path(), "b.parquet", vec![("i", Arc::new(UInt64Array::from(vec![u64::MAX])))]);
        let catalog = open(folder.path());
        let error = KeptColumns::new(&catalog, &["j".into()]).unwrap_err().to_string();
        assert!(error.contains("'j'") && error.contains("--keep") && error.contains("'i'"), "{error}");
        let kept = KeptColumns::new(&catalog, &["i".into()]).unwrap();
        let error = read(&catalog, &kept).unwrap_err().to_string();
        assert!(error.contains("'i'") && error.contains("UInt64"), "{error}");
        assert!(KeptColumns::new(&catalog, &[]).unwrap().fields().is_empty());
    }
}
