//! Pools: the training rows whose hash has L leading zero bits, gathered in one pass.
//!
//! A pool is a function of the set of rows and the seed; its order is the order of the hash. Every process holds a whole pool
//! (the plan counts it). Cost: one pass, N_p rows sent to every process.

use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Gather, Outgoing, Scan, Step, pass};
use crate::engine::feed::{Feed, view};
use crate::engine::session::Session;
use crate::error::StageError;
use nystream_datasets::Chunk;
use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::rows::{RowBuf, Rows};
use std::sync::Arc;

/// Encoded training rows in the order of their hash.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Features.
    pub rows: RowBuf,
    /// Row ids.
    pub ids: Vec<RowId>,
    /// Targets, row-major, in raw units; NaN where null.
    pub targets: Vec<f64>,
    /// Target columns.
    pub target_width: usize,
    /// Sample weights.
    pub weights: Vec<f64>,
}

impl Pool {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The rows at `indices`.
    pub fn gather(&self, indices: &[usize]) -> Pool {
        let t = self.target_width;
        Pool {
            rows: RowBuf::gather(self.rows.view(), indices),
            ids: indices.iter().map(|i| self.ids[*i]).collect(),
            targets: indices.iter().flat_map(|i| self.targets[i * t..(i + 1) * t].iter().copied()).collect(),
            target_width: t,
            weights: indices.iter().map(|i| self.weights[*i]).collect(),
        }
    }

    /// Indices of the first row of every group of rows with equal features, in order.
    pub fn distinct(&self) -> Vec<usize> {
        let view = self.rows.view();
        let mut seen = std::collections::BTreeSet::new();
        (0..self.len()).filter(|i| seen.insert(feature_key(view, *i))).collect()
    }

    /// Adds row `i` of `chunk`.
    pub(crate) fn push(&mut self, chunk: &Chunk, i: usize) {
        let t = chunk.target_width;
        if self.ids.is_empty() {
            self.rows = RowBuf::new(chunk.numeric_width, chunk.code_width);
            self.target_width = t;
        }
        self.rows.push(view(chunk), i);
        self.ids.push(chunk.ids[i]);
        self.targets.extend_from_slice(&chunk.targets[i * t..(i + 1) * t]);
        self.weights.push(chunk.weights[i]);
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.rows(&self.rows);
        out.ids(&self.ids);
        out.f64s(&self.targets);
        out.u64(self.target_width as u64);
        out.f64s(&self.weights);
        out.0
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Pool, StageError> {
        let mut from = Reader(bytes);
        let pool = Pool {
            rows: from.rows()?,
            ids: from.ids()?,
            targets: from.f64s()?,
            target_width: from.u64()? as usize,
            weights: from.f64s()?,
        };
        let n = pool.ids.len();
        let whole = pool.rows.numeric.len() == n * pool.rows.numeric_width
            && pool.rows.codes.len() == n * pool.rows.code_width
            && pool.targets.len() == n * pool.target_width
            && pool.weights.len() == n;
        if whole { Ok(pool) } else { Err(StageError::Internal("a pool arrived damaged".into())) }
    }

    fn append(&mut self, mut other: Pool) {
        if self.ids.is_empty() {
            *self = other;
            return;
        }
        self.rows.numeric.append(&mut other.rows.numeric);
        self.rows.codes.append(&mut other.rows.codes);
        self.ids.append(&mut other.ids);
        self.targets.append(&mut other.targets);
        self.weights.append(&mut other.weights);
    }

    /// All rows of `parts`, in that order.
    pub(crate) fn concat(parts: Vec<Pool>) -> Pool {
        parts.into_iter().fold(Pool::default(), |mut all, part| {
            all.append(part);
            all
        })
    }

    /// Sorted by hash under `key`.
    pub(crate) fn sorted(self, key: StreamKey) -> Pool {
        let mut order: Vec<(u128, usize)> = self.ids.iter().enumerate().map(|(i, id)| (key.u128(*id), i)).collect();
        order.sort_unstable();
        let order: Vec<usize> = order.into_iter().map(|(_, i)| i).collect();
        self.gather(&order)
    }
}

/// A key of the features of row `i`: equal for equal features, and for no others that will ever be met.
pub(crate) fn feature_key(rows: Rows<'_>, i: usize) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    // +0 and -0 are the same feature value.
    rows.numeric(i).iter().for_each(|v| {
        hasher.update(&(v + 0.0).to_bits().to_le_bytes());
    });
    rows.codes(i).iter().for_each(|c| {
        hasher.update(&c.to_le_bytes());
    });
    *hasher.finalize().as_bytes()
}

/// Leading zero bits that leave about `wanted` of `rows` rows, and at least `wanted` of them with overwhelming probability:
/// floor(log2(rows / (wanted + 8 sqrt(wanted) + 64))).
pub fn pool_bits(rows: u64, wanted: u64) -> u32 {
    let needed = wanted as f64 + 8.0 * (wanted as f64).sqrt() + 64.0;
    let ratio = rows as f64 / needed;
    if ratio < 2.0 { 0 } else { ratio.log2().floor() as u32 }
}

/// Leading zero bits that leave at most `allowed` of `rows` rows in expectation: ceil(log2(rows / allowed)).
pub fn pool_bits_within(rows: u64, allowed: f64) -> u32 {
    let ratio = rows as f64 / allowed.max(1.0);
    if ratio <= 1.0 { 0 } else { ratio.log2().ceil() as u32 }
}

/// Expected rows of a pool of `rows` rows with `bits` leading zero bits.
pub fn pool_rows(rows: u64, bits: u32) -> u64 {
    (rows as f64 * 2f64.powi(-(bits as i32))).round() as u64
}

/// The bits of a pool of which `expected` rows are expected: the inverse of [`pool_rows`] for pools of 4 rows or more.
pub fn expected_bits(rows: u64, expected: u64) -> u32 {
    if expected >= rows { 0 } else { (rows as f64 / expected.max(1) as f64).log2().round() as u32 }
}

/// Whether `hash` has at least `bits` leading zero bits.
pub fn in_pool(hash: u128, bits: u32) -> bool {
    hash.leading_zeros() >= bits
}

pub(crate) struct PoolScan {
    pub feed: Feed,
    pub chunk: Chunk,
    pub key: StreamKey,
    pub bits: u32,
    pub pool: Pool,
}

impl PoolScan {
    pub(crate) fn new(feed: Feed, key: StreamKey, bits: u32) -> Self {
        PoolScan { feed, chunk: Chunk::default(), key, bits, pool: Pool::default() }
    }

    pub(crate) fn read(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        for i in 0..self.chunk.rows() {
            if in_pool(self.key.u128(self.chunk.ids[i]), self.bits) {
                self.pool.push(&self.chunk, i);
            }
        }
        Ok(Step::More { rows: self.chunk.rows() as u64 })
    }
}

impl Scan for PoolScan {
    fn step(&mut self) -> Result<Step, StageError> {
        self.read()
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(vec![Outgoing { key: 0, bytes: self.pool.to_bytes() }])
    }
}

/// Gathers the pool of rows with `bits` leading zero bits under `key`, once per process.
///
/// # Errors
/// Bad data, or a damaged exchange.
pub fn gather_pool(
    session: &mut Session<'_>,
    name: &str,
    feed: Feed,
    key: StreamKey,
    bits: u32,
) -> Result<Arc<Pool>, StageError> {
    let parcels = pass(session, name, PoolScan::new(feed, key, bits), Gather::default(), Audience::Leaders)?;
    session.try_once(move || {
        let parts = parcels.iter().map(|p| Pool::from_bytes(&p.bytes)).collect::<Result<Vec<_>, _>>()?;
        Ok(Pool::concat(parts).sorted(key))
    })
}
