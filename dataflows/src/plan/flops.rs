//! The flops of a fit, stage by stage, against `--max-flops`.
//!
//! The cap is on everything that is counted: tuning (done when the plan is made), the effective dimension, choosing the centers, the solve and what is measured
//! after it. Where the centers are given, a plan beyond the cap is refused; where they are left open, they are as many as what tuning left pays for.

use super::fit::PlanRequest;
use crate::certify::{HELD_OUT_ROWS, TRACE_ROWS};
use crate::error::StageError;
use crate::job::Solver;
use crate::job::fit::DIMENSION_ROWS;
use crate::solve::eigenpro::EXACT_PROJECTION_CENTERS;

/// Whether a fit by `solver` with `m` centers measures its centers: not where every row is one, and not where K_mm is too large for a factor.
pub(crate) fn certified(solver: Solver, m: usize) -> bool {
    match solver {
        Solver::BlockCd => false,
        Solver::EigenPro => m <= EXACT_PROJECTION_CENTERS,
        _ => true,
    }
}

/// Centers per effective dimension where their number is left open.
const CENTERS_PER_DIMENSION: f64 = 4.0;
/// Fewer centers than this are no model that anybody asked for: the cap is refused instead.
const FEWEST_CENTERS: f64 = 16.0;

impl PlanRequest {
    /// Flops of every stage of a fit by `solver` with m centers, of which choosing them takes `selecting`.
    pub(super) fn flops(&self, solver: Solver, m: usize, selecting: f64) -> Vec<(String, f64)> {
        let mut flops = vec![("tuning".to_owned(), self.tuning)];
        if self.centers.is_none() {
            flops.push(("effective dimension".to_owned(), self.dimension_flops()));
        }
        flops.push(("dictionary".to_owned(), selecting));
        if !self.dictionary_only {
            flops.push(("solve".to_owned(), self.cost(solver, m).flops));
            flops.push(("ridge".to_owned(), self.judging(solver, m as f64, self.judges)));
        }
        flops.push(("certificate".to_owned(), self.certifying(solver, m as f64)));
        if !self.dictionary_only {
            flops.push(("validation".to_owned(), self.shape.evaluation(self.held_out as f64, m as f64)));
        }
        flops
    }

    /// Those flops with a walk of eigenpro to its last epoch: how soon it settles is not known before, and no cap ends it, since a budget changes no model.
    pub(super) fn at_most(&self, solver: Solver, flops: &[(String, f64)], m: usize) -> Vec<(String, f64)> {
        let mut flops = flops.to_vec();
        if let Some((epochs, most)) = self.last_epoch(solver, m)
            && let Some(solve) = flops.iter_mut().find(|(stage, _)| stage == "solve")
        {
            *solve = (format!("solve with up to {epochs} epochs (--iterations bounds them)"), most);
        }
        flops
    }

    /// Refuses stages that together take more than `--max-flops`, naming the largest.
    pub(super) fn check_flops(&self, flops: &[(String, f64)], m: usize) -> Result<(), StageError> {
        let total: f64 = flops.iter().map(|(_, f)| f).sum();
        if total <= self.max_flops {
            return Ok(());
        }
        let mut largest: Vec<_> = flops.iter().filter(|(_, f)| *f > 0.0).collect();
        largest.sort_by(|a, b| b.1.total_cmp(&a.1));
        let named: Vec<String> = largest.iter().take(3).map(|(stage, f)| format!("{stage} {f:.2e}")).collect();
        Err(StageError::Budget(format!(
            "{m} centers take about {total:.2e} flops and --max-flops allows {:.2e}; largest: {}. Use fewer --centers, another --solver or --select, \
             or raise --max-flops",
            self.max_flops,
            named.join(", ")
        )))
    }

    /// Flops of the estimate of the effective dimension: entries among the sampled rows, a factor of their matrix and its inverse.
    pub(crate) fn dimension_flops(&self) -> f64 {
        let s = (self.sample_rows as f64).min(DIMENSION_ROWS as f64);
        s * s * self.shape.entry() / 2.0 + s.powi(3)
    }

    /// Flops of choosing the ridge by leave-one-out errors.
    fn judging(&self, solver: Solver, m: f64, judges: u64) -> f64 {
        if solver == Solver::Gram { self.shape.leave_one_out(judges as f64, m) } else { 0.0 }
    }

    /// Flops of the certificate, where one is made.
    fn certifying(&self, solver: Solver, m: f64) -> f64 {
        if !certified(solver, m as usize) {
            return 0.0;
        }
        let rows = (TRACE_ROWS as f64).min(self.sample_rows as f64);
        self.shape.certificate(m, rows, (HELD_OUT_ROWS as f64).min(rows))
    }

    /// As many centers as the effective dimension asks for and the budgets hold.
    ///
    /// # Errors
    /// [`StageError::Budget`] when `--max-flops` is less than what a fit of a few centers takes.
    pub(super) fn auto_centers(&self, reasons: &mut Vec<String>) -> Result<usize, StageError> {
        let rows = self.shape.rows.max(1.0);
        let wanted = (CENTERS_PER_DIMENSION * self.effective_dimension).ceil().max(FEWEST_CENTERS);
        let largest = |fits: &dyn Fn(usize) -> bool| {
            let (mut low, mut high) = (1.0f64, rows);
            if fits(high as usize) {
                return high;
            }
            while high - low > 1.0 {
                let middle = ((low + high) / 2.0).floor();
                if fits(middle as usize) { low = middle } else { high = middle }
            }
            low
        };
        let solver = match self.solver {
            Solver::Auto if self.one_gram => Solver::Gram,
            Solver::Auto => Solver::Pcg,
            given => given,
        };
        let stages = |m: usize| {
            let solve = self.cost(solver, m).flops;
            let selecting = self.selection(m, solve, &mut Vec::new()).map_or(f64::INFINITY, |(_, flops)| flops);
            let mut flops = self.at_most(solver, &self.flops(solver, m, selecting), m);
            flops[0].1 = self.tuning.max(self.tuning_reserve);
            let spared = self.judges_reserve.saturating_sub(self.judges);
            flops.push(("ridge".to_owned(), self.judging(solver, m as f64, spared)));
            flops
        };
        let by_flops = largest(&|m| self.check_flops(&stages(m), m).is_ok());
        let by_memory =
            largest(&|m| self.alone(solver, m) <= self.memory / 10 * 9 && self.selection_fits(&self.least(m), m));
        if by_flops < FEWEST_CENTERS.min(rows) {
            let least = FEWEST_CENTERS.min(rows) as usize;
            self.check_flops(&stages(least), least)?;
        }
        let m = wanted.min(by_flops).min(by_memory).min(rows).max(1.0) as usize;
        reasons.push(format!(
            "{m} centers: 4 x effective dimension gives {wanted:.0}, the flop cap {by_flops:.0}, memory {by_memory:.0}, and there are {rows:.0} rows",
        ));
        Ok(m)
    }
}
