//! Reading files by position.
//!
//! `parquet`'s reader for [`std::fs::File`] shares one seek offset between all its clones; this one
//! reads with `pread`, so that several column readers of one file cannot disturb each other, and
//! counts what it reads. Nothing is mapped: mapped pages would count as resident memory.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file read by position, with a shared count of bytes read. Clones are cheap.
#[derive(Clone, Debug)]
pub struct PreadFile {
    inner: Arc<Inner>,
    bytes_read: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Inner {
    file: Positioned,
    len: u64,
}

/// A file without a position of its own: reads and writes say where.
#[derive(Debug)]
pub(crate) struct Positioned {
    #[cfg(unix)]
    file: File,
    #[cfg(not(unix))]
    file: std::sync::Mutex<File>,
}

impl PreadFile {
    /// Opens `path`; reads are added to `bytes_read`.
    pub fn open(path: &std::path::Path, bytes_read: Arc<AtomicU64>) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
        }
        let len = metadata.len();
        Ok(PreadFile { inner: Arc::new(Inner { file: Positioned::new(file), len }), bytes_read })
    }

    /// Length in bytes when the file was opened.
    pub fn size(&self) -> u64 {
        self.inner.len
    }

    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end of the file.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.inner.file.read_at(buffer, offset)?;
        self.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }

    /// Fills `buffer` from `offset`, or fails.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.file.read_exact_at(buffer, offset)?;
        self.bytes_read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// A sequential reader from byte `position` on.
    pub fn cursor(&self, position: u64) -> PreadCursor {
        PreadCursor { file: self.clone(), position }
    }
}

impl Positioned {
    pub(crate) fn new(file: File) -> Self {
        #[cfg(not(unix))]
        let file = std::sync::Mutex::new(file);
        Positioned { file }
    }

    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends too early")),
                Ok(read) => done += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Runs `work` on the file.
    fn with<T>(&self, work: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        #[cfg(unix)]
        return work(&self.file);
        #[cfg(not(unix))]
        work(&*self.file.lock().map_err(|_| io::Error::other("a user of this file failed"))?)
    }

    pub(crate) fn len(&self) -> io::Result<u64> {
        self.with(|file| Ok(file.metadata()?.len()))
    }

    pub(crate) fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.with(|file| file.set_len(bytes))
    }

    pub(crate) fn sync_data(&self) -> io::Result<()> {
        self.with(File::sync_data)
    }

    #[cfg(unix)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.file, buffer, offset)
    }

    #[cfg(unix)]
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, offset)
    }

    #[cfg(not(unix))]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        use std::io::{Seek, SeekFrom};
        let mut file = self.file.lock().map_err(|_| io::Error::other("a reader of this file failed"))?;
        file.seek(SeekFrom::Start(offset))?;
        file.read(buffer)
    }

    #[cfg(not(unix))]
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        use std::io::{Seek, SeekFrom, Write};
        let mut file = self.file.lock().map_err(|_| io::Error::other("a writer of this file failed"))?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }
}

/// A sequential reader over a [`PreadFile`] with its own position.
#[derive(Debug)]
pub struct PreadCursor {
    file: PreadFile,
    position: u64,
}

impl Read for PreadCursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}
