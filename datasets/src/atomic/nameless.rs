//! Files without a name (Linux, `O_TMPFILE`): the system frees them with their last handle, however the process ends.
//!
//! A file system that knows them may still not be able to name them afterwards, so that is tried with an empty one first: a file that cannot
//! appear is not worth hours of work. A file that takes the place of another has a temporary name for the moment between its naming and the renaming.

use super::{Content, Temporary, folder_of, hidden, pending};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Complete files kept open at once; those beyond get temporary names, since a process may have only so many files open.
pub(super) const MOST_KEPT: usize = 64;

static KEPT: AtomicUsize = AtomicUsize::new(0);

/// The handle of a complete file.
#[derive(Debug)]
pub(super) struct Kept(File);

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Kept {
    /// Puts the file at `destination`, in the place of what is there.
    pub(super) fn place(self, destination: &Path) -> io::Result<()> {
        match link(&self.0, destination) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                name(&self.0, destination)?.persist(destination).map_err(|failed| failed.error)
            }
            linked => linked,
        }
    }
}

/// A file without a name in `folder`; `None` where there are none, or where one could not be named with `prefix`.
pub(super) fn create(folder: &Path, prefix: &OsStr) -> Option<File> {
    let trial = open(folder).ok()?;
    // Removed at once.
    drop(builder(prefix).make_in(folder, |path| link(&trial, path)).ok()?);
    open(folder).ok()
}

/// Keeps a complete file until it appears: by its handle, or where too many are kept so, under a temporary name.
pub(super) fn keep(file: File, begun: u64, bytes: u64, destination: &Path) -> io::Result<Content> {
    if KEPT.fetch_add(1, Ordering::Relaxed) < MOST_KEPT {
        return Ok(Content::Nameless { file: Kept(file), begun, bytes });
    }
    KEPT.fetch_sub(1, Ordering::Relaxed);
    let mut held = pending();
    if begun != held.removals {
        return Err(io::Error::other("it was given up"));
    }
    let temporary = Temporary::register(name(&file, destination)?, &mut held);
    Ok(Content::Named { temporary, bytes })
}

/// A temporary name for `file` beside `destination`.
fn name(file: &File, destination: &Path) -> io::Result<tempfile::TempPath> {
    let prefix = hidden(&destination.file_name().unwrap_or_default().to_string_lossy());
    Ok(builder(&prefix).make_in(folder_of(destination), |path| link(file, path))?.into_temp_path())
}

fn builder<'a>(prefix: &'a OsStr) -> tempfile::Builder<'a, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(super::SUFFIX);
    builder
}

#[cfg(target_os = "linux")]
fn open(folder: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::TMPFILE.bits() as i32;
    File::options().read(true).write(true).custom_flags(flags).open(folder)
}

/// Names an open file that has no name.
#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use std::os::fd::AsRawFd;
    let handle = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, handle, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn open(_: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn link(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_no_name_until_it_is_placed() {
        let folder = tempfile::tempdir().unwrap();
        let Some(file) = create(folder.path(), OsStr::new(".x.")) else {
            // A file system without such files: outputs have names there.
            return;
        };
        let entries = || std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(entries(), 0);
        KEPT.fetch_add(1, Ordering::Relaxed);
        Kept(file).place(&folder.path().join("out")).unwrap();
        assert_eq!(entries(), 1);
        assert!(create(&folder.path().join("absent"), OsStr::new(".x.")).is_none());
    }
}
