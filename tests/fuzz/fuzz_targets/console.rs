//! Lines of the console. See `src/console.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::console::target(data));
