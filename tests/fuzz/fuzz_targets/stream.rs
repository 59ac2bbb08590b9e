//! Streams of frames. See `src/stream.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::stream::target(data));
