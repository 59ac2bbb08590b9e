//! Fuzz targets: each takes any bytes, and panics if something does not hold that always should.
//!
//! | file | what is tried | what holds |
//! |---|---|---|
//! | `request` | what clients and switches send each other on `DIR/ctl` | what was read is written and read again |
//! | `console` | lines on the management socket | an answer for each line, in the protocol's form |
//! | `bpdu` | BPDUs, links and settings of spanning tree | it rests, wakes in time, and sends what it reads |
//! | `vlan` | settings and frames of the bridge | a frame stays in its VLAN and in its direction; `explain` agrees |
//! | `igmp` | IGMP, MLD and PIM | tables are bounded and empty in the end; `explain` agrees |
//! | `stream` | streams of frames | what comes out does not depend on the pieces it came in |
//! | `vxlan` | VXLAN headers, and who was heard behind whom | what was read is written; stations are where they were heard |
//! | `l2tpv3` | L2TPv3 headers in every layout | what was read is written and read again |
//! | `cable` | what the far side of a `quic://` cable sends inside the connection | what is held is bounded; frames agree with their headers |
//! | `nat` | the NAT: settings, frames, sockets and time | frames are well-formed, tables bounded and empty in the end; it still answers |
//! | `data` | | bytes as a sequence of choices |
//!
//! Time is counted from the beginning of each run, so one input always does the same, `console` apart: there the switch
//! reads the clock itself.
//!
//! Neighbours: `fuzz_targets` has a program for each; `tests/tests/fuzz_corpus.rs` replays the corpora.

pub mod bpdu;
pub mod cable;
pub mod console;
mod data;
pub mod igmp;
pub mod l2tpv3;
pub mod nat;
pub mod request;
pub mod stream;
pub mod vlan;
pub mod vxlan;
