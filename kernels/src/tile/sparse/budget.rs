//! What each row may do without: the blocks that matter least to it, left out or drawn by chance, within a budget of its own.
//!
//! **Problem.** A cutoff that keeps every promise by itself is wary: what its bounds then add up to is some 50 times less than what was allowed. Here n rows share
//! epsilon^2 evenly, and each row spends its part, B = epsilon / sqrt(n), on its own blocks, beginning with those that matter least. What it keeps stays a function of the row
//! (and of its identity, by which it draws): a matrix K~ fixed beforehand, for both products.
//!
//! **What a block matters** to a row, h, in shares of B:
//! * V is known (predictions): h = k(distance to the box) sum |v| / |v| / B, sum over the block, the largest of the columns. A row may leave out blocks with sum h <= 1, and then
//!   |(K V - K~ V)_i| <= B |V| in every row and column, whatever the rows are.
//! * V is any (iterations): h = k(distance)^2 centers / B^2, the block's part of the squared Frobenius norm. Again sum h <= 1, and |K - K~|_F <= epsilon.
//!
//! **Draws**, of a known V only. A row keeps a block with probability p = h / theta, with weight 1 / p: the error is 0 on the mean, its variance at most (theta - h) h B^2 |V|^2.
//! A row plans with what is left out, b, and variances, v, so that b^2 + v <= 1. Draws are hashes of (seed, row identity, block): independent. So the sum over all rows of squared errors has a mean of at most
//! n B^2 |V|^2, and with theta <= 1 the variance of a row's squared error is at most [`FOURTH`] B^4 |V|^4: by Cantelli's inequality the sum is below n B^2 |V|^2 (1 + sqrt(FOURTH / (n delta)))
//! with probability 1 - delta. B is lessened by that factor beforehand ([`Budget::margin`]): |K V - K~ V|_F <= epsilon |V|_F holds with probability 1 - [`DRAW_FAILURE`] at least, for a V that was
//! fixed without regard to the draws. For any V, a block drawn with p <= 1/2 costs as much of the Frobenius norm as the block left out: nothing is drawn there.
//!
//! Errors of drawn blocks cancel, of those left out they add up: with N blocks of about the same h a row can leave out 1 / h of them but draw N with theta = 1 / sqrt(N h). A row takes
//! what keeps fewer blocks: drawing pays with broad kernels, of which many blocks matter about as little, and never where a few blocks are all of the tail.
//!
//! **Cost.** A row's h are added up in [`BUCKETS`] buckets by size (4 an octave) while the tree is walked: 256 bytes a row, no sorting, and what a row leaves out is told by its sums. Then one comparison a pair of row
//! and block, and 10 ns a drawn pair.

use super::bound::Decay;
use super::{SparseTiles, SparseVectors};
use crate::constants::DRAW_FAILURE;
use crate::rows::Rows;
use crate::tile::Entry;
use nystream_hashing::{RowId, StreamKey, philox4x32};

/// Octaves of squared distances with bounds of their own: from entries of one half on, what matters of any kernel that sparse products are for.
const OCTAVES: usize = 12;
/// Buckets of a row: 16 octaves below its budget; what is smaller is added up by itself.
pub const BUCKETS: usize = 64;
/// Values of `f32` share a bucket when they agree in these leading bits: 4 buckets an octave.
const SHIFT: u32 = 21;
/// The bucket key of 1.
const ONE: u32 = 0x3F80_0000 >> SHIFT;
/// At most E e^4 where E e^2 <= 1, e = b + x with b^2 + E x^2 <= 1 and x a sum of independent terms of at most 1: b^4 + 6 b^2 v + 4 b v + 3 v^2 + v.
const FOURTH: f64 = 5.2;
/// More than the roundings of a sum of f32 values in f32, for 2^16 of them.
const ROUNDING: f64 = 1.0 + 1.0 / 128.0;
/// Equal chances in a word of random bits.
const CHANCES: f64 = 4_294_967_296.0;

/// Rows with the identities by which they draw; without any where nothing is drawn.
#[derive(Clone, Copy, Debug)]
pub struct DrawnRows<'a> {
    /// The rows.
    pub rows: Rows<'a>,
    /// One of each row, or none.
    pub ids: &'a [RowId],
}

impl<'a> From<Rows<'a>> for DrawnRows<'a> {
    fn from(rows: Rows<'a>) -> Self {
        DrawnRows { rows, ids: &[] }
    }
}

impl<'a> DrawnRows<'a> {
    /// Rows `start..end`.
    #[must_use]
    pub fn slice(&self, start: usize, end: usize) -> Self {
        let ids = if self.ids.is_empty() { &[] } else { &self.ids[start..end] };
        DrawnRows { rows: self.rows.slice(start, end), ids }
    }
}

/// What is not known of a row's product within a budget, in units of |v| of each column: nothing but `left_out` where the row draws nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// The error is at most this on the mean of all draws.
    pub left_out: f64,
    /// Variance of the error, at most.
    pub variance: f64,
    /// No block's part of the error is above this.
    pub largest: f64,
}

impl Spread {
    /// At most the mean fourth power of the error.
    pub fn fourth(&self) -> f64 {
        let (b, v, c) = (self.left_out, self.variance, self.largest);
        b.powi(4) + v * (6.0 * b * b + 4.0 * b * c + 3.0 * v + c * c)
    }

    /// The error exceeds `left_out` by more than this with probability 2 exp(-`exponent`) at most (Bernstein's inequality).
    ///
    /// ```
    /// use nystream_kernels::tile::Spread;
    /// let spread = Spread { left_out: 0.5, variance: 0.02, largest: 0.3 };
    /// let beyond = spread.beyond(5.0);
    /// assert!((beyond * beyond - 2.0 * 5.0 * (0.02 + 0.3 * beyond / 3.0)).abs() < 1e-12);
    /// assert_eq!(Spread { left_out: 0.5, ..Spread::default() }.beyond(5.0), 0.0);
    /// ```
    pub fn beyond(&self, exponent: f64) -> f64 {
        let half = self.largest * exponent / 3.0;
        half + (half * half + 2.0 * self.variance * exponent).sqrt()
    }
}

/// What rows may do without. See the module.
#[derive(Clone, Debug)]
pub struct Budget {
    /// B: of a row, in units of |v|.
    limit: f64,
    /// Bounds of entries nearer than the cutoff's radius.
    near: Decay,
    /// Of each node: by what a bound of its entries is multiplied (any V: its square).
    weights: Vec<f64>,
    any: bool,
    draws: Option<StreamKey>,
}

/// How a row spends its budget: buckets from `drop` on are left out, those from `draw` to there are drawn.
#[derive(Clone, Copy, Debug, Default)]
struct RowPlan {
    draw: usize,
    drop: usize,
    theta: f64,
    /// At least all that is left out.
    left_out: f64,
}

/// The plans of some rows, and what they are made of.
#[derive(Debug, Default)]
pub struct Plans {
    /// rows x `BUCKETS`.
    sums: Vec<f32>,
    /// Of each row: the shares beyond the radius, those below the buckets, and the number of the latter.
    far: Vec<[f64; 3]>,
    /// Of each row: the shares below which a block is left out, and drawn; the latter is not below the former.
    limits: Vec<[f32; 2]>,
    /// Of each row that draws: theta, and by what it draws.
    draws: Vec<(f64, [u32; 4])>,
    /// Of each row, in units of |v|: what is left out of the kept blocks.
    pub left_out: Vec<f64>,
    /// What became of each row.
    pub spreads: Vec<Spread>,
}

/// The bucket of a share of the budget: from 0 for the largest; none for what is not below 1.
#[inline(always)]
fn bucket(share: f32) -> Option<usize> {
    let key = share.to_bits() >> SHIFT;
    (key < ONE).then(|| (ONE - 1 - key) as usize)
}

/// The least share of bucket `k`; that of `k - 1` is above all of `k`.
fn least(k: usize) -> f64 {
    f64::from(f32::from_bits((ONE - 1 - k as u32) << SHIFT))
}

impl Budget {
    /// By what the tolerance is multiplied so that draws over `rows` rows keep it with probability 1 - [`DRAW_FAILURE`].
    ///
    /// ```
    /// use nystream_kernels::tile::Budget;
    /// assert!(Budget::margin(1_000_000) > 0.96 && Budget::margin(1000) > 0.54 && Budget::margin(0) > 0.1);
    /// ```
    pub fn margin(rows: u64) -> f64 {
        (1.0 + (FOURTH / (rows.max(1) as f64 * DRAW_FAILURE)).sqrt()).sqrt().recip()
    }

    /// For |K V - K~ V|_F <= `epsilon` |V|_F over `rows` rows, with this V, or with any where there is none. `draws` lets rows draw blocks where that keeps fewer, which needs a V. The cutoff
    /// of `tiles` must be [`norm_cutoff`](super::norm_cutoff) of the tolerance, times [`Budget::margin`] where rows draw.
    ///
    /// ```
    /// use nystream_hashing::{RowId, StreamKey};
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows};
    /// use nystream_kernels::tile::{Budget, DrawnRows, SimdPath, SparseScratch, SparseTiles, norm_cutoff};
    /// let z: Vec<f32> = (0..6400).map(|j| j as f32 / 64.0).collect();
    /// let (kernel, centers) = (Kernel::new(Family::Laplace, 5.0), Rows::new(&z, 1, &[], 0));
    /// let (epsilon, n) = (16.0, 100_000);
    /// let cutoff = norm_cutoff(Budget::margin(n) * epsilon, n, 6400);
    /// let tiles = SparseTiles::<f64>::new(&kernel, centers, &[], SimdPath::detect(), cutoff)?;
    /// let v = tiles.vectors(&[1.0; 6400], 1);
    /// let rows = DrawnRows { rows: Rows::new(&[50.0], 1, &[], 0), ids: &[RowId(1)] };
    /// let all = tiles.kept_entries(rows, &mut SparseScratch::new());
    /// let budget = Budget::new(&tiles, (epsilon, n), Some(&v), Some(StreamKey::new(0, "example", 0)));
    /// let tiles = tiles.within(budget);
    /// let exact: f64 = z.iter().map(|z| (-(z - 50.0).abs() / 5.0) as f64).map(f64::exp).sum();
    /// let entries = tiles.map_rows(rows, Some(&v), 0, &mut SparseScratch::new(), &mut [], |_, kv, missing, _| {
    ///     // With probability 1 - 2 exp(-10).
    ///     assert!((kv[0] - exact).abs() <= missing.bounds[0] + v.norms()[0] * missing.spread.beyond(10.0) + 1e-3);
    /// });
    /// assert!(entries < all);
    /// # Ok::<(), nystream_kernels::tile::TileError>(())
    /// ```
    ///
    /// # Panics
    /// If `v` is of other tiles.
    pub fn new<T: Entry>(
        tiles: &SparseTiles<T>,
        (epsilon, rows): (f64, u64),
        v: Option<&SparseVectors>,
        draws: Option<StreamKey>,
    ) -> Self {
        assert!(v.is_none_or(|v| v.mark == tiles.tree.mark), "v must be of these tiles");
        let draws = draws.filter(|_| v.is_some());
        let margin = if draws.is_some() { Self::margin(rows) } else { 1.0 };
        let limit = margin * epsilon / (rows.max(1) as f64).sqrt();
        let nodes = tiles.tree.nodes.len();
        let weights: Vec<f64> = (0..nodes)
            .map(|node| match v {
                Some(v) => v.share(node) / limit,
                None => tiles.tree.places(node, tiles.centers()).len() as f64 / (limit * limit),
            })
            .collect();
        // Nearer blocks are above the budget, whichever they are.
        let blocks = (0..nodes).filter(|node| tiles.tree.nodes[*node].blocks == 1);
        let light = blocks.map(|node| weights[node]).filter(|w| *w > 0.0).fold(f64::INFINITY, f64::min);
        let all_above = if v.is_some() { 1.0 / light } else { light.sqrt().recip() };
        let near = Decay::over(tiles.kernel().family, all_above.clamp(tiles.cutoff(), 0.5), OCTAVES);
        Budget { limit, near, weights, any: v.is_none(), draws }
    }

    /// Nodes of the tree it is of.
    pub(super) fn nodes(&self) -> usize {
        self.weights.len()
    }

    /// Bytes of a budget over so many nodes.
    pub(super) fn memory_bytes(nodes: usize) -> usize {
        8 * nodes + Decay::memory_bytes_over(OCTAVES)
    }

    /// Bytes of the plans of so many rows.
    pub(super) fn plan_bytes(rows: usize) -> usize {
        let each = size_of::<[f64; 3]>() + size_of::<(f64, [u32; 4])>() + size_of::<Spread>();
        rows * (4 * BUCKETS + each + size_of::<[f32; 2]>() + size_of::<f64>())
    }

    /// Whether rows draw: they need identities then.
    pub fn draws(&self) -> bool {
        self.draws.is_some()
    }

    /// The share of a row's budget that entries of at most `bound` take at `node`.
    #[inline(always)]
    fn share(&self, node: usize, bound: f64) -> f64 {
        self.weights[node] * if self.any { bound * bound } else { bound }
    }

    /// What gives the shares that block `node` takes at squared distances within the cutoff's radius, none of them below the truth.
    #[inline(always)]
    pub(super) fn near_shares(&self, node: usize) -> impl Fn(f64) -> f32 + '_ {
        let weight = self.weights[node] * (1.0 + 1e-6);
        move |distance| {
            // A distance that is no number is none.
            let bound = if distance > self.near.radius { self.near.bound(distance) } else { 1.0 };
            ((weight * if self.any { bound * bound } else { bound }) as f32).max(f32::MIN_POSITIVE)
        }
    }

    /// Whether it is for any V.
    pub(super) fn any(&self) -> bool {
        self.any
    }
}

impl Plans {
    /// For so many rows.
    pub(super) fn clear(&mut self, rows: usize) {
        self.sums.clear();
        self.sums.resize(rows * BUCKETS, 0.0);
        self.far.clear();
        self.far.resize(rows, [0.0; 3]);
        self.spreads.clear();
        self.spreads.resize(rows, Spread::default());
        self.limits.clear();
        self.draws.clear();
        self.left_out.clear();
    }

    /// Row `i` lacks `node`, of entries of at most `bound`.
    #[inline(always)]
    pub(super) fn beyond(&mut self, budget: &Budget, i: usize, node: usize, bound: f64) {
        self.far[i][0] += budget.share(node, bound);
    }

    /// Row `i` may do without a block of this share.
    #[inline(always)]
    pub(super) fn candidate(&mut self, i: usize, share: f32) {
        match bucket(share) {
            Some(k) if k < BUCKETS => self.sums[i * BUCKETS + k] += share,
            Some(_) => {
                self.far[i][1] += f64::from(share);
                self.far[i][2] += 1.0;
            }
            None => {}
        }
    }

    /// How each row spends what it has.
    pub(super) fn plan(&mut self, budget: &Budget, ids: &[RowId]) {
        assert!(!budget.draws() || ids.len() == self.far.len(), "rows that draw need identities");
        let below = |k: usize| match k {
            0 => 1.0,
            k if k <= BUCKETS => least(k - 1) as f32,
            _ => 0.0,
        };
        for (i, (sums, &far)) in self.sums.chunks_exact(BUCKETS).zip(&self.far).enumerate() {
            let plan = RowPlan::best(sums, far, budget.draws());
            let drop = below(plan.drop);
            self.limits.push([drop, below(plan.draw).max(drop)]);
            if let Some(key) = budget.draws {
                let words = if plan.draw < plan.drop { key.words(ids[i]) } else { [0; 4] };
                self.draws.push((plan.theta, words));
            }
            let units = |share: f64| budget.limit * if budget.any { share.sqrt() } else { share };
            self.left_out.push(units(plan.left_out));
            self.spreads[i].left_out = units(far[0] + plan.left_out);
        }
    }

    /// Whether row `i` keeps a block of this share for certain, and otherwise whether it draws it.
    #[inline(always)]
    pub(super) fn keeps(&self, i: usize, share: f32) -> (bool, bool) {
        let [drop, draw] = self.limits[i];
        (share >= draw, share >= drop)
    }

    /// With how many chances of 2^32 row `i` keeps a block that it draws: 0 where they were all; nothing where the draw says no.
    pub(super) fn draw(&mut self, budget: &Budget, i: usize, block: usize, share: f32) -> Option<u32> {
        let ((theta, [a, b, c, d]), share) = (self.draws[i], f64::from(share));
        let enough = (share / theta * CHANCES).ceil().max(1.0);
        if enough >= CHANCES {
            return Some(0);
        }
        let spread = &mut self.spreads[i];
        spread.variance += share * (theta - share) * (budget.limit * budget.limit);
        spread.largest = theta * budget.limit;
        let word = philox4x32([a, b], [block as u32, (block as u64 >> 32) as u32, c, d])[0];
        (f64::from(word) < enough).then_some(enough as u32)
    }
}

/// The weight of a block that was kept with so many chances of 2^32.
#[inline(always)]
pub fn weight(chances: u32) -> f64 {
    if chances == 0 { 1.0 } else { CHANCES / f64::from(chances) }
}

impl RowPlan {
    /// The plan that keeps the fewest blocks on the mean, of those that leave out as much as the budget allows, half as much, or nothing that can be drawn, and draw with the rest.
    fn best(sums: &[f32], [far, deep, least_of_all]: [f64; 3], draws: bool) -> Self {
        let mut best = (0.0, RowPlan { draw: usize::MAX, drop: usize::MAX, ..RowPlan::default() });
        for limit in [1.0, 0.5, 0.0] {
            // From the smallest shares on.
            let (mut drop, mut left_out, mut saved) = (usize::MAX, far, 0.0);
            if left_out + deep <= limit {
                (drop, left_out, saved) = (BUCKETS, left_out + deep, least_of_all);
                while drop > 0 && left_out + f64::from(sums[drop - 1]) * ROUNDING <= limit {
                    drop -= 1;
                    left_out += f64::from(sums[drop]) * ROUNDING;
                    saved += f64::from(sums[drop]) / (1.1 * least(drop));
                }
            }
            if saved > best.0 {
                best = (saved, RowPlan { draw: drop, drop, theta: 0.0, left_out: left_out - far });
            }
            if !draws {
                break;
            }
            let spare = 1.0 - left_out * left_out;
            let (mut mean, mut squares, mut count) = (0.0, 0.0, 0.0);
            if drop == usize::MAX {
                (mean, count) = (deep, least_of_all);
            }
            for draw in (0..drop.min(BUCKETS)).rev() {
                let sum = f64::from(sums[draw]);
                if sum == 0.0 {
                    continue;
                }
                mean += sum * ROUNDING;
                squares += sum / ROUNDING * least(draw);
                count += sum / (1.1 * least(draw));
                let theta = ((spare + squares) / mean).min(1.0);
                // With less a share above theta would be drawn with certainty, though its square was counted as spared.
                let all_below = if draw == 0 { 1.0 } else { least(draw - 1) };
                if spare <= 0.0 || theta < all_below {
                    break;
                }
                let all = saved + count - mean / theta;
                if all > best.0 {
                    best = (all, RowPlan { draw, drop, theta, left_out: left_out - far });
                }
            }
        }
        best.1
    }
}
