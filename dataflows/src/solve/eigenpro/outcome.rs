//! What came of a walk, and why it ended, in words.

use super::judges::Judges;
use super::{EigenProJob, RESIDUAL_EVERY, SETTLED_SHARE, Setup};
use crate::plan::{EIGENPRO_PASSES, plural};
use crate::solve::Solved;
use nystream_kernels::solve::Stopped;
use nystream_kernels::solve::eigenpro::EigenProInfo;
use nystream_kernels::tile::Entry;
use std::sync::Arc;

/// The solution of a walk with its note.
pub(super) fn solved<T: Entry>(
    job: &EigenProJob<'_, T>,
    setup: &Setup<T>,
    judges: &Judges,
    coefficients: Arc<Vec<f64>>,
    info: &EigenProInfo,
    cuts: usize,
    out_of_time: bool,
) -> Solved {
    let what = match (job.ridge > 0.0, judges.held_out) {
        (true, _) => "ridge objective on sample rows",
        (false, true) => "error on held-out rows",
        (false, false) => "error on training rows (no rows are held out to stop by)",
    };
    // Every test of the residual is a pass.
    let tests = if job.tolerance.is_some() { info.epochs as u64 / RESIDUAL_EVERY as u64 } else { 0 };
    // Early epochs tell most, and all of 400 would be no note.
    let told = |epoch: usize| epoch.is_power_of_two() || epoch == info.held_out.len();
    let losses = (1..).zip(&info.held_out).filter(|(epoch, _)| told(*epoch));
    let losses: Vec<String> = losses.map(|(epoch, loss)| format!("{loss:.5} after {epoch}")).collect();
    Solved {
        coefficients: Arc::unwrap_or_clone(coefficients),
        ridges: vec![job.ridge; job.code.width()],
        residuals: info.residuals.clone(),
        effective_dimension: None,
        trace_error: None,
        variance: None,
        rounding: 0.0,
        iterations: Some(info.epochs),
        // The objective has settled: that is the end that was asked for.
        stopped: match info.stopped {
            Stopped::Stagnated => Stopped::Converged,
            other => other,
        },
        passes: EIGENPRO_PASSES as u64 + info.epochs as u64 + tests,
        products: None,
        notes: vec![format!(
            "eigenpro: {}, residual {:.1e}; {} in batches of {} rows with step {:.3e} (stability {:.2} < 2), {} directions of {} \
             rows, {} projection every {} batches{}; {what}: {}",
            ending(job, info, out_of_time),
            info.residuals.iter().copied().fold(0.0, f64::max),
            plural(info.epochs as u64, "epoch"),
            info.batch,
            info.step,
            info.stability,
            setup.preconditioner.rank(),
            setup.preconditioner.sample(),
            if job.exact { "exact" } else { "inexact" },
            info.projection_every,
            [(cuts, "at the start, since larger ones diverged"), (info.cuts, "where the objective had settled at it")]
                .into_iter()
                .filter(|(times, _)| *times > 0)
                .map(|(times, why)| format!("; the step was cut {} {why}", plural(times as u64, "time")))
                .collect::<String>(),
            losses.join(", ")
        )],
    }
}

/// What ended the walk, in words.
fn ending<T: Entry>(job: &EigenProJob<'_, T>, info: &EigenProInfo, out_of_time: bool) -> String {
    if out_of_time {
        return "out of time".into();
    }
    match (info.stopped, job.tolerance) {
        (Stopped::Converged, Some(tolerance)) => format!("converged to the tolerance {tolerance:e}"),
        (Stopped::Stagnated, _) if job.ridge > 0.0 => {
            format!(
                "settled: the second half of the epochs brought less than {} % of the objective",
                100.0 * SETTLED_SHARE
            )
        }
        (Stopped::Stagnated, _) => "settled: the error had not fallen for three epochs".into(),
        (_, tolerance) => {
            let best = |losses: &[f64]| losses.iter().copied().fold(f64::INFINITY, f64::min);
            let (half, least) = (best(&info.held_out[..info.held_out.len() / 2]), best(&info.held_out));
            let missed = tolerance.map(|t| format!("the tolerance {t:e} was not reached and ")).unwrap_or_default();
            let fall = if half <= (1.0 + SETTLED_SHARE) * least {
                "had settled: steps of one length leave such a residual, however many. --solver gram or pcg leaves none"
                    .into()
            } else {
                let by = 100.0 * (half / least - 1.0);
                let by = if by.is_finite() {
                    format!(", by {by:.1} % of it in the second half of the epochs")
                } else {
                    String::new()
                };
                format!(
                    "was still falling{by}. --solver gram or pcg solves such a problem directly, more --iterations may"
                )
            };
            format!("not converged at the last epoch: {missed}the objective {fall}")
        }
    }
}
