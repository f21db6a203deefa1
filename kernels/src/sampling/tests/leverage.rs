//! Leverage scores against dense algebra.

use super::*;
use crate::sampling::leverage::{Append, GrowingCholesky, SCORE_FLOOR, exact_scores, joint_score};
use crate::sampling::rpcholesky::Batch;
use crate::sampling::{PivotParams, RidgeFactor, SamplingError, ScoreSample, rp_cholesky};

/// Positive hashed weights.
fn weights(n: usize) -> Vec<f64> {
    let key = StreamKey::new(3, "test-weight", 0);
    (0..n).map(|i| 1.0 + 4.0 * key.uniform(RowId(i as u128))).collect()
}

/// phi_i^T (M + ridge I)^-1 phi_i of every row, by the eigenbasis of K: Phi Phi^T = K with explicit features.
fn scores_by_features(k: &Mat<f64>, atoms: &[usize], w: &[f64], ridge: f64) -> Vec<f64> {
    let n = k.nrows();
    let (mu, u) = dense::symmetric_eigen(k.as_ref(), dense::SEQUENTIAL).unwrap();
    let phi = Mat::from_fn(n, n, |i, j| u[(i, j)] * mu[j].max(0.0).sqrt());
    let mut m = Mat::from_fn(n, n, |i, j| if i == j { ridge } else { 0.0 });
    for (a, w) in atoms.iter().zip(w) {
        for i in 0..n {
            for j in 0..n {
                m[(i, j)] += w * phi[(*a, i)] * phi[(*a, j)];
            }
        }
    }
    dense::cholesky(m.as_mut(), dense::SEQUENTIAL).unwrap();
    let mut x = phi.transpose().to_owned();
    dense::solve_lower(m.as_ref(), x.as_mut(), dense::SEQUENTIAL);
    (0..n).map(|i| (0..n).map(|j| x[(j, i)] * x[(j, i)]).sum()).collect()
}

/// Oracle SQUEAK 1: the dictionary of all rows with weight 1 has the exact scores.
#[test]
fn all_rows_give_exact_scores() {
    let table = Table::clusters(200, 1.0, 1);
    for gamma in [0.01, 1.0, 30.0] {
        let exact = exact_scores(table.k.as_ref(), gamma).unwrap();
        let factor = RidgeFactor::new(&table, table.rows(), &vec![1.0; 200], gamma).unwrap();
        let by_atom = factor.atom_scores();
        for (a, b) in exact.iter().zip(&by_atom.scores) {
            assert!((a - b).abs() < 1e-10, "{a} {b}");
        }
        assert!((by_atom.effective_dimension - exact.iter().sum::<f64>()).abs() < 1e-8);
        assert_eq!(factor.jitter(), 0.0);
    }
}

/// Oracle SQUEAK 2: the primal and the dual form agree with each other and with explicit features, for any weights and ridge.
#[test]
fn primal_and_dual_scores_agree() {
    let table = Table::clusters(120, 1.0, 2);
    let atoms: Vec<usize> = (0..120).step_by(3).collect();
    let (rows, _) = table.gather(&atoms);
    let w = weights(atoms.len());
    for ridge in [0.05, 2.0] {
        let factor = RidgeFactor::new(&table, rows.view(), &w, ridge).unwrap();
        let dual = factor.atom_scores().scores;
        let primal = factor.row_scores(&table, table.rows());
        let features = scores_by_features(&table.k, &atoms, &w, ridge);
        for (a, i) in atoms.iter().enumerate() {
            assert!((dual[a] - primal[*i]).abs() < 1e-10, "{} {}", dual[a], primal[*i]);
        }
        for (a, b) in primal.iter().zip(&features) {
            assert!((a - b).abs() < 1e-8, "{a} {b}");
        }
    }
}

#[test]
fn joining_a_dictionary_changes_the_score_as_predicted() {
    let table = Table::clusters(60, 1.0, 3);
    let (rows, _) = table.gather(&(0..40).collect::<Vec<_>>());
    let mut w = weights(40);
    let x = RidgeFactor::new(&table, rows.view(), &w, 0.7).unwrap().row_scores(&table, table.rows().slice(50, 51))[0];
    let mut wider: Vec<usize> = (0..40).collect();
    wider.push(50);
    w.push(1.0);
    let (rows, _) = table.gather(&wider);
    let joint = RidgeFactor::new(&table, rows.view(), &w, 0.7).unwrap().atom_scores().scores[40];
    assert!((joint_score(x) - joint).abs() < 1e-12);
}

/// Entries rounded to f32 make N indefinite when the ridge is below the rounding: the factor reports the jitter, and scores are
/// still at least the exact ones (within the rounding itself).
#[test]
fn jitter_is_reported_and_safe() {
    let mut table = Table::clusters(150, 3.0, 4);
    let exact = exact_scores(table.k.as_ref(), 1e-9).unwrap();
    for j in 0..150 {
        for i in 0..150 {
            table.k[(i, j)] = f64::from(table.k[(i, j)] as f32);
        }
    }
    let factor = RidgeFactor::new(&table, table.rows(), &vec![1.0; 150], 1e-9).unwrap();
    assert!(factor.jitter() > 0.0);
    let scores = factor.atom_scores().scores;
    assert!(scores.iter().zip(&exact).all(|(s, e)| *s > e - 0.05), "jitter must not lower scores");
    // A matrix that no allowed jitter repairs is refused with numbers.
    let broken = Table::new(Mat::from_fn(2, 2, |i, j| if i == j { 1.0 } else { 1.5 }));
    let error = RidgeFactor::new(&broken, broken.rows(), &[1.0, 1.0], 1e-3).unwrap_err();
    assert!(matches!(error, SamplingError::NotPositive { order: 2, pivot: 1, .. }), "{error}");
}

#[test]
fn bad_input_is_refused_with_its_numbers() {
    let table = Table::clusters(5, 1.0, 5);
    for gamma in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(
            RidgeFactor::new(&table, table.rows(), &[1.0; 5], gamma),
            Err(SamplingError::BadGamma { .. })
        ));
    }
    let error = RidgeFactor::new(&table, table.rows(), &[1.0, 1.0, 0.0, 1.0, 1.0], 1.0).unwrap_err();
    assert_eq!(error, SamplingError::BadWeight { row: 2, weight: 0.0 });
    let error = RidgeFactor::new(&table, table.rows(), &[1.0], 1.0).unwrap_err();
    assert_eq!(error, SamplingError::Lengths { rows: 5, others: 1, what: "weights" });
}

#[test]
fn scores_never_fall_below_the_floor() {
    let table = Table::new(Mat::from_fn(3, 3, |i, j| if i == j && i < 2 { 1.0 } else { 0.0 }));
    let scores = RidgeFactor::new(&table, table.rows(), &[1.0; 3], 1.0).unwrap().atom_scores().scores;
    assert_eq!(scores[2], SCORE_FLOOR);
}

#[test]
fn a_grown_factor_is_the_cholesky_factor() {
    let table = Table::clusters(60, 1.0, 6);
    let mut grown = GrowingCholesky::new();
    let mut dense_l = table.k.clone();
    for i in 0..60 {
        let extra = 0.1 + 0.01 * i as f64;
        dense_l[(i, i)] += extra;
        let k: Vec<f64> = (0..i).map(|j| table.k[(i, j)]).collect();
        assert!(matches!(grown.append(&k, table.k[(i, i)], extra), Append::Grown { .. }));
    }
    dense::cholesky(dense_l.as_mut(), dense::SEQUENTIAL).unwrap();
    for i in 0..60 {
        for j in 0..=i {
            assert!((grown.row(i)[j] - dense_l[(i, j)]).abs() < 1e-12);
        }
    }
    // A copy of row 7 at no ridge of its own is still independent, since row 7 carries a ridge; in a projection basis it is not.
    let mut basis = GrowingCholesky::new();
    for i in 0..10 {
        let k: Vec<f64> = (0..i).map(|j| table.k[(i, j)]).collect();
        assert!(matches!(basis.append(&k, 1.0, 0.0), Append::Grown { .. }));
    }
    let k: Vec<f64> = (0..10).map(|j| table.k[(7, j)]).collect();
    assert!(matches!(basis.append(&k, 1.0, 0.0), Append::Dependent { pivot } if pivot.abs() < 1e-12));
    assert_eq!(basis.len(), 10);
}

#[test]
fn a_full_sample_has_the_exact_scores_and_sizes() {
    let table = Table::clusters(200, 1.0, 7);
    let sample = ScoreSample::new(table.k.as_ref(), 200).unwrap();
    for gamma in [1e-3, 1.0] {
        let exact = exact_scores(table.k.as_ref(), gamma).unwrap();
        let estimated = sample.scores(gamma).unwrap();
        assert!(exact.iter().zip(&estimated).all(|(a, b)| (a - b).abs() < 1e-9));
    }
    let found = sample.gamma_for_size(90.0, 8.0).unwrap();
    let size: f64 = exact_scores(table.k.as_ref(), found.gamma).unwrap().iter().map(|t| (8.0 * t).min(1.0)).sum();
    assert!(found.attained && (size - 90.0).abs() < 1e-5, "{size}");
    // All rows cannot be had at any ridge above rounding when the matrix has rank 1.
    let flat = ScoreSample::new(Mat::<f64>::ones(50, 50).as_ref(), 50).unwrap();
    assert!(!flat.gamma_for_size(40.0, 1.0).unwrap().attained);
}

/// A quarter of the rows predicts the dictionary's size over all of them: over 10 samples the mean is within 12 % (calibrated: up to
/// 10 % from d_eff = s/4 to s), and the truth is within the bracket.
#[test]
fn a_sample_extrapolates_the_size() {
    let table = Table::clusters(800, 1.0, 8);
    for (gamma, beta) in [(0.1, 1.0), (0.3, 4.0), (1.0, 8.0), (5.0, 1.0)] {
        let size = |scores: &[f64]| scores.iter().map(|t| (beta * t).min(1.0)).sum::<f64>();
        let truth = size(&exact_scores(table.k.as_ref(), gamma).unwrap());
        let mut estimates = Vec::new();
        let mut ends = [0.0; 2];
        for seed in 0..10 {
            let order = shuffled(800, seed);
            let k = Mat::from_fn(200, 200, |i, j| table.k[(order[i], order[j])]);
            let sample = ScoreSample::new(k.as_ref(), 800).unwrap();
            estimates.push(sample.expected_size(gamma, beta).unwrap());
            for (end, scores) in ends.iter_mut().zip(sample.bracket(gamma).unwrap()) {
                *end += size(&scores) * 4.0 / 10.0;
            }
        }
        let (mean, _) = mean_and_error(&estimates);
        assert!((mean / truth - 1.0).abs() < 0.12, "gamma {gamma} beta {beta}: {mean} for {truth}");
        assert!(ends[0] < truth && truth < ends[1], "gamma {gamma} beta {beta}: {truth} not in {ends:?}");
    }
}

/// Law 1 above the order from which algebra is parallel: the same bits in thread pools of 1, 2 and 5, for scores, a sample's
/// eigendecomposition and pivots.
#[test]
fn thread_pools_do_not_change_bits() {
    let table = Table::clusters(1100, 1.0, 9);
    let in_pool = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let factor = RidgeFactor::new(&table, table.rows(), &weights(1100), 0.5).unwrap();
            let sample = ScoreSample::new(table.k.as_ref(), 5000).unwrap().scores(0.5).unwrap();
            let params = PivotParams { batch: Batch::Fixed(1500), ..PivotParams::new(300, 1) };
            let pivots = rp_cholesky(&table, table.rows(), &table.ids, None, params).unwrap();
            (factor.atom_scores(), sample, pivots.ids, pivots.factor, pivots.trace)
        })
    };
    let reference = in_pool(1);
    assert_eq!(in_pool(2), reference);
    assert_eq!(in_pool(5), reference);
}
