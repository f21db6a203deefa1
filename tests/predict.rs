//! `nystream predict` through the built binary: what it writes, what it says, what it refuses.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type};
use arrow_array::{Array, ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray};
use nystream::model::{FrozenConfig, Model, Precision, VarianceFactor, json};
use nystream_datasets::{ColumnInfo, ColumnKind, ColumnSummary, Encoder, EncoderOptions};
use nystream_kernels::kernel::{Family, Kernel};
use nystream_kernels::rows::RowBuf;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

const CENTERS: [[f32; 2]; 3] = [[-1.0, 0.5], [0.25, -0.75], [1.5, 1.0]];
const COEFFICIENTS: [f64; 3] = [0.5, -2.0, 1.25];
const FACTOR: [f64; 3] = [0.3, -0.2, 0.4];
const SIGMA: f64 = 1.3;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nystream"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NYSTREAM_")) {
            command.env_remove(name);
        }
        let words = line.split_whitespace();
        command.args(words).current_dir(self.0.path()).stdin(Stdio::null()).output().unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A model of `y` on `a` and `b`, which it takes as they are (mean 0, deviation 1).
    fn model(&self, name: &str, variance: bool) -> String {
        let summary = |name: &str| {
            let info = ColumnInfo {
                name: name.into(),
                kind: ColumnKind::Numeric,
                integer: false,
                data_type: "Float64".into(),
            };
            ColumnSummary { count: 9, sd: 1.0, min: -3.0, max: 3.0, ..ColumnSummary::empty(&info) }
        };
        let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
        let encoder = Encoder::fit(&[summary("a"), summary("b"), summary("y")], &options).unwrap();
        let mut config = FrozenConfig::new(Kernel::new(Family::Gaussian, SIGMA), &["y"], 2, 0);
        config.encoder = json::faithful(&encoder).unwrap();
        config.precision = Precision::F64;
        config.targets[0].centre = 3.0;
        config.targets[0].scale_log2 = 2;
        let centers = RowBuf { numeric: CENTERS.concat(), numeric_width: 2, codes: Vec::new(), code_width: 0 };
        let mut model = Model::new(config, centers, COEFFICIENTS.to_vec(), vec![3.0]);
        if variance {
            model.variance = Some(VarianceFactor {
                values: FACTOR.to_vec(),
                rank: 1,
                weights: vec![0.75],
                noise: vec![0.25],
                signal: vec![2.0],
            });
        }
        model.save(&self.path(name)).unwrap()
    }

    fn data(&self, name: &str, rows: usize) {
        let key = Arc::new(Int32Array::from_iter_values(0..rows as i32)) as ArrayRef;
        let [a, b] =
            [0, 1].map(|k| Arc::new(Float64Array::from_iter_values((0..rows).map(|i| value(i, k)))) as ArrayRef);
        self.write(name, vec![("key", key), ("b", b), ("a", a)]);
    }

    fn write(&self, name: &str, columns: Vec<(&str, ArrayRef)>) {
        let columns = columns.into_iter().map(|(name, array)| (name, array, true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(self.path(name)).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    fn read(&self, name: &str) -> RecordBatch {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(self.path(name)).unwrap()).unwrap();
        let schema = builder.schema().clone();
        let batches: Vec<RecordBatch> =
            builder.with_batch_size(1 << 20).build().unwrap().collect::<Result<_, _>>().unwrap();
        match batches.as_slice() {
            [] => RecordBatch::new_empty(schema),
            [one] => one.clone(),
            _ => panic!("a batch of a million rows was not enough"),
        }
    }
}

fn value(i: usize, column: usize) -> f64 {
    ((i * (column + 3)) as f64 * 0.017).sin() * 2.0
}

/// k(x_i, z_j) of row i.
fn entries(i: usize) -> [f64; 3] {
    CENTERS.map(|z| {
        // Encoded rows are f32.
        let difference = |k: usize| f64::from(value(i, k) as f32) - f64::from(z[k]);
        (-(difference(0).powi(2) + difference(1).powi(2)) / (2.0 * SIGMA * SIGMA)).exp()
    })
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn done(output: &Output) -> serde_json::Value {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn fails(output: &Output, code: i32, parts: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(output.stdout.is_empty(), "stdout holds {}", text(&output.stdout));
    assert!(!error.contains("bug in nystream"), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part} is missing from {error}");
    }
}

#[test]
fn predictions_and_variances_beside_kept_columns() {
    let place = Place::new();
    let digest = place.model("m.nys", true);
    place.data("d.parquet", 50_000);
    let line = "predict --model m.nys --data d.parquet --out p.parquet --keep key --keep b --variance --format json";
    let report = done(&place.run(&format!("{line} --workers 2")));
    assert_eq!(report["schema_version"], 1);
    assert_eq!((&report["rows"], &report["rows_bad"]), (&50_000.into(), &0.into()));
    assert_eq!(report["columns"], serde_json::json!(["key", "b", "prediction", "variance"]));
    assert_eq!((&report["model_digest"], &report["out"]), (&digest.into(), &"p.parquet".into()));
    assert!(report["bytes_read"].as_u64().unwrap() > 100_000 && report["seconds"]["total"].as_f64().unwrap() > 0.0);
    let found = place.read("p.parquet");
    assert_eq!(found.num_rows(), 50_000);
    let number = |name: &str| found.column_by_name(name).unwrap().as_primitive::<Float64Type>().clone();
    let (b, predictions, variances) = (number("b"), number("prediction"), number("variance"));
    let keys = found.column_by_name("key").unwrap().as_primitive::<Int32Type>();
    assert_eq!(predictions.null_count() + variances.null_count(), 0);
    for i in 0..50_000 {
        assert_eq!((keys.value(i), b.value(i)), (i as i32, value(i, 1)));
        let prediction = 3.0 + dot(entries(i), COEFFICIENTS);
        assert!((predictions.value(i) - prediction).abs() < 1e-12, "row {i}");
        let variance = 0.25 + 2.0 * (1.0 - 0.75 * dot(entries(i), FACTOR).powi(2));
        assert!((variances.value(i) - variance).abs() < 1e-12, "row {i}");
    }
    // The same bytes for any number of workers, onto a file that is there.
    let bytes = std::fs::read(place.path("p.parquet")).unwrap();
    for workers in [1, 3] {
        std::fs::write(place.path("p.parquet"), "old").unwrap();
        done(&place.run(&format!("{line} --workers {workers}")));
        assert!(std::fs::read(place.path("p.parquet")).unwrap() == bytes, "{workers} workers");
    }
    assert_eq!(place.names(), ["d.parquet", "m.nys", "p.parquet"]);
}

#[test]
fn text_report_and_progress_are_apart() {
    let place = Place::new();
    place.model("m.nys", false);
    place.data("d.parquet", 3000);
    let output = place.run("predict --model m.nys --data d.parquet --out p.parquet");
    assert_eq!(output.status.code(), Some(0));
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(out.contains("3,000") && out.contains("p.parquet") && out.contains("prediction"), "{out}");
    assert!(error.contains("predict: 3,000 rows"), "{error}");
    assert!(place.run("predict --model m.nys --data d.parquet --out p.parquet --quiet").stderr.is_empty());
}

#[test]
fn bad_rows_get_nulls_when_allowed() {
    let place = Place::new();
    place.model("m.nys", false);
    let column = |v: [f64; 3]| Arc::new(Float64Array::from(v.to_vec())) as ArrayRef;
    place.write("d.parquet", vec![("a", column([0.0, f64::NAN, 1.0])), ("b", column([f64::INFINITY, 0.0, 1.0]))]);
    let line = "predict --model m.nys --data d.parquet --out p.parquet";
    fails(&place.run(line), 1, &["2 bad rows", "d.parquet row 0", "column 'b'", "row 1", "'a'", "--max-bad-rows 2"]);
    fails(&place.run(&format!("{line} --max-bad-rows 1")), 1, &["allows 1"]);
    assert_eq!(place.names(), ["d.parquet", "m.nys"]);
    let report = done(&place.run(&format!("{line} --max-bad-rows 2 --format json")));
    assert_eq!((&report["rows"], &report["rows_bad"]), (&3.into(), &2.into()));
    let found = place.read("p.parquet");
    let nulls: Vec<bool> = (0..3).map(|i| found.column(0).is_null(i)).collect();
    assert_eq!(nulls, [true, true, false]);
}

#[test]
fn no_rows_are_predicted_too() {
    let place = Place::new();
    place.model("m.nys", false);
    place.data("d.parquet", 0);
    let report = done(&place.run("predict --model m.nys --data d.parquet --out p.parquet --keep * --format json"));
    assert_eq!(report["rows"], 0);
    assert_eq!(report["columns"], serde_json::json!(["key", "b", "a", "prediction"]));
    let found = place.read("p.parquet");
    assert_eq!((found.num_rows(), found.num_columns()), (0, 4));
}

#[test]
fn what_cannot_be_done_is_refused_and_leaves_nothing() {
    let place = Place::new();
    place.model("m.nys", false);
    place.data("d.parquet", 100);
    place.write("lacks.parquet", vec![("a", Arc::new(Float64Array::from(vec![1.0])))]);
    let words = Arc::new(StringArray::from(vec!["one"])) as ArrayRef;
    place.write("typed.parquet", vec![("a", words.clone()), ("b", words)]);
    std::fs::write(place.path("short.parquet"), &std::fs::read(place.path("d.parquet")).unwrap()[..500]).unwrap();
    let before = place.names();
    let cases = [
        ("--data lacks.parquet --out p", 1, &["'b'", "the model needs it"][..]),
        ("--data typed.parquet --out p", 1, &["'a'", "text", "a number"]),
        ("--data short.parquet --out p", 1, &["short.parquet", "cut short"]),
        ("--data absent.parquet --out p", 1, &["absent.parquet", "does not exist"]),
        ("--data d.parquet --out p --keep kye", 1, &["'kye'", "'key'"]),
        ("--data d.parquet --out absent/p", 1, &["absent/p"]),
        ("--data d.parquet --out .", 1, &["."]),
        ("--data d.parquet --out d.parquet", 2, &["d.parquet", "overwrite"]),
        ("--data d.parquet --out p --variance", 1, &["m.nys", "--variance"]),
        ("--data d.parquet --out p --simd avx9", 2, &["simd"]),
    ];
    for (line, code, parts) in cases {
        fails(&place.run(&format!("predict --model m.nys {line}")), code, parts);
        assert_eq!(place.names(), before, "{line} left something");
    }
    // A column of the data with the name of a predicted one.
    let one = Arc::new(Float64Array::from(vec![1.0])) as ArrayRef;
    place.write("named.parquet", vec![("a", one.clone()), ("b", one.clone()), ("prediction", one)]);
    let line = "predict --model m.nys --data named.parquet --out p";
    fails(&place.run(&format!("{line} --keep prediction")), 2, &["'prediction'", "rename"]);
    assert_eq!(place.run(line).status.code(), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_one_message() {
    let place = Place::new();
    place.model("m.nys", false);
    place.data("d.parquet", 40_000);
    let line = "predict --model m.nys --data d.parquet --out /dev/full --keep *";
    for workers in [1, 2] {
        fails(&place.run(&format!("{line} --workers {workers}")), 1, &["/dev/full", "space"]);
    }
}
