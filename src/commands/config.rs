//! `nystream config show`.

use super::Context;
use crate::cli::values::Format;
use crate::cli::{ConfigArgs, ConfigCommand};
use crate::config::{Refusal, Setting, settings};
use crate::exit::ExitCode;
use crate::output::Output;
use crate::report::{Report, text};
use serde::Serialize;
use std::ffi::OsString;

#[derive(Debug, Serialize)]
struct Settings {
    command: String,
    settings: Vec<Setting>,
}

impl Report for Settings {
    fn text(&self) -> String {
        let rows: Vec<Vec<String>> = (self.settings.iter())
            .map(|s| {
                let value = match (s.values.is_empty(), &s.default) {
                    (false, _) => s.values.join(", "),
                    (true, Some(default)) => default.clone(),
                    (true, None) => "none".to_string(),
                };
                vec![format!("--{}", s.name), value, s.origin.to_string()]
            })
            .collect();
        format!("# nystream {}\n{}", self.command, text::table(&["option", "value", "from"], &rows))
    }
}

/// Prints every option of a command with its value and origin.
///
/// # Errors
/// Usage errors of the line shown (2).
pub fn run(args: ConfigArgs, context: &Context) -> Result<ExitCode, Refusal> {
    let ConfigCommand::Show(show) = args.action;
    let line: Vec<OsString> =
        ["nystream".to_string()].into_iter().chain(show.line.clone()).map(OsString::from).collect();
    let command = show.line.iter().take_while(|w| !w.starts_with('-')).cloned().collect::<Vec<_>>().join(" ");
    let list = settings(&line, &context.environment)?;
    // `config show fit --format json`: the flag after the command is both shown and obeyed.
    let json = list.iter().any(|s| s.name == "format" && s.values == [Format::Json.as_str()]);
    let output = if json { Output { format: Format::Json } } else { context.output };
    output.report(&Settings { command, settings: list })?;
    Ok(ExitCode::Done)
}
