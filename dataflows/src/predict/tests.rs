//! The stage against direct evaluation, for any number of workers, and what it refuses.

mod shared;

use super::variance::PANEL;
use super::*;
use crate::engine::{Process, SilentProgress, run};
use crate::error::StageError;
use crate::job::{Loss, evaluate_model};
use crate::matvec::grid::Shard;
use crate::matvec::products::{ProductLimit, ProductMode};
use crate::plan::Room;
use crate::targets::TargetCode;
use arrow_array::{ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray};
use nystream_datasets::sink::PredictionWriter;
use nystream_datasets::{
    BlockReader, Catalog, Chunk, ColumnSummary, Encoder, EncoderOptions, NumericColumn, ReadOptions, Role, Sources,
    Task, TextColumn,
};
use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::gram::Precision;
use nystream_kernels::kernel::{Family, Kernel};
use nystream_kernels::rows::RowBuf;
use nystream_kernels::tile::SimdPath;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

fn open(sources: &[&str]) -> Catalog {
    Catalog::open_any(&Sources::parse(sources).unwrap()).unwrap()
}

/// An encoder for all columns but `targets`, with made-up moments and the levels `a0 ..` for text.
fn encoder(catalog: &Catalog, targets: &[&str], classes: Option<&[&str]>) -> Arc<Encoder> {
    let summary = |info| {
        let levels = |names: &[&str]| Some(names.iter().map(|name| (name.to_string(), 100)).collect());
        let mut summary =
            ColumnSummary { count: 300, mean: 0.4, sd: 0.7, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
        summary.levels =
            if targets.contains(&info.name.as_str()) { classes.and_then(levels) } else { levels(&["a0", "a1", "a2"]) };
        summary
    };
    let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
    let task = if classes.is_some() { Task::Classification } else { Task::Regression };
    let targets = targets.iter().map(|t| t.to_string()).collect();
    Arc::new(Encoder::fit(&summaries, &EncoderOptions { targets, task, ..Default::default() }).unwrap())
}

fn hashed(stage: &str, count: usize) -> Vec<f64> {
    let key = StreamKey::new(3, stage, 0);
    (0..count as u128).map(|i| key.uniform(RowId(i)) * 2.0 - 1.0).collect()
}

/// A function of `m` hashed centers and `code`, with a small variance factor of rank `rank`.
fn function(encoder: &Encoder, m: usize, code: TargetCode, precision: Precision, rank: usize) -> Function {
    let (numeric_width, code_width) = (encoder.numeric_width(), encoder.code_width());
    let t = code.width();
    Function {
        kernel: Kernel::new(Family::Matern52, 1.7),
        centers: RowBuf {
            numeric: hashed("centers", m * numeric_width).iter().map(|v| *v as f32).collect(),
            numeric_width,
            codes: hashed("codes", m * code_width).iter().map(|v| ((v + 1.0) * 2.0) as u16).collect(),
            code_width,
        },
        coefficients: hashed("coefficients", m * t),
        code,
        loss: Loss::Squared,
        precision,
        simd: SimdPath::detect(),
        variance: (rank > 0).then(|| VarianceFactor {
            basis: Arc::new(VarianceBasis {
                factor: hashed("factor", m * rank).iter().map(|v| v / ((m * rank) as f64).sqrt()).collect(),
                weights: hashed("weights", rank * t).iter().map(|v| (v + 1.0) / 2.0).collect(),
                rank,
            }),
            noise: (0..t).map(|k| 0.1 + k as f64).collect(),
            signal: (0..t).map(|k| 2.0 + k as f64).collect(),
        }),
    }
}

fn numbers(names: &[&str]) -> TargetCode {
    TargetCode {
        names: names.iter().map(|n| n.to_string()).collect(),
        classes: Vec::new(),
        centres: (0..names.len()).map(|k| k as f64 - 0.25).collect(),
        exponents: (0..names.len()).map(|k| k as i32 + 1).collect(),
    }
}

fn classes(labels: &[&str]) -> TargetCode {
    let t = if labels.len() == 2 { 1 } else { labels.len() };
    let classes = labels.iter().map(|l| l.to_string()).collect();
    TargetCode { names: vec!["y".into()], classes, centres: vec![1.0 / labels.len() as f64; t], exponents: vec![0; t] }
}

fn predicted(
    workers: usize,
    catalog: &Catalog,
    encoder: &Arc<Encoder>,
    function: &Arc<Function>,
    options: &PredictOptions,
) -> Result<Predictions, StageError> {
    let process = Process::new(workers, 1, 0, Box::new(SilentProgress));
    let communication = timely::CommunicationConfig::Process(workers).try_build().unwrap();
    let (catalog, encoder, function, options) = (catalog.clone(), encoder.clone(), function.clone(), options.clone());
    let mut results =
        run(&process, communication, move |s| predict(s, &catalog, &encoder, &function, &options)).unwrap();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "workers disagree: {results:?}");
    results.remove(0)
}

/// The numeric columns of a Parquet file, by name.
fn table(path: &Path) -> BTreeMap<String, Vec<Option<f64>>> {
    let catalog = open(&[path.to_str().unwrap()]);
    let mut columns = BTreeMap::new();
    for (index, info) in catalog.columns.iter().enumerate().filter(|(_, info)| info.kind.is_number()) {
        let mut values = Vec::new();
        for raw in BlockReader::new(&catalog, catalog.partition(1, 0), &[index], ReadOptions::default()) {
            values.extend(NumericColumn::new("c", raw.unwrap().batch.column(0)).unwrap().iter());
        }
        columns.insert(info.name.clone(), values);
    }
    columns
}

fn texts(path: &Path, name: &str) -> Vec<Option<String>> {
    let catalog = open(&[path.to_str().unwrap()]);
    let index = catalog.column(name, "test").unwrap();
    let mut values = Vec::new();
    for raw in BlockReader::new(&catalog, catalog.partition(1, 0), &[index], ReadOptions::default()) {
        let raw = raw.unwrap();
        let column = TextColumn::new(name, raw.batch.column(0)).unwrap();
        values.extend((0..column.len()).map(|i| column.get(i).map(str::to_owned)));
    }
    values
}

fn rows(catalog: &Catalog, encoder: &Encoder) -> RowBuf {
    let mut rows = RowBuf::new(encoder.numeric_width(), encoder.code_width());
    let projection = encoder.projection(catalog, Role::Features).unwrap();
    for raw in BlockReader::new(catalog, catalog.partition(1, 0), &projection, ReadOptions::default()) {
        let mut chunk = Chunk::new();
        encoder.encode(&raw.unwrap(), Role::Features, &mut chunk).unwrap();
        rows.numeric.extend(&chunk.numeric);
        rows.codes.extend(&chunk.codes);
    }
    rows
}

/// sum_j k(x_i, z_j) v_jk for every row i, plainly.
fn sums(function: &Function, rows: &RowBuf, v: &[f64], width: usize) -> Vec<f64> {
    let (x, z) = (rows.view(), function.centers.view());
    let mut out = vec![0.0; rows.len() * width];
    for i in 0..rows.len() {
        for j in 0..z.len() {
            let entry = function.kernel.evaluate(x, i, z, j);
            (0..width).for_each(|k| out[i * width + k] += entry * v[j * width + k]);
        }
    }
    out
}

fn close(found: &[Option<f64>], expected: impl IntoIterator<Item = f64>, tolerance: f64) {
    let expected: Vec<f64> = expected.into_iter().collect();
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let found = found.unwrap_or(f64::NAN);
        assert!((found - expected).abs() <= tolerance * expected.abs().max(1.0), "row {i}: {found}, not {expected}");
    }
}

const SOURCE: &str = "synth:mixtures?rows=9000&d=3&categories=1&levels=4";

#[test]
fn numbers_equal_the_kernel_sum() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&[SOURCE]);
    let encoder = encoder(&catalog, &["y"], None);
    let rows = rows(&catalog, &encoder);
    for (precision, tolerance) in [(Precision::Single, 1e-5), (Precision::Double, 1e-12)] {
        for names in [&["y"][..], &["y", "other", "third"]] {
            let function = Arc::new(function(&encoder, 13, numbers(names), precision, 0));
            let out = folder.path().join("p.parquet");
            let keep = vec!["c0".to_string(), "y".to_string()];
            let options = PredictOptions { keep, out: out.clone(), ..Default::default() };
            let predictions = predicted(2, &catalog, &encoder, &function, &options).unwrap();
            assert_eq!((predictions.rows, predictions.bad), (9000, 0));
            let expected_names: Vec<String> = match names {
                [_] => vec!["c0".into(), "y".into(), "prediction".into()],
                _ => ["c0", "y", "prediction_y", "prediction_other", "prediction_third"].map(String::from).to_vec(),
            };
            assert_eq!(predictions.columns, expected_names);
            let (found, t) = (table(&out), names.len());
            let sums = sums(&function, &rows, &function.coefficients, t);
            for k in 0..t {
                let expected = sums.iter().skip(k).step_by(t).map(|sum| function.code.decode(k, *sum));
                close(&found[&expected_names[2 + k]], expected, tolerance);
            }
            // Kept columns are the input's.
            let y: Vec<f64> = BlockReader::new(&catalog, catalog.partition(1, 0), &[4], ReadOptions::default())
                .flat_map(|raw| {
                    NumericColumn::new("y", raw.unwrap().batch.column(0)).unwrap().iter().flatten().collect::<Vec<_>>()
                })
                .collect();
            close(&found["y"], y, 0.0);
            let levels = texts(&out, "c0");
            assert!(levels.iter().all(|level| level.as_ref().is_some_and(|l| l.starts_with('a'))));
            assert_eq!(levels.len(), 9000);
        }
    }
}

/// Sparse products are within their certificate of the dense ones, and a function of the rows alone.
#[test]
fn sparse_sums_are_within_their_bounds_for_any_number_of_workers() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&["synth:sines?rows=9000&d=3", "synth:sines?rows=5&d=3&seed=1"]);
    let encoder = encoder(&catalog, &["y"], None);
    let compact = Family::Wendland { smoothness: 2, dimension: 3 };
    let (certified, sampled) = (ProductMode::Certified, ProductMode::Sampled);
    for (family, bandwidth, tolerance, mode) in [
        (Family::Gaussian, 0.06, Some(1e-2), certified),
        (Family::Laplace, 0.02, Some(1e-2), certified),
        (Family::Gaussian, 0.06, Some(1e-2), sampled),
        (Family::Laplace, 0.15, Some(80.0), sampled),
        (compact, 0.3, None, certified),
    ] {
        for precision in [Precision::Single, Precision::Double] {
            let code = numbers(&["y", "other"]);
            let function =
                Function { kernel: Kernel::new(family, bandwidth), ..function(&encoder, 3000, code, precision, 0) };
            let dense = match precision {
                Precision::Double => dense_sums::<f64>(&function, &rows(&catalog, &encoder)),
                _ => dense_sums::<f32>(&function, &rows(&catalog, &encoder)),
            };
            let function = Arc::new(function);
            let mut before = None;
            for workers in [1, 2, 3] {
                let out = folder.path().join("p.parquet");
                let options = PredictOptions {
                    products: ProductLimit { tolerance, mode },
                    out: out.clone(),
                    ..Default::default()
                };
                let predictions = predicted(workers, &catalog, &encoder, &function, &options).unwrap();
                let made = predictions.products.clone().unwrap();
                let certificate = made.certificate.clone().unwrap();
                assert!(made.choice.sparse && certificate.rows == 9005, "{made:?}");
                assert!(certificate.entries < 9005 * 3000 / 4, "{made:?}");
                assert!(certificate.norm <= tolerance.unwrap_or(0.0), "{made:?}");
                // Broad tails are drawn, narrow ones left out.
                let drawn = mode == sampled && family == Family::Laplace;
                assert_eq!(certificate.probability, drawn.then_some(0.999), "{made:?}");
                let found = table(&out);
                let mut missed = 0.0f64;
                for (k, name) in ["prediction_y", "prediction_other"].iter().enumerate() {
                    let (scale, bound) = (function.code.scale(k), certificate.largest[k]);
                    for (i, value) in found[*name].iter().enumerate() {
                        let expected = function.code.decode(k, dense[i * 2 + k]);
                        let error = (value.unwrap() - expected).abs() / scale;
                        assert!(error <= bound + 1e-11, "{family:?} row {i}: {error:e}, {bound:e}");
                        missed = missed.max(error);
                    }
                }
                // Something was left out, unless that was nothing but zeros.
                assert_eq!(missed > 1e-11, tolerance.is_some(), "{family:?}: {missed:e}");
                let made = (std::fs::read(&out).unwrap(), made);
                assert!(*before.get_or_insert(made.clone()) == made, "{family:?}, {workers} workers");
            }
        }
    }
}

/// K(rows, Z) alpha with all entries.
fn dense_sums<T: nystream_kernels::tile::Entry>(function: &Function, rows: &RowBuf) -> Vec<f64> {
    let t = function.code.width();
    let mut out = vec![0.0; rows.len() * t];
    let tiles = function.blocks::<T>().unwrap();
    tiles.k_v(rows.view(), &function.coefficients, t, &mut Default::default(), &mut out);
    out
}

#[test]
fn bytes_are_equal_for_any_number_of_workers() {
    let folder = tempfile::tempdir().unwrap();
    // Several files, ragged ends, several groups, and a batch width that is not four blocks.
    for sources in [
        &[
            "synth:friedman1?rows=70001&d=5",
            "synth:friedman1?rows=100&d=5&seed=1",
            "synth:friedman1?rows=20000&d=5&seed=2",
        ][..],
        &["synth:friedman1?rows=40000&d=600"],
    ] {
        let catalog = open(sources);
        let encoder = encoder(&catalog, &["y"], None);
        let function = Arc::new(function(&encoder, 7, numbers(&["y"]), Precision::Single, 3));
        let out = folder.path().join("p.parquet");
        let options = PredictOptions { keep: vec!["y".into()], variance: true, out: out.clone(), ..Default::default() };
        let bytes: Vec<Vec<u8>> = (1..=4)
            .map(|workers| {
                let predictions = predicted(workers, &catalog, &encoder, &function, &options).unwrap();
                assert_eq!(predictions.rows, catalog.total_rows);
                std::fs::read(&out).unwrap()
            })
            .collect();
        assert!(open(&[out.to_str().unwrap()]).files[0].row_groups.len() > 3);
        assert!(bytes.iter().all(|other| *other == bytes[0]));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "parts remain");
    }
}

#[test]
fn variances_equal_the_dense_formula() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&["synth:sines?rows=2500&d=2"]);
    let encoder = encoder(&catalog, &["y"], None);
    let rows = rows(&catalog, &encoder);
    // One panel, and more than one.
    for (m, rank, precision, tolerance) in
        [(9, 5, Precision::Double, 1e-12), (9, 5, Precision::Single, 1e-5), (20, PANEL + 44, Precision::Double, 1e-12)]
    {
        for names in [&["y"][..], &["y", "z"]] {
            let function = Arc::new(function(&encoder, m, numbers(names), precision, rank));
            let out = folder.path().join("p.parquet");
            let options = PredictOptions { variance: true, out: out.clone(), ..Default::default() };
            let predictions = predicted(2, &catalog, &encoder, &function, &options).unwrap();
            let factor = function.variance.as_ref().unwrap();
            let images = sums(&function, &rows, &factor.basis.factor, rank);
            let found = table(&out);
            for (k, name) in predictions.columns[names.len()..].iter().enumerate() {
                assert_eq!(*name, if names.len() == 1 { "variance".into() } else { format!("variance_{}", names[k]) });
                let expected = images.chunks_exact(rank).map(|image| {
                    let weight = |j: usize| factor.basis.weights[j * names.len() + k];
                    let explained: f64 = image.iter().enumerate().map(|(j, v)| weight(j) * v * v).sum();
                    factor.noise[k] + factor.signal[k] * (1.0 - explained)
                });
                close(&found[name], expected, tolerance);
            }
            // Asking for variances does not change predictions.
            let plain = PredictOptions { out: folder.path().join("q.parquet"), ..Default::default() };
            predicted(1, &catalog, &encoder, &function, &plain).unwrap();
            for (name, values) in table(&plain.out) {
                assert_eq!(found[&name], values);
            }
        }
    }
}

#[test]
fn rounding_leaves_no_negative_latent_variance() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&["synth:sines?rows=100&d=2"]);
    let encoder = encoder(&catalog, &["y"], None);
    let mut function = function(&encoder, 4, numbers(&["y"]), Precision::Double, 2);
    if let Some(v) = &mut function.variance {
        Arc::make_mut(&mut v.basis).factor.iter_mut().for_each(|f| *f *= 1e3);
    }
    let out = folder.path().join("p.parquet");
    let options = PredictOptions { variance: true, out: out.clone(), ..Default::default() };
    predicted(1, &catalog, &encoder, &Arc::new(function), &options).unwrap();
    let found = table(&out);
    assert!(found["variance"].iter().all(|v| v.unwrap() >= 0.1));
    assert!(found["variance"].contains(&Some(0.1)), "no variance was bounded: the test tests nothing");
}

#[test]
fn classes_get_labels_and_scores() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&["synth:twoclass?rows=3000&d=3"]);
    for labels in [&["0", "1"][..], &["no", "yes"], &["a", "b", "c"], &["-1", "0", "7"]] {
        for loss in [Loss::Squared, Loss::Logistic] {
            let encoder = encoder(&catalog, &["y"], Some(labels));
            let rows = rows(&catalog, &encoder);
            let mut function = function(&encoder, 12, classes(labels), Precision::Double, 0);
            function.loss = loss;
            // Narrow and steep, so that each class wins somewhere.
            function.kernel.bandwidth = 0.6;
            function.coefficients.iter_mut().for_each(|c| *c *= 10.0);
            let function = Arc::new(function);
            let out = folder.path().join("p.parquet");
            let options = PredictOptions { out: out.clone(), ..Default::default() };
            let predictions = predicted(2, &catalog, &encoder, &function, &options).unwrap();
            let stem = if loss == Loss::Logistic { "probability" } else { "score" };
            let scores: Vec<String> = labels.iter().map(|label| format!("{stem}_{label}")).collect();
            assert_eq!(predictions.columns[0], "prediction");
            assert_eq!(predictions.columns[1..], scores);
            let t = function.code.width();
            let sums = sums(&function, &rows, &function.coefficients, t);
            let mut expected = vec![Vec::new(); labels.len()];
            let mut winners = Vec::new();
            let mut outputs = vec![0.0; labels.len()];
            for sums in sums.chunks_exact(t) {
                function.outputs_of(sums, &mut outputs);
                (0..labels.len()).for_each(|k| expected[k].push(outputs[k]));
                winners.push((0..labels.len()).rev().max_by(|a, b| outputs[*a].total_cmp(&outputs[*b])).unwrap());
            }
            let found = table(&out);
            for (name, expected) in scores.iter().zip(expected) {
                close(&found[name], expected, 1e-12);
            }
            assert!(winners.iter().any(|w| *w != winners[0]), "one class wins throughout: the test tests little");
            if labels[0].parse::<i64>().is_ok() {
                close(&found["prediction"], winners.iter().map(|w| labels[*w].parse::<f64>().unwrap()), 0.0);
            } else {
                let text: Vec<Option<String>> = winners.iter().map(|w| Some(labels[*w].to_string())).collect();
                assert_eq!(texts(&out, "prediction"), text);
            }
        }
    }
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let mut writer = PredictionWriter::create(path).unwrap();
    writer.write(&RecordBatch::try_from_iter_with_nullable(columns).unwrap()).unwrap();
    writer.finish().unwrap();
}

/// 3,000 rows a file; row 2,100 of `a` has a NaN, row 5 of `b` an infinity.
fn damaged(folder: &Path) -> Catalog {
    for (name, row, value) in [("a.parquet", 2100, f64::NAN), ("b.parquet", 5, f64::INFINITY)] {
        let mut x: Vec<Option<f64>> = (0..3000).map(|i| Some((i as f64 * 0.01).sin())).collect();
        x[7] = None;
        x[row] = Some(value);
        let key = Arc::new(Int32Array::from_iter_values(0..3000)) as ArrayRef;
        write(
            &folder.join(name),
            vec![("x", Arc::new(Float64Array::from(x)) as ArrayRef), ("prediction", key.clone()), ("key", key)],
        );
    }
    open(&[folder.to_str().unwrap()])
}

fn for_x(catalog: &Catalog) -> (Arc<Encoder>, Arc<Function>) {
    let mut info = catalog.columns[0].clone();
    let x = ColumnSummary { count: 9, sd: 1.0, min: -1.0, max: 1.0, ..ColumnSummary::empty(&info) };
    info.name = "y".into();
    let y = ColumnSummary { name: "y".into(), ..x.clone() };
    let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
    let encoder = Arc::new(Encoder::fit(&[x, y], &options).unwrap());
    let function = Arc::new(function(&encoder, 3, numbers(&["y"]), Precision::Single, 0));
    (encoder, function)
}

#[test]
fn bad_rows_are_counted_and_get_nulls_or_are_fatal() {
    let folder = tempfile::tempdir().unwrap();
    let data = tempfile::tempdir().unwrap();
    let catalog = damaged(data.path());
    let (encoder, function) = for_x(&catalog);
    let out = folder.path().join("p.parquet");
    for workers in 1..=3 {
        let options =
            PredictOptions { keep: vec!["key".into()], max_bad_rows: 2, out: out.clone(), ..Default::default() };
        let predictions = predicted(workers, &catalog, &encoder, &function, &options).unwrap();
        assert_eq!((predictions.rows, predictions.bad), (6000, 2));
        let found = table(&out);
        let nulls: Vec<usize> = (0..6000).filter(|i| found["prediction"][*i].is_none()).collect();
        assert_eq!(nulls, [2100, 3005]);
        assert!(found["key"].iter().enumerate().all(|(i, key)| *key == Some((i % 3000) as f64)));
        std::fs::remove_file(&out).unwrap();
        let options = PredictOptions { max_bad_rows: 1, ..options };
        let StageError::Data(text) = predicted(workers, &catalog, &encoder, &function, &options).unwrap_err() else {
            panic!("not a data error")
        };
        for part in ["2 bad rows", "allows 1", "a.parquet row 2100: column 'x'", "b.parquet row 5: column 'x'", "NaN"] {
            assert!(text.contains(part), "{part} is missing from {text}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a refused run left files");
    }
}

#[test]
fn what_cannot_be_done_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = tempfile::tempdir().unwrap();
    let catalog = damaged(data.path());
    let (encoder, function) = for_x(&catalog);
    let options = PredictOptions { max_bad_rows: 9, out: folder.path().join("p.parquet"), ..Default::default() };
    let refused = |catalog: &Catalog, function: &Arc<Function>, options: &PredictOptions, parts: &[&str]| {
        let error = predicted(2, catalog, &encoder, function, options).unwrap_err();
        for part in parts {
            assert!(error.to_string().contains(part), "{part} is missing from {error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a refused run left files");
        matches!(error, StageError::Usage(_))
    };
    let with = |change: fn(&mut PredictOptions)| {
        let mut options = options.clone();
        change(&mut options);
        options
    };
    // Columns.
    assert!(!refused(&catalog, &function, &with(|o| o.keep = vec!["kay".into()]), &["'kay'", "--keep", "'key'"]));
    assert!(refused(&catalog, &function, &with(|o| o.keep = vec!["prediction".into()]), &["'prediction'", "--keep"]));
    assert!(refused(&catalog, &function, &with(|o| o.keep = vec!["*".into()]), &["'prediction'"]));
    let other = tempfile::tempdir().unwrap();
    let path = other.path().join("d.parquet");
    write(&path, vec![("z", Arc::new(Float64Array::from(vec![1.0])))]);
    let source = path.to_str().unwrap().to_string();
    assert!(!refused(&open(&[&source]), &function, &options, &["'x'", "the model needs it"]));
    write(&path, vec![("x", Arc::new(StringArray::from(vec!["1"])))]);
    assert!(!refused(&open(&[&source]), &function, &options, &["'x'", "text", "a number"]));
    // Outputs.
    for out in ["absent/p.parquet", "."] {
        let options = PredictOptions { out: folder.path().join(out), ..options.clone() };
        assert!(!refused(&catalog, &function, &options, &[folder.path().to_str().unwrap()]));
    }
    let onto = PredictOptions { out: data.path().join("a.parquet"), ..options.clone() };
    assert!(refused(&catalog, &function, &onto, &["a.parquet", "overwrite"]));
    // Variances.
    assert!(!refused(&catalog, &function, &with(|o| o.variance = true), &["variance"]));
    let mut labelled = (*function).clone();
    labelled.code = classes(&["a", "b"]);
    assert!(refused(&catalog, &Arc::new(labelled), &with(|o| o.variance = true), &["classes"]));
    // Functions that do not fit.
    let mut wide = (*function).clone();
    wide.centers = RowBuf { numeric: vec![0.0; 6], numeric_width: 2, codes: vec![], code_width: 0 };
    assert!(!refused(&catalog, &Arc::new(wide), &options, &["not usable"]));
    let mut short = (*function).clone();
    short.coefficients.pop();
    assert!(!refused(&catalog, &Arc::new(short), &options, &["2 coefficients"]));
    // A file whose first page is damaged.
    let mut bytes = std::fs::read(data.path().join("b.parquet")).unwrap();
    bytes[4..24].fill(0xff);
    std::fs::write(data.path().join("b.parquet"), bytes).unwrap();
    let damaged = open(&[data.path().to_str().unwrap()]);
    assert!(!refused(&damaged, &function, &options, &["b.parquet", "row group 0"]));
}

#[test]
fn no_rows_make_an_empty_file_with_the_columns() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&["synth:sines?rows=0&d=2"]);
    let encoder = encoder(&catalog, &["y"], None);
    let function = Arc::new(function(&encoder, 2, numbers(&["y"]), Precision::Single, 2));
    let out = folder.path().join("p.parquet");
    let options = PredictOptions { keep: vec!["x1".into()], variance: true, out: out.clone(), ..Default::default() };
    for workers in [1, 3] {
        let predictions = predicted(workers, &catalog, &encoder, &function, &options).unwrap();
        assert_eq!((predictions.rows, predictions.bad), (0, 0));
        let written = open(&[out.to_str().unwrap()]);
        let names: Vec<&str> = written.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!((written.total_rows, names), (0, vec!["x1", "prediction", "variance"]));
    }
}
