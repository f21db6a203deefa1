//! Everything that can go wrong with data, one variant per cause.
//!
//! Each message names the file, row group, rows or column it is about and says what to do, so that
//! it can be shown to a user as it is. No input, however damaged, makes this crate panic.

use crate::ColumnKind;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// An error about sources, files, columns, rows, caches or outputs.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// A glob or folder that holds no Parquet file.
    #[error("no Parquet file matches '{spec}': check the path, or quote the pattern if the shell expanded it")]
    NoMatch {
        /// The source as the user wrote it.
        spec: String,
    },
    /// No source was given at all.
    #[error("no data given: pass at least one file, folder, glob or synth: source to --data")]
    NoSources,
    /// A malformed glob.
    #[error("'{spec}' is not a valid pattern: {reason}")]
    BadPattern {
        /// The source as the user wrote it.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A path that is not there.
    #[error("'{}' does not exist: check the path", path.display())]
    NotFound {
        /// The missing path.
        path: PathBuf,
    },
    /// One file reached by two sources.
    #[error("'{}' is listed twice (again as '{}'): list each file once", first.display(), second.display())]
    DuplicateFile {
        /// The path listed first.
        first: PathBuf,
        /// The other path of the same file.
        second: PathBuf,
    },
    /// A file name that is not UTF-8, so that it cannot be hashed to the same id everywhere.
    #[error("the name of '{}' is not UTF-8: rename the file", path.display())]
    PathNotUtf8 {
        /// The offending path.
        path: PathBuf,
    },
    /// A scheme this build cannot read.
    #[error(
        "'{spec}': only paths, synth: sources and the stores s3://, gs://, az://, https:// and http:// can be read; copy or mount the data first"
    )]
    UnsupportedScheme {
        /// The source as the user wrote it.
        spec: String,
    },
    /// An address that no store has.
    #[error("'{spec}': {reason}")]
    BadAddress {
        /// The address, without what may be a secret.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Sources that have no common parent, so that their files have no names relative to it.
    #[error(
        "'{first}' and '{second}' are in different stores: name data of one place, whose files are named from their common parent"
    )]
    MixedPlaces {
        /// One source.
        first: String,
        /// One from elsewhere.
        second: String,
    },
    /// One name for different files on two hosts.
    #[error(
        "'{name}' is another file on {first} than on {second} ({sizes}): with --data-layout local a name is one file; give both the same, or other names"
    )]
    HostsDiffer {
        /// Name relative to the roots.
        name: String,
        /// One host.
        first: String,
        /// The other.
        second: String,
        /// Their lengths.
        sizes: String,
    },
    /// A store that did not serve an object.
    #[error("cannot read '{}': {reason}; {remedy}", path.display())]
    Store {
        /// The object.
        path: PathBuf,
        /// What the store or the system said.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// A `synth:` source with an unknown name, key or value.
    #[error("'{spec}' is not a synthetic source: {reason}")]
    BadSynth {
        /// The source as the user wrote it.
        spec: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// The operating system refused to open or read a file.
    #[error("cannot read '{}': {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of zero bytes.
    #[error("'{}' is empty (0 bytes): remove it or write it again", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// A file without the Parquet magic bytes.
    #[error("'{}' is not a Parquet file (no PAR1 magic at its {end}): check the source", path.display())]
    NotParquet {
        /// The file.
        path: PathBuf,
        /// `start` or `end`, where the magic is missing.
        end: &'static str,
    },
    /// A Parquet file whose end is cut off.
    #[error("'{}' is cut short at {bytes} bytes: {reason}; copy or write it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes present.
        bytes: u64,
        /// What is missing.
        reason: String,
    },
    /// An encrypted Parquet file.
    #[error("'{}' is an encrypted Parquet file, which is not supported: decrypt it first", path.display())]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// A footer that does not decode or contradicts itself.
    #[error("the footer of '{}' is corrupt: {reason}; write the file again", path.display())]
    Footer {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        reason: String,
    },
    /// A file that is no longer the one whose footer was read first.
    #[error("'{}' changed while it was being read: run again when nothing writes to it", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A page that does not decode.
    #[error(
        "'{}', row group {row_group}{}: rows {first_row}..{end_row} cannot be decoded: {reason}; the file is damaged there, write it again or leave it out",
        path.display(), column_clause(column)
    )]
    Decode {
        /// The file.
        path: PathBuf,
        /// 0-based row group.
        row_group: usize,
        /// The column, when one column alone fails.
        column: Option<String>,
        /// First row ordinal of the batch that failed.
        first_row: u64,
        /// One past its last row ordinal.
        end_row: u64,
        /// The decoder's reason.
        reason: String,
    },
    /// Two files that do not have the same columns.
    #[error("'{}' has no column '{column}', which '{}' has: all files of one data set need the same columns", file.display(), other.display())]
    SchemaColumn {
        /// The column.
        column: String,
        /// The file without it.
        file: PathBuf,
        /// The file with it.
        other: PathBuf,
    },
    /// Two files that disagree about the type of a column.
    #[error("column '{column}' is {kind} in '{}' but {other_kind} in '{}': write both with one type", file.display(), other.display())]
    SchemaType {
        /// The column.
        column: String,
        /// One file.
        file: PathBuf,
        /// Its type there.
        kind: String,
        /// The other file.
        other: PathBuf,
        /// Its type in the other.
        other_kind: String,
    },
    /// A file in which two columns have one name.
    #[error("'{}' has two columns named '{column}': rename one", file.display())]
    DuplicateColumnName {
        /// The name.
        column: String,
        /// The file.
        file: PathBuf,
    },
    /// Files without a single row.
    #[error("the data has no rows ({files} file(s), the first '{}')", first.display())]
    NoRows {
        /// Number of files read.
        files: usize,
        /// The first of them.
        first: PathBuf,
    },
    /// A column that is named by an option or the model and is not in the data.
    #[error("no column '{column}' in the data ({role}){}", suggestion_clause(suggestions, columns))]
    MissingColumn {
        /// The column.
        column: String,
        /// What it was wanted for.
        role: &'static str,
        /// Columns with similar names, the nearest first.
        suggestions: Vec<String>,
        /// The columns of the data.
        columns: Vec<String>,
    },
    /// A column of a type that its use does not allow.
    #[error("column '{column}' is {found} but {expected} is needed ({role}): convert the column")]
    ColumnType {
        /// The column.
        column: String,
        /// The type found.
        found: String,
        /// The type wanted.
        expected: &'static str,
        /// What it was wanted for.
        role: &'static str,
    },
    /// A nested, binary or otherwise unusable feature column.
    #[error("column '{column}' has the unusable type {found} ({kind}): leave it out with --drop '{column}'")]
    RefusedColumn {
        /// The column.
        column: String,
        /// Its kind.
        kind: ColumnKind,
        /// Its Arrow type.
        found: String,
    },
    /// One column used for two things.
    #[error("column '{column}' cannot be both {first} and {second}")]
    RoleConflict {
        /// The column.
        column: String,
        /// One use.
        first: &'static str,
        /// The other use.
        second: &'static str,
    },
    /// More distinct levels, or more text in them, than can be counted.
    #[error(
        "column '{column}' has more than {limit} distinct levels, or more than {} MiB of text in them: leave it out with --drop '{column}' \
         (or --id-column '{column}' where it names rows), or group its levels first",
        bytes >> 20
    )]
    TooManyLevels {
        /// The column.
        column: String,
        /// Levels allowed.
        limit: usize,
        /// Bytes of text allowed in all levels.
        bytes: u64,
    },
    /// A target of so many values that they are no classes.
    #[error("target '{column}' has {found}: too many to be classes. {remedy}")]
    TooManyClasses {
        /// The target.
        column: String,
        /// How many values it has.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Nothing to learn from.
    #[error("no usable feature column is left: {notes}")]
    NoFeatures {
        /// Why each was dropped.
        notes: String,
    },
    /// A fit without a target.
    #[error("no target given: name the column to predict with --target")]
    NoTarget,
    /// A target with no value at all.
    #[error("target '{column}' is null in all {rows} rows: nothing can be learned from it")]
    TargetAllNull {
        /// The target.
        column: String,
        /// Rows of the data.
        rows: u64,
    },
    /// A target with one value.
    #[error("target '{column}' is constant ({value}) over {rows} row(s): nothing can be learned from it")]
    TargetConstant {
        /// The target.
        column: String,
        /// Its value.
        value: String,
        /// Rows with a target.
        rows: u64,
    },
    /// Several targets in a classification.
    #[error("classification takes one target column, not {count}: fit one model for each")]
    SeveralClassTargets {
        /// Targets given.
        count: usize,
    },
    /// A class weight for a class that does not occur, or that is not a positive number.
    #[error("class weight of '{class}': {reason}")]
    ClassWeight {
        /// The class.
        class: String,
        /// What is wrong.
        reason: String,
    },
    /// A split that cannot be made.
    #[error("--split: {reason}")]
    BadSplit {
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// A frozen encoder (from a model file) that contradicts itself.
    #[error("the encoder of the model is damaged: {reason}")]
    BadEncoder {
        /// What is wrong.
        reason: String,
    },
    /// The chunk cache could not be written.
    #[error("cannot write the chunk cache in '{}': {source}; free disk space there or choose another folder with --temp-dir", path.display())]
    CacheWrite {
        /// Folder of the cache.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A chunk of the cache came back different or not at all.
    #[error("chunk {chunk} of the cache in '{}' cannot be read back: {reason}; check the disk, or choose another folder with --temp-dir", path.display())]
    CacheRead {
        /// Folder of the cache.
        path: PathBuf,
        /// Number of the chunk.
        chunk: usize,
        /// What is wrong.
        reason: String,
    },
    /// The chunk cache would outgrow its budget.
    #[error(
        "the chunk cache needs more than the {limit} bytes it may use ({needed} so far): raise --disk-limit, or use fewer columns"
    )]
    DiskBudget {
        /// Bytes allowed.
        limit: u64,
        /// Bytes needed when it was refused.
        needed: u64,
    },
    /// Chunks kept in memory would outgrow their budget.
    #[error(
        "the chunks kept in memory need more than the {limit} bytes they may use ({needed} so far): raise --memory"
    )]
    MemoryBudget {
        /// Bytes allowed.
        limit: u64,
        /// Bytes needed when it was refused.
        needed: u64,
    },
    /// An output file that cannot be written.
    #[error(transparent)]
    Output(#[from] crate::atomic::OutputError),
    /// An output folder that cannot be used.
    #[error("cannot write to the folder '{}': {source}; name a folder that can be made or written", path.display())]
    OutputFolder {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An output folder with other Parquet files in it.
    #[error("'{}' already holds '{name}', which would be mixed with the new files: {remedy}", folder.display())]
    FolderInUse {
        /// The folder.
        folder: PathBuf,
        /// A file in it.
        name: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Generated files that would outgrow their budget.
    #[error("the files in '{}' need {needed} bytes or more, --disk-limit allows {limit}: raise it, or make fewer rows", folder.display())]
    OutputBudget {
        /// Their folder.
        folder: PathBuf,
        /// Bytes allowed.
        limit: u64,
        /// Bytes needed when it was refused.
        needed: u64,
    },
    /// A Parquet encoding failure of an output.
    #[error("cannot write '{}': {reason}", path.display())]
    Encode {
        /// The output file.
        path: PathBuf,
        /// The writer's reason.
        reason: String,
    },
}

impl DataError {
    /// Wraps the system's reason why `path` cannot be read.
    pub fn read(path: &Path, source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::NotFound {
            DataError::NotFound { path: path.to_path_buf() }
        } else {
            DataError::Read { path: path.to_path_buf(), source }
        }
    }

    /// A [`DataError::MissingColumn`] that suggests the columns of `available` near to `column`: at most a third of the longer name differs, letter case
    /// aside. Where none is, the message lists the columns.
    pub fn missing<'a>(column: &str, role: &'static str, available: impl IntoIterator<Item = &'a str>) -> Self {
        let lower = column.to_lowercase();
        let columns: Vec<String> = available.into_iter().map(str::to_string).collect();
        let near = |name: &&String| {
            let (other, length) = (name.to_lowercase(), lower.len().max(name.len()).min(COMPARED));
            let distance = edit_distance(&lower, &other);
            (3 * distance <= length).then_some(distance)
        };
        let mut scored: Vec<(usize, &String)> = columns.iter().filter_map(|n| near(&n).map(|d| (d, n))).collect();
        scored.sort();
        let suggestions = scored.into_iter().take(3).map(|(_, name)| name.clone()).collect();
        DataError::MissingColumn { column: column.to_string(), role, suggestions, columns }
    }
}

impl DataError {
    /// [`DataError::TooManyClasses`] for a target of this kind.
    ///
    /// ```
    /// use nystream_datasets::{ColumnKind, DataError};
    /// let error = DataError::too_many_classes("price", ColumnKind::Numeric, "9000 distinct values in 9000 rows".into());
    /// assert!(error.to_string().contains("'price'") && error.to_string().contains("--task regression"));
    /// ```
    pub fn too_many_classes(column: &str, kind: ColumnKind, found: String) -> Self {
        let remedy = match kind.is_number() {
            true => "Give --task regression to predict a number, or group its values first",
            false => "Group its values first",
        };
        DataError::TooManyClasses { column: column.into(), found, remedy }
    }
}

fn column_clause(column: &Option<String>) -> String {
    column.as_ref().map(|name| format!(", column '{name}'")).unwrap_or_default()
}

fn suggestion_clause(suggestions: &[String], columns: &[String]) -> String {
    let quoted = |names: &[String]| names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    match (suggestions, columns) {
        (_, []) => ": it has no columns".into(),
        ([], _) => {
            let listed = &columns[..columns.len().min(LISTED_COLUMNS)];
            let more = match columns.len() - listed.len() {
                0 => String::new(),
                more => format!(" and {more} more (`nystream inspect` lists them)"),
            };
            format!(": the columns are {}{more}", quoted(listed))
        }
        _ => format!(": did you mean {}?", quoted(suggestions)),
    }
}

/// Bytes of names that are compared.
const COMPARED: usize = 64;

/// Columns that a message lists.
const LISTED_COLUMNS: usize = 20;

/// Levenshtein distance over bytes, on the first [`COMPARED`] of each.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b) = (&a.as_bytes()[..a.len().min(COMPARED)], &b.as_bytes()[..b.len().min(COMPARED)]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_nearest_first() {
        let error = |name: &str| DataError::missing(name, "target", ["TEMP", "PM2.55", "PM2.5", "PM10"]).to_string();
        assert!(error("pm25").ends_with(": did you mean 'PM2.5', 'PM2.55'?"), "{}", error("pm25"));
        assert!(error("temp").ends_with(": did you mean 'TEMP'?"), "{}", error("temp"));
    }

    #[test]
    fn names_that_are_not_near_are_listed_not_suggested() {
        let error = DataError::missing("price", "target", ["TEMP", "PM2.5"]).to_string();
        assert!(error.ends_with(": the columns are 'TEMP', 'PM2.5'"), "{error}");
        let many: Vec<String> = (0..50).map(|i| format!("feature_{i}")).collect();
        let error = DataError::missing("y", "target", many.iter().map(String::as_str)).to_string();
        assert!(error.contains("'feature_19' and 30 more") && !error.contains("did you mean"), "{error}");
        assert!(DataError::missing("y", "target", []).to_string().ends_with(": it has no columns"));
    }

    #[test]
    fn edit_distance_is_levenshtein() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", "abc"), 0);
    }
}
