//! What the tests measure with: distances that no NaN can pass, and statistics with a stated probability of failure.

use faer::Mat;

/// max |a_ij| of a matrix whose entries must all be finite: faer's `norm_max` takes a NaN for smaller than anything.
#[track_caller]
pub(crate) fn largest(a: &Mat<f64>) -> f64 {
    let mut largest = 0.0f64;
    for j in 0..a.ncols() {
        for (i, v) in a.col_as_slice(j).iter().enumerate() {
            assert!(v.is_finite(), "entry ({i}, {j}) is {v}");
            largest = largest.max(v.abs());
        }
    }
    largest
}

/// max |a - b| of two matrices whose entries must all be finite.
#[track_caller]
pub(crate) fn distance(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    largest(a);
    largest(b);
    largest(&(a - b))
}

/// The larger of two finite numbers, to fold errors with: `f64::max` takes a NaN for smaller than anything.
#[track_caller]
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    assert!(a.is_finite() && b.is_finite(), "an error is {a} or {b}");
    a.max(b)
}

/// Mean and standard error.
pub(crate) fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

/// sum (observed - expected)^2 / expected over cells that expect at least 5, the others pooled; and the number of degrees of freedom.
pub(crate) fn chi_square(observed: &[f64], expected: &[f64]) -> (f64, f64) {
    let (mut statistic, mut cells, mut rest) = (0.0, 0.0, (0.0, 0.0));
    for (o, e) in observed.iter().zip(expected) {
        if *e >= 5.0 {
            statistic += (o - e).powi(2) / e;
            cells += 1.0;
        } else {
            rest = (rest.0 + o, rest.1 + e);
        }
    }
    if rest.1 >= 5.0 {
        statistic += (rest.0 - rest.1).powi(2) / rest.1;
        cells += 1.0;
    }
    (statistic, cells - 1.0)
}

/// Whether a chi-square statistic is below its quantile for a failure probability of about 1e-4 (Wilson and Hilferty 1931).
pub(crate) fn chi_square_passes((statistic, freedom): (f64, f64)) -> bool {
    let z = 3.72;
    let c = 2.0 / (9.0 * freedom);
    statistic < freedom * (1.0 - c + z * c.sqrt()).powi(3)
}

#[test]
#[should_panic(expected = "entry (1, 0) is NaN")]
fn a_nan_is_not_close_to_anything() {
    distance(&Mat::zeros(2, 1), &faer::mat![[0.0], [f64::NAN]]);
}
