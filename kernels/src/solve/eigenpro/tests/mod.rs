//! Oracles of the solver specification for EigenPro 2, 3 and 4.

mod settling;
mod spectrum;

use super::super::oracle::{Problem, distance, kernel_matrix, spd_solve};
use super::super::{SolveError, Stopped};
use super::walk::Walk;
use super::*;
use crate::checks::largest;
use crate::kernel::{Family, Kernel};
use std::convert::Infallible;

/// Everything stored: rows in "hashed order", centers and subsample as positions among them.
struct Stored {
    k: Mat<f64>,
    y: Mat<f64>,
    weights: Vec<f64>,
    centers: Vec<usize>,
    sample: Vec<usize>,
}

fn pick(k: &Mat<f64>, rows: &[usize], columns: &[usize]) -> Mat<f64> {
    Mat::from_fn(rows.len(), columns.len(), |i, j| k[(rows[i], columns[j])])
}

impl Stored {
    /// Centers are rows 0, stride, ...; the subsample is every second row from the end.
    fn new(kernel: Kernel, n: usize, stride: usize, s: usize, t: usize, noise: f64) -> Self {
        let p = Problem::new(60, n, 1, 2, t, 1.0, noise);
        let k = kernel_matrix(&kernel, p.x.view(), p.x.view());
        let centers = (0..n).step_by(stride).collect();
        let sample = (0..s).map(|i| n - 1 - (2 * i) % n).collect();
        Stored { k, y: p.y, weights: vec![1.0; n], centers, sample }
    }

    fn n(&self) -> usize {
        self.k.nrows()
    }

    fn all(&self) -> Vec<usize> {
        (0..self.n()).collect()
    }

    fn preconditioner(&self, q: usize, exponent: f64) -> SubsamplePreconditioner {
        SubsamplePreconditioner::new(pick(&self.k, &self.sample, &self.sample).as_ref(), q, exponent).unwrap()
    }

    fn outside(&self) -> Vec<usize> {
        self.all().into_iter().filter(|i| !self.sample.contains(i)).collect()
    }

    fn measured(&self, p: &SubsamplePreconditioner) -> Measured {
        let probes = self.outside();
        let weights: Vec<f64> = probes.iter().map(|&i| self.weights[i]).collect();
        p.measure(pick(&self.k, &probes, &probes).as_ref(), pick(&self.k, &probes, &self.sample).as_ref(), &weights)
    }

    fn values(&self, model: &EigenProModel<'_>, rows: &[usize]) -> Mat<f64> {
        let mut f = pick(&self.k, rows, &self.centers) * model.alpha + pick(&self.k, rows, &self.sample) * model.sample;
        for t in model.temporaries {
            f += pick(&self.k, rows, &t.rows.clone().collect::<Vec<_>>()) * &t.weights;
        }
        f
    }

    fn rmse(&self, alpha: &Mat<f64>) -> f64 {
        let e = pick(&self.k, &self.all(), &self.centers) * alpha - &self.y;
        (squares(&e) / (e.nrows() * e.ncols()) as f64).sqrt()
    }

    /// The direct solution at per-sample ridge lambda.
    fn direct(&self, ridge: f64) -> Mat<f64> {
        let knm = pick(&self.k, &self.all(), &self.centers);
        let kmm = pick(&self.k, &self.centers, &self.centers);
        let total: f64 = self.weights.iter().sum();
        let weighted = |a: &Mat<f64>| Mat::from_fn(a.nrows(), a.ncols(), |i, j| self.weights[i] * a[(i, j)]);
        let a = knm.transpose() * weighted(&knm) + faer::Scale(ridge * total) * kmm;
        spd_solve(&a, &(knm.transpose() * weighted(&self.y)))
    }

    fn zero(&self) -> EigenProState {
        EigenProState::from_coefficients(Mat::zeros(self.centers.len(), self.y.ncols()).as_ref())
    }

    fn projector(&self) -> CholeskyProjector {
        CholeskyProjector::new(pick(&self.k, &self.centers, &self.centers)).unwrap()
    }

    fn directions(&self, p: &SubsamplePreconditioner) -> Mat<f64> {
        pick(&self.k, &self.centers, &self.sample) * p.vectors()
    }

    fn solve(
        &mut self,
        p: &SubsamplePreconditioner,
        ridge: f64,
        params: &EigenProParams,
    ) -> Result<(Mat<f64>, EigenProInfo), SolveError<Infallible>> {
        let directions = self.directions(p);
        let problem = EigenProProblem {
            preconditioner: p,
            center_directions: directions.as_ref(),
            measured: self.measured(p),
            ridge,
            weight_sum: self.weights.iter().sum(),
            shares: &[],
        };
        let (start, mut projector) = (self.zero(), self.projector());
        eigenpro(self, &mut projector, &problem, params, start, |_| Verdict::Continue)
    }
}

impl EigenProOperator for Stored {
    type Error = Infallible;
    fn rows(&self) -> usize {
        self.n()
    }
    fn batch(&mut self, rows: Range<usize>, model: &EigenProModel<'_>) -> Result<BatchPartial, Infallible> {
        let (m, s, t) = (self.centers.len(), self.sample.len(), self.y.ncols());
        let mean = self.weights.iter().sum::<f64>() / self.n() as f64;
        let start = rows.start;
        let mut out =
            BatchPartial { residual: Mat::zeros(rows.len(), t), centers: Mat::zeros(m, t), sample: Mat::zeros(s, t) };
        for block in sub_blocks(rows) {
            let rows: Vec<usize> = block.collect();
            let f = self.values(model, &rows);
            let g =
                Mat::from_fn(rows.len(), t, |i, j| self.weights[rows[i]] / mean * (f[(i, j)] - self.y[(rows[i], j)]));
            out.centers += pick(&self.k, &self.centers, &rows) * &g;
            out.sample += pick(&self.k, &self.sample, &rows) * &g;
            for (i, row) in rows.iter().enumerate() {
                (0..t).for_each(|j| out.residual[(row - start, j)] = g[(i, j)]);
            }
        }
        Ok(out)
    }
    fn normal_residual(&mut self, alpha: MatRef<'_, f64>) -> Result<NormalResidual, Infallible> {
        let knm = pick(&self.k, &self.all(), &self.centers);
        let f = &knm * alpha;
        let (n, t) = (self.n(), self.y.ncols());
        let e = Mat::from_fn(n, t, |i, j| self.weights[i] * (self.y[(i, j)] - f[(i, j)]));
        let y = Mat::from_fn(n, t, |i, j| self.weights[i] * self.y[(i, j)]);
        Ok(NormalResidual { data: knm.transpose() * e, rhs: knm.transpose() * y })
    }
}

fn gaussian(bandwidth: f64) -> Kernel {
    Kernel::new(Family::Gaussian, bandwidth)
}

fn laplace(bandwidth: f64) -> Kernel {
    Kernel::new(Family::Laplace, bandwidth)
}

/// k_P over all rows, by the definition.
fn explicit_kernel(stored: &Stored, p: &SubsamplePreconditioner) -> Mat<f64> {
    let ks = pick(&stored.k, &stored.all(), &stored.sample);
    p.kernel(stored.k.as_ref(), ks.as_ref(), ks.as_ref())
}

#[test]
fn the_walk_is_functional_gradient_descent_with_the_explicit_kernel() {
    // Oracles (1) and (2): values of f on all rows against f - gamma (K_P(:, B) g + b lambda P f), ridge and weights included; q = 0 is SGD.
    for (q, exponent, ridge) in [(0, 1.0, 0.0), (6, 1.0, 0.0), (6, 0.95, 0.0), (6, 1.0, 1e-2)] {
        let mut stored = Stored::new(laplace(1.0), 120, 3, 30, 2, 0.1);
        stored.weights = (0..120).map(|i| 0.5 + (i % 4) as f64 / 3.0).collect();
        let mean = stored.weights.iter().sum::<f64>() / 120.0;
        let p = stored.preconditioner(q, exponent);
        assert_eq!(p.rank(), q);
        let directions = stored.directions(&p);
        let problem = EigenProProblem {
            preconditioner: &p,
            center_directions: directions.as_ref(),
            measured: stored.measured(&p),
            ridge,
            weight_sum: mean * 120.0,
            shares: &[],
        };
        let alpha = Mat::from_fn(40, 2, |i, j| ((i * 3 + j) as f64).sin() * 0.1);
        let start = EigenProState::from_coefficients(alpha.as_ref());
        let mut walk = Walk::begin(&mut stored, &problem, &start, 40).unwrap();
        let all = stored.all();
        let kp = explicit_kernel(&stored, &p);
        let ks = pick(&stored.k, &all, &stored.sample);
        let mut f = pick(&stored.k, &all, &stored.centers) * &alpha;
        let gamma = 0.7;
        for rows in [0..17, 17..50, 50..51, 100..120] {
            walk.step(&mut stored, &problem, rows.clone(), gamma).unwrap();
            let batch: Vec<usize> = rows.collect();
            let g = Mat::from_fn(batch.len(), 2, |i, j| {
                stored.weights[batch[i]] / mean * (f[(batch[i], j)] - stored.y[(batch[i], j)])
            });
            let on_sample = Mat::from_fn(30, 2, |i, j| f[(stored.sample[i], j)]);
            let smooth = &f - &ks * p.correction(on_sample.as_ref());
            f -= faer::Scale(gamma) * (pick(&kp, &all, &batch) * g)
                + faer::Scale(gamma * batch.len() as f64 * ridge) * smooth;
            let sample = p.expand(&(&walk.c + &walk.ridge_c));
            let (alpha, sample) = (walk.alpha.as_ref(), sample.as_ref());
            let model = EigenProModel { alpha, sample, temporaries: &walk.temporaries, since: 0 };
            assert!(distance(&stored.values(&model, &all), &f) < 1e-9, "{q} {exponent} {ridge}");
            let on_sample = Mat::from_fn(30, 2, |i, j| f[(stored.sample[i], j)]);
            assert!(distance(&walk.u, &(p.vectors().transpose() * on_sample)) < 1e-9);
        }
        if q == 0 {
            assert_eq!(kp, stored.k);
        }
        // Oracle (6), first half: an exact projection keeps the values on the centers.
        let before = pick(&Mat::from_fn(120, 2, |i, j| f[(i, j)]), &stored.centers, &[0, 1]);
        let mut projector = stored.projector();
        walk.project(&mut stored, &mut projector, &problem, false).unwrap();
        let after = pick(&stored.k, &stored.centers, &stored.centers) * &walk.alpha;
        assert!(distance(&before, &after) < 1e-8);
    }
}

#[test]
fn with_centers_equal_to_data_it_reaches_the_kernel_solution() {
    // Oracle (4): interpolation, and kernel ridge regression with a ridge.
    for (ridge, tolerance) in [(0.0, 1e-7), (1e-3, 1e-8)] {
        let mut stored = Stored::new(laplace(0.5), 100, 1, 40, 2, 0.1);
        let mut a = stored.k.clone();
        (0..100).for_each(|i| a[(i, i)] += 100.0 * ridge);
        let expected = &stored.k * spd_solve(&a, &stored.y);
        let p = stored.preconditioner(2, 1.0);
        let schedule = if ridge == 0.0 { Schedule::Constant } else { Schedule::Average { from: 1000 } };
        // At the full batch the iteration is deterministic, so that the ridge solution too is a fixed point without noise.
        let batch = if ridge == 0.0 { None } else { Some(100) };
        let params = EigenProParams {
            batch,
            schedule,
            max_epochs: 6000,
            tolerance,
            residual_every: 50,
            projection_every: Some(1),
            ..Default::default()
        };
        let (alpha, info) = stored.solve(&p, ridge, &params).unwrap();
        let error = distance(&(&stored.k * alpha), &expected);
        assert!(error < 1e-5, "{ridge} {error:e} {info:?}");
        assert_eq!(info.stopped, Stopped::Converged, "{ridge} {info:?}");
    }
}

#[test]
fn the_interpolating_solution_is_a_fixed_point_of_an_epoch() {
    // Oracle (4): from K^-1 y an epoch at the critical batch goes nowhere, whether projections are delayed or not.
    let mut stored = Stored::new(laplace(0.5), 100, 1, 40, 2, 0.1);
    let solution = spd_solve(&stored.k, &stored.y);
    let p = stored.preconditioner(2, 1.0);
    let directions = stored.directions(&p);
    let problem = EigenProProblem {
        preconditioner: &p,
        center_directions: directions.as_ref(),
        measured: stored.measured(&p),
        ridge: 0.0,
        weight_sum: 100.0,
        shares: &[],
    };
    for projection_every in [None, Some(1), Some(usize::MAX)] {
        for consistent in [false, true] {
            let schedule = Schedule::Constant;
            let params = EigenProParams { projection_every, consistent, schedule, max_epochs: 1, ..Default::default() };
            let mut run = |start: &Mat<f64>| {
                let (start, mut projector) = (EigenProState::from_coefficients(start.as_ref()), stored.projector());
                eigenpro(&mut stored, &mut projector, &problem, &params, start, |_| Verdict::Continue).unwrap()
            };
            let (alpha, info) = run(&solution);
            assert_eq!((info.epochs, info.batch), (1, problem.measured.critical_batch().min(100)), "{info:?}");
            // From elsewhere the same epoch does move.
            let (moved, _) = run(&Mat::zeros(100, 2));
            let drift = distance(&(&stored.k * alpha), &(&stored.k * &solution));
            assert!(drift < 1e-8, "{projection_every:?} {consistent}: {drift:e}");
            assert!(largest(&(&stored.k * moved)) > 0.1);
        }
    }
}

#[test]
fn epochs_count_for_five_times_those_of_plain_gradients() {
    // Oracle (5): squared training error after equal epochs, fast-decaying kernel, critical batches of each.
    let mut stored = Stored::new(gaussian(2.0), 400, 1, 200, 1, 0.0);
    stored.centers = (0..400).step_by(8).collect();
    let mut errors = Vec::new();
    for q in [0, 10] {
        let p = stored.preconditioner(q, 1.0);
        let params = EigenProParams {
            max_epochs: 10,
            schedule: Schedule::Constant,
            projection_every: Some(1),
            ..Default::default()
        };
        let (alpha, _) = stored.solve(&p, 0.0, &params).unwrap();
        errors.push(stored.rmse(&alpha).powi(2));
    }
    assert!(errors[0] >= 5.0 * errors[1], "{errors:?}");
}

#[test]
fn projecting_every_batch_is_eigenpro_3() {
    // Oracle (6): alpha -= gamma K_ZZ^-1 (K(Z,B) g - K(Z,S) C K(S,B) g), by the definition.
    let mut stored = Stored::new(laplace(1.0), 150, 3, 50, 2, 0.2);
    let p = stored.preconditioner(5, 1.0);
    let params = EigenProParams {
        batch: Some(20),
        projection_every: Some(1),
        schedule: Schedule::Constant,
        consistent: false,
        max_epochs: 2,
        ..Default::default()
    };
    let (alpha, info) = stored.solve(&p, 0.0, &params).unwrap();
    assert_eq!((info.projections, info.projection_every), (16, 1));
    let kmm = pick(&stored.k, &stored.centers, &stored.centers);
    let mut expected = Mat::<f64>::zeros(50, 2);
    for _ in 0..2 {
        for start in (0..150).step_by(20) {
            let batch: Vec<usize> = (start..(start + 20).min(150)).collect();
            let g = pick(&stored.k, &batch, &stored.centers) * &expected
                - Mat::from_fn(batch.len(), 2, |i, j| stored.y[(batch[i], j)]);
            let on_sample = pick(&stored.k, &stored.sample, &batch) * &g;
            let h = pick(&stored.k, &stored.centers, &batch) * &g
                - pick(&stored.k, &stored.centers, &stored.sample) * p.correction(on_sample.as_ref());
            expected -= faer::Scale(info.step) * spd_solve(&kmm, &h);
        }
    }
    assert!(distance(&alpha, &expected) < 1e-8, "{:e}", distance(&alpha, &expected));
}

#[test]
fn critical_batches_do_not_blow_up() {
    // Oracle (7): 50 epochs, q/s in {.01, .05}, two kernels; the loss at the end is at most that of 5 epochs with a margin for noise.
    for kernel in [gaussian(1.0), laplace(1.0)] {
        let mut stored = Stored::new(kernel, 600, 6, 200, 1, 0.2);
        for q in [2, 10] {
            let p = stored.preconditioner(q, 1.0);
            let run = |stored: &mut Stored, epochs: usize| {
                let params = EigenProParams { max_epochs: epochs, schedule: Schedule::Constant, ..Default::default() };
                let (alpha, info) = stored.solve(&p, 0.0, &params).unwrap();
                (stored.rmse(&alpha), info)
            };
            let (early, _) = run(&mut stored, 5);
            let (late, info) = run(&mut stored, 50);
            assert!(late < 1.25 * early, "{q} {early} {late} {info:?}");
            let nothing = stored.rmse(&Mat::zeros(stored.centers.len(), 1));
            assert!(late < nothing, "{q} {late} {nothing} {info:?}");
        }
    }
}

#[test]
fn averaged_delayed_projections_come_within_five_percent_of_the_direct_solution() {
    // Oracle (8), training error against the direct least-squares solution, and the decaying step as well.
    let mut stored = Stored::new(laplace(1.0), 1200, 12, 200, 1, 0.3);
    let direct = stored.rmse(&stored.direct(1e-6));
    let p = stored.preconditioner(SubsamplePreconditioner::recommended_rank(200), 1.0);
    assert_eq!(p.rank(), 10);
    for schedule in [Schedule::Average { from: 5 }, Schedule::Decay { from: 5 }] {
        let params = EigenProParams { schedule, max_epochs: 25, ..Default::default() };
        let (alpha, info) = stored.solve(&p, 1e-6, &params).unwrap();
        let rmse = stored.rmse(&alpha);
        assert!(rmse < 1.05 * direct, "{schedule:?} {rmse} {direct} {info:?}");
    }
}

#[test]
fn only_the_consistent_projection_has_the_ridge_solution_as_fixed_point() {
    // Full batches, so no noise; the subsample lies outside the centers. The true residual decides.
    let mut stored = Stored::new(laplace(1.0), 240, 6, 60, 1, 0.3);
    let p = stored.preconditioner(3, 1.0);
    assert!(stored.sample.iter().filter(|i| stored.centers.contains(i)).count() == 0);
    let mut residuals = Vec::new();
    for consistent in [false, true] {
        let params = EigenProParams {
            batch: Some(240),
            projection_every: Some(1),
            schedule: Schedule::Constant,
            consistent,
            max_epochs: 3000,
            tolerance: 1e-6,
            residual_every: 100,
            ..Default::default()
        };
        let (_, info) = stored.solve(&p, 1e-3, &params).unwrap();
        residuals.push(info.residuals[0]);
    }
    assert!(residuals[1] <= 1e-6 && residuals[0] > 1e-4, "{residuals:?}");
}

/// K_ZZ for the inner projection.
#[derive(Clone)]
struct Centers(Mat<f64>, Vec<usize>);

impl CenterOperator for Centers {
    type Error = Infallible;
    fn centers(&self) -> usize {
        self.0.nrows()
    }
    fn block_times(
        &mut self,
        block: Range<usize>,
        v: MatRef<'_, f64>,
        h: Option<MatRef<'_, f64>>,
    ) -> Result<Mat<f64>, Infallible> {
        let product = self.0.as_ref().subrows(block.start, block.len()) * v;
        Ok(h.map_or_else(|| product.clone(), |h| &product - h.subrows(block.start, block.len())))
    }
    fn sample_times(&mut self, block: Range<usize>, g: MatRef<'_, f64>) -> Result<Mat<f64>, Infallible> {
        Ok(pick(&self.0, &self.1, &block.collect::<Vec<_>>()) * g)
    }
}

fn inner(stored: &Stored, epochs: usize) -> InnerProjector<Centers> {
    let kmm = pick(&stored.k, &stored.centers, &stored.centers);
    let m = kmm.nrows();
    let sample: Vec<usize> = (0..m).step_by(2).collect();
    let rest: Vec<usize> = (1..m).step_by(2).collect();
    let p = SubsamplePreconditioner::new(pick(&kmm, &sample, &sample).as_ref(), sample.len() / 20, 1.0).unwrap();
    let measured =
        p.measure(pick(&kmm, &rest, &rest).as_ref(), pick(&kmm, &rest, &sample).as_ref(), &vec![1.0; rest.len()]);
    InnerProjector::new(Centers(kmm, sample.clone()), p, sample, measured, epochs).unwrap()
}

#[test]
fn inexact_projections_lose_nothing_and_come_close() {
    let mut stored = Stored::new(laplace(1.0), 1200, 12, 200, 1, 0.3);
    let kmm = pick(&stored.k, &stored.centers, &stored.centers);
    let mut projector = inner(&stored, 2);
    // theta and what is left always add up to h, and carrying on drives what is left to zero.
    let h = pick(&stored.y, &stored.centers, &[0]);
    let (theta, left) = projector.project(h.as_ref()).unwrap();
    assert!(distance(&(&kmm * &theta + &left), &h) < 1e-12);
    let (first, mut rest, mut total) = (squares(&left).sqrt(), left, theta);
    assert!(first < 0.7 * squares(&h).sqrt(), "{first} {}", squares(&h).sqrt());
    for _ in 0..200 {
        let (more, left) = projector.project(rest.as_ref()).unwrap();
        total += more;
        rest = left;
    }
    assert!(
        squares(&rest).sqrt() < 0.05 * first && distance(&(&kmm * total + &rest), &h) < 1e-10,
        "{} {first}",
        squares(&rest).sqrt()
    );

    let direct = stored.rmse(&stored.direct(1e-6));
    let p = stored.preconditioner(10, 1.0);
    let directions = stored.directions(&p);
    let problem = EigenProProblem {
        preconditioner: &p,
        center_directions: directions.as_ref(),
        measured: stored.measured(&p),
        ridge: 1e-6,
        weight_sum: 1200.0,
        shares: &[],
    };
    let params = EigenProParams { schedule: Schedule::Average { from: 5 }, max_epochs: 25, ..Default::default() };
    let start = stored.zero();
    let (alpha, info) =
        eigenpro(&mut stored, &mut inner_projector_of(&kmm, 3), &problem, &params, start, |_| Verdict::Continue)
            .unwrap();
    let rmse = stored.rmse(&alpha);
    assert!(rmse < 1.1 * direct, "{rmse} {direct} {info:?}");
}

fn inner_projector_of(kmm: &Mat<f64>, epochs: usize) -> InnerProjector<Centers> {
    let all: Vec<usize> = (0..kmm.nrows()).collect();
    let stored = Stored {
        k: kmm.clone(),
        y: Mat::zeros(kmm.nrows(), 1),
        weights: vec![1.0; kmm.nrows()],
        centers: all,
        sample: Vec::new(),
    };
    inner(&stored, epochs)
}

#[test]
fn states_resume_to_the_same_bits_and_held_out_loss_stops() {
    let mut stored = Stored::new(laplace(1.0), 300, 6, 80, 2, 0.3);
    let p = stored.preconditioner(4, 1.0);
    let directions = stored.directions(&p);
    let problem = EigenProProblem {
        preconditioner: &p,
        center_directions: directions.as_ref(),
        measured: stored.measured(&p),
        ridge: 1e-5,
        weight_sum: 300.0,
        shares: &[],
    };
    let params = EigenProParams {
        batch: Some(16),
        projection_every: Some(2),
        schedule: Schedule::Average { from: 1 },
        max_epochs: 4,
        ..Default::default()
    };
    let mut states = Vec::new();
    let mut projector = stored.projector();
    let start = stored.zero();
    let (whole, expected) = eigenpro(&mut stored, &mut projector, &problem, &params, start, |s| {
        states.push(s.state.clone());
        Verdict::Continue
    })
    .unwrap();
    assert_eq!(expected.projections, 40);
    for state in [&states[0], &states[9], &states[10], &states[25], &states[39]] {
        let (again, info) =
            eigenpro(&mut stored, &mut projector, &problem, &params, state.clone(), |_| Verdict::Continue).unwrap();
        assert_eq!(again, whole);
        assert_eq!(info, expected);
    }

    // Losses 5, 4, 4.5, 4.6, 4.7: the second epoch's iterate is returned after three without progress.
    let losses = [5.0, 4.0, 4.5, 4.6, 4.7, 1.0];
    let params = EigenProParams { max_epochs: 6, ..params };
    let mut second = None;
    let start = stored.zero();
    let (alpha, info) = eigenpro(&mut stored, &mut projector, &problem, &params, start, |s| {
        if !s.epoch_ended {
            return Verdict::Continue;
        }
        if s.epoch == 2 {
            second = Some(s.alpha.clone());
        }
        Verdict::HeldOut(losses[s.epoch - 1])
    })
    .unwrap();
    assert_eq!((info.stopped, info.epochs, info.held_out.len()), (Stopped::Stagnated, 5, 5));
    assert_eq!(Some(alpha), second);
    let start = stored.zero();
    let (_, info) = eigenpro(&mut stored, &mut projector, &problem, &params, start, |_| Verdict::Stop).unwrap();
    assert_eq!((info.stopped, info.projections), (Stopped::Asked, 1));
}
