//! One pass over the encoded rows: who is who under an encoder that is fixed already.
//!
//! A configuration that is taken over says what a bad row is (labels it does not know, targets beyond its range), and a
//! time split is known only once the encoder is: here rows are counted by the encoder itself, so that n and sum w are those of the rows that
//! the later passes see. Sums are exact: the census is a function of the set of rows.
//!
//! Cost: one decoding and encoding pass; nothing is kept.

use super::{NAMED_BAD_ROWS, refuse_bad_rows};
use crate::engine::checkpoint::remember;
use crate::engine::exchange::{Audience, Gather, Outgoing, Scan, Step, pass};
use crate::engine::feed::{Feed, RowStore};
use crate::engine::leases::Leased;
use crate::engine::session::Session;
use crate::error::StageError;
use nystream_datasets::{BadRow, Catalog, Chunk, Encoder, Role};
use nystream_kernels::exact_sum::ExactSum;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The rows of a data set by what becomes of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Census {
    /// Training rows n.
    pub rows: u64,
    /// Rows held out by the split.
    pub held_out: u64,
    /// Rows without any target.
    pub skipped_null_target: u64,
    /// Rows with something wrong.
    pub bad: u64,
    /// The first bad rows, in file order.
    pub bad_rows: Vec<BadRow>,
    /// Training rows that have each target.
    pub targets: Vec<u64>,
    /// Sums of their weights.
    pub target_weights: Vec<f64>,
    /// Sum of the training rows' weights, class weights included.
    pub weight_sum: f64,
}

/// What a worker counted.
#[derive(Default, Serialize, Deserialize)]
struct Counts {
    rows: u64,
    held_out: u64,
    skipped: u64,
    bad: u64,
    bad_rows: Vec<BadRow>,
    targets: Vec<u64>,
    target_weights: Vec<Vec<u8>>,
    weight_sum: Vec<u8>,
}

struct CensusScan {
    feed: Feed,
    chunk: Chunk,
    counts: Counts,
    target_weights: Vec<ExactSum>,
    weight_sum: ExactSum,
}

impl Scan for CensusScan {
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        let (chunk, counts) = (&self.chunk, &mut self.counts);
        counts.skipped += chunk.skipped_null_target;
        counts.bad += chunk.bad.len() as u64;
        counts.bad_rows.extend(chunk.bad.iter().take(NAMED_BAD_ROWS).cloned());
        counts.bad_rows.sort();
        counts.bad_rows.truncate(NAMED_BAD_ROWS);
        for i in 0..chunk.rows() {
            if chunk.held_out[i] {
                counts.held_out += 1;
                continue;
            }
            counts.rows += 1;
            self.weight_sum.add(chunk.weights[i]);
            let sums = counts.targets.iter_mut().zip(&mut self.target_weights);
            for ((count, weights), y) in sums.zip(chunk.targets_of(i..i + 1)) {
                if !y.is_nan() {
                    *count += 1;
                    weights.add(chunk.weights[i]);
                }
            }
        }
        Ok(Step::More { rows: chunk.rows() as u64 })
    }

    fn finish(mut self) -> Result<Vec<Outgoing>, StageError> {
        self.counts.weight_sum = self.weight_sum.to_bytes();
        self.counts.target_weights = self.target_weights.iter().map(ExactSum::to_bytes).collect();
        // Plain data: serialisation cannot fail.
        Ok(vec![Outgoing { key: 0, bytes: serde_json::to_vec(&self.counts).unwrap_or_default() }])
    }

    fn leased(&mut self) -> Option<&mut dyn Leased> {
        Some(&mut self.feed)
    }
}

/// Counts the rows of `catalog` under `encoder`; the counts are on every worker.
///
/// ```
/// use nystream_dataflows::profile::census::census;
/// use nystream_datasets::Split;
/// # use nystream_dataflows::engine::{Process, SilentProgress, run};
/// # use nystream_datasets::{Catalog, ColumnSummary, Encoder, EncoderOptions, Sources};
/// # use std::sync::Arc;
/// # let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=1"])?)?;
/// # let summary = |info| ColumnSummary { count: 5000, sd: 0.6, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
/// # let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
/// let split = Split::Hash { fraction: 0.2, column: None };
/// let options = EncoderOptions { targets: vec!["y".into()], split, ..Default::default() };
/// # let encoder = Arc::new(Encoder::fit(&summaries, &options)?);
/// # let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// # let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// // `catalog` is that of the example of `RowStore`: 5,000 rows, now with a split.
/// let results = run(&process, communication, move |session| census(session, &catalog, &encoder, 0)).unwrap();
/// let counts = results[0].clone().unwrap();
/// assert_eq!((counts.rows + counts.held_out, counts.bad, counts.weight_sum), (5000, 0, counts.rows as f64));
/// assert!((900..1100).contains(&counts.held_out));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Data`]: unreadable data, missing or mistyped columns, more than `max_bad_rows` bad rows.
pub fn census(
    session: &mut Session<'_>,
    catalog: &Catalog,
    encoder: &Arc<Encoder>,
    max_bad_rows: u64,
) -> Result<Census, StageError> {
    let store =
        RowStore::new(catalog, Arc::clone(encoder), session.peers(), session.index(), Arc::clone(&session.process));
    let counts = Counts { targets: vec![0; encoder.target_width()], ..Counts::default() };
    let width = encoder.target_width();
    let scan = CensusScan {
        feed: store.feed(Role::All),
        chunk: Chunk::default(),
        counts,
        target_weights: vec![ExactSum::default(); width],
        weight_sum: ExactSum::default(),
    };
    session.begin("census", catalog.total_rows);
    let parcels = remember(session, "census", Audience::Everyone, |session| {
        pass(session, "census", scan, Gather::default(), Audience::Everyone)
    })?;
    session.end();
    let damaged = |e: &dyn std::fmt::Display| StageError::Internal(format!("a census arrived damaged: {e}"));
    let mut total = Census { targets: vec![0; encoder.target_width()], ..Census::default() };
    let mut weight_sum = ExactSum::default();
    let mut target_weights = vec![ExactSum::default(); width];
    for parcel in &parcels {
        let counts: Counts = serde_json::from_slice(&parcel.bytes).map_err(|e| damaged(&e))?;
        total.rows += counts.rows;
        total.held_out += counts.held_out;
        total.skipped_null_target += counts.skipped;
        total.bad += counts.bad;
        total.bad_rows.extend(counts.bad_rows);
        total.targets.iter_mut().zip(counts.targets).for_each(|(total, count)| *total += count);
        for (total, sum) in target_weights.iter_mut().zip(&counts.target_weights) {
            total.merge(&ExactSum::from_bytes(sum).map_err(|e| damaged(&e))?);
        }
        weight_sum.merge(&ExactSum::from_bytes(&counts.weight_sum).map_err(|e| damaged(&e))?);
    }
    total.bad_rows.sort();
    total.bad_rows.truncate(NAMED_BAD_ROWS);
    total.weight_sum = weight_sum.round();
    total.target_weights = target_weights.iter().map(ExactSum::round).collect();
    refuse_bad_rows(catalog, total.bad, &total.bad_rows, max_bad_rows, None)?;
    Ok(total)
}
