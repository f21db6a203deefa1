//! Reading the footer of a Parquet file, distrustfully.
//!
//! The bytes are fetched by position and checked before anything is decoded: magic at both ends,
//! footer length, and afterwards that every column chunk lies inside the file and that row counts add up.
//! Statistics are skipped unless asked for: no pass uses them, and they are most of a footer's memory.

use crate::scan::guarded;
use crate::{DataError, ranged::RangeFile};
use parquet::file::metadata::{
    ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy,
};
use std::path::Path;
use std::sync::Arc;

/// A decoded footer.
#[derive(Clone, Debug)]
pub(crate) struct Footer {
    pub metadata: Arc<ParquetMetaData>,
    /// BLAKE3 of the file's length and footer bytes: tells a file that was replaced.
    pub digest: [u8; 32],
}

const MAGIC: &[u8; 4] = b"PAR1";

/// Reads and checks the footer of `file`, without statistics.
pub(crate) fn read_footer(path: &Path, file: &RangeFile) -> Result<Footer, DataError> {
    read_footer_with(path, file, ParquetStatisticsPolicy::SkipAll, ParquetStatisticsPolicy::SkipAll)
}

/// [`read_footer`] with the sizes that values have in memory, where the writer stated them.
pub(crate) fn read_sized_footer(path: &Path, file: &RangeFile) -> Result<Footer, DataError> {
    read_footer_with(path, file, ParquetStatisticsPolicy::SkipAll, ParquetStatisticsPolicy::KeepAll)
}

/// Reads and checks the footer of `file`, with the statistics of `policy` and the size statistics of `sizes`.
pub(crate) fn read_footer_with(
    path: &Path,
    file: &RangeFile,
    policy: ParquetStatisticsPolicy,
    sizes: ParquetStatisticsPolicy,
) -> Result<Footer, DataError> {
    let size = file.size();
    if size == 0 {
        return Err(DataError::EmptyFile { path: path.into() });
    }
    // The start of an object is one more request, made where its end is not that of a sound file.
    let mut tail = [0u8; 8];
    if file.version().is_some() && size >= 12 {
        file.read_exact_at(path, &mut tail, size - 8)?;
    }
    if &tail[4..] != MAGIC {
        let mut head = [0u8; 4];
        let have = (size as usize).min(4);
        file.read_exact_at(path, &mut head[..have], 0)?;
        if &head == b"PARE" {
            return Err(DataError::Encrypted { path: path.into() });
        }
        if head[..have] != MAGIC[..have] {
            return Err(DataError::NotParquet { path: path.into(), end: "start" });
        }
    }
    let truncated = |reason: &str| DataError::Truncated { path: path.into(), bytes: size, reason: reason.into() };
    if size < 12 {
        return Err(truncated("there is no footer"));
    }
    file.read_exact_at(path, &mut tail, size - 8)?;
    if &tail[4..] != MAGIC {
        return Err(truncated("the closing magic bytes are missing"));
    }
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if length > size - 12 {
        return Err(truncated(&format!("the footer claims {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(path, &mut bytes, size - 8 - length)?;
    let corrupt = |reason: String| DataError::Footer { path: path.into(), reason };
    let mut options = ParquetMetaDataOptions::new();
    options.set_column_stats_policy(policy);
    options.set_size_stats_policy(sizes);
    let metadata = guarded(|| ParquetMetaDataReader::decode_metadata_with_options(&bytes, Some(&options)))
        .map_err(corrupt)?
        .map_err(|e| corrupt(e.to_string()))?;
    check(&metadata, size).map_err(corrupt)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size.to_le_bytes());
    hasher.update(&bytes);
    Ok(Footer { metadata: Arc::new(metadata), digest: *hasher.finalize().as_bytes() })
}

/// What the decoder takes on trust.
fn check(metadata: &ParquetMetaData, size: u64) -> Result<(), String> {
    let mut rows = 0i64;
    for (g, group) in metadata.row_groups().iter().enumerate() {
        if group.num_rows() < 0 {
            return Err(format!("row group {g} has {} rows", group.num_rows()));
        }
        rows = rows.checked_add(group.num_rows()).ok_or("the row counts overflow")?;
        for column in group.columns() {
            let (start, length) = chunk_range(column);
            let end = start.checked_add(length);
            if start < 0 || length < 0 || end.is_none_or(|end| end as u64 > size) {
                let name = column.column_path().string();
                return Err(format!(
                    "row group {g}, column '{name}' claims bytes {start}+{length} of a file of {size} bytes"
                ));
            }
            if column.column_descr().max_rep_level() == 0 && column.num_values() != group.num_rows() {
                let name = column.column_path().string();
                let (values, rows) = (column.num_values(), group.num_rows());
                return Err(format!("row group {g}, column '{name}' has {values} values for {rows} rows"));
            }
        }
    }
    let stated = metadata.file_metadata().num_rows();
    if stated != rows {
        return Err(format!("it states {stated} rows, its row groups {rows}"));
    }
    Ok(())
}

/// First byte and length of a column chunk. The library's own accessor asserts that both are positive.
pub(crate) fn chunk_range(column: &ColumnChunkMetaData) -> (i64, i64) {
    let start = match column.dictionary_page_offset() {
        Some(offset) if offset < column.data_page_offset() => offset,
        _ => column.data_page_offset(),
    };
    (start, column.compressed_size())
}
