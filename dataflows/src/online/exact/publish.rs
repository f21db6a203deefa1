//! A publication: the centers, the Gram over them, the solve; and of the first two only what has changed.

use super::gram::{Current, GramState};
use super::keep::{Keep, Tally};
use super::sums::{self, Kept, Reference};
use super::together;
use crate::dictionary::{Centers, Known};
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::job::FitOutcome;
use crate::job::fit::live::{Fixed, Held, Stores, refit};
use crate::nystrom::gram::{Change, PanelJob, Panels, sum_rows, total, unscaled};
use nystream_datasets::Role;
use nystream_kernels::exact_sum::ExactSum;
use nystream_kernels::gram::{ExactGram, GramSums};
use nystream_kernels::rows::RowBuf;
use nystream_kernels::tile::{Entry, Tiles};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// What a publication did again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Whether the centers were chosen again.
    pub chosen: bool,
    /// Centers.
    pub centers: u64,
    /// Those of them that are new.
    pub new_centers: u64,
    /// Rows whose kernel entries with all centers were evaluated for those.
    pub rows_read: u64,
    /// Pairs of centers whose sums over these rows were made again, of m (m + 1) / 2.
    pub pairs: u64,
    /// Leaves of the dictionary's trie with rows, or subtrees that are computed as one; those of the pool of pivots; 0 where there is neither, or it was not asked.
    pub leaves: u64,
    /// Those of them that were computed again, since their rows are others.
    pub leaves_made: u64,
    /// Kernel entries that were evaluated in passes over the rows.
    pub kernel_entries: u64,
}

impl Work {
    /// For people.
    pub(super) fn sentence(&self) -> String {
        let Work { centers, new_centers, rows_read, pairs, leaves, leaves_made, .. } = *self;
        let all = centers * (centers + 1) / 2;
        let trie =
            if leaves > 0 { format!("; {leaves_made} of {leaves} leaves were made again") } else { String::new() };
        let found = match (self.chosen, new_centers) {
            (false, _) => format!("no row of the pool of the {centers} centers has changed: they stay"),
            (true, 0) => format!("the {centers} centers, chosen again, are those that there were"),
            (true, _) => format!(
                "{new_centers} of {centers} centers are new: {rows_read} rows were read again for {pairs} of {all} pairs of centers"
            ),
        };
        found + &trie
    }
}

/// What the first worker tells of a publication.
pub(super) struct Outcome {
    pub fit: FitOutcome,
    pub work: Work,
}

/// Makes the model of the rows that are there. Every worker calls this in step.
///
/// # Errors
/// As [`refit`]; the errors of earlier batches; targets that are null in different rows.
pub(super) fn publish<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    fixed: &Fixed,
    keep: &Rc<RefCell<Keep>>,
    gram: &Rc<RefCell<GramState<T>>>,
) -> Result<Option<Box<Outcome>>, StageError> {
    let flushed = gram.borrow_mut().flush(1);
    let (store, held, dirty) = rows(session, fixed, keep, flushed)?;
    let before = session.process.kernel_entries.load(Ordering::Relaxed);
    let known = {
        let gram = gram.borrow();
        let same = |current: &&Current<T>| !dirty && current.asked == fixed.centers(held.rows);
        gram.current.as_ref().filter(same).map(|current| Arc::clone(&current.centers))
    };
    let mut work = Work { chosen: known.is_none(), ..Work::default() };
    let (own, told) = (Rc::clone(gram), &mut work);
    let mut nodes = keep.borrow_mut().nodes.take();
    let pivots = Arc::clone(&keep.borrow().pivots);
    // Of most rows neither sample nor choice asks: they are not read.
    let (sample, pool) = {
        let keep = keep.borrow();
        let sampled = keep.sampled(fixed.sample(held.rows).bits);
        let pooled = fixed.candidates().map(|rule| keep.pooled(rule.bits));
        let of = |reader| RowStore::of_slots(reader, Arc::clone(&fixed.encoder), Arc::clone(&session.process));
        (of(sampled), pooled.map(of))
    };
    let stores = Stores { sample: &sample, pool: pool.as_ref().unwrap_or(&store) };
    let choice = Known { nodes: nodes.as_mut(), pivots: Some(&*pivots) };
    let found = refit::<T>(session, fixed, stores, held, (known, choice), |session, centers| {
        let sums = sums(session, fixed, &store, &own, centers, told)?;
        if let Some(current) = &mut own.borrow_mut().current {
            current.asked = fixed.centers(held.rows);
        }
        // From here on, the centers are those of the rows that are there.
        keep.borrow_mut().dirty = false;
        Ok(sums)
    });
    if work.chosen {
        let of_pivots = || pivots.lock().unwrap_or_else(PoisonError::into_inner).units;
        (work.leaves, work.leaves_made) = nodes.as_ref().map_or_else(of_pivots, |nodes| nodes.units);
    }
    keep.borrow_mut().nodes = nodes;
    let found = found?;
    work.rows_read = if work.new_centers > 0 { held.rows } else { 0 };
    work.kernel_entries = session.process.kernel_entries.load(Ordering::Relaxed) - before;
    Ok(session.is_first().then(|| Box::new(Outcome { fit: found, work })))
}

/// What a worker tells all others of its rows.
#[derive(Clone, Serialize, Deserialize)]
struct Told {
    error: Option<StageError>,
    rows: u64,
    incomplete: u64,
    weight_sum: serde_bytes::ByteBuf,
    dirty: bool,
}

impl Told {
    fn of(keep: &Keep, flushed: Result<(), StageError>) -> Self {
        let Tally { rows, incomplete, ref weight_sum } = keep.tally;
        let error = keep.error.clone().or(flushed.err());
        let weight_sum = serde_bytes::ByteBuf::from(weight_sum.to_bytes());
        Told { error, rows, incomplete, weight_sum, dirty: keep.dirty }
    }
}

/// What all have together.
///
/// # Errors
/// The least of theirs.
fn united(all: &[Told]) -> Result<(Tally, bool), StageError> {
    if let Some(error) = all.iter().filter_map(|told| told.error.clone()).min() {
        return Err(error);
    }
    let mut tally = Tally::default();
    for Told { rows, incomplete, weight_sum, .. } in all {
        let weight_sum = ExactSum::from_bytes(weight_sum).map_err(|e| StageError::Internal(e.to_string()))?;
        tally.merge(&Tally { rows: *rows, incomplete: *incomplete, weight_sum });
    }
    Ok((tally, all.iter().any(|told| told.dirty)))
}

/// The rows that all workers have, and whether the centers may be others. All workers are past their batches when this returns.
///
/// # Errors
/// `flushed`, and those of earlier batches; targets that are null in different rows; the same on every worker.
fn rows(
    session: &mut Session<'_>,
    fixed: &Fixed,
    keep: &Rc<RefCell<Keep>>,
    flushed: Result<(), StageError>,
) -> Result<(RowStore, Held, bool), StageError> {
    let mine = Told::of(&keep.borrow(), flushed);
    let (tally, dirty) = united(&together::everyone(session, mine)?)?;
    if tally.incomplete > 0 {
        return Err(StageError::Data(format!(
            "targets are null in different rows: {} of {} rows have some targets and not all, and no single Gram serves them. Give them the others, or delete them",
            tally.incomplete, tally.rows
        )));
    }
    let reader = keep.borrow().slots.reader();
    let store = RowStore::of_slots(reader, Arc::clone(&fixed.encoder), Arc::clone(&session.process));
    Ok((store, Held { rows: tally.rows, weight_sum: tally.weight_sum.round() }, dirty))
}

/// The model of the rows that are there with nothing that is kept of earlier ones. Every worker calls this in step.
///
/// # Errors
/// As [`publish`].
pub(super) fn verify<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    fixed: &Fixed,
    keep: &Rc<RefCell<Keep>>,
    gram: &Rc<RefCell<GramState<T>>>,
) -> Result<Option<Box<Outcome>>, StageError> {
    let flushed = gram.borrow_mut().flush(1);
    let (store, held, _) = rows(session, fixed, keep, flushed)?;
    let (fresh, mut work) = (Rc::new(RefCell::new(GramState::<T>::new())), Work { chosen: true, ..Work::default() });
    let told = &mut work;
    let stores = Stores { sample: &store, pool: &store };
    let found = refit::<T>(session, fixed, stores, held, (None, Known::default()), |session, centers| {
        sums(session, fixed, &store, &fresh, centers, told)
    })?;
    work.rows_read = held.rows;
    Ok(session.is_first().then(|| Box::new(Outcome { fit: found, work })))
}

/// The place of every center of `centers` among those of the Gram; `None` for new ones.
fn kept<T: Entry>(current: &Current<T>, centers: &Centers) -> Vec<Option<usize>> {
    let old = &current.centers;
    let by_id: BTreeMap<_, usize> = current.order.iter().enumerate().map(|(at, i)| (old.ids[*i], at)).collect();
    let (before, now) = (old.rows.view(), centers.rows.view());
    let bits = |row: &[f32]| row.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let same = |i: usize, at: usize| {
        let j = current.order[at];
        bits(now.numeric(i)) == bits(before.numeric(j)) && now.codes(i) == before.codes(j)
    };
    let place = |(i, id)| by_id.get(id).copied().filter(|at| same(i, *at));
    centers.ids.iter().enumerate().map(place).collect()
}

/// The Gram of the rows in `store` over `centers`: what is kept of it, where they are those that it has; else with the pairs made anew of which one is new.
fn sums<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    fixed: &Fixed,
    store: &RowStore,
    state: &Rc<RefCell<GramState<T>>>,
    centers: &Arc<Centers>,
    work: &mut Work,
) -> Result<Arc<GramSums>, StageError> {
    let m = centers.ids.len();
    let places = match &state.borrow().current {
        Some(current) => kept(current, centers),
        None => vec![None; m],
    };
    let new: Vec<usize> = (0..m).filter(|i| places[*i].is_none()).collect();
    (work.centers, work.new_centers) = (m as u64, new.len() as u64);
    work.pairs = (new.len() * (2 * m + 1 - new.len()) / 2) as u64;
    let held = state.borrow().current.as_ref().map_or(0, |current| current.order.len());
    let stays = new.is_empty() && held == m;
    if stays {
        // Perhaps in another order.
        let mut order = vec![0; m];
        places.iter().enumerate().for_each(|(i, at)| order[at.unwrap_or_default()] = i);
        if let Some(current) = &mut state.borrow_mut().current {
            (current.centers, current.order) = (Arc::clone(centers), Arc::new(order));
        }
    } else {
        let order: Vec<usize> = new.iter().copied().chain((0..m).filter(|i| places[*i].is_some())).collect();
        let job = panels::<T>(session, fixed, centers, &order)?;
        let gram = session.once(|| ExactGram::new(fixed.gram_shape(m)));
        let old = state.borrow().current.as_ref().map(|current| Arc::clone(&current.gram));
        if !new.is_empty() {
            let change = if old.is_some() { Change::Columns(new.len()) } else { Change::Add };
            sum_rows(session, "exact: new centers", store.feed(Role::Training), job.clone(), &gram, change)?;
        }
        if let Some(old) = old {
            let same: Vec<(usize, usize)> =
                order.iter().enumerate().filter_map(|(here, i)| Some((here, places[*i]?))).collect();
            session.try_once(|| gram.carry(&old, &same).map_err(|e| StageError::Internal(e.to_string())))?;
        }
        let (centers, order, panels) = (Arc::clone(centers), Arc::new(order), Panels::new(job));
        state.borrow_mut().current = Some(Current { asked: 0, centers, order, gram, panels });
    }
    let (gram, order) = match &state.borrow().current {
        Some(current) => (Arc::clone(&current.gram), Arc::clone(&current.order)),
        None => return Err(StageError::Internal("there is no Gram".into())),
    };
    let total = total(session, &gram)?;
    Ok(session.once(|| unscaled(ordered(total.finish(), &order), &fixed.frozen.code)))
}

/// How rows become entries with these centers in this order.
fn panels<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    fixed: &Fixed,
    centers: &Centers,
    order: &[usize],
) -> Result<PanelJob<T>, StageError> {
    let tiles = session.try_once(|| {
        let rows = RowBuf::gather(centers.rows.view(), order);
        Tiles::<T>::new(&fixed.kernel, rows.view(), &[], fixed.config.simd)
            .map_err(|e| StageError::Numeric(e.to_string()))
    })?;
    let (code, weight_max, weighted) = (fixed.frozen.code.clone(), fixed.weight_max, fixed.weighted());
    Ok(PanelJob { tiles, code, weight_max, weighted })
}

/// Stores the sums of the rows of all processes, where there are any, in the first one. Every worker calls this in step.
///
/// # Errors
/// The errors of earlier batches; a file that cannot be written; the same on every worker.
pub(super) fn save<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    keep: &Rc<RefCell<Keep>>,
    gram: &Rc<RefCell<GramState<T>>>,
    folder: &Path,
) -> Result<Option<Reference>, StageError> {
    let flushed = gram.borrow_mut().flush(1);
    let mine = Told::of(&keep.borrow(), flushed);
    let (_, dirty) = united(&together::everyone(session, mine)?)?;
    let gram = gram.borrow();
    let Some(Current { asked, centers, order, gram, .. }) = &gram.current else { return Ok(None) };
    let gram = total(session, gram)?;
    if session.process.index() > 0 {
        return Ok(None);
    }
    let kept = || Kept {
        asked: *asked,
        dirty,
        centers: Arc::clone(centers),
        order: Arc::clone(order),
        gram: Some(Arc::clone(&gram)),
    };
    session.try_once(|| sums::write(folder, &kept())).map(|reference| Some(*reference))
}

/// Goes on from sums that were stored. Every worker calls this in step, before there are rows.
///
/// # Errors
/// [`StageError::Numeric`] for centers that are none; the same on every worker.
pub(super) fn restore<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    fixed: &Fixed,
    keep: &Rc<RefCell<Keep>>,
    gram: &Rc<RefCell<GramState<T>>>,
    kept: &Kept,
) -> Result<(), StageError> {
    let job = panels::<T>(session, fixed, &kept.centers, &kept.order)?;
    // Other processes begin with nothing: the stored integers are the first one's, whoever has the rows.
    let nothing = || Arc::new(ExactGram::new(fixed.gram_shape(kept.centers.ids.len())));
    let shared = session.once(|| kept.gram.clone().unwrap_or_else(nothing));
    keep.borrow_mut().dirty = kept.dirty;
    gram.borrow_mut().current = Some(Current {
        asked: kept.asked,
        centers: Arc::clone(&kept.centers),
        order: Arc::clone(&kept.order),
        gram: Arc::clone(&*shared),
        panels: Panels::new(job),
    });
    Ok(())
}

/// `sums` whose center k becomes center `order[k]`.
fn ordered(sums: GramSums, order: &[usize]) -> GramSums {
    let mut place = vec![0; order.len()];
    order.iter().enumerate().for_each(|(at, i)| place[*i] = at);
    let m = order.len();
    let gram = faer::Mat::from_fn(m, m, |i, j| sums.gram[(place[i], place[j])]);
    let cross = faer::Mat::from_fn(m, sums.cross.ncols(), |i, k| sums.cross[(place[i], k)]);
    GramSums { gram, cross, ..sums }
}
