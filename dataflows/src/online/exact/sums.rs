//! The sums in a file: what a restart needs of the Gram, so that it sums the changes after a snapshot alone.
//!
//! The problem: the Gram of the rows is what a publication costs, n m^2 flops of it, and a restart that has the rows again has not got it. Its integers are a sum over a set, so those of an earlier set
//! are enough: the rows that came since are added, those that went subtracted, bit for bit what a pass over all rows would give.
//!
//! ```text
//!  FOLDER/sums-<number>     magic, what is known of the sums, the centers, the pieces of the Gram, BLAKE3 of all before
//! ```
//!
//! Invariants
//! * A snapshot of the run names the file that goes with it, by its number and its BLAKE3 ([`Reference`]): one of another time, of another run or with a flipped bit is not taken for it.
//! * A file appears whole or not at all. What two snapshots name is kept: the last three files, since a snapshot may fail whose file was written.
//! * Without the file nothing is lost but time: all rows are summed again, to the same bits.
//!
//! Cost: 7 of the 16 bytes of each integer of the Gram, 3.5 m^2 bytes; in memory a piece at a time.

use crate::dictionary::Centers;
use crate::dictionary::stored;
use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::Outgoing;
use crate::error::StageError;
use nystream_datasets::atomic::AtomicFile;
use nystream_kernels::gram::{ExactGram, GramShape};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// First bytes of a file: what it is, and the version of its format.
const MAGIC: &[u8; 8] = b"NYSSUM\0\x01";
/// Files that are kept.
const KEPT: usize = 3;
/// Bytes of a frame at most that is believed before its checksum is known.
const FRAME: u64 = 1 << 34;

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub number: u64,
    pub digest: [u8; 32],
}

impl Reference {
    pub(super) fn write(&self, out: &mut Writer) {
        out.u64(self.number);
        out.bytes(&self.digest);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, StageError> {
        let number = from.u64()?;
        let digest = from.bytes()?.try_into();
        Ok(Reference { number, digest: digest.map_err(|_| StageError::Internal("a digest is cut short".into()))? })
    }
}

/// The sums of a set of rows.
pub(super) struct Kept {
    /// How many centers were asked for when they were chosen.
    pub asked: usize,
    /// Whether the centers of these rows may be others.
    pub dirty: bool,
    /// The centers as they were chosen.
    pub centers: Arc<Centers>,
    /// The place of each center of the Gram among those.
    pub order: Arc<Vec<usize>>,
    /// The integers; none where they are another process's.
    pub gram: Option<Arc<ExactGram>>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    asked: usize,
    dirty: bool,
    order: Vec<usize>,
    frames: usize,
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("sums-{number:020}"))
}

/// The numbers of the files that are there, ascending.
fn numbers(folder: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |name: std::ffi::OsString| name.to_str()?.strip_prefix("sums-")?.parse().ok();
    let mut numbers: Vec<u64> = entries.filter_map(|entry| number(entry.file_name())).collect();
    numbers.sort_unstable();
    numbers
}

/// Writes `kept` behind the files that are there, and removes all but the last ones.
///
/// # Errors
/// [`StageError::Data`], such as a full disk: the files before are as they were.
pub(super) fn write(folder: &Path, kept: &Kept) -> Result<Reference, StageError> {
    let failed = |error: &dyn std::fmt::Display| StageError::Data(format!("the sums cannot be stored: {error}"));
    std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    let number = numbers(folder).last().map_or(0, |last| last + 1);
    let (mut file, mut hasher) =
        (AtomicFile::create(&path(folder, number)).map_err(|error| failed(&error))?, blake3::Hasher::new());
    let frames = stored::frames(&kept.centers);
    let head = head(kept, frames.len()).map_err(|error| failed(&error))?;
    let mut put = |bytes: &[u8]| {
        let length = (bytes.len() as u64).to_le_bytes();
        hasher.update(&length).update(bytes);
        file.write_all(&length).and_then(|()| file.write_all(bytes))
    };
    put(MAGIC).and_then(|()| put(&head)).map_err(|error| failed(&error))?;
    for frame in frames {
        put(&frame.bytes).map_err(|error| failed(&error))?;
    }
    let gram = kept.gram.as_ref().ok_or_else(|| failed(&"they are another process's"))?;
    for piece in 0..gram.pieces() {
        let bytes = gram.export(piece).map_err(|error| failed(&error))?;
        put(&bytes).map_err(|error| failed(&error))?;
    }
    let digest = *hasher.finalize().as_bytes();
    file.write_all(&digest).map_err(|error| failed(&error))?;
    file.commit().map_err(|error| failed(&error))?;
    let numbers = numbers(folder);
    for old in &numbers[..numbers.len().saturating_sub(KEPT)] {
        // One that stays goes next time.
        let _ = std::fs::remove_file(path(folder, *old));
    }
    Ok(Reference { number, digest })
}

/// What the other processes of a job need of `kept`: all but the integers.
pub(super) fn told(kept: &Kept) -> Vec<u8> {
    let frames = stored::frames(&kept.centers);
    let mut out = Writer::default();
    out.bytes(&head(kept, frames.len()).unwrap_or_default());
    frames.iter().for_each(|frame| out.bytes(&frame.bytes));
    out.0
}

/// What [`told`] tells.
///
/// # Errors
/// [`StageError::Internal`] for anything else.
pub(super) fn heard(bytes: &[u8]) -> Result<Kept, StageError> {
    let damaged = |what: &str| StageError::Internal(format!("stored sums arrived damaged: {what}"));
    let mut from = Reader(bytes);
    let head: Head = serde_json::from_slice(from.bytes()?).map_err(|error| damaged(&error.to_string()))?;
    let mut frames = Vec::new();
    while !from.is_empty() {
        frames.push(Outgoing { key: frames.len() as u64, bytes: from.bytes()?.to_vec() });
    }
    let centers = stored::read(&frames).ok_or_else(|| damaged("the centers"))?;
    let Head { asked, dirty, order, .. } = head;
    Ok(Kept { asked, dirty, centers: Arc::new(centers), order: Arc::new(order), gram: None })
}

fn head(kept: &Kept, frames: usize) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Head { asked: kept.asked, dirty: kept.dirty, order: kept.order.to_vec(), frames })
}

/// Whether the file that `reference` names is the one that was written; its bytes alone are looked at.
///
/// # Errors
/// What is wrong with it, in words: `None` where there is no such file.
pub(super) fn check(folder: &Path, reference: &Reference) -> Result<(), (PathBuf, Option<String>)> {
    let path = path(folder, reference.number);
    let found = (|| -> std::io::Result<bool> {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        let (mut file, mut hasher, mut digest) = (BufReader::new(file), blake3::Hasher::new(), Vec::new());
        let mut all = file.by_ref().take(length.saturating_sub(32));
        std::io::copy(&mut all, &mut hasher)?;
        file.read_to_end(&mut digest)?;
        Ok(digest == reference.digest && *hasher.finalize().as_bytes() == reference.digest)
    })();
    match found {
        Ok(true) => Ok(()),
        Ok(false) => Err((path, Some("its checksum does not hold".into()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err((path, None)),
        Err(error) => Err((path, Some(error.to_string()))),
    }
}

/// Reads the file that `reference` names; `shape`: of a Gram of so many centers.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn read(folder: &Path, reference: &Reference, shape: impl Fn(usize) -> GramShape) -> Result<Kept, String> {
    let path = path(folder, reference.number);
    let file = File::open(&path).map_err(|error| error.to_string())?;
    let (mut file, mut hasher) = (BufReader::new(file), blake3::Hasher::new());
    let mut take = || -> Result<Vec<u8>, String> {
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|error| error.to_string())?;
        let (announced, mut bytes) = (u64::from_le_bytes(length), Vec::new());
        // What a damaged length asks for is not there: memory grows with what is read.
        let read =
            file.by_ref().take(announced.min(FRAME)).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if read as u64 != announced {
            return Err("it is cut short".into());
        }
        hasher.update(&length).update(&bytes);
        Ok(bytes)
    };
    if take()? != MAGIC {
        return Err("it is of another version".into());
    }
    let head: Head = serde_json::from_slice(&take()?).map_err(|error| error.to_string())?;
    let frames = (0..head.frames.min(2)).map(|key| Ok(Outgoing { key: key as u64, bytes: take()? }));
    let frames = frames.collect::<Result<Vec<_>, String>>()?;
    let centers = stored::read(&frames).ok_or("its centers cannot be read")?;
    let m = centers.ids.len();
    let mut places = head.order.clone();
    places.sort_unstable();
    if !places.into_iter().eq(0..m) {
        return Err("its centers are in no order".into());
    }
    let gram = ExactGram::new(shape(m));
    for piece in 0..gram.pieces() {
        gram.import_add(piece, &take()?).map_err(|error| error.to_string())?;
    }
    let (mut digest, mut rest) = ([0; 32], Vec::new());
    file.read_exact(&mut digest).map_err(|error| error.to_string())?;
    file.read_to_end(&mut rest).map_err(|error| error.to_string())?;
    if *hasher.finalize().as_bytes() != digest || !rest.is_empty() {
        return Err("its checksum does not hold".into());
    }
    if digest != reference.digest {
        return Err("it is not the one that the snapshot was written with".into());
    }
    let Head { asked, dirty, order, .. } = head;
    Ok(Kept { asked, dirty, centers: Arc::new(centers), order: Arc::new(order), gram: Some(Arc::new(gram)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nystream_hashing::RowId;
    use nystream_kernels::gram::{GramScratch, Precision};
    use nystream_kernels::rows::RowBuf;

    fn shape(centers: usize) -> GramShape {
        GramShape { centers, targets: 1, precision: Precision::Single, scale_log2: 0 }
    }

    fn kept(seed: usize) -> Kept {
        let m = 5;
        let numeric = (0..2 * m).map(|i| (i + seed) as f32).collect();
        let rows = RowBuf { numeric, numeric_width: 2, codes: vec![], code_width: 0 };
        let ids = (0..m).map(|i| RowId((i + seed) as u128)).collect();
        let gram = ExactGram::new(shape(m));
        let k: Vec<f64> = (0..3 * m).map(|i| ((i * 7 + seed) % 11) as f64 / 11.0).collect();
        gram.add(&mut GramScratch::default(), &k, m, 3, None, &[0.5, -0.5, 0.25]).unwrap();
        // More rows went than came: sums may be negative.
        gram.subtract(&mut GramScratch::default(), &k[..m], m, 1, None, &[1.0]).unwrap();
        let centers = Centers { rows, ids, notes: vec!["a note".into()], ..Centers::default() };
        let order = Arc::new(vec![3, 1, 4, 0, 2]);
        Kept { asked: 6, dirty: seed % 2 == 1, centers: Arc::new(centers), order, gram: Some(Arc::new(gram)) }
    }

    #[test]
    fn sums_are_read_as_they_were_written_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let references: Vec<Reference> = (0..5).map(|seed| write(folder.path(), &kept(seed)).unwrap()).collect();
        assert_eq!(numbers(folder.path()), [2, 3, 4]);
        assert!(read(folder.path(), &references[1], shape).is_err());
        for (seed, reference) in references.iter().enumerate().skip(2) {
            let (back, was) = (read(folder.path(), reference, shape).unwrap(), kept(seed));
            assert_eq!((back.asked, back.dirty, &back.order), (was.asked, was.dirty, &was.order));
            assert_eq!(format!("{:?}", back.centers), format!("{:?}", was.centers));
            assert_eq!(back.gram.unwrap().finish(), was.gram.unwrap().finish());
        }
        let (heard, was) = (heard(&told(&kept(3))).unwrap(), kept(3));
        assert_eq!((heard.asked, heard.dirty, heard.order), (was.asked, was.dirty, was.order));
        assert!(heard.gram.is_none() && format!("{:?}", heard.centers) == format!("{:?}", was.centers));
        // Another one's name, another shape, every kind of damage.
        let other = Reference { number: 3, ..references[4] };
        assert!(read(folder.path(), &other, shape).is_err_and(|e| e.contains("snapshot")));
        assert!(read(folder.path(), &references[4], |m| GramShape { targets: 2, ..shape(m) }).is_err());
        let path = path(folder.path(), 4);
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bytes).unwrap();
            assert!(read(folder.path(), &references[4], shape).is_err(), "a bit of byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(read(folder.path(), &references[4], shape).is_err(), "cut at {at}");
        }
        std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert!(read(folder.path(), &references[4], shape).is_err());
        std::fs::write(&path, &whole).unwrap();
        assert!(read(folder.path(), &references[4], shape).is_ok());
    }
}
