//! The walk of shared centers in a checkpoint: each process stores what it has of the state, by blocks of centers.
//!
//! The problem: the state of a shard is no state for another number of processes. A walk's states are functions of the job and of how many projections it has made (its *generation*), whoever has
//! which centers; so blocks of 4,096 centers of one generation make its whole state, whatever attempts and processes stored them. A process of a later attempt takes the blocks that are its own now, or all of them where it has all centers; the
//! state that a walk with whole centers stored serves as well.
//!
//! Who decides: after each projection all processes agree whether to store; the first worker says which generation is taken up, the latest of which every block is there. A process writes
//! before it agrees again, so none is more than one generation ahead, and two generations are kept.
//!
//! Cost: with checkpoints an exchange of a byte a process each projection; what a process holds once more while it writes or reads is one block, and its share.

use crate::engine::bytes::{Reader, Writer};
use crate::engine::checkpoint::{Own, attempt, each_frame, forget, groups, resumed};
use crate::engine::exchange::{Audience, Gather, Outgoing, pass};
use crate::engine::session::Session;
use crate::error::StageError;
use crate::matvec::grid::Shard;
use nystream_kernels::archive::{decode, encode};
use nystream_kernels::solve::eigenpro::EigenProState;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

/// Beginning of the names of groups, behind which stands the attempt.
const GROUP: &str = "eigenpro shares ";
/// Key of the frame that says of which generation the others are; theirs are the numbers of their blocks.
const HEAD: u64 = u64::MAX;
/// Stores of an attempt after which nothing of earlier ones is needed: each process has come to the end of one at least.
const FORGETS: u32 = 2;

/// Steps that diverged before, and projections since: what comes later is greater.
pub(super) type Generation = (u64, u64);

/// What a walk stores of shared centers.
pub(super) struct Shares {
    shard: Shard,
    own: Option<Own>,
    stores: Cell<u32>,
    /// Groups of earlier attempts.
    earlier: RefCell<Vec<String>>,
}

/// The generation of a state of a walk whose `attempts` before it diverged.
pub(super) fn generation(attempts: &[f64], state: &EigenProState) -> Generation {
    (attempts.len() as u64, state.projections() as u64)
}

impl Shares {
    /// Of the walk of `shard`; `None` where nothing is shared or nothing stored.
    pub fn new(session: &Session<'_>, shard: &Shard) -> Option<Self> {
        shard.among()?;
        let group = format!("{GROUP}{}", attempt(session)?);
        let own = if session.is_leader() { Own::new(session, &group, "walk") } else { None };
        let earlier = RefCell::new(groups(session, GROUP));
        Some(Shares { shard: shard.clone(), own, stores: Cell::new(0), earlier })
    }

    /// Stores the state when a process finds that due. Every worker calls this in step.
    ///
    /// # Errors
    /// [`StageError::Internal`] for a damaged exchange.
    pub fn store(&self, session: &mut Session<'_>, attempts: &[f64], state: &EigenProState) -> Result<(), StageError> {
        let bytes = 48 * (self.shard.centers().len() * state.columns()) as u64;
        let due = self.own.as_ref().is_some_and(|own| own.due(bytes));
        let word = if due { vec![Outgoing { key: 0, bytes: Vec::new() }] } else { Vec::new() };
        if pass(session, "checkpoint", word, Gather::default(), Audience::Everyone)?.is_empty() {
            return Ok(());
        }
        self.stores.set(self.stores.get() + 1);
        if self.stores.get() == FORGETS + 1 {
            self.earlier.take().iter().for_each(|group| forget(session, group));
        }
        let Some(own) = &self.own else { return Ok(()) };
        let blocks = self.shard.own_blocks();
        let count = 1 + blocks.len() as u32;
        let (diverged, projections) = generation(attempts, state);
        let mut head = Writer::default();
        head.u64(diverged);
        head.u64(projections);
        head.f64s(attempts);
        let numbered = (self.shard.first_block()..).zip(blocks);
        let mut frames = std::iter::once(Outgoing { key: HEAD, bytes: head.0 })
            .chain(numbered.map(|(number, block)| Outgoing { key: number, bytes: encode(&state.rows(block)) }));
        own.save(count, &mut frames);
        Ok(())
    }
}

/// The head of a file.
fn head(bytes: &[u8]) -> Option<(Generation, Vec<f64>)> {
    let mut from = Reader(bytes);
    let generation = (from.u64().ok()?, from.u64().ok()?);
    let attempts = from.f64s().ok()?;
    (from.is_empty() && attempts.len() as u64 == generation.0).then_some((generation, attempts))
}

/// The latest generation of which `blocks` blocks are there.
fn latest(files: BTreeMap<Generation, BTreeSet<u64>>, blocks: u64) -> Option<Generation> {
    files
        .into_iter()
        .rev()
        .find(|(_, held)| (0..blocks).all(|block| held.contains(&block)))
        .map(|(generation, _)| generation)
}

/// What is stored of shared centers that is later than `known`: the steps that diverged, and the state of the centers of `shard`, t coefficients each. Every worker calls this in step; all
/// take the same generation, or none.
///
/// # Errors
/// [`StageError::Internal`] for a damaged exchange.
pub(super) fn recalled(
    session: &mut Session<'_>,
    shard: &Shard,
    t: usize,
    known: Option<Generation>,
) -> Result<Option<(Vec<f64>, EigenProState)>, StageError> {
    let groups = groups(session, GROUP);
    if groups.is_empty() {
        return Ok(None);
    }
    let mut word = Vec::new();
    if session.is_first() {
        let mut files: BTreeMap<Generation, BTreeSet<u64>> = BTreeMap::new();
        for group in &groups {
            let mut current = None;
            each_frame(session, group, &mut |number, frame| {
                if frame.key == HEAD {
                    current = head(&frame.bytes).map(|(generation, _)| (number, generation));
                } else if let Some((_, generation)) = current.filter(|(file, _)| *file == number) {
                    files.entry(generation).or_default().insert(frame.key);
                }
            });
        }
        let found = latest(files, shard.blocks()).filter(|found| known.is_none_or(|known| *found > known));
        word.extend(found.map(|(diverged, projections)| {
            let mut out = Writer::default();
            out.u64(diverged);
            out.u64(projections);
            Outgoing { key: 0, bytes: out.0 }
        }));
    }
    let parcels = pass(session, "checkpoint", word, Gather::default(), Audience::Everyone)?;
    let Some(parcel) = parcels.first() else { return Ok(None) };
    let mut from = Reader(&parcel.bytes);
    let wanted = (from.u64()?, from.u64()?);
    let read = if session.is_leader() { own_blocks(session, shard, t, &groups, wanted) } else { None };
    // Where one process cannot read what is its own, none does.
    let missing =
        if session.is_leader() && read.is_none() { vec![Outgoing { key: 0, bytes: Vec::new() }] } else { Vec::new() };
    let missing = !pass(session, "checkpoint", missing, Gather::default(), Audience::Everyone)?.is_empty();
    let read = session.once(|| read);
    if missing {
        return Ok(None);
    }
    resumed(session, super::GROUP);
    Ok((*read).clone())
}

/// The blocks of `shard` of the generation `wanted`, put together.
fn own_blocks(
    session: &Session<'_>,
    shard: &Shard,
    t: usize,
    groups: &[String],
    wanted: Generation,
) -> Option<(Vec<f64>, EigenProState)> {
    let blocks = shard.own_blocks();
    let first = shard.first_block();
    let mut steps = None;
    let mut found: BTreeMap<u64, EigenProState> = BTreeMap::new();
    // A process without centers has the state of none of them.
    let mut any: Option<EigenProState> = None;
    for group in groups {
        let mut current = None;
        each_frame(session, group, &mut |number, frame| {
            if frame.key == HEAD {
                current = head(&frame.bytes).filter(|(generation, _)| *generation == wanted).map(|(_, attempts)| {
                    steps = Some(attempts);
                    number
                });
                return;
            }
            let place = frame.key.wrapping_sub(first) as usize;
            let mine = place < blocks.len() && !found.contains_key(&frame.key);
            if current != Some(number) || !mine && any.is_some() {
                return;
            }
            let Some(state) = decode::<EigenProState>(&frame.bytes).filter(|state| state.columns() == t) else {
                return;
            };
            if any.is_none() {
                any = Some(state.rows(0..0));
            }
            if mine && state.fits(blocks[place].len() * t) {
                found.insert(frame.key, state);
            }
        });
    }
    let state = match blocks.len() {
        0 => any?,
        count if found.len() == count => EigenProState::joined(found.into_values().collect())?,
        _ => return None,
    };
    Some((steps?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_whole_generation_is_taken() {
        let files = |held: &[(Generation, &[u64])]| {
            held.iter().map(|(g, blocks)| (*g, blocks.iter().copied().collect())).collect()
        };
        assert_eq!(latest(files(&[]), 2), None);
        // A step that was cut makes a later generation of fewer projections.
        let held: [(Generation, &[u64]); 4] =
            [((0, 9), &[0, 1]), ((1, 3), &[0, 1]), ((1, 4), &[1]), ((0, 12), &[0, 1])];
        assert_eq!(latest(files(&held), 2), Some((1, 3)));
        assert_eq!(latest(files(&held), 3), None);
    }

    #[test]
    fn heads_are_read_as_they_were_written_or_not_at_all() {
        let mut out = Writer::default();
        out.u64(1);
        out.u64(7);
        out.f64s(&[0.5]);
        assert_eq!(head(&out.0), Some(((1, 7), vec![0.5])));
        assert!((0..out.0.len()).all(|cut| head(&out.0[..cut]).is_none()));
        out.u64(0);
        assert_eq!(head(&out.0), None);
    }
}
