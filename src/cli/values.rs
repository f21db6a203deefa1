//! Typed values of options: each parses from its text, prints back to text that parses to the same value,
//! and says in its error what it would have accepted.

use nystream_kernels::kernel::Family;
use std::fmt;
use std::path::PathBuf;
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

/// All of something, or the first N in hash order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllOr {
    /// All.
    All,
    /// At most this many.
    Count(u64),
}

impl FromStr for AllOr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(AllOr::All);
        }
        Count::from_str(text).map(|c| AllOr::Count(c.0)).map_err(|e| format!("{e} (or `all`)"))
    }
}

impl fmt::Display for AllOr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllOr::All => f.write_str("all"),
            AllOr::Count(n) => n.fmt(f),
        }
    }
}

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
        if !(value.is_finite() && value > 0.0) {
            return Err("the bandwidth must be positive and finite".to_string());
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

/// The regularisation lambda, per sample: finite and not negative.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Ridge(pub f64);

impl FromStr for Ridge {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() && value >= 0.0 => Ok(Ridge(value)),
            Ok(_) => Err("the ridge must be finite and not negative".to_string()),
            Err(_) => Err("expected a number such as 1e-6".to_string()),
        }
    }
}

impl fmt::Display for Ridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A kernel's name on the command line: `gaussian`, `polynomial[:DEGREE[:OFFSET]]`, `ntk[:DEPTH]`, ...
///
/// ```
/// use nystream::cli::values::KernelName;
/// use nystream_kernels::kernel::Family;
/// assert_eq!("matern32".parse::<KernelName>().unwrap().0, Family::Matern32);
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
            "polynomial" => {
                let degree = shape_parameter(parts.next(), 3, "degree")?;
                let offset = match parts.next() {
                    None => 1.0,
                    Some(text) => match text.parse::<f64>() {
                        Ok(offset) if offset.is_finite() && offset >= 0.0 => offset,
                        _ => return Err(format!("the offset `{text}` must be a number of at least 0")),
                    },
                };
                Family::Polynomial { degree, offset }
            }
            "arccosine" => Family::ArcCosine { depth: shape_parameter(parts.next(), 1, "depth")? },
            "ntk" => Family::Ntk { depth: shape_parameter(parts.next(), 1, "depth")? },
            _ => {
                return Err("expected gaussian, laplace, matern12, matern32, matern52, cauchy, \
                            polynomial[:DEGREE[:OFFSET]], arccosine[:DEPTH] or ntk[:DEPTH]"
                    .to_string());
            }
        };
        match parts.next() {
            Some(extra) => Err(format!("`{extra}` is more than the kernel `{name}` takes")),
            None => Ok(KernelName(family)),
        }
    }
}

fn shape_parameter(text: Option<&str>, default: u32, what: &str) -> Result<u32, String> {
    match text.map(str::parse::<u32>) {
        None => Ok(default),
        Some(Ok(value @ 1..=64)) => Ok(value),
        Some(_) => Err(format!("the {what} must be a whole number from 1 to 64")),
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
            Family::Polynomial { degree, offset } => write!(f, "polynomial:{degree}:{offset}"),
            Family::ArcCosine { depth } => write!(f, "arccosine:{depth}"),
            Family::Ntk { depth } => write!(f, "ntk:{depth}"),
            // `Family` is open to extension; its debug form is still a name.
            other => write!(f, "{other:?}"),
        }
    }
}

/// Which rows are held out.
///
/// ```
/// use nystream::cli::values::SplitSpec;
/// let split: SplitSpec = "hash:0.1:station".parse().unwrap();
/// assert_eq!(split, SplitSpec::Hash { fraction: 0.1, column: Some("station".into()) });
/// assert_eq!(split.to_string(), "hash:0.1:station");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum SplitSpec {
    /// No row.
    None,
    /// Rows whose hashed id, or hashed value of `column`, falls below `fraction`.
    Hash {
        /// Share of rows, between 0 and 1.
        fraction: f64,
        /// Column whose equal values stay on one side.
        column: Option<String>,
    },
    /// The last rows in the order of `column`.
    Time {
        /// Column that orders the rows.
        column: String,
        /// Share of rows, between 0 and 1.
        fraction: f64,
    },
}

impl FromStr for SplitSpec {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected hash:FRACTION, hash:FRACTION:COLUMN, time:COLUMN:FRACTION or none";
        let fraction = |text: &str| match text.parse::<f64>() {
            Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
            _ => Err(format!("the fraction `{text}` must be a number between 0 and 1")),
        };
        if text == "none" {
            return Ok(SplitSpec::None);
        }
        if let Some(rest) = text.strip_prefix("hash:") {
            // Column names may hold colons: only the first one separates.
            return match rest.split_once(':') {
                None => Ok(SplitSpec::Hash { fraction: fraction(rest)?, column: None }),
                Some((_, "")) => Err(expected.to_string()),
                Some((share, column)) => {
                    Ok(SplitSpec::Hash { fraction: fraction(share)?, column: Some(column.to_string()) })
                }
            };
        }
        match text.strip_prefix("time:").and_then(|rest| rest.rsplit_once(':')) {
            Some((column, share)) if !column.is_empty() => {
                Ok(SplitSpec::Time { column: column.to_string(), fraction: fraction(share)? })
            }
            _ => Err(expected.to_string()),
        }
    }
}

impl fmt::Display for SplitSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SplitSpec::None => f.write_str("none"),
            SplitSpec::Hash { fraction, column: None } => write!(f, "hash:{fraction}"),
            SplitSpec::Hash { fraction, column: Some(column) } => write!(f, "hash:{fraction}:{column}"),
            SplitSpec::Time { column, fraction } => write!(f, "time:{column}:{fraction}"),
        }
    }
}

/// How the centers are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// SQUEAK where its share of the plan allows it, else RPCholesky on a hashed pool.
    Auto,
    /// Streamed ridge-leverage-score sampling, then RPCholesky on the survivors.
    Squeak,
    /// Accelerated RPCholesky, on a hashed pool or on every row.
    RpCholesky {
        /// Whether every row is a candidate (one pass per block of pivots).
        full: bool,
    },
    /// The m rows with the smallest hashes.
    Uniform,
    /// Rows of a Parquet file.
    File(PathBuf),
}

impl FromStr for Select {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Select::Auto,
            "squeak" => Select::Squeak,
            "rpcholesky" => Select::RpCholesky { full: false },
            "rpcholesky:full" => Select::RpCholesky { full: true },
            "uniform" => Select::Uniform,
            _ => match text.strip_prefix("file:") {
                Some(path) if !path.is_empty() => Select::File(PathBuf::from(path)),
                _ => {
                    return Err("expected auto, squeak, rpcholesky, rpcholesky:full, uniform or file:PATH".to_string());
                }
            },
        })
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Select::Auto => f.write_str("auto"),
            Select::Squeak => f.write_str("squeak"),
            Select::RpCholesky { full: false } => f.write_str("rpcholesky"),
            Select::RpCholesky { full: true } => f.write_str("rpcholesky:full"),
            Select::Uniform => f.write_str("uniform"),
            Select::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Weights of the classes.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassWeight {
    /// n / (classes x rows of the class).
    Balanced,
    /// The given weight of each named label; the others have weight 1.
    Labels(Vec<(String, f64)>),
}

impl FromStr for ClassWeight {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "balanced" {
            return Ok(ClassWeight::Balanced);
        }
        let pairs = text.split(',').map(|pair| {
            let (label, weight) =
                pair.rsplit_once('=').ok_or_else(|| "expected balanced or LABEL=WEIGHT,...".to_string())?;
            match weight.parse::<f64>() {
                Ok(value) if value.is_finite() && value > 0.0 => Ok((label.to_string(), value)),
                _ => Err(format!("the weight `{weight}` of `{label}` must be a positive number")),
            }
        });
        let mut labels = pairs.collect::<Result<Vec<_>, String>>()?;
        labels.sort_by(|a, b| a.0.cmp(&b.0));
        match labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(format!("the label `{}` is named twice", pair[0].0)),
            None => Ok(ClassWeight::Labels(labels)),
        }
    }
}

impl fmt::Display for ClassWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClassWeight::Balanced => f.write_str("balanced"),
            ClassWeight::Labels(labels) => {
                let pairs: Vec<String> = labels.iter().map(|(label, weight)| format!("{label}={weight}")).collect();
                f.write_str(&pairs.join(","))
            }
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
            Ok(value) if value.is_finite() && value > 0.0 => Ok(Seconds(value * scale)),
            Ok(_) => Err("a time limit must be positive".to_string()),
            Err(_) => Err("expected a time such as 90s, 10m or 1.5h".to_string()),
        }
    }
}

impl fmt::Display for Seconds {
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

/// Gives a fieldless option enum its names: clap's value enum, `as_str` and `Display` agree.
macro_rules! named_values {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
        pub enum $name {
            $($(#[$variant_doc])* #[value(name = $text)] $variant),+
        }

        impl $name {
            /// The name on the command line, in reports and in model files.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named_values! {
    /// Which sampling of the dictionary.
    DictionaryMode {
        /// Hashed Bernoulli thresholds, oversampling 8.
        Bernoulli = "bernoulli",
        /// Binomial copies with the constants of the published theorem.
        Theorem = "theorem",
    }
}
named_values! {
    /// Which solver.
    Solver {
        /// By the cost model.
        Auto = "auto",
        /// One pass, exact Gram matrix.
        Gram = "gram",
        /// Preconditioned conjugate gradients.
        Pcg = "pcg",
        /// Projected preconditioned stochastic gradient.
        EigenPro = "eigenpro",
        /// Block coordinate descent with every row a center.
        BlockCd = "blockcd",
    }
}
named_values! {
    /// Precision of kernel entries; sums are always f64.
    Precision {
        /// Single precision entries.
        F32 = "f32",
        /// Double precision entries.
        F64 = "f64",
    }
}
named_values! {
    /// What is predicted.
    Task {
        /// Text, boolean and few-valued integer targets are classes.
        Auto = "auto",
        /// Numbers.
        Regression = "regression",
        /// Classes.
        Classification = "classification",
    }
}
named_values! {
    /// What is minimised.
    Loss {
        /// Squared error; one-hot targets for classes.
        Squared = "squared",
        /// Logistic loss; classification only.
        Logistic = "logistic",
    }
}
named_values! {
    /// How numeric columns are scaled.
    Scale {
        /// Mean and standard deviation.
        Standard = "standard",
        /// Median and interquartile range.
        Robust = "robust",
        /// Quantiles mapped to a standard normal.
        Quantile = "quantile",
    }
}
named_values! {
    /// Format of results on stdout.
    Format {
        /// For people.
        Text = "text",
        /// One JSON document.
        Json = "json",
    }
}
named_values! {
    /// Format of log lines on stderr.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}
named_values! {
    /// Instruction set of the kernel tiles.
    Simd {
        /// The best this host has.
        Auto = "auto",
        /// No special instructions: the same bits on every machine.
        Portable = "portable",
        /// x86-64-v3.
        Avx2 = "avx2",
        /// x86-64-v4.
        Avx512 = "avx512",
        /// aarch64.
        Neon = "neon",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;

    fn round_trip<T: FromStr + fmt::Display + PartialEq + Debug>(texts: &[&str])
    where
        T::Err: Debug,
    {
        for text in texts {
            let value: T = text.parse().unwrap_or_else(|e| panic!("{text}: {e:?}"));
            assert_eq!(value.to_string().parse::<T>().unwrap(), value, "{text}");
        }
    }

    fn refused<T: FromStr + Debug>(texts: &[&str]) {
        for text in texts {
            assert!(text.parse::<T>().is_err(), "{text} parsed to {:?}", text.parse::<T>().ok());
        }
    }

    #[test]
    fn values_print_to_what_they_parse_from() {
        round_trip::<ByteSize>(&["0", "1", "8GiB", "500MB", "1.5G", "12 k", "18446744073709551615", "3TiB", "1000"]);
        round_trip::<Bandwidth>(&["auto", "2.0x", "0.1", "1e-3x", "1e300"]);
        round_trip::<Ridge>(&["0", "1e-6", "3.25"]);
        round_trip::<KernelName>(&["gaussian", "laplace", "matern12", "matern32", "matern52", "cauchy"]);
        round_trip::<KernelName>(&["polynomial", "polynomial:2", "polynomial:2:0.5", "arccosine:2", "ntk:3"]);
        round_trip::<SplitSpec>(&["none", "hash:0.1", "hash:0.25:a:b", "time:a:b:0.1"]);
        round_trip::<Select>(&["auto", "squeak", "rpcholesky", "rpcholesky:full", "uniform", "file:a:b"]);
        round_trip::<ClassWeight>(&["balanced", "yes=2,no=1", "a=b=0.5"]);
        round_trip::<Seconds>(&["90s", "10m", "1.5h", "3"]);
        round_trip::<AllOr>(&["all", "1e6", "1_000"]);
        round_trip::<AutoOr<Count>>(&["auto", "12"]);
        round_trip::<Noise>(&["0", "0.5", "1e-3"]);
        round_trip::<Positive>(&["2e14", "1e-9"]);
    }

    #[test]
    fn nonsense_is_refused() {
        refused::<ByteSize>(&["", "GiB", "-1", "8XB", "1e99GiB", "999999999TiB", "NaN", "1.2.3"]);
        refused::<Bandwidth>(&["", "0", "0x", "-1", "NaN", "inf", "x", "2xx"]);
        refused::<Ridge>(&["", "-1e-9", "NaN", "inf"]);
        refused::<KernelName>(&["", "gauss", "gaussian:2", "polynomial:0", "ntk:0", "ntk:65", "polynomial:2:-1"]);
        refused::<SplitSpec>(&["", "hash", "hash:", "hash:0", "hash:1", "hash:0.1:", "time:0.1", "time::0.1", "x:0.1"]);
        refused::<Select>(&["", "file:", "rpc"]);
        refused::<ClassWeight>(&["", "a", "a=0", "a=-1", "a=1,a=2", "a=NaN"]);
        refused::<Seconds>(&["", "0", "-1s", "1d", "NaN"]);
        refused::<AllOr>(&["", "0", "-1", "1.5", "1e30"]);
        refused::<Noise>(&["-0.5", "inf", "NaN", ""]);
        refused::<Positive>(&["0", "-1", "inf", "NaN", ""]);
    }

    #[test]
    fn units_of_bytes() {
        for (text, bytes) in [("1K", 1000), ("1k", 1000), ("1KiB", 1024), ("1kib", 1024), ("2 MB", 2_000_000)] {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        // Exact where f64 would round.
        assert_eq!("9007199254740993".parse::<ByteSize>().unwrap().0, 9_007_199_254_740_993);
    }
}
