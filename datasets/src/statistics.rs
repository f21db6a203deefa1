//! Nulls and ranges of columns as the writers of the files stated them; no page is read.
//!
//! Statements, not measurements: they are for people (`nystream inspect`), and no pass or model depends on them. What any row group
//! leaves open, or states of a shortened text, is unknown for the column. Ranges are compared as `f64`, so integers
//! beyond 2^53 may be taken for one another.
//!
//! Memory: the footer of one file at a time, with its statistics.

use crate::catalog::arrow_metadata;
use crate::column::{ColumnInfo, NumericColumn, TextColumn};
use crate::footer::read_footer_with;
use crate::ranged::RangeFile;
use crate::scan::guarded;
use crate::{Catalog, ColumnKind, DataError};
use arrow_array::{Array, ArrayRef};
use arrow_cast::display::array_value_to_string;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::{ParquetMetaData, ParquetStatisticsPolicy};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What the files state of one column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnStatistics {
    /// Nulls in all files.
    pub nulls: Option<u64>,
    /// Smallest value, as text.
    pub min: Option<String>,
    /// Largest value, as text.
    pub max: Option<String>,
}

/// The statistics of every column of `catalog`, in its order.
///
/// # Errors
/// Files that can no longer be read, or changed since the catalog was opened.
///
/// ```
/// use nystream_datasets::{Catalog, Sources, make, statistics};
/// let folder = tempfile::tempdir().unwrap();
/// make::make(&"synth:twoclass?rows=5000&d=2".parse()?, folder.path(), &make::MakeOptions::default(), |_, _| {})?;
/// let catalog = Catalog::open(&Sources::parse(&[folder.path().to_str().unwrap()])?)?;
/// let y = &statistics(&catalog)?[2];
/// assert_eq!((y.nulls, y.min.as_deref(), y.max.as_deref()), (Some(0), Some("0"), Some("1")));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
pub fn statistics(catalog: &Catalog) -> Result<Vec<ColumnStatistics>, DataError> {
    let mut folds: Vec<Fold> = catalog.columns.iter().map(|_| Fold::default()).collect();
    for file in catalog.files.iter() {
        if file.synth.is_some() {
            // Made without nulls; the range is not known without making the rows.
            folds.iter_mut().for_each(|fold| fold.open = true);
            continue;
        }
        let source = RangeFile::again(file, Arc::new(AtomicU64::new(0)))?;
        let footer =
            read_footer_with(&file.path, &source, ParquetStatisticsPolicy::KeepAll, ParquetStatisticsPolicy::SkipAll)?;
        if footer.digest != file.digest {
            return Err(DataError::Changed { path: file.path.clone() });
        }
        let arrow = arrow_metadata(&file.path, &footer)?;
        for (fold, info) in folds.iter_mut().zip(catalog.columns.iter()) {
            // Statistics that do not decode are as good as none: the data may still be sound.
            let added = guarded(|| fold.add(info, &arrow, &footer.metadata)).ok().flatten();
            if added.is_none() {
                fold.nulls = None;
                fold.open = true;
            }
        }
    }
    Ok(folds.into_iter().map(Fold::finish).collect())
}

/// A value as a key to compare by, and as text to show.
struct Extreme {
    key: Key,
    text: String,
}

#[derive(PartialEq, PartialOrd)]
enum Key {
    Number(f64),
    Text(String),
}

/// The statistics of one column so far.
struct Fold {
    nulls: Option<u64>,
    min: Option<Extreme>,
    max: Option<Extreme>,
    /// Whether the range of some rows is unknown.
    open: bool,
}

impl Default for Fold {
    fn default() -> Self {
        Fold { nulls: Some(0), min: None, max: None, open: false }
    }
}

impl Fold {
    /// Adds the row groups of one file; `None` when their statistics cannot be had.
    fn add(&mut self, info: &ColumnInfo, arrow: &ArrowReaderMetadata, metadata: &ParquetMetaData) -> Option<()> {
        if !info.kind.is_usable() || info.kind == ColumnKind::Null {
            return None;
        }
        let schema = metadata.file_metadata().schema_descr();
        let converter = StatisticsConverter::try_new(&info.name, arrow.schema(), schema)
            .ok()?
            .with_missing_null_counts_as_zero(false)
            .with_column_orders(metadata.file_metadata().column_orders().map(Vec::as_slice));
        let groups = metadata.row_groups();
        let leaf = converter.parquet_column_index()?;
        let required = schema.column(leaf).max_def_level() == 0;
        let nulls = converter.row_group_null_counts(groups).ok()?;
        let (mins, maxes) = (converter.row_group_mins(groups).ok()?, converter.row_group_maxes(groups).ok()?);
        let exact_min = converter.row_group_is_min_value_exact(groups).ok()?;
        let exact_max = converter.row_group_is_max_value_exact(groups).ok()?;
        let shortened = |exact: &arrow_array::BooleanArray, g: usize| exact.is_valid(g) && !exact.value(g);
        for (g, group) in groups.iter().enumerate() {
            let stated = if required { Some(0) } else { nulls.is_valid(g).then(|| nulls.value(g)) };
            self.nulls = self.nulls.zip(stated).map(|(all, more)| all + more);
            if group.num_rows() == 0 || stated == Some(group.num_rows() as u64) {
                continue;
            }
            let known = !shortened(&exact_min, g) && !shortened(&exact_max, g);
            let (Some(min), Some(max)) = (extreme(info, &mins, g), extreme(info, &maxes, g)) else {
                self.open = true;
                continue;
            };
            self.open |= !known;
            if self.min.as_ref().is_none_or(|old| min.key < old.key) {
                self.min = Some(min);
            }
            if self.max.as_ref().is_none_or(|old| max.key > old.key) {
                self.max = Some(max);
            }
        }
        Some(())
    }

    fn finish(self) -> ColumnStatistics {
        let show = |extreme: Option<Extreme>| extreme.filter(|_| !self.open).map(|extreme| extreme.text);
        ColumnStatistics { nulls: self.nulls, min: show(self.min), max: show(self.max) }
    }
}

/// Entry `g` of an array of minima or maxima.
fn extreme(info: &ColumnInfo, values: &ArrayRef, g: usize) -> Option<Extreme> {
    if values.is_null(g) {
        return None;
    }
    let key = if info.kind == ColumnKind::Text {
        Key::Text(TextColumn::new(&info.name, values).ok()?.get(g)?.to_string())
    } else {
        Key::Number(NumericColumn::new(&info.name, values).ok()?.iter().nth(g)??)
    };
    let text = match &key {
        Key::Text(text) => text.clone(),
        // Writers state a least zero as -0, since they do not tell the two apart.
        Key::Number(0.0) => array_value_to_string(values, g).ok()?.trim_start_matches('-').to_string(),
        Key::Number(_) => array_value_to_string(values, g).ok()?,
    };
    Some(Extreme { key, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sources;
    use arrow_array::{BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::{EnabledStatistics, WriterProperties};
    use std::path::Path;

    fn batch(first: i64) -> RecordBatch {
        let texts = [Some(format!("city {first}")), None, Some("b".to_string())];
        RecordBatch::try_from_iter_with_nullable([
            ("i", Arc::new(Int64Array::from(vec![Some(first), None, Some(-first)])) as ArrayRef, true),
            ("f", Arc::new(Float64Array::from(vec![f64::NAN, 0.5, first as f64])), true),
            ("t", Arc::new(StringArray::from_iter(texts)), true),
            ("b", Arc::new(BooleanArray::from(vec![Some(true), Some(true), None])), true),
            ("w", Arc::new(TimestampMillisecondArray::from(vec![Some(first * 1000), None, None])), true),
            ("n", Arc::new(Float64Array::from(vec![None, None, None])), true),
            ("z", Arc::new(Float64Array::from(vec![0.0, 0.0, 4.0])), true),
        ])
        .unwrap()
    }

    fn write(path: &Path, firsts: &[i64], enabled: EnabledStatistics) {
        let properties = WriterProperties::builder().set_statistics_enabled(enabled).build();
        let file = std::fs::File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch(0).schema(), Some(properties)).unwrap();
        for first in firsts {
            writer.write(&batch(*first)).unwrap();
            writer.flush().unwrap();
        }
        writer.close().unwrap();
    }

    fn read(folder: &Path) -> Vec<(Option<u64>, Option<String>, Option<String>)> {
        let catalog = Catalog::open(&Sources::parse(&[folder.to_str().unwrap()]).unwrap()).unwrap();
        statistics(&catalog).unwrap().into_iter().map(|s| (s.nulls, s.min, s.max)).collect()
    }

    #[test]
    fn row_groups_and_files_are_put_together() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("a.parquet"), &[3, 90], EnabledStatistics::Chunk);
        write(&folder.path().join("b.parquet"), &[7], EnabledStatistics::Chunk);
        let text = |t: &str| Some(t.to_string());
        let expected = [
            (Some(3), text("-90"), text("90")),
            (Some(0), text("0.5"), text("90.0")),
            (Some(3), text("b"), text("city 90")),
            (Some(3), text("true"), text("true")),
            (Some(6), text("1970-01-01T00:00:03"), text("1970-01-01T00:01:30")),
            (Some(9), None, None),
            (Some(0), text("0.0"), text("4.0")),
        ];
        assert_eq!(read(folder.path()), expected);
        // One file without statistics leaves everything open.
        write(&folder.path().join("c.parquet"), &[1], EnabledStatistics::None);
        assert!(read(folder.path()).iter().all(|(_, min, max)| min.is_none() && max.is_none()));
        assert_eq!(read(folder.path())[0].0, None);
    }

    #[test]
    fn shortened_texts_are_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let long = RecordBatch::try_from_iter([("t", Arc::new(StringArray::from(vec!["x".repeat(500)])) as ArrayRef)]);
        let file = std::fs::File::create(folder.path().join("a.parquet")).unwrap();
        let long = long.unwrap();
        let mut writer = ArrowWriter::try_new(file, long.schema(), None).unwrap();
        writer.write(&long).unwrap();
        writer.close().unwrap();
        assert_eq!(read(folder.path()), [(Some(0), None, None)]);
    }

    #[test]
    fn synthetic_sources_have_no_nulls_and_no_stated_range() {
        let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=10&d=1"]).unwrap()).unwrap();
        let none = ColumnStatistics { nulls: Some(0), min: None, max: None };
        assert_eq!(statistics(&catalog).unwrap(), [none.clone(), none]);
    }
}
