//! BPDUs and everything else that moves spanning tree. See `src/bpdu.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::bpdu::target(data));
