//! Products, factors and solves against their definitions, on shapes about the sizes where tiles and halves are cut.

use super::*;
use crate::checks::distance;
use nystream_hashing::{RowId, StreamKey};

fn example(order: usize) -> Mat<f64> {
    Mat::from_fn(order, order, |i, j| (-((i as f64 - j as f64) / 7.0).powi(2)).exp() + if i == j { 0.5 } else { 0.0 })
}

#[test]
fn factor_and_solve_agree_with_the_definition() {
    for order in [1, 2, 17, 130] {
        let a = example(order);
        let mut l = a.clone();
        cholesky(l.as_mut(), fixed_parallelism()).unwrap();
        let back = &l * l.transpose();
        assert!(distance(&back, &a) < 1e-12);
        let b = Mat::from_fn(order, 3, |i, j| (i + 2 * j) as f64 + 1.0);
        let mut x = b.clone();
        solve_lower(l.as_ref(), x.as_mut(), SEQUENTIAL);
        solve_lower_transpose(l.as_ref(), x.as_mut(), SEQUENTIAL);
        assert!(distance(&(&a * &x), &b) < 1e-9 * order as f64);
    }
}

#[test]
fn eigen_reconstructs_and_refuses_nan() {
    let a = example(40);
    let (values, vectors) = symmetric_eigen(a.as_ref(), fixed_parallelism()).unwrap();
    assert!(values.windows(2).all(|w| w[0] <= w[1]));
    let scaled = Mat::from_fn(40, 40, |i, j| vectors[(i, j)] * values[j]);
    assert!(distance(&(&scaled * vectors.transpose()), &a) < 1e-12);
    let mut bad = a;
    bad[(3, 1)] = f64::NAN;
    assert!(symmetric_eigen(bad.as_ref(), fixed_parallelism()).is_err());
    assert!(cholesky(bad.as_mut(), SEQUENTIAL).is_err());
}

#[test]
fn indefinite_matrices_name_their_pivot() {
    let mut a = Mat::from_fn(3, 3, |i, j| if i == j { [1.0, -1.0, 1.0][i] } else { 0.0 });
    assert_eq!(cholesky(a.as_mut(), SEQUENTIAL), Err(DenseError::NonPositivePivot { index: 1, order: 3 }));
}

/// Orders around the blocks of factors and the tiles of products.
const ORDERS: [usize; 7] = [1, 127, 257, 511, 512, 513, 700];

fn values(rows: usize, columns: usize, stage: &str) -> Mat<f64> {
    let key = StreamKey::new(5, stage, 0);
    Mat::from_fn(rows, columns, |i, j| key.normal_pair(RowId((j * rows + i) as u128)).0)
}

/// Sums one by one.
fn product_by_definition(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    Mat::from_fn(a.nrows(), b.ncols(), |i, j| (0..a.ncols()).map(|k| a[(i, k)] * b[(k, j)]).sum())
}

#[test]
fn products_of_any_layout_are_the_sums_of_their_definition() {
    for (m, k, n) in [(1, 1, 1), (513, 3, 2), (40, 600, 530), (530, 33, 1030)] {
        let (a, b) = (values(m, k, "a"), values(k, n, "b"));
        let (at, bt) = (a.transpose().to_owned(), b.transpose().to_owned());
        let wanted = product_by_definition(a.as_ref(), b.as_ref());
        for (a, b) in [(a.as_ref(), b.as_ref()), (at.transpose(), bt.transpose()), (a.as_ref(), bt.transpose())] {
            for par in [SEQUENTIAL, fixed_parallelism()] {
                let mut c = Mat::full(m, n, f64::NAN);
                gemm(c.as_mut(), false, 2.0, a, b, par);
                assert!(distance(&c, &(faer::Scale(2.0) * &wanted)) < 1e-11, "{m} {k} {n}");
                gemm(c.as_mut(), true, -2.0, a, b, par);
                assert!(c.norm_max() < 1e-11, "{m} {k} {n}");
                let mut c = Mat::full(n, m, f64::NAN);
                gemm(c.as_mut().transpose_mut(), false, 1.0, a, b, par);
                assert!(distance(&c.transpose().to_owned(), &wanted) < 1e-11);
            }
        }
    }
}

#[test]
fn lower_products_leave_the_upper_triangle_alone() {
    for m in ORDERS {
        let (a, b) = (values(m, 37, "a"), values(37, m, "b"));
        let wanted = product_by_definition(a.as_ref(), b.as_ref());
        let mut c = Mat::full(m, m, 7.0);
        gemm_lower(c.as_mut(), false, 1.0, a.as_ref(), b.as_ref(), fixed_parallelism());
        for j in 0..m {
            for i in 0..m {
                let (got, wanted) = (c[(i, j)], if i < j { 7.0 } else { wanted[(i, j)] });
                assert!((got - wanted).abs() < 1e-12, "{m}: {i} {j}");
            }
        }
    }
}

/// L well away from singular, and garbage above its diagonal.
fn lower(m: usize) -> Mat<f64> {
    let noise = values(m, m, "l");
    Mat::from_fn(m, m, |i, j| match i.cmp(&j) {
        std::cmp::Ordering::Less => f64::NAN,
        std::cmp::Ordering::Equal => 2.0 + noise[(i, j)].abs(),
        std::cmp::Ordering::Greater => noise[(i, j)] / (m as f64).sqrt(),
    })
}

#[test]
fn solves_by_halves_invert_the_triangle() {
    for m in ORDERS {
        let l = lower(m);
        let clean = Mat::from_fn(m, m, |i, j| if i < j { 0.0 } else { l[(i, j)] });
        for t in [1, 5, 150] {
            let x = values(m, t, "x");
            let mut b = product_by_definition(clean.as_ref(), x.as_ref());
            assert!(distance(&lower_times(l.as_ref(), x.as_ref(), fixed_parallelism()), &b) < 1e-12, "{m} {t}");
            solve_lower(l.as_ref(), b.as_mut(), fixed_parallelism());
            assert!(distance(&b, &x) < 1e-12, "{m} {t}");
            let mut b = product_by_definition(clean.transpose(), x.as_ref());
            let product = lower_transpose_times(l.as_ref(), x.as_ref(), fixed_parallelism());
            assert!(distance(&product, &b) < 1e-12, "{m} {t}");
            solve_lower_transpose(l.as_ref(), b.as_mut(), fixed_parallelism());
            assert!(distance(&b, &x) < 1e-12, "{m} {t}");
            // A right-hand side that lies by rows.
            let mut b = product_by_definition(x.transpose(), clean.transpose());
            solve_lower(l.as_ref(), b.as_mut().transpose_mut(), fixed_parallelism());
            assert!(distance(&b.transpose().to_owned(), &x) < 1e-12, "{m} {t}");
        }
    }
}

#[test]
fn factors_by_halves_are_those_of_the_definition() {
    for m in ORDERS {
        let l = lower(m);
        let clean = Mat::from_fn(m, m, |i, j| if i < j { 0.0 } else { l[(i, j)] });
        let gram = product_by_definition(clean.as_ref(), clean.transpose());
        // Only the lower triangle is read.
        let mut a = Mat::from_fn(m, m, |i, j| if i < j { f64::NAN } else { gram[(i, j)] });
        cholesky(a.as_mut(), fixed_parallelism()).unwrap();
        assert!(distance(&a, &clean) < 1e-12, "{m}");
        // A pivot that fails, or is no number, is named wherever it stands.
        for index in [0, m / 3, m - 1] {
            for value in [-1.0, f64::NAN] {
                let mut a = gram.clone();
                a[(index, index)] = value;
                let failed = DenseError::NonPositivePivot { index, order: m };
                assert_eq!(cholesky(a.as_mut(), fixed_parallelism()), Err(failed), "{m} {value}");
            }
        }
    }
}

#[test]
fn no_number_of_threads_changes_a_bit() {
    let m = 1100;
    let (a, b, l) = (values(m, 90, "a"), values(90, m, "b"), lower(m));
    let all = |par: Par| {
        let mut product = Mat::zeros(m, m);
        gemm(product.as_mut(), false, 1.0, a.as_ref(), b.as_ref(), par);
        let mut gram = Mat::<f64>::identity(m, m);
        gemm_lower(gram.as_mut(), true, 1.0, a.as_ref(), a.transpose(), par);
        cholesky(gram.as_mut(), par).unwrap();
        let mut x = a.clone();
        solve_lower(l.as_ref(), x.as_mut(), par);
        solve_lower_transpose(l.as_ref(), x.as_mut(), par);
        let diagonal = inverse_diagonal(l.as_ref(), par);
        x = lower_transpose_times(l.as_ref(), lower_times(l.as_ref(), x.as_ref(), par).as_ref(), par);
        (product, gram, x, diagonal)
    };
    let sequential = all(SEQUENTIAL);
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let parallel = pool.install(|| all(fixed_parallelism()));
        assert!(parallel.0 == sequential.0 && parallel.1 == sequential.1 && parallel.2 == sequential.2);
        assert_eq!(parallel.3, sequential.3);
    }
}
