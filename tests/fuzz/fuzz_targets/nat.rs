//! The user-mode NAT over a model of the operating system. See `src/nat.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::nat::target(data));
