//! What a process holds in memory while it fits, stage by stage, for each solver.
//!
//! Bounds, not estimates: `tests/budgets.rs` holds measured peaks to them.

use super::cost::PRECONDITIONER_ROWS;
use super::fit::PlanRequest;
use super::flops::certified;
use super::memory::MemoryPlan;
use crate::certify::{HELD_OUT_ROWS, TRACE_ROWS};
use crate::evaluate::{RANK_BYTES, RANK_PARCEL_BYTES};
use crate::job::fit::{CONVERGENCE_ROWS, DIMENSION_ROWS};
use crate::job::{Sharding, Solver};
use crate::matvec::grid::Shard;
use crate::solve::blockcd;
use crate::solve::eigenpro::{self, order};
use crate::solve::gram::JUDGE_BLOCK;
use crate::solve::logistic::{LOCAL_CLASSES, MOST_BYTES};
use nystream_kernels::constants::{GRAM_BLOCK, SUM_BLOCK_ROWS};
use nystream_kernels::gram::{ExactGram, GramShape, Precision};
use nystream_kernels::solve::eigenpro::CENTER_BLOCK;
use nystream_kernels::tile::{SparseScratch, SparseTiles};

/// Matrices of m x m that conjugate gradients hold at their largest: the factor of K_mm, the sampled rows' Gram and the one that gives the degrees of freedom; later the factor, the
/// preconditioner and, where centers are outside the basis, K_mm.
const PCG_SQUARES: u64 = 3;
/// Blocks of [`GRAM_BLOCK`] rows by m beside them: entries, their transpose, features, their transpose, and weighted; one to spare.
const PCG_BLOCKS: u64 = 6;
/// Most of what earlier stages have given back that is still resident when the algebra begins: allocators return blocks of more than 32 MiB at once, smaller
/// ones when they can (60,000 rows, m = 1,500: 59 MiB more than was planned without it; glibc 2.36, November 2026).
const RETAINED: u64 = 64 << 20;
/// Bytes of class labels that are not worth counting, and copies of longer ones in a process: in encoder, targets, profile and the model
/// that is written, half as many again in each worker.
const SHORT_LABELS: u64 = 64 << 10;
const LABEL_COPIES: u64 = 6;

impl PlanRequest {
    /// Bytes of a row with targets, weight and id.
    fn row_bytes(&self) -> u64 {
        let s = &self.shape;
        (4.0 * s.numeric + 2.0 * s.codes) as u64 + 8 * (s.targets as u64 + 2) + 32
    }

    /// Whether the processes share `m` centers of eigenpro.
    pub(super) fn shares_centers(&self, m: usize) -> bool {
        self.processes > 1
            && m > CENTER_BLOCK
            && match self.sharding {
                Sharding::Auto => m > eigenpro::EXACT_PROJECTION_CENTERS,
                Sharding::Always => true,
                Sharding::Never => false,
            }
    }

    /// What every stage of a process has beside it.
    pub(super) fn resident(&self, workers: usize) -> MemoryPlan {
        let mut plan = MemoryPlan::default();
        let row = self.row_bytes();
        let blocks = crate::engine::feed::blocks_per_batch(row as usize);
        let chunk = row * 2048 * blocks;
        plan.add("program and Parquet decoding", super::memory::program_bytes(workers));
        plan.add("row chunks read ahead", workers as u64 * (crate::engine::feed::AHEAD as u64 + 3) * chunk);
        plan.add("hashed sample", self.sample_rows * row);
        self.text.add_to(&mut plan, workers);
        if self.label_bytes > SHORT_LABELS {
            plan.add("class labels", self.label_bytes * (LABEL_COPIES + LABEL_COPIES / 2 * workers as u64));
        }
        plan
    }

    /// Memory of a process that solves with `m` centers.
    pub fn memory(&self, solver: Solver, m: usize, workers: usize) -> MemoryPlan {
        let mut plan = self.resident(workers);
        let square = 8 * (m as u64) * (m as u64);
        let s = &self.shape;
        let row = self.row_bytes();
        if solver != Solver::EigenPro {
            plan.add("packed centers", (m as u64) * (8 * (s.numeric + s.codes) as u64 + 64));
        }
        // The certificate's kernel block, twice while it is copied, and the effective dimension's matrix, its factor and inverse.
        let certificate = 16 * (TRACE_ROWS * m) as u64 + 24 * (HELD_OUT_ROWS * HELD_OUT_ROWS) as u64;
        let certificate = if certified(solver, m) { certificate } else { 0 };
        let few = if self.solver == Solver::Auto && self.ridge_given { CONVERGENCE_ROWS } else { 0 };
        let few = if self.centers.is_some() { few } else { DIMENSION_ROWS };
        let dimension = 24 * (few * few) as u64;
        plan.add("estimates on the sample", certificate.max(dimension));
        let before_solve = plan.total();
        match solver {
            Solver::Gram | Solver::Auto => {
                let shape =
                    GramShape { centers: m, targets: s.targets as usize, precision: self.precision, scale_log2: 0 };
                let accumulate = ExactGram::memory_bytes(shape) as u64
                    + workers as u64 * (ExactGram::scratch_bytes(shape) as u64 + panel_bytes(m, self.precision));
                // Afterwards: the Gram in f64, K_mm, its factor, the whitened Gram, its eigenvectors and the solver's workspace, which keeps up to two (m = 6,058: 2.61 GiB
                // where six matrices in all made 2.40); the entries of the rows that judge the ridge or the rounding, twice while they are copied, and projected.
                let algebra = 7 * square + 48 * (JUDGE_BLOCK * m) as u64 + (6 * square).min(RETAINED);
                let copies = if self.processes > 1 { 2 } else { 1 };
                if self.variance {
                    plan.add(format!("predictive variances of {m} centers"), 2 * square);
                }
                if accumulate * copies > algebra + ExactGram::memory_bytes(shape) as u64 {
                    plan.add(format!("exact Gram of {m} centers"), accumulate * copies);
                } else {
                    plan.add(format!("exact Gram of {m} centers"), ExactGram::memory_bytes(shape) as u64);
                    plan.add(format!("m x m algebra for {m} centers"), algebra);
                }
            }
            Solver::Pcg => {
                let mut squares = PCG_SQUARES;
                if self.logistic {
                    // The features of the preconditioner's rows stay, and every margin may have a factor of its own.
                    let margins = if self.classes <= LOCAL_CLASSES { s.targets.max(1.0) as u64 } else { 1 };
                    squares += 1 + PRECONDITIONER_ROWS as u64 + (margins - 1);
                }
                let blocks = 8 * PCG_BLOCKS * GRAM_BLOCK as u64 * m as u64;
                plan.add(format!("K_mm, its factor and the preconditioner for {m} centers"), squares * square + blocks);
                let vectors = 8 * m as u64 * s.targets.max(1.0) as u64;
                // Partial sums of a worker's blocks, and of those that it takes over from others.
                let taken = if workers > 1 || self.processes > 1 { crate::engine::leases::PARTIAL_SUMS } else { 0 };
                plan.add("coefficient vectors", vectors * (12 + workers as u64 * (40 + taken)));
                if self.product_share.is_some() {
                    plan.add("centers in blocks for sparse products", self.sparse_bytes(m, workers));
                }
            }
            Solver::EigenPro => {
                let t = s.targets.max(1.0) as u64;
                let subsample = eigenpro::subsample_sizes(self.sample_rows as usize, m).0 as u64;
                let shared = self.shares_centers(m);
                // What is divided, and what each process has of it.
                let own = if shared { Shard::largest(m, self.processes) } else { m } as u64;
                let of = |what: &str| match shared {
                    true => format!("{what}, {own} of {m} centers"),
                    false => what.to_owned(),
                };
                self.add_centers(&mut plan, m as u64, own, subsample, &of);
                if m <= eigenpro::EXACT_PROJECTION_CENTERS {
                    plan.add(format!("K_mm and its factor for {m} centers"), 3 * square);
                }
                plan.add("eigensystem of the subsample", 8 * 5 * subsample * subsample);
                if m <= eigenpro::EXACT_PROJECTION_CENTERS {
                    let rows = eigenpro::dimension_rows(self.sample_rows as usize) as u64;
                    let least = rows.min(m as u64);
                    plan.add("rows of the effective dimension", 8 * (rows * m as u64 + 2 * least * least));
                }
                plan.add(of("preconditioner of the centers"), 8 * own * (subsample / 20 + 1) * 2);
                // Stretches of 4,096 rows are dealt to the processes; batches that are not kept are held by a few at a time.
                let batches = if shared { own + CENTER_BLOCK as u64 } else { m as u64 };
                plan.add(of("batches between projections"), batches * row * 3);
                plan.add(of("coefficient vectors"), 8 * (own + subsample) * t * workers as u64 * 24);
                if shared {
                    // As they are gathered, shared by the workers, and in the units of the target.
                    plan.add("coefficients of the model", 8 * m as u64 * t * (workers as u64 + 3));
                }
                let bytes = s.rows as u64 * row;
                let windows = (3 + order::KEPT as u64) * order::WINDOW_BYTES.min(bytes);
                let buckets = 1u64 << order::bucket_bits(s.rows as u64, row);
                plan.add("rows in hashed order", windows + workers as u64 * (buckets * order::FLUSH_BYTES).min(bytes));
                if bytes <= self.memory / 3 {
                    plan.add("all rows by hash", bytes);
                }
            }
            Solver::BlockCd => {
                let n = s.rows as u64;
                let t = s.targets.max(1.0) as u64;
                // The rows as centers, packed twice, and as they are gathered; eight vectors in every worker.
                plan.add("all rows as centers", n * 5 * row);
                plan.add("O(n t) vectors of full kernel ridge regression", 8 * 8 * n * t * workers as u64 + 80 * n);
                let block = blockcd::block_rows(n as usize) as u64;
                plan.add("a coordinate block", 8 * block * block * (1 + 2 * workers as u64));
            }
        }
        if self.checkpoints {
            plan.add("a checkpoint as it is written", self.checkpointed(solver, m as u64, workers as u64));
        }
        // Errors are measured when the solver's memory is free again.
        let peers = (workers * self.processes) as u64;
        let ranks = if self.classes > 0 { workers as u64 * RANK_BYTES + peers * RANK_PARCEL_BYTES } else { 0 };
        let more = ranks.saturating_sub(plan.total() - before_solve);
        if more > 0 {
            plan.add("ranks of held-out scores", more);
        }
        plan
    }

    /// What checkpoints have in memory a second time: the state of the iteration, encoded and as a frame; what a product's workers have of the sum that is
    /// under way; what passes of a Newton step found. A Gram goes piece by piece, and the preconditioner of eigenpro when its eigensystem, which is more, is free again.
    fn checkpointed(&self, solver: Solver, m: u64, workers: u64) -> u64 {
        let t = self.shape.targets.max(1.0) as u64;
        let vectors = 8 * m * t;
        let passes = if self.logistic { 2 * MOST_BYTES as u64 } else { 0 };
        // The dictionary's centers, as frames and as they are read back.
        let centers = 2 * m * self.row_bytes();
        centers
            + match solver {
                Solver::Gram | Solver::Auto => 0,
                Solver::Pcg => vectors * (2 * 6 + 40 * workers) + passes,
                Solver::EigenPro => vectors * 2 * 6,
                Solver::BlockCd => 2 * 24 * self.shape.rows as u64 * t,
            }
    }

    /// The centers of eigenpro: as they are, in every process; packed, of its own `own` centers, in the precision of entries and, for an inexact projection, in f64.
    fn add_centers(&self, plan: &mut MemoryPlan, m: u64, own: u64, subsample: u64, of: &dyn Fn(&str) -> String) {
        let s = &self.shape;
        let width = (s.numeric + s.codes) as u64 + 3;
        let entry = if self.precision == Precision::Double { 8 } else { 4 };
        let inexact = m as usize > eigenpro::EXACT_PROJECTION_CENTERS;
        // A block is packed from a copy of its rows.
        let packed = (own + subsample) * (width * entry + 4 * width) + subsample * width * entry;
        // Those of all centers twice, with the subsample and without.
        let packed = packed + if own == m { own * width * entry } else { 0 };
        let wide = if inexact { (own + subsample) * width * 8 } else { 0 };
        plan.add(of("packed centers"), packed + wide);
        // The dictionary's, the model's, and one copy on the way.
        plan.add("centers as they are", m * (3 * (4.0 * s.numeric + 2.0 * s.codes) as u64 + 48));
        if inexact {
            // Entries of a block of centers with the subsample, twice while they are copied.
            plan.add("kernel entries of a block of centers", 16 * CENTER_BLOCK as u64 * subsample);
        }
    }

    /// Bytes of the centers once more, in blocks, and of the workers' products with them.
    fn sparse_bytes(&self, m: usize, workers: usize) -> u64 {
        let s = &self.shape;
        let (numeric, codes, t) = (s.numeric as usize, s.codes as usize, s.targets.max(1.0) as usize);
        let (tiles, scratch) = match self.precision {
            Precision::Double => (
                SparseTiles::<f64>::memory_bytes(m, numeric, codes),
                SparseScratch::<f64>::memory_bytes(SUM_BLOCK_ROWS, m, numeric, codes, t, t),
            ),
            Precision::Single => (
                SparseTiles::<f32>::memory_bytes(m, numeric, codes),
                SparseScratch::<f32>::memory_bytes(SUM_BLOCK_ROWS, m, numeric, codes, t, t),
            ),
        };
        (tiles + workers * scratch + 16 * m * t.next_multiple_of(8)) as u64
    }
}

fn panel_bytes(m: usize, precision: Precision) -> u64 {
    let bytes = if precision == Precision::Double { 8 } else { 4 };
    (crate::nystrom::gram::panel_rows(m) * (m + 64) * bytes) as u64
}
