//! Certificates against dense algebra: accuracy of dictionaries, trace errors, held-out rows.

use super::*;

/// A dictionary of a quarter to a half of the rows, kept with probability p: (indices, weights 1 / p).
fn dictionary(n: usize, p: f64, seed: u64) -> (Vec<usize>, Vec<f64>) {
    let key = StreamKey::new(seed, "dictionary", 0);
    let kept: Vec<usize> = (0..n).filter(|&i| key.uniform(RowId(i as u128)) < p).collect();
    let weights = vec![1.0 / p; kept.len()];
    (kept, weights)
}

/// True accuracy: extreme eigenvalues of `(K + gamma)^-1/2 K^1/2 (S S^T - I) K^1/2 (K + gamma)^-1/2`.
fn true_accuracy(k: &Mat<f64>, kept: &[usize], weights: &[f64], gamma: f64) -> (f64, f64) {
    let n = k.nrows();
    let (values, vectors) = dense::symmetric_eigen(k.as_ref(), fixed_parallelism()).unwrap();
    let mut w = vec![-1.0; n];
    kept.iter().zip(weights).for_each(|(&i, weight)| w[i] += weight);
    let scale = |a: usize| (values[a].max(0.0) / (values[a].max(0.0) + gamma)).sqrt();
    let half = Mat::from_fn(n, n, |a, i| scale(a) * vectors[(i, a)]);
    let weighted = Mat::from_fn(n, n, |i, a| w[i] * half[(a, i)]);
    let spectrum = eigenvalues(&(&half * weighted));
    (spectrum[0], spectrum[n - 1])
}

/// Nystrom (1), (2), (5): order of the forms, the bound of the regularised form, and the certificate below the truth.
#[test]
fn regularised_and_projection_forms_and_the_certificate() {
    let n = 150;
    for (seed, gamma) in [(1, 1.0), (2, 0.1), (3, 5.0)] {
        let p = problem(n, 2, gaussian(0.3), 20 + seed);
        let k = p.k(&p.x);
        let (kept, weights) = dictionary(n, 0.5, seed);
        let z = RowBuf::gather(p.x.view(), &kept);
        let (k_nm, k_mm) = (p.k(&z), kernel_matrix(&p.kernel, z.view(), z.view()));
        let m = kept.len();
        for method in METHODS {
            let w = Whitener::new(k_mm.as_ref(), method).unwrap();
            let f = w.features(k_nm.as_ref()).unwrap();
            let projection = f.transpose() * &f;
            let regularised_system =
                Mat::from_fn(m, m, |i, j| k_mm[(i, j)] + if i == j { gamma / weights[i] } else { 0.0 });
            let regularised = &k_nm * solve(&regularised_system, &k_nm.transpose().to_owned());
            assert!(least(&(&k - &projection)) > -1e-9);
            assert!(least(&(&projection - &regularised)) > -1e-9);
            let (lower, upper) = true_accuracy(&k, &kept, &weights, gamma);
            assert!(lower > -1.0 && lower < 0.0);
            let bound = {
                let inner = solve(&shifted(&k, gamma), &k);
                Mat::from_fn(n, n, |i, j| gamma / (1.0 + lower) * inner[(i, j)])
            };
            assert!(least(&(bound - (&k - &regularised))) > -1e-9, "gamma {gamma}, lower {lower}");
            let total = sums(&k_nm, &p.y, &p.all_rows(), None);
            let g1 = w.congruence(total.gram.as_ref()).unwrap();
            let atoms = w.features(k_mm.as_ref()).unwrap();
            let g2 = weighted_feature_gram(atoms.as_ref(), &weights).unwrap();
            let certificate = pencil(g1.as_ref(), g2.as_ref(), gamma).unwrap();
            let truth = upper.max(-lower);
            assert!(certificate.epsilon() <= truth + 1e-9, "{certificate:?} {lower} {upper}");
            assert!(certificate.lowest >= lower - 1e-9 && certificate.highest <= upper + 1e-9);
            // It must not be vacuous: with half of the rows as atoms it is near the truth.
            assert!(certificate.epsilon() > 0.8 * truth, "{certificate:?} {truth}");
        }
    }
}

/// Nystrom (3), (4): the trace error, from the pass, blockwise and dense; none when all rows are centers.
#[test]
fn trace_error_equals_dense() {
    let n = 160;
    let p = problem(n, 2, gaussian(0.3), 30);
    let k = p.k(&p.x);
    for (m, method) in [(20, METHODS[0]), (20, METHODS[1]), (n, METHODS[0]), (n, METHODS[1])] {
        let z = p.centers(m);
        let k_nm = p.k(&z);
        let w = Whitener::new(kernel_matrix(&p.kernel, z.view(), z.view()).as_ref(), method).unwrap();
        let path = RidgePath::new(&sums(&k_nm, &p.y, &p.all_rows(), None), &w).unwrap();
        let pass = trace_error(n as f64, path.trace());
        let blocks: f64 = (0..n)
            .step_by(50)
            .flat_map(|start| {
                let rows = 50.min(n - start);
                let block = k_nm.submatrix(start, 0, rows, m);
                residual_diagonal(&w, block, &vec![1.0; rows]).unwrap()
            })
            .sum();
        let f = w.features(k_nm.as_ref()).unwrap();
        let e = &k - f.transpose() * &f;
        let dense: f64 = (0..n).map(|i| e[(i, i)]).sum();
        assert!((blocks - dense).abs() < 1e-9);
        if m == n {
            assert!(largest(&e) < 1e-9);
            // All directions of K_mm count in the blockwise form; the Gram form divides its rounding by small mu.
            assert!(blocks.abs() < 1e-8);
        } else {
            assert!((pass.absolute - dense).abs() < 1e-7, "{} {dense}", pass.absolute);
            assert!((pass.relative - dense / n as f64).abs() < 1e-9 && pass.relative > 1e-6);
        }
    }
}

/// Where K_mm is nearly singular, rounding puts the trace of the sums beyond that of K; with some rows it is right to a few percent.
#[test]
fn rounding_is_kept_out_of_the_trace_error() {
    let (n, m) = (3000, 120);
    let p = problem(n, 3, gaussian(0.4), 31);
    // Pairs of centers that nearly coincide.
    let mut z = p.centers(m / 2);
    let shifted: Vec<f32> = z.numeric.iter().enumerate().map(|(i, x)| if i % 3 == 0 { x + 2e-4 } else { *x }).collect();
    z.numeric.extend(shifted);
    let k_nm = p.k(&z);
    let k_mm = kernel_matrix(&p.kernel, z.view(), z.view());
    for (precision, method) in [(Precision::Single, METHODS[1]), (Precision::Double, METHODS[0])] {
        let w = Whitener::new(k_mm.as_ref(), method).unwrap();
        let truth = residual_diagonal(&w, k_nm.as_ref(), &vec![1.0; n]).unwrap().iter().sum::<f64>() / n as f64;
        let shape = GramShape { centers: m, targets: 2, precision, scale_log2: 0 };
        let rounded = Mat::from_fn(n, m, |i, j| shape.rounded(k_nm[(i, j)], 1.0));
        let sums = sums(&rounded, &p.y, &p.all_rows(), None);
        let path = RidgePath::new(&sums, &w).unwrap();
        if precision == Precision::Single {
            let naive = trace_error(n as f64, path.trace()).relative;
            assert!((naive - truth).abs() > 0.5 * truth, "rounding matters here: {naive} {truth}");
        }
        for (rows, tolerance) in [(2000, 0.1), (n, 1e-3)] {
            let mut trace = ApproximateTrace::new(&w, &path).unwrap();
            trace.sample(&w, rounded.subrows(0, rows), k_nm.subrows(0, rows), rows as f64).unwrap();
            let found = trace.error(n as f64).relative;
            assert!((found - truth).abs() < tolerance * truth, "{precision:?} {rows}: {found} {truth}");
        }
    }
}

/// Nystrom (6), (7): the held-out trace is unbiased, and the bracket holds.
#[test]
fn held_out_rows_bracket_the_error() {
    let n = 200;
    let p = problem(n, 2, gaussian(0.25), 40);
    let k = p.k(&p.x);
    let z = p.centers(15);
    let k_nm = p.k(&z);
    let w = Whitener::new(kernel_matrix(&p.kernel, z.view(), z.view()).as_ref(), WhitenMethod::Eigen).unwrap();
    let f = w.features(k_nm.as_ref()).unwrap();
    let e = &k - f.transpose() * &f;
    let (norm, trace) = (greatest(&e), (0..n).map(|i| e[(i, i)]).sum::<f64>());
    let gamma = 0.5;
    let held_out = |rows: &[usize]| {
        let k_rr = Mat::from_fn(rows.len(), rows.len(), |i, j| k[(rows[i], rows[j])]);
        let k_rm = Mat::from_fn(rows.len(), 15, |i, j| k_nm[(rows[i], j)]);
        HeldOut::new(&w, k_rr.as_ref(), k_rm.as_ref(), n as u64).unwrap()
    };
    let everything = held_out(&p.all_rows());
    assert!((everything.lambda_max - norm).abs() < 1e-10 && (everything.trace - trace).abs() < 1e-10);
    let full_accuracy = everything.lower_accuracy(gamma).unwrap();
    // The definition: E <= accuracy (K + gamma I), with equality in some direction.
    let gap = |c: f64| least(&(Mat::from_fn(n, n, |i, j| c * k[(i, j)] + if i == j { c * gamma } else { 0.0 }) - &e));
    assert!(gap(full_accuracy).abs() < 1e-9 && gap(0.99 * full_accuracy) < -1e-6);
    // Five disjoint fifths: their estimates average to the trace exactly, and each obeys the bounds.
    let parts: Vec<HeldOut> = (0..5).map(|part| held_out(&(part..n).step_by(5).collect::<Vec<_>>())).collect();
    let mean = parts.iter().map(|part| part.trace_estimate).sum::<f64>() / 5.0;
    assert!((mean - trace).abs() < 1e-9);
    for part in &parts {
        assert!(part.lambda_max <= norm + 1e-10 && part.lambda_max <= part.trace + 1e-10);
        assert!(part.lower_accuracy(gamma).unwrap() <= full_accuracy + 1e-10);
        assert!(matches!(part.lower_accuracy(0.0), Err(NystromError::Ridge { .. })));
    }
    assert!(norm <= trace);
    // Random samples: within 5 standard errors (probability of failure below 1e-6 for random keys; these are fixed).
    let estimates: Vec<f64> = (0..200)
        .map(|seed| {
            let key = StreamKey::new(seed, "held-out", 0);
            let mut rows = p.all_rows();
            rows.sort_by_key(|&i| key.u64(RowId(i as u128)));
            40f64.recip() * n as f64 * rows[..40].iter().map(|&i| e[(i, i)]).sum::<f64>()
        })
        .collect();
    let mean = estimates.iter().sum::<f64>() / 200.0;
    let variance = estimates.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 199.0;
    assert!((mean - trace).abs() < 5.0 * (variance / 200.0).sqrt());
}
