//! Blocks of a slow worker move to those that are done: leases, granted by worker 0, within one pass.
//!
//! The problem: a pass ends with its slowest worker, and shares of blocks are cut before anybody knows who that is. The invariants:
//!
//! * *Once.* A block is read by one worker. What is unread is decided by who has it, under the lock under which its reader claims batches ([`Unread`](nystream_datasets::Unread)): nothing that was begun
//!   moves, and nothing that moved is begun where it was.
//! * *No bit.* Who reads a block depends on clocks; no result may. Sums are keyed by block over the fixed tree or exact, pools and proposals are ordered by hash: a scan that lends its blocks
//!   ([`Scan::leased`](crate::engine::Scan::leased)) says by that that this is so of it. Scans whose memory or disk is planned by a worker's share (windows of the trie, rows in hashed order) keep their blocks, and so does
//!   `predict`, whose parts hold the rows of a process in order.
//! * *Bounded.* A worker takes over at most [`MOST_GRANTS`] runs a pass, so that partial sums stay few; what is left halves with each move, and less than [`LEAST`] of work does not move.
//!
//! ```text
//!                 Left, Ask, Gave, Quit
//!   worker i  ------------------------------>  ledger (worker 0)
//!             <------------------------------
//!                 Yield, Grant, Closed
//! ```
//!
//! A worker says how much it has left when that has halved, and once when it is too little to move. One that is done asks, with the time a block takes it. The ledger asks the worker with most left to yield; that
//! one parts with a share by which both would end at the same time, by their paces and with what decoding costs where its own blocks are kept, or with nothing. When nobody has anything left that could move, all are told that the pass
//! is closed: in a pass whose workers are alike that is before the first of them is done, which then waits for nothing. Files that a host alone has move within its process.
//!
//! Cost: an operator in a loop of the pass's dataflow; about log2 of a worker's blocks words a worker, and four a move, each of some bytes and the runs that move. Passes of fewer than [`LEAST_CHUNKS`] chunks a worker have no ledger.

mod ledger;

use crate::engine::session::Process;
use ledger::{Ledger, Message, Word};
use nystream_datasets::{BlockRun, Catalog};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::{ConnectLoop, Feedback};
use timely::scheduling::Activator;

/// Work, by the time it takes its owner, that is worth a move.
pub const LEAST: Duration = Duration::from_millis(20);
/// Runs that a worker takes over in a pass, at most.
pub const MOST_GRANTS: usize = 6;
/// Nodes of the tree of blocks that such runs leave pending, about: a run of b blocks leaves log2(b), and those that are taken from one owner lie beside each other.
pub const PARTIAL_SUMS: u64 = 8 * MOST_GRANTS as u64;
/// Chunks of a worker's share, on the average, below which a pass has no ledger: they are begun at once.
pub const LEAST_CHUNKS: u64 = 3;
/// Blocks of a chunk, at most.
const CHUNK: u64 = 4;
/// Time between two words about what is left.
const TOLD_EVERY: Duration = Duration::from_millis(5);

/// Blocks of a pass that others may read. The pass asks between chunks.
pub trait Leased {
    /// Whose blocks they are.
    fn catalog(&self) -> &Catalog;
    /// Blocks that are not begun.
    fn unread(&self) -> u64;
    /// Blocks that were handed to the scan.
    fn handed(&self) -> u64;
    /// Whether all were, and none is left.
    fn over(&self) -> bool;
    /// Nanoseconds that a block takes more when another worker decodes it, or this one a block of another; 0 where blocks are decoded anyway.
    fn decoding(&self) -> u64;
    /// Gives up about `blocks` blocks, at most, that `process` can read.
    fn give_up(&mut self, blocks: u64, process: usize) -> Vec<BlockRun>;
    /// Reads these as well.
    fn take_over(&mut self, runs: Vec<BlockRun>);
}

fn blocks(runs: &[BlockRun]) -> u64 {
    runs.iter().map(|run| run.end - run.first).sum()
}

/// Of `left` blocks of an owner of pace `own`, how many go to one of pace `other` so that both end together; 0 where that is not worth a move. 0 is a pace that is not known.
fn share(left: u64, own: u64, other: u64) -> u64 {
    let known = |pace: u64, or: u64| if pace == 0 { or.max(1) } else { pace };
    let (own, other) = (known(own, other), known(other, own));
    let share = (u128::from(left) * u128::from(own) / (u128::from(own) + u128::from(other))) as u64;
    // Without any pace nobody knows what it is worth.
    let worth = own == 1 || u128::from(share) * u128::from(own) >= LEAST.as_nanos();
    if worth { share } else { 0 }
}

/// What one worker knows of the leases of a pass: shared by its scan and by the operator that exchanges words.
pub(super) struct Desk {
    me: usize,
    workers: usize,
    process: Arc<Process>,
    ledger: Option<Ledger>,
    /// Words to be sent.
    out: VecDeque<Message>,
    /// Who is to be given something.
    asked: Vec<(usize, u64)>,
    granted: Option<Vec<BlockRun>>,
    grants: usize,
    waiting: bool,
    closed: bool,
    /// Whether the scan is done for good.
    finished: bool,
    /// When the scan began, and since when it has waited; how long it had waited before.
    begun: Option<Instant>,
    since: Option<Instant>,
    waited: Duration,
    /// What the ledger was told last, and when.
    told: Option<(u64, Instant)>,
    words: Option<Activator>,
    scan: Option<Activator>,
}

/// What a scan is to do next.
pub(super) enum Turn {
    /// Go on.
    Read,
    /// Wait until it is activated.
    Wait,
    /// End.
    End,
}

impl Desk {
    /// A desk for worker `me` of `peers` in a pass over `leased`; none where nothing would move. Every worker comes to the same.
    pub(super) fn new(
        leased: &dyn Leased,
        (me, peers): (usize, usize),
        process: &Arc<Process>,
    ) -> Option<Rc<RefCell<Desk>>> {
        let catalog = leased.catalog();
        if peers == 1 || catalog.blocks() < LEAST_CHUNKS * CHUNK * peers as u64 {
            return None;
        }
        let workers = process.workers();
        Some(Rc::new(RefCell::new(Desk {
            me,
            workers,
            process: Arc::clone(process),
            ledger: (me == 0).then(|| Ledger::new(catalog, peers, workers)),
            out: VecDeque::new(),
            asked: Vec::new(),
            granted: None,
            grants: 0,
            waiting: false,
            closed: false,
            finished: false,
            begun: None,
            since: None,
            waited: Duration::ZERO,
            told: None,
            words: None,
            scan: None,
        })))
    }

    /// How the scan is activated.
    pub(super) fn scans(&mut self, activator: Activator) {
        self.scan = Some(activator);
    }

    /// Time that the scan has waited for others' blocks.
    pub(super) fn waited(&self) -> Duration {
        self.waited
    }

    fn say(&mut self, word: Word) {
        self.out.push_back(Message { to: 0, from: self.me, word });
        if let Some(words) = &self.words {
            words.activate();
        }
    }

    /// Nanoseconds that this worker needs for a block; 0 where it does not know.
    fn pace(&self, leased: &dyn Leased) -> u64 {
        let busy = self.begun.map_or(Duration::ZERO, |begun| begun.elapsed()).saturating_sub(self.waited);
        match leased.handed() {
            0 => 0,
            blocks => (busy.as_nanos() / u128::from(blocks)).max(1) as u64,
        }
    }

    /// Before the scan reads: it gets what it waits for, and others what they wait for.
    pub(super) fn before(&mut self, leased: &mut dyn Leased) -> Turn {
        self.begun.get_or_insert_with(Instant::now);
        // First: whoever asks then may have of it.
        if let Some(runs) = self.granted.take() {
            self.waits_no_more();
            self.process.blocks_taken.fetch_add(blocks(&runs), Ordering::Relaxed);
            self.grants += 1;
            self.told = None;
            leased.take_over(runs);
        }
        let own = self.pace(leased);
        for (to, pace) in std::mem::take(&mut self.asked) {
            let wanted = share(leased.unread(), own, pace);
            let runs = if wanted == 0 { Vec::new() } else { leased.give_up(wanted, to / self.workers) };
            self.process.blocks_given.fetch_add(blocks(&runs), Ordering::Relaxed);
            let left = leased.unread();
            self.told = Some((left, Instant::now()));
            self.say(Word::Gave { to, runs, left });
        }
        match (self.waiting, self.closed) {
            (false, _) => Turn::Read,
            (true, false) => Turn::Wait,
            (true, true) => {
                self.waits_no_more();
                Turn::End
            }
        }
    }

    fn waits_no_more(&mut self) {
        self.waiting = false;
        self.waited += self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// After a chunk: the ledger hears how much is left, when that has changed by much.
    pub(super) fn after(&mut self, leased: &dyn Leased) {
        let told = self.told.map(|(told, _)| told);
        if self.closed || told == Some(0) {
            return;
        }
        let left = leased.unread();
        let few = u128::from(left) * u128::from(self.pace(leased)) < 2 * LEAST.as_nanos();
        let late = self.told.is_none_or(|(told, when)| left <= told / 2 && when.elapsed() >= TOLD_EVERY);
        if few || late {
            let left = if few { 0 } else { left };
            self.told = Some((left, Instant::now()));
            self.say(Word::Left(left));
        }
    }

    /// The scan is done: with its own blocks, or for good.
    pub(super) fn done(&mut self, leased: &dyn Leased) -> Turn {
        if self.closed || !leased.over() || self.grants >= MOST_GRANTS {
            return Turn::End;
        }
        self.waiting = true;
        self.since = Some(Instant::now());
        let pace = match self.pace(leased) {
            0 => 0,
            pace => pace + leased.decoding(),
        };
        self.say(Word::Ask(pace));
        Turn::Wait
    }

    /// The scan reads nothing any more.
    pub(super) fn finish(&mut self) {
        self.finished = true;
        for (to, _) in std::mem::take(&mut self.asked) {
            self.say(Word::Gave { to, runs: Vec::new(), left: 0 });
        }
        self.say(Word::Quit);
    }

    /// A word has come; the answers that go out with it.
    fn receive(&mut self, message: Message, answers: &mut Vec<Message>) {
        let me = self.me;
        match message.word {
            Word::Yield { to, .. } if self.finished => {
                answers.push(Message { to: 0, from: me, word: Word::Gave { to, runs: Vec::new(), left: 0 } });
            }
            Word::Yield { to, pace } => self.asked.push((to, pace)),
            Word::Grant(runs) => self.granted = Some(runs),
            Word::Closed => self.closed = true,
            word => {
                if let Some(ledger) = &mut self.ledger {
                    ledger.hear(message.from, word, &mut |to, word| answers.push(Message { to, from: me, word }));
                }
                return;
            }
        }
        if let Some(scan) = self.scan.as_ref().filter(|_| self.waiting) {
            scan.activate();
        }
    }
}

/// Builds the operator that exchanges the words of all workers' desks.
pub(super) fn exchange(scope: Scope<'_, u64>, desk: Rc<RefCell<Desk>>) {
    let (handle, words) = scope.feedback::<Vec<Message>>(1);
    words
        .unary::<CapacityContainerBuilder<Vec<Message>>, _, _, _>(
            Exchange::new(|message: &Message| message.to as u64),
            "leases",
            move |capability, info| {
                desk.borrow_mut().words = Some(scope.activator_for(info.address));
                let mut own = Some(capability);
                move |input, output| {
                    let mut desk = desk.borrow_mut();
                    let mut answers = Vec::new();
                    input.for_each(|capability, batch: &mut Vec<Message>| {
                        batch.drain(..).for_each(|message| desk.receive(message, &mut answers));
                        output.session(&capability).give_iterator(answers.drain(..));
                    });
                    if let Some(capability) = &own {
                        output.session(capability).give_iterator(desk.out.drain(..));
                    }
                    if desk.finished {
                        own = None;
                    }
                }
            },
        )
        .connect_loop(handle);
}

#[cfg(test)]
mod tests;
