//! The plan of a selection: which method chooses the centers, and from how many rows.
//!
//! Selecting may take [`SELECT_SHARE`] of the solve's flops: `auto` takes SQUEAK over all rows where that buys it, otherwise randomly pivoted Cholesky
//! on the largest pool it does buy, of 4 m to 50 m rows.

use super::fit::{PlanRequest, SELECT_SHARE};
use crate::dictionary::pool::{pool_bits, pool_rows};
use crate::dictionary::{Method, SelectionRule};
use crate::error::StageError;
use crate::job::Select;
use crate::tune::trial_flops;
use serde::{Deserialize, Serialize};

/// Most pool rows, in units of m.
const POOL_MOST: f64 = 50.0;
/// Rounds that full-pass pivoting is expected to take.
pub(super) const FULL_ROUNDS: f64 = 18.0;
/// Fewest pool rows, in units of m.
const POOL_LEAST: f64 = 4.0;

/// What was decided about selection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// SQUEAK over about so many rows, with dictionaries of about M atoms.
    Squeak {
        /// Rows scored (expected).
        rows: u64,
        /// Atoms M.
        atoms: u64,
    },
    /// Randomly pivoted Cholesky on a pool of about so many rows.
    RpCholesky {
        /// Rows of the pool; fewer only if its hashes leave fewer.
        rows: u64,
        /// Whether every round scans all rows instead of a pool.
        full: bool,
    },
    /// Uniform by hash.
    Uniform,
    /// Given centers.
    File,
}

impl Selection {
    /// The name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Selection::Squeak { .. } => "squeak",
            Selection::RpCholesky { .. } => "rpcholesky",
            Selection::Uniform => "uniform",
            Selection::File => "file",
        }
    }
}

impl PlanRequest {
    /// The selection that takes least memory among those that may be chosen for `m` centers.
    pub(super) fn least(&self, m: usize) -> Selection {
        let (n, given) = (self.shape.rows as u64, self.dictionary_rows);
        let pool = |rows: u64| pool_rows(n, pool_bits(n, rows.min(n)));
        match &self.select {
            Select::File(_) | Select::Rows(_) => Selection::File,
            Select::Settled(rule) => settled(rule, n),
            Select::Uniform => Selection::Uniform,
            _ if m as u64 >= n => Selection::Uniform,
            Select::Squeak => Selection::Squeak { rows: given.map_or(n, pool), atoms: (4 * m as u64).min(n) },
            Select::RpCholesky if given == Some(u64::MAX) => Selection::RpCholesky { rows: n, full: true },
            Select::RpCholesky | Select::Auto => {
                let rows = given.unwrap_or((POOL_LEAST * m as f64) as u64);
                Selection::RpCholesky { rows: rows.min(n), full: false }
            }
        }
    }

    pub(super) fn selection(
        &self,
        m: usize,
        solve: f64,
        reasons: &mut Vec<String>,
    ) -> Result<(Selection, f64), StageError> {
        let (n, mf) = (self.shape.rows, m as f64);
        let allowance = SELECT_SHARE * solve;
        // SQUEAK scores a power of two fraction of the rows, at least so many as were asked for. Pivots are drawn from as many rows as were
        // asked for or the budget allows, but never fewer than 4 m: the first by hash of such a fraction.
        let whole = n as u64;
        let given = self.dictionary_rows.map(|r| (r as f64).min(n));
        let scored = given.map_or(n, |r| pool_rows(whole, pool_bits(whole, r as u64)) as f64);
        // Once m is given no budget shapes the model: what does not fit is refused. Before, a pool may be smaller.
        let open = self.centers.is_none();
        let within = if open { self.pool_within_memory(m) } else { n };
        let pool = || {
            let allowed = (allowance / self.shape.pivots(mf)).min(POOL_MOST * mf).min(within);
            allowed.max(POOL_LEAST * mf).min(n).floor()
        };
        let trial = trial_flops(self.sample_rows as usize, m, self.shape.entry());
        match &self.select {
            Select::File(_) | Select::Rows(_) => Ok((Selection::File, 0.0)),
            Select::Settled(rule) => {
                reasons.push("centers by the rule of the earlier model".into());
                let selection = settled(rule, whole);
                let flops = match selection {
                    Selection::Squeak { rows, atoms } => self.shape.squeak(rows as f64, atoms as f64),
                    Selection::RpCholesky { rows, full: true } => {
                        FULL_ROUNDS / 3.0 * rows as f64 * self.shape.pivots(mf)
                    }
                    Selection::RpCholesky { rows, full: false } => self.shape.rpcholesky(rows as f64, mf),
                    Selection::Uniform | Selection::File => 0.0,
                };
                Ok((selection, flops))
            }
            Select::Uniform => Ok((Selection::Uniform, 0.0)),
            _ if mf >= n => {
                reasons.push("every row is a center".into());
                Ok((Selection::Uniform, 0.0))
            }
            Select::Squeak => {
                let atoms = (4.0 * mf).min(n);
                let rows = scored;
                let flops = self.shape.squeak(rows, atoms) + trial;
                if flops > self.max_flops {
                    return Err(StageError::Budget(format!(
                        "scoring {rows:.0} rows with dictionaries of {atoms:.0} atoms takes {flops:.2e} flops and --max-flops allows {:.2e}: \
                         give fewer --dictionary-rows or --centers, or --select auto",
                        self.max_flops
                    )));
                }
                Ok((Selection::Squeak { rows: rows as u64, atoms: atoms as u64 }, flops))
            }
            Select::RpCholesky => {
                let full = self.dictionary_rows == Some(u64::MAX);
                let rows = given.unwrap_or_else(pool);
                // A round of the full form makes every row's factor anew over the pivots so far: a third of the work, rounds times.
                let flops = match full {
                    true => FULL_ROUNDS / 3.0 * rows * self.shape.pivots(mf),
                    false => self.shape.rpcholesky(rows, mf) + trial,
                };
                if full && flops > self.max_flops {
                    return Err(StageError::Budget(format!(
                        "picking {m} centers from all {rows:.0} rows by --select rpcholesky:full takes {flops:.2e} flops and --max-flops \
                         allows {:.2e}: give fewer --centers, more --max-flops, or --select rpcholesky (a pool)",
                        self.max_flops
                    )));
                }
                if full {
                    reasons.push(format!(
                        "pivots from all rows: about {FULL_ROUNDS:.0} passes over them instead of a pool"
                    ));
                }
                Ok((Selection::RpCholesky { rows: rows as u64, full }, flops))
            }
            Select::Auto => {
                let rows = scored;
                for quarter in (6..=16).rev() {
                    let atoms = mf * f64::from(quarter) / 4.0;
                    let flops = self.shape.squeak(rows, atoms) + trial;
                    let candidate = Selection::Squeak { rows: rows as u64, atoms: atoms as u64 };
                    if atoms < n && flops <= allowance && (!open || self.selection_fits(&candidate, m)) {
                        reasons.push(format!(
                            "SQUEAK over {rows:.0} rows with {atoms:.0} atoms takes {:.0} % of the flops of the solve",
                            100.0 * flops / solve
                        ));
                        return Ok((candidate, flops));
                    }
                }
                let rows = given.unwrap_or_else(pool);
                let flops = self.shape.rpcholesky(rows, mf) + trial;
                // Of a solve of a blink any selection is many times: that tells nobody anything.
                let share = 100.0 * flops / solve;
                let share =
                    if share < 100.0 { format!(" ({share:.0} % of the flops of the solve)") } else { String::new() };
                reasons.push(format!(
                    "RPCholesky on a pool of {rows:.0} rows{share}: SQUEAK over {scored:.0} would take more than {:.0} % of the flops of the solve{}",
                    100.0 * SELECT_SHARE,
                    if open { ", or more memory than there is" } else { "" }
                ));
                Ok((Selection::RpCholesky { rows: rows as u64, full: false }, flops))
            }
        }
    }
}

/// What a settled rule chooses from `n` rows.
fn settled(rule: &SelectionRule, n: u64) -> Selection {
    let rows = pool_rows(n, rule.pool_bits);
    match rule.method {
        Method::RpCholesky { full: false, most: Some(most), .. } => {
            Selection::RpCholesky { rows: rows.min(most), full: false }
        }
        Method::Squeak { atoms, .. } => Selection::Squeak { rows, atoms },
        Method::RpCholesky { full, .. } => Selection::RpCholesky { rows, full },
        Method::Uniform => Selection::Uniform,
        Method::File => Selection::File,
    }
}
