//! The virtio network card (virtio 1.2 §5.1): one pair of queues, every offload that the link has.
//!
//! # Theory of operation
//! The vcpu side ([`VirtioNet`]) answers for features and configuration and hands the rings to the attachment at DRIVER_OK.
//! The pump's side ([`NetQueues`]) turns chains into frames and slots. A transmitted frame is a 12-byte header, copied and
//! parsed once, and fragments of guest memory behind it. A slot for receiving is one chain, or with mergeable buffers
//! (§5.1.6.3.2) as many as the largest frame needs; chains that a smaller frame leaves over are held for the next one.
//!
//! With mergeable buffers, when the guest has given fewer than the largest frame needs, the next frame goes to memory of
//! our own first, and on to the guest as soon as there are buffers for its real size. So a frame is lost for want of
//! buffers only when it does not fit the whole ring.
//!
//! Invariant: the header of a received frame is written last, and the chains of one frame appear to the driver at once.
//! Neighbours: `attachment.rs` drives [`NetQueues`]; `virtio/transport.rs` drives [`VirtioNet`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use link::event::EventFd;
use link::{
    Checksum, DEFAULT_MTU, DropCounts, DropReason, ETHERNET_HEADER_LEN, FragmentMut, Link, LinkState, MAX_FRAME_LEN,
    MacAddr, Offloads, RxBatch, TxBatch, VnetHeader,
};
use vm_memory::GuestMemoryMmap;

use super::attachment::{self, Control, Doorbells, NicHandle};
use super::{Carrier, Error, NicConfig, NicQueues};
use crate::pci;
use crate::virtio::{ActivateError, Chain, Interrupts, Ring, Segment, VirtioDevice, VirtioPci};

const DEVICE_ID: u16 = 1;
/// Ethernet controller.
const PCI_CLASS: u32 = 0x02_0000;
const QUEUE_SIZE: u16 = 256;
const QUEUE_SIZES: [u16; 2] = [QUEUE_SIZE; 2];
/// Queue numbers (§5.1.2).
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// Frames gathered for one send.
const SEND_FRAMES: usize = 64;
/// Slots offered for one receive, at most.
const SLOTS: usize = 32;
/// Pieces of memory in one slot, at most: Linux's `IOV_MAX`.
const SLOT_SEGMENTS: usize = 1024;
/// Room for two VLAN tags behind the Ethernet header.
const VLAN_ROOM: usize = 8;

/// VIRTIO_NET_S_LINK_UP (§5.1.4).
const STATUS_LINK_UP: u16 = 1;

/// Feature bits (§5.1.3).
pub(super) mod bit {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const GUEST_ECN: u64 = 1 << 9;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const GUEST_USO4: u64 = 1 << 54;
    pub const GUEST_USO6: u64 = 1 << 55;
    pub const HOST_USO: u64 = 1 << 56;
    pub const SPEED_DUPLEX: u64 = 1 << 63;

    /// What concerns only how frames are received: a link that cannot do it stands inside one that does it in software.
    pub const RECEIVE: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_USO4 | GUEST_USO6 | MRG_RXBUF;
}

/// A virtio network card, as the transport drives it.
pub struct VirtioNet {
    mac: MacAddr,
    features: u64,
    mtu: u16,
    /// The largest frame that is not to be segmented, in bytes.
    whole_frame: usize,
    shared: Arc<Shared>,
    control: Control,
    doorbells: Doorbells,
}

/// What both sides of the card see.
struct Shared {
    /// The status field of the configuration.
    status: AtomicU16,
    interrupts: Arc<Interrupts>,
}

impl VirtioNet {
    /// Puts a card on the bus and starts the thread that joins it to `link`. The link does what it is asked to
    /// ([`Link::accept`]), so it is normally wrapped in [`link::soft`].
    ///
    /// # Errors
    /// The bus has no room, or the host no descriptors or threads left.
    pub fn attach(
        root: &pci::Root,
        memory: GuestMemoryMmap,
        config: NicConfig,
        link: Box<dyn Link>,
    ) -> Result<NicHandle, Error> {
        let NicConfig { name, mac, mtu, slot } = config;
        let pci_error = |source| Error::Pci { name: name.clone(), source };
        let host_error = |source| Error::Host { name: name.clone(), act: "make a doorbell", source };
        let (slot, pin) = root.place(slot).map_err(pci_error)?.into_parts();
        let interrupts = Interrupts::new(&format!("nic {name}"), Arc::clone(root.hypervisor()), pin, QUEUE_SIZES.len());
        let doorbells = Doorbells {
            transmit: Arc::new(EventFd::new().map_err(host_error)?),
            receive: Arc::new(EventFd::new().map_err(host_error)?),
        };
        let shared = Arc::new(Shared { status: AtomicU16::new(0), interrupts: Arc::clone(&interrupts) });
        let capabilities = link.capabilities();
        let advertised = mtu.or((capabilities.mtu != DEFAULT_MTU).then_some(capabilities.mtu));
        let handle = attachment::start(&name, link, &doorbells, shared.clone())?;
        let device = Self {
            mac,
            features: features(capabilities.offloads, advertised.is_some()),
            mtu: advertised.unwrap_or(DEFAULT_MTU),
            // A link's MTU is about what is sent; its far ends may know no better than 1500.
            whole_frame: usize::from(capabilities.mtu.max(advertised.unwrap_or(0)).max(DEFAULT_MTU))
                + ETHERNET_HEADER_LEN
                + VLAN_ROOM,
            shared,
            control: handle.control(),
            doorbells,
        };
        VirtioPci::attach(root, slot, memory, interrupts, Box::new(device))
            .map_err(|source| Error::Virtio { name: name.clone(), source })?;
        Ok(handle)
    }

    /// `struct virtio_net_config` (§5.1.4), with the fields of features that are not offered at zero.
    fn config(&self) -> [u8; 24] {
        let mut config = [0; 24];
        config[0..6].copy_from_slice(&self.mac.0);
        config[6..8].copy_from_slice(&self.shared.status.load(Ordering::Acquire).to_le_bytes());
        // max_virtqueue_pairs
        config[8..10].copy_from_slice(&1u16.to_le_bytes());
        config[10..12].copy_from_slice(&self.mtu.to_le_bytes());
        // Speed and duplex are unknown: a link in memory has none.
        config[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        config[16] = u8::MAX;
        config
    }
}

impl VirtioDevice for VirtioNet {
    fn device_id(&self) -> u16 {
        DEVICE_ID
    }

    fn pci_class(&self) -> u32 {
        PCI_CLASS
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        for (target, byte) in data.iter_mut().zip(self.config().iter().skip(offset)) {
            *target = *byte;
        }
    }

    fn doorbell(&self, queue: usize) -> Option<Arc<EventFd>> {
        match queue {
            RECEIVE => Some(Arc::clone(&self.doorbells.receive)),
            TRANSMIT => Some(Arc::clone(&self.doorbells.transmit)),
            _ => None,
        }
    }

    fn activate(&mut self, features: u64, rings: Vec<Option<Ring>>) -> Result<(), ActivateError> {
        let mut rings = rings.into_iter();
        let receive = rings.next().flatten().map(|ring| ReceiveQueue::new(ring, features, self.whole_frame));
        let transmit = rings.next().flatten().map(|ring| TransmitQueue::new(ring, sendable(features)));
        let queues = NetQueues { accepts: receivable(features), receive, transmit };
        if self.control.activate(Box::new(queues)) { Ok(()) } else { Err(ActivateError::Stopped) }
    }

    fn reset(&mut self) {
        self.control.quiesce();
    }
}

impl Carrier for Shared {
    fn carrier(&self, state: LinkState) {
        let status = if state == LinkState::Up { STATUS_LINK_UP } else { 0 };
        if self.status.swap(status, Ordering::AcqRel) != status {
            self.interrupts.config_changed();
        }
    }
}

/// The features offered over a link that takes `offloads`.
fn features(offloads: Offloads, mtu: bool) -> u64 {
    let host = [
        (offloads.checksum, bit::CSUM),
        (offloads.checksum && offloads.tso4, bit::HOST_TSO4),
        (offloads.checksum && offloads.tso6, bit::HOST_TSO6),
        // CWR in a long frame is the first segment's: whoever segments knows.
        (offloads.checksum && (offloads.tso4 || offloads.tso6), bit::HOST_ECN),
        (offloads.checksum && offloads.uso, bit::HOST_USO),
        (mtu, bit::MTU),
    ];
    let host = host.iter().filter(|(offered, _)| *offered).fold(0, |features, (_, bit)| features | bit);
    host | bit::RECEIVE | bit::MAC | bit::STATUS | bit::SPEED_DUPLEX
}

/// What the guest may leave undone in the frames it transmits.
fn sendable(features: u64) -> Offloads {
    let checksum = features & bit::CSUM != 0;
    let has = |bit| checksum && features & bit != 0;
    Offloads { checksum, tso4: has(bit::HOST_TSO4), tso6: has(bit::HOST_TSO6), uso: has(bit::HOST_USO) }
}

/// What may be left undone in the frames that the guest receives. Each depends on GUEST_CSUM (§5.1.3.1).
fn receivable(features: u64) -> Offloads {
    let checksum = features & bit::GUEST_CSUM != 0;
    let has = |bits| checksum && features & bits == bits;
    Offloads {
        checksum,
        tso4: has(bit::GUEST_TSO4),
        tso6: has(bit::GUEST_TSO6),
        uso: has(bit::GUEST_USO4 | bit::GUEST_USO6),
    }
}

/// The rings, in the pump's thread.
struct NetQueues {
    accepts: Offloads,
    receive: Option<ReceiveQueue>,
    transmit: Option<TransmitQueue>,
}

impl NicQueues for NetQueues {
    fn accepts(&self) -> Offloads {
        self.accepts
    }

    fn gather<'a>(&'a mut self, batch: &mut TxBatch<'a>, drops: &mut DropCounts) {
        if let Some(queue) = &mut self.transmit {
            queue.gather(batch, drops);
        }
    }

    fn transmitted(&mut self, frames: usize) {
        if let Some(queue) = &mut self.transmit {
            queue.transmitted(frames);
        }
    }

    fn rearm_transmit(&mut self) -> bool {
        self.transmit.as_mut().is_some_and(|queue| queue.ring.listen())
    }

    fn offer<'a>(&'a mut self, batch: &mut RxBatch<'a>, drops: &mut DropCounts) {
        if let Some(queue) = &mut self.receive {
            queue.offer(batch, drops);
        }
    }

    fn received(&mut self, frames: &[(VnetHeader, usize)], drops: &mut DropCounts) {
        if let Some(queue) = &mut self.receive {
            queue.received(frames, drops);
        }
    }

    fn rearm_receive(&mut self) -> bool {
        self.receive.as_mut().is_some_and(|queue| queue.ring.listen())
    }

    fn interrupt(&mut self) {
        if let Some(queue) = &mut self.receive {
            queue.ring.interrupt();
        }
        if let Some(queue) = &mut self.transmit {
            queue.ring.interrupt();
        }
    }
}

/// Vectors of segments to be used again.
#[derive(Default)]
struct Spares(Vec<Vec<Segment>>);

impl Spares {
    fn take(&mut self) -> Vec<Segment> {
        self.0.pop().unwrap_or_default()
    }

    fn give(&mut self, segments: Vec<Segment>) {
        self.0.push(segments);
    }
}

/// The queue of frames that the guest transmits (§5.1.6.2).
struct TransmitQueue {
    ring: Ring,
    permitted: Offloads,
    /// Frames taken from the ring that the link has not taken yet, in order.
    waiting: VecDeque<Outgoing>,
    spares: Spares,
}

struct Outgoing {
    head: u16,
    header: VnetHeader,
    /// The frame, behind its header.
    segments: Vec<Segment>,
}

impl TransmitQueue {
    fn new(ring: Ring, permitted: Offloads) -> Self {
        Self { ring, permitted, waiting: VecDeque::new(), spares: Spares::default() }
    }

    fn gather<'a>(&'a mut self, batch: &mut TxBatch<'a>, drops: &mut DropCounts) {
        self.fill(drops);
        let memory = self.ring.memory();
        for frame in &self.waiting {
            batch.push(frame.header, frame.segments.iter().map(|segment| segment.fragment(memory)));
        }
    }

    /// Takes frames from the ring; bad ones go back at once.
    fn fill(&mut self, drops: &mut DropCounts) {
        self.ring.silence();
        for _ in self.waiting.len()..SEND_FRAMES {
            let mut segments = self.spares.take();
            let Some(chain) = self.ring.pop_readable(&mut segments) else {
                self.spares.give(segments);
                return;
            };
            match parse(self.ring.memory(), chain, &mut segments, self.permitted) {
                Ok(header) => self.waiting.push_back(Outgoing { head: chain.head, header, segments }),
                Err(reason) => {
                    drops.count(reason);
                    self.ring.push_used(chain.head, 0);
                    self.spares.give(segments);
                }
            }
        }
    }

    fn transmitted(&mut self, frames: usize) {
        for frame in self.waiting.drain(..frames.min(self.waiting.len())) {
            self.ring.push_used(frame.head, 0);
            self.spares.give(frame.segments);
        }
        self.ring.publish();
    }
}

/// Reads and checks the header of a frame to be transmitted, and cuts it off.
fn parse(
    memory: &GuestMemoryMmap,
    chain: Chain,
    segments: &mut Vec<Segment>,
    permitted: Offloads,
) -> Result<VnetHeader, DropReason> {
    if !chain.good {
        return Err(DropReason::BadDescriptor);
    }
    let frame_len = chain.len.checked_sub(VnetHeader::LEN).ok_or(DropReason::Runt)?;
    if frame_len > MAX_FRAME_LEN {
        return Err(DropReason::Oversized);
    }
    let mut bytes = [0; VnetHeader::LEN];
    let mut done = 0;
    for segment in segments.iter() {
        done += segment.fragment(memory).copy_to(&mut bytes[done..]);
    }
    let header = VnetHeader::parse(&bytes)?;
    header.check(frame_len)?;
    if !permitted.permit(&header) {
        return Err(DropReason::BadOffload);
    }
    cut_front(segments, VnetHeader::LEN);
    Ok(header)
}

/// Removes the first `len` bytes.
fn cut_front(segments: &mut Vec<Segment>, mut len: usize) {
    segments.retain_mut(|segment| {
        let cut = len.min(segment.len());
        len -= cut;
        *segment = segment.skip(cut);
        !segment.is_empty()
    });
}

/// The queue of buffers that the guest receives into (§5.1.6.3).
struct ReceiveQueue {
    ring: Ring,
    permitted: Offloads,
    ecn: bool,
    mergeable: bool,
    /// Bytes that the largest frame needs, with its header.
    largest: usize,
    /// Chains taken from the ring that hold no frame yet, in order.
    held: VecDeque<Buffer>,
    /// For each slot offered last, how many of the held chains it has; they follow one another.
    slots: Vec<usize>,
    /// How many slots to offer: as many as were filled lately.
    wanted: usize,
    /// Chains that slots left over, until the round is complete.
    left_over: Vec<Buffer>,
    own: OwnSlot,
    /// The memory of the own slot, made when first needed.
    own_memory: Vec<u8>,
    spares: Spares,
}

/// The slot in our own memory, for when the guest has given too little for the largest frame.
enum OwnSlot {
    Idle,
    /// Offered last, instead of slots in guest memory.
    Offered,
    /// Holds a frame that waits for enough buffers.
    Holds(VnetHeader, usize),
}

struct Buffer {
    head: u16,
    len: usize,
    segments: Vec<Segment>,
}

impl Buffer {
    /// Its memory behind the first `skip` bytes.
    fn behind(&self, mut skip: usize) -> impl Iterator<Item = Segment> + '_ {
        self.segments.iter().filter_map(move |segment| {
            let cut = skip.min(segment.len());
            skip -= cut;
            Some(segment.skip(cut)).filter(|rest| !rest.is_empty())
        })
    }
}

impl ReceiveQueue {
    fn new(ring: Ring, features: u64, whole_frame: usize) -> Self {
        let permitted = receivable(features);
        let frame = if permitted.any_segmentation() { MAX_FRAME_LEN } else { whole_frame };
        Self {
            ring,
            permitted,
            ecn: features & bit::GUEST_ECN != 0,
            mergeable: features & bit::MRG_RXBUF != 0,
            largest: frame + VnetHeader::LEN,
            held: VecDeque::new(),
            slots: Vec::new(),
            wanted: 1,
            left_over: Vec::new(),
            own: OwnSlot::Idle,
            own_memory: Vec::new(),
            spares: Spares::default(),
        }
    }

    fn offer<'a>(&'a mut self, batch: &mut RxBatch<'a>, drops: &mut DropCounts) {
        self.ring.silence();
        self.slots.clear();
        if !self.empty_own_slot(drops) {
            return;
        }
        while self.slots.len() < self.wanted && self.plan_slot() {}
        if self.slots.is_empty() && !self.held.is_empty() && self.ring.is_working() {
            self.own = OwnSlot::Offered;
            self.own_memory.resize(self.largest - VnetHeader::LEN, 0);
            batch.push([FragmentMut::new(&mut self.own_memory)]);
            return;
        }
        let memory = self.ring.memory();
        let mut first = 0;
        for &chains in &self.slots {
            let buffers = self.held.range(first..first + chains).enumerate();
            batch.push(buffers.flat_map(|(i, buffer)| {
                let header = if i == 0 { VnetHeader::LEN } else { 0 };
                buffer.behind(header).map(|segment| segment.fragment_mut(memory))
            }));
            first += chains;
        }
    }

    /// Plans one more slot of held chains, taking more from the ring as needed. Returns whether there were enough.
    fn plan_slot(&mut self) -> bool {
        let first: usize = self.slots.iter().sum();
        let (mut chains, mut len, mut segments) = (0, 0, 0);
        while chains == 0 || self.mergeable && len < self.largest {
            if first + chains == self.held.len() && !self.pull() {
                return false;
            }
            let Some(buffer) = self.held.get(first + chains) else { return false };
            len += buffer.len;
            segments += buffer.segments.len();
            chains += 1;
            if segments > SLOT_SEGMENTS {
                return false;
            }
        }
        self.slots.push(chains);
        true
    }

    /// Takes one chain from the ring to hold; bad ones go back. No more are held than the ring has entries.
    fn pull(&mut self) -> bool {
        for _ in self.held.len()..self.ring.size().into() {
            let mut segments = self.spares.take();
            let Some(chain) = self.ring.pop_writable(&mut segments) else {
                self.spares.give(segments);
                return false;
            };
            // §5.1.6.3.1: room for the header, at least.
            if chain.good && chain.len >= VnetHeader::LEN {
                self.held.push_back(Buffer { head: chain.head, len: chain.len, segments });
                return true;
            }
            self.ring.push_used(chain.head, 0);
            self.spares.give(segments);
        }
        false
    }

    fn received(&mut self, frames: &[(VnetHeader, usize)], drops: &mut DropCounts) {
        if matches!(self.own, OwnSlot::Offered) {
            self.own = match frames.first() {
                Some(&(header, len)) => OwnSlot::Holds(header, len),
                None => OwnSlot::Idle,
            };
            self.empty_own_slot(drops);
        } else {
            let slots = std::mem::take(&mut self.slots);
            for (&chains, &(header, len)) in slots.iter().zip(frames) {
                self.complete(chains, header, len, drops);
            }
            self.slots = slots;
            self.adapt(frames.len());
        }
        self.put_left_over_back();
        self.ring.publish();
    }

    /// Offers more slots next time if all were filled, and slowly fewer if not: each costs a look at its chains.
    fn adapt(&mut self, filled: usize) {
        let all = !self.slots.is_empty() && filled == self.slots.len();
        self.wanted = if all { self.wanted * 2 } else { filled.max(self.wanted / 2) }.clamp(1, SLOTS);
    }

    /// Passes a frame in the own slot on to the guest. Returns whether the slot is free; if not, buffers are missing.
    fn empty_own_slot(&mut self, drops: &mut DropCounts) -> bool {
        let OwnSlot::Holds(header, len) = self.own else { return true };
        let needed = len + VnetHeader::LEN;
        let (mut chains, mut room) = (0, 0);
        while room < needed {
            if chains == self.held.len() && !self.pull() {
                break;
            }
            room += self.held.get(chains).map_or(0, |buffer| buffer.len);
            chains += 1;
        }
        if room < needed {
            if self.held.len() < self.ring.size().into() {
                return false;
            }
            drops.count(DropReason::Oversized);
        } else {
            self.copy_own_slot(chains, len);
            self.complete(chains, header, len, drops);
            self.put_left_over_back();
        }
        self.own = OwnSlot::Idle;
        true
    }

    fn copy_own_slot(&self, chains: usize, len: usize) {
        let mut rest = &self.own_memory[..len.min(self.own_memory.len())];
        for (i, buffer) in self.held.range(..chains).enumerate() {
            let header = if i == 0 { VnetHeader::LEN } else { 0 };
            for segment in buffer.behind(header) {
                let done = segment.fragment_mut(self.ring.memory()).copy_from(0, rest);
                rest = &rest[done..];
            }
        }
    }

    /// Gives a frame of `len` bytes, which lies behind the header's place in the first `chains` held, to the guest.
    fn complete(&mut self, chains: usize, header: VnetHeader, len: usize, drops: &mut DropCounts) {
        let good = self.permitted.permit(&header);
        if !good {
            // The link had not heard yet what this driver accepts.
            drops.count(DropReason::BadOffload);
        }
        let mut left = if good { len + VnetHeader::LEN } else { 0 };
        if good {
            self.write_header(self.chains_for(left), header);
        }
        for _ in 0..chains {
            let Some(buffer) = self.held.pop_front() else { return };
            let filled = left.min(buffer.len);
            if filled == 0 {
                self.left_over.push(buffer);
                continue;
            }
            left -= filled;
            self.ring.push_used(buffer.head, filled as u32);
            self.spares.give(buffer.segments);
        }
    }

    /// How many of the held chains `len` bytes fill.
    fn chains_for(&self, len: usize) -> usize {
        let mut room = 0;
        1 + self
            .held
            .iter()
            .take_while(|buffer| {
                room += buffer.len;
                room < len
            })
            .count()
    }

    /// `struct virtio_net_hdr_v1` at the front of the first held chain (§5.1.6.4).
    fn write_header(&self, num_buffers: usize, mut header: VnetHeader) {
        let Some(buffer) = self.held.front() else { return };
        header.ecn &= self.ecn;
        if !self.permitted.checksum {
            header.checksum = Checksum::Complete;
        }
        let mut bytes = header.to_bytes();
        bytes[10..].copy_from_slice(&(num_buffers as u16).to_le_bytes());
        let mut done = 0;
        for segment in &buffer.segments {
            done += segment.fragment_mut(self.ring.memory()).copy_from(0, &bytes[done..]);
        }
    }

    fn put_left_over_back(&mut self) {
        for buffer in self.left_over.drain(..).rev() {
            self.held.push_front(buffer);
        }
    }
}
