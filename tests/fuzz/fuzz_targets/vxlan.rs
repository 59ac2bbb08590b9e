//! VXLAN headers, and the table of stations. See `src/vxlan.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::vxlan::target(data));
