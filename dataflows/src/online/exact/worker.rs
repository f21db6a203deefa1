//! One worker of the engine: the dataflow of the rows, and the orders that it serves until there are no more.

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
use nystream_kernels::tile::Entry;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::dataflow::operators::{Input, Probe};

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
    /// Rows that this worker has.
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
    pub ordered: Option<(Receiver<Order>, Sender<Reply>)>,
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
                        let updates = rows.borrow_mut().apply(letters);
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
            .unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(Pipeline, "gram", move |_, _| {
                let mut waiting: BTreeMap<u64, (_, Vec<(u64, isize)>)> = BTreeMap::new();
                move |(input, frontier), output| {
                    input.for_each(|capability, updates: &mut Vec<Update>| {
                        if let Some(held) = capability.retain_least(output.output_index()) {
                            let time = *held.time();
                            let (_, slots) = waiting.entry(time).or_insert_with(|| (held, Vec::new()));
                            slots.extend(updates.drain(..).map(|((_, slot), _, diff)| (slot, diff)));
                        }
                    });
                    while waiting.first_key_value().is_some_and(|(time, _)| !frontier.less_equal(time)) {
                        let Some((_, (_held, updates))) = waiting.pop_first() else { break };
                        let (mut keep, mut gram) = (sums.0.borrow_mut(), sums.1.borrow_mut());
                        if let Err(error) = gram.update(&mut keep.slots, &updates) {
                            keep.error.get_or_insert(error);
                        }
                    }
                }
            })
            .probe_with(&probe);
        input
    });

    let mut time = 0;
    let mut ended = RunEnd::Failed;
    let orders = ordered.as_ref().map(|ordered| &ordered.0);
    while let Some(order) = together::next(session, orders)? {
        let reply = match order {
            Order::Learn(lot) => {
                let loading = lot.loading;
                (keep.borrow_mut().loading, gram.borrow_mut().loading) = (loading, loading);
                for letter in letters(session, &lot) {
                    input.send(letter);
                }
                drop(lot);
                time += 1;
                input.advance_to(time);
                input.flush();
                session.worker.step_or_park_while(None, || probe.less_than(&time));
                let learned = {
                    let mut keep = keep.borrow_mut();
                    keep.settle(time);
                    (keep.loading, gram.borrow_mut().loading) = (false, false);
                    keep.error.clone().map_or(Ok(keep.tally.rows), Err)
                };
                Reply::Learned(of_all(session, learned)?)
            }
            Order::Publish => Reply::Published(publish(session, fixed, &keep, &gram)),
            Order::Verify => Reply::Published(verify(session, fixed, &keep, &gram)),
            Order::Save(folder) => Reply::Saved(save(session, &keep, &gram, &folder)),
            Order::Restore(kept) => Reply::Summed(restore(session, fixed, &keep, &gram, &kept)),
            Order::End(how) => {
                ended = how;
                break;
            }
        };
        if let Some((_, replies)) = &ordered {
            // Where nobody listens any more there is no further order either.
            let _ = replies.send(reply);
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
