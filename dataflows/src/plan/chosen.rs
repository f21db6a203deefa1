//! Memory of the last pass of `dictionary`: the chosen rows, with all columns that the data has.
//!
//! The pass decodes every column, those too that nothing is chosen by, a block of 2,048 rows at a time; what the fit before it held is free again. The rows that were found come together in the first process, where they are several
//! times in different forms: as pieces, as one batch, as bytes on their way and again as rows, at most [`COPIES`] at once. Footers give the mean length of text in the row group where that is greatest; that chosen rows have longer
//! ones on the average they do not tell.

use super::decoding::Decoding;
use super::memory::{MemoryPlan, WORKER_BYTES, program_bytes};
use super::size::Reading;
use nystream_datasets::{BLOCK_ROWS, Catalog, RowPicker};

/// Forms in which the rows are held at once: in a worker its pieces, one batch of them and its bytes, which may have room for as much again; in the first process bytes, pieces and one batch.
const COPIES: u64 = 4;
/// Bytes of a value in a batch beside its text: eight, or an offset of text, and whether it is null.
const VALUE: u64 = 9;
/// Bytes of rows that are read a block at a time.
const LONG_ROW: usize = 16 << 20;

/// What the chosen rows of a catalog take.
#[derive(Clone, Debug)]
pub struct ChosenRows {
    decoding: Decoding,
    /// Bytes of a block's values in a worker.
    block: u64,
    /// Bytes of a row.
    row: u64,
}

impl ChosenRows {
    /// Of rows of `catalog` that are known by their place, or by `id_column`.
    pub fn new(catalog: &Catalog, id_column: Option<&str>, workers: usize) -> Self {
        let mut names = RowPicker::columns(catalog);
        names.extend(id_column.map(str::to_owned));
        let numbered = catalog.columns.iter().enumerate();
        let projection: Vec<usize> =
            numbered.filter(|(_, info)| names.contains(&info.name)).map(|(index, _)| index).collect();
        // A block at a time, however short its rows are.
        let decoding = Decoding::new(catalog, &projection, LONG_ROW, workers);
        let rows = Reading::rows_in_hand(BLOCK_ROWS, catalog.total_rows, workers);
        let values = VALUE.saturating_mul(projection.len() as u64);
        let text = projection.iter().map(|index| catalog.column_bytes(*index).text).fold(0, u64::saturating_add);
        ChosenRows { decoding, block: rows.saturating_mul(values), row: values.saturating_add(text) }
    }

    /// Memory of a process with `workers` threads for `m` of them.
    pub(super) fn memory(&self, m: usize, workers: usize) -> MemoryPlan {
        let mut plan = MemoryPlan::default();
        plan.add("program and Parquet decoding", program_bytes(workers));
        // A dozen columns are in what every worker has.
        let columns = self.block.saturating_sub(WORKER_BYTES / 2).saturating_mul(workers as u64);
        if columns > 0 {
            plan.add("all columns of the data", columns);
        }
        self.decoding.add_to(&mut plan, workers);
        let rows = (m as u64).saturating_mul(self.row).saturating_mul(COPIES);
        plan.add(format!("the {m} chosen rows, with all columns of the data"), rows);
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
    use nystream_datasets::Sources;
    use nystream_datasets::sink::PredictionWriter;
    use std::sync::Arc;

    /// 3,000 rows of numbers, and of a text of `length` bytes.
    fn catalog(folder: &std::path::Path, numbers: usize, length: usize) -> Catalog {
        let path = folder.join(format!("{numbers}-{length}.parquet"));
        let number =
            |k: usize| -> ArrayRef { Arc::new(Float64Array::from_iter_values((0..3000).map(|i| (i * k) as f64))) };
        let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..3000).map(|i| format!("{i:0length$}"))));
        let mut columns: Vec<(String, ArrayRef)> = (0..numbers).map(|k| (format!("x{k}"), number(k))).collect();
        columns.push(("text".into(), text));
        let mut writer = PredictionWriter::create(&path).unwrap();
        writer.write(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        writer.finish().unwrap();
        Catalog::open(&Sources::parse(&[path.to_str().unwrap()]).unwrap()).unwrap()
    }

    /// Bytes beyond the program's.
    fn beyond(catalog: &Catalog, m: usize, workers: usize) -> u64 {
        ChosenRows::new(catalog, None, workers).memory(m, workers).total() - program_bytes(workers)
    }

    #[test]
    fn rows_count_by_all_of_their_columns() {
        let folder = tempfile::tempdir().unwrap();
        let (narrow, long) = (catalog(folder.path(), 3, 10), catalog(folder.path(), 3, 10_000));
        assert!(beyond(&narrow, 100, 2) < 1 << 20, "{}", beyond(&narrow, 100, 2));
        // 20 MB of text in a block, and 1,000 rows of 10 KB in four forms.
        let (block, rows) = (beyond(&long, 0, 1), beyond(&long, 1000, 1) - beyond(&long, 0, 1));
        assert!((30 << 20..120 << 20).contains(&block), "{block}");
        assert!((40_000_000..40_400_000).contains(&rows), "{rows}");
        let error = ChosenRows::new(&long, None, 1).memory(2000, 1).check(100 << 20).unwrap_err().to_string();
        assert!(error.contains("the 2000 chosen rows, with all columns of the data"), "{error}");
        // Many columns are decoded at once.
        let wide = catalog(folder.path(), 2000, 10);
        assert!(beyond(&wide, 0, 2) > 2 * (25 << 20), "{}", beyond(&wide, 0, 2));
        // A key that is no column of its own adds nothing.
        let keyed = ChosenRows::new(&narrow, Some("text"), 1).memory(100, 1);
        assert_eq!(keyed, ChosenRows::new(&narrow, None, 1).memory(100, 1));
    }
}
