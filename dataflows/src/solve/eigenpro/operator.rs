//! EigenPro's data side over the workers: every process has the rows of a batch, and all centers or a shard of them.
//!
//! The subsample stands behind the last center, in the block of that center, so that each kernel entry of a batch serves f(X_B) and K^T g alike. Batches since the
//! last projection, about m rows, stay packed where they are evaluated.
//!
//! * With all centers in every process the workers divide the rows of a batch in sub-blocks; each entry is formed once, and (m + s + b) t values are exchanged.
//! * With shards ([`Shard`]) a process has some blocks of centers and every so many [stretches](CENTER_BLOCK) of the batches since the last projection. f(X_B) takes all rows
//!   with those, b t values are summed over the blocks, and K(Z, B) g needs no exchange but for the subsample's s t values; entries are formed twice.
//!
//! Both have the same shape: the blocks of centers are summed over a tree, the batches of a stretch in order and stretches over a tree, K^T g over [`sub_blocks`].
//!
//! Cost of a batch of b rows: b (m + s + rows of the temporaries) entries, b (m + s) more with shards.

use super::order::HashedOrder;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::matvec::blocks::{block_sums, share};
use crate::matvec::grid::{Shard, from_one, over_centers, row_values};
use crate::nystrom::{from_row_major, numeric, row_major};
use crate::targets::TargetCode;
use faer::{Mat, MatRef};
use nystream_kernels::kernel::Kernel;
use nystream_kernels::rows::{RowBuf, Rows};
use nystream_kernels::solve::eigenpro::{
    BatchPartial, CENTER_BLOCK, EigenProModel, EigenProOperator, NormalResidual, sub_blocks,
};
use nystream_kernels::tile::{BlockScratch, CenterBlocks, Entry, SimdPath, TileScratch, Tiles};
use nystream_kernels::tree::{Node, SumTree};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

/// Rows of a pass for the residual that are evaluated together.
const RESIDUAL_ROWS: usize = 8192;

/// The centers of a process, and behind the last of all a subsample.
pub(super) struct Packed<T: Entry> {
    pub shard: Shard,
    blocks: CenterBlocks<T>,
    /// Rows of the subsample, and those of them that are here: all or none.
    sample: usize,
    behind: usize,
}

impl<T: Entry> Packed<T> {
    /// Packs the shard of `centers`, which are all centers.
    pub fn new(
        kernel: &Kernel,
        centers: Rows<'_>,
        sample: Option<Rows<'_>>,
        shard: Shard,
        simd: SimdPath,
    ) -> Result<Self, StageError> {
        let own = shard.centers();
        let mut blocks = shard.own_blocks();
        let rows = centers.slice(own.start, own.end);
        let size = sample.map_or(0, |sample| sample.len());
        let packed = match sample.filter(|_| shard.has_last()) {
            Some(sample) => {
                let mut stacked = RowBuf::gather(rows, &(0..rows.len()).collect::<Vec<_>>());
                (0..sample.len()).for_each(|i| stacked.push(sample, i));
                if let Some(last) = blocks.last_mut() {
                    last.end += sample.len();
                }
                CenterBlocks::new(kernel, stacked.view(), &blocks, simd)
            }
            None => CenterBlocks::new(kernel, rows, &blocks, simd),
        };
        let behind = if shard.has_last() { size } else { 0 };
        Ok(Packed { blocks: packed.map_err(numeric)?, sample: size, behind, shard })
    }

    /// Coefficients of the shard's centers, and of the subsample (0 where none are given), row-major as the blocks take them.
    fn coefficients(&self, alpha: MatRef<'_, f64>, sample: Option<MatRef<'_, f64>>) -> Vec<f64> {
        let mut v = row_major(alpha);
        if self.behind > 0 {
            match sample {
                Some(sample) => v.extend(row_major(sample)),
                None => v.resize(v.len() + self.behind * alpha.ncols(), 0.0),
            }
        }
        v
    }

    /// Inserts the products of the blocks that are here with `v` as leaves of `tree`.
    fn leaves(
        &self,
        x: Rows<'_>,
        v: &[f64],
        t: usize,
        scratch: &mut TileScratch<T>,
        tree: &mut SumTree,
    ) -> Result<(), StageError> {
        for (number, (block, tiles)) in (self.shard.first_block()..).zip(self.blocks.blocks()) {
            let mut out = vec![0.0; x.len() * t];
            tiles.k_v(x, &v[block.start * t..block.end * t], t, scratch, &mut out);
            tree.insert(0, number, out).map_err(internal)?;
        }
        Ok(())
    }
}

fn internal(error: impl std::fmt::Display) -> StageError {
    StageError::Internal(error.to_string())
}

/// A batch as all workers of a process hold it.
struct Batch<T: Entry> {
    rows: RowBuf,
    /// b x t, scaled; NaN where null.
    targets: Vec<f64>,
    /// Scaled to mean 1 over the data.
    weights: Vec<f64>,
    /// Where it is evaluated after its step.
    packed: Option<Tiles<T>>,
}

/// A batch that is kept, and its weights.
type Weighted<T> = (Arc<Batch<T>>, Vec<f64>);

/// K(rows, batches) w of stretches of batches: those of one in order. Gives the number of entries.
struct Past<T: Entry>(Vec<(u64, Vec<Weighted<T>>)>);

impl<T: Entry> Past<T> {
    fn of(&self, stretch: u64) -> Option<&[Weighted<T>]> {
        self.0.iter().find(|(number, _)| *number == stretch).map(|(_, batches)| batches.as_slice())
    }

    fn rows(&self) -> usize {
        self.0.iter().flat_map(|(_, batches)| batches).map(|(batch, _)| batch.rows.len()).sum()
    }

    fn values(batches: &[Weighted<T>], x: Rows<'_>, t: usize, scratch: &mut TileScratch<T>) -> Vec<f64> {
        let mut sum = vec![0.0; x.len() * t];
        let mut part = vec![0.0; x.len() * t];
        for (batch, weights) in batches {
            if let Some(packed) = &batch.packed {
                packed.k_v(x, weights, t, scratch, &mut part);
                sum.iter_mut().zip(&part).for_each(|(sum, value)| *sum += value);
            }
        }
        sum
    }

    /// The stretches that `mine` says are here, as leaves of `tree`: one without a batch is empty.
    fn leaves(
        &self,
        mine: impl Fn(u64) -> bool,
        x: Rows<'_>,
        t: usize,
        scratch: &mut TileScratch<T>,
        tree: &mut SumTree,
    ) -> Result<(), StageError> {
        for stretch in (0..tree.total_blocks()).filter(|stretch| mine(*stretch)) {
            match self.of(stretch) {
                Some(batches) => tree.insert(0, stretch, Self::values(batches, x, t, scratch)),
                None => tree.insert_empty(0, stretch),
            }
            .map_err(internal)?;
        }
        Ok(())
    }
}

/// The stretch of a batch that begins at row `start`, and has begun `since` or later.
fn stretch(since: usize, start: usize) -> u64 {
    ((start - since) / CENTER_BLOCK) as u64
}

/// The data side; see the module documentation.
pub(super) struct RowOperator<'a, 's, 'w, T: Entry> {
    session: &'a RefCell<&'s mut Session<'w>>,
    order: HashedOrder,
    code: &'a TargetCode,
    packed: Arc<Packed<T>>,
    /// What the residual is computed with: no entries with the subsample are wanted then.
    plain: Arc<Packed<T>>,
    kernel: &'a Kernel,
    simd: SimdPath,
    /// Mean weight of a row.
    mean_weight: f64,
    /// The batches that are kept, by their rows.
    past: Vec<(Range<usize>, Arc<Batch<T>>)>,
}

/// What rows that are evaluated have: u (b x s), K(Z, B) u of the shard and K(S, B) u.
struct Evaluated {
    u: Vec<f64>,
    centers: Vec<f64>,
    sample: Vec<f64>,
}

/// u (s values) of row i from f(x_i) (t values) and what the batch has of it.
type RowFunction<T> = fn(&Batch<T>, usize, &[f64], &mut [f64]);

/// g = w (f - y), 0 where y is null.
fn residual<T: Entry>(batch: &Batch<T>, i: usize, f: &[f64], g: &mut [f64]) {
    let t = g.len();
    for (c, g) in g.iter_mut().enumerate() {
        let y = batch.targets[i * t + c];
        let r = batch.weights[i] * (f[c] - y);
        *g = if y.is_nan() { 0.0 } else { r };
    }
}

/// w (y - f) and then w y.
fn data_and_rhs<T: Entry>(batch: &Batch<T>, i: usize, f: &[f64], u: &mut [f64]) {
    let t = f.len();
    let (data, rhs) = u.split_at_mut(t);
    for c in 0..t {
        let y = batch.targets[i * t + c];
        let present = !y.is_nan();
        data[c] = if present { batch.weights[i] * (y - f[c]) } else { 0.0 };
        rhs[c] = if present { batch.weights[i] * y } else { 0.0 };
    }
}

impl<'a, 's, 'w, T: Entry> RowOperator<'a, 's, 'w, T> {
    pub fn new(
        session: &'a RefCell<&'s mut Session<'w>>,
        order: HashedOrder,
        (kernel, simd): (&'a Kernel, SimdPath),
        code: &'a TargetCode,
        (packed, plain): (Arc<Packed<T>>, Arc<Packed<T>>),
        mean_weight: f64,
    ) -> Self {
        RowOperator { session, order, code, packed, plain, kernel, simd, mean_weight, past: Vec::new() }
    }

    /// K(Z, X) u of the shard over all rows, u being w (y - f) and w y by the coefficients `alpha`.
    fn residual_sums(&mut self, alpha: MatRef<'_, f64>) -> Result<Mat<f64>, StageError> {
        let (m, t, rows) = (alpha.nrows(), self.code.width(), self.order.len());
        let mut sums = Mat::<f64>::zeros(m, 2 * t);
        for start in (0..rows).step_by(RESIDUAL_ROWS) {
            let batch = self.fetch(start..(start + RESIDUAL_ROWS).min(rows), false)?;
            let v = self.packed.coefficients(alpha, None);
            let found = self.evaluate(&batch, v, Past(Vec::new()), 0, 2 * t, data_and_rhs)?;
            sums += from_row_major(&found.centers, m, 2 * t);
        }
        Ok(sums)
    }

    fn fetch(&mut self, rows: Range<usize>, keep: bool) -> Result<Arc<Batch<T>>, StageError> {
        let mut session = self.session.borrow_mut();
        let pool = self.order.rows(&mut session, rows)?;
        let (raw, t) = (pool.target_width, self.code.width());
        session.try_once(|| {
            let mut targets = vec![0.0; pool.len() * t];
            for (i, out) in targets.chunks_exact_mut(t).enumerate() {
                self.code.encode(&pool.targets[i * raw..(i + 1) * raw], out);
            }
            let pack = || Tiles::new(self.kernel, pool.rows.view(), &[], self.simd).map_err(numeric);
            let packed = if keep { Some(pack()?) } else { None };
            let weights = pool.weights.iter().map(|w| w / self.mean_weight).collect();
            Ok(Batch { rows: pool.rows.clone(), targets, weights, packed })
        })
    }

    /// f of the rows of `batch` by the coefficients `v` (of the blocks that are here) and the batches of `past`, u of f, and the products of both with u.
    fn evaluate(
        &mut self,
        batch: &Arc<Batch<T>>,
        v: Vec<f64>,
        past: Past<T>,
        stretches: u64,
        s: usize,
        function: RowFunction<T>,
    ) -> Result<Evaluated, StageError> {
        match self.packed.shard.among() {
            None => self.evaluate_whole(batch, v, past, stretches, s, function),
            Some(among) => self.evaluate_shard(batch, v, past, stretches, s, function, among),
        }
    }

    /// Every process has all centers: each entry is formed once.
    fn evaluate_whole(
        &mut self,
        batch: &Arc<Batch<T>>,
        v: Vec<f64>,
        past: Past<T>,
        stretches: u64,
        s: usize,
        function: RowFunction<T>,
    ) -> Result<Evaluated, StageError> {
        let (b, t) = (batch.rows.len(), self.code.width());
        let (packed, held) = (Arc::clone(&self.packed), Arc::clone(batch));
        let (m, sample) = (packed.shard.total(), packed.sample);
        let parts: Vec<Range<usize>> = sub_blocks(0..b).collect();
        let mut session = self.session.borrow_mut();
        let process = Arc::clone(&session.process);
        let (mut scratch, mut single) = (BlockScratch::default(), TileScratch::default());
        let length = (m + sample + b) * s;
        let entries_of_row = m + sample + past.rows();
        let mut sums = block_sums(&mut session, "eigenpro batch", parts.len() as u64, length, move |unit| {
            let range = parts[unit as usize].clone();
            let x = held.rows.view().slice(range.start, range.end);
            let mut tree = SumTree::new(stretches);
            // Every stretch once: a tree refuses nothing of it.
            let earlier = past.leaves(|_| true, x, t, &mut single, &mut tree).ok().and_then(|()| tree.finish().ok());
            let earlier = earlier.unwrap_or_else(|| vec![f64::NAN; range.len() * t]);
            let mut out = vec![0.0; length];
            let (products, own) = out.split_at_mut((m + sample) * s);
            let mut f = vec![0.0; t];
            packed.blocks.map_rows(x, &v, t, s, &mut scratch, products, |i, centers, u| {
                f.copy_from_slice(centers);
                if !earlier.is_empty() {
                    f.iter_mut().zip(&earlier[i * t..(i + 1) * t]).for_each(|(f, earlier)| *f += earlier);
                }
                let row = range.start + i;
                function(&held, row, &f, u);
                own[row * s..(row + 1) * s].copy_from_slice(u);
            });
            let entries = range.len() * entries_of_row;
            process.count(entries as u64, (entries * 2 * t) as u64);
            process.handled(range.len() as u64);
            out
        })?;
        let u = sums.split_off((m + sample) * s);
        let sample = sums.split_off(m * s);
        Ok(Evaluated { u, centers: sums, sample })
    }

    /// This process has a shard: f is summed over all of them, and what is in the shard then needs no exchange.
    #[allow(clippy::too_many_arguments)]
    fn evaluate_shard(
        &mut self,
        batch: &Arc<Batch<T>>,
        v: Vec<f64>,
        past: Past<T>,
        stretches: u64,
        s: usize,
        function: RowFunction<T>,
        (index, processes): (usize, usize),
    ) -> Result<Evaluated, StageError> {
        let (b, t) = (batch.rows.len(), self.code.width());
        let mut session = self.session.borrow_mut();
        let (packed, held) = (Arc::clone(&self.packed), Arc::clone(batch));
        let process = Arc::clone(&session.process);
        let entries_of_row = packed.blocks.centers() + past.rows();
        let mut scratch = TileScratch::default();
        let trees = vec![packed.shard.blocks(), stretches];
        let f = row_values(&mut session, "eigenpro batch", &self.packed.shard, b, t, trees, move |range, trees| {
            let x = held.rows.view().slice(range.start, range.end);
            packed.leaves(x, &v, t, &mut scratch, &mut trees[0])?;
            let mine = |stretch| stretch % processes as u64 == index as u64;
            past.leaves(mine, x, t, &mut scratch, &mut trees[1])?;
            let entries = range.len() * entries_of_row;
            process.count(entries as u64, (entries * 2 * t) as u64);
            // Every process sees all rows, and is shown its part of them.
            process.handled((range.len() / processes) as u64);
            Ok(())
        })?;
        let u = session.once(|| {
            let mut u = vec![0.0; b * s];
            for (i, u) in u.chunks_exact_mut(s).enumerate() {
                function(batch, i, &f[i * t..(i + 1) * t], u);
            }
            u
        });
        let sums = transposed(&mut session, &self.packed.blocks, batch.rows.view(), &u, s)?;
        let mut centers = Arc::unwrap_or_clone(sums);
        let sample = centers.split_off(self.packed.shard.centers().len() * s);
        let sample = Some(sample).filter(|sample| !sample.is_empty());
        let sample = from_one(&mut session, "eigenpro subsample", sample, self.packed.sample * s)?;
        Ok(Evaluated { u: Arc::unwrap_or_clone(u), centers, sample: Arc::unwrap_or_clone(sample) })
    }
}

/// K^T u of the blocks of this process over all rows `x`, over the tree of [`sub_blocks`]: the process's workers divide sub-blocks and blocks.
fn transposed<T: Entry>(
    session: &mut Session<'_>,
    blocks: &CenterBlocks<T>,
    x: Rows<'_>,
    u: &[f64],
    s: usize,
) -> Result<Arc<Vec<f64>>, StageError> {
    let parts: Vec<Range<usize>> = sub_blocks(0..x.len()).collect();
    let (blocks, count) = (blocks.blocks(), parts.len() as u64);
    let units = share(count * blocks.len() as u64, session.process.workers() as u64, session.local_index() as u64);
    let mut scratch = TileScratch::default();
    let mut mine: Vec<(usize, SumTree)> = Vec::new();
    let mut entries = 0;
    for unit in units {
        let (block, part) = ((unit / count) as usize, unit % count);
        if mine.last().is_none_or(|(last, _)| *last != block) {
            mine.push((block, SumTree::new(count)));
        }
        let (range, tiles) = (parts[part as usize].clone(), &blocks[block].1);
        let mut sums = vec![0.0; tiles.centers() * s];
        tiles.kt_u(x.slice(range.start, range.end), &u[range.start * s..range.end * s], s, &mut scratch, &mut sums);
        if let Some((_, tree)) = mine.last_mut() {
            tree.insert(0, part, sums).map_err(internal)?;
        }
        entries += range.len() * tiles.centers();
    }
    session.process.count(entries as u64, (entries * 2 * s) as u64);
    let mine: Vec<(usize, Vec<Node>)> = mine.into_iter().map(|(block, tree)| (block, tree.into_nodes())).collect();
    let all = session.share(mine);
    session.try_once(|| {
        let mut trees: Vec<SumTree> = blocks.iter().map(|_| SumTree::new(count)).collect();
        for (block, nodes) in all.iter().flat_map(|worker| worker.iter()) {
            for node in nodes {
                trees[*block].insert_node(node.clone()).map_err(internal)?;
            }
        }
        let mut sums = Vec::with_capacity(blocks.last().map_or(0, |(block, _)| block.end) * s);
        for tree in trees {
            sums.extend(tree.finish().map_err(internal)?);
        }
        Ok(sums)
    })
}

impl<T: Entry> EigenProOperator for RowOperator<'_, '_, '_, T> {
    type Error = StageError;

    fn rows(&self) -> usize {
        self.order.len()
    }

    fn centers(&self) -> Option<usize> {
        self.packed.shard.among().map(|_| self.packed.shard.total())
    }

    fn keeps(&self, since: usize, rows: &Range<usize>) -> bool {
        let mine = |(index, processes)| stretch(since, rows.start) % processes as u64 == index as u64;
        self.packed.shard.among().is_none_or(|(index, processes): (usize, usize)| mine((index, processes)))
    }

    fn over_centers(&mut self, blocks: Vec<Vec<f64>>, length: usize) -> Result<Vec<f64>, StageError> {
        over_centers(&mut self.session.borrow_mut(), &self.packed.shard, blocks, length)
    }

    fn batch(&mut self, rows: Range<usize>, model: &EigenProModel<'_>) -> Result<BatchPartial, StageError> {
        let (b, m, s, t) = (rows.len(), model.alpha.nrows(), model.sample.nrows(), self.code.width());
        // A projection empties the temporaries.
        self.past.retain(|(range, _)| model.temporaries.iter().any(|kept| kept.rows == *range));
        if self.past.len() != model.temporaries.len() {
            return Err(StageError::Internal("a batch was forgotten before its projection".into()));
        }
        let keep = self.keeps(model.since, &rows);
        let batch = self.fetch(rows.clone(), keep)?;
        let v = self.packed.coefficients(model.alpha, Some(model.sample));
        let mut past: Vec<(u64, Vec<Weighted<T>>)> = Vec::new();
        for ((range, held), kept) in self.past.iter().zip(model.temporaries) {
            let stretch = stretch(model.since, range.start);
            if past.last().is_none_or(|(last, _)| *last != stretch) {
                past.push((stretch, Vec::new()));
            }
            if let Some((_, batches)) = past.last_mut() {
                batches.push((Arc::clone(held), row_major(kept.weights.as_ref())));
            }
        }
        // The last batch before this one begins before its first row.
        let stretches = if rows.start > model.since { stretch(model.since, rows.start - 1) + 1 } else { 0 };
        let found = self.evaluate(&batch, v, Past(past), stretches, t, residual)?;
        if keep {
            self.past.push((rows, batch));
        }
        Ok(BatchPartial {
            centers: from_row_major(&found.centers, m, t),
            sample: from_row_major(&found.sample, s, t),
            residual: from_row_major(&found.u, b, t),
        })
    }

    /// In the order of the hash, [`RESIDUAL_ROWS`] rows at a time.
    fn normal_residual(&mut self, alpha: MatRef<'_, f64>) -> Result<NormalResidual, StageError> {
        let t = self.code.width();
        let with_sample = std::mem::replace(&mut self.packed, Arc::clone(&self.plain));
        let sums = self.residual_sums(alpha);
        self.packed = with_sample;
        let sums = sums?;
        Ok(NormalResidual { data: sums.subcols(0, t).to_owned(), rhs: sums.subcols(t, t).to_owned() })
    }
}

/// K(X, Z) v (n x t) of rows X that every worker holds, with v of the shard.
pub(super) fn values_at<T: Entry>(
    session: &mut Session<'_>,
    name: &str,
    packed: &Arc<Packed<T>>,
    rows: &Arc<RowBuf>,
    v: MatRef<'_, f64>,
) -> Result<Mat<f64>, StageError> {
    let (n, t) = (rows.len(), v.ncols());
    let (own, rows, v) = (Arc::clone(packed), Arc::clone(rows), packed.coefficients(v, None));
    let process = Arc::clone(&session.process);
    let mut scratch = TileScratch::default();
    let trees = vec![packed.shard.blocks()];
    let values = row_values(session, name, &packed.shard, n, t, trees, move |range, trees| {
        let x = rows.view().slice(range.start, range.end);
        own.leaves(x, &v, t, &mut scratch, &mut trees[0])?;
        let entries = (range.len() * own.blocks.centers()) as u64;
        process.count(entries, entries * 2 * t as u64);
        Ok(())
    })?;
    Ok(from_row_major(&values, n, t))
}
