//! Bytes of a solver's state, and the state of bytes: what checkpoints hold. Archives of rkyv, checked before they are believed.

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

/// The archive of `state`; empty where it cannot be made, which [`decode`] refuses.
///
/// ```
/// use nystream_kernels::archive::{decode, encode};
/// use nystream_kernels::solve::eigenpro::EigenProState;
/// let state = EigenProState::from_coefficients(faer::mat![[0.1], [f64::NEG_INFINITY]].as_ref());
/// let bytes = encode(&state);
/// assert_eq!(decode::<EigenProState>(&bytes), Some(state));
/// assert_eq!(decode::<EigenProState>(&bytes[1..]), None);
/// ```
pub fn encode<T>(state: &T) -> Vec<u8>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>,
{
    rkyv::to_bytes::<Error>(state).map(AlignedVec::into_vec).unwrap_or_default()
}

/// The state in `bytes`; `None` where they are no archive of one. What it holds may still not fit the problem at hand.
pub fn decode<T>(bytes: &[u8]) -> Option<T>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Error>> + Deserialize<T, HighDeserializer<Error>>,
{
    // Archives are read in place, where their numbers must be aligned.
    let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    rkyv::from_bytes::<T, Error>(&aligned).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solve::blockcd::BlockState;
    use crate::solve::logistic::LogisticState;
    use crate::solve::pcg::PcgSnapshot;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode::<PcgSnapshot>(&bytes);
            let _ = decode::<LogisticState>(&bytes);
            let _ = decode::<BlockState>(&bytes);
            let _ = decode::<crate::solve::eigenpro::EigenProState>(&bytes);
            let _ = decode::<crate::solve::eigenpro::StoredPreconditioner>(&bytes);
        }
    }
}
