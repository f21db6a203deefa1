//! How far the kernel must be from 0: the radius beyond which entries are at most the cutoff, and bounds of entries further out.
//!
//! All in the scaled squared distance a = (c r)^2 of `functions.rs`. [`Decay::bound`] is k at the lower end of one of 128 intervals an octave: never below k, and above
//! it by less than 2^(a / 128) for a gaussian. Relative errors of 1e-12 in distance and kernel are counted in; what underflows is taken for the
//! smallest normal number, but for kernels of compact support, which are exactly 0.

use super::super::functions::scale;
use crate::kernel::Family;

/// Values of `f64` share an interval when they agree in these leading bits: 128 intervals an octave.
const SHIFT: u32 = 52 - 7;
/// Octaves of a from the radius on; the last interval has no end.
const OCTAVES: usize = 8;
const SLACK: f64 = 1e-12;

#[derive(Clone, Debug)]
pub struct Decay {
    /// Above this squared distance entries are at most the cutoff.
    pub radius: f64,
    first: u64,
    bounds: Vec<f64>,
}

/// At least k(a), for a >= 0.
fn above(family: Family, a: f64) -> f64 {
    let k = family.of_squared_distance((1.0 - SLACK) * a, scale(family, 1.0)) * (1.0 + SLACK);
    if family.is_compact() { k } else { k.max(f64::MIN_POSITIVE) }
}

impl Decay {
    pub fn new(family: Family, cutoff: f64) -> Self {
        Self::over(family, cutoff, OCTAVES)
    }

    /// Over so many octaves.
    pub fn over(family: Family, cutoff: f64, octaves: usize) -> Self {
        let radius = radius(family, cutoff);
        if radius == f64::INFINITY {
            return Decay { radius, first: 0, bounds: vec![1.0] };
        }
        let first = radius.to_bits() >> SHIFT;
        let lower_end = |i: u64| f64::from_bits((first + i) << SHIFT);
        let bounds = (0..(octaves as u64) << 7).map(|i| above(family, lower_end(i)).min(cutoff)).collect();
        Decay { radius, first, bounds }
    }

    /// Bytes of the intervals.
    pub fn memory_bytes() -> usize {
        Self::memory_bytes_over(OCTAVES)
    }

    /// Bytes of those of so many octaves.
    pub fn memory_bytes_over(octaves: usize) -> usize {
        (octaves << 7) * size_of::<f64>()
    }

    /// At least every entry at the squared distance `a` or more, for `a` above the radius; at most the cutoff.
    #[inline(always)]
    pub fn bound(&self, a: f64) -> f64 {
        let interval = (a.to_bits() >> SHIFT).saturating_sub(self.first) as usize;
        self.bounds[interval.min(self.bounds.len() - 1)]
    }
}

/// The least number found by bisection from which on k is at most `cutoff`; infinite where k is above it for all that f64 can hold.
fn radius(family: Family, cutoff: f64) -> f64 {
    let (mut low, mut high) = (0u64, 1e300f64.to_bits());
    if above(family, f64::from_bits(high)) > cutoff {
        return f64::INFINITY;
    }
    // Positive numbers are ordered as their bits are.
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if above(family, f64::from_bits(middle)) > cutoff { low = middle } else { high = middle }
    }
    f64::from_bits(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_bounds_and_not_far_off() {
        use Family::*;
        let compact = [Wendland { smoothness: 2, dimension: 3 }, Wendland { smoothness: 4, dimension: 9 }];
        for family in [Gaussian, Laplace, Matern32, Matern52, Cauchy].into_iter().chain(compact) {
            for cutoff in [0.9, 1e-3, 1e-9, 1e-30] {
                let decay = Decay::new(family, cutoff);
                let exact = |a: f64| family.of_squared_distance(a, scale(family, 1.0));
                assert!(exact(decay.radius) <= cutoff, "{family:?} {cutoff}");
                assert!(exact(decay.radius * (1.0 - 1e-9)) >= cutoff * (1.0 - 1e-6), "{family:?} {cutoff}");
                for i in 1..3000 {
                    let a = decay.radius * 1.003f64.powi(i);
                    let bound = decay.bound(a);
                    assert!(bound >= exact(a) && bound <= cutoff, "{family:?} {cutoff} at {a}: {bound}");
                    if i < 1000 {
                        assert!(bound <= exact(a / 1.008) * 1.001 + 1e-300, "{family:?} {cutoff} at {a}: {bound}");
                    }
                }
                assert!(decay.bound(f64::INFINITY) >= 0.0);
            }
        }
    }

    #[test]
    fn nothing_is_zero_but_beyond_a_support() {
        for family in [Family::Gaussian, Family::Laplace, Family::Matern52, Family::Cauchy] {
            assert_eq!(Decay::new(family, 0.0).radius, f64::INFINITY);
        }
        let compact = Decay::new(Family::Wendland { smoothness: 2, dimension: 3 }, 0.0);
        assert!((compact.radius - 1.0).abs() < 1e-11 && compact.bound(1.01) == 0.0 && compact.bound(1e300) == 0.0);
        assert!(compact.bound(f64::INFINITY) == 0.0);
    }
}
