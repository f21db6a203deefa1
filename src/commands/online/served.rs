//! What `--listen` answers by before the run is open: the model that was published last.

use super::kept;
use crate::cli::OnlineArgs;
use crate::cli::values::online::Absent;
use crate::commands::Context;
use crate::exit::{self, Failure};
use crate::fitted::function_of;
use crate::metrics::online::Run;
use crate::serve;
use nystream_dataflows::StageError;
use nystream_dataflows::online::encoding::Encoding;
use nystream_dataflows::online::learner::Published;
use nystream_dataflows::online::serving::{Newest, Serving};

/// Answers by `newest`, and with the figures of `run`, from now on, where it is asked for.
///
/// # Errors
/// An address or a token that cannot be used.
pub fn listen(args: &OnlineArgs, context: &Context, newest: &Newest, run: &Run) -> Result<(), Failure> {
    let Some(address) = &args.stream.listen else { return Ok(()) };
    let token = args.stream.token_file.as_deref().map(serve::token).transpose()?;
    let own = serve::serve(&address.0, token, newest, run)?;
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
pub fn meaning(args: &OnlineArgs, encoding: Encoding) -> Encoding {
    match args.stream.absent {
        Absent::Null => encoding.with_absent_null(),
        Absent::Reject => encoding,
    }
}

/// The model that an exact run has published last, where there is one: a restart serves it while it reads its rows again. Other learners have a model as soon as they are open.
pub fn last_published(args: &OnlineArgs) -> Option<Serving> {
    let packed = kept::newest(args.stream.state.as_ref()?).and_then(|found| {
        let Some((changes, model)) = found.filter(|(_, model)| model.config.exact.is_some()) else { return Ok(None) };
        let (encoder, function) = function_of(&model, None)?;
        let (rows, sum_weights) = (model.config.rows, model.config.sum_weights);
        let published = Published { function, rows, sum_weights, deviations: Vec::new(), notes: Vec::new() };
        let packed = Encoding::new(encoder, false)
            .and_then(|encoding| Serving::new(&meaning(args, encoding), published, changes.unwrap_or(rows)));
        packed.map(Some).map_err(|error: StageError| error.into())
    });
    packed.unwrap_or_else(|failure| {
        tracing::warn!("the last published model cannot be served before the next one: {failure}");
        None
    })
}
