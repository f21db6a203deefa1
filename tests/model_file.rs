//! The model file: what is written is what is read, and damage of any kind is found and named.

use nystream::model::{Exact, FrozenConfig, Model, ModelError, Precision, Selection, VarianceFactor};
use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::kernel::{Family, Kernel, Metric};
use nystream_kernels::rows::RowBuf;
use std::io::Write as _;
use std::path::Path;

const M: usize = 5;

fn uniform(stage: &str, count: usize) -> Vec<f64> {
    let key = StreamKey::new(11, stage, 0);
    (0..count as u128).map(|i| key.uniform(RowId(i)) * 4.0 - 2.0).collect()
}

/// A model with every part there is.
fn full() -> Model {
    let mut config = FrozenConfig::new(Kernel::new(Family::Matern32, 0.1 + 0.2), &["a", "b"], 3, 2);
    config.kernel.metric = Metric::PerFeature { numeric: vec![1.0, 2.5, 1e-3], categorical: vec![1.0, 0.5] };
    config.encoder = serde_json::json!({"z": [1, 2.5, null, "é\"\\"], "a": {"scale": 1e-300}});
    config.ridge = vec![1e-7, 3e-300];
    config.rows = u64::MAX;
    config.sum_weights = 1e17 + 16.0;
    config.precision = Precision::F64;
    config.seed = u64::MAX - 1;
    config.targets[0].centre = -0.0;
    config.targets[1].deviation = Some(5e-324);
    config.selection =
        Selection { method: "squeak".into(), gamma: Some(0.1), pool_bits: Some(3), ..Selection::default() };
    config.exact = Some(Exact { bits: 22, kernel_log2: 0, panel_rows: 512, weight_max: 1.0 });
    config.settings.insert("tolerance".into(), serde_json::json!(1e-9));
    let centers = RowBuf {
        numeric: uniform("centers", M * 3).into_iter().map(|v| v as f32).collect(),
        numeric_width: 3,
        codes: (0..M as u16 * 2).map(|i| i * 6551).collect(),
        code_width: 2,
    };
    let mut model = Model::new(config, centers, uniform("coefficients", M * 2), vec![-0.0, 1e308]);
    model.coefficients[3] = 5e-324;
    model.variance = Some(VarianceFactor {
        values: uniform("factor", M * 3),
        rank: 3,
        weights: uniform("weights", 3 * 2),
        noise: vec![0.5, 1e-300],
        signal: vec![2.0, 5e-324],
    });
    model.info.created_unix = 1_700_000_000;
    model.info.report = serde_json::json!({"rows": 10});
    model
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn read(bytes: &[u8]) -> Result<Model, ModelError> {
    Model::from_bytes(bytes, Path::new("some/model.nys"))
}

#[test]
fn a_round_trip_keeps_every_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.nys");
    let model = full();
    let digest = model.save(&path).unwrap();
    let again = Model::load(&path).unwrap();
    assert_eq!(again, model);
    // PartialEq takes -0.0 for 0.0: compare bits.
    assert_eq!(bits(&again.intercepts), bits(&model.intercepts));
    assert_eq!(bits(&again.coefficients), bits(&model.coefficients));
    assert_eq!(again.config.targets[0].centre.to_bits(), (-0.0f64).to_bits());
    assert_eq!(again.digest().unwrap(), digest);
    assert_eq!(again.to_bytes().unwrap(), model.to_bytes().unwrap());
    assert!(Model::is_model_file(&path));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "temporary files remain");
}

#[test]
fn the_digest_is_of_numbers_and_configuration_only() {
    let model = full();
    let digest = model.digest().unwrap();
    let mut told = model.clone();
    told.info.created_unix += 1;
    told.info.written_by = "nystream 9".into();
    told.info.report = serde_json::json!({"seconds": 3.5});
    assert_eq!(told.digest().unwrap(), digest);
    assert_ne!(told.to_bytes().unwrap(), model.to_bytes().unwrap());
    let changes: [fn(&mut Model); 8] = [
        |m| m.coefficients[0] = f64::from_bits(m.coefficients[0].to_bits() ^ 1),
        |m| m.intercepts[0] = 0.0,
        |m| m.centers.codes[9] ^= 1,
        |m| m.centers.numeric[0] += 1.0,
        |m| m.variance = None,
        |m| m.config.rows -= 1,
        |m| m.config.sum_weights += 32.0,
        |m| m.config.seed ^= 1,
    ];
    for (index, change) in changes.iter().enumerate() {
        let mut changed = model.clone();
        change(&mut changed);
        assert_ne!(changed.digest().unwrap(), digest, "change {index}");
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = full().to_bytes().unwrap();
    read(&bytes).unwrap();
    let mut damaged = bytes.clone();
    for position in 0..bytes.len() {
        for bit in 0..8 {
            damaged[position] ^= 1 << bit;
            let error = match read(&damaged) {
                Ok(_) => panic!("bit {bit} of byte {position} of {} is not guarded", bytes.len()),
                Err(error) => error.to_string(),
            };
            assert!(error.contains("some/model.nys"), "{error}");
            damaged[position] ^= 1 << bit;
        }
    }
}

#[test]
fn every_cut_is_found() {
    let bytes = full().to_bytes().unwrap();
    for length in 0..bytes.len() {
        let error = read(&bytes[..length]).expect_err("a file cut short was read");
        match length {
            0..8 => assert!(matches!(error, ModelError::NotAModel { .. }), "{length}: {error}"),
            _ => assert!(
                matches!(error, ModelError::CutShort { found, expected, .. } if found == length as u64 && expected > found),
                "{length}: {error}"
            ),
        }
    }
    let longer = [bytes.as_slice(), b"x"].concat();
    assert!(read(&longer).unwrap_err().to_string().contains("1 bytes too many"));
}

/// Rewrites the metadata text of a file, keeping it a valid safetensors file.
fn with_metadata(bytes: &[u8], change: impl Fn(String) -> String) -> Vec<u8> {
    let stop = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..stop]).unwrap();
    let text = header["__metadata__"]["nystream"].as_str().unwrap().to_string();
    header["__metadata__"]["nystream"] = change(text).into();
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes(), text.as_slice(), &bytes[stop..]].concat()
}

#[test]
fn another_version_says_which_program_wrote_it() {
    let bytes = with_metadata(&full().to_bytes().unwrap(), |text| text.replace("\"version\":1}", "\"version\":2}"));
    let error = read(&bytes).unwrap_err();
    assert!(matches!(error, ModelError::OtherVersion { found: 2, supported: 1, .. }), "{error}");
    assert!(error.to_string().contains(concat!("nystream ", env!("CARGO_PKG_VERSION"))), "{error}");
}

#[test]
fn edited_metadata_is_damage() {
    let bytes = full().to_bytes().unwrap();
    assert!(read(&with_metadata(&bytes, |text| text)).is_ok());
    let edits: [fn(String) -> String; 4] = [
        |text| text.replace("\"seed\":", "\"seed\": "),
        |text| text.replace("matern32", "matern52"),
        |text| text.replace("1700000000", "1700000001"),
        |text| text.replace("{", ""),
    ];
    for edit in edits {
        let error = read(&with_metadata(&bytes, edit)).unwrap_err();
        assert!(matches!(error, ModelError::Damaged { .. }), "{error}");
    }
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let cases: [(&[u8], &str); 4] = [
        (b"", "empty"),
        (b"PAR1\x15\x04\x15\x00\x00\x00", "Parquet"),
        (b"just some text, nothing else", "safetensors header"),
        (b"abc", "3 bytes"),
    ];
    for (bytes, word) in cases {
        let error = read(bytes).unwrap_err();
        assert!(matches!(error, ModelError::NotAModel { .. }) && error.to_string().contains(word), "{error}");
    }
    let none: [(&str, safetensors::tensor::TensorView<'_>); 0] = [];
    let foreign = safetensors::serialize(none, None).unwrap();
    let error = read(&foreign).unwrap_err();
    assert!(error.to_string().contains("metadata key"), "{error}");
    let error = Model::load(Path::new("absent/model.nys")).unwrap_err();
    assert!(error.to_string().contains("absent/model.nys"), "{error}");
}

#[test]
fn models_that_do_not_fit_together_are_not_written() {
    let refuse = |change: fn(&mut Model), word: &str| {
        let mut model = full();
        change(&mut model);
        let error = model.to_bytes().unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    };
    refuse(|m| m.coefficients.truncate(3), "coefficients");
    refuse(|m| m.intercepts.push(0.0), "intercepts");
    refuse(|m| m.centers.codes.truncate(9), "center_codes");
    refuse(|m| m.centers.numeric_width = 5, "centers");
    refuse(|m| m.config.code_width = 0, "center_codes");
    refuse(|m| m.coefficients[2] = f64::NAN, "NaN at position 2");
    refuse(|m| m.centers.numeric[1] = f32::INFINITY, "inf at position 1");
    refuse(|m| m.variance.as_mut().unwrap().rank = 4, "variance_factor");
    refuse(|m| m.variance.as_mut().unwrap().weights.truncate(1), "variance_weights");
    refuse(|m| m.variance.as_mut().unwrap().noise.truncate(1), "variance_scales");
    refuse(|m| m.config.sum_weights = f64::NAN, "configuration");
    refuse(|m| m.config.ridge = vec![f64::INFINITY, 0.0], "configuration");
    refuse(|m| m.config.ridge = vec![0.0; 3], "3 ridges");
    refuse(|m| m.config.targets.clear(), "no target");
}

/// A plain safetensors reader and NumPy predict with the documented tensors.
#[test]
fn a_page_of_python_predicts() {
    let has_python = std::process::Command::new("python3")
        .args(["-c", "import numpy, safetensors.numpy"])
        .output()
        .is_ok_and(|out| out.status.success());
    if !has_python {
        let _ = writeln!(std::io::stderr(), "skipped: python3 with numpy and safetensors is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.nys");
    let python = |family: Family, json: &str| {
        let mut config = FrozenConfig::new(Kernel::new(family, 1.3), &["a", "b"], 3, 2);
        config.rows = 10;
        let mut model = full();
        model.config = config;
        model.variance = None;
        model.intercepts = vec![3.0, -4.0];
        model.centers.codes = (0..M as u16 * 2).map(|i| i % 3).collect();
        model.save(&path).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python_predict.py");
        (model, std::process::Command::new("python3").arg(script).arg(&path).arg(json).output().unwrap())
    };
    let n = 7;
    let rows = RowBuf {
        numeric: uniform("rows", n * 3).into_iter().map(|v| v as f32).collect(),
        numeric_width: 3,
        codes: (0..n as u16 * 2).map(|i| (i * 5) % 3).collect(),
        code_width: 2,
    };
    let json = serde_json::json!({
        "x": (0..n).map(|i| rows.view().numeric(i).to_vec()).collect::<Vec<_>>(),
        "codes": (0..n).map(|i| rows.view().codes(i).to_vec()).collect::<Vec<_>>(),
    })
    .to_string();
    let radial = [
        Family::Gaussian,
        Family::Laplace,
        Family::Matern12,
        Family::Matern32,
        Family::Matern52,
        Family::Cauchy,
        Family::Wendland { smoothness: 2, dimension: 5 },
        Family::Wendland { smoothness: 4, dimension: 5 },
    ];
    for family in radial {
        let (model, out) = python(family, &json);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let found: Vec<Vec<f64>> = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(found.len(), n);
        for (i, row) in found.iter().enumerate() {
            for (k, value) in row.iter().enumerate() {
                let entry = |j| model.config.kernel.evaluate(rows.view(), i, model.centers.view(), j);
                let sum: f64 = (0..M).map(|j| entry(j) * model.coefficients[j * 2 + k]).sum();
                let expected = model.intercepts[k] + sum;
                assert!((value - expected).abs() < 1e-12 * (1.0 + expected.abs()), "{family:?}: {value} {expected}");
            }
        }
    }
    let (_, out) = python(Family::Polynomial { degree: 2, offset: 1.0 }, &json);
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("knows functions of the distance"));
}
