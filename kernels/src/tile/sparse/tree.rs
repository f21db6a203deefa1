//! Centers in compact blocks: a balanced tree of boxes.
//!
//! A node of B blocks is cut at a multiple of the block length, its left child taking ceil(B / 2) of them: only the last block of all is short, and a
//! block is whole panels on every path. The cut is the median of the coordinate in which the centers spread widest, or of the category; ties go to the lowest index, so
//! that the order is a function of the centers alone. Within a block centers keep their own order.
//!
//! Coordinates are f64, after metric, offset and bandwidth. Boxes are widened by what their coordinates may have been rounded by; of a category a box
//! knows the level, where all its centers share one.
//!
//! Cost: O(m d log(m / 64)) once; 2 d + codes values a node, 2 m / 64 nodes.

use super::super::entry::Real;
use super::super::pack::Form;
use crate::constants::SPARSE_BLOCK;
use crate::kernel::Kernel;
use crate::rows::Rows;

/// Marks a box whose centers differ in a category.
const MIXED: u32 = u32::MAX;

/// A node: its blocks, and where its right child is; the left one follows it.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    pub first: usize,
    pub blocks: usize,
    pub right: usize,
}

#[derive(Debug, Default)]
pub struct Tree {
    /// The center at each place.
    pub order: Vec<usize>,
    /// A hash of that order.
    pub mark: u64,
    /// In preorder.
    pub nodes: Vec<Node>,
    pub width: usize,
    pub codes: usize,
    /// nodes x width pairs: least and greatest coordinate.
    boxes: Vec<[f64; 2]>,
    /// nodes x codes.
    levels: Vec<u32>,
    /// Squared distance of a level change in each category.
    weights: Vec<f64>,
}

/// Rows as the tree sees them: `len x width` coordinates and `len` bounds on their rounding errors.
#[derive(Debug, Default)]
pub struct Located {
    pub coordinates: Vec<f64>,
    pub errors: Vec<f64>,
}

impl Located {
    /// The coordinates of `rows`.
    pub fn locate<T: Real>(&mut self, form: &Form<T>, rows: Rows<'_>) {
        self.coordinates.resize(rows.len() * form.width, 0.0);
        self.errors.clear();
        for i in 0..rows.len() {
            let to = &mut self.coordinates[i * form.width..(i + 1) * form.width];
            self.errors.push(form.coordinates(rows, i, to));
        }
    }
}

impl Tree {
    pub fn new<T: Real>(form: &Form<T>, kernel: &Kernel, centers: Rows<'_>) -> Self {
        let c = super::super::functions::scale(kernel.family, kernel.bandwidth);
        let mut tree = Tree { order: (0..centers.len()).collect(), width: form.width, ..Tree::default() };
        tree.codes = form.codes;
        let nodes = Self::most_nodes(centers.len());
        tree.nodes.reserve_exact(nodes);
        tree.boxes.reserve_exact(nodes * tree.width);
        tree.levels.reserve_exact(nodes * tree.codes);
        tree.weights = (0..form.codes).map(|k| kernel.code_weight(k) * c * c).collect();
        let mut points = Located::default();
        points.locate(form, centers);
        let mut members = std::mem::take(&mut tree.order);
        tree.grow(&points, centers, &mut members, 0);
        // FNV-1a.
        tree.mark = members.iter().fold(0xcbf2_9ce4_8422_2325, |h, &j| (h ^ j as u64).wrapping_mul(0x100_0000_01b3));
        tree.order = members;
        tree
    }

    /// Adds the node of `members`, whose first block is `first`, and all below it.
    fn grow(&mut self, points: &Located, centers: Rows<'_>, members: &mut [usize], first: usize) {
        if members.is_empty() {
            return;
        }
        let blocks = members.len().div_ceil(SPARSE_BLOCK);
        let node = self.nodes.len();
        self.nodes.push(Node { first, blocks, right: 0 });
        let error = members.iter().map(|&j| points.errors[j]).fold(0.0, f64::max);
        let (mut widest, mut spread) = (0, -1.0);
        for k in 0..self.width {
            let values = members.iter().map(|&j| points.coordinates[j * self.width + k]);
            let [low, high] = values.fold([f64::INFINITY, f64::NEG_INFINITY], |[a, b], x| [a.min(x), b.max(x)]);
            self.boxes.push([low - error, high + error]);
            if high - low > spread {
                (widest, spread) = (k, high - low);
            }
        }
        for k in 0..self.codes {
            let level = centers.codes(members[0])[k];
            let mixed = members.iter().any(|&j| centers.codes(j)[k] != level);
            self.levels.push(if mixed { MIXED } else { u32::from(level) });
            if mixed && self.weights[k].sqrt() > spread {
                (widest, spread) = (self.width + k, self.weights[k].sqrt());
            }
        }
        if blocks == 1 {
            members.sort_unstable();
            return;
        }
        let left = blocks.div_ceil(2);
        let cut = left * SPARSE_BLOCK;
        if widest < self.width {
            let value = |j: usize| points.coordinates[j * self.width + widest];
            members.select_nth_unstable_by(cut, |&a, &b| value(a).total_cmp(&value(b)).then(a.cmp(&b)));
        } else {
            members.select_nth_unstable_by_key(cut, |&j| (centers.codes(j)[widest - self.width], j));
        }
        let (low, high) = members.split_at_mut(cut);
        self.grow(points, centers, low, first);
        self.nodes[node].right = self.nodes.len();
        self.grow(points, centers, high, first + left);
    }

    /// At most the squared distance, in scaled coordinates, of a row to any center of `node`; no more than shows that it is above `enough`.
    #[inline(always)]
    pub fn squared_distance(&self, node: usize, x: &[f64], error: f64, codes: &[u16], enough: f64) -> f64 {
        let mut sum = 0.0;
        let boxes = &self.boxes[node * self.width..(node + 1) * self.width];
        for (k, (x, [low, high])) in x.iter().zip(boxes).enumerate() {
            let beyond = larger(larger(low - x, x - high) - error, 0.0);
            sum += beyond * beyond;
            if k % 8 == 7 && sum > enough {
                return sum;
            }
        }
        let levels = &self.levels[node * self.codes..(node + 1) * self.codes];
        for ((&level, &code), &weight) in levels.iter().zip(codes).zip(&self.weights) {
            if level != MIXED && level != u32::from(code) {
                sum += weight;
            }
        }
        sum
    }

    /// Nodes of a tree over so many centers, at most.
    pub fn most_nodes(centers: usize) -> usize {
        2 * centers.div_ceil(SPARSE_BLOCK)
    }

    /// Bytes that a tree takes at most, coordinates apart, which are there while it is made.
    pub fn memory_bytes(centers: usize, width: usize, codes: usize) -> usize {
        let node = size_of::<Node>() + width * size_of::<[f64; 2]>() + codes * size_of::<u32>();
        centers * size_of::<usize>() + Self::most_nodes(centers) * node + codes * size_of::<f64>()
    }

    /// Bytes that this tree takes.
    #[cfg(test)]
    pub fn held_bytes(&self) -> usize {
        let lists = self.boxes.capacity() * size_of::<[f64; 2]>() + self.levels.capacity() * size_of::<u32>();
        let nodes = self.nodes.capacity() * size_of::<Node>() + self.weights.capacity() * size_of::<f64>();
        lists + nodes + self.order.capacity() * size_of::<usize>()
    }

    /// Places that `node` covers, of `centers`.
    pub fn places(&self, node: usize, centers: usize) -> std::ops::Range<usize> {
        let Node { first, blocks, .. } = self.nodes[node];
        first * SPARSE_BLOCK..((first + blocks) * SPARSE_BLOCK).min(centers)
    }

    /// Levels of nodes.
    pub fn height(&self) -> usize {
        let blocks = self.nodes.first().map_or(0, |root| root.blocks);
        blocks.next_power_of_two().trailing_zeros() as usize + 1
    }
}

/// `a` unless `b` is larger or a NaN: coordinates that overflowed are taken for near.
#[inline(always)]
fn larger(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}
