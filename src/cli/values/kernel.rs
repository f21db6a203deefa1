//! The kernel, its bandwidth and the ridge.

use nystream_kernels::kernel::Family;
use std::fmt;
use std::str::FromStr;

/// The kernel bandwidth.
///
/// ```
/// use nystream::cli::values::Bandwidth;
/// assert_eq!("2.0x".parse(), Ok(Bandwidth::TimesMedian(2.0)));
/// assert_eq!("0.7".parse(), Ok(Bandwidth::Absolute(0.7)));
/// assert!("0".parse::<Bandwidth>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bandwidth {
    /// Tuned on the sample.
    Auto,
    /// Sigma in encoded units.
    Absolute(f64),
    /// This many times the median distance of the sample.
    TimesMedian(f64),
}

impl FromStr for Bandwidth {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Bandwidth::Auto);
        }
        let (number, relative) = match text.strip_suffix('x') {
            Some(number) => (number, true),
            None => (text, false),
        };
        let value: f64 = number.parse().map_err(
            |_| "expected a number (encoded units), a multiple of the median distance such as 2.0x, or auto",
        )?;
        // Its square, and that of its inverse, are numbers of single precision.
        if !(1e-15..=1e15).contains(&value) {
            return Err("the bandwidth must be positive, from 1e-15 to 1e15".to_string());
        }
        Ok(if relative { Bandwidth::TimesMedian(value) } else { Bandwidth::Absolute(value) })
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bandwidth::Auto => f.write_str("auto"),
            Bandwidth::Absolute(value) => value.fmt(f),
            Bandwidth::TimesMedian(value) => write!(f, "{value}x"),
        }
    }
}

/// The regularisation lambda, per sample: from 0 to 1e30, so that its product with the rows and its ratios stay finite.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Ridge(pub f64);

impl FromStr for Ridge {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(value) if (0.0..=1e30).contains(&value) => Ok(Ridge(value)),
            Ok(_) => Err("the ridge must be not negative: from 0 to 1e30".to_string()),
            Err(_) => Err("expected a number such as 1e-6".to_string()),
        }
    }
}

impl fmt::Display for Ridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A kernel's name on the command line: `gaussian`, `wendland2[:DIMENSION]`, `polynomial[:DEGREE[:OFFSET]]`, `ntk[:DEPTH]`, ...
///
/// ```
/// use nystream::cli::values::KernelName;
/// use nystream_kernels::kernel::Family;
/// assert_eq!("matern32".parse::<KernelName>().unwrap().0, Family::Matern32);
/// let compact = Family::Wendland { smoothness: 2, dimension: 3 };
/// assert_eq!("wendland2".parse::<KernelName>().unwrap().0, compact);
/// assert_eq!("ntk:3".parse::<KernelName>().unwrap().0, Family::Ntk { depth: 3 });
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelName(pub Family);

impl FromStr for KernelName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let family = match name {
            "gaussian" | "rbf" => Family::Gaussian,
            "laplace" | "laplacian" => Family::Laplace,
            "matern12" => Family::Matern12,
            "matern32" => Family::Matern32,
            "matern52" => Family::Matern52,
            "cauchy" => Family::Cauchy,
            "wendland2" | "wendland4" => {
                let dimension = shape_parameter(parts.next(), 3, "dimension", MOST_DIMENSION)?;
                Family::Wendland { smoothness: if name == "wendland2" { 2 } else { 4 }, dimension }
            }
            "polynomial" => {
                let degree = shape_parameter(parts.next(), 3, "degree", MOST_DEGREE)?;
                let offset = match parts.next() {
                    None => 1.0,
                    Some(text) => match text.parse::<f64>() {
                        Ok(offset) if offset.is_finite() && offset >= 0.0 => offset,
                        _ => return Err(format!("the offset `{text}` must be a number of at least 0")),
                    },
                };
                Family::Polynomial { degree, offset }
            }
            "arccosine" => Family::ArcCosine { depth: shape_parameter(parts.next(), 1, "depth", MOST_DEPTH)? },
            "ntk" => Family::Ntk { depth: shape_parameter(parts.next(), 1, "depth", MOST_DEPTH)? },
            _ => {
                return Err("expected gaussian, laplace, matern12, matern32, matern52, cauchy, \
                            wendland2[:DIMENSION], wendland4[:DIMENSION], polynomial[:DEGREE[:OFFSET]], arccosine[:DEPTH] or ntk[:DEPTH]"
                    .to_string());
            }
        };
        match parts.next() {
            Some(extra) => Err(format!("`{extra}` is more than the kernel `{name}` takes")),
            None => Ok(KernelName(family)),
        }
    }
}

/// Greatest degree: powers of inner products of some tens must be numbers of single precision.
const MOST_DEGREE: u32 = 16;
/// Greatest depth.
const MOST_DEPTH: u32 = 64;
/// Greatest dimension: the tiles take no more.
const MOST_DIMENSION: u32 = 1000;

fn shape_parameter(text: Option<&str>, default: u32, what: &str, most: u32) -> Result<u32, String> {
    match text.map(str::parse::<u32>) {
        None => Ok(default),
        Some(Ok(value)) if (1..=most).contains(&value) => Ok(value),
        Some(_) => Err(format!("the {what} must be a whole number from 1 to {most}")),
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Family::Gaussian => f.write_str("gaussian"),
            Family::Laplace => f.write_str("laplace"),
            Family::Matern12 => f.write_str("matern12"),
            Family::Matern32 => f.write_str("matern32"),
            Family::Matern52 => f.write_str("matern52"),
            Family::Cauchy => f.write_str("cauchy"),
            Family::Wendland { smoothness, dimension } => write!(f, "wendland{smoothness}:{dimension}"),
            Family::Polynomial { degree, offset } => write!(f, "polynomial:{degree}:{offset}"),
            Family::ArcCosine { depth } => write!(f, "arccosine:{depth}"),
            Family::Ntk { depth } => write!(f, "ntk:{depth}"),
            // `Family` is open to extension; its debug form is still a name.
            other => write!(f, "{other:?}"),
        }
    }
}
