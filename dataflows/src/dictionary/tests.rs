//! The dataflow against the in-memory trie: the same dictionary, bit for bit, for any number of workers.

use super::TileOracle;
use super::pool::{Pool, gather_pool};
use super::trie::{TrieJob, squeak_trie};
use crate::engine::feed::RowStore;
use crate::engine::{Process, Session, SilentProgress, run};
use crate::error::StageError;
use crate::profile::profile;
use nystream_datasets::{Catalog, Encoder, EncoderOptions, Role, Sources};
use nystream_hashing::StreamKey;
use nystream_kernels::kernel::{Family, Kernel};
use nystream_kernels::sampling::{Dictionary, DictionaryParams, DictionaryTrie, Squeak, TrieShape};
use nystream_kernels::tile::SimdPath;
use std::sync::Arc;

fn job(bits: u32) -> TrieJob<TileOracle> {
    TrieJob {
        oracle: Arc::new(TileOracle::new(&Kernel::new(Family::Gaussian, 2.0), SimdPath::detect())),
        params: DictionaryParams::new(20.0, 3),
        bits,
        pool_key: StreamKey::new(3, "pool", 0),
        shape: TrieShape { hash: StreamKey::new(3, "trie", 0), capacity: 400 },
        expected_rows: 6000 >> bits,
    }
}

fn store(session: &mut Session<'_>) -> Result<RowStore, StageError> {
    let catalog = Catalog::open(&Sources::parse(&["synth:friedman1?rows=6000&d=5&seed=4"])?)?;
    let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
    let plan = options.plan(&catalog.columns)?;
    let profile = profile(session, &catalog, &plan, &options, 0)?;
    let encoder = Arc::new(Encoder::fit(&profile.columns, &options)?);
    Ok(RowStore::new(&catalog, encoder, session.peers(), session.index(), Arc::clone(&session.process)))
}

fn distributed(workers: usize, bits: u32) -> (Dictionary, u64, Arc<Pool>) {
    let process = Process::new(workers, 1, 0, Box::new(SilentProgress));
    let communication = timely::CommunicationConfig::Process(workers).try_build().unwrap();
    let results = run(&process, communication, move |session| {
        let store = store(session)?;
        let job = job(bits);
        let pool = gather_pool(session, "pool", store.feed(Role::Training), job.pool_key, bits)?;
        let (root, scored) = squeak_trie(session, store.feed(Role::Training), &job)?;
        Ok::<_, StageError>((root, scored, pool))
    });
    let (root, scored, pool) = results.unwrap().into_iter().next().unwrap().unwrap();
    ((*root).clone().unwrap(), scored, pool)
}

#[test]
fn the_dataflow_builds_the_trie_of_the_set_of_rows() {
    for bits in [0, 2] {
        let (one, scored, pool) = distributed(1, bits);
        assert_eq!(scored as usize, pool.len());
        let job = job(bits);
        let squeak = Squeak::new(&*job.oracle, job.params).unwrap();
        let reference = DictionaryTrie::build(&squeak, job.shape, pool.rows.view(), &pool.ids).unwrap();
        assert!(reference.nodes().len() > 5, "a trie of several leaves: {}", reference.nodes().len());
        assert_eq!(one, *reference.root());
        for workers in [2, 3] {
            assert_eq!(distributed(workers, bits).0, one, "{workers} workers");
        }
    }
}
