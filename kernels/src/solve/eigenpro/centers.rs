//! Sums over centers, of which a process may have some: by blocks of [`CENTER_BLOCK`], and over the tree of all blocks.

use super::super::vectors::{dot, product};
use super::{CENTER_BLOCK, EigenProOperator, flatten};
use crate::tree::SumTree;
use faer::{Mat, MatRef};
use std::ops::Range;

/// The blocks of `centers` centers, in order.
///
/// ```
/// use nystream_kernels::solve::eigenpro::center_blocks;
/// assert_eq!(center_blocks(5000).collect::<Vec<_>>(), [0..4096, 4096..5000]);
/// assert_eq!(center_blocks(0).count(), 0);
/// ```
pub fn center_blocks(centers: usize) -> impl Iterator<Item = Range<usize>> {
    (0..centers).step_by(CENTER_BLOCK).map(move |start| start..(start + CENTER_BLOCK).min(centers))
}

/// The sum of `blocks` over the fixed tree.
pub(super) fn block_sum(blocks: Vec<Vec<f64>>, length: usize) -> Vec<f64> {
    let mut tree = SumTree::new(blocks.len() as u64);
    for (index, values) in (0..).zip(blocks) {
        // Each of its blocks once, all of one length: nothing that a tree refuses.
        if tree.insert(0, index, values).is_err() {
            return vec![f64::NAN; length];
        }
    }
    tree.finish().ok().filter(|sum| !sum.is_empty()).unwrap_or_else(|| vec![0.0; length])
}

/// a^T b summed over blocks of centers, of which `a` and `b` have those of the shard.
pub(super) fn center_product<O: EigenProOperator>(
    operator: &mut O,
    a: MatRef<'_, f64>,
    b: MatRef<'_, f64>,
) -> Result<Mat<f64>, O::Error> {
    let (rows, columns) = (a.ncols(), b.ncols());
    let part = |block: Range<usize>| {
        let [a, b] = [a, b].map(|a| a.subrows(block.start, block.len()));
        flatten(product(a.transpose(), b).as_ref())
    };
    let sum = operator.over_centers(center_blocks(a.nrows()).map(part).collect(), rows * columns)?;
    Ok(Mat::from_fn(rows, columns, |i, j| sum[j * rows + i]))
}

/// a c, of which `a` has the rows of the shard: block by block, since the bits of a row depend on how many stand beside it.
pub(super) fn center_rows(a: MatRef<'_, f64>, c: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), c.ncols());
    for block in center_blocks(a.nrows()) {
        let rows = product(a.subrows(block.start, block.len()), c);
        out.as_mut().subrows_mut(block.start, block.len()).copy_from(rows);
    }
    out
}

/// The sums of squares of the columns of some matrices over all centers.
pub(super) fn center_squares<O: EigenProOperator>(operator: &mut O, parts: &[&Mat<f64>]) -> Result<Vec<f64>, O::Error> {
    let m = parts.first().map_or(0, |part| part.nrows());
    let columns = || parts.iter().flat_map(|part| (0..part.ncols()).map(|j| part.col_as_slice(j)));
    let square = |block: Range<usize>| {
        let of = |column: &[f64]| dot(&column[block.clone()], &column[block.clone()]);
        columns().map(of).collect::<Vec<f64>>()
    };
    operator.over_centers(center_blocks(m).map(square).collect(), columns().count())
}
