//! What `--listen` answers by before the run is open: the model that was published last.

use super::kept::{self, Absent};
use crate::cli::OnlineArgs;
use crate::cli::values::online::Absent as AbsentColumn;
use crate::commands::Context;
use crate::exit::{self, Failure};
use crate::fitted::into_function;
use crate::metrics::online::Run;
use crate::model::Model;
use crate::serve;
use crate::serve::past::{Keeper, Missing, Past};
use nystream_dataflows::online::encoding::Encoding;
use nystream_dataflows::online::learner::Published;
use nystream_dataflows::online::serving::{Newest, Serving};
use std::path::PathBuf;
use std::sync::Arc;

/// Answers by `newest`, and with the figures of `run`, from now on, where it is asked for.
///
/// # Errors
/// An address or a token that cannot be used.
pub fn listen(
    args: &OnlineArgs,
    context: &Context,
    newest: &Newest,
    past: Option<Arc<Past>>,
    run: &Run,
) -> Result<(), Failure> {
    let Some(address) = &args.stream.listen else { return Ok(()) };
    let token = args.stream.token_file.as_deref().map(serve::token).transpose()?;
    let own = serve::serve(&address.0, token, newest, past, run)?;
    // Whoever asked for a port of the system's choice has to hear of it.
    context.progress.aside(|| exit::say(&format!("predictions: http://{own}/predict")));
    Ok(())
}

/// Whether [`listen`] could be: what is wrong with the address or the token shows before other processes are waited for.
///
/// # Errors
/// As there.
pub fn check(args: &OnlineArgs) -> Result<(), Failure> {
    let Some(address) = &args.stream.listen else { return Ok(()) };
    let token = args.stream.token_file.as_deref().map(serve::token).transpose()?;
    serve::bound(&address.0, token.is_some()).map(drop)
}

/// What encodes rows, by what absent columns mean.
pub fn meaning(absent: AbsentColumn, encoding: Encoding) -> Encoding {
    match absent {
        AbsentColumn::Null => encoding.with_absent_null(),
        AbsentColumn::Reject => encoding,
    }
}

/// The published models that a state keeps, by which requests with `as_of` are answered; `exact`: where the newest that is served is one of them.
pub fn past(args: &OnlineArgs, exact: bool) -> Option<Arc<Past>> {
    let folder = args.stream.state.clone()?;
    Some(Past::new(Box::new(Folder { folder, exact, absent: args.stream.absent })))
}

struct Folder {
    folder: PathBuf,
    exact: bool,
    absent: AbsentColumn,
}

impl Keeper for Folder {
    fn point(&self, changes: u64, until: u64, newest: Option<u64>) -> Result<u64, Missing> {
        kept::point(&self.folder, until, newest).map_err(|absent| Missing::NotKept(absent.reason(changes)))
    }

    fn load(&self, point: u64) -> Result<Serving, Missing> {
        let model = kept::of_point(&self.folder, point).map_err(|absent| match absent {
            // One that was too old has just gone.
            Absent::Gone => Missing::Gone,
            other => Missing::Unusable(other.reason(point)),
        })?;
        serving_of(model, point, self.absent).map_err(|failure| Missing::Unusable(failure.to_string()))
    }

    fn publishes(&self) -> bool {
        self.exact
    }
}

/// A published model, packed.
fn serving_of(model: Model, changes: u64, absent: AbsentColumn) -> Result<Serving, Failure> {
    let (rows, sum_weights) = (model.config.rows, model.config.sum_weights);
    let (encoder, function) = into_function(model, None)?;
    let published = Published { function, rows, sum_weights, deviations: Vec::new(), notes: Vec::new() };
    let encoding = meaning(absent, Encoding::new(encoder, false)?);
    Ok(Serving::new(&encoding, published, changes)?)
}

/// The model that an exact run has published last, where there is one: a restart serves it while it reads its rows again. Other learners have a model as soon as they are open.
pub fn last_published(args: &OnlineArgs) -> Option<Serving> {
    let packed = kept::newest(args.stream.state.as_ref()?).and_then(|found| {
        let Some((changes, model)) = found.filter(|(_, model)| model.config.exact.is_some()) else { return Ok(None) };
        let rows = model.config.rows;
        serving_of(model, changes.unwrap_or(rows), args.stream.absent).map(Some)
    });
    packed.unwrap_or_else(|failure| {
        tracing::warn!("the last published model cannot be served before the next one: {failure}");
        None
    })
}
