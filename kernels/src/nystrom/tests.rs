//! Oracles of solvers section 8 (Gram/direct) and sampling_and_online section 9 (Nystrom), on arrays, against dense algebra.

use super::*;
use crate::checks::{distance, largest};
use crate::dense::{self, SEQUENTIAL, fixed_parallelism};
use crate::gram::{ExactGram, GramScratch, GramShape, GramSums, Precision};
use crate::kernel::{Family, Kernel};
use crate::rows::{RowBuf, Rows};
use faer::Mat;
use nystream_hashing::{RowId, StreamKey};

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
    let base = Whitener::new(kernel_matrix(&p.kernel, z.view(), z.view()).as_ref(), WhitenMethod::Cholesky).unwrap();
    let (k, k_repeated) = (p.k(&z), p.k(&repeated));
    assert!(distance(&w.features(k_repeated.as_ref()).unwrap(), &base.features(k.as_ref()).unwrap()) < 1e-12);
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
    let found = path.leave_one_out_errors(k.as_ref(), p.y.as_ref(), Some(&roots), &own, &grid).unwrap();
    for (at, lambda) in grid.iter().enumerate() {
        let ridge = weights.iter().sum::<f64>() * lambda;
        let mut errors = [0.0; 2];
        for i in 0..n {
            let rows: Vec<usize> = (0..n).filter(|r| *r != i).collect();
            let kept: Vec<usize> = (0..m).filter(|c| own[i] != Some(*c)).collect();
            let part = Mat::from_fn(n - 1, kept.len(), |r, j| k[(rows[r], kept[j])] * roots[rows[r]]);
            let y = Mat::from_fn(n - 1, 2, |r, j| p.y[(rows[r], j)] * roots[rows[r]]);
            let gram = part.transpose() * &part;
            let system = Mat::from_fn(kept.len(), kept.len(), |a, b| gram[(a, b)] + ridge * k_mm[(kept[a], kept[b])]);
            let a = solve(&system, &(part.transpose() * y));
            for (target, error) in errors.iter_mut().enumerate() {
                let f: f64 = kept.iter().enumerate().map(|(j, c)| k[(i, *c)] * a[(j, target)]).sum();
                *error += weights[i] * (p.y[(i, target)] - f).powi(2) / weights.iter().sum::<f64>();
            }
        }
        for (target, error) in errors.into_iter().enumerate() {
            let value = found[(at, target)];
            assert!((value - error).abs() < 1e-7 * error, "{lambda} {target}: {value} {error}");
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
