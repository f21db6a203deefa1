//! Certificates against their definition in dense algebra.

use super::pencil::sampled_pencil;
use super::*;
use faer::Mat;
use nystream_hashing::StreamKey;
use nystream_kernels::kernel::{Family, Kernel};
use nystream_kernels::nystrom::pencil as dense_pencil;
use nystream_kernels::rows::{RowBuf, Rows};
use nystream_kernels::tile::SimdPath;

fn rows(count: usize) -> (RowBuf, Vec<RowId>) {
    let key = StreamKey::new(9, "test-rows", 0);
    let mut rows = RowBuf::new(2, 0);
    rows.numeric = (0..2 * count).map(|i| key.normal_pair(RowId(i as u128)).0 as f32).collect();
    (rows, (0..count).map(|i| RowId(1000 + i as u128)).collect())
}

fn basis<'a>(kernel: &'a Kernel, centers: Rows<'a>) -> Basis<'a> {
    Basis { kernel, simd: SimdPath::detect(), centers }
}

/// K(x, z), one entry at a time.
fn dense(kernel: &Kernel, x: Rows<'_>, z: Rows<'_>) -> Mat<f64> {
    Mat::from_fn(x.len(), z.len(), |i, j| kernel.evaluate(x, i, z, j))
}

/// Both sides equal those of the dense pencil in the features of the centers; a dictionary of all rows is exact, and one whose weights
/// are all three times too large is too heavy by up to 2.
#[test]
fn the_exact_pencil_is_that_of_the_definition() {
    let (all, ids) = rows(300);
    let kernel = Kernel::new(Family::Gaussian, 1.0);
    let centers = RowBuf::gather(all.view(), &(0..20).collect::<Vec<_>>());
    let knm = dense(&kernel, all.view(), centers.view());
    let gram = knm.transpose() * &knm;
    let kept: Vec<usize> = (0..300).step_by(3).collect();
    let atoms = |kept: &[usize], weight: f64| Atoms {
        rows: RowBuf::gather(all.view(), kept),
        ids: kept.iter().map(|i| ids[*i]).collect(),
        weights: vec![weight; kept.len()],
    };
    let thin = atoms(&kept, 3.0);
    let found = exact_pencil(basis(&kernel, centers.view()), &thin, gram.as_ref(), 0.5, 300).unwrap().unwrap();
    let kam = dense(&kernel, thin.rows.view(), centers.view());
    // The pencil (L^-1 A L^-T, L^-1 B L^-T + gamma I) is (A, B + gamma K_mm).
    let kmm = dense(&kernel, centers.view(), centers.view());
    let mut l = kmm.clone();
    nystream_kernels::dense::cholesky(l.as_mut(), nystream_kernels::dense::SEQUENTIAL).unwrap();
    let whiten = |a: &Mat<f64>| {
        let mut half = a.clone();
        nystream_kernels::dense::solve_lower(l.as_ref(), half.as_mut(), nystream_kernels::dense::SEQUENTIAL);
        let mut out = half.transpose().to_owned();
        nystream_kernels::dense::solve_lower(l.as_ref(), out.as_mut(), nystream_kernels::dense::SEQUENTIAL);
        out
    };
    let g2 = faer::Scale(3.0) * (kam.transpose() * &kam);
    let expected = dense_pencil(whiten(&gram).as_ref(), whiten(&g2).as_ref(), 0.5).unwrap();
    assert!((found.lowest - expected.lowest).abs() < 1e-8 && (found.highest - expected.highest).abs() < 1e-8);
    assert!(found.lowest < -0.01 && found.highest > 0.01, "both sides are measured: {found:?}");
    assert!(found.exact && found.rows == 300);

    let whole: Vec<usize> = (0..300).collect();
    let exact =
        exact_pencil(basis(&kernel, centers.view()), &atoms(&whole, 1.0), gram.as_ref(), 0.5, 300).unwrap().unwrap();
    assert!(exact.epsilon() < 1e-8, "{exact:?}");
    let heavy =
        exact_pencil(basis(&kernel, centers.view()), &atoms(&whole, 3.0), gram.as_ref(), 0.5, 300).unwrap().unwrap();
    // A Gram that rounding has made indefinite by more than gamma certifies nothing, and ends nothing.
    let indefinite = gram.as_ref() * faer::Scale(-1.0);
    assert_eq!(exact_pencil(basis(&kernel, centers.view()), &thin, indefinite.as_ref(), 0.5, 300).unwrap(), None);
    assert!(heavy.lowest > 0.0 && (1.9..2.0).contains(&heavy.highest), "{heavy:?}");
}

/// With a sample of all rows the estimate is the exact one; atoms among the sample are not counted twice.
#[test]
fn a_sample_of_all_rows_measures_the_same() {
    let (all, ids) = rows(300);
    let kernel = Kernel::new(Family::Gaussian, 1.0);
    let centers = RowBuf::gather(all.view(), &(0..20).collect::<Vec<_>>());
    let knm = dense(&kernel, all.view(), centers.view());
    let gram = knm.transpose() * &knm;
    let kept: Vec<usize> = (0..300).step_by(3).collect();
    let atoms = Atoms {
        rows: RowBuf::gather(all.view(), &kept),
        ids: kept.iter().map(|i| ids[*i]).collect(),
        weights: vec![3.0; kept.len()],
    };
    let sample = Pool { rows: all.clone(), ids: ids.clone(), ..Pool::default() };
    let exact = exact_pencil(basis(&kernel, centers.view()), &atoms, gram.as_ref(), 0.5, 300).unwrap().unwrap();
    let sampled = sampled_pencil(basis(&kernel, centers.view()), &atoms, &sample, 0.5, 300).unwrap().unwrap();
    assert!((exact.lowest - sampled.lowest).abs() < 1e-8 && (exact.highest - sampled.highest).abs() < 1e-8);
    assert!(!sampled.exact && sampled.rows == 200);
}

/// Centers that come under other ids than the rows they equal are not judged by themselves.
#[test]
fn rows_that_equal_a_center_are_left_out() {
    let (all, ids) = rows(60);
    let kernel = Kernel::new(Family::Gaussian, 1.0);
    let sample = Pool { rows: all.clone(), ids: ids.clone(), ..Pool::default() };
    let chosen: Vec<usize> = (0..40).collect();
    let centers = RowBuf::gather(all.view(), &chosen);
    let measure =
        |center_ids: &[RowId]| certify(basis(&kernel, centers.view()), center_ids, &sample, None, 0.5, 60).unwrap();
    let known = measure(&ids[..40]);
    let others: Vec<RowId> = (0..40).map(|i| RowId(i as u128)).collect();
    assert_eq!(measure(&others), known);
    assert!(known.sampled_trace_error.unwrap() > 0.0);
}

/// The 300 rows, 20 of them centers, and E = K - K~ from the definition: K~ = K_nm K_mm^-1 K_mn in full.
fn dense_error(kernel: &Kernel, all: &RowBuf) -> (Mat<f64>, Mat<f64>) {
    let k = dense(kernel, all.view(), all.view());
    let knm = k.as_ref().subcols(0, 20).to_owned();
    let mut half = knm.transpose().to_owned();
    let mut l = k.as_ref().submatrix(0, 0, 20, 20).to_owned();
    nystream_kernels::dense::cholesky(l.as_mut(), nystream_kernels::dense::SEQUENTIAL).unwrap();
    nystream_kernels::dense::solve_lower(l.as_ref(), half.as_mut(), nystream_kernels::dense::SEQUENTIAL);
    let error = &k - half.transpose() * &half;
    (k, error)
}

/// The largest eigenvalue of (a, b + gamma I) over the rows from `from` on.
fn top(a: &Mat<f64>, b: &Mat<f64>, from: usize, gamma: f64) -> f64 {
    let n = a.nrows() - from;
    let part = |m: &Mat<f64>| m.as_ref().submatrix(from, from, n, n).to_owned();
    // (G2 - G1, G1 + gamma I) with G1 = b and G2 = a + b.
    dense_pencil(part(b).as_ref(), (part(a) + part(b)).as_ref(), gamma).unwrap().highest
}

/// With a sample of all rows, trace error and epsilon are those of dense algebra.
#[test]
fn a_sample_of_all_rows_gives_the_dense_errors() {
    let (all, ids) = rows(300);
    let kernel = Kernel::new(Family::Gaussian, 1.0);
    let centers = RowBuf::gather(all.view(), &(0..20).collect::<Vec<_>>());
    let sample = Pool { rows: all.clone(), ids: ids.clone(), ..Pool::default() };
    let (k, error) = dense_error(&kernel, &all);
    let trace = |m: &Mat<f64>| (0..300).map(|i| m[(i, i)]).sum::<f64>();
    for gamma in [0.05, 0.5, 5.0] {
        let found = certify(basis(&kernel, centers.view()), &ids[..20], &sample, None, gamma, 300).unwrap();
        let expected = trace(&error) / trace(&k);
        assert!((found.sampled_trace_error.unwrap() - expected).abs() < 1e-8, "{found:?} {expected}");
        let epsilon = found.epsilon.unwrap();
        assert!((epsilon - top(&error, &k, 20, gamma * 280.0 / 300.0)).abs() < 1e-8, "{found:?}");
        // The figure it stands for, over all rows; and the bound that it is not.
        let whole = top(&error, &k, 0, gamma);
        assert!((epsilon / whole - 1.0).abs() < 0.1, "{epsilon} {whole}");
        let bound = top(&error, &k, 20, gamma);
        assert!(bound <= whole * (1.0 + 1e-10) && bound < epsilon, "{bound} {whole} {epsilon}");
    }
}

/// Hashed samples of 40 rows estimate the trace error without bias, whichever of them are centers.
#[test]
fn small_samples_give_the_trace_error_without_bias() {
    let (all, ids) = rows(300);
    let kernel = Kernel::new(Family::Gaussian, 1.0);
    let centers = RowBuf::gather(all.view(), &(0..20).collect::<Vec<_>>());
    let whole = Pool { rows: all.clone(), ids: ids.clone(), ..Pool::default() };
    let (k, error) = dense_error(&kernel, &all);
    let expected = (0..300).map(|i| error[(i, i)]).sum::<f64>() / (0..300).map(|i| k[(i, i)]).sum::<f64>();
    let estimates: Vec<f64> = (0..200)
        .map(|seed| {
            let key = StreamKey::new(seed, "sample", 0);
            let mut order: Vec<usize> = (0..300).collect();
            order.sort_by_key(|i| key.u128(ids[*i]));
            let sample = whole.gather(&order[..40]);
            let found = certify(basis(&kernel, centers.view()), &ids[..20], &sample, None, 0.5, 300).unwrap();
            found.sampled_trace_error.unwrap()
        })
        .collect();
    let mean = estimates.iter().sum::<f64>() / 200.0;
    let deviation = (estimates.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / 199.0).sqrt();
    let standard_error = deviation / 200f64.sqrt();
    assert!((mean - expected).abs() < 4.0 * standard_error, "{mean} {expected} {standard_error}");
    // The test could tell: samples differ, and the error is not that of no centers at all.
    assert!(standard_error > 1e-4 && expected < 0.5 && deviation < expected, "{deviation} {expected}");
}
