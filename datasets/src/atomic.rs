//! Files that appear whole or not at all.
//!
//! An [`AtomicFile`] is written in the folder of its destination, made durable, and put in its place when it is complete. On Linux it has no name until
//! then: the system frees it with its last handle, also when the process is killed. Elsewhere, and on file systems that know no such files, it has a
//! temporary hidden name; dropping it removes what was written, and [`remove_pending`] does so for all of them at once, for
//! an interrupt handler or a panic hook, so that only a killed process leaves it. Creating it first is also the check that the output can be
//! written, before hours of work. Outputs of several files are [sealed](AtomicFile::seal) one by one and appear together by [`commit_all`].
//!
//! A destination that exists and is not a regular file (`/dev/null`, a pipe) is written directly; a link keeps pointing
//! where it points, and its target is replaced.
//!
//! Invariant: a temporary name exists only while it is registered, and both change under one lock. Whoever holds that
//! lock, as [`remove_pending`] does, knows that no output starts, appears or goes away meanwhile.

mod nameless;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::TempPath;
use thiserror::Error;

/// Why an output could not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The destination cannot be created.
    #[error("cannot write '{}': {source}; name a file in a folder that exists and can be written", path.display())]
    Create {
        /// Destination.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Writing or renaming failed.
    #[error("cannot finish '{}': {source}; nothing was left there", path.display())]
    Write {
        /// Destination.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// How temporary names end.
const SUFFIX: &str = ".part";

/// The outputs of this process.
#[derive(Debug)]
struct Outputs {
    /// Temporary names of the unfinished ones.
    unfinished: BTreeSet<PathBuf>,
    /// Destinations of those that have appeared, in that order.
    written: Vec<PathBuf>,
    /// How many times all unfinished ones were removed: those begun before can appear no more.
    removals: u64,
}

static PENDING: Mutex<Outputs> = Mutex::new(Outputs { unfinished: BTreeSet::new(), written: Vec::new(), removals: 0 });

/// Locks, ignoring poison: the sets are valid at every step.
fn pending() -> MutexGuard<'static, Outputs> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives no output of this process can be started or finished.
#[derive(Debug)]
pub struct NoOutputs {
    held: MutexGuard<'static, Outputs>,
}

impl NoOutputs {
    /// The files that had appeared before.
    pub fn written(&self) -> &[PathBuf] {
        &self.held.written
    }
}

/// Removes every unfinished output of this process, and holds up new ones while the result lives.
///
/// For use just before the process ends: the writers of what was removed fail afterwards.
pub fn remove_pending() -> NoOutputs {
    let mut held = pending();
    held.removals += 1;
    for path in std::mem::take(&mut held.unfinished) {
        // Nothing better can be done with a failure at this point.
        let _ = std::fs::remove_file(path);
    }
    NoOutputs { held }
}

/// A file that appears at its destination when [`AtomicFile::commit`] succeeds, and never otherwise.
///
/// ```
/// use nystream_datasets::atomic::AtomicFile;
/// use std::io::Write;
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("out.txt");
/// let mut file = AtomicFile::create(&path)?;
/// file.write_all(b"done").unwrap();
/// assert!(!path.exists());
/// file.commit()?;
/// assert_eq!(std::fs::read(&path).unwrap(), b"done");
/// # Ok::<(), nystream_datasets::atomic::OutputError>(())
/// ```
#[derive(Debug)]
pub struct AtomicFile {
    destination: PathBuf,
    file: BufWriter<File>,
    /// `None` where the destination is a device or pipe, written directly.
    temporary: Option<Hidden>,
}

/// Where an output is until it appears.
#[derive(Debug)]
enum Hidden {
    /// Under a temporary name.
    Named(Temporary),
    /// Nowhere: it lives as long as a handle of it.
    Nameless {
        /// [`Outputs::removals`] when it was begun.
        begun: u64,
    },
}

/// The name of a temporary file, registered while the file exists.
#[derive(Debug)]
struct Temporary(Option<TempPath>);

/// A file in `folder` under a temporary name that begins with `prefix`.
fn named(folder: &Path, prefix: &OsStr, held: &mut Outputs) -> io::Result<(File, Hidden)> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(SUFFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Temporary files are private by default; outputs are as open as the umask says.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let (file, path) = builder.tempfile_in(folder)?.into_parts();
    Ok((file, Hidden::Named(Temporary::register(path, held))))
}

impl Temporary {
    fn register(path: TempPath, held: &mut Outputs) -> Self {
        held.unfinished.insert(path.to_path_buf());
        Temporary(Some(path))
    }

    fn rename(mut self, destination: &Path, held: &mut Outputs) -> io::Result<()> {
        let Some(path) = self.0.take() else { return Ok(()) };
        held.unfinished.remove::<Path>(&path);
        // The file of a failed rename goes away with its name.
        path.persist(destination).map_err(|failed| failed.error)?;
        held.written.push(destination.to_path_buf());
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let mut held = pending();
            held.unfinished.remove::<Path>(&path);
            drop(path);
        }
    }
}

impl AtomicFile {
    /// Starts writing what is to appear at `path`. A file that is there already stays as it is until the new one is committed.
    ///
    /// ```
    /// use nystream_datasets::atomic::{AtomicFile, OutputError};
    /// let folder = tempfile::tempdir().unwrap();
    /// // Dropped without being committed, a file leaves nothing.
    /// drop(AtomicFile::create(&folder.path().join("out.txt"))?);
    /// assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    /// // That a place cannot be written shows before the work.
    /// let nowhere = folder.path().join("absent").join("out.txt");
    /// assert!(matches!(AtomicFile::create(&nowhere), Err(OutputError::Create { .. })));
    /// # Ok::<(), OutputError>(())
    /// ```
    ///
    /// # Errors
    /// [`OutputError::Create`] when the folder does not exist or cannot be written, or `path` is a folder.
    pub fn create(path: &Path) -> Result<Self, OutputError> {
        let fail = |source| OutputError::Create { path: path.to_path_buf(), source };
        let destination = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        match std::fs::metadata(&destination) {
            Ok(found) if found.is_dir() => {
                return Err(fail(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder")));
            }
            Ok(found) if !found.is_file() => {
                let file = File::options().write(true).open(&destination).map_err(fail)?;
                return Ok(AtomicFile { destination, file: BufWriter::new(file), temporary: None });
            }
            _ => {}
        }
        let Some(name) = destination.file_name() else {
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file")));
        };
        let (folder, prefix) = (folder_of(&destination), hidden(&name.to_string_lossy()));
        let mut held = pending();
        let nameless = nameless::create(folder, &prefix);
        let (file, hidden) = match nameless {
            Some(file) => (file, Hidden::Nameless { begun: held.removals }),
            None => named(folder, &prefix, &mut held).map_err(fail)?,
        };
        Ok(AtomicFile { destination, file: BufWriter::new(file), temporary: Some(hidden) })
    }

    /// Where the file will be.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Makes the content durable; the file still appears only with [`commit_all`].
    ///
    /// ```
    /// use nystream_datasets::atomic::{AtomicFile, commit_all};
    /// use std::io::Write;
    /// let folder = tempfile::tempdir().unwrap();
    /// let paths = ["a.txt", "b.txt"].map(|name| folder.path().join(name));
    /// let mut sealed = Vec::new();
    /// for path in &paths {
    ///     let mut file = AtomicFile::create(path)?;
    ///     file.write_all(b"half of it").unwrap();
    ///     sealed.push(file.seal()?);
    /// }
    /// assert_eq!(sealed[0].bytes(), 10);
    /// // Both are whole, and neither has appeared.
    /// assert!(!paths[0].exists() && !paths[1].exists());
    /// commit_all(sealed)?;
    /// assert!(paths[0].exists() && paths[1].exists());
    /// # Ok::<(), nystream_datasets::atomic::OutputError>(())
    /// ```
    ///
    /// # Errors
    /// [`OutputError::Write`]; nothing is left behind then.
    pub fn seal(self) -> Result<SealedFile, OutputError> {
        let AtomicFile { destination, file, temporary } = self;
        let sealed = file.into_inner().map_err(|failed| failed.into_error()).and_then(|file| match temporary {
            None => Ok(Content::Elsewhere),
            Some(hidden) => {
                file.sync_all()?;
                let bytes = file.metadata()?.len();
                match hidden {
                    Hidden::Named(temporary) => Ok(Content::Named { temporary, bytes }),
                    Hidden::Nameless { begun } => nameless::keep(file, begun, bytes, &destination),
                }
            }
        });
        match sealed {
            Ok(content) => Ok(SealedFile { destination, content }),
            Err(source) => Err(OutputError::Write { path: destination, source }),
        }
    }

    /// Makes the content durable and moves it to its destination.
    ///
    /// # Errors
    /// [`OutputError::Write`]; nothing is left behind then.
    pub fn commit(self) -> Result<(), OutputError> {
        self.seal().and_then(|sealed| commit_all(vec![sealed]))
    }
}

/// The beginning of a temporary name; short, since names have a greatest length and the destination may use it up.
fn hidden(name: &str) -> OsString {
    format!(".{}.", name.chars().take(32).collect::<String>()).into()
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Where a file is or would be, links resolved: two paths that lead to one file give the same.
///
/// ```
/// use nystream_datasets::atomic::place;
/// use std::path::Path;
/// assert_eq!(place(Path::new("src/../Cargo.toml")), place(Path::new("Cargo.toml")));
/// // Of what is not there only the folder is resolved.
/// assert_eq!(place(Path::new("./absent")), place(Path::new("absent")));
/// ```
pub fn place(path: &Path) -> PathBuf {
    let within = |path: &Path| Some(std::fs::canonicalize(folder_of(path)).ok()?.join(path.file_name()?));
    std::fs::canonicalize(path).ok().or_else(|| within(path)).unwrap_or_else(|| path.to_owned())
}

/// The folder of a file.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A complete output that has not appeared yet. Dropping it removes what was written.
#[derive(Debug)]
pub struct SealedFile {
    destination: PathBuf,
    content: Content,
}

/// Where a complete output is.
#[derive(Debug)]
enum Content {
    /// Under a temporary name.
    Named { temporary: Temporary, bytes: u64 },
    /// Nowhere but in its handle.
    Nameless { file: nameless::Kept, begun: u64, bytes: u64 },
    /// In a device or pipe.
    Elsewhere,
}

impl SealedFile {
    /// Where the file will be.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Bytes of the file; 0 for devices and pipes.
    pub fn bytes(&self) -> u64 {
        match self.content {
            Content::Named { bytes, .. } | Content::Nameless { bytes, .. } => bytes,
            Content::Elsewhere => 0,
        }
    }
}

/// Moves complete files to their destinations, in order; no interrupt comes between them.
///
/// # Errors
/// [`OutputError::Write`] for the first that cannot be moved; those before it have appeared, those after it are removed.
pub fn commit_all(files: Vec<SealedFile>) -> Result<(), OutputError> {
    let mut held = pending();
    let mut left = files.into_iter();
    for SealedFile { destination, content } in left.by_ref() {
        let placed = match content {
            Content::Named { temporary, .. } => temporary.rename(&destination, &mut held),
            Content::Nameless { file, begun, .. } if begun == held.removals => {
                file.place(&destination).map(|()| held.written.push(destination.clone()))
            }
            Content::Nameless { .. } => Err(io::Error::other("it was given up")),
            Content::Elsewhere => Ok(()),
        };
        if let Err(source) = placed {
            // Dropping the rest takes the lock.
            drop(held);
            drop(left);
            return Err(OutputError::Write { path: destination, source });
        }
    }
    Ok(())
}

/// Writes `bytes` to `path`, whole or not at all.
///
/// ```
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("report.json");
/// nystream_datasets::atomic::write(&path, b"{}")?;
/// nystream_datasets::atomic::write(&path, b"[]")?;
/// assert_eq!(std::fs::read(&path).unwrap(), b"[]");
/// # Ok::<(), nystream_datasets::atomic::OutputError>(())
/// ```
///
/// # Errors
/// As [`AtomicFile::create`] and [`AtomicFile::commit`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(|source| OutputError::Write { path: path.to_path_buf(), source })?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Outputs as they are here, and as they are where files must have names.
    const KINDS: [fn(&Path) -> AtomicFile; 2] = [|path| AtomicFile::create(path).unwrap(), with_a_name];

    fn with_a_name(path: &Path) -> AtomicFile {
        let (file, hidden) = named(folder_of(path), &hidden("out"), &mut pending()).unwrap();
        AtomicFile { destination: path.to_path_buf(), file: BufWriter::new(file), temporary: Some(hidden) }
    }

    #[test]
    fn appears_whole_or_not_at_all() {
        for create in KINDS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("out");
            fs::write(&path, "old").unwrap();
            let mut file = create(&path);
            file.write_all(b"half").unwrap();
            file.flush().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"old");
            drop(file);
            assert_eq!(names(folder.path()), ["out"]);
            assert_eq!(fs::read(&path).unwrap(), b"old");
            let new = folder.path().join("new");
            for path in [&path, &new] {
                let mut file = create(path);
                file.write_all(b"new").unwrap();
                file.commit().unwrap();
                assert_eq!(fs::read(path).unwrap(), b"new");
            }
            assert_eq!(names(folder.path()), ["new", "out"]);
        }
        let folder = tempfile::tempdir().unwrap();
        let named = with_a_name(&folder.path().join("out"));
        assert_eq!(names(folder.path()).len(), 1);
        drop(named);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn sealed_files_appear_together() {
        for create in KINDS {
            let folder = tempfile::tempdir().unwrap();
            let sealed = |name: &str| {
                let mut file = create(&folder.path().join(name));
                file.write_all(name.as_bytes()).unwrap();
                file.seal().unwrap()
            };
            let files = vec![sealed("a"), sealed("b")];
            let before = names(folder.path());
            assert!(before.iter().all(|name| name.starts_with('.')), "{before:?}");
            drop(sealed("c"));
            assert_eq!(names(folder.path()), before);
            commit_all(files).unwrap();
            assert_eq!(names(folder.path()), ["a", "b"]);
            // A folder took the place of the second file: the first has appeared, nothing else is left.
            let files = vec![sealed("a"), sealed("d"), sealed("e")];
            fs::create_dir(folder.path().join("d")).unwrap();
            let error = commit_all(files).unwrap_err();
            assert!(matches!(&error, OutputError::Write { path, .. } if path.ends_with("d")), "{error}");
            assert_eq!(names(folder.path()), ["a", "b", "d"]);
        }
    }

    /// More complete files than a process may have open at once, where that is what they take.
    #[test]
    fn many_files_appear_together() {
        let folder = tempfile::tempdir().unwrap();
        let sealed = |i: usize| {
            let mut file = AtomicFile::create(&folder.path().join(format!("{i:04}"))).unwrap();
            file.write_all(i.to_string().as_bytes()).unwrap();
            file.seal().unwrap()
        };
        let files: Vec<SealedFile> = (0..3 * nameless::MOST_KEPT).map(sealed).collect();
        assert!(names(folder.path()).iter().all(|name| name.starts_with('.')));
        commit_all(files).unwrap();
        let expected: Vec<String> = (0..3 * nameless::MOST_KEPT).map(|i| format!("{i:04}")).collect();
        assert_eq!(names(folder.path()), expected);
        assert_eq!(fs::read(folder.path().join("0170")).unwrap(), b"170");
    }

    #[cfg(unix)]
    #[test]
    fn outputs_are_as_open_as_other_files() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("plain"), "x").unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        for (i, create) in KINDS.into_iter().enumerate() {
            create(&folder.path().join(i.to_string())).commit().unwrap();
            assert_eq!(mode(&i.to_string()), mode("plain"));
        }
    }

    #[test]
    fn unwritable_places_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_path_buf(), folder.path().join("absent/out"), PathBuf::from("/"), PathBuf::new()]
        {
            let error = AtomicFile::create(&path).expect_err("created");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn names_may_be_as_long_as_the_system_allows() {
        let folder = tempfile::tempdir().unwrap();
        let name = "n".repeat(255);
        write(&folder.path().join(&name), b"x").unwrap();
        assert_eq!(names(folder.path()), [name]);
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

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_an_error_of_the_commit_at_the_latest() {
        let error = write(Path::new("/dev/full"), b"lost").unwrap_err();
        assert!(
            matches!(&error, OutputError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull),
            "{error}"
        );
    }
}
