//! What the far side of a `quic://` cable sends. See `src/cable.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::cable::target(data));
