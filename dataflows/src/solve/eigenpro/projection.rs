//! From values at the centers to coefficients, over the workers: by the factor of K_mm, or by epochs of EigenPro 2 over the centers, on their shards.

use super::operator::{Packed, values_at};
use super::{EigenProJob, PROBES, PROJECTION_EPOCHS, kept, matrix, projection_sample};
use crate::engine::session::Session;
use crate::error::StageError;
use crate::matvec::blocks::block_sums;
use crate::matvec::grid::{Shard, gather, over_processes};
use crate::nystrom::{Basis, from_row_major, numeric, row_major};
use crate::solve::pcg::solve_error;
use faer::{Mat, MatRef};
use nystream_hashing::StreamKey;
use nystream_kernels::rows::RowBuf;
use nystream_kernels::solve::Whitening;
use nystream_kernels::solve::eigenpro::{
    CenterOperator, InnerProjector, Projector, SubsamplePreconditioner, sub_blocks,
};
use nystream_kernels::tile::{Entry, TileScratch, Tiles, symmetric_kernel_matrix};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

/// Exact projection by the whitener of K_mm: directions that are zero to working precision hold nothing.
#[derive(Clone)]
pub(super) struct WhitenedProjector<'a, 's, 'w> {
    pub session: &'a RefCell<&'s mut Session<'w>>,
    pub basis: Arc<Basis>,
    pub shard: Shard,
}

impl WhitenedProjector<'_, '_, '_> {
    /// The shard's rows of what `work` makes of all rows of `part`.
    fn with_all(
        &mut self,
        part: MatRef<'_, f64>,
        work: impl FnOnce(&Basis, MatRef<'_, f64>) -> Mat<f64>,
    ) -> Result<Mat<f64>, StageError> {
        let (mut session, basis) = (self.session.borrow_mut(), &self.basis);
        if self.shard.among().is_none() {
            return Ok((*session.once(|| work(basis, part))).clone());
        }
        let all = gather(&mut session, &self.shard, row_major(part))?;
        let own = self.shard.centers();
        let found = session.once(|| {
            let all = from_row_major(&all, self.shard.total(), part.ncols());
            work(basis, all.as_ref()).subrows(own.start, own.len()).to_owned()
        });
        Ok((*found).clone())
    }
}

impl Projector for WhitenedProjector<'_, '_, '_> {
    type Error = StageError;

    fn project(&mut self, h: MatRef<'_, f64>) -> Result<(Mat<f64>, Mat<f64>), StageError> {
        let theta = self.with_all(h, |basis, h| basis.apply(basis.apply_transpose(h).as_ref()))?;
        Ok((theta, Mat::zeros(h.nrows(), h.ncols())))
    }

    fn center_gram(&mut self, alpha: MatRef<'_, f64>) -> Result<Mat<f64>, StageError> {
        self.with_all(alpha, |basis, alpha| basis.center_gram(alpha))
    }
}

/// The inexact projection's subsample of the centers, in the order of their hash so that it is uniform among them.
pub(super) fn inner_projector<'a, 's, 'w, T: Entry>(
    shared: &'a RefCell<&'s mut Session<'w>>,
    job: &EigenProJob<'a, T>,
    shard: &Shard,
) -> Result<InnerProjector<CenterRows<'a, 's, 'w>>, StageError> {
    let m = job.centers.len();
    let key = StreamKey::new(job.seed, "eigenpro centers", 0);
    let mut order: Vec<(u128, usize)> = (0..m).map(|i| (key.u128(nystream_hashing::RowId(i as u128)), i)).collect();
    order.sort_unstable();
    let chosen: Vec<usize> = order.into_iter().map(|(_, i)| i).collect();
    let s = projection_sample(m);
    let probes = (m - s).min(PROBES);
    let (sample, probe) = (chosen[..s].to_vec(), if probes > 0 { &chosen[s..s + probes] } else { &chosen[..s] });
    let make = || {
        let sample_rows = RowBuf::gather(job.centers.view(), &sample);
        let probe_rows = RowBuf::gather(job.centers.view(), probe);
        let k_ss = symmetric_kernel_matrix(job.kernel, sample_rows.view(), &[], job.simd).map_err(numeric)?;
        let q = SubsamplePreconditioner::recommended_rank(s);
        let preconditioner = SubsamplePreconditioner::new(k_ss.as_ref(), q, 1.0).map_err(numeric)?;
        let k_pp = symmetric_kernel_matrix(job.kernel, probe_rows.view(), &[], job.simd).map_err(numeric)?;
        let k_ps = matrix(job.kernel, probe_rows.view(), sample_rows.view(), job.simd)?;
        let measured = preconditioner.measure(k_pp.as_ref(), k_ps.as_ref(), &vec![1.0; probe_rows.len()]);
        Ok((preconditioner, measured))
    };
    let made = kept::preconditioner(&mut shared.borrow_mut(), "eigenpro preconditioner of the centers", s, make)?;
    let built = shared.borrow_mut().try_once(|| {
        let sample_rows = RowBuf::gather(job.centers.view(), &sample);
        let packed = Packed::<f64>::new(job.kernel, job.centers.view(), None, shard.clone(), job.simd)?;
        let sample = Tiles::<f64>::new(job.kernel, sample_rows.view(), &[], job.simd).map_err(numeric)?;
        Ok((Arc::new(packed), Arc::new(sample)))
    })?;
    let (packed, rows) = (Arc::clone(&built.0), job.centers);
    let operator = CenterRows { session: shared, rows, packed, sample: Arc::clone(&built.1) };
    InnerProjector::new(operator, made.0.clone(), sample, made.1, PROJECTION_EPOCHS).map_err(solve_error)
}

/// Products with a K_ZZ that is too large to keep, for the inexact projection.
#[derive(Clone)]
pub(super) struct CenterRows<'a, 's, 'w> {
    pub session: &'a RefCell<&'s mut Session<'w>>,
    /// All centers.
    pub rows: &'a RowBuf,
    /// f64 entries: K_ZZ is nearly singular.
    pub packed: Arc<Packed<f64>>,
    pub sample: Arc<Tiles<f64>>,
}

impl CenterRows<'_, '_, '_> {
    /// The centers in `block`, once per process.
    fn block(&self, block: &Range<usize>) -> Arc<RowBuf> {
        let gather = || RowBuf::gather(self.rows.view(), &block.clone().collect::<Vec<_>>());
        self.session.borrow_mut().once(gather)
    }
}

impl CenterOperator for CenterRows<'_, '_, '_> {
    type Error = StageError;

    fn centers(&self) -> usize {
        self.rows.len()
    }

    fn shard(&self) -> Range<usize> {
        self.packed.shard.centers()
    }

    fn block_times(
        &mut self,
        block: Range<usize>,
        v: MatRef<'_, f64>,
        h: Option<MatRef<'_, f64>>,
    ) -> Result<Mat<f64>, StageError> {
        let rows = self.block(&block);
        let mut session = self.session.borrow_mut();
        let mut product = values_at(&mut session, "centers by centers", &self.packed, &rows, v)?;
        let Some(h) = h else { return Ok(product) };
        let (t, shard) = (h.ncols(), self.packed.shard.centers());
        // Of the process that has the block; a part of it comes from each that has some.
        let own = |i: usize| (i - shard.start, i - block.start);
        let here = block.clone().filter(|i| shard.contains(i)).map(own);
        match self.packed.shard.among() {
            None => here.for_each(|(i, k)| (0..t).for_each(|j| product[(k, j)] -= h[(i, j)])),
            Some(_) => {
                let mut mine = vec![0.0; block.len() * t];
                here.for_each(|(i, k)| (0..t).for_each(|j| mine[k * t + j] = h[(i, j)]));
                let values = over_processes(&mut session, &self.packed.shard, mine)?;
                (0..block.len()).for_each(|k| (0..t).for_each(|j| product[(k, j)] -= values[k * t + j]));
            }
        }
        Ok(product)
    }

    fn sample_times(&mut self, block: Range<usize>, g: MatRef<'_, f64>) -> Result<Mat<f64>, StageError> {
        let (s, t) = (self.sample.centers(), g.ncols());
        let rows = self.block(&block);
        let (tiles, g) = (Arc::clone(&self.sample), row_major(g));
        let parts: Vec<Range<usize>> = sub_blocks(0..block.len()).collect();
        let mut session = self.session.borrow_mut();
        let process = Arc::clone(&session.process);
        let mut scratch = TileScratch::default();
        let sums = block_sums(&mut session, "centers by subsample", parts.len() as u64, s * t, move |unit| {
            let part = parts[unit as usize].clone();
            let x = rows.view().slice(part.start, part.end);
            let mut out = vec![0.0; s * t];
            tiles.kt_u(x, &g[part.start * t..part.end * t], t, &mut scratch, &mut out);
            process.count((part.len() * s) as u64, (2 * part.len() * s * t) as u64);
            out
        })?;
        Ok(from_row_major(&sums, s, t))
    }
}
