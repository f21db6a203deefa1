//! README and scripts say only what the program understands, and what the README has others type works as written.

mod common;

use common::{Place, text};
use nystream::cli::Cli;
use nystream::config::{Environment, Refusal, parse};
use nystream::exit::ExitCode;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The words of a shell line: single and double quotes removed, variables replaced by a name.
fn words(line: &str) -> Vec<OsString> {
    line.replace("$folder", "folder")
        .split_whitespace()
        .map(|w| w.trim_matches(['\'', '"']))
        .map(OsString::from)
        .collect()
}

/// The lines of a text that are commands of nystream.
fn commands(text: &str) -> Vec<&str> {
    text.lines().filter_map(|l| l.strip_prefix("    ")).filter(|l| l.starts_with("nystream ")).collect()
}

/// The part of a text under a heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let from = text.find(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let rest = &text[from + 4..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

fn understood(line: &str) -> Cli {
    let environment = Environment { folder: PathBuf::from("absent"), ..Environment::default() };
    match parse(&words(line), &environment) {
        Ok(cli) => cli,
        Err(Refusal::Clap(error)) => panic!("`{line}`: {error}"),
        Err(Refusal::Failure(failure)) => panic!("`{line}`: {failure}"),
    }
}

#[test]
fn command_lines_parse() {
    for (name, least) in [("README.md", 3), ("cluster/README.md", 1)] {
        let readme = read(name);
        let lines = commands(&readme);
        assert!(lines.len() >= least, "{name}");
        lines.iter().for_each(|line| drop(understood(line)));
    }
    let script = read("examples/first_model.sh");
    let in_script: Vec<String> =
        script.lines().filter_map(|l| l.strip_prefix("say ")).map(|l| format!("nystream {l}")).collect();
    assert!(in_script.len() >= 4);
    in_script.iter().for_each(|line| drop(understood(line)));
}

#[test]
fn options_named_in_the_readme_exist() {
    use clap::CommandFactory;
    fn flags(command: &clap::Command, all: &mut Vec<String>) {
        all.extend(command.get_arguments().filter_map(|a| a.get_long()).map(|f| format!("--{f}")));
        command.get_subcommands().for_each(|c| flags(c, all));
    }
    let mut known = vec!["--help".to_string(), "--release".to_string(), "--workspace".to_string()];
    flags(&Cli::command(), &mut known);
    for name in ["README.md", "cluster/README.md"] {
        let readme = read(name);
        let words = readme.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let named = words.filter(|w| w.starts_with("--") && w.chars().any(|c| c.is_ascii_alphabetic()));
        for flag in named {
            assert!(known.iter().any(|k| k == flag), "{name} names {flag}");
        }
    }
    let readme = read("README.md");
    let commands: Vec<String> = Cli::command().get_subcommands().map(|c| c.get_name().to_string()).collect();
    for command in commands {
        assert!(readme.contains(&format!("| `{command}")), "README.md has no line on `{command}`");
    }
}

/// The five minutes, on the machine of the tests.
#[cfg(unix)]
#[test]
fn the_cluster_of_the_readme_fits_the_same_model() {
    let readme = read("README.md");
    let lines = commands(section(&readme, "A cluster in five minutes"));
    let here: Vec<&&str> = lines.iter().filter(|line| !line.contains("--hosts")).collect();
    assert_eq!(here.len(), 4, "{lines:?}");
    let place = Place::new();
    let mut last = String::new();
    for line in here {
        let output = place.run(line.strip_prefix("nystream ").unwrap());
        assert_eq!(output.status.code(), Some(0), "{line}\n{}", text(&output.stderr));
        last = text(&output.stdout);
    }
    let digests: Vec<&str> = last.lines().filter(|line| line.contains("digest")).collect();
    assert!(digests.len() == 2 && digests[0] == digests[1], "{last}");
}

#[test]
fn exit_codes_are_documented() {
    let readme = read("README.md");
    let codes = [
        ExitCode::Done,
        ExitCode::Data,
        ExitCode::Usage,
        ExitCode::Stopped,
        ExitCode::Budget,
        ExitCode::PeerLost,
        ExitCode::JoinRefused,
        ExitCode::Bug,
        ExitCode::Interrupted,
    ];
    for code in codes {
        assert!(readme.contains(&format!("\n| {} | ", code as u8)), "{code:?}");
    }
}

#[test]
fn both_commands_of_the_readme_are_there() {
    let readme = read("README.md");
    assert!(readme.contains("\n    examples/first_model.sh\n"));
    assert!(readme.contains("\n    cargo test --release --workspace\n"), ".ci/run reads this line");
}
