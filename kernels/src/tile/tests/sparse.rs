//! What is left out of sparse products against the definition of the kernel, and the shapes of their sums.

use super::*;
use crate::constants::SPARSE_BLOCK;

/// Families with bandwidths at which some blocks of standard normal points matter and others do not.
const NARROW: [(Family, f64); 8] = [
    (Family::Gaussian, 0.12),
    (Family::Laplace, 0.05),
    (Family::Matern12, 0.04),
    (Family::Matern32, 0.06),
    (Family::Matern52, 0.08),
    (Family::Cauchy, 1e-3),
    (Family::Wendland { smoothness: 2, dimension: 3 }, 0.6),
    (Family::Wendland { smoothness: 4, dimension: 3 }, 0.6),
];

fn identity(m: usize) -> Vec<f64> {
    (0..m * m).map(|at| f64::from(u8::from(at / m == at % m))).collect()
}

/// K~ (n x m), and for each entry the bound on what it lacks.
fn matrix<T: Entry>(tiles: &SparseTiles<T>, x: Rows<'_>) -> (Vec<f64>, Vec<f64>) {
    let m = tiles.centers();
    let (mut k, mut bounds) = (vec![f64::NAN; x.len() * m], vec![f64::NAN; x.len() * m]);
    let v = tiles.vectors(&identity(m), m);
    tiles.k_v(x, &v, &mut SparseScratch::new(), &mut k, &mut bounds);
    (k, bounds)
}

fn check_what_is_left_out<T: Entry + std::fmt::Debug>(cutoff: f64) {
    for (d, codes, m) in [(1, 0, 300), (3, 0, 517), (2, 1, 400), (6, 2, 450), (0, 2, 200), (3, 0, 40), (11, 1, 300)] {
        let (x, z) = (random_rows("x", 12, d, codes), random_rows("z", m, d, codes));
        for (family, bandwidth) in NARROW {
            for metric in metrics(d, codes) {
                let kernel = Kernel { family, bandwidth, metric };
                let offset = vec![0.25; d];
                let exact = |i, j| kernel.evaluate(x.view(), i, z.view(), j);
                for simd in SimdPath::available() {
                    let dense = kernel_matrix::<T>(&kernel, x.view(), z.view(), &offset, simd).unwrap();
                    let tiles = SparseTiles::<T>::new(&kernel, z.view(), &offset, simd, cutoff).unwrap();
                    let (k, bounds) = matrix(&tiles, x.view());
                    let mut missing = vec![0.0; 12];
                    tiles.missing(x.view(), &mut SparseScratch::new(), &mut missing);
                    for (i, missing) in missing.iter().enumerate() {
                        let mut square = 0.0;
                        for j in 0..m {
                            let (at, name) = (i * m + j, format!("{simd} {kernel:?} ({i}, {j})"));
                            assert!((0.0..=cutoff * (1.0 + 1e-11)).contains(&bounds[at]), "{name}: {:e}", bounds[at]);
                            // A kept entry is that of the dense tiles; one left out is no more than its bound, which is 0 for kept ones.
                            if bounds[at] > 0.0 || k[at] != dense[at].to_f64() {
                                assert_eq!(k[at], 0.0, "{name}");
                                assert!(exact(i, j) <= bounds[at], "{name}: {:e}, {:e}", exact(i, j), bounds[at]);
                                square += exact(i, j).powi(2);
                            }
                        }
                        assert!(square <= *missing && *missing <= 1.01 * m as f64 * cutoff * cutoff, "{kernel:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_left_out_is_within_its_bound() {
    check_what_is_left_out::<f64>(1e-5);
    check_what_is_left_out::<f32>(1e-9);
    check_what_is_left_out::<f64>(0.0);
}

fn check_products<T: Entry + std::fmt::Debug>() {
    let (n, m) = (210, 1300);
    let (x, z) = (random_rows("x", n, 3, 1), random_rows("z", m, 3, 1));
    for (family, bandwidth) in NARROW {
        for simd in SimdPath::available() {
            let kernel = Kernel::new(family, bandwidth);
            let tiles = SparseTiles::<T>::new(&kernel, z.view(), &[], simd, 1e-6).unwrap();
            let (k, _) = matrix(&tiles, x.view());
            let kept = k.iter().filter(|k| **k != 0.0).count();
            assert!(kept > n && kept < n * m / 2, "{family:?} keeps {kept} entries");
            let mut scratch = SparseScratch::new();
            for (t, s) in [(1, 1), (2, 1), (1, 3), (5, 4), (0, 2), (3, 0), (0, 1), (1, 0)] {
                let (v, start) = (random_values("v", m * t), random_values("acc", m * s));
                let function = |i: usize, kv: &[f64], c: usize| 1.0 + (i % 5 + c) as f64 + kv.iter().sum::<f64>();
                let (mut kv, mut expected) = (vec![0.0; n * t], start.clone());
                for i in 0..n {
                    for c in 0..t {
                        kv[i * t + c] = (0..m).map(|j| k[i * m + j] * v[j * t + c]).sum();
                    }
                    for j in 0..m {
                        for c in 0..s {
                            expected[j * s + c] += k[i * m + j] * function(i, &kv[i * t..(i + 1) * t], c);
                        }
                    }
                }
                let vectors = tiles.vectors(&v, t);
                let (mut acc, mut seen, mut bounds) = (start.clone(), vec![0.0; n * t], vec![0.0; n * t]);
                let evaluated =
                    tiles.map_rows(x.view(), Some(&vectors), s, &mut scratch, &mut acc, |i, kv, bound, u| {
                        seen[i * t..(i + 1) * t].copy_from_slice(kv);
                        bounds[i * t..(i + 1) * t].copy_from_slice(bound.bounds);
                        u.iter_mut().enumerate().for_each(|(c, u)| *u = function(i, kv, c));
                    });
                assert!(evaluated as usize >= kept && (evaluated as usize) < n * m, "{evaluated} of {kept}");
                let close =
                    |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-11 * (1.0 + b.abs()));
                assert!(close(&seen, &kv), "{simd} {family:?} t {t}");
                assert!(close(&acc, &expected), "{simd} {family:?} t {t} s {s}");
                for c in 0..t {
                    let sum: f64 = (0..m).map(|j| v[j * t + c].abs()).sum();
                    assert!((0..n).all(|i| bounds[i * t + c] <= 1.000_001e-6 * sum));
                }
                // The separate forms have the same bits.
                if t > 0 {
                    let (mut out, mut again) = (vec![f64::NAN; n * t], vec![f64::NAN; n * t]);
                    tiles.k_v(x.view(), &vectors, &mut scratch, &mut out, &mut again);
                    assert_eq!((out, again), (seen.clone(), bounds));
                }
                let u: Vec<f64> =
                    (0..n * s).map(|at| function(at / s, &seen[at / s * t..(at / s + 1) * t], at % s)).collect();
                let mut again = start.clone();
                tiles.kt_u(x.view(), &u, s, &mut scratch, &mut again);
                assert_eq!(again, acc);
            }
        }
    }
}

#[test]
fn sparse_products_are_sums_over_the_kept_entries() {
    check_products::<f32>();
    check_products::<f64>();
}

/// A fused product over pieces of the rows.
fn pieces(tiles: &SparseTiles<f32>, x: Rows<'_>, t: usize, cuts: &[usize]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let m = tiles.centers();
    let vectors = tiles.vectors(&random_values("v", m * t), t);
    let (mut acc, mut kv, mut bounds) = (random_values("acc", m * t), Vec::new(), Vec::new());
    let mut scratch = SparseScratch::new();
    for cut in cuts.windows(2) {
        let rows = x.slice(cut[0], cut[1]);
        tiles.map_rows(rows, Some(&vectors), t, &mut scratch, &mut acc, |_, row, bound, u| {
            kv.extend_from_slice(row);
            bounds.extend_from_slice(bound.bounds);
            u.copy_from_slice(row);
        });
    }
    (kv, bounds, acc)
}

#[test]
fn rows_of_sparse_products_may_be_cut_anywhere() {
    // With 1,300 centers all kept, the second kernel's entries do not fit the memory of one step.
    let (x, z) = (random_rows("x", 2500, 3, 0), random_rows("z", 1300, 3, 0));
    for simd in SimdPath::available() {
        for bandwidth in [0.1, 3.0] {
            let kernel = Kernel::new(Family::Gaussian, bandwidth);
            let tiles = SparseTiles::<f32>::new(&kernel, z.view(), &[], simd, 1e-8).unwrap();
            for t in [1, 3] {
                let whole = pieces(&tiles, x.view(), t, &[0, 2500]);
                for cuts in [vec![0, 1, 2, 2500], vec![0, 700, 701, 1999, 2500]] {
                    assert_eq!(pieces(&tiles, x.view(), t, &cuts), whole, "{simd} {bandwidth} t {t}");
                }
            }
        }
    }
}

#[test]
fn both_products_keep_the_same_entries() {
    let (x, z) = (random_rows("x", 50, 4, 1), random_rows("z", 333, 4, 1));
    for simd in SimdPath::available() {
        let tiles = SparseTiles::<f64>::new(&Kernel::new(Family::Matern32, 0.2), z.view(), &[], simd, 1e-4).unwrap();
        let (k, _) = matrix(&tiles, x.view());
        let mut transposed = vec![0.0; 333 * 50];
        tiles.kt_u(x.view(), &identity(50), 50, &mut SparseScratch::new(), &mut transposed);
        assert!((0..50 * 333).all(|at| k[at] == transposed[at % 333 * 50 + at / 333]), "{simd}");
    }
}

#[test]
fn the_norm_cutoff_bounds_the_norm() {
    let (n, m) = (120, 800);
    let (x, z) = (random_rows("x", n, 2, 0), random_rows("z", m, 2, 0));
    let kernel = Kernel::new(Family::Gaussian, 0.15);
    for epsilon in [1e-1, 1e-3, 1e-6] {
        let cutoff = norm_cutoff(epsilon, n as u64, m);
        let tiles = SparseTiles::<f64>::new(&kernel, z.view(), &[], SimdPath::detect(), cutoff).unwrap();
        let (k, _) = matrix(&tiles, x.view());
        let exact = |at: usize| kernel.evaluate(x.view(), at / m, z.view(), at % m);
        let square: f64 = (0..n * m).map(|at| if k[at] == 0.0 { exact(at).powi(2) } else { 0.0 }).sum();
        let left_out = k.iter().filter(|k| **k == 0.0).count();
        assert!(square.sqrt() <= epsilon && left_out > n * m / 10, "{epsilon}: {square:e}, {left_out}");
    }
}

#[test]
fn blocks_hold_every_center_once_and_are_compact() {
    let z = random_rows("z", 64 * 37 + 5, 3, 0);
    let kernel = Kernel::new(Family::Gaussian, 1.0);
    let tiles = SparseTiles::<f32>::new(&kernel, z.view(), &[], SimdPath::Portable, 0.0).unwrap();
    let mut order = tiles.order().to_vec();
    // A block's volume is far below that of as many centers in a row.
    let extent = |centers: &[usize], k: usize| {
        let values = centers.iter().map(|&j| z.view().numeric(j)[k]);
        values.clone().fold(f32::MIN, f32::max) - values.fold(f32::MAX, f32::min)
    };
    let extents: Vec<f32> = order.chunks(SPARSE_BLOCK).map(|block| (0..3).map(|k| extent(block, k)).sum()).collect();
    let usual: f32 = (0..3).map(|k| extent(&(0..SPARSE_BLOCK).collect::<Vec<_>>(), k)).sum();
    let mean = extents.iter().sum::<f32>() / extents.len() as f32;
    assert!(mean < 0.4 * usual, "{mean} {usual}");
    order.sort_unstable();
    assert!(order.into_iter().eq(0..64 * 37 + 5));
    // Equal centers stay in their order, and a row keeps all or none.
    let same = Rows::new(&[0.5; 1000], 1, &[], 0);
    let tiles = SparseTiles::<f32>::new(&kernel, same, &[], SimdPath::detect(), 1e-6).unwrap();
    assert!(tiles.order().iter().copied().eq(0..1000));
    let (v, mut kv, mut bounds) = (tiles.vectors(&[1.0; 1000], 1), [0.0; 2], [0.0; 2]);
    let x = Rows::new(&[0.5, 9.0], 1, &[], 0);
    assert_eq!(tiles.k_v(x, &v, &mut SparseScratch::new(), &mut kv, &mut bounds), 1000);
    assert!(kv == [1000.0, 0.0] && bounds[0] == 0.0 && bounds[1] > 0.0 && bounds[1] < 1e-3);
}

#[test]
fn sparse_tiles_take_what_was_promised() {
    for (m, d, codes) in [(1, 1, 0), (64, 0, 3), (200, 11, 2), (4097, 3, 1)] {
        let centers = random_rows("memory", m, d, codes);
        let kernel = Kernel::new(Family::Gaussian, 1.0);
        for simd in SimdPath::available() {
            let tiles = SparseTiles::<f32>::new(&kernel, centers.view(), &[], simd, 1e-6).unwrap();
            let (held, promised) = (tiles.held_bytes(), SparseTiles::<f32>::memory_bytes(m, d, codes));
            assert!(held <= promised, "{simd} {m} {d} {codes}: {held} of {promised}");
            // Every block is kept: the most that a scratch can take.
            let wide = SparseTiles::<f32>::new(&Kernel::new(Family::Gaussian, 1e3), centers.view(), &[], simd, 1e-6);
            let (wide, x) = (wide.unwrap(), random_rows("x", 100, d, codes));
            for (t, s) in [(1, 0), (1, 1), (3, 0), (3, 5), (0, 2), (17, 17)] {
                let (mut scratch, v) = (SparseScratch::new(), wide.vectors(&vec![1.0; m * t], t));
                let evaluated =
                    wide.map_rows(x.view(), Some(&v), s, &mut scratch, &mut vec![0.0; m * s], |_, _, _, _| {});
                assert_eq!(evaluated, (100 * m) as u64);
                assert_eq!(evaluated, wide.kept_entries(x.view(), &mut SparseScratch::new()));
                let (held, promised) =
                    (scratch.held_bytes(), SparseScratch::<f32>::memory_bytes(100, m, d, codes, t, s));
                assert!(held <= promised, "{simd} {m} {d} {codes} {t} {s}: {held} of {promised}");
            }
        }
    }
}

#[test]
fn far_rows_and_none_are_sparse_products_too() {
    let kernel = Kernel::new(Family::Laplace, 1.0);
    let (simd, none) = (SimdPath::detect(), RowBuf::new(2, 0));
    let z = random_rows("z", 100, 2, 0);
    let values = [3e38, -3e38, 1e-45, 0.0, 0.0, 1e30];
    let x = Rows::new(&values, 2, &[], 0);
    let mut scratch = SparseScratch::new();
    let tiles = SparseTiles::<f32>::new(&kernel, z.view(), &[], simd, 1e-9).unwrap();
    let (mut out, mut bounds) = ([1.0; 3], [1.0; 3]);
    tiles.k_v(x, &tiles.vectors(&[1.0; 100], 1), &mut scratch, &mut out, &mut bounds);
    assert!(out[0] == 0.0 && out[2] == 0.0 && out[1] > 1.0, "{out:?}");
    assert!(bounds[0] < 1e-100 && bounds[2] < 1e-100, "{bounds:?}");
    let tiles = SparseTiles::<f32>::new(&kernel, none.view(), &[], simd, 1e-9).unwrap();
    assert_eq!(tiles.k_v(x, &tiles.vectors(&[], 1), &mut scratch, &mut out, &mut bounds), 0);
    assert_eq!((out, bounds), ([0.0; 3], [0.0; 3]));
    let tiles = SparseTiles::<f32>::new(&kernel, z.view(), &[], simd, 1e-9).unwrap();
    let mut acc = [2.0; 100];
    tiles.kt_u(none.view(), &[], 1, &mut scratch, &mut acc);
    assert_eq!(acc, [2.0; 100]);
    for cutoff in [-1e-9, 1.0, f64::NAN] {
        let error = SparseTiles::<f32>::new(&kernel, z.view(), &[], simd, cutoff).unwrap_err();
        assert!(matches!(error, TileError::Cutoff { .. }));
    }
    let mut z = z;
    z.numeric[141] = f32::NAN;
    let error = SparseTiles::<f32>::new(&kernel, z.view(), &[], simd, 0.0).unwrap_err();
    assert!(matches!(error, TileError::NonFiniteCenter { row: 70, column: 1, .. }), "{error:?}");
}

#[test]
#[should_panic(expected = "v must be of these tiles")]
fn vectors_of_other_tiles_are_refused() {
    let tiles = |stage| {
        let z = random_rows(stage, 300, 2, 0);
        SparseTiles::<f32>::new(&Kernel::new(Family::Gaussian, 1.0), z.view(), &[], SimdPath::detect(), 0.0).unwrap()
    };
    let (mut kv, mut bounds) = ([0.0], [0.0]);
    let v = tiles("others").vectors(&[1.0; 300], 1);
    tiles("these").k_v(Rows::new(&[0.0; 2], 2, &[], 0), &v, &mut SparseScratch::new(), &mut kv, &mut bounds);
}
