//! Input columns carried to an output as they are.
//!
//! All files of a data set need one type for a kept column, which the catalog does not promise (it compares kinds): text becomes plain UTF-8,
//! Arrow dictionaries their values, and where files differ integers become 64-bit, decimals wide ones of the largest scale, other numbers 64-bit floats, and instants, times
//! and durations take the finest unit, instants of different zones UTC. What cannot be represented is an error that names the column; nothing is rounded silently but integers among floats.
//!
//! Where files are spread over hosts each process joins the types of those that it sees, and all join what all found ([`KeptColumns::join`]): joining knows no order.

use crate::catalog::{CatalogFile, arrow_metadata};
use crate::column::is_integer;
use crate::footer::read_footer;
use crate::ranged::RangeFile;
use crate::sink::plain_column;
use crate::{Catalog, ColumnKind, DataError};
use arrow_array::ArrayRef;
use arrow_cast::{CastOptions, cast_with_options};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DECIMAL256_MAX_PRECISION, DataType, Field, Schema, TimeUnit};
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
#[derive(Clone, Debug, PartialEq)]
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
        Self::of_files(catalog, names, &|_| true)
    }

    /// [`KeptColumns::new`] with the types of the files alone whose numbers `sees` is true of: a column that none of them has is [`DataType::Null`].
    ///
    /// ```
    /// use arrow_schema::DataType;
    /// use nystream_datasets::{Catalog, Sources, kept::KeptColumns};
    /// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=10&d=2"])?)?;
    /// // One process sees the file, another does not: what both found is what one that sees all of them finds.
    /// let (one, other) = (KeptColumns::of_files(&catalog, &["y".into()], &|_| true)?, KeptColumns::of_files(&catalog, &["y".into()], &|_| false)?);
    /// assert_eq!(other.fields()[0].data_type(), &DataType::Null);
    /// let both = other.clone().join([(one.to_bytes()?, "first".into()), (other.to_bytes()?, "second".into())])?;
    /// assert_eq!(both, KeptColumns::new(&catalog, &["y".into()])?);
    /// # Ok::<(), nystream_datasets::DataError>(())
    /// ```
    ///
    /// # Errors
    /// As there.
    pub fn of_files(catalog: &Catalog, names: &[String], sees: &dyn Fn(usize) -> bool) -> Result<Self, DataError> {
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
            for file in (0..catalog.files.len()).filter(|file| sees(*file)).map(|file| &catalog.files[file]) {
                for ((joined, found), index) in types.iter_mut().zip(file_types(file, &indices)?).zip(&indices) {
                    let place = || format!("'{}'", file.path.display());
                    *joined = joined_type(joined, &found, &catalog.columns[*index].name, &place)?;
                }
            }
        }
        let field = |(index, data_type): (usize, DataType)| {
            (index, Field::new(catalog.columns[index].name.clone(), data_type, true))
        };
        Ok(KeptColumns { columns: indices.into_iter().zip(types).map(field).collect() })
    }

    /// Names and types, for other processes.
    ///
    /// # Errors
    /// [`DataError::Encode`] for a type that Arrow cannot write.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::new();
        StreamWriter::try_new(&mut bytes, &Schema::new(self.fields()))
            .and_then(|mut writer| writer.finish())
            .map_err(exchanged)?;
        Ok(bytes)
    }

    /// These columns with the types that all processes found together: what each sent by [`KeptColumns::to_bytes`], and how messages name it.
    ///
    /// # Errors
    /// Types that cannot be joined; bytes that are damaged or of other columns.
    pub fn join(mut self, all: impl IntoIterator<Item = (Vec<u8>, String)>) -> Result<Self, DataError> {
        let mut types: Vec<DataType> = vec![DataType::Null; self.columns.len()];
        for (bytes, host) in all {
            let schema = StreamReader::try_new(bytes.as_slice(), None).map_err(exchanged)?.schema();
            if schema.fields().len() != types.len() {
                return Err(exchanged(ArrowError::SchemaError(format!(
                    "{host} sent {} columns",
                    schema.fields().len()
                ))));
            }
            for ((joined, found), (_, field)) in types.iter_mut().zip(schema.fields()).zip(&self.columns) {
                *joined = joined_type(joined, found.data_type(), field.name(), &|| format!("the files of {host}"))?;
            }
        }
        for ((_, field), found) in self.columns.iter_mut().zip(types) {
            *field = Field::new(field.name().clone(), found, true);
        }
        Ok(self)
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

fn exchanged(error: ArrowError) -> DataError {
    DataError::Encode { path: "types of columns".into(), reason: error.to_string() }
}

/// A type for the values of both, in column `name`; `found` is that of `place`.
fn joined_type(
    known: &DataType,
    found: &DataType,
    name: &str,
    place: &dyn Fn() -> String,
) -> Result<DataType, DataError> {
    join(known, found).ok_or_else(|| DataError::ColumnType {
        column: name.to_owned(),
        found: format!("{found} in {} and {known} before", place()),
        expected: "one type in all files",
        role: "--keep",
    })
}

/// A type for the values of both.
fn join(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType as D;
    let float = |t: &DataType| matches!(t, D::Float16 | D::Float32 | D::Float64);
    let scale = |t: &DataType| match t {
        D::Decimal32(_, scale) | D::Decimal64(_, scale) | D::Decimal128(_, scale) | D::Decimal256(_, scale) => {
            Some(*scale)
        }
        _ => None,
    };
    let number = |t: &DataType| is_integer(t) || float(t) || scale(t).is_some();
    let scales = scale(a).zip(scale(b));
    match (a, b) {
        _ if a == b => Some(a.clone()),
        (DataType::Null, other) | (other, DataType::Null) => Some(other.clone()),
        _ if is_integer(a) && is_integer(b) => Some(DataType::Int64),
        _ if number(a) && number(b) => match scales {
            Some((p, q)) => Some(D::Decimal256(DECIMAL256_MAX_PRECISION, p.max(q))),
            None => Some(D::Float64),
        },
        (D::Timestamp(p, zone), D::Timestamp(q, other)) => {
            // An instant without a zone is one of UTC, as for the encoder.
            let zone = if zone == other { zone.clone() } else { Some("+00:00".into()) };
            Some(D::Timestamp(finer(*p, *q), zone))
        }
        (D::Date32 | D::Date64, D::Date32 | D::Date64) => Some(D::Date64),
        (D::Time32(p) | D::Time64(p), D::Time32(q) | D::Time64(q)) => {
            Some(D::Time64(finer(finer(*p, *q), TimeUnit::Microsecond)))
        }
        (D::Duration(p), D::Duration(q)) => Some(D::Duration(finer(*p, *q))),
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

    /// Whichever host's files come first, all processes find one type.
    #[test]
    fn types_join_in_any_order() {
        use DataType as D;
        let utc = |unit| D::Timestamp(unit, Some("+00:00".into()));
        let families = [
            vec![D::Null, D::Int8, D::UInt32, D::Int64, D::Float32, D::Decimal128(10, 2), D::Float64],
            vec![D::Decimal128(10, 2), D::Null, D::Decimal128(12, 4), D::Decimal64(8, 1)],
            vec![
                D::Timestamp(TimeUnit::Second, None),
                utc(TimeUnit::Millisecond),
                D::Timestamp(TimeUnit::Microsecond, Some("Europe/Paris".into())),
            ],
            vec![D::Date32, D::Date64, D::Null],
            vec![D::Time32(TimeUnit::Second), D::Time64(TimeUnit::Nanosecond), D::Time32(TimeUnit::Millisecond)],
            vec![D::Duration(TimeUnit::Second), D::Duration(TimeUnit::Millisecond)],
        ];
        let ends = [
            D::Float64,
            D::Decimal256(76, 4),
            utc(TimeUnit::Microsecond),
            D::Date64,
            D::Time64(TimeUnit::Nanosecond),
            D::Duration(TimeUnit::Millisecond),
        ];
        let all = |types: &[D]| types.iter().try_fold(D::Null, |known, found| join(&known, found));
        for (types, end) in families.iter().zip(&ends) {
            for turn in 0..types.len() {
                let mut turned = types.clone();
                turned.rotate_left(turn);
                assert_eq!(all(&turned).as_ref(), Some(end), "{turned:?}");
                turned.reverse();
                assert_eq!(all(&turned).as_ref(), Some(end), "{turned:?}");
                // Found apart, and then together.
                let (one, other) = turned.split_at(turn);
                let apart = join(&all(one).unwrap(), &all(other).unwrap());
                assert_eq!(apart.as_ref(), Some(end), "{one:?} and {other:?}");
            }
        }
        assert_eq!(join(&D::Utf8, &D::Int8), None);
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
