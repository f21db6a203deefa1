//! What the centers stand for: the weight of the rows around each, which preconditioners give to the centers ([`StratifiedSample`](super::StratifiedSample)).
//!
//! A row belongs to its nearest center and counts there by its weight and the share of it that the center tells ([`Nearest`]); where targets are null in different rows, each target
//! has masses of its own. They are extra sums of a pass ([`row_sums`]): of the one that forms the right-hand side, at no entry more, or of [`center_masses`]. Cost: 2 m numbers a sum
//! block, and as many more for each target that has nulls.

use crate::engine::checkpoint::remember_numbers;
use crate::engine::feed::{RowStore, view};
use crate::engine::session::Session;
use crate::error::StageError;
use crate::matvec::{Reads, RowView, Widths, row_sums};
use nystream_datasets::Role;
use nystream_kernels::rows::{RowBuf, Rows};
use nystream_kernels::tile::{Entry, Nearest, Tiles};
use std::sync::Arc;

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

/// What the centers stand for, m numbers each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Masses<'a> {
    /// Weight times share of the rows nearest to each.
    pub around: &'a [f64],
    /// Weight of the rows equal to each: its own, where it is a row.
    pub own: &'a [f64],
}

/// How masses lie among the extra sums of a pass: those of all rows and, where targets have nulls, those of the rows that have each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MassLayout {
    centers: usize,
    /// Targets with masses of their own; 0 where all rows have all.
    targets: usize,
}

impl MassLayout {
    /// Of `centers` centers; `targets` have masses of their own.
    pub(crate) fn new(centers: usize, targets: usize) -> Self {
        MassLayout { centers, targets }
    }

    /// Numbers in all.
    pub(crate) fn len(self) -> usize {
        2 * self.centers * (1 + self.targets)
    }

    /// Adds row `i` of `rows`, of this `weight`, whose targets are `y`, NaN where it has none.
    ///
    /// No center stands for more than a row: the share of a row far out under a kernel without a bound may be thousands, and would outweigh all others.
    pub(crate) fn add(
        self,
        sums: &mut [f64],
        centers: &RowBuf,
        (rows, i): (Rows<'_>, usize),
        nearest: Nearest,
        (weight, y): (f64, &[f64]),
    ) {
        let j = nearest.center;
        let view = centers.view();
        let own = if view.numeric(j) == rows.numeric(i) && view.codes(j) == rows.codes(i) { weight } else { 0.0 };
        let present = y.iter().take(self.targets).enumerate().filter(|(_, y)| !y.is_nan());
        for place in std::iter::once(0).chain(present.map(|(k, _)| 1 + k)) {
            let at = 2 * place * self.centers + j;
            sums[at] += weight * nearest.share.min(1.0);
            sums[at + self.centers] += own;
        }
    }

    /// Of all rows, or of those that have a target.
    pub(crate) fn of(self, sums: &[f64], target: Option<usize>) -> Masses<'_> {
        let place = target.map_or(0, |k| 1 + k).min(self.targets);
        let (around, own) = sums[2 * place * self.centers..][..2 * self.centers].split_at(self.centers);
        Masses { around, own }
    }
}

/// A copy of some rows.
pub(crate) fn owned(rows: Rows<'_>) -> RowBuf {
    RowBuf::gather(rows, &(0..rows.len()).collect::<Vec<_>>())
}

/// The masses of all rows times `scale`, for solvers that have no other use for the entries of a pass.
///
/// # Errors
/// [`StageError::Data`] for rows that cannot be read or encoded, [`StageError::Internal`] for a damaged exchange; the same on every worker.
pub(crate) fn center_masses<T: Entry>(
    session: &mut Session<'_>,
    store: &RowStore,
    tiles: &Arc<Tiles<T>>,
    centers: Rows<'_>,
    scale: f64,
) -> Result<Vec<f64>, StageError> {
    let (layout, centers) = (MassLayout::new(tiles.centers(), 0), owned(centers));
    let widths = Widths { input: 0, output: 0, extras: layout.len() };
    let feed = store.feed(Role::Training);
    remember_numbers(session, "rows around the centers", |session| {
        row_sums(
            session,
            "rows around the centers",
            feed,
            tiles,
            Reads::Nearest,
            widths,
            move |row: RowView<'_>, _, masses| {
                let weight = scale * row.chunk.weights[row.row];
                layout.add(masses, &centers, (view(row.chunk), row.row), row.nearest, (weight, &[]));
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_extreme_weights_are_scaled_and_by_powers_of_four() {
        assert_eq!([1e-30, 0.3, 1.0, 1e30, 0.0].map(weight_scale), [1.0; 5]);
        for largest in [1e-310f64, 1e-200, 1e-31, 1e31, 1e300] {
            let scale = weight_scale(largest);
            assert_eq!(scale.sqrt().to_bits() << 12, 0, "{largest:e}: the root of {scale:e} is no power of two");
            assert!((1e-10..=1.0).contains(&(largest * scale)), "{largest:e}: {scale:e}");
        }
    }

    #[test]
    fn every_target_has_the_mass_of_its_rows() {
        for targets in [0, 2] {
            let layout = MassLayout::new(3, targets);
            let mut masses = vec![0.0; layout.len()];
            let rows =
                |numeric: &[f32]| RowBuf { numeric: numeric.to_vec(), numeric_width: 1, codes: vec![], code_width: 0 };
            let (centers, rows) = (rows(&[0.0, 1.0, 2.0]), rows(&[1.5, 2.0]));
            let (near, same) = (Nearest { center: 1, share: 0.5 }, Nearest { center: 2, share: 1.0 + 1e-4 });
            layout.add(&mut masses, &centers, (rows.view(), 0), near, (4.0, &[1.0, f64::NAN]));
            layout.add(&mut masses, &centers, (rows.view(), 1), same, (3.0, &[f64::NAN, f64::NAN]));
            assert_eq!(layout.of(&masses, None), Masses { around: &[0.0, 2.0, 3.0], own: &[0.0, 0.0, 3.0] });
            // Without nulls every target has all rows.
            let around = |k| layout.of(&masses, Some(k)).around.to_vec();
            let expected = if targets == 0 { [[0.0, 2.0, 3.0]; 2] } else { [[0.0, 2.0, 0.0], [0.0; 3]] };
            assert_eq!([around(0), around(1)], expected);
        }
    }
}
