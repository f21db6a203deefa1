//! A part of a model, for a process that shares the centers with others.
//!
//! The header says where each tensor lies. All tensors are read once in pieces of 1 MiB, in the order of the digest, and checked by it; what belongs to the share is
//! kept. Damage is found as when the whole is loaded.
//!
//! Cost: the file is read once; memory for the share and a piece.

use super::digest::Digest;
use super::file::{KEY, Metadata, NAMES, VERSION, checked_metadata, validate, words};
use super::outline::LONGEST;
use super::{Model, ModelError, json};
use nystream_kernels::rows::RowBuf;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// A tensor as the header has it.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

pub(super) fn load(path: &Path, centers: Range<usize>) -> Result<(Model, String), ModelError> {
    let damaged = |what: String| ModelError::Damaged { path: path.to_path_buf(), what };
    let read = |source| ModelError::Read { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(read)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST || length + 8 > size {
        return Err(ModelError::CutShort { path: path.to_path_buf(), expected: length.saturating_add(8), found: size });
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(read)?;
    let header: BTreeMap<String, Value> =
        serde_json::from_slice(&header).map_err(|e| damaged(format!("header: {e}")))?;
    let keys = header.get("__metadata__").and_then(Value::as_object);
    let text = keys.and_then(|keys| keys.get(KEY)).and_then(Value::as_str).ok_or_else(|| ModelError::NotAModel {
        path: path.to_path_buf(),
        reason: format!("it is a safetensors file without the metadata key `{KEY}`"),
    })?;
    let metadata = checked_metadata(text, path)?;

    let mut tensors: BTreeMap<&str, Entry> = BTreeMap::new();
    for (name, value) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let name =
            *NAMES.iter().find(|known| *known == name).ok_or_else(|| damaged(format!("unknown tensor `{name}`")))?;
        let entry: Entry =
            serde_json::from_value(value.clone()).map_err(|e| damaged(format!("tensor `{name}`: {e}")))?;
        let [start, end] = entry.data_offsets;
        let bytes = match entry.dtype.as_str() {
            "F32" => 4,
            "F64" => 8,
            "U16" => 2,
            _ => return Err(damaged(format!("type of tensor `{name}`"))),
        };
        let values = entry.shape.iter().try_fold(bytes, |all: u64, n| all.checked_mul(*n as u64));
        if end < start || values != Some(end - start) {
            return Err(damaged(format!("extent of tensor `{name}`")));
        }
        if (8 + length).checked_add(end).is_none_or(|end| end > size) {
            let expected = (8 + length).saturating_add(end);
            return Err(ModelError::CutShort { path: path.to_path_buf(), expected, found: size });
        }
        tensors.insert(name, entry);
    }
    let end = tensors.values().map(|entry| entry.data_offsets[1]).max().unwrap_or(0);
    if 8 + length + end < size {
        return Err(damaged(format!("{} bytes too many", size - 8 - length - end)));
    }

    // In the order of the names, which is that of the digest.
    let mut digest = Digest::new(VERSION, tensors.len());
    let mut kept: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let mut piece = vec![0; PIECE];
    for (name, entry) in &tensors {
        let [start, end] = entry.data_offsets;
        digest.tensor(name, &entry.dtype, &entry.shape, end - start);
        // Rows of the share; of what is not by center everything, of variances nothing.
        let row = match entry.shape.first() {
            Some(rows) if *rows > 0 => (end - start) / *rows as u64,
            _ => 0,
        };
        let wanted = match *name {
            "centers" | "center_codes" | "coefficients" => centers.start as u64 * row..centers.end as u64 * row,
            "intercepts" => 0..end - start,
            _ => 0..0,
        };
        let bytes = kept.entry(name).or_default();
        bytes.reserve_exact((wanted.end - wanted.start).min(end - start) as usize);
        file.seek(SeekFrom::Start(8 + length + start)).map_err(read)?;
        let mut at = 0;
        while at < end - start {
            let piece = &mut piece[..(end - start - at).min(PIECE as u64) as usize];
            file.read_exact(piece).map_err(read)?;
            digest.bytes(piece);
            let next = at + piece.len() as u64;
            let (from, to) = (wanted.start.clamp(at, next), wanted.end.clamp(at, next));
            bytes.extend_from_slice(&piece[(from - at) as usize..(to - at) as usize]);
            at = next;
        }
    }
    let digest = digest.finish(&json::canonical(&metadata["config"]));
    if metadata.get("model_digest").and_then(Value::as_str) != Some(&digest) {
        return Err(damaged("digest of tensors and configuration".to_string()));
    }
    let Metadata { config, info, .. } =
        serde_json::from_value(metadata).map_err(|e| damaged(format!("metadata: {e}")))?;

    let mut take = |name: &str, dtype: &str, expected: &[usize]| -> Result<Vec<u8>, ModelError> {
        let entry = tensors.get(name).ok_or_else(|| damaged(format!("no tensor `{name}`")))?;
        if entry.dtype != dtype {
            return Err(damaged(format!("tensor `{name}` is not {dtype}")));
        }
        if entry.shape != expected {
            let (path, expected, found) = (path.to_path_buf(), expected.to_vec(), entry.shape.clone());
            let tensor = NAMES.into_iter().find(|known| *known == name).unwrap_or("tensor");
            return Err(ModelError::Shape { path, tensor, expected, found });
        }
        Ok(kept.remove(name).unwrap_or_default())
    };
    let m = tensors.get("centers").and_then(|entry| entry.shape.first()).copied().unwrap_or(0);
    if centers.end > m {
        return Err(damaged(format!("{m} centers, where its header had {} before", centers.end)));
    }
    let (d, c, t) = (config.numeric_width, config.code_width, config.outputs());
    let numeric = words(&take("centers", "F32", &[m, d])?).map(f32::from_le_bytes).collect();
    let codes = match c {
        0 => Vec::new(),
        _ => words(&take("center_codes", "U16", &[m, c])?).map(u16::from_le_bytes).collect(),
    };
    let coefficients = words(&take("coefficients", "F64", &[m, t])?).map(f64::from_le_bytes).collect();
    let intercepts = words(&take("intercepts", "F64", &[t])?).map(f64::from_le_bytes).collect();
    let centers = RowBuf { numeric, numeric_width: d, codes, code_width: c };
    let model = Model { centers, coefficients, intercepts, variance: None, config, info };
    validate(&model, path)?;
    Ok((model, digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FrozenConfig;
    use nystream_kernels::kernel::{Family, Kernel};

    fn model() -> Model {
        let config = FrozenConfig::new(Kernel::new(Family::Gaussian, 1.0), &["y", "z"], 2, 1);
        let numeric = (0..20).map(|i| i as f32 * 0.25).collect();
        let centers = RowBuf { numeric, numeric_width: 2, codes: (0..10).collect(), code_width: 1 };
        Model::new(config, centers, (0..20).map(f64::from).collect(), vec![3.0, 4.0])
    }

    /// Parts, one after the other, are the whole.
    #[test]
    fn parts_are_the_whole() {
        let (folder, model) = (tempfile::tempdir().unwrap(), model());
        let path = folder.path().join("m.nys");
        let digest = model.save(&path).unwrap();
        for cuts in [[0, 10, 10], [0, 4, 10], [0, 0, 10]] {
            let (mut numeric, mut codes, mut coefficients) = (Vec::new(), Vec::new(), Vec::new());
            for window in cuts.windows(2) {
                let (part, found) = Model::load_share(&path, window[0]..window[1]).unwrap();
                assert_eq!((found, &part.intercepts, &part.config), (digest.clone(), &model.intercepts, &model.config));
                assert_eq!(part.centers.numeric.len(), 2 * (window[1] - window[0]));
                numeric.extend(part.centers.numeric);
                codes.extend(part.centers.codes);
                coefficients.extend(part.coefficients);
            }
            assert_eq!(
                (&numeric, &codes, &coefficients),
                (&model.centers.numeric, &model.centers.codes, &model.coefficients)
            );
        }
    }

    /// Every flipped bit of the tensors, and every end that comes too early or late, is found by a process that has no use for that part too.
    #[test]
    fn damage_anywhere_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.nys");
        model().save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let damaged = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Model::load_share(&path, 0..3).is_err()
        };
        for at in (8..bytes.len()).step_by(7) {
            let mut other = bytes.clone();
            other[at] ^= 4;
            assert!(damaged(&other), "byte {at}");
        }
        assert!(damaged(&bytes[..bytes.len() - 1]) && damaged(&[&bytes[..], &[0]].concat()) && damaged(&bytes[..4]));
        assert!(!damaged(&bytes));
    }
}
