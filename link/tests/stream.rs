//! What a stream asks of the allocator: nothing, for frames that the kernel takes at once.
//!
//! A program of its own, since the allocator of a program is one for all its tests.

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::os::fd::OwnedFd;

use link::stream::wire::Framing;
use link::stream::{FrameStream, Opening};
use link::{Fragment, TxBatch, VnetHeader};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's, counted by thread.
struct Counting;

// SAFETY: everything is the system's allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn frames_that_the_kernel_takes_at_once_cost_no_allocation() {
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    for framing in [Framing::Vde, Framing::Qemu, Framing::Etherloom] {
        let mut stream = FrameStream::new(null(), null(), framing, Opening::Silent).unwrap();
        let mut batch = TxBatch::new();
        (0..16).for_each(|_| batch.push(VnetHeader::WHOLE, [Fragment::new(&[7; 14]), Fragment::new(&[8; 1500])]));
        assert_eq!(stream.send(&batch).unwrap(), 16);
        let before = ALLOCATIONS.get();
        (0..100).for_each(|_| assert_eq!(stream.send(&batch).unwrap(), 16));
        assert_eq!(ALLOCATIONS.get(), before, "{framing:?}");
        assert_eq!(stream.counters().tx_frames, 1616);
    }
}
