//! What a fit measures about itself: the certificate of its centers, and its error on rows it has not seen.

use super::{FitInputs, FitOutcome, begin, end};
use crate::certify::{Basis, Certificate, certify};
use crate::dictionary::pool::Pool;
use crate::engine::agree;
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::evaluate::{Evaluation, evaluate};
use crate::job::evaluate::{left_out, nothing_to_measure};
use crate::job::{FitConfig, Solver};
use crate::matvec::grid::Shard;
use crate::plan::certified;
use crate::predict::{Applied, Function};
use nystream_datasets::Role;
use nystream_kernels::tile::Entry;
use std::sync::{Arc, PoisonError};

/// Measures the centers at the matrix ridge of their selection, or at `ridge_matrix` where there was none.
pub(super) fn certificate(
    session: &mut Session<'_>,
    config: &FitConfig,
    sample: &Pool,
    ridge_matrix: f64,
    sampled_pencil: bool,
    outcome: &FitOutcome,
) -> Result<Arc<Certificate>, StageError> {
    let centers = &outcome.centers;
    if matches!(outcome.plan.solver, Solver::BlockCd) {
        // Every row is a center.
        return Ok(Arc::new(Certificate { epsilon: Some(0.0), sampled_trace_error: Some(0.0), pencil: None }));
    }
    if !certified(outcome.plan.solver, centers.ids.len()) {
        return Ok(Arc::new(Certificate::default()));
    }
    let gamma = if centers.gamma > 0.0 { centers.gamma } else { ridge_matrix };
    session.step("certificate", centers.ids.len());
    let found = session.try_once(|| {
        let (view, atoms) = (centers.rows.view(), centers.atoms.as_ref().filter(|_| sampled_pencil));
        let basis = Basis { kernel: &outcome.kernel, simd: config.simd, centers: view };
        certify(basis, &centers.ids, sample, atoms, gamma, outcome.profile.rows)
    });
    session.end();
    found
}

pub(super) fn validation<T: Entry>(
    session: &mut Session<'_>,
    inputs: &FitInputs,
    store: &RowStore,
    function: &Arc<Function>,
    outcome: &mut FitOutcome,
) -> Result<Option<Evaluation>, StageError> {
    let feed = if let Some(catalog) = &inputs.validation {
        let other = RowStore::new(
            catalog,
            Arc::clone(&outcome.encoder),
            session.peers(),
            session.index(),
            Arc::clone(&session.process),
        );
        other.feed(Role::Evaluation)
    } else if matches!(outcome.encoder.split, nystream_datasets::SplitRule::None) {
        return Ok(None);
    } else {
        store.feed(Role::HeldOut)
    };
    outcome.passes += 1;
    let rows = inputs.validation.as_ref().map_or(outcome.profile.held_out, |catalog| catalog.total_rows);
    begin(session, "validation", rows);
    let shard = match outcome.plan.sharded {
        true => Shard::of(function.centers(), session.process.processes(), session.process.index()),
        false => Shard::whole(function.centers()),
    };
    let applied = session.try_once(|| Applied::<T>::shared(function, &shard));
    let applied = agree(session, applied)?;
    let (evaluation, _) = evaluate(session, "validation", feed, function, &applied)?;
    end(session);
    if inputs.validation.is_none() {
        // The profile counts what is bad whatever the encoder; that a held-out row lies too far out shows only when it is encoded.
        left_out(session, &inputs.catalog, u64::MAX)?;
        let (bad, _) = &*session.process.bad_rows.lock().unwrap_or_else(PoisonError::into_inner);
        let far = bad.saturating_sub(outcome.profile.bad);
        if far > 0 {
            outcome.plan.reasons.push(format!(
                "{far} held-out rows lie more than 2^50 scale units from the centre of a column: the error is not measured on them"
            ));
        }
    }
    if let Some(catalog) = &inputs.validation {
        left_out(session, catalog, inputs.config.max_bad_rows)?;
        if evaluation.rows() == 0 {
            return Err(nothing_to_measure(&outcome.encoder));
        }
    }
    // A split of few rows may hold none out.
    Ok(Some(evaluation).filter(|evaluation| evaluation.rows() > 0))
}
