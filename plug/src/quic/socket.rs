//! The UDP socket under the cable: many datagrams in one system call where the kernel has that (`UDP_SEGMENT`, `UDP_GRO`).
//!
//! Invariant: it never blocks, and what is not sent is either kept (the socket is full) or gone, as on any network.
//!
//! Neighbours: `quinn-udp` for the control messages; the link, which owns it.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use bytes::BytesMut;
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};

/// What the kernel's buffers are set to, in bytes, as far as it lets us: 100 ms at 160 Mbit/s and more.
const BUFFER: usize = 2 << 20;
/// Datagrams, or trains of them, in one system call.
const BATCH: usize = 8;
/// Bytes of the longest train.
const TRAIN: usize = 1 << 16;

/// A bound socket.
pub struct Socket {
    udp: UdpSocket,
    state: UdpSocketState,
    memory: Vec<u8>,
}

/// A datagram that came in.
pub struct Received {
    /// From where.
    pub from: SocketAddr,
    /// To which address of ours.
    pub to: Option<IpAddr>,
    /// The mark that it bore.
    pub ecn: Option<quinn_proto::EcnCodepoint>,
    /// What it says.
    pub data: BytesMut,
}

impl Socket {
    /// Binds one.
    ///
    /// # Errors
    /// The address is taken, or is none of this host's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let udp = UdpSocket::bind(address)?;
        let state = UdpSocketState::new((&udp).into())?;
        // Smaller ones serve too.
        let _ = state.set_send_buffer_size((&udp).into(), BUFFER);
        let _ = state.set_recv_buffer_size((&udp).into(), BUFFER);
        Ok(Self { udp, state, memory: vec![0; BATCH * TRAIN] })
    }

    /// Binds one that can send to this address.
    ///
    /// # Errors
    /// The host has no such family of addresses.
    pub fn towards(peer: SocketAddr) -> io::Result<Self> {
        let own = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Self::bind(SocketAddr::new(own, 0))
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Datagrams that one train may have.
    pub fn train(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends what quinn-proto has written; returns whether the socket took it. An error is the loss of a packet, which the
    /// connection will see.
    pub fn send(&self, transmit: &quinn_proto::Transmit, contents: &[u8]) -> bool {
        let ecn = transmit.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
        let transmit = Transmit {
            destination: transmit.destination,
            ecn,
            contents: contents.get(..transmit.size).unwrap_or(contents),
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        !matches!(self.state.send((&self.udp).into(), &transmit), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Receives what there is, for one system call; returns whether there may be more.
    ///
    /// # Errors
    /// The descriptor is no socket any more.
    pub fn receive(&mut self, received: &mut Vec<Received>) -> io::Result<bool> {
        let mut metas = [RecvMeta::default(); BATCH];
        let outcome = {
            let mut slices: Vec<_> = self.memory.chunks_mut(TRAIN).map(IoSliceMut::new).collect();
            self.state.recv((&self.udp).into(), &mut slices, &mut metas)
        };
        let count = match outcome {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK)) => return Err(error),
            // An ICMP message about a datagram from before; it is taken off the socket by being told.
            Err(_) => return Ok(true),
        };
        for (memory, meta) in self.memory.chunks(TRAIN).zip(metas.iter().take(count)) {
            let ecn = meta.ecn.and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8));
            // Each in memory of its own: one that is kept must not keep the others.
            let train = memory.get(..meta.len).unwrap_or_default().chunks(meta.stride.max(1));
            let datagrams = train.map(|data| Received { from: meta.addr, to: meta.dst_ip, ecn, data: data.into() });
            received.extend(datagrams);
        }
        Ok(true)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.udp.as_raw_fd()
    }
}
