//! Host files.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use thiserror::Error;

/// Why a host file was refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HostsError {
    /// The file cannot be read.
    #[error("cannot read the host file {path}: {source}")]
    Read {
        /// Path of the host file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not `host:port`.
    #[error("line {line} of the host file is not `host:port`: {text:?}")]
    Malformed {
        /// 1-based line.
        line: usize,
        /// The line.
        text: String,
    },
    /// Two lines name the same address.
    #[error("the host file names {address} twice (line {line}): each process needs an address of its own")]
    Duplicate {
        /// The address.
        address: String,
        /// 1-based line of the second naming.
        line: usize,
    },
    /// An address is not on this machine's loopback.
    #[error(
        "{address} (line {line} of the host file) is not a loopback address: connections between hosts are not \
         authenticated in this version, so only 127.0.0.0/8 and [::1] are accepted"
    )]
    NotLoopback {
        /// The address.
        address: String,
        /// 1-based line.
        line: usize,
    },
    /// No addresses at all.
    #[error("the host file names no process: write one `host:port` a line")]
    Empty,
    /// `--process` does not fit the host file.
    #[error("--process {index} does not exist: the host file names {processes} processes, numbered from 0")]
    NoSuchProcess {
        /// What was asked for.
        index: usize,
        /// Processes in the file.
        processes: usize,
    },
}

/// The processes of a job, in order; process i listens on address i.
///
/// ```
/// use nystream_cluster::Hosts;
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("hosts.txt");
/// std::fs::write(&path, "127.0.0.1:4100\n127.0.0.1:4101\n").unwrap();
/// let hosts = Hosts::read(&path)?;
/// assert_eq!(hosts.address(1)?.port(), 4101);
/// // Processes are numbered from 0.
/// assert!(hosts.address(2).is_err());
/// # Ok::<(), nystream_cluster::HostsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts(Vec<SocketAddr>);

impl Hosts {
    /// Reads a host file: one `host:port` a line; blank lines and `#` comments are skipped.
    ///
    /// # Errors
    /// See [`HostsError`].
    pub fn read(path: &Path) -> Result<Self, HostsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| HostsError::Read { path: path.display().to_string(), source })?;
        Hosts::parse(&text)
    }

    /// Parses the text of a host file.
    ///
    /// ```
    /// use nystream_cluster::Hosts;
    /// let hosts = Hosts::parse("# two on this machine\n127.0.0.1:4100\n[::1]:4101 # second\n").unwrap();
    /// assert_eq!(hosts.len(), 2);
    /// assert!(Hosts::parse("10.1.2.3:4100").is_err());
    /// ```
    ///
    /// # Errors
    /// See [`HostsError`].
    pub fn parse(text: &str) -> Result<Self, HostsError> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for (number, raw) in text.lines().enumerate() {
            let line = number + 1;
            let entry = raw.split('#').next().unwrap_or("").trim();
            if entry.is_empty() {
                continue;
            }
            let address = entry
                .to_socket_addrs()
                .ok()
                .and_then(|mut found| found.next())
                .filter(|address| address.port() != 0)
                .ok_or_else(|| HostsError::Malformed { line, text: entry.to_owned() })?;
            if !address.ip().is_loopback() {
                return Err(HostsError::NotLoopback { address: entry.to_owned(), line });
            }
            if addresses.contains(&address) {
                return Err(HostsError::Duplicate { address: entry.to_owned(), line });
            }
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(HostsError::Empty);
        }
        Ok(Hosts(addresses))
    }

    /// Number of processes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never true: a host file names at least one process.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Address of process `index`.
    ///
    /// # Errors
    /// [`HostsError::NoSuchProcess`].
    pub fn address(&self, index: usize) -> Result<SocketAddr, HostsError> {
        self.0.get(index).copied().ok_or(HostsError::NoSuchProcess { index, processes: self.0.len() })
    }

    /// All addresses, in process order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_malformed_line_is_named() {
        for (text, wanted) in [
            ("", "names no process"),
            ("# nothing\n\n", "names no process"),
            ("127.0.0.1", "line 1"),
            ("127.0.0.1:4000\nnonsense\n", "line 2"),
            ("127.0.0.1:99999", "line 1"),
            ("127.0.0.1:0", "line 1"),
            ("127.0.0.1:4000\n127.0.0.1:4000", "twice"),
            ("192.0.2.1:4000", "loopback"),
        ] {
            let message = Hosts::parse(text).expect_err(text).to_string();
            assert!(message.contains(wanted), "{text:?}: {message}");
        }
    }

    #[test]
    fn a_process_outside_the_file_is_refused() {
        let hosts = Hosts::parse("127.0.0.1:4000").unwrap();
        assert!(hosts.address(0).is_ok());
        assert!(hosts.address(1).unwrap_err().to_string().contains("numbered from 0"));
        assert!(Hosts::read(Path::new("no/such/file")).unwrap_err().to_string().contains("no/such/file"));
    }
}
