//! Frames over a byte stream: two descriptors, one to read and one to write, which may be a socket's, a pipe's or those of
//! this process's standard input and output.
//!
//! Theory of operation. Reading: bytes gather in a [`wire::Decoder`], and each frame is copied into the owner's slot.
//! Writing: a batch goes to the kernel as one `writev` (in VDE's framing one for each frame, since vde_plug loses its way
//! where a read of its own ends between the two bytes of a length). What the kernel does not take waits in a queue. The
//! queue is bounded in bytes; when it is full its *oldest* frame goes, counted as [`DropReason::LinkFull`]: what is
//! old is worth least, and a queue that is never emptied from its head only adds delay. So `send` always takes everything.
//! A frame that has begun to be written is written to its end.
//!
//! Invariant: nothing here blocks. The descriptors are made non-blocking and get their flags back at the end, since others
//! may share them.
//!
//! The end of the stream, and anything that is no record, ends the link: `receive` says which by its error.
//!
//! Neighbours: `wire` for the formats, `socket` for links over TCP and Unix sockets; `plug` for the rest of them.

mod socket;
pub mod wire;

pub use socket::{Role, StreamAddress, StreamConfig, StreamError, StreamSocket};

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::datagram::JUMBO_MTU;
use crate::{Capabilities, Counters, DropReason, Fragment, Frame, Offloads, RxBatch, TxBatch};
use wire::{Decoder, Framing, Garbage, Hello, Item};

/// Bytes that wait to be written at most: 3 ms at 1.4 Gbit/s, and eight of the longest frames.
const QUEUE_BYTES: usize = 512 * 1024;
/// Bytes before a hello at most.
const MAX_NOISE: usize = 64 * 1024;
/// Vectors of one system call (`UIO_MAXIOV`).
const MAX_VECTORS: usize = 1024;

/// What this side says of itself when a stream in VDE's framing begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening<'a> {
    /// Nothing: the framing stays.
    Silent,
    /// A greeting: the far side may be one of VDE's programs.
    Greet,
    /// A hello: the far side is ours. Perhaps with another way for frames.
    Hello(Option<&'a str>),
}

/// A stream that carries frames. Its methods are those of [`crate::Link`].
pub struct FrameStream {
    input: Ends,
    output: Ends,
    decoder: Decoder,
    queue: Queue,
    scratch: Scratch,
    agreement: Agreement,
    /// The stream has ended, and what was received before is still to be fetched.
    end: Option<io::Error>,
    waiting: Option<(Registry, Token)>,
    /// When it was taken over: a moment that has passed.
    begun: Instant,
    counters: Counters,
}

impl FrameStream {
    /// Takes over a stream's two descriptors.
    ///
    /// # Errors
    /// A descriptor that is not open.
    pub fn new(input: OwnedFd, output: OwnedFd, framing: Framing, opening: Opening<'_>) -> io::Result<Self> {
        let mut stream = Self {
            input: Ends::new(input)?,
            output: Ends::new(output)?,
            decoder: Decoder::new(framing),
            queue: Queue::default(),
            scratch: Scratch::default(),
            agreement: Agreement::new(framing),
            end: None,
            waiting: None,
            begun: Instant::now(),
            counters: Counters::default(),
        };
        match opening {
            Opening::Silent => {}
            Opening::Greet => stream.queue.push_words(&wire::GREETING),
            Opening::Hello(data) => {
                stream.agreement.data = data.map(str::to_owned);
                stream.agreement.say_hello(&mut stream.queue);
            }
        }
        Ok(stream)
    }

    /// Whether frames are sent in our own framing: both sides have agreed.
    #[must_use]
    pub fn is_agreed(&self) -> bool {
        self.agreement.sends == Framing::Etherloom
    }

    /// Offers another way for frames in this side's hello, if that is still to be said.
    pub fn offer_data(&mut self, data: String) {
        self.agreement.data = Some(data);
    }

    /// The other way that the far side's hello has offered.
    #[must_use]
    pub fn peer_data(&self) -> Option<&str> {
        self.agreement.peer_data.as_deref()
    }

    /// Reads on until the far side says hello; returns what came before that, which is skipped, or nothing as long as
    /// there is no hello. For a far side that is ours, behind others that may have their say first.
    ///
    /// # Errors
    /// The stream has ended, or too much came before.
    pub fn await_hello(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = wire::find_line(self.decoder.rest()) {
                let noise = self.decoder.rest()[..at].to_vec();
                self.decoder.skip(at);
                return Ok(Some(noise));
            }
            if self.decoder.rest().len() > MAX_NOISE {
                return Err(invalid(Garbage::of(self.decoder.rest())));
            }
            match self.input.read(self.decoder.room()) {
                Ok(0) if self.decoder.rest().is_empty() => return Err(io::ErrorKind::NotConnected.into()),
                Ok(0) => return Err(invalid(Garbage::of(self.decoder.rest()))),
                Ok(len) => self.decoder.filled(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads until something is there for [`FrameStream::receive`]; returns whether there is.
    ///
    /// # Errors
    /// The stream has ended.
    pub fn await_bytes(&mut self) -> io::Result<bool> {
        if !self.decoder.rest().is_empty() {
            return Ok(true);
        }
        match self.input.read(self.decoder.room()) {
            Ok(0) => Err(io::ErrorKind::NotConnected.into()),
            Ok(len) => {
                self.decoder.filled(len);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What may be sent.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        Capabilities { offloads: self.agreement.peer_receives, mtu: JUMBO_MTU }
    }

    /// As [`crate::Link::accept`]; the far side was told that everything is received, so what the owner does not accept
    /// is for [`crate::Soft`] to cut.
    ///
    /// # Errors
    /// The owner accepts no segmentation.
    pub fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        if !offloads.any_segmentation() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the far end is told that all are received"));
        }
        Ok(())
    }

    /// As [`crate::Link::register`].
    ///
    /// # Errors
    /// A descriptor cannot be polled.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.input.watch(registry, token, Interest::READABLE)?;
        self.waiting = Some((registry.try_clone()?, token));
        self.await_room()
    }

    /// As [`crate::Link::deregister`].
    ///
    /// # Errors
    /// A descriptor was not registered.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.waiting = None;
        self.input.forget(registry)?;
        self.output.forget(registry)
    }

    /// As [`crate::Link::service`].
    ///
    /// # Errors
    /// The far side reads no more.
    pub fn service(&mut self) -> io::Result<()> {
        self.flush()
    }

    /// As [`crate::Link::deadline`]: at once for a descriptor that is always ready, as a file's, while there is more to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let reads = self.input.is_always_ready && self.end.is_none();
        let writes = self.output.is_always_ready && !self.queue.is_empty();
        (reads || writes).then_some(self.begun)
    }

    /// As [`crate::Link::send`]; takes everything.
    ///
    /// # Errors
    /// The far side reads no more.
    pub fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        self.flush()?;
        let Scratch { mut prefixes, mut places, vectors } = mem::take(&mut self.scratch);
        prefixes.clear();
        places.clear();
        places.extend(batch.frames().map(|frame| self.prefix(&frame, &mut prefixes)));
        let sent = batch.frames().zip(&places).filter(|(_, place)| !place.is_empty());
        let mut rest = sent.map(|(frame, place)| (frame, &prefixes[place.clone()]));
        let at_once = if self.agreement.sends == Framing::Vde { 1 } else { usize::MAX };
        let mut vectors = emptied(vectors);
        while self.queue.is_empty() {
            vectors.clear();
            let mut count = 0;
            for (frame, prefix) in rest.clone().take(at_once) {
                if count > 0 && vectors.len() + 1 + frame.fragments.len() > MAX_VECTORS {
                    break;
                }
                vectors.push(Fragment::new(prefix));
                vectors.extend_from_slice(frame.fragments);
                count += 1;
            }
            if count == 0 {
                break;
            }
            let mut written = self.output.write(&vectors[..vectors.len().min(MAX_VECTORS)])?;
            for (frame, prefix) in rest.by_ref().take(count) {
                let len = prefix.len() + frame.len();
                if written < len {
                    self.queue.push_frame(&frame, prefix, mem::take(&mut written));
                } else {
                    written -= len;
                    self.counters.sent(frame.len());
                }
            }
        }
        rest.for_each(|(frame, prefix)| self.queue.push_frame(&frame, prefix, 0));
        self.scratch = Scratch { vectors: emptied(vectors), prefixes, places };
        self.counters.drops.add(DropReason::LinkFull, self.queue.shorten());
        self.await_room()?;
        Ok(batch.len())
    }

    /// As [`crate::Link::receive`].
    ///
    /// # Errors
    /// The stream has ended ([`io::ErrorKind::UnexpectedEof`]), or is none of frames ([`io::ErrorKind::InvalidData`] around
    /// [`Garbage`]).
    pub fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        let before = batch.filled();
        while batch.filled() < batch.len() {
            if self.take_item(batch)? {
                continue;
            }
            if batch.filled() == before
                && let Some(error) = self.end.take()
            {
                return Err(error);
            }
            if self.end.is_some() {
                break;
            }
            match self.input.read(self.decoder.room()) {
                Ok(0) => self.end = Some(io::Error::new(io::ErrorKind::UnexpectedEof, "the far side has ended")),
                Ok(len) => self.decoder.filled(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => self.end = Some(error),
            }
        }
        Ok(batch.filled() - before)
    }

    /// What this stream has carried and dropped.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Writes what stands before a frame, and returns its place; nothing for one that is dropped.
    fn prefix(&mut self, frame: &Frame<'_>, prefixes: &mut Vec<u8>) -> Range<usize> {
        let Agreement { sends, peer_receives, .. } = &self.agreement;
        let checked = sends.check(&frame.header, frame.len());
        let permitted = if peer_receives.permit(&frame.header) { Ok(()) } else { Err(DropReason::BadOffload) };
        let begin = prefixes.len();
        match checked.and(permitted) {
            Ok(()) => sends.prefix(&frame.header, frame.len(), prefixes),
            Err(reason) => self.counters.drops.count(reason),
        }
        begin..prefixes.len()
    }

    /// Deals with the next item of what has been read; returns whether there was one.
    fn take_item(&mut self, batch: &mut RxBatch<'_>) -> io::Result<bool> {
        let Some(item) = self.decoder.next_item().map_err(invalid)? else { return Ok(false) };
        match item {
            Item::Frame(header, frame) => {
                let written = batch.next_slot().map_or(Ok(()), |slot| slot.write(header, &[frame]));
                match written {
                    Ok(()) => self.counters.received(frame.len()),
                    Err(reason) => self.counters.drops.count(reason),
                }
            }
            Item::Bad(reason) => self.counters.drops.count(reason),
            Item::Greeting => self.agreement.say_hello(&mut self.queue),
            Item::Hello(hello) => self.agreement.hear_hello(hello, &mut self.queue),
            Item::Turn => {}
        }
        if !self.queue.is_empty() {
            self.flush()?;
        }
        Ok(true)
    }

    /// Writes what waits, as far as there is room.
    fn flush(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let at_once = if self.agreement.sends == Framing::Vde { 1 } else { MAX_VECTORS };
            let written = self.output.write(&self.queue.vectors(at_once))?;
            if written == 0 {
                break;
            }
            self.queue.advance(written, &mut self.counters);
        }
        self.await_room()
    }

    /// Has readiness tell of room while something waits, and not otherwise.
    fn await_room(&mut self) -> io::Result<()> {
        let Some((registry, token)) = &self.waiting else { return Ok(()) };
        match (self.queue.is_empty(), self.output.is_watched) {
            (false, false) => self.output.watch(registry, *token, Interest::WRITABLE),
            (true, true) => self.output.forget(registry),
            _ => Ok(()),
        }
    }
}

/// Memory for a batch on its way, kept for the next.
#[derive(Default)]
struct Scratch {
    /// What stands before each frame.
    prefixes: Vec<u8>,
    /// Where, frame by frame; empty for one that is dropped.
    places: Vec<Range<usize>>,
    /// What goes to the kernel; empty between two batches.
    vectors: Vec<Fragment<'static>>,
}

/// The same vector, empty, for fragments of another lifetime: the standard library collects it in place.
fn emptied<'a>(mut vectors: Vec<Fragment<'_>>) -> Vec<Fragment<'a>> {
    vectors.clear();
    vectors.into_iter().map(|_| Fragment::new(&[])).collect()
}

fn invalid(garbage: Garbage) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, garbage)
}

/// Who sends what, and who has said what.
struct Agreement {
    sends: Framing,
    peer_receives: Offloads,
    has_said_hello: bool,
    /// Another way for frames, for our hello, and from the far side's.
    data: Option<String>,
    peer_data: Option<String>,
}

impl Agreement {
    fn new(sends: Framing) -> Self {
        Self { sends, peer_receives: Offloads::NONE, has_said_hello: false, data: None, peer_data: None }
    }

    fn say_hello(&mut self, queue: &mut Queue) {
        if self.sends == Framing::Vde && !self.has_said_hello {
            self.has_said_hello = true;
            let hello = Hello { receives: Offloads::ALL, data: self.data.as_deref() };
            queue.push_words(&hello.line());
        }
    }

    fn hear_hello(&mut self, hello: Hello<'_>, queue: &mut Queue) {
        if self.sends == Framing::Vde {
            self.say_hello(queue);
            queue.push_words(&wire::turn());
            self.sends = Framing::Etherloom;
            self.peer_receives = hello.receives;
            self.peer_data = hello.data.map(str::to_owned);
        }
    }
}

/// Records that wait to be written. The first may have been written in part.
#[derive(Default)]
struct Queue {
    records: VecDeque<Record>,
    bytes: usize,
    /// Bytes of the first that are written.
    written: usize,
}

struct Record {
    bytes: Vec<u8>,
    /// The frame's, if it is one.
    frame_len: Option<usize>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds words that must not be lost.
    fn push_words(&mut self, words: &[u8]) {
        self.push(words.to_vec(), None);
    }

    /// Adds a frame with what stands before it, of which so many bytes have been written; some only if nothing else waits.
    fn push_frame(&mut self, frame: &Frame<'_>, prefix: &[u8], written: usize) {
        if self.is_empty() {
            self.written = written;
        }
        let mut record = Vec::with_capacity(prefix.len() + frame.len());
        record.extend_from_slice(prefix);
        frame.append_to(&mut record);
        self.push(record, Some(frame.len()));
    }

    fn push(&mut self, bytes: Vec<u8>, frame_len: Option<usize>) {
        self.bytes += bytes.len();
        self.records.push_back(Record { bytes, frame_len });
    }

    /// Drops the oldest frames until the queue is no longer than it may be; returns how many.
    fn shorten(&mut self) -> u64 {
        let mut dropped = 0;
        let first = usize::from(self.written > 0);
        while self.bytes > QUEUE_BYTES {
            let Some(oldest) = self.records.iter().skip(first).position(|record| record.frame_len.is_some()) else {
                break;
            };
            let Some(record) = self.records.remove(first + oldest) else { break };
            self.bytes -= record.bytes.len();
            dropped += 1;
        }
        dropped
    }

    fn vectors(&self, most: usize) -> Vec<Fragment<'_>> {
        let mut skip = self.written;
        let records = self.records.iter().take(most);
        records.map(|record| Fragment::new(&record.bytes).skip(mem::take(&mut skip))).collect()
    }

    /// So many bytes more have been written; counts the frames that are through.
    fn advance(&mut self, written: usize, counters: &mut Counters) {
        self.written += written;
        while let Some(first) = self.records.front().filter(|first| first.bytes.len() <= self.written) {
            self.written -= first.bytes.len();
            self.bytes -= first.bytes.len();
            if let Some(len) = first.frame_len {
                counters.sent(len);
            }
            self.records.pop_front();
        }
    }
}

/// One descriptor of a stream.
struct Ends {
    file: File,
    before: OFlag,
    is_watched: bool,
    /// It cannot be polled: a file.
    is_always_ready: bool,
}

impl Ends {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let before = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(before | OFlag::O_NONBLOCK))?;
        Ok(Self { file: File::from(fd), before, is_watched: false, is_always_ready: false })
    }

    fn watch(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match registry.register(&mut SourceFd(&self.fd()), token, interest) {
            // epoll(7): a regular file, or /dev/null, which never has one wait.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.is_always_ready = true,
            outcome => {
                outcome?;
                self.is_watched = true;
            }
        }
        Ok(())
    }

    fn forget(&mut self, registry: &Registry) -> io::Result<()> {
        if mem::take(&mut self.is_watched) {
            registry.deregister(&mut SourceFd(&self.fd()))?;
        }
        Ok(())
    }

    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    /// Returns how many bytes were written; 0 if there is no room now.
    fn write(&mut self, fragments: &[Fragment<'_>]) -> io::Result<usize> {
        let vectors = Fragment::as_iovecs(fragments);
        let count = vectors.len().min(MAX_VECTORS) as libc::c_int;
        loop {
            // SAFETY: the vectors are of fragments, which are readable while the caller holds them.
            let written = unsafe { libc::writev(self.fd(), vectors.as_ptr(), count) };
            if let Ok(written) = usize::try_from(written) {
                return Ok(written);
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(0),
                _ => return Err(error),
            }
        }
    }

    fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if !self.before.contains(OFlag::O_NONBLOCK) {
            // Who shares the descriptor expects it as it was; if nobody does, nothing is lost.
            let _ = fcntl(&self.file, FcntlArg::F_SETFL(self.before));
        }
    }
}

#[cfg(test)]
#[path = "stream_test.rs"]
mod tests;
