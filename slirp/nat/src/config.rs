//! The NAT's settings as validated plain data: a [`Config`] is taken from a locator before anything is opened.
//!
//! Keys and defaults are those of QEMU's `-netdev user` (qemu(1), "Network options"): network 10.0.2.0/24, gateway
//! .2, name server .3, leases from .15. Two keys are ours: `mtu`, and `host-loopback`, whether the gateway's address
//! leads to the host's loopback. It is on, as QEMU has it: a guest then reaches every service that listens on 127.0.0.1.
//!
//! Invariant: in a `Config` the gateway, the name server and all leases are different host addresses of the network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;

use link::{DEFAULT_MTU, Locator, LocatorError, Options};

/// How many addresses DHCP hands out.
pub const LEASES: u8 = 16;

/// The MTUs taken, in bytes: what every IPv4 host takes (RFC 791), and what slirp4netns allows.
pub const MTU_RANGE: std::ops::RangeInclusive<u16> = 576..=65521;

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
    fn host(self, host: u32) -> Ipv4Addr {
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
    /// At a port; the unspecified address means every interface.
    Port(SocketAddrV4),
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
    /// Where the guest listens; no address means that of the first lease.
    pub guest: (Option<Ipv4Addr>, u16),
}

impl FromStr for Forward {
    type Err = String;

    /// QEMU's spelling: `[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`, or `unix:path-[guestaddr]:guestport`.
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
        let (host_address, host_port) = host.split_once(':').ok_or_else(expected)?;
        let (guest_address, guest_port) = guest.split_once(':').ok_or_else(expected)?;
        let host_address = optional_address(host_address)?.unwrap_or(Ipv4Addr::UNSPECIFIED);
        Ok(Self {
            protocol,
            host: Entrance::Port(SocketAddrV4::new(host_address, port(host_port)?)),
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
        let part = |address: Option<Ipv4Addr>| address.map(|a| a.to_string()).unwrap_or_default();
        match &self.host {
            Entrance::Path(path) => write!(f, "unix:{}", path.display())?,
            Entrance::Port(host) => {
                let address = Some(*host.ip()).filter(|address| !address.is_unspecified());
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

fn optional_address(text: &str) -> Result<Option<Ipv4Addr>, String> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("'{text}' is not an IPv4 address")),
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
        config.take_families(&mut options)?;
        config.take_mtu(&mut options)?;
        config.take_forwards(&mut options)?;
        config.check(&options)?;
        options.finish()?;
        Ok(config)
    }

    /// The guest's address that a forwarding rule without one means.
    #[must_use]
    pub fn forward_target(&self, forward: &Forward) -> SocketAddrV4 {
        SocketAddrV4::new(forward.guest.0.unwrap_or(self.dhcp_start), forward.guest.1)
    }

    /// The address in lease `number`, 0 to 15.
    #[must_use]
    pub fn lease(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.dhcp_start.to_bits().wrapping_add(u32::from(number)))
    }

    fn take_families(&self, options: &mut Options) -> Result<(), LocatorError> {
        if options.take_switch("ipv4")? == Some(false) {
            return Err(options.bad_value("ipv4", "off", &"there is no IPv6 yet, so nothing would be left"));
        }
        if options.take_switch("ipv6")? == Some(true) {
            return Err(options.bad_value("ipv6", "on", &"IPv6 is not there yet"));
        }
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
            let is_strange = |rule: &Forward| rule.guest.0.is_some_and(|guest| !self.network.is_host(guest));
            if rules.iter().any(is_strange) {
                let why = format!("the guest's address is not in {}", self.network);
                return Err(options.bad_value("hostfwd", &text, &why));
            }
            self.forwards.extend(rules);
        }
        Ok(())
    }

    fn check(&self, options: &Options) -> Result<(), LocatorError> {
        if self.gateway == self.dns {
            return Err(options.bad_value("dns", &self.dns.to_string(), &"this is the address of host"));
        }
        let leased = |address: Ipv4Addr| (self.dhcp_start..=self.lease(LEASES - 1)).contains(&address);
        let last = self.lease(LEASES - 1);
        if !self.network.is_host(last) || leased(self.gateway) || leased(self.dns) {
            let why = format!("16 addresses from here must be in {} and leave out host and dns", self.network);
            return Err(options.bad_value("dhcpstart", &self.dhcp_start.to_string(), &why));
        }
        Ok(())
    }
}

fn take_host(options: &mut Options, key: &str, network: Network) -> Result<Option<Ipv4Addr>, LocatorError> {
    let Some(address) = options.take_parsed::<Ipv4Addr>(key)? else { return Ok(None) };
    if !network.is_host(address) {
        return Err(options.bad_value(key, &address.to_string(), &format!("not a host address of {network}")));
    }
    Ok(Some(address))
}

/// The IPv4 address of a socket address: IPv4 itself, or mapped into IPv6.
pub(crate) fn ipv4_of(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
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
             mtu=9000,host-loopback=off,hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-192.168.76.30:5353,\
             hostfwd=unix:/run/a-b:c-192.168.76.30:80",
        )
        .unwrap();
        assert_eq!(config.network.to_string(), "192.168.76.0/24");
        assert_eq!(config.gateway, Ipv4Addr::new(192, 168, 76, 9));
        assert_eq!(config.search.iter().map(Name::as_str).collect::<Vec<_>>(), ["a.example", "b.example"]);
        assert!(config.restrict && !config.host_loopback);
        assert_eq!(config.mtu, 9000);
        let rules: Vec<_> = config.forwards.iter().map(ToString::to_string).collect();
        let expected = ["tcp::2222-:22", "udp:127.0.0.1:53-192.168.76.30:5353", "unix:/run/a-b:c-192.168.76.30:80"];
        assert_eq!(rules, expected);
        assert_eq!(config.forward_target(&config.forwards[0]), "192.168.76.20:22".parse().unwrap());
    }

    #[test]
    fn a_moved_network_moves_the_defaults() {
        let config = config("user,net=172.16.0.0/12").unwrap();
        assert_eq!(config.gateway, Ipv4Addr::new(172, 16, 2, 2));
        assert_eq!(config.dhcp_start, Ipv4Addr::new(172, 16, 2, 15));
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
            ("user,ipv6=on", "IPv6 is not there yet"),
            ("user,mtu=100", "mtu=100"),
            ("user,hostname=a b", "hostname=a b"),
            ("user,hostfwd=tcp:22-22", "hostfwd=tcp:22-22"),
            ("user,hostfwd=tcp::0-:22", "'0' is not a port"),
            ("user,hostfwd=tcp::22-10.9.9.9:22", "not in 10.0.2.0/24"),
            ("user,hostfwd=unix:/x:22", "expected unix:path-"),
            ("user,hostfwd=unix:-:22", "expected unix:path-"),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
