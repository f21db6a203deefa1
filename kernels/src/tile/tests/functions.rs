//! The vector functions, swept against the standard library's.

use super::super::entry::{Real, Token};
use super::super::functions::{Shape, asin, exp2, radial, scale, slope};
use super::super::lanes::{Path, Task};
use super::*;
use crate::checks::larger;
use crate::kernel::wendland;

#[derive(Clone, Copy, Debug)]
enum Function {
    Exp2,
    Asin,
    Family(Family),
    Slope(Family),
}

struct Apply<'a, T>(Function, &'a [T]);

impl<T: Real> Task<T> for Apply<'_, T> {
    type Output = Vec<T>;
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) -> Vec<T> {
        let mut out = self.1.to_vec();
        out.resize(self.1.len().next_multiple_of(P::N), T::ZERO);
        for values in P::arrays_mut(&mut out) {
            let x = p.load(values);
            let y = match self.0 {
                Function::Exp2 => exp2(p, x),
                Function::Asin => asin(p, x),
                Function::Family(family) => radial(p, Shape::of(family), x),
                Function::Slope(family) => slope(p, Shape::of(family), x),
            };
            p.store(values, y);
        }
        out.truncate(self.1.len());
        out
    }
}

fn apply<T: Real>(simd: SimdPath, function: Function, x: &[T]) -> Vec<T> {
    T::dispatch(Token::of(simd).unwrap(), Apply(function, x))
}

/// `count` points from `a` to `b`, both included.
fn grid(a: f64, b: f64, count: usize) -> impl Iterator<Item = f64> {
    (0..=count).map(move |i| a + (b - a) * (i as f64 / count as f64))
}

#[test]
fn exponential_is_accurate() {
    for simd in SimdPath::available() {
        let x: Vec<f32> = grid(-126.0, 0.0, 200_003).chain(grid(-1e-3, 0.0, 1000)).map(|x| x as f32).collect();
        let worst = apply(simd, Function::Exp2, &x).iter().zip(&x).fold(0f64, |worst, (&y, &x)| {
            let exact = f64::from(x).exp2();
            larger(worst, (f64::from(y) - exact).abs() / (exact * f64::from(f32::EPSILON)))
        });
        assert!(worst < 1.5, "{simd}: f32 error {worst} 2^-23");
        let x: Vec<f64> = grid(-1022.0, 0.0, 200_003).chain(grid(-1e-3, 0.0, 1000)).collect();
        let worst = apply(simd, Function::Exp2, &x).iter().zip(&x).fold(0f64, |worst, (&y, &x)| {
            let exact = x.exp2();
            larger(worst, (y - exact).abs() / (exact * f64::EPSILON))
        });
        assert!(worst < 2.0, "{simd}: f64 error {worst} 2^-52");
    }
}

#[test]
fn exponential_ends_exactly() {
    for simd in SimdPath::available() {
        let x = [0.0f32, -0.0, -127.0, -1000.0, -3e38, f32::NEG_INFINITY, f32::NAN];
        assert_eq!(apply(simd, Function::Exp2, &x), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let x = [0.0f64, -0.0, -1023.0, -5000.0, -1e308, f64::NEG_INFINITY, f64::NAN];
        assert_eq!(apply(simd, Function::Exp2, &x), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let last: Vec<f32> = grid(-127.0, -126.0, 1000).map(|x| x as f32).collect();
        assert!(apply(simd, Function::Exp2, &last).iter().all(|y| (0.0..=f32::MIN_POSITIVE).contains(y)));
        let last: Vec<f64> = grid(-1023.0, -1022.0, 1000).collect();
        assert!(apply(simd, Function::Exp2, &last).iter().all(|y| (0.0..=f64::MIN_POSITIVE).contains(y)));
    }
}

#[test]
fn arc_sine_is_accurate() {
    for simd in SimdPath::available() {
        let x: Vec<f32> = grid(-1.0, 1.0, 100_001).chain(grid(0.999, 1.0, 1000)).map(|x| x as f32).collect();
        let worst = apply(simd, Function::Asin, &x).iter().zip(&x).fold(0f64, |worst, (&y, &x)| {
            let exact = f64::from(x).asin();
            larger(worst, (f64::from(y) - exact).abs() / (exact.abs().max(1e-30) * f64::from(f32::EPSILON)))
        });
        assert!(worst < 3.0, "{simd}: f32 error {worst} 2^-23");
        let x: Vec<f64> = grid(-1.0, 1.0, 100_001).chain(grid(0.999, 1.0, 1000)).collect();
        let worst = apply(simd, Function::Asin, &x).iter().zip(&x).fold(0f64, |worst, (&y, &x)| {
            let exact = x.asin();
            larger(worst, (y - exact).abs() / (exact.abs().max(1e-300) * f64::EPSILON))
        });
        assert!(worst < 3.0, "{simd}: f64 error {worst} 2^-52");
    }
}

/// Every radial family and its slope at arguments that are exact, against the definition in f64; the bounds are those of the module docs of `functions.rs`.
#[test]
fn families_and_slopes_are_accurate() {
    for family in FAMILIES.into_iter().filter(Family::is_radial) {
        let most = match family {
            Family::Gaussian => 120.0,
            Family::Wendland { .. } => 1.0,
            Family::Cauchy => 1e12,
            _ => 110.0 * 110.0,
        };
        // Evenly, and by the logarithm down to where values are 1.
        let points = grid(0.0, most, 40_001).chain(grid(-40.0, most.log2(), 40_001).map(|e| e.exp2().min(most)));
        let a: Vec<f32> = points.map(|a| -a as f32).collect();
        let wide: Vec<f64> = a.iter().map(|&a| f64::from(a)).collect();
        for simd in SimdPath::available() {
            for of_slope in [false, true] {
                let function = if of_slope { Function::Slope(family) } else { Function::Family(family) };
                let narrow = apply(simd, function, &a);
                let doubles = apply(simd, function, &wide);
                for (at, &a) in wide.iter().enumerate() {
                    let c = scale(family, 1.0);
                    let exact = if of_slope { -2.0 * family.slope(-a, c) } else { family.of_squared_distance(-a, c) };
                    let s = (-a).sqrt();
                    let units = match family {
                        Family::Gaussian | Family::Cauchy => 3.5,
                        Family::Wendland { smoothness, dimension } if s < 1.0 => {
                            4.0 + f64::from(wendland(smoothness, dimension).0) * (1.0 + s / (1.0 - s))
                        }
                        _ => 3.5 + 0.35 * s,
                    };
                    let error = (f64::from(narrow[at]) - exact).abs() / f64::from(f32::EPSILON);
                    // Powers of 1 - s end in denormal numbers, before the factor beside them.
                    let end = 1e3 * f64::from(f32::MIN_POSITIVE);
                    assert!(
                        error <= units * exact + end,
                        "{simd} {function:?} f32 at {a:e}: {:e} for {exact:e}",
                        narrow[at]
                    );
                    // The definition's own rounding beside it: of the exponent, one unit each in its argument and its value.
                    let error = (doubles[at] - exact).abs() / f64::EPSILON;
                    let own = 3.0 + 1.5 * a.abs().min(s + if family == Family::Gaussian { a.abs() } else { 0.0 });
                    let own = if family == Family::Cauchy { 3.0 } else { own };
                    assert!(
                        error <= (units + own) * exact + 1e-300,
                        "{simd} {function:?} f64 at {a:e}: {:e} for {exact:e}",
                        doubles[at]
                    );
                }
            }
        }
    }
}
