//! What can be refused from the footers alone, before the first pass.
//!
//! With the number of centers given, the memory of a solver is known up to the widths of the encoded rows, and its flops up
//! to the rows that lack a target: both are taken at their least here. What passes may still be refused by the plan, which knows both.

use super::cost::Shape;
use super::fit::{PlanRequest, check_flops};
use crate::error::StageError;
use crate::job::{FitConfig, Loss, Solver};
use nystream_datasets::Catalog;

/// Share of the rows that may turn out to have no target before a refusal for flops would have been wrong.
const ROWS_LEFT: f64 = 0.5;

/// Refuses a fit that cannot fit `--memory` or `--max-flops` whatever its rows hold.
///
/// # Errors
/// [`StageError::Budget`] with the arithmetic of the cheapest solver that may be used.
pub fn preflight(catalog: &Catalog, config: &FitConfig, workers: usize, processes: usize) -> Result<(), StageError> {
    let Some(centers) = config.centers else { return Ok(()) };
    let rows = catalog.total_rows;
    let m = (centers as u64).min(rows).max(1) as usize;
    let solvers: &[Solver] = match config.solver {
        // Every row is a center there, and how many have a target is not known yet.
        Solver::BlockCd => return Ok(()),
        Solver::Auto if config.loss == Loss::Logistic => &[Solver::Pcg],
        Solver::Auto => &[Solver::Gram, Solver::Pcg, Solver::EigenPro],
        Solver::Gram => &[Solver::Gram],
        Solver::Pcg => &[Solver::Pcg],
        Solver::EigenPro => &[Solver::EigenPro],
    };
    let request = PlanRequest {
        shape: Shape {
            rows: rows as f64 * ROWS_LEFT,
            numeric: 0.0,
            codes: 0.0,
            targets: config.encoder.targets.len().max(1) as f64,
        },
        centers: Some(m),
        solver: config.solver,
        select: config.select.clone(),
        dictionary_rows: config.dictionary_rows,
        precision: config.precision,
        effective_dimension: 0.0,
        max_flops: config.max_flops,
        memory: config.memory,
        workers,
        processes,
        iterations: config.iterations,
        one_gram: true,
        nulls_differ: false,
        no_gram_reason: String::new(),
        logistic: config.loss == Loss::Logistic,
        variance: config.variance,
        sample_rows: 0,
        bytes_per_pass: 0,
        kept_bytes: 0,
        theorem: false,
        classes: 0,
        held_out: 0,
    };
    let plans = solvers.iter().map(|solver| request.memory(*solver, m, workers));
    if let Some(least) = plans.min_by_key(|plan| plan.total()) {
        least.check(config.memory)?;
    }
    let costs = solvers.iter().map(|solver| (request.cost(*solver, m).flops, *solver));
    match costs.min_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((flops, solver)) => check_flops(flops, config.max_flops, m, solver),
        None => Ok(()),
    }
}
