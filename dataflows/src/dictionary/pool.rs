//! Pools: the training rows whose hash has L leading zero bits, gathered in one pass.
//!
//! A pool is a function of the set of rows and the seed; its order is the order of the hash. Every process holds a whole pool
//! (the plan counts it). Cost: one pass, N_p rows sent to every process, which hold them once: senders give up what they send, and the
//! rows are sorted in place.

use crate::engine::bytes::{Reader, Writer};
use crate::engine::deal::{LETTER_BYTES, Letter, deal};
use crate::engine::exchange::{Audience, Gather, Outgoing, Scan, Step, pass};
use crate::engine::feed::{Feed, view};
use crate::engine::leases::Leased;
use crate::engine::session::Session;
use crate::error::StageError;
use nystream_datasets::Chunk;
use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::rows::{RowBuf, Rows};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// What of a row goes into a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// Features and id: what centers are chosen by.
    Features,
    /// Targets and weight too.
    All,
}

/// Encoded training rows in the order of their hash.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Features.
    pub rows: RowBuf,
    /// Row ids.
    pub ids: Vec<RowId>,
    /// Targets, row-major, in raw units; NaN where null. None with [`Columns::Features`].
    pub targets: Vec<f64>,
    /// Target columns.
    pub target_width: usize,
    /// Sample weights. None with [`Columns::Features`].
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

    /// Bytes that the rows take.
    pub(crate) fn bytes(&self) -> u64 {
        let numbers = 4 * self.rows.numeric.len() + 2 * self.rows.codes.len();
        (numbers + 16 * self.ids.len() + 8 * (self.targets.len() + self.weights.len())) as u64
    }

    /// Leaves the first `rows` rows, and gives back the memory of the others.
    pub(crate) fn truncate(&mut self, rows: usize) {
        fn cut<T>(values: &mut Vec<T>, rows: usize, width: usize) {
            values.truncate(rows * width);
            values.shrink_to_fit();
        }
        cut(&mut self.rows.numeric, rows, self.rows.numeric_width);
        cut(&mut self.rows.codes, rows, self.rows.code_width);
        cut(&mut self.ids, rows, 1);
        cut(&mut self.targets, rows, self.target_width);
        cut(&mut self.weights, rows, 1);
    }

    /// The rows at `indices`.
    pub fn gather(&self, indices: &[usize]) -> Pool {
        let t = self.target_width;
        Pool {
            rows: RowBuf::gather(self.rows.view(), indices),
            ids: indices.iter().map(|i| self.ids[*i]).collect(),
            targets: indices.iter().flat_map(|i| self.targets[i * t..(i + 1) * t].iter().copied()).collect(),
            target_width: t,
            weights: indices.iter().filter_map(|i| self.weights.get(*i).copied()).collect(),
        }
    }

    /// Indices of the first row of every group of rows with equal features, in order. 0.0 and -0.0 are equal.
    ///
    /// ```
    /// use nystream_dataflows::dictionary::pool::Pool;
    /// use nystream_hashing::RowId;
    /// use nystream_kernels::rows::RowBuf;
    /// let rows = RowBuf { numeric: vec![1.0, 2.0, 1.0], numeric_width: 1, codes: vec![], code_width: 0 };
    /// let pool = Pool { rows, ids: vec![RowId(7), RowId(8), RowId(9)], ..Pool::default() };
    /// assert_eq!(pool.distinct(), [0, 1]);
    /// assert_eq!(pool.gather(&pool.distinct()).ids, [RowId(7), RowId(8)]);
    /// ```
    pub fn distinct(&self) -> Vec<usize> {
        let view = self.rows.view();
        let mut seen = std::collections::BTreeSet::new();
        (0..self.len()).filter(|i| seen.insert(feature_key(view, *i))).collect()
    }

    /// Adds row `i` of `chunk`.
    pub(crate) fn push(&mut self, chunk: &Chunk, i: usize, columns: Columns) {
        if self.ids.is_empty() && self.rows.numeric_width + self.rows.code_width == 0 {
            self.rows = RowBuf::new(chunk.numeric_width, chunk.code_width);
        }
        self.rows.push(view(chunk), i);
        self.ids.push(chunk.ids[i]);
        if columns == Columns::All {
            let t = chunk.target_width;
            self.target_width = t;
            self.targets.extend_from_slice(&chunk.targets[i * t..(i + 1) * t]);
            self.weights.push(chunk.weights[i]);
        }
    }

    /// The rows in pieces for one letter each, the last ones first; what has been given is freed.
    pub(crate) fn into_pieces(mut self) -> impl Iterator<Item = Pool> {
        let row = 4 * self.rows.numeric_width + 2 * self.rows.code_width + 8 * self.target_width + 24;
        let most = (LETTER_BYTES / row).max(1);
        std::iter::from_fn(move || {
            let from = self.len().saturating_sub(most);
            (from < self.len()).then(|| self.split_off(from))
        })
    }

    /// The rows from `from` on, taken away.
    fn split_off(&mut self, from: usize) -> Pool {
        fn tail<T>(values: &mut Vec<T>, from: usize) -> Vec<T> {
            let tail = values.split_off(from.min(values.len()));
            values.shrink_to_fit();
            tail
        }
        let (d, c, t) = (self.rows.numeric_width, self.rows.code_width, self.target_width);
        Pool {
            rows: RowBuf {
                numeric: tail(&mut self.rows.numeric, from * d),
                numeric_width: d,
                codes: tail(&mut self.rows.codes, from * c),
                code_width: c,
            },
            ids: tail(&mut self.ids, from),
            targets: tail(&mut self.targets, from * t),
            target_width: t,
            weights: tail(&mut self.weights, from),
        }
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
            && (pool.weights.len() == n || pool.weights.is_empty());
        if whole { Ok(pool) } else { Err(StageError::Internal("a pool arrived damaged".into())) }
    }

    /// Makes room for `rows` rows like those of `other`.
    pub(crate) fn reserve(&mut self, rows: usize, other: &Pool) {
        self.rows.numeric.reserve_exact(rows * other.rows.numeric_width);
        self.rows.codes.reserve_exact(rows * other.rows.code_width);
        self.ids.reserve_exact(rows);
    }

    pub(crate) fn append(&mut self, mut other: Pool) {
        if self.ids.is_empty() {
            (self.rows.numeric_width, self.rows.code_width) = (other.rows.numeric_width, other.rows.code_width);
            self.target_width = other.target_width;
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

    /// Sorted by hash under `key`, in place.
    pub(crate) fn sorted(mut self, key: StreamKey) -> Pool {
        let mut order: Vec<(u128, usize)> = self.ids.iter().enumerate().map(|(i, id)| (key.u128(*id), i)).collect();
        order.sort_unstable();
        let order: Vec<usize> = order.into_iter().map(|(_, i)| i).collect();
        permute(&mut self.rows.numeric, self.rows.numeric_width, &order);
        permute(&mut self.rows.codes, self.rows.code_width, &order);
        permute(&mut self.ids, 1, &order);
        permute(&mut self.targets, self.target_width, &order);
        permute(&mut self.weights, 1, &order);
        self
    }
}

/// Row i of `values` becomes its former row `order[i]`; the rows move along the cycles of `order`, each once.
fn permute<T: Copy>(values: &mut [T], width: usize, order: &[usize]) {
    if width == 0 || values.is_empty() {
        return;
    }
    let mut moved = vec![false; order.len()];
    for start in 0..order.len() {
        if moved[start] {
            continue;
        }
        let first = values[start * width..(start + 1) * width].to_vec();
        let mut at = start;
        loop {
            moved[at] = true;
            let from = order[at];
            if from == start {
                values[at * width..(at + 1) * width].copy_from_slice(&first);
                break;
            }
            values.copy_within(from * width..(from + 1) * width, at * width);
            at = from;
        }
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
/// floor(log2(rows / (wanted + 8 sqrt(wanted) + 64))), and 0, all rows, where that is negative.
///
/// ```
/// use nystream_dataflows::dictionary::pool::{expected_bits, pool_bits, pool_rows};
/// // 20,000 of a million rows are wanted: five bits leave a 32nd.
/// assert_eq!((pool_bits(1_000_000, 20_000), pool_rows(1_000_000, 5)), (5, 31_250));
/// assert_eq!(expected_bits(1_000_000, 31_250), 5);
/// assert_eq!(pool_bits(20_000, 20_000), 0);
/// ```
pub fn pool_bits(rows: u64, wanted: u64) -> u32 {
    let needed = wanted as f64 + 8.0 * (wanted as f64).sqrt() + 64.0;
    let ratio = rows as f64 / needed;
    if ratio < 2.0 { 0 } else { ratio.log2().floor() as u32 }
}

/// Expected rows of a pool of `rows` rows with `bits` leading zero bits.
pub fn pool_rows(rows: u64, bits: u32) -> u64 {
    (rows as f64 * 2f64.powi(-(bits as i32))).round() as u64
}

/// The bits of a pool of which `expected` rows are expected: the inverse of [`pool_rows`] for pools of 4 rows or more.
pub fn expected_bits(rows: u64, expected: u64) -> u32 {
    if expected >= rows { 0 } else { (rows as f64 / expected.max(1) as f64).log2().round() as u32 }
}

/// Whether `hash` has at least `bits` leading zero bits. Pools of more bits lie within those of fewer.
///
/// ```
/// use nystream_dataflows::dictionary::pool::in_pool;
/// use nystream_hashing::{RowId, StreamKey};
/// let key = StreamKey::new(0, "sample", 0);
/// let count = |bits| (0..100_000).filter(|row| in_pool(key.u128(RowId(*row)), bits)).count();
/// assert_eq!(count(0), 100_000);
/// // A quarter, but for chance.
/// assert!(count(2).abs_diff(25_000) < 600);
/// ```
pub fn in_pool(hash: u128, bits: u32) -> bool {
    hash.leading_zeros() >= bits
}

/// Which rows a pool holds: a function of the set of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolRule {
    /// Key of the rows' hashes.
    pub key: StreamKey,
    /// Leading zero bits of the hashes of the rows that are gathered.
    pub bits: u32,
    /// Of those, the first so many by hash are kept; none = all.
    pub most: Option<u64>,
}

impl PoolRule {
    /// Every row whose hash under `key` has at least `bits` leading zero bits.
    pub fn all(key: StreamKey, bits: u32) -> Self {
        PoolRule { key, bits, most: None }
    }
}

/// Scans for the rows of a pool and leaves them on a shelf.
struct PoolScan {
    feed: Feed,
    chunk: Chunk,
    rule: PoolRule,
    columns: Columns,
    pool: Pool,
    shelf: Rc<RefCell<Pool>>,
}

impl Scan for PoolScan {
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        for i in 0..self.chunk.rows() {
            if in_pool(self.rule.key.u128(self.chunk.ids[i]), self.rule.bits) {
                self.pool.push(&self.chunk, i, self.columns);
            }
        }
        Ok(Step::More { rows: self.chunk.rows() as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        *self.shelf.borrow_mut() = self.pool;
        Ok(Vec::new())
    }

    fn leased(&mut self) -> Option<&mut dyn Leased> {
        Some(&mut self.feed)
    }
}

/// Gathers the pool of `rule`, in the order of its hashes, once per process. `feed` is over [`Role::Training`](nystream_datasets::Role), or over whatever
/// rows the pool is to be of.
///
/// ```
/// use nystream_dataflows::dictionary::pool::{Columns, PoolRule, gather_pool, pool_bits};
/// use nystream_hashing::StreamKey;
/// # use nystream_dataflows::engine::{Process, SilentProgress, feed::RowStore, run};
/// # use nystream_datasets::{Catalog, ColumnSummary, Encoder, EncoderOptions, Role, Sources};
/// # use std::sync::Arc;
/// # let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=1"])?)?;
/// # let summary = |info| ColumnSummary { count: 5000, sd: 0.6, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
/// # let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
/// # let encoder = Arc::new(Encoder::fit(&summaries, &EncoderOptions { targets: vec!["y".into()], ..Default::default() })?);
/// # let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// # let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let key = StreamKey::new(0, "example", 0);
/// // `catalog`, `encoder` and `store` are those of the example of `RowStore`: 5,000 rows.
/// let results = run(&process, communication, move |session| {
/// #   let (peers, index, process) = (session.peers(), session.index(), Arc::clone(&session.process));
/// #   let store = RowStore::new(&catalog, Arc::clone(&encoder), peers, index, process);
///     let rule = PoolRule { most: Some(500), ..PoolRule::all(key, pool_bits(5000, 500)) };
///     gather_pool(session, "example", store.feed(Role::Training), rule, Columns::All)
/// }).unwrap();
/// let pool = results[0].clone().unwrap();
/// // The bits leave more than 500 rows, of which the first by hash are kept.
/// assert_eq!((pool.len(), pool.rows.numeric.len(), pool.targets.len()), (500, 500, 500));
/// assert!(pool.ids.is_sorted_by_key(|id| key.u128(*id)));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Data`] for rows that cannot be read or encoded, [`StageError::Internal`] for a damaged exchange; the same on every worker.
pub fn gather_pool(
    session: &mut Session<'_>,
    name: &str,
    feed: Feed,
    rule: PoolRule,
    columns: Columns,
) -> Result<Arc<Pool>, StageError> {
    let shelf: Rc<RefCell<Pool>> = Rc::default();
    let (chunk, pool) = (Chunk::default(), Pool::default());
    let scan = PoolScan { feed, chunk, rule, columns, pool, shelf: Rc::clone(&shelf) };
    pass(session, name, scan, Gather::default(), Audience::Leaders)?;

    let (workers, processes) = (session.process.workers() as u64, session.process.processes() as u64);
    let letters = shelf.take().into_pieces().flat_map(move |piece| {
        let bytes = piece.to_bytes();
        (0..processes).map(move |process| Letter { to: process * workers, bytes: bytes.clone() })
    });
    let sink = Rc::clone(&shelf);
    deal(session, name, letters, move |bytes| {
        sink.borrow_mut().append(Pool::from_bytes(&bytes)?);
        Ok(())
    })?;
    let mine = shelf.take();
    session.try_once(move || {
        let mut pool = mine.sorted(rule.key);
        if let Some(most) = rule.most {
            pool.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        }
        Ok(pool)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(rows: usize) -> Pool {
        let mut all = Pool { rows: RowBuf::new(3, 2), target_width: 2, ..Pool::default() };
        for i in 0..rows {
            all.rows.numeric.extend((0..3).map(|k| (10 * i + k) as f32));
            all.rows.codes.extend([i as u16, 7]);
            all.ids.push(RowId(i as u128));
            all.targets.extend([i as f64, -1.0]);
            all.weights.push(i as f64 + 0.5);
        }
        all
    }

    fn same(a: &Pool, b: &Pool) -> bool {
        a.rows == b.rows && a.ids == b.ids && a.targets == b.targets && a.weights == b.weights
    }

    #[test]
    fn sorting_in_place_moves_whole_rows() {
        let key = StreamKey::new(5, "sort", 0);
        for rows in [0, 1, 2, 17, 1000] {
            let all = pool(rows);
            let mut order: Vec<usize> = (0..rows).collect();
            order.sort_by_key(|i| key.u128(all.ids[*i]));
            assert!(same(&all.clone().sorted(key), &all.gather(&order)), "{rows} rows");
        }
    }

    #[test]
    fn pieces_hold_every_row_once() {
        let all = pool(20_000);
        let pieces: Vec<Pool> = all.clone().into_pieces().collect();
        assert!(pieces.len() > 3 && pieces.iter().all(|piece| piece.to_bytes().len() <= LETTER_BYTES + 200));
        let mut first = all.clone();
        first.truncate(7);
        assert!(same(&first, &all.gather(&(0..7).collect::<Vec<_>>())));
        first.truncate(9);
        assert_eq!(first.len(), 7);
        let back = pieces.into_iter().rev().map(|piece| Pool::from_bytes(&piece.to_bytes()).unwrap()).collect();
        assert!(same(&Pool::concat(back), &all));
    }
}
