//! Identities of files and rows.

use crate::philox4x32;
use serde::{Deserialize, Serialize};

/// Identity of a file: 128 bits of BLAKE3 of its path relative to the data's root.
///
/// The root is the directory before the first wildcard (for lists, the common parent), so moving
/// the folder changes nothing and adding a file renumbers nothing.
///
/// ```
/// use nystream_hashing::FileId;
/// let a = FileId::from_relative_path("2017/jan.parquet");
/// assert_ne!(a.row(0), a.row(1));
/// assert_ne!(a.row(0), FileId::from_relative_path("2017/feb.parquet").row(0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId(pub u128);

/// Identity of a row: 128 bits, a hash of (file id, row ordinal) or of the `--id-column`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowId(pub u128);

impl FileId {
    /// The id of the file at `path`, relative to its root, `/` between the parts.
    pub fn from_relative_path(path: &str) -> Self {
        FileId(leading_u128(blake3::hash(path.as_bytes())))
    }

    /// The id of row `ordinal` (0-based) of this file.
    ///
    /// Philox keyed by the file's leading 64 bits is a bijection of the counter (ordinal, the
    /// file's other 64 bits): rows of one file never collide.
    #[inline]
    pub fn row(self, ordinal: u64) -> RowId {
        let [hi, lo] = [(self.0 >> 64) as u64, self.0 as u64];
        let w = philox4x32(
            [(hi >> 32) as u32, hi as u32],
            [ordinal as u32, (ordinal >> 32) as u32, lo as u32, (lo >> 32) as u32],
        );
        RowId(u128::from(w[0]) << 96 | u128::from(w[1]) << 64 | u128::from(w[2]) << 32 | u128::from(w[3]))
    }
}

impl RowId {
    /// The id of a row with an explicit key (`--id-column`): UTF-8 text, integers in decimal.
    ///
    /// ```
    /// use nystream_hashing::RowId;
    /// assert_eq!(RowId::from_key("17"), RowId::from_key(&17.to_string()));
    /// ```
    pub fn from_key(key: &str) -> Self {
        RowId(leading_u128(blake3::hash(key.as_bytes())))
    }
}

fn leading_u128(hash: blake3::Hash) -> u128 {
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Law 1: pinned forever.
    #[test]
    fn value_stability() {
        let id = FileId::from_relative_path("a/b.parquet");
        assert_eq!(format!("{:032x} {:032x} {:032x}", id.0, id.row(0).0, id.row(1 << 40).0), PINNED);
        assert_eq!(format!("{:032x}", RowId::from_key("key").0), PINNED_KEY);
    }

    const PINNED: &str =
        "4614bcc1b1e8bef6b05a7f14f7e5e0bd 9cd4a71c12fe923f5e77e3a915db8ef8 9fc7c4d4f4359572617c5af6e1120d52";
    const PINNED_KEY: &str = "ff8e2bab3b26e0c127002127905539b4";
}
