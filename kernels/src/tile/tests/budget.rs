//! Budgets of rows against dense products in f64: what is left out, and what is drawn over many seeds.

use super::*;

const FAMILIES: [(Family, f64); 5] = [
    (Family::Gaussian, 0.15),
    (Family::Laplace, 0.1),
    (Family::Matern32, 0.12),
    (Family::Matern52, 0.12),
    (Family::Cauchy, 0.02),
];

fn ids(n: usize) -> Vec<RowId> {
    (0..n).map(|i| RowId(7 + (i as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))).collect()
}

/// K (n x m) by the definition.
fn dense(kernel: &Kernel, x: Rows<'_>, z: Rows<'_>) -> Vec<f64> {
    let m = z.len();
    (0..x.len() * m).map(|at| kernel.evaluate(x, at / m, z, at % m)).collect()
}

/// Tiles for products with `v` of `t` columns over `n` rows, drawing by `seed`, and V in their order.
fn drawing<T: Entry>(
    (kernel, z, simd): (&Kernel, Rows<'_>, SimdPath),
    (epsilon, n): (f64, u64),
    (v, t): (&[f64], usize),
    seed: Option<u64>,
) -> (SparseTiles<T>, SparseVectors) {
    let margin = if seed.is_some() { Budget::margin(n) } else { 1.0 };
    let tiles = SparseTiles::<T>::new(kernel, z, &[], simd, norm_cutoff(margin * epsilon, n, z.len())).unwrap();
    let vectors = tiles.vectors(v, t);
    let draws = seed.map(|seed| StreamKey::new(seed, "test", 0));
    let budget = Budget::new(&tiles, (epsilon, n), Some(&vectors), draws);
    (tiles.within(budget), vectors)
}

/// K~ v, bounds, spreads and entries.
type Formed = (Vec<f64>, Vec<f64>, Vec<Spread>, u64);

fn form<T: Entry>(tiles: &SparseTiles<T>, v: &SparseVectors, x: Rows<'_>, ids: &[RowId]) -> Formed {
    let (mut kv, mut bounds, mut spreads) = (vec![], vec![], vec![]);
    let rows = DrawnRows { rows: x, ids };
    let entries = tiles.map_rows(rows, Some(v), 0, &mut SparseScratch::new(), &mut [], |_, row, missing, _| {
        kv.extend_from_slice(row);
        bounds.extend_from_slice(missing.bounds);
        spreads.push(missing.spread);
    });
    (kv, bounds, spreads, entries)
}

fn product(k: &[f64], v: &[f64], m: usize, t: usize) -> Vec<f64> {
    let of = |i: usize, c: usize| (0..m).map(|j| k[i * m + j] * v[j * t + c]).sum();
    (0..k.len() / m * t).map(|at| of(at / t, at % t)).collect()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// The norm of the difference.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    norm(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

#[test]
fn what_rows_leave_out_is_within_their_budget() {
    let (n, m, t) = (60, 900, 2);
    for d in 1..=5 {
        let (x, z) = (random_rows("x", n, d, 0), random_rows("z", m, d, 0));
        let v = random_values("v", m * t);
        for (family, bandwidth) in FAMILIES {
            let kernel = Kernel::new(family, bandwidth * d as f64 / 3.0);
            let exact = dense(&kernel, x.view(), z.view());
            let truth = product(&exact, &v, m, t);
            for simd in SimdPath::available() {
                for epsilon in [1e-6, 0.3] {
                    let name = format!("{simd} d {d} {family:?} {epsilon}");
                    let cutoff = norm_cutoff(epsilon, n as u64, m);
                    let wary = SparseTiles::<f64>::new(&kernel, z.view(), &[], simd, cutoff).unwrap();
                    let plain = wary.kept_entries(x.view(), &mut SparseScratch::new());
                    // With V: every row and column has its own part of the tolerance.
                    let (tiles, vectors) =
                        drawing::<f64>((&kernel, z.view(), simd), (epsilon, n as u64), (&v, t), None);
                    let (kv, bounds, spreads, entries) = form(&tiles, &vectors, x.view(), &[]);
                    assert!(entries <= plain, "{name}: {entries} of {plain}");
                    for (i, spread) in spreads.iter().enumerate() {
                        assert_eq!((spread.variance, spread.largest), (0.0, 0.0));
                        for c in 0..t {
                            let (at, size) = (i * t + c, vectors.norms()[c]);
                            let allowed = epsilon / (n as f64).sqrt() * size;
                            let error = (kv[at] - truth[at]).abs();
                            assert!(error <= bounds[at] + 1e-11 * size, "{name}: {error:e} {:e}", bounds[at]);
                            assert!(bounds[at] <= 1.000_01 * allowed, "{name}: {:e} {allowed:e}", bounds[at]);
                            assert!(bounds[at] <= 1.000_01 * spread.left_out * size, "{name}");
                        }
                    }
                    // With any: the Frobenius norm.
                    let budget = Budget::new(&wary, (epsilon, n as u64), None, None);
                    let tiles = wary.within(budget);
                    let identity: Vec<f64> = (0..m * m).map(|at| f64::from(u8::from(at / m == at % m))).collect();
                    let (kept, _, _, few) = form(&tiles, &tiles.vectors(&identity, m), x.view(), &[]);
                    assert!(few <= plain, "{name}");
                    assert!(apart(&kept, &exact) <= epsilon + 1e-10, "{name}: {:e}", apart(&kept, &exact));
                    let (kv, bounds, ..) = form(&tiles, &vectors, x.view(), &[]);
                    assert!(norm(&bounds) <= 1.000_01 * epsilon * norm(&v), "{name}: {:e}", norm(&bounds));
                    let within = |at: usize| (kv[at] - truth[at]).abs() <= bounds[at] + 1e-11 * norm(&v);
                    assert!((0..n * t).all(within), "{name}");
                }
            }
        }
    }
}

/// Broad enough that drawing pays: 60 blocks, far rows.
fn broad() -> (Kernel, RowBuf, RowBuf) {
    let kernel = Kernel::new(Family::Laplace, 0.35);
    (kernel, random_rows("x", 40, 2, 0), random_rows("z", 64 * 60, 2, 0))
}

#[test]
fn draws_are_right_on_the_mean_and_no_further_off_than_said() {
    let (kernel, x, z) = broad();
    let (n, m, seeds) = (x.len(), z.len(), 400);
    let (v, ids) = (random_values("v", m), ids(n));
    let exact = dense(&kernel, x.view(), z.view());
    let truth = product(&exact, &v, m, 1);
    // All the rows there are; and a few of many, which then need little margin.
    for (simd, (epsilon, all)) in
        SimdPath::available().into_iter().flat_map(|simd| [(simd, (30.0, 40)), (simd, (47.0, 100_000))])
    {
        let (mut sums, mut squares, mut fourths) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        let (mut missed, mut far_off, mut drawn, mut total) = (0, 0, 0, 0);
        let (mut fixed, mut said, mut left) = (None, vec![], vec![]);
        for seed in 0..seeds {
            let (tiles, vectors) = drawing::<f64>((&kernel, z.view(), simd), (epsilon, all), (&v, 1), Some(seed));
            let (kv, bounds, spreads, entries) = form(&tiles, &vectors, x.view(), &ids);
            total += entries;
            let size = vectors.norms()[0];
            for i in 0..n {
                let error = kv[i] - truth[i];
                sums[i] += error;
                squares[i] += error * error;
                fourths[i] += error.powi(4);
                drawn += usize::from(spreads[i].variance > 0.0);
                far_off += usize::from(error.abs() > bounds[i] + size * spreads[i].beyond(6.0) + 1e-9);
            }
            let mean: f64 = spreads.iter().map(|s| s.left_out * s.left_out + s.variance).sum();
            let fourth: f64 = spreads.iter().map(|s| s.fourth()).sum();
            let promised = (mean + (fourth / crate::constants::DRAW_FAILURE).sqrt()).sqrt();
            assert!(all > n as u64 || promised <= epsilon * (1.0 + 1e-6), "{promised}");
            missed += usize::from(apart(&kv, &truth) > promised * size + 1e-9);
            // What is told does not depend on the draws.
            assert!(*fixed.get_or_insert((bounds.clone(), spreads.clone())) == (bounds.clone(), spreads.clone()));
            said = spreads.iter().map(|s| [s.variance * size * size, s.fourth() * size.powi(4)]).collect();
            left = bounds;
        }
        let count = seeds as f64;
        assert!(drawn > n * seeds as usize / 4, "{drawn} rows draw");
        assert_eq!((missed, far_off), (0, 0), "{simd}");
        for i in 0..n {
            let (mean, variance) = (sums[i] / count, squares[i] / count - (sums[i] / count).powi(2));
            // Five standard errors of the mean.
            assert!(mean.abs() <= left[i] + 5.0 * (variance / count).sqrt() + 1e-9, "{simd} row {i}: {mean:e}");
            assert!(variance <= said[i][0] * 1.5 + 1e-12, "{simd} row {i}: {variance:e} of {:e}", said[i][0]);
            assert!(fourths[i] / count <= said[i][1] * 2.0 + 1e-12, "{simd} row {i}");
        }
        // And drawing keeps fewer than leaving out alone.
        let (tiles, vectors) = drawing::<f64>((&kernel, z.view(), simd), (epsilon, all), (&v, 1), None);
        let (_, _, _, alone) = form(&tiles, &vectors, x.view(), &[]);
        assert!(all == n as u64 || (total as f64) < 0.95 * alone as f64 * count, "{} of {alone}", total as f64 / count);
    }
}

#[test]
fn both_products_draw_the_same_and_rows_may_be_cut_anywhere() {
    let (kernel, x, z) = broad();
    let (n, m) = (x.len(), z.len());
    let (v, u, ids) = (random_values("v", m * 2), random_values("u", n), ids(n));
    for simd in SimdPath::available() {
        let (tiles, vectors) = drawing::<f32>((&kernel, z.view(), simd), (30.0, n as u64), (&v, 2), Some(1));
        let mut scratch = SparseScratch::new();
        let whole = form(&tiles, &vectors, x.view(), &ids);
        let run = |cuts: &[usize], scratch: &mut SparseScratch<f32>| {
            let (mut acc, mut kv) = (vec![0.0; m * 2], vec![]);
            for cut in cuts.windows(2) {
                let rows = DrawnRows { rows: x.view(), ids: &ids }.slice(cut[0], cut[1]);
                tiles.map_rows(rows, Some(&vectors), 2, scratch, &mut acc, |_, row, _, u| {
                    kv.extend_from_slice(row);
                    u.copy_from_slice(row);
                });
            }
            (kv, acc)
        };
        let once = run(&[0, n], &mut scratch);
        assert_eq!(once.0, whole.0, "{simd}");
        for cuts in [vec![0, 1, 7, n], vec![0, 20, 21, n]] {
            assert_eq!(run(&cuts, &mut scratch), once, "{simd}");
        }
        // A row draws the same wherever it stands.
        let turned: Vec<usize> = (0..n).rev().collect();
        let other = RowBuf::gather(x.view(), &turned);
        let other_ids: Vec<RowId> = turned.iter().map(|&i| ids[i]).collect();
        let (kv, ..) = form(&tiles, &vectors, other.view(), &other_ids);
        assert!((0..n).all(|i| kv[2 * i..2 * i + 2] == whole.0[2 * (n - 1 - i)..2 * (n - i)]), "{simd}");
        // u^T (K~ v) = (K~^T u)^T v.
        let mut ktu = vec![0.0; m];
        tiles.kt_u(DrawnRows { rows: x.view(), ids: &ids }, &u, 1, &mut scratch, &mut ktu);
        for c in 0..2 {
            let left: f64 = (0..n).map(|i| u[i] * whole.0[2 * i + c]).sum();
            let right: f64 = (0..m).map(|j| ktu[j] * v[2 * j + c]).sum();
            let size: f64 = (0..m).map(|j| (ktu[j] * v[2 * j + c]).abs()).sum();
            assert!((left - right).abs() <= 1e-12 * size, "{simd}: {left} {right}");
        }
    }
}

#[test]
fn a_tolerance_that_allows_nothing_draws_nothing() {
    let (kernel, x, z) = broad();
    let (v, n) = (random_values("v", z.len()), x.len() as u64);
    let simd = SimdPath::detect();
    let (tiles, vectors) = drawing::<f64>((&kernel, z.view(), simd), (1e-14, n), (&v, 1), Some(1));
    let (kv, bounds, spreads, entries) = form(&tiles, &vectors, x.view(), &ids(x.len()));
    assert_eq!(entries, (x.len() * z.len()) as u64);
    assert!(bounds.iter().all(|b| *b < 1e-14 * norm(&v)) && spreads.iter().all(|s| s.variance == 0.0));
    let plain = SparseTiles::<f64>::new(&kernel, z.view(), &[], simd, 0.0).unwrap();
    let (same, ..) = form(&plain, &plain.vectors(&v, 1), x.view(), &[]);
    assert_eq!(kv, same);
    // Values that are all 0 need no entry.
    let (tiles, vectors) = drawing::<f64>((&kernel, z.view(), simd), (1e-3, n), (&vec![0.0; z.len()], 1), Some(1));
    let (kv, bounds, _, entries) = form(&tiles, &vectors, x.view(), &ids(x.len()));
    assert!(entries == 0 && kv.iter().chain(&bounds).all(|value| *value == 0.0));
}

#[test]
fn the_mean_fourth_power_is_at_most_what_the_margin_takes() {
    for left in (0..=1000).map(|i| f64::from(i) / 1000.0) {
        let spread = Spread { left_out: left, variance: 1.0 - left * left, largest: 1.0 };
        assert!(spread.fourth() <= 5.2);
    }
    let n = 1000.0;
    let margin = Budget::margin(1000);
    assert!((margin * margin * (1.0 + (5.2 / (n * crate::constants::DRAW_FAILURE)).sqrt()) - 1.0).abs() < 1e-12);
}

#[test]
#[should_panic(expected = "rows that draw need identities")]
fn rows_that_draw_need_identities() {
    let (kernel, x, z) = broad();
    let v = random_values("v", z.len());
    let (tiles, vectors) = drawing::<f64>((&kernel, z.view(), SimdPath::detect()), (1e-3, 40), (&v, 1), Some(1));
    form(&tiles, &vectors, x.view(), &[]);
}
