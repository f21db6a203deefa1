//! Files that appear whole or not at all.
//!
//! A file is written under a temporary name in the folder of its destination and renamed when it is complete and on
//! disk. Dropping it, an interrupt and a panic remove it. Creating it first is also the check that the output can be
//! written, before hours of work.

use crate::exit::lock;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use thiserror::Error;

/// Why an output could not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The destination cannot be created.
    #[error("cannot write {}: {source}; name a file in a folder that exists and can be written", path.display())]
    Create {
        /// Destination.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Writing or renaming failed.
    #[error("cannot finish {}: {source}; nothing was left there", path.display())]
    Write {
        /// Destination.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// Temporary files that exist now.
static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Removes every unfinished output; while the guard lives none can be created or finished.
pub(crate) fn remove_all() -> MutexGuard<'static, Vec<PathBuf>> {
    let mut live = lock(&LIVE);
    for path in live.drain(..) {
        let _ = fs::remove_file(path);
    }
    live
}

/// An output under way. [`AtomicFile::commit`] makes it appear; dropping it leaves no trace.
///
/// ```
/// use nystream::atomic::AtomicFile;
/// use std::io::Write;
/// # let folder = std::env::temp_dir().join(format!("nystream-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder).unwrap();
/// let path = folder.join("report.json");
/// let mut file = AtomicFile::create(&path)?;
/// file.write_all(b"{}").unwrap();
/// assert!(!path.exists());
/// file.commit()?;
/// assert!(path.exists());
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok::<(), nystream::atomic::OutputError>(())
/// ```
#[derive(Debug)]
pub struct AtomicFile {
    destination: PathBuf,
    /// `None` where the destination is a device or pipe, written directly.
    temporary: Option<PathBuf>,
    file: BufWriter<File>,
}

impl AtomicFile {
    /// Starts an output. Fails at once where `path` cannot be written.
    pub fn create(path: &Path) -> Result<Self, OutputError> {
        let fail = |source| OutputError::Create { path: path.to_path_buf(), source };
        // A link keeps pointing where it points; its target is replaced.
        let destination = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        match fs::metadata(&destination) {
            Ok(found) if found.is_dir() => return Err(fail(io::Error::from(io::ErrorKind::IsADirectory))),
            Ok(found) if !found.is_file() => {
                let file = OpenOptions::new().write(true).open(&destination).map_err(fail)?;
                return Ok(AtomicFile { destination, temporary: None, file: BufWriter::new(file) });
            }
            _ => {}
        }
        let Some(name) = destination.file_name() else {
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file")));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let temporary = destination.with_file_name(hidden);
        let mut live = lock(&LIVE);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary).map_err(fail)?;
        live.push(temporary.clone());
        Ok(AtomicFile { destination, temporary: Some(temporary), file: BufWriter::new(file) })
    }

    /// Puts the complete file in place.
    pub fn commit(mut self) -> Result<(), OutputError> {
        let fail = |path: &Path, source| OutputError::Write { path: path.to_path_buf(), source };
        self.file.flush().map_err(|e| fail(&self.destination, e))?;
        let Some(temporary) = self.temporary.take() else { return Ok(()) };
        let synced = self.file.get_ref().sync_all();
        let mut live = lock(&LIVE);
        let renamed = synced.and_then(|()| fs::rename(&temporary, &self.destination));
        live.retain(|path| *path != temporary);
        if let Err(source) = renamed {
            let _ = fs::remove_file(&temporary);
            return Err(fail(&self.destination, source));
        }
        Ok(())
    }

    /// Where the file will be.
    pub fn destination(&self) -> &Path {
        &self.destination
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            let mut live = lock(&LIVE);
            let _ = fs::remove_file(&temporary);
            live.retain(|path| *path != temporary);
        }
    }
}

/// Writes `bytes` to `path`, whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(|source| OutputError::Write { path: path.to_path_buf(), source })?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()).len(), 2);
        drop(file);
        assert_eq!(names(folder.path()), ["out"]);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, b"new").unwrap();
        assert_eq!(names(folder.path()), ["out"]);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn unwritable_places_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_path_buf(), folder.path().join("absent/out"), PathBuf::from("/")] {
            let error = AtomicFile::create(&path).expect_err("created");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
        assert!(names(folder.path()).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_links_stay_what_they_are() {
        write(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }
}
