//! The TFTP server: guests read the files of one folder (RFC 1350), with the options of RFC 2347: `blksize` (RFC 2348),
//! `timeout` and `tsize` (RFC 2349), `windowsize` (RFC 7440). Nobody writes.
//!
//! # Theory of operation
//! A transfer is known by its client's address and port. All that belongs to it leaves from port 69, to which the
//! request came, not from a port of its own: RFC 1350 §4 lets a server choose, every client takes the port that the
//! first answer comes from, and this one passes a guest's packet filter without a helper. libslirp does the same.
//!
//! | state | sent | leaves to |
//! |---|---|---|
//! | negotiating | the options agreed on | sending, by an acknowledgement of block 0 |
//! | sending | blocks behind the last one acknowledged, a window at most | gone: the last block is acknowledged |
//!
//! An acknowledgement inside of the window moves it, and what lies behind is sent again (RFC 7440 §4). One that says
//! nothing new is ignored, or a doubled packet would double the whole transfer (RFC 1123 §4.2.3.1); only where the
//! window is more than one block it asks, once, for the window again. Silence repeats the window after the timeout,
//! [`TRIES`] times. An error from the client, or with the file, ends the transfer.
//!
//! Blocks are counted in 64 bits; on the wire the count goes on with 0 behind 65535. A block is read from the file when
//! the guest has room for it, so a transfer holds no data.
//!
//! Text (`netascii`) is translated as RFC 764 has it: a line ends with CR LF, a CR of the file's is CR NUL.
//!
//! Neighbours: `host` opens and reads the files, `folder` keeps them inside of their folder.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use link::DropReason;

use crate::env::{Env, Ready};
use crate::host::Host;
use crate::slab::Slab;
use crate::timers::Timer;
use crate::wire;

/// The server's UDP port.
pub(crate) const PORT: u16 = 69;

/// Transfers at most: the one that was heard of longest ago gives way.
const MAX_TRANSFERS: usize = 128;

/// How long an answer is waited for at first, unless the client says; it doubles up to eight times as long.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How often a window is repeated.
const TRIES: u32 = 6;

/// The same request again so soon is a copy of it; later, the client has started anew.
const COPY: Duration = Duration::from_secs(1);

/// Bytes of data in a block, unless the client says, and the range it may say (RFC 2348).
const BLOCK: usize = 512;
const BLOCKS: std::ops::RangeInclusive<usize> = 8..=65464;

/// Blocks in a window at most: a guest's network card has so many buffers.
const MAX_WINDOW: u64 = 64;

/// Bytes of a data packet in front of the data.
const HEADER: usize = 4;

/// Opcodes (RFC 1350 §5, RFC 2347).
const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACKNOWLEDGE: u16 = 4;
const ERROR: u16 = 5;
const OPTIONS: u16 = 6;

/// Error codes (RFC 1350, appendix).
mod code {
    pub const OTHER: u16 = 0;
    pub const NOT_FOUND: u16 = 1;
    pub const ACCESS: u16 = 2;
    pub const ILLEGAL: u16 = 4;
    pub const UNKNOWN: u16 = 5;
}

/// All transfers.
#[derive(Default)]
pub(crate) struct Tftp {
    transfers: Slab<Transfer>,
    by_client: HashMap<SocketAddr, u32>,
    /// The packet being made.
    packet: Vec<u8>,
}

struct Transfer {
    client: SocketAddr,
    server: SocketAddr,
    /// The request, to know it again.
    request: Box<[u8]>,
    text: bool,
    block: usize,
    window: u64,
    timeout: Duration,
    /// The client has set the timeout: it does not grow.
    steady: bool,
    /// The options agreed on, until the client has acknowledged them.
    offer: Option<Vec<u8>>,
    /// Blocks that the client has, and where in the file they end.
    acknowledged: (u64, Cursor),
    /// Blocks that were sent.
    sent: (u64, Cursor),
    /// The number of the last block, once it is known.
    last: Option<u64>,
    /// The window was asked for again already.
    repeated: bool,
    tries: u32,
    heard: Instant,
    due: Instant,
    listed: bool,
    armed: Option<Instant>,
}

/// A place in a file; of text, also the second byte of a pair whose first one ended a block.
#[derive(Clone, Copy, Default)]
struct Cursor {
    offset: u64,
    carry: Option<u8>,
}

/// A packet from a client.
enum Packet<'a> {
    Read(Request<'a>),
    Write,
    Acknowledge(u16),
    Error,
    Other,
}

struct Request<'a> {
    name: &'a [u8],
    mode: &'a [u8],
    options: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Packet<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let (opcode, rest) = bytes.split_first_chunk::<2>().ok_or(DropReason::Malformed)?;
        match u16::from_be_bytes(*opcode) {
            READ => Ok(Self::Read(Request::parse(rest)?)),
            WRITE => Ok(Self::Write),
            ACKNOWLEDGE if rest.len() >= 2 => Ok(Self::Acknowledge(wire::be16(rest, 0))),
            ERROR => Ok(Self::Error),
            DATA | ACKNOWLEDGE => Err(DropReason::Malformed),
            _ => Ok(Self::Other),
        }
    }
}

impl<'a> Request<'a> {
    /// Strings, each with a NUL at its end: name, mode, then names and values of options.
    fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let mut strings = bytes.strip_suffix(&[0]).ok_or(DropReason::Malformed)?.split(|byte| *byte == 0);
        let name = strings.next().ok_or(DropReason::Malformed)?;
        let mode = strings.next().ok_or(DropReason::Malformed)?;
        let mut options = Vec::new();
        while let (Some(name), Some(value)) = (strings.next(), strings.next()) {
            options.push((name, value));
        }
        Ok(Self { name, mode, options })
    }
}

impl Tftp {
    /// Takes a datagram to the server.
    pub(crate) fn input<H: Host>(
        &mut self,
        env: &mut Env<H>,
        client: SocketAddr,
        server: SocketAddr,
        payload: &[u8],
    ) -> Result<(), DropReason> {
        match Packet::parse(payload)? {
            Packet::Read(request) => return self.read(env, (client, server), &request, payload),
            Packet::Write => send_error(env, (server, client), code::ACCESS, "nothing is written here"),
            Packet::Acknowledge(block) => match self.by_client.get(&client) {
                Some(&place) => self.acknowledge(env, place, block),
                None => {
                    send_error(env, (server, client), code::UNKNOWN, "no such transfer");
                    return Err(DropReason::Unserved);
                }
            },
            Packet::Error => match self.by_client.get(&client) {
                Some(&place) => self.remove(env, place),
                None => return Err(DropReason::Unserved),
            },
            Packet::Other => send_error(env, (server, client), code::ILLEGAL, "illegal operation"),
        }
        Ok(())
    }

    /// Sends a transfer's next packet.
    pub(crate) fn output<H: Host>(&mut self, env: &mut Env<H>, place: u32) {
        let Some(transfer) = self.transfers.get_mut(place) else { return };
        transfer.listed = false;
        let way = (transfer.server, transfer.client);
        if let Some(offer) = &transfer.offer {
            send(env, way, offer);
        } else if transfer.may_send() {
            match transfer.next_block(env, place, &mut self.packet) {
                Ok(()) => send(env, way, &self.packet),
                Err(error) => {
                    log::warn!("tftp: {}: a file can be read no more: {}", way.1, link::reason(&error));
                    send_error(env, way, code::OTHER, "the file can be read no more");
                    return self.remove(env, place);
                }
            }
            if transfer.may_send() {
                env.list(Ready::Tftp(place), &mut transfer.listed);
            }
        }
        transfer.wait(env, place);
    }

    /// A transfer's timer has fired.
    pub(crate) fn fired<H: Host>(&mut self, env: &mut Env<H>, place: u32, at: Instant) {
        let Some(transfer) = self.transfers.get_mut(place) else { return };
        if transfer.armed != Some(at) {
            return;
        }
        transfer.armed = None;
        if transfer.due > env.now {
            return env.timers.arm(Timer::Tftp(place), &mut transfer.armed, transfer.due);
        }
        transfer.tries += 1;
        if transfer.tries > TRIES {
            log::debug!("tftp: {} says nothing any more", transfer.client);
            send_error(env, (transfer.server, transfer.client), code::OTHER, "no answer");
            return self.remove(env, place);
        }
        transfer.rewind();
        env.list(Ready::Tftp(place), &mut transfer.listed);
    }

    /// Begins a transfer.
    fn read<H: Host>(
        &mut self,
        env: &mut Env<H>,
        (client, server): (SocketAddr, SocketAddr),
        request: &Request<'_>,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        if let Some(&place) = self.by_client.get(&client) {
            let copy = |t: &Transfer| *t.request == *bytes && env.now.saturating_duration_since(t.heard) < COPY;
            if self.transfers.get(place).is_some_and(copy) {
                return Ok(());
            }
            self.remove(env, place);
        }
        let way = (server, client);
        let text = match request.mode {
            mode if mode.eq_ignore_ascii_case(b"octet") => false,
            mode if mode.eq_ignore_ascii_case(b"netascii") => true,
            _ => {
                send_error(env, way, code::ILLEGAL, "expected octet or netascii");
                return Ok(());
            }
        };
        let Some(name) = relative(request.name) else {
            send_error(env, way, code::ACCESS, "no name of a file in this folder");
            return Ok(());
        };
        if self.transfers.len() >= MAX_TRANSFERS {
            self.make_room(env);
        }
        let place = self.transfers.next();
        let len = match env.host.open_file(place, name) {
            Ok(len) => len,
            Err(error) => return refuse(env, way, name, &error),
        };
        log::debug!("tftp: {client} reads {}, {len} bytes", name.escape_ascii());
        let mut transfer = Transfer::new((client, server), bytes, text, env.now);
        transfer.negotiate(&request.options, len);
        env.list(Ready::Tftp(place), &mut transfer.listed);
        let inserted = self.transfers.insert(transfer);
        debug_assert_eq!(inserted, place);
        self.by_client.insert(client, place);
        Ok(())
    }

    fn acknowledge<H: Host>(&mut self, env: &mut Env<H>, place: u32, block: u16) {
        let Some(transfer) = self.transfers.get_mut(place) else { return };
        transfer.heard = env.now;
        match transfer.acknowledge(block) {
            Progress::None => {}
            Progress::More => env.list(Ready::Tftp(place), &mut transfer.listed),
            Progress::Done => {
                log::debug!("tftp: {} has its file", transfer.client);
                self.remove(env, place);
            }
        }
    }

    /// Ends the transfer that was heard of longest ago.
    fn make_room<H: Host>(&mut self, env: &mut Env<H>) {
        let oldest = self.by_client.values().copied().min_by_key(|&place| self.transfers.get(place).map(|t| t.heard));
        let Some(transfer) = oldest.and_then(|place| self.transfers.get(place)) else { return };
        send_error(env, (transfer.server, transfer.client), code::OTHER, "too many transfers");
        env.drops.count(DropReason::Limit);
        oldest.into_iter().for_each(|place| self.remove(env, place));
    }

    fn remove<H: Host>(&mut self, env: &mut Env<H>, place: u32) {
        let Some(transfer) = self.transfers.remove(place) else { return };
        self.by_client.remove(&transfer.client);
        env.host.close_file(place);
    }
}

/// What an acknowledgement has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    None,
    More,
    Done,
}

impl Transfer {
    fn new((client, server): (SocketAddr, SocketAddr), request: &[u8], text: bool, now: Instant) -> Self {
        Self {
            client,
            server,
            request: request.into(),
            text,
            block: BLOCK,
            window: 1,
            timeout: TIMEOUT,
            steady: false,
            offer: None,
            acknowledged: (0, Cursor::default()),
            sent: (0, Cursor::default()),
            last: None,
            repeated: false,
            tries: 0,
            heard: now,
            due: now,
            listed: false,
            armed: None,
        }
    }

    /// Takes the options that are understood (RFC 2347): what is not, or has a value out of range, is left out of the
    /// answer, and the client knows that it does not apply.
    fn negotiate(&mut self, options: &[(&[u8], &[u8])], len: u64) {
        let mut offer = OPTIONS.to_be_bytes().to_vec();
        for (name, value) in options {
            let Some(value) = str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok()) else { continue };
            let value = match name.to_ascii_lowercase().as_slice() {
                b"blksize" if value >= *BLOCKS.start() as u64 => {
                    self.block = usize::try_from(value).unwrap_or(usize::MAX).min(*BLOCKS.end());
                    self.block as u64
                }
                b"timeout" if (1..=255).contains(&value) => {
                    (self.timeout, self.steady) = (Duration::from_secs(value), true);
                    value
                }
                // The length of a text is known when it has been translated; and curl takes 0 for an error.
                b"tsize" if !self.text && len > 0 => len,
                b"windowsize" if value >= 1 && !self.text => {
                    self.window = value.min(MAX_WINDOW);
                    self.window
                }
                _ => continue,
            };
            offer.extend(*name);
            offer.extend(format!("\0{value}\0").as_bytes());
        }
        self.offer = (offer.len() > 2).then_some(offer);
    }

    fn acknowledge(&mut self, block: u16) -> Progress {
        if self.offer.is_some() {
            if block != 0 {
                return Progress::None;
            }
            (self.offer, self.tries) = (None, 0);
            return Progress::More;
        }
        // The number on the wire is the low end of the count.
        let new = u64::from(block.wrapping_sub(self.acknowledged.0 as u16));
        let under_way = self.sent.0 - self.acknowledged.0;
        if new > under_way {
            return Progress::None;
        }
        if new == 0 {
            if self.window == 1 || self.repeated || under_way == 0 {
                return Progress::None;
            }
            self.repeated = true;
        } else {
            let number = self.acknowledged.0 + new;
            // A window of text is one block.
            let cursor =
                if self.text { self.sent.1 } else { Cursor { offset: number * self.block as u64, carry: None } };
            self.acknowledged = (number, cursor);
            (self.tries, self.repeated) = (0, false);
            if self.last == Some(number) {
                return Progress::Done;
            }
        }
        self.rewind();
        Progress::More
    }

    /// Whether a block is to be sent.
    fn may_send(&self) -> bool {
        self.offer.is_none() && self.sent.0 - self.acknowledged.0 < self.window && self.last != Some(self.sent.0)
    }

    /// Goes back to what the client has.
    fn rewind(&mut self) {
        self.sent = self.acknowledged;
    }

    /// Makes the next block.
    fn next_block<H: Host>(&mut self, env: &mut Env<H>, place: u32, packet: &mut Vec<u8>) -> io::Result<()> {
        let (number, mut cursor) = (self.sent.0 + 1, self.sent.1);
        packet.clear();
        packet.extend(DATA.to_be_bytes());
        packet.extend((number as u16).to_be_bytes());
        let full = HEADER + self.block;
        packet.extend(cursor.carry.take());
        while packet.len() < full {
            let room = &mut env.datagram[..full - packet.len()];
            let len = env.host.read_file(place, cursor.offset, room)?;
            let Some(bytes @ [_, ..]) = room.get(..len) else { break };
            if self.text {
                translate(bytes, &mut cursor, packet, full);
            } else {
                cursor.offset += len as u64;
                packet.extend(bytes);
            }
        }
        self.sent = (number, cursor);
        if packet.len() < full {
            self.last = Some(number);
        }
        Ok(())
    }

    /// Sees to it that silence is noticed.
    fn wait<H>(&mut self, env: &mut Env<H>, place: u32) {
        let grown = if self.steady { self.timeout } else { self.timeout * (1 << self.tries.min(3)) };
        self.due = env.now + grown;
        env.timers.arm(Timer::Tftp(place), &mut self.armed, self.due);
    }
}

/// Appends text until the packet is full.
fn translate(bytes: &[u8], cursor: &mut Cursor, packet: &mut Vec<u8>, full: usize) {
    for &byte in bytes {
        if packet.len() == full {
            return;
        }
        cursor.offset += 1;
        let pair = match byte {
            b'\n' => [b'\r', b'\n'],
            b'\r' => [b'\r', 0],
            _ => {
                packet.push(byte);
                continue;
            }
        };
        packet.push(pair[0]);
        if packet.len() < full {
            packet.push(pair[1]);
        } else {
            cursor.carry = Some(pair[1]);
        }
    }
}

/// The name within the folder: one that begins with a slash is taken as if it did not. None if it leads out of it.
fn relative(name: &[u8]) -> Option<&[u8]> {
    let start = name.iter().position(|byte| *byte != b'/')?;
    let name = name.get(start..)?;
    (!name.split(|byte| *byte == b'/').any(|part| part == b"..")).then_some(name)
}

/// Tells a client why it does not get a file.
fn refuse<H>(
    env: &mut Env<H>,
    way: (SocketAddr, SocketAddr),
    name: &[u8],
    error: &io::Error,
) -> Result<(), DropReason> {
    log::debug!("tftp: {} does not get {}: {}", way.1, name.escape_ascii(), link::reason(error));
    let (code, text) = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG) => (code::NOT_FOUND, "file not found"),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
            send_error(env, way, code::OTHER, "too many files are open");
            return Err(DropReason::Limit);
        }
        _ => (code::ACCESS, "access violation"),
    };
    send_error(env, way, code, text);
    Ok(())
}

fn send_error<H>(env: &mut Env<H>, way: (SocketAddr, SocketAddr), code: u16, text: &str) {
    let packet = [&ERROR.to_be_bytes()[..], &code.to_be_bytes(), text.as_bytes(), &[0]].concat();
    send(env, way, &packet);
}

/// Sends a datagram from the server to a client.
fn send<H>(env: &mut Env<H>, (from, to): (SocketAddr, SocketAddr), payload: &[u8]) {
    if let Some(mac) = env.neighbours.get(to.ip()) {
        env.queue_datagram(mac, (from.ip(), from.port()), (to.ip(), to.port()), payload);
    }
}

#[cfg(test)]
#[path = "tftp_test.rs"]
mod tests;
