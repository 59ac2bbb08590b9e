//! A hypervisor in memory, for tests: it remembers interrupts and rings the doorbells that were registered with it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::hypervisor::{Hypervisor, NotifyAddress};
use crate::pci::lock;

/// Counts and remembers.
#[derive(Default)]
pub(crate) struct FakeHypervisor {
    messages: Mutex<Vec<(u64, u32)>>,
    lines: Mutex<HashMap<u32, bool>>,
    line_changes: AtomicUsize,
    doorbells: Mutex<Vec<(NotifyAddress, OwnedFd, i32)>>,
}

impl FakeHypervisor {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Every message sent so far: address and data.
    pub(crate) fn messages(&self) -> Vec<(u64, u32)> {
        lock(&self.messages).clone()
    }

    pub(crate) fn message_count(&self, data: u32) -> usize {
        lock(&self.messages).iter().filter(|message| message.1 == data).count()
    }

    pub(crate) fn forget_messages(&self) {
        lock(&self.messages).clear();
    }

    pub(crate) fn line(&self, gsi: u32) -> bool {
        lock(&self.lines).get(&gsi).copied().unwrap_or(false)
    }

    pub(crate) fn line_changes(&self) -> usize {
        self.line_changes.load(Ordering::Relaxed)
    }

    pub(crate) fn doorbells(&self) -> Vec<NotifyAddress> {
        lock(&self.doorbells).iter().map(|doorbell| doorbell.0).collect()
    }

    /// What KVM does with a store: signals the doorbell there, if any.
    pub(crate) fn store(&self, address: NotifyAddress) -> bool {
        let doorbells = lock(&self.doorbells);
        let Some((_, doorbell, _)) = doorbells.iter().find(|doorbell| doorbell.0 == address) else { return false };
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is eight bytes long, the descriptor our own.
        let written = unsafe { libc::write(doorbell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        assert_eq!(written, 8);
        true
    }
}

impl Hypervisor for FakeHypervisor {
    fn signal_msi(&self, address: u64, data: u32) -> io::Result<()> {
        lock(&self.messages).push((address, data));
        Ok(())
    }

    fn set_line(&self, gsi: u32, level: bool) -> io::Result<()> {
        assert_ne!(lock(&self.lines).insert(gsi, level).unwrap_or(false), level, "not a change");
        self.line_changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn add_doorbell(&self, address: NotifyAddress, doorbell: BorrowedFd<'_>) -> io::Result<()> {
        let mut doorbells = lock(&self.doorbells);
        if doorbells.iter().any(|other| other.0 == address) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        doorbells.push((address, doorbell.try_clone_to_owned()?, doorbell.as_raw_fd()));
        Ok(())
    }

    fn remove_doorbell(&self, address: NotifyAddress, doorbell: BorrowedFd<'_>) -> io::Result<()> {
        let mut doorbells = lock(&self.doorbells);
        let found = doorbells.iter().position(|other| other.0 == address && other.2 == doorbell.as_raw_fd());
        doorbells.remove(found.ok_or(io::ErrorKind::NotFound)?);
        Ok(())
    }
}
