//! Large products of f64 matrices, on all threads.
//!
//! The problem: two thirds of a fit's m^3 flops are products C += A B. faer's own division of them over threads loses a quarter of what its sequential product reaches.
//! Here C is cut into tiles, each a sequential product of faer's, and the threads take tiles: large ones, which reach the highest rate, where there are enough of them.
//!
//! Invariant: tiles are cut by the shape of C alone, so no number of threads changes a bit.

use crate::constants::{ENOUGH_TILES, PRODUCT_TILES};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{BlockStructure, matmul as triangular_matmul};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Which entries of C are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Part {
    All,
    /// Those on and below the diagonal; the others keep their values.
    Lower,
}

/// C = beta C + alpha A B for the `part` of C, with beta 1 or 0; `parallel`: on all threads of the pool.
pub(super) fn multiply(
    c: MatMut<'_, f64>,
    part: Part,
    accumulate: bool,
    alpha: f64,
    a: MatRef<'_, f64>,
    b: MatRef<'_, f64>,
    parallel: bool,
) {
    let beta = if accumulate { Accum::Add } else { Accum::Replace };
    let each = |Tile { c, row, column }: Tile<'_>| {
        let a = a.subrows(row, c.nrows());
        let b = b.subcols(column, c.ncols());
        if part == Part::Lower && row == column {
            let (lower, whole) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
            triangular_matmul(c, lower, beta, a, whole, b, whole, alpha, Par::Seq);
        } else {
            matmul(c, beta, a, b, alpha, Par::Seq);
        }
    };
    let tiles = cut(c, part);
    let parallel = parallel && tiles.len() > 1;
    if parallel { tiles.into_par_iter().with_max_len(1).for_each(each) } else { tiles.into_iter().for_each(each) }
}

/// Rows and columns of the tiles of C: a function of its shape, since bits may depend on tiles.
pub(super) fn tile_width(rows: usize, columns: usize) -> usize {
    let [large, .., small] = PRODUCT_TILES;
    let enough = |tile: &usize| rows.div_ceil(*tile) * columns.div_ceil(*tile) >= ENOUGH_TILES;
    if rows * columns >= large * large { PRODUCT_TILES.into_iter().find(enough).unwrap_or(small) } else { small }
}

/// A tile of C and where it begins.
struct Tile<'a> {
    c: MatMut<'a, f64>,
    row: usize,
    column: usize,
}

/// C cut into tiles; those without an entry of `part` are left out.
fn cut(c: MatMut<'_, f64>, part: Part) -> Vec<Tile<'_>> {
    let tile = tile_width(c.nrows(), c.ncols());
    let mut tiles = Vec::new();
    let (mut rest, mut column) = (c, 0);
    while rest.ncols() > 0 {
        let width = tile.min(rest.ncols());
        let (mut strip, right) = rest.split_at_col_mut(width);
        rest = right;
        let mut row = 0;
        while strip.nrows() > 0 {
            let height = tile.min(strip.nrows());
            let (c, below) = strip.split_at_row_mut(height);
            strip = below;
            if part == Part::All || row >= column {
                tiles.push(Tile { c, row, column });
            }
            row += height;
        }
        column += width;
    }
    tiles
}

/// Calls `work` with at most `width` columns at a time, and the first of them.
pub(crate) fn each_columns(
    c: MatMut<'_, f64>,
    width: usize,
    parallel: bool,
    work: impl Fn(MatMut<'_, f64>, usize) + Send + Sync,
) {
    let (mut parts, mut rest, mut first) = (Vec::new(), c, 0);
    while rest.ncols() > 0 {
        let columns = width.min(rest.ncols());
        let (part, right) = rest.split_at_col_mut(columns);
        parts.push((part, first));
        rest = right;
        first += columns;
    }
    if parallel && parts.len() > 1 {
        parts.into_par_iter().with_max_len(1).for_each(|(part, first)| work(part, first));
    } else {
        parts.into_iter().for_each(|(part, first)| work(part, first));
    }
}
