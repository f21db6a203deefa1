//! Writing a synthetic source to Parquet files (`nystream datasets make`).

use crate::sink::ParquetFile;
use crate::synth::{Generator, SynthSpec};
use crate::{BLOCK_ROWS, DataError};
use std::path::{Path, PathBuf};

/// Rows of one row group of a generated file: 64 sum blocks.
const GROUP_ROWS: usize = 64 * BLOCK_ROWS as usize;
/// Rows generated at a time.
const BATCH_ROWS: u64 = 4 * BLOCK_ROWS;

/// Writes the rows of `spec` to `files` files `part-00000.parquet ..` in `folder`, which is made if absent.
///
/// Row i of the source is row i of the files read in order; row counts of the files differ by at most one. `progress` gets
/// (rows written, rows in all) after each batch. Memory: one row group.
///
/// # Errors
/// When the folder holds Parquet files already, or something cannot be written; each file appears whole or not at all.
///
/// ```
/// let folder = tempfile::tempdir().unwrap();
/// let spec = "synth:sines?rows=5000&d=3".parse()?;
/// let paths = nystream_datasets::make::make(&spec, folder.path(), 2, |_, _| {})?;
/// assert_eq!(paths.len(), 2);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
pub fn make(
    spec: &SynthSpec,
    folder: &Path,
    files: usize,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<PathBuf>, DataError> {
    let fail = |source| DataError::Write { path: folder.to_path_buf(), source };
    std::fs::create_dir_all(folder).map_err(fail)?;
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".parquet") || name.ends_with(".pq") {
            let reason = format!("it already holds '{name}', which would be mixed with the new files");
            return Err(fail(std::io::Error::new(std::io::ErrorKind::AlreadyExists, reason)));
        }
    }
    let generator = Generator::new(spec);
    let all: Vec<usize> = (0..generator.schema().fields().len()).collect();
    let files = files.max(1) as u64;
    let mut paths = Vec::new();
    for file in 0..files {
        let cut = |i: u64| (u128::from(spec.rows) * u128::from(i) / u128::from(files)) as u64;
        let (mut next, end) = (cut(file), cut(file + 1));
        let path = folder.join(format!("part-{file:05}.parquet"));
        let mut writer = ParquetFile::plain(&path, generator.schema(), GROUP_ROWS)?;
        while next < end {
            let rows = BATCH_ROWS.min(end - next);
            let batch = generator
                .batch(next, rows as usize, &all)
                .map_err(|e| DataError::Encode { path: path.clone(), reason: e.to_string() })?;
            writer.write(&batch)?;
            next += rows;
            progress(next, spec.rows);
        }
        writer.finish()?;
        paths.push(path);
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockReader, Catalog, NumericColumn, ReadOptions, Sources, TextColumn};

    fn read(source: &str) -> (Vec<f64>, Vec<String>) {
        let catalog = Catalog::open(&Sources::parse(&[source]).unwrap()).unwrap();
        let all: Vec<usize> = (0..catalog.columns.len()).collect();
        let (mut y, mut c) = (Vec::new(), Vec::new());
        for batch in BlockReader::new(&catalog, catalog.partition(1, 0), &all, ReadOptions::default()) {
            let batch = batch.unwrap().batch;
            y.extend(NumericColumn::new("y", batch.column_by_name("y").unwrap()).unwrap().iter().flatten());
            let text = TextColumn::new("c0", batch.column_by_name("c0").unwrap()).unwrap();
            c.extend((0..text.len()).filter_map(|i| text.get(i)).map(str::to_string));
        }
        (y, c)
    }

    #[test]
    fn files_hold_the_rows_of_the_source() {
        let folder = tempfile::tempdir().unwrap();
        let source = "synth:mixtures?rows=150001&d=2&categories=1";
        let mut seen = Vec::new();
        let paths = make(&source.parse().unwrap(), folder.path(), 3, |done, total| seen.push((done, total))).unwrap();
        assert_eq!(paths.len(), 3);
        assert_eq!(seen.last(), Some(&(150_001, 150_001)));
        assert_eq!(read(folder.path().to_str().unwrap()), read(source));
        // A second run would mix two data sets.
        let again = make(&source.parse().unwrap(), folder.path(), 2, |_, _| {}).unwrap_err().to_string();
        assert!(again.contains("part-0000"), "{again}");
    }

    #[test]
    fn an_unwritable_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        std::fs::write(&blocked, b"x").unwrap();
        let error = make(&"synth:sines?rows=10".parse().unwrap(), &blocked, 1, |_, _| {}).unwrap_err();
        assert!(matches!(error, DataError::Write { .. }), "{error}");
    }
}
