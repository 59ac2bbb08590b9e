//! Guest forwarding (`guestfwd`): an address of the guests' network at which something of the host's answers.
//!
//! The address answers ARP like the gateway's. A connection to the rule's port is made to the rule's target: a TCP
//! address, a Unix socket, or a command that is started for it and has the connection as its standard input and output.
//! What the rules lead to is reached by restricted guests, too, as with QEMU.
//!
//! Here are the rules; `tcp` makes the connections, `sockets` and `commands` what is at their far end.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;

use crate::config::Config;

/// What a guest's connection leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
    /// A command line of the shell's, started for each connection.
    Command(String),
    /// The file server for [`Config::smb`].
    Share,
}

/// A rule: connections to this address of the guests' network lead to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestForward {
    /// The address; none means the one with the host part 2.4.
    pub server: Option<Ipv4Addr>,
    /// The TCP port.
    pub port: u16,
    /// Where it leads.
    pub target: Target,
}

const EXPECTED: &str =
    "expected [tcp]:[server]:port-TARGET, where TARGET is tcp:ADDRESS:PORT, unix:PATH or cmd:COMMAND";

impl FromStr for GuestForward {
    type Err = String;

    /// QEMU's spelling: `[tcp]:server:port-TARGET`.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || EXPECTED.to_owned();
        let (rule, target) = text.split_once('-').ok_or_else(expected)?;
        let [protocol, server, port] = rule.split(':').collect::<Vec<_>>()[..] else { return Err(expected()) };
        if !["", "tcp"].contains(&protocol) {
            return Err(expected());
        }
        let server = match server {
            "" => None,
            text => Some(text.parse().map_err(|_| format!("'{text}' is not an IPv4 address"))?),
        };
        Ok(Self { server, port: parse_port(port)?, target: target.parse()? })
    }
}

impl FromStr for Target {
    type Err = String;

    /// QEMU's `cmd:`, and its spellings of character devices that connect somewhere.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').ok_or(EXPECTED)?;
        match kind {
            "tcp" => {
                let (host, port) = rest.rsplit_once(':').ok_or(EXPECTED)?;
                let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                let host: IpAddr = match host {
                    "localhost" => Ipv4Addr::LOCALHOST.into(),
                    host => host.parse().map_err(|_| format!("'{host}' is not an address; names are not looked up"))?,
                };
                Ok(Self::Tcp(SocketAddr::new(host, parse_port(port)?)))
            }
            "unix" if !rest.is_empty() => Ok(Self::Unix(rest.into())),
            "cmd" if !rest.trim().is_empty() => Ok(Self::Command(rest.to_owned())),
            _ => Err(EXPECTED.to_owned()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Command(line) => write!(f, "cmd:{line}"),
            Self::Share => f.write_str("smbd"),
        }
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|&port| port != 0).ok_or_else(|| format!("'{text}' is not a port: 1 to 65535"))
}

impl Config {
    /// The address of a rule.
    #[must_use]
    pub fn guest_forward_address(&self, rule: &GuestForward) -> SocketAddrV4 {
        SocketAddrV4::new(rule.server.unwrap_or(self.network.host(0x0204)), rule.port)
    }

    /// The rule for connections to this address.
    pub(crate) fn guest_forward(&self, to: impl Into<SocketAddr>) -> Option<&GuestForward> {
        let to = to.into();
        self.guest_forwards.iter().find(|rule| SocketAddr::V4(self.guest_forward_address(rule)) == to)
    }

    /// Whether an address is the NAT's own: the gateway, the name server, or that of a guest forwarding rule.
    pub(crate) fn is_own(&self, address: Ipv4Addr) -> bool {
        let forwards = || self.guest_forwards.iter().any(|rule| *self.guest_forward_address(rule).ip() == address);
        address == self.gateway || address == self.dns || forwards()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_spelt_as_with_qemu() {
        let rule = |text: &str| text.parse::<GuestForward>();
        let parsed = rule("tcp:10.0.2.100:1234-cmd:netcat 10.10.1.1 4321-x").unwrap();
        assert_eq!((parsed.server, parsed.port), (Some(Ipv4Addr::new(10, 0, 2, 100)), 1234));
        assert_eq!(parsed.target, Target::Command("netcat 10.10.1.1 4321-x".into()));
        assert_eq!(rule("::80-tcp:127.0.0.1:8080").unwrap().target.to_string(), "tcp:127.0.0.1:8080");
        assert_eq!(rule("::80-tcp:localhost:8080").unwrap().target.to_string(), "tcp:127.0.0.1:8080");
        assert_eq!(rule("::80-tcp:[::1]:8080").unwrap().target.to_string(), "tcp:[::1]:8080");
        assert_eq!(rule("::80-unix:/run/x:y").unwrap().target.to_string(), "unix:/run/x:y");
        let config = Config::default();
        assert_eq!(config.guest_forward_address(&rule("::80-cmd:cat").unwrap()).to_string(), "10.0.2.4:80");
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for (text, why) in [
            ("::80", "expected"),
            ("udp::80-cmd:cat", "expected"),
            ("10.0.2.4:80-cmd:cat", "expected"),
            (":a:80-cmd:cat", "'a' is not an IPv4 address"),
            ("::0-cmd:cat", "'0' is not a port"),
            ("::80-cmd:", "expected"),
            ("::80-unix:", "expected"),
            ("::80-stdio", "expected"),
            ("::80-chardev:c", "expected"),
            ("::80-tcp:example.org:80", "names are not looked up"),
            ("::80-tcp:127.0.0.1", "expected"),
        ] {
            let error = text.parse::<GuestForward>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
