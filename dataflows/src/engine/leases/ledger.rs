//! The ledger of a pass: who has how much left, who waits for work, and who is asked to give some up. Worker 0 keeps it; it is a function of the words that reach it.

use nystream_datasets::{BlockRun, Catalog};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a worker tells the ledger, or the ledger a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    /// To the ledger: so many blocks are not begun; 0 where they are too few to move.
    Left(u64),
    /// To the ledger: there is nothing left, and a block takes so many nanoseconds (0: not known).
    Ask(u64),
    /// To the ledger: nothing is left, and nothing is asked for.
    Quit,
    /// To the ledger: these runs go to that worker, and so many blocks are left.
    Gave { to: usize, runs: Vec<BlockRun>, left: u64 },
    /// To a worker: give some of what is not begun to that worker, whom a block takes so many nanoseconds.
    Yield { to: usize, pace: u64 },
    /// To who asked: read these as well.
    Grant(Vec<BlockRun>),
    /// To all: nothing moves any more.
    Closed,
}

/// A word on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    pub to: usize,
    pub from: usize,
    pub word: Word,
}

pub(super) struct Ledger {
    catalog: Catalog,
    /// Workers of a process.
    workers: usize,
    /// Blocks that a worker has not begun, when it last said; all there may be before it says anything.
    left: Vec<u64>,
    /// Workers that asked, and their pace.
    waiting: BTreeMap<usize, u64>,
    /// Whom a worker has been asked to give something.
    yielding: BTreeMap<usize, usize>,
    /// Who could give nothing to whom.
    declined: BTreeSet<(usize, usize)>,
    closed: bool,
}

impl Ledger {
    pub fn new(catalog: &Catalog, peers: usize, workers: usize) -> Self {
        Ledger {
            catalog: catalog.clone(),
            workers: workers.max(1),
            left: vec![u64::MAX; peers],
            waiting: BTreeMap::new(),
            yielding: BTreeMap::new(),
            declined: BTreeSet::new(),
            closed: false,
        }
    }

    /// Hears what `from` says; `say` is given the answers.
    pub fn hear(&mut self, from: usize, word: Word, say: &mut dyn FnMut(usize, Word)) {
        if self.closed {
            return;
        }
        match word {
            Word::Left(blocks) => self.left[from] = blocks,
            Word::Ask(pace) => {
                self.left[from] = 0;
                self.waiting.insert(from, pace);
            }
            Word::Quit => {
                self.left[from] = 0;
                self.waiting.remove(&from);
            }
            Word::Gave { to, runs, left } => {
                self.left[from] = left;
                self.yielding.remove(&from);
                if runs.is_empty() {
                    self.declined.insert((from, to));
                } else {
                    self.left[to] = runs.iter().map(|run| run.end - run.first).sum();
                    self.waiting.remove(&to);
                    self.declined.retain(|(owner, _)| *owner != to);
                    say(to, Word::Grant(runs));
                }
            }
            // What the ledger says itself.
            Word::Yield { .. } | Word::Grant(_) | Word::Closed => {}
        }
        self.serve(say);
        if self.yielding.is_empty() && self.left.iter().all(|left| *left == 0) {
            self.closed = true;
            (0..self.left.len()).for_each(|worker| say(worker, Word::Closed));
        }
    }

    /// Asks those with most left, for all that wait and for whom nobody is asked yet. Who was asked before it had nothing left answers first: what it says of itself then is of before it is given anything.
    fn serve(&mut self, say: &mut dyn FnMut(usize, Word)) {
        let busy: BTreeSet<usize> = self.yielding.iter().flat_map(|(owner, to)| [*owner, *to]).collect();
        for (&to, &pace) in self.waiting.iter().filter(|(to, _)| !busy.contains(to)) {
            let process = |worker: usize| worker / self.workers;
            let can = |owner: &usize| {
                self.left[*owner] > 0
                    && !self.yielding.contains_key(owner)
                    && !self.declined.contains(&(*owner, to))
                    && self.catalog.meet(process(*owner), process(to))
            };
            // Of those alike the first.
            let owners = (0..self.left.len()).filter(can);
            if let Some(owner) = owners.max_by_key(|owner| (self.left[*owner], std::cmp::Reverse(*owner))) {
                self.yielding.insert(owner, to);
                say(owner, Word::Yield { to, pace });
            }
        }
    }
}
