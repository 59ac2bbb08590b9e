//! Offloads in software: the one module that segments and checksums, and [`Soft`], which does so around any link.
//!
//! Theory of operation. Sending: a batch that the inner link permits as it is goes through untouched. Otherwise the
//! frames that need work are copied, once, out of memory that others may change; the copy is parsed and cut into
//! [`Piece`]s; these and the permitted frames go to the inner link as one batch, in order. If the inner link is full in
//! the midst of a frame, that frame counts as taken and its remaining segments wait in `unsent`, before everything else.
//!
//! Receiving: the inner link is told what the owner accepts, and normally fills the owner's slots itself. After the owner
//! has begun to accept less, longer frames may still be on their way: until the inner link has been found empty once,
//! frames are received into buffers of our own (*staging*) and what the owner does not accept is cut into `undelivered`.
//! A frame that surprises us in the owner's slot is taken out of it again and treated alike.
//!
//! Both queues are bounded: nothing is added to one that is not empty.
//!
//! Neighbours: `segment` cuts, `join` does the reverse, `checksum` adds, `frame` says what a header means (virtio 1.2 §5.1.6).

mod checksum;
mod join;
mod segment;

pub use join::DatagramRun;
pub use segment::{finish_checksum, segment};

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::ops::Range;
use std::time::Instant;

use mio::{Registry, Token};

use crate::{
    Capabilities, Checksum, Counters, DropCounts, DropReason, Fragment, FragmentMut, Frame, GsoType, Link, LinkState,
    MAX_FRAME_LEN, Offloads, OwnedFrame, RxBatch, TxBatch, VnetHeader, Way,
};
use segment::Segments;

/// Bytes of frames after which a round of cutting ends and goes to the inner link.
const ROUND_BYTES: usize = 256 * 1024;
/// Frames received at once into buffers of our own.
const STAGE_FRAMES: usize = 4;

/// A link around another that takes every offload, and delivers none that its owner does not accept.
///
/// Its [`Link::counters`] are the inner link's, so they count what went over the wire, and its own drops.
pub struct Soft<L> {
    inner: L,
    accepts: Offloads,
    workbench: Workbench,
    /// The rest of a frame whose first segments the inner link has taken.
    unsent: VecDeque<OwnedFrame>,
    outgoing: TxBatch<'static>,
    /// Received, and fit for the owner.
    undelivered: VecDeque<OwnedFrame>,
    staging: Staging,
    stage: Vec<Box<[u8]>>,
    drops: DropCounts,
}

/// Whether frames are received into buffers of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Staging {
    /// No: the inner link knows what the owner accepts.
    Off,
    /// Until the inner link is empty: frames from before may still be there.
    UntilEmpty,
    /// Always: the inner link refused the setting.
    Always,
}

impl<L: Link> Soft<L> {
    /// Wraps a link. The owner accepts nothing until it says so.
    pub fn new(inner: L) -> Self {
        Self {
            inner,
            accepts: Offloads::NONE,
            workbench: Workbench::default(),
            unsent: VecDeque::new(),
            outgoing: TxBatch::new(),
            undelivered: VecDeque::new(),
            staging: Staging::UntilEmpty,
            stage: Vec::new(),
            drops: DropCounts::default(),
        }
    }

    /// The link inside.
    pub fn inner(&self) -> &L {
        &self.inner
    }

    /// Sends the rest of the frame that the inner link took in part; returns whether nothing of it is left.
    fn flush(&mut self) -> io::Result<bool> {
        if self.unsent.is_empty() {
            return Ok(true);
        }
        let mut batch = mem::take(&mut self.outgoing).recycle();
        for frame in &self.unsent {
            batch.push(frame.header, [Fragment::new(&frame.bytes)]);
        }
        let sent = self.inner.send(&batch)?;
        self.outgoing = batch.recycle();
        self.unsent.drain(..sent);
        Ok(self.unsent.is_empty())
    }

    /// Prepares as many frames as make a round, from the frame `first` on, and sends them; returns how many frames were
    /// taken and whether the inner link has room for more.
    fn send_round(&mut self, batch: &TxBatch<'_>, first: usize) -> io::Result<(usize, bool)> {
        let permitted = self.inner.capabilities().offloads;
        self.workbench.clear();
        let mut prepared = 0;
        for frame in batch.frames().skip(first) {
            self.workbench.add_frame(&frame, permitted);
            prepared += 1;
            if self.workbench.is_full() {
                break;
            }
        }
        let sent = self.send_pieces(batch, first)?;
        let taken = match self.workbench.frame_left_at(sent) {
            None => prepared,
            Some((frame, Progress::Untouched)) => frame,
            Some((frame, Progress::Begun)) => {
                let rest = self.workbench.pieces[sent..].iter().take_while(|piece| piece.frame == frame);
                self.unsent.extend(rest.filter_map(|piece| self.workbench.owned(piece)));
                frame + 1
            }
        };
        for (_, reason) in self.workbench.rejected.iter().filter(|(frame, _)| *frame < taken) {
            self.drops.count(*reason);
        }
        Ok((taken, sent == self.workbench.pieces.len()))
    }

    /// Sends what lies on the workbench; returns how many pieces the inner link took.
    fn send_pieces(&mut self, batch: &TxBatch<'_>, first: usize) -> io::Result<usize> {
        let mut outgoing = mem::take(&mut self.outgoing).recycle();
        let mut frames = batch.frames().skip(first).enumerate();
        for piece in &self.workbench.pieces {
            match &piece.body {
                Body::AsItIs => {
                    if let Some((_, frame)) = frames.find(|(index, _)| *index == piece.frame) {
                        outgoing.push(frame.header, frame.fragments.iter().copied());
                    }
                }
                Body::Made { .. } => {
                    let parts = self.workbench.parts(&piece.body);
                    outgoing.push(VnetHeader::WHOLE, parts.map(Fragment::new));
                }
            }
        }
        let sent = self.inner.send(&outgoing)?;
        self.outgoing = outgoing.recycle();
        Ok(sent)
    }

    /// Lets the inner link fill the owner's slots; returns whether there is more to be looked for.
    fn receive_directly(&mut self, batch: &mut RxBatch<'_>) -> io::Result<bool> {
        let before = batch.filled();
        self.inner.receive(batch)?;
        let accepts = self.accepts;
        let surprise = batch.frames().skip(before).position(|(header, _)| !accepts.permit(&header));
        let Some(position) = surprise else { return Ok(false) };
        let received: Vec<_> = batch.frames().enumerate().skip(before + position).collect();
        for (slot, (header, len)) in received {
            let mut bytes = vec![0; len];
            batch.copy_to(slot, 0, &mut bytes);
            self.admit(header, &bytes);
        }
        batch.take_back(before + position);
        Ok(true)
    }

    /// Receives into buffers of our own; returns whether there is more to be looked for.
    fn receive_staged(&mut self) -> io::Result<bool> {
        let mut stage = mem::take(&mut self.stage);
        stage.resize_with(STAGE_FRAMES, || vec![0; MAX_FRAME_LEN].into());
        let mut batch = RxBatch::new();
        for buffer in &mut stage {
            batch.push([FragmentMut::new(buffer)]);
        }
        let received = self.inner.receive(&mut batch)?;
        let frames: Vec<_> = batch.frames().collect();
        for (buffer, (header, len)) in stage.iter().zip(frames) {
            self.admit(header, &buffer[..len]);
        }
        if received < STAGE_FRAMES && self.staging == Staging::UntilEmpty {
            self.staging = Staging::Off;
        } else {
            self.stage = stage;
        }
        Ok(received > 0)
    }

    /// Queues a received frame in the form that the owner accepts.
    fn admit(&mut self, header: VnetHeader, bytes: &[u8]) {
        if self.accepts.permit(&header) {
            self.undelivered.push_back(OwnedFrame { header, bytes: bytes.to_vec() });
            return;
        }
        self.workbench.clear();
        match self.workbench.work_on(0, &header, bytes.len(), |copy| {
            copy.copy_from_slice(bytes);
            copy.len()
        }) {
            Ok(()) => {
                let pieces = self.workbench.pieces.iter();
                self.undelivered.extend(pieces.filter_map(|piece| self.workbench.owned(piece)));
            }
            Err(reason) => self.drops.count(reason),
        }
    }

    /// Moves queued frames into the owner's slots, as many as there are of both.
    fn deliver(&mut self, batch: &mut RxBatch<'_>) {
        while !self.undelivered.is_empty() {
            let Some(slot) = batch.next_slot() else { break };
            let Some(frame) = self.undelivered.pop_front() else { break };
            if let Err(reason) = slot.write(frame.header, &[&frame.bytes]) {
                self.drops.count(reason);
            }
        }
    }
}

impl<L: Link> Link for Soft<L> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { offloads: Offloads::ALL, mtu: self.inner.capabilities().mtu }
    }

    /// Never fails: what the inner link refuses is done here.
    fn native_offloads(&self) -> Offloads {
        self.inner.native_offloads()
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        let accepts_less = offloads.intersect(self.accepts) != self.accepts;
        self.accepts = offloads;
        for frame in mem::take(&mut self.undelivered) {
            self.admit(frame.header, &frame.bytes);
        }
        match self.inner.accept(offloads) {
            Err(error) => {
                log::warn!("{}: offloads stay in software: {error}", self.name());
                self.staging = Staging::Always;
            }
            Ok(()) if accepts_less || self.staging == Staging::Always => self.staging = Staging::UntilEmpty,
            Ok(()) => {}
        }
        Ok(())
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.inner.register(registry, token)
    }

    fn tell_while_ready(&mut self, registry: &Registry, token: Token) -> io::Result<bool> {
        self.inner.tell_while_ready(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.inner.deregister(registry)
    }

    fn service(&mut self, now: Instant) -> io::Result<()> {
        self.inner.service(now)?;
        self.flush().map(drop)
    }

    fn deadline(&self) -> Option<Instant> {
        self.inner.deadline()
    }

    fn answers(&self) -> bool {
        self.inner.answers()
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        if !self.flush()? {
            return Ok(0);
        }
        let permitted = self.inner.capabilities().offloads;
        if batch.frames().all(|frame| permitted.permit(&frame.header)) {
            return self.inner.send(batch);
        }
        let mut taken = 0;
        while taken < batch.len() {
            let (more, has_room) = self.send_round(batch, taken)?;
            taken += more;
            if !has_room {
                break;
            }
        }
        Ok(taken)
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        let before = batch.filled();
        loop {
            self.deliver(batch);
            if batch.filled() == batch.len() {
                break;
            }
            let more =
                if self.staging == Staging::Off { self.receive_directly(batch)? } else { self.receive_staged()? };
            if !more {
                break;
            }
        }
        Ok(batch.filled() - before)
    }

    fn state(&self) -> LinkState {
        self.inner.state()
    }

    fn look_again(&mut self) {
        self.inner.look_again();
    }

    fn show_carrier(&mut self, carrier: LinkState) {
        self.inner.show_carrier(carrier);
    }

    fn way(&self) -> Option<Way> {
        self.inner.way()
    }

    fn counters(&self) -> Counters {
        let mut counters = self.inner.counters();
        counters.drops.merge(&self.drops);
        counters
    }
}

/// Frames taken apart, in reusable memory.
#[derive(Default)]
struct Workbench {
    /// Private copies of the frames that need work, end to end in the first `used` bytes: what lies behind them is of
    /// earlier rounds.
    frames: Vec<u8>,
    used: usize,
    /// Headers of segments, end to end.
    headers: Vec<u8>,
    pieces: Vec<Piece>,
    /// Frames that make no piece, and why.
    rejected: Vec<(usize, DropReason)>,
    added: usize,
}

/// What goes to the inner link as one frame.
struct Piece {
    /// The frame it is of, counted from the first one added.
    frame: usize,
    body: Body,
}

enum Body {
    /// The frame itself.
    AsItIs,
    /// A segment, as ranges of [`Workbench::headers`] and [`Workbench::frames`].
    Made { headers: Range<usize>, payload: Range<usize> },
}

/// Whether a piece of a frame has gone already.
enum Progress {
    Untouched,
    Begun,
}

impl Workbench {
    fn clear(&mut self) {
        self.used = 0;
        self.headers.clear();
        self.pieces.clear();
        self.rejected.clear();
        self.added = 0;
    }

    fn is_full(&self) -> bool {
        self.used >= ROUND_BYTES || self.headers.len() >= ROUND_BYTES
    }

    /// Adds a frame, as the pieces in which it may go where `permitted` may be left undone.
    fn add_frame(&mut self, frame: &Frame<'_>, permitted: Offloads) {
        let index = self.added;
        self.added += 1;
        if permitted.permit(&frame.header) {
            self.pieces.push(Piece { frame: index, body: Body::AsItIs });
            return;
        }
        if let Err(reason) = self.work_on(index, &frame.header, frame.len(), |copy| frame.copy_to(0, copy)) {
            self.rejected.push((index, reason));
        }
    }

    /// Makes the pieces of a frame of `len` bytes, which `copy` fetches.
    fn work_on(
        &mut self,
        index: usize,
        header: &VnetHeader,
        len: usize,
        copy: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<(), DropReason> {
        if len > MAX_FRAME_LEN {
            return Err(DropReason::Oversized);
        }
        header.check(len)?;
        let copied = self.used..self.used + len;
        if self.frames.len() < copied.end {
            self.frames.resize(copied.end, 0);
        }
        let frame = &mut self.frames[copied.clone()];
        // Where nothing was copied, an earlier frame would show.
        if copy(frame) != len {
            return Err(DropReason::Malformed);
        }
        self.used = copied.end;
        match header.checksum {
            _ if header.gso_type != GsoType::None => return self.cut(index, header, copied),
            Checksum::Partial { start, offset } => finish_checksum(frame, start, offset)?,
            Checksum::Complete | Checksum::Valid => {}
        }
        let body = Body::Made { headers: 0..0, payload: copied };
        self.pieces.push(Piece { frame: index, body });
        Ok(())
    }

    fn cut(&mut self, index: usize, header: &VnetHeader, copied: Range<usize>) -> Result<(), DropReason> {
        let start = copied.start;
        let segments = Segments::new(header, &self.frames[copied])?;
        for segment in 0..segments.count() {
            let headers_at = self.headers.len();
            segments.append_headers(segment, &mut self.headers);
            let payload = segments.payload(segment);
            let body = Body::Made {
                headers: headers_at..self.headers.len(),
                payload: start + payload.start..start + payload.end,
            };
            self.pieces.push(Piece { frame: index, body });
        }
        Ok(())
    }

    /// The bytes of a segment; nothing for a frame that goes as it is.
    fn parts(&self, body: &Body) -> [&[u8]; 2] {
        match body {
            Body::AsItIs => [&[], &[]],
            Body::Made { headers, payload } => [&self.headers[headers.clone()], &self.frames[payload.clone()]],
        }
    }

    /// A segment as a frame of its own.
    fn owned(&self, piece: &Piece) -> Option<OwnedFrame> {
        match &piece.body {
            Body::AsItIs => None,
            made @ Body::Made { .. } => {
                Some(OwnedFrame { header: VnetHeader::WHOLE, bytes: self.parts(made).concat() })
            }
        }
    }

    /// The first frame of which something is left after `sent` pieces went; `None` if nothing is left of any.
    fn frame_left_at(&self, sent: usize) -> Option<(usize, Progress)> {
        let frame = self.pieces.get(sent)?.frame;
        let begun = sent > 0 && self.pieces[sent - 1].frame == frame;
        Some((frame, if begun { Progress::Begun } else { Progress::Untouched }))
    }
}

#[cfg(test)]
#[path = "sample_test.rs"]
pub(crate) mod sample;
#[cfg(test)]
#[path = "soft_test.rs"]
mod tests;
