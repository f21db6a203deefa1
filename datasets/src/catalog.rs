//! The catalog: what a data set holds, from the footers alone.
//!
//! [`Catalog::open`] reads every footer once, checks that the files agree, and lays the *sum blocks* out:
//! 2,048 consecutive row ordinals of one file, the last of a file ragged. Blocks are numbered through the
//! files in source order; that global number is for sharing work out only. Nothing that is summed is keyed by it, but by
//! (file id, block within the file).
//!
//! Memory: a few dozen bytes a row group and a name and sizes a column; footers are read again by each scan.

use crate::column::{ColumnInfo, ColumnKind, is_integer};
use crate::footer::{Footer, read_sized_footer};
use crate::ranged::RangeFile;
use crate::source::{Origin, SourceFile, Sources};
use crate::spread::Placement;
use crate::store::{Address, Version, ahead};
use crate::width::{ColumnBytes, column_bytes};
use crate::{DataError, synth::SynthSpec};
use nystream_hashing::FileId;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of one sum block. *Shape*: part of every answer; equals `SUM_BLOCK_ROWS` of the kernels.
pub const BLOCK_ROWS: u64 = 2048;

/// One file of a [`Catalog`].
#[derive(Clone, Debug)]
pub struct CatalogFile {
    /// Path to show and to open; the canonical text for synthetic sources.
    pub path: PathBuf,
    /// Path relative to the root.
    pub name: String,
    /// Identity.
    pub id: FileId,
    /// Rows.
    pub rows: u64,
    /// Size in bytes; 0 for synthetic sources.
    pub bytes: u64,
    /// First row ordinal of each row group, then the row count: `groups + 1` numbers.
    pub row_groups: Vec<u64>,
    /// For each catalog column, its position in this file.
    pub(crate) columns: Arc<[usize]>,
    /// Set for synthetic sources.
    pub(crate) synth: Option<SynthSpec>,
    /// Set for objects of a store: where it is, and which version the footer was read of.
    pub(crate) object: Option<(Address, Version)>,
    /// Of the footer, or of the synthetic spec.
    pub(crate) digest: [u8; 32],
}

impl CatalogFile {
    /// Number of sum blocks, the last one ragged.
    pub fn blocks(&self) -> u64 {
        self.rows.div_ceil(BLOCK_ROWS)
    }

    /// The row group that holds row `ordinal`.
    pub fn row_group_of(&self, ordinal: u64) -> usize {
        self.row_groups.partition_point(|first| *first <= ordinal).saturating_sub(1)
    }
}

/// A run of whole sum blocks `first..end` of file number `file`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRun {
    /// Index into [`Catalog::files`].
    pub file: usize,
    /// First block, within the file.
    pub first: u64,
    /// One past the last block.
    pub end: u64,
}

/// The files, columns and blocks of a data set. Clones are cheap.
///
/// ```
/// use nystream_datasets::{Catalog, Sources};
/// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=3"])?)?;
/// assert_eq!((catalog.total_rows, catalog.blocks()), (5000, 3));
/// assert_eq!(catalog.columns[3].name, "y");
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Catalog {
    /// The files in source order.
    pub files: Arc<[CatalogFile]>,
    /// The columns in the order of the first file.
    pub columns: Arc<[ColumnInfo]>,
    /// Rows of all files.
    pub total_rows: u64,
    /// BLAKE3 of the names, lengths and footers, and the ETags of objects: equal on every process that sees the same data. Pages are not read for it.
    pub fingerprint: [u8; 32],
    /// First global block of each file, then the total.
    starts: Arc<[u64]>,
    /// Of each column, over all files.
    bytes: Arc<[ColumnBytes]>,
    /// Where blocks are read, when not every process sees all files.
    placement: Option<Arc<Placement>>,
}

impl Catalog {
    /// No files: rows that come from elsewhere.
    pub fn of_none() -> Catalog {
        Catalog {
            files: Arc::default(),
            columns: Arc::default(),
            total_rows: 0,
            fingerprint: [0; 32],
            starts: Arc::from([0]),
            bytes: Arc::default(),
            placement: None,
        }
    }

    /// Reads all footers of `sources` and checks them against each other. No page is read: data of any size opens at once.
    ///
    /// ```
    /// use nystream_datasets::{Catalog, DataError, Sources};
    /// // Files of one data set have the same columns; here the second lacks `x2`.
    /// let sources = Sources::parse(&["synth:sines?rows=10&d=3", "synth:sines?rows=20&d=2"])?;
    /// assert!(matches!(Catalog::open(&sources), Err(DataError::SchemaColumn { .. })));
    /// let empty = Sources::parse(&["synth:sines?rows=0"])?;
    /// assert!(matches!(Catalog::open(&empty), Err(DataError::NoRows { .. })));
    /// assert_eq!(Catalog::open_any(&empty)?.total_rows, 0);
    /// # Ok::<(), DataError>(())
    /// ```
    ///
    /// # Errors
    /// Any file that cannot be read or decoded; files that disagree about columns; no rows at all.
    pub fn open(sources: &Sources) -> Result<Catalog, DataError> {
        Self::open_any(sources)?.with_rows()
    }

    /// The same catalog, for uses that need rows.
    ///
    /// # Errors
    /// [`DataError::NoRows`].
    pub fn with_rows(self) -> Result<Catalog, DataError> {
        match self.total_rows {
            0 => {
                let first = self.files.first().map(|file| file.path.clone()).unwrap_or_default();
                Err(DataError::NoRows { files: self.files.len(), first })
            }
            _ => Ok(self),
        }
    }

    /// [`Catalog::open`] for uses that make sense without rows, such as prediction.
    ///
    /// # Errors
    /// Any file that cannot be read or decoded; files that disagree about columns.
    pub fn open_any(sources: &Sources) -> Result<Catalog, DataError> {
        Self::assemble(sources.files.iter().map(Self::describe))
    }

    /// What a catalog takes from one file.
    pub(crate) fn describe(source: &SourceFile) -> Result<Described, DataError> {
        match &source.origin {
            Origin::Parquet(path) => open_parquet(source, path, RangeFile::local(path, Arc::default())?),
            Origin::Object(object) => {
                open_parquet(source, &object.address.shown(), RangeFile::object(object, Arc::default())?)
            }
            Origin::Synth(spec) => Ok(open_synth(source, spec)),
        }
    }

    /// The catalog of files in their order.
    pub(crate) fn assemble(
        described: impl Iterator<Item = Result<Described, DataError>>,
    ) -> Result<Catalog, DataError> {
        let mut files: Vec<CatalogFile> = Vec::new();
        let mut columns: Vec<ColumnInfo> = Vec::new();
        // For each column, the file its type was taken from.
        let mut origins: Vec<usize> = Vec::new();
        let mut bytes: Vec<ColumnBytes> = Vec::new();
        let mut hasher = blake3::Hasher::new();
        for described in described {
            let Described { mut file, infos, sizes, tag } = described?;
            hasher.update(&file.id.0.to_le_bytes());
            hasher.update(&file.digest);
            if let Some(tag) = tag {
                hasher.update(blake3::hash(tag.as_bytes()).as_bytes());
            }
            let mut positions: HashMap<&str, usize> = HashMap::with_capacity(infos.len());
            for (i, info) in infos.iter().enumerate() {
                if positions.insert(&info.name, i).is_some() {
                    return Err(DataError::DuplicateColumnName { column: info.name.clone(), file: file.path });
                }
            }
            if files.is_empty() {
                file.columns = (0..infos.len()).collect();
                origins = vec![0; infos.len()];
                bytes = vec![ColumnBytes::default(); infos.len()];
                columns = infos;
            } else {
                file.columns = reconcile(&files, &file.path, &mut columns, &mut origins, &infos, &positions)?;
            }
            for (bytes, position) in bytes.iter_mut().zip(file.columns.iter()) {
                *bytes = bytes.larger(sizes[*position]);
            }
            files.push(file);
        }
        let total_rows = files.iter().map(|file| file.rows).sum();
        let mut starts = vec![0];
        for file in &files {
            starts.push(starts[starts.len() - 1] + file.blocks());
        }
        Ok(Catalog {
            files: files.into(),
            columns: columns.into(),
            total_rows,
            fingerprint: *hasher.finalize().as_bytes(),
            starts: starts.into(),
            bytes: bytes.into(),
            placement: None,
        })
    }

    /// The same catalog, whose blocks are read where `placement` says.
    pub(crate) fn placed(self, placement: Placement) -> Catalog {
        Catalog { placement: Some(Arc::new(placement)), ..self }
    }

    /// Number of sum blocks of all files.
    pub fn blocks(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    /// File and block within the file of global block `block`; `None` past the end.
    pub fn locate(&self, block: u64) -> Option<(usize, u64)> {
        if block >= self.blocks() {
            return None;
        }
        let file = self.starts.partition_point(|start| *start <= block) - 1;
        Some((file, block - self.starts[file]))
    }

    /// Global number of block `block` of file number `file`.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn global_block(&self, file: usize, block: u64) -> u64 {
        self.starts[file] + block
    }

    /// The blocks of worker `index` among `peers`: contiguous in global order, counts differing by at most one.
    ///
    /// The union over all indices is every block once. Ownership may split a row group. Where the files are spread over hosts ([`crate::HostFiles`]) a worker has
    /// blocks of files that its process sees, in order, and counts differ by at most one within a process.
    ///
    /// ```
    /// use nystream_datasets::{BlockRun, Catalog, Sources};
    /// // 5,000 rows are two blocks of 2,048 rows and one of 904.
    /// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000"])?)?;
    /// assert_eq!(catalog.partition(2, 0), [BlockRun { file: 0, first: 0, end: 1 }]);
    /// assert_eq!(catalog.partition(2, 1), [BlockRun { file: 0, first: 1, end: 3 }]);
    /// assert_eq!(catalog.rows_of(&catalog.partition(2, 1)), 2952);
    /// // With more workers than blocks some have none.
    /// assert!(catalog.partition(4, 0).is_empty());
    /// # Ok::<(), nystream_datasets::DataError>(())
    /// ```
    pub fn partition(&self, peers: usize, index: usize) -> Vec<BlockRun> {
        if let Some(placement) = &self.placement {
            return placement.runs(peers, index);
        }
        let cut = |i: usize| (u128::from(self.blocks()) * i as u128 / peers.max(1) as u128) as u64;
        self.runs(cut(index), cut(index + 1))
    }

    /// The runs of the process of worker `index` of `peers`, where files are spread over hosts, and the workers that share them.
    ///
    /// ```
    /// # use nystream_datasets::{Catalog, Sources};
    /// // On a shared file system there are none: all workers of all processes share all files.
    /// assert!(Catalog::open(&Sources::parse(&["synth:sines?rows=5000"])?)?.placed_runs(2, 0).is_none());
    /// # Ok::<(), nystream_datasets::DataError>(())
    /// ```
    pub fn placed_runs(&self, peers: usize, index: usize) -> Option<(Vec<BlockRun>, usize)> {
        self.placement.as_ref().map(|placement| placement.of_process(peers, index))
    }

    /// File number `file` as messages name it: its name, and where files are spread over hosts, those that have it.
    ///
    /// ```
    /// # use nystream_datasets::{Catalog, Sources};
    /// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000"])?)?;
    /// assert_eq!(catalog.shown(0), catalog.files[0].name);
    /// # Ok::<(), nystream_datasets::DataError>(())
    /// ```
    ///
    /// # Panics
    /// If there is no such file.
    pub fn shown(&self, file: usize) -> String {
        let name = &self.files[file].name;
        match self.placement.as_ref().and_then(|placement| placement.shown(file)) {
            Some(hosts) => format!("{name} on {hosts}"),
            None => name.clone(),
        }
    }

    /// Whether files are spread over hosts.
    pub fn is_spread(&self) -> bool {
        self.placement.is_some()
    }

    /// How messages name process `process` of those over which files are spread.
    pub fn host(&self, process: usize) -> String {
        let named = self.placement.as_ref().and_then(|placement| placement.host(process));
        named.unwrap_or_else(|| format!("process {process}"))
    }

    /// Whether process `process` sees file number `file`.
    pub fn sees(&self, process: usize, file: usize) -> bool {
        self.placement.as_ref().is_none_or(|placement| placement.sees(process, file))
    }

    /// Whether there is a file that processes `a` and `b` both see: blocks may go from one to the other.
    ///
    /// ```
    /// # use nystream_datasets::{Catalog, Sources};
    /// // On a shared file system every process sees all files.
    /// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000"])?)?;
    /// assert!(catalog.sees(3, 0) && catalog.meet(0, 3));
    /// # Ok::<(), nystream_datasets::DataError>(())
    /// ```
    pub fn meet(&self, a: usize, b: usize) -> bool {
        self.placement.as_ref().is_none_or(|placement| placement.meet(a, b))
    }

    /// Global blocks `first..end` as runs, one a file.
    pub fn runs(&self, first: u64, end: u64) -> Vec<BlockRun> {
        let end = end.min(self.blocks());
        let mut runs = Vec::new();
        for file in 0..self.files.len() {
            let (lo, hi) = (self.starts[file].max(first), self.starts[file + 1].min(end));
            if lo < hi {
                runs.push(BlockRun { file, first: lo - self.starts[file], end: hi - self.starts[file] });
            }
        }
        runs
    }

    /// Rows in `runs`, which are of this catalog.
    pub fn rows_of(&self, runs: &[BlockRun]) -> u64 {
        runs.iter().map(|run| (run.end * BLOCK_ROWS).min(self.files[run.file].rows) - run.first * BLOCK_ROWS).sum()
    }

    /// The index of column `name`.
    ///
    /// # Errors
    /// [`DataError::MissingColumn`] with the nearest names; `role` says what it was wanted for.
    pub fn column(&self, name: &str, role: &'static str) -> Result<usize, DataError> {
        self.columns
            .iter()
            .position(|info| info.name == name)
            .ok_or_else(|| DataError::missing(name, role, self.columns.iter().map(|info| info.name.as_str())))
    }

    /// What column number `index` takes while it is decoded, at most over all row groups, by the footers.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn column_bytes(&self, index: usize) -> ColumnBytes {
        self.bytes[index]
    }

    /// What a worker holds of objects while it reads the columns `projection`, at most: nothing where all files are on a disk.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn fetched_bytes(&self, projection: &[usize]) -> u64 {
        ahead::planned_bytes(projection.iter().map(|index| self.bytes[*index].fetched))
    }

    /// Files by identity: the number of the file with `id`.
    pub fn file_index(&self, id: FileId) -> Option<usize> {
        self.files.iter().position(|file| file.id == id)
    }

    /// All files by id, as messages about rows name them.
    pub fn names(&self) -> BTreeMap<FileId, String> {
        self.files.iter().enumerate().map(|(index, file)| (file.id, self.shown(index))).collect()
    }
}

/// Matches the columns of a further file with those known; returns the position of each known column in it.
fn reconcile(
    files: &[CatalogFile],
    path: &Path,
    columns: &mut [ColumnInfo],
    origins: &mut [usize],
    infos: &[ColumnInfo],
    positions: &HashMap<&str, usize>,
) -> Result<Arc<[usize]>, DataError> {
    let mut order = Vec::with_capacity(columns.len());
    for (column, origin) in columns.iter_mut().zip(origins) {
        let Some(&position) = positions.get(column.name.as_str()) else {
            let (column, file) = (column.name.clone(), path.to_path_buf());
            return Err(DataError::SchemaColumn { column, file, other: files[0].path.clone() });
        };
        let info = &infos[position];
        if column.kind == ColumnKind::Null && info.kind != ColumnKind::Null {
            // An all-null file says nothing about the type; this one does.
            *column = info.clone();
            *origin = files.len();
        } else if info.kind != ColumnKind::Null && info.kind != column.kind {
            return Err(DataError::SchemaType {
                column: column.name.clone(),
                file: path.to_path_buf(),
                kind: format!("{} ({})", info.kind, info.data_type),
                other: files[*origin].path.clone(),
                other_kind: format!("{} ({})", column.kind, column.data_type),
            });
        }
        column.integer &= info.integer || info.kind == ColumnKind::Null;
        order.push(position);
    }
    if infos.len() > columns.len() {
        let known: HashMap<&str, ()> = columns.iter().map(|column| (column.name.as_str(), ())).collect();
        if let Some(extra) = infos.iter().find(|info| !known.contains_key(info.name.as_str())) {
            let (column, file) = (extra.name.clone(), files[0].path.clone());
            return Err(DataError::SchemaColumn { column, file, other: path.to_path_buf() });
        }
    }
    Ok(order.into())
}

/// What a catalog takes from a file: the file, its columns, and their sizes.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub file: CatalogFile,
    pub infos: Vec<ColumnInfo>,
    pub sizes: Vec<ColumnBytes>,
    /// Of an object, which version it is.
    pub tag: Option<String>,
}

fn open_parquet(source: &SourceFile, path: &Path, file: RangeFile) -> Result<Described, DataError> {
    let footer = read_sized_footer(path, &file)?;
    let arrow = arrow_metadata(path, &footer)?;
    // An object has a tag of its own.
    let sample = if file.version().is_none() { Some(sampled(path, &file)?) } else { None };
    let infos: Vec<ColumnInfo> = arrow
        .schema()
        .fields()
        .iter()
        .map(|field| ColumnInfo {
            name: field.name().clone(),
            kind: ColumnKind::of(field.data_type()),
            integer: is_integer(field.data_type()),
            data_type: field.data_type().to_string(),
        })
        .collect();
    let mut row_groups = vec![0];
    for group in footer.metadata.row_groups() {
        row_groups.push(row_groups[row_groups.len() - 1] + group.num_rows() as u64);
    }
    let file = CatalogFile {
        path: path.to_path_buf(),
        name: source.name.clone(),
        id: source.id,
        rows: row_groups[row_groups.len() - 1],
        bytes: file.size(),
        row_groups,
        columns: Arc::new([]),
        synth: None,
        object: file.version(),
        digest: footer.digest,
    };
    tracing::debug!(file = file.name, rows = file.rows, row_groups = file.row_groups.len() - 1, "footer read");
    let mut sizes = column_bytes(&footer.metadata, infos.len());
    if file.object.is_none() {
        sizes.iter_mut().for_each(|size| size.fetched = 0);
    }
    let tag = file.object.as_ref().map(|(_, version)| version.tag()).or(sample);
    Ok(Described { file, infos, sizes, tag })
}

/// Pieces of a file that its fingerprint looks at beside the footer, and their bytes.
const PIECES: u64 = 16;
const PIECE_BYTES: u64 = 4096;

/// A digest of pieces of a file, evenly spread; of all of it where it is small. Files of fixed width may have one footer whatever they hold: what was rewritten shows here, what was
/// changed in a few places may not.
pub(crate) fn sampled(path: &Path, file: &RangeFile) -> Result<String, DataError> {
    let size = file.size();
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES.min(size) as usize];
    let pieces = size.div_ceil(PIECE_BYTES).min(PIECES);
    for k in 0..pieces {
        let start = (size - piece.len() as u64) * k / (pieces - 1).max(1);
        file.read_exact_at(path, &mut piece, start)?;
        hasher.update(&piece);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The Arrow schema of a file.
pub(crate) fn arrow_metadata(path: &Path, footer: &Footer) -> Result<ArrowReaderMetadata, DataError> {
    let corrupt = |reason: String| DataError::Footer { path: path.into(), reason };
    crate::scan::guarded(|| ArrowReaderMetadata::try_new(footer.metadata.clone(), ArrowReaderOptions::new()))
        .map_err(corrupt)?
        .map_err(|e| corrupt(e.to_string()))
}

fn open_synth(source: &SourceFile, spec: &SynthSpec) -> Described {
    let file = CatalogFile {
        path: source.path(),
        name: source.name.clone(),
        id: source.id,
        rows: spec.rows,
        bytes: 0,
        row_groups: vec![0, spec.rows],
        columns: Arc::new([]),
        synth: Some(spec.clone()),
        object: None,
        digest: *blake3::hash(source.name.as_bytes()).as_bytes(),
    };
    let infos = spec.columns();
    let sizes = infos.iter().map(|info| ColumnBytes::generated(info.kind == ColumnKind::Text)).collect();
    Described { file, infos, sizes, tag: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn synth(rows: &[u64]) -> Catalog {
        let specs: Vec<String> = rows.iter().map(|rows| format!("synth:sines?rows={rows}&d=2&seed={rows}")).collect();
        Catalog::open(&Sources::parse(&specs).unwrap()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn partitions_cover_every_block_once(rows in vec(0u64..30_000, 1..6), peers in 1usize..40) {
            let distinct: Vec<u64> = rows.iter().enumerate().map(|(i, rows)| rows * 8 + i as u64 + 1).collect();
            let catalog = synth(&distinct);
            let (mut seen, mut sizes, mut counted) = (Vec::new(), Vec::new(), 0);
            for index in 0..peers {
                let runs = catalog.partition(peers, index);
                counted += catalog.rows_of(&runs);
                sizes.push(runs.iter().map(|run| run.end - run.first).sum::<u64>());
                for run in runs {
                    seen.extend((run.first..run.end).map(|block| catalog.global_block(run.file, block)));
                }
            }
            prop_assert_eq!(seen, (0..catalog.blocks()).collect::<Vec<_>>());
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            prop_assert_eq!(counted, catalog.total_rows);
        }
    }

    #[test]
    fn locate_inverts_global_block() {
        let catalog = synth(&[10_000, 0, 5000]);
        for block in 0..catalog.blocks() {
            let (file, within) = catalog.locate(block).unwrap();
            assert!(within < catalog.files[file].blocks());
            assert_eq!(catalog.global_block(file, within), block);
        }
        assert_eq!(catalog.locate(catalog.blocks()), None);
    }

    #[test]
    fn fingerprints_tell_data_apart() {
        assert_eq!(synth(&[10]).fingerprint, synth(&[10]).fingerprint);
        assert_ne!(synth(&[10]).fingerprint, synth(&[11]).fingerprint);
    }

    #[test]
    fn no_rows_is_an_error() {
        let sources = Sources::parse(&["synth:sines?rows=0"]).unwrap();
        assert!(matches!(Catalog::open(&sources), Err(DataError::NoRows { files: 1, .. })));
    }
}
