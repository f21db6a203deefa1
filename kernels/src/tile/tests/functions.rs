//! The vector functions, swept against the standard library's.

use super::super::entry::{Real, Token};
use super::super::functions::{asin, exp2};
use super::super::lanes::{Path, Task};
use super::*;
use crate::checks::larger;

#[derive(Clone, Copy)]
enum Function {
    Exp2,
    Asin,
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
