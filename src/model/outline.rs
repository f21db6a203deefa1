//! The sizes of a model, from the header of its file alone.
//!
//! A plan is made from them before the file is loaded. Nothing here is checked against the digest: a header that does not make sense says nothing,
//! and loading the file then finds what is wrong with it.

use super::file::looks_like_model;
use super::{ModelError, Precision};
use nystream_dataflows::plan::ModelSize;
use nystream_kernels::gram;
use nystream_kernels::kernel::{Kernel, Metric};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest header that safetensors accepts.
pub(super) const LONGEST: u64 = 100_000_000;

/// What the plan needs of the metadata.
#[derive(Deserialize)]
struct Metadata {
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    kernel: Kernel,
    precision: Precision,
    #[serde(default)]
    classes: Vec<IgnoredAny>,
}

/// The sizes of the model in `path`: only the file's own where its header makes no sense, none where it is another kind of file.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn outline(path: &Path) -> Result<ModelSize, ModelError> {
    let read = |source| ModelError::Read { path: path.to_path_buf(), source };
    let bytes = std::fs::metadata(path).map_err(read)?.len();
    if !looks_like_model(path) {
        return Ok(ModelSize::default());
    }
    let known = ModelSize { file_bytes: bytes, ..ModelSize::default() };
    let Some(header) = header(path).map_err(read)? else { return Ok(known) };
    Ok(sizes(&header, known).unwrap_or(known))
}

/// The header of a file that looks like a model's; `None` where it is longer than it may be.
fn header(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST.min(bytes.saturating_sub(8)) {
        return Ok(None);
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header)?;
    Ok(Some(header))
}

/// The report of the model in `path`, as its header has it.
pub(super) fn report(path: &Path) -> Option<Value> {
    if !looks_like_model(path) {
        return None;
    }
    let header: Value = serde_json::from_slice(&header(path).ok()??).ok()?;
    let mut metadata: Value = serde_json::from_str(header.pointer("/__metadata__/nystream")?.as_str()?).ok()?;
    Some(metadata.pointer_mut("/info/report")?.take())
}

fn sizes(header: &[u8], known: ModelSize) -> Option<ModelSize> {
    let header_bytes = header.len() as u64;
    let header: Value = serde_json::from_slice(header).ok()?;
    let config = header.pointer("/__metadata__/nystream")?.as_str()?;
    let config = serde_json::from_str::<Metadata>(config).ok()?.config;
    let shape = |name: &str| -> Option<[u64; 2]> {
        let shape: Vec<u64> = header.get(name)?.get("shape")?.as_array()?.iter().filter_map(Value::as_u64).collect();
        shape.try_into().ok()
    };
    let [centers, numeric] = shape("centers")?;
    let [_, targets] = shape("coefficients")?;
    let codes = shape("center_codes").map_or(0, |[_, codes]| codes);
    let rank = shape("variance_factor").map_or(0, |[_, rank]| rank);
    let mapped = match &config.kernel.metric {
        Metric::Full { rows, .. } => *rows as u64,
        _ => numeric,
    };
    // What is in the file cannot be larger than it.
    let row = [(numeric, 4), (codes, 2), (targets, 8), (rank, 8)];
    let row = row.iter().try_fold(0u64, |sum, (width, bytes)| sum.checked_add(width.checked_mul(*bytes)?))?;
    if centers.checked_mul(row)? > known.file_bytes {
        return None;
    }
    let precision = match config.precision {
        Precision::F64 => gram::Precision::Double,
        Precision::F32 => gram::Precision::Single,
    };
    let classes = config.classes.len() as u64;
    let sparse = config.kernel.family.is_compact();
    Some(ModelSize {
        header_bytes,
        centers,
        numeric,
        mapped,
        codes,
        targets,
        classes,
        rank,
        precision,
        sparse,
        ..known
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FrozenConfig, Model, VarianceFactor};
    use nystream_kernels::kernel::Family;
    use nystream_kernels::rows::RowBuf;

    fn model() -> Model {
        let mut config = FrozenConfig::new(Kernel::new(Family::Gaussian, 1.0), &["y"], 2, 1);
        config.precision = Precision::F64;
        let centers = RowBuf { numeric: vec![0.5; 6], numeric_width: 2, codes: vec![1, 2, 3], code_width: 1 };
        let mut model = Model::new(config, centers, vec![0.5; 3], vec![3.0]);
        model.variance = Some(VarianceFactor {
            values: vec![1.0; 6],
            rank: 2,
            weights: vec![1.0; 2],
            noise: vec![0.1],
            signal: vec![1.0],
        });
        model
    }

    #[test]
    fn the_header_has_every_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.nys");
        let bytes = model().to_bytes().unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let found = outline(&path).unwrap();
        let file_bytes = bytes.len() as u64;
        assert!(found.header_bytes > 100 && found.header_bytes < file_bytes);
        let expected = ModelSize {
            shared_by: 1,
            file_bytes,
            header_bytes: found.header_bytes,
            centers: 3,
            numeric: 2,
            mapped: 2,
            codes: 1,
            targets: 1,
            classes: 0,
            rank: 2,
            precision: gram::Precision::Double,
            sparse: false,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn what_makes_no_sense_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.nys");
        let whole = model().to_bytes().unwrap();
        let text = String::from_utf8_lossy(&whole).into_owned();
        let at = text.find("\"shape\":[3,").unwrap() + 9;
        let mut claims = whole.clone();
        claims[at..at + 1].copy_from_slice(b"9");
        claims[at + 1..at + 2].copy_from_slice(b"9");
        for (bytes, file_bytes) in [
            (&b""[..], 0),
            (b"1234567", 0),
            (&[0xff; 40], 0),
            (b"PAR1 and more than that", 0),
            (&whole[..60], 60),
            (&claims, claims.len() as u64),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(outline(&path).unwrap(), ModelSize { file_bytes, ..ModelSize::default() });
        }
        assert!(matches!(outline(&folder.path().join("none")), Err(ModelError::Read { .. })));
    }
}
