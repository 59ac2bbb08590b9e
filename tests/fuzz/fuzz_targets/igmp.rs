//! IGMP, MLD and PIM in a bridge that snoops. See `src/igmp.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::igmp::target(data));
