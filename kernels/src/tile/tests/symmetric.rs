//! Products with K(Z, Z) that use an entry twice, against sums over the matrix.

use super::*;

fn check<T: Entry + std::fmt::Debug>() {
    for (m, d, codes) in [(1, 2, 0), (7, 3, 1), (64, 5, 0), (211, 6, 1), (700, 10, 0)] {
        let z = random_rows("z", m, d, codes);
        for family in FAMILIES.into_iter().take(if m < 100 { 15 } else { 1 }) {
            for simd in SimdPath::available() {
                let kernel = Kernel::new(family, bandwidth(family, d, codes));
                let tiles = Tiles::<T>::new(&kernel, z.view(), &[], simd).unwrap();
                let k: Vec<f64> = block(&tiles, z.view()).iter().map(|k| k.to_f64()).collect();
                let mut scratch = TileScratch::new();
                for t in [0, 1, 2, 9] {
                    let (v, start) = (random_values("v", m * t), random_values("acc", m * t));
                    let mut whole = start.clone();
                    tiles.symmetric_k_v(z.view(), 0, &v, t, &mut scratch, &mut whole);
                    for (at, &sum) in whole.iter().enumerate() {
                        let terms = (0..m).map(|j| k[at / t * m + j] * v[j * t + at % t]);
                        let size: f64 = terms.clone().map(f64::abs).sum::<f64>() + start[at].abs();
                        let error = (sum - start[at] - terms.sum::<f64>()).abs();
                        assert!(error <= 1e-14 * size, "{simd} {family:?} m {m} t {t} at {at}: {error:e} of {size}");
                    }
                    // In runs, each on an accumulator of its own: the parts add up, and are the same whatever the runs of others.
                    let part = |from: usize, to: usize, scratch: &mut TileScratch<T>| {
                        let mut acc = vec![0.0; m * t];
                        tiles.symmetric_k_v(z.view().slice(from, to), from, &v, t, scratch, &mut acc);
                        acc
                    };
                    let (a, b) = (part(0, m / 3, &mut scratch), part(m / 3, m, &mut scratch));
                    for (at, sum) in whole.iter().enumerate() {
                        let size: f64 = (0..m).map(|j| (k[at / t * m + j] * v[j * t + at % t]).abs()).sum();
                        let error = (start[at] + a[at] + b[at] - sum).abs();
                        assert!(error <= 1e-14 * (size + start[at].abs()), "{simd} {family:?} m {m} t {t} at {at}");
                    }
                    assert_eq!(part(m / 3, m, &mut TileScratch::new()), b, "{simd} {family:?} m {m} t {t}");
                }
            }
        }
    }
}

#[test]
fn entries_of_a_symmetric_matrix_serve_twice() {
    check::<f32>();
    check::<f64>();
}

#[test]
fn runs_may_be_cut_anywhere() {
    let m = 331;
    let z = random_rows("z", m, 4, 0);
    for simd in SimdPath::available() {
        let tiles = Tiles::<f32>::new(&Kernel::new(Family::Gaussian, 2.0), z.view(), &[], simd).unwrap();
        let mut scratch = TileScratch::new();
        for t in [1, 3] {
            let v = random_values("v", m * t);
            let mut run = |cuts: &[usize]| {
                let mut acc = random_values("acc", m * t);
                for cut in cuts.windows(2) {
                    let rows = z.view().slice(cut[0], cut[1]);
                    tiles.symmetric_k_v(rows, cut[0], &v, t, &mut scratch, &mut acc);
                }
                acc
            };
            let whole = run(&[0, m]);
            for cuts in [&[0, 1, 2, 95, 97, m][..], &[0, 64, 64, 300, m]] {
                assert_eq!(run(cuts), whole, "{simd} t {t} {cuts:?}");
            }
        }
    }
}
