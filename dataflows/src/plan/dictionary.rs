//! How the dictionary stage works within its memory.
//!
//! With the rows in hand at W a process, L workers that score side by side (lanes), M atoms, r bytes a row of features:
//! * trie: about 1.5 r W for the rows, their order and the dictionaries made of them; 40 (5/4 M)^2 bytes a lane, for a Shrink of
//!   twice the atoms beside the frozen factor;
//! * before it, gamma from the sample: four matrices of s x s;
//! * pivots on a pool of N rows: 2 r N (the pool, and its blocks), 8 N m for the factor where it is kept, 24 m^2.
//!
//! Nothing of this shapes a result: windows, lanes and recomputed factors give the same bits. What cannot be done with little memory
//! is refused by [`MemoryPlan::check`].

use super::fit::PlanRequest;
use super::memory::MemoryPlan;
use super::selection::Selection;
use crate::dictionary::pool::{pool_bits, pool_rows};
use crate::dictionary::{LEAF_ROWS, SCORED_SAMPLE};
use crate::job::Select;
use crate::tune::{trial_bytes, tries_law};
use serde::{Deserialize, Serialize};

/// Windows of the trie at most: with memory for fewer rows the job is refused, since reading would take longer than scoring.
const MOST_WINDOWS: u64 = 64;
/// Size of a dictionary that is planned for, in units of the expected one.
const OUTGROWN: f64 = 1.25;
/// The same where the theorem's constants are asked for, which may keep so many times more.
const OUTGROWN_THEOREM: f64 = 8.0;
/// Atoms below which a dictionary is not worth a Shrink: those of the filter.
const FLOOR: f64 = 64.0;
/// Largest dictionary that is ever accepted, in the same units.
const MOST_OUTGROWN: f64 = 16.0;
/// Windows in units of full ones: they end at a unit of the trie, and the first is filled by estimate.
const WINDOW_SLACK: f64 = 1.1;
/// Survivors of a dictionary that centers are picked from, in units of m.
const SURVIVORS: u64 = 4;
/// Rows of a block of pivots.
const PIVOT_ROWS: u64 = nystream_kernels::sampling::rpcholesky::POOL_BLOCK_ROWS as u64;
/// Name of the rows in messages.
const ROWS: &str = "rows the dictionary is chosen from";

/// How the dictionary stage works: see the module.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DictionaryWork {
    /// Rows that a process holds at a time.
    pub rows_held: u64,
    /// Passes over the rows.
    pub passes: u64,
    /// Workers of a process that score and merge side by side.
    pub lanes: usize,
    /// Atoms above which a dictionary is refused.
    pub max_atoms: usize,
    /// Whether the factor of the pivots is kept between rounds; otherwise it is computed again.
    pub keep_factor: bool,
}

impl DictionaryWork {
    /// Everything in hand at once, by all of `workers`, without limits.
    pub fn unbounded(workers: usize) -> Self {
        DictionaryWork {
            rows_held: u64::from(u32::MAX),
            passes: 1,
            lanes: workers,
            max_atoms: usize::MAX,
            keep_factor: true,
        }
    }
}

/// Threads that plans are made for.
#[derive(Clone, Copy)]
pub(super) struct Crew {
    /// Workers of a process.
    pub workers: usize,
    /// Processes.
    pub processes: usize,
}

impl PlanRequest {
    /// Bytes of a row's features, with its id.
    fn feature_bytes(&self) -> u64 {
        (4.0 * self.shape.numeric + 2.0 * self.shape.codes) as u64 + 16
    }

    /// How `selection` of `m` centers works beside what `resident` holds, and the memory of a process at its largest.
    pub(super) fn dictionary(
        &self,
        selection: &Selection,
        m: usize,
        resident: &MemoryPlan,
        crew: Crew,
    ) -> (DictionaryWork, MemoryPlan) {
        let mut work = DictionaryWork::unbounded(crew.workers);
        let mut plan = resident.clone();
        let m = m as u64;
        match *selection {
            Selection::File => {
                work.passes = 0;
                plan.add("given centers", m * self.feature_bytes());
            }
            Selection::Uniform => {
                // A key of 32 bytes, twice over for the tree it stands in, tells equal rows apart.
                let rows = pool_rows(self.shape.rows as u64, pool_bits(self.shape.rows as u64, 2 * m));
                plan.add(ROWS, rows * (self.feature_bytes() + 8 + 72));
            }
            Selection::RpCholesky { full: true, .. } => {
                work.passes = super::selection::FULL_ROUNDS as u64 + 1;
                let pieces = crew.workers as u64 * PIVOT_ROWS * (16 * m + 2 * self.feature_bytes());
                plan.add(format!("{m} pivots and their factor"), 32 * m * m + pieces);
            }
            Selection::RpCholesky { rows, .. } => {
                // What is gathered before it is cut to `rows`: at most twice as many, or by the rule of an earlier model whatever it leaves.
                let n = self.shape.rows as u64;
                let bits = match &self.select {
                    Select::Settled(rule) => rule.pool_bits,
                    _ => pool_bits(n, rows),
                };
                (work.keep_factor, plan) = self.pivots(pool_rows(n, bits).max(rows), rows, m, resident);
            }
            Selection::Squeak { rows, atoms } => {
                let trie = self.trie(rows, atoms, resident, crew, &mut work);
                let survivors = (SURVIVORS * m).min(rows);
                let (kept, pivots) = self.pivots(survivors, survivors, m, resident);
                work.keep_factor = kept;
                let mut gamma = resident.clone();
                let sample = (SCORED_SAMPLE as u64).min(self.sample_rows).min(rows);
                gamma.add("leverage scores of the sample", 32 * sample * sample);
                plan = [pivots, gamma].into_iter().fold(trie, MemoryPlan::larger);
            }
        }
        if tries_law(&self.select, *selection) {
            let (sample, targets) = (self.sample_rows as usize, self.shape.targets as usize);
            let mut trial = resident.clone();
            trial.add("trial of the law of pivots", trial_bytes(sample, m as usize, targets));
            plan = plan.larger(trial);
        }
        (work, plan)
    }

    /// Pivots on a pool of `rows` of the `gathered` rows: whether their factor is kept, and the memory.
    fn pivots(&self, gathered: u64, rows: u64, m: u64, resident: &MemoryPlan) -> (bool, MemoryPlan) {
        let mut plan = resident.clone();
        plan.add(ROWS, 2 * gathered * (self.feature_bytes() + 24));
        plan.add(format!("{m} pivots and their factor"), 24 * m * m + PIVOT_ROWS * 8 * m);
        let factor = 8 * rows * m;
        let keep = plan.total().saturating_add(factor) <= self.memory;
        if keep {
            plan.add("residuals of the pool", factor);
        }
        (keep, plan)
    }

    /// The trie over `rows` with dictionaries of `atoms`: fills in `work`.
    fn trie(&self, rows: u64, atoms: u64, resident: &MemoryPlan, crew: Crew, work: &mut DictionaryWork) -> MemoryPlan {
        let row = self.feature_bytes();
        let processes = crew.processes as u64;
        let leaf = LEAF_ROWS as u64 * atoms;
        // The rows, where they were sorted from, their order; a leaf of eight rows an atom leaves an atom, twice on its way.
        let held = row + row / 4 + 16 + (row + 28).div_ceil(4);
        // A dictionary is shrunk when it has doubled, beside its frozen factor; a merge holds as much.
        let lane = |size: f64| {
            let order = (2.0 * size).min(rows as f64);
            (8.0 * (order * order + size * size)) as u64 + 6 * size as u64 * (row + 28) + 2 * leaf.min(rows) * row
        };
        let outgrown = if self.theorem { OUTGROWN_THEOREM } else { OUTGROWN };
        // Sizes vary by less than their square root, and no dictionary is shrunk below the filter's floor.
        let expected = (outgrown * atoms as f64 + 4.0 * (atoms as f64).sqrt() + FLOOR).min(rows as f64);
        let free = self.memory.saturating_sub(resident.total());

        let lanes = (free / 2 / lane(expected).max(1)).clamp(1, crew.workers as u64);
        let each = rows.div_ceil(processes).max(1);
        // Pools vary by the square root of their size.
        let all = each + 6 * (each as f64).sqrt() as u64;
        let least = (2 * leaf).max(rows.div_ceil(MOST_WINDOWS * processes)).min(all);
        let room = free.saturating_sub(lanes * lane(expected)) / held;
        work.rows_held = room.clamp(least, all.max(least)).min(u64::from(u32::MAX));
        work.passes = match work.rows_held.saturating_mul(processes) {
            hand if hand >= rows => 1,
            hand => (WINDOW_SLACK * rows as f64 / hand as f64).ceil() as u64,
        };
        work.lanes = lanes as usize;

        let mut plan = resident.clone();
        plan.add(ROWS, work.rows_held * held);
        plan.add(format!("dictionaries of {atoms} atoms"), lanes * lane(expected));
        // What is left over may be taken by dictionaries that turn out larger.
        let spare = self.memory.saturating_sub(plan.total()) / lanes;
        let grown = (expected * expected + spare as f64 / 48.0).sqrt();
        work.max_atoms = grown.min(MOST_OUTGROWN * atoms as f64).max(expected) as usize;
        plan
    }

    /// Whether `selection` fits nine tenths of the memory of one worker in one process: asked before m is given, never after.
    pub(super) fn selection_fits(&self, selection: &Selection, m: usize) -> bool {
        let (resident, crew) = (self.resident(1), Crew { workers: 1, processes: 1 });
        self.dictionary(selection, m, &resident, crew).1.total() <= self.memory / 10 * 9
    }

    /// Most rows of a pool that fit nine tenths of the memory with `m` pivots, by the same rule.
    pub(super) fn pool_within_memory(&self, m: usize) -> f64 {
        let m = m as u64;
        let taken = self.resident(1).total() + 24 * m * m;
        ((self.memory / 10 * 9).saturating_sub(taken) / (4 * (self.feature_bytes() + 24))) as f64
    }
}
