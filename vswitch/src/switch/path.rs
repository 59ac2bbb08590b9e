//! The data path: a turn takes frames out of one member, asks the bridge about each, and sends each port its share.
//!
//! Frames lie in memory of the switch's own, so a client cannot change one after it was looked at. Nothing is copied
//! between receiving and sending: a tag goes in or out between fragments. A frame's work left undone (checksum,
//! segmentation) stays undone unless a member cannot take it; [`link::Soft`] then does it, for that member alone. Small
//! datagrams that came in together leave together, as one frame to be cut by the receiver, where that can be done.

use std::mem;
use std::ops::Range;

use link::soft::DatagramRun;
use link::{Fragment, FragmentMut, MAX_FRAME_LEN, RxBatch, TxBatch, VnetHeader};

use crate::PortId;
use crate::bridge::{Egress, TagAction};

use super::floor::Floor;
use super::pace::MAX_TURN;

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
    pieces: Vec<Piece>,
    /// Bytes of the switch's own in front of frames.
    fronts: Vec<u8>,
    incoming: RxBatch<'static>,
    outgoing: TxBatch<'static>,
}

/// A frame for a port.
#[derive(Clone, Copy)]
struct Share {
    frame: usize,
    tag: TagAction,
}

/// What leaves as one frame.
struct Piece {
    /// Frames of the share in it.
    count: usize,
    header: VnetHeader,
    /// The part of `fronts` that comes first.
    front: Range<usize>,
    /// Bytes of each frame that stay behind.
    skip: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            buffers: (0..MAX_TURN).map(|_| vec![0; MAX_FRAME_LEN].into()).collect(),
            frames: Vec::new(),
            shares: Vec::new(),
            touched: Vec::new(),
            egress: Vec::new(),
            pieces: Vec::new(),
            fronts: Vec::new(),
            incoming: RxBatch::new(),
            outgoing: TxBatch::new(),
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
    pub(super) fn share_out(&mut self, mut decide: impl FnMut(VnetHeader, &[u8], &mut Vec<Egress>)) {
        for (index, (buffer, (header, len))) in self.buffers.iter().zip(&self.frames).enumerate() {
            self.egress.clear();
            decide(*header, &buffer[..*len], &mut self.egress);
            for egress in &self.egress {
                let Some(share) = self.shares.get_mut(egress.port.index()) else { continue };
                if share.is_empty() {
                    self.touched.push(egress.port);
                }
                share.push(Share { frame: index, tag: egress.tag });
            }
        }
    }

    /// Hands each port its share, as one batch. Datagrams of one flow go as one frame to a port that can cut it.
    pub(super) fn deliver(&mut self, floor: &mut Floor) {
        let mut touched = mem::take(&mut self.touched);
        for port in touched.drain(..) {
            let mut share = mem::take(&mut self.shares[port.index()]);
            self.prepare(&share, share.len() > 1 && floor.takes_long_datagrams(port));
            let mut batch = mem::take(&mut self.outgoing).recycle();
            let mut rest = share.as_slice();
            for piece in &self.pieces {
                let (frames, later) = rest.split_at(piece.count);
                rest = later;
                let front = Some(Fragment::new(&self.fronts[piece.front.clone()])).filter(|front| !front.is_empty());
                let bodies = frames.iter().map(|share| Fragment::new(self.frame(share.frame).1).skip(piece.skip));
                batch.push(piece.header, front.into_iter().chain(bodies));
            }
            floor.send(port, &batch);
            self.outgoing = batch.recycle();
            share.clear();
            self.shares[port.index()] = share;
        }
        self.touched = touched;
    }

    /// Lays out what a port gets: a piece for each frame, or for a run of datagrams if the port can cut them again.
    fn prepare(&mut self, share: &[Share], join: bool) {
        self.pieces.clear();
        self.fronts.clear();
        let mut rest = share;
        while let Some(first) = rest.first() {
            let (header, len) = self.frames[first.frame];
            let frame = &self.buffers[first.frame][..len];
            let run = if join { self.run(rest) } else { None };
            let begin = self.fronts.len();
            let (count, header, skip) = match run {
                Some(run) => (run.count(), run.append_headers(frame, &mut self.fronts), run.payload_at()),
                None => {
                    let (header, skip) = change_tag(first.tag, header, frame, &mut self.fronts);
                    (1, header, skip)
                }
            };
            self.pieces.push(Piece { count, header, front: begin..self.fronts.len(), skip });
            rest = &rest[count..];
        }
    }

    /// The run of datagrams that a share begins with, if it is longer than one.
    fn run(&self, share: &[Share]) -> Option<DatagramRun> {
        let (first, others) = share.split_first()?;
        let (header, frame) = self.frame(first.frame);
        let mut run = DatagramRun::begin(&header, frame).filter(|_| first.tag == TagAction::Keep)?;
        for other in others {
            let (header, next) = self.frame(other.frame);
            if other.tag != TagAction::Keep || !run.extend(frame, &header, next) {
                break;
            }
        }
        (run.count() > 1).then_some(run)
    }
}

/// Appends what takes the place of a frame's first bytes, and returns its header and how many bytes that are.
fn change_tag(action: TagAction, header: VnetHeader, frame: &[u8], front: &mut Vec<u8>) -> (VnetHeader, usize) {
    if action == TagAction::Keep {
        return (header, 0);
    }
    front.extend_from_slice(frame.get(..ADDRESSES_LEN).unwrap_or(frame));
    if let TagAction::Insert(tci) | TagAction::Replace(tci) = action {
        front.extend_from_slice(&TPID);
        front.extend_from_slice(&tci.to_be_bytes());
    }
    match action {
        TagAction::Insert(_) => (header.shifted(TAG_LEN), ADDRESSES_LEN),
        TagAction::Remove => (header.shifted(-TAG_LEN), ADDRESSES_LEN + TAG_LEN.unsigned_abs() as usize),
        TagAction::Keep | TagAction::Replace(_) => (header, ADDRESSES_LEN + TAG_LEN.unsigned_abs() as usize),
    }
}
