//! The bytes of one stored entry.
//!
//! ```text
//!  magic | format version | header frame | frame | frame | ...
//!  frame = length (8 bytes) | BLAKE3 of what follows (32 bytes) | rkyv archive
//! ```
//!
//! The header names the entry and says how many frames follow: a file that was cut at the end of a frame is found out too. Bytes are not trusted: lengths are held against
//! what is there before anything is allocated, checksums against the bytes, and archives are validated before they are read. Whatever is wrong is one [`Damage`], never a panic.
//!
//! Cost: one frame in memory at a time, once as it was given and once as an archive.

use rkyv::rancor::Error as ArchiveError;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};
use std::io::{Read, Write};
use thiserror::Error;

/// First bytes of every entry.
const MAGIC: [u8; 8] = *b"nyst-ckp";
/// Version of this format.
pub const FORMAT: u32 = 1;
/// Length and checksum before every archive.
const FRAME_HEAD: u64 = 8 + 32;

/// A piece of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Frame {
    /// What it is, to whoever wrote it.
    pub key: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What an entry says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Header {
    /// Digest of the job.
    pub job: [u8; 32],
    /// What it belongs to.
    pub group: String,
    /// Which of the entries of the group.
    pub member: String,
    /// Later ones of a member have larger numbers.
    pub sequence: u64,
    /// Frames that follow.
    pub frames: u32,
}

/// What is wrong with the bytes of an entry.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Damage {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// It is something else.
    #[error("it is no entry of a checkpoint")]
    Foreign,
    /// It is of another version of this format.
    #[error("it has version {0} of the format, and this nystream reads {FORMAT}")]
    Version(u32),
    /// It ends too soon, or goes on.
    #[error("it is cut short")]
    Short,
    /// Something stands behind its end.
    #[error("it goes on beyond its end")]
    Long,
    /// What it holds is not what was written.
    #[error("its checksum does not match")]
    Checksum,
    /// What it holds has another form.
    #[error("it does not hold what it should")]
    Content,
}

/// Writes an entry; gives its length.
///
/// # Errors
/// What the system says; frames that are not as many as the header promises.
pub fn write(out: &mut impl Write, header: &Header, frames: &mut dyn Iterator<Item = Frame>) -> std::io::Result<u64> {
    out.write_all(&MAGIC)?;
    out.write_all(&FORMAT.to_le_bytes())?;
    let archive = |result: Result<AlignedVec, ArchiveError>| result.map_err(std::io::Error::other);
    let mut length = 12 + frame(out, &archive(rkyv::to_bytes::<ArchiveError>(header))?)?;
    let mut count = 0;
    for next in frames {
        length += frame(out, &archive(rkyv::to_bytes::<ArchiveError>(&next))?)?;
        count += 1;
    }
    if count != header.frames {
        return Err(std::io::Error::other("an entry was made of too few parts"));
    }
    Ok(length)
}

fn frame(out: &mut impl Write, archive: &[u8]) -> std::io::Result<u64> {
    out.write_all(&(archive.len() as u64).to_le_bytes())?;
    out.write_all(blake3::hash(archive).as_bytes())?;
    out.write_all(archive)?;
    Ok(FRAME_HEAD + archive.len() as u64)
}

/// Reads entries, frame by frame.
pub struct Entry<R> {
    from: R,
    left: u64,
    /// What it says of itself.
    pub header: Header,
    seen: u32,
}

impl<R: Read> Entry<R> {
    /// Reads the header of what `from` holds, `length` bytes in all.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(mut from: R, length: u64) -> Result<Self, Damage> {
        let mut head = [0; 12];
        if length < head.len() as u64 {
            return Err(Damage::Short);
        }
        from.read_exact(&mut head)?;
        let (magic, version) = head.split_at(8);
        if magic != MAGIC {
            return Err(Damage::Foreign);
        }
        match u32::from_le_bytes(std::array::from_fn(|k| version[k])) {
            FORMAT => {}
            other => return Err(Damage::Version(other)),
        }
        let mut left = length - head.len() as u64;
        let archive = take(&mut from, &mut left)?;
        let header = rkyv::from_bytes::<Header, ArchiveError>(&archive).map_err(|_| Damage::Content)?;
        Ok(Entry { from, left, header, seen: 0 })
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Damage> {
        if self.seen == self.header.frames {
            return if self.left == 0 { Ok(None) } else { Err(Damage::Long) };
        }
        let archive = take(&mut self.from, &mut self.left)?;
        self.seen += 1;
        rkyv::from_bytes::<Frame, ArchiveError>(&archive).map(Some).map_err(|_| Damage::Content)
    }
}

fn take(from: &mut impl Read, left: &mut u64) -> Result<AlignedVec, Damage> {
    let mut head = [0; FRAME_HEAD as usize];
    *left = left.checked_sub(FRAME_HEAD).ok_or(Damage::Short)?;
    from.read_exact(&mut head)?;
    let (length, checksum) = head.split_at(8);
    let length = u64::from_le_bytes(std::array::from_fn(|k| length[k]));
    *left = left.checked_sub(length).ok_or(Damage::Short)?;
    let length = usize::try_from(length).map_err(|_| Damage::Short)?;
    // Archives are read in place, where their numbers must be aligned.
    let mut archive = AlignedVec::with_capacity(length);
    archive.resize(length, 0);
    from.read_exact(&mut archive)?;
    if blake3::hash(&archive).as_bytes() != checksum {
        return Err(Damage::Checksum);
    }
    Ok(archive)
}

/// The header and all frames of an entry in memory: what fuzzing calls.
///
/// ```
/// use nystream_cluster::checkpoint::format::{Frame, Header, parse, write};
/// let header = Header { job: [7; 32], group: "pcg".into(), member: "state".into(), sequence: 3, frames: 1 };
/// let mut bytes = Vec::new();
/// let frame = Frame { key: 1, bytes: vec![1, 2, 3] };
/// write(&mut bytes, &header, &mut [frame.clone()].into_iter())?;
/// assert_eq!(parse(&bytes).unwrap(), (header, vec![frame]));
/// bytes.pop();
/// assert!(parse(&bytes).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<(Header, Vec<Frame>), Damage> {
    let mut entry = Entry::open(bytes, bytes.len() as u64)?;
    let mut frames = Vec::new();
    while let Some(frame) = entry.next_frame()? {
        frames.push(frame);
    }
    Ok((entry.header, frames))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(frames: &[Frame]) -> (Header, Vec<u8>) {
        let header = Header {
            job: [9; 32],
            group: "a pass".into(),
            member: "2-1".into(),
            sequence: 1 << 40,
            frames: frames.len() as u32,
        };
        let mut bytes = Vec::new();
        let length = write(&mut bytes, &header, &mut frames.iter().cloned()).unwrap();
        assert_eq!(length, bytes.len() as u64);
        (header, bytes)
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let frames: Vec<Frame> = (0..3).map(|k| Frame { key: k, bytes: vec![k as u8; 10 * k as usize] }).collect();
        let (header, bytes) = entry(&frames);
        assert_eq!(parse(&bytes).unwrap(), (header, frames));
        for at in 0..bytes.len() {
            assert!(parse(&bytes[..at]).is_err(), "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(parse(&flipped).is_err(), "flipped at {at}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(parse(&longer), Err(Damage::Long)));
        let mut other = bytes.clone();
        other[8] = 2;
        assert!(matches!(parse(&other), Err(Damage::Version(2))));
    }

    #[test]
    fn a_missing_frame_is_found_when_written() {
        let (mut header, _) = entry(&[]);
        header.frames = 1;
        assert!(write(&mut Vec::new(), &header, &mut std::iter::empty()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), valid in any::<bool>(), at in 0usize..200, value in any::<u8>()) {
            let _ = parse(&bytes);
            let (_, mut near) = entry(&[Frame { key: 1, bytes }]);
            if !valid {
                let at = at % near.len();
                near[at] = value;
                // A frame whose checksum is right and whose archive is not.
                let start = 12 + 40;
                if at >= start {
                    let length = u64::from_le_bytes(std::array::from_fn(|k| near[12 + k])) as usize;
                    if let Some(archive) = near.get(start..start + length) {
                        let checksum = *blake3::hash(archive).as_bytes();
                        near[20..52].copy_from_slice(&checksum);
                    }
                }
            }
            let _ = parse(&near);
        }
    }
}
