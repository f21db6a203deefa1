//! What unsafe code rests on: every operation of every path against its definition, and wrong lengths, which must panic and touch nothing.

use super::super::entry::{Real, Token};
use super::super::lanes::{Lanes, Path, Task};
use super::super::products::{Direction, Dot, Entries, Many, PackColumns, Scatter};
use super::super::tasks::Columns;
use super::*;
use crate::constants::WIDE_CHUNK;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Every operation on vectors made of the inputs in order: name and lanes.
struct Operations<'a, T>(&'a [[T; 3]]);

macro_rules! check_operations {
    ($name:ident, $t:ty) => {
        impl Task<$t> for Operations<'_, $t> {
            type Output = Vec<(&'static str, usize, $t)>;
            fn run<P: Path<$t>, const R: usize, const C: usize>(self, p: P) -> Self::Output {
                let mut out = Vec::new();
                for (at, inputs) in self.0.chunks_exact(P::N).enumerate() {
                    let vector = |k: usize| {
                        let values: Vec<$t> = inputs.iter().map(|i| i[k]).collect();
                        p.load(&P::arrays(&values)[0])
                    };
                    let (a, b, c) = (vector(0), vector(1), vector(2));
                    let choose = |m| p.select(m, p.splat(1.0), p.splat(0.0));
                    let exponents = p.add(p.splat(<$t>::ROUND), p.splat(3.0));
                    for (name, v) in [
                        ("load", a),
                        ("add", p.add(a, b)),
                        ("sub", p.sub(a, b)),
                        ("mul", p.mul(a, b)),
                        ("div", p.div(a, b)),
                        ("max", p.max(a, b)),
                        ("min", p.min(a, b)),
                        ("sqrt", p.sqrt(a)),
                        ("mul_add", p.mul_add(a, b, c)),
                        ("mul_sub", p.mul_sub(a, b, c)),
                        ("neg_mul_add", p.neg_mul_add(a, b, c)),
                        ("less", choose(p.less(a, b))),
                        ("equal", choose(p.equal(a, b))),
                        ("not_negative", choose(p.not_negative(a))),
                        ("select", p.select(p.less(a, b), c, a)),
                        ("add_exponent", p.add_exponent(c, exponents)),
                    ] {
                        let mut lanes = vec![0.0; P::N];
                        p.store(&mut P::arrays_mut(&mut lanes)[0], v);
                        out.extend(lanes.iter().enumerate().map(|(i, &x)| (name, at * P::N + i, x)));
                    }
                    let mut widened = vec![0.0f64; P::N];
                    let parts = <P::Wide as Lanes<f64>>::arrays_mut(&mut widened);
                    for (part, to) in parts.iter_mut().enumerate() {
                        p.wide().store(to, p.widen(a, part));
                    }
                    out.extend(widened.iter().enumerate().map(|(i, &x)| ("widen", at * P::N + i, x as $t)));
                    for (i, &[x, y, z]) in inputs.iter().enumerate() {
                        out.push(("scalar_mul_add", at * P::N + i, p.scalar_mul_add(x, y, z)));
                        // One lane at a time among ones; NaN as an invalid operation makes it.
                        let mut lanes = vec![1.0; P::N];
                        lanes[i] = if x.is_nan() { -1.0 } else { x };
                        let mut v = p.load(&P::arrays(&lanes)[0]);
                        if x.is_nan() {
                            v = p.sqrt(v);
                        }
                        let flags = p.flag(p.flag(p.no_flags(), p.splat(1.0)), v);
                        out.push(("flag", at * P::N + i, <$t>::from(u8::from(p.any_flag(flags)))));
                    }
                }
                out
            }
        }

        #[test]
        fn $name() {
            let special = [0.0, -0.0, 1.0, -1.5, 3.7e4, -2.0e-3, <$t>::INFINITY, <$t>::NEG_INFINITY, <$t>::NAN];
            let special = special.into_iter().chain([<$t>::MIN_POSITIVE, 0.1, <$t>::EPSILON, 1.0 + <$t>::EPSILON]);
            let special: Vec<$t> = special.collect();
            let mut inputs = Vec::new();
            for &a in &special {
                for &b in &special {
                    // A normal number for the exponent.
                    inputs.extend([1.25, -0.3, 1.0 - <$t>::EPSILON].map(|c| [a, b, c]));
                }
            }
            inputs.resize(inputs.len().next_multiple_of(16), [1.0; 3]);
            for simd in SimdPath::available() {
                let fused = |a: $t, b: $t, c: $t| if simd == SimdPath::Portable { a * b + c } else { a.mul_add(b, c) };
                let mut seen = 0;
                for (name, at, got) in <$t>::dispatch(Token::of(simd).unwrap(), Operations(&inputs)) {
                    let [a, b, c] = inputs[at];
                    let truth = |t: bool| if t { 1.0 } else { 0.0 };
                    let expected = match name {
                        "load" | "widen" => a,
                        "add" => a + b,
                        "sub" => a - b,
                        "mul" => a * b,
                        "div" => a / b,
                        "max" => {
                            if a > b {
                                a
                            } else {
                                b
                            }
                        }
                        "min" => {
                            if a < b {
                                a
                            } else {
                                b
                            }
                        }
                        "sqrt" => a.sqrt(),
                        "mul_add" | "scalar_mul_add" => fused(a, b, c),
                        "mul_sub" => fused(a, b, -c),
                        "neg_mul_add" => fused(-a, b, c),
                        "less" => truth(a < b),
                        "equal" => truth(a == b),
                        "not_negative" => truth(a >= 0.0),
                        "select" => {
                            if a < b {
                                c
                            } else {
                                a
                            }
                        }
                        "add_exponent" => c * 8.0,
                        // Minus zero may be marked or not.
                        "flag" => {
                            if a == 0.0 {
                                got
                            } else {
                                truth(a < 0.0 || a.is_nan())
                            }
                        }
                        other => panic!("no definition of {other}"),
                    };
                    let same = expected.to_bits() == got.to_bits() || expected.is_nan() && got.is_nan();
                    assert!(same, "{simd} {name} of {a:e} {b:e} {c:e}: {got:e}, not {expected:e}");
                    seen += 1;
                }
                assert_eq!(seen, 19 * inputs.len(), "{simd}");
            }
        }
    };
}

check_operations!(f32_operations_are_their_definitions, f32);
check_operations!(f64_operations_are_their_definitions, f64);

fn panics(what: &str, f: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(f)).is_err(), "{what} was not refused");
}

/// Each task with one buffer too short by one, inside the engine, where nothing has checked the lengths before.
fn check_short_buffers<T: Entry + std::fmt::Debug>() {
    let (n, m) = (13, 70);
    let (x, z) = (random_rows("x", n, 5, 1), random_rows("z", m, 5, 1));
    for simd in SimdPath::available() {
        let tiles = Tiles::<T>::new(&Kernel::new(Family::Gaussian, 2.0), z.view(), &[], simd).unwrap();
        let (token, stride) = (tiles.token, tiles.stride());
        let mut scratch = TileScratch::<T>::new();
        let packed = tiles.pack(x.view(), &mut scratch.rows).to_vec();
        let mut k = vec![T::ONE; n * stride];
        let short = n * stride - 1;
        panics("fill, out", || T::dispatch(token, tiles.fill_task(&packed, n, m, &mut k[..short])));
        let entries = |k| Entries { k, stride, centers: m };
        let (mut out, mut long) = (vec![0.0; n], vec![0.0; stride]);
        let v = vec![1.0; stride];
        panics("dot, v", || T::dispatch(token, Dot { entries: entries(&k), v: &v[1..], out: &mut out }));
        panics("dot, k", || T::dispatch(token, Dot { entries: entries(&k[1..]), v: &v, out: &mut out }));
        let acc = &mut long[1..];
        panics("scatter, acc", || T::dispatch(token, Scatter { entries: entries(&k), u: &out, acc }));
        panics("scatter, k", || {
            T::dispatch(token, Scatter { entries: entries(&k[1..]), u: &out, acc: &mut long });
        });
        let t = T::dispatch(token, Columns(3));
        let (mut packed_v, block) = (vec![0.0; m * t], vec![1.0; m * 3]);
        let to = &mut packed_v[1..];
        panics("columns, out", || T::dispatch(token, PackColumns { v: &block, columns: 3, out: to }));
        let (mut sums, mut wide, u) = (vec![0.0; m * t], vec![0.0; n * WIDE_CHUNK], vec![1.0; n * t]);
        for (what, v, out, w, forward) in [
            ("many forward, v", m * t - 1, n * t, n * WIDE_CHUNK, true),
            ("many forward, out", m * t, n * t - 1, n * WIDE_CHUNK, true),
            ("many forward, wide", m * t, n * t, n * WIDE_CHUNK - 1, true),
            ("many transposed, u", n * t - 1, m * t, n * WIDE_CHUNK, false),
            ("many transposed, out", n * t, m * t - 1, n * WIDE_CHUNK, false),
        ] {
            let (from, direction) = if forward { (&packed_v, Direction::Forward) } else { (&u, Direction::Transposed) };
            let (v, out, wide) = (&from[..v], &mut sums[..out], &mut wide[..w]);
            let task = Many { entries: entries(&k), direction, rows: n, columns: 3, v, out, wide };
            panics(what, || T::dispatch(token, task));
        }
    }
}

#[test]
fn short_buffers_panic() {
    check_short_buffers::<f32>();
    check_short_buffers::<f64>();
}
