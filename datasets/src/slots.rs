//! Encoded rows that come and go: on local disk, one slot a row.
//!
//! Problem: a learner that can take rows back reads all rows that are left again when its centers change, and single ones when they leave. Chunks of a [`ChunkCache`](crate::ChunkCache)
//! can be read, not changed. Here every row has as many bytes as the others and a slot of its own in a file without a name; a slot that is given back is used again.
//!
//! Invariants
//! * A row reads back with the bits that it was written with; a checksum over the record and its slot tells what the disk has lost or mixed up.
//! * The file is a cache: it goes with the process, and what is in it can be made again from the rows as they came.
//! * Which slot a row has is a function of what came before, so nothing that is summed in the order of slots may depend on that order.
//!
//! Cost: a write for each run of neighbouring slots, a read for each run of them. Memory: a bit a slot, 8 bytes for each slot that is free.

use crate::pread::Positioned;
use crate::{BLOCK_ROWS, Chunk, DataError};
use nystream_hashing::RowId;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that are read at once, about.
const READ_BYTES: usize = 16 << 20;

/// What a row is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLayout {
    /// Numeric columns.
    pub numeric: usize,
    /// Categorical columns.
    pub codes: usize,
    /// Targets.
    pub targets: usize,
}

impl SlotLayout {
    /// Bytes of a slot: checksum, id, weight, targets, numbers, codes, in words of 8.
    pub fn bytes(&self) -> usize {
        (8 + 16 + 8 + 8 * self.targets + 4 * self.numeric + 2 * self.codes).next_multiple_of(8)
    }

    /// Readies a chunk for rows of this layout; it has none.
    fn shape(&self, chunk: &mut Chunk) {
        chunk.clear();
        (chunk.numeric_width, chunk.code_width, chunk.target_width) = (self.numeric, self.codes, self.targets);
    }

    fn write(&self, chunk: &Chunk, i: usize, slot: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&chunk.ids[i].0.to_le_bytes());
        out.extend_from_slice(&chunk.weights[i].to_le_bytes());
        chunk.targets_of(i..i + 1).iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        chunk.numeric_of(i..i + 1).iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        chunk.codes_of(i..i + 1).iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        out.resize(start + self.bytes(), 0);
        let sum = checksum(slot, &out[start + 8..]);
        out[start..start + 8].copy_from_slice(&sum.to_le_bytes());
    }

    /// Appends the row in `bytes` to `chunk`; false where it is not that of `slot`.
    fn read(&self, bytes: &[u8], slot: u64, chunk: &mut Chunk) -> bool {
        let (head, rest) = bytes.split_at(8);
        if word(head) != checksum(slot, rest) {
            return false;
        }
        let (id, rest) = rest.split_at(16);
        let (weight, rest) = rest.split_at(8);
        let (targets, rest) = rest.split_at(8 * self.targets);
        let (numeric, rest) = rest.split_at(4 * self.numeric);
        chunk.ids.push(RowId(u128::from(word(&id[8..])) << 64 | u128::from(word(id))));
        chunk.weights.push(f64::from_bits(word(weight)));
        chunk.targets.extend(targets.chunks_exact(8).map(|bytes| f64::from_bits(word(bytes))));
        chunk.numeric.extend(numeric.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        chunk.codes.extend(rest.as_chunks::<2>().0.iter().take(self.codes).map(|bytes| u16::from_le_bytes(*bytes)));
        chunk.ordinals.push(slot);
        chunk.held_out.push(false);
        true
    }
}

/// 8 bytes as an integer.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Tells a record from any other and from a damaged one; no protection from malice, which a file without a name does not need.
fn checksum(slot: u64, bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(FACTOR).rotate_left(29);
    bytes.as_chunks::<8>().0.iter().fold(mix(FACTOR, slot), |sum, bytes| mix(sum, u64::from_le_bytes(*bytes)))
}

/// What readers and the writer share.
#[derive(Clone, Debug)]
struct Place {
    folder: PathBuf,
    file: Arc<Positioned>,
    layout: SlotLayout,
}

impl Place {
    fn damaged(&self, slot: u64, reason: String) -> DataError {
        DataError::CacheRead { path: self.folder.clone(), chunk: usize::try_from(slot).unwrap_or(usize::MAX), reason }
    }

    /// Appends the rows of `slots` for which `wanted` says so.
    fn read(
        &self,
        slots: Range<u64>,
        wanted: impl Fn(u64) -> bool,
        bytes: &mut Vec<u8>,
        chunk: &mut Chunk,
    ) -> Result<(), DataError> {
        let size = self.layout.bytes();
        bytes.resize((slots.end - slots.start) as usize * size, 0);
        let read = self.file.read_exact_at(bytes, slots.start * size as u64);
        read.map_err(|error| self.damaged(slots.start, error.to_string()))?;
        for (slot, record) in slots.zip(bytes.chunks_exact(size)) {
            if wanted(slot) && !self.layout.read(record, slot, chunk) {
                return Err(self.damaged(slot, "its checksum is wrong".into()));
            }
        }
        Ok(())
    }
}

/// Rows by slot; see the module docs.
///
/// ```
/// use nystream_datasets::{Chunk, DataError, RowSlots, SlotLayout};
/// use nystream_hashing::RowId;
/// let folder = tempfile::tempdir().unwrap();
/// let layout = SlotLayout { numeric: 1, codes: 0, targets: 1 };
/// let mut slots = RowSlots::new(folder.path(), layout, 1 << 20)?;
/// let mut chunk = Chunk::new();
/// (chunk.ids, chunk.weights) = (vec![RowId(7), RowId(8)], vec![1.0, 1.0]);
/// (chunk.numeric, chunk.numeric_width) = (vec![0.5, -0.5], 1);
/// (chunk.targets, chunk.target_width) = (vec![10.0, 20.0], 1);
/// let given = slots.insert(&chunk, &[0, 1], 0)?;
/// slots.release(&given[..1]);
/// let (reader, mut back) = (slots.reader(), Chunk::new());
/// reader.read(0, &mut back)?;
/// assert_eq!((back.ids, back.numeric, back.targets), (vec![RowId(8)], vec![-0.5], vec![20.0]));
/// # Ok::<(), DataError>(())
/// ```
#[derive(Debug)]
pub struct RowSlots {
    place: Place,
    limit: u64,
    /// Slots that were ever used.
    used: u64,
    live: Arc<Vec<u64>>,
    free: Vec<u64>,
    bytes: Vec<u8>,
}

impl RowSlots {
    /// No rows yet, in a file in `folder` that may grow to `limit` bytes.
    ///
    /// # Errors
    /// [`DataError::CacheWrite`] when no file can be made there.
    pub fn new(folder: &Path, layout: SlotLayout, limit: u64) -> Result<Self, DataError> {
        let file = tempfile::tempfile_in(folder)
            .map_err(|source| DataError::CacheWrite { path: folder.to_path_buf(), source })?;
        let place = Place { folder: folder.to_path_buf(), file: Arc::new(Positioned::new(file)), layout };
        Ok(RowSlots { place, limit, used: 0, live: Arc::default(), free: Vec::new(), bytes: Vec::new() })
    }

    /// What a row is made of.
    pub fn layout(&self) -> SlotLayout {
        self.place.layout
    }

    /// Rows that are there.
    pub fn rows(&self) -> u64 {
        self.used - self.free.len() as u64
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.used * self.place.layout.bytes() as u64
    }

    /// Writes the rows at `which` of `chunk` and gives their slots. `leaving`: slots of rows that have gone and are still read by somebody, to be [released](RowSlots::release) later. They do not count against the limit, so that who is quick to
    /// release them does not decide what fits; the file exceeds it by no more than these.
    ///
    /// # Errors
    /// [`DataError::DiskBudget`] beyond the limit, [`DataError::CacheWrite`] when the disk refuses; no row is there then.
    pub fn insert(&mut self, chunk: &Chunk, which: &[usize], leaving: u64) -> Result<Vec<u64>, DataError> {
        let size = self.place.layout.bytes() as u64;
        let fresh = (which.len() as u64).saturating_sub(self.free.len() as u64);
        let needed = (self.rows().saturating_sub(leaving) + which.len() as u64) * size;
        if needed > self.limit && !which.is_empty() {
            return Err(DataError::DiskBudget { limit: self.limit, needed });
        }
        let reused = self.free.len() - (which.len() - fresh as usize);
        let slots: Vec<u64> = self.free[reused..].iter().rev().copied().chain(self.used..self.used + fresh).collect();
        let mut bytes = std::mem::take(&mut self.bytes);
        for run in runs(&slots) {
            bytes.clear();
            run.clone().for_each(|at| self.place.layout.write(chunk, which[at], slots[at], &mut bytes));
            let written = self.place.file.write_all_at(&bytes, slots[run.start] * size);
            written.map_err(|source| DataError::CacheWrite { path: self.place.folder.clone(), source })?;
        }
        self.bytes = bytes;
        self.free.truncate(reused);
        self.used += fresh;
        let live = Arc::make_mut(&mut self.live);
        live.resize(self.used.div_ceil(64) as usize, 0);
        slots.iter().for_each(|slot| live[(slot / 64) as usize] |= 1 << (slot % 64));
        Ok(slots)
    }

    /// Gives slots back. They may be used again by the next [`RowSlots::insert`].
    ///
    /// # Panics
    /// If a slot holds no row.
    pub fn release(&mut self, slots: &[u64]) {
        let live = Arc::make_mut(&mut self.live);
        for slot in slots {
            let (word, bit) = ((slot / 64) as usize, 1 << (slot % 64));
            assert!(live[word] & bit != 0, "slot {slot} holds no row");
            live[word] &= !bit;
        }
        self.free.extend_from_slice(slots);
    }

    /// The rows of `slots`, in that order, in the place of what `chunk` holds.
    ///
    /// # Errors
    /// [`DataError::CacheRead`] for what does not read back as it was written.
    pub fn read(&mut self, slots: &[u64], chunk: &mut Chunk) -> Result<(), DataError> {
        self.place.layout.shape(chunk);
        let mut bytes = std::mem::take(&mut self.bytes);
        for run in runs(slots) {
            self.place.read(slots[run.start]..slots[run.end - 1] + 1, |_| true, &mut bytes, chunk)?;
        }
        self.bytes = bytes;
        chunk.block_starts.extend([0, chunk.ids.len() as u32]);
        Ok(())
    }

    /// A reader of all rows that are there now, which may go to another thread. What is inserted or released later it does not see; a slot that is used again meanwhile it would read
    /// with its new row.
    pub fn reader(&self) -> SlotReader {
        SlotReader { place: self.place.clone(), used: self.used, live: Arc::clone(&self.live) }
    }

    /// A reader of those rows for whose slots `wanted` says so: the others are not decoded.
    pub fn reader_of(&self, wanted: impl Fn(u64) -> bool) -> SlotReader {
        let keep = |(at, word): (usize, &u64)| {
            let mut rest = *word;
            let mut kept = 0;
            while rest != 0 {
                let bit = rest.trailing_zeros();
                kept |= u64::from(wanted(64 * at as u64 + u64::from(bit))) << bit;
                rest &= rest - 1;
            }
            kept
        };
        let live = self.live.iter().enumerate().map(keep).collect();
        SlotReader { live: Arc::new(live), ..self.reader() }
    }
}

/// Runs of neighbouring slots, ascending, as ranges of their places, none above [`READ_BYTES`] of the smallest rows.
fn runs(slots: &[u64]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let first = start;
        let rest = slots.get(first..).filter(|rest| !rest.is_empty())?;
        let length =
            rest.windows(2).take(BLOCK_ROWS as usize - 1).take_while(|pair| pair[1] == pair[0] + 1).count() + 1;
        start = first + length;
        Some(first..start)
    })
}

/// All rows of a [`RowSlots`], chunk by chunk.
#[derive(Clone, Debug)]
pub struct SlotReader {
    place: Place,
    used: u64,
    live: Arc<Vec<u64>>,
}

impl SlotReader {
    /// Slots that are read together: four blocks' worth, fewer of wide rows.
    fn together(&self) -> u64 {
        ((READ_BYTES / self.place.layout.bytes()) as u64).clamp(1, 4 * BLOCK_ROWS)
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.used.div_ceil(self.together()) as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that all chunks together take on disk.
    pub fn bytes(&self) -> u64 {
        self.used * self.place.layout.bytes() as u64
    }

    /// Chunk `number`, in the place of what `chunk` holds; it may hold no row.
    ///
    /// # Errors
    /// [`DataError::CacheRead`] for what does not read back as it was written.
    pub fn read(&self, number: usize, chunk: &mut Chunk) -> Result<(), DataError> {
        let first = number as u64 * self.together();
        let end = (first + self.together()).min(self.used);
        self.place.layout.shape(chunk);
        let live = |slot: u64| self.live[(slot / 64) as usize] >> (slot % 64) & 1 == 1;
        // Words of slots that are not there have no bit.
        let words = (first / 64) as usize..(end.div_ceil(64) as usize).max((first / 64) as usize);
        if first < end && self.live[words].iter().any(|word| *word != 0) {
            let mut bytes = std::mem::take(&mut chunk.scratch.bytes);
            let read = self.place.read(first..end, live, &mut bytes, chunk);
            chunk.scratch.bytes = bytes;
            read?;
        }
        chunk.block_starts.extend([0, chunk.ids.len() as u32]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const LAYOUT: SlotLayout = SlotLayout { numeric: 3, codes: 3, targets: 2 };

    fn rows(from: usize, count: usize) -> Chunk {
        let mut chunk = Chunk::new();
        LAYOUT.shape(&mut chunk);
        for i in from..from + count {
            chunk.ids.push(RowId(i as u128 | 1 << 90));
            chunk.weights.push(0.25 * i as f64);
            chunk.targets.extend([i as f64, f64::NAN]);
            chunk.numeric.extend([i as f32, -0.0, 1e-30]);
            chunk.codes.extend([i as u16, 7, 9]);
        }
        chunk
    }

    /// Inserts and releases in runs of every length, against a map.
    #[test]
    fn rows_are_there_until_they_are_released() {
        let folder = tempfile::tempdir().unwrap();
        let mut slots = RowSlots::new(folder.path(), LAYOUT, u64::MAX).unwrap();
        let mut held: BTreeMap<u128, u64> = BTreeMap::new();
        let (mut next, mut back) = (0, Chunk::new());
        for round in 0..60usize {
            let chunk = rows(next, 1 + round * 37 % 300);
            next += chunk.ids.len();
            let which: Vec<usize> = (0..chunk.ids.len()).filter(|i| i % 7 != round % 7).collect();
            let given = slots.insert(&chunk, &which, 0).unwrap();
            which.iter().zip(&given).for_each(|(i, slot)| assert!(held.insert(chunk.ids[*i].0, *slot).is_none()));
            let gone: Vec<u128> = held.keys().copied().filter(|id| (*id as usize * 31 + round) % 5 < 2).collect();
            let gone: Vec<u64> = gone.iter().map(|id| held.remove(id).unwrap()).collect();
            slots.release(&gone);
            let asked: Vec<u64> = held.values().copied().collect();
            slots.read(&asked, &mut back).unwrap();
            let ids: Vec<u128> = back.ids.iter().map(|id| id.0).collect();
            assert!(ids.iter().eq(held.keys()) && slots.rows() == held.len() as u64, "round {round}");
            for (at, id) in ids.iter().enumerate() {
                let row = rows((*id as u64) as usize, 1);
                assert_eq!(back.numeric_of(at..at + 1), row.numeric_of(0..1));
                assert_eq!(back.codes_of(at..at + 1), row.codes_of(0..1));
                assert_eq!((back.weights[at], back.targets[2 * at]), (row.weights[0], row.targets[0]));
                assert!(back.targets[2 * at + 1].is_nan() && back.numeric[3 * at + 1].is_sign_negative());
            }
        }
        let reader = slots.reader();
        let mut all: Vec<u128> = Vec::new();
        for number in 0..reader.len() {
            reader.read(number, &mut back).unwrap();
            all.extend(back.ids.iter().map(|id| id.0));
        }
        all.sort_unstable();
        assert!(all.iter().eq(held.keys()));
        // Some of them: every third slot, and none of the first hundred.
        let wanted = |slot: u64| slot % 3 == 1 && slot >= 100;
        let (reader, mut some) = (slots.reader_of(wanted), Vec::new());
        for number in 0..reader.len() {
            reader.read(number, &mut back).unwrap();
            some.extend(back.ids.iter().map(|id| id.0));
        }
        some.sort_unstable();
        let expected = held.iter().filter(|(_, slot)| wanted(**slot)).map(|(id, _)| *id);
        assert!(some.iter().copied().eq(expected) && !some.is_empty());
        // Slots were used again: the file is no larger than the most rows that were ever there, about.
        assert!(slots.bytes() < next as u64 * LAYOUT.bytes() as u64 / 2, "{} of {next}", slots.bytes());
    }

    #[test]
    fn limits_and_damage_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let limit = 10 * LAYOUT.bytes() as u64;
        let mut slots = RowSlots::new(folder.path(), LAYOUT, limit).unwrap();
        let chunk = rows(0, 11);
        let all: Vec<usize> = (0..11).collect();
        assert!(matches!(slots.insert(&chunk, &all, 0), Err(DataError::DiskBudget { .. })));
        let given = slots.insert(&chunk, &all[..10], 0).unwrap();
        assert!(slots.insert(&chunk, &[10], 0).is_err());
        slots.release(&given[3..4]);
        assert_eq!(slots.insert(&chunk, &[10], 0).unwrap(), [3]);
        // What only waits to be released is no row.
        assert_eq!(slots.insert(&chunk, &[0, 1], 2).unwrap(), [10, 11]);
        slots.release(&[10, 11]);
        // Another row's record, and a flipped bit.
        let size = LAYOUT.bytes() as u64;
        let mut record = vec![0; size as usize];
        slots.place.file.read_exact_at(&mut record, 4 * size).unwrap();
        slots.place.file.write_all_at(&record, 5 * size).unwrap();
        record[40] ^= 1;
        slots.place.file.write_all_at(&record, 4 * size).unwrap();
        let mut back = Chunk::new();
        for slot in [4, 5] {
            let error = slots.read(&[slot], &mut back).unwrap_err();
            assert!(error.to_string().contains("checksum"), "{error}");
        }
        assert!(slots.reader().read(0, &mut back).is_err());
        slots.read(&[3], &mut back).unwrap();
        assert_eq!(back.ids[0], chunk.ids[10]);
    }
}
