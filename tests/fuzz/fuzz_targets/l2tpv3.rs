//! L2TPv3 headers in every layout. See `src/l2tpv3.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::l2tpv3::target(data));
