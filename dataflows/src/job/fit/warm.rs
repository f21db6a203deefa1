//! Where a solve starts: from zero, or from the coefficients of an earlier model (`--from`).
//!
//! A start changes how long an iterative solver takes, never what it converges to, so one that does not fit is left out with a note instead of
//! ending the fit.

use super::FitOutcome;
use crate::job::{FitConfig, Solver};
use crate::targets::TargetCode;
use nystream_kernels::rows::RowBuf;
use std::collections::BTreeMap;

/// Coefficients to start from (m x t row-major, scaled units), and what to say about them.
#[derive(Default)]
pub(super) struct WarmCoefficients {
    pub coefficients: Option<Vec<f64>>,
    pub note: Option<String>,
}

/// The coefficients of the earlier model for the centers that it shares with the new one, by their features; others start at zero.
pub(super) fn warm_start(config: &FitConfig, code: &TargetCode, outcome: &FitOutcome) -> WarmCoefficients {
    let Some(warm) = &config.warm_start else { return WarmCoefficients::default() };
    let without = |why: &str| WarmCoefficients { coefficients: None, note: Some(format!("--from is not used: {why}")) };
    if outcome.plan.solver == Solver::Gram {
        return without("the gram solver needs no start");
    }
    let encoder = &outcome.encoder;
    if (&warm.encoder.numeric, &warm.encoder.categorical) != (&encoder.numeric, &encoder.categorical) {
        return without(
            "its encoder differs from this one, so its centers mean other rows (--config-from keeps an encoder)",
        );
    }
    if warm.kernel != outcome.kernel {
        return without("its kernel, bandwidth or metric differs from this one");
    }
    if (&warm.code.names, &warm.code.classes) != (&code.names, &code.classes) {
        return without("its targets or classes differ from these");
    }
    let t = code.width();
    // alpha 2^e is in target units.
    let scale: Vec<f64> = (0..t).map(|k| 2f64.powi(warm.code.exponents[k] - code.exponents[k])).collect();
    let features = |rows: &RowBuf, i: usize| {
        let view = rows.view();
        (view.numeric(i).iter().map(|v| v.to_bits()).collect::<Vec<_>>(), view.codes(i).to_vec())
    };
    let known: BTreeMap<_, usize> = (0..warm.centers.len()).map(|i| (features(&warm.centers, i), i)).collect();
    let centers = &outcome.centers.rows;
    let m = centers.len();
    let mut coefficients = vec![0.0; m * t];
    let mut found = 0;
    for i in 0..m {
        if let Some(from) = known.get(&features(centers, i)) {
            found += 1;
            for k in 0..t {
                coefficients[i * t + k] = warm.coefficients[from * t + k] * scale[k];
            }
        }
    }
    let note = Some(format!(
        "--from: {found} of {m} centers are among its {} and start from their coefficients",
        warm.centers.len()
    ));
    WarmCoefficients { coefficients: (found > 0).then_some(coefficients), note }
}
