//! Philox4x32-10 and keys for it.

use crate::RowId;

const M0: u64 = 0xD251_1F53;
const M1: u64 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// Philox4x32-10: maps a 128-bit counter to 128 random bits under a 64-bit key.
///
/// For a fixed key the map is a bijection, so distinct counters never collide.
///
/// ```
/// // Known-answer vector of the Random123 distribution (all zero).
/// let out = nystream_hashing::philox4x32([0, 0], [0, 0, 0, 0]);
/// assert_eq!(out, [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
/// ```
#[inline]
pub fn philox4x32(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(W0), key[1].wrapping_add(W1)];
        }
        let p0 = M0 * u64::from(counter[0]);
        let p1 = M1 * u64::from(counter[2]);
        counter =
            [(p1 >> 32) as u32 ^ counter[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ counter[3] ^ key[1], p0 as u32];
    }
    counter
}

/// The key of one stream of random numbers: the leading 64 bits of BLAKE3(seed, stage, copy).
///
/// `stage` names the use ("split", "squeak", ...), so that two uses of one seed are independent;
/// `copy` numbers repeated draws within a stage.
///
/// ```
/// use nystream_hashing::{RowId, StreamKey};
/// let key = StreamKey::new(7, "split", 0);
/// let u = key.uniform(RowId(42));
/// assert!(u > 0.0 && u < 1.0);
/// assert_eq!(u, StreamKey::new(7, "split", 0).uniform(RowId(42)));
/// assert_ne!(u, StreamKey::new(7, "split", 1).uniform(RowId(42)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamKey([u32; 2]);

impl StreamKey {
    /// The key for (`seed`, `stage`, `copy`).
    pub fn new(seed: u64, stage: &str, copy: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(&(stage.len() as u64).to_le_bytes());
        hasher.update(stage.as_bytes());
        hasher.update(&copy.to_le_bytes());
        let hash = hasher.finalize();
        let bytes = hash.as_bytes();
        StreamKey([
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        ])
    }

    /// 128 random bits for `id`; a bijection of the ids for a fixed key.
    #[inline]
    pub fn words(self, id: RowId) -> [u32; 4] {
        let v = id.0;
        philox4x32(self.0, [v as u32, (v >> 32) as u32, (v >> 64) as u32, (v >> 96) as u32])
    }

    /// 128 random bits for `id` as one integer; the order of `--select`'s pools, of eigenpro's
    /// batches and of the dictionary trie is the order of this number.
    #[inline]
    pub fn u128(self, id: RowId) -> u128 {
        let w = self.words(id);
        u128::from(w[0]) << 96 | u128::from(w[1]) << 64 | u128::from(w[2]) << 32 | u128::from(w[3])
    }

    /// 64 random bits for `id`: the leading half of [`StreamKey::u128`].
    #[inline]
    pub fn u64(self, id: RowId) -> u64 {
        (self.u128(id) >> 64) as u64
    }

    /// A number uniform on the open interval (0, 1): (k + 1/2) / 2^53 for a 53-bit k.
    #[inline]
    pub fn uniform(self, id: RowId) -> f64 {
        uniform_from_bits(self.u64(id))
    }

    /// Two independent standard normals for `id` (Box and Muller 1958).
    pub fn normal_pair(self, id: RowId) -> (f64, f64) {
        let w = self.words(id);
        let u1 = uniform_from_bits(u64::from(w[0]) << 32 | u64::from(w[1]));
        let u2 = uniform_from_bits(u64::from(w[2]) << 32 | u64::from(w[3]));
        let radius = (-2.0 * u1.ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * u2).sin_cos();
        (radius * cos, radius * sin)
    }
}

fn uniform_from_bits(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known-answer vectors of the Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn random123_known_answers() {
        assert_eq!(philox4x32([u32::MAX; 2], [u32::MAX; 4]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox4x32([0xa4093822, 0x299f31d0], [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    /// Law 1: these values are part of every model; a change here changes them all.
    #[test]
    fn value_stability() {
        let key = StreamKey::new(0, "split", 0);
        let first: Vec<u64> = (0..3).map(|i| key.u64(RowId(i))).collect();
        assert_eq!(format!("{key:?} {first:?}"), PINNED);
    }

    const PINNED: &str = "StreamKey([3418782868, 2508572531]) \
         [15157948905763890369, 11989263639328106511, 9247436583673130450]";

    #[test]
    fn uniform_moments() {
        let key = StreamKey::new(1, "test", 0);
        let n = 200_000u128;
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..n {
            let u = key.uniform(RowId(i));
            assert!(u > 0.0 && u < 1.0);
            sum += u;
            squares += u * u;
        }
        // 5 standard errors: failure probability below 1e-6 for a random key, and the key is fixed.
        assert!((sum / n as f64 - 0.5).abs() < 5.0 * (1.0f64 / 12.0 / n as f64).sqrt());
        assert!((squares / n as f64 - 1.0 / 3.0).abs() < 5.0 * (4.0f64 / 45.0 / n as f64).sqrt());
    }
}
