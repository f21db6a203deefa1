//! Against ridge regression on the centers; cuts, snapshots and classes.

use super::*;
use nystream_datasets::Chunk;
use nystream_hashing::StreamKey;
use nystream_kernels::gram::Precision;
use nystream_kernels::kernel::{Family, Kernel};
use nystream_kernels::tile::SimdPath;

fn uniform(name: &str, i: usize) -> f64 {
    StreamKey::new(7, name, 0).uniform(RowId(i as u128))
}

pub(in crate::online) fn settings(alpha: f64, block: usize) -> Settings {
    Settings { alpha, block, window: 100, ..Settings::bare(Mode::Recursive, 0) }
}

/// A function of `t` targets, or of these classes, on 12 centers in the plane.
pub(in crate::online) fn function(t: usize, classes: &[&str]) -> crate::predict::Function {
    use crate::targets::TargetCode;
    let mut centers = RowBuf::new(2, 0);
    let at: Vec<f32> = (0..24).map(|i| uniform("center", i) as f32 * 4.0).collect();
    (0..12).for_each(|i| centers.push(Rows::new(&at, 2, &[], 0), i));
    let classes: Vec<String> = classes.iter().map(ToString::to_string).collect();
    let (centres, exponents) = match classes.len() {
        0 => ((0..t).map(|k| k as f64).collect(), (0..t).map(|k| 1 + k as i32 % 3).collect()),
        2 => (vec![0.4], vec![0]),
        k => (vec![1.0 / k as f64; k], vec![0; k]),
    };
    crate::predict::Function {
        kernel: Kernel::new(Family::Gaussian, 0.8),
        centers,
        coefficients: (0..12 * t).map(|i| uniform("coefficient", i) - 0.5).collect(),
        code: TargetCode { names: (0..t).map(|k| format!("y{k}")).collect(), classes, centres, exponents },
        loss: FitLoss::Squared,
        precision: Precision::Double,
        simd: SimdPath::detect(),
        variance: None,
    }
}

/// Rows of the stream, with targets of `width` columns.
pub(in crate::online) fn chunk(
    rows: std::ops::Range<usize>,
    width: usize,
    target: impl Fn(usize, usize) -> f64,
) -> Chunk {
    let mut chunk = Chunk::new();
    (chunk.numeric_width, chunk.target_width) = (2, width);
    for i in rows {
        chunk.ids.push(RowId(i as u128));
        chunk.ordinals.push(i as u64);
        chunk.numeric.extend([uniform("a", i) as f32 * 4.0, uniform("b", i) as f32 * 4.0]);
        chunk.targets.extend((0..width).map(|k| target(i, k)));
        chunk.weights.push(if i % 4 == 0 { 2.5 } else { 1.0 });
        chunk.held_out.push(false);
    }
    chunk
}

pub(in crate::online) fn smooth(i: usize, k: usize) -> f64 {
    k as f64 + (uniform("a", i) * (3.0 + k as f64)).sin() + uniform("b", i) + 0.1 * uniform("noise", i * 1000 + k)
}

fn learn(learner: &mut Recursive, chunk: &Chunk) -> Vec<Answer> {
    let none = super::super::encoding::empty_like(chunk);
    learner.learn(&Batch { changes: &[], removed: &none, added: chunk }).unwrap()
}

/// Solves a symmetric system by elimination with pivots.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for i in 0..n {
        let pivot = (i..n).max_by(|x, y| a[*x][i].abs().total_cmp(&a[*y][i].abs())).unwrap();
        a.swap(i, pivot);
        b.swap(i, pivot);
        let row = a[i].clone();
        for r in i + 1..n {
            let by = a[r][i] / a[i][i];
            a[r].iter_mut().zip(&row).skip(i).for_each(|(x, own)| *x -= by * own);
            b[r] -= by * b[i];
        }
    }
    for i in (0..n).rev() {
        b[i] = (b[i] - (i + 1..n).map(|c| a[i][c] * b[c]).sum::<f64>()) / a[i][i];
    }
    b
}

/// Coefficients of ridge regression of column `k` on the rows of `chunk`: (K^T C K + ridge K_ZZ) c = K^T C y, by the definition.
fn ridge(function: &crate::predict::Function, chunk: &Chunk, y: &[f64], ridge: f64) -> Vec<f64> {
    let (rows, z) = (super::super::encoding::rows_of(chunk), function.centers.view());
    let m = z.len();
    let k: Vec<Vec<f64>> =
        (0..rows.len()).map(|i| (0..m).map(|j| function.kernel.evaluate(rows, i, z, j)).collect()).collect();
    let weighted = |f: &dyn Fn(usize) -> f64| (0..k.len()).map(|i| chunk.weights[i] * f(i)).sum::<f64>();
    let a = (0..m).map(|p| {
        (0..m).map(|q| weighted(&|i| k[i][p] * k[i][q]) + ridge * function.kernel.evaluate(z, p, z, q)).collect()
    });
    let b = (0..m).map(|p| weighted(&|i| k[i][p] * y[i])).collect();
    solve(a.collect(), b)
}

fn values(function: &crate::predict::Function, chunk: &Chunk, coefficients: &[f64]) -> Vec<f64> {
    let (rows, z) = (super::super::encoding::rows_of(chunk), function.centers.view());
    (0..rows.len())
        .map(|i| (0..z.len()).map(|j| coefficients[j] * function.kernel.evaluate(rows, i, z, j)).sum())
        .collect()
}

/// What is published after the stream is ridge regression on the centers, to rounding, for one target and for many, from nothing and from a function.
#[test]
fn models_are_ridge_regression() {
    for (t, whole) in [(1, false), (1, true), (40, false), (40, true)] {
        let function = function(t, &[]);
        let mut learner = Recursive::new(&settings(0.02, 16), &function, vec![], whole).unwrap();
        assert_eq!(learner.publish().is_err(), !whole, "a model of no rows");
        let all = chunk(0..150, t, smooth);
        learn(&mut learner, &all);
        learner.flush().unwrap();
        let published = learner.publish().unwrap();
        assert_eq!((published.rows, published.function.coefficients.len()), (150, 12 * t));
        assert!((published.sum_weights - all.weights.iter().sum::<f64>()).abs() < 1e-12);
        for k in [0, t / 2, t - 1] {
            let column =
                |f: &crate::predict::Function| -> Vec<f64> { (0..12).map(|j| f.coefficients[j * t + k]).collect() };
            let before = if whole { values(&function, &all, &column(&function)) } else { vec![0.0; 150] };
            let scale = function.code.scale(k);
            let left: Vec<f64> =
                (0..150).map(|i| (all.targets[i * t + k] - function.code.centres[k]) / scale - before[i]).collect();
            let found = values(&function, &all, &column(&published.function));
            let expected = values(&function, &all, &ridge(&function, &all, &left, 0.01));
            for i in 0..150 {
                let expected = before[i] + expected[i];
                assert!((found[i] - expected).abs() < 1e-8, "t {t}, target {k}, row {i}: {} {expected}", found[i]);
            }
        }
        // A row without a target is answered by the same function.
        let predicted = learner.predict(super::super::encoding::rows_of(&all)).unwrap();
        let sums =
            values(&function, &all, &(0..12).map(|j| published.function.coefficients[j * t]).collect::<Vec<_>>());
        for (found, sum) in predicted.iter().zip(sums) {
            assert!((found.values[0] - function.code.decode(0, sum)).abs() < 1e-8 && found.values.len() == t);
        }
    }
}

/// Answers, losses and snapshots do not depend on cuts; what is restored goes on to the same bits.
#[test]
fn cuts_and_restarts_leave_no_trace() {
    let function = function(3, &[]);
    let begin = || Recursive::new(&settings(0.02, 16), &function, vec![0.5, 0.7, 0.9], false).unwrap();
    let mut whole = begin();
    let mut expected = learn(&mut whole, &chunk(0..150, 3, smooth));
    assert_eq!((expected.len(), whole.info().waiting, whole.info().rows), (144, 6, 144));
    expected.extend(whole.flush().unwrap());
    let (mut learner, mut answers) = (begin(), Vec::new());
    for (from, to) in [(0, 1), (1, 30), (30, 31), (31, 100), (100, 150)] {
        answers.extend(learn(&mut learner, &chunk(from..to, 3, smooth)));
        let bytes = learner.snapshot().unwrap();
        learner = begin();
        learner.restore(&bytes).unwrap();
        assert_eq!(learner.snapshot().unwrap(), bytes);
        learner.predict(super::super::encoding::rows_of(&chunk(0..3, 3, smooth))).unwrap();
    }
    answers.extend(learner.flush().unwrap());
    assert_eq!(answers, expected);
    assert_eq!(learner.snapshot().unwrap(), whole.snapshot().unwrap());
    // Losses are of standardised targets, a mean over them.
    let mean = expected.iter().enumerate().map(|(i, answer)| {
        let error = |k: usize| ((answer.prediction.values[k] - smooth(i, k)) / [0.5, 0.7, 0.9][k]).powi(2);
        (error(0) + error(1) + error(2)) / 3.0
    });
    let mean = mean.sum::<f64>() / 150.0;
    assert!((learner.info().mean_loss.unwrap() / mean - 1.0).abs() < 1e-9);
    let mut other = Recursive::new(&settings(0.03, 16), &function, vec![], false).unwrap();
    assert!(other.restore(&learner.snapshot().unwrap()).is_err(), "another ridge");
    assert!(begin().restore(b"nothing").is_err());
}

/// Errors are as large as their variances say, for each target in its own units; far from all rows a variance is that of the function besides; classes have none, nor has anything before 16 rows.
#[test]
fn variances_are_those_of_the_errors() {
    let function = function(3, &[]);
    let mut learner = Recursive::new(&settings(0.02, 16), &function, vec![], false).unwrap();
    let mut answers = learn(&mut learner, &chunk(0..960, 3, smooth));
    assert!(answers[..16].iter().all(|answer| answer.prediction.variances.is_none()));
    let late = answers.split_off(480);
    for k in 0..3 {
        let share = |(i, answer): (usize, &Answer)| {
            let variance = answer.prediction.variances.as_ref().unwrap()[k];
            (answer.prediction.values[k] - smooth(480 + i, k)).powi(2) / variance
        };
        let mean = late.iter().enumerate().map(share).sum::<f64>() / 480.0;
        assert!((0.7..1.4).contains(&mean), "target {k}: {mean}");
    }
    let at = [1.0, 2.0, 60.0, 60.0];
    let predicted = learner.predict(Rows::new(&at, 2, &[], 0)).unwrap();
    let [near, far] = [0, 1].map(|i: usize| predicted[i].variances.as_ref().unwrap()[0]);
    assert!(far > 5.0 * near && near > 0.0, "{near} {far}");
    let (of_classes, share) = (self::function(1, &["no", "yes"]), |i: usize, _| (i % 2) as f64);
    let mut learner = Recursive::new(&settings(0.02, 16), &of_classes, vec![], false).unwrap();
    assert!(learn(&mut learner, &chunk(0..64, 1, share)).iter().all(|answer| answer.prediction.variances.is_none()));
}

/// Classes are learned as their shares, and told apart.
#[test]
fn classes_are_learned() {
    for classes in [&["no", "yes"][..], &["low", "middle", "high"]] {
        let k = classes.len();
        let own = |i: usize| ((uniform("a", i) * k as f64) as usize).min(k - 1);
        let function = function(1, classes);
        let mut learner = Recursive::new(&settings(0.02, 16), &function, vec![], false).unwrap();
        let answers = learn(&mut learner, &chunk(0..640, 1, |i, _| own(i) as f64));
        let right = answers[320..].iter().enumerate().filter(|(i, answer)| {
            let values = &answer.prediction.values;
            let best = (0..k).reduce(|a, b| if values[b] > values[a] { b } else { a }).unwrap();
            best == own(320 + i)
        });
        let right = right.count();
        assert!(right > 270, "{k} classes: {right} of 320");
        let loss = learner.info().window_loss.unwrap();
        assert!(loss > 0.0 && loss < 0.4, "{loss}");
    }
    let logistic = crate::predict::Function { loss: FitLoss::Logistic, ..function(1, &["no", "yes"]) };
    assert!(matches!(Recursive::new(&settings(0.02, 16), &logistic, vec![], false), Err(StageError::Usage(_))));
    let none = crate::predict::Function { centers: RowBuf::new(2, 0), coefficients: vec![], ..function(1, &[]) };
    assert!(matches!(Recursive::new(&settings(0.02, 16), &none, vec![], false), Err(StageError::Usage(_))));
}
