//! `nystream tune`.

use super::Context;
use crate::atomic::AtomicFile;
use crate::cli::TuneArgs;
use crate::cli::checks::Check;
use crate::exit::{ExitCode, Failure};

/// Chooses kernel, bandwidth and ridge on the sample, and prints the table it saw.
///
/// # Errors
/// Contradicting options (2), bad data (1), a plan over budget (4).
pub fn run(args: TuneArgs, context: &Context) -> Result<ExitCode, Failure> {
    args.check()?;
    let _report = args.report.as_deref().map(AtomicFile::create).transpose()?;
    let _ = context;
    Err(Failure::new(ExitCode::Bug, "the tuning stage is not part of this build"))
}
