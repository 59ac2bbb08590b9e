//! `l2tpv3://DST?src=ADDR&txsession=N`: an Ethernet pseudowire by static L2TPv3 (RFC 3931, RFC 4719), as QEMU's `-netdev
//! l2tpv3` and the kernel's `ip l2tp`, over UDP or straight over IP (protocol 115).
//!
//! `wire` is the header. Nothing is negotiated: both ends are told sessions, cookies and layout, and one's `tx` is the
//! other's `rx`.
//!
//! Invariant: what comes out was sent by the far end's address (the socket is connected: the kernel refuses strangers) to
//! our session with our cookie. Control messages, other sessions and cookies are counted drops.
//!
//! Over IPv4 without UDP the kernel hands over the outer header too. It has 20 bytes: a packet with IP options, which
//! nobody sends here, is a counted drop. Such sockets need `CAP_NET_RAW`.
//!
//! Neighbours: `link::outer` for sockets and sizes, `link::datagram` for the frames.

pub mod wire;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use link::datagram::{DatagramLink, Envelope, FrameSocket, Received, To};
use link::outer::{self, Endpoint, Family, UDP_HEADER_LEN};
use link::{DatagramError, DropReason, Frame, Locator, LocatorError, Options, VnetHeader};
use socket2::{Protocol, Type};

use crate::options::take_mtu;
use wire::{CookieSize, Header, Layout, MAX_OFFSET};

/// The protocol's number over IP (RFC 3931 §4.1.1).
const PROTOCOL: i32 = 115;
/// Bytes of an IPv4 header without options.
const IPV4_HEADER_LEN: usize = 20;
/// Version 4, five words.
const IPV4_PLAIN: u8 = 0x45;

/// Between which addresses, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L2tpv3Config {
    /// The far end; without UDP, the port is 0.
    pub remote: Endpoint,
    /// This end; without UDP, the port is 0.
    pub local: Endpoint,
    /// Which of a host's addresses count.
    pub family: Family,
    /// The header.
    pub layout: Layout,
    /// Whether the counter stays 0.
    pub pin_counter: bool,
    /// Session and cookie of what we send.
    pub tx: Header,
    /// Session and cookie of what we receive.
    pub rx: Header,
    /// The MTU to state, in bytes; none for what fits into one packet.
    pub mtu: Option<u16>,
}

impl L2tpv3Config {
    /// Takes the settings out of a locator. The keys are QEMU's; the address stands for `dst`, with a port for `dstport`.
    ///
    /// # Errors
    /// The option that is unknown, missing or does not fit.
    pub fn from_locator(locator: &Locator) -> Result<Self, LocatorError> {
        let mut locator = locator.clone();
        let options = &mut locator.options;
        let is_udp = options.take_switch("udp")?.unwrap_or(false);
        let dst = match (options.take("dst")?, std::mem::take(&mut locator.address)) {
            (Some(dst), address) if address.is_empty() => dst,
            (Some(dst), address) => {
                return Err(options.bad_value("dst", &dst, &format!("'{address}' is given already")));
            }
            (None, address) => address,
        };
        let mut remote = Endpoint::parse(&dst, Some(0)).map_err(|why| options.bad_value("dst", &dst, &why))?;
        if remote.host.is_empty() {
            return Err(options.bad_value("dst", &dst, &"expected the far end's address"));
        }
        let port = |options: &mut Options, key| match options.take_parsed::<u16>(key)? {
            Some(port) if port == 0 || !is_udp => {
                Err(options.bad_value(key, &port.to_string(), &"expected a port, 1 to 65535, and udp=on"))
            }
            port => Ok(port),
        };
        let (dst_port, src_port) = (port(options, "dstport")?, port(options, "srcport")?);
        if remote.port != 0 && (dst_port.is_some() || !is_udp) {
            return Err(options.bad_value("dst", &dst, &"a port belongs there with udp=on and without dstport="));
        }
        remote.port = dst_port.unwrap_or(remote.port);
        if is_udp && remote.port == 0 {
            return Err(options.bad_value("dstport", "", &"expected the far end's port"));
        }
        let local = Endpoint { host: options.take("src")?.unwrap_or_default(), port: src_port.unwrap_or(remote.port) };
        let family = match options.take_switch("ipv6")? {
            Some(true) => Family::V6,
            Some(false) => Family::V4,
            None => Family::Any,
        };

        let tx_session = take_number(options, "txsession", 32)?;
        let tx_session =
            tx_session.ok_or_else(|| options.bad_value("txsession", "", &"expected the far end's session"))?;
        let rx_session = take_number(options, "rxsession", 32)?.unwrap_or(tx_session);
        for (key, session) in [("txsession", tx_session), ("rxsession", rx_session)] {
            if session == 0 {
                return Err(options.bad_value(key, "0", &"session 0 is for control messages (RFC 3931 §4.1)"));
            }
        }
        let is_long = options.take_switch("cookie64")?.unwrap_or(false);
        let bits = if is_long { 64 } else { 32 };
        let cookies = (take_number(options, "txcookie", bits)?, take_number(options, "rxcookie", bits)?);
        let (cookie, tx_cookie, rx_cookie) = match cookies {
            (Some(tx), Some(rx)) => (if is_long { CookieSize::Eight } else { CookieSize::Four }, tx, rx),
            (None, None) if !is_long => (CookieSize::None, 0, 0),
            _ => return Err(options.bad_value("txcookie", "", &"expected txcookie and rxcookie, or neither")),
        };
        let pin_counter = options.take_switch("pincounter")?.unwrap_or(false);
        let has_counter = options.take_switch("counter")?.unwrap_or(false) || pin_counter;
        let offset = options.take_parsed::<u8>("offset")?.unwrap_or(0);
        if offset > MAX_OFFSET {
            return Err(options.bad_value("offset", &offset.to_string(), &format!("expected 0 to {MAX_OFFSET} bytes")));
        }
        let mtu = take_mtu(options)?;
        locator.options.finish()?;
        #[allow(clippy::cast_possible_truncation, reason = "held against 32 bits")]
        let header = |session: u64, cookie| Header { session: session as u32, cookie, counter: 0 };
        Ok(Self {
            remote,
            local,
            family,
            layout: Layout { is_udp, cookie, has_counter, offset },
            pin_counter,
            tx: header(tx_session, tx_cookie),
            rx: header(rx_session, rx_cookie),
            mtu,
        })
    }

    /// Opens the link.
    ///
    /// # Errors
    /// A name has no address, the port is taken, there is no route, or no permission for a raw socket.
    pub fn open(&self, name: String) -> Result<DatagramLink<Session>, DatagramError> {
        let remote = self.remote.resolve(&name, self.family.or(self.local.family()))?;
        let local = self.local.resolve(&name, Family::of(remote.ip()))?;
        let socket = if self.layout.is_udp {
            outer::connected_udp(&name, local, remote)?
        } else {
            let socket = outer::new_socket(&name, remote, Type::RAW, Protocol::from(PROTOCOL))?;
            outer::bind(&name, &socket, local)?;
            outer::connect(&name, &socket, remote)?;
            socket
        };
        let udp = if self.layout.is_udp { UDP_HEADER_LEN } else { 0 };
        let path = outer::path_mtu(Some(local.ip()), remote, None);
        let mtu = outer::mtu(self.mtu, path, remote.ip(), udp + self.layout.len());
        let session = Session::new(self, remote);
        Ok(DatagramLink::new(name, FrameSocket::with_envelope(OwnedFd::from(socket), session), mtu))
    }
}

/// A session between two ends.
pub struct Session {
    layout: Layout,
    tx: Header,
    rx: Header,
    pin_counter: bool,
    /// Whether what is received begins with the outer IPv4 header.
    has_ip_header: bool,
}

impl Session {
    fn new(config: &L2tpv3Config, remote: SocketAddr) -> Self {
        let L2tpv3Config { layout, tx, rx, pin_counter, .. } = *config;
        Self { layout, tx, rx, pin_counter, has_ip_header: !layout.is_udp && remote.is_ipv4() }
    }
}

impl Envelope for Session {
    fn tx_len(&self) -> usize {
        self.layout.len()
    }

    fn rx_len(&self) -> usize {
        self.layout.len() + if self.has_ip_header { IPV4_HEADER_LEN } else { 0 }
    }

    fn seal(&mut self, _: &Frame<'_>, prefix: &mut [u8]) -> Result<To<'_>, DropReason> {
        if self.layout.has_counter && !self.pin_counter {
            // QEMU's first is 1.
            self.tx.counter = self.tx.counter.wrapping_add(1);
        }
        self.layout.emit(&self.tx, prefix);
        Ok(To::Peer)
    }

    fn open(&mut self, datagram: &Received<'_>) -> Result<Option<VnetHeader>, DropReason> {
        let mut bytes = datagram.prefix;
        if self.has_ip_header {
            let (ip, rest) = bytes.split_at_checked(IPV4_HEADER_LEN).ok_or(DropReason::Runt)?;
            if ip.first() != Some(&IPV4_PLAIN) {
                return Err(DropReason::Malformed);
            }
            bytes = rest;
        }
        let header = self.layout.parse(bytes)?;
        if (header.session, header.cookie) != (self.rx.session, self.rx.cookie) {
            return Err(DropReason::Unserved);
        }
        Ok(Some(VnetHeader::WHOLE))
    }
}

/// Takes a number of so many bits, in decimal or, behind `0x`, in hexadecimal.
fn take_number(options: &mut Options, key: &str, bits: u32) -> Result<Option<u64>, LocatorError> {
    let Some(text) = options.take(key)? else { return Ok(None) };
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let number = parsed.ok().filter(|number| *number >> (bits - 1) <= 1);
    number.map(Some).ok_or_else(|| options.bad_value(key, &text, &format!("expected a number of {bits} bits")))
}

#[cfg(test)]
#[path = "l2tpv3_test.rs"]
mod tests;
