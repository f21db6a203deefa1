//! Exact sums of f64: free of order, mergeable, and invertible.
//!
//! The problem: a floating-point sum depends on the order of its terms, and `(s + x) - x` need not be `s`. Moments of
//! columns, counts with weights and losses must depend on the *set* of rows only (law 1), and online deletion must undo insertion exactly.
//!
//! [`ExactSum`] holds the sum as one long fixed-point integer in units of 2^-1074 (the smallest positive f64), the
//! "long accumulator" of Kulisch (Computer Arithmetic and Validity, 2nd ed. 2013, chapter 8), in 67 signed limbs
//! that carry 32 bits each in an i64. A term touches three limbs; carries are propagated once in 2^29 terms.
//!
//! Invariants:
//! * the value is `sum_i limbs[i] 2^(32 i - 1074)`; it is exact while its magnitude stays below 2^1100;
//! * `|limbs[i]| <= 2^32 (pending + 1)` for all limbs but the last, so no limb overflows before the next carry;
//! * the canonical form (limbs 0..66 in `[0, 2^32)`) is unique, and defines equality, bytes and rounding.
//!
//! NaN and infinities are counted apart, so that removing one restores the sum.
//! Cost: 568 bytes, a few nanoseconds per term, 67 additions per merge.

#[cfg(test)]
mod tests;

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use thiserror::Error;

/// Limbs of the accumulator: 66 of 32 bits and a signed one on top.
const LIMBS: usize = 67;
const TOP: usize = LIMBS - 1;
/// Terms between two carry propagations; 2^32 * 2^29 leaves two bits to spare in an i64.
const MAX_PENDING: u64 = 1 << 29;
const FRACTION_MASK: u64 = (1 << 52) - 1;
/// The unit of the accumulator is 2^-UNIT.
const UNIT: i32 = 1074;
/// Length of [`ExactSum::to_bytes`].
const BYTES: usize = 4 * TOP + 8 + 3 * 8;

/// An exact sum of f64 values.
///
/// ```
/// use nystream_kernels::exact_sum::ExactSum;
/// let mut sum = ExactSum::new();
/// for x in [1e300, 1.0, -1e300, 2f64.powi(-60)] {
///     sum.add(x);
/// }
/// sum.remove(1.0);
/// assert_eq!(sum.round(), 2f64.powi(-60));
/// ```
#[derive(Clone)]
pub struct ExactSum {
    limbs: [i64; LIMBS],
    pending: u64,
    nans: i64,
    positive_infinities: i64,
    negative_infinities: i64,
}

/// Why bytes are not an [`ExactSum`].
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum ExactSumError {
    /// The canonical form has one length.
    #[error("an exact sum has {expected} bytes, found {found}")]
    Length {
        /// Bytes of the canonical form.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}

/// A finite f64 as `(-1)^sign magnitude 2^(position - UNIT)`; `sign` is 0 or -1.
#[derive(Clone, Copy)]
struct Parts {
    magnitude: u64,
    position: i32,
    sign: i64,
}

impl Parts {
    #[inline]
    fn of(x: f64) -> Self {
        let bits = x.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as i32;
        let normal = i32::from(exponent != 0);
        Parts {
            magnitude: bits & FRACTION_MASK | (normal as u64) << 52,
            position: exponent - normal,
            sign: (bits as i64) >> 63,
        }
    }
}

impl Default for ExactSum {
    fn default() -> Self {
        ExactSum { limbs: [0; LIMBS], pending: 0, nans: 0, positive_infinities: 0, negative_infinities: 0 }
    }
}

impl ExactSum {
    /// The empty sum, 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `x` exactly.
    #[inline]
    pub fn add(&mut self, x: f64) {
        if x.is_finite() {
            let p = Parts::of(x);
            self.deposit(p.magnitude, p.position as usize, p.sign);
        } else {
            self.count_special(x, 1);
        }
    }

    /// Takes `x` out again: the exact inverse of [`ExactSum::add`], also for NaN and infinities.
    #[inline]
    pub fn remove(&mut self, x: f64) {
        if x.is_finite() { self.add(-x) } else { self.count_special(x, -1) }
    }

    /// Adds the product `a b` of finite numbers.
    ///
    /// Exact whenever the last bit of the product is at or above 2^-1074; `|a|, |b| < 2^500` with `|a b| > 2^-960` is
    /// always so. Below that the bits under 2^-1074 are cut off, as a function of (a, b) alone: the sum stays free of order and
    /// invertible. A product that rounds to an infinity counts as that infinity.
    #[inline]
    pub fn add_product(&mut self, a: f64, b: f64) {
        let rounded = a * b;
        if !rounded.is_finite() {
            return self.count_special(rounded, 1);
        }
        let (p, q) = (Parts::of(a), Parts::of(b));
        let product = u128::from(p.magnitude) * u128::from(q.magnitude);
        self.deposit_wide(product, p.position + q.position - UNIT, p.sign ^ q.sign);
    }

    /// Adds `a b c`, for weighted squares w x x: exact under the rule of [`ExactSum::add_product`] for the whole
    /// product; infinite when `a b` or `a b c` rounds to an infinity.
    #[inline]
    pub fn add_product3(&mut self, a: f64, b: f64, c: f64) {
        let rounded = a * b * c;
        if !rounded.is_finite() {
            return self.count_special(rounded, 1);
        }
        let (p, q, r) = (Parts::of(a), Parts::of(b), Parts::of(c));
        let product = u128::from(p.magnitude) * u128::from(q.magnitude);
        let (high, low) = (product >> 53, product & ((1 << 53) - 1));
        let position = p.position + q.position + r.position - 2 * UNIT;
        let sign = p.sign ^ q.sign ^ r.sign;
        self.deposit_wide(high * u128::from(r.magnitude), position + 53, sign);
        self.deposit_wide(low * u128::from(r.magnitude), position, sign);
    }

    /// Adds another sum: the sum of the union of the terms.
    pub fn merge(&mut self, other: &ExactSum) {
        self.combine(other, 1);
    }

    /// Subtracts another sum: the exact inverse of [`ExactSum::merge`].
    pub fn subtract(&mut self, other: &ExactSum) {
        self.combine(other, -1);
    }

    /// The sum, rounded once to the nearest f64, ties to even. An empty or cancelled sum is +0.0; a sum beyond the
    /// range of f64 is an infinity; NaN and infinite terms act as in IEEE arithmetic.
    pub fn round(&self) -> f64 {
        if self.nans != 0 || (self.positive_infinities != 0 && self.negative_infinities != 0) {
            return f64::NAN;
        }
        if self.positive_infinities != 0 {
            return f64::INFINITY;
        }
        if self.negative_infinities != 0 {
            return f64::NEG_INFINITY;
        }
        let mut limbs = self.canonical_limbs();
        if limbs[TOP] >= 0 {
            return round_magnitude(&limbs);
        }
        for limb in &mut limbs {
            *limb = limb.wrapping_neg();
        }
        propagate(&mut limbs);
        -round_magnitude(&limbs)
    }

    /// Whether the sum is exactly zero and holds no NaN or infinity.
    pub fn is_zero(&self) -> bool {
        *self == ExactSum::default()
    }

    /// The canonical bytes: equal sums, however they were formed, have equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let limbs = self.canonical_limbs();
        let mut bytes = Vec::with_capacity(BYTES);
        for limb in &limbs[..TOP] {
            bytes.extend_from_slice(&(*limb as u32).to_le_bytes());
        }
        for word in [limbs[TOP], self.nans, self.positive_infinities, self.negative_infinities] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The sum with these canonical bytes.
    ///
    /// # Errors
    /// [`ExactSumError::Length`]; every string of the right length is a sum.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ExactSumError> {
        if bytes.len() != BYTES {
            return Err(ExactSumError::Length { expected: BYTES, found: bytes.len() });
        }
        let mut sum = ExactSum::default();
        let (low, high) = bytes.split_at(4 * TOP);
        for (limb, chunk) in sum.limbs.iter_mut().zip(low.chunks_exact(4)) {
            *limb = i64::from(u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
        }
        let word = |k: usize| {
            let mut buffer = [0u8; 8];
            buffer.copy_from_slice(&high[8 * k..8 * k + 8]);
            i64::from_le_bytes(buffer)
        };
        sum.limbs[TOP] = word(0);
        (sum.nans, sum.positive_infinities, sum.negative_infinities) = (word(1), word(2), word(3));
        Ok(sum)
    }

    /// Adds `(-1)^sign magnitude 2^(position - UNIT)`.
    #[inline]
    fn deposit(&mut self, magnitude: u64, position: usize, sign: i64) {
        let (index, shift) = (position / 32, position % 32);
        let wide = u128::from(magnitude) << shift;
        let parts = [i64::from(wide as u32), i64::from((wide >> 32) as u32), (wide >> 64) as i64];
        for (limb, part) in self.limbs[index..index + 3].iter_mut().zip(parts) {
            *limb = limb.wrapping_add((part ^ sign) - sign);
        }
        self.pending += 1;
        if self.pending >= MAX_PENDING {
            self.carry();
        }
    }

    #[inline]
    fn deposit_wide(&mut self, magnitude: u128, position: i32, sign: i64) {
        let (magnitude, position) = if position >= 0 {
            (magnitude, position as usize)
        } else {
            (magnitude.checked_shr(position.unsigned_abs()).unwrap_or(0), 0)
        };
        self.deposit(magnitude as u64, position, sign);
        self.deposit((magnitude >> 64) as u64, position + 64, sign);
    }

    #[cold]
    fn count_special(&mut self, x: f64, times: i64) {
        let counter = if x.is_nan() {
            &mut self.nans
        } else if x > 0.0 {
            &mut self.positive_infinities
        } else {
            &mut self.negative_infinities
        };
        *counter = counter.wrapping_add(times);
    }

    fn combine(&mut self, other: &ExactSum, sign: i64) {
        if self.pending + other.pending + 1 >= MAX_PENDING {
            self.carry();
        }
        for (limb, term) in self.limbs.iter_mut().zip(&other.limbs) {
            *limb = limb.wrapping_add(term.wrapping_mul(sign));
        }
        self.nans = self.nans.wrapping_add(sign.wrapping_mul(other.nans));
        self.positive_infinities = self.positive_infinities.wrapping_add(sign.wrapping_mul(other.positive_infinities));
        self.negative_infinities = self.negative_infinities.wrapping_add(sign.wrapping_mul(other.negative_infinities));
        self.pending += other.pending + 1;
        if self.pending >= MAX_PENDING {
            self.carry();
        }
    }

    fn carry(&mut self) {
        propagate(&mut self.limbs);
        self.pending = 0;
    }

    fn canonical_limbs(&self) -> [i64; LIMBS] {
        let mut limbs = self.limbs;
        propagate(&mut limbs);
        limbs
    }
}

fn propagate(limbs: &mut [i64; LIMBS]) {
    let mut carry = 0i64;
    for limb in &mut limbs[..TOP] {
        let value = *limb + carry;
        *limb = value & 0xffff_ffff;
        carry = value >> 32;
    }
    limbs[TOP] = limbs[TOP].wrapping_add(carry);
}

/// Rounds a canonical, non-negative accumulator.
fn round_magnitude(limbs: &[i64; LIMBS]) -> f64 {
    if limbs[TOP] != 0 {
        return f64::INFINITY;
    }
    let Some(leading) = limbs.iter().rposition(|&limb| limb != 0) else {
        return 0.0;
    };
    // Three limbs from the leading one downwards always hold the 53 bits and the rounding bit.
    let limb = |back: usize| if leading >= back { limbs[leading - back] as u128 } else { 0 };
    let window = limb(0) << 64 | limb(1) << 32 | limb(2);
    let sticky = leading > 2 && limbs[..leading - 2].iter().any(|&limb| limb != 0);
    let height_in_window = 127 - window.leading_zeros();
    let height = 32 * leading as u64 + u64::from(height_in_window) - 64;
    if height < 53 {
        // Multiples of 2^-1074 below 2^-1021 are their own bit patterns.
        return f64::from_bits(
            ((limb(0) << (32 * leading)) | if leading > 0 { limb(1) << (32 * (leading - 1)) } else { 0 }) as u64,
        );
    }
    let shift = height_in_window - 52;
    let fraction = (window >> shift) as u64;
    let (rest, half) = (window & ((1 << shift) - 1), 1u128 << (shift - 1));
    let up = rest > half || rest == half && (sticky || fraction & 1 == 1);
    // `fraction` includes the implicit bit, so a carry out of it moves the exponent by itself, up to the infinity.
    let bits = ((height - 52) << 52) + fraction + u64::from(up);
    f64::from_bits(bits.min(f64::INFINITY.to_bits()))
}

impl PartialEq for ExactSum {
    fn eq(&self, other: &Self) -> bool {
        self.canonical_limbs() == other.canonical_limbs()
            && self.nans == other.nans
            && self.positive_infinities == other.positive_infinities
            && self.negative_infinities == other.negative_infinities
    }
}

impl Eq for ExactSum {}

impl std::fmt::Debug for ExactSum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExactSum({:e})", self.round())
    }
}

impl Extend<f64> for ExactSum {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, terms: I) {
        for x in terms {
            self.add(x);
        }
    }
}

impl FromIterator<f64> for ExactSum {
    fn from_iter<I: IntoIterator<Item = f64>>(terms: I) -> Self {
        let mut sum = ExactSum::new();
        sum.extend(terms);
        sum
    }
}

impl Serialize for ExactSum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.to_bytes())
    }
}

impl<'de> Deserialize<'de> for ExactSum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = ExactSum;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{BYTES} bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<ExactSum, E> {
                ExactSum::from_bytes(bytes).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ExactSum, A::Error> {
                let mut bytes = Vec::with_capacity(BYTES);
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                ExactSum::from_bytes(&bytes).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
