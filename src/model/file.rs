//! Bytes of a model file.
//!
//! Two hashes guard it: the digest covers tensors and configuration, the checksum covers the whole metadata text (the
//! digest in it), and the metadata text must be canonical, so every bit of the file is either covered or part of
//! safetensors' own header, whose damage changes a name, a type, a shape or an extent.

use super::digest::{RawTensor, model_digest};
use super::{FrozenConfig, Model, ModelError, ModelInfo, VarianceFactor, json};
use nystream_kernels::rows::RowBuf;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// Version of the model format; another version is refused.
pub const VERSION: u64 = 1;

/// Bytes that tell a model from other files.
const BEGINNING: u64 = 1024;
pub(super) const KEY: &str = "nystream";
pub(super) const NAMES: [&str; 7] =
    ["centers", "center_codes", "coefficients", "intercepts", "variance_factor", "variance_weights", "variance_scales"];

#[derive(Serialize, Deserialize)]
pub(super) struct Metadata {
    pub(super) config: FrozenConfig,
    format: String,
    pub(super) info: ModelInfo,
    pub(super) model_digest: String,
    version: u64,
}

struct OwnedTensor {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl OwnedTensor {
    fn raw(&self) -> RawTensor<'_> {
        RawTensor { name: self.name, dtype: dtype_name(self.dtype), shape: &self.shape, bytes: &self.bytes }
    }
}

fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "F32",
        Dtype::F64 => "F64",
        Dtype::U16 => "U16",
        // Only the three above are accepted; any other text makes the digest differ.
        _ => "other",
    }
}

fn tensors(model: &Model) -> Vec<OwnedTensor> {
    let (m, t) = (model.centers.len(), model.outputs());
    let f64_bytes = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut tensors = vec![
        OwnedTensor {
            name: "centers",
            dtype: Dtype::F32,
            shape: vec![m, model.centers.numeric_width],
            bytes: model.centers.numeric.iter().flat_map(|v| v.to_le_bytes()).collect(),
        },
        OwnedTensor {
            name: "coefficients",
            dtype: Dtype::F64,
            shape: vec![m, t],
            bytes: f64_bytes(&model.coefficients),
        },
        OwnedTensor { name: "intercepts", dtype: Dtype::F64, shape: vec![t], bytes: f64_bytes(&model.intercepts) },
    ];
    if model.centers.code_width > 0 {
        tensors.push(OwnedTensor {
            name: "center_codes",
            dtype: Dtype::U16,
            shape: vec![m, model.centers.code_width],
            bytes: model.centers.codes.iter().flat_map(|v| v.to_le_bytes()).collect(),
        });
    }
    if let Some(factor) = &model.variance {
        tensors.push(OwnedTensor {
            name: "variance_factor",
            dtype: Dtype::F64,
            shape: vec![m, factor.rank],
            bytes: f64_bytes(&factor.values),
        });
        tensors.push(OwnedTensor {
            name: "variance_weights",
            dtype: Dtype::F64,
            shape: vec![factor.rank, t],
            bytes: f64_bytes(&factor.weights),
        });
        tensors.push(OwnedTensor {
            name: "variance_scales",
            dtype: Dtype::F64,
            shape: vec![2, t],
            bytes: f64_bytes(&[factor.noise.as_slice(), &factor.signal].concat()),
        });
    }
    tensors
}

fn configuration(config: &FrozenConfig) -> Result<Value, ModelError> {
    json::faithful(config).map_err(|reason| ModelError::Configuration { reason })
}

pub(super) fn digest(model: &Model) -> Result<String, ModelError> {
    let owned = tensors(model);
    let raw: Vec<RawTensor<'_>> = owned.iter().map(OwnedTensor::raw).collect();
    Ok(model_digest(VERSION, &raw, &json::canonical(&configuration(&model.config)?)))
}

pub(super) fn to_bytes(model: &Model) -> Result<Vec<u8>, ModelError> {
    model.validate()?;
    let owned = tensors(model);
    let raw: Vec<RawTensor<'_>> = owned.iter().map(OwnedTensor::raw).collect();
    let config = configuration(&model.config)?;
    let info = serde_json::to_value(&model.info).map_err(|e| ModelError::Configuration { reason: e.to_string() })?;
    let mut metadata = serde_json::json!({
        "config": config,
        "format": "nystream-model",
        "info": info,
        "model_digest": model_digest(VERSION, &raw, &json::canonical(&config)),
        "version": VERSION,
    });
    metadata["checksum"] = Value::String(checksum(&metadata));
    let views = owned.iter().map(|t| TensorView::new(t.dtype, t.shape.clone(), &t.bytes).map(|view| (t.name, view)));
    let bytes = views.collect::<Result<Vec<_>, _>>().and_then(|views| {
        safetensors::serialize(views, Some(HashMap::from([(KEY.to_string(), json::canonical(&metadata))])))
    });
    bytes.map_err(|e| ModelError::Configuration { reason: e.to_string() })
}

/// BLAKE3 of the canonical metadata without its own field `checksum`.
fn checksum(metadata: &Value) -> String {
    let mut bare = metadata.clone();
    if let Value::Object(map) = &mut bare {
        map.remove("checksum");
    }
    blake3::hash(json::canonical(&bare).as_bytes()).to_hex().to_string()
}

/// The metadata of a model file by its text: of this version, as it was written, undamaged.
pub(super) fn checked_metadata(text: &str, path: &Path) -> Result<Value, ModelError> {
    let damaged = |what: String| ModelError::Damaged { path: path.to_path_buf(), what };
    let metadata: Value = serde_json::from_str(text).map_err(|e| damaged(format!("metadata: {e}")))?;
    // Before anything else: another version may place anything anywhere.
    let version = metadata.get("version").and_then(Value::as_u64).ok_or_else(|| damaged("no version".to_string()))?;
    if version != VERSION {
        let written_by = metadata.pointer("/info/written_by").and_then(Value::as_str).unwrap_or("unknown");
        return Err(ModelError::OtherVersion {
            path: path.to_path_buf(),
            found: version,
            supported: VERSION,
            written_by: written_by.to_string(),
        });
    }
    if json::canonical(&metadata) != *text {
        return Err(damaged("metadata is not as it was written".to_string()));
    }
    if metadata.get("checksum").and_then(Value::as_str) != Some(&checksum(&metadata)) {
        return Err(damaged("checksum of the metadata".to_string()));
    }
    Ok(metadata)
}

pub(super) fn from_bytes(bytes: &[u8], path: &Path) -> Result<Model, ModelError> {
    let damaged = |what: String| ModelError::Damaged { path: path.to_path_buf(), what };
    let file = SafeTensors::deserialize(bytes).map_err(|e| container_error(bytes, path, &e))?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| container_error(bytes, path, &e))?;
    let keys = header.metadata().as_ref();
    let text = keys.and_then(|map| map.get(KEY)).ok_or_else(|| ModelError::NotAModel {
        path: path.to_path_buf(),
        reason: format!("it is a safetensors file without the metadata key `{KEY}`"),
    })?;
    if keys.is_some_and(|map| map.len() != 1) {
        return Err(damaged("metadata of another program beside our own".to_string()));
    }
    let metadata = checked_metadata(text, path)?;
    let mut views = file.tensors();
    views.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some((name, _)) = views.iter().find(|(name, _)| !NAMES.contains(&name.as_str())) {
        return Err(damaged(format!("unknown tensor `{name}`")));
    }
    let raw: Vec<RawTensor<'_>> = views
        .iter()
        .map(|(name, v)| RawTensor { name, dtype: dtype_name(v.dtype()), shape: v.shape(), bytes: v.data() })
        .collect();
    let digest = model_digest(VERSION, &raw, &json::canonical(&metadata["config"]));
    if metadata.get("model_digest").and_then(Value::as_str) != Some(&digest) {
        return Err(damaged("digest of tensors and configuration".to_string()));
    }
    let metadata: Metadata = serde_json::from_value(metadata).map_err(|e| damaged(format!("metadata: {e}")))?;
    let config = metadata.config;

    let find = |name: &'static str, dtype: &str| {
        let found = raw.iter().find(|t| t.name == name);
        match found {
            Some(tensor) if tensor.dtype != dtype => Err(damaged(format!("tensor `{name}` is not {dtype}"))),
            other => Ok(other),
        }
    };
    let need = |name: &'static str, dtype: &str, rank: usize| {
        let tensor = find(name, dtype)?.ok_or_else(|| damaged(format!("no tensor `{name}`")))?;
        if tensor.shape.len() != rank {
            return Err(damaged(format!("tensor `{name}` has {} dimensions, not {rank}", tensor.shape.len())));
        }
        Ok(tensor)
    };
    let centers = need("centers", "F32", 2)?;
    let codes = if config.code_width > 0 { Some(need("center_codes", "U16", 2)?) } else { None };
    let shape_error = |tensor, expected: &[usize], found: &[usize]| ModelError::Shape {
        path: path.to_path_buf(),
        tensor,
        expected: expected.to_vec(),
        found: found.to_vec(),
    };
    // `RowBuf` derives m from its values; the file's own shapes must say the same.
    let m = centers.shape[0];
    if centers.shape[1] != config.numeric_width {
        return Err(shape_error("centers", &[m, config.numeric_width], centers.shape));
    }
    if let Some(codes) = codes
        && codes.shape != [m, config.code_width]
    {
        return Err(shape_error("center_codes", &[m, config.code_width], codes.shape));
    }
    let coefficients = need("coefficients", "F64", 2)?;
    let intercepts = need("intercepts", "F64", 1)?;
    if coefficients.shape != [m, config.outputs()] {
        return Err(shape_error("coefficients", &[m, config.outputs()], coefficients.shape));
    }
    let t = config.outputs();
    let variance = match find("variance_factor", "F64")? {
        None => {
            match ["variance_weights", "variance_scales"].iter().find(|name| raw.iter().any(|t| t.name == **name)) {
                None => None,
                Some(name) => return Err(damaged(format!("tensor `{name}` without `variance_factor`"))),
            }
        }
        Some(_) => {
            let factor = need("variance_factor", "F64", 2)?;
            let (weights, scales) = (need("variance_weights", "F64", 2)?, need("variance_scales", "F64", 2)?);
            let rank = factor.shape[1];
            if factor.shape[0] != m {
                return Err(shape_error("variance_factor", &[m, rank], factor.shape));
            }
            if weights.shape != [rank, t] {
                return Err(shape_error("variance_weights", &[rank, t], weights.shape));
            }
            if scales.shape != [2, t] {
                return Err(shape_error("variance_scales", &[2, t], scales.shape));
            }
            let numbers = |tensor: &RawTensor<'_>| words(tensor.bytes).map(f64::from_le_bytes).collect::<Vec<f64>>();
            let mut noise = numbers(scales);
            let signal = noise.split_off(t);
            Some(VarianceFactor { values: numbers(factor), rank, weights: numbers(weights), noise, signal })
        }
    };
    let model = Model {
        centers: RowBuf {
            numeric: words(centers.bytes).map(f32::from_le_bytes).collect(),
            numeric_width: config.numeric_width,
            codes: codes.map(|t| words(t.bytes).map(u16::from_le_bytes).collect()).unwrap_or_default(),
            code_width: config.code_width,
        },
        coefficients: words(coefficients.bytes).map(f64::from_le_bytes).collect(),
        intercepts: words(intercepts.bytes).map(f64::from_le_bytes).collect(),
        variance,
        config,
        info: metadata.info,
    };
    validate(&model, path)?;
    Ok(model)
}

/// The values of a tensor, as arrays of their bytes.
pub(super) fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// Says what is wrong with a file that safetensors does not read.
fn container_error(bytes: &[u8], path: &Path, error: &SafeTensorError) -> ModelError {
    let path = path.to_path_buf();
    let found = bytes.len() as u64;
    let not_a_model = |reason: String| ModelError::NotAModel { path: path.clone(), reason };
    if bytes.is_empty() {
        return not_a_model("it is empty".to_string());
    }
    let Some(header) = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else {
        return not_a_model(format!("it has only {found} bytes"));
    };
    if bytes.starts_with(b"PAR1") {
        return not_a_model("it is a Parquet file; give it to --data".to_string());
    }
    // Our header starts with the metadata key; anything else of that length is another kind of file.
    if bytes.get(8..9).is_some_and(|b| b != b"{") {
        return not_a_model("it does not start with a safetensors header".to_string());
    }
    match error {
        SafeTensorError::InvalidHeaderLength => {
            ModelError::CutShort { path, expected: header.saturating_add(8), found }
        }
        SafeTensorError::MetadataIncompleteBuffer => match extent(bytes, header) {
            Some(expected) if expected > found => ModelError::CutShort { path, expected, found },
            Some(expected) => ModelError::Damaged { path, what: format!("{} bytes too many", found - expected) },
            None => ModelError::Damaged { path, what: error.to_string() },
        },
        SafeTensorError::HeaderTooLarge => not_a_model("its header length is out of range".to_string()),
        other => ModelError::Damaged { path, what: other.to_string() },
    }
}

/// Bytes the whole file should have by its header.
fn extent(bytes: &[u8], header: u64) -> Option<u64> {
    let stop = usize::try_from(header).ok()?.checked_add(8)?;
    let header_value: Value = serde_json::from_slice(bytes.get(8..stop)?).ok()?;
    let ends = header_value.as_object()?.values().filter_map(|t| t.pointer("/data_offsets/1")?.as_u64());
    ends.max().and_then(|end| (stop as u64).checked_add(end))
}

/// The bytes of the file; of another kind of file, which may be of any size, only the beginning: it tells what the file is.
pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let most = if looks_like_model(path) { u64::MAX } else { BEGINNING };
    let file = std::fs::File::open(path)?;
    let mut bytes = Vec::with_capacity(file.metadata()?.len().min(most) as usize);
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn looks_like_model(path: &Path) -> bool {
    let mut start = [0u8; 9];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start[8] == b'{'
}

pub(super) fn validate(model: &Model, path: &Path) -> Result<(), ModelError> {
    let (config, centers, t) = (&model.config, &model.centers, model.outputs());
    let check = |tensor, expected: &[usize], found: &[usize]| {
        if expected == found {
            return Ok(());
        }
        let (expected, found) = (expected.to_vec(), found.to_vec());
        Err(ModelError::Shape { path: path.to_path_buf(), tensor, expected, found })
    };
    if config.numeric_width + config.code_width == 0 {
        return Err(ModelError::Configuration { reason: "the model has no feature".to_string() });
    }
    if t == 0 {
        return Err(ModelError::Configuration { reason: "the model has no target".to_string() });
    }
    let m = centers.len();
    check("centers", &[m * config.numeric_width], &[centers.numeric.len()])?;
    check("centers", &[config.numeric_width], &[centers.numeric_width])?;
    check("center_codes", &[config.code_width], &[centers.code_width])?;
    check("center_codes", &[m * config.code_width], &[centers.codes.len()])?;
    check("coefficients", &[m * t], &[model.coefficients.len()])?;
    check("intercepts", &[t], &[model.intercepts.len()])?;
    if ![1, t].contains(&config.ridge.len()) {
        return Err(ModelError::Configuration { reason: format!("{} ridges for {t} outputs", config.ridge.len()) });
    }
    let finite = |tensor, values: &mut dyn Iterator<Item = f64>| match values.enumerate().find(|(_, v)| !v.is_finite())
    {
        Some((position, value)) => Err(ModelError::NotFinite { path: path.to_path_buf(), tensor, position, value }),
        None => Ok(()),
    };
    finite("centers", &mut centers.numeric.iter().map(|&v| f64::from(v)))?;
    finite("coefficients", &mut model.coefficients.iter().copied())?;
    finite("intercepts", &mut model.intercepts.iter().copied())?;
    if let Some(factor) = &model.variance {
        check("variance_factor", &[m * factor.rank], &[factor.values.len()])?;
        check("variance_weights", &[factor.rank * t], &[factor.weights.len()])?;
        check("variance_scales", &[t, t], &[factor.noise.len(), factor.signal.len()])?;
        finite("variance_factor", &mut factor.values.iter().copied())?;
        finite("variance_weights", &mut factor.weights.iter().copied())?;
        finite("variance_scales", &mut factor.noise.iter().chain(&factor.signal).copied())?;
    }
    Ok(())
}
