//! What a client sends a switch, and a switch a client. See `src/request.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::request::target(data));
