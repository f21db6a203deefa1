//! The command line: what each command takes, as plain structs.
//!
//! Nothing here reads data or decides anything. [`crate::config`] fills in what the flags leave open
//! (`NYSTREAM_*`, then `nystream.toml`, then the defaults below), [`checks`] refuses what cannot be meant,
//! and [`crate::commands`] acts. Every value has a unit and a default in its help text.

pub mod checks;
pub mod cluster;
pub mod groups;
pub mod online;
pub mod values;

pub use cluster::{ClusterArgs, ClusterCommand, ClusterRunArgs};
pub use groups::{
    CheckpointArgs, DictionaryArgs, HoldoutArgs, InputArgs, KernelArgs, ProductArgs, ResourceArgs, SampleArgs,
    SolveArgs, SplitSource,
};

pub use online::{OnlineArgs, OnlineCommand};

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use values::{Count, Format, LogFormat, Seconds};

const EXIT_CODES: &str = "Exit codes: 0 done; 1 data or quality failure; 2 usage; 3 stopped before convergence or at a \
limit (model saved); 4 memory, flop or disk budget refused; 5 peer lost; 6 join refused or timed out; 101 bug; 130 interrupted.
Options may also come from NYSTREAM_* variables (NYSTREAM_MEMORY=4GiB) and from nystream.toml; \
`nystream config show` says which applies.";

/// Kernel machines on Parquet data larger than memory, on one machine or many.
#[derive(Clone, Debug, Parser)]
#[command(name = "nystream", version, arg_required_else_help = true, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    /// What applies to every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Seconds of `--store-timeout`, unless given.
pub const STORE_TIMEOUT: f64 = 120.0;

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct GlobalArgs {
    /// Format of the result on stdout
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// No progress on stderr; errors and warnings only
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// No progress bars or progress lines on stderr
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// Format of log lines on stderr; RUST_LOG chooses which
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Settings file [default: nystream.toml in the current folder, where there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Read no settings file
    #[arg(long, global = true)]
    pub no_config: bool,
    /// How long a request to an object store is repeated while it is throttled, cut short or not answered; then exit code 1
    #[arg(long, global = true, value_name = "TIME", default_value = "2m", help_heading = "Machine")]
    pub store_timeout: Seconds,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value per process, moved once")]
pub enum Command {
    /// Fit a model to Parquet data and report how good it is
    Fit(FitArgs),
    /// Predict with a model, from Parquet to Parquet
    Predict(PredictArgs),
    /// Measure a model's error on data with known targets
    Evaluate(EvaluateArgs),
    /// Learn from a stream: predict every row, then learn it, in a state that survives a kill
    Online(OnlineArgs),
    /// Choose kernel, bandwidth and ridge on a sample, and print the table seen
    Tune(TuneArgs),
    /// Describe models and data
    Inspect(InspectArgs),
    /// Choose centers only, and certify them
    Dictionary(DictionaryCommandArgs),
    /// Run a command in several processes, on this machine or on many
    Cluster(ClusterArgs),
    /// Public and synthetic data sets
    Datasets(DatasetsArgs),
    /// Show where settings come from
    Config(ConfigArgs),
    /// Print a shell completion script
    Completions(CompletionsArgs),
}

/// `nystream fit`.
#[derive(Clone, Debug, Args)]
pub struct FitArgs {
    /// Data and columns.
    #[command(flatten)]
    pub input: InputArgs,
    /// Rows held out.
    #[command(flatten)]
    pub holdout: HoldoutArgs,
    /// Kernel and ridge.
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// Centers.
    #[command(flatten)]
    pub dictionary: DictionaryArgs,
    /// Solver.
    #[command(flatten)]
    pub solve: SolveArgs,
    /// Kernel entries.
    #[command(flatten)]
    pub products: ProductArgs,
    /// Seed and precision.
    #[command(flatten)]
    pub sample: SampleArgs,
    /// Machine.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// Checkpoints.
    #[command(flatten)]
    pub checkpoint: CheckpointArgs,
    /// Model file to write
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// Also write the fit report to this file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub report: Option<PathBuf>,
    /// Keep what predictive variances of numbers need in the model (m x m numbers): --solver auto is then gram
    #[arg(long, help_heading = "Output")]
    pub variance: bool,
    /// As --dry-run, and print the decision: every solver considered with its cost, why it was chosen or not, selection and sizes
    #[arg(long, help_heading = "Output")]
    pub explain: bool,
    /// Profile and sample the data, print the plan (flops, bytes, memory, time), and stop
    #[arg(long, help_heading = "Output")]
    pub dry_run: bool,
    /// Start the solve from this model's coefficients
    #[arg(long, value_name = "MODEL", help_heading = "Start")]
    pub from: Option<PathBuf>,
    /// Take encoder, kernel, ridge, sizes, rules and seed from this model: only the rows are new
    #[arg(long, value_name = "MODEL", help_heading = "Start")]
    pub config_from: Option<PathBuf>,
    /// Names of the flags that stand on the command line, as opposed to defaults and lower layers of settings.
    #[arg(skip)]
    pub given: Vec<String>,
}

/// `nystream predict`.
#[derive(Clone, Debug, Args)]
pub struct PredictArgs {
    /// Model file
    #[arg(long, value_name = "FILE", required = true)]
    pub model: PathBuf,
    /// Parquet files: a file, a folder, a glob, or synth:NAME?...; repeatable
    #[arg(long, value_name = "PATH", required = true)]
    pub data: Vec<String>,
    /// Parquet file to write; with several processes a folder, where each writes its part
    #[arg(long, value_name = "FILE", required = true)]
    pub out: PathBuf,
    /// Column of the input to carry to the output; repeatable, `*` for all
    #[arg(long, value_name = "COLUMN")]
    pub keep: Vec<String>,
    /// Add the predictive variance of each target
    #[arg(long)]
    pub variance: bool,
    /// Kernel entries.
    #[command(flatten)]
    pub products: ProductArgs,
    /// Bad rows (NaN or infinite values) tolerated before failing; their predictions are null
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_bad_rows: u64,
    /// Machine.
    #[command(flatten)]
    pub resources: ResourceArgs,
}

/// `nystream evaluate`.
#[derive(Clone, Debug, Args)]
pub struct EvaluateArgs {
    /// Model file
    #[arg(long, value_name = "FILE", required = true)]
    pub model: PathBuf,
    /// Parquet files with the target columns: a file, a folder, a glob, or synth:NAME?...; repeatable
    #[arg(long, value_name = "PATH", required = true)]
    pub data: Vec<String>,
    /// Also write the report to this file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub report: Option<PathBuf>,
    /// Kernel entries.
    #[command(flatten)]
    pub products: ProductArgs,
    /// Bad rows (NaN or infinite values) tolerated before failing
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_bad_rows: u64,
    /// Machine.
    #[command(flatten)]
    pub resources: ResourceArgs,
}

/// `nystream tune`.
#[derive(Clone, Debug, Args)]
#[command(mut_arg("target", |arg| arg.required(true)))]
pub struct TuneArgs {
    /// Data and columns.
    #[command(flatten)]
    pub input: InputArgs,
    /// Rows held out.
    #[command(flatten)]
    pub holdout: HoldoutArgs,
    /// Kernel and ridge; what is given is not tuned.
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// Centers the settings are meant for.
    #[command(flatten)]
    pub dictionary: DictionaryArgs,
    /// Solver the settings are meant for.
    #[command(flatten)]
    pub solve: SolveArgs,
    /// Seed and precision.
    #[command(flatten)]
    pub sample: SampleArgs,
    /// Machine.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// Also write the table to this file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub report: Option<PathBuf>,
}

/// `nystream inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// Model files, or data: Parquet files, folders, globs, synth:NAME?... With --format json one path gives its document, several give one document
    /// with the list `documents`
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<String>,
}

/// `nystream dictionary`.
#[derive(Clone, Debug, Args)]
#[command(mut_arg("target", |arg| arg.required(true)))]
pub struct DictionaryCommandArgs {
    /// Data and columns; the target decides which rows can be chosen, and what bandwidth and ridge are tuned for.
    #[command(flatten)]
    pub input: InputArgs,
    /// Kernel, and the ridge the leverage scores are meant for.
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// Centers.
    #[command(flatten)]
    pub dictionary: DictionaryArgs,
    /// Seed and precision.
    #[command(flatten)]
    pub sample: SampleArgs,
    /// Machine.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// Parquet file for the chosen rows, for `--select file:PATH`
    #[arg(long, value_name = "FILE", required = true, help_heading = "Output")]
    pub out: PathBuf,
    /// Also write the report to this file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub report: Option<PathBuf>,
}

/// `nystream datasets`.
#[derive(Clone, Debug, Args)]
pub struct DatasetsArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: DatasetsCommand,
}

/// The commands under `nystream datasets`.
#[derive(Clone, Debug, Subcommand)]
pub enum DatasetsCommand {
    /// List the synthetic sources and the public data sets known by name
    List,
    /// Write a synthetic source to Parquet files
    Make(MakeArgs),
    /// Describe one data set: a name from the list, or a path
    Info(DatasetInfoArgs),
}

/// `nystream datasets make`.
#[derive(Clone, Debug, Args)]
pub struct MakeArgs {
    /// Name of a synthetic source (`nystream datasets list`), or a whole synth:NAME?rows=..&d=..&seed=..
    #[arg(value_name = "SOURCE", required = true)]
    pub source: String,
    /// Folder to write, made if absent
    #[arg(long, value_name = "FOLDER", required = true)]
    pub out: PathBuf,
    /// Rows in all [default: 10000]
    #[arg(long, value_name = "N")]
    pub rows: Option<Count>,
    /// Feature columns [default: 10]
    #[arg(long, value_name = "N")]
    pub features: Option<Count>,
    /// Standard deviation of the noise on the target, in target units; of twoclass, how far labels are left to chance
    /// [default: 1 for friedman1 and twoclass, 0.1 for sines and mixtures]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub noise: Option<values::Noise>,
    /// Seed of the rows
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Files to spread the rows over
    #[arg(long, value_name = "N", default_value = "1")]
    pub files: Count,
    /// Rows per row group
    #[arg(long, value_name = "N", default_value = "65536")]
    pub row_group: Count,
    /// Bytes the files may take on disk
    #[arg(long, value_name = "SIZE", default_value = "64GiB")]
    pub disk_limit: values::ByteSize,
    /// Replace the part-*.parquet files that are in the folder
    #[arg(long)]
    pub overwrite: bool,
}

impl MakeArgs {
    /// The source as a `synth:` specification with every given flag in it.
    ///
    /// ```
    /// use clap::Parser;
    /// use nystream::cli::{Cli, Command, DatasetsCommand};
    /// let line = ["nystream", "datasets", "make", "sines", "--rows", "1e3", "--out", "x"];
    /// let Command::Datasets(args) = Cli::parse_from(line).command else { unreachable!() };
    /// let DatasetsCommand::Make(make) = args.action else { unreachable!() };
    /// assert_eq!(make.specification(), "synth:sines?rows=1000&seed=0");
    /// ```
    pub fn specification(&self) -> String {
        let given = [
            ("rows", self.rows.map(|v| v.to_string())),
            ("d", self.features.map(|v| v.to_string())),
            ("noise", self.noise.map(|v| v.to_string())),
            ("seed", Some(self.seed.to_string())),
        ];
        let whole =
            if self.source.starts_with("synth:") { self.source.clone() } else { format!("synth:{}", self.source) };
        let (name, parameters) = whole.split_once('?').unwrap_or((&whole, ""));
        let mut pairs: Vec<String> = parameters.split('&').filter(|p| !p.is_empty()).map(str::to_string).collect();
        for (key, value) in given {
            let Some(value) = value else { continue };
            let written = pairs.iter().position(|p| p.split('=').next() == Some(key));
            match written {
                // The seed flag has a default: what the specification says wins over it.
                Some(_) if key == "seed" && self.seed == 0 => {}
                Some(at) => pairs[at] = format!("{key}={value}"),
                None => pairs.push(format!("{key}={value}")),
            }
        }
        format!("{name}?{}", pairs.join("&"))
    }
}

/// `nystream datasets info`.
#[derive(Clone, Debug, Args)]
pub struct DatasetInfoArgs {
    /// A name from `nystream datasets list`, or data: a Parquet file, a folder, a glob, synth:NAME?...
    #[arg(value_name = "NAME", required = true)]
    pub name: String,
}

/// `nystream config`.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ConfigCommand,
}

/// The commands under `nystream config`.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every option of a command with its value and where the value comes from
    Show(ConfigShowArgs),
}

/// `nystream config show`.
#[derive(Clone, Debug, Args)]
pub struct ConfigShowArgs {
    /// The command and, after it, flags as they would be given to it
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true, default_value = "fit")]
    pub line: Vec<String>,
}

/// `nystream completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// Shell
    #[arg(value_name = "SHELL", required = true)]
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_is_explained() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} --{} has no help", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    /// The flags that other programs rely on.
    #[test]
    fn contract_flags_exist() {
        let flags = "data target out kernel bandwidth ridge metric centers select dictionary-rows dictionary-mode solver \
                     precision seed workers memory temp-dir disk-limit hosts process validation split task loss scale \
                     report explain dry-run time-limit max-bad-rows from config-from drop categorical weight \
                     class-weight id-column cyclic simd max-flops tolerance iterations preconditioner product-tolerance product-mode \
                     secret-file transport join-timeout peer-timeout metrics-addr share-centers";
        let command = Cli::command();
        let has = |command: &clap::Command, flag: &str| command.get_arguments().any(|a| a.get_long() == Some(flag));
        let fit = command.find_subcommand("fit").unwrap();
        for flag in flags.split_whitespace() {
            assert!(has(fit, flag), "fit lacks --{flag}");
        }
        let predict = command.find_subcommand("predict").unwrap();
        for flag in "model data out keep variance product-tolerance product-mode workers memory hosts process secret-file peer-timeout metrics-addr share-centers"
            .split_whitespace()
        {
            assert!(has(predict, flag), "predict lacks --{flag}");
        }
        let run = command.find_subcommand("cluster").and_then(|cluster| cluster.find_subcommand("run")).unwrap();
        for flag in ["hosts", "restarts", "launcher"] {
            assert!(has(run, flag), "cluster run lacks --{flag}");
        }
        for flag in ["format", "quiet", "log-format", "config-file", "no-config"] {
            assert!(has(&command, flag), "no global --{flag}");
        }
    }

    #[test]
    fn specification_keeps_what_is_written_and_adds_what_is_given() {
        let make = |line: &[&str]| {
            let words = ["nystream", "datasets", "make", "--out", "x"].iter().chain(line);
            match Cli::parse_from(words).command {
                Command::Datasets(DatasetsArgs { action: DatasetsCommand::Make(make) }) => make.specification(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(make(&["synth:sines?rows=5&seed=3"]), "synth:sines?rows=5&seed=3");
        assert_eq!(make(&["synth:sines?rows=5&seed=3", "--rows", "9", "--seed", "4"]), "synth:sines?rows=9&seed=4");
        assert_eq!(make(&["friedman1", "--features", "7", "--noise", "0.5"]), "synth:friedman1?d=7&noise=0.5&seed=0");
    }
}
