//! What each command does: check the options, call the stages, write the outputs, print the report.
//!
//! Every command is a function of its options and a [`Context`], and gives the exit code; results go to stdout, all
//! else to stderr.

#[cfg(unix)]
pub mod cluster;
pub mod completions;
pub mod config;
pub mod datasets;
pub mod dictionary;
pub mod evaluate;
mod figures;
pub mod fit;
pub mod inspect;
mod measured;
pub mod online;
pub mod predict;
pub mod tune;

use crate::cli::{Cli, Command, ResourceArgs};
use crate::config::{Environment, Refusal, parse, unknown_variables};
use crate::exit::{self, ExitCode, Failure};
use crate::joining::{before, decline};
use crate::logging;
use crate::output::Output;
use crate::progress::Progress;
use std::ffi::OsString;
use std::time::Duration;

/// What every command needs.
#[derive(Clone, Debug)]
pub struct Context {
    /// Results.
    pub output: Output,
    /// Progress.
    pub progress: Progress,
    /// Variables and current folder.
    pub environment: Environment,
    /// `--quiet`: nothing is said but errors, and what comes of the job.
    pub quiet: bool,
}

/// The whole program: reads the command line, runs the command, reports what went wrong.
pub fn main(line: Vec<OsString>) -> ExitCode {
    match start(&line) {
        Ok(code) => code,
        Err(Refusal::Clap(error)) => {
            // Help and version are results; a closed pipe does not matter for either.
            let _ = error.print();
            if error.use_stderr() { ExitCode::Usage } else { ExitCode::Done }
        }
        Err(Refusal::Failure(failure)) => exit::report(&failure),
    }
}

fn start(line: &[OsString]) -> Result<ExitCode, Refusal> {
    exit::install_panic_hook(nystream_datasets::is_decoding);
    exit::install_interrupt_handler()?;
    let environment = Environment::of_process()?;
    let cli = parse(line, &environment)?;
    let progress = Progress::new(cli.global.quiet || cli.global.no_progress);
    logging::install(cli.global.log_format, &progress)?;
    nystream_datasets::set_patience(Duration::from_secs_f64(cli.global.store_timeout.0.min(1e9)));
    unknown_variables(&environment).iter().for_each(|warning| tracing::warn!("{warning}"));
    let quiet = cli.global.quiet;
    let context = Context { output: Output { format: cli.global.format }, progress, environment, quiet };
    run(cli, &context)
}

/// Runs a parsed command.
///
/// # Errors
/// What ended it, with its exit code.
pub fn run(cli: Cli, context: &Context) -> Result<ExitCode, Refusal> {
    let resources = resources(&cli.command).cloned();
    resources.iter().for_each(before);
    let done = match cli.command {
        Command::Fit(args) => fit::run(args, context),
        Command::Predict(args) => predict::run(args, context),
        Command::Evaluate(args) => evaluate::run(args, context),
        Command::Online(args) => online::run(args, context),
        Command::Tune(args) => tune::run(args, context),
        Command::Inspect(args) => inspect::run(args, context),
        Command::Dictionary(args) => dictionary::run(args, context),
        #[cfg(unix)]
        Command::Cluster(args) => return cluster::run(args, &cli.global, context),
        #[cfg(not(unix))]
        Command::Cluster(_) => {
            Err(Failure::usage("cluster run needs a Unix system: start each process with --hosts and --process"))
        }
        Command::Datasets(args) => datasets::run(args, context),
        Command::Config(args) => return config::run(args, context),
        Command::Completions(args) => completions::run(args, context),
    };
    done.map_err(|failure: Failure| {
        if resources.is_some_and(|resources| resources.hosts.is_some()) {
            // First what is wrong, then the time it takes to tell the others.
            let code = exit::report(&failure);
            decline(&failure);
            return Refusal::Failure(Failure::new(code, ""));
        }
        Refusal::Failure(failure)
    })
}

/// The machine options of a command that may run in several processes.
fn resources(command: &Command) -> Option<&ResourceArgs> {
    match command {
        Command::Fit(args) => Some(&args.resources),
        Command::Predict(args) => Some(&args.resources),
        Command::Evaluate(args) => Some(&args.resources),
        Command::Tune(args) => Some(&args.resources),
        Command::Dictionary(args) => Some(&args.resources),
        Command::Online(args) if args.action.is_none() => Some(&args.resources),
        _ => None,
    }
}
