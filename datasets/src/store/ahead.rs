//! Reading ahead: the column chunks that a scan will need, fetched in large ranges while it decodes.
//!
//! A decoder walks the columns of a row group side by side, page by page, and goes on to the next group. Each column is a *lane* of *pieces*: its chunks, cut so
//! that one piece of every lane together takes [`SET_BYTES`]; where whole row groups are no larger, a piece is a chunk. A lane that reaches a piece asks for
//! the one after it. The first pieces of a row group are asked for together, neighbours in one request of up to [`REQUEST_BYTES`], over gaps of up to [`GAP_BYTES`].
//!
//! Memory: a lane holds the piece in hand, the next, and while others are ahead the first of the next row group: three sets at most ([`planned_bytes`]).
//! What was read is dropped as the lane goes on; nothing is fetched twice but by decoders that go back, which sound files do not ask for.

use super::address::Address;
use super::client::runtime;
use super::object::{Version, read};
use super::trouble::Trouble;
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::AbortHandle;

/// Bytes of one piece of every lane.
const SET_BYTES: u64 = 12 << 20;
/// Bytes of a piece, at least where its chunk has them, and at most.
const LEAST_PIECE: u64 = 64 << 10;
const LARGEST_PIECE: u64 = 4 << 20;
/// Bytes of a request.
const REQUEST_BYTES: u64 = 4 << 20;
/// Bytes that nobody needs between two that are fetched at once.
const GAP_BYTES: u64 = 64 << 10;

/// What reading ahead takes, at most, where the largest chunks of the columns have `chunks` bytes.
///
/// Three sets of pieces, with the gaps that their requests may hold.
pub(crate) fn planned_bytes(chunks: impl Iterator<Item = u64>) -> u64 {
    let (mut lanes, mut whole) = (0u64, 0u64);
    for chunk in chunks.filter(|chunk| *chunk > 0) {
        lanes += 1;
        whole = whole.saturating_add(chunk.min(LARGEST_PIECE));
    }
    let set = whole.min(SET_BYTES + lanes * LEAST_PIECE) + lanes * GAP_BYTES;
    if lanes == 0 { 0 } else { 3 * set }
}

/// The pieces of one scan of an object.
pub(crate) struct Ahead {
    address: Address,
    version: Version,
    lanes: Vec<Vec<Piece>>,
    /// First byte, lane and number of every piece, by first byte.
    places: Vec<(u64, usize, usize)>,
    bytes_read: Arc<AtomicU64>,
}

struct Piece {
    range: Range<u64>,
    /// Row group, and whether it is the first piece there.
    group: usize,
    first: bool,
    state: State,
}

enum State {
    Idle,
    Asked(Arc<Fetch>),
    Over,
}

/// A request and its answer.
struct Fetch {
    start: u64,
    answer: Mutex<Answer>,
    task: AbortHandle,
}

enum Answer {
    Coming(Receiver<Result<Bytes, Trouble>>),
    Here(Result<Bytes, Trouble>),
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ahead {
    /// Of the chunks `groups[g][lane]` of an object, all with as many lanes.
    pub fn new(address: Address, version: Version, groups: &[Vec<Range<u64>>], bytes_read: Arc<AtomicU64>) -> Self {
        let mut lanes: Vec<Vec<Piece>> = Vec::new();
        for (group, chunks) in groups.iter().enumerate() {
            lanes.resize_with(chunks.len().max(lanes.len()), Vec::new);
            for (lane, piece) in cut(chunks) {
                let first = lanes[lane].last().is_none_or(|last| last.group != group);
                lanes[lane].push(Piece { range: piece, group, first, state: State::Idle });
            }
        }
        let mut places: Vec<(u64, usize, usize)> = Vec::new();
        for (lane, pieces) in lanes.iter().enumerate() {
            places.extend(pieces.iter().enumerate().map(|(number, piece)| (piece.range.start, lane, number)));
        }
        places.sort_unstable();
        Ahead { address, version, lanes, places, bytes_read }
    }

    /// Up to `most` bytes from `start`, at least one; `None` where no piece has them, or the piece is gone.
    pub fn some(&mut self, start: u64, most: usize) -> Option<Result<Bytes, Trouble>> {
        let (lane, number) = self.find(start)?;
        let left = self.lanes[lane][number].range.end - start;
        self.exactly(start, left.min(most as u64) as usize)
    }

    /// Bytes `start..start + length`; `None` where the pieces of one lane do not have them, or are gone.
    pub fn exactly(&mut self, start: u64, length: usize) -> Option<Result<Bytes, Trouble>> {
        let (lane, first) = self.find(start)?;
        let end = start.checked_add(length as u64)?;
        let pieces = &mut self.lanes[lane];
        let mut last = first;
        while pieces[last].range.end < end {
            let next = pieces.get(last + 1).filter(|next| next.range.start == pieces[last].range.end)?;
            debug_assert!(!next.first || next.group > pieces[last].group);
            last += 1;
        }
        if pieces[first..=last].iter().any(|piece| matches!(piece.state, State::Over)) {
            return None;
        }
        for piece in &mut pieces[..first] {
            piece.state = State::Over;
        }
        for number in first..=last + 1 {
            if let Err(trouble) = self.ask(lane, number) {
                return Some(Err(trouble));
            }
        }
        let mut joined = BytesMut::new();
        for piece in &self.lanes[lane][first..=last] {
            let State::Asked(fetch) = &piece.state else { return None };
            let range = piece.range.start.max(start)..piece.range.end.min(end);
            match fetch.wait(&self.bytes_read) {
                Err(trouble) => return Some(Err(trouble)),
                Ok(bytes) => {
                    let bytes = bytes.slice((range.start - fetch.start) as usize..(range.end - fetch.start) as usize);
                    if first == last {
                        return Some(Ok(bytes));
                    }
                    joined.reserve(length);
                    joined.extend_from_slice(&bytes);
                }
            }
        }
        Some(Ok(joined.freeze()))
    }

    /// Lane and number of the piece that holds byte `at`.
    fn find(&self, at: u64) -> Option<(usize, usize)> {
        let after = self.places.partition_point(|(start, ..)| *start <= at);
        let (_, lane, number) = *self.places.get(after.checked_sub(1)?)?;
        self.lanes[lane][number].range.contains(&at).then_some((lane, number))
    }

    /// Asks for a piece, and with the first of a row group for those of all lanes. A piece that is not there, or was asked for, is no trouble.
    fn ask(&mut self, lane: usize, number: usize) -> Result<(), Trouble> {
        let Some(piece) = self.lanes[lane].get(number) else { return Ok(()) };
        if !matches!(piece.state, State::Idle) {
            return Ok(());
        }
        let group = piece.group;
        let mut wanted = vec![(piece.range.clone(), lane, number)];
        if piece.first {
            wanted.clear();
            for (lane, pieces) in self.lanes.iter().enumerate() {
                let begins = pieces.partition_point(|piece| piece.group < group);
                if let Some(piece) = pieces.get(begins).filter(|p| p.group == group && matches!(p.state, State::Idle)) {
                    wanted.push((piece.range.clone(), lane, begins));
                }
            }
            wanted.sort_unstable_by_key(|(range, ..)| range.start);
        }
        let ranges: Vec<Range<u64>> = wanted.iter().map(|(range, ..)| range.clone()).collect();
        for (request, members) in requests(&ranges) {
            let fetch = Arc::new(self.fetch(request)?);
            for (_, lane, number) in &wanted[members] {
                self.lanes[*lane][*number].state = State::Asked(Arc::clone(&fetch));
            }
        }
        Ok(())
    }

    fn fetch(&self, range: Range<u64>) -> Result<Fetch, Trouble> {
        let (send, receive) = sync_channel(1);
        let (address, version, start) = (self.address.clone(), self.version.clone(), range.start);
        let task = runtime()?.spawn(async move {
            let answer = read(address, range, Some(version)).await.map(|(bytes, _)| bytes);
            // Nobody waits any more when the scan has ended.
            let _ = send.send(answer);
        });
        Ok(Fetch { start, answer: Mutex::new(Answer::Coming(receive)), task: task.abort_handle() })
    }
}

impl Fetch {
    fn wait(&self, bytes_read: &AtomicU64) -> Result<Bytes, Trouble> {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Answer::Coming(coming) = &*answer {
            let came = coming.recv().unwrap_or_else(|_| {
                Err(Trouble::lasting("the request was given up", "this is a bug: please report it"))
            });
            if let Ok(bytes) = &came {
                bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            *answer = Answer::Here(came);
        }
        match &*answer {
            Answer::Here(came) => came.clone(),
            Answer::Coming(_) => Err(Trouble::passing("no answer came")),
        }
    }
}

/// The pieces of the chunks of a row group, with their lanes.
fn cut(chunks: &[Range<u64>]) -> Vec<(usize, Range<u64>)> {
    let length = |chunk: &Range<u64>| chunk.end - chunk.start;
    let total: u64 = chunks.iter().map(length).sum();
    let mut pieces = Vec::new();
    for (lane, chunk) in chunks.iter().enumerate() {
        let share = match total <= SET_BYTES {
            true => length(chunk),
            false => (u128::from(length(chunk)) * u128::from(SET_BYTES) / u128::from(total)) as u64,
        };
        let size = share.clamp(LEAST_PIECE, LARGEST_PIECE);
        let mut start = chunk.start;
        while start < chunk.end {
            let end = (start + size).min(chunk.end);
            pieces.push((lane, start..end));
            start = end;
        }
    }
    pieces
}

/// Requests for `ranges`, which are in order and apart, each with the numbers of those that it holds.
fn requests(ranges: &[Range<u64>]) -> Vec<(Range<u64>, Range<usize>)> {
    let mut requests: Vec<(Range<u64>, Range<usize>)> = Vec::new();
    for (number, range) in ranges.iter().enumerate() {
        match requests.last_mut() {
            Some((request, members))
                if range.start.saturating_sub(request.end) <= GAP_BYTES
                    && range.end - request.start <= REQUEST_BYTES =>
            {
                request.end = request.end.max(range.end);
                members.end = number + 1;
            }
            _ => requests.push((range.clone(), number..number + 1)),
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn pieces_are_the_chunks_and_within_the_plan(lengths in vec(1u64..30 << 20, 1..40), gap in 0u64..200_000) {
            let mut at = 4;
            let chunks: Vec<Range<u64>> = lengths.iter().map(|length| {
                let chunk = at..at + length;
                at += length + gap;
                chunk
            }).collect();
            let pieces = cut(&chunks);
            let mut firsts: Vec<Range<u64>> = Vec::new();
            let mut largest = 0;
            for (lane, chunk) in chunks.iter().enumerate() {
                let own: Vec<&Range<u64>> = pieces.iter().filter(|(l, _)| *l == lane).map(|(_, piece)| piece).collect();
                prop_assert_eq!((own[0].start, own[own.len() - 1].end), (chunk.start, chunk.end));
                prop_assert!(own.windows(2).all(|pair| pair[0].end == pair[1].start));
                firsts.push(own[0].clone());
                largest += own.iter().map(|piece| piece.end - piece.start).max().unwrap();
            }
            let requests = requests(&firsts);
            let fetched: u64 = requests.iter().map(|(request, _)| request.end - request.start).sum();
            prop_assert!(requests.iter().all(|(request, _)| request.end - request.start <= REQUEST_BYTES));
            for (request, members) in &requests {
                prop_assert!(firsts[members.clone()].iter().all(|r| r.start >= request.start && r.end <= request.end));
            }
            prop_assert_eq!(requests.iter().map(|(_, members)| members.len()).sum::<usize>(), firsts.len());
            let planned = planned_bytes(lengths.iter().copied());
            prop_assert!(3 * largest.max(fetched) <= planned, "{} {} {}", largest, fetched, planned);
        }
    }
}
