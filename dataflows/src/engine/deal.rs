//! Rows on their way from the workers that hold them to those that need them.
//!
//! ```text
//!  letters (one per activation) --exchange by address--> receive
//! ```
//!
//! A [`pass`] hands parcels on once all of them are there, which costs every byte twice or more. Here each letter goes to its
//! receiver as soon as it arrives, so rows that a sender gives up while it writes letters exist about once. Letters arrive in any
//! order: receivers must sort, or not care.

use crate::engine::exchange::{Audience, Gather, Outcome, pass};
use crate::engine::session::Session;
use crate::error::StageError;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::rc::Rc;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::operator::{Operator, source};
use timely::dataflow::operators::probe::Handle as ProbeHandle;

/// About how many bytes a letter should have: enough that its envelope does not count, few enough that several may wait.
pub const LETTER_BYTES: usize = 256 << 10;

/// Bytes for one worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Letter {
    /// Global index of the worker.
    pub to: u64,
    /// Payload.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// Sends `letters`, one at a time, and gives every letter that arrives here to `receive`. Every worker calls this in step, and all letters
/// are received when it returns. [`Letter::to`] is taken modulo the number of workers.
///
/// ```
/// use nystream_dataflows::engine::deal::{Letter, deal};
/// use nystream_dataflows::engine::{Process, SilentProgress, run};
/// use std::{cell::RefCell, rc::Rc};
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let received = run(&process, communication, |session| {
///     let (me, peers) = (session.index() as u8, session.peers() as u64);
///     let letters = (0..peers).map(move |to| Letter { to, bytes: vec![me, to as u8] });
///     let shelf: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
///     let sink = Rc::clone(&shelf);
///     deal(session, "example", letters, move |bytes| Ok(sink.borrow_mut().push(bytes))).unwrap();
///     let mut received = shelf.take();
///     // They arrive in any order.
///     received.sort();
///     received
/// });
/// assert_eq!(received.unwrap(), [[[0, 0], [1, 0]], [[0, 1], [1, 1]]]);
/// ```
///
/// # Errors
/// The first error of a worker's `receive`, the least of them where several workers have one; the same on every worker. The letters that
/// arrive at a worker after its error are dropped.
pub fn deal<I, F>(session: &mut Session<'_>, name: &str, letters: I, mut receive: F) -> Result<(), StageError>
where
    I: Iterator<Item = Letter> + 'static,
    F: FnMut(Vec<u8>) -> Result<(), StageError> + 'static,
{
    let probe = ProbeHandle::new();
    let watched = probe.clone();
    let failed: Rc<RefCell<Option<StageError>>> = Rc::default();
    let failure = Rc::clone(&failed);
    session.worker.dataflow_named::<u64, _, _>(name, move |scope| {
        source::<_, CapacityContainerBuilder<Vec<Letter>>, _, _>(scope, "letters", move |capability, info| {
            let activator = scope.activator_for(info.address);
            let mut state = Some((capability, letters));
            move |output| {
                let Some((capability, mut letters)) = state.take() else { return };
                if let Some(letter) = letters.next() {
                    output.session(&capability).give(letter);
                    activator.activate();
                    state = Some((capability, letters));
                }
            }
        })
        .unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
            Exchange::new(|letter: &Letter| letter.to),
            "receive",
            move |_, _| {
                move |input, _output| {
                    input.for_each(|_, batch: &mut Vec<Letter>| {
                        for letter in batch.drain(..) {
                            let mut failed = failure.borrow_mut();
                            if failed.is_none() {
                                *failed = receive(letter.bytes).err();
                            }
                        }
                    });
                }
            },
        )
        .probe_with(&probe);
    });
    session.worker.step_or_park_while(None, || !watched.done());
    let outcome = Outcome(failed.borrow_mut().take());
    pass(session, name, outcome, Gather::default(), Audience::Leaders).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Process, SilentProgress, run};

    #[test]
    fn letters_reach_their_addresses_and_errors_reach_all() {
        for workers in [1, 2, 3, 7] {
            for fail in [false, true] {
                let process = Process::new(workers, 1, 0, Box::new(SilentProgress));
                let communication = timely::CommunicationConfig::Process(workers).try_build().unwrap();
                let results = run(&process, communication, move |session| {
                    let (me, peers) = (session.index(), session.peers());
                    let letters = (0..50 * peers)
                        .map(move |i| Letter { to: (i % peers) as u64, bytes: vec![me as u8; 1000 + i / peers] });
                    let got: Rc<RefCell<Vec<(u8, usize)>>> = Rc::default();
                    let sink = Rc::clone(&got);
                    let result = deal(session, "test", letters, move |bytes| {
                        sink.borrow_mut().push((bytes[0], bytes.len()));
                        if fail && me == peers - 1 { Err(StageError::Internal("damaged".into())) } else { Ok(()) }
                    });
                    let mut got = got.take();
                    got.sort_unstable();
                    (result, got)
                });
                let expected: Vec<(u8, usize)> =
                    (0..workers).flat_map(|from| (0..50).map(move |k| (from as u8, 1000 + k))).collect();
                for (result, got) in results.unwrap() {
                    if fail {
                        assert_eq!(result, Err(StageError::Internal("damaged".into())));
                    } else {
                        assert!(result.is_ok() && got == expected, "{workers} workers");
                    }
                }
            }
        }
    }
}
