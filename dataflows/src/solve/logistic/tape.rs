//! What a logistic solve stores of itself: the state after the last Newton step, and the passes made since.
//!
//! The inner iterations have no state of their own that could be stored: they are played again from the state before them, and what their passes found is taken from the tape, so that
//! only their m x m algebra is repeated. The tape is held by the first worker alone and is dropped, until the next step, where it would pass [`MOST_BYTES`].

use crate::engine::bytes::{Reader, Writer};
use crate::engine::checkpoint::Iterates;
use crate::engine::exchange::Outgoing;
use crate::engine::session::Session;
use nystream_kernels::archive::{decode, encode};
use nystream_kernels::solve::logistic::LogisticState;
use std::collections::VecDeque;

/// Name of the state in a checkpoint.
pub(super) const GROUP: &str = "logistic";
/// Bytes of a tape.
pub(crate) const MOST_BYTES: usize = 32 << 20;

/// The passes since the last Newton step, those of a checkpoint first.
pub(super) struct Tape {
    iterates: Iterates,
    /// To be played.
    known: VecDeque<Vec<f64>>,
    /// Passes before those of the tape.
    before: u64,
    /// The state after the last step; empty before the first.
    state: Vec<u8>,
    log: Vec<Vec<f64>>,
    /// The gradient that was found last: the point of the next state.
    gradient: Vec<f64>,
    full: bool,
    passes: u64,
}

/// The state and the passes in the frames of a checkpoint, where they are whole: results of a pass have one of these `lengths`.
fn read(frames: &[Outgoing], lengths: [usize; 2]) -> Option<(u64, Vec<u8>, VecDeque<Vec<f64>>)> {
    let (first, rest) = frames.split_first()?;
    let mut from = Reader(&first.bytes);
    let (before, state) = (from.u64().ok()?, from.bytes().ok()?.to_vec());
    let known = rest.iter().map(|frame| Reader(&frame.bytes).f64s().ok()).collect::<Option<VecDeque<_>>>()?;
    known.iter().all(|pass| lengths.contains(&pass.len())).then_some((before, state, known))
}

impl Tape {
    /// From the frames of a checkpoint, whose state is given beside it.
    pub(super) fn new(
        session: &Session<'_>,
        frames: Option<Vec<Outgoing>>,
        lengths: [usize; 2],
    ) -> (Self, Option<LogisticState>) {
        // The centers' masses were a pass.
        let found = frames.and_then(|frames| read(&frames, lengths));
        let (before, bytes, known) = found.unwrap_or((1, Vec::new(), VecDeque::new()));
        let state = decode::<LogisticState>(&bytes);
        let (known, before) = if state.is_some() || bytes.is_empty() { (known, before) } else { Default::default() };
        let tape = Tape {
            iterates: Iterates::new(session, GROUP),
            known,
            before: before.max(1),
            state: bytes,
            log: Vec::new(),
            gradient: Vec::new(),
            full: false,
            passes: before.max(1),
        };
        (tape, state)
    }

    /// Passes before those of the tape.
    pub(super) fn before(&self) -> u64 {
        self.before
    }

    /// What the next pass finds, where it is known.
    pub(super) fn next(&mut self) -> Option<Vec<f64>> {
        self.known.pop_front()
    }

    /// A pass found `sums`.
    pub(super) fn record(&mut self, sums: &[f64], gradient: bool) {
        self.passes += 1;
        if !self.iterates.writes() {
            return;
        }
        if gradient {
            self.gradient = sums.to_vec();
        }
        let held: usize = self.log.iter().map(Vec::len).sum();
        self.full |= 8 * (held + sums.len()) > MOST_BYTES;
        if self.full {
            self.log.clear();
        } else {
            self.log.push(sums.to_vec());
        }
        // What is being played is stored already.
        if self.known.is_empty() {
            self.store();
        }
    }

    /// A Newton step has ended in `state`.
    pub(super) fn mark(&mut self, state: &LogisticState) {
        if !self.iterates.writes() {
            return;
        }
        self.state = encode(state);
        // Going on begins with the gradient at its point.
        self.log = vec![std::mem::take(&mut self.gradient)];
        (self.before, self.full) = (self.passes - 1, false);
        if self.known.is_empty() {
            self.store();
        }
    }

    fn store(&self) {
        let bytes = self.state.len() + 8 * self.log.iter().map(Vec::len).sum::<usize>();
        self.iterates.store(bytes as u64, || {
            let mut out = Writer::default();
            out.u64(self.before);
            out.bytes(&self.state);
            let first = Outgoing { key: 0, bytes: out.0 };
            let pass = |(serial, sums): (usize, &Vec<f64>)| {
                let mut out = Writer::default();
                out.f64s(sums);
                Outgoing { key: 1 + serial as u64, bytes: out.0 }
            };
            std::iter::once(first).chain(self.log.iter().enumerate().map(pass)).collect()
        });
    }
}
