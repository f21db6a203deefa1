//! The tile loop: quantise, multiply exactly, accumulate.

use super::product::{Side, Source, column_stride, multiply, operand_values, pack, packed_values, tile_values};
use super::quantise::{self, TARGET_CHUNK};
use super::{
    DOUBLE_BITS, ExactGram, GramError, GramShape, MAX_ROWS, OPERAND_BITS, Precision, SLAB_ROWS, TILE, cross_index,
    lock, tile_count, tile_index, tile_width,
};
use crate::tile::buffer::Buffer;

/// Row tiles whose operands are kept while the column tiles go by, so that each column tile is packed once for all of them.
const GROUP: usize = 4;

/// Working memory of one worker: quantised operands and one tile. Grows on first use, then stays.
#[derive(Clone, Debug, Default)]
pub struct GramScratch {
    lines: [Buffer<f64>; GROUP],
    columns: Buffer<f64>,
    product: Buffer<f64>,
    sums: [Vec<i64>; 3],
    targets: Vec<f64>,
    factors: Vec<f64>,
    ones: Vec<f64>,
}

impl GramScratch {
    pub(super) fn bytes(shape: GramShape) -> usize {
        let (width, operands) = (shape.centers.min(TILE), shape.precision.operands());
        let across = width.max(cross_width(shape));
        let lines = held_lines(shape) * operand_values(SLAB_ROWS, width, Side::Rows);
        let columns = operand_values(SLAB_ROWS, across, Side::Columns);
        let tiles = (1 + operands) * tile_values(width, across);
        let slack = (GROUP + 2) * Buffer::<f64>::SLACK;
        8 * (operands * (lines + columns) + tiles + slack + 2 * shape.targets * SLAB_ROWS + 2 * SLAB_ROWS)
    }

    /// Bytes held now.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let aligned = self.lines.iter().chain([&self.columns, &self.product]).map(Buffer::len).sum::<usize>();
        let others = [&self.targets, &self.factors, &self.ones].map(Vec::capacity).iter().sum::<usize>();
        8 * (aligned + others + self.sums.iter().map(Vec::capacity).sum::<usize>())
    }

    fn prepare(&mut self, shape: GramShape) {
        let (width, operands) = (shape.centers.min(TILE), shape.precision.operands());
        let across = width.max(cross_width(shape));
        for buffer in self.lines.iter_mut().take(held_lines(shape)) {
            buffer.take(operands * operand_values(SLAB_ROWS, width, Side::Rows));
        }
        self.columns.take(operands * operand_values(SLAB_ROWS, across, Side::Columns));
        self.product.take(tile_values(width, across));
        for sums in self.sums.iter_mut().take(operands) {
            grow(sums, tile_values(width, across));
        }
        if self.ones.len() < SLAB_ROWS {
            self.ones = vec![1.0; SLAB_ROWS];
        }
    }
}

/// Row tiles that are held at a time.
fn held_lines(shape: GramShape) -> usize {
    GROUP.min(tile_count(shape.centers))
}

fn grow<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        *buffer = vec![T::default(); len];
    }
}

/// Columns of the widest operand of targets.
fn cross_width(shape: GramShape) -> usize {
    2 * shape.targets.min(TARGET_CHUNK)
}

/// What becomes of the rows of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Subtract,
    /// They are added to the sums of the first so many centers alone, see `columns.rs`.
    Columns(usize),
}

/// A packed operand of one tile of one slab.
#[derive(Clone, Copy)]
struct Operand<'a> {
    values: &'a [f64],
    rows: usize,
    width: usize,
    side: Side,
}

impl<'a> Operand<'a> {
    /// Integer operand `which` of the entries.
    fn part(self, which: usize) -> (&'a [f64], usize) {
        let len = packed_values(self.rows, self.width, self.side);
        (&self.values[which * len..(which + 1) * len], self.width)
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
        self.update(scratch, k, stride, rows, sqrt_weights, targets, Change::Add)
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
        self.update(scratch, k, stride, rows, sqrt_weights, targets, Change::Subtract)
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn update<T: Copy + Into<f64>>(
        &self,
        scratch: &mut GramScratch,
        k: &[T],
        stride: usize,
        rows: usize,
        roots: Option<&[f64]>,
        targets: &[f64],
        change: Change,
    ) -> Result<(), GramError> {
        let shape = self.shape;
        self.check_lengths(k.len(), stride, rows, roots, targets)?;
        if rows == 0 {
            return Ok(());
        }
        let held = self.rows();
        if change != Change::Subtract && held + rows as u64 > MAX_ROWS {
            return Err(GramError::Capacity { rows: held, more: rows as u64 });
        }
        quantise::validate(shape, k, stride, rows, roots, targets)?;
        scratch.prepare(shape);
        for start in (0..rows).step_by(SLAB_ROWS) {
            let end = rows.min(start + SLAB_ROWS);
            let slab_roots = roots.map(|roots| &roots[start..end]);
            let slab_targets = &targets[start * shape.targets..end * shape.targets];
            self.slab(scratch, &k[start * stride..], stride, end - start, slab_roots, slab_targets, change);
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
        change: Change,
    ) {
        let GramShape { centers, targets: count, precision, .. } = self.shape;
        let negate = change == Change::Subtract;
        let limit = if let Change::Columns(columns) = change { columns } else { centers };
        quantise::row_factors(self.shape, roots, rows, &mut scratch.factors);
        quantise::target_limbs(targets, count, roots, rows, &mut scratch.targets);
        if !matches!(change, Change::Columns(_)) {
            self.add_scalars(rows, roots, targets, negate);
        }
        let GramScratch { lines, columns, product, sums, targets, factors, ones } = scratch;
        let lines = lines.each_mut().map(Buffer::all);
        let (columns, product) = (columns.all(), product.all());
        let source = Source { k, stride, factors };
        let place = |tile: usize| (tile * TILE, tile_width(centers, tile));
        let tiles = tile_count(centers);
        for first in (0..tiles).step_by(GROUP) {
            let group = first..tiles.min(first + GROUP);
            for i in group.clone() {
                pack(precision, source, place(i), Side::Rows, lines[i - first]);
                let line = Operand { values: &*lines[i - first], rows, width: place(i).1, side: Side::Rows };
                if place(i).0 < limit {
                    self.add_cross(i, line, targets, &ones[..rows], columns, product, sums, negate);
                }
            }
            for j in (0..group.end).take_while(|&j| place(j).0 < limit) {
                let (start, width) = (place(j).0, place(j).1.min(limit - place(j).0));
                pack(precision, source, (start, width), Side::Columns, columns);
                let column = Operand { values: columns, rows, width, side: Side::Columns };
                for i in group.clone().filter(|&i| i >= j) {
                    let line = Operand { values: &*lines[i - first], rows, width: place(i).1, side: Side::Rows };
                    self.add_tile(i, j, line, column, product, sums, negate);
                }
            }
        }
    }

    /// `tile(i, j) +- lines^T columns`.
    #[allow(clippy::too_many_arguments)]
    fn add_tile(
        &self,
        i: usize,
        j: usize,
        line: Operand<'_>,
        column: Operand<'_>,
        product: &mut [f64],
        sums: &mut [Vec<i64>; 3],
        negate: bool,
    ) {
        let (height, stride) = (line.width, column_stride(line.width));
        let operands = self.shape.precision.operands();
        for (which, sums) in sums[..operands].iter_mut().enumerate() {
            multiply(line.rows, column.part(which), line.part(which), i == j, product, sums);
        }
        let [high, low, both] = sums;
        let mut tile = lock(&self.buffers[tile_index(i, j)]);
        for at in 0..column.width {
            // The strict upper triangle of a diagonal tile holds nothing.
            let from = if i == j { at } else { 0 };
            let range = at * stride + from..at * stride + height;
            let tile = &mut tile[at * height + from..(at + 1) * height];
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

    /// `cross(i) +- lines^T [targets]`, two limbs of each target against one or two of each entry.
    #[allow(clippy::too_many_arguments)]
    fn add_cross(
        &self,
        i: usize,
        line: Operand<'_>,
        targets: &[f64],
        ones: &[f64],
        columns: &mut [f64],
        product: &mut [f64],
        sums: &mut [Vec<i64>; 3],
        negate: bool,
    ) {
        let (height, stride, count) = (line.width, column_stride(line.width), self.shape.targets);
        for first in (0..count).step_by(TARGET_CHUNK) {
            let chunk = (count - first).min(TARGET_CHUNK);
            let limbs = Source { k: &targets[first * 2 * line.rows..], stride: 2 * chunk, factors: ones };
            pack(Precision::Single, limbs, (0, 2 * chunk), Side::Columns, columns);
            let limbs = Operand { values: columns, rows: line.rows, width: 2 * chunk, side: Side::Columns };
            let limbs_of_entries = self.shape.precision.operands().min(2);
            for (which, sums) in sums[..limbs_of_entries].iter_mut().enumerate() {
                multiply(line.rows, limbs.part(0), line.part(which), false, product, sums);
            }
            let mut block = lock(&self.buffers[cross_index(self.shape.centers, i)]);
            let [high, low, _] = sums;
            // The products of a limb of the entries with target `at`.
            let of = |entries: &[i64], at: usize| {
                let (h, l) = (&entries[at * stride..][..height], &entries[(chunk + at) * stride..][..height]);
                h.iter().zip(l).map(|(&h, &l)| (i128::from(h) << OPERAND_BITS) + i128::from(l)).collect::<Vec<_>>()
            };
            for at in 0..chunk {
                let block = &mut block[(first + at) * height..(first + at + 1) * height];
                match self.shape.precision {
                    Precision::Single => add_signed(block, of(high, at).into_iter(), negate),
                    Precision::Double => {
                        let pairs = of(high, at).into_iter().zip(of(low, at));
                        add_signed(block, pairs.map(|(h, l)| (h << OPERAND_BITS) + l), negate);
                    }
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
