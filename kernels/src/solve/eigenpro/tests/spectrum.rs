//! What the preconditioner does to the spectrum, on the subsample and outside it, and the steps that follow.

use super::*;
use crate::dense::{SEQUENTIAL, symmetric_eigen};

#[test]
fn the_correction_flattens_the_top_of_the_subsample() {
    // Oracle (2): on S the top q eigenvalues become mu_{q+1}, the others stay.
    let stored = Stored::new(gaussian(1.0), 200, 4, 60, 1, 0.1);
    let (q, s) = (8, 60);
    let p = stored.preconditioner(q, 1.0);
    let kss = pick(&stored.k, &stored.sample, &stored.sample);
    let (before, _) = symmetric_eigen(kss.as_ref(), SEQUENTIAL).unwrap();
    let flat = p.kernel(kss.as_ref(), kss.as_ref(), kss.as_ref());
    let (after, _) = symmetric_eigen(flat.as_ref(), SEQUENTIAL).unwrap();
    let tail = before[s - 1 - q];
    assert!((p.tail() - tail).abs() < 1e-12);
    for i in 0..s {
        let expected = before[s - 1 - i].min(tail);
        assert!((after[s - 1 - i] - expected).abs() < 1e-10 * before[s - 1], "{i}");
    }
    // Measured outside S both numbers are larger than on S, and below the kernel's.
    let inside = p.measure(kss.as_ref(), kss.as_ref(), &vec![1.0; s]);
    let outside = stored.measured(&p);
    assert!((inside.top_eigenvalue - tail / s as f64).abs() < 1e-6 * tail, "{inside:?} {tail}");
    assert!(
        outside.top_eigenvalue > inside.top_eigenvalue && outside.diagonal > inside.diagonal,
        "{inside:?} {outside:?}"
    );
    assert!(outside.diagonal <= outside.kernel_diagonal + 1e-12);
    // A subsample of duplicates has rank below q: q is lowered, never divided by rounding.
    let twice = Mat::from_fn(40, 40, |i, j| kss[(i / 8, j / 8)]);
    let p = SubsamplePreconditioner::new(twice.as_ref(), 10, 1.0).unwrap();
    assert!(p.rank() <= 4 && p.tail() > 1e-6, "{} {}", p.rank(), p.tail());
}

/// C = E_q D E_q^T by its formula, from an eigendecomposition of its own.
fn flattened(stored: &Stored, q: usize, rows: &[usize]) -> Mat<f64> {
    let kss = pick(&stored.k, &stored.sample, &stored.sample);
    let s = kss.nrows();
    let (values, vectors) = symmetric_eigen(kss.as_ref(), SEQUENTIAL).unwrap();
    let mu = |i: usize| values[s - 1 - i];
    let e = Mat::from_fn(s, q, |i, j| vectors[(i, s - 1 - j)]);
    let scaled = Mat::from_fn(s, q, |i, j| e[(i, j)] * (1.0 - mu(q) / mu(j)) / mu(j));
    let krs = pick(&stored.k, rows, &stored.sample);
    pick(&stored.k, rows, rows) - (&krs * scaled) * (&krs * e).transpose()
}

#[test]
fn the_measured_eigenvalue_is_that_of_the_preconditioned_kernel_outside_the_subsample() {
    // Oracle (3): power iterations against the dense spectrum of W^1/2 K_P W^1/2 / p over the probes. They come from below, and by no more than
    // the margin that steps and batches allow for.
    for kernel in [gaussian(1.0), laplace(1.0)] {
        for uneven in [false, true] {
            let mut stored = Stored::new(kernel.clone(), 600, 6, 200, 1, 0.1);
            if uneven {
                stored.weights = (0..600).map(|i| 0.1 + (i % 10) as f64 / 5.0).collect();
            }
            let probes = stored.outside();
            let count = probes.len();
            assert_eq!(count, 400);
            for q in [2, 10, 40] {
                let p = stored.preconditioner(q, 1.0);
                assert_eq!(p.rank(), q);
                let kp = flattened(&stored, q, &probes);
                let root: Vec<f64> = probes.iter().map(|&i| stored.weights[i].sqrt()).collect();
                let weighted = Mat::from_fn(count, count, |i, j| root[i] * kp[(i, j)] * root[j] / count as f64);
                let (values, _) = symmetric_eigen(weighted.as_ref(), SEQUENTIAL).unwrap();
                let top = values[count - 1];
                let measured = stored.measured(&p);
                let found = measured.top_eigenvalue;
                assert!(found >= 0.9 * top && found <= top * (1.0 + 1e-12), "{kernel:?} {uneven} {q}: {found} {top}");
                let diagonal = (0..count).map(|i| count as f64 * weighted[(i, i)]).fold(0.0, f64::max);
                assert!((measured.diagonal - diagonal).abs() < 1e-10 * diagonal, "{measured:?} {diagonal}");
                // What follows from it is stable for the true eigenvalue.
                for batch in [1, measured.critical_batch(), 10_000] {
                    let product = top * measured.step(batch, 0.0) * batch as f64;
                    assert!(product < 2.0, "{kernel:?} {uneven} {q} {batch}: {product}");
                }
            }
        }
    }
}

#[test]
fn unstable_steps_are_refused() {
    // Oracle (3).
    let mut stored = Stored::new(gaussian(1.0), 200, 4, 60, 1, 0.1);
    let p = stored.preconditioner(3, 1.0);
    let measured = stored.measured(&p);
    let step = 2.1 / (measured.top_eigenvalue * 50.0);
    let params = EigenProParams { batch: Some(50), step: Some(step), ..Default::default() };
    let refused = stored.solve(&p, 0.0, &params).unwrap_err();
    assert!(
        matches!(refused, SolveError::Unstable { batch: 50, product, .. } if (product - 2.1).abs() < 1e-9),
        "{refused}"
    );
    for batch in [1, 10, 100, 10_000] {
        assert!(measured.stability(measured.step(batch, 0.0), batch, 0.0) < 2.0);
        assert!(measured.stability(measured.step(batch, 0.1), batch, 0.1) < 2.0);
    }
    // One NaN among the kernel values of the probes: no measurement, no step.
    let mut k = pick(&stored.k, &stored.outside(), &stored.outside());
    (k[(3, 5)], k[(5, 3)]) = (f64::NAN, f64::NAN);
    let ks = pick(&stored.k, &stored.outside(), &stored.sample);
    let unmeasured = p.measure(k.as_ref(), ks.as_ref(), &vec![1.0; ks.nrows()]);
    assert!(unmeasured.top_eigenvalue.is_nan(), "{unmeasured:?}");
    let directions = stored.directions(&p);
    let problem = EigenProProblem {
        preconditioner: &p,
        center_directions: directions.as_ref(),
        measured: unmeasured,
        ridge: 0.0,
        weight_sum: 200.0,
        shares: &[],
    };
    let (start, mut projector) = (stored.zero(), stored.projector());
    let params = EigenProParams::default();
    let refused = eigenpro(&mut stored, &mut projector, &problem, &params, start, |_| Verdict::Continue);
    assert!(matches!(refused, Err(SolveError::Unstable { .. })), "{refused:?}");
}
