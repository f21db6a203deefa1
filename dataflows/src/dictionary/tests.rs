//! The dataflow against the in-memory trie: the same dictionary, bit for bit, for any number of workers.

use super::TileOracle;
use super::known::KnownNodes;
use super::pool::{Columns, Pool, PoolRule, gather_pool};
use super::trie::{TrieJob, squeak_trie};
use crate::engine::feed::RowStore;
use crate::engine::{Process, Session, SilentProgress, run};
use crate::error::StageError;
use crate::plan::DictionaryWork;
use crate::profile::profile;
use nystream_datasets::{Catalog, Chunk, Encoder, EncoderOptions, Role, RowSlots, SlotLayout, Sources};
use nystream_hashing::StreamKey;
use nystream_kernels::kernel::{Family, Kernel};
use nystream_kernels::sampling::{Dictionary, DictionaryParams, DictionaryTrie, Squeak, TrieShape};
use nystream_kernels::tile::SimdPath;
use std::sync::Arc;

fn job(bits: u32, work: DictionaryWork) -> TrieJob<TileOracle> {
    TrieJob {
        oracle: Arc::new(TileOracle::new(&Kernel::new(Family::Gaussian, 2.0), SimdPath::detect())),
        params: DictionaryParams::new(20.0, 3),
        bits,
        pool_key: StreamKey::new(3, "pool", 0),
        shape: TrieShape { hash: StreamKey::new(3, "trie", 0), capacity: 400 },
        expected_rows: 6000 >> bits,
        work,
    }
}

fn store(session: &mut Session<'_>) -> Result<RowStore, StageError> {
    let catalog = Catalog::open(&Sources::parse(&["synth:friedman1?rows=6000&d=5&seed=4"])?)?;
    let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
    let plan = options.plan(&catalog.columns)?;
    let profile = profile(session, &catalog, &plan, &options, 0, 1 << 30)?;
    let encoder = Arc::new(Encoder::fit(&profile.columns, &options)?);
    Ok(RowStore::new(&catalog, encoder, session.peers(), session.index(), Arc::clone(&session.process)))
}

/// Everything in hand, by all workers.
fn whole(workers: usize) -> DictionaryWork {
    DictionaryWork::unbounded(workers)
}

/// Root, rows scored, passes, and the pool.
fn distributed(workers: usize, bits: u32, work: DictionaryWork) -> (Dictionary, u64, u64, Arc<Pool>) {
    let process = Process::new(workers, 1, 0, Box::new(SilentProgress));
    let communication = timely::CommunicationConfig::Process(workers).try_build().unwrap();
    let results = run(&process, communication, move |session| {
        let store = store(session)?;
        let job = job(bits, work);
        let pool = gather_pool(
            session,
            "pool",
            store.feed(Role::Training),
            PoolRule::all(job.pool_key, bits),
            Columns::Features,
        )?;
        Ok::<_, StageError>((squeak_trie(session, &store, &job, None)?, pool))
    });
    let (root, pool) = results.unwrap().into_iter().next().unwrap().unwrap();
    ((*root.dictionary).clone().unwrap(), root.scored, root.passes, pool)
}

#[test]
fn the_dataflow_builds_the_trie_of_the_set_of_rows() {
    for bits in [0, 2] {
        let (one, scored, passes, pool) = distributed(1, bits, whole(1));
        assert_eq!((scored as usize, passes), (pool.len(), 1));
        let job = job(bits, whole(1));
        let squeak = Squeak::new(&*job.oracle, job.params).unwrap();
        let reference = DictionaryTrie::build(&squeak, job.shape, pool.rows.view(), &pool.ids).unwrap();
        assert!(reference.nodes().len() > 5, "a trie of several leaves: {}", reference.nodes().len());
        assert_eq!(one, *reference.root());
        for workers in [2, 3, 7] {
            assert_eq!(distributed(workers, bits, whole(workers)).0, one, "{workers} workers");
        }
    }
}

/// However few rows are in hand at a time and however few workers score: only the passes differ. With 100 rows, windows hold less than a leaf.
#[test]
fn windows_and_lanes_shape_nothing() {
    for bits in [0, 2] {
        let (expected, scored, ..) = distributed(1, bits, whole(1));
        let mut seen = 1;
        for (rows_held, lanes) in [(4000, 7), (900, 1), (100, 2)] {
            for workers in [1, 2, 3, 7] {
                let work = DictionaryWork { rows_held, lanes, ..whole(workers) };
                let (root, all, passes, _) = distributed(workers, bits, work);
                assert!(root == expected && all == scored, "{rows_held} rows, {workers} workers");
                // Windows of less than a leaf take one leaf each.
                let [least, most] = [scored.div_ceil(rows_held.max(400)), 2 * scored.div_ceil(rows_held) + 1];
                assert!((least..=most).contains(&passes), "{passes} passes of {rows_held} rows");
                seen = seen.max(passes);
            }
        }
        assert!(seen > 3, "{seen} passes");
    }
}

/// An estimate of the rows that is far off costs passes, and changes nothing.
#[test]
fn a_wrong_estimate_changes_nothing() {
    let (expected, ..) = distributed(1, 0, whole(1));
    for estimate in [1, 300, 1_000_000] {
        let process = Process::new(2, 1, 0, Box::new(SilentProgress));
        let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
        let results = run(&process, communication, move |session| {
            let store = store(session)?;
            let work = DictionaryWork { rows_held: 2000, ..whole(2) };
            squeak_trie(session, &store, &TrieJob { expected_rows: estimate, ..job(0, work) }, None)
        });
        let root = results.unwrap().into_iter().next().unwrap().unwrap();
        assert_eq!((root.scored, (*root.dictionary).as_ref()), (6000, Some(&expected)), "estimate {estimate}");
    }
}

/// Nodes that are known from earlier rows change nothing, and are not computed again where their rows are what they were.
#[test]
fn known_nodes_are_taken_over() {
    for workers in [1, 2, 3] {
        let process = Process::new(workers, 1, 0, Box::new(SilentProgress));
        let communication = timely::CommunicationConfig::Process(workers).try_build().unwrap();
        let results = run(&process, communication, move |session| {
            let (files, folder) = (store(session)?, tempfile::tempdir().unwrap());
            let layout = SlotLayout { numeric: 5, codes: 0, targets: 1 };
            let mut slots = RowSlots::new(folder.path(), layout, u64::MAX)?;
            let (mut feed, mut chunk, mut held) = (files.feed(Role::Training), Chunk::new(), Vec::new());
            while feed.next(&mut chunk)? {
                let all: Vec<usize> = (0..chunk.rows()).collect();
                held.extend(slots.insert(&chunk, &all, 0)?);
            }
            let work = DictionaryWork { rows_held: 2500, ..whole(workers) };
            let mut known = KnownNodes::new(1 << 30);
            let mut units = Vec::new();
            // Nothing goes; one row of the first worker goes; a third of all.
            for gone in [0, 1, 0, held.len() / 3] {
                let gone = if gone == 1 && session.index() > 0 { 0 } else { gone };
                let slots_gone: Vec<u64> = held.drain(..gone).collect();
                slots.release(&slots_gone);
                let process = Arc::clone(&session.process);
                let rows = RowStore::of_slots(slots.reader(), Arc::clone(files.encoder()), process);
                let again = squeak_trie(session, &rows, &job(0, work), Some(&mut known))?;
                let fresh = squeak_trie(session, &rows, &job(0, work), None)?;
                assert!(*again.dictionary == *fresh.dictionary && again.scored == fresh.scored, "{gone} rows went");
                units.push(known.units);
            }
            Ok::<_, StageError>(units)
        });
        for units in results.unwrap() {
            let units = units.unwrap();
            assert!(units[0].0 >= 16 && units[0].1 == units[0].0, "{units:?}");
            assert_eq!((units[1].1, units[2].1), (1, 0), "{units:?}");
            assert_eq!(units[3].1, units[3].0, "{units:?}");
        }
    }
}
