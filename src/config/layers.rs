//! The layers put together.

use super::Refusal;
use super::file::{SettingsFile, distance};
use crate::cli::Cli;
use crate::exit::Failure;
use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use nystream_cluster::launch::LAUNCHED;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The variables and the folder a command line is read in; tests make their own.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Variables that start with `NYSTREAM_`, but for the secret ([`SECRET`]), since what is kept here may be shown, and what a launcher says of itself ([`LAUNCHED`]).
    pub variables: BTreeMap<String, String>,
    /// Current folder.
    pub folder: PathBuf,
}

impl Environment {
    /// Of this process.
    ///
    /// # Errors
    /// A `NYSTREAM_*` variable that is not UTF-8.
    pub fn of_process() -> Result<Self, Failure> {
        let mut variables = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            let option = |name: &&str| name.starts_with("NYSTREAM_") && *name != SECRET && *name != LAUNCHED;
            let Some(name) = name.to_str().filter(option) else { continue };
            let value = value.into_string().map_err(|_| Failure::usage(format!("{name} is not UTF-8 text")))?;
            variables.insert(name.to_string(), value);
        }
        Ok(Environment { variables, folder: std::env::current_dir().unwrap_or_default() })
    }
}

/// The variable that holds the secret of the processes of a job. It is no option: a command line can be seen by others.
pub const SECRET: &str = "NYSTREAM_SECRET";

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// A variable, by name.
    Variable(String),
    /// A settings file and its key.
    File(PathBuf, String),
    /// Built in.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::Variable(name) => f.write_str(name),
            Origin::File(path, key) => write!(f, "{} ({key})", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One option of a command.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Flag name without dashes.
    pub name: String,
    /// Values as text; empty where unset.
    pub values: Vec<String>,
    /// What applies where nothing is given, in words where that depends on others; absent where there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Where they come from.
    pub origin: Origin,
}

/// (command path, flag) -> origin of the layer below the command line.
type Origins = BTreeMap<(Vec<String>, String), Origin>;

/// Options that say where settings are cannot be settings.
const NOT_IN_FILE: [&str; 2] = ["config-file", "no-config"];

/// The command a line stands for, all layers applied.
///
/// # Errors
/// Usage errors of any layer, and clap's `--help` and `--version`.
pub fn parse(line: &[OsString], environment: &Environment) -> Result<Cli, Refusal> {
    let (command, _) = layered(line, environment, false)?;
    let matches = command.try_get_matches_from(line)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    match (&mut cli.command, matches.subcommand()) {
        (crate::cli::Command::Fit(args), Some((_, inner))) => args.given = given(inner),
        (crate::cli::Command::Online(args), Some((_, inner))) => args.given = given(inner),
        _ => {}
    }
    Ok(cli)
}

/// What to say of variables that name no option of any command, each with the nearest name.
///
/// ```
/// use nystream::config::{Environment, unknown_variables};
/// let variables = [("NYSTREAM_MEMROY", "1GiB"), ("NYSTREAM_SEED", "1")].map(|(k, v)| (k.to_string(), v.to_string()));
/// let environment = Environment { variables: variables.into(), ..Environment::default() };
/// let [warning] = &unknown_variables(&environment)[..] else { panic!("one of them is an option") };
/// assert!(warning.contains("NYSTREAM_MEMROY") && warning.contains("NYSTREAM_MEMORY"));
/// ```
pub fn unknown_variables(environment: &Environment) -> Vec<String> {
    let mut flags: Vec<String> = Vec::new();
    collect_flags(&Cli::command(), &mut flags);
    let known: Vec<String> = flags.iter().map(|flag| variable_of(flag)).chain([SECRET.to_owned()]).collect();
    let unknown = environment.variables.keys().filter(|name| !known.contains(name));
    unknown
        .map(|name| {
            let nearest = known.iter().min_by_key(|known| (distance(known, name), known.as_str()));
            match nearest.filter(|nearest| distance(nearest, name) <= 3) {
                Some(nearest) => {
                    format!("the variable {name} names no option and is not used; did you mean {nearest}?")
                }
                None => format!("the variable {name} names no option and is not used"),
            }
        })
        .collect()
}

/// Flags of a command and of all under it.
fn collect_flags(command: &Command, flags: &mut Vec<String>) {
    flags.extend(command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_string));
    command.get_subcommands().for_each(|inner| collect_flags(inner, flags));
}

/// The variable of a flag.
fn variable_of(flag: &str) -> String {
    format!("NYSTREAM_{}", flag.replace('-', "_").to_ascii_uppercase())
}

/// Names of the flags that stand on the command line.
fn given(matches: &ArgMatches) -> Vec<String> {
    let here = |id: &&str| matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine);
    matches.ids().map(|id| id.as_str()).filter(here).map(|id| id.replace('_', "-")).collect()
}

/// Every option of the command a line names, with origins. Options that the command requires may be missing.
///
/// # Errors
/// As [`parse`].
pub fn settings(line: &[OsString], environment: &Environment) -> Result<Vec<Setting>, Refusal> {
    let (command, origins) = layered(line, environment, true)?;
    let matches = command.clone().try_get_matches_from(line)?;
    let (mut path, mut found, mut at) = (Vec::new(), &command, &matches);
    while let Some((name, inner)) = at.subcommand() {
        let Some(next) = found.find_subcommand(name) else { break };
        path.push(name.to_string());
        (found, at) = (next, inner);
    }
    // Without the layers between: their values are defaults of the parser too.
    let root = Cli::command();
    let own = path.iter().try_fold(&root, |command, name| command.find_subcommand(name));
    let plain: Vec<&Arg> = own.into_iter().chain([&root]).flat_map(Command::get_arguments).collect();
    let mut list = Vec::new();
    for arg in found.get_arguments().chain(command.get_arguments().filter(|a| a.is_global_set())) {
        let Some(flag) = arg.get_long() else { continue };
        if ["help", "version"].contains(&flag) || list.iter().any(|s: &Setting| s.name == flag) {
            continue;
        }
        let built_in = plain.iter().find(|a| a.get_long() == Some(flag)).copied().unwrap_or(arg);
        list.push(Setting { default: default_of(built_in), ..setting(arg, flag, at, &path, &origins) });
    }
    Ok(list)
}

fn setting(arg: &Arg, flag: &str, matches: &ArgMatches, path: &[String], origins: &Origins) -> Setting {
    let id = arg.get_id().as_str();
    let values: Vec<String> = if is_switch(arg) {
        vec![matches.get_flag(id).to_string()]
    } else {
        let raw = matches.try_get_raw(id).ok().flatten();
        raw.map(|values| values.map(|v| v.to_string_lossy().into_owned()).collect()).unwrap_or_default()
    };
    let origin = match matches.value_source(id) {
        Some(clap::parser::ValueSource::CommandLine) => Origin::Flag,
        _ => {
            let key = |path: &[String]| (path.to_vec(), flag.to_string());
            let layer = origins.get(&key(path)).or_else(|| origins.get(&key(&[])));
            layer.cloned().unwrap_or(Origin::Default)
        }
    };
    Setting { name: flag.to_string(), values, default: None, origin }
}

/// The default of an option as it was written: a value, or the words that its help has for it.
fn default_of(arg: &Arg) -> Option<String> {
    if is_switch(arg) {
        return Some("false".to_string());
    }
    let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !values.is_empty() {
        return Some(values.join(", "));
    }
    let help = arg.get_help()?.to_string();
    let (_, words) = help.rsplit_once("[default: ")?;
    let words = words.rsplit_once(']').map_or(words, |(words, _)| words);
    Some(words.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// The parser with variables and file as defaults. With `lenient`, nothing is required.
fn layered(line: &[OsString], environment: &Environment, lenient: bool) -> Result<(Command, Origins), Failure> {
    let (explicit, none) = file_flags(line, environment);
    let file = match none {
        true => None,
        false => SettingsFile::find(explicit.as_deref(), &environment.folder)?,
    };
    let command = Cli::command();
    if let Some(file) = &file {
        let commands: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_string()).collect();
        file.check_keys(&commands, &|name| match name {
            None => command.get_subcommands().fold(flags_of(&command), |mut all, c| {
                all.extend(flags_of(c));
                all
            }),
            Some(name) => command.find_subcommand(name).map(flags_of).unwrap_or_default(),
        })?;
    }
    let mut origins = Origins::new();
    let command = layer(command, &[], environment, file.as_ref(), lenient, &mut origins)?;
    Ok((command, origins))
}

/// Flags of a command and of those under it that a file may set.
fn flags_of(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|a| a.get_long()).filter(|flag| !NOT_IN_FILE.contains(flag));
    let mut flags: Vec<String> = own.map(str::to_string).collect();
    command.get_subcommands().for_each(|c| flags.extend(flags_of(c)));
    flags
}

fn layer(
    command: Command,
    path: &[String],
    environment: &Environment,
    file: Option<&SettingsFile>,
    lenient: bool,
    origins: &mut Origins,
) -> Result<Command, Failure> {
    let mut failure = None;
    let command = command.mut_args(|arg| {
        let flag = arg.get_long().map(str::to_string);
        let arg = if lenient { arg.required(false) } else { arg };
        let Some(flag) = flag else { return arg };
        match value_below(&arg, &flag, path, environment, file) {
            Ok(None) => arg,
            Ok(Some((origin, values))) => {
                origins.insert((path.to_vec(), flag), origin);
                arg.required(false).default_values(values)
            }
            Err(error) => {
                failure.get_or_insert(error);
                arg
            }
        }
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_string()).collect();
    names.into_iter().try_fold(command, |command, name| {
        let below: Vec<String> = path.iter().cloned().chain([name.clone()]).collect();
        let mut failure = None;
        let command = command.mut_subcommand(&name, |inner| {
            let spare = Command::new("refused");
            layer(inner, &below, environment, file, lenient, origins).unwrap_or_else(|error| {
                failure = Some(error);
                spare
            })
        });
        failure.map_or(Ok(command), Err)
    })
}

/// The value of an option from the variables or the file, tried and found good.
fn value_below(
    arg: &Arg,
    flag: &str,
    path: &[String],
    environment: &Environment,
    file: Option<&SettingsFile>,
) -> Result<Option<(Origin, Vec<String>)>, Failure> {
    let variable = variable_of(flag);
    let repeatable = matches!(arg.get_action(), ArgAction::Append);
    let given = environment.variables.get(&variable).filter(|value| !value.is_empty());
    let (origin, values) = match given {
        Some(value) if repeatable => {
            (Origin::Variable(variable), value.split(',').map(|v| v.trim().to_string()).collect())
        }
        Some(value) => (Origin::Variable(variable), vec![value.clone()]),
        None => {
            let Some(file) = file.filter(|_| !NOT_IN_FILE.contains(&flag)) else { return Ok(None) };
            let Some((key, values)) = file.value(path.first().map_or("", String::as_str), flag)? else {
                return Ok(None);
            };
            (Origin::File(file.path.clone(), key), values)
        }
    };
    if !repeatable && values.len() != 1 {
        return Err(Failure::usage(format!("{origin}: --{flag} takes one value, not {}", values.len())));
    }
    let values = match is_switch(arg) {
        true => vec![boolean(&values[0], &origin)?.to_string()],
        false => {
            values.iter().try_for_each(|value| try_value(arg, flag, value, &origin))?;
            values
        }
    };
    Ok(Some((origin, values)))
}

fn boolean(text: &str, origin: &Origin) -> Result<bool, Failure> {
    let arg = Arg::new("switch").long("switch").value_parser(BoolishValueParser::new());
    let matches = Command::new("try").no_binary_name(true).arg(arg).try_get_matches_from([format!("--switch={text}")]);
    match matches.ok().and_then(|m| m.get_one::<bool>("switch").copied()) {
        Some(value) => Ok(value),
        None => Err(Failure::usage(format!("{origin}: `{text}` is neither true nor false"))),
    }
}

/// Parses one value of one option on its own.
fn try_value(arg: &Arg, flag: &str, value: &str, origin: &Origin) -> Result<(), Failure> {
    let alone = Command::new("try").no_binary_name(true).arg(arg.clone().required(false));
    match alone.try_get_matches_from([format!("--{flag}={value}")]) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let end = text.find("\n\nFor more").unwrap_or(text.len());
            let reason = text[..end].trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ");
            Err(Failure::usage(format!("{origin}: {reason}")))
        }
    }
}

/// `--config-file` and `--no-config`, which are needed before the line can be parsed.
fn file_flags(line: &[OsString], environment: &Environment) -> (Option<PathBuf>, bool) {
    let variable = |name: &str| environment.variables.get(name).filter(|v| !v.is_empty());
    let mut path = variable("NYSTREAM_CONFIG_FILE").map(PathBuf::from);
    let none =
        variable("NYSTREAM_NO_CONFIG").is_some_and(|v| !["0", "false", "no", "off", "n", "f"].contains(&v.as_str()));
    let mut none = none;
    let mut words = line.iter().skip(1);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--") => break,
            Some("--no-config") => none = true,
            Some("--config-file") => path = words.next().map(|w| Path::new(w).to_path_buf()),
            Some(text) => {
                if let Some(given) = text.strip_prefix("--config-file=") {
                    path = Some(PathBuf::from(given));
                }
            }
            None => {}
        }
    }
    (path, none)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::values::{AutoOr, ByteSize, Count, Solver};
    use crate::cli::{Command as Verb, FitArgs};
    use crate::exit::ExitCode;

    struct World {
        environment: Environment,
        _folder: tempfile::TempDir,
    }

    fn world(file: &str, variables: &[(&str, &str)]) -> World {
        let folder = tempfile::tempdir().unwrap();
        if !file.is_empty() {
            std::fs::write(folder.path().join("nystream.toml"), file).unwrap();
        }
        let variables = variables.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        World { environment: Environment { variables, folder: folder.path().to_path_buf() }, _folder: folder }
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn fit(world: &World, line: &str) -> FitArgs {
        match parse(&words(line), &world.environment) {
            Ok(Cli { command: Verb::Fit(args), .. }) => args,
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => panic!("{line}: {refusal:?}"),
        }
    }

    fn refusal(world: &World, line: &str) -> String {
        match parse(&words(line), &world.environment) {
            Err(Refusal::Failure(failure)) => {
                assert_eq!(failure.code, ExitCode::Usage);
                failure.to_string()
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn flag_over_variable_over_command_table_over_top_over_default() {
        let line = "nystream fit --data d --target y --out m";
        let file = "memory = '1GiB'\nseed = 5\ncenters = 10\n[fit]\nmemory = '2GiB'\nmax_bad_rows = 3\n";
        let nothing = world("", &[]);
        assert_eq!(fit(&nothing, line).resources.memory, ByteSize(8 << 30));
        let filed = world(file, &[]);
        let args = fit(&filed, line);
        assert_eq!(args.resources.memory, ByteSize(2 << 30));
        assert_eq!((args.sample.seed, args.input.max_bad_rows), (5, 3));
        assert_eq!(args.dictionary.centers, AutoOr::Given(Count(10)));
        let both = world(file, &[("NYSTREAM_MEMORY", "3GiB"), ("NYSTREAM_SEED", "")]);
        let args = fit(&both, line);
        assert_eq!(args.resources.memory, ByteSize(3 << 30));
        assert_eq!(args.sample.seed, 5, "an empty variable is unset");
        let args = fit(&both, &format!("{line} --memory 4GiB"));
        assert_eq!(args.resources.memory, ByteSize(4 << 30));
        let args = fit(&both, &format!("{line} --no-config"));
        assert_eq!((args.resources.memory, args.sample.seed), (ByteSize(3 << 30), 0));
    }

    #[test]
    fn required_options_lists_and_switches_come_from_any_layer() {
        let file = "data = ['a', 'b']\n[fit]\ntarget = 'y'\nout = 'm'\ndry-run = true\n";
        let args = fit(&world(file, &[]), "nystream fit");
        assert_eq!(args.input.data, ["a", "b"]);
        assert_eq!(args.out.as_deref(), Some(Path::new("m")));
        assert!(args.dry_run && !args.explain);
        let args =
            fit(&world(file, &[("NYSTREAM_DATA", "c, d"), ("NYSTREAM_EXPLAIN", "yes")]), "nystream fit --target z");
        assert_eq!((args.input.data, args.input.target), (vec!["c".into(), "d".into()], vec!["z".into()]));
        assert!(args.explain);
        let globals = world("quiet = true", &[("NYSTREAM_FORMAT", "json"), ("NYSTREAM_NO_PROGRESS", "1")]);
        let cli = parse(&words("nystream inspect x"), &globals.environment).unwrap();
        assert!(cli.global.quiet && cli.global.no_progress);
        assert_eq!(cli.global.format.as_str(), "json");
    }

    /// File, variables, parts of the message.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

    #[test]
    fn errors_name_their_layer() {
        let line = "nystream fit --data d --target y --out m";
        let cases: [Case; 9] = [
            ("", &[("NYSTREAM_MEMORY", "lots")], &["NYSTREAM_MEMORY", "8GiB"]),
            ("", &[("NYSTREAM_SOLVER", "magic")], &["NYSTREAM_SOLVER", "eigenpro"]),
            ("", &[("NYSTREAM_DRY_RUN", "perhaps")], &["NYSTREAM_DRY_RUN", "perhaps"]),
            ("memory = 'lots'", &[], &["nystream.toml", "memory"]),
            ("memroy = '1GiB'", &[], &["memroy", "did you mean `memory`"]),
            ("[fit]\nmodel = 'x'", &[], &["fit.model"]),
            ("memory = ['1GiB', '2GiB']", &[], &["one value, not 2"]),
            ("memory = [[1]]", &[], &["memory", "must be text"]),
            ("memory = ", &[], &["nystream.toml", "not TOML"]),
        ];
        for (file, variables, parts) in cases {
            let text = refusal(&world(file, variables), line);
            for part in parts {
                assert!(text.contains(part), "{file:?} {variables:?}: {part} is missing from `{text}`");
            }
        }
        let text = refusal(&world("", &[]), &format!("{line} --config-file absent.toml"));
        assert!(text.contains("absent.toml"), "{text}");
        let text = refusal(&world("dry-run = true\ndry_run = false", &[]), line);
        assert!(text.contains("with `-` and with `_`"), "{text}");
    }

    #[test]
    fn settings_say_where_they_come_from() {
        let file = "seed = 5\n[fit]\nsolver = 'pcg'\n";
        let world = world(file, &[("NYSTREAM_MEMORY", "3GiB"), ("NYSTREAM_FORMAT", "json")]);
        let list = settings(&words("nystream fit --centers 7 --quiet"), &world.environment).unwrap();
        let find = |name: &str| list.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no {name}"));
        let check = |name: &str, value: &str, origin: &str| {
            let setting = find(name);
            assert_eq!(setting.values.join(","), value, "{name}");
            let shown = setting.origin.to_string();
            assert!(shown == origin || (origin.starts_with('(') && shown.ends_with(origin)), "{name}: {shown}");
        };
        check("centers", "7", "flag");
        check("quiet", "true", "flag");
        check("memory", "3GiB", "NYSTREAM_MEMORY");
        check("format", "json", "NYSTREAM_FORMAT");
        check("solver", "pcg", "(fit.solver)");
        check("seed", "5", "(seed)");
        check("bandwidth", "auto", "default");
        check("target", "", "default");
        check("dry-run", "false", "default");
        // What applies where nothing is given, whatever is given.
        let default = |name: &str| find(name).default.as_deref();
        assert_eq!((default("memory"), default("seed"), default("solver")), (Some("8GiB"), Some("0"), Some("auto")));
        assert_eq!((default("format"), default("quiet")), (Some("text"), Some("false")));
        assert_eq!(default("split"), Some("hash:0.1, or none with --validation"));
        assert_eq!((default("id-column"), default("target")), (Some("file and position"), None));
        assert_eq!(find("solver").values, [Solver::Pcg.as_str()]);
        let names: std::collections::BTreeSet<_> = list.iter().map(|s| &s.name).collect();
        assert_eq!(names.len(), list.len(), "a setting is listed twice");
    }
}
