use super::ledger::{Ledger, Message, Word};
use super::*;
use crate::engine::feed::{Feed, RowStore};
use crate::engine::session::SilentProgress;
use nystream_datasets::{ColumnSummary, Encoder, EncoderOptions, Role, Sources, Unread};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[test]
fn shares_end_together_and_are_worth_their_move() {
    let ms = 1_000_000;
    assert_eq!(share(100, ms, ms), 50);
    // An owner nine times as slow keeps a tenth, one nine times as fast nine tenths.
    assert_eq!((share(100, 9 * ms, ms), share(1000, ms, 9 * ms)), (90, 100));
    // Paces that are not known are those of the other; without any there is nothing to weigh.
    assert_eq!([share(100, 0, ms), share(100, ms, 0), share(100, 0, 0), share(1, 0, 0)], [50, 50, 50, 0]);
    // 20 ms of its owner's time, at least.
    assert_eq!((share(38, ms, ms), share(42, ms, ms), share(0, ms, ms)), (0, 21, 0));
}

fn catalog(rows: &[u64]) -> Catalog {
    let specs: Vec<String> =
        rows.iter().enumerate().map(|(i, rows)| format!("synth:sines?rows={rows}&d=2&seed={i}")).collect();
    Catalog::open(&Sources::parse(&specs).unwrap()).unwrap()
}

/// A worker of the simulation, as [`Desk`] has it, without clocks.
struct Worker {
    unread: Vec<Unread>,
    read: Vec<u64>,
    waiting: bool,
    done: bool,
    closed: bool,
    grants: usize,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever the speeds and the order in which words arrive: every block is read once, all come to an end, and nobody is given more than is allowed.
    #[test]
    fn every_block_is_read_once_and_all_end(
        blocks in 1u64..400, peers in 2usize..6, choices in proptest::collection::vec(any::<u32>(), 1..200), speeds in proptest::collection::vec(0u32..20, 6),
    ) {
        let all = catalog(&[blocks * 2048]);
        let mut ledger = Ledger::new(&all, peers, 1);
        let mut workers: Vec<Worker> = (0..peers).map(|index| Worker {
            unread: vec![Unread::new(all.partition(peers, index), 4)],
            read: Vec::new(), waiting: false, done: false, closed: false, grants: 0,
        }).collect();
        // Words between two workers keep their order; those of different pairs do not.
        let mut to_ledger: Vec<VecDeque<Word>> = vec![VecDeque::new(); peers];
        let mut to_worker: Vec<VecDeque<Word>> = vec![VecDeque::new(); peers];
        let mut moves = 0;
        for step in 0.. {
            prop_assert!(step < 200_000, "it does not end");
            if workers.iter().all(|worker| worker.done) && to_ledger.iter().chain(&to_worker).all(VecDeque::is_empty) {
                break;
            }
            // Mixed, so that every worker and every kind of step comes again and again, whatever the choices.
            let mixed = u64::from(choices[step % choices.len()]).wrapping_add(step as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let choice = ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32;
            let index = choice as usize % peers;
            match choice / 16 % 3 {
                0 => if let Some(word) = to_ledger[index].pop_front() {
                    ledger.hear(index, word, &mut |to, word| to_worker[to].push_back(word));
                },
                1 => if let Some(word) = to_worker[index].pop_front() {
                    let worker = &mut workers[index];
                    match word {
                        Word::Closed => worker.closed = true,
                        Word::Grant(runs) => {
                            prop_assert!(worker.waiting && !worker.done && !runs.is_empty());
                            worker.unread.push(Unread::new(runs, 4));
                            (worker.waiting, worker.grants) = (false, worker.grants + 1);
                        }
                        Word::Yield { to, .. } => {
                            let left: u64 = worker.unread.iter().map(Unread::blocks).sum();
                            let mut runs = Vec::new();
                            for unread in worker.unread.iter().rev() {
                                runs.extend(unread.give_up(left / 2 - super::blocks(&runs), &|_| true));
                            }
                            moves += u64::from(!runs.is_empty());
                            let left = worker.unread.iter().map(Unread::blocks).sum();
                            to_ledger[index].push_back(Word::Gave { to, runs, left });
                        }
                        other => prop_assert!(false, "{:?}", other),
                    }
                },
                _ => {
                    let worker = &mut workers[index];
                    let slow = !(choice / 4096).is_multiple_of(1 + speeds[index]);
                    if worker.done || slow {
                        continue;
                    }
                    if worker.waiting {
                        if worker.closed && !to_worker[index].iter().any(|word| matches!(word, Word::Grant(_))) {
                            worker.done = true;
                            to_ledger[index].push_back(Word::Quit);
                        }
                        continue;
                    }
                    match worker.unread.iter().find_map(Unread::claim) {
                        Some(claim) => {
                            worker.read.extend(claim.run.first..claim.run.end);
                            let left: u64 = worker.unread.iter().map(Unread::blocks).sum();
                            to_ledger[index].push_back(Word::Left(if left < 8 { 0 } else { left }));
                        }
                        None if worker.closed || worker.grants >= MOST_GRANTS => {
                            worker.done = true;
                            to_ledger[index].push_back(Word::Quit);
                        }
                        None => {
                            worker.waiting = true;
                            to_ledger[index].push_back(Word::Ask(0));
                        }
                    }
                }
            }
        }
        prop_assert!(workers.iter().all(|worker| worker.grants <= MOST_GRANTS));
        prop_assert_eq!(moves, workers.iter().map(|worker| worker.grants as u64).sum::<u64>());
        let mut read: Vec<u64> = workers.into_iter().flat_map(|worker| worker.read).collect();
        read.sort_unstable();
        prop_assert_eq!(read, (0..blocks).collect::<Vec<_>>());
    }

    #[test]
    fn words_travel_whole(to in 0usize..9, first in any::<u64>(), pace in any::<u64>()) {
        for word in [Word::Ask(pace), Word::Closed, Word::Gave { to, runs: vec![BlockRun { file: 3, first, end: pace }], left: 7 }] {
            let message = Message { to, from: 2, word };
            let bytes = serde_json::to_vec(&message).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Message>(&bytes).unwrap(), message);
        }
    }
}

fn encoder(catalog: &Catalog) -> Arc<Encoder> {
    let summary = |info| ColumnSummary { count: 5000, sd: 0.6, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
    let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
    Arc::new(Encoder::fit(&summaries, &EncoderOptions { targets: vec!["y".into()], ..Default::default() }).unwrap())
}

/// Passes of a few chunks have no ledger, and those whose workers are alike move next to nothing: what moves is what clocks make of them.
#[test]
fn short_passes_have_no_ledger() {
    let store = |blocks: u64| -> (Feed, Arc<Process>) {
        let catalog = catalog(&[blocks * 2048]);
        let process = Process::new(2, 1, 0, Box::new(SilentProgress));
        let store = RowStore::new(&catalog, encoder(&catalog), 2, 0, Arc::clone(&process));
        (store.feed(Role::Training), process)
    };
    let has = |blocks: u64, peers: usize| {
        let (feed, process) = store(blocks);
        Desk::new(&feed, (0, peers), &process).is_some()
    };
    assert_eq!([has(23, 2), has(24, 2), has(24, 1), has(10_000, 1), has(24, 3)], [false, true, false, false, false]);
}

/// Who asked and is told that the pass is closed ends; the words of a whole pass, one after the other.
#[test]
fn the_ledger_asks_those_with_most_left() {
    let all = catalog(&[100 * 2048]);
    let mut ledger = Ledger::new(&all, 3, 1);
    let mut hear = |from: usize, word: Word| {
        let mut said: BTreeMap<usize, Vec<Word>> = BTreeMap::new();
        ledger.hear(from, word, &mut |to, word| said.entry(to).or_default().push(word));
        said.into_iter().collect::<Vec<_>>()
    };
    assert!(hear(0, Word::Left(20)).is_empty() && hear(1, Word::Left(30)).is_empty());
    assert_eq!(hear(2, Word::Ask(5)), [(1, vec![Word::Yield { to: 2, pace: 5 }])]);
    // The other is asked for the second that waits; the one that yields is not asked twice.
    assert_eq!(hear(0, Word::Ask(6)), []);
    let run = BlockRun { file: 0, first: 50, end: 62 };
    let said = hear(1, Word::Gave { to: 2, runs: vec![run], left: 18 });
    assert_eq!(said, [(1, vec![Word::Yield { to: 0, pace: 6 }]), (2, vec![Word::Grant(vec![run])])]);
    // It can give nothing: then who was granted something is asked, and when nobody has enough all is closed.
    assert_eq!(hear(1, Word::Gave { to: 0, runs: vec![], left: 6 }), [(2, vec![Word::Yield { to: 0, pace: 6 }])]);
    assert_eq!(hear(2, Word::Gave { to: 0, runs: vec![], left: 0 }), []);
    assert_eq!(hear(1, Word::Left(0)), [(0, vec![Word::Closed]), (1, vec![Word::Closed]), (2, vec![Word::Closed])]);
    assert!(hear(0, Word::Quit).is_empty());
}
