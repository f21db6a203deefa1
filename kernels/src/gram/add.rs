//! The tile loop: quantise, multiply exactly, accumulate.

use super::quantise::{self, TARGET_CHUNK};
use super::{
    DOUBLE_BITS, ExactGram, GramError, GramShape, MAX_ROWS, OPERAND_BITS, PANEL_ROWS, Precision, SLAB_ROWS, TILE,
    cross_index, lock, tile_count, tile_index, tile_width,
};
use crate::dense::{self, SEQUENTIAL};
use faer::{MatMut, MatRef};

/// Row tiles whose operands are kept while the column tiles go by, so that each column tile is quantised once for all of them.
const GROUP: usize = 2;

/// Working memory of one worker: quantised operands and one tile. Grows on first use, then stays.
#[derive(Clone, Debug, Default)]
pub struct GramScratch {
    left: [Vec<f64>; GROUP],
    right: Vec<f64>,
    turn: Vec<f64>,
    product: Vec<f64>,
    sums: [Vec<i64>; 3],
    targets: Vec<f64>,
    factors: Vec<f64>,
}

impl GramScratch {
    pub(super) fn bytes(shape: GramShape) -> usize {
        let width = shape.centers.min(TILE);
        let operands = shape.precision.operands();
        let tile = width * TILE.max(width);
        let blocks = (GROUP + 1) * operands * SLAB_ROWS * width;
        8 * (blocks
            + quantise::turn_values(shape.precision, width)
            + tile
            + 3 * tile
            + 2 * shape.targets * SLAB_ROWS
            + SLAB_ROWS)
    }

    /// Bytes held now.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let blocks = self.left.iter().chain([&self.right, &self.turn, &self.product, &self.targets, &self.factors]);
        8 * (blocks.map(Vec::capacity).sum::<usize>() + self.sums.iter().map(Vec::capacity).sum::<usize>())
    }

    fn prepare(&mut self, shape: GramShape) {
        let width = shape.centers.min(TILE);
        let block = shape.precision.operands() * SLAB_ROWS * width;
        for buffer in self.left.iter_mut().chain([&mut self.right]) {
            buffer.resize(block.max(buffer.len()), 0.0);
        }
        self.turn.resize(quantise::turn_values(shape.precision, width).max(self.turn.len()), 0.0);
        let tile = width * TILE;
        self.product.resize(tile.max(self.product.len()), 0.0);
        for sums in &mut self.sums {
            sums.resize(tile.max(sums.len()), 0);
        }
    }
}

/// The operands of one tile of one slab.
#[derive(Clone, Copy)]
struct Operands<'a> {
    values: &'a [f64],
    rows: usize,
    width: usize,
    /// Whether each panel is column-major.
    by_column: bool,
}

impl<'a> Operands<'a> {
    /// Rows `start..start + len` of operand `which`, row-major.
    fn panel(self, which: usize, start: usize, len: usize) -> MatRef<'a, f64> {
        let from = (which * self.rows + start) * self.width;
        let values = &self.values[from..from + len * self.width];
        if self.by_column {
            MatRef::from_column_major_slice(values, len, self.width)
        } else {
            MatRef::from_row_major_slice(values, len, self.width)
        }
    }
}

impl ExactGram {
    /// Adds `rows` rows: `k` holds their kernel entries with the centers, row-major with `stride` values from one row to the
    /// next; `sqrt_weights` the roots of their relative weights w / w_max; `targets` their scaled targets, rows x t. Any number of threads may add at once.
    ///
    /// # Errors
    /// [`GramError`] for numbers out of range, slices of the wrong length, or too many rows; nothing is added then.
    pub fn add<T: Copy + Into<f64>>(
        &self,
        scratch: &mut GramScratch,
        k: &[T],
        stride: usize,
        rows: usize,
        sqrt_weights: Option<&[f64]>,
        targets: &[f64],
    ) -> Result<(), GramError> {
        self.update(scratch, k, stride, rows, sqrt_weights, targets, false)
    }

    /// Subtracts rows: the bit-exact inverse of [`ExactGram::add`] with the same arguments.
    ///
    /// # Errors
    /// As [`ExactGram::add`].
    pub fn subtract<T: Copy + Into<f64>>(
        &self,
        scratch: &mut GramScratch,
        k: &[T],
        stride: usize,
        rows: usize,
        sqrt_weights: Option<&[f64]>,
        targets: &[f64],
    ) -> Result<(), GramError> {
        self.update(scratch, k, stride, rows, sqrt_weights, targets, true)
    }

    #[allow(clippy::too_many_arguments)]
    fn update<T: Copy + Into<f64>>(
        &self,
        scratch: &mut GramScratch,
        k: &[T],
        stride: usize,
        rows: usize,
        roots: Option<&[f64]>,
        targets: &[f64],
        negate: bool,
    ) -> Result<(), GramError> {
        let shape = self.shape;
        self.check_lengths(k.len(), stride, rows, roots, targets)?;
        if rows == 0 {
            return Ok(());
        }
        let held = self.rows();
        if !negate && held + rows as u64 > MAX_ROWS {
            return Err(GramError::Capacity { rows: held, more: rows as u64 });
        }
        quantise::validate(shape, k, stride, rows, roots, targets)?;
        scratch.prepare(shape);
        for start in (0..rows).step_by(SLAB_ROWS) {
            let end = rows.min(start + SLAB_ROWS);
            let slab_roots = roots.map(|roots| &roots[start..end]);
            let slab_targets = &targets[start * shape.targets..end * shape.targets];
            self.slab(scratch, &k[start * stride..], stride, end - start, slab_roots, slab_targets, negate);
        }
        Ok(())
    }

    fn check_lengths(
        &self,
        entries: usize,
        stride: usize,
        rows: usize,
        roots: Option<&[f64]>,
        targets: &[f64],
    ) -> Result<(), GramError> {
        let needed = if rows == 0 { 0 } else { (rows - 1) * stride + self.shape.centers };
        let checks = [
            ("stride", self.shape.centers, stride, stride >= self.shape.centers),
            ("kernel entries", needed, entries, entries >= needed),
            ("weights", rows, roots.map_or(rows, <[f64]>::len), roots.is_none_or(|roots| roots.len() == rows)),
            ("targets", rows * self.shape.targets, targets.len(), targets.len() == rows * self.shape.targets),
        ];
        for (what, expected, found, ok) in checks {
            if !ok {
                return Err(GramError::Length { what, expected, found });
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn slab<T: Copy + Into<f64>>(
        &self,
        scratch: &mut GramScratch,
        k: &[T],
        stride: usize,
        rows: usize,
        roots: Option<&[f64]>,
        targets: &[f64],
        negate: bool,
    ) {
        let GramShape { centers, targets: count, precision, .. } = self.shape;
        quantise::row_factors(self.shape, roots, rows, &mut scratch.factors);
        quantise::target_limbs(targets, count, roots, rows, &mut scratch.targets);
        self.add_scalars(rows, roots, targets, negate);
        let GramScratch { left, right, turn, product, sums, targets, factors } = scratch;
        let width = |tile: usize| tile_width(centers, tile);
        let tiles = tile_count(centers);
        for first in (0..tiles).step_by(GROUP) {
            let group = first..tiles.min(first + GROUP);
            for i in group.clone() {
                let values = &mut left[i - first];
                quantise::entries(precision, k, stride, factors, i * TILE, width(i), values);
                let rows_of_i = Operands { values, rows, width: width(i), by_column: false };
                self.add_cross(i, rows_of_i, targets, product, sums, negate);
            }
            for j in 0..group.end {
                let columns = (j * TILE, width(j));
                quantise::entries_by_column(
                    precision, k, stride, factors, columns.0, columns.1, PANEL_ROWS, turn, right,
                );
                let columns = Operands { values: right, rows, width: width(j), by_column: true };
                for i in group.clone().filter(|&i| i >= j) {
                    let rows_of_i = Operands { values: &left[i - first], rows, width: width(i), by_column: false };
                    self.add_tile(i, j, rows_of_i, columns, product, sums, negate);
                }
            }
        }
    }

    /// `tile(i, j) +- left^T columns`.
    #[allow(clippy::too_many_arguments)]
    fn add_tile(
        &self,
        i: usize,
        j: usize,
        left: Operands<'_>,
        columns: Operands<'_>,
        product: &mut [f64],
        sums: &mut [Vec<i64>; 3],
        negate: bool,
    ) {
        let (height, width) = (left.width, columns.width);
        let operands = self.shape.precision.operands();
        for (which, sums) in sums[..operands].iter_mut().enumerate() {
            accumulate(left, which, columns, which, i == j, product, sums);
        }
        let [high, low, both] = sums;
        let mut tile = lock(&self.buffers[tile_index(i, j)]);
        for column in 0..width {
            // The strict upper triangle of a diagonal tile holds nothing.
            let from = if i == j { column } else { 0 };
            let range = column * height + from..(column + 1) * height;
            let tile = &mut tile[range.clone()];
            match self.shape.precision {
                Precision::Single => add_signed(tile, high[range].iter().map(|&v| i128::from(v)), negate),
                Precision::Double => {
                    let values = high[range.clone()].iter().zip(&low[range.clone()]).zip(&both[range]);
                    let combined = values.map(|((&h, &l), &b)| {
                        let middle = i128::from(b) - i128::from(h) - i128::from(l);
                        (i128::from(h) << (2 * OPERAND_BITS)) + (middle << OPERAND_BITS) + i128::from(l)
                    });
                    add_signed(tile, combined, negate);
                }
            }
        }
    }

    /// `cross(i) +- left^T [targets]`, two limbs of each target against one or two of each entry.
    fn add_cross(
        &self,
        i: usize,
        left: Operands<'_>,
        targets: &[f64],
        product: &mut [f64],
        sums: &mut [Vec<i64>; 3],
        negate: bool,
    ) {
        let (height, count) = (left.width, self.shape.targets);
        for first in (0..count).step_by(TARGET_CHUNK) {
            let chunk = (count - first).min(TARGET_CHUNK);
            let values = &targets[first * 2 * left.rows..];
            let limbs = Operands { values, rows: left.rows, width: 2 * chunk, by_column: false };
            let limbs_of_entries = self.shape.precision.operands().min(2);
            for (which, sums) in sums[..limbs_of_entries].iter_mut().enumerate() {
                accumulate(left, which, limbs, 0, false, product, sums);
            }
            let mut block = lock(&self.buffers[cross_index(self.shape.centers, i)]);
            let block = &mut block[first * height..(first + chunk) * height];
            let (hy, ly) = (0..chunk * height, chunk * height..2 * chunk * height);
            let [high, low, _] = sums;
            let pair = |h: i64, l: i64| (i128::from(h) << OPERAND_BITS) + i128::from(l);
            let of = |entry: &[i64]| -> Vec<i128> {
                entry[hy.clone()].iter().zip(&entry[ly.clone()]).map(|(&h, &l)| pair(h, l)).collect()
            };
            match self.shape.precision {
                Precision::Single => add_signed(block, of(high).into_iter(), negate),
                Precision::Double => {
                    let combined = of(high).into_iter().zip(of(low)).map(|(h, l)| (h << OPERAND_BITS) + l);
                    add_signed(block, combined, negate);
                }
            }
        }
    }

    /// Rows, weights, and first and second moments of the targets.
    fn add_scalars(&self, rows: usize, roots: Option<&[f64]>, targets: &[f64], negate: bool) {
        let count = self.shape.targets;
        let mut sums = vec![0i128; 2 + 2 * count];
        sums[0] = rows as i128;
        for row in 0..rows {
            let root = quantise::root(roots, row);
            let weight = quantise::target_integer(1.0, root) as i128;
            sums[1] += weight * weight;
            for (target, &y) in targets[row * count..(row + 1) * count].iter().enumerate() {
                let y = quantise::target_integer(y, root) as i128;
                sums[2 + target] += y * y;
                sums[2 + count + target] += weight * y;
            }
        }
        debug_assert!(sums[1] <= (rows as i128) << (2 * DOUBLE_BITS));
        add_signed(&mut self.scalars(), sums.into_iter(), negate);
    }
}

fn add_signed(sums: &mut [i128], values: impl Iterator<Item = i128>, negate: bool) {
    if negate {
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.wrapping_sub(value));
    } else {
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.wrapping_add(value));
    }
}

/// `sums = left^T columns` over a slab, by exact f64 panels; of a diagonal tile only the lower triangle is meaningful.
fn accumulate(
    left: Operands<'_>,
    left_operand: usize,
    columns: Operands<'_>,
    column_operand: usize,
    diagonal: bool,
    product: &mut [f64],
    sums: &mut [i64],
) {
    let (height, width) = (left.width, columns.width);
    for start in (0..left.rows).step_by(PANEL_ROWS) {
        let len = (left.rows - start).min(PANEL_ROWS);
        let product = &mut product[..height * width];
        let a = left.panel(left_operand, start, len).transpose();
        let b = columns.panel(column_operand, start, len);
        let out = MatMut::from_column_major_slice_mut(product, height, width);
        if diagonal {
            dense::gemm_lower(out, false, 1.0, a, b, SEQUENTIAL);
        } else {
            dense::gemm(out, false, 1.0, a, b, SEQUENTIAL);
        }
        let sums = &mut sums[..height * width];
        if start == 0 {
            sums.iter_mut().zip(&*product).for_each(|(sum, &value)| *sum = quantise::integer(value));
        } else {
            sums.iter_mut().zip(&*product).for_each(|(sum, &value)| *sum += quantise::integer(value));
        }
    }
}
