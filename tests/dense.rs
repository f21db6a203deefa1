//! Centers = data: every solver that can gives dense kernel ridge regression, whose slow form is written out here.
//!
//! Columns hold 1.5 or 0.5 in magnitude (three to five) and come in pairs of opposite sign: mean 0 and deviation 1 exactly, so
//! that encoded features are the values themselves.

mod common;

use common::*;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const ROWS: usize = 256;
const COLUMNS: usize = 9;
const BANDWIDTH: f64 = 2.5;
const RIDGE: f64 = 1e-4;

/// Values of a column: rows i and i + ROWS / 2 are opposite, and of every eight rows (in a shuffled order) three have magnitude 1.5.
fn column(c: usize) -> Vec<f64> {
    let half = ROWS / 2;
    let stream = format!("feature {c}");
    let mut order: Vec<usize> = (0..half).collect();
    order.sort_by(|a, b| uniform(&stream, *a).total_cmp(&uniform(&stream, *b)));
    let mut values = vec![0.0; ROWS];
    for (place, i) in order.into_iter().enumerate() {
        let sign = if uniform(&stream, i + 1000) < 0.5 { 1.0 } else { -1.0 };
        values[i] = sign * if place % 8 < 3 { 1.5 } else { 0.5 };
        values[i + half] = -values[i];
    }
    values
}

fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|i, j| a[*i][k].abs().total_cmp(&a[*j][k].abs())).unwrap();
        a.swap(k, pivot);
        b.swap(k, pivot);
        for i in k + 1..n {
            let factor = a[i][k] / a[k][k];
            let (above, below) = a.split_at_mut(i);
            for (value, pivot) in below[0][k..].iter_mut().zip(&above[k][k..]) {
                *value -= factor * pivot;
            }
            b[i] -= factor * b[k];
        }
    }
    for k in (0..n).rev() {
        b[k] = (b[k] - (k + 1..n).map(|j| a[k][j] * b[j]).sum::<f64>()) / a[k][k];
    }
    b
}

fn predictions(place: &Place, line: &str) -> Vec<f64> {
    place.json(&format!("fit --data d.parquet --target y --out m.nys {line}"));
    place.run("predict --model m.nys --data d.parquet --keep i --out p.parquet");
    let file = std::fs::File::open(place.path("p.parquet")).unwrap();
    let mut out = vec![f64::NAN; ROWS];
    for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
        let batch = batch.unwrap();
        let column = |name: &str| {
            let values = batch.column_by_name(name).unwrap_or_else(|| panic!("{name} in {:?}", batch.schema()));
            arrow_cast_f64(values)
        };
        for (i, value) in column("i").into_iter().zip(column("prediction")) {
            out[i as usize] = value;
        }
    }
    out
}

fn arrow_cast_f64(values: &arrow_array::ArrayRef) -> Vec<f64> {
    use arrow_array::cast::AsArray;
    values.as_primitive::<arrow_array::types::Float64Type>().values().to_vec()
}

#[test]
fn all_rows_as_centers_give_dense_kernel_ridge_regression() {
    let place = Place::new();
    let x: Vec<Vec<f64>> = (0..COLUMNS).map(column).collect();
    let feature = |i: usize, c: usize| x[c][i];
    let y = |i: usize| (feature(i, 0) * feature(i, 1)).sin() + feature(i, 2) + 0.3 * uniform("noise", i);
    // Weights of two kinds; the second fit uses them.
    let weight = |i: usize| if i.is_multiple_of(3) { 2.0 } else { 0.5 };
    let mut columns: Vec<(String, arrow_array::ArrayRef)> =
        (0..COLUMNS).map(|c| (format!("x{c}"), numbers(x[c].iter().copied()))).collect();
    columns.push(("y".into(), numbers((0..ROWS).map(y))));
    columns.push(("i".into(), numbers((0..ROWS).map(|i| i as f64))));
    columns.push(("w".into(), numbers((0..ROWS).map(weight))));
    write(&place.path("d.parquet"), &batch(columns.iter().map(|(n, a)| (n.as_str(), a.clone())).collect()));

    let kernel = |i: usize, j: usize| {
        let squared: f64 = (0..COLUMNS).map(|c| (feature(i, c) - feature(j, c)).powi(2)).sum();
        (-squared / (2.0 * BANDWIDTH * BANDWIDTH)).exp()
    };
    let k: Vec<Vec<f64>> = (0..ROWS).map(|i| (0..ROWS).map(|j| kernel(i, j)).collect()).collect();
    for weighted in [false, true] {
        let w: Vec<f64> = (0..ROWS).map(|i| if weighted { weight(i) } else { 1.0 }).collect();
        let total: f64 = w.iter().sum();
        let mean = (0..ROWS).map(|i| w[i] * y(i)).sum::<f64>() / total;
        // (K + lambda sum w W^-1) alpha = y - mean.
        let mut a = k.clone();
        (0..ROWS).for_each(|i| a[i][i] += RIDGE * total / w[i]);
        let alpha = solve(a, (0..ROWS).map(|i| y(i) - mean).collect());
        let dense: Vec<f64> = (0..ROWS).map(|i| mean + (0..ROWS).map(|j| k[i][j] * alpha[j]).sum::<f64>()).collect();

        let drop = if weighted { "--drop i --weight w" } else { "--drop i --drop w" };
        let common = format!(
            "--kernel gaussian --bandwidth {BANDWIDTH} --ridge {RIDGE} --precision f64 --split none --workers 2 {drop}"
        );
        let centers = format!("--centers {ROWS} --select uniform");
        for solver in [
            format!("--solver gram {centers}"),
            format!("--solver pcg --tolerance 1e-12 {centers}"),
            "--solver blockcd --tolerance 1e-12 --iterations 500".to_owned(),
        ] {
            let found = predictions(&place, &format!("{common} {solver}"));
            let worst = found.iter().zip(&dense).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-8, "{solver}, weighted {weighted}: {worst:.3e}");
        }
    }
}

/// tr W^1/2 K W^1/2 (W^1/2 K W^1/2 + lambda sum w I)^-1, by one solve a row: rows that weigh nothing have no part in the model.
#[test]
fn the_effective_dimension_is_that_of_the_weighted_problem() {
    let place = Place::new();
    let x: Vec<Vec<f64>> = (0..COLUMNS).map(column).collect();
    let weight = |i: usize| match i % 4 {
        0 | 3 => 0.0,
        1 => 2.0,
        _ => 0.25,
    };
    let mut columns: Vec<(String, arrow_array::ArrayRef)> =
        (0..COLUMNS).map(|c| (format!("x{c}"), numbers(x[c].iter().copied()))).collect();
    columns.push(("y".into(), numbers((0..ROWS).map(|i| x[0][i] * x[1][i] + uniform("noise", i)))));
    columns.push(("k".into(), texts((0..ROWS).map(|i| if x[0][i] > 0.0 { "yes".into() } else { "no".into() }))));
    columns.push(("w".into(), numbers((0..ROWS).map(weight))));
    write(&place.path("d.parquet"), &batch(columns.iter().map(|(n, a)| (n.as_str(), a.clone())).collect()));

    let ridge = 1e-3;
    let counted: Vec<usize> = (0..ROWS).filter(|i| weight(*i) > 0.0).collect();
    let total: f64 = (0..ROWS).map(weight).sum();
    let entry = |i: usize, j: usize| {
        let squared: f64 = (0..COLUMNS).map(|c| (x[c][i] - x[c][j]).powi(2)).sum();
        (weight(i) * weight(j)).sqrt() * (-squared / (2.0 * BANDWIDTH * BANDWIDTH)).exp()
    };
    let k: Vec<Vec<f64>> = counted.iter().map(|i| counted.iter().map(|j| entry(*i, *j)).collect()).collect();
    let mut shifted = k.clone();
    (0..counted.len()).for_each(|i| shifted[i][i] += ridge * total);
    let dense: f64 = (0..counted.len()).map(|i| solve(shifted.clone(), k[i].clone())[i]).sum();
    assert!(dense < counted.len() as f64, "{dense}");

    let common = format!(
        "fit --data d.parquet --out m.nys --kernel gaussian --bandwidth {BANDWIDTH} --ridge {ridge} --precision f64 --split none --workers 2 \
         --weight w"
    );
    let centers = format!("--centers {ROWS} --select uniform");
    let numbers = "--target y --drop k";
    for solver in [
        format!("{numbers} --solver gram {centers}"),
        format!("{numbers} --solver pcg {centers}"),
        format!("{numbers} --solver eigenpro --iterations 4 {centers}"),
        format!("{numbers} --solver blockcd"),
    ] {
        let found = number(&place.solved(&format!("{common} {solver}")), "/effective_dimension");
        assert!((found / dense - 1.0).abs() < 1e-6, "{solver}: {found} {dense}");
    }
    // Of logistic loss a quarter of the curvature, at most: fewer than the rows that count, which it would pass if the others counted.
    let line = format!("{common} --target k --drop y --loss logistic {centers}");
    let (logistic, rows) = (number(&place.solved(&line), "/effective_dimension"), counted.len() as f64);
    assert!(logistic > 1.0 && logistic < dense, "{logistic} {dense} {rows}");
}

/// Wendland's C4 function in nine dimensions: l = 4 + 3.
#[test]
fn a_kernel_of_compact_support_fits_up_to_its_dimension() {
    let place = Place::new();
    let x: Vec<Vec<f64>> = (0..COLUMNS).map(column).collect();
    let y = |i: usize| (x[0][i] * x[1][i]).sin() + x[2][i] + 0.3 * uniform("noise", i);
    let mut columns: Vec<(String, arrow_array::ArrayRef)> =
        (0..COLUMNS).map(|c| (format!("x{c}"), numbers(x[c].iter().copied()))).collect();
    columns.push(("y".into(), numbers((0..ROWS).map(y))));
    columns.push(("i".into(), numbers((0..ROWS).map(|i| i as f64))));
    columns.push(("k".into(), texts((0..ROWS).map(|i| ["red", "green", "blue"][i % 3].into()))));
    write(&place.path("d.parquet"), &batch(columns.iter().map(|(n, a)| (n.as_str(), a.clone())).collect()));

    let radius = 5.0;
    let kernel = |i: usize, j: usize| {
        let s = (0..COLUMNS).map(|c| (x[c][i] - x[c][j]).powi(2)).sum::<f64>().sqrt() / radius;
        if s < 1.0 { (1.0 - s).powi(9) * (1.0 + 9.0 * s + 80.0 / 3.0 * s * s) } else { 0.0 }
    };
    let k: Vec<Vec<f64>> = (0..ROWS).map(|i| (0..ROWS).map(|j| kernel(i, j)).collect()).collect();
    assert!(k.iter().flatten().any(|k| *k == 0.0));
    let mean = (0..ROWS).map(y).sum::<f64>() / ROWS as f64;
    let mut a = k.clone();
    (0..ROWS).for_each(|i| a[i][i] += RIDGE * ROWS as f64);
    let alpha = solve(a, (0..ROWS).map(|i| y(i) - mean).collect());
    let dense: Vec<f64> = (0..ROWS).map(|i| mean + (0..ROWS).map(|j| k[i][j] * alpha[j]).sum::<f64>()).collect();
    let line = format!("--bandwidth {radius} --ridge {RIDGE} --split none --centers {ROWS} --select uniform");
    let fit = format!("--kernel wendland4:9 --precision f64 --solver gram --drop i --drop k {line}");
    let found = predictions(&place, &fit);
    let worst = found.iter().zip(&dense).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-8, "{worst:.3e}");

    let refused = |drop: &str, needed: &str| {
        let line = format!("fit --data d.parquet --target y --out n.nys --kernel wendland2 --drop i {drop} {line}");
        place.fails(&line, 2, &["wendland2:3", needed]);
    };
    refused("--drop k", "wendland2:9");
    // Three levels and the pooled one are four corners of a simplex.
    refused("", "wendland2:12");
}
