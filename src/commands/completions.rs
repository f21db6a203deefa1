//! `nystream completions`.

use super::Context;
use crate::cli::{Cli, CompletionsArgs};
use crate::exit::{ExitCode, Failure};
use clap::CommandFactory;

/// Prints the completion script of a shell.
///
/// # Errors
/// A stdout that cannot be written.
pub fn run(args: CompletionsArgs, context: &Context) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nystream", &mut script);
    context.output.raw(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::Done)
}
