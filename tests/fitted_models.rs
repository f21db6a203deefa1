//! Fitted models through the built binary: what a fit may start from (`--from`), what it leaves behind (`--variance`), and that the
//! file predicts for programs that know nothing of nystream.

mod common;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use common::*;
use nystream::model::Model;
use nystream_datasets::{BlockReader, Catalog, Chunk, Encoder, ReadOptions, Role, Sources};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write as _;
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

/// noise_k + signal_k (1 - k' K_mm^-1 k + L_k k' (G + L_k K_mm)^-1 k), densely; and no other noise and signal, of those that far from all rows give
/// the target its spread, explain better what refits without each row (and without the center it is) say of it.
#[test]
fn variances_of_two_targets_are_the_dense_formula_and_calibrated() {
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
    let scales = model.variance.as_ref().unwrap();
    let image = |a: &Matrix, i: usize| dot(&k[i], a.iter().map(|row| row[i]));
    for (t, target) in ["y", "z"].iter().enumerate() {
        let ridge = ridges[t] * n as f64;
        let system: Matrix = (0..m).map(|i| (0..m).map(|j| gram[i][j] + ridge * kmm[i][j]).collect()).collect();
        let posterior = solve(system.clone(), transposed.clone());
        let (noise, signal) = (scales.noise[t], scales.signal[t]);
        let found = column(&place.path("p.parquet"), &format!("variance_{target}"));
        for (i, found) in found.iter().enumerate() {
            let expected = noise + signal * (1.0 - image(&prior, i) + ridge * image(&posterior, i));
            assert!((found - expected).abs() < 1e-5 * expected, "{target}, row {i}: {found} {expected}");
        }

        let centred: Vec<f64> = (0..n).map(|i| chunk.targets[2 * i + t] - model.intercepts[t]).collect();
        let left_out: Vec<(f64, f64)> = (0..n)
            .map(|i| {
                let kept: Vec<usize> = (0..m).filter(|&c| (0..m).any(|j| (k[i][j] - kmm[c][j]).abs() > 1e-9)).collect();
                let entries: Vec<f64> = kept.iter().map(|&c| k[i][c]).collect();
                let of_centers: Matrix = kept.iter().map(|&a| kept.iter().map(|&b| kmm[a][b]).collect()).collect();
                let without = |a: usize, b: usize| gram[a][b] - k[i][a] * k[i][b] + ridge * kmm[a][b];
                let system: Matrix = kept.iter().map(|&a| kept.iter().map(|&b| without(a, b)).collect()).collect();
                let cross = |c: usize| dot(&transposed[c], centred.iter().copied()) - k[i][c] * centred[i];
                let vector = |v: &[f64]| v.iter().map(|x| vec![*x]).collect::<Matrix>();
                let flat = |a: Matrix| a.into_iter().flatten().collect::<Vec<f64>>();
                let alpha = flat(solve(system.clone(), kept.iter().map(|&c| vec![cross(c)]).collect()));
                let prior = flat(solve(of_centers, vector(&entries)));
                let posterior = flat(solve(system, vector(&entries)));
                let image = |v: Vec<f64>| dot(&entries, v.into_iter());
                (centred[i] - image(alpha), 1.0 - image(prior) + ridge * image(posterior))
            })
            .collect();
        let loss = |noise: f64, signal: f64| -> f64 {
            let variances = left_out.iter().map(|(e, q)| (e, noise + signal * q));
            variances.map(|(e, v)| v.ln() + e * e / v).sum::<f64>() / n as f64
        };
        let spread = dot(&centred, centred.iter().copied()) / n as f64;
        assert!(noise + signal > (1.0 - 1e-6) * spread, "{target}: {noise} {signal} {spread}");
        let least = loss(noise, signal);
        for (a, b) in [(0.9, 1.0), (1.1, 1.0), (1.0, 0.9), (1.0, 1.1), (0.95, 1.05), (1.05, 0.95)] {
            let (noise, signal) = (a * noise, b * signal);
            let allowed = noise + signal >= spread;
            assert!(!allowed || loss(noise, signal) > least - 1e-7, "{target}: {noise} {signal}");
        }
        let note = format!("variance of {target}: noise");
        assert!(report["notes"].as_array().unwrap().iter().any(|n| n.as_str().unwrap().starts_with(&note)), "{report}");
    }
    // Read back and written again it is the same file, and it predicts the same bits.
    let bytes = std::fs::read(place.path("m.nys")).unwrap();
    assert_eq!(model.to_bytes().unwrap(), bytes);
    model.save(&place.path("again.nys")).unwrap();
    place.json("predict --model again.nys --data d.parquet --out q.parquet --variance --workers 2");
    assert!(std::fs::read(place.path("q.parquet")).unwrap() == std::fs::read(place.path("p.parquet")).unwrap());
}

/// Far fewer centers than the function needs, so that the ridge is much smaller than noise over signal: intervals cover what they say nevertheless.
#[test]
fn intervals_cover_rows_not_seen_though_centers_are_few() {
    let place = Place::new();
    let friedman = |first: usize, rows: usize| {
        let x = move |k: usize, i: usize| uniform(&format!("x{k}"), i);
        let noise = |i: usize| (0..12).map(|k| uniform(&format!("noise{k}"), i)).sum::<f64>() - 6.0;
        let y = move |i: usize| {
            let waves = 10.0 * (std::f64::consts::PI * x(0, i) * x(1, i)).sin() + 20.0 * (x(2, i) - 0.5).powi(2);
            waves + 10.0 * x(3, i) + 5.0 * x(4, i) + noise(i)
        };
        let all = move || first..first + rows;
        let mut columns: Vec<_> = ["a", "b", "c", "d", "e"]
            .iter()
            .enumerate()
            .map(|(k, name)| (*name, numbers(all().map(|i| x(k, i)))))
            .collect();
        columns.push(("y", numbers(all().map(y))));
        batch(columns)
    };
    write(&place.path("train.parquet"), &friedman(0, 6000));
    write(&place.path("test.parquet"), &friedman(6000, 4000));
    for kernel in ["gaussian", "matern32", "laplace"] {
        let fit = "fit --data train.parquet --target y --out m.nys --split none --centers 150 --variance";
        place.json(&format!("{fit} --kernel {kernel}"));
        place.json("predict --model m.nys --data test.parquet --keep y --out p.parquet --variance");
        let read = |name: &str| column(&place.path("p.parquet"), name);
        let (y, f, v) = (read("y"), read("prediction"), read("variance"));
        let ratio = |i: usize| (y[i] - f[i]).powi(2) / v[i];
        let within = (0..y.len()).filter(|&i| ratio(i) < 1.96 * 1.96).count() as f64 / y.len() as f64;
        let mean = (0..y.len()).map(ratio).sum::<f64>() / y.len() as f64;
        assert!((0.93..0.97).contains(&within) && (0.85..1.15).contains(&mean), "{kernel}: {within} {mean}");
    }
}

/// The scale of the weights changes no variance: the noise is that of a row of mean weight.
#[test]
fn variances_do_not_depend_on_the_scale_of_weights() {
    let place = Place::new();
    let rows = 400;
    let weight = |i: usize| 1.0 + (i % 3) as f64;
    let columns = vec![
        ("x", numbers((0..rows).map(|i| uniform("x", i)))),
        ("y", numbers((0..rows).map(|i| (6.0 * uniform("x", i)).sin() + uniform("noise", i)))),
        ("w", numbers((0..rows).map(weight))),
        ("v", numbers((0..rows).map(|i| 1024.0 * weight(i)))),
        ("one", numbers((0..rows).map(|_| 1.0))),
    ];
    write(&place.path("d.parquet"), &batch(columns));
    let variances = |more: &str| {
        let line = "fit --data d.parquet --out m.nys --target y --drop one --split none --kernel gaussian --bandwidth 0.3 --ridge 1e-4";
        let line = if more.contains("one") { line.replace("--drop one", "--drop w --drop v") } else { line.to_owned() };
        let other = if more == "--weight w" {
            "--drop v"
        } else if more == "--weight v" {
            "--drop w"
        } else {
            ""
        };
        place.json(&format!(
            "{line} {other} {more} --centers 30 --precision f64 --select uniform --solver gram --variance"
        ));
        place.json("predict --model m.nys --data d.parquet --out p.parquet --variance");
        column(&place.path("p.parquet"), "variance")
    };
    let (small, large, one) = (variances("--weight w"), variances("--weight v"), variances("--weight one"));
    for (a, b) in small.iter().zip(&large) {
        assert!((a - b).abs() < 1e-6 * a, "{a} {b}");
    }
    // Weights that are nearly equal say nearly what none say.
    for (a, b) in small.iter().zip(&one) {
        assert!((a - b).abs() < 0.5 * a, "{a} {b}");
    }
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
    place.fails(&line.replace("--centers 30", "--centers 1300 --memory 100MiB"), 4, &["1300 centers", "--memory"]);
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
    assert!(notes(&warm).contains("90 of its 90 centers"), "{warm}");

    // The same rows with a target of another scale and range: the coefficients follow its exponent.
    let mut columns = table(0, 8000);
    let scaled =
        |i: usize| 1000.0 * ((6.0 * uniform("a", i)).sin() + uniform("b", i) + (uniform("c", i) * 5.0).floor() / 5.0);
    columns[3] = ("y", numbers((0..8000).map(scaled)));
    let original = std::fs::read(place.path("d.parquet")).unwrap();
    write(&place.path("d.parquet"), &batch(columns));
    // That the old model knows y in other units is all that differs.
    let mut model = Model::load(&place.path("m.nys")).unwrap();
    model.coefficients.iter_mut().for_each(|c| *c *= 1000.0);
    model.intercepts.iter_mut().for_each(|c| *c *= 1000.0);
    model.save(&place.path("scaled.nys")).unwrap();
    let line = line.replace(" --drop z", "");
    let warm = place.solved(&format!("{line} --out warm.nys --from scaled.nys"));
    assert!(number(&warm, "/iterations") <= 3.0, "{warm}");

    // Other iterative solvers take it too, on whatever centers they have: here others than those of the model.
    std::fs::write(place.path("d.parquet"), original).unwrap();
    let line = format!("fit --data d.parquet --out e.nys --target y --drop z {FIXED} --solver eigenpro --iterations 1");
    let (cold, warm) = (place.solved(&line), place.solved(&format!("{line} --from m.nys")));
    assert!(number(&warm, "/validation/rmse") < 0.5 * number(&cold, "/validation/rmse"), "{cold}\n{warm}");
    assert!(notes(&warm).contains("projected"), "{warm}");
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

/// A model file as anyone may read it: the length of the header, the header as JSON, the tensors behind it.
struct File {
    config: Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

fn read_layout(path: &Path) -> File {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let mut tensors = BTreeMap::new();
    for (name, tensor) in header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
        let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone()).unwrap();
        let [from, to]: [usize; 2] = serde_json::from_value(tensor["data_offsets"].clone()).unwrap();
        let data = &data[from..to];
        let values: Vec<f64> = match tensor["dtype"].as_str().unwrap() {
            "F64" => data.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            "F32" => data.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
            "U16" => data.chunks(2).map(|b| f64::from(u16::from_le_bytes(b.try_into().unwrap()))).collect(),
            other => panic!("{name} is {other}"),
        };
        assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
        tensors.insert(name.clone(), (shape, values));
    }
    let metadata: Value = serde_json::from_str(header["__metadata__"]["nystream"].as_str().unwrap()).unwrap();
    File { config: metadata["config"].clone(), tensors }
}

/// The table of tensors in the README, acted on.
#[test]
fn the_documented_tensors_predict() {
    let place = Place::new();
    two_targets(&place, 2000);
    place.json(
        "fit --data d.parquet --out m.nys --target y --target z --kernel gaussian --bandwidth 1x --centers 40 --precision f64 --variance",
    );
    place.json("predict --model m.nys --data d.parquet --out p.parquet --variance");
    let model = Model::load(&place.path("m.nys")).unwrap();
    let rows = encoded(&model, &place.path("d.parquet"), Role::Features);
    let file = read_layout(&place.path("m.nys"));
    let tensor = |name: &str| file.tensors.get(name).unwrap_or_else(|| panic!("no {name}"));
    let ((shape, centers), (_, codes)) = (tensor("centers"), tensor("center_codes"));
    let (m, d, c, n) = (shape[0], shape[1], rows.code_width, rows.rows());
    assert_eq!((m, d, c), (40, 2, 1), "numbers a and b, text c");
    let sigma = file.config["kernel"]["bandwidth"].as_f64().unwrap();
    let entry = |i: usize, j: usize| {
        let square = |k: usize| (f64::from(rows.numeric[i * d + k]) - centers[j * d + k]).powi(2);
        let differ = f64::from(u8::from(f64::from(rows.codes[i]) != codes[j]));
        (-((0..d).map(square).sum::<f64>() + differ) / (2.0 * sigma * sigma)).exp()
    };
    let (_, coefficients) = tensor("coefficients");
    let (_, intercepts) = tensor("intercepts");
    let ((factor_shape, factor), (_, weights), (_, scales)) =
        (tensor("variance_factor"), tensor("variance_weights"), tensor("variance_scales"));
    let rank = factor_shape[1];
    let found = |name: &str| column(&place.path("p.parquet"), name);
    let found = [found("prediction_y"), found("prediction_z"), found("variance_y"), found("variance_z")];
    let found_of = |what: usize, i: usize| found[what][i];
    for i in 0..n {
        let k: Vec<f64> = (0..m).map(|j| entry(i, j)).collect();
        let image: Vec<f64> = (0..rank).map(|r| dot(&k, (0..m).map(|j| factor[j * rank + r]))).collect();
        for t in 0..2 {
            let prediction = intercepts[t] + dot(&k, (0..m).map(|j| coefficients[2 * j + t]));
            let explained: f64 = (0..rank).map(|r| weights[2 * r + t] * image[r] * image[r]).sum();
            let variance = scales[t] + scales[2 + t] * (1.0 - explained).max(0.0);
            assert!((found_of(t, i) - prediction).abs() < 1e-6, "row {i}: {} {prediction}", found_of(t, i));
            assert!(
                (found_of(2 + t, i) - variance).abs() < 1e-6 * variance,
                "row {i}: {} {variance}",
                found_of(2 + t, i)
            );
        }
    }
    // NumPy comes to the same, where it is there.
    let python = |words: &[&str]| std::process::Command::new("python3").args(words).output();
    if !python(&["-c", "import numpy, safetensors"]).is_ok_and(|output| output.status.success()) {
        let _ = writeln!(std::io::stderr(), "skipped: python3 with numpy and safetensors is not installed");
        return;
    }
    let some = 50;
    let json = serde_json::json!({
        "x": (0..some).map(|i| rows.numeric[i * d..(i + 1) * d].to_vec()).collect::<Vec<_>>(),
        "codes": (0..some).map(|i| rows.codes[i * c..(i + 1) * c].to_vec()).collect::<Vec<_>>(),
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python_predict.py");
    let output = python(&[script.to_str().unwrap(), place.path("m.nys").to_str().unwrap(), &json.to_string()]).unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let predictions: Vec<[f64; 2]> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(predictions.len(), some);
    for (i, prediction) in predictions.iter().enumerate() {
        (0..2).for_each(|t| assert!((prediction[t] - found[t][i]).abs() < 1e-6, "row {i}: {prediction:?}"));
    }
}

/// Degrees of freedom of the model that was fitted, with every solver: the whole kernel's are many times the centers here.
#[test]
fn the_effective_dimension_has_one_meaning() {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(table(0, 6000)));
    for ridge in ["1e-3", "1e-5"] {
        let of = |solver: &str| {
            let line = "fit --data d.parquet --target y --out m.nys --kernel laplace --bandwidth 0.5x --select uniform";
            let report = place.solved(&format!("{line} --centers 150 --ridge {ridge} --split none --solver {solver}"));
            let noted = report["notes"].to_string().contains("effective dimension estimated on");
            assert_eq!(noted, solver != "gram", "{report}");
            number(&report, "/effective_dimension")
        };
        let (gram, pcg, eigenpro) = (of("gram"), of("pcg"), of("eigenpro"));
        assert!(gram > 10.0 && gram <= 150.0, "{ridge}: {gram}");
        assert!((pcg / gram - 1.0).abs() < 0.1, "{ridge}: gram {gram}, pcg {pcg}");
        assert!((eigenpro / gram - 1.0).abs() < 0.1 && eigenpro <= 150.0, "{ridge}: gram {gram}, eigenpro {eigenpro}");
    }
    // Also where most rows weigh nothing, and where the rows that are no centers are few: then none is left to be estimated.
    let mut columns = table(0, 3000);
    columns.push(("w", numbers((0..3000).map(|i| if i % 20 == 0 { 1.0 } else { 0.0 }))));
    write(&place.path("w.parquet"), &batch(columns));
    write(&place.path("s.parquet"), &batch(table(0, 400)));
    for (data, centers, near) in [("w.parquet --weight w", 120, 0.1), ("s.parquet", 200, 1e-3)] {
        let of = |solver: &str| {
            let line =
                "--target y --out m.nys --kernel gaussian --bandwidth 1x --select uniform --ridge 1e-4 --split none";
            let line = format!("fit --data {data} {line} --centers {centers} --solver {solver}");
            number(&place.solved(&line), "/effective_dimension")
        };
        let (gram, pcg) = (of("gram"), of("pcg"));
        assert!((pcg / gram - 1.0).abs() < near, "{data}: gram {gram}, pcg {pcg}");
    }
}
