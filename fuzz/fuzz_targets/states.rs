//! States of solvers as checkpoints hold them: arbitrary bytes are refused, or read alike again.
#![no_main]
use nystream_kernels::archive::{decode, encode};
use nystream_kernels::solve::blockcd::BlockState;
use nystream_kernels::solve::eigenpro::{EigenProState, StoredPreconditioner};
use nystream_kernels::solve::logistic::LogisticState;
use nystream_kernels::solve::pcg::PcgSnapshot;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Values may hold NaN, which is not equal to itself: bytes are compared.
    macro_rules! check {
        ($($state:ty),*) => {$(
            if let Some(state) = decode::<$state>(bytes) {
                let again = encode(&state);
                assert_eq!(encode(&decode::<$state>(&again).unwrap()), again);
            }
        )*};
    }
    check!(BlockState, EigenProState, LogisticState, PcgSnapshot, StoredPreconditioner);
});
