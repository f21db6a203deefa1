//! Where segments lie: a folder, or in tests a disk that fails and forgets.

use crate::pread::Positioned;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// A folder of segments.
///
/// Contract: what [`Tape::sync`] of a file has confirmed survives a crash, if its name was there at a [`Storage::sync_folder`] that was confirmed; of the
/// rest any part may. (Asserted by the tests' disk; real ones are trusted.)
pub(super) trait Storage: Send {
    /// Names of all files, in any order.
    fn names(&self) -> io::Result<Vec<String>>;
    /// An empty file; one that was there is emptied.
    fn create(&mut self, name: &str) -> io::Result<Box<dyn Tape>>;
    /// A file that is there.
    fn open(&mut self, name: &str) -> io::Result<Box<dyn Tape>>;
    /// Gives a file another name.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_folder(&mut self) -> io::Result<()>;
    /// Where `name` is, for messages.
    fn path(&self, name: &str) -> PathBuf;
    /// The same folder, for a reader.
    fn again(&self) -> Box<dyn Storage>;
}

/// A file that is read and written by position.
pub(super) trait Tape: Send {
    fn len(&self) -> io::Result<u64>;
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn set_len(&mut self, bytes: u64) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
}

/// A folder of the file system.
pub(super) struct Disk {
    folder: PathBuf,
}

impl Disk {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let folder = folder.to_path_buf();
        // The folder's own name must last too.
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_names(parent)?;
        }
        Ok(Disk { folder })
    }

    fn file(&self, name: &str, options: &OpenOptions) -> io::Result<Box<dyn Tape>> {
        Ok(Box::new(Positioned::new(options.open(self.folder.join(name))?)))
    }
}

impl Storage for Disk {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            // Names that are not UTF-8 are none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&mut self, name: &str) -> io::Result<Box<dyn Tape>> {
        self.file(name, OpenOptions::new().read(true).write(true).create(true).truncate(true))
    }

    fn open(&mut self, name: &str) -> io::Result<Box<dyn Tape>> {
        self.file(name, OpenOptions::new().read(true).write(true))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        sync_names(&self.folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn again(&self) -> Box<dyn Storage> {
        Box::new(Disk { folder: self.folder.clone() })
    }
}

/// Makes the names in `folder` durable, where the system can.
fn sync_names(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

impl Tape for Positioned {
    fn len(&self) -> io::Result<u64> {
        Positioned::len(self)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        Positioned::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        Positioned::write_all_at(self, bytes, offset)
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        Positioned::set_len(self, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        Positioned::sync_data(self)
    }
}
