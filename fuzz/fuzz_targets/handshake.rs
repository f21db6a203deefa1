//! See `nystream_cluster::fuzzed::handshake`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nystream_cluster::fuzzed::handshake(bytes));
