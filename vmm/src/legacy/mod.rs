//! The few devices of an ISA PC that a stock kernel still talks to. Each owns fixed ports; none owns a thread.
//!
//! Not here, because KVM has them: interrupt controllers, interval timer, speaker gate (port 0x61). Absent on purpose: VGA,
//! keyboard and mouse, floppy, DMA, parallel port; their ports read as all ones.

pub mod i8042;
pub mod pm;
pub mod rtc;
pub mod serial;
