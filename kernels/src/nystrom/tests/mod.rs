//! Oracles of solvers section 8 (Gram/direct) and sampling_and_online section 9 (Nystrom), on arrays, against dense algebra.

use super::*;
use crate::checks::{distance, largest};
use crate::dense::{self, SEQUENTIAL, fixed_parallelism};
use crate::gram::{ExactGram, GramScratch, GramShape, GramSums, Precision};
use crate::kernel::{Family, Kernel};
use crate::rows::{RowBuf, Rows};
use faer::Mat;
use nystream_hashing::{RowId, StreamKey};

mod calibration;
mod certificates;

const METHODS: [WhitenMethod; 2] = [WhitenMethod::Eigen, WhitenMethod::Cholesky];

/// n hashed rows in [0, 1]^d with two smooth noisy targets in [-1, 1].
struct Problem {
    x: RowBuf,
    y: Mat<f64>,
    kernel: Kernel,
}

fn problem(n: usize, d: usize, kernel: Kernel, seed: u64) -> Problem {
    let key = StreamKey::new(seed, "nystrom-test", 0);
    let mut x = RowBuf::new(d, 0);
    x.numeric = (0..n * d).map(|i| key.uniform(RowId(i as u128)) as f32).collect();
    let y = Mat::from_fn(n, 2, |i, j| {
        let row = &x.numeric[i * d..(i + 1) * d];
        let noise = 0.1 * (key.uniform(RowId((1 << 90) + (2 * i + j) as u128)) - 0.5);
        0.8 * (3.0 * f64::from(row[0]) + j as f64 + f64::from(row[d - 1])).sin() + noise
    });
    Problem { x, y, kernel }
}

fn gaussian(sigma: f64) -> Kernel {
    Kernel::new(Family::Gaussian, sigma)
}

fn kernel_matrix(kernel: &Kernel, x: Rows<'_>, z: Rows<'_>) -> Mat<f64> {
    Mat::from_fn(x.len(), z.len(), |i, j| kernel.evaluate(x, i, z, j))
}

impl Problem {
    fn centers(&self, m: usize) -> RowBuf {
        RowBuf::gather(self.x.view(), &(0..m).map(|i| i * self.x.len() / m).collect::<Vec<_>>())
    }

    fn k(&self, z: &RowBuf) -> Mat<f64> {
        kernel_matrix(&self.kernel, self.x.view(), z.view())
    }

    fn all_rows(&self) -> Vec<usize> {
        (0..self.x.len()).collect()
    }
}

/// Exact sums of the given rows of `k` and `y`.
fn sums(k: &Mat<f64>, y: &Mat<f64>, rows: &[usize], roots: Option<&[f64]>) -> GramSums {
    let shape = GramShape { centers: k.ncols(), targets: y.ncols(), precision: Precision::Double, scale_log2: 0 };
    let gram = ExactGram::new(shape);
    let entries: Vec<f64> = rows.iter().flat_map(|&i| (0..k.ncols()).map(move |j| k[(i, j)])).collect();
    let targets: Vec<f64> = rows.iter().flat_map(|&i| (0..y.ncols()).map(move |j| y[(i, j)])).collect();
    gram.add(&mut GramScratch::default(), &entries, k.ncols(), rows.len(), roots, &targets).unwrap();
    gram.finish()
}

/// x = a^-1 b by a Cholesky factorisation of a positive definite a.
fn solve(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    let (mut l, mut x) = (a.clone(), b.clone());
    dense::cholesky(l.as_mut(), SEQUENTIAL).unwrap();
    dense::solve_lower(l.as_ref(), x.as_mut(), SEQUENTIAL);
    dense::solve_lower_transpose(l.as_ref(), x.as_mut(), SEQUENTIAL);
    x
}

fn shifted(a: &Mat<f64>, ridge: f64) -> Mat<f64> {
    Mat::from_fn(a.nrows(), a.ncols(), |i, j| a[(i, j)] + if i == j { ridge } else { 0.0 })
}

/// Eigenvalues of the symmetric part, rising.
fn eigenvalues(a: &Mat<f64>) -> Vec<f64> {
    let symmetric = Mat::from_fn(a.nrows(), a.nrows(), |i, j| 0.5 * (a[(i, j)] + a[(j, i)]));
    dense::symmetric_eigen(symmetric.as_ref(), fixed_parallelism()).unwrap().0
}

fn least(a: &Mat<f64>) -> f64 {
    eigenvalues(a)[0]
}

fn greatest(a: &Mat<f64>) -> f64 {
    *eigenvalues(a).last().unwrap()
}

#[test]
fn whiteners_whiten_and_are_adjoint() {
    // 300 points of a smooth kernel: numerical rank far below m, several Cholesky blocks.
    let p = problem(300, 2, gaussian(0.7), 1);
    let k = p.k(&p.x);
    for method in METHODS {
        let w = Whitener::new(k.as_ref(), method).unwrap();
        assert!(w.rank() > 20 && w.rank() < 300, "rank {}", w.rank());
        let v = Mat::from_fn(300, 4, |i, j| ((i * 7 + j * 3) % 11) as f64 - 5.0);
        let z = Mat::from_fn(w.rank(), 4, |i, j| ((i * 5 + j) % 7) as f64 - 3.0);
        let left = w.apply(z.as_ref()).unwrap().transpose() * &v;
        let right = z.transpose() * w.apply_transpose(v.as_ref()).unwrap();
        assert!(distance(&left, &right) < 1e-10 * largest(&left), "{method:?}");
        // Features of the centers reproduce K up to the directions left out.
        let f = w.features(k.as_ref()).unwrap();
        assert!(distance(&(f.transpose() * &f), &k) < 1e-9, "{method:?}");
    }
    // R^T K R = I where K is well conditioned.
    let p = problem(150, 2, Kernel::new(Family::Laplace, 0.5), 1);
    let k = p.k(&p.x);
    for method in METHODS {
        let w = Whitener::new(k.as_ref(), method).unwrap();
        assert_eq!(w.rank(), 150);
        assert!(distance(&w.congruence(k.as_ref()).unwrap(), &Mat::identity(150, 150)) < 1e-11, "{method:?}");
    }
}

#[test]
fn dependent_centers_leave_the_basis_and_change_nothing() {
    let p = problem(200, 2, gaussian(0.4), 2);
    let z = p.centers(40);
    let mut repeated = z.clone();
    for i in [3, 17, 39] {
        repeated.push(z.view(), i);
    }
    let k_mm = kernel_matrix(&p.kernel, repeated.view(), repeated.view());
    let w = Whitener::new(k_mm.as_ref(), WhitenMethod::Cholesky).unwrap();
    assert_eq!((w.rank(), w.dropped()), (40, &[40, 41, 42][..]));
    let base = |z: &RowBuf| {
        let k_mm = kernel_matrix(&p.kernel, z.view(), z.view());
        Whitener::new(k_mm.as_ref(), WhitenMethod::Cholesky).unwrap().features(p.k(z).as_ref()).unwrap()
    };
    let features = w.features(p.k(&repeated).as_ref()).unwrap();
    let mut one = z.clone();
    one.push(z.view(), 0);
    assert!(distance(&features, &base(&one)) < 1e-12);
    // Without any, the factor is found all at once: the same to rounding of K_mm, which |K_mm^-1 k|^2 magnifies in what both approximate.
    let whole = base(&z);
    assert!(distance(&(features.transpose() * &features), &(whole.transpose() * &whole)) < 1e-8);
    let eigen = Whitener::new(k_mm.as_ref(), WhitenMethod::Eigen).unwrap();
    assert_eq!((eigen.rank(), eigen.dropped().len(), eigen.spectrum().unwrap().len()), (40, 0, 43));
}

#[test]
fn unusable_matrices_are_refused() {
    for method in METHODS {
        let zero = Mat::<f64>::zeros(3, 3);
        assert!(matches!(Whitener::new(zero.as_ref(), method), Err(NystromError::NoRank { centers: 3, .. })));
        let mut bad = Mat::<f64>::identity(3, 3);
        bad[(2, 1)] = f64::NAN;
        assert!(matches!(
            Whitener::new(bad.as_ref(), method),
            Err(NystromError::NotFinite { what: "K_mm", row: 2, column: 1, .. })
        ));
        assert!(matches!(Whitener::new(Mat::zeros(3, 2).as_ref(), method), Err(NystromError::Shape { .. })));
    }
    let p = problem(20, 1, gaussian(0.5), 1);
    let z = p.centers(4);
    let w = Whitener::new(kernel_matrix(&p.kernel, z.view(), z.view()).as_ref(), WhitenMethod::Eigen).unwrap();
    let path = RidgePath::new(&sums(&p.k(&z), &p.y, &p.all_rows(), None), &w).unwrap();
    for lambda in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(path.coefficients(lambda), Err(NystromError::Ridge { .. })));
    }
    assert_eq!(path.best(&[], Criterion::Gcv), Err(NystromError::NoCandidate { candidates: 0 }));
    assert!(w.apply(Mat::zeros(9, 1).as_ref()).is_err() && w.features(Mat::zeros(2, 3).as_ref()).is_err());
}

/// Gram/direct (1): all rows as centers give dense kernel ridge regression.
#[test]
fn all_rows_as_centers_is_dense_kernel_ridge_regression() {
    for kernel in [gaussian(0.5), Kernel::new(Family::Laplace, 1.0), Kernel::new(Family::Matern52, 0.7)] {
        let n = 150;
        let p = problem(n, 2, kernel.clone(), 3);
        let k = p.k(&p.x);
        let total = sums(&k, &p.y, &p.all_rows(), None);
        // The Cholesky form amplifies the rounding of G where K_mm is nearly singular: held to the same error where it is not.
        let methods = if kernel.family == Family::Laplace { &METHODS[..] } else { &METHODS[..1] };
        for &method in methods {
            let path = RidgePath::new(&total, &Whitener::new(k.as_ref(), method).unwrap()).unwrap();
            for lambda in [1e-1, 1e-3, 1e-4] {
                let dense = &k * solve(&shifted(&k, n as f64 * lambda), &p.y);
                let ours = &k * path.coefficients(lambda).unwrap();
                assert!(distance(&ours, &dense) < 1e-8, "{method:?} {lambda}: {:e}", distance(&ours, &dense));
            }
        }
    }
}

/// Gram/direct (3): a point of the path is a fresh solve; weights, residuals and the matrix ridge.
#[test]
fn path_points_are_fresh_solves() {
    let p = problem(400, 3, gaussian(0.5), 4);
    let z = p.centers(50);
    let (k, k_mm) = (p.k(&z), kernel_matrix(&p.kernel, z.view(), z.view()));
    let roots: Vec<f64> = (0..400).map(|i| (((i % 5) + 1) as f64 / 5.0).sqrt()).collect();
    for weights in [None, Some(&roots[..])] {
        let total = sums(&k, &p.y, &p.all_rows(), weights);
        for method in METHODS {
            let w = Whitener::new(k_mm.as_ref(), method).unwrap();
            let path = RidgePath::new(&total, &w).unwrap();
            for lambda in [1.0, 1e-2, 1e-5] {
                let ridge = lambda * total.weight_sum;
                let system = Mat::from_fn(50, 50, |i, j| total.gram[(i, j)] + ridge * k_mm[(i, j)]);
                let fresh = solve(&system, &total.cross);
                let a = path.coefficients(lambda).unwrap();
                assert!(distance(&(&k * &a), &(&k * &fresh)) < 1e-8, "{method:?} {lambda}");
                for residual in normal_residual(&total, k_mm.as_ref(), lambda, a.as_ref()).unwrap() {
                    assert!(residual < 1e-8, "{method:?} {lambda}: {residual:e}");
                }
                for residual in whitened_residual(&total, k_mm.as_ref(), lambda, a.as_ref(), &w).unwrap() {
                    assert!(residual < 1e-6, "{method:?} {lambda}: {residual:e}");
                }
                // Weighted residual sum of squares, by the definition.
                let f = &k * &a;
                for target in 0..2 {
                    let direct: f64 = (0..400)
                        .map(|i| weights.map_or(1.0, |w| w[i] * w[i]) * (p.y[(i, target)] - f[(i, target)]).powi(2))
                        .sum();
                    assert!((path.rss(lambda).unwrap()[target] - direct).abs() < 1e-9 * total.target_squares[target]);
                }
            }
            // A wrong solution has a residual that says so.
            let zero = Mat::zeros(50, 2);
            assert_eq!(normal_residual(&total, k_mm.as_ref(), 1.0, zero.as_ref()).unwrap(), [1.0, 1.0]);
        }
    }
}

/// Gram/direct (4): df, GCV and leave-one-out against the hat matrix and against n refits with the penalty held at n lambda.
#[test]
fn df_gcv_and_leave_one_out_are_the_hat_matrix() {
    let n = 200;
    // A narrow kernel: the reference solves by normal equations too and must be better than the tolerance.
    let p = problem(n, 2, gaussian(0.2), 5);
    let z = p.centers(25);
    let (k, k_mm) = (p.k(&z), kernel_matrix(&p.kernel, z.view(), z.view()));
    let total = sums(&k, &p.y, &p.all_rows(), None);
    let path = RidgePath::new(&total, &Whitener::new(k_mm.as_ref(), WhitenMethod::Eigen).unwrap()).unwrap();
    for lambda in [1e-2, 1e-4] {
        let ridge = n as f64 * lambda;
        let system = |rows: &[usize]| {
            let part = Mat::from_fn(rows.len(), 25, |i, j| k[(rows[i], j)]);
            let gram = part.transpose() * &part;
            (Mat::from_fn(25, 25, |i, j| gram[(i, j)] + ridge * k_mm[(i, j)]), part)
        };
        let (all, _) = system(&p.all_rows());
        let hat = &k * solve(&all, &k.transpose().to_owned());
        let df: f64 = (0..n).map(|i| hat[(i, i)]).sum();
        assert!((path.degrees_of_freedom(lambda).unwrap() - df).abs() < 1e-8 * df);
        let residual = &p.y - &hat * &p.y;
        let gcv = path.gcv(lambda).unwrap();
        for target in 0..2 {
            let rss: f64 = (0..n).map(|i| residual[(i, target)].powi(2)).sum();
            let expected = rss / n as f64 / (1.0 - df / n as f64).powi(2);
            assert!((gcv[target] - expected).abs() < 1e-7 * expected);
        }
        let loo = path.leave_one_out(k.as_ref(), p.y.as_ref(), None, lambda).unwrap();
        for i in 0..n {
            assert!((loo.leverages[i] - hat[(i, i)]).abs() < 1e-9);
            let rows: Vec<usize> = (0..n).filter(|&r| r != i).collect();
            let (without, part) = system(&rows);
            let y = Mat::from_fn(n - 1, 2, |r, j| p.y[(rows[r], j)]);
            let a = solve(&without, &(part.transpose() * y));
            for target in 0..2 {
                let f: f64 = (0..25).map(|j| k[(i, j)] * a[(j, target)]).sum();
                assert!((loo.residuals[(i, target)] - (p.y[(i, target)] - f)).abs() < 1e-7);
            }
        }
    }
}

/// Leave-one-out errors against refits, weighted: a row that is a center goes together with its center.
#[test]
fn a_row_and_its_center_are_left_out_together() {
    let (n, m) = (60, 12);
    let p = problem(n, 2, gaussian(0.2), 8);
    let z = p.centers(m);
    let (k, k_mm) = (p.k(&z), kernel_matrix(&p.kernel, z.view(), z.view()));
    let weights: Vec<f64> = (0..n).map(|i| if i % 3 == 0 { 1.0 } else { 0.25 }).collect();
    let roots: Vec<f64> = weights.iter().map(|w| w.sqrt()).collect();
    // A row that equals center c has its kernel row.
    let own: Vec<Option<usize>> =
        (0..n).map(|i| (0..m).find(|&c| (0..m).all(|j| (k[(i, j)] - k_mm[(c, j)]).abs() < 1e-14))).collect();
    assert_eq!(own.iter().flatten().count(), m, "the centers are rows");
    let total = sums(&k, &p.y, &p.all_rows(), Some(&roots));
    let path = RidgePath::new(&total, &Whitener::new(k_mm.as_ref(), WhitenMethod::Eigen).unwrap()).unwrap();
    let grid = [1e-2, 1e-4];
    let block = Block { entries: k.as_ref(), targets: p.y.as_ref(), sqrt_weights: Some(&roots), own: &own };
    let found = path.leave_one_out_errors(block, &grid).unwrap();
    for (at, lambda) in grid.iter().enumerate() {
        let ridge = weights.iter().sum::<f64>() * lambda;
        let mut errors = [0.0; 2];
        let left_out = path.left_out(block, &vec![1.0; n], &[*lambda; 2]).unwrap();
        for i in 0..n {
            let rows: Vec<usize> = (0..n).filter(|r| *r != i).collect();
            let kept: Vec<usize> = (0..m).filter(|c| own[i] != Some(*c)).collect();
            let part = Mat::from_fn(n - 1, kept.len(), |r, j| k[(rows[r], kept[j])] * roots[rows[r]]);
            let y = Mat::from_fn(n - 1, 2, |r, j| p.y[(rows[r], j)] * roots[rows[r]]);
            let gram = part.transpose() * &part;
            let system = Mat::from_fn(kept.len(), kept.len(), |a, b| gram[(a, b)] + ridge * k_mm[(kept[a], kept[b])]);
            let a = solve(&system, &(part.transpose() * y));
            // 1 - k' K^-1 k + L k' (G + L K)^-1 k of the centers kept.
            let entries = Mat::from_fn(kept.len(), 1, |j, _| k[(i, kept[j])]);
            let prior = solve(&Mat::from_fn(kept.len(), kept.len(), |a, b| k_mm[(kept[a], kept[b])]), &entries);
            let posterior = solve(&system, &entries);
            let image = |solved: &Mat<f64>| (0..kept.len()).map(|j| entries[(j, 0)] * solved[(j, 0)]).sum::<f64>();
            let latent = 1.0 - image(&prior) + ridge * image(&posterior);
            for (target, error) in errors.iter_mut().enumerate() {
                let f: f64 = kept.iter().enumerate().map(|(j, c)| k[(i, *c)] * a[(j, target)]).sum();
                let (residual, variance) = (left_out[target].residuals[i], left_out[target].latents[i]);
                assert!((residual - (p.y[(i, target)] - f)).abs() < 1e-7, "row {i}: {residual}");
                assert!((variance - latent).abs() < 1e-8 + 1e-6 * latent, "row {i}: {variance} {latent}");
                *error += weights[i] * (p.y[(i, target)] - f).powi(2) / weights.iter().sum::<f64>();
            }
        }
        for (target, error) in errors.into_iter().enumerate() {
            let value = found[(at, target)];
            assert!((value - error).abs() < 1e-7 * error, "{lambda} {target}: {value} {error}");
        }
    }
}

/// More columns of ridge and target than are taken at once: those of one ridge at a time, and refits at some of them; every target at a ridge of its own.
#[test]
fn many_ridges_at_once_are_one_after_the_other() {
    let (n, m) = (50, 10);
    let p = problem(n, 2, gaussian(0.2), 9);
    let z = p.centers(m);
    let (k, k_mm) = (p.k(&z), kernel_matrix(&p.kernel, z.view(), z.view()));
    let path = {
        let total = sums(&k, &p.y, &p.all_rows(), None);
        RidgePath::new(&total, &Whitener::new(k_mm.as_ref(), WhitenMethod::Eigen).unwrap()).unwrap()
    };
    let own: Vec<Option<usize>> =
        (0..n).map(|i| (0..m).find(|&c| (0..m).all(|j| (k[(i, j)] - k_mm[(c, j)]).abs() < 1e-14))).collect();
    let block = Block { entries: k.as_ref(), targets: p.y.as_ref(), sqrt_weights: None, own: &own };
    let grid: Vec<f64> = (0..41).map(|i| 10f64.powf(-5.0 + 0.1 * f64::from(i))).collect();
    let (all, squares) = (path.leave_one_out_errors(block, &grid).unwrap(), path.coefficient_squares(&grid).unwrap());
    let diagonal = vec![1.0; n];
    for (at, &lambda) in grid.iter().enumerate() {
        let one = path.leave_one_out_errors(block, &[lambda]).unwrap();
        let other = grid[grid.len() - 1 - at];
        let (same, mixed) = (
            path.left_out(block, &diagonal, &[lambda, lambda]).unwrap(),
            path.left_out(block, &diagonal, &[lambda, other]).unwrap(),
        );
        let alpha = path.coefficients(lambda).unwrap();
        let refit = |i: usize| {
            let rows: Vec<usize> = (0..n).filter(|r| *r != i).collect();
            let kept: Vec<usize> = (0..m).filter(|c| own[i] != Some(*c)).collect();
            let part = Mat::from_fn(n - 1, kept.len(), |r, j| k[(rows[r], kept[j])]);
            let y = Mat::from_fn(n - 1, 2, |r, j| p.y[(rows[r], j)]);
            let gram = part.transpose() * &part;
            let ridge = n as f64 * lambda;
            let system = Mat::from_fn(kept.len(), kept.len(), |a, b| gram[(a, b)] + ridge * k_mm[(kept[a], kept[b])]);
            let a = solve(&system, &(part.transpose() * y));
            [0, 1].map(|j| p.y[(i, j)] - kept.iter().enumerate().map(|(at, c)| k[(i, *c)] * a[(at, j)]).sum::<f64>())
        };
        let refits: Vec<[f64; 2]> = (0..n).map(refit).collect();
        for j in 0..2 {
            let direct = refits.iter().map(|r| r[j].powi(2)).sum::<f64>() / n as f64;
            for value in [all[(at, j)], one[(0, j)]] {
                assert!((value - direct).abs() < 1e-7 * direct, "{lambda} {j}: {value} {direct}");
            }
            let norm: f64 = (0..m).map(|i| alpha[(i, j)].powi(2)).sum();
            assert!((squares[(at, j)] - norm).abs() < 1e-12 * norm);
        }
        for (i, refit) in refits.iter().enumerate() {
            let close = |a: f64, b: f64| (a - b).abs() < 1e-10 * (1.0 + b.abs());
            assert!(close(mixed[0].residuals[i], same[0].residuals[i]));
            assert!((same[1].residuals[i] - refit[1]).abs() < 1e-7);
            assert!(close(mixed[0].latents[i], same[0].latents[i]) && close(same[0].latents[i], same[1].latents[i]));
        }
    }
}

/// Gram/direct (5) and the K-fold path: folds sum to the total, and their errors are those of refits.
#[test]
fn fold_errors_are_those_of_refits() {
    let n = 240;
    let p = problem(n, 2, gaussian(0.2), 6);
    let z = p.centers(30);
    let (k, k_mm) = (p.k(&z), kernel_matrix(&p.kernel, z.view(), z.view()));
    let rows_of = |fold: usize| (0..n).filter(|i| i % 4 == fold).collect::<Vec<_>>();
    let total = sums(&k, &p.y, &p.all_rows(), None);
    let folds: Vec<GramSums> = (0..4).map(|fold| sums(&k, &p.y, &rows_of(fold), None)).collect();
    let w = Whitener::new(k_mm.as_ref(), WhitenMethod::Eigen).unwrap();
    let grid = [1e-5, 1e-3, 1e-1];
    let errors = fold_errors(&total, &folds, &w, &grid).unwrap();
    for (at, &lambda) in grid.iter().enumerate() {
        let mut direct = [0.0; 2];
        for fold in 0..4 {
            let train: Vec<usize> = (0..n).filter(|i| i % 4 != fold).collect();
            let part = sums(&k, &p.y, &train, None);
            let ridge = lambda * train.len() as f64;
            let system = Mat::from_fn(30, 30, |i, j| part.gram[(i, j)] + ridge * k_mm[(i, j)]);
            let f = &k * solve(&system, &part.cross);
            for i in rows_of(fold) {
                (0..2).for_each(|j| direct[j] += (p.y[(i, j)] - f[(i, j)]).powi(2) / n as f64);
            }
        }
        for target in 0..2 {
            assert!((errors[(at, target)] - direct[target]).abs() < 1e-8, "{lambda}");
        }
    }
    let path = RidgePath::new(&total, &w).unwrap();
    let choice = path.best(&grid, Criterion::Errors(errors.as_ref())).unwrap();
    let sum = |i: usize| errors[(i, 0)] + errors[(i, 1)];
    assert!((0..3).all(|i| sum(choice.index) <= sum(i)));
    assert_eq!(choice.lambda, grid[choice.index]);
    // Errors on rows already seen are the training errors.
    let seen = path.held_out_errors(&total, &grid).unwrap();
    for (at, &lambda) in grid.iter().enumerate() {
        for (target, rss) in path.rss(lambda).unwrap().into_iter().enumerate() {
            assert!((seen[(at, target)] - rss / n as f64).abs() < 1e-9);
        }
    }
    // Ties go to the larger ridge.
    let tie = path.best(&grid, Criterion::Errors(Mat::from_fn(3, 2, |_, _| 1.0).as_ref())).unwrap();
    assert_eq!(tie.index, 2);
}

/// Gram/direct (6): rows may come in any order, and centers carry their coefficients with them.
#[test]
fn permutations() {
    let p = problem(180, 2, gaussian(0.3), 7);
    let z = p.centers(20);
    let order: Vec<usize> = (0..20).map(|i| i * 7 % 20).collect();
    let permuted = RowBuf::gather(z.view(), &order);
    let rows: Vec<usize> = (0..180).map(|i| i * 77 % 180).collect();
    let k = p.k(&z);
    let (a, b) = (sums(&k, &p.y, &p.all_rows(), None), sums(&k, &p.y, &rows, None));
    assert_eq!(a, b);
    for method in METHODS {
        let coefficients = |z: &RowBuf| {
            let w = Whitener::new(kernel_matrix(&p.kernel, z.view(), z.view()).as_ref(), method).unwrap();
            RidgePath::new(&sums(&p.k(z), &p.y, &p.all_rows(), None), &w).unwrap().coefficients(1e-3).unwrap()
        };
        let (a, b) = (coefficients(&z), coefficients(&permuted));
        let expected = Mat::from_fn(20, 2, |i, j| a[(order[i], j)]);
        assert!(distance(&b, &expected) < 1e-8 * largest(&a), "{method:?}");
    }
}

/// Gram/direct (7): a duplicated row is a weight of 2 at a fixed matrix ridge.
#[test]
fn duplicated_row_is_weight_two() {
    let p = problem(100, 2, gaussian(0.4), 8);
    let z = p.centers(15);
    let (k, k_mm) = (p.k(&z), kernel_matrix(&p.kernel, z.view(), z.view()));
    let w = Whitener::new(k_mm.as_ref(), WhitenMethod::Eigen).unwrap();
    let twice: Vec<usize> = (0..100).chain([42]).collect();
    let roots: Vec<f64> = (0..100).map(|i| if i == 42 { 1.0 } else { 0.5f64.sqrt() }).collect();
    let a = RidgePath::new(&sums(&k, &p.y, &twice, None), &w).unwrap();
    let b = RidgePath::new(&sums(&k, &p.y, &p.all_rows(), Some(&roots)), &w).unwrap();
    // sum w = 101 in both, relative to the largest weight 101 / 2 in the second.
    assert!((b.matrix_ridge(1.0) - 50.5).abs() < 1e-9);
    for lambda in [1e-1, 1e-3] {
        let (a, b) = (a.coefficients(lambda).unwrap(), b.coefficients(lambda).unwrap());
        assert!(distance(&(&k * a), &(&k * b)) < 1e-9);
    }
}

/// Gram/direct (8): an infinite ridge gives 0, none interpolates when m = n.
#[test]
fn ends_of_the_path() {
    let p = problem(80, 2, Kernel::new(Family::Laplace, 0.5), 9);
    let k = p.k(&p.x);
    for method in METHODS {
        let w = Whitener::new(k.as_ref(), method).unwrap();
        let path = RidgePath::new(&sums(&k, &p.y, &p.all_rows(), None), &w).unwrap();
        assert!(largest(&path.coefficients(1e12).unwrap()) < 1e-11);
        assert!(path.degrees_of_freedom(1e12).unwrap() < 1e-10);
        for lambda in [0.0, 1e-12] {
            assert!(distance(&(&k * path.coefficients(lambda).unwrap()), &p.y) < 1e-6, "{method:?} {lambda}");
            assert!((path.degrees_of_freedom(lambda).unwrap() - 80.0).abs() < 1e-5);
        }
        // GCV has nothing to say once the fit interpolates.
        assert!(path.gcv(0.0).unwrap().iter().all(|v| v.is_infinite() || *v >= 0.0));
    }
}

#[test]
fn predictive_variance_is_the_dense_formula() {
    let n = 120;
    let p = problem(n, 2, gaussian(0.4), 10);
    let z = p.centers(20);
    let (k, k_mm) = (p.k(&z), kernel_matrix(&p.kernel, z.view(), z.view()));
    let lambda = 1e-3;
    let path = RidgePath::new(
        &sums(&k, &p.y, &p.all_rows(), None),
        &Whitener::new(k_mm.as_ref(), WhitenMethod::Eigen).unwrap(),
    )
    .unwrap();
    let lambdas = [lambda, 1e-1];
    let found = path.variance_factor(&lambdas).unwrap().variances(k.as_ref(), &vec![1.0; n]).unwrap();
    let gram = k.transpose() * &k;
    let prior = solve(&k_mm, &k.transpose().to_owned());
    for (at, lambda) in lambdas.iter().enumerate() {
        let ridge = lambda * n as f64;
        let regularised = Mat::from_fn(20, 20, |i, j| gram[(i, j)] + ridge * k_mm[(i, j)]);
        let posterior = solve(&regularised, &k.transpose().to_owned());
        for i in 0..n {
            let dot = |a: &Mat<f64>| (0..20).map(|j| k[(i, j)] * a[(j, i)]).sum::<f64>();
            let expected = 1.0 - dot(&prior) + ridge * dot(&posterior);
            assert!((found[(i, at)] - expected).abs() < 1e-8, "{i}: {} {expected}", found[(i, at)]);
        }
    }
    let ridge = lambda * n as f64;
    // With all rows as centers this is the exact Gaussian process.
    let k = p.k(&p.x);
    let whitener = Whitener::new(k.as_ref(), WhitenMethod::Eigen).unwrap();
    let path = RidgePath::new(&sums(&k, &p.y, &p.all_rows(), None), &whitener).unwrap();
    let found = path.variance_factor(&[lambda]).unwrap().variances(k.as_ref(), &vec![1.0; n]).unwrap();
    let exact = &k - &k * solve(&shifted(&k, ridge), &k);
    (0..n).for_each(|i| assert!((found[(i, 0)] - exact[(i, i)]).abs() < 1e-8));
}

/// The default precision: compared with a dense solve of the same rounded matrix, not with the unrounded one.
#[test]
fn single_precision_is_the_exact_solution_of_the_rounded_problem() {
    let n = 300;
    let p = problem(n, 2, gaussian(0.3), 50);
    let z = p.centers(40);
    let (k, k_mm) = (p.k(&z), kernel_matrix(&p.kernel, z.view(), z.view()));
    let shape = GramShape { centers: 40, targets: 2, precision: Precision::Single, scale_log2: 0 };
    let gram = ExactGram::new(shape);
    let entries: Vec<f32> = (0..n).flat_map(|i| (0..40).map(move |j| (i, j))).map(|(i, j)| k[(i, j)] as f32).collect();
    let targets: Vec<f64> = (0..n).flat_map(|i| [p.y[(i, 0)], p.y[(i, 1)]]).collect();
    gram.add(&mut GramScratch::default(), &entries, 40, n, None, &targets).unwrap();
    let rounded =
        Mat::from_fn(n, 40, |i, j| (f64::from(k[(i, j)] as f32) * 2f64.powi(22)).round_ties_even() * 2f64.powi(-22));
    assert!(distance(&rounded, &k) < 2f64.powi(-22));
    let path = RidgePath::new(&gram.finish(), &Whitener::new(k_mm.as_ref(), WhitenMethod::Eigen).unwrap()).unwrap();
    for lambda in [1e-2, 1e-4] {
        let ridge = lambda * n as f64;
        let g = rounded.transpose() * &rounded;
        let dense =
            solve(&Mat::from_fn(40, 40, |i, j| g[(i, j)] + ridge * k_mm[(i, j)]), &(rounded.transpose() * &p.y));
        let ours = path.coefficients(lambda).unwrap();
        assert!(distance(&(&rounded * ours), &(&rounded * dense)) < 1e-8);
    }
}

/// What counts as 0 is told by the sizes of k(z, z), in their unit: a kernel times a power of four has the factor and the features of the kernel, times its root, bit for bit.
#[test]
fn whitening_does_not_know_the_unit_of_the_kernel() {
    // Centers on a line, a narrow kernel, and k(z, z) over eight decades.
    let (m, rows) = (60, 9);
    let size = |i: usize| 10f64.powf(8.0 * (i * 37 % m) as f64 / m as f64 - 4.0);
    let place = |i: usize| 0.9 * i as f64;
    let entry = |x: f64, s: f64, j: usize| s * size(j) * (-(x - place(j)).powi(2) / 2.0).exp();
    let by = |scale: f64| {
        let k = Mat::from_fn(m, m, |i, j| scale * entry(place(i), size(i), j));
        let rows = Mat::from_fn(rows, m, |i, j| scale * entry(5.3 * i as f64, 1.0, j));
        let whitener = Whitener::new(k.as_ref(), WhitenMethod::Cholesky).unwrap();
        let features = whitener.features(rows.as_ref()).unwrap();
        let (factor, kept) = whitener.factor().unwrap();
        (factor.to_owned(), kept.to_vec(), features)
    };
    let (factor, kept, features) = by(1.0);
    assert!(factor.col(0).iter().any(|x| *x == 0.0) && kept.len() == m);
    for power in [-300, -20, 20, 200, 300] {
        let root = 2f64.powi(power);
        let scaled = by(root * root);
        let times = |a: &Mat<f64>| Mat::from_fn(a.nrows(), a.ncols(), |i, j| root * a[(i, j)]);
        assert!(scaled == (times(&factor), kept.clone(), times(&features)), "2^{power}");
    }
}
