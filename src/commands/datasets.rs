//! `nystream datasets list|make|info`.

use super::Context;
use crate::cli::{DatasetsArgs, DatasetsCommand};
use crate::exit::{ExitCode, Failure};

/// Lists, makes or describes data sets.
///
/// # Errors
/// An unknown name (2), files that cannot be read or written (1), a data set over the disk limit (4).
pub fn run(args: DatasetsArgs, context: &Context) -> Result<ExitCode, Failure> {
    let _ = context;
    let what = match args.action {
        DatasetsCommand::List => "the catalogue".to_string(),
        DatasetsCommand::Make(args) => args.specification(),
        DatasetsCommand::Info(args) => args.name,
    };
    Err(Failure::new(ExitCode::Bug, format!("data sets are not part of this build ({what})")))
}
