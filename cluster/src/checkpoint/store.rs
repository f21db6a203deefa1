//! A folder of checkpoints.
//!
//! Entries are files of their own, each written under a temporary name, flushed to the disk, renamed, and its folder flushed: an entry is there whole or not at all. A member of
//! a group has one or several generations; of a damaged one it is said so, and the one before it is read. The first process holds the folder's lock for as long as it lives;
//! the others write entries of their own (parts of a pass), whose names contain the attempt and the process, so that one left over from an earlier attempt disturbs nobody.
//!
//! Cost of an entry: its bytes once, two flushes (a millisecond on an SSD, ten or more on a disk or a network file system), and a listing of the folder.

use super::error::CheckpointError;
use super::format::{Damage, Entry, Frame, Header, write};
use super::identity::{Attempt, JobKey, short};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Ending of the names of entries.
const ENDING: &str = "nyc";
/// Name of the lock.
const LOCK: &str = "lock";
/// Group and member of the entry that says whose the folder is.
const JOB: (&str, &str) = ("job", "attempt");
/// Generations of it.
const JOB_GENERATIONS: usize = 2;
/// Time between two tries for a lock.
const LOOK: Duration = Duration::from_millis(100);

/// Where the processes of one attempt at a job keep its checkpoints.
pub struct Store {
    folder: PathBuf,
    digest: [u8; 32],
    attempt: Attempt,
    sequence: AtomicU64,
    say: Box<dyn Fn(&str) + Send + Sync>,
    least: Duration,
    _lock: Option<File>,
}

/// What the first process found in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whether there was something of this job to go on from.
    pub checkpoint: bool,
}

/// One file of a folder, by its name.
struct Named {
    path: PathBuf,
    stem: String,
    sequence: u64,
}

impl Store {
    /// Opens `folder` as the first process of a job: makes it where it is absent, takes its lock (waiting `patience` for whoever holds it), and looks whose checkpoint it holds. `say` is told of
    /// a wait and of damaged entries.
    ///
    /// # Errors
    /// Why it cannot be used, or must not be.
    pub fn lead(
        folder: &Path,
        key: &JobKey,
        resume: bool,
        patience: Duration,
        say: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Result<(Store, Found), CheckpointError> {
        let unusable = |e: io::Error| CheckpointError::Unusable { folder: shown(folder), reason: e.to_string() };
        fs::create_dir_all(folder).map_err(unusable)?;
        let lock = lock(folder, patience, key, &say)?;
        let digest = key.digest();
        let fresh = Attempt { key: key.clone(), number: 0, nonce: [0; 16] };
        let mut store = Store {
            folder: folder.to_owned(),
            digest,
            attempt: fresh,
            sequence: AtomicU64::new(0),
            say,
            least: Duration::ZERO,
            _lock: Some(lock),
        };
        let known = store.identity()?;
        let others = store.files().map_err(unusable)?.into_iter().any(|file| !file.stem.starts_with(&stem(JOB)));
        if let Some(known) = &known {
            store.compare(known)?;
            if others && !resume {
                return Err(CheckpointError::Exists { folder: shown(folder) });
            }
        }
        store.remove_temporary();
        store.attempt.number = known.map_or(0, |known| known.number).wrapping_add(1);
        store.attempt.nonce = nonce();
        store.sequence = AtomicU64::new(u64::from(store.attempt.number) << 32);
        let frame = store.attempt.frame().map_err(unusable)?;
        let begun = Instant::now();
        // Without it nothing else is of use: there are always two.
        store.save(JOB, JOB_GENERATIONS, 1, &mut std::iter::once(frame.clone())).map_err(unusable)?;
        store.least = begun.elapsed();
        store.save(JOB, JOB_GENERATIONS, 1, &mut std::iter::once(frame)).map_err(unusable)?;
        Ok((store, Found { checkpoint: others }))
    }

    /// Opens `folder` as another process, after the first one has.
    ///
    /// # Errors
    /// A folder that is not that of the first process.
    pub fn follow(folder: &Path, key: &JobKey, say: Box<dyn Fn(&str) + Send + Sync>) -> Result<Store, CheckpointError> {
        let digest = key.digest();
        let attempt = Attempt { key: key.clone(), number: 0, nonce: [0; 16] };
        let mut store = Store {
            folder: folder.to_owned(),
            digest,
            attempt,
            sequence: AtomicU64::new(0),
            say,
            least: Duration::ZERO,
            _lock: None,
        };
        let not_shared = |reason: String| CheckpointError::NotShared { folder: shown(folder), reason };
        let known = store.identity().map_err(|e| not_shared(e.to_string()))?;
        let known = known.ok_or_else(|| not_shared("there is none".into()))?;
        store.compare(&known)?;
        store.sequence = AtomicU64::new(u64::from(known.number) << 32);
        store.attempt = known;
        // Whether this process can write there shows now, not in an hour.
        let probe = store.folder.join(format!(
            ".probe-{}-{:016x}.tmp",
            std::process::id(),
            RandomState::new().build_hasher().finish()
        ));
        let begun = Instant::now();
        File::create(&probe)
            .and_then(|mut file| file.write_all(&[0; 4096]).and_then(|()| file.sync_all()))
            .and_then(|()| fs::remove_file(&probe))
            .map_err(|e| CheckpointError::Unusable { folder: shown(folder), reason: e.to_string() })?;
        store.least = begun.elapsed();
        Ok(store)
    }

    /// Number of the attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt.number
    }

    /// What all processes of the attempt have in common, where they see one folder.
    pub fn nonce(&self) -> [u8; 16] {
        self.attempt.nonce
    }

    /// What the first, small write took.
    pub fn least(&self) -> Duration {
        self.least
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn identity(&self) -> Result<Option<Attempt>, CheckpointError> {
        let unusable = |e: io::Error| CheckpointError::Unusable { folder: shown(&self.folder), reason: e.to_string() };
        let (mut why, mut any) = (None, false);
        for file in self.files_of(JOB).map_err(unusable)? {
            any = true;
            match self.frames(&file.path, JOB) {
                Ok(frames) => match frames.first().and_then(|frame| Attempt::read(&frame.bytes)) {
                    Some(attempt) => return Ok(Some(attempt)),
                    None => why = Some(Damage::Content.to_string()),
                },
                Err(Damage::Version(found)) => {
                    return Err(CheckpointError::OtherFormat { folder: shown(&self.folder), found });
                }
                Err(damage) => {
                    self.report(&file.path, &damage);
                    why = Some(damage.to_string());
                }
            }
        }
        let entries = !self.files().map_err(unusable)?.is_empty();
        match why {
            None if !any && entries => Err(self.nameless("the file that says so is missing".into())),
            Some(why) => Err(self.nameless(why)),
            None => Ok(None),
        }
    }

    fn nameless(&self, reason: String) -> CheckpointError {
        CheckpointError::Nameless { folder: shown(&self.folder), reason }
    }

    fn compare(&self, known: &Attempt) -> Result<(), CheckpointError> {
        let (own, found) = (&self.attempt.key, &known.key);
        let folder = shown(&self.folder);
        if own.version != found.version {
            return Err(CheckpointError::OtherVersion {
                folder,
                found: found.version.clone(),
                own: own.version.clone(),
            });
        }
        if own.digest() != found.digest() {
            return Err(CheckpointError::OtherJob {
                folder,
                found: short(&found.digest()),
                own: short(&self.digest),
                differences: own.differences(found).join("; "),
            });
        }
        Ok(())
    }

    /// Writes an entry as the newest of `(group, member)` and removes all but the `generations` newest; gives its length. `count` frames are expected.
    ///
    /// # Errors
    /// What the system says; nothing is left then.
    pub fn save(
        &self,
        name: (&str, &str),
        generations: usize,
        count: u32,
        frames: &mut dyn Iterator<Item = Frame>,
    ) -> io::Result<u64> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (group, member) = (name.0.to_owned(), name.1.to_owned());
        let header = Header { job: self.digest, group, member, sequence, frames: count };
        let file_name = format!("{}-{sequence:016x}.{ENDING}", stem(name));
        let temporary = self.folder.join(format!(".{file_name}.{}.tmp", std::process::id()));
        let path = self.folder.join(file_name);
        let written = File::create(&temporary)
            .and_then(|file| {
                let mut out = BufWriter::with_capacity(1 << 20, file);
                let length = write(&mut out, &header, frames)?;
                out.flush()?;
                out.get_ref().sync_all()?;
                Ok(length)
            })
            .and_then(|length| fs::rename(&temporary, &path).map(|()| length))
            .inspect_err(|_| {
                let _ = fs::remove_file(&temporary);
            })?;
        sync_folder(&self.folder)?;
        for old in self.files_of(name)?.into_iter().skip(generations.max(1)) {
            let _ = fs::remove_file(old.path);
        }
        Ok(written)
    }

    /// The sound files of an entry, the newest first: all of each has been read and found right.
    pub fn sound(&self, name: (&str, &str)) -> Vec<PathBuf> {
        let whole = |path: &PathBuf| {
            let result = self.each(path, name, &mut |_| Ok(()));
            result.inspect_err(|damage| self.report(path, damage)).is_ok()
        };
        self.files_of(name).unwrap_or_default().into_iter().map(|file| file.path).filter(whole).collect()
    }

    /// When the newest entry was written.
    pub fn latest(&self) -> Option<SystemTime> {
        let others = |file: &Named| !file.stem.starts_with(&stem(JOB));
        let files = self.files().unwrap_or_default().into_iter().filter(others);
        files.filter_map(|file| fs::metadata(file.path).and_then(|meta| meta.modified()).ok()).max()
    }

    /// Hands the frames of a file to `each`, one at a time, until that fails.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn each(
        &self,
        path: &Path,
        name: (&str, &str),
        each: &mut dyn FnMut(Frame) -> Result<(), Damage>,
    ) -> Result<(), Damage> {
        let mut entry = self.entry(path, name)?;
        while let Some(frame) = entry.next_frame()? {
            each(frame)?;
        }
        Ok(())
    }

    /// The newest sound entry of a name.
    pub fn load(&self, name: (&str, &str)) -> Option<Vec<Frame>> {
        self.files_of(name)
            .ok()?
            .into_iter()
            .find_map(|file| self.frames(&file.path, name).inspect_err(|damage| self.report(&file.path, damage)).ok())
    }

    fn frames(&self, path: &Path, name: (&str, &str)) -> Result<Vec<Frame>, Damage> {
        let mut frames = Vec::new();
        self.each(path, name, &mut |frame| {
            frames.push(frame);
            Ok(())
        })?;
        Ok(frames)
    }

    fn entry(&self, path: &Path, name: (&str, &str)) -> Result<Entry<impl Read>, Damage> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let entry = Entry::open(BufReader::with_capacity(1 << 20, file), length)?;
        let header = &entry.header;
        // The job's own entry is read before anybody knows whose it is.
        let ours = name == JOB || header.job == self.digest;
        if !ours || (header.group.as_str(), header.member.as_str()) != name {
            return Err(Damage::Foreign);
        }
        Ok(entry)
    }

    /// Names of the groups and members that are there, by their headers; the entry that says whose they are is none of them.
    pub fn names(&self) -> Vec<(String, String)> {
        let mut names: Vec<(String, String)> = Vec::new();
        for file in self.files().unwrap_or_default() {
            let header = File::open(&file.path)
                .and_then(|file| file.metadata().map(|meta| (file, meta.len())))
                .map_err(Damage::from)
                .and_then(|(file, length)| Entry::open(BufReader::new(file), length).map(|entry| entry.header));
            match header {
                Ok(header) if header.job == self.digest && header.group != JOB.0 => {
                    names.push((header.group, header.member))
                }
                Ok(_) => {}
                Err(damage) => self.report(&file.path, &damage),
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// Removes what a group has.
    pub fn forget(&self, group: &str) {
        let start = format!("{}-", hashed(group));
        for file in self.files().unwrap_or_default() {
            if file.stem.starts_with(&start) {
                let _ = fs::remove_file(file.path);
            }
        }
    }

    /// Empties the folder, once the job is done.
    pub fn clear(&self) {
        for file in self.files().unwrap_or_default() {
            let _ = fs::remove_file(file.path);
        }
        self.remove_temporary();
        if self._lock.is_some() {
            let _ = fs::remove_file(self.folder.join(LOCK));
        }
        let _ = sync_folder(&self.folder);
    }

    fn report(&self, path: &Path, damage: &Damage) {
        (self.say)(&format!("the checkpoint {} is damaged ({damage}) and not used", path.display()));
    }

    /// All entries, the newest of each name first.
    fn files(&self) -> io::Result<Vec<Named>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let parts = name.strip_suffix(&format!(".{ENDING}")).and_then(|name| name.rsplit_once('-'));
            let Some((stem, sequence)) = parts.filter(|(stem, _)| !stem.starts_with('.')) else { continue };
            let Ok(sequence) = u64::from_str_radix(sequence, 16) else { continue };
            files.push(Named { stem: stem.to_owned(), sequence, path });
        }
        files.sort_by(|a, b| a.stem.cmp(&b.stem).then(b.sequence.cmp(&a.sequence)));
        Ok(files)
    }

    fn files_of(&self, name: (&str, &str)) -> io::Result<Vec<Named>> {
        let own = stem(name);
        Ok(self.files()?.into_iter().filter(|file| file.stem == own).collect())
    }

    fn remove_temporary(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') && name.ends_with(".tmp") && (name.contains(ENDING) || name.starts_with(".probe-"))
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// First part of the name of the files of an entry.
fn stem((group, member): (&str, &str)) -> String {
    format!("{}-{}", hashed(group), hashed(member))
}

fn hashed(name: &str) -> String {
    short(blake3::hash(name.as_bytes()).as_bytes())
}

fn shown(folder: &Path) -> String {
    folder.display().to_string()
}

fn nonce() -> [u8; 16] {
    let random = || RandomState::new().build_hasher().finish();
    (u128::from(random()) << 64 | u128::from(random())).to_le_bytes()
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Folders cannot be opened there.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether `file` is what `path` names: the lock may have been removed by the one that held it.
#[cfg(unix)]
fn still_named(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn still_named(_: &File, path: &Path) -> bool {
    path.exists()
}

fn lock(folder: &Path, patience: Duration, key: &JobKey, say: &dyn Fn(&str)) -> Result<File, CheckpointError> {
    let unusable = |e: io::Error| CheckpointError::Unusable { folder: shown(folder), reason: e.to_string() };
    let path = folder.join(LOCK);
    let until = Instant::now() + patience;
    let mut told = false;
    loop {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) if still_named(&file, &path) => {
                let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
                let host = if host.trim().is_empty() { "this host" } else { host.trim() };
                let line = format!("process {} on {host} (nystream {})", std::process::id(), key.version);
                file.set_len(0).and_then(|()| file.write_all(line.as_bytes())).map_err(unusable)?;
                return Ok(file);
            }
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.take(200).read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "another job".into() } else { holder.trim().to_owned() };
                if Instant::now() < until {
                    if !told {
                        let (folder, seconds) = (shown(folder), patience.as_secs());
                        say(&format!(
                            "the checkpoint folder {folder} is in use by {holder}: waiting up to {seconds} s for its end"
                        ));
                    }
                    told = true;
                    std::thread::sleep(LOOK);
                    continue;
                }
                return Err(CheckpointError::Locked { folder: shown(folder), holder });
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
    }
}
