//! What the centers weigh as rows, and which targets they have.
//!
//! Centers are chosen by their features alone; where rows differ in weight, or targets are null in different rows, the rows that stand for all others
//! ([`StratifiedSample`](super::StratifiedSample)) must know what the centers among them count. One pass over the rows finds them by their features. Of
//! rows with equal features the first by id speaks for the center; a center that is no training row (one of a file) weighs nothing.
//!
//! Cost: a pass without kernel entries, a hash a row; each worker sends m records of 40 bytes and a byte a target.

use crate::dictionary::pool::feature_key;
use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Gather, Outgoing, Scan, Step, pass};
use crate::engine::feed::{Feed, RowStore, view};
use crate::engine::session::Session;
use crate::error::StageError;
use nystream_datasets::{Chunk, Role};
use nystream_hashing::RowId;
use nystream_kernels::rows::Rows;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One row's weight and which targets it has.
#[derive(Clone, Debug)]
struct Known {
    id: RowId,
    weight: f64,
    has: Vec<u8>,
}

/// The centers as rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct CenterWeights {
    rows: Vec<Option<Known>>,
}

/// Largest weights up to which, and down to the inverse of which, squares of weighted sums are far from the ends of what f64 holds.
const PLAIN_WEIGHTS: f64 = 1e30;
/// Powers of four beyond this have no inverse.
const LARGEST_LOG4: f64 = 500.0;

/// The power of four by which iterative solvers multiply all weights, of which only ratios matter, so that no square vanishes or overflows; 1 for ordinary
/// weights. `largest` bounds the weights.
pub(crate) fn weight_scale(largest: f64) -> f64 {
    if !(largest > 0.0 && largest.is_finite()) || (1.0 / PLAIN_WEIGHTS..=PLAIN_WEIGHTS).contains(&largest) {
        return 1.0;
    }
    // Even powers, so that roots are scaled without rounding too.
    let half = (largest.log2() / 2.0).ceil().clamp(-LARGEST_LOG4, LARGEST_LOG4);
    2f64.powi(-2 * half as i32)
}

impl CenterWeights {
    /// The weights of the centers times `scale`; with `target`, of those that have it, 0 for the others.
    pub(crate) fn of(&self, target: Option<usize>, scale: f64) -> Vec<f64> {
        let weight = |known: &Known| match target {
            Some(k) if known.has.get(k) != Some(&1) => 0.0,
            _ => scale * known.weight,
        };
        self.rows.iter().map(|known| known.as_ref().map_or(0.0, weight)).collect()
    }
}

/// Which centers have these features: those of a file may repeat.
type Places = Arc<BTreeMap<[u8; 32], Vec<usize>>>;

struct CenterScan {
    feed: Feed,
    chunk: Chunk,
    places: Places,
    found: Vec<Option<Known>>,
}

fn keep(slot: &mut Option<Known>, row: Known) {
    if slot.as_ref().is_none_or(|known| row.id < known.id) {
        *slot = Some(row);
    }
}

impl Scan for CenterScan {
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        let rows = view(&self.chunk);
        for i in 0..self.chunk.rows() {
            let Some(centers) = self.places.get(&feature_key(rows, i)) else { continue };
            let has = self.chunk.targets_of(i..i + 1).iter().map(|y| u8::from(!y.is_nan())).collect();
            let row = Known { id: self.chunk.ids[i], weight: self.chunk.weights[i], has };
            centers.iter().for_each(|center| keep(&mut self.found[*center], row.clone()));
        }
        Ok(Step::More { rows: self.chunk.rows() as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        let mut out = Writer::default();
        for (center, known) in self.found.iter().enumerate() {
            let Some(Known { id, weight, has }) = known else { continue };
            out.u64(center as u64);
            out.ids(&[*id]);
            out.f64s(&[*weight]);
            out.bytes(has);
        }
        Ok(vec![Outgoing { key: 0, bytes: out.0 }])
    }
}

/// Finds the centers among the training rows of `store`, for every worker.
///
/// # Errors
/// [`StageError::Data`] for rows that cannot be read or encoded, [`StageError::Internal`] for a damaged exchange; the same on every worker.
pub(crate) fn center_weights(
    session: &mut Session<'_>,
    store: &RowStore,
    centers: Rows<'_>,
) -> Result<CenterWeights, StageError> {
    let mut places: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
    (0..centers.len()).for_each(|i| places.entry(feature_key(centers, i)).or_default().push(i));
    let scan = CenterScan {
        feed: store.feed(Role::Training),
        chunk: Chunk::default(),
        places: Arc::new(places),
        found: vec![None; centers.len()],
    };
    let parcels = pass(session, "weights of the centers", scan, Gather::default(), Audience::Everyone)?;
    let mut rows = vec![None; centers.len()];
    for parcel in &parcels {
        let mut from = Reader(&parcel.bytes);
        while !from.is_empty() {
            let center = from.u64()? as usize;
            let (ids, weights, has) = (from.ids()?, from.f64s()?, from.bytes()?.to_vec());
            match (rows.get_mut(center), ids.as_slice(), weights.as_slice()) {
                (Some(slot), [id], [weight]) => keep(slot, Known { id: *id, weight: *weight, has }),
                _ => return Err(StageError::Internal("the weights of the centers arrived damaged".into())),
            }
        }
    }
    Ok(CenterWeights { rows })
}

#[cfg(test)]
mod tests {
    use super::weight_scale;

    #[test]
    fn only_extreme_weights_are_scaled_and_by_powers_of_four() {
        assert_eq!([1e-30, 0.3, 1.0, 1e30, 0.0].map(weight_scale), [1.0; 5]);
        for largest in [1e-310f64, 1e-200, 1e-31, 1e31, 1e300] {
            let scale = weight_scale(largest);
            assert_eq!(scale.sqrt().to_bits() << 12, 0, "{largest:e}: the root of {scale:e} is no power of two");
            assert!((1e-10..=1.0).contains(&(largest * scale)), "{largest:e}: {scale:e}");
        }
    }
}
