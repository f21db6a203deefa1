//! A file that serves ranges of its bytes, on a disk or in an object store: what footers and pages are read through.
//!
//! Files are read with `pread` ([`PreadFile`]). Objects are read in large ranges ahead of the decoder ([`crate::store`]); the end of an object is fetched with its
//! first request, and holds its footer in most cases. Whatever failed is kept as the error it was, since the decoder passes on words alone.

use crate::pread::{PreadCursor, PreadFile};
use crate::store::ahead::Ahead;
use crate::store::{Address, Object, TAIL_BYTES, Trouble, Version, read};
use crate::{CatalogFile, DataError};
use bytes::Bytes;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes read ahead for a page header; larger reads go past the buffer.
const HEADER_BUFFER: usize = 4096;

/// A file or an object, with a shared count of bytes read. Clones are cheap.
#[derive(Clone)]
pub(crate) enum RangeFile {
    Local(PreadFile),
    Object(ObjectFile),
}

/// One version of an object.
#[derive(Clone)]
pub(crate) struct ObjectFile {
    shared: Arc<Shared>,
    bytes_read: Arc<AtomicU64>,
    ahead: Option<Arc<Mutex<Ahead>>>,
}

struct Shared {
    address: Address,
    version: Version,
    /// Its last bytes, once they are fetched.
    tail: Mutex<Option<Bytes>>,
    failure: Mutex<Option<Trouble>>,
}

impl RangeFile {
    /// The file at `path`.
    pub fn local(path: &Path, bytes_read: Arc<AtomicU64>) -> Result<Self, DataError> {
        PreadFile::open(path, bytes_read).map(RangeFile::Local).map_err(|e| DataError::read(path, e))
    }

    /// The version of `object` that is there now.
    pub fn object(object: &Object, bytes_read: Arc<AtomicU64>) -> Result<Self, DataError> {
        let address = &object.address;
        if object.size == 0 {
            return Err(DataError::EmptyFile { path: address.shown() });
        }
        let range = object.size.saturating_sub(TAIL_BYTES)..object.size;
        let (bytes, version) = fetch(address, range, None).map_err(|trouble| trouble.about(address))?;
        if version.size != object.size {
            return Err(Trouble::Changed.about(address));
        }
        bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(Self::of_version(address, &version, Some(bytes), bytes_read))
    }

    /// A file of a catalog, which must be as it was then.
    pub fn again(file: &CatalogFile, bytes_read: Arc<AtomicU64>) -> Result<Self, DataError> {
        match &file.object {
            None => Self::local(&file.path, bytes_read),
            Some((address, version)) => Ok(Self::of_version(address, version, None, bytes_read)),
        }
    }

    fn of_version(address: &Address, version: &Version, tail: Option<Bytes>, bytes_read: Arc<AtomicU64>) -> Self {
        let shared = Shared {
            address: address.clone(),
            version: version.clone(),
            tail: Mutex::new(tail),
            failure: Mutex::new(None),
        };
        RangeFile::Object(ObjectFile { shared: Arc::new(shared), bytes_read, ahead: None })
    }

    /// Where it is and which version is read, of an object.
    pub fn version(&self) -> Option<(Address, Version)> {
        match self {
            RangeFile::Local(_) => None,
            RangeFile::Object(object) => Some((object.shared.address.clone(), object.shared.version.clone())),
        }
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            RangeFile::Local(file) => file.size(),
            RangeFile::Object(object) => object.shared.version.size,
        }
    }

    /// Fills `buffer` from `offset`, or fails; `path` is for the message.
    pub fn read_exact_at(&self, path: &Path, buffer: &mut [u8], offset: u64) -> Result<(), DataError> {
        match self {
            RangeFile::Local(file) => file.read_exact_at(buffer, offset).map_err(|e| DataError::read(path, e)),
            RangeFile::Object(object) => {
                let bytes =
                    object.exactly(offset, buffer.len()).map_err(|trouble| trouble.about(&object.shared.address))?;
                buffer.copy_from_slice(&bytes);
                Ok(())
            }
        }
    }

    /// The same file, for a decoder that will read the chunks `groups[g][lane]` in that order of groups.
    pub fn reading(&self, groups: &[Vec<Range<u64>>]) -> Self {
        match self {
            RangeFile::Local(_) => self.clone(),
            RangeFile::Object(object) => {
                let (address, version) = (object.shared.address.clone(), object.shared.version.clone());
                let ahead = Ahead::new(address, version, groups, Arc::clone(&object.bytes_read));
                RangeFile::Object(ObjectFile { ahead: Some(Arc::new(Mutex::new(ahead))), ..object.clone() })
            }
        }
    }

    /// Why a store did not serve what a decoder asked for, if that is why it failed.
    pub fn failure(&self) -> Option<DataError> {
        match self {
            RangeFile::Local(_) => None,
            RangeFile::Object(object) => {
                let failure = object.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
                failure.map(|trouble| trouble.about(&object.shared.address))
            }
        }
    }
}

/// Waits for a range.
fn fetch(address: &Address, range: Range<u64>, expected: Option<Version>) -> Result<(Bytes, Version), Trouble> {
    crate::store::wait(read(address.clone(), range, expected))
}

impl ObjectFile {
    fn fetch(&self, range: Range<u64>) -> Result<Bytes, Trouble> {
        let (bytes, _) = fetch(&self.shared.address, range, Some(self.shared.version.clone()))?;
        self.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    /// The last bytes, when `start` is among them.
    fn tail(&self, start: u64) -> Result<Option<(u64, Bytes)>, Trouble> {
        let size = self.shared.version.size;
        let begin = size.saturating_sub(TAIL_BYTES);
        if start < begin {
            return Ok(None);
        }
        let mut tail = self.shared.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match &*tail {
            Some(bytes) => bytes.clone(),
            None => {
                let bytes = self.fetch(begin..size)?;
                *tail = Some(bytes.clone());
                bytes
            }
        };
        Ok(Some((begin, bytes)))
    }

    /// Bytes `start..start + length`, which are in the object.
    fn exactly(&self, start: u64, length: usize) -> Result<Bytes, Trouble> {
        if let Some((begin, tail)) = self.tail(start)? {
            let at = (start - begin) as usize;
            return Ok(tail.slice(at..at + length));
        }
        if let Some(ahead) = &self.ahead {
            let found = ahead.lock().unwrap_or_else(PoisonError::into_inner).exactly(start, length);
            if let Some(found) = found {
                return found;
            }
        }
        self.fetch(start..start + length as u64)
    }

    /// Some bytes from `start`, `most` at most.
    fn some(&self, start: u64, most: usize) -> Result<Bytes, Trouble> {
        let left = self.shared.version.size.saturating_sub(start).min(most as u64) as usize;
        if left == 0 {
            return Ok(Bytes::new());
        }
        if let (Some(ahead), true) = (&self.ahead, start < self.shared.version.size.saturating_sub(TAIL_BYTES)) {
            let found = ahead.lock().unwrap_or_else(PoisonError::into_inner).some(start, left);
            if let Some(found) = found {
                return found;
            }
        }
        self.exactly(start, left)
    }

    /// Keeps the first failure.
    fn note(&self, trouble: Trouble) -> String {
        let words = format!("{trouble:?}");
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(trouble);
        words
    }
}

impl Length for RangeFile {
    fn len(&self) -> u64 {
        self.size()
    }
}

impl ChunkReader for RangeFile {
    type T = BufReader<RangeCursor>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let cursor = match self {
            RangeFile::Local(file) => RangeCursor::Local(file.cursor(start)),
            RangeFile::Object(object) => RangeCursor::Object { object: object.clone(), position: start },
        };
        Ok(BufReader::with_capacity(HEADER_BUFFER, cursor))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        // Checked before allocating: a damaged header can ask for anything.
        if start.checked_add(length as u64).is_none_or(|end| end > self.size()) {
            return Err(ParquetError::EOF(format!("bytes {start}+{length} lie beyond the end of the file")));
        }
        match self {
            RangeFile::Local(file) => {
                let mut buffer = vec![0; length];
                file.read_exact_at(&mut buffer, start).map_err(|e| ParquetError::External(Box::new(e)))?;
                Ok(buffer.into())
            }
            RangeFile::Object(object) => {
                object.exactly(start, length).map_err(|trouble| ParquetError::General(object.note(trouble)))
            }
        }
    }
}

/// A sequential reader with its own position.
pub(crate) enum RangeCursor {
    Local(PreadCursor),
    Object { object: ObjectFile, position: u64 },
}

impl Read for RangeCursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            RangeCursor::Local(cursor) => cursor.read(buffer),
            RangeCursor::Object { object, position } => {
                let bytes =
                    object.some(*position, buffer.len()).map_err(|trouble| io::Error::other(object.note(trouble)))?;
                buffer[..bytes.len()].copy_from_slice(&bytes);
                *position += bytes.len() as u64;
                Ok(bytes.len())
            }
        }
    }
}
