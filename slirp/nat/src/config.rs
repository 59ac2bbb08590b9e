//! The NAT's settings as validated plain data: a [`Config`] is taken from a locator before anything is opened.
//!
//! Keys and defaults are those of QEMU's `-netdev user` (qemu(1), "Network options"): network 10.0.2.0/24, gateway
//! .2, name server .3, leases from .15; and IPv6 in fec0::/64, with ::2 and ::3. Two keys are ours: `mtu`, and
//! `host-loopback`, whether the gateway's address leads to the host's loopback. It is on, as QEMU has it: a guest then
//! reaches every service that listens on 127.0.0.1 or ::1.
//!
//! In a `hostfwd` IPv6 addresses stand in brackets, and the two addresses may be of different families:
//! `tcp:[::1]:8080-[fec0::15]:80`, `tcp:[::]:8080-:80`. An empty host address is 0.0.0.0, as QEMU has it, and `[::]` is
//! IPv6 alone, so both may have one port. An empty guest address is the first IPv4 lease.
//!
//! Invariant: in a `Config` the gateway, the name server, the addresses of guest forwarding and all leases are different host
//! addresses of the network, in each family; and at least one family is on.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use link::{DEFAULT_MTU, Locator, LocatorError, Options};

use crate::guestfwd::{GuestForward, Target};
use crate::smb;

/// How many addresses DHCP hands out.
pub const LEASES: u8 = 16;

/// The MTUs taken, in bytes: what every IPv4 host takes (RFC 791), and what slirp4netns allows.
pub const MTU_RANGE: std::ops::RangeInclusive<u16> = 576..=65521;

/// Bytes of a boot file's name: what the field in a BOOTP message holds, with a NUL behind it (RFC 951 §3).
pub const BOOTFILE_LEN: usize = 127;

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address.
    pub address: Ipv4Addr,
    /// Bits of the network part, 4 to 27.
    pub prefix: u8,
}

impl Network {
    /// The netmask.
    #[must_use]
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - u32::from(self.prefix)))
    }

    /// The last address, which is every host's.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        self.address | !self.mask()
    }

    /// Whether the address belongs to the network.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address & self.mask() == self.address
    }

    /// Whether the address is one that a host of this network can have.
    #[must_use]
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        self.contains(address) && address != self.address && address != self.broadcast()
    }

    /// The address whose host part is the low bits of `host`.
    pub(crate) fn host(self, host: u32) -> Ipv4Addr {
        self.address | (Ipv4Addr::from_bits(host) & !self.mask())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = &'static str;

    /// `10.0.2.0/24`, `10.0.2.0/255.255.255.0`, or `10.0.2.0`, which means /24.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected ADDRESS/PREFIX, as in 10.0.2.0/24, with a prefix of 4 to 27";
        let (address, mask) = text.split_once('/').unwrap_or((text, "24"));
        let address: Ipv4Addr = address.parse().map_err(|_| EXPECTED)?;
        let prefix = match (mask.parse::<u8>(), mask.parse::<Ipv4Addr>()) {
            (Ok(prefix), _) => prefix,
            (_, Ok(mask)) if mask.to_bits().leading_ones() + mask.to_bits().trailing_zeros() == 32 => {
                mask.to_bits().leading_ones() as u8
            }
            _ => return Err(EXPECTED),
        };
        // Smaller networks have no room for 16 leases, the gateway and the name server.
        if !(4..=27).contains(&prefix) {
            return Err(EXPECTED);
        }
        let network = Self { address, prefix };
        Ok(Self { address: address & network.mask(), prefix })
    }
}

/// Bytes of packet that every link has to carry for IPv6 (RFC 8200 §5).
const MIN_MTU_IPV6: u16 = 1280;

/// An IPv6 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network6 {
    /// Its first address.
    pub address: Ipv6Addr,
    /// Bits of the network part, 16 to 120. Guests configure themselves if it is 64 (RFC 4862 §5.5.3).
    pub prefix: u8,
}

impl Network6 {
    fn mask(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::MAX << (128 - u32::from(self.prefix)))
    }

    /// Whether the address belongs to the network.
    #[must_use]
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address & self.mask() == self.address
    }

    /// Whether the address is one that a host of this network can have: the first is every router's (RFC 4291 §2.6.1).
    #[must_use]
    pub fn is_host(self, address: Ipv6Addr) -> bool {
        self.contains(address) && address != self.address
    }

    /// The address with this host part, which is less than 256.
    fn host(self, host: u8) -> Ipv6Addr {
        self.address | Ipv6Addr::from_bits(host.into())
    }
}

impl fmt::Display for Network6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network6 {
    type Err = &'static str;

    /// `fec0::/64`, or `fec0::`, which means /64.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected ADDRESS/PREFIX, as in fec0::/64, with a prefix of 16 to 120";
        let (address, prefix) = text.split_once('/').unwrap_or((text, "64"));
        let address: Ipv6Addr = address.parse().map_err(|_| EXPECTED)?;
        let prefix = prefix.parse().ok().filter(|prefix| (16..=120).contains(prefix)).ok_or(EXPECTED)?;
        if address.is_multicast() || address.is_unicast_link_local() || address.to_bits() >> 48 == 0 {
            return Err("no host can have an address of this network");
        }
        let network = Self { address, prefix };
        Ok(Self { address: address & network.mask(), prefix })
    }
}

/// The IPv6 side of the guests' network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// The network.
    pub network: Network6,
    /// The NAT's own address.
    pub gateway: Ipv6Addr,
    /// The address at which the host's name servers answer.
    pub dns: Ipv6Addr,
}

impl Ipv6 {
    /// QEMU's defaults in a network: the gateway is `::2`, the name server `::3`.
    #[must_use]
    pub fn of_network(network: Network6) -> Self {
        Self { network, gateway: network.host(2), dns: network.host(3) }
    }

    /// The gateway's address on the link, from which it advertises itself (RFC 4861 §4.2).
    #[must_use]
    pub fn link_local(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(0xfe80 << 112 | self.gateway.to_bits() & u128::from(u64::MAX))
    }

    /// The address in lease `number` of DHCPv6, 0 to 15: from `::15` on.
    #[must_use]
    pub fn lease(&self, number: u8) -> Ipv6Addr {
        self.network.host(0x15_u8.saturating_add(number))
    }
}

impl Default for Ipv6 {
    fn default() -> Self {
        Self::of_network(Network6 { address: Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), prefix: 64 })
    }
}

/// The protocol of a forwarding rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where the host waits for what is to be forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// At a port; an unspecified address means every interface, in its own family alone.
    Port(SocketAddr),
    /// At a Unix socket with this path, for connections.
    Path(PathBuf),
}

impl fmt::Display for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => address.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// A forwarding rule: what arrives at a port of the host, or at a Unix socket, goes to a port of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The protocol.
    pub protocol: Protocol,
    /// Where the host listens.
    pub host: Entrance,
    /// Where the guest listens; no address means that of the first IPv4 lease.
    pub guest: (Option<IpAddr>, u16),
}

impl FromStr for Forward {
    type Err = String;

    /// QEMU's spelling: `[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`, or `unix:path-[guestaddr]:guestport`; an
    /// IPv6 address has brackets.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix("unix:") {
            return unix_forward(rest);
        }
        let expected = || "expected [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport".to_owned();
        let (protocol, rest) = text.split_once(':').ok_or_else(expected)?;
        let protocol = match protocol {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(expected()),
        };
        let (host, guest) = rest.split_once('-').ok_or_else(expected)?;
        let (host_address, host_port) = host.rsplit_once(':').ok_or_else(expected)?;
        let (guest_address, guest_port) = guest.rsplit_once(':').ok_or_else(expected)?;
        let host_address = optional_address(host_address)?.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        Ok(Self {
            protocol,
            host: Entrance::Port(SocketAddr::new(host_address, port(host_port)?)),
            guest: (optional_address(guest_address)?, port(guest_port)?),
        })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let part = |address: Option<IpAddr>| match address {
            Some(IpAddr::V4(address)) => address.to_string(),
            Some(IpAddr::V6(address)) => format!("[{address}]"),
            None => String::new(),
        };
        match &self.host {
            Entrance::Path(path) => write!(f, "unix:{}", path.display())?,
            Entrance::Port(host) => {
                let address = Some(host.ip()).filter(|&address| address != Ipv4Addr::UNSPECIFIED);
                write!(f, "{protocol}:{}:{}", part(address), host.port())?;
            }
        }
        write!(f, "-{}:{}", part(self.guest.0), self.guest.1)
    }
}

/// A rule behind `unix:`. The path may have dashes and colons.
fn unix_forward(text: &str) -> Result<Forward, String> {
    let expected = || "expected unix:path-[guestaddr]:guestport".to_owned();
    let (rest, guest_port) = text.rsplit_once(':').ok_or_else(expected)?;
    let (path, guest_address) = rest.rsplit_once('-').filter(|(path, _)| !path.is_empty()).ok_or_else(expected)?;
    let guest = (optional_address(guest_address)?, port(guest_port)?);
    Ok(Forward { protocol: Protocol::Tcp, host: Entrance::Path(path.into()), guest })
}

fn optional_address(text: &str) -> Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return inner
            .parse()
            .map(|a: Ipv6Addr| Some(a.into()))
            .map_err(|_| format!("'{inner}' is not an IPv6 address"));
    }
    match text.parse() {
        Ok(IpAddr::V4(address)) => Ok(Some(address.into())),
        Ok(IpAddr::V6(_)) => Err(format!("'{text}': an IPv6 address has brackets, as in [{text}]")),
        Err(_) => Err(format!("'{text}' is not an IPv4 address")),
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|&port| port != 0).ok_or_else(|| format!("'{text}' is not a port: 1 to 65535"))
}

/// A name that DHCP can hand out: labels of letters, digits, `-` and `_`, as RFC 1035 §2.3.4 bounds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// The text, without a dot at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Appends the name in DNS wire form, without compression (RFC 1035 §3.1).
    pub(crate) fn put_wire(&self, out: &mut Vec<u8>) {
        for label in self.0.split('.') {
            // At most 63 bytes.
            out.push(label.len() as u8);
            out.extend(label.as_bytes());
        }
        out.push(0);
    }
}

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let fits = |label: &str| {
            (1..=63).contains(&label.len()) && label.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
        };
        if name.len() > 253 || !name.split('.').all(fits) {
            return Err("not a domain name");
        }
        Ok(Self(name.to_owned()))
    }
}

/// Everything the NAT has to know before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whether there is IPv4: without it no ARP and no DHCP either.
    pub ipv4: bool,
    /// IPv6, if there is.
    pub ipv6: Option<Ipv6>,
    /// The guests' network.
    pub network: Network,
    /// The NAT's own address: the guests' router.
    pub gateway: Ipv4Addr,
    /// The address at which the host's name servers answer.
    pub dns: Ipv4Addr,
    /// Whether they do: otherwise there is silence, and DHCP hands out no name server.
    pub dns_relay: bool,
    /// The first of the 16 addresses that DHCP hands out.
    pub dhcp_start: Ipv4Addr,
    /// The name a guest is told to have.
    pub hostname: Option<Name>,
    /// The domain a guest is told to be in.
    pub domain: Option<Name>,
    /// The domains a guest is told to search.
    pub search: Vec<Name>,
    /// Guests reach nobody but each other's forwarding rules: no outward connection, no DNS.
    pub restrict: bool,
    /// Whether the gateway's address leads to the host's loopback.
    pub host_loopback: bool,
    /// Bytes of IP packet in a frame, 576 to 65521.
    pub mtu: u16,
    /// The forwarding rules.
    pub forwards: Vec<Forward>,
    /// What answers at addresses of the guests' network.
    pub guest_forwards: Vec<GuestForward>,
    /// The folder that guests see as a share; `guest_forwards` leads to its server.
    pub smb: Option<PathBuf>,
    /// The folder whose files guests read by TFTP.
    pub tftp: Option<PathBuf>,
    /// The file that a guest is told to boot, [`BOOTFILE_LEN`] bytes at most.
    pub bootfile: Option<String>,
    /// The TFTP server that a guest is told of instead of the gateway: a name or an address, 255 bytes at most.
    pub tftp_server_name: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self::of_network(Network { address: Ipv4Addr::new(10, 0, 2, 0), prefix: 24 })
    }
}

impl Config {
    /// QEMU's defaults, moved to another network: host parts 2.2, 2.3 and 2.15, as far as the prefix leaves them.
    #[must_use]
    pub fn of_network(network: Network) -> Self {
        Self {
            ipv4: true,
            ipv6: Some(Ipv6::default()),
            network,
            gateway: network.host(0x0202),
            dns: network.host(0x0203),
            dns_relay: true,
            dhcp_start: network.host(0x020f),
            hostname: None,
            domain: None,
            search: Vec::new(),
            restrict: false,
            host_loopback: true,
            mtu: DEFAULT_MTU,
            forwards: Vec::new(),
            guest_forwards: Vec::new(),
            smb: None,
            tftp: None,
            bootfile: None,
            tftp_server_name: None,
        }
    }

    /// Takes the settings out of `user://?key=value…` or QEMU's `user,key=value…`.
    ///
    /// # Errors
    /// A key that is unknown or given twice, a value that its key does not take, or values that contradict each other.
    pub fn from_locator(locator: &Locator) -> Result<Self, LocatorError> {
        let mut options = locator.options.clone();
        if !locator.address.is_empty() {
            return Err(options.bad_value("address", &locator.address, &"the user-mode network has no address"));
        }
        let network = options.take_parsed("net")?.unwrap_or(Self::default().network);
        let mut config = Self::of_network(network);
        config.gateway = take_host(&mut options, "host", network)?.unwrap_or(config.gateway);
        config.dns = take_host(&mut options, "dns", network)?.unwrap_or(config.dns);
        config.dhcp_start = take_host(&mut options, "dhcpstart", network)?.unwrap_or(config.dhcp_start);
        config.hostname = options.take_parsed("hostname")?;
        config.domain = options.take_parsed("domainname")?;
        for text in options.take_all("dnssearch") {
            let name = text.parse().map_err(|why| options.bad_value("dnssearch", &text, &why))?;
            config.search.push(name);
        }
        config.restrict = options.take_switch("restrict")?.unwrap_or(false);
        config.host_loopback = options.take_switch("host-loopback")?.unwrap_or(true);
        config.take_mtu(&mut options)?;
        config.take_families(&mut options)?;
        config.take_forwards(&mut options)?;
        config.take_guest_forwards(&mut options)?;
        config.take_share(&mut options)?;
        config.take_boot(&mut options)?;
        config.check(&options)?;
        options.finish()?;
        Ok(config)
    }

    /// Whether guests are told of the name server.
    pub(crate) fn offers_dns(&self) -> bool {
        self.dns_relay && !self.restrict
    }

    /// The guest's address that a forwarding rule without one means.
    #[must_use]
    pub fn forward_target(&self, forward: &Forward) -> SocketAddr {
        SocketAddr::new(forward.guest.0.unwrap_or(self.dhcp_start.into()), forward.guest.1)
    }

    /// Why no guest can have the address to which a forwarding rule leads, if so.
    pub(crate) fn forward_fault(&self, forward: &Forward) -> Option<String> {
        let strange = |network: &dyn fmt::Display| Some(format!("the guest's address is not in {network}"));
        match (self.forward_target(forward).ip(), &self.ipv6) {
            (IpAddr::V4(_), _) if !self.ipv4 => Some("it leads to an IPv4 address, and ipv4 is off".to_owned()),
            (IpAddr::V4(address), _) if !self.network.is_host(address) => strange(&self.network),
            (IpAddr::V6(_), None) => Some("it leads to an IPv6 address, and ipv6 is off".to_owned()),
            (IpAddr::V6(address), Some(net)) if !net.network.is_host(address) => strange(&net.network),
            _ => None,
        }
    }

    /// The address in lease `number`, 0 to 15.
    #[must_use]
    pub fn lease(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.dhcp_start.to_bits().wrapping_add(u32::from(number)))
    }

    fn take_families(&mut self, options: &mut Options) -> Result<(), LocatorError> {
        self.ipv4 = options.take_switch("ipv4")?.unwrap_or(true);
        let wanted = options.take_switch("ipv6")?;
        let net = take_net6(options)?;
        let host = options.take_parsed::<Ipv6Addr>("ipv6-host")?;
        let dns = options.take_parsed::<Ipv6Addr>("ipv6-dns")?;
        let fits = self.mtu >= MIN_MTU_IPV6;
        if wanted == Some(true) && !fits {
            return Err(options.bad_value("ipv6", "on", &format!("IPv6 needs an mtu of {MIN_MTU_IPV6} or more")));
        }
        if !self.ipv4 && (wanted == Some(false) || !fits) {
            return Err(options.bad_value("ipv4", "off", &"IPv6 is off too, so nothing would be left"));
        }
        self.ipv6 = None;
        if !wanted.unwrap_or(fits) {
            return Ok(());
        }
        let mut ipv6 = net.map_or_else(Ipv6::default, Ipv6::of_network);
        for (key, address, place) in [("ipv6-host", host, &mut ipv6.gateway), ("ipv6-dns", dns, &mut ipv6.dns)] {
            let Some(address) = address else { continue };
            if !ipv6.network.is_host(address) {
                let why = format!("not a host address of {}", ipv6.network);
                return Err(options.bad_value(key, &address.to_string(), &why));
            }
            *place = address;
        }
        if ipv6.gateway == ipv6.dns {
            return Err(options.bad_value("ipv6-dns", &ipv6.dns.to_string(), &"this is the address of ipv6-host"));
        }
        for (key, address) in [("ipv6-host", ipv6.gateway), ("ipv6-dns", ipv6.dns)] {
            if (ipv6.lease(0)..=ipv6.lease(LEASES - 1)).contains(&address) {
                return Err(options.bad_value(key, &address.to_string(), &"DHCPv6 hands this address out"));
            }
        }
        self.ipv6 = Some(ipv6);
        Ok(())
    }

    fn take_mtu(&mut self, options: &mut Options) -> Result<(), LocatorError> {
        let Some(mtu) = options.take_parsed::<u16>("mtu")? else { return Ok(()) };
        if !MTU_RANGE.contains(&mtu) {
            return Err(options.bad_value("mtu", &mtu.to_string(), &"expected 576 to 65521"));
        }
        self.mtu = mtu;
        Ok(())
    }

    fn take_forwards(&mut self, options: &mut Options) -> Result<(), LocatorError> {
        for text in options.take_all("hostfwd") {
            let rules = Forward::parse_all(&text).map_err(|why| options.bad_value("hostfwd", &text, &why))?;
            if let Some(why) = rules.iter().find_map(|rule| self.forward_fault(rule)) {
                return Err(options.bad_value("hostfwd", &text, &why));
            }
            self.forwards.extend(rules);
        }
        Ok(())
    }

    fn take_guest_forwards(&mut self, options: &mut Options) -> Result<(), LocatorError> {
        for text in options.take_all("guestfwd") {
            let rule: GuestForward = text.parse().map_err(|why: String| options.bad_value("guestfwd", &text, &why))?;
            self.add_guest_forward(rule).map_err(|why| options.bad_value("guestfwd", &text, &why))?;
        }
        Ok(())
    }

    fn add_guest_forward(&mut self, rule: GuestForward) -> Result<(), String> {
        let at = self.guest_forward_address(&rule);
        if !self.network.is_host(*at.ip()) {
            return Err(format!("the address is not in {}", self.network));
        }
        if [self.gateway, self.dns].contains(at.ip()) {
            return Err("this is the address of host or dns".to_owned());
        }
        if self.guest_forward(at).is_some() {
            return Err(format!("another rule has port {} of {}", at.port(), at.ip()));
        }
        self.guest_forwards.push(rule);
        Ok(())
    }

    fn take_share(&mut self, options: &mut Options) -> Result<(), LocatorError> {
        let server = options.take_parsed::<Ipv4Addr>("smbserver")?;
        let folder = take_text(options, "smb", libc::PATH_MAX as usize)?;
        let Some(folder) = folder else {
            let Some(server) = server else { return Ok(()) };
            return Err(options.bad_value("smbserver", &server.to_string(), &"there is no smb"));
        };
        for port in smb::PORTS {
            let rule = GuestForward { server, port, target: Target::Share };
            self.add_guest_forward(rule).map_err(|why| match server {
                Some(server) => options.bad_value("smbserver", &server.to_string(), &why),
                None => options.bad_value("smb", &folder, &why),
            })?;
        }
        self.smb = Some(folder.into());
        Ok(())
    }

    fn take_boot(&mut self, options: &mut Options) -> Result<(), LocatorError> {
        self.tftp = take_text(options, "tftp", libc::PATH_MAX as usize)?.map(PathBuf::from);
        self.bootfile = take_text(options, "bootfile", BOOTFILE_LEN)?;
        self.tftp_server_name = take_text(options, "tftp-server-name", 255)?;
        Ok(())
    }

    fn check(&self, options: &Options) -> Result<(), LocatorError> {
        if self.gateway == self.dns {
            return Err(options.bad_value("dns", &self.dns.to_string(), &"this is the address of host"));
        }
        let leased = |address: Ipv4Addr| (self.dhcp_start..=self.lease(LEASES - 1)).contains(&address);
        if let Some(rule) = self.guest_forwards.iter().find(|rule| leased(*self.guest_forward_address(rule).ip())) {
            let address = self.guest_forward_address(rule);
            return Err(options.bad_value("guestfwd", &address.to_string(), &"DHCP hands out this address"));
        }
        let last = self.lease(LEASES - 1);
        if !self.network.is_host(last) || leased(self.gateway) || leased(self.dns) {
            let why = format!("16 addresses from here must be in {} and leave out host and dns", self.network);
            return Err(options.bad_value("dhcpstart", &self.dhcp_start.to_string(), &why));
        }
        Ok(())
    }
}

fn take_text(options: &mut Options, key: &str, longest: usize) -> Result<Option<String>, LocatorError> {
    let Some(text) = options.take(key)? else { return Ok(None) };
    if text.is_empty() || text.len() > longest || text.contains('\0') {
        return Err(options.bad_value(key, &text, &format!("expected 1 to {longest} bytes without a NUL")));
    }
    Ok(Some(text))
}

fn take_host(options: &mut Options, key: &str, network: Network) -> Result<Option<Ipv4Addr>, LocatorError> {
    let Some(address) = options.take_parsed::<Ipv4Addr>(key)? else { return Ok(None) };
    if !network.is_host(address) {
        return Err(options.bad_value(key, &address.to_string(), &format!("not a host address of {network}")));
    }
    Ok(Some(address))
}

/// QEMU's two spellings of the IPv6 network: `ipv6-net`, or `ipv6-prefix` with `ipv6-prefixlen`.
fn take_net6(options: &mut Options) -> Result<Option<Network6>, LocatorError> {
    let net = options.take_parsed::<Network6>("ipv6-net")?;
    let prefix = options.take_parsed::<Ipv6Addr>("ipv6-prefix")?;
    let len = options.take_parsed::<u8>("ipv6-prefixlen")?;
    if prefix.is_none() && len.is_none() {
        return Ok(net);
    }
    let default = Ipv6::default().network;
    let text = format!("{}/{}", prefix.unwrap_or(default.address), len.unwrap_or(default.prefix));
    if net.is_some() {
        return Err(options.bad_value("ipv6-prefix", &text, &"ipv6-net says the same"));
    }
    text.parse().map(Some).map_err(|why| options.bad_value("ipv6-prefix", &text, &why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        Config::from_locator(&Locator::from_qemu(text)).map_err(|error| error.to_string())
    }

    #[test]
    fn no_option_means_qemus_defaults() {
        let config = config("user").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.gateway, Ipv4Addr::new(10, 0, 2, 2));
        assert_eq!(config.dns, Ipv4Addr::new(10, 0, 2, 3));
        assert_eq!(config.dhcp_start, Ipv4Addr::new(10, 0, 2, 15));
        assert!(config.host_loopback);
    }

    #[test]
    fn every_option_is_taken() {
        let config = config(
            "user,net=192.168.76.0/255.255.255.0,host=192.168.76.9,dns=192.168.76.3,dhcpstart=192.168.76.20,\
             hostname=guest,domainname=lab.example,dnssearch=a.example,dnssearch=b.example.,restrict,ipv4=on,ipv6=off,\
             mtu=9000,host-loopback=off,tftp=/srv/boot,bootfile=pxe/boot.ipxe,tftp-server-name=boot.example,\
             guestfwd=tcp:192.168.76.5:80-tcp:127.0.0.1:8080,guestfwd=::25-cmd:cat,smb=/srv/share,smbserver=192.168.76.6,\
             hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-192.168.76.30:5353,hostfwd=unix:/run/a-b:c-192.168.76.30:80",
        )
        .unwrap();
        assert_eq!(config.network.to_string(), "192.168.76.0/24");
        assert_eq!(config.gateway, Ipv4Addr::new(192, 168, 76, 9));
        assert_eq!(config.search.iter().map(Name::as_str).collect::<Vec<_>>(), ["a.example", "b.example"]);
        assert!(config.restrict && !config.host_loopback);
        assert_eq!(config.mtu, 9000);
        let servers: Vec<_> =
            config.guest_forwards.iter().map(|r| config.guest_forward_address(r).to_string()).collect();
        assert_eq!(servers, ["192.168.76.5:80", "192.168.76.4:25", "192.168.76.6:139", "192.168.76.6:445"]);
        assert_eq!(config.tftp, Some(PathBuf::from("/srv/boot")));
        assert_eq!(config.bootfile.as_deref(), Some("pxe/boot.ipxe"));
        assert_eq!(config.tftp_server_name.as_deref(), Some("boot.example"));
        let rules: Vec<_> = config.forwards.iter().map(ToString::to_string).collect();
        let expected = ["tcp::2222-:22", "udp:127.0.0.1:53-192.168.76.30:5353", "unix:/run/a-b:c-192.168.76.30:80"];
        assert_eq!(rules, expected);
        assert_eq!(config.forward_target(&config.forwards[0]), "192.168.76.20:22".parse().unwrap());
    }

    #[test]
    fn rules_of_both_families_come_back_as_they_were_said() {
        for rule in [
            "tcp:[::1]:8080-[fec0::15]:80",
            "udp:[::]:53-:53",
            "tcp::80-[fec0::15]:80",
            "udp:127.0.0.1:53-[fec0::15]:53",
            "unix:/run/a-b:c-[fec0::15]:80",
        ] {
            assert_eq!(config(&format!("user,hostfwd={rule}")).unwrap().forwards[0].to_string(), rule);
        }
        assert!(
            config("user,ipv4=off,hostfwd=tcp::22-[fec0::15]:22").is_ok(),
            "where the host listens is its own matter"
        );
    }

    #[test]
    fn a_moved_network_moves_the_defaults() {
        let config = config("user,net=172.16.0.0/12").unwrap();
        assert_eq!(config.gateway, Ipv4Addr::new(172, 16, 2, 2));
        assert_eq!(config.dhcp_start, Ipv4Addr::new(172, 16, 2, 15));
    }

    #[test]
    fn ipv6_has_qemus_keys_and_defaults() {
        let of =
            |text| config(text).unwrap().ipv6.map(|ipv6| format!("{} {} {}", ipv6.network, ipv6.gateway, ipv6.dns));
        assert_eq!(of("user").unwrap(), "fec0::/64 fec0::2 fec0::3");
        assert_eq!(of("user,ipv6-net=fd00:1::/48").unwrap(), "fd00:1::/48 fd00:1::2 fd00:1::3");
        assert_eq!(of("user,ipv6-prefix=fd00:1::,ipv6-prefixlen=96").unwrap(), "fd00:1::/96 fd00:1::2 fd00:1::3");
        assert_eq!(of("user,ipv6-prefix=fd00:1::7").unwrap(), "fd00:1::/64 fd00:1::2 fd00:1::3");
        let both = "user,ipv6=on,ipv4=off,ipv6-host=fec0::99,ipv6-dns=fec0::9";
        assert_eq!(of(both).unwrap(), "fec0::/64 fec0::99 fec0::9");
        assert!(!config(both).unwrap().ipv4);
        let ipv6 = config(both).unwrap().ipv6.unwrap();
        assert_eq!((ipv6.link_local(), ipv6.lease(15)), ("fe80::99".parse().unwrap(), "fec0::24".parse().unwrap()));
        for off in ["user,ipv6=off", "user,ipv6=off,ipv6-host=fec0::9", "user,mtu=1279"] {
            assert_eq!(of(off), None, "{off}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_named() {
        for (text, part) in [
            ("user,nett=10.0.2.0/24", "unknown option 'nett'"),
            ("user,net=10.0.2.0/33", "net=10.0.2.0/33"),
            ("user,net=10.0.2.0/255.0.255.0", "net="),
            ("user,host=10.0.3.2", "host=10.0.3.2"),
            ("user,dns=10.0.2.2", "address of host"),
            ("user,dhcpstart=10.0.2.250", "dhcpstart=10.0.2.250"),
            ("user,host=10.0.2.16", "dhcpstart"),
            ("user,ipv4=off,ipv6=off", "nothing would be left"),
            ("user,ipv4=off,mtu=1000", "nothing would be left"),
            ("user,ipv6=on,mtu=1000", "ipv6=on"),
            ("user,ipv6-net=fec0::/8", "ipv6-net=fec0::/8"),
            ("user,ipv6-net=fe80::/64", "no host can have an address"),
            ("user,ipv6-net=10.0.2.0/24", "ipv6-net=10.0.2.0/24"),
            ("user,ipv6-net=fd00::/64,ipv6-prefix=fd00::", "ipv6-net says the same"),
            ("user,ipv6-prefixlen=121", "ipv6-prefix=fec0::/121"),
            ("user,ipv6-host=fd00::2", "not a host address of fec0::/64"),
            ("user,ipv6-host=fec0::", "ipv6-host=fec0::"),
            ("user,ipv6-dns=fec0::2", "address of ipv6-host"),
            ("user,ipv6-dns=fec0::20", "DHCPv6 hands this address out"),
            ("user,ipv4=off,hostfwd=tcp::22-:22", "ipv4 is off"),
            ("user,mtu=100", "mtu=100"),
            ("user,guestfwd=::80", "expected [tcp]:[server]:port-TARGET"),
            ("user,guestfwd=:10.9.9.9:80-cmd:cat", "not in 10.0.2.0/24"),
            ("user,guestfwd=:10.0.2.2:80-cmd:cat", "address of host or dns"),
            ("user,guestfwd=:10.0.2.20:80-cmd:cat", "DHCP hands out"),
            ("user,guestfwd=::80-cmd:a,guestfwd=:10.0.2.4:80-cmd:b", "another rule has port 80 of 10.0.2.4"),
            ("user,smbserver=10.0.2.4", "there is no smb"),
            ("user,smb=/srv,smbserver=10.0.2.2", "smbserver=10.0.2.2: this is the address of host"),
            ("user,smb=/srv,guestfwd=::445-cmd:x", "smb=/srv: another rule"),
            ("user,tftp=", "expected 1 to 4096 bytes"),
            ("user,tftp=/a,tftp=/b", "'tftp' is given twice"),
            (&format!("user,bootfile={}", "b".repeat(128)), "expected 1 to 127 bytes"),
            (&format!("user,tftp-server-name={}", "n".repeat(256)), "expected 1 to 255 bytes"),
            ("user,hostname=a b", "hostname=a b"),
            ("user,hostfwd=tcp:22-22", "hostfwd=tcp:22-22"),
            ("user,hostfwd=tcp::0-:22", "'0' is not a port"),
            ("user,hostfwd=tcp::22-10.9.9.9:22", "not in 10.0.2.0/24"),
            ("user,hostfwd=tcp:[::1]:22-[fd00::15]:22", "not in fec0::/64"),
            ("user,hostfwd=tcp:[::1]:22-[fec0::]:22", "not in fec0::/64"),
            ("user,ipv6=off,hostfwd=tcp::22-[fec0::15]:22", "ipv6 is off"),
            ("user,hostfwd=tcp:::1:22-:22", "'::1': an IPv6 address has brackets, as in [::1]"),
            ("user,hostfwd=tcp:[10.0.0.1]:22-:22", "'10.0.0.1' is not an IPv6 address"),
            ("user,hostfwd=udp:[::1:22-:22", "'[::1' is not an IPv4 address"),
            ("user,hostfwd=unix:/x-fec0::15:22", "has brackets"),
            ("user,hostfwd=unix:/x:22", "expected unix:path-"),
            ("user,hostfwd=unix:-:22", "expected unix:path-"),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
