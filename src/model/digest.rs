//! What two equal models agree on, byte by byte.
//!
//! BLAKE3 of, in this order: the text `nystream-model`, the format version as u64; the number of tensors; for each
//! tensor in bytewise order of its name: name, data type, number of dimensions, dimensions, bytes; then the canonical
//! JSON of the frozen configuration. Every text and byte string is preceded by its length; all integers are
//! little-endian u64. Times, hosts, paths, budgets, fingerprints, metrics and certificates are not in it.

/// One tensor as it stands in the file.
#[derive(Clone, Copy, Debug)]
pub struct RawTensor<'a> {
    /// Name.
    pub name: &'a str,
    /// Data type as safetensors spells it.
    pub dtype: &'a str,
    /// Shape.
    pub shape: &'a [usize],
    /// Little-endian values, row-major.
    pub bytes: &'a [u8],
}

/// The digest of tensors (in any order) and configuration text, 64 hexadecimal digits.
///
/// ```
/// use nystream::model::digest::{RawTensor, model_digest};
/// let (a, b) = ([0; 8], [1; 8]);
/// let tensor = |name, bytes| RawTensor { name, dtype: "F64", shape: &[1], bytes };
/// let digest = model_digest(1, &[tensor("a", &a), tensor("b", &b)], "{}");
/// assert_eq!(digest, model_digest(1, &[tensor("b", &b), tensor("a", &a)], "{}"));
/// assert_ne!(digest, model_digest(1, &[tensor("a", &b), tensor("b", &a)], "{}"));
/// assert_eq!(digest.len(), 64);
/// ```
pub fn model_digest(version: u64, tensors: &[RawTensor<'_>], configuration: &str) -> String {
    let mut sorted: Vec<&RawTensor<'_>> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    let mut digest = Digest::new(version, sorted.len());
    for tensor in sorted {
        digest.tensor(tensor.name, tensor.dtype, tensor.shape, tensor.bytes.len() as u64);
        digest.bytes(tensor.bytes);
    }
    digest.finish(configuration)
}

/// [`model_digest`] of tensors that are not in memory: their bytes come piece by piece.
pub(super) struct Digest(blake3::Hasher);

impl Digest {
    /// Of so many tensors.
    pub(super) fn new(version: u64, tensors: usize) -> Self {
        let mut hasher = blake3::Hasher::new();
        sized(&mut hasher, b"nystream-model");
        number(&mut hasher, version);
        number(&mut hasher, tensors as u64);
        Digest(hasher)
    }

    /// The next tensor, in the order of the names: `length` bytes follow.
    pub(super) fn tensor(&mut self, name: &str, dtype: &str, shape: &[usize], length: u64) {
        sized(&mut self.0, name.as_bytes());
        sized(&mut self.0, dtype.as_bytes());
        number(&mut self.0, shape.len() as u64);
        shape.iter().for_each(|&n| number(&mut self.0, n as u64));
        number(&mut self.0, length);
    }

    /// Some of its bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(mut self, configuration: &str) -> String {
        sized(&mut self.0, configuration.as_bytes());
        self.0.finalize().to_hex().to_string()
    }
}

fn number(hasher: &mut blake3::Hasher, value: u64) {
    hasher.update(&value.to_le_bytes());
}

fn sized(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    number(hasher, bytes.len() as u64);
    hasher.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition is part of the contract: other programs recompute it.
    #[test]
    fn value_stability() {
        let a = RawTensor { name: "a", dtype: "F32", shape: &[1, 2], bytes: &[0, 1, 2, 3, 4, 5, 6, 7] };
        let b = RawTensor { name: "b", dtype: "U16", shape: &[1], bytes: &[8, 9] };
        let digest = model_digest(1, &[a, b], "{}");
        assert_eq!(digest, model_digest(1, &[b, a], "{}"));
        assert_eq!(digest, PINNED);
    }

    const PINNED: &str = "009a988c7f8fcb5217d523d58ce07d717f8d96e6ca81a09c638f2c84b33785a4";

    #[test]
    fn every_part_counts() {
        let a = RawTensor { name: "a", dtype: "F32", shape: &[1, 2], bytes: &[0, 1, 2, 3, 4, 5, 6, 7] };
        let all = [
            model_digest(1, &[a], "{}"),
            model_digest(2, &[a], "{}"),
            model_digest(1, &[RawTensor { name: "b", ..a }], "{}"),
            model_digest(1, &[RawTensor { dtype: "I32", ..a }], "{}"),
            model_digest(1, &[RawTensor { shape: &[2, 1], ..a }], "{}"),
            model_digest(1, &[RawTensor { bytes: &[0, 1, 2, 3, 4, 5, 6, 8], ..a }], "{}"),
            model_digest(1, &[a], "{ }"),
            model_digest(1, &[], "{}"),
        ];
        for (i, x) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|y| y != x), "{i}");
        }
    }
}
