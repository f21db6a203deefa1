//! `nystream cluster run`.
//!
//! The command is read here first, so that a wrong option is one message and starts nothing. Settings of this machine reach every process as variables, the lowest layer but one:
//! those of the environment, and the options that stand before `cluster`. The secret is one of them and never on a command line.

use super::Context;
use crate::cli::cluster::MAX_LOCAL_PROCESSES;
use crate::cli::values::{Format, Launcher as Starts, LogFormat};
use crate::cli::{ClusterArgs, ClusterCommand, ClusterRunArgs, GlobalArgs, STORE_TIMEOUT};
use crate::config::{Environment, Origin, Refusal, SECRET, Setting, settings};
use crate::exit::{self, ExitCode, Failure};
use nystream_cluster::Secret;
use nystream_cluster::launch::{Job, Launch, Launcher, Log, Places, Times, Variable, read_hosts, supervise};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a secret that is made for a run.
const SECRET_BYTES: usize = 32;
/// Variables that mean the launching side.
const OWN: [&str; 4] = ["NYSTREAM_HOSTS", "NYSTREAM_PROCESS", "NYSTREAM_SECRET_FILE", SECRET];

/// Runs a command in several processes and gives its exit code.
///
/// # Errors
/// Usage errors of the command (2), what the processes ended with.
pub fn run(args: ClusterArgs, global: &GlobalArgs, context: &Context) -> Result<ExitCode, Refusal> {
    let ClusterCommand::Run(args) = args.action;
    let line: Vec<OsString> = [OsString::from("nystream")].into_iter().chain(args.line.clone()).collect();
    let options = settings(&line, &context.environment)?;
    check_command(&args, &options)?;
    let mut job = job(&args, global, &options, &context.environment)?;
    let interrupts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&interrupts);
    exit::take_interrupts(move || {
        count.fetch_add(1, Ordering::SeqCst);
        true
    });
    let quiet = global.quiet;
    let say = |line: &str| {
        if !quiet {
            exit::say(&format!("[cluster] {line}"));
        }
    };
    let verdict = supervise(&mut job, &interrupts, &say).map_err(|e| Failure::caused(ExitCode::Data, e))?;
    match ExitCode::of_number(verdict.code) {
        Some(code @ (ExitCode::Done | ExitCode::Stopped)) => Ok(code),
        Some(ExitCode::Interrupted) if verdict.message.is_empty() => {
            exit::say("interrupted: every process was stopped");
            Ok(ExitCode::Interrupted)
        }
        code => {
            let message = format!("{}; what it said is above", verdict.message);
            Err(Failure::new(code.unwrap_or(ExitCode::Data), message).into())
        }
    }
}

/// Whether the command can run in several processes, and leaves to the launcher what is the launcher's.
fn check_command(args: &ClusterRunArgs, options: &[Setting]) -> Result<(), Failure> {
    if !options.iter().any(|option| option.name == "process") {
        let name = args.line.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        return Err(Failure::usage(format!(
            "`{name}` does not run in several processes: fit, tune, dictionary, predict, evaluate and online --mode exact do"
        )));
    }
    // What follows it would not be read as an option, and each process is given two more.
    if args.line.iter().any(|word| word == "--") {
        return Err(Failure::usage("a second `--`: the command takes options alone, leave it out"));
    }
    let given = |name: &str| options.iter().any(|option| option.name == name && option.origin == Origin::Flag);
    if let Some(name) = ["hosts", "process"].into_iter().find(|name| given(name)) {
        return Err(Failure::usage(format!("--{name} after `--`: leave it out, each process is given its own")));
    }
    let reads = |option: &Setting| option.name == "input" && option.values.iter().any(|value| value.ends_with(":-"));
    if options.iter().any(reads) {
        return Err(Failure::usage(
            "processes of cluster run have no standard input: give --input a file, a folder or a socket, or start the processes by hand (--hosts FILE --process I)",
        ));
    }
    Ok(())
}

fn job(
    args: &ClusterRunArgs,
    global: &GlobalArgs,
    options: &[Setting],
    environment: &Environment,
) -> Result<Job, Failure> {
    let starts = match (args.launcher, &args.processes) {
        (Some(Starts::Ssh), Some(_)) => {
            return Err(Failure::usage(
                "--processes starts processes on this machine: with --launcher ssh give --hosts FILE",
            ));
        }
        (Some(starts), _) => starts,
        (None, Some(_)) => Starts::Local,
        (None, None) => Starts::Ssh,
    };
    let (launcher, program) = match starts {
        Starts::Local => {
            if !args.ssh_option.is_empty() {
                return Err(Failure::usage("--ssh-option is for --launcher ssh"));
            }
            let own = std::env::current_exe().map_err(|e| {
                Failure::data(format!("cannot tell where this program is ({e}): name it with --remote-program"))
            })?;
            (Launcher::Local, own.into_os_string())
        }
        Starts::Ssh => (Launcher::Ssh { program: "ssh".into(), options: args.ssh_option.clone() }, "nystream".into()),
    };
    let program = args.remote_program.clone().map_or(program, OsString::from);
    let places = match (&args.hosts, args.processes) {
        (_, Some(count)) if count.0 > MAX_LOCAL_PROCESSES => {
            return Err(Failure::usage(format!(
                "--processes {count} is more than {MAX_LOCAL_PROCESSES} processes on one machine: give fewer, each with more --workers, or --hosts FILE"
            )));
        }
        (_, Some(count)) => Places::Loopback(count.0 as usize),
        (Some(path), None) => {
            let lines = read_hosts(path).map_err(|e| Failure::caused(ExitCode::Usage, e))?;
            Places::File { path: environment.folder.join(path), lines }
        }
        (None, None) => return Err(Failure::usage("--hosts FILE or --processes N is missing")),
    };
    let launch = Launch {
        folder: environment.folder.join(args.remote_folder.as_deref().unwrap_or(Path::new(""))),
        command: [program].into_iter().chain(args.line.clone()).collect(),
        variables: variables(global, environment, secret(args, options)?),
        others: Variable::new("NYSTREAM_NO_PROGRESS", "true").into_iter().collect(),
        log: Log::new(std::io::stderr()),
        launcher,
        times: Times::default(),
    };
    let again = if resumable(options) { vec!["--resume".into()] } else { Vec::new() };
    let spread = options.iter().any(|option| option.name == "data-layout" && option.values == ["local"]);
    Ok(Job { launch, places, restarts: args.restarts, spread, again })
}

/// Whether a further attempt can go on from a checkpoint: the command can, names where checkpoints are, and does not resume by itself.
fn resumable(options: &[Setting]) -> bool {
    let values = |name: &str| options.iter().find(|option| option.name == name).map(|option| &option.values);
    values("checkpoint").is_some_and(|folder| !folder.is_empty()) && values("resume").is_some_and(|on| on == &["false"])
}

/// What every process is told beside its command line.
fn variables(global: &GlobalArgs, environment: &Environment, secret: Option<String>) -> Vec<Variable> {
    let mut all: BTreeMap<&str, String> = BTreeMap::new();
    let handed_on = environment.variables.iter().filter(|(name, _)| !OWN.contains(&name.as_str()));
    all.extend(handed_on.map(|(name, value)| (name.as_str(), value.clone())));
    if let Ok(filter) = std::env::var("RUST_LOG") {
        all.insert("RUST_LOG", filter);
    }
    if global.format != Format::Text {
        all.insert("NYSTREAM_FORMAT", global.format.to_string());
    }
    if global.log_format != LogFormat::Text {
        all.insert("NYSTREAM_LOG_FORMAT", global.log_format.to_string());
    }
    let switches = [
        ("NYSTREAM_QUIET", global.quiet),
        ("NYSTREAM_NO_PROGRESS", global.no_progress),
        ("NYSTREAM_NO_CONFIG", global.no_config),
    ];
    all.extend(switches.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name, "true".to_owned())));
    if let Some(file) = global.config_file.as_ref().and_then(|file| file.to_str()) {
        all.insert("NYSTREAM_CONFIG_FILE", file.to_owned());
    }
    if global.store_timeout.0 != STORE_TIMEOUT {
        all.insert("NYSTREAM_STORE_TIMEOUT", format!("{}s", global.store_timeout.0));
    }
    all.extend(secret.map(|secret| (SECRET, secret)));
    all.into_iter().filter_map(|(name, value)| Variable::new(name, value)).collect()
}

/// The secret that processes are given: that of `--secret-file` or `NYSTREAM_SECRET`, otherwise one made for the run; none where the command names a file of its own.
fn secret(args: &ClusterRunArgs, options: &[Setting]) -> Result<Option<String>, Failure> {
    let text = |bytes: &[u8], origin: &str| {
        let line = String::from_utf8_lossy(bytes).trim_end_matches(['\r', '\n']).to_owned();
        // It travels as a variable of one line.
        let fits = std::str::from_utf8(bytes).is_ok() && !line.contains(['\0', '\n', '\r']);
        let wrong = || Failure::usage(format!("{origin} is no line of text: write the secret as one"));
        if fits { Ok(line) } else { Err(wrong()) }
    };
    if let Some(path) = &args.secret_file {
        let (bytes, _) = Secret::read_text(path).map_err(|e| Failure::caused(ExitCode::Usage, e))?;
        return text(&bytes, &format!("the secret file {}", path.display())).map(Some);
    }
    if let Some(secret) = std::env::var_os(SECRET).filter(|secret| !secret.is_empty()) {
        let origin = format!("the variable {SECRET}");
        let bytes = secret.as_encoded_bytes();
        Secret::new(bytes, &origin).map_err(|e| Failure::caused(ExitCode::Usage, e))?;
        return text(bytes, &origin).map(Some);
    }
    let own = options.iter().any(|option| option.name == "secret-file" && option.origin == Origin::Flag);
    if own { Ok(None) } else { random_secret().map(Some) }
}

fn random_secret() -> Result<String, Failure> {
    let mut bytes = [0u8; SECRET_BYTES];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|e| Failure::data(format!("cannot make a secret for the run ({e}): give --secret-file")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
