//! The fused products with f32 vectors, against chains over the same entries.

use super::*;

/// acc += K^T W (K v) as the documentation states it, one entry after another: bit for bit what the tiles must give.
fn chains(simd: SimdPath, k: &[f32], kv: &[f32], weights: Option<&[f32]>, acc: &mut [f32]) {
    let m = acc.len();
    for (i, &kv) in kv.iter().enumerate() {
        let u = weights.map_or(kv, |w| w[i] * kv);
        for (acc, &k) in acc.iter_mut().zip(&k[i * m..(i + 1) * m]) {
            *acc = if simd == SimdPath::Portable { u * k + *acc } else { u.mul_add(k, *acc) };
        }
    }
}

#[test]
fn both_products_are_the_chains_of_the_documentation() {
    for (n, m, d, codes) in [(1, 1, 1, 0), (7, 5, 6, 1), (13, 130, 3, 1), (29, 64, 12, 0), (215, 1030, 6, 0)] {
        let (x, z) = (random_rows("x", n, d, codes), random_rows("z", m, d, codes));
        let v: Vec<f32> = random_values("v", m).iter().map(|&v| v as f32).collect();
        let w: Vec<f32> = random_values("w", n).iter().map(|&w| w as f32).collect();
        let start: Vec<f32> = random_values("acc", m).iter().map(|&a| a as f32).collect();
        // All families where that is quick.
        for family in FAMILIES.into_iter().take(if n < 100 { 15 } else { 1 }) {
            let kernel = Kernel::new(family, bandwidth(family, d, codes));
            for simd in SimdPath::available() {
                let tiles = Tiles::<f32>::new(&kernel, z.view(), &[], simd).unwrap();
                let (mut scratch, mut kv) = (TileScratch::new(), vec![0.0; n]);
                let k = block(&tiles, x.view());
                tiles.k_v_f32(x.view(), &v, &mut scratch, &mut kv);
                for weights in [None, Some(&w[..])] {
                    let mut expected = start.clone();
                    chains(simd, &k, &kv, weights, &mut expected);
                    let mut acc = start.clone();
                    tiles.kt_kv_f32(x.view(), weights, &v, &mut scratch, &mut acc);
                    assert_eq!(acc, expected, "{simd} {family:?} n {n} m {m}");
                    // Cut anywhere.
                    let mut pieces = start.clone();
                    for (from, to) in [(0, n / 3), (n / 3, n / 3), (n / 3, n)] {
                        let weights = weights.map(|w| &w[from..to]);
                        tiles.kt_kv_f32(x.view().slice(from, to), weights, &v, &mut scratch, &mut pieces);
                    }
                    assert_eq!(pieces, expected, "{simd} {family:?} n {n} m {m}, in pieces");
                }
            }
        }
    }
}

#[test]
fn both_products_of_f64_entries_are_rounded_once() {
    for (n, m) in [(7, 5), (130, 300)] {
        let (x, z) = (random_rows("x", n, 6, 1), random_rows("z", m, 6, 1));
        let v: Vec<f32> = random_values("v", m).iter().map(|&v| v as f32).collect();
        for simd in SimdPath::available() {
            let tiles = Tiles::<f64>::new(&Kernel::new(Family::Matern52, 2.5), z.view(), &[], simd).unwrap();
            let (mut scratch, mut narrow, mut wide) = (TileScratch::new(), vec![1f32; m], vec![1f64; m]);
            tiles.kt_kv_f32(x.view(), None, &v, &mut scratch, &mut narrow);
            let v: Vec<f64> = v.iter().map(|&v| f64::from(v)).collect();
            tiles.kt_kv(x.view(), None, &v, 1, &mut scratch, &mut wide);
            for (narrow, wide) in narrow.iter().zip(&wide) {
                assert!((f64::from(*narrow) - wide).abs() <= 7e-8 * wide.abs() + 1e-11, "{simd}: {narrow} {wide}");
            }
        }
    }
}

/// The padding of a group of rows is a row of zeros, whose entry with a far center is infinite here: it must reach no sum.
#[test]
fn padding_that_is_not_finite_reaches_no_sum() {
    let kernel = Kernel::new(Family::Polynomial { degree: 30, offset: 1e3 }, 1.0);
    let rows = Rows::new(&[-999.0; 25], 1, &[], 0);
    for simd in SimdPath::available() {
        // Whole panels on every path.
        let tiles = Tiles::<f32>::new(&kernel, Rows::new(&[1.0; 64], 1, &[], 0), &[], simd).unwrap();
        let (mut scratch, mut acc) = (TileScratch::new(), [0f32; 64]);
        tiles.kt_kv_f32(rows, None, &[1.0; 64], &mut scratch, &mut acc);
        tiles.kt_kv_f32(rows.slice(0, 7), None, &[1.0; 64], &mut scratch, &mut acc);
        assert_eq!(acc, [2048.0; 64], "{simd}");
    }
}
