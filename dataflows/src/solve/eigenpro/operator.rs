//! EigenPro's data side over the workers: a batch is a window's rows, evaluated in sub-blocks that the workers divide.
//!
//! Centers and subsample stand in one packed set, so that each kernel entry of a batch serves f(X_B) and K^T g alike. Batches since the last
//! projection stay packed in every process: their rows are at most about m.
//!
//! Cost of a batch of b rows: b (m + s + rows of the temporaries) entries, and (m + s + b) t values exchanged.

use super::order::HashedOrder;
use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Gather, Outgoing, Scan, Step, pass};
use crate::engine::feed::{Feed, RowStore, view};
use crate::engine::session::{Process, Session};
use crate::error::StageError;
use crate::matvec::blocks::block_sums;
use crate::matvec::{Reads, RowView, Widths, row_sums};
use crate::nystrom::{from_row_major, numeric, row_major};
use crate::targets::TargetCode;
use faer::{Mat, MatRef};
use nystream_datasets::{Chunk, Role};
use nystream_kernels::rows::RowBuf;
use nystream_kernels::solve::eigenpro::{
    BatchPartial, CenterOperator, EigenProModel, EigenProOperator, NormalResidual, SUB_BLOCK_ROWS, sub_blocks,
};
use nystream_kernels::tile::{Entry, TileScratch, Tiles};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

/// A batch as all workers of a process hold it.
struct Batch<T: Entry> {
    rows: RowBuf,
    /// b x t, scaled; NaN where null.
    targets: Vec<f64>,
    /// Scaled to mean 1 over the data.
    weights: Vec<f64>,
    packed: Arc<Tiles<T>>,
}

/// The data side; see the module documentation.
pub(super) struct RowOperator<'a, 's, 'w, T: Entry> {
    pub session: &'a RefCell<&'s mut Session<'w>>,
    pub store: &'a RowStore,
    pub order: HashedOrder,
    pub code: &'a TargetCode,
    /// The centers.
    pub centers: Arc<Tiles<T>>,
    /// The centers, then the subsample.
    pub both: Arc<Tiles<T>>,
    /// Mean weight of a row.
    pub mean_weight: f64,
    past: Vec<(Range<usize>, Arc<Batch<T>>)>,
}

impl<'a, 's, 'w, T: Entry> RowOperator<'a, 's, 'w, T> {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        session: &'a RefCell<&'s mut Session<'w>>,
        store: &'a RowStore,
        order: HashedOrder,
        code: &'a TargetCode,
        centers: Arc<Tiles<T>>,
        both: Arc<Tiles<T>>,
        mean_weight: f64,
    ) -> Self {
        RowOperator { session, store, order, code, centers, both, mean_weight, past: Vec::new() }
    }

    fn fetch(&mut self, rows: Range<usize>) -> Result<Arc<Batch<T>>, StageError> {
        let mut session = self.session.borrow_mut();
        let pool = self.order.rows(&mut session, rows)?;
        let (raw, t) = (pool.target_width, self.code.width());
        session.try_once(|| {
            let mut targets = vec![0.0; pool.len() * t];
            for (i, out) in targets.chunks_exact_mut(t).enumerate() {
                self.code.encode(&pool.targets[i * raw..(i + 1) * raw], out);
            }
            let packed = Tiles::new(self.both.kernel(), pool.rows.view(), &[], self.both.simd()).map_err(numeric)?;
            let weights = pool.weights.iter().map(|w| w / self.mean_weight).collect();
            Ok(Batch { rows: pool.rows.clone(), targets, weights, packed: Arc::new(packed) })
        })
    }
}

impl<T: Entry> EigenProOperator for RowOperator<'_, '_, '_, T> {
    type Error = StageError;

    fn rows(&self) -> usize {
        self.order.len()
    }

    fn batch(&mut self, rows: Range<usize>, model: &EigenProModel<'_>) -> Result<BatchPartial, StageError> {
        let (b, m, s, t) = (rows.len(), model.alpha.nrows(), model.sample.nrows(), self.code.width());
        // A projection empties the temporaries.
        self.past.retain(|(range, _)| model.temporaries.iter().any(|kept| kept.rows == *range));
        let batch = self.fetch(rows.clone())?;
        let mut v = row_major(model.alpha);
        v.extend(row_major(model.sample));
        let past: Vec<(Arc<Batch<T>>, Vec<f64>)> = self
            .past
            .iter()
            .zip(model.temporaries)
            .map(|((_, held), kept)| (Arc::clone(held), row_major(kept.weights.as_ref())))
            .collect();
        if past.len() != model.temporaries.len() {
            return Err(StageError::Internal("a batch was forgotten before its projection".into()));
        }
        let (both, held) = (Arc::clone(&self.both), Arc::clone(&batch));
        let parts: Vec<Range<usize>> = sub_blocks(0..b).collect();
        let mut session = self.session.borrow_mut();
        let process = Arc::clone(&session.process);
        let mut scratch = TileScratch::default();
        let length = (m + s + b) * t;
        let sums = block_sums(&mut session, "eigenpro batch", parts.len() as u64, length, move |unit| {
            let range = parts[unit as usize].clone();
            let x = held.rows.view().slice(range.start, range.end);
            let mut earlier = vec![0.0; range.len() * t];
            let mut part = vec![0.0; range.len() * t];
            let mut entries = range.len() * (m + s);
            for (batch, weights) in &past {
                batch.packed.k_v(x, weights, t, &mut scratch, &mut part);
                earlier.iter_mut().zip(&part).for_each(|(sum, value)| *sum += value);
                entries += range.len() * batch.rows.len();
            }
            let mut out = vec![0.0; length];
            let (products, residuals) = out.split_at_mut((m + s) * t);
            both.map_rows(x, &v, t, t, &mut scratch, products, |i, f, g| {
                let row = range.start + i;
                for (c, g) in g.iter_mut().enumerate() {
                    let y = held.targets[row * t + c];
                    let r = held.weights[row] * (f[c] + earlier[i * t + c] - y);
                    *g = if y.is_nan() { 0.0 } else { r };
                    residuals[row * t + c] = *g;
                }
            });
            process.count(entries as u64, (entries * 2 * t) as u64);
            process.progress.advance(range.len() as u64);
            out
        })?;
        self.past.push((rows, batch));
        Ok(BatchPartial {
            centers: from_row_major(&sums[..m * t], m, t),
            sample: from_row_major(&sums[m * t..(m + s) * t], s, t),
            residual: from_row_major(&sums[(m + s) * t..], b, t),
        })
    }

    fn normal_residual(&mut self, alpha: MatRef<'_, f64>) -> Result<NormalResidual, StageError> {
        let (m, t) = (alpha.nrows(), self.code.width());
        let (code, mean_weight) = (self.code.clone(), self.mean_weight);
        let mut y = vec![0.0; t];
        let sums = row_sums(
            &mut self.session.borrow_mut(),
            "residual",
            self.store.feed(Role::Training),
            &self.centers,
            Reads::Product(Arc::new(row_major(alpha))),
            Widths { input: t, output: 2 * t, extras: 0 },
            move |row: RowView<'_>, u: &mut [f64], _: &mut [f64]| {
                let raw = row.chunk.target_width;
                code.encode(&row.chunk.targets[row.row * raw..(row.row + 1) * raw], &mut y);
                let weight = row.chunk.weights[row.row] / mean_weight;
                let (data, rhs) = u.split_at_mut(t);
                for c in 0..t {
                    let present = !y[c].is_nan();
                    data[c] = if present { weight * (y[c] - row.values[c]) } else { 0.0 };
                    rhs[c] = if present { weight * y[c] } else { 0.0 };
                }
            },
        )?;
        let sums = from_row_major(&sums, m, 2 * t);
        Ok(NormalResidual { data: sums.subcols(0, t).to_owned(), rhs: sums.subcols(t, t).to_owned() })
    }
}

/// K(X, Z) v (n x t) of rows X that every worker holds; each value belongs to one row, so the blocks only divide the work.
pub(super) fn values_at<T: Entry>(
    session: &mut Session<'_>,
    name: &str,
    tiles: &Arc<Tiles<T>>,
    rows: &Arc<RowBuf>,
    range: Range<usize>,
    v: MatRef<'_, f64>,
) -> Result<Mat<f64>, StageError> {
    let (n, t) = (range.len(), v.ncols());
    let (tiles, rows, v) = (Arc::clone(tiles), Arc::clone(rows), row_major(v));
    let process = Arc::clone(&session.process);
    let mut scratch = TileScratch::default();
    let sums = block_sums(session, name, n.div_ceil(SUB_BLOCK_ROWS) as u64, n * t, move |unit| {
        let start = unit as usize * SUB_BLOCK_ROWS;
        let end = (start + SUB_BLOCK_ROWS).min(n);
        let mut out = vec![0.0; n * t];
        let x = rows.view().slice(range.start + start, range.start + end);
        tiles.k_v(x, &v, t, &mut scratch, &mut out[start * t..end * t]);
        let entries = ((end - start) * tiles.centers()) as u64;
        process.count(entries, entries * 2 * t as u64);
        out
    })?;
    Ok(from_row_major(&sums, n, t))
}

/// Products with a K_ZZ that is too large to keep, for the inexact projection.
#[derive(Clone)]
pub(super) struct CenterRows<'a, 's, 'w> {
    pub session: &'a RefCell<&'s mut Session<'w>>,
    pub rows: Arc<RowBuf>,
    /// f64 entries: K_ZZ is nearly singular.
    pub centers: Arc<Tiles<f64>>,
    pub sample: Arc<Tiles<f64>>,
}

impl CenterOperator for CenterRows<'_, '_, '_> {
    type Error = StageError;

    fn centers(&self) -> usize {
        self.rows.len()
    }

    fn block_times(&mut self, block: Range<usize>, v: MatRef<'_, f64>) -> Result<Mat<f64>, StageError> {
        values_at(&mut self.session.borrow_mut(), "centers by centers", &self.centers, &self.rows, block, v)
    }

    fn sample_times(&mut self, block: Range<usize>, g: MatRef<'_, f64>) -> Result<Mat<f64>, StageError> {
        let (s, t) = (self.sample.centers(), g.ncols());
        let (tiles, rows, g) = (Arc::clone(&self.sample), Arc::clone(&self.rows), row_major(g));
        let parts: Vec<Range<usize>> = sub_blocks(0..block.len()).collect();
        let mut session = self.session.borrow_mut();
        let process = Arc::clone(&session.process);
        let mut scratch = TileScratch::default();
        let sums = block_sums(&mut session, "centers by subsample", parts.len() as u64, s * t, move |unit| {
            let part = parts[unit as usize].clone();
            let x = rows.view().slice(block.start + part.start, block.start + part.end);
            let mut out = vec![0.0; s * t];
            tiles.kt_u(x, &g[part.start * t..part.end * t], t, &mut scratch, &mut out);
            process.count((part.len() * s) as u64, (2 * part.len() * s * t) as u64);
            out
        })?;
        Ok(from_row_major(&sums, s, t))
    }
}

/// Largest w k_P(x, x) and w k(x, x) over all training rows, weights scaled to mean 1: k_P(x, x) = k(x, x) - sum_i D_i (E_i^T k(S, x))^2.
///
/// A step must be stable for the worst row, and a row far from all others is seldom among the probes. `directions` is E D^1/2, s x q row-major.
pub(super) fn largest_diagonals<T: Entry>(
    session: &mut Session<'_>,
    feed: Feed,
    sample: Arc<Tiles<T>>,
    directions: Vec<f64>,
    mean_weight: f64,
) -> Result<[f64; 2], StageError> {
    let scan = Diagonals {
        feed,
        chunk: Chunk::default(),
        rank: directions.len() / sample.centers().max(1),
        sample,
        directions,
        mean_weight,
        scratch: TileScratch::default(),
        values: Vec::new(),
        largest: [0.0; 2],
        process: Arc::clone(&session.process),
    };
    let parcels = pass(session, "preconditioned diagonal", scan, Gather::default(), Audience::Everyone)?;
    let mut largest = [0.0f64; 2];
    for parcel in parcels {
        let mut from = Reader(&parcel.bytes);
        for (largest, value) in largest.iter_mut().zip(from.f64s()?) {
            *largest = largest.max(value);
        }
    }
    Ok(largest)
}

struct Diagonals<T: Entry> {
    feed: Feed,
    chunk: Chunk,
    sample: Arc<Tiles<T>>,
    directions: Vec<f64>,
    rank: usize,
    mean_weight: f64,
    scratch: TileScratch<T>,
    values: Vec<f64>,
    largest: [f64; 2],
    process: Arc<Process>,
}

impl<T: Entry> Scan for Diagonals<T> {
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        let (rows, q) = (self.chunk.rows(), self.rank);
        let x = view(&self.chunk);
        self.values.clear();
        self.values.resize(rows * q, 0.0);
        self.sample.k_v(x, &self.directions, q, &mut self.scratch, &mut self.values);
        for i in 0..rows {
            let whole = self.sample.kernel().diagonal(x, i);
            let flattened: f64 = self.values[i * q..(i + 1) * q].iter().map(|v| v * v).sum();
            let weight = self.chunk.weights[i] / self.mean_weight;
            self.largest[0] = self.largest[0].max(weight * (whole - flattened));
            self.largest[1] = self.largest[1].max(weight * whole);
        }
        let entries = (rows * self.sample.centers()) as u64;
        self.process.count(entries, entries * 2 * q as u64);
        Ok(Step::More { rows: rows as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        let mut out = Writer::default();
        out.f64s(&self.largest);
        Ok(vec![Outgoing { key: 0, bytes: out.0 }])
    }
}
