//! Logs on stderr by `tracing`: `RUST_LOG` chooses what (default: warnings), `--log-format json` makes each line a
//! JSON object, `NO_COLOR` and redirection switch colours off.

use crate::cli::values::LogFormat;
use crate::exit::Failure;
use crate::progress::Progress;
use std::io::{self, IsTerminal, Write};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Starts logging for this process.
///
/// # Errors
/// A `RUST_LOG` that cannot be understood (exit 2).
pub fn install(format: LogFormat, progress: &Progress) -> Result<(), Failure> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text)
            .map_err(|e| Failure::usage(format!("RUST_LOG=`{text}`: {e}; write for example info or nystream=debug")))?,
        _ => EnvFilter::new("warn"),
    };
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let writer = Aside(progress.clone());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colour);
    // A second installation (tests in one process) keeps the first.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

/// Writes log lines between redraws of the bars.
struct Aside(Progress);

impl<'a> MakeWriter<'a> for Aside {
    type Writer = Line<'a>;
    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

struct Line<'a>(&'a Progress);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.aside(|| io::stderr().lock().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}
