//! The worst row's diagonal, in one pass: steps must be stable for it.

use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Gather, Outgoing, Scan, Step, pass};
use crate::engine::feed::{Feed, view};
use crate::engine::session::{Process, Session};
use crate::error::StageError;
use nystream_datasets::Chunk;
use nystream_kernels::tile::{Entry, TileScratch, Tiles};
use std::sync::Arc;

/// Largest w k_P(x, x) and w k(x, x) over all training rows, weights scaled to mean 1: k_P(x, x) = k(x, x) - sum_i D_i (E_i^T k(S, x))^2.
///
/// A step must be stable for the worst row, and a row far from all others is seldom among the probes. `directions` is E D^1/2, s x q row-major.
pub(super) fn largest_diagonals<T: Entry>(
    session: &mut Session<'_>,
    feed: Feed,
    sample: Arc<Tiles<T>>,
    directions: Vec<f64>,
    mean_weight: f64,
) -> Result<[f64; 2], StageError> {
    let scan = Diagonals {
        feed,
        chunk: Chunk::default(),
        rank: directions.len() / sample.centers().max(1),
        sample,
        directions,
        mean_weight,
        scratch: TileScratch::default(),
        values: Vec::new(),
        largest: [0.0; 2],
        process: Arc::clone(&session.process),
    };
    let parcels = pass(session, "preconditioned diagonal", scan, Gather::default(), Audience::Everyone)?;
    let mut largest = [0.0f64; 2];
    for parcel in parcels {
        let mut from = Reader(&parcel.bytes);
        for (largest, value) in largest.iter_mut().zip(from.f64s()?) {
            *largest = largest.max(value);
        }
    }
    Ok(largest)
}

struct Diagonals<T: Entry> {
    feed: Feed,
    chunk: Chunk,
    sample: Arc<Tiles<T>>,
    directions: Vec<f64>,
    rank: usize,
    mean_weight: f64,
    scratch: TileScratch<T>,
    values: Vec<f64>,
    largest: [f64; 2],
    process: Arc<Process>,
}

impl<T: Entry> Scan for Diagonals<T> {
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        let (rows, q) = (self.chunk.rows(), self.rank);
        let x = view(&self.chunk);
        self.values.clear();
        self.values.resize(rows * q, 0.0);
        self.sample.k_v(x, &self.directions, q, &mut self.scratch, &mut self.values);
        for i in 0..rows {
            let whole = self.sample.kernel().diagonal(x, i);
            let flattened: f64 = self.values[i * q..(i + 1) * q].iter().map(|v| v * v).sum();
            let weight = self.chunk.weights[i] / self.mean_weight;
            self.largest[0] = self.largest[0].max(weight * (whole - flattened));
            self.largest[1] = self.largest[1].max(weight * whole);
        }
        let entries = (rows * self.sample.centers()) as u64;
        self.process.count(entries, entries * 2 * q as u64);
        Ok(Step::More { rows: rows as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        let mut out = Writer::default();
        out.f64s(&self.largest);
        Ok(vec![Outgoing { key: 0, bytes: out.0 }])
    }
}
