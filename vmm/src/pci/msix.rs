//! MSI-X (PCI 3.0 §6.8.2): a table of messages in a BAR, and a bit for each that waits while it is masked.
//!
//! Legal moves of a vector: *idle* — signalled while disabled → idle (the caller falls back to INTx) — signalled while
//! masked → *pending* — unmasked → the message is sent, idle again. A message is sent under the lock, so that a guest that
//! masks a vector and reads back sees no message afterwards.
//! Neighbours: `virtio/transport.rs` maps table and PBA into its BAR and passes the control register on.

use std::sync::{Arc, Mutex};

use super::lock;
use crate::hypervisor::Hypervisor;

/// The capability's ID.
pub const MSIX_CAPABILITY: u8 = 0x11;

/// Bytes of a table entry: address, data, vector control (§6.8.2.6 to 6.8.2.9).
const ENTRY: usize = 16;
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK: u16 = 1 << 14;

/// The capability behind its ID and next pointer, and what of it the guest may write (§6.8.2.3 to 6.8.2.5). Table and
/// pending bits lie at these offsets of BAR `bar`, both multiples of 8.
#[must_use]
pub fn capability_body(vectors: u16, bar: u8, table: u32, pending: u32) -> ([u8; 10], [u8; 10]) {
    let mut body = [0; 10];
    body[..2].copy_from_slice(&(vectors.max(1) - 1).to_le_bytes());
    body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
    body[6..].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
    let mut writable = [0; 10];
    writable[..2].copy_from_slice(&(CONTROL_ENABLE | CONTROL_MASK).to_le_bytes());
    (body, writable)
}

/// The table, the pending bits and the control register of one function.
pub struct Msix {
    hypervisor: Arc<dyn Hypervisor>,
    vectors: u16,
    state: Mutex<State>,
}

struct State {
    table: Box<[u8]>,
    pending: Box<[u8]>,
    enabled: bool,
    masked: bool,
}

impl Msix {
    /// `vectors` (1 to 2048) entries, each masked, as after a reset.
    #[must_use]
    pub fn new(hypervisor: Arc<dyn Hypervisor>, vectors: u16) -> Self {
        Self { hypervisor, vectors, state: Mutex::new(State::new(vectors)) }
    }

    /// How many entries the table has.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        self.vectors
    }

    /// Bytes of the pending bit array, a multiple of 8.
    #[must_use]
    pub fn pending_len(vectors: u16) -> usize {
        usize::from(vectors).div_ceil(64) * 8
    }

    /// Sends a vector's message, or marks it pending. Returns whether MSI-X is enabled; if it is not, nothing was done.
    pub fn signal(&self, vector: u16) -> bool {
        let mut state = lock(&self.state);
        if state.enabled && vector < self.vectors {
            state.set_pending(vector, true);
            self.deliver(&mut state, vector);
        }
        state.enabled
    }

    /// Whether the guest has enabled MSI-X.
    #[must_use]
    pub fn enabled(&self) -> bool {
        lock(&self.state).enabled
    }

    /// The guest wrote the Message Control register (§6.8.2.3).
    pub fn set_control(&self, control: u16) {
        let mut state = lock(&self.state);
        state.enabled = control & CONTROL_ENABLE != 0;
        state.masked = control & CONTROL_MASK != 0;
        for vector in 0..self.vectors {
            self.deliver(&mut state, vector);
        }
    }

    /// The guest loads from the table; what lies behind it reads as zero.
    pub fn table_read(&self, offset: u64, data: &mut [u8]) {
        read(&lock(&self.state).table, offset, data);
    }

    /// The guest stores into the table, aligned to 4 bytes; other stores are ignored (§6.8.2).
    pub fn table_write(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        let Ok(offset) = usize::try_from(offset) else { return };
        if !offset.is_multiple_of(4) || !data.len().is_multiple_of(4) {
            return;
        }
        let Some(target) = state.table.get_mut(offset..offset.saturating_add(data.len())) else { return };
        target.copy_from_slice(data);
        self.deliver(&mut state, (offset / ENTRY) as u16);
    }

    /// The guest loads from the pending bit array; it cannot store there.
    pub fn pending_read(&self, offset: u64, data: &mut [u8]) {
        read(&lock(&self.state).pending, offset, data);
    }

    /// Back to the state after a reset.
    pub fn reset(&self) {
        *lock(&self.state) = State::new(self.vectors);
    }

    /// Sends the message of a pending vector that nothing masks.
    fn deliver(&self, state: &mut State, vector: u16) {
        if !state.enabled || state.masked || !state.is_pending(vector) {
            return;
        }
        let Some((address, data, masked)) = state.entry(vector) else { return };
        if masked {
            return;
        }
        state.set_pending(vector, false);
        if let Err(error) = self.hypervisor.signal_msi(address, data) {
            // The guest chose the address; a message to nowhere is its own loss.
            log::debug!("pci: message {data:#x} to {address:#x}: {error}");
        }
    }
}

impl State {
    fn new(vectors: u16) -> Self {
        let mut table = vec![0; usize::from(vectors) * ENTRY].into_boxed_slice();
        for entry in table.chunks_exact_mut(ENTRY) {
            entry[12] = 1;
        }
        Self { table, pending: vec![0; Msix::pending_len(vectors)].into_boxed_slice(), enabled: false, masked: false }
    }

    /// Address, data and mask bit of a vector.
    fn entry(&self, vector: u16) -> Option<(u64, u32, bool)> {
        let entry = self.table.chunks_exact(ENTRY).nth(vector.into())?;
        let (address, rest) = entry.split_first_chunk::<8>()?;
        let (data, control) = rest.split_first_chunk::<4>()?;
        Some((u64::from_le_bytes(*address), u32::from_le_bytes(*data), control[0] & 1 != 0))
    }

    fn is_pending(&self, vector: u16) -> bool {
        self.pending.get(usize::from(vector / 8)).is_some_and(|byte| byte & (1 << (vector % 8)) != 0)
    }

    fn set_pending(&mut self, vector: u16, pending: bool) {
        if let Some(byte) = self.pending.get_mut(usize::from(vector / 8)) {
            let bit = 1 << (vector % 8);
            *byte = if pending { *byte | bit } else { *byte & !bit };
        }
    }
}

fn read(bytes: &[u8], offset: u64, data: &mut [u8]) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    for (i, target) in data.iter_mut().enumerate() {
        *target = bytes.get(start.saturating_add(i)).copied().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::fake_hypervisor::FakeHypervisor;

    fn with_vector_one() -> (Arc<FakeHypervisor>, Msix) {
        let hypervisor = FakeHypervisor::new();
        let msix = Msix::new(hypervisor.clone(), 3);
        msix.table_write(16, &0xfee0_0000u64.to_le_bytes());
        msix.table_write(24, &0x41u32.to_le_bytes());
        (hypervisor, msix)
    }

    #[test]
    fn a_masked_vector_waits_and_is_sent_when_unmasked() {
        let (hypervisor, msix) = with_vector_one();
        msix.set_control(CONTROL_ENABLE);
        assert!(msix.signal(1));
        assert_eq!(hypervisor.messages(), []);
        let mut pending = [0; 8];
        msix.pending_read(0, &mut pending);
        assert_eq!(pending[0], 2);
        msix.table_write(28, &0u32.to_le_bytes());
        assert_eq!(hypervisor.messages(), [(0xfee0_0000, 0x41)]);
        msix.pending_read(0, &mut pending);
        assert_eq!(pending[0], 0);
    }

    #[test]
    fn the_function_mask_holds_every_vector_back() {
        let (hypervisor, msix) = with_vector_one();
        msix.table_write(28, &0u32.to_le_bytes());
        msix.set_control(CONTROL_ENABLE | CONTROL_MASK);
        assert!(msix.signal(1));
        assert_eq!(hypervisor.messages(), []);
        msix.set_control(CONTROL_ENABLE);
        assert_eq!(hypervisor.messages(), [(0xfee0_0000, 0x41)]);
    }

    #[test]
    fn while_disabled_nothing_is_sent_or_remembered() {
        let (hypervisor, msix) = with_vector_one();
        msix.table_write(28, &0u32.to_le_bytes());
        assert!(!msix.signal(1));
        msix.set_control(CONTROL_ENABLE);
        assert_eq!(hypervisor.messages(), []);
    }

    #[test]
    fn accesses_outside_the_table_do_nothing() {
        let (_, msix) = with_vector_one();
        msix.table_write(46, &[0xff; 4]);
        msix.table_write(48, &[0xff; 4]);
        msix.table_write(u64::MAX - 3, &[0xff; 4]);
        msix.table_write(17, &[0xff; 4]);
        let mut data = [1; 8];
        msix.table_read(44, &mut data);
        assert_eq!(data, [1, 0, 0, 0, 0, 0, 0, 0], "the last entry is still masked");
        assert!({
            msix.set_control(CONTROL_ENABLE);
            msix.signal(9)
        });
    }
}
