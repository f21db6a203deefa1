//! Calibrated variances: the likelihood against a brute-force search, and the constraint far from all rows.

use super::*;

/// Weighted mean of ln v + e^2 / v with v = noise + signal q.
fn loss(rows: &[(f64, f64, f64)], noise: f64, signal: f64) -> f64 {
    let term = |(e, q, w): &(f64, f64, f64)| {
        let v = noise + signal * q;
        w * (v.ln() + e * e / v)
    };
    rows.iter().map(term).sum::<f64>() / rows.iter().map(|row| row.2).sum::<f64>()
}

/// Rows whose errors have the variance noise + signal q, q over three decades.
fn drawn(count: usize, noise: f64, signal: f64, weighted: bool) -> Vec<(f64, f64, f64)> {
    let key = StreamKey::new(3, "calibration-test", 0);
    let uniform = |i: usize, k: usize| key.uniform(RowId((k << 40 | i) as u128));
    let row = |i: usize| {
        let q = 10f64.powf(-3.0 * uniform(i, 0));
        let w = if weighted { 0.5 + uniform(i, 1) } else { 1.0 };
        // Box and Muller.
        let normal = (-2.0 * (1.0 - uniform(i, 2)).ln()).sqrt() * (std::f64::consts::TAU * uniform(i, 3)).cos();
        (normal * (noise + signal * q).sqrt(), q, w)
    };
    (0..count).map(row).collect()
}

fn collected(rows: &[(f64, f64, f64)]) -> LeftOutRows {
    let mut all = LeftOutRows::default();
    rows.iter().for_each(|(e, q, w)| all.push(*e, *q, *w));
    all
}

#[test]
fn the_scales_are_those_that_drew_the_errors_and_no_others_are_likelier() {
    for (noise, signal, weighted) in [(0.1, 2.0, false), (1e-6, 30.0, true), (4.0, 1e-3, true)] {
        let rows = drawn(20_000, noise, signal, weighted);
        let found = collected(&rows).calibrate(1.0, 0.0).unwrap();
        assert_eq!(found.rows, rows.len());
        assert!((found.mean_square - 1.0).abs() < 1e-9, "{found:?}");
        assert!((found.within_95 - 0.95).abs() < 0.006, "{found:?}");
        let least = loss(&rows, found.noise, found.signal);
        assert!(least <= loss(&rows, noise, signal));
        for a in -60..=60 {
            for b in -60..=60 {
                let (noise, signal) =
                    (found.noise * 2f64.powf(a as f64 / 4.0), found.signal * 2f64.powf(b as f64 / 4.0));
                assert!(least <= loss(&rows, noise, signal) + 1e-12, "{noise} {signal} beat {found:?}");
            }
        }
        // The larger of the two parts is what the errors tell most about.
        if noise < signal {
            assert!((found.signal / signal - 1.0).abs() < 0.05, "{found:?}");
        } else {
            assert!((found.noise / noise - 1.0).abs() < 0.05, "{found:?}");
        }
    }
}

/// Latent variances that tell nothing: far from all rows the variance is the target's nevertheless.
#[test]
fn far_from_all_rows_the_variance_is_at_least_that_of_the_target() {
    let mut rows = drawn(4000, 0.2, 0.0, false);
    rows.iter_mut().for_each(|row| row.1 *= 0.05);
    let (diagonal, spread) = (2.0, 1.5);
    let found = collected(&rows).calibrate(diagonal, spread).unwrap();
    assert!((found.noise + found.signal * diagonal - spread).abs() < 1e-12, "{found:?}");
    let least = loss(&rows, found.noise, found.signal);
    for step in 1..4000 {
        let signal = spread / diagonal * f64::from(step) / 4000.0;
        assert!(least <= loss(&rows, spread - signal * diagonal, signal) + 1e-9);
    }
    // Rows say enough where they are: their errors remain in proportion.
    assert!((0.8..1.2).contains(&found.mean_square), "{found:?}");
}

#[test]
fn too_little_is_no_calibration() {
    let rows = drawn(9, 1.0, 1.0, false);
    assert_eq!(collected(&rows).calibrate(1.0, 1.0), None);
    let mut all = LeftOutRows::default();
    for i in 0..50 {
        // Exact, without a target, or predicted by itself alone.
        all.push(0.0, 0.1, 1.0);
        all.push(f64::NAN, 0.1, 1.0);
        all.push(f64::INFINITY, 0.1, 1.0);
        all.push(1.0, 0.1, if i % 2 == 0 { 0.0 } else { f64::NAN });
    }
    assert_eq!(all.calibrate(1.0, 1.0), None);
    // No latent variance anywhere: all is noise.
    let mut flat = LeftOutRows::default();
    (0..50).for_each(|i| flat.push(f64::from(i % 2), 0.0, 1.0));
    let found = flat.calibrate(1.0, 0.0).unwrap();
    assert!((found.noise - 0.5).abs() < 1e-12 && found.signal == 0.0, "{found:?}");
}
