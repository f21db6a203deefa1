//! Exactness against bit arrays, and the group laws.

use super::*;
use nystream_hashing::{RowId, StreamKey};
use proptest::prelude::*;

/// The slow, obvious reference: bit arrays in units of 2^-3300, one for each sign.
struct Reference {
    positive: Vec<bool>,
    negative: Vec<bool>,
}

const REFERENCE_UNIT: i32 = 3300;

fn add_bit(bits: &mut [bool], mut at: usize) {
    while bits[at] {
        bits[at] = false;
        at += 1;
    }
    bits[at] = true;
}

/// (negative, magnitude, exponent of the last bit), by arithmetic instead of bit fields.
fn split(x: f64) -> (bool, u64, i32) {
    assert!(x.is_finite());
    let (mut m, mut e) = (x.abs(), 0);
    while m != m.trunc() || m >= 2f64.powi(53) {
        if m >= 2f64.powi(53) {
            m /= 2.0;
            e += 1;
        } else {
            m *= 2.0;
            e -= 1;
        }
    }
    (x.is_sign_negative(), m as u64, e)
}

impl Reference {
    fn new() -> Self {
        Reference { positive: vec![false; 6000], negative: vec![false; 6000] }
    }

    fn add_product(&mut self, factors: &[f64]) {
        let mut exponent = 0;
        let mut bits = vec![true];
        let mut negative = false;
        for &x in factors {
            let (s, m, e) = split(x);
            negative ^= s;
            exponent += e;
            let mut product = vec![false; bits.len() + 66];
            for (i, _) in bits.iter().enumerate().filter(|(_, b)| **b) {
                for j in (0..64).filter(|j| m >> j & 1 == 1) {
                    add_bit(&mut product, i + j);
                }
            }
            bits = product;
        }
        let side = if negative { &mut self.negative } else { &mut self.positive };
        for (i, _) in bits.iter().enumerate().filter(|(_, b)| **b) {
            add_bit(side, (i as i32 + exponent + REFERENCE_UNIT) as usize);
        }
    }

    fn round(&self) -> f64 {
        let compare = self.positive.iter().rev().cmp(self.negative.iter().rev());
        let (sign, large, small) = if compare.is_ge() {
            (1.0, &self.positive, &self.negative)
        } else {
            (-1.0, &self.negative, &self.positive)
        };
        let mut borrow = false;
        let difference: Vec<bool> = large
            .iter()
            .zip(small)
            .map(|(&a, &b)| {
                let d = i8::from(a) - i8::from(b) - i8::from(borrow);
                borrow = d < 0;
                d.rem_euclid(2) == 1
            })
            .collect();
        let Some(top) = difference.iter().rposition(|&b| b) else { return 0.0 };
        // The last bit kept: 52 below the leading one, but never below 2^-1074.
        let last = (top as i32 - 52).max(REFERENCE_UNIT - 1074) as usize;
        let mut kept = difference[last..].iter().rev().fold(0u64, |m, &b| 2 * m + u64::from(b));
        let below = &difference[..last];
        let half = below.last() == Some(&true);
        let rest = below[..below.len() - 1].iter().any(|&b| b);
        if half && (rest || kept % 2 == 1) {
            kept += 1;
        }
        let exponent = last as i32 - REFERENCE_UNIT;
        // Two exact multiplications reach the subnormals and overflow to the infinity.
        let first = exponent.clamp(-1000, 900);
        sign * kept as f64 * 2f64.powi(first) * 2f64.powi(exponent - first)
    }
}

fn hashed(count: usize, seed: u64, exponents: i32) -> Vec<f64> {
    let key = StreamKey::new(seed, "exact-sum", 0);
    (0..count)
        .map(|i| {
            let w = key.words(RowId(i as u128));
            let fraction = 1.0 + f64::from(w[0]) / 2f64.powi(32) + f64::from(w[1]) / 2f64.powi(52);
            let exponent = if exponents == 0 { 0 } else { (w[2] as i32).rem_euclid(2 * exponents) - exponents };
            let exponent = exponent.min(1023);
            let value = fraction * 2f64.powi(exponent / 2) * 2f64.powi(exponent - exponent / 2);
            if w[3].is_multiple_of(2) { value } else { -value }
        })
        .collect()
}

#[test]
fn sums_match_the_bitwise_reference() {
    for (seed, exponents) in [(1, 0), (2, 3), (3, 60), (4, 400), (5, 1022), (6, 1074)] {
        for count in [0, 1, 2, 3, 10, 200] {
            let terms = hashed(count, seed, exponents);
            let mut reference = Reference::new();
            terms.iter().for_each(|&x| reference.add_product(&[x]));
            let sum: ExactSum = terms.iter().copied().collect();
            assert_eq!(sum.round().to_bits(), reference.round().to_bits(), "seed {seed}, {count} terms");
        }
    }
}

#[test]
fn products_match_the_bitwise_reference() {
    for (seed, exponents) in [(1, 0), (2, 50), (3, 240)] {
        let (a, b) = (hashed(60, seed, exponents), hashed(60, seed + 10, exponents));
        let (mut pairs, mut triples) = (Reference::new(), Reference::new());
        let (mut pair_sum, mut triple_sum) = (ExactSum::new(), ExactSum::new());
        for (&x, &y) in a.iter().zip(&b) {
            pairs.add_product(&[x, y]);
            pair_sum.add_product(x, y);
            triples.add_product(&[x, y, y]);
            triple_sum.add_product3(x, y, y);
        }
        assert_eq!(pair_sum.round().to_bits(), pairs.round().to_bits());
        assert_eq!(triple_sum.round().to_bits(), triples.round().to_bits());
    }
}

#[test]
fn rounding_is_to_nearest_even_at_every_edge() {
    let one_ulp = f64::EPSILON;
    let sum = |terms: &[f64]| terms.iter().copied().collect::<ExactSum>().round();
    assert_eq!(sum(&[1.0, one_ulp / 2.0]), 1.0);
    assert_eq!(sum(&[1.0 + one_ulp, one_ulp / 2.0]), 1.0 + 2.0 * one_ulp);
    assert_eq!(sum(&[1.0, one_ulp / 2.0, f64::from_bits(1)]), 1.0 + one_ulp);
    assert_eq!(sum(&[-1.0, -one_ulp / 2.0, -f64::from_bits(1)]), -1.0 - one_ulp);
    assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
    assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX]), f64::MAX);
    assert_eq!(sum(&[-f64::MAX, -f64::MAX]), f64::NEG_INFINITY);
    assert_eq!(sum(&[f64::MIN_POSITIVE, -f64::from_bits(1)]), f64::from_bits((1 << 52) - 1));
    assert_eq!(sum(&[f64::from_bits(1); 5]), f64::from_bits(5));
    assert_eq!(sum(&[-0.0, -0.0]).to_bits(), 0);
    // The halfway case above MAX rounds to the infinity, anything below it to MAX.
    assert_eq!(sum(&[f64::MAX, 2f64.powi(970)]), f64::INFINITY);
    assert_eq!(sum(&[f64::MAX, 2f64.powi(970), -1.0]), f64::MAX);
}

#[test]
fn non_finite_terms_act_as_in_ieee_and_can_be_removed() {
    let mut sum: ExactSum = [1.0, f64::INFINITY].into_iter().collect();
    assert_eq!(sum.round(), f64::INFINITY);
    sum.add(f64::NEG_INFINITY);
    assert!(sum.round().is_nan());
    sum.remove(f64::INFINITY);
    assert_eq!(sum.round(), f64::NEG_INFINITY);
    sum.remove(f64::NEG_INFINITY);
    sum.add_product(1e200, -1e200);
    assert_eq!(sum.round(), f64::NEG_INFINITY);
    sum.remove(f64::NEG_INFINITY);
    sum.add_product3(1e-300, f64::NAN, 0.0);
    assert!(sum.round().is_nan());
    sum.remove(f64::NAN);
    assert_eq!(sum, [1.0].into_iter().collect());
}

#[test]
fn products_below_the_unit_are_cut_off_and_stay_invertible() {
    let mut sum = ExactSum::new();
    sum.add_product(1.5 * 2f64.powi(-537), 2f64.powi(-537));
    assert_eq!(sum.round(), f64::from_bits(1));
    sum.add_product(-1.5 * 2f64.powi(-537), 2f64.powi(-537));
    assert!(sum.is_zero());
    sum.add_product3(1e-300, 1e-300, 1e-300);
    assert!(sum.is_zero());
}

#[test]
fn carries_are_lazy_but_never_late() {
    // 64 doublings by merge reach 2^64 terms, far past the pending limit.
    for term in [f64::MAX, -f64::MAX, 1.0 - f64::EPSILON, -f64::from_bits(3)] {
        let mut sum: ExactSum = [term].into_iter().collect();
        for _ in 0..64 {
            let copy = sum.clone();
            sum.merge(&copy);
        }
        let expected = term * 2f64.powi(64);
        assert_eq!(sum.round(), expected);
        for _ in 0..64 {
            // Halve again: subtract the half, which is the sum of 2^k copies.
            let half: ExactSum = ExactSum::from_bytes(&sum.to_bytes()).unwrap();
            sum.subtract(&half);
            assert!(sum.is_zero());
            sum.merge(&half);
        }
    }
    let mut near = ExactSum::new();
    near.pending = MAX_PENDING - 1;
    near.limbs[3] = (1 << 32) * (MAX_PENDING as i64);
    let before = near.round();
    near.add(0.0);
    assert_eq!((near.pending, near.round()), (0, before));
}

#[test]
fn bytes_of_another_length_are_refused() {
    assert_eq!(ExactSum::from_bytes(&[0; 3]), Err(ExactSumError::Length { expected: BYTES, found: 3 }));
    assert_eq!(ExactSum::from_bytes(&[0; BYTES]).unwrap(), ExactSum::new());
    assert!(std::mem::size_of::<ExactSum>() <= 600);
}

proptest! {
    #[test]
    fn order_and_split_change_nothing(
        terms in prop::collection::vec(any::<f64>(), 0..60),
        order in any::<u64>(),
        cut in 0usize..60,
    ) {
        let whole: ExactSum = terms.iter().copied().collect();
        let key = StreamKey::new(order, "order", 0);
        let mut indices: Vec<usize> = (0..terms.len()).collect();
        indices.sort_by_key(|&i| key.u64(RowId(i as u128)));
        let cut = cut.min(terms.len());
        let mut left: ExactSum = indices[..cut].iter().map(|&i| terms[i]).collect();
        let right: ExactSum = indices[cut..].iter().map(|&i| terms[i]).collect();
        let left_bytes = left.to_bytes();
        left.merge(&right);
        prop_assert_eq!(left.to_bytes(), whole.to_bytes());
        prop_assert_eq!(ExactSum::from_bytes(&left.to_bytes()).unwrap(), whole.clone());
        prop_assert_eq!(left.round().to_bits(), whole.round().to_bits());
        left.subtract(&right);
        prop_assert_eq!(left.to_bytes(), left_bytes);
        indices[..cut].iter().for_each(|&i| left.remove(terms[i]));
        prop_assert!(left.is_zero());
    }
}
