//! Products against sums over the same entries, and the shapes of the sums.

use super::*;

struct Case<T: Entry> {
    tiles: Tiles<T>,
    x: RowBuf,
    /// The entries, as f64.
    k: Vec<f64>,
}

fn case<T: Entry + std::fmt::Debug>(n: usize, m: usize, simd: SimdPath) -> Case<T> {
    let (x, z) = (random_rows("x", n, 6, 1), random_rows("z", m, 6, 1));
    let tiles = Tiles::<T>::new(&Kernel::new(Family::Gaussian, 2.5), z.view(), &[], simd).unwrap();
    let k = block(&tiles, x.view()).iter().map(|k| k.to_f64()).collect();
    Case { tiles, x, k }
}

fn close(a: &[f64], b: &[f64], scale: f64) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-14 * scale)
}

const SHAPES: [(usize, usize); 6] = [(1, 1), (7, 5), (4, 64), (11, 37), (130, 300), (250, 1030)];

fn check_products<T: Entry + std::fmt::Debug>() {
    for (n, m) in SHAPES {
        for simd in SimdPath::available() {
            let Case { tiles, x, k } = case::<T>(n, m, simd);
            let mut scratch = TileScratch::new();
            let scale = (n * m) as f64;
            for (t, s) in [(1, 1), (2, 1), (1, 3), (5, 4), (8, 9), (17, 2), (0, 2), (3, 0)] {
                let v = random_values("v", m * t);
                let weights = random_values("w", n);
                let kv: Vec<f64> =
                    (0..n * t).map(|at| (0..m).map(|j| k[at / t * m + j] * v[j * t + at % t]).sum()).collect();
                let function = |i: usize, kv: &[f64], c: usize| weights[i] * (1.0 + c as f64) + kv.iter().sum::<f64>();
                let start = random_values("acc", m * s);
                let mut expected = start.clone();
                for j in 0..m {
                    for c in 0..s {
                        for i in 0..n {
                            expected[j * s + c] += k[i * m + j] * function(i, &kv[i * t..(i + 1) * t], c);
                        }
                    }
                }
                let mut acc = start.clone();
                let mut seen = vec![0.0; n * t];
                let mut order = Vec::new();
                tiles.map_rows(x.view(), &v, t, s, &mut scratch, &mut acc, |i, kv, u| {
                    order.push(i);
                    seen[i * t..(i + 1) * t].copy_from_slice(kv);
                    assert_eq!((kv.len(), u.len()), (t, s));
                    u.iter_mut().enumerate().for_each(|(c, u)| *u = function(i, kv, c));
                });
                assert!(order.iter().copied().eq(0..n));
                assert!(close(&seen, &kv, m as f64), "{simd} n {n} m {m} t {t}: K v");
                assert!(close(&acc, &expected, 30.0 * scale), "{simd} n {n} m {m} t {t} s {s}: map_rows");
                // The separate forms have the same bits.
                let mut out = vec![f64::NAN; n * t];
                tiles.k_v(x.view(), &v, t, &mut scratch, &mut out);
                assert_eq!(out, seen);
                let u: Vec<f64> =
                    (0..n * s).map(|at| function(at / s, &seen[at / s * t..(at / s + 1) * t], at % s)).collect();
                let mut again = start.clone();
                tiles.kt_u(x.view(), &u, s, &mut scratch, &mut again);
                assert_eq!(again, acc);
                if s == t {
                    let (mut a, mut b) = (vec![0.0; m * t], vec![0.0; m * t]);
                    tiles.kt_kv(x.view(), Some(&weights), &v, t, &mut scratch, &mut a);
                    let weighted: Vec<f64> = seen.iter().enumerate().map(|(at, kv)| weights[at / t] * kv).collect();
                    tiles.kt_u(x.view(), &weighted, t, &mut scratch, &mut b);
                    assert_eq!(a, b);
                    tiles.kt_kv(x.view(), None, &v, t, &mut scratch, &mut a);
                    tiles.kt_u(x.view(), &seen, t, &mut scratch, &mut b);
                    assert!(close(&a, &b, scale));
                }
            }
        }
    }
}

#[test]
fn products_are_sums_over_the_entries() {
    check_products::<f32>();
    check_products::<f64>();
}

fn check_splits<T: Entry + std::fmt::Debug>() {
    for simd in SimdPath::available() {
        let Case { tiles, x, .. } = case::<T>(157, 530, simd);
        for t in [1, 3, 8] {
            let v = random_values("v", 530 * t);
            let mut scratch = TileScratch::new();
            let (mut whole, mut out) = (vec![0.0; 530 * t], vec![0.0; 157 * t]);
            tiles.kt_kv(x.view(), None, &v, t, &mut scratch, &mut whole);
            tiles.k_v(x.view(), &v, t, &mut scratch, &mut out);
            for cuts in [vec![0, 1, 157], vec![0, 5, 6, 99, 157], vec![0, 96, 157]] {
                let mut pieces = vec![0.0; 530 * t];
                for cut in cuts.windows(2) {
                    let rows = x.view().slice(cut[0], cut[1]);
                    tiles.kt_kv(rows, None, &v, t, &mut scratch, &mut pieces);
                    let mut part = vec![0.0; rows.len() * t];
                    tiles.k_v(rows, &v, t, &mut scratch, &mut part);
                    assert_eq!(part, out[cut[0] * t..cut[1] * t], "{simd} t {t}");
                }
                assert_eq!(pieces, whole, "{simd} t {t} {cuts:?}");
            }
        }
    }
}

#[test]
fn rows_may_be_cut_anywhere() {
    check_splits::<f32>();
    check_splits::<f64>();
}

#[test]
fn transposes_are_adjoint() {
    for simd in SimdPath::available() {
        let Case { tiles, x, .. } = case::<f32>(90, 211, simd);
        let (u, v) = (random_values("u", 90), random_values("v", 211));
        let mut scratch = TileScratch::new();
        let (mut kv, mut ktu) = (vec![0.0; 90], vec![0.0; 211]);
        tiles.k_v(x.view(), &v, 1, &mut scratch, &mut kv);
        tiles.kt_u(x.view(), &u, 1, &mut scratch, &mut ktu);
        let left: f64 = u.iter().zip(&kv).map(|(a, b)| a * b).sum();
        let right: f64 = v.iter().zip(&ktu).map(|(a, b)| a * b).sum();
        assert!((left - right).abs() < 1e-11, "{simd}: {left} {right}");
    }
}

#[test]
fn the_f32_product_is_close_and_cuts_anywhere() {
    for (n, m) in SHAPES {
        for simd in SimdPath::available() {
            let Case { tiles, x, k } = case::<f32>(n, m, simd);
            let v: Vec<f32> = random_values("v", m).iter().map(|&v| v as f32).collect();
            let mut scratch = TileScratch::new();
            let mut out = vec![f32::NAN; n];
            tiles.k_v_f32(x.view(), &v, &mut scratch, &mut out);
            for i in 0..n {
                let exact: f64 = (0..m).map(|j| k[i * m + j] * f64::from(v[j])).sum();
                let size: f64 = (0..m).map(|j| (k[i * m + j] * f64::from(v[j])).abs()).sum();
                assert!((f64::from(out[i]) - exact).abs() < 4e-6 * size, "{simd} n {n} m {m} row {i}");
                let mut alone = [0.0];
                tiles.k_v_f32(x.view().slice(i, i + 1), &v, &mut scratch, &mut alone);
                assert_eq!(alone[0], out[i], "{simd} n {n} m {m} row {i}");
            }
            let wide = case::<f64>(n, m, simd);
            let mut narrow = vec![0.0f32; n];
            wide.tiles.k_v_f32(x.view(), &v, &mut TileScratch::new(), &mut narrow);
            for (i, &narrow) in narrow.iter().enumerate() {
                let exact: f64 = (0..m).map(|j| wide.k[i * m + j] * f64::from(v[j])).sum();
                assert!((f64::from(narrow) - exact).abs() <= 1e-7 * exact.abs() + 1e-12, "{simd} row {i}");
            }
        }
    }
}

#[test]
fn no_centers_and_no_rows_are_products_too() {
    let (x, none) = (random_rows("x", 3, 2, 0), RowBuf::new(2, 0));
    let kernel = Kernel::new(Family::Gaussian, 1.0);
    let mut scratch = TileScratch::new();
    let tiles = Tiles::<f32>::new(&kernel, none.view(), &[], SimdPath::detect()).unwrap();
    let mut out = [1.0; 3];
    tiles.k_v(x.view(), &[], 1, &mut scratch, &mut out);
    assert_eq!(out, [0.0; 3]);
    let tiles = Tiles::<f32>::new(&kernel, x.view(), &[], SimdPath::detect()).unwrap();
    let mut acc = [2.0; 3];
    tiles.kt_kv(none.view(), None, &[1.0; 3], 1, &mut scratch, &mut acc);
    assert_eq!(acc, [2.0; 3]);
}

/// The first center of largest k^2 / k(z, z), by a loop over the entries; its share to f64's rounding; and the transposed product beside it.
fn nearest_is_the_first_largest<T: Entry + Into<f64> + std::fmt::Debug>() {
    for (family, simd) in FAMILIES.into_iter().flat_map(|f| SimdPath::available().into_iter().map(move |s| (f, s))) {
        for m in [1, 2, 15, 16, 17, 64, 131] {
            let (d, codes) = (3, usize::from(m % 2 == 0));
            let mut centers = random_rows("nearest centers", m, d, codes);
            let rows = random_rows("nearest rows", 37, d, codes);
            if m > 20 {
                // The same center at three places of different lanes: the first of them counts.
                let copy: Vec<f32> = centers.numeric[20 * d..21 * d].to_vec();
                centers.numeric[5 * d..6 * d].copy_from_slice(&copy);
                centers.numeric[18 * d..19 * d].copy_from_slice(&copy);
                let code: Vec<u16> = centers.codes[20 * codes..21 * codes].to_vec();
                centers.codes[5 * codes..6 * codes].copy_from_slice(&code);
                centers.codes[18 * codes..19 * codes].copy_from_slice(&code);
            }
            let kernel = Kernel::new(family, bandwidth(family, d, codes));
            let tiles = Tiles::<T>::new(&kernel, centers.view(), &[], simd).unwrap();
            let (entries, mut scratch) = (block(&tiles, rows.view()), TileScratch::new());
            let mut found = Vec::new();
            let mut acc = random_values("nearest acc", 2 * m);
            let mut expected = acc.clone();
            let value = |i: usize| [1.0 + i as f64, 0.5 - i as f64];
            tiles.map_nearest(rows.view(), 2, &mut scratch, &mut acc, |i, nearest, u| {
                found.push(nearest);
                u.copy_from_slice(&value(i));
            });
            let u: Vec<f64> = (0..37).flat_map(value).collect();
            tiles.kt_u(rows.view(), &u, 2, &mut scratch, &mut expected);
            assert_eq!(acc, expected, "{family:?} {simd} {m}");
            for (i, nearest) in found.iter().enumerate() {
                let score = |j: usize| entries[i * m + j].into().powi(2) / kernel.diagonal(centers.view(), j);
                let best = (0..m).map(score).filter(|s| s.is_finite()).fold(0.0, f64::max);
                let (k, norm) =
                    (entries[i * m + nearest.center].into(), kernel.diagonal(centers.view(), nearest.center));
                let near = if size_of::<T>() == 4 { 1e-6 } else { 1e-14 };
                if best < 1e-35 {
                    // Squares of f32 entries end there.
                    assert!(nearest.share < 1e-34, "{family:?} {simd} {m}: row {i}, {nearest:?}");
                    continue;
                }
                assert!(score(nearest.center) >= best * (1.0 - near), "{family:?} {simd} {m}: row {i}, {nearest:?}");
                assert!((nearest.share - (k / norm).powi(2)).abs() <= near * nearest.share, "{family:?} {simd} {m}");
                assert!(![18, 20].contains(&nearest.center) || m <= 20, "{family:?} {simd} {m}: not the first");
            }
        }
    }
}

#[test]
fn nearest_centers_are_those_of_the_entries() {
    nearest_is_the_first_largest::<f32>();
    nearest_is_the_first_largest::<f64>();
}

#[test]
fn a_row_that_no_center_reaches_has_no_share() {
    let kernel = Kernel::new(Family::Gaussian, 1e-3);
    for simd in SimdPath::available() {
        let tiles = Tiles::<f32>::new(&kernel, Rows::new(&[0.0; 20], 1, &[], 0), &[], simd).unwrap();
        let mut found = Vec::new();
        let rows = Rows::new(&[1e3, 0.0], 1, &[], 0);
        tiles.map_nearest(rows, 0, &mut TileScratch::new(), &mut [], |_, nearest, _| found.push(nearest));
        assert_eq!(found, [Nearest { center: 0, share: 0.0 }, Nearest { center: 0, share: 1.0 }], "{simd}");
    }
}
