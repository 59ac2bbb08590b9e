//! The data path: a turn takes frames out of one member, asks the bridge about each, and sends each port its share.
//!
//! Frames lie in memory of the switch's own, so a client cannot change one after it was looked at. Nothing is copied
//! between receiving and sending: a tag goes in or out between fragments. A frame's work left undone (checksum,
//! segmentation) stays undone unless a member cannot take it; [`link::Soft`] then does it, for that member alone.

use std::mem;

use link::{Fragment, FragmentMut, MAX_FRAME_LEN, RxBatch, TxBatch, VnetHeader};

use crate::PortId;
use crate::bridge::{Egress, TagAction};

use super::port::MAX_TURN;

/// Bytes of the two addresses, behind which a tag stands (IEEE 802.1Q-2018 §9.3).
const ADDRESSES_LEN: usize = 12;
/// Bytes of a tag.
const TAG_LEN: i16 = 4;
/// The tag protocol identifier of a customer VLAN.
const TPID: [u8; 2] = [0x81, 0x00];

/// Where the frames of a turn lie, and where they go.
pub(super) struct Memory {
    buffers: Vec<Box<[u8]>>,
    frames: Vec<(VnetHeader, usize)>,
    /// By place of the port: its share of the frames.
    shares: Vec<Vec<Share>>,
    /// Ports with a share, in the order in which they got it.
    touched: Vec<PortId>,
    egress: Vec<Egress>,
    incoming: RxBatch<'static>,
    outgoing: TxBatch<'static>,
    tags: Vec<[u8; 4]>,
}

/// A frame for a port.
#[derive(Clone, Copy)]
struct Share {
    frame: usize,
    tag: TagAction,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            buffers: (0..MAX_TURN).map(|_| vec![0; MAX_FRAME_LEN].into()).collect(),
            frames: Vec::new(),
            shares: Vec::new(),
            touched: Vec::new(),
            egress: Vec::new(),
            incoming: RxBatch::new(),
            outgoing: TxBatch::new(),
            tags: Vec::new(),
        }
    }
}

impl Memory {
    /// Makes room for the shares of a port.
    pub(super) fn add_port(&mut self, port: PortId) {
        if self.shares.len() <= port.index() {
            self.shares.resize_with(port.index() + 1, Vec::new);
        }
    }

    /// Receives up to `count` frames by `receive`.
    pub(super) fn receive<T>(&mut self, count: usize, receive: impl FnOnce(&mut RxBatch<'_>) -> T) -> T {
        let mut batch = mem::take(&mut self.incoming).recycle();
        for buffer in self.buffers.iter_mut().take(count) {
            batch.push([FragmentMut::new(buffer)]);
        }
        let outcome = receive(&mut batch);
        self.frames.clear();
        self.frames.extend(batch.frames());
        self.incoming = batch.recycle();
        outcome
    }

    /// Frames received in this turn.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// A frame of this turn.
    pub(super) fn frame(&self, index: usize) -> (VnetHeader, &[u8]) {
        let (header, len) = self.frames[index];
        (header, &self.buffers[index][..len])
    }

    /// Decides on every frame by `decide`, which is given the frame and appends where it goes.
    pub(super) fn share_out(&mut self, mut decide: impl FnMut(&[u8], &mut Vec<Egress>)) {
        for (index, (buffer, (_, len))) in self.buffers.iter().zip(&self.frames).enumerate() {
            self.egress.clear();
            decide(&buffer[..*len], &mut self.egress);
            for egress in &self.egress {
                let Some(share) = self.shares.get_mut(egress.port.index()) else { continue };
                if share.is_empty() {
                    self.touched.push(egress.port);
                }
                share.push(Share { frame: index, tag: egress.tag });
            }
        }
    }

    /// Hands each port its share, as one batch.
    pub(super) fn deliver(&mut self, mut send: impl FnMut(PortId, &TxBatch<'_>)) {
        let mut touched = mem::take(&mut self.touched);
        for port in touched.drain(..) {
            let mut share = mem::take(&mut self.shares[port.index()]);
            self.tags.clear();
            self.tags.extend(share.iter().map(|share| tag_bytes(share.tag)));
            let mut batch = mem::take(&mut self.outgoing).recycle();
            for (share, tag) in share.iter().zip(&self.tags) {
                let (header, len) = self.frames[share.frame];
                push(&mut batch, header, &self.buffers[share.frame][..len], share.tag, tag);
            }
            send(port, &batch);
            self.outgoing = batch.recycle();
            share.clear();
            self.shares[port.index()] = share;
        }
        self.touched = touched;
    }
}

fn tag_bytes(action: TagAction) -> [u8; 4] {
    match action {
        TagAction::Insert(tci) | TagAction::Replace(tci) => {
            let [high, low] = tci.to_be_bytes();
            [TPID[0], TPID[1], high, low]
        }
        TagAction::Keep | TagAction::Remove => [0; 4],
    }
}

/// Adds a frame to a batch, its tag changed.
fn push<'a>(batch: &mut TxBatch<'a>, header: VnetHeader, frame: &'a [u8], action: TagAction, tag: &'a [u8; 4]) {
    let whole = Fragment::new(frame);
    let addresses = Fragment::new(frame.get(..ADDRESSES_LEN).unwrap_or(frame));
    match action {
        TagAction::Keep => batch.push(header, [whole]),
        TagAction::Insert(_) => {
            batch.push(header.shifted(TAG_LEN), [addresses, Fragment::new(tag), whole.skip(ADDRESSES_LEN)]);
        }
        TagAction::Replace(_) => {
            batch.push(header, [addresses, Fragment::new(tag), whole.skip(ADDRESSES_LEN + tag.len())]);
        }
        TagAction::Remove => batch.push(header.shifted(-TAG_LEN), [addresses, whole.skip(ADDRESSES_LEN + tag.len())]),
    }
}
