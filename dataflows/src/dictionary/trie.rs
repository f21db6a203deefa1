//! SQUEAK over a pool, as a keyed reduce over the trie (key = prefix), in memory that does not grow with the pool.
//!
//! 1. A pass over the data counts the pool's rows by the leading bits of H; the counts, known to everyone, fix the trie's units
//!    (`units.rs`). The same pass holds the rows of the first window.
//! 2. The rows of the window travel to the owners of their units, who run the filter over each leaf in the order of the ids, and merge
//!    within the unit. Then only dictionaries are left of them.
//! 3. Level by level from the deepest, both children of a node meet at its owner, which merges them, as far as all their rows
//!    are done: one dictionary a level stays behind.
//! 4. While there are units left, another pass holds the rows of the next window.
//!
//! The trie's shape has no history: it is a function of the set of rows. Windows are as large as the plan allows
//! ([`DictionaryWork::rows_held`]) and are taken in the order of the prefixes; which rows are in hand together shapes nothing. A process
//! holds its share of a window once, and the dictionaries of the nodes it owns. Cost: about M^2 flops a row, divided over the workers; a
//! pass over the data for each window; log2(N_p / B) exchanges of dictionaries.

use crate::dictionary::known::{Computed, KnownNodes, RowSum, size};
use crate::dictionary::pool::Pool;
use crate::dictionary::units::{Front, Unit, cell, cell_bits, units, window};
use crate::dictionary::window::{first_window, hold};
use crate::engine::bytes::{Reader, Writer};
use crate::engine::checkpoint::{Own, active, digest, left_over, over, resumed};
use crate::engine::deal::{Letter, deal};
use crate::engine::exchange::{Audience, Gather, Outgoing, Reducer, Scan, Step, pass};
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::plan::DictionaryWork;
use nystream_hashing::StreamKey;
use nystream_kernels::rows::RowBuf;
use nystream_kernels::sampling::{
    Atom, Dictionary, DictionaryParams, KernelOracle, Prefix, SamplingError, Squeak, TrieShape,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// Share of a window that the first one is expected to fill: how full it gets is known only when it is held.
const FIRST_FILL: f64 = 0.97;

/// What SQUEAK is run on.
pub struct TrieJob<O> {
    /// Kernel values.
    pub oracle: Arc<O>,
    /// gamma (already scaled to the pool), mode, seed.
    pub params: DictionaryParams,
    /// Rows with so many leading zero bits under `pool_key` are scored.
    pub bits: u32,
    /// Hash of the pool.
    pub pool_key: StreamKey,
    /// Hash of the trie and leaf capacity B.
    pub shape: TrieShape,
    /// Expected rows of the pool.
    pub expected_rows: u64,
    /// Rows in hand and workers at work.
    pub work: DictionaryWork,
}

/// What SQUEAK made.
pub struct Root {
    /// The dictionary of the pool, on the first worker of each process; `None` when the pool holds no row.
    pub dictionary: Arc<Option<Dictionary>>,
    /// Rows scored.
    pub scored: u64,
    /// Passes over the data.
    pub passes: u64,
}

/// The root dictionary of the pool. With `known`, nodes whose rows are what they were are taken from there, and those that are computed are put there.
///
/// # Errors
/// Bad data, a dictionary that outgrows its limit, or a damaged exchange.
pub fn squeak_trie<O: KernelOracle + Send + Sync + 'static>(
    session: &mut Session<'_>,
    store: &RowStore,
    job: &TrieJob<O>,
    mut known: Option<&mut KnownNodes>,
) -> Result<Root, StageError> {
    let most = job.work.rows_held.saturating_mul(session.process.processes() as u64).max(1);
    let bits = cell_bits(job.expected_rows, job.shape.capacity, most);
    let first = if job.expected_rows <= most {
        1 << bits
    } else {
        (FIRST_FILL * most as f64 / job.expected_rows as f64 * 2f64.powi(bits as i32)) as usize
    };
    let (mut held, sums) = first_window(session, store, job, bits, first, known.is_some())?;
    let counts: Vec<u64> = sums.iter().map(|sum| sum.rows).collect();
    let units = units(&job.shape, &counts, bits);
    // A unit that is held in part waits for the next pass.
    let mut now = 0..units.iter().take_while(|unit| unit.cells.end <= first).count();
    let mut trie = Trie {
        job,
        bits,
        owners: Owners::new(session, job.work.lanes),
        front: Front::default(),
        nodes: BTreeMap::new(),
        known: BTreeSet::new(),
        group: format!("dictionary {}", digest(session, &[format!("{:?} {:?}", job.params, job.shape).as_bytes()])),
    };
    trie.take_over(session, &units, known.as_deref_mut().map(|known| (known, &sums[..])))?;
    if let Some(known) = known.as_deref_mut() {
        let open = |unit: &&Unit| unit.rows > 0 && trie.covering(unit.prefix).is_none();
        let all = units.iter().filter(|unit| unit.rows > 0).count();
        known.units = (all as u64, units.iter().filter(open).count() as u64);
    }
    let mut computed = known.map(|known| Computed { known, sums: &sums, bits });
    let mut passes = 1;
    loop {
        if !now.is_empty() {
            trie.compute(session, held, &units[now.clone()], &mut computed)?;
            trie.climb(session, units[now.end - 1].cells.end, &mut computed)?;
        }
        if now.end == units.len() {
            break;
        }
        now = window(&units, now.end, most);
        let cells = units[now.start].cells.start..units[now.end - 1].cells.end;
        held = Pool::default();
        if units[now.clone()].iter().any(|unit| unit.rows > 0 && trie.covering(unit.prefix).is_none()) {
            held = hold(session, store, job, bits, cells)?;
            passes += 1;
        }
    }
    let outgoing: Vec<Outgoing> =
        trie.nodes.iter().map(|(prefix, d)| Outgoing { key: 0, bytes: dictionary_bytes(*prefix, d) }).collect();
    let parcels = pass(session, "dictionary: root", outgoing, Gather::default(), Audience::Leaders)?;
    over(session, trie.group);
    let root = match parcels.first() {
        Some(parcel) => Some(dictionary_from(&parcel.bytes, job.params)?.1),
        None => None,
    };
    Ok(Root { dictionary: session.once(move || root), scored: counts.iter().sum(), passes })
}

/// Who computes what: the first `lanes` workers of every process, in turn.
struct Owners {
    peers: u64,
    workers: u64,
    processes: u64,
    lanes: u64,
}

impl Owners {
    fn new(session: &Session<'_>, lanes: usize) -> Self {
        let workers = session.process.workers();
        Owners {
            peers: session.peers() as u64,
            workers: workers as u64,
            processes: session.process.processes() as u64,
            lanes: lanes.clamp(1, workers) as u64,
        }
    }

    /// The worker of the `number`-th piece of work.
    fn of(&self, number: usize) -> u64 {
        let turn = number as u64 % (self.processes * self.lanes);
        turn % self.processes * self.workers + turn / self.processes
    }

    /// A key that this worker owns, for that piece alone.
    fn key(&self, number: usize) -> u64 {
        number as u64 * self.peers + self.of(number)
    }
}

/// The trie in the making, as one worker sees it.
struct Trie<'a, O> {
    job: &'a TrieJob<O>,
    bits: u32,
    owners: Owners,
    /// All nodes that wait for their siblings.
    front: Front,
    /// Those of them that this worker holds.
    nodes: BTreeMap<Prefix, Dictionary>,
    /// Nodes of a checkpoint, none of which lies under another: whole units, and merged ones.
    known: BTreeSet<Prefix>,
    /// Where nodes are stored.
    group: String,
}

impl<O: KernelOracle + Send + Sync + 'static> Trie<'_, O> {
    /// Takes over the nodes that earlier attempts stored, as far as they are units or made of units.
    fn take_over(
        &mut self,
        session: &mut Session<'_>,
        units: &[Unit],
        known: Option<(&mut KnownNodes, &[RowSum])>,
    ) -> Result<(), StageError> {
        if !active(session) && known.is_none() {
            return Ok(());
        }
        let params = self.job.params;
        let mut held = BTreeMap::new();
        if let Some((known, sums)) = known {
            known.keep(sums, self.bits);
            held.extend(known.nodes.iter().map(|(prefix, node)| (*prefix, node.dictionary.clone())));
        }
        let stored = if active(session) { left_over(session, &self.group) } else { Vec::new() };
        for frame in stored {
            // What cannot be read is computed again.
            if let Ok((prefix, dictionary)) = dictionary_from(&frame.bytes, params) {
                held.insert(prefix, dictionary);
            }
        }
        let mut out = Writer::default();
        held.keys().for_each(|prefix: &Prefix| {
            out.u64(u64::from(prefix.depth()));
            out.ids(&[nystream_hashing::RowId(prefix.bits())]);
        });
        let mine =
            if held.is_empty() { Vec::new() } else { vec![Outgoing { key: session.index() as u64, bytes: out.0 }] };
        let mut holders: BTreeMap<Prefix, u64> = BTreeMap::new();
        for parcel in pass(session, "dictionary: known", mine, Gather::default(), Audience::Everyone)? {
            let mut from = Reader(&parcel.bytes);
            while !from.is_empty() {
                let damaged = || StageError::Internal("a node arrived damaged".into());
                let depth = u32::try_from(from.u64()?).map_err(|_| damaged())?;
                let bits = from.ids()?.first().ok_or_else(damaged)?.0;
                holders.entry(Prefix::of(bits, depth)).or_insert(parcel.key);
            }
        }
        // A node that two attempts cut otherwise may lie below the units of this one.
        let whole: BTreeSet<Prefix> = units.iter().flat_map(|unit| ancestors(unit.prefix)).collect();
        holders.retain(|prefix, _| whole.contains(prefix));
        self.known = holders
            .keys()
            .copied()
            .filter(|p| !ancestors(*p).skip(1).any(|above| holders.contains_key(&above)))
            .collect();
        let me = session.index() as u64;
        held.retain(|prefix, _| self.known.contains(prefix) && holders.get(prefix) == Some(&me));
        self.nodes.append(&mut held);
        if !self.known.is_empty() && active(session) {
            resumed(session, &format!("dictionary: {} nodes of the tree", self.known.len()));
        }
        Ok(())
    }

    /// The known node that holds the unit `prefix`.
    fn covering(&self, prefix: Prefix) -> Option<Prefix> {
        ancestors(prefix).find(|above| self.known.contains(above))
    }

    /// Computes `units` from the rows that the workers hold of them.
    fn compute(
        &mut self,
        session: &mut Session<'_>,
        held: Pool,
        units: &[Unit],
        computed: &mut Option<Computed<'_>>,
    ) -> Result<(), StageError> {
        let first = units[0].cells.start;
        let mut owners = vec![None; units[units.len() - 1].cells.end - first];
        let (mut mine, mut expected) = (VecDeque::new(), 0);
        let known: Vec<Prefix> = units.iter().filter_map(|unit| self.covering(unit.prefix)).collect();
        known.into_iter().for_each(|prefix| self.front.add(prefix));
        let open = |unit: &&Unit| unit.rows > 0 && self.covering(unit.prefix).is_none();
        let open: Vec<&Unit> = units.iter().filter(open).collect();
        for (number, unit) in open.into_iter().enumerate() {
            let owner = self.owners.of(number);
            owners[unit.cells.start - first..unit.cells.end - first].fill(Some(owner));
            if owner == session.index() as u64 {
                mine.push_back(unit.prefix);
                expected += unit.rows as usize;
            }
            self.front.add(unit.prefix);
        }
        let (hash, bits) = (self.job.shape.hash, self.bits);
        let letters = held.into_pieces().flat_map(move |piece| {
            let mut shares: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
            for (i, id) in piece.ids.iter().enumerate() {
                let cell = cell(hash.u128(*id), bits).checked_sub(first);
                if let Some(Some(owner)) = cell.and_then(|cell| owners.get(cell)) {
                    shares.entry(*owner).or_default().push(i);
                }
            }
            shares.into_iter().map(move |(to, share)| Letter { to, bytes: piece.gather(&share).to_bytes() })
        });
        let hand: Rc<RefCell<Pool>> = Rc::default();
        let sink = Rc::clone(&hand);
        deal(session, "dictionary: rows", letters, move |bytes| {
            let rows = Pool::from_bytes(&bytes)?;
            let mut hand = sink.borrow_mut();
            if hand.is_empty() {
                hand.reserve(expected, &rows);
            }
            hand.append(rows);
            Ok(())
        })?;
        let shelf = Rc::default();
        let scan = UnitScan {
            oracle: Arc::clone(&self.job.oracle),
            params: self.job.params,
            shape: self.job.shape,
            order: InHand::new(hand.take(), self.job.shape.hash),
            todo: mine,
            shelf: Rc::clone(&shelf),
            own: Own::new(session, &self.group, &format!("window {first}")),
        };
        pass(session, "dictionary: leaves", scan, Gather::default(), Audience::Leaders)?;
        let mut made = shelf.take();
        if let Some(computed) = computed {
            made.iter().for_each(|(prefix, dictionary)| computed.note(*prefix, dictionary));
        }
        self.nodes.append(&mut made);
        Ok(())
    }

    /// Merges, deepest level first, whatever has both children, where all rows before cell `done` are in.
    fn climb(
        &mut self,
        session: &mut Session<'_>,
        done: usize,
        computed: &mut Option<Computed<'_>>,
    ) -> Result<(), StageError> {
        let own = Own::new(session, &self.group, "front");
        for level in (1..=self.front.depth()).rev() {
            let parents = self.front.climb(level, done, self.bits);
            if parents.is_empty() {
                continue;
            }
            let keys: BTreeMap<Prefix, u64> =
                parents.into_iter().enumerate().map(|(number, parent)| (parent, self.owners.key(number))).collect();
            let key = |prefix: &Prefix| {
                let parent = prefix.parent().filter(|_| prefix.depth() == level);
                parent.and_then(|parent| keys.get(&parent)).copied()
            };
            let mut outgoing = Vec::new();
            self.nodes.retain(|prefix, dictionary| {
                let Some(key) = key(prefix) else { return true };
                outgoing.push(Outgoing { key, bytes: dictionary_bytes(*prefix, dictionary) });
                false
            });
            let params = self.job.params;
            let merge = Merge { oracle: Arc::clone(&self.job.oracle), params, nodes: BTreeMap::new() };
            for parcel in pass(session, "dictionary: merges", outgoing, merge, Audience::Owners)? {
                let (prefix, dictionary) = dictionary_from(&parcel.bytes, params)?;
                if let Some(computed) = computed {
                    computed.note(prefix, &dictionary);
                }
                self.nodes.insert(prefix, dictionary);
            }
            if let Some(own) = &own {
                store(own, &self.nodes);
            }
        }
        Ok(())
    }
}

/// `prefix` and all nodes above it.
fn ancestors(prefix: Prefix) -> impl Iterator<Item = Prefix> {
    std::iter::successors(Some(prefix), Prefix::parent)
}

/// Stores nodes, when that is due.
fn store(own: &Own, nodes: &BTreeMap<Prefix, Dictionary>) {
    let bytes: u64 = nodes.values().map(size).sum();
    if own.due(bytes) {
        let frame = |(prefix, d): (&Prefix, &Dictionary)| Outgoing { key: 0, bytes: dictionary_bytes(*prefix, d) };
        own.save(nodes.len() as u32, &mut nodes.iter().map(frame));
    }
}

fn numeric(error: impl std::fmt::Display) -> StageError {
    StageError::Numeric(error.to_string())
}

fn refused(error: SamplingError) -> StageError {
    match error {
        SamplingError::TooManyAtoms { atoms, limit } => StageError::Budget(format!(
            "a dictionary on the way to the centers holds {atoms} atoms and --memory leaves room for {limit}: give more --memory, \
             fewer --centers, or --select rpcholesky"
        )),
        other => numeric(other),
    }
}

fn dictionary_bytes(prefix: Prefix, dictionary: &Dictionary) -> Vec<u8> {
    let mut out = Writer::default();
    out.u64(u64::from(prefix.depth()));
    out.ids(&[nystream_hashing::RowId(prefix.bits())]);
    out.rows(&dictionary.rows);
    out.ids(&dictionary.ids());
    out.f64s(&dictionary.atoms.iter().map(|a| a.p).collect::<Vec<_>>());
    dictionary.atoms.iter().for_each(|a| out.u64(u64::from(a.q)));
    out.f64s(&[dictionary.jitter]);
    out.0
}

fn dictionary_from(bytes: &[u8], params: DictionaryParams) -> Result<(Prefix, Dictionary), StageError> {
    let damaged = || StageError::Internal("a dictionary arrived damaged".into());
    let mut from = Reader(bytes);
    let depth = u32::try_from(from.u64()?).ok().filter(|d| *d <= 128).ok_or_else(damaged)?;
    let bits = from.ids()?.first().ok_or_else(damaged)?.0;
    let rows = from.rows()?;
    let ids = from.ids()?;
    let p = from.f64s()?;
    if p.len() != ids.len() {
        return Err(damaged());
    }
    let mut atoms = Vec::with_capacity(ids.len());
    for (id, p) in ids.into_iter().zip(p) {
        atoms.push(Atom { id, p, q: u32::try_from(from.u64()?).map_err(|_| damaged())? });
    }
    let jitter = from.f64s()?.first().copied().ok_or_else(damaged)?;
    Ok((Prefix::of(bits, depth), Dictionary { rows, atoms, gamma: params.gamma, mode: params.mode, jitter }))
}

/// The rows that a worker has in hand, in the order of H.
struct InHand {
    pool: Pool,
    hash: StreamKey,
    /// Leading bits of the hash, and the row; sorted once the first unit is asked for.
    order: Vec<(u64, u32)>,
}

impl InHand {
    fn new(pool: Pool, hash: StreamKey) -> Self {
        InHand { pool, hash, order: Vec::new() }
    }

    fn of(&self, entry: &(u64, u32)) -> u128 {
        self.hash.u128(self.pool.ids[entry.1 as usize])
    }

    fn sort(&mut self) {
        let mut order = std::mem::take(&mut self.order);
        order.reserve_exact(self.pool.len());
        let lead = |id| (self.hash.u128(id) >> 64) as u64;
        order.extend(self.pool.ids.iter().enumerate().map(|(i, id)| (lead(*id), i as u32)));
        order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| self.of(a).cmp(&self.of(b))));
        self.order = order;
    }

    /// Places in `order` of the rows under `prefix`, among those in `within`.
    fn under(&self, prefix: Prefix, within: Range<usize>) -> Range<usize> {
        let start = within.start + self.order[within.clone()].partition_point(|entry| self.of(entry) < prefix.bits());
        let rows = self.order[start..within.end].partition_point(|entry| prefix.contains(self.of(entry)));
        start..start + rows
    }
}

/// The units of one worker, one a step: the filter over each leaf, merged upwards within the unit.
struct UnitScan<O> {
    oracle: Arc<O>,
    params: DictionaryParams,
    shape: TrieShape,
    order: InHand,
    todo: VecDeque<Prefix>,
    shelf: Rc<RefCell<BTreeMap<Prefix, Dictionary>>>,
    own: Option<Own>,
}

impl<O: KernelOracle> UnitScan<O> {
    /// The dictionary of the rows at `range` of the order, which are those under `prefix`.
    fn node(&self, squeak: &Squeak<'_, O>, prefix: Prefix, range: Range<usize>) -> Result<Dictionary, SamplingError> {
        if self.shape.splits(prefix, range.len() as u64) {
            let [left, right] = [false, true].map(|bit| prefix.child(bit));
            let cut = self.order.under(left, range.clone()).end;
            return squeak
                .merge(&self.node(squeak, left, range.start..cut)?, &self.node(squeak, right, cut..range.end)?);
        }
        let rows: Vec<usize> = self.order.order[range].iter().map(|(_, row)| *row as usize).collect();
        let ids: Vec<_> = rows.iter().map(|row| self.order.pool.ids[*row]).collect();
        squeak.filter(RowBuf::gather(self.order.pool.rows.view(), &rows).view(), &ids)
    }
}

impl<O: KernelOracle> Scan for UnitScan<O> {
    fn step(&mut self) -> Result<Step, StageError> {
        let Some(prefix) = self.todo.pop_front() else { return Ok(Step::Done) };
        if self.order.order.is_empty() {
            self.order.sort();
        }
        let squeak = Squeak::new(&*self.oracle, self.params).map_err(numeric)?;
        let range = self.order.under(prefix, 0..self.order.order.len());
        let dictionary = self.node(&squeak, prefix, range).map_err(refused)?;
        self.shelf.borrow_mut().insert(prefix, dictionary);
        if let Some(own) = &self.own {
            store(own, &self.shelf.borrow());
        }
        Ok(Step::More { rows: 0 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(Vec::new())
    }
}

/// An inner node: the merge of its children.
struct Merge<O> {
    oracle: Arc<O>,
    params: DictionaryParams,
    nodes: BTreeMap<u64, BTreeMap<Prefix, Dictionary>>,
}

impl<O: KernelOracle> Reducer for Merge<O> {
    fn absorb(&mut self, key: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        let (prefix, dictionary) = dictionary_from(&bytes, self.params)?;
        self.nodes.entry(key).or_default().insert(prefix, dictionary);
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let squeak = Squeak::new(&*self.oracle, self.params).map_err(numeric)?;
        let mut out = Vec::new();
        for (key, children) in std::mem::take(&mut self.nodes) {
            let Some(parent) = children.keys().next().and_then(Prefix::parent) else { continue };
            let mut children = children.into_values();
            let Some(left) = children.next() else { continue };
            // An empty leaf sends nothing: its sibling is the node.
            let merged = match children.next() {
                Some(right) => squeak.merge(&left, &right).map_err(refused)?,
                None => left,
            };
            out.push(Outgoing { key, bytes: dictionary_bytes(parent, &merged) });
        }
        Ok(out)
    }
}
