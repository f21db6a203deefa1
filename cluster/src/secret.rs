//! The secret that the processes of a job share.
//!
//! Invariants: what was given is kept only as a 32-byte key derived from it, which is never printed; a file that others can read is refused. A job without
//! a secret runs the same protocol with a key that everybody can compute, and is limited to loopback addresses
//! ([`crate::Hosts::check_loopback`]).

use std::fmt;
use std::io::Read;
use std::path::Path;
use thiserror::Error;

/// Least length of a secret, bytes.
const LEAST: usize = 16;
/// Longest file that is taken for a secret, bytes.
const LONGEST: u64 = 65_536;
const CONTEXT: &str = "nystream cluster 2026-11-27 pre-shared key of the join";

/// Why a secret was refused. No message shows any of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret file {path}: {source}")]
    Read {
        /// Path of the file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others than the owner of the file may read or change it.
    #[error("the secret file {path} is open to others than its owner (mode {mode:03o}): run `chmod 600 {path}`")]
    Permissions {
        /// Path of the file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else owns the file, and could write another secret into it.
    #[error(
        "the secret file {path} belongs to user {owner}, and this process runs as user {user}: it must be this user's own, or root's"
    )]
    Owner {
        /// Path of the file.
        path: String,
        /// Who owns it.
        owner: u32,
        /// As whom this process runs.
        user: u32,
    },
    /// No file: a folder, a named pipe, a device.
    #[error("the secret file {path} is no regular file: name one, or give the secret in the variable NYSTREAM_SECRET")]
    Kind {
        /// Path of what is there.
        path: String,
    },
    /// Too short to withstand guessing, or too long to be a secret.
    #[error(
        "the secret of {origin} has {length} bytes: between 16 and 65536 are needed, at random, as `head -c 32 /dev/urandom | base64` makes them"
    )]
    Length {
        /// Where it is from.
        origin: String,
        /// Its length without line ends at its end; at most 65537.
        length: usize,
    },
}

/// A secret, as the key derived from it.
///
/// ```
/// use nystream_cluster::Secret;
/// let secret = Secret::new(b"correct horse battery staple\n", "NYSTREAM_SECRET")?;
/// // A line end at the end does not count, and nothing of it is shown.
/// assert_eq!(secret, Secret::new(b"correct horse battery staple", "a file")?);
/// assert_eq!(format!("{secret:?}"), "Secret(shared)");
/// assert!(Secret::new(b"short", "NYSTREAM_SECRET").is_err());
/// # Ok::<(), nystream_cluster::SecretError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    key: [u8; 32],
    shared: bool,
}

impl Secret {
    /// No secret: the key that everybody can compute.
    pub fn none() -> Self {
        Secret { key: blake3::derive_key(CONTEXT, b""), shared: false }
    }

    /// Of these bytes without line ends at their end; `origin` names them in errors.
    ///
    /// # Errors
    /// [`SecretError::Length`].
    pub fn new(bytes: &[u8], origin: &str) -> Result<Self, SecretError> {
        let line_end = |b: &u8| matches!(b, b'\n' | b'\r');
        let length = bytes.iter().rposition(|b| !line_end(b)).map_or(0, |last| last + 1);
        if length < LEAST || length as u64 > LONGEST {
            return Err(SecretError::Length { origin: origin.to_owned(), length });
        }
        Ok(Secret { key: blake3::derive_key(CONTEXT, &bytes[..length]), shared: true })
    }

    /// Of a file that belongs to the user of this process or to root, and that only its owner can read or change (as `ssh` asks of keys); or one of the credentials that systemd made for
    /// this service alone (whose access list shows as rights of the group); or of what a shell hands over as `/dev/fd/N` (`--secret-file <(command)`). A named pipe is refused: it may have no
    /// writer, ever.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        Secret::read_text(path).map(|(_, secret)| secret)
    }

    /// [`Secret::read`], and the bytes it is made from, without line ends at their end: for a launcher, which hands them on. The file is read once.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn read_text(path: &Path) -> Result<(Vec<u8>, Self), SecretError> {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
        Secret::read_within(path, credentials.as_deref().map(Path::new), true)
    }

    /// That of a file which [`Secret::read`] refuses because of who owns it or could read it: to tell the other processes, which may hold it, that this one will not join.
    ///
    /// # Errors
    /// What else keeps it from being read.
    pub fn read_refused(path: &Path) -> Result<Self, SecretError> {
        Secret::read_within(path, None, false).map(|(_, secret)| secret)
    }

    fn read_within(path: &Path, credentials: Option<&Path>, strict: bool) -> Result<(Vec<u8>, Self), SecretError> {
        let name = path.display().to_string();
        let failed = |source| SecretError::Read { path: path.display().to_string(), source };
        let handed = is_handed_over(path);
        let file = open(path, handed).map_err(failed)?;
        // Of the open file: the path may stand for another one a moment later.
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() && !handed {
            return Err(SecretError::Kind { path: name });
        }
        #[cfg(unix)]
        if strict {
            use std::os::unix::fs::MetadataExt;
            let (mode, owner, user) = (found.mode() & 0o777, found.uid(), nix::unistd::geteuid().as_raw());
            let ours = credentials.is_some_and(|folder| path.parent() == Some(folder));
            if mode & if ours { 0o027 } else { 0o077 } != 0 {
                return Err(SecretError::Permissions { path: name, mode });
            }
            if !may_own(owner, user) {
                return Err(SecretError::Owner { path: name, owner, user });
            }
        }
        let mut bytes = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
        let secret = Secret::new(&bytes, &name)?;
        while bytes.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
            bytes.pop();
        }
        Ok((bytes, secret))
    }

    /// Whether it is a secret at all.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    pub(crate) fn key(&self) -> &[u8; 32] {
        &self.key
    }
}

/// Whose files a process of `user` takes for its own. Root takes no other user's: it could be given a secret that this user knows.
#[cfg(unix)]
fn may_own(owner: u32, user: u32) -> bool {
    owner == user || owner == 0
}

/// Opens without waiting for the writer of a named pipe.
#[cfg(unix)]
fn open(path: &Path, handed: bool) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let wait = if handed { 0 } else { nix::libc::O_NONBLOCK };
    std::fs::OpenOptions::new().read(true).custom_flags(wait).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path, _: bool) -> std::io::Result<std::fs::File> {
    std::fs::File::open(path)
}

/// Whether the path names an open descriptor of this process, as shells hand them over: it lies in `/dev/fd` or `/proc/N/fd`, or is a link to what does (`/dev/stdin`).
fn is_handed_over(path: &Path) -> bool {
    let mut path = path.to_path_buf();
    for _ in 0..8 {
        let folder = path.parent().and_then(|folder| std::fs::canonicalize(folder).ok());
        if folder
            .is_some_and(|folder| folder.ends_with("fd") && (folder.starts_with("/proc") || folder.starts_with("/dev")))
        {
            return true;
        }
        let Ok(target) = std::fs::read_link(&path) else { return false };
        path = path.parent().map_or(target.clone(), |folder| folder.join(&target));
    }
    false
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.shared { "Secret(shared)" } else { "Secret(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_secrets_have_other_keys() {
        let secrets = [
            Secret::none(),
            Secret::new(b"0123456789abcdef", "").unwrap(),
            Secret::new(b"0123456789abcdeg", "").unwrap(),
            Secret::new(b" 0123456789abcdef", "").unwrap(),
        ];
        for (i, one) in secrets.iter().enumerate() {
            assert_eq!(one.is_shared(), i > 0);
            for other in &secrets[..i] {
                assert_ne!(one.key(), other.key());
            }
        }
        let message = Secret::new(b"0123456789abcde\r\n\n", "NYSTREAM_SECRET").unwrap_err().to_string();
        assert!(message.contains("NYSTREAM_SECRET has 15 bytes") && !message.contains("012345"), "{message}");
        assert!(Secret::new(&[7; 65_537], "").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        for mode in 0..0o1000 {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode | 0o400)).unwrap();
            match Secret::read(&path) {
                Ok(secret) => assert!(mode & 0o077 == 0 && secret.is_shared(), "{mode:o}"),
                Err(error) => {
                    let message = error.to_string();
                    assert!(mode & 0o077 != 0 && message.contains("chmod 600"), "{mode:o}: {message}");
                }
            }
        }
        assert!(Secret::read(&folder.path().join("absent")).unwrap_err().to_string().contains("absent"));
    }

    #[cfg(unix)]
    #[test]
    fn only_files_of_the_user_or_of_root_are_taken() {
        assert!(may_own(1000, 1000) && may_own(0, 1000) && may_own(0, 0));
        assert!(!may_own(1000, 0) && !may_own(1001, 1000));
        // Only root can give a file away.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Secret::read(&path).is_ok());
        if std::os::unix::fs::chown(&path, Some(12_345), None).is_ok() {
            let message = Secret::read(&path).unwrap_err().to_string();
            assert!(message.contains("user 12345") && !message.contains("012345"), "{message}");
            // To say so to the others it is good enough.
            assert!(Secret::read_refused(&path).unwrap().is_shared());
        }
    }

    /// Neither does a pipe without a writer hang, nor is a device read.
    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap();
        assert!(made.success());
        for path in [pipe.as_path(), folder.path(), Path::new("/dev/null")] {
            let message = Secret::read(path).unwrap_err().to_string();
            assert!(message.contains("is no regular file") && message.contains(path.to_str().unwrap()), "{message}");
        }
    }

    /// `--secret-file <(command)`: the shell hands over an open pipe, whose writer may be slow.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_secret_may_come_through_a_pipe_that_is_handed_over() {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        let (reader, mut writer) = std::io::pipe().unwrap();
        let slow = std::thread::spawn(move || {
            for piece in [&b"01234567"[..], b"89abcdef\n"] {
                std::thread::sleep(std::time::Duration::from_millis(50));
                writer.write_all(piece).unwrap();
            }
        });
        for path in [format!("/dev/fd/{}", reader.as_raw_fd()), format!("/proc/self/fd/{}", reader.as_raw_fd())] {
            assert!(is_handed_over(Path::new(&path)), "{path}");
        }
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        assert_eq!(Secret::read(Path::new(&path)).unwrap(), Secret::new(b"0123456789abcdef", "").unwrap());
        slow.join().unwrap();
        assert!(is_handed_over(Path::new("/dev/stdin")) && !is_handed_over(Path::new("/dev/null")));
        assert!(!is_handed_over(Path::new("secret")));
    }

    /// systemd gives a service access by an access list, whose mask shows as rights of the group.
    #[cfg(unix)]
    #[test]
    fn credentials_of_the_service_may_show_rights_of_the_group() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "0123456789abcdef\r\n").unwrap();
        let read = |mode: u32, credentials: Option<&Path>| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Secret::read_within(&path, credentials, true)
        };
        let (bytes, secret) = read(0o440, Some(folder.path())).unwrap();
        assert!(bytes == b"0123456789abcdef" && secret == Secret::new(&bytes, "").unwrap());
        assert!(read(0o400, None).is_ok());
        for (mode, credentials) in
            [(0o440, None), (0o440, folder.path().parent()), (0o444, Some(folder.path())), (0o460, Some(folder.path()))]
        {
            assert!(read(mode, credentials).is_err(), "{mode:o} {credentials:?}");
        }
    }
}
