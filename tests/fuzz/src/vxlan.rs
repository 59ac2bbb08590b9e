//! VXLAN headers, and the table of stations.
//!
//! The input is a header, and a sequence of steps at a table with little room: who was heard behind whom, who is looked
//! for, and time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use link::{DropReason, MacAddr};
use plug::vxlan::table::Table;
use plug::vxlan::wire::{self, Vni};

use super::data::Data;

const AGEING: Duration = Duration::from_secs(100);
const CAPACITY: usize = 8;

/// Tries an input.
pub fn target(data: &[u8]) {
    if let Some(header) = data.first_chunk() {
        check_header(header);
    }
    let mut data = Data::new(data);
    let mut now = Instant::now();
    let mut table = Table::new(AGEING, CAPACITY);
    // What a table without a limit would know.
    let mut heard: HashMap<MacAddr, (SocketAddr, Instant)> = HashMap::new();
    while !data.is_empty() {
        let (step, low) = (data.byte(), data.byte());
        let station = match low {
            0xff => MacAddr::BROADCAST,
            0xfe => MacAddr([0; 6]),
            low => MacAddr([2, 0, 0, 0, 0, low & 15]),
        };
        match step % 3 {
            0 => {
                let behind = SocketAddr::from(([10, 0, 0, step], 4789));
                table.learn(station, behind, now);
                heard.insert(station, (behind, now));
            }
            1 => {
                let is_fresh = |(behind, at): &(SocketAddr, Instant)| (now - *at < AGEING).then_some(*behind);
                if let Some(found) = table.find(station, now) {
                    assert_eq!(heard.get(&station).and_then(is_fresh), Some(found), "it is where it was heard last");
                    assert!(!station.is_multicast() && station.0 != [0; 6]);
                }
            }
            _ => now += Duration::from_secs(low.into()),
        }
        assert!(table.len() <= CAPACITY);
    }
    now += AGEING;
    assert!(heard.keys().all(|station| table.find(*station, now).is_none()));
}

/// What is read is written and read again.
fn check_header(header: &[u8; wire::LEN]) {
    match wire::parse(header) {
        Ok(vni) => {
            let written = wire::emit(vni);
            assert_eq!(wire::parse(&written), Ok(vni));
            assert_eq!(written[4..7], header[4..7]);
            assert_eq!(vni.to_string().parse().ok().and_then(Vni::new), Some(vni));
        }
        Err(reason) => assert_eq!((reason, header[0] & 8), (DropReason::Malformed, 0)),
    }
}
