//! One worker of the engine: the dataflow of the rows, and the orders that it serves until there are no more.
//!
//! Of one process a worker deals its share of up to [`AHEAD`] batches before the first of them is over. Otherwise each would wait for the slowest at every batch: which worker has a panel of the Gram full by when differs, and that is
//! most of the work. What a batch did becomes visible at its own time on every worker, so that this changes no row, and the sums are integers. Of several processes each batch is over before the next order is passed on.

use super::gram::GramState;
use super::keep::{Keep, letter};
use super::publish::{Outcome, publish, restore, save, verify};
use super::sums::{Kept, Reference};
use super::together;
use crate::dictionary::pool::{Columns, Pool};
use crate::engine::deal::Letter;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::job::fit::live::Fixed;
use crate::online::learner::RunEnd;
use differential_dataflow::AsCollection;
use differential_dataflow::Hashable;
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::trace::implementations::{ValBatcher, ValSpine};
use nystream_datasets::{Chunk, RowSlots};
use nystream_hashing::RowId;
use nystream_kernels::gram::PANEL_ROWS;
use nystream_kernels::tile::Entry;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::dataflow::operators::{Input, Probe};

/// Batches that are dealt before the first of them is over. Batches of 1,000 rows, two workers, thousands of rows a second: 4: 214; 8: 240; 16: 238; 32: 228; 176 where each was waited for (2 cores of a Xeon with AVX-512, 2026-11-28).
pub(super) const AHEAD: usize = 8;

/// Changes of one batch, netted: no id twice.
pub(super) struct Lot {
    /// Ids whose rows go.
    pub removed: Vec<RowId>,
    /// Rows that come; what their ids had goes.
    pub added: Chunk,
    /// Which of them.
    pub which: Vec<usize>,
    /// Whether these are rows of a restart, that the sums have already.
    pub loading: bool,
}

/// What a worker is told; all workers are told the same, in one order.
#[derive(Clone)]
pub(super) enum Order {
    Learn(Arc<Lot>),
    Publish,
    /// Make the model from scratch, and change nothing.
    Verify,
    /// Store the sums in this folder.
    Save(PathBuf),
    /// Go on from these sums.
    Restore(Arc<Kept>),
    /// There are no more orders.
    End(RunEnd),
}

/// What it answers.
pub(super) enum Reply {
    /// Rows that this worker has after the batch.
    Learned(Result<u64, StageError>),
    /// The outcome comes from the first worker alone.
    Published(Result<Option<Box<Outcome>>, StageError>),
    /// The file, where there are sums; from the first worker alone.
    Saved(Result<Option<Reference>, StageError>),
    /// Sums were taken over.
    Summed(Result<(), StageError>),
}

/// What a worker is given to begin with.
pub(super) struct Task {
    pub slots: RowSlots,
    /// Who orders, and where answers go; nobody in processes but the first, which passes its orders on.
    pub ordered: Option<Ordered>,
}

/// The worker's end of its link with the engine.
pub(super) struct Ordered {
    pub orders: Receiver<Order>,
    pub replies: Sender<Reply>,
    /// Filled with the worker's thread, which is woken when there is an order.
    pub thread: Arc<OnceLock<Thread>>,
}

/// An update of the collection of rows.
type Update = ((RowId, u64), u64, isize);

/// Serves orders to the end of the run, and gives that; a sender that goes away without a word has failed. Every worker calls this in step.
///
/// # Errors
/// What ends the run, such as a damaged exchange.
pub(super) fn serve<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    fixed: &Fixed,
    task: Task,
) -> Result<RunEnd, StageError> {
    let Task { slots, ordered } = task;
    let pivots = session.once(|| Mutex::new(fixed.pivots()));
    let keep = Rc::new(RefCell::new(Keep::new(slots, fixed, session.process.workers(), pivots)));
    let gram = Rc::new(RefCell::new(GramState::<T>::new()));
    let probe = ProbeHandle::new();
    let (rows, sums) = (Rc::clone(&keep), (Rc::clone(&keep), Rc::clone(&gram)));
    let arranged = Rc::clone(&keep);
    let mut input = session.worker.dataflow_named::<u64, _, _>("exact: rows", |scope| {
        let (input, letters) = scope.new_input::<Vec<Letter>>();
        let updates = letters.unary_frontier::<CapacityContainerBuilder<Vec<Update>>, _, _, _>(
            Exchange::new(|letter: &Letter| letter.to),
            "keep",
            move |_, _| {
                // By time: a batch is applied whole.
                let mut waiting: BTreeMap<u64, (_, Vec<Vec<u8>>)> = BTreeMap::new();
                move |(input, frontier), output| {
                    input.for_each(|capability, letters: &mut Vec<Letter>| {
                        if let Some(held) = capability.retain_least(output.output_index()) {
                            let time = *held.time();
                            let (_, bytes) = waiting.entry(time).or_insert_with(|| (held, Vec::new()));
                            bytes.extend(letters.drain(..).map(|letter| letter.bytes));
                        }
                    });
                    while let Some((time, _)) = waiting.first_key_value() {
                        let time = *time;
                        if frontier.less_equal(&time) {
                            break;
                        }
                        let Some((_, (held, letters))) = waiting.pop_first() else { break };
                        let updates = rows.borrow_mut().apply(time, letters);
                        let updates = updates.into_iter().map(|(place, diff)| (place, time, diff));
                        output.session(&held).give_iterator(updates);
                    }
                }
            },
        );
        let collection = updates.as_collection();
        // Ids are at home with the worker that keeps their rows already.
        let places = arrange_core::<_, _, _, ValSpine<RowId, u64, u64, isize>>(
            collection.inner.clone(),
            Pipeline,
            "places",
            ValBatcher::new,
        );
        arranged.borrow_mut().arranged(places.trace.clone());
        places.stream.probe_with(&probe);
        collection
            .inner
            .unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(Pipeline, "gram", move |_, info| {
                // Sums have no order: they need not wait until a batch is whole. But a panel at a time, so that the worker deals what has come meanwhile, which others wait for.
                let again = scope.activator_for(info.address);
                let mut waiting: VecDeque<(_, Vec<(u64, isize)>)> = VecDeque::new();
                move |input, output| {
                    input.for_each(|capability, updates: &mut Vec<Update>| {
                        let updates = updates.drain(..).map(|((_, slot), _, diff)| (slot, diff));
                        if let Some(held) = capability.retain_least(output.output_index()) {
                            waiting.push_back((held, updates.collect()));
                        }
                    });
                    let (mut keep, mut gram) = (sums.0.borrow_mut(), sums.1.borrow_mut());
                    let mut slots: Vec<(u64, isize)> = Vec::new();
                    let mut held = Vec::new();
                    while slots.len() < PANEL_ROWS {
                        let Some((capability, updates)) = waiting.pop_front() else { break };
                        held.push(capability);
                        slots.extend(updates);
                    }
                    if keep.error.is_none()
                        && let Err(error) = gram.update(&mut keep.slots, &slots)
                    {
                        keep.error.get_or_insert(error);
                    }
                    if !waiting.is_empty() {
                        again.activate();
                    }
                }
            })
            .probe_with(&probe);
        input
    });

    let mut ended = RunEnd::Failed;
    let orders = ordered.as_ref().map(|ordered| &ordered.orders);
    if let Some(ordered) = &ordered {
        let _ = ordered.thread.set(std::thread::current());
    }
    // Where nobody listens any more there is no further order either.
    let answer = |reply| ordered.as_ref().map(|ordered| ordered.replies.send(reply));
    let ahead = if session.process.processes() == 1 { AHEAD } else { 1 };
    // The next batch's time, and the times of those under way.
    let (mut time, mut under_way): (u64, VecDeque<u64>) = (0, VecDeque::new());
    let mut waits: Option<Order> = None;
    loop {
        if under_way.len() < ahead && waits.is_none() {
            waits = if under_way.is_empty() {
                match together::next(session, orders)? {
                    Some(order) => Some(order),
                    None => break,
                }
            } else {
                // Where there is none yet, what is under way goes on.
                orders.and_then(|orders| orders.try_recv().ok())
            };
        }
        let loading = keep.borrow().loading;
        match waits.take() {
            Some(Order::Learn(lot)) if under_way.is_empty() || under_way.len() < ahead && lot.loading == loading => {
                (keep.borrow_mut().loading, gram.borrow_mut().loading) = (lot.loading, lot.loading);
                for letter in letters(session, &lot) {
                    input.send(letter);
                }
                under_way.push_back(time);
                time += 1;
                input.advance_to(time);
                input.flush();
            }
            Some(order) if under_way.is_empty() => {
                let reply = match order {
                    Order::Publish => Reply::Published(publish(session, fixed, &keep, &gram)),
                    Order::Verify => Reply::Published(verify(session, fixed, &keep, &gram)),
                    Order::Save(folder) => Reply::Saved(save(session, &keep, &gram, &folder)),
                    Order::Restore(kept) => Reply::Summed(restore(session, fixed, &keep, &gram, &kept)),
                    Order::End(how) => {
                        ended = how;
                        break;
                    }
                    // Dealt above, as nothing is under way.
                    Order::Learn(_) => return Err(StageError::Internal("a batch was not dealt".into())),
                };
                answer(reply);
            }
            order => {
                waits = order;
                session.worker.step_or_park(None);
                while under_way.front().is_some_and(|batch| !probe.less_equal(batch)) {
                    under_way.pop_front();
                    let over = time - under_way.len() as u64;
                    let rows = keep.borrow_mut().settle(over);
                    let learned = keep.borrow().error.clone().map_or(Ok(rows), Err);
                    answer(Reply::Learned(of_all(session, learned)?));
                }
            }
        }
    }
    drop(input);
    keep.borrow_mut().close();
    Ok(ended)
}

/// What the workers of all processes have learned, told by the first; of one process each tells its own.
fn of_all(session: &mut Session<'_>, learned: Result<u64, StageError>) -> Result<Result<u64, StageError>, StageError> {
    if session.process.processes() == 1 {
        return Ok(learned);
    }
    let all = together::everyone(session, learned)?;
    let rows = all.into_iter().try_fold(0, |rows, own| own.map(|own| rows + own));
    Ok(rows.map(|rows| if session.is_first() { rows } else { 0 }))
}

/// This worker's share of so many things that its process was given.
fn share(session: &Session<'_>) -> impl Fn(usize) -> Range<usize> + use<> {
    let (workers, index) = (session.process.workers(), session.local_index());
    move |count| count * index / workers..count * (index + 1) / workers
}

/// This worker's share of `lot`, by the workers that keep the rows.
fn letters(session: &Session<'_>, lot: &Lot) -> Vec<Letter> {
    let (peers, share) = (session.peers(), share(session));
    let home = |id: &RowId| (id.hashed() % peers as u64) as usize;
    let mut parts: Vec<(Vec<RowId>, Pool)> = vec![Default::default(); peers];
    for id in &lot.removed[share(lot.removed.len())] {
        parts[home(id)].0.push(*id);
    }
    for i in &lot.which[share(lot.which.len())] {
        parts[home(&lot.added.ids[*i])].1.push(&lot.added, *i, Columns::All);
    }
    let full = |(removed, added): &(Vec<RowId>, Pool)| !removed.is_empty() || !added.is_empty();
    let parts = parts.into_iter().enumerate().filter(|(_, part)| full(part));
    parts.map(|(to, (removed, added))| Letter { to: to as u64, bytes: letter(&removed, &added) }).collect()
}
