//! See `nystream_cluster::fuzzed::greeting`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nystream_cluster::fuzzed::greeting(bytes));
