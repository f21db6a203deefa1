//! Whose checkpoint it is: the job that a folder of checkpoints belongs to, and what two jobs differ in.

use super::format::Frame;
use rkyv::rancor::Error as ArchiveError;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

/// A job, as its checkpoints know it: everything that shapes its results. What may differ when it resumes (processes, workers, timeouts, paths) is no part of it.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct JobKey {
    /// Version of nystream.
    pub version: String,
    /// Digest of each group of options, and of the data, by the name that messages have for it.
    pub parts: Vec<(String, [u8; 32])>,
}

/// What the folder says of the job, and of the attempt at it that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub key: JobKey,
    /// From 1.
    pub number: u32,
    /// Made at random, by which all processes know that they see one folder.
    pub nonce: [u8; 16],
}

impl JobKey {
    /// One digest of everything but the version.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for (name, digest) in &self.parts {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(digest);
        }
        *hasher.finalize().as_bytes()
    }

    /// Names of what is another in `other`.
    pub(super) fn differences(&self, other: &JobKey) -> Vec<String> {
        let of = |key: &JobKey, name: &str| key.parts.iter().find(|(own, _)| own == name).map(|(_, digest)| *digest);
        let names = self.parts.iter().chain(&other.parts).map(|(name, _)| name);
        let mut found: Vec<String> = names.filter(|name| of(self, name) != of(other, name)).cloned().collect();
        found.sort();
        found.dedup();
        found
    }
}

impl Attempt {
    pub(super) fn frame(&self) -> std::io::Result<Frame> {
        let bytes = rkyv::to_bytes::<ArchiveError>(self).map_err(std::io::Error::other)?;
        Ok(Frame { key: 0, bytes: bytes.into_vec() })
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        rkyv::from_bytes::<Attempt, ArchiveError>(&aligned).ok()
    }
}

/// A digest as messages show it.
pub(super) fn short(digest: &[u8]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(parts: &[(&str, u8)]) -> JobKey {
        let parts = parts.iter().map(|(name, digest)| (name.to_string(), [*digest; 32])).collect();
        JobKey { version: "1".into(), parts }
    }

    #[test]
    fn differences_are_named_once_and_in_order() {
        let (a, b) = (key(&[("--seed", 1), ("--data", 2)]), key(&[("--seed", 3), ("--simd", 2), ("--data", 2)]));
        assert_eq!(a.differences(&b), ["--seed", "--simd"]);
        assert!(a.differences(&a).is_empty() && a.digest() != b.digest());
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Attempt::read(&bytes);
        }
    }
}
