//! The Falkon oracles of the solver specification, on stored matrices.

use super::super::oracle::{CholeskyWhitening, EigenWhitening, Problem, distance, normals, spd_solve};
use super::super::vectors::{axpy, dot, squares};
use super::super::{Preconditioner, SolveError, Stopped, WeightedGram, Whitening, sampled_dimension, strata_weights};
use super::*;
use crate::checks::largest;
use crate::dense::{fixed_parallelism, symmetric_eigen};
use std::convert::Infallible;

fn go(_: &PcgProgress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Frobenius norm; a NaN stays one.
fn length(a: &Mat<f64>) -> f64 {
    squares(a).sqrt()
}

fn params(tolerance: f64, max_iterations: usize) -> PcgParams {
    PcgParams { tolerance, max_iterations, restart_every: 15 }
}

/// Every third row stands for all of them.
fn sampled(problem: &Problem, whitening: &CholeskyWhitening, ridge: f64) -> Preconditioner {
    let rows: Vec<usize> = (0..problem.n()).step_by(3).collect();
    let k = Mat::from_fn(rows.len(), problem.m(), |i, j| problem.knm[(rows[i], j)]);
    let w: Vec<f64> = rows.iter().map(|&i| problem.weights[i]).collect();
    Preconditioner::sampled(whitening.features(&k).as_ref(), &w, problem.weight_sum(), ridge).unwrap()
}

/// Blocks of any length, and weights that vanish: the sum over rows, entry by entry.
#[test]
fn a_weighted_gram_is_its_sum() {
    let key = nystream_hashing::StreamKey::new(4, "gram", 0);
    for (s, r) in [(1, 1), (511, 3), (512, 5), (1300, 4)] {
        let value = |i: usize, j: usize| key.uniform(nystream_hashing::RowId((i * r + j) as u128)) - 0.5;
        let features = Mat::from_fn(s, r, value);
        let weights: Vec<f64> = (0..s).map(|i| (i % 4) as f64).collect();
        let mut gram = WeightedGram::new(r);
        gram.add(features.subrows(0, s / 3), &weights[..s / 3]);
        gram.add(features.subrows(s / 3, s - s / 3), &weights[s / 3..]);
        let gram = gram.into_lower();
        for i in 0..r {
            for j in 0..=i {
                let sum: f64 = (0..s).map(|k| weights[k] * features[(k, i)] * features[(k, j)]).sum();
                assert!((gram[(i, j)] - sum).abs() <= 1e-13 * s as f64, "{s} x {r}: {i}, {j}");
            }
        }
    }
}

/// What each center (the first m rows) stands for: the rows nearest to it, by weight and share.
fn masses(problem: &Problem) -> Vec<f64> {
    let mut masses = vec![0.0; problem.m()];
    for i in 0..problem.n() {
        let larger = |best: usize, j: usize| if problem.knm[(i, j)] > problem.knm[(i, best)] { j } else { best };
        let nearest = (0..problem.m()).fold(0, larger);
        masses[nearest] += problem.weights[i] * problem.knm[(i, nearest)].powi(2);
    }
    masses
}

/// As the fits make it: the centers for the rows around them, and `rows` sampled rows.
fn mixture(
    problem: &Problem,
    whitening: &CholeskyWhitening,
    ridge: f64,
    masses: &[f64],
    rows: usize,
) -> Preconditioner {
    let (n, m) = (problem.n(), problem.m());
    let sample: Vec<usize> = (m..n).step_by(((n - m) / rows.max(1)).max(1)).take(rows).collect();
    let k = Mat::from_fn(sample.len(), m, |i, j| problem.knm[(sample[i], j)]);
    let w: Vec<f64> = sample.iter().map(|&i| problem.weights[i]).collect();
    let (own, weights) = strata_weights(masses, &w, problem.weight_sum());
    let mut gram = WeightedGram::new(m);
    gram.add(whitening.features(&problem.kmm).as_ref(), &own);
    gram.add(whitening.features(&k).as_ref(), &weights);
    Preconditioner::from_gram(gram.into_lower(), ridge).unwrap()
}

fn stratified_sample(problem: &Problem, whitening: &CholeskyWhitening, ridge: f64) -> Preconditioner {
    mixture(problem, whitening, ridge, &masses(problem), problem.m())
}

/// Where many directions count, centers with their masses and a sample do better together than either, and than three times as large a sample alone nearly as well.
#[test]
fn centers_and_a_sample_do_better_than_either() {
    let mut problem = Problem::new(21, 1500, 120, 3, 1, 0.8, 0.1);
    let (whitening, ridge) = (CholeskyWhitening::new(&problem.kmm), 1500.0 * 1e-6);
    let masses = masses(&problem);
    let none = vec![0.0; 120];
    let mut iterations = |masses: &[f64], rows: usize| {
        let p = mixture(&problem, &whitening, ridge, masses, rows);
        let (_, info) = solve(&mut problem, &whitening, &p, ridge, params(1e-7, 500));
        assert_eq!(info.stopped, Stopped::Converged);
        info.iterations
    };
    let [both, centers, sample, large] =
        [iterations(&masses, 120), iterations(&masses, 0), iterations(&none, 120), iterations(&none, 360)];
    assert!(both < centers && 2 * both < sample, "{both} {centers} {sample} {large}");
    assert!(3 * both < 4 * large, "{both} {centers} {sample} {large}");
}

/// Features of which the last are 0 may leave them out.
#[test]
fn leading_features_are_enough() {
    let features = Mat::from_fn(700, 5, |i, j| if j < 3 { ((i * 7 + j * 3) % 11) as f64 - 5.0 } else { 0.0 });
    let weights: Vec<f64> = (0..700).map(|i| (i % 3) as f64).collect();
    let (mut whole, mut leading) = (WeightedGram::new(5), WeightedGram::new(5));
    whole.add(features.as_ref(), &weights);
    leading.add(features.subcols(0, 3), &weights);
    // Whole numbers: no rounding.
    assert_eq!(whole.into_lower(), leading.into_lower());
}

fn solve(
    problem: &mut Problem,
    whitening: &impl Whitening,
    preconditioner: &Preconditioner,
    ridge: f64,
    params: PcgParams,
) -> (Mat<f64>, PcgInfo) {
    let rhs = problem.rhs();
    pcg(problem, whitening, preconditioner, rhs.as_ref(), ridge, params, None, go).unwrap()
}

#[test]
fn falkon_preconditioner_inverts_its_model() {
    // Oracle (1): B B^T ((sum w / m) K_mm^2 + Lambda K_mm) = I with B B^T = R P^-1 R^T, for weights too.
    let mut problem = Problem::new(1, 60, 20, 2, 1, 1.0, 0.1);
    problem.weights = (0..60).map(|i| 1.0 + (i % 5) as f64).collect();
    let (whitening, ridge, m) = (CholeskyWhitening::new(&problem.kmm), 0.3, 20);
    let total = problem.weight_sum();
    let center_weights = &problem.weights[..m];
    let p = Preconditioner::falkon(&whitening, center_weights, total, ridge).unwrap();
    assert_eq!(p.damping(), 0.0);
    let identity = Mat::<f64>::identity(m, m);
    let inverse = whitening.apply(p.apply(whitening.apply_transpose(identity.as_ref()).as_ref()).as_ref());
    let scale = total / center_weights.iter().sum::<f64>();
    let weighted = Mat::from_fn(m, m, |i, j| scale * center_weights[i] * problem.kmm[(i, j)]);
    let model = &problem.kmm * weighted + faer::Scale(ridge) * &problem.kmm;
    assert!(distance(&(inverse * model), &identity) < 1e-6);
}

#[test]
fn converges_to_the_dense_solution_also_from_warm_starts() {
    // Oracle (2), for all forms of the preconditioner and both whitenings; the tolerance is the tested quantity.
    let mut problem = Problem::new(2, 400, 60, 3, 2, 1.5, 0.2);
    let ridge = 1e-4 * 400.0;
    let dense = problem.direct(ridge);
    let fitted = &problem.knm * &dense;
    let whitening = CholeskyWhitening::new(&problem.kmm);
    let rhs = problem.rhs();
    let features = whitening.features(&problem.knm);
    let forms = [
        ("identity", Preconditioner::identity()),
        ("sampled", sampled(&problem, &whitening, ridge)),
        ("stratified", stratified_sample(&problem, &whitening, ridge)),
        ("falkon", Preconditioner::falkon(&whitening, &[1.0; 60], 400.0, ridge).unwrap()),
        ("spectral", Preconditioner::spectral(features.as_ref(), &[1.0; 400], ridge, 15).unwrap()),
        ("exact", Preconditioner::from_rows(features.as_ref(), &[1.0; 400], ridge).unwrap()),
    ];
    for (name, p) in &forms {
        for tolerance in [1e-4, 1e-7, 1e-10] {
            let (alpha, info) = solve(&mut problem, &whitening, p, ridge, params(tolerance, 300));
            assert_eq!(info.stopped, Stopped::Converged, "{name} {tolerance} {info:?}");
            for j in 0..2 {
                let truth = problem.relative_residual(ridge, &alpha, j);
                assert!(truth <= 1.01 * tolerance, "{name} {truth} {tolerance}");
                assert!((truth - info.residuals[j]).abs() < 1e-3 * tolerance + 2e-12, "{name} {truth} {info:?}");
                within_ten(&info, j, name);
            }
            if tolerance < 1e-9 {
                let error = &problem.knm * &alpha - &fitted;
                assert!(length(&error) < 1e-5 * length(&fitted), "{name} {:e}", length(&error) / length(&fitted));
            }
        }
    }
    // A nearly exact preconditioner needs a step or two; the pass count is steps + one look.
    let (_, exact) = solve(&mut problem, &whitening, &forms[5].1, ridge, params(1e-9, 300));
    assert!(exact.iterations <= 2 && exact.applications == exact.iterations + 1, "{exact:?}");
    assert!(exact.condition_estimate < 1.0 + 1e-6, "{exact:?}");

    // Warm: stop early, continue from alpha; and start from the solution of another ridge.
    let (half, _) = solve(&mut problem, &whitening, &forms[1].1, ridge, params(1e-12, 4));
    let (alpha, info) =
        pcg(&mut problem, &whitening, &forms[1].1, rhs.as_ref(), ridge, params(1e-10, 300), Some(half.as_ref()), go)
            .unwrap();
    assert_eq!(info.stopped, Stopped::Converged);
    assert!(length(&(&problem.knm * &alpha - &fitted)) < 1e-5 * length(&fitted));
    let near = problem.direct(1.2 * ridge);
    let (_, warm) =
        pcg(&mut problem, &whitening, &forms[0].1, rhs.as_ref(), ridge, params(1e-7, 300), Some(near.as_ref()), go)
            .unwrap();
    let (_, cold) = solve(&mut problem, &whitening, &forms[0].1, ridge, params(1e-7, 300));
    assert!(warm.iterations < cold.iterations, "{} {}", warm.iterations, cold.iterations);
    // From the solution itself: one look and no step.
    let (same, info) =
        pcg(&mut problem, &whitening, &forms[1].1, rhs.as_ref(), ridge, params(1e-7, 300), Some(dense.as_ref()), go)
            .unwrap();
    assert_eq!((info.iterations, info.applications), (0, 1));
    assert_eq!(same, dense);
}

/// Oracle (7): what the recursion believed and what was measured at the same point, within a factor of ten either way.
fn within_ten(info: &PcgInfo, j: usize, name: &str) {
    let (truth, believed) = (info.residuals[j], info.recursive_residuals[j]);
    assert!(truth < 10.0 * believed && believed < 10.0 * truth, "{name}, column {j}: {truth:e} {believed:e} {info:?}");
}

#[test]
fn rounded_entries_keep_the_recursion_true() {
    // Oracle (7) where single precision bites: K_nm rounded to f32, the same entries in operator and right-hand side, sums in f64. The
    // tolerances go below f32's own rounding, since the rounded problem is solved exactly.
    let mut problem = Problem::new(14, 500, 60, 3, 2, 2.0, 0.1);
    problem.knm = Mat::from_fn(500, 60, |i, j| f64::from(problem.knm[(i, j)] as f32));
    let ridge = 500.0 * 1e-6;
    let whitening = CholeskyWhitening::new(&problem.kmm);
    let forms = [
        ("identity", Preconditioner::identity()),
        ("falkon", Preconditioner::falkon(&whitening, &[1.0; 60], 500.0, ridge).unwrap()),
        ("stratified", stratified_sample(&problem, &whitening, ridge)),
    ];
    for (name, p) in &forms {
        for tolerance in [1e-3, 1e-6, 1e-9] {
            let (alpha, info) = solve(&mut problem, &whitening, p, ridge, params(tolerance, 1000));
            assert_eq!(info.stopped, Stopped::Converged, "{name} {tolerance} {info:?}");
            for j in 0..2 {
                within_ten(&info, j, name);
                let truth = problem.relative_residual(ridge, &alpha, j);
                assert!(truth <= 1.01 * tolerance + 2e-12, "{name} {truth} {tolerance}");
            }
        }
    }
}

#[test]
fn centers_equal_to_data_give_kernel_ridge_regression() {
    // Oracle (3): K alpha = K (K + Lambda I)^-1 y, to 1e-8.
    let mut problem = Problem::new(3, 90, 90, 2, 1, 0.4, 0.3);
    let ridge = 90.0 * 1e-2;
    let mut shifted = problem.kmm.clone();
    for i in 0..90 {
        shifted[(i, i)] += ridge;
    }
    let expected = &problem.kmm * spd_solve(&shifted, &problem.y);
    for eigen in [false, true] {
        let whitening: Box<dyn Whitening> = if eigen {
            Box::new(EigenWhitening::new(&problem.kmm))
        } else {
            Box::new(CholeskyWhitening::new(&problem.kmm))
        };
        let p = Preconditioner::falkon(&*whitening, &[1.0; 90], 90.0, ridge).unwrap();
        let rhs = problem.rhs();
        let (alpha, info) =
            pcg(&mut problem, &*whitening, &p, rhs.as_ref(), ridge, params(1e-12, 200), None, go).unwrap();
        assert!(matches!(info.stopped, Stopped::Converged | Stopped::Stagnated), "{info:?}");
        assert!(distance(&(&problem.knm * alpha), &expected) < 1e-8, "{info:?}");
    }
}

#[test]
fn preconditioning_beats_plain_conjugate_gradients_fourfold() {
    // Oracle (4): steps until within 1 % of the direct solution's error, against plain CG on the normal equations.
    let example = Problem::new(4, 600, 80, 2, 1, 1.0, 0.1);
    let mut problem = Problem::new(4, 600, 80, 2, 1, 1.0, 0.1);
    let ridge = 600.0 * 1e-6;
    let target = 1.01 * problem.rmse(&problem.direct(ridge));
    let whitening = CholeskyWhitening::new(&problem.kmm);
    let rhs = problem.rhs();
    let knm = problem.knm.clone();
    let y = problem.y.clone();
    let mut steps = |p: &Preconditioner| {
        let mut reached = usize::MAX;
        pcg(&mut problem, &whitening, p, rhs.as_ref(), ridge, params(1e-13, 100), None, |s| {
            let e = &knm * s.alpha - &y;
            if length(&e) / 600f64.sqrt() <= target {
                reached = reached.min(s.iteration);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        reached
    };
    let (one, two) = (sampled(&example, &whitening, ridge), stratified_sample(&example, &whitening, ridge));
    let reached = [steps(&one), steps(&two)];
    // The slower of the two.
    let reached = reached[0].max(reached[1]);

    let a = problem.normal_matrix(ridge);
    let apply = |p: &[f64]| -> Vec<f64> { (0..80).map(|i| dot(a.col_as_slice(i), p)).collect() };
    let (mut x, mut r) = (vec![0.0; 80], rhs.col_as_slice(0).to_vec());
    let mut d = r.clone();
    let mut plain = 0;
    while plain < 4 * reached {
        let q = apply(&d);
        let rr = dot(&r, &r);
        let step = rr / dot(&d, &q);
        axpy(&mut x, step, &d);
        axpy(&mut r, -step, &q);
        let beta = dot(&r, &r) / rr;
        d.iter_mut().zip(&r).for_each(|(d, r)| *d = r + beta * *d);
        plain += 1;
        let error = problem.rmse(&Mat::from_fn(80, 1, |i, _| x[i]));
        assert!(error > target || plain >= 4 * reached, "plain CG needed {plain} steps, preconditioned {reached}");
    }
    assert!(reached < 60, "{reached}");
}

#[test]
fn columns_are_single_solves_and_freeze() {
    // Oracle (5), with columns of very different difficulty: one zero, one an eigenvector of the operator.
    let mut problem = Problem::new(5, 300, 40, 2, 4, 1.0, 0.3);
    let ridge = 300.0 * 1e-5;
    for i in 0..300 {
        problem.y[(i, 1)] = 0.0;
        problem.y[(i, 3)] *= 1e6;
    }
    let whitening = CholeskyWhitening::new(&problem.kmm);
    let p = Preconditioner::falkon(&whitening, &[1.0; 40], 300.0, ridge).unwrap();
    let rhs = problem.rhs();
    let (together, info) = solve(&mut problem, &whitening, &p, ridge, params(1e-9, 200));
    let mut columns_applied = 0;
    for j in 0..4 {
        let single = rhs.as_ref().subcols(j, 1);
        let (alone, one) = pcg(&mut problem, &whitening, &p, single, ridge, params(1e-9, 200), None, go).unwrap();
        let (fit, expected) = (&problem.knm * together.as_ref().subcols(j, 1), &problem.knm * &alone);
        let error = length(&(&fit - &expected));
        assert!(error <= 1e-8 * length(&expected), "column {j}: {error:e} of {:e}", length(&expected));
        assert_eq!(one.columns[0], info.columns[j]);
        columns_applied += one.columns_applied;
    }
    assert_eq!(together.col_as_slice(1), vec![0.0; 40]);
    let single = columns_applied as f64;
    assert!(
        (info.columns_applied as f64 - single).abs() < 0.05 * single,
        "frozen columns cost nothing: {info:?} {single}"
    );
}

#[test]
fn weights_are_replication_and_cost_no_iterations() {
    // Oracle (6). Replicated rows, same centers.
    let mut weighted = Problem::new(6, 200, 30, 2, 1, 0.8, 0.2);
    weighted.weights = (0..200).map(|i| if i % 3 == 0 { 3.0 } else { 1.0 }).collect();
    let rows: Vec<usize> = (0..200).flat_map(|i| vec![i; if i % 3 == 0 { 3 } else { 1 }]).collect();
    let mut replicated = Problem::new(6, 200, 30, 2, 1, 0.8, 0.2);
    replicated.knm = Mat::from_fn(rows.len(), 30, |i, j| weighted.knm[(rows[i], j)]);
    replicated.y = Mat::from_fn(rows.len(), 1, |i, j| weighted.y[(rows[i], j)]);
    replicated.weights = vec![1.0; rows.len()];
    let ridge = 0.05;
    let whitening = CholeskyWhitening::new(&weighted.kmm);
    let p = sampled(&weighted, &whitening, ridge);
    let (a, _) = solve(&mut weighted, &whitening, &p, ridge, params(1e-11, 200));
    let (b, _) = solve(&mut replicated, &whitening, &p, ridge, params(1e-11, 200));
    assert!(distance(&(&weighted.knm * a), &(&weighted.knm * b)) < 1e-8);

    let mut problem = Problem::new(7, 1200, 50, 2, 1, 1.0, 0.2);
    let ridge = 1200.0 * 1e-6;
    let whitening = CholeskyWhitening::new(&problem.kmm);
    for form in 0..3 {
        let mut counts = Vec::new();
        for weighted in [false, true] {
            problem.weights = (0..1200).map(|i| if weighted { 1.0 + ((i * 7) % 10) as f64 } else { 1.0 }).collect();
            let total = problem.weight_sum();
            let ridge = ridge * total / 1200.0;
            let p = match form {
                0 => sampled(&problem, &whitening, ridge),
                1 => Preconditioner::falkon(&whitening, &problem.weights[..50], total, ridge).unwrap(),
                _ => stratified_sample(&problem, &whitening, ridge),
            };
            let (_, info) = solve(&mut problem, &whitening, &p, ridge, params(1e-6, 200));
            assert_eq!(info.stopped, Stopped::Converged);
            counts.push(info.iterations);
        }
        assert!(counts[1] <= 2 * counts[0], "form {form}: {counts:?}");
    }
}

#[test]
fn the_solution_does_not_depend_on_the_preconditioner() {
    // Oracle (8): whatever is damped inside P, the answer agrees to the tolerance.
    let mut problem = Problem::new(8, 300, 50, 3, 1, 2.0, 0.1);
    let ridge = 300.0 * 1e-6;
    let whitening = CholeskyWhitening::new(&problem.kmm);
    let features = whitening.features(&problem.knm);
    let mut fits = Vec::new();
    for damping in [1.0, 1e2, 1e4, 1e6] {
        let p = Preconditioner::from_rows(features.as_ref(), &[1.0; 300], damping * ridge).unwrap();
        let (alpha, info) = solve(&mut problem, &whitening, &p, ridge, params(1e-11, 500));
        assert_ne!(info.stopped, Stopped::MaxIterations, "{damping} {info:?}");
        fits.push(&problem.knm * alpha);
    }
    for fit in &fits[1..] {
        assert!(length(&(fit - &fits[0])) < 1e-5 * length(&fits[0]));
    }
}

#[test]
fn condition_estimate_is_close_to_the_truth() {
    let mut problem = Problem::new(9, 300, 25, 2, 1, 0.7, 0.2);
    let ridge = 300.0 * 1e-4;
    let whitening = CholeskyWhitening::new(&problem.kmm);
    let phi = whitening.features(&problem.knm);
    let (values, _) =
        crate::dense::symmetric_eigen((phi.transpose() * &phi).as_ref(), crate::dense::SEQUENTIAL).unwrap();
    let truth = (values[24] + ridge) / (values[0] + ridge);
    let (_, info) = solve(&mut problem, &whitening, &Preconditioner::identity(), ridge, params(1e-10, 300));
    assert!(info.condition_estimate <= 1.001 * truth && info.condition_estimate > 0.9 * truth, "{info:?} {truth}");
}

/// An operator whose products carry relative noise of the size of single precision, different at every pass.
struct Noisy(Problem, u64);

impl NormalOperator for Noisy {
    type Error = Infallible;
    fn centers(&self) -> usize {
        self.0.m()
    }
    fn apply(&mut self, v: MatRef<'_, f64>) -> Result<Mat<f64>, Infallible> {
        let exact = self.0.apply(v)?;
        self.1 += 1;
        let noise = normals(1000 + self.1, exact.nrows(), exact.ncols());
        Ok(Mat::from_fn(exact.nrows(), exact.ncols(), |i, j| exact[(i, j)] * (1.0 + 1e-5 * noise[(i, j)])))
    }
}

#[test]
fn a_noisy_operator_stagnates_and_says_so() {
    let problem = Problem::new(10, 300, 40, 2, 1, 1.0, 0.2);
    let ridge = 300.0 * 1e-6;
    let whitening = CholeskyWhitening::new(&problem.kmm);
    let p = Preconditioner::falkon(&whitening, &[1.0; 40], 300.0, ridge).unwrap();
    let rhs = problem.rhs();
    let mut noisy = Noisy(problem, 0);
    let (alpha, info) = pcg(&mut noisy, &whitening, &p, rhs.as_ref(), ridge, params(1e-12, 1000), None, go).unwrap();
    assert_eq!(info.stopped, Stopped::Stagnated, "{info:?}");
    assert!(info.iterations < 300, "{info:?}");
    // What is reported is measured, not recursed: within the noise of a fresh product.
    let truth = noisy.0.relative_residual(ridge, &alpha, 0);
    assert!(truth < 20.0 * info.residuals[0] && info.residuals[0] < 20.0 * truth, "{truth} {info:?}");
}

#[test]
fn limits_requests_and_bad_operators_are_reported() {
    let mut problem = Problem::new(11, 100, 20, 2, 1, 1.0, 0.2);
    let whitening = CholeskyWhitening::new(&problem.kmm);
    let rhs = problem.rhs();
    let p = Preconditioner::identity();
    let (alpha, info) = solve(&mut problem, &whitening, &p, 1e-3, params(1e-14, 3));
    assert_eq!((info.stopped, info.iterations, info.applications), (Stopped::MaxIterations, 3, 4));
    assert!((info.residuals[0] - problem.relative_residual(1e-3, &alpha, 0)).abs() < 1e-12);
    let (_, info) = pcg(&mut problem, &whitening, &p, rhs.as_ref(), 1e-3, params(1e-14, 50), None, |s| {
        if s.iteration >= 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!((info.stopped, info.iterations, info.applications), (Stopped::Asked, 2, 3));

    problem.weights[7] = -1e3;
    let bad = pcg(&mut problem, &whitening, &p, rhs.as_ref(), 1e-3, params(1e-14, 50), None, go);
    assert!(matches!(bad, Err(SolveError::Indefinite { what: "the operator", .. })), "{bad:?}");
    problem.weights[7] = f64::NAN;
    let bad = pcg(&mut problem, &whitening, &p, rhs.as_ref(), 1e-3, params(1e-14, 50), None, go);
    assert!(matches!(bad, Err(SolveError::NotFinite { .. })), "{bad:?}");
    let short = Mat::<f64>::zeros(19, 1);
    let bad = pcg(&mut problem, &whitening, &p, short.as_ref(), 1e-3, params(1e-14, 50), None, go);
    assert_eq!(bad.unwrap_err(), SolveError::Shape { what: "rows of the right-hand side", expected: 20, found: 19 });
}

#[test]
fn a_restored_state_continues_to_the_same_bits() {
    let mut problem = Problem::new(12, 200, 30, 2, 3, 1.0, 0.2);
    let ridge = 200.0 * 1e-5;
    let whitening = CholeskyWhitening::new(&problem.kmm);
    let p = Preconditioner::falkon(&whitening, &[1.0; 30], 200.0, ridge).unwrap();
    let rhs = problem.rhs();
    let (whole, expected) = solve(&mut problem, &whitening, &p, ridge, params(1e-10, 100));
    for kill_after in [1, 4, 9] {
        let new = || Pcg::new::<Infallible>(&whitening, &p, rhs.as_ref(), ridge, params(1e-10, 100), None).unwrap();
        let mut first = new();
        let mut run = |state: &mut Pcg<'_, CholeskyWhitening>, passes: usize| {
            for _ in 0..passes {
                let Some((_, block)) = state.block() else { return };
                let products = problem.apply(block.as_ref()).unwrap();
                state.advance::<Infallible>(block.as_ref(), products.as_ref()).unwrap();
            }
        };
        run(&mut first, kill_after);
        let stored = first.snapshot().clone();
        let mut second = new();
        second.restore::<Infallible>(stored).unwrap();
        run(&mut second, 1000);
        assert_eq!(second.alpha(), whole);
        assert_eq!(second.info(), expected);
    }
}

#[test]
fn the_thread_pool_does_not_change_a_bit() {
    // Law 1: large enough for the factorisations to split their work.
    let mut problem = Problem::new(13, 900, 300, 4, 3, 1.0, 0.2);
    let ridge = 900.0 * 1e-5;
    let rhs = problem.rhs();
    let mut results = Vec::new();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        results.push(pool.install(|| {
            let whitening = CholeskyWhitening::new(&problem.kmm);
            let features = whitening.features(&problem.knm);
            [
                Preconditioner::from_rows(features.as_ref(), &[1.0; 900], 3.0 * ridge).unwrap(),
                Preconditioner::falkon(&whitening, &[1.0; 300], 900.0, ridge).unwrap(),
                Preconditioner::spectral(features.as_ref(), &[1.0; 900], ridge, 60).unwrap(),
            ]
            .map(|p| pcg(&mut problem, &whitening, &p, rhs.as_ref(), ridge, params(1e-7, 25), None, go).unwrap().0)
        }));
    }
    assert!(results[0].iter().all(|a| largest(a) > 0.0));
    assert!(results[0] == results[1]);
}

/// tr K~ (K~ + Lambda I)^-1 of the n x n matrix K~ = W^1/2 K_nm K_mm^-1 K_mn W^1/2, by its eigenvalues.
fn dense_dimension(problem: &Problem, ridge: f64) -> f64 {
    let features = CholeskyWhitening::new(&problem.kmm).features(&problem.knm);
    let weighted = Mat::from_fn(problem.n(), problem.m(), |i, j| problem.weights[i].sqrt() * features[(i, j)]);
    let full = &weighted * weighted.transpose();
    let (values, _) = crate::dense::symmetric_eigen(full.as_ref(), crate::dense::SEQUENTIAL).unwrap();
    values.iter().map(|s| s.max(0.0) / (s.max(0.0) + ridge)).sum()
}

#[test]
fn preconditioners_know_the_degrees_of_freedom_of_their_rows() {
    let mut problem = Problem::new(31, 600, 25, 2, 1, 1.0, 0.1);
    problem.weights = (0..600).map(|i| 0.5 + (i % 3) as f64).collect();
    let whitening = CholeskyWhitening::new(&problem.kmm);
    let features = whitening.features(&problem.knm);
    for ridge in [1e-3, 1.0, 100.0] {
        let exact = dense_dimension(&problem, ridge);
        let all = Preconditioner::from_rows(features.as_ref(), &problem.weights, ridge).unwrap();
        let spectral = Preconditioner::spectral(features.as_ref(), &problem.weights, ridge, 25).unwrap();
        for found in [&all, &spectral].map(|p| p.effective_dimension().unwrap()) {
            assert!((found - exact).abs() < 1e-7 * exact, "{ridge}: {found} {exact}");
        }
        // Part of the rows: near it.
        let near = stratified_sample(&problem, &whitening, ridge).effective_dimension().unwrap();
        assert!((near / exact - 1.0).abs() < 0.1, "{ridge}: {near} {exact}");
        let weighted = |step: usize| {
            let rows: Vec<usize> = (0..600).step_by(step).collect();
            let part = Mat::from_fn(rows.len(), 25, |i, j| problem.weights[rows[i]].sqrt() * features[(rows[i], j)]);
            let own: f64 = rows.iter().map(|i| problem.weights[*i]).sum();
            sampled_dimension(part.as_ref(), ridge, own / problem.weight_sum()).unwrap()
        };
        assert!((weighted(1) - exact).abs() < 1e-6 * exact, "{ridge}: {} {exact}", weighted(1));
        assert!((weighted(4) / exact - 1.0).abs() < 0.1, "{ridge}: {} {exact}", weighted(4));
        // Fewer rows than features, and they are all: the sum of their leverages.
        let few = features.subrows(0, 12);
        let (values, _) = symmetric_eigen((few * few.transpose()).as_ref(), fixed_parallelism()).unwrap();
        let sum: f64 = values.iter().map(|v| v / (v + ridge)).sum();
        assert!((sampled_dimension(few, ridge, 1.0).unwrap() - sum).abs() < 1e-9 * sum);
    }
    assert_eq!(Preconditioner::identity().effective_dimension(), None);
}

/// Beyond the order up to which traces are exact they are within four standard errors, and the same every time.
#[test]
fn traces_of_large_factors_are_probed() {
    use crate::constants::{EXACT_TRACE, TRACE_PROBES};
    let r = EXACT_TRACE + 77;
    // Features in a band: a Gram far from diagonal, with eigenvalues from 1e-3 to 1e3.
    let features = Mat::from_fn(r, r, |i, j| {
        let scale = 10f64.powf(3.0 * (j as f64 / r as f64) - 1.5);
        if i == j {
            scale
        } else if i > j && i - j < 4 {
            0.4 * scale
        } else {
            0.0
        }
    });
    let weights = vec![1.0; r];
    for ridge in [1e-4, 1.0, 1e3] {
        let p = Preconditioner::from_rows(features.as_ref(), &weights, ridge).unwrap();
        let found = p.effective_dimension().unwrap();
        assert_eq!(found, p.clone().effective_dimension().unwrap());
        let gram = features.transpose() * &features;
        let (values, _) = symmetric_eigen(gram.as_ref(), fixed_parallelism()).unwrap();
        let exact: f64 = values.iter().map(|v| v / (v + ridge)).sum();
        let deviation = (2.0 * exact.min(r as f64 - exact) / TRACE_PROBES as f64).sqrt();
        assert!((found - exact).abs() <= 4.0 * deviation, "{ridge}: {found}, {exact}, deviation {deviation}");
    }
}
