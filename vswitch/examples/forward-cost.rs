//! What a frame of known unicast costs, for `valgrind --tool=callgrind`: `forward-cost MACS PORTS FRAMES`.
//!
//! MACS stations are spread over PORTS transparent ports; each has been heard once. Then FRAMES frames pass between
//! them, in batches of 64 that carry the same time, and the number of frames that left is printed. The instructions of
//! two runs that differ in FRAMES only, subtracted, leave the set-up out.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use vswitch::PortId;
use vswitch::bridge::Bridge;

const BATCH: u32 = 64;

fn main() -> ExitCode {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [macs @ 2..=u32::MAX, ports @ 2..=65535, frames] = numbers[..] else {
        eprintln!("usage: forward-cost MACS PORTS FRAMES, with at least 2 of each");
        return ExitCode::from(2);
    };
    let mut now = Instant::now();
    let mut bridge = Bridge::new(1);
    bridge.fdb_mut().set_capacity(macs as usize);
    let ports: Vec<PortId> = (1..=ports).filter_map(PortId::new).collect();
    for port in &ports {
        bridge.add_port(*port);
        bridge.set_connected(*port, true);
    }
    let mut out = Vec::with_capacity(ports.len());
    let mut frame = [0; 60];
    for station in 0..macs {
        write_addresses(&mut frame, station, station);
        bridge.forward(ports[station as usize % ports.len()], &frame, now, &mut out);
        out.clear();
    }
    let mut left = 0;
    let (mut from, mut to) = (0, 1);
    for number in 0..frames {
        if number % BATCH == 0 {
            now += Duration::from_micros(50);
        }
        write_addresses(&mut frame, to, from);
        bridge.forward(ports[from as usize % ports.len()], &frame, now, &mut out);
        left += out.len();
        out.clear();
        // A stride that shares no factor with the sizes one measures visits all stations.
        from = to;
        to = (to + 7919) % macs;
    }
    println!("{left}");
    ExitCode::SUCCESS
}

fn write_addresses(frame: &mut [u8; 60], to: u32, from: u32) {
    frame[0] = 0x02;
    frame[2..6].copy_from_slice(&to.to_be_bytes());
    frame[6] = 0x02;
    frame[8..12].copy_from_slice(&from.to_be_bytes());
}
