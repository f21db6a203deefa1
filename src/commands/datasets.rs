//! `nystream datasets list|make|info`.

use super::Context;
use super::inspect::describe_data;
use crate::cli::{DatasetInfoArgs, DatasetsArgs, DatasetsCommand, MakeArgs};
use crate::exit::{ExitCode, Failure, at_early_end};
use crate::report::{MakeReport, SourceEntry, SourcesReport};
use nystream_datasets::catalogue::{PUBLIC, synthetic};
use nystream_datasets::make::{MakeOptions, make};
use nystream_datasets::synth::SynthName;
use nystream_datasets::{SynthSpec, Task};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Lists, makes or describes data sets.
///
/// # Errors
/// An unknown source to make (2), a name that is neither known nor a path and files that cannot be read or written (1), a data set over the disk limit (4).
pub fn run(args: DatasetsArgs, context: &Context) -> Result<ExitCode, Failure> {
    match args.action {
        DatasetsCommand::List => context.output.report(&SourcesReport { sources: sources() })?,
        DatasetsCommand::Make(args) => context.output.report(&made(&args, context)?)?,
        DatasetsCommand::Info(args) => info(&args, context)?,
    }
    Ok(ExitCode::Done)
}

/// Everything known by name: synthetic sources, then public data sets.
fn sources() -> Vec<SourceEntry> {
    let task = |task: Task| match task {
        Task::Classification => "classification".to_string(),
        _ => "regression".to_string(),
    };
    let made = SynthName::ALL.iter().map(|(name, _)| {
        let source = synthetic(*name);
        SourceEntry {
            name: source.name.to_string(),
            kind: "synthetic".to_string(),
            task: task(source.task),
            target: source.target.to_string(),
            description: source.description.to_string(),
            source: source.name.parse::<SynthSpec>().ok().map(|spec| spec.to_string()),
            ..SourceEntry::default()
        }
    });
    let public = PUBLIC.iter().map(|set| SourceEntry {
        name: set.name.to_string(),
        kind: "public".to_string(),
        task: task(set.task),
        target: set.target.to_string(),
        description: format!("{} (to be downloaded: nystream does not fetch it)", set.origin),
        rows: Some(set.rows),
        features: Some(u64::from(set.features)),
        licence: Some(set.licence.to_string()),
        ..SourceEntry::default()
    });
    made.chain(public).collect()
}

/// Writes the source and says what was written.
fn made(args: &MakeArgs, context: &Context) -> Result<MakeReport, Failure> {
    if let Some(set) = PUBLIC.iter().find(|set| set.name == args.source) {
        return Err(Failure::usage(format!(
            "'{}' is a public data set, which is downloaded, not made: {}",
            set.name, set.origin
        )));
    }
    let spec: SynthSpec = args.specification().parse()?;
    let options = MakeOptions {
        files: args.files.0,
        row_group_rows: args.row_group.0,
        disk_limit: args.disk_limit.0,
        overwrite: args.overwrite,
    };
    // Folders that are made for it, innermost first; an interrupt leaves none.
    let made: Vec<PathBuf> = args
        .out
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .map(Path::to_path_buf)
        .collect();
    at_early_end(move |_| made.iter().for_each(|folder| drop(std::fs::remove_dir(folder))));
    let pass = context.progress.pass("make", Some(spec.rows), "rows");
    let made = make(&spec, &args.out, &options, |done, _| pass.add(done - pass.done()))?;
    Ok(MakeReport {
        source: spec.to_string(),
        rows: spec.rows,
        bytes: made.bytes,
        files: made.paths.iter().map(|path| path.display().to_string()).collect(),
        seconds: BTreeMap::from([("total".to_string(), pass.finish())]),
    })
}

/// Describes a name of the list, or data.
fn info(args: &DatasetInfoArgs, context: &Context) -> Result<(), Failure> {
    if let Some(entry) = sources().into_iter().find(|entry| entry.name == args.name) {
        return context.output.report(&entry);
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if args.name.chars().all(word) && !Path::new(&args.name).exists() {
        let names: Vec<String> = sources().into_iter().map(|entry| entry.name).collect();
        return Err(Failure::data(format!(
            "'{}' is neither a known data set nor a path; known are {}",
            args.name,
            names.join(", ")
        )));
    }
    context.output.report(&describe_data(&args.name)?)
}
