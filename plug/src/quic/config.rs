//! What a cable is told: plain data, checked before anything is opened.
//!
//! ```text
//! quic://HOST:PORT?peer=FINGERPRINT&key=FILE&known=FILE&trust=first&mtu=BYTES&keepalive=SECONDS&idle=SECONDS
//! quic://?listen=ADDR:PORT&…
//! ```
//!
//! Neighbours: `crate::spec`, which has all kinds of links.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use link::datagram::JUMBO_MTU;
use link::{DEFAULT_MTU, Locator, LocatorError};

use super::{Fingerprint, Identity, QuicError};

/// Seconds that `keepalive` and `idle` may have.
const SECONDS: std::ops::RangeInclusive<u64> = 1..=3600;

/// One end of a cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicConfig {
    /// The object of every message.
    pub name: String,
    /// Which end.
    pub role: Role,
    /// Who this end is.
    pub key: Key,
    /// Who the far side has to be.
    pub peer: Peer,
    /// The MTU that the link states, in bytes: 68 to [`JUMBO_MTU`]. Frames longer than the path takes are cut and put together.
    pub mtu: u16,
    /// How often the end that connects says something if there is nothing to say.
    pub keepalive: Duration,
    /// After how much silence the connection is lost.
    pub idle: Duration,
    /// Whether the cable is one of two ways, so that it is worth no warning if it does not connect.
    pub is_detour: bool,
}

/// Which end of the cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It connects, and connects again, to `HOST:PORT`.
    Connect(String),
    /// It waits here; port 0 for any that is free ([`super::Quic::local_addr`] tells).
    Listen(SocketAddr),
}

/// Where this end's key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// In a file, made on first use; none for `quic.key` in the user's configuration.
    File(Option<PathBuf>),
    /// Here.
    Given(Identity),
}

/// Who the far side has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Who has this key.
    Pinned(Fingerprint),
    /// Whom a file knows under the name of this cable.
    Known {
        /// The file; none for `known_peers` in the user's configuration.
        path: Option<PathBuf>,
        /// Whether the first to come is written there if it knows nobody.
        first: bool,
    },
}

impl QuicConfig {
    /// A cable between two ends that have told each other their fingerprints by other means, as through ssh.
    #[must_use]
    pub fn new(name: String, role: Role, identity: Identity, peer: Fingerprint) -> Self {
        Self { key: Key::Given(identity), peer: Peer::Pinned(peer), ..Self::usual(name, role) }
    }

    /// Takes a locator apart.
    ///
    /// # Errors
    /// [`LocatorError`] names the option.
    pub fn parse(mut locator: Locator) -> Result<Self, LocatorError> {
        let name = locator.to_string();
        let options = &mut locator.options;
        let role = match options.take("listen")? {
            Some(listen) if locator.address.is_empty() => {
                let error = || options.bad_value("listen", &listen, &"expected ADDR:PORT, as in listen=0.0.0.0:4433");
                Role::Listen(parse_listen(&listen).ok_or_else(error)?)
            }
            Some(listen) => {
                let why = format!("'{}' is given already: a cable listens, or connects", locator.address);
                return Err(options.bad_value("listen", &listen, &why));
            }
            None => {
                let parts = locator.address.rsplit_once(':');
                let port = parts.filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
                if port.is_none_or(|port| port == 0) {
                    let why = "expected HOST:PORT, as in quic://host:4433, or quic://?listen=ADDR:PORT";
                    return Err(options.bad_value("address", &locator.address, &why));
                }
                Role::Connect(locator.address.clone())
            }
        };
        let mut config = Self::usual(name, role);
        config.key = Key::File(options.take("key")?.map(Into::into));
        let pinned = options.take_parsed::<Fingerprint>("peer")?;
        let path = options.take("known")?;
        let first = match options.take("trust")?.as_deref() {
            None => false,
            Some("first") => true,
            Some(other) => return Err(options.bad_value("trust", other, &"expected first")),
        };
        config.peer = match pinned {
            Some(peer) if path.is_some() || first => {
                let why = "the far side's key is given, so there is nothing to look up";
                return Err(options.bad_value("peer", &peer.to_string(), &why));
            }
            Some(peer) => Peer::Pinned(peer),
            None => Peer::Known { path: path.map(Into::into), first },
        };
        if let Some(mtu) = options.take_parsed::<u16>("mtu")? {
            if !(68..=JUMBO_MTU).contains(&mtu) {
                return Err(options.bad_value("mtu", &mtu.to_string(), &format!("expected 68 to {JUMBO_MTU} bytes")));
            }
            config.mtu = mtu;
        }
        for (key, place) in [("keepalive", &mut config.keepalive), ("idle", &mut config.idle)] {
            if let Some(seconds) = options.take_parsed::<u64>(key)? {
                if !SECONDS.contains(&seconds) {
                    return Err(options.bad_value(key, &seconds.to_string(), &"expected 1 to 3600 seconds"));
                }
                *place = Duration::from_secs(seconds);
            }
        }
        if config.keepalive >= config.idle {
            let seconds = config.keepalive.as_secs().to_string();
            let why = format!("the connection would be lost after {} s of silence (idle=)", config.idle.as_secs());
            return Err(options.bad_value("keepalive", &seconds, &why));
        }
        locator.options.finish()?;
        Ok(config)
    }

    fn usual(name: String, role: Role) -> Self {
        Self {
            name,
            role,
            key: Key::File(None),
            peer: Peer::Known { path: None, first: false },
            mtu: DEFAULT_MTU,
            keepalive: Duration::from_secs(5),
            idle: Duration::from_secs(15),
            is_detour: false,
        }
    }

    /// The name under which the far side is pinned.
    pub(super) fn pin_name(&self) -> String {
        match &self.role {
            Role::Connect(address) => address.clone(),
            Role::Listen(address) => format!("listen={address}"),
        }
    }
}

/// A file of the user's configuration (XDG Base Directory Specification).
///
/// # Errors
/// [`QuicError::NoHome`]: nothing says where that is.
pub(super) fn user_file(file: &'static str) -> Result<PathBuf, QuicError> {
    let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = var("XDG_CONFIG_HOME").or_else(|| var("HOME").map(|home| home.join(".config")));
    config.map(|config| config.join("etherloom").join(file)).ok_or(QuicError::NoHome(file))
}

fn parse_listen(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix(':') {
        Some(port) => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port.parse().ok()?)),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<QuicConfig, LocatorError> {
        QuicConfig::parse(text.parse()?)
    }

    #[test]
    fn a_locator_says_which_end_and_who() {
        let peer = Fingerprint::of_key(b"x");
        let text = format!("quic://host:4433?peer={peer}&key=/k&mtu=9000&keepalive=1&idle=4");
        let expected = QuicConfig {
            name: text.clone(),
            role: Role::Connect("host:4433".to_owned()),
            key: Key::File(Some("/k".into())),
            peer: Peer::Pinned(peer),
            mtu: 9000,
            keepalive: Duration::from_secs(1),
            idle: Duration::from_secs(4),
            is_detour: false,
        };
        assert_eq!(parse(&text), Ok(expected));
        let listener = parse("quic://?listen=:4433&known=/p&trust=first").unwrap();
        assert_eq!(listener.role, Role::Listen("0.0.0.0:4433".parse().unwrap()));
        assert_eq!(listener.peer, Peer::Known { path: Some("/p".into()), first: true });
        assert_eq!((listener.mtu, listener.keepalive.as_secs(), listener.idle.as_secs()), (1500, 5, 15));
        assert_eq!(listener.pin_name(), "listen=0.0.0.0:4433");
        assert_eq!(parse("quic://[::1]:5").unwrap().pin_name(), "[::1]:5");
    }

    #[test]
    fn what_it_does_not_take_is_named() {
        let refused = |text: &str, words: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        };
        refused("quic://", "quic: address=: expected HOST:PORT");
        refused("quic://host", "quic: address=host: expected HOST:PORT");
        refused("quic://:5", "quic: address=:5: expected HOST:PORT");
        refused("quic://host:0", "quic: address=host:0: expected HOST:PORT");
        refused("quic://?listen=here", "quic: listen=here: expected ADDR:PORT");
        refused("quic://host:5?listen=:5", "quic: listen=:5: 'host:5' is given already");
        refused("quic://host:5?peer=MD5:x", "quic: peer=MD5:x: expected SHA256: and 43 characters");
        refused("quic://host:5?trust=all", "quic: trust=all: expected first");
        refused(&format!("quic://h:5?trust=first&peer={}", Fingerprint::of_key(b"")), "nothing to look up");
        refused("quic://host:5?mtu=9217", "quic: mtu=9217: expected 68 to 9216 bytes");
        refused("quic://host:5?idle=0", "quic: idle=0: expected 1 to 3600 seconds");
        refused("quic://host:5?keepalive=15", "quic: keepalive=15: the connection would be lost after 15 s");
        refused("quic://host:5?colour=red", "quic: unknown option 'colour'");
    }
}
