//! Writing a synthetic source to Parquet files (`nystream datasets make`).
//!
//! The files appear together when the last is complete; a failure or an interrupt leaves none. Memory: one row group and one batch,
//! each of a few tens of megabytes at most, whatever the rows, columns and files.

use crate::atomic::{SealedFile, commit_all};
use crate::sink::ParquetFile;
use crate::synth::{Generator, SynthSpec};
use crate::{BLOCK_ROWS, DataError};
use std::path::{Path, PathBuf};

/// Rows generated at a time, where rows are not wide.
const BATCH_ROWS: u64 = 4 * BLOCK_ROWS;
/// Values generated at a time.
const BATCH_VALUES: u64 = 4 << 20;

/// How [`make`] writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeOptions {
    /// Files to spread the rows over; at least 1.
    pub files: u64,
    /// Rows of a row group at most. Wide rows make smaller groups: a group is written out at 32 MB.
    pub row_group_rows: u64,
    /// Bytes the files may take in all.
    pub disk_limit: u64,
    /// Whether files of an earlier call (`part-*.parquet`) are replaced.
    pub overwrite: bool,
}

impl Default for MakeOptions {
    /// One file, row groups of 64 sum blocks, no limit, nothing replaced.
    fn default() -> Self {
        MakeOptions { files: 1, row_group_rows: 64 * BLOCK_ROWS, disk_limit: u64::MAX, overwrite: false }
    }
}

/// Files written by [`make`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The files in the order of their rows.
    pub paths: Vec<PathBuf>,
    /// Their bytes.
    pub bytes: u64,
}

/// Writes the rows of `spec` to files `part-00000.parquet ..` in `folder`, which is made if absent.
///
/// Row i of the source is row i of the files read in order; row counts of the files differ by at most one. `progress` gets
/// (rows written, rows in all) after each batch. Files in `folder` that are not Parquet stay.
///
/// # Errors
/// [`DataError::FolderInUse`] when the folder holds Parquet files that are not to be replaced,
/// [`DataError::OutputBudget`] before the work where the limit is sure to be passed, and otherwise when it is;
/// [`DataError::OutputFolder`] and [`DataError::Output`] for what cannot be written. No file has appeared then.
///
/// ```
/// use nystream_datasets::make::{MakeOptions, make};
/// let folder = tempfile::tempdir().unwrap();
/// let spec = "synth:sines?rows=5000&d=3".parse()?;
/// let made = make(&spec, folder.path(), &MakeOptions { files: 2, ..MakeOptions::default() }, |_, _| {})?;
/// assert_eq!(made.paths.len(), 2);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
pub fn make(
    spec: &SynthSpec,
    folder: &Path,
    options: &MakeOptions,
    progress: impl FnMut(u64, u64),
) -> Result<Made, DataError> {
    let refuse_over = |needed: u64| match needed > options.disk_limit {
        true => Err(DataError::OutputBudget { folder: folder.to_path_buf(), limit: options.disk_limit, needed }),
        false => Ok(()),
    };
    refuse_over(least_bytes(spec))?;
    let before = parts_of(folder, options.overwrite)?;
    let fail = |source| DataError::OutputFolder { path: folder.to_path_buf(), source };
    let absent = !folder.exists();
    std::fs::create_dir_all(folder).map_err(fail)?;
    let written = write_sealed(spec, folder, options, refuse_over, progress);
    let made = written.and_then(|(made, sealed)| commit_all(sealed).map(|()| made).map_err(DataError::from));
    match &made {
        // An earlier call may have made more files.
        Ok(made) => {
            for old in before.iter().filter(|old| !made.paths.contains(old)) {
                std::fs::remove_file(old).map_err(fail)?;
            }
        }
        // Only an empty folder goes away.
        Err(_) if absent => drop(std::fs::remove_dir(folder)),
        Err(_) => {}
    }
    made
}

/// Writes all files under temporary names; gives what they will be, and them.
fn write_sealed(
    spec: &SynthSpec,
    folder: &Path,
    options: &MakeOptions,
    refuse_over: impl Fn(u64) -> Result<(), DataError>,
    mut progress: impl FnMut(u64, u64),
) -> Result<(Made, Vec<SealedFile>), DataError> {
    let generator = Generator::new(spec);
    let all: Vec<usize> = (0..generator.schema().fields().len()).collect();
    let files = options.files.max(1);
    let group_rows = usize::try_from(options.row_group_rows).unwrap_or(usize::MAX).max(1);
    let batch_rows = BATCH_ROWS.min(BATCH_VALUES / all.len() as u64).max(1);
    // Names sort like their numbers, so that files are read in the order of the rows.
    let width = (files - 1).to_string().len().max(5);
    let mut made = Made { paths: Vec::new(), bytes: 0 };
    let mut sealed = Vec::new();
    for file in 0..files {
        let cut = |i: u64| (u128::from(spec.rows) * u128::from(i) / u128::from(files)) as u64;
        let (mut next, end) = (cut(file), cut(file + 1));
        let path = folder.join(format!("part-{file:0width$}.parquet"));
        let mut writer = ParquetFile::plain(&path, generator.schema(), group_rows)?;
        while next < end {
            let rows = batch_rows.min(end - next);
            let batch = generator
                .batch(next, rows as usize, &all)
                .map_err(|e| DataError::Encode { path: path.clone(), reason: e.to_string() })?;
            writer.write(&batch)?;
            refuse_over(made.bytes + writer.bytes())?;
            next += rows;
            progress(next, spec.rows);
        }
        let done = writer.seal()?;
        made.bytes += done.bytes();
        refuse_over(made.bytes)?;
        made.paths.push(path);
        sealed.push(done);
    }
    Ok((made, sealed))
}

/// Bytes the files take at least: numbers are written plain, codes of text levels in whole bits.
fn least_bytes(spec: &SynthSpec) -> u64 {
    let numbers = 32 * (spec.d as u128 + 1);
    // Few levels may happen to occur, so text is not counted.
    u64::try_from(u128::from(spec.rows) * numbers / 8).unwrap_or(u64::MAX)
}

/// The Parquet files of an earlier call in `folder`, when they may be replaced and there are no others.
fn parts_of(folder: &Path, overwrite: bool) -> Result<Vec<PathBuf>, DataError> {
    let fail = |source| DataError::OutputFolder { path: folder.to_path_buf(), source };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with(['.', '_']) && (name.ends_with(".parquet") || name.ends_with(".pq")) {
            names.push(name);
        }
    }
    names.sort();
    let is_part = |name: &str| {
        name.strip_prefix("part-")
            .and_then(|rest| rest.strip_suffix(".parquet"))
            .is_some_and(|number| number.len() >= 5 && number.bytes().all(|b| b.is_ascii_digit()))
    };
    let in_use = |name: &String, remedy| {
        let folder = folder.to_path_buf();
        Err(DataError::FolderInUse { folder, name: name.clone(), remedy })
    };
    if let Some(other) = names.iter().find(|name| !is_part(name)) {
        return in_use(other, "choose another folder");
    }
    match names.first() {
        Some(part) if !overwrite => in_use(part, "choose another folder, or replace them with --overwrite"),
        _ => Ok(names.into_iter().map(|name| folder.join(name)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::OutputError;
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

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn options(files: u64) -> MakeOptions {
        MakeOptions { files, ..MakeOptions::default() }
    }

    #[test]
    fn files_hold_the_rows_of_the_source() {
        let folder = tempfile::tempdir().unwrap();
        let source = "synth:mixtures?rows=150001&d=2&categories=1";
        let mut seen = Vec::new();
        let asked = MakeOptions { row_group_rows: 20_000, ..options(3) };
        let made = make(&source.parse().unwrap(), folder.path(), &asked, |done, all| seen.push((done, all))).unwrap();
        assert_eq!(made.paths.len(), 3);
        assert_eq!(seen.last(), Some(&(150_001, 150_001)));
        assert_eq!(made.bytes, made.paths.iter().map(|p| p.metadata().unwrap().len()).sum::<u64>());
        let catalog = Catalog::open(&Sources::parse(&[folder.path().to_str().unwrap()]).unwrap()).unwrap();
        assert_eq!(catalog.files[0].row_groups, [0, 20_000, 40_000, 50_000]);
        assert_eq!(read(folder.path().to_str().unwrap()), read(source));
    }

    #[test]
    fn folders_in_use_are_refused_or_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let spec: SynthSpec = "synth:mixtures?rows=10&d=2&categories=1".parse().unwrap();
        std::fs::write(folder.path().join("notes.txt"), b"mine").unwrap();
        make(&spec, folder.path(), &options(3), |_, _| {}).unwrap();
        let again = make(&spec, folder.path(), &options(2), |_, _| {}).unwrap_err().to_string();
        assert!(again.contains("part-00000.parquet") && again.contains("--overwrite"), "{again}");
        let replace = MakeOptions { overwrite: true, ..options(2) };
        let other: SynthSpec = "synth:mixtures?rows=7&d=2&categories=1&seed=5".parse().unwrap();
        make(&other, folder.path(), &replace, |_, _| {}).unwrap();
        assert_eq!(names(folder.path()), ["notes.txt", "part-00000.parquet", "part-00001.parquet"]);
        assert_eq!(read(folder.path().to_str().unwrap()), read(&other.to_string()));
        // What this program did not make is not replaced.
        std::fs::write(folder.path().join("mine.parquet"), b"mine").unwrap();
        let mine = make(&other, folder.path(), &replace, |_, _| {}).unwrap_err();
        assert!(matches!(&mine, DataError::FolderInUse { name, .. } if name == "mine.parquet"), "{mine}");
    }

    #[test]
    fn the_disk_limit_holds_before_and_during_the_work() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("made");
        let spec: SynthSpec = "synth:sines?rows=1e12&d=10".parse().unwrap();
        let limit = |disk_limit| MakeOptions { disk_limit, ..options(2) };
        let error = make(&spec, &folder, &limit(1 << 40), |_, _| panic!("began")).unwrap_err();
        assert!(matches!(error, DataError::OutputBudget { needed: 44_000_000_000_000, .. }), "{error}");
        // The least size fits, headers and the footer do not.
        let spec: SynthSpec = "synth:sines?rows=10000&d=10".parse().unwrap();
        let error = make(&spec, &folder, &limit(least_bytes(&spec)), |_, _| {}).unwrap_err();
        assert!(matches!(error, DataError::OutputBudget { .. }), "{error}");
        assert!(names(place.path()).is_empty());
        let made = make(&spec, &folder, &limit(2 * least_bytes(&spec)), |_, _| {}).unwrap();
        assert!(made.bytes >= least_bytes(&spec));
    }

    #[test]
    fn nothing_appears_before_the_last_file_is_complete() {
        let place = tempfile::tempdir().unwrap();
        let spec: SynthSpec = "synth:sines?rows=100&d=2".parse().unwrap();
        let mut calls = 0;
        make(&spec, place.path(), &options(4), |_, _| {
            calls += 1;
            assert!(names(place.path()).iter().all(|name| name.starts_with('.')));
        })
        .unwrap();
        assert_eq!((calls, names(place.path()).len()), (4, 4));
    }

    #[test]
    fn an_unwritable_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        std::fs::write(&blocked, b"x").unwrap();
        let spec: SynthSpec = "synth:sines?rows=10".parse().unwrap();
        for (path, inside) in [(blocked.clone(), false), (blocked.join("x"), false), (folder.path().join("d"), true)] {
            if inside {
                // The first file cannot be put in place: a folder of its name is there.
                std::fs::create_dir_all(path.join("part-00000.parquet")).unwrap();
            }
            let asked = MakeOptions { overwrite: true, ..options(1) };
            let error = make(&spec, &path, &asked, |_, _| {}).unwrap_err();
            let named = match &error {
                DataError::OutputFolder { path: named, .. } => *named == path,
                DataError::Output(OutputError::Create { path: named, .. }) => named.starts_with(&path),
                _ => false,
            };
            assert!(named, "{error}");
        }
    }
}
