//! `nystream online verify`: whether everything that a state keeps is what it should be.
//!
//! | what | how it is looked at | what is to be done where it is damaged |
//! |---|---|---|
//! | the log | its checksums; what cannot be read is cut off and kept aside, as any run does | events after that come again where their source has them |
//! | snapshots, each | checksum; with the log after it, it is to give the present state (in the exact mode: the rows of the log, summed and solved from scratch, the model that was published last) | the next run goes on from the other one, and writes another |
//! | sums of the exact mode | the digest that the snapshot names | the next run sums all rows again |
//! | index of the rows | each row of the log, and no other, is where it has it | it is made anew from the log |
//! | published models, each | digest, and that it is of the change of its name | as of then there is none, unless a copy is put back |
//! | `config.nys`, `online.json` | digest, form | a copy of the folder |
//!
//! Anything damaged is named in `notes`, `verified` is false, and the code is 1. What a kill leaves is no damage: a publication that is due, or a model that was about to be written.

use super::exact::{Machine, SUMS};
use super::open::{self, Opened};
use super::states::report_of;
use super::{kept, refit};
use crate::commands::Context;
use crate::exit::{ExitCode, Failure};
use crate::report::StateReport;
use nystream_dataflows::StageError;
use nystream_dataflows::online::exact::check_sums;
use nystream_dataflows::online::session::{Session, Stored};
use nystream_dataflows::online::settings::Mode;
use nystream_dataflows::online::state::State;
use std::path::Path;

/// Checks a state.
///
/// # Errors
/// A state that is in use, or that cannot be opened at all (1).
pub fn verify(folder: &Path, context: &Context) -> Result<ExitCode, Failure> {
    State::look(folder)?;
    let state = State::hold(folder).map_err(|error| match error {
        StageError::Data(reason) if reason.contains("in use") => {
            Failure::data(format!("{reason}; verify reads the whole state, which must not change meanwhile"))
        }
        other => other.into(),
    })?;
    let mut opened = open::reopen(state, &Machine::from_scratch())?;
    let mut report = report_of(&mut opened)?;
    let snapshots = snapshots(&mut opened, &mut report)?;
    let compared = match opened.told.settings.mode {
        Mode::Exact => from_scratch(&mut opened, &mut report)?,
        _ => replayed(&mut opened, snapshots, &mut report)?,
    };
    opened.damaged |= !compared;
    if let Some(wrong) = opened.session.check().map_err(StageError::from)? {
        report.notes.push(wrong);
        opened.damaged = true;
    }
    if let Some(wrong) = refit::damaged(&opened.state) {
        report.notes.push(wrong);
        opened.damaged = true;
    }
    report.verified = Some(!opened.damaged);
    context.output.report(&report)?;
    Ok(if opened.damaged { ExitCode::Data } else { ExitCode::Done })
}

/// The snapshots that can be used, by their records; what is wrong with others, and with the sums that they name, is told.
fn snapshots(opened: &mut Opened, report: &mut StateReport) -> Result<Vec<(u64, Stored)>, Failure> {
    let records = opened.state.snapshots()?;
    let newest = records.last().copied();
    let (mut usable, mut damaged) = (Vec::new(), Vec::new());
    for record in records {
        let stored = match opened.state.read(&opened.identity, record) {
            Ok(snapshot) => snapshot.stored,
            Err(bad) => {
                let path = bad.path.display().to_string();
                // Where the newest is, an older one was opened, which has said so.
                report.notes.retain(|note| !note.contains(&path));
                damaged.push(format!(
                    "the snapshot '{path}' is damaged ({}): the next run goes on without it, and writes another",
                    bad.reason
                ));
                continue;
            }
        };
        if opened.told.settings.mode == Mode::Exact
            && let Err((path, wrong)) = check_sums(&opened.state.path(SUMS), stored.learner())
        {
            // Snapshots that failed have files too, which may be all that are kept beside the newest.
            let wrong = wrong.or_else(|| (newest == Some(record)).then(|| "it is not there".into()));
            damaged.extend(wrong.map(|wrong| {
                format!(
                    "the sums '{}' cannot be used ({wrong}): the next run sums all rows again, to the same model",
                    path.display()
                )
            }));
        }
        usable.push((record, stored));
    }
    opened.damaged |= !damaged.is_empty();
    report.notes.extend(damaged);
    Ok(usable)
}

/// Whether each of these snapshots gives the present state with the log after it.
fn replayed(opened: &mut Opened, snapshots: Vec<(u64, Stored)>, report: &mut StateReport) -> Result<bool, Failure> {
    let mut verified = true;
    let mut present = opened.session.stored()?;
    // Files are the loop's affair.
    present.files.clear();
    for (record, mut stored) in snapshots {
        stored.files.clear();
        stored.configured(&opened.model.digest()?);
        match again(opened, record, stored) {
            Ok((replayed, same)) if same == present => report.notes.push(format!(
                "the snapshot at record {record} of the log, with the {replayed} records behind it learned again, gives the present state to the bit"
            )),
            Ok((replayed, _)) => {
                verified = false;
                report.notes.push(format!("the snapshot at record {record} of the log, with the {replayed} records behind it learned again, gives another state than the present one: the snapshot or the log is damaged; put back a copy of the folder, or begin again in another"));
            }
            Err(error) => {
                verified = false;
                report
                    .notes
                    .push(format!("the snapshot at record {record} of the log gives no state with the log behind it: {error}"));
            }
        }
    }
    Ok(verified)
}

/// The state that a snapshot and the records after it give, and how many these are.
fn again(opened: &Opened, record: u64, stored: Stored) -> Result<(u64, Stored), Failure> {
    let Opened { state, told, identity, model, .. } = opened;
    let (encoding, engine, template) = open::engine(told, model, &Machine::plain())?;
    let rows = stored.rows();
    let (store, _) = open::store_of(state, told, *identity, encoding.schema(), engine.traits(), (record, &rows[..]))?;
    let mut again = Session::new(encoding, template.code, engine, store, told.rules.clone(), Some(stored))?;
    let replayed = again.replay(record)?;
    Ok((replayed, again.stored()?))
}

/// Whether the model of the rows of the log, made from scratch, is the one that was published last.
fn from_scratch(opened: &mut Opened, report: &mut StateReport) -> Result<bool, Failure> {
    let tally = opened.session.tally();
    let (changes, rows) = (tally.changes, tally.inserted.saturating_sub(tally.deleted + tally.expired));
    let was_published = tally.publications > 0;
    let (made, there) = (report.model_digest.clone(), opened.session.rows());
    let folder = opened.state.folder().to_path_buf();
    let newest = kept::newest(&folder);
    // That it is damaged is told with the others.
    let damaged = newest.is_err();
    let (newest, missing) = match newest.ok().flatten() {
        Some((point, model)) => (Some((point, model)), false),
        // The newest lies in two files.
        None => (kept::last(&folder).map(|(point, model)| (Some(point), model)), true),
    };
    let published = match newest {
        Some((point, model)) => Some((point, model.digest()?)),
        None => None,
    };
    let mut verified = rows == there;
    if rows != there {
        report.notes.push(format!("the log has {there} rows, and by its counts there should be {rows}: it is damaged"));
    }
    if missing && !damaged && published.is_some() && made.is_some() {
        report.notes.push("there is no model.nys: the next run that ends writes it, and the last of those in published/ stands for it".into());
    }
    report.notes.push(match (&made, &published) {
        (Some(made), Some((_, published))) if made == published => {
            "the rows of the log, summed and solved from scratch, give the published model to the bit".into()
        }
        (Some(_), Some((Some(point), _))) if *point > changes => {
            verified = false;
            format!("the published model is as of change {point}, and the log ends at change {changes}: what came after that is lost, unless the source brings it again; put back a copy of the folder")
        }
        // Rows have come or gone since: a killed run has not published what it has acknowledged.
        (Some(made), Some((Some(point), _))) if *point != changes => format!(
            "the published model is as of change {point} of {changes}: there is none to compare with the one that the rows of the log give, {made}"
        ),
        (Some(made), Some(_)) if opened.session.publication_is_due() => {
            format!("a publication is due, by drift or by another configuration than the published model's: the next run makes it; the rows of the log give {made}")
        }
        (Some(_), Some(_)) => {
            verified = false;
            "the rows of the log give another model than the published one, though none has come or gone since: one of them is damaged".into()
        }
        (Some(made), None) if damaged || was_published => {
            format!("there is no published model to compare with the one that the rows of the log give, {made}; the next run that ends writes it")
        }
        (Some(made), None) => format!("no model was published yet; the rows of the log give {made}"),
        (None, _) if there == 0 => "there are no rows to make a model of".into(),
        (None, _) => "there is nothing to compare the published models with".into(),
    });
    Ok(verified)
}
