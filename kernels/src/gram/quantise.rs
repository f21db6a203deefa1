//! Rounding of entries, targets and weights to the integers that the exact products take.

use super::{DOUBLE_BITS, GramError, GramShape, OPERAND_BITS, TILE};

/// The nearest integer, ties to even, of |x| < 2^51: adding 1.5 * 2^52 leaves no fraction bits (needs no SSE4.1).
#[inline(always)]
pub(super) fn nearest(x: f64) -> f64 {
    const SHIFT: f64 = 1.5 * (1u64 << 52) as f64;
    (x + SHIFT) - SHIFT
}

/// An integer of at most 53 bits, |x| <= 2^53, as i64: by additions, which vectorise on any x86-64 where conversions do not.
#[inline(always)]
pub(super) fn integer(x: f64) -> i64 {
    const SHIFT: f64 = 1.5 * (1u64 << 52) as f64;
    const RADIX: f64 = (1u64 << OPERAND_BITS) as f64;
    let high = x * (1.0 / RADIX) + SHIFT;
    let low = (x - (high - SHIFT) * RADIX) + SHIFT;
    let bits = |shifted: f64| shifted.to_bits().wrapping_sub(SHIFT.to_bits()) as i64;
    (bits(high) << OPERAND_BITS) + bits(low)
}

/// The limbs (h, l) of the integer `x` = h 2^22 + l, |x| <= 2^43: |h|, |l| <= 2^21.
#[inline(always)]
pub(super) fn limbs(x: f64) -> (f64, f64) {
    let high = nearest(x * (1.0 / (1u64 << OPERAND_BITS) as f64));
    (high, x - high * (1u64 << OPERAND_BITS) as f64)
}

const TARGET_LIMIT: f64 = (1u64 << DOUBLE_BITS) as f64;

/// The factor of each row that takes its entries to integers: `sqrt(w / w_max) 2^(b - scale_log2)`.
pub(super) fn row_factors(shape: GramShape, roots: Option<&[f64]>, rows: usize, out: &mut Vec<f64>) {
    out.clear();
    out.reserve_exact(rows);
    out.extend((0..rows).map(|row| root(roots, row) * power(shape)));
}

impl GramShape {
    /// What an [`ExactGram`](super::ExactGram) sums in place of `root` k, for a kernel entry k and the root of its row's relative weight: the nearest multiple
    /// of 2^(scale_log2 - b).
    ///
    /// ```
    /// use nystream_kernels::gram::{GramShape, Precision};
    /// let shape = GramShape { centers: 1, targets: 1, precision: Precision::Single, scale_log2: 0 };
    /// assert_eq!(shape.rounded(0.3, 1.0), (0.3 * 2f64.powi(22)).round() / 2f64.powi(22));
    /// ```
    pub fn rounded(&self, entry: f64, root: f64) -> f64 {
        nearest(entry * (root * power(*self))) / power(*self)
    }
}

/// Units of an entry: 2^(b - scale_log2).
fn power(shape: GramShape) -> f64 {
    2f64.powi(shape.precision.bits() as i32 - shape.scale_log2)
}

/// Checks every number of a call before any of it is added, so that a failed call changes nothing.
pub(super) fn validate<T: Copy + Into<f64>>(
    shape: GramShape,
    k: &[T],
    stride: usize,
    rows: usize,
    roots: Option<&[f64]>,
    targets: &[f64],
) -> Result<(), GramError> {
    if let Some(roots) = roots
        && let Some(row) = roots.iter().position(|root| !(0.0..=1.0).contains(root))
    {
        return Err(GramError::WeightOutOfRange { row, value: roots[row] });
    }
    if let Some(at) = targets.iter().position(|y| !(-1.0..=1.0).contains(y)) {
        return Err(GramError::TargetOutOfRange {
            row: at / shape.targets,
            target: at % shape.targets,
            value: targets[at],
        });
    }
    // An unweighted entry of 1 + 2^-23 in f32 still rounds to 1: the bound is on the rounded integer.
    let limit = (1u64 << shape.precision.bits()) as f64 + 0.5;
    let inside = |value: T, factor: f64| (value.into() * factor).abs() <= limit;
    for row in 0..rows {
        let factor = root(roots, row) * power(shape);
        let entries = &k[row * stride..row * stride + shape.centers];
        if !entries.iter().fold(true, |ok, &value| ok & inside(value, factor)) {
            let center = entries.iter().position(|&value| !inside(value, factor)).unwrap_or(0);
            let bound = 2f64.powi(shape.scale_log2);
            return Err(GramError::EntryOutOfRange { row, center, value: entries[center].into(), bound });
        }
    }
    Ok(())
}

/// Targets in one chunk of the target operands: two limbs of each make a tile's width.
pub(super) const TARGET_CHUNK: usize = TILE / 2;

/// The weighted targets of a slab as integers over 2^43, and the limbs of each chunk of [`TARGET_CHUNK`] targets as a row-major
/// block [h of all its targets, l of all its targets].
pub(super) fn target_limbs(targets: &[f64], count: usize, roots: Option<&[f64]>, rows: usize, out: &mut Vec<f64>) {
    out.clear();
    out.reserve_exact(2 * rows * count);
    for first in (0..count).step_by(TARGET_CHUNK) {
        let chunk = (count - first).min(TARGET_CHUNK);
        for row in 0..rows {
            let y = &targets[row * count + first..row * count + first + chunk];
            let integers = y.iter().map(|&y| target_integer(y, root(roots, row)));
            out.extend(integers.clone().map(|x| limbs(x).0));
            out.extend(integers.map(|x| limbs(x).1));
        }
    }
}

/// sqrt(w / w_max) y over 2^-43.
#[inline]
pub(super) fn target_integer(y: f64, root: f64) -> f64 {
    nearest(root * y * TARGET_LIMIT)
}

/// sqrt(w / w_max) of a row; 1 when there are no weights.
#[inline]
pub(super) fn root(roots: Option<&[f64]>, row: usize) -> f64 {
    roots.map_or(1.0, |roots| roots[row])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limbs_recombine_and_stay_small() {
        for x in
            [0.0, 1.0, -1.0, 2f64.powi(21), -2f64.powi(21), 2f64.powi(43), -2f64.powi(43), 2f64.powi(43) - 1.0, 3.3e12]
        {
            let x = nearest(x);
            let (h, l) = limbs(x);
            assert_eq!(h * 2f64.powi(22) + l, x);
            assert!(h.abs() <= 2f64.powi(21) && l.abs() <= 2f64.powi(21), "{x}: {h} {l}");
            assert!((h + l).abs() <= 2f64.powi(22));
        }
        let largest = 2f64.powi(53);
        for x in [0.0, 1.0, -1.0, 4194303.0, -2097153.0, largest, -largest, largest - 1.0, 1.0 - largest, 6.3e15] {
            assert_eq!(integer(x), x as i64);
        }
        assert_eq!([0.5, 1.5, 2.5, -0.5].map(nearest), [0.0, 2.0, 2.0, 0.0]);
    }
}
