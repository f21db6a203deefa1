//! Recursive least squares of many targets against dense ridge regression.

use super::*;
use crate::dense::{SEQUENTIAL, cholesky, solve_lower};
use crate::solve::oracle::{distance, spd_solve};

struct Case {
    stream: Stream,
    atoms: Stream,
    /// Rows x targets.
    targets: Vec<f64>,
    weights: Vec<f64>,
    params: RecursiveParams,
}

impl Case {
    fn new(seed: u64, n: usize, m: usize, t: usize) -> Self {
        let (stream, atoms) = (Stream::smooth(seed, n, 3, 0.1), Stream::smooth(seed + 1, m, 3, 0.0));
        let noise = normals(seed + 2, n, t);
        let targets = (0..n * t).map(|i| stream.y[i / t] * (i % t) as f64 + noise[(i / t, i % t)]).collect();
        let weights = (0..n).map(|i| [1.0, 0.5, 3.0][i % 3]).collect();
        let params = RecursiveParams { block: 8, refresh: 1000, ..RecursiveParams::new(gaussian(1.5), 0.3, t) };
        Case { stream, atoms, targets, weights, params }
    }

    fn learner(&self) -> Recursive {
        Recursive::new(self.params.clone(), self.atoms.rows.view()).unwrap()
    }

    fn change(&self, learner: &mut Recursive, rows: std::ops::Range<usize>, insert: bool) -> Answers {
        let t = self.params.targets;
        let part = self.stream.rows.view().slice(rows.start, rows.end);
        let (ids, targets) = (&self.stream.ids[rows.clone()], &self.targets[rows.start * t..rows.end * t]);
        let weights = Some(&self.weights[rows]);
        if insert {
            learner.insert(part, ids, targets, weights).unwrap()
        } else {
            learner.delete(part, ids, targets, weights).unwrap()
        }
    }

    /// Features L^-1 k, m x n, by the definition.
    fn features(&self) -> Mat<f64> {
        let kernel = &self.params.entries.kernel;
        let atoms = self.atoms.rows.view();
        let mut l = kernel_matrix(kernel, atoms, atoms);
        cholesky(l.as_mut(), SEQUENTIAL).unwrap();
        let mut phi = kernel_matrix(kernel, atoms, self.stream.rows.view());
        solve_lower(l.as_ref(), phi.as_mut(), SEQUENTIAL);
        phi
    }

    /// Predictions of all rows, n x t, by ridge regression on the rows of `counts`.
    fn ridge(&self, counts: &[f64]) -> Mat<f64> {
        let (phi, t) = (self.features(), self.params.targets);
        let (m, n) = phi.shape();
        let weighted = Mat::from_fn(m, n, |i, r| counts[r] * self.weights[r] * phi[(i, r)]);
        let a = &weighted * phi.transpose() + Mat::from_fn(m, m, |i, j| if i == j { self.params.alpha } else { 0.0 });
        let w = spd_solve(&a, &(&weighted * Mat::from_fn(n, t, |r, j| self.targets[r * t + j])));
        phi.transpose() * w
    }

    fn predictions(&self, learner: &mut Recursive) -> Mat<f64> {
        let t = self.params.targets;
        let f = learner.predict(self.stream.rows.view()).unwrap();
        Mat::from_fn(self.stream.len(), t, |r, j| f[r * t + j])
    }
}

/// Leverages are phi^T A^-1 phi + (k(x, x) - |phi|^2) / alpha before each row, by the definition, wherever blocks end; and those of rows that are only asked for, after all of them.
#[test]
fn leverages_are_those_of_the_definition() {
    let case = Case::new(70, 45, 12, 2);
    let mut learner = case.learner();
    let mut found = case.change(&mut learner, 0..45, true).leverages;
    found.extend(learner.flush().unwrap().leverages);
    let (phi, alpha) = (case.features(), case.params.alpha);
    let m = phi.nrows();
    let mut a = Mat::from_fn(m, m, |i, j| if i == j { alpha } else { 0.0 });
    let own = |a: &Mat<f64>, r: usize| {
        let row = phi.col(r).to_owned();
        let row = Mat::from_fn(m, 1, |i, _| row[i]);
        let square = |b: &Mat<f64>| (row.transpose() * b)[(0, 0)];
        square(&spd_solve(a, &row)) + (1.0 - square(&row)) / alpha
    };
    for r in 0..45 {
        let expected = own(&a, r);
        assert!((found[r] - expected).abs() < 1e-10 * (1.0 + expected), "{r}: {} {expected}", found[r]);
        a = Mat::from_fn(m, m, |i, j| a[(i, j)] + case.weights[r] * phi[(i, r)] * phi[(j, r)]);
    }
    let asked = learner.leverages(case.stream.rows.view()).unwrap();
    for (r, asked) in asked.iter().enumerate() {
        assert!((asked - own(&a, r)).abs() < 1e-10 * (1.0 + asked), "{r}: {asked}");
    }
}

/// Each row's prediction is that of ridge regression on the rows before it; the state afterwards that of all; coefficients say the same.
#[test]
fn blocks_are_rows_in_order() {
    for seed in 0..4 {
        let case = Case::new(400 + seed, 45, 10, 5);
        let mut learner = case.learner();
        let mut answers = case.change(&mut learner, 0..45, true);
        assert_eq!((answers.ids.len(), learner.waiting()), (40, 5));
        answers.predictions.extend(learner.flush().unwrap().predictions);
        for t in 0..45 {
            let before: Vec<f64> = (0..45).map(|r| f64::from(u8::from(r < t))).collect();
            let expected = case.ridge(&before);
            for j in 0..5 {
                assert!((answers.predictions[t * 5 + j] - expected[(t, j)]).abs() < 1e-9);
            }
        }
        let all = case.ridge(&[1.0; 45]);
        assert!(distance(&case.predictions(&mut learner), &all) < 1e-9);
        let k = kernel_matrix(&case.params.entries.kernel, case.stream.rows.view(), case.atoms.rows.view());
        let coefficients = learner.coefficients();
        let by_atoms = &k * Mat::from_fn(10, 5, |i, j| coefficients[j * 10 + i]);
        assert!(distance(&by_atoms, &all) < 1e-8);
        // W carried along is W solved for.
        let carried = case.predictions(&mut learner);
        learner.refresh();
        assert!(distance(&carried, &case.predictions(&mut learner)) < 1e-10);
        let squares = learner.mean_squared_errors().unwrap();
        for (j, squares) in squares.iter().enumerate() {
            let sum: f64 = (0..45)
                .map(|r| case.weights[r] * (case.targets[r * 5 + j] - answers.predictions[r * 5 + j]).powi(2))
                .sum();
            assert!((squares - sum / case.weights.iter().sum::<f64>()).abs() < 1e-12);
        }
    }
}

/// Inserts and deletes in any order, in the same block too, end at ridge regression on the rows that are left.
#[test]
fn deletions_leave_what_is_left() {
    for seed in 0..4 {
        let case = Case::new(410 + seed, 60, 12, 3);
        let mut learner = case.learner();
        case.change(&mut learner, 0..30, true);
        case.change(&mut learner, 3..9, false);
        case.change(&mut learner, 30..60, true);
        case.change(&mut learner, 50..60, false);
        case.change(&mut learner, 5..6, true);
        learner.flush().unwrap();
        let counts: Vec<f64> = (0..60).map(|r| f64::from(u8::from(!(3..9).contains(&r) && r < 50 || r == 5))).collect();
        assert!(distance(&case.predictions(&mut learner), &case.ridge(&counts)) < 1e-9);
        let info = learner.info();
        assert_eq!((info.inserted, info.deleted, info.rejected), (61, 16, 0));
        assert!(info.least_delta > 0.0 && info.least_delta < 1.0);
    }
}

/// Everything is deleted: what is left is rounding, some u times the weight that there was, over alpha.
#[test]
fn deleting_everything_leaves_rounding() {
    let mut case = Case::new(420, 2000, 12, 3);
    (case.params.block, case.params.alpha) = (64, 1e-5);
    let mut learner = case.learner();
    case.change(&mut learner, 0..2000, true);
    case.change(&mut learner, 0..2000, false);
    learner.flush().unwrap();
    assert!(learner.info().refreshes > 0, "no deletion was near the last row of its direction");
    let left = crate::checks::largest(&case.predictions(&mut learner));
    assert!(left < f64::EPSILON * 3000.0 / 1e-5, "{left:e}");
    // And the rows come back as they were.
    case.change(&mut learner, 0..2000, true);
    learner.flush().unwrap();
    assert!(distance(&case.predictions(&mut learner), &case.ridge(&vec![1.0; 2000])) < 1e-8);
}

/// A row that was never inserted is left out and named; the others are taken.
#[test]
fn deletions_of_strangers_are_named() {
    let case = Case::new(430, 20, 6, 2);
    let mut learner = case.learner();
    // The first row of its direction: alpha is all there is.
    let answers = learner
        .delete(case.stream.rows.view().slice(0, 1), &case.stream.ids[..1], &case.targets[..2], Some(&[1e3]))
        .unwrap();
    assert!(answers.ids.is_empty());
    let answers = learner.flush().unwrap();
    assert_eq!(answers.rejected.len(), 1);
    assert_eq!(answers.rejected[0].0, case.stream.ids[0]);
    assert!(answers.rejected[0].1 < 0.0);
    assert_eq!(crate::checks::largest(&case.predictions(&mut learner)), 0.0);
    assert_eq!(learner.info().rejected, 1);
    case.change(&mut learner, 0..20, true);
    learner.flush().unwrap();
    assert!(distance(&case.predictions(&mut learner), &case.ridge(&[1.0; 20])) < 1e-10);
}

/// Cuts of the stream into calls leave no trace.
#[test]
fn calls_leave_no_trace() {
    let case = Case::new(440, 50, 8, 3);
    let whole = {
        let mut learner = case.learner();
        let answers = case.change(&mut learner, 0..50, true);
        (answers, serde_json::to_string(&learner).unwrap())
    };
    let mut learner = case.learner();
    let mut answers = Answers::default();
    for (start, end) in [(0, 0), (0, 3), (3, 4), (4, 27), (27, 50)] {
        let part = case.change(&mut learner, start..end, true);
        answers.ids.extend(part.ids);
        answers.predictions.extend(part.predictions);
        answers.targets.extend(part.targets);
        answers.leverages.extend(part.leverages);
    }
    assert_eq!((answers, serde_json::to_string(&learner).unwrap()), whole);
}

#[test]
fn bad_input_is_refused() {
    let case = Case::new(450, 10, 6, 2);
    let mut learner = case.learner();
    let (rows, ids) = (case.stream.rows.view().slice(0, 2), &case.stream.ids[..2]);
    let before = serde_json::to_string(&learner).unwrap();
    let refused = learner.insert(rows, ids, &[1.0, 2.0, f64::NAN, 1.0], None);
    assert!(matches!(refused, Err(OnlineError::NotFinite { what: "target", row: 1, column: 0, .. })));
    assert!(matches!(
        learner.insert(rows, ids, &[1.0; 3], None),
        Err(OnlineError::Shape { expected: 4, found: 3, .. })
    ));
    assert!(matches!(
        learner.insert(rows, ids, &[1.0; 4], Some(&[1.0, -2.0])),
        Err(OnlineError::Weight { row: 1, .. })
    ));
    let bad = [f32::NAN; 6];
    assert!(matches!(
        learner.insert(Rows::new(&bad, 3, &[], 0), ids, &[1.0; 4], None),
        Err(OnlineError::NotFinite { .. })
    ));
    assert_eq!(serde_json::to_string(&learner).unwrap(), before);
    let twice = RowBuf::gather(case.atoms.rows.view(), &[0, 1, 0]);
    assert!(matches!(Recursive::new(case.params.clone(), twice.view()), Err(OnlineError::Dense(_))));
    for params in [
        RecursiveParams { alpha: 0.0, ..case.params.clone() },
        RecursiveParams { targets: 0, ..case.params.clone() },
        RecursiveParams { block: 0, ..case.params.clone() },
    ] {
        assert!(Recursive::new(params, case.atoms.rows.view()).is_err());
    }
}

/// Each row's prediction is that of ridge regression on the rows before it, each with what is left of it: within a block of its rows alone, at its end of what alpha I takes too.
#[test]
fn forgetting_is_ridge_regression_on_what_is_left() {
    for (seed, rho) in [(460, 0.99), (461, 0.8)] {
        let mut case = Case::new(seed, 40, 10, 3);
        case.params.forgetting = rho;
        let mut learner = case.learner();
        let answers = case.change(&mut learner, 0..40, true);
        assert_eq!(answers.targets, case.targets);
        for t in 0..40 {
            // At the block's beginning rows weigh rho to the age, and alpha I is whole.
            let begun = t / 8 * 8;
            let counts: Vec<f64> =
                (0..40i32).map(|r| if (r as usize) < t { rho.powi(begun as i32 - 1 - r) } else { 0.0 }).collect();
            let expected = case.ridge(&counts);
            for j in 0..3 {
                assert!((answers.predictions[t * 3 + j] - expected[(t, j)]).abs() < 1e-9, "{rho} {t} {j}");
            }
        }
        let left: Vec<f64> = (0..40).map(|r| rho.powi(39 - r)).collect();
        assert!(distance(&case.predictions(&mut learner), &case.ridge(&left)) < 1e-9);
        let refused = learner.delete(case.stream.rows.view().slice(0, 1), &case.stream.ids[..1], &[0.0; 3], None);
        assert!(matches!(refused, Err(OnlineError::Parameter { name: "forgetting", .. })));
    }
    let mut case = Case::new(462, 4, 4, 1);
    for rho in [0.0, 0.05, 1.1, f64::NAN] {
        case.params.forgetting = rho;
        assert!(Recursive::new(case.params.clone(), case.atoms.rows.view()).is_err(), "{rho}");
    }
}

/// The ridge is on the difference to the function that it began with.
#[test]
fn beginnings_are_where_no_row_leads_away() {
    let case = Case::new(470, 30, 10, 4);
    let kernel = &case.params.entries.kernel;
    let coefficients = normals(471, 10, 4);
    let begun: Vec<f64> = (0..40).map(|at| coefficients[(at / 4, at % 4)]).collect();
    let mut learner = case.learner();
    learner.begin_with(case.atoms.rows.view(), &begun).unwrap();
    let before = kernel_matrix(kernel, case.stream.rows.view(), case.atoms.rows.view()) * &coefficients;
    assert!(distance(&case.predictions(&mut learner), &before) < 1e-9);
    case.change(&mut learner, 0..30, true);
    learner.flush().unwrap();
    // Ridge regression of what is left of the targets.
    let mut left = Case::new(470, 30, 10, 4);
    (0..120).for_each(|at| left.targets[at] -= before[(at / 4, at % 4)]);
    let expected = before + left.ridge(&[1.0; 30]);
    assert!(distance(&case.predictions(&mut learner), &expected) < 1e-8);
    learner.refresh();
    assert!(distance(&case.predictions(&mut learner), &expected) < 1e-8);
    assert!(learner.begin_with(case.atoms.rows.view(), &begun[1..]).is_err());
}

/// Atoms that are there twice, or nearly, are left out; the others are a learner's.
#[test]
fn dependent_atoms_are_found() {
    let case = Case::new(480, 10, 6, 1);
    let atoms = RowBuf::gather(case.atoms.rows.view(), &[0, 1, 0, 2, 3, 1, 4, 5, 5]);
    let found = Recursive::independent(&case.params.entries, atoms.view()).unwrap();
    assert_eq!(found, [0, 1, 3, 4, 6, 7]);
    let single = EntryParams { precision: crate::gram::Precision::Single, ..case.params.entries.clone() };
    let dense = Stream::smooth(481, 300, 1, 0.0);
    let found = Recursive::independent(&single, dense.rows.view()).unwrap();
    assert!(found.len() > 3 && found.len() < 100, "{}", found.len());
    let kept = RowBuf::gather(dense.rows.view(), &found);
    Recursive::new(RecursiveParams { entries: single, ..case.params.clone() }, kept.view()).unwrap();
}

/// `cargo test --release --workspace --lib online::tests::recursive::rows_per_second -- --ignored --nocapture`
#[test]
#[ignore = "a table"]
#[allow(clippy::print_stdout)]
fn rows_per_second() {
    for (m, t) in [(512, 1), (512, 10), (512, 100), (512, 1000)] {
        let (stream, all) = (Stream::smooth(490, 8192, 10, 0.1), Stream::smooth(491, m, 10, 0.0));
        let entries = EntryParams { precision: crate::gram::Precision::Single, ..gaussian(4.0) };
        let kept = Recursive::independent(&entries, all.rows.view()).unwrap();
        let atoms = RowBuf::gather(all.rows.view(), &kept);
        let mut learner = Recursive::new(RecursiveParams::new(entries, 0.1, t), atoms.view()).unwrap();
        let targets: Vec<f64> = (0..8192 * t).map(|i| stream.y[i / t] + (i % t) as f64).collect();
        let begun = speed::processor_time();
        learner.insert(stream.rows.view(), &stream.ids, &targets, None).unwrap();
        let seconds = speed::processor_time() - begun;
        println!("m {} of {m}, t {t}: {:.0} rows a processor second", kept.len(), 8192.0 / seconds);
    }
}
