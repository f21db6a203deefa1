//! Where a solve starts: from zero, or from the coefficients of an earlier model (`--from`).
//!
//! The start is the earlier function as far as the new centers can say it: the same coefficients where they hold all of the earlier centers, else its
//! orthogonal projection on their span, K_mm^-1 f(Z). Coefficients of some of the centers alone would be no start: they cancel against
//! those of the others (18 of 90 shared centers gave an error of 160 standard deviations).
//!
//! A start changes how long an iterative solver takes, never what it converges to, so one that does not fit is left out with a note instead of
//! ending the fit.

use super::FitOutcome;
use crate::dictionary::pool::feature_key;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::job::{FitConfig, Solver, WarmStart};
use crate::nystrom::{Basis, from_row_major, row_major};
use crate::solve::eigenpro::EXACT_PROJECTION_CENTERS;
use crate::targets::TargetCode;
use faer::Mat;
use nystream_kernels::dense::{fixed_parallelism, gemm};
use nystream_kernels::solve::Whitening;
use nystream_kernels::tile::{SimdPath, kernel_matrix};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Coefficients to start from (m x t row-major, scaled units), and what to say about them.
#[derive(Default)]
pub(super) struct WarmCoefficients {
    pub coefficients: Option<Vec<f64>>,
    pub note: Option<String>,
}

/// Old centers whose kernel block is formed at once.
const PROJECTED: usize = 1024;

/// The earlier function on the new centers.
///
/// # Errors
/// A factorisation that fails.
pub(super) fn warm_start(
    session: &mut Session<'_>,
    config: &FitConfig,
    code: &TargetCode,
    outcome: &FitOutcome,
) -> Result<Arc<WarmCoefficients>, StageError> {
    session.try_once(|| match &config.warm_start {
        None => Ok(WarmCoefficients::default()),
        Some(warm) => match misfit(warm, code, outcome) {
            Some(why) => Ok(left_out(why)),
            None => start(warm, config.simd, code, outcome),
        },
    })
}

fn left_out(why: &str) -> WarmCoefficients {
    WarmCoefficients { coefficients: None, note: Some(format!("--from is not used: {why}")) }
}

/// Why the earlier model is no start for this one.
fn misfit(warm: &WarmStart, code: &TargetCode, outcome: &FitOutcome) -> Option<&'static str> {
    let encoder = &outcome.encoder;
    if outcome.plan.solver == Solver::Gram {
        return Some("the gram solver needs no start");
    }
    if (&warm.encoder.numeric, &warm.encoder.categorical) != (&encoder.numeric, &encoder.categorical) {
        return Some("its encoder differs, so its centers mean other rows (--config-from keeps an encoder)");
    }
    if warm.kernel != outcome.kernel {
        return Some("its kernel, bandwidth or metric differs from this one");
    }
    if (&warm.code.names, &warm.code.classes) != (&code.names, &code.classes) {
        return Some("its targets or classes differ from these");
    }
    None
}

fn start(
    warm: &WarmStart,
    simd: SimdPath,
    code: &TargetCode,
    outcome: &FitOutcome,
) -> Result<WarmCoefficients, StageError> {
    let (t, centers) = (code.width(), &outcome.centers.rows);
    let (m, old) = (centers.len(), warm.centers.len());
    // alpha 2^e is in target units.
    let scale: Vec<f64> = (0..t).map(|k| 2f64.powi(warm.code.exponents[k] - code.exponents[k])).collect();
    let alpha = Mat::from_fn(old, t, |i, k| warm.coefficients[i * t + k] * scale[k]);
    let new: BTreeMap<[u8; 32], usize> = (0..m).map(|i| (feature_key(centers.view(), i), i)).collect();
    let places: Vec<Option<usize>> = (0..old).map(|i| new.get(&feature_key(warm.centers.view(), i)).copied()).collect();
    let shared = places.iter().flatten().count();
    let note = format!("--from: {shared} of its {old} centers are among these {m}");
    if shared == old {
        let mut coefficients = vec![0.0; m * t];
        for (i, place) in places.iter().flatten().enumerate() {
            (0..t).for_each(|k| coefficients[place * t + k] += alpha[(i, k)]);
        }
        return Ok(WarmCoefficients { coefficients: Some(coefficients), note: Some(note) });
    }
    if m > EXACT_PROJECTION_CENTERS || outcome.plan.solver == Solver::BlockCd {
        let note = format!("{note}, which are too many to project its function on: it is not used");
        return Ok(WarmCoefficients { coefficients: None, note: Some(note) });
    }
    let basis = Basis::new(&outcome.kernel, centers.view(), simd)?;
    let mut values = Mat::<f64>::zeros(m, t);
    for begin in (0..old).step_by(PROJECTED) {
        let end = (begin + PROJECTED).min(old);
        let block = warm.centers.view().slice(begin, end);
        let k = kernel_matrix::<f64>(&outcome.kernel, centers.view(), block, &[], simd)
            .map_err(|e| StageError::Numeric(e.to_string()))?;
        let k = from_row_major(&k, m, end - begin);
        gemm(values.as_mut(), true, 1.0, k.as_ref(), alpha.as_ref().subrows(begin, end - begin), fixed_parallelism());
    }
    let projected = basis.apply(basis.apply_transpose(values.as_ref()).as_ref());
    let note = Some(format!("{note}; its function is projected on them"));
    Ok(WarmCoefficients { coefficients: Some(row_major(projected.as_ref())), note })
}
