//! Encoded chunks kept for another pass: on local disk, or in memory.
//!
//! A chunk is spilled once, as one rkyv archive in a file without a name (the system removes it when the process
//! ends, however it ends), and read back by position into a reused buffer. Its length and BLAKE3 are remembered in memory: an archive that
//! comes back different is an error, and what passes is validated again by rkyv before it is trusted.
//! Both kinds refuse to outgrow their budget.

use crate::pread::Positioned;
use crate::{BadReason, BadRow, Chunk, DataError};
use nystream_hashing::{FileId, RowId};
use rkyv::rancor;
use rkyv::util::AlignedVec;
use std::io;
use std::path::{Path, PathBuf};

/// Chunks by number, in the order they were written.
///
/// ```
/// use nystream_datasets::{Chunk, ChunkCache};
/// let mut cache = ChunkCache::in_memory(1 << 20);
/// let mut chunk = Chunk::new();
/// (chunk.numeric, chunk.numeric_width) = (vec![1.0, 2.0], 2);
/// let number = cache.write(&chunk)?;
/// let mut back = Chunk::new();
/// cache.read(number, &mut back)?;
/// assert_eq!(back, chunk);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
#[derive(Debug)]
pub struct ChunkCache {
    store: Store,
    limit: u64,
    used: u64,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<Chunk>),
    Disk { folder: PathBuf, file: Positioned, entries: Vec<Entry> },
}

/// Where an archive lies, and what it must hash to.
#[derive(Debug)]
struct Entry {
    offset: u64,
    length: usize,
    hash: blake3::Hash,
}

impl ChunkCache {
    /// A cache in an unnamed file in `folder`, of at most `limit` bytes.
    ///
    /// # Errors
    /// [`DataError::CacheWrite`] when no file can be made there.
    pub fn on_disk(folder: &Path, limit: u64) -> Result<Self, DataError> {
        let file = tempfile::tempfile_in(folder)
            .map_err(|source| DataError::CacheWrite { path: folder.to_path_buf(), source })?;
        Ok(Self::in_file(folder, file, limit))
    }

    fn in_file(folder: &Path, file: std::fs::File, limit: u64) -> Self {
        let store = Store::Disk { folder: folder.to_path_buf(), file: Positioned::new(file), entries: Vec::new() };
        ChunkCache { store, limit, used: 0 }
    }

    /// A cache in memory, of at most `limit` bytes.
    pub fn in_memory(limit: u64) -> Self {
        ChunkCache { store: Store::Memory(Vec::new()), limit, used: 0 }
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        match &self.store {
            Store::Memory(chunks) => chunks.len(),
            Store::Disk { entries, .. } => entries.len(),
        }
    }

    /// Whether there is no chunk.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes used so far.
    pub fn bytes(&self) -> u64 {
        self.used
    }

    /// Appends a copy of `chunk` and returns its number: 0, 1, 2, ..
    ///
    /// ```
    /// use nystream_datasets::{Chunk, ChunkCache, DataError};
    /// let folder = tempfile::tempdir().unwrap();
    /// let mut cache = ChunkCache::on_disk(folder.path(), 10_000)?;
    /// let mut chunk = Chunk::new();
    /// (chunk.numeric, chunk.numeric_width) = (vec![0.5; 1000], 1);
    /// // 4,000 bytes and some for the shape: two fit, a third is refused and changes nothing.
    /// assert_eq!((cache.write(&chunk)?, cache.write(&chunk)?), (0, 1));
    /// assert!(matches!(cache.write(&chunk), Err(DataError::DiskBudget { limit: 10_000, .. })));
    /// assert_eq!(cache.len(), 2);
    /// // The file has no name: it goes when the process does, however that ends.
    /// assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    /// # Ok::<(), DataError>(())
    /// ```
    ///
    /// # Errors
    /// [`DataError::DiskBudget`] or [`DataError::MemoryBudget`] beyond the limit, [`DataError::CacheWrite`] when the disk refuses.
    pub fn write(&mut self, chunk: &Chunk) -> Result<usize, DataError> {
        match &mut self.store {
            Store::Memory(chunks) => {
                let mut copy = chunk.clone();
                copy.scratch = Default::default();
                let needed = self.used + copy.capacity_bytes() as u64;
                if needed > self.limit {
                    return Err(DataError::MemoryBudget { limit: self.limit, needed });
                }
                self.used = needed;
                chunks.push(copy);
                Ok(chunks.len() - 1)
            }
            Store::Disk { folder, file, entries } => {
                let write = |source| DataError::CacheWrite { path: folder.clone(), source };
                let bytes =
                    rkyv::to_bytes::<rancor::Error>(&Archive::of(chunk)).map_err(|e| write(io::Error::other(e)))?;
                let needed = self.used + bytes.len() as u64;
                if needed > self.limit {
                    return Err(DataError::DiskBudget { limit: self.limit, needed });
                }
                file.write_all_at(&bytes, self.used).map_err(write)?;
                entries.push(Entry { offset: self.used, length: bytes.len(), hash: blake3::hash(&bytes) });
                self.used = needed;
                Ok(entries.len() - 1)
            }
        }
    }

    /// Copies chunk `number` into `chunk`, reusing its buffers.
    ///
    /// # Errors
    /// [`DataError::CacheRead`] when there is no such chunk or it came back damaged.
    pub fn read(&self, number: usize, chunk: &mut Chunk) -> Result<(), DataError> {
        let folder = match &self.store {
            Store::Memory(_) => Path::new("memory"),
            Store::Disk { folder, .. } => folder,
        };
        let fail = |reason: String| DataError::CacheRead { path: folder.to_path_buf(), chunk: number, reason };
        match &self.store {
            Store::Memory(chunks) => {
                let stored = chunks.get(number).ok_or_else(|| fail("it was never written".into()))?;
                chunk.clone_from(stored);
                Ok(())
            }
            Store::Disk { file, entries, .. } => {
                let entry = entries.get(number).ok_or_else(|| fail("it was never written".into()))?;
                let mut bytes = AlignedVec::<16>::with_capacity(entry.length);
                bytes.resize(entry.length, 0);
                file.read_exact_at(&mut bytes, entry.offset).map_err(|e| fail(e.to_string()))?;
                if blake3::hash(&bytes) != entry.hash {
                    return Err(fail("its checksum is wrong".into()));
                }
                let archive =
                    rkyv::access::<ArchivedArchive, rancor::Error>(&bytes).map_err(|e| fail(e.to_string()))?;
                archive.restore(chunk);
                Ok(())
            }
        }
    }
}

/// A chunk as archived. 128-bit ids are two halves: archives are only ever aligned to what their fields need, and 8 bytes are safe everywhere.
#[derive(rkyv::Archive, rkyv::Serialize)]
struct Archive {
    file: Option<[u64; 2]>,
    first_block: u64,
    block_starts: Vec<u32>,
    ids: Vec<[u64; 2]>,
    ordinals: Vec<u64>,
    numeric: Vec<f32>,
    codes: Vec<u16>,
    targets: Vec<f64>,
    weights: Vec<f64>,
    widths: [u32; 3],
    held_out: Vec<u8>,
    bad: Vec<ArchiveBad>,
    skipped_null_target: u64,
}

#[derive(rkyv::Archive, rkyv::Serialize)]
struct ArchiveBad {
    file: [u64; 2],
    ordinal: u64,
    id: [u64; 2],
    column: String,
    reason: u8,
}

const REASONS: [BadReason; 8] = [
    BadReason::NotANumber,
    BadReason::Infinite,
    BadReason::TooLarge,
    BadReason::FarOut,
    BadReason::NegativeWeight,
    BadReason::NullWeight,
    BadReason::UnknownLabel,
    BadReason::NullId,
];

fn halves(value: u128) -> [u64; 2] {
    [(value >> 64) as u64, value as u64]
}

impl Archive {
    fn of(chunk: &Chunk) -> Self {
        let bad = |row: &BadRow| ArchiveBad {
            file: halves(row.file.0),
            ordinal: row.ordinal,
            id: halves(row.id.0),
            column: row.column.clone(),
            reason: REASONS.iter().position(|reason| *reason == row.reason).unwrap_or(0) as u8,
        };
        Archive {
            file: chunk.file.map(|file| halves(file.0)),
            first_block: chunk.first_block,
            block_starts: chunk.block_starts.clone(),
            ids: chunk.ids.iter().map(|id| halves(id.0)).collect(),
            ordinals: chunk.ordinals.clone(),
            numeric: chunk.numeric.clone(),
            codes: chunk.codes.clone(),
            targets: chunk.targets.clone(),
            weights: chunk.weights.clone(),
            widths: [chunk.numeric_width, chunk.code_width, chunk.target_width].map(|width| width as u32),
            held_out: chunk.held_out.iter().map(|held| u8::from(*held)).collect(),
            bad: chunk.bad.iter().map(bad).collect(),
            skipped_null_target: chunk.skipped_null_target,
        }
    }
}

impl ArchivedArchive {
    fn restore(&self, chunk: &mut Chunk) {
        let whole = |halves: &[rkyv::rend::u64_le; 2]| {
            u128::from(halves[0].to_native()) << 64 | u128::from(halves[1].to_native())
        };
        chunk.clear();
        chunk.file = self.file.as_ref().map(|file| FileId(whole(file)));
        chunk.first_block = self.first_block.to_native();
        chunk.block_starts.extend(self.block_starts.iter().map(|v| v.to_native()));
        chunk.ids.extend(self.ids.iter().map(|id| RowId(whole(id))));
        chunk.ordinals.extend(self.ordinals.iter().map(|v| v.to_native()));
        chunk.numeric.extend(self.numeric.iter().map(|v| v.to_native()));
        chunk.codes.extend(self.codes.iter().map(|v| v.to_native()));
        chunk.targets.extend(self.targets.iter().map(|v| v.to_native()));
        chunk.weights.extend(self.weights.iter().map(|v| v.to_native()));
        [chunk.numeric_width, chunk.code_width, chunk.target_width] =
            [0, 1, 2].map(|i| self.widths[i].to_native() as usize);
        chunk.held_out.extend(self.held_out.iter().map(|held| *held != 0));
        chunk.bad.extend(self.bad.iter().map(|row| BadRow {
            file: FileId(whole(&row.file)),
            ordinal: row.ordinal.to_native(),
            id: RowId(whole(&row.id)),
            column: row.column.as_str().to_string(),
            reason: REASONS.get(usize::from(row.reason)).copied().unwrap_or(BadReason::NotANumber),
        }));
        chunk.skipped_null_target = self.skipped_null_target.to_native();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(seed: u64, rows: usize) -> Chunk {
        let file = FileId::from_relative_path("a");
        let bits = |i: usize| file.row(seed * 1_000_000 + i as u64).0;
        let bad = REASONS.iter().enumerate().map(|(i, reason)| BadRow {
            file,
            ordinal: i as u64,
            id: RowId(bits(i)),
            column: format!("c{i}"),
            reason: *reason,
        });
        Chunk {
            file: Some(file),
            first_block: seed,
            block_starts: vec![0, rows as u32],
            ids: (0..rows).map(|i| RowId(bits(i))).collect(),
            ordinals: (0..rows as u64).collect(),
            numeric: (0..rows * 3).map(|i| bits(i) as u32 as f32).collect(),
            numeric_width: 3,
            codes: (0..rows * 2).map(|i| bits(i) as u16).collect(),
            code_width: 2,
            targets: (0..rows).map(|i| bits(i) as u64 as f64).collect(),
            target_width: 1,
            weights: (0..rows).map(|i| i as f64).collect(),
            held_out: (0..rows).map(|i| bits(i) & 1 == 1).collect(),
            bad: bad.collect(),
            skipped_null_target: 5,
            ..Chunk::default()
        }
    }

    #[test]
    fn disk_and_memory_give_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        for mut cache in [ChunkCache::on_disk(folder.path(), 1 << 30).unwrap(), ChunkCache::in_memory(1 << 30)] {
            let chunks: Vec<Chunk> = (0..6).map(|seed| chunk(seed, 100 * seed as usize)).collect();
            for (i, chunk) in chunks.iter().enumerate() {
                assert_eq!(cache.write(chunk).unwrap(), i);
            }
            let mut back = Chunk::new();
            for i in [3, 0, 5, 1, 1, 4, 2] {
                cache.read(i, &mut back).unwrap();
                assert_eq!(back, chunks[i]);
            }
            assert!(matches!(cache.read(6, &mut back), Err(DataError::CacheRead { chunk: 6, .. })));
            assert_eq!(cache.len(), 6);
        }
        // Nothing with a name is ever left.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn reading_reuses_the_buffers() {
        let mut cache = ChunkCache::in_memory(1 << 30);
        let (large, small) = (chunk(1, 500), chunk(2, 400));
        cache.write(&large).unwrap();
        cache.write(&small).unwrap();
        let mut read = Chunk::new();
        cache.read(0, &mut read).unwrap();
        let places = (read.numeric.as_ptr(), read.ids.as_ptr(), read.targets.as_ptr());
        assert_eq!(read, large);
        cache.read(1, &mut read).unwrap();
        assert_eq!((read.numeric.as_ptr(), read.ids.as_ptr(), read.targets.as_ptr()), places);
        assert_eq!(read, small);
    }

    #[test]
    fn nan_targets_survive() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = ChunkCache::on_disk(folder.path(), 1 << 20).unwrap();
        let mut one = chunk(1, 2);
        one.targets[1] = f64::NAN;
        cache.write(&one).unwrap();
        let mut back = Chunk::new();
        cache.read(0, &mut back).unwrap();
        assert!(back.targets[1].is_nan());
    }

    #[test]
    fn budgets_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = ChunkCache::on_disk(folder.path(), 10_000).unwrap();
        let mut memory = ChunkCache::in_memory(10_000);
        let one = chunk(0, 50);
        while disk.bytes() < 5_000 {
            disk.write(&one).unwrap();
            memory.write(&one).unwrap();
        }
        let big = chunk(0, 500);
        assert!(matches!(disk.write(&big), Err(DataError::DiskBudget { limit: 10_000, needed }) if needed > 10_000));
        assert!(matches!(memory.write(&big), Err(DataError::MemoryBudget { limit: 10_000, .. })));
        // What was there is still there.
        let mut back = Chunk::new();
        disk.read(0, &mut back).unwrap();
        assert_eq!(back, one);
    }

    #[test]
    fn damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = tempfile::tempfile_in(folder.path()).unwrap();
        let other = Positioned::new(file.try_clone().unwrap());
        let mut cache = ChunkCache::in_file(folder.path(), file, 1 << 20);
        cache.write(&chunk(0, 10)).unwrap();
        let (middle, mut byte) = (cache.bytes() / 2, [0]);
        other.read_exact_at(&mut byte, middle).unwrap();
        other.write_all_at(&[byte[0] ^ 0x10], middle).unwrap();
        let error = cache.read(0, &mut Chunk::new()).unwrap_err().to_string();
        assert!(error.contains("checksum") && error.contains("chunk 0"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_with_a_remedy() {
        let full = std::fs::OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
        let mut cache = ChunkCache::in_file(Path::new("/spill"), full, 1 << 20);
        let error = cache.write(&chunk(0, 10)).unwrap_err();
        assert!(matches!(&error, DataError::CacheWrite { source, .. } if source.kind() == io::ErrorKind::StorageFull));
        assert!(error.to_string().contains("/spill") && error.to_string().contains("--temp-dir"), "{error}");
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        assert!(matches!(ChunkCache::on_disk(Path::new("/no/such/folder"), 1), Err(DataError::CacheWrite { .. })));
    }
}
