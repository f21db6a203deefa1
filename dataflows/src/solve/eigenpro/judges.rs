//! Rows on which the iterates are judged after every epoch.

use super::{EigenProJob, JUDGES};
use crate::dictionary::pool::{Columns, PoolRule, gather_pool, pool_bits};
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::error::StageError;
use faer::Mat;
use nystream_datasets::Role;
use nystream_hashing::StreamKey;
use nystream_kernels::rows::RowBuf;
use nystream_kernels::tile::Entry;
use std::sync::Arc;

/// Rows that judge the iterates: held-out rows for the early-stopped form where there are some, otherwise training rows.
pub(super) struct Judges {
    pub(super) rows: Arc<RowBuf>,
    /// Scaled, row-major; NaN where null.
    pub(super) targets: Vec<f64>,
    pub(super) weights: Vec<f64>,
    pub(super) held_out: bool,
}

pub(super) fn judges<T: Entry>(
    session: &mut Session<'_>,
    store: &RowStore,
    job: &EigenProJob<'_, T>,
) -> Result<Arc<Judges>, StageError> {
    let held_out = job.ridge == 0.0 && job.held_out > 0;
    let gathered;
    let pool = if held_out {
        let key = StreamKey::new(job.seed, "eigenpro judges", 0);
        let bits = pool_bits(job.held_out, JUDGES as u64);
        gathered = gather_pool(session, "judges", store.feed(Role::HeldOut), PoolRule::all(key, bits), Columns::All)?;
        &gathered
    } else {
        job.sample
    };
    session.try_once(|| {
        let count = pool.len().min(JUDGES);
        let (raw, t) = (pool.target_width, job.code.width());
        let mut targets = vec![0.0; count * t];
        for (i, out) in targets.chunks_exact_mut(t).enumerate() {
            job.code.encode(&pool.targets[i * raw..(i + 1) * raw], out);
        }
        let rows = RowBuf::gather(pool.rows.view(), &(0..count).collect::<Vec<_>>());
        Ok(Judges { rows: Arc::new(rows), targets, weights: pool.weights[..count].to_vec(), held_out })
    })
}

impl Judges {
    /// (1/sum w) sum w (f - y)^2 over all outputs and judges.
    pub(super) fn loss(&self, values: &Mat<f64>) -> f64 {
        let t = values.ncols();
        let mut sum = 0.0;
        for (i, w) in self.weights.iter().enumerate() {
            for c in 0..t {
                let r = values[(i, c)] - self.targets[i * t + c];
                sum += if r.is_nan() { 0.0 } else { w * r * r };
            }
        }
        sum / self.weights.iter().sum::<f64>().max(f64::MIN_POSITIVE)
    }
}
