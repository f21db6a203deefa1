//! Large products of f64 matrices, on all threads.
//!
//! The problem: two thirds of a fit's m^3 flops are products C += A B. faer's own division of them over threads loses a quarter of what its sequential product reaches.
//! Here C is cut into tiles of [`PRODUCT_TILE`], each a sequential product of faer's, and the threads take tiles.
//!
//! Invariant: tiles are cut by the shape of C alone, so no number of threads changes a bit.

use crate::constants::PRODUCT_TILE as TILE;
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

/// A tile of C and where it begins.
struct Tile<'a> {
    c: MatMut<'a, f64>,
    row: usize,
    column: usize,
}

/// C cut into tiles; those without an entry of `part` are left out.
fn cut(c: MatMut<'_, f64>, part: Part) -> Vec<Tile<'_>> {
    let mut tiles = Vec::new();
    let (mut rest, mut column) = (c, 0);
    while rest.ncols() > 0 {
        let width = TILE.min(rest.ncols());
        let (mut strip, right) = rest.split_at_col_mut(width);
        rest = right;
        let mut row = 0;
        while strip.nrows() > 0 {
            let height = TILE.min(strip.nrows());
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
