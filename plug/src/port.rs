//! A link that is joined to others, and the memory through which frames pass between them: for `hub` and `join`.

use std::io;
use std::mem;
use std::time::Instant;

use link::{
    Counters, DropCounts, DropReason, Fragment, FragmentMut, Link, LinkState, MAX_FRAME_LEN, Offloads, RxBatch,
    TxBatch, VnetHeader,
};
use mio::{Registry, Token};

use crate::report::LinkReport;

/// Frames taken from a port in one turn.
const BATCH_FRAMES: usize = 16;

/// Where frames lie on their way through.
pub(crate) struct Memory {
    buffers: Vec<Box<[u8]>>,
    frames: Vec<(VnetHeader, usize)>,
    incoming: RxBatch<'static>,
    outgoing: TxBatch<'static>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            buffers: (0..BATCH_FRAMES).map(|_| vec![0; MAX_FRAME_LEN].into()).collect(),
            frames: Vec::new(),
            incoming: RxBatch::new(),
            outgoing: TxBatch::new(),
        }
    }
}

impl Memory {
    /// Receives a turn's frames; returns whether there were any. If not, the port may have none until it tells.
    pub(crate) fn receive(&mut self, port: &mut Port) -> io::Result<bool> {
        let mut batch = mem::take(&mut self.incoming).recycle();
        for buffer in &mut self.buffers {
            batch.push([FragmentMut::new(buffer)]);
        }
        let outcome = port.link.receive(&mut batch);
        self.frames.clear();
        self.frames.extend(batch.frames());
        self.incoming = batch.recycle();
        port.may_have_frames = !self.frames.is_empty();
        outcome.map(|_| port.may_have_frames)
    }

    /// The frames of this turn, from the destination address on.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.buffers.iter().zip(&self.frames).map(|(buffer, (_, len))| &buffer[..*len])
    }

    /// Sends every frame of this turn into a port.
    pub(crate) fn send(&mut self, port: &mut Port) -> io::Result<()> {
        let mut batch = mem::take(&mut self.outgoing).recycle();
        for (buffer, (header, len)) in self.buffers.iter().zip(&self.frames) {
            batch.push(*header, [Fragment::new(&buffer[..*len])]);
        }
        let outcome = port.send(&batch);
        self.outgoing = batch.recycle();
        outcome
    }
}

/// A link that takes every offload, and what its owner knows of it.
pub(crate) struct Port {
    link: Box<dyn Link>,
    /// Whether it is to have a turn.
    pub(crate) may_have_frames: bool,
    drops: DropCounts,
}

impl Port {
    /// Takes a link over into an event loop.
    pub(crate) fn open(mut link: Box<dyn Link>, registry: &Registry, token: Token) -> io::Result<Self> {
        link.register(registry, token)?;
        link.accept(Offloads::ALL)?;
        Ok(Self { link, may_have_frames: true, drops: DropCounts::default() })
    }

    pub(crate) fn name(&self) -> &str {
        self.link.name()
    }

    pub(crate) fn state(&self) -> LinkState {
        self.link.state()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.link.deadline()
    }

    pub(crate) fn service(&mut self, now: Instant) -> io::Result<()> {
        self.may_have_frames = true;
        self.link.service(now)
    }

    /// As [`Link::look_again`].
    pub(crate) fn look_again(&mut self) {
        self.link.look_again();
    }

    /// As [`Link::show_carrier`].
    pub(crate) fn show_carrier(&mut self, carrier: LinkState) {
        self.link.show_carrier(carrier);
    }

    /// Sends what the link takes at once; the rest is dropped and counted.
    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<()> {
        let taken = self.link.send(batch)?;
        self.drops.add(DropReason::LinkFull, (batch.len() - taken) as u64);
        self.may_have_frames |= self.link.answers();
        Ok(())
    }

    pub(crate) fn report(&self) -> LinkReport {
        let (name, state, way) = (self.name().to_owned(), self.state(), self.link.way());
        LinkReport { name, state, way, counters: self.counters() }
    }

    pub(crate) fn counters(&self) -> Counters {
        let mut counters = self.link.counters();
        counters.drops.merge(&self.drops);
        counters
    }
}
