//! Oracles of the solver specification for ASkotch.

use super::super::oracle::{Problem, distance, normals, spd_solve};
use super::*;
use crate::checks::{chi_square, chi_square_passes, mean_and_error};
use std::convert::Infallible;

struct Full(Mat<f64>);

impl BlockOperator for Full {
    type Error = Infallible;
    fn rows(&self) -> usize {
        self.0.nrows()
    }
    fn block_times(&mut self, block: &[usize], z: MatRef<'_, f64>) -> Result<Mat<f64>, Infallible> {
        Ok(Mat::from_fn(block.len(), self.0.ncols(), |i, j| self.0[(block[i], j)]) * z)
    }
    fn block_matrix(&mut self, block: &[usize]) -> Result<Mat<f64>, Infallible> {
        Ok(Mat::from_fn(block.len(), block.len(), |i, j| self.0[(block[i], block[j])]))
    }
}

fn problem(n: usize, t: usize, bandwidth: f64) -> (Full, Mat<f64>) {
    let p = Problem::new(40, n, n, 2, t, bandwidth, 0.2);
    (Full(p.kmm), p.y)
}

fn dense(k: &Mat<f64>, y: &Mat<f64>, ridge: f64) -> Mat<f64> {
    let mut a = k.clone();
    (0..a.nrows()).for_each(|i| a[(i, i)] += ridge);
    spd_solve(&a, y)
}

fn go(_: &BlockProgress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn one_block_of_full_rank_solves_in_one_step() {
    let (mut k, y) = problem(60, 2, 0.7);
    for accelerated in [false, true] {
        let params = BlockParams {
            block: 60,
            rank: 60,
            accelerated,
            damped: false,
            max_epochs: 1,
            tolerance: 1e-14,
            ..Default::default()
        };
        let (w, info) = blockcd(&mut k, y.as_ref(), 0.5, &params, None, go).unwrap();
        assert_eq!(info.iterations, 1);
        assert!(distance(&w, &dense(&k.0, &y, 0.5)) < 1e-9, "{info:?}");
        assert!((info.largest_step_constant - 1.0).abs() < 1e-9, "{info:?}");
    }
}

#[test]
fn reaches_dense_kernel_ridge_regression() {
    let (mut k, y) = problem(200, 2, 0.6);
    let ridge = 200.0 * 1e-3;
    let expected = &k.0 * dense(&k.0, &y, ridge);
    for accelerated in [false, true] {
        for (block, rank) in [(40, 40), (50, 20), (37, 15)] {
            let params =
                BlockParams { block, rank, accelerated, tolerance: 1e-10, max_epochs: 1000, ..Default::default() };
            let (w, info) = blockcd(&mut k, y.as_ref(), ridge, &params, None, go).unwrap();
            assert_eq!(info.stopped, Stopped::Converged, "{accelerated} {block} {info:?}");
            assert!(distance(&(&k.0 * &w), &expected) < 1e-8, "{accelerated} {block} {info:?}");
            for j in 0..2 {
                let e = &k.0 * &w + faer::Scale(ridge) * &w - &y;
                let truth = norm(e.col_as_slice(j)) / norm(y.col_as_slice(j));
                assert!((truth - info.residuals[j]).abs() < 1e-13, "{truth} {info:?}");
            }
        }
    }
}

#[test]
fn the_free_residual_estimate_is_unbiased() {
    // (n/b) ||r_B||^2 over 200 hashed blocks of 200 epochs against ||r||^2, in standard errors of its own spread.
    let (n, b) = (500, 25);
    let r = normals(41, n, 1);
    let truth = dot(r.col_as_slice(0), r.col_as_slice(0));
    let draws: Vec<f64> = (0..200)
        .map(|epoch| {
            let order = epoch_order(9, epoch, n);
            order[..b].iter().map(|&i| r[(i, 0)].powi(2)).sum::<f64>() * n as f64 / b as f64
        })
        .collect();
    let mean = draws.iter().sum::<f64>() / 200.0;
    let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 199.0;
    // Four standard errors: chance 6e-5 for a random seed; the seed is fixed.
    assert!((mean - truth).abs() < 4.0 * (variance / 200.0).sqrt(), "{mean} {truth}");
    // Every row comes once an epoch.
    let mut order = epoch_order(9, 3, n);
    order.sort_unstable();
    assert!(order.into_iter().eq(0..n));

    // In a run, the moving average follows the true residual within a factor of 3 once it has looked back an epoch.
    let (mut k, y) = problem(200, 1, 0.6);
    let params = BlockParams { block: 20, rank: 10, max_epochs: 30, tolerance: 0.0, ..Default::default() };
    let dense_k = k.0.clone();
    let targets = y.clone();
    blockcd(&mut k, y.as_ref(), 0.2, &params, None, |p| {
        let z = Mat::from_fn(200, 1, |i, _| p.state.z[i]);
        let e = &dense_k * &z + faer::Scale(0.2) * &z - &targets;
        let truth = norm(e.col_as_slice(0)) / norm(targets.col_as_slice(0));
        let ratio = p.estimates[0] / truth;
        assert!(p.iteration < 20 || (0.33..3.0).contains(&ratio), "{} {ratio}", p.iteration);
        ControlFlow::Continue(())
    })
    .unwrap();
}

#[test]
fn the_estimate_of_a_run_is_unbiased() {
    // The code's own estimate after one iteration from a fixed start, squared, in the mean over 200 seeds: ||(K + Lambda) w - y||^2 / ||y||^2.
    let (mut k, y) = problem(300, 2, 0.5);
    let ridge = 0.3;
    let w = faer::Scale(0.2) * normals(43, 300, 2);
    let e = &k.0 * &w + faer::Scale(ridge) * &w - &y;
    let params = BlockParams { block: 20, rank: 10, tolerance: 0.0, ..Default::default() };
    let mut squares = vec![Vec::new(); 2];
    for seed in 0..200 {
        let start = BlockState::from_coefficients(w.as_ref());
        let (_, info) =
            blockcd(
                &mut k,
                y.as_ref(),
                ridge,
                &BlockParams { seed, ..params },
                Some(start),
                |_| ControlFlow::Break(()),
            )
            .unwrap();
        assert_eq!(info.iterations, 1);
        (0..2).for_each(|j| squares[j].push(info.estimates[j].powi(2)));
    }
    for (j, draws) in squares.iter().enumerate() {
        let truth = dot(e.col_as_slice(j), e.col_as_slice(j)) / dot(y.col_as_slice(j), y.col_as_slice(j));
        let (mean, error) = mean_and_error(draws);
        assert!((mean - truth).abs() < 4.0 * error, "column {j}: {mean} +- {error}, truth {truth}");
        assert!(error < 0.1 * truth, "too few seeds to tell: {error} of {truth}");
    }
}

/// Records the blocks it is asked for.
struct Recorder(Vec<Vec<usize>>);

impl BlockOperator for Recorder {
    type Error = Infallible;
    fn rows(&self) -> usize {
        12
    }
    fn block_times(&mut self, block: &[usize], z: MatRef<'_, f64>) -> Result<Mat<f64>, Infallible> {
        Ok(Mat::zeros(block.len(), z.ncols()))
    }
    fn block_matrix(&mut self, block: &[usize]) -> Result<Mat<f64>, Infallible> {
        self.0.push(block.to_vec());
        Ok(Mat::zeros(block.len(), block.len()))
    }
}

#[test]
fn blocks_are_drawn_without_replacement_uniformly() {
    // n = 12, b = 3: each of the four blocks of an epoch is any of the 220 triples alike, and two epochs know nothing of each other.
    let y = normals(44, 12, 1);
    let params = BlockParams { block: 3, rank: 1, tolerance: 0.0, max_epochs: 2, ..Default::default() };
    let (seeds, triples) = (4400, 220);
    let mut drawn = vec![vec![0.0; 1 << 12]; 8];
    let mut together = vec![0.0; 16];
    for seed in 0..seeds {
        let mut recorder = Recorder(Vec::new());
        blockcd(&mut recorder, y.as_ref(), 1.0, &BlockParams { seed, ..params }, None, go).unwrap();
        let masks: Vec<usize> = recorder.0.iter().map(|block| block.iter().map(|i| 1 << i).sum()).collect();
        assert_eq!(masks.len(), 8);
        for epoch in masks.chunks(4) {
            assert_eq!((epoch.iter().sum::<usize>(), epoch.iter().fold(0, |a, b| a | b)), (4095, 4095));
        }
        masks.iter().enumerate().for_each(|(at, mask)| drawn[at][*mask] += 1.0);
        let of_row_0 = |epoch: usize| masks[4 * epoch..][..4].iter().position(|mask| mask & 1 == 1).unwrap();
        together[4 * of_row_0(0) + of_row_0(1)] += 1.0;
    }
    // Nine statistics at a failure probability of 1e-4 each, for random seeds; these are fixed.
    let expected = vec![seeds as f64 / triples as f64; triples];
    for (at, counts) in drawn.iter().enumerate() {
        let counts: Vec<f64> =
            (0..1usize << 12).filter(|mask| mask.count_ones() == 3).map(|mask| counts[mask]).collect();
        assert_eq!((counts.len(), counts.iter().sum::<f64>()), (triples, seeds as f64));
        let statistic = chi_square(&counts, &expected);
        assert!(chi_square_passes(statistic), "block {at}: {statistic:?}");
    }
    let statistic = chi_square(&together, &[seeds as f64 / 16.0; 16]);
    assert!(chi_square_passes(statistic), "epochs: {statistic:?}");
}

/// Entries that are NaN from the second pass on.
struct Broken(Full, usize);

impl BlockOperator for Broken {
    type Error = Infallible;
    fn rows(&self) -> usize {
        self.0.rows()
    }
    fn block_times(&mut self, block: &[usize], z: MatRef<'_, f64>) -> Result<Mat<f64>, Infallible> {
        self.1 += 1;
        if self.1 > 1 { Ok(Mat::full(block.len(), z.ncols(), f64::NAN)) } else { self.0.block_times(block, z) }
    }
    fn block_matrix(&mut self, block: &[usize]) -> Result<Mat<f64>, Infallible> {
        self.0.block_matrix(block)
    }
}

#[test]
fn a_residual_that_is_not_finite_is_never_convergence() {
    let (k, y) = problem(30, 1, 0.6);
    let params = BlockParams { block: 30, rank: 10, max_epochs: 1, ..Default::default() };
    let found = blockcd(&mut Broken(k, 0), y.as_ref(), 0.1, &params, None, go);
    assert_eq!(found.unwrap_err(), SolveError::NotFinite { what: "the residual", iteration: 1, column: 0 });
}

#[test]
fn acceleration_helps_below_the_cap_and_vanishes_at_it() {
    // A slowly decaying spectrum and a small ridge: mu nu far below 1.
    let (mut k, y) = problem(300, 1, 0.35);
    let after = |k: &mut Full, ridge: f64, accelerated: bool| {
        let params =
            BlockParams { block: 15, rank: 8, accelerated, tolerance: 0.0, max_epochs: 40, ..Default::default() };
        blockcd(k, y.as_ref(), ridge, &params, None, go).unwrap()
    };
    let (plain, fast) = (after(&mut k, 1e-4, false).1, after(&mut k, 1e-4, true).1);
    assert!(fast.residuals[0] <= plain.residuals[0], "{plain:?} {fast:?}");
    // Lambda nu > 1: mu is capped and both forms take the same steps.
    let (plain, fast) = (after(&mut k, 1.0, false), after(&mut k, 1.0, true));
    assert!(distance(&plain.0, &fast.0) < 1e-12, "{:?} {:?}", plain.1, fast.1);
}

#[test]
fn seeds_decide_everything_and_states_resume_to_the_same_bits() {
    let (mut k, y) = problem(120, 2, 0.5);
    let params = BlockParams { block: 25, rank: 10, max_epochs: 6, tolerance: 0.0, seed: 5, ..Default::default() };
    let mut states = Vec::new();
    let (w, info) = blockcd(&mut k, y.as_ref(), 0.05, &params, None, |p| {
        states.push(p.state.clone());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((info.iterations, info.stopped), (30, Stopped::MaxIterations));
    for state in [&states[0], &states[7], &states[29]] {
        let (again, same) = blockcd(&mut k, y.as_ref(), 0.05, &params, Some(state.clone()), go).unwrap();
        assert_eq!(again, w);
        assert_eq!(same, info);
    }
    let other = BlockParams { seed: 6, ..params };
    assert_ne!(blockcd(&mut k, y.as_ref(), 0.05, &other, None, go).unwrap().0, w);
    // Warm from the solution: found converged after an epoch.
    let solution = dense(&k.0, &y, 0.05);
    let start = BlockState::from_coefficients(solution.as_ref());
    let warm = BlockParams { tolerance: 1e-9, ..params };
    let (_, info) = blockcd(&mut k, y.as_ref(), 0.05, &warm, Some(start), go).unwrap();
    assert_eq!((info.stopped, info.iterations), (Stopped::Converged, 5));
    let bad = blockcd(&mut k, y.as_ref(), 0.0, &params, None, go);
    assert!(matches!(bad, Err(SolveError::Parameter { name: "ridge", .. })));
    // Duplicate rows make K_BB singular; the preconditioner does not mind.
    let mut twice = Full(Mat::from_fn(60, 60, |i, j| k.0[(i / 2, j / 2)]));
    let y = Mat::from_fn(60, 1, |i, _| y[(i / 2, 0)]);
    let params = BlockParams { block: 30, rank: 25, max_epochs: 500, tolerance: 1e-9, ..params };
    let (_, info) = blockcd(&mut twice, y.as_ref(), 0.05, &params, None, go).unwrap();
    assert_eq!(info.stopped, Stopped::Converged, "{info:?}");
}

#[test]
fn a_zero_kernel_is_plain_scaling() {
    let mut zero = Full(Mat::zeros(10, 10));
    let y = normals(42, 10, 1);
    let params = BlockParams { block: 4, rank: 2, tolerance: 1e-12, ..Default::default() };
    let (w, info) = blockcd(&mut zero, y.as_ref(), 0.5, &params, None, go).unwrap();
    assert!(distance(&(faer::Scale(0.5) * w), &y) < 1e-11, "{info:?}");
}
