//! `mcast://GROUP:PORT?local=IFADDR&ttl=N`: one bare frame a datagram to an IPv4 multicast group: QEMU's
//! `socket,mcast=` and `dgram` with a group for its far end. All members make one Ethernet.
//!
//! Theory of operation. Two sockets. One is bound to the group and its port, with `SO_REUSEADDR`, as QEMU's: any number of
//! members of one host hear each frame. The other sends, from a port of its own, with `IP_MULTICAST_LOOP`, so that those
//! members hear it.
//!
//! Invariant: a frame never comes back to its sender. QEMU lets it: a guest's card filters by its own address. A switch or
//! a cable would learn its own stations from the wrong side and send a broadcast round for ever. QEMU's members of one
//! host share address and port, so a sender cannot know its own among them; our own port tells: what comes from it is
//! passed over in silence, since it was sent and counted already.
//!
//! Whoever reaches the group may send: a group has no strangers. What is no frame is counted.
//!
//! Neighbours: `outer` for sockets, `datagram` for the frames.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Instant;

use mio::{Registry, Token};
use socket2::{Protocol, Socket, Type};

use crate::datagram::{Bare, Envelope, FrameSocket, Received, To};
use crate::outer::{self, DatagramError, Endpoint, Family, UDP_HEADER_LEN};
use crate::{Capabilities, Counters, DropReason, Frame, Link, Offloads, RxBatch, TxBatch, VnetHeader};

/// Which group, and by which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McastConfig {
    /// The group and its port.
    pub group: SocketAddrV4,
    /// The address of the interface that leads to the group; none for the route's.
    pub local: Option<Endpoint>,
    /// How many routers a datagram may pass: 0 keeps it on this host, 1 (the default) on this network.
    pub ttl: u8,
    /// The MTU to state, in bytes; none for what fits into one packet.
    pub mtu: Option<u16>,
}

/// A member of a group.
pub struct Mcast {
    name: String,
    receiver: FrameSocket<Others>,
    sender: FrameSocket<Bare>,
    mtu: u16,
}

impl McastConfig {
    /// Joins the group.
    ///
    /// # Errors
    /// No route leads to the group and no interface was named, or the port is taken by a program that does not share it.
    pub fn open(&self, name: String) -> Result<Mcast, DatagramError> {
        let interface = match &self.local {
            Some(local) => match local.resolve(&name, Family::V4)?.ip() {
                IpAddr::V4(address) => address,
                IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
            },
            None => Ipv4Addr::UNSPECIFIED,
        };
        let group = SocketAddr::V4(self.group);
        let receiver = outer::new_socket(&name, group, Type::DGRAM, Protocol::UDP)?;
        let sender = outer::new_socket(&name, group, Type::DGRAM, Protocol::UDP)?;
        let own = self.set_up(&receiver, &sender, interface).map_err(|source| {
            let hint = match source.raw_os_error() {
                Some(libc::ENETUNREACH | libc::ENODEV) => " (local=ADDRESS names the interface that leads to it)",
                _ => "",
            };
            DatagramError::System { link: name.clone(), act: format!("join group {group}"), source, hint }
        })?;
        let path = outer::path_mtu(Some(own.ip()), group, None);
        let mtu = outer::mtu(self.mtu, path, group.ip(), UDP_HEADER_LEN);
        Ok(Mcast {
            name,
            receiver: FrameSocket::with_envelope(OwnedFd::from(receiver), Others { own }),
            sender: FrameSocket::with_envelope(OwnedFd::from(sender), Bare),
            mtu,
        })
    }

    /// Returns the address that the sender sends from.
    fn set_up(&self, receiver: &Socket, sender: &Socket, interface: Ipv4Addr) -> io::Result<SocketAddr> {
        receiver.set_reuse_address(true)?;
        receiver.set_multicast_all_v4(false)?;
        receiver.bind(&self.group.into())?;
        receiver.join_multicast_v4(self.group.ip(), &interface)?;
        sender.set_multicast_loop_v4(true)?;
        sender.set_multicast_ttl_v4(self.ttl.into())?;
        sender.set_multicast_if_v4(&interface)?;
        sender.bind(&SocketAddrV4::new(interface, 0).into())?;
        sender.connect(&self.group.into())?;
        sender.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }
}

impl Link for Mcast {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { mtu: self.mtu, ..self.sender.capabilities() }
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.receiver.accept(offloads)
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.receiver.register(registry, token, false)?;
        self.sender.register(registry, token, true)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.receiver.deregister(registry)?;
        self.sender.deregister(registry)
    }

    fn deadline(&self) -> Option<Instant> {
        self.receiver.deadline()
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        self.sender.send(batch)
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        self.receiver.receive(batch)
    }

    fn counters(&self) -> Counters {
        let mut counters = self.receiver.counters();
        counters.merge(&self.sender.counters());
        counters
    }
}

/// Bare frames of everybody else.
struct Others {
    /// What this member sends from.
    own: SocketAddr,
}

impl Envelope for Others {
    const HAS_ADDRESSES: bool = true;

    fn tx_len(&self) -> usize {
        0
    }

    fn seal(&mut self, _: &Frame<'_>, _: &mut [u8]) -> Result<To<'_>, DropReason> {
        Err(DropReason::Unserved)
    }

    fn open(&mut self, datagram: &Received<'_>) -> Result<Option<VnetHeader>, DropReason> {
        Ok((datagram.from != Some(self.own)).then_some(VnetHeader::WHOLE))
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;
    use crate::testing::{drops, frame, receive_soon, send};

    const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

    fn member(group: &str) -> Mcast {
        let local = Some(Endpoint { host: LOCALHOST.to_string(), port: 0 });
        let config = McastConfig { group: group.parse().unwrap(), local, ttl: 1, mtu: None };
        config.open(format!("mcast://{group}")).unwrap()
    }

    #[test]
    fn members_hear_each_other_and_none_itself() {
        let mut members = [(); 3].map(|()| member("239.7.7.7:17001"));
        for mark in 0..3 {
            assert_eq!(send(&mut members[usize::from(mark)], &[frame(100, mark)]), 1);
        }
        for (number, member) in (0..).zip(&mut members) {
            let mut heard = receive_soon(member, 2);
            heard.sort();
            let expected: Vec<_> = (0..3).filter(|mark| *mark != number).map(|mark| frame(100, mark)).collect();
            assert_eq!(heard, expected);
        }
        sleep(Duration::from_millis(50));
        for member in &mut members {
            assert!(receive_soon(member, 0).is_empty());
            assert_eq!(drops(member), []);
            assert_eq!((member.counters().tx_frames, member.counters().rx_frames), (1, 2));
        }
    }

    #[test]
    fn a_member_like_qemu_that_shares_address_and_port_is_heard() {
        let group = "239.7.7.8:17002";
        let mut ours = member(group);
        let theirs = Socket::new(socket2::Domain::IPV4, Type::DGRAM, None).unwrap();
        theirs.set_reuse_address(true).unwrap();
        theirs.bind(&group.parse::<SocketAddr>().unwrap().into()).unwrap();
        theirs.join_multicast_v4(&"239.7.7.8".parse().unwrap(), &LOCALHOST).unwrap();
        theirs.set_multicast_if_v4(&LOCALHOST).unwrap();
        let theirs = UdpSocket::from(theirs);
        for datagram in [&[][..], &[1; 13], &frame(60, 1)] {
            theirs.send_to(datagram, group).unwrap();
        }
        assert_eq!(receive_soon(&mut ours, 1), [frame(60, 1)]);
        assert_eq!(drops(&ours), [(DropReason::Runt, 2)]);
        let mut buffer = [0; 100];
        while theirs.recv(&mut buffer).unwrap() != 60 {}
        send(&mut ours, &[frame(70, 2)]);
        assert_eq!(theirs.recv(&mut buffer).unwrap(), 70);
        assert_eq!(buffer[..70], frame(70, 2));
    }
}
