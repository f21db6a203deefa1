//! See `nystream_cluster::fuzzed::frames`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nystream_cluster::fuzzed::frames(bytes));
