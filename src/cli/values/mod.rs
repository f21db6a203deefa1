//! Typed values of options: each parses from its text, prints back to text that parses to the same value,
//! and says in its error what it would have accepted.
//!
//! Numbers and their units are in `numbers`, the kernel in `kernel`, what is said of rows and classes in `data`, options that are one of
//! a few names in `names`.

mod data;
mod kernel;
#[macro_use]
mod names;
mod numbers;
pub mod online;
#[cfg(test)]
mod tests;

pub use data::{AllOr, ClassWeight, Select, SplitSpec};
pub use kernel::{Bandwidth, KernelName, Ridge};
pub use names::{
    DataLayout, DictionaryMode, Format, Launcher, LogFormat, Loss, Precision, Preconditioner, ProductMode, Scale,
    ShareCenters, Simd, Solver, Task, Transport,
};
pub use numbers::{ByteSize, Count, Interval, Noise, Positive, Seconds};

use std::fmt;
use std::str::FromStr;

/// Where metrics are served: `HOST:PORT`, with `PORT` or `:PORT` on loopback.
///
/// ```
/// use nystream::cli::values::MetricsAddr;
/// let parsed = |text: &str| text.parse::<MetricsAddr>().map(|address| address.0);
/// assert_eq!(parsed("9100").unwrap(), "127.0.0.1:9100");
/// assert_eq!(parsed(":0").unwrap(), "127.0.0.1:0");
/// assert_eq!(parsed("[::1]:9100").unwrap(), "[::1]:9100");
/// assert!(["", "host", "host:", "::1:9100x", "a b:1", "host:70000"].iter().all(|text| parsed(text).is_err()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsAddr(pub String);

impl FromStr for MetricsAddr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let good = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
        };
        match port.parse::<u16>() {
            Ok(port) if good => Ok(MetricsAddr(format!("{host}:{port}"))),
            _ => Err("expected HOST:PORT, or a port of loopback, such as 0.0.0.0:9100, [::1]:9100 or 9100".into()),
        }
    }
}

impl fmt::Display for MetricsAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value the user gives, or `auto`.
///
/// ```
/// use nystream::cli::values::AutoOr;
/// assert_eq!("auto".parse::<AutoOr<u64>>(), Ok(AutoOr::Auto));
/// assert_eq!("12".parse::<AutoOr<u64>>(), Ok(AutoOr::Given(12)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoOr<T> {
    /// Decided from the data, the same way everywhere.
    Auto,
    /// Given.
    Given(T),
}

impl<T> AutoOr<T> {
    /// The given value.
    pub fn given(self) -> Option<T> {
        match self {
            AutoOr::Auto => None,
            AutoOr::Given(value) => Some(value),
        }
    }
}

impl<T: FromStr> FromStr for AutoOr<T>
where
    T::Err: fmt::Display,
{
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(AutoOr::Auto);
        }
        text.parse().map(AutoOr::Given).map_err(|e: T::Err| format!("{e} (or `auto`)"))
    }
}

impl<T: fmt::Display> fmt::Display for AutoOr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AutoOr::Auto => f.write_str("auto"),
            AutoOr::Given(value) => value.fmt(f),
        }
    }
}
