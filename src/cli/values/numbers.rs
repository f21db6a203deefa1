//! Counts, sizes, times and plain numbers, with their units.

use std::fmt;
use std::str::FromStr;

/// A whole number of at least 1; `_` between digits and whole powers such as `1e6` are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

impl FromStr for Count {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.replace('_', "");
        let value = plain.parse::<u64>().ok().or_else(|| {
            let (digits, exponent) = plain.split_once(['e', 'E'])?;
            digits.parse::<u64>().ok()?.checked_mul(10u64.checked_pow(exponent.parse().ok()?)?)
        });
        match value {
            Some(0) => Err("must be at least 1".to_string()),
            Some(value) => Ok(Count(value)),
            None => Err("expected a whole number such as 4000 or 1e6".to_string()),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of bytes: `8GiB`, `500MB`, `1.5G`, or plain bytes. `K M G T` are powers of 1000, `KiB`.. of 1024.
///
/// ```
/// use nystream::cli::values::ByteSize;
/// assert_eq!("8GiB".parse::<ByteSize>().unwrap().0, 8 << 30);
/// assert_eq!("1.5 kB".parse::<ByteSize>().unwrap().0, 1500);
/// assert_eq!(ByteSize(8 << 30).to_string(), "8GiB");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const BYTE_UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
];

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected a size such as 8GiB, 500MB or 1048576".to_string();
        let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let unit = text[digits..].trim().to_ascii_lowercase();
        let scale = match unit.as_str() {
            "" | "b" => 1,
            short => {
                let full = BYTE_UNITS.iter().find(|(name, _)| {
                    let name = name.to_ascii_lowercase();
                    name == short || (short.len() == 1 && name == format!("{short}b"))
                });
                full.ok_or_else(expected)?.1
            }
        };
        // Whole numbers stay exact beyond 2^53.
        if let Ok(whole) = text[..digits].parse::<u64>() {
            return whole.checked_mul(scale).map(ByteSize).ok_or_else(expected);
        }
        let bytes = text[..digits].parse::<f64>().map_err(|_| expected())? * scale as f64;
        if bytes < u64::MAX as f64 { Ok(ByteSize(bytes.round() as u64)) } else { Err(expected()) }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match BYTE_UNITS.iter().find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale)) {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A length of time: `90s`, `10m`, `1.5h`, or plain seconds.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Seconds(pub f64);

impl FromStr for Seconds {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, scale) = match text.chars().last() {
            Some('s') => (&text[..text.len() - 1], 1.0),
            Some('m') => (&text[..text.len() - 1], 60.0),
            Some('h') => (&text[..text.len() - 1], 3600.0),
            _ => (text, 1.0),
        };
        match number.trim().parse::<f64>() {
            Ok(value) if value > 0.0 && value * scale <= MAX_SECONDS => Ok(Seconds(value * scale)),
            Ok(value) if value > 0.0 => Err(format!("longer than {MAX_SECONDS:e} s, thirty years")),
            Ok(_) => Err("a time must be positive".to_string()),
            Err(_) => Err("expected a time such as 90s, 10m or 1.5h".to_string()),
        }
    }
}

/// The longest time that can be given: what is meant to be without end is an option that is left out.
const MAX_SECONDS: f64 = 1e9;

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

/// Seconds between two of something: a time as of [`Seconds`], or 0.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Interval(pub f64);

impl FromStr for Interval {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim_end_matches('s') {
            "0" => Ok(Interval(0.0)),
            _ => text.parse::<Seconds>().map(|seconds| Interval(seconds.0)).map_err(|why| {
                format!("{why}; give a time such as 60s or 10m, or 0 (at every boundary), and leave out --checkpoint for none")
            }),
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

/// A positive finite number such as a flop budget or a tolerance.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Positive(pub f64);

impl FromStr for Positive {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() && value > 0.0 => Ok(Positive(value)),
            _ => Err("expected a positive number".to_string()),
        }
    }
}

impl fmt::Display for Positive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The standard deviation of noise: finite and not negative.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Noise(pub f64);

impl FromStr for Noise {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() && value >= 0.0 => Ok(Noise(value)),
            _ => Err("expected a number of at least 0".to_string()),
        }
    }
}

impl fmt::Display for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
