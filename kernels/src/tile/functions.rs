//! Vector functions of one precision: base-2 exponential, arc sine, and the kernel families built on them.
//!
//! The bandwidth and log2(e) are folded into the packed coordinates, so families see
//! `a = -(c r)^2` with c = [`scale`]:
//!
//! | family | c | value |
//! |---|---|---|
//! | gaussian | sqrt(log2(e) / 2) / sigma | 2^a |
//! | laplace | log2(e) / sigma | 2^-s, s = sqrt(-a) |
//! | matern32 | sqrt(3) log2(e) / sigma | (1 + s ln 2) 2^-s |
//! | matern52 | sqrt(5) log2(e) / sigma | (1 + q + q^2 / 3) 2^-s, q = s ln 2 |
//! | cauchy | 1 / sigma | 1 / (1 - a) |
//! | wendland | 1 / sigma | (1 - s)^p (1 + (b + c s) s), s = min(sqrt(-a), 1) |
//!
//! Gradients need the slope h(a) = 2 dk/da ([`slope`]), with which the gradient in the scaled coordinates is -h (y - y_j):
//!
//! | family | h |
//! |---|---|
//! | gaussian | 2 ln 2 2^a |
//! | laplace | ln 2 2^-s / s, and 0 at s = 0, where there is no derivative |
//! | matern32 | (ln 2)^2 2^-s |
//! | matern52 | (ln 2)^2 / 3 (1 + q) 2^-s |
//! | cauchy | 2 / (1 - a)^2 |
//! | wendland | (1 - s)^(p - 1) (p (p + 1) - 2 c + (p + 2) c s): b = p in both functions, so that the odd power of s, which would be a cusp, cancels |
//! | polynomial | degree (x.z + offset)^(degree - 1), the derivative in x.z |
//!
//! None is a difference of two terms, so all have a small relative error.
//!
//! To add a radial family: a variant of [`Shape`], its scale, and its value in [`radial`] and its slope in [`slope`]; `docs/adding-a-kernel-family.md` goes through it.
//!
//! Errors, swept in the tests, relative to the value, in units of u = 2^-23 (f32) or 2^-52 (f64), over the normal range: [`exp2`] 1.5 u in f32 and 2 u in f64;
//! [`asin`] 3 u. Families and slopes, for an exact argument a: 3.5 u + 0.35 s u, the second part for what rounding the root s costs in 2^-s
//! (ln 2 / 2 of its unit; none for gaussian and cauchy). Wendland's functions and slopes: 4 u + p u (1 + s / (1 - s)), since 1 - s has the absolute error of s.
//! The f32 polynomial of 2^f on [-1/2, 1/2] is the minimax one of degree 5 (error 9.3e-8; one degree more would cost 7 % of the tile's rate at 10
//! features), the others interpolate at Chebyshev nodes (those of the arc sine in s^2 on [0, 1/4]). That of 2^f is tied to 1 at f = 0, so 2^0 = 1
//! exactly, and k(x, x) = 1 exactly.

use super::entry::Real;
use super::lanes::Lanes;
use crate::kernel::{Family, wendland};

/// A family with its parameters in the precision of the entries.
#[derive(Clone, Copy, Debug)]
pub enum Shape<T> {
    Gaussian,
    Laplace,
    Matern32,
    Matern52,
    Cauchy,
    Wendland { power: u32, first: T, second: T },
    Polynomial { degree: u32, offset: T },
    ArcCosine { depth: u32 },
    Ntk { depth: u32 },
}

impl<T: Real> Shape<T> {
    pub fn of(family: Family) -> Self {
        match family {
            Family::Gaussian => Shape::Gaussian,
            Family::Laplace | Family::Matern12 => Shape::Laplace,
            Family::Matern32 => Shape::Matern32,
            Family::Matern52 => Shape::Matern52,
            Family::Cauchy => Shape::Cauchy,
            Family::Wendland { smoothness, dimension } => {
                let (power, [first, second]) = wendland(smoothness, dimension);
                Shape::Wendland { power, first: T::from_f64(first), second: T::from_f64(second) }
            }
            Family::Polynomial { degree, offset } => Shape::Polynomial { degree, offset: T::from_f64(offset) },
            Family::ArcCosine { depth } => Shape::ArcCosine { depth },
            Family::Ntk { depth } => Shape::Ntk { depth },
        }
    }
}

/// The factor on coordinates that the family's formula expects.
pub fn scale(family: Family, bandwidth: f64) -> f64 {
    use std::f64::consts::LOG2_E;
    let numerator = match family {
        Family::Gaussian => (0.5 * LOG2_E).sqrt(),
        Family::Laplace | Family::Matern12 => LOG2_E,
        Family::Matern32 => 3f64.sqrt() * LOG2_E,
        Family::Matern52 => 5f64.sqrt() * LOG2_E,
        Family::Cauchy | Family::Wendland { .. } => 1.0,
        Family::Polynomial { .. } | Family::ArcCosine { .. } | Family::Ntk { .. } => 1.0,
    };
    numerator / bandwidth
}

/// 2^x for x <= 0 (or small positive x): exactly 1 at 0, exactly 0 at and below [`Real::EXP2_MIN`], and a denormal or 0 in the last binade above it.
#[inline(always)]
pub fn exp2<T: Real, P: Lanes<T>>(p: P, x: P::V) -> P::V {
    p.exp2(x)
}

/// [`exp2`] by plain arithmetic.
///
/// Adding the magic constant rounds x to the integer n, left in the low mantissa bits of the sum; the polynomial gives 2^(x - n), and n is added to its exponent.
/// At n = -bias the exponent field of 1.0 wraps to +0.
#[inline(always)]
pub fn exp2_by_rounding<T: Real, P: Lanes<T>>(p: P, x: P::V) -> P::V {
    let x = p.max(x, p.splat(T::EXP2_MIN));
    let magic = p.splat(T::ROUND);
    let t = p.add(x, magic);
    let f = p.sub(x, p.sub(t, magic));
    p.add_exponent(horner(p, T::EXP2, f), t)
}

/// `coefficients` in ascending order.
#[inline(always)]
pub fn horner<T: Real, P: Lanes<T>>(p: P, coefficients: &[T], x: P::V) -> P::V {
    let mut y = p.splat(coefficients[coefficients.len() - 1]);
    for &c in coefficients.iter().rev().skip(1) {
        y = p.mul_add(y, x, p.splat(c));
    }
    y
}

/// Arc sine on [-1, 1]: asin(a) = pi/2 - 2 asin(sqrt((1 - a) / 2)) above 1/2.
#[inline(always)]
pub fn asin<T: Real, P: Lanes<T>>(p: P, c: P::V) -> P::V {
    let (zero, half) = (p.splat(T::ZERO), p.splat(T::HALF));
    let a = p.max(c, p.sub(zero, c));
    let small = p.less(a, half);
    let z = p.select(small, p.mul(a, a), p.mul(p.sub(p.splat(T::ONE), a), half));
    let s = p.select(small, a, p.sqrt(z));
    let r = p.mul_add(p.mul(s, z), horner(p, T::ASIN, z), s);
    let r = p.select(small, r, p.neg_mul_add(p.splat(T::TWO), r, p.splat(T::HALF_PI)));
    p.select(p.less(c, zero), p.sub(zero, r), r)
}

/// A radial family at `a = -(c r)^2 <= 0`.
#[inline(always)]
pub fn radial<T: Real, P: Lanes<T>>(p: P, shape: Shape<T>, a: P::V) -> P::V {
    let (zero, one) = (p.splat(T::ZERO), p.splat(T::ONE));
    // 2^-s is 0 at -EXP2_MIN; capping s there keeps 0 times the polynomial factor from becoming 0 times infinity.
    macro_rules! root {
        ($a:expr) => {
            p.min(p.sqrt(p.sub(zero, $a)), p.splat(-T::EXP2_MIN))
        };
    }
    match shape {
        Shape::Gaussian => exp2(p, a),
        Shape::Laplace => exp2(p, p.sub(zero, root!(a))),
        Shape::Matern32 => {
            let s = root!(a);
            p.mul(p.mul_add(s, p.splat(T::LN_2), one), exp2(p, p.sub(zero, s)))
        }
        Shape::Matern52 => {
            let s = root!(a);
            let q = p.mul(s, p.splat(T::LN_2));
            let factor = p.mul_add(p.mul_add(q, p.splat(T::THIRD), one), q, one);
            p.mul(factor, exp2(p, p.sub(zero, s)))
        }
        Shape::Wendland { power: exponent, first, second } => {
            // At 1 and beyond, NaN included, the factor below is exactly 0.
            let s = p.min(p.sqrt(p.sub(zero, a)), one);
            let factor = p.mul_add(p.mul_add(s, p.splat(second), p.splat(first)), s, one);
            p.mul(power(p, p.sub(one, s), exponent), factor)
        }
        // The last three are no functions of the distance and do not come here.
        Shape::Cauchy | Shape::Polynomial { .. } | Shape::ArcCosine { .. } | Shape::Ntk { .. } => {
            p.div(one, p.sub(one, a))
        }
    }
}

/// Twice the derivative of [`radial`] in `a`; for a polynomial, that of [`of_inner`] in the inner product. Never negative for radial families.
#[inline(always)]
pub fn slope<T: Real, P: Lanes<T>>(p: P, shape: Shape<T>, a: P::V) -> P::V {
    let (zero, one) = (p.splat(T::ZERO), p.splat(T::ONE));
    let constant = |x: f64| p.splat(T::from_f64(x));
    // As in `radial`.
    let root = p.min(p.sqrt(p.sub(zero, a)), p.splat(-T::EXP2_MIN));
    let ln_2 = std::f64::consts::LN_2;
    match shape {
        Shape::Gaussian => p.mul(constant(2.0 * ln_2), exp2(p, a)),
        Shape::Laplace => {
            let h = p.div(p.mul(p.splat(T::LN_2), exp2(p, p.sub(zero, root))), root);
            p.select(p.less(zero, root), h, zero)
        }
        Shape::Matern32 => p.mul(constant(ln_2 * ln_2), exp2(p, p.sub(zero, root))),
        Shape::Matern52 => {
            let factor = p.mul_add(root, constant(ln_2 * ln_2 * ln_2 / 3.0), constant(ln_2 * ln_2 / 3.0));
            p.mul(factor, exp2(p, p.sub(zero, root)))
        }
        Shape::Wendland { power: exponent, second, .. } => {
            let s = p.min(p.sqrt(p.sub(zero, a)), one);
            let (n, c) = (f64::from(exponent), second.to_f64());
            let factor = p.mul_add(s, constant((n + 2.0) * c), constant(n * (n + 1.0) - 2.0 * c));
            p.mul(power(p, p.sub(one, s), exponent - 1), factor)
        }
        Shape::Polynomial { degree, offset } => {
            p.mul(constant(f64::from(degree)), power(p, p.add(a, p.splat(offset)), degree - 1))
        }
        // The last two have no slope and are refused before.
        Shape::Cauchy | Shape::ArcCosine { .. } | Shape::Ntk { .. } => {
            let q = p.div(one, p.sub(one, a));
            p.mul(p.splat(T::TWO), p.mul(q, q))
        }
    }
}

/// x^exponent by squaring.
#[inline(always)]
fn power<T: Real, P: Lanes<T>>(p: P, x: P::V, exponent: u32) -> P::V {
    let (mut square, mut power, mut left) = (x, p.splat(T::ONE), exponent);
    while left > 0 {
        if left & 1 == 1 {
            power = p.mul(power, square);
        }
        square = p.mul(square, square);
        left >>= 1;
    }
    power
}

/// A dot-product family at inner product `xz`, given the squared norms (all over sigma^2).
#[inline(always)]
pub fn of_inner<T: Real, P: Lanes<T>>(p: P, shape: Shape<T>, xz: P::V, xx: P::V, zz: P::V) -> P::V {
    match shape {
        Shape::Polynomial { degree, offset } => power(p, p.add(xz, p.splat(offset)), degree),
        Shape::ArcCosine { depth } => {
            let (norms, mut c) = cosine(p, xz, xx, zz);
            for _ in 0..depth {
                c = arc_cosine(p, c).1;
            }
            p.mul(norms, c)
        }
        Shape::Ntk { depth } => {
            let (norms, mut c) = cosine(p, xz, xx, zz);
            let mut tangent = c;
            for _ in 0..depth {
                let (k0, k1) = arc_cosine(p, c);
                tangent = p.mul_add(tangent, k0, k1);
                c = k1;
            }
            p.mul(norms, tangent)
        }
        _ => xz,
    }
}

/// |x||z| and the cosine of the angle (0 where a norm vanishes). The root of a square is exact, so x = z has cosine 1.
#[inline(always)]
fn cosine<T: Real, P: Lanes<T>>(p: P, xz: P::V, xx: P::V, zz: P::V) -> (P::V, P::V) {
    let (zero, one) = (p.splat(T::ZERO), p.splat(T::ONE));
    let norms = p.sqrt(p.mul(xx, zz));
    let c = p.max(p.min(p.div(xz, norms), one), p.sub(zero, one));
    (norms, p.select(p.less(zero, norms), c, zero))
}

/// Arc-cosine functions of order 0 and 1 on unit vectors (Cho and Saul, NIPS 2009), with pi - acos c = pi/2 + asin c.
#[inline(always)]
fn arc_cosine<T: Real, P: Lanes<T>>(p: P, c: P::V) -> (P::V, P::V) {
    let one = p.splat(T::ONE);
    let c = p.max(p.min(c, one), p.splat(-T::ONE));
    let k0 = p.mul_add(asin(p, c), p.splat(T::INVERSE_PI), p.splat(T::HALF));
    let sine = p.sqrt(p.mul(p.sub(one, c), p.add(one, c)));
    (k0, p.mul_add(sine, p.splat(T::INVERSE_PI), p.mul(c, k0)))
}
