//! Typed values of options: each parses from its text, prints back to text that parses to the same value,
//! and says in its error what it would have accepted.
//!
//! Numbers and their units are in `numbers`, the kernel in `kernel`, what is said of rows and classes in `data`, options that are one of
//! a few names in `names`.

mod data;
mod kernel;
mod names;
mod numbers;
#[cfg(test)]
mod tests;

pub use data::{AllOr, ClassWeight, Select, SplitSpec};
pub use kernel::{Bandwidth, KernelName, Ridge};
pub use names::{
    DictionaryMode, Format, Launcher, LogFormat, Loss, Precision, Preconditioner, ProductMode, Scale, ShareCenters,
    Simd, Solver, Task, Transport,
};
pub use numbers::{ByteSize, Count, Noise, Positive, Seconds};

use std::fmt;
use std::str::FromStr;

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
