//! What a frame costs from port to port, for `valgrind --tool=callgrind`: `switch-cost MACS PORTS BATCHES`.
//!
//! MACS stations are spread over PORTS ports, each the end of a link in memory; each station has been heard once. Then
//! BATCHES batches of 16 small frames pass, each from one station to another, and the number of frames that arrived is
//! printed. The instructions of two runs that differ in BATCHES only, subtracted and divided by 16 times the difference,
//! are those of a frame, the links' own included.

use std::process::ExitCode;

use link::{Fragment, FragmentMut, Link, MacAddr, PairEnd, RxBatch, Soft, TxBatch, VnetHeader, pair};
use mio::Poll;
use vswitch::PortId;
use vswitch::bridge::Bridge;
use vswitch::stp::{BridgeSettings, Stp};
use vswitch::switch::{Kind, Switch};

const BATCH: usize = 16;

fn main() -> ExitCode {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [macs @ 2..=u32::MAX, ports @ 2..=65535, batches] = numbers[..] else {
        eprintln!("usage: switch-cost MACS PORTS BATCHES, with at least 2 of each");
        return ExitCode::from(2);
    };
    match run(macs, ports, batches) {
        Ok(arrived) => {
            println!("{arrived}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("switch-cost: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(macs: u32, ports: u32, batches: u32) -> Result<usize, Box<dyn std::error::Error>> {
    let poll = Poll::new()?;
    let mut bridge = Bridge::new(1);
    bridge.fdb_mut().set_capacity(macs as usize);
    let stp = Stp::new(BridgeSettings { priority: 0x8000, address: MacAddr([2, 0, 0, 0, 0, 1]) });
    let mut switch = Switch::new(bridge, stp, ports, poll.registry().try_clone()?);
    let mut stations = Vec::new();
    for number in 1..=ports {
        let (outside, inside) = pair(&number.to_string())?;
        let port = PortId::new(number).ok_or("a port number")?;
        switch.create_port(port)?;
        let member = switch.plug_in(port, Box::new(Soft::new(inside)), Kind::Link)?;
        stations.push((outside, member));
    }
    let place = |station: u32| station as usize % ports as usize;
    let (mut sink, mut arrived) = (vec![0; 2048 * BATCH], 0);
    for station in 0..macs {
        // To itself: heard, and sent nowhere.
        pass(&mut switch, &mut stations, place(station), &frame(station, station), 1)?;
    }
    let (mut from, mut to) = (0, 1);
    for _ in 0..batches {
        pass(&mut switch, &mut stations, place(from), &frame(to, from), BATCH)?;
        arrived += take(&mut stations[place(to)].0, &mut sink)?;
        from = to;
        to = (to + 7919) % macs;
    }
    Ok(arrived)
}

/// Sends copies of a frame into a port, and lets the switch do its work.
fn pass(
    switch: &mut Switch,
    stations: &mut [(PairEnd, u32)],
    place: usize,
    frame: &[u8; 60],
    copies: usize,
) -> std::io::Result<()> {
    let (outside, member) = &mut stations[place];
    let mut batch = TxBatch::new();
    for _ in 0..copies {
        batch.push(VnetHeader::WHOLE, [Fragment::new(frame)]);
    }
    outside.send(&batch)?;
    switch.serve(*member);
    while switch.has_work() {
        switch.work();
    }
    Ok(())
}

/// Takes what has arrived.
fn take(outside: &mut PairEnd, sink: &mut [u8]) -> std::io::Result<usize> {
    let mut batch = RxBatch::new();
    for buffer in sink.chunks_mut(2048) {
        batch.push([FragmentMut::new(buffer)]);
    }
    outside.receive(&mut batch)
}

fn frame(to: u32, from: u32) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[0] = 0x02;
    frame[2..6].copy_from_slice(&to.to_be_bytes());
    frame[6] = 0x02;
    frame[8..12].copy_from_slice(&from.to_be_bytes());
    frame
}
