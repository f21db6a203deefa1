//! Host files.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use thiserror::Error;

/// Processes of a job at most: each is connected with every other.
pub const MAX_PROCESSES: usize = 1024;

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
    #[error(
        "line {line} of the host file is not `host:port` (a name, an IPv4 address or an IPv6 address in brackets, and a port): {text:?}"
    )]
    Malformed {
        /// 1-based line.
        line: usize,
        /// The line.
        text: String,
    },
    /// A user before the host.
    #[error(
        "line {line} of the host file has a user (`@`): write the host and the port on which nystream is to listen alone, and give ssh the user by --ssh-option User=NAME or in ~/.ssh/config: {text:?}"
    )]
    User {
        /// 1-based line.
        line: usize,
        /// The line.
        text: String,
    },
    /// The address that stands for all of a machine.
    #[error(
        "line {line} of the host file has an address that stands for every one of its machine, which no other process can connect to: write the name or address by which the others reach it: {text:?}"
    )]
    Unspecified {
        /// 1-based line.
        line: usize,
        /// The line.
        text: String,
    },
    /// Port 0.
    #[error(
        "line {line} of the host file has port 0, which stands for any free one, and the others must know which: write a port from 1 to 65535: {text:?}"
    )]
    NoPort {
        /// 1-based line.
        line: usize,
        /// The line.
        text: String,
    },
    /// An IPv6 address with a scope.
    #[error(
        "line {line} of the host file has an address with a scope (`%`), which is another network on each machine: name an address that all hosts reach: {text:?}"
    )]
    Scope {
        /// 1-based line.
        line: usize,
        /// The line.
        text: String,
    },
    /// A number in place of a name, which resolvers take for some IPv4 address.
    #[error(
        "line {line} of the host file has a number for a name, which stands for another address than it shows: write the IPv4 address as four decimal numbers: {text:?}"
    )]
    Number {
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
    /// An address is not on this machine's loopback, and there is no secret.
    #[error(
        "{address} (line {line} of the host file) is not a loopback address, and without a secret anybody could join: give all \
         processes the same secret by --secret-file FILE or the variable NYSTREAM_SECRET"
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
    /// Too many.
    #[error("the host file names {processes} processes, and a job has {MAX_PROCESSES} at most")]
    Many {
        /// How many.
        processes: usize,
    },
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
/// An address is a name, an IPv4 or a bracketed IPv6 address, and a port. Names are kept as they are written and resolved when a connection is made
/// ([`Hosts::resolve`]): a name may begin to exist only when its process does.
///
/// ```
/// use nystream_cluster::Hosts;
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("hosts.txt");
/// std::fs::write(&path, "127.0.0.1:4100\n127.0.0.1:4101\n").unwrap();
/// let hosts = Hosts::read(&path)?;
/// assert_eq!(hosts.address(1)?, "127.0.0.1:4101");
/// // Processes are numbered from 0.
/// assert!(hosts.address(2).is_err());
/// # Ok::<(), nystream_cluster::HostsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    addresses: Vec<String>,
    /// 1-based lines of the addresses.
    lines: Vec<usize>,
}

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

    /// Parses the text of a host file. Nothing is resolved.
    ///
    /// ```
    /// use nystream_cluster::Hosts;
    /// let hosts = Hosts::parse("# three\nnode-1:4100\n10.0.0.7:4100\n[2001:db8::7]:4100 # the last\n").unwrap();
    /// assert_eq!(hosts.len(), 3);
    /// assert!(Hosts::parse("node-1:4100\nNODE-1:4100\n").is_err());
    /// ```
    ///
    /// # Errors
    /// See [`HostsError`].
    pub fn parse(text: &str) -> Result<Self, HostsError> {
        let mut hosts = Hosts { addresses: Vec::new(), lines: Vec::new() };
        let mut known: Vec<String> = Vec::new();
        for (number, raw) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = number + 1;
            let entry = raw.split('#').next().unwrap_or("").trim();
            if entry.is_empty() {
                continue;
            }
            let text = || entry.to_owned();
            if entry.contains('@') {
                return Err(HostsError::User { line, text: text() });
            }
            if entry.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified()) {
                return Err(HostsError::Unspecified { line, text: text() });
            }
            if entry.rsplit_once(':').is_some_and(|(_, port)| port.parse() == Ok(0u16)) && !entry.ends_with("::0") {
                return Err(HostsError::NoPort { line, text: text() });
            }
            if entry.contains('%') {
                return Err(HostsError::Scope { line, text: text() });
            }
            if is_number(entry) {
                return Err(HostsError::Number { line, text: text() });
            }
            let plain = canonical(entry).ok_or_else(|| HostsError::Malformed { line, text: text() })?;
            if known.contains(&plain) {
                return Err(HostsError::Duplicate { address: entry.to_owned(), line });
            }
            known.push(plain);
            hosts.addresses.push(entry.to_owned());
            hosts.lines.push(line);
        }
        if hosts.addresses.is_empty() {
            return Err(HostsError::Empty);
        }
        if hosts.addresses.len() > MAX_PROCESSES {
            return Err(HostsError::Many { processes: hosts.addresses.len() });
        }
        Ok(hosts)
    }

    /// Number of processes.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Never true: a host file names at least one process.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Address of process `index`, as written.
    ///
    /// # Errors
    /// [`HostsError::NoSuchProcess`].
    pub fn address(&self, index: usize) -> Result<&str, HostsError> {
        let address = self.addresses.get(index).map(String::as_str);
        address.ok_or(HostsError::NoSuchProcess { index, processes: self.addresses.len() })
    }

    /// All addresses as written, in process order.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The line of the file, from 1, that process `index` stands on; 0 for none.
    pub(crate) fn line(&self, index: usize) -> usize {
        self.lines.get(index).copied().unwrap_or_default()
    }

    /// What the address of process `index` stands for now, at least one.
    ///
    /// # Errors
    /// A name that cannot be resolved, or no such process.
    pub fn resolve(&self, index: usize) -> std::io::Result<Vec<SocketAddr>> {
        let address = self.address(index).map_err(std::io::Error::other)?;
        let found: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
        if found.is_empty() {
            return Err(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found)
    }

    /// Checks that every process is on this machine's loopback: what a job without a secret is limited to.
    ///
    /// ```
    /// use nystream_cluster::Hosts;
    /// assert!(Hosts::parse("127.0.0.1:4100\n[::1]:4101").unwrap().check_loopback().is_ok());
    /// assert!(Hosts::parse("10.1.2.3:4100").unwrap().check_loopback().is_err());
    /// ```
    ///
    /// # Errors
    /// [`HostsError::NotLoopback`], for a name that cannot be resolved too.
    pub fn check_loopback(&self) -> Result<(), HostsError> {
        for (index, (address, line)) in self.addresses.iter().zip(&self.lines).enumerate() {
            if !self.resolve(index).is_ok_and(|found| found.iter().all(|address| address.ip().is_loopback())) {
                return Err(HostsError::NotLoopback { address: address.clone(), line: *line });
            }
        }
        Ok(())
    }
}

/// Whether the name of `name:port` is a number that resolvers read as an IPv4 address: its last part is all digits or hexadecimal, and it is no such address as it is written everywhere.
fn is_number(entry: &str) -> bool {
    let Some((name, _)) = entry.rsplit_once(':') else { return false };
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase();
    let number = match last.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()),
    };
    number && !name.contains(':') && name.parse::<std::net::Ipv4Addr>().is_err()
}

/// One spelling for each address; `None` for what is no `host:port` that another process could connect to.
fn canonical(entry: &str) -> Option<String> {
    if let Ok(address) = entry.parse::<SocketAddr>() {
        return (address.port() != 0 && !address.ip().is_unspecified()).then(|| address.to_string());
    }
    let (name, port) = entry.rsplit_once(':')?;
    let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
    // With a dot at its end a name is whole, and the same.
    let name = name.strip_suffix('.').unwrap_or(name);
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if name.len() > 253 || !letters || name.split('.').any(str::is_empty) || name.parse::<std::net::Ipv4Addr>().is_ok()
    {
        return None;
    }
    let name = match name.to_ascii_lowercase() {
        name if name == "localhost" => "127.0.0.1".to_owned(),
        name => name,
    };
    Some(format!("{name}:{port}"))
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
            ("127.0.0.1:0", "line 1 of the host file has port 0"),
            ("node\nnode:0", "line 1 of the host file is not"),
            ("node:00", "port 0"),
            ("fe80::0", "in brackets"),
            ("0.0.0.0:4000", "reach it"),
            ("[::]:4000", "reach it"),
            ("# all\n0.0.0.0:4000", "line 2"),
            ("::1:4000", "line 1"),
            ("999.0.0.1:4000", "four decimal numbers"),
            ("127.0.0.1.:4000", "line 1"),
            ("127.1:4000", "four decimal numbers"),
            ("2130706433:4000", "four decimal numbers"),
            ("0x7f000001:4000", "four decimal numbers"),
            ("0X7F.1:4000", "four decimal numbers"),
            ("node.0x1f.:4000", "four decimal numbers"),
            ("0177.0.0.1:4000", "four decimal numbers"),
            ("[fe80::1%eth0]:4000", "scope"),
            ("node:1\n[fe80::1%2]:4000", "line 2"),
            ("a..b:4000", "line 1"),
            (".:4000", "line 1"),
            (".node:4000", "line 1"),
            ("node.example.:4000\nnode.example:4000", "twice"),
            ("localhost.:4000\nLOCALHOST:4000", "twice"),
            (":4000", "line 1"),
            ("two words:4000", "line 1"),
            ("user@host:4000", "--ssh-option User=NAME"),
            ("user@host", "line 1 of the host file has a user"),
            ("127.0.0.1:4000\n127.0.0.1:4000", "twice"),
            ("[::1]:4000\n[0:0::1]:4000", "twice"),
            ("node:4000\n\nNode:4000", "line 3"),
            ("localhost:4000\n127.0.0.1:4000", "twice"),
        ] {
            let message = Hosts::parse(text).expect_err(text).to_string();
            assert!(message.contains(wanted), "{text:?}: {message}");
        }
    }

    #[test]
    fn any_address_is_taken_and_only_loopback_ones_without_a_secret() {
        let hosts = Hosts::parse(
            "\u{feff}# comment\r\n\r\nnode-0.example.:1 # first\r\n[fe80::1]:65535\n10.0.0.1:3\n0xcafe.example:4\n7up:5",
        )
        .unwrap();
        assert_eq!(
            hosts.addresses(),
            ["node-0.example.:1", "[fe80::1]:65535", "10.0.0.1:3", "0xcafe.example:4", "7up:5"]
        );
        for (text, wanted) in [
            ("127.0.0.1:1\n10.0.0.1:3", Some("line 2")),
            ("no-such-name.invalid:4", Some("--secret-file")),
            ("127.9.9.9:1\n[::1]:1", None),
        ] {
            let message = Hosts::parse(text).unwrap().check_loopback().err().map(|e| e.to_string());
            assert_eq!(message.is_some(), wanted.is_some(), "{text}: {message:?}");
            assert!(message.is_none_or(|message| message.contains(wanted.unwrap())), "{text}");
        }
    }

    #[test]
    fn there_is_a_largest_job() {
        let lines = |count: usize| (0..count).map(|i| format!("h{i}:9000\n")).collect::<String>();
        assert!(Hosts::parse(&lines(MAX_PROCESSES)).is_ok());
        let error = Hosts::parse(&lines(MAX_PROCESSES + 1)).unwrap_err();
        assert!(matches!(error, HostsError::Many { processes: 1025 }), "{error}");
    }

    #[test]
    fn a_process_outside_the_file_is_refused() {
        let hosts = Hosts::parse("127.0.0.1:4000").unwrap();
        assert!(hosts.address(0).is_ok());
        assert!(hosts.resolve(1).is_err());
        assert!(hosts.address(1).unwrap_err().to_string().contains("numbered from 0"));
        assert!(Hosts::read(Path::new("no/such/file")).unwrap_err().to_string().contains("no/such/file"));
    }
}
