//! The workhorse: one pass over the rows that forms kernel tiles and uses each entry at once.
//!
//! [`row_sums`] computes, over all training (or held-out) rows x,
//!
//! ```text
//!   sum_x k(x, Z)^T u(x)   (m x s)      and      sum_x e(x)   (extras)
//! ```
//!
//! where u and e are functions of the row and of K(x, Z) V (t values). K^T (K V), K^T Y, residuals, gradients
//! and Hessian products of every loss are this one loop with different u; an entry is evaluated once a pass.
//! Sums run in f64, inside a sum block in row order and across blocks over the fixed tree.
//! Cost: n m entries, 2 n m (t + s) flops, (m s + extras) log(blocks) values exchanged by each worker.

pub mod blocks;

use crate::engine::Outgoing;
use crate::engine::exchange::{Audience, Scan, Step, pass};
use crate::engine::feed::Feed;
use crate::engine::session::Session;
use crate::engine::sums::{TreeReducer, assemble, node_parcels};
use crate::error::StageError;
use nystream_datasets::Chunk;
use nystream_kernels::tile::{Entry, TileScratch, Tiles};
use nystream_kernels::tree::SumTree;
use std::sync::Arc;

/// One row as [`row_sums`] shows it to its function.
pub struct RowView<'a> {
    /// The chunk that holds the row.
    pub chunk: &'a Chunk,
    /// Index of the row within the chunk.
    pub row: usize,
    /// K(x, Z) V: t values.
    pub values: &'a [f64],
}

/// Shape of a [`row_sums`] pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// Columns of V.
    pub input: usize,
    /// Values of u.
    pub output: usize,
    /// Extra sums.
    pub extras: usize,
}

struct RowSums<T: Entry, F> {
    feed: Feed,
    chunk: Chunk,
    tiles: Arc<Tiles<T>>,
    v: Arc<Vec<f64>>,
    widths: Widths,
    scratch: TileScratch<T>,
    tree: SumTree,
    function: F,
    process: Arc<crate::engine::Process>,
}

impl<T, F> Scan for RowSums<T, F>
where
    T: Entry,
    F: FnMut(RowView<'_>, &mut [f64], &mut [f64]),
{
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        let m = self.tiles.centers();
        let Widths { input, output, extras } = self.widths;
        let rows = self.chunk.rows();
        for block in 0..self.chunk.blocks() {
            let range = self.chunk.block(block);
            let index = self.feed.global_block(&self.chunk, block);
            if range.is_empty() {
                self.tree.insert_empty(0, index).map_err(internal)?;
                continue;
            }
            let mut sums = vec![0.0; m * output + extras];
            let (products, extra) = sums.split_at_mut(m * output);
            let (chunk, function, start) = (&self.chunk, &mut self.function, range.start);
            self.tiles.map_rows(
                crate::engine::feed::view(&self.chunk).slice(range.start, range.end),
                &self.v,
                input,
                output,
                &mut self.scratch,
                products,
                |i, values, u| function(RowView { chunk, row: start + i, values }, u, extra),
            );
            self.tree.insert(0, index, sums).map_err(internal)?;
        }
        let entries = (rows * m) as u64;
        self.process.count(entries, entries * 2 * (input + output) as u64);
        Ok(Step::More { rows: rows as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        let length = self.tiles.centers() * self.widths.output + self.widths.extras;
        Ok(node_parcels(self.tree.into_nodes(), length))
    }
}

fn internal(error: impl std::fmt::Display) -> StageError {
    StageError::Internal(error.to_string())
}

/// Runs one pass; returns the m x s products (row-major) followed by the extra sums, on every worker.
///
/// `v` is m x t row-major. `function` writes u (s values, pre-zeroed by the tile loop's contract: it must write all of them)
/// and adds to the extras.
///
/// # Errors
/// Bad data, or a damaged exchange.
pub fn row_sums<T, F>(
    session: &mut Session<'_>,
    name: &str,
    feed: Feed,
    tiles: &Arc<Tiles<T>>,
    v: Arc<Vec<f64>>,
    widths: Widths,
    function: F,
) -> Result<Vec<f64>, StageError>
where
    T: Entry,
    F: FnMut(RowView<'_>, &mut [f64], &mut [f64]) + 'static,
{
    let length = tiles.centers() * widths.output + widths.extras;
    let blocks = feed.total_blocks();
    let scan = RowSums {
        chunk: Chunk::default(),
        scratch: TileScratch::default(),
        tree: SumTree::new(blocks),
        process: Arc::clone(&session.process),
        tiles: Arc::clone(tiles),
        feed,
        v,
        widths,
        function,
    };
    let parcels = pass(session, name, scan, TreeReducer::new(blocks, length), Audience::Everyone)?;
    assemble(parcels, length)
}
