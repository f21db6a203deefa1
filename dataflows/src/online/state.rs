//! The folder of a run: who holds it, what it was told, its snapshots and its log.
//!
//! ```text
//!  STATE/lock                   held by the process that runs
//!  STATE/online.json            what the run was told, written once
//!  STATE/config.nys             the frozen configuration, written once, and anew by --refit-encoder
//!  STATE/refitted.json          the last of these, while the run that was asked for it has not come to its end
//!  STATE/snapshot-<record>      everything up to a record, two of them
//!  STATE/model.nys              the last published model; STATE/published/ has the ones before it that are kept
//!  STATE/log/, STATE/rows/      the write-ahead log, or the rows and their log
//!  STATE/exact/sums-<number>    the sums of the exact mode, which snapshots name
//! ```
//!
//! A snapshot is a header (what it is, whose, its record, BLAKE3 of the rest) and CBOR. It appears whole or not at all, and the one before it is kept with the log from there on: damage of the newest costs a
//! longer replay and nothing else.

use super::session::Stored;
use crate::error::StageError;
use nystream_datasets::atomic;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// First bytes of a snapshot: what it is, and the version of its format.
const MAGIC: &[u8; 8] = b"NYSONL\0\x01";
const HEADER: usize = 8 + 16 + 8 + 32;
/// What a run was told, in its folder.
const TOLD: &str = "online.json";

/// The folder of a run, held by this process.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    /// The lock ends with the process, whatever ends it.
    _lock: Option<File>,
}

/// A snapshot that can be used.
#[derive(Debug)]
pub struct Snapshot {
    /// The last record that it holds.
    pub record: u64,
    /// What it holds.
    pub stored: Stored,
}

/// A snapshot that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSnapshot {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

fn io(action: &str, path: &Path, error: &dyn std::fmt::Display) -> StageError {
    StageError::Data(format!("--state: cannot {action} '{}': {error}", path.display()))
}

impl State {
    /// Holds `folder`, which is made where it is not there.
    ///
    /// # Errors
    /// [`StageError::Data`] for a folder that cannot be made, or that another process holds.
    pub fn hold(folder: &Path) -> Result<Self, StageError> {
        std::fs::create_dir_all(folder).map_err(|error| io("make", folder, &error))?;
        let path = folder.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| io("write", &path, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let who = std::fs::read_to_string(&path).unwrap_or_default();
                let who = who.trim().parse::<u32>().map(|id| format!(" (process {id})")).unwrap_or_default();
                return Err(StageError::Data(format!(
                    "--state {} is in use by another process{who}: end that, or give another folder",
                    folder.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(io("lock", &path, &error)),
        }
        // For messages alone.
        let _ = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        Ok(State { folder: folder.to_path_buf(), _lock: Some(file) })
    }

    /// Looks at `folder` without holding it.
    ///
    /// # Errors
    /// [`StageError::Data`] for a folder that holds no run.
    pub fn look(folder: &Path) -> Result<Self, StageError> {
        let state = State { folder: folder.to_path_buf(), _lock: None };
        if state.told()?.is_none() {
            return Err(StageError::Data(format!("'{}' holds no state of nystream online", folder.display())));
        }
        Ok(state)
    }

    /// Takes back what [`State::hold`] has made of `folder`, where nothing has begun in it and nobody holds it; other files stay.
    pub fn abandon(folder: &Path) {
        if let Ok(_held) = State::hold(folder) {
            State::leave(folder);
        }
    }

    /// Whether this process holds `folder`.
    pub fn is_held_here(folder: &Path) -> bool {
        let holder = std::fs::read_to_string(folder.join("lock")).unwrap_or_default();
        holder.trim().parse() == Ok(std::process::id())
    }

    /// The same, by the process that holds it, at its end; whether nothing had begun.
    pub fn leave(folder: &Path) -> bool {
        let nothing = !folder.join(TOLD).exists();
        if nothing {
            let _ = std::fs::remove_file(folder.join("lock"));
            // Not where there is anything else.
            let _ = std::fs::remove_dir(folder);
        }
        nothing
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What the run was told, where it has begun.
    ///
    /// # Errors
    /// [`StageError::Data`] for a file that cannot be read.
    pub fn told(&self) -> Result<Option<Vec<u8>>, StageError> {
        let path = self.path(TOLD);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("read", &path, &error)),
        }
    }

    /// Writes what the run is told; after this it has begun.
    ///
    /// # Errors
    /// [`StageError::Data`] for a file that cannot be written.
    pub fn tell(&self, told: &[u8]) -> Result<(), StageError> {
        self.write(TOLD, told)
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// [`StageError::Data`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StageError> {
        atomic::write(&self.path(name), bytes).map_err(|error| StageError::Data(format!("--state: {error}")))
    }

    /// The records of the snapshots that are there, ascending.
    ///
    /// # Errors
    /// [`StageError::Data`] for a folder that cannot be listed.
    pub fn snapshots(&self) -> Result<Vec<u64>, StageError> {
        let listed = std::fs::read_dir(&self.folder).map_err(|error| io("list", &self.folder, &error))?;
        let mut records = Vec::new();
        for entry in listed {
            let name = entry.map_err(|error| io("list", &self.folder, &error))?.file_name();
            let record = name.to_str().and_then(|name| name.strip_prefix("snapshot-")?.parse::<u64>().ok());
            records.extend(record);
        }
        records.sort_unstable();
        Ok(records)
    }

    fn snapshot_path(&self, record: u64) -> PathBuf {
        self.path(&format!("snapshot-{record:020}"))
    }

    /// Reads the snapshot of `record`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self, identity: &[u8; 16], record: u64) -> Result<Snapshot, BadSnapshot> {
        let path = self.snapshot_path(record);
        let bad = |reason: String| BadSnapshot { path: path.clone(), reason };
        let bytes = std::fs::read(&path).map_err(|error| bad(error.to_string()))?;
        let Some((head, body)) = bytes.split_at_checked(HEADER) else { return Err(bad("it is cut short".into())) };
        if head[..8] != MAGIC[..] {
            return Err(bad("it is no snapshot of this version".into()));
        }
        if head[8..24] != identity[..] {
            return Err(bad("it is of another run".into()));
        }
        if head[24..32] != record.to_le_bytes() || check(&head[..32], body) != head[32..] {
            return Err(bad("its checksum does not hold".into()));
        }
        let stored = ciborium::from_reader(body).map_err(|error| bad(error.to_string()))?;
        Ok(Snapshot { record, stored })
    }

    /// The newest snapshot that can be used, and those that cannot.
    ///
    /// # Errors
    /// [`StageError::Data`] where there are snapshots and none can be used: the log alone does not have what they had.
    pub fn newest(&self, identity: &[u8; 16]) -> Result<(Option<Snapshot>, Vec<BadSnapshot>), StageError> {
        let mut bad = Vec::new();
        for record in self.snapshots()?.into_iter().rev() {
            match self.read(identity, record) {
                Ok(snapshot) => return Ok((Some(snapshot), bad)),
                Err(error) => bad.push(error),
            }
        }
        match bad.first() {
            None => Ok((None, bad)),
            Some(BadSnapshot { path, reason }) => Err(StageError::Data(format!(
                "--state: no snapshot can be used, the newest '{}' because {reason}: put back a copy of the folder, or begin in another one",
                path.display()
            ))),
        }
    }

    /// Writes the snapshot of `record`, and removes all but it and the one before. The oldest that is left.
    ///
    /// # Errors
    /// [`StageError::Data`], such as a full disk: the ones before are as they were.
    pub fn save(&self, identity: &[u8; 16], record: u64, stored: &Stored) -> Result<u64, StageError> {
        let mut bytes = vec![0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..24].copy_from_slice(identity);
        bytes[24..32].copy_from_slice(&record.to_le_bytes());
        ciborium::into_writer(stored, &mut bytes)
            .map_err(|error| StageError::Internal(format!("the snapshot cannot be written: {error}")))?;
        let sum = check(&bytes[..32], &bytes[HEADER..]);
        bytes[32..HEADER].copy_from_slice(&sum);
        let path = self.snapshot_path(record);
        atomic::write(&path, &bytes).map_err(|error| StageError::Data(format!("--state: {error}")))?;
        let mut records = self.snapshots()?;
        while records.len() > 2 {
            let oldest = records.remove(0);
            let path = self.snapshot_path(oldest);
            std::fs::remove_file(&path).map_err(|error| io("remove", &path, &error))?;
        }
        // With one snapshot alone the log stays whole.
        Ok(if records.len() == 2 { records[0] } else { 0 })
    }
}

fn check(head: &[u8], body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head).update(body);
    *hasher.finalize().as_bytes()
}
