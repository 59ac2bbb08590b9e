//! `vxlan://HOST[:PORT]?vni=N`: an Ethernet over UDP between VTEPs, by RFC 7348; the far ends may be the kernel's vxlan
//! devices.
//!
//! | file | what it holds |
//! |---|---|
//! | `wire` | the header |
//! | `table` | which VTEP each station is behind |
//!
//! Theory of operation. HOST, and each `peer=HOST[:PORT]`, is the address of a VTEP, or at most one of them an IPv4
//! multicast group that VTEPs have joined. A frame goes to the VTEP behind which its destination was heard; to all peers
//! and the group if it is for many or the destination is unknown. What comes in teaches the table.
//!
//! Split horizon: what one peer sends goes to the owner of the link and never to another peer. So peers have to know each
//! other (a full mesh), or share a group; a loop among them is not possible.
//!
//! Who is heard: with peers only, those addresses, from any port (a VTEP's source port varies by flow, RFC 7348 §5); with
//! a group, everybody. Anybody else, another VNI and a malformed header are counted drops. An answer goes to the port
//! that was given for its peer, or the link's own, never to the source port.
//!
//! Our own source port is the one that we receive on. It does not vary by flow: routers that spread flows over several
//! paths send all of a link's frames one way.
//!
//! Frames with a VLAN tag pass (the RFC leaves that to configuration). There is no FCS.
//!
//! Neighbours: `link::outer` for sockets and sizes, `link::datagram` for the frames.

pub mod table;
pub mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use link::datagram::{DatagramLink, Envelope, FrameSocket, MAX_DESTINATIONS, Received, To};
use link::outer::{self, Endpoint, Family, UDP_HEADER_LEN};
use link::{DatagramError, DropReason, Frame, Locator, LocatorError, MacAddr, VnetHeader};
use socket2::{InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};

use crate::options::{take_mtu, take_ttl};
use table::{CAPACITY, DEFAULT_AGEING, Table};
use wire::Vni;

/// Which VTEPs, and which network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanConfig {
    /// The far ends: VTEPs, and at most one group. 1 to [`MAX_DESTINATIONS`].
    pub peers: Vec<Endpoint>,
    /// The network.
    pub vni: Vni,
    /// The address of this end, a host without a port; none for any. With a group it says which interface leads there,
    /// and frames to one VTEP leave from the address that the route has.
    pub local: Option<Endpoint>,
    /// The port of this end.
    pub port: u16,
    /// How many routers a datagram may pass; none for 1 to a group and the system's default to a VTEP.
    pub ttl: Option<u8>,
    /// The interface that leads to the far ends; none for the route's.
    pub dev: Option<String>,
    /// How long a station is remembered without being heard.
    pub ageing: Duration,
    /// The MTU to state, in bytes; none for what fits into one packet.
    pub mtu: Option<u16>,
}

impl VxlanConfig {
    /// Takes the settings out of a locator.
    ///
    /// # Errors
    /// The option that is unknown, missing or does not fit.
    pub fn from_locator(locator: &Locator) -> Result<Self, LocatorError> {
        let mut locator = locator.clone();
        let options = &mut locator.options;
        let vni = options.take_parsed::<u32>("vni")?;
        let vni = vni.and_then(Vni::new).ok_or_else(|| {
            let given = vni.map(|vni| vni.to_string()).unwrap_or_default();
            options.bad_value("vni", &given, &format!("expected the network's number, 0 to {}", Vni::MAX))
        })?;
        let mut peers = Vec::new();
        let address = Some(std::mem::take(&mut locator.address)).filter(|address| !address.is_empty());
        for peer in address.into_iter().chain(options.take_all("peer")) {
            let parsed = Endpoint::parse(&peer, Some(wire::PORT)).and_then(|peer| match peer {
                Endpoint { host, port } if host.is_empty() || port == 0 => Err("expected HOST or HOST:PORT"),
                peer => Ok(peer),
            });
            peers.push(parsed.map_err(|why| options.bad_value("peer", &peer, &why))?);
        }
        if !(1..=MAX_DESTINATIONS).contains(&peers.len()) {
            let why = format!("expected 1 to {MAX_DESTINATIONS} VTEPs or a group, as in vxlan://HOST?vni=7&peer=HOST");
            return Err(options.bad_value("peer", "", &why));
        }
        let local = options.take("local")?.map(|host| Endpoint { host, port: 0 });
        let default_port = peers.first().map_or(wire::PORT, |peer| peer.port);
        let port = options.take_parsed::<u16>("port")?.unwrap_or(default_port);
        let ttl = take_ttl(options, 1)?;
        let dev = options.take("dev")?;
        let ageing = options.take_parsed::<u32>("ageing")?.map(|seconds| Duration::from_secs(seconds.into()));
        if ageing.is_some_and(|ageing| ageing.is_zero()) {
            return Err(options.bad_value("ageing", "0", &"expected seconds"));
        }
        let mtu = take_mtu(options)?;
        locator.options.finish()?;
        Ok(Self { peers, vni, local, port, ttl, dev, ageing: ageing.unwrap_or(DEFAULT_AGEING), mtu })
    }

    /// Opens the link.
    ///
    /// # Errors
    /// A name has no address, the port is taken, addresses are of different families, or there is no such interface.
    pub fn open(&self, name: String) -> Result<DatagramLink<Vtep>, DatagramError> {
        let mut remotes = Vec::with_capacity(self.peers.len());
        let mut family = match &self.local {
            Some(local) => Family::of(local.resolve(&name, Family::Any)?.ip()),
            None => Family::Any,
        };
        for peer in &self.peers {
            let remote = peer.resolve(&name, family)?;
            family = Family::of(remote.ip());
            remotes.push(remote);
        }
        let group = self.group(&name, &remotes)?;
        let local = self.local.as_ref().map(|local| local.resolve(&name, family)).transpose()?.map(|local| local.ip());
        let first = remotes.first().copied().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let socket = outer::new_socket(&name, first, Type::DGRAM, Protocol::UDP)?;
        self.set_up(&name, &socket, first.is_ipv4(), group, local)?;
        let any = Endpoint { host: String::new(), port: self.port }.resolve(&name, family)?;
        let bound = SocketAddr::new(local.filter(|_| group.is_none()).unwrap_or(any.ip()), self.port);
        outer::bind(&name, &socket, bound)?;
        let paths = remotes.iter().filter_map(|remote| outer::path_mtu(local, *remote, self.dev.as_deref()));
        let mtu = outer::mtu(self.mtu, paths.min(), first.ip(), UDP_HEADER_LEN + wire::LEN);
        let vtep = Vtep::new(self, remotes, group.is_some());
        Ok(DatagramLink::new(name, FrameSocket::with_envelope(OwnedFd::from(socket), vtep), mtu))
    }

    /// The group among the far ends.
    fn group(&self, name: &str, remotes: &[SocketAddr]) -> Result<Option<Ipv4Addr>, DatagramError> {
        let mut groups = remotes.iter().filter(|remote| remote.ip().is_multicast());
        let refused = |group: &SocketAddr, why| {
            Err(DatagramError::Address { link: name.to_owned(), address: group.ip().to_string(), why })
        };
        match (groups.next(), groups.next()) {
            (None, _) => Ok(None),
            (Some(_), Some(second)) => refused(second, "one group more than one"),
            (Some(group), None) if group.port() != self.port => {
                refused(group, "a group, whose members all have one port: port= has to be the same")
            }
            (Some(SocketAddr::V4(group)), None) => Ok(Some(*group.ip())),
            (Some(group), None) => refused(group, "an IPv6 group, and only those of IPv4 are served"),
        }
    }

    fn set_up(
        &self,
        name: &str,
        socket: &Socket,
        is_ipv4: bool,
        group: Option<Ipv4Addr>,
        local: Option<IpAddr>,
    ) -> Result<(), DatagramError> {
        let fail = |act: String| move |source| DatagramError::system(name, act, source);
        if let Some(dev) = &self.dev {
            let act = format!("use interface {dev}");
            socket.bind_device(Some(dev.as_bytes())).map_err(fail(act))?;
        }
        if let Some(ttl) = self.ttl {
            let set = if is_ipv4 { socket.set_ttl_v4(ttl.into()) } else { socket.set_unicast_hops_v6(ttl.into()) };
            set.map_err(fail(format!("set ttl={ttl}")))?;
        }
        let Some(group) = group else { return Ok(()) };
        let join = || {
            let interface = match (&self.dev, local) {
                (Some(dev), _) => InterfaceIndexOrAddress::Index(outer::interface_index(dev)?),
                (None, Some(IpAddr::V4(local))) => {
                    socket.set_multicast_if_v4(&local)?;
                    InterfaceIndexOrAddress::Address(local)
                }
                (None, _) => InterfaceIndexOrAddress::Address(Ipv4Addr::UNSPECIFIED),
            };
            socket.join_multicast_v4_n(&group, &interface)?;
            // Frames that come back to this host are our own.
            socket.set_multicast_loop_v4(false)?;
            socket.set_multicast_all_v4(false)?;
            socket.set_multicast_ttl_v4(self.ttl.unwrap_or(1).into())
        };
        join().map_err(|source| DatagramError::System {
            link: name.to_owned(),
            act: format!("join group {group}"),
            source,
            hint: " (dev=INTERFACE or local=ADDRESS names what leads to it)",
        })
    }
}

/// This end: what is known of the others.
pub struct Vtep {
    vni: Vni,
    header: [u8; wire::LEN],
    peers: Vec<SocketAddr>,
    /// The same, as the kernel takes them.
    everybody: Vec<SockAddr>,
    has_group: bool,
    /// Where VTEPs of the group listen.
    port: u16,
    table: Table,
    now: Instant,
    /// Where the frame just sealed goes.
    one: Option<(SocketAddr, SockAddr)>,
}

impl Vtep {
    fn new(config: &VxlanConfig, peers: Vec<SocketAddr>, has_group: bool) -> Self {
        Self {
            vni: config.vni,
            header: wire::emit(config.vni),
            everybody: peers.iter().copied().map(SockAddr::from).collect(),
            peers,
            has_group,
            port: config.port,
            table: Table::new(config.ageing, CAPACITY),
            now: Instant::now(),
            one: None,
        }
    }

    /// Where to answer somebody: a peer under its own port, a member of the group under the link's.
    fn answers_go_to(&self, from: SocketAddr) -> Option<SocketAddr> {
        if self.peers.contains(&from) {
            return Some(from);
        }
        let peer = self.peers.iter().find(|peer| peer.ip() == from.ip());
        peer.copied().or_else(|| self.has_group.then(|| SocketAddr::new(from.ip(), self.port)))
    }
}

impl Envelope for Vtep {
    const HAS_ADDRESSES: bool = true;

    fn tx_len(&self) -> usize {
        wire::LEN
    }

    fn begin(&mut self) {
        self.now = Instant::now();
    }

    fn seal(&mut self, frame: &Frame<'_>, prefix: &mut [u8]) -> Result<To<'_>, DropReason> {
        prefix.copy_from_slice(&self.header);
        let mut destination = [0; 6];
        frame.copy_to(0, &mut destination);
        match self.table.find(MacAddr(destination), self.now) {
            None => Ok(To::Each(&self.everybody)),
            Some(vtep) => {
                if self.one.as_ref().is_none_or(|(known, _)| *known != vtep) {
                    self.one = None;
                }
                Ok(To::one(&self.one.get_or_insert_with(|| (vtep, vtep.into())).1))
            }
        }
    }

    fn open(&mut self, datagram: &Received<'_>) -> Result<Option<VnetHeader>, DropReason> {
        let behind = datagram.from.and_then(|from| self.answers_go_to(from)).ok_or(DropReason::Unserved)?;
        let header = datagram.prefix.first_chunk().ok_or(DropReason::Runt)?;
        if wire::parse(header)? != self.vni {
            return Err(DropReason::Unserved);
        }
        let [_, _, _, _, _, _, a, b, c, d, e, g, _, _] = datagram.head().ok_or(DropReason::Runt)?;
        self.table.learn(MacAddr([a, b, c, d, e, g]), behind, self.now);
        Ok(Some(VnetHeader::WHOLE))
    }
}

#[cfg(test)]
#[path = "vxlan_test.rs"]
mod tests;
