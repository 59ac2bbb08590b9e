//! Two requests of rtnetlink(7): an IPv6 address for an interface, and a default route.
//!
//! Not netdevice(7)'s ioctls, as for IPv4: they cannot say that nobody has to be asked whether an address is free. The
//! kernel would not use it for the first second or two (RFC 4862 §5.4), and on a new TAP there is nobody but the NAT.
//!
//! A request is an `nlmsghdr` (netlink(7)), a struct of the request's, and attributes of length, type, and value. Every
//! value here is a multiple of four bytes long, so there is no padding. The answer is an `nlmsghdr` and an error code.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

/// Bytes of an `nlmsghdr`.
const HEADER: usize = 16;

/// The family of an address or route.
const FAMILY: u8 = libc::AF_INET6 as u8;

/// The way to the kernel, in the network namespace in which it was opened.
pub(crate) struct Rtnetlink(OwnedFd);

impl Rtnetlink {
    /// Opens it.
    pub(crate) fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkRoute;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))
    }

    /// Gives an interface an address, which can be used at once.
    pub(crate) fn add_address(&self, interface: u32, address: Ipv6Addr, prefix: u8) -> io::Result<()> {
        // An ifaddrmsg: family, prefix, flags, scope, interface.
        let mut body = vec![FAMILY, prefix, libc::IFA_F_NODAD as u8, libc::RT_SCOPE_UNIVERSE];
        body.extend(interface.to_ne_bytes());
        put_attribute(&mut body, libc::IFA_LOCAL, &address.octets());
        put_attribute(&mut body, libc::IFA_ADDRESS, &address.octets());
        self.request(libc::RTM_NEWADDR, &body)
    }

    /// Makes a host on an interface's link the router of everything else.
    pub(crate) fn add_default_route(&self, interface: u32, gateway: Ipv6Addr) -> io::Result<()> {
        // An rtmsg: family, length of destination and source, TOS, table, protocol, scope, type, flags.
        let (table, protocol, scope) = (libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, libc::RT_SCOPE_UNIVERSE);
        let mut body = vec![FAMILY, 0, 0, 0, table, protocol, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
        put_attribute(&mut body, libc::RTA_GATEWAY, &gateway.octets());
        put_attribute(&mut body, libc::RTA_OIF, &interface.to_ne_bytes());
        self.request(libc::RTM_NEWROUTE, &body)
    }

    fn request(&self, kind: u16, body: &[u8]) -> io::Result<()> {
        const FLAGS: libc::c_int = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        // An nlmsghdr: length, type, flags, a number and a port of the asker's, which need neither.
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((FLAGS as u16).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.0.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let len = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let code = answer[..len].get(HEADER..).and_then(|body| body.first_chunk());
        match code.map(|code| i32::from_ne_bytes(*code)) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn put_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}
