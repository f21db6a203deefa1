//! `nystream dictionary`.

use super::Context;
use crate::atomic::AtomicFile;
use crate::cli::DictionaryCommandArgs;
use crate::cli::checks::Check;
use crate::exit::{ExitCode, Failure};

/// Chooses centers, certifies them and writes them.
///
/// # Errors
/// Contradicting options (2), bad data (1), a plan over budget (4).
pub fn run(args: DictionaryCommandArgs, context: &Context) -> Result<ExitCode, Failure> {
    args.check()?;
    let _output = AtomicFile::create(&args.out)?;
    let _report = args.report.as_deref().map(AtomicFile::create).transpose()?;
    let _ = context;
    Err(Failure::new(ExitCode::Bug, "the dictionary stage is not part of this build"))
}
