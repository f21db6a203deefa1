//! From encoded rows to the layouts the register tile reads.
//!
//! Rows are packed in groups of R (the tile's height), centers in panels of C vectors. Both hold, feature by feature: the coordinates
//! (offset subtracted, metric applied, scaled by [`scale`], all in f64 and rounded once), the codes as numbers, and
//! one norm term a row; where distances are expanded, the least norm term of the group too, for all its rows. Groups and panels are padded with zeros. What else is
//! packed of a row depends on that row only.

use super::TileError;
use super::entry::Real;
use super::functions::{Shape, scale};
use super::lanes::Lanes;
use crate::constants::DIRECT_WIDTH;
use crate::kernel::{Family, Kernel, Metric};
use crate::rows::Rows;

/// How the register tile forms its argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Squared distances as 2 x.z - |x|^2 - |z|^2, near lanes recomputed from differences.
    Expanded,
    /// Squared distances from differences: few features, where that is as cheap.
    Direct,
    /// Inner products.
    Inner,
}

/// A kernel, ready to be applied to packed rows.
#[derive(Clone, Debug)]
pub struct Form<T> {
    pub mode: Mode,
    pub shape: Shape<T>,
    /// Coordinates after the metric.
    pub width: usize,
    /// Categorical columns.
    pub codes: usize,
    /// Weight of each categorical column: of a difference (radial) or of an equality (dot product).
    pub code_weights: Vec<T>,
    input_width: usize,
    offset: Vec<f64>,
    map: Map,
}

#[derive(Clone, Debug)]
enum Map {
    /// One factor a column.
    Diagonal(Vec<f64>),
    /// Rows of a matrix, row-major.
    Full(Vec<f64>),
}

impl<T: Real> Form<T> {
    /// Checks `kernel` and `offset` against the widths of the rows.
    pub fn new(kernel: &Kernel, input_width: usize, codes: usize, offset: &[f32]) -> Result<Self, TileError> {
        check_family(kernel.family)?;
        let radial = kernel.family.is_radial();
        let c = scale(kernel.family, kernel.bandwidth);
        if !(kernel.bandwidth > 0.0 && kernel.bandwidth.is_finite() && c > 0.0 && c.is_finite()) {
            return Err(TileError::Bandwidth { bandwidth: kernel.bandwidth });
        }
        if !offset.is_empty() && offset.len() != input_width {
            return Err(TileError::Offset { given: offset.len(), numeric_width: input_width });
        }
        if let Some(column) = offset.iter().position(|o| !o.is_finite()) {
            return Err(TileError::NonFiniteOffset { column, value: offset[column] });
        }
        let (width, map) = match &kernel.metric {
            Metric::Isotropic => (input_width, Map::Diagonal(vec![c; input_width])),
            Metric::PerFeature { numeric, categorical } => {
                check_scales("numeric", numeric, input_width)?;
                check_scales("categorical", categorical, codes)?;
                (input_width, Map::Diagonal(numeric.iter().map(|s| c / s).collect()))
            }
            Metric::Full { map, rows, categorical } => {
                check_scales("categorical", categorical, codes)?;
                if map.len() != rows * input_width {
                    return Err(TileError::MapShape { given: map.len(), rows: *rows, numeric_width: input_width });
                }
                if let Some(index) = map.iter().position(|a| !a.is_finite()) {
                    return Err(TileError::MapValue { index, value: map[index] });
                }
                (*rows, Map::Full(map.iter().map(|a| c * a).collect()))
            }
        };
        let share = if radial { 1.0 } else { 0.5 };
        let code_weights = (0..codes).map(|k| T::from_f64(share * kernel.code_weight(k) * c * c)).collect();
        let mode = match (radial, width <= DIRECT_WIDTH) {
            (false, _) => Mode::Inner,
            (true, true) => Mode::Direct,
            (true, false) => Mode::Expanded,
        };
        let zero = !radial || offset.is_empty();
        let offset = if zero { vec![0.0; input_width] } else { offset.iter().map(|&o| f64::from(o)).collect() };
        Ok(Form { mode, shape: Shape::of(kernel.family), width, codes, code_weights, input_width, offset, map })
    }

    /// Values a packed row takes: coordinates, codes, the norm term, and the least of the group's.
    pub fn depth(&self) -> usize {
        self.width + self.codes + 1 + usize::from(self.mode == Mode::Expanded)
    }

    /// What coordinates of centers are multiplied by: 2 where the tile sums 2 x.z.
    pub fn center_factor(&self) -> T {
        if self.mode == Mode::Expanded { T::TWO } else { T::ONE }
    }

    /// Whether `rows` have the widths this form was made for.
    pub fn fits(&self, rows: Rows<'_>) -> bool {
        rows.numeric_width() == self.input_width && rows.code_width() == self.codes
    }

    /// The coordinates of row `i` in f64, and a bound on the rounding error of each.
    pub fn coordinates(&self, rows: Rows<'_>, i: usize, out: &mut [f64]) -> f64 {
        let x = rows.numeric(i);
        let mut largest = 0.0f64;
        match &self.map {
            Map::Diagonal(factors) => {
                for (((out, &x), &o), &scale) in out.iter_mut().zip(x).zip(&self.offset).zip(factors) {
                    *out = (f64::from(x) - o) * scale;
                    largest = largest.max(out.abs());
                }
            }
            Map::Full(map) => {
                for (out, row) in out.iter_mut().zip(map.chunks_exact(self.input_width.max(1))) {
                    let (mut sum, mut size) = (0.0, 0.0);
                    for ((&x, &o), &a) in x.iter().zip(&self.offset).zip(row) {
                        let product = a * (f64::from(x) - o);
                        (sum, size) = (sum + product, size + product.abs());
                    }
                    *out = sum;
                    largest = largest.max(size);
                }
            }
        }
        // Of a difference, a product and the sum one rounding each a term, and as many again for the box or distance that is made of it.
        largest * f64::EPSILON * (self.input_width + 4) as f64
    }

    /// The gradient in a row's numeric columns of a function whose gradient in its coordinates is `y`.
    pub fn pull_back(&self, y: &[f64], out: &mut [f64]) {
        match &self.map {
            Map::Diagonal(factors) => {
                out.iter_mut().zip(y).zip(factors).for_each(|((out, y), scale)| *out = scale * y);
            }
            Map::Full(map) => {
                out.fill(0.0);
                for (y, row) in y.iter().zip(map.chunks_exact(self.input_width.max(1))) {
                    out.iter_mut().zip(row).for_each(|(out, a)| *out += a * y);
                }
            }
        }
    }

    /// Numeric columns of a row.
    pub fn input_width(&self) -> usize {
        self.input_width
    }

    /// Packs `rows` into groups of `lanes` rows each: value k of row r of group g is at `out[(g depth + k) lanes + r]`.
    /// `out` must hold the groups that `rows` need; what they do not fill is zero. `factor` (a power of two) multiplies the
    /// coordinates, not the norms.
    #[inline(always)]
    pub fn pack<P: Lanes<T>>(&self, p: P, rows: Rows<'_>, lanes: usize, factor: T, out: &mut [T]) {
        let depth = self.depth();
        out.fill(T::ZERO);
        for (group, out) in out.chunks_exact_mut(depth * lanes).enumerate() {
            for r in 0..lanes.min(rows.len().saturating_sub(group * lanes)) {
                self.pack_row(p, rows, group * lanes + r, lanes, factor, &mut out[r..]);
            }
            self.set_least_norm(lanes, out);
        }
    }

    /// Completes a packed group: the least norm term of its rows, where distances are expanded.
    #[inline(always)]
    pub fn set_least_norm(&self, lanes: usize, group: &mut [T]) {
        if self.mode == Mode::Expanded {
            let (norms, least) = group[(self.depth() - 2) * lanes..].split_at_mut(lanes);
            least.fill(norms.iter().copied().fold(T::ZERO, |a, b| if b < a { b } else { a }));
        }
    }

    #[inline(always)]
    fn pack_row<P: Lanes<T>>(&self, p: P, rows: Rows<'_>, i: usize, stride: usize, factor: T, out: &mut [T]) {
        let x = rows.numeric(i);
        let mut norm = T::ZERO;
        match &self.map {
            Map::Diagonal(factors) => {
                for (k, ((&x, &o), &scale)) in x.iter().zip(&self.offset).zip(factors).enumerate() {
                    let value = T::from_f64((f64::from(x) - o) * scale);
                    out[k * stride] = value * factor;
                    norm = p.scalar_mul_add(value, value, norm);
                }
            }
            Map::Full(map) => {
                for k in 0..self.width {
                    let row = &map[k * self.input_width..][..self.input_width];
                    let products = x.iter().zip(&self.offset).zip(row).map(|((&x, &o), &a)| a * (f64::from(x) - o));
                    let value = T::from_f64(products.sum());
                    out[k * stride] = value * factor;
                    norm = p.scalar_mul_add(value, value, norm);
                }
            }
        }
        for (k, &code) in rows.codes(i).iter().enumerate() {
            out[(self.width + k) * stride] = T::from_f64(f64::from(code));
        }
        let norm = match self.mode {
            // Kept negated: the tile adds.
            Mode::Expanded => -norm,
            Mode::Direct => T::ZERO,
            Mode::Inner => self.code_weights.iter().fold(norm, |norm, &w| p.scalar_mul_add(w, T::ONE, norm)),
        };
        out[(self.width + self.codes) * stride] = norm;
    }
}

fn check_family(family: Family) -> Result<(), TileError> {
    let bad = |parameter, value| Err(TileError::Family { parameter, value });
    match family {
        Family::Wendland { smoothness, .. } if smoothness != 2 && smoothness != 4 => {
            bad("smoothness", f64::from(smoothness))
        }
        Family::Wendland { dimension, .. } if !(1..=1000).contains(&dimension) => {
            bad("dimension", f64::from(dimension))
        }
        Family::Polynomial { degree: 0, .. } => bad("degree", 0.0),
        Family::Polynomial { offset, .. } if !(offset >= 0.0 && offset.is_finite()) => bad("offset", offset),
        Family::ArcCosine { depth: 0 } | Family::Ntk { depth: 0 } => bad("depth", 0.0),
        _ => Ok(()),
    }
}

fn check_scales(part: &'static str, scales: &[f64], width: usize) -> Result<(), TileError> {
    if scales.len() != width {
        return Err(TileError::ScaleCount { part, given: scales.len(), width });
    }
    match scales.iter().position(|s| !(*s > 0.0 && s.is_finite())) {
        Some(column) => Err(TileError::Scale { part, column, value: scales[column] }),
        None => Ok(()),
    }
}
