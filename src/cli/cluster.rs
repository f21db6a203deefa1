//! `nystream cluster`.

use super::values::{Count, Launcher};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Processes that `cluster run --processes` starts on one machine, at most: each has its workers, its memory and a connection to every other one.
pub const MAX_LOCAL_PROCESSES: u64 = 256;

/// `nystream cluster`.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ClusterCommand,
}

/// The commands under `nystream cluster`.
#[derive(Clone, Debug, Subcommand)]
pub enum ClusterCommand {
    /// Start a command in one process for each line of a host file, show their logs, and end them together
    Run(ClusterRunArgs),
}

const EXAMPLES: &str = "Examples:
  nystream cluster run --processes 3 -- fit --data d.parquet --target y --out m.nys
  nystream cluster run --hosts hosts.txt --secret-file secret --restarts 5 -- fit --data /shared/d --target y --out /shared/m.nys
The exit code is the job's. Where processes end differently it is that of the cause: a code of its own before a lost process (5), that before a join that failed (6).";

/// `nystream cluster run`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ClusterRunArgs {
    /// File of host:port lines, one for each process; the host is the one that ssh is given, the port the one that the process listens on
    #[arg(long, value_name = "FILE")]
    pub hosts: Option<PathBuf>,
    /// So many processes on this machine, at most 256, on free loopback ports, without a host file
    #[arg(long, value_name = "N", conflicts_with = "hosts")]
    pub processes: Option<Count>,
    /// How processes are started [default: ssh with --hosts, local with --processes]
    #[arg(long, value_name = "LAUNCHER")]
    pub launcher: Option<Launcher>,
    /// Further attempts when a process or its host is lost, on the hosts that answer; from the checkpoint where COMMAND has one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub restarts: u32,
    /// File with the secret of the job; NYSTREAM_SECRET holds the secret itself [default: one made for the run]
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// The program on the hosts, with --launcher ssh a path there or a name on the PATH of non-interactive shells [default: nystream with ssh, this program with local]
    #[arg(long, value_name = "PATH")]
    pub remote_program: Option<PathBuf>,
    /// The folder that processes run in, on every host [default: the current folder]
    #[arg(long, value_name = "FOLDER")]
    pub remote_folder: Option<PathBuf>,
    /// NAME=VALUE for ssh's -o, such as User=me or Port=2222; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    pub ssh_option: Vec<String>,
    /// The command and its options, without the program's name, --hosts and --process
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub line: Vec<OsString>,
}
