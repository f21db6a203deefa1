//! Centers in blocks, each packed by itself: K v is summed block by block, in one shape, so that blocks may lie in several processes.
//!
//! Invariants: a block's product is that of [`Tiles`] with its centers alone, and the products of the blocks are added over the fixed binary tree of all blocks
//! ([`crate::tree`]), whoever has them. With one block it is [`Tiles`]. K^T u has no sum over centers: the rows' order is its shape.
//!
//! Cost: as [`Tiles`]; one addition a block, row and column. Where all blocks are here, [`CenterBlocks::map_rows`] evaluates each entry once.

use super::products::Entries;
use super::vectors::copy_columns;
use super::{Entry, SimdPath, TileError, TileScratch, Tiles};
use crate::constants::{TILE_BLOCK_BYTES, TILE_BLOCK_ROWS};
use crate::kernel::Kernel;
use crate::rows::Rows;
use std::ops::Range;

/// Rows whose products with all blocks are held at once.
const SLICE: usize = 256;

/// Some blocks of centers, packed.
///
/// ```
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{BlockScratch, CenterBlocks, SimdPath}};
/// let kernel = Kernel::new(Family::Gaussian, 1.0);
/// let centers = Rows::new(&[0.0, 1.0, 2.0], 1, &[], 0);
/// let blocks = CenterBlocks::<f64>::new(&kernel, centers, &[0..2, 2..3], SimdPath::detect())?;
/// let mut kv = [0.0];
/// blocks.k_v(Rows::new(&[0.0], 1, &[], 0), &[1.0, 1.0, 1.0], 1, &mut BlockScratch::default(), &mut kv);
/// assert!((kv[0] - ((1.0 + (-0.5f64).exp()) + (-2f64).exp())).abs() < 1e-14);
/// # Ok::<(), nystream_kernels::tile::TileError>(())
/// ```
#[derive(Debug)]
pub struct CenterBlocks<T: Entry> {
    blocks: Vec<(Range<usize>, Tiles<T>)>,
}

/// Working memory of one thread, as [`TileScratch`].
#[derive(Debug, Default)]
pub struct BlockScratch<T> {
    each: Vec<TileScratch<T>>,
    kv: Vec<f64>,
    u: Vec<f64>,
}

impl<T: Entry> CenterBlocks<T> {
    /// Packs the `blocks` of `centers`, which follow each other from 0 on.
    ///
    /// # Errors
    /// As [`Tiles::new`].
    pub fn new(kernel: &Kernel, centers: Rows<'_>, blocks: &[Range<usize>], simd: SimdPath) -> Result<Self, TileError> {
        let pack = |block: &Range<usize>| {
            Tiles::new(kernel, centers.slice(block.start, block.end), &[], simd).map(|tiles| (block.clone(), tiles))
        };
        Ok(CenterBlocks { blocks: blocks.iter().map(pack).collect::<Result<_, _>>()? })
    }

    /// Number of centers.
    pub fn centers(&self) -> usize {
        self.blocks.last().map_or(0, |(block, _)| block.end)
    }

    /// The blocks: their centers, and their tiles.
    pub fn blocks(&self) -> &[(Range<usize>, Tiles<T>)] {
        &self.blocks
    }

    /// Bytes of the packed blocks of `centers` centers of `block` each, as [`Tiles::memory_bytes`].
    pub fn memory_bytes(centers: usize, block: usize, numeric_width: usize, code_width: usize) -> usize {
        let (whole, rest) = (centers / block.max(1), centers % block.max(1));
        let each = |centers| Tiles::<T>::memory_bytes(centers, numeric_width, code_width);
        whole.saturating_mul(each(block)).saturating_add(if rest > 0 { each(rest) } else { 0 })
    }

    /// `out` (n x t) = K v with `v` (m x t), both row-major.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn k_v(&self, rows: Rows<'_>, v: &[f64], t: usize, scratch: &mut BlockScratch<T>, out: &mut [f64]) {
        assert_eq!(v.len(), self.centers() * t, "v must be centers x t");
        let BlockScratch { each, kv, .. } = scratch;
        each.resize_with(each.len().max(1), TileScratch::default);
        assert_eq!(out.len(), rows.len() * t, "out must be rows x t");
        if self.blocks.is_empty() || t == 0 {
            return out.fill(0.0);
        }
        for start in (0..rows.len()).step_by(SLICE) {
            let x = rows.slice(start, (start + SLICE).min(rows.len()));
            let size = x.len() * t;
            kv.resize(size * self.blocks.len(), 0.0);
            for ((block, tiles), part) in self.blocks.iter().zip(kv.chunks_exact_mut(size)) {
                tiles.k_v(x, &v[block.start * t..block.end * t], t, &mut each[0], part);
            }
            add_over_tree(kv, size, self.blocks.len());
            out[start * t..][..size].copy_from_slice(&kv[..size]);
        }
    }

    /// For every row i: `f(i, kv, u)` reads (K v)_i (t values) and writes u_i (s values); then `acc` (m x s) += K^T u, as [`Tiles::map_rows`]. All blocks are here.
    ///
    /// # Panics
    /// If the lengths do not agree.
    #[allow(clippy::too_many_arguments)]
    pub fn map_rows<F: FnMut(usize, &[f64], &mut [f64])>(
        &self,
        rows: Rows<'_>,
        v: &[f64],
        t: usize,
        s: usize,
        scratch: &mut BlockScratch<T>,
        acc: &mut [f64],
        mut f: F,
    ) {
        let BlockScratch { each, kv, u } = scratch;
        each.resize_with(self.blocks.len().max(each.len()), TileScratch::default);
        if let [(_, only)] = self.blocks.as_slice() {
            return only.map_rows(rows, v, t, s, &mut each[0], acc, f);
        }
        let m = self.centers();
        assert_eq!(v.len(), m * t, "v must be centers x t");
        assert_eq!(acc.len(), m * s, "acc must be centers x s");
        let Some((_, any)) = self.blocks.first() else { return };
        let (tp, sp) = (any.columns(t), any.columns(s));
        let stride: usize = self.blocks.iter().map(|(_, tiles)| tiles.stride).sum();
        let fitting = (TILE_BLOCK_BYTES / (stride.max(1) * size_of::<T>())).min(TILE_BLOCK_ROWS);
        let step = (fitting / any.height).max(1) * any.height;
        for ((block, tiles), scratch) in self.blocks.iter().zip(each.iter_mut()) {
            tiles.packed_vectors(&v[block.start * t..block.end * t], t, &mut scratch.v);
            let packed = scratch.acc.take(if s == 1 { tiles.stride } else { tiles.centers * sp });
            packed.fill(0.0);
            copy_columns(&acc[block.start * s..block.end * s], s, packed, if s == 1 { 1 } else { sp });
        }
        for start in (0..rows.len()).step_by(step) {
            let end = (start + step).min(rows.len());
            let n = end - start;
            let x = rows.slice(start, end);
            kv.resize(n * tp * self.blocks.len(), 0.0);
            for (k, ((_, tiles), scratch)) in self.blocks.iter().zip(each.iter_mut()).enumerate() {
                let TileScratch { rows: packed, entries, v, wide, .. } = scratch;
                let entries = entries.take(n * tiles.stride);
                tiles.fill(x, tiles.centers, packed, entries);
                let v = v.get(if t == 1 { tiles.stride } else { tiles.centers * tp });
                let block = Entries { k: &*entries, stride: tiles.stride, centers: tiles.centers };
                tiles.forward(block, n, v, t, &mut kv[k * n * tp..(k + 1) * n * tp], wide);
            }
            add_over_tree(kv, n * tp, self.blocks.len());
            u.clear();
            u.resize(n * sp, 0.0);
            for i in 0..n {
                f(start + i, &kv[i * tp..][..t], &mut u[i * sp..][..s]);
            }
            for ((_, tiles), scratch) in self.blocks.iter().zip(each.iter_mut()) {
                let TileScratch { entries, acc, wide, .. } = scratch;
                let entries = entries.get(n * tiles.stride);
                let acc = acc.held(0, if s == 1 { tiles.stride } else { tiles.centers * sp });
                let block = Entries { k: entries, stride: tiles.stride, centers: tiles.centers };
                tiles.transposed(block, n, u, s, acc, wide);
            }
        }
        for ((block, tiles), scratch) in self.blocks.iter().zip(each.iter()) {
            let packed = scratch.acc.get(if s == 1 { tiles.stride } else { tiles.centers * sp });
            copy_columns(packed, if s == 1 { 1 } else { sp }, &mut acc[block.start * s..block.end * s], s);
        }
    }
}

/// The sum of `count` parts of `size` values each, over the tree of [`crate::tree::SumTree`], into the first.
pub(super) fn add_over_tree(parts: &mut [f64], size: usize, count: usize) {
    let mut step = 1;
    while step < count {
        for left in (0..count - step).step_by(2 * step) {
            let (head, tail) = parts.split_at_mut((left + step) * size);
            head[left * size..][..size].iter_mut().zip(&tail[..size]).for_each(|(a, b)| *a += b);
        }
        step *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Family;
    use crate::rows::RowBuf;
    use crate::tree::SumTree;

    fn rows(n: usize, seed: usize) -> RowBuf {
        let value = |i: usize| (((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0).powi(3);
        RowBuf { numeric: (0..3 * n).map(value).collect(), numeric_width: 3, codes: vec![], code_width: 0 }
    }

    /// In both precisions, one column and several, blocks of any length: the bits of each block alone, added over the tree; and each entry used for both products.
    #[test]
    fn blocks_are_added_over_the_tree() {
        fn check<T: Entry>() {
            let (kernel, simd) = (Kernel::new(Family::Laplace, 1.3), SimdPath::detect());
            for cuts in [&[0, 150][..], &[0, 64, 150], &[0, 64, 128, 150], &[0, 1, 50, 51, 97, 150]] {
                let blocks: Vec<Range<usize>> = cuts.windows(2).map(|w| w[0]..w[1]).collect();
                let (x, z) = (rows(37, 1), rows(150, 2));
                let all = CenterBlocks::<T>::new(&kernel, z.view(), &blocks, simd).unwrap();
                for (t, s) in [(1, 1), (2, 2), (3, 1), (9, 9)] {
                    let v: Vec<f64> = (0..150 * t).map(|i| (i as f64).sin()).collect();
                    let mut expected = SumTree::new(blocks.len() as u64);
                    for (k, block) in blocks.iter().enumerate() {
                        let part = RowBuf::gather(z.view(), &block.clone().collect::<Vec<_>>());
                        let tiles = Tiles::<T>::new(&kernel, part.view(), &[], simd).unwrap();
                        let mut out = vec![0.0; 37 * t];
                        tiles.k_v(x.view(), &v[block.start * t..block.end * t], t, &mut TileScratch::new(), &mut out);
                        expected.insert(0, k as u64, out).unwrap();
                    }
                    let expected = expected.finish().unwrap();
                    let (mut scratch, mut out) = (BlockScratch::default(), vec![0.0; 37 * t]);
                    all.k_v(x.view(), &v, t, &mut scratch, &mut out);
                    assert_eq!(out, expected);
                    let of = |f: &[f64], u: &mut [f64]| u.iter_mut().enumerate().for_each(|(c, u)| *u = f[c] - 0.5);
                    let (mut acc, mut seen) = (vec![0.25; 150 * s], vec![0.0; 37 * t]);
                    all.map_rows(x.view(), &v, t, s, &mut scratch, &mut acc, |i, f, u| {
                        seen[i * t..(i + 1) * t].copy_from_slice(f);
                        of(f, u);
                    });
                    assert_eq!(seen, expected);
                    let mut u = vec![0.0; 37 * s];
                    u.chunks_exact_mut(s).zip(expected.chunks_exact(t)).for_each(|(u, f)| of(f, u));
                    for (block, tiles) in all.blocks() {
                        let mut own = vec![0.25; block.len() * s];
                        tiles.kt_u(x.view(), &u, s, &mut TileScratch::new(), &mut own);
                        assert_eq!(own, acc[block.start * s..block.end * s]);
                    }
                }
            }
        }
        check::<f32>();
        check::<f64>();
    }
}
