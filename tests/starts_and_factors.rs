//! What a fit may start from (`--from`) and what it may leave behind (`--variance`), through the built binary.

mod common;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use common::*;
use nystream::model::Model;
use nystream_datasets::{BlockReader, Catalog, Chunk, Encoder, ReadOptions, Role, Sources};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use std::path::Path;

/// A column of numbers of a small Parquet file.
fn column(path: &Path, name: &str) -> Vec<f64> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
    let batches = reader.with_batch_size(1 << 20).build().unwrap();
    let mut values = Vec::new();
    for batch in batches {
        let batch = batch.unwrap();
        let column = batch.column_by_name(name).unwrap_or_else(|| panic!("no {name}")).as_primitive::<Float64Type>();
        assert_eq!(column.null_count(), 0);
        values.extend_from_slice(column.values());
    }
    values
}

/// The rows of `path` that `role` selects, encoded by `model`.
fn encoded(model: &Model, path: &Path, role: Role) -> Chunk {
    let encoder: Encoder = serde_json::from_value(model.config.encoder.clone()).unwrap();
    let catalog = Catalog::open(&Sources::parse(&[path.to_str().unwrap()]).unwrap()).unwrap();
    let projection = encoder.projection(&catalog, role).unwrap();
    let options = ReadOptions { blocks_per_batch: 64, ..ReadOptions::default() };
    let mut reader = BlockReader::new(&catalog, catalog.partition(1, 0), &projection, options);
    let mut chunk = Chunk::new();
    encoder.encode(&reader.next().unwrap().unwrap(), role, &mut chunk).unwrap();
    assert!(reader.next().is_none(), "the file has more rows than one batch");
    chunk
}

type Matrix = Vec<Vec<f64>>;

/// a^-1 b by elimination with partial pivots.
fn solve(mut a: Matrix, mut b: Matrix) -> Matrix {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|i, j| a[*i][k].abs().total_cmp(&a[*j][k].abs())).unwrap();
        a.swap(k, pivot);
        b.swap(k, pivot);
        let (row, image) = (a[k].clone(), b[k].clone());
        for i in (0..n).filter(|i| *i != k) {
            let factor = a[i][k] / row[k];
            a[i].iter_mut().zip(&row).for_each(|(x, y)| *x -= factor * y);
            b[i].iter_mut().zip(&image).for_each(|(x, y)| *x -= factor * y);
        }
    }
    (0..n).for_each(|k| b[k].iter_mut().for_each(|x| *x /= a[k][k]));
    b
}

fn dot(a: &[f64], b: impl Iterator<Item = f64>) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Gaussian entries of encoded rows with the centers, from the definition.
fn gaussian(model: &Model, numeric: &[f32], codes: &[u16]) -> Matrix {
    let (d, c) = (model.config.numeric_width, model.config.code_width);
    let centers = &model.centers;
    let sigma = model.config.kernel.bandwidth;
    let entry = |i: usize, j: usize| {
        let square = |k: usize| (f64::from(numeric[i * d + k]) - f64::from(centers.numeric[j * d + k])).powi(2);
        let differ = (0..c).filter(|k| codes[i * c + k] != centers.codes[j * c + k]).count();
        (-((0..d).map(square).sum::<f64>() + differ as f64) / (2.0 * sigma * sigma)).exp()
    };
    (0..numeric.len() / d).map(|i| (0..centers.len()).map(|j| entry(i, j)).collect()).collect()
}

/// y as in [`table`] and a second, noisy target z.
fn two_targets(place: &Place, rows: usize) {
    let mut columns = table(0, rows);
    let z = |i: usize| 30.0 * uniform("b", i).powi(2) + 15.0 * uniform("noise", i);
    columns.push(("z", numbers((0..rows).map(z))));
    write(&place.path("d.parquet"), &batch(columns));
}

/// noise_k + signal_k (1 - k' K_mm^-1 k + L_k k' (G + L_k K_mm)^-1 k), with noise_k = RSS_k / (n - df_k) and signal_k = noise_k / L_k, densely.
#[test]
fn variances_of_two_targets_are_the_dense_formula() {
    let place = Place::new();
    two_targets(&place, 600);
    let line = "fit --data d.parquet --out m.nys --target y --target z --split none --kernel gaussian --bandwidth 0.8x --select uniform";
    let report = place.json(&format!("{line} --centers 25 --precision f64 --solver auto --variance"));
    assert_eq!(report["solver"], "gram");
    let ridges: Vec<f64> = report["ridge"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_ne!(ridges[0], ridges[1], "one factor would serve both: the test tests nothing");
    place.json("predict --model m.nys --data d.parquet --out p.parquet --variance");

    let model = Model::load(&place.path("m.nys")).unwrap();
    let chunk = encoded(&model, &place.path("d.parquet"), Role::Training);
    let k = gaussian(&model, &chunk.numeric, &chunk.codes);
    let kmm = gaussian(&model, &model.centers.numeric, &model.centers.codes);
    let (n, m) = (k.len(), kmm.len());
    let transposed: Matrix = (0..m).map(|j| k.iter().map(|row| row[j]).collect()).collect();
    let gram: Matrix =
        transposed.iter().map(|a| transposed.iter().map(|b| dot(a, b.iter().copied())).collect()).collect();
    let prior = solve(kmm.clone(), transposed.clone());
    let image = |a: &Matrix, i: usize| dot(&k[i], a.iter().map(|row| row[i]));
    for (t, target) in ["y", "z"].iter().enumerate() {
        let ridge = ridges[t] * n as f64;
        let system: Matrix = (0..m).map(|i| (0..m).map(|j| gram[i][j] + ridge * kmm[i][j]).collect()).collect();
        let posterior = solve(system.clone(), transposed.clone());
        let centred: Vec<f64> = (0..n).map(|i| chunk.targets[2 * i + t] - model.intercepts[t]).collect();
        let cross = transposed.iter().map(|row| vec![dot(row, centred.iter().copied())]).collect();
        let alpha: Vec<f64> = solve(system, cross).into_iter().flatten().collect();
        let squares: f64 = (0..n).map(|i| (centred[i] - dot(&k[i], alpha.iter().copied())).powi(2)).sum();
        let freedom: f64 = (0..n).map(|i| image(&posterior, i)).sum();
        let noise = squares / (n as f64 - freedom);
        let signal = noise / ridge;
        let found = column(&place.path("p.parquet"), &format!("variance_{target}"));
        for (i, found) in found.iter().enumerate() {
            let expected = noise + signal * (1.0 - image(&prior, i) + ridge * image(&posterior, i));
            assert!((found - expected).abs() < 1e-5 * expected, "{target}, row {i}: {found} {expected}");
        }
    }
    // Read back and written again it is the same file, and it predicts the same bits.
    let bytes = std::fs::read(place.path("m.nys")).unwrap();
    assert_eq!(model.to_bytes().unwrap(), bytes);
    model.save(&place.path("again.nys")).unwrap();
    place.json("predict --model again.nys --data d.parquet --out q.parquet --variance --workers 2");
    assert!(std::fs::read(place.path("q.parquet")).unwrap() == std::fs::read(place.path("p.parquet")).unwrap());
}

#[test]
fn variances_that_cannot_be_had_are_refused() {
    let place = Place::new();
    two_targets(&place, 1500);
    let line = "fit --data d.parquet --out m.nys --drop z --target y --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 30 --variance";
    for solver in ["pcg", "eigenpro", "blockcd"] {
        place.fails(&line.replace(" --centers 30", &format!(" --solver {solver}")), 2, &["--variance", solver]);
    }
    place.fails(&format!("{line} --task classification"), 2, &["--variance", "classes"]);
    place.fails(&line.replace("--target y", "--drop y --target c"), 2, &["--variance", "'c'", "classes"]);
    // A Gram that does not fit is refused, not replaced by a solver without variances.
    place.fails(&line.replace("--centers 30", "--centers 1300 --memory 100MiB"), 4, &["predictive variances"]);
}

const FIXED: &str = "--kernel gaussian --bandwidth 1.2x --ridge 1e-6 --centers 90";

#[test]
fn a_solve_from_its_own_model_is_over_at_once() {
    let place = Place::new();
    two_targets(&place, 8000);
    let line = format!("fit --data d.parquet --target y --drop z {FIXED} --solver pcg --tolerance 1e-6");
    let cold = place.solved(&format!("{line} --out m.nys"));
    let warm = place.solved(&format!("{line} --out warm.nys --from m.nys"));
    assert!(number(&warm, "/iterations") <= 3.0 && number(&cold, "/iterations") > 6.0, "{cold}\n{warm}");
    let (a, b) = (number(&cold, "/validation/rmse"), number(&warm, "/validation/rmse"));
    assert!((a - b).abs() < 1e-5 * a, "{a} {b}");
    assert!(notes(&warm).contains("90 of 90 centers"), "{warm}");

    // The same rows with a target of another scale and range: the coefficients follow its exponent.
    let mut columns = table(0, 8000);
    let scaled =
        |i: usize| 1000.0 * ((6.0 * uniform("a", i)).sin() + uniform("b", i) + (uniform("c", i) * 5.0).floor() / 5.0);
    columns[3] = ("y", numbers((0..8000).map(scaled)));
    write(&place.path("e.parquet"), &batch(columns));
    // That the old model knows y in other units is all that differs.
    let mut model = Model::load(&place.path("m.nys")).unwrap();
    model.coefficients.iter_mut().for_each(|c| *c *= 1000.0);
    model.intercepts.iter_mut().for_each(|c| *c *= 1000.0);
    model.save(&place.path("scaled.nys")).unwrap();
    let line = line.replace("d.parquet", "e.parquet").replace(" --drop z", "");
    let warm = place.solved(&format!("{line} --out warm.nys --from scaled.nys"));
    assert!(number(&warm, "/iterations") <= 3.0, "{warm}");

    // Other iterative solvers take it too.
    let line = format!("fit --data d.parquet --out e.nys --target y --drop z {FIXED} --solver eigenpro --iterations 1");
    let (cold, warm) = (place.solved(&line), place.solved(&format!("{line} --from m.nys")));
    assert!(number(&warm, "/validation/rmse") <= number(&cold, "/validation/rmse"), "{cold}\n{warm}");
    let line = "fit --data d.parquet --target c --drop z --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 40 --loss logistic";
    let cold = place.solved(&format!("{line} --out l.nys"));
    let warm = place.solved(&format!("{line} --out warm.nys --from l.nys"));
    assert!(number(&warm, "/iterations") <= 1.0 && number(&cold, "/iterations") > 2.0, "{cold}\n{warm}");
}

fn notes(report: &Value) -> String {
    report["notes"].to_string()
}

#[test]
fn a_start_that_does_not_fit_is_left_out_with_a_note() {
    let place = Place::new();
    two_targets(&place, 3000);
    let line = format!("fit --data d.parquet --out n.nys --target y --drop z {FIXED}");
    let cold = digest(&place.solved(&format!("{line} --solver pcg").replace("n.nys", "m.nys")));
    let exact = digest(&place.solved(&format!("{line} --solver gram")));
    let from = |line: String, part: &str| {
        let report = place.solved(&format!("{line} --from m.nys"));
        assert!(notes(&report).contains("--from is not used") && notes(&report).contains(part), "{report}");
        digest(&report)
    };
    assert_eq!(from(format!("{line} --solver gram"), "needs no start"), exact);
    let pcg = format!("{line} --solver pcg");
    from(pcg.replace("1.2x", "1.3x"), "bandwidth");
    from(pcg.replace("--drop z", "--target z"), "targets");
    from(format!("{pcg} --scale robust"), "encoder");
    // As if it had not been given.
    let other = digest(&place.solved(&pcg.replace("1.2x", "1.3x")));
    assert_eq!(from(pcg.replace("1.2x", "1.3x"), "kernel"), other);
    assert_ne!(other, cold);
}

/// Classes are one target, whatever the solver makes of them.
#[test]
fn classes_have_scalar_reports() {
    let place = Place::new();
    two_targets(&place, 4000);
    for options in
        ["--solver gram", "--solver gram --ridge 1e-5", "--solver pcg --ridge 1e-5", "--loss logistic --ridge 1e-4"]
    {
        let line = "fit --data d.parquet --out m.nys --target c --drop z --kernel gaussian --bandwidth 1x --centers 40";
        let report = place.solved(&format!("{line} {options}"));
        for pointer in ["/ridge", "/ridge_matrix", "/certificate/residual"] {
            assert!(number(&report, pointer) >= 0.0, "{pointer}: {report}");
        }
        assert!(report.get("effective_dimension").is_none_or(Value::is_number), "{report}");
        let model = Model::load(&place.path("m.nys")).unwrap();
        assert_eq!((model.outputs(), model.config.ridge.len()), (5, 1), "one ridge serves the five classes");
        assert_eq!(place.json("inspect m.nys")["ridge"], report["ridge"]);
    }
}
