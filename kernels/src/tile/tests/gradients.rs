//! Gradients against the definition ([`Kernel::gradient`]), which is checked against differences of the kernel.

use super::*;
use crate::checks::larger;

fn with_gradients() -> impl Iterator<Item = Family> {
    FAMILIES.into_iter().filter(|f| !matches!(f, Family::ArcCosine { .. } | Family::Ntk { .. }))
}

#[test]
fn the_definition_is_the_limit_of_differences() {
    for (d, codes) in [(1, 0), (4, 1), (7, 2)] {
        let (x, z) = (random_rows("x", 4, d, codes), random_rows("z", 6, d, codes));
        for family in with_gradients() {
            for metric in metrics(d, codes) {
                let kernel = Kernel { family, bandwidth: bandwidth(family, d, codes), metric };
                for (i, j) in (0..4).flat_map(|i| (0..6).map(move |j| (i, j))) {
                    let gradient = kernel.gradient(x.view(), i, z.view(), j).unwrap();
                    for (k, &slope) in gradient.iter().enumerate() {
                        let moved = |step: f32| {
                            let mut moved = x.clone();
                            moved.numeric[i * d + k] += step;
                            let by = f64::from(moved.numeric[i * d + k]) - f64::from(x.numeric[i * d + k]);
                            (by, kernel.evaluate(moved.view(), i, z.view(), j))
                        };
                        let ((up, above), (down, below)) = (moved(5e-4), moved(-5e-4));
                        let difference = (above - below) / (up - down);
                        // Second order in the step; wide of it only where the distance is about as small.
                        let size = 1.0 + difference.abs();
                        assert!(
                            (slope - difference).abs() < 2e-4 * size,
                            "{kernel:?} {i} {j} {k}: {slope} {difference}"
                        );
                    }
                }
            }
        }
    }
    for family in [Family::ArcCosine { depth: 1 }, Family::Ntk { depth: 2 }] {
        let (kernel, x) = (Kernel::new(family, 1.0), random_rows("x", 1, 2, 0));
        assert_eq!(kernel.gradient(x.view(), 0, x.view(), 0), None);
    }
}

/// At least the squared norm of the metric's map.
fn stretch(metric: &Metric) -> f64 {
    match metric {
        Metric::Isotropic => 1.0,
        Metric::PerFeature { numeric, .. } => numeric.iter().map(|s| s.powi(-2)).fold(0.0, f64::max),
        Metric::Full { map, .. } => map.iter().map(|a| a * a).sum(),
    }
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Gradients by the definition, and a bound on the error of each component: a share of the sizes of all terms, and what the rounding of coordinates does to differences.
fn reference(kernel: &Kernel, x: Rows<'_>, z: Rows<'_>, v: &[f64], t: usize, unit: f64) -> (Vec<f64>, Vec<f64>) {
    let (n, m, d) = (x.len(), z.len(), x.numeric_width());
    let (mut out, mut bound) = (vec![0.0; n * t * d], vec![0.0; n * t * d]);
    let terms = (d + x.code_width() + 12) as f64;
    for (i, j) in (0..n).flat_map(|i| (0..m).map(move |j| (i, j))) {
        let gradient = kernel.gradient(x, i, z, j).unwrap();
        let length = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let size = norm(x.numeric(i)) + norm(z.numeric(j));
        let error = if kernel.family.is_radial() {
            let slope = kernel.family.slope(kernel.squared_distance(x, i, z, j), kernel.bandwidth).abs();
            // Relative in the slope: that of its argument, which the threshold of near rows bounds.
            40.0 * terms * unit * length + 8.0 * terms * unit * slope * stretch(&kernel.metric) * size
        } else {
            // A power of a sum of products, whose terms may cancel.
            let largest = (size * size * stretch(&kernel.metric) + 1.0) / kernel.bandwidth.powi(2) + 1.0;
            8.0 * terms * unit * largest.powi(2) * (1.0 + size) * stretch(&kernel.metric)
        };
        for (c, k) in (0..t).flat_map(|c| (0..d).map(move |k| (c, k))) {
            out[(i * t + c) * d + k] += v[j * t + c] * gradient[k];
            bound[(i * t + c) * d + k] += v[j * t + c].abs() * error;
        }
    }
    (out, bound)
}

fn check_against_definition<T: Entry + std::fmt::Debug>(unit: f64) {
    for (n, m, d, codes, t) in
        [(5, 33, 2, 2, 1), (1, 1, 1, 0, 2), (13, 7, 3, 1, 3), (7, 150, 6, 1, 1), (6, 20, 23, 0, 2)]
    {
        let (x, mut z) = (random_rows("x", n, d, codes), random_rows("z", m, d, codes));
        // A center equal to a row (alone it counts nothing), and one close to a row.
        for (to, from) in [(0, 0), (m / 2, n - 1)] {
            z.numeric[to * d..(to + 1) * d].copy_from_slice(x.view().numeric(from));
            z.codes[to * codes..(to + 1) * codes].copy_from_slice(x.view().codes(from));
        }
        if m > 1 {
            z.numeric[m / 2 * d] += 1e-3;
        }
        let v = random_values("v", m * t);
        for family in with_gradients() {
            for metric in metrics(d, codes) {
                let kernel = Kernel { family, bandwidth: bandwidth(family, d, codes), metric };
                let (exact, bound) = reference(&kernel, x.view(), z.view(), &v, t, unit);
                for simd in SimdPath::available() {
                    let tiles = Tiles::<T>::new(&kernel, z.view(), &[], simd).unwrap();
                    let mut out = vec![f64::NAN; n * t * d];
                    Gradients::new(&tiles, &v, t).unwrap().at(x.view(), &mut TileScratch::new(), &mut out);
                    for (at, ((out, exact), bound)) in out.iter().zip(&exact).zip(&bound).enumerate() {
                        let error = (out - exact).abs();
                        assert!(
                            error <= *bound,
                            "{simd} {kernel:?} {at}: {out} for {exact}: {error:e}, bound {bound:e}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn f32_gradients_follow_the_definition() {
    check_against_definition::<f32>(f64::from(f32::EPSILON) / 2.0);
}

#[test]
fn f64_gradients_follow_the_definition() {
    check_against_definition::<f64>(f64::EPSILON / 2.0);
}

#[test]
fn ordinary_f32_gradients_are_good_to_seven_digits() {
    let (x, z) = (random_rows("x", 40, 10, 0), random_rows("z", 100, 10, 0));
    let v = random_values("v", 100);
    for family in with_gradients().filter(|f| f.is_radial() && f.most_dimensions().is_none()) {
        let kernel = Kernel::new(family, 3.0);
        let (exact, _) = reference(&kernel, x.view(), z.view(), &v, 1, 0.0);
        let largest = exact.iter().fold(0.0, |a, e| larger(a, e.abs()));
        for simd in SimdPath::available() {
            let tiles = Tiles::<f32>::new(&kernel, z.view(), &[], simd).unwrap();
            let mut out = vec![0.0; 400];
            Gradients::new(&tiles, &v, 1).unwrap().at(x.view(), &mut TileScratch::new(), &mut out);
            let error = out.iter().zip(&exact).fold(0.0, |worst, (a, b)| larger(worst, (a - b).abs()));
            assert!(error < 5e-7 * largest, "{simd} {family:?}: {error:e} of {largest}");
        }
    }
}

/// Rows and centers a thousandth apart and far from the origin: the bound of the module docs on what cancellation takes, in f64, where nothing hides it.
#[test]
fn cancellation_takes_what_is_documented() {
    let (m, d) = (200, 6);
    let mut x = random_rows("x", 30, d, 0);
    let mut z = random_rows("z", m, d, 0);
    // On a grid of 2^-16, on which differences are exact.
    let place = |x: &mut f32| *x = ((20.0 + 1e-3 * *x) * 65536.0).round() / 65536.0;
    x.numeric.iter_mut().chain(&mut z.numeric).for_each(place);
    let v = random_values("v", m);
    for family in with_gradients().filter(Family::is_radial) {
        let kernel = Kernel::new(family, 1.0);
        for simd in SimdPath::available() {
            let tiles = Tiles::<f64>::new(&kernel, z.view(), &[], simd).unwrap();
            let mut out = vec![0.0; 30 * d];
            Gradients::new(&tiles, &v, 1).unwrap().at(x.view(), &mut TileScratch::new(), &mut out);
            for i in 0..30 {
                let (mut lost, mut exact) = (0.0, vec![0.0; d]);
                let mut differences = 0.0;
                for (j, &v) in v.iter().enumerate() {
                    let slope = 2.0 * family.slope(kernel.squared_distance(x.view(), i, z.view(), j), 1.0).abs();
                    lost += v.abs() * slope * (norm(x.view().numeric(i)) + norm(z.view().numeric(j)));
                    let gradient = kernel.gradient(x.view(), i, z.view(), j).unwrap();
                    differences += v.abs() * gradient.iter().fold(0.0, |a, g| larger(a, g.abs()));
                    exact.iter_mut().zip(gradient).for_each(|(e, g)| *e += v * g);
                }
                // Coordinates are rounded once more where the scale is no power of two: one unit of each.
                let bound = ((m + 3) as f64 + 4.0) * f64::EPSILON / 2.0 * lost + 1e-13 * differences;
                for (k, exact) in exact.iter().enumerate() {
                    let error = (out[i * d + k] - exact).abs();
                    assert!(error <= bound, "{simd} {family:?} row {i}: {error:e}, bound {bound:e}");
                }
            }
        }
    }
}

#[test]
fn bits_of_a_gradient_are_those_of_its_row() {
    let (x, z) = (random_rows("x", 57, 6, 1), random_rows("z", 210, 6, 1));
    let v = random_values("v", 3 * 210);
    for family in with_gradients() {
        let kernel = Kernel::new(family, bandwidth(family, 6, 1));
        for simd in SimdPath::available() {
            let tiles = Tiles::<f32>::new(&kernel, z.view(), &[], simd).unwrap();
            let gradients = Gradients::new(&tiles, &v, 3).unwrap();
            let (mut scratch, mut whole) = (TileScratch::new(), vec![0.0; 57 * 18]);
            gradients.at(x.view(), &mut scratch, &mut whole);
            for (from, to) in [(0, 1), (5, 23), (56, 57), (3, 3)] {
                let mut part = vec![0.0; (to - from) * 18];
                gradients.at(x.view().slice(from, to), &mut scratch, &mut part);
                assert_eq!(part, whole[from * 18..to * 18], "{simd} {family:?}");
            }
            // A function's gradients are its own, whatever functions are beside it.
            let second: Vec<f64> = v.chunks_exact(3).map(|v| v[1]).collect();
            let mut alone = vec![0.0; 57 * 6];
            Gradients::new(&tiles, &second, 1).unwrap().at(x.view(), &mut scratch, &mut alone);
            for i in 0..57 {
                assert_eq!(alone[i * 6..(i + 1) * 6], whole[i * 18 + 6..i * 18 + 12], "{simd} {family:?} row {i}");
            }
        }
    }
}

#[test]
fn outer_products_are_sums_over_the_rows() {
    for (d, codes, t) in [(1, 0, 1), (9, 1, 2), (20, 0, 1)] {
        let (x, z) = (random_rows("x", 61, d, codes), random_rows("z", 90, d, codes));
        let (v, weights) = (random_values("v", 90 * t), random_values("w", 61));
        for metric in metrics(d, codes) {
            let kernel = Kernel { family: Family::Matern52, bandwidth: bandwidth(Family::Matern52, d, codes), metric };
            for simd in SimdPath::available() {
                let tiles = Tiles::<f32>::new(&kernel, z.view(), &[], simd).unwrap();
                let gradients = Gradients::new(&tiles, &v, t).unwrap();
                let (mut scratch, mut g) = (TileScratch::new(), vec![0.0; 61 * t * d]);
                gradients.at(x.view(), &mut scratch, &mut g);
                for weights in [None, Some(&weights[..])] {
                    let mut acc: Vec<f64> = (0..d * d).map(|at| ((at / d) * (at % d)) as f64).collect();
                    let mut expected = acc.clone();
                    for (at, g) in g.chunks_exact(d).enumerate() {
                        let w = weights.map_or(1.0, |w| w[at / t]);
                        (0..d * d).for_each(|at| expected[at] += w * g[at / d] * g[at % d]);
                    }
                    let mut pieces = acc.clone();
                    gradients.add_outer(x.view(), weights, &mut scratch, &mut acc);
                    for (from, to) in [(0, 7), (7, 7), (7, 61)] {
                        let weights = weights.map(|w| &w[from..to]);
                        gradients.add_outer(x.view().slice(from, to), weights, &mut scratch, &mut pieces);
                    }
                    assert_eq!(acc, pieces, "{simd} d {d}");
                    for (at, (a, b)) in acc.iter().zip(&expected).enumerate() {
                        assert!((a - b).abs() < 1e-12 * (1.0 + b.abs()), "{simd} d {d} {at}: {a} {b}");
                        assert_eq!(acc[at % d * d + at / d], *a, "{simd}: not symmetric");
                    }
                }
            }
        }
    }
}

#[test]
fn far_and_equal_rows_have_no_gradient_and_never_nan() {
    let values = [0.0f32, 1.0, -1e30, 3e38, -3e38, 1e-42];
    for d in [1, 6] {
        let all: Vec<f32> = values.iter().flat_map(|&v| vec![v; d]).collect();
        let rows = Rows::new(&all, d, &[], 0);
        for family in with_gradients().filter(Family::is_radial) {
            for simd in SimdPath::available() {
                let tiles = Tiles::<f32>::new(&Kernel::new(family, 1.0), rows.slice(0, 1), &[], simd).unwrap();
                let mut out = vec![f64::NAN; values.len() * d];
                Gradients::new(&tiles, &[1.0], 1).unwrap().at(rows, &mut TileScratch::new(), &mut out);
                for (i, value) in values.iter().enumerate() {
                    for g in &out[i * d..(i + 1) * d] {
                        assert!(g.is_finite(), "{simd} {family:?} at {value}: {g}");
                        let none = value.abs() != 1.0 && (family != Family::Cauchy || *value == 0.0);
                        assert!(!none || g.abs() < 1e-20, "{simd} {family:?} at {value}: {g}");
                    }
                }
            }
        }
    }
}

#[test]
fn kernels_without_gradients_are_refused() {
    let z = random_rows("z", 3, 2, 0);
    for family in [Family::ArcCosine { depth: 1 }, Family::Ntk { depth: 1 }] {
        let tiles = Tiles::<f32>::new(&Kernel::new(family, 1.0), z.view(), &[], SimdPath::detect()).unwrap();
        assert_eq!(Gradients::new(&tiles, &[1.0; 3], 1).unwrap_err(), TileError::NoGradient { family });
    }
    // No numeric columns: nothing to derive by.
    let codes = random_rows("z", 3, 0, 1);
    let tiles = Tiles::<f32>::new(&Kernel::new(Family::Laplace, 1.0), codes.view(), &[], SimdPath::detect()).unwrap();
    let gradients = Gradients::new(&tiles, &[1.0; 3], 1).unwrap();
    gradients.at(codes.view(), &mut TileScratch::new(), &mut []);
    gradients.add_outer(codes.view(), None, &mut TileScratch::new(), &mut []);
}
