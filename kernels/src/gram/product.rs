//! The exact product A^T B of two operands of one slab, summed in 64-bit integers.
//!
//! The problem: nearly all of an exact Gram's work is one f64 product of integers, small enough ([`PANEL_ROWS`]) that no addition rounds. No
//! order of summing changes a bit of it, and neither do the instructions: each process takes the fastest it has, whatever path its kernel entries take.
//!
//! Both operands are packed as they are rounded: blocks of [`DEPTH`] rows, and in each the *strips*, a few centers wide and row-major. Columns of a tile come in narrow
//! strips (the height of the register tile, broadcast), rows of a tile in wide ones (its vectors), so that sums come out column-major. A block of a wide strip stays in the
//! first-level cache while the narrow strips go by; the products of a panel stay in the second. Centers that fill no strip are zeros.
//!
//! Cost: 2 flops a row and pair of centers, the rounding of operands, and one conversion of every product in [`PANEL_ROWS`] rows: with all else that a Gram takes 70 % of the
//! multiply-add rate at m = 4,096 (Xeon, AVX-512, November 2026). Memory: the operands, one f64 and one i64 for every pair of a tile.

use super::quantise::{integer, limbs, nearest};
use super::{PANEL_ROWS, TILE};
use crate::constants::ROWS_AHEAD;
use crate::gram::Precision;
use crate::tile::lanes::{Lanes, Path, Task};
use crate::tile::on_fastest_path;

/// Rows of a block: a wide strip of it takes 32 KiB at most.
const DEPTH: usize = 128;

/// Centers of the widest strip of rows, a multiple of that of every path, and of the widest strip of columns.
const WIDEST: usize = 32;
const TALLEST: usize = 6;

/// Bytes of a cache line.
const LINE: usize = 64;

/// How an operand lies in a tile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Side {
    /// Its centers are columns of the tile.
    Columns,
    /// They are rows.
    Rows,
}

/// Values that an operand of `width` centers takes over `rows` rows, at most, on any path.
pub(super) fn operand_values(rows: usize, width: usize, side: Side) -> usize {
    match side {
        Side::Columns => rows * (width + TALLEST - 1),
        Side::Rows => rows * width.next_multiple_of(WIDEST),
    }
}

/// Sums that a tile takes, at most.
pub(super) fn tile_values(height: usize, width: usize) -> usize {
    operand_values(height.next_multiple_of(WIDEST), width, Side::Columns)
}

/// Entries of a slab: row i of `rows` starts at `k[i stride]`.
#[derive(Clone, Copy)]
pub(super) struct Source<'a, T> {
    pub k: &'a [T],
    pub stride: usize,
    /// What takes the entries of each row to integers.
    pub factors: &'a [f64],
}

/// Rounds centers `first .. first + width` of `source` and packs them: one operand for [`Precision::Single`]; those of h, l and h + l, one
/// after another, for [`Precision::Double`].
pub(super) fn pack<T: Copy + Into<f64>>(
    precision: Precision,
    source: Source<'_, T>,
    (first, width): (usize, usize),
    side: Side,
    out: &mut [f64],
) {
    on_fastest_path(Pack { precision, source, first, width, side, out });
}

/// `sums` (width columns of [`column_stride`] values) = A^T B of packed operands of `rows` rows: `columns` of `width` centers, `lines` of `height`.
/// With `lower`, strips that lie wholly above the diagonal hold nothing of use.
#[allow(clippy::too_many_arguments)]
pub(super) fn multiply(
    rows: usize,
    (columns, width): (&[f64], usize),
    (lines, height): (&[f64], usize),
    lower: bool,
    product: &mut [f64],
    sums: &mut [i64],
) {
    on_fastest_path(Multiply { rows, columns, width, lines, height, lower, product, sums });
}

/// Values from one column of a tile of `height` rows to the next.
pub(super) fn column_stride(height: usize) -> usize {
    height.next_multiple_of(on_fastest_path(Wide))
}

/// Values of one packed operand.
pub(super) fn packed_values(rows: usize, width: usize, side: Side) -> usize {
    let strip = match side {
        Side::Columns => on_fastest_path(Narrow),
        Side::Rows => on_fastest_path(Wide),
    };
    rows * width.next_multiple_of(strip)
}

struct Narrow;

impl Task<f64> for Narrow {
    type Output = usize;
    #[inline(always)]
    fn run<P: Path<f64>, const R: usize, const C: usize>(self, _p: P) -> usize {
        R
    }
}

struct Wide;

impl Task<f64> for Wide {
    type Output = usize;
    #[inline(always)]
    fn run<P: Path<f64>, const R: usize, const C: usize>(self, _p: P) -> usize {
        C * P::N
    }
}

struct Pack<'a, T> {
    precision: Precision,
    source: Source<'a, T>,
    first: usize,
    width: usize,
    side: Side,
    out: &'a mut [f64],
}

impl<T: Copy + Into<f64>> Task<f64> for Pack<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<f64>, const R: usize, const C: usize>(self, p: P) {
        match self.side {
            Side::Columns => self.strips::<P, R>(p, R),
            // Two vectors of two, at least.
            Side::Rows => self.strips::<P, 4>(p, C * P::N),
        }
    }
}

impl<T: Copy + Into<f64>> Pack<'_, T> {
    /// Packs strips of `strip` centers, a multiple of `COPY`.
    #[inline(always)]
    fn strips<P: Path<f64>, const COPY: usize>(self, p: P, strip: usize) {
        let Source { k, stride, factors } = self.source;
        let strips = self.width.div_ceil(strip);
        let operand = factors.len() * strips * strip;
        let operands = self.precision.operands();
        // A row of a tile, rounded: its integers, or their limbs and the sums of those. Centers beyond the last are zeros.
        let mut rounded = [[0.0; TILE + WIDEST]; 3];
        for start in (0..factors.len()).step_by(DEPTH) {
            let factors = &factors[start..factors.len().min(start + DEPTH)];
            for (row, &factor) in factors.iter().enumerate() {
                let from = &k[(start + row) * stride + self.first..][..self.width];
                // A piece of every row, each on a page of its own: nothing else foresees them.
                let ahead = k.get((start + row + ROWS_AHEAD) * stride + self.first..).unwrap_or_default();
                ahead.iter().take(self.width).step_by(LINE / size_of::<T>()).for_each(|value| p.prefetch(value));
                let [high, low, both] = &mut rounded;
                match self.precision {
                    Precision::Single => {
                        high.iter_mut().zip(from).for_each(|(q, &value)| *q = nearest(value.into() * factor));
                    }
                    Precision::Double => {
                        for (((high, low), both), &value) in high.iter_mut().zip(low).zip(both).zip(from) {
                            (*high, *low) = limbs(nearest(value.into() * factor));
                            *both = *high + *low;
                        }
                    }
                }
                for (which, values) in rounded[..operands].iter().enumerate() {
                    for (s, values) in values.chunks_exact(strip).take(strips).enumerate() {
                        let to = which * operand + (start * strips + s * factors.len() + row) * strip;
                        let out = &mut self.out[to..to + strip];
                        for (out, values) in out.as_chunks_mut::<COPY>().0.iter_mut().zip(values.as_chunks::<COPY>().0)
                        {
                            *out = *values;
                        }
                    }
                }
            }
        }
    }
}

struct Multiply<'a> {
    rows: usize,
    columns: &'a [f64],
    width: usize,
    lines: &'a [f64],
    height: usize,
    lower: bool,
    product: &'a mut [f64],
    sums: &'a mut [i64],
}

impl Task<f64> for Multiply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<f64>, const R: usize, const C: usize>(self, p: P) {
        let wide = C * P::N;
        let (narrow_strips, wide_strips) = (self.width.div_ceil(R), self.height.div_ceil(wide));
        let stride = wide_strips * wide;
        let needed = |s: usize, q: usize| !self.lower || (q + 1) * wide > s * R;
        for panel in (0..self.rows).step_by(PANEL_ROWS) {
            let end = self.rows.min(panel + PANEL_ROWS);
            for start in (panel..end).step_by(DEPTH) {
                let depth = DEPTH.min(end - start);
                let columns = &self.columns[start * narrow_strips * R..][..depth * narrow_strips * R];
                let lines = &self.lines[start * stride..][..depth * stride];
                for (q, line) in lines.chunks_exact(depth * wide).enumerate() {
                    // The strip after this one is far away: a piece of it is asked for with every narrow strip.
                    let next = lines.get((q + 1) * depth * wide..).unwrap_or_default();
                    let piece = (depth * wide).div_ceil(narrow_strips);
                    for (s, column) in columns.chunks_exact(depth * R).enumerate().filter(|&(s, _)| needed(s, q)) {
                        let ahead = next.get(s * piece..).unwrap_or_default();
                        ahead.iter().take(piece).step_by(LINE / 8).for_each(|value| p.prefetch(value));
                        let out = &mut self.product[s * R * stride + q * wide..];
                        register_tile::<P, R, C>(p, column, line, start > panel, out, stride);
                    }
                }
            }
            for q in 0..wide_strips {
                for s in (0..narrow_strips).filter(|&s| needed(s, q)) {
                    for r in 0..R {
                        let at = (s * R + r) * stride + q * wide;
                        let values = self.sums[at..at + wide].iter_mut().zip(&self.product[at..at + wide]);
                        if panel == 0 {
                            values.for_each(|(sum, &value)| *sum = integer(value));
                        } else {
                            values.for_each(|(sum, &value)| *sum += integer(value));
                        }
                    }
                }
            }
        }
    }
}

/// out (R columns of C vectors, `stride` apart) = or += columns^T lines over one block.
#[inline(always)]
fn register_tile<P: Lanes<f64>, const R: usize, const C: usize>(
    p: P,
    columns: &[f64],
    lines: &[f64],
    accumulate: bool,
    out: &mut [f64],
    stride: usize,
) {
    let mut sums = [[p.splat(0.0); C]; R];
    if accumulate {
        for (r, sums) in sums.iter_mut().enumerate() {
            let from = P::arrays(&out[r * stride..][..C * P::N]);
            for c in 0..C {
                sums[c] = p.load(&from[c]);
            }
        }
    }
    for (column, line) in columns.as_chunks::<R>().0.iter().zip(P::arrays(lines).as_chunks::<C>().0) {
        let mut vectors = [p.splat(0.0); C];
        for c in 0..C {
            vectors[c] = p.load(&line[c]);
        }
        for r in 0..R {
            let x = p.splat(column[r]);
            for c in 0..C {
                sums[r][c] = p.mul_add(x, vectors[c], sums[r][c]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let to = P::arrays_mut(&mut out[r * stride..][..C * P::N]);
        for c in 0..C {
            p.store(&mut to[c], sums[c]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::SimdPath;
    use crate::tile::entry::{Real, Token};
    use nystream_hashing::{RowId, StreamKey};

    /// Every path, over whole and broken strips, blocks and panels, against sums of integers one by one.
    #[test]
    fn every_path_gives_the_sums_of_integer_products() {
        let key = StreamKey::new(3, "exact product", 0);
        for (rows, width, height) in [(1, 1, 1), (5, 7, 33), (130, 6, 32), (700, 35, 70), (1100, 13, 192)] {
            let stride = width + height;
            let k: Vec<f32> = (0..rows * stride)
                .map(|i| ((key.u128(RowId(i as u128)) >> 64) as u64 as i64) as f32 / i64::MAX as f32)
                .collect();
            let factors = vec![2f64.powi(22); rows];
            let source = Source { k: &k, stride, factors: &factors };
            let rounded = |row: usize, at: usize| nearest(f64::from(k[row * stride + at]) * factors[row]) as i64;
            for path in SimdPath::available() {
                let token = Token::of(path).unwrap();
                for lower in [false, true] {
                    let mut columns = vec![f64::NAN; operand_values(rows, width, Side::Columns)];
                    let mut lines = vec![f64::NAN; operand_values(rows, height, Side::Rows)];
                    let precision = Precision::Single;
                    for (first, width, side, out) in
                        [(0, width, Side::Columns, &mut columns), (width, height, Side::Rows, &mut lines)]
                    {
                        f64::dispatch(token, Pack { precision, source, first, width, side, out });
                    }
                    let stride = height.next_multiple_of(f64::dispatch(token, Wide));
                    let (mut product, mut sums) =
                        (vec![0.0; tile_values(height, width)], vec![0; tile_values(height, width)]);
                    let (columns, lines, product, sums) = (&columns, &lines, &mut product[..], &mut sums[..]);
                    f64::dispatch(token, Multiply { rows, columns, width, lines, height, lower, product, sums });
                    for c in 0..width {
                        for r in if lower { c } else { 0 }..height {
                            let exact: i64 = (0..rows).map(|row| rounded(row, c) * rounded(row, width + r)).sum();
                            assert_eq!(sums[c * stride + r], exact, "{path} {rows} {width} {height}: {r}, {c}");
                        }
                    }
                }
            }
        }
    }
}
