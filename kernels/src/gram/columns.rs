//! Other centers for the same rows: the sums of those that are new, and those of the others carried over.
//!
//! The problem: when a few of m centers change, the sums of all rows over pairs of old centers are still right. A pass over the rows then needs only the pairs with a
//! new center in them: with the new ones first, the leading *columns* of the lower triangle, 2 n m c flops for c of them instead of n m^2.
//!
//! [`ExactGram::add_columns`] sums rows into those columns alone; [`ExactGram::carry`] then takes all other sums from the Gram matrix of the old centers. Integers have no
//! order, so that the result is the Gram matrix that all rows would have given, bit for bit.

use super::add::{Change, GramScratch};
use super::{ExactGram, GramError, TILE, cross_index, lock, tile_count, tile_index, tile_width};

impl ExactGram {
    /// [`ExactGram::add`] for the pairs of centers one of which is among the first `columns`, and for the targets of these; all other sums, and those without centers, are left to
    /// [`ExactGram::carry`].
    ///
    /// ```
    /// use nystream_kernels::gram::{ExactGram, GramScratch, GramShape, Precision};
    /// let shape = GramShape { centers: 2, targets: 1, precision: Precision::Single, scale_log2: 0 };
    /// let mut scratch = GramScratch::default();
    /// let old = ExactGram::new(shape);
    /// old.add(&mut scratch, &[1.0f32, 0.5, 0.25, 1.0], 2, 2, None, &[1.0, -0.5]).unwrap();
    /// // Center 0 is replaced by one whose entries are 0.75 and 0; center 1 stays.
    /// let (new, rows) = (ExactGram::new(shape), [0.75f32, 0.5, 0.0, 1.0]);
    /// new.add_columns(&mut scratch, &rows, 2, 2, None, &[1.0, -0.5], 1).unwrap();
    /// new.carry(&old, &[(1, 1)]).unwrap();
    /// let whole = ExactGram::new(shape);
    /// whole.add(&mut scratch, &rows, 2, 2, None, &[1.0, -0.5]).unwrap();
    /// assert_eq!(new.finish(), whole.finish());
    /// ```
    ///
    /// # Errors
    /// As [`ExactGram::add`], and for more columns than centers; nothing is added then.
    #[allow(clippy::too_many_arguments)]
    pub fn add_columns<T: Copy + Into<f64>>(
        &self,
        scratch: &mut GramScratch,
        k: &[T],
        stride: usize,
        rows: usize,
        sqrt_weights: Option<&[f64]>,
        targets: &[f64],
        columns: usize,
    ) -> Result<(), GramError> {
        if columns > self.shape.centers {
            return Err(GramError::Length { what: "columns", expected: self.shape.centers, found: columns });
        }
        self.update(scratch, k, stride, rows, sqrt_weights, targets, Change::Columns(columns))
    }

    /// Takes over from `old`, of the same rows, what does not depend on the other centers: the sums of all pairs of the centers `same` (here, there), their products with the
    /// targets, and the sums without centers.
    ///
    /// Cost: a look at each pair.
    ///
    /// # Errors
    /// [`GramError::ShapeMismatch`] where they differ in more than the number of centers; [`GramError::Length`] for a center that one of them does not have. Nothing changes then.
    pub fn carry(&self, old: &ExactGram, same: &[(usize, usize)]) -> Result<(), GramError> {
        if (super::GramShape { centers: self.shape.centers, ..old.shape }) != self.shape {
            return Err(GramError::ShapeMismatch { expected: self.shape, found: old.shape });
        }
        let (mine, theirs) = (self.shape.centers, old.shape.centers);
        if let Some((here, there)) = same.iter().find(|(here, there)| *here >= mine || *there >= theirs) {
            let (expected, found) = if *here >= mine { (mine, *here) } else { (theirs, *there) };
            return Err(GramError::Length { what: "centers", expected, found });
        }
        let mut place = vec![None; mine];
        same.iter().for_each(|(here, there)| place[*here] = Some(*there));
        for i in 0..tile_count(mine) {
            let height = tile_width(mine, i);
            for j in 0..=i {
                let pairs = (0..tile_width(mine, j)).flat_map(|column| (0..height).map(move |row| (row, column)));
                let wanted = |(row, column): (usize, usize)| {
                    let lower = i != j || row >= column;
                    let pair = place[i * TILE + row].zip(place[j * TILE + column]).filter(|_| lower);
                    pair.map(|(a, b)| (column * height + row, old.pair(a, b)))
                };
                // One lock at a time.
                let values: Vec<(usize, i128)> = pairs.filter_map(wanted).collect();
                let mut tile = lock(&self.buffers[tile_index(i, j)]);
                values.into_iter().for_each(|(at, value)| tile[at] = value);
            }
            let targets = (0..self.shape.targets).flat_map(|target| (0..height).map(move |row| (row, target)));
            let wanted = |(row, target): (usize, usize)| {
                place[i * TILE + row].map(|there| (target * height + row, old.with_target(there, target)))
            };
            let values: Vec<(usize, i128)> = targets.filter_map(wanted).collect();
            let mut block = lock(&self.buffers[cross_index(mine, i)]);
            values.into_iter().for_each(|(at, value)| block[at] = value);
        }
        let scalars = old.scalars().clone();
        *self.scalars() = scalars;
        Ok(())
    }

    /// The sum of a pair of centers.
    fn pair(&self, a: usize, b: usize) -> i128 {
        let (row, column) = (a.max(b), a.min(b));
        let (i, j) = (row / TILE, column / TILE);
        let height = tile_width(self.shape.centers, i);
        lock(&self.buffers[tile_index(i, j)])[column % TILE * height + row % TILE]
    }

    /// The sum of a center and a target.
    fn with_target(&self, center: usize, target: usize) -> i128 {
        let i = center / TILE;
        let height = tile_width(self.shape.centers, i);
        lock(&self.buffers[cross_index(self.shape.centers, i)])[target * height + center % TILE]
    }
}

#[cfg(test)]
mod tests {
    use crate::gram::{ExactGram, GramScratch, GramShape, Precision};
    use nystream_hashing::{RowId, StreamKey};

    /// Entries of `rows` rows with `centers` centers, of which those below `shared` are the same whatever `seed` is.
    fn entries(seed: u64, rows: usize, centers: &[(bool, usize)]) -> Vec<f64> {
        let key = |own: bool| StreamKey::new(if own { seed } else { 0 }, "columns", 0);
        let entry = |row: usize, (own, center): (bool, usize)| {
            2.0 * key(own).uniform(RowId((row << 32 | center) as u128)) - 1.0
        };
        (0..rows).flat_map(|row| centers.iter().map(move |center| entry(row, *center))).collect()
    }

    /// Old and new centers in every proportion, over whole and broken tiles, against the sums of all rows.
    #[test]
    fn new_columns_and_carried_sums_are_the_whole() {
        let rows = 700;
        for precision in [Precision::Single, Precision::Double] {
            for (before, kept, new, targets) in
                [(5, 3, 4, 1), (200, 190, 7, 2), (450, 200, 250, 100), (30, 0, 9, 1), (9, 9, 0, 3), (190, 2, 400, 1)]
            {
                let shape = |centers| GramShape { centers, targets, precision, scale_log2: 0 };
                let y: Vec<f64> = entries(3, rows, &(0..targets).map(|t| (true, t)).collect::<Vec<_>>());
                let roots: Vec<f64> = (0..rows).map(|row| 1.0 / (1.0 + (row % 7) as f64)).collect();
                let sum = |gram: &ExactGram, k: &[f64], columns: Option<usize>| {
                    let stride = gram.shape().centers;
                    let mut scratch = GramScratch::default();
                    match columns {
                        None => gram.add(&mut scratch, k, stride, rows, Some(&roots), &y).unwrap(),
                        Some(c) => gram.add_columns(&mut scratch, k, stride, rows, Some(&roots), &y, c).unwrap(),
                    }
                };
                let old = ExactGram::new(shape(before));
                sum(&old, &entries(1, rows, &(0..before).map(|c| (false, c)).collect::<Vec<_>>()), None);
                // The new ones first, then those kept, from the last to the first.
                let centers: Vec<(bool, usize)> =
                    (0..new).map(|c| (true, c)).chain((before - kept..before).rev().map(|c| (false, c))).collect();
                let k = entries(2, rows, &centers);
                let [mixed, whole] = [(); 2].map(|()| ExactGram::new(shape(new + kept)));
                sum(&mixed, &k, Some(new));
                let same: Vec<(usize, usize)> = (0..kept).map(|i| (new + i, before - 1 - i)).collect();
                mixed.carry(&old, &same).unwrap();
                sum(&whole, &k, None);
                assert!(mixed.finish() == whole.finish(), "{precision:?}: {kept} of {before} kept, {new} new");
                for piece in 0..whole.pieces() {
                    assert!(mixed.export(piece) == whole.export(piece), "{precision:?}: {kept} kept, piece {piece}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let shape = GramShape { centers: 2, targets: 1, precision: Precision::Single, scale_log2: 0 };
        let (gram, other) = (ExactGram::new(shape), ExactGram::new(GramShape { scale_log2: 1, ..shape }));
        assert!(gram.carry(&other, &[]).is_err());
        let old = ExactGram::new(GramShape { centers: 1, ..shape });
        assert!(gram.carry(&old, &[(0, 1)]).is_err() && gram.carry(&old, &[(2, 0)]).is_err());
        assert!(gram.add_columns(&mut GramScratch::default(), &[1.0f32, 1.0], 2, 1, None, &[0.0], 3).is_err());
    }
}
