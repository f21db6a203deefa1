//! `nystream evaluate`.

use super::Context;
use crate::atomic::AtomicFile;
use crate::cli::EvaluateArgs;
use crate::cli::checks::Check;
use crate::exit::{ExitCode, Failure};
use crate::model::Model;

/// Measures a model's error on data with known targets.
///
/// # Errors
/// Contradicting options (2), a damaged model or bad data (1).
pub fn run(args: EvaluateArgs, context: &Context) -> Result<ExitCode, Failure> {
    args.check()?;
    let _model = Model::load(&args.model)?;
    let _report = args.report.as_deref().map(AtomicFile::create).transpose()?;
    let _ = context;
    Err(Failure::new(ExitCode::Bug, "the evaluation stage is not part of this build"))
}
