//! Blocks of a slow worker move to others, are read once, and change no bit.

use nystream_dataflows::StageError;
use nystream_dataflows::engine::feed::{Feed, RowStore};
use nystream_dataflows::engine::leases::Leased;
use nystream_dataflows::engine::sums::{node_parcels, summed};
use nystream_dataflows::engine::{Outgoing, Process, Scan, Session, SilentProgress, Step, of_workers, run, unite};
use nystream_datasets::{Catalog, Chunk, ColumnSummary, Encoder, EncoderOptions, HostFiles, Role, Sources, make};
use nystream_kernels::tree::SumTree;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn catalog(rows: &[u64]) -> Catalog {
    let specs: Vec<String> =
        rows.iter().enumerate().map(|(i, rows)| format!("synth:sines?rows={rows}&d=2&seed={i}")).collect();
    Catalog::open(&Sources::parse(&specs).unwrap()).unwrap()
}

/// Longest wait of a slow worker for the others.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sums that depend on the order of rows and blocks unless they go over the tree; a slow worker sleeps after each chunk, and before its first one until the others are done with theirs.
struct Slow {
    feed: Feed,
    chunk: Chunk,
    tree: SumTree,
    me: u64,
    /// Of each block, who read it, and how often it was read.
    readers: Arc<Vec<AtomicU64>>,
    slow: bool,
    /// Workers that have come to the end of their own blocks, and how many are to come.
    ends: Arc<AtomicU64>,
    others: u64,
    ended: bool,
    fail_at: Option<u64>,
}

impl Scan for Slow {
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            if !std::mem::replace(&mut self.ended, true) {
                self.ends.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(Step::Done);
        }
        if self.slow {
            let begun = Instant::now();
            // An error elsewhere leaves some on the way.
            while self.fail_at.is_none()
                && self.ends.load(Ordering::Relaxed) < self.others
                && begun.elapsed() < PATIENCE
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for block in 0..self.chunk.blocks() {
            let (index, range) = (self.feed.global_block(&self.chunk, block), self.chunk.block(block));
            if self.fail_at == Some(index) {
                return Err(StageError::Data(format!("block {index} is bad")));
            }
            // Readers in the low digits, times in the high ones.
            self.readers[index as usize].fetch_add((1 << 32) + self.me, Ordering::Relaxed);
            let sum =
                range.fold(0.1, |sum, row| sum * 0.999 + f64::from(self.chunk.numeric[row * self.chunk.numeric_width]));
            self.tree.insert(0, index, vec![sum; 3]).map_err(|e| StageError::Internal(e.to_string()))?;
        }
        Ok(Step::More { rows: self.chunk.rows() as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(node_parcels(self.tree.into_nodes(), 3))
    }

    fn leased(&mut self) -> Option<&mut dyn Leased> {
        Some(&mut self.feed)
    }
}

#[derive(Clone, Copy, Debug)]
enum Keep {
    Nothing,
    Memory,
    Disk,
}

/// One pass in which worker `slow` sleeps: the sums, and who read each block, once.
fn pass_over(
    session: &mut Session<'_>,
    store: &RowStore,
    slow: Option<usize>,
    ends: &Arc<AtomicU64>,
    fail_at: Option<u64>,
) -> Result<(Vec<f64>, Vec<u64>), StageError> {
    let total = store.total_blocks();
    // Of all processes, which are threads of the test.
    let readers: Arc<Vec<AtomicU64>> = session.once(|| (0..total).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
    let me = session.index();
    let scan = Slow {
        feed: store.feed(Role::Training),
        chunk: Chunk::default(),
        tree: SumTree::new(total),
        me: me as u64,
        readers: Arc::clone(&readers),
        slow: slow == Some(me),
        ends: Arc::clone(ends),
        others: session.peers() as u64 - 1,
        ended: false,
        fail_at,
    };
    let sums = summed(session, "test", scan, total, 3)?;
    // Workers of a process share them: the first tells all.
    let told = readers.iter().filter(|_| session.is_leader());
    let own = told.flat_map(|reader| reader.load(Ordering::Relaxed).to_le_bytes()).collect();
    let mut counts = vec![0u64; total as usize];
    for (worker, bytes) in of_workers(session, own)?.iter().enumerate() {
        assert_eq!(bytes.is_empty(), worker % session.process.workers() != 0);
        let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(std::array::from_fn(|k| word[k])));
        counts.iter_mut().zip(words).for_each(|(count, word)| *count += word);
    }
    Ok((sums.to_vec(), counts))
}

fn encoder(catalog: &Catalog) -> Arc<Encoder> {
    let summary = |info| ColumnSummary { count: 5000, sd: 0.6, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
    let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
    Arc::new(Encoder::fit(&summaries, &EncoderOptions { targets: vec!["y".into()], ..Default::default() }).unwrap())
}

/// What each pass found, and the blocks that were taken over and given up in it by all processes.
type Found = Vec<Result<(Vec<f64>, Vec<u64>, u64, u64), StageError>>;

/// Runs passes, in the i-th of which worker `slow[i]` is slow.
fn passes(
    (processes, workers): (usize, usize),
    data: &Data,
    keep: Keep,
    slow: &[Option<usize>],
    fail_at: Option<u64>,
) -> Found {
    let (mut builders, _guard) = timely::CommunicationConfig::Process(processes * workers).try_build().unwrap();
    let shared: Vec<Arc<Process>> =
        (0..processes).map(|index| Process::new(workers, processes, index, Box::new(SilentProgress))).collect();
    let moved = |all: &[Arc<Process>]| {
        let sum =
            |of: fn(&Process) -> &AtomicU64| all.iter().map(|process| of(process).load(Ordering::Relaxed)).sum::<u64>();
        (sum(|process| &process.blocks_taken), sum(|process| &process.blocks_given))
    };
    let ends: Vec<Arc<AtomicU64>> = slow.iter().map(|_| Arc::default()).collect();
    std::thread::scope(|scope| {
        let start = |index: usize| {
            let own: Vec<_> = builders.drain(..workers).collect();
            let (process, all, data, slow) = (Arc::clone(&shared[index]), shared.clone(), data.clone(), slow.to_vec());
            let (folder, ends) = (std::env::temp_dir(), ends.clone());
            let job = move |session: &mut Session<'_>| {
                let catalog = data.catalog(session);
                let store = RowStore::new(
                    &catalog,
                    encoder(&catalog),
                    session.peers(),
                    session.index(),
                    Arc::clone(&session.process),
                );
                match keep {
                    Keep::Nothing => {}
                    Keep::Memory => store.keep_in_memory(),
                    Keep::Disk => store.keep_on_disk(&folder, 1 << 30),
                }
                let mut found = Vec::new();
                for (slow, ends) in slow.iter().zip(&ends) {
                    let before = moved(&all);
                    let result = pass_over(session, &store, *slow, ends, fail_at);
                    // All have counted: passes end together, and `pass_over` ends with an exchange.
                    let after = moved(&all);
                    found.push(result.map(|(sums, readers)| (sums, readers, after.0 - before.0, after.1 - before.1)));
                    let _ = of_workers(session, Vec::new());
                }
                found
            };
            scope.spawn(move || run(&process, (own, Box::new(())), job).unwrap())
        };
        let threads: Vec<_> = (0..processes).map(start).collect();
        let mut results: Vec<Found> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let sums = |found: &Found| found.iter().map(|one| one.clone().map(|(sums, ..)| sums)).collect::<Vec<_>>();
        assert!(results.iter().all(|found| sums(found) == sums(&results[0])));
        results.remove(0)
    })
}

#[derive(Clone)]
enum Data {
    Shared(Catalog),
    Spread(Vec<HostFiles>),
}

impl Data {
    fn catalog(&self, session: &mut Session<'_>) -> Catalog {
        match self {
            Data::Shared(catalog) => catalog.clone(),
            Data::Spread(hosts) => unite(session, &hosts[session.process.index()], &["a".into(), "b".into()]).unwrap(),
        }
    }
}

/// Every block was read once; by whom.
fn once(readers: &[u64]) -> Vec<usize> {
    assert!(readers.iter().all(|reader| reader >> 32 == 1), "{readers:x?}");
    readers.iter().map(|reader| *reader as u32 as usize).collect()
}

#[test]
fn a_slow_worker_gives_up_blocks_and_no_bit_changes() {
    let data = Data::Shared(catalog(&[200_000, 3000, 130_000, 17_000]));
    let alone = passes((1, 1), &data, Keep::Nothing, &[None], None).remove(0).unwrap();
    assert_eq!((alone.2, alone.3), (0, 0));
    for (processes, workers) in [(1, 2), (2, 1), (2, 2), (3, 1), (1, 4)] {
        for keep in [Keep::Nothing, Keep::Memory, Keep::Disk] {
            let slow = processes * workers - 1;
            // Slow while the store is filled, and when it is; somebody else; nobody.
            let slows = [Some(slow), Some(slow), Some(0), None];
            let found = passes((processes, workers), &data, keep, &slows, None);
            for (slow, one) in slows.iter().zip(found) {
                let what = format!("{processes} x {workers}, {keep:?}, {slow:?}");
                let (sums, readers, taken, given) = one.unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(sums == alone.0, "{what}");
                once(&readers);
                assert_eq!(taken, given, "{what}");
                assert!(slow.is_none() || taken > 0, "{what}: nothing moved");
            }
        }
    }
}

/// A file that one host has is read there, whoever is slow; one that both have may move.
#[test]
fn blocks_stay_with_hosts_that_have_them() {
    let hosts = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (name, rows, on) in [("a", 130_000, &[0][..]), ("b", 40_000, &[1]), ("c", 230_000, &[0, 1])] {
        for host in on {
            let source = format!("synth:sines?rows={rows}&d=2&seed={rows}");
            let path = hosts[*host].path().join(name);
            make::make(&source.parse().unwrap(), &path, &make::MakeOptions::default(), |_, _| {}).unwrap();
        }
    }
    let files: Vec<HostFiles> =
        hosts.iter().map(|host| HostFiles::open(&[host.path().to_str().unwrap()]).unwrap()).collect();
    let parts: Vec<Vec<u8>> = files.iter().map(HostFiles::to_bytes).collect();
    let catalog = files[0].unite(&parts, &["a".into(), "b".into()], 0).unwrap();
    let data = Data::Spread(files);
    let quick = passes((2, 2), &data, Keep::Nothing, &[None], None).remove(0).unwrap();
    for slow in 0..4 {
        let (sums, readers, taken, _) = passes((2, 2), &data, Keep::Nothing, &[Some(slow)], None).remove(0).unwrap();
        assert!(sums == quick.0 && taken > 0, "{slow}: {taken} moved");
        for (block, reader) in once(&readers).into_iter().enumerate() {
            let (file, _) = catalog.locate(block as u64).unwrap();
            assert!(catalog.sees(reader / 2, file), "worker {reader} read block {block} of file {file}");
        }
    }
}

#[test]
fn an_error_ends_all_while_blocks_move() {
    let data = Data::Shared(catalog(&[500_000]));
    for (processes, workers) in [(1, 3), (3, 1)] {
        // In the first chunk of a worker, in the slow one's last, in one that moves.
        for bad in [0, 244, 160] {
            let found = passes((processes, workers), &data, Keep::Memory, &[Some(2)], Some(bad));
            assert_eq!(found, [Err(StageError::Data(format!("block {bad} is bad")))]);
        }
    }
}
