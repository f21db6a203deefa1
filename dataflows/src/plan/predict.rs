//! The memory of prediction and evaluation.
//!
//! The header of the model file gives every size of the model, so what cannot fit is refused before the file is loaded, and again when the columns
//! of the data are known. Loading and work follow each other; the larger one decides:
//! * loading: the file and the tensors made of it; the digest needs as much;
//! * work: the function, its packed centers, and in each worker rows read ahead, products with kernel entries, and either the row group being
//!   written or the ranks of scores.
//!
//! Rows do not count, but for what a Parquet footer says about each of its row groups.

use super::memory::{MemoryPlan, WORKER_BYTES, human, program_bytes};
use super::size::{ModelSize, Reading, Writing};
use crate::engine::feed::AHEAD;
use crate::error::StageError;
use crate::evaluate::{RANK_BYTES, RANK_PARCEL_BYTES};
use crate::predict::PANEL;
use nystream_datasets::table::TABLE_GROUP_BYTES;
use nystream_kernels::constants::TILE_BLOCK_BYTES;
use nystream_kernels::gram::Precision;
use nystream_kernels::solve::eigenpro::CENTER_BLOCK;
use nystream_kernels::tile::{CenterBlocks, Entry, SparseScratch, SparseTiles};

/// Batches of a worker: waiting, being made, in use, and one more whose buffers are on their way back.
const BATCHES: u64 = AHEAD as u64 + 3;
/// Bytes in hand for a byte of the configuration's text: read, parsed, copied to be hashed and written again.
const CONFIGURATION: u64 = 16;
/// The same when it is loaded: tables of levels.
const SETTLED: u64 = 8;
/// Rows of the tallest register tile: fewer are never handled at once.
const TILE_ROWS: u64 = 16;
/// Buffers of the tile loop whose size is constant.
const TILE_BYTES: u64 = 1 << 20;
/// Values of one row in vectors of f64, padded: the widest register.
const LANES: u64 = 8;
/// Bytes that the Parquet writer holds for a value until the row group ends: the dictionary and its table of hashes, which may be
/// about to double, the encoded page, levels. (601 columns of f64 held 65 bytes a value, page included; November 2026.)
const WRITTEN_VALUE: u64 = 40;
/// The same for a value of the page in progress.
const PAGE_VALUE: u64 = 20;
/// Rows of a page in progress, at most: the writer's limit and a batch.
const PAGE_ROWS: u64 = 28_672;
/// A column that is written: its buffers, and what the footer says of it for each row group.
const COLUMN_BYTES: u64 = 16 << 10;
const FOOTER_BYTES: u64 = 2 << 10;
/// Encoded bytes of a number, by which the writer ends a row group.
const ENCODED_VALUE: u64 = 10;

/// The memory of a process that applies a model, and what makes it less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyPlan {
    /// The memory, at its largest.
    pub memory: MemoryPlan,
    /// What to do but to give more, as the user reads it.
    pub remedy: String,
}

impl ApplyPlan {
    /// Refuses what does not fit `budget` bytes.
    ///
    /// # Errors
    /// [`StageError::Budget`] naming the three largest consumers and the remedies.
    pub fn check(&self, budget: u64) -> Result<(), StageError> {
        self.memory.check_or(budget, &self.remedy)
    }

    /// One line for people, printed before the pass.
    pub fn summary(&self, rows: u64, centers: usize, budget: u64) -> String {
        let memory = human(self.memory.total());
        format!("plan: {rows} rows, {centers} centers: {memory} of {} memory a process, 1 pass", human(budget))
    }
}

fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |product, factor| product.saturating_mul(*factor))
}

fn sum(terms: &[u64]) -> u64 {
    terms.iter().fold(0, |sum, term| sum.saturating_add(*term))
}

impl ModelSize {
    /// Memory of a process that predicts, with variances or without.
    ///
    /// ```
    /// use nystream_dataflows::plan::{ModelSize, Reading, Writing};
    /// let model = ModelSize { file_bytes: 32 << 30, centers: 60_000, rank: 60_000, ..ModelSize::default() };
    /// let plan = model.predicting(Reading::default(), Writing::default(), true, 2);
    /// let message = plan.check(8 << 30).unwrap_err().to_string();
    /// assert!(message.contains("the model file") && message.contains("--memory"));
    /// ```
    pub fn predicting(&self, reading: Reading, writing: Writing, variance: bool, workers: usize) -> ApplyPlan {
        let rank = if variance { self.rank } else { 0 };
        let mut work = self.resident(&reading, rank, workers, self.sparse && !variance);
        let each = workers as u64;
        let batch = product(&[reading.rows, sum(&[writing.kept, 32])]);
        // As they are computed, and as columns.
        let outputs = self.targets.max(self.classes).max(1) + if variance { self.targets } else { 0 };
        let columns = product(&[reading.rows, 16, outputs + 1]);
        work.add(
            "kept columns and predictions of batches",
            product(&[each, sum(&[product(&[BATCHES, batch]), columns])]),
        );
        let row = sum(&[product(&[ENCODED_VALUE, writing.columns]), writing.text]).max(1);
        // Looked at after each batch.
        let group = writing.group_rows.min(sum(&[TABLE_GROUP_BYTES / row, reading.rows])).min(writing.rows.max(1));
        let values = sum(&[
            product(&[group, sum(&[product(&[WRITTEN_VALUE, writing.columns]), product(&[2, writing.text])])]),
            product(&[group.min(PAGE_ROWS), PAGE_VALUE, writing.columns]),
            product(&[COLUMN_BYTES, writing.columns]),
        ]);
        work.add("row groups being written", product(&[each, values]));
        work.add("footer of the output", product(&[writing.rows / group.max(1), FOOTER_BYTES, writing.columns]));
        let mut less = vec!["fewer --workers"];
        if writing.kept > 0 {
            less.push("fewer columns with --keep");
        }
        if variance {
            less.push("no --variance");
        }
        self.larger(work, &less)
    }

    /// Memory of a process that evaluates.
    pub fn evaluating(&self, reading: Reading, workers: usize) -> ApplyPlan {
        let mut work = self.resident(&reading, 0, workers, self.sparse);
        if self.classes > 0 {
            work.add("ranks of scores", product(&[workers as u64, RANK_BYTES + RANK_PARCEL_BYTES]));
        }
        self.larger(work, &["fewer --workers"])
    }

    /// The larger one of loading and `work`, of which the options named in `less` would need less.
    fn larger(&self, work: MemoryPlan, less: &[&str]) -> ApplyPlan {
        let mut loading = MemoryPlan::default();
        loading.add("the program", program_bytes(0));
        let own = self.own();
        match own == self.centers {
            true => loading.add("the model file and what is read from it", self.file_bytes.saturating_mul(2)),
            // Read piece by piece: its share of the bytes, and the numbers in them.
            false => {
                let share =
                    (u128::from(self.file_bytes) * 2 * u128::from(own) / u128::from(self.centers.max(1))) as u64;
                loading.add(format!("the share of the model, {own} of {} centers", self.centers), share);
            }
        }
        loading.add("the model's configuration while it is read", self.header_bytes.saturating_mul(CONFIGURATION));
        if loading.total() > work.total() {
            let without = if self.rank > 0 { ", or one without --variance" } else { "" };
            return ApplyPlan { memory: loading, remedy: format!("fit a model with fewer --centers{without}") };
        }
        ApplyPlan { memory: work, remedy: format!("use {}", less.join(", ")) }
    }

    /// What both have: the function with `rank` columns of its variance factor, rows, and kernel entries; as much as sparse products take where those are considered.
    fn resident(&self, reading: &Reading, rank: u64, workers: usize, sparse: bool) -> MemoryPlan {
        let ModelSize { numeric, codes, targets: t, .. } = *self;
        let (m, each) = (self.own(), workers as u64);
        let name = |what: &str| match m == self.centers {
            true => what.to_owned(),
            false => format!("{what}, {m} of {} centers", self.centers),
        };
        let mut plan = MemoryPlan::default();
        let pages = product(&[each, reading.pages.saturating_sub(WORKER_BYTES)]);
        plan.add("program and Parquet decoding", sum(&[program_bytes(workers), pages]));
        if reading.fetched > 0 {
            plan.add("reading ahead from object stores", product(&[each, reading.fetched]));
        }
        plan.add("the model's configuration", self.header_bytes.saturating_mul(SETTLED));
        plan.add(name("centers and coefficients"), product(&[m, sum(&[4 * numeric, 2 * codes, 8 * t])]));
        let (packed, blocks, entry) = match self.precision {
            Precision::Double => self.packed::<f64>(reading, sparse),
            _ => self.packed::<f32>(reading, sparse),
        };
        plan.add(name("packed centers"), packed);
        if m < self.centers {
            // Those that all workers deal in a round, as they arrive and as they are; the coefficients once more; and the sums of each row for the nodes of the blocks' tree
            // that a process has, sent and received.
            let row = sum(&[8 * numeric, 4 * codes]);
            let rows = product(&[reading.rows, each, self.shared_by]);
            let nodes = 2 * u64::from(64 - (m / CENTER_BLOCK as u64 + 1).leading_zeros()) + 2;
            let sums = product(&[8, t, 2 * nodes]);
            plan.add(
                "rows of all workers, and their sums",
                sum(&[product(&[rows, sum(&[row, sums])]), product(&[8, m, t])]),
            );
        }
        if sparse {
            // The coefficients in the order of the blocks, and their sums inside.
            plan.add(
                "coefficients by blocks of centers",
                product(&[8, m.next_multiple_of(64), t.next_multiple_of(LANES) + 1]),
            );
            plan.add("rows by blocks of centers", product(&[each, blocks]));
        }
        if rank > 0 {
            plan.add("variance factor", product(&[8, sum(&[m, t]), rank]));
            // As it is cut out of the factor, and as it is packed.
            plan.add("panels of the variance factor", product(&[each, 16 * PANEL as u64, sum(&[m, LANES])]));
        }
        // A row of a chunk: features, targets, weight, identity, place and state.
        let row = sum(&[4 * numeric, 2 * codes, 8 * reading.targets, 48]);
        let batch = sum(&[product(&[BATCHES, row]), product(&[2, reading.decoded]), 8 * t]);
        plan.add("rows read ahead", product(&[each, reading.rows, batch]));
        let block = product(&[TILE_ROWS, sum(&[m, 64]), entry]).max(TILE_BLOCK_BYTES as u64);
        let vectors = product(&[8, sum(&[m, 64]), t.max(1).next_multiple_of(if t > 1 { LANES } else { 1 })]);
        plan.add("kernel entries and their products", product(&[each, sum(&[TILE_BYTES, block, vectors])]));
        plan
    }

    /// Bytes of the packed centers, of a worker's sparse products, and of an entry.
    fn packed<T: Entry>(&self, reading: &Reading, sparse: bool) -> (u64, u64, u64) {
        // Headers may say anything, and products must not overflow: what is cut off here is beyond every budget in centers and coefficients.
        let limited = |value: u64| value.min(1 << 20) as usize;
        let (m, width, codes) = (self.own().min(1 << 36) as usize, limited(self.mapped), limited(self.codes));
        let entry = size_of::<T>() as u64;
        if !sparse {
            return (CenterBlocks::<T>::memory_bytes(m, CENTER_BLOCK, width, codes) as u64, 0, entry);
        }
        let (numeric, rows, t) = (width.max(limited(self.numeric)), limited(reading.rows), limited(self.targets));
        let scratch = SparseScratch::<T>::memory_bytes(rows, m, width, codes, t, 0);
        (SparseTiles::<T>::memory_bytes(m, numeric, codes) as u64, scratch as u64, entry)
    }
}

#[cfg(test)]
mod tests;
