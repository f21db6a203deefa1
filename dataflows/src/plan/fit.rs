//! The plan of one fit: solver, selection and their costs.

use super::chosen::ChosenRows;
use super::cost::{Preconditioning, Shape, SolverCost, preconditioner_rows};
use super::decoding::Decoding;
use super::dictionary::{Crew, DictionaryWork};
use super::memory::MemoryPlan;
use super::selection::Selection;
use crate::error::StageError;
use crate::job::{Select, Sharding, Solver};
use crate::matvec::grid::Shard;
use crate::solve::blockcd;
use crate::solve::eigenpro;
use nystream_kernels::constants::SPARSE_GAIN;
use nystream_kernels::gram::Precision;
use serde::{Deserialize, Serialize};

/// Seconds per flop of a kernel entry, and of a product of an exact Gram or a factorisation: one core of the reference machine
/// (BENCHMARKS.md). Only their ratio decides anything, and it is a constant (law 1).
const ENTRY_SECONDS: f64 = 1.0 / 3.5e10;
const PRODUCT_SECONDS: f64 = 1.0 / 4.0e10;
/// Seconds to read, decode and encode one value, on one core of the reference machine.
const DECODE_SECONDS: f64 = 8e-9;
/// Iterations that `auto` expects of conjugate gradients, and where the centers alone make the preconditioner.
pub const EXPECTED_ITERATIONS: f64 = 25.0;
const EXPECTED_OF_CENTERS: f64 = 50.0;
/// Epochs that are expected of eigenpro, and rows that all of them together pass at least: few rows walk longer. (Ridge 1e-6, gaussian at the median distance:
/// 283 epochs of 1,000 rows, 32 and 84 of 4,000, 11 and 29 of 12,000, 23 on kin40k, 79 on protein, 11 on beijing_air.)
const EXPECTED_EPOCHS: f64 = 16.0;
const EXPECTED_WALK: f64 = 300_000.0;
const MOST_EPOCHS: f64 = 400.0;
/// Epochs that are expected of blockcd.
const EXPECTED_BLOCK_EPOCHS: f64 = 40.0;
/// Newton steps that are expected of logistic loss; its passes grow with the square of the ridge's decades (40,000 rows of two classes, m = 500: 65 at
/// 1e-6; m = 1,000: 21 at 1e-4).
const EXPECTED_NEWTON: f64 = 6.0;
const PASSES_OF_DECADES: f64 = 1.6;
/// Seconds of a kept entry of sparse products, both of them, over those of dense ones (one column; Xeon, AVX-512, November 2026).
const SPARSE_SECONDS: f64 = 2.7;
/// How many times the cost of conjugate gradients `auto` pays for an exact Gram that chooses the ridge.
const GRAM_PREFERENCE: f64 = 4.0;
/// Share of the fit's flops that selecting centers may take.
pub const SELECT_SHARE: f64 = 0.25;

/// Iterations expected of conjugate gradients whose preconditioner has `sampled` m rows beside the centers.
fn expected_iterations(sampled: f64) -> f64 {
    if sampled > 0.0 { EXPECTED_ITERATIONS } else { EXPECTED_OF_CENTERS }
}

/// The plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitPlan {
    /// Training rows.
    pub rows: u64,
    /// Centers m.
    pub centers: usize,
    /// Solver.
    pub solver: Solver,
    /// Selection.
    pub selection: Selection,
    /// How the dictionary stage works.
    pub dictionary: DictionaryWork,
    /// Whether the processes share the centers of `eigenpro`: it changes no bit of the model.
    pub sharded: bool,
    /// Whether the training rows stay in memory between passes.
    pub rows_kept: bool,
    /// Passes over the rows, profile and sample included.
    pub passes: u64,
    /// Predicted bytes read from files, over all processes.
    pub bytes: u64,
    /// Values that are decoded, in all passes.
    pub decoded: f64,
    /// Predicted flops by stage. Tuning is done when the plan is made: its flops are known.
    pub flops: Vec<(String, f64)>,
    /// Memory of a process at the largest stage.
    pub memory: MemoryPlan,
    /// Why, in sentences with numbers.
    pub reasons: Vec<String>,
    /// Every solver with what it would take, for the same centers.
    pub considered: Vec<Considered>,
}

/// A solver that a plan considered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Considered {
    /// The solver.
    pub solver: Solver,
    /// Flops of its solve.
    pub flops: f64,
    /// Its passes over the rows.
    pub passes: u64,
    /// Memory of a process, bytes.
    pub memory: u64,
    /// Why it was chosen or not.
    pub verdict: String,
}

impl FitPlan {
    /// Predicted flops in all.
    pub fn total_flops(&self) -> f64 {
        self.flops.iter().map(|(_, f)| f).sum()
    }

    /// Predicted seconds on `workers` cores of the reference machine.
    pub fn seconds(&self, workers: usize) -> f64 {
        (self.total_flops() * PRODUCT_SECONDS + self.decoded * DECODE_SECONDS) / workers.max(1) as f64
    }

    /// One line for people, printed before the first expensive pass.
    pub fn summary(&self, budget: u64, workers: usize) -> String {
        format!(
            "plan: {} rows, {} centers by {}, {}: {:.2e} flops, {} of {} memory a process, {} ({} to read), about {:.0} s",
            self.rows,
            self.centers,
            self.selection.name(),
            self.solver.name(),
            self.total_flops(),
            super::human(self.memory.total()),
            super::human(budget),
            super::plural(self.passes, "pass"),
            super::human(self.bytes),
            self.seconds(workers)
        )
    }
}

/// What a plan is made from.
#[derive(Clone, Debug)]
pub struct PlanRequest {
    /// What a worker holds beside pages while it decodes long text.
    pub text: Decoding,
    /// Bytes of text in the labels of the classes.
    pub label_bytes: u64,
    /// The rows that are written at the end with all columns of the data, where they are (`dictionary`).
    pub chosen: Option<ChosenRows>,
    /// Memory of the largest stage before the plan: it has been taken, and refuses nothing.
    pub before: MemoryPlan,
    /// Problem size.
    pub shape: Shape,
    /// Centers asked for.
    pub centers: Option<usize>,
    /// Solver asked for.
    pub solver: Solver,
    /// Whether it is that of an earlier model, whose configuration is taken over.
    pub from_model: bool,
    /// Selection asked for.
    pub select: Select,
    /// Rows to score, when given.
    pub dictionary_rows: Option<u64>,
    /// Precision.
    pub precision: Precision,
    /// Effective dimension estimated on the sample.
    pub effective_dimension: f64,
    /// Flops that tuning took.
    pub tuning: f64,
    /// Sample rows that would judge the ridge if it were open: what is given must not change how many centers there are.
    pub judges_reserve: u64,
    /// Flops kept free for tuning where the number of centers is open.
    pub tuning_reserve: f64,
    /// Whether the centers are all that is asked for: no solve, no errors.
    pub dictionary_only: bool,
    /// Passes made before the plan: profile, sample and what they needed.
    pub passes_made: u64,
    /// Sampled rows that judge the ridge of a gram solve.
    pub judges: u64,
    /// Per-sample ridge.
    pub ridge: f64,
    /// Whether it was asked for: a Gram then has nothing to choose.
    pub ridge_given: bool,
    /// Whether held-out rows or validation data are evaluated; `held_out` counts them.
    pub evaluated: bool,
    /// Flops that all stages together may take.
    pub max_flops: f64,
    /// Memory of a process.
    pub memory: u64,
    /// Worker threads of a process.
    pub workers: usize,
    /// Processes.
    pub processes: usize,
    /// Whether the job keeps checkpoints: what is written is in memory a second time. Nothing is decided by it.
    pub checkpoints: bool,
    /// Whether several of them share the centers.
    pub sharding: Sharding,
    /// Iterations asked for.
    pub iterations: Option<usize>,
    /// What stands for the rows in the preconditioner of conjugate gradients.
    pub preconditioning: Preconditioning,
    /// Whether the residual is tested on the way (`--tolerance` of eigenpro).
    pub residual_tests: bool,
    /// Share of the entries that sampled rows keep where conjugate gradients may have sparse products.
    pub product_share: Option<f64>,
    /// Whether one exact Gram serves: not when targets are null in different rows, the loss is logistic, or the kernel has no bound.
    pub one_gram: bool,
    /// Whether targets are null in different rows.
    pub nulls_differ: bool,
    /// Why not, when not.
    pub no_gram_reason: String,
    /// Whether the loss is logistic.
    pub logistic: bool,
    /// Whether predictive variances are asked for: only an exact Gram gives them.
    pub variance: bool,
    /// Rows of the sample held by every process.
    pub sample_rows: u64,
    /// Bytes of files that a pass decodes, over all processes.
    pub bytes_per_pass: u64,
    /// Rows that are evaluated at the end, where they are known.
    pub held_out: u64,
    /// Bytes of the training rows that a process has kept in memory; 0 when it did not.
    pub kept_bytes: u64,
    /// Whether the theorem's constants of the dictionary are asked for.
    pub theorem: bool,
    /// Classes of the target; 0 for numbers.
    pub classes: usize,
}

impl PlanRequest {
    /// How many times the cost of conjugate gradients with `m` centers `auto` pays for an exact Gram.
    ///
    /// With the ridge given no more than they cost, if they converge as soon as is expected. Where the kernel has far fewer degrees of freedom than there are centers, K_mm is nearly singular, and the
    /// rounding of entries keeps them from it (60,000 rows of two features, m = 1,200, gaussian, 409 and 168 degrees of freedom: 300 iterations without convergence; from 0.7 m on 19 to 50).
    fn gram_preference(&self, m: f64) -> f64 {
        if self.ridge_given && self.effective_dimension >= m / 2.0 { 1.0 } else { GRAM_PREFERENCE }
    }

    fn gram_seconds(&self, m: f64) -> f64 {
        let s = &self.shape;
        s.rows * m * (s.entry() * ENTRY_SECONDS + m * PRODUCT_SECONDS)
            + super::cost::GRAM_ALGEBRA * m.powi(3) * PRODUCT_SECONDS
    }

    fn pcg_seconds(&self, m: f64) -> f64 {
        let share = (SPARSE_SECONDS * self.share()).min(1.0);
        let sampled = self.preconditioner_rows(m);
        let SolverCost { entries, flops, .. } = self.shape.sparse_pcg(m, expected_iterations(sampled), share, sampled);
        let entry_flops = entries * (self.shape.entry() + 4.0 * self.shape.targets);
        entry_flops * ENTRY_SECONDS + (flops - entry_flops).max(0.0) * PRODUCT_SECONDS
    }

    /// Rows sampled for the preconditioner of conjugate gradients, in units of m.
    fn preconditioner_rows(&self, m: f64) -> f64 {
        preconditioner_rows(self.preconditioning, self.shape.rows, m)
    }

    /// The share of the entries that products of conjugate gradients are expected to form.
    fn share(&self) -> f64 {
        self.product_share.filter(|share| *share <= SPARSE_GAIN).unwrap_or(1.0)
    }

    /// Makes the plan.
    ///
    /// # Errors
    /// [`StageError::Budget`] when what was asked for does not fit; [`StageError::Usage`] when it cannot be done.
    pub fn plan(&self) -> Result<FitPlan, StageError> {
        // Rows are kept where everything fits beside them; otherwise they are decoded again.
        let beside = if self.kept_bytes > 0 { self.plan_beside(self.kept_bytes).ok() } else { None };
        beside.map_or_else(|| self.plan_beside(0), Ok)
    }

    fn plan_beside(&self, kept: u64) -> Result<FitPlan, StageError> {
        let n = self.shape.rows;
        let mut reasons = Vec::new();
        let m = match self.centers {
            _ if self.solver == Solver::BlockCd => n.max(1.0) as usize,
            Some(m) => (m as f64).min(n).max(1.0) as usize,
            None => self.auto_centers(&mut reasons)?,
        };
        let solver = self.solver(m, &mut reasons)?;
        let cost = self.cost(solver, m);
        let considered = self.considered(solver, m);
        let (selection, select_flops) = self.selection(m, cost.flops, &mut reasons)?;
        let keeping = |mut plan: MemoryPlan| {
            if kept > 0 {
                plan.add("training rows kept between passes", kept);
            }
            plan
        };
        let crew = Crew { workers: self.workers, processes: self.processes };
        let (dictionary, choosing) = self.dictionary(&selection, m, &keeping(self.resident(self.workers)), crew);
        let memory = keeping(self.memory(solver, m, self.workers)).larger(choosing);
        let memory = match &self.chosen {
            Some(chosen) => memory.larger(chosen.memory(m, self.workers)),
            None => memory,
        };
        memory.check(self.memory)?;
        let memory = memory.larger(self.before.clone());
        let flops = self.flops(solver, m, select_flops);
        self.check_flops(&self.at_most(solver, &flops, m), m)?;
        if dictionary.passes > 1 && matches!(selection, Selection::Squeak { .. }) {
            reasons.push(format!(
                "about {} passes over the rows for the dictionary, which holds {} of them in each process at a time",
                dictionary.passes, dictionary.rows_held
            ));
        }
        if let Some(share) = self.product_share.filter(|_| solver == Solver::Pcg) {
            let gains = if share <= SPARSE_GAIN { "sparse products" } else { "products with every entry" };
            reasons.push(format!("{gains}: sampled rows keep {:.1} % of the entries", 100.0 * share));
        }
        if solver == Solver::EigenPro && self.shares_centers(m) {
            // Not among the flops of the plan: those decide, and no number of processes may.
            let again = self.expected_epochs() * self.shape.rows * m as f64 * self.shape.entry();
            reasons.push(format!(
                "the {} processes share the centers, at most {} in each: a process holds packed centers, coefficients and iterates of its own alone, and evaluates the \
                 entries of a batch twice, about {again:.2e} flops beside the plan's",
                self.processes,
                Shard::largest(m, self.processes)
            ));
        }
        let evaluation = u64::from(self.evaluated);
        let passes = self.passes_made + dictionary.passes + cost.passes.ceil() as u64 + evaluation;
        // Rows that are kept are decoded by the profile and by the pass that keeps them.
        let decoded = if kept > 0 { self.passes_made + evaluation } else { passes };
        let s = &self.shape;
        Ok(FitPlan {
            rows: n as u64,
            centers: m,
            solver,
            selection,
            passes,
            dictionary,
            sharded: solver == Solver::EigenPro && self.shares_centers(m),
            rows_kept: kept > 0,
            bytes: self.bytes_per_pass * decoded,
            decoded: n * (s.numeric + s.codes + s.targets) * decoded as f64,
            flops,
            memory,
            reasons,
            considered,
        })
    }

    pub(super) fn cost(&self, solver: Solver, m: usize) -> SolverCost {
        let m = m as f64;
        match solver {
            Solver::Gram | Solver::Auto => self.shape.gram(m),
            Solver::Pcg if self.logistic => {
                let decades = -self.ridge.clamp(1e-12, 1e-2).log10();
                let passes = PASSES_OF_DECADES * decades * decades;
                let steps = self.iterations.map_or(EXPECTED_NEWTON, |i| (i as f64).min(EXPECTED_NEWTON));
                self.shape.logistic(m, steps, passes * steps / EXPECTED_NEWTON)
            }
            Solver::Pcg => {
                let sampled = self.preconditioner_rows(m);
                let iterations = self.iterations.map_or(expected_iterations(sampled), |i| i as f64);
                self.shape.sparse_pcg(m, iterations, self.share(), sampled)
            }
            Solver::EigenPro => self.eigenpro(m, self.expected_epochs()),
            Solver::BlockCd => {
                let n = self.shape.rows as usize;
                let (b, r) = (blockcd::block_rows(n) as f64, blockcd::block_rank(n) as f64);
                self.shape.blockcd(b, r, self.iterations.map_or(EXPECTED_BLOCK_EPOCHS, |i| i as f64))
            }
        }
    }

    /// Epochs of eigenpro: those asked for, or as many as it usually takes.
    fn expected_epochs(&self) -> f64 {
        let expected = (EXPECTED_WALK / self.shape.rows.max(1.0)).clamp(EXPECTED_EPOCHS, MOST_EPOCHS);
        self.iterations.map_or(expected, |i| i as f64)
    }

    /// `epochs` of eigenpro, with the tests of its residual.
    fn eigenpro(&self, m: f64, epochs: f64) -> SolverCost {
        let (sample, s) = (self.sample_rows as usize, &self.shape);
        let subsample = eigenpro::subsample_sizes(sample, m as usize).0 as f64;
        let mut cost = s.eigenpro(m, subsample, sample.min(eigenpro::JUDGES) as f64, epochs);
        if self.residual_tests {
            let tests = (epochs / eigenpro::RESIDUAL_EVERY as f64).floor();
            cost.passes += tests;
            cost.entries += tests * s.rows * m;
            cost.flops += tests * s.rows * m * (s.entry() + 4.0 * s.targets);
        }
        cost
    }

    /// The epochs after which eigenpro ends whatever it has reached, and its flops until then; `None` for the other solvers, and where the epochs are
    /// given: these are planned.
    pub(super) fn last_epoch(&self, solver: Solver, m: usize) -> Option<(usize, f64)> {
        if solver != Solver::EigenPro || self.iterations.is_some() {
            return None;
        }
        let rows = self.shape.rows.max(1.0) as usize;
        let epochs = eigenpro::most_epochs(rows, eigenpro::LARGEST_BATCH.min(rows));
        Some((epochs, self.eigenpro(m as f64, epochs as f64).flops))
    }

    /// Every solver on m centers, and why it was chosen or not.
    fn considered(&self, chosen: Solver, m: usize) -> Vec<Considered> {
        let fits = |solver| self.alone(solver, m) <= self.memory;
        let cheap = |gram: f64, pcg: f64| {
            format!(
                "an exact Gram takes {gram:.1} core-seconds, conjugate gradients {pcg:.1}; the Gram is taken {}",
                if self.ridge_given {
                    "where it is cheaper, since the ridge is given".to_owned()
                } else {
                    format!("up to {GRAM_PREFERENCE:.0} times theirs")
                }
            )
        };
        let seconds = cheap(self.gram_seconds(m as f64), self.pcg_seconds(m as f64));
        let verdict = |solver: Solver| match solver {
            _ if solver == chosen && self.solver != Solver::Auto && self.from_model => "chosen: the model's".to_owned(),
            _ if solver == chosen && self.solver != Solver::Auto => "chosen: asked for".to_owned(),
            Solver::Gram | Solver::BlockCd | Solver::EigenPro if !self.one_gram && self.refuses(solver) => {
                format!("cannot be used: {}", self.no_gram_reason)
            }
            _ if self.solver != Solver::Auto => {
                let name = self.solver.name();
                if self.from_model {
                    format!("not chosen: the model has {name}")
                } else {
                    format!("not chosen: {name} was asked for")
                }
            }
            Solver::Gram if solver == chosen => format!("chosen: {seconds}"),
            Solver::Gram if !fits(Solver::Gram) => "not chosen: its Gram does not fit --memory".into(),
            Solver::Gram => format!("not chosen: {seconds}"),
            Solver::Pcg if solver == chosen && !self.one_gram => format!("chosen: {}", self.no_gram_reason),
            Solver::Pcg if solver == chosen => format!("chosen: {seconds}"),
            Solver::Pcg if chosen == Solver::EigenPro => "not chosen: its factors do not fit --memory".into(),
            Solver::Pcg => format!("not chosen: {seconds}"),
            Solver::EigenPro if solver == chosen => "chosen: the factors of the others do not fit --memory".into(),
            Solver::EigenPro => "not chosen: the factors of the others fit --memory".into(),
            _ => "never chosen by itself: every row is a center, and its memory grows with the rows".into(),
        };
        let solvers = [Solver::Gram, Solver::Pcg, Solver::EigenPro, Solver::BlockCd];
        let take = |solver: Solver| {
            let m = if solver == Solver::BlockCd { self.shape.rows.max(1.0) as usize } else { m };
            let cost = self.cost(solver, m);
            let memory = self.memory(solver, m, self.workers).total();
            Considered {
                solver,
                flops: cost.flops,
                passes: cost.passes.ceil() as u64,
                memory,
                verdict: verdict(solver),
            }
        };
        solvers.map(take).to_vec()
    }

    /// Memory of a solve by one worker in one process, by which `auto` decides.
    pub(super) fn alone(&self, solver: Solver, m: usize) -> u64 {
        PlanRequest { processes: 1, workers: 1, checkpoints: false, ..self.clone() }.memory(solver, m, 1).total()
    }

    /// Whether a solver cannot be used where no single Gram serves.
    fn refuses(&self, solver: Solver) -> bool {
        match solver {
            Solver::Gram => !self.one_gram,
            Solver::BlockCd => self.nulls_differ || self.logistic,
            Solver::EigenPro => self.logistic,
            _ => false,
        }
    }

    fn solver(&self, m: usize, reasons: &mut Vec<String>) -> Result<Solver, StageError> {
        if self.variance {
            // Asked for: what does not fit is refused by the plan, not solved without.
            if self.one_gram && matches!(self.solver, Solver::Auto | Solver::Gram) {
                reasons.push("gram, which alone gives predictive variances".into());
                return Ok(Solver::Gram);
            }
            let why = if self.one_gram { "the solver is another" } else { self.no_gram_reason.as_str() };
            return Err(StageError::Usage(format!(
                "--variance comes from the gram solver, which cannot be used here: {why}. Leave out --variance"
            )));
        }
        if self.solver != Solver::Auto {
            if self.refuses(self.solver) {
                return Err(StageError::Usage(format!(
                    "--solver {} cannot be used here: {}. Use --solver pcg or auto",
                    self.solver.name(),
                    self.no_gram_reason
                )));
            }
            let why = if self.from_model { "from the model" } else { "as asked" };
            reasons.push(format!("solver {} {why}", self.solver.name()));
            return Ok(self.solver);
        }
        if !self.one_gram {
            reasons.push(format!("pcg, since {}", self.no_gram_reason));
            return Ok(Solver::Pcg);
        }
        let (gram, pcg) = (self.gram_seconds(m as f64), self.pcg_seconds(m as f64));
        // `auto` plans for one worker in one process, so that the choice does not depend on how many there are.
        let fits = self.alone(Solver::Gram, m) <= self.memory;
        // The Gram also gives the ridge path: where the ridge is open, worth several times the flops.
        let choice = if fits && gram <= self.gram_preference(m as f64) * pcg {
            Solver::Gram
        } else if self.alone(Solver::Pcg, m) > self.memory && self.alone(Solver::EigenPro, m) <= self.memory {
            reasons.push("eigenpro: neither an exact Gram nor the factors of conjugate gradients fit --memory".into());
            return Ok(Solver::EigenPro);
        } else {
            Solver::Pcg
        };
        reasons.push(format!(
            "{}: an exact Gram would take {gram:.1} core-seconds and gives the whole ridge path{}, conjugate gradients {pcg:.1}{}",
            if choice == Solver::Gram { "gram" } else { "pcg" },
            if self.ridge_given { " (one is given)" } else { "" },
            match (fits, self.ridge_given && self.effective_dimension < m as f64 / 2.0) {
                (false, _) => "; the Gram does not fit --memory".to_owned(),
                (true, true) => format!(
                    " if they converge soon, which {:.0} degrees of freedom of the kernel do not promise",
                    self.effective_dimension
                ),
                (true, false) => String::new(),
            }
        ));
        Ok(choice)
    }
}
