//! Host files: whatever they hold is read or refused, and what is read is read alike again.
#![no_main]
use nystream_cluster::Hosts;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(hosts) = Hosts::parse(text) {
        assert_eq!(Hosts::parse(&hosts.addresses().join("\n")).unwrap().addresses(), hosts.addresses());
    }
});
