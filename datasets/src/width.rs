//! How many bytes the columns of a file take while they are decoded, from its footer alone.
//!
//! What a footer does not say is taken at what writers do: pages and dictionaries of at most 1 MiB each, or of 1,024 values, after which writers first
//! look at the size. Text without size statistics counts as it is stored, which is less than it is worth where values repeat.

use parquet::basic::{Compression, Type};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use serde::{Deserialize, Serialize};

/// Bytes of a page or a dictionary.
pub const PAGE_BYTES: u64 = 1 << 20;
/// Values after which a writer first looks whether a page or dictionary is full.
const PAGE_VALUES: u64 = 1024;

/// Bytes of one column, the largest over the row groups that were looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnBytes {
    /// Mean bytes of a value, in the row group where it is largest.
    pub value: u64,
    /// Of those, bytes of text.
    pub text: u64,
    /// Page and dictionary in hand while the column is decoded.
    pub pages: u64,
    /// As stored, in one row group: what is fetched of an object. 0 for files on a disk.
    pub fetched: u64,
}

impl ColumnBytes {
    /// A column of a synthetic source, of numbers or of short text: nothing is decoded.
    pub(crate) fn generated(text: bool) -> Self {
        let text = if text { 16 } else { 0 };
        ColumnBytes { value: 8 + text, text, pages: 0, fetched: 0 }
    }

    /// The larger of both, number by number.
    pub(crate) fn larger(self, other: ColumnBytes) -> ColumnBytes {
        ColumnBytes {
            value: self.value.max(other.value),
            text: self.text.max(other.text),
            pages: self.pages.max(other.pages),
            fetched: self.fetched.max(other.fetched),
        }
    }

    fn plus(self, other: ColumnBytes) -> ColumnBytes {
        ColumnBytes {
            value: self.value.saturating_add(other.value),
            text: self.text.saturating_add(other.text),
            pages: self.pages.saturating_add(other.pages),
            fetched: self.fetched.saturating_add(other.fetched),
        }
    }
}

/// The bytes of each of the `columns` root columns of a file.
pub(crate) fn column_bytes(metadata: &ParquetMetaData, columns: usize) -> Vec<ColumnBytes> {
    let schema = metadata.file_metadata().schema_descr();
    let mut all = vec![ColumnBytes::default(); columns];
    for group in metadata.row_groups() {
        let rows = group.num_rows().max(1) as u64;
        let mut sums = vec![ColumnBytes::default(); columns];
        for (leaf, chunk) in group.columns().iter().enumerate() {
            if let Some(sum) = sums.get_mut(schema.get_column_root_idx(leaf)) {
                *sum = sum.plus(chunk_bytes(chunk, rows));
            }
        }
        all.iter_mut().zip(sums).for_each(|(all, sum)| *all = all.larger(sum));
    }
    all
}

fn chunk_bytes(chunk: &ColumnChunkMetaData, rows: u64) -> ColumnBytes {
    let count = |bytes: i64| bytes.max(0) as u64;
    let stored = count(chunk.uncompressed_size());
    let values = count(chunk.num_values()).div_ceil(rows).max(1);
    let text = match chunk.column_descr().physical_type() {
        Type::BYTE_ARRAY => chunk.unencoded_byte_array_data_bytes().map_or(stored, count).div_ceil(rows),
        _ => 0,
    };
    let fixed = match chunk.column_descr().physical_type() {
        Type::FIXED_LEN_BYTE_ARRAY | Type::INT96 => 16,
        _ => 8,
    };
    let page = PAGE_BYTES.max(text.saturating_mul(PAGE_VALUES));
    let compressed = match chunk.compression() {
        Compression::UNCOMPRESSED => 0,
        _ => count(chunk.compressed_size()).min(page),
    };
    ColumnBytes {
        value: text.saturating_add(fixed * values),
        text,
        pages: stored.min(page.saturating_mul(2)).saturating_add(compressed),
        fetched: count(chunk.compressed_size()),
    }
}

#[cfg(test)]
mod tests {
    use crate::sink::PredictionWriter;
    use crate::{Catalog, Sources};
    use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
    use std::sync::Arc;

    #[test]
    fn text_counts_as_it_will_be_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let long = "x".repeat(1000);
        let columns: [(&str, ArrayRef); 3] = [
            ("n", Arc::new(Float64Array::from_iter_values((0..4000).map(f64::from)))),
            ("same", Arc::new(StringArray::from_iter_values((0..4000).map(|_| long.as_str())))),
            ("short", Arc::new(StringArray::from_iter_values((0..4000).map(|i| format!("{i}"))))),
        ];
        let mut writer = PredictionWriter::create(&path).unwrap();
        writer.write(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        writer.finish().unwrap();
        let catalog = Catalog::open(&Sources::parse(&[path.to_str().unwrap()]).unwrap()).unwrap();
        let [number, same, short] = [0, 1, 2].map(|index| catalog.column_bytes(index));
        assert_eq!((number.value, number.text), (8, 0));
        assert!(number.pages > 8 * 4000 && number.pages < 20 * 4000, "{number:?}");
        // One value in the dictionary of the file, a thousand bytes a row in an array.
        assert_eq!((same.value, same.text), (1008, 1000));
        assert!(same.pages < 10_000 && (8..14).contains(&short.value), "{same:?} {short:?}");
        let synth = Catalog::open(&Sources::parse(&["synth:sines?rows=10&d=2"]).unwrap()).unwrap();
        assert_eq!(synth.column_bytes(0), super::ColumnBytes { value: 8, text: 0, pages: 0, fetched: 0 });
    }
}
