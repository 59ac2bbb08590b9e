//! `udp://HOST:PORT?local=ADDR:PORT`: one bare frame a datagram, between two addresses: QEMU's `-netdev dgram` and
//! `socket,udp=`, and vdeplug4's `udp://`.
//!
//! Invariant: what comes out was sent by the far end's address. The socket is connected to it: a stranger's datagram is
//! refused by the kernel, which tells the stranger so. A far end that is not there costs frames, which count as
//! `link-down`; it may come at any time.
//!
//! Neighbours: `outer` for the socket, `datagram` for the frames.

use std::os::fd::OwnedFd;

use crate::datagram::{Bare, DatagramLink, FrameSocket};
use crate::outer::{self, DatagramError, Endpoint, Family, UDP_HEADER_LEN};

/// Between which addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpConfig {
    /// The far end.
    pub remote: Endpoint,
    /// This end; none for any port that is free.
    pub local: Option<Endpoint>,
    /// Which of a host's addresses count.
    pub family: Family,
    /// The MTU to state, in bytes; none for what fits into one packet.
    pub mtu: Option<u16>,
}

impl UdpConfig {
    /// Opens the link.
    ///
    /// # Errors
    /// A name has no address, the local address is taken, or there is no route.
    pub fn open(&self, name: String) -> Result<DatagramLink<Bare>, DatagramError> {
        let any = Endpoint { host: String::new(), port: 0 };
        let local = self.local.as_ref().unwrap_or(&any);
        let remote = self.remote.resolve(&name, self.family.or(local.family()))?;
        let local = local.resolve(&name, Family::of(remote.ip()))?;
        let socket = outer::connected_udp(&name, local, remote)?;
        let path = outer::path_mtu(Some(local.ip()), remote, None);
        let mtu = outer::mtu(self.mtu, path, remote.ip(), UDP_HEADER_LEN);
        Ok(DatagramLink::new(name, FrameSocket::with_envelope(OwnedFd::from(socket), Bare), mtu))
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::testing::{drops, frame, receive_soon, send};
    use crate::{DropReason, Link};

    /// A link, and a far end that says what it likes.
    fn beside() -> (DatagramLink<Bare>, UdpSocket) {
        let far = UdpSocket::bind("127.0.0.1:0").unwrap();
        let remote = Endpoint::parse(&far.local_addr().unwrap().to_string(), None).unwrap();
        let local = Endpoint::parse("127.0.0.1:0", None).unwrap();
        let config = UdpConfig { remote, local: Some(local), family: Family::Any, mtu: None };
        (config.open("udp://far".to_owned()).unwrap(), far)
    }

    /// The address that the far end hears the link under.
    fn address(link: &mut DatagramLink<Bare>, far: &UdpSocket) -> std::net::SocketAddr {
        assert_eq!(send(link, &[frame(60, 0)]), 1);
        far.recv_from(&mut [0; 100]).unwrap().1
    }

    #[test]
    fn a_frame_is_a_datagram_and_nothing_else() {
        let (mut link, far) = beside();
        let near = address(&mut link, &far);
        for len in [14, 60, 1514, 9238] {
            assert_eq!(send(&mut link, &[frame(len, 1)]), 1);
            let mut buffer = [0; 10_000];
            let got = far.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..got], frame(len, 1));
            far.send_to(&frame(len, 2), near).unwrap();
            assert_eq!(receive_soon(&mut link, 1), [frame(len, 2)]);
        }
        assert_eq!(link.capabilities().mtu, crate::datagram::JUMBO_MTU, "on the loopback interface");
    }

    #[test]
    fn what_is_no_frame_is_counted_and_a_stranger_is_refused() {
        let (mut link, far) = beside();
        let near = address(&mut link, &far);
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.connect(near).unwrap();
        stranger.send(&frame(60, 9)).unwrap();
        for datagram in [&[][..], &[7; 13], &[7; 9239], &frame(60, 1)] {
            far.send_to(datagram, near).unwrap();
        }
        assert_eq!(receive_soon(&mut link, 1), [frame(60, 1)]);
        assert_eq!(drops(&link), [(DropReason::Runt, 2), (DropReason::Oversized, 1)]);
        assert_eq!(stranger.send(&[1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_far_end_that_is_not_there_costs_frames_never_the_link() {
        let (mut link, far) = beside();
        let near = address(&mut link, &far);
        let place = far.local_addr().unwrap();
        drop(far);
        for _ in 0..20 {
            assert_eq!(send(&mut link, &[frame(60, 1)]), 1);
        }
        assert!(link.counters().drops.get(DropReason::LinkDown) > 0);
        assert_eq!(receive_soon(&mut link, 0), Vec::<Vec<u8>>::new());
        let far = UdpSocket::bind(place).unwrap();
        far.send_to(&frame(60, 2), near).unwrap();
        assert_eq!(receive_soon(&mut link, 1), [frame(60, 2)]);
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let text = taken.local_addr().unwrap().to_string();
        let local = Endpoint::parse(&text, None).ok();
        let remote = Endpoint::parse("127.0.0.1:9", None).unwrap();
        let config = UdpConfig { remote, local, family: Family::Any, mtu: None };
        let error = config.open("udp://x".to_owned()).err().unwrap().to_string();
        assert_eq!(error, format!("udp://x: cannot use {text} as its own address: Address already in use"));
        drop(taken);
        let local = Endpoint::parse(&text, None).ok();
        let config = UdpConfig { remote: local.clone().unwrap(), local, family: Family::Any, mtu: None };
        let error = config.open("udp://x".to_owned()).err().unwrap().to_string();
        assert_eq!(error, format!("udp://x: {text} is its own address: what it sends would come back"));
    }
}
