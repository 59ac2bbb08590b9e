//! Frames with and without tags in a bridge with every setting. See `src/vlan.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::vlan::target(data));
