//! Oracles of the solver specification for logistic loss.

use super::super::oracle::{CholeskyWhitening, Problem, distance, normals, spd_solve};
use super::super::{SolveError, Stopped, Whitening};
use super::*;
use crate::checks::largest;
use nystream_hashing::{RowId, StreamKey};
use std::convert::Infallible;

/// A stored problem: classes from hashed draws of the softmax of a smooth function.
struct Stored {
    problem: Problem,
    labels: Vec<usize>,
    loss: LogisticLoss,
    offset: Vec<f64>,
}

impl Stored {
    fn new(seed: u64, n: usize, m: usize, loss: LogisticLoss, sharpness: f64) -> Self {
        let mut problem = Problem::new(seed, n, m, 2, loss.outputs(), 1.0, 0.0);
        let key = StreamKey::new(seed, "labels", 0);
        problem.weights = (0..n).map(|i| 0.5 + key.uniform(RowId((n + i) as u128))).collect();
        let labels = (0..n)
            .map(|i| {
                let margins: Vec<f64> = (0..loss.outputs()).map(|k| sharpness * problem.y[(i, k)]).collect();
                let mut p = vec![0.0; loss.classes()];
                loss.probabilities(&margins, &mut p);
                let mut u = key.uniform(RowId(i as u128));
                (0..p.len())
                    .find(|&k| {
                        u -= p[k];
                        u <= 0.0
                    })
                    .unwrap_or(p.len() - 1)
            })
            .collect();
        let offset = vec![0.0; loss.outputs()];
        Stored { problem, labels, loss, offset }
    }

    fn margins(&self, alpha: MatRef<'_, f64>) -> Mat<f64> {
        let f = &self.problem.knm * alpha;
        Mat::from_fn(f.nrows(), f.ncols(), |i, k| f[(i, k)] + self.offset[k])
    }

    fn each(&self, alpha: MatRef<'_, f64>, mut visit: impl FnMut(usize, &[f64], &mut [f64])) -> Mat<f64> {
        let f = self.margins(alpha);
        let t = f.ncols();
        let mut out = Mat::zeros(f.nrows(), t);
        for i in 0..f.nrows() {
            let row: Vec<f64> = (0..t).map(|k| f[(i, k)]).collect();
            let mut image = vec![0.0; t];
            visit(i, &row, &mut image);
            (0..t).for_each(|k| out[(i, k)] = self.problem.weights[i] * image[k]);
        }
        out
    }

    fn curvature(&self, whitening: &CholeskyWhitening, local: bool) -> SampleCurvature {
        let rows: Vec<usize> = (0..self.problem.n()).step_by(2).collect();
        let k = Mat::from_fn(rows.len(), self.problem.m(), |i, j| self.problem.knm[(rows[i], j)]);
        let sum: f64 = rows.iter().map(|&i| self.problem.weights[i]).sum();
        SampleCurvature {
            features: whitening.features(&k),
            weights: rows.iter().map(|&i| self.problem.weights[i] * self.problem.weight_sum() / sum).collect(),
            offset: self.offset.clone(),
            loss: self.loss,
            local,
            unmixed: None,
        }
    }

    fn solve(&mut self, ridge: f64, params: &LogisticParams, local: bool) -> (Mat<f64>, LogisticInfo) {
        let whitening = CholeskyWhitening::new(&self.problem.kmm);
        let curvature = self.curvature(&whitening, local);
        let total = self.problem.weight_sum();
        logistic(self, &whitening, &curvature, total, ridge, params, None, |_, _| ControlFlow::Continue(())).unwrap()
    }
}

impl LogisticOperator for Stored {
    type Error = Infallible;
    fn centers(&self) -> usize {
        self.problem.m()
    }
    fn outputs(&self) -> usize {
        self.loss.outputs()
    }
    fn gradient(&mut self, alpha: MatRef<'_, f64>) -> Result<(f64, Mat<f64>), Infallible> {
        let mut loss = 0.0;
        let g =
            self.each(alpha, |i, f, out| loss += self.problem.weights[i] * self.loss.gradient(f, self.labels[i], out));
        Ok((loss, self.problem.knm.transpose() * g))
    }
    fn hessian(&mut self, alpha: MatRef<'_, f64>, v: MatRef<'_, f64>) -> Result<Mat<f64>, Infallible> {
        let u = &self.problem.knm * v;
        let h = self.each(alpha, |i, f, out| {
            let row: Vec<f64> = (0..f.len()).map(|k| u[(i, k)]).collect();
            self.loss.hessian_times(f, &row, out);
        });
        Ok(self.problem.knm.transpose() * h)
    }
}

const LOSSES: [LogisticLoss; 2] = [LogisticLoss::Binary, LogisticLoss::Softmax { classes: 4 }];

#[test]
fn derivatives_agree_with_finite_differences() {
    let key = StreamKey::new(3, "margins", 0);
    for loss in LOSSES {
        let t = loss.outputs();
        for case in 0..20u128 {
            let f: Vec<f64> = (0..t).map(|k| 3.0 * key.normal_pair(RowId(case * 8 + k as u128)).0).collect();
            let v: Vec<f64> = (0..t).map(|k| key.normal_pair(RowId(case * 8 + k as u128)).1).collect();
            let label = (case as usize) % loss.classes();
            let at = |s: f64| -> Vec<f64> { f.iter().zip(&v).map(|(f, v)| f + s * v).collect() };
            let (mut g, mut h, mut up, mut down) = (vec![0.0; t], vec![0.0; t], vec![0.0; t], vec![0.0; t]);
            let value = loss.gradient(&f, label, &mut g);
            assert_eq!(value, loss.value(&f, label));
            loss.hessian_times(&f, &v, &mut h);
            let e = 1e-5;
            let slope = (loss.gradient(&at(e), label, &mut up) - loss.gradient(&at(-e), label, &mut down)) / (2.0 * e);
            assert!((slope - g.iter().zip(&v).map(|(g, v)| g * v).sum::<f64>()).abs() < 1e-9);
            for k in 0..t {
                assert!((h[k] - (up[k] - down[k]) / (2.0 * e)).abs() < 1e-9);
                let mut unit = vec![0.0; t];
                unit[k] = 1.0;
                let (mut column, mut diagonal) = (vec![0.0; t], vec![0.0; t]);
                loss.hessian_times(&f, &unit, &mut column);
                loss.curvature(&f, &mut diagonal);
                assert!((column[k] - diagonal[k]).abs() < 1e-15);
            }
        }
    }
}

/// The derivatives of the whole objective J = sum w l + (Lambda / 2) alpha^T K_mm alpha at a random point, from those of the operator: in
/// coefficients by the definition, and in whitened coordinates as the solver forms them.
#[test]
fn the_operator_and_the_solver_agree_with_finite_differences() {
    let (n, m, e) = (150, 25, 1e-5);
    for loss in LOSSES {
        let t = loss.outputs();
        let mut stored = Stored::new(27, n, m, loss, 1.0);
        stored.offset = (0..t).map(|k| 0.3 - 0.25 * k as f64).collect();
        let (kmm, ridge) = (stored.problem.kmm.clone(), 1e-2 * stored.problem.weight_sum());
        let whitening = CholeskyWhitening::new(&kmm);
        let at = |a: &Mat<f64>, v: &Mat<f64>, s: f64| a + faer::Scale(s) * v;
        let close = |what: &str, found: f64, expected: f64| {
            assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{loss:?} {what}: {found} {expected}");
        };
        for case in 0..5 {
            let (alpha, v) = (faer::Scale(0.3) * normals(100 + case, m, t), normals(200 + case, m, t));
            let mut objective = |a: Mat<f64>| {
                let (value, gradient) = stored.gradient(a.as_ref()).unwrap();
                let smooth = &kmm * &a;
                (value + 0.5 * ridge * inner(&a, &smooth), gradient + faer::Scale(ridge) * smooth)
            };
            let (up, down) = (objective(at(&alpha, &v, e)), objective(at(&alpha, &v, -e)));
            let (_, gradient) = objective(alpha.clone());
            close("slope", (up.0 - down.0) / (2.0 * e), inner(&gradient, &v));
            let product = stored.hessian(alpha.as_ref(), v.as_ref()).unwrap() + faer::Scale(ridge) * (&kmm * &v);
            let quotient = faer::Scale(0.5 / e) * (up.1 - down.1);
            assert!(distance(&product, &quotient) <= 1e-6 * largest(&product), "{loss:?} Hessian");
            // Without the coupling between classes it would not be the Hessian.
            assert!(t == 1 || (1..t).all(|k| (product[(0, k)] - product[(0, 0)]).abs() > 1e-3));

            let (z, d) = (faer::Scale(0.3) * normals(300 + case, m, t), normals(400 + case, m, t));
            let weight_sum = stored.problem.weight_sum();
            let mut newton =
                Newton { operator: &mut stored, whitening: &whitening, shift_free: false, weight_sum, passes: 0 };
            let (here, up, down) = (z.clone(), at(&z, &d, e), at(&z, &d, -e));
            let [point, above, below] = [&here, &up, &down].map(|z| newton.evaluate(z).unwrap());
            let slope = (above.objective(ridge, &up) - below.objective(ridge, &down)) / (2.0 * e);
            close("whitened slope", slope, inner(&point.with_ridge(ridge, &z), &d));
            let quotient = faer::Scale(0.5 / e) * (above.with_ridge(ridge, &up) - below.with_ridge(ridge, &down));
            let direction = whitening.apply(d.as_ref());
            let image = stored.hessian(point.alpha.as_ref(), direction.as_ref()).unwrap();
            let product = whitening.apply_transpose(image.as_ref()) + faer::Scale(ridge) * &d;
            assert!(distance(&product, &quotient) <= 1e-6 * largest(&product), "{loss:?} whitened Hessian");
        }
    }
}

#[test]
fn losses_are_finite_at_extreme_margins_and_priors_reproduce_shares() {
    for loss in LOSSES {
        let t = loss.outputs();
        for scale in [1e3, 1e8, 1e300] {
            let f: Vec<f64> = (0..t).map(|k| if k % 2 == 0 { scale } else { -scale }).collect();
            for label in 0..loss.classes() {
                let mut g = vec![0.0; t];
                let v = loss.gradient(&f, label, &mut g);
                assert!(
                    v.is_finite() && v >= 0.0 && g.iter().all(|g| g.abs() <= 1.0),
                    "{loss:?} {scale} {label} {v} {g:?}"
                );
            }
        }
        let shares: Vec<f64> = (0..loss.classes()).map(|k| 1.0 + k as f64).collect();
        let total: f64 = shares.iter().sum();
        let mut p = vec![0.0; loss.classes()];
        loss.probabilities(&loss.prior_offsets(&shares), &mut p);
        for k in 0..p.len() {
            assert!((p[k] - shares[k] / total).abs() < 1e-14);
        }
        assert!(loss.prior_offsets(&vec![0.0, 1.0, 1.0, 1.0][..loss.classes()]).iter().all(|o| o.is_finite()));
    }
    // The tails keep their digits: softplus(-40) = e^-40.
    assert!((LogisticLoss::Binary.value(&[40.0], 1) / (-40f64).exp() - 1.0).abs() < 1e-12);
}

/// The slow reference: Newton with a dense Hessian over all coefficients, in whitened coordinates.
fn dense_newton(stored: &mut Stored, ridge: f64) -> Mat<f64> {
    let whitening = CholeskyWhitening::new(&stored.problem.kmm);
    let (m, t) = (stored.problem.m(), stored.loss.outputs());
    let matrix_ridge = ridge * stored.problem.weight_sum();
    let mut z = Mat::<f64>::zeros(m, t);
    for _ in 0..40 {
        let alpha = whitening.apply(z.as_ref());
        let (_, g) = stored.gradient(alpha.as_ref()).unwrap();
        let g = whitening.apply_transpose(g.as_ref()) + faer::Scale(matrix_ridge) * &z;
        let mut h = Mat::<f64>::zeros(m * t, m * t);
        for column in 0..m * t {
            let unit = Mat::from_fn(m, t, |i, k| if k * m + i == column { 1.0 } else { 0.0 });
            let hv = stored.hessian(alpha.as_ref(), whitening.apply(unit.as_ref()).as_ref()).unwrap();
            let hv = whitening.apply_transpose(hv.as_ref()) + faer::Scale(matrix_ridge) * unit;
            (0..m * t).for_each(|i| h[(i, column)] = hv[(i % m, i / m)]);
        }
        let d = spd_solve(&h, &Mat::from_fn(m * t, 1, |i, _| g[(i % m, i / m)]));
        z -= Mat::from_fn(m, t, |i, k| d[(k * m + i, 0)]);
    }
    whitening.apply(z.as_ref())
}

#[test]
fn reaches_the_dense_newton_solution() {
    for (loss, m) in [(LogisticLoss::Binary, 25), (LogisticLoss::Softmax { classes: 3 }, 15)] {
        for (local, path) in [(true, vec![]), (false, vec![]), (true, ridge_path(1e-4, 1e-1, 10.0))] {
            let mut stored = Stored::new(20, 150, m, loss, 1.0);
            stored.offset = (0..loss.outputs()).map(|k| 0.2 - 0.1 * k as f64).collect();
            let expected = dense_newton(&mut stored, 1e-4);
            let params = LogisticParams { tolerance: 1e-9, max_inner: 200, path, ..LogisticParams::default() };
            let (alpha, info) = stored.solve(1e-4, &params, local);
            assert_eq!(info.stopped, Stopped::Converged, "{loss:?} {info:?}");
            let error = distance(&stored.margins(alpha.as_ref()), &stored.margins(expected.as_ref()));
            assert!(error < 1e-6, "{loss:?} {local} {error:e} {info:?}");
            assert!(info.residual < 1e-7 && info.gradient <= 1e-9);
        }
    }
}

/// Classes of very different shares at a small ridge: the common shift of all margins, which softmax does not see, costs nothing.
#[test]
fn the_shift_of_all_margins_costs_nothing() {
    let mut stored = Stored::new(22, 400, 25, LogisticLoss::Softmax { classes: 4 }, 1.0);
    stored.labels.iter_mut().enumerate().for_each(|(i, label)| *label = if i % 3 > 0 { 0 } else { *label });
    let params = LogisticParams { path: ridge_path(1e-8, 1e-1, 10.0), tolerance: 1e-7, ..LogisticParams::default() };
    let (alpha, info) = stored.solve(1e-8, &params, true);
    assert_eq!(info.stopped, Stopped::Converged, "{info:?}");
    let inner: usize = info.steps.iter().map(|step| step.inner).sum();
    assert!(inner < 200 && info.steps.len() < 25, "{inner} products in {} steps", info.steps.len());
    for i in 0..alpha.nrows() {
        let sum: f64 = (0..4).map(|k| alpha[(i, k)]).sum();
        let largest = (0..4).map(|k| alpha[(i, k)].abs()).fold(0.0, f64::max);
        assert!(sum.abs() < 1e-9 * largest, "{sum} of {largest}");
    }
}

#[test]
fn two_class_softmax_is_binary_at_half_the_ridge() {
    // f_1 = -f_0 = f/2, so ||f_0||^2 + ||f_1||^2 = ||f||^2 / 2.
    let mut binary = Stored::new(21, 200, 20, LogisticLoss::Binary, 1.0);
    let mut softmax = Stored::new(21, 200, 20, LogisticLoss::Softmax { classes: 2 }, 1.0);
    softmax.labels = binary.labels.clone();
    let params = LogisticParams { tolerance: 1e-10, max_inner: 100, ..LogisticParams::default() };
    let (a, _) = binary.solve(1e-3, &params, true);
    let (b, _) = softmax.solve(2e-3, &params, true);
    let difference = Mat::from_fn(20, 1, |i, _| b[(i, 1)] - b[(i, 0)]);
    assert!(distance(&binary.margins(a.as_ref()), &softmax_margins(&softmax, &difference)) < 1e-6);
}

fn softmax_margins(stored: &Stored, alpha: &Mat<f64>) -> Mat<f64> {
    &stored.problem.knm * alpha
}

#[test]
fn separable_data_stays_finite() {
    for ridge in [1e-2, 1e-6, 1e-10] {
        let mut stored = Stored::new(22, 120, 30, LogisticLoss::Binary, 1.0);
        stored.labels = (0..120).map(|i| usize::from(stored.problem.x.view().numeric(i)[0] > 0.0)).collect();
        let params = LogisticParams {
            tolerance: 1e-5,
            max_inner: 100,
            path: ridge_path(ridge, 1e-1, 30.0),
            ..LogisticParams::default()
        };
        let (alpha, info) = stored.solve(ridge, &params, true);
        assert!(info.loss.is_finite() && largest(&alpha).is_finite(), "{info:?}");
        assert_eq!(info.stopped, Stopped::Converged, "{ridge} {info:?}");
        assert!(ridge > 1e-3 || info.loss < 0.05, "{info:?}");
    }
}

/// A quadratic "loss" c (f - y)^2 / 2, whose Newton step is the least-squares solution.
struct Quadratic(Problem, f64);

impl LogisticOperator for Quadratic {
    type Error = Infallible;
    fn centers(&self) -> usize {
        self.0.m()
    }
    fn outputs(&self) -> usize {
        1
    }
    fn gradient(&mut self, alpha: MatRef<'_, f64>) -> Result<(f64, Mat<f64>), Infallible> {
        let e = &self.0.knm * alpha - &self.0.y;
        Ok((0.5 * self.1 * squares(&e), self.0.knm.transpose() * (faer::Scale(self.1) * e)))
    }
    fn hessian(&mut self, _: MatRef<'_, f64>, v: MatRef<'_, f64>) -> Result<Mat<f64>, Infallible> {
        Ok(self.0.knm.transpose() * (faer::Scale(self.1) * (&self.0.knm * v)))
    }
}

#[test]
fn constant_curvature_is_one_least_squares_step() {
    let problem = Problem::new(23, 200, 25, 2, 1, 1.0, 0.2);
    let ridge = 1e-3;
    let expected = &problem.knm * problem.direct(200.0 * ridge / 0.25);
    let whitening = CholeskyWhitening::new(&problem.kmm);
    let curvature = SampleCurvature {
        features: whitening.features(&problem.knm),
        weights: vec![1.0; 200],
        offset: vec![0.0],
        loss: LogisticLoss::Binary,
        local: false,
        unmixed: None,
    };
    let params = LogisticParams { tolerance: 1e-9, ..LogisticParams::default() };
    let mut quadratic = Quadratic(problem, 0.25);
    let (alpha, info) =
        logistic(&mut quadratic, &whitening, &curvature, 200.0, ridge, &params, None, |_, _| ControlFlow::Continue(()))
            .unwrap();
    // The bound 1/4 is the curvature: the preconditioner is exact, so one inner step solves.
    assert_eq!((info.steps.len(), info.steps[0].inner, info.steps[0].length), (1, 1, 1.0), "{info:?}");
    assert!(distance(&(&quadratic.0.knm * alpha), &expected) < 1e-8);
}

#[test]
fn loss_falls_along_the_path_and_objective_at_every_step() {
    for loss in LOSSES {
        let mut stored = Stored::new(24, 300, 30, loss, 1.5);
        let path = ridge_path(1e-6, 1e-1, 10.0);
        let params = LogisticParams {
            tolerance: 1e-6,
            path: path.clone(),
            path_newton: 3,
            max_inner: 100,
            ..LogisticParams::default()
        };
        let (_, info) = stored.solve(1e-6, &params, true);
        assert_eq!(info.stopped, Stopped::Converged, "{info:?}");
        let ends: Vec<f64> = path
            .iter()
            .chain(&[1e-6])
            .filter_map(|&r| info.steps.iter().rfind(|s| s.ridge == r).map(|s| s.loss))
            .collect();
        assert_eq!(ends.len(), path.len() + 1);
        assert!(ends.windows(2).all(|w| w[1] < w[0]), "{ends:?}");
        for pair in info.steps.windows(2).filter(|p| p[0].ridge == p[1].ridge) {
            assert!(pair[1].objective <= pair[0].objective * (1.0 + 1e-14), "{pair:?}");
        }
    }
}

#[test]
fn states_resume_to_the_same_bits_and_warm_starts_save_steps() {
    let mut stored = Stored::new(25, 150, 20, LogisticLoss::Softmax { classes: 3 }, 1.0);
    let whitening = CholeskyWhitening::new(&stored.problem.kmm);
    let curvature = stored.curvature(&whitening, true);
    let total = stored.problem.weight_sum();
    let params = LogisticParams { path: ridge_path(1e-4, 1e-1, 10.0), tolerance: 1e-8, ..LogisticParams::default() };
    let mut states = Vec::new();
    let (whole, expected) = logistic(&mut stored, &whitening, &curvature, total, 1e-4, &params, None, |_, s| {
        states.push(s.clone());
        ControlFlow::Continue(())
    })
    .unwrap();
    for state in &states {
        let (again, info) =
            logistic(&mut stored, &whitening, &curvature, total, 1e-4, &params, Some(state.clone()), |_, _| {
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(again, whole);
        assert_eq!(info, expected);
    }
    let warm = LogisticState::warm(&whitening, whole.as_ref());
    let (_, info) = logistic(&mut stored, &whitening, &curvature, total, 1.1e-4, &params, Some(warm), |_, _| {
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(info.steps.len() < expected.steps.len() && info.stopped == Stopped::Converged, "{info:?}");
    // Asked to stop after the first step, and refused without a ridge.
    let (_, info) =
        logistic(&mut stored, &whitening, &curvature, total, 1e-4, &params, None, |_, _| ControlFlow::Break(()))
            .unwrap();
    assert_eq!((info.stopped, info.steps.len()), (Stopped::Asked, 1));
    let bad = logistic(&mut stored, &whitening, &curvature, total, 0.0, &params, None, |_, _| ControlFlow::Break(()));
    assert!(matches!(bad, Err(SolveError::Parameter { name: "ridge", .. })));
}

/// A problem whose clock runs out after some questions.
struct Late {
    stored: Stored,
    patience: usize,
}

impl LogisticOperator for Late {
    type Error = Infallible;
    fn centers(&self) -> usize {
        self.stored.centers()
    }
    fn outputs(&self) -> usize {
        self.stored.outputs()
    }
    fn gradient(&mut self, alpha: MatRef<'_, f64>) -> Result<(f64, Mat<f64>), Infallible> {
        self.stored.gradient(alpha)
    }
    fn hessian(&mut self, alpha: MatRef<'_, f64>, v: MatRef<'_, f64>) -> Result<Mat<f64>, Infallible> {
        self.stored.hessian(alpha, v)
    }
    fn stop(&mut self) -> Result<bool, Infallible> {
        self.patience = self.patience.saturating_sub(1);
        Ok(self.patience == 0)
    }
}

#[test]
fn whenever_the_operator_stops_it_the_solve_leaves_the_best_so_far() {
    for loss in LOSSES {
        let mut objectives = Vec::new();
        for patience in [1, 2, 3, 5, 8, 1000] {
            let mut late = Late { stored: Stored::new(20, 150, 15, loss, 1.0), patience };
            let whitening = CholeskyWhitening::new(&late.stored.problem.kmm);
            let curvature = late.stored.curvature(&whitening, true);
            let (total, params) = (late.stored.problem.weight_sum(), LogisticParams::default());
            let go_on = |_: &Mat<f64>, _: &LogisticState| ControlFlow::Continue(());
            let (alpha, info) = logistic(&mut late, &whitening, &curvature, total, 1e-4, &params, None, go_on).unwrap();
            assert_eq!(info.stopped, if patience == 1000 { Stopped::Converged } else { Stopped::Asked });
            // At most the answer, the step it was in, and the pass that began it all.
            assert!(info.applications <= 3 * patience.min(1000), "{patience}: {info:?}");
            let z = whitening.coordinates(alpha.as_ref());
            objectives.push(info.loss + 0.5 * 1e-4 * squares(&z));
        }
        assert!(objectives.is_sorted_by(|a, b| a >= b), "{objectives:?}");
        assert!(objectives[1] < objectives[0], "{objectives:?}");
    }
}

/// Of the curvature of the rows at the solution, against dense matrices.
#[test]
fn degrees_of_freedom_are_those_of_the_curvature_at_the_solution() {
    let ridge = 1e-3;
    let mut stored = Stored::new(33, 240, 15, LogisticLoss::Binary, 1.0);
    let whitening = CholeskyWhitening::new(&stored.problem.kmm);
    let features = whitening.features(&stored.problem.knm);
    let (weights, total) = (stored.problem.weights.clone(), stored.problem.weight_sum());
    let params = LogisticParams { tolerance: 1e-9, ..LogisticParams::default() };
    let curvature = SampleCurvature {
        features: features.clone(),
        weights: weights.clone(),
        offset: stored.offset.clone(),
        loss: stored.loss,
        local: true,
        unmixed: None,
    };
    let (alpha, info) =
        logistic(&mut stored, &whitening, &curvature, total, ridge, &params, None, |_, _| ControlFlow::Continue(()))
            .unwrap();
    let margins = stored.margins(alpha.as_ref());
    let root = |i: usize| {
        let p = 1.0 / (1.0 + (-margins[(i, 0)]).exp());
        (weights[i] * p * (1.0 - p)).sqrt()
    };
    let weighted = Mat::from_fn(240, 15, |i, j| root(i) * features[(i, j)]);
    let hessian = weighted.transpose() * &weighted;
    let (values, _) = crate::dense::symmetric_eigen(hessian.as_ref(), crate::dense::SEQUENTIAL).unwrap();
    let exact: f64 = values.iter().map(|s| s / (s + ridge * total)).sum();
    assert!((info.effective_dimension[0] - exact).abs() < 1e-6 * exact, "{} {exact}", info.effective_dimension[0]);

    // Whatever the preconditioner weighs them by: the centers (the first rows) for themselves, half of the other rows for all.
    let rows: Vec<usize> = (0..15).chain((15..240).step_by(2)).collect();
    let of = |every: usize| -> Vec<f64> {
        let counts = |k: usize| k < 15 || (k - 15).is_multiple_of(every);
        let own: f64 = (0..15).map(|i| weights[i]).sum();
        let others: f64 = (15..rows.len()).filter(|k| counts(*k)).map(|k| weights[rows[k]]).sum();
        let scale = |k: usize| if k < 15 { 1.0 } else { (total - own) / others };
        (0..rows.len()).map(|k| if counts(k) { scale(k) * weights[rows[k]] } else { 0.0 }).collect()
    };
    let part = SampleCurvature {
        features: Mat::from_fn(rows.len(), 15, |k, j| features[(rows[k], j)]),
        weights: of(1).iter().map(|w| 5.0 * w).collect(),
        unmixed: Some(Unmixed { all: of(1), half: of(2), missing: 0.5 }),
        ..curvature
    };
    let z = whitening.coordinates(alpha.as_ref());
    let found = part.dimensions(&z, ridge * total).unwrap()[0];
    assert!((found / exact - 1.0).abs() < 0.05, "{found} {exact}");
    let whole = SampleCurvature { unmixed: Some(Unmixed { all: of(1), half: vec![], missing: 0.0 }), ..part };
    let (all, mixed) = (whole.dimensions(&z, ridge * total).unwrap()[0], whole.at(&z, ridge * total).unwrap());
    // Half of the rows say a little less, and five times their weight far more.
    assert!(all < found && mixed[0].effective_dimension().unwrap() > 1.1 * exact, "{all} {found} {exact}");
}
