//! Single entries: their values, and what their bits may depend on.

use super::super::functions::scale;
use super::*;
use crate::checks::larger;
use crate::dense::symmetric_eigen;
use crate::kernel::wendland;
use faer::Par;

/// A bound on the error of an entry, from the worst case of its sums: `unit` is the rounding unit, `near` the threshold under which distances
/// are recomputed.
fn error_bound(kernel: &Kernel, x: Rows<'_>, i: usize, z: Rows<'_>, j: usize, unit: f64, near: f64) -> f64 {
    let inner = |x: Rows<'_>, i, z: Rows<'_>, j| {
        let linear = Kernel { family: Family::Polynomial { degree: 1, offset: 0.0 }, ..kernel.clone() };
        linear.evaluate(x, i, z, j)
    };
    let (xx, zz) = (inner(x, i, x, i), inner(z, j, z, j));
    let terms = (x.numeric_width() + x.code_width() + 12) as f64;
    match kernel.family {
        Family::Polynomial { degree, offset } => {
            let largest = (xx * zz).sqrt() + offset;
            unit * (terms + f64::from(degree)) * f64::from(degree) * largest.powi(degree as i32)
        }
        Family::ArcCosine { depth } => unit * (2.0 * terms + 12.0) * f64::from(depth) * (xx * zz).sqrt(),
        Family::Ntk { depth } => {
            // The angle has infinite slope where the cosine is 1.
            let norms = (xx * zz).sqrt();
            let cosine = if norms > 0.0 { inner(x, i, z, j) / norms } else { 0.0 };
            let shift = 2.0 * unit * terms;
            let angle = shift / (1.0 - cosine * cosine).max(shift).sqrt();
            2.0 * norms * f64::from(depth * depth) * (angle + unit * 12.0)
        }
        radial => {
            let c = scale(radial, kernel.bandwidth) * kernel.bandwidth;
            let size = c * c * (xx + zz);
            let slope = match radial {
                Family::Gaussian | Family::Cauchy => size,
                // As below; the steepest slope of (1 - s)^p (1 + b s + c s^2) is less than p / 2.
                Family::Wendland { smoothness, dimension } => {
                    f64::from(wendland(smoothness, dimension).0) / 4.0 * (size / near).sqrt() + 2.0
                }
                // d sqrt(a) = da / (2 sqrt(a)), with a at least near times size.
                _ => 0.5 * (size / near).sqrt(),
            };
            unit * (8.0 + terms * slope)
        }
    }
}

fn check_against_definition<T: Entry + std::fmt::Debug>(unit: f64, near: f64) {
    for (n, m, d, codes) in [(5, 33, 0, 2), (1, 1, 1, 0), (13, 7, 3, 1), (7, 50, 4, 0), (9, 17, 6, 3), (6, 20, 23, 0)] {
        let x = random_rows("x", n, d, codes);
        let mut z = random_rows("z", m, d, codes);
        // A few centers equal to rows, and one close to a row.
        for (to, from) in [(0, 0), (m / 2, n - 1)] {
            z.numeric[to * d..(to + 1) * d].copy_from_slice(x.view().numeric(from));
            z.codes[to * codes..(to + 1) * codes].copy_from_slice(x.view().codes(from));
        }
        if d > 0 {
            z.numeric[0] += 1e-4;
        }
        for family in FAMILIES {
            for metric in metrics(d, codes) {
                let kernel = Kernel { family, bandwidth: bandwidth(family, d, codes), metric };
                for simd in SimdPath::available() {
                    let k = kernel_matrix::<T>(&kernel, x.view(), z.view(), &[], simd).unwrap();
                    for i in 0..n {
                        for j in 0..m {
                            let exact = kernel.evaluate(x.view(), i, z.view(), j);
                            let error = (k[i * m + j].to_f64() - exact).abs();
                            let bound = error_bound(&kernel, x.view(), i, z.view(), j, unit, near);
                            assert!(
                                error <= bound,
                                "{simd} {kernel:?} ({i}, {j}): {:?} for {exact}: error {error:e}, bound {bound:e}",
                                k[i * m + j]
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn f32_entries_follow_the_definition() {
    check_against_definition::<f32>(f64::from(f32::EPSILON) / 2.0, 1.0 / 256.0);
}

#[test]
fn f64_entries_follow_the_definition() {
    check_against_definition::<f64>(f64::EPSILON / 2.0, 1.0 / 4096.0);
}

#[test]
fn ordinary_f32_entries_are_good_to_a_few_ulp() {
    let (x, z) = (random_rows("x", 40, 10, 0), random_rows("z", 100, 10, 0));
    for (family, limit) in [
        (Family::Gaussian, 4e-7),
        (Family::Laplace, 4e-7),
        (Family::Matern32, 4e-7),
        (Family::Matern52, 4e-7),
        (Family::Cauchy, 4e-7),
    ] {
        let kernel = Kernel::new(family, 3.0);
        for simd in SimdPath::available() {
            let k = kernel_matrix::<f32>(&kernel, x.view(), z.view(), &[], simd).unwrap();
            let error = largest_error(&k, &kernel, x.view(), z.view());
            assert!(error < limit, "{simd} {family:?}: {error:e}");
        }
    }
}

fn largest_error<T: Entry>(k: &[T], kernel: &Kernel, x: Rows<'_>, z: Rows<'_>) -> f64 {
    let m = z.len();
    let entries = (0..x.len()).flat_map(|i| (0..m).map(move |j| (i, j)));
    entries.map(|(i, j)| (k[i * m + j].to_f64() - kernel.evaluate(x, i, z, j)).abs()).fold(0.0, larger)
}

#[test]
fn an_offset_restores_the_accuracy_of_centred_features() {
    let (x, z) = (random_rows("x", 30, 8, 0), random_rows("z", 64, 8, 0));
    let shift = |rows: &RowBuf| RowBuf { numeric: rows.numeric.iter().map(|v| v + 30.0).collect(), ..rows.clone() };
    let (far_x, far_z) = (shift(&x), shift(&z));
    for family in [Family::Gaussian, Family::Laplace, Family::Matern52] {
        let kernel = Kernel::new(family, 3.0);
        for simd in SimdPath::available() {
            let centred = kernel_matrix::<f32>(&kernel, x.view(), z.view(), &[], simd).unwrap();
            let usual = largest_error(&centred, &kernel, x.view(), z.view());
            let with = kernel_matrix::<f32>(&kernel, far_x.view(), far_z.view(), &[30.0; 8], simd).unwrap();
            let with = largest_error(&with, &kernel, far_x.view(), far_z.view());
            let without = kernel_matrix::<f32>(&kernel, far_x.view(), far_z.view(), &[], simd).unwrap();
            let without = largest_error(&without, &kernel, far_x.view(), far_z.view());
            assert!(with < 3.0 * usual.max(1e-7), "{simd} {family:?}: {with:e} with the offset, {usual:e} centred");
            // Even without it, near lanes are recomputed; the bound is that of the expansion at the threshold.
            assert!(without < 2e-3, "{simd} {family:?}: {without:e} without the offset");
        }
    }
}

#[test]
fn a_row_at_its_center_has_distance_zero() {
    for (d, codes) in [(1, 0), (4, 0), (5, 0), (90, 2), (0, 1)] {
        let x = random_rows("x", 20, d, codes);
        for family in FAMILIES.into_iter().filter(Family::is_radial) {
            for simd in SimdPath::available() {
                let kernel = Kernel::new(family, 0.3);
                let k = kernel_matrix::<f32>(&kernel, x.view(), x.view(), &[], simd).unwrap();
                assert!((0..20).all(|i| k[i * 20 + i] == 1.0), "{simd} {family:?}");
                let k = kernel_matrix::<f64>(&kernel, x.view(), x.view(), &[], simd).unwrap();
                assert!((0..20).all(|i| k[i * 20 + i] == 1.0), "{simd} {family:?}");
            }
        }
    }
}

#[test]
fn cusp_kernels_keep_small_distances() {
    // Pairs at distances from 1e-6 to 1 around points of norm about 3.
    let base = random_rows("base", 1, 10, 0);
    let mut x = RowBuf::new(10, 0);
    for i in 0..25 {
        x.push(base.view(), 0);
        x.numeric[i * 10 + 3] += 10f32.powf(-6.0 + 0.25 * i as f32);
    }
    let kernel = Kernel::new(Family::Laplace, 1.0);
    for simd in SimdPath::available() {
        let k = kernel_matrix::<f32>(&kernel, x.view(), base.view(), &[], simd).unwrap();
        let error = largest_error(&k, &kernel, x.view(), base.view());
        assert!(error < 2e-5, "{simd}: {error:e}");
    }
}

/// Bits of every entry, whatever the order and company of rows and centers.
fn check_company<T: Entry + std::fmt::Debug>() {
    for (d, codes) in [(3, 1), (7, 0), (12, 2)] {
        let (x, z) = (random_rows("x", 23, d, codes), random_rows("z", 61, d, codes));
        // The first center sits on the first row: one near lane in some tiles.
        let mut z = z;
        z.numeric[..d].copy_from_slice(x.view().numeric(0));
        let rows: Vec<usize> = (0..23).map(|i| (i * 7 + 3) % 23).collect();
        let centers: Vec<usize> = (0..61).map(|j| (j * 17 + 5) % 61).chain([0, 0, 60]).collect();
        let (px, pz) = (RowBuf::gather(x.view(), &rows), RowBuf::gather(z.view(), &centers));
        for family in FAMILIES {
            let kernel = Kernel::new(family, bandwidth(family, d, codes));
            for simd in SimdPath::available() {
                let tiles = Tiles::<T>::new(&kernel, z.view(), &[], simd).unwrap();
                let whole = block(&tiles, x.view());
                let permuted = block(&Tiles::<T>::new(&kernel, pz.view(), &[], simd).unwrap(), px.view());
                for (a, &i) in rows.iter().enumerate() {
                    for (b, &j) in centers.iter().enumerate() {
                        assert_eq!(permuted[a * centers.len() + b], whole[i * 61 + j], "{simd} {family:?} ({i}, {j})");
                    }
                }
                for (start, end) in [(0, 1), (4, 5), (22, 23), (3, 20), (0, 23)] {
                    let part = block(&tiles, x.view().slice(start, end));
                    assert_eq!(part, whole[start * 61..end * 61], "{simd} {family:?} rows {start}..{end}");
                }
                let one = block(&Tiles::<T>::new(&kernel, z.view().slice(60, 61), &[], simd).unwrap(), x.view());
                assert!((0..23).all(|i| one[i] == whole[i * 61 + 60]), "{simd} {family:?}");
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_company() {
    check_company::<f32>();
    check_company::<f64>();
}

#[test]
fn bits_do_not_depend_on_the_row_block() {
    // More rows than any block holds, and enough centers for several blocks.
    let (x, z) = (random_rows("x", 211, 5, 0), random_rows("z", 1500, 5, 0));
    let kernel = Kernel::new(Family::Matern32, 2.0);
    for simd in SimdPath::available() {
        let tiles = Tiles::<f32>::new(&kernel, z.view(), &[], simd).unwrap();
        let whole = block(&tiles, x.view());
        for i in [0, 41, 96, 100, 210] {
            assert_eq!(block(&tiles, x.view().slice(i, i + 1)), whole[i * 1500..(i + 1) * 1500]);
        }
    }
}

#[test]
fn matrices_are_symmetric_bit_for_bit() {
    for (n, d, codes) in [(1, 2, 0), (47, 3, 1), (131, 9, 0)] {
        let x = random_rows("x", n, d, codes);
        for family in FAMILIES {
            let kernel = Kernel::new(family, bandwidth(family, d, codes));
            for simd in SimdPath::available() {
                let full = kernel_matrix::<f64>(&kernel, x.view(), x.view(), &[], simd).unwrap();
                let half = symmetric_kernel_matrix(&kernel, x.view(), &[], simd).unwrap();
                for i in 0..n {
                    for j in 0..n {
                        assert_eq!(full[i * n + j], full[j * n + i], "{simd} {family:?} ({i}, {j})");
                        assert_eq!(full[i * n + j], half[(i, j)], "{simd} {family:?} ({i}, {j})");
                    }
                }
            }
        }
    }
}

#[test]
fn extreme_features_give_zero_or_one_and_never_nan() {
    let numeric = |first: f32, rest: f32, d: usize| {
        let mut row = vec![rest; d];
        row[0] = first;
        row
    };
    for d in [1, 4, 6, 30] {
        let values = [0.0, 1.0, -1e30, 1e30, 2e30, 3e38, -3e38, 1e-42, -1e-45, f32::MIN_POSITIVE];
        let all: Vec<f32> = values.iter().flat_map(|&v| numeric(v, if v.abs() > 1.0 { v } else { 0.0 }, d)).collect();
        let rows = Rows::new(&all, d, &[], 0);
        for family in FAMILIES.into_iter().filter(Family::is_radial) {
            for simd in SimdPath::available() {
                let kernel = Kernel::new(family, 1.0);
                let narrow = kernel_matrix::<f32>(&kernel, rows, rows, &[], simd).unwrap();
                let wide = kernel_matrix::<f64>(&kernel, rows, rows, &[], simd).unwrap();
                for i in 0..values.len() {
                    for j in 0..values.len() {
                        let exact = kernel.evaluate(rows, i, rows, j);
                        for k in [f64::from(narrow[i * values.len() + j]), wide[i * values.len() + j]] {
                            let far = (values[i] - values[j]).abs() > 1e20;
                            assert!((k - exact).abs() < 1e-6, "{simd} {family:?} ({i}, {j}): {k} for {exact}");
                            assert!(!far || k == 0.0 || family == Family::Cauchy, "{simd} {family:?}: {k:e}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_diagonal_is_the_definition() {
    let x = random_rows("x", 9, 5, 2);
    for family in FAMILIES {
        let kernel = Kernel::new(family, 1.5);
        let tiles = Tiles::<f32>::new(&kernel, x.view(), &[], SimdPath::detect()).unwrap();
        let mut out = vec![0.0; 9];
        tiles.diagonal(x.view(), &mut out);
        for (i, &out) in out.iter().enumerate() {
            assert!((out - kernel.evaluate(x.view(), i, x.view(), i)).abs() < 1e-12);
        }
    }
}

#[test]
fn kernels_of_compact_support_are_positive_definite_and_smooth() {
    for smoothness in [2, 4] {
        for dimension in [1u32, 2, 3, 5, 8, 25] {
            let family = Family::Wendland { smoothness, dimension };
            let x = random_rows("x", 150, dimension as usize, 0);
            // Wide and narrow.
            for bandwidth in [0.5, 3.0, 30.0] {
                let bandwidth = bandwidth * f64::from(dimension).sqrt();
                let kernel = Kernel::new(family, bandwidth);
                let k = symmetric_kernel_matrix(&kernel, x.view(), &[], SimdPath::detect()).unwrap();
                let (values, _) = symmetric_eigen(k.as_ref(), Par::Seq).unwrap();
                let least = values.iter().copied().fold(f64::INFINITY, f64::min);
                assert!(least > -1e-12, "{family:?} bandwidth {bandwidth}: eigenvalue {least:e}");
            }
            // Even about 0 up to the derivatives that are continuous, and as flat at the end of the support.
            let k = |s: f64| family.of_squared_distance(s * s, 1.0);
            let h = 1e-3;
            let odd = (1.0 - k(h)) / h.powi(2) - (1.0 - k(h / 2.0)) / (h / 2.0).powi(2);
            assert!(odd.abs() < 0.5 * f64::from(dimension + 8).powi(3) * h, "{family:?}: {odd}");
            assert!(k(1.0 - h) < 1e4 * h.powi(smoothness as i32 + 1) && k(1.0) == 0.0 && k(2.0) == 0.0);
        }
    }
    let value = |smoothness, s: f64| Family::Wendland { smoothness, dimension: 3 }.of_squared_distance(s * s, 1.0);
    for s in [0.0, 0.2, 0.9] {
        assert!((value(2, s) - (1.0f64 - s).powi(4) * (4.0 * s + 1.0)).abs() < 1e-15);
        assert!((value(4, s) - (1.0f64 - s).powi(6) * (35.0 * s * s + 18.0 * s + 3.0) / 3.0).abs() < 1e-15);
    }
}
