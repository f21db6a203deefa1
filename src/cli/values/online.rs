//! Values of `nystream online`.

use super::{Count, Seconds};
use std::fmt;
use std::str::FromStr;

named_values! {
    /// Which learner.
    Mode {
        /// The fit of the rows that are there, which can be corrected and deleted.
        Exact = "exact",
        /// Second-order steps in the span of a growing dictionary (CON-KONS).
        ConKons = "con-kons",
        /// The same, beginning anew with each atom (PROS-N-KONS).
        ProsNKons = "pros-n-kons",
        /// Every row kept, for short streams (KONS).
        Kons = "kons",
        /// A share of the rows kept (Sketched-KONS).
        SketchedKons = "sketched-kons",
        /// Ridge regression of many targets on given centers (recursive least squares).
        Recursive = "recursive",
    }
}
named_values! {
    /// Curvature of the steps.
    CurvatureName {
        /// As large as each row allows: ridge regression where the loss is squared.
        Adaptive = "adaptive",
        /// One constant of the loss for all rows.
        Fixed = "fixed",
    }
}

/// A loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnlineLoss {
    /// Squared.
    Squared,
    /// Logistic.
    Logistic,
    /// Squared hinge.
    SquaredHinge,
    /// Huber's, with where squared becomes absolute.
    Huber(f64),
}

impl FromStr for OnlineLoss {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None => match text {
                "squared" => Ok(OnlineLoss::Squared),
                "logistic" => Ok(OnlineLoss::Logistic),
                "squared-hinge" => Ok(OnlineLoss::SquaredHinge),
                "huber" => Ok(OnlineLoss::Huber(1.0)),
                _ => Err("expected squared, huber, huber:DELTA, logistic or squared-hinge".into()),
            },
            Some(("huber", delta)) => match delta.parse::<f64>() {
                Ok(delta) if delta > 0.0 && delta.is_finite() => Ok(OnlineLoss::Huber(delta)),
                _ => Err("DELTA of huber:DELTA must be a positive number".into()),
            },
            Some(_) => Err("expected squared, huber, huber:DELTA, logistic or squared-hinge".into()),
        }
    }
}

impl fmt::Display for OnlineLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OnlineLoss::Squared => f.write_str("squared"),
            OnlineLoss::Logistic => f.write_str("logistic"),
            OnlineLoss::SquaredHinge => f.write_str("squared-hinge"),
            OnlineLoss::Huber(delta) => write!(f, "huber:{delta}"),
        }
    }
}

/// The clip range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// By the configuration.
    Auto,
    /// None.
    None,
    /// Given.
    At(f64),
}

impl FromStr for Clip {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse::<f64>()) {
            ("auto", _) => Ok(Clip::Auto),
            ("none", _) => Ok(Clip::None),
            (_, Ok(c)) if c > 0.0 && c.is_finite() => Ok(Clip::At(c)),
            _ => Err("expected a positive number, none or auto".into()),
        }
    }
}

impl fmt::Display for Clip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clip::Auto => f.write_str("auto"),
            Clip::None => f.write_str("none"),
            Clip::At(c) => write!(f, "{c}"),
        }
    }
}

/// What a column that a row does not have means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The row is refused.
    Reject,
    /// It is null.
    Null,
}

impl FromStr for Absent {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "reject" => Ok(Absent::Reject),
            "null" => Ok(Absent::Null),
            _ => Err("expected reject or null".into()),
        }
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Absent::Reject => "reject",
            Absent::Null => "null",
        })
    }
}

/// What an alarm of drift does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DriftName {
    /// Nothing is watched.
    None,
    /// It is counted.
    Report,
    /// Old rows weigh this share of what they did.
    Forget(f64),
    /// Everything begins anew.
    Reset,
    /// The same, and where alarms come again old rows are forgotten as fast as their spacing says.
    Adapt,
}

impl FromStr for DriftName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("forget:").map(str::parse::<f64>)) {
            ("none", _) => Ok(DriftName::None),
            ("report", _) => Ok(DriftName::Report),
            ("reset", _) => Ok(DriftName::Reset),
            ("adapt", _) => Ok(DriftName::Adapt),
            ("forget", _) => Ok(DriftName::Forget(0.1)),
            (_, Some(Ok(keep))) if (0.0..1.0).contains(&keep) => Ok(DriftName::Forget(keep)),
            _ => Err("expected none, report, adapt, reset, forget or forget:KEEP with KEEP from 0 to below 1".into()),
        }
    }
}

impl fmt::Display for DriftName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DriftName::None => f.write_str("none"),
            DriftName::Report => f.write_str("report"),
            DriftName::Reset => f.write_str("reset"),
            DriftName::Adapt => f.write_str("adapt"),
            DriftName::Forget(keep) => write!(f, "forget:{keep}"),
        }
    }
}

/// When a model is published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Publish {
    /// At the end.
    End,
    /// After so many changes.
    Changes(u64),
    /// After so many seconds.
    Seconds(f64),
    /// When the function has moved by so much of itself.
    Drift(f64),
}

impl FromStr for Publish {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            "expected end, every:ROWS, every:TIME such as every:60s, or drift:X with X above 0 and at most 1"
                .to_string()
        };
        if text == "end" {
            return Ok(Publish::End);
        }
        if let Some(drift) = text.strip_prefix("drift:") {
            let drift = drift.parse().ok().filter(|drift| *drift > 0.0 && *drift <= 1.0);
            return drift.map(Publish::Drift).ok_or_else(expected);
        }
        let every = text.strip_prefix("every:").ok_or_else(expected)?;
        match every.chars().last() {
            Some('s' | 'm' | 'h') => every.parse::<Seconds>().map(|time| Publish::Seconds(time.0)),
            _ => every.parse::<Count>().map(|count| Publish::Changes(count.0)),
        }
        .map_err(|_| expected())
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Publish::End => f.write_str("end"),
            Publish::Changes(count) => write!(f, "every:{count}"),
            Publish::Seconds(seconds) => write!(f, "every:{seconds}s"),
            Publish::Drift(drift) => write!(f, "drift:{drift}"),
        }
    }
}

/// Which rows stay.
///
/// ```
/// use nystream::cli::values::online::WindowSpec;
/// assert_eq!("rows:1000".parse(), Ok(WindowSpec::Rows(1000)));
/// assert_eq!("time:30d".parse(), Ok(WindowSpec::Time(30.0 * 86400.0)));
/// assert!("rows:0".parse::<WindowSpec>().is_err() && "30d".parse::<WindowSpec>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WindowSpec {
    /// So many.
    Rows(u64),
    /// Those of the last so many seconds.
    Time(f64),
}

impl FromStr for WindowSpec {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected rows:N, or time:TIME such as time:90s, time:12h or time:30d".to_string();
        match text.split_once(':') {
            Some(("rows", rows)) => match rows.parse::<Count>() {
                Ok(rows) if rows.0 > 0 => Ok(WindowSpec::Rows(rows.0)),
                _ => Err(expected()),
            },
            Some(("time", time)) => {
                let days = time.strip_suffix('d').map(|days| days.parse::<Seconds>().map(|days| 86400.0 * days.0));
                let seconds = days.unwrap_or_else(|| time.parse::<Seconds>().map(|time| time.0));
                // A microsecond at least, and what the clock of events can tell at most.
                let seconds = seconds.ok().filter(|seconds| (1e-6..9e12).contains(seconds));
                seconds.map(WindowSpec::Time).ok_or_else(expected)
            }
            _ => Err(expected()),
        }
    }
}

impl fmt::Display for WindowSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WindowSpec::Rows(rows) => write!(f, "rows:{rows}"),
            WindowSpec::Time(seconds) => write!(f, "time:{seconds}s"),
        }
    }
}

/// Where events come from.
///
/// ```
/// use nystream::cli::values::online::Endpoint;
/// assert_eq!("jsonl:-".parse::<Endpoint>().unwrap(), Endpoint::Lines("-".into()));
/// assert_eq!("tcp:127.0.0.1:9000".parse::<Endpoint>().unwrap().to_string(), "tcp:127.0.0.1:9000");
/// assert!("ftp:x".parse::<Endpoint>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Lines of JSON.
    Lines(String),
    /// An Arrow IPC stream.
    Ipc(String),
    /// Connections over TCP.
    Tcp(String),
    /// Connections to a Unix socket.
    Unix(String),
    /// Files that appear in a folder.
    Watch(String),
    /// Made rows.
    Synth(String),
}

impl FromStr for Endpoint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected jsonl:PATH, ipc:PATH, tcp:HOST:PORT, unix:PATH, watch:FOLDER or synth:NAME?..";
        let (kind, rest) = text.split_once(':').ok_or(expected)?;
        if rest.is_empty() {
            return Err(expected.into());
        }
        let rest = rest.to_owned();
        match kind {
            "jsonl" => Ok(Endpoint::Lines(rest)),
            "ipc" => Ok(Endpoint::Ipc(rest)),
            "tcp" => Ok(Endpoint::Tcp(rest)),
            "unix" => Ok(Endpoint::Unix(rest)),
            "watch" => Ok(Endpoint::Watch(rest)),
            "synth" => nystream_datasets::stream::made::parse(text)
                .map(|_| Endpoint::Synth(text.to_owned()))
                .map_err(|error| error.to_string()),
            _ => Err(expected.into()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Lines(path) => write!(f, "jsonl:{path}"),
            Endpoint::Ipc(path) => write!(f, "ipc:{path}"),
            Endpoint::Tcp(address) => write!(f, "tcp:{address}"),
            Endpoint::Unix(path) => write!(f, "unix:{path}"),
            Endpoint::Watch(folder) => write!(f, "watch:{folder}"),
            Endpoint::Synth(spec) => f.write_str(spec),
        }
    }
}

/// Where answers go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Lines of JSON.
    Lines(String),
    /// An Arrow IPC stream.
    Ipc(String),
    /// Parquet files in a folder.
    Parquet(String),
}

impl Sink {
    /// The file or folder.
    pub fn path(&self) -> &str {
        match self {
            Sink::Lines(path) | Sink::Ipc(path) | Sink::Parquet(path) => path,
        }
    }
}

impl FromStr for Sink {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((_, "")) => {}
            Some(("jsonl", path)) => return Ok(Sink::Lines(path.to_owned())),
            Some(("ipc", path)) => return Ok(Sink::Ipc(path.to_owned())),
            Some(("parquet", path)) if path != "-" => return Ok(Sink::Parquet(path.to_owned())),
            _ => {}
        }
        Err("expected jsonl:PATH, ipc:PATH (- is standard output) or parquet:FOLDER".into())
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sink::Lines(path) => write!(f, "jsonl:{path}"),
            Sink::Ipc(path) => write!(f, "ipc:{path}"),
            Sink::Parquet(folder) => write!(f, "parquet:{folder}"),
        }
    }
}
