//! Whom to start: the lines of a host file as they are written.
//!
//! Names are not resolved here: ssh knows aliases that the resolver does not, and a name may mean another address on the hosts than on the machine that launches.

use crate::{Hosts, HostsError};
use std::net::TcpListener;
use std::path::Path;

/// A line of a host file: where one process runs.
///
/// ```
/// use nystream_cluster::launch::HostLine;
/// let line: HostLine = "[fe80::1]:4100".parse().unwrap();
/// assert_eq!((line.host(), line.to_string().as_str()), ("fe80::1", "[fe80::1]:4100"));
/// assert!("-oProxyCommand=true:22".parse::<HostLine>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLine {
    text: String,
    host: String,
}

impl HostLine {
    /// The name or address before the port, without brackets: what ssh is given.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl std::fmt::Display for HostLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for HostLine {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // A name that begins with a dash would be an option of ssh.
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '[' | ']' | '@' | '/');
        let good = !host.is_empty() && !host.starts_with('-') && !host.contains(odd);
        match port.parse::<u16>() {
            Ok(1..) if good => Ok(HostLine { text: text.to_owned(), host: host.to_owned() }),
            _ => Err(()),
        }
    }
}

/// The lines of a host file, in order: line i is process i. Blank lines and `#` comments are skipped, as by [`crate::Hosts::read`].
///
/// ```
/// use nystream_cluster::launch::read_hosts;
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("hosts.txt");
/// std::fs::write(&path, "# two machines\nalpha:4100\nbeta:4100 # the second\n").unwrap();
/// assert_eq!(read_hosts(&path)?[1].host(), "beta");
/// # Ok::<(), nystream_cluster::HostsError>(())
/// ```
///
/// # Errors
/// A file that cannot be read, that names no process or one address twice, a line that is not `host:port`.
pub fn read_hosts(path: &Path) -> Result<Vec<HostLine>, HostsError> {
    let hosts = Hosts::read(path)?;
    let lines = hosts.addresses().iter().enumerate().map(|(index, address)| {
        address.parse().map_err(|()| HostsError::Malformed { line: hosts.line(index), text: address.clone() })
    });
    lines.collect()
}

/// Lines for `processes` processes on this machine, on loopback ports that are free now.
///
/// ```
/// let lines = nystream_cluster::launch::loopback(2)?;
/// assert!(lines[0].host() == "127.0.0.1" && lines[0] != lines[1]);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// What the system says when it has no more ports.
pub fn loopback(processes: usize) -> std::io::Result<Vec<HostLine>> {
    // All are bound at once, so that they differ.
    let bound = (0..processes).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>()?;
    let line = |listener: &TcpListener| {
        let address = listener.local_addr()?;
        Ok(HostLine { text: address.to_string(), host: address.ip().to_string() })
    };
    bound.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_as_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_hosts(&path)
        };
        let lines = read("\n# a comment\n a.example:4100 # first\r\n[::1]:4101\n10.0.0.1:4100").unwrap();
        assert_eq!(
            lines.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["a.example:4100", "[::1]:4101", "10.0.0.1:4100"]
        );
        assert_eq!(lines.iter().map(HostLine::host).collect::<Vec<_>>(), ["a.example", "::1", "10.0.0.1"]);
        for (text, wanted) in [
            ("", "names no process"),
            ("a:1\nb", "line 2"),
            ("a:0", "line 1"),
            ("a:70000", "line 1"),
            (":4100", "line 1"),
            ("-l:4100", "line 1"),
            ("user@a:4100", "line 1"),
            ("a b:4100", "line 1"),
            ("a:1\nb:1\na:1", "twice (line 3)"),
        ] {
            let message = read(text).expect_err(text).to_string();
            assert!(message.contains(wanted), "{text:?}: {message}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(read_hosts(&path).unwrap_err().to_string().contains("hosts"));
    }

    #[test]
    fn loopback_ports_differ() {
        let lines = loopback(5).unwrap();
        assert!((0..5).all(|i| lines[i].host() == "127.0.0.1" && !lines[..i].contains(&lines[i])), "{lines:?}");
    }
}
